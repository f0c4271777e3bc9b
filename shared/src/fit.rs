//! Columns in the types that a schema says: nested values by their place, never by the names of
//! their fields. What an engine calls a field of a state, and where a view's columns stand in a
//! topic, is no part of a stored state.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, ListArray, PrimitiveArray, RecordBatch, StructArray,
    new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Decimal256Type, Schema, SchemaRef, i256};
use datafusion::common::Result as EngineResult;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::utils::normalize_float_zero;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};

use crate::{Error, Result};

/// Casts that lose something are errors.
const EXACT: CastOptions<'static> = CastOptions {
    safe: false,
    format_options: arrow::util::display::FormatOptions::new(),
};

/// A column in another type: the fields of structs are matched by their place.
///
/// # Errors
/// `Query` where a value has no counterpart in the type.
pub(crate) fn fit(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    match (array.data_type(), to) {
        (_, DataType::Null) => Ok(new_null_array(to, array.len())),
        (DataType::List(_), DataType::List(item)) => {
            let list = array.as_list::<i32>();
            let values = fit(list.values(), item.data_type())?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            let list = ListArray::try_new(item.clone(), offsets, values, nulls)?;
            Ok(Arc::new(list))
        }
        (DataType::Struct(from), DataType::Struct(fields)) if from.len() == fields.len() => {
            let parts = array.as_struct();
            let columns = parts.columns().iter().zip(fields);
            let columns = columns
                .map(|(column, field)| fit(column, field.data_type()))
                .collect::<Result<Vec<_>>>()?;
            let nulls = parts.nulls().cloned();
            let parts =
                StructArray::try_new_with_length(fields.clone(), columns, nulls, array.len())?;
            Ok(Arc::new(parts))
        }
        (DataType::Decimal256(..), DataType::BinaryView) => Ok(wide_to_bytes(array)),
        (DataType::BinaryView, DataType::Decimal256(..)) => bytes_to_wide(array, to),
        _ => Ok(cast_with_options(array, to, &EXACT)?),
    }
}

/// The sign of a stored decimal is turned around, so that bytes have the order of numbers.
const SIGN: u8 = 0x80;

/// Decimals that Delta has no type for, as 32 bytes each, most significant first.
fn wide_to_bytes(array: &ArrayRef) -> ArrayRef {
    let stored = |value: i256| {
        let mut bytes = value.to_be_bytes();
        bytes[0] ^= SIGN;
        bytes
    };
    let values = array.as_primitive::<Decimal256Type>().iter();
    Arc::new(BinaryViewArray::from_iter(values.map(|v| v.map(stored))))
}

fn bytes_to_wide(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let wide = |bytes: &[u8]| {
        let mut bytes: [u8; 32] = bytes
            .try_into()
            .map_err(|_| Error::Corrupt("a stored decimal has not 32 bytes".into()))?;
        bytes[0] ^= SIGN;
        Ok::<_, Error>(i256::from_be_bytes(bytes))
    };
    let values = array
        .as_binary_view()
        .iter()
        .map(|v| v.map(wide).transpose());
    let values: PrimitiveArray<Decimal256Type> = values.collect::<Result<_>>()?;
    Ok(Arc::new(values.with_data_type(to.clone())))
}

/// Lists of numbers of floating point, in which zero has no sign.
pub(crate) fn with_one_zero(array: &ArrayRef) -> Result<ArrayRef> {
    let DataType::List(item) = array.data_type() else {
        return Ok(array.clone());
    };
    let list = array.as_list::<i32>();
    let values = normalize_float_zero(list.values());
    let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
    Ok(Arc::new(ListArray::try_new(
        item.clone(),
        offsets,
        values,
        nulls,
    )?))
}

/// Whether two types differ in nothing but the names of fields in them.
pub(crate) fn same_shape(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::List(a), DataType::List(b)) => same_shape(a.data_type(), b.data_type()),
        (DataType::Struct(a), DataType::Struct(b)) => {
            let mut pairs = a.iter().zip(b);
            a.len() == b.len() && pairs.all(|(a, b)| same_shape(a.data_type(), b.data_type()))
        }
        (a, b) => a == b,
    }
}

/// A column of a plan, fitted to a type.
#[derive(Debug)]
pub(crate) struct FitExpr {
    column: Arc<dyn PhysicalExpr>,
    to: DataType,
    /// Whether it is a set in which zero may have two signs.
    is_set: bool,
}

impl FitExpr {
    pub(crate) fn new(column: Arc<dyn PhysicalExpr>, to: DataType) -> Self {
        let is_set = false;
        Self { column, to, is_set }
    }

    pub(crate) fn of_set(self, is_set: bool) -> Self {
        Self { is_set, ..self }
    }
}

impl PartialEq for FitExpr {
    fn eq(&self, other: &Self) -> bool {
        self.column.eq(&other.column) && self.to == other.to && self.is_set == other.is_set
    }
}

impl Eq for FitExpr {}

impl Hash for FitExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.column.hash(state);
        self.to.hash(state);
    }
}

