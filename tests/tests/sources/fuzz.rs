//! Bytes from outside, torn in every way: no decoder panics, ends the process, or takes memory by what
//! they say. Each decoder runs in a process of its own with a bound of memory, so that a failed
//! allocation is seen: it ends the process.
//!
//! `ANABRANCH_FUZZ_SECONDS` is how long each is tried (2 s), `ANABRANCH_FUZZ_SEED` where chance begins.
//! With `ANABRANCH_FUZZ_KEEP` the seeds are written to the corpus in `fuzz/`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anabranch_tests::fuzz::{Bench, DECODERS, corpus, named};
use anabranch_tests::places;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Resource, Rlimit, setrlimit};

/// What a decoder may take, in bytes: files may have batches of 2 GiB and pages of 1 GiB.
const MEMORY: u64 = 3 << 30;

/// No more is resident at any time, in bytes.
const RESIDENT: u64 = 1 << 30;

/// Bytes of a torn input; a splice may be longer.
const LONGEST: usize = 64 << 10;

const DECODER: &str = "ANABRANCH_FUZZ_DECODER";
const LAST: &str = "ANABRANCH_FUZZ_LAST";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// A number of the process's status, in bytes.
fn status_bytes(name: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with(name));
    let kib = line.and_then(|l| l.split_whitespace().nth(1));
    let kib = kib.ok_or_else(|| anyhow::anyhow!("no `{name}` in {status}"))?;
    Ok(kib.parse::<u64>()? * 1_024)
}

/// Numbers at which decoders break.
const CLAIMS: [i64; 14] = [
    0,
    1,
    -1,
    7,
    127,
    255,
    65_535,
    1 << 20,
    i32::MAX as i64,
    i32::MIN as i64,
    1 << 40,
    1 << 62,
    i64::MAX,
    i64::MIN,
];

fn tear(rng: &mut SmallRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut torn = seeds[rng.random_range(0..seeds.len())].clone();
    for _ in 0..rng.random_range(1..6) {
        let len = torn.len();
        if len == 0 {
            torn.push(rng.random());
            continue;
        }
        let at = rng.random_range(0..len);
        let end = (at + rng.random_range(1..64)).min(len);
        match rng.random_range(0..10) {
            0 | 1 => torn[at] ^= 1 << rng.random_range(0..8),
            2 => torn[at] = rng.random(),
            3..=5 => {
                let claim = CLAIMS[rng.random_range(0..CLAIMS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][rng.random_range(0..4)];
                let part = &mut torn[at..(at + width).min(len)];
                part.copy_from_slice(&claim[..part.len()]);
            }
            6 => {
                torn.drain(at..end);
            }
            7 => {
                let part = torn[at..end].to_vec();
                let times = rng.random_range(1..200);
                let more = part.repeat(times);
                torn.splice(at..at, more);
            }
            8 => {
                let other = &seeds[rng.random_range(0..seeds.len())];
                let from = rng.random_range(0..=other.len());
                torn.truncate(at);
                torn.extend_from_slice(&other[from..]);
            }
            _ => torn.truncate(at),
        }
        torn.truncate(LONGEST);
    }
    torn
}

/// What a process of its own runs: one decoder, as the environment says.
#[test]
fn one_decoder() -> anyhow::Result<()> {
    let Ok(name) = std::env::var(DECODER) else {
        return Ok(());
    };
    let decoder = named(&name).ok_or_else(|| anyhow::anyhow!("no decoder `{name}`"))?;
    let bench = Bench::new()?;
    let mut seeds = bench.seeds(decoder)?;
    if std::env::var_os("ANABRANCH_FUZZ_KEEP").is_some() {
        std::fs::create_dir_all(corpus(&name))?;
        for (n, seed) in seeds.iter().enumerate() {
            std::fs::write(corpus(&name).join(format!("seed-{n}")), seed)?;
        }
    }
    for entry in std::fs::read_dir(corpus(&name)).into_iter().flatten() {
        seeds.push(std::fs::read(entry?.path())?);
    }
    let most = status_bytes("VmSize:")? + MEMORY;
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    setrlimit(Resource::As, limit)?;
    // What is caught is no news; what is not is told below.
    std::panic::set_hook(Box::new(|_| {}));
    let last = std::env::var(LAST)?;
    let try_out = |bytes: &[u8]| -> anyhow::Result<()> {
        std::fs::write(&last, bytes)?;
        let begun = Instant::now();
        let decoded = catch_unwind(AssertUnwindSafe(|| bench.decode(decoder, bytes)));
        anyhow::ensure!(decoded.is_ok(), "panics");
        let took = begun.elapsed();
        anyhow::ensure!(took < Duration::from_secs(20), "takes {took:?}");
        Ok(())
    };
    seeds.iter().try_for_each(|seed| try_out(seed))?;
    let seed = number("ANABRANCH_FUZZ_SEED", 1);
    let mut rng = SmallRng::seed_from_u64(seed);
    let until = Instant::now() + Duration::from_secs(number("ANABRANCH_FUZZ_SECONDS", 2));
    let mut tried = 0_u64;
    while Instant::now() < until {
        try_out(&tear(&mut rng, &seeds))?;
        tried += 1;
    }
    let peak = status_bytes("VmHWM:")?;
    anyhow::ensure!(peak < RESIDENT, "{} MB were resident", peak >> 20);
    println!("{name}: {tried} inputs, {} MB at most", peak >> 20);
    Ok(())
}

fn tried_out(name: &str, dir: &Path) -> anyhow::Result<String> {
    let last = dir.join(name);
    let out = Command::new(std::env::current_exe()?)
        .args(["--exact", "sources::fuzz::one_decoder", "--nocapture"])
        .env(DECODER, name)
        .env(LAST, &last)
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        let kept = std::env::temp_dir().join(format!("anabranch-fuzz-{name}"));
        std::fs::copy(&last, &kept).ok();
        let errors = String::from_utf8_lossy(&out.stderr);
        anyhow::bail!(
            "`{name}` ends with {}; the input is kept as {}: {said}{errors}",
            out.status,
            kept.display()
        );
    }
    let line = said.lines().find(|l| l.contains(" inputs, "));
    line.map(str::to_owned)
        .ok_or_else(|| anyhow::anyhow!("`{name}` was not tried: {said}"))
}

#[test]
fn no_bytes_from_outside_are_believed() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let lane = || {
        let mut ends = Vec::new();
        loop {
            let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some((name, _)) = DECODERS.get(at) else {
                return ends;
            };
            ends.push(tried_out(name, dir.path()));
        }
    };
    let ends = std::thread::scope(|scope| {
        let lanes = [scope.spawn(lane), scope.spawn(lane)];
        let ends = lanes.map(|l| l.join().unwrap_or_default());
        ends.into_iter().flatten().collect::<Vec<_>>()
    });
    let (said, failed): (Vec<_>, Vec<_>) = ends.into_iter().partition(Result::is_ok);
    said.into_iter()
        .flatten()
        .for_each(|line| println!("{line}"));
    let failed: Vec<_> = failed.into_iter().filter_map(Result::err).collect();
    anyhow::ensure!(failed.is_empty(), "{failed:?}");
    Ok(())
}
