//! Retention of a topic: marks where its log ends from time to time, and removes the facts below the
//! greatest mark that is old enough, or below which enough bytes lie. Owns when and up to where;
//! the commits are the log's.
//!
//! Facts go in two steps. The catalogue gets the new `low` first, in an entry that is refused where
//! another generation was cut over to since those that answer were looked at; from then on none can
//! be cut over to that does not reach there, and no boundary ever decreases. Then the log gets it,
//! in the commit that removes the files. Whoever dies between the two, the next one goes on.
//!
//! What is old by a wall clock may not be: it goes once upkeep has seen it for `seen_ms` by a clock that
//! nobody sets (`seen.rs`).

use std::collections::BTreeSet;

use anabranch_shared::{
    Catalogue, Generation, Log, LogTable, Mark, Master, MasterPin, Offsets, RemovedFacts, Result,
    Storage, layout, planted,
};

use crate::compact::{CompactOptions, nothing_to_merge};
use crate::seen::{Seen, UpkeepTime};

/// A mark is made after this part of the age or the size.
const MARKS_PER_BOUND: u64 = 8;

/// What is kept of a topic's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionRule {
    /// Facts that landed longer ago than this go, in milliseconds.
    pub age_ms: Option<i64>,
    /// The oldest facts go while the log's files hold more bytes than this.
    pub size_bytes: Option<u64>,
    /// Facts that landed within this time stay whatever the size, in milliseconds: duplicates of
    /// theirs are looked for.
    pub keep_ms: i64,
    /// Dead letters that came longer ago than this go, in milliseconds, whatever becomes of facts.
    pub dead_letters_ms: Option<i64>,
    /// Ingested files are forgotten that were last added to longer ago than this, in milliseconds.
    pub ingested_ms: Option<i64>,
    /// What is old enough by the storage's clock goes once it has been seen for this time by one that
    /// nobody sets, in milliseconds, or for its age where that is shorter.
    pub seen_ms: i64,
    /// The steps that take the topic's facts, each with up to where facts have landed that it made of
    /// them: it has still to read the others.
    pub steps: Vec<(String, Offsets)>,
}

impl RetentionRule {
    /// Whether facts ever go.
    pub fn is_on(&self) -> bool {
        self.age_ms.is_some() || self.size_bytes.is_some()
    }

    /// Whether nothing of a log is to be retained or merged, as far as can be told without a look at
    /// what other runs have seen: then no process need take care of it.
    ///
    /// # Errors
    /// `Corrupt` for a file that another writer added.
    pub fn leaves(
        &self,
        catalogue: &Catalogue,
        log: &Log,
        options: Option<&CompactOptions>,
        now_ms: i64,
    ) -> Result<bool> {
        let has_files = |which| log.table_of(which).with_state(|s| !s.files.is_empty());
        let entry = catalogue.current();
        let announced = entry.topics.get(log.name()).map(|t| t.low.clone());
        let dead_letters_go = self.dead_letters_ms.is_some() || log.low() != Offsets::default();
        let ingested = self.ingested_ms.map(|ms| now_ms.saturating_sub(ms));
        let ingested = ingested.is_some_and(|before| log.ingested_before(before) != (0, 0));
        if self.is_on()
            || ingested
            || !log.has_told_of_dead_letters()
            || !log.low().covers(&announced.unwrap_or_default())
            || (dead_letters_go && has_files(LogTable::DeadLetters))
        {
            return Ok(false);
        }
        options.map_or(Ok(true), |options| nothing_to_merge(log, options))
    }
}

/// What retention came to, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainReport {
    /// Facts that were removed.
    pub facts: RemovedFacts,
    /// Dead letters that were removed.
    pub dead_letters: RemovedFacts,
    /// The first offsets that are kept, where facts were removed.
    pub low: Option<Offsets>,
    /// Ingested files that were forgotten.
    pub ingested: u64,
    /// What keeps facts from being removed that are old enough.
    pub waits: Option<String>,
}

/// The part of the storage of which it is noted what was seen as old.
fn part(log: &Log) -> String {
    layout::retention(log.name())
}

/// The time before which dead letters go, in microseconds since 1970: one that has been seen as old
/// enough for long enough.
fn dead_before_us(seen: &mut Seen, rule: &RetentionRule, now_ms: i64) -> Option<i64> {
    let age_ms = rule.dead_letters_ms?;
    let before_us = now_ms.saturating_sub(age_ms).saturating_mul(1_000);
    seen_before(seen, DEAD_LETTERS, before_us, rule.seen_ms.min(age_ms))
}

