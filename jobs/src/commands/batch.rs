//! `anabranch batch rebuild`, `batch refresh` and `batch drop`.

use clap::Subcommand;
use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use anabranch_shared::settings::ViewSettings;
use anabranch_shared::{Error, FoldProgress, Result};

use crate::commands::maintain;
use crate::commands::printing::Printing;
use crate::commands::{LINE_EVERY, SHOW_EVERY, progress_bar};
use crate::output::Format;
use crate::project::context::{Context, no_view};
use crate::signal::stop_flag;
use crate::work::build::text::{json, table};
use crate::work::build::{Build, BuildReport, build_view, drop_view};
use crate::work::served;

/// What became of the views.
#[derive(Debug)]
pub struct Built {
    /// Those that were built.
    pub reports: Vec<BuildReport>,
    /// Why the others were not.
    pub failed: Option<Error>,
}

impl Built {
    /// The reports, where no view failed.
    pub fn all(self) -> Result<Vec<BuildReport>> {
        self.failed.map_or(Ok(self.reports), Err)
    }
}

/// Builds some views, or all. One that fails stops itself alone.
pub async fn build(
    context: &Context,
    build: Build,
    names: &[String],
    shown: bool,
) -> Result<Built> {
    let views = chosen(context, names)?;
    let stop = stop_flag();
    let (mut reports, mut failures) = (Vec::new(), Vec::new());
    for view in views {
        let progress = Arc::new(FoldProgress::default());
        tokio::spawn(show(view.name.clone(), Arc::downgrade(&progress), shown));
        let built = build_view(context, view, build, "command", &stop, &progress).await;
        match built {
            Ok(report) => reports.push(report),
            Err(e) => failures.push(e),
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    if build != Build::Refresh && !stop.load(Ordering::Relaxed) {
        served::wait(context, &reports, &stop).await?;
    }
    let failed = all_of(failures);
    Ok(Built { reports, failed })
}

/// Errors as one, of the kind of the first.
pub fn all_of(errors: Vec<Error>) -> Option<Error> {
    let kind = errors.first()?.kind();
    let texts: Vec<String> = errors.iter().map(Error::to_string).collect();
    match errors.len() {
        1 => errors.into_iter().next(),
        n => Some(Error::of_kind(
            kind,
            format!("{n} views failed:\n  {}", texts.join("\n  ")),
        )),
    }
}

fn chosen<'a>(context: &'a Context, names: &[String]) -> Result<Vec<&'a ViewSettings>> {
    let all = &context.project.views;
    let find = |name: &String| {
        let found = all.iter().find(|v| v.name == *name);
        found.ok_or_else(|| no_view(name, all.iter().map(|v| &v.name)))
    };
    let mut chosen: Vec<&ViewSettings> = match names.is_empty() {
        true => all.iter().collect(),
        false => names.iter().map(find).collect::<Result<_>>()?,
    };
    // What is made of the states of others comes after them.
    chosen.sort_by_key(|view| context.depth_of(&view.name));
    Ok(chosen)
}

/// Shows how far a build is, for as long as somebody else holds its progress.
pub(crate) async fn show(view: String, progress: Weak<FoldProgress>, shown: bool) {
    let style = "{msg} {bar:30} {human_pos}/{human_len} facts {per_sec} {eta} left";
    let bar = progress_bar(style, shown);
    bar.set_message(view.clone());
    let mut ticks = 0_u32;
    loop {
        tokio::time::sleep(SHOW_EVERY).await;
        let Some(progress) = progress.upgrade() else {
            return;
        };
        let total = progress.facts_total.load(Ordering::Relaxed);
        let facts = progress.facts.load(Ordering::Relaxed);
        bar.set_length(total);
        bar.set_position(facts);
        ticks += 1;
        if !shown && ticks.is_multiple_of(LINE_EVERY) {
            tracing::info!(%view, facts, of = total, "building");
        }
    }
}

/// Prints what was built.
fn print_builds(reports: &[BuildReport], printing: Printing) -> Result<()> {
    let rows = || reports.iter().map(json).collect::<Vec<_>>();
    match (printing.is_for_people(), printing.format) {
        (true, _) => printing.text(&table(reports)),
        (false, Format::Ndjson) => rows().iter().try_for_each(|row| printing.json(row)),
        (false, _) => printing.json(&rows()),
    }
}

/// What is done to master views and logs.
#[derive(Debug, Subcommand)]
pub enum BatchCommand {
    /// Builds views anew from the whole log, by the definitions that answer; `apply` is for edited ones
    #[command(
        after_help = "Examples:\n  anabranch batch rebuild post_minutes\n  anabranch batch rebuild"
    )]
    Rebuild {
        /// The views [default: all]
        views: Vec<String>,
        /// Builds a new view also where retention has removed facts that it would need: then it starts
        /// where they end
        #[arg(long, requires = "views")]
        from_low: bool,
    },
    /// Forgets a view that the project does not hold any more: it stops answering, and its files go
    Drop {
        /// The view
        view: String,
    },
    /// Absorbs the facts that landed since the last build
    #[command(
        after_help = "Examples:\n  anabranch batch refresh\n  anabranch batch refresh post_minutes"
    )]
    Refresh {
        /// The views [default: all]
        views: Vec<String>,
    },
    /// Removes the facts that a topic's `retention` lets go, merges small files of the logs, and removes files that
    /// nothing needs any more once their grace is over
    Maintain {
        /// Only counts what would be removed and merged
        #[arg(long)]
        dry_run: bool,
    },
}

/// Does it, and says what came of it.
pub(crate) async fn run(
    command: BatchCommand,
    context: &Context,
    printing: Printing,
) -> Result<u8> {
    let (kind, views) = match command {
        BatchCommand::Rebuild {
            views,
            from_low: true,
        } => (Build::RebuildFromLow, views),
        BatchCommand::Rebuild { views, .. } => (Build::Rebuild, views),
        BatchCommand::Refresh { views } => (Build::Refresh, views),
        BatchCommand::Drop { view } => {
            drop_view(context, &view).await?;
            let dropped = serde_json::json!({ "dropped": view });
            printing.either(|| format!("dropped view `{view}`\n"), &dropped)?;
            return Ok(0);
        }
        BatchCommand::Maintain { dry_run } => {
            return maintain::run(dry_run, context, printing).await;
        }
    };
    let built = build(context, kind, &views, std::io::stderr().is_terminal()).await?;
    if built.failed.is_none() || !built.reports.is_empty() {
        print_builds(&built.reports, printing)?;
    }
    built.failed.map_or(Ok(0), Err)
}
