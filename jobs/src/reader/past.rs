//! Answers of a moment that has passed: of a master view the runs that lie below it, and what is left
//! folded anew from the log. Views are those of now, by the definitions of now; what has not landed yet
//! has no past.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_shared::{
    DeltaPart, Error, Log, Master, Met, Moment, Offsets, Pin, Pinner, Ranges, ReadMode, Result,
    Topic, TopicPin, ViewPin, admissions, counted,
};
use anabranch_speed::{Following, follow_log};
use chrono::TimeDelta;
use tokio::sync::Semaphore;

use crate::clock::now_ms;
use crate::project::context::Context;
use crate::reader::folding::following;

/// So long after a time facts that were received by then may still find their places.
const SETTLED: TimeDelta = TimeDelta::seconds(5);

/// What one answer of the past may hold in memory of what was folded for it, of `[query] memory`; the
/// rest is spilled.
const SHARE: u64 = 16;

/// Pins of moments that have passed.
#[derive(Debug)]
pub(crate) struct Past {
    context: Context,
    /// One at a time folds facts anew: it takes all the threads that it may.
    turn: Semaphore,
}

/// Ends a fold that nobody waits for any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Past {
    pub(crate) fn new(context: Context) -> Self {
        let turn = Semaphore::new(1);
        Self { context, turn }
    }

    /// Pins relations as they were. `now` knows what has not landed.
    ///
    /// # Errors
    /// As [`Pinner::pin_at`].
    pub(crate) async fn pin(
        &self,
        names: &[String],
        moment: &Moment,
        now: &dyn Pinner,
    ) -> Result<Pin> {
        let tables = self.context.relations();
        if let Some(table) = tables.iter().find(|table| names.contains(&table.name)) {
            return Err(Error::Invalid(format!(
                "`{}` is there as it is now alone; topics, views and references are read as of a moment",
                table.name
            )));
        }
        if let Moment::Time(at) = moment {
            let passed = self.context.storage.wall().now() - *at;
            if passed < TimeDelta::zero() {
                return Err(Error::Invalid(format!("{moment} is yet to come")));
            }
            let unsettled = (SETTLED - passed).to_std().unwrap_or_default();
            tokio::time::sleep(unsettled).await;
        }
        self.context.catalogue.refresh().await?;
        self.context.check_answers(names)?;
        let entry = self.context.catalogue.current();
        let mut masters = Vec::new();
        for name in names {
            if let Some(named) = entry.named(name) {
                let view = self.context.generation_view(&named)?;
                let generation = named.entry.generation;
                let master =
                    Master::open(&self.context.storage, &view, generation, now_ms()).await?;
                masters.push((name, Arc::new(master)));
            }
        }
        let of_views = masters.iter().map(|(_, m)| m.view().topic().name.clone());
        let mut topics: BTreeSet<String> = of_views.collect();
        topics.extend(
            names
                .iter()
                .filter(|n| entry.topics.contains_key(*n))
                .cloned(),
        );
        // Known before the logs are read, so that nothing lands unseen in between.
        let topics: Vec<String> = topics.into_iter().collect();
        let held = match moment.heads() {
            None => now.pin(&topics, ReadMode::Merged).await?,
            // A place that has not landed is known by the log alone.
            Some(_) => Pin::default(),
        };
        let mut pin = Pin {
            notes: held.notes.clone(),
            ..Pin::default()
        };
        let mut logs = BTreeMap::new();
        for name in &topics {
            let log = self.context.log(name).await?;
            let at = place(&log, moment, held.topics.get(name)).await?;
            logs.insert(name.clone(), (log, at));
        }
        for (name, master) in &masters {
            if let Some((log, at)) = logs.get(&master.view().topic().name) {
                let (view, note) = self.pin_view(master, log, at).await?;
                pin.notes.extend(note);
                pin.views.insert((*name).clone(), view);
            }
        }
        for (name, (log, at)) in &logs {
            if names.contains(name) {
                pin.topics.insert(name.clone(), pin_topic(log, at)?);
            }
        }
        Ok(pin)
    }

    /// A view as it was, and what that took, for people.
    async fn pin_view(
        &self,
        master: &Arc<Master>,
        log: &Arc<Log>,
        at: &Offsets,
    ) -> Result<(ViewPin, Option<String>)> {
        let name = master.view().name();
        let cut = Cut::of(master, at)?;
        let count = cut.left();
        if count == 0 {
            return Ok((cut.view, None));
        }
        let facts = counted(count, "fact", "facts");
        let boundary = &cut.view.boundary;
        let most = self.context.project.query.as_of_facts;
        if count > most {
            return Err(Error::NoRoom(format!(
                "view `{name}`: {facts} would be folded anew, more than `as_of_facts` in `[query]` ({most}); ask where states end, such as [{boundary}], or raise it"
            )));
        }
        if !master.view().references().is_empty() {
            return Err(Error::Invalid(format!(
                "view `{name}` joins references, and of {facts} no states are there that end where the answer is to end: which rows they met then is not known; ask where a run of it ends, such as [{boundary}]"
            )));
        }
        let ended = || Error::Unavailable("this process is ending".to_owned());
        let _turn = self.turn.acquire().await.map_err(|_| ended())?;
        let stop = StopOnDrop(Arc::default());
        let memory = self.context.project.query.memory_bytes / SHARE;
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        let following = following(&self.context, memory, &stop.0)?;
        let view = cut.folded(master, log, &following).await?;
        Ok((view, Some(format!("{facts} of `{name}` were folded anew"))))
    }
}

