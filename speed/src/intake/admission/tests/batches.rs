//! Rows of Arrow batches, typed and text.

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Date64Array, Decimal128Array,
    DictionaryArray, Float32Array, Float64Array, Int8Array, Int32Array, Int64Array, LargeListArray,
    LargeStringArray, ListArray, NullArray, StringArray, StringViewArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt64Array,
};
use arrow::datatypes::{Int32Type, Int64Type};

use super::*;

const AT: i64 = 1_394_438_400_000_000; // 2014-03-10T08:00:00Z

fn times(rows: usize) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(vec![AT; rows]).with_timezone("UTC"))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap()
}

fn admit_batch(unknown: UnknownFields, batch: &RecordBatch) -> Admitted {
    let admitted = admission(unknown).batch(batch).unwrap();
    check_accounts(&admitted);
    assert_eq!(admitted.record_count, batch.num_rows() as u64);
    admitted
}

/// What each row's value becomes in `field`: text, or `dead: ` and the reason.
fn of_array(field: &str, array: ArrayRef) -> Vec<String> {
    let rows = array.len();
    let mut columns = vec![(field, array)];
    if field != "ts" {
        columns.push(("ts", times(rows)));
    }
    let admitted = admit_batch(UnknownFields::Keep, &batch(columns));
    let mut outcomes = vec![String::new(); rows];
    for (fact, record) in admitted.records.iter().enumerate() {
        outcomes[*record as usize] = shown(&admitted.facts, field, fact);
    }
    for dead in &admitted.dead {
        outcomes[dead.record as usize] = format!("dead: {}", dead.reason);
    }
    outcomes
}

#[test]
fn matching_types_are_taken_as_they_are() {
    let texts: ArrayRef = Arc::new(StringViewArray::from(vec![
        Some("a text that is not inline"),
        None,
    ]));
    let admitted = admit_batch(
        UnknownFields::Keep,
        &batch(vec![("text", texts.clone()), ("ts", times(2))]),
    );
    assert_eq!(admitted.records, [0, 1]);
    let taken = admitted.facts.column_by_name("text").unwrap();
    let buffer = |array: &ArrayRef| array.to_data().buffers()[0].as_ptr();
    assert_eq!(buffer(taken), buffer(&texts), "nothing is copied");
    assert_eq!(
        shown(&admitted.facts, "i64", 0),
        "NULL",
        "a missing column reads NULL"
    );
    assert_eq!(
        (admitted.unknown_fields, shown(&admitted.facts, "_extra", 0)),
        (0, "NULL".to_owned())
    );
}

