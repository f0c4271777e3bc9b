//! `anabranch status`: topics, views, and what differs from the project.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::table::AddFile;
use anabranch_shared::view::View;
use anabranch_shared::{
    Entry, FactsFile, INGESTED_AT, Log, Master, Named, OffsetRange, Offsets, PartitionId,
    ReferenceSize, Result, Role, TopicEntry,
};
use anabranch_speed::{DedupStatus, IntakeCount, KafkaState, PartitionLag, StepState};
use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use datafusion::common::ScalarValue;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;

use crate::clock::{now, now_ms};
use crate::commands::printing::Printing;
use crate::project::context::Context;
use crate::reader::client::{Client, Daemons};
use crate::reader::presence::Address;
use crate::reader::storage_pinner::LocalPinner;
use crate::work::job_states::{JobState, failed_jobs, scheduler_note, states};

mod text;

pub use text::text;

/// Topics and views that are looked at at once: each waits for the storage.
const LOOKED_AT_ONCE: usize = 16;

pub use crate::reader::daemon_status::{BoundsStatus, DaemonStatus, DeltaStatus, DoorStatus};

/// A topic.
#[derive(Debug, Serialize)]
pub struct TopicStatus {
    /// Its name.
    pub topic: String,
    /// Landed facts.
    pub facts: u64,
    /// Facts that are acknowledged and have not landed: the daemons', or those in this machine's WAL.
    pub unlanded_facts: u64,
    /// Partitions.
    pub partitions: usize,
    /// For each partition the first offset that retention has not removed.
    pub low: String,
    /// Facts that went with the files that retention has removed.
    pub removed_facts: u64,
    /// Up to when all facts that retention has removed had landed.
    pub removed_before: Option<DateTime<Utc>>,
    /// For each partition the first offset that has not landed.
    pub head: String,
    /// The same, for programs.
    pub head_offsets: Offsets,
    /// Files of the log.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The latest event time of a landed fact.
    pub newest_event_at: Option<DateTime<Utc>>,
    /// When the newest landed fact was admitted.
    pub newest_ingested_at: Option<DateTime<Utc>>,
    /// Landed dead letters.
    pub dead_letters: u64,
    /// The offsets whose facts are lost: their source had removed them before they were read.
    pub gaps: Vec<GapStatus>,
    /// What came of the daemons' records since they started; none where no daemon runs.
    pub intake: Option<IntakeCount>,
    /// How it stands with the keys by which the daemon knows duplicates.
    pub dedup: Option<DedupStatus>,
}

/// A range of offsets whose facts are lost.
#[derive(Debug, Serialize)]
pub struct GapStatus {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub start: i64,
    /// The offset after the last.
    pub end: i64,
}

/// What a topic's gaps are to a reader.
fn gap_notes(topic: &TopicStatus) -> Vec<String> {
    let note = |gap: &GapStatus| {
        format!(
            "topic `{}`: facts [{}, {}) of partition {} are lost; their source had removed them before they were read",
            topic.topic, gap.start, gap.end, gap.partition
        )
    };
    topic.gaps.iter().map(note).collect()
}

/// A partition that a daemon reads from Kafka.
#[derive(Debug, Serialize)]
pub struct KafkaStatus {
    /// The topic.
    pub topic: String,
    /// Kafka's partition, which is the log's too.
    pub partition: i32,
    /// The offset that is read next.
    pub position: i64,
    /// How many offsets of Kafka lie past it.
    pub lag_offsets: Option<i64>,
    /// By how much the newest facts are older than now, in seconds.
    pub lag_seconds: Option<f64>,
}

fn kafka_statuses(daemon: &DaemonStatus) -> Vec<KafkaStatus> {
    let now = now_ms();
    let partitions = |(topic, state): (&String, &KafkaState)| {
        let of = |(partition, lag): (&i32, &PartitionLag)| KafkaStatus {
            topic: topic.clone(),
            partition: *partition,
            position: lag.position,
            lag_offsets: lag.lag_offsets,
            lag_seconds: lag.lag_ms(now).map(|ms| ms as f64 / 1_000.0),
        };
        state.partitions.iter().map(of).collect::<Vec<_>>()
    };
    daemon.kafka.iter().flat_map(partitions).collect()
}

