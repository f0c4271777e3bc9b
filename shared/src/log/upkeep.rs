//! What upkeep commits to a log's tables: files that hold the facts of others. Owns the fence
//! between those who do it; which files and when is the batch layer's.
//!
//! Every commit of upkeep starts at the table's `__maintenance` position and moves it on by one,
//! as landings do with a partition's: who has planned before another's commit is refused.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::{Log, dead_letter_schema};
use crate::planted;
use crate::table::parquet::{EncodedFile, read_file};
use crate::table::{AddFile, Commit, RemoveFile, Table, TableState, Txn};
use crate::{Error, LogVersion, Offsets, Result};

/// The position of upkeep, by its name in `txn` actions.
const MAINTENANCE_APP: &str = "__maintenance";

/// Up to which turn of the dead letters' upkeep the facts' table tells of it.
const DEAD_LETTERS_APP: &str = "__maintenance/dead_letters";

/// One of a log's two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTable {
    /// The facts.
    Facts,
    /// The dead letters.
    DeadLetters,
}

impl LogTable {
    /// Both, in the order in which they are kept in shape: see [`Log::tell_of_dead_letters`].
    pub const ALL: [Self; 2] = [Self::DeadLetters, Self::Facts];
}

/// A turn of a table's upkeep: what is planned in it can be committed only in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpkeepTurn(i64);

impl UpkeepTurn {
    /// The turn of a table at a state.
    pub(super) fn of(state: &TableState) -> Self {
        Self(state.txn(MAINTENANCE_APP))
    }

    /// The turn after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Refuses a commit that was planned in another turn.
    pub(super) fn check(self, table: &Table, state: &TableState) -> Result<()> {
        let found = Self::of(state);
        if found == self || planted("planted-maintenance-fence-ignored") {
            return Ok(());
        }
        Err(Error::Fenced {
            table: table.root().to_string(),
            app: MAINTENANCE_APP.to_owned(),
            start: self.0,
            found: found.0,
        })
    }

    /// The position that ends the turn.
    pub(super) fn end(self) -> Txn {
        Txn::new(MAINTENANCE_APP, self.next().0)
    }
}

/// Files of a table, and the turn in which something may be done to them.
#[derive(Clone, Debug)]
pub struct UpkeepFiles {
    /// The turn.
    pub turn: UpkeepTurn,
    /// All files, of the same version of the table.
    pub files: Vec<Arc<AddFile>>,
    /// What no merged file may cross: see [`Log::edges`].
    pub edges: Vec<Offsets>,
}

impl Log {
    /// One of the log's tables.
    pub fn table_of(&self, which: LogTable) -> &Table {
        match which {
            LogTable::Facts => &self.table,
            LogTable::DeadLetters => &self.dead,
        }
    }

    /// The schema of one of the log's tables.
    pub fn schema_of(&self, which: LogTable) -> SchemaRef {
        match which {
            LogTable::Facts => self.schema(),
            LogTable::DeadLetters => dead_letter_schema(),
        }
    }

    /// The files of a table whose rows are final: an attempt to land may still replace dead letters
    /// past the head.
    pub fn upkeep_files(&self, which: LogTable) -> Result<UpkeepFiles> {
        // Of one version: a later mark lies at or past the head.
        let (head, edges) = (self.head(), self.edges());
        self.table_of(which).with_state(|state| {
            let mut files = Vec::new();
            for add in state.files.values() {
                if is_below(add, &head)? {
                    files.push(add.clone());
                }
            }
            let turn = UpkeepTurn::of(state);
            Ok(UpkeepFiles { turn, files, edges })
        })
    }

    /// The bytes of a file of one of the tables.
    ///
    /// # Errors
    /// As [`read_file`].
    pub async fn file_bytes(&self, which: LogTable, add: &AddFile) -> Result<bytes::Bytes> {
        read_file(self.table_of(which), add).await
    }

    /// Replaces files by one that holds exactly their rows, in one commit that changes no facts.
    ///
    /// # Errors
    /// `Fenced` when another process has done upkeep since the files were looked at: nothing is
    /// changed then, and the new file is removed again. `Unavailable` when it is not known whether
    /// it was done.
    pub async fn replace_files(
        &self,
        which: LogTable,
        turn: UpkeepTurn,
        replaced: &[Arc<AddFile>],
        by: EncodedFile,
        now_ms: i64,
    ) -> Result<LogVersion> {
        let table = self.table_of(which);
        fail::fail_point!("compact-before-file");
        let add = by.add;
        let path = table.file_path(&add.path);
        table.storage().put(&path, by.body).await?;
        fail::fail_point!("compact-before-commit");
        let commit = table.commit(now_ms, |state| {
            turn.check(table, state)?;
            check_there(table, state, replaced)?;
            let remove = |f: &Arc<AddFile>| RemoveFile {
                path: f.path.clone(),
                ..Default::default()
            };
            Ok(Commit {
                adds: vec![add.clone()],
                removes: replaced.iter().map(remove).collect(),
                txns: vec![turn.end()],
                operation: "OPTIMIZE",
                data_change: false,
                ..Default::default()
            })
        });
        match commit.await {
            Ok(version) => {
                fail::fail_point!("compact-after-commit");
                Ok(version)
            }
            Err(e) => {
                if matches!(e, Error::Fenced { .. } | Error::Conflict(_)) {
                    table.discard(std::iter::once(add.path.as_str())).await;
                }
                Err(e)
            }
        }
    }
}

impl Log {
    /// Whether those who follow the log know of all upkeep of its dead letters.
    pub fn has_told_of_dead_letters(&self) -> bool {
        let turn = self.dead.with_state(UpkeepTurn::of);
        self.table.with_state(|s| s.txn(DEAD_LETTERS_APP)) == turn.0
    }

    /// Tells those who follow the log that files of its dead letters were replaced, where nobody
    /// has yet: they look at the dead letters only when the facts have moved.
    ///
    /// # Errors
    /// As [`Log::replace_files`].
    pub async fn tell_of_dead_letters(&self, now_ms: i64) -> Result<()> {
        let turn = self.dead.with_state(UpkeepTurn::of);
        let (own, told) = self
            .table
            .with_state(|s| (UpkeepTurn::of(s), s.txn(DEAD_LETTERS_APP)));
        if told == turn.0 {
            return Ok(());
        }
        let commit = self.table.commit(now_ms, |state| {
            own.check(&self.table, state)?;
            Ok(Commit {
                txns: vec![own.end(), Txn::new(DEAD_LETTERS_APP, turn.0)],
                operation: "OPTIMIZE",
                data_change: false,
                ..Default::default()
            })
        });
        commit.await.map(|_| ())
    }
}

/// Whether all of a file lies below a vector of offsets.
pub(super) fn is_below(add: &AddFile, end: &Offsets) -> Result<bool> {
    Ok(add.ranges()?.iter().all(|(p, r)| r.end <= end.get(*p)))
}

/// Refuses to replace a file that is not there: its rows would be there twice.
fn check_there(table: &Table, state: &TableState, files: &[Arc<AddFile>]) -> Result<()> {
    let gone = files.iter().find(|f| !state.files.contains_key(&f.path));
    match gone {
        Some(gone) if !planted("planted-maintenance-fence-ignored") => {
            Err(Error::Conflict(format!(
                "`{}`: file `{}` was replaced while it was merged",
                table.root(),
                gone.path
            )))
        }
        _ => Ok(()),
    }
}
