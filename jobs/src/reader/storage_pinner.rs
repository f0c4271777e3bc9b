//! Pins without a daemon: the delta is computed from the log and, where it lies on this machine,
//! from the WAL's unlanded rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anabranch_shared::view::fold_facts;
use anabranch_shared::{
    Error, Log, Master, Met, Moment, Named, Offsets, PartitionId, Pin, Pinner, Ranges, ReadMode,
    Relation, Result, Topic, TopicPin, ViewPin, with_references,
};
use anabranch_speed::{PlacedFacts, TopicStream, follow_log};
use async_trait::async_trait;

use crate::clock::now_ms;
use crate::project::context::Context;
use crate::reader::folding::following;
use crate::reader::past::Past;
use crate::reader::presence::{Address, wal_id};

/// How often a WAL is read anew because its daemon has landed meanwhile.
const WAL_TRIES: usize = 20;

/// Pins straight from the storage.
#[derive(Debug)]
pub struct LocalPinner {
    context: Context,
    past: Past,
    stop: Arc<AtomicBool>,
    /// Daemons that may hold facts which have not landed, and can't be asked.
    silent: Vec<Address>,
}

/// A topic's log and what of the local WAL has not landed.
struct Opened {
    log: Arc<Log>,
    /// Up to where facts are taken from the log.
    landed: Offsets,
    head: Offsets,
    unlanded: Vec<PlacedFacts>,
    /// The id of the WAL on this machine.
    wal: Option<String>,
}

impl LocalPinner {
    /// A pinner of a project.
    pub fn new(context: Context) -> Self {
        Self {
            past: Past::new(context.clone()),
            context,
            stop: Arc::default(),
            silent: Vec::new(),
        }
    }

    /// The same, naming in each answer the daemons that could not be asked, and from which offsets
    /// on their facts may be missing.
    pub fn missing(self, silent: Vec<Address>) -> Self {
        Self { silent, ..self }
    }

    /// What may be missing of a topic's facts, for people.
    fn missing_notes(&self, name: &str, topic: &Opened) -> Vec<String> {
        let mut notes = Vec::new();
        for address in self
            .silent
            .iter()
            .filter(|a| Some(&a.wal) != topic.wal.as_ref())
        {
            for partition in address.fills(name) {
                let landed = topic.head.get(partition);
                notes.push(address.missing_note(name, partition, landed));
            }
        }
        notes
    }

    /// The same, ending its folds early when `stop` is set.
    pub fn stopped_by(self, stop: &Arc<AtomicBool>) -> Self {
        let stop = stop.clone();
        Self { stop, ..self }
    }

    /// How many facts of the topic lie in this machine's WAL and have not landed.
    pub async fn unlanded(&self, topic: &str) -> Result<u64> {
        let opened = self.open_topic(topic).await?;
        let rows = opened.unlanded.iter().map(|p| p.facts.num_rows() as u64);
        Ok(rows.sum())
    }

    /// The partition of a topic that belongs to this machine's WAL.
    fn own_partition(&self, topic: &str, wal: Option<&str>) -> Option<PartitionId> {
        let entry = self.context.catalogue.current();
        let mut all = entry.topics.get(topic)?.partitions.iter();
        all.find(|(_, owner)| Some(owner.as_str()) == wal)
            .map(|(partition, _)| *partition)
    }

    async fn open_topic(&self, name: &str) -> Result<Opened> {
        let log = self.context.log(name).await?;
        let wal = wal_id(&self.context.project.daemon.wal)?;
        let mut own = self.own_partition(name, wal.as_deref());
        if own.is_none() && wal.is_some() {
            let (root, topic) = (self.context.project.daemon.wal.clone(), name.to_owned());
            let unclaimed =
                anabranch_shared::blocking(move || TopicStream::check_unclaimed(&root, &topic));
            if let Err(e) = unclaimed.await {
                // A daemon may have claimed its partition a moment ago.
                self.context.catalogue.refresh().await?;
                own = self.own_partition(name, wal.as_deref());
                own.ok_or(e)?;
            }
        }
        let unlanded = match own {
            Some(partition) => self.read_wal(&log, partition).await?,
            None => Vec::new(),
        };
        let landed = log.head();
        let mut head = landed.clone();
        unlanded
            .iter()
            .for_each(|p| head.raise(p.partition, p.range.end));
        Ok(Opened {
            log,
            landed,
            head,
            unlanded,
            wal,
        })
    }

    /// What of this machine's WAL has not landed, from where the log ends.
    async fn read_wal(&self, log: &Log, partition: PartitionId) -> Result<Vec<PlacedFacts>> {
        for _ in 0..WAL_TRIES {
            let landed = log.head().get(partition);
            let (root, topic) = (self.context.project.daemon.wal.clone(), log.topic());
            let unlanded = anabranch_shared::blocking(move || {
                TopicStream::read_unlanded(&root, &topic, partition, landed)
            })
            .await?;
            log.refresh().await?;
            // A daemon cuts its WAL when it has landed, so what was read may lack its beginning.
            if log.head().get(partition) != landed {
                continue;
            }
            let start = unlanded.first().map_or(landed, |p| p.range.start);
            if start != landed {
                return Err(Error::Corrupt(format!(
                    "the WAL of topic `{}` starts at offset {start}, the log ends at {landed}: it belongs to another storage or lost files",
                    log.name()
                )));
            }
            let (end, synced) = (
                unlanded.last().map_or(landed, |p| p.range.end),
                log.synced(partition),
            );
            if end < synced {
                return Err(Error::Corrupt(format!(
                    "the WAL of topic `{}` ends at offset {end}, and reached {synced} when facts last landed: a segment was lost; restore it",
                    log.topic().name
                )));
            }
            return Ok(unlanded);
        }
        Err(Error::Unavailable(format!(
            "topic `{}`: a daemon lands faster than its WAL can be read beside it; try again, or ask the daemon",
            log.name()
        )))
    }

