//! Lines of JSON.

use super::*;
use crate::intake::admission::{AdmissionError, ErrorKind, MAX_DEAD_LETTERS, RAW_BYTES};

const FACT: &str = r#"{"ts":"2014-03-10T08:00:00Z","i64":1}"#;

#[test]
fn each_type_takes_its_values() {
    for (field, value, expected) in [
        ("b", "true", "true"),
        ("i8", "-128", "-128"),
        ("i16", "32767", "32767"),
        ("i32", "-2147483648", "-2147483648"),
        ("i64", "-9223372036854775808", "-9223372036854775808"),
        ("i64", "9223372036854775807", "9223372036854775807"),
        ("i64", "1.0", "1"),
        ("i64", "1e3", "1000"),
        ("i64", "12.50e1", "125"),
        ("i64", "-0", "0"),
        ("f32", "0.1", "0.1"),
        ("f64", "1", "1.0"),
        ("f64", "0.30000000000000004", "0.30000000000000004"),
        ("f64", "1e-400", "0.0"),
        ("dec", "12.34", "12.34"),
        ("dec", "\"-12.3\"", "-12.30"),
        ("dec", "99999999.99", "99999999.99"),
        (
            "dec",
            "1.2300000000000000000000000000000000000000000000000",
            "1.23",
        ),
        (
            "dec38",
            "99999999999999999999999999999999999999",
            "99999999999999999999999999999999999999",
        ),
        ("text", "\"a\\n\\u00e9\\ud83d\\ude00\\\"\"", "a\né😀\""),
        ("text", "\"\"", ""),
        (
            "text",
            "\"longer than a view holds inline\"",
            "longer than a view holds inline",
        ),
        ("bytes", "\"aGk=\"", "6869"),
        ("bytes", "\"aGk\"", "6869"),
        ("day", "\"2014-02-28\"", "2014-02-28"),
        ("at", "\"2014-03-10T08:00:00Z\"", "2014-03-10T08:00:00"),
        ("at", "\"2014-03-10t08:00:00z\"", "2014-03-10T08:00:00"),
        (
            "at",
            "\"2014-03-10 08:00:00.123456789\"",
            "2014-03-10T08:00:00.123456",
        ),
        (
            "at",
            "\"2014-03-10T08:00:00.5+01:30\"",
            "2014-03-10T06:30:00.500",
        ),
        ("at", "\"2014-03-10T23:30:00-0100\"", "2014-03-11T00:30:00"),
        ("at", "\"2014-03-10\"", "2014-03-10T00:00:00"),
        (
            "at",
            "\"1969-12-31T23:59:59.9999999Z\"",
            "1969-12-31T23:59:59.999999",
        ),
        ("at", "\"1678-01-01T00:00:00Z\"", "1678-01-01T00:00:00"),
        (
            "at",
            "\"2261-12-31T23:59:59.999999999Z\"",
            "2261-12-31T23:59:59.999999",
        ),
        ("ints", "[1, null, 3]", "[1, , 3]"),
        ("ints", "[]", "[]"),
        ("ints", "null", "NULL"),
        ("texts", "[\"a\",\"b\"]", "[a, b]"),
        ("nested", "[[1],[],null,[2,3]]", "[[1], [], , [2, 3]]"),
        ("times", "[\"2014-03-10\"]", "[2014-03-10T00:00:00]"),
    ] {
        assert_eq!(
            of_json(field, value).as_deref(),
            Ok(expected),
            "{field}: {value}"
        );
    }
    for field in schema().fields().iter().skip(1) {
        assert_eq!(
            of_json(field.name(), "null").as_deref(),
            Ok("NULL"),
            "{field}"
        );
    }
}

