//! Lists as PostgreSQL writes them: `{a,"b c",NULL}`.

/// The items of a list without lists in it; `None` where the text is no such list.
pub(crate) fn items(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut items = Vec::new();
    if inner.trim().is_empty() {
        return Some(items);
    }
    let mut chars = inner.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut item = String::new();
        let is_quoted = chars.next_if_eq(&'"').is_some();
        loop {
            match chars.peek() {
                Some('"') if is_quoted => {
                    chars.next();
                    while chars.next_if(|c| c.is_whitespace()).is_some() {}
                    break;
                }
                Some(',') | None if !is_quoted => break,
                Some('{' | '}' | '"') if !is_quoted => return None,
                Some('\\') => {
                    chars.next();
                    item.push(chars.next()?);
                }
                Some(_) => item.extend(chars.next()),
                None => return None,
            }
        }
        items.push(match is_quoted {
            true => Some(item),
            false => match item.trim() {
                "" => return None,
                null if null.eq_ignore_ascii_case("null") => None,
                bare => Some(bare.to_owned()),
            },
        });
        match chars.next() {
            Some(',') => {}
            None => return Some(items),
            Some(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let some = |items: &[&str]| Some(items.iter().map(|i| Some((*i).to_owned())).collect());
        assert_eq!(items("{}"), Some(vec![]));
        assert_eq!(items(" { } "), Some(vec![]));
        assert_eq!(items("{1, 2 ,3}"), some(&["1", "2", "3"]));
        assert_eq!(
            items(r#"{"a,b","","x\"y\\"}"#),
            some(&["a,b", "", "x\"y\\"])
        );
        assert_eq!(items("{é,ü}"), some(&["é", "ü"]));
        assert_eq!(
            items(r#"{NULL,"NULL"}"#),
            Some(vec![None, Some("NULL".to_owned())])
        );
        for wrong in [
            "",
            "a",
            "{a",
            "{a,}",
            "{,}",
            r#"{"a}"#,
            r#"{"a"b}"#,
            "{{1},{2}}",
            "{a\\",
        ] {
            assert_eq!(items(wrong), None, "{wrong}");
        }
    }
}
