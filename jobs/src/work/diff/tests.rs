//! Answers of a view before and after an edit, compared.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use anabranch_shared::settings::FieldReads;
use anabranch_shared::{Topic, TopicField};
use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{Field, Schema};

use super::*;

fn view() -> View {
    let field = |name: &str, kind: &str, nullable| TopicField {
        name: name.into(),
        field_type: kind.parse().unwrap(),
        nullable,
        reads: FieldReads::default(),
    };
    let topic = Topic {
        name: "facts".into(),
        event_time: "ts".into(),
        fields: vec![
            field("ts", "timestamp", false),
            field("site", "varchar", true),
            field("n", "bigint", true),
        ],
    };
    let sql =
        "SELECT site, n AS page, count(*) AS views, sum(n) / 2.0 AS half FROM facts GROUP BY 1, 2";
    View::compile("v", sql, &topic).unwrap()
}

type Row = (Option<&'static str>, i64, i64, f64);

fn rows(rows: &[Row]) -> RecordBatch {
    let fields = [
        ("site", DataType::Utf8),
        ("page", DataType::Int64),
        ("views", DataType::Int64),
        ("half", DataType::Float64),
    ];
    let fields = fields.map(|(name, of)| Field::new(name, of, true));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let numbers = |of: &dyn Fn(&Row) -> i64| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<Int64Array>())
    };
    let sites: ArrayRef = Arc::new(rows.iter().map(|r| r.0).collect::<StringArray>());
    let halves: ArrayRef = Arc::new(rows.iter().map(|r| Some(r.3)).collect::<Float64Array>());
    let columns = vec![sites, numbers(&|r| r.1), numbers(&|r| r.2), halves];
    RecordBatch::try_new(schema, columns).unwrap()
}

fn diff(a: &[Vec<Row>], b: &[Vec<Row>], memory_bytes: usize) -> Diff {
    let (view, schema) = (view(), rows(&[]).schema());
    let keys = keys_of(&view);
    assert_eq!(keys, ["site", "page"]);
    let of = (&view, &schema);
    let mut differ = Differ::new(of, of, &keys, memory_bytes).unwrap();
    for (side, batches) in [(Side::A, a), (Side::B, b)] {
        for batch in batches {
            differ.push(side, &rows(batch)).unwrap();
        }
    }
    differ.finish().unwrap()
}

#[test]
fn every_kind_of_difference_is_counted_once() {
    let a = vec![
        vec![
            (Some("a"), 1, 10, 0.5),
            (Some("a"), 2, 20, 1.0),
            (None, 1, 5, 0.5),
        ],
        vec![(Some("b"), 1, 7, 0.1 + 0.2), (Some("c"), 9, 1, f64::NAN)],
    ];
    let b = vec![
        vec![
            (Some("c"), 9, 1, f64::NAN),
            (Some("b"), 1, 7, 0.3),
            (None, 1, 5, 0.5),
        ],
        vec![(Some("a"), 2, 25, 1.5), (Some("d"), 1, 3, 0.0)],
    ];
    let found = diff(&a, &b, 1 << 20);
    assert_eq!((found.rows_a, found.rows_b), (5, 5));
    assert_eq!((found.only_a, found.only_b, found.changed), (1, 1, 1));
    let changed: Vec<u64> = found.columns.iter().map(|c| c.changed).collect();
    assert_eq!(changed, [1, 1]);
    assert_eq!(found.columns[0].total_changed(), Some((41.0 - 43.0) / 43.0));
    assert_eq!(found.samples_only_a, [["a", "1", "10", "0.5"]]);
    assert_eq!(found.samples_only_b, [["d", "1", "3", "0.0"]]);
    let change = found.largest.iter().find(|c| c.column == "views").unwrap();
    assert_eq!(
        (change.key.as_slice(), change.by),
        (&["a".to_owned(), "2".to_owned()][..], Some(5.0))
    );
    assert_eq!((change.a.as_str(), change.b.as_str()), ("20", "25"));
}

