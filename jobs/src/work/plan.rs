//! What would change between the project and what runs, why, and what that would cost. Reads only.

use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::settings::ViewSettings;
use anabranch_shared::view::{Difference, StatesDiffer, View};
use anabranch_shared::{
    Candidate, Entry, Error, Generation, GenerationEntry, Log, Master, Named, Offsets, Result,
    Role, Topic, counted,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use similar::TextDiff;

use crate::clock::now_us;
use crate::project::context::Context;
use crate::project::job_history::LastRows;
use crate::work::build::{Build, parent_start, parent_states};
use crate::work::judge::check_gate;

pub mod text;

/// How far back the jobs lie whose rate is taken for what a build will take.
const RATE_OF: Duration = Duration::from_secs(90 * 24 * 3_600);

/// What is to be done with a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing: what it computes is what runs.
    Nothing,
    /// The text is noted; nothing is built.
    Note,
    /// A generation is made of the states that answer now, and no fact is read.
    Copy,
    /// A generation is made from the log.
    Build,
    /// The view is declared, and built from the log.
    First,
    /// It stops answering, and its files go.
    Drop,
    /// Nothing can be done; why is told.
    Refused,
}

/// What would become of a view.
#[derive(Clone, Debug, Serialize)]
pub struct ViewChange {
    /// The view.
    pub view: String,
    /// What is to be done.
    pub action: Action,
    /// Why, each in a few words.
    pub why: Vec<String>,
    /// The name under which it answers until then, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_from: Option<String>,
    /// The generation that answers.
    pub live: Option<Generation>,
    /// The generation that was built for this already, and is gone on with.
    pub candidate: Option<Generation>,
    /// The limits of its gate that this one broke when it was last compared, each in a few words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stopped_by: Vec<String>,
    /// In what it is run otherwise, each in a few words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<String>,
    /// How the SQL differs, line by line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// Facts that are read.
    pub facts: u64,
    /// Bytes of the log's files that are read.
    pub bytes: u64,
    /// How long that takes by the rate of past builds, in seconds; none where there were none.
    pub seconds: Option<f64>,
    /// Bytes of storage that the former generation takes while it is kept.
    pub keeps_bytes: u64,
    /// How long it is kept, in seconds; not at all where none.
    pub keeps_for: Option<f64>,
}

impl ViewChange {
    /// Whether there is something to do.
    pub fn is_change(&self) -> bool {
        self.action != Action::Nothing
    }

    /// The name under which it answers until then.
    pub fn former(&self) -> &str {
        self.moved_from.as_deref().unwrap_or(&self.view)
    }

    /// Whether a generation is made that takes another's place.
    pub fn is_candidate(&self) -> bool {
        matches!(self.action, Action::Copy | Action::Build)
    }
}

/// What would become of a topic.
#[derive(Clone, Debug, Serialize)]
pub struct TopicChange {
    /// The topic.
    pub topic: String,
    /// What changes, in a few words.
    pub why: String,
    /// Whether it can't be done.
    pub refused: bool,
}

/// What would change.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// What tells this plan from others: that of what runs, of the project, and of what is refused.
    pub id: String,
    /// The catalogue's entry that it was made of.
    pub entry: u64,
    /// Topics that change.
    pub topics: Vec<TopicChange>,
    /// All views of the project, and those that would go.
    pub views: Vec<ViewChange>,
}

impl Plan {
    /// Whether there is something to do.
    pub fn has_changes(&self) -> bool {
        !self.topics.is_empty() || self.views.iter().any(ViewChange::is_change)
    }

    /// What can't be done.
    pub fn refusals(&self) -> Vec<String> {
        let topics = self.topics.iter().filter(|t| t.refused);
        let topics = topics.map(|t| format!("topic `{}`: {}", t.topic, t.why));
        let views = self.views.iter().filter(|v| v.action == Action::Refused);
        let views = views.map(|v| format!("view `{}`: {}", v.view, v.why.join("; ")));
        topics.chain(views).collect()
    }
}

