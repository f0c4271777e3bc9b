//! The thread that reads a topic from Kafka: takes and gives up partitions as the group says,
//! turns messages into facts, and pauses where too many wait to land.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anabranch_shared::settings::{KafkaSettings, KafkaStart};
use anabranch_shared::{
    Backoff, Catalogue, Error, ErrorKind, Offset, OffsetRange, Offsets, PartitionId, Result,
};
use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::Offset as KafkaOffset;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, ClientContext, TopicPartitionList};

use super::messages::Messages;
use super::start::{Held, StartDecision, decide};
use super::{KafkaState, gap_text, identity};
use crate::intake::payload::{Place, PlacedFacts};
use crate::topic::TopicStream;

/// How long one call waits for a message.
const POLL: Duration = Duration::from_millis(50);
/// Messages that become facts together; more wait no longer, they only make larger pieces.
const MESSAGES: usize = 20_000;
/// Bytes of messages that become facts together.
const MESSAGE_BYTES: usize = 8 << 20;
/// How long Kafka may take to say what it holds.
const ASK: Duration = Duration::from_secs(10);
/// The same, where it is only to be shown.
const ASK_SHORTLY: Duration = Duration::from_secs(1);
/// How long to wait before something that failed is tried again, at first and at most.
const RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// How long a partition that another daemon gets is held until its facts have landed.
const LAND_BEFORE_LEAVING: Duration = Duration::from_secs(10);
/// How often positions are committed to Kafka, for monitoring.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// For how long it is remembered that Kafka refused this daemon for good.
const REFUSALS_WITHIN: Duration = Duration::from_secs(600);

/// What the thread and librdkafka's callbacks, which it runs, work with.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) stream: Arc<TopicStream>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) settings: KafkaSettings,
    /// The WAL's id: the group knows this daemon by it and the topic.
    pub(super) wal: String,
    pub(super) state: Arc<Mutex<KafkaState>>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) runtime: tokio::runtime::Handle,
}

pub(super) struct Source {
    consumer: BaseConsumer<Shared>,
    shared: Shared,
    committed: BTreeMap<i32, Offset>,
    committed_at: Instant,
    /// The id of Kafka's topic that was found to be the one that was read before.
    checked_id: Option<String>,
    /// Why Kafka takes nothing more from this consumer.
    refused: Option<RDKafkaErrorCode>,
    /// When consumers were refused lately.
    refusals: Vec<Instant>,
    /// Between a consumer that was refused and the next.
    anew: Backoff,
}

impl Source {
    pub(super) fn new(shared: Shared) -> Result<Self> {
        Ok(Self {
            consumer: Self::consumer(&shared)?,
            shared,
            committed: BTreeMap::new(),
            committed_at: Instant::now(),
            checked_id: None,
            refused: None,
            refusals: Vec::new(),
            anew: Backoff::new(RETRY, LONGEST_RETRY),
        })
    }

    fn consumer(shared: &Shared) -> Result<BaseConsumer<Shared>> {
        let settings = &shared.settings;
        let mut config = ClientConfig::new();
        // librdkafka's own defaults pause for a second once so many messages wait; what bounds the
        // memory is `prefetch`.
        config
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.min.messages", "1000000");
        // Known to the group, a daemon that was killed gets its partitions back as soon as it is
        // there again. Nobody gets them before its session has expired, not even after a clean
        // stop, so sessions are shorter than librdkafka's.
        let topic = shared.stream.name();
        config
            .set("group.instance.id", format!("{}-{topic}", shared.wal))
            .set("session.timeout.ms", "10000");
        for (key, value) in &settings.properties {
            match value.is_empty() {
                true => config.remove(key),
                false => config.set(key, value),
            };
        }
        let prefetch_kb = (settings.prefetch_bytes / 1024).clamp(1, 2_000_000);
        config
            .set("bootstrap.servers", &settings.brokers)
            .set("group.id", shared.group())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A position that Kafka does not have is decided on here, never passed over.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("statistics.interval.ms", "2000")
            .set("queued.max.messages.kbytes", prefetch_kb.to_string());
        // What the topic's id is known from.
        let debug = match config.get("debug") {
            Some(asked) => format!("{asked},{}", identity::DEBUG),
            None => identity::DEBUG.to_owned(),
        };
        config
            .set("debug", debug)
            .set_log_level(RDKafkaLogLevel::Debug);
        shared.state.lock().group = shared.group();
        let of = |e: KafkaError| {
            let name = shared.stream.name();
            Error::Invalid(format!(
                "`[topics.{name}.source.kafka]`: {e}; see `properties` for what TLS and SASL need, and whether this build has them (feature `kafka-tls`)"
            ))
        };
        config.create_with_context(shared.clone()).map_err(of)
    }

