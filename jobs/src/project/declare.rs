//! Declaring what of a project is new and hurts nobody: all that opening one writes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anabranch_shared::settings::RunSettings;
use anabranch_shared::view::View;
use anabranch_shared::{Error, GenerationEntry, Master, Offsets, Result, Topic};
use futures::{StreamExt, TryStreamExt};

use crate::clock::now_ms;
use crate::project::context::{Access, Context, environment};

/// Masters that are opened at once: each waits for the storage.
const AT_ONCE: usize = 32;

impl Context {
    /// Opens a project and declares what of it is new and hurts nobody: topics, nullable fields, and
    /// views that the catalogue has never seen. These get their first generation, with an empty
    /// master view: they answer from the log until they are first refreshed or rebuilt. A view that
    /// can't be used is its own trouble alone, which [`Context::notes`] tells.
    pub async fn open(dir: &Path) -> Result<Self> {
        Self::open_with(dir, environment()).await
    }

    /// As [`Context::open`], with these variables in place of the environment's for a bucket's keys
    /// and server.
    pub async fn open_with(dir: &Path, variables: Vec<(String, String)>) -> Result<Self> {
        let context = Self::connect(dir, variables, Access::Write).await?;
        context.declare().await?;
        Ok(context)
    }

    /// Declares what is new.
    async fn declare(&self) -> Result<()> {
        let topics = self.project.topics.iter().map(Topic::from_settings);
        let new: Vec<Topic> = topics.filter(|t| self.declared(t).is_none()).collect();
        if !new.is_empty() {
            self.catalogue.declare_topics(&new).await?;
        }
        let entry = self.catalogue.current();
        // Also after a process that died between claiming the number and cutting over to it. What
        // answers already need not be planned for that.
        let new = self.project.views.iter().filter(|settings| {
            let known = entry.views.get(&settings.name);
            let answers = known.is_some_and(|v| v.live.is_some());
            let waits = self.answers_as(settings).is_some();
            !answers && !waits && !entry.dropped.contains_key(&settings.name)
        });
        let new = new.filter_map(|settings| self.compile(settings).ok());
        let new: Vec<Arc<View>> = new.filter(|v| self.removed_below(v).is_none()).collect();
        // How a view is run is noted once; edits of it wait for `apply`.
        let is_new = |name: &str| new.iter().any(|view| view.name() == name);
        let unnoted = self.project.views.iter().filter(|settings| {
            let known = entry.views.get(&settings.name);
            is_new(&settings.name) || known.is_some_and(|v| v.live.is_some() && v.run.is_none())
        });
        let unnoted: BTreeMap<String, RunSettings> =
            unnoted.map(|v| (v.name.clone(), v.run())).collect();
        match new.is_empty() && unnoted.is_empty() {
            true => Ok(()),
            false => self.first_generations(&new, &unnoted).await,
        }
    }

    async fn first_generations(
        &self,
        views: &[Arc<View>],
        run: &BTreeMap<String, RunSettings>,
    ) -> Result<()> {
        let names: Vec<&str> = views.iter().map(|v| v.name()).collect();
        let claimed = match names.is_empty() {
            true => BTreeMap::new(),
            false => self.catalogue.claim_generations(&names).await?,
        };
        let now_ms = now_ms();
        let opening = views.iter().map(|view| {
            let generation = claimed.get(view.name()).copied();
            async move {
                let none = || Error::Internal(format!("no generation of `{}`", view.name()));
                let generation = generation.ok_or_else(none)?;
                Master::open(&self.storage, view, generation, now_ms).await?;
                let entry = GenerationEntry {
                    generation,
                    definition: view.definition().clone(),
                    from: Offsets::default(),
                };
                Ok::<_, Error>((view.name(), entry))
            }
        });
        let opening: Vec<_> = opening.collect();
        let opening = futures::stream::iter(opening).buffered(AT_ONCE);
        let first: Vec<_> = opening.try_collect().await?;
        // Where another process was as quick, its generation stays.
        self.catalogue.first_answers(&first, run).await.map(|_| ())
    }
}
