//! URLs that name no one file, or a server that is not asked, are refused.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn urls_that_name_no_one_file_are_refused() {
    let refused = |text: &str| {
        let url = Url::parse(text).unwrap();
        check(&url, &shown(&url)).unwrap_err().to_string()
    };
    assert!(refused("gs://bucket/f.csv").contains("`s3://`"));
    assert!(refused("s3://bucket/2026-*.ndjson").contains("globs"));
    assert!(refused("https://host/f.csv?token=1").contains("curl"));
    assert!(refused("https://host/").contains("names no file"));
    let url = Url::parse("https://me:secret@host/f.csv").unwrap();
    assert_eq!(shown(&url), "https://host/f.csv");
    let unread = shown_unread("http://me:sec/ret@host:port/f.csv");
    assert_eq!(unread, "http://…@host:port/f.csv");
    assert!(is_url("s3://b/f") && !is_url("a/b://c") && !is_url("f.csv"));
}
