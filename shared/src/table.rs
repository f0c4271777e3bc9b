//! A Delta Lake table as this project writes it: appends and swaps of Parquet files, with
//! positions (`txn` actions) in the same commit. Owns the commit protocol and the replay of the
//! table's own log; knows nothing of facts or states.
//!
//! A commit is one put-if-absent of `_delta_log/{version:020}.json`, so its cost doesn't grow with
//! the table. It is decided against a known state, and decided anew against every commit that won
//! its version first. A random id in each commit settles whether an unanswered put succeeded.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use object_store::path::Path;
use parking_lot::RwLock;

use crate::damage::damaged;
use crate::steady::uptime_ms;
use crate::storage::{CreateOutcome, Storage, join};
use crate::{Backoff, Error, LockHolds, LogVersion, Result, planted};

mod action;
mod checkpoint;
mod head;
pub(crate) mod parquet;
mod positions;
mod schema;

pub use action::{Action, AddFile, CommitInfo, RemoveFile, Txn};
use action::{Metadata, Protocol};
pub use head::ENTRIES_STAY_MS;
use head::HeadSeen;
pub(crate) use positions::{check_start, partition_app, position_txns, positions};
pub(crate) use schema::plain_type;
pub use schema::{delta_schema, storage_type};

/// The table property that forbids removing rows, by its name in the Delta protocol.
pub const APPEND_ONLY: &str = "delta.appendOnly";

/// The table property of a table whose writers expect each other to change its schema.
pub const SCHEMA_MAY_CHANGE: &str = "anabranch.schemaMayChange";

/// How long a removed file is remembered at least, in milliseconds.
const REMEMBER_REMOVED_MS: i64 = 7 * 24 * 3_600 * 1_000;

/// So many removed files are remembered whatever their age.
const REMEMBER_REMOVED: usize = 4_096;

/// How often a commit that keeps losing its version is tried again.
const COMMIT_TRIES: usize = 1_000;

/// How often a commit whose put was not answered is tried again.
const UNANSWERED_TRIES: usize = 5;

/// The pause before the first of them that follows another.
const UNANSWERED_PAUSE: Duration = Duration::from_millis(10);

/// A commit of more actions is applied to a copy of the state, for which nobody waits.
const APPLIED_IN_PLACE: usize = 256;

/// Entries that are read at once by who is far behind.
const READ_AHEAD: u64 = 16;

/// What is known of a table at one version.
#[derive(Clone, Debug, Default)]
pub struct TableState {
    /// The newest version that was read; `None` for a table that does not exist.
    pub version: Option<LogVersion>,
    /// The live files by path.
    pub files: BTreeMap<String, Arc<AddFile>>,
    /// The positions by name; one that was set to 0 is as if it was never set.
    pub txns: HashMap<String, i64>,
    /// When each was last set, in milliseconds since 1970, where that is known.
    pub txn_times: HashMap<String, i64>,
    /// The table's free-form configuration.
    pub configuration: HashMap<String, String>,
    /// The table's columns, as Delta writes them.
    pub schema: Option<String>,
    /// When the table was created or last changed its columns, in milliseconds since 1970.
    pub created_at_ms: Option<i64>,
    /// The version of the checkpoint that the table was opened from.
    pub checkpoint: Option<LogVersion>,
    /// The random id that the table keeps for ever.
    pub id: Option<String>,
    /// When files were removed that may still lie in the storage, by path, in milliseconds since
    /// 1970. Those that were removed more than a week ago may be missing.
    pub removed: HashMap<String, i64>,
}

impl TableState {
    /// The position of a name, 0 if it was never set.
    pub fn txn(&self, app: &str) -> i64 {
        self.txns.get(app).copied().unwrap_or(0)
    }

    /// The version of the next entry.
    fn next_version(&self) -> LogVersion {
        self.version.map_or(LogVersion(0), LogVersion::next)
    }

    /// The names of the table's columns.
    fn columns(&self) -> Result<Vec<String>> {
        let Some(schema) = &self.schema else {
            return Ok(Vec::new());
        };
        let damaged = |e: serde_json::Error| Error::Corrupt(format!("a table's schema: {e}"));
        let schema: serde_json::Value = serde_json::from_str(schema).map_err(damaged)?;
        let fields = schema["fields"].as_array().into_iter().flatten();
        let names = fields.filter_map(|field| field["name"].as_str().map(str::to_owned));
        Ok(names.collect())
    }

