//! What is stored is what is read, also what earlier versions stored.

use super::*;
use anabranch_shared::TopicField;
use anabranch_shared::settings::{FieldReads, FieldType, UnknownFields};
use arrow::ipc::reader::StreamReader;

use crate::intake::admission::Admission;

/// What a request takes in memory bounds the intake, so an Arrow body is not to be counted
/// once for each of its columns.
#[test]
fn memory_shared_by_columns_is_counted_once() -> Result<()> {
    let field = |name: &str, field_type| TopicField {
        name: name.into(),
        field_type,
        nullable: name != "ts",
        reads: FieldReads::default(),
    };
    let words = (0..12).map(|n| field(&format!("word_{n}"), FieldType::Varchar));
    let mut fields = vec![field("ts", FieldType::Timestamp)];
    fields.extend(words);
    let topic = Topic {
        name: "facts".into(),
        event_time: "ts".into(),
        fields,
    };
    let internal = |e: crate::intake::admission::AdmissionError| Error::Internal(e.to_string());
    let admission = Admission::new(&topic.field_schema(), "ts", UnknownFields::Keep, 1 << 20)
        .map_err(internal)?;
    let line = (0..12).map(|n| format!("\"word_{n}\":\"a word of more than twelve bytes\","));
    let line = format!(
        "{{{}\"ts\":\"2026-01-01T00:00:00Z\"}}\n",
        line.collect::<String>()
    );
    let admitted = admission
        .ndjson(&line.repeat(1_000).into())
        .map_err(internal)?;
    let encoded = Payload::new(admitted, 0, None, None).encode()?;
    let piece = Payload::decode(&encoded, REPLAYED)?.at(
        &topic,
        &topic.schema(),
        PartitionId(0),
        Offset(0),
    )?;
    assert_eq!(piece.facts.num_rows(), 1_000);
    assert!(
        (encoded.len()..encoded.len() * 2).contains(&piece.bytes),
        "{} bytes of memory for {} of the WAL",
        piece.bytes,
        encoded.len()
    );
    Ok(())
}

/// Text is stored without the 12 bytes that a view takes more, and is views again when read.
#[test]
fn text_is_stored_without_views() -> Result<()> {
    let words = ["", "ä", "a word of more than twelve bytes", "NULL follows"];
    let words = words.map(Some).into_iter().chain([None]);
    let text: ArrayRef = Arc::new(words.clone().collect::<StringViewArray>());
    let bytes = words.map(|w| w.map(str::as_bytes));
    let bytes: ArrayRef = Arc::new(bytes.collect::<BinaryViewArray>());
    let facts =
        RecordBatch::try_from_iter_with_nullable([("text", text, true), ("bytes", bytes, true)])?;
    let payload = Payload {
        received_at_us: 5,
        records: 5,
        ingest: None,
        source: None,
        facts: facts.clone(),
        dead: Vec::new(),
        duplicates: Vec::new(),
        request: None,
    };
    let stored = payload.encode()?;
    let (_, ipc) = Header::split(&stored)?;
    let schema = StreamReader::try_new(ipc, None)?.schema();
    let types: Vec<_> = schema.fields().iter().map(|f| f.data_type()).collect();
    assert_eq!(types, [&DataType::Utf8, &DataType::Binary]);
    assert_eq!(Payload::decode(&stored, REPLAYED)?.facts, facts);
    Ok(())
}

/// As it was written before there were duplicates and keys.
#[test]
fn what_version_1_wrote_is_read() -> Result<()> {
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
    let facts = RecordBatch::try_from_iter([("id", ids)])?;
    let header = br#"{"received_at_us":5,"records":3,"source":"s","dead":[{"record":1,"line":2,"field":null,"reason":"r","raw":"Pw=="}]}"#;
    let mut stored = vec![1];
    stored.extend_from_slice(&(header.len() as u32).to_le_bytes());
    stored.extend_from_slice(header);
    let mut writer = StreamWriter::try_new(&mut stored, &facts.schema())?;
    writer.write(&facts)?;
    writer.finish()?;
    drop(writer);
    let stored = Bytes::from(stored);
    let payload = Payload::decode(&stored, REPLAYED)?;
    assert_eq!((payload.records, payload.received_at_us), (3, 5));
    assert_eq!((&payload.facts, payload.dead.len()), (&facts, 1));
    assert_eq!((payload.duplicates.len(), payload.request), (0, None));
    let request = Payload::kept_request(&stored, PartitionId(0), Offset(0))?;
    assert_eq!(request, None);
    Ok(())
}

