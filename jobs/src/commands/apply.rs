//! `anabranch apply`: does what `anabranch plan` shows, after a question: builds, compares, lets gates
//! decide, and cuts over.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::{Error, FoldProgress, Result};
use serde_json::json;

use crate::commands::batch::show;
use crate::commands::diff;
use crate::commands::printing::Printing;
use crate::commands::{GATE_BROKEN, plan as shown_plan};
use crate::output::{human_count, human_duration};
use crate::project::context::Context;
use crate::signal::stop_flag;
use crate::work::apply::{
    ApplyOptions, BuiltCandidate, Verdict, begin_candidates, build_candidate, build_first,
    cut_over, drop_views, note_run, note_words, verdict,
};
use crate::work::plan::{Action, Plan, plan};

/// What is done, and how.
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// The plan that is meant, by the id that `anabranch plan` shows: refused where it would be another
    /// one by now
    pub plan: Option<String>,
    /// Does it without a question
    #[arg(long, short)]
    pub yes: bool,
    /// Stops before the cut-over: builds and compares alone
    #[arg(long)]
    pub no_cut_over: bool,
    /// Only these views
    #[arg(long = "view", value_name = "VIEW")]
    pub views: Vec<String>,
    /// Why it is done; kept with the history of the view
    #[arg(long, short)]
    pub message: Option<String>,
    /// Builds views also where retention has removed facts that they would need: then they start where
    /// those end
    #[arg(long)]
    pub from_low: bool,
}

/// Does it. Returns the exit code.
pub(crate) async fn run(args: &ApplyArgs, project: &Path, printing: Printing) -> Result<u8> {
    let reader = Context::open_to_read(project).await?;
    let planned = plan(&reader, &args.views).await?;
    check(&planned, args)?;
    if !planned.has_changes() {
        return printing
            .either(|| shown_plan::text(&planned), &json!({"plan": planned}))
            .map(|()| 0);
    }
    if printing.is_for_people() {
        printing.text(&shown_plan::text(&planned))?;
    }
    if !args.yes && !asked(&planned)? {
        printing.text("nothing was changed\n")?;
        return Ok(0);
    }
    drop(reader);
    // Declares what is new and hurts nobody.
    let context = Context::open(project).await?;
    step_back(context.project.build.nice);
    let options = ApplyOptions {
        from_low: args.from_low,
        message: args.message.clone(),
        stop: stop_flag(),
        progress: Arc::default(),
    };
    let done = work(&context, &planned, args, &options, printing).await?;
    if !printing.is_for_people() {
        printing.json(&done.json)?;
    }
    Ok(done.code)
}

/// Lets other processes go before this one.
fn step_back(nice: u8) {
    if nice > 0
        && let Err(e) = rustix::process::setpriority_process(None, i32::from(nice))
    {
        tracing::warn!(error = %e, nice, "the system does not let this process step back (`nice` in `[build]`)");
    }
}

/// Refuses a plan that can't be done, or that is not the one which is meant.
fn check(planned: &Plan, args: &ApplyArgs) -> Result<()> {
    if let Some(meant) = &args.plan
        && *meant != planned.id
    {
        if planned.views.iter().any(|v| v.view == *meant) {
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
    let loses = |text: &String| args.from_low && text.contains("--from-low");
    match refusals.iter().find(|text| !loses(text)) {
        Some(refused) => Err(Error::Invalid(refused.clone())),
        None => Ok(()),
    }
}

/// Asks whether it is to be done.
fn asked(planned: &Plan) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::Invalid(format!(
            "`apply` asks before it changes something, and nobody is there to answer; run `anabranch apply {} --yes`",
            planned.id
        )));
    }
    let failed = |e| Error::io("the terminal", e);
    let mut err = std::io::stderr().lock();
    write!(err, "Do this? [y/N] ")
        .and_then(|()| err.flush())
        .map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(failed)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// What came of it.
struct Done {
    code: u8,
    json: serde_json::Value,
}

