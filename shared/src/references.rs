//! References as a process has them: rows are read from the landed facts of their topics, kept once for
//! all views and threads, and brought up from where they were. Facts meet landed rows alone, so whoever
//! knows up to which offsets a reference was read sees the same rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::compute::kernels::boolean::is_null;
use datafusion::common::DFSchema;
use datafusion::physical_expr::PhysicalExpr;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::blocking::blocking;
use crate::counted::counted;
use crate::late_fields::fit_facts;
use crate::log::Log;
use crate::reference::{Met, Reference, ReferenceRows, ReferencesAt, ReferencesMet};
use crate::storage::Storage;
use crate::view::{View, planning_session};
use crate::{Error, Offsets, Result, planted};

/// Rows that are read at once.
const ROWS_AT_ONCE: usize = 1 << 20;

/// How often files that were merged with others meanwhile are looked for anew.
const TRIES: usize = 5;

/// What a process keeps of the references of a storage.
#[derive(Debug, Default)]
struct Kept {
    known: Mutex<BTreeMap<String, Arc<Mutex<Known>>>>,
    /// The most bytes of memory that each may take.
    most_bytes: parking_lot::Mutex<BTreeMap<String, u64>>,
}

/// One reference, as far as it was read.
#[derive(Debug)]
struct Known {
    reference: Reference,
    log: Arc<Log>,
    newest: Arc<ReferenceRows>,
    /// Rows of before that were read last: what is read next is mostly a little newer.
    older: Option<Arc<ReferenceRows>>,
}

/// How large a reference is in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceSize {
    /// Its name.
    pub name: String,
    /// Whether all versions of a row are kept, for facts that meet rows as of their time.
    #[serde(default)]
    pub history: bool,
    /// Up to where it was read.
    pub at: Offsets,
    /// How many rows.
    pub rows: usize,
    /// Bytes of memory.
    pub bytes: usize,
}

/// Bounds the memory that the rows of a reference may take, in bytes.
pub fn bound_reference(storage: &Storage, name: &str, most_bytes: u64) {
    let kept = storage.kept::<Kept>();
    kept.most_bytes.lock().insert(name.to_owned(), most_bytes);
}

/// The references that this process has read, and how large they are.
pub async fn references_held(storage: &Storage) -> Vec<ReferenceSize> {
    let known: Vec<Arc<Mutex<Known>>> = {
        let kept = storage.kept::<Kept>();
        let known = kept.known.lock().await;
        known.values().cloned().collect()
    };
    let mut held = Vec::with_capacity(known.len());
    for known in known {
        let known = known.lock().await;
        held.push(ReferenceSize {
            name: known.reference.name.clone(),
            history: known.newest.keeps_history(),
            at: known.newest.at().clone(),
            rows: known.newest.rows(),
            bytes: known.newest.size_bytes(),
        });
    }
    held
}

/// The view as its facts meet the newest landed rows of its references; itself where it has none.
///
/// # Errors
/// `NoRoom` where the rows don't fit into the memory that references may take.
pub async fn with_references(
    storage: &Storage,
    view: &Arc<View>,
    now_ms: i64,
) -> Result<Arc<View>> {
    if view.references().is_empty() || !view.at().is_empty() {
        return Ok(view.clone());
    }
    let met = met_up_to(storage, view, &ReferencesAt::new(), now_ms).await?;
    view.bring_up(&met)
}

/// The view as its facts met its references up to some offsets; of references that are not named there
/// they meet the newest rows.
///
/// # Errors
/// As [`with_references`].
pub async fn with_references_at(
    storage: &Storage,
    view: &Arc<View>,
    at: &ReferencesAt,
    now_ms: i64,
) -> Result<View> {
    view.bound(&met_up_to(storage, view, at, now_ms).await?)
}

/// The rows of a view's references up to some offsets, and the newest of those that are not named there.
async fn met_up_to(
    storage: &Storage,
    view: &View,
    at: &ReferencesAt,
    now_ms: i64,
) -> Result<ReferencesMet> {
    let mut met = ReferencesMet::new();
    for reference in view.references() {
        let at = at.get(&reference.name).cloned();
        let rows = rows_of(
            storage,
            (reference, view.meets_as_of(&reference.name)),
            at,
            now_ms,
        )
        .await?;
        met.insert(reference.name.clone(), rows);
    }
    Ok(met)
}

