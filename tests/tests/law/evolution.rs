//! A topic's schema changes: a new nullable field takes effect without a rebuild and without a
//! restart, with facts of the old schema in the log and in the WAL, and is read from what those kept
//! undeclared; anything else is refused with the way to do it.

use std::path::Path;

use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::ledger::{check_law, line};
use anabranch_tests::places;
use anabranch_tests::process::{Setup, run_well, until, write_project};

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
    let expected = [["200", "200", "0", "150", "0", "149"]];
    anyhow::ensure!(
        daemon.rows(sql).await? == expected,
        "{:?}",
        daemon.rows(sql).await?
    );
    check_law("facts of both schemas, unlanded", &daemon.context).await?;
    daemon.stop().await?;
    let said = run_well(dir, &["--format", "csv", "sql", "-c", sql]).await?;
    anyhow::ensure!(said.lines().nth(1) == Some("200,200,0,150,0,149"), "{said}");
    let fields = delta_fields(dir)?;
    anyhow::ensure!(
        fields.contains(&"kind".to_owned()) && fields.contains(&"score".to_owned()),
        "other engines see {fields:?}"
    );

    let daemon = Daemon::start(dir).await?;
    run_well(dir, &["batch", "refresh"]).await?;
    check_law("after a refresh", &daemon.context).await?;
    // A view may use the new field, and reads it from what the older facts kept.
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
    anyhow::ensure!(said == "c,kind\n100,k0\n100,k1\n", "{said}");
    run_well(dir, &["verify"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_takes_a_new_field() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let dir = dir.path();
    write_project(dir, Setup::default())?;
    let daemon = Daemon::start(dir).await?;
    post(&daemon, 0..50).await?;
    let unfit = line(-1).replace('}', ",\"kind\":5}");
    let (status, answer) = daemon.post("facts", &[], unfit.as_bytes()).await?;
    anyhow::ensure!(status == 200 && answer["facts"] == 1, "{answer}");
    daemon.landed("facts", 51).await?;
    // Between the others, and nobody is told.
    edit(
        dir,
        "word = \"varchar\"",
        "kind = \"varchar\"\nword = \"varchar\"",
    )?;
    run_well(dir, &["batch", "refresh"]).await?;
    post(&daemon, 50..100).await?;
    check_law("beside the new schema", &daemon.context).await?;
    let count = "SELECT count(*), count(kind) FROM facts";
    // Until it knows the field it says that there is none.
    until("the field is taken", async || {
        Ok(daemon.rows(count).await.is_ok())
    })
    .await?;
    let counted = daemon.rows(count).await?;
    anyhow::ensure!(counted == [["101", "100"]], "{counted:?}");
    let (_, metrics) = daemon.get("/metrics").await?;
    let unfit = "anabranch_extra_misfits_total{field=\"kind\"} ";
    anyhow::ensure!(metrics.contains(unfit), "{metrics}");
    let status = run_well(dir, &["status"]).await?;
    anyhow::ensure!(
        status.contains("field `kind`: values in `_extra`"),
        "{status}"
    );
    post(&daemon, 100..150).await?;
    let sql = "SELECT count(*), count(kind), count(_extra) FROM facts WHERE id >= 100";
    let counted = daemon.rows(sql).await?;
    anyhow::ensure!(counted == [["50", "50", "0"]], "{counted:?}");
    daemon.landed("facts", 151).await?;
    run_well(dir, &["batch", "rebuild"]).await?;
    check_law("with the new schema", &daemon.context).await?;
    daemon.stop().await?;
    let daemon = Daemon::start(dir).await?;
    let sql = "SELECT count(*) FROM facts WHERE kind = 'k1'";
    let counted = daemon.rows(sql).await?;
    anyhow::ensure!(counted == [["75"]], "{counted:?}");
    daemon.stop().await
}

/// The project that `init` makes, with a daemon that runs, and a fact of before the edit.
async fn first_hour(dir: &Path, points: &str) -> anyhow::Result<Daemon> {
    run_well(dir, &["init", &dir.display().to_string()]).await?;
    edit(dir, "\n[daemon]\n", "\n[daemon]\nhttp = \"127.0.0.1:0\"\n")?;
    let daemon = Daemon::start_with(dir, &["up"], points).await?;
    let fact = br#"{"ts":"2026-01-01T09:00:00Z","url":"/before","device":"desk"}"#;
    let (status, answer) = daemon.post("pageviews", &[], fact).await?;
    anyhow::ensure!(status == 200 && answer["unknown_fields"] == 1, "{answer}");
    Ok(daemon)
}

/// Adds a field to the topic and to the view's keys, and cuts over.
async fn add_device(dir: &Path) -> anyhow::Result<()> {
    edit(
        dir,
        "engaged_ms = \"bigint\"\n",
        "engaged_ms = \"bigint\"\ndevice = \"varchar\"\n",
    )?;
    let view = dir.join("views/post_minutes.sql");
    let sql = std::fs::read_to_string(&view)?;
    let sql = sql.replace("url, count", "url, device, count");
    std::fs::write(&view, sql.replace("GROUP BY 1, 2", "GROUP BY 1, 2, 3"))?;
    run_well(dir, &["apply", "--yes"]).await?;
    Ok(())
}

const BY_DEVICE: &str = "SELECT url, device, page_views FROM post_minutes ORDER BY url";

const PHONE: &[u8] = br#"{"ts":"2026-01-01T10:00:00Z","url":"/a","device":"phone"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_added_under_a_running_daemon_is_answered_right() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let dir = dir.path();
    let daemon = first_hour(dir, "").await?;
    add_device(dir).await?;
    let (status, answer) = daemon.post("pageviews", &[], PHONE).await?;
    anyhow::ensure!(status == 200, "{answer}");
    // Until then the former generation answers, which has no such column.
    until("the daemon serves", async || {
        Ok(daemon.rows(BY_DEVICE).await.is_ok())
    })
    .await?;
    let expected = [["/a", "phone", "1"], ["/before", "desk", "1"]];
    let counted = daemon.rows(BY_DEVICE).await?;
    anyhow::ensure!(counted == expected, "{counted:?}");
    for device in ["desk", "phone"] {
        let sql = format!("SELECT count(*) FROM pageviews WHERE device = '{device}'");
        let counted = daemon.rows(&sql).await?;
        anyhow::ensure!(counted == [["1"]], "{device}: {counted:?}");
    }
    let verify = [&["verify"][..], &["verify", "--daemon"]];
    for command in verify {
        let said = run_well(dir, command).await?;
        anyhow::ensure!(
            said.contains("2 rows compared, 0 differ"),
            "{command:?}: {said}"
        );
    }
    daemon.landed("pageviews", 2).await?;
    run_well(dir, &["batch", "refresh"]).await?;
    for command in verify {
        run_well(dir, command).await?;
    }
    let counted = daemon.rows(BY_DEVICE).await?;
    anyhow::ensure!(counted == expected, "after the refresh: {counted:?}");
    let said = run_well(dir, &["tail", "pageviews", "--from", "0", "--no-follow"]).await?;
    for device in ["desk", "phone"] {
        anyhow::ensure!(said.contains(&format!("\"device\":\"{device}\"")), "{said}");
    }
    daemon.stop().await?;
    let said = run_well(dir, &["--format", "csv", "sql", "-c", BY_DEVICE]).await?;
    anyhow::ensure!(
        said == "url,device,page_views\n/a,phone,1\n/before,desk,1\n",
        "{said}"
    );
    run_well(dir, &["verify"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_refused_by_name_while_its_field_is_not_taken() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let dir = dir.path();
    let daemon = first_hour(dir, "take-fields=return").await?;
    add_device(dir).await?;
    let (status, answer) = daemon.post("pageviews", &[], PHONE).await?;
    anyhow::ensure!(status == 200, "{answer}");
    let says =
        |text: &str| text.contains("view `post_minutes` reads field `device` of topic `pageviews`");
    let failing = async || daemon.client.views_that_fail().await;
    until("the view is refused", async || {
        Ok(!failing().await?.is_empty())
    })
    .await?;
    let failing = failing().await?;
    let why = failing.get("post_minutes");
    anyhow::ensure!(why.is_some_and(|why| says(why)), "{failing:?}");
    let refused = daemon.rows(BY_DEVICE).await;
    anyhow::ensure!(
        refused.as_ref().is_err_and(|e| says(&e.to_string())),
        "{refused:?}"
    );
    let (_, ready) = daemon.get("/ready").await?;
    anyhow::ensure!(says(&ready), "{ready}");
    let status = run_well(dir, &["status"]).await?;
    anyhow::ensure!(says(&status), "{status}");
    let ran = run(dir, &["verify", "--daemon"])?;
    anyhow::ensure!(says(&ran.complained), "{ran:?}");
    daemon.kill()?;
    let daemon = Daemon::start(dir).await?;
    let counted = daemon.rows(BY_DEVICE).await?;
    let expected = [["/a", "phone", "1"], ["/before", "desk", "1"]];
    anyhow::ensure!(counted == expected, "{counted:?}");
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_takes_new_topics_and_views() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let dir = dir.path();
    write_project(dir, Setup::default())?;
    let daemon = Daemon::start(dir).await?;
    std::fs::write(
        dir.join("clicks.sql"),
        "SELECT x, count(*) AS c FROM clicks GROUP BY x",
    )?;
    edit(
        dir,
        "[views.words]",
        "[topics.clicks]\nevent_time = \"at\"\n[topics.clicks.fields]\nat = \"timestamp not null\"\nx = \"int\"\n[views.clicks_by_x]\nsql = \"clicks.sql\"\n[views.words]",
    )?;
    run_well(dir, &["batch", "refresh"]).await?;
    let click = br#"{"at":"2026-01-01T00:00:00Z","x":1}"#;
    let sent = async || Ok(daemon.post("clicks", &[], click).await?.0 == 200);
    until("the topic is taken", sent).await?;
    let sql = "SELECT x, c FROM clicks_by_x";
    until("the view is served", async || {
        Ok(daemon.rows(sql).await.is_ok())
    })
    .await?;
    let counted = daemon.rows(sql).await?;
    anyhow::ensure!(counted == [["1", "1"]], "{counted:?}");
    daemon.landed("clicks", 1).await?;
    daemon.stop().await?;
    run_well(dir, &["verify"]).await?;
    Ok(())
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
        let status = run_well(dir, &["status"]).await?;
        anyhow::ensure!(status.contains(says), "{what}: {status}");
        for command in [&["speed"][..], &["batch", "rebuild"]] {
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
