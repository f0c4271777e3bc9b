//! What a person types and pastes.

use rustyline::error::ReadlineError;

use super::super::lex::Unfinished;
use super::super::paste::{Pasted, Read, Shown, Watch, read};
use super::super::typed::{Turn, Typed, prompt};

/// What each line leads to.
fn turns(lines: &[&str]) -> Vec<Turn> {
    let mut typed = Typed::default();
    lines.iter().map(|line| typed.line(line)).collect()
}

fn runs(text: &str) -> Turn {
    Turn::Run(text.to_owned())
}

#[test]
fn a_statement_goes_on_until_it_ends() {
    assert_eq!(turns(&["select 1;"]), [runs("select 1;")]);
    assert_eq!(
        turns(&["", "  ", "-- note"]),
        [runs(""), runs("  "), runs("-- note")]
    );
    assert_eq!(turns(&["\\d", "exit"]), [runs("\\d"), runs("exit")]);
    assert_eq!(
        turns(&["select", "1", ";"]),
        [Turn::More, Turn::More, runs("select\n1\n;")]
    );
    // What has ended is run, what has not goes on.
    assert_eq!(
        turns(&["select 1; select", "2;"]),
        [runs("select 1;"), runs("select\n2;")]
    );
    assert_eq!(
        turns(&["select 1; select '", "';"]),
        [runs("select 1;"), runs("select '\n';")]
    );
}

#[test]
fn commands_amid_a_statement_are_not_swallowed() {
    let aside = |command: &str| Turn::Aside {
        command: command.to_owned(),
        note: "the statement `select 1` goes on: end it with `;`, or drop it with `\\r`".to_owned(),
    };
    let lines = ["select 1", "\\d", " \\timing on ", ";"];
    assert_eq!(
        turns(&lines),
        [
            Turn::More,
            aside("\\d"),
            aside("\\timing on"),
            runs("select 1\n;")
        ]
    );
    // Some are for the statement.
    assert_eq!(
        turns(&["select 1", "\\gx"]),
        [Turn::More, runs("select 1\n\\gx")]
    );
    assert_eq!(
        turns(&["select 1", "\\e"]),
        [Turn::More, runs("select 1\n\\e")]
    );
    assert_eq!(
        turns(&["select 1", "\\p"]),
        [Turn::More, Turn::Show("select 1\n".to_owned())]
    );
    assert_eq!(
        turns(&["select", " 1", "\\r", "select 2;"]),
        [
            Turn::More,
            Turn::More,
            Turn::Dropped("dropped the statement `select 1`".to_owned()),
            runs("select 2;")
        ]
    );
    assert_eq!(
        turns(&["\\r"]),
        [Turn::Dropped("nothing is being typed".to_owned())]
    );
}

#[test]
fn a_person_is_told_what_takes_a_command_in() {
    let warned = |lines: &[&str]| match turns(lines).pop() {
        Some(Turn::Warn(text)) => text,
        other => format!("{other:?}"),
    };
    assert_eq!(
        warned(&["select 'it", "\\d"]),
        "`\\d` was taken as part of the text that began with `'`: `'` closes it, `\\r` or Ctrl-C drops everything from `select 'it` on"
    );
    assert!(warned(&["select \"it", "\\d"]).contains("the name that began with"));
    assert!(warned(&["select $$it", "\\d"]).contains("`$…$` closes it"));
    assert!(warned(&["/* it", "\\d"]).contains("`*/` closes it"));
    assert!(warned(&["select 1", "quit"]).contains("`;` ends it, `\\q` leaves"));
    // There is always a way out.
    let out = turns(&["select 'it", "\\r", "select 1;"]);
    assert_eq!(
        out[1],
        Turn::Dropped("dropped the statement `select 'it`".to_owned())
    );
    assert_eq!(out[2], runs("select 1;"));
    // What only looks like one is text.
    assert_eq!(
        turns(&["select 'it", "is \\d", "';"]),
        [Turn::More, Turn::More, runs("select 'it\nis \\d\n';")]
    );
}

#[test]
fn the_prompt_says_what_is_waited_for() {
    let mut typed = Typed::default();
    let mut shown = |line: &str| {
        typed.line(line);
        prompt("a", typed.waits_for())
    };
    assert_eq!(shown("select count("), "a(> ");
    assert_eq!(shown("*)"), "a-> ");
    assert_eq!(shown(", 'x"), "a'> ");
    assert_eq!(shown("', \"y"), "a\"> ");
    assert_eq!(shown("\", $$z"), "a$> ");
    assert_eq!(shown("$$ /*"), "a*> ");
    assert_eq!(shown("*/;"), "a=> ");
    assert_eq!(prompt("a", Some(Unfinished::Statement)), "a-> ");
}

/// What a terminal shows below what it shows already.
fn shown(text: &str, shown: Shown, before: &str) -> String {
    let text = text.to_owned();
    Pasted { text, shown }.to_show("a", before)
}

#[test]
fn what_is_pasted_is_shown_as_if_it_had_been_typed() {
    let at = Shown::UpTo;
    assert_eq!(shown("select 1;\n", at(0), ""), "select 1;\n");
    assert_eq!(
        shown("select\n(1\n);\n\\d\n\n", at(0), ""),
        "select\na-> (1\na(> );\na=> \\d\n"
    );
    assert_eq!(shown("select 1;\n", at(7), ""), "1;\n");
    assert_eq!(shown("1,\n'2;\n", at(0), "select ("), "1,\na(> '2;\n");
    assert_eq!(
        shown("select 1\n;\n", Shown::Otherwise, ""),
        "\na=> select 1\na-> ;\n"
    );
    let many = "select 1;\n".repeat(101);
    assert_eq!(shown(&many, at(0), ""), many);
}

#[test]
fn a_paste_that_ends_with_enter_ends_the_line() {
    // Without one, and where nothing was pasted, a person may go on.
    Watch::default().changed("select 1;\n", 10);
    let read = read(|| Err(ReadlineError::Eof));
    assert!(
        matches!(read, Read::Typed(Err(ReadlineError::Eof))),
        "{read:?}"
    );
    let pasted = |text: &str| Pasted {
        text: text.to_owned(),
        shown: Shown::UpTo(0),
    };
    let read = super::super::paste::read(|| {
        std::panic::resume_unwind(Box::new(pasted("select 1;\n")));
    });
    assert!(matches!(read, Read::Pasted(found) if found == pasted("select 1;\n")));
}
