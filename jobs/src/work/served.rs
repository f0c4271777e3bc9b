//! What a daemon serves of a view, and the wait until it serves what was built: a command that says
//! "cut over" is followed by answers of the new definition.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anabranch_shared::{Generation, Master, Result};

use crate::project::context::Context;
use crate::reader::client::Client;
use crate::reader::daemon_status::{DaemonStatus, Served};
use crate::work::build::BuildReport;

/// How often the daemons are asked.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// How long they are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until every daemon that runs serves what was built of some views, and says so where one
/// does not within a bound.
pub async fn wait(context: &Context, reports: &[BuildReport], stop: &AtomicBool) -> Result<()> {
    if reports.is_empty() {
        return Ok(());
    }
    context.catalogue.refresh().await?;
    let entry = context.catalogue.current().number;
    let begun = Instant::now();
    for client in Client::all(&context.storage).await? {
        for report in reports {
            while let Some(why) = behind(context, &client, report, entry).await? {
                if begun.elapsed() > PATIENCE || stop.load(Ordering::Relaxed) {
                    tracing::warn!(view = %report.view, http = client.reached(), "was built, and the daemon does not serve it yet: {why}");
                    break;
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
    }
    Ok(())
}

/// Why a daemon does not serve yet what was built, if so.
async fn behind(
    context: &Context,
    client: &Client,
    report: &BuildReport,
    entry: u64,
) -> Result<Option<String>> {
    let status = match client.status().await {
        Ok(status) => status,
        // It was there a moment ago; what comes after it reads what was built.
        Err(_) if !client.is_alive().await => return Ok(None),
        Err(e) => return Ok(Some(e.to_string())),
    };
    let DaemonStatus { served, noted, .. } = &status;
    // One of an earlier version does not say.
    let Some(noted) = noted else { return Ok(None) };
    if *noted < entry {
        return Ok(Some("it has not read the catalogue".to_owned()));
    }
    let name = &report.view;
    if status.deltas.get(name).is_some_and(|d| d.failed.is_some()) {
        return Ok(None);
    }
    let Some(served) = served.get(name) else {
        let failing = client.views_that_fail().await.unwrap_or_default();
        return Ok(match failing.get(name) {
            // It says so by itself, to whoever asks the view.
            Some(_) => None,
            None => Some("it does not serve the view".to_owned()),
        });
    };
    let built = &report.served;
    if served == built {
        return Ok(None);
    }
    let at = || {
        format!(
            "it is at generation {}, boundary [{}]",
            served.generation, served.boundary
        )
    };
    if served.generation != built.generation {
        // Numbers tell nothing: a roll-back goes to a lower one.
        context.catalogue.refresh().await?;
        let entry = context.catalogue.current();
        let live = entry.views.get(name).and_then(|view| view.live.as_ref());
        let answers = live.is_some_and(|live| live.generation.0 == built.generation);
        // Otherwise another process has gone on from there.
        return Ok(answers.then(at));
    }
    // Another process may have gone on from there.
    let generation = Generation(built.generation);
    let now = Master::look(&context.storage, name, generation).await?;
    let now = Served::of(generation, &now);
    Ok((*served != now).then(at))
}
