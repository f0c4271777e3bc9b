//! A plan, done from its beginning to its end, and what is said of it meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::{Error, FoldProgress, Result};
use serde_json::json;

use super::{
    ApplyOptions, BuiltCandidate, Verdict, begin_candidates, build_candidate, build_first,
    cut_over, drop_views, note_run, note_words, verdict,
};
use crate::output::{human_count, human_duration};
use crate::project::context::Context;
use crate::work::judge::text as diff_text;
use crate::work::plan::{Action, Plan};

/// Who is told how far it is.
pub trait Tells: Send + Sync {
    /// A generation of a view begins to be built.
    fn builds(&self, view: &str, progress: &Arc<FoldProgress>);

    /// Lines for people on what was done.
    ///
    /// # Errors
    /// Where they can't be written; then no more is done.
    fn says(&self, text: &str) -> Result<()>;
}

/// What came of a plan.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    noted: Vec<String>,
    built: Vec<BuiltCandidate>,
    verdicts: BTreeMap<String, Verdict>,
    has_cut_over: bool,
    dropped: Vec<String>,
}

impl Applied {
    /// Whether a gate stopped it.
    pub fn is_stopped(&self) -> bool {
        self.verdicts.values().any(|v| !v.broken.is_empty())
    }

    /// Whether other generations answer now.
    pub fn has_cut_over(&self) -> bool {
        self.has_cut_over
    }

    /// For programs.
    pub fn json(&self, plan: &Plan) -> serde_json::Value {
        let verdicts = self.verdicts.values();
        let verdicts = verdicts.map(
            |v| json!({"compared": v.judged, "not_compared": v.not_compared, "broken": v.broken}),
        );
        json!({
            "plan": plan.id, "noted": self.noted,
            "built": self.built.iter().map(built_json).collect::<Vec<_>>(),
            "compared": verdicts.collect::<Vec<_>>(),
            "cut_over": self.has_cut_over, "dropped": self.dropped,
        })
    }
}

/// Refuses a plan that can't be done, or that is not the one which is meant.
///
/// # Errors
/// `Conflict` where another plan was meant; `Invalid` for what can't be done.
pub fn check(planned: &Plan, meant: Option<&str>, from_low: bool) -> Result<()> {
    if let Some(meant) = meant
        && meant != planned.id
    {
        if planned.views.iter().any(|v| v.view == meant) {
            return Err(Error::Invalid(format!(
                "`{meant}` is a view, and what stands here is the id of a plan: `anabranch apply --view {meant}` does one view alone"
            )));
        }
        return Err(Error::Conflict(format!(
            "the plan is `{}` by now, not `{meant}`: what runs, retention or the project has changed; look at `anabranch plan` again",
            planned.id
        )));
    }
    let refusals = planned.refusals();
    let loses = |text: &String| from_low && text.contains("--from-low");
    match refusals.iter().find(|text| !loses(text)) {
        Some(refused) => Err(Error::Invalid(refused.clone())),
        None => Ok(()),
    }
}

