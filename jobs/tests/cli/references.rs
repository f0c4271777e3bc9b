//! References as their user meets them: what came late or was corrected reaches old facts by a rebuild, a
//! diff shows what an edit does and nothing else, and a daemon lets facts meet what has landed.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::support::{Project, wait_for_true};

/// Labels of words, and the reference of them.
const LABELS: &str = r#"
[topics.labels]
event_time = "at"
[topics.labels.fields]
at = "timestamp not null"
word = "varchar not null"
label = "varchar"
gone = "boolean"
[references.names]
topic = "labels"
key = "word"
latest_by = "at"
fields = "label"
deleted_when = "gone"
"#;

const BY_LABEL: &str = "SELECT names.label, count(*) AS c, sum(n) AS s FROM facts LEFT JOIN names ON names.word = facts.word GROUP BY 1";

fn project(sql: &str, more: &str) -> Result<Project> {
    Project::new(&[("by_label", sql, &format!("{more}{LABELS}"))])
}

/// Tells labels: minute, word, label.
fn tell(project: &Project, labels: &[(u32, &str, &str)]) -> Result<()> {
    let line = |(minute, word, label): &(u32, &str, &str)| {
        let gone = label.is_empty();
        format!(
            "{{\"at\":\"2026-01-01T00:{minute:02}:00Z\",\"word\":\"{word}\",\"label\":\"{label}\",\"gone\":{gone}}}\n"
        )
    };
    let text: String = labels.iter().map(line).collect();
    let path = project.path(&format!("labels-{}.ndjson", labels[0].0));
    std::fs::write(&path, text)?;
    project.ok(&["ingest", "labels", &path.display().to_string()])?;
    Ok(())
}

fn rows(project: &Project, sql: &str) -> Result<Vec<String>> {
    let answer = project.ok(&["--format", "csv", "sql", "-c", sql])?;
    Ok(answer.lines().skip(1).map(str::to_owned).collect())
}

fn by_label(project: &Project) -> Result<Vec<String>> {
    rows(
        project,
        "SELECT label, c FROM by_label ORDER BY label NULLS LAST",
    )
}

fn stale(project: &Project) -> Result<Value> {
    let status = project.json(&["status"])?;
    Ok(status["views"][0]["stale"]["names"].clone())
}

#[test]
fn what_comes_late_or_is_corrected_reaches_old_facts_by_a_rebuild() -> Result<()> {
    let project = project(BY_LABEL, "")?;
    project.ingest(0..10)?;
    project.ok(&["batch", "refresh"])?;
    ensure!(by_label(&project)? == [",10"], "{:?}", by_label(&project)?);
    tell(
        &project,
        &[(1, "w1", "one"), (1, "w2", "two"), (2, "w11", "one")],
    )?;
    // What was absorbed stays as it met them; what comes meets the newest.
    project.ingest(10..20)?;
    let found = by_label(&project)?;
    ensure!(found == ["one,1", ",19"], "{found:?}");
    ensure!(stale(&project)? == 10, "{}", project.ok(&["status"])?);
    project.ok(&["verify"])?;
    project.ok(&["batch", "rebuild"])?;
    let found = by_label(&project)?;
    ensure!(found == ["one,2", "two,1", ",17"], "{found:?}");
    ensure!(stale(&project)?.is_null(), "{}", project.ok(&["status"])?);
    // A correction, a row that comes late, and one that goes.
    tell(
        &project,
        &[(5, "w2", "deux"), (0, "w1", "zero"), (6, "w11", "")],
    )?;
    let names = rows(&project, "SELECT word, label FROM names ORDER BY word")?;
    ensure!(names == ["w1,one", "w2,deux"], "{names:?}");
    ensure!(by_label(&project)? == found, "facts met what came later");
    let status = project.ok(&["status"])?;
    ensure!(
        status.contains(
            "view `by_label`: at most 20 facts met rows of `names` from before it last changed"
        ),
        "{status}"
    );
    project.ok(&["verify"])?;
    project.ok(&["batch", "rebuild"])?;
    let found = by_label(&project)?;
    ensure!(found == ["deux,1", "one,1", ",18"], "{found:?}");
    let verified = project.ok(&["verify"])?;
    ensure!(verified.contains("0 differ"), "{verified}");
    let tree = project.ok(&["graph"])?;
    ensure!(
        tree.contains("reference names  (the latest at of each word)")
            && tree.contains("joins names"),
        "{tree}"
    );
    Ok(())
}

