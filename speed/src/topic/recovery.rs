//! What of a topic's WAL has not landed, read at start or by somebody who does not own it.

use std::sync::Arc;

use anabranch_shared::files::RealFiles;
use anabranch_shared::{Error, Log, Offset, PartitionId, Result, Topic, blocking};
use bytes::Bytes;

use super::TopicStream;
use crate::intake::idempotency::KeptRequest;
use crate::intake::payload::{Payload, PlacedFacts, REPLAYED};
use crate::options::DaemonOptions;
use crate::topic::appender::wal_error;
use crate::wal::{Claim, KeyLog, Wal, WalOptions, check_claim};

/// A topic's WAL, and what was found in it.
pub(super) struct OpenedWal {
    pub(super) wal: Wal,
    /// What has not landed.
    pub(super) pieces: Vec<PlacedFacts>,
    pub(super) key_log: KeyLog,
    /// Requests that may be repeated, some perhaps twice.
    pub(super) requests: Vec<KeptRequest>,
}

/// Opens a topic's WAL and gives what of it has not landed.
pub(super) async fn open_wal(
    log: &Log,
    partition: PartitionId,
    options: &DaemonOptions,
) -> Result<OpenedWal> {
    let (root, topic) = (options.wal.clone(), log.topic().clone());
    let (landed, synced) = (log.head().get(partition), log.synced(partition));
    let wal_options = WalOptions {
        max_bytes: options.wal_bytes,
        segment_bytes: options.wal_segment_bytes,
        start: u64::try_from(landed.0).unwrap_or(0),
        sync_times: options.metrics.wal_syncs().clone(),
    };
    blocking(move || {
        let (mut pieces, mut requests) = (Vec::new(), Vec::new());
        let schema = topic.schema();
        let mut failed = None;
        let mut keep = |record: crate::wal::Record| {
            let first = Offset(i64::try_from(record.first).unwrap_or(i64::MAX));
            let end = i64::try_from(record.end).unwrap_or(i64::MAX);
            match Payload::kept_request(&record.payload, partition, first) {
                Ok(request) => requests.extend(request),
                Err(e) => failed = failed.take().or(Some(e)),
            }
            if end <= landed.0 || failed.is_some() {
                return;
            }
            let decoded = Payload::decode(&record.payload, REPLAYED)
                .and_then(|p| p.at(&topic, &schema, partition, first));
            match decoded {
                Ok(piece) => pieces.push(piece),
                Err(e) => failed = Some(e),
            }
        };
        let mut wal = Wal::open_each(
            &root,
            &topic.name,
            wal_options,
            Arc::new(RealFiles),
            &mut keep,
        )
        .map_err(wal_error)?;
        if let Some(e) = failed {
            return Err(e);
        }
        // A daemon may have many topics, and few of them get something at a time.
        wal.close_files();
        check_wal(&topic, &wal, &pieces, (landed, synced))?;
        let mut kept = Vec::new();
        let key_log = KeyLog::open(&root, &topic.name, Arc::new(RealFiles), &mut |payload| {
            kept.push(payload);
        })
        .map_err(wal_error)?;
        for payload in kept {
            requests.extend(crate::intake::idempotency::decode(&payload)?);
        }
        Ok(OpenedWal {
            wal,
            pieces,
            key_log,
            requests,
        })
    })
    .await
}

/// Checks that a WAL goes on where the log ends, and reaches to where it was synced when it last
/// landed.
fn check_wal(
    topic: &Topic,
    wal: &Wal,
    pieces: &[PlacedFacts],
    (landed, synced): (Offset, Offset),
) -> Result<()> {
    if wal.truncated_bytes() > 0 {
        tracing::warn!(
            topic = %topic.name,
            bytes = wal.truncated_bytes(),
            "cut off a torn write at the end of the WAL; it was never acknowledged"
        );
    }
    let next = i64::try_from(wal.next()).unwrap_or(i64::MAX);
    let starts = pieces.first().map_or(next, |p| p.range.start.0);
    match (starts == landed.0, next >= landed.0) {
        (true, true) if next < synced.0 => Err(Error::Corrupt(format!(
            "the WAL of topic `{}` ends at offset {next}, and reached {synced} when facts last landed: a segment was lost; restore it, or start with an empty `wal` folder (then what was not landed is lost)",
            topic.name
        ))),
        (true, true) => Ok(()),
        _ => Err(Error::Corrupt(format!(
            "the WAL of topic `{}` starts at offset {starts} and ends at {next}, the log ends at {landed}: it belongs to another storage or lost files; restore it, or start with an empty `wal` folder (then what was not landed is lost)",
            topic.name
        ))),
    }
}

impl TopicStream {
    /// Checks that a WAL of which the topic has no partition holds nothing of it, without owning it.
    ///
    /// # Errors
    /// `Corrupt` where it does: its `ID` was exchanged, or it belongs to another storage.
    pub fn check_unclaimed(root: &std::path::Path, topic: &str) -> Result<()> {
        let held = Wal::look(root, topic, &RealFiles).map_err(wal_error)?;
        match held.start == held.end {
            true => Ok(()),
            false => Err(Error::Corrupt(format!(
                "the WAL `{}` holds facts of topic `{topic}`, and no partition of the topic belongs to it: the file `ID` in it was exchanged, or it belongs to another storage; restore it",
                root.display()
            ))),
        }
    }

    /// Reads what of a WAL has not landed, without owning it.
    pub fn read_unlanded(
        root: &std::path::Path,
        topic: &Topic,
        partition: PartitionId,
        landed: Offset,
    ) -> Result<Vec<PlacedFacts>> {
        // The partition belongs to this WAL.
        check_claim(root, &topic.name, Claim::Claimed, Arc::new(RealFiles)).map_err(wal_error)?;
        let records = Wal::read_only(root, &topic.name, &RealFiles).map_err(wal_error)?;
        let (mut pieces, schema) = (Vec::new(), topic.schema());
        for record in records {
            let end = i64::try_from(record.end).unwrap_or(i64::MAX);
            if end > landed.0 {
                let first = Offset(i64::try_from(record.first).unwrap_or(i64::MAX));
                let payload: Bytes = record.payload;
                let payload = Payload::decode(&payload, REPLAYED)?;
                pieces.push(payload.at(topic, &schema, partition, first)?);
            }
        }
        Ok(pieces)
    }
}
