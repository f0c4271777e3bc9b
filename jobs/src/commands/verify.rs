//! `anabranch verify`: the law on live data.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_serving::SqlService;
use anabranch_shared::{Error, Log, Offsets, Pinner, ReadMode, Result, Stop, StopReason};

use crate::client::Client;
use crate::commands::query::local_service;
use crate::commands::{LINE_EVERY, SHOW_EVERY, no_view, progress_bar};
use crate::compare::Comparison;
use crate::context::{Context, now_us, threads};
use crate::history::{self, JobRecord, peak_memory_bytes};
use crate::local::LocalPinner;
use crate::output::human_count;
use crate::verify::{
    Part, Verified, VerifyOptions, VerifyProgress, Whose, unless_stopped, verify_pin,
};

/// How many keys are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SampleSize {
    /// A share, above 0 and at most 1.
    Share(f64),
    /// About so many.
    Keys(u64),
}

impl FromStr for SampleSize {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no sample: write a share above 0% and up to 100%, such as `1%`, or a number of keys, such as `10000`"
            )
        };
        let share = |text: &str| {
            let percent = text.trim().parse::<f64>().ok()?;
            (percent > 0.0 && percent <= 100.0).then_some(Self::Share(percent / 100.0))
        };
        let keys = || text.parse().ok().filter(|&n: &u64| n > 0).map(Self::Keys);
        match text.strip_suffix('%') {
            Some(percent) => share(percent),
            None => keys(),
        }
        .ok_or_else(wrong)
    }
}

/// What of the views is compared.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The views; all unless named
    pub views: Vec<String>,
    /// Compares only a part of the keys: a share (`1%`) or about so many (`10000`). The facts are
    /// still read once; aggregating and comparing cost the part
    #[arg(long, value_name = "N%|N")]
    pub sample: Option<SampleSize>,
    /// Chooses which keys are in the sample; the same seed, the same keys. Random unless given
    #[arg(long, requires = "sample")]
    pub seed: Option<u64>,
    /// Compares the answers of the running daemon, with what it has in memory, instead of answers
    /// that this command makes from the log and the WAL. The daemon does the work
    #[arg(long)]
    pub daemon: bool,
}

impl VerifyArgs {
    /// Whose answers are meant.
    pub fn whose(&self) -> Whose {
        match self.daemon {
            true => Whose::Daemon,
            false => Whose::Own,
        }
    }

    fn part(&self) -> Part {
        let seed = self
            .seed
            .unwrap_or_else(|| u64::from(rand::random::<u32>()));
        match self.sample {
            None => Part::Whole,
            Some(SampleSize::Share(share)) => Part::Share { share, seed },
            Some(SampleSize::Keys(keys)) => Part::Keys { keys, seed },
        }
    }

    /// The views that are meant, and what of them. All are checked before the first is verified.
    ///
    /// # Errors
    /// `NotFound` for a name that no view has.
    pub fn chosen(&self, context: &Context) -> Result<(Vec<String>, Part)> {
        let entry = context.catalogue.current();
        let known = |name: &&String| entry.views.get(*name).is_some_and(|v| v.live.is_some());
        if let Some(unknown) = self.views.iter().find(|name| !known(name)) {
            return Err(no_view(unknown, entry.views.keys()));
        }
        let names = match self.views.is_empty() {
            true => entry.views.keys().filter(known).cloned().collect(),
            false => self.views.clone(),
        };
        Ok((names, self.part()))
    }
}

/// Options from the project's settings.
pub fn options(context: &Context, part: Part, stop: &Arc<AtomicBool>) -> VerifyOptions {
    VerifyOptions {
        part,
        whose: Whose::default(),
        memory_bytes: context.project.batch.memory_bytes,
        threads: threads(context.project.batch.threads),
        stop: Stop::by_flag(stop),
        progress: Arc::default(),
    }
}

/// Verifies one whole view at one pinned head, and notes it in the history.
pub async fn verify_view(context: &Context, name: &str, trigger: &str) -> Result<Comparison> {
    let options = options(context, Part::Whole, &Arc::default());
    let verified = verify_view_with(context, name, trigger, &options).await?;
    Ok(verified.comparison)
}

