//! `anabranch batch maintain`, and the same after jobs and in the daemon: removes what retention lets
//! go, merges the small files of logs, and removes files that nothing needs any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anabranch_batch::{
    CleanAction, CleanOptions, CleanReport, CompactOptions, CompactReport, KeepReport,
    RetainReport, RetentionRule, RetireRule, UpkeepTime, clean_storage, clean_view, compact,
    find_compaction, find_retention, keep_small, retain, retire,
};
use anabranch_shared::table::Table;
use anabranch_shared::{
    Error, Lease, LeaseStanding, Log, Monotonic, Offset, Offsets, Result, counted, layout,
};
use futures::stream::{self, StreamExt};
use object_store::path::Path;
use tokio_util::sync::CancellationToken;

use crate::clock::now_ms;
use crate::output::human_bytes;
use crate::project::context::Context;
use crate::project::{dead_letter_retries, job_history};
use crate::tasks::flag_of;

/// How long after its last sign of life a process that keeps a log in shape is taken for dead.
const LEASE_EXPIRES: Duration = Duration::from_secs(10);

/// How often a command looks whether another process has done with a log.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Logs that are opened at once to see whether there is something to do.
const LOOKED_AT_ONCE: usize = 16;

/// What keeping the logs in shape came to, or would.
#[derive(Clone, Debug, Default)]
pub struct UpkeepReport {
    /// Files that were merged.
    pub compacted: CompactReport,
    /// For each topic of which facts were removed, or could not be, what was.
    pub retained: BTreeMap<String, RetainReport>,
    /// The topics that another process takes care of at the moment.
    pub elsewhere: Vec<String>,
    /// What became of the history of jobs and of retries.
    pub history: KeepReport,
}

/// What to do about a log that another process keeps in shape at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It is left to that process.
    None,
    /// That process is waited for, in case it is dead.
    UntilExpiry,
}

/// How clean-up runs by a project's settings.
pub fn clean_options(context: &Context, time: UpkeepTime, action: CleanAction) -> CleanOptions {
    let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    let storage = &context.project.storage;
    CleanOptions {
        grace_ms: ms(storage.grace),
        orphan_grace_ms: ms(storage.orphan_grace),
        checkpoint_every: context.project.daemon.checkpoint_every,
        time,
        action,
    }
}

/// The time at which upkeep that does something runs.
pub async fn upkeep_time(context: &Context, action: CleanAction) -> Result<UpkeepTime> {
    match action {
        CleanAction::Remove => UpkeepTime::of(&context.storage).await,
        CleanAction::Find => Ok(UpkeepTime::to_look(&context.storage)),
    }
}

/// Cleans the whole storage of a project as of a time.
pub async fn maintain(
    context: &Context,
    time: UpkeepTime,
    action: CleanAction,
) -> Result<CleanReport> {
    if action == CleanAction::Remove {
        retire_old(context, &time, None).await?;
    }
    let options = clean_options(context, time, action);
    let others = [layout::JOBS, layout::DEAD_LETTER_RETRIES].map(Path::from);
    clean_storage(&context.storage, &context.catalogue, &others, &options).await
}

/// Retires generations that do not answer and whose time is over; of all views, or of one.
async fn retire_old(context: &Context, time: &UpkeepTime, only: Option<&str>) -> Result<()> {
    let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    let rule = RetireRule {
        hold_ms: ms(context.project.build.hold),
        grace_ms: ms(context.project.storage.grace),
    };
    retire(&context.storage, &context.catalogue, only, rule, time).await
}

/// Cleans what belongs to a view after one of its jobs. What goes wrong is only said: the job is
/// done all the same, and the next one tries again.
pub async fn after_job(context: &Context, view: &str) {
    let cleaned = async {
        let action = CleanAction::Remove;
        let time = upkeep_time(context, action).await?;
        retire_old(context, &time, Some(view)).await?;
        let options = clean_options(context, time, action);
        clean_view(&context.storage, &context.catalogue, view, &options).await
    };
    match cleaned.await {
        Ok(report) => log(&report),
        Err(e) => tracing::warn!(%view, error = %e, "clean-up failed; it is tried again later"),
    }
}

/// Keeps the logs of all topics in shape: merges their small files. A topic at a time belongs to one
/// process, by a lease. One that fails doesn't keep the others from theirs.
///
/// # Errors
/// Those of the first topic that failed.
pub async fn keep_logs(
    context: &Context,
    action: CleanAction,
    patience: Patience,
    stop: &Arc<AtomicBool>,
) -> Result<UpkeepReport> {
    let mut report = UpkeepReport::default();
    context.catalogue.refresh().await?;
    let mut failed = None;
    let entry = context.catalogue.current();
    // Each is only opened for that; most have nothing to do.
    let looks = entry.topics.keys().map(|topic| async move {
        let leaves = leaves(context, topic).await;
        (topic, leaves)
    });
    let looks: Vec<_> = looks.collect();
    let mut looking = stream::iter(looks).buffered(LOOKED_AT_ONCE);
    let mut topics = Vec::new();
    while let Some((topic, leaves)) = looking.next().await {
        match leaves {
            Ok(true) => {}
            // Why it can't be looked at is said where it is tried again.
            Ok(false) | Err(_) => topics.push(topic),
        }
    }
    drop(looking);
    for topic in topics {
        let kept = match action {
            CleanAction::Find => find_upkeep(context, topic, &mut report).await,
            CleanAction::Remove => keep_log(context, topic, patience, stop, &mut report).await,
        };
        if let Err(e) = kept {
            tracing::warn!(%topic, error = %e, "the log was not kept in shape; it is tried again later");
            failed.get_or_insert(e);
        }
    }
    match keep_history(context, action).await {
        Ok(kept) => report.history = kept,
        Err(e) => {
            tracing::warn!(error = %e, "the history of jobs was not kept in shape; it is tried again later");
            failed.get_or_insert(e);
        }
    }
    failed.map_or(Ok(report), Err)
}

