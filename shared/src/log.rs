//! The log of a topic: all its facts, as an open Delta table, with positions in the same commits.
//! Owns how facts land and how ranges of them are found; knows nothing of who produces them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Field, Int32Type, Schema, SchemaRef};

use crate::blocking::blocking;
use crate::damage::lost;
use crate::give_way::GiveWay;
use crate::late_fields::fit_facts;
use crate::layout;
use crate::planted;
use crate::storage::Storage;
use crate::table::parquet::{FileEncoder, encode_parquet, keep_ranges, read_file, read_parquet};
use crate::table::{
    APPEND_ONLY, AddFile, Commit, RemoveFile, SCHEMA_MAY_CHANGE, Table, TableState, Txn,
    check_start, partition_app, position_txns, positions,
};
use crate::topic::{LateReads, PARTITION, place_fields};
use crate::{Error, LogVersion, Offset, OffsetRange, Offsets, PartitionId, Result, Topic};

mod dead_letters;
mod past;
mod retention;
mod upkeep;

pub use dead_letters::{dead_letter_schema, dead_letters_queried, retry_schema};
pub use past::admissions;
pub use retention::{Mark, RemovedFacts, newest_dead_letter};
pub use upkeep::{LogTable, UpkeepFiles, UpkeepTurn};

/// The end of a gap, by its partition and start in `txn` actions.
const GAP_APP: &str = "gap/";
/// The position of an ingested file, by its name in `txn` actions.
const INGEST_APP: &str = "ingest/";

/// How far the WAL of a partition was synced when it last landed, in `txn` actions.
const SYNCED_APP: &str = "synced/";
/// The version of the dead letters that belongs to the facts, by its name in `txn` actions.
const DEAD_LETTERS_APP: &str = "dead_letters";

/// How often dead letters are written again because others have added some meanwhile.
const DEAD_LETTER_TRIES: usize = 20;

/// What one landing brings.
#[derive(Debug, Default)]
pub struct Landing {
    /// The ranges of offsets that it covers, also where they hold no fact.
    pub ranges: Vec<(PartitionId, OffsetRange)>,
    /// The facts, in the topic's schema as it is declared or was.
    pub facts: Vec<RecordBatch>,
    /// The dead letters of the same ranges, in [`dead_letter_schema`].
    pub dead_letters: Vec<RecordBatch>,
    /// How many records of which ingested files are in it or before it.
    pub ingested: BTreeMap<String, u64>,
    /// How many records of ingested files must have landed before it, for it to count: so two
    /// processes that ingest the same content don't both land it.
    pub ingested_before: BTreeMap<String, u64>,
    /// Partitions whose records others can read again and land, as those of Kafka: a dead letter
    /// of theirs is written by whoever comes first, and never again.
    pub refetched: BTreeSet<PartitionId>,
    /// Ranges whose facts are lost: their source had removed them before they were read.
    pub gaps: Vec<(PartitionId, OffsetRange)>,
    /// How far the WALs of partitions are synced, so that one which loses records is noticed.
    pub synced: Vec<(PartitionId, Offset)>,
    /// What its file gives way to, where it does not hurry.
    pub give_way: Option<GiveWay>,
    /// What tries before this one of the very same landing have put.
    pub put: Arc<PutFiles>,
}

/// How long what a landing has put is used again, and its name: no longer than far less than
/// `orphan_grace`, after which it may be removed as nobody's.
const USED_AGAIN_FOR: Duration = Duration::from_secs(300);

/// What a landing that failed has put, so that the next try of it puts nothing anew.
#[derive(Debug, Default)]
pub struct PutFiles {
    facts: parking_lot::Mutex<Option<PutFacts>>,
    /// Whether its dead letters are committed.
    dead_letters: AtomicBool,
}

/// The file of facts of a landing.
#[derive(Clone, Debug)]
struct PutFacts {
    name: String,
    schema: SchemaRef,
    /// When it was named, by the storage's clock.
    at: Duration,
    /// The file, once it is known to be there.
    add: Option<AddFile>,
}

impl PutFiles {
    /// The file of facts of a schema, which may be there already: of a former try, or a new one.
    fn facts(&self, schema: &SchemaRef, storage: &Storage) -> PutFacts {
        let now = storage.clock().now();
        let mut facts = self.facts.lock();
        match facts.as_ref() {
            Some(put) if put.schema == *schema && now.saturating_sub(put.at) < USED_AGAIN_FOR => {
                put.clone()
            }
            _ => {
                let (name, schema) = (storage.new_file_name(), schema.clone());
                let (at, add) = (now, None);
                let put = PutFacts {
                    name,
                    schema,
                    at,
                    add,
                };
                facts.insert(put).clone()
            }
        }
    }

