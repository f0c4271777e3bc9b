//! `anabranch jobs`: how each job last ended and when it is next due; `jobs history`: what ran.

use clap::Subcommand;
use std::sync::Arc;

use anabranch_shared::{Error, Result, timestamp_type};
use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use chrono::{DateTime, Utc};

use crate::commands::printing::Printing;
use crate::commands::sql;
use crate::project::context::Context;
use crate::work::job_states;
use crate::work::job_states::JobState;

/// The jobs as rows.
pub fn rows(states: &[JobState]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&JobState) -> Option<String>| -> ArrayRef {
        Arc::new(states.iter().map(of).collect::<StringViewArray>())
    };
    let time = |of: &dyn Fn(&JobState) -> Option<DateTime<Utc>>| -> Result<ArrayRef> {
        let micros = states.iter().map(|s| Some(of(s)?.timestamp_micros()));
        let times: ArrayRef = Arc::new(micros.collect::<TimestampMicrosecondArray>());
        Ok(cast(&times, &timestamp_type())?)
    };
    let last = |s: &JobState| s.last.clone();
    let seconds = states.iter().map(|s| s.last.as_ref().map(|l| l.seconds));
    let due = states.iter().map(|s| Some(s.due));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("view", text(&|s| Some(s.view.clone()))),
        ("job", text(&|s| Some(s.job.to_owned()))),
        ("schedule", text(&|s| s.schedule.clone())),
        (
            "last_outcome",
            text(&|s| Some(last(s).map_or("never ran".into(), |l| l.outcome))),
        ),
        ("last_started_at", time(&|s| Some(last(s)?.started_at))?),
        ("last_seconds", Arc::new(seconds.collect::<Float64Array>())),
        ("last_trigger", text(&|s| Some(last(s)?.trigger))),
        ("next_at", time(&|s| s.next_at)?),
        ("due", Arc::new(due.collect::<BooleanArray>())),
        ("last_error", text(&|s| last(s)?.error)),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(n, c)| (n, c, true)),
    )?)
}

/// The query of `jobs history`.
///
/// # Errors
/// `NotFound` for a view that neither the project nor the catalogue knows.
pub fn history_sql(context: &Context, view: Option<&str>, limit: u64) -> Result<String> {
    let filter = match view {
        None => String::new(),
        Some(name) => {
            let entry = context.catalogue.current();
            let views = &context.project.views;
            if !entry.views.contains_key(name) && views.iter().all(|v| v.name != name) {
                let known: Vec<&str> = entry.views.keys().map(String::as_str).collect();
                return Err(Error::NotFound(format!(
                    "no view `{name}`; the views are: {}. (`anabranch sql` asks the table `jobs` for those that were dropped)",
                    known.join(", ")
                )));
            }
            format!(" WHERE view = '{}'", name.replace('\'', "''"))
        }
    };
    Ok(format!(
        "SELECT view, job, trigger, started_at, round((CAST(ended_at AS BIGINT) - CAST(started_at AS BIGINT)) / 1000000.0, 3) AS seconds, outcome, facts, CAST(round(facts_per_second) AS BIGINT) AS facts_per_second, bytes, peak_memory_bytes, error FROM jobs{filter} ORDER BY started_at DESC LIMIT {limit}"
    ))
}

/// What is asked of the history.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// Shows the jobs that ran, the newest first: when, why, what they read and wrote, how they ended
    History {
        /// Only of this view
        #[arg(long)]
        view: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u64,
    },
}

/// Shows the jobs, or what ran.
pub(crate) async fn run(
    command: Option<JobsCommand>,
    context: &Context,
    printing: Printing,
) -> Result<u8> {
    if let Some(JobsCommand::History { view, limit }) = command {
        let text = history_sql(context, view.as_deref(), limit)?;
        return sql::one(context, text, printing).await;
    }
    let states = job_states::states(context, Utc::now()).await?;
    if let Some(note) = job_states::scheduler_note(context).await? {
        tracing::warn!("{note}");
    }
    printing.rows(&rows(&states)?)?;
    Ok(0)
}