#[test]
fn what_loses_nothing_is_cast() {
    let dictionary: DictionaryArray<Int32Type> =
        vec![Some("x"), None, Some("x")].into_iter().collect();
    let decimals = |values: Vec<i128>, precision, scale| -> ArrayRef {
        Arc::new(
            Decimal128Array::from(values)
                .with_precision_and_scale(precision, scale)
                .unwrap(),
        )
    };
    let large = LargeListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
    ]);
    let elements =
        ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
    let cases: Vec<(&str, ArrayRef, Vec<&str>)> = vec![
        (
            "i64",
            Arc::new(Int32Array::from(vec![Some(-7), None])),
            vec!["-7", "NULL"],
        ),
        (
            "i8",
            Arc::new(Int64Array::from(vec![127, -128])),
            vec!["127", "-128"],
        ),
        (
            "i64",
            Arc::new(Float64Array::from(vec![3.0, -0.0])),
            vec!["3", "0"],
        ),
        ("i64", decimals(vec![500], 10, 2), vec!["5"]),
        ("f64", Arc::new(Int64Array::from(vec![3])), vec!["3.0"]),
        ("f64", Arc::new(Float32Array::from(vec![0.5])), vec!["0.5"]),
        (
            "f32",
            Arc::new(Float64Array::from(vec![0.1, f64::NAN, f64::INFINITY])),
            vec!["0.1", "NaN", "inf"],
        ),
        ("dec", Arc::new(Int64Array::from(vec![12])), vec!["12.00"]),
        ("dec", decimals(vec![-12_300], 10, 3), vec!["-12.30"]),
        ("dec", Arc::new(Float64Array::from(vec![0.1])), vec!["0.10"]),
        (
            "dec",
            Arc::new(StringArray::from(vec!["1.5"])),
            vec!["1.50"],
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![Some("a"), None])),
            vec!["a", "NULL"],
        ),
        (
            "text",
            Arc::new(LargeStringArray::from(vec!["a"])),
            vec!["a"],
        ),
        ("text", Arc::new(dictionary), vec!["x", "NULL", "x"]),
        ("text", Arc::new(NullArray::new(2)), vec!["NULL", "NULL"]),
        (
            "bytes",
            Arc::new(BinaryArray::from(vec![b"hi".as_slice()])),
            vec!["6869"],
        ),
        (
            "bytes",
            Arc::new(StringArray::from(vec!["aGk="])),
            vec!["6869"],
        ),
        (
            "day",
            Arc::new(StringArray::from(vec!["2014-03-10"])),
            vec!["2014-03-10"],
        ),
        (
            "day",
            Arc::new(Date64Array::from(vec![AT / 1000 - 8 * 3_600_000])),
            vec!["2014-03-10"],
        ),
        (
            "at",
            Arc::new(Date32Array::from(vec![16_139])),
            vec!["2014-03-10T00:00:00"],
        ),
        (
            "at",
            Arc::new(StringArray::from(vec!["2014-03-10 09:00:00+01:00"])),
            vec!["2014-03-10T08:00:00"],
        ),
        (
            "at",
            Arc::new(TimestampSecondArray::from(vec![AT / 1_000_000])),
            vec!["2014-03-10T08:00:00"],
        ),
        (
            "at",
            Arc::new(
                TimestampMillisecondArray::from(vec![AT / 1000]).with_timezone("Europe/Berlin"),
            ),
            vec!["2014-03-10T08:00:00"],
        ),
        (
            "at",
            Arc::new(TimestampMicrosecondArray::from(vec![AT]).with_timezone("-05:00")),
            vec!["2014-03-10T08:00:00"],
        ),
        (
            "at",
            Arc::new(TimestampMicrosecondArray::from(vec![AT])),
            vec!["2014-03-10T08:00:00"],
        ),
        (
            "at",
            Arc::new(TimestampNanosecondArray::from(vec![AT * 1000 + 1999, -1])),
            vec!["2014-03-10T08:00:00.000001", "1969-12-31T23:59:59.999999"],
        ),
        ("ints", Arc::new(large), vec!["[1, ]", "NULL", "[]"]),
        ("ints", Arc::new(elements), vec!["[1, ]", "NULL"]),
    ];
    for (field, array, expected) in cases {
        let from = array.data_type().clone();
        assert_eq!(of_array(field, array), expected, "{from} to {field}");
    }
}

#[test]
fn what_loses_something_is_a_dead_letter_alone() {
    let cases: Vec<(&str, ArrayRef, Vec<&str>)> = vec![
        (
            "i8",
            Arc::new(Int64Array::from(vec![1, 300])),
            vec![
                "1",
                "dead: field `i8`: expected tinyint, found number 300, which is out of range",
            ],
        ),
        (
            "i64",
            Arc::new(UInt64Array::from(vec![u64::MAX, 2])),
            vec![
                "dead: field `i64`: expected bigint, found number 18446744073709551615, which is out of range",
                "2",
            ],
        ),
        (
            "i64",
            Arc::new(Float64Array::from(vec![1.5, f64::NAN])),
            vec![
                "dead: field `i64`: expected bigint, found number 1.5, which has digits that would be lost",
                "dead: field `i64`: expected bigint, found number NaN, which is out of range",
            ],
        ),
        (
            "i64",
            Arc::new(StringArray::from(vec!["1"])),
            vec!["dead: field `i64`: expected bigint, found string \"1\""],
        ),
        (
            "text",
            Arc::new(Int8Array::from(vec![1])),
            vec!["dead: field `text`: expected varchar, found number 1"],
        ),
        (
            "b",
            Arc::new(Int8Array::from(vec![1])),
            vec!["dead: field `b`: expected boolean, found number 1"],
        ),
        (
            "f32",
            Arc::new(Float64Array::from(vec![1e39])),
            vec![
                "dead: field `f32`: expected real, found number 1000000000000000000000000000000000000000, which is out \
                 of range",
            ],
        ),
        (
            "at",
            Arc::new(TimestampMicrosecondArray::from(vec![AT, i64::MAX])),
            vec![
                "2014-03-10T08:00:00",
                "dead: field `at`: expected timestamp, found timestamp 9223372036854775807 microseconds from 1970, \
                 which is outside the years 1678 to 2261",
            ],
        ),
        (
            "day",
            Arc::new(TimestampSecondArray::from(vec![1])),
            vec![
                "dead: field `day`: expected date, found timestamp 1970-01-01 00:00:01, which has digits that would be \
                 lost",
            ],
        ),
        (
            "day",
            Arc::new(Date32Array::from(vec![i32::MAX])),
            vec![
                "dead: field `day`: expected date, found date 2147483647 days from 1970, which is outside the years 1678 \
                 to 2261",
            ],
        ),
        (
            "dec",
            Arc::new(
                Decimal128Array::from(vec![10_i128.pow(20), 1])
                    .with_data_type(DataType::Decimal128(10, 2)),
            ),
            vec![
                "dead: field `dec`: expected decimal(10,2), found decimal 100000000000000000000e-2, which has too many \
                 digits",
                "0.01",
            ],
        ),
        (
            "ints",
            Arc::new(ListArray::from_iter_primitive::<
                arrow::datatypes::Float64Type,
                _,
                _,
            >([
                Some(vec![Some(1.0), Some(0.5)]),
                Some(vec![Some(2.0)]),
            ])),
            vec![
                "dead: field `ints`: expected bigint, found number 0.5, which has digits that would be lost",
                "[2]",
            ],
        ),
        (
            "ts",
            Arc::new(TimestampMillisecondArray::from(vec![Some(AT / 1000), None])),
            vec![
                "2014-03-10T08:00:00",
                "dead: field `ts`: expected timestamp, found null; the field is not null",
            ],
        ),
    ];
    for (field, array, expected) in cases {
        let from = array.data_type().clone();
        assert_eq!(of_array(field, array), expected, "{from} to {field}");
    }
}

