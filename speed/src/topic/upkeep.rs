//! What lands a topic's facts and follows what others do to its log, one of it at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use anabranch_shared::settings::Ack;
use anabranch_shared::{Error, GiveWay, Master, Offset, Ranges, Result, with_references};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::landing::FailedLanding;
pub use self::retries::Doing;
use self::retries::Retries;
use super::behind::Behind;
use super::keys::Keys;
use super::memory::{ServedAs, TopicMemory};
use super::tending::Tending;
use crate::delta::{Folded, ViewDelta, check_no_gap, fold_landed::follow_log, is_of_view};
use crate::topic::appender::{AppenderHandle, WriteRequest};

mod following;
mod landing;
mod lanes;
mod retries;

/// How often a landing follows what others have landed before it, and is tried again, until that is left
/// to the next one: each time less is left that is not theirs.
const FENCED_TRIES: usize = 20;

/// Of so many views it is looked at once whether their boundaries have moved.
const LOOKS_AT_ONCE: usize = 16;

/// Landed facts are kept for other daemons as long as one has asked in this time, in milliseconds.
const ASKED_MS: i64 = 60_000;

/// When another daemon last asked what this one holds of a topic.
#[derive(Debug)]
pub(super) struct Asked(AtomicI64);

impl Default for Asked {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl Asked {
    /// It did so at a time, in milliseconds since 1970.
    pub(super) fn note(&self, now_ms: i64) {
        self.0.store(now_ms, Ordering::Relaxed);
    }

    /// Whether it did so not long before a time, in milliseconds since 1970.
    fn is_lately(&self, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.0.load(Ordering::Relaxed)) <= ASKED_MS
    }
}

/// What lands and follows.
#[derive(Debug)]
pub struct Upkeep {
    memory: Arc<TopicMemory>,
    keys: Arc<Keys>,
    tending: Tending,
    turn: tokio::sync::Mutex<()>,
    ack: Ack,
    /// What landings give way to: answers of any topic.
    give_way: GiveWay,
    /// Where it is said up to where the WAL may be cut.
    appender: Arc<AppenderHandle>,
    /// Up to where facts of the daemon's WAL have landed.
    landed: watch::Sender<Offset>,
    commits: AtomicU64,
    /// The last landing, where it failed.
    failed_landing: Mutex<Option<FailedLanding>>,
    /// What it lands behind, where its facts are made of another topic's.
    behind: Mutex<Option<Arc<Behind>>>,
    retries: Mutex<Retries>,
    asked: Arc<Asked>,
    /// When it was last looked what has landed of the views' references.
    met: Mutex<Option<Instant>>,
}

