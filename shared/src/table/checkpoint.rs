//! Checkpoints of a table: where they lie, and how one is read, whoever has written it. A position can
//! be any name, and only the whole list of `txn` actions tells which there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use object_store::path::Path;
use serde::Deserialize;

use super::{AddFile, TableState};
use crate::damage::damaged;
use crate::parquet_bounds::check_footer;
use crate::storage::{Storage, join};
use crate::{LogVersion, Result, planted};

mod write;

pub(super) use write::write;

/// A checkpoint of ours holds a checksum between the four bytes that every Parquet file begins with
/// and its first column, where no reader looks: these four bytes, and the CRC-32C of the
/// checkpoint's path and of all its other bytes.
const SEAL: [u8; 4] = *b"ACKP";
const SEAL_AT: usize = 4;
const SEAL_BYTES: usize = 8;

#[derive(Deserialize)]
struct LastCheckpoint {
    version: u64,
}

fn path_of(root: &Path, version: LogVersion) -> Path {
    let name = format!("_delta_log/{:020}.checkpoint.parquet", version.0);
    join(root, &name)
}

/// The hint at the newest checkpoint.
fn hint_path(root: &Path) -> Path {
    join(root, "_delta_log/_last_checkpoint")
}

/// The version of the newest checkpoint, by the hint that is kept of it; `None` where there is no
/// hint that can be read.
pub(super) async fn hint(storage: &Storage, root: &Path) -> Result<Option<LogVersion>> {
    let path = hint_path(root);
    let Some(bytes) = storage.get(&path).await? else {
        return Ok(None);
    };
    match serde_json::from_slice::<LastCheckpoint>(&bytes) {
        Ok(last) => Ok(Some(LogVersion(last.version))),
        Err(e) => {
            tracing::warn!(%path, error = %e, "checkpoint hint is not readable");
            Ok(None)
        }
    }
}

/// The state at a checkpoint; `None` where it is gone.
pub(super) async fn read(
    storage: &Storage,
    root: &Path,
    version: LogVersion,
) -> Result<Option<TableState>> {
    let path = path_of(root, version);
    match storage.get(&path).await? {
        Some(bytes) => decode(bytes, version, &path).map(Some),
        None => Ok(None),
    }
}

/// The state at the checkpoint that the hint names; `None` where there is none.
pub(super) async fn read_hinted(storage: &Storage, root: &Path) -> Result<Option<TableState>> {
    match hint(storage, root).await? {
        Some(version) => read(storage, root, version).await,
        None => Ok(None),
    }
}

/// What lies in a table's log after its newest known entry.
#[derive(Debug, Default)]
pub(super) struct Later {
    /// The versions of entries.
    pub(super) entries: BTreeSet<LogVersion>,
    /// The version of the newest checkpoint past the known version.
    pub(super) checkpoint: Option<LogVersion>,
}

/// Lists what lies in a table's log after the entry of a version.
pub(super) async fn list_later(
    storage: &Storage,
    root: &Path,
    known: Option<LogVersion>,
) -> Result<Later> {
    let log = join(root, "_delta_log");
    let found = match known {
        Some(version) => {
            let entry = join(&log, &format!("{:020}.json", version.0));
            storage.list_after(&log, &entry).await?
        }
        None => storage.list_below(&log).await?,
    };
    let mut later = Later::default();
    for name in found.iter().filter_map(|o| o.location.filename()) {
        let version = |suffix| Some(LogVersion(name.strip_suffix(suffix)?.parse().ok()?));
        if let Some(entry) = version(".json").filter(|v| Some(*v) > known) {
            later.entries.insert(entry);
        }
        if let Some(checkpoint) = version(".checkpoint.parquet").filter(|v| Some(*v) > known) {
            later.checkpoint = later.checkpoint.max(Some(checkpoint));
        }
    }
    Ok(later)
}

