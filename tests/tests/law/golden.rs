//! What is answered, as scripts of SQL with the right rows, wherever the states lie; and how it is
//! planned, as text.
//!
//! `golden/answers/*.slt` may never change what they answer. `golden/plans/*.plan` say what is pushed
//! down to the views' leaf and what is not; an upgrade of the engine may change how they read.
//! `ANABRANCH_GOLDEN=write` writes both anew: the answers as facts give them that are in memory alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anabranch_jobs::reader::client::Client;
use anabranch_shared::ReadMode;
use anabranch_tests::daemon::{Daemon, run, shown};
use anabranch_tests::places;
use arrow::datatypes::DataType;
use sqllogictest::{
    AsyncDB, DBOutput, DefaultColumnType, Runner, default_normalizer, default_validator,
    strict_column_validator,
};

/// Where states lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// All facts are in memory alone.
    Unlanded,
    /// All have landed, and no master view has absorbed any.
    Landed,
    /// The views have absorbed one half, the other is in the delta.
    Half,
    /// The views have absorbed all, in two runs.
    Absorbed,
    /// They were rebuilt.
    Rebuilt,
}

const LIES: [Lie; 5] = [
    Lie::Unlanded,
    Lie::Landed,
    Lie::Half,
    Lie::Absorbed,
    Lie::Rebuilt,
];

/// Records of the larger topic that one file holds.
const READS: i64 = 24;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/law/golden")
}

/// Whether what is expected is written.
fn writes() -> bool {
    std::env::var("ANABRANCH_GOLDEN").is_ok_and(|v| v == "write")
}

/// The files of a folder with an extension, in order of their names.
fn files(folder: &str, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(golden().join(folder))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    anyhow::ensure!(!found.is_empty(), "`{folder}` has no `*.{extension}`");
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => fs::copy(entry.path(), to).map(|_| ())?,
        }
    }
    Ok(())
}

/// A project whose states lie somewhere, and its daemon.
async fn project(lie: Lie) -> anyhow::Result<(tempfile::TempDir, Daemon)> {
    let dir = places::folder()?;
    copy(&golden().join("project"), dir.path())?;
    let land_every = match lie {
        Lie::Unlanded => "1h",
        _ => "50ms",
    };
    let settings = dir.path().join("anabranch.toml");
    let text = fs::read_to_string(&settings)?;
    let daemon = format!("[daemon]\nland_every = \"{land_every}\"\n");
    fs::write(&settings, text.replace("[daemon]\n", &daemon))?;
    let daemon = Daemon::start(dir.path()).await?;
    let send = async |topic: &str, file: &str| {
        let body = fs::read(dir.path().join(file))?;
        let (status, answer) = daemon.post(topic, &[], &body).await?;
        anyhow::ensure!(status == 200 && answer["dead_letters"] == 0, "{answer}");
        Ok::<_, anyhow::Error>(())
    };
    let batch = |build: &str| {
        let ran = run(dir.path(), &["batch", build])?;
        anyhow::ensure!(ran.code == Some(0), "{build}: {}", ran.complained);
        Ok::<_, anyhow::Error>(())
    };
    send("posts", "posts.ndjson").await?;
    send("reads", "reads-1.ndjson").await?;
    let absorbs = matches!(lie, Lie::Half | Lie::Absorbed);
    if absorbs {
        daemon.landed("posts", 3).await?;
        daemon.landed("reads", READS).await?;
        batch("refresh")?;
    }
    send("reads", "reads-2.ndjson").await?;
    if lie != Lie::Unlanded {
        daemon.landed("reads", 2 * READS).await?;
        daemon.landed("posts", 3).await?;
    }
    let absorbed = match lie {
        Lie::Unlanded | Lie::Landed => None,
        Lie::Half => Some(READS),
        Lie::Absorbed => {
            batch("refresh")?;
            Some(2 * READS)
        }
        Lie::Rebuilt => {
            batch("rebuild")?;
            Some(2 * READS)
        }
    };
    daemon.serves_all().await?;
    if let Some(boundary) = absorbed {
        answers_from(&daemon, boundary).await?;
    }
    Ok((dir, daemon))
}

