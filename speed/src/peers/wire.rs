//! What a daemon answers when it is asked for what it holds: its form between processes.
//!
//! ```text
//!   8 bytes   "ABDELTA" and the version, 1
//!   4 bytes   length of the header, little-endian
//!   header    JSON: lanes, sections of views with their state formats, lengths, notes
//!   sections  Arrow IPC streams: states of each view, then facts, then dead letters
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::ipc::IpcLimit;
use anabranch_shared::view::View;
use anabranch_shared::{
    Error, LateReads, OffsetRange, PartitionId, Result, Topic, dead_letter_schema, fit_facts,
};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Lanes;
use crate::intake::arrow_stream;

const MAGIC: &[u8; 8] = b"ABDELTA\x01";

/// What a daemon holds of a topic.
#[derive(Debug, Default)]
pub(crate) struct PeerDelta {
    /// For each partition that it fills what is in here of it. The start is past where it was
    /// asked from where it has landed more.
    pub(crate) lanes: Lanes,
    /// The states of views.
    pub(crate) states: BTreeMap<String, RecordBatch>,
    /// The facts, if they were asked for.
    pub(crate) facts: Vec<RecordBatch>,
    /// The dead letters, if they were asked for.
    pub(crate) dead: Vec<RecordBatch>,
    /// What its reader should know.
    pub(crate) notes: Vec<String>,
}

