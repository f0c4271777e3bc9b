//! What a call comes to, at most, from its arguments.

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, IntervalMonthDayNanoType, TimeUnit};
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};

use super::pattern::pattern_size;
use super::sizes::{Rows, integers};

/// Bytes of a character, at most.
const CHARACTER: u64 = 4;
/// Bytes of a number as text, at most.
const NUMBER: u64 = 24;
/// Steps of a pattern that the work of one step of a comparison does.
const STEPS_AT_ONCE: u64 = 16;
/// Steps that it takes to compile one state of a pattern.
const COMPILING: u64 = 8;

/// How a result grows with the arguments.
#[derive(Clone, Copy, Debug)]
pub(super) enum Growth {
    /// The first argument, as often as the second says.
    Times,
    /// As many characters as the second argument says.
    Pad,
    /// The numbers, dates or times from the first to the second argument, by the third.
    Series,
    /// As many elements as the second argument says.
    Resize,
    /// All arguments one after another, so many times.
    Sum(u64),
    /// All arguments but the first, with that in between.
    Separated,
    /// The elements of the first argument as text, with the second in between and the third for NULL.
    Joined,
    /// The first argument with the second replaced by the third.
    Replaced,
    /// The first argument with each of its characters replaced by the third.
    PatternReplaced,
    /// By a form of text, for each row.
    Formatted,
}

/// What work grows with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// The product of the lengths of two texts.
    Texts,
    /// The product of the lengths of two lists.
    Lists,
    /// The product of a text's length and the size of its regular expression.
    Pattern,
    /// The product of a text's length and that of its pattern for `LIKE`.
    Like,
}

/// Bytes of a result, at most.
pub(super) fn grown(growth: Growth, args: &ScalarFunctionArgs) -> Result<u64> {
    let rows = args.number_rows;
    // Where all arguments are constant, so is the result.
    let rows = match args
        .args
        .iter()
        .all(|a| matches!(a, ColumnarValue::Scalar(_)))
    {
        true => rows.min(1),
        false => rows,
    };
    let args = args.args.as_slice();
    let bytes = |i: usize| args.get(i).map_or(Ok(Rows::Same(0)), Rows::bytes);
    let counts = |i: usize| args.get(i).map_or(Ok(Rows::Same(0)), Rows::counts);
    let total = |of_row: &dyn Fn(usize) -> u64| {
        (0..rows).fold(0_u64, |sum, row| sum.saturating_add(of_row(row)))
    };
    Ok(match growth {
        Growth::Times => {
            let (value, times) = (bytes(0)?, counts(1)?);
            total(&|row| value.at(row).max(1).saturating_mul(times.at(row)))
        }
        Growth::Pad => {
            let length = counts(1)?;
            length.sum(rows).saturating_mul(CHARACTER)
        }
        Growth::Series => {
            let counts = series(args, rows)?;
            counts.saturating_mul(8)
        }
        Growth::Resize => {
            let (list, length, value) = (bytes(0)?, counts(1)?, bytes(2)?);
            total(&|row| {
                let added = length.at(row).saturating_mul(value.at(row).max(8));
                list.at(row).saturating_add(added)
            })
        }
        Growth::Sum(times) => {
            let mut sum = 0_u64;
            for arg in args {
                sum = sum.saturating_add(Rows::bytes(arg)?.sum(rows));
            }
            sum.saturating_mul(times)
        }
        Growth::Separated => {
            let mut sum = bytes(0)?.sum(rows).saturating_mul(args.len() as u64);
            for arg in args.iter().skip(1) {
                sum = sum.saturating_add(Rows::bytes(arg)?.sum(rows));
            }
            sum
        }
        Growth::Joined => {
            let (list, between, null) = (bytes(0)?, bytes(1)?, bytes(2)?);
            let elements = args.first().map_or(Ok(Rows::Same(0)), Rows::elements)?;
            total(&|row| {
                let each = between.at(row).saturating_add(null.at(row)) + NUMBER;
                let added = elements.at(row).saturating_mul(each);
                list.at(row).saturating_add(added)
            })
        }
        Growth::Replaced => {
            let (text, from, to) = (bytes(0)?, bytes(1)?, bytes(2)?);
            total(&|row| {
                let times = match from.at(row) {
                    0 => text.at(row) + 1,
                    n => text.at(row) / n,
                };
                let added = times.saturating_mul(to.at(row));
                text.at(row).saturating_add(added)
            })
        }
        Growth::PatternReplaced => {
            let (text, pattern, to) = (bytes(0)?, bytes(1)?, bytes(2)?);
            let flags = args.get(3).map(global).unwrap_or(false);
            total(&|row| {
                // Groups that it names are at most the whole text, each time.
                let to = to.at(row).saturating_add(pattern.at(row).min(1));
                let times = if flags { text.at(row) + 1 } else { 1 };
                text.at(row).saturating_add(times.saturating_mul(to))
            })
        }
        Growth::Formatted => {
            let form = bytes(1)?;
            // A letter of the form stands for up to a whole time.
            form.sum(rows.max(1)).saturating_mul(NUMBER / 2)
        }
    })
}

