//! Which parts the generations of a view play: one answers, one may be built in its shadow, one may be
//! kept fresh for a roll-back. Owns how a cut-over and a roll-back change them; each is one entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Catalogue, Entry, GenerationEntry, ViewEntry, several};
use crate::settings::RunSettings;
use crate::view::Definition;
use crate::{Error, Generation, Offsets, Result};

/// The part that a generation plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It answers.
    Live,
    /// It is built beside the live one.
    Candidate,
    /// It answered until a while ago, and is kept fresh.
    Previous,
}

impl Role {
    /// Every part.
    pub const ALL: [Self; 3] = [Self::Live, Self::Candidate, Self::Previous];

    /// The schema in which queries find generations that play it; none for the one that answers.
    pub fn schema(self) -> Option<&'static str> {
        match self {
            Self::Live => None,
            Self::Candidate => Some("candidate"),
            Self::Previous => Some("previous"),
        }
    }

    /// The name in queries of the generation of a view that plays it.
    pub fn relation(self, view: &str) -> String {
        match self.schema() {
            None => view.to_owned(),
            Some(schema) => format!("{schema}.{view}"),
        }
    }
}

/// A generation that is built beside the one that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The generation.
    pub entry: GenerationEntry,
    /// The generation that answered when it was begun; it takes the place of no other.
    pub instead_of: Option<Generation>,
    /// The plan that it belongs to.
    pub plan: String,
    /// When it was begun, in milliseconds since 1970.
    pub begun_at_ms: i64,
    /// Who began it.
    pub by: String,
    /// What it was stopped by when it was last compared, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
}

/// A gate that a candidate did not keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// The gate as it was: another one has not been asked.
    pub gate: String,
    /// The limits that were broken, each in a few words.
    pub by: Vec<String>,
}

/// A generation that is kept fresh for a roll-back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// The generation.
    pub entry: GenerationEntry,
    /// Until when it is kept, in milliseconds since 1970.
    pub until_ms: i64,
}

/// What made a generation answer in the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// A candidate was cut over to.
    CutOver,
    /// The previous generation answers again.
    RollBack,
}

/// How the generation that answers came to do so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    /// The number of the catalogue's entry that did it.
    pub entry: u64,
    /// What was done.
    pub act: Act,
    /// The generation that answered before.
    pub from: Generation,
    /// The generation that answers since.
    pub to: Generation,
    /// What it computes.
    pub sql: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who did it.
    pub by: String,
    /// Why, as they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The name that the view had until then, under which the generation before answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_from: Option<String>,
    /// What the two differed in, and up to where that was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
}

/// What two generations differed in when one took the other's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// The offsets at which they were compared; what landed after them was not.
    pub head: Offsets,
    /// The differences in a few words.
    pub summary: String,
}

/// One view's part of a cut-over.
#[derive(Clone, Debug)]
pub struct CutOverOf {
    /// The view.
    pub view: String,
    /// The generation that answers now.
    pub from: Option<Generation>,
    /// The name under which that one answers, where it is another one: it is dropped then.
    pub moved_from: Option<String>,
    /// The one that is to.
    pub to: GenerationEntry,
    /// Up to where that one was built.
    pub boundary: Offsets,
    /// Until when the one that answers now is kept, in milliseconds since 1970; not at all where none.
    pub keep_until_ms: Option<i64>,
    /// What the two differed in.
    pub judged: Option<Judged>,
}

impl CutOverOf {
    /// A cut-over to a generation that was built up to `boundary`, after which nothing is kept of the
    /// one that answered.
    pub fn new(
        view: &str,
        from: Option<Generation>,
        to: GenerationEntry,
        boundary: Offsets,
    ) -> Self {
        Self {
            view: view.to_owned(),
            from,
            moved_from: None,
            to,
            boundary,
            keep_until_ms: None,
            judged: None,
        }
    }
}

/// Who changes what answers, when and why.
#[derive(Clone, Debug, Default)]
pub struct Doer {
    /// Their name, for people.
    pub by: String,
    /// Why, as they said.
    pub message: Option<String>,
    /// The time, in milliseconds since 1970.
    pub at_ms: i64,
}

