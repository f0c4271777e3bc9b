//! Does what a plan says: builds candidates, compares them with what answers, lets gates decide, and cuts
//! all views over in one entry of the catalogue. What an interrupted run has built stays, and the next
//! one goes on with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_batch::{BatchOptions, BatchOutcome, build_up, refresh, take_states};
use anabranch_shared::settings::{GateSettings, ViewSettings};
use anabranch_shared::view::View;
use anabranch_shared::{
    Candidate, CutOverOf, Entry, Error, ErrorKind, FoldProgress, Generation, GenerationEntry, Log,
    Master, Met, Named, Offsets, ReadMode, Result, Role, Stop, Stopped,
};

use crate::clock::{now_ms, now_us};
use crate::project::context::Context;
use crate::project::job_history::{self, JobRecord, peak_memory_bytes};
use crate::project::limits::threads;
use crate::reader::daemon_status::Served;
use crate::reader::local_service::local_service;
use crate::work::build::{
    Build, BuildReport, build_view, drop_view, export_view, take_from_parent,
};
use crate::work::doer::{Why, doer};
use crate::work::history;
use crate::work::judge::{Broken, JudgeOptions, Judged, Judgement, broken, judge};
use crate::work::plan::{Action, Past, Plan, ViewChange, candidate_of, gate_text, past_of};
use crate::work::served;
use crate::work::upkeep;

pub mod whole;

/// How often a candidate is refreshed because what answers was meanwhile.
const CATCH_UP_TRIES: usize = 10;

/// How a plan is done.
#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// Whether views are built also where retention has removed facts that they then lack.
    pub from_low: bool,
    /// Who does it, and why.
    pub why: Why,
    /// Set from outside to stop early.
    pub stop: Arc<AtomicBool>,
    /// What was done so far of the generation that is being built.
    pub progress: Arc<FoldProgress>,
}

/// A generation that was built.
#[derive(Clone, Debug)]
pub struct BuiltCandidate {
    /// The view.
    pub view: String,
    /// The generation.
    pub generation: Generation,
    /// Whether it is an earlier try's that was gone on with.
    pub resumed: bool,
    /// What the build came to.
    pub outcome: BatchOutcome,
    /// How long it took, in microseconds.
    pub took_us: i64,
}

/// A candidate as it was compared with what answers.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The comparison; none where what answers fails, or has other keys.
    pub judged: Option<Judged>,
    /// Why there is none.
    pub not_compared: Option<String>,
    /// Whether there are answers to go back to.
    pub answers: bool,
    /// The limits of the gate that it goes past.
    pub broken: Vec<Broken>,
}

/// Notes views whose words alone have changed. Returns their names.
pub async fn note_words(context: &Context, plan: &Plan) -> Result<Vec<String>> {
    let mut definitions = Vec::new();
    for change in plan.views.iter().filter(|v| v.action == Action::Note) {
        if let Some(live) = change.live {
            let view = context.compile(settings_of(context, &change.view)?)?;
            definitions.push((change.view.clone(), live, view.definition().clone()));
        }
    }
    if !definitions.is_empty() {
        context.catalogue.note_definitions(&definitions).await?;
    }
    Ok(definitions.into_iter().map(|(name, ..)| name).collect())
}

/// Notes how views of a plan are run from now on: those that get no other generation, or those that got
/// one.
pub async fn note_run(context: &Context, plan: &Plan, candidates: bool) -> Result<()> {
    let mut all = BTreeMap::new();
    for change in plan.views.iter().filter(|v| v.is_candidate() == candidates) {
        if matches!(change.action, Action::Note | Action::Copy | Action::Build) {
            let settings = settings_of(context, &change.view)?;
            all.insert(change.view.clone(), settings.run());
        }
    }
    if !all.is_empty() {
        context.catalogue.note_run(&all).await?;
    }
    Ok(())
}

/// Drops the views of a plan that are to go. Returns their names.
pub async fn drop_views(context: &Context, plan: &Plan) -> Result<Vec<String>> {
    let mut dropped = Vec::new();
    for change in plan.views.iter().filter(|v| v.action == Action::Drop) {
        drop_view(context, &change.view).await?;
        dropped.push(change.view.clone());
    }
    Ok(dropped)
}

