//! Speed layer: admits facts, lands them in the log, keeps deltas.

mod daemon;
pub mod decoders;
mod delta;
mod failure;
mod http;
pub mod intake;
mod metrics;
mod options;
mod peers;
pub mod sources;
mod topic;
pub mod wal;

pub use daemon::Daemon;
pub use delta::fold_landed::{Following, follow_log};
pub use delta::pressure::{DeltaUse, Wanted};
pub use delta::recently_landed::RecentlyLanded;
pub use delta::unlanded::Unlanded;
pub use delta::{Folded, Landed, Run, StatePiece, TopicDelta, ViewDelta};
pub use http::{Accepted, DELTA, HELD, IDEMPOTENCY_KEY, INGEST_FROM, INGEST_ID, PAYLOAD, router};
pub use intake::body::{BodyFormat, ContentEncoding, RequestBody, RequestMemory, Unbounded};
pub use intake::counts::{DeadLetterBound, IntakeCount};
pub use intake::dedup::{Dedup, DedupStatus};
pub use intake::idempotency::{KeptAnswer, KeptRequest, RequestKey};
pub use intake::payload::{Payload, PlacedFacts};
pub use intake::room::{RequestPermit, RequestRoom};
pub use metrics::{SpeedMetrics, TopicGauges};
pub use options::{DaemonOptions, StepOptions, TopicOptions};
pub use peers::{DeltaRequest, Peer, PeerReply, Peers, WantedView};
pub use sources::kafka::{KafkaSource, KafkaState, PartitionLag};
pub use sources::steps::{StepLag, StepSource, StepState, Trial, TrialOf, try_step};
pub use topic::appender::{WriteRequest, Written};
pub use topic::{
    Doing, IngestChunk, Input, RefusedRecord, TopicStream, Upkeep, Write, WriteOutcome, Writer,
    made_by_step,
};
