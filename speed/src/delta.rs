//! Deltas: the states of what the master views have not absorbed, as immutable pieces. Owns which
//! pieces there are and that they reach without a gap from each boundary to the head.

pub(crate) mod bounds;
pub(crate) mod fold_landed;
mod piece;
pub(crate) mod pressure;
pub(crate) mod recently_landed;
pub(crate) mod unlanded;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anabranch_shared::view::{Fold, View, fold_facts};
use anabranch_shared::{
    DeltaPart, Error, ErrorKind, HeldMutex, Log, Master, MasterPin, Met, Offset, OffsetRange,
    Offsets, PartitionId, Ranges, Result, join_ranges, planted,
};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMicrosecondType;

pub use self::folded::{Folded, Run};
use crate::delta::fold_landed::{Following, follow_log};
pub use crate::delta::piece::StatePiece;
pub(crate) use crate::delta::piece::of_view;
use crate::delta::recently_landed::RecentlyLanded;
use crate::delta::unlanded::Unlanded;
use crate::intake::payload::PlacedFacts;

mod folded;

/// What was taken out of a delta. To free it takes long where it is large, so it is dropped once the
/// delta's lock is not held any more.
pub(crate) type Removed = Vec<Arc<dyn Any + Send + Sync>>;

/// Adds what was taken out to the rest of it.
fn put_aside<T: Any + Send + Sync>(removed: &mut Removed, taken: Vec<Arc<T>>) {
    removed.extend(taken.into_iter().map(|t| t as Arc<dyn Any + Send + Sync>));
}

/// The delta of one view.
///
/// Invariant: `pieces` hold every offset of `[pin.boundary, upto)` of the topic once and none
/// other; `unlanded` holds some of the topic's unlanded facts once and none other, and knows which
/// by their numbers. Both are empty once the view has failed.
#[derive(Clone, Debug)]
pub struct ViewDelta {
    /// The master view.
    pub master: Arc<Master>,
    /// What of the master view answers.
    pub pin: MasterPin,
    /// States of landed offsets.
    pub pieces: Vec<Arc<StatePiece>>,
    /// States of facts that have not landed.
    pub unlanded: Folded,
    /// Why the view can't answer: its SQL failed on a fact.
    pub failed: Option<String>,
    /// Whether that is because retention has removed what its generation needs, which is none that
    /// answers any more: the next one is about to be served.
    pub superseded: bool,
}

impl ViewDelta {
    /// The view's states from its boundary on.
    pub fn states(&self) -> Vec<DeltaPart> {
        let landed = self.pieces.iter().flat_map(|p| p.parts.iter().cloned());
        let unlanded = self.unlanded.states().cloned().map(DeltaPart::from);
        landed.chain(unlanded).collect()
    }

    /// Which rows of references the facts met that are in the states: those that have landed, and, up to
    /// where `lanes` end, those that have not.
    pub(crate) fn met(
        &self,
        lanes: impl Iterator<Item = (PartitionId, Offset)>,
        upto: &Offsets,
    ) -> Met {
        let mut met = Met::default();
        self.pieces.iter().for_each(|piece| met.extend(&piece.met));
        let unlanded = lanes.map(|(p, end)| (p, OffsetRange::new(upto.get(p), end)));
        let unlanded: Ranges = unlanded.filter(|(_, range)| !range.is_empty()).collect();
        met.extend(&Met::of(&unlanded, self.unlanded.at()));
        met
    }

    /// Stops answering, because the view's SQL failed on a fact. What is kept of the delta is of no
    /// use any more, and is returned.
    #[must_use = "it is dropped once the delta's lock is not held"]
    pub(crate) fn fail(&mut self, e: &Error) -> Removed {
        if self.failed.is_none() {
            tracing::error!(view = %self.master.view().name(), error = %e, "the view does not answer any more");
            self.failed = Some(e.to_string());
        }
        let mut removed = Removed::new();
        put_aside(&mut removed, std::mem::take(&mut self.pieces));
        put_aside(&mut removed, self.unlanded.take());
        removed
    }