#[test]
fn a_dead_row_is_kept_as_json_that_can_be_admitted_again() {
    let rows = batch(vec![
        ("ts", times(2)),
        (
            "i64",
            Arc::new(StringArray::from(vec![Some("x"), Some("y")])),
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![Some("a\nb"), None])),
        ),
        (
            "bytes",
            Arc::new(BinaryArray::from(vec![b"hi".as_slice(), b""])),
        ),
        ("b", Arc::new(BooleanArray::from(vec![Some(true), None]))),
    ]);
    let admitted = admit_batch(UnknownFields::Keep, &rows);
    let raw: Vec<_> = admitted
        .dead
        .iter()
        .map(|dead| String::from_utf8(dead.raw.to_vec()).unwrap())
        .collect();
    assert_eq!(
        raw[0],
        r#"{"ts":"2014-03-10T08:00:00Z","i64":"x","text":"a\nb","bytes":"aGk=","b":true}"#
    );
    assert_eq!(
        raw[1],
        r#"{"ts":"2014-03-10T08:00:00Z","i64":"y","bytes":""}"#
    );
    let again = admit(raw[0].replace("\"x\"", "7"));
    assert_eq!(
        ["i64", "text", "bytes", "b"].map(|field| shown(&again.facts, field, 0)),
        ["7", "a\nb", "6869", "true"].map(str::to_owned)
    );
}

#[test]
fn a_missing_not_null_column_makes_every_row_dead() {
    let admitted = admit_batch(
        UnknownFields::Keep,
        &batch(vec![("i64", Arc::new(Int64Array::from(vec![1, 2])))]),
    );
    assert_eq!(admitted.dead.len(), 2);
    assert_eq!(
        admitted.dead[1].reason,
        "field `ts`: expected timestamp, found nothing; the field is not null"
    );
    assert_eq!(admitted.dead[1].raw, "{\"i64\":2}");
}

#[test]
fn undeclared_columns_go_to_extra_row_by_row() {
    let lists =
        ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1)]), None, None]);
    let rows = batch(vec![
        (
            "_offset",
            Arc::new(Int64Array::from(vec![Some(5), None, None])),
        ),
        ("ts", times(3)),
        ("tags", Arc::new(lists)),
        (
            "seen",
            Arc::new(
                TimestampSecondArray::from(vec![None, None, Some(1)])
                    .with_timezone("Europe/Berlin"),
            ),
        ),
    ]);
    let kept = admit_batch(UnknownFields::Keep, &rows);
    let extra: Vec<_> = (0..3)
        .map(|row| shown(&kept.facts, "_extra", row))
        .collect();
    assert_eq!(
        extra,
        [
            r#"{"_offset":5,"tags":[1]}"#,
            "NULL",
            r#"{"seen":"1970-01-01T00:00:01Z"}"#
        ]
    );
    assert_eq!(kept.unknown_fields, 2);
    let ignored = admit_batch(UnknownFields::Ignore, &rows);
    assert_eq!((ignored.facts.num_rows(), ignored.unknown_fields), (3, 2));
    assert_eq!(shown(&ignored.facts, "_extra", 0), "NULL");
    let rejected = admit_batch(UnknownFields::Reject, &rows);
    assert_eq!(
        (rejected.dead.len(), rejected.dead[0].field.as_deref()),
        (3, Some("_offset"))
    );
}

