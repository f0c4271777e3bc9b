//! Verification: the merged answer of a view against a recompute from the raw facts, both at one
//! pinned head. The law, on live data.

use std::sync::Arc;

use anabranch_serving::SqlService;
use anabranch_shared::view::planning_session;
use anabranch_shared::{Error, Pin, Pinner, ReadMode, Result, Storage};
use arrow::array::RecordBatch;
use datafusion::prelude::DataFrame;

use crate::compare::{Comparison, Tolerance, compare};

/// Verifies one view.
pub async fn verify(
    pinner: &Arc<dyn Pinner>,
    service: &SqlService,
    storage: &Storage,
    view: &str,
    topic: &str,
) -> Result<Comparison> {
    let names = [view.to_owned(), topic.to_owned()];
    let pin = pinner.pin(&names, ReadMode::Merged).await?;
    verify_pin(service, storage, &pin, view, topic).await
}

/// Verifies one view over a pin that holds it and its topic.
pub async fn verify_pin(
    service: &SqlService,
    storage: &Storage,
    pin: &Pin,
    view: &str,
    topic: &str,
) -> Result<Comparison> {
    let answer = service
        .query_on(&format!("SELECT * FROM \"{view}\""), pin, ReadMode::Merged)
        .await?;
    let schema = answer.schema.clone();
    let merged = datafusion::physical_plan::common::collect(answer.stream).await?;
    let recomputed = recompute(service, storage, pin, view, topic).await?;
    compare(&schema, &recomputed, &merged, Tolerance::default())
}

/// The view's answer by plain evaluation over the raw facts.
pub async fn recompute(
    service: &SqlService,
    storage: &Storage,
    pin: &Pin,
    view: &str,
    topic: &str,
) -> Result<Vec<RecordBatch>> {
    let missing = |name: &str| Error::NotFound(format!("`{name}` was not pinned"));
    let view = pin.views.get(view).ok_or_else(|| missing(view))?;
    let facts = pin.topics.get(topic).ok_or_else(|| missing(topic))?;
    let session = planning_session()?;
    storage.register(&session.runtime_env())?;
    let provider = service.topic_provider(facts);
    let plan = view.view.recompute_plan(provider)?;
    Ok(DataFrame::new(session.state(), plan).collect().await?)
}
