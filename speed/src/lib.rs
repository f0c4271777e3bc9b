//! Speed layer: admits facts, lands them in the log, keeps deltas.

pub mod admission;
mod appender;
mod arrow_stream;
mod bounds;
mod daemon;
mod dedup;
mod delta;
mod failure;
pub mod files;
mod follow;
mod http;
mod intake;
mod kafka;
mod payload;
mod requests;
mod room;
mod topic;
mod unlanded;
pub mod wal;
mod wanted;

pub use appender::{WriteRequest, Written};
pub use daemon::{Daemon, DaemonOptions, TopicOptions};
pub use dedup::{Dedup, DedupStatus};
pub use delta::{StatePiece, TopicDelta, ViewDelta};
pub use follow::{Following, follow_log};
pub use http::{IDEMPOTENCY_KEY, INGEST_FROM, INGEST_ID, PAYLOAD, router};
pub use intake::{DeadLetterBound, IntakeCount};
pub use kafka::{KafkaSource, KafkaState, PartitionLag};
pub use payload::{FactPiece, Payload};
pub use requests::{KeptAnswer, KeptRequest, RequestKey};
pub use topic::{IngestChunk, RefusedRecord, TopicStream, WriteOutcome};
pub use unlanded::Unlanded;
pub use wanted::{DeltaUse, Wanted};
