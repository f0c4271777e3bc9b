//! `anabranch speed` and `anabranch up`: the streaming daemon, alone or with the scheduler.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_serving::{Auditor, Following, PostgresDoor, PostgresOptions, flight_router};
use anabranch_shared::{Error, Result, StorageSecret};
use anabranch_speed::Daemon;
use axum::middleware::from_fn_with_state;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::node::access;
use crate::node::audit::Audit;
use crate::node::base::under;
use crate::node::boards::Boards;
use crate::node::door::Door;
use crate::node::door::gate::{Gate, flight_gate, gate};
use crate::node::door::guard::{Guard, guard, pages};
use crate::node::door::metered::metered;
use crate::node::intake::DaemonIntake;
use crate::node::journal::{self, Journal};
use crate::node::metrics::{NodeMetrics, Sources, measure};
use crate::node::open::{note, open, service, topic_options};
use crate::node::operations::Operations;
use crate::node::peers::PeerList;
use crate::node::ready::Node;
use crate::node::routes::{Health, router};
use crate::project::context::Context;
use crate::reader::daemon_status::DoorStatus;
use crate::reader::presence::Address;
use crate::signal::{end_at_once, stop_signal};
use crate::tasks::Tasks;
use crate::work::{schedule, upkeep};

/// The task that serves HTTP: without it a daemon is of no use.
const HTTP: &str = "http";

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
    let scheme = match running.address.certificate.is_empty() {
        true => "http",
        false => "https",
    };
    let console = format!("{scheme}://{}/console/", running.local);
    tracing::info!(http = %running.local, unlanded_facts = recovered, ready_ms = begun.elapsed().as_millis() as u64, %console, "ready");
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
    local: SocketAddr,
    address: Address,
    peers: Arc<PeerList>,
    node: Arc<Node>,
    following: Arc<Following>,
    journal: Arc<Journal>,
    tasks: Arc<Tasks>,
    /// Land and follow; the daemon itself ends them.
    loops: Arc<Tasks>,
    http: Arc<Tasks>,
}

