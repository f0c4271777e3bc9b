//! Aggregates that are another aggregate of the engine, written differently. They never run: the
//! engine's simplification puts the other one in their place.

use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, Sort};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, TypeSignature, Volatility, lit,
};

/// All of them.
pub(super) fn all() -> [AggregateUDF; 3] {
    [Other::MaxBy, Other::MinBy, Other::CountIf].map(|other| {
        let types = match other {
            Other::CountIf => TypeSignature::Exact(vec![DataType::Boolean]),
            Other::MaxBy | Other::MinBy => TypeSignature::Any(2),
        };
        let signature = Signature::new(types, Volatility::Immutable);
        let aliases = match other {
            Other::MaxBy => vec!["arg_max".to_owned()],
            Other::MinBy => vec!["arg_min".to_owned()],
            Other::CountIf => vec!["countif".to_owned()],
        };
        AggregateUDF::from(Rewritten {
            other,
            signature,
            aliases,
        })
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Other {
    MaxBy,
    MinBy,
    CountIf,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Rewritten {
    other: Other,
    signature: Signature,
    aliases: Vec<String>,
}

impl AggregateUDFImpl for Rewritten {
    fn name(&self) -> &str {
        match self.other {
            Other::MaxBy => "max_by",
            Other::MinBy => "min_by",
            Other::CountIf => "count_if",
        }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match (self.other, arg_types) {
            (Other::CountIf, _) => Ok(DataType::Int64),
            (_, [value, ..]) => Ok(value.clone()),
            _ => plan_err!("`{}` takes two arguments", self.name()),
        }
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match self.other {
            Other::CountIf => exec_err!(
                "`count_if` can't be a window function; write `count(*) FILTER (WHERE …) OVER (…)`"
            ),
            Other::MaxBy | Other::MinBy => exec_err!(
                "`{}` can't be a window function; write `first_value(x) OVER (… ORDER BY y)`",
                self.name()
            ),
        }
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        let other = self.other;
        Some(Box::new(move |f, _| rewrite(other, f)))
    }
}

/// What an aggregate is in the engine's words.
fn rewrite(other: Other, mut f: AggregateFunction) -> Result<Expr> {
    if f.params.distinct {
        return plan_err!("`{}` takes no DISTINCT", f.func.name());
    }
    let mut arguments = std::mem::take(&mut f.params.args).into_iter();
    let (first, second) = (arguments.next(), arguments.next());
    let counted = match (other, first, second) {
        (Other::CountIf, Some(condition), None) => {
            f.func = count_udaf();
            f.params.args = vec![lit(1_i64)];
            condition
        }
        (Other::MaxBy | Other::MinBy, Some(value), Some(by)) => {
            f.func = first_value_udaf();
            f.params.args = vec![value];
            let ascending = other == Other::MinBy;
            f.params.order_by = vec![Sort::new(by.clone(), ascending, false)];
            by.is_not_null()
        }
        _ => return plan_err!("`{}`: wrong number of arguments", f.func.name()),
    };
    f.params.filter = Some(Box::new(match f.params.filter.take() {
        Some(filter) => filter.and(counted),
        None => counted,
    }));
    Ok(Expr::AggregateFunction(f))
}
