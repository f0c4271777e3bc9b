//! Open loop: requests are due at fixed times, whether or not earlier ones are answered, and each
//! latency counts from the time its request was due. A daemon that stalls can't slow the load down
//! and so hide the stall.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::Common;
use crate::http::{Connection, host};
use crate::ingest::acknowledge;
use crate::process::Watch;
use crate::report::{Latencies, per_second};
use crate::requests::{FactsArgs, Prepared, Requests};

/// A request that goes out later than this after its time is counted as late: all connections
/// waited for answers, or this process did not get a processor.
const LATE: Duration = Duration::from_millis(1);

/// What to send, and when.
#[derive(Debug, clap::Args)]
pub struct OpenArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    facts_of: FactsArgs,
    /// Facts a second
    #[arg(long, default_value_t = 50_000)]
    rate: u64,
    /// Connections; with more of them than requests are ever in flight none is late
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Facts of one request
    #[arg(long, default_value_t = 50)]
    facts_per_request: u64,
    /// How long to send; the file's facts are sent again where they don't suffice
    #[arg(long, default_value_t = 300.0)]
    seconds: f64,
}

/// When each request is due.
struct Plan<'a> {
    requests: &'a [Prepared],
    begun: Instant,
    interval: Duration,
    count: u64,
    next: AtomicU64,
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    late: u64,
    latest: Duration,
    facts: u64,
}

/// Runs the load and prints its figures.
pub fn run(args: &OpenArgs) -> Result<()> {
    let (url, size) = (&args.common.url, args.facts_per_request.max(1));
    ensure!(args.rate > 0, "`--rate` has to be at least 1");
    ensure!(args.seconds > 0.0, "`--seconds` has to be above 0");
    let host = host(url)?;
    let wanted = (args.rate as f64 * args.seconds).ceil() as u64;
    let requests = Requests::prepare(url, &args.facts_of, wanted, size)?;
    let mut connections = Vec::new();
    for _ in 0..args.connections.max(1) {
        connections.push(Connection::open(host)?);
    }
    let watch = Watch::begin(&mut Connection::open(host)?);
    let plan = Plan {
        requests: &requests.list,
        begun: Instant::now(),
        interval: Duration::from_secs_f64(size as f64 / args.rate as f64),
        count: wanted.div_ceil(size),
        next: AtomicU64::new(0),
    };
    let seen = std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .into_iter()
            .map(|connection| scope.spawn(|| keep_to(&plan, connection)))
            .collect();
        let mut all = Seen::default();
        for thread in threads {
            match thread.join() {
                Ok(one) => all.add(one?),
                Err(_) => bail!("a connection's thread panicked"),
            }
        }
        Ok(all)
    })?;
    let took = plan.begun.elapsed();
    let usage = watch.end(took);
    let rate = per_second(seen.facts, took);
    let rounds = seen.facts as f64 / requests.facts as f64;
    let (late, facts) = (seen.late, seen.facts);
    let latest_ms = seen.latest.as_secs_f64() * 1_000.0;
    let latencies = Latencies::new(seen.latencies);
    let text = format!(
        "{facts} facts in {:.3} s ({rate} facts/s) in {} requests; from the due time: {}; {late} sent late, at most {latest_ms:.1} ms; {}",
        took.as_secs_f64(),
        latencies.count(),
        latencies.text(),
        usage.text()
    );
    let json = json!({
        "facts": facts,
        "seconds": took.as_secs_f64(),
        "facts_per_second": rate,
        "connections": args.connections,
        "facts_per_request": size,
        "rounds_of_the_file": rounds,
        "latency_ms": latencies.json(),
        "late": late,
        "latest_ms": latest_ms,
        "usage": usage.json(),
    });
    args.common.output.print(&text, &json)
}

impl Seen {
    fn add(&mut self, one: Self) {
        self.latencies.extend(one.latencies);
        self.late += one.late;
        self.facts += one.facts;
        self.latest = self.latest.max(one.latest);
    }
}

/// Takes the next request that no other connection has taken, waits until it is due, sends it.
fn keep_to(plan: &Plan<'_>, mut connection: Connection) -> Result<Seen> {
    let mut seen = Seen::default();
    loop {
        let number = plan.next.fetch_add(1, Ordering::Relaxed);
        if number >= plan.count {
            return Ok(seen);
        }
        let at = usize::try_from(number % plan.requests.len() as u64)?;
        let Some(request) = plan.requests.get(at) else {
            bail!("request {at} is not prepared");
        };
        let due = plan.begun + plan.interval.mul_f64(number as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let behind = Instant::now().saturating_duration_since(due);
        seen.late += u64::from(behind > LATE);
        seen.latest = seen.latest.max(behind);
        acknowledge(&mut connection, request)?;
        seen.latencies.push(due.elapsed());
        seen.facts += request.facts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// One connection and an answer that takes 30 ms, every 10 ms a request: the waiting counts.
    #[test]
    fn latency_counts_from_the_due_time() -> Result<()> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let host = listener.local_addr()?.to_string();
        let server = std::thread::spawn(move || -> Result<()> {
            let (mut socket, _) = listener.accept()?;
            for _ in 0..4 {
                socket.read_exact(&mut [0; 1])?;
                std::thread::sleep(Duration::from_millis(30));
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"facts\":5}")?;
            }
            Ok(())
        });
        let request = Prepared {
            bytes: b"x".to_vec(),
            facts: 5,
        };
        let plan = Plan {
            requests: &[request],
            begun: Instant::now(),
            interval: Duration::from_millis(10),
            count: 4,
            next: AtomicU64::new(0),
        };
        let seen = keep_to(&plan, Connection::open(&host)?)?;
        // Due at 0, 10, 20, 30 ms; answered at 30, 60, 90, 120 ms at the earliest.
        for (number, latency) in seen.latencies.iter().enumerate() {
            let least = Duration::from_millis(30 + 20 * number as u64);
            ensure!(*latency >= least, "request {number}: {latency:?}");
        }
        assert_eq!((seen.facts, seen.late), (20, 3));
        assert!(matches!(server.join(), Ok(Ok(()))));
        Ok(())
    }
}
