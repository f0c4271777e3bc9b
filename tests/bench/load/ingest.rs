//! Closed loop: each connection sends its next request once the last is acknowledged.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::Common;
use crate::http::{Connection, host};
use crate::process::Watch;
use crate::report::{Latencies, per_second};
use crate::requests::{FactsArgs, Prepared, Requests};

/// The daemon's metric of facts that are acknowledged and not yet in the log.
const UNLANDED: &str = "anabranch_unlanded_facts";

/// How often it is asked whether all has landed; more often would take from what is measured.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// What to send.
#[derive(Debug, clap::Args)]
pub struct IngestArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    facts_of: FactsArgs,
    /// Connections, each with one request in flight
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Facts of one request
    #[arg(long, default_value_t = 1_000)]
    facts_per_request: u64,
    /// How many facts of the file to send; all unless told
    #[arg(long)]
    facts: Option<u64>,
    /// Ends with the last acknowledgement, without waiting for the landing
    #[arg(long)]
    no_wait: bool,
}

/// Runs the load and prints its figures.
pub fn run(args: &IngestArgs) -> Result<()> {
    let url = &args.common.url;
    let host = host(url)?;
    let most = args.facts.unwrap_or(u64::MAX);
    let requests = Requests::prepare(url, &args.facts_of, most, args.facts_per_request)?;
    let mut connections = Vec::new();
    for _ in 0..args.connections.max(1) {
        connections.push(Connection::open(host)?);
    }
    let mut asking = Connection::open(host)?;
    let watch = Watch::begin(&mut asking);
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let samples = std::thread::scope(|scope| {
        let send =
            |connection: Connection| scope.spawn(|| drain(connection, &requests.list, &next));
        let threads: Vec<_> = connections.into_iter().map(send).collect();
        let mut samples = Vec::with_capacity(requests.list.len());
        for thread in threads {
            match thread.join() {
                Ok(of_one) => samples.extend(of_one?),
                Err(_) => bail!("a connection's thread panicked"),
            }
        }
        Ok(samples)
    })?;
    let acknowledged = begun.elapsed();
    let landed = match args.no_wait {
        true => None,
        false => Some(until_landed(&mut asking, &args.facts_of.topic, begun)?),
    };
    let usage = watch.end(begun.elapsed());
    let latencies = Latencies::new(samples);
    let (facts, bytes) = (requests.facts, requests.body_bytes);
    let rate = |took: Duration| {
        let megabytes = bytes as f64 / 1e6 / took.as_secs_f64().max(1e-9);
        (per_second(facts, took), megabytes)
    };
    let line = |what: &str, took: Duration| {
        let (facts, megabytes) = rate(took);
        format!(
            "{what} after {:.3} s: {facts} facts/s, {megabytes:.1} MB/s",
            took.as_secs_f64()
        )
    };
    let json_of = |took: Duration| {
        let (facts, megabytes) = rate(took);
        json!({ "seconds": took.as_secs_f64(), "facts_per_second": facts, "megabytes_per_second": megabytes })
    };
    let text = format!(
        "{facts} facts, {:.1} MB; {}; {}; {}; {}",
        bytes as f64 / 1e6,
        line("acknowledged", acknowledged),
        landed.map_or("landing not waited for".into(), |t| line("landed", t)),
        latencies.text(),
        usage.text()
    );
    let json = json!({
        "facts": facts,
        "bytes": bytes,
        "requests": requests.list.len(),
        "connections": args.connections,
        "acknowledged": json_of(acknowledged),
        "landed": landed.map(json_of),
        "latency_ms": latencies.json(),
        "usage": usage.json(),
    });
    args.common.output.print(&text, &json)
}

/// Sends requests until none is left; their latencies.
fn drain(
    mut connection: Connection,
    requests: &[Prepared],
    next: &AtomicUsize,
) -> Result<Vec<Duration>> {
    let mut samples = Vec::new();
    while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
        let begun = Instant::now();
        acknowledge(&mut connection, request)?;
        samples.push(begun.elapsed());
    }
    Ok(samples)
}

/// Sends one request; an error unless all of its facts are acknowledged.
pub fn acknowledge(connection: &mut Connection, request: &Prepared) -> Result<()> {
    let answer = connection.send(&request.bytes)?;
    answer.ok()?;
    let facts = answer.number("facts");
    ensure!(
        facts == Some(request.facts),
        "of {} facts the daemon acknowledged {}: {}",
        request.facts,
        facts.unwrap_or(0),
        String::from_utf8_lossy(answer.body)
    );
    Ok(())
}

/// Waits until everything that is acknowledged is in the log; the time since `begun`.
fn until_landed(asking: &mut Connection, topic: &str, begun: Instant) -> Result<Duration> {
    let name = format!("{UNLANDED}{{topic=\"{topic}\"}} ");
    loop {
        let answer = asking.get("/metrics")?;
        answer.ok()?;
        let text = String::from_utf8_lossy(answer.body);
        let left = text
            .lines()
            .find_map(|l| l.strip_prefix(&name))
            .with_context(|| format!("the daemon's metrics lack `{}`", name.trim()))?;
        if left.trim() == "0" {
            return Ok(begun.elapsed());
        }
        std::thread::sleep(ASK_EVERY);
    }
}
