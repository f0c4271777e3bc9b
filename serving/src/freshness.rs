//! How fresh everything is that can be read: `SELECT * FROM anabranch_freshness()`, at any door, as of the
//! moment at which the statement reads everything else.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::{Error, Offsets, Pin, Result};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::array::{TimestampMicrosecondArray, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use chrono::{DateTime, Utc};
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result as EngineResult, plan_err};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;

/// The function's name.
pub(crate) const FRESHNESS: &str = "anabranch_freshness";

/// What is said of a relation.
struct Row<'a> {
    name: &'a str,
    kind: &'static str,
    generation: Option<u64>,
    boundary: Option<&'a Offsets>,
    head: &'a Offsets,
    topic: &'a str,
}

/// How fresh each relation of a pin is.
pub(crate) fn freshness(pin: &Pin, now: DateTime<Utc>) -> Result<RecordBatch> {
    let views = pin.views.iter().map(|(name, view)| Row {
        name,
        kind: "view",
        generation: Some(view.generation.0),
        boundary: Some(&view.boundary),
        head: &view.head,
        topic: &view.view.topic().name,
    });
    let topics = pin.topics.iter().map(|(name, topic)| Row {
        name,
        kind: "topic",
        generation: None,
        boundary: None,
        head: &topic.head,
        topic: name,
    });
    let references = pin.references.iter().map(|(name, reference)| Row {
        name,
        kind: "reference",
        generation: None,
        boundary: None,
        head: &reference.topic.head,
        topic: &reference.topic.topic.name,
    });
    let mut newest = BTreeMap::new();
    let pinned = pin.references.values().map(|reference| &reference.topic);
    for topic in pin.topics.values().chain(pinned) {
        newest.insert(topic.topic.name.as_str(), topic.newest_admitted()?);
    }
    let mut rows: Vec<Row<'_>> = views.chain(topics).chain(references).collect();
    rows.sort_by_key(|row| row.name);
    let at = |row: &Row<'_>| newest.get(row.topic).copied().flatten();
    let texts = |of: &dyn Fn(&Row<'_>) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<StringArray>())
    };
    let behind = rows
        .iter()
        .map(|row| Some(row.boundary?.distance_to(row.head)));
    let behind: ArrayRef = Arc::new(behind.collect::<UInt64Array>());
    let generations = rows.iter().map(|row| i64::try_from(row.generation?).ok());
    let newest_at: TimestampMicrosecondArray = rows.iter().map(at).collect();
    let age = rows.iter().map(|row| {
        let age_us = now.timestamp_micros().saturating_sub(at(row)?).max(0);
        Some(age_us as f64 / 1e6)
    });
    let columns: [(&str, ArrayRef); 9] = [
        ("relation", texts(&|row| Some(row.name.to_owned()))),
        ("kind", texts(&|row| Some(row.kind.to_owned()))),
        ("topic", texts(&|row| Some(row.topic.to_owned()))),
        ("generation", Arc::new(generations.collect::<Int64Array>())),
        (
            "boundary",
            texts(&|row| row.boundary.map(ToString::to_string)),
        ),
        ("head", texts(&|row| Some(row.head.to_string()))),
        ("in_delta", cast(&behind, &DataType::Int64)?),
        (
            "newest_ingested_at",
            Arc::new(newest_at.with_timezone("UTC")),
        ),
        ("age_seconds", Arc::new(age.collect::<Float64Array>())),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(
        columns.map(|(name, column)| (name, column, true)),
    )?)
}

/// Makes the function known to a session.
pub(crate) fn register(context: &SessionContext, rows: &RecordBatch) -> Result<()> {
    let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]);
    let table = Arc::new(table.map_err(Error::from)?);
    context.register_udtf(FRESHNESS, Arc::new(Freshness(table)));
    Ok(())
}

#[derive(Debug)]
struct Freshness(Arc<MemTable>);

impl TableFunctionImpl for Freshness {
    fn call_with_args(&self, args: TableFunctionArgs) -> EngineResult<Arc<dyn TableProvider>> {
        match args.exprs() {
            [] => Ok(self.0.clone()),
            _ => plan_err!("`{FRESHNESS}()` takes no arguments"),
        }
    }
}