/// The time before which ingested files are forgotten, in milliseconds since 1970, likewise; nothing
/// is noted while there is none.
fn ingested_before_ms(
    seen: &mut Seen,
    rule: &RetentionRule,
    log: &Log,
    now_ms: i64,
) -> Option<i64> {
    let age_ms = rule.ingested_ms?;
    let before_ms = now_ms.saturating_sub(age_ms);
    match log.ingested_before(before_ms) {
        (0, 0) => None,
        // That those of unknown time get one needs no waiting.
        (0, _) => Some(i64::MIN),
        _ => seen_before(seen, INGESTED, before_ms, rule.seen_ms.min(age_ms)),
    }
}

/// A time before which things are old enough now, and were seen to be so for long enough.
fn seen_before(seen: &mut Seen, what: &str, before: i64, seen_ms: i64) -> Option<i64> {
    let noted = seen.noted(what).into_iter();
    let noted = noted.filter_map(|before| before.parse::<i64>().ok());
    // A later one is of a clock that was ahead.
    let noted: Vec<i64> = noted.filter(|noted| *noted < before).collect();
    let mut usable = None;
    for noted in noted.into_iter().chain([before]) {
        let what = format!("{what}{noted}");
        if seen.for_ms(&what, seen_ms) {
            usable = usable.max(Some(noted));
            seen.forget(&what);
        }
    }
    usable
}

/// How it is noted that dead letters before a time, in microseconds since 1970, were seen as old.
const DEAD_LETTERS: &str = "dead letters before ";

/// How it is noted that ingested files before a time, in milliseconds since 1970, were seen as old.
const INGESTED: &str = "ingested before ";

/// What would be removed of a topic's log at a time.
///
/// # Errors
/// `Corrupt` for a file that another writer added.
pub async fn find_retention(
    storage: &Storage,
    catalogue: &Catalogue,
    log: &Log,
    rule: &RetentionRule,
    time: &UpkeepTime,
) -> Result<RetainReport> {
    log.refresh().await?;
    let announced = announced(catalogue, log).await?;
    let mut seen = Seen::read(storage, &part(log), time).await?;
    let before_us = dead_before_us(&mut seen, rule, time.now_ms);
    let ingested = ingested_before_ms(&mut seen, rule, log, time.now_ms);
    let ingested = ingested.map_or(0, |before| log.ingested_before(before).0 as u64);
    let chosen = choose(storage, catalogue, log, rule, time.now_ms, &mut seen).await?;
    let (low, waits) = match chosen {
        Chosen::Low { mark, .. } => (Some(mark.end), None),
        Chosen::Waits(why) => (announced, Some(why)),
        Chosen::Nothing => (announced, None),
    };
    let low_then = low.clone().unwrap_or_else(|| log.low());
    let (facts, dead_letters) = log.removable(&low_then, before_us)?;
    Ok(RetainReport {
        facts,
        dead_letters,
        low,
        ingested,
        waits,
    })
}

/// Marks where a topic's log ends, if it is time, and removes what is to go.
///
/// # Errors
/// `Fenced` or `Conflict` when another process does upkeep of the log or cuts over one of its views
/// at the same time: nothing is changed then, or less than could be.
pub async fn retain(
    storage: &Storage,
    catalogue: &Catalogue,
    log: &Log,
    rule: &RetentionRule,
    time: &UpkeepTime,
) -> Result<RetainReport> {
    log.refresh().await?;
    let now_ms = time.now_ms;
    let mut report = RetainReport::default();
    if let Some(low) = announced(catalogue, log).await? {
        remove(log, &low, now_ms, &mut report).await?;
    }
    if wants_mark(rule, log, now_ms)? {
        log.mark(now_ms).await?;
    }
    let mut seen = Seen::read(storage, &part(log), time).await?;
    let before_us = dead_before_us(&mut seen, rule, now_ms);
    match choose(storage, catalogue, log, rule, now_ms, &mut seen).await? {
        Chosen::Nothing => {}
        Chosen::Waits(why) => report.waits = Some(why),
        Chosen::Low { mark, live } => {
            let topic = log.name();
            catalogue.raise_low(topic, &mark.end, &live).await?;
            remove(log, &mark.end, now_ms, &mut report).await?;
        }
    }
    // Also what a process left that died after it had removed the facts.
    let dead_letters = log.remove_dead_letters(before_us, now_ms).await?;
    add(&mut report.dead_letters, &dead_letters);
    if let Some(before_ms) = ingested_before_ms(&mut seen, rule, log, now_ms) {
        report.ingested = log.forget_ingested(before_ms, now_ms).await?;
    }
    seen.write(storage).await?;
    Ok(report)
}

async fn remove(log: &Log, low: &Offsets, now_ms: i64, report: &mut RetainReport) -> Result<()> {
    let mark = log.marks().into_iter().find(|m| m.end == *low);
    let removed = log.remove_below(low, mark.map(|m| m.at_ms), now_ms);
    add(&mut report.facts, &removed.await?);
    report.low = Some(low.clone());
    Ok(())
}

fn add(sum: &mut RemovedFacts, more: &RemovedFacts) {
    sum.files += more.files;
    sum.bytes += more.bytes;
    sum.rows += more.rows;
}

