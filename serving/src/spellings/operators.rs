//! Operators whose meaning depends on types that the engine does not put together: a text beside a
//! boolean, a list or bytes is a value of that type, as in PostgreSQL; an interval takes numbers; a date
//! and an interval are a time.

use std::sync::Arc;

use anabranch_shared::timestamp_type;
use arrow::array::types::IntervalMonthDayNano;
use arrow::array::{ArrayRef, AsArray, IntervalMonthDayNanoArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, IntervalMonthDayNanoType, IntervalUnit};
use datafusion::common::{DFSchema, Result, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, binary_expr, lit,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::{arrays, hex_of};

/// Plans such operators.
#[derive(Debug)]
pub(crate) struct Operators;

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

impl ExprPlanner for Operators {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expr;
        let type_of = |expr: &Expr| expr.get_type(schema).ok();
        let types = (type_of(&left), type_of(&right));
        let made = match &op {
            BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq => {
                let as_left = types.0.and_then(|t| value_of(&right, &t));
                let as_right = types.1.and_then(|t| value_of(&left, &t));
                match (as_left, as_right) {
                    (None, None) => None,
                    (right_made, left_made) => Some(binary_expr(
                        left_made.unwrap_or_else(|| left.clone()),
                        comparison(&op),
                        right_made.unwrap_or_else(|| right.clone()),
                    )),
                }
            }
            BinaryOperator::Multiply => match types {
                (Some(DataType::Interval(_)), Some(number)) if is_number(&number) => {
                    Some(times(&left, &right))
                }
                (Some(number), Some(DataType::Interval(_))) if is_number(&number) => {
                    Some(times(&right, &left))
                }
                _ => None,
            },
            BinaryOperator::Divide => match types {
                (Some(DataType::Interval(_)), Some(number)) if is_number(&number) => {
                    let part = binary_expr(lit(1.0), Operator::Divide, as_double(&right));
                    Some(times(&left, &part))
                }
                _ => None,
            },
            BinaryOperator::Plus | BinaryOperator::Minus => match types {
                (Some(DataType::Date32 | DataType::Date64), Some(DataType::Interval(_))) => {
                    let operator = match op {
                        BinaryOperator::Plus => Operator::Plus,
                        _ => Operator::Minus,
                    };
                    Some(binary_expr(as_time(&left), operator, right.clone()))
                }
                (Some(DataType::Interval(_)), Some(DataType::Date32 | DataType::Date64))
                    if op == BinaryOperator::Plus =>
                {
                    Some(binary_expr(as_time(&right), Operator::Plus, left.clone()))
                }
                _ => None,
            },
            _ => None,
        };
        Ok(match made {
            Some(made) => PlannerResult::Planned(made),
            None => PlannerResult::Original(RawBinaryExpr { op, left, right }),
        })
    }
}

fn comparison(op: &BinaryOperator) -> Operator {
    match op {
        BinaryOperator::Eq => Operator::Eq,
        BinaryOperator::NotEq => Operator::NotEq,
        BinaryOperator::Lt => Operator::Lt,
        BinaryOperator::LtEq => Operator::LtEq,
        BinaryOperator::Gt => Operator::Gt,
        _ => Operator::GtEq,
    }
}

/// A text that stands in the statement, as a value of the type that it is compared with.
fn value_of(expr: &Expr, other: &DataType) -> Option<Expr> {
    let Expr::Literal(ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)), _) = expr
    else {
        return None;
    };
    match other {
        DataType::Boolean => {
            let small = text.trim().to_lowercase();
            let is_one = |words: &[&str]| words.contains(&small.as_str());
            match (
                is_one(&["t", "true", "y", "yes", "on", "1"]),
                is_one(&["f", "false", "n", "no", "off", "0"]),
            ) {
                (true, _) => Some(lit(true)),
                (_, true) => Some(lit(false)),
                _ => None,
            }
        }
        DataType::Binary | DataType::BinaryView | DataType::LargeBinary => {
            let bytes = hex::decode(hex_of(text)?).ok()?;
            Some(lit(ScalarValue::Binary(Some(bytes))))
        }
        DataType::List(item) | DataType::LargeList(item) => {
            let items = arrays::items(text)?.into_iter();
            let items = items.map(|text| {
                let text = ScalarValue::Utf8(text);
                text.cast_to(item.data_type()).ok()
            });
            let items: Vec<ScalarValue> = items.collect::<Option<_>>()?;
            let list = ScalarValue::new_list(&items, item.data_type(), true);
            Some(lit(ScalarValue::List(list)))
        }
        _ => None,
    }
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

