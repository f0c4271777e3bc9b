//! Damage is never read as data: every kind of file that is stored, removed, emptied, cut short, with
//! a bit flipped and exchanged with another of its kind, gives an error that names what is damaged or
//! the right answer, never another; stopped, and under a running daemon. `anabranch check` finds it.

use std::path::{Path, PathBuf};

use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::local_service::local_service;
use anabranch_shared::table::Table;
use anabranch_shared::{Error, ErrorKind, ReadMode};
use anabranch_tests::daemon::{Daemon, run, shown};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, run_well, write_project};

/// What is asked of each damaged project.
const ASKED: [&str; 4] = [
    "SELECT word, facts, ids, different FROM words ORDER BY word",
    "SELECT count(*), sum(id), min(id), max(id), count(DISTINCT word) FROM facts",
    "SELECT _partition, _offset, raw FROM dead_letters ORDER BY 1, 2",
    "SELECT view, job, facts, outcome FROM jobs ORDER BY started_at",
];

/// Answers, or the error and its kind.
type Answers = Vec<Result<Vec<Vec<String>>, (ErrorKind, String)>>;

/// A kind of file: one of it, and another one.
struct Kind {
    name: &'static str,
    file: PathBuf,
    /// With which it is exchanged.
    other: PathBuf,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Removed,
    Emptied,
    /// To so many hundredths of its length.
    Cut(usize),
    /// At so many thousandths of its length.
    Flipped(usize),
    Exchanged,
}

const DAMAGES: [Damage; 11] = [
    Damage::Removed,
    Damage::Emptied,
    Damage::Cut(50),
    Damage::Cut(99),
    Damage::Flipped(0),
    Damage::Flipped(210),
    Damage::Flipped(430),
    Damage::Flipped(680),
    Damage::Flipped(870),
    Damage::Flipped(999),
    Damage::Exchanged,
];

/// A project that has everything: landings before and after checkpoints, dead letters, a master view
/// of several runs, jobs, and a WAL with facts that have not landed.
async fn world(dir: &Path, first: i64) -> anyhow::Result<()> {
    let setup = Setup {
        daemon: "land_every = \"1h\"\ncheckpoint_every = 1000",
        ..Default::default()
    };
    write_project(dir, setup)?;
    let text = std::fs::read_to_string(dir.join("anabranch.toml"))?;
    let text = text.replacen("land_every = \"100ms\"\n", "", 1);
    std::fs::write(dir.join("anabranch.toml"), text)?;
    let mut next = first;
    for round in 0..5 {
        let body: String = (next..next + 40).map(line).collect();
        next += 40;
        std::fs::write(dir.join("facts.ndjson"), body + "no json\n")?;
        let file = dir.join("facts.ndjson").display().to_string();
        let ingest = ["ingest", "--allow-dead-letters", "facts", &file];
        run_well(dir, &ingest).await?;
        run_well(dir, &["batch", "refresh", "words"]).await?;
        if round == 1 {
            let context = Context::open(dir).await?;
            context
                .log("facts")
                .await?
                .table()
                .write_checkpoint()
                .await?;
            let master = Table::open(&context.storage, "views/words/g1").await?;
            master.write_checkpoint().await?;
        }
    }
    // Facts that land from the WAL, and facts that don't.
    let daemon = Daemon::start(dir).await?;
    for _ in 0..3 {
        let body: String = (next..next + 30).map(line).collect();
        next += 30;
        let (status, said) = daemon.post("facts", &[], body.as_bytes()).await?;
        anyhow::ensure!(status == 200, "{said}");
    }
    daemon.stop().await?;
    let daemon = Daemon::start(dir).await?;
    for _ in 0..3 {
        let body: String = (next..next + 30).map(line).collect();
        next += 30;
        let (status, said) = daemon.post("facts", &[], body.as_bytes()).await?;
        anyhow::ensure!(status == 200, "{said}");
    }
    daemon.kill()?;
    std::fs::remove_dir_all(dir.join("data/daemons"))?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (entry, to) = (entry?.path(), to);
        let name = entry.file_name().unwrap_or_default();
        match entry.is_dir() {
            true => copy(&entry, &to.join(name))?,
            false => std::fs::copy(&entry, to.join(name)).map(drop)?,
        }
    }
    Ok(())
}