    /// Whether the table has columns that a schema lacks.
    pub(crate) fn has_unknown_columns(&self, schema: &arrow::datatypes::Schema) -> Result<bool> {
        let columns = self.columns()?;
        Ok(columns.iter().any(|name| schema.index_of(name).is_err()))
    }

    /// Whether a schema has all columns of the table, and more.
    fn is_narrower_than(&self, schema: &arrow::datatypes::Schema) -> Result<bool> {
        let columns = self.columns()?;
        let kept = columns.iter().all(|name| schema.index_of(name).is_ok());
        Ok(kept && !columns.is_empty() && columns.len() < schema.fields().len())
    }

    /// Why a commit was not decided against this state, where that shows.
    fn does_not_follow(&self, actions: &[Action]) -> Option<String> {
        let infos = actions.iter().filter_map(|action| match action {
            Action::CommitInfo(info) => info.before.as_ref(),
            _ => None,
        });
        let (app, before) = infos.flatten().find(|(app, at)| self.txn(app) != **at)?;
        let found = self.txn(app);
        Some(format!(
            "it begins where `{app}` is {before}, and the entries before it end at {found}: an entry was lost or exchanged"
        ))
    }

    fn apply(&mut self, version: LogVersion, actions: Vec<Action>) -> Result<()> {
        for action in actions {
            match action {
                Action::Add(add) => {
                    self.removed.remove(&add.path);
                    self.files.insert(add.path.clone(), Arc::new(add));
                }
                Action::Remove(remove) => {
                    self.files.remove(&remove.path);
                    if let Some(at_ms) = remove.deletion_timestamp {
                        self.removed.insert(remove.path, at_ms);
                        self.forget_removed(at_ms);
                    }
                }
                Action::Txn(txn) if txn.version == 0 => {
                    self.txns.remove(&txn.app_id);
                    self.txn_times.remove(&txn.app_id);
                }
                Action::Txn(txn) => {
                    match txn.last_updated {
                        Some(at_ms) => self.txn_times.insert(txn.app_id.clone(), at_ms),
                        None => self.txn_times.remove(&txn.app_id),
                    };
                    self.txns.insert(txn.app_id, txn.version);
                }
                Action::MetaData(metadata) => {
                    (self.configuration, self.id) = (metadata.configuration, Some(metadata.id));
                    self.schema = Some(metadata.schema_string);
                    self.created_at_ms = metadata.created_time;
                }
                Action::Protocol(protocol) => protocol.check()?,
                Action::CommitInfo(_) => {}
            }
        }
        self.version = Some(version);
        Ok(())
    }

    /// Forgets files that were removed long before `at_ms`; seldom, because it looks at all of them.
    fn forget_removed(&mut self, at_ms: i64) {
        let many = self.removed.len();
        if many >= REMEMBER_REMOVED && many.is_power_of_two() {
            self.removed
                .retain(|_, removed| *removed > at_ms.saturating_sub(REMEMBER_REMOVED_MS));
        }
    }
}

/// What a table is: its columns and its properties.
#[derive(Clone, Debug)]
pub struct TableDefinition {
    /// The columns, of types that Delta has.
    pub schema: SchemaRef,
    /// The free-form configuration.
    pub configuration: HashMap<String, String>,
}

/// A commit, decided against a state.
#[derive(Debug, Default)]
pub struct Commit {
    /// What the table is from this commit on; as before where absent. A table that does not exist
    /// is created by it.
    pub definition: Option<TableDefinition>,
    /// Files to add.
    pub adds: Vec<AddFile>,
    /// Files to remove.
    pub removes: Vec<RemoveFile>,
    /// Positions to set.
    pub txns: Vec<Txn>,
    /// What the commit is, for `DESCRIBE HISTORY` of any engine.
    pub operation: &'static str,
    /// More about the commit, kept in its `commitInfo`.
    pub info: serde_json::Map<String, serde_json::Value>,
    /// Whether facts change; a reader that follows the log skips a commit that only rewrites.
    pub data_change: bool,
}

/// How a commit of ours was found to have gone.
enum PutOutcome {
    Ours,
    Lost(Vec<Action>),
    Absent,
}

