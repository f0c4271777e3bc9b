//! A client of Arrow Flight SQL.

use arrow::array::RecordBatch;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::{FlightInfo, Ticket};
use futures::TryStreamExt;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::daemon::Daemon;

/// Where a daemon answers clients of Arrow Flight SQL, by what `/health` says.
pub async fn address(daemon: &Daemon) -> anyhow::Result<String> {
    let (_, health) = daemon.get("/health").await?;
    let health: serde_json::Value = serde_json::from_str(&health)?;
    let address = health["flight"].as_str().unwrap_or_default().to_owned();
    anyhow::ensure!(!address.is_empty(), "{health}");
    Ok(address)
}

/// A client that asks with a token, or as nobody where that is empty.
pub async fn client(
    daemon: &Daemon,
    token: &str,
) -> anyhow::Result<FlightSqlServiceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{}", address(daemon).await?))?;
    let mut client = FlightSqlServiceClient::new(endpoint.connect().await?);
    if !token.is_empty() {
        client.set_token(token.to_owned());
    }
    Ok(client)
}

/// The status that a call ended with; that of an unknown one where it was no status.
pub fn status(e: FlightError) -> Status {
    match e {
        FlightError::Tonic(status) => *status,
        e => Status::unknown(e.to_string()),
    }
}

/// What is had at the one place of an answer.
///
/// # Errors
/// What the call, or the answer in the middle, ends with.
pub async fn fetched(
    client: &mut FlightSqlServiceClient<Channel>,
    info: FlightInfo,
) -> Result<Vec<RecordBatch>, Status> {
    let ticket = info.endpoint.into_iter().next().and_then(|e| e.ticket);
    let ticket: Ticket = ticket.ok_or_else(|| Status::unknown("no ticket"))?;
    let rows = client.do_get(ticket).await.map_err(status)?;
    rows.try_collect().await.map_err(status)
}

/// The answer of a statement.
///
/// # Errors
/// As [`fetched`].
pub async fn rows(
    client: &mut FlightSqlServiceClient<Channel>,
    sql: &str,
) -> Result<Vec<RecordBatch>, Status> {
    let info = client
        .execute(sql.to_owned(), None)
        .await
        .map_err(of_arrow)?;
    fetched(client, info).await
}

/// The status in an error of the client.
pub fn of_arrow(e: impl Into<FlightError>) -> Status {
    status(e.into())
}
