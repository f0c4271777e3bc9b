//! Speed layer: admits facts, lands them in the log, keeps deltas.

pub mod admission;
mod appender;
mod arrow_stream;
mod daemon;
mod dedup;
mod delta;
mod failure;
pub mod files;
mod gather;
mod http;
mod intake;
mod kafka;
mod lately;
mod payload;
mod requests;
mod topic;
mod unlanded;
pub mod wal;

pub use appender::{WriteRequest, Written};
pub use daemon::{Daemon, DaemonOptions, TopicOptions};
pub use dedup::{Dedup, DedupStatus};
pub use delta::{StatePiece, TopicDelta, ViewDelta, follow_log};
pub use gather::{DeltaRequest, Peer, PeerReply, Peers, WantedView};
pub use http::{DELTA, HELD, IDEMPOTENCY_KEY, INGEST_FROM, INGEST_ID, PAYLOAD, router};
pub use intake::{DeadLetterBound, IntakeCount};
pub use kafka::{KafkaSource, KafkaState, PartitionLag};
pub use lately::Lately;
pub use payload::{FactPiece, Payload};
pub use requests::{KeptAnswer, KeptRequest, RequestKey};
pub use topic::{IngestChunk, RefusedRecord, TopicStream, WriteOutcome};
pub use unlanded::Unlanded;
