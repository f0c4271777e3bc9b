//! Duplicates: the set of keys that a topic has seen lately, and the verdict on each fact. Owns
//! what is remembered and for how long; knows neither WAL nor log nor Kafka. Whoever asks for a
//! verdict must see to it that offsets are given in the order of verdicts, and take keys out again
//! ([`Dedup::forget`]) whose facts were not kept after all.
//!
//! A key is remembered by 128 bits of a keyed hash of its canonical value, in sets by the time at
//! which its fact was admitted. A duplicate is not remembered anew, so a key is forgotten a window
//! after its first fact, at the latest an eighth of a window later; where sets are made from the
//! log again after a restart the verdicts are the same, because their edges are fixed times.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

use anabranch_shared::settings::DedupSettings;
use anabranch_shared::{Error, INGESTED_AT, Result};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};

use crate::intake::admission::{Admitted, keep_rows};

mod recall;

pub(crate) use recall::read_keys;

/// Sets by which a window is divided, and at least so many share its memory.
const PARTS: i64 = 8;

/// Bytes of a place in a set: a key and a byte of the table's own.
const PLACE_BYTES: usize = size_of::<Key>() + 1;

/// Bytes of the smallest set.
const FIRST_BYTES: usize = 4 * PLACE_BYTES;

/// 127 bits of a hash, and in the lowest bit whether the fact has landed: such a key is not
/// forgotten again. Two keys are the same whose hashes are.
#[derive(Clone, Copy, Debug)]
struct Key(u128);

impl Key {
    fn is_landed(self) -> bool {
        self.0 & 1 == 1
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0 >> 1 == other.0 >> 1
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64((self.0 >> 64) as u64);
    }
}

/// Keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct Same(u64);

impl Hasher for Same {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Keys of facts that were admitted at about the same time.
#[derive(Debug, Default)]
struct Set {
    keys: HashSet<Key, BuildHasherDefault<Same>>,
    /// The latest time of one of them, in microseconds since 1970.
    newest_us: i64,
}

impl Set {
    fn bytes(&self) -> usize {
        places(self.keys.capacity()) * PLACE_BYTES
    }
}

/// The places of a table that holds so many keys: a power of two, of which an eighth stays empty.
fn places(capacity: usize) -> usize {
    match capacity {
        0 => 0,
        n => (n * 8 / 7).next_power_of_two(),
    }
}

/// How it stands with a topic's keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DedupStatus {
    /// Keys that are remembered.
    pub keys: u64,
    /// Bytes of memory that they take.
    pub bytes: u64,
    /// How long a key is remembered, in microseconds: the setting, or less where memory is short.
    pub window_us: u64,
    /// Whether that is less than the setting.
    pub is_shortened: bool,
}

/// The keys that a topic has seen lately.
///
/// Invariant: a key is in at most one set.
#[derive(Debug)]
pub struct Dedup {
    topic: String,
    settings: DedupSettings,
    window_us: i64,
    hashers: [RandomState; 2],
    /// By the part of time, and the number of the set in it.
    sets: BTreeMap<(i64, u32), Set>,
    /// The keys that one set may have.
    set_keys: usize,
    /// The latest time that was given.
    now_us: i64,
    /// Keys up to this time were forgotten early, for lack of memory.
    forgotten_us: Option<i64>,
}

impl Dedup {
    /// An empty set for a topic; `now_us` is in microseconds since 1970.
    pub fn new(topic: &str, settings: &DedupSettings, now_us: i64) -> Self {
        let memory = usize::try_from(settings.memory_bytes).unwrap_or(usize::MAX);
        let most = (memory / PARTS as usize / PLACE_BYTES).max(8);
        // A table of the next power of two would be more than its share.
        let places = 1_usize << most.ilog2();
        let window_us = i64::try_from(settings.window.as_micros()).unwrap_or(i64::MAX);
        Self {
            topic: topic.to_owned(),
            settings: settings.clone(),
            window_us: window_us.max(1),
            hashers: [RandomState::new(), RandomState::new()],
            sets: BTreeMap::new(),
            set_keys: places / 8 * 7,
            now_us,
            forgotten_us: None,
        }
    }

    /// The field that holds the key.
    pub fn key(&self) -> &str {
        &self.settings.key
    }

