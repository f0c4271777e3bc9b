//! `anabranch batch maintain`, and the same after jobs and in the daemon: removes files that nothing
//! needs any more.

use std::time::Duration;

use anabranch_batch::{CleanAction, CleanOptions, CleanReport, clean_storage, clean_view};
use anabranch_shared::Result;

use crate::context::{Context, now_ms};
use crate::history;

/// How often a daemon cleans up.
const EVERY: Duration = Duration::from_secs(600);

/// How clean-up runs by a project's settings.
pub fn clean_options(context: &Context, now_ms: i64, action: CleanAction) -> CleanOptions {
    let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    let storage = &context.project.storage;
    CleanOptions {
        grace_ms: ms(storage.grace),
        orphan_grace_ms: ms(storage.orphan_grace),
        checkpoint_every: context.project.daemon.checkpoint_every,
        now_ms,
        action,
    }
}

/// Cleans the whole storage of a project as of a time, in milliseconds since 1970.
pub async fn maintain(context: &Context, now_ms: i64, action: CleanAction) -> Result<CleanReport> {
    let options = clean_options(context, now_ms, action);
    let jobs = history::open(&context.storage).await?;
    let others = [jobs.root().clone()];
    clean_storage(&context.storage, &context.catalogue, &others, &options).await
}

/// Cleans what belongs to a view after one of its jobs. What goes wrong is only said: the job is
/// done all the same, and the next one tries again.
pub async fn after_job(context: &Context, view: &str) {
    let options = clean_options(context, now_ms(), CleanAction::Remove);
    match clean_view(&context.storage, &context.catalogue, view, &options).await {
        Ok(report) => log(&report),
        Err(e) => tracing::warn!(%view, error = %e, "clean-up failed; it is tried again later"),
    }
}

/// Cleans up from time to time until it is aborted.
pub async fn run(context: Context) {
    loop {
        tokio::time::sleep(EVERY).await;
        match maintain(&context, now_ms(), CleanAction::Remove).await {
            Ok(report) => log(&report),
            Err(e) => tracing::warn!(error = %e, "clean-up failed; it is tried again later"),
        }
    }
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
