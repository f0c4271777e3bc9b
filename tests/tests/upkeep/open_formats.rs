//! Open formats: Python's `deltalake` and DuckDB read the log, and a view's export. Needs
//! `ANABRANCH_PYTHON`, the Python of `tests/bench/setup.sh`; without it the tests say so and are
//! skipped.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anabranch_jobs::generate::{Generator, GeneratorOptions};
use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::local_service::local_service;
use anabranch_jobs::work::build::Build;
use anabranch_shared::ReadMode;
use anabranch_tests::commands::{build, ingest_file};
use anabranch_tests::places;
use anabranch_tests::process::run_well;
use anabranch_tests::skip::skipped;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

/// A Python with `deltalake` and DuckDB; `None`, said aloud, where there is none.
fn python() -> Option<OsString> {
    let python = std::env::var_os("ANABRANCH_PYTHON");
    if python.is_none() {
        skipped("`ANABRANCH_PYTHON` names no Python with deltalake and DuckDB");
    }
    python
}

/// What others find in a table: the rows of a query in DuckDB's dialect over the table `t`.
fn others(python: &OsString, table: &Path, sql: &str) -> anyhow::Result<serde_json::Value> {
    let out = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers.py"))
        .arg("read-delta")
        .arg("--table")
        .arg(table)
        .args(["--as", "t", "--sql", sql])
        .output()?;
    let errors = String::from_utf8_lossy(&out.stderr);
    anyhow::ensure!(out.status.success(), "{errors}");
    let found: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    Ok(found["rows"].clone())
}

/// What we find, in the form in which others give it: text, and numbers.
async fn ours(context: &Context, sql: &str) -> anyhow::Result<serde_json::Value> {
    let service = local_service(context)?;
    let (_, batches) = service.collect(sql, ReadMode::Merged).await?;
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let value = |column: usize| value(batch, column, row);
            let values = (0..batch.num_columns()).map(value);
            rows.push(serde_json::Value::Array(values.collect::<Result<_, _>>()?));
        }
    }
    Ok(serde_json::Value::Array(rows))
}

fn value(batch: &RecordBatch, column: usize, row: usize) -> anyhow::Result<serde_json::Value> {
    let array = batch.column(column);
    if array.is_null(row) {
        return Ok(serde_json::Value::Null);
    }
    if array.data_type() == &DataType::Float64 {
        return Ok(array.as_primitive::<Float64Type>().value(row).into());
    }
    if array.data_type().is_integer() {
        let whole = cast(array, &DataType::Int64)?;
        let whole = whole.as_primitive::<arrow::datatypes::Int64Type>();
        return Ok(whole.value(row).into());
    }
    Ok(arrow::util::display::array_value_to_string(array, row)?.into())
}

/// The rows are the same, or the first that differs is said.
fn same(theirs: &serde_json::Value, ours: &serde_json::Value) -> anyhow::Result<usize> {
    let rows = |v: &serde_json::Value| v.as_array().cloned().unwrap_or_default();
    let (theirs, ours) = (rows(theirs), rows(ours));
    for (number, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
        let cells = |v: &serde_json::Value| v.as_array().cloned().unwrap_or_default();
        let (a, b) = (cells(theirs), cells(ours));
        let alike = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| same_value(a, b));
        anyhow::ensure!(alike, "row {number}: theirs {theirs}, ours {ours}");
    }
    let (many, found) = (ours.len(), theirs.len());
    anyhow::ensure!(many == found, "theirs are {found} rows, ours {many}");
    Ok(many)
}

/// Equality; JSON's fractions lose their last bit on the way.
fn same_value(theirs: &serde_json::Value, ours: &serde_json::Value) -> bool {
    match (theirs.as_f64(), ours.as_f64()) {
        (Some(a), Some(b)) if ours.is_f64() => (a - b).abs() <= 1e-15 * a.abs().max(b.abs()) * 4.0,
        _ => theirs == ours,
    }
}

/// A project of pageviews, with this text as its view.
fn write_project(dir: &Path, sql: &str, more: &str) -> anyhow::Result<()> {
    let (settings, files) = anabranch_shared::settings::template("site");
    for (path, _) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
        std::fs::write(path, sql)?;
    }
    std::fs::write(dir.join("anabranch.toml"), settings + more)?;
    Ok(())
}

