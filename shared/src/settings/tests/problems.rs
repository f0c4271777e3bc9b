//! What a user is told about a wrong file: the message, and the place that it points at.

use super::*;

fn problems_in(dir: &Path, text: &str) -> Vec<Problem> {
    match parse_in(dir, text) {
        Err(SettingsError::Invalid { problems }) => problems,
        other => panic!("expected problems, got {other:?}"),
    }
}

/// The messages, each with the text that its carets are under.
fn told(text: &str) -> Vec<(String, String)> {
    let problems = problems_in(folder().path(), text);
    let pointed = |problem: &Problem| {
        let from_column = problem.source_line.chars().skip(problem.column - 1);
        from_column.take(problem.width).collect()
    };
    problems
        .iter()
        .map(|problem| (problem.message.clone(), pointed(problem)))
        .collect()
}

#[track_caller]
fn assert_told(text: &str, message: &str, pointed: &str) {
    assert_eq!(told(text), [(message.to_owned(), pointed.to_owned())]);
}

fn topic(lines: &str) -> String {
    format!("[topics.t]\nevent_time = \"ts\"\n{lines}")
}

const TS: &str = "ts = \"timestamp not null\"";

#[test]
fn a_problem_is_shown_with_its_line_and_a_caret() {
    let text = "[views.v]\nsql = \"v.sql\"\n\trefresh_evry = \"5m\" # ü\r\n";
    let dir = folder();
    let error = parse_in(dir.path(), text).unwrap_err().to_string();
    let expected = format!(
        "unknown key `refresh_evry` in `[views.v]`; did you mean `refresh_every`?\n\
         \x20--> {}:3:2\n\
         \x20 |\n\
         3 | \trefresh_evry = \"5m\" # ü\n\
         \x20 | \t^^^^^^^^^^^^",
        dir.path().join(FILE_NAME).display()
    );
    assert_eq!(error, expected);
}

#[test]
fn columns_count_characters_and_wide_line_numbers_align() {
    let text = format!("{}[daemon]\nhttp = \"ä\" \nwal = \"ü\" ; 1", "\n".repeat(8));
    let [problem] = &problems_in(folder().path(), &text)[..] else {
        panic!()
    };
    assert_eq!((problem.line, problem.column), (11, 11));
    let shown = problem.to_string();
    let lines: Vec<&str> = shown.lines().skip(1).collect();
    assert!(lines[0].starts_with("  --> "), "{shown}");
    assert_eq!(lines[1..3], ["   |", "11 | wal = \"ü\" ; 1"]);
    assert!(lines[3].starts_with("   |           ^"), "{shown}");
}

#[test]
fn a_place_over_several_lines_is_underlined_on_its_first() {
    let text = "[batch]\nthreads = [\n  1,\n]\n";
    let [problem] = &problems_in(folder().path(), text)[..] else {
        panic!()
    };
    assert_eq!((problem.line, problem.column, problem.width), (2, 11, 1));
}

#[test]
fn all_problems_are_told_in_the_order_of_the_file() {
    let told: Vec<String> = told(
        "[views.v]\nexport = 1\nsql = \"absent.sql\"\n[daemon]\nland_facts = 0\nhtp = 1\n[storge]\n",
    )
    .into_iter()
    .map(|(_, pointed)| pointed)
    .collect();
    assert_eq!(told, ["1", "\"absent.sql\"", "0", "htp", "storge"]);
    let error = parse_in(Path::new("p"), "a = 1\nb = 2\n")
        .unwrap_err()
        .to_string();
    assert_eq!(error.split("\n\n").count(), 2, "{error}");
}

#[test]
fn a_missing_file_says_how_to_make_one() {
    let dir = tempfile::tempdir().unwrap();
    for dir in [dir.path().to_path_buf(), dir.path().join("absent")] {
        let error = Project::load(&dir).unwrap_err();
        assert!(matches!(error, SettingsError::Missing { .. }));
        let shown = dir.display();
        assert_eq!(
            error.to_string(),
            format!(
                "no `anabranch.toml` in `{shown}`; run `anabranch init {shown}` or name a project with --project"
            )
        );
    }
}

