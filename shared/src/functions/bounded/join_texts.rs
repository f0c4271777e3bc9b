//! `a || b` of texts as a function, so that it has bounds as other functions do: in a chain of
//! subqueries each may double what the one before has made.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{self, Column, Literal};

use super::FunctionBounds;
use super::estimate::{Growth, grown};
use crate::Error;

/// A chain of the operator as one function, where all parts are texts of one type. One for each
/// operator would name and type what is below it again and again.
pub(super) fn joined(
    binary: &BinaryExpr,
    schema: &DFSchema,
    bounds: &FunctionBounds,
) -> Option<Expr> {
    let mut parts = vec![(*binary.right).clone()];
    let mut left = binary.left.as_ref();
    while let Expr::BinaryExpr(inner) = left
        && inner.op == Operator::StringConcat
    {
        parts.push((*inner.right).clone());
        left = inner.left.as_ref();
    }
    parts.push(left.clone());
    parts.reverse();
    let mut kinds = parts.iter().map(|part| part.get_type(schema));
    let kind = kinds.next()?.ok()?;
    let is_text = matches!(
        kind,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    );
    if !is_text || kinds.any(|k| !k.is_ok_and(|k| k == kind)) {
        return None;
    }
    let function = ScalarUDF::new_from_impl(JoinTexts {
        signature: Signature::variadic_any(Volatility::Immutable),
        bounds: bounds.clone(),
    });
    Some(function.call(parts))
}

/// The engine's operator, within bounds. All are equal.
#[derive(Debug)]
struct JoinTexts {
    signature: Signature,
    bounds: FunctionBounds,
}

impl PartialEq for JoinTexts {
    fn eq(&self, other: &Self) -> bool {
        self.signature == other.signature
    }
}

impl Eq for JoinTexts {}

impl Hash for JoinTexts {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.signature.hash(state);
    }
}

impl ScalarUDFImpl for JoinTexts {
    fn name(&self) -> &str {
        "||"
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        let parts: Vec<String> = args.iter().map(ToString::to_string).collect();
        Ok(parts.join(" || "))
    }

    /// Columns keep the names that they have by the operator.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let parts: Vec<String> = args.iter().map(|e| e.schema_name().to_string()).collect();
        Ok(parts.join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types.first().cloned().unwrap_or(DataType::Utf8View))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let first = args.arg_fields.first().map(|f| f.data_type().clone());
        let nullable = args.arg_fields.iter().any(|f| f.is_nullable());
        let kind = first.unwrap_or(DataType::Utf8View);
        Ok(Arc::new(Field::new(self.name(), kind, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.bounds.stop.check()?;
        let bytes = grown(Growth::Sum(1), &args)?;
        if bytes > self.bounds.bytes {
            return Err(Error::Invalid(format!(
                "`||` would make {} MB for a batch of rows, the bound is {} MB ({}); make less at once",
                bytes.div_ceil(1_000_000),
                self.bounds.bytes / 1_000_000,
                self.bounds.setting
            ))
            .into());
        }
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        let mut sides: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        for arg in args.args {
            sides.push(match arg {
                ColumnarValue::Scalar(value) => Arc::new(Literal::new(value)),
                ColumnarValue::Array(array) => {
                    let name = columns.len().to_string();
                    fields.push(Field::new(&name, array.data_type().clone(), true));
                    columns.push(array);
                    Arc::new(Column::new(&name, columns.len() - 1))
                }
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(args.number_rows));
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        // As the engine would.
        let join = |left, right| -> Arc<dyn PhysicalExpr> {
            Arc::new(expressions::BinaryExpr::new(
                left,
                Operator::StringConcat,
                right,
            ))
        };
        let none = || Error::Internal("`||` has two sides".to_owned());
        let chain = sides.into_iter().reduce(join).ok_or_else(none)?;
        chain.evaluate(&batch)
    }
}
