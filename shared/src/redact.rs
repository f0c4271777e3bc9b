//! What is left out of messages and logs: users and passwords in URLs.

use std::borrow::Cow;

/// What ends the part of a URL that names user, password and host.
const AFTER_HOST: [char; 10] = ['/', '?', '#', '`', '"', '\'', '<', '>', ')', '\\'];

/// A text without the users and passwords of the URLs in it: `http://…@host/path`.
pub fn without_passwords(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let is_end = |c: char| c.is_whitespace() || AFTER_HOST.contains(&c);
        let mut end = after.find(is_end).unwrap_or(after.len());
        // The scheme of a URL that follows at once is left to it.
        if after[..end].ends_with(':') && after[end..].starts_with("//") {
            end -= 1;
        }
        let (authority, behind) = after.split_at(end);
        out += before;
        out += "://";
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                out += "…@";
                out += host;
            }
            None => out += authority,
        }
        rest = behind;
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out += rest;
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_go_and_all_else_stays() {
        for (text, left) in [
            ("no URL, a@b", "no URL, a@b"),
            ("`http://h:1/a@b?c@d` fails", "`http://h:1/a@b?c@d` fails"),
            ("`http://u:p@h:1/a` fails", "`http://…@h:1/a` fails"),
            (
                "(s3://k:p@ss@b) and http://u@h",
                "(s3://…@b) and http://…@h",
            ),
            ("http://u:p@h", "http://…@h"),
            ("a://b://c:d@e", "a://b://…@e"),
            ("://", "://"),
        ] {
            assert_eq!(without_passwords(text), left);
        }
    }
}
