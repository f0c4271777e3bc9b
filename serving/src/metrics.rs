//! What becomes of queries, and how long each takes, from when it comes until its last row is read.
//! Owns what counts as which outcome.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use anabranch_shared::metrics::{Histograms, histograms, register, wait_times};
use anabranch_shared::{Error, ErrorKind, Stop, StopReason};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use futures::Stream;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::registry::Registry;

use crate::audit::{AuditRecord, Auditor};
use crate::door::Door;

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    /// All its rows were read.
    Ok,
    /// Its statement can't be answered: whoever sent it has to correct it.
    Invalid,
    /// There was no room for it: too many queries, or too little memory.
    Refused,
    /// It took longer than it may.
    TimedOut,
    /// Somebody cancelled it, or nobody waited for its answer any more.
    Cancelled,
    /// Something else went wrong: storage, damage, a defect.
    Failed,
}

impl EncodeLabelValue for Door {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.name().encode(encoder)
    }
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.name().encode(encoder)
    }
}

impl Outcome {
    /// What an error makes of a query that was told to stop, or not.
    fn of(e: &Error, why: Option<StopReason>) -> Self {
        match why {
            Some(StopReason::Late) => return Self::TimedOut,
            Some(StopReason::Cancelled | StopReason::Asked) => return Self::Cancelled,
            Some(StopReason::Memory) => return Self::Refused,
            // Once it has failed nobody waits either: see `Rows` for who leaves before.
            Some(StopReason::Gone) | None => {}
        }
        let root = e.root();
        if let Error::Query(e) = root
            && matches!(e.find_root(), DataFusionError::ResourcesExhausted(_))
        {
            return Self::Refused;
        }
        match (root, root.kind()) {
            (Error::NoRoom(_), _) => Self::Refused,
            (_, ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict) => Self::Invalid,
            _ => Self::Failed,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    door: Door,
    outcome: Outcome,
}

/// How long queries took, by the way in and by what became of them. Clones are one and the same.
#[derive(Clone, Debug)]
pub struct QueryMetrics {
    times: Histograms<Labels>,
}

impl Default for QueryMetrics {
    fn default() -> Self {
        Self {
            times: histograms(wait_times),
        }
    }
}

impl QueryMetrics {
    /// Lets whoever reads a registry see all of this.
    pub fn register(&self, registry: &mut Registry) {
        register(
            registry,
            "anabranch_query_seconds",
            "How long queries took, from when they came until the last row of the answer was read",
            self.times.clone(),
        );
    }

    /// A query has come; where somebody keeps records, this one is to be filled in.
    pub(crate) fn asked(&self, door: Door, audited: Option<Audited>) -> Asked {
        Asked(Arc::new(Measured {
            times: self.times.clone(),
            door,
            begun: Instant::now(),
            stop: OnceLock::new(),
            is_told: OnceLock::new(),
            rows: AtomicU64::new(0),
            audited,
        }))
    }
}

/// A query whose end is awaited. Where nobody tells of it until the last clone is dropped, it was
/// cancelled: whoever asked has left.
#[derive(Clone, Debug)]
pub(crate) struct Asked(Arc<Measured>);

#[derive(Debug)]
struct Measured {
    times: Histograms<Labels>,
    door: Door,
    begun: Instant,
    /// What tells the query to stop, once it was taken in.
    stop: OnceLock<Stop>,
    is_told: OnceLock<()>,
    /// Rows that were read.
    rows: AtomicU64,
    audited: Option<Audited>,
}

/// A record of a query, and who takes it.
pub(crate) type Audited = (Arc<dyn Auditor>, AuditRecord);

impl Measured {
    /// Only the first outcome counts.
    fn tell(&self, outcome: Outcome) {
        if self.is_told.set(()).is_ok() {
            let door = self.door;
            let times = self.times.get_or_create(&Labels { door, outcome });
            let seconds = self.begun.elapsed().as_secs_f64();
            times.observe(seconds);
            if let Some((auditor, record)) = &self.audited {
                auditor.note(AuditRecord {
                    rows: self.rows.load(Ordering::Relaxed),
                    seconds,
                    outcome: outcome.name(),
                    ..record.clone()
                });
            }
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let is_late = self.stop.get().and_then(Stop::reason) == Some(StopReason::Late);
        self.tell(match is_late {
            true => Outcome::TimedOut,
            false => Outcome::Cancelled,
        });
    }
}

impl Asked {
    /// The query was taken in.
    pub(crate) fn taken_in(&self, stop: &Stop) {
        self.0.stop.set(stop.clone()).ok();
    }

    fn why_stopped(&self) -> Option<StopReason> {
        self.0.stop.get().and_then(Stop::reason)
    }

    /// It failed, and who asked is told so.
    pub(crate) fn failed(&self, e: &Error) {
        self.0.tell(Outcome::of(e, self.why_stopped()));
    }

    /// Its rows, whose end is the query's.
    pub(crate) fn rows(&self, inner: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let asked = self.clone();
        Box::pin(Rows { inner, asked })
    }
}

/// Rows that tell how they end.
struct Rows {
    inner: SendableRecordBatchStream,
    asked: Asked,
}

impl Stream for Rows {
    type Item = Result<RecordBatch, DataFusionError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.inner.as_mut().poll_next(cx);
        match next {
            Poll::Ready(None) => {
                self.asked.0.tell(Outcome::Ok);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(e))) => {
                let e = Error::from(e);
                match self.asked.why_stopped() {
                    // The rows are dropped by another thread than the one that reads them.
                    Some(StopReason::Gone) => self.asked.0.tell(Outcome::Cancelled),
                    _ => self.asked.failed(&e),
                }
                Poll::Ready(Some(Err(e.into())))
            }
            Poll::Ready(Some(Ok(batch))) => {
                let rows = batch.num_rows() as u64;
                self.asked.0.rows.fetch_add(rows, Ordering::Relaxed);
                Poll::Ready(Some(Ok(batch)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl RecordBatchStream for Rows {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use arrow::datatypes::Schema;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use futures::{StreamExt, stream};
    use prometheus_client::encoding::text::encode;

    /// How many queries each outcome has, of those that came by HTTP.
    fn counts(metrics: &QueryMetrics) -> Vec<(String, u64)> {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        assert!(encode(&mut text, &registry).is_ok());
        let start = "anabranch_query_seconds_count{door=\"http\",outcome=\"";
        let row = |line: &str| {
            let (outcome, count) = line.strip_prefix(start)?.split_once("\"} ")?;
            Some((outcome.to_owned(), count.parse().ok()?))
        };
        let mut counts: Vec<_> = text.lines().filter_map(row).collect();
        counts.sort_unstable();
        counts
    }

    fn expected(all: &[(&str, u64)]) -> Vec<(String, u64)> {
        let all = all.iter();
        all.map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    fn rows(end: Option<DataFusionError>) -> SendableRecordBatchStream {
        let schema = Arc::new(Schema::empty());
        let batch = RecordBatch::new_empty(schema.clone());
        let all = [Ok(batch)].into_iter().chain(end.map(Err));
        Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(all)))
    }

    #[tokio::test]
    async fn an_answer_is_over_with_its_last_row() {
        let metrics = QueryMetrics::default();
        let asked = metrics.asked(Door::Http, None);
        let mut answer = asked.rows(rows(None));
        drop(asked);
        assert!(answer.next().await.is_some_and(|row| row.is_ok()));
        assert!(counts(&metrics).is_empty());
        assert!(answer.next().await.is_none());
        drop(answer);
        assert_eq!(counts(&metrics), expected(&[("ok", 1)]));
        // Whoever asked leaves before the end.
        let mut answer = metrics.asked(Door::Http, None).rows(rows(None));
        assert!(answer.next().await.is_some());
        drop(answer);
        drop(metrics.asked(Door::Http, None));
        assert_eq!(counts(&metrics), expected(&[("cancelled", 2), ("ok", 1)]));
        drop(metrics.asked(Door::Local, None));
        assert_eq!(counts(&metrics).len(), 2);
    }

    #[tokio::test]
    async fn an_error_among_the_rows_is_passed_on_and_told() {
        let metrics = QueryMetrics::default();
        let damaged = DataFusionError::from(Error::Corrupt("a file".into()));
        let answer = metrics.asked(Door::Http, None).rows(rows(Some(damaged)));
        let read: Vec<_> = answer.collect().await;
        let last = read.into_iter().next_back();
        let e = last.and_then(Result::err).map(Error::from);
        assert_eq!(e.map(|e| e.kind()), Some(ErrorKind::Corrupt));
        assert_eq!(counts(&metrics), expected(&[("failed", 1)]));
        // The reader leaves, and another thread sees the rows end before they are dropped.
        let asked = metrics.asked(Door::Http, None);
        let stop = Stop::never();
        asked.taken_in(&stop);
        stop.stop(StopReason::Gone);
        let gone = stop.check().err().map(DataFusionError::from);
        let read: Vec<_> = asked.rows(rows(gone)).collect().await;
        assert_eq!(read.len(), 2);
        assert_eq!(
            counts(&metrics),
            expected(&[("cancelled", 1), ("failed", 1)])
        );
    }

    #[test]
    fn outcomes_are_by_what_is_to_be_done() {
        let query = Error::Query;
        let exhausted = || DataFusionError::ResourcesExhausted("all of it".into());
        let by_error = [
            (Error::Invalid("x".into()), Outcome::Invalid),
            (Error::NotFound("x".into()), Outcome::Invalid),
            (query(DataFusionError::Plan("x".into())), Outcome::Invalid),
            (Error::NoRoom("x".into()), Outcome::Refused),
            (query(Error::NoRoom("x".into()).into()), Outcome::Refused),
            (query(exhausted()), Outcome::Refused),
            (Error::Unavailable("x".into()), Outcome::Failed),
            (Error::Corrupt("x".into()), Outcome::Failed),
            (Error::Internal("x".into()), Outcome::Failed),
        ];
        for (e, outcome) in &by_error {
            for why in [None, Some(StopReason::Gone)] {
                assert_eq!(Outcome::of(e, why), *outcome, "{e}");
            }
        }
        let e = Error::Unavailable("it was stopped".into());
        for (why, outcome) in [
            (StopReason::Late, Outcome::TimedOut),
            (StopReason::Cancelled, Outcome::Cancelled),
            (StopReason::Memory, Outcome::Refused),
        ] {
            assert_eq!(Outcome::of(&e, Some(why)), outcome);
        }
    }

    #[test]
    fn who_is_late_and_left_was_late() {
        let metrics = QueryMetrics::default();
        let asked = metrics.asked(Door::Http, None);
        let stop = Stop::after(Duration::ZERO);
        asked.taken_in(&stop);
        drop(asked);
        let asked = metrics.asked(Door::Http, None);
        asked.taken_in(&Stop::never());
        asked.failed(&Error::Invalid("no such column".into()));
        drop(asked);
        assert_eq!(
            counts(&metrics),
            expected(&[("invalid", 1), ("timed_out", 1)])
        );
    }
}