/// Looks at what would change, of all views or of those that are named.
///
/// # Errors
/// `NotFound` for a name that neither the project nor the catalogue knows.
pub async fn plan(context: &Context, names: &[String]) -> Result<Plan> {
    context.catalogue.refresh().await?;
    let entry = context.catalogue.current();
    let settings = &context.project.views;
    let gone = entry
        .views
        .iter()
        .filter(|(name, known)| known.live.is_some() && !settings.iter().any(|v| v.name == **name));
    let gone = gone.map(|(name, _)| name);
    let gone: Vec<&String> = gone
        .filter(|name| context.takes_place_of(name).is_none())
        .collect();
    for name in names {
        if !settings.iter().any(|v| v.name == *name) && !gone.contains(&name) {
            let known = settings.iter().map(|v| &v.name).chain(gone);
            return Err(crate::project::context::no_view(name, known));
        }
    }
    let is_meant = |name: &String| names.is_empty() || names.contains(name);
    let rate = rate(context).await?;
    let mut views = Vec::new();
    for settings in settings.iter().filter(|v| is_meant(&v.name)) {
        views.push(view_change(context, &entry, settings, rate).await?);
    }
    for name in gone.into_iter().filter(|name| is_meant(name)) {
        let live = entry.views.get(name).and_then(|v| v.live.as_ref());
        views.push(ViewChange {
            live: live.map(|l| l.generation),
            ..change(name, Action::Drop, vec!["not in the project".to_owned()])
        });
    }
    // What is made of the states of others comes after them.
    views.sort_by_key(|change| context.depth_of(&change.view));
    let topics = topic_changes(context, &entry);
    Ok(Plan {
        id: id_of(context, &entry, &topics, &views),
        entry: entry.number,
        topics,
        views,
    })
}

fn change(view: &str, action: Action, why: Vec<String>) -> ViewChange {
    ViewChange {
        view: view.to_owned(),
        action,
        why,
        moved_from: None,
        live: None,
        candidate: None,
        stopped_by: Vec::new(),
        settings: Vec::new(),
        sql: None,
        facts: 0,
        bytes: 0,
        seconds: None,
        keeps_bytes: 0,
        keeps_for: None,
    }
}

fn topic_changes(context: &Context, entry: &Entry) -> Vec<TopicChange> {
    let mut changes = Vec::new();
    for settings in &context.project.topics {
        let topic = Topic::from_settings(settings);
        let (why, refused) = match entry.topics.get(&topic.name) {
            None => ("new".to_owned(), false),
            Some(known) if known.topic.check_evolves_from(&topic).is_ok() => continue,
            Some(known) => match topic.check_evolves_from(&known.topic) {
                Err(e) => (e.to_string(), true),
                Ok(()) => {
                    let more = topic.fields.iter().skip(known.topic.fields.len());
                    let more: Vec<String> = more.map(|f| format!("`{}`", f.name)).collect();
                    let used = used_by(context, &topic, known.topic.fields.len());
                    (format!("field {} added{used}", more.join(", ")), false)
                }
            },
        };
        changes.push(TopicChange {
            topic: topic.name,
            why,
            refused,
        });
    }
    changes
}

/// Says where no view reads any of a topic's fields from one on.
fn used_by(context: &Context, topic: &Topic, from: usize) -> &'static str {
    let new: Vec<&str> = topic.fields[from..]
        .iter()
        .map(|f| f.name.as_str())
        .collect();
    let reads = |settings: &ViewSettings| {
        let view = context.compile(settings).ok();
        view.is_some_and(|view| {
            let fields = view.fact_schema().fields();
            view.topic().name == topic.name
                && fields.iter().any(|f| new.contains(&f.name().as_str()))
        })
    };
    match context.project.views.iter().any(reads) {
        true => "",
        false => ", not used by a view",
    }
}