/// A view cut at a place in its topic's log: the states that end before it.
#[derive(Debug)]
pub struct Cut {
    view: ViewPin,
    /// Of these facts there are no such states.
    left: Ranges,
}

impl Cut {
    /// A master view, as it is known, cut at a place.
    ///
    /// # Errors
    /// `Corrupt` for a file that another writer added.
    pub fn of(master: &Master, at: &Offsets) -> Result<Self> {
        let (files, left) = master.pin().below(at)?;
        let mut boundary = at.clone();
        for (partition, range) in &left {
            boundary.lower(*partition, range.start);
        }
        let view = ViewPin {
            view: master.view().clone(),
            generation: master.generation(),
            boundary,
            head: at.clone(),
            root: master.table().root().clone(),
            files,
            delta: Vec::new(),
            met: Met::default(),
        };
        Ok(Self { view, left })
    }

    /// How many facts have no states that end before the place.
    pub fn left(&self) -> u64 {
        self.left.iter().map(|(_, range)| range.len()).sum()
    }

    /// The whole view as it was there, for which those are folded anew.
    ///
    /// # Errors
    /// Those of the storage; `BelowLow` where retention has removed such facts.
    pub async fn folded(
        mut self,
        master: &Arc<Master>,
        log: &Arc<Log>,
        following: &Following,
    ) -> Result<ViewPin> {
        let mut parts: Vec<DeltaPart> = Vec::new();
        for (partition, range) in self.left {
            let (mut from, mut to) = (self.view.head.clone(), self.view.head.clone());
            from.set(partition, range.start);
            to.set(partition, range.end);
            let pieces = follow_log(log, master, &from, &to, following).await?;
            parts.extend(pieces.iter().flat_map(|piece| piece.parts.clone()));
        }
        self.view.delta = parts;
        Ok(self.view)
    }
}

/// Where a topic stood.
async fn place(log: &Log, moment: &Moment, held: Option<&TopicPin>) -> Result<Offsets> {
    let name = log.name();
    if let Some(heads) = moment.heads() {
        let at = heads.get(name).ok_or_else(|| {
            Error::Invalid(format!(
                "the answer reads topic `{name}` too, of which no place is named; add `{name}:PARTITION:OFFSET` for each partition"
            ))
        })?;
        let (low, head) = (log.low(), log.head());
        if !head.covers(at) {
            return Err(Error::Unavailable(format!(
                "topic `{name}`: facts up to [{at}] are wanted, and up to [{head}] they have landed; ask again once they have"
            )));
        }
        if !at.covers(&low) {
            return Err(Error::Invalid(format!(
                "topic `{name}`: retention has removed the facts below [{low}], among them some that were there at [{at}]"
            )));
        }
        return Ok(at.clone());
    }
    let at_us = moment
        .time()
        .map_or(i64::MAX, |time| time.timestamp_micros());
    let landed = log.head();
    let unlanded = held.map_or(&[][..], |held| &held.memory);
    for batch in unlanded {
        let mut admitted = admissions(batch)?.into_iter();
        if admitted.any(|(p, offset, us)| offset >= landed.get(p) && us <= at_us) {
            return Err(Error::Unavailable(format!(
                "topic `{name}`: facts that were there at {moment} have not landed yet; ask again once they have (`land_every` in `[daemon]`)"
            )));
        }
    }
    log.admitted_by(at_us).await
}

fn pin_topic(log: &Log, at: &Offsets) -> Result<TopicPin> {
    let (low, files) = log.kept_files(at)?;
    Ok(TopicPin {
        topic: Topic::clone(&log.topic()),
        head: at.clone(),
        root: log.table().root().clone(),
        files,
        memory: Vec::new(),
        dead_root: log.dead_letters().root().clone(),
        dead_files: Vec::new(),
        low,
        dead_memory: Vec::new(),
    })
}