/// A step.
#[derive(Debug, Serialize)]
pub struct StepStatus {
    /// Its name.
    pub step: String,
    /// The topic whose facts it takes.
    pub from: String,
    /// The topic whose facts it makes.
    pub to: String,
    /// How many offsets of its input it has not taken.
    pub lag_offsets: i64,
    /// By how much it is behind, in seconds.
    pub lag_seconds: Option<f64>,
    /// The facts that it took, since the daemons started.
    pub facts: u64,
    /// The records that it made of them.
    pub made: u64,
    /// The facts of which nothing was made because it failed over them.
    pub refused: u64,
    /// How often a program was begun again after it had failed.
    pub restarts: u64,
    /// Why it makes nothing, where that is so.
    pub trouble: Option<String>,
}

fn step_statuses(daemon: &DaemonStatus) -> Vec<StepStatus> {
    let now = now_ms();
    let of = |(to, state): (&String, &StepState)| StepStatus {
        step: state.step.clone(),
        from: state.from.clone(),
        to: to.clone(),
        lag_offsets: state.lag_offsets(),
        lag_seconds: state.lag_ms(now).map(|ms| ms as f64 / 1_000.0),
        facts: state.facts,
        made: state.made,
        refused: state.refused,
        restarts: state.restarts,
        trouble: state.stopped.clone().or(state.trouble.clone()),
    };
    daemon.steps.iter().map(of).collect()
}

/// A view.
#[derive(Debug, Serialize)]
pub struct ViewStatus {
    /// Its name; with `candidate.` or `previous.` before it where that generation does not answer.
    pub view: String,
    /// The generation.
    pub generation: u64,
    /// Until when it is kept for a roll-back.
    pub kept_until: Option<DateTime<Utc>>,
    /// Whether the project holds another definition than the one that answers.
    pub edited: bool,
    /// For each partition the first offset that it holds, where that is not 0: retention had removed
    /// what lay before when it was built.
    pub from: Option<String>,
    /// For each partition the first offset that is not absorbed.
    pub boundary: String,
    /// The same, for programs.
    pub boundary_offsets: Offsets,
    /// Landed facts past the boundary.
    pub behind: u64,
    /// For each reference that its facts meet, how many of the master view's facts met rows of before it
    /// changed last, at most: a rebuild lets them meet the newest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stale: BTreeMap<String, u64>,
    /// Files of the master view.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Its states.
    pub states: u64,
    /// What the daemon keeps of the view; none where no daemon runs: then it is computed when asked.
    pub delta: Option<DeltaStatus>,
    /// Its jobs, how they last ended and when they are next due.
    pub jobs: Vec<JobState>,
}

/// A daemon as it made itself known.
#[derive(Debug, Serialize)]
pub struct DaemonEntry {
    /// Its address.
    #[serde(flatten)]
    pub address: Address,
    /// When it started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was last seen, by its own clock.
    pub seen_at: Option<DateTime<Utc>>,
    /// Whether it answers.
    pub answers: bool,
    /// What facts and deltas take of its bounds, where it said so.
    pub bounds: Option<BoundsStatus>,
    /// The references whose rows it keeps in memory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<ReferenceSize>,
    /// Where it answers, and who may come in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub doors: Vec<DoorStatus>,
}

/// What `status` shows.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Where the storage is.
    pub storage: String,
    /// The address of the daemon that queries are given to.
    pub daemon: Option<String>,
    /// Every daemon that made itself known and did not stop.
    pub daemons: Vec<DaemonEntry>,
    /// The topics.
    pub topics: Vec<TopicStatus>,
    /// What daemons read from Kafka.
    pub kafka: Vec<KafkaStatus>,
    /// The steps that daemons run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepStatus>,
    /// The views.
    pub views: Vec<ViewStatus>,
    /// What needs somebody's attention.
    pub notes: Vec<String>,
}

