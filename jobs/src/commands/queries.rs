//! `anabranch queries`: what runs on the daemons, and `queries cancel`: stops one.

use clap::Subcommand;
use std::sync::Arc;

use anabranch_serving::QueryInfo;
use anabranch_shared::{Error, ErrorKind, Result, timestamp_type};
use arrow::array::{
    ArrayRef, Float64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::compute::cast;

use crate::commands::fitting::{fitted, on_one_line};
use crate::commands::printing::Printing;
use crate::output::{Style, human_bytes};
use crate::project::context::Context;
use crate::reader::client::Client;

/// A query and the daemon that it runs on.
#[derive(Clone, Debug)]
pub struct OfDaemon {
    /// The daemon's host and port.
    pub daemon: String,
    /// The query.
    pub query: QueryInfo,
}

async fn daemons(context: &Context) -> Result<Vec<Client>> {
    let daemons = Client::all(&context.storage).await?;
    match daemons.is_empty() {
        true => Err(Error::Unavailable(
            "no daemon answers; queries of `anabranch sql` without one end with Ctrl-C".to_owned(),
        )),
        false => Ok(daemons),
    }
}

/// What runs and waits on all daemons that answer, of each the longest first.
///
/// # Errors
/// `Unavailable` where none answers.
pub async fn list(context: &Context) -> Result<Vec<OfDaemon>> {
    let mut all = Vec::new();
    for client in daemons(context).await? {
        let daemon = client.reached().to_owned();
        let queries = client.queries().await?.into_iter();
        all.extend(queries.map(|query| OfDaemon {
            daemon: daemon.clone(),
            query,
        }));
    }
    Ok(all)
}

/// Stops a query, on whichever daemon it runs.
///
/// # Errors
/// `NotFound` where none has the id; `Unavailable` where no daemon answers.
pub async fn cancel(context: &Context, id: &str) -> Result<()> {
    let mut missing = None;
    for client in daemons(context).await? {
        match client.cancel(id).await {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => missing = Some(e),
            Err(e) => return Err(e),
        }
    }
    let none = || Error::NotFound(format!("no query `{id}` runs"));
    Err(missing.unwrap_or_else(none))
}

/// Queries as rows.
pub fn rows(queries: &[OfDaemon]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&OfDaemon) -> &str| -> ArrayRef {
        Arc::new(
            queries
                .iter()
                .map(|q| Some(of(q)))
                .collect::<StringViewArray>(),
        )
    };
    let since = queries
        .iter()
        .map(|q| i64::try_from(q.query.since_ms * 1_000).ok());
    let since: ArrayRef = Arc::new(since.collect::<TimestampMicrosecondArray>());
    // Tenths tell enough.
    let seconds = queries
        .iter()
        .map(|q| Some((q.query.seconds * 10.0).round() / 10.0));
    let memory = queries.iter().map(|q| Some(q.query.memory_bytes));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", text(&|q| &q.query.id)),
        ("state", text(&|q| &q.query.state)),
        ("who", text(&|q| &q.query.who)),
        ("since", cast(&since, &timestamp_type())?),
        ("seconds", Arc::new(seconds.collect::<Float64Array>())),
        ("memory_bytes", Arc::new(memory.collect::<UInt64Array>())),
        ("daemon", text(&|q| &q.daemon)),
        ("statement", text(&|q| &q.query.statement)),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// Queries for people, each on a line.
fn text(queries: &[OfDaemon], style: Style) -> String {
    if queries.is_empty() {
        return "no query runs or waits\n".to_owned();
    }
    let several = queries.iter().any(|q| q.daemon != queries[0].daemon);
    let mut headers = vec!["id", "state", "seconds", "memory", "statement", "who"];
    if several {
        headers.push("daemon");
    }
    let rows = queries.iter().map(|q| {
        let mut row = vec![
            q.query.id.clone(),
            q.query.state.clone(),
            format!("{:.1}", q.query.seconds),
            human_bytes(q.query.memory_bytes),
            on_one_line(&q.query.statement),
            on_one_line(&q.query.who),
        ];
        if several {
            row.push(q.daemon.clone());
        }
        row
    });
    fitted(&headers, rows.collect(), &[5, 4], style)
}

/// What is done to queries.
#[derive(Debug, Subcommand)]
pub enum QueriesCommand {
    /// Stops a query: whoever asked gets an error
    Cancel {
        /// Its id, as `anabranch queries` shows it
        id: String,
    },
}

/// Shows the queries, or stops one.
pub(crate) async fn run(
    command: Option<QueriesCommand>,
    context: &Context,
    printing: Printing,
) -> Result<u8> {
    match command {
        None => {
            let queries = list(context).await?;
            match printing.is_for_people() {
                true => printing.text(&text(&queries, printing.style))?,
                false => printing.rows(&rows(&queries)?)?,
            }
        }
        Some(QueriesCommand::Cancel { id }) => {
            cancel(context, &id).await?;
            let cancelled = serde_json::json!({ "cancelled": id });
            printing.either(|| format!("cancelled query `{id}`\n"), &cancelled)?;
        }
    }
    Ok(0)
}
