//! Checkpoints of a table: where they lie, and how one is read, whoever has written it. A position can
//! be any name, and only the whole list of `txn` actions tells which there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use object_store::path::Path;
use serde::Deserialize;

use super::{AddFile, TableState};
use crate::storage::{Storage, join};
use crate::{Error, LogVersion, Result};

mod write;

pub(super) use write::write;

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

/// The state at the newest checkpoint that the hint knows of; `None` where there is none.
pub(super) async fn read_latest(storage: &Storage, root: &Path) -> Result<Option<TableState>> {
    let Some(version) = hint(storage, root).await? else {
        return Ok(None);
    };
    match read(storage, root, version).await? {
        Some(state) => Ok(Some(state)),
        // A writer that was slow has put its older hint over a newer one.
        None => find_latest(storage, root).await,
    }
}

/// The state at the newest checkpoint, found by listing; `None` where there is none.
///
/// # Errors
/// `Corrupt` where the table's log has entries, and neither the first nor a checkpoint.
pub(super) async fn find_latest(storage: &Storage, root: &Path) -> Result<Option<TableState>> {
    let log = join(root, "_delta_log");
    let found = storage.list_below(&log).await?;
    let names: Vec<&str> = found.iter().filter_map(|o| o.location.filename()).collect();
    let version = |name: &&str| name.strip_suffix(".checkpoint.parquet")?.parse().ok();
    let Some(newest) = names.iter().filter_map(version).max() else {
        let first = format!("{:020}.json", 0);
        let entry = |name: &&str| name.ends_with(".json") && name.len() == first.len();
        return match names.iter().any(entry) && !names.contains(&first.as_str()) {
            true => Err(Error::Corrupt(format!(
                "`{log}` has entries, and neither the first nor a checkpoint: files of the table were lost; restore them"
            ))),
            false => Ok(None),
        };
    };
    read(storage, root, LogVersion(newest)).await
}

fn decode(bytes: Bytes, version: LogVersion, path: &Path) -> Result<TableState> {
    let mut state = TableState {
        version: Some(version),
        checkpoint: Some(version),
        ..Default::default()
    };
    for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
        let batch = batch?;
        read_txns(&batch, &mut state);
        read_files(&batch, &mut state)
            .ok_or_else(|| Error::Corrupt(format!("`{path}`: not the layout of a checkpoint")))?;
        read_configuration(&batch, &mut state);
        read_removed(&batch, &mut state);
        check_protocol(&batch)?;
    }
    Ok(state)
}

fn read_txns(batch: &RecordBatch, state: &mut TableState) -> Option<()> {
    let txn = batch.column_by_name("txn")?.as_struct_opt()?;
    let apps = txn.column_by_name("appId")?.as_string_opt::<i32>()?;
    let versions = txn
        .column_by_name("version")?
        .as_primitive_opt::<Int64Type>()?;
    for row in (0..txn.len()).filter(|&row| txn.is_valid(row)) {
        state
            .txns
            .insert(apps.value(row).to_owned(), versions.value(row));
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
    let tags = add.column_by_name("tags").and_then(|t| t.as_map_opt());
    for row in (0..add.len()).filter(|&row| add.is_valid(row)) {
        let file = AddFile {
            path: paths.value(row).to_owned(),
            size: sizes.value(row),
            modification_time: times.value(row),
            stats: stats.is_valid(row).then(|| stats.value(row).to_owned()),
            tags: tags
                .filter(|t| t.is_valid(row))
                .and_then(|t| read_map(&t.value(row))),
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
    let remove = batch.column_by_name("remove")?.as_struct_opt()?;
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
