//! From what a statement would be answered now, without an answer to it.

use std::fmt::Write as _;

use anabranch_shared::Result;

use super::{Asking, SqlService};
use crate::caller::Caller;
use crate::reading::Reading;

impl SqlService {
    /// The generations and heads of what a statement names, as a text that changes when they do; what time it
    /// is is none of it. None where that can't be told, because it reads what has no head.
    ///
    /// # Errors
    /// `Invalid` for what is no statement that can be answered, `NotFound` and `Unavailable` as its answer.
    pub async fn sources(&self, caller: &Caller, text: &str) -> Result<Option<String>> {
        let reading = Reading::default();
        let asking = Asking {
            caller,
            text,
            reading: &reading,
            limit: self.options.timeout,
            values: &[],
            pin: None,
            dialect: None,
        };
        let query = self.queries.arrive(caller, text, asking.limit)?;
        let _waiter = query.waiter();
        query.turn().await?;
        let (_, names, _) = self.read(&query, &asking, self.time_of(&reading)).await?;
        let pin = self.pinned(&query, &asking, &names).await?;
        if !pin.plain.is_empty() || names.of_information || names.of_freshness {
            return Ok(None);
        }
        let mut sources = String::new();
        let mut add = |name: &str, generation: u64, head: &dyn std::fmt::Display| {
            writeln!(sources, "{name} g{generation} [{head}]").ok();
        };
        for (name, view) in &pin.views {
            add(name, view.generation.0, &view.head);
        }
        for (name, topic) in &pin.topics {
            add(name, 0, &topic.head);
        }
        for (name, reference) in &pin.references {
            add(name, 0, &reference.topic.head);
        }
        Ok(Some(sources))
    }
}
