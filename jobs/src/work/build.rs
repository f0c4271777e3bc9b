//! Rebuilds and refreshes of a project's views, with their cut-overs and their rows in the history
//! of jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_batch::{
    BatchOptions, BatchOutcome, ExportOutcome, ExportWhen, export, merge_small_runs, rebuild,
    refresh, take_states,
};
use anabranch_shared::settings::ViewSettings;
use anabranch_shared::view::View;
use anabranch_shared::{
    CutOverOf, Error, ErrorKind, FoldProgress, GenerationEntry, Log, Master, Named, Offsets,
    Result, Role, ViewEntry, counted,
};

use crate::clock::{now_ms, now_us};
use crate::project::context::{Context, no_view};
use crate::project::job_history::{self, JobRecord, peak_memory_bytes};
use crate::project::limits::threads;
use crate::project::standing::{ViewStanding, to_be_moved};
use crate::reader::daemon_status::Served;
use crate::work::doer::{Why, doer};
use crate::work::upkeep;

pub mod text;

/// How often a view is refreshed so that its export need not go back.
const EXPORT_TRIES: usize = 5;

/// What is done to a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// Everything again that the log holds.
    Rebuild,
    /// The same, also where retention has removed facts that the view then lacks.
    RebuildFromLow,
    /// The facts since the boundary.
    Refresh,
}

impl Build {
    /// The job's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rebuild | Self::RebuildFromLow => "rebuild",
            Self::Refresh => "refresh",
        }
    }
}

/// What a build of one view came to.
#[derive(Debug)]
pub struct BuildReport {
    /// The view.
    pub view: String,
    /// What the batch layer did.
    pub outcome: BatchOutcome,
    /// How long it took, in microseconds.
    pub took_us: i64,
    /// Whether another generation answers now.
    pub cut_over: bool,
    /// What there is to be served now.
    pub served: Served,
}

/// Builds one view, and notes it in the history.
pub async fn build_view(
    context: &Context,
    settings: &ViewSettings,
    build: Build,
    trigger: &str,
    stop: &Arc<AtomicBool>,
    progress: &Arc<FoldProgress>,
) -> Result<BuildReport> {
    let started_at = now_us();
    let settings = &context.as_it_runs(settings);
    let options = BatchOptions {
        like: Default::default(),
        threads: threads(context.project.batch.threads),
        memory_bytes: context.project.batch.memory_bytes,
        stop: stop.clone(),
        progress: progress.clone(),
    };
    let built = build_one(context, settings, build, &options).await;
    let exported = match &built {
        Ok(built) if settings.export => export_view(context, &built.master, build, &options).await,
        _ => Ok(()),
    };
    // The clock may have been set back meanwhile.
    let ended_at = now_us().max(started_at);
    let mut record = JobRecord {
        view: settings.name.clone(),
        job: build.name(),
        trigger: trigger.to_owned(),
        started_at,
        ended_at,
        peak_memory_bytes: peak_memory_bytes(),
        ..Default::default()
    };
    match &built {
        Ok(Built { outcome, .. }) => {
            record.outcome = "done";
            record.facts = i64::try_from(outcome.facts).unwrap_or(i64::MAX);
            record.bytes = i64::try_from(outcome.bytes).unwrap_or(i64::MAX);
        }
        Err(e) => {
            record.outcome = match stop.load(Ordering::Relaxed) {
                true => "stopped",
                false => "failed",
            };
            record.error = Some(e.to_string());
        }
    }
    if let Err(e) = &exported {
        record.outcome = "failed";
        record.error = Some(format!("the view was built, its export failed: {e}"));
        tracing::warn!(view = %settings.name, "the view was built, its export failed; the next job makes it up");
    }
    if let Err(e) = job_history::record(&context.storage, &context.project, &record).await {
        tracing::warn!(error = %e, "could not write the history of jobs");
    }
    let built = built?;
    exported?;
    upkeep::after_job(context, &settings.name).await;
    let took_us = ended_at - started_at;
    Ok(BuildReport {
        view: settings.name.clone(),
        outcome: built.outcome,
        took_us,
        cut_over: built.cut_over,
        served: Served::of(built.master.generation(), &built.master.pin()),
    })
}

