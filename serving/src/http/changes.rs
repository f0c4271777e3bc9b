//! `GET /views/{view}/changes`: the answer of a view, and from then on what changes in it, as JSON objects,
//! one a line, or as server-sent events (HTML's standard, "Server-sent events").

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};

use super::{caller, error_response};
use crate::changes::{Following, Wanted};
use crate::encode::NDJSON;
use crate::identity::Identity;

/// The content type of server-sent events.
const EVENTS: &str = "text/event-stream";

/// The parameters of a request.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangesRequest {
    /// Where the reader is: what was missed follows, where that is known.
    #[serde(default)]
    token: Option<String>,
    /// Whether the answer itself is wanted where the reader is nowhere.
    #[serde(default = "yes")]
    snapshot: bool,
}

fn yes() -> bool {
    true
}

pub(super) async fn changes(
    State(following): State<Arc<Following>>,
    Path(view): Path<String>,
    Query(request): Query<ChangesRequest>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
) -> Response {
    let peer = peer.map(|Extension(ConnectInfo(address))| address);
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let is_events = text(header::ACCEPT).is_some_and(|accept| accept.contains(EVENTS));
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let token = request.token.as_deref().or(last).map(str::to_owned);
    let caller = caller(peer, &headers, identity);
    let wanted = Wanted {
        view: &view,
        token: token.as_deref(),
        snapshot: request.snapshot,
        is_events,
    };
    let mut told = match following.tell(&caller, wanted).await {
        Ok(told) => told,
        Err(e) => return error_response(&e),
    };
    let content_type = match is_events {
        true => EVENTS,
        false => NDJSON,
    };
    let parts = stream::poll_fn(move |cx| told.poll_recv(cx));
    let body = Body::from_stream(parts.map(Ok::<_, Infallible>));
    let mut response = ([(header::CONTENT_TYPE, content_type)], body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