/// Above the aggregation a reference is a table, as far as its topic's head.
#[test]
fn a_query_joins_a_reference() -> Result<()> {
    let by_word =
        "SELECT word, count(*) AS c, count(DISTINCT n) AS different FROM facts GROUP BY 1";
    let project = Project::new(&[("by_word", by_word, LABELS)])?;
    project.ingest(0..10)?;
    tell(
        &project,
        &[
            (1, "w1", "odd"),
            (1, "w2", "even"),
            (1, "w3", "odd"),
            (2, "w4", ""),
        ],
    )?;
    let sql = "SELECT label, sum(c) AS c, combine(different) AS different FROM by_word LEFT JOIN names USING (word) GROUP BY 1 ORDER BY 1";
    let found = rows(&project, sql)?;
    ensure!(found == ["even,1,1", "odd,2,2", ",7,7"], "{found:?}");
    // What came later counts at once, and what is gone comes back.
    tell(&project, &[(3, "w4", "even"), (3, "w2", "odd")])?;
    let found = rows(&project, sql)?;
    ensure!(found == ["even,1,1", "odd,3,3", ",6,6"], "{found:?}");
    let near = project.run(&["sql", "-c", "SELECT * FROM nmaes"])?;
    let near = super::support::said(&near);
    ensure!(near.contains("`names`"), "{near}");
    Ok(())
}

#[test]
fn a_diff_shows_what_an_edit_does_alone() -> Result<()> {
    let gate = "[views.by_label.gate]\nrows_changed = 0\nkeys_lost = 0\nkeys_new = 0\n";
    let project = project(BY_LABEL, gate)?;
    project.ingest(0..10)?;
    tell(&project, &[(1, "w1", "one")])?;
    project.ok(&["batch", "refresh"])?;
    tell(&project, &[(2, "w1", "un"), (2, "w2", "deux")])?;
    project.ingest(10..12)?;
    project.ok(&["batch", "refresh"])?;
    let before = by_label(&project)?;
    ensure!(before == ["one,1", ",11"], "{before:?}");
    // One more column: no row that both have differs, whatever is known of words by now.
    let more = BY_LABEL.replace("sum(n) AS s", "sum(n) AS s, max(n) AS most");
    std::fs::write(project.path("by_label.sql"), more)?;
    project.ok(&["apply", "--yes"])?;
    ensure!(by_label(&project)? == before, "{:?}", by_label(&project)?);
    project.ok(&["verify"])?;
    project.ok(&["batch", "rebuild"])?;
    let found = by_label(&project)?;
    ensure!(found == ["deux,1", "un,1", ",10"], "{found:?}");
    // Another reference under the same SQL is an edit, and said to be one.
    let settings = project.path("anabranch.toml");
    let text = std::fs::read_to_string(&settings)?;
    std::fs::write(
        &settings,
        text.replace("deleted_when = \"gone\"", "deleted_when = \"label = 'un'\""),
    )?;
    let planned = project.fails(2, &["plan"])?;
    ensure!(planned.contains("other rows of names"), "{planned}");
    // And one that the gate stops.
    let refused = project.fails(3, &["apply", "--yes"])?;
    ensure!(
        refused.contains("rows_changed") || refused.contains("keys_lost"),
        "{refused}"
    );
    Ok(())
}

