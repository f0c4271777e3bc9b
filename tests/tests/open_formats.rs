//! Open formats: Python's `deltalake` and DuckDB read the log. Needs `ANABRANCH_PYTHON`, the Python
//! of `tests/bench/setup.sh`; without it the test says so and is skipped.

use std::path::Path;
use std::process::Command;

use anabranch_jobs::commands::ingest::{IngestArgs, ingest};
use anabranch_jobs::commands::query::local_service;
use anabranch_jobs::context::Context;
use anabranch_jobs::generate::{Generator, GeneratorOptions};
use anabranch_shared::ReadMode;
use anabranch_tests::places;

#[tokio::test(flavor = "multi_thread")]
async fn open_formats_other_engines_read_the_log() -> anyhow::Result<()> {
    let Some(python) = std::env::var_os("ANABRANCH_PYTHON") else {
        println!("skipped: `ANABRANCH_PYTHON` names no Python with deltalake and DuckDB");
        return Ok(());
    };
    let dir = places::folder()?;
    let (settings, files) = anabranch_shared::settings::template("site");
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(dir.path()))?;
        std::fs::write(path, text)?;
    }
    std::fs::write(dir.path().join("anabranch.toml"), settings)?;
    let end = "2026-01-01T00:00:00Z".parse()?;
    let mut generator = Generator::new(&GeneratorOptions::new(5_000, 1, end))?;
    let context = Context::open(dir.path()).await?;
    let mut names = Vec::new();
    for part in 0..3 {
        let mut lines = Vec::new();
        generator.next_ndjson(&mut lines, 1_500);
        let path = dir.path().join(format!("part-{part}.ndjson"));
        std::fs::write(&path, lines)?;
        names.push(path.display().to_string());
    }
    for name in names {
        let args = IngestArgs {
            topic: "pageviews".into(),
            files: vec![name],
            input_format: None,
            id: None,
            again: false,
            allow_dead_letters: false,
        };
        ingest(&context, &args, false).await?;
    }
    context
        .log("pageviews")
        .await?
        .table()
        .write_checkpoint()
        .await?;
    let sql = "SELECT count(*) AS n, count(DISTINCT url) AS urls, sum(engaged_ms) AS ms, max(_offset) AS last FROM pageviews";
    let (_, ours) = local_service(&context)?
        .collect(sql, ReadMode::Merged)
        .await?;
    let ours: Vec<String> = (0..4)
        .map(|c| arrow::util::display::array_value_to_string(ours[0].column(c), 0))
        .collect::<Result<_, _>>()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers.py");
    let out = Command::new(python)
        .arg(script)
        .arg("read-delta")
        .arg("--table")
        .arg(dir.path().join("data/topics/pageviews/log"))
        .args(["--as", "pageviews", "--sql", sql])
        .output()?;
    let theirs = String::from_utf8_lossy(&out.stdout).into_owned();
    anyhow::ensure!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    for value in &ours {
        anyhow::ensure!(
            theirs.contains(value.as_str()),
            "ours {ours:?}, theirs {theirs}"
        );
    }
    println!("deltalake and DuckDB read the same: {ours:?}");
    Ok(())
}
