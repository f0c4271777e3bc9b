//! `/plan`, `/operations` and `/whoami`: what pages do with the daemon, by the code of the commands.
//!
//! An operation is begun by a request, runs in the daemon, and is asked for until it has ended. Those
//! that write to views run one after the other; the last ones are kept in memory until the daemon ends.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_serving::{AuditRecord, Auditor, Caller, Identity, Rights, error_response};
use anabranch_shared::{Error, Ids, Result, panic_text};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures::FutureExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::clock::now;
use crate::node::operations::request::{OperationRequest, Prepared, planned_as};
use crate::node::operations::running::Operation;
use crate::project::context::Context;
use crate::tasks::Tasks;
use crate::work::plan::text::{details, doing};
use crate::work::plan::{Plan, plan};

mod request;
mod running;
mod work;

/// The most operations that run or wait at once.
const MOST_AT_ONCE: usize = 8;

/// The most that are kept.
const MOST_KEPT: usize = 50;

/// The operations of a daemon.
pub(super) struct Operations {
    project: PathBuf,
    auditor: Option<Arc<dyn Auditor>>,
    tasks: Arc<Tasks>,
    /// The newest last.
    kept: Mutex<Vec<Arc<Operation>>>,
    /// Views are written by one at a time.
    writing: Semaphore,
}

impl Operations {
    /// None yet, of the project in a folder.
    pub(super) fn new(
        project: PathBuf,
        auditor: Option<Arc<dyn Auditor>>,
        tasks: Arc<Tasks>,
    ) -> Self {
        Self {
            project,
            auditor,
            tasks,
            kept: Mutex::default(),
            writing: Semaphore::new(1),
        }
    }

    /// The project as its files are now; reads only.
    async fn read(&self) -> Result<Context> {
        Box::pin(Context::open_to_read(&self.project)).await
    }

    fn find(&self, id: &str) -> Result<Arc<Operation>> {
        let found = self.kept.lock().iter().find(|o| o.id() == id).cloned();
        found.ok_or_else(|| {
            Error::NotFound(format!(
                "no operation `{}`; a daemon keeps the last {MOST_KEPT} until it ends",
                id.escape_debug()
            ))
        })
    }

    /// Keeps a new one, in the place of the oldest that has ended.
    fn keep(&self, operation: &Arc<Operation>) -> Result<()> {
        let mut kept = self.kept.lock();
        let running = kept.iter().filter(|o| !o.has_ended()).count();
        if running >= MOST_AT_ONCE {
            return Err(Error::NoRoom(format!(
                "{running} operations run or wait already; wait for one of them, or stop one"
            )));
        }
        kept.push(operation.clone());
        if kept.len() > MOST_KEPT
            && let Some(oldest) = kept.iter().position(|o| o.has_ended())
        {
            kept.remove(oldest);
        }
        Ok(())
    }

    /// Begins what was prepared.
    fn begin(self: &Arc<Self>, prepared: Prepared, caller: &Caller) -> Result<Arc<Operation>> {
        if let Some(auditor) = &self.auditor {
            auditor.check()?;
        }
        let id = Ids::default().fresh().simple().to_string();
        let operation = Arc::new(Operation::new(id, prepared, caller.identity().name()));
        self.keep(&operation)?;
        let record = AuditRecord::begun(caller, operation.command(), now());
        let (all, one) = (self.clone(), operation.clone());
        self.tasks.spawn_passing("operation", async move {
            // What computes on other threads is told to stop when this is dropped.
            let _stops = StopsWhenDropped(one.stop());
            let done = AssertUnwindSafe(all.run(&one)).catch_unwind().await;
            let done = done.unwrap_or_else(|panic| {
                Err(Error::Internal(format!(
                    "it panicked: {}",
                    panic_text(panic.as_ref())
                )))
            });
            let outcome = one.end(done);
            if let Some(auditor) = &all.auditor {
                auditor.note(record.ended(outcome, one.seconds()));
            }
        });
        Ok(operation)
    }

    async fn run(&self, operation: &Arc<Operation>) -> Result<work::Done> {
        let _permit = match operation.request().writes_views() {
            false => None,
            true => {
                let permit = tokio::select! {
                    permit = self.writing.acquire() => Some(permit),
                    () = operation.is_stopped() => None,
                };
                permit
                    .transpose()
                    .map_err(|e| Error::Internal(e.to_string()))?
            }
        };
        operation.begins()?;
        // What a plan says is told before opening declares what is new.
        let planned = match operation.request() {
            OperationRequest::Apply { plan, views, .. } => {
                Some(planned_as(&self.read().await?, plan, views).await?)
            }
            _ => None,
        };
        let context = Box::pin(Context::open(&self.project)).await?;
        // Builds hold much between their steps.
        Box::pin(work::run(&context, operation, planned)).await
    }
}

/// Tells work to stop when it is dropped; to work that has ended that means nothing.
struct StopsWhenDropped(Arc<AtomicBool>);

impl Drop for StopsWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Refuses what somebody may not do.
fn may_operate(identity: &Identity) -> Result<()> {
    match identity.rights().may_operate() {
        true => Ok(()),
        false => Err(identity.denied("change or plan anything")),
    }
}

