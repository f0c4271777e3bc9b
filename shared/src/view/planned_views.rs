//! Views as they are planned: what is accepted gives the right answer however its states are
//! merged, and what is refused is refused with its place.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::prelude::DataFrame;

use super::*;
use crate::settings::{FieldReads, FieldType};
use crate::topic::TopicField;

fn topic() -> Topic {
    let field = |name: &str, field_type, nullable| TopicField {
        name: name.into(),
        field_type,
        nullable,
        reads: FieldReads::default(),
    };
    Topic {
        name: "ev".into(),
        event_time: "ts".into(),
        fields: vec![
            field("ts", FieldType::Timestamp, false),
            field("k", FieldType::Varchar, true),
            field("v", FieldType::BigInt, true),
            field("s", FieldType::Varchar, true),
        ],
    }
}

type Row = (i64, &'static str, i64, &'static str);

/// Facts at offsets from `start` on: seconds, `k`, `v` and `s`.
fn facts(start: i64, rows: &[Row]) -> Result<RecordBatch> {
    let schema = topic().schema();
    let texts = |of: &dyn Fn(&Row) -> String| -> ArrayRef {
        Arc::new(StringViewArray::from_iter_values(rows.iter().map(of)))
    };
    let numbers = |of: &dyn Fn(&Row) -> i64| Int64Array::from_iter_values(rows.iter().map(of));
    let times = |of: &dyn Fn(&Row) -> i64| -> ArrayRef {
        let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(of));
        Arc::new(times.with_timezone("UTC"))
    };
    let offsets: Vec<i64> = (start..).take(rows.len()).collect();
    let columns: Vec<ArrayRef> = vec![
        times(&|r| r.0 * 1_000_000),
        texts(&|r| r.1.to_owned()),
        Arc::new(numbers(&|r| r.2)),
        texts(&|r| r.3.to_owned()),
        Arc::new(StringViewArray::from_iter(
            rows.iter().map(|_| None::<&str>),
        )),
        Arc::new(arrow::array::Int32Array::from(vec![0; rows.len()])),
        Arc::new(Int64Array::from(offsets)),
        times(&|_| 0),
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// Facts of which many are alike, in three pieces.
fn pieces() -> Result<Vec<RecordBatch>> {
    Ok(vec![
        facts(0, &[(5, "c", 1, "x"), (1, "a", 1, "y"), (3, "a", 2, "y")])?,
        facts(3, &[(1, "b", 2, "x"), (2, "d", 3, "z"), (2, "b", 1, "z")])?,
        facts(
            6,
            &[
                (9, "d", 1, "x"),
                (9, "e", 1, "w"),
                (1, "e", 4, "w"),
                (1, "c", 4, "y"),
            ],
        )?,
    ])
}

/// A view's keys and finished columns, from states that were merged in the order of `pieces`.
fn merged(view: &Arc<View>, pieces: &[&RecordBatch]) -> Result<RecordBatch> {
    let mut fold = Fold::new(view)?;
    for piece in pieces {
        let mut one = Fold::new(view)?;
        one.facts(&view.facts_read(piece)?)?;
        fold.states(&one.into_states()?)?;
    }
    let states = fold.into_states()?;
    let Some(split) = view.aggregate() else {
        return Ok(states);
    };
    let mut columns: Vec<ArrayRef> = states.columns()[..view.key_count()].to_vec();
    for column in split.columns() {
        let of = &states.columns()[column.state_columns()];
        columns.push(finish_column(column, of)?);
    }
    Ok(RecordBatch::try_new(view.leaf_schema().clone(), columns)?)
}

/// The rows of a plan, as sorted lines.
async fn rows(plan: LogicalPlan) -> Result<Vec<String>> {
    let session = planning_session()?;
    let batches = DataFrame::new(session.state(), plan).collect().await?;
    let shown = pretty_format_batches(&batches)?.to_string();
    let mut lines: Vec<String> = shown.lines().skip(3).map(str::to_owned).collect();
    lines.retain(|l| l.starts_with('|'));
    lines.sort();
    Ok(lines)
}

/// The one answer of a view, however its states are merged; a recompute gives it too.
async fn answer(sql: &str) -> Result<Vec<String>> {
    let view = Arc::new(View::compile("w", sql, &topic())?);
    let pieces = pieces()?;
    let table = |batches: Vec<RecordBatch>| -> Result<Arc<dyn TableProvider>> {
        let schema = batches[0].schema();
        Ok(Arc::new(MemTable::try_new(schema, vec![batches])?))
    };
    let expected = rows(view.recompute_plan(table(pieces.clone())?)?).await?;
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let ordered = order.map(|i| &pieces[i]);
        let leaf = table(vec![merged(&view, &ordered)?])?;
        let found = rows(view.answer_plan(leaf)?).await?;
        assert_eq!(found, expected, "{sql}, merged in the order {order:?}");
        let facts = table(order.map(|i| pieces[i].clone()).to_vec())?;
        let found = rows(view.recompute_plan(facts)?).await?;
        assert_eq!(found, expected, "{sql}, recomputed in the order {order:?}");
    }
    Ok(expected)
}

