//! What a dead letter keeps of a row comes to the same when it is admitted again.

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Date64Array, Decimal128Array,
    Decimal256Array, Float16Array, Float32Array, Float64Array, Int8Array, Int64Array, ListArray,
    StringArray, Time64MicrosecondArray, TimestampMicrosecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt64Array,
};
use arrow::datatypes::{ArrowPrimitiveType, Float16Type, Float64Type, i256};

use super::*;

type Half = <Float16Type as ArrowPrimitiveType>::Native;

/// A column of every type, two rows each.
fn columns() -> Vec<ArrayRef> {
    vec![
        Arc::new(BooleanArray::from(vec![true, false])),
        Arc::new(Int8Array::from(vec![1, -1])),
        Arc::new(Int64Array::from(vec![i64::MAX, 0])),
        Arc::new(UInt64Array::from(vec![u64::MAX, 7])),
        Arc::new(Float16Array::from(vec![Half::from_f32(0.1), Half::NAN])),
        Arc::new(Float32Array::from(vec![0.1, f32::INFINITY])),
        Arc::new(Float64Array::from(vec![-0.0, f64::NAN])),
        Arc::new(Float64Array::from(vec![1e300, f64::NEG_INFINITY])),
        Arc::new(
            Decimal128Array::from(vec![12_345, 100])
                .with_precision_and_scale(10, 2)
                .unwrap(),
        ),
        Arc::new(Decimal256Array::from(vec![i256::from_i128(5), i256::ONE])),
        Arc::new(StringArray::from(vec!["7", "a\n\"\\\u{7f}é"])),
        Arc::new(StringArray::from(vec!["", " 2014-03-10 "])),
        Arc::new(StringArray::from(vec!["2014-03-10", "aGk="])),
        Arc::new(BinaryArray::from(vec![b"\xff\0".as_slice(), b""])),
        Arc::new(Date32Array::from(vec![0, 2_932_896])),
        Arc::new(Date64Array::from(vec![0, 86_400_000])),
        Arc::new(TimestampSecondArray::from(vec![0, i64::MAX])),
        Arc::new(TimestampMicrosecondArray::from(vec![
            1,
            253_402_214_400_000_000,
        ])),
        Arc::new(TimestampNanosecondArray::from(vec![1_999, -1]).with_timezone("Europe/Berlin")),
        Arc::new(Time64MicrosecondArray::from(vec![0, 1])),
        Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>([
            Some(vec![Some(1.0), None, Some(f64::NAN)]),
            Some(vec![]),
        ])),
    ]
}

/// Each type into each field, in a row that is refused for another field's sake: where the value was taken it is the
/// same when the row is mended, and where it was refused the row stays refused.
#[test]
fn what_a_row_held_comes_back_as_it_was() {
    let ts: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0, 0]).with_timezone("UTC"));
    let fault: ArrayRef = Arc::new(StringArray::from(vec!["x", "x"]));
    for array in columns() {
        for field in schema()
            .fields()
            .iter()
            .skip(1)
            .filter(|f| f.name() != "i8")
        {
            let name = field.name().as_str();
            let what = format!("{} to {name}", array.data_type());
            let good = [("ts", ts.clone()), (name, array.clone())];
            let straight = admission(UnknownFields::Keep)
                .batch(&RecordBatch::try_from_iter(good.clone()).unwrap())
                .unwrap();
            let bad = good.into_iter().chain([("i8", fault.clone())]);
            let bad = admission(UnknownFields::Keep)
                .batch(&RecordBatch::try_from_iter(bad).unwrap())
                .unwrap();
            assert_eq!(bad.dead.len(), 2, "{what}");
            for (row, dead) in bad.dead.iter().enumerate() {
                let raw = String::from_utf8(dead.raw.to_vec()).unwrap();
                let mended = admit(raw.replace(",\"i8\":\"x\"", ""));
                let taken = straight
                    .records
                    .iter()
                    .position(|record| *record == row as u64);
                match taken {
                    Some(at) => {
                        assert_eq!(mended.dead, [], "{what}: {raw}");
                        let (was, is) = (straight.facts.slice(at, 1), &mended.facts);
                        // NaN is not equal to itself, as a text it is.
                        assert_eq!(shown(&was, name, 0), shown(is, name, 0), "{what}: {raw}");
                        if !shown(&was, name, 0).contains("NaN") {
                            assert_eq!(was.column_by_name(name), is.column_by_name(name), "{raw}");
                        }
                    }
                    None => assert_eq!(mended.records.len(), 0, "{what}: {raw}"),
                }
            }
        }
    }
}

/// The same of fields that the topic does not declare: `_extra` is what it would have been.
#[test]
fn undeclared_values_come_back_as_they_were() {
    let ts: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0, 0]).with_timezone("UTC"));
    let fault: ArrayRef = Arc::new(StringArray::from(vec!["x", "x"]));
    for array in columns() {
        let what = array.data_type().to_string();
        let good = [("ts", ts.clone()), ("odd \"", array.clone())];
        let batch = RecordBatch::try_from_iter(good.clone()).unwrap();
        let straight = admission(UnknownFields::Keep).batch(&batch).unwrap();
        let bad = good.into_iter().chain([("i8", fault.clone())]);
        let batch = RecordBatch::try_from_iter(bad).unwrap();
        let bad = admission(UnknownFields::Keep).batch(&batch).unwrap();
        for (row, dead) in bad.dead.iter().enumerate() {
            let raw = String::from_utf8(dead.raw.to_vec()).unwrap();
            let mended = admit(raw.replace(",\"i8\":\"x\"", ""));
            let extra = shown(&straight.facts, "_extra", row);
            assert_eq!(shown(&mended.facts, "_extra", 0), extra, "{what}: {raw}");
            assert!(!extra.contains(":null"), "{what}: {extra}");
        }
    }
}

#[test]
fn rows_of_text_come_back_as_they_were() {
    let column = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
    let rows = RecordBatch::try_from_iter([
        ("ts", column("2014-03-10 08:00:00")),
        ("i64", column(" 7 ")),
        ("b", column("T")),
        ("f64", column("Infinity")),
        ("text", column(" a ")),
        ("day", column(" 2014-03-10")),
        ("ints", column("[1, 2]")),
        ("i8", column("x")),
    ])
    .unwrap();
    let admitted = admission(UnknownFields::Keep).text_batch(&rows).unwrap();
    let raw = String::from_utf8(admitted.dead[0].raw.to_vec()).unwrap();
    assert_eq!(
        raw,
        "{\"ts\":\"2014-03-10 08:00:00\",\"i64\":7,\"b\":true,\"f64\":\"Infinity\",\"text\":\" a \",\"day\":\"2014-03-10\",\"ints\":[1,2],\"i8\":\"x\"}"
    );
    let mended = admit(raw.replace("\"x\"", "1"));
    let found = ["ts", "i64", "b", "f64", "text", "day", "ints", "i8"];
    assert_eq!(
        found.map(|field| shown(&mended.facts, field, 0)),
        [
            "2014-03-10T08:00:00",
            "7",
            "true",
            "inf",
            " a ",
            "2014-03-10",
            "[1, 2]",
            "1"
        ]
    );
}
