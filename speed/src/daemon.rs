//! The streaming daemon: the topics that it has, the views that it serves, the loops that it runs, and
//! the pins that it chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::files::RealFiles;
use anabranch_shared::{
    Catalogue, Error, GiveWay, Pin, Pinner, ReadMode, Relation, Result, Storage, numbered,
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;

use self::declared::OpenTopics;
use self::running::Running;
use self::served::Served;
use crate::delta::bounds::Bounds;
use crate::delta::pressure::{DeltaUse, Wanted, decide};
use crate::delta::{TopicDelta, ViewDelta};
use crate::intake::room::RequestRoom;
use crate::options::{DaemonOptions, TopicOptions};
use crate::peers::{DeltaRequest, Peers, TopicParts};
use crate::sources::kafka::KafkaSource;
use crate::sources::steps::StepSource;
use crate::topic::TopicStream;
use crate::wal::{WalLock, wal_id};

mod declared;
mod neighbours;
mod running;
mod served;
mod taking;

/// How often logs, boundaries and the catalogue are followed.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// The longest pause between two tries to serve a view for whose delta there is no room, or to read
/// the catalogue.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Topics that are opened or followed at once, and views that are served: each waits for the
/// storage and holds a thread now and then, so neither grows with how many there are.
const AT_ONCE: usize = 16;

/// The streaming daemon.
#[derive(Debug)]
pub struct Daemon {
    storage: Storage,
    catalogue: Arc<Catalogue>,
    topics: OpenTopics,
    served: Served,
    running: Running,
    give_way: GiveWay,
    /// The other daemons of the storage, where they are asked.
    peers: RwLock<Option<Arc<dyn Peers>>>,
    /// The id of the WAL.
    wal: String,
    options: DaemonOptions,
    bounds: Arc<Bounds>,
    /// The room of requests in flight.
    room: RequestRoom,
    /// Views that are wanted to be refreshed.
    wanted: parking_lot::Mutex<BTreeMap<String, Wanted>>,
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
        let fresh = || storage.ids().fresh().to_string();
        let id =
            wal_id(&options.wal, &RealFiles, fresh).map_err(crate::topic::appender::wal_error)?;
        let bounds = Arc::new(Bounds::open(&options)?);
        let daemon = Arc::new(Self {
            storage: storage.clone(),
            catalogue,
            topics: OpenTopics::new(topics.clone()),
            served: Served::default(),
            running: Running::start()?,
            give_way: GiveWay::default(),
            peers: RwLock::default(),
            wal: id,
            room: RequestRoom::of(options.request_memory_bytes),
            options,
            bounds,
            wanted: parking_lot::Mutex::default(),
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
        self.topics.open()
    }

    /// What reads topics from Kafka, by topic, as of now.
    pub fn sources(&self) -> Arc<BTreeMap<String, Arc<KafkaSource>>> {
        self.topics.sources()
    }

    /// The steps that run, by the topic whose facts they make, as of now.
    pub fn steps(&self) -> Arc<BTreeMap<String, Arc<StepSource>>> {
        self.topics.steps()
    }

    /// Why facts of a topic are missing that its source has, if it is so.
    fn missing(&self, topic: &str) -> Option<String> {
        let source = self.sources().get(topic).and_then(|s| s.state().stopped);
        let of_step = || {
            let state = self.steps().get(topic)?.state();
            let why = state.stopped.or(state.trouble)?;
            Some(format!("step `{}`: {why}", state.step))
        };
        let why = source.or_else(of_step)?;
        Some(format!("newer facts are missing: {why}"))
    }

    /// The daemon's settings.
    pub fn options(&self) -> &DaemonOptions {
        &self.options
    }

    /// The room of requests in flight, which all doors share.
    pub fn request_room(&self) -> &RequestRoom {
        &self.room
    }

    /// The id of the daemon's WAL.
    pub fn wal(&self) -> &str {
        &self.wal
    }

    /// Sets the other daemons of the storage: from now on they are asked for what they hold.
    pub fn set_peers(&self, peers: Arc<dyn Peers>) {
        *self.peers.write() = Some(peers);
    }

    /// What facts and deltas take of the daemon's bounds.
    pub fn delta_use(&self) -> DeltaUse {
        let mut used = DeltaUse {
            memory_bound_bytes: self.bounds.memory_bytes(),
            spilled_bytes: self.bounds.spill().used_bytes(),
            spill_bound_bytes: self.bounds.spill().bound_bytes(),
            waits: self.served.waits(),
            ..Default::default()
        };
        for stream in self.topics().values() {
            used.waits |= stream.upkeep().is_paused();
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
        let waiting = self.served.waiting().into_iter();
        views.extend(waiting.map(|name| (name, without_room.clone())));
        let used = self.delta_use();
        let mut wanted = self.wanted.lock();
        *wanted = decide(&wanted, &views, &used);
        wanted.clone()
    }

    /// What this daemon holds of a topic that has not landed, for another daemon's query.
    ///
    /// # Errors
    /// `NotFound` for a topic that it has not; `Invalid` where a view's SQL fails on a fact.
    pub async fn delta(&self, request: DeltaRequest) -> Result<Bytes> {
        let topic = &request.topic;
        let stream = self.topics().get(topic).cloned();
        let stream = stream.ok_or_else(|| Error::NotFound(format!("no topic `{topic}`")))?;
        let notes = self.missing(topic).into_iter().collect();
        stream.pinner().answer_peer(request, notes).await
    }
}

/// Of the names that a query reads those of generations which a topic serves, each with the name that
/// it is served under: `g7.view` is whatever the seventh is served as.
fn served_as(delta: &TopicDelta, names: &[String]) -> Vec<(String, String)> {
    let key = |name: &String| {
        if delta.views.contains_key(name) {
            return Some(name.clone());
        }
        let (number, view) = numbered(name)?;
        let is_it =
            |v: &ViewDelta| v.master.generation() == number && v.master.view().name() == view;
        let (key, _) = delta.views.iter().find(|(_, v)| is_it(v))?;
        Some(key.clone())
    };
    let served = |name: &String| Some((name.clone(), key(name)?));
    names.iter().filter_map(served).collect()
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

    fn failing(&self) -> BTreeMap<String, String> {
        self.views_that_fail()
    }

    async fn pin(&self, names: &[String], mode: ReadMode) -> Result<Pin> {
        self.check_served(names)?;
        let mut pin = Pin::default();
        let peers = self.peers.read().clone();
        let mut said = Vec::new();
        for (topic, stream) in self.topics().iter() {
            let served = stream.with_delta(|d| served_as(d, names));
            let mut views: Vec<String> = served.iter().map(|(_, key)| key.clone()).collect();
            views.sort_unstable();
            views.dedup();
            let dead = names.iter().any(|n| n == "dead_letters");
            if views.is_empty() && !names.contains(topic) && !dead {
                continue;
            }
            let parts = TopicParts {
                facts: names.contains(topic),
                dead_letters: dead,
            };
            let mut pinned = stream
                .pinner()
                .pin(&views, mode, parts, peers.as_deref())
                .await?;
            if mode == ReadMode::Batch {
                pinned.views.values_mut().for_each(|v| {
                    v.delta.clear();
                    v.head = v.boundary.clone();
                });
            }
            let asked =
                |(name, key): (String, String)| Some((name, pinned.views.get(&key)?.clone()));
            pin.views.extend(served.into_iter().filter_map(asked));
            said.extend(pinned.notes);
            if names.contains(topic) || dead {
                pin.topics.insert(topic.clone(), pinned.topic);
            }
        }
        let topics = pin.topics.keys();
        let read: BTreeSet<&String> = topics
            .chain(pin.views.values().map(|v| &v.view.topic().name))
            .collect();
        let missing: Vec<String> = read
            .iter()
            .filter_map(|topic| self.missing(topic))
            .collect();
        let notes = self.notes();
        pin.notes = names.iter().filter_map(|n| notes.get(n).cloned()).collect();
        pin.notes.extend(missing);
        pin.notes.extend(said);
        Ok(pin)
    }
}
