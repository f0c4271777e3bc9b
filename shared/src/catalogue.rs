//! The catalogue: which topics, partitions and generations there are. Numbered entries, written by
//! put-if-absent; each holds the whole catalogue, and the highest is current.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::damage::{damaged, lost};
use crate::layout;
use crate::settings::RunSettings;
use crate::storage::{CreateOutcome, Storage};
use crate::view::Definition;
use crate::{Backoff, Error, Generation, Offsets, PartitionId, Result, Topic, planted};

mod roles;

pub use roles::{
    Act, Candidate, CutOverOf, Doer, Judged, Named, Previous, Role, Stopped, Succession,
    is_schema_of_generations, numbered,
};

/// The format of an entry; readers refuse a later one.
const FORMAT: u32 = 3;

/// The format of an entry in which generations are candidates, kept for a roll-back, or have taken the
/// place of others: what does not know that would forget it with its next entry.
const FORMAT_WITH_ROLES: u32 = 3;

/// The format of an entry with retention: what knows no `low` would answer with less.
const FORMAT_WITH_LOW: u32 = 2;

/// The format of an entry that every version reads.
const FORMAT_PLAIN: u32 = 1;

/// How often a change that keeps losing its number is tried again.
const CHANGE_TRIES: usize = 1_000;

/// The owner of partitions that come from a topic's source.
const SOURCE_OWNER: &str = "source";

/// Where the numbers of the partitions begin in a topic that belong to WALs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnPartitions {
    /// At 0: all of its facts come by requests.
    First,
    /// Past those that a source such as Kafka may have.
    PastSource,
    /// Past those that a topic may have which a step takes facts of: a step keeps their numbers.
    PastStep,
}

impl OwnPartitions {
    fn first(self) -> i32 {
        match self {
            Self::First => 0,
            Self::PastSource => 1 << 20,
            Self::PastStep => 1 << 21,
        }
    }
}

/// How often a change whose put was not answered, and is not there, is tried again.
const UNANSWERED_TRIES: usize = 4;

/// The pause before the first of them.
const UNANSWERED_PAUSE: Duration = Duration::from_millis(10);

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The format of the entry.
    pub format: u32,
    /// The entry's number.
    pub number: u64,
    /// A random id, that tells our own entry from others.
    pub id: String,
    /// What the change was, for people.
    pub change: String,
    /// The topics.
    pub topics: BTreeMap<String, TopicEntry>,
    /// The views.
    pub views: BTreeMap<String, ViewEntry>,
    /// For views that were dropped, the highest number that a generation of theirs had: a view that
    /// is declared again under the name must not find the states of the former one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, Generation>,
}

/// A topic in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicEntry {
    /// The topic as it was last declared.
    pub topic: Topic,
    /// The owner of each partition: the id of the WAL that alone appends to it.
    pub partitions: BTreeMap<PartitionId, String>,
    /// The identity of what its source reads, where the source says so: of Kafka the topic's id, of a
    /// step what the offsets follow from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
    /// Up to where retention removes facts, or is about to: a generation that does not reach there
    /// can't be cut over to any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub low: Offsets,
}

impl TopicEntry {
    /// Whether a partition is one of the topic's source.
    pub fn is_of_source(&self, partition: PartitionId) -> bool {
        let owner = self.partitions.get(&partition);
        owner.is_some_and(|owner| owner == SOURCE_OWNER)
    }
}

fn is_zero(offsets: &Offsets) -> bool {
    *offsets == Offsets::default()
}

/// A view in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewEntry {
    /// The generation that answers; none while the first is being built, and of a dropped view.
    pub live: Option<GenerationEntry>,
    /// The highest number that a generation of the view ever had.
    pub last_generation: Generation,
    /// The generation that is built in the shadow of the live one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
    /// The generation that answered before, where it is kept for a roll-back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    /// How the live one came to answer, where it took another's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub came: Option<Succession>,
    /// How the view is run, as the project had it that was last applied; by whichever project a process
    /// has where that was never noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunSettings>,
}