impl ViewEntry {
    /// The generation that plays a part.
    pub fn of_role(&self, role: Role) -> Option<&GenerationEntry> {
        match role {
            Role::Live => self.live.as_ref(),
            Role::Candidate => self.candidate.as_ref().map(|c| &c.entry),
            Role::Previous => self.previous.as_ref().map(|p| &p.entry),
        }
    }

    /// The generations that play a part, that which answers first.
    pub fn roles(&self) -> impl Iterator<Item = (Role, &GenerationEntry)> {
        let of = |role| Some((role, self.of_role(role)?));
        Role::ALL.into_iter().filter_map(of)
    }

    /// Whether only versions that know of parts may read the entry.
    pub(super) fn has_roles(&self) -> bool {
        self.candidate.is_some() || self.previous.is_some() || self.came.is_some()
    }
}

/// A generation that queries may name.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The view.
    pub view: &'a str,
    /// The part that it plays.
    pub role: Role,
    /// The generation.
    pub entry: &'a GenerationEntry,
}

impl Named<'_> {
    /// Its name in queries.
    pub fn relation(&self) -> String {
        self.role.relation(self.view)
    }
}

impl Entry {
    /// All generations that play a part.
    pub fn generations(&self) -> impl Iterator<Item = Named<'_>> {
        self.views.iter().flat_map(|(view, known)| {
            let named = move |(role, entry)| Named { view, role, entry };
            known.roles().map(named)
        })
    }

    /// The generation that a query names: `view`, `candidate.view`, `previous.view`, or `g7.view` for
    /// whichever of them is the seventh.
    pub fn named(&self, relation: &str) -> Option<Named<'_>> {
        let (schema, view) = match relation.split_once('.') {
            Some((schema, view)) => (Some(schema), view),
            None => (None, relation),
        };
        let (view, known) = self.views.get_key_value(view)?;
        let number = numbered(relation).map(|(number, _)| number);
        let is_meant = |role: Role, entry: &GenerationEntry| {
            role.schema() == schema || number == Some(entry.generation)
        };
        let (role, entry) = known.roles().find(|(role, entry)| is_meant(*role, entry))?;
        Some(Named { view, role, entry })
    }
}

/// The number and the view of a relation such as `g7.view`.
pub fn numbered(relation: &str) -> Option<(Generation, &str)> {
    let (schema, view) = relation.split_once('.')?;
    let digits = schema.strip_prefix('g')?;
    let is_number = digits.bytes().all(|b| b.is_ascii_digit());
    let number = digits.parse().ok().filter(|_| is_number)?;
    Some((Generation(number), view))
}

/// Whether queries find generations in a schema of this name.
pub fn is_schema_of_generations(schema: &str) -> bool {
    let mut roles = Role::ALL.iter().filter_map(|role| role.schema());
    roles.any(|of_role| of_role == schema) || numbered(&format!("{schema}.")).is_some()
}

impl Catalogue {
    /// Notes generations that are built beside those that answer, all in one entry. Who has been a
    /// candidate until now is none any more.
    ///
    /// # Errors
    /// `Conflict` where another generation answers than the one in whose place a candidate is to come.
    pub async fn note_candidates(&self, candidates: &[(String, Candidate)]) -> Result<Arc<Entry>> {
        let names = candidates.iter().map(|(view, _)| view.as_str());
        let what = format!("candidates of {}", several("", names));
        self.change(&what, |entry| {
            let mut next = entry.clone();
            for (view, candidate) in candidates {
                let known = next.views.get_mut(view).ok_or_else(|| moved(view))?;
                let live = known.live.as_ref().map(|l| l.generation);
                if live != candidate.instead_of {
                    return Err(moved(view));
                }
                known.candidate = Some(candidate.clone());
            }
            Ok((next != *entry).then_some(next))
        })
        .await
    }