    /// Bytes of memory of landed states: those that may be spilled.
    pub fn landed_bytes(&self) -> usize {
        self.pieces.iter().map(|p| p.bytes).sum()
    }

    /// Bytes of memory of the pieces that do not stay as they are with a new boundary.
    pub(crate) fn bytes_not_above(&self, boundary: &Offsets) -> usize {
        let gone = self.pieces.iter().filter(|p| !p.is_above(boundary));
        gone.map(|p| p.bytes).sum()
    }

    /// Bytes of disk.
    pub fn spilled_bytes(&self) -> u64 {
        self.pieces.iter().map(|p| p.spilled_bytes).sum()
    }

    /// Bytes of memory.
    pub fn size_bytes(&self) -> usize {
        self.landed_bytes() + self.unlanded.bytes()
    }
}

/// What a topic's daemon keeps in memory.
///
/// Invariant: the pieces of `unlanded` that are of one partition follow each other without a gap
/// from `upto` to `lanes`.
///
/// Its lock is the last one that anybody takes who holds others, as [`crate::TopicStream`] lists
/// them; nothing is folded, merged, read, written or freed under it. What takes time is done on
/// what was cloned under the lock, and becomes part of the delta only where that has stayed what it
/// was: facts by their numbers and `numbering`, pieces and runs by their addresses.
#[derive(Debug, Default)]
pub struct TopicDelta {
    /// Facts that are visible and not yet in the log.
    pub unlanded: Unlanded,
    /// For each partition that this daemon fills, the first offset that is not visible.
    pub lanes: BTreeMap<PartitionId, Offset>,
    /// For each partition up to where landed facts are in the pieces.
    pub upto: Offsets,
    /// The deltas of the topic's views.
    pub views: BTreeMap<String, ViewDelta>,
    /// Facts that have landed a moment ago, and when, for daemons that have not followed yet.
    pub recently_landed: RecentlyLanded,
    /// Counts how often the pieces of `unlanded` got other numbers, so that what was folded by their
    /// former ones is not used.
    pub numbering: u64,
    /// The number at which the facts end that are landing, so that what is folded of them is kept
    /// apart from what is folded of the others, and outlives them.
    pub landing_end: u64,
}

/// What became of the unlanded facts when they landed.
#[derive(Debug)]
pub struct Landed {
    /// Those that this daemon did not hold any more, because it gave up their partition while they
    /// landed.
    pub given_up: Vec<Arc<PlacedFacts>>,
    /// What is not needed any more; dropped once the delta's lock is not held.
    pub(crate) removed: Removed,
}

/// What became of the unlanded facts when the log was followed.
#[derive(Debug)]
pub struct Followed {
    /// The lanes that went back to where the landed facts end.
    pub back: Vec<PartitionId>,
    /// The pieces of facts that are not unlanded any more: they have landed, or their source has
    /// to give them again.
    pub removed: Vec<Arc<PlacedFacts>>,
    /// What is not needed any more; dropped once the delta's lock is not held.
    pub(crate) unneeded: Removed,
}

impl TopicDelta {
    /// Adds facts that are durable. Returns whether they are where the lane goes on: otherwise
    /// nothing is added, and their source has to go to where it does.
    pub fn push(&mut self, piece: PlacedFacts) -> bool {
        match self.lanes.get_mut(&piece.partition) {
            Some(next) if *next == piece.range.start => *next = piece.range.end,
            _ => return false,
        }
        self.unlanded.push(Arc::new(piece));
        true
    }

    /// For each partition the first offset that is not visible.
    pub fn head(&self) -> Offsets {
        let mut head = self.upto.clone();
        self.lanes
            .iter()
            .for_each(|(p, next)| head.raise(*p, *next));
        head
    }

