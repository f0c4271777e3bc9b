//! Bodies that are more than they look, and the room that they ask for.

use std::io::Write;

use parking_lot::Mutex;

use super::*;

/// Room of so many bytes, and what was asked of it.
#[derive(Debug)]
struct Asked {
    most: u64,
    asked: Mutex<Vec<u64>>,
}

impl Asked {
    fn new(most: u64) -> Arc<Self> {
        let asked = Mutex::default();
        Arc::new(Self { most, asked })
    }
}

impl RequestMemory for Asked {
    fn grow(&self, bytes: u64) -> Result<()> {
        self.asked.lock().push(bytes);
        match bytes > self.most {
            true => Err(Error::NoRoom("full".into())),
            false => Ok(()),
        }
    }

    fn settle(&self, _bytes: u64) {}
}

/// A body of at most 1 MiB.
fn body(bytes: Bytes, format: BodyFormat, memory: Arc<dyn RequestMemory>) -> RequestBody {
    RequestBody {
        limit: 1 << 20,
        memory,
        ..RequestBody::plain(bytes, format)
    }
}

/// A long name in the header of CSV, which each of many short rows would repeat.
#[test]
fn names_of_text_are_not_repeated_without_end() -> std::result::Result<(), String> {
    let field = anabranch_shared::TopicField {
        name: "ts".into(),
        field_type: anabranch_shared::settings::FieldType::Timestamp,
        nullable: false,
        reads: anabranch_shared::settings::FieldReads::default(),
    };
    let topic = anabranch_shared::Topic {
        name: "facts".into(),
        event_time: "ts".into(),
        fields: vec![field],
    };
    let keep = anabranch_shared::settings::UnknownFields::Keep;
    let admission = Admission::new(&topic.field_schema(), "ts", keep, 1 << 20);
    let admission = admission.map_err(|e| e.to_string())?;
    let rows = |name: usize, rows: usize| {
        let row = "2026-01-01,x\n".repeat(rows);
        Bytes::from(format!("ts,{}\n{row}", "n".repeat(name)))
    };
    let csv = BodyFormat::Delimited(Format::Csv, None);
    let admitted = |rows: Bytes| body(rows, csv, Arc::new(Unbounded)).admit(&admission);
    let plain = admitted(rows(10, 1_000)).map_err(|e| e.to_string())?;
    assert_eq!(plain.record_count, 1_000);
    for (name, count) in [(10_000, 10_000), (100_000, 50_000)] {
        let refused = admitted(rows(name, count));
        assert!(matches!(refused, Err(Error::Invalid(_))), "{name}");
    }
    Ok(())
}