async fn view_change(
    context: &Context,
    entry: &Entry,
    settings: &ViewSettings,
    rate: Option<f64>,
) -> Result<ViewChange> {
    let name = &settings.name;
    let view = match context.compile(settings) {
        Ok(view) => view,
        Err(e) => return Ok(change(name, Action::Refused, vec![e.to_string()])),
    };
    if let Err(e) = check_gate(&settings.gate, &view) {
        return Ok(change(name, Action::Refused, vec![e.to_string()]));
    }
    let moved_from = context.answers_as(settings);
    let answers = moved_from.as_ref().unwrap_or(name);
    let Some(live) = entry.views.get(answers).and_then(|v| v.live.as_ref()) else {
        let first = change(name, Action::First, vec!["new".to_owned()]);
        return costs(context, entry, &view, first, rate).await;
    };
    let named = Named {
        view: answers,
        role: Role::Live,
        entry: live,
    };
    let former = match context.generation_view(&named) {
        Ok(former) => Ok(former),
        Err(e @ Error::Conflict(_)) => Err(format!("engine: {e}")),
        Err(e) => return Err(e),
    };
    let (mut action, mut why) = match &former {
        Ok(former) => compared(former, &view)?,
        Err(engine) => (Action::Build, vec![engine.clone()]),
    };
    if moved_from.is_some() {
        why.insert(0, format!("renamed from {answers}"));
        if matches!(action, Action::Nothing | Action::Note) {
            action = Action::Copy;
        }
    }
    let run = context.run_differences(settings);
    if !run.is_empty() && action == Action::Nothing {
        action = Action::Note;
    }
    let sql =
        (action != Action::Nothing).then(|| sql_diff(&live.definition.sql, &view.definition().sql));
    let candidate = candidate_of(entry, name, &view);
    let stopped = candidate.and_then(|c| c.stopped.as_ref());
    let stopped = stopped.filter(|stopped| stopped.gate == gate_text(settings));
    let found = ViewChange {
        moved_from,
        live: Some(live.generation),
        candidate: candidate.map(|c| c.entry.generation),
        stopped_by: stopped.map_or_else(Vec::new, |stopped| stopped.by.clone()),
        settings: run,
        sql: sql.filter(|text| !text.is_empty()),
        ..change(name, action, why)
    };
    if !found.is_candidate() {
        return Ok(found);
    }
    let found = costs(context, entry, &view, found, rate).await?;
    with_past(context, live, former.ok().as_ref(), &view, found).await
}

/// The same with what becomes of the facts that retention has removed.
async fn with_past(
    context: &Context,
    live: &GenerationEntry,
    former: Option<&Arc<View>>,
    view: &Arc<View>,
    mut found: ViewChange,
) -> Result<ViewChange> {
    if found.action != Action::Build {
        return Ok(found);
    }
    let log = context.log(&view.topic().name).await?;
    let removed = counted(log.removed_facts(), "fact", "facts");
    match past_of(live, former, view, &log)? {
        Past::Whole => {}
        Past::Taken(lacks) => found.why.push(format!(
            "retention has removed {removed}, up to [{}]: what they came to is taken from the states that answer, and {} from there on alone",
            log.low(),
            match lacks.as_slice() {
                [one] => format!("`{one}` counts"),
                more => format!("`{}` count", more.join("`, `")),
            }
        )),
        Past::Lost => {
            found.why.push(format!(
                "retention has removed {removed} that it would need, up to [{}]; `anabranch apply --from-low` builds it from there on, and what was before is lost",
                log.low()
            ));
            found.action = Action::Refused;
        }
    }
    Ok(found)
}

/// The candidate of a view that was built for what the project says now, in the place of what answers
/// now.
pub(crate) fn candidate_of<'e>(entry: &'e Entry, name: &str, view: &View) -> Option<&'e Candidate> {
    let known = entry.views.get(name)?;
    let candidate = known.candidate.as_ref()?;
    let live = known.live.as_ref().map(|l| l.generation);
    let is_it = candidate.instead_of == live && view.is_of(&candidate.entry.definition);
    is_it.then_some(candidate)
}

/// A view's gate, as what it has stopped notes it.
pub(crate) fn gate_text(settings: &ViewSettings) -> String {
    format!("{:?}", settings.gate)
}

