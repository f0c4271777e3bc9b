//! `anabranch generate`: deterministic web-analytics facts, to a file, to standard output or into
//! the daemon.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anabranch_shared::{Error, Result, counted};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::commands::DEAD_LETTERS;
use crate::commands::printing::Printing;
use crate::generate::{Generator, GeneratorOptions};
use crate::output::human_rate;
use crate::project::context::Context;
use crate::reader::client::Client;

/// Facts of one request or one write.
const CHUNK: usize = 1_000;

/// What is generated, and whereto.
#[derive(Debug, clap::Args)]
pub struct GenerateArgs {
    /// The topic (its fields are those of `anabranch init`)
    pub topic: String,
    /// How many facts are made
    #[arg(long, default_value_t = 100_000, value_name = "COUNT")]
    pub facts: u64,
    /// The seed: the same seed makes the same facts
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Makes at most this many facts a second [default: as fast as it can]
    #[arg(long, value_name = "PER SECOND")]
    pub rate: Option<f64>,
    /// The time of the last fact, in RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    pub end: Option<DateTime<Utc>>,
    /// How much time the facts span, with its unit: `30m`, `48h`, `7d`
    #[arg(long, default_value = "48h", value_name = "DURATION")]
    pub span: humantime::Duration,
    /// The share of facts that are sent twice, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub duplicates: f64,
    /// The share of facts that come late, 0 to 1 [default: 0.02]
    #[arg(long, value_name = "SHARE")]
    pub late: Option<f64>,
    /// Writes into this file instead of standard output
    #[arg(long, conflicts_with = "into_daemon")]
    pub output: Option<PathBuf>,
    /// Sends them to the running daemon
    #[arg(long)]
    pub into_daemon: bool,
}

impl GenerateArgs {
    fn generator(&self) -> Result<Generator> {
        let end = self.end.unwrap_or_else(Utc::now);
        let mut options = GeneratorOptions::new(self.facts, self.seed, end);
        options.span = self.span.into();
        options.duplicates = self.duplicates;
        options.late = self.late.unwrap_or(options.late);
        Generator::new(&options).map_err(|e| Error::Invalid(e.to_string()))
    }

    /// How long to wait before the next chunk so that the rate holds.
    fn pause(&self, begun: Instant, sent: u64) -> Duration {
        let due = self.rate.map_or(0.0, |rate| sent as f64 / rate.max(0.001));
        Duration::from_secs_f64(due).saturating_sub(begun.elapsed())
    }
}

/// What became of the generated facts.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct GenerateReport {
    /// How many records were generated.
    pub records: u64,
    /// How many of them the daemon has taken as facts.
    pub facts: u64,
    /// How many it could not take.
    pub dead_letters: u64,
    /// How many it had already, by the topic's `dedup`.
    pub duplicates: u64,
}

/// Generates facts. Ends early, and well, where the reader of `out` goes away.
pub async fn generate(
    args: &GenerateArgs,
    client: Option<&Client>,
    out: &mut (dyn Write + Send),
) -> Result<GenerateReport> {
    let mut report = GenerateReport::default();
    let mut generator = args.generator()?;
    let failed = |e| Error::io("the output", e);
    let mut file = match &args.output {
        Some(path) => {
            let file = std::fs::File::create(path).map_err(|e| Error::io(path, e))?;
            Some(std::io::BufWriter::with_capacity(1 << 20, file))
        }
        None => None,
    };
    let begun = Instant::now();
    loop {
        let mut lines = Vec::new();
        let facts = generator.next_ndjson(&mut lines, CHUNK);
        if facts == 0 {
            break;
        }
        match (client, &mut file) {
            (Some(client), _) => {
                let taken = client.write_ndjson(&args.topic, lines.into()).await?;
                report.facts += taken.facts;
                report.dead_letters += taken.dead_letters;
                report.duplicates += taken.duplicates;
            }
            (None, Some(file)) => file.write_all(&lines).map_err(failed)?,
            (None, None) => match out.write_all(&lines) {
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(report),
                written => written.map_err(failed)?,
            },
        }
        report.records += facts as u64;
        let pause = args.pause(begun, report.records);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    if let Some(mut file) = file {
        file.flush().map_err(failed)?;
    }
    Ok(report)
}

/// Writes facts to standard output or a file.
pub(crate) async fn run(args: &GenerateArgs) -> Result<u8> {
    let mut out = BufWriter::new(std::io::stdout());
    generate(args, None, &mut out).await?;
    Ok(0)
}

/// Sends facts to the running daemon, and says what came of them.
pub(crate) async fn run_into_daemon(
    args: &GenerateArgs,
    context: &Context,
    printing: Printing,
) -> Result<u8> {
    let client = Client::find(&context.storage).await?.ok_or_else(|| {
        Error::Unavailable("no daemon runs; start one with `anabranch up`".into())
    })?;
    let begun = Instant::now();
    let report = generate(args, Some(&client), &mut std::io::stdout()).await?;
    let text = || {
        format!(
            "{} acknowledged by the daemon, {}, {}: {}\n",
            counted(report.facts, "fact", "facts"),
            counted(report.dead_letters, "dead letter", "dead letters"),
            counted(report.duplicates, "duplicate", "duplicates"),
            human_rate(report.records, begun.elapsed())
        )
    };
    printing.either(text, &report)?;
    Ok(if report.dead_letters > 0 {
        DEAD_LETTERS
    } else {
        0
    })
}
