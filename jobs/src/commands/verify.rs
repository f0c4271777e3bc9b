//! `anabranch verify`: the law on live data.

use anabranch_shared::{Error, Pinner, ReadMode, Result};

use crate::commands::query::local_service;
use crate::compare::Comparison;
use crate::context::{Context, now_us};
use crate::history::{self, JobRecord, peak_memory_bytes};
use crate::local::LocalPinner;
use crate::verify::verify_pin;

/// Verifies one view at one pinned head, and notes it in the history.
pub async fn verify_view(
    context: &Context,
    name: &str,
    trigger: &'static str,
) -> Result<Comparison> {
    let started_at = now_us();
    let compared = compare_view(context, name).await;
    let mut record = JobRecord {
        view: name.to_owned(),
        job: "verify",
        trigger,
        started_at,
        ended_at: now_us(),
        outcome: "done",
        peak_memory_bytes: peak_memory_bytes(),
        ..Default::default()
    };
    match &compared {
        Ok(c) if c.is_equal() => {}
        Ok(c) => {
            record.outcome = "failed";
            record.error = Some(format!("{} of {} rows differ", c.differences, c.rows));
        }
        Err(e) => {
            record.outcome = "failed";
            record.error = Some(e.to_string());
        }
    }
    if let Err(e) = history::record(&context.storage, &record).await {
        tracing::warn!(error = %e, "could not write the history of jobs");
    }
    compared
}

async fn compare_view(context: &Context, name: &str) -> Result<Comparison> {
    context.catalogue.refresh().await?;
    let entry = context.catalogue.current();
    let live = entry
        .views
        .get(name)
        .and_then(|v| v.live.as_ref())
        .ok_or_else(|| {
            let answering = entry.views.iter().filter(|(_, view)| view.live.is_some());
            let names: Vec<&str> = answering.map(|(name, _)| name.as_str()).collect();
            Error::NotFound(format!(
                "no view `{name}`; the views are: {}",
                names.join(", ")
            ))
        })?;
    let topic = live.definition.topic.name.clone();
    let service = local_service(context)?;
    let names = [name.to_owned(), topic.clone()];
    let pin = LocalPinner::new(context.clone())
        .pin(&names, ReadMode::Merged)
        .await?;
    verify_pin(&service, &context.storage, &pin, name, &topic).await
}