    /// Makes the consumer anew, under the same name. librdkafka takes each `FENCED_INSTANCE_ID` as
    /// final; it also comes where a coordinator was away and knows the member by a new id when it
    /// answers what was asked under the one before.
    fn begin_anew(&mut self, code: RDKafkaErrorCode) {
        let shared = self.shared.clone();
        shared.trouble(format!("the group refuses this daemon: {code}"));
        self.count_refusals(Some(Instant::now()));
        if self.refusals.len() == 1 {
            self.anew.succeeded();
        }
        shared.leave(&shared.assigned());
        shared.pause(&mut self.anew);
        match Self::consumer(&shared) {
            Ok(consumer) => self.consumer = consumer,
            Err(e) => return shared.halt(&e.to_string()),
        }
        self.committed.clear();
        self.subscribe();
    }

    fn count_refusals(&mut self, one_more: Option<Instant>) {
        self.refusals.extend(one_more);
        self.refusals.retain(|at| at.elapsed() < REFUSALS_WITHIN);
        self.shared.state.lock().refusals = self.refusals.len();
    }

    /// Reads until it is told to stop, says so, and leaves its group.
    pub(super) fn run(mut self, read: impl Fn()) {
        self.subscribe();
        while !self.shared.stopping() {
            if self.shared.state.lock().stopped.is_some() {
                std::thread::sleep(POLL);
                continue;
            }
            if let Some(code) = self.refused.take() {
                self.begin_anew(code);
            }
            self.throttle();
            let gathered = self.gather();
            if !gathered.is_empty() && !self.is_same_topic() {
                continue;
            }
            for (partition, messages) in gathered {
                self.take(partition, messages);
            }
            if self.committed_at.elapsed() >= COMMIT_EVERY {
                self.commit();
            }
        }
        read();
        self.commit();
        // A member that the group doesn't know by name leaves it, and others take its partitions.
        self.consumer.unsubscribe();
    }

    fn subscribe(&mut self) {
        let topic = self.shared.settings.topic.clone();
        let mut backoff = Backoff::new(RETRY, LONGEST_RETRY);
        while !self.shared.stopping() {
            let begun = match &self.shared.settings.partitions {
                None => self
                    .consumer
                    .subscribe(&[&topic])
                    .map_err(|e| e.to_string()),
                Some(partitions) => {
                    let mut list = TopicPartitionList::new();
                    for partition in partitions {
                        list.add_partition(&topic, *partition);
                    }
                    let list = self.shared.take_partitions(&self.consumer, &list);
                    self.consumer.assign(&list).map_err(|e| e.to_string())
                }
            };
            match begun {
                Ok(()) => return,
                Err(e) => self.shared.trouble(e),
            }
            self.shared.pause(&mut backoff);
        }
    }

    /// Pauses while facts that have not landed take too much memory.
    fn throttle(&self) {
        let full = self.shared.stream.is_full();
        let mut state = self.shared.state.lock();
        if state.paused == full {
            return;
        }
        let Ok(assigned) = self.consumer.assignment() else {
            return;
        };
        let done = match full {
            true => self.consumer.pause(&assigned),
            false => self.consumer.resume(&assigned),
        };
        if done.is_ok() {
            let topic = self.shared.stream.name();
            match full {
                true => {
                    tracing::warn!(%topic, "reading from Kafka pauses: the memory for facts and deltas is full (`memory` in `[daemon]`)")
                }
                false => tracing::info!(%topic, "reading from Kafka goes on"),
            }
            state.paused = full;
        }
    }

