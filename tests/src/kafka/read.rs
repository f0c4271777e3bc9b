//! All that a `read_committed` consumer sees of a topic: what the log must hold, read past us.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::fates::Place;

/// How long no record may come before the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it is.
    pub place: Place,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers in their order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// The number of the fact that it holds, in Confluent's frame or without; `None` where it is no
    /// numbered fact.
    pub fn id(&self) -> Option<i64> {
        let json = match self.value.as_deref()? {
            [0, _, _, _, _, json @ ..] => json,
            json => json,
        };
        let value: serde_json::Value = serde_json::from_slice(json).ok()?;
        value.get("id")?.as_i64()
    }
}

/// Reads a topic from its beginning to its present end. Blocks.
pub fn read_all(bootstrap: &str, topic: &str) -> anyhow::Result<Vec<Record>> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "reader-of-all")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true");
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let found = metadata.topics().first().context("no such topic")?;
    let mut open: BTreeSet<i32> = found.partitions().iter().map(|p| p.id()).collect();
    anyhow::ensure!(!open.is_empty(), "topic `{topic}` has no partitions");
    let mut assignment = TopicPartitionList::new();
    for partition in &open {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let (mut records, mut last) = (Vec::new(), Instant::now());
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                last = Instant::now();
                let header = |h: rdkafka::message::Header<'_, &[u8]>| {
                    (h.key.to_owned(), h.value.map(<[u8]>::to_vec))
                };
                records.push(Record {
                    place: Place {
                        partition: message.partition(),
                        offset: message.offset(),
                    },
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers: message
                        .headers()
                        .map(|all| all.iter().map(header).collect())
                        .unwrap_or_default(),
                    timestamp_ms: message.timestamp().to_millis(),
                });
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(e)) => return Err(e.into()),
            None => anyhow::ensure!(
                last.elapsed() < PATIENCE,
                "partitions {open:?} of `{topic}` give no record and no end"
            ),
        }
    }
    Ok(records)
}
