//! Goldens of states, and lines of other versions.

use arrow::array::{Array, AsArray};
use arrow::util::display::array_value_to_string;

use super::*;
use crate::view::every_function::{LATER, VIEWS, facts, topic};
use crate::view::{SortedStates, fold_facts};

/// One line a function: its format, and the states of one group.
fn goldens() -> Result<String> {
    let mut lines = Vec::new();
    for (name, sql) in VIEWS.into_iter().chain([LATER]) {
        let view = Arc::new(View::compile(name, sql, &topic())?);
        let states = fold_facts(&view, &[facts(&topic(), 0..60)])?;
        let Some(states) = SortedStates::new(states, 1)?.next().transpose()? else {
            continue;
        };
        // The first group is that of NULL, where there are several.
        let row = states.num_rows().min(2) - 1;
        let Some(split) = view.aggregate() else {
            continue;
        };
        for column in split.columns() {
            let number = number_of(column);
            let number = number.map_or_else(|| "unlisted".to_owned(), |n| n.to_string());
            let format = format!(
                "{} {number}({})→[{}]",
                column.aggregate().fun().name(),
                arguments(split, column),
                types(column.state_fields())
            );
            let states = states.columns()[column.state_columns()].iter();
            let states = states.map(|state| shown(state, row, column.aggregate().is_distinct()));
            let states = states.collect::<Result<Vec<_>>>()?.join(" │ ");
            lines.push(format!("{format}\n    {states}\n"));
        }
    }
    lines.sort_unstable();
    lines.dedup();
    Ok(lines.concat())
}

/// A state; sets have no order.
fn shown(state: &ArrayRef, row: usize, is_set: bool) -> Result<String> {
    let DataType::List(_) = state.data_type() else {
        return Ok(array_value_to_string(state, row)?);
    };
    if !is_set || state.is_null(row) {
        return Ok(array_value_to_string(state, row)?);
    }
    let values = state.as_list::<i32>().value(row);
    let values = (0..values.len()).map(|i| array_value_to_string(&values, i));
    let mut values = values.collect::<Result<Vec<_>, _>>()?;
    values.sort_unstable();
    Ok(format!("{{{}}}", values.join(", ")))
}

/// What is checked in.
fn checked_in() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/view/formats/goldens.txt");
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The bytes of states are what they were: where this fails after an engine's upgrade, the function
/// gets another number; where it is on purpose too.
#[test]
fn states_are_what_their_numbers_say() -> Result<()> {
    let found = goldens()?;
    let golden = checked_in();
    let differs = found.lines().zip(golden.lines()).find(|(a, b)| a != b);
    assert!(
        found == golden,
        "states differ from `goldens.txt`, first in {differs:?}; they are:\n{found}"
    );
    Ok(())
}

/// Every function that is listed has a golden, and those that views are promised are listed.
#[test]
fn every_listed_function_has_a_golden() {
    let golden = checked_in();
    for (listed, number) in FORMATS {
        let distinct = listed.ends_with(" distinct");
        let name = listed.trim_end_matches(" distinct");
        let begins = format!(
            "{name} {number}({}",
            if distinct { "distinct " } else { "" }
        );
        let has =
            |line: &str| line.starts_with(&begins) && (distinct || !line.contains("(distinct"));
        assert!(golden.lines().any(has), "no golden of `{listed}`");
    }
    assert!(!golden.contains("unlisted"), "a golden is of no number");
}

/// The line of version 0.1.0 is read whatever it called the fields of an ordering; another version
/// of the engine, another function and another type are other formats.
#[test]
fn former_lines_are_read() -> Result<()> {
    let sql = "SELECT s, count(*) AS c, sum(n) AS n, avg(f) AS f, array_agg(i ORDER BY ts) AS l, max(ts) AS t FROM facts GROUP BY s";
    let view = View::compile("v", sql, &topic())?;
    let former = "1 datafusion 55.2.0 Utf8View count(Int64)→[Int64] sum(Int64)→[Int64] avg(Float64)→[UInt64,Float64] array_agg(Int32)→[List(Int32),List(Struct(\"ts@0\": Timestamp(µs, \"UTC\"), \"_partition@3\": Int32, \"_offset@4\": Int64))] max(Timestamp(µs, \"UTC\"))→[Timestamp(µs, \"UTC\")]";
    assert!(view.reads_format(former), "{:?}", view.formats.former);
    assert!(view.reads_format(&former.replace("@3", "@7")));
    for (from, to) in [
        ("55.2.0", "55.3.0"),
        ("max(", "min("),
        ("avg(Float64)→[UInt64,", "avg(Float64)→[Int64,"),
        ("→[Timestamp(µs, \"UTC\")]", "→[Timestamp(µs, \"+01:00\")]"),
        ("1 datafusion", "3 datafusion"),
    ] {
        let other = former.replace(from, to);
        assert_ne!(other, former);
        assert!(!view.reads_format(&other), "{other}");
    }
    assert!(
        view.definition()
            .state_format
            .starts_with("2 Utf8View count 1(Int64)→[Int64] sum 2(")
    );
    assert!(!view.definition().state_format.contains("datafusion"));
    Ok(())
}

/// A quoted name ends where it ends.
#[test]
fn names_are_left_out_of_lines() {
    let line = r#"a [List(Struct("x\"y\\": Int32, "z": Timestamp(µs, "UTC")))] "#;
    let expected = r#"a [List(Struct(": Int32, ": Timestamp(µs, UTC")))] "#;
    assert_eq!(nameless(line), expected);
    assert_eq!(nameless("no names"), "no names");
}
