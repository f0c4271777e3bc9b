//! Three days of a site: facts arrive, refreshes and nightly rebuilds run by a clock that the test drives,
//! and on the second day a view that was wrong from the start is mended: an edit that the gate stops, one
//! that is cut over to, a roll-back, and the way back. The answers are the known ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::local_service::local_service;
use anabranch_jobs::work::apply::{
    ApplyOptions, Verdict, begin_candidates, build_candidate, cut_over, roll_back, verdict,
};
use anabranch_jobs::work::doer::Why;
use anabranch_jobs::work::plan::{Action, plan};
use anabranch_jobs::work::schedule::Scheduler;
use anabranch_jobs::work::schedule_times::Job;
use anabranch_tests::daemon::run;
use anabranch_tests::places;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::{Answerer, PROJECT, QUESTIONS, check, land, parts};

/// The questions whose views the site has.
const ASKED: [&str; 4] = [
    "totals",
    "views_per_day_utc",
    "referrer_categories",
    "hourly_series",
];

/// The view that is wrong at first, and how.
const WRONG: &str = "SELECT ref_category, count(*) AS views, count(DISTINCT visitor) AS visitors FROM facts WHERE status = 200 GROUP BY 1";

/// An edit that would lose a row.
const WORSE: &str = "SELECT ref_category, count(*) AS views, count(DISTINCT visitor) AS visitors FROM facts WHERE ref_category <> 'social' GROUP BY 1";

/// How far the clock goes at once.
const STEP: TimeDelta = TimeDelta::minutes(30);

fn write_sql(dir: &Path, name: &str, sql: &str) -> anyhow::Result<()> {
    Ok(std::fs::write(dir.join(format!("{name}.sql")), sql)?)
}

fn write_project(dir: &Path) -> anyhow::Result<()> {
    let mut text = PROJECT.to_owned();
    for (name, view, _) in QUESTIONS {
        if ASKED.contains(&name) {
            text += &format!(
                "[views.{name}]\nsql = \"{name}.sql\"\nrefresh_every = \"4h\"\nrebuild_cron = \"0 3 * * *\"\n"
            );
            write_sql(dir, name, view)?;
        }
    }
    text += "[views.referrer_categories.gate]\nkeys_lost = 0\n";
    write_sql(dir, "referrer_categories", WRONG)?;
    Ok(std::fs::write(dir.join("anabranch.toml"), text)?)
}

/// Builds and compares what the project says, and cuts over unless a gate is broken. Returns the limits
/// that are.
async fn apply(dir: &Path) -> anyhow::Result<Vec<String>> {
    let context = Context::open(dir).await?;
    let planned = plan(&context, &[]).await?;
    let changes: Vec<_> = planned.views.iter().filter(|v| v.is_change()).collect();
    anyhow::ensure!(
        changes.len() == 1 && changes[0].action == Action::Build,
        "{planned:?}"
    );
    let options = ApplyOptions::default();
    begin_candidates(&context, &planned, &options).await?;
    build_candidate(&context, changes[0], &options).await?;
    let found: Verdict = verdict(&context, changes[0], &options).await?;
    let broken: Vec<String> = found.broken.iter().map(|b| b.limit.clone()).collect();
    if broken.is_empty() {
        let verdicts = BTreeMap::from([(changes[0].view.clone(), found)]);
        cut_over(&context, &planned, &verdicts, &options).await?;
    }
    Ok(broken)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_days_with_a_view_that_is_mended() -> anyhow::Result<()> {
    let Some(source) = places::shared_data("weblog") else {
        return Ok(());
    };
    let answers: Value = serde_json::from_slice(&std::fs::read(source.join("answers.json"))?)?;
    let dir = places::folder()?;
    let dir = dir.path();
    write_project(dir)?;
    let files = parts(&source.join("facts.ndjson.gz"), dir, [33, 66])?;
    let context = Context::open(dir).await?;
    let begun: DateTime<Utc> = "2017-03-25T00:00:00Z".parse()?;
    let mut scheduler = Scheduler::new(context.clone(), begun).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (mut now, mut ran) = (begun, BTreeMap::new());
    for (day, file) in files.iter().enumerate() {
        let starts = now;
        while now < starts + TimeDelta::days(1) {
            let hours = (now - starts).num_minutes();
            if hours == 8 * 60 {
                land(&context, file).await?;
            }
            if day == 1 && hours == 12 * 60 {
                mend(dir).await?;
            }
            for end in scheduler.tick(now, &stop).await {
                let done = end.outcome.as_ref().map(|_| ());
                anyhow::ensure!(done.is_ok(), "at {now}: {end:?}");
                *ran.entry(end.job).or_insert(0) += 1;
            }
            now += STEP;
        }
        let verified = run(dir, &["verify"])?;
        anyhow::ensure!(verified.code == Some(0), "day {day}: {verified:?}");
    }
    let by = Answerer::Itself(Box::new(local_service(&context)?));
    check(&by, &answers, "all", &|name| ASKED.contains(&name)).await?;
    println!("three days: {ran:?}");
    anyhow::ensure!(ran[&Job::Rebuild] == 3 * ASKED.len(), "{ran:?}");
    // A rebuild begins the interval anew.
    anyhow::ensure!(ran[&Job::Refresh] >= 15 * ASKED.len(), "{ran:?}");
    Ok(())
}

/// What somebody does at noon of the second day.
async fn mend(dir: &Path) -> anyhow::Result<()> {
    let view = "referrer_categories";
    write_sql(dir, view, WORSE)?;
    let broken = apply(dir).await?;
    anyhow::ensure!(broken == ["keys_lost"], "{broken:?}");
    let right = QUESTIONS.iter().find(|(name, ..)| *name == view);
    write_sql(dir, view, right.map(|(_, sql, _)| *sql).unwrap_or_default())?;
    let broken = apply(dir).await?;
    anyhow::ensure!(broken.is_empty(), "{broken:?}");
    let context = Context::open(dir).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let (from, to) = roll_back(&context, view, &Why::because(Some("was it right?")), &stop).await?;
    let again = roll_back(&context, view, &Why::because(Some("it was")), &stop).await?;
    anyhow::ensure!(again == (to, from), "{from} {to} {again:?}");
    let said = plan(&context, &[]).await?;
    anyhow::ensure!(!said.has_changes(), "{said:?}");
    Ok(())
}
