//! Steps: what is made of facts is in the log once, at offsets that follow from theirs, whatever the
//! program does and wherever it, the daemon or both are killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::ledger::check_law;
use anabranch_tests::places;
use anabranch_tests::process::{binary, until};
use anabranch_tests::skip::skipped;

/// How many facts the test's step makes at most of one.
const MOST: i64 = 16;

/// A project with a step between two topics, and a view over what it makes.
fn write_project(dir: &Path, step: &str) -> anyhow::Result<()> {
    write_project_at(dir, &dir.join("data"), step)
}

fn write_project_at(dir: &Path, storage: &Path, step: &str) -> anyhow::Result<()> {
    let project = format!(
        r#"
[storage]
url = "{}"
[daemon]
http = "127.0.0.1:0"
land_every = "100ms"
[topics.raw]
event_time = "ts"
[topics.raw.fields]
ts = "timestamp not null"
id = "bigint not null"
word = "varchar"
[topics.facts]
event_time = "ts"
[topics.facts.fields]
ts = "timestamp not null"
id = "bigint not null"
part = "integer"
word = "varchar"
[steps.parts]
from = "raw"
to = "facts"
{step}
[views.words]
sql = "words.sql"
"#,
        storage.display()
    );
    std::fs::write(dir.join("anabranch.toml"), project)?;
    let view = "SELECT word, count(*) AS facts, sum(id) AS ids, max(part) AS parts FROM facts GROUP BY word";
    Ok(std::fs::write(dir.join("words.sql"), view)?)
}

/// The test's step by a protocol, with what it does wrong.
fn program(protocol: &str, misdeeds: &[&str]) -> anyhow::Result<String> {
    let step = binary()?.with_file_name("step");
    let mut command = vec![step.display().to_string(), protocol.to_owned()];
    command.extend(misdeeds.iter().map(|m| (*m).to_owned()));
    let quoted: Vec<String> = command.iter().map(|c| format!("{c:?}")).collect();
    Ok(format!(
        "run = [{}]\nprotocol = {protocol:?}\n",
        quoted.join(", ")
    ))
}

fn line(id: i64) -> String {
    format!(
        "{{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":{id},\"word\":\"w{}\"}}\n",
        id % 7
    )
}

async fn send(daemon: &Daemon, ids: std::ops::Range<i64>) -> anyhow::Result<()> {
    let body: String = ids.map(line).collect();
    let (status, answer) = daemon.post("raw", &[], body.as_bytes()).await?;
    anyhow::ensure!(status == 200, "{answer}");
    Ok(())
}

/// What must be there of facts that are in one partition from offset 0 on by their numbers, without
/// some of them.
fn expected(ids: i64, without: &[i64]) -> Vec<(i64, i64, i64)> {
    let kept = (0..ids).filter(|id| !without.contains(id));
    let parts = kept.flat_map(|id| (0..id % 3).map(move |part| (id * MOST + part, id, part)));
    parts.collect()
}

async fn made(daemon: &Daemon) -> anyhow::Result<Vec<(i64, i64, i64)>> {
    let rows = daemon
        .rows("SELECT _offset, id, part FROM facts ORDER BY _partition, _offset")
        .await?;
    rows.iter()
        .map(|r| Ok((r[0].parse()?, r[1].parse()?, r[2].parse()?)))
        .collect()
}

/// Waits until all is made, and checks that it is what it must be, also once it has landed.
async fn check(daemon: &Daemon, ids: i64, without: &[i64]) -> anyhow::Result<()> {
    let wanted = expected(ids, without);
    let all = until("all is made", || async {
        let made = made(daemon).await?;
        let last = daemon.client.status().await?;
        let lag = last.steps.get("facts").map_or(1, |s| s.lag_offsets());
        Ok(made.len() >= wanted.len() && lag == 0)
    });
    if let Err(e) = all.await {
        let status = daemon.client.status().await?;
        let found = made(daemon).await?;
        let lack: Vec<_> = wanted
            .iter()
            .filter(|w| !found.contains(w))
            .take(20)
            .collect();
        return Err(e.context(format!("without {lack:?}: {:?}", status.steps)));
    }
    let found = made(daemon).await?;
    anyhow::ensure!(
        found == wanted,
        "{} made instead of {}; the first that differ: {:?}",
        found.len(),
        wanted.len(),
        found.iter().zip(&wanted).find(|(a, b)| a != b)
    );
    Ok(())
}