    async fn pin_view(
        &self,
        master: &Arc<Master>,
        topic: &Opened,
        mode: ReadMode,
    ) -> Result<ViewPin> {
        let pin = master.pin();
        let mut view = ViewPin {
            view: master.view().clone(),
            generation: master.generation(),
            head: pin.boundary.clone(),
            boundary: pin.boundary,
            root: master.table().root().clone(),
            files: pin.files,
            delta: Vec::new(),
            met: Met::default(),
        };
        if mode == ReadMode::Batch {
            return Ok(view);
        }
        if view.boundary.covers(&topic.landed) && topic.unlanded.is_empty() {
            // Nothing is folded, so no references are read either.
            view.head = topic.head.clone();
            return Ok(view);
        }
        let query = &self.context.project.query;
        let share = usize::try_from(query.memory_bytes / 4).unwrap_or(usize::MAX);
        let following = following(&self.context, share, &self.stop)?;
        let bound = with_references(&self.context.storage, master.view(), now_ms()).await?;
        let (from, to) = (&view.boundary, &topic.landed);
        let pieces = follow_log(&topic.log, master, from, to, &following).await?;
        view.delta = pieces.iter().flat_map(|p| p.parts.clone()).collect();
        pieces.iter().for_each(|p| view.met.extend(&p.met));
        let facts: Vec<_> = topic.unlanded.iter().map(|p| p.facts.clone()).collect();
        if !facts.is_empty() {
            view.delta.push(fold_facts(&bound, &facts)?.into());
            let ranges: Ranges = topic.landed.ranges_to(&topic.head);
            view.met.extend(&Met::of(&ranges, bound.at()));
        }
        view.head = topic.head.clone();
        Ok(view)
    }

    async fn open_master(&self, named: &Named<'_>) -> Result<Arc<Master>> {
        let view = self.context.generation_view(named)?;
        let generation = named.entry.generation;
        let master = Master::open(&self.context.storage, &view, generation, now_ms()).await?;
        Ok(Arc::new(master))
    }
}

fn pin_topic(topic: &Opened) -> Result<TopicPin> {
    let (log, landed) = (&topic.log, &topic.landed);
    let (low, files) = log.kept_files(landed)?;
    Ok(TopicPin {
        topic: Topic::clone(&log.topic()),
        head: topic.head.clone(),
        root: log.table().root().clone(),
        files,
        memory: topic.unlanded.iter().map(|p| p.facts.clone()).collect(),
        dead_root: log.dead_letters().root().clone(),
        dead_files: log.dead_letter_files_between(&low, landed)?,
        low,
        dead_memory: topic
            .unlanded
            .iter()
            .filter_map(|p| p.dead.clone())
            .collect(),
    })
}

#[async_trait]
impl Pinner for LocalPinner {
    async fn relations(&self) -> Result<Vec<Relation>> {
        self.context.catalogue.refresh().await?;
        let entry = self.context.catalogue.current();
        let mut relations = Vec::new();
        for (name, topic) in &entry.topics {
            let schema = topic.topic.schema();
            relations.push(Relation {
                name: name.clone(),
                kind: "topic",
                schema,
                view: None,
            });
        }
        for named in entry.generations() {
            let name = named.relation();
            let view = match self.context.generation_view(&named) {
                Ok(view) => view,
                // Whoever asks it is told why; the others are listed all the same.
                Err(e) => {
                    tracing::warn!(view = %name, error = %e, "a view is not listed");
                    continue;
                }
            };
            relations.push(Relation {
                name,
                kind: "view",
                schema: view.schema(),
                view: Some(view),
            });
        }
        relations.extend(self.context.relations());
        Ok(relations)
    }

    async fn pin_at(&self, names: &[String], moment: &Moment) -> Result<Pin> {
        self.past.pin(names, moment, self).await
    }

    async fn pin(&self, names: &[String], mode: ReadMode) -> Result<Pin> {
        self.context.catalogue.refresh().await?;
        self.context.check_answers(names)?;
        let entry = self.context.catalogue.current();
        let mut pin = Pin::default();
        // Boundaries are read before heads, so that no head is below a boundary.
        let mut masters = Vec::new();
        for name in names {
            if let Some(named) = entry.named(name) {
                masters.push((name.clone(), self.open_master(&named).await?));
            }
        }
        let dead = names.iter().any(|n| n == "dead_letters");
        let mut wanted: BTreeSet<&String> = entry
            .topics
            .keys()
            .filter(|t| dead || names.contains(t))
            .collect();
        wanted.extend(masters.iter().map(|(_, m)| &m.view().topic().name));
        let mut topics = BTreeMap::new();
        for name in wanted {
            topics.insert(name.clone(), self.open_topic(name).await?);
        }
        for (name, master) in &masters {
            if let Some(topic) = topics.get(&master.view().topic().name) {
                pin.views
                    .insert(name.clone(), self.pin_view(master, topic, mode).await?);
            }
        }
        for (name, topic) in &topics {
            if dead || names.contains(name) {
                pin.topics.insert(name.clone(), pin_topic(topic)?);
            }
        }
        self.context.pin(names, &mut pin).await?;
        pin.notes = self.context.notes_of(names);
        if mode == ReadMode::Merged {
            let missing = topics.iter().flat_map(|(n, t)| self.missing_notes(n, t));
            pin.notes.extend(missing);
        }
        Ok(pin)
    }
}
