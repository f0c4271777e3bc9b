//! A clock that is set forward and back under a daemon and between its runs.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use anabranch_batch::{CleanAction, RetentionRule, UpkeepTime, retain};
use anabranch_jobs::clock::now_ms;
use anabranch_jobs::project::context::Context;
use anabranch_jobs::work::upkeep::maintain;
use anabranch_shared::{Stamp, WallClock};
use anabranch_speed::{BodyFormat, RequestBody, Write};
use anabranch_tests::fates::{Fate, Fates, Place, Tally};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Process, Setup, run_well, write_project};
use anabranch_tests::sender::{PER_REQUEST, Sender};

use super::Time;
use super::process::{LAND_EVERY, two};
use super::settle::settle;
use crate::crashes::clock::open;

const DAY_MS: i64 = 86_400_000;

/// A landing has put its file and not committed it when the clock jumps, for whoever cleans up and for
/// the times of all files, and back again; then the landing goes on.
pub(super) async fn jumps_under_upkeep(time: Time) -> anyhow::Result<Option<Tally>> {
    let point = time.choose(&["land-before-commit", "land-after-commit"]);
    let [here, there] = two()?;
    let context = Context::open(here.path()).await?;
    let mut sleeps = Process::start_to_stop(there.path(), &["speed"], point, 2)?;
    let far = sleeps.ready(&context).await?;
    let theirs = tokio::spawn(async move {
        let mut sender = Sender::from(0);
        for _ in 0..4 {
            sender.send(&far, time.facts / 4).await?;
            tokio::time::sleep(2 * LAND_EVERY).await;
        }
        anyhow::Ok(sender)
    });
    sleeps.stopped().await?;
    let log = context.log("facts").await?;
    let rule = RetentionRule {
        age_ms: Some(DAY_MS),
        seen_ms: 10 * 60_000,
        ..Default::default()
    };
    for days in [0, 2, 40, -4_000, 2] {
        let at = UpkeepTime {
            now_ms: now_ms() + days * DAY_MS,
            stamp: Stamp::now(None),
        };
        retain(&context.storage, &context.catalogue, &log, &rule, &at).await?;
        maintain(&context, at, CleanAction::Remove).await?;
        // The same for a command whose clock can't be set from here: all files are older.
        make_older(&context.project.dir.join("data"), days)?;
        run_well(here.path(), &["batch", "maintain"]).await?;
    }
    sleeps.go_on()?;
    let theirs = theirs.await??;
    sleeps.terminate().await?;
    Ok(Some(
        settle(point, &[here.path(), there.path()], theirs.fates()).await?,
    ))
}

/// Sets the times of all files of a folder to so many days before now.
fn make_older(dir: &Path, days: i64) -> anyhow::Result<()> {
    let day = Duration::from_secs(86_400);
    let age = day.checked_mul(u32::try_from(days).unwrap_or(0));
    let at = SystemTime::from(WallClock::default().now()) - age.unwrap_or_default();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => make_older(&path, days)?,
            false => std::fs::File::options()
                .write(true)
                .open(path)?
                .set_modified(at)?,
        }
    }
    Ok(())
}

/// The time that these daemons are told; each time adds to it, so that two at once only jump more.
static NOW_US: AtomicI64 = AtomicI64::new(0);

fn now_us() -> i64 {
    NOW_US.load(Ordering::SeqCst)
}

/// Days since 1970: today, ten years back, before 1970, a century forward, and about today.
const DAYS: [i64; 6] = [20_000, 16_350, -10, 56_500, 20_001, 19_999];

pub(super) async fn jumps(time: Time) -> anyhow::Result<Option<Tally>> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let context = Context::open(dir.path()).await?;
    let mut fates = Fates::default();
    let (mut next, runs) = (0, 3);
    for run in 0..runs {
        let daemon = open(&context, dir.path(), now_us).await?;
        let Some(stream) = daemon.topics().get("facts").cloned() else {
            anyhow::bail!("the daemon has no such topic");
        };
        let end = next + time.facts / runs;
        while next < end {
            let jump = next / PER_REQUEST + time.nth as i64;
            let day = DAYS[usize::try_from(jump)? % DAYS.len()];
            NOW_US.store(day * 86_400_000_000, Ordering::SeqCst);
            let ids = next..end.min(next + PER_REQUEST);
            next = ids.end;
            let body = ids.clone().map(line).collect::<String>().into();
            let write = Write::records(RequestBody::plain(body, BodyFormat::Json));
            let written = stream.writer().write(write).await?;
            for (offset, id) in (written.range.start.0..).zip(ids) {
                let partition = stream.partition().0;
                fates.note(id, Fate::There(Place { partition, offset }));
            }
        }
        // One of the runs ends as after a kill.
        if run != time.nth as i64 % runs {
            daemon.stop().await?;
        }
        let threads = daemon.take_threads();
        drop((stream, daemon));
        for thread in threads {
            anyhow::ensure!(thread.join().is_ok(), "a thread of the daemon panicked");
        }
        run_well(dir.path(), &["batch", "refresh"]).await?;
    }
    Ok(Some(settle("clock", &[dir.path()], &fates).await?))
}
