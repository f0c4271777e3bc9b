//! The partitions that a topic's daemon fills besides that of its WAL: those that it reads from a
//! source which keeps its records, such as Kafka.

use anabranch_shared::{Offset, PartitionId, Result};

use super::Upkeep;

impl Upkeep {
    /// Begins to fill partitions. Returns where each goes on: nothing below is to be pushed.
    ///
    /// # Errors
    /// `Unavailable` when the storage does not answer.
    pub async fn take_lanes(
        &self,
        partitions: &[PartitionId],
    ) -> Result<Vec<(PartitionId, Offset)>> {
        let turn = self.turn().await;
        turn.follow_log().await?;
        let mut delta = self.memory.delta.lock();
        Ok(partitions
            .iter()
            .map(|p| (*p, delta.take_lane(*p)))
            .collect())
    }

    /// Lands what there is of some partitions, with what came before it.
    pub async fn land_lanes(&self, partitions: &[PartitionId]) -> Result<()> {
        while self
            .memory
            .with_delta(|d| partitions.iter().any(|p| d.unlanded.holds(*p)))
        {
            self.land().await?;
        }
        Ok(())
    }

    /// Gives partitions up: what of them has not landed is somebody else's to bring.
    pub fn leave_lanes(&self, partitions: &[PartitionId]) {
        let mut seen = self.keys.of_lanes();
        let mut delta = self.memory.delta.lock();
        let ours = partitions.iter().filter(|p| **p != self.memory.partition);
        let removed: Vec<_> = ours.map(|p| delta.leave_lane(*p)).collect();
        drop(delta);
        let (removed, unneeded): (Vec<_>, Vec<_>) = removed.into_iter().unzip();
        self.keys
            .forget_removed(seen.as_deref_mut(), &removed.concat());
        drop(seen);
        drop((removed, unneeded));
    }
}
