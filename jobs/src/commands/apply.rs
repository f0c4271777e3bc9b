//! `anabranch apply`: does what `anabranch plan` shows, after a question: builds, compares, lets gates
//! decide, and cuts over.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use anabranch_shared::{Error, FoldProgress, Result};
use serde_json::json;

use crate::commands::GATE_BROKEN;
use crate::commands::batch::show;
use crate::commands::printing::Printing;
use crate::project::context::Context;
use crate::signal::stop_flag;
use crate::work::apply::ApplyOptions;
use crate::work::apply::whole::{Tells, apply, check};
use crate::work::doer::Why;
use crate::work::plan::text::text;
use crate::work::plan::{Plan, plan};

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

/// Tells the terminal, or the log.
struct Shown(Printing);

impl Tells for Shown {
    fn builds(&self, view: &str, progress: &Arc<FoldProgress>) {
        let is_terminal = std::io::stderr().is_terminal();
        tokio::spawn(show(view.to_owned(), Arc::downgrade(progress), is_terminal));
    }

    fn says(&self, text: &str) -> Result<()> {
        match self.0.is_for_people() {
            true => self.0.text(text),
            false => Ok(()),
        }
    }
}

/// Does it. Returns the exit code.
pub(crate) async fn run(args: &ApplyArgs, project: &Path, printing: Printing) -> Result<u8> {
    let reader = Context::open_to_read(project).await?;
    let planned = plan(&reader, &args.views).await?;
    check(&planned, args.plan.as_deref(), args.from_low)?;
    if !planned.has_changes() {
        return printing
            .either(|| text(&planned), &json!({"plan": planned}))
            .map(|()| 0);
    }
    if printing.is_for_people() {
        printing.text(&text(&planned))?;
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
        why: Why::because(args.message.as_deref()),
        stop: stop_flag(),
        progress: Arc::default(),
    };
    let applied = apply(
        &context,
        &planned,
        !args.no_cut_over,
        &options,
        &Shown(printing),
    )
    .await?;
    if !printing.is_for_people() {
        printing.json(&applied.json(&planned))?;
    }
    Ok(if applied.is_stopped() { GATE_BROKEN } else { 0 })
}

/// Lets other processes go before this one.
fn step_back(nice: u8) {
    if nice > 0
        && let Err(e) = rustix::process::setpriority_process(None, i32::from(nice))
    {
        tracing::warn!(error = %e, nice, "the system does not let this process step back (`nice` in `[build]`)");
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