    /// Facts that were admitted before this time can't make a duplicate of one that is admitted at
    /// `now_us`; both in microseconds since 1970.
    pub fn remembers_from_us(&self, now_us: i64) -> i64 {
        let oldest = self.part(now_us).saturating_sub(PARTS);
        oldest.saturating_mul(self.part_us())
    }

    fn part_us(&self) -> i64 {
        // Rounded up, so that all parts together are not less than the window.
        (self.window_us / PARTS + i64::from(self.window_us % PARTS != 0)).max(1)
    }

    fn part(&self, at_us: i64) -> i64 {
        at_us.div_euclid(self.part_us())
    }

    /// Removes the facts whose key was seen, here or within `admitted`, and remembers the keys of
    /// the others. Gives what is left and the records that were removed, ascending. A fact without
    /// a key is never removed. `now_us` is when the records were admitted, in microseconds since
    /// 1970.
    ///
    /// # Errors
    /// `Internal` where the facts have no such field, which is a defect.
    pub fn check(&mut self, mut admitted: Admitted, now_us: i64) -> Result<(Admitted, Vec<u64>)> {
        let Some(keep) = self.check_facts(&admitted.facts, now_us)? else {
            return Ok((admitted, Vec::new()));
        };
        admitted.facts = keep_rows(&admitted.facts, &keep)?;
        let (mut kept, mut duplicates) = (Vec::new(), Vec::new());
        for (record, keep) in admitted.records.iter().zip(keep.values()) {
            match keep {
                true => kept.push(*record),
                false => duplicates.push(*record),
            }
        }
        admitted.records = kept;
        Ok((admitted, duplicates))
    }

    /// As [`Dedup::check`], of a batch of facts: which of them are to be kept, where not all are.
    ///
    /// # Errors
    /// As [`Dedup::check`]; then no key of the batch is remembered.
    pub fn check_facts(
        &mut self,
        facts: &RecordBatch,
        now_us: i64,
    ) -> Result<Option<BooleanArray>> {
        self.advance(now_us);
        let keys = self.keys(facts)?;
        let mut duplicates = 0;
        let keep = keys.into_iter().map(|key| {
            let Some(key) = key else { return Some(true) };
            let seen = self.holds(&key);
            duplicates += usize::from(seen);
            if !seen {
                self.insert(key, now_us);
            }
            Some(!seen)
        });
        let keep: BooleanArray = keep.collect();
        Ok((duplicates > 0).then_some(keep))
    }

