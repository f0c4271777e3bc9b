//! `POST /sql`: a statement in, an answer out, as an Arrow IPC stream, JSON or NDJSON. `GET /queries`:
//! what runs; `DELETE /queries/ID` stops one.

use std::net::SocketAddr;
use std::sync::Arc;

use anabranch_shared::{Error, ErrorKind, ReadMode, Result};
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use futures::StreamExt;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

use crate::described::RelationInfo;
use crate::encode::{ARROW, Encoder, JSON, NDJSON, Texts};
use crate::metrics::Door;
use crate::reading::{Reading, setting};
use crate::session::{Answer, SqlService};
use crate::workers::compute;

/// What is escaped in notes: header values are ASCII.
const NOT_IN_A_HEADER: &AsciiSet = &CONTROLS.add(b'%');

/// A note as it was before it became the value of a header.
pub fn note_of(header: &[u8]) -> String {
    percent_decode(header).decode_utf8_lossy().into_owned()
}

/// The parameters of a request, besides its body.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlRequest {
    /// `merged` (default) or `batch`.
    #[serde(default)]
    pub read: Option<String>,
    /// Schemas in which names are looked for, such as `candidate,public`.
    #[serde(default)]
    pub search_path: Option<String>,
}

/// The parameters of `GET /relations`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RelationsRequest {
    #[serde(rename = "as", default)]
    form: Option<RelationsForm>,
}

/// In which form relations are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum RelationsForm {
    Objects,
}

/// The routes of this layer.
pub fn router(service: Arc<SqlService>) -> Router {
    Router::new()
        .route("/sql", post(sql))
        .route("/relations", get(relations))
        .route("/queries", get(queries))
        .route("/queries/{id}", delete(cancel))
        .with_state(service)
}

async fn sql(
    State(service): State<Arc<SqlService>>,
    Query(request): Query<SqlRequest>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let who = who(
        peer.map(|Extension(ConnectInfo(address))| address),
        &headers,
    );
    match answer(&service, &request, &who, &headers, &body).await {
        Ok(response) => response,
        Err(e) => error_response(&e),
    }
}

/// Who asks: from where, and with which program.
pub fn who(peer: Option<SocketAddr>, headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT);
    let agent = agent.and_then(|v| v.to_str().ok()).unwrap_or("HTTP");
    let agent: String = agent.chars().take(100).collect();
    match peer {
        Some(peer) => format!("{agent} at {peer}"),
        None => agent,
    }
}

/// What runs and waits, the longest first.
async fn queries(State(service): State<Arc<SqlService>>) -> Response {
    Json(serde_json::json!({ "queries": service.queries() })).into_response()
}

/// Stops a query.
async fn cancel(State(service): State<Arc<SqlService>>, Path(id): Path<String>) -> Response {
    match service.cancel(&id) {
        Ok(()) => Json(serde_json::json!({ "cancelled": id })).into_response(),
        Err(e) => error_response(&e),
    }
}

/// What can be queried: as objects, or in the form of before that older shells read.
async fn relations(
    State(service): State<Arc<SqlService>>,
    Query(request): Query<RelationsRequest>,
) -> Response {
    let list = match service.pinner().relations().await {
        Ok(list) => list,
        Err(e) => return error_response(&e),
    };
    if request.form == Some(RelationsForm::Objects) {
        let list: Vec<_> = list.iter().map(RelationInfo::of).collect();
        return Json(list).into_response();
    }
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
    Json(shown).into_response()
}

/// An error as an answer, with its status.
pub fn error_response(e: &Error) -> Response {
    let kind = e.kind();
    if kind == ErrorKind::Internal || kind == ErrorKind::Corrupt {
        tracing::error!(error = %e, "query failed");
    }
    let status = StatusCode::from_u16(kind.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let mut body = serde_json::json!({ "error": e.to_string(), "kind": kind.to_string() });
    if let (Some((line, column)), Some(body)) = (e.place(), body.as_object_mut()) {
        body.insert("line".to_owned(), line.into());
        body.insert("column".to_owned(), column.into());
    }
    let mut response = (status, [(header::CONTENT_TYPE, JSON)], body.to_string()).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

async fn answer(
    service: &SqlService,
    request: &SqlRequest,
    who: &str,
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
    let search_path = request.search_path.as_deref().map(str::parse).transpose()?;
    if let Some(setting) = setting(sql) {
        setting?;
        return Err(Error::Invalid(
            "a request has no session; give `?read=batch` or `?search_path=candidate,public` with each statement instead".into(),
        ));
    }
    let reading = Reading {
        mode,
        search_path: search_path.unwrap_or_default(),
    };
    let answer = service.query_by((Door::Http, who), sql, &reading).await?;
    let asked = answer.asked();
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or(JSON);
    let content_type = [ARROW, NDJSON]
        .into_iter()
        .find(|t| accept.contains(t))
        .unwrap_or(JSON);
    let answered = respond(service, answer, content_type, Texts::accepted(accept)).await;
    if let (Some(asked), Err(e)) = (asked, &answered) {
        asked.failed(e);
    }
    answered
}

/// The whole answer is computed before the first byte is sent, so that a failure is an error and
/// never a shorter answer.
async fn respond(
    service: &SqlService,
    answer: Answer,
    content_type: &'static str,
    texts: Texts,
) -> Result<Response> {
    // The threads that write the answer may be busy when its reader goes.
    let _reader = answer.waiter();
    let Answer {
        schema,
        mut stream,
        freshness,
        notes,
        ..
    } = answer;
    let pool = service.memory_pool().clone();
    // Text of many rows takes long, too.
    let body = compute(async move {
        let mut encoder = Encoder::new(&schema, content_type, texts, &pool)?;
        while let Some(batch) = stream.next().await {
            encoder.write(&batch?)?;
        }
        encoder.finish()
    })
    .await?;
    let mut response = ([(header::CONTENT_TYPE, content_type)], body).into_response();
    let mut note = |name: &'static str, value: &str| {
        let value = utf8_percent_encode(value, NOT_IN_A_HEADER).to_string();
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