/// What is to be done to come from one definition to another, and why.
fn compared(former: &Arc<View>, later: &Arc<View>) -> Result<(Action, Vec<String>)> {
    Ok(match former.difference(later)? {
        Difference::None => (Action::Nothing, Vec::new()),
        Difference::Formatting => (Action::Note, vec!["formatting only".to_owned()]),
        Difference::Wording => (
            Action::Note,
            vec!["written otherwise, computes the same".to_owned()],
        ),
        Difference::Above => (Action::Copy, vec!["logic above the aggregation".to_owned()]),
        Difference::States(states) => {
            let taken = later.states_taken(former)?;
            let action = match taken.is_some_and(|taken| taken.lacks().is_empty()) {
                true => Action::Copy,
                false => Action::Build,
            };
            (action, reasons(&states))
        }
    })
}

fn reasons(states: &StatesDiffer) -> Vec<String> {
    let mut why = Vec::new();
    if let Some((before, after)) = &states.topic {
        why.push(format!("reads topic {after} instead of {before}"));
    }
    let mut both = |what: &str, [before, after]: &[Vec<String>; 2]| {
        let plain = |terms: &[String]| terms.join(", ");
        match (before.is_empty(), after.is_empty()) {
            (true, true) => {}
            (true, false) => why.push(format!("{what} added: {}", plain(after))),
            (false, true) => why.push(format!("{what} dropped: {}", plain(before))),
            (false, false) => why.push(format!(
                "{what} changed: {} → {}",
                plain(before),
                plain(after)
            )),
        }
    };
    both("filter", &states.filters);
    both("keys", &states.keys);
    both("columns", &states.columns);
    if !states.references.is_empty() {
        why.push(format!("other rows of {}", states.references.join(", ")));
    }
    if let (true, Some((before, after))) = (why.is_empty(), &states.form) {
        why.push(match before == after {
            true => "keys or columns in another order".to_owned(),
            false => format!("form of the states: {before} → {after}"),
        });
    }
    why
}

/// The lines of a text that go and come, in the form of `diff`, with those beside them.
fn sql_diff(before: &str, after: &str) -> String {
    let (before, after) = (
        format!("{}\n", before.trim()),
        format!("{}\n", after.trim()),
    );
    let diff = TextDiff::from_lines(&before, &after);
    diff.unified_diff().context_radius(1).to_string()
}

/// The same with what it costs to make the generation, and to keep the former one.
async fn costs(
    context: &Context,
    entry: &Entry,
    view: &Arc<View>,
    found: ViewChange,
    rate: Option<f64>,
) -> Result<ViewChange> {
    let name = view.name();
    let mut found = found;
    if let Some(live) = found.live {
        if found.moved_from.is_none() {
            let pin = Master::look(&context.storage, name, live).await?;
            let sizes = pin.files.iter().filter_map(|f| u64::try_from(f.size).ok());
            found.keeps_bytes = sizes.sum();
            let settings = context.project.views.iter().find(|v| v.name == name);
            let keeps = settings.and_then(|s| s.keep_previous);
            found.keeps_for = keeps.map(|d| d.as_secs_f64());
        }
        if found.action == Action::Copy {
            return Ok(found);
        }
    }
    if !entry.topics.contains_key(&view.topic().name) {
        return Ok(found);
    }
    let log = context.log(&view.topic().name).await?;
    let start = match found.action {
        Action::First => parent_start(context, name).unwrap_or_default(),
        _ => log.low(),
    };
    let parent = parent_states(context, view, &start).await?;
    if let Some(parent) = &parent {
        let of = parent.view().name();
        found.why.push(format!("made of the states of `{of}`"));
    }
    let from = match found.candidate {
        // What was built already is not built again.
        Some(candidate) => {
            Master::look(&context.storage, name, candidate)
                .await?
                .boundary
        }
        None => parent.map_or(Offsets::default(), |parent| parent.boundary()),
    };
    (found.facts, found.bytes) = left_to_read(&log, &from)?;
    found.seconds = rate.map(|rate| found.facts as f64 / rate);
    Ok(found)
}

/// Facts of a log past some offsets, and the bytes of their files.
fn left_to_read(log: &Log, from: &Offsets) -> Result<(u64, u64)> {
    let (low, head) = (log.low(), log.head());
    let mut from = from.clone();
    low.iter().for_each(|(p, o)| from.raise(p, o));
    let files = log.files_between(&from, &head)?;
    let facts = files.iter().filter_map(|f| f.add.rows()).sum();
    let bytes = files
        .iter()
        .filter_map(|f| u64::try_from(f.add.size).ok())
        .sum();
    Ok((facts, bytes))
}

