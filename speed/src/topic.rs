//! One topic of a daemon: admission, the WAL's appender, the landing loop, and the deltas of the
//! topic's views.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anabranch_shared::settings::Ack;
use anabranch_shared::{
    Error, FoldOptions, FoldProgress, Generation, Landing, Log, Master, Offset, OffsetRange,
    Offsets, PartitionId, ReadMode, Result, Topic, TopicPin, ViewPin, blocking, planted,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::admission::{Admission, Admitted};
use crate::appender::{Appender, WriteRequest, Written, wal_error};
use crate::daemon::{DaemonOptions, TopicOptions};
use crate::delta::{
    TopicDelta, ViewDelta, above_boundary, check_no_gap, fold_pieces, fold_unlanded, follow_log,
    is_of_view, merge_pieces,
};
use crate::failure::Failure;
use crate::payload::{FactPiece, Payload};
use crate::wal::{RealFiles, Wal, WalOptions};

/// Requests that may wait for the appender.
const WAITING_REQUESTS: usize = 1_024;

/// A chunk of an ingested file.
#[derive(Clone, Debug)]
pub struct IngestChunk {
    /// The file's content hash, or the id that its user gave.
    pub id: String,
    /// The number of the chunk's first record in the file.
    pub from: u64,
}

/// A record that did not become a fact.
#[derive(Clone, Debug)]
pub struct RefusedRecord {
    /// Its number in the request, from 0.
    pub record: u64,
    /// Its line, from 1, where the request has lines.
    pub line: Option<u64>,
    /// The field at fault, where it is one field's.
    pub field: Option<String>,
    /// Why.
    pub reason: String,
}

/// What came of one request, for its sender.
#[derive(Clone, Debug)]
pub struct WriteOutcome {
    /// The partition.
    pub partition: PartitionId,
    /// The offsets of its records.
    pub range: OffsetRange,
    /// How many became facts.
    pub facts: u64,
    /// The records that did not.
    pub dead: Vec<RefusedRecord>,
    /// How many facts carried undeclared fields.
    pub unknown_fields: u64,
    /// Whether it was there already, so that nothing was written.
    pub repeated: bool,
}

/// One topic of a daemon.
#[derive(Debug)]
pub struct TopicStream {
    topic: Topic,
    ack: Ack,
    partition: PartitionId,
    log: Arc<Log>,
    admission: Admission,
    delta: Arc<Mutex<TopicDelta>>,
    requests: mpsc::Sender<WriteRequest>,
    landed: watch::Sender<Offset>,
    /// Held by whoever lands, follows or adopts.
    upkeep: tokio::sync::Mutex<()>,
    /// Held by whoever chooses a pin, so that all views of one query end at one head.
    pinning: tokio::sync::Mutex<()>,
    options: DaemonOptions,
    failure: Failure,
    commits: std::sync::atomic::AtomicU64,
}

impl TopicStream {
    /// Opens a topic: replays its WAL, lands nothing yet.
    pub(crate) async fn open(
        log: Arc<Log>,
        partition: PartitionId,
        settings: &TopicOptions,
        options: &DaemonOptions,
        failure: &Failure,
    ) -> Result<(Arc<Self>, std::thread::JoinHandle<()>)> {
        let topic = log.topic().clone();
        let head = log.head();
        let landed = head.get(partition);
        let record_bytes = usize::try_from(options.max_record_bytes).unwrap_or(usize::MAX);
        let admission = Admission::new(
            &topic.field_schema(),
            &topic.event_time,
            settings.unknown_fields,
            record_bytes,
        )
        .map_err(|e| Error::Invalid(format!("topic `{}`: {e}", topic.name)))?;
        let (wal, pieces) = open_wal(&topic, partition, landed, options).await?;
        let mut delta = TopicDelta {
            next: landed,
            upto: head,
            ..Default::default()
        };
        let mut ingested: HashMap<String, u64> = log.table().with_state(|s| {
            let of = |(app, &n): (&String, &i64)| {
                Some((
                    app.strip_prefix("ingest/")?.to_owned(),
                    u64::try_from(n).ok()?,
                ))
            };
            s.txns.iter().filter_map(of).collect()
        });
        for piece in pieces {
            if let Some((id, upto)) = &piece.ingest {
                ingested.insert(id.clone(), *upto);
            }
            delta.push_unlanded(piece);
        }
        if planted("planted-batch-replayed")
            && let Some(last) = delta.unlanded.back().cloned()
        {
            delta.unlanded_bytes += last.bytes;
            delta.unlanded_facts += last.facts.num_rows();
            delta.unlanded.push_back(last);
        }
        let (requests, receiver) = mpsc::channel(WAITING_REQUESTS);
        let delta = Arc::new(Mutex::new(delta));
        let appender = Appender {
            topic: topic.clone(),
            partition,
            wal,
            delta: delta.clone(),
            requests: receiver,
            ingested,
        };
        let thread = std::thread::Builder::new()
            .name(format!("wal-{}", topic.name))
            .spawn({
                let failure = failure.clone();
                move || appender.run(&failure)
            })
            .map_err(|e| Error::Unavailable(format!("can't start a thread: {e}")))?;
        let stream = Self {
            ack: settings.ack,
            topic,
            partition,
            log,
            admission,
            delta,
            requests,
            landed: watch::Sender::new(landed),
            upkeep: tokio::sync::Mutex::default(),
            pinning: tokio::sync::Mutex::default(),
            options: options.clone(),
            failure: failure.clone(),
            commits: std::sync::atomic::AtomicU64::new(0),
        };
        Ok((Arc::new(stream), thread))
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The topic's log.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The partition to which this daemon appends.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// How many records of an ingested file are acknowledged.
    pub fn ingested(&self, id: &str) -> u64 {
        let waiting = self.with_delta(|d| {
            let of_file = |p: &Arc<FactPiece>| p.ingest.clone().filter(|(i, _)| i == id);
            d.unlanded
                .iter()
                .filter_map(of_file)
                .map(|(_, upto)| upto)
                .max()
        });
        waiting.unwrap_or(0).max(self.log.ingested(id))
    }

    /// Reads something off the topic's memory.
    pub fn with_delta<T>(&self, read: impl FnOnce(&TopicDelta) -> T) -> T {
        read(&self.delta.lock())
    }

    /// Admits records and writes them; answers when they are acknowledged.
    ///
    /// # Errors
    /// `Unavailable` when a bound is reached or the WAL can't be written: nothing was admitted then.
    pub async fn write(
        self: &Arc<Self>,
        admit: impl FnOnce(&Admission) -> Result<Admitted> + Send + 'static,
        source: Option<String>,
        ingest: Option<IngestChunk>,
        now_us: i64,
    ) -> Result<WriteOutcome> {
        self.check_memory()?;
        let worker = self.clone();
        let upto = ingest.clone();
        let (payload, encoded, unknown_fields) = blocking(move || {
            let admitted = admit(&worker.admission)?;
            let unknown = admitted.unknown_fields;
            let ingest = upto.map(|c| (c.id, c.from + admitted.record_count));
            let payload = Payload::new(admitted, now_us, ingest, source);
            let encoded = payload.encode()?;
            Ok((payload, encoded, unknown))
        })
        .await?;
        let from = ingest.map(|c| c.from);
        self.submit(payload, encoded, from, unknown_fields).await
    }

    /// Writes a payload that was admitted elsewhere; answers when it is acknowledged.
    ///
    /// # Errors
    /// As [`TopicStream::write`].
    pub async fn write_payload(
        self: &Arc<Self>,
        body: Bytes,
        from: Option<u64>,
    ) -> Result<WriteOutcome> {
        self.check_memory()?;
        let (worker, encoded) = (self.clone(), body.clone());
        let payload = blocking(move || {
            // What the WAL holds must be readable when it is replayed, so it is checked before.
            let payload = Payload::decode(&encoded)
                .map_err(|e| Error::Invalid(format!("the body is not a payload: {e}")))?;
            payload.check(&worker.topic, from)?;
            Ok(payload)
        })
        .await?;
        self.submit(payload, body, from, 0).await
    }

    async fn submit(
        &self,
        payload: Payload,
        encoded: Bytes,
        ingest_from: Option<u64>,
        unknown_fields: u64,
    ) -> Result<WriteOutcome> {
        let facts = payload.facts.num_rows() as u64;
        let dead = payload
            .dead
            .iter()
            .map(|d| RefusedRecord {
                record: d.record,
                line: d.line,
                field: d.field.clone(),
                reason: d.reason.clone(),
            })
            .collect();
        let (reply, answer) = oneshot::channel();
        let request = WriteRequest::Write {
            payload: Box::new(payload),
            encoded,
            ingest_from,
            reply,
        };
        let gone = || Error::Unavailable("the daemon is stopping".into());
        self.requests.send(request).await.map_err(|_| gone())?;
        let Written { range, repeated } = answer.await.map_err(|_| gone())??;
        if self.ack == Ack::Landed && !repeated {
            let mut landed = self.landed.subscribe();
            tokio::select! {
                reached = landed.wait_for(|at| *at >= range.end) => {
                    reached.map_err(|_| gone())?;
                }
                e = self.failure.wait() => return Err(e),
            }
        }
        let partition = self.partition;
        Ok(WriteOutcome {
            partition,
            range,
            facts,
            dead,
            unknown_fields,
            repeated,
        })
    }

    fn check_memory(&self) -> Result<()> {
        let used = self.delta.lock().size_bytes() as u64;
        if used < self.options.memory_bytes {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "topic `{}`: {} MB of facts and deltas are in memory, the bound is {} MB (`memory` in `[daemon]`); run `anabranch batch refresh`, or wait until facts have landed",
            self.topic.name,
            used / 1_000_000,
            self.options.memory_bytes / 1_000_000
        )))
    }

    /// Whether enough waits to land before its time.
    pub(crate) fn is_landing_due(&self) -> bool {
        let delta = self.delta.lock();
        delta.unlanded_facts as u64 >= self.options.land_facts
            || delta.unlanded_bytes as u64 >= self.options.land_bytes
            || (self.ack == Ack::Landed && !delta.unlanded.is_empty())
    }

    /// What the next landing is of, and where it starts. Where an earlier attempt was committed
    /// without getting its answer, exactly what that one held: the partition is ours alone.
    fn to_land(&self) -> Result<(Vec<Arc<FactPiece>>, Offset)> {
        let delta = self.delta.lock();
        let start = delta.upto.get(self.partition);
        let committed = self.log.head().get(self.partition);
        let mut facts = 0;
        let limit = self.options.land_facts.max(1);
        let fits = |p: &&Arc<FactPiece>| {
            let before = facts;
            facts += p.facts.num_rows() as u64;
            match committed > start {
                true => p.range.end <= committed,
                false => before == 0 || facts <= limit * 2,
            }
        };
        let pieces: Vec<_> = delta.unlanded.iter().take_while(fits).cloned().collect();
        let end = pieces.last().map_or(start, |p| p.range.end);
        if committed > start && end != committed {
            return Err(Error::Conflict(format!(
                "topic `{}`: another process has landed in partition {}, which belongs to this daemon's WAL: is a copy of the `wal` folder in use?",
                self.topic.name, self.partition
            )));
        }
        Ok((pieces, start))
    }

    /// Lands what has been acknowledged, at most about `land_facts` at once. Returns how many
    /// facts.
    ///
    /// # Errors
    /// `Unavailable` when the storage does not answer: nothing is lost, the next call goes on.
    pub async fn land(&self) -> Result<u64> {
        match self.try_land().await {
            // An earlier attempt was committed without getting its answer; now that is known.
            Err(Error::Fenced { .. }) => self.try_land().await,
            landed => landed,
        }
    }

    async fn try_land(&self) -> Result<u64> {
        let _guard = self.upkeep.lock().await;
        let (pieces, start) = self.to_land()?;
        let Some(last) = pieces.last() else {
            return Ok(0);
        };
        let end = last.range.end;
        let mut landing = Landing {
            ranges: vec![(self.partition, OffsetRange::new(start, end))],
            ..Default::default()
        };
        for piece in &pieces {
            landing.facts.push(piece.facts.clone());
            landing.dead_letters.extend(piece.dead.clone());
            landing.ingested.extend(piece.ingest.clone());
        }
        if planted("planted-cut-before-commit") {
            self.requests.try_send(WriteRequest::Cut(end)).ok();
        }
        if self.log.head().get(self.partition) == start {
            self.log.land(&landing, self.options.now_ms()).await?;
        }
        drop(landing);
        let views: Vec<(String, Arc<Master>)> = self.folding();
        let facts: u64 = pieces.iter().map(|p| p.facts.num_rows() as u64).sum();
        let states = blocking(move || {
            let fold = |(name, master): (String, Arc<Master>)| {
                let states = fold_pieces(master.view(), &pieces);
                (name, states)
            };
            Ok(views.into_iter().map(fold).collect::<Vec<_>>())
        })
        .await?;
        self.delta.lock().landed(self.partition, end, states);
        fail::fail_point!("land-before-cut");
        self.landed.send_replace(end);
        // A WAL that is cut later only holds what it need not; the next landing cuts it too.
        self.requests.try_send(WriteRequest::Cut(end)).ok();
        self.checkpoint_when_due().await;
        Ok(facts)
    }

    async fn checkpoint_when_due(&self) {
        let commits = self
            .commits
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            + 1;
        if !commits.is_multiple_of(self.options.checkpoint_every.max(1)) {
            return;
        }
        if let Err(e) = self.log.table().write_checkpoint().await {
            tracing::warn!(topic = %self.topic.name, error = %e, "could not write a checkpoint");
        }
    }

    /// The views for which states are kept: those that have not failed.
    fn folding(&self) -> Vec<(String, Arc<Master>)> {
        let mut masters = self.masters();
        let delta = self.delta.lock();
        masters.retain(|(name, _)| delta.views.get(name).is_some_and(|v| v.failed.is_none()));
        masters
    }

    fn masters(&self) -> Vec<(String, Arc<Master>)> {
        self.delta
            .lock()
            .views
            .iter()
            .map(|(n, v)| (n.clone(), v.master.clone()))
            .collect()
    }

    fn fold_options(&self) -> FoldOptions {
        FoldOptions {
            threads: self.options.threads,
            memory_bytes: usize::try_from(self.options.memory_bytes / 4).unwrap_or(usize::MAX),
            stop: self.options.stop.clone(),
            progress: Arc::new(FoldProgress::default()),
        }
    }

    /// Follows what others have landed, and the boundaries that others have moved.
    pub async fn follow(&self) -> Result<()> {
        let _guard = self.upkeep.lock().await;
        if self.log.refresh().await? {
            // Content that others have ingested is answered for as being there already.
            self.log.table().storage().settle().await?;
        }
        self.follow_partitions().await?;
        for (name, master) in self.masters() {
            match self.adopt(&name, &master).await {
                Ok(()) => {}
                Err(e) if is_of_view(&e) => self.give_up_or(&name, e)?,
                Err(e) => tracing::warn!(view = %name, error = %e, "can't follow the boundary yet"),
            }
            if let Err(e) = self.merge(&name).await {
                self.give_up_or(&name, e)?;
            }
        }
        Ok(())
    }

    /// Adds the states of what other daemons and `ingest` have landed.
    async fn follow_partitions(&self) -> Result<()> {
        let upto = self.delta.lock().upto.clone();
        let mut head = self.log.head();
        head.set(self.partition, upto.get(self.partition));
        let ranges = upto.ranges_to(&head);
        if ranges.is_empty() {
            return Ok(());
        }
        let mut added = Vec::new();
        for (name, master) in self.folding() {
            let pieces = follow_log(&self.log, &master, &upto, &head, &self.fold_options()).await;
            added.push((name, pieces));
        }
        let mut delta = self.delta.lock();
        for (name, pieces) in added {
            let Some(view) = delta.views.get_mut(&name) else {
                continue;
            };
            match pieces {
                Ok(pieces) => view.pieces.extend(pieces),
                Err(e) if is_of_view(&e) => view.fail(&e),
                Err(e) => return Err(e),
            }
        }
        ranges.iter().for_each(|(p, r)| delta.upto.raise(*p, r.end));
        Ok(())
    }

    /// Stops a view whose SQL is at fault; any other error is handed on.
    fn give_up_or(&self, name: &str, e: Error) -> Result<()> {
        if !is_of_view(&e) {
            return Err(e);
        }
        if let Some(view) = self.delta.lock().views.get_mut(name) {
            view.fail(&e);
        }
        Ok(())
    }

    /// Answers by a newer master view, once the pieces reach from its boundary.
    async fn adopt(&self, name: &str, master: &Arc<Master>) -> Result<()> {
        if !master.refresh().await? {
            return Ok(());
        }
        let pin = master.pin();
        let Some(view) = self.delta.lock().views.get(name).cloned() else {
            return Ok(());
        };
        check_no_gap(
            name,
            &ViewDelta {
                pin: pin.clone(),
                ..view.clone()
            },
            &self.upto(),
        )?;
        let pieces = above_boundary(&self.log, &view, &pin.boundary, &self.fold_options()).await?;
        fail::fail_point!("delta-before-adopt");
        if let Some(view) = self.delta.lock().views.get_mut(name) {
            if planted("planted-stale-snapshot") {
                view.pin.boundary = pin.boundary;
            } else {
                view.pin = pin;
            }
            view.pieces = pieces;
        }
        fail::fail_point!("delta-after-adopt");
        Ok(())
    }

    async fn merge(&self, name: &str) -> Result<()> {
        let Some(view) = self.delta.lock().views.get(name).cloned() else {
            return Ok(());
        };
        let most = self.options.most_pieces;
        if let Some(pieces) = blocking(move || merge_pieces(&view, most)).await?
            && let Some(view) = self.delta.lock().views.get_mut(name)
        {
            view.pieces = pieces;
        }
        Ok(())
    }

    fn upto(&self) -> Offsets {
        self.delta.lock().upto.clone()
    }

    /// Serves a generation of a view, once its pieces reach without a gap from its boundary.
    pub(crate) async fn serve(&self, master: Arc<Master>) -> Result<()> {
        let _guard = self.upkeep.lock().await;
        let name = master.view().name().to_owned();
        let pin = master.pin();
        let upto = self.upto();
        let options = self.fold_options();
        let folded = follow_log(&self.log, &master, &pin.boundary, &upto, &options);
        let (pieces, failed) = match folded.await {
            Ok(pieces) => (pieces, None),
            Err(e) if is_of_view(&e) => {
                tracing::error!(view = %name, error = %e, "the view does not answer");
                (Vec::new(), Some(e.to_string()))
            }
            Err(e) => return Err(e),
        };
        let folded = upto.get(self.partition);
        let view = ViewDelta {
            master,
            pin,
            pieces,
            unlanded: Vec::new(),
            folded,
            failed,
        };
        check_no_gap(&name, &view, &upto)?;
        let mut delta = self.delta.lock();
        let before = delta.views.insert(name.clone(), view);
        if planted("planted-generations-mixed")
            && let (Some(before), Some(now)) = (before, delta.views.get_mut(&name))
        {
            (now.pin, now.pieces) = (before.pin, before.pieces);
        }
        Ok(())
    }

    /// Stops serving a view.
    pub(crate) fn forget(&self, name: &str) {
        self.delta.lock().views.remove(name);
    }

    /// The generation of a view that answers.
    pub fn served(&self, name: &str) -> Option<Generation> {
        self.delta
            .lock()
            .views
            .get(name)
            .map(|v| v.master.generation())
    }

    /// Pins the topic and some of its views at one head.
    pub(crate) async fn pin(
        self: &Arc<Self>,
        views: &[String],
        mode: ReadMode,
    ) -> Result<(TopicPin, BTreeMap<String, ViewPin>)> {
        let _guard = self.pinning.lock().await;
        loop {
            let (target, epoch) = {
                let delta = self.delta.lock();
                (delta.next, delta.epoch)
            };
            // What is not absorbed is not asked for in batch mode.
            for name in views.iter().filter(|_| mode == ReadMode::Merged) {
                let (worker, name) = (self.clone(), name.clone());
                blocking(move || fold_unlanded(&worker.delta, &name, target)).await?;
            }
            let delta = self.delta.lock();
            if delta.epoch == epoch {
                return self.pinned(&delta, views, target, mode);
            }
        }
    }

    fn pinned(
        &self,
        delta: &TopicDelta,
        views: &[String],
        target: Offset,
        mode: ReadMode,
    ) -> Result<(TopicPin, BTreeMap<String, ViewPin>)> {
        let mut head = delta.upto.clone();
        head.raise(self.partition, target);
        let mut pinned = BTreeMap::new();
        for name in views {
            let Some(view) = delta.views.get(name) else {
                continue;
            };
            if let Some(failed) = &view.failed
                && mode == ReadMode::Merged
            {
                return Err(Error::Invalid(failed.clone()));
            }
            check_no_gap(name, view, &delta.upto)?;
            let mut pin = ViewPin {
                view: view.master.view().clone(),
                generation: view.master.generation(),
                boundary: view.pin.boundary.clone(),
                head: head.clone(),
                root: view.master.table().root().clone(),
                files: view.pin.files.clone(),
                delta: view.states(),
            };
            if planted("planted-piece-dropped-before-its-query") {
                pin.delta.pop();
            }
            pinned.insert(name.clone(), pin);
        }
        let recent = delta.unlanded.iter().filter(|p| p.range.end <= target);
        let low = Offsets::default();
        let topic = TopicPin {
            topic: self.topic.clone(),
            head,
            root: self.log.table().root().clone(),
            files: self.log.files_between(&low, &delta.upto)?,
            memory: recent.clone().map(|p| p.facts.clone()).collect(),
            dead_root: self.log.dead_letters().root().clone(),
            dead_files: self.log.dead_letter_files_between(&low, &delta.upto)?,
            dead_memory: recent.filter_map(|p| p.dead.clone()).collect(),
        };
        Ok((topic, pinned))
    }
}

