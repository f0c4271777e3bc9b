//! States of landed facts, read from the log: in memory while they are few, on disk where they are
//! not. Owns how much of them is held at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anabranch_shared::view::{Fold, View};
use anabranch_shared::{
    DeltaPart, Error, FoldOptions, Log, Master, Met, Offsets, Result, Spill, fold_log_unplaced,
};
use arrow::array::RecordBatch;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use parking_lot::Mutex;

use crate::delta::piece::{StatePiece, of_view};

/// How the log is followed, and where the states go that are made of it. Clones share the room.
#[derive(Clone, Debug)]
pub struct Following {
    /// How facts are folded.
    pub fold: FoldOptions,
    /// Bytes of states that are kept in memory; more are spilled.
    pub memory_bytes: usize,
    /// Bytes of states that are kept in memory where they can't be spilled. Beyond it nothing is
    /// followed.
    pub most_memory_bytes: usize,
    /// The setting that bounds the memory, for messages.
    pub memory_setting: &'static str,
    /// Where states are spilled.
    pub spill: Option<Arc<Spill>>,
    /// Bytes of states that are kept in memory so far.
    pub held: Arc<AtomicUsize>,
}

impl Following {
    /// Follows without a bound of memory.
    pub fn unbounded(fold: FoldOptions) -> Self {
        Self {
            fold,
            memory_bytes: usize::MAX,
            most_memory_bytes: usize::MAX,
            memory_setting: "`memory` in `[daemon]`",
            spill: None,
            held: Arc::default(),
        }
    }

    /// Keeps states that were made.
    fn keep(&self, view: &View, states: RecordBatch) -> Result<DeltaPart> {
        let bytes = get_record_batch_memory_size(&states);
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held <= self.memory_bytes {
            return Ok(states.into());
        }
        let full = match &self.spill {
            Some(spill) => match spill.write(view, states.clone()) {
                Ok(file) => {
                    self.held.fetch_sub(bytes, Ordering::Relaxed);
                    return Ok(DeltaPart::Spilled(file));
                }
                Err(Error::NoRoom(why)) => why,
                Err(e) => return Err(e),
            },
            None => "deltas are not spilled to disk".to_owned(),
        };
        if held <= self.most_memory_bytes {
            return Ok(states.into());
        }
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        let (name, setting) = (view.name(), self.memory_setting);
        Err(Error::NoRoom(format!(
            "view `{name}`: its delta has no room in memory ({setting}), and {full}; run `anabranch batch refresh {name}`"
        )))
    }

    /// Merges the parts in memory, where they are few enough that two copies do no harm.
    fn merge(&self, view: &Arc<View>, parts: Vec<DeltaPart>) -> Result<Vec<DeltaPart>> {
        let bytes: usize = parts.iter().map(DeltaPart::memory_bytes).sum();
        let in_memory = parts.iter().filter(|p| p.memory_bytes() > 0).count();
        if in_memory < 2 || bytes > self.memory_bytes {
            return Ok(parts);
        }
        let mut fold = Fold::new(view)?;
        let mut merged = Vec::new();
        for part in parts {
            match part {
                DeltaPart::Memory(states) => fold.states(&states)?,
                spilled @ DeltaPart::Spilled(_) => merged.push(spilled),
            }
        }
        let states = fold.into_states()?;
        let after = get_record_batch_memory_size(&states);
        self.held.fetch_add(after, Ordering::Relaxed);
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        merged.push(states.into());
        Ok(merged)
    }
}

/// The states of landed facts, read from the log, as pieces.
///
/// # Errors
/// `NoRoom` where neither memory nor disk has room for them; otherwise as
/// [`fold_log_unplaced`].
pub async fn follow_log(
    log: &Arc<Log>,
    master: &Arc<Master>,
    from: &Offsets,
    to: &Offsets,
    following: &Following,
) -> Result<Vec<Arc<StatePiece>>> {
    let view = master.view().now()?;
    let mut pieces = Vec::new();
    // A piece of each partition: a boundary moves in each by itself.
    for (partition, range) in from.ranges_to(to) {
        let (mut start, mut end) = (to.clone(), to.clone());
        start.set(partition, range.start);
        end.set(partition, range.end);
        let made = Arc::new(Mutex::new(Vec::new()));
        let (sink, keeper, of) = (made.clone(), following.clone(), view.clone());
        let emit = move |states| {
            let part = keeper.keep(&of, states)?;
            sink.lock().push(part);
            Ok(())
        };
        fold_log_unplaced(log, &view, &start, &end, &following.fold, emit).await?;
        let parts = std::mem::take(&mut *made.lock());
        let parts = of_view(view.name(), || following.merge(&view, parts))?;
        let ranges = vec![(partition, range)];
        let met = Met::of(&ranges, view.at());
        pieces.push(StatePiece::new(ranges, parts, met));
    }
    Ok(pieces)
}
