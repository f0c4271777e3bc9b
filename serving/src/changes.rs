//! What changes in a view, for whoever follows it: the rows that are other ones under a pin than under
//! the one before. All who may read the same rows of a view follow one [`Feed`], which looks twice a
//! second, so a thousand of them cost one computation.
//!
//! The answer at the pin where somebody begins, and the events from there on, are the answer at any
//! later pin. Old values come from the answer under the former pin. Of a view whose rows have its keys
//! only those are computed whose states came since; any other one is compared as a whole, and so is one
//! after a cut-over.

mod diff;
mod reader;
mod touched;

use self::diff::lines as lines_of;
pub(crate) use self::reader::Wanted;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::view::View;
use anabranch_shared::{Error, Result, Stop, ViewPin};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::logical_expr::Expr;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use crate::identity::{Rights, Rows};
use crate::reading::Reading;
use crate::row_rights::{is_row_by_row, view_filter};
use crate::service::SqlService;

/// How often a feed looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a feed goes on that nobody follows, so that whoever comes again goes on where they were.
const WAIT_FOR: Duration = Duration::from_secs(60);

/// Feeds at once, and those of them that compute at once.
const MOST_FEEDS: usize = 100;
const AT_ONCE: usize = 2;

/// How long one look may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Rows up to which an answer is compared as a whole: of a view whose rows have its keys, and of others.
const MOST_ROWS: usize = 1_000_000;
const MOST_WITHOUT_KEYS: usize = 10_000;

/// Steps that wait for a reader, and that are kept for those who come again: in number and in bytes.
const STEPS: usize = 256;
const KEPT_BYTES: usize = 16 << 20;

/// Where in a view somebody is: its generation and its head. It holds for this process alone.
pub(crate) type Token = String;

/// What happened to a view between two looks.
#[derive(Debug)]
pub(crate) enum Step {
    /// Its rows changed.
    Changed(Changed),
    /// Too much changed to be told row by row: the answer is to be read anew.
    Reset,
    /// It can't be computed; it is tried again.
    Failed(String),
    /// There is no such view any more.
    Gone(String),
}

/// Changed rows.
#[derive(Debug)]
pub(crate) struct Changed {
    /// Where one was before.
    from: Token,
    /// Where one is.
    pub(crate) to: Token,
    /// The generation that answers from now on, where it is another one.
    pub(crate) generation: Option<u64>,
    /// JSON objects: `{"op": …, "old": …, "new": …}`.
    pub(crate) events: Vec<Bytes>,
    /// What they take of the memory for queries.
    held: MemoryReservation,
}

/// What is told of a view to whoever begins to follow it.
#[derive(Debug)]
pub(crate) struct Begun {
    /// What happened since they left, where that is known.
    pub(crate) missed: Option<Vec<Arc<Step>>>,
    /// Where the feed is.
    pub(crate) at: Token,
    /// What it reads there.
    pub(crate) pinned: Arc<Pinned>,
    /// What happens from then on.
    pub(crate) steps: broadcast::Receiver<Arc<Step>>,
}

/// A view pinned, of the rows that somebody may read.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) pin: ViewPin,
    /// The rows that there are, where it is not all of them.
    rows: Option<Expr>,
    /// The columns of the answer that are its rows' key, where they have one.
    key: Option<Vec<usize>>,
}

impl Pinned {
    fn new(pin: ViewPin, rows: Option<Expr>) -> Result<Self> {
        Ok(Self {
            key: key(&pin.view)?,
            pin,
            rows,
        })
    }

    pub(crate) fn token(&self) -> Token {
        format!("g{} {}", self.pin.generation, self.pin.head)
    }

    /// The names of the columns that are its rows' key, where they have one.
    pub(crate) fn key_names(&self) -> Option<Vec<String>> {
        let schema = self.pin.view.schema();
        let key = self.key.as_ref()?.iter();
        Some(key.map(|at| schema.field(*at).name().clone()).collect())
    }

    fn most_rows(&self) -> usize {
        match self.key {
            Some(_) => MOST_ROWS,
            None => MOST_WITHOUT_KEYS,
        }
    }
}

