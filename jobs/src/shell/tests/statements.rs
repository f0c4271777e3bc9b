//! Where statements end, and what is not closed.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::super::lex::{Unfinished, tokens, unfinished};
use super::super::split_statements;

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
    let seed = anabranch_shared::Ids::default().fresh().as_u64_pair().0;
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
        for token in tokens(&text) {
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
        if unfinished(&text).is_none() && !holds_command_amid(&statements) {
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

/// Whether a command stands behind a statement without `;`, which joining would end.
fn holds_command_amid(statements: &[super::super::Statement<'_>]) -> bool {
    let before = statements.len().saturating_sub(1);
    statements[..before]
        .iter()
        .any(|statement| !statement.ended)
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
        "select 1 \\gx",
        r"select E'\';';",
        // Wrong in itself, which is the engine's to say.
        r"select E'\xzz';",
        "select (1;",
    ] {
        assert_eq!(unfinished(whole), None, "{whole}");
    }
    for (open, waits_for) in [
        ("select 1", Unfinished::Statement),
        ("select 1; select", Unfinished::Statement),
        ("select 1 -- ;", Unfinished::Statement),
        ("select ')", Unfinished::Text),
        ("select ';", Unfinished::Text),
        (r"select E'\';", Unfinished::Text),
        ("select count(", Unfinished::Parenthesis),
        ("select (1, (2)", Unfinished::Parenthesis),
        ("select (1)", Unfinished::Statement),
        ("select 1; select (", Unfinished::Parenthesis),
        ("select \"a", Unfinished::Name),
        ("select `a", Unfinished::Name),
        ("/* a", Unfinished::Comment),
        ("select 1; /* a /* b */", Unfinished::Comment),
        ("select $$;", Unfinished::DollarText),
        ("select $a$ $$", Unfinished::DollarText),
    ] {
        assert_eq!(unfinished(open), Some(waits_for), "{open}");
    }
}

#[test]
fn a_command_ends_the_statement_before_it() {
    let parts = |text| {
        let all = split_statements(text).into_iter();
        all.map(|s| (s.sql, s.ended)).collect::<Vec<_>>()
    };
    assert_eq!(
        parts("select 1 \\watch 2\nselect 2;"),
        [("select 1", false), ("\\watch 2", true), ("select 2", true)]
    );
    assert_eq!(parts("select '\\d'"), [("select '\\d'", false)]);
}