/// Records that name next to nothing of what is declared, and one that names a great deal of what is
/// not.
#[test]
fn rows_of_json_are_counted_by_what_is_declared() -> std::result::Result<(), String> {
    use anabranch_shared::settings::{FieldReads, FieldType, UnknownFields};
    let field = |name: String, field_type, nullable| anabranch_shared::TopicField {
        name,
        field_type,
        nullable,
        reads: FieldReads::default(),
    };
    let texts = (0..500).map(|n| field(format!("f{n}"), FieldType::Varchar, true));
    let time = field("ts".to_owned(), FieldType::Timestamp, false);
    let topic = anabranch_shared::Topic {
        name: "facts".into(),
        event_time: "ts".into(),
        fields: std::iter::once(time).chain(texts).collect(),
    };
    let most = 2 << 20;
    let admission = |unknown| {
        let admission = Admission::new(&topic.field_schema(), "ts", unknown, most);
        admission.map_err(|e| e.to_string())
    };
    let keep = admission(UnknownFields::Keep)?;
    assert_eq!(keep.row_bytes(), 8 + 501 * 16);
    let record = "{\"ts\":\"2026-01-01\"}\n";
    let admit = |records: String, memory: Arc<dyn RequestMemory>| {
        body(records.into(), BodyFormat::Json, memory).admit(&keep)
    };
    let unbounded = Arc::new(Unbounded);
    let asked = Asked::new(u64::MAX);
    let few = admit(record.repeat(100), asked.clone()).map_err(|e| e.to_string())?;
    assert_eq!(few.facts.num_rows(), 100);
    let bytes = 100 * (keep.row_bytes() + record.len() as u64);
    assert_eq!(*asked.asked.lock(), [bytes]);
    // Where there is no room, nothing is made.
    let refused = admit(record.repeat(100), Asked::new(0));
    assert!(matches!(refused, Err(Error::NoRoom(_))));
    let array = format!("[{}]", vec![record.trim(); 40_000].join(","));
    for records in [record.repeat(40_000), array] {
        let refused = admit(records, unbounded.clone())
            .err()
            .map(|e| e.to_string());
        let refused = refused.unwrap_or_default();
        assert!(refused.contains("`max_request_bytes`"), "{refused}");
    }
    // Blank lines are no records.
    let blank = format!("{}{record}", "\n".repeat(900_000));
    let blank = admit(blank, unbounded).map_err(|e| e.to_string())?;
    assert_eq!(blank.facts.num_rows(), 1);
    // A row of 100,000 keys is a fact, if it is not too long; it is refused by its first unknown one.
    let keys: String = (0..100_000).map(|n| format!(",\"k{n}\":1")).collect();
    let wide = Bytes::from(format!("{{\"ts\":\"2026-01-01\"{keys},\"f1\":\"last\"}}\n"));
    let kept = keep.ndjson(&wide).map_err(|e| e.to_string())?;
    let extra = kept.facts.column_by_name(anabranch_shared::EXTRA);
    let extra = extra.map_or(0, |extra| extra.get_array_memory_size());
    assert!(kept.dead.is_empty() && extra > 1_000_000 && extra < 4 * wide.len());
    let strict = admission(UnknownFields::Reject)?;
    let short = Admission::new(&topic.field_schema(), "ts", UnknownFields::Keep, 1 << 20);
    let short = short.map_err(|e| e.to_string())?;
    for (admission, why) in [(strict, "\"k0\""), (short, "1048576 bytes")] {
        let refused = admission.ndjson(&wide).map_err(|e| e.to_string())?;
        let reason = refused.dead.first();
        let reason = reason.map_or(String::new(), |d| format!("{:?} {}", d.field, d.reason));
        assert!(reason.contains(why) && reason.len() < 300, "{reason}");
    }
    Ok(())
}

/// What is taken for a body is asked for before: the vector as it was, the one that it grows to,
/// and the body that it comes from.
#[test]
fn what_a_body_unpacks_to_is_asked_for_as_it_grows() -> std::result::Result<(), String> {
    let whole = vec![b' '; 20_000_003];
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&whole).map_err(|e| e.to_string())?;
    let packed = Bytes::from(packed.finish().map_err(|e| e.to_string())?);
    let mut asked = Vec::new();
    let grow = |bytes: u64| {
        asked.push(bytes);
        Ok(())
    };
    let out = decompress(packed.clone(), ContentEncoding::Gzip, 1 << 30, grow)
        .map_err(|e| e.to_string())?;
    assert_eq!(out, whole);
    let largest = *asked.last().ok_or("nothing was asked for")?;
    let (least, most) = (whole.len() as u64, 3 * whole.len() as u64);
    // A quarter at a time, so that it holds little more than what came.
    assert!((2 * least * 4 / 5..most).contains(&largest), "{largest}");
    assert!(asked.is_sorted() && asked.len() > 4, "{asked:?}");
    // Where there is no room it is taken apart no further.
    let mut asked = 0;
    let full = |bytes: u64| {
        asked += 1;
        match bytes > 6 << 20 {
            true => Err(Error::NoRoom("full".into())),
            false => Ok(()),
        }
    };
    let refused = decompress(packed.clone(), ContentEncoding::Gzip, 1 << 30, full);
    assert!(matches!(refused, Err(Error::NoRoom(_))));
    assert!(asked < 6, "{asked}");
    let large = decompress(packed, ContentEncoding::Gzip, 1 << 20, |_| Ok(()));
    assert!(large.is_err_and(|e| e.to_string().contains("max_request_bytes")));
    Ok(())
}
