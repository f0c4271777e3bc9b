//! The operators of patterns within bounds: `~`, `!~`, `~*`, `!~*`, `LIKE` and `SIMILAR TO` as functions
//! that refuse a row which would take too long, and look whether to go on between rows. Answers are the
//! engine's, which evaluates them.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result as EngineResult, ScalarValue, plan_err};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Like, Operator, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility, ident, lit,
};
use datafusion::physical_expr::create_physical_expr;

use super::estimate::Work;
use super::pattern::{LARGEST_PATTERN, pattern_size};
use super::{FunctionBounds, call_in_parts};
use crate::Error;

/// The operands, as columns.
const TEXT: &str = "text";
const PATTERN: &str = "pattern";

/// Which operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Matches {
    Operator(Operator),
    Like { negated: bool, ignores_case: bool },
    SimilarTo { negated: bool },
}

/// An operator within bounds. Two are equal where the engine's are.
#[derive(Debug)]
struct BoundedOperator {
    matches: Matches,
    signature: Signature,
    bounds: FunctionBounds,
}

impl PartialEq for BoundedOperator {
    fn eq(&self, other: &Self) -> bool {
        self.matches == other.matches
    }
}

impl Eq for BoundedOperator {}

impl Hash for BoundedOperator {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.matches.hash(state);
    }
}

/// An operator of patterns with bounds; another expression as it is.
///
/// # Errors
/// `Invalid` for one whose pattern is too large.
pub(super) fn bound_operator(
    expr: Expr,
    bounds: &FunctionBounds,
) -> EngineResult<Transformed<Expr>> {
    let Some(matches) = Matches::of(&expr) else {
        return Ok(Transformed::no(expr));
    };
    let (text, pattern) = match expr {
        Expr::BinaryExpr(binary) => (binary.left, binary.right),
        Expr::Like(like) | Expr::SimilarTo(like) => (like.expr, like.pattern),
        other => return Ok(Transformed::no(other)),
    };
    if let Work::Pattern = matches.work()
        && bounds.pattern_work < u64::MAX
    {
        check_size(&pattern)?;
    }
    let function = ScalarUDF::new_from_impl(BoundedOperator {
        matches,
        signature: Signature::any(2, Volatility::Immutable),
        bounds: bounds.clone(),
    });
    let call = ScalarFunction::new_udf(Arc::new(function), vec![*text, *pattern]);
    Ok(Transformed::yes(Expr::ScalarFunction(call)))
}

fn check_size(pattern: &Expr) -> EngineResult<()> {
    let Expr::Literal(pattern, _) = pattern else {
        return Ok(());
    };
    let size = pattern_size(pattern.try_as_str().flatten().unwrap_or(""));
    match size > LARGEST_PATTERN {
        true => Err(Error::Invalid(format!(
            "a pattern has about {size} states once its repetitions are written out, the bound is {LARGEST_PATTERN}; write a smaller one"
        ))
        .into()),
        false => Ok(()),
    }
}

impl Matches {
    /// Which operator of patterns an expression is. None where its work is in proportion to the text
    /// whatever the pattern is: the engine knows more of those.
    fn of(expr: &Expr) -> Option<Self> {
        use Operator::{
            ILikeMatch, LikeMatch, NotILikeMatch, NotLikeMatch, RegexIMatch, RegexMatch,
            RegexNotIMatch, RegexNotMatch,
        };
        match expr {
            Expr::BinaryExpr(binary) => matches!(
                binary.op,
                RegexMatch
                    | RegexIMatch
                    | RegexNotMatch
                    | RegexNotIMatch
                    | LikeMatch
                    | ILikeMatch
                    | NotLikeMatch
                    | NotILikeMatch
            )
            .then_some(Self::Operator(binary.op)),
            // The engine knows no other one, and says so.
            Expr::Like(like) | Expr::SimilarTo(like)
                if like.escape_char.is_some_and(|c| c != '\\') =>
            {
                None
            }
            Expr::Like(like) if is_search(like) => None,
            Expr::Like(like) => Some(Self::Like {
                negated: like.negated,
                ignores_case: like.case_insensitive,
            }),
            Expr::SimilarTo(like) => Some(Self::SimilarTo {
                negated: like.negated,
            }),
            _ => None,
        }
    }

