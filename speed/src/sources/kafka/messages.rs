//! Messages of one Kafka partition become facts and dead letters at their own offsets.

use std::borrow::Cow;

use anabranch_shared::settings::{KafkaSettings, Tombstones};
use anabranch_shared::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rdkafka::message::{Headers, Message};

use crate::intake::admission::{
    Admission, AdmissionError, Admitted, DeadLetter, RAW_BYTES, is_blank, push_line,
};
use crate::intake::payload::{Place, PlacedFacts};

/// Bytes before a value that a schema registry's serializer has framed: a zero and the number of a
/// schema (<https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format>).
const FRAME: usize = 5;

/// Messages of one partition, as they came.
///
/// Invariant: `lines` holds as many records as `records`, in the same order.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// A line for each that may be a fact.
    lines: Vec<u8>,
    /// For each line the message's offset, and where its value is in `raw`.
    records: Vec<(i64, std::ops::Range<usize>)>,
    /// The values as they came, of those whose lines differ from them.
    raw: Vec<u8>,
    /// Those that can't be facts.
    dead: Vec<(i64, DeadLetter)>,
    /// One more than the last offset.
    pub(crate) end: i64,
}

impl Messages {
    pub(crate) fn bytes(&self) -> usize {
        self.lines.len() + self.raw.len()
    }

    pub(crate) fn count(&self) -> usize {
        self.records.len() + self.dead.len()
    }

    /// Adds a message.
    pub(crate) fn add(&mut self, message: &impl Message, settings: &KafkaSettings) {
        self.end = message.offset() + 1;
        let value = message.payload().unwrap_or_default();
        let body = match (message.payload(), &settings.tombstone_field) {
            (None, Some(_)) => Ok(&b"{}"[..]),
            (None, None) if settings.tombstones == Tombstones::Skip => return,
            _ => unframed(value),
        };
        let body = match body {
            Ok(body) if !is_blank(body) => body,
            Ok(_) => return self.refuse(message, value, "the message has no value".into()),
            Err(reason) => return self.refuse(message, value, reason),
        };
        let fields = match mapped_fields(message, settings) {
            Ok(fields) => fields,
            Err(reason) => return self.refuse(message, value, reason),
        };
        let from = self.lines.len();
        push_line(&mut self.lines, body);
        push_fields(&mut self.lines, from, &fields);
        let raw = match &self.lines[from..] == value {
            true => 0..0,
            false => {
                let start = self.raw.len();
                self.raw
                    .extend_from_slice(&value[..value.len().min(RAW_BYTES)]);
                start..self.raw.len()
            }
        };
        self.lines.push(b'\n');
        self.records.push((message.offset(), raw));
    }

    fn refuse(&mut self, message: &impl Message, value: &[u8], reason: String) {
        let letter = DeadLetter {
            record: 0,
            line: None,
            field: None,
            reason,
            raw: Bytes::copy_from_slice(&value[..value.len().min(RAW_BYTES)]),
        };
        self.dead.push((message.offset(), letter));
    }

    /// The facts and dead letters of those that may be facts, which are numbered in their order.
    ///
    /// # Errors
    /// `Internal` where admission has seen other records than these messages: all after the first
    /// difference would go to the offsets of others.
    pub(crate) fn admit(&mut self, admission: &Admission) -> Result<Admitted> {
        let bad = |e: AdmissionError| Error::of_kind(e.kind(), e.to_string());
        let lines = Bytes::from(std::mem::take(&mut self.lines));
        let admitted = admission.ndjson(&lines).map_err(bad)?;
        if admitted.record_count != self.records.len() as u64 {
            return Err(Error::Internal(format!(
                "{} messages before offset {} were admitted as {} records; none of them was taken",
                self.records.len(),
                self.end,
                admitted.record_count
            )));
        }
        Ok(admitted)
    }

    fn at(&self, record: u64) -> Result<&(i64, std::ops::Range<usize>)> {
        let found = usize::try_from(record)
            .ok()
            .and_then(|r| self.records.get(r));
        found.ok_or_else(|| Error::Internal(format!("record {record} is of no message")))
    }

    /// What was admitted of the messages, at their offsets. The offset of a fact that was left out
    /// of `admitted` since stays unused.
    pub(crate) fn piece(
        self,
        admitted: Admitted,
        settings: &KafkaSettings,
        place: &Place<'_>,
    ) -> Result<PlacedFacts> {
        let of = |record: &u64| self.at(*record).map(|(offset, _)| *offset);
        let offsets: Vec<i64> = admitted.records.iter().map(of).collect::<Result<_>>()?;
        let mut placed = Vec::with_capacity(admitted.dead.len());
        for mut letter in admitted.dead {
            let (offset, raw) = self.at(letter.record)?;
            if !raw.is_empty() {
                letter.raw = Bytes::copy_from_slice(&self.raw[raw.clone()]);
            }
            letter.line = None;
            explain_mapped(&mut letter, settings);
            placed.push((*offset, letter));
        }
        let mut dead = self.dead;
        dead.extend(placed);
        dead.sort_by_key(|(offset, _)| *offset);
        let letters: Vec<(i64, &DeadLetter)> = dead.iter().map(|(o, d)| (*o, d)).collect();
        PlacedFacts::placed(place, &admitted.facts, offsets, &letters)
    }
}

