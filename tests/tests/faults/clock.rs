//! A clock that is set forward and back under a daemon and between its runs.

use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_jobs::context::Context;
use anabranch_shared::Error;
use anabranch_tests::fates::{Fate, Fates, Place, Tally};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, run_well, write_project};
use anabranch_tests::sender::PER_REQUEST;

use super::Time;
use super::settle::settle;
use crate::clock::open;

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
            let written = stream
                .write(
                    move |admission| {
                        let admitted = admission.ndjson(&body);
                        admitted.map_err(|e| Error::Invalid(e.to_string()))
                    },
                    None,
                    None,
                    now_us(),
                )
                .await?;
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
