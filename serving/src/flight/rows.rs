//! An answer as a stream of Flight's messages, as it is computed and as fast as it is read.

use anabranch_shared::{Error, Result, Stop};
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use datafusion::execution::SendableRecordBatchStream;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tonic::Status;

use super::status::status;
use crate::arrow_form::{ArrowForm, Texts};
use crate::metrics::Asked;
use crate::running::Waiter;
use crate::service::Answer;
use crate::workers::{self, Computing};

/// Batches that may wait for the reader.
const WAITING: usize = 2;

/// Messages on their way to a client.
pub(super) type Messages = BoxStream<'static, Result<FlightData, Status>>;

/// The columns of an answer as clients are told them: in types that every reader knows. That a column
/// has no NULL depends on the values of parameters, and clients compare what they were told with what
/// they get, so any may have some.
pub(super) fn told(schema: &SchemaRef) -> SchemaRef {
    let form = ArrowForm::new(schema, Texts::Plain);
    let fields = form.schema().fields().iter();
    let fields = fields.map(|f| Field::new(f.name(), f.data_type().clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The rows of an answer, whose freshness and notes go with the first message. What `held` holds is
/// held until they end.
pub(super) fn messages(
    answer: Answer,
    schema: SchemaRef,
    held: impl Send + 'static,
) -> Result<Messages> {
    let (waiter, asked, stop) = (answer.waiter(), answer.asked(), answer.stop().clone());
    let about = serde_json::json!({ "freshness": answer.freshness, "notes": answer.notes });
    let (send, received) = mpsc::channel(WAITING);
    let form = ArrowForm::new(&schema, Texts::Plain);
    let computing = workers::begin(formed(form, answer.stream, send, (stop, asked)))?;
    let rows = Rows {
        received,
        _computing: computing,
        _waiter: waiter,
    };
    let encoded = FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_metadata(about.to_string().into())
        .build(rows);
    let messages = encoded.map(move |message| {
        let _held = &held;
        message.map_err(of_encoder)
    });
    Ok(messages.boxed())
}

/// A table that is there as a whole.
pub(super) fn table(rows: RecordBatch) -> Messages {
    let encoded = FlightDataEncoderBuilder::new()
        .with_schema(rows.schema())
        .build(stream::iter([Ok(rows)]));
    encoded.map(|message| message.map_err(of_encoder)).boxed()
}

fn of_encoder(e: FlightError) -> Status {
    match e {
        FlightError::Tonic(status) => *status,
        e => status(&Error::Internal(e.to_string())),
    }
}

/// Brings rows into their form, as long as somebody reads them and the query goes on.
async fn formed(
    form: ArrowForm,
    mut rows: SendableRecordBatchStream,
    send: mpsc::Sender<Result<RecordBatch>>,
    (stop, asked): (Stop, Option<Asked>),
) {
    let forming = async {
        let gone = |_| Error::Cancelled("the client has left".to_owned());
        while let Some(batch) = rows.next().await {
            for batch in form.batches(&batch?)? {
                send.send(Ok(batch)).await.map_err(gone)?;
            }
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = forming => ended,
        // Whoever does not read holds no query beyond its time.
        e = stop.stopped() => Err(e),
    };
    if let Err(e) = ended {
        if let Some(asked) = asked {
            asked.failed(&e);
        }
        // What waits is read first; then it is told why there is no more, if anybody is there.
        send.send(Err(e)).await.ok();
    }
}

/// Rows as they come. Dropping this ends the work.
struct Rows {
    received: mpsc::Receiver<Result<RecordBatch>>,
    _computing: Computing<()>,
    _waiter: Waiter,
}

impl Stream for Rows {
    type Item = Result<RecordBatch, FlightError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let batch = std::task::ready!(self.received.poll_recv(cx));
        let failed = |e| FlightError::Tonic(Box::new(status(&e)));
        Poll::Ready(batch.map(|batch| batch.map_err(failed)))
    }
}
