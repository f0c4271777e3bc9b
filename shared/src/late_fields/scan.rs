//! Files of facts in the engine's scans: in the place of a column that a file lacks stands an
//! expression over its `_extra`. Statistics of files, row groups and pages say nothing of such an
//! expression, so nothing is left out by it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};

use super::{is_declared, late_columns};
use crate::fit::ByPlace;
use crate::topic::{EXTRA, LateReads};

/// Adapts what a scan reads to each of its files: types as [`ByPlace`] does, and fields that were
/// declared after the file was written as [`super`] says.
#[derive(Debug)]
pub(crate) struct LateFields(pub(crate) LateReads);

impl PhysicalExprAdapterFactory for LateFields {
    fn create(&self, table: SchemaRef, file: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        Ok(Arc::new(ToFile {
            types: ByPlace.create(table.clone(), file.clone())?,
            reads: self.0.clone(),
            table,
            file,
        }))
    }
}

#[derive(Debug)]
struct ToFile {
    table: SchemaRef,
    file: SchemaRef,
    reads: LateReads,
    types: Arc<dyn PhysicalExprAdapter>,
}

impl ToFile {
    /// The expression that stands for a column which the file lacks, where its `_extra` may have it.
    fn late_field(&self, column: &Column) -> Option<LateFieldExpr> {
        let name = column.name();
        if !is_declared(name) || self.file.index_of(name).is_ok() {
            return None;
        }
        let field = self.table.fields().find(name)?.1.clone();
        let extra = self.table.index_of(EXTRA).ok()?;
        self.file.index_of(EXTRA).ok()?;
        let extra = Arc::new(Column::new(EXTRA, extra));
        let reads = self.reads.clone();
        Some(LateFieldExpr {
            field,
            reads,
            extra,
        })
    }
}

impl PhysicalExprAdapter for ToFile {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let late = expr.transform(|expr| {
            let late = expr.downcast_ref::<Column>();
            Ok(match late.and_then(|column| self.late_field(column)) {
                Some(late) => Transformed::yes(Arc::new(late) as Arc<dyn PhysicalExpr>),
                None => Transformed::no(expr),
            })
        });
        self.types.rewrite(late.data()?)
    }
}

/// A declared field, read from `_extra`.
#[derive(Clone, Debug)]
struct LateFieldExpr {
    field: FieldRef,
    reads: LateReads,
    extra: Arc<dyn PhysicalExpr>,
}

impl PartialEq for LateFieldExpr {
    fn eq(&self, other: &Self) -> bool {
        self.field == other.field && self.reads == other.reads && self.extra.eq(&other.extra)
    }
}

impl Eq for LateFieldExpr {}

impl Hash for LateFieldExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.field.hash(state);
        self.extra.hash(state);
    }
}

impl fmt::Display for LateFieldExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.`{}`", self.extra, self.field.name())
    }
}

impl PhysicalExpr for LateFieldExpr {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(self.field.data_type().clone())
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(self.field.is_nullable())
    }

    fn return_field(&self, _: &Schema) -> Result<FieldRef> {
        Ok(self.field.clone())
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let rows = batch.num_rows();
        let extra = self.extra.evaluate(batch)?.into_array(rows)?;
        let read = late_columns(
            std::slice::from_ref(&self.field),
            &self.reads,
            Some(&extra),
            rows,
        )?;
        match read.into_iter().next() {
            Some(column) => Ok(ColumnarValue::Array(column)),
            None => internal_err!("no column was read from `_extra`"),
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.extra]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        match (children.pop(), children.is_empty()) {
            (Some(extra), true) => Ok(Arc::new(Self {
                field: self.field.clone(),
                reads: self.reads.clone(),
                extra,
            })),
            _ => internal_err!("a field of `_extra` has one input"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