    /// Removes the pieces of facts that have landed, which are of `ranges`, and adds their states.
    pub(crate) fn landed(
        &mut self,
        pieces: &[Arc<PlacedFacts>],
        ranges: &Ranges,
        states: Vec<(String, Result<Arc<StatePiece>>)>,
    ) -> Landed {
        let given_up = self.unlanded.remove_landed(pieces);
        ranges.iter().for_each(|(p, r)| self.upto.raise(*p, r.end));
        let (start, mut removed) = (self.unlanded.start(), Removed::new());
        if !planted("planted-states-of-landed-kept") {
            for view in self.views.values_mut() {
                put_aside(&mut removed, view.unlanded.remove_below(start));
            }
        }
        for (name, states) in states {
            let Some(view) = self.views.get_mut(&name) else {
                continue;
            };
            match states {
                _ if view.failed.is_some() => {}
                Ok(piece) => view.pieces.push(piece),
                Err(e) => removed.extend(view.fail(&e)),
            }
        }
        Landed { given_up, removed }
    }

    /// Notes that landed facts up to `head` are in the pieces, whoever landed them. Facts of this
    /// daemon that are among them have landed; a lane that holds more than they, from another
    /// point on, goes back to where they end.
    pub fn followed(&mut self, head: &Offsets) -> Followed {
        let gone_on = |p: &PartitionId| head.get(*p) > self.upto.get(*p);
        let gone_on = self.lanes.iter().filter(|(p, _)| gone_on(p));
        let (mut back, mut within) = (BTreeSet::new(), BTreeSet::new());
        for (p, next) in gone_on {
            match *next < head.get(*p) {
                true => back.insert(*p),
                false => within.insert(*p),
            };
        }
        if !within.is_empty() {
            let split = |p: &&Arc<PlacedFacts>| {
                within.contains(&p.partition) && p.splits_at(head.get(p.partition))
            };
            back.extend(self.unlanded.iter().filter(split).map(|p| p.partition));
        }
        for (partition, next) in &mut self.lanes {
            if back.contains(partition) {
                *next = head.get(*partition);
            }
        }
        let removed = self
            .unlanded
            .remove_where(|p| p.range.end <= head.get(p.partition) || back.contains(&p.partition));
        head.iter().for_each(|(p, end)| self.upto.raise(p, end));
        let unneeded = match removed.is_empty() {
            // What others have landed is none of what the views have folded.
            true => Removed::new(),
            false => self.renumber(),
        };
        Followed {
            back: back.into_iter().collect(),
            removed,
            unneeded,
        }
    }

    /// Whether an offset is inside a piece of facts that have not landed.
    pub(crate) fn splits_piece(&self, partition: PartitionId, at: Offset) -> bool {
        let mut pieces = self.unlanded.iter();
        pieces.any(|p| p.partition == partition && p.splits_at(at))
    }

    /// Begins to fill a partition from where its landed facts end.
    pub fn take_lane(&mut self, partition: PartitionId) -> Offset {
        let next = self.upto.get(partition);
        *self.lanes.entry(partition).or_insert(next)
    }

    /// Ends to fill a partition: facts of it that have not landed are somebody else's to bring.
    /// Returns them, and what is not needed any more.
    pub(crate) fn leave_lane(
        &mut self,
        partition: PartitionId,
    ) -> (Vec<Arc<PlacedFacts>>, Removed) {
        if planted("planted-lane-kept") {
            self.lanes.remove(&partition);
            return Default::default();
        }
        if self.lanes.remove(&partition).is_none() || !self.unlanded.holds(partition) {
            return Default::default();
        }
        let removed = self.unlanded.remove_where(|p| p.partition == partition);
        (removed, self.renumber())
    }

    /// Pieces were taken out of the middle: what views have folded of facts that have not landed is
    /// not to be used any more, because it may be of those.
    fn renumber(&mut self) -> Removed {
        self.numbering += 1;
        self.landing_end = self.unlanded.start();
        let mut removed = Removed::new();
        for view in self.views.values_mut() {
            put_aside(&mut removed, view.unlanded.take());
        }
        removed
    }

    /// Bytes of memory.
    pub fn size_bytes(&self) -> usize {
        let views = self.views.values().map(ViewDelta::size_bytes);
        self.unlanded.bytes() + self.recently_landed.bytes() + views.sum::<usize>()
    }
}

/// The states of pieces of facts.
pub(crate) fn fold_pieces(view: &Arc<View>, pieces: &[Arc<PlacedFacts>]) -> Result<RecordBatch> {
    of_view(view.name(), || fold(view, pieces))
}

