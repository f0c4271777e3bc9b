//! The table of settings against the parser, the template, order, variables and loading. What is
//! wrong in a file is in `tests/problems.rs`, the types of fields in `tests/field_types.rs`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod field_types;
mod problems;

use std::path::Path;
use std::time::Duration;

use super::table::{Fallback, Row, Section, TABLE};
use super::*;

/// A project folder with one SQL file, `v.sql`.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("v.sql"), "SELECT 1").unwrap();
    std::fs::create_dir(dir.path().join("steps")).unwrap();
    std::fs::write(dir.path().join("steps/NAME.sql"), "SELECT 1").unwrap();
    dir
}

fn unset(_: &str) -> Option<String> {
    None
}

fn parse_in(dir: &Path, text: &str) -> Result<Project, SettingsError> {
    Project::parse(text, &dir.join(FILE_NAME), &unset)
}

fn parse(text: &str) -> Project {
    parse_in(folder().path(), text).unwrap_or_else(|error| panic!("{error}"))
}

/// A value of `key` that is not its default.
fn other_value(section: Section, key: &str) -> &'static str {
    match (section, key) {
        (Section::Storage, "url") => "\"s3://bucket/prefix\"",
        (Section::Storage, "endpoint") => "\"https://s3.example.org\"",
        (Section::Storage, "region") => "\"eu-central-1\"",
        (Section::Storage, "path_style") => "false",
        (Section::Daemon, "advertise") => "\"10.0.0.7:8787\"",
        (Section::Storage, "grace") => "\"7h\"",
        (Section::Storage, "orphan_grace") => "\"7d\"",
        (Section::Storage, "history_for") => "\"off\"",
        (Section::Storage, "compact_below") => "\"off\"",
        (Section::Storage, "compact_to") => "\"7GB\"",
        (Section::Storage, "mode") => "\"0600\"",
        (Section::Http, "hosts") => "\"a.example, B.example\"",
        (Section::Http, "origins") => "\"https://a.example, http://b.example:81\"",
        (Section::Http, "base") => "\"/facts/7\"",
        (Section::Http, "connections" | "connections_per_address") => "7",
        (Section::Http, "header_timeout" | "body_timeout") => "\"7s\"",
        (Section::Http, "least_rate") => "7",
        (Section::Postgres | Section::Flight, "listen") => "\"localhost:0\"",
        (Section::Postgres | Section::Flight, "connections") => "7",
        (Section::Postgres | Section::Flight, "max_message") => "\"7MiB\"",
        (Section::Users, "file") => "\"users.toml\"",
        (Section::Tls, "certificate") => "\"a.crt\"",
        (Section::Tls, "key") => "\"a.key\"",
        (Section::Users | Section::Tls, _) => "true",
        (Section::Audit, "statements") => "false",
        (Section::Audit, "required") => "true",
        (Section::Audit, "keep") => "\"7d\"",
        (Section::Daemon, "http") => "\"localhost:0\"",
        (Section::Daemon, "wal") => "\"/elsewhere\"",
        (
            Section::Daemon,
            "land_every" | "maintain_every" | "idempotency_window" | "peer_timeout"
            | "shutdown_timeout",
        ) => "\"7s\"",
        (Section::Daemon, "land_facts" | "checkpoint_every" | "idempotency_keys") => "7",
        (Section::Daemon, _) => "\"7MiB\"",
        (Section::Batch | Section::Build | Section::Query, "memory" | "threads") => "7",
        (Section::Build, "nice") => "7",
        (Section::Build, "hold") => "\"8d\"",
        (Section::Query, "timeout" | "verify_timeout") => "\"7s\"",
        (Section::Query, "at_once" | "waiting" | "max_terms" | "verifications" | "as_of_facts") => {
            "7"
        }
        (Section::Query, _) => "\"7MiB\"",
        (Section::Log, "format") => "\"json\"",
        (Section::Log, "slow_query") => "\"off\"",
        (Section::Topic, "event_time") => "\"u\"",
        (Section::Topic, "ack") => "\"landed\"",
        (Section::Topic, "unknown_fields") => "\"reject\"",
        (Section::Topic, "fields") => "{ ts = \"timestamp not null\" }",
        (Section::Topic, "dedup") => "{ key = \"u\" }",
        (Section::Topic, "retention") => "{ age = \"30d\" }",
        (Section::Topic, "dead_letter_share") => "\"7%\"",
        (Section::Topic, "dead_letter_count") => "7",
        (Section::Topic, "source") => "{ kafka = { brokers = \"h:1\" } }",
        (Section::Topic, "dead_letters_for") => "\"off\"",
        (Section::Field, "type") => "\"date\"",
        (Section::Field, "epoch") => "\"nanoseconds\"",
        (Section::Field, "timezone") => "\"Europe/Berlin\"",
        (Section::Field, "from_text") => "true",
        (Section::Kafka, "partitions") => "\"0-3\"",
        (Section::Kafka, "start") => "\"latest\"",
        (Section::Kafka, "on_gap") => "\"record\"",
        (Section::Kafka, "tombstones") => "\"skip\"",
        (Section::Kafka, "tombstone_field") => "\"deleted\"",
        (Section::Kafka, "key_field" | "timestamp_field") => "\"u\"",
        (Section::Kafka, "headers") => "{ h = \"u\" }",
        (Section::Kafka, "properties") => "{ \"security.protocol\" = \"SSL\" }",
        (Section::Kafka, "prefetch") => "\"7MiB\"",
        (Section::Kafka, "brokers" | "topic" | "topic_id" | "group") => "\"other\"",
        (Section::Dedup, "key") => "\"u\"",
        (Section::Dedup, "window") => "\"7m\"",
        (Section::Dedup, "memory") => "7",
        (Section::Retention, "age") => "\"7d\"",
        (Section::Retention, "size") => "\"7GB\"",
        (Section::Reference, "topic") => "\"other\"",
        (Section::Reference, "key") => "\"visitor, trace_id\"",
        (Section::Reference, "latest_by") => "\"u\"",
        (Section::Reference, "fields") => "\"visitor\"",
        (Section::Reference, "deleted_when") => "\"visitor IS NULL\"",
        (Section::Reference, "memory") => "\"7MB\"",
        (Section::Step, "from") => "\"other\"",
        (Section::Step, "to") => "\"third\"",
        (Section::Step, "run") => "[\"b\", \"c\"]",
        (Section::Step, "sql") => "\"w.sql\"",
        (Section::Step, "most" | "processes" | "batch") => "7",
        (Section::Step, "protocol") => "\"storm\"",
        (Section::Step, "group_by") => "\"visitor\"",
        (Section::Step, "timeout") => "\"7s\"",
        (Section::Step, "memory") => "\"7MB\"",
        (Section::View, "sql") => "\"w.sql\"",
        (Section::View, "refresh_every") => "\"7m\"",
        (Section::View, "rebuild_cron" | "verify_cron") => "\"7 3 * * *\"",
        (Section::View, "timezone") => "\"Europe/Berlin\"",
        (Section::View, "export") => "true",
        (Section::View, "keep_previous") => "\"off\"",
        (Section::View, "moved") => "\"former\"",
        (Section::View, "gate") => "{ keys_lost = 0 }",
        (Section::Gate, "where") => "\"c > 1\"",
        (Section::Gate, "columns") => "{ c = { rows_changed = 1 } }",
        (Section::Gate | Section::GateColumn, _) => "\"7%\"",
        _ => panic!("add a value of `{key}` in `{}` here", section.header()),
    }
}