    /// Bytes of the file of facts, once it is there.
    pub fn file_bytes(&self) -> u64 {
        let facts = self.facts.lock();
        let add = facts.as_ref().and_then(|put| put.add.as_ref());
        add.map_or(0, |add| u64::try_from(add.size).unwrap_or(0))
    }

    fn note_facts(&self, add: &AddFile) {
        if let Some(put) = self.facts.lock().as_mut().filter(|p| p.name == add.path) {
            put.add = Some(add.clone());
        }
    }
}

/// A file of facts, and which of its facts are wanted.
#[derive(Clone, Debug)]
pub struct FactsFile {
    /// The file's entry in the log.
    pub add: Arc<AddFile>,
    /// The ranges that are wanted of it.
    pub wanted: Vec<(PartitionId, OffsetRange)>,
    /// Whether it holds facts besides those.
    pub partial: bool,
}

impl FactsFile {
    /// Reads the wanted facts out of the file's bytes, in the columns of a schema. However it is asked
    /// for, the facts come in the same batches.
    pub(crate) fn read(
        &self,
        body: bytes::Bytes,
        schema: &SchemaRef,
        reads: &LateReads,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
        read_facts(body, schema, reads, self)
    }
}

/// The log of a topic, with its dead letters.
#[derive(Debug)]
pub struct Log {
    name: String,
    /// The topic as it is declared, as far as this process knows, and its schema.
    declared: parking_lot::RwLock<(Arc<Topic>, SchemaRef)>,
    table: Table,
    dead: Table,
    /// The version of the facts up to which the dead letters were followed too: commits and
    /// landings of this process follow the facts alone.
    followed: parking_lot::Mutex<Option<LogVersion>>,
}

impl Log {
    /// Opens the log of a topic, created where it does not exist.
    pub async fn open(storage: &Storage, topic: &Topic, now_ms: i64) -> Result<Self> {
        let schema = topic.schema();
        let append_only = HashMap::from([
            (APPEND_ONLY.to_owned(), "true".to_owned()),
            // By new nullable fields; a daemon of the old schema goes on beside them.
            (SCHEMA_MAY_CHANGE.to_owned(), "true".to_owned()),
        ]);
        let root = layout::log(&topic.name);
        let table = Table::open_or_create(storage, root, &schema, append_only, now_ms).await?;
        let table = table.allow_removals(retention::removes_below_low);
        table.widen(&schema, now_ms).await?;
        let needed = table.with_state(dead_letters_of);
        let root = layout::dead_letters(&topic.name);
        let schema_of_dead = dead_letter_schema();
        let dead =
            Table::open_or_create(storage, root, &schema_of_dead, HashMap::new(), now_ms).await?;
        let log = Self {
            name: topic.name.clone(),
            declared: parking_lot::RwLock::new((Arc::new(topic.clone()), schema)),
            table,
            dead,
            followed: parking_lot::Mutex::default(),
        };
        log.check_dead_letters(needed)?;
        Ok(log)
    }

    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The topic, with the fields that this process knows.
    pub fn topic(&self) -> Arc<Topic> {
        self.declared.read().0.clone()
    }

    /// The topic's schema, with the fields that this process knows.
    pub fn schema(&self) -> SchemaRef {
        self.declared.read().1.clone()
    }

    /// The topic and its schema, of one moment.
    pub fn declared(&self) -> (Arc<Topic>, SchemaRef) {
        self.declared.read().clone()
    }

    /// Takes a newer declaration of the topic. What was landed before is read as
    /// `late_fields` says, and what is landed from now on has its columns.
    ///
    /// # Errors
    /// `Invalid` where it does not go on from the one that is known.
    pub async fn redeclare(&self, topic: &Topic, now_ms: i64) -> Result<()> {
        topic.check_evolves_from(&self.topic())?;
        let schema = topic.schema();
        self.table.widen(&schema, now_ms).await?;
        *self.declared.write() = (Arc::new(topic.clone()), schema);
        Ok(())
    }