/// The view whose facts meet, each by its place, what `met` says.
///
/// # Errors
/// As [`with_references`].
pub async fn as_met(
    storage: &Storage,
    view: &Arc<View>,
    met: &Met,
    now_ms: i64,
) -> Result<Arc<View>> {
    if view.references().is_empty() {
        return Ok(view.clone());
    }
    // From the oldest on, so that each is read on from the one before.
    let mut by_age: Vec<(usize, &ReferencesAt)> = met.iter().map(|by| &by.at).enumerate().collect();
    let offsets = |at: &Offsets| Offsets::default().distance_to(at);
    by_age.sort_by_key(|(_, at)| at.values().map(offsets).sum::<u64>());
    let mut rows = vec![ReferencesMet::new(); by_age.len()];
    for (nth, at) in by_age {
        for reference in view.references() {
            let at = at.get(&reference.name).cloned().unwrap_or_default();
            let found = rows_of(
                storage,
                (reference, view.meets_as_of(&reference.name)),
                Some(at),
                now_ms,
            )
            .await?;
            rows[nth].insert(reference.name.clone(), found);
        }
    }
    let ranges = met.iter().map(|by| by.ranges.clone());
    let places: Vec<_> = ranges.zip(rows).collect();
    Ok(Arc::new(view.bound_by_place(&places)?))
}

/// The rows of a reference up to some landed offsets, or up to the newest ones.
async fn rows_of(
    storage: &Storage,
    (reference, history): (&Reference, bool),
    at: Option<Offsets>,
    now_ms: i64,
) -> Result<Arc<ReferenceRows>> {
    let kept = storage.kept::<Kept>();
    let known = known(&kept, storage, (reference, history), now_ms).await?;
    let mut known = known.lock().await;
    let wanted = match at {
        Some(at) => at,
        None => {
            known.log.refresh().await?;
            known.log.head()
        }
    };
    let is_old = planted("planted-rows-never-newer") && *known.newest.at() != Offsets::default();
    if *known.newest.at() == wanted || is_old {
        return Ok(known.newest.clone());
    }
    let is_newer = wanted.covers(known.newest.at());
    let from = match &known.older {
        _ if is_newer => known.newest.clone(),
        Some(older) if *older.at() == wanted => return Ok(older.clone()),
        Some(older) if wanted.covers(older.at()) => older.clone(),
        _ => Arc::new(ReferenceRows::none(reference, history)?),
    };
    let most = kept.most_bytes.lock().get(&reference.name).copied();
    let rows = read(
        &known.log,
        reference,
        (&from, &wanted),
        most.unwrap_or(u64::MAX),
    )
    .await?;
    let rows = Arc::new(rows);
    match is_newer {
        true => known.newest = rows.clone(),
        false => known.older = Some(rows.clone()),
    }
    Ok(rows)
}

async fn known(
    kept: &Kept,
    storage: &Storage,
    (reference, history): (&Reference, bool),
    now_ms: i64,
) -> Result<Arc<Mutex<Known>>> {
    let mut all = kept.known.lock().await;
    // One of another declaration has other rows or columns.
    let key = format!("{history} {reference:?}");
    if let Some(known) = all.get(&key) {
        return Ok(known.clone());
    }
    let log = Log::open(&storage.apart(), &reference.topic, now_ms).await?;
    let known = Arc::new(Mutex::new(Known {
        reference: reference.clone(),
        log: Arc::new(log),
        newest: Arc::new(ReferenceRows::none(reference, history)?),
        older: None,
    }));
    // What is of a former declaration, and no view meets any more, is not kept in memory.
    all.retain(|_, other| match other.try_lock() {
        Ok(other) => other.reference.name != reference.name || Arc::strong_count(&other.newest) > 1,
        // Somebody reads it.
        Err(_) => true,
    });
    all.insert(key, known.clone());
    Ok(known)
}

/// Rows, and what landed facts up to `to` say beside.
async fn read(
    log: &Arc<Log>,
    reference: &Reference,
    (from, to): (&ReferenceRows, &Offsets),
    most_bytes: u64,
) -> Result<ReferenceRows> {
    let reader = Arc::new(Reader::of(reference)?);
    for tries in 0.. {
        match read_files(log, &reader, (from, to), most_bytes).await {
            // A file was merged with others since the log was looked at.
            Err(Error::Unavailable(_)) if tries < TRIES => drop(log.refresh().await?),
            read => return read,
        }
    }
    Err(Error::Internal("no end of tries".into()))
}