#[test]
fn an_unreadable_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    std::fs::write(&path, b"[daemon]\n# \xff").unwrap();
    let error = Project::load(dir.path()).unwrap_err();
    assert!(matches!(error, SettingsError::Unreadable { .. }));
    let start = format!("can't read `{}`: ", path.display());
    assert!(error.to_string().starts_with(&start), "{error}");
    assert!(
        error
            .to_string()
            .ends_with("; make it a readable text file in UTF-8"),
        "{error}"
    );
}

#[test]
fn syntax_errors_have_a_place_and_hide_what_follows() {
    let text = "[daemon]\nland_every = \nhtp = 1\n[batch\n[daemon]\n";
    let problems = problems_in(folder().path(), text);
    assert!(
        problems
            .iter()
            .all(|problem| problem.message.starts_with("not valid TOML: "))
    );
    let places: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
    assert_eq!(places, [2, 4, 5], "{problems:?}");
    let twice = "[query]\nthreads = 1\nthreads = 2\n";
    assert_told(twice, "not valid TOML: duplicate key", "threads");
    let [unclosed] = &problems_in(folder().path(), "[query")[..] else {
        panic!()
    };
    assert_eq!((unclosed.line, unclosed.width), (1, 1), "{unclosed}");
}

#[test]
fn unknown_keys_and_tables_name_what_is_near_or_known() {
    assert_told(
        "[batch]\nthread = 1",
        "unknown key `thread` in `[batch]`; did you mean `threads`?",
        "thread",
    );
    assert_told(
        "[batch]\nfoo = 1",
        "unknown key `foo` in `[batch]`; known keys: `memory`, `threads`",
        "foo",
    );
    assert_told(
        "[batch]\ntimeout = \"5s\"",
        "unknown key `timeout` in `[batch]`; it belongs in `[query]` or `[steps.NAME]`",
        "timeout",
    );
    assert_told(
        "[dameon]",
        "unknown table `[dameon]`; did you mean `[daemon]`?",
        "dameon",
    );
    assert_told(
        "[doors.postgress]",
        "unknown table `[doors.postgress]`; did you mean `[doors.postgres]`?",
        "postgress",
    );
    assert_told(
        "[topic.x]",
        "unknown table `[topic]`; did you mean `[topics]`?",
        "topic",
    );
    assert_told(
        "[people]",
        "unknown table `[people]`; known tables: `[storage]`, `[daemon]`, `[http]`, `[doors.postgres]`, `[doors.flight]`, `[users]`, `[tls]`, `[audit]`, `[batch]`, `[build]`, `[query]`, `[log]`, \
         `[topics.NAME]`, `[topics.NAME.fields.FIELD]`, `[topics.NAME.source.kafka]`, `[topics.NAME.dedup]`, `[topics.NAME.retention]`, `[references.NAME]`, `[steps.NAME]`, `[views.NAME]`, `[views.NAME.gate]`, `[views.NAME.gate.columns.COLUMN]`",
        "people",
    );
    assert_told(
        "x = 1",
        "unknown key `x` outside of any table; every setting belongs in a table such as `[daemon]`",
        "x",
    );
    assert_told(
        "threads = 1",
        "unknown key `threads` outside of any table; it belongs in `[batch]` or `[build]` or `[query]`",
        "threads",
    );
}

#[test]
fn what_has_to_be_a_table_says_how_to_write_it() {
    assert_told(
        "daemon = 5",
        "`daemon` must be a table, found the integer `5`; write `[daemon]` above its settings",
        "5",
    );
    assert_told(
        "topics = \"x\"",
        "`topics` must be a table, found the string `x`; write `[topics.NAME]` above its settings",
        "\"x\"",
    );
    assert_told(
        "[views]\nv = true",
        "`views.v` must be a table, found the boolean `true`; write `[views.v]` above its settings",
        "true",
    );
    assert_told(
        "[[views]]",
        "`views` must be a table, found an array; write `[views.NAME]` above its settings",
        "[[views]]",
    );
    assert_told(
        &topic("fields = [1]"),
        "`topics.t.fields` must be a table, found an array; write `[topics.t.fields]` above its settings",
        "[1]",
    );
}

