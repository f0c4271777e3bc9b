//! Files of facts in the engine's scans: in the place of a column that a file lacks stands an
//! expression over its `_extra`. Statistics of files, row groups and pages say nothing of such an
//! expression, so nothing is left out by it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use parking_lot::Mutex;

use super::columns::late_columns;
use super::is_declared;
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
            late: Arc::new(OfFile {
                reads: self.0.clone(),
                read: Mutex::default(),
            }),
            table,
            file,
        }))
    }
}

#[derive(Debug)]
struct ToFile {
    table: SchemaRef,
    file: SchemaRef,
    late: Arc<OfFile>,
    types: Arc<dyn PhysicalExprAdapter>,
}

/// The late fields of a scan of a file, which are read out of a batch's `_extra` together: looking
/// through an object costs more than a field.
#[derive(Debug)]
struct OfFile {
    reads: LateReads,
    read: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    /// The fields that are asked for.
    fields: Vec<FieldRef>,
    /// The `_extra` of the batch that was read last, with a column for each of `fields` then.
    last: Option<(ArrayRef, Vec<ArrayRef>)>,
}

impl OfFile {
    /// The number of a field that is asked for.
    fn ask(&self, field: &FieldRef) -> usize {
        let fields = &mut self.read.lock().fields;
        let asked = fields.iter().position(|f| f == field);
        asked.unwrap_or_else(|| {
            fields.push(field.clone());
            fields.len() - 1
        })
    }

    /// The column of a field that is asked for.
    fn column(&self, field: usize, extra: &ArrayRef) -> Result<ArrayRef> {
        let mut read = self.read.lock();
        if let Some((of, columns)) = &read.last
            && Arc::ptr_eq(of, extra)
            && let Some(column) = columns.get(field)
        {
            return Ok(column.clone());
        }
        let columns = late_columns(&read.fields, &self.reads, Some(extra), extra.len())?;
        let column = columns.get(field).cloned();
        read.last = (columns.len() > 1).then(|| (extra.clone(), columns));
        column.map_or_else(
            || internal_err!("a field of `_extra` that nobody asked for"),
            Ok,
        )
    }
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
        Some(LateFieldExpr {
            number: self.late.ask(&field),
            field,
            late: self.late.clone(),
            extra: Arc::new(Column::new(EXTRA, extra)),
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
    late: Arc<OfFile>,
    /// Among those of `late`.
    number: usize,
    extra: Arc<dyn PhysicalExpr>,
}

impl PartialEq for LateFieldExpr {
    fn eq(&self, other: &Self) -> bool {
        let reads = self.late.reads == other.late.reads;
        reads && self.field == other.field && self.extra.eq(&other.extra)
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
        let extra = self.extra.evaluate(batch)?.into_array(batch.num_rows())?;
        let column = self.late.column(self.number, &extra)?;
        Ok(ColumnarValue::Array(column))
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
                extra,
                ..Self::clone(&self)
            })),
            _ => internal_err!("a field of `_extra` has one input"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