#[test]
fn columns_of_the_same_name_are_refused() {
    let fields = vec![
        Field::new("ts", timestamp(), true),
        Field::new("ts", timestamp(), true),
    ];
    let rows =
        RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![times(2), times(2)]).unwrap();
    let admitted = admit_batch(UnknownFields::Keep, &rows);
    assert_eq!(
        admitted.dead[0].reason,
        "field `ts`: appears more than once in the record"
    );
}

fn text(field: &str, value: &str) -> Result<String, String> {
    let columns = [("ts", "2014-03-10 08:00:00"), (field, value)];
    let rows = batch(
        columns
            .map(|(name, value)| (name, Arc::new(StringArray::from(vec![value])) as ArrayRef))
            .to_vec(),
    );
    let mut admitted = admission(UnknownFields::Keep).text_batch(&rows).unwrap();
    check_accounts(&admitted);
    match admitted.dead.pop() {
        Some(dead) => Err(dead.reason),
        None => Ok(shown(&admitted.facts, field, 0)),
    }
}

#[test]
fn text_is_read_as_the_field_declares() {
    for (field, value, expected) in [
        ("b", "TRUE", "true"),
        ("b", "0", "false"),
        ("i64", " -7 ", "-7"),
        ("i16", "007", "7"),
        ("f64", "1e3", "1000.0"),
        ("dec", "+1.5", "1.50"),
        ("text", " a ", " a "),
        ("text", "", ""),
        ("bytes", "", ""),
        ("i64", "", "NULL"),
        ("ints", "", "NULL"),
        ("f64", "NaN", "NaN"),
        ("f64", " -Infinity ", "-inf"),
        ("day", "2014-03-10", "2014-03-10"),
        ("at", "2014-03-10T08:00:00Z", "2014-03-10T08:00:00"),
        ("ints", "[1, 2]", "[1, 2]"),
        ("bytes", "aGk=", "6869"),
    ] {
        assert_eq!(
            text(field, value).as_deref(),
            Ok(expected),
            "{field}: {value}"
        );
    }
    for (field, value, reason) in [
        (
            "i64",
            "abc",
            "field `i64`: expected bigint, found string \"abc\"",
        ),
        (
            "f64",
            "nan",
            "field `f64`: expected double, found string \"nan\"",
        ),
        (
            "b",
            "yes",
            "field `b`: expected boolean, found string \"yes\"",
        ),
        (
            "ints",
            "1,2",
            "field `ints`: expected bigint[], found number 1",
        ),
        (
            "ints",
            "[1,2",
            "field `ints`: expected a json array, found string \"[1,2\"",
        ),
        (
            "ints",
            "[1] x",
            "field `ints`: expected a json array, found string \"[1] x\"",
        ),
    ] {
        assert_eq!(
            text(field, value),
            Err(reason.to_owned()),
            "{field}: {value}"
        );
    }
}

#[test]
fn undeclared_texts_are_kept_as_they_are() {
    let column =
        |values: [Option<&str>; 2]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    let rows = batch(vec![
        ("ts", column([Some("2014-03-10"), Some("")])),
        ("x", column([None, Some("1")])),
        ("y", column([Some("é\""), Some("2")])),
        ("z", column([Some(""), None])),
    ]);
    let admitted = admission(UnknownFields::Keep).text_batch(&rows).unwrap();
    check_accounts(&admitted);
    assert_eq!(
        shown(&admitted.facts, "_extra", 0),
        "{\"y\":\"é\\\"\",\"z\":\"\"}"
    );
    assert_eq!(
        admitted.dead[0].reason,
        "field `ts`: expected timestamp, found null; the field is not null"
    );
    assert_eq!(
        admitted.dead[0].raw,
        "{\"ts\":\"\",\"x\":\"1\",\"y\":\"2\"}"
    );
}
