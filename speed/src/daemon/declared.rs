//! What a running daemon takes from the catalogue: topics that were declared since it started, and
//! fields of those that it has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anabranch_shared::files::RealFiles;
use anabranch_shared::view::View;
use anabranch_shared::{
    Backoff, Entry, Error, Log, OwnPartitions, PartitionId, Result, blocking, panic_text,
    retry_text,
};
use futures::FutureExt;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::neighbours::Neighbours;
use super::{AT_ONCE, Daemon, FOLLOW_EVERY, LONGEST_WAIT};
use crate::options::TopicOptions;
use crate::sources::kafka::KafkaSource;
use crate::sources::steps::{Between, StepSource};
use crate::topic::TopicStream;
use crate::wal::{Claim, check_claim};

/// What of a topic could not be taken.
#[derive(Debug)]
pub(super) struct Untaken {
    why: String,
    /// When it is tried again.
    backoff: Backoff,
}

impl Default for Untaken {
    fn default() -> Self {
        Self {
            why: String::new(),
            backoff: Backoff::new(FOLLOW_EVERY, LONGEST_WAIT),
        }
    }
}

impl Untaken {
    /// Why, how often it failed, and when it is tried again.
    fn text(&self, now: Instant) -> String {
        format!("{}; {}", self.why, retry_text(&self.backoff, now))
    }
}

/// The topics that are open, and those that are to be.
#[derive(Debug)]
pub(super) struct OpenTopics {
    /// More come while the daemon runs, none go.
    open: RwLock<Arc<BTreeMap<String, Arc<TopicStream>>>>,
    /// What reads topics from Kafka.
    sources: RwLock<Arc<BTreeMap<String, Arc<KafkaSource>>>>,
    /// What makes facts of them, by the topic whose facts these are.
    steps: RwLock<Arc<BTreeMap<String, Arc<StepSource>>>>,
    /// Those that are to be open as soon as the catalogue has them, and how.
    wanted: RwLock<BTreeMap<String, TopicOptions>>,
    /// Those whose fields could not be taken, or that could not be opened.
    untaken: RwLock<BTreeMap<String, Untaken>>,
    /// Held by whoever opens topics and takes fields.
    taking: tokio::sync::Mutex<()>,
    /// Told when one was opened.
    opened: watch::Sender<usize>,
}

impl OpenTopics {
    pub(super) fn new(wanted: BTreeMap<String, TopicOptions>) -> Self {
        Self {
            open: RwLock::default(),
            sources: RwLock::default(),
            steps: RwLock::default(),
            wanted: RwLock::new(wanted),
            untaken: RwLock::default(),
            taking: tokio::sync::Mutex::default(),
            opened: watch::Sender::new(0),
        }
    }

    /// Those that are open, as of now.
    pub(super) fn open(&self) -> Arc<BTreeMap<String, Arc<TopicStream>>> {
        self.open.read().clone()
    }

    /// What reads them from Kafka, as of now.
    pub(super) fn sources(&self) -> Arc<BTreeMap<String, Arc<KafkaSource>>> {
        self.sources.read().clone()
    }

    /// The steps that run, as of now.
    pub(super) fn steps(&self) -> Arc<BTreeMap<String, Arc<StepSource>>> {
        self.steps.read().clone()
    }

    /// Told of each that is opened from now on.
    pub(super) fn opened(&self) -> watch::Receiver<usize> {
        self.opened.subscribe()
    }

    /// One more is open, perhaps read from Kafka.
    fn add(&self, name: &str, stream: Arc<TopicStream>, source: Option<KafkaSource>) {
        if let Some(source) = source {
            let mut sources = self.sources.write();
            let mut all = BTreeMap::clone(&sources);
            all.insert(name.to_owned(), Arc::new(source));
            *sources = Arc::new(all);
        }
        let mut topics = self.open.write();
        let mut all = BTreeMap::clone(&topics);
        all.insert(name.to_owned(), stream);
        *topics = Arc::new(all);
        drop(topics);
        self.opened.send_modify(|count| *count += 1);
    }
}

impl Daemon {
    /// Sets which topics are to be open, and how. Those that the catalogue has are opened when it is
    /// followed next, the others once it has them. One that is open stays, as it was opened.
    pub fn want_topics(&self, topics: BTreeMap<String, TopicOptions>) {
        *self.topics.wanted.write() = topics;
    }

    /// Topics of which the catalogue has more than this daemon could take, why, and when it is tried
    /// again.
    pub fn untaken(&self) -> BTreeMap<String, String> {
        let (untaken, now) = (self.topics.untaken.read(), Instant::now());
        let text = |(name, of): (&String, &Untaken)| (name.clone(), of.text(now));
        untaken.iter().map(text).collect()
    }

