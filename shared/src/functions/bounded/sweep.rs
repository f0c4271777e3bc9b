//! Every scalar function with the least and the greatest numbers, empty texts and lists, and NULL: none
//! of them may panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringViewArray};
use arrow::datatypes::Int64Type;
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, ScalarUDF, ident};
use datafusion::prelude::SessionContext;

use super::FunctionBounds;
use crate::view::{build_session, session_builder};
use crate::{Result, Stop};

/// Most arguments of a call.
const MOST_ARGUMENTS: usize = 4;

/// Columns of each kind: an argument of a call is one of a kind.
const KINDS: [&str; 3] = ["text", "number", "list"];

const NUMBERS: [Option<i64>; 9] = [
    Some(0),
    Some(1),
    Some(-1),
    Some(i64::MIN),
    Some(i64::MAX),
    Some(i32::MIN as i64),
    Some(i32::MAX as i64),
    Some(1 << 40),
    None,
];

/// Rows in which the columns hold what is extreme: of each place the number by its own digits of the
/// row, texts and lists in turn.
fn rows() -> Result<RecordBatch> {
    let places = MOST_ARGUMENTS as u32 - 1;
    let rows = NUMBERS.len().pow(places);
    let number =
        |row: usize, place: usize| NUMBERS[row / NUMBERS.len().pow(place as u32) % NUMBERS.len()];
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for at in 0..MOST_ARGUMENTS {
        let texts = [Some("abcö"), Some(""), None, Some("a,b"), Some("%Y")];
        let texts = (0..rows).map(|row| texts[(row + at) % texts.len()]);
        columns.push((
            format!("text{at}"),
            Arc::new(StringViewArray::from_iter(texts)),
        ));
        let numbers = (0..rows).map(|row| number(row, at % places as usize));
        columns.push((
            format!("number{at}"),
            Arc::new(Int64Array::from_iter(numbers)),
        ));
        let lists = (0..rows).map(|row| match (row + at) % 4 {
            0 => Some(vec![Some(1), Some(2), Some(3)]),
            1 => Some(vec![]),
            2 => None,
            _ => Some(vec![None, Some(i64::MIN), Some(i64::MAX)]),
        });
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
        columns.push((format!("list{at}"), Arc::new(lists)));
    }
    Ok(RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )?)
}

/// All kinds of arguments, so many.
fn calls(function: &Arc<ScalarUDF>, count: usize) -> impl Iterator<Item = (Expr, bool)> {
    (0..KINDS.len().pow(count as u32)).map(move |mut kinds| {
        let (mut args, mut has_number) = (Vec::new(), false);
        for at in 0..count {
            let kind = KINDS[kinds % KINDS.len()];
            has_number |= kind == "number";
            kinds /= KINDS.len();
            args.push(ident(format!("{kind}{at}")));
        }
        (function.call(args), has_number)
    })
}

/// The panics of a function, each with a call that brings it about.
fn panics(session: &SessionContext, function: &Arc<ScalarUDF>, rows: &RecordBatch) -> Vec<String> {
    let Ok(schema) = DFSchema::try_from(rows.schema().as_ref().clone()) else {
        return vec!["no schema".to_owned()];
    };
    let mut found = Vec::new();
    for count in 0..=MOST_ARGUMENTS {
        for (call, has_number) in calls(function, count) {
            let shown = call.to_string();
            let planned = catch_unwind(AssertUnwindSafe(|| {
                session.create_physical_expr(call, &schema).ok()
            }));
            let Ok(Some(planned)) = planned else {
                if planned.is_err() {
                    found.push(format!("{shown}: in planning"));
                }
                continue;
            };
            // Texts and lists repeat after 20 rows.
            let tried = match has_number {
                true => rows.num_rows(),
                false => 20,
            };
            for row in 0..tried {
                let one = rows.slice(row, 1);
                let evaluated = catch_unwind(AssertUnwindSafe(|| planned.evaluate(&one).is_ok()));
                if evaluated.is_err() {
                    let values = one.columns().iter().map(|c| {
                        arrow::util::display::array_value_to_string(c, 0).unwrap_or_default()
                    });
                    let values: Vec<String> = values.collect();
                    found.push(format!("{shown} of {}", values.join(" | ")));
                    break;
                }
            }
        }
    }
    found
}

/// In a thread of its own: what panics says so there.
#[test]
fn no_function_panics_at_extreme_arguments() -> Result<()> {
    let mut state = build_session(session_builder())?;
    let bounds = FunctionBounds {
        bytes: 100_000,
        work: 1_000_000,
        pattern_work: 1_000_000,
        setting: "a test's",
        stop: Stop::never(),
    };
    crate::functions::bound(&mut state, &bounds)?;
    let session = SessionContext::new_with_state(state);
    let mut functions: Vec<Arc<ScalarUDF>> = session
        .state()
        .scalar_functions()
        .values()
        .cloned()
        .collect();
    functions.sort_by_key(|f| f.name().to_owned());
    functions.dedup_by_key(|f| f.name().to_owned());
    assert!(functions.len() > 150, "{} functions", functions.len());
    let rows = rows()?;
    let sweeping = std::thread::spawn(move || {
        let of = |f: &Arc<ScalarUDF>| panics(&session, f, &rows);
        functions.iter().flat_map(of).collect::<Vec<String>>()
    });
    let found = sweeping
        .join()
        .unwrap_or_else(|_| vec!["a panic".to_owned()]);
    assert!(
        found.is_empty(),
        "{} panic:\n{}",
        found.len(),
        found.join("\n")
    );
    Ok(())
}
