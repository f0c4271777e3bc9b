//! The keys that a topic has seen: made from its log and WAL at start, and from what others land.

use std::sync::Arc;

use anabranch_shared::{Log, Offsets, Result, blocking};
use parking_lot::Mutex;

use super::TopicStream;
use crate::daemon::{DaemonOptions, TopicOptions};
use crate::dedup::{Dedup, read_keys};
use crate::payload::FactPiece;

/// The keys of the facts in the log and of those that have not landed; none where the topic does
/// not look for duplicates.
pub(super) async fn open_dedup(
    log: &Log,
    settings: &TopicOptions,
    unlanded: &[FactPiece],
    options: &DaemonOptions,
) -> Result<Option<Arc<Mutex<Dedup>>>> {
    let Some(settings) = &settings.dedup else {
        return Ok(None);
    };
    let mut dedup = Dedup::from_log(log, settings, (options.now_us)()).await?;
    for piece in unlanded {
        dedup.note(&piece.facts)?;
    }
    Ok(Some(Arc::new(Mutex::new(dedup))))
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
}
