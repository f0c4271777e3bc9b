//! The partitions that a topic's daemon fills besides that of its WAL: those that it reads from a
//! source which keeps its records, such as Kafka.

use anabranch_shared::{Offset, PartitionId, Result};

use super::TopicStream;
use crate::intake::payload::FactPiece;

impl TopicStream {
    /// Begins to fill partitions. Returns where each goes on: nothing below is to be pushed.
    ///
    /// # Errors
    /// `Unavailable` when the storage does not answer.
    pub async fn take_lanes(
        &self,
        partitions: &[PartitionId],
    ) -> Result<Vec<(PartitionId, Offset)>> {
        let _guard = self.upkeep.lock().await;
        self.follow_log().await?;
        let mut delta = self.delta.lock();
        Ok(partitions
            .iter()
            .map(|p| (*p, delta.take_lane(*p)))
            .collect())
    }

    /// Makes facts of such a partition visible. Returns `false`, and does nothing, where the lane
    /// does not go on at the start of the piece: another daemon has landed facts of it, or it was
    /// given up. Duplicates are not looked for.
    pub fn push(&self, piece: FactPiece) -> bool {
        if piece.partition == self.partition {
            return false;
        }
        let facts = piece.facts.clone();
        let pushed = self.delta.lock().push(piece);
        if pushed {
            let event_time = &self.log.topic().event_time;
            self.gauges.note_facts(&facts, event_time, self.now_us());
        }
        pushed
    }

    /// Lands what there is of some partitions, with what came before it.
    pub async fn land_lanes(&self, partitions: &[PartitionId]) -> Result<()> {
        while self.with_delta(|d| partitions.iter().any(|p| d.unlanded.holds(*p))) {
            self.land().await?;
        }
        Ok(())
    }

    /// Gives partitions up: what of them has not landed is somebody else's to bring.
    pub fn leave_lanes(&self, partitions: &[PartitionId]) {
        let mut dedup = self.dedup_of_lanes();
        let mut delta = self.delta.lock();
        let ours = partitions.iter().filter(|p| **p != self.partition);
        let removed: Vec<_> = ours.map(|p| delta.leave_lane(*p)).collect();
        drop(delta);
        let (removed, unneeded): (Vec<_>, Vec<_>) = removed.into_iter().unzip();
        self.forget_removed(dedup.as_deref_mut(), &removed.concat());
        drop(dedup);
        drop((removed, unneeded));
    }
}
