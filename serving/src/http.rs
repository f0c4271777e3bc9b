//! `POST /sql`: a statement in, an answer out. `GET /views/VIEW?key=value`: rows of a view by its keys.
//! `GET /views/VIEW/changes`: what changes in it. `GET /console/`: all of this as pages. `GET /queries`: what runs; `DELETE /queries/ID` stops one.

mod changes;
mod console;
mod respond;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use anabranch_shared::{Error, ErrorKind, ReadMode, Result, nearest};
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use datafusion::sql::sqlparser::ast::{Expr, UnaryOperator, Value};
use percent_encoding::percent_decode;

use crate::caller::Caller;
use crate::changes::Following;
use crate::described::RelationInfo;
use crate::door::Door;
use crate::encode::JSON;
use crate::identity::Identity;
use crate::parameters::call;
use crate::reading::{Reading, setting};
use crate::service::{Answer, SqlService};

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
    /// Tokens of acknowledgements that the answer has to have seen.
    #[serde(default)]
    pub at_least: Option<String>,
    /// The moment of which the answer is: a time, or places in topics.
    #[serde(default)]
    pub as_of: Option<String>,
    /// Whether the answer has a receipt.
    #[serde(default)]
    pub receipt: Option<bool>,
}

impl SqlRequest {
    /// How it reads.
    fn reading(&self) -> Result<Reading> {
        fn parsed<T: FromStr<Err = Error>>(name: &str, text: Option<&str>) -> Result<Option<T>> {
            let read = text.filter(|text| !text.is_empty()).map(str::parse);
            let read = read.transpose();
            read.map_err(|e: Error| Error::Invalid(format!("`{name}`: {e}")))
        }
        let mode = match self.read.as_deref() {
            None | Some("merged") => ReadMode::Merged,
            Some("batch") => ReadMode::Batch,
            Some(other) => {
                return Err(Error::Invalid(format!(
                    "`read` = `{other}`: write `merged` or `batch`"
                )));
            }
        };
        let search_path = parsed("search_path", self.search_path.as_deref())?;
        let at_least = parsed("at_least", self.at_least.as_deref())?;
        Ok(Reading {
            mode,
            search_path: search_path.unwrap_or_default(),
            at_least: at_least.unwrap_or_default(),
            as_of: parsed("as_of", self.as_of.as_deref())?,
            receipts: self.receipt.unwrap_or_default(),
        })
    }
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

/// A statement with its values, as the body of a request.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct SqlBody {
    /// The statement.
    sql: String,
    /// What stands for `$1`, `$2`, …
    #[serde(default)]
    parameters: Vec<serde_json::Value>,
}

/// The routes of this layer.
pub fn router(following: Arc<Following>) -> Router {
    let service = following.service().clone();
    let changes = Router::new()
        .route("/views/{view}/changes", get(changes::changes))
        .with_state(following);
    let all = Router::new()
        .route("/", get(console::start))
        .route("/console", get(console::start))
        .route("/console/", get(console::index))
        .route("/console/{file}", get(console::file))
        .route("/console/{folder}/{file}", get(console::file_in_folder))
        .route("/sql", post(sql))
        .route("/replay", post(replay))
        .route("/views/{view}", get(view_rows))
        .route("/relations", get(relations))
        .route("/queries", get(queries))
        .route("/queries/{id}", delete(cancel))
        .with_state(service);
    all.merge(changes)
}

async fn sql(
    State(service): State<Arc<SqlService>>,
    Query(request): Query<SqlRequest>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let peer = peer.map(|Extension(ConnectInfo(address))| address);
    let caller = caller(peer, &headers, identity);
    match answer(&service, &request, &caller, &headers, &body).await {
        Ok(response) => response,
        Err(e) => error_response(&e),
    }
}

/// Computes the answer of a receipt, which is the body, again and compares.
async fn replay(
    State(service): State<Arc<SqlService>>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let peer = peer.map(|Extension(ConnectInfo(address))| address);
    let caller = caller(peer, &headers, identity);
    let replayed = async { service.replay(&caller, &body.parse()?).await };
    match replayed.await {
        Ok(replayed) => Json(replayed.json()).into_response(),
        Err(e) => error_response(&e),
    }
}

/// Who asks: from where, and with which program.
pub fn caller(peer: Option<SocketAddr>, headers: &HeaderMap, identity: Identity) -> Caller {
    let agent = headers.get(header::USER_AGENT);
    let agent = agent.and_then(|v| v.to_str().ok()).unwrap_or("HTTP");
    let agent: String = agent.chars().take(100).collect();
    let program = match peer {
        Some(peer) => format!("{agent} at {peer}"),
        None => agent,
    };
    Caller::new(Door::Http, program, identity)
}

/// What runs and waits, the longest first.
async fn queries(
    State(service): State<Arc<SqlService>>,
    Extension(identity): Extension<Identity>,
) -> Response {
    let queries = service.queries_of(&identity);
    Json(serde_json::json!({ "queries": queries })).into_response()
}

