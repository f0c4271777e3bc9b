//! Values as a field's settings say that they are to be read, and columns by names in another case.

use anabranch_shared::settings::{FieldSettings, Project};
use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};

use super::*;

/// The settings of fields that are declared so.
fn declared(fields: &str) -> Vec<FieldSettings> {
    let text = format!(
        "[topics.t]\nevent_time = \"ts\"\n[topics.t.fields]\nts = \"timestamp not null\"\n{fields}"
    );
    let path = std::path::Path::new("p/anabranch.toml");
    let project = Project::parse(&text, path, &|_| None).unwrap();
    project.topics[0].fields.clone()
}

/// What a JSON value becomes in `field`, or why it does not.
fn read(admission: &Admission, field: &str, value: &str) -> Result<String, String> {
    let line = format!("{{\"ts\":\"2014-03-10T08:00:00Z\",\"{field}\":{value}}}");
    let mut admitted = admission.ndjson(&Bytes::from(line)).unwrap();
    check_accounts(&admitted);
    match admitted.dead.pop() {
        Some(dead) => Err(dead.reason),
        None => Ok(shown(&admitted.facts, field, 0)),
    }
}

#[test]
fn numbers_count_from_1970_where_the_field_says_so() {
    for (unit, value, expected) in [
        ("seconds", "1394438400", "2014-03-10T08:00:00"),
        ("seconds", "1394438400.25", "2014-03-10T08:00:00.250"),
        ("seconds", "\"1394438400.123\"", "2014-03-10T08:00:00.123"),
        ("seconds", "-1", "1969-12-31T23:59:59"),
        ("seconds", "1.3944384e9", "2014-03-10T08:00:00"),
        ("milliseconds", "1394438400001", "2014-03-10T08:00:00.001"),
        (
            "milliseconds",
            "\"1394438400001\"",
            "2014-03-10T08:00:00.001",
        ),
        (
            "microseconds",
            "1394438400000001",
            "2014-03-10T08:00:00.000001",
        ),
        // Cut towards the past, as the digits of a text are.
        (
            "nanoseconds",
            "1394438400000001999",
            "2014-03-10T08:00:00.000001",
        ),
        ("nanoseconds", "-1", "1969-12-31T23:59:59.999999"),
        // Times in words have one reading only.
        ("seconds", "\"2014-03-10T08:00:00Z\"", "2014-03-10T08:00:00"),
    ] {
        let fields = declared(&format!(
            "at = {{ type = \"timestamp\", epoch = \"{unit}\" }}"
        ));
        let admission = admission(UnknownFields::Keep).reading(&fields);
        assert_eq!(
            read(&admission, "at", value).as_deref(),
            Ok(expected),
            "{unit} {value}"
        );
    }
    let fields = declared("at = { type = \"timestamp\", epoch = \"seconds\" }");
    let admission = admission(UnknownFields::Keep).reading(&fields);
    for (value, reason) in [
        ("1394438400000", "outside the years 1678 to 2261"),
        ("1e300", "out of range"),
        ("\"1e300\"", "out of range"),
        ("1.0000000001", "digits that would be lost"),
        ("\"yesterday\"", "send RFC 3339"),
        ("true", "found boolean true"),
    ] {
        let why = read(&admission, "at", value).unwrap_err();
        assert!(why.contains(reason), "{value}: {why}");
    }
    // Columns of numbers and of texts likewise.
    let of_column = |array: ArrayRef| {
        let ts: ArrayRef = Arc::new(StringArray::from(vec!["2014-03-10"; array.len()]));
        let rows = RecordBatch::try_from_iter([("ts", ts), ("at", array)]).unwrap();
        let admitted = admission.batch(&rows).unwrap();
        (0..admitted.facts.num_rows())
            .map(|row| shown(&admitted.facts, "at", row))
            .collect::<Vec<_>>()
    };
    let at = ["2014-03-10T08:00:00"];
    assert_eq!(
        of_column(Arc::new(Int64Array::from(vec![1_394_438_400]))),
        at
    );
    assert_eq!(
        of_column(Arc::new(Float64Array::from(vec![1_394_438_400.0]))),
        at
    );
    assert_eq!(
        of_column(Arc::new(StringArray::from(vec!["1394438400"]))),
        at
    );
}

