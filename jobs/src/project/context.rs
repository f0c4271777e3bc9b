//! An opened project: its settings, storage and catalogue. Reading it changes nothing; what opening
//! it may declare is in `declare`, what of it differs from the catalogue in `standing`.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use anabranch_shared::settings::{Project, ReferenceSettings, TopicSettings, ViewSettings};
use anabranch_shared::view::{View, refuse_relation, relations_read};
use anabranch_shared::{
    Catalogue, Error, Export, Log, Named, Offsets, Pin, Reference, Relation, Result, Storage,
    Topic, bound_reference, dead_letters_queried, nearest,
};

use crate::clock::now_ms;
use crate::project::dead_letter_retries::{self, RetriesTable};
use crate::project::job_history;
use crate::project::planned_views::PlannedViews;
use crate::project::rollups::RollUps;

/// An opened project.
#[derive(Clone, Debug)]
pub struct Context {
    /// The settings.
    pub project: Arc<Project>,
    /// The storage.
    pub storage: Storage,
    /// The catalogue.
    pub catalogue: Arc<Catalogue>,
    /// Which dead letters were retried.
    pub retries: Arc<RetriesTable>,
    /// The views that were planned.
    pub planned: Arc<PlannedViews>,
    /// The views of the project that read a view.
    pub(super) rollups: Arc<RollUps>,
}

/// What may be done to the storage of a project that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// It is read.
    Read,
    /// It is written too.
    Write,
}

impl Context {
    /// Opens a project to read: nothing is written, whatever is done with it.
    pub async fn open_to_read(dir: &Path) -> Result<Self> {
        Self::connect(dir, environment(), Access::Read).await
    }

    /// Opens a project with these variables in place of the environment's, and declares nothing.
    pub(super) async fn connect(
        dir: &Path,
        variables: Vec<(String, String)>,
        access: Access,
    ) -> Result<Self> {
        let project = Arc::new(Project::load(dir)?);
        let mut storage = Storage::open(&project.storage, &project.dir, variables)?;
        if access == Access::Read {
            storage = storage.read_only();
        }
        for reference in &project.references {
            bound_reference(&storage, &reference.name, reference.memory_bytes);
        }
        storage.probe().await?;
        let catalogue = Arc::new(Catalogue::open(&storage).await?);
        Ok(Self {
            rollups: Arc::new(RollUps::of(&project)),
            project,
            storage,
            catalogue,
            retries: Arc::default(),
            planned: Arc::default(),
        })
    }

    /// The topic of the catalogue, where that has all fields of the one declared here. It may have
    /// more: an older project changes nothing.
    pub(super) fn declared(&self, topic: &Topic) -> Option<Topic> {
        let entry = self.catalogue.current();
        let known = &entry.topics.get(&topic.name)?.topic;
        known
            .check_evolves_from(topic)
            .is_ok()
            .then(|| known.clone())
    }

    /// Up to where retention has removed facts of a view's topic, if it has.
    pub(super) fn removed_below(&self, view: &View) -> Option<Offsets> {
        let entry = self.catalogue.current();
        let low = entry.topics.get(&view.topic().name)?.low.clone();
        (low != Offsets::default()).then_some(low)
    }

    /// Plans a view of the project; one that was planned already is not planned again.
    pub fn compile(&self, settings: &ViewSettings) -> Result<Arc<View>> {
        let read = (self.topic_read(settings)?, self.references());
        let view = match self.planned.of_text(settings, &read) {
            Some(view) => view,
            None => {
                let (name, sql) = (&settings.name, self.sql_of(settings)?);
                let view = View::compile_with(name, &sql, &read.0, &read.1);
                let view = view.map_err(|e| match (e, self.parent_of(&settings.name)) {
                    (Error::View { view, reason }, Some(parent)) => Error::view(
                        &view,
                        format!("as the view over the topic that it equals, with what `{parent}` says: {reason}"),
                    ),
                    (e, _) => self.in_file(settings, e),
                });
                let view = Arc::new(view?);
                view.references()
                    .iter()
                    .try_for_each(|r| r.check().map_err(|e| Error::view(view.name(), e)))?;
                self.planned.note_text(settings, read, &view);
                view
            }
        };
        if settings.export {
            Export::schema(&view)?;
        }
        Ok(view)
    }

    /// The references of the project.
    pub fn references(&self) -> Vec<Reference> {
        let of = |settings: &ReferenceSettings| {
            let mut topics = self.project.topics.iter();
            let topic = topics.find(|t| t.name == settings.topic)?;
            let topic = Topic::from_settings(topic);
            Some(Reference {
                name: settings.name.clone(),
                topic: self.declared(&topic).unwrap_or(topic),
                key: settings.key.clone(),
                latest_by: settings.latest_by.clone(),
                fields: settings.fields.clone(),
                deleted_when: settings.deleted_when.clone(),
            })
        };
        self.project.references.iter().filter_map(of).collect()
    }

    /// Plans a generation of the catalogue; one that was planned already is not planned again.
    pub fn generation_view(&self, named: &Named<'_>) -> Result<Arc<View>> {
        let (relation, definition) = (named.relation(), &named.entry.definition);
        if let Some(view) = self.planned.of_definition(&relation, definition) {
            return Ok(view);
        }
        let view = Arc::new(View::from_definition(named.view, definition)?);
        self.planned.note_definition(&relation, definition, &view);
        Ok(view)
    }