/// Whether flags of a pattern say that it replaces more than once.
fn global(flags: &ColumnarValue) -> bool {
    match flags {
        ColumnarValue::Scalar(flags) => {
            let text = flags.try_as_str().flatten();
            text.is_none_or(|text| text.contains('g'))
        }
        ColumnarValue::Array(_) => true,
    }
}

/// How many values a series has, over all rows.
fn series(args: &[ColumnarValue], rows: usize) -> Result<u64> {
    let numbers = |value: &ColumnarValue| -> Result<Vec<Option<i64>>> {
        let all = match value {
            ColumnarValue::Array(array) => integers(array)?,
            ColumnarValue::Scalar(scalar) => integers(&scalar.to_array()?)?,
        };
        Ok(all)
    };
    let at = |all: &[Option<i64>], row: usize| match all {
        [one] => *one,
        all => all.get(row).copied().flatten(),
    };
    let (from, to) = match args {
        [to] => (vec![Some(0)], numbers(to)?),
        [from, to, ..] => (numbers(from)?, numbers(to)?),
        [] => return Ok(0),
    };
    let unit = args
        .first()
        .map_or(1, |a| units_a_nanosecond(&a.data_type()));
    let steps = match args.get(2) {
        None => vec![Some(1)],
        Some(step) => match step.data_type() {
            DataType::Interval(_) => intervals(step, unit)?,
            _ => numbers(step)?,
        },
    };
    let of_row = |row: usize| {
        let (Some(from), Some(to)) = (at(&from, row), at(&to, row)) else {
            return 0;
        };
        // The engine refuses steps of 0.
        let step = at(&steps, row).unwrap_or(1).unsigned_abs().max(1);
        (to.abs_diff(from) / step).saturating_add(1)
    };
    Ok((0..rows).fold(0_u64, |sum, row| sum.saturating_add(of_row(row))))
}

/// Nanoseconds of what dates and times count.
fn units_a_nanosecond(kind: &DataType) -> i64 {
    match kind {
        DataType::Date32 => 86_400_000_000_000,
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        _ => 1,
    }
}

/// Intervals in a unit of some nanoseconds, the shortest that they may be.
fn intervals(value: &ColumnarValue, unit: i64) -> Result<Vec<Option<i64>>> {
    let array = match value {
        ColumnarValue::Array(array) => array.clone(),
        ColumnarValue::Scalar(scalar) => scalar.to_array()?,
    };
    let Some(array) = array.as_primitive_opt::<IntervalMonthDayNanoType>() else {
        return Ok(vec![Some(1)]);
    };
    let day = 86_400_000_000_000_i64;
    let shortest = |v: datafusion::arrow::datatypes::IntervalMonthDayNano| {
        let days = i64::from(v.months) * 28 + i64::from(v.days);
        days.saturating_mul(day).saturating_add(v.nanoseconds) / unit
    };
    Ok(array.iter().map(|v| v.map(shortest)).collect())
}

/// Steps of each row.
pub(super) fn work_of_rows(work: Work, args: &ScalarFunctionArgs) -> Result<Vec<u64>> {
    let rows = args.number_rows;
    let [first, second, ..] = args.args.as_slice() else {
        return Ok(vec![0; rows]);
    };
    let of = |value: &ColumnarValue| match work {
        Work::Lists => Rows::elements(value),
        Work::Texts | Work::Pattern | Work::Like => Rows::bytes(value),
    };
    let (first, of_second) = (of(first)?, of(second)?);
    let sizes = match work {
        Work::Texts | Work::Lists => None,
        Work::Pattern => Some(pattern_sizes(second)?),
        Work::Like => Some(of_second.clone()),
    };
    let Some(sizes) = sizes else {
        let of_row = |row| first.at(row).saturating_mul(of_second.at(row));
        return Ok((0..rows).map(of_row).collect());
    };
    // A pattern for each row is compiled for each, which costs more than matching.
    let compiles = matches!(second, ColumnarValue::Array(_));
    let of_row = |row| {
        let size = sizes.at(row);
        let compiled = match compiles {
            true => size
                .saturating_add(of_second.at(row))
                .saturating_mul(COMPILING),
            false => 0,
        };
        let matched = first.at(row).saturating_mul(size / STEPS_AT_ONCE + 1);
        matched.saturating_add(compiled)
    };
    Ok((0..rows).map(of_row).collect())
}

/// The sizes of regular expressions.
fn pattern_sizes(patterns: &ColumnarValue) -> Result<Rows> {
    match patterns {
        ColumnarValue::Scalar(pattern) => {
            let pattern = pattern.try_as_str().flatten().unwrap_or("");
            Ok(Rows::Same(pattern_size(pattern)))
        }
        ColumnarValue::Array(patterns) => {
            let patterns = cast(patterns, &DataType::Utf8View)?;
            let sizes = patterns.as_string_view().iter();
            let sizes = sizes.map(|p| p.map_or(0, pattern_size));
            Ok(Rows::Each(sizes.collect()))
        }
    }
}
