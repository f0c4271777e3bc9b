//! Types and constants as SQL writes them, in texts where the engine writes its own names.

/// The names of types that stand alone.
const TYPES: [(&str, &str); 22] = [
    ("Utf8View", "varchar"),
    ("LargeUtf8", "varchar"),
    ("Utf8", "varchar"),
    ("Int8", "tinyint"),
    ("Int16", "smallint"),
    ("Int32", "int"),
    ("Int64", "bigint"),
    ("UInt8", "tinyint unsigned"),
    ("UInt16", "smallint unsigned"),
    ("UInt32", "int unsigned"),
    ("UInt64", "bigint unsigned"),
    ("Float16", "real"),
    ("Float32", "real"),
    ("Float64", "double"),
    ("Boolean", "boolean"),
    ("Date32", "date"),
    ("Date64", "date"),
    ("BinaryView", "binary"),
    ("LargeBinary", "binary"),
    ("Binary", "binary"),
    ("FixedSizeBinary", "binary"),
    ("Null", "NULL"),
];

/// Those of them whose constants are texts.
const TEXTS: [&str; 3] = ["Utf8View", "LargeUtf8", "Utf8"];

/// A text of the engine with types and constants as SQL writes them.
pub(super) fn in_sql(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        if length > 0 {
            let (word, after) = rest.split_at(length);
            let (shown, taken) = shown(word, after);
            written.push_str(&shown);
            rest = &after[taken..];
            continue;
        }
        let quoted = match c {
            '\'' => rest[1..].find('\'').map(|end| end + 2),
            _ => None,
        };
        let taken = quoted.unwrap_or_else(|| c.len_utf8());
        written.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    written
}

/// How a word is shown, and how many bytes of what comes after it belong to it.
fn shown(word: &str, after: &str) -> (String, usize) {
    let inner = in_parentheses(after);
    let taken = inner.map_or(0, |inner| inner.len() + 2);
    if let Some((_, name)) = TYPES.iter().find(|(own, _)| *own == word) {
        return match inner {
            // A constant, as `Int64(1)` and `Utf8("x")`.
            Some(inner) if TEXTS.contains(&word) => {
                (format!("'{}'", inner.trim_matches('"')), taken)
            }
            Some(inner) => (inner.to_owned(), taken),
            None => ((*name).to_owned(), 0),
        };
    }
    match (word, inner) {
        ("Timestamp", Some(_)) => ("timestamp".to_owned(), taken),
        ("Time32" | "Time64", Some(_)) => ("time".to_owned(), taken),
        ("Interval" | "Duration", Some(_)) => ("interval".to_owned(), taken),
        ("Decimal32" | "Decimal64" | "Decimal128" | "Decimal256", Some(inner)) => {
            (format!("decimal({})", inner.replace(' ', "")), taken)
        }
        ("List" | "LargeList" | "ListView", Some(inner)) => (format!("{}[]", in_sql(inner)), taken),
        (word, _) => (word.to_owned(), 0),
    }
}

/// What stands in the parentheses that a text begins with.
fn in_parentheses(text: &str) -> Option<&str> {
    let mut depth = 0_usize;
    let mut in_text = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if depth > 0 => in_text = !in_text,
            '(' if !in_text => depth += 1,
            ')' if !in_text => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(&text[1..at]);
                }
            }
            _ if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_constants_are_those_of_sql() {
        for (text, expected) in [
            ("a.x + Int64(1)", "a.x + 1"),
            ("Utf8View || Utf8(\"a) b\")", "varchar || 'a) b'"),
            ("Timestamp(µs, \"+00:00\") > Boolean", "timestamp > boolean"),
            ("Decimal128(38, 10)", "decimal(38,10)"),
            (
                "List(Int64) and List(nonnull Utf8)",
                "bigint[] and nonnull varchar[]",
            ),
            ("the string 'Int64' stays", "the string 'Int64' stays"),
            ("don't", "don't"),
            ("Int64_of_mine, xInt64", "Int64_of_mine, xInt64"),
            ("Interval(MonthDayNano)", "interval"),
            ("", ""),
        ] {
            assert_eq!(in_sql(text), expected);
        }
    }
}