/// Says of a field that is there twice, and is mapped, where the other one comes from.
fn explain_mapped(letter: &mut DeadLetter, settings: &KafkaSettings) {
    let Some(field) = letter.field.as_deref().filter(|_| letter.is_twice()) else {
        return;
    };
    let is = |mapped: &Option<String>| mapped.as_deref() == Some(field);
    let what = if is(&settings.key_field) {
        "`key_field`"
    } else if is(&settings.timestamp_field) {
        "`timestamp_field`"
    } else if settings.headers.iter().any(|(_, to)| to == field) {
        "`headers`"
    } else {
        return;
    };
    letter.reason += &format!(
        ": in the value and by {what} of the topic's source; give {what} a field of its own, or leave it out"
    );
}

/// What follows the frame of a schema registry, and the number of its schema; `None` where there is
/// no frame.
fn frame(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (frame, body) = bytes.split_at_checked(FRAME)?;
    let (zero, schema) = frame.split_first()?;
    let schema = schema.try_into().map(u32::from_be_bytes).ok()?;
    (*zero == 0).then_some((schema, body))
}

/// A value without a schema registry's frame.
fn unframed(value: &[u8]) -> std::result::Result<&[u8], String> {
    let Some((schema, body)) = frame(value) else {
        return Ok(value);
    };
    let opens = body.iter().find(|b| !b.is_ascii_whitespace());
    if opens == Some(&b'{') {
        return Ok(body);
    }
    Err(format!(
        "the value is framed with schema {schema} of a schema registry and is not a JSON object; Avro and Protobuf are not supported"
    ))
}

/// A key as text: of one that a schema registry's serializer has framed the text of its JSON
/// string, or another JSON value as it is written.
fn key_text(key: &[u8]) -> std::result::Result<Cow<'_, str>, String> {
    const BINARY: &str = "declare the field of `key_field` as `binary` to keep its bytes";
    let Some((schema, body)) = frame(key) else {
        let text = std::str::from_utf8(key).map(Cow::Borrowed);
        return text.map_err(|_| format!("the message's key is not UTF-8; {BINARY}"));
    };
    match serde_json::from_slice(body) {
        Ok(serde_json::Value::String(text)) => Ok(text.into()),
        Ok(_) => Ok(String::from_utf8_lossy(body)),
        Err(_) => Err(format!(
            "the message's key is framed with schema {schema} of a schema registry and is not JSON; Avro and Protobuf are not supported; {BINARY}"
        )),
    }
}

/// What of a message besides its value becomes fields: their names and JSON values.
fn mapped_fields(
    message: &impl Message,
    settings: &KafkaSettings,
) -> std::result::Result<Vec<(String, String)>, String> {
    let mut fields = Vec::new();
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    if let (Some(field), None) = (&settings.tombstone_field, message.payload()) {
        fields.push((field.clone(), "true".to_owned()));
    }
    let timestamp_field = match (&settings.timestamp_field, message.payload()) {
        (None, None) => Some(&settings.event_time),
        (field, _) => field.as_ref(),
    };
    let is_binary = |field: &String| settings.binary_fields.contains(field);
    if let (Some(field), Some(key)) = (&settings.key_field, message.key()) {
        let value = match is_binary(field) {
            true => STANDARD.encode(key).into(),
            false => key_text(key)?,
        };
        fields.push((field.clone(), quoted(&value)));
    }
    if let (Some(field), Some(ms)) = (timestamp_field, message.timestamp().to_millis()) {
        let at = chrono::DateTime::from_timestamp_millis(ms);
        let at = at.ok_or_else(|| format!("the message's time stamp {ms} is out of range"))?;
        fields.push((field.clone(), format!("\"{}\"", at.to_rfc3339())));
    }
    for (header, field) in &settings.headers {
        let headers = message.headers();
        let found = headers.and_then(|h| h.iter().find(|one| one.key == header)?.value);
        let Some(value) = found else { continue };
        let text = match (is_binary(field), std::str::from_utf8(value)) {
            (true, _) => STANDARD.encode(value),
            (false, Ok(text)) => text.to_owned(),
            (false, Err(_)) => {
                return Err(format!(
                    "header `{header}` is not UTF-8; declare field `{field}` as `binary` to keep its bytes"
                ));
            }
        };
        fields.push((field.clone(), quoted(&text)));
    }
    Ok(fields)
}

/// Adds fields to the object that is the line from `from` on. What is no object is left as it is:
/// it becomes a dead letter.
fn push_fields(lines: &mut Vec<u8>, from: usize, fields: &[(String, String)]) {
    if fields.is_empty() {
        return;
    }
    let line = lines[from..].trim_ascii_end();
    let Some(inside) = line.strip_suffix(b"}") else {
        return;
    };
    let inside = inside.trim_ascii_end();
    let empty = inside.ends_with(b"{") && inside.trim_ascii_start().len() == 1;
    lines.truncate(from + inside.len());
    for (n, (name, value)) in fields.iter().enumerate() {
        if n > 0 || !empty {
            lines.push(b',');
        }
        let name = serde_json::Value::from(name.as_str());
        lines.extend_from_slice(format!("{name}:{value}").as_bytes());
    }
    lines.push(b'}');
}

#[cfg(test)]
mod tests;
