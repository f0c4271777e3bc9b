//! How a topic's acknowledged facts land: what goes into one commit, and what is kept of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anabranch_shared::settings::Ack;
use anabranch_shared::{Error, Landing, Master, Met, PutFiles, Result, blocking, planted};
use arrow::array::RecordBatch;

use super::{Upkeep, UpkeepTurn};
use crate::delta::{Landed, StatePiece, fold_pieces};
use crate::intake::payload::PlacedFacts;

/// A landing that failed: what it is of, and what it has put so far.
#[derive(Debug)]
pub(super) struct FailedLanding {
    pieces: Vec<Arc<PlacedFacts>>,
    put: Arc<PutFiles>,
}

impl Upkeep {
    /// Whether facts wait to land.
    pub(crate) fn has_unlanded(&self) -> bool {
        !self.memory.delta.lock().unlanded.is_empty()
    }

    /// Whether enough waits to land before its time.
    pub(crate) fn is_landing_due(&self) -> bool {
        let delta = self.memory.delta.lock();
        delta.unlanded.facts() as u64 >= self.memory.options.land_facts
            || delta.unlanded.bytes() as u64 >= self.land_bytes()
            || (self.ack == Ack::Landed && !delta.unlanded.is_empty())
    }

    /// Facts in memory that make a landing before its time: those that wait can't be spilled.
    fn land_bytes(&self) -> u64 {
        self.memory
            .options
            .land_bytes
            .min(self.memory.options.memory_bytes / 4)
    }

    /// What the next landing is of: where the last one failed the same again, with what it has put.
    fn to_land(&self) -> FailedLanding {
        let failed = self.failed_landing.lock().take();
        if let Some(failed) = failed {
            let delta = self.memory.delta.lock();
            let mut unlanded = delta.unlanded.iter();
            let same = |p: &Arc<PlacedFacts>| unlanded.next().is_some_and(|q| Arc::ptr_eq(p, q));
            if failed.pieces.iter().all(same) {
                return failed;
            }
        }
        let behind = self.behind.lock().clone();
        let landable = behind.map(|behind| behind.landable());
        let may_land = |p: &PlacedFacts| {
            let of_lane = landable
                .as_ref()
                .filter(|_| p.partition != self.memory.partition);
            of_lane.is_none_or(|landable| p.range.end <= landable.get(p.partition))
        };
        let mut facts = 0;
        let limit = self.memory.options.land_facts.max(1);
        let fits = |p: &&Arc<PlacedFacts>| {
            let before = facts;
            facts += p.facts.num_rows() as u64;
            may_land(p) && (before == 0 || facts <= limit * 2)
        };
        let mut delta = self.memory.delta.lock();
        let pieces: Vec<_> = delta.unlanded.iter().take_while(fits).cloned().collect();
        delta.landing_end = delta.unlanded.start() + pieces.len() as u64;
        FailedLanding {
            pieces,
            put: Arc::default(),
        }
    }

    async fn checkpoint_when_due(&self) {
        let commits = self.commits.fetch_add(1, Ordering::Relaxed) + 1;
        if !commits.is_multiple_of(self.memory.options.checkpoint_every.max(1)) {
            return;
        }
        if let Err(e) = self.memory.log.table().write_checkpoint().await {
            tracing::warn!(topic = %self.memory.name(), error = %e, "could not write a checkpoint");
        }
    }
}

