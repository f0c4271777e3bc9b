//! Numbered facts over HTTP, many a request, with a book of what became of each.

use anabranch_jobs::reader::client::Client;
use anabranch_shared::{Error, ReadMode};
use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type};

use crate::fates::{Fate, Fates, Place};
use crate::ledger::line;

/// Facts of a request.
pub const PER_REQUEST: i64 = 500;

/// Sends numbered facts to a daemon, one request after the other.
#[derive(Clone, Debug, Default)]
pub struct Sender {
    fates: Fates,
    next: i64,
    last: Vec<i64>,
}

impl Sender {
    /// A sender whose facts begin at a number.
    pub fn from(first: i64) -> Self {
        Self {
            next: first,
            ..Default::default()
        }
    }

    /// Sends so many facts, or until a request fails: of its facts it is not known whether they are
    /// in.
    pub async fn send(&mut self, client: &Client, facts: i64) -> Result<(), Error> {
        let end = self.next + facts;
        while self.next < end {
            let ids = self.next..end.min(self.next + PER_REQUEST);
            self.next = ids.end;
            self.last = ids.clone().collect();
            let body: String = ids.clone().map(line).collect();
            ids.clone()
                .for_each(|id| self.fates.note(id, Fate::Unknown));
            let written = client.write_ndjson("facts", body.into()).await?;
            let [first, end] = written.offsets;
            if end - first != ids.end - ids.start {
                let text = format!("offsets [{first}, {end}) for facts {ids:?}");
                return Err(Error::Internal(text));
            }
            for (offset, id) in (first..).zip(ids) {
                let partition = written.partition;
                self.fates
                    .note(id, Fate::There(Place { partition, offset }));
            }
        }
        Ok(())
    }

    /// As [`Sender::send`], beside the caller, which learns the outcome from the book.
    pub fn send_beside(mut self, client: &Client, facts: i64) -> tokio::task::JoinHandle<Self> {
        let client = client.clone();
        tokio::spawn(async move {
            // A daemon that dies is what most of this is for.
            self.send(&client, facts).await.ok();
            self
        })
    }

    /// The last request was refused whole: its facts must not be there.
    pub fn was_refused(&mut self) {
        for id in self.last.drain(..) {
            self.fates.note(id, Fate::Withdrawn);
        }
    }

    /// What became of each fact.
    pub fn fates(&self) -> &Fates {
        &self.fates
    }

    /// The number of the next fact.
    pub fn next(&self) -> i64 {
        self.next
    }
}

/// The numbers and places of all facts, as a daemon says.
pub async fn found(client: &Client) -> anyhow::Result<Vec<(i64, Place)>> {
    let sql = "SELECT _partition, _offset, id FROM facts";
    let mut found = Vec::new();
    for batch in client.query(sql, ReadMode::Merged).await?.batches {
        let partitions = cast(batch.column(0), &DataType::Int32)?;
        let partitions = partitions.as_primitive::<Int32Type>().values();
        let offsets = cast(batch.column(1), &DataType::Int64)?;
        let offsets = offsets.as_primitive::<Int64Type>().values();
        let ids = batch.column(2).as_primitive::<Int64Type>().values();
        for ((partition, offset), id) in partitions.iter().zip(offsets).zip(ids) {
            let place = Place {
                partition: *partition,
                offset: *offset,
            };
            found.push((*id, place));
        }
    }
    Ok(found)
}