#[test]
fn wrong_values_say_what_was_expected_and_found() {
    let duration = "must be a duration from 1ms to a year, such as `\"30s\"` or `\"5m\"`";
    let size =
        "must be a size such as `\"256MB\"` or `\"256MiB\"`, or a whole number of bytes above 0";
    let url =
        "must be a folder such as `\"file://./data\"` or `\"./data\"`, or `\"s3://BUCKET/PREFIX\"`";
    let address = "must be an address `\"HOST:PORT\"` such as `\"127.0.0.1:8787\"`";
    let cases = [
        (
            "daemon",
            "land_every",
            "5",
            duration,
            "found the integer `5`",
        ),
        (
            "daemon",
            "land_every",
            "\"5 parsecs\"",
            duration,
            "found the string `5 parsecs`",
        ),
        (
            "daemon",
            "land_every",
            "\"0s\"",
            duration,
            "found the string `0s`",
        ),
        (
            "query",
            "timeout",
            "\"2years\"",
            duration,
            "found the string `2years`",
        ),
        (
            "daemon",
            "land_bytes",
            "\"1.5GB\"",
            size,
            "found the string `1.5GB`",
        ),
        (
            "daemon",
            "land_bytes",
            "\"1Mbit\"",
            size,
            "found the string `1Mbit`",
        ),
        (
            "daemon",
            "land_bytes",
            "\"99999999999TB\"",
            size,
            "found the string `99999999999TB`",
        ),
        (
            "daemon",
            "land_bytes",
            "\"0MB\"",
            size,
            "found the string `0MB`",
        ),
        ("daemon", "land_bytes", "-1", size, "found the integer `-1`"),
        (
            "daemon",
            "land_bytes",
            "1.5",
            size,
            "found a floating-point number",
        ),
        (
            "daemon",
            "land_facts",
            "0",
            "must be a whole number of at least 1",
            "found the integer `0`",
        ),
        (
            "daemon",
            "land_facts",
            "\"7\"",
            "must be a whole number of at least 1",
            "found the string `7`",
        ),
        (
            "daemon",
            "land_facts",
            "0xffffffffffffffffff",
            "must be a whole number of at least 1",
            "found the integer `0xffffffffffffffffff`",
        ),
        (
            "batch",
            "threads",
            "1025",
            "must be a whole number from 0, for all cores, to 1024",
            "found the integer `1025`",
        ),
        (
            "storage",
            "url",
            "\"gs://x\"",
            url,
            "found the string `gs://x`",
        ),
        (
            "storage",
            "url",
            "\"s3:///prefix\"",
            url,
            "found the string `s3:///prefix`",
        ),
        (
            "storage",
            "url",
            "\"file:./data\"",
            url,
            "found the string `file:./data`; `//` is missing after the colon",
        ),
        ("storage", "url", "2020-01-01", url, "found a date or time"),
        (
            "daemon",
            "http",
            "\"localhost\"",
            address,
            "found the string `localhost`",
        ),
        (
            "daemon",
            "http",
            "\"h:65536\"",
            address,
            "found the string `h:65536`",
        ),
        (
            "daemon",
            "http",
            "\":80\"",
            address,
            "found the string `:80`; write `0.0.0.0` before the port to listen on every interface",
        ),
        (
            "daemon",
            "wal",
            "\" \"",
            "must be a path, relative to the project's folder or absolute",
            "found the string ` `",
        ),
        (
            "daemon",
            "wal",
            "\"~/wal\"",
            "must be a path, relative to the project's folder or absolute",
            "found the string `~/wal`; `~` is not replaced in paths; write `${HOME}` for it",
        ),
    ];
    for (table, key, value, expected, found) in cases {
        let message = format!("`{key}` in `[{table}]` {expected}, {found}");
        assert_told(&format!("[{table}]\n{key} = {value}\n"), &message, value);
    }
}