/// Looks at everything.
pub async fn status(context: &Context) -> Result<Status> {
    context.catalogue.refresh().await?;
    let daemons = Client::look(&context.storage).await?;
    let mut notes = context.notes();
    let views = context.project.views.iter().map(|v| &v.name);
    let edited: Vec<String> = views.filter(|v| notes.contains_key(*v)).cloned().collect();
    let (mut daemon, mut told) = (None::<DaemonStatus>, BTreeMap::new());
    let mut failing = BTreeMap::new();
    for client in &daemons.alive {
        let wal = &client.address().wal;
        match futures::future::try_join(client.status(), client.views_that_fail()).await {
            Ok((of_one, views)) => {
                let own = Told {
                    bounds: of_one.bounds.clone(),
                    references: of_one.references.clone(),
                    doors: of_one.doors.clone(),
                };
                told.insert(wal.clone(), own);
                failing.extend(views);
                match &mut daemon {
                    Some(all) => all.add(of_one),
                    None => daemon = Some(of_one),
                }
            }
            // It was there a moment ago; the others are shown all the same.
            Err(e) => drop(notes.insert(format!("daemon {wal}"), e.to_string())),
        }
    }
    let mut jobs = states(context, now()).await?;
    let scheduler = scheduler_note(context).await?;
    notes.extend(scheduler.map(|note| ("scheduler".to_owned(), note)));
    for job in failed_jobs(&jobs) {
        notes.insert(format!("{} {}", job.view, job.job), job.text);
    }
    let mut views = Vec::new();
    let entry = context.catalogue.current();
    let daemon_of_views = daemon.as_ref();
    let looks = entry.generations().map(|named| async move {
        let name = named.relation();
        let status = view_status(context, &name, daemon_of_views).await;
        (name, status)
    });
    let looks: Vec<_> = looks.collect();
    let mut looking = stream::iter(looks).buffered(LOOKED_AT_ONCE);
    while let Some((name, status)) = looking.next().await {
        let (own, rest) = jobs.into_iter().partition(|j| j.view == name);
        jobs = rest;
        match status {
            Ok(None) => {}
            Ok(Some(view)) => {
                if let Some(why) = view.delta.as_ref().and_then(|d| d.failed.clone()) {
                    notes.insert(format!("{name} failed"), why);
                }
                views.push(ViewStatus {
                    edited: edited.contains(&name),
                    jobs: own,
                    ..view
                });
            }
            Err(e) => {
                notes.insert(name, e.to_string());
            }
        }
    }
    drop(looking);
    let failing = failing.into_iter();
    notes.extend(failing.map(|(name, why)| (format!("{name} failed"), why)));
    notes.extend(daemon.iter().flat_map(DaemonStatus::notes));
    let topics = topic_statuses(context, daemon.as_ref()).await?;
    let gaps = topics.iter().flat_map(gap_notes).collect::<Vec<_>>();
    for address in &daemons.silent {
        let (wal, what) = (&address.wal, address.describe(now_ms()));
        notes.insert(
            format!("daemon {wal}"),
            format!("the daemon at {what} does not answer; start it again, so that what its WAL holds lands (where it never will, remove `daemons/{wal}.json` from the storage)"),
        );
    }
    Ok(Status {
        storage: context.storage.url().to_owned(),
        daemon: daemons.alive.first().map(|c| c.address().http.clone()),
        daemons: entries(&daemons, told),
        topics,
        kafka: daemon.as_ref().map(kafka_statuses).unwrap_or_default(),
        steps: daemon.as_ref().map(step_statuses).unwrap_or_default(),
        views,
        notes: notes.into_values().chain(gaps).collect(),
    })
}

/// What a daemon tells of itself alone.
struct Told {
    bounds: BoundsStatus,
    references: Vec<ReferenceSize>,
    doors: Vec<DoorStatus>,
}

fn entries(daemons: &Daemons, mut told: BTreeMap<String, Told>) -> Vec<DaemonEntry> {
    let alive = daemons.alive.iter().map(|c| (c.address(), true));
    let all = alive.chain(daemons.silent.iter().map(|a| (a, false)));
    let entry = |(address, answers): (&Address, bool)| {
        let told = told.remove(&address.wal);
        let bounds = told.as_ref().map(|told| told.bounds.clone());
        let (references, doors) = told.map(|told| (told.references, told.doors)).unzip();
        DaemonEntry {
            address: address.clone(),
            started_at: DateTime::from_timestamp_millis(address.started_at_ms),
            seen_at: DateTime::from_timestamp_millis(address.seen_at_ms),
            answers,
            bounds,
            references: references.unwrap_or_default(),
            doors: doors.unwrap_or_default(),
        }
    };
    all.map(entry).collect()
}