/// Waits until all that was made has landed, and checks the law.
async fn check_landed(daemon: &Daemon, ids: i64, without: &[i64]) -> anyhow::Result<()> {
    check(daemon, ids, without).await?;
    daemon.landed("facts", ids * MOST).await?;
    check(daemon, ids, without).await?;
    anyhow::ensure!(run(&daemon.context.project.dir, &["batch", "refresh"])?.code == Some(0));
    check_law("at the end", &daemon.context).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_makes_facts_of_facts() -> anyhow::Result<()> {
    for protocol in ["arrow", "storm"] {
        for processes in [
            "",
            "processes = 3\n",
            "processes = 2\ngroup_by = \"word\"\nbatch = 7\n",
        ] {
            let dir = places::folder()?;
            write_project(dir.path(), &(program(protocol, &[])? + processes))?;
            let daemon = Daemon::start(dir.path()).await?;
            for from in (0..300).step_by(50) {
                send(&daemon, from..from + 50).await?;
            }
            check_landed(&daemon, 300, &[])
                .await
                .map_err(|e| e.context(format!("{protocol} {processes:?}")))?;
            // Nobody else brings facts of it.
            let (status, answer) = daemon.post("facts", &[], line(1).as_bytes()).await?;
            let said = answer.to_string();
            anyhow::ensure!(
                status == 409 && said.contains("step `parts`"),
                "{status} {said}"
            );
            let file = dir.path().join("f.ndjson");
            std::fs::write(&file, line(1))?;
            let ran = run(
                dir.path(),
                &["ingest", "facts", &file.display().to_string()],
            )?;
            anyhow::ensure!(
                ran.code != Some(0) && ran.complained.contains("step `parts`"),
                "{ran:?}"
            );
            daemon.stop().await?;
            let ran = run(
                dir.path(),
                &["ingest", "facts", &file.display().to_string()],
            )?;
            anyhow::ensure!(
                ran.code != Some(0) && ran.complained.contains("step `parts`"),
                "{ran:?}"
            );
            // All that was acknowledged has landed, and so has what was made of it.
            let ran = run(
                dir.path(),
                &["sql", "SELECT count(*) AS n FROM facts", "--format", "csv"],
            )?;
            anyhow::ensure!(ran.said.contains("300"), "{ran:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_makes_facts_of_facts() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let sql = "SELECT ts, id, CAST(part AS integer) AS part, upper(word) AS word FROM (SELECT ts, id, word, unnest(range(0, id % 3)) AS part FROM raw)";
    std::fs::write(dir.path().join("parts.sql"), sql)?;
    write_project(dir.path(), "sql = \"parts.sql\"\n")?;
    let daemon = Daemon::start(dir.path()).await?;
    for from in (0..300).step_by(50) {
        send(&daemon, from..from + 50).await?;
    }
    check_landed(&daemon, 300, &[]).await?;
    let found = daemon
        .rows("SELECT DISTINCT word FROM facts ORDER BY 1")
        .await?;
    anyhow::ensure!(found.first().is_some_and(|r| r[0] == "W0"), "{found:?}");
    daemon.stop().await
}

/// The dead letters of what the step makes, by the number of the fact.
async fn refused(daemon: &Daemon) -> anyhow::Result<BTreeMap<i64, String>> {
    let rows = daemon
        .rows("SELECT _offset, reason FROM dead_letters WHERE topic = 'facts' ORDER BY 1")
        .await?;
    let of = |r: &Vec<String>| Ok((r[0].parse::<i64>()? / MOST, r[1].clone()));
    rows.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fact_over_which_it_fails_is_a_dead_letter_with_its_last_words() -> anyhow::Result<()> {
    for (protocol, misdeed, says) in [
        ("arrow", "exit=50", "the end is near"),
        ("arrow", "abort=50", "signal: 6"),
        ("arrow", "hang=50", "no answer in 2 s"),
        ("arrow", "leak=50", "of memory"),
        ("arrow", "garbage=50", "no stream of Arrow"),
        ("arrow", "huge=50", "no stream of Arrow"),
        ("arrow", "half=50", ""),
        ("arrow", "error=50", "it is no good"),
        ("arrow", "many=50", "more than 16"),
        ("storm", "exit=50", "the end is near"),
        ("storm", "hang=50", "no answer in 2 s"),
        ("storm", "garbage=50", "no message of JSON"),
        ("storm", "fail=50", "failed the tuple"),
    ] {
        let dir = places::folder()?;
        let bounds = "timeout = \"2s\"\nmemory = \"300MB\"\n";
        write_project(dir.path(), &(program(protocol, &[misdeed])? + bounds))?;
        let daemon = Daemon::start(dir.path()).await?;
        send(&daemon, 0..100).await?;
        check_landed(&daemon, 100, &[50])
            .await
            .map_err(|e| e.context(misdeed))?;
        let refused = refused(&daemon).await?;
        let why = refused.get(&50).cloned().unwrap_or_default();
        anyhow::ensure!(
            refused.len() == 1
                && why.starts_with("step `parts`, fact 50 of `raw`")
                && why.contains(says),
            "{protocol} {misdeed}: {refused:?}"
        );
        daemon.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_once_loses_and_doubles_nothing() -> anyhow::Result<()> {
    for (protocol, misdeed) in [
        ("arrow", "exit=50"),
        ("arrow", "after=50"),
        ("arrow", "twice=50"),
        ("arrow", "half=50"),
        ("arrow", "garbage=50"),
        ("storm", "abort=50"),
        ("storm", "fail=50"),
    ] {
        let dir = places::folder()?;
        let once = dir.path().join("once");
        std::fs::create_dir(&once)?;
        let step = program(protocol, &[misdeed, &once.display().to_string()])?;
        write_project(dir.path(), &(step + "timeout = \"5s\"\nbatch = 40\n"))?;
        let daemon = Daemon::start(dir.path()).await?;
        for from in (0..200).step_by(20) {
            send(&daemon, from..from + 20).await?;
        }
        check_landed(&daemon, 200, &[])
            .await
            .map_err(|e| e.context(misdeed))?;
        anyhow::ensure!(refused(&daemon).await?.is_empty());
        daemon.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_restarted_it_goes_on_exactly() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), &(program("arrow", &[])? + "processes = 2\n"))?;
    let mut sent = 0;
    for round in 0..6 {
        let daemon = Daemon::start(dir.path()).await?;
        for _ in 0..10 {
            send(&daemon, sent..sent + 37).await?;
            sent += 37;
            tokio::time::sleep(Duration::from_millis(17)).await;
        }
        if round % 2 == 1 {
            check(&daemon, sent, &[]).await?;
        }
        daemon.kill()?;
    }
    let daemon = Daemon::start(dir.path()).await?;
    check_landed(&daemon, sent, &[]).await?;
    daemon.stop().await
}

/// The processes that run a program.
fn programs(program: &Path) -> anyhow::Result<Vec<rustix::process::Pid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok());
        // What ends meanwhile is none.
        let run = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
        if run == program {
            found.extend(pid.and_then(rustix::process::Pid::from_raw));
        }
    }
    Ok(found)
}

/// Its own programs are killed again and again, between any two of what they do.
#[tokio::test(flavor = "multi_thread")]
async fn killed_programs_lose_and_double_nothing() -> anyhow::Result<()> {
    for protocol in ["arrow", "storm"] {
        let dir = places::folder()?;
        let more = "processes = 2\nbatch = 30\n";
        // Of its own name, so that those of other tests live.
        let own = dir.path().join("step");
        std::fs::copy(binary()?.with_file_name("step"), &own)?;
        let step = program(protocol, &[])?;
        let step = step.replace(
            &binary()?.with_file_name("step").display().to_string(),
            &own.display().to_string(),
        );
        write_project(dir.path(), &(step + more))?;
        let daemon = Daemon::start(dir.path()).await?;
        let (mut sent, mut killed) = (0, 0);
        for _ in 0..60 {
            send(&daemon, sent..sent + 23).await?;
            sent += 23;
            tokio::time::sleep(Duration::from_millis(11)).await;
            for pid in programs(&own)? {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                killed += 1;
            }
        }
        anyhow::ensure!(killed > 5, "{killed} killed");
        check_landed(&daemon, sent, &[]).await?;
        anyhow::ensure!(refused(&daemon).await?.is_empty());
        daemon.stop().await?;
        anyhow::ensure!(programs(&own)?.is_empty(), "programs outlive the daemon");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_cannot_begin_says_so_and_loses_nothing() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), "run = [\"no-such-program\"]\n")?;
    let daemon = Daemon::start(dir.path()).await?;
    send(&daemon, 0..30).await?;
    until("it is said", || async {
        let status = daemon.client.status().await?;
        let trouble = status.steps.get("facts").and_then(|s| s.trouble.clone());
        Ok(trouble.is_some_and(|t| t.contains("can't run `no-such-program`")))
    })
    .await?;
    let ran = run(dir.path(), &["status"])?;
    anyhow::ensure!(
        ran.said.contains("raw → facts") && ran.said.contains("can't run"),
        "{}",
        ran.said
    );
    let ran = run(dir.path(), &["sql", "SELECT count(*) FROM facts"])?;
    anyhow::ensure!(
        ran.complained
            .contains("newer facts are missing: step `parts`")
            || ran.said.contains("newer facts are missing"),
        "{ran:?}"
    );
    daemon.landed("raw", 30).await?;
    daemon.stop().await?;
    write_project(dir.path(), &program("arrow", &[])?)?;
    let daemon = Daemon::start(dir.path()).await?;
    check_landed(&daemon, 30, &[]).await?;
    // What the offsets follow from can't be changed.
    daemon.stop().await?;
    write_project(dir.path(), &(program("arrow", &[])? + "most = 8\n"))?;
    let daemon = Daemon::start(dir.path()).await?;
    send(&daemon, 30..40).await?;
    until("it is said", || async {
        let status = daemon.client.status().await?;
        let stopped = status.steps.get("facts").and_then(|s| s.stopped.clone());
        Ok(stopped.is_some_and(|t| t.contains("at most 16 of each fact")))
    })
    .await?;
    daemon.stop().await
}

/// What one daemon took in, and what nobody takes in any more, is made facts of by one of those that
/// are there.
#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_make_each_fact_once() -> anyhow::Result<()> {
    let (dir, other) = (places::folder()?, places::folder()?);
    let storage = dir.path().join("data");
    let step = program("arrow", &[])?;
    for dir in [&dir, &other] {
        write_project_at(dir.path(), &storage, &step)?;
    }
    let mut expected = 0;
    let mut daemons = Vec::new();
    for dir in [&dir, &other] {
        daemons.push(Daemon::start(dir.path()).await?);
    }
    for from in (0..400).step_by(20) {
        for (nth, daemon) in daemons.iter().enumerate() {
            let from = from + 1_000 * nth as i64;
            send(daemon, from..from + 20).await?;
            expected += (from..from + 20).map(|id| id % 3).sum::<i64>();
        }
    }
    let all = "SELECT count(*) AS n, count(DISTINCT id * 10 + part) AS different FROM facts";
    for daemon in &daemons {
        until("all is made", || async {
            let rows = daemon.rows(all).await?;
            Ok(rows[0][0].parse::<i64>()? >= expected)
        })
        .await?;
        let rows = daemon.rows(all).await?;
        anyhow::ensure!(
            rows[0] == [expected.to_string(), expected.to_string()],
            "{rows:?} {expected}"
        );
    }
    // One is killed before all that it took in is made; what had landed of it goes on.
    let killed = daemons.remove(1);
    send(&killed, 2_000..2_100).await?;
    killed.kill()?;
    let again = Daemon::start(other.path()).await?;
    expected += (2_000..2_100).map(|id| id % 3).sum::<i64>();
    until("all is made", || async {
        let rows = daemons[0].rows(all).await?;
        Ok(rows[0][0].parse::<i64>()? >= expected)
    })
    .await?;
    let rows = daemons[0].rows(all).await?;
    anyhow::ensure!(
        rows[0] == [expected.to_string(), expected.to_string()],
        "{rows:?} {expected}"
    );
    again.stop().await?;
    // What is ingested without a daemon is of a partition that no daemon takes in.
    let file = other.path().join("more.ndjson");
    std::fs::write(&file, (3_000..3_050).map(line).collect::<String>())?;
    daemons.remove(0).stop().await?;
    let ran = run(
        other.path(),
        &["ingest", "raw", &file.display().to_string()],
    )?;
    anyhow::ensure!(ran.code == Some(0), "{ran:?}");
    expected += (3_000..3_050).map(|id| id % 3).sum::<i64>();
    let daemon = Daemon::start(dir.path()).await?;
    until("all is made", || async {
        let rows = daemon.rows(all).await?;
        Ok(rows[0][0].parse::<i64>()? >= expected)
    })
    .await?;
    let rows = daemon.rows(all).await?;
    anyhow::ensure!(
        rows[0] == [expected.to_string(), expected.to_string()],
        "{rows:?} {expected}"
    );
    daemon.stop().await
}

/// The step in Python, in each form that its module takes, and as a bolt that knows nothing of this
/// project.
const IN_PYTHON: [(&str, &str, &str); 5] = [
    (
        "rows",
        "arrow",
        r#"
import anabranch

@anabranch.step
def parts(fact):
    print("of", fact["id"])
    for part in range(fact["id"] % 3):
        yield {**fact, "part": part}

parts.run()
"#,
    ),
    (
        "arrow",
        "arrow",
        r#"
import anabranch
import pyarrow as pa
import pyarrow.compute as pc

@anabranch.step(batches="arrow")
def parts(facts):
    some = pa.table(facts)
    left = pc.subtract(some["id"], pc.multiply(pc.divide(some["id"], 3), 3))
    made = []
    for part in range(2):
        kept = some.filter(pc.greater(left, part))
        made.append(kept.append_column("part", pa.array([part] * kept.num_rows, pa.int32())))
    return pa.concat_tables(made)

parts.run()
"#,
    ),
    (
        "polars",
        "arrow",
        r#"
import anabranch
import polars as pl

@anabranch.step(batches="polars")
def parts(facts):
    return facts.with_columns(part=pl.int_ranges(0, pl.col("id") % 3)).explode("part").drop_nulls("part")

parts.run()
"#,
    ),
    (
        "pandas",
        "arrow",
        r#"
import anabranch

@anabranch.step(batches="pandas")
def parts(facts):
    facts["part"] = facts["id"].map(lambda id: list(range(id % 3)))
    return facts.explode("part").dropna(subset=["part"]).astype({"part": "int32"})

parts.run()
"#,
    ),
    (
        "pystorm",
        "storm",
        r#"
from pystorm import Bolt

class Parts(Bolt):
    def process(self, tup):
        ts, id, word = tup.values
        for part in range(id % 3):
            self.emit([ts, id, part, word])

Parts().run()
"#,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn in_python_a_step_makes_facts_of_facts() -> anyhow::Result<()> {
    let Some(python) = std::env::var_os("ANABRANCH_PYTHON") else {
        skipped("`ANABRANCH_PYTHON` names no Python with pyarrow, Polars, pandas and pystorm");
        return Ok(());
    };
    for (form, protocol, text) in IN_PYTHON {
        let dir = places::folder()?;
        std::fs::write(dir.path().join("parts.py"), text)?;
        let step = format!(
            "run = [{:?}, \"parts.py\"]\nprotocol = {protocol:?}\nprocesses = 2\n",
            python.to_string_lossy()
        );
        write_project(dir.path(), &step)?;
        let daemon = Daemon::start(dir.path()).await?;
        for from in (0..600).step_by(100) {
            send(&daemon, from..from + 100).await?;
        }
        check_landed(&daemon, 600, &[])
            .await
            .map_err(|e| e.context(form))?;
        let ran = run(dir.path(), &["step", "test", "parts"])?;
        anyhow::ensure!(
            ran.code == Some(0) && ran.said.contains("the same in "),
            "{form}: {ran:?}"
        );
        daemon.stop().await?;
    }
    Ok(())
}

/// A step that counts what it has seen is told apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_remembers_is_found() -> anyhow::Result<()> {
    let Some(python) = std::env::var_os("ANABRANCH_PYTHON") else {
        skipped("`ANABRANCH_PYTHON` names no Python with pyarrow");
        return Ok(());
    };
    let dir = places::folder()?;
    let text = "import anabranch\nseen = 0\n\n@anabranch.step\ndef parts(fact):\n    global seen\n    seen += 1\n    return {**fact, \"part\": seen}\n\nparts.run()\n";
    std::fs::write(dir.path().join("parts.py"), text)?;
    let step = format!("run = [{:?}, \"parts.py\"]\n", python.to_string_lossy());
    write_project(dir.path(), &step)?;
    let daemon = Daemon::start(dir.path()).await?;
    send(&daemon, 0..300).await?;
    daemon.landed("raw", 300).await?;
    let ran = run(dir.path(), &["step", "test", "parts"])?;
    anyhow::ensure!(
        ran.code == Some(1) && ran.said.contains("NOT the same in 4 processes"),
        "{ran:?}"
    );
    anyhow::ensure!(ran.said.contains("the same again\n"), "{ran:?}");
    let ran = run(dir.path(), &["step", "test", "part"])?;
    anyhow::ensure!(
        ran.code == Some(66) && ran.complained.contains("did you mean `parts`?"),
        "{ran:?}"
    );
    daemon.stop().await
}

/// Retention leaves what a step has still to read.
#[tokio::test(flavor = "multi_thread")]
async fn retention_waits_for_a_step() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), "run = [\"no-such-program\"]\n")?;
    let path = dir.path().join("anabranch.toml");
    let project = std::fs::read_to_string(&path)?;
    let project = project.replace(
        "[topics.raw.fields]",
        "retention = { age = \"1ms\" }\n[topics.raw.fields]",
    );
    let project = project.replace(
        "[daemon]",
        "grace = \"2ms\"\n[query]\ntimeout = \"1ms\"\n[daemon]",
    );
    std::fs::write(&path, project)?;
    let daemon = Daemon::start(dir.path()).await?;
    send(&daemon, 0..30).await?;
    daemon.landed("raw", 30).await?;
    daemon.stop().await?;
    let mut said = String::new();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let ran = run(dir.path(), &["batch", "maintain"])?;
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        said += &ran.said;
        said += &ran.complained;
    }
    anyhow::ensure!(said.contains("step `parts` has made facts"), "{said}");
    write_project(dir.path(), &program("arrow", &[])?)?;
    let daemon = Daemon::start(dir.path()).await?;
    check_landed(&daemon, 30, &[]).await?;
    daemon.stop().await
}
