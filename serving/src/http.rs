//! `POST /sql`: a statement in, an answer out, as an Arrow IPC stream, JSON or NDJSON.

use std::sync::Arc;

use anabranch_shared::{Error, ErrorKind, ReadMode, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::StreamExt;

use crate::session::{Answer, SqlService, read_setting, timed_out};

const ARROW: &str = "application/vnd.apache.arrow.stream";
const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json";

/// The parameters of a request, besides its body.
#[derive(Debug, Default, serde::Deserialize)]
pub struct SqlRequest {
    /// `merged` (default) or `batch`.
    #[serde(default)]
    pub read: Option<String>,
}

/// The routes of this layer.
pub fn router(service: Arc<SqlService>) -> Router {
    Router::new()
        .route("/sql", post(sql))
        .route("/relations", get(relations))
        .with_state(service)
}

async fn sql(
    State(service): State<Arc<SqlService>>,
    Query(request): Query<SqlRequest>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match answer(&service, &request, &headers, &body).await {
        Ok(response) => response,
        Err(e) => error_response(&e),
    }
}

/// What can be queried: name, kind, and columns as name, type and nullability.
async fn relations(State(service): State<Arc<SqlService>>) -> Response {
    let list = match service.pinner().relations().await {
        Ok(list) => list,
        Err(e) => return error_response(&e),
    };
    let shown: Vec<_> = list
        .iter()
        .map(|r| {
            let columns = r.schema.fields().iter();
            let columns: Vec<_> = columns
                .map(|f| (f.name().clone(), f.data_type().to_string(), f.is_nullable()))
                .collect();
            (r.name.clone(), r.kind, columns)
        })
        .collect();
    axum::Json(shown).into_response()
}

/// An error as an answer, with its status.
pub(crate) fn error_response(e: &Error) -> Response {
    let kind = e.kind();
    if kind == ErrorKind::Internal || kind == ErrorKind::Corrupt {
        tracing::error!(error = %e, "query failed");
    }
    let status = StatusCode::from_u16(kind.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let body = serde_json::json!({ "error": e.to_string(), "kind": kind.to_string() });
    (status, [(header::CONTENT_TYPE, JSON)], body.to_string()).into_response()
}

async fn answer(
    service: &SqlService,
    request: &SqlRequest,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response> {
    let sql = std::str::from_utf8(body)
        .map_err(|_| Error::Invalid("the statement is not valid UTF-8".into()))?;
    let mode = match request.read.as_deref() {
        None | Some("merged") => ReadMode::Merged,
        Some("batch") => ReadMode::Batch,
        Some(other) => {
            return Err(Error::Invalid(format!(
                "`read` = `{other}`: write `merged` or `batch`"
            )));
        }
    };
    if let Some(setting) = read_setting(sql) {
        setting?;
        return Err(Error::Invalid(
            "a request has no session; give `?read=batch` with each statement instead".into(),
        ));
    }
    let answer = service.query(sql, mode).await?;
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or(JSON);
    let content_type = [ARROW, NDJSON]
        .into_iter()
        .find(|t| accept.contains(t))
        .unwrap_or(JSON);
    respond(service, answer, content_type).await
}

/// The whole answer is computed before the first byte is sent, so that a failure is an error and
/// never a shorter answer. (The engine's memory bound counts the rows.)
async fn respond(
    service: &SqlService,
    answer: Answer,
    content_type: &'static str,
) -> Result<Response> {
    let Answer {
        schema,
        mut stream,
        freshness,
        notes,
    } = answer;
    let collect = async {
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await {
            batches.push(batch?);
        }
        Ok::<_, Error>(batches)
    };
    let batches = tokio::time::timeout(service.timeout(), collect)
        .await
        .map_err(|_| timed_out(service.timeout()))??;
    let body = encode(&schema, &batches, content_type)?;
    let mut response = ([(header::CONTENT_TYPE, content_type)], body).into_response();
    let mut note = |name: &'static str, value: &str| {
        // Header values are ASCII; a name with other letters is escaped.
        let value: String = value.escape_default().collect();
        if let Ok(value) = HeaderValue::from_str(&value) {
            response
                .headers_mut()
                .append(HeaderName::from_static(name), value);
        }
    };
    note("anabranch-freshness", &freshness);
    notes.iter().for_each(|n| note("anabranch-note", n));
    Ok(response)
}

fn encode(schema: &SchemaRef, batches: &[RecordBatch], content_type: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    match content_type {
        ARROW => {
            let mut writer = StreamWriter::try_new(&mut out, schema)?;
            for batch in batches {
                writer.write(batch)?;
            }
            writer.finish()?;
        }
        NDJSON => {
            let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
            let mut writer = builder.build::<_, arrow::json::writer::LineDelimited>(&mut out);
            for batch in batches {
                writer.write(batch)?;
            }
            writer.finish()?;
        }
        _ => {
            let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
            let mut writer = builder.build::<_, arrow::json::writer::JsonArray>(&mut out);
            for batch in batches {
                writer.write(batch)?;
            }
            writer.finish()?;
            if out.is_empty() {
                out.extend_from_slice(b"[]");
            }
        }
    }
    Ok(out)
}