/// Checks a checkpoint or the hint at one, by its path.
pub(super) fn check_file(bytes: &Bytes, path: &Path) -> Result<()> {
    let name = path.filename().unwrap_or_default();
    if let Some(version) = name.strip_suffix(".checkpoint.parquet") {
        let version = LogVersion(version.parse().unwrap_or_default());
        return decode(bytes.clone(), version, path).map(|_| ());
    }
    match serde_json::from_slice::<LastCheckpoint>(bytes) {
        Err(e) if name == "_last_checkpoint" => Err(damaged(path, e)),
        _ => Ok(()),
    }
}

fn decode(bytes: Bytes, version: LogVersion, path: &Path) -> Result<TableState> {
    let not_parquet = |e: &dyn std::fmt::Display| damaged(path, e);
    let mut state = TableState {
        version: Some(version),
        checkpoint: Some(version),
        ..Default::default()
    };
    // Before it is decoded: what a damaged footer says can be anything.
    if !is_whole(&bytes, path) && !planted("planted-damage-read") {
        return Err(damaged(path, "it is not what was written there"));
    }
    check_footer(&bytes).map_err(|e| not_parquet(&e))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| not_parquet(&e))?;
    for batch in builder.build().map_err(|e| not_parquet(&e))? {
        let batch = batch.map_err(|e| not_parquet(&e))?;
        read_batch(&batch, &mut state)
            .ok_or_else(|| damaged(path, "it has not the columns of a checkpoint"))?;
        check_protocol(&batch)?;
    }
    match state.schema {
        Some(_) => Ok(state),
        None => Err(damaged(path, "it does not say what the table is")),
    }
}

/// Writes the checksum of a checkpoint, which has room for it, into it.
fn seal(body: &mut [u8], path: &Path) {
    let crc = checksum(body, path).to_le_bytes();
    let sealed = SEAL.into_iter().chain(crc);
    let room = body.iter_mut().skip(SEAL_AT);
    room.zip(sealed).for_each(|(byte, seal)| *byte = seal);
}

/// The checksum of a checkpoint's path and of its bytes besides the seal.
fn checksum(body: &[u8], path: &Path) -> u32 {
    let path = crc32c::crc32c(path.as_ref().as_bytes());
    let before = crc32c::crc32c_append(path, body.get(..SEAL_AT).unwrap_or_default());
    let rest = body.get(SEAL_AT + SEAL_BYTES..).unwrap_or_default();
    crc32c::crc32c_append(before, rest)
}

/// Whether a checkpoint is what was written at its path; one without a seal is taken for that.
fn is_whole(body: &[u8], path: &Path) -> bool {
    match body.get(SEAL_AT..SEAL_AT + SEAL_BYTES) {
        Some(seal) if seal.starts_with(&SEAL) => {
            seal.ends_with(&checksum(body, path).to_le_bytes())
        }
        _ => true,
    }
}

/// Reads rows of a checkpoint; `None` where a column that must be there is not, or is of another
/// type than the protocol gives it.
fn read_batch(batch: &RecordBatch, state: &mut TableState) -> Option<()> {
    read_txns(batch, state)?;
    read_files(batch, state)?;
    read_configuration(batch, state)?;
    read_removed(batch, state)
}

fn read_txns(batch: &RecordBatch, state: &mut TableState) -> Option<()> {
    // Who has written none may leave the column out.
    let Some(txn) = batch.column_by_name("txn") else {
        return Some(());
    };
    let txn = txn.as_struct_opt()?;
    let apps = txn.column_by_name("appId")?.as_string_opt::<i32>()?;
    let versions = txn
        .column_by_name("version")?
        .as_primitive_opt::<Int64Type>()?;
    // Who writes none may leave the column out.
    let times = txn.column_by_name("lastUpdated");
    let times = times.and_then(|times| times.as_primitive_opt::<Int64Type>());
    for row in (0..txn.len()).filter(|&row| txn.is_valid(row)) {
        let app = apps.value(row).to_owned();
        if let Some(times) = times.filter(|times| times.is_valid(row)) {
            state.txn_times.insert(app.clone(), times.value(row));
        }
        state.txns.insert(app, versions.value(row));
    }
    Some(())
}