#[test]
fn each_type_refuses_the_rest_and_says_why() {
    let rfc = "; send RFC 3339, such as \"2014-03-10T08:00:00Z\"";
    let years = ", which is outside the years 1678 to 2261";
    for (field, value, reason) in [
        (
            "i64",
            "\"abc\"",
            "expected bigint, found string \"abc\"".to_owned(),
        ),
        (
            "i64",
            "\"1\"",
            "expected bigint, found string \"1\"".to_owned(),
        ),
        (
            "i64",
            "true",
            "expected bigint, found boolean true".to_owned(),
        ),
        (
            "i64",
            "1.5",
            "expected bigint, found number 1.5, which has digits that would be lost".to_owned(),
        ),
        (
            "i64",
            "9223372036854775808",
            "expected bigint, found number 9223372036854775808, which is out of range".into(),
        ),
        (
            "i64",
            "1e99999999999",
            "expected bigint, found number 1e99999999999, which is out of range".to_owned(),
        ),
        (
            "i64",
            "1e-99999999999",
            "expected bigint, found number 1e-99999999999, which has digits that would be lost"
                .into(),
        ),
        ("i64", "[1]", "expected bigint, found array [1]".to_owned()),
        (
            "i64",
            "{\"a\": 1}",
            "expected bigint, found object {\"a\": 1}".to_owned(),
        ),
        (
            "i8",
            "128",
            "expected tinyint, found number 128, which is out of range".to_owned(),
        ),
        (
            "i16",
            "-32769",
            "expected smallint, found number -32769, which is out of range".to_owned(),
        ),
        (
            "i32",
            "2147483648",
            "expected int, found number 2147483648, which is out of range".to_owned(),
        ),
        (
            "f64",
            "1e400",
            "expected double, found number 1e400, which is out of range".to_owned(),
        ),
        (
            "f32",
            "1e39",
            "expected real, found number 1e39, which is out of range".to_owned(),
        ),
        (
            "f64",
            "\"nan\"",
            "expected double, found string \"nan\"".to_owned(),
        ),
        (
            "dec",
            "1.234",
            "expected decimal(10,2), found number 1.234, which has digits that would be lost"
                .to_owned(),
        ),
        (
            "dec",
            "100000000",
            "expected decimal(10,2), found number 100000000, which has too many digits".to_owned(),
        ),
        (
            "dec",
            "\"1,5\"",
            "expected decimal(10,2), found string \"1,5\"".to_owned(),
        ),
        ("text", "7", "expected varchar, found number 7".to_owned()),
        (
            "text",
            "false",
            "expected varchar, found boolean false".to_owned(),
        ),
        ("b", "1", "expected boolean, found number 1".to_owned()),
        (
            "b",
            "\"true\"",
            "expected boolean, found string \"true\"".to_owned(),
        ),
        (
            "bytes",
            "\"?\"",
            "expected binary, found string \"?\"; send base64".to_owned(),
        ),
        (
            "day",
            "\"2014-02-29\"",
            "expected date, found string \"2014-02-29\"; send a date such as \"2014-03-10\"".into(),
        ),
        (
            "at",
            "\"2014-03-10T08:00:000Z\"",
            format!("expected timestamp, found string \"2014-03-10T08:00:000Z\"{rfc}"),
        ),
        (
            "at",
            "1394438400000",
            format!(
                "expected timestamp, found number 1394438400000{rfc}, or say what numbers count by `epoch` in the field's settings"
            ),
        ),
        (
            "at",
            "\"2014-03-10T08:00:60Z\"",
            format!("expected timestamp, found string \"2014-03-10T08:00:60Z\"{rfc}"),
        ),
        (
            "at",
            "\"2014-03-10T24:00:00Z\"",
            format!("expected timestamp, found string \"2014-03-10T24:00:00Z\"{rfc}"),
        ),
        (
            "at",
            "\"2014-03-10T08:00Z\"",
            format!("expected timestamp, found string \"2014-03-10T08:00Z\"{rfc}"),
        ),
        (
            "at",
            "\"2014-03-10T08:00:00.Z\"",
            format!("expected timestamp, found string \"2014-03-10T08:00:00.Z\"{rfc}"),
        ),
        (
            "at",
            "\"2014-03-10T08:00:00.0123456789Z\"",
            format!("expected timestamp, found string \"2014-03-10T08:00:00.0123456789Z\"{rfc}"),
        ),
        (
            "at",
            "\"2014-03-10Z\"",
            format!("expected timestamp, found string \"2014-03-10Z\"{rfc}"),
        ),
        (
            "at",
            "\"\"",
            format!("expected timestamp, found string \"\"{rfc}"),
        ),
        (
            "at",
            "\"1677-12-31T23:59:59Z\"",
            format!("expected timestamp, found string \"1677-12-31T23:59:59Z\"{years}"),
        ),
        (
            "at",
            "\"2262-01-01T00:00:00Z\"",
            format!("expected timestamp, found string \"2262-01-01T00:00:00Z\"{years}"),
        ),
        ("ints", "1", "expected bigint[], found number 1".to_owned()),
        (
            "ints",
            "[1, \"a\"]",
            "expected bigint, found string \"a\"".to_owned(),
        ),
        (
            "nested",
            "[[1], 2]",
            "expected bigint[], found number 2".to_owned(),
        ),
        (
            "times",
            "[\"3000-01-01\"]",
            format!("expected timestamp, found string \"3000-01-01\"{years}"),
        ),
    ] {
        assert_eq!(of_json(field, value), Err(reason), "{field}: {value}");
    }
}

