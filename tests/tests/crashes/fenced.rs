//! Two daemons that read one partition of a source: one that is overtaken again and again lands what is left, also
//! as it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_jobs::project::context::Context;
use anabranch_shared::{Catalogue, Landing, Log, Offset, OffsetRange, PartitionId};
use anabranch_speed::PlacedFacts;
use anabranch_tests::faults::faulty;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, write_project};
use futures::FutureExt;

use super::clock::open;
use super::locks::fact_of_others;

/// A partition of a source.
const SOURCED: PartitionId = PartitionId(1_000);

/// Facts that both have read, and how many of them the other one lands, one before each try of this one.
const FACTS: i64 = 12;
const THEIRS: i64 = 7;

/// Lands one fact at the head of a partition.
async fn land_one(log: &Log, partition: PartitionId) -> anyhow::Result<()> {
    log.refresh().await?;
    let at = log.head().get(partition);
    let fact = fact_of_others(&log.schema(), partition, at)?;
    let landing = Landing {
        ranges: vec![(partition, OffsetRange::new(at, Offset(at.0 + 1)))],
        facts: vec![fact],
        ..Default::default()
    };
    log.land(&landing, 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_overtaken_again_and_again_lands_what_is_left() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let mut context = Context::open(dir.path()).await?;
    // The other one's way to the storage.
    let others = Context::open(dir.path()).await?;
    let (storage, faults) = faulty(context.storage.clone());
    context.catalogue = Arc::new(Catalogue::open(&storage).await?);
    context.storage = storage;
    let daemon = open(&context, dir.path(), || 0).await?;
    let Some(stream) = daemon.topics().get("facts").cloned() else {
        anyhow::bail!("the daemon has no such topic");
    };
    let taken = stream.upkeep().take_lanes(&[SOURCED]).await?;
    anyhow::ensure!(taken == [(SOURCED, Offset(0))], "{taken:?}");
    let log = others.log("facts").await?;
    for at in (0..FACTS).map(Offset) {
        let facts = fact_of_others(&log.schema(), SOURCED, at)?;
        let piece = PlacedFacts {
            partition: SOURCED,
            range: OffsetRange::new(at, Offset(at.0 + 1)),
            bytes: facts.get_array_memory_size(),
            facts,
            dead: None,
            ingest: None,
            gap: false,
        };
        anyhow::ensure!(stream.writer().push(piece), "{at} was not taken");
    }
    let (overtaking, left) = (log.clone(), Arc::new(AtomicI64::new(THEIRS)));
    let taken = left.clone();
    faults.before_puts(move |path| {
        let (log, left) = (overtaking.clone(), taken.clone());
        async move {
            let is_commit = path.as_ref().starts_with("topics/facts/log/_delta_log/");
            if is_commit && left.fetch_sub(1, Ordering::SeqCst) > 0 {
                land_one(&log, SOURCED)
                    .await
                    .unwrap_or_else(|e| panic!("the other one does not land: {e}"));
            }
        }
        .boxed()
    });
    daemon.stop().await?;
    anyhow::ensure!(left.load(Ordering::SeqCst) < 0, "nobody was overtaken");
    log.refresh().await?;
    let head = log.head().get(SOURCED);
    anyhow::ensure!(head == Offset(FACTS), "{head}");
    let threads = daemon.take_threads();
    drop((stream, daemon));
    for thread in threads {
        anyhow::ensure!(thread.join().is_ok(), "a thread of the daemon panicked");
    }
    Ok(())
}
