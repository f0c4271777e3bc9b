//! When a job of a view is due: cron lines in their time zone, and intervals. Pure: the clock is an
//! argument.

use std::collections::BTreeMap;
use std::str::FromStr;

use anabranch_shared::settings::ViewSettings;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;

/// What a schedule does to a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// A rebuild comes before a refresh that is due at the same time: it makes it short.
    Rebuild,
    /// Absorbs new facts.
    Refresh,
    /// Checks the law.
    Verify,
}

impl Job {
    /// All jobs.
    pub const ALL: [Self; 3] = [Self::Rebuild, Self::Refresh, Self::Verify];

    /// The job's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rebuild => "rebuild",
            Self::Refresh => "refresh",
            Self::Verify => "verify",
        }
    }
}

/// The first time after `last` at which a job of a view is due; `None` if it has no schedule.
pub fn next_time(view: &ViewSettings, job: Job, last: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let cron = match job {
        Job::Refresh => {
            return last.checked_add_signed(TimeDelta::from_std(view.refresh_every?).ok()?);
        }
        Job::Rebuild => view.rebuild_cron.as_ref()?,
        Job::Verify => view.verify_cron.as_ref()?,
    };
    let zone = Tz::from_str(&view.timezone).ok()?;
    let next = Cron::from_str(cron)
        .ok()?
        .find_next_occurrence(&last.with_timezone(&zone), false);
    next.ok().map(|at| at.with_timezone(&Utc))
}

/// The jobs that are due at `now`, in order. Times that were missed make one run.
pub fn due(
    views: &[ViewSettings],
    last: &BTreeMap<(String, Job), DateTime<Utc>>,
    begun: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Vec<(usize, Job)> {
    let mut due = Vec::new();
    for (index, view) in views.iter().enumerate() {
        for job in Job::ALL {
            let last = last.get(&(view.name.clone(), job)).copied();
            // An interval that nothing began would begin anew with each start of the scheduler.
            let never = last.is_none() && job == Job::Refresh && view.refresh_every.is_some();
            let next = next_time(view, job, last.unwrap_or(begun));
            if never || next.is_some_and(|at| at <= now) {
                due.push((index, job));
            }
        }
    }
    due
}

/// Brings times that lie after `now` back to it: the clock was set back. Otherwise a job would wait until the clock has
/// come to where it was; so it runs at its next time from `now` on.
pub fn forget_future(
    last: &mut BTreeMap<(String, Job), DateTime<Utc>>,
    begun: &mut DateTime<Utc>,
    now: DateTime<Utc>,
) {
    *begun = now.min(*begun);
    last.values_mut().for_each(|at| *at = now.min(*at));
}