#[test]
fn a_long_value_is_cut_in_the_reason() {
    let reason = of_json("i64", &format!("\"{}\"", "é".repeat(100))).unwrap_err();
    assert_eq!(
        reason,
        format!("expected bigint, found string \"{}…\"", "é".repeat(60))
    );
}

#[test]
fn lines_end_in_either_way_and_blank_ones_are_not_records() {
    let admitted = admit(format!("\n{FACT}\r\n  \t\r\n\r\n{FACT}\n\n{FACT}"));
    assert_eq!((admitted.record_count, admitted.facts.num_rows()), (3, 3));
    let empty = admit("");
    assert_eq!((empty.record_count, empty.facts.num_rows()), (0, 0));
    assert_eq!(
        empty.facts.schema(),
        *admission(UnknownFields::Keep).schema()
    );
    assert_eq!(admit("\r\n \n").record_count, 0);
}

#[test]
fn bad_lines_are_dead_letters_between_facts() {
    let lines = [
        FACT.as_bytes(),
        b"{\"ts\":\"2014-03-10T08:00:00Z\",\"i64\":\"x\",\"ints\":[1,2]}",
        b"{\"ts\":\"2014-03-10T08:00:00Z\",\"ints\":[1,2,\"x\"],\"zz\":1}",
        b"{\"ts\":\"2014-03-10T08:00:00Z\",\"text\":\"a long text \xff beyond twelve\"}",
        b"{\"ts\":\"2014-03-10T08:00:00Z\",\"ints\":[7]}",
        b"[1,2]",
        b"{\"ts\":\"2014-03-10T08:00:00Z\"} x",
        b"{\"ts\":\"2014-03-10T08:00:00Z\"",
        b"{\"i64\":1}",
        b"{\"ts\":null}",
        b"{\"ts\":\"2014-03-10T08:00:00Z\",\"i64\":1,\"i64\":1}",
        b"{\"ts\":\"2014-03-10T08:00:00Z\",\"i64\":01}",
        b"{\"ts\":\"2014-03-10T08:00:00Z\",\"f64\":NaN}",
        b"{\"ts\":\"2014-03-10T08:00:00Z\",\"text\":\"\\ud800\"}",
        b"\"text\"",
        b"{\"ts\":\"2014-03-10T08:00:00Z\",\"i64\":2}",
    ];
    let admitted = admit(lines.join(&b'\n'));
    assert_eq!(admitted.records, [0, 4, 15]);
    let ints: Vec<_> = (0..3)
        .map(|row| shown(&admitted.facts, "i64", row))
        .collect();
    assert_eq!(ints, ["1", "NULL", "2"]);
    let lists: Vec<_> = (0..3)
        .map(|row| shown(&admitted.facts, "ints", row))
        .collect();
    assert_eq!(lists, ["NULL", "[7]", "NULL"]);
    assert_eq!(admitted.unknown_fields, 0, "dead letters don't count");
    for dead in &admitted.dead {
        assert_eq!(dead.raw, lines[dead.record as usize]);
    }
    let reason = |record: u64| {
        let dead = admitted
            .dead
            .iter()
            .find(|dead| dead.record == record)
            .unwrap();
        (dead.field.as_deref(), dead.reason.as_str())
    };
    assert_eq!(reason(3), (None, "record is not valid utf-8"));
    assert_eq!(
        reason(5),
        (
            None,
            "expected a json object, found array [1,2]; an array of records is taken where a file or a request begins with it"
        )
    );
    assert_eq!(
        reason(6),
        (
            None,
            "record is not valid json: trailing characters (byte 30)"
        )
    );
    assert_eq!(
        reason(7),
        (
            None,
            "record is not valid json: EOF while parsing an object (byte 28)"
        )
    );
    assert_eq!(
        reason(8),
        (
            Some("ts"),
            "field `ts`: expected timestamp, found nothing; the field is not null"
        )
    );
    assert_eq!(
        reason(9),
        (
            Some("ts"),
            "field `ts`: expected timestamp, found null; the field is not null"
        )
    );
    assert_eq!(
        reason(10),
        (
            Some("i64"),
            "field `i64`: appears more than once in the record"
        )
    );
    assert_eq!(
        reason(14),
        (None, "expected a json object, found string \"text\"")
    );
}