/// A record of the WAL as version 0.1.0 wrote it: two facts, a dead letter and a duplicate, of a
/// request that may be repeated.
#[test]
fn what_0_1_0_wrote_is_read() -> Result<()> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/fixtures/0.1.0/wal/payload.bin"
    );
    let stored = Bytes::from(std::fs::read(path).map_err(|e| Error::io(path, e))?);
    let payload = Payload::decode(&stored, REPLAYED)?;
    assert_eq!(payload.received_at_us, 1_700_000_000_000_000);
    assert_eq!(payload.ingest, Some(("file-id".into(), 12)));
    assert_eq!(payload.source.as_deref(), Some("a source"));
    assert_eq!(
        (payload.records, payload.duplicates.as_slice()),
        (4, &[3][..])
    );
    let dead: Vec<_> = payload
        .dead
        .iter()
        .map(|d| (d.record, d.raw.as_ref()))
        .collect();
    assert_eq!(dead, [(1, &b"{\"ts\":\"soon\"}"[..])]);
    let request = payload.request.as_ref().map(|r| r.key.as_str());
    assert_eq!(request, Some("a-key"));
    let shown = arrow::util::pretty::pretty_format_batches(&[payload.facts])?.to_string();
    let expected = "\
+----------------------+----------------------------------+----+-------+-------+------+------------------+
| ts                   | word                             | n  | price | tags  | raw  | _extra           |
+----------------------+----------------------------------+----+-------+-------+------+------------------+
| 2026-01-01T00:00:00Z | a word of more than twelve bytes | -7 | 1.500 | [a, ] | 0102 | {\"more\":{\"x\":1}} |
| 2026-01-02T00:00:00Z |                                  | 9  |       |       |      |                  |
+----------------------+----------------------------------+----+-------+-------+------+------------------+";
    assert_eq!(shown, expected);
    Ok(())
}

fn topic(fields: &[(&str, FieldType)]) -> Topic {
    let field = |(name, field_type): &(&str, FieldType)| TopicField {
        name: (*name).into(),
        field_type: field_type.clone(),
        nullable: *name != "ts",
        reads: FieldReads::default(),
    };
    Topic {
        name: "facts".into(),
        event_time: "ts".into(),
        fields: fields.iter().map(field).collect(),
    }
}

/// A record of the WAL is read by the fields of now, wherever they stand among the others, and a
/// payload from somebody who knows more of them is not cut to those that are known here.
#[test]
fn fields_that_were_declared_since_are_read_from_extra() -> Result<()> {
    let (ts, text) = (("ts", FieldType::Timestamp), FieldType::Varchar);
    let before = topic(&[ts.clone(), ("url", text.clone())]);
    let after = topic(&[
        ts,
        ("n", FieldType::BigInt),
        ("device", text.clone()),
        ("url", text),
    ]);
    let payload = |topic: &Topic| {
        let internal = |e: crate::intake::admission::AdmissionError| Error::Internal(e.to_string());
        let schema = topic.field_schema();
        let admission =
            Admission::new(&schema, "ts", UnknownFields::Keep, 1 << 20).map_err(internal)?;
        let line =
            "{\"ts\":\"2026-01-01T00:00:00Z\",\"url\":\"/a\",\"device\":\"phone\",\"n\":7}\n";
        let admitted = admission
            .ndjson(&line.as_bytes().into())
            .map_err(internal)?;
        Ok::<_, Error>((Payload::new(admitted, 0, None, None), admission))
    };
    let (old, _) = payload(&before)?;
    let (new, admission) = payload(&after)?;
    let place = |payload: &Payload| {
        let stored = Payload::decode(&payload.encode()?, REPLAYED)?;
        stored.at(&after, &after.schema(), PartitionId(0), Offset(0))
    };
    let (found, expected) = (place(&old)?.facts, place(&new)?.facts);
    for name in ["ts", "n", "device", "url", "_offset"] {
        assert_eq!(
            found.column_by_name(name),
            expected.column_by_name(name),
            "{name}"
        );
    }
    let kept = found
        .column_by_name("_extra")
        .map(|c| c.as_string_view().value(0));
    assert_eq!(kept, Some("{\"device\":\"phone\",\"n\":7}"));

    let mut older = old.clone();
    older.take_fields_of(&after, admission.schema())?;
    assert_eq!(older.facts.schema(), new.facts.schema());
    let mut newer = new;
    let schema = payload(&before)?.1.schema().clone();
    let refused = newer.take_fields_of(&before, &schema).err();
    let says = refused.map(|e| (e.kind(), e.to_string()));
    let named = |(kind, text): &(anabranch_shared::ErrorKind, String)| {
        *kind == anabranch_shared::ErrorKind::Unavailable && text.contains("field `n`")
    };
    assert!(says.as_ref().is_some_and(named), "{says:?}");
    Ok(())
}