    fn work(self) -> Work {
        match self {
            Self::Operator(
                Operator::LikeMatch
                | Operator::ILikeMatch
                | Operator::NotLikeMatch
                | Operator::NotILikeMatch,
            )
            | Self::Like { .. } => Work::Like,
            Self::Operator(_) | Self::SimilarTo { .. } => Work::Pattern,
        }
    }

    /// The operator over a text and a pattern.
    fn over(self, text: Expr, pattern: Expr) -> Expr {
        let (expr, pattern) = (Box::new(text), Box::new(pattern));
        match self {
            Self::Operator(op) => Expr::BinaryExpr(BinaryExpr::new(expr, op, pattern)),
            Self::Like {
                negated,
                ignores_case,
            } => Expr::Like(Like::new(negated, expr, pattern, None, ignores_case)),
            Self::SimilarTo { negated } => {
                Expr::SimilarTo(Like::new(negated, expr, pattern, None, false))
            }
        }
    }
}

/// Whether a `LIKE` looks for one constant text, at the beginning, at the end or anywhere.
fn is_search(like: &Like) -> bool {
    let Expr::Literal(pattern, _) = like.pattern.as_ref() else {
        return false;
    };
    let pattern = pattern.try_as_str().flatten().unwrap_or("");
    let searched = pattern.trim_matches('%');
    !like.case_insensitive && !searched.contains(['%', '_', '\\'])
}

impl BoundedOperator {
    /// What the engine's operator gives for these arguments.
    fn evaluate(&self, args: &ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let [text, pattern] = args.args.as_slice() else {
            return plan_err!("`{}` takes a text and a pattern", self.name());
        };
        let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
        // A constant stays one, so that a pattern is compiled once.
        let mut operand = |name: &str, value: &ColumnarValue| match value {
            ColumnarValue::Scalar(value) => lit(value.clone()),
            ColumnarValue::Array(array) => {
                fields.push(Field::new(name, array.data_type().clone(), true));
                columns.push(array.clone());
                ident(name)
            }
        };
        let (text, pattern) = (operand(TEXT, text), operand(PATTERN, pattern));
        let schema = Arc::new(Schema::new(fields));
        let over = DFSchema::try_from(schema.clone())?;
        let operator = self.matches.over(text, pattern);
        let operator = create_physical_expr(
            &operator,
            &over,
            &ExecutionProps::new(),
            &PhysicalPlanningContext::default(),
        )?;
        let is_constant = columns.is_empty();
        let rows = if is_constant { 1 } else { args.number_rows };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        match operator.evaluate(&batch)? {
            // Of constants there is one answer.
            ColumnarValue::Array(array) if is_constant => {
                let value = ScalarValue::try_from_array(&array, 0)?;
                Ok(ColumnarValue::Scalar(value))
            }
            value => Ok(value),
        }
    }
}

impl ScalarUDFImpl for BoundedOperator {
    fn name(&self) -> &str {
        match self.matches {
            Matches::Operator(Operator::RegexMatch) => "~",
            Matches::Operator(Operator::RegexIMatch) => "~*",
            Matches::Operator(Operator::RegexNotMatch) => "!~",
            Matches::Operator(Operator::RegexNotIMatch) => "!~*",
            Matches::Operator(Operator::LikeMatch) => "~~",
            Matches::Operator(Operator::ILikeMatch) => "~~*",
            Matches::Operator(Operator::NotLikeMatch) => "!~~",
            Matches::Operator(_) => "!~~*",
            Matches::Like {
                negated,
                ignores_case,
            } => match (negated, ignores_case) {
                (false, false) => "LIKE",
                (true, false) => "NOT LIKE",
                (false, true) => "ILIKE",
                (true, true) => "NOT ILIKE",
            },
            Matches::SimilarTo { negated: false } => "SIMILAR TO",
            Matches::SimilarTo { negated: true } => "NOT SIMILAR TO",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> EngineResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> EngineResult<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(
            self.name(),
            DataType::Boolean,
            nullable,
        )))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        self.bounds.stop.check()?;
        let limit = (self.bounds.pattern_work, &self.bounds.stop);
        let evaluate = |args: ScalarFunctionArgs| self.evaluate(&args);
        call_in_parts(self.name(), self.matches.work(), args, limit, evaluate)
    }
}
