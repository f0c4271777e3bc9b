//! `anabranch verify`: the whole, samples, differences, bounds, and an end by Ctrl-C.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::support::{Project, start};

const WORDS: (&str, &str, &str) = (
    "words",
    "SELECT word, count(*) AS c, sum(n) AS s, avg(x) AS a, approx_distinct(n) AS d FROM facts GROUP BY word",
    "",
);

/// A project with three kinds of views, of which a part is absorbed.
fn project() -> Result<Project> {
    let project = Project::new(&[
        WORDS,
        ("total", "SELECT count(*) AS c, max(x) AS m FROM facts", ""),
        ("big", "SELECT ts, word, x FROM facts WHERE n % 2 = 0", ""),
        (
            "busy",
            "SELECT c, count(*) AS words FROM (SELECT word, date_trunc('minute', ts) AS m, count(*) AS c FROM facts GROUP BY 1, 2 HAVING count(*) >= 1) GROUP BY c",
            "",
        ),
    ])?;
    project.ingest(0..4_000)?;
    project.ok(&["batch", "refresh"])?;
    project.ingest(4_000..5_500)?;
    Ok(project)
}

#[test]
fn a_sample_is_the_same_part_of_both_sides() -> Result<()> {
    let project = project()?;
    let whole = project.json(&["verify"])?;
    let sampled =
        |size: &str, seed: &str| project.json(&["verify", "--sample", size, "--seed", seed]);
    let (tenth, again, other) = (
        sampled("10%", "7")?,
        sampled("10%", "7")?,
        sampled("10%", "8")?,
    );
    let rows = |all: &serde_json::Value, view: &str| -> Result<(u64, u64)> {
        let views = all.as_array().context("no array")?;
        let one = views
            .iter()
            .find(|v| v["view"] == view)
            .context("no view")?;
        Ok((
            one["rows"].as_u64().context("no rows")?,
            one["differences"].as_u64().context("no differences")?,
        ))
    };
    ensure!(
        rows(&whole, "words")? == (1_000, 0) && rows(&whole, "big")? == (2_750, 0),
        "{whole}"
    );
    // Four standard deviations around a tenth of the keys.
    let (words, differ) = rows(&tenth, "words")?;
    ensure!((62..=138).contains(&words) && differ == 0, "{tenth}");
    let (big, differ) = rows(&tenth, "big")?;
    ensure!((212..=338).contains(&big) && differ == 0, "{tenth}");
    ensure!(rows(&tenth, "busy")?.1 == 0, "{tenth}");
    ensure!(rows(&tenth, "total")? == (1, 0), "{tenth}");
    ensure!(tenth.to_string().contains("no GROUP BY"), "{tenth}");
    ensure!(tenth == again, "{tenth} {again}");
    let (other, differ) = rows(&other, "words")?;
    ensure!((62..=138).contains(&other) && differ == 0, "{other}");
    // The number of keys is estimated from the states of both layers, which is at most the double here.
    let (some, differ) = rows(&sampled("200", "1")?, "words")?;
    ensure!((60..=260).contains(&some) && differ == 0, "{some}");
    let shown = project.ok(&["verify", "words", "--sample", "10%", "--seed", "7"])?;
    ensure!(shown.contains("10.000% of the keys, seed 7"), "{shown}");
    let wrong = project.fails(2, &["verify", "--sample", "0%"])?;
    ensure!(wrong.contains("`1%`"), "{wrong}");
    let unknown = project.fails(66, &["verify", "nope"])?;
    ensure!(unknown.contains("big, busy, total, words"), "{unknown}");
    Ok(())
}

