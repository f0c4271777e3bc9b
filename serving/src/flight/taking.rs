//! Facts that come by the door: the rows that a client sends, as Arrow IPC streams of a few megabytes,
//! each of which is checked, admitted and durable as one request.

use std::fmt::Debug;

use anabranch_shared::{Error, Result};
use arrow::ipc::{MessageHeader, root_as_message};
use arrow_flight::FlightData;
use arrow_flight::sql::{CommandStatementIngest, TableExistsOption, TableNotExistOption};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tonic::Status;

use super::status::status;
use crate::reading::PUBLIC;

/// Rows of so many bytes are taken at once.
const AT_ONCE: usize = 4 << 20;

/// What a message of an Arrow IPC stream begins with (Arrow's columnar format, "Encapsulated message
/// format").
const CONTINUES: [u8; 4] = [0xff; 4];

/// Facts for a topic.
#[derive(Clone, Debug)]
pub struct FactsRequest {
    /// The topic.
    pub topic: String,
    /// The facts, an Arrow IPC stream.
    pub stream: Bytes,
    /// Whether it is refused whole where one of its records can't become a fact.
    pub strict: bool,
    /// By which it may be repeated.
    pub key: Option<String>,
}

/// Who takes facts.
#[async_trait]
pub trait FactIntake: Debug + Send + Sync {
    /// Takes facts, which are durable, and which queries see, when this returns. Returns how many of the
    /// records are there, as facts or as duplicates of others.
    ///
    /// # Errors
    /// What is wrong with them; `NotFound` where there is no such topic.
    async fn take(&self, request: FactsRequest) -> Result<u64>;
}

/// How facts are to be taken.
#[derive(Clone, Debug, Default)]
pub(super) struct HowTaken {
    /// Whether records that can't become facts become dead letters.
    pub(super) is_lenient: bool,
    /// By which all of it may be repeated, where it comes in the same parts.
    pub(super) key: Option<String>,
}

/// The topic that rows are to go to.
///
/// # Errors
/// `Invalid` where something else is asked than to add facts to a topic.
pub(super) fn topic(asked: &CommandStatementIngest, catalog: &str) -> Result<String> {
    let wrong = |why: &str| Err(Error::Invalid(why.to_owned()));
    let options = asked.table_definition_options.unwrap_or_default();
    if options.if_exists() == TableExistsOption::Replace {
        return wrong("facts are added to a topic, and never replaced; append them");
    }
    if options.if_exists() == TableExistsOption::Fail
        && options.if_not_exist() != TableNotExistOption::Fail
    {
        return wrong(
            "topics are declared in `anabranch.toml`, and not created by who sends facts; append them (`mode=\"append\"` in ADBC)",
        );
    }
    if asked.temporary || asked.transaction_id.is_some() {
        return wrong("there are no temporary tables and no transactions; leave them out");
    }
    if asked.catalog.as_ref().is_some_and(|name| name != catalog)
        || asked.schema.as_ref().is_some_and(|name| name != PUBLIC)
    {
        return Err(Error::Invalid(format!(
            "topics are in the schema `{PUBLIC}` of the catalogue `{catalog}`"
        )));
    }
    Ok(asked.table.clone())
}

/// Takes all rows of a stream. Returns how many are there.
pub(super) async fn take(
    intake: &dyn FactIntake,
    topic: &str,
    how: &HowTaken,
    messages: impl Stream<Item = Result<FlightData, Status>> + Unpin,
) -> Result<u64, Status> {
    let mut taken = Taken {
        intake,
        topic,
        how,
        parts: 0,
        so_far: 0,
    };
    match taken.all(messages).await {
        Ok(()) => Ok(taken.so_far),
        Err(e) if taken.so_far == 0 => Err(e),
        Err(e) => Err(Status::new(
            e.code(),
            format!(
                "{}; {} before that were taken and stay",
                e.message(),
                anabranch_shared::counted(taken.so_far, "record", "records")
            ),
        )),
    }
}

/// All rows of a stream, as an Arrow IPC stream.
///
/// # Errors
/// `Invalid` where it is none.
pub(super) async fn collected(
    mut messages: impl Stream<Item = Result<FlightData, Status>> + Unpin,
) -> Result<Bytes, Status> {
    let mut part = Part::default();
    while let Some(message) = messages.next().await {
        part.add(&message?).map_err(|e| status(&e))?;
    }
    Ok(part.take())
}

