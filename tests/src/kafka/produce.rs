//! A producer of numbered facts that keeps book of what the brokers acknowledged. Its methods block:
//! in an async test, `tokio::task::block_in_place(|| producer.send(1_000))`, or
//! [`Producer::send_beside`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use crate::fates::{Fate, Fates, Place};
use crate::ledger::line;

/// How long an acknowledgement, or a transaction's end, may take; brokers are stopped meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);

/// What marks a record that is no numbered fact.
const RAW: usize = usize::MAX;

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Its name in `compression.type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How facts become records.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The compression.
    pub codec: Codec,
    /// A key, `k` and the last two digits of the number; it chooses the partition.
    pub keys: bool,
    /// Two headers: `source`, `h` and the number modulo 3; and `empty`, without a value.
    pub headers: bool,
    /// The id of Confluent's frame before the JSON; `None` for none.
    pub framed: Option<u32>,
    /// All go there; by the key, or at random, where it is `None`.
    pub partition: Option<i32>,
    /// The record's timestamp in milliseconds for number 0, one more for each further number; the
    /// time of sending where it is `None`.
    pub timestamp_ms: Option<i64>,
    /// The `transactional.id`; without one records are visible as they are acknowledged.
    pub transactions: Option<String>,
    /// The JSON of a number.
    pub value: fn(i64) -> String,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            codec: Codec::None,
            keys: false,
            headers: false,
            framed: None,
            partition: None,
            timestamp_ms: None,
            transactions: None,
            value: |id| line(id).trim_end().to_owned(),
        }
    }
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its facts become visible.
    Commit,
    /// Its facts never do.
    Abort,
}

#[derive(Debug, Default)]
struct Book {
    fates: Mutex<Fates>,
    /// Delivered in the open transaction.
    open: Mutex<Vec<(i64, Place)>>,
    raw: Mutex<Vec<Place>>,
    failed: AtomicU64,
    transactional: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Debug)]
struct Deliveries(Arc<Book>);

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        // That a broker is down is what many tests are about.
        let away = [
            RDKafkaErrorCode::AllBrokersDown,
            RDKafkaErrorCode::BrokerTransportFailure,
        ];
        if !error
            .rdkafka_error_code()
            .is_some_and(|e| away.contains(&e))
        {
            eprintln!("producer: {error}: {reason}");
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        let Ok(message) = result else {
            self.0.failed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let place = Place {
            partition: message.partition(),
            offset: message.offset(),
        };
        match i64::try_from(id) {
            Err(_) => lock(&self.0.raw).push(place),
            Ok(id) if self.0.transactional => lock(&self.0.open).push((id, place)),
            Ok(id) => lock(&self.0.fates).note(id, Fate::There(place)),
        }
    }
}

/// A producer of facts whose numbers follow each other.
pub struct Producer {
    inner: BaseProducer<Deliveries>,
    book: Arc<Book>,
    topic: String,
    shape: Shape,
    next: i64,
}

impl Producer {
    /// A producer whose facts begin at a number. It is idempotent: what it repeats itself is stored
    /// once.
    pub fn new(bootstrap: &str, topic: &str, shape: Shape, first: i64) -> anyhow::Result<Self> {
        let book = Arc::new(Book {
            transactional: shape.transactions.is_some(),
            ..Default::default()
        });
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", bootstrap)
            .set("enable.idempotence", "true")
            .set("compression.type", shape.codec.name())
            .set("partitioner", "murmur2_random")
            // Without keys each record chooses anew, so that few records reach every partition.
            .set("sticky.partitioning.linger.ms", "0")
            .set("reconnect.backoff.max.ms", "500")
            .set("linger.ms", "5")
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        if let Some(id) = &shape.transactions {
            config.set("transactional.id", id);
        }
        let inner: BaseProducer<Deliveries> =
            config.create_with_context(Deliveries(Arc::clone(&book)))?;
        if shape.transactions.is_some() {
            inner.init_transactions(PATIENCE)?;
        }
        Ok(Self {
            inner,
            book,
            topic: topic.to_owned(),
            shape,
            next: first,
        })
    }

    /// Hands over the next fact; waits only while the queue is full.
    fn hand_over(&mut self) -> anyhow::Result<()> {
        let id = self.next;
        self.next += 1;
        let json = (self.shape.value)(id);
        let value = match self.shape.framed {
            None => json.into_bytes(),
            Some(schema) => {
                let mut framed = vec![0];
                framed.extend(schema.to_be_bytes());
                framed.extend(json.as_bytes());
                framed
            }
        };
        let key = self.shape.keys.then(|| format!("k{}", id % 100));
        let headers = self.shape.headers.then(|| {
            let source = format!("h{}", id % 3);
            let (source, empty) = (Some(&source), None::<&str>);
            OwnedHeaders::new()
                .insert(Header {
                    key: "source",
                    value: source,
                })
                .insert(Header {
                    key: "empty",
                    value: empty,
                })
        });
        let timestamp = self.shape.timestamp_ms.map(|first| first + id);
        lock(&self.book.fates).note(id, Fate::Unknown);
        self.enqueue(
            usize::try_from(id)?,
            key.as_deref().map(str::as_bytes),
            Some(&value),
            headers,
            timestamp,
        )
    }

    fn enqueue(
        &self,
        opaque: usize,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Option<OwnedHeaders>,
        timestamp: Option<i64>,
    ) -> anyhow::Result<()> {
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&self.topic, opaque);
        (record.key, record.payload) = (key, value);
        (record.headers, record.timestamp) = (headers, timestamp);
        record.partition = self.shape.partition;
        let begun = Instant::now();
        loop {
            record = match self.inner.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if begun.elapsed() < PATIENCE =>
                {
                    back
                }
                Err((e, _)) => return Err(e.into()),
            };
            self.inner.poll(Duration::from_millis(10));
        }
    }

    /// Sends the next facts, and waits until each is acknowledged or has failed for good.
    pub fn send(&mut self, facts: i64) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.shape.transactions.is_none(),
            "send it in a transaction"
        );
        for _ in 0..facts {
            self.hand_over()?;
        }
        Ok(self.inner.flush(PATIENCE)?)
    }

    /// Sends the next facts in a transaction, and ends that.
    pub fn transaction(&mut self, facts: i64, end: End) -> anyhow::Result<()> {
        self.inner.begin_transaction()?;
        for _ in 0..facts {
            self.hand_over()?;
        }
        self.inner.flush(PATIENCE)?;
        match end {
            End::Commit => self.inner.commit_transaction(PATIENCE)?,
            End::Abort => self.inner.abort_transaction(PATIENCE)?,
        }
        let mut fates = lock(&self.book.fates);
        for (id, place) in lock(&self.book.open).drain(..) {
            let fate = match end {
                End::Commit => Fate::There(place),
                End::Abort => Fate::Withdrawn,
            };
            fates.note(id, fate);
        }
        Ok(())
    }

    /// Sends a record that is no numbered fact, such as one that becomes a dead letter, and waits for
    /// its place.
    pub fn send_raw(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> anyhow::Result<Place> {
        self.enqueue(RAW, key, value, None, None)?;
        self.inner.flush(PATIENCE)?;
        let place = lock(&self.book.raw).pop();
        place.ok_or_else(|| anyhow::anyhow!("the record was not acknowledged"))
    }

    /// Sends facts at a rate, in a thread of its own, until it is told to stop; then waits until all
    /// is acknowledged.
    pub fn send_beside(mut self, per_second: f64, stop: Arc<AtomicBool>) -> Sending {
        std::thread::spawn(move || {
            let (begun, first) = (Instant::now(), self.next);
            while !stop.load(Ordering::Relaxed) {
                let due = first + (begun.elapsed().as_secs_f64() * per_second) as i64;
                while self.next < due {
                    self.hand_over()?;
                }
                self.inner.poll(Duration::from_millis(2));
            }
            self.inner.flush(PATIENCE)?;
            Ok(self)
        })
    }

    /// What became of each fact so far.
    pub fn fates(&self) -> Fates {
        self.inner.poll(Duration::ZERO);
        lock(&self.book.fates).clone()
    }

    /// The number of the next fact.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// How many records failed for good; of those it is not known whether they are there.
    pub fn failed(&self) -> u64 {
        self.book.failed.load(Ordering::Relaxed)
    }
}

/// A producer that sends in a thread of its own.
pub type Sending = std::thread::JoinHandle<anyhow::Result<Producer>>;