async fn topic_statuses(
    context: &Context,
    daemon: Option<&DaemonStatus>,
) -> Result<Vec<TopicStatus>> {
    let entry = context.catalogue.current();
    let topics = entry.topics.iter();
    let looks = topics.map(|(name, known)| topic_status(context, name, known, daemon));
    let looks: Vec<_> = looks.collect();
    stream::iter(looks)
        .buffered(LOOKED_AT_ONCE)
        .try_collect()
        .await
}

async fn topic_status(
    context: &Context,
    name: &str,
    known: &TopicEntry,
    daemon: Option<&DaemonStatus>,
) -> Result<TopicStatus> {
    let unlanded_facts = match daemon {
        Some(daemon) => daemon.unlanded_facts.get(name).copied().unwrap_or(0),
        None => LocalPinner::new(context.clone()).unlanded(name).await?,
    };
    let log = context.log(name).await?;
    let (files, bytes) = log.table().with_state(|s| {
        let bytes: i64 = s.files.values().map(|f| f.size).sum();
        (s.files.len(), u64::try_from(bytes).unwrap_or(0))
    });
    // What has landed since the daemon was asked is among its unlanded facts.
    let mut head = log.head();
    let counted = daemon.and_then(|d| d.landed.get(name));
    for (partition, offset) in counted.iter().flat_map(|c| c.iter()) {
        head.set(partition, offset.min(head.get(partition)));
    }
    let facts = landed_facts(&log, &head);
    Ok(TopicStatus {
        topic: name.to_owned(),
        facts,
        unlanded_facts,
        partitions: head.iter().count(),
        low: log.low().to_string(),
        removed_facts: log.removed_facts(),
        removed_before: log
            .removed_before_ms()
            .and_then(DateTime::from_timestamp_millis),
        head: head.to_string(),
        head_offsets: head,
        files,
        bytes,
        newest_event_at: newest_event(&log, &known.topic.event_time),
        newest_ingested_at: newest(&log, INGESTED_AT),
        dead_letters: log
            .dead_letters()
            .with_state(|s| s.files.values().filter_map(|f| f.rows()).sum()),
        gaps: gaps(&log),
        intake: daemon.and_then(|d| d.intake.get(name).copied()),
        dedup: daemon.and_then(|d| d.dedup.get(name).copied()),
    })
}

/// How many facts the log holds below a head.
fn landed_facts(log: &Log, head: &Offsets) -> u64 {
    match log.kept_files(head) {
        Ok((_, files)) => files.iter().filter_map(|f| f.add.rows()).sum(),
        // Files were merged across it since.
        Err(_) => log
            .table()
            .with_state(|s| s.files.values().filter_map(|f| f.rows()).sum()),
    }
}

/// How many facts the log holds between two vectors of offsets; where a file reaches over either, at
/// most.
fn facts_between(log: &Log, from: &Offsets, to: &Offsets) -> u64 {
    let Ok(files) = log.files_between(from, to) else {
        return from.distance_to(to);
    };
    let of_file = |file: &FactsFile| {
        let offsets = file.wanted.iter().map(|(_, r)| r.end.0 - r.start.0);
        let offsets = u64::try_from(offsets.sum::<i64>()).unwrap_or(0);
        file.add.rows().map_or(offsets, |rows| rows.min(offsets))
    };
    files.iter().map(of_file).sum()
}

fn gaps(log: &Log) -> Vec<GapStatus> {
    let gap = |(partition, range): (PartitionId, OffsetRange)| GapStatus {
        partition: partition.0,
        start: range.start.0,
        end: range.end.0,
    };
    log.gaps().into_iter().map(gap).collect()
}