    /// Remembers the keys of facts that have landed or are durable, whoever admitted them. `facts`
    /// need have no other columns than the key and `_ingested_at`.
    ///
    /// # Errors
    /// `Internal` where they lack one of them, which is a defect.
    pub fn note(&mut self, facts: &RecordBatch) -> Result<()> {
        let keys = self.keys(facts)?;
        let times = column(facts, INGESTED_AT)?;
        let times = times
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| Error::Internal(format!("`{INGESTED_AT}` is no time")))?;
        let oldest = self.remembers_from_us(self.now_us);
        for (key, at_us) in keys.into_iter().zip(times.values()) {
            let Some(key) = key else { continue };
            let key = Key(key.0 | 1);
            match self.sets.values_mut().find(|set| set.keys.contains(&key)) {
                Some(set) => {
                    set.keys.replace(key);
                }
                None if *at_us >= oldest => self.insert(key, *at_us),
                None => {}
            }
        }
        Ok(())
    }

    /// Forgets the keys of facts that were found to be no duplicates and were not kept after all:
    /// without this a retry of them would be dropped, and a fact lost. Keys that were noted since
    /// then stay.
    ///
    /// # Errors
    /// As [`Dedup::check`].
    pub fn forget(&mut self, facts: &RecordBatch) -> Result<()> {
        for key in self.keys(facts)?.into_iter().flatten() {
            for set in self.sets.values_mut() {
                if set.keys.get(&key).is_some_and(|found| !found.is_landed()) {
                    set.keys.remove(&key);
                }
            }
        }
        Ok(())
    }

    /// How it stands at a time in microseconds since 1970.
    pub fn status(&self, now_us: i64) -> DedupStatus {
        let since = self.forgotten_us.map(|at| now_us.saturating_sub(at).max(0));
        let window = since.unwrap_or(i64::MAX).min(self.window_us);
        DedupStatus {
            keys: self.sets.values().map(|set| set.keys.len() as u64).sum(),
            bytes: self.bytes() as u64,
            window_us: u64::try_from(window).unwrap_or(0),
            is_shortened: window < self.window_us,
        }
    }

    fn bytes(&self) -> usize {
        self.sets.values().map(Set::bytes).sum()
    }

    fn holds(&self, key: &Key) -> bool {
        // Duplicates come soon after their fact, mostly.
        self.sets.values().rev().any(|set| set.keys.contains(key))
    }

    /// Forgets what is older than the window.
    fn advance(&mut self, now_us: i64) {
        self.now_us = self.now_us.max(now_us);
        let oldest = self.part(self.now_us).saturating_sub(PARTS);
        while let Some(entry) = self.sets.first_entry()
            && entry.key().0 < oldest
        {
            entry.remove();
        }
        if let Some(at_us) = self.forgotten_us
            && self.now_us.saturating_sub(at_us) >= self.window_us
        {
            self.forgotten_us = None;
            tracing::info!(topic = %self.topic, "duplicates are known for the whole window again");
        }
    }

    fn insert(&mut self, key: Key, at_us: i64) {
        let part = self.part(at_us);
        let last = self.sets.range((part, 0)..=(part, u32::MAX)).next_back();
        let last = last.map(|((_, number), set)| (*number, set));
        let (number, more) = match last {
            None => (0, FIRST_BYTES),
            Some((number, set)) if set.keys.len() >= self.set_keys => {
                (number.saturating_add(1), FIRST_BYTES)
            }
            Some((number, set)) if set.keys.len() < set.keys.capacity() => (number, 0),
            // It doubles.
            Some((number, set)) => (number, set.bytes().max(FIRST_BYTES)),
        };
        if more > 0 {
            self.make_room(more, (part, number));
        }
        let set = self.sets.entry((part, number)).or_default();
        set.newest_us = set.newest_us.max(at_us);
        set.keys.insert(key);
    }

    /// Forgets the oldest sets, but `growing`, until so many more bytes fit.
    fn make_room(&mut self, more: usize, growing: (i64, u32)) {
        let limit = usize::try_from(self.settings.memory_bytes).unwrap_or(usize::MAX);
        while self.bytes().saturating_add(more) > limit
            && let Some(oldest) = self.sets.keys().copied().find(|at| *at != growing)
            && let Some(set) = self.sets.remove(&oldest)
        {
            if self.forgotten_us.is_none() {
                tracing::warn!(
                    topic = %self.topic,
                    memory_bytes = self.settings.memory_bytes,
                    keys = set.keys.len(),
                    remembered_s = self.now_us.saturating_sub(set.newest_us) / 1_000_000,
                    "the memory for the keys of `dedup` is full: the oldest are forgotten before their window is over, and their duplicates are not known; raise `memory` or shorten `window` in `[topics.NAME.dedup]`"
                );
            }
            self.forgotten_us = Some(self.forgotten_us.unwrap_or(i64::MIN).max(set.newest_us));
        }
    }

    fn keys(&self, facts: &RecordBatch) -> Result<Vec<Option<Key>>> {
        let values = column(facts, &self.settings.key)?;
        let hash = |bytes: &[u8]| {
            let [high, low] = [0, 1].map(|i| self.hashers[i].hash_one(bytes));
            Key((u128::from(high) << 64 | u128::from(low)) & !1)
        };
        Ok(match values.data_type() {
            DataType::Utf8View => {
                let text = values.as_string_view();
                text.iter().map(|v| v.map(|v| hash(v.as_bytes()))).collect()
            }
            DataType::BinaryView => values
                .as_binary_view()
                .iter()
                .map(|v| v.map(hash))
                .collect(),
            other => {
                let rows = RowConverter::new(vec![SortField::new(other.clone())])?
                    .convert_columns(std::slice::from_ref(values))?;
                let key = |(i, row): (usize, arrow::row::Row<'_>)| {
                    (!values.is_null(i)).then(|| hash(row.as_ref()))
                };
                rows.iter().enumerate().map(key).collect()
            }
        })
    }
}

fn column<'a>(facts: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    facts
        .column_by_name(name)
        .ok_or_else(|| Error::Internal(format!("facts without their field `{name}`")))
}

#[cfg(test)]
mod tests;
