//! How a topic's deltas follow what others do: landings, moved boundaries, cut-overs.

use std::sync::Arc;

use anabranch_shared::{Error, Master, Offsets, Result, blocking, planted};

use super::TopicStream;
use crate::delta::{
    StatePiece, ViewDelta, above_boundary, check_no_gap, follow_log, is_of_view, merge_pieces,
};

impl TopicStream {
    /// Follows what others have landed, and the boundaries that others have moved.
    pub async fn follow(&self) -> Result<()> {
        let _guard = self.upkeep.lock().await;
        self.delta.lock().lately.expire(self.options.now_ms());
        self.follow_log().await?;
        for (name, master) in self.masters() {
            if let Err(e) = self.adopt(&name, &master).await
                && let Err(e) = self.give_up_or(&name, e)
            {
                tracing::warn!(view = %name, error = %e, "can't follow the boundary yet");
            }
            if let Err(e) = self.merge(&name).await {
                self.give_up_or(&name, e)?;
            }
        }
        Ok(())
    }

    /// Adds the states of what others have landed, and of what an earlier attempt has landed
    /// without getting its answer. `upkeep` must be held.
    pub(super) async fn follow_log(&self) -> Result<()> {
        if self.log.refresh().await? {
            // Content that others have ingested is answered for as being there already.
            self.log.table().storage().settle().await?;
        }
        let head = self.log.head();
        let upto = self.upto();
        let ranges = upto.ranges_to(&head);
        if ranges.is_empty() {
            return Ok(());
        }
        self.check_wal_is_ours(&head)?;
        self.note_followed(&upto, &head).await?;
        let mut added = Vec::new();
        for (name, master) in self.folding() {
            // Nothing is kept of any view unless all were read: what is read again counts once.
            match follow_log(&self.log, &master, &upto, &head, &self.fold_options()).await {
                Err(e) if !is_of_view(&e) => return Err(e),
                pieces => added.push((name, pieces)),
            }
        }
        self.add_followed(&head, added);
        self.note_landed(&ranges).await;
        Ok(())
    }

    /// Makes what was followed part of the deltas.
    fn add_followed(&self, head: &Offsets, added: Vec<(String, Result<Vec<Arc<StatePiece>>>)>) {
        // Nobody may come between the facts and their keys, and no await either, where this may
        // end: a key that outlives its facts makes them duplicates when they come again.
        let mut dedup = self.dedup_of_lanes();
        let mut delta = self.delta.lock();
        for (name, pieces) in added {
            let Some(view) = delta.views.get_mut(&name) else {
                continue;
            };
            match pieces {
                Ok(pieces) => view.pieces.extend(pieces),
                Err(e) => view.fail(&e),
            }
        }
        let followed = delta.followed(head);
        drop(delta);
        for partition in followed.back {
            tracing::warn!(topic = %self.topic.name, %partition, "another daemon has landed facts of the partition; going on from where they end");
        }
        self.forget_removed(dedup.as_deref_mut(), &followed.removed);
    }

    /// Only this daemon appends to the partition of its WAL.
    fn check_wal_is_ours(&self, head: &Offsets) -> Result<()> {
        let delta = self.delta.lock();
        let (partition, end) = (self.partition, head.get(self.partition));
        let next = delta.lanes.get(&partition).copied().unwrap_or_default();
        if end > delta.upto.get(partition) && (end > next || delta.splits_piece(partition, end)) {
            return Err(Error::Conflict(format!(
                "topic `{}`: another process has landed in partition {partition}, which belongs to this daemon's WAL: is a copy of the `wal` folder in use?",
                self.topic.name
            )));
        }
        Ok(())
    }

    /// Stops a view whose SQL is at fault; any other error is handed on.
    fn give_up_or(&self, name: &str, e: Error) -> Result<()> {
        if !is_of_view(&e) {
            return Err(e);
        }
        if let Some(view) = self.delta.lock().views.get_mut(name) {
            view.fail(&e);
        }
        Ok(())
    }

    /// Answers by a newer master view, once the pieces reach from its boundary.
    async fn adopt(&self, name: &str, master: &Arc<Master>) -> Result<()> {
        master.refresh().await?;
        let pin = master.pin();
        let Some(view) = self.delta.lock().views.get(name).cloned() else {
            return Ok(());
        };
        if view.pin.version == pin.version {
            return Ok(());
        }
        check_no_gap(
            name,
            &ViewDelta {
                pin: pin.clone(),
                ..view.clone()
            },
            &self.upto(),
        )?;
        let pieces = above_boundary(&self.log, &view, &pin.boundary, &self.fold_options()).await?;
        fail::fail_point!("delta-before-adopt");
        if let Some(view) = self.delta.lock().views.get_mut(name) {
            if planted("planted-stale-snapshot") {
                view.pin.boundary = pin.boundary;
            } else {
                view.pin = pin;
            }
            view.pieces = pieces;
        }
        fail::fail_point!("delta-after-adopt");
        Ok(())
    }

    async fn merge(&self, name: &str) -> Result<()> {
        let Some(view) = self.delta.lock().views.get(name).cloned() else {
            return Ok(());
        };
        let most = self.options.most_pieces;
        if let Some(pieces) = blocking(move || merge_pieces(&view, most)).await?
            && let Some(view) = self.delta.lock().views.get_mut(name)
        {
            view.pieces = pieces;
        }
        Ok(())
    }

    fn upto(&self) -> Offsets {
        self.delta.lock().upto.clone()
    }

    /// Serves a generation of a view, once its pieces reach without a gap from its boundary.
    pub(crate) async fn serve(&self, master: Arc<Master>) -> Result<()> {
        let _guard = self.upkeep.lock().await;
        let name = master.view().name().to_owned();
        let pin = master.pin();
        let upto = self.upto();
        let options = self.fold_options();
        let folded = follow_log(&self.log, &master, &pin.boundary, &upto, &options);
        let (pieces, failed) = match folded.await {
            Ok(pieces) => (pieces, None),
            Err(e) if is_of_view(&e) => {
                tracing::error!(view = %name, error = %e, "the view does not answer");
                (Vec::new(), Some(e.to_string()))
            }
            Err(e) => return Err(e),
        };
        let mut delta = self.delta.lock();
        let view = ViewDelta {
            master,
            pin,
            pieces,
            unlanded: Vec::new(),
            folded: delta.unlanded.start(),
            failed,
        };
        check_no_gap(&name, &view, &upto)?;
        let before = delta.views.insert(name.clone(), view);
        if planted("planted-generations-mixed")
            && let (Some(before), Some(now)) = (before, delta.views.get_mut(&name))
        {
            (now.pin, now.pieces) = (before.pin, before.pieces);
        }
        Ok(())
    }
}