impl Running {
    /// Listens, makes the daemon known, and starts its tasks. Where that fails nothing is left of
    /// it but the daemon, which is the caller's to close.
    async fn start(context: &Context, daemon: &Arc<Daemon>, with_scheduler: bool) -> Result<Self> {
        let project = &context.project;
        let who = access::open(project)?;
        let http = (project.daemon.http.as_str(), "`http` in `[daemon]`");
        let http = access::listen(project, "http", http).await?;
        let local = http.at;
        let postgres = match &project.postgres.listen {
            None => None,
            Some(listen) => {
                let listen = (listen.as_str(), "`listen` in `[doors.postgres]`");
                Some(access::listen(project, "postgres", listen).await?)
            }
        };
        let flight = match &project.flight.listen {
            None => None,
            Some(listen) => {
                let listen = (listen.as_str(), "`listen` in `[doors.flight]`");
                Some(access::listen(project, "flight", listen).await?)
            }
        };
        // Receipts are signed with it also where nobody has to show it.
        let secret = StorageSecret::of(&context.storage).await?;
        let secret = who.users.as_ref().map(|_| secret);
        let mut address = Address::new(context, local)?;
        address.certificate = who
            .tls
            .as_ref()
            .map(|t| t.fingerprint())
            .unwrap_or_default();
        let places = [Some(&http), postgres.as_ref(), flight.as_ref()];
        let places = places.into_iter().flatten();
        let doors: Vec<DoorStatus> = places.map(|place| place.status.clone()).collect();
        for danger in doors.iter().filter_map(DoorStatus::danger) {
            tracing::warn!("{danger}");
        }
        let (stop, closing) = (CancellationToken::new(), CancellationToken::new());
        let tasks = Arc::new(Tasks::new(stop.clone()));
        let peers = PeerList::new(
            &context.storage,
            daemon.wal(),
            project.daemon.peer_timeout,
            tasks.clone(),
        )?;
        let peers = Arc::new(peers);
        let audit = Audit::of(project);
        let auditor = audit.clone().map(|audit| audit as Arc<dyn Auditor>);
        let sql = Arc::new(service(context, daemon, auditor.clone())?);
        let loops = Arc::new(Tasks::new(CancellationToken::new()));
        let serving = Arc::new(Tasks::new(closing.clone()));
        let door = Door::new(&project.http, who.tls.clone());
        let renewal = Arc::default();
        let node = Arc::new(Node {
            daemon: daemon.clone(),
            tasks: [tasks.clone(), loops.clone(), serving.clone()],
            renewal: Arc::clone(&renewal),
            connections: door.connections().clone(),
            peers: peers.clone(),
            access: who.clone(),
            audit: audit.clone(),
            failed_jobs: Mutex::default(),
            is_stopping: AtomicBool::new(false),
        });
        let metrics = Arc::new(NodeMetrics::new(Sources {
            daemon: daemon.clone(),
            node: node.clone(),
            peers: peers.clone(),
            storage: context.storage.clone(),
            sql: sql.clone(),
        }));
        let following = Following::new(sql.clone());
        let postgres = postgres.map(|place| {
            let options = PostgresOptions {
                connections: project.postgres.connections,
                max_message_bytes: project.postgres.max_message_bytes,
                access: who.clone(),
            };
            let door = PostgresDoor::new(following.clone(), options);
            (door, place.listener, place.at)
        });
        let health = Health {
            context: context.clone(),
            sql: sql.clone(),
            daemon: daemon.clone(),
            id: address.id.clone(),
            postgres: postgres.as_ref().map(|(_, _, at)| *at),
            flight: flight.as_ref().map(|place| place.at),
            doors,
            peers: peers.clone(),
            node: node.clone(),
            metrics: metrics.clone(),
        };
        let guarding = Arc::new(Guard::new(project));
        let gating = Arc::new(Gate {
            users: who.users.clone(),
            secret,
        });
        let journal = Arc::new(Journal::default());
        let flight = match flight {
            None => None,
            Some(place) => {
                let intake = Arc::new(DaemonIntake {
                    daemon: daemon.clone(),
                    journal: journal.clone(),
                });
                let most = project.flight.max_message_bytes;
                let app = flight_router(sql.clone(), intake, most)?
                    .layer(from_fn_with_state((daemon.clone(), most), metered))
                    .layer(from_fn_with_state(gating.clone(), flight_gate));
                let door = Door::flight(&project.flight, &project.http, who.tls.clone());
                Some((door, place, app))
            }
        };
        let operations = Operations::new(project.dir.clone(), auditor, tasks.clone());
        let boards = Boards::new(project.dir.clone(), sql.clone());
        let boards = Arc::new(boards);
        let app = router(
            health,
            daemon,
            following.clone(),
            Arc::new(operations),
            boards,
        )
        .layer(from_fn_with_state(gating, gate));
        let app = match project.http.origins.as_slice() {
            [] => app,
            origins => app.layer(pages(origins)?),
        };
        let app = app
            .layer(from_fn_with_state(guarding, guard))
            .layer(from_fn_with_state(metrics.requests.clone(), measure));
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
        let app = app.layer(from_fn_with_state(journal.clone(), journal::note));
        let app = match &project.http.base {
            Some(base) => under(base, app),
            None => app,
        };
        if let Some((door, listener, at)) = postgres {
            tracing::info!(postgres = %at, "answers PostgreSQL's clients");
            let closing = closing.clone();
            serving.spawn("postgres", async move {
                door.serve(listener, closing).await;
                Ok(())
            });
        }
        if let Some((door, place, app)) = flight {
            tracing::info!(flight = %place.at, "answers clients of Arrow Flight SQL");
            let closing = closing.clone();
            serving.spawn("flight", async move {
                door.serve(place.listener, app, closing).await;
                Ok(())
            });
        }
        serving.spawn(HTTP, async move {
            door.serve(http.listener, app, closing).await;
            Ok(())
        });
        if let Some(users) = &who.users {
            tasks.spawn_endless("users", users.clone().keep());
        }
        if let Some(audit) = &audit {
            tasks.spawn_endless("audit", audit.clone().keep(daemon.clone()));
        }
        if let Some(tls) = &who.tls {
            tasks.spawn_endless("certificate", tls.clone().keep());
        }
        loops.spawn("landing", {
            let daemon = daemon.clone();
            async move {
                daemon.run().await;
                Ok(())
            }
        });
        tasks.spawn_endless("journal", journal.clone().keep(daemon.clone()));
        tasks.spawn_endless("notes", refresh_notes(context.clone(), daemon.clone()));
        tasks.spawn_endless("upkeep", upkeep::run(context.clone(), stop.clone()));
        let boundaries = metrics.boundaries.clone().keep(daemon.clone());
        tasks.spawn_endless("boundaries", boundaries);
        let jobs = node.clone().watch_jobs(context.clone(), metrics);
        tasks.spawn_endless("jobs", jobs);
        tasks.spawn_endless("peers", peers.clone().keep(daemon.clone()));
        tasks.spawn("presence", {
            let kept = address.clone();
            let kept = kept.keep(
                context.clone(),
                daemon.clone(),
                (renewal, who.tls),
                stop.clone(),
            );
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
            following,
            journal,
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
        // Who follows a view waits for ever.
        self.following.close();
        self.loops.expect_end();
        if let Some(audit) = &self.node.audit {
            audit.write(daemon).await;
        }
        daemon.close_intake(by(0.3)).await;
        self.journal.tell(daemon);
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
                let now = context.with_project(project);
                match topic_options(&now) {
                    Ok(topics) => daemon.want_topics(topics),
                    Err(e) => tracing::warn!(error = %e, "topics can't be taken"),
                }
                note(&now, &daemon);
            }
            Err(e) => tracing::warn!(error = %e, "the project can't be read any more"),
        }
    }
}
