//! Scripts against a session made for the test.

use std::io::{self, Write};

use anabranch_shared::ErrorKind;

use super::super::{ScriptOutcome, ShellOptions, run_script};
use super::Canned;
use crate::output::{Format, Layout, Style};

async fn script(session: &Canned, text: &str) -> (ScriptOutcome, String, String) {
    let options = ShellOptions {
        format: Format::Csv,
        ..ShellOptions::default()
    };
    script_with(session, text, options).await
}

async fn script_with(
    session: &Canned,
    text: &str,
    options: ShellOptions,
) -> (ScriptOutcome, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
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
name          kind   columns
pageviews     topic        3
post_minutes  view         3
system.jobs   table        1
view post_minutes over pageviews
column      type       null      made by  value  combine
minute      timestamp            key
url         varchar              key
page_views  bigint     not null  count    exact  yes
";
    assert_eq!(out, expected);
    assert_eq!(err, "timing is on\ntiming is off\n");
    let (outcome, _, err) = script(&session, "\\d nothing").await;
    let kind = ErrorKind::NotFound;
    assert!(matches!(outcome, ScriptOutcome::Failed { line: 1, kind: k, .. } if k == kind));
    assert_eq!(
        err,
        "error: line 1: there is no relation `nothing` (`\\d` lists them)\n"
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

#[tokio::test]
async fn a_statement_is_run_again_by_what_comes_behind_it() {
    let session = Canned::default();
    let (outcome, out, _) = script(&session, "1;\n\\g\n2 \\g\n3 \\watch 0 c=2\n4").await;
    assert_eq!(outcome, ScriptOutcome::Finished { statements: 6 });
    assert_eq!(out, "n\n1\nn\n1\nn\n2\nn\n3\nn\n3\nn\n4\n");
    assert_eq!(
        *session.asked.lock().unwrap(),
        ["1", "1", "2", "3", "3", "4"]
    );
    let (_, _, err) = script(&Canned::default(), "\\g").await;
    assert!(err.contains("there is none yet"), "{err}");
    let (outcome, _, err) = script(&Canned::default(), "1\n\\timing on\n;").await;
    assert!(matches!(outcome, ScriptOutcome::Failed { line: 1, .. }));
    assert_eq!(
        err,
        "error: line 1: the statement before `\\timing on` has no `;`\n"
    );
    let options = ShellOptions::default();
    let (_, out, _) = script_with(&Canned::default(), "1 \\gx\n2;", options).await;
    assert!(out.starts_with("─[ row 1 ]\nn │ 1\n(1 row)\n┌"), "{out}");
}

#[tokio::test]
async fn answers_go_to_a_file_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    let text = format!("1;\n\\o '{0}'\n2;\n\\o\n3;\n\\o {0}2\n4;", path.display());
    let session = Canned::default();
    let (_, out, err) = script(&session, &text).await;
    assert_eq!(out, "n\n1\nn\n3\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "n\n2\n");
    // It is whole at the end, too.
    let second = format!("{}2", path.display());
    assert_eq!(std::fs::read_to_string(second).unwrap(), "n\n4\n");
    assert!(
        err.contains(&format!("1 row to `{}`", path.display())),
        "{err}"
    );
    let nowhere = format!("\\o {}/no/where", folder.path().display());
    let (outcome, _, err) = script(&session, &nowhere).await;
    let kind = ErrorKind::NotFound;
    assert!(
        matches!(outcome, ScriptOutcome::Failed { kind: k, .. } if k == kind),
        "{err}"
    );
}

#[tokio::test]
async fn what_stands_beside_an_answer_can_be_left_out() {
    let with = |text: &'static str, quiet| async move {
        let options = ShellOptions {
            format: Format::Csv,
            quiet,
            ..ShellOptions::default()
        };
        script_with(&Canned::default(), text, options).await.2
    };
    assert_eq!(
        with("7;", false).await,
        "1 row · fresh to now\nnote: lucky\n"
    );
    assert_eq!(with("7;", true).await, "note: lucky\n");
    assert_eq!(
        with("\\pset footer off\n7;", false).await,
        "footer is off\nnote: lucky\n"
    );
    let text = "\\pset rows 7\n\\x auto\n\\pset";
    let (_, out, _) = script(&Canned::default(), text).await;
    let expected = "\
expanded     auto
footer       on
format       csv
pager        off
rows         7
timing       off
tuples_only  off
";
    assert_eq!(out, expected);
}

#[tokio::test]
async fn a_terminal_shows_so_many_rows_and_a_pipe_all() {
    let with = |terminal, rows| async move {
        let options = ShellOptions {
            layout: Layout {
                aligned: false,
                ..Layout::default()
            },
            rows,
            style: Style {
                terminal,
                ..Style::plain()
            },
            ..ShellOptions::default()
        };
        let (_, out, err) = script_with(&Canned::default(), "rows;", options).await;
        (out.lines().count() - 2, err)
    };
    let (rows, err) = with(true, 4).await;
    assert_eq!(rows, 4);
    assert!(
        err.contains("note: the first 4 of 6 rows are shown; in a file or a pipe there are all\n"),
        "{err}"
    );
    for (terminal, rows) in [(true, 0), (true, 6), (false, 4)] {
        let (shown, err) = with(terminal, rows).await;
        assert_eq!(shown, 6, "{terminal} {rows}");
        assert!(!err.contains("are shown"), "{err}");
    }
}

#[tokio::test]
async fn answers_are_drawn_and_explained() {
    let session = Canned::default();
    let text = "8 \\plot\n\\plot\n3 \\explain analyze";
    let (outcome, out, err) = script(&session, text).await;
    assert!(
        matches!(outcome, ScriptOutcome::Failed { .. }),
        "{outcome:?}"
    );
    let asked = session.asked.lock().unwrap().clone();
    assert_eq!(asked, ["8", "8", "EXPLAIN ANALYZE 3"], "{out}{err}");
    assert!(out.starts_with("n\n1 8 █"), "{out}");
    let (_, _, err) = script(&session, "\\plot").await;
    assert!(err.contains("there is none yet"), "{err}");
}
