//! One statement again and again: `POST /sql`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::json;

use crate::Common;
use crate::http::{Connection, host, request};
use crate::process::Watch;
use crate::report::{Latencies, per_second};

/// What a view's answer is made of.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Read {
    /// The master view and the delta
    Merged,
    /// The master view alone
    Batch,
}

/// What to ask.
#[derive(Debug, clap::Args)]
pub struct QueryArgs {
    #[command(flatten)]
    common: Common,
    /// The statement
    #[arg(short = 'c', long = "command", required_unless_present = "sql")]
    command: Option<String>,
    /// A file with the statement
    #[arg(long, conflicts_with = "command")]
    sql: Option<std::path::PathBuf>,
    /// How often it is measured
    #[arg(long, default_value_t = 50)]
    times: u32,
    /// How often it is asked before, not measured
    #[arg(long, default_value_t = 2)]
    warm_up: u32,
    /// What is read
    #[arg(long, value_enum, default_value = "merged")]
    read: Read,
    /// A pause after each answer, in milliseconds
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
}

/// Asks and prints the figures.
pub fn run(args: &QueryArgs) -> Result<()> {
    let sql = match (&args.command, &args.sql) {
        (Some(sql), _) => sql.clone(),
        (None, Some(file)) => std::fs::read_to_string(file)
            .with_context(|| format!("`{}` can't be read", file.display()))?,
        (None, None) => anyhow::bail!("give the statement with `-c` or `--sql`"),
    };
    ensure!(args.times > 0, "`--times` has to be at least 1");
    let host = host(&args.common.url)?;
    let path = match args.read {
        Read::Merged => "/sql?read=merged",
        Read::Batch => "/sql?read=batch",
    };
    let accept = "accept: application/vnd.apache.arrow.stream";
    let mut bytes = request("POST", path, host, &[accept], sql.len());
    bytes.extend_from_slice(sql.as_bytes());
    let mut connection = Connection::open(host)?;
    for _ in 0..args.warm_up {
        connection.send(&bytes)?.ok()?;
    }
    let watch = Watch::begin(&mut Connection::open(host)?);
    let begun = Instant::now();
    let mut samples = Vec::new();
    for _ in 0..args.times {
        let sent = Instant::now();
        connection.send(&bytes)?.ok()?;
        samples.push(sent.elapsed());
        std::thread::sleep(Duration::from_millis(args.pause_ms));
    }
    let took = begun.elapsed();
    let usage = watch.end(took);
    let latencies = Latencies::new(samples);
    let text = format!(
        "{} answers, {} a second: {}; {}",
        latencies.count(),
        per_second(u64::from(args.times), took),
        latencies.text(),
        usage.text()
    );
    let json = json!({
        "seconds": took.as_secs_f64(),
        "median_ms": latencies.percentile_ms(0.5),
        "p99_ms": latencies.percentile_ms(0.99),
        "latency_ms": latencies.json(),
        "usage": usage.json(),
    });
    args.common.output.print(&text, &json)
}