#[test]
fn a_line_at_the_limit_is_a_fact_and_one_beyond_is_cut() {
    let admit = |limit: usize, lines: &str| {
        let admission = Admission::new(&schema(), "ts", UnknownFields::Keep, limit).unwrap();
        admission
            .ndjson(&Bytes::copy_from_slice(lines.as_bytes()))
            .unwrap()
    };
    let line = format!(
        "{{\"ts\":\"2014-03-10\",\"text\":\"{}\"}}",
        "x".repeat(100_000)
    );
    let both = format!("{line}\r\n{FACT}\n");
    assert_eq!(admit(line.len(), &both).records, [0, 1]);
    let admitted = admit(line.len() - 1, &both);
    assert_eq!(admitted.records, [1]);
    assert_eq!(admitted.dead[0].raw, line.as_bytes()[..RAW_BYTES]);
    let reason = format!(
        "record of {} bytes is longer than the topic's limit of {} bytes",
        line.len(),
        line.len() - 1
    );
    assert_eq!(admitted.dead[0].reason, reason);
}

#[test]
fn undeclared_fields_are_kept_as_they_came_ignored_or_rejected() {
    let line = r#"{"z": 1.50, "ts":"2014-03-10","_offset":[1, {"a":null}],"I64":"é","z":1e999,"k\"\u0041":null}"#;
    let bytes = Bytes::copy_from_slice(format!("{line}\n{FACT}").as_bytes());
    let kept = admission(UnknownFields::Keep).ndjson(&bytes).unwrap();
    let extra = r#"{"z":1.50,"_offset":[1, {"a":null}],"I64":"é","z":1e999,"k\"A":null}"#;
    assert_eq!(shown(&kept.facts, "_extra", 0), extra);
    assert_eq!(shown(&kept.facts, "_extra", 1), "NULL");
    assert_eq!(shown(&kept.facts, "i64", 0), "NULL", "names match exactly");
    assert_eq!(kept.unknown_fields, 1);
    let ignored = admission(UnknownFields::Ignore).ndjson(&bytes).unwrap();
    assert_eq!((ignored.facts.num_rows(), ignored.unknown_fields), (2, 1));
    assert_eq!(shown(&ignored.facts, "_extra", 0), "NULL");
    let rejected = admission(UnknownFields::Reject).ndjson(&bytes).unwrap();
    assert_eq!(rejected.records, [1]);
    assert_eq!(rejected.dead[0].field.as_deref(), Some("z"));
    let reason = "field `z`: not declared in the topic, which rejects undeclared fields";
    assert_eq!(rejected.dead[0].reason, reason);
}

#[test]
fn undeclared_values_are_valid_json_or_the_record_is_dead() {
    for value in [
        "[1,]",
        "{\"a\" 1}",
        "tru",
        "\"\\x\"",
        "\"\\ud800\"",
        "\"a\tb\"",
        "-",
        "1.",
        "[",
        &"[".repeat(100_000),
    ] {
        for unknown in [UnknownFields::Keep, UnknownFields::Ignore] {
            let line = format!("{{\"ts\":\"2014-03-10\",\"x\":{value}}}");
            let admitted = admission(unknown).ndjson(&Bytes::from(line)).unwrap();
            assert_eq!(admitted.dead.len(), 1, "{}", &value[..value.len().min(20)]);
        }
    }
}