impl ViewEntry {
    /// A view without a generation, the highest number of which was this one.
    fn none_since(last_generation: Generation) -> Self {
        Self {
            live: None,
            last_generation,
            candidate: None,
            previous: None,
            came: None,
            run: None,
        }
    }
}

/// A generation in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationEntry {
    /// The generation's number.
    pub generation: Generation,
    /// What it computes.
    pub definition: Definition,
    /// From where on it holds facts: above 0 where it was built after retention had removed some.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub from: Offsets,
}

/// The catalogue of a storage.
#[derive(Debug)]
pub struct Catalogue {
    storage: Storage,
    current: RwLock<Arc<Entry>>,
    changing: tokio::sync::Mutex<()>,
}

fn path(number: u64) -> Path {
    layout::entry(number)
}

/// What the checksum of an entry follows, which is of all that stands before.
const CHECKSUM: &str = ",\n  \"crc32c\": ";

fn read_note(note: &[u8]) -> Option<u64> {
    let (number, crc) = std::str::from_utf8(note).ok()?.split_once(' ')?;
    let number: u64 = number.parse().ok()?;
    let right = u32::from_str_radix(crc, 16).ok()? == crc32c::crc32c(&number.to_le_bytes());
    right.then_some(number)
}

fn encode(entry: &Entry) -> Result<Vec<u8>> {
    let internal = |e: serde_json::Error| Error::Internal(e.to_string());
    let mut body = serde_json::to_vec_pretty(entry).map_err(internal)?;
    body.truncate(body.len().saturating_sub("\n}".len()));
    let sum = crc32c::crc32c(&body);
    body.extend_from_slice(format!("{CHECKSUM}{sum}\n}}").as_bytes());
    Ok(body)
}

fn decode(body: &[u8], number: u64, path: &Path) -> Result<Entry> {
    let mut entry: Entry = serde_json::from_slice(body)
        .map_err(|e| damaged(path, format!("not a catalogue entry: {e}")))?;
    if planted("planted-damage-read") {
        entry.number = number;
        return Ok(entry);
    }
    let text = std::str::from_utf8(body).unwrap_or_default();
    let checksum = text.rsplit_once(CHECKSUM);
    let right = checksum.is_none_or(|(covered, rest)| {
        let sum = rest.trim_end_matches(['\n', '}']).parse();
        sum == Ok(crc32c::crc32c(covered.as_bytes()))
    });
    match entry.number == number && right {
        true => Ok(entry),
        false => Err(damaged(path, "it is not the entry that was written there")),
    }
}

impl Catalogue {
    /// Opens the catalogue; a storage without one has an empty one.
    pub async fn open(storage: &Storage) -> Result<Self> {
        let prefix = Path::from(layout::CATALOGUE);
        // Before the listing: what was noted then must be in it.
        let noted = storage.get(&Path::from(layout::NEWEST_ENTRY)).await?;
        let noted = noted.and_then(|note| read_note(&note)).unwrap_or_default();
        let names = storage.store().list(Some(&prefix));
        let newest = names
            .try_fold(0, |newest, meta| async move {
                let number = meta
                    .location
                    .filename()
                    .and_then(|n| n.strip_suffix(".json"));
                Ok(newest.max(number.and_then(|n| n.parse().ok()).unwrap_or(0)))
            })
            .await?;
        let catalogue = Self {
            storage: storage.clone(),
            current: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
        };
        if newest > 0
            && let Some(entry) = catalogue.read(newest).await?
        {
            storage.note_found(&prefix);
            *catalogue.current.write() = Arc::new(entry);
        }
        catalogue.refresh().await?;
        match catalogue.current().number < noted && !planted("planted-damage-read") {
            true => Err(lost(path(noted))),
            false => Ok(catalogue),
        }
    }

