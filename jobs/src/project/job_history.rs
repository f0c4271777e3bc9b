//! The history of jobs: a Delta table with a row for each job that ended.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use anabranch_batch::{KeepRule, keep_small};
use anabranch_shared::process::peak_resident_bytes;
use anabranch_shared::settings::Project;
use anabranch_shared::table::{AddFile, Commit, Table};
use anabranch_shared::{
    Error, LateReads, Pin, PlainPin, Relation, Result, Storage, blocking, encode_parquet, layout,
    read_file, read_parquet, timestamp_type,
};
use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use futures::{StreamExt, TryStreamExt};

use crate::clock::{now_ms, now_us};

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
        view: None,
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
pub async fn record(storage: &Storage, project: &Project, job: &JobRecord) -> Result<()> {
    let table = open(storage).await?;
    add(&table, std::slice::from_ref(job)).await?;
    let rule = KeepRule {
        fewest_files: MOST_FILES,
        // What is too old goes with upkeep.
        before_us: None,
        ..keep_rule(project)
    };
    keep_small(&table, &rule, now_ms()).await.map(|_| ())
}

/// Adds jobs that ended, in one commit.
async fn add(table: &Table, jobs: &[JobRecord]) -> Result<()> {
    let storage = table.storage();
    let text = |of: fn(&JobRecord) -> &str| -> ArrayRef {
        Arc::new(StringViewArray::from_iter_values(jobs.iter().map(of)))
    };
    let time = |of: fn(&JobRecord) -> i64| -> ArrayRef {
        let times = TimestampMicrosecondArray::from_iter_values(jobs.iter().map(of));
        Arc::new(times.with_timezone("UTC"))
    };
    let number = |of: fn(&JobRecord) -> Option<i64>| -> ArrayRef {
        Arc::new(jobs.iter().map(of).collect::<Int64Array>())
    };
    let rate = |job: &JobRecord| {
        let seconds = (job.ended_at - job.started_at) as f64 / 1e6;
        (seconds > 0.0 && job.facts > 0).then(|| job.facts as f64 / seconds)
    };
    let errors = jobs.iter().map(|job| job.error.as_deref());
    let columns = vec![
        text(|job| &job.view),
        text(|job| job.job),
        text(|job| &job.trigger),
        time(|job| job.started_at),
        time(|job| job.ended_at),
        text(|job| job.outcome),
        number(|job| Some(job.facts)),
        Arc::new(jobs.iter().map(rate).collect::<Float64Array>()),
        number(|job| Some(job.bytes)),
        number(|job| job.peak_memory_bytes),
        Arc::new(errors.collect::<StringViewArray>()),
    ];
    let batch = RecordBatch::try_new(schema(), columns)?;
    let file = encode_parquet(storage.new_file_name(), &schema(), &[batch], 0)?;
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

/// How the table is kept small.
pub(crate) fn keep_rule(project: &Project) -> KeepRule {
    KeepRule {
        schema: schema(),
        time: "ended_at",
        before_us: before_us(project),
        fewest_files: FEWEST_FILES,
        checkpoint_every: project.daemon.checkpoint_every,
    }
}

/// The time before which rows about jobs and retries go, in microseconds since 1970.
pub(super) fn before_us(project: &Project) -> Option<i64> {
    let age = project.storage.history_for?;
    let age_us = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Some(now_us().saturating_sub(age_us))
}

/// How a job of a view last ended.
#[derive(Clone, Debug, PartialEq)]
pub struct LastRow {
    /// When it began, in microseconds since 1970.
    pub started_at: i64,
    /// When it ended, in microseconds since 1970.
    pub ended_at: i64,
    /// What started it.
    pub trigger: String,
    /// `done`, `failed`, or `stopped` by its user.
    pub outcome: String,
    /// Why it failed.
    pub error: Option<String>,
}

/// A job that ended, for who counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndedJob {
    /// The view and the job.
    pub(crate) key: (String, String),
    /// `done`, `failed`, or `stopped` by its user.
    pub(crate) outcome: String,
    /// When it began and ended, in microseconds since 1970.
    pub(crate) started_at: i64,
    pub(crate) ended_at: i64,
    /// Facts that were read.
    pub(crate) facts: i64,
}