fn as_double(expr: &Expr) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr.clone()), DataType::Float64))
}

fn as_time(date: &Expr) -> Expr {
    Expr::Cast(Cast::new(Box::new(date.clone()), timestamp_type()))
}

fn times(interval: &Expr, number: &Expr) -> Expr {
    let interval = Expr::Cast(Cast::new(Box::new(interval.clone()), INTERVAL));
    ScalarUDF::new_from_impl(Times::new()).call(vec![interval, as_double(number)])
}

/// An interval times a number. Parts of a month are days, of which it has 30, and parts of a day are
/// hours, as in PostgreSQL (`interval_mul` in `timestamp.c`).
#[derive(Debug, PartialEq, Eq, Hash)]
struct Times(Signature);

impl Times {
    fn new() -> Self {
        let takes = vec![INTERVAL, DataType::Float64];
        Self(Signature::exact(takes, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Times {
    fn name(&self) -> &str {
        "interval_times"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(INTERVAL)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [intervals, numbers] = arrays.as_slice() else {
            return Err(exec_datafusion_err!("an interval and a number are wanted"));
        };
        let numbers = cast(numbers, &DataType::Float64)?;
        let pairs = intervals
            .as_primitive::<IntervalMonthDayNanoType>()
            .iter()
            .zip(numbers.as_primitive::<Float64Type>());
        let made = pairs.map(|(interval, number)| match (interval, number) {
            (Some(interval), Some(number)) => multiplied(interval, number).map(Some),
            _ => Ok(None),
        });
        let made = made.collect::<Result<IntervalMonthDayNanoArray>>()?;
        Ok(ColumnarValue::Array(Arc::new(made) as ArrayRef))
    }
}

const DAYS_OF_MONTH: f64 = 30.0;
const NANOS_OF_DAY: f64 = 86_400e9;

fn multiplied(interval: IntervalMonthDayNano, by: f64) -> Result<IntervalMonthDayNano> {
    let out_of_range = || exec_datafusion_err!("an interval times {by} is out of range");
    let within = |value: f64, most: f64| match value.abs() < most {
        true => Ok(value),
        false => Err(out_of_range()),
    };
    let months = f64::from(interval.months) * by;
    let days = f64::from(interval.days) * by;
    let more_days = (months.fract() * DAYS_OF_MONTH * 1e6).round() / 1e6;
    let of_days = days.fract() + more_days.fract();
    let days = days.trunc() + more_days.trunc();
    // To the microsecond, which is as far as PostgreSQL's intervals go.
    let nanos = interval.nanoseconds as f64 * by + of_days * NANOS_OF_DAY;
    let nanos = (nanos / 1e3).round() * 1e3;
    Ok(IntervalMonthDayNano::new(
        within(months.trunc(), f64::from(i32::MAX))? as i32,
        within(days, f64::from(i32::MAX))? as i32,
        within(nanos, i64::MAX as f64)? as i64,
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn intervals_are_multiplied() {
        let interval = |months, days, hours: i64| {
            IntervalMonthDayNano::new(months, days, hours * 3_600_000_000_000)
        };
        let times = |i, by| multiplied(i, by).unwrap();
        assert_eq!(times(interval(0, 1, 0), 3.0), interval(0, 3, 0));
        assert_eq!(times(interval(0, 1, 0), 0.5), interval(0, 0, 12));
        assert_eq!(times(interval(1, 0, 0), 1.5), interval(1, 15, 0));
        assert_eq!(times(interval(1, 2, 3), -1.0), interval(-1, -2, -3));
        assert_eq!(times(interval(0, 0, 1), 2.5).nanoseconds, 9_000_000_000_000);
        assert!(multiplied(interval(1, 0, 0), f64::NAN).is_err());
        assert!(multiplied(interval(1, 0, 0), 1e12).is_err());
    }
}
