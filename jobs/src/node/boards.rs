//! `/boards`: what the panels of boards show. A panel is computed once for all who may see the same of it, only
//! when what it reads has moved or a minute is over, and all panels together as often as takes a tenth of a
//! processor.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_serving::text::json::write_array;
use anabranch_serving::{Caller, Identity, Reading, SqlService, error_response};
use anabranch_shared::convert::sql_type;
use anabranch_shared::{Error, ErrorKind, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chrono::SecondsFormat;
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Mutex as Turn;

use crate::clock::now;
use crate::project::boards::{self, Panel};

/// The most rows of a panel.
const MOST_ROWS: usize = 10_000;

/// The most bytes of a panel's answer.
const MOST_BYTES: usize = 8 << 20;

/// A panel is not computed more often than this.
const LEAST_PAUSE: Duration = Duration::from_secs(2);

/// One that nothing has moved for is computed anew after so long: it may ask what time it is.
const TIME_MOVES: Duration = Duration::from_secs(60);

/// All panels together take one part in so many of a processor.
const SHARE: u32 = 10;

/// A panel that nobody has looked at for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// What panels are computed for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    sql: String,
    /// As they are written; what somebody sees goes by these.
    rights: Vec<String>,
}

/// What is known of a panel.
#[derive(Debug)]
struct Kept {
    /// Whoever holds it computes, and the others wait for what comes of it.
    last: Turn<Option<Computed>>,
    looked_at: Mutex<Instant>,
    /// How long it took to compute.
    took: Mutex<Duration>,
}

/// What came of computing a panel.
#[derive(Clone, Debug)]
struct Computed {
    answer: std::result::Result<Arc<str>, (ErrorKind, String)>,
    /// From what it was computed; none where that can't be told.
    sources: Option<String>,
    at: Instant,
    computed_at: String,
}

/// The boards of a daemon.
#[derive(Debug)]
pub(super) struct Boards {
    project: PathBuf,
    sql: Arc<SqlService>,
    kept: Mutex<BTreeMap<Key, Arc<Kept>>>,
}

impl Boards {
    /// The boards of the project in a folder.
    pub(super) fn new(project: PathBuf, sql: Arc<SqlService>) -> Self {
        Self {
            project,
            sql,
            kept: Mutex::default(),
        }
    }

    /// What is kept of a panel that is looked at, and how often panels are computed now.
    fn look(&self, key: Key) -> (Arc<Kept>, Duration) {
        let now = Instant::now();
        let mut all = self.kept.lock();
        all.retain(|_, kept| now.duration_since(*kept.looked_at.lock()) < FORGOTTEN_AFTER);
        let kept = all.entry(key).or_insert_with(|| {
            Arc::new(Kept {
                last: Turn::default(),
                looked_at: Mutex::new(now),
                took: Mutex::default(),
            })
        });
        *kept.looked_at.lock() = now;
        let kept = kept.clone();
        let live = all
            .values()
            .filter(|kept| now.duration_since(*kept.looked_at.lock()) < TIME_MOVES);
        (kept, pause(live.map(|kept| *kept.took.lock()).sum()))
    }

    /// What a panel shows.
    async fn panel(&self, panel: &Panel, caller: &Caller) -> Result<(Computed, Duration)> {
        let key = Key {
            sql: panel.sql.clone(),
            rights: caller.identity().rights().written(),
        };
        let (kept, every) = self.look(key);
        let mut last = kept.last.lock().await;
        let mut sources = None;
        if let Some(done) = last.as_ref() {
            let age = done.at.elapsed();
            if age < every {
                return Ok((done.clone(), every));
            }
            sources = self.sources(panel, caller).await;
            if sources.is_some() && sources == done.sources && age < TIME_MOVES {
                return Ok((done.clone(), every));
            }
        }
        // Before its answer, so that what comes meanwhile is none of it.
        if last.is_none() {
            sources = self.sources(panel, caller).await;
        }
        let begun = Instant::now();
        let answer = self.compute(panel, caller).await;
        *kept.took.lock() = begun.elapsed();
        let answer = answer.map_err(|e| (e.kind(), e.to_string()));
        let done = last.insert(Computed {
            answer,
            sources,
            at: Instant::now(),
            computed_at: now().to_rfc3339_opts(SecondsFormat::Millis, true),
        });
        Ok((done.clone(), every))
    }

    /// What can't be told is computed anew.
    async fn sources(&self, panel: &Panel, caller: &Caller) -> Option<String> {
        self.sql.sources(caller, &panel.sql).await.ok().flatten()
    }