/// The last row of each job, by view and job. Follows the table: what was read once is not read
/// again.
#[derive(Debug, Default)]
pub struct LastRows {
    /// Opened once, because that lists the storage.
    table: Option<Table>,
    read: HashSet<String>,
    rows: BTreeMap<(String, String), LastRow>,
    /// When each job last began that was not stopped by its user.
    begun: BTreeMap<(String, String), i64>,
    /// When each job last ended well.
    done: BTreeMap<(String, String), i64>,
    /// The jobs that ended after this time are told one by one, where anybody wants that.
    told_after: Option<i64>,
    /// When the last one ended that was told. A row may be read twice, because files are merged.
    told: BTreeMap<(String, String), i64>,
    ended: Vec<EndedJob>,
}

impl LastRows {
    /// The last row of each job.
    pub fn rows(&self) -> &BTreeMap<(String, String), LastRow> {
        &self.rows
    }

    /// When each job last began that was not stopped by its user, in microseconds since 1970.
    pub fn begun(&self) -> &BTreeMap<(String, String), i64> {
        &self.begun
    }

    /// Those that also tell each job which ends after a time in microseconds since 1970.
    pub(crate) fn telling_after(time_us: i64) -> Self {
        Self {
            told_after: Some(time_us),
            ..Self::default()
        }
    }

    /// When each job last ended well, in microseconds since 1970.
    pub(crate) fn done(&self) -> &BTreeMap<(String, String), i64> {
        &self.done
    }

    /// The jobs that have ended and were not told yet, each once.
    pub(crate) fn take_ended(&mut self) -> Vec<EndedJob> {
        std::mem::take(&mut self.ended)
    }

    /// Reads what was added. Returns whether there was something.
    pub async fn follow(&mut self, storage: &Storage) -> Result<bool> {
        // Files that were merged while they were read are in the next version.
        for _ in 0..FOLLOW_TRIES {
            match self.try_follow(storage).await {
                Err(Error::Unavailable(_)) => {}
                followed => return followed,
            }
        }
        self.try_follow(storage).await
    }

    async fn try_follow(&mut self, storage: &Storage) -> Result<bool> {
        let table = match &self.table {
            Some(table) => {
                table.refresh().await?;
                table
            }
            None => self.table.insert(Table::open(storage, layout::JOBS).await?),
        };
        let files: Vec<Arc<AddFile>> = table.with_state(|s| s.files.values().cloned().collect());
        let here: HashSet<&String> = files.iter().map(|f| &f.path).collect();
        self.read.retain(|path| here.contains(path));
        let new = files.iter().filter(|f| !self.read.contains(&f.path));
        let new: Vec<Arc<AddFile>> = new.cloned().collect();
        let bodies: Vec<_> = new.iter().map(|add| read_file(table, add)).collect();
        let bodies = futures::stream::iter(bodies).buffered(READ_AT_ONCE);
        let wanted: Vec<_> = bodies.try_collect().await?;
        let told_after = self.told_after;
        let read = blocking(move || {
            let mut all = Self {
                told_after,
                ..Self::default()
            };
            let columns = Arc::new(schema().project(&LAST_COLUMNS)?);
            for body in wanted {
                for batch in read_parquet(body, &columns, &LateReads::default())? {
                    all.note(&batch?);
                }
            }
            Ok(all)
        });
        let read = read.await?;
        for (key, row) in read.rows {
            self.note_row(key, row);
        }
        for (key, at) in read.begun {
            raise(&mut self.begun, key, at);
        }
        for (key, at) in read.done {
            raise(&mut self.done, key, at);
        }
        let mut ended = read.ended;
        ended.sort_by_key(|job| job.ended_at);
        for job in ended {
            let told = self.told.get(&job.key).copied();
            if told.is_none_or(|told| told < job.ended_at) {
                self.told.insert(job.key.clone(), job.ended_at);
                self.ended.push(job);
            }
        }
        let any = !new.is_empty();
        self.read.extend(new.iter().map(|f| f.path.clone()));
        Ok(any)
    }

