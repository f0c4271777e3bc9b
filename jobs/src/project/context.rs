//! An opened project: its settings, storage and catalogue, and what of them differs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use anabranch_serving::{QueryLimits, ServingOptions};
use anabranch_shared::settings::{Project, TopicSettings, ViewSettings};
use anabranch_shared::sql::StatementBounds;
use anabranch_shared::view::{View, relations_read};
use anabranch_shared::{
    Catalogue, Error, ErrorKind, Export, GenerationEntry, Log, Master, Offsets, Pin, Relation,
    Result, Storage, Topic, dead_letters_queried,
};

use crate::clock::now_ms;
use crate::project::dead_letter_retries::{self, RetriesTable};
use crate::project::job_history;

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

/// What opening a project does to its storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// Nothing, and nor does anything that is done with it.
    Read,
    /// It declares what is new and hurts nobody.
    Declare,
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
    /// Opens a project and declares what of it is new and hurts nobody: topics, nullable fields, and
    /// views that the catalogue has never seen. These get their first generation, with an empty
    /// master view: they answer from the log until they are first refreshed or rebuilt. A view that
    /// can't be used is its own trouble alone, which [`Context::notes`] tells.
    pub async fn open(dir: &Path) -> Result<Self> {
        Self::connect(dir, environment(), Opening::Declare).await
    }

    /// Opens a project to read: nothing is written, whatever is done with it.
    pub async fn open_to_read(dir: &Path) -> Result<Self> {
        Self::connect(dir, environment(), Opening::Read).await
    }

    /// As [`Context::open`], with these variables in place of the environment's for a bucket's keys
    /// and server.
    pub async fn open_with(dir: &Path, variables: Vec<(String, String)>) -> Result<Self> {
        Self::connect(dir, variables, Opening::Declare).await
    }

    async fn connect(
        dir: &Path,
        variables: Vec<(String, String)>,
        opening: Opening,
    ) -> Result<Self> {
        let project = Arc::new(Project::load(dir)?);
        let mut storage = Storage::open(&project.storage, &project.dir, variables)?;
        if opening == Opening::Read {
            storage = storage.read_only();
        }
        storage.probe().await?;
        let catalogue = Arc::new(Catalogue::open(&storage).await?);
        let context = Self {
            project,
            storage,
            catalogue,
            retries: Arc::default(),
        };
        if opening == Opening::Declare {
            context.declare().await?;
        }
        Ok(context)
    }

    /// Declares what is new.
    async fn declare(&self) -> Result<()> {
        for settings in &self.project.topics {
            let topic = Topic::from_settings(settings);
            if self.declared(&topic).is_none() {
                self.catalogue.declare_topic(&topic).await?;
            }
        }
        for settings in &self.project.views {
            let Ok(view) = self.compile(settings) else {
                continue;
            };
            let entry = self.catalogue.current();
            let was_dropped = entry.dropped.contains_key(view.name());
            // Also after a process that died between claiming the number and cutting over to it.
            if self.standing(&view) == ViewStanding::New && !was_dropped {
                self.first_generation(&view).await?;
            }
        }
        Ok(())
    }

    /// The topic of the catalogue, where that has all fields of the one declared here. It may have
    /// more: an older project changes nothing.
    fn declared(&self, topic: &Topic) -> Option<Topic> {
        let entry = self.catalogue.current();
        let known = &entry.topics.get(&topic.name)?.topic;
        known
            .check_evolves_from(topic)
            .is_ok()
            .then(|| known.clone())
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
        let topics = self.project.topics.iter().map(Topic::from_settings);
        let topics: Vec<Topic> = topics
            .map(|topic| self.declared(&topic).unwrap_or(topic))
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
        let view = View::compile(&settings.name, &settings.sql_text, topic);
        let view = Arc::new(view.map_err(|e| self.in_file(settings, e))?);
        if settings.export {
            Export::schema(&view)?;
        }
        Ok(view)
    }

    /// An error of a view's SQL, with the file that its line is of.
    fn in_file(&self, settings: &ViewSettings, e: Error) -> Error {
        match e {
            Error::View { view, reason } if reason.starts_with("line ") => {
                let path = &settings.sql_path;
                let path = path.strip_prefix(&self.project.dir).unwrap_or(path);
                Error::view(&view, format!("`{}`, {reason}", path.display()))
            }
            e => e,
        }
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
            let (name, entry) = (&settings.name, self.catalogue.current());
            let live = entry.views.get(name).and_then(|v| v.live.as_ref());
            match self.compile(settings).map(|view| self.standing(&view)) {
                Ok(ViewStanding::Edited) => {
                    notes.insert(name.clone(), self.edited_note(name));
                }
                Err(e) if live.is_some() => {
                    let note = format!(
                        "view `{name}` was edited and still answers by its old definition; its new one can't be used: {e}"
                    );
                    notes.insert(name.clone(), note);
                }
                _ => {}
            }
        }
        let entry = self.catalogue.current();
        let answering = entry.views.iter().filter(|(_, view)| view.live.is_some());
        for (name, _) in answering {
            if !self.project.views.iter().any(|v| v.name == *name) {
                let note = format!(
                    "view `{name}` is not in this project and still answers; run `anabranch batch drop {name}` to drop it"
                );
                notes.insert(name.clone(), note);
            }
        }
        notes
    }

    /// Why views and topics of the project don't answer, with what to do about each.
    pub fn troubles(&self) -> BTreeMap<String, (ErrorKind, String)> {
        let entry = self.catalogue.current();
        let mut troubles = BTreeMap::new();
        let topics = self.project.topics.iter().map(|t| &t.name);
        for name in topics.filter(|name| !entry.topics.contains_key(*name)) {
            let text = format!(
                "topic `{name}` is not declared yet; `anabranch up`, `speed` and `ingest` declare it"
            );
            troubles.insert(name.clone(), (ErrorKind::NotFound, text));
        }
        for settings in &self.project.views {
            let name = &settings.name;
            let known = entry.views.get(name);
            if known.is_some_and(|v| v.live.is_some()) {
                continue;
            }
            let trouble = match self.compile(settings) {
                Err(e) => (e.kind(), e.to_string()),
                Ok(view) => match self.removed_below(&view) {
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
            };
            troubles.insert(name.clone(), trouble);
        }
        troubles
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
    pub fn relations(&self) -> [Relation; 3] {
        let dead_letters = Relation {
            name: "dead_letters".into(),
            kind: "table",
            schema: dead_letters_queried(),
            sql: None,
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

    /// The bounds of queries.
    pub fn serving_options(&self) -> ServingOptions {
        let query = &self.project.query;
        ServingOptions {
            memory_bytes: usize::try_from(query.memory_bytes).unwrap_or(usize::MAX),
            threads: threads(query.threads),
            timeout: query.timeout,
            limits: self.query_limits(),
        }
    }

    /// What queries may take besides, from the project's settings.
    fn query_limits(&self) -> QueryLimits {
        let query = &self.project.query;
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(MOST_AT_ONCE);
        QueryLimits {
            statement: StatementBounds {
                bytes: usize::try_from(query.max_statement_bytes).unwrap_or(usize::MAX),
                terms: query.max_terms,
            },
            function_bytes: query.max_function_bytes,
            at_once: count(query.at_once),
            waiting: count(query.waiting),
            process_bytes: query.process_bytes.or_else(|| process_bytes(&self.project)),
            spill_bytes: query.spill_bytes,
            spill_dir: Some(self.project.daemon.wal.join(QUERIES_SPILL)),
            verifications: count(query.verifications),
            verify_timeout: query.verify_timeout,
        }
    }
}

/// The folder of queries' temporary files, in that of the WAL.
const QUERIES_SPILL: &str = ".queries";

/// More queries at once than any machine answers.
const MOST_AT_ONCE: usize = 1_000_000;

/// The resident memory that a process may come to, from what its parts may: queries twice what they
/// are given, because not all of it is counted. At most nine tenths of the machine's.
fn process_bytes(project: &Project) -> Option<u64> {
    let daemon = &project.daemon;
    let parts = [
        daemon.memory_bytes,
        daemon.request_memory_bytes,
        project.batch.memory_bytes,
        project.query.memory_bytes,
        project.query.memory_bytes,
        1_000_000_000,
    ];
    let sum = parts
        .iter()
        .fold(0_u64, |sum, part| sum.saturating_add(*part));
    Some(sum.min(machine_bytes()? / 10 * 9))
}

/// Bytes of memory that the system gives this process at most, where it tells.
fn machine_bytes() -> Option<u64> {
    let memory = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = memory.lines().find(|l| l.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    let all = kib * 1_024;
    // A container's own bound; a word where it has none.
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = container.and_then(|text| text.trim().parse::<u64>().ok());
    Some(container.map_or(all, |bound| bound.min(all)))
}

/// The environment's variables.
fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
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

/// A view was named that is not among the known ones.
pub(crate) fn no_view<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Error {
    let known: Vec<&str> = known.map(String::as_str).collect();
    Error::NotFound(format!(
        "no view `{name}`; the views are: {}",
        known.join(", ")
    ))
}
