//! Bounds of the engine's functions whose results grow far beyond their arguments, or whose work is
//! more than in proportion to them. What a call would make is estimated from its arguments, and the
//! call is refused before it takes memory. Names, types and answers are the engine's.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, AsArray, new_empty_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ExprSchema, Result as EngineResult, ScalarValue};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, Operator, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, StructFieldMapping,
};

use self::estimate::{Growth, Work, grown, work_of_rows};
use crate::{Error, Stop};

mod estimate;
mod join_texts;
mod operators;
mod pattern;
mod sizes;

/// Types within types that a cast may name.
const DEEPEST_TYPE: usize = 64;

/// Work between two looks at whether to go on.
const WORK_AT_ONCE: u64 = 5_000_000;

/// What functions may take.
#[derive(Clone, Debug)]
pub struct FunctionBounds {
    /// Bytes of one call's result, over a batch of rows.
    pub bytes: u64,
    /// Steps for one row of a function whose work is more than in proportion to its arguments.
    pub work: u64,
    /// Steps for one row of an operator of patterns (`~`, `LIKE`, `SIMILAR TO`).
    pub pattern_work: u64,
    /// The setting that is named where a bound is reached.
    pub setting: &'static str,
    /// Whether to go on.
    pub stop: Stop,
}

impl Default for FunctionBounds {
    /// Those of views, which nobody waits for.
    fn default() -> Self {
        Self {
            bytes: 1_000_000_000,
            work: 1_000_000_000,
            // Folds of views have none, so what is compared with them has none.
            pattern_work: u64::MAX,
            setting: "fixed, for views",
            stop: Stop::never(),
        }
    }
}

/// What is bounded in a function.
#[derive(Clone, Copy, Debug)]
enum Bounded {
    Growth(Growth),
    Work(Work),
    Both(Growth, Work),
    /// The depth of the type that its second argument names.
    TypeDepth,
    /// A number that is an argument.
    Argument,
}

/// What is bounded in the function of a name.
fn bounded(name: &str) -> Option<Bounded> {
    use Bounded::{Both, Growth as Grows, TypeDepth, Work as Works};
    Some(match name {
        "repeat" | "array_repeat" => Grows(Growth::Times),
        "lpad" | "rpad" => Grows(Growth::Pad),
        "range" => Grows(Growth::Series),
        "generate_series" => Grows(Growth::Series),
        "array_resize" => Grows(Growth::Resize),
        "concat" | "overlay" | "make_array" | "array_append" | "array_prepend" | "array_concat" => {
            Grows(Growth::Sum(1))
        }
        "concat_ws" => Grows(Growth::Separated),
        "array_to_string" => Grows(Growth::Joined),
        "string_to_array" => Grows(Growth::Sum(20)),
        "replace" => Grows(Growth::Replaced),
        "translate" => Grows(Growth::Sum(4)),
        "to_char" => Grows(Growth::Formatted),
        "levenshtein" => Works(Work::Texts),
        "array_except" | "array_has_all" | "array_has_any" | "array_intersect" => {
            Works(Work::Lists)
        }
        "array_union" => Both(Growth::Sum(1), Work::Lists),
        "regexp_count" | "regexp_instr" | "regexp_like" | "regexp_match" => Works(Work::Pattern),
        "regexp_replace" => Both(Growth::PatternReplaced, Work::Pattern),
        "arrow_cast" | "arrow_try_cast" => TypeDepth,
        "array_position" => Bounded::Argument,
        _ => return None,
    })
}

/// The names of all functions that are bounded.
pub(super) const NAMES: [&str; 33] = [
    "repeat",
    "array_repeat",
    "lpad",
    "rpad",
    "range",
    "generate_series",
    "array_resize",
    "concat",
    "overlay",
    "make_array",
    "array_append",
    "array_prepend",
    "array_concat",
    "concat_ws",
    "array_to_string",
    "string_to_array",
    "replace",
    "translate",
    "to_char",
    "levenshtein",
    "array_except",
    "array_has_all",
    "array_has_any",
    "array_intersect",
    "array_union",
    "regexp_count",
    "regexp_instr",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
    "arrow_cast",
    "arrow_try_cast",
    "array_position",
];

