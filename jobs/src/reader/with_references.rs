//! References beside topics and views: a query that names one reads the topic's facts up to its head, the
//! latest of each key.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::{Moment, Pin, Pinner, ReadMode, Reference, ReferencePin, Relation, Result};
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

impl WithReferences {
    fn named(&self, names: &[String]) -> impl Iterator<Item = &Reference> {
        let named = |r: &&Reference| names.contains(&r.name);
        self.references.iter().filter(named)
    }

    /// Names, and those of the topics of references among them.
    fn with_topics(&self, names: &[String]) -> Vec<String> {
        let mut wanted = names.to_vec();
        for reference in self.named(names) {
            if !wanted.contains(&reference.topic.name) {
                wanted.push(reference.topic.name.clone());
            }
        }
        wanted
    }

    fn with_references(&self, mut pin: Pin, names: &[String]) -> Pin {
        for reference in self.named(names) {
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
        pin
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
        let pin = self.pinner.pin(&self.with_topics(names), mode).await?;
        Ok(self.with_references(pin, names))
    }

    async fn pin_at(&self, names: &[String], moment: &Moment) -> Result<Pin> {
        let pin = self.pinner.pin_at(&self.with_topics(names), moment).await?;
        Ok(self.with_references(pin, names))
    }
}