fn cells(lines: &[String]) -> Vec<Vec<&str>> {
    lines
        .iter()
        .map(|l| l.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[tokio::test]
async fn ties_above_the_aggregation_are_decided_by_keys() -> Result<()> {
    let counted = "SELECT k, count(*) AS n FROM ev GROUP BY k";
    // Every key but none has two facts: whoever is first of equals is the first by its key.
    let lines = answer(&format!("{counted} ORDER BY n DESC LIMIT 3")).await?;
    assert_eq!(cells(&lines), [["a", "2"], ["b", "2"], ["c", "2"]]);
    let lines = answer(&format!("{counted} LIMIT 2 OFFSET 1")).await?;
    assert_eq!(cells(&lines), [["b", "2"], ["c", "2"]]);
    // The keys decide also where they are not shown.
    let lines = answer(
        "SELECT n FROM (SELECT k, min(v) AS m, sum(v) AS n FROM ev GROUP BY k) ORDER BY m LIMIT 2",
    )
    .await?;
    assert_eq!(cells(&lines), [["3"], ["3"]]);
    let lines = answer(&format!("SELECT k, n, row_number() OVER (ORDER BY n DESC) AS r, lag(k) OVER (ORDER BY n) AS l, rank() OVER (ORDER BY n) AS p FROM ({counted})")).await?;
    let expected = [
        ["a", "2", "1", "", "1"],
        ["b", "2", "2", "a", "1"],
        ["c", "2", "3", "b", "1"],
        ["d", "2", "4", "c", "1"],
        ["e", "2", "5", "d", "1"],
    ];
    assert_eq!(cells(&lines), expected);
    let lines = answer(&format!("SELECT k, sum(n) OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) AS r, sum(n) OVER (ORDER BY n) AS g FROM ({counted})")).await?;
    let expected = [
        ["a", "2", "10"],
        ["b", "4", "10"],
        ["c", "6", "10"],
        ["d", "8", "10"],
        ["e", "10", "10"],
    ];
    assert_eq!(cells(&lines), expected);
    let lines = answer(&format!("SELECT array_agg(k) AS a, string_agg(k, ',') AS t, first_value(k) AS f, string_agg(k, ',' ORDER BY n, k DESC) AS d FROM ({counted})")).await?;
    assert_eq!(
        cells(&lines),
        [["[a, b, c, d, e]", "a,b,c,d,e", "a", "e,d,c,b,a"]]
    );
    let lines =
        answer("SELECT s, array_agg(k) AS path FROM (SELECT DISTINCT s, k FROM ev) GROUP BY s")
            .await?;
    let expected = [
        ["w", "[e]"],
        ["x", "[b, c, d]"],
        ["y", "[a, c]"],
        ["z", "[b, d]"],
    ];
    assert_eq!(cells(&lines), expected);
    // An order that means something stays.
    let lines = answer(&format!(
        "SELECT array_agg(k) AS a FROM (SELECT * FROM ({counted}) ORDER BY n, k DESC LIMIT 9)"
    ))
    .await?;
    assert_eq!(cells(&lines), [["[e, d, c, b, a]"]]);
    Ok(())
}

#[tokio::test]
async fn ties_among_facts_are_decided_by_their_place() -> Result<()> {
    let lines = answer("SELECT k, v FROM ev LIMIT 3").await?;
    assert_eq!(cells(&lines), [["a", "1"], ["a", "2"], ["c", "1"]]);
    let lines = answer("SELECT k, v FROM ev ORDER BY v DESC LIMIT 3").await?;
    assert_eq!(cells(&lines), [["c", "4"], ["d", "3"], ["e", "4"]]);
    let lines = answer(
        "SELECT k, row_number() OVER (PARTITION BY s ORDER BY v) AS r FROM ev WHERE s = 'x'",
    )
    .await?;
    assert_eq!(cells(&lines), [["b", "3"], ["c", "1"], ["d", "2"]]);
    Ok(())
}

#[tokio::test]
async fn what_the_engine_plans_is_a_view() -> Result<()> {
    let lines = answer("SELECT DISTINCT ON (k) k, v FROM ev ORDER BY k, ts DESC").await?;
    assert_eq!(
        cells(&lines),
        [["a", "2"], ["b", "1"], ["c", "1"], ["d", "1"], ["e", "1"]]
    );
    let lines = answer("SELECT v, count(*) AS n FROM ev GROUP BY v, v").await?;
    assert_eq!(
        cells(&lines),
        [["1", "5"], ["2", "2"], ["3", "1"], ["4", "2"]]
    );
    let lines = answer("SELECT date_trunc('day', ts) AS d, date_trunc('day', ts) AS e, count(*) AS n FROM ev GROUP BY 1, 2").await?;
    let day = "1970-01-01T00:00:00Z";
    assert_eq!(cells(&lines), [[day, day, "10"]]);
    let lines = answer(
        "WITH ev AS (SELECT k, v FROM ev WHERE v > 2) SELECT k, count(*) AS n FROM ev GROUP BY k",
    )
    .await?;
    assert_eq!(cells(&lines), [["c", "1"], ["d", "1"], ["e", "1"]]);
    // Two orders that the engine can't keep in one aggregation.
    let lines = answer("SELECT k, string_agg(DISTINCT s, '|') AS d, string_agg(s, ',' ORDER BY ts) AS e, nth_value(v, 1 ORDER BY v DESC) AS f, count(*) AS n FROM ev GROUP BY k").await?;
    let expected = [["a", "y", "y,y", "2", "2"], ["b", "x", "x,z", "2", "2"]];
    assert_eq!(cells(&lines[..1]), expected[..1]);
    assert!(lines[1].starts_with("| b | x"), "{lines:?}");
    Ok(())
}

/// Facts may be of 1678 to 2261, so an origin of our days may be 300 years away.
#[tokio::test]
async fn bins_far_from_their_origin_are_no_nulls() -> Result<()> {
    let sql = "SELECT date_bin(INTERVAL '7 days', ts, TIMESTAMP '2020-01-06') AS w, count(*) AS n FROM ev GROUP BY 1";
    let view = Arc::new(View::compile("w", sql, &topic())?);
    // 1700-01-03 was a Sunday, 1970-01-01 a Thursday.
    let far = -8_520_163_200;
    let facts = facts(0, &[(far, "a", 1, "x"), (0, "a", 1, "x")])?;
    let table = MemTable::try_new(facts.schema(), vec![vec![facts]])?;
    let lines = rows(view.recompute_plan(Arc::new(table))?).await?;
    let weeks: Vec<Vec<&str>> = cells(&lines);
    assert_eq!(
        weeks,
        [["1699-12-28T00:00:00Z", "1"], ["1969-12-29T00:00:00Z", "1"]]
    );
    Ok(())
}

fn refusal(sql: &str) -> String {
    match View::compile("w", sql, &topic()) {
        Ok(_) => format!("accepted: {sql}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn everything_that_is_wrong_is_said_with_its_place() {
    let sql =
        "SELECT now() AS a,\n  random() AS b,\n  ts AT TIME ZONE 'Europe/Berln' AS c\nFROM ev";
    let said = refusal(sql);
    for part in [
        "line 1, column 8: `now()`",
        "1 | SELECT now() AS a,\n  |        ^^^",
        "line 2, column 3: `random()`",
        "line 3, column 19: no time zone `Europe/Berln`",
    ] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    for (sql, part) in [
        (
            "SELECT k, cuont(*) FROM ev GROUP BY k",
            "line 1, column 11: ",
        ),
        ("SELECT k,\n nosuch FROM ev", "line 2, column 2: "),
        ("SELECT k FORM ev WHERE", "line 1, column "),
        (
            "SELECT arrow_cast(ts, 'Timestamp(µs, \"Europe/Berln\")') AS t FROM ev",
            "no time zone",
        ),
        (
            "SELECT count(*) AS n FROM ev WHERE ts > CAST('soon' AS timestamp)",
            "view `w`: ",
        ),
        (
            "SELECT k, last_value(n) OVER (ORDER BY n) AS l FROM (SELECT k, count(*) AS n FROM ev GROUP BY k)",
            "write `ROWS`",
        ),
    ] {
        let said = refusal(sql);
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
}

#[test]
fn columns_made_of_a_digest_are_inexact() -> Result<()> {
    let inexact = |sql: &str| -> Result<(Vec<bool>, bool)> {
        let found = View::compile("w", sql, &topic())?.inexact()?;
        Ok((found.columns, found.rows))
    };
    let counted = "SELECT k, count(*) AS n, approx_percentile_cont(v, 0.5) AS p FROM ev GROUP BY k";
    assert_eq!(inexact(counted)?, (vec![false, false, true], false));
    let above = format!("SELECT p * 2 AS q, k FROM ({counted}) ORDER BY p");
    assert_eq!(inexact(&above)?, (vec![true, false], false));
    assert!(inexact(&format!("{counted} HAVING approx_median(v) > 1"))?.1);
    assert!(inexact(&format!("SELECT k FROM ({counted}) ORDER BY p LIMIT 2"))?.1);
    assert_eq!(inexact("SELECT sum(v) AS t FROM ev")?, (vec![false], false));
    Ok(())
}