    /// The rows and what is told of them, as the inside of a JSON object.
    async fn compute(&self, panel: &Panel, caller: &Caller) -> Result<Arc<str>> {
        let reading = Reading::default();
        let mut answer = self.sql.query_by(caller, &panel.sql, &reading).await?;
        let (mut batches, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while let Some(batch) = answer.stream.next().await {
            let batch: RecordBatch = batch?;
            rows += batch.num_rows();
            bytes += batch.get_array_memory_size();
            if rows > MOST_ROWS || bytes > MOST_BYTES {
                return Err(Error::Invalid(format!(
                    "a panel shows at most {MOST_ROWS} rows and {MOST_BYTES} bytes; narrow its question, with LIMIT for example"
                )));
            }
            batches.push(batch);
        }
        let text = written(&answer.schema, &batches)?;
        let told = json!({ "freshness": answer.freshness, "notes": answer.notes });
        let told = told.to_string();
        let told = told.trim_start_matches('{').trim_end_matches('}');
        Ok(format!(
            "\"columns\":{},\"rows\":{text},{told}",
            columns(&answer.schema)
        )
        .into())
    }
}

/// How often panels are computed that take so long together.
fn pause(all: Duration) -> Duration {
    (all * SHARE).max(LEAST_PAUSE)
}

fn columns(schema: &SchemaRef) -> Value {
    let distinct = anabranch_serving::distinct_names(schema);
    let all = distinct.fields().iter();
    let all = all.map(|f| json!({ "name": f.name(), "type": sql_type(f.data_type()) }));
    all.collect()
}

fn written(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<String> {
    let mut text = Vec::new();
    write_array(&mut text, schema, batches).map_err(|e| Error::Invalid(e.to_string()))?;
    String::from_utf8(text).map_err(|e| Error::Internal(e.to_string()))
}

/// Whoever may see boards at all.
fn may_look(identity: &Identity, board: &str) -> Result<()> {
    let rights = identity.rights();
    match rights.may_see_board(board) || rights.may_read_something() {
        true => Ok(()),
        false => Err(Error::NotFound(format!(
            "no board `{}`",
            board.escape_debug()
        ))),
    }
}

/// The boards that somebody may look at, with why one can't be.
pub(super) async fn list(
    State(boards): State<Arc<Boards>>,
    Extension(identity): Extension<Identity>,
) -> Response {
    let listing = || -> Result<Vec<Value>> {
        let names = boards::names(&boards.project)?;
        let seen = names
            .iter()
            .filter(|name| may_look(&identity, name).is_ok());
        let one = |name: &String| match boards::read(&boards.project, name) {
            Ok(board) => json!({ "name": name, "title": board.title, "error": null }),
            Err(e) => json!({ "name": name, "title": name, "error": e.to_string() }),
        };
        Ok(seen.map(one).collect())
    };
    match listing() {
        Ok(all) => Json(json!({ "boards": all })).into_response(),
        Err(e) => error_response(&e),
    }
}

/// A board without what it shows.
pub(super) async fn one(
    State(boards): State<Arc<Boards>>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
) -> Response {
    let read = may_look(&identity, &name).and_then(|()| boards::read(&boards.project, &name));
    match read {
        Ok(board) => Json(json!({
            "name": name, "title": board.title, "panels": board.panels,
        }))
        .into_response(),
        Err(e) => error_response(&e),
    }
}

/// What a panel of a board shows: of everything to those who may see the board, otherwise of what they may read.
pub(super) async fn panel(
    State(boards): State<Arc<Boards>>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    Extension(identity): Extension<Identity>,
    headers: HeaderMap,
    Path((name, number)): Path<(String, usize)>,
) -> Response {
    let shown = async {
        may_look(&identity, &name)?;
        let board = boards::read(&boards.project, &name)?;
        let panel = board.panels.get(number).ok_or_else(|| {
            let there = board.panels.len();
            Error::NotFound(format!(
                "board `{name}` has no panel {number}, of {there} from 0 on"
            ))
        })?;
        let is_whole = identity.rights().may_see_board(&name);
        let asks = match is_whole {
            true => Identity::everybody(),
            false => identity.clone(),
        };
        let peer = peer.map(|Extension(ConnectInfo(address))| address);
        let caller = anabranch_serving::caller(peer, &headers, asks);
        let (done, every) = boards.panel(panel, &caller).await?;
        let answer = done
            .answer
            .map_err(|(kind, text)| Error::of_kind(kind, text))?;
        // Whoever sees the board alone need not know of what it is made.
        let sql = match is_whole && !identity.rights().is_admin() {
            true => Value::Null,
            false => panel.sql.as_str().into(),
        };
        Ok(format!(
            "{{\"computed_at\":\"{}\",\"every_seconds\":{:.1},\"sql\":{sql},{answer}}}",
            done.computed_at,
            every.as_secs_f64()
        ))
    };
    match shown.await {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(e) => error_response(&e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_take_a_share() {
        assert_eq!(pause(Duration::ZERO), LEAST_PAUSE);
        assert_eq!(pause(Duration::from_millis(50)), LEAST_PAUSE);
        let all = Duration::from_millis(1_300);
        let share = all.as_secs_f64() / pause(all).as_secs_f64();
        assert!((share - 0.1).abs() < 1e-9, "{share}");
    }
}
