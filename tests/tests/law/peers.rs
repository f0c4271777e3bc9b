//! Daemons of one process that ask each other for what they hold, in the form in which it goes over
//! the network.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use anabranch_shared::{Offset, PartitionId, Result};
use anabranch_speed::{Daemon, DeltaRequest, Peer, PeerReply, Peers};

/// All daemons of a case that live.
#[derive(Debug, Default)]
pub(crate) struct Living(Mutex<Vec<Weak<Daemon>>>);

/// The others, as one daemon sees them.
#[derive(Debug)]
struct Others {
    own: String,
    living: Arc<Living>,
}

#[derive(Debug)]
struct Other {
    wal: String,
    daemon: Weak<Daemon>,
}

impl Living {
    /// Lets a daemon know of the others, and them of it.
    pub(crate) fn join(self: &Arc<Self>, daemon: &Arc<Daemon>) {
        let mut living = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        living.retain(|d| d.strong_count() > 0);
        living.push(Arc::downgrade(daemon));
        daemon.set_peers(Arc::new(Others {
            own: daemon.wal().to_owned(),
            living: self.clone(),
        }));
    }
}

impl Peers for Others {
    fn of(&self, _: &str) -> Vec<Arc<dyn Peer>> {
        let living = self.living.0.lock().unwrap_or_else(PoisonError::into_inner);
        let other = |daemon: &Weak<Daemon>| {
            let wal = daemon.upgrade()?.wal().to_owned();
            let daemon = daemon.clone();
            (wal != self.own).then(|| Arc::new(Other { wal, daemon }) as Arc<dyn Peer>)
        };
        living.iter().filter_map(other).collect()
    }
}

#[async_trait::async_trait]
impl Peer for Other {
    fn name(&self) -> String {
        self.wal.clone()
    }

    fn wal(&self) -> String {
        self.wal.clone()
    }

    fn partitions(&self, _: &str) -> Vec<PartitionId> {
        Vec::new()
    }

    fn fills(&self, _: &str, _: Vec<PartitionId>) {}

    async fn ask(&self, request: &DeltaRequest) -> Result<PeerReply> {
        // What goes over the network is text.
        let text = serde_json::to_string(request);
        let text = text.map_err(|e| anabranch_shared::Error::Internal(e.to_string()))?;
        let request = serde_json::from_str(&text);
        let request = request.map_err(|e| anabranch_shared::Error::Internal(e.to_string()))?;
        match self.daemon.upgrade() {
            Some(daemon) => Ok(PeerReply::Answer(daemon.delta(request).await?)),
            None => Ok(PeerReply::Silent),
        }
    }

    fn missing_note(&self, topic: &str, partition: PartitionId, landed: Offset) -> String {
        format!("{topic} {partition} {landed}")
    }
}
