//! `anabranch generate`: deterministic web-analytics facts, to files, to standard output or into the
//! daemon.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anabranch_shared::{Error, Result, counted};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::clock::now;
use crate::commands::DEAD_LETTERS;
use crate::commands::printing::Printing;
use crate::generate::{CRAWLS, EVENTS, Generator, GeneratorOptions, Newsroom};
use crate::output::human_rate;
use crate::project::context::Context;
use crate::reader::client::Client;

/// Facts of one request or one write.
const CHUNK: usize = 1_000;

/// The name that stands for the facts of both topics of the example.
const NEWSROOM: &str = "newsroom";

/// How much time the facts span: of a topic, and of the newsroom, which compares with the four weeks
/// before.
const SPAN: Duration = Duration::from_secs(48 * 3_600);
const NEWSROOM_SPAN: Duration = Duration::from_secs(35 * 24 * 3_600);

/// The share of the newsroom's facts that come twice.
const NEWSROOM_DUPLICATES: f64 = 0.01;

/// What is generated, and whereto.
#[derive(Debug, clap::Args)]
pub struct GenerateArgs {
    /// The topic (its fields are those of `anabranch init`); or `newsroom`: the topics `events` and
    /// `crawls` of that example
    pub topic: String,
    /// How many facts are made; of the newsroom, of `events`
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
    /// How much time the facts span, with its unit: `30m`, `48h`, `7d` [default: 48h; of the newsroom
    /// 35d]
    #[arg(long, value_name = "DURATION")]
    pub span: Option<humantime::Duration>,
    /// The share of facts that are sent twice, 0 to 1 [default: 0; of the newsroom 0.01]
    #[arg(long, value_name = "SHARE")]
    pub duplicates: Option<f64>,
    /// The share of facts that come late, 0 to 1 [default: 0.02]
    #[arg(long, value_name = "SHARE")]
    pub late: Option<f64>,
    /// Writes into this file instead of standard output; of the newsroom, a file for each topic into
    /// this folder
    #[arg(long, conflicts_with = "into_daemon", value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Sends them to the running daemon
    #[arg(long)]
    pub into_daemon: bool,
}

impl GenerateArgs {
    fn is_newsroom(&self) -> bool {
        self.topic == NEWSROOM
    }

    fn source(&self) -> Result<Source> {
        let end = self.end.unwrap_or_else(now);
        let mut options = GeneratorOptions::new(self.facts, self.seed, end);
        let (span, duplicates) = match self.is_newsroom() {
            true => (NEWSROOM_SPAN, NEWSROOM_DUPLICATES),
            false => (SPAN, 0.0),
        };
        options.span = self.span.map_or(span, Into::into);
        options.duplicates = self.duplicates.unwrap_or(duplicates);
        options.late = self.late.unwrap_or(options.late);
        let made = match self.is_newsroom() {
            true => Newsroom::new(&options).map(|n| Source::Newsroom(Box::new(n))),
            false => Generator::new(&options).map(|g| Source::Topic {
                topic: self.topic.clone(),
                generator: Box::new(g),
            }),
        };
        made.map_err(|e| Error::Invalid(e.to_string()))
    }

    /// The files that are written, by their topic.
    fn files(&self) -> Result<BTreeMap<String, BufWriter<File>>> {
        let Some(path) = &self.output else {
            return Ok(BTreeMap::new());
        };
        let open = |topic: &str, path: &Path| {
            let file = File::create(path).map_err(|e| Error::io(path, e))?;
            Ok((topic.to_owned(), BufWriter::with_capacity(1 << 20, file)))
        };
        if !self.is_newsroom() {
            return [open(&self.topic, path)].into_iter().collect();
        }
        std::fs::create_dir_all(path).map_err(|e| Error::io(path, e))?;
        let topics = [EVENTS, CRAWLS].into_iter();
        topics
            .map(|t| open(t, &path.join(format!("{t}.ndjson"))))
            .collect()
    }

    /// How long to wait before the next chunk so that the rate holds.
    fn pause(&self, begun: Instant, sent: u64) -> Duration {
        let due = self.rate.map_or(0.0, |rate| sent as f64 / rate.max(0.001));
        Duration::from_secs_f64(due).saturating_sub(begun.elapsed())
    }
}

/// What makes the facts.
enum Source {
    Topic {
        topic: String,
        generator: Box<Generator>,
    },
    Newsroom(Box<Newsroom>),
}

/// Facts of a topic as lines.
struct Lines {
    topic: String,
    facts: u64,
    lines: Vec<u8>,
}

impl Source {
    /// The next facts, in the order in which they come; none is the end.
    fn next(&mut self) -> Vec<Lines> {
        let mut lines = Vec::new();
        let mut made = match self {
            Self::Topic { topic, generator } => {
                let facts = generator.next_ndjson(&mut lines, CHUNK) as u64;
                let topic = topic.clone();
                vec![Lines {
                    topic,
                    facts,
                    lines,
                }]
            }
            Self::Newsroom(newsroom) => {
                let mut crawls = Vec::new();
                let made = newsroom.next_ndjson(&mut lines, &mut crawls, CHUNK);
                let of = |topic: &str, facts, lines| Lines {
                    topic: topic.to_owned(),
                    facts,
                    lines,
                };
                vec![
                    of(EVENTS, made.events, lines),
                    of(CRAWLS, made.crawls, crawls),
                ]
            }
        };
        made.retain(|l| l.facts > 0);
        made
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
    if args.is_newsroom() && client.is_none() && args.output.is_none() {
        return Err(Error::Invalid(
            "these are the facts of two topics; name the folder that takes a file of each with `--output DIR`, or send them with `--into-daemon`".into(),
        ));
    }
    let mut source = args.source()?;
    let failed = |e| Error::io("the output", e);
    let mut files = args.files()?;
    let begun = Instant::now();
    loop {
        let made = source.next();
        if made.is_empty() {
            break;
        }
        for Lines {
            topic,
            facts,
            lines,
        } in made
        {
            match (client, files.get_mut(&topic)) {
                (Some(client), _) => {
                    let taken = client.write_ndjson(&topic, lines.into()).await?;
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
            report.records += facts;
        }
        let pause = args.pause(begun, report.records);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    for file in files.values_mut() {
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