    fn note_row(&mut self, key: (String, String), row: LastRow) {
        match self.rows.get(&key) {
            Some(known) if known.started_at > row.started_at => {}
            _ => drop(self.rows.insert(key, row)),
        }
    }

    /// Notes the rows of a batch in [`LAST_COLUMNS`].
    fn note(&mut self, batch: &RecordBatch) {
        let text = |i: usize| batch.column(i).as_string_view();
        let time = |i: usize| batch.column(i).as_primitive::<TimestampMicrosecondType>();
        let (views, jobs, triggers) = (text(0), text(1), text(2));
        let (started, ended) = (time(3), time(4));
        let (outcomes, errors) = (text(5), text(7));
        let facts = batch.column(6).as_primitive::<Int64Type>();
        // Only what is newer than what is known is copied: there may be many rows of one job.
        let mut newest: HashMap<(&str, &str), (usize, Option<i64>)> = HashMap::new();
        let mut done: HashMap<(&str, &str), i64> = HashMap::new();
        for row in 0..batch.num_rows() {
            let at = started.value(row);
            let key = (views.value(row), jobs.value(row));
            let (last, begun) = newest.entry(key).or_insert((row, None));
            if at >= started.value(*last) {
                *last = row;
            }
            let (outcome, ended_at) = (outcomes.value(row), ended.value(row));
            if outcome != "stopped" {
                *begun = (*begun).max(Some(at));
            }
            if outcome == "done" {
                let done = done.entry(key).or_insert(ended_at);
                *done = ended_at.max(*done);
            }
            if self.told_after.is_some_and(|after| ended_at > after) {
                self.ended.push(EndedJob {
                    key: (key.0.to_owned(), key.1.to_owned()),
                    outcome: outcome.to_owned(),
                    started_at: at,
                    ended_at,
                    facts: facts.value(row),
                });
            }
        }
        for ((view, job), at) in done {
            raise(&mut self.done, (view.to_owned(), job.to_owned()), at);
        }
        for ((view, job), (row, begun)) in newest {
            let key = (view.to_owned(), job.to_owned());
            if let Some(begun) = begun {
                raise(&mut self.begun, key.clone(), begun);
            }
            let last = LastRow {
                started_at: started.value(row),
                ended_at: ended.value(row),
                trigger: triggers.value(row).to_owned(),
                outcome: outcomes.value(row).to_owned(),
                error: errors.is_valid(row).then(|| errors.value(row).to_owned()),
            };
            self.note_row(key, last);
        }
    }
}

/// Notes a time where none or an earlier one is known.
fn raise(known: &mut BTreeMap<(String, String), i64>, key: (String, String), at: i64) {
    let known = known.entry(key).or_insert(at);
    *known = at.max(*known);
}

/// Of the table's columns: view, job, trigger, started_at, ended_at, outcome, facts, error.
const LAST_COLUMNS: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 10];

/// Files that are read at once.
const READ_AT_ONCE: usize = 16;

/// How often the table is read again because its files were merged meanwhile.
const FOLLOW_TRIES: usize = 5;

/// With fewer small files than this nothing is merged by upkeep.
const FEWEST_FILES: usize = 8;

/// Whoever adds a row merges where there are so many files: also where no upkeep ever runs.
const MOST_FILES: usize = 100;

/// The process's peak of resident memory in bytes, where the system tells.
pub fn peak_memory_bytes() -> Option<i64> {
    i64::try_from(peak_resident_bytes()?).ok()
}

#[cfg(test)]
mod tests;