    /// The Delta table of facts.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The Delta table of dead letters. It may be ahead of the facts: only those below the head
    /// count.
    pub fn dead_letters(&self) -> &Table {
        &self.dead
    }

    /// Reads what others have landed. Returns whether there was something.
    pub async fn refresh(&self) -> Result<bool> {
        self.table.refresh().await?;
        let belong = |s: &TableState| (s.version, dead_letters_of(s));
        let (version, dead) = self.table.with_state(belong);
        let moved = *self.followed.lock() != version;
        if moved {
            self.dead.refresh().await?;
            self.check_dead_letters(dead)?;
            *self.followed.lock() = version;
        }
        Ok(moved)
    }

    /// Refuses dead letters that lack what was committed before the facts: `belongs` is the version
    /// that facts need which were read before the dead letters were.
    fn check_dead_letters(&self, belongs: i64) -> Result<()> {
        let found = self.dead.with_state(|s| s.version);
        match found.map_or(-1, |v| i64::try_from(v.0).unwrap_or(i64::MAX)) < belongs {
            true if !planted("planted-damage-read") => {
                let next = found.map_or(LogVersion(0), LogVersion::next);
                Err(lost(self.dead.entry_path(next)))
            }
            _ => Ok(()),
        }
    }

    /// Where the log of a topic ends in a partition, and up to where the partition's WAL was synced
    /// when it last landed; changes nothing.
    pub async fn look(
        storage: &Storage,
        topic: &str,
        partition: PartitionId,
    ) -> Result<(Offset, Offset)> {
        let table = Table::open(storage, layout::log(topic)).await?;
        let of = |app: String| table.with_state(|s| Offset(s.txn(&app)));
        let synced = of(format!("{SYNCED_APP}{partition}"));
        Ok((of(partition_app(partition)), synced))
    }

    /// Up to which offset the WAL of a partition was synced at least, when it last landed.
    pub fn synced(&self, partition: PartitionId) -> Offset {
        let app = format!("{SYNCED_APP}{partition}");
        self.table.with_state(|s| Offset(s.txn(&app)))
    }

    /// For each partition the first offset that is not landed.
    pub fn head(&self) -> Offsets {
        self.table.with_state(positions)
    }

    /// How many records of an ingested file have landed.
    pub fn ingested(&self, id: &str) -> u64 {
        let app = format!("{INGEST_APP}{id}");
        self.table
            .with_state(|s| u64::try_from(s.txn(&app)).unwrap_or(0))
    }

    /// The ranges whose facts are lost, because their source had removed them before they were
    /// read.
    pub fn gaps(&self) -> Vec<(PartitionId, OffsetRange)> {
        let gap = |(app, end): (&String, &i64)| {
            let (partition, start) = app.strip_prefix(GAP_APP)?.split_once('/')?;
            let range = OffsetRange::new(Offset(start.parse().ok()?), Offset(*end));
            Some((PartitionId(partition.parse().ok()?), range))
        };
        let mut gaps: Vec<_> = self
            .table
            .with_state(|s| s.txns.iter().filter_map(gap).collect());
        gaps.sort_by_key(|(p, r)| (*p, r.start));
        gaps
    }

    /// Lands facts: writes their file, their dead letters, and then the commit that makes both
    /// count.
    ///
    /// # Errors
    /// `Fenced` when a range does not start at the partition's head: somebody else has landed
    /// there. `Conflict` when others have landed records of the same ingested file meanwhile.
    pub async fn land(&self, landing: &Landing, now_ms: i64) -> Result<LogVersion> {
        let check = |state: &TableState| {
            check_start(self.table.root(), state, &landing.ranges)?;
            check_ingested(state, landing)
        };
        self.table.with_state(check)?;
        let begun = Instant::now();
        let adds = self.write_facts(landing).await?;
        let written = begun.elapsed();
        self.land_dead_letters(landing, now_ms).await?;
        let dead = self.dead.with_state(|s| s.version);
        let dead = dead.map_or(0, |v| i64::try_from(v.0).unwrap_or(0));
        fail::fail_point!("land-before-commit");
        fail::fail_point!("land-not-answered", |_| Err(Error::Unavailable(
            "the storage does not answer".into()
        )));
        let version = self
            .table
            .commit(now_ms, |state| {
                check(state)?;
                let mut txns = position_txns(&landing.ranges);
                txns.extend(landing.ingested.iter().map(|(id, records)| {
                    let records = i64::try_from(*records).unwrap_or(i64::MAX);
                    Txn::new(format!("{INGEST_APP}{id}"), records)
                }));
                txns.extend(
                    landing
                        .gaps
                        .iter()
                        .map(|(p, r)| Txn::new(format!("{GAP_APP}{p}/{}", r.start), r.end.0)),
                );
                let synced =
                    |(p, end): &(PartitionId, Offset)| Txn::new(format!("{SYNCED_APP}{p}"), end.0);
                txns.extend(landing.synced.iter().map(synced));
                if dead > state.txn(DEAD_LETTERS_APP) {
                    txns.push(Txn::new(DEAD_LETTERS_APP, dead));
                }
                Ok(Commit {
                    adds: adds.clone(),
                    txns,
                    operation: "WRITE",
                    data_change: true,
                    ..Default::default()
                })
            })
            .await?;
        fail::fail_point!("land-after-commit");
        tracing::debug!(
            table = %self.table.root(),
            version = version.0,
            facts = landing.facts.iter().map(RecordBatch::num_rows).sum::<usize>(),
            file_us = written.as_micros() as u64,
            commit_us = (begun.elapsed() - written).as_micros() as u64,
            "landed"
        );
        Ok(version)
    }