/// The columns of a view's answer that are its keys, where each row is of one key and has all of it.
fn key(view: &View) -> Result<Option<Vec<usize>>> {
    use datafusion::catalog::TableProvider;
    use datafusion::datasource::empty::EmptyTable;
    if view.aggregate().is_none() {
        return Ok(None);
    }
    let leaf: Arc<dyn TableProvider> = Arc::new(EmptyTable::new(view.leaf_schema().clone()));
    if !is_row_by_row(&view.answer_plan(leaf)?)? {
        return Ok(None);
    }
    let schema = view.schema();
    let shown = (0..view.key_count()).map(|at| {
        let name = view.shown_as(at)?;
        schema.index_of(&name).ok()
    });
    Ok(shown.collect())
}

/// All who follow the same rows of a view.
#[derive(Debug)]
struct Feed {
    state: Mutex<State>,
    send: broadcast::Sender<Arc<Step>>,
}

#[derive(Debug)]
struct State {
    now: Arc<Pinned>,
    /// The last steps, the oldest first.
    kept: VecDeque<Arc<Step>>,
    kept_bytes: usize,
    /// Whether it can't be followed any more.
    is_over: bool,
}

/// Who follows views of a service.
#[derive(Debug)]
pub struct Following {
    service: Arc<SqlService>,
    /// The feeds, by view and by the rows of it.
    feeds: Mutex<BTreeMap<(String, String), Arc<Feed>>>,
    turns: Arc<Semaphore>,
    /// Once nobody is to follow any more.
    closing: CancellationToken,
}

impl Following {
    /// Nobody follows yet.
    pub fn new(service: Arc<SqlService>) -> Arc<Self> {
        Arc::new(Self {
            service,
            feeds: Mutex::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            closing: CancellationToken::new(),
        })
    }

    /// The service.
    pub fn service(&self) -> &Arc<SqlService> {
        &self.service
    }

    /// Ends all that follow: the process is about to stop.
    pub fn close(&self) {
        self.closing.cancel();
        self.feeds.lock().clear();
    }

    /// Once nobody is to follow any more.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Begins to follow a view, from where a token says if that is known.
    ///
    /// # Errors
    /// `NotFound` where there is no such view that somebody may read; `Invalid` where its rows have no
    /// key and are too many; `NoRoom` where too many feeds are followed.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        view: &str,
        rights: &Rights,
        token: Option<&str>,
    ) -> Result<Begun> {
        let key = (view.to_owned(), rows_text(rights.rows(view)));
        if let Some(feed) = self.feeds.lock().get(&key)
            && let Some(begun) = feed.begin(token)
        {
            return Ok(begun);
        }
        let pinned = self.pinned_view(view, rights).await?;
        if pinned.key.is_none() {
            // Whether it can be followed.
            self.rows_of(&pinned, None).await?;
        }
        let pinned = Arc::new(pinned);
        let mut list = self.feeds.lock();
        // Somebody else may have been as fast.
        if let Some(begun) = list.get(&key).and_then(|feed| feed.begin(token)) {
            return Ok(begun);
        }
        if list.len() >= MOST_FEEDS {
            return Err(Error::NoRoom(format!(
                "{MOST_FEEDS} views are followed, or rows of them, which are the most; try again later"
            )));
        }
        let feed = Arc::new(Feed {
            state: Mutex::new(State {
                now: pinned,
                kept: VecDeque::new(),
                kept_bytes: 0,
                is_over: false,
            }),
            send: broadcast::Sender::new(STEPS),
        });
        let begun = feed.begin(token);
        list.insert(key.clone(), feed.clone());
        drop(list);
        let (all, rights) = (self.clone(), rights.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = feed.run(&all, &key.0, &rights) => {}
                () = all.closing.cancelled() => {}
            }
            feed.state.lock().is_over = true;
            let mut list = all.feeds.lock();
            if list
                .get(&key)
                .is_some_and(|there| Arc::ptr_eq(there, &feed))
            {
                list.remove(&key);
            }
        });
        begun.ok_or_else(|| Error::Internal("a feed ended as it began".to_owned()))
    }

    /// A view pinned, of the rows that somebody may read.
    async fn pinned_view(&self, view: &str, rights: &Rights) -> Result<Pinned> {
        let pin = self
            .service
            .pin_of_view(view, &Reading::default(), rights)
            .await?;
        let rows = view_filter(&pin.view, rights.rows(view))?;
        let rows = rows.ok_or_else(|| Error::NotFound(format!("there is no view `{view}`")))?;
        Pinned::new(pin, rows)
    }

    /// The rows of a pinned view that a condition on its leaf's keys chooses.
    async fn rows_of(
        &self,
        pinned: &Pinned,
        keys: Option<&Expr>,
    ) -> Result<(RecordBatch, MemoryReservation)> {
        let stop = Stop::after(LIMIT);
        let stream = self.pinned_rows(pinned, keys, &stop).await?;
        stop.within(self.whole(stream, pinned.most_rows())).await
    }

    /// As [`Following::rows_of`], as they are computed.
    pub(crate) async fn pinned_rows(
        &self,
        pinned: &Pinned,
        keys: Option<&Expr>,
        stop: &Stop,
    ) -> Result<SendableRecordBatchStream> {
        let barrier = match (&pinned.rows, keys) {
            (Some(rows), Some(keys)) => Some(rows.clone().and(keys.clone())),
            (rows, keys) => rows.as_ref().or(keys).cloned(),
        };
        let pool = self.service.memory_pool().clone();
        self.service
            .view_answer_of(&pinned.pin, barrier, &pool, stop)
            .await
    }

    /// Memory of that for queries, of which nothing is taken yet.
    fn memory(&self) -> MemoryReservation {
        MemoryConsumer::new("changes").register(self.service.memory_pool())
    }

    /// All rows of a stream, up to so many, and what holds their memory.
    async fn whole(
        &self,
        mut stream: SendableRecordBatchStream,
        most: usize,
    ) -> Result<(RecordBatch, MemoryReservation)> {
        let reserved = self.memory();
        let (schema, mut batches, mut rows) = (stream.schema(), Vec::new(), 0);
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            rows += batch.num_rows();
            if rows > most {
                return Err(Error::Invalid(format!(
                    "the view has more than {most} rows and is compared as a whole: its rows are not told apart by its keys, or too many of them are other ones"
                )));
            }
            reserved.try_grow(batch.get_array_memory_size())?;
            batches.push(batch);
        }
        Ok((concat_batches(&schema, &batches)?, reserved))
    }
}

