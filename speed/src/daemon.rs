//! The streaming daemon: its topics, the loops that land and follow, and the pins that it chooses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anabranch_shared::view::View;
use anabranch_shared::{
    Backoff, Catalogue, Error, ErrorKind, Generation, GiveWay, Master, Pin, Pinner, ReadMode,
    Relation, Result, Storage,
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::delta::bounds::Bounds;
use crate::delta::pressure::{DeltaUse, Wanted, decide};
use crate::delta::{ViewDelta, of_view};
use crate::failure::{Failure, Reason};
use crate::options::{DaemonOptions, TopicOptions};
use crate::peers::{DeltaRequest, Peers, TopicParts};
use crate::sources::kafka::KafkaSource;
use crate::topic::appender::Appenders;
use crate::topic::{Doing, TopicStream};
use crate::wal::{RealFiles, WalLock, wal_id};

mod declared;

use self::declared::Untaken;

/// How often the loops look whether something is to be done.
const TICK: Duration = Duration::from_millis(100);

/// How often logs, boundaries and the catalogue are followed.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// The longest pause between two tries to serve a view for whose delta there is no room, or to read
/// the catalogue.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Topics that land at once.
const LANDED_AT_ONCE: usize = 64;

/// Topics that are opened or followed at once, and views that are served: each waits for the
/// storage and holds a thread now and then, so neither grows with how many there are.
const AT_ONCE: usize = 16;

/// The streaming daemon.
#[derive(Debug)]
pub struct Daemon {
    storage: Storage,
    catalogue: Arc<Catalogue>,
    /// The open topics: more come while the daemon runs, none go.
    topics: RwLock<Arc<BTreeMap<String, Arc<TopicStream>>>>,
    /// What reads topics from Kafka.
    sources: RwLock<Arc<BTreeMap<String, Arc<KafkaSource>>>>,
    /// The topics that are to be open as soon as the catalogue has them, and how.
    wanted_topics: RwLock<BTreeMap<String, TopicOptions>>,
    /// Topics whose fields could not be taken, or that could not be opened.
    untaken: RwLock<BTreeMap<String, Untaken>>,
    /// Held by whoever opens topics and takes fields.
    taking: tokio::sync::Mutex<()>,
    /// Told when a topic was opened.
    opened: watch::Sender<usize>,
    give_way: GiveWay,
    /// What the reader of an answer should know of each view.
    notes: RwLock<BTreeMap<String, String>>,
    /// Views and topics that are in nobody's catalogue, and why they don't answer.
    undeclared: RwLock<BTreeMap<String, (ErrorKind, String)>>,
    /// The number of the catalogue's entry that these and the notes were made of.
    noted: AtomicU64,
    /// Views that can't be served, and why.
    unserved: RwLock<BTreeMap<String, (ErrorKind, String)>>,
    /// The other daemons of the storage, where they are asked.
    peers: RwLock<Option<Arc<dyn Peers>>>,
    /// The id of the WAL.
    wal: String,
    options: DaemonOptions,
    bounds: Arc<Bounds>,
    /// Views that are wanted to be refreshed.
    wanted: parking_lot::Mutex<BTreeMap<String, Wanted>>,
    /// Views for whose delta there was no room, and when they are tried again.
    waiting: parking_lot::Mutex<BTreeMap<String, Backoff>>,
    /// When the catalogue is read again, where that failed.
    reading: parking_lot::Mutex<Backoff>,
    /// Set when the loops shall end.
    ending: watch::Sender<bool>,
    /// Whether facts are taken. Read while a request is admitted and acknowledged.
    open: tokio::sync::RwLock<bool>,
    /// The same, for who does not wait.
    is_open: AtomicBool,
    failure: Failure,
    /// What appends to the WALs of all topics.
    appenders: Appenders,
    /// Whoever lands a topic, and whoever follows one, holds one of these.
    landing: tokio::sync::Semaphore,
    following: tokio::sync::Semaphore,
    _lock: WalLock,
}

impl Daemon {
    /// Opens a daemon on the topics of the catalogue that `topics` names: takes its WALs, replays
    /// them, and folds what the master views have not absorbed.
    ///
    /// # Errors
    /// `Conflict` when another process holds the WAL folder.
    pub async fn open(
        storage: &Storage,
        catalogue: Arc<Catalogue>,
        topics: &BTreeMap<String, TopicOptions>,
        options: DaemonOptions,
    ) -> Result<Arc<Self>> {
        let lock = WalLock::acquire(&options.wal).map_err(crate::topic::appender::wal_error)?;
        let fresh = || uuid::Uuid::new_v4().to_string();
        let id =
            wal_id(&options.wal, &RealFiles, fresh).map_err(crate::topic::appender::wal_error)?;
        let bounds = Arc::new(Bounds::open(&options)?);
        let failure = Failure::default();
        let daemon = Arc::new(Self {
            storage: storage.clone(),
            catalogue,
            topics: RwLock::default(),
            sources: RwLock::default(),
            wanted_topics: RwLock::new(topics.clone()),
            untaken: RwLock::default(),
            taking: tokio::sync::Mutex::default(),
            opened: watch::Sender::new(0),
            give_way: GiveWay::default(),
            notes: RwLock::default(),
            undeclared: RwLock::default(),
            noted: AtomicU64::default(),
            unserved: RwLock::default(),
            peers: RwLock::default(),
            wal: id,
            options,
            bounds,
            wanted: parking_lot::Mutex::default(),
            waiting: parking_lot::Mutex::default(),
            reading: parking_lot::Mutex::new(Backoff::new(FOLLOW_EVERY, LONGEST_WAIT)),
            ending: watch::Sender::new(false),
            open: tokio::sync::RwLock::new(true),
            is_open: AtomicBool::new(true),
            appenders: Appenders::start(&failure)?,
            failure,
            landing: tokio::sync::Semaphore::new(LANDED_AT_ONCE),
            following: tokio::sync::Semaphore::new(AT_ONCE),
            _lock: lock,
        });
        let wanted = topics
            .iter()
            .map(|(name, settings)| (name.clone(), settings.clone()));
        for (_, opened) in daemon.open_topics(wanted.collect()).await {
            opened?;
        }
        daemon.follow_catalogue().await;
        Ok(daemon)
    }

    /// The daemon's topics, as of now.
    pub fn topics(&self) -> Arc<BTreeMap<String, Arc<TopicStream>>> {
        self.topics.read().clone()
    }

    /// What reads topics from Kafka, by topic, as of now.
    pub fn sources(&self) -> Arc<BTreeMap<String, Arc<KafkaSource>>> {
        self.sources.read().clone()
    }

    /// The daemon's settings.
    pub fn options(&self) -> &DaemonOptions {
        &self.options
    }

    /// The id of the daemon's WAL.
    pub fn wal(&self) -> &str {
        &self.wal
    }

    /// Sets the other daemons of the storage: from now on they are asked for what they hold.
    pub fn set_peers(&self, peers: Arc<dyn Peers>) {
        *self.peers.write() = Some(peers);
    }

    /// Sets what the reader of an answer should know of each view, and why views and topics of the
    /// project that the catalogue does not hold don't answer. `entry` is the number of the
    /// catalogue's entry that both were made of.
    pub fn set_notes(
        &self,
        entry: u64,
        notes: BTreeMap<String, String>,
        undeclared: BTreeMap<String, (ErrorKind, String)>,
    ) {
        *self.notes.write() = notes;
        *self.undeclared.write() = undeclared;
        self.noted.store(entry, Ordering::Release);
    }

    /// What the reader of an answer should know of each view.
    pub fn notes(&self) -> BTreeMap<String, String> {
        self.notes.read().clone()
    }

    /// The number of the catalogue's entry that the notes were made of.
    pub fn noted(&self) -> u64 {
        self.noted.load(Ordering::Acquire)
    }

    /// Takes the fields and the topics of the catalogue, and serves the live generation of each of its
    /// views.
    pub async fn follow_catalogue(self: &Arc<Self>) {
        match self.catalogue.refresh().await {
            Ok(_) => self.reading.lock().succeeded(),
            Err(e) => {
                tracing::warn!(error = %e, "can't read the catalogue");
                self.reading.lock().failed(Instant::now());
                return;
            }
        }
        let entry = self.catalogue.current();
        self.take_declared(&entry).await;
        let topics = self.topics();
        for stream in topics.values() {
            let known: Vec<String> = stream.with_delta(|d| d.views.keys().cloned().collect());
            for name in known {
                let alive = entry.views.get(&name).and_then(|v| v.live.as_ref());
                if alive.is_none_or(|l| l.definition.topic.name != stream.topic().name) {
                    stream.forget(&name);
                }
            }
        }
        let mut serving = JoinSet::new();
        for (name, view) in &entry.views {
            let Some(live) = &view.live else { continue };
            let Some(stream) = topics.get(&live.definition.topic.name) else {
                continue;
            };
            if stream.served(name) == Some(live.generation) || !self.is_due(name) {
                continue;
            }
            if serving.len() >= AT_ONCE {
                self.note_ended(serving.join_next().await);
            }
            let (daemon, name, stream) = (self.clone(), name.clone(), stream.clone());
            let live = live.clone();
            serving.spawn(async move {
                let served = daemon.serve(&name, &live, &stream).await;
                daemon.note_waiting(&name, &served);
                daemon.note_served(&name, live.generation, served);
            });
        }
        while let Some(ended) = serving.join_next().await {
            self.note_ended(Some(ended));
        }
        let gone = |name: &String| entry.views.get(name).is_none_or(|v| v.live.is_none());
        self.unserved.write().retain(|name, _| !gone(name));
        self.waiting.lock().retain(|name, _| !gone(name));
    }

    /// A task that serves a view has ended; one that panicked ends the daemon.
    fn note_ended(&self, ended: Option<std::result::Result<(), tokio::task::JoinError>>) {
        if let Some(Err(e)) = ended {
            let text = format!("the task that serves a view ended: {e}");
            self.failure.report(Reason::Defect(text));
        }
    }

    /// Whether it is time to try to serve a view.
    fn is_due(&self, view: &str) -> bool {
        let waiting = self.waiting.lock();
        waiting.get(view).is_none_or(|w| w.is_due(Instant::now()))
    }

    /// Lets a view wait for whose delta there was no room: much is read to find that out.
    fn note_waiting(&self, view: &str, served: &Result<()>) {
        let mut waiting = self.waiting.lock();
        match served {
            Err(Error::NoRoom(_)) => {
                let new = || Backoff::new(FOLLOW_EVERY * 2, LONGEST_WAIT);
                let waits = waiting.entry(view.to_owned()).or_insert_with(new);
                waits.failed(Instant::now());
            }
            _ => {
                waiting.remove(view);
            }
        }
    }

    /// Remembers why a view can't be served; it is tried again, so the same error is logged once.
    fn note_served(&self, name: &str, generation: Generation, served: Result<()>) {
        let mut unserved = self.unserved.write();
        let Err(e) = served else {
            unserved.remove(name);
            return;
        };
        let why = (e.kind(), e.to_string());
        if unserved.get(name) != Some(&why) {
            tracing::error!(view = %name, %generation, error = %e, "can't serve the view");
            unserved.insert(name.to_owned(), why);
        }
    }

    /// What facts and deltas take of the daemon's bounds.
    pub fn delta_use(&self) -> DeltaUse {
        let mut used = DeltaUse {
            memory_bound_bytes: self.bounds.memory_bytes(),
            spilled_bytes: self.bounds.spill().used_bytes(),
            spill_bound_bytes: self.bounds.spill().bound_bytes(),
            waits: !self.waiting.lock().is_empty(),
            ..Default::default()
        };
        for stream in self.topics().values() {
            used.waits |= stream.is_paused();
            stream.with_delta(|delta| {
                used.memory_bytes += delta.size_bytes() as u64;
                let landed = delta.views.values().map(ViewDelta::landed_bytes);
                used.landed_bytes += landed.sum::<usize>() as u64;
            });
        }
        used
    }

    /// Why nothing more can be spilled, if it was so when it was last tried.
    pub fn spill_full(&self) -> Option<String> {
        self.bounds.full()
    }

    /// The views that are wanted to be refreshed, because their deltas take too much.
    pub fn wanted(&self) -> BTreeMap<String, Wanted> {
        let mut views = BTreeMap::new();
        for stream in self.topics().values() {
            stream.with_delta(|delta| {
                for (name, view) in &delta.views {
                    let wanted = Wanted {
                        bytes: view.landed_bytes() as u64 + view.spilled_bytes(),
                        boundary: Some(view.pin.boundary.clone()),
                    };
                    views.insert(name.clone(), wanted);
                }
            });
        }
        let without_room = Wanted {
            bytes: 0,
            boundary: None,
        };
        let waiting = self.waiting.lock().keys().cloned().collect::<Vec<_>>();
        views.extend(waiting.into_iter().map(|name| (name, without_room.clone())));
        let used = self.delta_use();
        let mut wanted = self.wanted.lock();
        *wanted = decide(&wanted, &views, &used);
        wanted.clone()
    }

    /// The views that don't answer, and why.
    pub fn views_that_fail(&self) -> BTreeMap<String, String> {
        let mut failing = BTreeMap::new();
        for stream in self.topics().values() {
            stream.with_delta(|delta| {
                let failed = |(n, v): (&String, &ViewDelta)| Some((n.clone(), v.failed.clone()?));
                failing.extend(delta.views.iter().filter_map(failed));
            });
        }
        let unserved = self.unserved.read();
        let absent = unserved.iter().filter(|(name, _)| !self.serves(name));
        failing.extend(absent.map(|(name, (_, why))| (name.clone(), why.clone())));
        let undeclared = self.undeclared.read();
        let undeclared = undeclared.iter().filter(|(name, _)| !self.has(name));
        failing.extend(undeclared.map(|(name, (_, why))| (name.clone(), why.clone())));
        failing
    }

    fn serves(&self, view: &str) -> bool {
        self.topics().values().any(|s| s.served(view).is_some())
    }

    /// Whether a view or a topic is served.
    fn has(&self, name: &str) -> bool {
        self.topics().contains_key(name) || self.serves(name)
    }

    /// An error where one of the names is a view that can't be served.
    fn check_served(&self, names: &[String]) -> Result<()> {
        let undeclared = self.undeclared.read();
        let unserved = self.unserved.read();
        for name in names {
            if let Some((kind, why)) = undeclared.get(name)
                && !self.has(name)
            {
                return Err(Error::of_kind(*kind, why.clone()));
            }
            if let Some((kind, why)) = unserved.get(name)
                && !self.serves(name)
            {
                return Err(Error::of_kind(*kind, why.clone()));
            }
        }
        Ok(())
    }

    async fn serve(
        &self,
        name: &str,
        live: &anabranch_shared::GenerationEntry,
        stream: &Arc<TopicStream>,
    ) -> Result<()> {
        let made = of_view(name, || View::from_definition(name, &live.definition));
        let view = Arc::new(made?);
        if let Some(field) = stream.field_not_taken(&view) {
            // What answered before is none that answers any more.
            stream.forget(name);
            return Err(self.not_taken(&view, field));
        }
        let now = self.options.now_ms();
        let master = Arc::new(Master::open(&self.storage, &view, live.generation, now).await?);
        stream.follow().await?;
        stream.serve(master).await?;
        tracing::info!(view = %name, generation = %live.generation, "serving");
        Ok(())
    }

    /// Runs the loops until [`Daemon::stop`], also those of topics that are opened meanwhile.
    pub async fn run(self: &Arc<Self>) {
        let mut tasks = JoinSet::new();
        let mut names = HashMap::new();
        let following = tasks.spawn(catalogue_loop(self.clone()));
        names.insert(following.id(), "follows the catalogue".to_owned());
        let mut running = BTreeSet::new();
        let mut opened = self.opened.subscribe();
        loop {
            opened.borrow_and_update();
            for (name, stream) in self.topics().iter() {
                if running.insert(name.clone()) {
                    let landing = tasks.spawn(land_loop(self.clone(), stream.clone()));
                    names.insert(landing.id(), format!("lands topic `{name}`"));
                    let following = tasks.spawn(follow_loop(self.clone(), stream.clone()));
                    names.insert(following.id(), format!("follows topic `{name}`"));
                }
            }
            tokio::select! {
                ended = tasks.join_next_with_id() => {
                    let (id, why) = match ended {
                        None => return,
                        Some(Ok((id, ()))) => (id, "by itself".to_owned()),
                        Some(Err(e)) => (e.id(), e.to_string()),
                    };
                    let name = names.remove(&id).unwrap_or_default();
                    if !*self.ending.borrow() {
                        let text = format!("the loop that {name} ended: {why}");
                        self.failure.report(Reason::Defect(text));
                    }
                },
                // The daemon itself keeps the sender.
                _ = opened.changed() => {}
            }
        }
    }

    /// Waits until the daemon can't go on: a thread that appends or a loop that lands has ended.
    pub async fn failed(&self) -> Error {
        self.failure.wait().await
    }

    /// Why the daemon can't go on, if it can't.
    pub fn failure(&self) -> Option<Error> {
        self.failure.get()
    }

    /// An error where no facts are taken any more.
    ///
    /// # Errors
    /// `Unavailable` once the daemon stops.
    pub(crate) fn check_intake(&self) -> Result<()> {
        match self.is_open.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(Error::Unavailable(
                "the daemon is stopping and takes no more facts; send them to another one, or again in a moment"
                    .into(),
            )),
        }
    }

    /// Enters the door for one request; whoever closes it waits for those that are inside.
    ///
    /// # Errors
    /// As [`Daemon::check_intake`].
    pub(crate) async fn enter(&self) -> Result<tokio::sync::RwLockReadGuard<'_, bool>> {
        let open = self.open.read().await;
        self.check_intake().map(|()| open)
    }

    /// Takes no more facts, and waits until those that are being admitted are acknowledged, until
    /// a time at most. Landing goes on meanwhile, because some of them may wait for that.
    pub async fn close_intake(&self, until: tokio::time::Instant) {
        self.is_open.store(false, Ordering::Release);
        if let Ok(mut open) = tokio::time::timeout_at(until, self.open.write()).await {
            *open = false;
        }
    }

    /// Ends the loops and lands what is acknowledged, each topic whatever becomes of the others.
    /// Intake must have been closed. After a failure nothing is landed: that is left to the next
    /// start, which trusts nothing but the WAL.
    ///
    /// # Errors
    /// Those of the first topic that did not land; what it holds stays in the WAL.
    pub async fn stop(self: &Arc<Self>) -> Result<()> {
        self.close().await;
        if self.failure.get().is_some() {
            return Ok(());
        }
        let mut landings = JoinSet::new();
        for stream in self.topics().values() {
            let stream = stream.clone();
            landings.spawn(async move {
                while stream.has_unlanded() {
                    stream.land().await?;
                }
                Ok(())
            });
        }
        let mut failed = None;
        while let Some(ended) = landings.join_next().await {
            let ended = ended.unwrap_or_else(|e| Err(Error::Internal(format!("a landing: {e}"))));
            if let Err(e) = ended {
                tracing::error!(error = %e, "a topic has not landed; its facts stay in the WAL");
                failed.get_or_insert(e);
            }
        }
        if let Some(e) = failed {
            return Err(e);
        }
        self.options.stop.store(true, Ordering::Relaxed);
        self.bounds.spill().clear()
    }

    /// Ends the loops and the reading of sources, and lands nothing.
    pub async fn close(self: &Arc<Self>) {
        self.is_open.store(false, Ordering::Release);
        self.ending.send_replace(true);
        // A thread that waits for storage may be in the middle of something.
        let sources = self.sources();
        let stopping = tokio::task::spawn_blocking(move || sources.values().for_each(|s| s.stop()));
        stopping.await.ok();
    }

    /// The threads that append to WALs; they end when the daemon is dropped.
    pub fn take_threads(&self) -> Vec<std::thread::JoinHandle<()>> {
        self.appenders.take_threads()
    }

    /// Waits for some time; `false` when the loops shall end.
    async fn goes_on(&self, wait: Duration) -> bool {
        let mut ending = self.ending.subscribe();
        let ended = tokio::time::timeout(wait, ending.wait_for(|e| *e))
            .await
            .is_ok();
        !ended
    }
}

