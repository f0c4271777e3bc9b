//! What the arguments of aggregates mean, wherever they are written: a FILTER guards them, DISTINCT
//! tells values apart as GROUP BY does, and `count(DISTINCT a, b)` counts pairs. One rule for views,
//! for queries and for what is recomputed.

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::utils::normalize_float_zero;
use datafusion::common::{DFSchema, Result, internal_err};
use datafusion::functions::core::named_struct;
use datafusion::logical_expr::expr::{Case, Sort};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TryCast, Volatility, WindowFunctionDefinition, lit,
};
use datafusion::optimizer::AnalyzerRule;

/// Rewrites the arguments of aggregates in analysed plans; what is rewritten already stays.
#[derive(Debug)]
pub(super) struct AggregateArguments;

impl AnalyzerRule for AggregateArguments {
    fn name(&self) -> &str {
        "aggregate_arguments"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) => rewrite(node),
            node => Ok(Transformed::no(node)),
        })?;
        Ok(rewritten.data)
    }
}

fn rewrite(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = merge_schema(&node.inputs());
    let names = NamePreserver::new(&node);
    node.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform_up(|e| meant(e, &schema))?;
        Ok(rewritten.update_data(|e| name.restore(e)))
    })?
    .map_data(LogicalPlan::recompute_schema)
}

/// An aggregate, as it is meant.
fn meant(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (function, args, order_by, filter, distinct) = match &expr {
        Expr::AggregateFunction(f) => {
            let p = &f.params;
            (f.func.name(), &p.args, &p.order_by, &p.filter, p.distinct)
        }
        Expr::WindowFunction(f) => {
            let WindowFunctionDefinition::AggregateUDF(func) = &f.fun else {
                return Ok(Transformed::no(expr));
            };
            let p = &f.params;
            (func.name(), &p.args, &p.order_by, &p.filter, p.distinct)
        }
        _ => return Ok(Transformed::no(expr)),
    };
    let tells_apart = match function {
        "min" | "max" => false,
        "approx_distinct" => true,
        _ => distinct,
    };
    let mut new_args = args.clone();
    if tells_apart {
        let canonical = new_args.into_iter().map(|a| as_grouped(a, schema));
        new_args = canonical.collect::<Result<_>>()?;
    }
    if function == "count" && distinct && new_args.len() > 1 {
        new_args = vec![together(new_args)];
    }
    let mut new_order = order_by.clone();
    // Over a window the order is of its rows, which a FILTER leaves as they are.
    let is_window = matches!(expr, Expr::WindowFunction(_));
    if let Some(filter) = filter {
        let kept = new_args.into_iter().map(|a| guarded(a, filter, schema));
        new_args = kept.collect::<Result<_>>()?;
        if !is_window {
            let kept = new_order.into_iter().map(|sort| {
                let expr = guarded(sort.expr, filter, schema)?;
                Ok(Sort { expr, ..sort })
            });
            new_order = kept.collect::<Result<_>>()?;
        }
    }
    if new_args == *args && new_order == *order_by {
        return Ok(Transformed::no(expr));
    }
    Ok(Transformed::yes(match expr {
        Expr::AggregateFunction(mut f) => {
            (f.params.args, f.params.order_by) = (new_args, new_order);
            Expr::AggregateFunction(f)
        }
        Expr::WindowFunction(mut f) => {
            (f.params.args, f.params.order_by) = (new_args, new_order);
            Expr::WindowFunction(f)
        }
        other => other,
    }))
}

/// An argument that can fail, evaluated where its filter is true and nowhere else.
fn guarded(argument: Expr, filter: &Expr, schema: &DFSchema) -> Result<Expr> {
    let is_guarded = match &argument {
        Expr::Case(case) => matches!(case.when_then_expr.as_slice(),
            [(when, _)] if case.expr.is_none() && when.as_ref() == filter),
        argument => !can_fail(argument, schema)?,
    };
    if is_guarded {
        return Ok(argument);
    }
    let when = (Box::new(filter.clone()), Box::new(argument));
    Ok(Expr::Case(Case::new(None, vec![when], None)))
}

