//! Views that hold every function of which the form of states is known, and facts for them. They are
//! those of the fixtures, so neither changes.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringViewArray, TimestampMicrosecondArray, new_null_array,
};

use crate::settings::{FieldReads, FieldType};
use crate::topic::{INGESTED_AT, OFFSET, PARTITION};
use crate::{Topic, TopicField};

/// The views.
pub(crate) const VIEWS: [(&str, &str); 4] = [
    (
        "plain",
        "SELECT s, count(*) AS a0, count(n) AS a1, sum(i) AS a2, sum(n) AS a3, sum(d) AS a4, sum(f) AS a5,
         avg(i) AS a6, avg(f) AS a7, avg(d) AS a8, min(n) AS a9, max(n) AS a10, min(f) AS a11, max(f) AS a12,
         min(s) AS a13, max(s) AS a14, min(ts) AS a15, max(d) AS a16, min(b) AS a17, stddev(f) AS a18,
         stddev_pop(f) AS a19, var(f) AS a20, var_pop(f) AS a21, corr(f, i) AS a22, covar_samp(f, i) AS a23,
         covar_pop(f, i) AS a24, regr_slope(f, i) AS a25, regr_intercept(f, i) AS a26, regr_count(f, i) AS a27,
         regr_r2(f, i) AS a28, regr_avgx(f, i) AS a29, regr_avgy(f, i) AS a30, regr_sxx(f, i) AS a31,
         regr_syy(f, i) AS a32, regr_sxy(f, i) AS a33, bool_and(b) AS a34, bool_or(b) AS a35, bit_and(i) AS a36,
         bit_or(i) AS a37, bit_xor(i) AS a38, median(i) AS a39, median(f) AS a40,
         percentile_cont(0.5) WITHIN GROUP (ORDER BY f) AS a41, approx_distinct(s) AS a42, approx_distinct(n) AS a43,
         approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY f) AS a44, approx_median(f) AS a45,
         sum(i) FILTER (WHERE b) AS a46, approx_percentile_cont_with_weight(i, 0.5) WITHIN GROUP (ORDER BY f) AS a47
         FROM facts GROUP BY s",
    ),
    (
        "distinct",
        "SELECT s, count(DISTINCT n) AS a0, count(DISTINCT b) AS a1, count(DISTINCT f) AS a2, sum(DISTINCT i) AS a3,
         sum(DISTINCT d) AS a4, avg(DISTINCT i) AS a5, avg(DISTINCT d) AS a6, sum(DISTINCT f) AS a7,
         median(DISTINCT i) AS a8, count(DISTINCT d) AS a9, count(DISTINCT ts) AS a10,
         count(DISTINCT s) AS a11
         FROM facts GROUP BY s",
    ),
    (
        "ordered",
        "SELECT s, first_value(n ORDER BY ts) AS a0, last_value(i) AS a1, nth_value(i, 2 ORDER BY ts) AS a2,
         array_agg(i ORDER BY n DESC) AS a3, string_agg(s, ',' ORDER BY ts) AS a4, any_value(n) AS a5,
         array_agg(f) AS a6, array_agg(ts ORDER BY ts) AS a7
         FROM facts GROUP BY s",
    ),
    (
        "whole",
        "SELECT count(*) AS a0, sum(n) AS a1, array_agg(DISTINCT s) AS a2, string_agg(DISTINCT s, ',') AS a3,
         approx_distinct(i) AS a4 FROM facts",
    ),
];

/// Functions that version 0.1.0 did not have.
pub(crate) const LATER: (&str, &str) = (
    "counted",
    "SELECT s, mode(i) AS a0, percentile_disc(0.5) WITHIN GROUP (ORDER BY n) AS a1, histogram(b) AS a2,
     session_count(ts, INTERVAL '2 minutes') AS a3, session_seconds(ts, INTERVAL '90 seconds') AS a4,
     sessions(ts, INTERVAL '3 minutes', n, f, s, d) AS a5
     FROM facts GROUP BY s",
);

/// The topic that they read.
pub(crate) fn topic() -> Topic {
    let field = |name: &str, kind: &str| TopicField {
        name: name.into(),
        field_type: kind.parse::<FieldType>().expect("a type"),
        nullable: true,
        reads: FieldReads::default(),
    };
    Topic {
        name: "facts".into(),
        event_time: "ts".into(),
        fields: vec![
            field("ts", "timestamp"),
            field("s", "varchar"),
            field("i", "int"),
            field("n", "bigint"),
            field("f", "double"),
            field("d", "decimal(12,3)"),
            field("b", "boolean"),
        ],
    }
}

/// Facts with the offsets of a range, always the same ones; every ninth value is NULL.
pub(crate) fn facts(topic: &Topic, offsets: std::ops::Range<i64>) -> RecordBatch {
    let rows = (offsets.end - offsets.start) as usize;
    macro_rules! column {
        ($array:ty, $nth:expr, $value:expr) => {
            Arc::new(<$array>::from_iter(offsets.clone().map(|o| {
                match (o + $nth) % 9 {
                    0 => None,
                    _ => Some($value(o)),
                }
            }))) as ArrayRef
        };
    }
    let schema = topic.schema();
    let columns = schema.fields().iter().map(|f| match f.name().as_str() {
        "ts" => Arc::new(
            TimestampMicrosecondArray::from_iter_values(
                offsets
                    .clone()
                    .map(|o| 1_700_000_000_000_000 + (o * 7 % 31) * 60_000_000),
            )
            .with_timezone("UTC"),
        ) as ArrayRef,
        "s" => column!(StringViewArray, 0, |o: i64| [
            "a",
            "b",
            "a text that is not inlined"
        ][o as usize % 3]),
        "i" => column!(Int32Array, 1, |o: i64| (o * 13 % 41 - 20) as i32),
        "n" => column!(Int64Array, 2, |o: i64| o * 1_000_003 % 65_537),
        "f" => column!(Float64Array, 3, |o: i64| (o * 37 % 101) as f64 / 8.0 - 5.0),
        "d" => Arc::new(
            Decimal128Array::from_iter_values(
                offsets.clone().map(|o| i128::from(o) * 1_234 - 50_000),
            )
            .with_precision_and_scale(12, 3)
            .unwrap(),
        ),
        "b" => column!(BooleanArray, 5, |o: i64| o % 4 != 1),
        PARTITION => Arc::new(Int32Array::from(vec![0; rows])),
        OFFSET => Arc::new(Int64Array::from_iter_values(offsets.clone())),
        INGESTED_AT => Arc::new(
            TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; rows]).with_timezone("UTC"),
        ),
        _ => new_null_array(f.data_type(), rows),
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).expect("facts")
}
