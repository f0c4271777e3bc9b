//! The keys that a topic has seen: made from its log and WAL at start, and from what others land.

use std::sync::Arc;

use anabranch_shared::{HeldGuard, HeldMutex, Log, Offsets, Result, blocking};

use super::TopicStream;
use crate::intake::admission::Admitted;
use crate::intake::counts::IntakeCount;
use crate::intake::dedup::{Dedup, read_keys};
use crate::intake::payload::FactPiece;
use crate::options::{DaemonOptions, TopicOptions};

/// The keys of the facts in the log and of those that have not landed; none where the topic does
/// not look for duplicates.
pub(super) async fn open_dedup(
    log: &Log,
    settings: &TopicOptions,
    unlanded: &[FactPiece],
    options: &DaemonOptions,
) -> Result<Option<Arc<HeldMutex<Dedup>>>> {
    let Some(settings) = &settings.dedup else {
        return Ok(None);
    };
    let mut dedup = Dedup::from_log(log, settings, (options.now_us)()).await?;
    for piece in unlanded {
        dedup.note(&piece.facts)?;
    }
    Ok(Some(Arc::new(HeldMutex::new("dedup", dedup))))
}

impl TopicStream {
    /// Remembers the keys of what others have landed between two heads.
    pub(super) async fn note_followed(&self, from: &Offsets, to: &Offsets) -> Result<()> {
        let Some(dedup) = &self.dedup else {
            return Ok(());
        };
        let files = self.log.files_between(from, to)?;
        let files = files.into_iter().map(|file| file.add).collect();
        let (key, from_us) = {
            let dedup = dedup.lock();
            let now_us = (self.options.now_us)();
            (dedup.key().to_owned(), dedup.remembers_from_us(now_us))
        };
        let mut landed = Vec::new();
        read_keys(&self.log, &key, files, from_us, |facts| {
            landed.push(facts);
            Ok(())
        })
        .await?;
        let dedup = dedup.clone();
        // The lock is held while a group is written.
        blocking(move || landed.iter().try_for_each(|facts| dedup.lock().note(facts))).await
    }

    /// Leaves the duplicates out of what was admitted to a lane, and makes the others visible as
    /// the piece that `place` makes of them. Returns `false`, and keeps nothing, where the lane
    /// does not go on at the start of the piece. `now_us` is when it was admitted, in microseconds
    /// since 1970.
    pub(crate) fn push_new(
        &self,
        admitted: Admitted,
        now_us: i64,
        place: impl FnOnce(Admitted) -> Result<FactPiece>,
    ) -> Result<bool> {
        // Held until the facts are visible or their keys forgotten, and taken before the delta's
        // lock, as the appender does.
        let mut dedup = self.dedup.as_ref().map(|dedup| dedup.lock());
        let (admitted, duplicates) = match dedup.as_deref_mut() {
            Some(dedup) => dedup.check(admitted, now_us)?,
            None => (admitted, Vec::new()),
        };
        // The records' buffers are shared, not copied.
        let facts = admitted.facts.clone();
        let pushed = place(admitted).map(|piece| {
            let count = IntakeCount {
                facts: piece.facts.num_rows() as u64,
                dead_letters: piece.dead.as_ref().map_or(0, |d| d.num_rows() as u64),
                duplicates: duplicates.len() as u64,
            };
            let pushed = self.push(piece);
            if pushed {
                self.count(count);
            }
            pushed
        });
        if !matches!(pushed, Ok(true))
            && let Some(dedup) = dedup.as_deref_mut()
        {
            dedup.forget(&facts)?;
        }
        pushed
    }

    /// The keys, where some of them may be of facts that are to be read again. A thread that waits
    /// for them does so while a group is written.
    pub(super) fn dedup_of_lanes(&self) -> Option<HeldGuard<'_, Dedup>> {
        let dedup = self.dedup.as_ref()?;
        let others = self.with_delta(|d| d.lanes.keys().any(|p| *p != self.partition));
        others.then(|| dedup.lock())
    }

    /// Remembers the keys of facts that have landed although they were given up, and with them
    /// their keys.
    pub(super) async fn remember(&self, landed: Vec<Arc<FactPiece>>) -> Result<()> {
        let Some(dedup) = self.dedup.clone().filter(|_| !landed.is_empty()) else {
            return Ok(());
        };
        // The lock is held while a group is written.
        blocking(move || landed.iter().try_for_each(|p| dedup.lock().note(&p.facts))).await
    }

    /// Forgets the keys of facts that this daemon does not hold any more, but for those that have
    /// landed: where they come again they are new.
    pub(super) fn forget_removed(&self, dedup: Option<&mut Dedup>, removed: &[Arc<FactPiece>]) {
        let Some(dedup) = dedup else { return };
        for piece in removed.iter().filter(|p| p.partition != self.partition) {
            if let Err(e) = dedup.forget(&piece.facts) {
                tracing::error!(topic = %self.name(), error = %e, "keys of facts that are to be read again are still remembered");
            }
        }
    }
}