/// The files of a folder whose names end so, in order.
fn files(dir: &Path, ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Every kind of file of a world, by paths below it; what has no second of its kind is exchanged with
/// that of another world.
fn kinds(dir: &Path, foreign: &Path) -> anyhow::Result<Vec<Kind>> {
    let mut kinds = Vec::new();
    let mut add = |name, file: PathBuf, other: PathBuf| kinds.push(Kind { name, file, other });
    let pick = |folder: &str, ending: &str, back: usize| -> anyhow::Result<[PathBuf; 2]> {
        let found = files(&dir.join(folder), ending)?;
        let at = found.len().checked_sub(1 + back);
        let at = at.filter(|at| *at > 0);
        let at = at.ok_or_else(|| anyhow::anyhow!("too few `{ending}` in `{folder}`"))?;
        Ok([found[at].clone(), found[at - 1].clone()])
    };
    let mut pair = |name, folder: &str, ending: &str, back: usize| -> anyhow::Result<()> {
        let [file, other] = pick(folder, ending, back)?;
        add(name, file, other);
        Ok(())
    };
    pair("log file", "data/topics/facts/log", ".parquet", 0)?;
    pair("log entry", "data/topics/facts/log/_delta_log", ".json", 1)?;
    pair(
        "newest log entry",
        "data/topics/facts/log/_delta_log",
        ".json",
        0,
    )?;
    pair(
        "dead letters",
        "data/topics/facts/dead_letters",
        ".parquet",
        0,
    )?;
    let folder = "data/topics/facts/dead_letters/_delta_log";
    pair("dead letters' entry", folder, ".json", 1)?;
    pair("dead letters' newest entry", folder, ".json", 0)?;
    pair("master file", "data/views/words/g1", ".parquet", 0)?;
    let folder = "data/views/words/g1/_delta_log";
    pair("master entry", folder, ".json", 1)?;
    pair("newest master entry", folder, ".json", 0)?;
    pair("catalogue entry", "data/catalogue", ".json", 0)?;
    pair("jobs file", "data/jobs", ".parquet", 1)?;
    pair("jobs entry", "data/jobs/_delta_log", ".json", 1)?;
    for (name, ending) in [
        ("checkpoint", ".checkpoint.parquet"),
        ("hint", "_last_checkpoint"),
    ] {
        let of = |folder: &str| -> anyhow::Result<PathBuf> {
            let found = files(&dir.join(folder), ending)?.pop();
            found.ok_or_else(|| anyhow::anyhow!("no `{ending}` in `{folder}`"))
        };
        let log = of("data/topics/facts/log/_delta_log")?;
        let master = of("data/views/words/g1/_delta_log")?;
        let [log_name, master_name] = match name {
            "hint" => ["log hint", "master hint"],
            _ => ["log checkpoint", "master checkpoint"],
        };
        add(log_name, log.clone(), master.clone());
        add(master_name, master, log);
    }
    let segment = files(&dir.join("wal/facts"), ".wal")?.pop();
    let segment = segment.ok_or_else(|| anyhow::anyhow!("no segment"))?;
    let foreign_segment = files(&foreign.join("wal/facts"), ".wal")?.pop();
    add("WAL segment", segment, foreign_segment.unwrap_or_default());
    for (name, path) in [
        ("WAL id", "wal/ID"),
        ("WAL note", "wal/facts/SYNCED"),
        ("catalogue note", "data/catalogue/_newest"),
    ] {
        add(name, dir.join(path), foreign.join(path));
    }
    Ok(kinds)
}

/// Damages a file of the world `of` in its copy `dir`.
fn damage(kind: &Kind, damage: Damage, of: &Path, dir: &Path) -> anyhow::Result<()> {
    let path = dir.join(kind.file.strip_prefix(of)?);
    let mut bytes = std::fs::read(&path)?;
    let length = bytes.len();
    match damage {
        Damage::Removed => return Ok(std::fs::remove_file(path)?),
        Damage::Emptied => bytes.clear(),
        Damage::Cut(hundredths) => bytes.truncate(length * hundredths / 100),
        Damage::Flipped(thousandths) => {
            bytes[(length * thousandths / 1000).min(length - 1)] ^= 1 << (thousandths % 7);
        }
        Damage::Exchanged => {
            let mine = std::mem::replace(&mut bytes, std::fs::read(&kind.other)?);
            if let Ok(other) = kind.other.strip_prefix(of) {
                std::fs::write(dir.join(other), mine)?;
            }
        }
    }
    Ok(std::fs::write(path, bytes)?)
}

/// What a project answers, by itself.
async fn answers(dir: &Path) -> Answers {
    let failed = |e: Error| (e.kind(), e.to_string());
    let service = match Context::open(dir).await {
        Ok(context) => local_service(&context),
        Err(e) => Err(e),
    };
    let service = match service {
        Ok(service) => service,
        Err(e) => return vec![Err(failed(e))],
    };
    let mut answers = Vec::new();
    for sql in ASKED {
        let rows = service.collect(sql, ReadMode::Merged).await;
        let rows = rows
            .and_then(|(_, batches)| shown(&batches).map_err(|e| Error::Internal(e.to_string())));
        answers.push(rows.map_err(failed));
    }
    answers
}

/// Asserts that each answer is right, or says that something is damaged. Returns whether one does.
fn check(what: &str, found: &Answers, right: &Answers) -> anyhow::Result<bool> {
    let mut noticed = false;
    for (n, answer) in found.iter().enumerate() {
        match answer {
            Ok(_) => anyhow::ensure!(
                Some(answer) == right.get(n),
                "{what}: `{}` answers {answer:?} instead of {:?}",
                ASKED[n],
                right.get(n)
            ),
            Err((kind, text)) => {
                anyhow::ensure!(*kind == ErrorKind::Corrupt, "{what}: {kind}: {text}");
                anyhow::ensure!(
                    text.contains('`') && !text.contains("nullif"),
                    "{what}: {text}"
                );
                noticed = true;
            }
        }
    }
    Ok(noticed)
}

struct Worlds {
    dir: tempfile::TempDir,
    kinds: Vec<Kind>,
    right: Answers,
}

impl Worlds {
    async fn new() -> anyhow::Result<Self> {
        let dir = places::folder()?;
        let [own, foreign] = ["own", "foreign"].map(|name| dir.path().join(name));
        for (path, first) in [(&own, 0), (&foreign, 1_000)] {
            std::fs::create_dir(path)?;
            world(path, first).await?;
        }
        let kinds = kinds(&own, &foreign)?;
        let worlds = Self {
            kinds,
            right: Vec::new(),
            dir,
        };
        let right = answers(&worlds.copy("right")?).await;
        anyhow::ensure!(
            right.len() == 4 && right.iter().all(Result::is_ok),
            "{right:?}"
        );
        let facts = right[1].as_ref().map(|rows| rows[0][0].clone());
        anyhow::ensure!(facts == Ok("380".to_owned()), "{facts:?}");
        Ok(Self { right, ..worlds })
    }

    fn own(&self) -> PathBuf {
        self.dir.path().join("own")
    }

    fn copy(&self, name: &str) -> anyhow::Result<PathBuf> {
        let to = self.dir.path().join(name);
        if to.exists() {
            std::fs::remove_dir_all(&to)?;
        }
        copy(&self.own(), &to)?;
        Ok(to)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_never_read() -> anyhow::Result<()> {
    let planted = std::env::var("ANABRANCH_DAMAGE_PLANTED")
        .is_ok()
        .then(fail::FailScenario::setup);
    let worlds = Worlds::new().await?;
    let mut wrong = Vec::new();
    for kind in &worlds.kinds {
        let mut noticed = 0;
        for how in DAMAGES {
            let dir = worlds.copy("damaged")?;
            damage(kind, how, &worlds.own(), &dir)?;
            let what = format!("{} {how:?}", kind.name);
            match check(&what, &answers(&dir).await, &worlds.right) {
                Ok(true) => noticed += 1,
                Ok(false) => {}
                Err(e) => wrong.push(e.to_string()),
            }
        }
        println!("{}: {noticed} of {} noticed", kind.name, DAMAGES.len());
        if planted.is_some() && !wrong.is_empty() {
            break;
        }
    }
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Damage that is read, because no checksum, place or gap is looked at, is caught by the test above.
#[test]
fn a_reader_that_checks_nothing_is_caught() -> anyhow::Result<()> {
    let out = std::process::Command::new(std::env::current_exe()?)
        .args([
            "--exact",
            "crashes::damage::damage_is_never_read",
            "--nocapture",
        ])
        .env("FAILPOINTS", "planted-damage-read=return")
        .env("ANABRANCH_DAMAGE_PLANTED", "1")
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    anyhow::ensure!(said.contains("running 1 test"), "{said}");
    anyhow::ensure!(!out.status.success(), "not caught:\n{said}");
    Ok(())
}

/// Commands exit with 65 and name the file; a view is made whole by the command that the error names.
#[tokio::test(flavor = "multi_thread")]
async fn commands_say_what_is_damaged_and_the_way_back() -> anyhow::Result<()> {
    let worlds = Worlds::new().await?;
    let view = ASKED[0];
    for name in [
        "master file",
        "master entry",
        "log file",
        "log entry",
        "WAL segment",
        "catalogue entry",
    ] {
        let kind = worlds.kinds.iter().find(|k| k.name == name);
        let kind = kind.ok_or_else(|| anyhow::anyhow!("no {name}"))?;
        for how in [Damage::Flipped(430), Damage::Removed] {
            let dir = worlds.copy("damaged")?;
            damage(kind, how, &worlds.own(), &dir)?;
            let asked = match name.starts_with("master") {
                true => view,
                false => ASKED[1],
            };
            let sql = run(&dir, &["sql", "-c", asked])?;
            let file = kind.file.file_name().unwrap_or_default().to_string_lossy();
            let checked = run(&dir, &["--format", "json", "check"])?;
            let said = &sql.complained;
            anyhow::ensure!(sql.code == Some(65), "{name} {how:?}: {sql:?}");
            anyhow::ensure!(
                said.contains(&*file) || name == "WAL segment",
                "{name} {how:?}: {said}"
            );
            anyhow::ensure!(checked.code == Some(65), "{name} {how:?}: {checked:?}");
            anyhow::ensure!(
                checked.said.contains(&*file) || matches!(how, Damage::Removed),
                "{name} {how:?}: {checked:?}"
            );
            if name.starts_with("master") {
                anyhow::ensure!(said.contains("batch rebuild words"), "{said}");
                run_well(&dir, &["batch", "rebuild", "words"]).await?;
                let healed = answers(&dir).await;
                anyhow::ensure!(healed.first() == worlds.right.first(), "{healed:?}");
            }
        }
    }
    let whole = worlds.copy("whole")?;
    let before = run_well(&whole, &["--format", "json", "check"]).await?;
    anyhow::ensure!(before.contains("\"findings\":[]"), "{before}");
    let text = run_well(&whole, &["check"]).await?;
    anyhow::ensure!(text.contains("all whole"), "{text}");
    Ok(())
}

/// A daemon that starts over damage says so and ends, or answers right; one that runs meanwhile
/// answers right or says what is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_does_not_read_damage() -> anyhow::Result<()> {
    let worlds = Worlds::new().await?;
    let sample = [
        "log file",
        "log entry",
        "master file",
        "master entry",
        "dead letters",
        "WAL segment",
        "WAL id",
        "catalogue entry",
    ];
    for kind in worlds.kinds.iter().filter(|k| sample.contains(&k.name)) {
        for (how, running) in [
            (Damage::Flipped(430), false),
            (Damage::Exchanged, false),
            (Damage::Removed, true),
            (Damage::Flipped(430), true),
        ] {
            let what = format!("{} {how:?}, running: {running}", kind.name);
            let dir = worlds.copy("damaged")?;
            if !running {
                damage(kind, how, &worlds.own(), &dir)?;
            }
            let daemon = match Daemon::start(&dir).await {
                Ok(daemon) => daemon,
                Err(e) if !running => {
                    let text = e.to_string();
                    let says = ["damaged", "missing", "lost"]
                        .iter()
                        .any(|w| text.contains(w));
                    anyhow::ensure!(says, "{what}: {text}");
                    continue;
                }
                Err(e) => return Err(e),
            };
            if running {
                daemon.rows(ASKED[0]).await?;
                damage(kind, how, &worlds.own(), &dir)?;
            }
            let mut found = Vec::new();
            for sql in ASKED {
                let answer = daemon.client.query(sql, ReadMode::Merged).await;
                let rows = match answer {
                    Ok(answer) => Ok(shown(&answer.batches)?),
                    Err(e) => Err((e.kind(), e.to_string())),
                };
                found.push(rows);
            }
            check(&what, &found, &worlds.right)?;
            daemon.kill()?;
        }
    }
    Ok(())
}
