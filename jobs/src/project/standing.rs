//! How what a project says stands to what its catalogue says, and what to do about it.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_shared::settings::{StepRuns, StepSettings, TopicSettings, ViewSettings};
use anabranch_shared::view::{Definition, RowWise, View};
use anabranch_shared::{Error, ErrorKind, Result, Topic};

use crate::project::context::Context;

/// How a view of the project stands to the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewStanding {
    /// It answers by the definition that the project holds.
    Live,
    /// It answers by an older definition.
    Edited,
    /// It has never been built.
    New,
}

impl Context {
    /// How a view of the project stands to the catalogue.
    pub fn standing(&self, view: &View) -> ViewStanding {
        let entry = self.catalogue.current();
        match entry.views.get(view.name()).and_then(|v| v.live.as_ref()) {
            None => ViewStanding::New,
            Some(live) if view.is_of(&live.definition) => ViewStanding::Live,
            Some(_) => ViewStanding::Edited,
        }
    }

    /// A view of the project as it is run: by what was noted when it was last applied.
    pub fn as_it_runs(&self, settings: &ViewSettings) -> ViewSettings {
        let entry = self.catalogue.current();
        let known = entry.views.get(&settings.name);
        let run = known
            .filter(|v| v.live.is_some())
            .and_then(|v| v.run.as_ref());
        run.map_or_else(|| settings.clone(), |run| settings.run_as(run))
    }

    /// All views that are run: those of the project, and those that answer and are none of it.
    pub fn views_that_run(&self) -> Vec<ViewSettings> {
        let own = self.project.views.iter();
        let mut all: Vec<ViewSettings> = own.map(|v| self.as_it_runs(v)).collect();
        let entry = self.catalogue.current();
        for (name, known) in &entry.views {
            if let (Some(live), Some(run)) = (&known.live, &known.run)
                && !self.project.views.iter().any(|v| v.name == *name)
            {
                all.push(ViewSettings::of_catalogue(name, &live.definition.sql, run));
            }
        }
        // What is made of the states of others comes after them.
        all.sort_by_key(|view| self.depth_of(&view.name));
        all
    }

    /// In what a view of the project is to be run otherwise than it is.
    pub fn run_differences(&self, settings: &ViewSettings) -> Vec<String> {
        let entry = self.catalogue.current();
        let known = entry.views.get(&settings.name);
        let run = known.and_then(|v| v.run.as_ref());
        run.map_or(Vec::new(), |run| run.differences(&settings.run()))
    }

    /// The view that still answers under the former name of one of the project's, which is to take its
    /// place.
    pub fn answers_as(&self, settings: &ViewSettings) -> Option<String> {
        let (former, entry) = (settings.moved.as_ref()?, self.catalogue.current());
        let answers = |name: &String| entry.views.get(name).is_some_and(|v| v.live.is_some());
        (answers(former) && !answers(&settings.name)).then(|| former.clone())
    }

    /// The view of the project that is to take the place of one which still answers.
    pub fn takes_place_of(&self, former: &str) -> Option<&ViewSettings> {
        let mut views = self.project.views.iter();
        views.find(|v| self.answers_as(v).as_deref() == Some(former))
    }

    /// For each view that does not answer as the project says, what to do about it; likewise for
    /// topics.
    pub fn notes(&self) -> BTreeMap<String, String> {
        let mut notes: BTreeMap<String, String> = BTreeMap::new();
        for settings in &self.project.topics {
            let topic = Topic::from_settings(settings);
            let note = self.topic_note(&topic);
            notes.extend(note.map(|note| (format!("topic {}", topic.name), note)));
        }
        let troubles = self.troubles().into_iter();
        notes.extend(troubles.map(|(name, (_, text))| (name, text)));
        for settings in &self.project.views {
            let note = self.view_note(settings);
            notes.extend(note.map(|note| (settings.name.clone(), note)));
        }
        notes.extend(
            self.project
                .steps
                .iter()
                .filter_map(|step| self.step_note(step)),
        );
        let entry = self.catalogue.current();
        let answering = entry.views.iter().filter(|(_, view)| view.live.is_some());
        let known: BTreeSet<&String> = self.project.views.iter().map(|v| &v.name).collect();
        for (name, _) in answering.filter(|(name, _)| !known.contains(name)) {
            notes.insert(name.clone(), self.not_of_project(name));
        }
        notes
    }