    /// Notes what a candidate was stopped by, or that it was not. One of another generation than is named
    /// stays as it is.
    pub async fn note_stopped(
        &self,
        view: &str,
        generation: Generation,
        stopped: Option<&Stopped>,
    ) -> Result<Arc<Entry>> {
        let what = format!("candidate of {view} compared");
        self.change(&what, |entry| {
            let mut next = entry.clone();
            let candidate = next.views.get_mut(view).and_then(|v| v.candidate.as_mut());
            if let Some(candidate) = candidate.filter(|c| c.entry.generation == generation) {
                candidate.stopped = stopped.cloned();
            }
            Ok((next != *entry).then_some(next))
        })
        .await
    }

    /// Gives up candidates; what was built of them goes once its grace is over. One of another
    /// generation than is named stays.
    pub async fn drop_candidates(
        &self,
        candidates: &BTreeMap<String, Generation>,
    ) -> Result<Arc<Entry>> {
        let names = candidates.keys().map(String::as_str);
        let what = format!("give up candidates of {}", several("", names));
        self.change(&what, |entry| {
            let mut next = entry.clone();
            for (view, generation) in candidates {
                let known = next.views.get_mut(view);
                if let Some(known) = known
                    && known.candidate.as_ref().map(|c| c.entry.generation) == Some(*generation)
                {
                    known.candidate = None;
                }
            }
            Ok((next != *entry).then_some(next))
        })
        .await
    }

    /// Makes generations of several views the ones that answer, all in one entry, each where the one
    /// that it names as its predecessor still does.
    ///
    /// # Errors
    /// `Conflict` where another process has cut a view over or dropped it meanwhile, or where retention
    /// has removed facts past a boundary: nothing is changed then.
    pub async fn cut_over_all(&self, changes: &[CutOverOf], doer: &Doer) -> Result<Arc<Entry>> {
        fail::fail_point!("cut-over-before-entry");
        let to = |c: &CutOverOf| format!("{} to generation {}", c.view, c.to.generation);
        let names: Vec<String> = changes.iter().map(to).collect();
        let what = format!("cut over {}", several("", names.iter().map(String::as_str)));
        let changed = self.change(&what, |entry| {
            let is_done = |c: &CutOverOf| {
                let known = entry.views.get(&c.view);
                let live = known.and_then(|v| v.live.as_ref());
                live.is_some_and(|l| l.generation == c.to.generation)
            };
            // An earlier attempt of ours, which was not answered.
            if changes.iter().all(is_done) {
                return Ok(None);
            }
            let mut next = entry.clone();
            for change in changes {
                let number = entry.number + 1;
                cut_over_in(&mut next, change, Act::CutOver, number, doer)?;
            }
            Ok(Some(next))
        });
        let entry = changed.await?;
        fail::fail_point!("cut-over-after-entry");
        Ok(entry)
    }

    /// Makes the previous generation of a view the one that answers again; the one that does now
    /// becomes the previous one, kept until then. `boundary` is up to where it reaches.
    ///
    /// # Errors
    /// `NotFound` where none is kept, `Conflict` as [`Catalogue::cut_over_all`].
    pub async fn roll_back(
        &self,
        view: &str,
        to: Generation,
        boundary: &Offsets,
        keep_until_ms: i64,
        doer: &Doer,
    ) -> Result<Arc<Entry>> {
        fail::fail_point!("cut-over-before-entry");
        let what = format!("roll {view} back to generation {to}");
        let changed = self.change(&what, |entry| {
            let known = entry.views.get(view).ok_or_else(|| moved(view))?;
            let live = known.live.as_ref().map(|l| l.generation);
            if live == Some(to) {
                return Ok(None);
            }
            let previous = known.previous.as_ref().map(|p| &p.entry);
            let previous = previous.filter(|p| p.generation == to);
            let change = CutOverOf {
                view: view.to_owned(),
                from: live,
                moved_from: None,
                to: previous.ok_or_else(|| moved(view))?.clone(),
                boundary: boundary.clone(),
                keep_until_ms: Some(keep_until_ms),
                judged: None,
            };
            let mut next = entry.clone();
            cut_over_in(&mut next, &change, Act::RollBack, entry.number + 1, doer)?;
            Ok(Some(next))
        });
        let entry = changed.await?;
        fail::fail_point!("cut-over-after-entry");
        Ok(entry)
    }

