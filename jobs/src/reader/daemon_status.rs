//! What daemons know and the storage does not, and what several of them know together.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use anabranch_shared::{DeltaPart, Generation, MasterPin, Offsets, ReferenceSize};
use anabranch_speed::{DedupStatus, IntakeCount, KafkaState, StepState};
use serde::{Deserialize, Serialize};

use crate::output::human_bytes;

/// A view's delta in the daemon.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeltaStatus {
    /// States, over all pieces.
    pub states: u64,
    /// Bytes of memory.
    pub bytes: u64,
    /// Pieces of landed states.
    #[serde(default)]
    pub pieces: u64,
    /// Bytes of states that are spilled to disk.
    #[serde(default)]
    pub spilled_bytes: u64,
    /// Why the view can't answer.
    pub failed: Option<String>,
}

/// What the daemon knows and the storage does not.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct DaemonStatus {
    /// For each topic its acknowledged facts that have not landed.
    pub unlanded_facts: BTreeMap<String, u64>,
    /// For each view its delta.
    pub deltas: BTreeMap<String, DeltaStatus>,
    /// For each topic that comes from Kafka what is known of its consumer.
    #[serde(default)]
    pub kafka: BTreeMap<String, KafkaState>,
    /// For each topic whose facts a step makes what is known of that.
    #[serde(default)]
    pub steps: BTreeMap<String, StepState>,
    /// For each topic what came of its records since the daemon started.
    pub intake: BTreeMap<String, IntakeCount>,
    /// For each topic that looks for duplicates how it stands with their keys.
    pub dedup: BTreeMap<String, DedupStatus>,
    /// For each topic with too many dead letters the reason.
    pub red: BTreeMap<String, String>,
    /// For each topic whose facts do not land the reason.
    #[serde(default)]
    pub landing: BTreeMap<String, String>,
    /// What facts and deltas take of the daemon's bounds.
    #[serde(default)]
    pub bounds: BoundsStatus,
    /// The references whose rows it keeps in memory.
    #[serde(default)]
    pub references: Vec<ReferenceSize>,
    /// For each view what its answers are made from.
    #[serde(default)]
    pub served: BTreeMap<String, Served>,
    /// The number of the catalogue's entry that it says how views stand to; none of an earlier version.
    #[serde(default)]
    pub noted: Option<u64>,
    /// For each topic up to where facts had landed when `unlanded_facts` were counted.
    #[serde(default)]
    pub landed: BTreeMap<String, Offsets>,
    /// For each view that the daemon wants to have refreshed the bytes of its delta.
    #[serde(default)]
    pub wanted: BTreeMap<String, u64>,
    /// For each topic of which the daemon could not take what was declared since it started the
    /// reason.
    #[serde(default)]
    pub untaken: BTreeMap<String, String>,
    /// For each field that was declared after some of its facts how often a value in their `_extra`
    /// was read that does not fit it.
    #[serde(default)]
    pub misfits: BTreeMap<String, u64>,
    /// For each task of the daemon's process that ended before it was stopped the reason.
    #[serde(default)]
    pub ended_tasks: BTreeMap<String, String>,
    /// Where it answers, and who may come in.
    #[serde(default)]
    pub doors: Vec<DoorStatus>,
}

/// A door of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct DoorStatus {
    /// `http`, `postgres` or `flight`.
    pub name: String,
    /// Host and port that it listens on.
    pub address: String,
    /// Whether other machines reach it.
    pub is_beyond: bool,
    /// Whether it asks who somebody is.
    pub has_users: bool,
    /// Whether it encrypts.
    pub is_encrypted: bool,
}

impl DoorStatus {
    /// For people: where it is and who may come in.
    pub fn text(&self) -> String {
        let who = match self.has_users {
            true => "users",
            false => "everybody",
        };
        let how = match self.is_encrypted {
            true => "encrypted",
            false => "in clear text",
        };
        format!("{} at {}: {who}, {how}", self.name, self.address)
    }

    /// What somebody should know who answers for the daemon, if anything.
    pub fn danger(&self) -> Option<String> {
        if !self.is_beyond {
            return None;
        }
        let why = match (self.has_users, self.is_encrypted) {
            (true, true) => return None,
            (false, true) => "lets everybody do everything (`insecure_no_users` in `[users]`)",
            (true, false) => "encrypts nothing (`insecure_no_tls` in `[tls]`)",
            (false, false) => {
                "lets everybody do everything and encrypts nothing (`insecure_no_users` in `[users]`, `insecure_no_tls` in `[tls]`)"
            }
        };
        Some(format!(
            "the door `{}` at {} is reached by other machines and {why}",
            self.name, self.address
        ))
    }
}

/// What facts and deltas take of a daemon's bounds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct BoundsStatus {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of memory that they may take.
    pub memory_bound_bytes: u64,
    /// Bytes of disk that spilled deltas take.
    pub spilled_bytes: u64,
    /// Bytes of disk that they may take; 0 where nothing is spilled.
    pub spill_bound_bytes: u64,
    /// Why nothing more is spilled, if it is not.
    pub full: Option<String>,
}

