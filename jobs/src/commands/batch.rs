//! `anabranch batch rebuild`, `batch refresh` and `batch drop`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_shared::settings::ViewSettings;
use anabranch_shared::{Error, FoldProgress, Result};

use crate::commands::{LINE_EVERY, SHOW_EVERY, progress_bar};
use crate::project::context::{Context, no_view};
use crate::signal::stop_flag;
use crate::work::build::{Build, BuildReport, build_view};
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
        let shower = tokio::spawn(show(view.name.clone(), progress.clone(), shown));
        let built = build_view(context, view, build, "command", &stop, &progress).await;
        shower.abort();
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
    if names.is_empty() {
        return Ok(all.iter().collect());
    }
    let find = |name: &String| {
        let found = all.iter().find(|v| v.name == *name);
        found.ok_or_else(|| no_view(name, all.iter().map(|v| &v.name)))
    };
    names.iter().map(find).collect()
}

async fn show(view: String, progress: Arc<FoldProgress>, shown: bool) {
    let style = "{msg} {bar:30} {human_pos}/{human_len} facts {per_sec} {eta} left";
    let bar = progress_bar(style, shown);
    bar.set_message(view.clone());
    let mut ticks = 0_u32;
    loop {
        tokio::time::sleep(SHOW_EVERY).await;
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