/// Builds a view of a plan that has not answered until now.
pub async fn build_first(
    context: &Context,
    name: &str,
    options: &ApplyOptions,
) -> Result<BuildReport> {
    let settings = settings_of(context, name)?;
    let entry = context.catalogue.current();
    let answers = entry.views.get(name).is_some_and(|v| v.live.is_some());
    let build = match (answers, options.from_low) {
        (true, _) => Build::Refresh,
        (false, true) => Build::RebuildFromLow,
        (false, false) => Build::Rebuild,
    };
    let (stop, progress) = (&options.stop, &options.progress);
    build_view(context, settings, build, "apply", stop, progress).await
}

pub(crate) fn settings_of<'c>(context: &'c Context, name: &str) -> Result<&'c ViewSettings> {
    let views = &context.project.views;
    let found = views.iter().find(|v| v.name == name);
    found.ok_or_else(|| crate::project::context::no_view(name, views.iter().map(|v| &v.name)))
}

/// Notes which candidates a plan builds, all in one entry, so that clean-up and retention know of them.
/// Those of an earlier try that are of the same definitions are gone on with.
pub async fn begin_candidates(
    context: &Context,
    plan: &Plan,
    options: &ApplyOptions,
) -> Result<()> {
    let entry = context.catalogue.current();
    let mut new: Vec<(Arc<View>, &ViewChange)> = Vec::new();
    for change in plan.views.iter().filter(|v| v.is_candidate()) {
        let view = context.compile(settings_of(context, &change.view)?)?;
        if candidate_of(&entry, &change.view, &view).is_none() {
            new.push((view, change));
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    // Fields that the new definitions read.
    let topics: Vec<_> = new.iter().map(|(view, _)| view.topic().clone()).collect();
    context.catalogue.declare_topics(&topics).await?;
    let names: Vec<&str> = new.iter().map(|(view, _)| view.name()).collect();
    let claimed = context.catalogue.claim_generations(&names).await?;
    let by = doer(&options.why);
    let mut candidates = Vec::new();
    for (view, change) in new {
        let none = || Error::Internal(format!("no generation of `{}`", view.name()));
        let generation = claimed.get(view.name()).copied().ok_or_else(none)?;
        let from = starts_from(context, &entry, &view, change).await?;
        // Its table is there before anybody is told of it.
        Master::open(&context.storage, &view, generation, now_ms()).await?;
        let candidate = Candidate {
            entry: GenerationEntry {
                generation,
                definition: view.definition().clone(),
                from,
            },
            instead_of: change.live.filter(|_| change.moved_from.is_none()),
            plan: plan.id.clone(),
            begun_at_ms: by.at_ms,
            by: by.by.clone(),
            stopped: None,
        };
        candidates.push((view.name().to_owned(), candidate));
    }
    context.catalogue.note_candidates(&candidates).await?;
    Ok(())
}

/// From where on a candidate holds facts: as far back as what answers does where it takes the states that
/// stand for facts which are gone, otherwise as far as the log does.
async fn starts_from(
    context: &Context,
    entry: &Entry,
    view: &Arc<View>,
    change: &ViewChange,
) -> Result<Offsets> {
    let log = context.log(&view.topic().name).await?;
    let live = entry.views.get(change.former());
    let live = live.and_then(|v| v.live.as_ref());
    let Some(live) = live else {
        return Ok(log.low());
    };
    let named = Named {
        view: change.former(),
        role: Role::Live,
        entry: live,
    };
    let takes = match change.action {
        Action::Copy => true,
        _ => {
            let former = context.generation_view(&named).ok();
            let found = past_of(live, former.as_ref(), view, &log)?;
            matches!(found, Past::Taken(_))
        }
    };
    Ok(if takes { live.from.clone() } else { log.low() })
}

/// What a candidate of a view is built of.
struct Opened {
    entry: GenerationEntry,
    live: GenerationEntry,
    master: Arc<Master>,
    log: Arc<Log>,
}

async fn open_candidate(context: &Context, change: &ViewChange) -> Result<Opened> {
    context.catalogue.refresh().await?;
    let (name, entry) = (change.view.as_str(), context.catalogue.current());
    let gone = || {
        Error::Conflict(format!(
            "the candidate of view `{name}` was given up or cut over to by another process meanwhile; run the command again"
        ))
    };
    // One that another process builds for what another project says is none of this plan.
    let meant = context.compile(settings_of(context, name)?)?;
    let candidate = entry.views.get(name).and_then(|v| v.candidate.as_ref());
    let candidate = candidate.filter(|c| meant.is_of(&c.entry.definition));
    let live = entry.views.get(change.former());
    let live = live.and_then(|v| v.live.as_ref()).ok_or_else(gone)?;
    let candidate = candidate.ok_or_else(gone)?;
    let named = Named {
        view: name,
        role: Role::Candidate,
        entry: &candidate.entry,
    };
    let view = context.generation_view(&named)?;
    let generation = candidate.entry.generation;
    let master = Master::open(&context.storage, &view, generation, now_ms()).await?;
    Ok(Opened {
        master: Arc::new(master),
        log: context.log(&view.topic().name).await?,
        entry: candidate.entry.clone(),
        live: live.clone(),
    })
}

/// Builds the candidate of one view until it reaches as far as what answers, and notes that in the
/// history of jobs.
pub async fn build_candidate(
    context: &Context,
    change: &ViewChange,
    options: &ApplyOptions,
) -> Result<BuiltCandidate> {
    let started_at = now_us();
    let built = build_one(context, change, options).await;
    let ended_at = now_us().max(started_at);
    let mut record = JobRecord {
        view: change.view.clone(),
        job: Build::Rebuild.name(),
        trigger: "apply".to_owned(),
        started_at,
        ended_at,
        outcome: "done",
        peak_memory_bytes: peak_memory_bytes(),
        ..Default::default()
    };
    match &built {
        Ok((_, outcome, _)) => {
            record.facts = i64::try_from(outcome.facts).unwrap_or(i64::MAX);
            record.bytes = i64::try_from(outcome.bytes).unwrap_or(i64::MAX);
        }
        Err(e) => {
            record.outcome = match options.stop.load(Ordering::Relaxed) {
                true => "stopped",
                false => "failed",
            };
            record.error = Some(e.to_string());
        }
    }
    if let Err(e) = job_history::record(&context.storage, &context.project, &record).await {
        tracing::warn!(error = %e, "could not write the history of jobs");
    }
    let (generation, outcome, resumed) = built?;
    Ok(BuiltCandidate {
        view: change.view.clone(),
        generation,
        resumed,
        outcome,
        took_us: ended_at - started_at,
    })
}

async fn build_one(
    context: &Context,
    change: &ViewChange,
    options: &ApplyOptions,
) -> Result<(Generation, BatchOutcome, bool)> {
    let Opened {
        entry,
        live,
        master,
        log,
    } = open_candidate(context, change).await?;
    let (action, former) = (change.action, change.former());
    let resumed = master.boundary() != Offsets::default();
    let batch = BatchOptions {
        // A difference is then what the edit makes alone.
        like: Arc::new(met_by(context, former, live.generation).await?),
        ..batch_options(context, options)
    };
    let low = log.low();
    // What the log does not hold any more, and the candidate does.
    let below = (action != Action::Copy).then_some(&low);
    let takes = below.is_none() || !entry.from.covers(&low);
    let mut outcome = BatchOutcome::default();
    if takes && !resumed {
        let named = Named {
            view: former,
            role: Role::Live,
            entry: &live,
        };
        let view = context.generation_view(&named)?;
        let from = Master::open(&context.storage, &view, live.generation, now_ms()).await?;
        outcome = take_states(&from, &master, below, now_ms()).await?;
    }
    if action == Action::Build {
        take_from_parent(context, &master, &entry.from).await?;
    }
    if action != Action::Copy {
        outcome = build_up(&master, &log, &log.head(), &batch, now_ms).await?;
    }
    outcome.boundary = catch_up(context, (former, &live), &master, &log, &batch).await?;
    Ok((entry.generation, outcome, resumed))
}

/// Which rows of references the facts of a generation met.
async fn met_by(context: &Context, view: &str, generation: Generation) -> Result<Met> {
    let held = Master::look(&context.storage, view, generation).await?;
    let mut met = Met::default();
    for file in &held.files {
        met.extend(&file.met()?);
    }
    Ok(met)
}

pub(crate) fn batch_options(context: &Context, options: &ApplyOptions) -> BatchOptions {
    let build = &context.project.build;
    BatchOptions {
        like: Default::default(),
        threads: threads(build.threads),
        memory_bytes: build.memory_bytes,
        stop: options.stop.clone(),
        progress: options.progress.clone(),
    }
}

/// Refreshes a candidate until its boundary covers that of what answers. Returns its boundary.
async fn catch_up(
    context: &Context,
    (name, live): (&str, &GenerationEntry),
    master: &Arc<Master>,
    log: &Arc<Log>,
    batch: &BatchOptions,
) -> Result<Offsets> {
    let quiet = BatchOptions {
        progress: Arc::default(),
        ..batch.clone()
    };
    for _ in 0..CATCH_UP_TRIES {
        let held = Master::look(&context.storage, name, live.generation).await?;
        if master.boundary().covers(&held.boundary) {
            return Ok(master.boundary());
        }
        log.refresh().await?;
        match refresh(master, log, &log.head(), &quiet, now_ms).await {
            Ok(_) | Err(Error::Fenced { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Error::Conflict(format!(
        "view `{name}`: what answers is refreshed faster than its candidate; run the command again"
    )))
}

/// Compares the candidate of a view with what answers, both at the same offsets, and notes where its gate
/// stops it.
pub async fn verdict(
    context: &Context,
    change: &ViewChange,
    options: &ApplyOptions,
) -> Result<Verdict> {
    let found = compared(context, change, options).await?;
    let settings = settings_of(context, &change.view)?;
    let entry = context.catalogue.current();
    let known = entry
        .views
        .get(&change.view)
        .and_then(|v| v.candidate.as_ref());
    if let Some(candidate) = known {
        let by: Vec<String> = found.broken.iter().map(Broken::text).collect();
        let stopped = (!by.is_empty()).then(|| Stopped {
            gate: gate_text(settings),
            by,
        });
        let (view, generation) = (&change.view, candidate.entry.generation);
        let noting = context
            .catalogue
            .note_stopped(view, generation, stopped.as_ref());
        noting.await?;
    }
    Ok(found)
}

async fn compared(
    context: &Context,
    change: &ViewChange,
    options: &ApplyOptions,
) -> Result<Verdict> {
    let (name, former) = (change.view.as_str(), change.former());
    let gate = &settings_of(context, name)?.gate;
    let candidate = Role::Candidate.relation(name);
    let judging = JudgeOptions {
        only_where: gate.only_where.clone(),
        ..JudgeOptions::of(&context.project, Stop::by_flag(&options.stop))
    };
    match judge(context, (former, &candidate), &judging).await {
        Ok(Judgement::Compared(judged)) => Ok(Verdict {
            broken: broken(gate, &judged.diff),
            judged: Some(*judged),
            not_compared: None,
            answers: true,
        }),
        // A gate that is to keep rows as they are has none left to keep.
        Ok(Judgement::OtherGrain(why)) => Ok(Verdict {
            broken: (*gate != GateSettings::default())
                .then(|| Broken {
                    limit: "gate".to_owned(),
                    allowed: "rows that can be compared".to_owned(),
                    found: "other keys".to_owned(),
                })
                .into_iter()
                .collect(),
            judged: None,
            not_compared: Some(why),
            answers: true,
        }),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            // Another process may have been as quick.
            open_candidate(context, change).await?;
            Err(e)
        }
        Err(e) => match fails(context, former).await {
            // There are no answers that a gate could keep as they are.
            Some(why) => Ok(Verdict {
                judged: None,
                broken: Vec::new(),
                not_compared: Some(format!("what answers fails: {why}")),
                answers: false,
            }),
            None => Err(e),
        },
    }
}

/// Why a view does not answer, if it does not because of what its SQL computes.
async fn fails(context: &Context, name: &str) -> Option<String> {
    let service = local_service(context).ok()?;
    let whole = format!("SELECT * FROM \"{name}\"");
    match service.collect(&whole, ReadMode::Merged).await {
        Err(e) if e.kind() == ErrorKind::Invalid => Some(e.to_string()),
        _ => None,
    }
}

/// Cuts the candidates of a plan over, all in one entry, and waits until the daemons that run serve them.
pub async fn cut_over(
    context: &Context,
    plan: &Plan,
    verdicts: &BTreeMap<String, Verdict>,
    options: &ApplyOptions,
) -> Result<()> {
    let who = doer(&options.why);
    let (mut changes, mut reports) = (Vec::new(), Vec::new());
    for change in plan.views.iter().filter(|v| v.is_candidate()) {
        let (name, former) = (&change.view, change.former());
        let Opened {
            entry,
            live,
            master,
            log,
        } = open_candidate(context, change).await?;
        let batch = batch_options(context, options);
        let boundary = catch_up(context, (former, &live), &master, &log, &batch).await?;
        history::keep(context, former).await?;
        let settings = settings_of(context, name)?;
        let answers = verdicts.get(name).is_none_or(|v| v.answers);
        let keep = settings.keep_previous.filter(|_| answers);
        let keep = keep.map(|keep| {
            let ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
            who.at_ms.saturating_add(ms)
        });
        changes.push(CutOverOf {
            keep_until_ms: keep,
            moved_from: change.moved_from.clone(),
            judged: verdicts.get(name).and_then(|v| {
                let judged = v.judged.as_ref()?;
                Some(anabranch_shared::Judged {
                    head: judged.head.clone(),
                    summary: judged.diff.summary(),
                })
            }),
            ..CutOverOf::new(name, Some(live.generation), entry, boundary)
        });
        reports.push(BuildReport {
            view: name.clone(),
            outcome: BatchOutcome::default(),
            took_us: 0,
            cut_over: true,
            served: Served::of(master.generation(), &master.pin()),
        });
    }
    if changes.is_empty() {
        return Ok(());
    }
    context.catalogue.cut_over_all(&changes, &who).await?;
    note_run(context, plan, true).await?;
    for change in &changes {
        history::keep(context, &change.view).await?;
        export_follows(context, &change.view, options).await;
        upkeep::after_job(context, &change.view).await;
    }
    served::wait(context, &reports, &options.stop).await
}

/// Writes the export of a view anew, whose rows are those of what answers now. What fails is made up for
/// by the view's next job.
async fn export_follows(context: &Context, name: &str, options: &ApplyOptions) {
    let is_exported = settings_of(context, name).is_ok_and(|settings| settings.export);
    if !is_exported {
        return;
    }
    let written = async {
        let entry = context.catalogue.current();
        let named = entry
            .named(name)
            .ok_or_else(|| Error::NotFound(name.to_owned()))?;
        let view = context.generation_view(&named)?;
        let generation = named.entry.generation;
        let master = Master::open(&context.storage, &view, generation, now_ms()).await?;
        let batch = batch_options(context, options);
        export_view(context, &Arc::new(master), Build::Rebuild, &batch).await
    };
    if let Err(error) = written.await {
        tracing::warn!(view = %name, %error, "its export was not written anew; the view's next job makes it up");
    }
}

/// A roll-back in words.
pub fn rolled_back_text(view: &str, from: Generation, to: Generation) -> String {
    format!(
        "view {view}: g{to} answers again; g{from} is kept, and `anabranch rollback {view}` brings it back\n"
    )
}

/// Makes the previous generation of a view the one that answers again. Returns which took whose place.
pub async fn roll_back(
    context: &Context,
    name: &str,
    why: &Why,
    stop: &Arc<AtomicBool>,
) -> Result<(Generation, Generation)> {
    context.catalogue.refresh().await?;
    let entry = context.catalogue.current();
    let known = entry.views.get(name);
    let known = known.ok_or_else(|| crate::project::context::no_view(name, entry.views.keys()))?;
    let none = || {
        Error::NotFound(format!(
            "view `{name}` has no previous generation to go back to; `keep_previous` of `[views.{name}]` says how long one is kept after a cut-over"
        ))
    };
    let previous = known.previous.as_ref().ok_or_else(none)?;
    let live = known.live.as_ref().ok_or_else(none)?;
    history::keep(context, name).await?;
    let (to, from) = (previous.entry.generation, live.generation);
    let pin = Master::look(&context.storage, name, to).await?;
    let who = doer(why);
    let settings = context.project.views.iter().find(|v| v.name == name);
    let keep = settings.and_then(|s| s.keep_previous);
    // As long as it would have been kept otherwise, where nobody says.
    let until = keep.map_or(previous.until_ms, |keep| {
        who.at_ms + i64::try_from(keep.as_millis()).unwrap_or(i64::MAX / 2)
    });
    let catalogue = &context.catalogue;
    catalogue
        .roll_back(name, to, &pin.boundary, until, &who)
        .await?;
    history::keep(context, name).await?;
    let options = ApplyOptions {
        stop: stop.clone(),
        ..ApplyOptions::default()
    };
    export_follows(context, name, &options).await;
    let report = BuildReport {
        view: name.to_owned(),
        outcome: BatchOutcome::default(),
        took_us: 0,
        cut_over: true,
        served: Served::of(to, &pin),
    };
    served::wait(context, &[report], stop).await?;
    Ok((from, to))
}