struct Taken<'a> {
    intake: &'a dyn FactIntake,
    topic: &'a str,
    how: &'a HowTaken,
    parts: u64,
    so_far: u64,
}

impl Taken<'_> {
    async fn all(
        &mut self,
        mut messages: impl Stream<Item = Result<FlightData, Status>> + Unpin,
    ) -> Result<(), Status> {
        let mut part = Part::default();
        while let Some(message) = messages.next().await {
            let message = message?;
            // What came before goes by the dictionary as it was.
            if !part.rows.is_empty() && Part::is_dictionary(&message) {
                self.part(&mut part).await?;
            }
            part.add(&message).map_err(|e| status(&e))?;
            if part.rows.len() >= AT_ONCE {
                self.part(&mut part).await?;
            }
        }
        // An empty one is a request, too: its columns are looked at.
        match part.rows.is_empty() && self.parts > 0 {
            true => Ok(()),
            false => self.part(&mut part).await,
        }
    }

    async fn part(&mut self, part: &mut Part) -> Result<(), Status> {
        self.parts += 1;
        let key = self.how.key.as_ref();
        let request = FactsRequest {
            topic: self.topic.to_owned(),
            stream: part.take(),
            strict: !self.how.is_lenient,
            key: key.map(|key| format!("{key}/{}", self.parts)),
        };
        let taken = self.intake.take(request).await;
        self.so_far += taken.map_err(|e| status(&e))?;
        Ok(())
    }
}

/// Messages of a stream of Flight's as an Arrow IPC stream, which is the same in another frame.
#[derive(Default)]
struct Part {
    /// What each part begins with: the schema, and the dictionaries as they are now, by their ids.
    schema: Vec<u8>,
    dictionaries: Vec<(i64, Vec<u8>)>,
    rows: Vec<u8>,
}

impl Part {
    fn is_dictionary(data: &FlightData) -> bool {
        let message = root_as_message(&data.data_header);
        message.is_ok_and(|m| m.header_type() == MessageHeader::DictionaryBatch)
    }

    fn add(&mut self, data: &FlightData) -> Result<()> {
        if data.data_header.is_empty() {
            return Ok(());
        }
        let wrong = |why: String| Err(Error::Invalid(why));
        let message = match root_as_message(&data.data_header) {
            Ok(message) => message,
            Err(e) => return wrong(format!("a message is damaged: {e}")),
        };
        let kind = message.header_type();
        if (kind == MessageHeader::Schema) != self.schema.is_empty() {
            return wrong("one schema is to come, before all rows".to_owned());
        }
        match (kind, message.header_as_dictionary_batch()) {
            (MessageHeader::Schema, _) => frame(&mut self.schema, data),
            (MessageHeader::RecordBatch, _) => frame(&mut self.rows, data),
            (_, Some(dictionary)) => {
                let id = dictionary.id();
                if !dictionary.isDelta() {
                    self.dictionaries.retain(|(other, _)| *other != id);
                }
                let mut bytes = Vec::new();
                frame(&mut bytes, data);
                self.dictionaries.push((id, bytes));
            }
            (kind, None) => {
                return wrong(format!("a message of a kind that has no rows: {kind:?}"));
            }
        }
        Ok(())
    }

    /// What has come, as a whole stream.
    fn take(&mut self) -> Bytes {
        let mut stream = self.schema.clone();
        for (_, dictionary) in &self.dictionaries {
            stream.extend_from_slice(dictionary);
        }
        stream.append(&mut self.rows);
        stream.extend_from_slice(&CONTINUES);
        stream.extend_from_slice(&[0; 4]);
        stream.into()
    }
}