#[test]
fn lost_states_are_found_also_by_a_sample() -> Result<()> {
    let project = Project::new(&[WORDS])?;
    project.ingest(0..4_000)?;
    project.ok(&["batch", "refresh"])?;
    // The commit of the refresh loses its files and keeps its boundary.
    let log = project.path("data/views/words/g1/_delta_log");
    for entry in std::fs::read_dir(&log)? {
        let path = entry?.path();
        let mut text = std::fs::read_to_string(&path)?;
        // As an entry of a version that wrote no checksum.
        if let Some((before, rest)) = text.split_once("\"anabranchCrc32c\":") {
            let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            text = match after.strip_prefix(',') {
                Some(after) => format!("{before}{after}"),
                None => format!("{}{after}", before.trim_end_matches(',')),
            };
        }
        let kept = text.lines().filter(|l| !l.starts_with("{\"add\""));
        std::fs::write(&path, kept.map(|l| format!("{l}\n")).collect::<String>())?;
    }
    let out = project.run(&["verify", "words"])?;
    let shown = String::from_utf8(out.stdout)?;
    ensure!(out.status.code() == Some(1), "{shown}");
    ensure!(
        shown.contains("1,000 rows compared, 1,000 differ"),
        "{shown}"
    );
    ensure!(
        shown.contains("missing: w") && shown.contains("and 990 more"),
        "{shown}"
    );
    let out = project.run(&[
        "--format", "ndjson", "verify", "words", "--sample", "20%", "--seed", "1",
    ])?;
    let found: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    ensure!(out.status.code() == Some(1), "{found}");
    let differ = found["differences"].as_u64().context("no differences")?;
    ensure!(
        (150..=250).contains(&differ) && found["rows"] == differ,
        "{found}"
    );
    Ok(())
}

#[test]
fn too_little_memory_is_said() -> Result<()> {
    let project = project()?;
    let settings = std::fs::read_to_string(project.path("anabranch.toml"))?;
    std::fs::write(
        project.path("anabranch.toml"),
        format!("[batch]\nmemory = \"16 KiB\"\n{settings}"),
    )?;
    let said = project.fails(69, &["verify", "words"])?;
    ensure!(
        said.contains("`--sample`") && said.contains("`[batch]`"),
        "{said}"
    );
    Ok(())
}

#[test]
fn an_interrupt_ends_it() -> Result<()> {
    let project = project()?;
    let mut command = project.command(&["verify", "words"]);
    command.env("FAILPOINTS", "verify-after-pin=sleep(2000)");
    let mut process = start(command)?;
    process.wait_for("verifying")?;
    let (code, log) = process.end(Signal::INT)?;
    ensure!(
        code == Some(75) && log.contains("nothing was changed"),
        "{code:?} {log}"
    );
    let history = project.json(&["jobs", "history", "--limit", "1"])?;
    ensure!(history[0]["job"] == "refresh", "it wrote: {history}");
    Ok(())
}

/// What a daemon has in memory is compared where it is asked to: a bug there is found, which a
/// command that folds the delta itself can't see.
#[test]
fn a_daemon_compares_its_own_answers() -> Result<()> {
    let project = project()?;
    let none = project.fails(69, &["verify", "--daemon"])?;
    ensure!(none.contains("no daemon runs"), "{none}");
    let (daemon, _) = project.daemon()?;
    let compared = project.ok(&["verify", "words", "--daemon"])?;
    ensure!(
        compared.contains("words: 1,000 rows compared, 0 differ"),
        "{compared}"
    );
    drop(daemon);
    let mut command = project.command(&["speed"]);
    command.env("FAILPOINTS", "planted-late-fact-dropped=return");
    let mut daemon = start(command)?;
    daemon.wait_for(" http=")?;
    let late = "{\"ts\":\"2026-01-01T10:00:00Z\",\"word\":\"w1\",\"n\":1,\"x\":1}\n{\"ts\":\"2025-12-01T10:00:00Z\",\"word\":\"late\",\"n\":1,\"x\":1}\n";
    let file = project.path("late.ndjson");
    std::fs::write(&file, late)?;
    project.ok(&["ingest", "facts", &file.display().to_string()])?;
    project.ok(&["verify", "words"])?;
    let found = project.fails(1, &["verify", "words", "--daemon"])?;
    ensure!(found.contains("late"), "{found}");
    Ok(())
}