#[test]
fn times_without_a_zone_are_of_the_fields() {
    let fields = declared("at = { type = \"timestamp\", timezone = \"Europe/Berlin\" }");
    let admission = admission(UnknownFields::Keep).reading(&fields);
    for (value, expected) in [
        ("\"2026-07-01T12:00:00\"", "2026-07-01T10:00:00"),
        ("\"2026-07-01T12:00:00Z\"", "2026-07-01T12:00:00"),
        ("\"2026-07-01 12:00:00+00\"", "2026-07-01T12:00:00"),
        ("\"2026-01-01\"", "2025-12-31T23:00:00"),
        ("\"2026-10-25 02:30:00.5\"", "2026-10-25T00:30:00.500"),
    ] {
        assert_eq!(
            read(&admission, "at", value).as_deref(),
            Ok(expected),
            "{value}"
        );
    }
    let why = read(&admission, "at", "\"2026-03-29 02:30:00\"").unwrap_err();
    assert!(
        why.ends_with("clocks in the field's zone have passed over"),
        "{why}"
    );
    // 2026-07-01T12:00:00, of a clock and as an instant.
    let micros = 1_782_907_200_000_000;
    let naive = TimestampMicrosecondArray::from(vec![micros]);
    let ts: ArrayRef = Arc::new(naive.clone().with_timezone("UTC"));
    for (array, expected) in [
        (Arc::new(naive) as ArrayRef, "2026-07-01T10:00:00"),
        (ts.clone(), "2026-07-01T12:00:00"),
    ] {
        let rows = RecordBatch::try_from_iter([("ts", ts.clone()), ("at", array)]).unwrap();
        let admitted = admission.batch(&rows).unwrap();
        assert_eq!(shown(&admitted.facts, "at", 0), expected);
    }
}

#[test]
fn texts_are_numbers_where_the_field_says_so() {
    let fields = declared(
        "i64 = { type = \"bigint\", from_text = true }\nf64 = { type = \"double\", from_text = true }\nints = { type = \"bigint[]\", from_text = true }\n",
    );
    let admission = admission(UnknownFields::Keep).reading(&fields);
    for (field, value, expected) in [
        ("i64", "\"42\"", "42"),
        ("i64", "\" -7 \"", "-7"),
        ("i64", "9", "9"),
        ("f64", "\"1e3\"", "1000.0"),
        ("f64", "\"NaN\"", "NaN"),
        ("ints", "[\"1\",2]", "[1, 2]"),
    ] {
        assert_eq!(
            read(&admission, field, value).as_deref(),
            Ok(expected),
            "{value}"
        );
    }
    // What JSON has no number for is a text in any case, and no other text is.
    let plain = self::admission(UnknownFields::Keep);
    for (field, value, expected) in [
        ("f64", "\"NaN\"", Some("NaN")),
        ("f64", "\"Infinity\"", Some("inf")),
        ("f64", "\"-Infinity\"", Some("-inf")),
        ("f32", "\"-Infinity\"", Some("-inf")),
        ("f64", "\"1e3\"", None),
        ("f64", "\"inf\"", None),
        ("f64", "\"nan\"", None),
        ("i64", "\"NaN\"", None),
    ] {
        let found = read(&plain, field, value);
        assert_eq!(found.ok().as_deref(), expected, "{field} {value}");
    }
    for (field, value, reason) in [
        ("i64", "\"1.5\"", "digits that would be lost"),
        ("i64", "\"\"", "found string \"\""),
        ("i32", "\"1\"", "found string \"1\""),
    ] {
        let why = read(&admission, field, value).unwrap_err();
        assert!(why.contains(reason), "{value}: {why}");
    }
}

#[test]
fn columns_are_fields_whatever_their_case() {
    let ts: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC"));
    let number = |n: i64| Arc::new(Int64Array::from(vec![n])) as ArrayRef;
    let admitted = |columns: Vec<(&str, ArrayRef)>| {
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        admission(UnknownFields::Keep).batch(&rows).unwrap()
    };
    let found = admitted(vec![
        ("TS", ts.clone()),
        ("I64", number(1)),
        ("x", number(2)),
    ]);
    assert_eq!(shown(&found.facts, "i64", 0), "1");
    assert_eq!(shown(&found.facts, "_extra", 0), "{\"x\":2}");
    // The one that has just the field's name is the field.
    let found = admitted(vec![
        ("ts", ts.clone()),
        ("I64", number(1)),
        ("i64", number(2)),
    ]);
    assert_eq!(shown(&found.facts, "i64", 0), "2");
    assert_eq!(shown(&found.facts, "_extra", 0), "{\"I64\":1}");
    let found = admitted(vec![("ts", ts), ("I64", number(1)), ("I64", number(2))]);
    assert_eq!(found.dead[0].field.as_deref(), Some("i64"));
}