/// Which number among a function's arguments the engine panics at outside a range, and the range. A
/// length below 0 makes what 0 makes, as in PostgreSQL; a place past all that a list can hold is in none.
fn numbers_taken(name: &str) -> Option<(usize, i64, i64)> {
    match name {
        "lpad" | "rpad" => Some((1, 0, i64::MAX)),
        "array_position" => Some((2, -1, 1 << 40)),
        _ => None,
    }
}

/// An argument whose numbers are brought into a range.
fn into_range(value: &ColumnarValue, least: i64, most: i64) -> EngineResult<ColumnarValue> {
    let near = |n: i64| n.clamp(least, most);
    Ok(match value {
        ColumnarValue::Scalar(ScalarValue::Int64(n)) => {
            ColumnarValue::Scalar(ScalarValue::Int64(n.map(near)))
        }
        ColumnarValue::Array(array) if array.data_type() == &DataType::Int64 => {
            let numbers = array.as_primitive::<Int64Type>();
            ColumnarValue::Array(Arc::new(numbers.unary::<_, Int64Type>(near)))
        }
        other => other.clone(),
    })
}

/// The function with bounds, where it is one that needs them; in place of bounds that it has.
pub(super) fn with_bounds(
    function: &Arc<ScalarUDF>,
    bounds: &FunctionBounds,
) -> Option<Arc<ScalarUDF>> {
    let kind = bounded(function.name())?;
    let engine = match function.inner().downcast_ref::<BoundedFunction>() {
        Some(bounded) => bounded.engine.clone(),
        None => function.clone(),
    };
    Some(Arc::new(ScalarUDF::new_from_impl(BoundedFunction {
        engine,
        kind,
        bounds: bounds.clone(),
    })))
}

/// A function of the engine within bounds. Two are equal where the engine's are.
#[derive(Debug)]
struct BoundedFunction {
    engine: Arc<ScalarUDF>,
    kind: Bounded,
    bounds: FunctionBounds,
}

impl PartialEq for BoundedFunction {
    fn eq(&self, other: &Self) -> bool {
        self.engine == other.engine
    }
}

impl Eq for BoundedFunction {}

impl Hash for BoundedFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.engine.hash(state);
    }
}

impl BoundedFunction {
    fn inner(&self) -> &dyn ScalarUDFImpl {
        self.engine.inner().as_ref()
    }

    fn check_growth(&self, growth: Growth, args: &ScalarFunctionArgs) -> Result<(), Error> {
        let bytes = grown(growth, args)?;
        if bytes <= self.bounds.bytes {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "`{}` would make {} MB for {} of rows, the bound is {} MB ({}); make less at once",
            self.name(),
            bytes.div_ceil(1_000_000),
            if args.number_rows == 1 {
                "one"
            } else {
                "a batch"
            },
            self.bounds.bytes / 1_000_000,
            self.bounds.setting
        )))
    }

    fn call_in_parts(&self, work: Work, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let limit = (self.bounds.work, &self.bounds.stop);
        let call = |args| self.inner().invoke_with_args(args);
        call_in_parts(self.name(), work, args, limit, call)
    }
}