/// Verifies one view at one pinned head, and notes it in the history.
pub async fn verify_view_with(
    context: &Context,
    name: &str,
    trigger: &str,
    options: &VerifyOptions,
) -> Result<Verified> {
    let started_at = now_us();
    let verified = compare_view(context, name, options).await;
    let facts = options.progress.facts_total.load(Ordering::Relaxed);
    let mut record = JobRecord {
        view: name.to_owned(),
        job: "verify",
        trigger: trigger.to_owned(),
        started_at,
        ended_at: now_us(),
        outcome: "done",
        facts: i64::try_from(facts).unwrap_or(i64::MAX),
        peak_memory_bytes: peak_memory_bytes(),
        ..Default::default()
    };
    match &verified {
        Ok(v) if v.comparison.is_equal() => {}
        Ok(v) => {
            record.outcome = "failed";
            let (differ, rows) = (v.comparison.differences, v.comparison.rows);
            record.error = Some(format!("{differ} rows differ, of {rows} compared"));
        }
        Err(e) => {
            record.outcome = match options.stop.reason() {
                Some(_) => "stopped",
                None => "failed",
            };
            record.error = Some(e.to_string());
        }
    }
    if let Err(e) = history::record(&context.storage, &record).await {
        tracing::warn!(error = %e, "could not write the history of jobs");
    }
    verified
}

async fn compare_view(context: &Context, name: &str, options: &VerifyOptions) -> Result<Verified> {
    if options.whose == Whose::Daemon {
        let client = Client::find(&context.storage).await?.ok_or_else(|| {
            Error::Unavailable("no daemon runs; compare without `--daemon`".into())
        })?;
        let asked = client.verify(name, options.part);
        return unless_stopped(&options.stop, asked).await?;
    }
    let service = local_service(context)?;
    let pinner = LocalPinner::new(context.clone()).stopped_by(options.stop.flag());
    // On threads for queries, so that the signal is seen whatever an operator computes.
    let (context, name, held) = (context.clone(), name.to_owned(), options.clone());
    let work = anabranch_serving::compute(async move {
        compare_pinned(&context, &service, &pinner, &name, &held).await
    });
    unless_stopped(&options.stop, work).await?
}

/// Compares the answer over a pin that is chosen for it.
pub(crate) async fn compare_pinned(
    context: &Context,
    service: &SqlService,
    pinner: &dyn Pinner,
    name: &str,
    options: &VerifyOptions,
) -> Result<Verified> {
    context.catalogue.refresh().await?;
    let entry = context.catalogue.current();
    let live = entry
        .views
        .get(name)
        .and_then(|v| v.live.as_ref())
        .ok_or_else(|| {
            let answering = entry.views.iter().filter(|(_, view)| view.live.is_some());
            no_view(name, answering.map(|(name, _)| name))
        })?;
    let topic = live.definition.topic.name.clone();
    let names = [name.to_owned(), topic.clone()];
    let pin = unless_stopped(&options.stop, pinner.pin(&names, ReadMode::Merged)).await??;
    fail::fail_point!("verify-after-pin");
    let mut verified = verify_pin(service, &context.storage, &pin, name, &topic, options).await?;
    let low = pin.topics.get(&topic).map(|t| t.low.clone());
    let removed = uncompared(&*context.log(&topic).await?, &low.unwrap_or_default());
    verified.uncompared.extend(removed);
    Ok(verified)
}

/// Compares a view's answer for somebody who asks this daemon, of whom as many are served at once and
/// for as long as `[query]` says. Dropping the future stops the work, and so does `queries cancel`.
///
/// # Errors
/// Those of the comparison; `NoRoom` where too many run, `Unavailable` where it takes too long.
pub(crate) async fn for_another(
    context: Context,
    sql: Arc<SqlService>,
    who: &str,
    view: String,
    part: Part,
) -> Result<Verified> {
    let verification = sql.verification(who, &view)?;
    let limit = sql.verify_timeout();
    let (stop, work) = (verification.stop().clone(), verification.work());
    let options = VerifyOptions {
        stop: stop.clone(),
        ..options(&context, part, &Arc::default())
    };
    let compared = anabranch_serving::compute(async move {
        // As many run as do, and not as are waited for.
        let _work = work;
        compare_pinned(&context, &sql, sql.pinner().as_ref(), &view, &options).await
    });
    let compared = stop.within(compared).await;
    match (compared, stop.reason()) {
        (Err(_), Some(StopReason::Late)) => Err(Error::Unavailable(format!(
            "the verification took longer than {} s and was stopped; verify a sample, or raise `verify_timeout` in `[query]`",
            limit.as_secs()
        ))),
        (Err(_), Some(StopReason::Cancelled)) => Err(Error::Conflict(
            "the verification was cancelled by `anabranch queries cancel`; nothing was changed"
                .to_owned(),
        )),
        (compared, _) => compared,
    }
}

