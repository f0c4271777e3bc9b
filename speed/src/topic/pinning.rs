//! What a query sees of a topic: one head, one boundary for each view, one list of pieces.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::{Error, Offsets, ReadMode, Result, TopicPin, ViewPin, blocking, planted};

use super::TopicStream;
use crate::delta::{TopicDelta, check_no_gap, fold_unlanded};

impl TopicStream {
    /// Pins the topic and some of its views at one head.
    pub(crate) async fn pin(
        self: &Arc<Self>,
        views: &[String],
        mode: ReadMode,
    ) -> Result<(TopicPin, BTreeMap<String, ViewPin>)> {
        let _guard = self.pinning.lock().await;
        loop {
            let (head, target, epoch) = {
                let delta = self.delta.lock();
                (delta.head(), delta.unlanded.end(), delta.epoch)
            };
            // What is not absorbed is not asked for in batch mode.
            for name in views.iter().filter(|_| mode == ReadMode::Merged) {
                let (worker, name) = (self.clone(), name.clone());
                blocking(move || fold_unlanded(&worker.delta, &name, target)).await?;
            }
            let delta = self.delta.lock();
            if delta.epoch == epoch {
                return self.pinned(&delta, views, &head, target, mode);
            }
        }
    }

    fn pinned(
        &self,
        delta: &TopicDelta,
        views: &[String],
        head: &Offsets,
        target: u64,
        mode: ReadMode,
    ) -> Result<(TopicPin, BTreeMap<String, ViewPin>)> {
        let mut pinned = BTreeMap::new();
        for name in views {
            let Some(view) = delta.views.get(name) else {
                continue;
            };
            if let Some(failed) = &view.failed
                && mode == ReadMode::Merged
            {
                return Err(match view.superseded {
                    true => Error::Unavailable(failed.clone()),
                    false => Error::Invalid(failed.clone()),
                });
            }
            check_no_gap(name, view, &delta.upto)?;
            let mut pin = ViewPin {
                view: view.master.view().clone(),
                generation: view.master.generation(),
                boundary: view.pin.boundary.clone(),
                head: head.clone(),
                root: view.master.table().root().clone(),
                files: view.pin.files.clone(),
                delta: view.states(),
            };
            if planted("planted-piece-dropped-before-its-query") {
                pin.delta.pop();
            }
            pinned.insert(name.clone(), pin);
        }
        let recent: Vec<_> = delta.unlanded.between(0, target).collect();
        let (low, files) = self.log.kept_files(&delta.upto)?;
        let topic = TopicPin {
            topic: self.topic.clone(),
            head: head.clone(),
            root: self.log.table().root().clone(),
            files,
            memory: recent.iter().map(|p| p.facts.clone()).collect(),
            dead_root: self.log.dead_letters().root().clone(),
            dead_files: self.log.dead_letter_files_between(&low, &delta.upto)?,
            low,
            dead_memory: recent.iter().filter_map(|p| p.dead.clone()).collect(),
        };
        Ok((topic, pinned))
    }
}