fn read_files(batch: &RecordBatch, state: &mut TableState) -> Option<()> {
    let add = batch.column_by_name("add")?.as_struct_opt()?;
    let paths = add.column_by_name("path")?.as_string_opt::<i32>()?;
    let sizes = add
        .column_by_name("size")?
        .as_primitive_opt::<Int64Type>()?;
    let times = add
        .column_by_name("modificationTime")?
        .as_primitive_opt::<Int64Type>()?;
    let stats = add.column_by_name("stats")?.as_string_opt::<i32>()?;
    let tags = match add.column_by_name("tags") {
        Some(tags) => Some(tags.as_map_opt()?),
        None => None,
    };
    for row in (0..add.len()).filter(|&row| add.is_valid(row)) {
        let file = AddFile {
            path: paths.value(row).to_owned(),
            size: sizes.value(row),
            modification_time: times.value(row),
            stats: stats.is_valid(row).then(|| stats.value(row).to_owned()),
            tags: match tags.filter(|t| t.is_valid(row)) {
                Some(tags) => Some(read_map(&tags.value(row))?),
                None => None,
            },
            ..Default::default()
        };
        state.files.insert(file.path.clone(), Arc::new(file));
    }
    Some(())
}

fn read_map(entries: &arrow::array::StructArray) -> Option<BTreeMap<String, Option<String>>> {
    let keys = entries.column(0).as_string_opt::<i32>()?;
    let values = entries.column(1).as_string_opt::<i32>()?;
    Some(
        (0..entries.len())
            .map(|i| {
                let value = values.is_valid(i).then(|| values.value(i).to_owned());
                (keys.value(i).to_owned(), value)
            })
            .collect(),
    )
}

fn read_configuration(batch: &RecordBatch, state: &mut TableState) -> Option<()> {
    let metadata = batch.column_by_name("metaData")?.as_struct_opt()?;
    let maps = metadata.column_by_name("configuration")?.as_map_opt()?;
    let ids = metadata.column_by_name("id")?.as_string_opt::<i32>()?;
    for row in (0..metadata.len()).filter(|&row| metadata.is_valid(row)) {
        state.id = Some(ids.value(row).to_owned());
        let schemas = metadata
            .column_by_name("schemaString")?
            .as_string_opt::<i32>()?;
        state.schema = Some(schemas.value(row).to_owned());
        let created = metadata.column_by_name("createdTime");
        state.created_at_ms = created
            .and_then(|c| c.as_primitive_opt::<Int64Type>())
            .and_then(|c| c.is_valid(row).then(|| c.value(row)));
        let map = read_map(&maps.value(row))?;
        state.configuration = map
            .into_iter()
            .filter_map(|(k, v)| Some((k, v?)))
            .collect::<HashMap<_, _>>();
    }
    Some(())
}

fn read_removed(batch: &RecordBatch, state: &mut TableState) -> Option<()> {
    // Who has written none may leave the column out.
    let Some(remove) = batch.column_by_name("remove") else {
        return Some(());
    };
    let remove = remove.as_struct_opt()?;
    let paths = remove.column_by_name("path")?.as_string_opt::<i32>()?;
    let times = remove
        .column_by_name("deletionTimestamp")?
        .as_primitive_opt::<Int64Type>()?;
    for row in (0..remove.len()).filter(|&row| remove.is_valid(row) && times.is_valid(row)) {
        let path = paths.value(row).to_owned();
        state.removed.insert(path, times.value(row));
    }
    Some(())
}

fn check_protocol(batch: &RecordBatch) -> Result<()> {
    let versions = (|| {
        let protocol = batch.column_by_name("protocol")?.as_struct_opt()?;
        let reader = protocol
            .column_by_name("minReaderVersion")?
            .as_primitive_opt::<Int32Type>()?;
        let writer = protocol
            .column_by_name("minWriterVersion")?
            .as_primitive_opt::<Int32Type>()?;
        let row = (0..protocol.len()).find(|&row| protocol.is_valid(row))?;
        Some((reader.value(row), writer.value(row)))
    })();
    match versions {
        Some((reader, writer)) => super::action::Protocol::of(reader, writer).check(),
        None => Ok(()),
    }
}