/// Whether a topic needs no upkeep now.
async fn leaves(context: &Context, topic: &str) -> Result<bool> {
    let log = context.log(topic).await?;
    let rule = retention_rule(context, topic).await?;
    let options = compact_options(context, &Arc::default());
    rule.leaves(&context.catalogue, &log, options.as_ref(), now_ms())
}

/// Merges the small files of the history of jobs and of the retries of dead letters, and removes
/// rows that are too old.
async fn keep_history(context: &Context, action: CleanAction) -> Result<KeepReport> {
    let mut report = KeepReport::default();
    let rules = [
        (layout::JOBS, job_history::keep_rule(&context.project)),
        (
            layout::DEAD_LETTER_RETRIES,
            dead_letter_retries::keep_rule(&context.project),
        ),
    ];
    for (root, rule) in rules {
        let table = Table::open(&context.storage, root).await?;
        if action == CleanAction::Remove && table.exists() {
            report.extend(&keep_small(&table, &rule, now_ms()).await?);
        }
    }
    Ok(report)
}

fn compact_options(context: &Context, stop: &Arc<AtomicBool>) -> Option<CompactOptions> {
    let storage = &context.project.storage;
    Some(CompactOptions {
        below_bytes: storage.compact_below_bytes?,
        to_bytes: storage.compact_to_bytes,
        stop: stop.clone(),
    })
}

/// What is kept of a topic by its settings, those of a topic that the project lacks being none.
async fn retention_rule(context: &Context, topic: &str) -> Result<RetentionRule> {
    let mut steps = Vec::new();
    for step in context.project.steps.iter().filter(|s| s.from == topic) {
        // One that is not declared yet has none.
        let made = match context.catalogue.current().topics.contains_key(&step.to) {
            true => context.log(&step.to).await?.head(),
            false => Offsets::default(),
        };
        let most = i64::from(step.most);
        let taken = made.iter().map(|(p, at)| (p, Offset(at.0 / most)));
        steps.push((step.name.clone(), taken.collect()));
    }
    let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    let settings = context.topic_settings(topic).ok();
    let retention = settings.and_then(|t| t.retention);
    let dedup = settings.and_then(|t| t.dedup.as_ref());
    Ok(RetentionRule {
        age_ms: retention.and_then(|r| r.age).map(ms),
        size_bytes: retention.and_then(|r| r.size_bytes),
        keep_ms: dedup.map_or(0, |d| ms(d.window)),
        dead_letters_ms: settings.and_then(|t| t.dead_letters_for).map(ms),
        ingested_ms: context.project.storage.history_for.map(ms),
        seen_ms: ms(context.project.storage.grace),
        steps,
    })
}

impl UpkeepReport {
    fn note_retained(&mut self, topic: &str, retained: RetainReport) {
        if retained != RetainReport::default() {
            self.retained.insert(topic.to_owned(), retained);
        }
    }
}

async fn find_upkeep(context: &Context, topic: &str, report: &mut UpkeepReport) -> Result<()> {
    let log = context.log(topic).await?;
    if let Some(options) = compact_options(context, &Arc::default()) {
        report
            .compacted
            .extend(&find_compaction(&log, &options).await?);
    }
    let (storage, catalogue) = (&context.storage, &context.catalogue);
    let rule = retention_rule(context, topic).await?;
    let time = UpkeepTime::to_look(storage);
    let found = find_retention(storage, catalogue, &log, &rule, &time).await?;
    report.note_retained(topic, found);
    Ok(())
}

/// Removes what is to go, then merges what stays.
async fn keep_in_shape(
    context: &Context,
    log: &Log,
    options: Option<&CompactOptions>,
) -> Result<(RetainReport, CompactReport)> {
    let rule = retention_rule(context, log.name()).await?;
    let (storage, catalogue) = (&context.storage, &context.catalogue);
    let time = UpkeepTime::of(storage).await?;
    let retained = retain(storage, catalogue, log, &rule, &time).await?;
    let compacted = match options {
        Some(options) => compact(log, options, now_ms).await?,
        None => CompactReport::default(),
    };
    Ok((retained, compacted))
}