async fn work(
    context: &Context,
    planned: &Plan,
    args: &ApplyArgs,
    options: &ApplyOptions,
    printing: Printing,
) -> Result<Done> {
    let say = |text: String| match printing.is_for_people() {
        true => printing.text(&text),
        false => Ok(()),
    };
    let noted = note_words(context, planned).await?;
    note_run(context, planned, false).await?;
    for view in &noted {
        say(format!("view {view}: noted\n"))?;
    }
    for change in planned.views.iter().filter(|v| v.action == Action::First) {
        let options = with_progress(options, &change.view);
        let report = build_first(context, &change.view, &options).await?;
        say(format!(
            "view {}: answers now, {} facts were read\n",
            change.view,
            human_count(report.outcome.facts)
        ))?;
    }
    let meant = of_candidates(planned, args.from_low);
    begin_candidates(context, &meant).await?;
    let mut built = Vec::new();
    for change in &meant.views {
        let options = with_progress(options, &change.view);
        let report = build_candidate(context, change, &options).await?;
        say(built_text(&report, change.action))?;
        built.push(report);
    }
    let mut verdicts: BTreeMap<String, Verdict> = BTreeMap::new();
    for change in &meant.views {
        let found = verdict(context, change, options).await?;
        match (&found.judged, &found.not_compared) {
            (Some(judged), _) => say(diff::text(judged))?,
            (None, why) => say(format!(
                "view {}: not compared: {}\n",
                change.view,
                why.as_deref().unwrap_or_default()
            ))?,
        }
        for broken in &found.broken {
            say(format!("  the gate is broken: {}\n", broken.text()))?;
        }
        verdicts.insert(change.view.clone(), found);
    }
    let broken: Vec<&String> = verdicts
        .iter()
        .filter_map(|(name, v)| (!v.broken.is_empty()).then_some(name))
        .collect();
    let stops = !broken.is_empty() || args.no_cut_over;
    let (mut cut, mut dropped) = (false, Vec::new());
    if !stops {
        cut_over(context, &meant, &verdicts, options).await?;
        cut = !meant.views.is_empty();
        dropped = drop_views(context, planned).await?;
        for (report, change) in built.iter().zip(&meant.views) {
            let (view, generation) = (&report.view, report.generation);
            say(match &change.moved_from {
                Some(former) => {
                    format!("view {view}: g{generation} answers now, and nothing as {former}\n")
                }
                None => format!(
                    "view {view}: g{generation} answers now; `anabranch rollback {view}` goes back\n"
                ),
            })?;
        }
        for view in &dropped {
            say(format!("view {view}: was dropped\n"))?;
        }
    } else {
        let why = match broken.is_empty() {
            true => "stopped before the cut-over, as was asked for".to_owned(),
            false => "stopped before the cut-over: a gate is broken".to_owned(),
        };
        let names: Vec<String> = meant
            .views
            .iter()
            .map(|v| format!("candidate.{}", v.view))
            .collect();
        say(format!(
            "{why}; what answers has not changed. The candidates stay and can be asked: {}. `anabranch apply` goes on with them\n",
            names.join(", ")
        ))?;
    }
    let code = if broken.is_empty() { 0 } else { GATE_BROKEN };
    let verdicts: Vec<_> = verdicts
        .values()
        .map(|v| json!({"compared": v.judged, "not_compared": v.not_compared, "broken": v.broken}))
        .collect();
    let built: Vec<_> = built.iter().map(built_json).collect();
    Ok(Done {
        code,
        json: json!({
            "plan": planned.id, "noted": noted, "built": built, "compared": verdicts,
            "cut_over": cut, "dropped": dropped,
        }),
    })
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

/// The same, whose progress is shown.
fn with_progress(options: &ApplyOptions, view: &str) -> ApplyOptions {
    let progress = Arc::new(FoldProgress::default());
    let shown = std::io::stderr().is_terminal();
    tokio::spawn(show(view.to_owned(), Arc::downgrade(&progress), shown));
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