/// A Delta table in the storage.
///
/// Locks, in the order in which they are taken: `writing`, `following`, `state`. Who reads takes
/// the last alone, for as long as it takes to count one reader more: what it reads stays as it is
/// while newer states take its place. Who refreshes takes the last two, so nobody but other
/// committers waits for the put of a commit.
#[derive(Debug)]
pub struct Table {
    storage: Storage,
    root: Path,
    /// The newest known state.
    state: RwLock<Arc<TableState>>,
    holds: Arc<LockHolds>,
    /// Held by who commits, from the first look at the state until it is known what became of the
    /// commit.
    writing: tokio::sync::Mutex<()>,
    /// Held by who changes the state, while entries are read and applied.
    following: tokio::sync::Mutex<()>,
    /// When it was last sure that no entry comes after the newest known one.
    head_seen: HeadSeen,
    /// Which removals of facts by another writer are expected; those of an append-only table else
    /// stop the writer.
    removals: Option<RemovalCheck>,
}

/// Whether the files that a commit removes from a table of a state may go.
pub type RemovalCheck = fn(&TableState, &[Action]) -> bool;

impl Table {
    /// Opens the table below `root`; it need not exist yet.
    ///
    /// # Errors
    /// `Corrupt` where an entry of its log is damaged, or missing while later ones are there.
    pub async fn open(storage: &Storage, root: impl Into<Path>) -> Result<Self> {
        let table = Self {
            storage: storage.clone(),
            root: root.into(),
            state: RwLock::default(),
            holds: LockHolds::new("table"),
            writing: tokio::sync::Mutex::default(),
            following: tokio::sync::Mutex::default(),
            head_seen: HeadSeen::new(storage),
            removals: None,
        };
        // A hint that is lost or old does no harm: who finds no entry lists what there is.
        if let Some(state) = checkpoint::read_hinted(storage, &table.root).await? {
            table.replace(state);
            storage.note_found(&table.log_path());
        }
        table.refresh().await?;
        Ok(table)
    }

    /// Opens the table, created with this schema and configuration where it does not exist.
    pub async fn open_or_create(
        storage: &Storage,
        root: impl Into<Path>,
        schema: &arrow::datatypes::Schema,
        configuration: HashMap<String, String>,
        now_ms: i64,
    ) -> Result<Self> {
        let table = Self::open(storage, root).await?;
        // Who only reads finds a table without rows where there is none.
        if table.exists() || storage.is_read_only() {
            return Ok(table);
        }
        let new = (storage.ids().fresh().to_string(), now_ms);
        let actions = vec![
            Action::Protocol(Protocol::ours()),
            Action::MetaData(Metadata::new(&delta_schema(schema)?, configuration, new)),
            Action::CommitInfo(CommitInfo::new("CREATE TABLE", now_ms)),
        ];
        let entry = table.entry_path(LogVersion(0));
        let body = action::encode(&actions, &entry)?;
        let mut backoff = Backoff::new(UNANSWERED_PAUSE, UNANSWERED_PAUSE * 8);
        for attempt in 1.. {
            // Losing this race is fine: whoever wins writes the same schema.
            let created = table.storage.create(&entry, body.clone()).await;
            table.refresh().await?;
            match created {
                Err(e) if !table.exists() && attempt >= UNANSWERED_TRIES => return Err(e),
                Err(_) if !table.exists() => {
                    tokio::time::sleep(backoff.failed(Instant::now())).await;
                }
                _ => break,
            }
        }
        Ok(table)
    }

    /// The table, whose facts other writers may remove where `check` says so, and nowhere else.
    pub fn allow_removals(self, check: RemovalCheck) -> Self {
        let removals = Some(check);
        Self { removals, ..self }
    }

    /// Gives the table the columns that a schema has besides those of the table, for other engines
    /// to see; a table that has columns which the schema lacks is newer, and stays.
    pub async fn widen(&self, schema: &SchemaRef, now_ms: i64) -> Result<()> {
        if self.storage.is_read_only()
            || !self.with_state(|state| state.is_narrower_than(schema))?
        {
            return Ok(());
        }
        let widened = self.commit(now_ms, |state| {
            let mut commit = Commit {
                operation: "CHANGE COLUMNS",
                ..Default::default()
            };
            // Another process may have been as quick.
            if state.is_narrower_than(schema)? {
                let mut configuration = state.configuration.clone();
                configuration.insert(SCHEMA_MAY_CHANGE.to_owned(), "true".to_owned());
                commit.definition = Some(TableDefinition {
                    schema: schema.clone(),
                    configuration,
                });
            }
            Ok(commit)
        });
        widened.await.map(|_| ())
    }