impl UpkeepTurn<'_> {
    pub(super) async fn try_land(&self) -> Result<u64> {
        let (of, memory) = (self.of, &*self.of.memory);
        let FailedLanding { pieces, put } = of.to_land();
        if pieces.is_empty() {
            return Ok(0);
        }
        let mut landing = Landing {
            put: put.clone(),
            give_way: (!of.is_landing_due()).then(|| of.give_way.clone()),
            ..Default::default()
        };
        let synced = memory.delta.lock().head().get(memory.partition);
        landing.synced.push((memory.partition, synced));
        for piece in &pieces {
            match landing
                .ranges
                .iter_mut()
                .find(|(p, _)| *p == piece.partition)
            {
                Some((_, range)) => range.end = piece.range.end,
                None => landing.ranges.push((piece.partition, piece.range)),
            }
            if piece.partition != memory.partition {
                landing.refetched.insert(piece.partition);
            }
            if piece.gap {
                landing.gaps.push((piece.partition, piece.range));
            }
            landing.facts.push(piece.facts.clone());
            landing.dead_letters.extend(piece.dead.clone());
            landing.ingested.extend(piece.ingest.clone());
        }
        if planted("planted-cut-before-commit") {
            of.cut_wal(&landing.ranges).await;
        }
        let views: Vec<(String, Arc<Master>)> = memory.folding();
        let names: Vec<String> = views.iter().map(|(name, _)| name.clone()).collect();
        let (folded, ranges) = (pieces.clone(), landing.ranges.clone());
        // Facts are folded while they are written: both take about as long.
        let folding = blocking(move || {
            let fold = |(name, master): (String, Arc<Master>)| {
                let piece = master.view().now().and_then(|view| {
                    let states = fold_pieces(&view, &folded)?;
                    let met = Met::of(&ranges, view.at());
                    Ok(StatePiece::new(ranges.clone(), vec![states.into()], met))
                });
                (name, piece)
            };
            Ok(views.into_iter().map(fold).collect::<Vec<_>>())
        });
        let begun = Instant::now();
        let writing = memory.log.land(&landing, memory.options.now_ms());
        // Whatever becomes of the views, the commit is waited for: it is never dropped half-way.
        let (written, states) = tokio::join!(writing, folding);
        if let Err(e) = written {
            // One that is fenced is followed, and done again at once.
            if !matches!(e, Error::Fenced { .. }) {
                memory.options.metrics.landing_failed(memory.name());
            }
            *of.failed_landing.lock() = Some(FailedLanding { pieces, put });
            return Err(e);
        }
        let facts = landing.facts.iter().map(|f| f.num_rows() as u64).sum();
        let landed = (facts, put.file_bytes());
        let metrics = &memory.options.metrics;
        metrics.landed(memory.name(), begun.elapsed(), landed);
        let states = states.unwrap_or_else(|e| {
            let fails = |name| (name, Err(Error::Internal(e.to_string())));
            names.into_iter().map(fails).collect()
        });
        let now_ms = memory.options.now_ms();
        let lately = of.asked.is_lately(now_ms).then(|| pieces.clone());
        let (of_delta, no_longer) = {
            let mut delta = memory.delta.lock();
            let of_delta = delta.landed(&pieces, &landing.ranges, states);
            let mut no_longer = delta.recently_landed.expire(now_ms);
            if let Some(lately) = lately {
                let most = memory.options.recently_landed_bytes;
                no_longer.extend(delta.recently_landed.add(lately, now_ms, most));
            }
            (of_delta, no_longer)
        };
        let Landed { given_up, removed } = of_delta;
        // Who waits is told whatever fails from here on: the facts are there.
        of.tell_landed(&landing.ranges);
        of.keys.remember(given_up).await?;
        fail::fail_point!("land-before-cut");
        of.cut_wal(&landing.ranges).await;
        of.checkpoint_when_due().await;
        let count =
            |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        tracing::info!(
            topic = %memory.name(),
            facts = count(&landing.facts),
            dead_letters = count(&landing.dead_letters),
            ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(0),
            "landed"
        );
        let offsets = landing.ranges.iter().map(|(_, r)| r.end.0 - r.start.0);
        let offsets = u64::try_from(offsets.sum::<i64>()).unwrap_or(0);
        // To free what thousands of small requests have brought takes long enough for others to wait.
        tokio::task::spawn_blocking(move || drop((landing, pieces, removed, no_longer)));
        Ok(offsets)
    }
}