/// States as they are sent.
pub(crate) struct SentStates {
    /// The name under which they were asked for.
    pub(crate) name: String,
    pub(crate) view: Arc<View>,
    pub(crate) states: Vec<RecordBatch>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    lanes: Vec<(PartitionId, OffsetRange)>,
    views: Vec<ViewSection>,
    facts_bytes: usize,
    dead_bytes: usize,
    notes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct ViewSection {
    name: String,
    state_format: String,
    bytes: usize,
}

fn section(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new(&mut out, schema)?;
    for batch in batches.iter().filter(|b| b.num_rows() > 0) {
        writer.write(batch)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(out)
}

/// The bytes of an answer.
pub(crate) fn encode(
    delta: &PeerDelta,
    states: &[SentStates],
    (facts_schema, reads): (&SchemaRef, &LateReads),
) -> Result<Bytes> {
    let mut sections = Vec::new();
    let mut views = Vec::new();
    for sent in states {
        let (schema, batches) = sent.view.to_send(&sent.states)?;
        let bytes = section(&schema, &batches)?;
        views.push(ViewSection {
            name: sent.name.clone(),
            state_format: sent.view.definition().state_format.clone(),
            bytes: bytes.len(),
        });
        sections.push(bytes);
    }
    // Some are of before a field was declared.
    let facts = delta
        .facts
        .iter()
        .map(|f| fit_facts(facts_schema, reads, f));
    let facts = section(facts_schema, &facts.collect::<Result<Vec<_>>>()?)?;
    let dead = section(&dead_letter_schema(), &delta.dead)?;
    let header = Header {
        lanes: delta.lanes.iter().map(|(p, r)| (*p, *r)).collect(),
        views,
        facts_bytes: facts.len(),
        dead_bytes: dead.len(),
        notes: delta.notes.clone(),
    };
    sections.extend([facts, dead]);
    let header = serde_json::to_vec(&header).map_err(|e| Error::Internal(e.to_string()))?;
    let length = u32::try_from(header.len()).map_err(|e| Error::Internal(e.to_string()))?;
    let total = sections.iter().map(Vec::len).sum::<usize>();
    let mut out = Vec::with_capacity(MAGIC.len() + 4 + header.len() + total);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&header);
    sections.iter().for_each(|s| out.extend_from_slice(s));
    Ok(out.into())
}

impl PeerDelta {
    /// Reads the answer of the daemon `peer`; `limit` bounds the bytes that it takes in memory.
    ///
    /// # Errors
    /// `Unavailable` for what is damaged or of another version; `Conflict` for states of another
    /// format, which must not be merged.
    pub(crate) fn decode(
        body: &Bytes,
        peer: &str,
        topic: &Topic,
        views: Vec<(String, Arc<View>)>,
        limit: u64,
    ) -> Result<Self> {
        let damaged = |what: String| {
            Error::Unavailable(format!(
                "the answer of the daemon at {peer} can't be used: {what}; try again, and run the same version on all machines"
            ))
        };
        let (header, mut rest) = split(body).map_err(&damaged)?;
        let mut left = limit;
        let mut take = |bytes: usize| -> Result<RecordBatch> {
            if bytes > rest.len() {
                return Err(damaged("it is cut".into()));
            }
            let limit = IpcLimit {
                bytes: left,
                name: "`memory` in `[daemon]`",
            };
            let mut taken = 0;
            let note = |bytes| {
                taken = bytes;
                Ok(())
            };
            let read = arrow_stream::read(rest.split_to(bytes), limit, note);
            left = left.saturating_sub(taken);
            read.map_err(|e| damaged(e.to_string()))
        };
        let mut delta = Self {
            lanes: header.lanes.into_iter().collect(),
            notes: header.notes,
            ..Self::default()
        };
        for sent in header.views {
            let batch = take(sent.bytes)?;
            let Some((_, view)) = views.iter().find(|(name, _)| *name == sent.name) else {
                continue;
            };
            let other = || {
                Error::Conflict(format!(
                    "view `{}`: the daemon at {peer} makes states of the format `{}`, this one of `{}`; run the same version of anabranch on both",
                    sent.name,
                    sent.state_format,
                    view.definition().state_format
                ))
            };
            let states = view.received(&sent.state_format, &batch)?;
            let states = states.ok_or_else(other)?;
            delta.states.insert(sent.name, states);
        }
        let lacks = |(name, _): &&(String, _)| !delta.states.contains_key(name);
        if let Some((name, _)) = views.iter().find(lacks) {
            return Err(damaged(format!("it lacks view `{name}`")));
        }
        let facts = take(header.facts_bytes)?;
        delta
            .facts
            .push(fit_facts(&topic.schema(), &topic.late_reads(), &facts)?);
        let dead = take(header.dead_bytes)?;
        let reads = LateReads::default();
        delta
            .dead
            .push(fit_facts(&dead_letter_schema(), &reads, &dead)?);
        let held = |b: &RecordBatch| b.num_rows() > 0;
        delta.facts.retain(held);
        delta.dead.retain(held);
        Ok(delta)
    }
}

fn split(body: &Bytes) -> std::result::Result<(Header, Bytes), String> {
    let mut rest = body.clone();
    let start = MAGIC.len() + 4;
    if rest.len() < start || rest[..MAGIC.len()] != MAGIC[..] {
        return Err("it is of another version".into());
    }
    let length = [rest[8], rest[9], rest[10], rest[11]];
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > rest.len() - start {
        return Err("it is cut".into());
    }
    let header = rest.split_to(start + length);
    let header = serde_json::from_slice(&header[start..]).map_err(|e| e.to_string())?;
    Ok((header, rest))
}

#[cfg(test)]
mod former;
#[cfg(test)]
mod tests {
    use anabranch_shared::settings::{FieldReads, FieldType};
    use anabranch_shared::view::{Definition, fold_facts};
    use anabranch_shared::{ErrorKind, Offset, TopicField};
    use arrow::array::{ArrayRef, Int8Array, Int64Array};

    use super::*;

    fn topic() -> Topic {
        let field = |name: &str, field_type, nullable| TopicField {
            name: name.into(),
            field_type,
            nullable,
            reads: FieldReads::default(),
        };
        Topic {
            name: "facts".into(),
            event_time: "ts".into(),
            fields: vec![
                field("ts", FieldType::Timestamp, false),
                field("n", FieldType::BigInt, true),
            ],
        }
    }