/// What distinguishes the rows that somebody may read.
fn rows_text(rows: Rows<'_>) -> String {
    match rows {
        Rows::None => "none".to_owned(),
        Rows::All => String::new(),
        Rows::Chosen(filters) => format!("{filters:?}"),
    }
}

impl Feed {
    /// Begins to follow; nothing where it is over.
    fn begin(&self, token: Option<&str>) -> Option<Begun> {
        let state = self.state.lock();
        if state.is_over {
            return None;
        }
        let at = state.now.token();
        let missed = token.and_then(|token| state.since(token, &at));
        Some(Begun {
            missed,
            at,
            pinned: state.now.clone(),
            steps: self.send.subscribe(),
        })
    }

    /// Looks again and again, until nobody has followed for a while or the view is gone.
    async fn run(&self, all: &Following, view: &str, rights: &Rights) {
        let (mut alone_since, mut trouble) = (None, None);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.send.receiver_count() > 0 {
                alone_since = None;
            } else if alone_since.get_or_insert_with(Instant::now).elapsed() > WAIT_FOR {
                let mut state = self.state.lock();
                if self.send.receiver_count() == 0 {
                    state.is_over = true;
                    return;
                }
            }
            let Ok(_turn) = all.turns.clone().acquire_owned().await else {
                return;
            };
            let step = match self.look(all, view, rights).await {
                Ok(None) => {
                    trouble = None;
                    continue;
                }
                Ok(Some(step)) => {
                    trouble = None;
                    step
                }
                Err(Error::NotFound(why)) => {
                    self.take(Step::Gone(why), None);
                    return;
                }
                Err(e) => {
                    let why = e.to_string();
                    if trouble.as_ref() == Some(&why) {
                        continue;
                    }
                    trouble = Some(why.clone());
                    (Step::Failed(why), None)
                }
            };
            self.take(step.0, step.1);
        }
    }

    /// What has happened since the last look, if anything.
    async fn look(
        &self,
        all: &Following,
        view: &str,
        rights: &Rights,
    ) -> Result<Option<(Step, Option<Arc<Pinned>>)>> {
        let old = self.state.lock().now.clone();
        let new = Arc::new(all.pinned_view(view, rights).await?);
        let is_same_generation = old.pin.generation == new.pin.generation;
        if is_same_generation && old.pin.head == new.pin.head {
            // The answer is the same, and files that it was made of may be replaced by now.
            self.state.lock().now = new;
            return Ok(None);
        }
        let compared = compared(all, &old, &new, is_same_generation).await;
        let events = match compared {
            Ok(Some(events)) => events,
            Ok(None) => return Ok(Some((Step::Reset, Some(new)))),
            Err(e) => return Err(e),
        };
        let held = all.memory();
        if held.try_grow(events.iter().map(Bytes::len).sum()).is_err() {
            return Ok(Some((Step::Reset, Some(new))));
        }
        let changed = Changed {
            from: old.token(),
            to: new.token(),
            generation: (!is_same_generation).then_some(new.pin.generation.0),
            events,
            held,
        };
        Ok(Some((Step::Changed(changed), Some(new))))
    }

    /// Tells all who follow, and keeps it for those who come again.
    fn take(&self, step: Step, now: Option<Arc<Pinned>>) {
        let step = Arc::new(step);
        let mut state = self.state.lock();
        if let Some(now) = now {
            state.now = now;
        }
        state.is_over = matches!(*step, Step::Gone(_));
        state.keep(step.clone());
        // Under the lock: whoever begins has either this, or the pin after it.
        self.send.send(step).ok();
    }
}

