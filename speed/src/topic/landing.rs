//! How a topic's acknowledged facts land: what goes into one commit, and what is kept of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_shared::settings::Ack;
use anabranch_shared::{Error, Landing, Master, Offset, OffsetRange, Result, blocking, planted};

use super::TopicStream;
use crate::appender::WriteRequest;
use crate::delta::fold_pieces;
use crate::payload::FactPiece;

impl TopicStream {
    /// Whether enough waits to land before its time.
    pub(crate) fn is_landing_due(&self) -> bool {
        let delta = self.delta.lock();
        delta.unlanded_facts as u64 >= self.options.land_facts
            || delta.unlanded_bytes as u64 >= self.options.land_bytes
            || (self.ack == Ack::Landed && !delta.unlanded.is_empty())
    }

    /// What the next landing is of, and where it starts. Where an earlier attempt was committed
    /// without getting its answer, exactly what that one held: the partition is ours alone.
    fn to_land(&self) -> Result<(Vec<Arc<FactPiece>>, Offset)> {
        let delta = self.delta.lock();
        let start = delta.upto.get(self.partition);
        let committed = self.log.head().get(self.partition);
        let mut facts = 0;
        let limit = self.options.land_facts.max(1);
        let fits = |p: &&Arc<FactPiece>| {
            let before = facts;
            facts += p.facts.num_rows() as u64;
            match committed > start {
                true => p.range.end <= committed,
                false => before == 0 || facts <= limit * 2,
            }
        };
        let pieces: Vec<_> = delta.unlanded.iter().take_while(fits).cloned().collect();
        let end = pieces.last().map_or(start, |p| p.range.end);
        if committed > start && end != committed {
            return Err(Error::Conflict(format!(
                "topic `{}`: another process has landed in partition {}, which belongs to this daemon's WAL: is a copy of the `wal` folder in use?",
                self.topic.name, self.partition
            )));
        }
        Ok((pieces, start))
    }

    /// Lands what has been acknowledged, at most about `land_facts` at once. Returns how many
    /// facts.
    ///
    /// # Errors
    /// `Unavailable` when the storage does not answer: nothing is lost, the next call goes on.
    pub async fn land(&self) -> Result<u64> {
        match self.try_land().await {
            // An earlier attempt was committed without getting its answer; now that is known.
            Err(Error::Fenced { .. }) => self.try_land().await,
            landed => landed,
        }
    }

    async fn try_land(&self) -> Result<u64> {
        let _guard = self.upkeep.lock().await;
        let (pieces, start) = self.to_land()?;
        let Some(last) = pieces.last() else {
            return Ok(0);
        };
        let end = last.range.end;
        let mut landing = Landing {
            ranges: vec![(self.partition, OffsetRange::new(start, end))],
            ..Default::default()
        };
        for piece in &pieces {
            landing.facts.push(piece.facts.clone());
            landing.dead_letters.extend(piece.dead.clone());
            landing.ingested.extend(piece.ingest.clone());
        }
        if planted("planted-cut-before-commit") {
            self.requests.try_send(WriteRequest::Cut(end)).ok();
        }
        let views: Vec<(String, Arc<Master>)> = self.folding();
        let facts: u64 = pieces.iter().map(|p| p.facts.num_rows() as u64).sum();
        // Facts are folded while they are written: both take about as long.
        let folding = blocking(move || {
            let fold = |(name, master): (String, Arc<Master>)| {
                let states = fold_pieces(master.view(), &pieces);
                (name, states)
            };
            Ok(views.into_iter().map(fold).collect::<Vec<_>>())
        });
        let writing = async {
            if self.log.head().get(self.partition) == start {
                self.log.land(&landing, self.options.now_ms()).await?;
            }
            Ok(())
        };
        let ((), states) = tokio::try_join!(writing, folding)?;
        self.delta.lock().landed(self.partition, end, states);
        fail::fail_point!("land-before-cut");
        self.landed.send_replace(end);
        // Waits for room: a full WAL that is not cut now takes nothing that could land and cut it.
        self.requests.send(WriteRequest::Cut(end)).await.ok();
        self.checkpoint_when_due().await;
        Ok(facts)
    }

    async fn checkpoint_when_due(&self) {
        let commits = self.commits.fetch_add(1, Ordering::Relaxed) + 1;
        if !commits.is_multiple_of(self.options.checkpoint_every.max(1)) {
            return;
        }
        if let Err(e) = self.log.table().write_checkpoint().await {
            tracing::warn!(topic = %self.topic.name, error = %e, "could not write a checkpoint");
        }
    }
}