/// Each fact meets the row that was the latest at its time.
#[test]
fn facts_meet_rows_as_of_their_time() -> Result<()> {
    let sql = "SELECT date_trunc('hour', facts.ts) AS hour, names.label, count(*) AS c FROM facts ASOF JOIN names MATCH_CONDITION (facts.ts >= names.at) ON names.word = facts.word GROUP BY 1, 2";
    let project = project(sql, "")?;
    let fact =
        |hour: u32| format!("{{\"ts\":\"2026-01-01T0{hour}:30:00Z\",\"word\":\"w\",\"n\":1}}\n");
    let facts: String = [0, 1, 2, 2, 3].into_iter().map(fact).collect();
    std::fs::write(project.path("facts.ndjson"), facts)?;
    let label = |hour: u32, label: &str, gone: bool| {
        format!(
            "{{\"at\":\"2026-01-01T0{hour}:00:00Z\",\"word\":\"w\",\"label\":\"{label}\",\"gone\":{gone}}}\n"
        )
    };
    // The second comes before the first.
    let labels = label(2, "later", false) + &label(1, "first", false) + &label(3, "", true);
    std::fs::write(project.path("labels.ndjson"), labels)?;
    for topic in ["labels", "facts"] {
        let file = project.path(&format!("{topic}.ndjson"));
        project.ok(&["ingest", topic, &file.display().to_string()])?;
    }
    let asked = "SELECT extract(hour FROM hour) AS h, label, c FROM by_label ORDER BY 1";
    let expected = ["0,,1", "1,first,1", "2,later,2", "3,,1"];
    let found = rows(&project, asked)?;
    ensure!(found == expected, "{found:?}");
    project.ok(&["batch", "rebuild"])?;
    let found = rows(&project, asked)?;
    ensure!(found == expected, "{found:?}");
    project.ok(&["verify"])?;
    let other = sql.replace("names.at)", "names.label)");
    std::fs::write(project.path("by_label.sql"), other)?;
    let said = project.fails(64, &["plan"])?;
    ensure!(
        said.contains("write `MATCH_CONDITION (… >= names.at)`"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_daemon_lets_facts_meet_what_has_landed() -> Result<()> {
    let project = project(BY_LABEL, "")?;
    project.ingest(0..10)?;
    project.ok(&["batch", "refresh"])?;
    let (process, _) = project.daemon()?;
    tell(&project, &[(1, "w1", "one"), (1, "w11", "eleven")])?;
    // What comes meets the newest rows a moment after they have landed.
    let mut n = 11;
    wait_for_true(|| {
        project.ingest(n..n + 1)?;
        n += 1_000;
        Ok(by_label(&project)?
            .iter()
            .any(|row| row.starts_with("eleven,")))
    })?;
    project.ok(&["verify", "--daemon"])?;
    process.end(rustix::process::Signal::KILL)?;
    let (process, _) = project.daemon()?;
    let found = by_label(&project)?;
    let elevens = (n - 11) / 1_000;
    // What was absorbed is as it was, the rest is folded anew and meets the newest.
    ensure!(
        found == [format!("eleven,{elevens}"), ",10".to_owned()],
        "after a restart: {found:?}"
    );
    project.ok(&["verify", "--daemon"])?;
    project.ok(&["batch", "rebuild"])?;
    let expected = [
        format!("eleven,{elevens}"),
        "one,1".to_owned(),
        ",9".to_owned(),
    ];
    wait_for_true(|| Ok(by_label(&project)? == expected))?;
    project.ok(&["verify", "--daemon"])?;
    let status = project.ok(&["status"])?;
    ensure!(status.contains("reference names: 2 rows, "), "{status}");
    let names = rows(&project, "SELECT count(*) FROM names")?;
    ensure!(names == ["2"], "{names:?}");
    process.end(rustix::process::Signal::TERM)?;
    Ok(())
}

#[test]
fn what_can_not_be_a_join_is_told_with_its_place() -> Result<()> {
    let wrong = BY_LABEL.replace("names.word = facts.word", "names.label = facts.word");
    let project = project(&wrong, "")?;
    let said = project.fails(64, &["batch", "rebuild"])?;
    ensure!(
        said.contains("`by_label.sql`, line 1, column")
            && said.contains("write `LEFT JOIN names ON names.word = …`"),
        "{said}"
    );
    let condition = LABELS.replace("\"gone\"", "\"label || 'x'\"");
    let project = Project::new(&[("by_label", BY_LABEL, &condition)])?;
    project.ingest(0..1)?;
    let said = project.fails(64, &["batch", "rebuild"])?;
    ensure!(
        said.contains("`deleted_when` of reference `names`"),
        "{said}"
    );
    Ok(())
}

/// What of a project is too large for its bound is refused, and told.
#[test]
fn rows_over_the_bound_are_refused() -> Result<()> {
    let bounded = LABELS.replace("fields = \"label\"", "fields = \"label\"\nmemory = \"1\"");
    let project = Project::new(&[("by_label", BY_LABEL, &bounded)])?;
    project.ingest(0..1)?;
    tell(&project, &[(1, "w1", "one")])?;
    let out = project.run(&["batch", "rebuild"])?;
    let said = super::support::said(&out);
    ensure!(
        !out.status.success() && said.contains("`memory` in `[references.names]`"),
        "{said}"
    );
    ensure!(out.status.code() == Some(69), "{:?} {said}", out.status);
    Ok(())
}