/// Whether evaluating an expression may fail. In doubt it may.
fn can_fail(expr: &Expr, schema: &DFSchema) -> Result<bool> {
    let any = |parts: &[&Expr]| -> Result<bool> {
        for part in parts {
            if can_fail(part, schema)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match expr {
        Expr::Column(_) | Expr::Literal(..) | Expr::OuterReferenceColumn(..) => Ok(false),
        Expr::Alias(alias) => any(&[&alias.expr]),
        Expr::Not(e)
        | Expr::IsNull(e)
        | Expr::IsNotNull(e)
        | Expr::IsTrue(e)
        | Expr::IsFalse(e)
        | Expr::IsUnknown(e)
        | Expr::IsNotTrue(e)
        | Expr::IsNotFalse(e)
        | Expr::IsNotUnknown(e) => any(&[e]),
        Expr::TryCast(TryCast { expr, .. }) => any(&[expr]),
        Expr::Cast(Cast { expr, field }) => {
            let from = expr.get_type(schema)?;
            Ok(!is_widening(&from, field.data_type()) || can_fail(expr, schema)?)
        }
        Expr::BinaryExpr(binary) => {
            let computes = !binary.op.supports_propagation()
                && !matches!(binary.op, Operator::And | Operator::Or);
            Ok(computes || any(&[&binary.left, &binary.right])?)
        }
        Expr::ScalarFunction(f) if f.func.name() == GROUPED => {
            any(&f.args.iter().collect::<Vec<_>>())
        }
        _ => Ok(true),
    }
}

/// Whether each value of a type has a counterpart in another.
fn is_widening(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Float32, Float64, Int8, Int16, Int32, Int64, LargeUtf8, UInt8, UInt16, UInt32, Utf8,
        Utf8View,
    };
    let is_text = |t: &DataType| matches!(t, Utf8 | LargeUtf8 | Utf8View);
    let integer_bits = |t: &DataType| match t {
        Int8 => Some(7),
        UInt8 => Some(8),
        Int16 => Some(15),
        UInt16 => Some(16),
        Int32 => Some(31),
        UInt32 => Some(32),
        Int64 => Some(63),
        _ => None,
    };
    from == to
        || (is_text(from) && is_text(to))
        || match to {
            Float64 => from.is_integer() || *from == Float32,
            Int16 | Int32 | Int64 => integer_bits(from) <= integer_bits(to) && from.is_integer(),
            _ => false,
        }
}

/// A value as GROUP BY tells it apart from others.
fn as_grouped(argument: Expr, schema: &DFSchema) -> Result<Expr> {
    let done = matches!(&argument, Expr::ScalarFunction(f) if f.func.name() == GROUPED);
    let float = argument.get_type(schema)?.is_floating();
    match float && !done && !matches!(argument, Expr::Literal(..)) {
        true => Ok(ScalarUDF::new_from_impl(Grouped::new()).call(vec![argument])),
        false => Ok(argument),
    }
}

/// Several values as one, NULL where one of them is.
fn together(arguments: Vec<Expr>) -> Expr {
    let present = arguments.iter().cloned().map(Expr::is_not_null);
    let present = present.reduce(Expr::and).unwrap_or_else(|| lit(true));
    let parts = arguments
        .into_iter()
        .enumerate()
        .flat_map(|(i, argument)| [lit(format!("c{i}")), argument]);
    let one = named_struct().call(parts.collect());
    let when = (Box::new(present), Box::new(one));
    Expr::Case(Case::new(None, vec![when], None))
}

const GROUPED: &str = "as_grouped";

/// A number of floating point as GROUP BY has it: zero has no sign.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Grouped {
    signature: Signature,
}

impl Grouped {
    fn new() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Grouped {
    fn name(&self) -> &str {
        GROUPED
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types.first().cloned().unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(values) = args.args.first() else {
            return internal_err!("`{GROUPED}` takes one argument");
        };
        let values = values.to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(normalize_float_zero(&values)))
    }
}