    /// Notes that there is an entry, so that one which is lost as the newest is noticed. An older
    /// note, or none, does no harm.
    async fn note_newest(&self, number: u64) {
        let note = format!("{number} {:08x}", crc32c::crc32c(&number.to_le_bytes()));
        if let Err(error) = self
            .storage
            .put(&Path::from(layout::NEWEST_ENTRY), note)
            .await
        {
            tracing::warn!(%error, "could not note the newest entry of the catalogue");
        }
    }

    /// Checks the bytes of an entry, at its path.
    ///
    /// # Errors
    /// `Corrupt` where they are not those of the entry of that number.
    pub(crate) fn check_entry(body: &[u8], number: u64, path: &Path) -> Result<()> {
        decode(body, number, path).map(|_| ())
    }

    /// The newest known entry.
    pub fn current(&self) -> Arc<Entry> {
        self.current.read().clone()
    }

    async fn read(&self, number: u64) -> Result<Option<Entry>> {
        let path = path(number);
        let Some(bytes) = self.storage.get(&path).await? else {
            return Ok(None);
        };
        let entry = decode(&bytes, number, &path)?;
        if entry.format > FORMAT {
            return Err(Error::Conflict(format!(
                "`{path}` is of format {}, this version reads up to {FORMAT}; use a newer version",
                entry.format
            )));
        }
        Ok(Some(entry))
    }

    /// Reads entries that are new. Returns whether there were any.
    pub async fn refresh(&self) -> Result<bool> {
        let mut moved = false;
        loop {
            let next = self.current().number + 1;
            let Some(entry) = self.read(next).await? else {
                return Ok(moved);
            };
            self.storage.note_found(&Path::from(layout::CATALOGUE));
            let mut current = self.current.write();
            if entry.number > current.number {
                *current = Arc::new(entry);
            }
            moved = true;
        }
    }

    /// The entries that were current at a time, in milliseconds since 1970, or later.
    pub async fn entries_since(&self, at_ms: i64) -> Result<Vec<Arc<Entry>>> {
        let mut numbers: Vec<(u64, i64)> = self
            .storage
            .list_below(&Path::from(layout::CATALOGUE))
            .await?
            .iter()
            .filter_map(|meta| {
                let name = meta.location.filename()?.strip_suffix(".json")?;
                Some((name.parse().ok()?, meta.last_modified.timestamp_millis()))
            })
            .collect();
        numbers.sort_unstable();
        let older = numbers.partition_point(|(_, written)| *written <= at_ms);
        let mut entries = Vec::new();
        for (number, _) in &numbers[older.saturating_sub(1)..] {
            if let Some(entry) = self.read(*number).await? {
                entries.push(Arc::new(entry));
            }
        }
        // What was written after the listing.
        self.refresh().await?;
        entries.push(self.current());
        Ok(entries)
    }

    /// Writes one more entry: what `change` makes of the newest one. It is asked again after every
    /// entry that won its number first; where it returns `None` nothing is written.
    pub async fn change(
        &self,
        what: &str,
        mut change: impl FnMut(&Entry) -> Result<Option<Entry>>,
    ) -> Result<Arc<Entry>> {
        let _guard = self.changing.lock().await;
        self.refresh().await?;
        let mut unanswered = 0;
        let mut backoff = Backoff::new(UNANSWERED_PAUSE, UNANSWERED_PAUSE * 8);
        for _ in 0..CHANGE_TRIES {
            let current = self.current();
            let Some(mut next) = change(&current)? else {
                return Ok(current);
            };
            next.format = format_of(&next);
            next.number = current.number + 1;
            next.id = self.storage.ids().fresh().to_string();
            next.change = what.to_owned();
            let body = encode(&next)?;
            let outcome = self.storage.create(&path(next.number), body).await;
            self.refresh().await?;
            let mine = self
                .read(next.number)
                .await?
                .is_some_and(|e| e.id == next.id);
            match outcome {
                Ok(_) if mine => {
                    self.note_newest(next.number).await;
                    return Ok(self.current());
                }
                Err(_) if mine => {
                    // The put failed when the entry was there, and perhaps not yet durable.
                    self.storage.settle().await?;
                    self.note_newest(next.number).await;
                    return Ok(self.current());
                }
                Ok(CreateOutcome::Created | CreateOutcome::Exists) => {}
                // It may yet be there: then the change, asked again, finds itself done.
                Err(_) if unanswered < UNANSWERED_TRIES => {
                    unanswered += 1;
                    tokio::time::sleep(backoff.failed(Instant::now())).await;
                }
                Err(e) => return Err(e),
            }
        }
        Err(Error::Conflict(format!(
            "the catalogue: lost {CHANGE_TRIES} numbers in a row to other writers; try again"
        )))
    }