/// A `low` that was announced, and up to which the log was not removed yet.
async fn announced(catalogue: &Catalogue, log: &Log) -> Result<Option<Offsets>> {
    catalogue.refresh().await?;
    let entry = catalogue.current();
    let known = entry.topics.get(log.name());
    let low = known.map(|t| t.low.clone()).unwrap_or_default();
    Ok((!log.low().covers(&low)).then_some(low))
}

/// Whether it is time for one more mark.
fn wants_mark(rule: &RetentionRule, log: &Log, now_ms: i64) -> Result<bool> {
    let (marks, head) = (log.marks(), log.head());
    let last = marks.last();
    let end = last.map_or_else(|| log.low(), |m| m.end.clone());
    if end.covers(&head) {
        return Ok(false);
    }
    let part = i64::try_from(MARKS_PER_BOUND).unwrap_or(i64::MAX);
    let aged = |age_ms: i64| last.is_none_or(|m| now_ms.saturating_sub(m.at_ms) >= age_ms / part);
    let grown = match rule.size_bytes {
        Some(size) => log.bytes_above(&end)? >= size / MARKS_PER_BOUND,
        None => false,
    };
    Ok(rule.age_ms.is_some_and(aged) || grown)
}

/// Up to where facts go now.
enum Chosen {
    /// Nothing is old enough.
    Nothing,
    /// Something is, and this keeps it.
    Waits(String),
    /// Up to a mark that is an edge of these generations.
    Low {
        mark: Mark,
        live: BTreeSet<(String, Generation)>,
    },
}

async fn choose(
    storage: &Storage,
    catalogue: &Catalogue,
    log: &Log,
    rule: &RetentionRule,
    now_ms: i64,
    seen: &mut Seen,
) -> Result<Chosen> {
    let marks = log.marks();
    let wanted = wanted(&marks, rule, now_ms, |end| log.bytes_above(end))?;
    let grace_ms = rule.seen_ms.min(rule.age_ms.unwrap_or(0).max(rule.keep_ms));
    let mut old = Vec::new();
    // All marks are noted from when they are made on.
    for (nth, mark) in marks.iter().enumerate() {
        let long = seen.for_ms(&format!("the mark at [{}]", mark.end), grace_ms);
        if long && nth < wanted {
            old.push(mark);
        }
    }
    if old.is_empty() {
        return Ok(Chosen::Nothing);
    }
    let live = Catalogue::kept_over(&catalogue.current(), log.name());
    let mut masters: Vec<(&str, MasterPin)> = Vec::new();
    for (view, generation) in &live {
        let pin = Master::look(storage, view, *generation).await?;
        masters.push((view.as_str(), pin));
    }
    let mut waits = None;
    for mark in old.into_iter().rev() {
        match keeps(&masters, &rule.steps, &mark.end)? {
            None => {
                let (mark, live) = (mark.clone(), live.clone());
                return Ok(Chosen::Low { mark, live });
            }
            why => waits = why,
        }
    }
    Ok(waits.map_or(Chosen::Nothing, Chosen::Waits))
}

/// How many of the marks, the lowest first, the facts below which are to go. `bytes_above` says how
/// many bytes stay when those below a mark go.
fn wanted(
    marks: &[Mark],
    rule: &RetentionRule,
    now_ms: i64,
    bytes_above: impl Fn(&Offsets) -> Result<u64>,
) -> Result<usize> {
    let older = |ms: i64| marks.partition_point(|m| m.at_ms <= now_ms.saturating_sub(ms));
    let aged = rule.age_ms.map_or(0, older);
    let mut large = 0;
    if let Some(size) = rule.size_bytes {
        let mut stays = bytes_above(&Offsets::default())?;
        for mark in marks {
            if stays <= size {
                break;
            }
            stays = bytes_above(&mark.end)?;
            large += 1;
        }
    }
    Ok(aged.max(large).min(older(rule.keep_ms)))
}

/// Why facts below a mark can't go yet, if they can't.
fn keeps(
    masters: &[(&str, MasterPin)],
    steps: &[(String, Offsets)],
    at: &Offsets,
) -> Result<Option<String>> {
    if let Some((step, upto)) = steps.iter().find(|(_, upto)| !upto.covers(at)) {
        return Ok(Some(format!(
            "step `{step}` has made facts of those up to [{upto}] only; run a daemon, and see `anabranch status`"
        )));
    }
    for (view, pin) in masters {
        if !pin.boundary.covers(at) && !planted("planted-low-above-a-boundary") {
            return Ok(Some(format!(
                "view `{view}` has absorbed facts up to [{}] only; run `anabranch batch refresh {view}`",
                pin.boundary
            )));
        }
        if !pin.is_edge(at)? && !planted("planted-low-above-a-boundary") {
            return Ok(Some(format!(
                "a run of view `{view}` crosses [{at}]; run `anabranch batch rebuild {view}`"
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
