//! An opened project: its settings, storage and catalogue, and what of them differs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use anabranch_serving::ServingOptions;
use anabranch_shared::settings::{Project, TopicSettings, ViewSettings};
use anabranch_shared::view::{View, relations_read};
use anabranch_shared::{
    Catalogue, Error, Export, GenerationEntry, Log, Master, Offsets, Pin, Relation, Result,
    Storage, Topic,
};

use crate::history;
use crate::retries::{self, RetriesTable};

/// The time, in microseconds since 1970.
pub fn now_us() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

/// The time, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    now_us() / 1_000
}

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
}

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
    /// Opens a project: checks its views and declares its topics. A view that the catalogue has
    /// never seen gets its first generation, with an empty master view: it answers from the log
    /// until it is first refreshed or rebuilt.
    pub async fn open(dir: &Path) -> Result<Self> {
        let variables = std::env::vars_os();
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::open_with(dir, variables.filter_map(text).collect()).await
    }

    /// As [`Context::open`], with these variables in place of the environment's for a bucket's keys
    /// and server.
    pub async fn open_with(dir: &Path, variables: Vec<(String, String)>) -> Result<Self> {
        let project = Arc::new(Project::load(dir)?);
        let storage = Storage::open(&project.storage, &project.dir, variables)?;
        storage.probe().await?;
        let catalogue = Arc::new(Catalogue::open(&storage).await?);
        let context = Self {
            project,
            storage,
            catalogue,
            retries: Arc::default(),
        };
        for topic in &context.project.topics {
            context
                .catalogue
                .declare_topic(&Topic::from_settings(topic))
                .await?;
        }
        for settings in &context.project.views {
            let view = context.compile(settings)?;
            if settings.export {
                Export::schema(&view)?;
            }
            // Also after a process that died between claiming the number and cutting over to it.
            if context.standing(&view) == ViewStanding::New {
                context.first_generation(&view).await?;
            }
        }
        Ok(context)
    }

    async fn first_generation(&self, view: &Arc<View>) -> Result<()> {
        if self.removed_below(view).is_some() {
            return Ok(());
        }
        let generation = self.catalogue.claim_generation(view.name()).await?;
        Master::open(&self.storage, view, generation, now_ms()).await?;
        let entry = GenerationEntry {
            generation,
            definition: view.definition().clone(),
            from: Offsets::default(),
        };
        let (name, nothing) = (view.name(), Offsets::default());
        match self.catalogue.cut_over(name, None, &entry, &nothing).await {
            // Another process was as quick.
            Ok(_) | Err(Error::Conflict(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Up to where retention has removed facts of a view's topic, if it has.
    fn removed_below(&self, view: &View) -> Option<Offsets> {
        let entry = self.catalogue.current();
        let low = entry.topics.get(&view.topic().name)?.low.clone();
        (low != Offsets::default()).then_some(low)
    }

    /// Plans a view of the project.
    pub fn compile(&self, settings: &ViewSettings) -> Result<Arc<View>> {
        let topics: Vec<Topic> = self
            .project
            .topics
            .iter()
            .map(Topic::from_settings)
            .collect();
        // What doesn't parse is planned over any topic that it names: planning says where it is wrong.
        let relations = relations_read(&settings.sql_text);
        let read = |t: &&Topic| match &relations {
            Ok(names) => names.contains(&t.name),
            Err(_) => names(&settings.sql_text, &t.name),
        };
        let topic = topics.iter().find(read).ok_or_else(|| {
            let names: Vec<&str> = topics.iter().map(|t| t.name.as_str()).collect();
            Error::view(
                &settings.name,
                format!(
                    "`{}` reads no topic of the project; the topics are: {}",
                    settings.sql_path.display(),
                    names.join(", ")
                ),
            )
        })?;
        Ok(Arc::new(View::compile(
            &settings.name,
            &settings.sql_text,
            topic,
        )?))
    }

    /// How a view of the project stands to the catalogue.
    pub fn standing(&self, view: &View) -> ViewStanding {
        let entry = self.catalogue.current();
        match entry.views.get(view.name()).and_then(|v| v.live.as_ref()) {
            None => ViewStanding::New,
            Some(live) if same_definition(&live.definition, view) => ViewStanding::Live,
            Some(_) => ViewStanding::Edited,
        }
    }

    /// For each view that does not answer as the project says, what to do about it.
    pub fn notes(&self) -> BTreeMap<String, String> {
        let mut notes = BTreeMap::new();
        for settings in &self.project.views {
            let name = &settings.name;
            let standing = self
                .compile(settings)
                .map(|v| (self.standing(&v), self.removed_below(&v)));
            match standing {
                Ok((ViewStanding::Live, _)) => {}
                Ok((ViewStanding::Edited, _)) => {
                    notes.insert(name.clone(), self.edited_note(name));
                }
                Ok((ViewStanding::New, Some(low))) => {
                    let note = format!(
                        "view `{name}` is new and does not answer: retention has removed facts of its topic below [{low}]; run `anabranch batch rebuild {name} --from-low` to build it from there on"
                    );
                    notes.insert(name.clone(), note);
                }
                Ok((ViewStanding::New, None)) => {
                    let note = format!(
                        "view `{name}` is being built for the first time; run `anabranch batch rebuild {name}` if no build is under way"
                    );
                    notes.insert(name.clone(), note);
                }
                Err(e) => {
                    notes.insert(name.clone(), e.to_string());
                }
            }
        }
        let entry = self.catalogue.current();
        let answering = entry.views.iter().filter(|(_, view)| view.live.is_some());
        for (name, _) in answering {
            if !self.project.views.iter().any(|v| v.name == *name) {
                let note = format!(
                    "view `{name}` is not in the project any more and still answers; run `anabranch batch rebuild` to drop it"
                );
                notes.insert(name.clone(), note);
            }
        }
        notes
    }

    /// What to say of a view whose live definition is not the project's.
    fn edited_note(&self, name: &str) -> String {
        let entry = self.catalogue.current();
        let live = entry.views.get(name).and_then(|v| v.live.as_ref());
        match live.map(|live| View::from_definition(name, &live.definition)) {
            Some(Err(e)) => e.to_string(),
            _ => format!(
                "view `{name}` was edited and still answers by its old definition; run `anabranch batch rebuild {name}` to cut over"
            ),
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
    pub fn relations(&self) -> [Relation; 2] {
        [history::relation(), retries::relation()]
    }

    /// Pins those of them that a query names.
    pub async fn pin(&self, names: &[String], pin: &mut Pin) -> Result<()> {
        history::pin(&self.storage, names, pin).await?;
        self.retries.pin(&self.storage, names, pin).await
    }

    /// The bounds of queries.
    pub fn serving_options(&self) -> ServingOptions {
        let query = &self.project.query;
        ServingOptions {
            memory_bytes: usize::try_from(query.memory_bytes).unwrap_or(usize::MAX),
            threads: threads(query.threads),
            timeout: query.timeout,
        }
    }
}

/// Whether two definitions compute the same; a new nullable field of the topic changes nothing.
fn same_definition(live: &anabranch_shared::view::Definition, view: &View) -> bool {
    let own = view.definition();
    live.sql.trim() == own.sql.trim()
        && live.settings == own.settings
        && view.reads_format(&live.state_format)
        && live.topic.name == own.topic.name
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

/// A number of threads, 0 being all cores.
pub fn threads(setting: usize) -> usize {
    match setting {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}
