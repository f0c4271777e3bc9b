//! What may be missing from an answer: facts that a daemon has acknowledged and not landed, where
//! that daemon does not answer.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use anabranch_shared::view::relations_read;
use anabranch_shared::{Log, PartitionId, Result};

use crate::context::Context;
use crate::presence::Address;

/// The daemons that don't answer, and where their facts would be.
#[derive(Debug)]
pub struct Missing {
    context: Context,
    silent: Vec<Address>,
    /// Logs that were opened, followed from query to query.
    logs: tokio::sync::Mutex<BTreeMap<String, Arc<Log>>>,
}

impl Missing {
    /// Nothing is missing where `silent` is empty, and then nothing is asked.
    pub fn new(context: &Context, silent: Vec<Address>) -> Self {
        Self {
            context: context.clone(),
            silent,
            logs: tokio::sync::Mutex::default(),
        }
    }

    /// For people: from which offsets on facts may be missing that a statement asks for. To be asked
    /// before the statement, so that no landing between the two is left out.
    pub async fn notes(&self, sql: &str) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        if self.silent.is_empty() {
            return Ok(notes);
        }
        self.context.catalogue.refresh().await?;
        let mut logs = self.logs.lock().await;
        for topic in self.topics(sql) {
            let owners = self.silent.iter().map(|a| (a, a.partitions.get(&topic)));
            let owners: Vec<_> = owners.filter_map(|(a, p)| Some((a, p?))).collect();
            if owners.is_empty() {
                continue;
            }
            let log = match logs.entry(topic.clone()) {
                Entry::Vacant(entry) => entry.insert(self.context.log(&topic).await?),
                Entry::Occupied(entry) => entry.into_mut(),
            };
            log.refresh().await?;
            let head = log.head();
            for (address, partitions) in owners {
                let note = |p: &i32| address.missing_note(&topic, *p, head.get(PartitionId(*p)));
                notes.extend(partitions.iter().map(note));
            }
        }
        Ok(notes)
    }

    /// The topics whose facts a statement asks for; all where that can't be told.
    fn topics(&self, sql: &str) -> Vec<String> {
        let entry = self.context.catalogue.current();
        let all = || entry.topics.keys().cloned().collect();
        let Ok(names) = relations_read(sql) else {
            return all();
        };
        let names: Vec<String> = names.into_iter().collect();
        if names.iter().any(|n| n == "dead_letters") {
            return all();
        }
        let of_view = |name: &String| {
            let live = entry.views.get(name)?.live.as_ref()?;
            Some(live.definition.topic.name.clone())
        };
        let mut topics: Vec<String> = names.iter().filter_map(of_view).collect();
        topics.extend(names.into_iter().filter(|n| entry.topics.contains_key(n)));
        topics.sort();
        topics.dedup();
        topics
    }
}
