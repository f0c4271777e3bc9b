//! Partitions whose records a source keeps, as Kafka does: daemons take them, read on where the
//! log ends, give them up, and now and then two of them read the same one.

use std::sync::Arc;

use anabranch_shared::settings::Ack;
use anabranch_shared::{Offset, OffsetRange, PartitionId};
use anabranch_speed::{PlacedFacts, TopicStream};
use anabranch_tests::facts;
use arrow::array::{
    ArrayRef, BinaryViewArray, Int32Array, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};
use rand::Rng;

use super::events::unless_faulty;
use super::world::{Acknowledged, World};

/// The first of the source's partitions.
const SOURCE: i32 = 1_000;
/// How many there are.
const PARTITIONS: i32 = 2;

impl World<'_> {
    /// A daemon reads some messages, of a partition that it takes where it has not.
    pub(crate) async fn fetch(&mut self, i: usize) -> anyhow::Result<()> {
        self.coverage.count("event: fetch from the source");
        let partition = PartitionId(SOURCE + self.rng.random_range(0..PARTITIONS));
        let stream = self.machines[i].stream()?;
        let lane = stream.with_delta(|d| d.lanes.get(&partition).copied());
        let mut next = match lane {
            Some(next) => next,
            None => {
                let taken = unless_faulty(stream.upkeep().take_lanes(&[partition]).await)?;
                let Some((_, next)) = taken.unwrap_or_default().pop() else {
                    return Ok(());
                };
                next
            }
        };
        let others = self.machines.iter().enumerate().filter(|(j, m)| {
            let has = |s: Arc<TopicStream>| s.with_delta(|d| d.lanes.contains_key(&partition));
            *j != i && m.stream().is_ok_and(has)
        });
        if others.count() > 0 {
            self.coverage.count("event: two daemons read one partition");
        }
        for _ in 0..self.rng.random_range(1..4) {
            let end = self.sourced_end(partition);
            if next.0 >= end {
                self.produce(partition)?;
            }
            let message = self
                .sourced
                .iter()
                .find(|m| m.partition == partition && m.range.start == next);
            let message =
                message.ok_or_else(|| anyhow::anyhow!("{partition}: no message at {next}"))?;
            let piece = PlacedFacts {
                partition,
                range: message.range,
                facts: facts::stored(&message.facts, &stream.topic())?,
                dead: self.dead_letters(message)?,
                ingest: None,
                gap: false,
                bytes: message.facts.get_array_memory_size(),
            };
            next = message.range.end;
            if !stream.writer().push(piece) {
                // Another daemon has landed: the lane goes on elsewhere.
                self.coverage.count("event: a lane went elsewhere");
                break;
            }
        }
        Ok(())
    }

    /// A daemon gives up a partition of the source, landed or not.
    pub(crate) async fn leave(&mut self, i: usize) -> anyhow::Result<()> {
        self.coverage.count("event: a partition is given up");
        let partition = PartitionId(SOURCE + self.rng.random_range(0..PARTITIONS));
        let stream = self.machines[i].stream()?;
        if self.rng.random_bool(0.3) {
            unless_faulty(stream.upkeep().land_lanes(&[partition]).await)?;
        }
        if self.rng.random_bool(0.4) {
            self.coverage
                .count("event: a partition is given up while it lands");
            Box::pin(self.fetch(i)).await?;
            let held = stream.with_delta(|d| {
                let mut held = d.unlanded.iter().map(|p| p.partition);
                held.find(|p| p.0 >= SOURCE)
            });
            let partition = held.unwrap_or(partition);
            let mut landing = Box::pin(stream.upkeep().land());
            // It has begun, and waits for the storage.
            let done = futures::poll!(&mut landing);
            stream.upkeep().leave_lanes(&[partition]);
            // What comes meanwhile is none of what lands.
            if self.machines[i].ack == Ack::Wal {
                Box::pin(self.write(i)).await?;
            }
            let landed = match done {
                std::task::Poll::Ready(landed) => landed,
                std::task::Poll::Pending => landing.await,
            };
            unless_faulty(landed)?;
            return Ok(());
        }
        stream.upkeep().leave_lanes(&[partition]);
        Ok(())
    }

    fn sourced_end(&self, partition: PartitionId) -> i64 {
        let of = self.sourced.iter().filter(|m| m.partition == partition);
        of.map(|m| m.range.end.0).max().unwrap_or(0)
    }

    /// The source gets some messages, some of which can't be facts, with offsets that hold none.
    fn produce(&mut self, partition: PartitionId) -> anyhow::Result<()> {
        let start = self.sourced_end(partition);
        let skipped = if self.rng.random_bool(0.2) { 2 } else { 0 };
        let rows = self.rng.random_range(1..12);
        let offsets: Vec<i64> = (0..rows).map(|r| start + skipped + r as i64).collect();
        let mut dead = Vec::new();
        let mut alive = Vec::new();
        for offset in offsets {
            match self.rng.random_bool(0.1) {
                true => dead.push(offset),
                false => alive.push(offset),
            }
        }
        let fields = facts::fields(&mut self.rng, &self.whole, alive.len())?;
        let range = OffsetRange::new(Offset(start), Offset(start + skipped + rows as i64));
        self.sourced.push(Acknowledged {
            partition,
            range,
            facts: facts::placed(&fields, &self.whole, partition, alive)?,
            dead,
        });
        Ok(())
    }

    fn dead_letters(&self, message: &Acknowledged) -> anyhow::Result<Option<RecordBatch>> {
        if message.dead.is_empty() {
            return Ok(None);
        }
        let rows = message.dead.len();
        let texts = |text: &'static str| StringViewArray::from_iter_values((0..rows).map(|_| text));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(texts("facts")),
            Arc::new(Int32Array::from(vec![message.partition.0; rows])),
            Arc::new(Int64Array::from(message.dead.clone())),
            Arc::new(
                TimestampMicrosecondArray::from(vec![facts::NOW_US; rows]).with_timezone("UTC"),
            ),
            Arc::new(texts("source")),
            Arc::new(Int64Array::from(vec![None::<i64>; rows])),
            Arc::new(texts("of no use")),
            Arc::new(texts("ts")),
            Arc::new(BinaryViewArray::from_iter_values(
                (0..rows).map(|_| b"{}".as_slice()),
            )),
        ];
        let schema = anabranch_shared::dead_letter_schema();
        Ok(Some(RecordBatch::try_new(schema, columns)?))
    }
}