/// Calls a function for as many rows at once as take little time together. No row may take more steps
/// than `most`.
fn call_in_parts(
    name: &str,
    work: Work,
    args: ScalarFunctionArgs,
    (most, stop): (u64, &Stop),
    call: impl Fn(ScalarFunctionArgs) -> EngineResult<ColumnarValue>,
) -> EngineResult<ColumnarValue> {
    let of_rows = work_of_rows(work, &args)?;
    if let Some(steps) = of_rows.iter().max().filter(|steps| **steps > most) {
        return Err(Error::Invalid(format!(
            "`{name}` would take {steps} steps for one row, the bound is {most}; give it shorter arguments"
        ))
        .into());
    }
    let has_rows = args
        .args
        .iter()
        .any(|a| matches!(a, ColumnarValue::Array(_)));
    let total = of_rows.iter().fold(0_u64, |sum, w| sum.saturating_add(*w));
    if !has_rows || total <= WORK_AT_ONCE || of_rows.len() != args.number_rows {
        return call(args);
    }
    let mut parts = vec![new_empty_array(args.return_field.data_type())];
    let mut start = 0;
    while start < of_rows.len() {
        stop.check()?;
        let (mut end, mut sum) = (start, 0_u64);
        while end < of_rows.len() && (end == start || sum < WORK_AT_ONCE) {
            sum = sum.saturating_add(of_rows[end]);
            end += 1;
        }
        let part = call(part(&args, start, end - start))?;
        parts.push(part.into_array(end - start)?);
        start = end;
    }
    let parts: Vec<&dyn Array> = parts.iter().map(|p| p.as_ref()).collect();
    Ok(ColumnarValue::Array(concat(&parts)?))
}

/// The arguments of some rows.
fn part(args: &ScalarFunctionArgs, start: usize, rows: usize) -> ScalarFunctionArgs {
    let slice = |value: &ColumnarValue| match value {
        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(start, rows)),
        scalar => scalar.clone(),
    };
    ScalarFunctionArgs {
        args: args.args.iter().map(slice).collect(),
        arg_fields: args.arg_fields.clone(),
        number_rows: rows,
        return_field: args.return_field.clone(),
        config_options: args.config_options.clone(),
    }
}

impl ScalarUDFImpl for BoundedFunction {
    fn name(&self) -> &str {
        self.engine.name()
    }

    fn aliases(&self) -> &[String] {
        self.engine.aliases()
    }

    fn display_name(&self, args: &[Expr]) -> EngineResult<String> {
        #[expect(deprecated, reason = "as the engine's own wrapper does")]
        self.inner().display_name(args)
    }

    fn schema_name(&self, args: &[Expr]) -> EngineResult<String> {
        self.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner().signature()
    }

    fn return_type(&self, types: &[DataType]) -> EngineResult<DataType> {
        self.inner().return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> EngineResult<FieldRef> {
        if let Bounded::TypeDepth = self.kind {
            let named = args.scalar_arguments.get(1).copied().flatten();
            let named = named.and_then(|n| n.try_as_str().flatten()).unwrap_or("");
            if named.matches('(').count() > DEEPEST_TYPE {
                return Err(Error::Invalid(format!(
                    "`{}` names a type of more than {DEEPEST_TYPE} types within each other",
                    self.name()
                ))
                .into());
            }
        }
        self.inner().return_field_from_args(args)
    }

    fn is_nullable(&self, args: &[Expr], schema: &dyn ExprSchema) -> bool {
        #[expect(deprecated, reason = "as the engine's own wrapper does")]
        self.inner().is_nullable(args, schema)
    }

    fn is_strict(&self) -> bool {
        self.inner().is_strict()
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let updated = Arc::new(self.inner().with_updated_config(config)?);
        let bounded = with_bounds(&updated, &self.bounds).unwrap_or(updated);
        Some(Arc::unwrap_or_clone(bounded))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        self.bounds.stop.check()?;
        let mut args = args;
        if let Some((at, least, most)) = numbers_taken(self.name())
            && let Some(number) = args.args.get_mut(at)
        {
            *number = into_range(number, least, most)?;
        }
        match self.kind {
            Bounded::Growth(growth) => self.check_growth(growth, &args)?,
            Bounded::Work(work) => return self.call_in_parts(work, args),
            Bounded::Both(growth, work) => {
                self.check_growth(growth, &args)?;
                return self.call_in_parts(work, args);
            }
            Bounded::TypeDepth | Bounded::Argument => {}
        }
        self.inner().invoke_with_args(args)
    }

    fn simplify(
        &self,
        args: Vec<Expr>,
        info: &SimplifyContext,
    ) -> EngineResult<ExprSimplifyResult> {
        let original = args.clone();
        let simplified = match self.inner().simplify(args, info)? {
            ExprSimplifyResult::Simplified(expr) => expr,
            original => return Ok(original),
        };
        // An operator of patterns that comes to be here has no bound.
        if simplified.exists(|e| Ok(is_pattern_operator(e)))? {
            return Ok(ExprSimplifyResult::Original(original));
        }
        // Simpler forms of a function are often the function again.
        let again = simplified.transform_up(|e| bound_call(e, &self.bounds))?;
        Ok(ExprSimplifyResult::Simplified(again.data))
    }

    fn preimage(
        &self,
        args: &[Expr],
        literal: &Expr,
        info: &SimplifyContext,
    ) -> EngineResult<PreimageResult> {
        self.inner().preimage(args, literal, info)
    }

    fn short_circuits(&self) -> bool {
        self.inner().short_circuits()
    }

    fn conditional_arguments<'a>(
        &self,
        args: &'a [Expr],
    ) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner().conditional_arguments(args)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> EngineResult<Interval> {
        self.inner().evaluate_bounds(input)
    }

