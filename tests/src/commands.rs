//! What tests do with a project in their own process, as the commands would: ingest files, build
//! views, compare answers.

use std::ops::Range;
use std::path::Path;

use anabranch_jobs::commands::ingest::{IngestArgs, IngestReport, ingest};
use anabranch_jobs::project::context::Context;
use anabranch_jobs::work::build::{Build, BuildReport, build_view};
use anabranch_jobs::work::compare::{Tolerance, compare};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::ledger::line;

/// Ingests a file into a topic, without a daemon's help and without a progress bar.
pub async fn ingest_file(
    context: &Context,
    topic: &str,
    path: &Path,
) -> anyhow::Result<IngestReport> {
    let args = IngestArgs {
        topic: topic.into(),
        files: vec![path.display().to_string()],
        input_format: None,
        id: None,
        again: false,
        allow_dead_letters: false,
        separator: None,
        strict: false,
    };
    Ok(ingest(context, &args, false).await?)
}

/// Ingests the numbered facts of a range into the topic `facts`.
pub async fn ingest_lines(context: &Context, ids: Range<i64>) -> anyhow::Result<()> {
    let path = context.project.dir.join(format!("{}.ndjson", ids.start));
    std::fs::write(&path, ids.map(line).collect::<String>())?;
    ingest_file(context, "facts", &path).await?;
    Ok(())
}

/// Builds the project's first view.
pub async fn build(context: &Context, build: Build) -> anyhow::Result<BuildReport> {
    let settings = &context.project.views[0];
    let (stop, progress) = Default::default();
    Ok(build_view(context, settings, build, "command", &stop, &progress).await?)
}

/// Whether two answers are the same rows, floating point within what the law allows for values as
/// small as those of the tests' facts; says which rows differ.
pub fn ensure_same(
    schema: &SchemaRef,
    expected: &[RecordBatch],
    found: &[RecordBatch],
) -> anyhow::Result<()> {
    let tolerance = Tolerance {
        relative: 1e-9,
        absolute: 1e-6,
    };
    let compared = compare(schema, expected, found, tolerance)?;
    anyhow::ensure!(
        compared.is_equal(),
        "{} of {} rows differ:\n{}",
        compared.differences,
        compared.rows,
        compared.examples.join("\n")
    );
    Ok(())
}
