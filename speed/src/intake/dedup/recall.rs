//! Which keys the log holds: what of it can make a duplicate is read again, of those columns alone
//! that it takes.

use std::sync::Arc;

use anabranch_shared::settings::DedupSettings;
use anabranch_shared::table::AddFile;
use anabranch_shared::{FileSource, INGESTED_AT, Log, Result, scan_files, timestamp_type};
use arrow::array::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;

use super::Dedup;

impl Dedup {
    /// The keys of a topic's log, as of a time in microseconds since 1970. Reads the files that
    /// reach into the window by their statistics.
    ///
    /// # Errors
    /// `Unavailable` when the storage does not answer.
    pub async fn from_log(log: &Log, settings: &DedupSettings, now_us: i64) -> Result<Self> {
        let mut dedup = Self::new(log.name(), settings, now_us);
        let files = log
            .table()
            .with_state(|s| s.files.values().cloned().collect());
        let from_us = dedup.remembers_from_us(now_us);
        read_keys(log, &settings.key, files, from_us, |facts| {
            dedup.note(&facts)
        })
        .await?;
        Ok(dedup)
    }
}

/// Hands to `each` the key and the time of admission of the facts in some files of the log, some
/// of those that were admitted before `from_us`, in microseconds since 1970, left out.
pub(crate) async fn read_keys(
    log: &Log,
    key: &str,
    files: Vec<Arc<AddFile>>,
    from_us: i64,
    mut each: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let (topic, schema) = log.declared();
    let (key, time) = (schema.index_of(key)?, schema.index_of(INGESTED_AT)?);
    let from = ScalarValue::Int64(Some(from_us)).cast_to(&timestamp_type())?;
    let recent = BinaryExpr::new(
        Arc::new(Column::new(INGESTED_AT, time)),
        Operator::GtEq,
        Arc::new(Literal::new(from)),
    );
    let (root, columns) = (log.table().root(), [key, time]);
    let store = FileSource::new(log.table().storage().store().clone());
    let (facts, recent) = ((&schema, &topic.late_reads()), Arc::new(recent));
    let scan = scan_files(&store, root, &files, facts, &columns, Some(recent), 1)?;
    let runtime = Arc::new(RuntimeEnv::default());
    log.table().storage().register(&runtime)?;
    let task = Arc::new(TaskContext::default().with_runtime(runtime));
    let mut facts = execute_stream(scan, task)?;
    while let Some(facts) = facts.try_next().await? {
        each(facts)?;
    }
    Ok(())
}
