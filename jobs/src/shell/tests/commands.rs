//! What commands are, and what is said of those that are none.

use std::time::Duration;

use super::super::command::{
    Command, CommandError, Describe, Kinds, Setting, Switch, Watch, help, names, parse, parse_word,
};
use super::super::describe;
use super::relations;
use crate::output::{Expanded, Format};

fn describes(kinds: Kinds, name: Option<&str>, more: bool) -> Command {
    Command::Describe(Describe {
        kinds,
        name: name.map(str::to_owned),
        more,
    })
}

#[test]
fn commands_parse() {
    let watch = |millis, times| {
        Command::Watch(Watch {
            every: Duration::from_millis(millis),
            times,
        })
    };
    let cases = [
        ("\\d", describes(Kinds::All, None, false)),
        (" \\d;", describes(Kinds::All, None, false)),
        (
            "\\d post_minutes",
            describes(Kinds::All, Some("post_minutes"), false),
        ),
        (
            "\\d+ \"My View\"",
            describes(Kinds::All, Some("My View"), true),
        ),
        ("\\dt", describes(Kinds::Tables, None, false)),
        ("\\dv p*", describes(Kinds::Views, Some("p*"), false)),
        ("\\df", Command::Functions(None)),
        ("\\df time*", Command::Functions(Some("time*".into()))),
        ("\\timing", Command::Timing(Switch::Toggle)),
        ("\\timing on", Command::Timing(Switch::On)),
        ("\\timing off", Command::Timing(Switch::Off)),
        ("\\format", Command::ShowFormat),
        (
            "\\format NDJSON",
            Command::Set(Setting::Format(Format::Ndjson)),
        ),
        ("\\plot", Command::Plot),
        ("\\explain", Command::Explain { analyze: false }),
        ("\\explain ANALYZE;", Command::Explain { analyze: true }),
        ("\\freshness", Command::Freshness),
        ("\\x", Command::Set(Setting::Expanded(None))),
        (
            "\\x auto",
            Command::Set(Setting::Expanded(Some(Expanded::Auto))),
        ),
        ("\\t", Command::Set(Setting::TuplesOnly(Switch::Toggle))),
        ("\\a", Command::Set(Setting::Aligned(None))),
        ("\\pset", Command::ShowSettings),
        ("\\pset rows 10_000", Command::Set(Setting::Rows(10_000))),
        (
            "\\pset footer off",
            Command::Set(Setting::Footer(Switch::Off)),
        ),
        ("\\pset pager", Command::Set(Setting::Pager(Switch::Toggle))),
        (
            "\\pset format unaligned",
            Command::Set(Setting::Aligned(Some(false))),
        ),
        (
            "\\pset format csv",
            Command::Set(Setting::Format(Format::Csv)),
        ),
        (
            "\\pset x on",
            Command::Set(Setting::Expanded(Some(Expanded::On))),
        ),
        ("\\i 'a b.sql'", Command::Include("a b.sql".into())),
        ("\\o out.csv", Command::Output(Some("out.csv".into()))),
        ("\\o", Command::Output(None)),
        ("\\e", Command::Edit(None)),
        ("\\g", Command::Again(None)),
        ("\\gx", Command::Again(Some(Expanded::On))),
        ("\\watch", watch(2_000, None)),
        ("\\watch 0.5", watch(500, None)),
        ("\\watch i=1 c=3", watch(1_000, Some(3))),
        ("\\p", Command::Show),
        ("\\r", Command::Reset),
        // What goes to the system keeps its `;`.
        ("\\! ls; ls;", Command::System("ls; ls;".into())),
        ("\\!ls", Command::System("ls".into())),
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
    assert_eq!(parse_word(" EXIT; "), Some(Command::Quit));
    assert_eq!(parse_word("exit code"), None);
}

#[test]
fn what_is_no_command_is_told_with_what_is() {
    let cases = [
        (
            "\\timin",
            "unknown command `\\timin`; did you mean `\\timing`? (`\\?` lists all)",
        ),
        (
            "\\formt csv",
            "unknown command `\\formt`; did you mean `\\format`? (`\\?` lists all)",
        ),
        ("\\z", "unknown command `\\z` (`\\?` lists all)"),
        (
            "\\l",
            "unknown command `\\l`: a project is one database: `\\d` lists what it has (`\\?` lists all)",
        ),
        (
            "\\format xml",
            "unknown format `xml`: use `table`, `csv`, `json` or `ndjson`",
        ),
        (
            "\\timing maybe",
            "`\\timing` takes `on`, `off` or nothing, not `maybe`",
        ),
        (
            "\\pset x maybe",
            "`\\pset x` takes `on`, `off`, `auto` or nothing, not `maybe`",
        ),
        (
            "\\pset rows many",
            "`\\pset rows` takes a number of rows, 0 for all, not `many`",
        ),
        (
            "\\pset border 2",
            "no setting `border`: `\\pset` lists them with what they are",
        ),
        (
            "\\watch often",
            "`\\watch` takes a number of seconds, as in `\\watch 2` or `\\watch 2 c=10` for ten times, not `often`",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
    }
}

/// Whatever the help names is a command, and fits a terminal.
#[test]
fn the_help_is_true() {
    let help = help();
    for name in names() {
        assert!(help.contains(&format!("{name} ")), "{name}: {help}");
        let known = !matches!(parse(name), Err(CommandError::Unknown { .. }));
        assert!(known, "{name}");
    }
    for line in help.lines() {
        assert!(line.chars().count() < 80, "{line}");
    }
}

fn described(command: &str) -> Result<String, String> {
    match parse(command).unwrap() {
        Command::Describe(wanted) => {
            describe::text(&relations(), &wanted).map_err(|e| e.to_string())
        }
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn relations_are_told_with_what_they_are() {
    let all = "\
name          kind   columns
pageviews     topic        3
post_minutes  view         3
system.jobs   table        1
";
    assert_eq!(described("\\d").unwrap(), all);
    let tables =
        "name         kind   columns\npageviews    topic        3\nsystem.jobs  table        1\n";
    assert_eq!(described("\\dt").unwrap(), tables);
    let views = "name          kind  columns  reads      keys\npost_minutes  view        3  pageviews  minute, url\n";
    assert_eq!(described("\\dv+").unwrap(), views);
    let view = "\
view post_minutes over pageviews
column      type       null      made by  value  combine
minute      timestamp            key
url         varchar              key
page_views  bigint     not null  count    exact  yes
";
    assert_eq!(described("\\d POST_minutes").unwrap(), view);
    let sql = "sql\n  SELECT minute, url, count(*) AS page_views\n  FROM pageviews\n";
    assert_eq!(
        described("\\d+ post_minutes").unwrap(),
        format!("{view}{sql}")
    );
    let topic = "\
topic pageviews
column  type       null
ts      timestamp  not null
url     varchar    not null
Author  varchar
";
    assert_eq!(described("\\d pageviews").unwrap(), topic);
    assert_eq!(described("\\d p*").unwrap(), format!("{topic}\n{view}"));
    assert_eq!(
        described("\\d post_minute").unwrap_err(),
        "there is no relation `post_minute`; did you mean `post_minutes`? (`\\d` lists them)"
    );
    assert_eq!(
        described("\\dv pageviews").unwrap_err(),
        "there is no relation `pageviews` (`\\d` lists them)"
    );
}

#[test]
fn patterns_match_as_in_psql() {
    for (pattern, text, expected) in [
        ("", "", true),
        ("*", "", true),
        ("p*", "post", true),
        ("*_m?nutes", "post_minutes", true),
        ("*st*te*", "post_minutes", true),
        ("p?", "post", false),
        ("*x", "post", false),
        ("post", "posts", false),
    ] {
        assert_eq!(
            describe::matches(pattern, text),
            expected,
            "{pattern} {text}"
        );
    }
}