    /// Messages by partition.
    fn gather(&mut self) -> BTreeMap<i32, Messages> {
        let mut gathered: BTreeMap<i32, Messages> = BTreeMap::new();
        let (mut count, mut bytes) = (0, 0);
        let mut wait = POLL;
        while count < MESSAGES && bytes < MESSAGE_BYTES {
            match self.consumer.poll(wait) {
                None => break,
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    self.refused = Some(code);
                    break;
                }
                Some(Ok(message)) => {
                    let position = self.shared.position(message.partition());
                    // What was fetched before a partition was given up, or went back.
                    if position.is_none_or(|at| message.offset() < at) {
                        continue;
                    }
                    let messages = gathered.entry(message.partition()).or_default();
                    let before = messages.bytes();
                    messages.add(&message, &self.shared.settings);
                    bytes += messages.bytes() - before;
                    count += 1;
                    self.shared.note_message(&message);
                }
                Some(Err(e)) => self.trouble(&e),
            }
            wait = Duration::ZERO;
        }
        gathered
    }

    fn trouble(&self, e: &KafkaError) {
        match e {
            KafkaError::PartitionEOF(partition) => {
                let mut state = self.shared.state.lock();
                state.trouble = None;
                if let Some(known) = state.partitions.get_mut(partition) {
                    known.lag_offsets = Some(0);
                }
            }
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset)
            | KafkaError::MessageConsumption(RDKafkaErrorCode::OffsetOutOfRange) => {
                let assigned = self.shared.assigned();
                assigned.into_iter().for_each(|p| self.go_to_lane(p));
            }
            e => self.shared.trouble(e.to_string()),
        }
    }

    /// Whether Kafka's topic is the one that was read before. Where it was made anew nothing is read
    /// any more. Tries again until the storage answers.
    fn is_same_topic(&mut self) -> bool {
        let shared = &self.shared;
        let seen = shared.state.lock().topic_id.clone();
        let Some(id) = seen.filter(|id| self.checked_id.as_ref() != Some(id)) else {
            return true;
        };
        let (stream, settings) = (&shared.stream, &shared.settings);
        let name = &stream.topic().name;
        let mut backoff = Backoff::new(RETRY, LONGEST_RETRY);
        while !shared.stopping() {
            // What has brought nothing can't be mistaken for another one.
            let accepted = match stream.log().head() == Offsets::default() {
                true => Some(id.as_str()),
                false => settings.topic_id.as_deref(),
            };
            let noted = shared.catalogue.note_source_id(name, &id, accepted);
            match shared.runtime.block_on(noted) {
                Ok(None) => {
                    self.checked_id = Some(id);
                    return true;
                }
                Ok(Some(before)) => {
                    let why = identity::made_anew(name, &settings.topic, &before, &id);
                    shared.halt(&why);
                    return false;
                }
                Err(e) => shared.trouble(e.to_string()),
            }
            shared.pause(&mut backoff);
        }
        false
    }

    /// Makes facts of a partition's messages.
    fn take(&self, partition: i32, mut messages: Messages) {
        let Some(start) = self.shared.position(partition) else {
            return;
        };
        let (end, count) = (messages.end, messages.count());
        let shared = &self.shared;
        let source = format!("kafka:{}", shared.settings.topic);
        let stream = &shared.stream;
        let (topic, schema) = stream.log().declared();
        let place = Place {
            topic: &topic,
            schema: &schema,
            partition: PartitionId(partition),
            range: OffsetRange::new(Offset(start), Offset(end)),
            received_at_us: stream.now_us(),
            source: Some(&source),
        };
        let pushed = messages
            .admit(&stream.writer().admission())
            .and_then(|admitted| {
                let piece = |admitted| messages.piece(admitted, &shared.settings, &place);
                stream
                    .writer()
                    .push_new(admitted, place.received_at_us, piece)
            });
        match pushed {
            Ok(true) => {
                if let Some(known) = shared.state.lock().partitions.get_mut(&partition) {
                    known.position = end;
                }
            }
            Ok(false) => self.go_to_lane(partition),
            Err(e) => {
                tracing::error!(topic = %shared.stream.name(), partition, start, count, error = %e, "messages can't be admitted");
                shared.halt(&e.to_string());
            }
        }
    }

    /// Reads a partition from where the topic goes on: somebody else has landed some of it, or
    /// Kafka does not have what comes next.
    fn go_to_lane(&self, partition: i32) {
        let shared = &self.shared;
        let begun = shared.begin_at(&self.consumer, &[partition]);
        for (partition, offset) in begun {
            let offset = KafkaOffset::Offset(offset);
            let topic = &shared.settings.topic;
            if let Err(e) = self.consumer.seek(topic, partition, offset, ASK) {
                shared.trouble(format!("can't go to another offset: {e}"));
            }
        }
    }

    /// Commits what has landed to Kafka, for monitoring.
    fn commit(&mut self) {
        self.committed_at = Instant::now();
        self.count_refusals(None);
        self.shared.count_partitions(&self.consumer);
        let landed = self.shared.stream.with_delta(|d| d.upto.clone());
        let mut list = TopicPartitionList::new();
        for partition in self.shared.assigned() {
            let at = landed.get(PartitionId(partition));
            if at > Offset(0) && self.committed.insert(partition, at) != Some(at) {
                let offset = KafkaOffset::Offset(at.0);
                let topic = &self.shared.settings.topic;
                list.add_partition_offset(topic, partition, offset).ok();
            }
        }
        if list.count() > 0
            && let Err(e) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(error = %e, "could not commit positions to Kafka");
        }
    }
}