    /// Opens topics of the catalogue, several at once: claims their partitions, replays their WALs,
    /// begins to read their sources. Returns what came of each.
    pub(super) async fn open_topics(
        self: &Arc<Self>,
        wanted: Vec<(String, TopicOptions)>,
    ) -> BTreeMap<String, Result<()>> {
        // What a WAL holds is looked at before a partition is claimed for it.
        let checked = self.at_once(wanted, |daemon, name, settings| async move {
            let checked = daemon.check_wal(&name).await;
            checked.map(|()| (name, settings))
        });
        let mut outcomes = BTreeMap::new();
        let mut usable = Vec::new();
        for (name, checked) in checked.await {
            match checked {
                Ok(topic) => usable.push(topic),
                Err(e) => drop(outcomes.insert(name, Err(e))),
            }
        }
        let claims = usable.iter().map(|(name, settings)| {
            let own = match (&settings.kafka, &settings.step) {
                (_, Some(_)) => OwnPartitions::PastStep,
                (Some(_), None) => OwnPartitions::PastSource,
                (None, None) => OwnPartitions::First,
            };
            (name.clone(), own)
        });
        let claims: Vec<(String, OwnPartitions)> = claims.collect();
        let claimed = self.catalogue.claim_partitions(&claims, &self.wal);
        let claimed = match claimed.await {
            Ok(claimed) => Arc::new(claimed),
            Err(e) => {
                let (kind, text) = (e.kind(), e.to_string());
                let failed = |(name, _)| (name, Err(Error::of_kind(kind, text.clone())));
                outcomes.extend(usable.into_iter().map(failed));
                return outcomes;
            }
        };
        let opened = self.at_once(usable, move |daemon, name, settings| {
            let partition = claimed.get(&name).copied();
            async move {
                let claimed = || Error::Internal(format!("claimed no partition of `{name}`"));
                let partition = partition.ok_or_else(claimed)?;
                daemon.open_claimed(&name, partition, &settings).await
            }
        });
        outcomes.extend(opened.await);
        for (topic, error) in self.start_steps() {
            outcomes.insert(topic, Err(error));
        }
        outcomes
    }

    /// Begins the steps both of whose topics are open. Returns those that can't begin, by the topic whose
    /// facts they make.
    fn start_steps(self: &Arc<Self>) -> Vec<(String, Error)> {
        let (open, running) = (self.topics.open(), self.topics.steps());
        let wanted = self.topics.wanted.read().clone();
        let mut failed = Vec::new();
        for (topic, settings) in &wanted {
            let Some(step) = settings
                .step
                .as_ref()
                .filter(|_| !running.contains_key(topic))
            else {
                continue;
            };
            let (Some(from), Some(to)) = (open.get(&step.settings.from), open.get(topic)) else {
                continue;
            };
            // One that was opened before it had a step takes facts of others until a restart.
            if !to.writer().has_step() {
                continue;
            }
            let between = Between {
                from,
                to,
                catalogue: &self.catalogue,
                others: Arc::new(Neighbours(Arc::downgrade(self))),
                now_us: self.options.now_us,
                patience: self.options.land_every.saturating_mul(3),
            };
            match StepSource::start(step, between, self.failures()) {
                Ok(source) => {
                    let mut steps = self.topics.steps.write();
                    let mut all = BTreeMap::clone(&steps);
                    all.insert(topic.clone(), Arc::new(source));
                    *steps = Arc::new(all);
                }
                Err(e) => failed.push((topic.clone(), e)),
            }
        }
        failed
    }