    /// Whether the table has a first commit.
    pub fn exists(&self) -> bool {
        self.with_state(|s| s.version.is_some())
    }

    /// Where the table lies in the storage.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The storage that holds the table.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Reads something off the newest known state. Nobody waits for who reads.
    pub fn with_state<T>(&self, read: impl FnOnce(&TableState) -> T) -> T {
        read(&self.state())
    }

    /// The newest known state.
    fn state(&self) -> Arc<TableState> {
        let state = self.state.read();
        let _hold = self.holds.begin();
        state.clone()
    }

    /// Puts another state in the place of the known one. `following` must be held.
    fn replace(&self, state: TableState) {
        let mut state = Arc::new(state);
        {
            let mut known = self.state.write();
            let _hold = self.holds.begin();
            std::mem::swap(&mut *known, &mut state);
        }
        // To free a state of many files takes long.
        drop(state);
    }

    /// How long the lock of the newest known state was held.
    pub fn holds(&self) -> &Arc<LockHolds> {
        &self.holds
    }

    /// The full path of one of the table's files.
    pub fn file_path(&self, name: &str) -> Path {
        join(&self.root, name)
    }

    fn log_path(&self) -> Path {
        join(&self.root, "_delta_log")
    }

    /// Removes files of these names that no commit names. What can't be removed does no harm.
    pub async fn discard(&self, names: impl Iterator<Item = &str>) {
        for name in names {
            let path = self.file_path(name);
            if let Err(e) = self.storage.delete(&path).await {
                tracing::warn!(%path, error = %e, "could not remove a file that was not published");
            }
        }
    }

    pub(crate) fn entry_path(&self, version: LogVersion) -> Path {
        join(&self.root, &format!("_delta_log/{:020}.json", version.0))
    }

    async fn read_entry(&self, version: LogVersion) -> Result<Option<Vec<Action>>> {
        let path = self.entry_path(version);
        match self.storage.get(&path).await? {
            None => Ok(None),
            Some(bytes) => Ok(Some(action::decode(&bytes, &path)?)),
        }
    }

    /// Checks the bytes of a file of a table's log, at its path.
    ///
    /// # Errors
    /// `Corrupt` where they are not what was written there.
    pub(crate) fn check_log_file(bytes: &Bytes, path: &Path) -> Result<()> {
        let name = path.filename().unwrap_or_default();
        if name.ends_with(".json") {
            return action::decode(bytes, path).map(|_| ());
        }
        checkpoint::check_file(bytes, path)
    }

    /// Reads the commits that are new. Returns whether there were any. Does not wait for a commit
    /// of this process that is being put.
    pub async fn refresh(&self) -> Result<bool> {
        // Who has slept may find an entry of this process that nobody else will read; the commit
        // that has put it takes it back.
        let _commit = match self.head_seen.is_recent(&self.head_seen.now()) {
            true => None,
            false => Some(self.writing.lock().await),
        };
        let _guard = self.following.lock().await;
        self.follow().await
    }