impl BoundsStatus {
    fn of(daemon: &anabranch_speed::Daemon) -> Self {
        let used = daemon.delta_use();
        Self {
            memory_bytes: used.memory_bytes,
            memory_bound_bytes: used.memory_bound_bytes,
            spilled_bytes: used.spilled_bytes,
            spill_bound_bytes: used.spill_bound_bytes,
            full: daemon.spill_full(),
        }
    }

    /// It, for people.
    pub fn text(&self) -> String {
        let (used, bound) = (self.memory_bytes, self.memory_bound_bytes);
        let mut line = format!("memory {} of {}", human_bytes(used), human_bytes(bound));
        if self.spill_bound_bytes > 0 {
            let (used, bound) = (self.spilled_bytes, self.spill_bound_bytes);
            line += &format!("; spilled {} of {}", human_bytes(used), human_bytes(bound));
        }
        line
    }
}

impl DaemonStatus {
    /// Looks at a daemon's topics.
    pub fn of(daemon: &anabranch_speed::Daemon) -> Self {
        let sources = daemon.sources();
        let mut status = Self {
            kafka: sources
                .iter()
                .map(|(t, s)| (t.clone(), s.state()))
                .collect(),
            steps: daemon
                .steps()
                .iter()
                .map(|(t, s)| (t.clone(), s.state()))
                .collect(),
            bounds: BoundsStatus::of(daemon),
            untaken: daemon.untaken(),
            misfits: anabranch_shared::misfits(),
            noted: Some(daemon.noted()),
            wanted: daemon
                .wanted()
                .into_iter()
                .map(|(v, w)| (v, w.bytes))
                .collect(),
            ..Self::default()
        };
        for (topic, stream) in daemon.topics().iter() {
            status
                .intake
                .insert(topic.clone(), stream.writer().intake());
            let dedup = stream.dedup_status().map(|d| (topic.clone(), d));
            status.dedup.extend(dedup);
            let red = stream
                .writer()
                .too_many_dead()
                .map(|why| (topic.clone(), why));
            status.red.extend(red);
            let landing = stream.upkeep().trouble().map(|why| (topic.clone(), why));
            status.landing.extend(landing);
            stream.with_delta(|d| {
                status
                    .unlanded_facts
                    .insert(topic.clone(), d.unlanded.facts() as u64);
                let mut landed = Offsets::default();
                let own = d.lanes.keys().map(|p| (*p, d.upto.get(*p)));
                own.for_each(|(partition, offset)| landed.set(partition, offset));
                status.landed.insert(topic.clone(), landed);
                for (name, view) in &d.views {
                    let rows = view.states().iter().map(DeltaPart::rows).sum();
                    let delta = DeltaStatus {
                        states: rows,
                        bytes: view.size_bytes() as u64,
                        pieces: view.pieces.len() as u64,
                        spilled_bytes: view.spilled_bytes(),
                        failed: view.failed.clone(),
                    };
                    status.deltas.insert(name.clone(), delta);
                    let served = Served::of(view.master.generation(), &view.pin);
                    status.served.insert(name.clone(), served);
                }
            });
        }
        status
    }
}

impl DaemonStatus {
    /// Adds what another daemon knows. Each daemon folds all that has landed, so a view's delta is
    /// that of the first one, and only what went wrong is taken from others.
    pub fn add(&mut self, other: Self) {
        for (topic, facts) in other.unlanded_facts {
            *self.unlanded_facts.entry(topic).or_default() += facts;
        }
        for (topic, landed) in other.landed {
            let own = self.landed.entry(topic).or_default();
            landed.iter().for_each(|(p, offset)| own.set(p, offset));
        }
        for (view, delta) in other.deltas {
            let failed = delta.failed.clone();
            let own = self.deltas.entry(view).or_insert(delta);
            own.failed = own.failed.take().or(failed);
        }
        for (topic, state) in other.kafka {
            let own = self.kafka.entry(topic).or_default();
            own.partitions.extend(state.partitions);
            own.stopped = own.stopped.take().or(state.stopped);
            own.trouble = own.trouble.take().or(state.trouble);
            own.paused |= state.paused;
            own.refusals += state.refusals;
            own.group = state.group;
            own.partition_count = own.partition_count.max(state.partition_count);
            own.topic_id = own.topic_id.take().or(state.topic_id);
        }
        for (topic, state) in other.steps {
            match self.steps.get_mut(&topic) {
                Some(own) => own.add(state),
                None => drop(self.steps.insert(topic, state)),
            }
        }
        for (topic, count) in other.intake {
            self.intake.entry(topic).or_default().add(&count);
        }
        for (topic, dedup) in other.dedup {
            let own = self.dedup.entry(topic).or_insert(dedup);
            if dedup.is_shortened && !own.is_shortened {
                *own = dedup;
            }
        }
        self.red.extend(other.red);
        self.landing.extend(other.landing);
        self.wanted.extend(other.wanted);
        self.untaken.extend(other.untaken);
        self.ended_tasks.extend(other.ended_tasks);
        for (field, values) in other.misfits {
            *self.misfits.entry(field).or_default() += values;
        }
        self.bounds.full = self.bounds.full.take().or(other.bounds.full);
    }

