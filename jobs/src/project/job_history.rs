//! The history of jobs: a Delta table with a row for each job that ended.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_shared::table::{Commit, Table};
use anabranch_shared::{
    Pin, PlainPin, Relation, Result, Storage, encode_parquet, layout, timestamp_type,
};
use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::clock::now_ms;

/// The table's name, for queries and in the storage.

/// A job that ended.
#[derive(Clone, Debug, Default)]
pub struct JobRecord {
    /// The view.
    pub view: String,
    /// `refresh`, `rebuild` or `verify`.
    pub job: &'static str,
    /// What started it: `command`, `schedule`, or `asked for by the daemon` with the reason.
    pub trigger: String,
    /// When, in microseconds since 1970.
    pub started_at: i64,
    /// When it ended, in microseconds since 1970.
    pub ended_at: i64,
    /// `done`, `failed`, or `stopped` by its user.
    pub outcome: &'static str,
    /// Facts that were read.
    pub facts: i64,
    /// Bytes that were written.
    pub bytes: i64,
    /// The process's peak of resident memory in bytes, where the system tells.
    pub peak_memory_bytes: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The table's schema.
pub fn schema() -> SchemaRef {
    let text = |n: &str, null| Field::new(n, DataType::Utf8View, null);
    Arc::new(Schema::new(vec![
        text("view", false),
        text("job", false),
        text("trigger", false),
        Field::new("started_at", timestamp_type(), false),
        Field::new("ended_at", timestamp_type(), false),
        text("outcome", false),
        Field::new("facts", DataType::Int64, false),
        Field::new("facts_per_second", DataType::Float64, true),
        Field::new("bytes", DataType::Int64, false),
        Field::new("peak_memory_bytes", DataType::Int64, true),
        text("error", true),
    ]))
}

/// The history as a relation that can be queried.
pub fn relation() -> Relation {
    Relation {
        name: layout::JOBS.into(),
        kind: "table",
        schema: schema(),
        sql: None,
    }
}

/// Pins the history where `names` asks for it.
pub async fn pin(storage: &Storage, names: &[String], pin: &mut Pin) -> Result<()> {
    if !names.iter().any(|n| n == layout::JOBS) {
        return Ok(());
    }
    // Not created where no job has ended yet: who only reads may not be able to write.
    let table = Table::open(storage, layout::JOBS).await?;
    let jobs = PlainPin {
        schema: schema(),
        root: table.root().clone(),
        files: table.with_state(|s| s.files.values().cloned().collect()),
    };
    pin.plain.insert(layout::JOBS.into(), jobs);
    Ok(())
}

/// Opens the table, created where it does not exist.
pub(crate) async fn open(storage: &Storage) -> Result<Table> {
    Table::open_or_create(storage, layout::JOBS, &schema(), HashMap::new(), now_ms()).await
}

/// Adds a job that ended.
pub async fn record(storage: &Storage, job: &JobRecord) -> Result<()> {
    let table = open(storage).await?;
    let text = |v: &str| -> ArrayRef { Arc::new(StringViewArray::from_iter_values([v])) };
    let time = |v: i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(vec![v]).with_timezone("UTC"))
    };
    let number = |v: Option<i64>| -> ArrayRef { Arc::new(Int64Array::from(vec![v])) };
    let seconds = (job.ended_at - job.started_at) as f64 / 1e6;
    let rate = (seconds > 0.0 && job.facts > 0).then(|| job.facts as f64 / seconds);
    let columns = vec![
        text(&job.view),
        text(job.job),
        text(&job.trigger),
        time(job.started_at),
        time(job.ended_at),
        text(job.outcome),
        number(Some(job.facts)),
        Arc::new(Float64Array::from(vec![rate])),
        number(Some(job.bytes)),
        number(job.peak_memory_bytes),
        Arc::new(StringViewArray::from_iter([job.error.as_deref()])),
    ];
    let batch = RecordBatch::try_new(schema(), columns)?;
    let file = encode_parquet(Table::new_file_name(), &schema(), &[batch], 0)?;
    storage
        .put(&table.file_path(&file.add.path), file.body)
        .await?;
    table
        .commit(now_ms(), |_| {
            Ok(Commit {
                adds: vec![file.add.clone()],
                operation: "WRITE",
                data_change: true,
                ..Default::default()
            })
        })
        .await?;
    Ok(())
}

/// The process's peak of resident memory in bytes, where the system tells.
pub fn peak_memory_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: i64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