#[test]
fn wrong_topics_and_fields_are_told() {
    let fields = |more: &str| topic(&format!("[topics.t.fields]\n{TS}\n{more}"));
    let cases = [
        (
            topic(""),
            "`[topics.t]` lacks `fields`; write for example `fields = { ts = \"timestamp not null\" }`",
            "t",
        ),
        (
            topic("[topics.t.fields]"),
            "`[topics.t.fields]` declares no field; write at least the event time, such as `ts = \"timestamp not null\"`",
            "[topics.t.fields]",
        ),
        (
            format!("[topics.t.fields]\n{TS}"),
            "`[topics.t]` lacks `event_time`; write for example `event_time = \"ts\"`",
            "t",
        ),
        (
            topic("fields = { happened = \"timestamp not null\" }"),
            "`event_time` in `[topics.t]` must name a field of the topic, found the string `ts`; declare it as `timestamp not null`, or name the field that is",
            "\"ts\"",
        ),
        (
            topic("fields = { Ts = \"timestamp not null\" }"),
            "`event_time` in `[topics.t]` must name a field of the topic, found the string `ts`; did you mean `Ts`?",
            "\"ts\"",
        ),
        (
            topic("fields = { ts = \"timestamp\" }"),
            "field `ts` is the event time of its topic, so it can't be null; write `ts = \"timestamp not null\"`",
            "\"timestamp\"",
        ),
        (
            topic("fields = { ts = \"bigint not null\" }"),
            "field `ts` is the event time of its topic, so it must be a timestamp, not `bigint`; write `ts = \"timestamp not null\"`",
            "\"bigint not null\"",
        ),
        (
            fields("_x = \"int\""),
            "field `_x` starts with `_`, which is reserved for Anabranch's own columns; rename it",
            "_x",
        ),
        (
            fields("TS = \"int\""),
            "field `TS` differs from field `ts` only in case; rename one of them",
            "TS",
        ),
        (
            fields("\"\" = \"int\""),
            "a field's name is empty; name it",
            "\"\"",
        ),
        (
            fields("x = \"varchar(20)\""),
            "field `x`: `varchar` takes no length or precision here; write `varchar`",
            "\"varchar(20)\"",
        ),
        (
            fields("x = 5"),
            "field `x` in `[topics.t.fields]` must be a SQL type such as `\"varchar not null\"`, found the integer `5`",
            "5",
        ),
        // One problem for one mistake: the type is wrong, so nothing is said of the event time.
        (
            topic("fields = { ts = \"datetime\" }"),
            "field `ts`: type `datetime` is not supported; write `timestamp`, an instant in UTC",
            "\"datetime\"",
        ),
        (
            topic(&format!("ack = \"never\"\nfields = {{ {TS} }}")),
            "`ack` in `[topics.t]` must be `\"wal\"` or `\"landed\"`, found the string `never`",
            "\"never\"",
        ),
        (
            topic(&format!("unknown_fields = 1\nfields = {{ {TS} }}")),
            "`unknown_fields` in `[topics.t]` must be `\"keep\"`, `\"ignore\"` or `\"reject\"`, found the integer `1`",
            "1",
        ),
    ];
    for (text, message, pointed) in cases {
        assert_told(&text, message, pointed);
    }
}

#[test]
fn names_of_topics_and_views_are_checked() {
    let long = "a".repeat(64);
    for what in ["topic", "view"] {
        let declare = |name: &str| match what {
            "topic" => format!("[topics.{name}]\nevent_time = \"ts\"\nfields = {{ {TS} }}\n"),
            _ => format!("[views.{name}]\nsql = \"v.sql\"\n"),
        };
        for name in ["Page", "1a", "_a", "a-b", "\"a b\"", "\"\"", "\"ä\""] {
            let bare = name.trim_matches('"');
            let message = format!(
                "`{bare}` can't name a {what}; use a-z, 0-9 and `_`, beginning with a letter"
            );
            assert_told(&declare(name), &message, name);
        }
        let message =
            format!("`{long}` has 64 characters; a {what}'s name has at most 63, so shorten it");
        assert_told(&declare(&long), &message, &long);
        parse(&declare(&long[1..]));
        for name in ["dead_letters", "jobs"] {
            let message =
                format!("`{name}` is a table of Anabranch's own; give the {what} another name");
            assert_told(&declare(name), &message, name);
        }
    }
    let both =
        format!("[topics.x]\nevent_time = \"ts\"\nfields = {{ {TS} }}\n[views.x]\nsql = \"v.sql\"");
    assert_told(
        &both,
        "view `x` has the name of a topic; rename one of them",
        "x",
    );
    // Also where the topic itself is wrong.
    assert_eq!(
        told(&both.replace("fields = ", "ack = 1\nfields = ")).len(),
        2
    );
}

