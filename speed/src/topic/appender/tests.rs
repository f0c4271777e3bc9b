//! What the appender does when it can't go on.

use anabranch_shared::files::RealFiles;
use anabranch_shared::settings::{FieldReads, FieldType, UnknownFields};
use anabranch_shared::{Log, Storage, Topic, TopicField};

use super::*;
use crate::failure::Failure;
use crate::intake::admission::Admission;
use crate::intake::idempotency::RequestBounds;
use crate::wal::WalOptions;

/// What is durable and can't be made visible ends the daemon: later records would be acknowledged
/// over a hole. Their senders learn that they are not acknowledged.
#[tokio::test]
async fn records_that_cannot_be_placed_end_the_daemon() -> Result<()> {
    let field = TopicField {
        name: "ts".into(),
        field_type: FieldType::Timestamp,
        nullable: false,
        reads: FieldReads::default(),
    };
    let topic = Topic {
        name: "facts".into(),
        event_time: "ts".into(),
        fields: vec![field],
    };
    let internal = |e: crate::intake::admission::AdmissionError| Error::Internal(e.to_string());
    let admission = Admission::new(&topic.field_schema(), "ts", UnknownFields::Keep, 1 << 20)
        .map_err(internal)?;
    let dir = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
    let storage = Storage::folder(&dir.path().join("store"))?;
    let log = Arc::new(Log::open(&storage, &topic, 0).await?);
    let files = Arc::new(RealFiles);
    let (wal, _) =
        Wal::open(dir.path(), "facts", WalOptions::default(), files.clone()).map_err(wal_error)?;
    let key_log = KeyLog::open(dir.path(), "facts", files, &mut |_| {}).map_err(wal_error)?;
    let mut delta = TopicDelta::default();
    // A lane that goes on elsewhere than the WAL.
    let partition = PartitionId(0);
    delta.upto.raise(partition, Offset(7));
    delta.take_lane(partition);
    let (send, requests) = mpsc::channel(8);
    let known = Requests::new(RequestBounds {
        window_us: 1,
        most: 1,
    });
    let appender = Appender {
        log,
        partition,
        wal,
        delta: Arc::new(HeldMutex::new("delta", delta)),
        requests,
        ingested: HashMap::new(),
        dedup: None,
        known: Arc::new(HeldMutex::new("requests", known)),
        key_log,
        refused: Arc::default(),
        gauges: Arc::default(),
        now_us: || 0,
        last_group: 0,
        open: None,
    };
    let failure = Failure::default();
    let appenders = Appenders::start(&failure)?;
    let handle = appenders.add(appender, send);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let line = "{\"ts\":\"2026-01-01T00:00:00Z\"}\n".to_owned();
        let admitted = admission.ndjson(&line.into()).map_err(internal)?;
        let payload = Payload::new(admitted, 0, None, None);
        let encoded = payload.encode()?;
        let (reply, answer) = oneshot::channel();
        let request = WriteRequest::Write {
            payload: Box::new(payload),
            encoded,
            ingest_from: None,
            reply,
        };
        // The second may come when it has ended already.
        handle.send(request).await.ok();
        answers.push(answer);
    }
    // It ends though its senders are still there.
    let reason = failure.wait().await.to_string();
    assert!(reason.contains("could not be made visible"), "{reason}");
    for answer in answers {
        assert!(!matches!(answer.await, Ok(Ok(_))), "it was acknowledged");
    }
    Ok(())
}
