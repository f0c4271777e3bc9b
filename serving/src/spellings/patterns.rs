//! Patterns of dates and times as PostgreSQL writes them (`YYYY-MM-DD HH24:MI:SS.US`), as those of
//! the engine (`%Y-%m-%d %H:%M:%S.%6f`, of the crate chrono), which are taken as well.

use anabranch_shared::{Error, Result};
use datafusion::sql::sqlparser::ast::{Expr, Value};

use crate::parameters::call;

/// PostgreSQL's words, the longer of those that begin alike first, with the engine's.
const WORDS: [(&str, &str); 28] = [
    ("YYYY", "%Y"),
    ("YY", "%y"),
    ("IYYY", "%G"),
    ("MONTH", "%B"),
    ("MON", "%b"),
    ("MM", "%m"),
    ("MI", "%M"),
    ("MS", "%3f"),
    ("DDD", "%j"),
    ("DD", "%d"),
    ("DAY", "%A"),
    ("DY", "%a"),
    ("ID", "%u"),
    ("IW", "%V"),
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("HH", "%I"),
    ("SS", "%S"),
    ("US", "%6f"),
    ("FF3", "%3f"),
    ("FF6", "%6f"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("A.M.", "%p"),
    ("P.M.", "%p"),
    ("Q", "%q"),
    ("TZ", "%Z"),
    ("OF", "%:z"),
];

/// A part of a pattern.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// Of the engine's words and plain text.
    Plain(String),
    /// A name of a month or a day, how its letters are, and whether it is filled up to nine of them.
    Name(&'static str, Letters, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Letters {
    Large,
    Small,
    First,
}

fn letters(word: &str) -> Letters {
    let mut chars = word.chars();
    match (
        chars.next().is_some_and(char::is_uppercase),
        chars.next().is_some_and(char::is_uppercase),
    ) {
        (true, true) => Letters::Large,
        (true, false) => Letters::First,
        _ => Letters::Small,
    }
}

/// The parts of a pattern. One with `%` in it is the engine's own.
fn parts(pattern: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = pattern;
    while let Some(next) = rest.chars().next() {
        if next == '"' {
            let (text, after) = rest[1..].split_once('"').unwrap_or((&rest[1..], ""));
            plain.push_str(&text.replace('%', "%%"));
            rest = after;
            continue;
        }
        if !next.is_ascii_alphabetic() {
            plain.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        }
        let begins = |text: &str, word: &str| {
            text.get(..word.len())
                .is_some_and(|found| found.eq_ignore_ascii_case(word))
        };
        let is_filled = !begins(rest, "FM");
        rest = if is_filled { rest } else { &rest[2..] };
        let found = WORDS.iter().find(|(word, _)| begins(rest, word));
        let Some((word, engine)) = found else {
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric())
                .unwrap_or(rest.len());
            return Err(Error::Invalid(format!(
                "the pattern `{pattern}` of a date or time has `{}`, which is not known; known are YYYY, MM, DD, HH24, MI, SS, US and the like, and patterns such as `%Y-%m-%d`; text stands in `\"`",
                &rest[..end]
            )));
        };
        let letters = letters(rest);
        match (*engine, is_filled) {
            ("%B" | "%A", _) if is_filled || letters != Letters::First => {
                if !plain.is_empty() {
                    parts.push(Part::Plain(std::mem::take(&mut plain)));
                }
                parts.push(Part::Name(engine, letters, is_filled));
            }
            ("%p", _) if letters == Letters::Small => plain.push_str("%P"),
            ("%d", false) => plain.push_str("%-d"),
            ("%m", false) => plain.push_str("%-m"),
            ("%H", false) => plain.push_str("%-H"),
            ("%I", false) => plain.push_str("%-I"),
            (engine, _) => plain.push_str(engine),
        }
        rest = &rest[word.len()..];
    }
    if !plain.is_empty() {
        parts.push(Part::Plain(plain));
    }
    Ok(parts)
}

fn quoted(text: &str) -> Expr {
    Expr::value(Value::SingleQuotedString(text.to_owned()))
}

/// Whether a pattern is one of numbers.
fn is_of_numbers(pattern: &str) -> bool {
    pattern.contains(['9', '0'])
        && !pattern
            .chars()
            .any(|c| matches!(c, 'Y' | 'H' | 'M' | 'y' | 'h' | 'm'))
}

/// `to_char(value, pattern)`; `None` where it is the engine's own already.
pub(super) fn shown(value: &Expr, pattern: &str) -> Result<Option<Expr>> {
    if pattern.contains('%') || is_of_numbers(pattern) {
        return Ok(None);
    }
    let shown = |part| match part {
        Part::Plain(pattern) => call("to_char", vec![value.clone(), quoted(&pattern)]),
        Part::Name(pattern, letters, is_filled) => {
            let name = call("to_char", vec![value.clone(), quoted(pattern)]);
            let name = match letters {
                Letters::Large => call("upper", vec![name]),
                Letters::Small => call("lower", vec![name]),
                Letters::First => name,
            };
            let nine = Expr::value(Value::Number("9".to_owned(), false));
            match is_filled {
                true => call("rpad", vec![name, nine]),
                false => name,
            }
        }
    };
    let mut parts: Vec<Expr> = parts(pattern)?.into_iter().map(shown).collect();
    Ok(match parts.len() {
        0 => None,
        1 => parts.pop(),
        // NULL where the value is, which a concatenation would leave out.
        _ => parts.into_iter().reduce(|left, right| Expr::BinaryOp {
            left: Box::new(left),
            op: datafusion::sql::sqlparser::ast::BinaryOperator::StringConcat,
            right: Box::new(right),
        }),
    })
}

/// `to_timestamp(text, pattern)` and `to_date(text, pattern)`; `None` where they are the engine's own
/// already.
pub(super) fn read(function: &str, text: &Expr, pattern: &str) -> Result<Option<Expr>> {
    if pattern.contains('%') {
        return Ok(None);
    }
    let plain = parts(pattern)?.into_iter().map(|part| match part {
        Part::Plain(pattern) => pattern,
        Part::Name(pattern, ..) => pattern.to_owned(),
    });
    let plain: String = plain.collect();
    Ok(Some(call(function, vec![text.clone(), quoted(&plain)])))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn of(pattern: &str) -> String {
        let value = Expr::Identifier("x".into());
        shown(&value, pattern)
            .unwrap()
            .map(|e| e.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn patterns_are_translated() {
        assert_eq!(
            of("YYYY-MM-DD HH24:MI:SS.MS"),
            "to_char(x, '%Y-%m-%d %H:%M:%S.%3f')"
        );
        assert_eq!(of("yyyy\"T\"hh12 am"), "to_char(x, '%YT%I %P')");
        assert_eq!(of("IYYY-\"W\"IW, FMDD"), "to_char(x, '%G-W%V, %-d')");
        assert_eq!(of("Month"), "rpad(to_char(x, '%B'), 9)");
        assert_eq!(
            of("DAY, DD"),
            "rpad(upper(to_char(x, '%A')), 9) || to_char(x, ', %d')"
        );
        assert_eq!(of("FMDAY"), "upper(to_char(x, '%A'))");
        assert_eq!(of("%Y"), "");
        assert_eq!(of("9,999.99"), "");
    }
}
