//! Writes a checkpoint of a table from the state at hand, by the protocol's text
//! (<https://github.com/delta-io/delta/blob/master/PROTOCOL.md>, "Checkpoints", "Checkpoint Schema"):
//! one Parquet file of the actions that are in force, one a row, and a hint that names its version.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;
use object_store::path::Path;
use serde::Serialize;

use super::super::action::{Action, AddFile, Metadata, Protocol, RemoveFile, Txn};
use super::super::{REMEMBER_REMOVED_MS, TableState};
use super::{SEAL_BYTES, hint_path, path_of, seal};
use crate::storage::Storage;
use crate::{Error, Result};

/// So many actions become rows at a time.
const ROWS_AT_ONCE: usize = 4_096;

/// The hint at the newest checkpoint, `_last_checkpoint`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Hint {
    version: u64,
    /// How many actions the checkpoint holds.
    size: usize,
    size_in_bytes: usize,
    num_of_add_files: usize,
}

/// Writes a checkpoint of a state, and then the hint that names it.
///
/// # Errors
/// `Internal` for the state of a table that does not exist.
pub(in crate::table) async fn write(
    storage: &Storage,
    root: &Path,
    state: Arc<TableState>,
) -> Result<()> {
    let version = state.version;
    let version = version.ok_or_else(|| Error::Internal(format!("`{root}`: no table")))?;
    let num_of_add_files = state.files.len();
    let path = path_of(root, version);
    let at = path.clone();
    let encoded = tokio::task::spawn_blocking(move || encode(&state, &at)).await;
    let (body, size) = encoded.map_err(|e| Error::Internal(e.to_string()))??;
    let hint = Hint {
        version: version.0,
        size,
        size_in_bytes: body.len(),
        num_of_add_files,
    };
    let hint = serde_json::to_vec(&hint).map_err(|e| Error::Internal(e.to_string()))?;
    storage.put(&path, body).await?;
    storage.put(&hint_path(root), hint).await
}

/// A checkpoint's file at its path, and how many actions it holds.
fn encode(state: &TableState, path: &Path) -> Result<(Vec<u8>, usize)> {
    let actions = actions(state);
    let schema = schema();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    let mut body = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut body, schema.clone(), Some(properties.build()))?;
    // No reader looks between the file's first bytes and its first column.
    let room = writer.write_all(&[0; SEAL_BYTES]);
    room.map_err(|e| Error::Internal(e.to_string()))?;
    for some in actions.chunks(ROWS_AT_ONCE) {
        writer.write(&rows(some, &schema)?)?;
    }
    writer.close()?;
    seal(&mut body, path);
    Ok((body, actions.len()))
}

/// The rows of actions: each is the JSON of its line in a commit, read by the columns' types.
fn rows(actions: &[Action], schema: &SchemaRef) -> Result<RecordBatch> {
    let mut decoder = ReaderBuilder::new(schema.clone())
        .with_batch_size(actions.len())
        .build_decoder()?;
    decoder.serialize(actions)?;
    let rows = decoder.flush()?;
    rows.ok_or_else(|| Error::Internal("a checkpoint without actions".into()))
}

/// The actions that give this state to who replays them.
fn actions(state: &TableState) -> Vec<Action> {
    let metadata = Metadata::of(state);
    let mut actions = vec![Action::Protocol(Protocol::ours())];
    actions.extend(metadata.map(Action::MetaData));
    let txns: BTreeMap<_, _> = state.txns.iter().collect();
    actions.extend(txns.into_iter().map(|(app, version)| {
        Action::Txn(Txn {
            last_updated: state.txn_times.get(app).copied(),
            ..Txn::new(app, *version)
        })
    }));
    actions.extend(state.files.values().map(|file| {
        Action::Add(AddFile {
            data_change: false,
            ..AddFile::clone(file)
        })
    }));
    let newest_ms = state.removed.values().max().copied().unwrap_or_default();
    let remembered_ms = newest_ms.saturating_sub(REMEMBER_REMOVED_MS);
    let removed: BTreeMap<_, _> = state.removed.iter().collect();
    let removed = removed
        .into_iter()
        .filter(|(_, at_ms)| **at_ms > remembered_ms);
    actions.extend(removed.map(|(path, at_ms)| {
        Action::Remove(RemoveFile {
            path: path.clone(),
            deletion_timestamp: Some(*at_ms),
            data_change: false,
        })
    }));
    actions
}

/// The columns of a checkpoint, one for each kind of action.
fn schema() -> SchemaRef {
    let (text, long, int, flag) = (
        DataType::Utf8,
        DataType::Int64,
        DataType::Int32,
        DataType::Boolean,
    );
    let action = |name: &str, fields: Vec<Field>| group(name, fields, true);
    let must = |name: &str, of: &DataType| Field::new(name, of.clone(), false);
    let may = |name: &str, of: &DataType| Field::new(name, of.clone(), true);
    let txn = vec![
        must("appId", &text),
        must("version", &long),
        may("lastUpdated", &long),
    ];
    let add = vec![
        must("path", &text),
        map("partitionValues"),
        must("size", &long),
        must("modificationTime", &long),
        must("dataChange", &flag),
        may("stats", &text),
        map("tags"),
    ];
    let remove = vec![
        must("path", &text),
        may("deletionTimestamp", &long),
        must("dataChange", &flag),
    ];
    let format = vec![must("provider", &text), map("options")];
    let metadata = vec![
        must("id", &text),
        group("format", format, false),
        must("schemaString", &text),
        list("partitionColumns"),
        map("configuration"),
        may("createdTime", &long),
    ];
    let protocol = vec![
        must("minReaderVersion", &int),
        must("minWriterVersion", &int),
        list("readerFeatures"),
        list("writerFeatures"),
    ];
    Arc::new(Schema::new(vec![
        action("txn", txn),
        action("add", add),
        action("remove", remove),
        action("metaData", metadata),
        action("protocol", protocol),
    ]))
}

fn group(name: &str, fields: Vec<Field>, nullable: bool) -> Field {
    Field::new(name, DataType::Struct(Fields::from(fields)), nullable)
}

/// A list of texts, by the names that Parquet's specification gives to its parts.
fn list(name: &str) -> Field {
    Field::new_list(name, Field::new("element", DataType::Utf8, true), true)
}

/// A map of texts, by the names that Parquet's specification gives to its parts.
fn map(name: &str) -> Field {
    let key = Field::new("key", DataType::Utf8, false);
    let value = Field::new("value", DataType::Utf8, true);
    Field::new_map(name, "key_value", key, value, false, true)
}
