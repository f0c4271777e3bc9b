//! The views that a daemon serves: which answer, which don't and why, and what a reader of their
//! answers should know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anabranch_shared::view::View;
use anabranch_shared::{Backoff, Error, ErrorKind, Generation, GenerationEntry, Master, Result};
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;

use super::{AT_ONCE, Daemon, FOLLOW_EVERY, LONGEST_WAIT};
use crate::delta::{ViewDelta, of_view};
use crate::failure::Reason;
use crate::topic::{ServedAs, TopicStream};

/// Of views and topics, why they don't answer.
type Troubles = BTreeMap<String, (ErrorKind, String)>;

/// How it stands with the views.
#[derive(Debug)]
pub(super) struct Served {
    /// What the reader of an answer should know of each view.
    notes: RwLock<BTreeMap<String, String>>,
    /// Views and topics that are in nobody's catalogue.
    undeclared: RwLock<Troubles>,
    /// The number of the catalogue's entry that these and the notes were made of.
    noted: AtomicU64,
    /// Views that can't be served.
    unserved: RwLock<Troubles>,
    /// Views for whose delta there was no room, and when they are tried again.
    waiting: Mutex<BTreeMap<String, Backoff>>,
    /// When the catalogue is read again, where that failed.
    reading: Mutex<Backoff>,
}

impl Default for Served {
    fn default() -> Self {
        Self {
            notes: RwLock::default(),
            undeclared: RwLock::default(),
            noted: AtomicU64::default(),
            unserved: RwLock::default(),
            waiting: Mutex::default(),
            reading: Mutex::new(Backoff::new(FOLLOW_EVERY, LONGEST_WAIT)),
        }
    }
}

impl Served {
    /// Whether it is time to read the catalogue.
    pub(super) fn is_reading_due(&self) -> bool {
        self.reading.lock().is_due(Instant::now())
    }

    /// Whether a view has no room for its delta.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.lock().is_empty()
    }

    /// The views that have none.
    pub(super) fn waiting(&self) -> Vec<String> {
        self.waiting.lock().keys().cloned().collect()
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
}

impl Daemon {
    /// Sets what the reader of an answer should know of each view, and why views and topics of the
    /// project that the catalogue does not hold don't answer. `entry` is the number of the
    /// catalogue's entry that both were made of.
    pub fn set_notes(
        &self,
        entry: u64,
        notes: BTreeMap<String, String>,
        undeclared: BTreeMap<String, (ErrorKind, String)>,
    ) {
        *self.served.notes.write() = notes;
        *self.served.undeclared.write() = undeclared;
        self.served.noted.store(entry, Ordering::Release);
    }

    /// What the reader of an answer should know of each view.
    pub fn notes(&self) -> BTreeMap<String, String> {
        self.served.notes.read().clone()
    }

    /// The number of the catalogue's entry that the notes were made of.
    pub fn noted(&self) -> u64 {
        self.served.noted.load(Ordering::Acquire)
    }

    /// Takes the fields and the topics of the catalogue, and serves the live generation of each of its
    /// views.
    pub async fn follow_catalogue(self: &Arc<Self>) {
        match self.catalogue.refresh().await {
            Ok(_) => self.served.reading.lock().succeeded(),
            Err(e) => {
                tracing::warn!(error = %e, "can't read the catalogue");
                self.served.reading.lock().failed(Instant::now());
                return;
            }
        }
        let entry = self.catalogue.current();
        self.take_declared(&entry).await;
        let topics = self.topics();
        let generations = entry.generations();
        let relations: BTreeMap<String, &GenerationEntry> =
            generations.map(|g| (g.relation(), g.entry)).collect();
        for (topic, stream) in topics.iter() {
            // What it was served as until now it goes on as, at once, before that name goes.
            let wanted = entry.generations().filter(|g| {
                let is_new = stream.served(&g.relation()) != Some(g.entry.generation);
                g.entry.definition.topic.name == *topic && is_new
            });
            let wanted: Vec<ServedAs> = wanted
                .map(|g| ServedAs {
                    view: g.view.to_owned(),
                    name: g.relation(),
                    generation: g.entry.generation,
                })
                .collect();
            if !wanted.is_empty() {
                stream.upkeep().serve_as(&wanted).await;
            }
            let known: Vec<String> = stream.with_delta(|d| d.views.keys().cloned().collect());
            for name in known {
                let alive = relations.get(&name);
                if alive.is_none_or(|g| g.definition.topic.name != stream.topic().name) {
                    stream.forget(&name);
                }
            }
        }
        let mut serving = JoinSet::new();
        for named in entry.generations() {
            let (name, of) = (named.relation(), named.entry.clone());
            let Some(stream) = topics.get(&of.definition.topic.name) else {
                continue;
            };
            if stream.served(&name) == Some(of.generation) || !self.served.is_due(&name) {
                continue;
            }
            if serving.len() >= AT_ONCE {
                self.note_ended(serving.join_next().await);
            }
            let (daemon, stream) = (self.clone(), stream.clone());
            let view = named.view.to_owned();
            serving.spawn(async move {
                let served = daemon.serve((&view, &name), &of, &stream).await;
                daemon.served.note_waiting(&name, &served);
                daemon.served.note_served(&name, of.generation, served);
            });
        }
        while let Some(ended) = serving.join_next().await {
            self.note_ended(Some(ended));
        }
        let gone = |name: &String| !relations.contains_key(name);
        self.served.unserved.write().retain(|name, _| !gone(name));
        self.served.waiting.lock().retain(|name, _| !gone(name));
    }

    /// A task that serves a view has ended; one that panicked ends the daemon.
    fn note_ended(&self, ended: Option<std::result::Result<(), tokio::task::JoinError>>) {
        if let Some(Err(e)) = ended {
            let text = format!("the task that serves a view ended: {e}");
            self.failures().report(Reason::Defect(text));
        }
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
        let unserved = self.served.unserved.read();
        let absent = unserved.iter().filter(|(name, _)| !self.serves(name));
        failing.extend(absent.map(|(name, (_, why))| (name.clone(), why.clone())));
        let undeclared = self.served.undeclared.read();
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
    pub(super) fn check_served(&self, names: &[String]) -> Result<()> {
        let undeclared = self.served.undeclared.read();
        let unserved = self.served.unserved.read();
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

    /// Serves a generation of a view under a name.
    async fn serve(
        &self,
        (view, name): (&str, &str),
        of: &GenerationEntry,
        stream: &Arc<TopicStream>,
    ) -> Result<()> {
        let made = of_view(name, || View::from_definition(view, &of.definition));
        let view = Arc::new(made?);
        if let Some(field) = stream.field_not_taken(&view) {
            // What answered before is none that answers any more.
            stream.forget(name);
            return Err(self.not_taken(&view, field));
        }
        let now = self.options.now_ms();
        let master = Arc::new(Master::open(&self.storage, &view, of.generation, now).await?);
        stream.upkeep().follow().await?;
        stream.upkeep().serve(name, master).await?;
        tracing::info!(view = %name, generation = %of.generation, "serving");
        Ok(())
    }
}
