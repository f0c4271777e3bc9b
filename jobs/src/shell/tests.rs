//! Splitting, commands, completion, and scripts against a session made for the test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use anabranch_shared::{Error, ErrorKind};
use std::sync::Mutex;

use arrow::array::Int64Array;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::command::{Command, CommandError, Switch, help, parse, parse_word};
use super::complete::candidates;
use super::lex::{Lexer, is_complete};
use super::*;

fn sqls(text: &str) -> Vec<(usize, &str)> {
    split_statements(text)
        .into_iter()
        .map(|statement| (statement.line, statement.sql))
        .collect()
}

#[test]
fn statements_end_outside_quotes_and_comments() {
    let cases: [(&str, &[(usize, &str)]); 18] = [
        ("", &[]),
        (" ;; -- only ;\n /* ; */ ", &[]),
        ("select 1", &[(1, "select 1")]),
        ("select 1; select 2;", &[(1, "select 1"), (1, "select 2")]),
        (
            "\n\nselect 1\n;\n -- next\nselect\n2 ;",
            &[(3, "select 1"), (6, "select\n2")],
        ),
        (
            "select ';' ; select 'it''s;'",
            &[(1, "select ';'"), (1, "select 'it''s;'")],
        ),
        (r"select E'\';' ; x", &[(1, r"select E'\';'"), (1, "x")]),
        (r"select 'a\' ; x", &[(1, r"select 'a\'"), (1, "x")]),
        (
            r#"select "a;""b" ; x"#,
            &[(1, r#"select "a;""b""#), (1, "x")],
        ),
        ("select `a;b` ; x", &[(1, "select `a;b`"), (1, "x")]),
        ("select 1 -- a; b\n; x", &[(1, "select 1"), (2, "x")]),
        (
            "select 1 /* a; /* b; */ c; */ ; x",
            &[(1, "select 1"), (1, "x")],
        ),
        ("select $$ ; $$ ; x", &[(1, "select $$ ; $$"), (1, "x")]),
        (
            "select $a$ ; $$ ; $b$ ; $a$ ; x",
            &[(1, "select $a$ ; $$ ; $b$ ; $a$"), (1, "x")],
        ),
        (
            "select $1 ; select $2",
            &[(1, "select $1"), (1, "select $2")],
        ),
        ("select a$b$ ; x$b$", &[(1, "select a$b$"), (1, "x$b$")]),
        ("select 'open ; x", &[(1, "select 'open ; x")]),
        (
            "\\i it's.sql\nselect 1;\\d x\n\\q",
            &[
                (1, "\\i it's.sql"),
                (2, "select 1"),
                (2, "\\d x"),
                (3, "\\q"),
            ],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(sqls(text), expected, "{text}");
    }
}

/// Random scripts of the parts that matter. The raw texts must join to the script, tokens must cover
/// it, and statements joined by `;` must split into themselves.
#[test]
fn splitting_and_joining_gives_the_text_back() {
    const PARTS: [&str; 32] = [
        "select",
        " ",
        "\n",
        ";",
        "'",
        "''",
        "\"",
        "`",
        "--",
        "/*",
        "*/",
        "$",
        "$$",
        "$t$",
        "$1",
        "E'",
        "\\'",
        "\\",
        "\\d x",
        "日",
        "🎉",
        "a1",
        "-",
        "/",
        "*",
        "\t",
        "x;",
        "select 1;",
        "\n;",
        "'a;';",
        "$$;$$;",
        "y -- z\n;",
    ];
    let seed = rand::rng().random();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut split_ones = 0;
    for _ in 0..20_000 {
        let length = random.random_range(0..24);
        let text: String = (0..length)
            .map(|_| *PARTS.choose(&mut random).unwrap())
            .collect();
        let statements = split_statements(&text);
        let joined: String = statements.iter().map(|statement| statement.raw).collect();
        if statements.is_empty() {
            assert_eq!(joined, "", "seed {seed}: {text:?}");
        } else {
            assert_eq!(joined, text, "seed {seed}: {text:?}");
        }
        let mut end = 0;
        for token in Lexer::new(&text) {
            assert_eq!(token.start, end, "seed {seed}: {text:?}");
            assert!(token.end > token.start, "seed {seed}: {text:?}");
            end = token.end;
        }
        assert_eq!(end, text.len(), "seed {seed}: {text:?}");
        for statement in &statements {
            let start = statement.sql.as_ptr() as usize - text.as_ptr() as usize;
            assert_eq!(
                statement.line,
                text[..start].matches('\n').count() + 1,
                "seed {seed}: {text:?}"
            );
        }
        // A newline ends a line comment and a command, which a `;` would not.
        if is_complete(&text) {
            let sqls: Vec<&str> = statements.iter().map(|statement| statement.sql).collect();
            let again = sqls
                .iter()
                .map(|sql| format!("{sql}\n;"))
                .collect::<String>();
            let again: Vec<&str> = split_statements(&again)
                .iter()
                .map(|statement| statement.sql)
                .collect();
            assert_eq!(again, sqls, "seed {seed}: {text:?}");
            split_ones += usize::from(sqls.len() > 1);
        }
    }
    assert!(
        split_ones > 500,
        "seed {seed}: too few scripts of several statements: {split_ones}"
    );
}

#[test]
fn the_prompt_stays_open_until_the_statement_ends() {
    for whole in [
        "",
        "  ",
        "select 1;",
        "select 1; -- done",
        "-- note",
        "\\d",
        "\\i it's",
        "select 1; \\q",
        "select ';';",
    ] {
        assert!(is_complete(whole), "{whole}");
    }
    for open in [
        "select 1",
        "select ';",
        "select 1; select",
        "/* a",
        "select 1; /* a",
        "select $$;",
        "select 1 -- ;",
    ] {
        assert!(!is_complete(open), "{open}");
    }
}

#[test]
fn commands_parse() {
    let cases = [
        ("\\d", Command::Relations),
        (" \\d;", Command::Relations),
        ("\\d post_minutes", Command::Relation("post_minutes".into())),
        ("\\d \"My View\"", Command::Relation("My View".into())),
        ("\\timing", Command::Timing(Switch::Toggle)),
        ("\\timing on", Command::Timing(Switch::On)),
        ("\\timing off", Command::Timing(Switch::Off)),
        ("\\format", Command::ShowFormat),
        ("\\format NDJSON", Command::SetFormat(Format::Ndjson)),
        ("\\i 'a b.sql'", Command::Include("a b.sql".into())),
        ("\\?", Command::Help),
        ("\\h", Command::Help),
        ("\\q", Command::Quit),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text), Ok(expected), "{text}");
    }
    assert_eq!(parse("\\i"), Err(CommandError::NoFile));
    assert_eq!(
        parse("\\q now"),
        Err(CommandError::Surplus {
            name: "\\q".into(),
            argument: "now".into()
        })
    );
    let messages =
        ["\\x", "\\format xml", "\\timing maybe"].map(|text| parse(text).unwrap_err().to_string());
    assert_eq!(
        messages,
        [
            "unknown command `\\x`: use `\\d`, `\\format`, `\\timing`, `\\i`, `\\?` or `\\q`",
            "unknown format `xml`: use `table`, `csv`, `json` or `ndjson`",
            "`\\timing` takes `on`, `off` or nothing, not `maybe`",
        ]
    );
    assert_eq!(parse_word(" EXIT; "), Some(Command::Quit));
    assert_eq!(parse_word("exit code"), None);
    assert!(
        help().contains("\\format table|csv|json|ndjson  how answers are written\n"),
        "{}",
        help()
    );
}

fn relations() -> Vec<RelationInfo> {
    let relation = |name: &str, kind: &str, columns: &[(&str, &str, bool)]| RelationInfo {
        name: name.to_owned(),
        kind: kind.to_owned(),
        columns: columns
            .iter()
            .map(|(name, kind, null)| ((*name).to_owned(), (*kind).to_owned(), *null))
            .collect(),
    };
    vec![
        relation(
            "pageviews",
            "topic",
            &[
                ("ts", "timestamp", false),
                ("url", "varchar", false),
                ("Author", "varchar", true),
            ],
        ),
        relation(
            "post_minutes",
            "view",
            &[
                ("minute", "timestamp", true),
                ("url", "varchar", true),
                ("page_views", "bigint", false),
            ],
        ),
        relation("system.jobs", "system", &[("order", "bigint", true)]),
    ]
}

/// The candidates at `|`, and the text that they replace.
fn tab(line: &str) -> (String, Vec<String>) {
    let pos = line.find('|').unwrap();
    let line = line.replacen('|', "", 1);
    let (start, texts) = candidates(&relations(), &line, pos);
    (line[start..pos].to_owned(), texts)
}

#[test]
fn tab_offers_what_fits() {
    let cases: [(&str, &str, &[&str]); 25] = [
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
            &["\\d", "\\format", "\\timing", "\\i", "\\?", "\\q"],
        ),
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

/// Answers `N` with one row holding it; fails on `bad`.
#[derive(Default)]
struct Canned {
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Session for Canned {
    async fn query(&self, sql: &str) -> anabranch_shared::Result<Answer> {
        self.asked.lock().unwrap().push(sql.to_owned());
        if sql == "set" {
            let schema = Arc::new(Schema::empty());
            return Ok(Answer {
                schema,
                batches: vec![],
                freshness: String::new(),
                notes: vec![],
            });
        }
        let bad = |_| Error::Conflict(format!("`{sql}` is no number"));
        let number: i64 = sql.parse().map_err(bad)?;
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let batch = RecordBatch::try_new(
            schema.clone(),
            vec![Arc::new(Int64Array::from(vec![number]))],
        )
        .unwrap();
        let notes = if number == 7 {
            vec!["lucky".to_owned()]
        } else {
            vec![]
        };
        Ok(Answer {
            schema,
            batches: vec![batch],
            freshness: "fresh to now".to_owned(),
            notes,
        })
    }

    async fn relations(&self) -> anabranch_shared::Result<Vec<RelationInfo>> {
        Ok(relations())
    }
}

async fn script(session: &Canned, text: &str) -> (ScriptOutcome, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let options = ShellOptions {
        format: Format::Csv,
        ..ShellOptions::default()
    };
    let outcome = run_script(session, text, &mut out, &mut err, options)
        .await
        .unwrap();
    (
        outcome,
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

#[tokio::test]
async fn a_script_stops_at_the_first_error() {
    let session = Canned::default();
    let (outcome, out, err) = script(&session, "1;\nset;\n\\format ndjson\n7;\n\n bad ; 3;").await;
    assert_eq!(
        outcome,
        ScriptOutcome::Failed {
            statements: 3,
            line: 6,
            message: "`bad` is no number".to_owned(),
            kind: ErrorKind::Conflict,
        }
    );
    assert_eq!(out, "n\n1\n{\"n\":7}\n");
    assert_eq!(
        err,
        "1 row · fresh to now\ndone\n1 row · fresh to now\nnote: lucky\nerror: line 6: `bad` is no number\n"
    );
    assert_eq!(*session.asked.lock().unwrap(), ["1", "set", "7", "bad"]);
}

#[tokio::test]
async fn commands_work_in_scripts() {
    let session = Canned::default();
    let (outcome, out, err) = script(
        &session,
        "\\d\n\\d POST_minutes\n\\timing on\n\\timing\n\\q\n1;",
    )
    .await;
    assert_eq!(outcome, ScriptOutcome::Finished { statements: 0 });
    let expected = "\
name          kind    columns
pageviews     topic         3
post_minutes  view          3
system.jobs   system        1
post_minutes (view)
column      type
minute      timestamp
url         varchar
page_views  bigint     not null
";
    assert_eq!(out, expected);
    assert_eq!(err, "timing is on\ntiming is off\n");
    let (outcome, _, err) = script(&session, "\\d nothing").await;
    let kind = ErrorKind::NotFound;
    assert!(matches!(outcome, ScriptOutcome::Failed { line: 1, kind: k, .. } if k == kind));
    assert_eq!(
        err,
        "error: line 1: there is no relation `nothing`: `\\d` lists them\n"
    );
    // `exit` is a word for people; in a script it is SQL, and wrong.
    assert!(matches!(
        script(&session, "exit;").await.0,
        ScriptOutcome::Failed { .. }
    ));
}

#[tokio::test]
async fn files_are_included_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("in ner.sql"), "2;\n3").unwrap();
    std::fs::write(
        path("outer.sql"),
        format!("1;\n\\i '{}'\n4;\nbad;", path("in ner.sql").display()),
    )
    .unwrap();
    std::fs::write(
        path("self.sql"),
        format!("\\i {}", path("self.sql").display()),
    )
    .unwrap();
    let session = Canned::default();
    let (outcome, _, err) = script(
        &session,
        &format!("\\i {}\n5;", path("outer.sql").display()),
    )
    .await;
    assert!(
        matches!(
            outcome,
            ScriptOutcome::Failed {
                statements: 4,
                line: 4,
                ..
            }
        ),
        "{outcome:?}"
    );
    assert!(
        err.contains(&format!(
            "error: `{}` line 4: `bad` is no number",
            path("outer.sql").display()
        )),
        "{err}"
    );
    assert_eq!(*session.asked.lock().unwrap(), ["1", "2", "3", "4", "bad"]);
    let (outcome, _, err) = script(&session, &format!("\\i {}", path("self.sql").display())).await;
    assert!(matches!(outcome, ScriptOutcome::Failed { .. }));
    assert!(err.contains("does a file include itself?"), "{err}");
    let (_, _, err) = script(&session, "\\i /no/such.sql").await;
    assert!(
        err.starts_with("error: line 1: can't read `/no/such.sql`: "),
        "{err}"
    );
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_script_quietly() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let session = Canned::default();
    let outcome = run_script(
        &session,
        "1; 2;",
        &mut Closed,
        &mut Vec::new(),
        ShellOptions::default(),
    )
    .await
    .unwrap();
    assert_eq!(outcome, ScriptOutcome::OutputClosed);
    assert_eq!(*session.asked.lock().unwrap(), ["1"]);
}
