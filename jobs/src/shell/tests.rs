//! The shell without a terminal: what tests of its parts share.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod scripts;
mod statements;
mod tab;
mod typing;

use std::sync::{Arc, Mutex};

use anabranch_serving::{ColumnInfo, RelationInfo};
use anabranch_shared::Error;
use arrow::array::Int64Array;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;

use super::{Answer, Session};

fn relations() -> Vec<RelationInfo> {
    let column = |&(name, sql_type, nullable): &(&str, &str, bool)| ColumnInfo {
        name: name.to_owned(),
        sql_type: sql_type.to_owned(),
        nullable,
        ..ColumnInfo::default()
    };
    let relation = |name: &str, kind: &str, columns: &[(&str, &str, bool)]| RelationInfo {
        name: name.to_owned(),
        kind: kind.to_owned(),
        columns: columns.iter().map(column).collect(),
        ..RelationInfo::default()
    };
    let mut view = relation(
        "post_minutes",
        "view",
        &[
            ("minute", "timestamp", true),
            ("url", "varchar", true),
            ("page_views", "bigint", false),
        ],
    );
    view.topic = Some("pageviews".to_owned());
    view.sql = Some("SELECT minute, url, count(*) AS page_views\nFROM pageviews".to_owned());
    for key in &mut view.columns[..2] {
        key.role = Some("key".to_owned());
    }
    let counted = &mut view.columns[2];
    counted.role = Some("aggregate".to_owned());
    counted.function = Some("count".to_owned());
    counted.exactness = Some("exact".to_owned());
    counted.combines = true;
    vec![
        relation(
            "pageviews",
            "topic",
            &[
                ("ts", "timestamp", false),
                ("url", "varchar", false),
                ("Author", "varchar", true),
            ],
        ),
        view,
        relation("system.jobs", "table", &[("order", "bigint", true)]),
    ]
}

/// Answers `N` with one row holding it, and `rows` with six in two batches; fails on `bad`.
#[derive(Default)]
struct Canned {
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Session for Canned {
    async fn query(&self, sql: &str) -> anabranch_shared::Result<Answer> {
        self.asked.lock().unwrap().push(sql.to_owned());
        if sql == "set" {
            let schema = Arc::new(Schema::empty());
            return Ok(Answer {
                schema,
                batches: vec![],
                freshness: String::new(),
                notes: vec![],
            });
        }
        if sql == "rows" {
            let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
            let three = || Arc::new(Int64Array::from(vec![1, 2, 3]));
            let batch = || RecordBatch::try_new(schema.clone(), vec![three()]).unwrap();
            return Ok(Answer {
                batches: vec![batch(), batch()],
                schema,
                freshness: String::new(),
                notes: vec![],
            });
        }
        let bad = |_| Error::Conflict(format!("`{sql}` is no number"));
        let number: i64 = sql.parse().map_err(bad)?;
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let batch = RecordBatch::try_new(
            schema.clone(),
            vec![Arc::new(Int64Array::from(vec![number]))],
        )
        .unwrap();
        let notes = if number == 7 {
            vec!["lucky".to_owned()]
        } else {
            vec![]
        };
        Ok(Answer {
            schema,
            batches: vec![batch],
            freshness: "fresh to now".to_owned(),
            notes,
        })
    }

    async fn relations(&self) -> anabranch_shared::Result<Vec<RelationInfo>> {
        Ok(relations())
    }
}
