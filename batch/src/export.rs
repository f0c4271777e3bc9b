//! Writes a view's finished rows for other engines: merges the states of its master view, finishes
//! them, applies the rest of the view's SQL and replaces the export table's rows.
//!
//! States are stored sorted by keys, so files are merged as streams and the rows go out as they
//! come: memory holds a row group of each file and the file that is being written. Where there are
//! too many files to merge at once, the engine groups by hashing instead, and spills.

use std::sync::Arc;

use anabranch_shared::table::AddFile;
use anabranch_shared::view::planning_session;
use anabranch_shared::{
    Answering, Error, ErrorKind, Export, ExportStanding, FileEncoder, Master, MasterLeaf,
    MasterPin, Result, blocking,
};
use arrow::array::RecordBatch;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder};
use datafusion::prelude::{DataFrame, SessionConfig};
use futures::StreamExt;

use crate::build::{BatchOptions, stopped};

/// Bytes that a file of states takes while it is merged: the pages of a row group and some batches.
const MERGED_FILE_BYTES: u64 = 8 << 20;

/// The share of the memory bound that a file in the making may take.
const FILE_SHARE: u64 = 16;

/// The share of the memory bound that the engine may take for what it can't stream.
const ENGINE_SHARE: u64 = 2;

/// The engine needs this much for its own buffers, whatever the bound.
const LEAST_ENGINE_BYTES: u64 = 64 << 20;

/// Files of an export are at least about this large, where there are enough rows.
const LEAST_FILE_BYTES: u64 = 1 << 20;

/// When an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportWhen {
    /// When the master view holds more than the export, or is of another generation.
    Moved,
    /// Also when it holds the same: after a rebuild, which may have mended it.
    Always,
}

/// What an export came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportOutcome {
    /// The export holds the view at its boundary.
    Written {
        /// Rows.
        rows: u64,
        /// Bytes of its files.
        bytes: u64,
    },
    /// It did already, or holds even more.
    Unchanged,
    /// It holds more, of an earlier generation: refresh the view first.
    Behind,
}

/// Replaces the export of a view by the finished rows of its master view at its boundary, in one
/// commit. `since` is the entry of the catalogue by which the generation answers.
///
/// # Errors
/// `Unavailable` when a file of the master view is gone; `View` when the view's columns can't be
/// exported; those of the view's own SQL. Nothing is changed then.
pub async fn export(
    master: &Arc<Master>,
    since: u64,
    when: ExportWhen,
    options: &BatchOptions,
    now_ms: impl Fn() -> i64,
) -> Result<ExportOutcome> {
    master.refresh().await?;
    let pin = master.pin();
    let storage = master.table().storage();
    let answering = Answering {
        since,
        generation: master.generation(),
    };
    let export = Export::open(storage, master.view(), answering).await?;
    let standing = |e: &Export| e.pin().standing(answering, &pin.boundary);
    match (standing(&export), when) {
        (ExportStanding::Newer, _) | (ExportStanding::Same, ExportWhen::Always) => {}
        (ExportStanding::Same | ExportStanding::Older, _) => return Ok(ExportOutcome::Unchanged),
        (ExportStanding::Behind, _) => return Ok(ExportOutcome::Behind),
    }
    let mut written = Written::default();
    let done = match write_rows(master, &pin, &export, options, &mut written).await {
        Ok(()) => {
            let published = export.publish(&pin.boundary, &written.files, now_ms());
            published.await.map(|_| ())
        }
        Err(e) => Err(e),
    };
    let Err(e) = done else {
        return Ok(ExportOutcome::Written {
            rows: written.rows,
            bytes: written.bytes,
        });
    };
    // Where the storage did not say whether the commit is there, its files must stay.
    if e.kind() != ErrorKind::Unavailable {
        let names = written.files.iter().map(|f| f.path.as_str());
        export.table().discard(names).await;
    }
    match standing(&export) {
        ExportStanding::Older if e.kind() == ErrorKind::Conflict => Ok(ExportOutcome::Unchanged),
        ExportStanding::Behind if e.kind() == ErrorKind::Conflict => Ok(ExportOutcome::Behind),
        _ => Err(e),
    }
}

/// What was written so far.
#[derive(Default)]
struct Written {
    files: Vec<AddFile>,
    rows: u64,
    bytes: u64,
}

async fn write_rows(
    master: &Arc<Master>,
    pin: &MasterPin,
    export: &Export,
    options: &BatchOptions,
    written: &mut Written,
) -> Result<()> {
    let file_bytes = (options.memory_bytes / FILE_SHARE).max(LEAST_FILE_BYTES);
    let mut rows = finished_rows(master, pin, options).await?;
    let mut encoder = None;
    while let Some(batch) = rows.next().await {
        stopped(options)?;
        let batch = batch.map_err(|e| named(master, e.into()))?;
        let batch = export.convert(&batch)?;
        if batch.num_rows() == 0 {
            continue;
        }
        let current = match encoder.take() {
            Some(encoder) => encoder,
            None => {
                let name = master.table().storage().new_file_name();
                FileEncoder::new(name, export.columns(), 0)?
            }
        };
        let current = blocking(move || add(current, &batch)).await?;
        match current.size_bytes() as u64 >= file_bytes {
            true => close(export, current, written).await?,
            false => encoder = Some(current),
        }
    }
    match encoder {
        Some(last) => close(export, last, written).await,
        None => Ok(()),
    }
}

/// The error of a sum that is out of range with the view that it is of.
fn named(master: &Master, e: Error) -> Error {
    match e.root() {
        Error::OutOfRange { .. } => Error::view(master.view().name(), e),
        _ => e,
    }
}

fn add(mut encoder: FileEncoder, batch: &RecordBatch) -> Result<FileEncoder> {
    encoder.write(batch)?;
    Ok(encoder)
}

async fn close(export: &Export, encoder: FileEncoder, written: &mut Written) -> Result<()> {
    let rows = encoder.rows() as u64;
    let file = blocking(move || encoder.finish()).await?;
    export.put(&file).await?;
    written.rows += rows;
    written.bytes += file.body.len() as u64;
    written.files.push(file.add);
    Ok(())
}

/// The view's answer of a pinned master view, as a stream.
async fn finished_rows(
    master: &Arc<Master>,
    pin: &MasterPin,
    options: &BatchOptions,
) -> Result<SendableRecordBatchStream> {
    let engine_bytes = (options.memory_bytes / ENGINE_SHARE).max(LEAST_ENGINE_BYTES);
    let pool = FairSpillPool::new(usize::try_from(engine_bytes).unwrap_or(usize::MAX));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .build_arc()?;
    master.table().storage().register(&runtime)?;
    let planning = planning_session()?.state();
    // One stream: it keeps the order of keys and needs the least memory.
    let config: SessionConfig = planning.config().clone().with_target_partitions(1);
    let state = SessionStateBuilder::new_from_existing(planning)
        .with_config(config)
        .with_runtime_env(runtime)
        .build();
    let fan_in = usize::try_from(options.memory_bytes / MERGED_FILE_BYTES).unwrap_or(usize::MAX);
    let leaf = MasterLeaf::new(master, pin.clone(), fan_in);
    let plan = master.view().answer_plan(Arc::new(leaf))?;
    Ok(DataFrame::new(state, plan).execute_stream().await?)
}