    /// `following` must be held.
    async fn follow(&self) -> Result<bool> {
        let (mut read, mut at_once) = (0, 1);
        'follow: loop {
            let next = self.with_state(TableState::next_version);
            let looked = self.head_seen.now();
            let versions = (0..at_once).map(|n| LogVersion(next.0 + n));
            let entries = versions.map(|version| async move {
                Ok::<_, Error>((version, self.read_entry(version).await?))
            });
            let entries = futures::future::try_join_all(entries).await?;
            let absent = entries.iter().skip_while(|(_, entry)| entry.is_some());
            let gap = absent.skip(1).any(|(_, entry)| entry.is_some());
            for (version, entry) in entries {
                let Some(actions) = entry else {
                    let sure = !gap && self.head_seen.is_sure(&looked);
                    if sure || self.is_head(version, looked).await? {
                        self.head_seen.set(looked);
                        break 'follow;
                    }
                    read += 1;
                    continue 'follow;
                };
                self.apply(version, actions)?;
                read += 1;
            }
            // Who is one commit behind asks for two entries; who is far behind reads on ahead.
            at_once = (read / 2 + 1).min(READ_AHEAD);
        }
        if read > 0 {
            self.storage.note_found(&self.log_path());
        }
        Ok(read > 0)
    }

    /// Applies an entry to the state before it, unless that was done already. `following` must be
    /// held.
    fn apply(&self, version: LogVersion, actions: Vec<Action>) -> Result<()> {
        let known = self.state();
        if known.version.is_some_and(|known| known >= version) {
            return Ok(());
        }
        let says = |action: &Action| matches!(action, Action::MetaData(_));
        if known.version.is_none() && !actions.iter().any(says) {
            let what = "it does not say what the table is";
            return Err(damaged(self.entry_path(version), what));
        }
        if let Some(what) = known.does_not_follow(&actions)
            && !planted("planted-damage-read")
        {
            return Err(damaged(self.entry_path(version), what));
        }
        drop(known);
        if actions.len() <= APPLIED_IN_PLACE {
            let mut state = self.state.write();
            let _hold = self.holds.begin();
            if let Some(state) = Arc::get_mut(&mut state) {
                return state.apply(version, actions);
            }
        }
        // Somebody reads the state, and goes on reading it as it is.
        let mut state = TableState::clone(&self.state());
        state.apply(version, actions)?;
        self.replace(state);
        Ok(())
    }

    /// Commits what `decide` makes of the newest state; asked again after every commit that won
    /// its version first. `decide` refuses by an error, which is returned as it is.
    ///
    /// # Errors
    /// `Unavailable` when the storage does not answer; then the commit may or may not be there,
    /// and `decide` must tell by the positions when it is asked again.
    pub async fn commit(
        &self,
        now_ms: i64,
        mut decide: impl FnMut(&TableState) -> Result<Commit>,
    ) -> Result<LogVersion> {
        let _commit = self.writing.lock().await;
        {
            let _guard = self.following.lock().await;
            self.follow().await?;
        }
        for _ in 0..COMMIT_TRIES {
            // What is found of the head while the commit is put says nothing of when it was decided.
            let seen = self.head_seen.last();
            let id = self.storage.ids().fresh().to_string();
            let (version, actions) = {
                let state = self.state();
                let actions = decide(&state)?.into_actions(&state, &id, now_ms)?;
                (state.next_version(), actions)
            };
            self.check_old_files(&actions).await?;
            let put = self.put_entry(version, &id, &actions).await?;
            let _guard = self.following.lock().await;
            match put {
                PutOutcome::Ours if self.is_lost(version, &actions, &seen).await? => {}
                PutOutcome::Ours => {
                    self.apply(version, actions)?;
                    return Ok(version);
                }
                PutOutcome::Lost(winner) => {
                    self.check_winner(&winner, version)?;
                    self.apply(version, winner)?;
                }
                PutOutcome::Absent => {}
            }
        }
        Err(Error::Conflict(format!(
            "`{}`: lost {COMMIT_TRIES} versions in a row to other writers; try again",
            self.root
        )))
    }

    /// Checks that files are there which were made so long ago that clean-up may have taken them for
    /// orphans, as after a landing that could not be committed for hours.
    ///
    /// # Errors
    /// `Unavailable` where one is gone: it has to be made again.
    async fn check_old_files(&self, actions: &[Action]) -> Result<()> {
        let before = uptime_ms() - self.storage.old_ms();
        for action in actions {
            let Action::Add(add) = action else { continue };
            let path = self.file_path(&add.path);
            if add.made.is_some_and(|made| made <= before) && !self.storage.is_there(&path).await? {
                return Err(Error::Unavailable(format!(
                    "`{path}` was removed before it was committed, as a file that no commit had named for long; try again"
                )));
            }
        }
        Ok(())
    }

    /// Puts one entry and settles what became of it, also where the put was not answered.
    async fn put_entry(
        &self,
        version: LogVersion,
        id: &str,
        actions: &[Action],
    ) -> Result<PutOutcome> {
        let path = self.entry_path(version);
        let body = action::encode(actions, &path)?;
        fail::fail_point!(&format!("put-entry-of-{}", self.root));
        let mut failure = None;
        let mut backoff = Backoff::new(UNANSWERED_PAUSE, UNANSWERED_PAUSE * 8);
        for attempt in 0..UNANSWERED_TRIES {
            if failure.is_some() {
                tokio::time::sleep(backoff.failed(Instant::now())).await;
            }
            match self.storage.create(&path, body.clone()).await {
                Ok(CreateOutcome::Created) => return Ok(PutOutcome::Ours),
                Ok(CreateOutcome::Exists) => {}
                Err(e) => {
                    tracing::warn!(%path, attempt, error = %e, "commit entry not answered for");
                    failure = Some(e);
                }
            }
            match self.read_entry(version).await {
                Ok(Some(found)) if action::commit_id(&found) == Some(id) => {
                    // The put may have failed when the entry was there and not yet durable.
                    self.storage.note_found(&self.log_path());
                    match self.storage.settle().await {
                        Ok(()) => return Ok(PutOutcome::Ours),
                        Err(e) => failure = Some(e),
                    }
                }
                Ok(Some(winner)) => return Ok(PutOutcome::Lost(winner)),
                Ok(None) if failure.is_none() => return Ok(PutOutcome::Absent),
                Ok(None) => {}
                Err(e) => failure = Some(e),
            }
        }
        Err(Error::Unavailable(format!(
            "`{path}`: the storage does not answer, and whether the commit is there is not known: {}",
            failure.map(|e| e.to_string()).unwrap_or_default()
        )))
    }

    /// Writes a checkpoint at the newest known version, so that opening the table stays cheap.
    pub async fn write_checkpoint(&self) -> Result<()> {
        let state = self.state();
        match state.version {
            Some(_) => checkpoint::write(&self.storage, &self.root, state).await,
            None => Ok(()),
        }
    }
}