impl fmt::Display for FitExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fit({}, {})", self.column, self.to)
    }
}

impl PhysicalExpr for FitExpr {
    fn data_type(&self, _: &Schema) -> EngineResult<DataType> {
        Ok(self.to.clone())
    }

    fn nullable(&self, _: &Schema) -> EngineResult<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> EngineResult<ColumnarValue> {
        let values = self.column.evaluate(batch)?;
        let values = values.into_array(batch.num_rows())?;
        let fitted = fit(&values, &self.to)?;
        Ok(ColumnarValue::Array(match self.is_set {
            true => with_one_zero(&fitted)?,
            false => fitted,
        }))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.column]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> EngineResult<Arc<dyn PhysicalExpr>> {
        Ok(match children.pop() {
            Some(column) => Arc::new(Self::new(column, self.to.clone()).of_set(self.is_set)),
            None => self,
        })
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Reads the columns of files of states: nested ones by the place of their fields, others as the
/// engine does.
#[derive(Debug)]
pub(crate) struct ByPlace;

impl PhysicalExprAdapterFactory for ByPlace {
    fn create(
        &self,
        logical: SchemaRef,
        physical: SchemaRef,
    ) -> EngineResult<Arc<dyn PhysicalExprAdapter>> {
        let default = DefaultPhysicalExprAdapterFactory;
        Ok(Arc::new(ByPlaceAdapter {
            others: default.create(logical.clone(), physical.clone())?,
            logical,
            physical,
        }))
    }
}

#[derive(Debug)]
struct ByPlaceAdapter {
    logical: SchemaRef,
    physical: SchemaRef,
    others: Arc<dyn PhysicalExprAdapter>,
}

impl ByPlaceAdapter {
    /// The column of the file that a nested column is read from.
    fn nested(&self, column: &Column) -> Option<FitExpr> {
        let logical = self.logical.field_with_name(column.name()).ok()?;
        let (at, physical) = self.physical.column_with_name(column.name())?;
        let differs = physical.data_type() != logical.data_type();
        let place = Arc::new(Column::new(column.name(), at));
        (logical.data_type().is_nested() && differs)
            .then(|| FitExpr::new(place, logical.data_type().clone()))
    }
}

impl PhysicalExprAdapter for ByPlaceAdapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> EngineResult<Arc<dyn PhysicalExpr>> {
        let rewritten = expr.transform_down(|e| {
            let Some(column) = e.downcast_ref::<Column>() else {
                return Ok(Transformed::no(e));
            };
            let read = match self.nested(column) {
                Some(fitted) => Arc::new(fitted) as Arc<dyn PhysicalExpr>,
                None => self.others.rewrite(e.clone())?,
            };
            Ok(Transformed::new(read, true, TreeNodeRecursion::Jump))
        })?;
        Ok(rewritten.data)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, Int64Array, StringArray, StringViewArray};
    use arrow::datatypes::{Field, Fields};

    use super::*;

    fn parts(names: [&str; 2], values: [ArrayRef; 2]) -> ArrayRef {
        let field = |name: &str, v: &ArrayRef| Field::new(name, v.data_type().clone(), true);
        let fields = Fields::from(vec![
            field(names[0], &values[0]),
            field(names[1], &values[1]),
        ]);
        Arc::new(StructArray::new(fields, values.to_vec(), None))
    }

    /// Fields that have changed their names, and even swapped them, keep their values.
    #[test]
    fn structs_are_read_by_place() -> Result<()> {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        let stored = parts(["_partition@3", "s@1"], [numbers.clone(), texts]);
        let views: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "b"]));
        let wanted = parts(["s@1", "_partition@3"], [numbers, views]);
        assert!(!same_shape(stored.data_type(), wanted.data_type()));
        let fitted = fit(&stored, wanted.data_type())?;
        assert_eq!(&fitted, &wanted);
        let fewer = DataType::Struct(Fields::from(vec![Field::new("s@1", DataType::Int32, true)]));
        assert!(fit(&stored, &fewer).is_err());
        Ok(())
    }

    /// What Delta has no type for comes back as it was.
    #[test]
    fn wide_decimals_and_nulls_come_back() -> Result<()> {
        let values = [
            Some(i256::MAX),
            None,
            Some(i256::from_i128(-7)),
            Some(i256::MIN),
        ];
        let wide = DataType::Decimal256(76, 4);
        let decimals = PrimitiveArray::<Decimal256Type>::from_iter(values);
        let decimals: ArrayRef = Arc::new(decimals.with_data_type(wide.clone()));
        let stored = fit(&decimals, &DataType::BinaryView)?;
        assert_eq!(&fit(&stored, &wide)?, &decimals);
        let bytes = stored.as_binary_view();
        assert!(bytes.value(3) < bytes.value(2) && bytes.value(2) < bytes.value(0));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![None, None]));
        assert_eq!(fit(&numbers, &DataType::Null)?.len(), 2);
        Ok(())
    }
}