impl Shared {
    /// The consumer group. One that is not named is of this storage alone, so that two storages of
    /// one cluster don't divide a topic between them.
    fn group(&self) -> String {
        let topic = &self.stream.topic().name;
        let own = || {
            let id = self.stream.log().table().with_state(|s| s.id.clone());
            let id: String = id.unwrap_or_default().chars().take(8).collect();
            format!("anabranch-{topic}-{id}")
        };
        self.settings.group.clone().unwrap_or_else(own)
    }

    /// Asks how many partitions Kafka's topic has, where this daemon reads none of them; otherwise
    /// the statistics say it.
    fn count_partitions(&self, consumer: &BaseConsumer<Self>) {
        if !self.assigned().is_empty() {
            return;
        }
        let topic = &self.settings.topic;
        let Ok(found) = consumer.fetch_metadata(Some(topic), ASK_SHORTLY) else {
            return;
        };
        let found = found.topics().iter().find(|t| t.name() == topic);
        let count = found.and_then(|t| i32::try_from(t.partitions().len()).ok());
        self.state.lock().partition_count = count;
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn position(&self, partition: i32) -> Option<i64> {
        let state = self.state.lock();
        state.partitions.get(&partition).map(|p| p.position)
    }

    /// The partitions that this daemon reads.
    fn assigned(&self) -> Vec<i32> {
        self.state.lock().partitions.keys().copied().collect()
    }

    fn note_message(&self, message: &impl Message) {
        let mut state = self.state.lock();
        state.trouble = None;
        if let Some(known) = state.partitions.get_mut(&message.partition()) {
            known.last_message_ms = message.timestamp().to_millis().or(known.last_message_ms);
        }
    }

    /// Notes what is tried again; the same text is logged once.
    fn trouble(&self, text: String) {
        let mut state = self.state.lock();
        if state.trouble.as_ref() != Some(&text) {
            tracing::warn!(topic = %self.stream.name(), error = %text, "Kafka; it is tried again");
            state.trouble = Some(text);
        }
    }

    /// Reads nothing more, until a restart.
    fn halt(&self, text: &str) {
        let mut state = self.state.lock();
        if state.stopped.is_none() {
            tracing::error!(topic = %self.stream.name(), error = %text, "reading from Kafka has stopped");
            state.stopped = Some(text.to_owned());
            // Nobody looks any more how far behind it is.
            let known = state.partitions.values_mut();
            known.for_each(|known| known.lag_offsets = None);
        }
    }

    /// Takes partitions and finds where to read them: the list to assign.
    fn take_partitions(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> TopicPartitionList {
        let elements = list.elements_for_topic(&self.settings.topic);
        let partitions: Vec<i32> = elements.iter().map(|e| e.partition()).collect();
        let mut taken = TopicPartitionList::new();
        for (partition, offset) in self.begin_at(consumer, &partitions) {
            let offset = KafkaOffset::Offset(offset);
            taken
                .add_partition_offset(&self.settings.topic, partition, offset)
                .ok();
        }
        taken
    }

    /// Waits for the next try of something that failed, no longer than until it is told to stop.
    fn pause(&self, backoff: &mut Backoff) {
        let until = Instant::now() + backoff.failed(Instant::now());
        while !self.stopping() && Instant::now() < until {
            std::thread::sleep(POLL);
        }
    }

    /// Makes the topic's lanes of partitions ours, and finds where to read them. Tries again until
    /// storage and Kafka answer.
    fn begin_at(&self, consumer: &BaseConsumer<Self>, partitions: &[i32]) -> Vec<(i32, i64)> {
        let mut backoff = Backoff::new(RETRY, LONGEST_RETRY);
        while !self.stopping() {
            match self.try_begin_at(consumer, partitions) {
                Ok(begun) => return begun,
                Err(e) if e.kind() == ErrorKind::Unavailable => self.trouble(e.to_string()),
                Err(e) => {
                    self.halt(&e.to_string());
                    break;
                }
            }
            self.pause(&mut backoff);
        }
        Vec::new()
    }

    fn try_begin_at(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[i32],
    ) -> Result<Vec<(i32, i64)>> {
        let ids: Vec<PartitionId> = partitions.iter().copied().map(PartitionId).collect();
        let topic = self.stream.name();
        let lanes = self.runtime.block_on(async {
            self.catalogue.claim_for_source(topic, &ids).await?;
            self.stream.upkeep().take_lanes(&ids).await
        })?;
        let mut begun = Vec::new();
        for (id, next) in lanes {
            let at = self.begin(consumer, id, next)?;
            let mut state = self.state.lock();
            state.partitions.entry(id.0).or_default().position = at.0;
            begun.push((id.0, at.0));
        }
        Ok(begun)
    }

    /// Where reading goes on in a partition whose lane goes on at `next`.
    fn begin(
        &self,
        consumer: &BaseConsumer<Self>,
        id: PartitionId,
        next: Offset,
    ) -> Result<Offset> {
        let topic = &self.settings.topic;
        let unanswered = |e: KafkaError| {
            Error::Unavailable(format!("Kafka's topic `{topic}`, partition {id}: {e}"))
        };
        let (low, high) = consumer
            .fetch_watermarks(topic, id.0, ASK)
            .map_err(unanswered)?;
        let held = Held { low, high };
        let first = match (&self.settings.start, next.0) {
            (KafkaStart::Earliest, 0) => low,
            (KafkaStart::Latest, 0) => high,
            (KafkaStart::At(ms), 0) => self.offset_at(consumer, id, *ms)?.unwrap_or(high),
            _ => 0,
        };
        let name = self.stream.name();
        let skip = |range: OffsetRange, gap: bool| {
            let piece = PlacedFacts::empty(&self.stream.topic(), id, range, gap);
            // Where the lane has moved on meanwhile, the next message finds that out.
            self.stream.writer().push(piece);
            range.end
        };
        match decide(next.0, held, first, self.settings.on_gap) {
            StartDecision::GoOn => Ok(next),
            StartDecision::Begin(range) => Ok(skip(range, false)),
            StartDecision::RecordGap(range) => {
                tracing::error!(topic = %name, partition = %id, start = %range.start, end = %range.end, "Kafka has removed messages before they were read; the gap is recorded");
                Ok(skip(range, true))
            }
            StartDecision::StopAtGap(range) => Err(Error::Conflict(gap_text(name, id, range))),
            StartDecision::OtherTopic => Err(Error::Conflict(format!(
                "topic `{name}`: partition {id} was read up to offset {next}, and Kafka's topic `{topic}` ends at {high}: it was made anew, or is another one; declare a new topic for it"
            ))),
        }
    }

    fn offset_at(
        &self,
        consumer: &BaseConsumer<Self>,
        id: PartitionId,
        at_ms: i64,
    ) -> Result<Option<i64>> {
        let failed = |e: KafkaError| Error::Unavailable(format!("Kafka, partition {id}: {e}"));
        let mut times = TopicPartitionList::new();
        let at = KafkaOffset::Offset(at_ms);
        times
            .add_partition_offset(&self.settings.topic, id.0, at)
            .map_err(failed)?;
        let found = consumer.offsets_for_times(times, ASK).map_err(failed)?;
        let found = found.find_partition(&self.settings.topic, id.0);
        Ok(match found.map(|e| e.offset()) {
            Some(KafkaOffset::Offset(offset)) => Some(offset),
            _ => None,
        })
    }

    /// Gives partitions up. What was read of them lands before, if that is quick.
    fn leave(&self, partitions: &[i32]) {
        let ids: Vec<PartitionId> = partitions.iter().copied().map(PartitionId).collect();
        let landing = async {
            let late = |_| Error::Unavailable("it took too long".into());
            let landing = self.stream.upkeep().land_lanes(&ids);
            let landed = tokio::time::timeout(LAND_BEFORE_LEAVING, landing).await;
            landed.map_err(late)?
        };
        if let Err(e) = self.runtime.block_on(landing) {
            tracing::warn!(topic = %self.stream.name(), error = %e, "facts did not land before their partitions were given up; who gets these reads them again");
        }
        self.stream.upkeep().leave_lanes(&ids);
        let mut state = self.state.lock();
        partitions.iter().for_each(|p| {
            state.partitions.remove(p);
        });
    }
}

impl ClientContext for Shared {
    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.settings.topic) else {
            return;
        };
        let mut state = self.state.lock();
        // One more, -1, stands for none.
        let count = topic.partitions.keys().filter(|p| **p >= 0).count();
        state.partition_count = i32::try_from(count).ok();
        for (partition, known) in &mut state.partitions {
            let Some(found) = topic.partitions.get(partition) else {
                continue;
            };
            // Below what is committed in a transaction nothing can be read.
            let end = match found.ls_offset {
                end if end >= 0 => end,
                _ => found.hi_offset,
            };
            // The end may be a transaction's marker, which is never read.
            let caught_up = known.lag_offsets == Some(0) && end <= known.position + 1;
            if end >= 0 && !caught_up {
                known.lag_offsets = Some((end - known.position).max(0));
            }
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        if let Some(id) = identity::logged(text, &self.settings.topic) {
            self.state.lock().topic_id = Some(id.to_owned());
        }
        tracing::debug!(?level, facility, text, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Where nobody polls for messages yet, the end of a partition comes here.
        if error == KafkaError::Global(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        self.trouble(format!("{error}: {reason}"));
    }
}

impl ConsumerContext for Shared {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let cooperative = matches!(
            consumer.rebalance_protocol(),
            RebalanceProtocol::Cooperative
        );
        let topic = self.stream.name();
        let elements = list.elements();
        let partitions: Vec<i32> = elements.iter().map(|e| e.partition()).collect();
        // What comes anew is not paused.
        self.state.lock().paused = false;
        let done = match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let taken = self.take_partitions(consumer, list);
                tracing::info!(%topic, ?partitions, "reading partitions of Kafka");
                match cooperative {
                    true => consumer.incremental_assign(&taken),
                    false => consumer.assign(&taken),
                }
            }
            _ => {
                tracing::info!(%topic, ?partitions, "giving up partitions of Kafka");
                self.leave(&partitions);
                match cooperative {
                    true => consumer.incremental_unassign(list),
                    false => consumer.unassign(),
                }
            }
        };
        if let Err(e) = done {
            self.trouble(format!("can't take the partitions of the group: {e}"));
        }
    }
}
