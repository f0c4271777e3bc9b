//! Generations beside the one that answers: candidates that are built by and by, cut-overs to them after
//! which the former one is kept, and roll-backs, also of roll-backs.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_batch::{build_up, refresh, take_states};
use anabranch_shared::view::View;
use anabranch_shared::{
    Candidate, CutOverOf, Doer, ErrorKind, GenerationEntry, Master, Offset, Offsets, Role,
};
use anabranch_tests::views::{self, RandomView};
use rand::Rng;
use rand::seq::IndexedRandom;

use super::events::unless_faulty;
use super::world::{NOW, World, WorldView, batch_options};

/// A generation that does not answer and is kept fresh.
pub(crate) struct Kept {
    pub(crate) master: Arc<Master>,
    pub(crate) random: RandomView,
}

impl WorldView {
    /// The view's generations with their names in queries, that which answers first.
    pub(crate) fn relations(&self) -> Vec<(String, Arc<Master>)> {
        let mut all = vec![(self.name.to_owned(), self.master.clone())];
        for (role, kept) in [
            (Role::Candidate, &self.candidate),
            (Role::Previous, &self.previous),
        ] {
            all.extend(
                kept.iter()
                    .map(|k| (role.relation(self.name), k.master.clone())),
            );
        }
        all
    }

    /// The definition that answers.
    fn random(&self) -> Option<RandomView> {
        let sql = &self.master.view().definition().sql;
        self.definitions.iter().find(|d| d.sql == *sql).cloned()
    }
}