async fn ingest_generated(
    context: &Context,
    generator: &mut Generator,
    part: u64,
) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    generator.next_ndjson(&mut lines, 1_500);
    let path = context.project.dir.join(format!("part-{part}.ndjson"));
    std::fs::write(&path, lines)?;
    ingest_file(context, "pageviews", &path).await?;
    Ok(())
}

fn generator() -> anyhow::Result<Generator> {
    let end = "2026-01-01T00:00:00Z".parse()?;
    Ok(Generator::new(&GeneratorOptions::new(5_000, 1, end))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn open_formats_other_engines_read_the_log() -> anyhow::Result<()> {
    let Some(python) = python() else {
        return Ok(());
    };
    let dir = places::folder()?;
    let view = "SELECT url, count(*) AS page_views FROM pageviews GROUP BY 1";
    write_project(dir.path(), view, "")?;
    let context = Context::open(dir.path()).await?;
    let mut generator = generator()?;
    for part in 0..3 {
        ingest_generated(&context, &mut generator, part).await?;
    }
    let log = context.log("pageviews").await?;
    log.table().write_checkpoint().await?;
    let sql = |table: &str| {
        format!(
            "SELECT count(*) AS n, count(DISTINCT url) AS urls, CAST(sum(engaged_ms) AS BIGINT) AS ms, max(_offset) AS last FROM {table}"
        )
    };
    let ours = ours(&context, &sql("pageviews")).await?;
    let table = dir.path().join("data/topics/pageviews/log");
    same(&others(&python, &table, &sql("t"))?, &ours)?;
    println!("deltalake and DuckDB read the same: {ours}");
    Ok(())
}

/// After several refreshes, and a change of the definition, others read in the export what the
/// merged view answers: counts, averages, uniques, times.
#[tokio::test(flavor = "multi_thread")]
async fn open_formats_other_engines_read_an_export() -> anyhow::Result<()> {
    let Some(python) = python() else {
        return Ok(());
    };
    let dir = places::folder()?;
    let view = "SELECT date_trunc('hour', ts) AS hour, url, count(*) AS page_views, avg(engaged_ms) AS mean_ms, approx_distinct(visitor) AS visitors, max(ts) AS last_at FROM pageviews GROUP BY 1, 2";
    write_project(dir.path(), view, "export = true\n")?;
    let mut context = Context::open(dir.path()).await?;
    anyhow::ensure!(context.project.views[0].export, "not exported");
    let mut generator = generator()?;
    let table = dir.path().join("data/views/post_minutes/export");
    let jobs = [
        Build::Refresh,
        Build::Refresh,
        Build::Rebuild,
        Build::Refresh,
    ];
    for (part, job) in (0..).zip(jobs) {
        ingest_generated(&context, &mut generator, part).await?;
        build(&context, job).await?;
    }
    let sql = |table: &str, at: &str, last: &str| {
        format!(
            "SELECT {at} AS h, url, page_views, mean_ms, visitors, {last} AS last FROM {table} ORDER BY 1, 2"
        )
    };
    let mine = sql(
        "post_minutes",
        "CAST(hour AS BIGINT)",
        "CAST(last_at AS BIGINT)",
    );
    let mine = ours(&context, &mine).await?;
    let theirs = sql("t", "epoch_us(hour)", "epoch_us(last_at)");
    let rows = same(&others(&python, &table, &theirs)?, &mine)?;
    anyhow::ensure!(rows > 100, "only {rows} rows");

    let view = "SELECT author, count(*) AS n, approx_distinct(visitor) AS visitors FROM pageviews GROUP BY 1 HAVING count(*) > 1";
    write_project(dir.path(), view, "export = true\n")?;
    run_well(dir.path(), &["apply", "--yes"]).await?;
    context = Context::open(dir.path()).await?;
    let sql =
        |table: &str| format!("SELECT author, n, visitors FROM {table} ORDER BY 1 NULLS LAST");
    let mine = ours(&context, &sql("post_minutes")).await?;
    anyhow::ensure!(
        same(&others(&python, &table, &sql("t"))?, &mine)? > 1,
        "no rows"
    );
    println!(
        "deltalake and DuckDB read the same {rows} rows, and after a cut-over to other columns"
    );
    Ok(())
}
