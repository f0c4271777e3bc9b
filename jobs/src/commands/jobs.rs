//! `anabranch jobs`: how each job last ended and when it is next due; `jobs history`: what ran.

use clap::Subcommand;
use std::sync::Arc;

use anabranch_shared::{Error, Result, timestamp_type};
use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use chrono::{DateTime, Utc};

use crate::clock::now;
use crate::commands::fitting::{fitted, on_one_line};
use crate::commands::printing::Printing;
use crate::commands::sql;
use crate::output::{Style, for_people, human_count};
use crate::project::context::Context;
use crate::reader::session::QuerySession;
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

/// The jobs for people: what failed first, and below the table why.
pub fn text(states: &[JobState], is_scheduled: bool, style: Style) -> String {
    let rank = |s: &JobState| match s.last.as_ref().map(|l| l.outcome.as_str()) {
        Some("failed") => 0,
        Some("stopped") => 1,
        None => 3,
        _ => 2,
    };
    let mut sorted: Vec<&JobState> = states.iter().collect();
    sorted.sort_by_key(|s| rank(s));
    let time = |at: DateTime<Utc>| at.format("%m-%d %H:%M:%S").to_string();
    let rows = sorted.iter().map(|s| {
        let last = s.last.as_ref();
        let mut row = vec![
            last.map_or("never ran".into(), |l| l.outcome.clone()),
            s.view.clone(),
            s.job.to_owned(),
            last.map_or("-".into(), |l| time(l.started_at)),
        ];
        if is_scheduled {
            row.push(match (s.due, s.next_at) {
                (true, _) => "now".to_owned(),
                (false, at) => at.map_or("-".into(), time),
            });
        }
        row.push(
            s.schedule
                .clone()
                .unwrap_or_else(|| "by command".to_owned()),
        );
        row
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let mut headers = vec!["state", "view", "job", "last (UTC)"];
    if is_scheduled {
        headers.push("next (UTC)");
    }
    headers.push("schedule");
    let cut = [headers.len() - 1, 1];
    let mut text = fitted(&headers, rows, &cut, style);
    for state in sorted {
        let failed = state.last.as_ref().filter(|l| l.outcome == "failed");
        if let Some(why) = failed.and_then(|l| l.error.as_ref()) {
            let why = for_people(why);
            text += &format!("\n{} of view `{}` failed: {why}\n", state.job, state.view);
        }
    }
    text
}

/// The history for people: how each ended, of what, and below the table why some failed.
fn history_text(rows: &[RecordBatch], style: Style) -> Result<String> {
    let headers = [
        "state",
        "view",
        "job",
        "began (UTC)",
        "seconds",
        "facts",
        "rate",
        "trigger",
    ];
    let (mut cells, mut failures) = (Vec::new(), String::new());
    for batch in rows {
        let shown: Vec<Vec<Option<String>>> = [
            "outcome",
            "view",
            "job",
            "began",
            "seconds",
            "facts",
            "facts_per_second",
            "trigger",
            "error",
        ]
        .into_iter()
        .map(|name| texts(batch, name))
        .collect::<Result<_>>()?;
        let rows = 0..batch.num_rows();
        let rows = rows.map(|row| shown.iter().map(move |column| column[row].clone()));
        for row in rows {
            let row: Vec<Option<String>> = row.collect();
            let cell = |column: usize| row[column].clone().unwrap_or_else(|| "-".into());
            let count = |column: usize| {
                let text = cell(column);
                text.parse().map_or(text, human_count)
            };
            if let Some(why) = &row[8] {
                let (job, view, why) = (cell(2), cell(1), for_people(why));
                failures += &format!("\n{job} of view `{view}` at {}: {why}\n", cell(3));
            }
            let mut line: Vec<String> = (0..5).map(cell).collect();
            line.extend([count(5), count(6), on_one_line(&cell(7))]);
            cells.push(line);
        }
    }
    Ok(fitted(&headers, cells, &[7, 1], style) + &failures)
}

/// A column's values as text.
fn texts(batch: &RecordBatch, name: &str) -> Result<Vec<Option<String>>> {
    let none = || Error::Internal(format!("the history has no `{name}`"));
    let column = batch.column_by_name(name).ok_or_else(none)?;
    let text = cast(column, &DataType::Utf8View)?;
    let text = text.as_string_view();
    Ok(text.iter().map(|t| t.map(str::to_owned)).collect())
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
        /// Shows the jobs of this view alone
        #[arg(long)]
        view: Option<String>,
        /// Shows at most this many jobs
        #[arg(long, default_value_t = 50, value_name = "COUNT")]
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
        let query = history_sql(context, view.as_deref(), limit)?;
        if !printing.is_for_people() {
            return sql::one(context, query, printing).await;
        }
        let query = format!(
            "SELECT *, to_char(started_at, '%m-%d %H:%M:%S') AS began FROM ({query}) ORDER BY started_at DESC"
        );
        let rows = QuerySession::open(context).await?.rows(&query).await?;
        printing.text(&history_text(&rows, printing.style)?)?;
        return Ok(0);
    }
    let states = job_states::states(context, now()).await?;
    let is_scheduled = job_states::is_scheduled(context).await?;
    if let Some(note) = job_states::scheduler_note(context).await? {
        tracing::warn!("{note}");
    }
    match printing.is_for_people() {
        true => printing.text(&text(&states, is_scheduled, printing.style))?,
        false => printing.rows(&rows(&states)?)?,
    }
    Ok(0)
}
