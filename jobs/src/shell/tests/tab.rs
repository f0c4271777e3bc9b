//! What Tab offers.

use super::super::complete::candidates;
use super::relations;

/// The candidates at `|`, and the text that they replace.
fn tab(line: &str) -> (String, Vec<String>) {
    let pos = line.find('|').unwrap();
    let line = line.replacen('|', "", 1);
    let (start, texts) = candidates(&relations(), &line, pos);
    (line[start..pos].to_owned(), texts)
}

#[test]
fn tab_offers_what_fits() {
    let cases: [(&str, &str, &[&str]); 31] = [
        ("sel|", "sel", &["select"]),
        ("SEL|", "SEL", &["SELECT"]),
        (
            "|",
            "",
            &["DESCRIBE", "EXPLAIN", "SELECT", "SET", "SHOW", "WITH"],
        ),
        ("select 1; sel|", "sel", &["select"]),
        (
            "select * from |",
            "",
            &["pageviews", "post_minutes", "system.jobs"],
        ),
        ("select * from P|", "P", &["pageviews", "post_minutes"]),
        ("select * from pageviews p, po|", "po", &["post_minutes"]),
        ("select * from pageviews join po|", "po", &["post_minutes"]),
        ("select * from system.|", "", &["jobs"]),
        ("select ur| from pageviews", "ur", &["url"]),
        (
            "select * from pageviews where |",
            "",
            &["ts", "url", "\"Author\""],
        ),
        ("select * from pageviews where au|", "au", &["\"Author\""]),
        (
            "select p.| from pageviews p",
            "",
            &["ts", "url", "\"Author\""],
        ),
        (
            "select p.m| from pageviews as v join post_minutes as p",
            "m",
            &["minute"],
        ),
        (
            "select o| from system.jobs",
            "o",
            &["\"order\"", "offset", "on", "or", "order", "outer", "over"],
        ),
        ("select approx_d|", "approx_d", &["approx_distinct("]),
        ("select page|", "page", &["page_views", "pageviews"]),
        (
            "select url from pageviews; select min|",
            "min",
            &["minute", "min("],
        ),
        ("select 'sel|", "", &[]),
        ("select 1 -- sel|", "", &[]),
        ("select /* sel|", "", &[]),
        (
            "\\|",
            "\\",
            &[
                "\\d",
                "\\dt",
                "\\dv",
                "\\d+",
                "\\df",
                "\\freshness",
                "\\x",
                "\\format",
                "\\t",
                "\\a",
                "\\timing",
                "\\pset",
                "\\o",
                "\\e",
                "\\g",
                "\\watch",
                "\\plot",
                "\\explain",
                "\\p",
                "\\r",
                "\\i",
                "\\!",
                "\\?",
                "\\q",
                "\\gx",
            ],
        ),
        ("\\ti|", "\\ti", &["\\timing"]),
        ("\\d+ p|", "p", &["pageviews", "post_minutes"]),
        ("\\dv p|", "p", &["post_minutes"]),
        ("\\x a|", "a", &["auto"]),
        ("\\pset p|", "p", &["pager"]),
        ("\\pset footer o|", "o", &["on", "off"]),
        ("\\d p|", "p", &["pageviews", "post_minutes"]),
        ("\\format nd|", "nd", &["ndjson"]),
        ("\\timing o|", "o", &["on", "off"]),
    ];
    for (line, typed, expected) in cases {
        let (replaced, texts) = tab(line);
        assert_eq!(
            (
                replaced.as_str(),
                texts.iter().map(String::as_str).collect::<Vec<_>>()
            ),
            (typed, expected.to_vec()),
            "{line}"
        );
    }
}

/// Any cursor in any line gives a position that can be replaced.
#[test]
fn tab_never_fails() {
    let line = "select \"日本\", é.x, 'ü' from pageviews é where $$🎉$$ = E'\\'' /* ß */; \\d 日";
    for pos in (0..=line.len()).filter(|pos| line.is_char_boundary(*pos)) {
        let (start, _) = candidates(&relations(), line, pos);
        assert!(start <= pos && line.is_char_boundary(start), "{pos}");
    }
}
