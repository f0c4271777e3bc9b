//! The law: `finish(master(v, [low, b)) ⊕ delta(v, [b, h))) = v(facts [low, h))`, for random facts,
//! views, daemons, landings, boundaries, refreshes, rebuilds, cut-overs, faults and restarts; and
//! proof that a test of this kind notices when it is broken. Beside it, the same of what random cases
//! don't reach: every aggregate, states of former releases, a real log.
//!
//! `ANABRANCH_LAW_CASES` sets how many cases run, `ANABRANCH_LAW_SEED` the first seed,
//! `ANABRANCH_LAW_S3` how many of them have one whose storage is an S3 server instead of a folder.

mod bad_views;
mod beside;
mod check;
mod combine_matrix;
mod duckdb;
mod duckdb_newsroom;
mod events;
mod evolution;
mod generations;
mod golden;
mod lanes;
mod newsroom;
mod old_states;
mod peers;
mod planted;
mod references;
mod steps;
mod sums;
mod view_errors;
mod weblog;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_tests::places;
use anabranch_tests::s3::{Locking, S3Server};
use rand::Rng;

use world::World;

/// Cases of the normal run; `.ci/long` runs many more.
const CASES: u64 = 300;

/// Of so many cases one has its storage in a bucket.
const S3_EVERY: u64 = 40;

/// What counts checks of states that lie on a disk.
pub(crate) const SPILLED: &str = "checks: with spilled states";

/// Cases that run side by side.
const LANES: usize = 2;

/// What the cases went through.
#[derive(Default)]
pub(crate) struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    pub(crate) fn count(&mut self, what: &str) {
        *self.0.entry(what.to_owned()).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        for (what, times) in other.0 {
            *self.0.entry(what).or_default() += times;
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

async fn run(world: &mut World<'_>) -> anyhow::Result<()> {
    for _ in 0..world.rng.random_range(3..14) {
        world.step().await?;
        if world.rng.random_bool(0.35) {
            world.check().await?;
        }
    }
    world.settle().await
}

/// Runs the case of one seed.
async fn case(seed: u64, bucket: Option<&S3Server>, coverage: &mut Coverage) -> Result<(), String> {
    let mut world = World::new(seed, bucket, coverage)
        .await
        .map_err(|e| format!("seed {seed}: {e}"))?;
    run(&mut world).await.map_err(|e| {
        let sql = world.views.iter().flat_map(|v| &v.definitions);
        let sql: Vec<&str> = sql.map(|d| d.sql.as_str()).collect();
        format!(
            "ANABRANCH_LAW_SEED={seed} ANABRANCH_LAW_CASES=1 breaks the law\n{}\n{e}",
            sql.join("\n")
        )
    })
}

/// What a case goes through.
async fn course(seed: u64) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut coverage = Coverage::default();
    let mut world = World::new(seed, None, &mut coverage).await?;
    run(&mut world).await?;
    drop(world);
    // What lies on a disk hangs on what memory was free at the moment.
    coverage.0.remove(SPILLED);
    Ok(coverage.0)
}

/// A case that fails can be looked into: by its seed the same happens again. (In a few cases it hangs on
/// which of a daemon's threads comes first.)
#[tokio::test]
async fn a_case_happens_again_by_its_seed() -> anyhow::Result<()> {
    let (first, cases) = (number("ANABRANCH_LAW_SEED", 1), 8);
    let mut others = Vec::new();
    for seed in first..first + cases {
        let (one, two) = (course(seed).await?, course(seed).await?);
        if one != two {
            others.push(format!("seed {seed}: {one:?}, then {two:?}"));
        }
    }
    anyhow::ensure!(others.len() <= 3, "{}", others.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_law_holds() {
    // Bugs are planted by the environment, in a process that this test has to itself.
    let _planted = std::env::var("ANABRANCH_LAW_PLANTED")
        .is_ok()
        .then(fail::FailScenario::setup);
    let (cases, first) = (
        number("ANABRANCH_LAW_CASES", CASES),
        number("ANABRANCH_LAW_SEED", 1),
    );
    let next = Arc::new(AtomicU64::new(first));
    let s3_every = number("ANABRANCH_LAW_S3", S3_EVERY).max(1);
    let dir = places::folder().unwrap_or_else(|e| panic!("{e}"));
    let server = S3Server::start(dir.path(), Locking::PerKey);
    let server = Arc::new(server.unwrap_or_else(|e| panic!("{e}")));
    let lane = |next: Arc<AtomicU64>, server: Arc<S3Server>| async move {
        let mut coverage = Coverage::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + cases {
                return Ok(coverage);
            }
            let bucket = seed.is_multiple_of(s3_every).then_some(server.as_ref());
            case(seed, bucket, &mut coverage).await?;
        }
    };
    let lanes: Vec<_> = (0..LANES)
        .map(|_| tokio::spawn(lane(next.clone(), server.clone())))
        .collect();
    let mut coverage = Coverage::default();
    for lane in lanes {
        let held: Result<Coverage, String> = lane.await.unwrap_or_else(|e| Err(e.to_string()));
        match held {
            Ok(covered) => coverage.add(covered),
            Err(broken) => panic!("{broken}"),
        }
    }
    println!("the law held in {cases} cases, which covered:");
    for (what, times) in &coverage.0 {
        println!("  {times:>7} {what}");
    }
}