    /// Declares a topic: new, or with new nullable fields.
    ///
    /// # Errors
    /// `Invalid` where facts in the log would not fit the new declaration, or a new field can't be a
    /// column of a Delta table.
    pub async fn declare_topic(&self, topic: &Topic) -> Result<Arc<Entry>> {
        self.declare_topics(std::slice::from_ref(topic)).await
    }

    /// Declares topics, all in one entry: each holds the whole catalogue.
    ///
    /// # Errors
    /// As [`Catalogue::declare_topic`], of the first that can't be declared: none is then.
    pub async fn declare_topics(&self, topics: &[Topic]) -> Result<Arc<Entry>> {
        let names = topics.iter().map(|t| t.name.as_str());
        let what = format!("declare {}", several("topic", names));
        self.change(&what, |entry| {
            let mut next = entry.clone();
            topics
                .iter()
                .try_for_each(|topic| declare(&mut next, topic))?;
            Ok((next != *entry).then_some(next))
        })
        .await
    }

    /// Notes that partitions of a topic are those of its source, such as Kafka, whose numbers they
    /// have.
    ///
    /// # Errors
    /// `Conflict` where one belongs to a WAL: facts of other origin have its offsets.
    pub async fn claim_for_source(&self, topic: &str, partitions: &[PartitionId]) -> Result<()> {
        let what = format!("partitions of {topic} come from its source");
        self.change(&what, |entry| {
            let mut next = entry.clone();
            let known = next
                .topics
                .get_mut(topic)
                .ok_or_else(|| unknown_topic(topic))?;
            for partition in partitions {
                let owner = known.partitions.entry(*partition);
                if owner.or_insert_with(|| SOURCE_OWNER.to_owned()) != SOURCE_OWNER {
                    return Err(Error::Conflict(format!(
                        "topic `{topic}`: partition {partition} holds facts that came by HTTP or `ingest`, so its offsets can't be those of a source; declare a new topic for what comes from Kafka or a step"
                    )));
                }
            }
            Ok((next != *entry).then_some(next))
        })
        .await?;
        Ok(())
    }

    /// Notes the identity of what a topic's source reads. Returns another one that is noted already,
    /// and leaves it, unless the new one is `accepted`.
    pub async fn note_source_id(
        &self,
        topic: &str,
        id: &str,
        accepted: Option<&str>,
    ) -> Result<Option<String>> {
        let mut other = None;
        self.change(&format!("{topic} reads {id}"), |entry| {
            let mut next = entry.clone();
            let known = next
                .topics
                .get_mut(topic)
                .ok_or_else(|| unknown_topic(topic))?;
            let before = known.source_id.replace(id.to_owned());
            other = before.filter(|before| before != id && accepted != Some(id));
            Ok((next != *entry && other.is_none()).then_some(next))
        })
        .await?;
        Ok(other)
    }

    /// The partition of a topic that belongs to an owner; a new one where it has none, with a
    /// number of its own past those that a source may have.
    pub async fn claim_partition(
        &self,
        topic: &str,
        owner: &str,
        own: OwnPartitions,
    ) -> Result<PartitionId> {
        let claimed = self
            .claim_partitions(&[(topic.to_owned(), own)], owner)
            .await?;
        let mut claimed = claimed.into_values();
        let none = || Error::Internal(format!("claimed no partition of `{topic}`"));
        claimed.next().ok_or_else(none)
    }

