//! References beside topics and views: a query that names one reads the topic's facts up to its head, the
//! latest of each key.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::{Pin, Pinner, ReadMode, Reference, ReferencePin, Relation, Result};
use async_trait::async_trait;

/// Another pinner, with references of which that one knows the topics.
#[derive(Debug)]
pub(crate) struct WithReferences {
    pinner: Arc<dyn Pinner>,
    references: Vec<Reference>,
}

impl WithReferences {
    /// The pinner itself where there are no references.
    pub(crate) fn over(pinner: Arc<dyn Pinner>, references: Vec<Reference>) -> Arc<dyn Pinner> {
        match references.is_empty() {
            true => pinner,
            false => Arc::new(Self { pinner, references }),
        }
    }
}

#[async_trait]
impl Pinner for WithReferences {
    async fn relations(&self) -> Result<Vec<Relation>> {
        let mut relations = self.pinner.relations().await?;
        relations.extend(self.references.iter().map(|reference| Relation {
            name: reference.name.clone(),
            kind: "reference",
            schema: reference.schema(),
            view: None,
        }));
        Ok(relations)
    }

    fn failing(&self) -> BTreeMap<String, String> {
        self.pinner.failing()
    }

    async fn pin(&self, names: &[String], mode: ReadMode) -> Result<Pin> {
        let named = |r: &&Reference| names.contains(&r.name);
        let named: Vec<&Reference> = self.references.iter().filter(named).collect();
        let mut wanted = names.to_vec();
        for reference in &named {
            if !wanted.contains(&reference.topic.name) {
                wanted.push(reference.topic.name.clone());
            }
        }
        let mut pin = self.pinner.pin(&wanted, mode).await?;
        for reference in named {
            if let Some(topic) = pin.topics.get(&reference.topic.name).cloned() {
                let reference = reference.clone();
                let pinned = ReferencePin { reference, topic };
                pin.references.insert(pinned.reference.name.clone(), pinned);
            }
        }
        // What was not named is not there; where dead letters are, topics are pinned for them.
        if !names.iter().any(|name| name == "dead_letters") {
            pin.topics.retain(|name, _| names.contains(name));
        }
        Ok(pin)
    }
}
