//! `anabranch plan`: what would change between the project and what runs, why, and what it would cost.

use anabranch_shared::{Error, Named, Result, Role};

use crate::commands::printing::Printing;
use crate::commands::{CHANGES, GATE_BROKEN};
use crate::project::context::Context;
use crate::work::plan::text::{details, doing, text};
use crate::work::plan::{Plan, plan};

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