    /// What needs somebody's attention, each under a name by which it is told once.
    pub fn notes(&self) -> BTreeMap<String, String> {
        let mut notes = BTreeMap::new();
        for (topic, why) in &self.landing {
            let note = format!("topic `{topic}`: {why}; nothing that was acknowledged is lost");
            notes.insert(format!("{topic} does not land"), note);
        }
        for (task, why) in &self.ended_tasks {
            let note = format!(
                "the task `{task}` of a daemon has ended, and what it did is not done any more: {why}; restart that daemon"
            );
            notes.insert(format!("task {task}"), note);
        }
        for (topic, why) in &self.red {
            notes.insert(format!("{topic} is red"), format!("topic `{topic}`: {why}"));
        }
        for (view, bytes) in &self.wanted {
            let why = why_asked(*bytes);
            let note = format!(
                "view `{view}`: a refresh is {why}; a running scheduler begins it, otherwise run `anabranch batch refresh {view}`"
            );
            notes.insert(format!("{view} wanted"), note);
        }
        for (topic, why) in &self.untaken {
            notes.insert(
                format!("{topic} untaken"),
                format!("{why}; it is tried again"),
            );
        }
        for (field, values) in &self.misfits {
            let note = format!(
                "field `{field}`: values in `_extra` of facts from before it was declared do not fit it and are read as NULL (met {values} times since the daemon started)"
            );
            notes.insert(format!("{field} misfits"), note);
        }
        if let Some(why) = &self.bounds.full {
            let note =
                format!("deltas stay in memory, and facts are refused once it is full: {why}");
            notes.insert("spill full".into(), note);
        }
        for (topic, dedup) in self.dedup.iter().filter(|(_, d)| d.is_shortened) {
            let note = format!(
                "topic `{topic}`: duplicates are known for {} s only, because the memory for their keys is full; raise `memory` in `[topics.{topic}.dedup]`",
                dedup.window_us / 1_000_000
            );
            notes.insert(format!("{topic} dedup"), note);
        }
        for (topic, state) in &self.kafka {
            let unread = state.unread();
            if state.stopped.is_none() && !unread.is_empty() {
                let unread: Vec<String> = unread.iter().map(i32::to_string).collect();
                let note = format!(
                    "topic `{topic}`: no daemon of this storage reads {} of Kafka's {} partitions: {}; others in the consumer group `{}` may have them, `partitions` may leave them out, or the group is about to give them",
                    unread.len(),
                    state.partition_count.unwrap_or(0),
                    unread.join(", "),
                    state.group
                );
                notes.insert(format!("{topic} unread"), note);
            }
            // Once or twice its coordinator was away.
            if state.refusals > 2 {
                let note = format!(
                    "topic `{topic}`: the consumer group `{}` refused this daemon {} times in ten minutes; if two daemons run on copies of one `wal` folder, give one a folder of its own, and restart it",
                    state.group, state.refusals
                );
                notes.insert(format!("{topic} refused"), note);
            }
            let what = match (&state.stopped, &state.trouble) {
                (Some(why), _) => format!("reading from Kafka has stopped: {why}"),
                (None, Some(why)) => {
                    format!("topic `{topic}`, Kafka: {why}; it is tried again")
                }
                (None, None) if state.paused => format!(
                    "topic `{topic}`: reading from Kafka pauses until facts have landed or been absorbed"
                ),
                (None, None) => continue,
            };
            notes.insert(format!("{topic} kafka"), what);
        }
        for (topic, state) in &self.steps {
            let step = &state.step;
            let what = match (&state.stopped, &state.trouble) {
                (Some(why), _) => format!("step `{step}` has stopped: {why}"),
                (None, Some(why)) => format!("step `{step}`: {why}; it is tried again"),
                (None, None) if state.paused => format!(
                    "step `{step}` pauses until facts of topic `{topic}` have landed or been absorbed"
                ),
                (None, None) => continue,
            };
            notes.insert(format!("{topic} step"), what);
        }
        notes
    }
}

/// What answers of a view are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The generation.
    pub generation: u64,
    /// For each partition the first offset that is not absorbed.
    pub boundary: String,
    /// What tells the files of the master view from others.
    pub files: u64,
}

impl Served {
    /// What a pin of a generation is made from.
    pub fn of(generation: Generation, pin: &MasterPin) -> Self {
        let mut paths: Vec<&str> = pin.files.iter().map(|f| f.path.as_str()).collect();
        paths.sort_unstable();
        let mut hash = DefaultHasher::new();
        paths.hash(&mut hash);
        Self {
            generation: generation.0,
            boundary: pin.boundary.to_string(),
            files: hash.finish(),
        }
    }
}

/// For people: why a refresh of a view is asked for.
pub fn why_asked(bytes: u64) -> String {
    match bytes {
        0 => "asked for by the daemon: no room for the delta".to_owned(),
        bytes => format!("asked for by the daemon: delta of {}", human_bytes(bytes)),
    }
}