/// Waits until the daemon answers by master views that reach up to an offset.
async fn answers_from(daemon: &Daemon, offset: i64) -> anyhow::Result<()> {
    let reaches = format!("offsets=below boundary [0:{offset}]");
    let begun = Instant::now();
    loop {
        let plan = daemon
            .rows("EXPLAIN SELECT * FROM hours, totals, top")
            .await?;
        let of_posts = daemon.rows("EXPLAIN SELECT * FROM titles").await?;
        let text = plan.concat().concat() + &of_posts.concat().concat();
        let has_posts = text.contains("offsets=below boundary [0:3]");
        if has_posts && text.matches(&reaches).count() == 3 {
            return Ok(());
        }
        let waited = begun.elapsed();
        anyhow::ensure!(
            waited < Duration::from_secs(60),
            "still, after {waited:?}: {text}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A daemon, as the scripts' runner asks it.
struct Asked(Client);

#[async_trait::async_trait]
impl AsyncDB for Asked {
    type Error = anabranch_shared::Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<Self::ColumnType>, Self::Error> {
        let answer = self.0.query(sql, ReadMode::Merged).await?;
        let types = answer.schema.fields().iter().map(|f| letter(f.data_type()));
        Ok(DBOutput::Rows {
            types: types.collect(),
            rows: shown(&answer.batches)
                .map_err(|e| anabranch_shared::Error::Internal(e.to_string()))?,
        })
    }

    async fn shutdown(&mut self) {}
}

/// The type of a column, as scripts say it.
fn letter(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        t if t.is_integer() => DefaultColumnType::Integer,
        t if t.is_floating() || t.is_decimal() => DefaultColumnType::FloatingPoint,
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => DefaultColumnType::Text,
        _ => DefaultColumnType::Any,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_are_answered_alike_wherever_the_states_lie() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for (nth, lie) in LIES.into_iter().enumerate() {
        let (_dir, daemon) = project(lie).await?;
        let mut runner = Runner::new(async || Ok(Asked(daemon.client.clone())));
        runner.with_column_validator(strict_column_validator);
        for path in files("answers", "slt")? {
            if writes() && nth == 0 {
                let written = runner.update_test_file(
                    &path,
                    " ",
                    default_validator,
                    default_normalizer,
                    strict_column_validator,
                );
                written.await.map_err(|e| anyhow::anyhow!("{e}"))?;
            }
            // One that differs hides no other file's.
            if let Err(e) = runner.run_file_async(&path).await {
                wrong.push(format!("{lie:?}: {}", e.display(false)));
            }
        }
        drop(runner);
        daemon.stop().await?;
    }
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

/// A plan without what differs from run to run: folders, ids of files, lengths.
fn plain(plan: &str, dir: &Path) -> String {
    let dir = dir.to_string_lossy();
    let plan = plan.replace(dir.trim_start_matches('/'), "DIR");
    let mut lines = Vec::new();
    for line in plan.lines() {
        let mut line = line.trim_end().to_owned();
        // The files of a scan are named by chance.
        while let Some(at) = line.find(".parquet") {
            let from = line[..at].rfind(['/', '[', ' ']).map_or(0, |i| i + 1);
            let rest = &line[at + ".parquet".len()..];
            let rest = rest.split_once([',', ']']).map_or(rest, |_| rest);
            line = format!("{}FILE{rest}", &line[..from]);
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_read_as_they_were_written() -> anyhow::Result<()> {
    let (dir, daemon) = project(Lie::Half).await?;
    let mut differ = Vec::new();
    for query in files("plans", "sql")? {
        let sql = fs::read_to_string(&query)?;
        let rows = daemon.rows(&format!("EXPLAIN {sql}")).await?;
        let rows = rows.iter().map(|row| format!("── {}\n{}", row[0], row[1]));
        let plan = plain(&rows.collect::<Vec<_>>().join("\n"), dir.path());
        let path = query.with_extension("plan");
        if writes() {
            fs::write(&path, &plan)?;
        }
        let expected = fs::read_to_string(&path)?;
        if plan != expected {
            differ.push(format!("{}:\n{plan}", path.display()));
        }
    }
    daemon.stop().await?;
    anyhow::ensure!(
        differ.is_empty(),
        "plans read otherwise (`ANABRANCH_GOLDEN=write` writes them anew, if that is meant):\n{}",
        differ.join("\n")
    );
    Ok(())
}
