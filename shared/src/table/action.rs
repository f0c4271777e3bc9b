//! The actions of a Delta commit that this project writes and reads, in the JSON of the protocol
//! (<https://github.com/delta-io/delta/blob/master/PROTOCOL.md>, "Actions"). An action that is not
//! named here is skipped when it is read; table features that would change what a reader must do
//! are refused by [`Protocol::check`].

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use arrow::datatypes::Fields;
use datafusion::common::Statistics;
use object_store::path::Path;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::damage::damaged;
use crate::reference::Met;
use crate::{Error, OffsetRange, PartitionId, Result, planted};

/// The tag of a file that names the ranges of offsets that it holds.
const RANGES_TAG: &str = "anabranch.ranges";

/// The tag of a file of states that says which rows of references its facts met.
const MET_TAG: &str = "anabranch.references";

/// One line of a commit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Makes a file part of the table.
    Add(AddFile),
    /// Makes a file no part of the table any more.
    Remove(RemoveFile),
    /// Sets a position.
    Txn(Txn),
    /// The table's schema and properties.
    MetaData(Metadata),
    /// What a reader and a writer must understand.
    Protocol(Protocol),
    /// Who committed what.
    CommitInfo(CommitInfo),
}

/// A file that is part of the table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddFile {
    /// The file's name below the table's root.
    pub path: String,
    /// Values of partition columns; ours have none.
    #[serde(default)]
    pub partition_values: BTreeMap<String, Option<String>>,
    /// The file's size in bytes.
    pub size: i64,
    /// When the file was made, in milliseconds since 1970.
    pub modification_time: i64,
    /// Whether the file brings facts that were not there before.
    pub data_change: bool,
    /// Statistics as JSON: `numRecords`, `minValues`, `maxValues`, `nullCount`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    /// Our own notes on the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, Option<String>>>,
    /// The statistics as the engine wanted them last.
    #[serde(skip)]
    pub(crate) statistics: LastStatistics,
    /// When this process made the file, if it did: the machine's time since it booted, in
    /// milliseconds.
    #[serde(skip)]
    pub(crate) made: Option<i64>,
    /// The ranges that its tag names, once they were asked for; every query asks for all of a log's.
    #[serde(skip)]
    pub(crate) ranges: OnceLock<Option<Vec<(PartitionId, OffsetRange)>>>,
}

/// Statistics in the order of some columns, kept for who asks for the same ones again.
#[derive(Debug, Default)]
pub(crate) struct LastStatistics(pub(crate) Mutex<Option<(Fields, Arc<Statistics>)>>);

impl Clone for LastStatistics {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl AddFile {
    /// A tag's value.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.as_ref()?.get(name)?.as_deref()
    }

    /// Sets a tag.
    pub fn set_tag(&mut self, name: &str, value: String) {
        self.ranges = OnceLock::new();
        self.tags
            .get_or_insert_default()
            .insert(name.to_owned(), Some(value));
    }

    /// Notes which ranges of offsets the file holds.
    pub fn set_ranges(&mut self, ranges: &[(PartitionId, OffsetRange)]) -> Result<()> {
        let value = serde_json::to_string(ranges).map_err(|e| Error::Internal(e.to_string()))?;
        self.set_tag(RANGES_TAG, value);
        Ok(())
    }

    /// Which ranges of offsets the file holds.
    ///
    /// # Errors
    /// `Corrupt` for a file without that note.
    pub fn ranges(&self) -> Result<&[(PartitionId, OffsetRange)]> {
        let read = || serde_json::from_str(self.tag(RANGES_TAG)?).ok();
        self.ranges.get_or_init(read).as_deref().ok_or_else(|| {
            Error::Corrupt(format!(
                "file `{}` has no `{RANGES_TAG}` tag: another writer added or rewrote it",
                self.path
            ))
        })
    }

    /// Notes which rows of references the facts of the file met.
    pub fn set_met(&mut self, met: &Met) -> Result<()> {
        if !met.is_empty() {
            let value = serde_json::to_string(met).map_err(|e| Error::Internal(e.to_string()))?;
            self.set_tag(MET_TAG, value);
        }
        Ok(())
    }