    /// Does something to several topics, a bounded number at once.
    async fn at_once<T, W>(
        self: &Arc<Self>,
        topics: Vec<(String, TopicOptions)>,
        work: impl Fn(Arc<Self>, String, TopicOptions) -> W,
    ) -> Vec<(String, Result<T>)>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let mut tasks: JoinSet<(String, Result<T>)> = JoinSet::new();
        let mut outcomes = Vec::with_capacity(topics.len());
        let mut left = topics.into_iter();
        loop {
            while tasks.len() < AT_ONCE
                && let Some((name, settings)) = left.next()
            {
                let doing = work(self.clone(), name.clone(), settings);
                tasks.spawn(async move {
                    let done = std::panic::AssertUnwindSafe(doing).catch_unwind().await;
                    let text = |panic: Box<dyn std::any::Any + Send>| {
                        let why = panic_text(panic.as_ref());
                        Error::Internal(format!("opening topic `{name}` panicked: {why}"))
                    };
                    let done = done.unwrap_or_else(|panic| Err(text(panic)));
                    (name, done)
                });
            }
            match tasks.join_next().await {
                Some(Ok(outcome)) => outcomes.push(outcome),
                // None is cancelled, and panics are caught.
                Some(Err(_)) => {}
                None => return outcomes,
            }
        }
    }

    /// Checks that a topic's WAL is what the catalogue says of it, and makes its first segment where
    /// none is claimed yet.
    async fn check_wal(&self, name: &str) -> Result<()> {
        let entry = self.catalogue.current();
        let known = entry
            .topics
            .get(name)
            .ok_or_else(|| Error::NotFound(format!("topic `{name}` is not in the catalogue")))?;
        let claim = match known.partitions.values().any(|owner| *owner == self.wal) {
            true => Claim::Claimed,
            false => Claim::Unclaimed,
        };
        let (root, topic) = (self.options.wal.clone(), name.to_owned());
        blocking(move || {
            let checked = check_claim(&root, &topic, claim, Arc::new(RealFiles));
            checked.map_err(crate::topic::appender::wal_error)
        })
        .await
    }

    /// Opens a topic whose partition is claimed.
    async fn open_claimed(
        &self,
        name: &str,
        partition: PartitionId,
        settings: &TopicOptions,
    ) -> Result<()> {
        let entry = self.catalogue.current();
        let known = entry
            .topics
            .get(name)
            .ok_or_else(|| Error::NotFound(format!("topic `{name}` is not in the catalogue")))?;
        let now_ms = self.options.now_ms();
        let log = Arc::new(Log::open(&self.storage, &known.topic, now_ms).await?);
        let stream = TopicStream::open(
            log,
            partition,
            settings,
            &self.options,
            &self.bounds,
            &self.give_way,
            (&self.running.appenders, self.failures()),
        )
        .await?;
        let start = |kafka| {
            let (catalogue, failure) = (&self.catalogue, self.failures());
            KafkaSource::start(&stream, catalogue, kafka, &self.wal, failure)
        };
        let source = settings.kafka.clone().map(start).transpose()?;
        self.topics.add(name, stream, source);
        Ok(())
    }

    /// Takes the topics and the fields that the catalogue has and this daemon has not. What can't be
    /// taken is tried again when the catalogue is followed, ever less often.
    pub(super) async fn take_declared(self: &Arc<Self>, entry: &Entry) {
        let _guard = self.topics.taking.lock().await;
        let open = self.topics();
        let wanted = self.topics.wanted.read().clone();
        let now = Instant::now();
        let is_due = |name: &String| {
            let untaken = self.topics.untaken.read();
            untaken.get(name).is_none_or(|of| of.backoff.is_due(now))
        };
        let new = wanted.iter().filter(|(name, _)| {
            !open.contains_key(*name) && entry.topics.contains_key(*name) && is_due(name)
        });
        let new: Vec<_> = new.map(|(name, s)| (name.clone(), s.clone())).collect();
        if !new.is_empty() {
            for (name, opened) in self.open_topics(new).await {
                self.note_taken(&name, "is declared, and can't be opened", opened);
            }
        }
        for (name, stream) in open.iter() {
            let Some(known) = entry.topics.get(name) else {
                continue;
            };
            if *stream.topic() != known.topic && is_due(name) {
                let fields = wanted
                    .get(name)
                    .map_or(&[][..], |settings| &settings.fields);
                let taken = stream.writer().take_fields(&known.topic, fields).await;
                self.note_taken(name, "has new fields, which can't be taken", taken);
            }
        }
        // One that nobody wants any more is not tried again.
        let known = |name: &String| wanted.contains_key(name) || open.contains_key(name);
        self.topics.untaken.write().retain(|name, _| known(name));
    }

    /// Remembers what could not be taken of a topic; the same trouble is logged once.
    fn note_taken(&self, topic: &str, what: &str, taken: Result<()>) {
        let mut untaken = self.topics.untaken.write();
        let Err(e) = taken else {
            tracing::info!(%topic, "took what was declared of the topic");
            untaken.remove(topic);
            return;
        };
        let why = format!("topic `{topic}` {what}: {e}");
        let of = untaken.entry(topic.to_owned()).or_default();
        of.backoff.failed(Instant::now());
        if of.why != why {
            tracing::error!(%topic, error = %why, "it is tried again");
            of.why = why;
        }
    }

    /// Why a view can't be served that reads a field which this daemon has not taken.
    pub(super) fn not_taken(&self, view: &View, field: &str) -> Error {
        let (name, topic) = (view.name(), &view.topic().name);
        let why = self
            .topics
            .untaken
            .read()
            .get(topic)
            .map(|of| of.why.clone());
        let why = why.map_or(String::new(), |why| format!(" ({why})"));
        Error::Unavailable(format!(
            "view `{name}` reads field `{field}` of topic `{topic}`, which was declared after this daemon started and is not taken yet{why}; try again, or restart the daemon"
        ))
    }
}

impl TopicStream {
    /// A field that a view reads and this daemon has not taken.
    pub(crate) fn field_not_taken<'a>(&self, view: &'a View) -> Option<&'a str> {
        let schema = self.log().schema();
        let mut fields = view.fact_schema().fields().iter();
        let unknown = fields.find(|f| schema.field_with_name(f.name()).is_err());
        unknown.map(|f| f.name().as_str())
    }
}
