//! Which dead letters were retried: a Delta table with a row for each. Only for people to see; that
//! a retry adds nothing twice is the log's, which holds the identity of each dead letter that was
//! retried.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_batch::KeepRule;
use anabranch_shared::layout;
use anabranch_shared::settings::Project;
use anabranch_shared::table::{Commit, Table};
use anabranch_shared::{
    Offset, PartitionId, Pin, PlainPin, Relation, Result, Storage, encode_parquet, retry_schema,
    timestamp_type,
};
use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
};

use crate::clock::now_ms;
use crate::project::job_history::before_us;

/// What came of a dead letter that was retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOutcome {
    /// It is a fact now.
    Fact,
    /// It is a duplicate of a fact, by the topic's `dedup`.
    Duplicate,
    /// It was written before, by a retry that could not say so.
    Repeated,
}

impl RetryOutcome {
    fn name(self) -> &'static str {
        match self {
            Self::Fact => "fact",
            Self::Duplicate => "duplicate",
            Self::Repeated => "repeated",
        }
    }
}

/// A dead letter that was retried.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Its topic.
    pub topic: String,
    /// Its place.
    pub place: (PartitionId, Offset),
    /// When, in microseconds since 1970.
    pub retried_at: i64,
    /// What came of it.
    pub outcome: RetryOutcome,
    /// The new place, where it is known.
    pub new_place: Option<(PartitionId, Offset)>,
}

/// The retries as a relation that can be queried.
pub fn relation() -> Relation {
    Relation {
        name: layout::DEAD_LETTER_RETRIES.into(),
        kind: "table",
        schema: retry_schema(),
        view: None,
    }
}

/// The table of retries, which mostly is not there. It is kept open, because to open one that is
/// not there lists.
#[derive(Debug, Default)]
pub struct RetriesTable {
    opened: tokio::sync::OnceCell<Table>,
}

impl RetriesTable {
    /// The table, opened when it is first asked for.
    pub async fn open(&self, storage: &Storage) -> Result<&Table> {
        let open = || Table::open(storage, layout::DEAD_LETTER_RETRIES);
        self.opened.get_or_try_init(open).await
    }

    /// Pins the retries where `names` asks for them, or for dead letters, which show them.
    pub async fn pin(&self, storage: &Storage, names: &[String], pin: &mut Pin) -> Result<()> {
        let shows = |name: &String| name == layout::DEAD_LETTER_RETRIES || name == "dead_letters";
        if !names.iter().any(shows) {
            return Ok(());
        }
        let known = self.open(storage).await?;
        known.refresh().await?;
        // Somebody may have removed the table by hand, so one that is there is opened anew.
        let anew = match known.exists() {
            true => Some(Table::open(storage, layout::DEAD_LETTER_RETRIES).await?),
            false => None,
        };
        let table = anew.as_ref().unwrap_or(known);
        let retries = PlainPin {
            schema: retry_schema(),
            root: table.root().clone(),
            files: table.with_state(|s| s.files.values().cloned().collect()),
        };
        pin.plain
            .insert(layout::DEAD_LETTER_RETRIES.into(), retries);
        Ok(())
    }
}

/// How the table is kept small.
pub(crate) fn keep_rule(project: &Project) -> KeepRule {
    KeepRule {
        schema: retry_schema(),
        time: "retried_at",
        before_us: before_us(project),
        fewest_files: FEWEST_FILES,
        checkpoint_every: project.daemon.checkpoint_every,
    }
}

/// With fewer small files than this nothing is merged.
const FEWEST_FILES: usize = 8;

/// Adds dead letters that were retried.
pub async fn record(storage: &Storage, retries: &[Retry]) -> Result<()> {
    if retries.is_empty() {
        return Ok(());
    }
    let schema = retry_schema();
    let (name, properties) = (layout::DEAD_LETTER_RETRIES, HashMap::new());
    let table = Table::open_or_create(storage, name, &schema, properties, now_ms()).await?;
    let new = || retries.iter().map(|r| r.new_place);
    let times = retries.iter().map(|r| r.retried_at);
    let text = |text: Vec<&str>| -> ArrayRef { Arc::new(StringViewArray::from_iter_values(text)) };
    let columns: Vec<ArrayRef> = vec![
        text(retries.iter().map(|r| r.topic.as_str()).collect()),
        Arc::new(Int32Array::from_iter_values(
            retries.iter().map(|r| r.place.0.0),
        )),
        Arc::new(Int64Array::from_iter_values(
            retries.iter().map(|r| r.place.1.0),
        )),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(times).with_data_type(timestamp_type()),
        ),
        text(retries.iter().map(|r| r.outcome.name()).collect()),
        Arc::new(Int32Array::from_iter(new().map(|p| p.map(|p| p.0.0)))),
        Arc::new(Int64Array::from_iter(new().map(|p| p.map(|p| p.1.0)))),
    ];
    let batch = RecordBatch::try_new(schema.clone(), columns)?;
    let file = encode_parquet(storage.new_file_name(), &schema, &[batch], 0)?;
    storage
        .put(&table.file_path(&file.add.path), file.body)
        .await?;
    let commit = table.commit(now_ms(), |_| {
        Ok(Commit {
            adds: vec![file.add.clone()],
            operation: "WRITE",
            data_change: true,
            ..Default::default()
        })
    });
    commit.await.map(|_| ())
}
