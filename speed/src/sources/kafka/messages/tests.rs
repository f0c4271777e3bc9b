//! What becomes of messages, each at its own offset.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

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

use std::path::Path;

use anabranch_shared::settings::Project;
use anabranch_shared::{Offset, OffsetRange, PartitionId, Topic};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use rdkafka::Timestamp;
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

/// A topic with a source of these settings, and admission to it.
fn source(more: &str) -> (Topic, KafkaSettings, Admission) {
    let text = format!(
        "[topics.t]\nevent_time = \"ts\"\nfields = {{ ts = \"timestamp not null\", n = \"bigint\", k = \"varchar\", b = \"binary\", gone = \"boolean\" }}\n[topics.t.source.kafka]\nbrokers = \"h:1\"\n{more}"
    );
    let path = Path::new("p/anabranch.toml");
    let project = Project::parse(&text, path, &|_| None).unwrap();
    let settings = project.topics[0].clone();
    let topic = Topic::from_settings(&settings);
    let schema = topic.field_schema();
    let admission = Admission::new(&schema, "ts", settings.unknown_fields, 1 << 20).unwrap();
    (topic, settings.kafka.unwrap(), admission)
}

fn message(offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> OwnedMessage {
    let bytes = |bytes: &[u8]| bytes.to_vec();
    let at = Timestamp::CreateTime(1_000);
    let headers = OwnedHeaders::new().insert(Header {
        key: "h",
        value: Some(b"\xff\x00"),
    });
    OwnedMessage::new(
        value.map(bytes),
        key.map(bytes),
        "t".into(),
        at,
        0,
        offset,
        Some(headers),
    )
}

/// Offsets and `n` of the facts; offsets, reasons and bytes of the dead letters.
type Found = (Vec<(i64, Option<i64>)>, Vec<(i64, String, Vec<u8>)>);

fn found(piece: &PlacedFacts) -> Found {
    let offsets = |batch: &arrow::array::RecordBatch| {
        let offsets = batch.column_by_name("_offset").unwrap();
        offsets.as_primitive::<Int64Type>().values().to_vec()
    };
    let n = piece
        .facts
        .column_by_name("n")
        .unwrap()
        .as_primitive::<Int64Type>();
    let facts = offsets(&piece.facts).into_iter().zip(n.iter()).collect();
    let Some(dead) = &piece.dead else {
        return (facts, Vec::new());
    };
    let reasons = dead.column_by_name("reason").unwrap().as_string_view();
    let raw = dead.column_by_name("raw").unwrap().as_binary_view();
    let dead = offsets(dead)
        .into_iter()
        .zip(reasons.iter().zip(raw.iter()))
        .map(|(o, (reason, raw))| (o, reason.unwrap().to_owned(), raw.unwrap().to_vec()));
    (facts, dead.collect())
}

/// What becomes of messages of these offsets, keys and values.
fn taken(more: &str, messages: &[OwnedMessage]) -> PlacedFacts {
    let (topic, settings, admission) = source(more);
    let mut batch = Messages::default();
    messages.iter().for_each(|m| batch.add(m, &settings));
    let place = Place {
        topic: &topic,
        schema: &topic.schema(),
        partition: PartitionId(0),
        range: OffsetRange::new(Offset(0), Offset(batch.end)),
        received_at_us: 0,
        source: None,
    };
    let admitted = batch.admit(&admission).unwrap();
    batch.piece(admitted, &settings, &place).unwrap()
}

fn fact(n: &str) -> Vec<u8> {
    format!("{{\"ts\":\"2024-01-01T00:00:00Z\",\"n\":{n}}}").into_bytes()
}

/// A message that holds no record takes no offset of another one's.
#[test]
fn blank_messages_are_dead_letters_at_their_own_offsets() {
    for blank in ["\n", "\r\n", "  \n\n ", "", "\u{feff}\n", "\t\r"] {
        let piece = taken(
            "key_field = \"k\"",
            &[
                message(0, None, Some(blank.as_bytes())),
                message(1, None, Some(&fact("1"))),
                message(2, None, Some(&fact("\"two\""))),
                message(3, None, Some(&fact("3\n"))),
            ],
        );
        let (facts, dead) = found(&piece);
        assert_eq!(facts, [(1, Some(1)), (3, Some(3))], "{blank:?}");
        let [first, second] = &dead[..] else {
            panic!("{dead:?}")
        };
        assert_eq!((first.0, first.2.as_slice()), (0, blank.as_bytes()));
        assert_eq!(first.1, "the message has no value");
        assert_eq!((second.0, &second.2), (2, &fact("\"two\"")));
        assert!(second.1.contains("found string \"two\""), "{}", second.1);
    }
}

/// Were admission to pass over a message, all after it would go to the offsets of others.
#[test]
fn messages_that_are_not_admitted_one_by_one_are_refused_together() {
    let (_, settings, admission) = source("");
    let mut batch = Messages::default();
    batch.add(&message(7, None, Some(&fact("1"))), &settings);
    batch.lines.splice(0..0, *b"{}\n");
    let refused = batch.admit(&admission).unwrap_err();
    assert_eq!(refused.kind(), anabranch_shared::ErrorKind::Internal);
    assert!(
        refused.to_string().contains("1 messages before offset 8"),
        "{refused}"
    );
}

#[test]
fn tombstones_are_dead_letters_or_are_passed_over() {
    let messages = [
        message(0, Some(b"a"), None),
        message(1, None, Some(&fact("1"))),
        message(2, Some(b"a"), None),
    ];
    let (facts, dead) = found(&taken("", &messages));
    assert_eq!((facts.len(), dead.len()), (1, 2));
    let piece = taken("tombstones = \"skip\"", &messages);
    assert_eq!(found(&piece), (vec![(1, Some(1))], Vec::new()));
    assert_eq!(piece.range.end, Offset(3));
}

#[test]
fn tombstones_become_facts_where_a_field_says_so() {
    let messages = [
        message(0, Some(b"a"), None),
        message(1, Some(b"b"), Some(&fact("1"))),
    ];
    let piece = taken("tombstone_field = \"gone\"\nkey_field = \"k\"", &messages);
    let (facts, dead) = found(&piece);
    assert_eq!((facts.len(), dead.len()), (2, 0), "{dead:?}");
    let gone = piece.facts.column_by_name("gone").unwrap();
    let gone: Vec<_> = gone.as_boolean().iter().collect();
    assert_eq!(gone, [Some(true), None]);
    let keys = piece.facts.column_by_name("k").unwrap();
    assert_eq!(keys.as_string_view().value(0), "a");
}

#[test]
fn keys_are_taken_out_of_their_frames() {
    let key = |key: &[u8]| {
        let piece = taken(
            "key_field = \"k\"",
            &[message(0, Some(key), Some(&fact("1")))],
        );
        let keys = piece.facts.column_by_name("k").unwrap();
        match keys.as_string_view().iter().next() {
            Some(key) => Ok(key.unwrap().to_owned()),
            None => Err(found(&piece).1[0].1.clone()),
        }
    };
    assert_eq!(key(b"user"), Ok("user".into()));
    assert_eq!(key(b"\0\0\0\0*\"user\""), Ok("user".into()));
    assert_eq!(key(b"\0\0\0\0\xff{\"id\":1}"), Ok("{\"id\":1}".into()));
    assert_eq!(key(b"\0\0\0\0*17"), Ok("17".into()));
    let avro = key(b"\0\0\0\0*\x08user").unwrap_err();
    assert!(
        avro.contains("schema 42") && avro.contains("`binary`"),
        "{avro}"
    );
    assert!(key(b"\xff").unwrap_err().contains("not UTF-8"));
}

#[test]
fn bytes_go_as_they_came_into_binary_fields() {
    let key = b"\0\0\0\0*\xffuser";
    let messages = [message(0, Some(key), Some(&fact("1")))];
    let bytes = |more: &str| {
        let piece = taken(more, &messages);
        let bytes = piece.facts.column_by_name("b").unwrap();
        bytes.as_binary_view().value(0).to_vec()
    };
    assert_eq!(bytes("key_field = \"b\""), key);
    assert_eq!(bytes("headers = { h = \"b\" }"), b"\xff\0");
    let text = found(&taken("headers = { h = \"k\" }", &messages)).1;
    assert!(
        text[0].1.contains("declare field `k` as `binary`"),
        "{text:?}"
    );
}

#[test]
fn a_field_of_both_value_and_mapping_is_explained() {
    let (facts, dead) = found(&taken(
        "key_field = \"n\"",
        &[message(0, Some(b"7"), Some(&fact("1")))],
    ));
    assert!(facts.is_empty());
    assert!(
        dead[0].1.ends_with("in the value and by `key_field` of the topic's source; give `key_field` a field of its own, or leave it out"),
        "{dead:?}"
    );
}
