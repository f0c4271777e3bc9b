//! The threads that compute answers, apart from those that serve requests: an operator of a query
//! may compute for long before it lets anyone else on its thread go on, and meanwhile other daemons
//! and producers wait for an answer.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use anabranch_shared::sql::STACK_BYTES;
use anabranch_shared::{Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::running::{Running, Waiter};

/// Batches that may wait for the reader of an answer.
const WAITING_BATCHES: usize = 2;

/// Threads for each core: one query that computes long without a pause must not keep the others from
/// being planned.
const THREADS_A_CORE: usize = 2;

/// The process's threads for queries. Their stacks are large, because planning goes down as deep as a
/// statement does. They live as long as it: connections to the storage that a
/// query has opened are used by others too.
fn workers() -> Result<&'static Runtime> {
    static WORKERS: OnceLock<Option<Runtime>> = OnceLock::new();
    let started = WORKERS.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .worker_threads(cores * THREADS_A_CORE)
            .enable_all()
            .build();
        runtime
            .inspect_err(|e| tracing::error!(error = %e, "can't start threads for queries"))
            .ok()
    });
    let none = || Error::Unavailable("can't start threads for queries; the log says why".into());
    started.as_ref().ok_or_else(none)
}

/// A query's rows, made and computed on the threads for queries. They end with an error once the query
/// is to stop, and dropping them stops it.
///
/// # Errors
/// Those of making them, and of [`anabranch_shared::Stop::check`].
pub(crate) async fn rows(
    query: Arc<Running>,
    waiter: Waiter,
    make: BoxFuture<'static, Result<SendableRecordBatchStream>>,
) -> Result<SendableRecordBatchStream> {
    // The query is over when its work is, and not when nobody waits any more.
    let held = query.clone();
    let make = async move {
        let _held = held;
        make.await
    };
    let mut stream = query.stop.within(compute(make)).await?;
    let schema = stream.schema();
    let (send, received) = mpsc::channel(WAITING_BATCHES);
    let held = query.clone();
    let computing = workers()?.spawn(async move {
        while let Some(batch) = stream.next().await {
            if let Ok(batch) = &batch {
                held.rows.fetch_add(batch.num_rows(), Ordering::Relaxed);
            }
            // Nobody reads on.
            if send.send(batch).await.is_err() {
                return;
            }
        }
    });
    let stop = query.stop.clone();
    Ok(Box::pin(Rows {
        schema,
        received,
        computing: Some(Computing(computing)),
        stopped: Box::pin(async move { stop.stopped().await }),
        _waiter: waiter,
    }))
}

/// Does work on the threads for queries. Dropping the future ends it.
///
/// # Errors
/// Those of the work; `Internal` where its thread ended.
pub async fn compute<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut computing = Computing(workers()?.spawn(work));
    (&mut computing.0).await.map_err(ended)?
}

/// Does work on the threads for queries, beside the caller. Dropping what is returned ends it.
///
/// # Errors
/// `Unavailable` where there are no such threads.
pub(crate) fn begin(work: impl Future<Output = ()> + Send + 'static) -> Result<Computing<()>> {
    Ok(Computing(workers()?.spawn(work)))
}

/// Does work of a query that may take long without a pause and can't be stopped, such as planning: the
/// other work of its thread goes to another one. To be called on the threads for queries.
pub(crate) fn at_length<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
}

/// Something that goes deep: it is dropped on the threads for queries, because what drops it goes as
/// deep.
#[derive(Debug)]
pub(crate) struct Kept<T: Send + 'static>(Option<Box<T>>);

impl<T: Send + 'static> Kept<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(Box::new(value)))
    }

    /// What is kept, on the threads for queries.
    pub(crate) fn take(mut self) -> Result<T> {
        let none = || Error::Internal("nothing is kept".to_owned());
        self.0.take().map(|value| *value).ok_or_else(none)
    }
}

impl<T: Send + 'static> Drop for Kept<T> {
    fn drop(&mut self) {
        if let (Some(value), Ok(workers)) = (self.0.take(), workers()) {
            workers.spawn(async move { drop(value) });
        }
    }
}

fn ended(e: tokio::task::JoinError) -> Error {
    Error::Internal(format!("a query's thread ended: {e}"))
}

/// Work on those threads, which ends with this.
pub(crate) struct Computing<T>(JoinHandle<T>);

impl<T> Drop for Computing<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Rows that are computed there.
struct Rows {
    schema: SchemaRef,
    received: mpsc::Receiver<std::result::Result<RecordBatch, DataFusionError>>,
    computing: Option<Computing<()>>,
    /// Comes to an error once the query is to stop.
    stopped: BoxFuture<'static, Error>,
    _waiter: Waiter,
}

impl Stream for Rows {
    type Item = std::result::Result<RecordBatch, DataFusionError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.received.poll_recv(cx) {
            Poll::Ready(None) => {}
            Poll::Pending => {
                return match self.stopped.as_mut().poll(cx) {
                    Poll::Ready(e) if self.computing.take().is_some() => {
                        Poll::Ready(Some(Err(e.into())))
                    }
                    Poll::Ready(_) => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                };
            }
            batch => return batch,
        }
        // The end of the batches is the end of the answer only if the work has ended well.
        let Some(computing) = self.computing.as_mut() else {
            return Poll::Ready(None);
        };
        let ended_well = match Pin::new(&mut computing.0).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(joined) => joined,
        };
        self.computing = None;
        Poll::Ready(ended_well.err().map(|e| Err(ended(e).into())))
    }
}

impl RecordBatchStream for Rows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}