fn is_off_unless_written(section: Section) -> bool {
    matches!(
        section,
        Section::Field
            | Section::Kafka
            | Section::Dedup
            | Section::Retention
            | Section::Reference
            | Section::Step
            | Section::Gate
            | Section::GateColumn
    )
}

/// A project in which the settings `written` are the only ones beside those that are required.
fn project_with(section: Section, written: &[(&str, &str)]) -> String {
    let of_numbers = written.iter().any(|(key, _)| *key == "from_text");
    let field_type = ["\"timestamp\"", "\"bigint\""][usize::from(of_numbers)];
    let required = [
        (Section::Field, "type", field_type),
        (Section::Topic, "event_time", "\"ts\""),
        (
            Section::Topic,
            "fields",
            "{ ts = \"timestamp not null\", u = \"timestamp not null\", author = \"varchar\", section = \"varchar\", deleted = \"boolean\", event_id = \"varchar\", visitor = \"varchar\", url = \"varchar\", trace_id = \"varchar\" }",
        ),
        (Section::Kafka, "brokers", "\"h:1\""),
        (Section::Dedup, "key", "\"event_id\""),
        (Section::Retention, "age", "\"30d\""),
        (Section::Reference, "topic", "\"a_topics\""),
        (Section::Reference, "key", "\"event_id\""),
        (Section::Reference, "latest_by", "\"ts\""),
        (Section::Step, "from", "\"a_topics\""),
        (Section::Step, "to", "\"fourth\""),
        (Section::Step, "run", "[\"a\"]"),
        (Section::View, "sql", "\"v.sql\""),
    ];
    let mut text = String::new();
    for each in Section::ALL {
        if is_off_unless_written(each) && each != section {
            continue;
        }
        if each == Section::Field {
            // An inline table can't be added to.
            text.push_str("[topics.a_topics.fields]\nts = \"timestamp not null\"\n");
        }
        if each == Section::Reference {
            let fields = "ts = \"timestamp not null\"\nevent_id = \"varchar\"";
            text.push_str("[topics.other]\nevent_time = \"ts\"\n[topics.other.fields]\n");
            text.push_str(&format!("{fields}\n"));
        }
        if each == Section::Step {
            for topic in ["other", "third", "fourth"] {
                let fields = "ts = \"timestamp not null\"\nvisitor = \"varchar\"";
                text.push_str(&format!("[topics.{topic}]\nevent_time = \"ts\"\n"));
                text.push_str(&format!("[topics.{topic}.fields]\n{fields}\n"));
            }
        }
        text.push_str(&each.header().replace("NAME", &format!("a_{}", each.key())));
        text.push('\n');
        let here = if each == section { written } else { &[] };
        for (key, value) in here {
            text.push_str(&format!("{key} = {value}\n"));
        }
        if each == Section::Tls && here.iter().any(|(key, _)| *key == "key") {
            text.push_str("certificate = \"server.crt\"\n");
        }
        for (of, key, value) in required {
            let inline = key == "fields" && section == Section::Field;
            let instead = key == "run" && here.iter().any(|(written, _)| *written == "sql");
            if of == each && !inline && !instead && !here.iter().any(|(written, _)| *written == key)
            {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
    }
    text
}

fn defaults() -> String {
    project_with(Section::Storage, &[])
}

#[test]
fn every_setting_of_the_table_is_read() {
    let dir = folder();
    std::fs::write(dir.path().join("w.sql"), "SELECT 2").unwrap();
    for row in TABLE {
        let (section, key) = (row.section(), row.key());
        let plain = parse_in(dir.path(), &project_with(section, &[])).unwrap();
        let text = project_with(section, &[(key, other_value(section, key))]);
        let changed = parse_in(dir.path(), &text).unwrap_or_else(|error| panic!("{error}"));
        assert_ne!(
            changed,
            plain,
            "`{key}` in `{}` changes nothing",
            section.header()
        );
    }
}

#[test]
fn every_default_of_the_table_is_the_parsers() {
    let dir = folder();
    for row in TABLE {
        let (section, key) = (row.section(), row.key());
        let plain_text = match key {
            // A key of fields of numbers is compared with a field of numbers without it.
            "from_text" => {
                project_with(section, &[(key, "true")]).replace("from_text = true\n", "")
            }
            _ => project_with(section, &[]),
        };
        let plain = parse_in(dir.path(), &plain_text).unwrap();
        let value = match row.fallback() {
            Fallback::Default(value) => value,
            Fallback::Unset { example } => {
                let text = project_with(section, &[(key, example)]);
                parse_in(dir.path(), &text).unwrap_or_else(|error| panic!("{error}"));
                continue;
            }
            Fallback::Required { .. } => continue,
        };
        let written = parse_in(dir.path(), &project_with(section, &[(key, &value)])).unwrap();
        assert_eq!(written, plain, "`{key} = {value}` is not the default");
    }
}

#[test]
fn no_key_is_accepted_that_the_table_lacks() {
    let listed = |section: Section, key: &str| section.rows().any(|row| row.key() == key);
    // Every key of any table, and the names of the structs' fields that are not keys.
    let mut keys: Vec<&str> = TABLE.iter().map(|row| row.key()).collect();
    keys.extend([
        "name",
        "dir",
        "memory_bytes",
        "sql_path",
        "sql_text",
        "query",
        "cron",
    ]);
    for section in Section::ALL {
        for key in keys.iter().filter(|key| !listed(section, key)) {
            let text = project_with(section, &[(key, "1")]);
            let error = parse_in(folder().path(), &text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("unknown key `{key}` in ")),
                "{error}"
            );
        }
    }
}

#[test]
fn the_table_names_no_key_twice_and_describes_each() {
    for (at, row) in TABLE.iter().enumerate() {
        let twin = |other: &&dyn Row| other.section() == row.section() && other.key() == row.key();
        assert!(
            !TABLE[..at].iter().any(twin),
            "`{}` is listed twice",
            row.key()
        );
        assert!(
            row.doc().ends_with('.') && !row.doc().starts_with(' '),
            "{}",
            row.doc()
        );
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let dir = folder();
    let at = dir.path();
    let project = parse_in(at, "").unwrap();
    let expected = Project {
        dir: at.to_path_buf(),
        storage: StorageSettings {
            url: "file://./data".to_owned(),
            endpoint: None,
            region: None,
            path_style: None,
            grace: Duration::from_secs(3_600),
            orphan_grace: Duration::from_secs(86_400),
            history_for: Some(Duration::from_secs(90 * 86_400)),
            compact_below_bytes: Some(32_000_000),
            compact_to_bytes: 128_000_000,
            mode: 0o640,
        },
        daemon: DaemonSettings {
            http: "127.0.0.1:8787".to_owned(),
            advertise: None,
            wal: at.join("wal"),
            land_every: Duration::from_secs(5),
            land_facts: 500_000,
            land_bytes: 256_000_000,
            wal_bytes: 4_000_000_000,
            memory_bytes: 2_000_000_000,
            spill_bytes: 4_000_000_000,
            request_memory_bytes: 512_000_000,
            max_request_bytes: 256_000_000,
            max_record_bytes: 16_000_000,
            idempotency_window: Duration::from_secs(3_600),
            idempotency_keys: 1_000_000,
            checkpoint_every: 100,
            maintain_every: Duration::from_secs(600),
            peer_timeout: Duration::from_secs(2),
            shutdown_timeout: Duration::from_secs(25),
        },
        http: HttpSettings {
            hosts: vec![],
            origins: vec![],
            base: None,
            connections: 2_000,
            connections_per_address: 500,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            least_rate: 16_000,
        },
        postgres: PostgresSettings {
            listen: None,
            connections: 200,
            max_message_bytes: 16_000_000,
        },
        flight: FlightSettings {
            listen: None,
            connections: 200,
            max_message_bytes: 64_000_000,
        },
        users: UsersSettings {
            file: None,
            insecure_no_users: false,
        },
        tls: TlsSettings {
            files: None,
            insecure_no_tls: false,
        },
        audit: AuditSettings {
            statements: true,
            required: false,
            keep: Duration::from_secs(90 * 24 * 3_600),
        },
        batch: BatchSettings {
            memory_bytes: 1_000_000_000,
            threads: 0,
        },
        build: BuildSettings {
            threads: 1,
            memory_bytes: 1_000_000_000,
            nice: 10,
            hold: Duration::from_secs(7 * 24 * 3_600),
        },
        query: QuerySettings {
            memory_bytes: 2_000_000_000,
            timeout: Duration::from_secs(300),
            threads: 0,
            at_once: 16,
            waiting: 100,
            process_bytes: None,
            spill_bytes: 10_000_000_000,
            max_statement_bytes: 1_000_000,
            max_terms: 5_000,
            max_function_bytes: 256_000_000,
            verifications: 2,
            verify_timeout: Duration::from_secs(3_600),
            as_of_facts: 50_000_000,
        },
        log: LogSettings {
            format: LogFormat::Text,
            slow_query: Some(Duration::from_secs(10)),
        },
        topics: vec![],
        references: vec![],
        steps: vec![],
        views: vec![],
    };
    assert_eq!(project, expected);
    let project = parse_in(at, &defaults()).unwrap();
    assert_eq!(project.topics[0].ack, Ack::Wal);
    assert_eq!(project.topics[0].unknown_fields, UnknownFields::Keep);
    let view = ViewSettings {
        name: "a_views".to_owned(),
        sql_path: at.join("v.sql"),
        sql_text: "SELECT 1".to_owned(),
        refresh_every: None,
        rebuild_cron: None,
        verify_cron: None,
        timezone: "UTC".to_owned(),
        export: false,
        keep_previous: Some(Duration::from_secs(24 * 3_600)),
        moved: None,
        gate: GateSettings::default(),
    };
    assert_eq!(project.views, [view]);
}

#[test]
fn the_reference_shows_every_setting_with_its_default() {
    let text = reference();
    for section in Section::ALL {
        let header = format!("\n{}", section.header());
        let after = text.split_once(&header).unwrap().1;
        let part = after.split("\n\n").next().unwrap();
        for row in section.rows() {
            let line = part
                .lines()
                .find(|line| line.trim_start().starts_with(row.key()))
                .unwrap();
            assert!(
                line.contains(row.type_name()) && line.ends_with(row.doc()),
                "{line}"
            );
            if let Fallback::Default(value) = row.fallback() {
                assert!(line.contains(&value), "{line}");
            }
        }
    }
    let line = "  land_every          duration      \"5s\"              Facts land in the log at least this often.\n";
    assert!(text.contains(line), "{text}");
}

/// Writes the template's files and returns its settings.
fn write_template(dir: &Path, name: &str) -> String {
    let (toml, files) = template(name);
    for (path, contents) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }
    std::fs::write(dir.join(FILE_NAME), &toml).unwrap();
    toml
}

#[test]
fn the_template_loads() {
    let dir = tempfile::tempdir().unwrap();
    write_template(dir.path(), "news\nstray = 1");
    let project = Project::load(dir.path()).unwrap_or_else(|error| panic!("{error}"));
    let [topic] = &project.topics[..] else {
        panic!("{:?}", project.topics)
    };
    let fields: Vec<String> = topic
        .fields
        .iter()
        .map(|field| format!("{} {} {}", field.name, field.field_type, field.not_null))
        .collect();
    assert_eq!(
        fields,
        [
            "ts timestamp true",
            "url varchar true",
            "author varchar false",
            "section varchar false",
            "referrer varchar false",
            "visitor varchar false",
            "action varchar false",
            "engaged_ms bigint false",
        ]
    );
    assert_eq!(
        (topic.name.as_str(), topic.event_time.as_str()),
        ("pageviews", "ts")
    );
    let [view] = &project.views[..] else {
        panic!("{:?}", project.views)
    };
    assert_eq!(view.name, "post_minutes");
    assert_eq!(view.sql_path, dir.path().join("views/post_minutes.sql"));
    assert!(view.sql_text.ends_with("\nFROM pageviews GROUP BY 1, 2\n"));
    assert_eq!(view.refresh_every, Some(Duration::from_secs(300)));
    assert_eq!(view.rebuild_cron.as_deref(), Some("0 3 * * *"));
    assert_eq!(view.timezone, "Europe/Berlin");
}

#[test]
fn the_templates_comments_are_settings_with_their_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let toml = write_template(dir.path(), "news");
    let before = Project::load(dir.path()).unwrap();
    let rows = || {
        TABLE
            .iter()
            .filter(|row| !is_off_unless_written(row.section()))
    };
    let unset: Vec<&str> = rows()
        .filter(|row| matches!(row.fallback(), Fallback::Unset { .. }))
        .map(|row| row.key())
        .collect();
    let mut keys = 0;
    let uncommented: String = toml
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            // Its default is to be unset, so the comment shows an example.
            Some(setting)
                if unset
                    .iter()
                    .any(|key| setting.split(' ').next() == Some(key)) =>
            {
                format!("# {setting}\n")
            }
            Some(setting) if setting.contains(" = ") => {
                keys += 1;
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    // All but those that the template sets, and the examples.
    let written = ["event_time", "fields", "sql", "timezone"];
    assert_eq!(keys, rows().count() - written.len() - unset.len());
    assert_eq!(parse_in(dir.path(), &uncommented).unwrap(), before);
}

#[test]
fn topics_views_and_fields_keep_the_order_of_the_file() {
    let project = parse(
        r#"
        [views.zulu]
        sql = "v.sql"
        [topics.y]
        event_time = "ts"
        fields = { z = "int", a = "int", ts = "timestamp not null" }
        [topics.b.fields]
        k = "int"
        j = "int"
        ts = "timestamp not null"
        [views.alpha]
        sql = "v.sql"
        [topics.b]
        event_time = "ts"
        "#,
    );
    let views: Vec<&str> = project
        .views
        .iter()
        .map(|view| view.name.as_str())
        .collect();
    assert_eq!(views, ["zulu", "alpha"]);
    let topics: Vec<&str> = project
        .topics
        .iter()
        .map(|topic| topic.name.as_str())
        .collect();
    assert_eq!(topics, ["y", "b"]);
    let names = |topic: &TopicSettings| -> Vec<String> {
        topic
            .fields
            .iter()
            .map(|field| field.name.clone())
            .collect()
    };
    assert_eq!(names(&project.topics[0]), ["z", "a", "ts"]);
    assert_eq!(names(&project.topics[1]), ["k", "j", "ts"]);
}

#[test]
fn durations_sizes_and_numbers_are_read_in_their_spellings() {
    let sized = |value: &str| {
        parse(&format!("[batch]\nmemory = {value}"))
            .batch
            .memory_bytes
    };
    assert_eq!(sized("\"256MB\""), 256_000_000);
    assert_eq!(sized("\"256MiB\""), 268_435_456);
    assert_eq!(sized("\"3 gib\""), 3_221_225_472);
    assert_eq!(sized("\"512\""), 512);
    assert_eq!(sized("\"5KB\""), 5_000);
    assert_eq!(sized("1_000_000"), 1_000_000);
    assert_eq!(sized("0x100"), 256);
    let lasting = |value: &str| {
        parse(&format!("[daemon]\nland_every = \"{value}\""))
            .daemon
            .land_every
    };
    assert_eq!(lasting("1h 30m"), Duration::from_secs(5400));
    assert_eq!(lasting("250ms"), Duration::from_millis(250));
    for address in [
        "0.0.0.0:80",
        "[::1]:8787",
        "localhost:8787",
        "db-1.example:1",
    ] {
        let project = parse(&format!("[daemon]\nhttp = \"{address}\""));
        assert_eq!(project.daemon.http, address);
    }
}

#[test]
fn storage_and_paths_are_seen_from_the_project() {
    let dir = folder();
    let url = |value: &str| {
        let text = format!("[storage]\nurl = \"{value}\"");
        parse_in(dir.path(), &text).unwrap().storage.url
    };
    for value in [
        "file://./a/b",
        "file:///srv/data",
        "./a/b",
        "/srv/data",
        "s3://bucket/prefix",
    ] {
        assert_eq!(url(value), value);
    }
    assert_eq!(url("FILE://Data"), "file://Data");
    assert_eq!(url("S3://Bucket"), "s3://Bucket");
    let wal = |value: &str| {
        let text = format!("[daemon]\nwal = \"{value}\"");
        parse_in(dir.path(), &text).unwrap().daemon.wal
    };
    assert_eq!(wal("./a/b"), dir.path().join("a/b"));
    assert_eq!(wal("../b"), dir.path().join("../b"));
    assert_eq!(wal("/srv/wal"), Path::new("/srv/wal"));
    let project = Project::parse("", Path::new(FILE_NAME), &unset).unwrap();
    assert_eq!(project.daemon.wal, Path::new("wal"));
    // Paths compare alike with and without `.`, but a message shows it.
    let project = parse_in(Path::new("p"), "[daemon]\nwal = \"./w\"").unwrap();
    assert_eq!(project.daemon.wal.as_os_str(), "p/w");
}

#[test]
fn variables_are_replaced_in_strings_once() {
    let environment = |name: &str| {
        let value = match name {
            "BUCKET" => "news-${NOT_AGAIN}",
            "FACTS" => "42",
            "TYPE" => "timestamp",
            "TRUE" => "true",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let text = r#"
        [storage]
        url = "s3://${BUCKET}/$${BUCKET}/$x$"
        [daemon]
        land_facts = "${FACTS}"
        wal_bytes = "${FACTS}KB"
        [topics.t]
        event_time = "ts"
        fields = { ts = "${TYPE} not null" }
        [views.v]
        sql = "v.sql"
        export = "${TRUE}"
    "#;
    let dir = folder();
    let project = Project::parse(text, &dir.path().join(FILE_NAME), &environment).unwrap();
    let url = "s3://news-${NOT_AGAIN}/${BUCKET}/$x$".to_owned();
    assert_eq!(project.storage.url, url);
    assert_eq!(project.daemon.land_facts, 42);
    assert_eq!(project.daemon.wal_bytes, 42_000);
    assert_eq!(project.topics[0].fields[0].field_type, FieldType::Timestamp);
    assert!(project.views[0].export);
}

#[test]
fn load_reads_variables_of_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[storage]\nurl = \"s3://b${PATH}\"";
    std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
    let url = format!("s3://b{}", std::env::var("PATH").unwrap());
    assert_eq!(Project::load(dir.path()).unwrap().storage.url, url);
}

#[test]
fn a_byte_order_mark_and_carriage_returns_are_no_error() {
    let project = parse("\u{feff}[daemon]\r\nland_facts = 9\r\n");
    assert_eq!(project.daemon.land_facts, 9);
}

/// A topic with `dedup` as written.
fn with_dedup(dedup: &str) -> Result<Project, SettingsError> {
    let text = format!(
        "[topics.t]\nevent_time = \"ts\"\ndedup = {dedup}\n[topics.t.fields]\nts = \"timestamp not null\"\nevent_id = \"varchar\"\nscore = \"double\"\nwords = \"varchar[]\"\n"
    );
    parse_in(folder().path(), &text)
}

#[test]
fn dedup_is_off_unless_written_and_has_defaults_of_its_own() {
    assert_eq!(parse(&defaults()).topics[0].dedup, None);
    let dedup = |text: &str| with_dedup(text).unwrap().topics[0].dedup.clone();
    let expected = DedupSettings {
        key: "event_id".to_owned(),
        window: Duration::from_secs(3_600),
        memory_bytes: 256_000_000,
    };
    assert_eq!(dedup("{ key = \"event_id\" }"), Some(expected.clone()));
    let other = DedupSettings {
        window: Duration::from_secs(60),
        memory_bytes: 1_024,
        ..expected
    };
    let written = "{ key = \"event_id\", window = \"1m\", memory = \"1KiB\" }";
    assert_eq!(dedup(written), Some(other));
}

#[test]
fn a_wrong_dedup_is_refused_with_what_to_write() {
    for (dedup, says) in [
        (
            "true",
            "`topics.t.dedup` must be a table, found the boolean `true`",
        ),
        (
            "{}",
            "`[topics.t.dedup]` lacks `key`; write for example `key = \"event_id\"`",
        ),
        (
            "{ key = \"event_id\", windw = \"1h\" }",
            "unknown key `windw` in `[topics.t.dedup]`; did you mean `window`?",
        ),
        (
            "{ key = \"event_di\" }",
            "`key` in `[topics.t.dedup]` must name a field of the topic, found the string `event_di`; did you mean `event_id`?",
        ),
        (
            "{ key = \"score\" }",
            "field `score` is of type `double`, which can't be compared exactly",
        ),
        (
            "{ key = \"words\" }",
            "field `words` is of type `varchar[]`, which can't be compared exactly",
        ),
        (
            "{ key = \"event_id\", memory = 0 }",
            "`memory` in `[topics.t.dedup]` must be a size",
        ),
    ] {
        let error = with_dedup(dedup).unwrap_err().to_string();
        assert!(error.contains(says), "{dedup}: {error}");
    }
}

#[test]
fn the_share_of_dead_letters_is_a_percentage_or_off() {
    let share = |text: &str| {
        let written = [("dead_letter_share", text)];
        let text = project_with(Section::Topic, &written);
        parse_in(folder().path(), &text).map(|project| project.topics[0].dead_letter_share)
    };
    assert_eq!(share("\"off\"").unwrap(), DeadLetterShare::Off);
    assert_eq!(share("\"7%\"").unwrap(), DeadLetterShare::Percent(7));
    for wrong in ["\"100%\"", "0.5", "\"-1%\"", "\"50\"", "true"] {
        let error = share(wrong).unwrap_err().to_string();
        assert!(error.contains("a whole percentage"), "{wrong}: {error}");
    }
}