impl World<'_> {
    /// Something becomes of the generations beside the ones that answer.
    pub(crate) async fn change_generations(&mut self) -> anyhow::Result<()> {
        let nth = self.any_view();
        let view = &self.views[nth];
        let (candidate, previous) = (view.candidate.is_some(), view.previous.is_some());
        match self.rng.random_range(0..16) {
            0..=4 if previous => self.roll_back(nth).await?,
            5 if previous => self.retire_previous(nth).await?,
            0..=12 if candidate => self.cut_over_to_candidate(nth).await?,
            13 if candidate => self.give_up_candidate(nth).await?,
            14 if candidate => self.go_on_with_candidate(nth).await?,
            _ => self.begin_candidate(nth).await?,
        }
        self.faults.set_percent(0);
        for machine in &self.machines {
            if let Some(daemon) = &machine.daemon
                && self.rng.random_bool(0.6)
            {
                daemon.follow_catalogue().await;
            }
        }
        Ok(())
    }

    /// A definition gets a generation in the shadow of the one that answers, which may not be built far.
    async fn begin_candidate(&mut self, nth: usize) -> anyhow::Result<()> {
        self.coverage.count("event: a candidate is begun");
        let (name, live) = (self.views[nth].name, self.views[nth].generation());
        let own = self.views[nth].random();
        let random = match (own, self.rng.random_range(0..4)) {
            // What only stands above is copied, and so can be what is the same.
            (Some(own), 0) => own,
            (Some(own), 1) => views::narrowed(&own).unwrap_or_else(|| self.random_view()),
            (Some(own), 2) => views::coarser(&own).unwrap_or_else(|| self.random_view()),
            _ => self.random_view(),
        };
        let view = Arc::new(View::compile(name, &random.sql, &self.topic)?);
        let begun = async {
            self.log.refresh().await?;
            let generation = self.catalogue.claim_generation(name).await?;
            let master = Arc::new(Master::open(&self.storage, &view, generation, NOW).await?);
            let (former, low) = (self.views[nth].master.view(), self.log.low());
            // What retention has removed is only in states that can be taken.
            let taken = view.states_taken(former)?;
            let takes = taken.is_some_and(|t| t.lacks().is_empty()) && self.rng.random_bool(0.5);
            let from = match takes {
                true => self.views[nth].start_of(live),
                false => low,
            };
            let candidate = Candidate {
                entry: GenerationEntry {
                    generation,
                    definition: view.definition().clone(),
                    from: from.clone(),
                },
                instead_of: Some(live),
                plan: "a plan".into(),
                begun_at_ms: NOW,
                by: "somebody".into(),
                stopped: None,
            };
            let noted = [(name.to_owned(), candidate)];
            self.catalogue.note_candidates(&noted).await?;
            Ok((master, from))
        };
        let begun = unless_faulty(begun.await)?;
        self.faults.set_percent(0);
        self.catalogue.refresh().await?;
        let entry = self.catalogue.current();
        let noted = entry.views.get(name).and_then(|v| v.candidate.as_ref());
        let Some(noted) = noted else {
            anyhow::ensure!(begun.is_none(), "a candidate that was noted is not there");
            self.views[nth].candidate = None;
            return Ok(());
        };
        let noted = &noted.entry;
        let former = self.views[nth].candidate.as_ref();
        if former.is_some_and(|k| k.master.generation() == noted.generation) {
            anyhow::ensure!(begun.is_none(), "a former candidate is still there");
            return Ok(());
        }
        let master = match begun {
            Some((master, _)) => master,
            // It was noted, and nobody was told.
            None => Arc::new(Master::open(&self.storage, &view, noted.generation, NOW).await?),
        };
        self.views[nth]
            .starts
            .insert(noted.generation, noted.from.clone());
        self.views[nth].candidate = Some(Kept { master, random });
        self.go_on_with_candidate(nth).await
    }

    /// A candidate is built a little further, or gets the states of what answers.
    async fn go_on_with_candidate(&mut self, nth: usize) -> anyhow::Result<()> {
        let Some(kept) = &self.views[nth].candidate else {
            return Ok(());
        };
        let (master, live) = (kept.master.clone(), self.views[nth].master.clone());
        let taken = master.view().states_taken(live.view())?;
        let fits = taken.is_some_and(|taken| taken.lacks().is_empty())
            || live.view().definition().sql == master.view().definition().sql;
        let starts = &self.views[nth];
        let start = starts.start_of(master.generation());
        let as_far_back = starts.start_of(live.generation()) == start;
        self.log.refresh().await?;
        let low = self.log.low();
        if master.boundary() == Offsets::default() {
            let (all, tries) = (self.rng.random_bool(0.5), self.rng.random_bool(0.7));
            let lacks_facts = !start.covers(&low);
            if as_far_back && (lacks_facts || tries) {
                let below = (!all).then_some(&low);
                match take_states(&live, &master, below, NOW).await {
                    // The states of another definition are none of this one.
                    Err(e) if e.kind() == ErrorKind::Conflict && !fits => {
                        self.coverage.count("event: other states are not taken");
                    }
                    taken => {
                        self.coverage.count(match all {
                            true => "event: states are taken",
                            false => "event: states of what is removed are taken",
                        });
                        unless_faulty(taken)?;
                        return Ok(());
                    }
                }
            }
        }
        self.coverage.count("event: a candidate is built further");
        master.refresh().await?;
        let (at, low, mut end) = (master.boundary(), self.log.low(), self.log.head());
        if self.rng.random_bool(0.5) {
            // Where something that was acknowledged ends: a boundary cuts through none of it.
            for (p, head) in self.log.head().iter() {
                let least = at.get(p).max(low.get(p));
                let all = self.acknowledged.iter().chain(&self.sourced);
                let ends = all.filter(|a| a.partition == p).map(|a| a.range.end);
                let ends: Vec<Offset> = ends.filter(|e| *e >= least && *e <= head).collect();
                end.set(p, ends.choose(&mut self.rng).copied().unwrap_or(least));
            }
        }
        let options = batch_options(1 << 30);
        unless_faulty(build_up(&master, &self.log, &end, &options, || NOW).await)?;
        Ok(())
    }

    /// The candidate takes the place of what answers, which may be kept.
    async fn cut_over_to_candidate(&mut self, nth: usize) -> anyhow::Result<()> {
        self.coverage.count("event: cut-over to a candidate");
        let Some(kept) = &self.views[nth].candidate else {
            return Ok(());
        };
        let (name, master) = (self.views[nth].name, kept.master.clone());
        let options = batch_options(1 << 30);
        self.log.refresh().await?;
        let head = self.log.head();
        let start = self.views[nth].start_of(master.generation());
        if !start.covers(&self.log.low()) && master.boundary() == Offsets::default() {
            // What it is to have of removed facts is in no log.
            return self.go_on_with_candidate(nth).await;
        }
        let built = async {
            build_up(&master, &self.log, &head, &options, || NOW).await?;
            refresh(&master, &self.log, &head, &options, || NOW).await
        };
        if unless_faulty(built.await)?.is_none() {
            return Ok(());
        }
        let keeps = self.rng.random_bool(0.7);
        let live = self.views[nth].generation();
        let entry = GenerationEntry {
            generation: master.generation(),
            definition: master.view().definition().clone(),
            from: self.views[nth].start_of(master.generation()),
        };
        let change = CutOverOf {
            keep_until_ms: keeps.then_some(i64::MAX),
            ..CutOverOf::new(name, Some(live), entry, master.boundary())
        };
        let cut = self
            .catalogue
            .cut_over_all(&[change], &Doer::default())
            .await;
        self.faults.set_percent(0);
        self.catalogue.refresh().await?;
        let answers = self.answering(name);
        anyhow::ensure!(
            cut.is_err() || answers == Some(master.generation()),
            "a cut-over that succeeded is not there"
        );
        if answers != Some(master.generation()) {
            return Ok(());
        }
        let former = self.views[nth].random();
        let view = &mut self.views[nth];
        if let Some(Kept { master, random }) = view.candidate.take() {
            random.covers.iter().for_each(|c| self.coverage.count(c));
            let before = std::mem::replace(&mut view.master, master);
            view.definitions.push(random);
            view.previous = former.filter(|_| keeps).map(|random| Kept {
                master: before,
                random,
            });
        }
        Ok(())
    }

    async fn give_up_candidate(&mut self, nth: usize) -> anyhow::Result<()> {
        self.coverage.count("event: a candidate is given up");
        self.faults.set_percent(0);
        let view = &mut self.views[nth];
        if let Some(kept) = view.candidate.take() {
            let gone = BTreeMap::from([(view.name.to_owned(), kept.master.generation())]);
            self.catalogue.drop_candidates(&gone).await?;
        }
        Ok(())
    }

    async fn retire_previous(&mut self, nth: usize) -> anyhow::Result<()> {
        self.coverage
            .count("event: a former generation is not kept any more");
        self.faults.set_percent(0);
        let view = &mut self.views[nth];
        if let Some(kept) = view.previous.take() {
            let generation = kept.master.generation();
            self.catalogue
                .retire_previous(view.name, generation)
                .await?;
        }
        Ok(())
    }

    /// The former generation answers again, with all facts that came since.
    async fn roll_back(&mut self, nth: usize) -> anyhow::Result<()> {
        let Some(kept) = &self.views[nth].previous else {
            return Ok(());
        };
        self.coverage.count("event: roll-back");
        let (name, master) = (self.views[nth].name, kept.master.clone());
        let to = master.generation();
        let rolled = async {
            master.refresh().await?;
            let (boundary, doer) = (master.boundary(), Doer::default());
            self.catalogue
                .roll_back(name, to, &boundary, i64::MAX, &doer)
                .await
        };
        let rolled = rolled.await;
        self.faults.set_percent(0);
        self.catalogue.refresh().await?;
        let answers = self.answering(name);
        if let Err(e) = &rolled {
            // Retention has gone further than it, or the storage fails.
            let is_known = matches!(e.kind(), ErrorKind::Conflict | ErrorKind::Unavailable);
            anyhow::ensure!(is_known || answers == Some(to), "a roll-back: {e}");
        }
        anyhow::ensure!(
            rolled.is_err() || answers == Some(to),
            "a roll-back that succeeded is not there"
        );
        if answers != Some(to) {
            return Ok(());
        }
        let former = self.views[nth].random();
        let view = &mut self.views[nth];
        view.candidate = None;
        if let Some(kept) = view.previous.take() {
            let before = std::mem::replace(&mut view.master, kept.master);
            view.previous = former.map(|random| Kept {
                master: before,
                random,
            });
        }
        Ok(())
    }

    /// The generation that answers by the catalogue.
    fn answering(&self, name: &str) -> Option<anabranch_shared::Generation> {
        let entry = self.catalogue.current();
        Some(entry.views.get(name)?.live.as_ref()?.generation)
    }
}
