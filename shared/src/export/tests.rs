//! What an export's columns become, and what can't be exported.

#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::settings::{FieldReads, FieldType};
use crate::{Topic, TopicField};

fn offsets(list: &[(i32, i64)]) -> Offsets {
    list.iter()
        .map(|&(p, o)| (PartitionId(p), Offset(o)))
        .collect()
}

#[test]
fn an_export_never_goes_back() {
    let held = ExportPin {
        answering: Some(Generation(2).into()),
        boundary: offsets(&[(0, 5), (1, 3)]),
        files: Vec::new(),
    };
    let standing = |generation, boundary: &[(i32, i64)]| {
        held.standing(Generation(generation), &offsets(boundary))
    };
    assert_eq!(standing(2, &[(0, 5), (1, 3)]), ExportStanding::Same);
    assert_eq!(standing(2, &[(0, 5), (1, 3), (2, 0)]), ExportStanding::Same);
    assert_eq!(standing(2, &[(0, 6), (1, 3)]), ExportStanding::Newer);
    assert_eq!(standing(2, &[(0, 5)]), ExportStanding::Older);
    // A later generation may hold the same offsets: its rows are others.
    assert_eq!(standing(3, &[(0, 5), (1, 3)]), ExportStanding::Newer);
    assert_eq!(standing(3, &[(0, 9)]), ExportStanding::Behind);
    assert_eq!(standing(1, &[(0, 9), (1, 9)]), ExportStanding::Older);
    // What came to answer later is later, also where its number is smaller: after a roll-back.
    let back = |since| Answering {
        since,
        generation: Generation(1),
    };
    let all = offsets(&[(0, 5), (1, 3)]);
    assert_eq!(held.standing(back(7), &all), ExportStanding::Newer);
    assert_eq!(
        held.standing(back(7), &offsets(&[])),
        ExportStanding::Behind
    );
    assert_eq!(held.standing(back(0), &all), ExportStanding::Older);
    let nothing = ExportPin::default();
    assert_eq!(
        nothing.standing(Generation(1), &offsets(&[])),
        ExportStanding::Newer
    );
}

fn schema(sql: &str) -> Result<SchemaRef> {
    let field = |name: &str, kind: &str| TopicField {
        name: name.into(),
        field_type: kind.parse::<FieldType>().unwrap(),
        nullable: true,
        reads: FieldReads::default(),
    };
    let topic = Topic {
        name: "facts".into(),
        event_time: "ts".into(),
        fields: vec![field("ts", "timestamp"), field("n", "bigint")],
    };
    Export::schema(&View::compile("v", sql, &topic)?)
}

#[test]
fn columns_have_types_of_delta() {
    let sql = "SELECT date_trunc('day', ts) AS day, approx_distinct(n) AS u, max(ts) - min(ts) AS span, min(ts)::time AS at, array_agg(n) AS list FROM facts GROUP BY 1";
    let schema = schema(sql).unwrap();
    let types: Vec<String> = schema
        .fields()
        .iter()
        .map(|f| f.data_type().to_string())
        .collect();
    assert_eq!(types[0], "Timestamp(µs, \"UTC\")");
    assert_eq!(&types[1..4], ["Int64", "Int64", "Utf8"]);
    assert!(types[4].starts_with("List("), "{}", types[4]);
    crate::table::delta_schema(&schema).unwrap();
}

#[test]
fn names_that_delta_lacks_are_refused() {
    let unnamed = schema("SELECT n, count(*) FROM facts GROUP BY 1").unwrap_err();
    assert!(unnamed.to_string().contains("AS a_name"), "{unnamed}");
    let twice = schema("SELECT n, sum(n) AS \"N\" FROM facts GROUP BY 1").unwrap_err();
    assert!(twice.to_string().contains("two columns"), "{twice}");
    let span = schema("SELECT n, INTERVAL '1' MONTH AS i, count(*) AS c FROM facts GROUP BY 1");
    let span = span.unwrap_err();
    assert!(span.to_string().contains("cast it"), "{span}");
}