/// Opens a topic's WAL and gives what of it has not landed.
async fn open_wal(
    topic: &Topic,
    partition: PartitionId,
    landed: Offset,
    options: &DaemonOptions,
) -> Result<(Wal, Vec<FactPiece>)> {
    let (root, topic) = (options.wal.clone(), topic.clone());
    let wal_options = WalOptions {
        max_bytes: options.wal_bytes,
        segment_bytes: options.wal_segment_bytes,
        start: u64::try_from(landed.0).unwrap_or(0),
    };
    blocking(move || {
        let mut pieces = Vec::new();
        let mut failed = None;
        let mut keep = |record: crate::wal::Record| {
            let first = Offset(i64::try_from(record.first).unwrap_or(i64::MAX));
            let end = i64::try_from(record.end).unwrap_or(i64::MAX);
            if end <= landed.0 || failed.is_some() {
                return;
            }
            let decoded: Result<FactPiece> =
                Payload::decode(&record.payload).and_then(|p| p.at(&topic, partition, first));
            match decoded {
                Ok(piece) => pieces.push(piece),
                Err(e) => failed = Some(e),
            }
        };
        let wal = Wal::open_each(
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
        check_wal(&topic, &wal, &pieces, landed)?;
        Ok((wal, pieces))
    })
    .await
}

fn check_wal(topic: &Topic, wal: &Wal, pieces: &[FactPiece], landed: Offset) -> Result<()> {
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
        (true, true) => Ok(()),
        _ => Err(Error::Corrupt(format!(
            "the WAL of topic `{}` starts at offset {starts} and ends at {next}, the log ends at {landed}: it belongs to another storage or lost files; restore it, or start with an empty `wal` folder (then what was not landed is lost)",
            topic.name
        ))),
    }
}

impl TopicStream {
    /// Reads what of a WAL has not landed, without owning it.
    pub fn read_unlanded(
        root: &std::path::Path,
        topic: &Topic,
        partition: PartitionId,
        landed: Offset,
    ) -> Result<Vec<FactPiece>> {
        let records = Wal::read_only(root, &topic.name, &RealFiles).map_err(wal_error)?;
        let mut pieces = Vec::new();
        for record in records {
            let end = i64::try_from(record.end).unwrap_or(i64::MAX);
            if end > landed.0 {
                let first = Offset(i64::try_from(record.first).unwrap_or(i64::MAX));
                let payload: Bytes = record.payload;
                pieces.push(Payload::decode(&payload)?.at(topic, partition, first)?);
            }
        }
        Ok(pieces)
    }
}
