//! Who else takes in facts: of which partitions that nobody does any more this daemon makes facts.

use std::collections::BTreeSet;
use std::sync::Weak;

use anabranch_shared::PartitionId;

use super::Daemon;
use crate::sources::steps::Other;

/// The daemons beside this one.
pub(super) struct Neighbours(pub(super) Weak<Daemon>);

impl Other for Neighbours {
    /// Of WALs whose daemons are not there, and of a source what has been stuck for a while. Each
    /// partition is one's of those that are there: which one is the same for all who see the same
    /// daemons. Where they don't, two make the same facts, and one lands them.
    fn left(
        &self,
        topic: &str,
        partitions: &[PartitionId],
        stuck: &BTreeSet<PartitionId>,
    ) -> BTreeSet<PartitionId> {
        let Some(daemon) = self.0.upgrade() else {
            return BTreeSet::new();
        };
        let entry = daemon.catalogue.current();
        let Some(known) = entry.topics.get(topic) else {
            return BTreeSet::new();
        };
        let peers = daemon.peers.read().clone();
        let mut there: Vec<String> = match peers {
            Some(peers) => peers.of(topic).iter().map(|peer| peer.wal()).collect(),
            None => Vec::new(),
        };
        there.push(daemon.wal.clone());
        there.sort_unstable();
        there.dedup();
        let is_left = |partition: &&PartitionId| {
            let owner = known.partitions.get(partition);
            let is_left = match owner.filter(|_| !known.is_of_source(**partition)) {
                Some(owner) => !there.contains(owner),
                None => stuck.contains(partition),
            };
            let turn = crc32c::crc32c(&partition.0.to_le_bytes()) as usize % there.len();
            is_left && there.get(turn) == Some(&daemon.wal)
        };
        partitions.iter().filter(is_left).copied().collect()
    }
}