    async fn write_facts(&self, landing: &Landing) -> Result<Vec<AddFile>> {
        if landing.facts.iter().all(|b| b.num_rows() == 0) {
            return Ok(Vec::new());
        }
        // Facts wait to land that were admitted before a field was declared.
        let (topic, schema) = self.declared();
        let reads = topic.late_reads();
        let storage = self.table.storage();
        let put = landing.put.facts(&schema, storage);
        if let Some(add) = put.add
            && storage.is_there(&self.table.file_path(&add.path)).await?
        {
            return Ok(vec![add]);
        }
        let mut file = FileEncoder::new(put.name, &schema, 0)?;
        let (facts, give_way) = (landing.facts.clone(), landing.give_way.clone());
        let encoded = blocking(move || {
            let mut begun = Instant::now();
            for batch in &facts {
                file.write(&fit_facts(&schema, &reads, batch)?)?;
                if let Some(give_way) = &give_way {
                    begun = give_way.pause(begun);
                }
            }
            file.finish()
        });
        let encoded = encoded.await?;
        let mut add = encoded.add;
        add.set_ranges(&landing.ranges)?;
        let path = self.table.file_path(&add.path);
        storage.put(&path, encoded.body).await?;
        landing.put.note_facts(&add);
        Ok(vec![add])
    }

    /// Commits the dead letters of a landing, before its facts.
    async fn land_dead_letters(&self, landing: &Landing, now_ms: i64) -> Result<()> {
        let is_refetched = |p: &PartitionId| {
            landing.refetched.contains(p) && !planted("planted-dead-letters-replaced")
        };
        let ranges = landing.ranges.iter().copied();
        let (refetched, own): (Vec<_>, Vec<_>) = ranges.partition(|(p, _)| is_refetched(p));
        let (mut of_refetched, mut of_own) = (Vec::new(), Vec::new());
        for batch in landing.dead_letters.iter().filter(|b| b.num_rows() > 0) {
            match is_refetched(&partition_of(batch)?) {
                true => of_refetched.push(batch.clone()),
                false => of_own.push(batch.clone()),
            }
        }
        if !landing.put.dead_letters.load(Ordering::Relaxed) {
            self.land_own_dead_letters(&own, of_own, now_ms).await?;
            landing.put.dead_letters.store(true, Ordering::Relaxed);
        }
        self.land_refetched_dead_letters(&refetched, of_refetched, now_ms)
            .await
    }

    /// Of partitions to which nobody else appends. What an attempt of the same ranges left that
    /// died before its facts were committed is replaced.
    async fn land_own_dead_letters(
        &self,
        ranges: &[(PartitionId, OffsetRange)],
        batches: Vec<RecordBatch>,
        now_ms: i64,
    ) -> Result<()> {
        let ahead = self.dead.with_state(|s| {
            ranges
                .iter()
                .any(|(p, r)| s.txn(&partition_app(*p)) > r.start.0)
        });
        if ahead {
            // An attempt before this one may have been committed without getting its answer; then
            // nothing of it is stale, and this one must not go on.
            self.table.refresh().await?;
            self.table
                .with_state(|s| check_start(self.table.root(), s, ranges))?;
        }
        if batches.is_empty() && !ahead {
            return Ok(());
        }
        let add = self.write_dead_letters(ranges, batches).await?;
        let commit = self.dead.commit(now_ms, |state| {
            Ok(Commit {
                adds: add.iter().cloned().collect(),
                removes: stale_files(state, ranges)?,
                txns: position_txns(ranges),
                operation: "WRITE",
                data_change: true,
                ..Default::default()
            })
        });
        commit.await?;
        Ok(())
    }