async fn land_loop(daemon: Arc<Daemon>, stream: Arc<TopicStream>) {
    let mut waited = Duration::ZERO;
    while daemon.goes_on(TICK).await {
        waited += TICK;
        // What failed is tried again when its pause is over, whatever has come meanwhile.
        let due = match stream.is_failing(Doing::Landing) {
            true => stream.is_due(Doing::Landing),
            false => waited >= daemon.options.land_every || stream.is_landing_due(),
        };
        if !due {
            continue;
        }
        waited = Duration::ZERO;
        let Ok(_turn) = daemon.landing.acquire().await else {
            return;
        };
        // What piled up during a landing lands at once.
        loop {
            let landed = stream.land().await.map(|_| ());
            stream.note_trouble(Doing::Landing, &landed);
            if landed.is_err() || !stream.is_landing_due() {
                break;
            }
        }
    }
}

async fn follow_loop(daemon: Arc<Daemon>, stream: Arc<TopicStream>) {
    while daemon.goes_on(FOLLOW_EVERY).await {
        if stream.is_due(Doing::Following) {
            let Ok(_turn) = daemon.following.acquire().await else {
                return;
            };
            let followed = stream.follow().await;
            stream.note_trouble(Doing::Following, &followed);
        }
    }
}

async fn catalogue_loop(daemon: Arc<Daemon>) {
    while daemon.goes_on(FOLLOW_EVERY).await {
        let due = daemon.reading.lock().is_due(Instant::now());
        if due {
            daemon.follow_catalogue().await;
        }
    }
}

