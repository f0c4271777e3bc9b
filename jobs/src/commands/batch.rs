//! `anabranch batch rebuild` and `batch refresh`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anabranch_shared::settings::ViewSettings;
use anabranch_shared::{Error, FoldProgress, Result};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::builds::{Build, BuildReport, build_view, drop_absent};
use crate::commands::stop_flag;
use crate::context::Context;

/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// Builds some views, or all. Stops at the first that fails.
pub async fn build(
    context: &Context,
    build: Build,
    names: &[String],
    shown: bool,
) -> Result<Vec<BuildReport>> {
    let views = chosen(context, names)?;
    let stop = stop_flag();
    let mut reports = Vec::new();
    for view in views {
        let progress = Arc::new(FoldProgress::default());
        let shower = tokio::spawn(show(view.name.clone(), progress.clone(), shown));
        let built = build_view(context, view, build, "command", &stop, &progress).await;
        shower.abort();
        reports.push(built?);
    }
    if build == Build::Rebuild && names.is_empty() {
        for name in drop_absent(context).await? {
            tracing::info!(view = %name, "dropped: the project does not hold it any more");
        }
    }
    Ok(reports)
}

fn chosen<'a>(context: &'a Context, names: &[String]) -> Result<Vec<&'a ViewSettings>> {
    let all = &context.project.views;
    if names.is_empty() {
        return Ok(all.iter().collect());
    }
    let find = |name: &String| {
        all.iter().find(|v| v.name == *name).ok_or_else(|| {
            let known: Vec<&str> = all.iter().map(|v| v.name.as_str()).collect();
            Error::NotFound(format!(
                "no view `{name}`; the views are: {}",
                known.join(", ")
            ))
        })
    };
    names.iter().map(find).collect()
}

async fn show(view: String, progress: Arc<FoldProgress>, shown: bool) {
    let bar = match shown {
        true => ProgressBar::new(0).with_finish(ProgressFinish::AndClear),
        false => ProgressBar::hidden(),
    };
    let style = "{msg} {bar:30} {human_pos}/{human_len} facts {per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(view.clone());
    let mut ticks = 0_u32;
    loop {
        tokio::time::sleep(SHOW_EVERY).await;
        let total = progress.facts_total.load(Ordering::Relaxed);
        let facts = progress.facts.load(Ordering::Relaxed);
        bar.set_length(total);
        bar.set_position(facts);
        ticks += 1;
        if !shown && ticks.is_multiple_of(25) {
            tracing::info!(%view, facts, of = total, "building");
        }
    }
}