/// Does what a plan says: builds, compares, lets gates decide, and cuts over unless one stops it or it is
/// to stop before.
///
/// # Errors
/// Those of what is done. What was built stays, and the next one goes on with it.
pub async fn apply(
    context: &Context,
    planned: &Plan,
    cuts_over: bool,
    options: &ApplyOptions,
    told: &dyn Tells,
) -> Result<Applied> {
    let noted = note_words(context, planned).await?;
    note_run(context, planned, false).await?;
    for view in &noted {
        told.says(&format!("view {view}: noted\n"))?;
    }
    for change in planned.views.iter().filter(|v| v.action == Action::First) {
        let options = with_progress(options, &change.view, told);
        let report = build_first(context, &change.view, &options).await?;
        told.says(&format!(
            "view {}: answers now, {} facts were read\n",
            change.view,
            human_count(report.outcome.facts)
        ))?;
    }
    let meant = of_candidates(planned, options.from_low);
    begin_candidates(context, &meant, options).await?;
    let mut done = Applied {
        noted,
        ..Applied::default()
    };
    for change in &meant.views {
        let options = with_progress(options, &change.view, told);
        let report = build_candidate(context, change, &options).await?;
        told.says(&built_text(&report, change.action))?;
        done.built.push(report);
    }
    for change in &meant.views {
        let found = verdict(context, change, options).await?;
        match (&found.judged, &found.not_compared) {
            (Some(judged), _) => told.says(&diff_text::text(judged))?,
            (None, why) => told.says(&format!(
                "view {}: not compared: {}\n",
                change.view,
                why.as_deref().unwrap_or_default()
            ))?,
        }
        for broken in &found.broken {
            told.says(&format!("  the gate is broken: {}\n", broken.text()))?;
        }
        done.verdicts.insert(change.view.clone(), found);
    }
    if done.is_stopped() || !cuts_over {
        told.says(&stopped_text(&meant, done.is_stopped()))?;
        return Ok(done);
    }
    cut_over(context, &meant, &done.verdicts, options).await?;
    done.has_cut_over = !meant.views.is_empty();
    done.dropped = drop_views(context, planned).await?;
    for (report, change) in done.built.iter().zip(&meant.views) {
        let (view, generation) = (&report.view, report.generation);
        told.says(&match &change.moved_from {
            Some(former) => {
                format!("view {view}: g{generation} answers now, and nothing as {former}\n")
            }
            None => format!(
                "view {view}: g{generation} answers now; `anabranch rollback {view}` goes back\n"
            ),
        })?;
    }
    for view in &done.dropped {
        told.says(&format!("view {view}: was dropped\n"))?;
    }
    Ok(done)
}

fn stopped_text(meant: &Plan, by_gate: bool) -> String {
    let why = match by_gate {
        false => "stopped before the cut-over, as was asked for",
        true => "stopped before the cut-over: a gate is broken",
    };
    let names = meant
        .views
        .iter()
        .map(|v| format!("candidate.{}", v.view))
        .collect::<Vec<_>>();
    format!(
        "{why}; what answers has not changed. The candidates stay and can be asked: {}. `anabranch apply` goes on with them\n",
        names.join(", ")
    )
}

/// The plan's views that get candidates.
fn of_candidates(planned: &Plan, from_low: bool) -> Plan {
    let mut meant = planned.clone();
    for change in &mut meant.views {
        if change.action == Action::Refused && from_low {
            change.action = Action::Build;
        }
    }
    meant.views.retain(|v| v.is_candidate());
    meant
}

/// The same, whose progress is told.
fn with_progress(options: &ApplyOptions, view: &str, told: &dyn Tells) -> ApplyOptions {
    let progress = Arc::new(FoldProgress::default());
    told.builds(view, &progress);
    ApplyOptions {
        progress,
        ..options.clone()
    }
}

fn built_text(report: &BuiltCandidate, action: Action) -> String {
    let (view, generation) = (&report.view, report.generation);
    let took = Duration::from_micros(u64::try_from(report.took_us).unwrap_or(0));
    let of = match (action, report.resumed) {
        (Action::Copy, _) => "of the states that answer".to_owned(),
        (_, true) => format!("went on, {} more facts", human_count(report.outcome.facts)),
        (_, false) => format!("of {} facts", human_count(report.outcome.facts)),
    };
    format!(
        "view {view}: built g{generation} {of} in {}\n",
        human_duration(took)
    )
}

fn built_json(report: &BuiltCandidate) -> serde_json::Value {
    json!({
        "view": report.view, "generation": report.generation, "resumed": report.resumed,
        "facts": report.outcome.facts, "states": report.outcome.states,
        "bytes": report.outcome.bytes, "boundary": report.outcome.boundary,
        "seconds": report.took_us as f64 / 1e6,
    })
}
