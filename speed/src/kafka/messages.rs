//! Messages of one Kafka partition become facts and dead letters at their own offsets.

use anabranch_shared::Result;
use anabranch_shared::settings::KafkaSettings;
use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Headers, Message};

use crate::admission::{Admission, AdmissionError, Admitted, DeadLetter, RAW_BYTES, is_blank};
use crate::payload::{FactPiece, Place};

/// Bytes before a value that a schema registry's serializer has framed: a zero and the number of a
/// schema (<https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format>).
const FRAME: usize = 5;

/// Messages of one partition, as they came.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// A line for each that may be a fact.
    lines: Vec<u8>,
    /// For each line the message's offset, and where its value is in `raw`.
    records: Vec<(i64, std::ops::Range<usize>)>,
    /// The values as they came, of those whose lines differ from them.
    raw: Vec<u8>,
    /// Those that can't be facts.
    dead: Vec<(i64, DeadLetter)>,
    /// One more than the last offset.
    pub(super) end: i64,
}

impl Messages {
    pub(super) fn bytes(&self) -> usize {
        self.lines.len() + self.raw.len()
    }

    pub(super) fn count(&self) -> usize {
        self.records.len() + self.dead.len()
    }

    /// Adds a message.
    pub(super) fn add(&mut self, message: &BorrowedMessage<'_>, settings: &KafkaSettings) {
        self.end = message.offset() + 1;
        let value = message.payload().unwrap_or_default();
        let body = match unframed(value) {
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

    fn refuse(&mut self, message: &BorrowedMessage<'_>, value: &[u8], reason: String) {
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
    pub(super) fn admit(&mut self, admission: &Admission) -> Result<Admitted> {
        let bad = |e: AdmissionError| anabranch_shared::Error::of_kind(e.kind(), e.to_string());
        let lines = Bytes::from(std::mem::take(&mut self.lines));
        admission.ndjson(&lines).map_err(bad)
    }

    /// What was admitted of the messages, at their offsets. The offset of a fact that was left out
    /// of `admitted` since stays unused.
    pub(super) fn piece(self, admitted: Admitted, place: &Place<'_>) -> Result<FactPiece> {
        let at = |record: u64| {
            usize::try_from(record)
                .ok()
                .and_then(|r| self.records.get(r))
        };
        let offsets = admitted.records.iter().filter_map(|r| Some(at(*r)?.0));
        let mut dead = self.dead;
        for mut letter in admitted.dead {
            let Some((offset, raw)) = at(letter.record) else {
                continue;
            };
            if !raw.is_empty() {
                letter.raw = Bytes::copy_from_slice(&self.raw[raw.clone()]);
            }
            letter.line = None;
            dead.push((*offset, letter));
        }
        dead.sort_by_key(|(offset, _)| *offset);
        let letters: Vec<(i64, &DeadLetter)> = dead.iter().map(|(o, d)| (*o, d)).collect();
        FactPiece::placed(place, &admitted.facts, offsets.collect(), &letters)
    }
}

/// A value without a schema registry's frame.
fn unframed(value: &[u8]) -> std::result::Result<&[u8], String> {
    if value.first() != Some(&0) || value.len() < FRAME {
        return Ok(value);
    }
    let (frame, body) = value.split_at(FRAME);
    let opens = body.iter().find(|b| !b.is_ascii_whitespace());
    if opens == Some(&b'{') {
        return Ok(body);
    }
    let schema = u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]);
    Err(format!(
        "the value is framed with schema {schema} of a schema registry and is not a JSON object; Avro and Protobuf are not supported"
    ))
}

/// Adds a value as one line: a line break is white space in JSON, except in a string, where it is
/// an error that must stay one.
fn push_line(lines: &mut Vec<u8>, value: &[u8]) {
    if memchr::memchr2(b'\n', b'\r', value).is_none() {
        lines.extend_from_slice(value);
        return;
    }
    let (mut in_string, mut escaped) = (false, false);
    for &byte in value {
        let breaks = byte == b'\n' || byte == b'\r';
        // Another control character, which no string may hold either, keeps the record one line.
        let shown = match (breaks, in_string) {
            (true, true) => b'\x0b',
            (true, false) => b' ',
            _ => byte,
        };
        lines.push(shown);
        in_string = match byte {
            b'"' if !escaped => !in_string,
            _ => in_string,
        };
        escaped = in_string && byte == b'\\' && !escaped;
    }
}

/// What of a message besides its value becomes fields: their names and JSON values.
fn mapped_fields(
    message: &BorrowedMessage<'_>,
    settings: &KafkaSettings,
) -> std::result::Result<Vec<(String, String)>, String> {
    let mut fields = Vec::new();
    let text = |what: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(serde_json::Value::from(text).to_string()),
        Err(_) => Err(format!("{what} is not UTF-8")),
    };
    if let (Some(field), Some(key)) = (&settings.key_field, message.key()) {
        fields.push((field.clone(), text("the message's key", key)?));
    }
    if let (Some(field), Some(ms)) = (&settings.timestamp_field, message.timestamp().to_millis()) {
        let at = chrono::DateTime::from_timestamp_millis(ms);
        let at = at.ok_or_else(|| format!("the message's time stamp {ms} is out of range"))?;
        fields.push((field.clone(), format!("\"{}\"", at.to_rfc3339())));
    }
    for (header, field) in &settings.headers {
        let headers = message.headers();
        let found = headers.and_then(|h| h.iter().find(|one| one.key == header)?.value);
        if let Some(value) = found {
            fields.push((field.clone(), text(&format!("header `{header}`"), value)?));
        }
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
mod tests {
    use super::*;

    fn line(value: &str) -> String {
        let mut lines = Vec::new();
        push_line(&mut lines, value.as_bytes());
        String::from_utf8_lossy(&lines).into_owned()
    }

    #[test]
    fn line_breaks_of_a_value_do_not_end_its_line() {
        assert_eq!(
            line("{\"a\":\n1,\r\n\"b\":\"x\"}"),
            "{\"a\": 1,  \"b\":\"x\"}"
        );
        // A line break in a string is no JSON, and stays none.
        assert_eq!(line("{\"a\":\"x\ny\"}"), "{\"a\":\"x\u{b}y\"}");
        assert_eq!(line("{\"a\":\"\\\"\n\"}\n"), "{\"a\":\"\\\"\u{b}\"} ");
        assert_eq!(line("{\"a\":\"\\\\\"\n}"), "{\"a\":\"\\\\\" }");
    }

    #[test]
    fn fields_are_added_to_objects_alone() {
        let with = |value: &str| {
            let mut lines = b"before\n".to_vec();
            let from = lines.len();
            push_line(&mut lines, value.as_bytes());
            let fields = [
                ("k".to_owned(), "\"v\"".to_owned()),
                ("t".into(), "1".into()),
            ];
            push_fields(&mut lines, from, &fields);
            String::from_utf8_lossy(&lines[from..]).into_owned()
        };
        assert_eq!(with("{}"), "{\"k\":\"v\",\"t\":1}");
        assert_eq!(with(" { } "), " {\"k\":\"v\",\"t\":1}");
        assert_eq!(with("{\"a\":{}}"), "{\"a\":{},\"k\":\"v\",\"t\":1}");
        assert_eq!(with("{\"a\":{"), "{\"a\":{");
        assert_eq!(with("[1]"), "[1]");
    }

    #[test]
    fn frames_are_taken_off_json_alone() {
        assert_eq!(unframed(b"{}"), Ok(b"{}".as_slice()));
        assert_eq!(unframed(b"\0\0\0\0\x07 {}"), Ok(b" {}".as_slice()));
        assert!(unframed(b"\0\0\0\0\x07\x02abc").is_err_and(|e| e.contains("schema 7")));
        assert_eq!(unframed(b""), Ok(b"".as_slice()));
    }
}
