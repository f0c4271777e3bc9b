//! `anabranch speed` and `anabranch up`: the streaming daemon, alone or with the scheduler.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_serving::SqlService;
use anabranch_shared::{
    Error, Pin, Pinner, ReadMode, Relation, RequestKind, Requests, Result, Storage,
};
use anabranch_speed::{Daemon, DaemonOptions, DedupStatus, IntakeCount, TopicOptions, TopicStream};
use async_trait::async_trait;
use axum::Json;
use axum::extract::{ConnectInfo, Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::now_us;
use crate::node::door::Door;
use crate::node::door::guard::{Guard, guard};
use crate::node::peers::{PEERS, PeerList};
use crate::node::ready::{AttentionKind, Node, Readiness};
use crate::project::context::{Context, threads};
use crate::reader::daemon_status::DaemonStatus;
use crate::reader::presence::Address;
use crate::signal::{end_at_once, stop_signal};
use crate::tasks::Tasks;
use crate::work::verify::Part;
use crate::work::{schedule, upkeep, verify_view};

/// The daemon's pins, and the tables that belong to the project.
#[derive(Debug)]
struct DaemonPinner {
    daemon: Arc<Daemon>,
    context: Context,
}

#[async_trait]
impl Pinner for DaemonPinner {
    async fn relations(&self) -> Result<Vec<Relation>> {
        let mut relations = self.daemon.relations().await?;
        relations.extend(self.context.relations());
        Ok(relations)
    }

    async fn pin(&self, names: &[String], mode: ReadMode) -> Result<Pin> {
        let mut pin = self.daemon.pin(names, mode).await?;
        self.context.pin(names, &mut pin).await?;
        Ok(pin)
    }
}

fn daemon_options(context: &Context) -> DaemonOptions {
    let daemon = &context.project.daemon;
    DaemonOptions {
        wal: daemon.wal.clone(),
        land_every: daemon.land_every,
        land_facts: daemon.land_facts,
        land_bytes: daemon.land_bytes,
        wal_bytes: daemon.wal_bytes,
        wal_segment_bytes: anabranch_speed::wal::WalOptions::default().segment_bytes,
        memory_bytes: daemon.memory_bytes,
        spill_at_bytes: daemon.memory_bytes / 10 * 6,
        spill_bytes: daemon.spill_bytes,
        request_memory_bytes: daemon.request_memory_bytes,
        max_record_bytes: daemon.max_record_bytes,
        max_request_bytes: daemon.max_request_bytes,
        idempotency_window: daemon.idempotency_window,
        idempotency_keys: daemon.idempotency_keys,
        most_pieces: MOST_PIECES,
        lately_bytes: LATELY_BYTES,
        checkpoint_every: daemon.checkpoint_every,
        threads: threads(context.project.batch.threads),
        now_us,
        stop: Arc::new(AtomicBool::new(false)),
    }
}

/// The topics of a project, and how a daemon treats each.
fn topic_options(context: &Context) -> BTreeMap<String, TopicOptions> {
    let topics = context.project.topics.iter();
    topics
        .map(|t| (t.name.clone(), TopicOptions::of(t)))
        .collect()
}

/// Opens the daemon of a project.
pub async fn open(context: &Context) -> Result<Arc<Daemon>> {
    context.retries.open(&context.storage).await?;
    let topics = topic_options(context);
    let (storage, catalogue) = (&context.storage, context.catalogue.clone());
    let daemon = Daemon::open(storage, catalogue, &topics, daemon_options(context)).await?;
    note(context, &daemon);
    Ok(daemon)
}

/// Lets a daemon say how the project's views stand to the catalogue.
fn note(context: &Context, daemon: &Daemon) {
    let entry = context.catalogue.current().number;
    daemon.set_notes(entry, context.notes(), context.troubles());
}

/// A service that answers from a daemon.
pub fn service(context: &Context, daemon: &Arc<Daemon>) -> Result<SqlService> {
    let pinner = Arc::new(DaemonPinner {
        daemon: daemon.clone(),
        context: context.clone(),
    });
    SqlService::new(pinner, &context.storage, context.serving_options())
}

#[derive(Clone)]
struct Health {
    context: Context,
    sql: Arc<SqlService>,
    daemon: Arc<Daemon>,
    storage: Storage,
    id: String,
    peers: Arc<PeerList>,
    node: Arc<Node>,
}

/// The task that serves HTTP: without it a daemon is of no use.
const HTTP: &str = "http";

/// Pieces that a view's delta may have: each costs a query about a microsecond a state.
const MOST_PIECES: usize = 24;

/// Bytes of a topic's landed facts that are kept for other daemons until those have followed.
const LATELY_BYTES: usize = 32_000_000;

/// How often it is looked whether the catalogue has changed, so that notes say something else.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// Of how many such looks one reads the project again.
const READ_EVERY: u32 = 25;

/// Runs the daemon until SIGINT or SIGTERM, and then stops it in order: takes no more facts, lands
/// each topic, withdraws the address, ends the answers; all within `shutdown_timeout`. A second
/// signal ends the process at once.
///
/// # Errors
/// Besides what opening and landing give: why the daemon could not go on, once a thread or a loop
/// of it has ended by itself; which tasks of it had ended before; that stopping took too long.
pub async fn run(context: &Context, with_scheduler: bool) -> Result<()> {
    let begun = std::time::Instant::now();
    let mut signal = Box::pin(stop_signal());
    let daemon = tokio::select! {
        daemon = open(context) => daemon?,
        () = &mut signal => {
            tracing::info!("stopped before it was ready");
            return Ok(());
        }
    };
    let running = match Running::start(context, &daemon, with_scheduler).await {
        Ok(running) => running,
        Err(e) => {
            daemon.close().await;
            return Err(e);
        }
    };
    let recovered = daemon
        .topics()
        .values()
        .map(|s| s.with_delta(|d| d.unlanded.facts()))
        .sum::<usize>();
    tracing::info!(http = %running.local, unlanded_facts = recovered, ready_ms = begun.elapsed().as_millis() as u64, "ready");
    let http = running.http.clone();
    tokio::select! {
        () = signal => {}
        e = daemon.failed() => tracing::error!(error = %e, "the daemon can't go on"),
        () = http.missed(HTTP) => {}
    }
    let again = stop_signal();
    // Beside what stops, so that nothing of that can keep it.
    tokio::spawn(async {
        again.await;
        end_at_once()
    });
    running.stop(context, &daemon).await
}

/// A daemon that serves, and what belongs to it.
///
/// Its tasks stop in this order: `tasks` while facts land, `loops` after that, `http` last.
struct Running {
    local: std::net::SocketAddr,
    address: Address,
    peers: Arc<PeerList>,
    node: Arc<Node>,
    tasks: Arc<Tasks>,
    /// Land and follow; the daemon itself ends them.
    loops: Arc<Tasks>,
    http: Arc<Tasks>,
}

impl Running {
    /// Listens, makes the daemon known, and starts its tasks. Where that fails nothing is left of
    /// it but the daemon, which is the caller's to close.
    async fn start(context: &Context, daemon: &Arc<Daemon>, with_scheduler: bool) -> Result<Self> {
        let http = &context.project.daemon.http;
        let listener = TcpListener::bind(http).await.map_err(|e| {
            Error::Unavailable(format!(
                "can't listen on `{http}` (`http` in `[daemon]`): {e}"
            ))
        })?;
        let local = listener.local_addr().map_err(|e| Error::io(http, e))?;
        let address = Address::new(context, local)?;
        let (stop, closing) = (CancellationToken::new(), CancellationToken::new());
        let tasks = Arc::new(Tasks::new(stop.clone()));
        let peers = PeerList::new(
            &context.storage,
            daemon.wal(),
            context.project.daemon.peer_timeout,
            tasks.clone(),
        )?;
        let peers = Arc::new(peers);
        let sql = Arc::new(service(context, daemon)?);
        let loops = Arc::new(Tasks::new(CancellationToken::new()));
        let serving = Arc::new(Tasks::new(closing.clone()));
        let door = Door::new(&context.project.http);
        let renewal = Arc::default();
        let node = Arc::new(Node {
            daemon: daemon.clone(),
            tasks: [tasks.clone(), loops.clone(), serving.clone()],
            renewal: Arc::clone(&renewal),
            connections: door.connections().clone(),
            peers: peers.clone(),
            failed_jobs: Mutex::default(),
            is_stopping: AtomicBool::new(false),
        });
        let health = Health {
            context: context.clone(),
            sql: sql.clone(),
            daemon: daemon.clone(),
            storage: context.storage.clone(),
            id: address.id.clone(),
            peers: peers.clone(),
            node: node.clone(),
        };
        let app = router(health, daemon, sql).layer(from_fn_with_state(
            Arc::new(Guard::new(&context.project)),
            guard,
        ));
        address.publish(&context.storage).await?;
        // Who is there is known before anything is acknowledged, and they know of this one.
        if let Err(e) = peers.look(daemon).await {
            if let Err(e) = address.withdraw(&context.storage).await {
                tracing::warn!(error = %e, "the daemon's address stays in the storage");
            }
            return Err(e);
        }
        daemon.set_peers(peers.clone());
        peers.announce().await;
        serving.spawn(HTTP, async move {
            door.serve(listener, app, closing).await;
            Ok(())
        });
        loops.spawn("landing", {
            let daemon = daemon.clone();
            async move {
                daemon.run().await;
                Ok(())
            }
        });
        tasks.spawn_endless("notes", refresh_notes(context.clone(), daemon.clone()));
        tasks.spawn_endless("upkeep", upkeep::run(context.clone(), stop.clone()));
        tasks.spawn_endless("jobs", node.clone().watch_jobs(context.clone()));
        tasks.spawn_endless("peers", peers.clone().keep(daemon.clone()));
        tasks.spawn("presence", {
            let kept = address.clone();
            let kept = kept.keep(context.clone(), daemon.clone(), renewal, stop.clone());
            async move {
                kept.await;
                Ok(())
            }
        });
        match with_scheduler {
            true => {
                let own = Some(daemon.clone());
                tasks.spawn("scheduler", schedule::run(context.clone(), own, stop));
            }
            false => {
                let telling = crate::work::refresh_requests::tell(context.clone(), daemon.clone());
                tasks.spawn_endless("asking for refreshes", telling);
            }
        }
        Ok(Self {
            local,
            address,
            peers,
            node,
            tasks,
            loops,
            http: serving,
        })
    }

    /// Stops all in order.
    async fn stop(self, context: &Context, daemon: &Arc<Daemon>) -> Result<()> {
        let timeout = context.project.daemon.shutdown_timeout;
        let begun = Instant::now();
        let by = |share: f64| begun + timeout.mul_f64(share);
        tracing::info!("stopping: no more intake, landing the rest");
        self.node.is_stopping.store(true, Ordering::Relaxed);
        self.loops.expect_end();
        daemon.close_intake(by(0.3)).await;
        let landing = tokio::time::timeout_at(by(0.7), daemon.stop());
        let (late, landed) = tokio::join!(self.tasks.stop(by(0.7)), landing);
        let late = [late, self.loops.stop(by(0.75)).await].concat();
        let stopped = landed.unwrap_or_else(|_| {
            Err(Error::Unavailable(format!(
                "not all facts landed within `shutdown_timeout` ({}, in `[daemon]`); they stay in the WAL, and the next start lands them",
                humantime::format_duration(timeout)
            )))
        });
        let withdrawing = async {
            let withdrawn = self.address.withdraw(&context.storage).await;
            if withdrawn.is_ok() {
                self.peers.announce().await;
            }
            withdrawn
        };
        let withdrawn = tokio::time::timeout_at(by(0.85), withdrawing).await;
        let withdrawn = withdrawn.unwrap_or_else(|_| {
            let text = "the daemon's address could not be withdrawn in time; others take it for silent until it starts again";
            Err(Error::Unavailable(text.into()))
        });
        let cut_off = self.http.stop(by(1.0)).await;
        if !cut_off.is_empty() {
            tracing::warn!("answers that were not read in time were cut off");
        }
        if !late.is_empty() {
            tracing::warn!(
                tasks = late.join(", "),
                "did not stop in time and were left off"
            );
        }
        if let Some(failure) = daemon.failure() {
            return Err(failure);
        }
        stopped?;
        withdrawn?;
        let groups = [&self.tasks, &self.loops, &self.http];
        if let Some(e) = groups.into_iter().find_map(|tasks| tasks.failure()) {
            return Err(e);
        }
        tracing::info!("stopped; everything acknowledged has landed");
        Ok(())
    }
}

/// What a daemon serves.
fn router(health: Health, daemon: &Arc<Daemon>, sql: Arc<SqlService>) -> Router {
    let own = Router::new()
        .route("/health", get(healthy))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/verify/{view}", post(verify_own))
        .route(PEERS, post(look_for_peers))
        .with_state(health);
    own.merge(anabranch_speed::router(daemon.clone()))
        .merge(anabranch_serving::router(sql))
}

/// Keeps true what the daemon says of edited views, and which topics it is to open once they are
/// declared.
async fn refresh_notes(context: Context, daemon: Arc<Daemon>) {
    let mut looks = 0_u32;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        looks += 1;
        fail::fail_point!("task-of-notes");
        let moved = context.catalogue.current().number != daemon.noted();
        if !moved && !looks.is_multiple_of(READ_EVERY) {
            continue;
        }
        let dir = context.project.dir.clone();
        match anabranch_shared::settings::Project::load(&dir) {
            Ok(project) => {
                let now = Context {
                    project: Arc::new(project),
                    ..context.clone()
                };
                daemon.want_topics(topic_options(&now));
                note(&now, &daemon);
            }
            Err(e) => tracing::warn!(error = %e, "the project can't be read any more"),
        }
    }
}