/// Stops a query.
async fn cancel(
    State(service): State<Arc<SqlService>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Response {
    match service.cancel(&id, &identity) {
        Ok(()) => Json(serde_json::json!({ "cancelled": id })).into_response(),
        Err(e) => error_response(&e),
    }
}

/// What can be queried: as objects, or in the form of before that older shells read.
async fn relations(
    State(service): State<Arc<SqlService>>,
    Extension(identity): Extension<Identity>,
    Query(request): Query<RelationsRequest>,
) -> Response {
    let list = match service.readable(identity.rights()).await {
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
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response> {
    let text = std::str::from_utf8(body)
        .map_err(|_| Error::Invalid("the statement is not valid UTF-8".into()))?;
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    let (sql, values) = match kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(JSON)) {
        false => (text.to_owned(), Vec::new()),
        true => {
            let body: SqlBody = serde_json::from_str(text).map_err(|e| {
                Error::Invalid(format!(
                    "the body is no `{{\"sql\": \"…\", \"parameters\": […]}}`: {e}; without `content-type: {JSON}` it is a statement as it is"
                ))
            })?;
            let values = body.parameters.iter().enumerate();
            let values = values.map(|(n, value)| expression(n + 1, value));
            (body.sql, values.collect::<Result<Vec<_>>>()?)
        }
    };
    let reading = request.reading()?;
    if let Some(setting) = setting(&sql) {
        setting?;
        return Err(Error::Invalid(
            "a request has no session; give `?read=batch`, `?search_path=candidate,public`, `?at_least=TOKEN`, `?as_of=TIME` or `?receipt=true` with each statement instead".into(),
        ));
    }
    let answer = service.query_with(caller, &sql, &reading, &values).await?;
    respond::respond(service, answer, headers).await
}

/// A value of JSON as an expression of a statement.
fn expression(nth: usize, value: &serde_json::Value) -> Result<Expr> {
    use serde_json::Value as Json;
    Ok(match value {
        Json::Null => Expr::value(Value::Null),
        Json::Bool(truth) => Expr::value(Value::Boolean(*truth)),
        Json::Number(number) => number_expression(&number.to_string()),
        Json::String(text) => Expr::value(Value::SingleQuotedString(text.clone())),
        Json::Array(items) => {
            let items = items.iter().map(|item| match item {
                Json::Array(_) => Err(Error::Invalid(format!(
                    "parameter ${nth} is a list of lists, which no comparison takes"
                ))),
                item => expression(nth, item),
            });
            call("make_array", items.collect::<Result<_>>()?)
        }
        Json::Object(_) => {
            return Err(Error::Invalid(format!(
                "parameter ${nth} is an object; give a number, a text, true, false, null or a list of these"
            )));
        }
    })
}

fn number_expression(text: &str) -> Expr {
    match text.strip_prefix('-') {
        None => Expr::value(Value::Number(text.to_owned(), false)),
        Some(positive) => Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr: Box::new(number_expression(positive)),
        },
    }
}

/// Rows of a view by values of its keys.
async fn view_rows(
    State(service): State<Arc<SqlService>>,
    Path(view): Path<String>,
    Query(given): Query<Vec<(String, String)>>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
) -> Response {
    let peer = peer.map(|Extension(ConnectInfo(address))| address);
    let caller = caller(peer, &headers, identity);
    let answered = async {
        let rows = look_up(&service, &caller, &view, given).await?;
        respond::respond(&service, rows, &headers).await
    };
    match answered.await {
        Ok(response) => response,
        Err(e) => error_response(&e),
    }
}

async fn look_up(
    service: &SqlService,
    caller: &Caller,
    view: &str,
    given: Vec<(String, String)>,
) -> Result<Answer> {
    let keys = service.view_keys(view, caller.identity().rights()).await?;
    let mut request = SqlRequest::default();
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in given {
        if keys.contains(&name) {
            wanted.entry(name).or_default().push(value);
        } else if name == "read" {
            request.read = Some(value);
        } else if name == "at_least" {
            request.at_least = Some(value);
        } else if name == "as_of" {
            request.as_of = Some(value);
        } else if name == "receipt" {
            request.receipt = Some(value.parse().map_err(|_| {
                Error::Invalid(format!("`receipt` = `{value}`: write `true` or `false`"))
            })?);
        } else {
            let near = nearest(&name, keys.iter().map(String::as_str));
            let near = near.map(|near| format!("; did you mean `{near}`?"));
            return Err(Error::Invalid(format!(
                "`{name}` is no key of `{view}`{}; its keys are {}; `POST /sql` takes any condition",
                near.unwrap_or_default(),
                match keys.is_empty() {
                    true => "none".to_owned(),
                    false => keys.join(", "),
                }
            )));
        }
    }
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut values = Vec::new();
    let conditions = wanted.into_iter().map(|(name, texts)| {
        let places = texts.into_iter().map(|text| {
            values.push(Expr::value(Value::SingleQuotedString(text)));
            format!("${}", values.len())
        });
        let places: Vec<String> = places.collect();
        match places.as_slice() {
            [one] => format!("{} = {one}", quoted(&name)),
            several => format!("{} IN ({})", quoted(&name), several.join(", ")),
        }
    });
    let conditions: Vec<String> = conditions.collect();
    let mut sql = format!("SELECT * FROM {}", quoted(view));
    if !conditions.is_empty() {
        sql += &format!(" WHERE {}", conditions.join(" AND "));
    }
    let reading = request.reading()?;
    service.query_with(caller, &sql, &reading, &values).await
}