#[test]
fn wrong_views_are_told() {
    let view = |line: &str| format!("[views.v]\nsql = \"v.sql\"\n{line}\n");
    let cron = "must be a cron expression of five fields (minute hour day month weekday) such as `\"0 3 * * *\"`";
    let zone = "must be an IANA time zone such as `\"UTC\"` or `\"Europe/Berlin\"`";
    let cases = [
        ("rebuild_cron", "\"0 3 * *\"", cron, "`0 3 * *`"),
        ("rebuild_cron", "\"61 3 * * *\"", cron, "`61 3 * * *`"),
        ("rebuild_cron", "\"0 0 3 * * *\"", cron, "`0 0 3 * * *`"),
        (
            "verify_cron",
            "\"0 0 31 2 *\"",
            cron,
            "`0 0 31 2 *`; no date matches it, so it would never run",
        ),
        ("verify_cron", "\"\"", cron, "``"),
        (
            "timezone",
            "\"europe/berln\"",
            zone,
            "`europe/berln`; did you mean `Europe/Berlin`?",
        ),
        (
            "timezone",
            "\"Middle of Nowhere\"",
            zone,
            "`Middle of Nowhere`",
        ),
        ("export", "\"true\"", "must be `true` or `false`", "`true`"),
    ];
    for (key, value, expected, found) in cases {
        let message = format!("`{key}` in `[views.v]` {expected}, found the string {found}");
        assert_told(&view(&format!("{key} = {value}")), &message, value);
    }
    parse(&view(
        "rebuild_cron = \"0 0 29 2 *\"\nverify_cron = \"@daily\"",
    ));
    assert_told(
        "[views.v]",
        "`[views.v]` lacks `sql`; write for example `sql = \"views/v.sql\"`",
        "v",
    );
}

#[test]
fn wrong_sql_files_are_named() {
    let dir = folder();
    let path = dir.path().join("w.sql");
    let only = || {
        let mut problems = problems_in(dir.path(), "[views.v]\nsql = \"w.sql\"");
        assert_eq!(problems.len(), 1);
        let problem = problems.remove(0);
        assert_eq!((problem.line, problem.column, problem.width), (2, 7, 7));
        problem.message
    };
    let shown = path.display();
    assert_eq!(
        only(),
        format!("no file `{shown}`; write the SELECT of view `v` there, or correct `sql`")
    );
    std::fs::write(&path, " \n").unwrap();
    assert_eq!(
        only(),
        format!("file `{shown}` is empty; write the SELECT of view `v` there")
    );
    std::fs::write(&path, b"\xff").unwrap();
    assert!(only().starts_with(&format!("can't read `{shown}`, the SQL of view `v`: ")));
}

#[test]
fn variables_that_cannot_be_replaced_are_told_where_they_stand() {
    assert_eq!(
        told("[query]\nmemory = \"${NOPE}${NOPE} ${a b} ${open\""),
        [
            ("environment variable `NOPE` is not set; set it, or write the value in place of `${NOPE}`", "${NOPE}"),
            ("`a b` is not the name of an environment variable; write `${NAME}`, or `$${` for a literal `${`", "${a b}"),
            ("`${` lacks its `}`; write `${NAME}`, or `$${` for a literal `${`", "${open"),
        ]
        .map(|(message, pointed)| (message.to_owned(), pointed.to_owned()))
    );
    // Commented-out lines and keys are left alone.
    parse("# ${NOPE}\n[query]\n");
}