async fn healthy(State(health): State<Health>) -> impl IntoResponse {
    Json(serde_json::json!({ "status": "ok", "id": health.id, "pid": std::process::id() }))
}

/// Red is a node that can't take facts or can't answer at all; also a topic most of whose input
/// became dead letters, because something is wrong before it, and one whose source has stopped.
/// What only needs attention is named, and is red with `?strict`.
async fn ready(State(health): State<Health>, RawQuery(query): RawQuery) -> impl IntoResponse {
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
    let attention: Vec<String> = attention.into_iter().map(|a| a.text).collect();
    let body = serde_json::json!({
        "ready": is_ready, "red": red, "topics_red": topics_red, "attention": attention,
        "views_that_fail": failing,
        "topics_untaken": health.daemon.untaken(),
        "notes": health.daemon.notes(),
    });
    (status, Json(body))
}

/// The topics with too many dead letters, and those whose source has stopped, and why.
fn topics_red(daemon: &Daemon) -> BTreeMap<String, String> {
    let (topics, sources) = (daemon.topics(), daemon.sources());
    let dead = topics
        .iter()
        .filter_map(|(name, stream)| Some((name.clone(), stream.too_many_dead()?)));
    let stopped = sources
        .iter()
        .filter_map(|(name, source)| Some((name.clone(), source.state().stopped?)));
    dead.chain(stopped).collect()
}