async fn keep_log(
    context: &Context,
    topic: &str,
    patience: Patience,
    stop: &Arc<AtomicBool>,
    report: &mut UpkeepReport,
) -> Result<()> {
    let stop_topic = Arc::new(AtomicBool::new(false));
    let options = compact_options(context, &stop_topic);
    let entry = context.catalogue.current();
    let low = entry.topics.get(topic).map(|t| t.low.clone());
    let rule = retention_rule(context, topic).await?;
    let retains = rule.is_on()
        || rule.dead_letters_ms.is_some()
        || rule.ingested_ms.is_some()
        || low.unwrap_or_default() != Offsets::default();
    if options.is_none() && !retains {
        return Ok(());
    }
    let holder = context.storage.ids().fresh().to_string();
    let (name, clock) = (format!("upkeep/{topic}"), Monotonic::default());
    let mut lease = Lease::open(&context.storage, &name, holder, LEASE_EXPIRES, clock).await?;
    if !acquire(&mut lease, patience, stop).await? {
        report.elsewhere.push(topic.to_owned());
        return Ok(());
    }
    let log = context.log(topic).await?;
    let work = async {
        let mut work = std::pin::pin!(keep_in_shape(context, &log, options.as_ref()));
        loop {
            match tokio::time::timeout(LOOK_EVERY, &mut work).await {
                Ok(done) => return done,
                Err(_) if stop.load(Ordering::Relaxed) => {
                    stop_topic.store(true, Ordering::Relaxed);
                }
                Err(_) => {}
            }
        }
    };
    let lost = || stop_topic.store(true, Ordering::Relaxed);
    let kept = lease.while_held(work, lost).await;
    if let Err(e) = lease.release().await {
        tracing::warn!(%topic, error = %e, "the lease of the log's upkeep was not given up; it expires");
    }
    match kept {
        Ok((retained, compacted)) => {
            report.note_retained(topic, retained);
            report.compacted.extend(&compacted);
        }
        // The lease saves work; the fence is what counts.
        Err(Error::Fenced { .. }) => report.elsewhere.push(topic.to_owned()),
        Err(e) => return Err(e),
    }
    Ok(())
}

/// Takes a lease, waiting for it as long as a dead holder would keep it. Returns whether it is held.
async fn acquire(lease: &mut Lease, patience: Patience, stop: &AtomicBool) -> Result<bool> {
    let begun = Instant::now();
    loop {
        match lease.step().await? {
            LeaseStanding::Held(_) => return Ok(true),
            LeaseStanding::Elsewhere(_) if patience == Patience::None => return Ok(false),
            LeaseStanding::Elsewhere(_)
                if begun.elapsed() > LEASE_EXPIRES + LOOK_EVERY || stop.load(Ordering::Relaxed) =>
            {
                return Ok(false);
            }
            LeaseStanding::Elsewhere(wait) => {
                tokio::time::sleep(wait.clamp(Duration::from_millis(1), LOOK_EVERY)).await;
            }
        }
    }
}

/// Keeps the storage in shape from time to time until it is to stop.
pub async fn run(context: Context, stop: CancellationToken) {
    let stop = flag_of(&stop);
    loop {
        tokio::time::sleep(context.project.daemon.maintain_every).await;
        if let Ok(report) = keep_logs(&context, CleanAction::Remove, Patience::None, &stop).await {
            let CompactReport { files, merged, .. } = report.compacted;
            if files > 0 {
                tracing::info!(files, merged, "merged small files of the logs");
            }
            for (topic, retained) in &report.retained {
                tracing::info!("{}", retention_text(topic, retained, CleanAction::Remove));
            }
        }
        let cleaned = async {
            let action = CleanAction::Remove;
            maintain(&context, upkeep_time(&context, action).await?, action).await
        };
        match cleaned.await {
            Ok(report) => log(&report),
            Err(e) => tracing::warn!(error = %e, "clean-up failed; it is tried again later"),
        }
    }
}

/// What retention came to in one topic, for people.
pub fn retention_text(topic: &str, retained: &RetainReport, action: CleanAction) -> String {
    let what = match action {
        CleanAction::Remove => "removed",
        CleanAction::Find => "would be removed",
    };
    let mut parts = Vec::new();
    if let Some(low) = &retained.low {
        let facts = counted(retained.facts.rows, "fact", "facts");
        let bytes = human_bytes(retained.facts.bytes);
        parts.push(format!("{facts} below [{low}] {what}, {bytes}"));
    }
    if retained.dead_letters.rows > 0 {
        let dead = counted(retained.dead_letters.rows, "dead letter", "dead letters");
        parts.push(format!("{dead} {what}"));
    }
    if retained.ingested > 0 {
        let ingested = counted(retained.ingested, "ingested file", "ingested files");
        let forgotten = match action {
            CleanAction::Remove => "forgotten",
            CleanAction::Find => "would be forgotten",
        };
        parts.push(format!("{ingested} {forgotten}"));
    }
    if let Some(why) = &retained.waits {
        parts.push(format!("facts stay past their time: {why}"));
    }
    format!("topic `{topic}`: {}", parts.join("; "))
}

fn log(report: &CleanReport) {
    let total = report.total();
    if total.files > 0 {
        tracing::info!(
            files = total.files,
            bytes = total.bytes,
            "removed files that nothing needs any more"
        );
    }
}