/// Writes the export of a view that was built. A changed definition may be built up to fewer offsets
/// than the former one's export holds; then it is refreshed first.
pub(crate) async fn export_view(
    context: &Context,
    master: &Arc<Master>,
    build: Build,
    options: &BatchOptions,
) -> Result<()> {
    let when = match build {
        Build::Rebuild | Build::RebuildFromLow => ExportWhen::Always,
        Build::Refresh => ExportWhen::Moved,
    };
    for _ in 0..EXPORT_TRIES {
        let since = answers_since(context, master);
        match export(master, since, when, options, now_ms).await? {
            ExportOutcome::Written { .. } | ExportOutcome::Unchanged => return Ok(()),
            ExportOutcome::Behind => {}
        }
        let log = context.log(&master.view().topic().name).await?;
        match refresh(master, &log, &log.head(), options, now_ms).await {
            // Another process was as quick.
            Ok(_) | Err(Error::Fenced { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Error::Conflict(format!(
        "view `{}`: its export holds more than its master view, whoever refreshes it; run the job again",
        master.view().name()
    )))
}

/// The entry of the catalogue by which a generation answers; 0 where it took nobody's place.
fn answers_since(context: &Context, master: &Master) -> u64 {
    let entry = context.catalogue.current();
    let known = entry.views.get(master.view().name());
    let came = known.and_then(|v| v.came.as_ref());
    came.filter(|c| c.to == master.generation())
        .map_or(0, |c| c.entry)
}

/// What a build made.
struct Built {
    outcome: BatchOutcome,
    master: Arc<Master>,
    cut_over: bool,
}

async fn build_one(
    context: &Context,
    settings: &ViewSettings,
    build: Build,
    options: &BatchOptions,
) -> Result<Built> {
    context.catalogue.refresh().await?;
    let view = match (context.compile(settings), build) {
        (Ok(view), _) => view,
        // What answers is refreshed whatever became of its file.
        (Err(e), Build::Refresh) => {
            return build_former(context, &settings.name, build, e, options).await;
        }
        (Err(e), _) => return Err(e),
    };
    if let Some(former) = context.answers_as(settings) {
        return Err(Error::Invalid(to_be_moved(&settings.name, &former)));
    }
    match (context.standing(&view), build) {
        (ViewStanding::Live, Build::Refresh) => build_live(context, &view, build, options).await,
        (ViewStanding::Live, _) if is_readable(context, &view).await? => {
            build_live(context, &view, build, options).await
        }
        // What answers is made whole; what the project says now takes its place by `apply`.
        (ViewStanding::Edited, Build::Rebuild | Build::Refresh)
            if former_is_readable(context, view.name()).await? =>
        {
            let none = never_built(view.name());
            build_former(context, view.name(), build, none, options).await
        }
        (ViewStanding::Edited, Build::RebuildFromLow) => Err(Error::Invalid(format!(
            "view `{}` was edited; run `anabranch apply --from-low --view {}`",
            view.name(),
            view.name()
        ))),
        (_, Build::Rebuild | Build::RebuildFromLow) => {
            build_new(context, &view, build, options).await
        }
        (ViewStanding::Edited, Build::Refresh) => {
            let none = never_built(view.name());
            build_former(context, view.name(), build, none, options).await
        }
        (ViewStanding::New, Build::Refresh) => Err(never_built(view.name())),
    }
}

/// Whether the generation of a view that answers by another definition than the project's can be read.
async fn former_is_readable(context: &Context, name: &str) -> Result<bool> {
    let entry = context.catalogue.current();
    let live = entry.views.get(name).and_then(|v| v.live.as_ref());
    let Some(live) = live else { return Ok(false) };
    match View::from_definition(name, &live.definition) {
        Ok(view) => is_readable(context, &Arc::new(view)).await,
        Err(_) => Ok(false),
    }
}

/// Builds on the definition that answers, which is not the project's.
///
/// # Errors
/// `none` where none answers.
async fn build_former(
    context: &Context,
    name: &str,
    build: Build,
    none: Error,
    options: &BatchOptions,
) -> Result<Built> {
    let entry = context.catalogue.current();
    let Some(live) = entry.views.get(name).and_then(|v| v.live.as_ref()) else {
        return Err(none);
    };
    let view = Arc::new(View::from_definition(name, &live.definition)?);
    tracing::warn!(view = %name, "the view was edited; the definition that answers is built on until `anabranch apply`");
    build_live(context, &view, build, options).await
}

/// Whether the live master view can be read: its table is whole, and its states are of the format
/// that this version makes. A rebuild makes a new generation where it can't.
async fn is_readable(context: &Context, view: &Arc<View>) -> Result<bool> {
    let entry = context.catalogue.current();
    let live = entry.views.get(view.name()).and_then(|v| v.live.as_ref());
    let Some(live) = live else { return Ok(true) };
    match Master::open(&context.storage, view, live.generation, now_ms()).await {
        Ok(_) => Ok(true),
        Err(Error::Conflict(_) | Error::Corrupt(_)) => Ok(false),
        Err(e) => Err(e),
    }
}

fn never_built(view: &str) -> Error {
    Error::NotFound(format!(
        "view `{view}` was never built; run `anabranch batch rebuild {view}`"
    ))
}

async fn build_live(
    context: &Context,
    view: &Arc<View>,
    build: Build,
    options: &BatchOptions,
) -> Result<Built> {
    let entry = context.catalogue.current();
    let live: Option<&ViewEntry> = entry.views.get(view.name());
    let generation = live
        .and_then(|v| v.live.as_ref())
        .map(|l| l.generation)
        .ok_or_else(|| never_built(view.name()))?;
    let master = Arc::new(Master::open(&context.storage, view, generation, now_ms()).await?);
    let log = context.log(&view.topic().name).await?;
    let head = log.head();
    let outcome = match build {
        Build::Rebuild | Build::RebuildFromLow => {
            rebuild(&master, &log, &head, options, now_ms).await?
        }
        Build::Refresh => {
            let from = live.and_then(|v| v.live.as_ref()).map(|l| l.from.clone());
            take_from_parent(context, &master, &from.unwrap_or_default()).await?;
            let outcome = refresh(&master, &log, &head, options, now_ms).await?;
            refresh_others(context, view.name(), options).await;
            outcome
        }
    };
    merge_runs(&master, &log, options).await?;
    Ok(Built {
        outcome,
        master,
        cut_over: false,
    })
}

/// The generation of a view that a roll-up reads, directly or through others, whose states are those of the roll-up, merged by its
/// keys, and which holds facts from just as far back: one that is built for the same plan, or the one that
/// answers. None where a view reads a topic, or needs more than those states tell.
pub(crate) async fn parent_states(
    context: &Context,
    view: &Arc<View>,
    from: &Offsets,
) -> Result<Option<Master>> {
    let entry = context.catalogue.current();
    for parent in context.parents_of(view.name()) {
        let known = entry.views.get(parent);
        for role in [Role::Candidate, Role::Live] {
            let of_role = known.and_then(|known| known.of_role(role));
            let Some(entry) = of_role.filter(|e| e.from == *from) else {
                continue;
            };
            let named = Named {
                view: parent,
                role,
                entry,
            };
            let Ok(of_parent) = context.generation_view(&named) else {
                continue;
            };
            let taken = view.states_taken(&of_parent)?;
            if taken.is_none_or(|taken| !taken.lacks().is_empty()) {
                continue;
            }
            let opened =
                Master::open(&context.storage, &of_parent, entry.generation, now_ms()).await?;
            if opened.boundary() != Offsets::default() {
                return Ok(Some(opened));
            }
        }
    }
    Ok(None)
}

/// Gives a generation of a roll-up that has absorbed nothing the states of its parent, where they suffice.
pub(crate) async fn take_from_parent(
    context: &Context,
    master: &Master,
    from: &Offsets,
) -> Result<()> {
    if master.boundary() != Offsets::default() {
        return Ok(());
    }
    let Some(parent) = parent_states(context, master.view(), from).await? else {
        return Ok(());
    };
    let (view, of) = (master.view().name(), parent.view().name());
    match take_states(&parent, master, None, now_ms()).await {
        Ok(taken) => {
            tracing::info!(
                %view, parent = %of, states = taken.states, boundary = %taken.boundary,
                "was made of the states of the view that it reads"
            );
            Ok(())
        }
        // Its files were replaced meanwhile, or another process was as quick.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => {
            tracing::warn!(%view, parent = %of, error = %e, "is built from the log");
            master.refresh().await.map(|_| ())
        }
        Err(e) => Err(e),
    }
}

/// From where on the view that a roll-up reads holds facts; none where a view reads a topic.
pub(crate) fn parent_start(context: &Context, view: &str) -> Option<Offsets> {
    let entry = context.catalogue.current();
    let parent = entry.views.get(context.parent_of(view)?)?;
    Some(parent.live.as_ref()?.from.clone())
}

async fn merge_runs(master: &Arc<Master>, log: &Arc<Log>, options: &BatchOptions) -> Result<()> {
    match merge_small_runs(master, log, options, now_ms()).await {
        Ok(_) | Err(Error::Conflict(_)) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Refreshes the generations of a view that don't answer and are kept: its candidate, and the one that
/// a roll-back would bring back. One that fails is nobody's trouble but its own.
async fn refresh_others(context: &Context, view: &str, options: &BatchOptions) {
    let entry = context.catalogue.current();
    let of_view = entry.generations().filter(|named| named.view == view);
    for named in of_view.filter(|named| named.role != Role::Live) {
        let options = BatchOptions {
            progress: Arc::default(),
            ..options.clone()
        };
        if let Err(error) = refresh_generation(context, &named, &options).await {
            tracing::warn!(view = %named.relation(), %error, "was not refreshed; the next refresh tries again");
        }
    }
}

/// Refreshes one generation up to the end of its topic's log. Returns its master view.
pub(crate) async fn refresh_generation(
    context: &Context,
    named: &Named<'_>,
    options: &BatchOptions,
) -> Result<Arc<Master>> {
    let view = context.generation_view(named)?;
    let generation = named.entry.generation;
    let master = Arc::new(Master::open(&context.storage, &view, generation, now_ms()).await?);
    let log = context.log(&view.topic().name).await?;
    refresh(&master, &log, &log.head(), options, now_ms).await?;
    merge_runs(&master, &log, options).await?;
    Ok(master)
}

/// Builds a new generation beside the live one, and cuts over.
async fn build_new(
    context: &Context,
    view: &Arc<View>,
    build: Build,
    options: &BatchOptions,
) -> Result<Built> {
    // A scheduler reads the project anew: what was declared in it since has to be known before a view
    // of it answers.
    context.catalogue.declare_topic(view.topic()).await?;
    let entry = context.catalogue.current();
    let live = entry
        .views
        .get(view.name())
        .and_then(|v| v.live.as_ref())
        .cloned();
    let log = context.log(&view.topic().name).await?;
    // What retention has removed may be in the states of the view that it reads.
    let of_parent = parent_start(context, view.name());
    let of_parent = of_parent.filter(|from| live.is_none() && !from.covers(&log.low()));
    let of_parent = match of_parent {
        Some(from) => parent_states(context, view, &from).await?.map(|_| from),
        None => None,
    };
    if build != Build::RebuildFromLow && of_parent.is_none() {
        check_from(context, view, live.as_ref(), &log, &log.low()).await?;
    }
    let generation = context.catalogue.claim_generation(view.name()).await?;
    let master = Arc::new(Master::open(&context.storage, view, generation, now_ms()).await?);
    if let Some(from) = &of_parent {
        take_from_parent(context, &master, from).await?;
    }
    let outcome = match of_parent {
        Some(from) if master.boundary() != Offsets::default() => BatchOutcome {
            from,
            ..refresh(&master, &log, &log.head(), options, now_ms).await?
        },
        _ => rebuild(&master, &log, &log.head(), options, now_ms).await?,
    };
    if build != Build::RebuildFromLow {
        // Retention may have raised `low` between the two looks.
        check_from(context, view, live.as_ref(), &log, &outcome.from).await?;
    }
    let entry = GenerationEntry {
        generation,
        definition: view.definition().clone(),
        from: outcome.from.clone(),
    };
    context
        .catalogue
        .cut_over_all(
            &[CutOverOf::new(
                view.name(),
                live.map(|l| l.generation),
                entry,
                outcome.boundary.clone(),
            )],
            &doer(&Why::default()),
        )
        .await?;
    Ok(Built {
        outcome,
        master,
        cut_over: true,
    })
}

/// Whether this version reads the states of a generation.
async fn answers(context: &Context, name: &str, live: &GenerationEntry) -> bool {
    let Ok(view) = View::from_definition(name, &live.definition) else {
        return false;
    };
    let view = Arc::new(view);
    let opened = Master::open(&context.storage, &view, live.generation, now_ms());
    opened.await.is_ok()
}

/// Refuses to build a generation that would hold less than the one that answers: retention has
/// removed facts which it would need.
async fn check_from(
    context: &Context,
    view: &View,
    live: Option<&GenerationEntry>,
    log: &Log,
    from: &Offsets,
) -> Result<()> {
    let held = live.map(|l| l.from.clone()).unwrap_or_default();
    let missing = held.ranges_to(from);
    if missing.is_empty() {
        return Ok(());
    }
    let ranges = missing
        .iter()
        .map(|(p, r)| format!("{r} of partition {p}"))
        .collect::<Vec<_>>()
        .join(", ");
    let (name, topic) = (view.name(), &log.topic().name);
    let answering = match live {
        Some(live) if answers(context, name, live).await => {
            "; it goes on answering as it was last built, with those facts"
        }
        Some(_) => {
            "; they are in its stored states, whose format another version of this software reads"
        }
        None => "",
    };
    Err(Error::Invalid(format!(
        "view `{name}` can't be built from all facts: retention of topic `{topic}` has removed those at offsets {ranges} ({} in all){answering}; `anabranch batch rebuild {name} --from-low` builds it from what there is",
        counted(log.removed_facts(), "fact", "facts")
    )))
}

/// Forgets a view: it does not answer any more, and maintenance removes its master view.
///
/// # Errors
/// `Invalid` for a view that the project still holds, `NotFound` for one that nobody knows.
pub async fn drop_view(context: &Context, name: &str) -> Result<()> {
    if context.project.views.iter().any(|v| v.name == name) {
        return Err(Error::Invalid(format!(
            "view `{name}` is in `anabranch.toml`; take `[views.{name}]` out of it first, so that nothing builds it again"
        )));
    }
    context.catalogue.refresh().await?;
    let entry = context.catalogue.current();
    if !entry.views.contains_key(name) {
        return Err(no_view(name, entry.views.keys()));
    }
    context.catalogue.drop_view(name).await?;
    Ok(())
}
