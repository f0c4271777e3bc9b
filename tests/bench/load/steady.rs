//! A steady stream of numbered facts, to a daemon over HTTP or to Kafka, until it is told to stop. It
//! keeps book of what was acknowledged: the independent side of the soak's last check.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anabranch_shared::WallClock;
use anyhow::{Context, Result, ensure};
use arrow::temporal_conversions::timestamp_us_to_datetime;
use clap::ValueEnum;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};
use serde_json::{Value, json};

use crate::http::{Connection, host, request};

/// Facts of an HTTP request, and of what is handed to Kafka at once.
const AT_ONCE: i64 = 500;

/// How long all may take to be acknowledged in the end.
const PATIENCE: Duration = Duration::from_secs(300);

/// The squares of numbers are summed modulo this prime, so that one fact lost and another doubled
/// don't cancel out.
const PRIME: i64 = 1_000_003;

/// Where facts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum To {
    /// To a daemon, as NDJSON
    Http,
    /// To Kafka's brokers
    Kafka,
}

/// What to produce.
#[derive(Debug, clap::Args)]
pub struct SteadyArgs {
    /// Where to
    #[arg(long, value_enum)]
    to: To,
    /// The daemon's URL, or Kafka's `bootstrap.servers`
    #[arg(long)]
    at: String,
    /// The topic
    #[arg(long, default_value = "facts")]
    topic: String,
    /// Facts a second
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Different posts
    #[arg(long, default_value_t = 2_000)]
    posts: i64,
    /// Kafka's compression
    #[arg(long, default_value = "zstd")]
    codec: String,
}

/// Of acknowledged facts: how many, the sum of their numbers, and that of their squares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    count: u64,
    sum: i128,
    squares: i128,
}

impl Sums {
    fn add(&mut self, id: i64) {
        let rest = id % PRIME;
        self.count += 1;
        self.sum += i128::from(id);
        self.squares += i128::from(rest * rest % PRIME);
    }

    fn json(&self) -> Value {
        json!({ "count": self.count, "sum": self.sum.to_string(), "squares": self.squares.to_string() })
    }
}

/// What was acknowledged of each partition, and of which numbers nothing is known.
#[derive(Debug, Default)]
struct Book {
    there: BTreeMap<i32, Sums>,
    unknown: Vec<[i64; 2]>,
    /// Why the last request failed.
    trouble: Option<String>,
}

type Shared = Arc<Mutex<Book>>;

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(book: &Shared, next: i64, done: bool) -> Result<()> {
    let book = lock(book);
    let mut all = Sums::default();
    for one in book.there.values() {
        all.count += one.count;
        all.sum += one.sum;
        all.squares += one.squares;
    }
    let mut line = json!({ "sent": next, "acknowledged": all.count, "trouble": book.trouble });
    if done {
        let partition = |(p, sums): (&i32, &Sums)| (p.to_string(), sums.json());
        let partitions: serde_json::Map<_, _> = book.there.iter().map(partition).collect();
        line["all"] = all.json();
        line["partitions"] = partitions.into();
        line["unknown"] = json!(book.unknown);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// The JSON of a fact that happens now.
fn fact(id: i64, posts: i64, now: &str) -> String {
    let (post, visitor) = (id * 7_919 % posts, id * 104_729 % 1_000_000);
    let engaged = id % 60_000;
    format!(
        "{{\"ts\":\"{now}\",\"id\":{id},\"url\":\"/posts/{post}\",\"visitor\":\"v{visitor}\",\"section\":\"s{}\",\"engaged_ms\":{engaged}}}",
        post % 11
    )
}

fn now() -> Result<String> {
    let at = timestamp_us_to_datetime(WallClock::default().now_us());
    let at = at.context("the clock's time is out of range")?;
    Ok(format!("{}T{}Z", at.date(), at.time()))
}

/// Produces until standard input says `stop` or ends.
pub fn run(args: &SteadyArgs) -> Result<()> {
    ensure!(
        args.rate > 0 && args.posts > 0,
        "`--rate` and `--posts` have to be at least 1"
    );
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            for line in std::io::stdin().lock().lines() {
                if line.is_ok_and(|l| l.trim() != "stop") {
                    continue;
                }
                break;
            }
            stop.store(true, Ordering::Relaxed);
        }
    });
    let book = Shared::default();
    let mut sink = match args.to {
        To::Http => Sink::Http(Http::new(&args.at, &args.topic)?),
        To::Kafka => Sink::Kafka(kafka(args, &book)?),
    };
    let (begun, mut told, mut next) = (Instant::now(), Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        if told.elapsed() >= Duration::from_secs(1) {
            report(&book, next, false)?;
            told = Instant::now();
        }
        let due = (begun.elapsed().as_secs_f64() * args.rate as f64) as i64;
        // Whole requests, so that a daemon gets as many at every rate.
        if due - next < AT_ONCE {
            sink.rest(Duration::from_millis(2));
            continue;
        }
        let at = now()?;
        let ids = next..next + AT_ONCE;
        next = ids.end;
        let bodies: Vec<_> = ids.clone().map(|id| fact(id, args.posts, &at)).collect();
        sink.send(args, ids, &bodies, &book, &stop)?;
    }
    if let Sink::Kafka(producer) = &sink {
        producer.flush(PATIENCE)?;
    }
    report(&book, next, true)
}

