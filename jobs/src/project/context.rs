//! An opened project: its settings, storage and catalogue, and what of them differs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use anabranch_serving::{QueryLimits, ServingOptions};
use anabranch_shared::settings::{Project, TopicSettings, ViewSettings};
use anabranch_shared::sql::StatementBounds;
use anabranch_shared::view::{Definition, View, relations_read};
use anabranch_shared::{
    Catalogue, Error, ErrorKind, Export, GenerationEntry, Log, Master, Offsets, Pin, Relation,
    Result, Storage, Topic, dead_letters_queried,
};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;

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
    /// The views that were planned.
    pub planned: Arc<PlannedViews>,
}

/// Masters that are opened at once: each waits for the storage.
const AT_ONCE: usize = 32;

/// The views that this process has planned: to plan hundreds takes long, and every command and every
/// look at the project asks for them. Of each name one is kept.
#[derive(Debug, Default)]
pub struct PlannedViews {
    by_text: Mutex<BTreeMap<String, PlannedText>>,
    by_definition: Mutex<BTreeMap<String, (Definition, Arc<View>)>>,
    /// The formats of states that this version makes, and the settings that it plans under, as far
    /// as views were planned.
    made: Mutex<BTreeSet<Made>>,
}

/// The settings that a view was planned under, and the format of its states.
type Made = (Vec<(String, String)>, String);

/// A view of the project, and what it was planned of.
#[derive(Debug)]
struct PlannedText {
    text: String,
    topic: Topic,
    view: Arc<View>,
}

impl PlannedViews {
    /// How many views of the project were planned.
    pub fn count(&self) -> usize {
        self.by_text.lock().len()
    }

    fn of_text(&self, settings: &ViewSettings, topic: &Topic) -> Option<Arc<View>> {
        let known = self.by_text.lock();
        let planned = known.get(&settings.name)?;
        let same = planned.text == settings.sql_text && planned.topic == *topic;
        same.then(|| planned.view.clone())
    }

    fn note_text(&self, settings: &ViewSettings, topic: Topic, view: &Arc<View>) {
        let own = view.definition();
        let made = (own.settings.clone(), view.makes_format().to_owned());
        self.made.lock().insert(made);
        let (text, view) = (settings.sql_text.clone(), view.clone());
        let planned = PlannedText { text, topic, view };
        self.by_text.lock().insert(settings.name.clone(), planned);
    }

    /// Whether this version surely plans a definition as it was planned: another of the same functions
    /// was.
    fn makes(&self, definition: &Definition) -> bool {
        let made = (definition.settings.clone(), definition.state_format.clone());
        self.made.lock().contains(&made)
    }

    fn of_definition(&self, name: &str, definition: &Definition) -> Option<Arc<View>> {
        let known = self.by_definition.lock();
        let (of, view) = known.get(name)?;
        (of == definition).then(|| view.clone())
    }

    fn note_definition(&self, name: &str, definition: &Definition, view: &Arc<View>) {
        let planned = (definition.clone(), view.clone());
        self.by_definition.lock().insert(name.to_owned(), planned);
    }
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
            planned: Arc::default(),
        };
        if opening == Opening::Declare {
            context.declare().await?;
        }
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
            !answers && !entry.dropped.contains_key(&settings.name)
        });
        let new = new.filter_map(|settings| self.compile(settings).ok());
        let new: Vec<Arc<View>> = new.filter(|v| self.removed_below(v).is_none()).collect();
        match new.is_empty() {
            true => Ok(()),
            false => self.first_generations(&new).await,
        }
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

    async fn first_generations(&self, views: &[Arc<View>]) -> Result<()> {
        let names: Vec<&str> = views.iter().map(|v| v.name()).collect();
        let claimed = self.catalogue.claim_generations(&names).await?;
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
        self.catalogue.first_answers(&first).await.map(|_| ())
    }

    /// Up to where retention has removed facts of a view's topic, if it has.
    fn removed_below(&self, view: &View) -> Option<Offsets> {
        let entry = self.catalogue.current();
        let low = entry.topics.get(&view.topic().name)?.low.clone();
        (low != Offsets::default()).then_some(low)
    }

    /// Plans a view of the project; one that was planned already is not planned again.
    pub fn compile(&self, settings: &ViewSettings) -> Result<Arc<View>> {
        let topic = self.topic_read(settings)?;
        let view = match self.planned.of_text(settings, &topic) {
            Some(view) => view,
            None => {
                let view = View::compile(&settings.name, &settings.sql_text, &topic);
                let view = Arc::new(view.map_err(|e| self.in_file(settings, e))?);
                self.planned.note_text(settings, topic, &view);
                view
            }
        };
        if settings.export {
            Export::schema(&view)?;
        }
        Ok(view)
    }

    /// Plans the definition by which a view answers; one that was planned already is not planned
    /// again.
    pub fn live_view(&self, name: &str, live: &Definition) -> Result<Arc<View>> {
        if let Some(view) = self.planned.of_definition(name, live) {
            return Ok(view);
        }
        let view = Arc::new(View::from_definition(name, live)?);
        self.planned.note_definition(name, live, &view);
        Ok(view)
    }

    /// The topic that a view of the project reads, as it is declared.
    fn topic_read(&self, settings: &ViewSettings) -> Result<Topic> {
        // What doesn't parse is planned over any topic that it names: planning says where it is wrong.
        let relations = relations_read(&settings.sql_text);
        let read = |t: &&TopicSettings| match &relations {
            Ok(names) => names.contains(&t.name),
            Err(_) => names(&settings.sql_text, &t.name),
        };
        let topics = &self.project.topics;
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
        let topic = Topic::from_settings(topic);
        Ok(self.declared(&topic).unwrap_or(topic))
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
            let note = self.view_note(settings);
            notes.extend(note.map(|note| (settings.name.clone(), note)));
        }
        let entry = self.catalogue.current();
        let answering = entry.views.iter().filter(|(_, view)| view.live.is_some());
        let known: BTreeSet<&String> = self.project.views.iter().map(|v| &v.name).collect();
        for (name, _) in answering.filter(|(name, _)| !known.contains(name)) {
            notes.insert(name.clone(), not_of_project(name));
        }
        notes
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
                return Some(not_of_project(name));
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
        let same_text = live.sql.trim() == settings.sql_text.trim();
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
        Some(match self.compile(settings) {
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

/// What to say of a view that answers and is none of the project's.
fn not_of_project(name: &str) -> String {
    format!(
        "view `{name}` is not in this project and still answers; run `anabranch batch drop {name}` to drop it"
    )
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