/// Compares this daemon's answer of a view with a recompute, both under one of its pins.
async fn verify_own(
    State(health): State<Health>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    Path(view): Path<String>,
    Json(part): Json<Part>,
) -> Response {
    let Health { context, sql, .. } = health;
    let peer = peer.map(|Extension(ConnectInfo(address))| address);
    let who = anabranch_serving::who(peer, &headers);
    match verify_view::for_another(context, sql, &who, view, part).await {
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
        ended_tasks: health.node.ended_tasks(),
        ..DaemonStatus::of(&health.daemon)
    })
}

/// Adds a metric of some kind, with the labels and values of its rows, to a text.
fn metric(text: &mut String, kind: &str, name: &str, help: &str, rows: Vec<(String, f64)>) {
    *text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    for (labels, value) in rows {
        let labels = match labels.is_empty() {
            true => labels,
            false => format!("{{{labels}}}"),
        };
        *text += &format!("{name}{labels} {value}\n");
    }
}

/// Prometheus' text format.
async fn metrics(State(health): State<Health>) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, rows| metric(&mut text, "gauge", name, help, rows);
    let topics = health.daemon.topics();
    let by_topic = |read: &dyn Fn(&anabranch_speed::TopicDelta) -> f64| {
        let row = |(n, s): (&String, &Arc<anabranch_speed::TopicStream>)| {
            (format!("topic=\"{n}\""), s.with_delta(|d| read(d)))
        };
        topics.iter().map(row).collect::<Vec<_>>()
    };
    gauge(
        "anabranch_unlanded_facts",
        "Facts that are acknowledged and not yet in the log",
        by_topic(&|d| d.unlanded.facts() as f64),
    );
    gauge(
        "anabranch_speed_memory_bytes",
        "Bytes of facts and deltas in memory",
        by_topic(&|d| d.size_bytes() as f64),
    );
    let failing = |(n, s): (&String, &Arc<TopicStream>)| {
        let failing = s.landing_trouble().is_some();
        (format!("topic=\"{n}\""), f64::from(u8::from(failing)))
    };
    gauge(
        "anabranch_landing_fails",
        "1 where the last try to land facts or to follow the log failed; it is tried again",
        topics.iter().map(failing).collect(),
    );
    let failed = |(n, s): (&String, &Arc<TopicStream>)| {
        (format!("topic=\"{n}\""), f64::from(s.failed_tries()))
    };
    gauge(
        "anabranch_landing_failed_tries",
        "How many tries in a row to land facts or to follow the log have failed; each waits longer than the one before",
        topics.iter().map(failed).collect(),
    );
    let by_view = |read: &dyn Fn(&anabranch_speed::ViewDelta) -> f64| {
        let mut rows = Vec::new();
        for stream in topics.values() {
            stream.with_delta(|d| {
                let row = |(n, v): (&String, &anabranch_speed::ViewDelta)| {
                    (format!("view=\"{n}\""), read(v))
                };
                rows.extend(d.views.iter().map(row));
            });
        }
        rows
    };
    gauge(
        "anabranch_delta_memory_bytes",
        "Bytes of a view's delta in memory",
        by_view(&|v| v.size_bytes() as f64),
    );
    gauge(
        "anabranch_delta_spilled_bytes",
        "Bytes of a view's delta on local disk",
        by_view(&|v| v.spilled_bytes() as f64),
    );
    gauge(
        "anabranch_delta_pieces",
        "Pieces of a view's delta",
        by_view(&|v| v.pieces.len() as f64),
    );
    let used = health.daemon.delta_use();
    for (name, help, value) in [
        (
            "anabranch_speed_memory_bound_bytes",
            "Bytes that facts and deltas may take in memory",
            used.memory_bound_bytes,
        ),
        (
            "anabranch_spilled_bytes",
            "Bytes of deltas on local disk, with those that queries still read",
            used.spilled_bytes,
        ),
        (
            "anabranch_spill_bound_bytes",
            "Bytes of deltas that local disk may take",
            used.spill_bound_bytes,
        ),
    ] {
        gauge(name, help, vec![(String::new(), value as f64)]);
    }
    let lanes = |(topic, s): (&String, &Arc<anabranch_speed::TopicStream>)| {
        let row = |(p, next): (&anabranch_shared::PartitionId, &anabranch_shared::Offset)| {
            (
                format!("topic=\"{topic}\",partition=\"{p}\""),
                next.0 as f64,
            )
        };
        s.with_delta(|d| d.lanes.iter().map(row).collect::<Vec<_>>())
    };
    gauge(
        "anabranch_acknowledged_offset",
        "The first offset of a partition of this daemon that is not visible to queries",
        topics.iter().flat_map(lanes).collect(),
    );
    let now = crate::clock::now_ms();
    let (mut offsets, mut seconds) = (Vec::new(), Vec::new());
    let (mut stopped, mut paused) = (Vec::new(), Vec::new());
    for (topic, source) in health.daemon.sources().iter() {
        let state = source.state();
        let of_topic = |is: bool| (format!("topic=\"{topic}\""), f64::from(u8::from(is)));
        stopped.push(of_topic(state.stopped.is_some()));
        paused.push(of_topic(state.paused));
        for (partition, lag) in state.partitions {
            let labels = format!("topic=\"{topic}\",partition=\"{partition}\"");
            offsets.extend(lag.lag_offsets.map(|l| (labels.clone(), l as f64)));
            seconds.extend(lag.lag_ms(now).map(|ms| (labels, ms as f64 / 1_000.0)));
        }
    }
    gauge(
        "anabranch_kafka_lag_offsets",
        "Offsets of Kafka that were not read yet",
        offsets,
    );
    gauge(
        "anabranch_kafka_lag_seconds",
        "By how much the newest facts from Kafka are older than now",
        seconds,
    );
    gauge(
        "anabranch_kafka_stopped",
        "1 where nothing is read from Kafka any more, until a restart",
        stopped,
    );
    gauge(
        "anabranch_kafka_paused",
        "1 where reading from Kafka pauses, because the memory for facts and deltas is full",
        paused,
    );
    let mut counter = |name: &str, help: &str, read: &dyn Fn(&IntakeCount) -> u64| {
        let row = |(n, s): (&String, &Arc<TopicStream>)| {
            (format!("topic=\"{n}\""), read(&s.intake()) as f64)
        };
        let rows = topics.iter().map(row).collect();
        metric(&mut text, "counter", name, help, rows);
    };
    counter(
        "anabranch_facts_total",
        "Records that became facts since the daemon started",
        &|i| i.facts,
    );
    counter(
        "anabranch_dead_letters_total",
        "Records that became dead letters since the daemon started",
        &|i| i.dead_letters,
    );
    counter(
        "anabranch_duplicates_total",
        "Records that were left out as duplicates since the daemon started",
        &|i| i.duplicates,
    );
    let misfits = anabranch_shared::misfits().into_iter();
    metric(
        &mut text,
        "counter",
        "anabranch_extra_misfits_total",
        "Values in `_extra` that were read for a field declared since and do not fit it, again each time",
        misfits
            .map(|(field, n)| (format!("field={field:?}"), n as f64))
            .collect(),
    );
    let mut gauge = |name: &str, help: &str, rows| metric(&mut text, "gauge", name, help, rows);
    let dedup: Vec<_> = topics
        .iter()
        .filter_map(|(n, s)| Some((format!("topic=\"{n}\""), s.dedup_status()?)))
        .collect();
    let of_dedup = |read: &dyn Fn(&DedupStatus) -> f64| {
        let row = |(labels, status): &(String, DedupStatus)| (labels.clone(), read(status));
        dedup.iter().map(row).collect::<Vec<_>>()
    };
    gauge(
        "anabranch_dedup_keys",
        "Keys by which duplicates are known",
        of_dedup(&|d| d.keys as f64),
    );
    gauge(
        "anabranch_dedup_memory_bytes",
        "Bytes of those keys in memory",
        of_dedup(&|d| d.bytes as f64),
    );
    gauge(
        "anabranch_dedup_window_seconds",
        "How long a key is remembered: less than the setting where memory is short",
        of_dedup(&|d| d.window_us as f64 / 1e6),
    );
    let mut behind = Vec::new();
    for stream in topics.values() {
        stream.with_delta(|d| {
            for (name, view) in &d.views {
                let distance = view.pin.boundary.distance_to(&d.upto) as f64;
                behind.push((format!("view=\"{name}\""), distance));
            }
        });
    }
    gauge(
        "anabranch_view_behind_offsets",
        "Landed offsets past the view's boundary",
        behind,
    );
    text += &lock_metrics(&health.daemon);
    text += &node_metrics(&health);
    text += &peer_metrics(&health.peers);
    text + &storage_metrics(health.storage.requests())
}