impl Daemon {
    /// What this daemon holds of a topic that has not landed, for another daemon's query.
    ///
    /// # Errors
    /// `NotFound` for a topic that it has not; `Invalid` where a view's SQL fails on a fact.
    pub async fn delta(&self, request: DeltaRequest) -> Result<Bytes> {
        let topic = &request.topic;
        let stream = self.topics().get(topic).cloned();
        let stream = stream.ok_or_else(|| Error::NotFound(format!("no topic `{topic}`")))?;
        let stopped = self.sources().get(topic).and_then(|s| s.state().stopped);
        let note = |why| format!("newer facts are missing: {why}");
        let notes = stopped.map(note).into_iter().collect();
        stream.answer_peer(request, notes).await
    }
}

#[async_trait]
impl Pinner for Daemon {
    async fn relations(&self) -> Result<Vec<Relation>> {
        let mut relations = Vec::new();
        for (name, stream) in self.topics().iter() {
            let schema = stream.log().schema();
            relations.push(Relation {
                name: name.clone(),
                kind: "topic",
                schema,
                view: None,
            });
            stream.with_delta(|delta| {
                for (name, view) in &delta.views {
                    let view = view.master.view();
                    relations.push(Relation {
                        name: name.clone(),
                        kind: "view",
                        schema: view.schema(),
                        view: Some(view.clone()),
                    });
                }
            });
        }
        Ok(relations)
    }