    /// Notes that generations which answer are written otherwise now and compute the same, all in one
    /// entry.
    ///
    /// # Errors
    /// `Conflict` where another generation answers.
    pub async fn note_definitions(
        &self,
        definitions: &[(String, Generation, Definition)],
    ) -> Result<Arc<Entry>> {
        let names = definitions.iter().map(|(view, ..)| view.as_str());
        let what = format!("other words for {}", several("", names));
        self.change(&what, |entry| {
            let mut next = entry.clone();
            for (view, generation, definition) in definitions {
                let live = next.views.get_mut(view).and_then(|v| v.live.as_mut());
                let live = live.filter(|l| l.generation == *generation);
                live.ok_or_else(|| moved(view))?.definition = definition.clone();
            }
            Ok((next != *entry).then_some(next))
        })
        .await
    }

    /// Notes how views are run from now on, all in one entry. A view that is gone is left out.
    pub async fn note_run(&self, views: &BTreeMap<String, RunSettings>) -> Result<Arc<Entry>> {
        let names = views.keys().map(String::as_str);
        let what = format!("settings of {}", several("", names));
        self.change(&what, |entry| {
            let mut next = entry.clone();
            for (view, run) in views {
                if let Some(known) = next.views.get_mut(view) {
                    known.run = Some(run.clone());
                }
            }
            Ok((next != *entry).then_some(next))
        })
        .await
    }

    /// Ends that a view's previous generation is kept, where it still is the one.
    pub async fn retire_previous(&self, view: &str, generation: Generation) -> Result<Arc<Entry>> {
        let what = format!("generation {generation} of {view} is not kept any more");
        self.change(&what, |entry| {
            let mut next = entry.clone();
            let known = next.views.get_mut(view);
            let is_it = |p: &Previous| p.entry.generation == generation;
            if let Some(known) = known
                && known.previous.as_ref().is_some_and(is_it)
            {
                known.previous = None;
            }
            Ok((next != *entry).then_some(next))
        })
        .await
    }
}

/// Drops a view in an entry. Returns whether it was there.
pub(super) fn drop_in(next: &mut Entry, view: &str) -> bool {
    let known = next.views.remove(view);
    let dropped = known.map(|known| next.dropped.insert(view.to_owned(), known.last_generation));
    dropped.is_some()
}

fn moved(view: &str) -> Error {
    Error::Conflict(format!(
        "view `{view}` was cut over or dropped by another process meanwhile; run the command again"
    ))
}

/// Changes what answers in an entry, whose number is given.
fn cut_over_in(
    next: &mut Entry,
    change: &CutOverOf,
    act: Act,
    number: u64,
    doer: &Doer,
) -> Result<()> {
    let (view, to) = (change.view.as_str(), &change.to);
    let topic = &to.definition.topic.name;
    let low = next.topics.get(topic).map(|t| t.low.clone());
    if let Some(low) = low.filter(|low| !change.boundary.covers(low)) {
        return Err(Error::Conflict(format!(
            "view `{view}`: what was built reaches to [{}], retention of topic `{topic}` has removed facts up to [{low}] meanwhile; run the command again",
            change.boundary
        )));
    }
    let answers = change.moved_from.as_deref().unwrap_or(view);
    let former = next.views.get(answers).ok_or_else(|| moved(answers))?;
    if former.live.as_ref().map(|l| l.generation) != change.from {
        return Err(moved(answers));
    }
    if answers != view {
        drop_in(next, answers);
    }
    let known = next.views.get_mut(view).ok_or_else(|| moved(view))?;
    if answers != view && known.live.is_some() {
        return Err(moved(view));
    }
    let before = known.live.replace(to.clone());
    known.previous = before
        .zip(change.keep_until_ms)
        .map(|(entry, until_ms)| Previous { entry, until_ms });
    // What was built to take the place of the former one takes that of no other.
    known.candidate = None;
    // The first to answer has taken nobody's place.
    known.came = change.from.map(|from| Succession {
        entry: number,
        act,
        from,
        to: to.generation,
        sql: to.definition.sql.clone(),
        at_ms: doer.at_ms,
        by: doer.by.clone(),
        message: doer.message.clone(),
        moved_from: change.moved_from.clone(),
        judged: change.judged.clone(),
    });
    Ok(())
}