enum Sink {
    Http(Http),
    Kafka(BaseProducer<Deliveries>),
}

impl Sink {
    fn rest(&self, time: Duration) {
        match self {
            Self::Http(_) => std::thread::sleep(time),
            Self::Kafka(producer) => {
                producer.poll(time);
            }
        }
    }

    fn send(
        &mut self,
        args: &SteadyArgs,
        ids: std::ops::Range<i64>,
        bodies: &[String],
        book: &Shared,
        stop: &AtomicBool,
    ) -> Result<()> {
        match self {
            Self::Http(http) => http.send(ids, bodies, book, stop),
            Self::Kafka(producer) => {
                for (id, body) in ids.zip(bodies) {
                    enqueue(producer, args, id, body)?;
                }
                Ok(())
            }
        }
    }
}

/// A daemon, which may be away for a while.
struct Http {
    host: String,
    path: String,
    connection: Option<Connection>,
}

impl Http {
    fn new(url: &str, topic: &str) -> Result<Self> {
        Ok(Self {
            host: host(url)?.to_owned(),
            path: format!("/topics/{topic}"),
            connection: None,
        })
    }

    /// Sends a request. What is refused is sent again; where no answer comes, the facts may be in or
    /// not, and are not sent again.
    fn send(
        &mut self,
        ids: std::ops::Range<i64>,
        bodies: &[String],
        book: &Shared,
        stop: &AtomicBool,
    ) -> Result<()> {
        let body = bodies.join("\n");
        let mut bytes = request("POST", &self.path, &self.host, &[], body.len());
        bytes.extend_from_slice(body.as_bytes());
        while !stop.load(Ordering::Relaxed) {
            let connection = match self.connection.take() {
                Some(open) => Ok(open),
                None => Connection::open(&self.host),
            };
            let mut connection = match connection {
                Ok(open) => open,
                Err(e) => {
                    lock(book).trouble = Some(e.to_string());
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
            };
            match connection.send(&bytes) {
                Ok(answer) if answer.status == 200 => {
                    let partition = i32::try_from(answer.number("partition").unwrap_or(0))?;
                    let mut book = lock(book);
                    book.trouble = None;
                    let sums = book.there.entry(partition).or_default();
                    ids.for_each(|id| sums.add(id));
                    self.connection = Some(connection);
                    return Ok(());
                }
                Ok(answer) if matches!(answer.status, 429 | 503) => {
                    lock(book).trouble = Some(String::from_utf8_lossy(answer.body).into_owned());
                    std::thread::sleep(Duration::from_millis(50));
                    self.connection = Some(connection);
                }
                Ok(answer) => return answer.ok(),
                Err(e) => {
                    let mut book = lock(book);
                    book.trouble = Some(e.to_string());
                    book.unknown.push([ids.start, ids.end]);
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Books what Kafka acknowledges.
struct Deliveries(Shared);

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, _: &str) {
        lock(&self.0).trouble = Some(error.to_string());
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        let id = i64::try_from(id).unwrap_or(i64::MAX);
        let mut book = lock(&self.0);
        match result {
            Ok(message) => {
                book.trouble = None;
                book.there.entry(message.partition()).or_default().add(id);
            }
            Err((e, _)) => {
                book.trouble = Some(e.to_string());
                book.unknown.push([id, id + 1]);
            }
        }
    }
}

fn kafka(args: &SteadyArgs, book: &Shared) -> Result<BaseProducer<Deliveries>> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &args.at)
        .set("enable.idempotence", "true")
        .set("compression.type", &args.codec)
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "20")
        // A broker that is away for long makes no fact's fate unknown.
        .set("message.timeout.ms", "0")
        .set("reconnect.backoff.max.ms", "500")
        .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
    Ok(config.create_with_context(Deliveries(Arc::clone(book)))?)
}

fn enqueue(
    producer: &BaseProducer<Deliveries>,
    args: &SteadyArgs,
    id: i64,
    body: &str,
) -> Result<()> {
    let key = format!("k{}", id % 1_000);
    let mut record = BaseRecord::with_opaque_to(&args.topic, usize::try_from(id)?)
        .key(&key)
        .payload(body);
    loop {
        record = match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => back,
            Err((e, _)) => return Err(e.into()),
        };
        producer.poll(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_and_a_doubled_fact_do_not_cancel_out() {
        let sums = |ids: &[i64]| {
            let mut sums = Sums::default();
            ids.iter().for_each(|id| sums.add(*id));
            sums
        };
        let (right, wrong) = (sums(&[1, 2, 3, 4]), sums(&[1, 3, 3, 3]));
        assert_eq!((right.count, right.sum), (wrong.count, wrong.sum));
        assert_ne!(right, wrong);
        assert_eq!(sums(&[1_000_005]).squares, 4);
    }

    #[test]
    fn a_fact_is_json_of_now() -> Result<()> {
        let value: Value = serde_json::from_str(&fact(12, 5, &now()?))?;
        assert_eq!(value["id"], 12);
        let ts = value["ts"].as_str().unwrap_or_default();
        assert!(
            ts.starts_with("20") && ts.contains('T') && ts.ends_with('Z'),
            "{ts}"
        );
        Ok(())
    }
}