    async fn pin(&self, names: &[String], mode: ReadMode) -> Result<Pin> {
        self.check_served(names)?;
        let mut pin = Pin::default();
        let peers = self.peers.read().clone();
        let mut said = Vec::new();
        for (topic, stream) in self.topics().iter() {
            let views: Vec<String> = stream.with_delta(|d| {
                names
                    .iter()
                    .filter(|n| d.views.contains_key(*n))
                    .cloned()
                    .collect()
            });
            let dead = names.iter().any(|n| n == "dead_letters");
            if views.is_empty() && !names.contains(topic) && !dead {
                continue;
            }
            let parts = TopicParts {
                facts: names.contains(topic),
                dead_letters: dead,
            };
            let mut pinned = stream.pin(&views, mode, parts, peers.as_deref()).await?;
            if mode == ReadMode::Batch {
                pinned.views.values_mut().for_each(|v| {
                    v.delta.clear();
                    v.head = v.boundary.clone();
                });
            }
            pin.views.extend(pinned.views);
            said.extend(pinned.notes);
            if names.contains(topic) || dead {
                pin.topics.insert(topic.clone(), pinned.topic);
            }
        }
        let topics = pin.topics.keys();
        let read: BTreeSet<&String> = topics
            .chain(pin.views.values().map(|v| &v.view.topic().name))
            .collect();
        let sources = self.sources();
        let stopped = |topic: &&String| sources.get(*topic)?.state().stopped;
        let stopped: Vec<String> = read.iter().filter_map(stopped).collect();
        let notes = self.notes.read();
        pin.notes = names.iter().filter_map(|n| notes.get(n).cloned()).collect();
        let missing = |why| format!("newer facts are missing: {why}");
        pin.notes.extend(stopped.into_iter().map(missing));
        pin.notes.extend(said);
        Ok(pin)
    }
}