impl State {
    /// What has happened since a token, where that is known.
    fn since(&self, token: &str, at: &str) -> Option<Vec<Arc<Step>>> {
        if token == at {
            return Some(Vec::new());
        }
        let is_from =
            |step: &Arc<Step>| matches!(step.as_ref(), Step::Changed(c) if c.from == token);
        let first = self.kept.iter().position(is_from)?;
        Some(self.kept.iter().skip(first).cloned().collect())
    }

    fn keep(&mut self, step: Arc<Step>) {
        let bytes = |step: &Step| match step {
            Step::Changed(changed) => changed.held.size(),
            _ => 0,
        };
        match step.as_ref() {
            Step::Failed(_) | Step::Gone(_) => return,
            // Nothing leads across it.
            Step::Reset => {
                self.kept.clear();
                self.kept_bytes = 0;
                return;
            }
            Step::Changed(_) => {}
        }
        self.kept_bytes += bytes(&step);
        self.kept.push_back(step);
        while self.kept.len() > STEPS || self.kept_bytes > KEPT_BYTES {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.kept_bytes -= bytes(&oldest);
        }
    }
}

/// The rows that are other ones under a pin than under another; nothing where that can't be told, because
/// they are too many, or the former ones can't be read any more.
async fn compared(
    all: &Following,
    old: &Pinned,
    new: &Pinned,
    is_same_generation: bool,
) -> Result<Option<Vec<Bytes>>> {
    let is_keyed = is_same_generation && new.key.is_some();
    let keys = match is_keyed && new.pin.view.key_count() > 0 {
        true => touched_keys(&all.service, old, new).await?,
        false => None,
    };
    let (after, _after_held) = match all.rows_of(new, keys.as_ref()).await {
        Ok(rows) => rows,
        Err(Error::Invalid(_)) if new.key.is_some() => return Ok(None),
        Err(e) => return Err(e),
    };
    let (before, _before_held) = match all.rows_of(old, keys.as_ref()).await {
        Ok(rows) => rows,
        Err(e) => {
            tracing::info!(error = %e, "who follows a view is told to read it anew");
            return Ok(None);
        }
    };
    // Of another generation rows may have other columns: then each is another one.
    let is_alike = before.schema().fields() == after.schema().fields();
    let events = crate::workers::compute({
        let key = new.key.clone().filter(|_| is_alike && old.key.is_some());
        async move {
            match is_alike {
                true => diff::events(&before, &after, key.as_deref()),
                false => {
                    let (none_before, none_after) = (
                        diff::nothing(after.schema_ref()),
                        diff::nothing(before.schema_ref()),
                    );
                    let mut events = diff::events(&before, &none_after, None)?;
                    events.extend(diff::events(&none_before, &after, None)?);
                    Ok(events)
                }
            }
        }
    });
    Ok(Some(events.await?.into_iter().map(Bytes::from).collect()))
}

/// A condition on the keys that may have other values; none for all.
async fn touched_keys(service: &SqlService, old: &Pinned, new: &Pinned) -> Result<Option<Expr>> {
    let between = touched::between(&old.pin, &new.pin);
    let stop = Stop::after(LIMIT);
    let mut keys = service.leaf_keys(&between, &stop).await?;
    let reading = async {
        let mut batches = Vec::new();
        while let Some(batch) = keys.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    };
    touched::condition(&stop.within(reading).await?)
}