impl Commit {
    fn into_actions(self, state: &TableState, id: &str, now_ms: i64) -> Result<Vec<Action>> {
        let mut info = CommitInfo::new(self.operation, now_ms);
        info.id = Some(id.to_owned());
        let before = |txn: &Txn| (txn.app_id.clone(), state.txn(&txn.app_id));
        info.before = Some(self.txns.iter().map(before).collect());
        info.extra = self.info.into_iter().collect();
        let mut actions = vec![Action::CommitInfo(info)];
        if let Some(definition) = self.definition {
            if state.version.is_none() {
                actions.push(Action::Protocol(Protocol::ours()));
            }
            let schema = delta_schema(&definition.schema)?;
            // Before there is a table, its first commit's id is that of the table, too.
            let table = state.id.clone().unwrap_or_else(|| id.to_owned());
            let metadata = Metadata::new(&schema, definition.configuration, (table, now_ms));
            actions.push(Action::MetaData(metadata));
        }
        actions.extend(self.txns.into_iter().map(|txn| {
            Action::Txn(Txn {
                last_updated: Some(now_ms),
                ..txn
            })
        }));
        let data_change = self.data_change;
        actions.extend(self.removes.into_iter().map(|mut remove| {
            (remove.data_change, remove.deletion_timestamp) = (data_change, Some(now_ms));
            Action::Remove(remove)
        }));
        actions.extend(self.adds.into_iter().map(|mut add| {
            (add.data_change, add.modification_time) = (data_change, now_ms);
            Action::Add(add)
        }));
        Ok(actions)
    }
}

impl Table {
    /// A winner's commit that this version does not understand stops the writer.
    fn check_winner(&self, actions: &[Action], version: LogVersion) -> Result<()> {
        let state = self.state();
        if state.version.is_some_and(|known| known >= version) {
            // It was read meanwhile, as those are that come before a commit.
            return Ok(());
        }
        // The first commit creates the table: that is what a writer that lost it wanted.
        let is_set = |name| state.configuration.get(name).is_some_and(|v| v == "true");
        let removes = actions
            .iter()
            .any(|a| matches!(a, Action::Remove(r) if r.data_change));
        let removal_refused = removes
            && match self.removals {
                Some(check) => !check(&state, actions),
                None => is_set(APPEND_ONLY),
            };
        let reason = actions.iter().find_map(|a| match a {
            Action::MetaData(_) if is_set(SCHEMA_MAY_CHANGE) => None,
            Action::MetaData(_) | Action::Protocol(_) if version > LogVersion(0) => {
                Some("changed the table's metadata or protocol")
            }
            Action::Remove(r) if r.data_change && removal_refused => Some("removed facts"),
            _ => None,
        });
        match reason {
            None => Ok(()),
            Some(reason) => Err(Error::Conflict(format!(
                "`{}`: commit {version} of another writer {reason}; restart to go on",
                self.root
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