/// The turn of one, who alone lands, follows the log or begins to serve a view meanwhile.
#[derive(Debug)]
struct UpkeepTurn<'a> {
    of: &'a Upkeep,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl Upkeep {
    pub(super) fn new(
        memory: &Arc<TopicMemory>,
        keys: &Arc<Keys>,
        ack: Ack,
        give_way: &GiveWay,
        appender: &Arc<AppenderHandle>,
        landed: watch::Sender<Offset>,
    ) -> Self {
        Self {
            memory: memory.clone(),
            keys: keys.clone(),
            tending: Tending::new(memory.clone()),
            turn: tokio::sync::Mutex::default(),
            ack,
            give_way: give_way.clone(),
            appender: appender.clone(),
            landed,
            commits: AtomicU64::new(0),
            failed_landing: Mutex::default(),
            behind: Mutex::default(),
            retries: Mutex::default(),
            asked: Arc::default(),
            met: Mutex::default(),
        }
    }

    /// Lets the facts of all views meet what has landed of their references, where that was not looked at
    /// a moment ago. What can't be read is read later: until then they meet the rows of before.
    async fn meet_references(&self) {
        let due = self
            .met
            .lock()
            .is_none_or(|last| last.elapsed() >= self.memory.options.meet_every);
        if !due {
            return;
        }
        let (storage, now_ms) = (
            self.memory.log.table().storage(),
            self.memory.options.now_ms(),
        );
        for (name, master) in self.memory.masters() {
            if let Err(error) = with_references(storage, master.view(), now_ms).await {
                tracing::warn!(view = %name, %error, "its facts meet the rows of references as they were before");
            }
        }
        *self.met.lock() = Some(Instant::now());
    }

    /// From now on facts land no further than those have landed that they are made of.
    pub(crate) fn land_behind(&self, behind: Arc<Behind>) {
        *self.behind.lock() = Some(behind);
    }

    async fn turn(&self) -> UpkeepTurn<'_> {
        UpkeepTurn {
            of: self,
            _turn: self.turn.lock().await,
        }
    }

    /// When another daemon last asked; who is asked notes it here.
    pub(super) fn asked(&self) -> &Arc<Asked> {
        &self.asked
    }

    /// Lands what has been acknowledged, at most about `land_facts` at once. Returns how many
    /// offsets: a landing of dead letters alone has no facts, and more may wait behind it.
    ///
    /// # Errors
    /// `Unavailable` when the storage does not answer: nothing is lost, the next call goes on.
    pub async fn land(&self) -> Result<u64> {
        let landed = {
            let turn = self.turn().await;
            let (mut landed, mut tries) = (turn.try_land().await, 0);
            // An earlier attempt was committed without getting its answer, or another daemon has landed
            // in a partition that was ours, and may do so again meanwhile.
            while matches!(landed, Err(Error::Fenced { .. })) && tries < FENCED_TRIES {
                turn.follow_log().await?;
                (landed, tries) = (turn.try_land().await, tries + 1);
            }
            landed
        }?;
        // Who tends the views now relieves the memory too, at the end.
        if landed > 0
            && let Some(turn) = self.tending.try_turn()
        {
            turn.relieve().await;
        }
        Ok(landed)
    }

    /// Follows what others have landed, and the boundaries that others have moved.
    pub async fn follow(&self) -> Result<()> {
        let now_ms = self.memory.options.now_ms();
        let expired = self.memory.delta.lock().recently_landed.expire(now_ms);
        drop(expired);
        self.meet_references().await;
        self.turn().await.follow_where_room().await?;
        let masters = self.memory.masters();
        let looks = masters.iter().map(|(_, master)| master.refresh());
        let looks = stream::iter(looks.collect::<Vec<_>>()).buffered(LOOKS_AT_ONCE);
        let looked: Vec<Result<bool>> = looks.collect().await;
        let turn = self.tending.turn().await;
        turn.tend(masters.into_iter().zip(looked)).await
    }

    /// Serves a generation of a view under a name, once its pieces reach without a gap from its boundary. Most of
    /// what it has to read is read before others wait for that.
    pub(crate) async fn serve(&self, name: &str, master: Arc<Master>) -> Result<()> {
        let log = &self.memory.log;
        let now_ms = self.memory.options.now_ms();
        with_references(log.table().storage(), master.view(), now_ms).await?;
        let pin = master.pin();
        let followed = self.memory.upto();
        let following = self.memory.following();
        let mut folded = follow_log(log, &master, &pin.boundary, &followed, &following).await;
        let turn = self.turn().await;
        let upto = self.memory.upto();
        if let Ok(pieces) = &mut folded {
            let from = following::raised(&followed, &pin.boundary);
            match follow_log(log, &master, &from, &upto, &following).await {
                Ok(more) => pieces.extend(more),
                Err(e) => folded = Err(e),
            }
        }
        let (pieces, failed) = match folded {
            Ok(pieces) => (pieces, None),
            Err(e) if is_of_view(&e) => {
                tracing::error!(view = %name, error = %e, "the view does not answer");
                (Vec::new(), Some(e.to_string()))
            }
            Err(e) => return Err(e),
        };
        let view = ViewDelta {
            master,
            pin,
            pieces,
            unlanded: Folded::default(),
            failed,
            superseded: false,
        };
        check_no_gap(name, &view, &upto)?;
        turn.insert(name, view);
        drop(turn);
        self.tending.turn().await.relieve().await;
        Ok(())
    }

    /// Serves generations of views under further names, as far as they are served under others. Nobody
    /// lands or follows meanwhile: what is made for a name is of the generation that has it.
    pub(crate) async fn serve_as(&self, wanted: &[ServedAs]) {
        let _turn = self.turn().await;
        let _tending = self.tending.turn().await;
        self.memory.serve_as(wanted);
    }

    /// Whether the log is not followed because there is no room.
    pub(crate) fn is_paused(&self) -> bool {
        self.tending.is_paused()
    }

    /// Why facts do not land, or the log is not followed, where the last try failed; how often it has
    /// failed, and when it is tried again.
    pub fn trouble(&self) -> Option<String> {
        self.retries.lock().trouble(Instant::now())
    }

    /// The same of one of the two.
    pub fn trouble_of(&self, doing: Doing) -> Option<String> {
        self.retries.lock().trouble_of(doing, Instant::now())
    }

    /// How many tries in a row to land, or to follow the log, have failed.
    pub fn failed_tries(&self) -> u32 {
        self.retries.lock().most_tries()
    }

    /// Whether something that failed is due to be tried again.
    pub(crate) fn is_due(&self, doing: Doing) -> bool {
        self.retries.lock().of(doing).backoff.is_due(Instant::now())
    }

    /// Whether the last try of something failed.
    pub(crate) fn is_failing(&self, doing: Doing) -> bool {
        self.retries.lock().of(doing).backoff.is_failing()
    }

    /// Notes how a try to land or to follow the log ended. The same trouble is logged once.
    pub(crate) fn note_trouble(&self, doing: Doing, tried: &Result<()>) {
        let mut retries = self.retries.lock();
        retries.note(self.memory.name(), doing, tried, Instant::now());
    }

    /// Tells who waits for facts to land.
    fn tell_landed(&self, ranges: &Ranges) {
        let own = self.memory.partition;
        for (_, range) in ranges.iter().filter(|(p, _)| *p == own) {
            self.landed.send_replace(range.end);
        }
    }

    async fn cut_wal(&self, ranges: &Ranges) {
        let own = self.memory.partition;
        for (_, range) in ranges.iter().filter(|(p, _)| *p == own) {
            // Waits for room: a full WAL that is not cut now takes nothing that could land and cut it.
            self.appender.send(WriteRequest::Cut(range.end)).await.ok();
        }
    }
}