    /// Which rows of references the facts of the file met.
    ///
    /// # Errors
    /// `Corrupt` where the note can't be read.
    pub fn met(&self) -> Result<Met> {
        let Some(note) = self.tag(MET_TAG) else {
            return Ok(Met::default());
        };
        serde_json::from_str(note).map_err(|e| {
            Error::Corrupt(format!(
                "file `{}`: its `{MET_TAG}` tag can't be read: {e}",
                self.path
            ))
        })
    }

    /// How many rows the file holds, where its statistics say so.
    pub fn rows(&self) -> Option<u64> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Rows {
            num_records: u64,
        }
        serde_json::from_str::<Rows>(self.stats.as_deref()?)
            .ok()
            .map(|s| s.num_records)
    }
}

/// A file that is no part of the table any more.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveFile {
    /// The file's name below the table's root.
    pub path: String,
    /// When it was removed, in milliseconds since 1970.
    #[serde(default)]
    pub deletion_timestamp: Option<i64>,
    /// Whether facts go with it.
    pub data_change: bool,
}

/// A position: how far an application has written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Txn {
    /// The position's name.
    pub app_id: String,
    /// The position.
    pub version: i64,
    /// When it was set, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<i64>,
}

impl Txn {
    /// A position.
    pub fn new(app_id: impl Into<String>, version: i64) -> Self {
        Self {
            app_id: app_id.into(),
            version,
            last_updated: None,
        }
    }
}

/// The table's schema and properties.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub(super) id: String,
    format: Format,
    pub(super) schema_string: String,
    partition_columns: Vec<String>,
    #[serde(default)]
    pub(super) configuration: HashMap<String, String>,
    #[serde(default)]
    pub(super) created_time: Option<i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Format {
    provider: String,
    #[serde(default)]
    options: HashMap<String, String>,
}

impl Format {
    fn parquet() -> Self {
        Self {
            provider: "parquet".into(),
            options: HashMap::new(),
        }
    }
}

impl Metadata {
    pub(super) fn new(
        schema: &serde_json::Value,
        configuration: HashMap<String, String>,
        (id, now_ms): (String, i64),
    ) -> Self {
        Self {
            id,
            format: Format::parquet(),
            schema_string: schema.to_string(),
            partition_columns: Vec::new(),
            configuration,
            created_time: Some(now_ms),
        }
    }

    /// The metadata that a state has; `None` for a table that does not exist.
    pub(super) fn of(state: &super::TableState) -> Option<Self> {
        Some(Self {
            id: state.id.clone()?,
            format: Format::parquet(),
            schema_string: state.schema.clone()?,
            partition_columns: Vec::new(),
            configuration: state.configuration.clone(),
            created_time: state.created_at_ms,
        })
    }
}

/// What a reader and a writer must understand.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    min_reader_version: i32,
    min_writer_version: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reader_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    writer_features: Option<Vec<String>>,
}

impl Protocol {
    /// Reader 1, writer 2: plain files and `delta.appendOnly`, what every engine reads.
    pub(super) fn ours() -> Self {
        Self {
            min_reader_version: 1,
            min_writer_version: 2,
            reader_features: None,
            writer_features: None,
        }
    }

