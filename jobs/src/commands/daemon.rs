//! `anabranch speed` and `anabranch up`: the streaming daemon, alone or with the scheduler.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_serving::SqlService;
use anabranch_shared::{
    Error, Pin, Pinner, ReadMode, Relation, RequestKind, Requests, Result, Storage,
};
use anabranch_speed::{Daemon, DaemonOptions, DedupStatus, IntakeCount, TopicOptions, TopicStream};
use async_trait::async_trait;
use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;

use crate::commands::status::DaemonStatus;
use crate::commands::{maintain, schedule, verify};
use crate::context::{Context, now_us, threads};
use crate::peers::{PEERS, PeerList};
use crate::presence::Address;
use crate::verify::Part;

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
}

/// Pieces that a view's delta may have: each costs a query about a microsecond a state.
const MOST_PIECES: usize = 24;

/// Bytes of a topic's landed facts that are kept for other daemons until those have followed.
const LATELY_BYTES: usize = 32_000_000;

/// How often it is looked whether the catalogue has changed, so that notes say something else.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// Of how many such looks one reads the project again.
const READ_EVERY: u32 = 25;

/// How long requests in flight may take to end once the daemon can't go on.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Runs the daemon until SIGINT or SIGTERM: stops intake, drains, lands, stops answering.
///
/// # Errors
/// Besides what opening and landing give: why the daemon could not go on, once a thread or a loop
/// of it has ended by itself.
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
    let http = &context.project.daemon.http;
    let listener = TcpListener::bind(http).await.map_err(|e| {
        Error::Unavailable(format!(
            "can't listen on `{http}` (`http` in `[daemon]`): {e}"
        ))
    })?;
    let local = listener.local_addr().map_err(|e| Error::io(http, e))?;
    let address = Address::new(context, local)?;
    let peers = PeerList::new(
        &context.storage,
        daemon.wal(),
        context.project.daemon.peer_timeout,
    )?;
    let peers = Arc::new(peers);
    let sql = Arc::new(service(context, &daemon)?);
    let health = Health {
        context: context.clone(),
        sql: sql.clone(),
        daemon: daemon.clone(),
        storage: context.storage.clone(),
        id: address.id.clone(),
        peers: peers.clone(),
    };
    let own = Router::new()
        .route("/health", get(healthy))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/verify/{view}", post(verify_own))
        .route(PEERS, post(look_for_peers))
        .with_state(health);
    let app = own
        .merge(anabranch_speed::router(daemon.clone()))
        .merge(anabranch_serving::router(sql));
    address.publish(&context.storage).await?;
    // Who is there is known before anything is acknowledged, and they know of this one.
    peers.look(&daemon).await?;
    daemon.set_peers(peers.clone());
    peers.announce().await;
    let recovered = daemon
        .topics()
        .values()
        .map(|s| s.with_delta(|d| d.unlanded.facts()))
        .sum::<usize>();
    tracing::info!(http = %local, unlanded_facts = recovered, ready_ms = begun.elapsed().as_millis() as u64, "ready");
    let loops = tokio::spawn({
        let daemon = daemon.clone();
        async move { daemon.run().await }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let notes = tokio::spawn(refresh_notes(context.clone(), daemon.clone()));
    let upkeep = tokio::spawn(maintain::run(context.clone()));
    let present = tokio::spawn(address.clone().keep(context.clone(), daemon.clone()));
    let looking = tokio::spawn(peers.clone().keep(daemon.clone()));
    let scheduler = with_scheduler.then(|| {
        let own = Some(daemon.clone());
        tokio::spawn(schedule::run(context.clone(), own, stop.clone()))
    });
    let telling = (!with_scheduler)
        .then(|| tokio::spawn(crate::asked::tell(context.clone(), daemon.clone())));
    let stopping = {
        let daemon = daemon.clone();
        async move {
            tokio::select! {
                () = signal => {}
                e = daemon.failed() => tracing::error!(error = %e, "the daemon can't go on"),
            }
        }
    };
    let served = tokio::select! {
        served = axum::serve(listener, app).with_graceful_shutdown(stopping).into_future() => served,
        () = async {
            daemon.failed().await;
            tokio::time::sleep(DRAIN).await;
        } => Ok(()),
    };
    tracing::info!("stopping: no more intake, landing the rest");
    stop.store(true, Ordering::Relaxed);
    notes.abort();
    upkeep.abort();
    present.abort();
    telling.inspect(tokio::task::JoinHandle::abort);
    looking.abort();
    // A renewal under way must not come after the withdrawal.
    present.await.ok();
    if let Some(scheduler) = scheduler {
        scheduler.await.ok();
    }
    let stopped = daemon.stop().await;
    loops.await.ok();
    let withdrawn = address.withdraw(&context.storage).await;
    if withdrawn.is_ok() {
        peers.announce().await;
    }
    if let Some(failure) = daemon.failure() {
        return Err(failure);
    }
    withdrawn?;
    served.map_err(|e| Error::io(http, e))?;
    stopped?;
    tracing::info!("stopped; everything acknowledged has landed");
    Ok(())
}

/// Keeps true what the daemon says of edited views, and which topics it is to open once they are
/// declared.
async fn refresh_notes(context: Context, daemon: Arc<Daemon>) {
    let mut looks = 0_u32;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        looks += 1;
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

/// Ends with SIGINT or SIGTERM, of which the first is noticed from this call on, and not only once
/// the future is polled.
pub fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{Signal, SignalKind, signal};
    async fn next(signal: Option<Signal>) {
        match signal {
            Some(mut signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
    let interrupt = signal(SignalKind::interrupt()).ok();
    let terminate = signal(SignalKind::terminate()).ok();
    async move {
        tokio::select! {
            () = next(interrupt) => {}
            () = next(terminate) => {}
        }
    }
}

async fn healthy(State(health): State<Health>) -> impl IntoResponse {
    Json(serde_json::json!({ "status": "ok", "id": health.id, "pid": std::process::id() }))
}

/// The daemon is ready once it listens. A view that fails stops itself alone, so it is named and nothing more. A topic
/// most of whose input became dead letters is red: something is wrong before it. So is one whose source has stopped.
async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let failing = health.daemon.views_that_fail();
    let (topics, sources) = (health.daemon.topics(), health.daemon.sources());
    let mut red: BTreeMap<&String, String> = topics
        .iter()
        .filter_map(|(name, stream)| Some((name, stream.too_many_dead()?)))
        .collect();
    red.extend(
        sources
            .iter()
            .filter_map(|(name, source)| Some((name, source.state().stopped?))),
    );
    let status = match red.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = serde_json::json!({
        "ready": red.is_empty(), "topics_red": red, "views_that_fail": failing,
        "topics_untaken": health.daemon.untaken(),
        "notes": health.daemon.notes(),
    });
    (status, Json(body))
}

/// Compares this daemon's answer of a view with a recompute, both under one of its pins.
async fn verify_own(
    State(health): State<Health>,
    Path(view): Path<String>,
    Json(part): Json<Part>,
) -> Response {
    let options = verify::options(&health.context, part, &Arc::default());
    let compared = anabranch_serving::compute(async move {
        let Health { context, sql, .. } = health;
        verify::compare_pinned(&context, &sql, sql.pinner().as_ref(), &view, &options).await
    });
    match compared.await {
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
    Json(DaemonStatus::of(&health.daemon))
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
    let now = crate::context::now_ms();
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
    text += &peer_metrics(&health.peers);
    text + &storage_metrics(health.storage.requests())
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