    fn sent(view: &Arc<View>) -> Result<(Bytes, RecordBatch)> {
        let none = RecordBatch::new_empty(view.topic().schema());
        let states = fold_facts(view, &[none])?;
        let range = OffsetRange::new(Offset(3), Offset(5));
        let delta = PeerDelta {
            lanes: [(PartitionId(1), range)].into(),
            notes: vec!["a note".into()],
            ..PeerDelta::default()
        };
        let sent = SentStates {
            name: view.name().to_owned(),
            view: view.clone(),
            states: vec![states.clone()],
        };
        let body = encode(
            &delta,
            &[sent],
            (&view.topic().schema(), &LateReads::default()),
        )?;
        Ok((body, states))
    }

    /// What is read is what was sent; what is cut anywhere is refused, and names who sent it.
    #[test]
    fn an_answer_is_read_whole_or_not_at_all() -> Result<()> {
        let sql = "SELECT count(*) AS c, sum(n) AS s FROM facts";
        let view = Arc::new(View::compile("v", sql, &topic())?);
        let (body, states) = sent(&view)?;
        let read = |body: &Bytes| {
            let views = vec![("v".to_owned(), view.clone())];
            PeerDelta::decode(body, "10.0.0.7:1", &topic(), views, 1 << 20)
        };
        let held = read(&body)?;
        assert_eq!(held.states.get("v"), Some(&states));
        assert_eq!((held.lanes.len(), held.notes.len()), (1, 1));
        for end in 0..body.len() {
            let refused = read(&body.slice(..end));
            let named = |e: &Error| {
                e.kind() == ErrorKind::Unavailable && e.to_string().contains("10.0.0.7:1")
            };
            assert!(
                refused.as_ref().err().is_some_and(named),
                "{end}: {refused:?}"
            );
        }
        Ok(())
    }

    /// States of another format are never merged.
    #[test]
    fn states_of_another_format_are_refused() -> Result<()> {
        let compile = |sql: &str| View::compile("v", sql, &topic()).map(Arc::new);
        let theirs = compile("SELECT count(n) AS c FROM facts")?;
        let ours = compile("SELECT sum(n) AS c FROM facts")?;
        let (body, _) = sent(&theirs)?;
        let read = PeerDelta::decode(
            &body,
            "10.0.0.7:1",
            &topic(),
            vec![("v".to_owned(), ours)],
            1 << 20,
        );
        let conflict = |e: &Error| {
            let text = e.to_string();
            e.kind() == ErrorKind::Conflict && text.contains("10.0.0.7:1") && text.contains("`v`")
        };
        assert!(read.as_ref().err().is_some_and(conflict), "{read:?}");
        Ok(())
    }

    /// A sum that has left its type is said in full, and only to who can read it.
    #[test]
    fn carries_are_sent() -> Result<()> {
        let sql = "SELECT sum(n) AS s FROM facts";
        let view = View::compile("v", sql, &topic())?;
        let former = "1 datafusion 55.2.0 Int8 sum(Int64)→[Int64]";
        let definition = Definition {
            state_format: former.into(),
            ..view.definition().clone()
        };
        let view = Arc::new(View::from_definition("v", &definition)?);
        assert_eq!(view.definition().state_format, former);
        let columns: [ArrayRef; 3] = [
            Arc::new(Int8Array::from(vec![0])),
            Arc::new(Int64Array::from(vec![-5])),
            Arc::new(Int64Array::from(vec![1])),
        ];
        let states = RecordBatch::try_new(view.state_schema().clone(), columns.to_vec())?;
        let (schema, sent) = view.to_send(std::slice::from_ref(&states))?;
        assert_eq!(
            (&schema, sent.as_slice()),
            (view.state_schema(), &[states.clone()][..])
        );
        assert_eq!(view.received(former, &states)?, Some(states));
        Ok(())
    }
}