    fn propagate_constraints(
        &self,
        interval: &Interval,
        inputs: &[&Interval],
    ) -> EngineResult<Option<Vec<Interval>>> {
        self.inner().propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> EngineResult<SortProperties> {
        self.inner().output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> EngineResult<bool> {
        self.inner().preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> EngineResult<bool> {
        self.inner().strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, types: &[DataType]) -> EngineResult<Vec<DataType>> {
        self.inner().coerce_types(types)
    }

    fn struct_field_mapping(
        &self,
        literals: &[Option<datafusion::common::ScalarValue>],
    ) -> Option<StructFieldMapping> {
        self.inner().struct_field_mapping(literals)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner().documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner().placement(args)
    }
}

/// A call of a function that needs bounds, with them.
fn bound_call(expr: Expr, bounds: &FunctionBounds) -> EngineResult<Transformed<Expr>> {
    let Expr::ScalarFunction(mut call) = expr else {
        return Ok(Transformed::no(expr));
    };
    match with_bounds(&call.func, bounds) {
        Some(bounded) => {
            call.func = bounded;
            Ok(Transformed::yes(Expr::ScalarFunction(call)))
        }
        None => Ok(Transformed::no(Expr::ScalarFunction(call))),
    }
}

/// A call or an operator that needs bounds, with them; one whose types are known over `schema`.
///
/// # Errors
/// `Invalid` for an operator whose pattern is too large.
pub fn bound_expression(
    expr: Expr,
    schema: &DFSchema,
    bounds: &FunctionBounds,
) -> EngineResult<Transformed<Expr>> {
    match &expr {
        Expr::BinaryExpr(binary) if binary.op == Operator::StringConcat => {
            Ok(match join_texts::joined(binary, schema, bounds) {
                Some(joined) => Transformed::yes(joined),
                None => Transformed::no(expr),
            })
        }
        Expr::BinaryExpr(_) | Expr::Like(_) | Expr::SimilarTo(_) => {
            operators::bound_operator(expr, bounds)
        }
        _ => bound_call(expr, bounds),
    }
}

fn is_pattern_operator(expr: &Expr) -> bool {
    use Operator::{RegexIMatch, RegexMatch, RegexNotIMatch, RegexNotMatch};
    match expr {
        Expr::BinaryExpr(binary) => matches!(
            binary.op,
            RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch
        ),
        _ => false,
    }
}

#[cfg(test)]
mod sweep;
#[cfg(test)]
mod tests;