#[test]
fn what_a_variable_holds_is_never_shown() {
    let secret = |_: &str| Some("hunter2".to_owned());
    let text = r#"
        [storage]
        url = "gs://${S}"
        [daemon]
        http = "${S}"
        land_every = "${S}"
        land_facts = "${S}"
        land_bytes = "${S}"
        [topics.t]
        event_time = "${S}"
        ack = "${S}"
        fields = { ts = "timestamp not null", a = "${S}", b = "int ${S}" }
        [views.v]
        sql = "v.sql"
        rebuild_cron = "${S}"
        timezone = "${S}"
        export = "${S}"
    "#;
    let dir = folder();
    let error = Project::parse(text, &dir.path().join(FILE_NAME), &secret).unwrap_err();
    let SettingsError::Invalid { problems } = &error else {
        panic!("{error}")
    };
    assert_eq!(problems.len(), 12, "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn files_must_outlive_queries_and_builds() {
    assert_told(
        "[storage]\ngrace = \"5m\"\n",
        "`grace` in `[storage]` is 5m, and a query may take 5m (`timeout` in `[query]`); make `grace` longer, or files are removed under it",
        "\"5m\"",
    );
    assert_told(
        "[query]\ntimeout = \"2h\"\n",
        "`grace` in `[storage]` is 1h, and a query may take 2h (`timeout` in `[query]`); make `grace` longer, or files are removed under it",
        "\"2h\"",
    );
    assert_told(
        "[storage]\ngrace = \"2days\"\n",
        "`orphan_grace` in `[storage]` is 1day, shorter than `grace`, 2days; make it longer than the longest build",
        "\"2days\"",
    );
    assert_told(
        "[storage]\ncompact_to = \"1MB\"\n",
        "`compact_to` in `[storage]` is smaller than `compact_below`, so merged files would be merged again and again; make it larger",
        "\"1MB\"",
    );
}

#[test]
fn how_a_field_is_read_is_checked_against_its_type() {
    let field = |lines: &str| topic(&format!("[topics.t.fields]\n{TS}\n{lines}"));
    for (lines, message, pointed) in [
        (
            "x = { type = \"timestamp\", epoch = \"millis\" }",
            "`epoch` in `[topics.t.fields.x]` must be `\"seconds\"`, `\"milliseconds\"`, `\"microseconds\"` or `\"nanoseconds\"`, found the string `millis`",
            "\"millis\"",
        ),
        (
            "x = { type = \"bigint\", epoch = \"seconds\" }",
            "`epoch` in `[topics.t.fields.x]` is for timestamps, and the field is none; leave it out",
            "\"seconds\"",
        ),
        (
            "x = { type = \"timestamp\", timezone = \"Europe/Berln\" }",
            "`timezone` in `[topics.t.fields.x]` must be an IANA time zone such as `\"UTC\"` or `\"Europe/Berlin\"`, found the string `Europe/Berln`; did you mean `Europe/Berlin`?",
            "\"Europe/Berln\"",
        ),
        (
            "x = { type = \"varchar\", from_text = true }",
            "`from_text` in `[topics.t.fields.x]` is for numbers, and the field is none; leave it out",
            "true",
        ),
        (
            "x = { type = \"bigint\", from_text = 1 }",
            "`from_text` in `[topics.t.fields.x]` must be `true` or `false`, found the integer `1`",
            "1",
        ),
        (
            "x = { type = \"bigint\", unit = 1 }",
            "unknown key `unit` in `[topics.t.fields.x]`; known keys: `type`, `epoch`, `timezone`, `from_text`",
            "unit",
        ),
        (
            "x = { epoch = \"seconds\" }",
            "`[topics.t.fields.x]` lacks `type`; write for example `type = \"timestamp not null\"`",
            "{ epoch = \"seconds\" }",
        ),
        (
            "x = { type = \"timestmp\" }",
            "field `x`: unknown type `timestmp`; did you mean `timestamp`?",
            "\"timestmp\"",
        ),
    ] {
        assert_told(&field(lines), message, pointed);
    }
    assert_told(
        &topic(&format!("dead_letters_for = \"90\"\nfields = {{ {TS} }}\n")),
        "`dead_letters_for` in `[topics.t]` must be `\"off\"`, or a duration from 1ms to a year, such as `\"90d\"` or `\"12h\"`, found the string `90`",
        "\"90\"",
    );
    let kafka = |line: &str| {
        topic(&format!(
            "fields = {{ {TS} }}\n[topics.t.source.kafka]\nbrokers = \"h:1\"\n{line}\n"
        ))
    };
    assert_told(
        &kafka("tombstones = \"drop\""),
        "`tombstones` in `[topics.t.source.kafka]` must be `\"dead_letter\"` or `\"skip\"`, found the string `drop`",
        "\"drop\"",
    );
    assert_told(
        &kafka("topic_id = \"\""),
        "`topic_id` in `[topics.t.source.kafka]` must be a string that is not empty, found the string ``",
        "\"\"",
    );
}

#[test]
fn fields_are_read_as_they_say() {
    let text = topic(
        "[topics.t.fields]\nts = { type = \"timestamp not null\", epoch = \"milliseconds\" }\nn = { type = \"bigint[]\", from_text = true }\n[topics.t.fields.at]\ntype = \"timestamp\"\ntimezone = \"Europe/Berlin\"\n",
    );
    let project = parse_in(folder().path(), &text).unwrap_or_else(|error| panic!("{error}"));
    let fields = &project.topics[0].fields;
    let reads: Vec<_> = fields
        .iter()
        .map(|f| {
            (
                f.reads.epoch,
                f.reads.zone.map(Zone::name),
                f.reads.from_text,
            )
        })
        .collect();
    let expected = [
        (Some(EpochUnit::Milliseconds), None, false),
        (None, None, true),
        (None, Some("Europe/Berlin"), false),
    ];
    assert_eq!(reads, expected);
    assert!(fields[0].not_null && !fields[1].not_null);
}

#[test]
fn hosts_and_rights_are_checked() {
    let hosts = "`hosts` in `[http]` must be names of hosts without ports, with commas between them, such as `\"facts.example.org\"`, found the string";
    for wrong in ["a.example:80", "", "a,,b", "http://a.example", "*"] {
        let text = format!("[http]\nhosts = \"{wrong}\"\n");
        assert_told(
            &text,
            &format!("{hosts} `{wrong}`"),
            &format!("\"{wrong}\""),
        );
    }
    for wrong in ["0755", "0440", "640x", "1640", "u=rw"] {
        let text = format!("[storage]\nmode = \"{wrong}\"\n");
        let told = told(&text);
        assert!(
            told.len() == 1
                && told[0]
                    .0
                    .starts_with("`mode` in `[storage]` must be the rights"),
            "{told:?}"
        );
    }
    let project = parse("[http]\nhosts = \"A.example, b\"\n[storage]\nmode = \"660\"\n");
    assert_eq!(project.http.hosts, ["a.example", "b"]);
    assert_eq!(project.storage.mode, 0o660);
}

#[test]
fn a_reference_names_a_topic_and_its_fields() {
    let with = |reference: &str| {
        format!(
            "[topics.content]\nevent_time = \"ts\"\n[topics.content.fields]\nts = \"timestamp not null\"\nurl = \"varchar\"\nx = \"double\"\n[references.posts]\n{reference}"
        )
    };
    let told = [
        (
            "topic = \"contents\"\nkey = \"url\"\nlatest_by = \"ts\"",
            "`topic` in `[references.posts]` must name a topic of the project, found `contents`; did you mean `content`?",
        ),
        (
            "topic = \"content\"\nkey = \"ulr\"\nlatest_by = \"ts\"",
            "`key` in `[references.posts]` must name a field of topic `content`, found `ulr`; did you mean `url`?",
        ),
        (
            "topic = \"content\"\nkey = \"x\"\nlatest_by = \"ts\"",
            "field `x` can't be compared exactly, so it can't be a key of `[references.posts]`; name a field of another type",
        ),
        (
            "topic = \"content\"\nkey = \"url\"\nlatest_by = \"ts\"\nfields = \"url, x\"",
            "`url` is the key of reference `posts`, which it has anyway; take it out of `fields`",
        ),
        (
            "topic = \"content\"\nkey = \"url\"\nlatest_by = \"ts\"\n[topics.content.retention]\nage = \"30d\"",
            "topic `content` has a retention, which would remove rows of reference `posts`; take `[topics.content.retention]` out",
        ),
        (
            "topic = \"content\"\nkey = \"url\"\nlatest_by = \"ts\"\n[references.content]\ntopic = \"content\"\nkey = \"url\"\nlatest_by = \"ts\"",
            "reference `content` has the name of a topic; rename one of them",
        ),
    ];
    for (reference, says) in told {
        let error = Project::parse(
            &with(reference),
            std::path::Path::new("anabranch.toml"),
            &|_| None,
        );
        let said = error.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(said.starts_with(says), "{reference}: {said}");
    }
}

#[test]
fn a_step_names_its_topics_and_what_it_runs() {
    let with = |steps: &str| {
        let mut text = String::new();
        for topic in ["a", "b", "c"] {
            text += &format!(
                "[topics.{topic}]\nevent_time = \"ts\"\n[topics.{topic}.fields]\nts = \"timestamp not null\"\nurl = \"varchar\"\nx = \"double\"\n"
            );
        }
        text + steps
    };
    let chain = "[steps.s]\nfrom = \"a\"\nto = \"b\"\nrun = [\"x\"]\nmost = 4096\n[steps.t]\nfrom = \"b\"\nto = \"c\"\nrun = [\"x\"]\nmost = 4096";
    let circle = "[steps.s]\nfrom = \"a\"\nto = \"b\"\nrun = [\"x\"]\n[steps.t]\nfrom = \"b\"\nto = \"a\"\nrun = [\"x\"]";
    let twice = "[steps.s]\nfrom = \"a\"\nto = \"c\"\nrun = [\"x\"]\n[steps.t]\nfrom = \"b\"\nto = \"c\"\nrun = [\"x\"]";
    let told = [
        (
            "[steps.s]\nfrom = \"a\"\nto = \"b\"",
            "`[steps.s]` lacks `run`; write for example `run = [\"python3\", \"steps/NAME.py\"]`, or `sql`",
        ),
        (
            "[steps.s]\nfrom = \"a\"\nto = \"b\"\nrun = \"python3 x.py\"",
            "`run` in `[steps.s]` must be a program with its arguments, such as `[\"python3\", \"steps/clean.py\"]`, found the string `python3 x.py`",
        ),
        (
            "[steps.s]\nfrom = \"a\"\nto = \"b\"\nrun = []",
            "`run` in `[steps.s]` must be a program",
        ),
        (
            "[steps.s]\nfrom = \"a\"\nto = \"b\"\nrun = [\"x\"]\nsql = \"x.sql\"",
            "`[steps.s]` has both `run` and `sql`; take one out",
        ),
        (
            "[steps.s]\nfrom = \"a\"\nto = \"b\"\nsql = \"x.sql\"\nprocesses = 2",
            "`processes` in `[steps.s]` is of a program, and the step is SQL; take it out",
        ),
        (
            "[steps.s]\nfrom = \"a\"\nto = \"bb\"\nrun = [\"x\"]",
            "`to` in `[steps.s]` must name a topic of the project, found `bb`; did you mean `b`?",
        ),
        (
            "[steps.s]\nfrom = \"a\"\nto = \"a\"\nrun = [\"x\"]",
            "step `s` takes and makes facts of one topic; give it another `to`",
        ),
        (
            "[steps.s]\nfrom = \"a\"\nto = \"b\"\nrun = [\"x\"]\ngroup_by = \"ulr\"",
            "`group_by` in `[steps.s]` must name a field of topic `a`, found `ulr`; did you mean `url`?",
        ),
        (
            "[steps.s]\nfrom = \"a\"\nto = \"b\"\nrun = [\"x\"]\ngroup_by = \"x\"",
            "field `x` can't be compared exactly",
        ),
        (
            "[steps.s]\nfrom = \"a\"\nto = \"b\"\nrun = [\"x\"]\nprotocol = \"strom\"",
            "`protocol` in `[steps.s]` must be `\"arrow\"` or `\"storm\"`",
        ),
        (
            circle,
            "step `s` is part of a circle: b → a → b; take one of its steps out",
        ),
        (
            twice,
            "steps `s` and `t` both make facts of topic `c`, which one alone can; give one another `to`",
        ),
        (
            chain,
            "up to step `t` a fact may become 16777216 facts (a → b → c), more than 8388608: their offsets would run out; lower `most`",
        ),
    ];
    for (steps, says) in told {
        let error = Project::parse(
            &with(steps),
            std::path::Path::new("anabranch.toml"),
            &|_| None,
        );
        let said = error.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(said.contains(says), "{steps}: {said}");
    }
}
