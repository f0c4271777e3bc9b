//! `anabranch plan`: what would change between the project and what runs, why, and what it would cost.

use std::time::Duration;

use anabranch_shared::{Error, Named, Result, Role};

use crate::commands::printing::Printing;
use crate::commands::{CHANGES, GATE_BROKEN};
use crate::output::{human_bytes, human_count, human_duration};
use crate::project::context::Context;
use crate::work::plan::{Action, Plan, ViewChange, plan};

/// What is planned, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// The views [default: all]
    pub views: Vec<String>,
    /// As Markdown, for a pull request
    #[arg(long)]
    pub markdown: bool,
    /// Shows what a view computes in the parts that are compared, as it runs and as the project has it
    #[arg(long, value_name = "VIEW")]
    pub explain: Option<String>,
}

/// What is done, in a few words.
fn doing(change: &ViewChange) -> String {
    let live = match (change.live, &change.moved_from) {
        (None, _) => String::new(),
        (Some(live), None) => format!("g{live}"),
        (Some(live), Some(former)) => format!("g{live} of {former}"),
    };
    match (change.action, change.candidate) {
        (Action::Nothing, _) => "as it runs".to_owned(),
        (Action::Note, _) if change.sql.is_none() => "only its settings are noted".to_owned(),
        (Action::Note, _) => "only the text is noted".to_owned(),
        (Action::Copy, _) => format!("a new generation of the states of {live}"),
        (Action::Build, Some(candidate)) => {
            format!("go on with generation g{candidate}, beside {live}")
        }
        (Action::Build, None) => format!("build a new generation beside {live}"),
        (Action::First, _) => "build it for the first time".to_owned(),
        (Action::Drop, _) => format!("drop it, with {live}"),
        (Action::Refused, _) => "can't be done".to_owned(),
    }
}

/// What is said of a change, as names and texts.
fn details(change: &ViewChange) -> Vec<(&'static str, String)> {
    let mut all: Vec<(&str, String)> = change.why.iter().map(|why| ("why", why.clone())).collect();
    let stopped = change.stopped_by.iter();
    all.extend(stopped.map(|by| ("gate", format!("broken when it was compared: {by}"))));
    all.extend(change.settings.iter().map(|what| ("sets", what.clone())));
    match change.action {
        Action::Build | Action::First if change.facts == 0 => {
            all.push(("reads", "no fact".to_owned()));
        }
        Action::Build | Action::First => {
            let facts = human_count(change.facts);
            let took = change.seconds.map_or(String::new(), |seconds| {
                let took = Duration::from_secs_f64(seconds.max(0.0));
                format!(", about {}", human_duration(took))
            });
            all.push((
                "reads",
                format!("{facts} facts, {}{took}", human_bytes(change.bytes)),
            ));
        }
        Action::Copy => all.push(("reads", "no fact".to_owned())),
        _ => {}
    }
    if let (true, Some(live), Some(keeps)) = (change.is_candidate(), change.live, change.keeps_for)
    {
        let keeps = human_duration(Duration::from_secs_f64(keeps));
        all.push((
            "keeps",
            format!(
                "g{live} fresh for {keeps} after the cut-over, {}",
                human_bytes(change.keeps_bytes)
            ),
        ));
    }
    all
}

/// The plan for people.
pub(crate) fn text(plan: &Plan) -> String {
    let mut text = String::new();
    for topic in &plan.topics {
        text += &format!("topic {}: {}\n", topic.topic, topic.why);
    }
    for change in plan.views.iter().filter(|v| v.is_change()) {
        text += &format!("view {}: {}\n", change.view, doing(change));
        for (name, what) in details(change) {
            text += &format!("  {name:5}  {what}\n");
        }
        for line in change.sql.iter().flat_map(|sql| sql.lines()) {
            text += &format!("    {line}\n");
        }
    }
    let same = plan.views.iter().filter(|v| !v.is_change()).count();
    match (plan.has_changes(), same) {
        (false, _) => text += "nothing to do: what runs is what the project says\n",
        (true, 0) => {}
        (true, same) => text += &format!("{same} of {} views are as they run\n", plan.views.len()),
    }
    text
}