    pub(super) fn of(min_reader_version: i32, min_writer_version: i32) -> Self {
        Self {
            min_reader_version,
            min_writer_version,
            ..Self::ours()
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.min_reader_version <= 1 && self.min_writer_version <= 2 {
            return Ok(());
        }
        Err(Error::Conflict(format!(
            "the table was upgraded by another writer to Delta reader {} and writer {}; this version reads and writes 1 and 2",
            self.min_reader_version, self.min_writer_version
        )))
    }
}

/// Who committed what.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitInfo {
    /// When, in milliseconds since 1970.
    #[serde(default)]
    pub timestamp: Option<i64>,
    /// What kind of commit.
    #[serde(default)]
    pub operation: Option<String>,
    /// By what software.
    #[serde(default)]
    pub engine_info: Option<String>,
    /// The random id that tells our own commit from others.
    #[serde(
        default,
        rename = "anabranchCommit",
        skip_serializing_if = "Option::is_none"
    )]
    pub id: Option<String>,
    /// What the positions that the commit sets were before it: so an entry that is lost, or stands
    /// in another's place, is noticed.
    #[serde(
        default,
        rename = "anabranchBefore",
        skip_serializing_if = "Option::is_none"
    )]
    pub before: Option<BTreeMap<String, i64>>,
    /// The checksum of the commit's place and of its other lines.
    #[serde(
        default,
        rename = "anabranchCrc32c",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) checksum: Option<u32>,
    /// Anything else.
    #[serde(flatten)]
    pub extra: HashMap<String, serde_json::Value>,
}

impl CommitInfo {
    pub(super) fn new(operation: &str, now_ms: i64) -> Self {
        Self {
            timestamp: Some(now_ms),
            operation: Some(operation.to_owned()),
            engine_info: Some(concat!("anabranch/", env!("CARGO_PKG_VERSION")).to_owned()),
            id: None,
            before: None,
            checksum: None,
            extra: HashMap::new(),
        }
    }
}

/// The id of a commit of ours.
pub(super) fn commit_id(actions: &[Action]) -> Option<&str> {
    actions.iter().find_map(|a| match a {
        Action::CommitInfo(info) => info.id.as_deref(),
        _ => None,
    })
}

/// The lines of a commit at its place. What the commit is comes first, with a checksum of the place
/// and of all other lines.
pub(super) fn encode(actions: &[Action], path: &Path) -> Result<bytes::Bytes> {
    let internal = |e: serde_json::Error| Error::Internal(e.to_string());
    let mut lines = Vec::with_capacity(512 * actions.len());
    let mut info = None;
    for action in actions {
        match action {
            Action::CommitInfo(found) if info.is_none() => info = Some(found.clone()),
            _ => {
                serde_json::to_writer(&mut lines, action).map_err(internal)?;
                lines.push(b'\n');
            }
        }
    }
    let mut info = info.unwrap_or_default();
    info.checksum = Some(checksum(path, &lines));
    let mut body = serde_json::to_vec(&Action::CommitInfo(info)).map_err(internal)?;
    body.push(b'\n');
    body.append(&mut lines);
    Ok(body.into())
}

fn checksum(path: &Path, lines: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(path.as_ref().as_bytes()), lines)
}

/// The actions of a commit at its place.
///
/// # Errors
/// `Corrupt` for what is not a commit, has no action, or was written for another place.
pub(super) fn decode(body: &[u8], path: &Path) -> Result<Vec<Action>> {
    let known = ["add", "remove", "txn", "metaData", "protocol", "commitInfo"];
    let corrupt = |line: usize, why: String| {
        damaged(
            path,
            format!("line {} is not a Delta action: {why}", line + 1),
        )
    };
    let (mut actions, mut others) = (Vec::new(), 0);
    for (number, line) in body.split(|&b| b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(action) => actions.push(action),
            Err(e) => {
                let map: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_slice(line).map_err(|e| corrupt(number, e.to_string()))?;
                if map.is_empty() || map.keys().any(|k| known.contains(&k.as_str())) {
                    return Err(corrupt(number, e.to_string()));
                }
                others += 1;
            }
        }
    }
    if actions.is_empty() && others == 0 {
        return Err(damaged(path, "it has no action"));
    }
    let expected = actions.iter().find_map(|action| match action {
        Action::CommitInfo(info) => info.checksum,
        _ => None,
    });
    let lines = body.iter().position(|&b| b == b'\n');
    let lines = lines.map_or(&[][..], |end| &body[end + 1..]);
    if expected.is_some_and(|expected| expected != checksum(path, lines))
        && !planted("planted-damage-read")
    {
        return Err(damaged(
            path,
            "its lines are not those that were written there",
        ));
    }
    Ok(actions)
}