#[test]
fn what_is_spilled_compares_as_what_is_not() {
    let many = |plus: i64| -> Vec<Vec<Row>> {
        let row = |i: i64| {
            (
                Some(["x", "y", "z"][i as usize % 3]),
                i / 3,
                i * 2 + plus * i64::from(i % 7 == 0),
                0.5,
            )
        };
        (0..40)
            .map(|part| (part * 100..part * 100 + 100).map(row).collect())
            .collect()
    };
    let (a, mut b) = (many(0), many(1));
    b.reverse();
    let whole = diff(&a, &b, 1 << 30);
    let spilled = diff(&a, &b, 100_000);
    assert!(spilled.spilled && !whole.spilled);
    assert_eq!((whole.changed, whole.only_a, whole.only_b), (572, 0, 0));
    assert_eq!(spilled.changed, whole.changed);
    assert_eq!(spilled.columns[0].total_b, whole.columns[0].total_b);
    assert!(diff(&a, &a, 100_000).is_equal());
}

#[test]
fn segments_explain_what_changed() {
    let all = |changed: bool| -> Vec<Vec<Row>> {
        let row = |i: i64| {
            let site = ["news", "sport", "blog", "shop"][i as usize % 4];
            let plus = i64::from(changed && site == "blog");
            (Some(site), i / 4, 5 + plus, 0.5)
        };
        vec![(0..400).map(row).collect()]
    };
    let found = diff(&all(false), &all(true), 1 << 20);
    let first = &found.segments[0];
    assert_eq!((first.key.as_str(), first.value.as_str()), ("site", "blog"));
    assert_eq!(
        (first.differing, first.rows, first.share, first.lift),
        (100, 100, 1.0, 4.0)
    );
    assert!(diff(&all(true), &all(true), 1 << 20).segments.is_empty());
}

#[test]
fn empty_answers_compare() {
    assert!(diff(&[], &[], 1 << 20).is_equal());
    let one = vec![vec![(Some("a"), 1, 1, 1.0)]];
    let (gone, new) = (diff(&one, &[], 1 << 20), diff(&[], &one, 1 << 20));
    assert_eq!(
        (gone.only_a, gone.only_b, new.only_a, new.only_b),
        (1, 0, 0, 1)
    );
}

/// Texts take on disk what they take, however many buckets their rows are dealt into.
#[test]
fn rows_of_long_texts_take_no_more_than_they_are() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("site", DataType::Utf8View, true),
        Field::new("page", DataType::Int64, true),
        Field::new("views", DataType::Int64, true),
        Field::new("half", DataType::Float64, true),
    ]));
    let (view, keys) = (view(), ["site".to_owned(), "page".to_owned()]);
    let of = (&view, &schema);
    let mut differ = Differ::new(of, of, &keys, 1_000_000).unwrap();
    let (rows, mut bytes) = (8_192_i64, 0);
    for batch in 0..5 {
        let numbers = || -> ArrayRef {
            Arc::new((0..rows).map(|n| n + batch * rows).collect::<Int64Array>())
        };
        let texts = (0..rows).map(|n| Some(format!("{n:0100}")));
        let texts: arrow::array::StringViewArray = texts.collect();
        let halves: ArrayRef = Arc::new(Float64Array::from(vec![0.5; 8_192]));
        let columns = vec![Arc::new(texts) as ArrayRef, numbers(), numbers(), halves];
        let rows = RecordBatch::try_new(schema.clone(), columns).unwrap();
        bytes += rows.get_array_memory_size();
        differ.push(Side::A, &rows).unwrap();
        differ.push(Side::B, &rows).unwrap();
    }
    let held: usize = differ
        .buckets
        .iter()
        .flatten()
        .map(Bucket::size_bytes)
        .sum();
    assert!(held < 4 * bytes, "{held} bytes for twice {bytes}");
    let diff = differ.finish().unwrap();
    assert!(diff.is_equal() && diff.rows_a == 40_960 && diff.spilled);
}
