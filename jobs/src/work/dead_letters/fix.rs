//! `--fix`: a SELECT that corrects dead letters, run over each by itself, so that what it gives is
//! known to be of that one.

use std::sync::Arc;

use anabranch_shared::view::session_builder;
use anabranch_shared::{Error, Result};
use anabranch_speed::intake::admission::one_line;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use bytes::Bytes;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::MemTable;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::bytes_of;

/// How dead letters are corrected.
pub(super) struct Fix<'a> {
    sql: Option<&'a str>,
}

/// What a fix gives for a dead letter.
pub(super) enum Fixed {
    /// No row, or NULL.
    Nothing,
    /// A JSON object, on one line.
    Json(Bytes),
    /// A row of fields.
    Fields(RecordBatch),
}

impl<'a> Fix<'a> {
    /// A SELECT; where there is none the dead letters are taken as they are.
    pub(super) fn new(sql: Option<&'a str>) -> Self {
        Self { sql }
    }

    /// What it gives for each of the dead letters.
    ///
    /// # Errors
    /// `Invalid` where it is no SELECT over `dead_letters`, fails, or gives several rows for one.
    pub(super) async fn run(&self, letters: &RecordBatch) -> Result<Vec<Fixed>> {
        let seen = as_seen(letters)?;
        let Some(sql) = self.sql else {
            let raw = seen
                .column_by_name("raw_bytes")
                .map(|raw| bytes_of(raw.as_ref()));
            let lines = raw.transpose()?.unwrap_or_default();
            let as_is =
                |raw: Option<Bytes>| raw.map_or(Fixed::Nothing, |raw| Fixed::Json(one_line(&raw)));
            return Ok(lines.into_iter().map(as_is).collect());
        };
        if let Some(rows) = fix_together(sql, &seen).await? {
            return (0..rows.num_rows())
                .map(|row| fixed(&rows.slice(row, 1)))
                .collect();
        }
        let mut all = Vec::with_capacity(seen.num_rows());
        for row in 0..seen.num_rows() {
            let (_, rows) = select(sql, &seen.slice(row, 1)).await?;
            match rows.num_rows() {
                0 => all.push(Fixed::Nothing),
                1 => all.push(fixed(&rows)?),
                n => {
                    return Err(Error::Invalid(format!(
                        "the fix gives {n} rows for one dead letter; give one at most"
                    )));
                }
            }
        }
        Ok(all)
    }
}

/// The dead letters as the fix sees them: as they are queried, but for when they were retried.
fn as_seen(letters: &RecordBatch) -> Result<RecordBatch> {
    let (mut fields, mut columns) = (Vec::new(), Vec::<ArrayRef>::new());
    for (field, column) in letters.schema().fields().iter().zip(letters.columns()) {
        if field.name() != "retried_at" {
            fields.push(field.as_ref().clone().with_nullable(true));
            columns.push(column.clone());
        }
    }
    Ok(RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns,
    )?)
}

/// Runs the SELECT over some dead letters; gives its plan and its rows.
async fn select(sql: &str, seen: &RecordBatch) -> Result<(LogicalPlan, RecordBatch)> {
    let wrong = |e: datafusion::error::DataFusionError| {
        Error::Invalid(format!("the fix can't be run: {}", Error::from(e)))
    };
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().execution.time_zone = Some("+00:00".to_owned());
    let state = session_builder().with_config(config).build();
    let context = SessionContext::new_with_state(state);
    let table = MemTable::try_new(seen.schema(), vec![vec![seen.clone()]]).map_err(wrong)?;
    context
        .register_table("dead_letters", Arc::new(table))
        .map_err(wrong)?;
    let read_only = SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false);
    let rows = context
        .sql_with_options(sql, read_only)
        .await
        .map_err(wrong)?;
    let plan = rows.logical_plan().clone();
    let schema = Arc::new(rows.schema().as_arrow().clone());
    let batches = rows.collect().await.map_err(wrong)?;
    Ok((plan, arrow::compute::concat_batches(&schema, &batches)?))
}

/// The rows for all dead letters at once, where each gives just one and they keep their order: a
/// plan for each takes a millisecond.
async fn fix_together(sql: &str, seen: &RecordBatch) -> Result<Option<RecordBatch>> {
    // Where one of them fails the others say which; they are run one by one then.
    let Ok((plan, rows)) = select(sql, seen).await else {
        return Ok(None);
    };
    let mut row_by_row = true;
    let looked = plan.apply(|node| {
        row_by_row &= match node {
            LogicalPlan::Projection(p) => !p.expr.iter().any(has_subquery),
            LogicalPlan::SubqueryAlias(_) | LogicalPlan::TableScan(_) => true,
            _ => false,
        };
        Ok(TreeNodeRecursion::Continue)
    });
    looked.map_err(Error::from)?;
    Ok((row_by_row && rows.num_rows() == seen.num_rows()).then_some(rows))
}

fn has_subquery(expr: &datafusion::logical_expr::Expr) -> bool {
    use datafusion::logical_expr::Expr;
    let is = |e: &Expr| {
        Ok(matches!(
            e,
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::Unnest(_)
        ))
    };
    // What can't be looked at is run row by row.
    expr.exists(is).unwrap_or(true)
}

/// One row: of one text column it is JSON, of others the topic's fields.
fn fixed(row: &RecordBatch) -> Result<Fixed> {
    let [column] = row.columns() else {
        return Ok(Fixed::Fields(row.clone()));
    };
    let is_text = matches!(
        column.data_type(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    );
    if !is_text {
        return Ok(Fixed::Fields(row.clone()));
    }
    let text = cast(column, &DataType::Utf8View)?;
    let text = text.as_string_view();
    if text.is_null(0) {
        return Ok(Fixed::Nothing);
    }
    // A line break in JSON is white space, in a string it is written as `\n`.
    let line = text.value(0).replace(['\n', '\r'], " ");
    Ok(Fixed::Json(line.into()))
}
