//! A topic's schema changes: a new nullable field takes effect without a rebuild, with facts of the
//! old schema in the log and in the WAL and a daemon of the old schema running; anything else is
//! refused with the way to do it.

use std::path::Path;

use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::ledger::{check_law, line};
use anabranch_tests::places;
use anabranch_tests::process::{Setup, run_well, write_project};

fn edit(dir: &Path, from: &str, to: &str) -> anyhow::Result<()> {
    let path = dir.join("anabranch.toml");
    let project = std::fs::read_to_string(&path)?;
    anyhow::ensure!(project.contains(from), "no `{from}` in {project}");
    Ok(std::fs::write(path, project.replace(from, to))?)
}

/// Facts that name a field which is not declared at first.
fn lines(ids: std::ops::Range<i64>) -> String {
    let with_kind = |id| line(id).replace('}', &format!(",\"kind\":\"k{}\"}}", id % 2));
    ids.map(with_kind).collect()
}

async fn post(daemon: &Daemon, ids: std::ops::Range<i64>) -> anyhow::Result<()> {
    let facts = ids.end - ids.start;
    let (status, answer) = daemon.post("facts", &[], lines(ids).as_bytes()).await?;
    anyhow::ensure!(status == 200 && answer["facts"] == facts, "{answer}");
    Ok(())
}

