//! The words every layer speaks: facts, the log, views and their states.

mod backoff;
mod blocking;
mod caret;
mod catalogue;
mod check;
pub mod convert;
mod counted;
mod damage;
mod error;
mod export;
pub mod files;
mod fit;
mod fold_log;
pub mod functions;
mod give_way;
mod heads;
mod held_lock;
mod ids;
pub mod ipc;
mod late_fields;
pub mod layout;
mod lease;
mod log;
mod master;
pub mod metrics;
mod moment;
mod monotonic;
mod nearest;
mod panics;
pub mod parquet_bounds;
mod pin;
mod place;
mod planted;
pub mod process;
mod receipt;
mod redact;
mod reference;
mod references;
mod scan;
pub mod settings;
mod spill;
pub mod sql;
mod steady;
mod stop;
mod storage;
mod storage_secret;
pub mod table;
mod topic;
pub mod view;
mod wall_clock;

pub use backoff::{Backoff, retry_text};
pub use blocking::blocking;
pub use caret::moved_down;
pub use catalogue::{
    Act, Candidate, Catalogue, CutOverOf, Doer, Entry, GenerationEntry, Judged, Named,
    OwnPartitions, Previous, Role, Stopped, Succession, TopicEntry, ViewEntry,
    is_schema_of_generations, numbered,
};
pub use check::{CheckProgress, CheckReport, Finding, FindingKind, check_storage};
pub use counted::counted;
pub use damage::{damaged, lost};
pub use error::{Error, ErrorKind, Result, StatementError};
pub use export::{Answering, Export, ExportPin, ExportStanding};
pub use fold_log::{FoldOptions, FoldProgress, fold_log, fold_log_unplaced, join_ranges};
pub use give_way::GiveWay;
pub use heads::Heads;
pub use held_lock::{HeldGuard, HeldMutex, Hold, LONGEST_OVER_S, LockHolds};
pub use ids::Ids;
pub use late_fields::{fit_facts, misfits};
pub use lease::{Lease, LeaseDecision, LeaseEntry, LeaseStanding, decide_lease};
pub use log::{
    FactsFile, Landing, Log, LogTable, Mark, PutFiles, RemovedFacts, UpkeepFiles, UpkeepTurn,
    admissions, dead_letter_schema, dead_letters_queried, newest_dead_letter, retry_schema,
};
pub use master::{Master, MasterLeaf, MasterPin, Ranges, Unit};
pub use moment::Moment;
pub use monotonic::Monotonic;
pub use nearest::nearest;
pub use panics::panic_text;
pub use pin::{Pin, Pinner, PlainPin, ReadMode, ReferencePin, Relation, TopicPin, ViewPin};
pub use place::{CATALOG, Generation, LogVersion, Offset, OffsetRange, Offsets, PartitionId};
pub use planted::planted;
pub use receipt::{Claims, FloatSum, Receipt, ViewClaim};
pub use redact::without_passwords;
pub use reference::{Met, MetBy, Reference, ReferenceRows, ReferencesAt, ReferencesMet};
pub use references::{
    ReferenceSize, as_met, bound_reference, references_held, with_references, with_references_at,
};
pub use scan::{
    FileSource, count_files, decode_states, scan_files, scan_sorted_states, scan_spilled,
    statistics_tell,
};
pub use spill::{DeltaPart, Spill, SpilledStates, split_parts};
pub use steady::Stamp;
pub use stop::{Stop, StopReason};
pub use storage::{CreateOutcome, RequestKind, Requests, StagedFile, Storage};
pub use storage_secret::StorageSecret;
pub use table::parquet::{
    EncodedFile, FileBytes, FileEncoder, encode_parquet, keep_ranges, parquet_footer, read_file,
    read_parquet,
};
pub use topic::{
    EXTRA, INGESTED_AT, LateReads, OFFSET, PARTITION, Topic, TopicField, arrow_type, timestamp_type,
};
pub use wall_clock::WallClock;