    /// What is wrong with the SQL of a step.
    fn step_note(&self, step: &StepSettings) -> Option<(String, String)> {
        let StepRuns::Sql(text) = &step.runs else {
            return None;
        };
        let from = Topic::from_settings(self.topic_settings(&step.from).ok()?);
        let from = self.declared(&from).unwrap_or(from);
        let wrong = RowWise::compile(&step.name, text, &from, &self.references()).err()?;
        Some((format!("step {}", step.name), wrong.to_string()))
    }

    /// Those of [`Context::notes`] that are of some views and topics.
    pub fn notes_of(&self, names: &[String]) -> Vec<String> {
        let entry = self.catalogue.current();
        let note = |name: &String| {
            if let Some(settings) = self.project.views.iter().find(|v| v.name == *name) {
                let trouble = || Some(self.view_trouble(settings)?.1);
                return self.view_note(settings).or_else(trouble);
            }
            if entry.views.get(name).is_some_and(|v| v.live.is_some()) {
                return Some(self.not_of_project(name));
            }
            let topic = self.project.topics.iter().find(|t| t.name == *name)?;
            Some(self.topic_trouble(topic)?.1)
        };
        names.iter().filter_map(note).collect()
    }

    /// What to say of a view of the project that answers by another definition than the project's.
    fn view_note(&self, settings: &ViewSettings) -> Option<String> {
        let (name, entry) = (&settings.name, self.catalogue.current());
        let live = entry.views.get(name).and_then(|v| v.live.as_ref());
        let run = self.run_differences(settings);
        if live.is_some() && !run.is_empty() {
            return Some(format!(
                "view `{name}` runs as it did before its settings were edited ({}); `anabranch apply` notes them",
                run.join(", ")
            ));
        }
        if live.is_some_and(|live| self.is_surely(settings, &live.definition)) {
            return None;
        }
        match self.compile(settings).map(|view| self.standing(&view)) {
            Ok(ViewStanding::Edited) => Some(self.edited_note(name)),
            Err(e) if live.is_some() => Some(format!(
                "view `{name}` was edited and still answers by its old definition; its new one can't be used: {e}"
            )),
            _ => None,
        }
    }

    /// Whether a view of the project is surely what a definition says, as far as can be told without
    /// planning it: every command asks that of every view.
    fn is_surely(&self, settings: &ViewSettings, live: &Definition) -> bool {
        let sql = self.sql_of(settings);
        let same_text = sql.is_ok_and(|sql| live.sql.trim() == sql.trim());
        same_text
            && !settings.export
            && self.planned.makes(live)
            && self.topic_read(settings).is_ok_and(|t| t == live.topic)
    }

    /// Why views and topics of the project don't answer, with what to do about each.
    pub fn troubles(&self) -> BTreeMap<String, (ErrorKind, String)> {
        let topics = self.project.topics.iter();
        let topics = topics.filter_map(|t| Some((t.name.clone(), self.topic_trouble(t)?)));
        let views = self.project.views.iter();
        let views = views.filter_map(|v| Some((v.name.clone(), self.view_trouble(v)?)));
        topics.chain(views).collect()
    }

    fn topic_trouble(&self, topic: &TopicSettings) -> Option<(ErrorKind, String)> {
        let name = &topic.name;
        let text = || {
            format!(
                "topic `{name}` is not declared yet; `anabranch up`, `speed` and `ingest` declare it"
            )
        };
        let is_known = self.catalogue.current().topics.contains_key(name);
        (!is_known).then(|| (ErrorKind::NotFound, text()))
    }