async fn read_files(
    log: &Arc<Log>,
    reader: &Arc<Reader>,
    (from, to): (&ReferenceRows, &Offsets),
    most_bytes: u64,
) -> Result<ReferenceRows> {
    if !log.head().covers(to) {
        log.refresh().await?;
    }
    let mut start = from.at().clone();
    log.low().iter().for_each(|(p, low)| start.raise(p, low));
    let name = &reader.reference.name;
    let mut rows = from.up_to(to.clone());
    for file in log.files_between(&start, to)? {
        let body = log.fetch_file(&file).await?;
        let reader = Arc::clone(reader);
        rows = blocking(move || {
            let (mut waiting, mut waiting_rows) = (Vec::new(), 0);
            let read = file.read(body, &reader.all, &reader.reference.topic.late_reads())?;
            for batch in read {
                let batch = batch?;
                waiting_rows += batch.num_rows();
                waiting.push(batch);
                if waiting_rows >= ROWS_AT_ONCE {
                    rows = reader.added(&rows, &std::mem::take(&mut waiting))?;
                    waiting_rows = 0;
                }
            }
            match waiting.is_empty() {
                true => Ok(rows),
                false => reader.added(&rows, &waiting),
            }
        })
        .await?;
        if rows.size_bytes() as u64 > most_bytes {
            return Err(Error::NoRoom(format!(
                "reference `{name}`: {} take {} bytes of memory, and may take {most_bytes} (`memory` in `[references.{name}]`); raise it, or name fewer fields in `fields`",
                counted(rows.rows() as u64, "row", "rows"),
                rows.size_bytes()
            )));
        }
    }
    Ok(rows)
}

/// How facts become rows of a reference.
struct Reader {
    reference: Reference,
    /// What is read of a fact.
    all: arrow::datatypes::SchemaRef,
    gone: Option<Arc<dyn PhysicalExpr>>,
}

impl Reader {
    fn of(reference: &Reference) -> Result<Self> {
        let all = match &reference.deleted_when {
            Some(_) => reference.topic.schema(),
            None => reference.read(),
        };
        Ok(Self {
            gone: gone(reference)?,
            reference: reference.clone(),
            all,
        })
    }

    fn added(&self, rows: &ReferenceRows, facts: &[RecordBatch]) -> Result<ReferenceRows> {
        let Some(first) = facts.first() else {
            return Ok(rows.up_to(rows.at().clone()));
        };
        let facts = concat_batches(&first.schema(), facts)?;
        let gone = match &self.gone {
            Some(condition) => {
                let met = condition.evaluate(&facts)?.into_array(facts.num_rows())?;
                let met = met.as_boolean();
                // What is not known is not true.
                match met.null_count() {
                    0 => met.clone(),
                    _ => arrow::compute::and_not(
                        &BooleanArray::new(met.values().clone(), None),
                        &is_null(met)?,
                    )?,
                }
            }
            None => BooleanArray::from(vec![false; facts.num_rows()]),
        };
        let read = fit_facts(
            &self.reference.read(),
            &self.reference.topic.late_reads(),
            &facts,
        )?;
        rows.with(&read, gone)
    }
}

/// What says of a fact that its key is not there.
fn gone(reference: &Reference) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let Some(text) = &reference.deleted_when else {
        return Ok(None);
    };
    let context = planning_session()?;
    let schema = DFSchema::try_from(reference.topic.schema().as_ref().clone())?;
    let wrong = |e: datafusion::common::DataFusionError| {
        Error::Invalid(format!(
            "`deleted_when` of reference `{}`, `{text}`: {}",
            reference.name,
            Error::from(e)
        ))
    };
    let expr = context.parse_sql_expr(text, &schema).map_err(wrong)?;
    let physical = context.create_physical_expr(expr, &schema).map_err(wrong)?;
    let is_boolean = physical
        .data_type(schema.as_arrow())
        .is_ok_and(|t| t == arrow::datatypes::DataType::Boolean);
    match is_boolean {
        true => Ok(Some(physical)),
        false => Err(Error::Invalid(format!(
            "`deleted_when` of reference `{}`, `{text}`, is no condition; write one that is true or false, such as `deleted`",
            reference.name
        ))),
    }
}

impl Reference {
    /// Checks what only planning tells.
    ///
    /// # Errors
    /// `Invalid` where `deleted_when` is no condition over the topic's fields.
    pub fn check(&self) -> Result<()> {
        gone(self).map(|_| ())
    }
}