/// What a generation that is built anew has of the facts which retention has removed.
pub(crate) enum Past {
    /// None is missing.
    Whole,
    /// The states that answer have what they came to, but for some columns.
    Taken(Vec<String>),
    /// Nothing.
    Lost,
}

/// What a later definition has of what the one that answers holds and the log does not.
pub(crate) fn past_of(
    live: &GenerationEntry,
    former: Option<&Arc<View>>,
    later: &Arc<View>,
    log: &Log,
) -> Result<Past> {
    if live.from.covers(&log.low()) {
        return Ok(Past::Whole);
    }
    let taken = former
        .map(|former| later.states_taken(former))
        .transpose()?;
    Ok(match taken.flatten() {
        Some(taken) => Past::Taken(taken.lacks().to_vec()),
        None => Past::Lost,
    })
}

/// Facts a second of past builds; none where there were none.
async fn rate(context: &Context) -> Result<Option<f64>> {
    let back = i64::try_from(RATE_OF.as_micros()).unwrap_or(i64::MAX);
    let mut rows = LastRows::telling_after(now_us().saturating_sub(back));
    rows.follow(&context.storage).await?;
    let (mut facts, mut seconds) = (0.0, 0.0);
    for job in rows.take_ended() {
        let is_build = job.key.1 == Build::Rebuild.name();
        if is_build && job.outcome == "done" && job.facts > 0 {
            facts += job.facts as f64;
            seconds += (job.ended_at - job.started_at) as f64 / 1e6;
        }
    }
    Ok((seconds > 0.0).then_some(facts / seconds))
}

/// What tells a plan from others: it is another where what answers, retention, the project or its gates
/// have changed.
fn id_of(context: &Context, entry: &Entry, topics: &[TopicChange], views: &[ViewChange]) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update(text.len().to_le_bytes());
        hash.update(text);
    };
    for topic in topics {
        add(&format!("{topic:?}"));
    }
    for view in views.iter().filter(|v| v.is_change()) {
        add(&view.view);
        add(&format!("{:?} {:?} {:?}", view.action, view.live, view.why));
        let known = entry.views.get(view.former()).and_then(|v| v.live.as_ref());
        let topic = known.map(|live| &live.definition.topic.name);
        let low = topic
            .and_then(|t| entry.topics.get(t))
            .map(|t| t.low.to_string());
        add(&low.unwrap_or_default());
        if let Some(settings) = context.project.views.iter().find(|v| v.name == view.view) {
            let sql = context.sql_of(settings).unwrap_or_default();
            add(sql.trim());
            add(&format!("{:?}", settings.run()));
        }
    }
    hex::encode(hash.finalize())[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_say_what_changed() {
        let states = StatesDiffer {
            filters: [vec!["n < Int64(3)".into()], vec!["n < Int64(4)".into()]],
            columns: [vec![], vec!["visitors".into(), "shares".into()]],
            form: Some(("a".into(), "b".into())),
            ..StatesDiffer::default()
        };
        assert_eq!(
            reasons(&states),
            [
                "filter changed: n < Int64(3) → n < Int64(4)",
                "columns added: visitors, shares"
            ]
        );
        let form = StatesDiffer {
            form: Some(("count 1".into(), "count 2".into())),
            ..StatesDiffer::default()
        };
        assert_eq!(reasons(&form), ["form of the states: count 1 → count 2"]);
    }

    #[test]
    fn the_difference_of_texts_is_that_of_their_lines() {
        let before = "SELECT a,\n  count(*) AS n\nFROM t\nGROUP BY a\n";
        let after = "SELECT a,\n  count(b) AS n\nFROM t\nGROUP BY a";
        let shown = sql_diff(before, after);
        assert!(
            shown.contains("-  count(*) AS n\n+  count(b) AS n\n"),
            "{shown}"
        );
        assert_eq!(sql_diff(before, before.trim()), "");
    }
}
