//! A clock that jumps back and forward under a running daemon and between its runs: facts keep their order and their
//! place, because nothing but what people read comes from the clock.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::local_service::local_service;
use anabranch_shared::ReadMode;
use anabranch_speed::{BodyFormat, Daemon, DaemonOptions, RequestBody, TopicOptions, Write};
use anabranch_tests::daemon::shown;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, write_project};

/// The time that the daemon is told, in microseconds since 1970.
static NOW_US: AtomicI64 = AtomicI64::new(0);

fn now_us() -> i64 {
    NOW_US.load(Ordering::SeqCst)
}

/// A daemon in this process, with a clock of the caller.
pub(crate) async fn open(
    context: &Context,
    dir: &Path,
    now_us: fn() -> i64,
) -> anyhow::Result<Arc<Daemon>> {
    let options = DaemonOptions {
        wal: dir.join("wal"),
        land_every: Duration::from_secs(3_600),
        land_facts: 1_000_000,
        land_bytes: 1 << 30,
        wal_bytes: 1 << 30,
        wal_segment_bytes: 1 << 20,
        memory_bytes: 1 << 30,
        spill_at_bytes: 1 << 29,
        spill_bytes: 1 << 30,
        request_memory_bytes: 1 << 30,
        max_record_bytes: 1 << 20,
        max_request_bytes: 1 << 20,
        idempotency_window: Duration::from_secs(3_600),
        idempotency_keys: 1_000,
        recently_landed_bytes: 1 << 20,
        most_pieces: 24,
        meet_every: Duration::from_secs(10),
        checkpoint_every: 2,
        threads: 1,
        now_us,
        metrics: Default::default(),
        stop: Arc::new(AtomicBool::new(false)),
    };
    let topic = TopicOptions::default();
    let topics = BTreeMap::from([("facts".to_owned(), topic)]);
    let catalogue = context.catalogue.clone();
    Ok(Daemon::open(&context.storage, catalogue, &topics, options).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_keep_their_place_whatever_the_clock_says() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let context = Context::open(dir.path()).await?;
    // Today, back by ten years, before 1970, forward by a century, and back to today: for each run of the daemon two.
    let days = [20_000, 16_350, -10, 56_500, 20_001, 19_999];
    let mut expected = Vec::new();
    for (run, pair) in days.chunks(2).enumerate() {
        NOW_US.store(pair[0] * 86_400_000_000, Ordering::SeqCst);
        let daemon = open(&context, dir.path(), now_us).await?;
        let Some(stream) = daemon.topics().get("facts").cloned() else {
            anyhow::bail!("the daemon has no such topic");
        };
        for (nth, day) in pair.iter().enumerate() {
            NOW_US.store(day * 86_400_000_000, Ordering::SeqCst);
            let id = 2 * run + nth;
            let line = format!("{{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":{id},\"word\":\"w\"}}");
            let body = line.into();
            let write = Write::records(RequestBody::plain(body, BodyFormat::Json));
            let written = stream.writer().write(write).await?;
            anyhow::ensure!(
                written.range.start.0 == i64::try_from(id)? && written.facts == 1,
                "{written:?}"
            );
            expected.push([id.to_string(), id.to_string(), (day * 86_400).to_string()]);
        }
        // The WAL holds one of the runs when it ends, as after a kill; the others land.
        if run != 1 {
            daemon.stop().await?;
        }
        let threads = daemon.take_threads();
        drop((stream, daemon));
        for thread in threads {
            anyhow::ensure!(thread.join().is_ok(), "a thread of the daemon panicked");
        }
    }
    let service = local_service(&context)?;
    let sql =
        "SELECT _offset, id, CAST(_ingested_at AS BIGINT) / 1000000 FROM facts ORDER BY _offset";
    let (_, batches) = service.collect(sql, ReadMode::Merged).await?;
    anyhow::ensure!(shown(&batches)? == expected, "{:?}", shown(&batches)?);
    let view = "SELECT facts, ids, different FROM words";
    let (_, batches) = service.collect(view, ReadMode::Merged).await?;
    anyhow::ensure!(
        shown(&batches)? == [["6", "15", "6"]],
        "{:?}",
        shown(&batches)?
    );
    Ok(())
}