#[test]
fn only_schemas_of_topics_are_admitted_to() {
    let ts = || Field::new("ts", timestamp(), false);
    let new = |fields: Vec<Field>, event_time: &str| {
        Admission::new(
            &Arc::new(Schema::new(fields)),
            event_time,
            UnknownFields::Keep,
            1000,
        )
        .map(|_| ())
    };
    assert!(new(vec![ts()], "ts").is_ok());
    assert!(matches!(
        new(vec![ts()], "at"),
        Err(AdmissionError::NoEventTime { .. })
    ));
    assert!(matches!(
        new(vec![ts(), Field::new("a", DataType::Int8, true)], "a"),
        Err(AdmissionError::NoEventTime { .. })
    ));
    assert!(matches!(
        new(vec![ts(), ts()], "ts"),
        Err(AdmissionError::DeclaredTwice { .. })
    ));
    let reserved = Field::new("_offset", DataType::Int64, true);
    assert!(matches!(
        new(vec![ts(), reserved], "ts"),
        Err(AdmissionError::ReservedName { .. })
    ));
    for data_type in [
        DataType::Utf8,
        DataType::UInt64,
        DataType::Timestamp(TimeUnit::Microsecond, None),
    ] {
        let outcome = new(vec![ts(), Field::new("a", data_type, true)], "ts");
        assert!(matches!(
            outcome,
            Err(AdmissionError::UnsupportedType { .. })
        ));
    }
}

#[test]
fn what_dead_letters_wrote_is_not_stored_with_the_facts() {
    let dead = format!("{{\"text\":\"{}\",\"i64\":\"x\"}}\n", "d".repeat(10_000));
    let admitted = admit(format!("{}{FACT}", dead.repeat(50)));
    assert_eq!(admitted.facts.num_rows(), 1);
    let text = admitted.facts.column_by_name("text").unwrap();
    assert!(
        text.get_buffer_memory_size() < 10_000,
        "{}",
        text.get_buffer_memory_size()
    );
}

#[test]
fn a_small_request_holds_little_memory() {
    let text = "a text that is not inlined";
    let admitted = admit(format!(
        "{{\"ts\":\"2024-05-01\",\"text\":\"{text}\",\"texts\":[\"{text}\"],\"other\":\"{text}\"}}"
    ));
    assert_eq!(admitted.facts.num_rows(), 1);
    let bytes = admitted.facts.get_array_memory_size();
    assert!(bytes < 10_000, "{bytes}");
}

#[test]
fn dead_letters_name_their_line() {
    let admitted = admit(format!(
        "\u{feff}{FACT}\n\n \r\nx\r\n{FACT}\n\u{feff}\ny\n\u{feff}{FACT}\nnull x\nnot"
    ));
    assert_eq!(admitted.records, [0, 2, 4]);
    let lines: Vec<_> = admitted.dead.iter().map(|d| d.line).collect();
    assert_eq!(lines, [Some(4), Some(7), Some(9), Some(10)]);
    assert_eq!(
        admitted.dead[2].reason,
        "record is not valid json: trailing characters (byte 5)"
    );
    assert!(
        admitted.dead[3].reason.contains("not valid json"),
        "{}",
        admitted.dead[3].reason
    );
}

#[test]
fn an_input_that_is_nothing_but_dead_letters_is_refused() {
    let junk = |lines: usize| Bytes::from("x\n".repeat(lines));
    let admission = admission(UnknownFields::Keep);
    let most = admission.ndjson(&junk(MAX_DEAD_LETTERS)).unwrap();
    assert_eq!(most.dead.len(), MAX_DEAD_LETTERS);
    let error = admission.ndjson(&junk(MAX_DEAD_LETTERS + 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error
            .to_string()
            .contains("nothing was admitted; the first is record 0"),
        "{error}"
    );
}