/// Writes a message with its length and its body, each to a multiple of eight bytes.
fn frame(out: &mut Vec<u8>, data: &FlightData) {
    let header = data.data_header.len().next_multiple_of(8);
    let length = u32::try_from(header).unwrap_or(u32::MAX);
    out.extend_from_slice(&CONTINUES);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&data.data_header);
    out.resize(out.len() + header - data.data_header.len(), 0);
    out.extend_from_slice(&data.data_body);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use anabranch_shared::ipc::{CheckedStream, IpcLimit};
    use arrow::array::{DictionaryArray, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::Int32Type;
    use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
    use futures::{TryStreamExt, stream};
    use parking_lot::Mutex;

    use super::*;

    const LIMIT: IpcLimit = IpcLimit {
        bytes: 1 << 30,
        name: "a test",
    };

    #[derive(Debug, Default)]
    struct Kept {
        rows: Mutex<Vec<RecordBatch>>,
        keys: Mutex<Vec<Option<String>>>,
    }

    #[async_trait]
    impl FactIntake for Kept {
        async fn take(&self, request: FactsRequest) -> Result<u64> {
            let read = CheckedStream::new(request.stream, LIMIT).and_then(CheckedStream::read);
            let read = read.map_err(|e| Error::Invalid(e.to_string()))?;
            let records = read.batches.iter().map(|b| b.num_rows() as u64).sum();
            self.rows.lock().extend(read.batches);
            self.keys.lock().push(request.key);
            Ok(records)
        }
    }

    async fn sent(rows: Vec<RecordBatch>, handling: DictionaryHandling) -> Vec<FlightData> {
        FlightDataEncoderBuilder::new()
            .with_dictionary_handling(handling)
            .build(stream::iter(rows.into_iter().map(Ok)))
            .try_collect()
            .await
            .unwrap()
    }

    fn rows(from: i64, count: i64) -> RecordBatch {
        let numbers = Int64Array::from_iter_values(from..from + count);
        let texts = StringArray::from_iter_values((0..count).map(|n| format!("{n:>1000}")));
        RecordBatch::try_from_iter([
            ("n", Arc::new(numbers) as _),
            ("text", Arc::new(texts) as _),
        ])
        .unwrap()
    }

    #[tokio::test]
    async fn what_is_sent_is_taken_in_parts() {
        let batches: Vec<_> = (0..12).map(|n| rows(n * 1_000, 1_000)).collect();
        let messages = sent(batches.clone(), DictionaryHandling::Hydrate).await;
        let kept = Kept::default();
        let how = HowTaken {
            is_lenient: false,
            key: Some("k".to_owned()),
        };
        let messages = stream::iter(messages.into_iter().map(Ok));
        let taken = take(&kept, "t", &how, messages).await.unwrap();
        assert_eq!(taken, 12_000);
        let keys = ["k/1", "k/2", "k/3"].map(|key| Some(key.to_owned()));
        assert_eq!(*kept.keys.lock(), keys);
        let all = arrow::compute::concat_batches(&batches[0].schema(), &*kept.rows.lock()).unwrap();
        let expected = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
        assert_eq!(all, expected);
    }

    #[tokio::test]
    async fn dictionaries_come_with_each_part_and_an_empty_stream_is_one() {
        let words: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
        let batch = RecordBatch::try_from_iter([("word", Arc::new(words) as _)]).unwrap();
        let words: DictionaryArray<Int32Type> = ["c", "b"].into_iter().collect();
        let other = RecordBatch::try_from_iter([("word", Arc::new(words) as _)]).unwrap();
        let both = vec![batch.clone(), other.clone()];
        let messages = sent(both.clone(), DictionaryHandling::Resend).await;
        let kept = Kept::default();
        let how = HowTaken::default();
        let messages = stream::iter(messages.into_iter().map(Ok));
        assert_eq!(take(&kept, "t", &how, messages).await.unwrap(), 5);
        assert_eq!(*kept.rows.lock(), both);
        let empty = sent(vec![rows(0, 0)], DictionaryHandling::Hydrate).await;
        let empty = stream::iter(empty.into_iter().map(Ok));
        assert_eq!(take(&kept, "t", &how, empty).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_no_stream_is_refused() {
        let kept = Kept::default();
        let messages = sent(vec![rows(0, 1)], DictionaryHandling::Hydrate).await;
        let without_schema = messages[1..].to_vec();
        let mut damaged = messages.clone();
        damaged[1].data_header = Bytes::from_static(b"\x00\x01\x02");
        let mut cut = messages.clone();
        cut[1].data_body = cut[1].data_body.slice(..8);
        for wrong in [without_schema, damaged, cut] {
            let wrong = stream::iter(wrong.into_iter().map(Ok));
            let e = take(&kept, "t", &HowTaken::default(), wrong).await;
            assert_eq!(e.unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
