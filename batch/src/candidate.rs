//! Builds a generation beside the one that answers, as far as a log goes: from the log, in runs that each
//! stay when the build is interrupted, or of the states that another generation has.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_shared::{Error, Log, Master, Offsets, Result, planted};

use crate::build::{BatchOptions, BatchOutcome, rebuild, refresh};

/// Facts of one run, about: what is lost at most where a build is interrupted.
const FACTS_AT_ONCE: u64 = 4_000_000;

/// Absorbs a log up to `end` into a generation, from where an earlier try has stopped, run by run.
///
/// # Errors
/// As [`rebuild`] and [`refresh`]; what was published until then stays.
pub async fn build_up(
    master: &Arc<Master>,
    log: &Arc<Log>,
    end: &Offsets,
    options: &BatchOptions,
    now_ms: impl Fn() -> i64 + Copy,
) -> Result<BatchOutcome> {
    master.refresh().await?;
    let low = log.low();
    if !master.boundary().covers(&low) {
        // What retention has removed is none of it.
        rebuild(master, log, &low, options, now_ms).await?;
    }
    let mut whole = BatchOutcome {
        from: low,
        ..BatchOutcome::default()
    };
    for step in steps(log, &master.boundary(), end)? {
        let boundary = master.boundary();
        if planted("planted-candidate-run-lost") && boundary != Offsets::default() {
            master
                .publish_refresh(&boundary.ranges_to(&step), &[], now_ms())
                .await?;
        }
        let done = refresh(master, log, &step, options, now_ms).await?;
        whole.states += done.states;
        whole.bytes += done.bytes;
        fail::fail_point!("candidate-between-runs");
    }
    whole.facts = options.progress.facts.load(Ordering::Relaxed);
    whole.boundary = master.boundary();
    Ok(whole)
}

/// Up to where the runs of a build go, one after the other.
fn steps(log: &Log, from: &Offsets, end: &Offsets) -> Result<Vec<Offsets>> {
    let (mut steps, mut at, mut facts) = (Vec::new(), from.clone(), 0);
    for file in log.files_between(from, end)? {
        file.wanted.iter().for_each(|(p, r)| at.raise(*p, r.end));
        facts += file.add.rows().unwrap_or(FACTS_AT_ONCE);
        if facts >= FACTS_AT_ONCE {
            steps.push(at.clone());
            facts = 0;
        }
    }
    if steps.last() != Some(end) {
        steps.push(end.clone());
    }
    Ok(steps)
}

/// Gives a generation that has absorbed nothing the states of another, or those below a vector of offsets,
/// where there is no fact any more that it could be built of.
///
/// # Errors
/// `Conflict` where its states can't be made of those; `NotFound` where a file is gone meanwhile.
pub async fn take_states(
    from: &Master,
    to: &Master,
    below: Option<&Offsets>,
    now_ms: i64,
) -> Result<BatchOutcome> {
    to.refresh().await?;
    if to.boundary() != Offsets::default() {
        // An earlier try came so far.
        return Ok(BatchOutcome {
            boundary: to.boundary(),
            ..BatchOutcome::default()
        });
    }
    from.refresh().await?;
    let (units, boundary) = to.units_of(from, below).await?;
    let ranges = Offsets::default().ranges_to(&boundary);
    if !ranges.is_empty() {
        let published = to.publish_refresh(&ranges, &units, now_ms).await;
        if let Err(e) = published {
            crate::build::give_up(to, &units, &e).await;
            return match e {
                Error::Fenced { .. } => Err(Error::Conflict(format!(
                    "view `{}`: another process builds generation {} too; run the command again",
                    to.view().name(),
                    to.generation()
                ))),
                e => Err(e),
            };
        }
    }
    Ok(BatchOutcome {
        states: units.iter().map(|u| u.rows).sum(),
        bytes: units.iter().map(anabranch_shared::Unit::size_bytes).sum(),
        boundary,
        ..BatchOutcome::default()
    })
}