    /// The name of the topic that a view of the project reads; none where it reads none.
    pub fn topic_of(&self, settings: &ViewSettings) -> Option<String> {
        self.topic_read(settings).ok().map(|topic| topic.name)
    }

    /// The topic that a view of the project reads, as it is declared.
    pub(super) fn topic_read(&self, settings: &ViewSettings) -> Result<Topic> {
        // What doesn't parse is planned over any topic that it names: planning says where it is wrong.
        let sql = self.sql_of(settings)?;
        let relations = relations_read(&sql);
        let read = |t: &&TopicSettings| match &relations {
            Ok(names) => names.contains(&t.name),
            Err(_) => names(&sql, &t.name),
        };
        let topics = &self.project.topics;
        let found = topics.iter().find(read);
        let topic =
            found.ok_or_else(|| self.reads_no_topic(settings, relations.as_deref().ok()))?;
        let topic = Topic::from_settings(topic);
        Ok(self.declared(&topic).unwrap_or(topic))
    }

    /// That a view of the project reads none of its topics, with the way out.
    fn reads_no_topic(&self, settings: &ViewSettings, read: Option<&[String]>) -> Error {
        let (project, view) = (&self.project, &settings.name);
        let topics: Vec<&str> = project.topics.iter().map(|t| t.name.as_str()).collect();
        let listed = match topics.is_empty() {
            true => "the project declares none; write a `[topics.NAME]` table in `anabranch.toml`"
                .to_owned(),
            false => format!("the topics are: {}", topics.join(", ")),
        };
        let refused = |relation: &str, reason: &str| {
            let e = refuse_relation(view, &settings.sql_text, relation, reason);
            self.in_file(settings, e)
        };
        let Some([first, ..]) = read else {
            let path = settings.sql_path.display();
            return Error::view(
                view,
                format!("`{path}` reads no topic of the project; {listed}"),
            );
        };
        if project.references.iter().any(|r| r.name == *first) {
            return refused(
                first,
                &format!(
                    "`{first}` is a reference, and a view reads a topic, whose facts may be joined with it; ask for its rows by a query"
                ),
            );
        }
        let near = nearest(first, topics.iter().copied());
        let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        refused(first, &format!("no topic `{first}`{near} ({listed})"))
    }

    /// An error of a view's SQL, with the file that its line is of.
    pub(super) fn in_file(&self, settings: &ViewSettings, e: Error) -> Error {
        match e {
            Error::View { view, reason } if reason.starts_with("line ") => {
                let path = &settings.sql_path;
                let path = path.strip_prefix(&self.project.dir).unwrap_or(path);
                Error::view(&view, format!("`{}`, {reason}", path.display()))
            }
            e => e,
        }
    }

    /// A topic's settings.
    pub fn topic_settings(&self, name: &str) -> Result<&TopicSettings> {
        let mut topics = self.project.topics.iter();
        topics.find(|t| t.name == name).ok_or_else(|| {
            let topics = self.project.topics.iter();
            let names: Vec<&str> = topics.map(|t| t.name.as_str()).collect();
            Error::NotFound(format!(
                "no topic `{name}`; the topics are: {}",
                names.join(", ")
            ))
        })
    }

    /// Opens the log of a topic.
    pub async fn log(&self, topic: &str) -> Result<Arc<Log>> {
        let entry = self.catalogue.current();
        let known = entry.topics.get(topic).ok_or_else(|| {
            let names: Vec<&str> = entry.topics.keys().map(String::as_str).collect();
            Error::NotFound(format!(
                "no topic `{topic}`; the topics are: {}",
                names.join(", ")
            ))
        })?;
        Ok(Arc::new(
            Log::open(&self.storage, &known.topic, now_ms()).await?,
        ))
    }

    /// The tables that are the project's, and no topic or view.
    pub fn relations(&self) -> [Relation; 3] {
        let dead_letters = Relation {
            name: "dead_letters".into(),
            kind: "table",
            schema: dead_letters_queried(),
            view: None,
        };
        [
            job_history::relation(),
            dead_letters,
            dead_letter_retries::relation(),
        ]
    }

    /// Pins those of them that a query names.
    pub async fn pin(&self, names: &[String], pin: &mut Pin) -> Result<()> {
        job_history::pin(&self.storage, names, pin).await?;
        self.retries.pin(&self.storage, names, pin).await
    }
}

/// The environment's variables.
pub(super) fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// Whether a view's SQL names a topic, as a word of its own.
fn names(sql: &str, topic: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    sql.match_indices(topic).any(|(at, _)| {
        let before = sql[..at].chars().next_back().is_some_and(word);
        let after = sql[at + topic.len()..].chars().next().is_some_and(word);
        !before && !after
    })
}

/// A view was named that is not among the known ones.
pub(crate) fn no_view<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Error {
    let known: Vec<&str> = known.map(String::as_str).collect();
    Error::NotFound(format!(
        "no view `{name}`; the views are: {}",
        known.join(", ")
    ))
}
