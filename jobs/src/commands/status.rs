//! `anabranch status`: topics, views, and what differs from the project.

use anabranch_shared::{Master, ReadMode, Result, view::View};
use arrow::util::display::array_value_to_string;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::client::Client;
use crate::commands::query::local_service;
use crate::context::{Context, now_ms};

/// A topic.
#[derive(Debug, Serialize)]
pub struct TopicStatus {
    /// Its name.
    pub topic: String,
    /// Landed facts.
    pub facts: u64,
    /// Partitions.
    pub partitions: usize,
    /// For each partition the first offset that has not landed.
    pub head: String,
    /// Files of the log.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Landed dead letters.
    pub dead_letters: u64,
}

/// A view.
#[derive(Debug, Serialize)]
pub struct ViewStatus {
    /// Its name.
    pub view: String,
    /// The generation that answers.
    pub generation: u64,
    /// For each partition the first offset that is not absorbed.
    pub boundary: String,
    /// Landed offsets past the boundary.
    pub behind: u64,
    /// Files of the master view.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Its states.
    pub states: u64,
}

/// What `status` shows.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Where the storage is.
    pub storage: String,
    /// The running daemon's address.
    pub daemon: Option<String>,
    /// The topics.
    pub topics: Vec<TopicStatus>,
    /// The views.
    pub views: Vec<ViewStatus>,
    /// What needs somebody's attention.
    pub notes: Vec<String>,
}

/// Looks at everything.
pub async fn status(context: &Context) -> Result<Status> {
    context.catalogue.refresh().await?;
    let entry = context.catalogue.current();
    let mut topics = Vec::new();
    for name in entry.topics.keys() {
        let log = context.log(name).await?;
        let (files, bytes, facts) = log.table().with_state(|s| {
            let bytes: i64 = s.files.values().map(|f| f.size).sum();
            let facts: u64 = s.files.values().filter_map(|f| f.rows()).sum();
            (s.files.len(), u64::try_from(bytes).unwrap_or(0), facts)
        });
        let head = log.head();
        topics.push(TopicStatus {
            topic: name.clone(),
            facts,
            partitions: head.iter().count(),
            head: head.to_string(),
            files,
            bytes,
            dead_letters: log
                .dead_letters()
                .with_state(|s| s.files.values().filter_map(|f| f.rows()).sum()),
        });
    }
    let mut views = Vec::new();
    let mut notes: Vec<String> = context.notes().into_values().collect();
    for (name, view) in &entry.views {
        let Some(live) = &view.live else { continue };
        let opened = match View::from_definition(name, &live.definition) {
            Ok(view) => {
                Master::open(&context.storage, &Arc::new(view), live.generation, now_ms()).await
            }
            Err(e) => Err(e),
        };
        let master = match opened {
            Ok(master) => master,
            Err(e) => {
                notes.push(e.to_string());
                continue;
            }
        };
        let head = context.log(&live.definition.topic.name).await?.head();
        let pin = master.pin();
        let bytes: i64 = pin.files.iter().map(|f| f.size).sum();
        views.push(ViewStatus {
            view: name.clone(),
            generation: live.generation.0,
            boundary: pin.boundary.to_string(),
            behind: pin.boundary.distance_to(&head),
            files: pin.files.len(),
            bytes: u64::try_from(bytes).unwrap_or(0),
            states: pin.files.iter().filter_map(|f| f.rows()).sum(),
        });
    }
    let client = Client::find(&context.storage).await?;
    if let Some(client) = &client {
        notes.extend(client.views_that_fail().await?.into_values());
    }
    for failure in failed_jobs(context).await? {
        notes.push(failure);
    }
    let mut said = BTreeSet::new();
    notes.retain(|note| said.insert(note.clone()));
    let daemon = client.map(|c| c.address().http.clone());
    Ok(Status {
        storage: context.storage.url().to_owned(),
        daemon,
        topics,
        views,
        notes,
    })
}

/// The views whose last job failed, and why.
async fn failed_jobs(context: &Context) -> Result<Vec<String>> {
    let sql = "SELECT view, job, error FROM (SELECT view, job, error, outcome, row_number() OVER (PARTITION BY view ORDER BY ended_at DESC) AS nth FROM jobs) WHERE nth = 1 AND outcome = 'failed' ORDER BY view";
    let (_, batches) = local_service(context)?
        .collect(sql, ReadMode::Merged)
        .await?;
    let mut failures = Vec::new();
    for batch in &batches {
        let text = |column: usize, row| array_value_to_string(batch.column(column), row);
        for row in 0..batch.num_rows() {
            let (view, job, error) = (text(0, row)?, text(1, row)?, text(2, row)?);
            if context.project.views.iter().any(|v| v.name == view) {
                failures.push(format!("view `{view}`: its last {job} failed: {error}"));
            }
        }
    }
    Ok(failures)
}