/// Refuses what shows rows that somebody may not read.
fn may_read_all_of<'a>(
    identity: &Identity,
    relations: impl IntoIterator<Item = &'a str>,
) -> Result<()> {
    let rights = identity.rights();
    let mut all = relations.into_iter();
    match all.find(|name| !rights.may_read_whole(name)) {
        None => Ok(()),
        Some(name) => Err(identity.denied(&format!("read all of `{name}`"))),
    }
}

/// The values of the one name that a request's address may have after the question mark.
fn values_of(given: Vec<(String, String)>, name: &str) -> Result<Vec<String>> {
    let value = |(key, value): (String, String)| match key == name {
        true => Ok(value),
        false => Err(Error::Invalid(format!(
            "`{}` is not known here; `{name}` is",
            key.escape_debug()
        ))),
    };
    given.into_iter().map(value).collect()
}

fn answer(given: Result<Response>) -> Response {
    given.unwrap_or_else(|e| error_response(&e))
}

/// Who asks, and what of it decides what a page offers.
pub(super) async fn whoami(Extension(identity): Extension<Identity>) -> Json<Value> {
    let rights: &Rights = identity.rights();
    Json(json!({
        "user": identity.name(), "rights": rights.written(), "operates": rights.may_operate(),
    }))
}

/// What would change between the project's files and what runs, of all views or of those that `?view=` names.
pub(super) async fn planned(
    State(operations): State<Arc<Operations>>,
    Extension(identity): Extension<Identity>,
    Query(given): Query<Vec<(String, String)>>,
) -> Response {
    let planning = async {
        may_operate(&identity)?;
        let context = operations.read().await?;
        let plan = plan(&context, &values_of(given, "view")?).await?;
        may_read_all_of(&identity, plan.views.iter().map(|v| v.view.as_str()))?;
        Ok(Json(plan_json(&plan)).into_response())
    };
    answer(planning.await)
}

/// A plan with its words, which are those of `anabranch plan`.
fn plan_json(plan: &Plan) -> Value {
    let views = plan.views.iter().map(|change| {
        let mut value = json!(change);
        value["is_change"] = change.is_change().into();
        value["is_candidate"] = change.is_candidate().into();
        value["doing"] = doing(change).into();
        value["details"] = json!(details(change));
        value["sql"] = json!(change.sql);
        value["stopped_by"] = json!(change.stopped_by);
        value
    });
    json!({
        "id": plan.id, "entry": plan.entry, "has_changes": plan.has_changes(),
        "refusals": plan.refusals(), "topics": plan.topics, "views": views.collect::<Vec<_>>(),
    })
}

/// Begins an operation; with `?show=true` it only tells the command that does the same.
pub(super) async fn begin(
    State(operations): State<Arc<Operations>>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    Query(given): Query<Vec<(String, String)>>,
    Json(request): Json<OperationRequest>,
) -> Response {
    let beginning = async {
        may_operate(&identity)?;
        let shows = match values_of(given, "show")?.as_slice() {
            [] => false,
            [one] if one == "true" || one == "false" => one == "true",
            _ => return Err(Error::Invalid("`show` is `true` or `false`".into())),
        };
        let context = operations.read().await?;
        let prepared = request.prepare(&context, &identity).await?;
        if shows {
            return Ok(Json(json!({ "command": prepared.command })).into_response());
        }
        let peer = peer.map(|Extension(ConnectInfo(address))| address);
        let caller = anabranch_serving::caller(peer, &headers, identity.clone());
        let begun = operations.begin(prepared, &caller)?;
        Ok((StatusCode::ACCEPTED, Json(begun.json(true))).into_response())
    };
    answer(beginning.await)
}

/// The operations, the newest first, without what they said.
pub(super) async fn list(
    State(operations): State<Arc<Operations>>,
    Extension(identity): Extension<Identity>,
) -> Response {
    let listing = || {
        may_operate(&identity)?;
        let kept = operations.kept.lock();
        let all: Vec<Value> = kept.iter().rev().map(|o| o.json(false)).collect();
        Ok(Json(json!({ "operations": all })).into_response())
    };
    answer(listing())
}

/// One operation whole, for whoever may read what it reads.
fn whole(operation: &Operation, identity: &Identity) -> Value {
    let reads = operation.reads().iter().map(String::as_str);
    operation.json(may_read_all_of(identity, reads).is_ok())
}

pub(super) async fn one(
    State(operations): State<Arc<Operations>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Response {
    let finding = || {
        may_operate(&identity)?;
        let found = operations.find(&id)?;
        Ok(Json(whole(&found, &identity)).into_response())
    };
    answer(finding())
}

/// Stops an operation. What it has built stays.
pub(super) async fn stop(
    State(operations): State<Arc<Operations>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Response {
    let stopping = || {
        may_operate(&identity)?;
        let found = operations.find(&id)?;
        if !found.has_ended() {
            found.stop().store(true, Ordering::Relaxed);
        }
        Ok(Json(whole(&found, &identity)).into_response())
    };
    answer(stopping())
}
