//! Whole numbers of queries that would pass their type's bounds are an error, as in PostgreSQL: the
//! engine's own operators wrap.

use std::sync::Arc;

use arrow::array::{ArrayRef, Datum};
use arrow::compute::kernels::numeric;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, exec_err};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

/// Of a session, one whose statements compute with whole numbers within their bounds.
pub(crate) fn checked(builder: SessionStateBuilder) -> SessionStateBuilder {
    builder.with_analyzer_rule(Arc::new(Checked))
}

/// Puts functions in place of operators that wrap. Comes after types are the same on both sides.
#[derive(Debug)]
struct Checked;

impl AnalyzerRule for Checked {
    fn name(&self) -> &str {
        "checked_arithmetic"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let checked = plan.transform_up_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let checked = expr.transform_up(|e| Ok(with_bounds(e, &schema)))?;
                Ok(checked.update_data(|e| name.restore(e)))
            })?
            .map_data(LogicalPlan::recompute_schema)
        })?;
        Ok(checked.data)
    }
}

fn with_bounds(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = &expr else {
        return Transformed::no(expr);
    };
    let type_of = |e: &Expr| e.get_type(schema).ok().filter(DataType::is_integer);
    let (Some(of_left), Some(of_right)) = (type_of(left), type_of(right)) else {
        return Transformed::no(expr);
    };
    let is_checked = matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply);
    if !is_checked || of_left != of_right {
        return Transformed::no(expr);
    }
    let arguments = vec![left.as_ref().clone(), right.as_ref().clone()];
    let function = ScalarUDF::new_from_impl(Within::new(*op, of_left));
    Transformed::yes(function.call(arguments))
}

/// An operator over whole numbers of one type, which fails where the result is none of them.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Within {
    op: Operator,
    data_type: DataType,
    signature: Signature,
}

impl Within {
    fn new(op: Operator, data_type: DataType) -> Self {
        let takes = vec![data_type.clone(), data_type.clone()];
        Self {
            op,
            data_type,
            signature: Signature::exact(takes, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Within {
    fn name(&self) -> &str {
        match self.op {
            Operator::Plus => "plus",
            Operator::Minus => "minus",
            _ => "times",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.data_type.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [left, right] = args.args.as_slice() else {
            return exec_err!("two numbers are wanted");
        };
        let computed = match (left, right) {
            (ColumnarValue::Array(left), ColumnarValue::Array(right)) => self.of(left, right),
            (ColumnarValue::Array(left), ColumnarValue::Scalar(right)) => {
                self.of(left, &right.to_scalar()?)
            }
            (ColumnarValue::Scalar(left), ColumnarValue::Array(right)) => {
                self.of(&left.to_scalar()?, right)
            }
            (ColumnarValue::Scalar(left), ColumnarValue::Scalar(right)) => {
                let made = self.of(
                    &left.to_array_of_size(rows)?,
                    &right.to_array_of_size(rows)?,
                );
                return Ok(ColumnarValue::Array(made?));
            }
        };
        Ok(ColumnarValue::Array(computed?))
    }
}

impl Within {
    fn of(&self, left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef> {
        let computed = match self.op {
            Operator::Plus => numeric::add(left, right),
            Operator::Minus => numeric::sub(left, right),
            _ => numeric::mul(left, right),
        };
        Ok(computed.map_err(|e| self.explained(e))?)
    }

    fn explained(&self, e: ArrowError) -> ArrowError {
        match e {
            ArrowError::ArithmeticOverflow(what) => {
                let what = what.trim_start_matches("Overflow happened on: ");
                ArrowError::ArithmeticOverflow(format!(
                    "{what} is out of the range of {}",
                    self.data_type
                ))
            }
            e => e,
        }
    }
}