/// The schema of the log as its newest metadata says it to other engines.
fn delta_fields(dir: &Path) -> anyhow::Result<Vec<String>> {
    let log = dir.join("data/topics/facts/log/_delta_log");
    let mut entries: Vec<_> = std::fs::read_dir(log)?
        .map(|e| Ok(e?.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    entries.retain(|p| p.extension().is_some_and(|e| e == "json"));
    entries.sort();
    let mut newest = Vec::new();
    for entry in entries {
        for action in std::fs::read_to_string(&entry)?.lines() {
            let action: serde_json::Value = serde_json::from_str(action)?;
            let Some(schema) = action["metaData"]["schemaString"].as_str() else {
                continue;
            };
            let schema: serde_json::Value = serde_json::from_str(schema)?;
            let fields = schema["fields"].as_array().cloned().unwrap_or_default();
            let name = |f: &serde_json::Value| f["name"].as_str().unwrap_or_default().to_owned();
            newest = fields.iter().map(name).collect();
        }
    }
    Ok(newest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_nullable_field_takes_effect_without_a_rebuild() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let dir = dir.path();
    write_project(dir, Setup::default())?;
    let daemon = Daemon::start(dir).await?;
    post(&daemon, 0..100).await?;
    daemon.stop().await?;
    run_well(dir, &["batch", "refresh"]).await?;
    // Facts of the old schema stay in the WAL of a daemon that dies.
    edit(dir, "land_every = \"100ms\"", "land_every = \"1h\"")?;
    let daemon = Daemon::start(dir).await?;
    post(&daemon, 100..150).await?;
    let before = daemon.rows("SELECT * FROM words ORDER BY word").await?;
    daemon.kill()?;

    edit(
        dir,
        "word = \"varchar\"",
        "word = \"varchar\"\nkind = \"varchar\"\nscore = \"double\"",
    )?;
    let daemon = Daemon::start(dir).await?;
    let after = daemon.rows("SELECT * FROM words ORDER BY word").await?;
    anyhow::ensure!(before == after, "{before:?} became {after:?}");
    let status = run_well(dir, &["--format", "json", "status"]).await?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let view = &status["views"][0];
    anyhow::ensure!(
        view["edited"] == false && view["generation"] == 1,
        "{status}"
    );
    anyhow::ensure!(status["topics"][0]["unlanded_facts"] == 50, "{status}");
    post(&daemon, 150..200).await?;
    let sql = "SELECT count(*), count(kind), count(score), count(_extra), min(id) FILTER (WHERE kind IS NOT NULL), max(id) FILTER (WHERE _extra LIKE '%kind%') FROM facts";
    let expected = [["200", "50", "0", "150", "150", "149"]];
    anyhow::ensure!(
        daemon.rows(sql).await? == expected,
        "{:?}",
        daemon.rows(sql).await?
    );
    check_law("facts of both schemas, unlanded", &daemon.context).await?;
    daemon.stop().await?;
    let said = run_well(dir, &["--format", "csv", "sql", "-c", sql]).await?;
    anyhow::ensure!(
        said.lines().nth(1) == Some("200,50,0,150,150,149"),
        "{said}"
    );
    let fields = delta_fields(dir)?;
    anyhow::ensure!(
        fields.contains(&"kind".to_owned()) && fields.contains(&"score".to_owned()),
        "other engines see {fields:?}"
    );

    let daemon = Daemon::start(dir).await?;
    run_well(dir, &["batch", "refresh"]).await?;
    check_law("after a refresh", &daemon.context).await?;
    // A view may use the new field; it reads NULL of the older facts.
    std::fs::write(
        dir.join("kinds.sql"),
        "SELECT kind, count(*) AS c FROM facts GROUP BY kind",
    )?;
    edit(
        dir,
        "[views.words]",
        "[views.kinds]\nsql = \"kinds.sql\"\n[views.words]",
    )?;
    run_well(dir, &["batch", "rebuild"]).await?;
    daemon.stop().await?;
    let kinds = [
        "--format",
        "csv",
        "sql",
        "-c",
        "SELECT c, kind FROM kinds ORDER BY c DESC, kind",
    ];
    let said = run_well(dir, &kinds).await?;
    anyhow::ensure!(said == "c,kind\n150,\n25,k0\n25,k1\n", "{said}");
    run_well(dir, &["verify"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_of_the_old_schema_goes_on_beside_commands_of_the_new_one() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let dir = dir.path();
    write_project(dir, Setup::default())?;
    let daemon = Daemon::start(dir).await?;
    post(&daemon, 0..50).await?;
    daemon.landed("facts", 50).await?;
    edit(
        dir,
        "word = \"varchar\"",
        "word = \"varchar\"\nkind = \"varchar\"",
    )?;
    run_well(dir, &["batch", "refresh"]).await?;
    post(&daemon, 50..100).await?;
    daemon.landed("facts", 100).await?;
    run_well(dir, &["batch", "rebuild"]).await?;
    post(&daemon, 100..150).await?;
    check_law("beside the new schema", &daemon.context).await?;
    let counted = daemon
        .rows("SELECT count(*), count(_extra) FROM facts")
        .await?;
    anyhow::ensure!(counted == [["150", "150"]], "{counted:?}");
    daemon.stop().await?;
    let daemon = Daemon::start(dir).await?;
    post(&daemon, 150..200).await?;
    let sql = "SELECT count(*), count(kind), count(_extra) FROM facts";
    let counted = daemon.rows(sql).await?;
    anyhow::ensure!(counted == [["200", "50", "150"]], "{counted:?}");
    check_law("with the new schema", &daemon.context).await?;
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_change_is_refused_with_the_way_to_do_it() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let dir = dir.path();
    write_project(dir, Setup::default())?;
    edit(
        dir,
        "word = \"varchar\"",
        "word = \"varchar\"\nsmall = \"int\"\nat = \"timestamp not null\"",
    )?;
    let daemon = Daemon::start(dir).await?;
    let at = line(1).replace('}', ",\"at\":\"2026-01-01T00:00:00Z\"}");
    let (status, _) = daemon.post("facts", &[], at.as_bytes()).await?;
    anyhow::ensure!(status == 200);
    daemon.stop().await?;
    let written = std::fs::read_to_string(dir.join("anabranch.toml"))?;
    for (what, from, to, says) in [
        (
            "widening",
            "small = \"int\"",
            "small = \"bigint\"",
            "field `small` changed from `int` to `bigint`",
        ),
        (
            "narrowing",
            "id = \"bigint not null\"",
            "id = \"int not null\"",
            "field `id` changed from `bigint not null` to `int not null`",
        ),
        (
            "dropping",
            "small = \"int\"\n",
            "",
            "field `small` was removed or moved",
        ),
        (
            "not null",
            "small = \"int\"",
            "small = \"int not null\"",
            "field `small` changed from `int` to `int not null`",
        ),
        (
            "nullable",
            "id = \"bigint not null\"",
            "id = \"bigint\"",
            "field `id` changed from `bigint not null` to `bigint`",
        ),
        (
            "renaming",
            "small = \"int\"",
            "tiny = \"int\"",
            "field `small` was removed or moved",
        ),
        (
            "event time",
            "event_time = \"ts\"",
            "event_time = \"at\"",
            "`event_time` changed from `ts` to `at`",
        ),
        (
            "a new field that is not null",
            "small = \"int\"\nat = \"timestamp not null\"",
            "small = \"int\"\nat = \"timestamp not null\"\nnew = \"int not null\"",
            "the new field `new` is `not null`",
        ),
    ] {
        edit(dir, from, to)?;
        for command in [&["status"][..], &["speed"], &["batch", "rebuild"]] {
            let ran = run(dir, command)?;
            anyhow::ensure!(
                ran.code == Some(64)
                    && ran.complained.contains(says)
                    && ran
                        .complained
                        .contains("declare a new field or a new topic"),
                "{what}, {command:?}: {ran:?}"
            );
        }
        std::fs::write(dir.join("anabranch.toml"), &written)?;
    }
    run_well(dir, &["status"]).await?;
    run_well(dir, &["verify"]).await?;
    Ok(())
}
