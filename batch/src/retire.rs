//! Ends that generations are kept which do not answer: former ones whose time is over, and candidates
//! that nobody has cut over to for too long. What is old by a wall clock may not be: it goes once upkeep
//! has seen it for the grace by a clock that nobody sets.

use std::collections::BTreeMap;

use anabranch_shared::{Catalogue, Result, Storage, layout};

use crate::seen::{Seen, UpkeepTime};

/// How long generations are kept that do not answer.
#[derive(Clone, Copy, Debug)]
pub struct RetireRule {
    /// A candidate is given up so long after it was begun, in milliseconds.
    pub hold_ms: i64,
    /// What is over goes once it has been seen as over for so long, in milliseconds.
    pub grace_ms: i64,
}

/// Retires the generations of all views, or of one, whose time is over.
///
/// # Errors
/// Those of the storage; what was retired until then stays so.
pub async fn retire(
    storage: &Storage,
    catalogue: &Catalogue,
    only: Option<&str>,
    rule: RetireRule,
    time: &UpkeepTime,
) -> Result<()> {
    catalogue.refresh().await?;
    let entry = catalogue.current();
    let views = entry.views.iter();
    for (name, known) in views.filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        if known.previous.is_none() && known.candidate.is_none() {
            continue;
        }
        let mut seen = Seen::read(storage, &layout::roles(name), time).await?;
        let mut is_over = |what: String, until_ms: i64| {
            until_ms <= time.now_ms && seen.for_ms(&what, rule.grace_ms)
        };
        if let Some(previous) = &known.previous {
            let generation = previous.entry.generation;
            if is_over(
                format!("g{generation} as the former one"),
                previous.until_ms,
            ) {
                catalogue.retire_previous(name, generation).await?;
                tracing::info!(view = %name, %generation, "the former generation is not kept any more");
            }
        }
        if let Some(candidate) = &known.candidate {
            let generation = candidate.entry.generation;
            let until_ms = candidate.begun_at_ms.saturating_add(rule.hold_ms);
            if is_over(format!("g{generation} as a candidate"), until_ms) {
                tracing::warn!(view = %name, %generation, "the candidate was not cut over to within `hold` of `[build]` and is given up");
                let given_up = BTreeMap::from([(name.clone(), generation)]);
                catalogue.drop_candidates(&given_up).await?;
            }
        }
        seen.write(storage).await?;
    }
    Ok(())
}