fn fold(view: &Arc<View>, pieces: &[Arc<PlacedFacts>]) -> Result<RecordBatch> {
    fail::fail_point!(&format!("fold-of-{}", view.name()));
    let mut facts: Vec<RecordBatch> = pieces.iter().map(|p| p.facts.clone()).collect();
    if planted("planted-late-fact-dropped") {
        for batch in &mut facts {
            let time = view.topic().event_time.as_str();
            let times = batch
                .column_by_name(time)
                .ok_or_else(|| Error::Internal(time.into()))?;
            let times = times.as_primitive::<TimestampMicrosecondType>();
            let newest = times.values().iter().max().copied().unwrap_or(0);
            let in_time = times
                .values()
                .iter()
                .map(|t| Some(t + 86_400_000_000 > newest));
            *batch = filter_record_batch(batch, &in_time.collect::<BooleanArray>())?;
        }
    }
    fold_facts(view, &facts)
}

/// Makes the states of a view's unlanded facts up to number `target`, as far as there are none.
/// Works outside the lock; gives up its work where the facts have landed or got other numbers
/// meanwhile, or somebody else has made the states, and looks again what there is to do.
pub(crate) fn fold_unlanded(delta: &HeldMutex<TopicDelta>, view: &str, target: u64) {
    loop {
        let (numbering, gap, master, pieces) = {
            let topic = delta.lock();
            let Some(found) = topic.views.get(view).filter(|v| v.failed.is_none()) else {
                return;
            };
            let (start, end) = (topic.unlanded.start(), topic.unlanded.end().min(target));
            let Some(gap) = found.unlanded.gap(start, end, topic.landing_end) else {
                return;
            };
            let pieces: Vec<_> = topic.unlanded.between(gap.0, gap.1).cloned().collect();
            (topic.numbering, gap, found.master.clone(), pieces)
        };
        let run = master.view().now().and_then(|view| {
            let states = fold_pieces(&view, &pieces)?;
            Ok((Run::new(gap, states), view))
        });
        let mut topic = delta.lock();
        let is_unlanded = topic.numbering == numbering && topic.unlanded.start() <= gap.0;
        let Some(found) = topic.views.get_mut(view) else {
            return;
        };
        if !is_unlanded || found.failed.is_some() || !Arc::ptr_eq(&found.master, &master) {
            continue;
        }
        match run {
            // References went on meanwhile: the facts meet their newer rows.
            Ok((_, view)) if !is_newest(&view, &master) => {}
            Ok((run, view)) => {
                let before = found.unlanded.meet(view.at());
                found.unlanded.add(run);
                let mut removed = Removed::new();
                put_aside(&mut removed, before);
                drop(topic);
                drop(removed);
            }
            Err(e) => {
                let removed = found.fail(&e);
                drop(topic);
                drop(removed);
                return;
            }
        }
    }
}

/// Whether a view is bound to the newest rows of its references.
fn is_newest(view: &Arc<View>, master: &Arc<Master>) -> bool {
    master
        .view()
        .now()
        .is_ok_and(|newest| newest.at() == view.at())
}

/// Merges some of a view's unlanded states where they are more than `most` runs. Works outside the lock; gives up its
/// work where some of them have landed meanwhile.
pub(crate) fn merge_unlanded(delta: &HeldMutex<TopicDelta>, view: &str, most: usize) {
    let (master, runs) = {
        let topic = delta.lock();
        let Some(found) = topic.views.get(view) else {
            return;
        };
        let runs = found.unlanded.to_merge(most, topic.landing_end);
        (found.master.clone(), runs)
    };
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
        return;
    };
    let merged = of_view(view, || {
        fail::fail_point!(&format!("merge-of-{view}"));
        let mut fold = Fold::new(master.view())?;
        let lost = usize::from(planted("planted-run-lost-in-merge"));
        let kept = runs.iter().skip(lost);
        kept.map(|r| &r.states).try_for_each(|s| fold.states(s))?;
        Ok(Run::new((first.from, last.to), fold.into_states()?))
    });
    let mut topic = delta.lock();
    let Some(found) = topic.views.get_mut(view) else {
        return;
    };
    let mut removed = Removed::new();
    match merged {
        // Runs that are still there are of this master view, and of facts of the same numbers.
        Ok(run) => put_aside(&mut removed, found.unlanded.replace(&runs, run)),
        Err(e) if Arc::ptr_eq(&found.master, &master) => removed = found.fail(&e),
        Err(_) => {}
    }
    drop(topic);
    drop(removed);
}

