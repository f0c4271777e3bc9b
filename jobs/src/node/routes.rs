//! What a daemon answers over HTTP: facts and queries, state, and what other daemons ask.

use std::net::SocketAddr;
use std::sync::Arc;

use anabranch_serving::{Following, Identity, SqlService};
use anabranch_shared::references_held;
use anabranch_speed::Daemon;
use axum::Json;
use axum::body::HttpBody;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};

use crate::node::boards::{self, Boards};
use crate::node::metrics::{NodeMetrics, OPENMETRICS};
use crate::node::operations::{self, Operations};
use crate::node::peers::{PEERS, PeerList};
use crate::node::ready::{Node, Readiness, topics_red};
use crate::project::context::Context;
use crate::reader::daemon_status::{DaemonStatus, DoorStatus};
use crate::work::verify::Part;
use crate::work::verify_view;

/// What the routes know of their node.
#[derive(Clone)]
pub(super) struct Health {
    pub(super) context: Context,
    pub(super) sql: Arc<SqlService>,
    pub(super) daemon: Arc<Daemon>,
    pub(super) id: String,
    /// Where PostgreSQL's clients are answered.
    pub(super) postgres: Option<SocketAddr>,
    /// Where those of Arrow Flight SQL are.
    pub(super) flight: Option<SocketAddr>,
    /// Who may come in at each door.
    pub(super) doors: Vec<DoorStatus>,
    pub(super) peers: Arc<PeerList>,
    pub(super) node: Arc<Node>,
    pub(super) metrics: Arc<NodeMetrics>,
}

/// What a daemon serves.
pub(super) fn router(
    health: Health,
    daemon: &Arc<Daemon>,
    following: Arc<Following>,
    operations: Arc<Operations>,
    boards: Arc<Boards>,
) -> Router {
    let own = Router::new()
        .route("/health", get(healthy))
        .route("/openapi.json", get(described))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics_text))
        .route("/verify/{view}", post(verify_own))
        .route(PEERS, post(look_for_peers))
        .with_state(health);
    let acts = Router::new()
        .route("/whoami", get(operations::whoami))
        .route("/plan", get(operations::planned))
        .route("/operations", get(operations::list).post(operations::begin))
        .route(
            "/operations/{id}",
            get(operations::one).delete(operations::stop),
        )
        .with_state(operations);
    let seen = Router::new()
        .route("/boards", get(boards::list))
        .route("/boards/{board}", get(boards::one))
        .route("/boards/{board}/{panel}", get(boards::panel))
        .with_state(boards);
    own.merge(acts)
        .merge(seen)
        .merge(anabranch_serving::router(following))
        .layer(DefaultBodyLimit::max(ASKED_BYTES))
        .layer(from_fn(refuse_large))
        .merge(anabranch_speed::router(daemon.clone()))
}

/// How large the body of a request is that asks something, at most.
const ASKED_BYTES: usize = 2 << 20;

/// Refuses a body that is too large by its own word at once, while nothing of it has come.
async fn refuse_large(request: Request, next: Next) -> Response {
    match request.body().size_hint().lower() > ASKED_BYTES as u64 {
        true => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        false => next.run(request).await,
    }
}

async fn healthy(State(health): State<Health>) -> impl IntoResponse {
    let mut body =
        serde_json::json!({ "status": "ok", "id": health.id, "pid": std::process::id() });
    for (name, at) in [("postgres", health.postgres), ("flight", health.flight)] {
        if let Some(at) = at {
            body[name] = at.to_string().into();
        }
    }
    Json(body)
}

/// What is answered here, as OpenAPI describes it.
async fn described() -> Response {
    let text = include_str!("openapi.json").replace("VERSION", env!("CARGO_PKG_VERSION"));
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Red is a node that can't take facts or can't answer at all; also a topic most of whose input
/// became dead letters, because something is wrong before it, and one whose source has stopped.
/// What only needs attention is named, and is red with `?strict`. Whoever is nobody is told no more
/// than whether it is ready.
async fn ready(
    State(health): State<Health>,
    identity: Option<Extension<Identity>>,
    RawQuery(query): RawQuery,
) -> impl IntoResponse {
    let failing = health.daemon.views_that_fail();
    let Readiness { red, attention } = health.node.readiness();
    let topics_red = topics_red(&health.daemon);
    let is_strict =
        query.is_some_and(|q| q.split('&').any(|p| p == "strict" || p == "strict=true"));
    let is_ready = red.is_empty() && topics_red.is_empty() && (attention.is_empty() || !is_strict);
    let status = match is_ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let may_know = identity.is_some_and(|Extension(i)| i.rights().may_operate());
    if !may_know {
        return (status, Json(serde_json::json!({ "ready": is_ready })));
    }
    let attention: Vec<String> = attention.into_iter().map(|a| a.text).collect();
    let body = serde_json::json!({
        "ready": is_ready, "red": red, "topics_red": topics_red, "attention": attention,
        "views_that_fail": failing,
        "topics_untaken": health.daemon.untaken(),
        "notes": health.daemon.notes(),
    });
    (status, Json(body))
}

/// Compares this daemon's answer of a view with a recompute, both under one of its pins.
async fn verify_own(
    State(health): State<Health>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    Path(view): Path<String>,
    Json(part): Json<Part>,
) -> Response {
    let Health { context, sql, .. } = health;
    let peer = peer.map(|Extension(ConnectInfo(address))| address);
    let caller = anabranch_serving::caller(peer, &headers, identity);
    match verify_view::for_another(context, sql, &caller, view, part).await {
        Ok(verified) => Json(verified).into_response(),
        Err(e) => anabranch_serving::error_response(&e),
    }
}

/// Another daemon says that it is there: where it is, is in the storage.
async fn look_for_peers(State(health): State<Health>) -> StatusCode {
    match health.peers.look(&health.daemon).await {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(e) => {
            tracing::warn!(error = %e, "can't look which other daemons there are; it is tried again");
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

/// What `anabranch status` asks for.
async fn status(State(health): State<Health>) -> impl IntoResponse {
    Json(DaemonStatus {
        references: references_held(&health.context.storage).await,
        ended_tasks: health.node.ended_tasks(),
        doors: health.doors.clone(),
        ..DaemonStatus::of(&health.daemon)
    })
}

/// What the node measures, for Prometheus and whoever reads its format.
async fn metrics_text(State(health): State<Health>) -> Response {
    match health.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(e) => anabranch_serving::error_response(&e),
    }
}