    fn view_trouble(&self, settings: &ViewSettings) -> Option<(ErrorKind, String)> {
        let (name, entry) = (&settings.name, self.catalogue.current());
        let known = entry.views.get(name);
        if known.is_some_and(|v| v.live.is_some()) {
            return None;
        }
        if let Some(former) = self.answers_as(settings) {
            return Some((ErrorKind::NotFound, to_be_moved(name, &former)));
        }
        Some(match self.compile(settings) {
            Err(e) => (e.kind(), e.to_string()),
            Ok(view) => match self.removed_below(&view) {
                Some(low) if self.parent_of(name).is_some() => (
                    ErrorKind::Conflict,
                    format!(
                        "view `{name}` is new and does not answer: retention has removed facts of its topic below [{low}]; `anabranch apply` makes it of the states of `{}`, where they tell it",
                        self.parent_of(name).unwrap_or_default()
                    ),
                ),
                Some(low) => (
                    ErrorKind::Conflict,
                    format!(
                        "view `{name}` is new and does not answer: retention has removed facts of its topic below [{low}]; run `anabranch batch rebuild {name} --from-low` to build it from there on"
                    ),
                ),
                None if entry.dropped.contains_key(name) => (
                    ErrorKind::NotFound,
                    format!(
                        "view `{name}` was dropped; run `anabranch batch rebuild {name}` to have it again"
                    ),
                ),
                None if known.is_none() => (
                    ErrorKind::NotFound,
                    format!(
                        "view `{name}` is not declared yet; `anabranch up`, `speed` and `ingest` declare it"
                    ),
                ),
                None => (
                    ErrorKind::Unavailable,
                    format!(
                        "view `{name}` is being built for the first time; run `anabranch batch rebuild {name}` if no build is under way"
                    ),
                ),
            },
        })
    }

    /// An error where one of the names is a view or a topic of the project that does not answer.
    ///
    /// # Errors
    /// What [`Context::troubles`] tells of the first such name.
    pub fn check_answers(&self, names: &[String]) -> Result<()> {
        let entry = self.catalogue.current();
        let known = |name: &String| {
            let live = entry.views.get(name).is_some_and(|v| v.live.is_some());
            live || entry.topics.contains_key(name)
        };
        if names.iter().all(known) {
            return Ok(());
        }
        let troubles = self.troubles();
        match names.iter().find_map(|name| troubles.get(name)) {
            Some((kind, text)) => Err(Error::of_kind(*kind, text.clone())),
            None => Ok(()),
        }
    }

    /// What differs between a topic of the project and the one of the catalogue.
    fn topic_note(&self, topic: &Topic) -> Option<String> {
        let entry = self.catalogue.current();
        let known = &entry.topics.get(&topic.name)?.topic;
        if known == topic {
            return None;
        }
        if known.check_evolves_from(topic).is_ok() {
            let more = known.fields[topic.fields.len()..].iter();
            let more: Vec<String> = more.map(|f| format!("`{}`", f.name)).collect();
            return Some(format!(
                "topic `{}` has fields that this project lacks: {}; another project declared them",
                topic.name,
                more.join(", ")
            ));
        }
        match topic.check_evolves_from(known) {
            Ok(()) => Some(format!(
                "topic `{}` has new fields that are not declared yet; `anabranch up`, `speed` and `ingest` declare them",
                topic.name
            )),
            Err(e) => Some(e.to_string()),
        }
    }

    /// What to say of a view that answers and is none of the project's.
    fn not_of_project(&self, name: &str) -> String {
        match self.takes_place_of(name) {
            Some(later) => to_be_moved(&later.name, name),
            None => format!(
                "view `{name}` is not in this project and still answers; run `anabranch batch drop {name}` to drop it"
            ),
        }
    }

    /// What to say of a view whose live definition is not the project's.
    fn edited_note(&self, name: &str) -> String {
        let entry = self.catalogue.current();
        let live = entry.views.get(name).and_then(|v| v.live.as_ref());
        match live.map(|live| View::from_definition(name, &live.definition)) {
            Some(Err(e)) => e.to_string(),
            _ => format!(
                "view `{name}` was edited and still answers by its old definition; `anabranch plan` shows what would change, `anabranch apply` does it"
            ),
        }
    }
}

/// What to say of a view that has another name in the project than where it answers.
pub(crate) fn to_be_moved(name: &str, former: &str) -> String {
    format!(
        "view `{name}` answers as `{former}` until it takes that one's place; `anabranch plan` shows what would change, `anabranch apply` does it"
    )
}