/// The plan as Markdown.
fn markdown(plan: &Plan) -> String {
    if !plan.has_changes() {
        return "Nothing to do: what runs is what the project says.\n".to_owned();
    }
    let mut text = format!(
        "Plan `{}`\n\n| what | is to become | why | reads |\n|---|---|---|---|\n",
        plan.id
    );
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    for topic in &plan.topics {
        text += &format!("| topic `{}` | | {} | |\n", topic.topic, cell(&topic.why));
    }
    let changes = || plan.views.iter().filter(|v| v.is_change());
    for change in changes() {
        let all = details(change);
        let of = |wanted: &str| {
            let found = all.iter().filter(|(name, _)| *name == wanted);
            cell(
                &found
                    .map(|(_, what)| what.as_str())
                    .collect::<Vec<_>>()
                    .join("; "),
            )
        };
        text += &format!(
            "| view `{}` | {} | {} | {} |\n",
            change.view,
            cell(&doing(change)),
            of("why"),
            of("reads")
        );
    }
    for change in changes() {
        if let Some(sql) = &change.sql {
            text += &format!("\n`{}`\n\n```diff\n{sql}```\n", change.view);
        }
    }
    text
}

/// What a view computes, in parts, as it runs and as the project has it.
fn explain(context: &Context, name: &str) -> Result<String> {
    let settings = crate::work::apply::settings_of(context, name)?;
    let later = context.compile(settings)?;
    let entry = context.catalogue.current();
    let live = entry.views.get(name).and_then(|v| v.live.as_ref());
    let mut text = String::new();
    let mut add = |title: &str, view: &anabranch_shared::view::View| -> Result<()> {
        let print = view.fingerprint()?;
        text += &format!("{title}\n");
        let parts = [
            ("filters", print.filters.iter().cloned().collect::<Vec<_>>()),
            ("keys", print.keys.clone()),
            ("columns", print.aggregates.clone()),
        ];
        for (what, terms) in parts {
            for term in terms {
                let name = print.name_of(&term).to_owned();
                let shown = if name == term {
                    String::new()
                } else {
                    format!("{name} = ")
                };
                text += &format!("  {what:8}  {shown}{term}\n");
            }
        }
        text += &format!("  {:8}  {}\n", "above", print.above());
        Ok(())
    };
    if let Some(entry) = live {
        let named = Named {
            view: name,
            role: Role::Live,
            entry,
        };
        let former = context.generation_view(&named)?;
        add(
            &format!("{name} as it runs, g{}", entry.generation),
            &former,
        )?;
    }
    add(&format!("{name} as the project has it"), &later)?;
    Ok(text)
}

/// Shows what would change. The exit code tells whether something would, and whether a gate has stopped it.
pub(crate) async fn run(args: &PlanArgs, context: &Context, printing: Printing) -> Result<u8> {
    if let Some(view) = &args.explain {
        printing.text(&explain(context, view)?)?;
        return Ok(0);
    }
    let plan = plan(context, &args.views).await?;
    match args.markdown {
        true => printing.text(&markdown(&plan))?,
        false => printing.either(
            || {
                let mut shown = text(&plan);
                if plan.has_changes() {
                    shown += &format!("plan {}: `anabranch apply` does it\n", plan.id);
                }
                shown
            },
            &plan,
        )?,
    }
    if let Some(refused) = plan.refusals().first() {
        return Err(Error::Invalid(refused.clone()));
    }
    let stopped = plan.views.iter().any(|v| !v.stopped_by.is_empty());
    Ok(match plan.has_changes() {
        true if stopped => GATE_BROKEN,
        true => CHANGES,
        false => 0,
    })
}