/// What of a topic's facts the log does not hold, below a `low` and in recorded gaps.
fn uncompared(log: &Log, low: &Offsets) -> Vec<String> {
    let topic = log.name();
    let removed = Offsets::default().ranges_to(low).into_iter();
    let removed = removed.map(|(p, r)| {
        format!("not compared: facts {r} of partition {p}, which retention of topic `{topic}` has removed")
    });
    let gaps = log.gaps().into_iter();
    let gaps = gaps.filter(|(p, r)| r.end > low.get(*p)).map(|(p, r)| {
        format!("not compared: facts {r} of partition {p}, which the source of topic `{topic}` had removed before they were read")
    });
    removed.chain(gaps).collect()
}

/// Verifies one view and writes nothing, showing how far it is: a bar on a terminal, lines
/// elsewhere.
pub async fn verify_shown(
    context: &Context,
    name: &str,
    options: &VerifyOptions,
    terminal: bool,
) -> Result<Verified> {
    if !terminal {
        tracing::info!(view = %name, "verifying");
    }
    let shower = tokio::spawn(show(name.to_owned(), options.progress.clone(), terminal));
    let verified = compare_view(context, name, options).await;
    shower.abort();
    verified
}

/// What a verification came to, in lines.
pub fn text(view: &str, verified: &Verified) -> String {
    let comparison = &verified.comparison;
    let part = verified.sample.map_or(String::new(), |s| {
        let percent = s.share * 100.0;
        format!(" (a sample: {percent:.3}% of the keys, seed {})", s.seed)
    });
    let mut text = format!(
        "{view}: {} rows compared{part}, {} differ\n",
        human_count(comparison.rows as u64),
        human_count(comparison.differences as u64)
    );
    if let Some(note) = &verified.note {
        text += &format!("  {note}\n");
    }
    for uncompared in &verified.uncompared {
        text += &format!("  {uncompared}\n");
    }
    for example in &comparison.examples {
        text += &format!("  {example}\n");
    }
    let more = comparison.differences - comparison.examples.len();
    if more > 0 {
        text += &format!("  and {} more\n", human_count(more as u64));
    }
    text
}

/// What a verification came to, for programs.
pub fn json(view: &str, verified: &Verified) -> serde_json::Value {
    let comparison = &verified.comparison;
    let sample = verified
        .sample
        .map(|s| serde_json::json!({ "share": s.share, "seed": s.seed }));
    serde_json::json!({
        "view": view, "rows": comparison.rows, "sample": sample, "note": verified.note,
        "uncompared": verified.uncompared, "differences": comparison.differences, "examples": comparison.examples,
    })
}

/// That a view could not be compared, for programs.
pub fn failed_json(view: &str, e: &Error) -> serde_json::Value {
    serde_json::json!({ "view": view, "error": e.to_string(), "kind": e.kind().to_string() })
}

/// An error that names its view.
pub fn named(view: &str, e: Error) -> Error {
    let text = e.to_string();
    match text.contains(&format!("`{view}`")) {
        true => e,
        false => Error::of_kind(e.kind(), format!("view `{view}`: {text}")),
    }
}

async fn show(view: String, progress: Arc<VerifyProgress>, terminal: bool) {
    let style = "{prefix} {bar:30} {human_pos}/{human_len} facts read again, {msg}";
    let bar = progress_bar(style, terminal);
    bar.set_prefix(view.clone());
    let mut looks = 0_u32;
    let mut facts = 0;
    loop {
        tokio::time::sleep(SHOW_EVERY).await;
        let total = progress.facts_total.load(Ordering::Relaxed);
        facts = progress.facts().max(facts);
        let recomputed = progress.expected.load(Ordering::Relaxed);
        let merged = progress.found.load(Ordering::Relaxed);
        bar.set_length(total);
        bar.set_position(facts);
        bar.set_message(format!("{recomputed} rows recomputed, {merged} merged"));
        looks += 1;
        if !terminal && looks.is_multiple_of(LINE_EVERY) {
            tracing::info!(%view, facts, of = total, recomputed, merged, "verifying");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_sample_is_a_share_or_a_number() {
        let read = |text: &str| text.parse::<SampleSize>();
        assert_eq!(read("1%").unwrap(), SampleSize::Share(0.01));
        assert_eq!(read("0.5 %").unwrap(), SampleSize::Share(0.005));
        assert_eq!(read("10000").unwrap(), SampleSize::Keys(10_000));
        for wrong in ["0", "0%", "101%", "-1", "NaN%", "1.5", "", "%", "a lot"] {
            assert!(read(wrong).unwrap_err().contains("`1%`"), "{wrong}");
        }
    }
}