/// The latest time in a column of the log, by the statistics of its files.
fn newest(log: &Log, column: &str) -> Option<DateTime<Utc>> {
    let schema = log.schema();
    let newest = log.table().with_state(|s| {
        let files = s.files.values();
        files.filter_map(|f| latest(f, &schema, column)).max()
    });
    DateTime::from_timestamp_micros(newest?)
}

/// The latest event time that had come when its facts came: one producer whose clock is ahead must
/// not hide for ever how new the others' facts are.
fn newest_event(log: &Log, event_time: &str) -> Option<DateTime<Utc>> {
    let schema = log.schema();
    let of = |file: &Arc<AddFile>| {
        let event = latest(file, &schema, event_time)?;
        Some(latest(file, &schema, INGESTED_AT).map_or(event, |came| event.min(came)))
    };
    let newest = log
        .table()
        .with_state(|s| s.files.values().filter_map(of).max());
    DateTime::from_timestamp_micros(newest?)
}

/// The latest time in a column of a file, in microseconds since 1970.
fn latest(file: &AddFile, schema: &SchemaRef, column: &str) -> Option<i64> {
    let index = schema.index_of(column).ok()?;
    let statistics = file.statistics(schema);
    let statistics = statistics.column_statistics.get(index)?;
    match statistics.max_value.get_value()? {
        ScalarValue::TimestampMicrosecond(at, _) => *at,
        _ => None,
    }
}

/// Until when a generation is kept that answered before.
fn kept_until(named: &Named<'_>, entry: &Entry) -> Option<DateTime<Utc>> {
    let previous = entry.views.get(named.view)?.previous.as_ref()?;
    let is_it = named.role == Role::Previous;
    is_it.then(|| DateTime::from_timestamp_millis(previous.until_ms))?
}

/// For each reference of a view, the offsets of files whose facts met rows of before it changed last.
async fn stale(
    context: &Context,
    view: &View,
    files: &[Arc<AddFile>],
) -> Result<BTreeMap<String, u64>> {
    let mut stale = BTreeMap::new();
    for reference in view.references() {
        let newest = context.log(&reference.topic.name).await?.head();
        let mut offsets = 0;
        for file in files {
            for by in file.met()?.iter() {
                if by.at.get(&reference.name) != Some(&newest) {
                    let ranges = by.ranges.iter().map(|(_, r)| r.end.0 - r.start.0);
                    offsets += ranges.sum::<i64>();
                }
            }
        }
        stale.insert(reference.name.clone(), u64::try_from(offsets).unwrap_or(0));
    }
    stale.retain(|_, offsets| *offsets > 0);
    Ok(stale)
}

async fn view_status(
    context: &Context,
    name: &str,
    daemon: Option<&DaemonStatus>,
) -> Result<Option<ViewStatus>> {
    let entry = context.catalogue.current();
    let Some(named) = entry.named(name) else {
        return Ok(None);
    };
    let (view, live) = (context.generation_view(&named)?, named.entry);
    let master = Master::open(&context.storage, &view, live.generation, now_ms()).await?;
    let log = context.log(&live.definition.topic.name).await?;
    let head = log.head();
    let pin = master.pin();
    let bytes: i64 = pin.files.iter().map(|f| f.size).sum();
    Ok(Some(ViewStatus {
        view: name.to_owned(),
        generation: live.generation.0,
        kept_until: kept_until(&named, &entry),
        edited: false,
        from: (live.from != Offsets::default()).then(|| live.from.to_string()),
        boundary: pin.boundary.to_string(),
        boundary_offsets: pin.boundary.clone(),
        behind: facts_between(&log, &pin.boundary, &head),
        stale: stale(context, &view, &pin.files).await?,
        files: pin.files.len(),
        bytes: u64::try_from(bytes).unwrap_or(0),
        states: pin.files.iter().filter_map(|f| f.rows()).sum(),
        delta: daemon.and_then(|d| d.deltas.get(name).cloned()),
        jobs: Vec::new(),
    }))
}

/// Shows it.
pub(crate) async fn run(context: &Context, printing: Printing) -> Result<u8> {
    let status = status(context).await?;
    printing.either(|| text(&status, printing.style), &status)?;
    Ok(0)
}