    /// Of partitions that another daemon may have read too, and whose records are the same to it:
    /// those from the table's own position on are added, so that each is there once, whoever lands
    /// the facts of its range.
    async fn land_refetched_dead_letters(
        &self,
        ranges: &[(PartitionId, OffsetRange)],
        batches: Vec<RecordBatch>,
        now_ms: i64,
    ) -> Result<()> {
        for _ in 0..DEAD_LETTER_TRIES {
            if batches.is_empty() {
                return Ok(());
            }
            let written = self.dead.with_state(positions);
            let mut fresh = Vec::new();
            for batch in &batches {
                let partition = partition_of(batch)?;
                let from = OffsetRange::new(written.get(partition), Offset(i64::MAX));
                let kept = keep_ranges(batch, &[(partition, from)])?;
                fresh.extend((kept.num_rows() > 0).then_some(kept));
            }
            if fresh.is_empty() {
                return Ok(());
            }
            let later = |(p, r): &(PartitionId, OffsetRange)| {
                (*p, OffsetRange::new(r.start.max(written.get(*p)), r.end))
            };
            let held: Vec<_> = ranges
                .iter()
                .map(later)
                .filter(|(_, r)| !r.is_empty())
                .collect();
            let add = self.write_dead_letters(&held, fresh).await?;
            let commit = self.dead.commit(now_ms, |state| {
                // Where others have added to it meanwhile, less of this is fresh.
                let found = positions(state);
                for (p, _) in &held {
                    if found.get(*p) != written.get(*p) {
                        return Err(Error::Fenced {
                            table: self.dead.root().to_string(),
                            app: partition_app(*p),
                            start: written.get(*p).0,
                            found: found.get(*p).0,
                        });
                    }
                }
                Ok(Commit {
                    adds: add.iter().cloned().collect(),
                    txns: position_txns(&held),
                    operation: "WRITE",
                    data_change: true,
                    ..Default::default()
                })
            });
            match commit.await {
                Err(Error::Fenced { .. }) => self.dead.refresh().await?,
                done => return done.map(|_| ()),
            };
        }
        Err(Error::Conflict(format!(
            "`{}`: lost {DEAD_LETTER_TRIES} positions in a row to other writers; try again",
            self.dead.root()
        )))
    }

    async fn write_dead_letters(
        &self,
        ranges: &[(PartitionId, OffsetRange)],
        batches: Vec<RecordBatch>,
    ) -> Result<Option<AddFile>> {
        if batches.is_empty() {
            return Ok(None);
        }
        let name = self.dead.storage().new_file_name();
        let encoded =
            blocking(move || encode_parquet(name, &dead_letter_schema(), &batches, 0)).await?;
        let mut add = encoded.add;
        add.set_ranges(ranges)?;
        let path = self.dead.file_path(&add.path);
        self.dead.storage().put(&path, encoded.body).await?;
        Ok(Some(add))
    }

    /// The files that hold facts of `[from, to)`, in order of partition and offset.
    ///
    /// # Errors
    /// As [`Log::files_of`].
    pub fn files_between(&self, from: &Offsets, to: &Offsets) -> Result<Vec<FactsFile>> {
        self.files_of(&from.ranges_to(to))
    }

    /// The files that hold facts of some ranges, in order of partition and offset.
    ///
    /// # Errors
    /// `BelowLow` for a range of which retention has removed facts.
    pub fn files_of(&self, ranges: &[(PartitionId, OffsetRange)]) -> Result<Vec<FactsFile>> {
        self.table.with_state(|state| {
            retention::check_kept(&self.name, state, ranges)?;
            files_in(state, ranges)
        })
    }

    /// As [`Log::files_between`], of the dead letters.
    pub fn dead_letter_files_between(
        &self,
        from: &Offsets,
        to: &Offsets,
    ) -> Result<Vec<FactsFile>> {
        let ranges = from.ranges_to(to);
        self.dead.with_state(|state| files_in(state, &ranges))
    }