/// How long the locks were held that an acknowledgement or a query takes.
fn lock_metrics(daemon: &Daemon) -> String {
    let name = "anabranch_lock_hold_seconds";
    let mut text = format!(
        "# HELP {name} How long a lock was held that an acknowledgement or a query takes\n# TYPE {name} histogram\n"
    );
    let mut longest = Vec::new();
    for (topic, stream) in daemon.topics().iter() {
        for holds in stream.lock_holds() {
            let times = holds.times();
            let labels = format!("lock=\"{}\",topic=\"{topic}\"", holds.name());
            for (end, count) in times.buckets {
                let end = match end.is_finite() {
                    true => end.to_string(),
                    false => "+Inf".to_owned(),
                };
                text += &format!("{name}_bucket{{{labels},le=\"{end}\"}} {count}\n");
            }
            text += &format!("{name}_sum{{{labels}}} {}\n", times.sum_seconds);
            text += &format!("{name}_count{{{labels}}} {}\n", times.count);
            longest.push((labels, times.longest_seconds));
        }
    }
    metric(
        &mut text,
        "gauge",
        "anabranch_lock_hold_longest_seconds",
        "The longest that such a lock was held in the last 60 seconds",
        longest,
    );
    text
}

/// Whether the node is ready, what of it needs attention, and its connections.
fn node_metrics(health: &Health) -> String {
    let mut text = String::new();
    let Readiness { red, attention } = health.node.readiness();
    let is_ready = red.is_empty() && topics_red(&health.daemon).is_empty();
    let mut add = |kind: &str, name: &str, help: &str, value: f64| {
        metric(&mut text, kind, name, help, vec![(String::new(), value)]);
    };
    add(
        "gauge",
        "anabranch_ready",
        "1 where the node takes facts and answers",
        f64::from(u8::from(is_ready)),
    );
    let connections = &health.node.connections;
    add(
        "gauge",
        "anabranch_connections",
        "Connections that are held",
        connections.held() as f64,
    );
    add(
        "counter",
        "anabranch_connections_refused_total",
        "Connections beyond the bounds, over which state alone was answered or nothing",
        connections.refused() as f64,
    );
    let ended = health.node.ended_tasks().into_keys();
    let ended = ended.map(|name| (format!("task={name:?}"), 1.0)).collect();
    metric(
        &mut text,
        "gauge",
        "anabranch_task_ended",
        "1 for a task of the process that ended before it was stopped",
        ended,
    );
    for kind in AttentionKind::ALL {
        let (name, help) = kind.metric();
        let of_kind = attention.iter().filter(|a| a.kind == kind);
        let rows = of_kind.map(|a| {
            let labels = a
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value:?}"));
            (labels.collect::<Vec<_>>().join(","), 1.0)
        });
        metric(&mut text, "gauge", name, help, rows.collect());
    }
    text
}

