//! Aggregates whose answer would depend on the order of facts, made independent of it: minimum
//! and maximum of floating point in total order, and order-sensitive aggregates by their facts'
//! place in the log.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::{Column as ColumnRef, Result, ScalarValue};
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment, Sort};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, GroupsAccumulator, Signature, Volatility,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

use crate::topic::{OFFSET, PARTITION};

/// The functions whose answer depends on the order of their input.
const ORDERED: [&str; 5] = [
    "first_value",
    "last_value",
    "nth_value",
    "array_agg",
    "string_agg",
];

/// Whether a function's answer depends on the order of its input.
pub(super) fn is_ordered(function: &str) -> bool {
    function == "any_value" || ORDERED.contains(&function)
}

/// What an aggregate needs besides its own columns to be independent of the order of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing.
    Nothing,
    /// A fact's partition and offset.
    Place,
}

/// What an aggregate will need, before it is rewritten.
pub(super) fn needs(expr: &Expr) -> Needs {
    match strip_alias(expr) {
        Expr::AggregateFunction(f) if is_ordered(f.func.name()) && !f.params.distinct => {
            Needs::Place
        }
        _ => Needs::Nothing,
    }
}

pub(super) fn strip_alias(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => strip_alias(&alias.expr),
        expr => expr,
    }
}

/// Rewrites an aggregate so that its answer does not depend on the order of its input, whose rows
/// `ties` tell apart: a fact's place below the aggregation, a row's keys above. The result has
/// another name: the caller gives it the old one.
pub(super) fn make_deterministic(
    mut f: AggregateFunction,
    argument_type: Option<&DataType>,
    ties: &[Sort],
) -> AggregateFunction {
    let float = matches!(argument_type, Some(DataType::Float32 | DataType::Float64));
    match f.func.name() {
        "min" if float => f.func = Arc::new(TotalOrder::udaf(Extreme::Min)),
        "max" if float => f.func = Arc::new(TotalOrder::udaf(Extreme::Max)),
        "any_value" => {
            f.func = first_value_udaf();
            f.params.null_treatment = Some(NullTreatment::IgnoreNulls);
        }
        _ => {}
    }
    if !ORDERED.contains(&f.func.name()) {
        return f;
    }
    if f.params.distinct {
        // Distinct values have no place; their own order is the only one that they share.
        if f.params.order_by.is_empty() {
            f.params.order_by = f.params.args.first().cloned().map(by).into_iter().collect();
        }
    } else {
        break_ties(&mut f.params.order_by, ties);
    }
    f
}

/// Appends to an order what breaks its ties, without what it holds already.
pub(super) fn break_ties(order: &mut Vec<Sort>, ties: &[Sort]) {
    for tie in ties {
        if order.iter().all(|sort| sort.expr != tie.expr) {
            order.push(tie.clone());
        }
    }
}

/// The order by a column.
pub(super) fn ascending(column: ColumnRef) -> Sort {
    by(Expr::Column(column))
}

fn by(expr: Expr) -> Sort {
    Sort::new(expr, true, false)
}

/// The columns of a fact's place in a schema, wherever they are qualified.
pub(super) fn place_columns(schema: &datafusion::common::DFSchema) -> Option<[ColumnRef; 2]> {
    let find = |name: &str| {
        schema
            .iter()
            .find(|(_, f)| f.name() == name)
            .map(|(q, f)| ColumnRef::from((q, f)))
    };
    Some([find(PARTITION)?, find(OFFSET)?])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Extreme {
    Min,
    Max,
}

/// `min` or `max` over floating point in IEEE 754's total order (`f64::total_cmp`): -NaN, -∞ … -0,
/// +0 … +∞, NaN. DataFusion's own answer with NaN depends on the order of rows.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TotalOrder {
    extreme: Extreme,
    signature: Signature,
}

impl TotalOrder {
    fn udaf(extreme: Extreme) -> AggregateUDF {
        AggregateUDF::from(Self {
            extreme,
            signature: Signature::numeric(1, Volatility::Immutable),
        })
    }
}

impl AggregateUDFImpl for TotalOrder {
    fn name(&self) -> &str {
        match self.extreme {
            Extreme::Min => "min",
            Extreme::Max => "max",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types.first().cloned().unwrap_or(DataType::Null))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let best = ScalarValue::try_from(args.return_field.data_type())?;
        Ok(Box::new(TotalOrderAccumulator {
            extreme: self.extreme,
            best,
        }))
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let data_type = args.return_field.data_type();
        // The last of the total order is where a minimum starts, the first where a maximum does.
        macro_rules! accumulator {
            ($type:ty, $first:expr, $last:expr) => {{
                let max = self.extreme == Extreme::Max;
                Box::new(
                    PrimitiveGroupsAccumulator::<$type, _>::new(data_type, move |best, new| {
                        let order = new.total_cmp(best);
                        if (max && order.is_gt()) || (!max && order.is_lt()) {
                            *best = new;
                        }
                    })
                    .with_starting_value(if max { $first } else { $last }),
                )
            }};
        }
        Ok(match data_type {
            DataType::Float32 => accumulator!(
                Float32Type,
                f32::from_bits(u32::MAX),
                f32::from_bits(u32::MAX >> 1)
            ),
            _ => accumulator!(
                Float64Type,
                f64::from_bits(u64::MAX),
                f64::from_bits(u64::MAX >> 1)
            ),
        })
    }
}

#[derive(Debug)]
struct TotalOrderAccumulator {
    extreme: Extreme,
    best: ScalarValue,
}

impl Accumulator for TotalOrderAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Some(values) = values.first() else {
            return Ok(());
        };
        for row in 0..values.len() {
            let new = ScalarValue::try_from_array(values, row)?;
            let order = match (&new, &self.best) {
                (new, _) if new.is_null() => continue,
                (_, best) if best.is_null() => None,
                (ScalarValue::Float32(Some(n)), ScalarValue::Float32(Some(b))) => {
                    Some(n.total_cmp(b))
                }
                (ScalarValue::Float64(Some(n)), ScalarValue::Float64(Some(b))) => {
                    Some(n.total_cmp(b))
                }
                _ => continue,
            };
            let better = match (self.extreme, order) {
                (_, None) => true,
                (Extreme::Min, Some(order)) => order.is_lt(),
                (Extreme::Max, Some(order)) => order.is_gt(),
            };
            if better {
                self.best = new;
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.best.clone()])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.best.clone())
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