    /// As [`Catalogue::claim_partition`], of several topics in one entry.
    pub async fn claim_partitions(
        &self,
        topics: &[(String, OwnPartitions)],
        owner: &str,
    ) -> Result<BTreeMap<String, PartitionId>> {
        let owned = |entry: &Entry, topic: &str| {
            let partitions = &entry.topics.get(topic)?.partitions;
            partitions
                .iter()
                .find(|(_, o)| *o == owner)
                .map(|(p, _)| *p)
        };
        let names = topics.iter().map(|(name, _)| name.as_str());
        let what = format!("claim a partition of {}", several("", names));
        let entry = self
            .change(&what, |entry| {
                let lacks = |(topic, _): &&(String, OwnPartitions)| owned(entry, topic).is_none();
                let mut left = topics.iter().filter(lacks).peekable();
                if left.peek().is_none() {
                    return Ok(None);
                }
                let mut next = entry.clone();
                for (topic, own) in left {
                    let known = next
                        .topics
                        .get_mut(topic)
                        .ok_or_else(|| unknown_topic(topic))?;
                    let last = known.partitions.keys().next_back();
                    let first = own.first();
                    let new = PartitionId(last.map_or(first, |p| first.max(p.0 + 1)));
                    known.partitions.insert(new, owner.to_owned());
                }
                Ok(Some(next))
            })
            .await?;
        let of =
            |(topic, _): &(String, OwnPartitions)| Some((topic.clone(), owned(&entry, topic)?));
        Ok(topics.iter().filter_map(of).collect())
    }

    /// A number for a new generation of a view, that nobody else gets.
    pub async fn claim_generation(&self, view: &str) -> Result<Generation> {
        let claimed = self.claim_generations(&[view]).await?;
        let mut claimed = claimed.into_values();
        let none = || Error::Internal(format!("claimed no generation of `{view}`"));
        claimed.next().ok_or_else(none)
    }

    /// As [`Catalogue::claim_generation`], of several views in one entry.
    pub async fn claim_generations(&self, views: &[&str]) -> Result<BTreeMap<String, Generation>> {
        let mut claimed = BTreeMap::new();
        let what = format!(
            "claim a generation of {}",
            several("", views.iter().copied())
        );
        self.change(&what, |entry| {
            let mut next = entry.clone();
            for view in views {
                let before = next.dropped.remove(*view).unwrap_or_default();
                let known = next
                    .views
                    .entry((*view).to_owned())
                    .or_insert_with(|| ViewEntry::none_since(before));
                known.last_generation = Generation(known.last_generation.0 + 1);
                claimed.insert((*view).to_owned(), known.last_generation);
            }
            Ok(Some(next))
        })
        .await?;
        Ok(claimed)
    }

    /// Makes the first generations of views the ones that answer, all in one entry; each holds no
    /// fact yet. A view that answers by another one meanwhile, or whose topic retention has removed
    /// facts of, is left as it is. How views are run is noted where that was not.
    pub async fn first_answers(
        &self,
        first: &[(&str, GenerationEntry)],
        run: &BTreeMap<String, RunSettings>,
    ) -> Result<Arc<Entry>> {
        fail::fail_point!("cut-over-before-entry");
        let names = first.iter().map(|(view, _)| *view);
        let what = match first.is_empty() {
            true => format!(
                "settings of {}",
                several("", run.keys().map(String::as_str))
            ),
            false => format!("cut {} over to their first generations", several("", names)),
        };
        let changed = self.change(&what, |entry| {
            let mut next = entry.clone();
            for (view, generation) in first {
                let topic = entry.topics.get(&generation.definition.topic.name);
                let has_all = topic.is_none_or(|t| is_zero(&t.low));
                if let Some(known) = next.views.get_mut(*view)
                    && known.live.is_none()
                    && has_all
                {
                    known.live = Some(generation.clone());
                }
            }
            for (view, run) in run {
                if let Some(known) = next.views.get_mut(view)
                    && known.live.is_some()
                    && known.run.is_none()
                {
                    known.run = Some(run.clone());
                }
            }
            Ok((next != *entry).then_some(next))
        });
        let entry = changed.await?;
        fail::fail_point!("cut-over-after-entry");
        Ok(entry)
    }