/// What was asked of the other daemons.
fn peer_metrics(peers: &PeerList) -> String {
    let mut text = String::new();
    let known = peers.known();
    let silent = known.iter().filter(|(_, silent)| *silent).count();
    let rows = [("answers", known.len() - silent), ("silent", silent)];
    let rows = rows.map(|(state, n)| (format!("state=\"{state}\""), n as f64));
    metric(
        &mut text,
        "gauge",
        "anabranch_peers",
        "Other daemons of the storage",
        rows.into(),
    );
    let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed) as f64;
    let counts = peers.counts();
    let mut counter = |name: &str, help: &str, value: f64| {
        let rows = vec![(String::new(), value)];
        metric(&mut text, "counter", name, help, rows);
    };
    counter(
        "anabranch_peer_requests_total",
        "Questions to other daemons, for queries",
        read(&counts.asked),
    );
    counter(
        "anabranch_peer_failures_total",
        "Those that were not answered",
        read(&counts.failed),
    );
    counter(
        "anabranch_peer_seconds_total",
        "How long all of them took",
        read(&counts.us) / 1e6,
    );
    text
}

/// What this process has asked of the storage.
fn storage_metrics(requests: &Requests) -> String {
    let mut text = String::from(
        "# HELP anabranch_storage_requests_total Requests to the storage, without the client's repetitions\n# TYPE anabranch_storage_requests_total counter\n",
    );
    for kind in RequestKind::ALL {
        let (name, count) = (kind.name(), requests.of(kind));
        text += &format!("anabranch_storage_requests_total{{kind=\"{name}\"}} {count}\n");
    }
    text += "# HELP anabranch_storage_bytes_total Bytes of objects read from and written to the storage\n# TYPE anabranch_storage_bytes_total counter\n";
    let bytes = [
        ("read", requests.read_bytes()),
        ("write", requests.written_bytes()),
    ];
    for (direction, bytes) in bytes {
        text += &format!("anabranch_storage_bytes_total{{direction=\"{direction}\"}} {bytes}\n");
    }
    text
}