/// A view's pieces above a new boundary. Pieces that it cuts through are read from the log again.
pub(crate) async fn above_boundary(
    log: &Arc<Log>,
    view: &ViewDelta,
    boundary: &Offsets,
    following: &Following,
) -> Result<Vec<Arc<StatePiece>>> {
    let mut kept = Vec::new();
    for piece in &view.pieces {
        if piece.is_below(boundary) {
            if planted("planted-piece-after-its-boundary") {
                kept.push(piece.clone());
            }
            if planted("planted-spilled-file-removed-at-once") {
                remove_files(piece);
            }
            continue;
        }
        if piece.is_above(boundary) || planted("planted-straddled-piece-kept") {
            kept.push(piece.clone());
            continue;
        }
        for (partition, range) in &piece.ranges {
            let start = range.start.max(boundary.get(*partition));
            let from: Offsets = [(*partition, start)].into_iter().collect();
            let to: Offsets = [(*partition, range.end)].into_iter().collect();
            kept.extend(follow_log(log, &view.master, &from, &to, following).await?);
        }
    }
    Ok(kept)
}

/// Whether an error comes from what a view computes, so that trying again gives it again.
pub(crate) fn is_of_view(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Invalid | ErrorKind::Internal)
}

/// Removes the files of a piece that a query may still read: a planted bug.
fn remove_files(piece: &StatePiece) {
    for part in &piece.parts {
        if let DeltaPart::Spilled(file) = part {
            std::fs::remove_file(file.path()).ok();
        }
    }
}

/// Merges the smaller ones of a view's pieces in memory where there are more than `most`, as far
/// as they have no more than `most_bytes` together: a merge takes about as much memory again.
pub(crate) fn merge_pieces(
    view: &ViewDelta,
    most: usize,
    most_bytes: usize,
) -> Result<Option<Vec<Arc<StatePiece>>>> {
    let (mut by_size, mut kept): (Vec<_>, Vec<_>) =
        view.pieces.iter().cloned().partition(|p| p.is_in_memory());
    if by_size.len() <= most.max(2) {
        return Ok(None);
    }
    by_size.sort_by_key(|p| p.rows);
    let mut bytes = 0;
    let fits = by_size.iter().take_while(|p| {
        bytes += p.bytes;
        bytes <= most_bytes
    });
    let merged = fits.count().min(by_size.len() * 3 / 4);
    if merged < 2 {
        return Ok(None);
    }
    kept.extend(by_size.split_off(merged));
    if planted("planted-piece-lost-in-merge") {
        by_size.pop();
    }
    let mut fold = Fold::new(view.master.view())?;
    let (mut ranges, mut met) = (Ranges::new(), Met::default());
    for piece in &by_size {
        for part in &piece.parts {
            if let DeltaPart::Memory(states) = part {
                fold.states(states)?;
            }
        }
        ranges.extend(piece.ranges.iter().copied());
        if !planted("planted-met-lost-in-merge") {
            met.extend(&piece.met);
        }
    }
    let states = fold.into_states()?;
    kept.push(StatePiece::new(
        join_ranges(ranges),
        vec![states.into()],
        met,
    ));
    Ok(Some(kept))
}

/// Refuses an answer that would leave something out.
pub(crate) fn check_no_gap(name: &str, view: &ViewDelta, upto: &Offsets) -> Result<()> {
    match upto.covers(&view.pin.boundary) {
        true => Ok(()),
        false => Err(Error::Unavailable(format!(
            "view `{name}`: its boundary [{}] is past what the daemon has followed [{upto}]; try again",
            view.pin.boundary
        ))),
    }
}