    /// The generations over a topic that answer or may come to, each with its view.
    pub fn kept_over(entry: &Entry, topic: &str) -> BTreeSet<(String, Generation)> {
        let over = entry.generations();
        let over = over.filter(|named| {
            let forgotten =
                planted("planted-low-above-a-kept-generation") && named.role != Role::Live;
            named.entry.definition.topic.name == topic && !forgotten
        });
        over.map(|named| (named.view.to_owned(), named.entry.generation))
            .collect()
    }

    /// Announces that a topic's facts below `low` are removed: from here on no generation can be
    /// cut over to that does not reach there. `seen` are those that answer, or may come to, and do.
    ///
    /// # Errors
    /// `Conflict` when another generation was cut over to since they were looked at.
    pub async fn raise_low(
        &self,
        topic: &str,
        low: &Offsets,
        seen: &BTreeSet<(String, Generation)>,
    ) -> Result<Arc<Entry>> {
        fail::fail_point!("retain-before-announcement");
        let what = format!("facts of {topic} below [{low}] go");
        let changed = self.change(&what, |entry| {
            let mut next = entry.clone();
            let known = next
                .topics
                .get_mut(topic)
                .ok_or_else(|| unknown_topic(topic))?;
            if known.low.covers(low) {
                return Ok(None);
            }
            if Self::kept_over(entry, topic) != *seen {
                return Err(Error::Conflict(format!(
                    "topic `{topic}`: a view was cut over while retention looked at it; it is tried again later"
                )));
            }
            low.iter().for_each(|(p, o)| known.low.raise(p, o));
            Ok(Some(next))
        });
        let entry = changed.await?;
        fail::fail_point!("retain-after-announcement");
        Ok(entry)
    }

    /// Forgets a view. Its files stay until maintenance removes them, so the numbers of its
    /// generations stay taken: a view of that name that comes later must not find the old runs.
    pub async fn drop_view(&self, view: &str) -> Result<Arc<Entry>> {
        self.change(&format!("drop view {view}"), |entry| {
            let mut next = entry.clone();
            Ok(roles::drop_in(&mut next, view).then_some(next))
        })
        .await
    }
}

/// The earliest format in which an entry says all that it holds.
fn format_of(entry: &Entry) -> u32 {
    if entry.views.values().any(ViewEntry::has_roles) {
        FORMAT_WITH_ROLES
    } else if entry.topics.values().any(|t| !is_zero(&t.low)) {
        FORMAT_WITH_LOW
    } else {
        FORMAT_PLAIN
    }
}

/// Declares a topic in an entry.
fn declare(entry: &mut Entry, topic: &Topic) -> Result<()> {
    match entry.topics.get_mut(&topic.name) {
        Some(known) => {
            topic.check_evolves_from(&known.topic)?;
            topic.check_names_but(&known.topic.fields)?;
            known.topic = topic.with_reads_of(&known.topic);
        }
        None => {
            topic.check_names_but(&[])?;
            let new = TopicEntry {
                topic: topic.clone(),
                partitions: BTreeMap::new(),
                source_id: None,
                low: Offsets::default(),
            };
            entry.topics.insert(topic.name.clone(), new);
        }
    }
    Ok(())
}

/// For people: one name, or the first of several and how many there are.
fn several<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let space = if what.is_empty() { "" } else { " " };
    match names.as_slice() {
        [one] => format!("{what}{space}{one}"),
        [first, more @ ..] => format!("{what}{space}{first} and {} more", more.len()),
        [] => what.to_owned(),
    }
}

fn unknown_topic(topic: &str) -> Error {
    Error::NotFound(format!(
        "no topic `{topic}`; declare it as `[topics.{topic}]`"
    ))
}

#[cfg(test)]
mod tests;