    /// Reads the wanted facts of a file, in the columns of a schema.
    pub async fn read_file(
        &self,
        file: &FactsFile,
        schema: &SchemaRef,
        reads: &LateReads,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
        read_facts(self.fetch_file(file).await?, schema, reads, file)
    }

    /// The bytes of a file of facts, for [`FactsFile::read`].
    pub(crate) async fn fetch_file(&self, file: &FactsFile) -> Result<bytes::Bytes> {
        read_file(&self.table, &file.add).await
    }

    /// Reads all wanted facts of some ranges into memory, in the topic's schema.
    pub async fn read_between(&self, from: &Offsets, to: &Offsets) -> Result<Vec<RecordBatch>> {
        let (topic, schema) = self.declared();
        let reads = topic.late_reads();
        let mut batches = Vec::new();
        for file in self.files_between(from, to)? {
            for batch in self.read_file(&file, &schema, &reads).await? {
                batches.push(batch?);
            }
        }
        Ok(batches)
    }
}

/// The partition of a batch of dead letters, which are all of one.
fn partition_of(batch: &RecordBatch) -> Result<PartitionId> {
    let column = batch.column_by_name(PARTITION);
    let column = column.and_then(|c| c.as_primitive_opt::<Int32Type>());
    let first = column.and_then(|c| c.values().first().copied());
    first
        .map(PartitionId)
        .ok_or_else(|| Error::Internal("dead letters without a partition".into()))
}

/// The version of the dead letters that the facts of a state need; -1 where they need none.
fn dead_letters_of(state: &TableState) -> i64 {
    state.txns.get(DEAD_LETTERS_APP).copied().unwrap_or(-1)
}

fn check_ingested(state: &TableState, landing: &Landing) -> Result<()> {
    for (id, before) in &landing.ingested_before {
        let found = state.txn(&format!("{INGEST_APP}{id}"));
        if u64::try_from(found) != Ok(*before) {
            return Err(Error::Conflict(format!(
                "content `{id}`: another process ingests it too, and has landed {found} of its records; run the command again when that one has ended, it goes on from there"
            )));
        }
    }
    Ok(())
}

/// Files that hold anything at or past the start of one of the ranges.
fn stale_files(
    state: &TableState,
    ranges: &[(PartitionId, OffsetRange)],
) -> Result<Vec<RemoveFile>> {
    let mut stale = Vec::new();
    for add in state.files.values() {
        let past = |(p, r): &(PartitionId, OffsetRange)| {
            ranges.iter().any(|(q, s)| q == p && r.end > s.start)
        };
        if add.ranges()?.iter().any(past) {
            stale.push(RemoveFile {
                path: add.path.clone(),
                ..Default::default()
            });
        }
    }
    Ok(stale)
}

fn files_in(state: &TableState, ranges: &[(PartitionId, OffsetRange)]) -> Result<Vec<FactsFile>> {
    let mut found = Vec::new();
    for add in state.files.values() {
        let held = add.ranges()?;
        let mut wanted = Vec::new();
        for (p, r) in held {
            for (q, want) in ranges.iter().filter(|(q, _)| q == p) {
                let both = r.intersect(*want);
                if !both.is_empty() {
                    wanted.push((*q, both));
                }
            }
        }
        if !wanted.is_empty() {
            let partial = wanted != held;
            found.push(FactsFile {
                add: add.clone(),
                wanted,
                partial,
            });
        }
    }
    found.sort_by_key(|f| f.wanted.first().map(|(p, r)| (*p, r.start)));
    Ok(found)
}

/// Reads the wanted facts of a file's bytes.
fn read_facts(
    body: bytes::Bytes,
    schema: &SchemaRef,
    reads: &LateReads,
    file: &FactsFile,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    if file.partial {
        let lacks = |f: &Field| schema.field_with_name(f.name()).is_err();
        let place = place_fields().into_iter().filter(lacks);
        fields.extend(place.map(Arc::new));
    }
    let wanted = Arc::new(Schema::new(fields));
    let keep: Option<Vec<_>> = file.partial.then(|| file.wanted.clone());
    let front: Vec<usize> = (0..schema.fields().len()).collect();
    Ok(read_parquet(body, &wanted, reads)?.map(move |batch| {
        let batch = batch?;
        match &keep {
            None => Ok(batch),
            Some(ranges) => Ok(keep_ranges(&batch, ranges)?.project(&front)?),
        }
    }))
}
