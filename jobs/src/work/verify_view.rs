//! The law on live data: one view, compared with a recompute over the same pin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_serving::{Caller, SqlService};
use anabranch_shared::{Error, Log, Offsets, Pinner, ReadMode, Result, Stop, StopReason, counted};

use crate::clock::now_us;
use crate::project::context::{Context, no_view};
use crate::project::job_history::{self, JobRecord, peak_memory_bytes};
use crate::project::limits::threads;
use crate::reader::client::Client;
use crate::reader::local_service::local_service;
use crate::reader::storage_pinner::LocalPinner;
use crate::work::compare::Comparison;
use crate::work::verify::{Part, Verified, VerifyOptions, Whose, unless_stopped, verify_pin};

/// Options from the project's settings.
pub fn options(context: &Context, part: Part, stop: &Arc<AtomicBool>) -> VerifyOptions {
    VerifyOptions {
        part,
        whose: Whose::default(),
        memory_bytes: context.project.batch.memory_bytes,
        threads: threads(context.project.batch.threads),
        stop: Stop::by_flag(stop),
        progress: Arc::default(),
    }
}

/// Verifies one whole view at one pinned head, and notes it in the history.
pub async fn verify_view(context: &Context, name: &str, trigger: &str) -> Result<Comparison> {
    let options = options(context, Part::Whole, &Arc::default());
    let verified = verify_view_with(context, name, trigger, &options).await?;
    Ok(verified.comparison)
}

/// Verifies one view at one pinned head, and notes it in the history.
pub async fn verify_view_with(
    context: &Context,
    name: &str,
    trigger: &str,
    options: &VerifyOptions,
) -> Result<Verified> {
    let started_at = now_us();
    let verified = compare_view(context, name, options).await;
    let facts = options.progress.facts_total.load(Ordering::Relaxed);
    let mut record = JobRecord {
        view: name.to_owned(),
        job: "verify",
        trigger: trigger.to_owned(),
        started_at,
        ended_at: now_us(),
        outcome: "done",
        facts: i64::try_from(facts).unwrap_or(i64::MAX),
        peak_memory_bytes: peak_memory_bytes(),
        ..Default::default()
    };
    match &verified {
        Ok(v) if v.comparison.is_equal() => {}
        Ok(v) => {
            record.outcome = "failed";
            let (differ, rows) = (v.comparison.differences, v.comparison.rows);
            let differ = counted(differ as u64, "row differs", "rows differ");
            record.error = Some(format!("{differ}, of {rows} compared"));
        }
        Err(e) => {
            record.outcome = match options.stop.reason() {
                Some(_) => "stopped",
                None => "failed",
            };
            record.error = Some(e.to_string());
        }
    }
    if let Err(e) = job_history::record(&context.storage, &context.project, &record).await {
        tracing::warn!(error = %e, "could not write the history of jobs");
    }
    verified
}

pub(crate) async fn compare_view(
    context: &Context,
    name: &str,
    options: &VerifyOptions,
) -> Result<Verified> {
    if options.whose == Whose::Daemon {
        let client = Client::find(&context.storage).await?.ok_or_else(|| {
            Error::Unavailable("no daemon runs; compare without `--daemon`".into())
        })?;
        let asked = client.verify(name, options.part);
        return unless_stopped(&options.stop, asked).await?;
    }
    let service = local_service(context)?;
    let pinner = LocalPinner::new(context.clone()).stopped_by(options.stop.flag());
    // On threads for queries, so that the signal is seen whatever an operator computes.
    let (context, name, held) = (context.clone(), name.to_owned(), options.clone());
    let work = anabranch_serving::compute(async move {
        compare_pinned(&context, &service, &pinner, &name, &held).await
    });
    unless_stopped(&options.stop, work).await?
}

/// Compares the answer over a pin that is chosen for it.
pub(crate) async fn compare_pinned(
    context: &Context,
    service: &SqlService,
    pinner: &dyn Pinner,
    name: &str,
    options: &VerifyOptions,
) -> Result<Verified> {
    context.catalogue.refresh().await?;
    let entry = context.catalogue.current();
    let live = entry
        .views
        .get(name)
        .and_then(|v| v.live.as_ref())
        .ok_or_else(|| {
            let answering = entry.views.iter().filter(|(_, view)| view.live.is_some());
            no_view(name, answering.map(|(name, _)| name))
        })?;
    let topic = live.definition.topic.name.clone();
    let names = [name.to_owned(), topic.clone()];
    let pin = unless_stopped(&options.stop, pinner.pin(&names, ReadMode::Merged)).await??;
    fail::fail_point!("verify-after-pin");
    let mut verified = verify_pin(service, &context.storage, &pin, name, &topic, options).await?;
    let low = pin.topics.get(&topic).map(|t| t.low.clone());
    let removed = uncompared(&*context.log(&topic).await?, &low.unwrap_or_default());
    verified.uncompared.extend(removed);
    Ok(verified)
}

/// Compares a view's answer for somebody who asks this daemon, of whom as many are served at once and
/// for as long as `[query]` says. Dropping the future stops the work, and so does `queries cancel`.
///
/// # Errors
/// Those of the comparison; `NoRoom` where too many run, `Unavailable` where it takes too long.
pub(crate) async fn for_another(
    context: Context,
    sql: Arc<SqlService>,
    caller: &Caller,
    view: String,
    part: Part,
) -> Result<Verified> {
    let verification = sql.verification(caller, &view)?;
    let limit = sql.verify_timeout();
    let (stop, work) = (verification.stop().clone(), verification.work());
    let options = VerifyOptions {
        stop: stop.clone(),
        ..options(&context, part, &Arc::default())
    };
    let compared = anabranch_serving::compute(async move {
        // As many run as do, and not as are waited for.
        let _work = work;
        compare_pinned(&context, &sql, sql.pinner().as_ref(), &view, &options).await
    });
    let compared = stop.within(compared).await;
    match (compared, stop.reason()) {
        (Err(_), Some(StopReason::Late)) => Err(Error::Unavailable(format!(
            "the verification took longer than {} s and was stopped; verify a sample, or raise `verify_timeout` in `[query]`",
            limit.as_secs()
        ))),
        (Err(_), Some(StopReason::Cancelled)) => Err(Error::Conflict(
            "the verification was cancelled by `anabranch queries cancel`; nothing was changed"
                .to_owned(),
        )),
        (compared, _) => compared,
    }
}

/// What of a topic's facts the log does not hold, below a `low` and in recorded gaps.
fn uncompared(log: &Log, low: &Offsets) -> Vec<String> {
    let topic = log.name();
    let removed = Offsets::default().ranges_to(low).into_iter();
    let removed = removed.map(|(p, r)| {
        format!("not compared: facts {r} of partition {p}, which retention of topic `{topic}` has removed")
    });
    let gaps = log.gaps().into_iter();
    let gaps = gaps.filter(|(p, r)| r.end > low.get(*p)).map(|(p, r)| {
        format!("not compared: facts {r} of partition {p}, which the source of topic `{topic}` had removed before they were read")
    });
    removed.chain(gaps).collect()
}

/// An error that names its view.
pub fn named(view: &str, e: Error) -> Error {
    let text = e.to_string();
    match text.contains(&format!("`{view}`")) {
        true => e,
        false => Error::of_kind(e.kind(), format!("view `{view}`: {text}")),
    }
}
