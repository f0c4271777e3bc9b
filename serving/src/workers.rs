//! The threads that compute answers, apart from those that serve requests: an operator of a query
//! may compute for long before it lets anyone else on its thread go on, and meanwhile other daemons
//! and producers wait for an answer.

use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use anabranch_shared::{Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use datafusion::prelude::DataFrame;
use futures::{Stream, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Batches that may wait for the reader of an answer.
const WAITING_BATCHES: usize = 2;

/// The process's threads for queries. They live as long as it: connections to the storage that a
/// query has opened are used by others too.
fn workers() -> Result<&'static Runtime> {
    static WORKERS: OnceLock<Option<Runtime>> = OnceLock::new();
    let started = WORKERS.get_or_init(|| {
        let runtime = Builder::new_multi_thread()
            .thread_name("query")
            .enable_all()
            .build();
        runtime
            .inspect_err(|e| tracing::error!(error = %e, "can't start threads for queries"))
            .ok()
    });
    let none = || Error::Unavailable("can't start threads for queries; the log says why".into());
    started.as_ref().ok_or_else(none)
}

/// Plans and computes a query's rows on the threads for queries. Dropping the rows ends the query.
pub(crate) async fn rows(frame: DataFrame) -> Result<SendableRecordBatchStream> {
    let workers = workers()?;
    let mut planning = Computing(workers.spawn(async move { frame.execute_stream().await }));
    let mut stream = (&mut planning.0).await.map_err(ended)??;
    let schema = stream.schema();
    let (send, received) = mpsc::channel(WAITING_BATCHES);
    let computing = workers.spawn(async move {
        while let Some(batch) = stream.next().await {
            // Nobody reads on.
            if send.send(batch).await.is_err() {
                return;
            }
        }
    });
    Ok(Box::pin(Rows {
        schema,
        received,
        computing: Some(Computing(computing)),
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

fn ended(e: tokio::task::JoinError) -> Error {
    Error::Internal(format!("a query's thread ended: {e}"))
}

/// Work on those threads, which ends with this.
struct Computing<T>(JoinHandle<T>);

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
}

impl Stream for Rows {
    type Item = std::result::Result<RecordBatch, DataFusionError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.received.poll_recv(cx) {
            Poll::Ready(None) => {}
            other => return other,
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
