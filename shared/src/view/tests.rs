//! What aggregates mean: a view's answer, merged from stored states in any order, is that of plain
//! SQL over its facts, and both are right.

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray};
use arrow::array::{Decimal128Array, TimestampMicrosecondArray, new_null_array};
use arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::DataFrame;

use super::*;
use crate::settings::{FieldReads, FieldType};
use crate::topic::{OFFSET, PARTITION};
use crate::{Error, TopicField};

/// A fact: text, number, decimal and number of floating point.
#[derive(Clone, Debug, Default)]
pub(super) struct Fact {
    pub(super) s: Option<&'static str>,
    pub(super) n: Option<i64>,
    pub(super) d: Option<i128>,
    pub(super) f: Option<f64>,
}

pub(super) fn n(n: i64) -> Fact {
    Fact {
        n: Some(n),
        ..Fact::default()
    }
}

fn d(d: i128) -> Fact {
    Fact {
        d: Some(d),
        ..Fact::default()
    }
}

fn f(f: f64) -> Fact {
    Fact {
        f: Some(f),
        ..Fact::default()
    }
}

fn s(s: &'static str) -> Fact {
    Fact {
        s: Some(s),
        ..Fact::default()
    }
}

/// The topic of these facts, with more fields before the others where they are wanted.
pub(super) fn topic(more: &[&str]) -> Topic {
    let field = |name: &str, kind: &str| TopicField {
        name: name.into(),
        field_type: kind.parse::<FieldType>().unwrap_or(FieldType::Varchar),
        nullable: true,
        reads: FieldReads::default(),
    };
    let mut fields = vec![
        field("ts", "timestamp"),
        field("s", "varchar"),
        field("n", "bigint"),
        field("d", "decimal(38,0)"),
        field("f", "double"),
    ];
    fields.extend(more.iter().map(|name| field(name, "varchar")));
    Topic {
        name: "facts".into(),
        event_time: "ts".into(),
        fields,
    }
}

/// Facts of partition 0 from an offset on.
pub(super) fn batch(topic: &Topic, first: i64, facts: &[Fact]) -> Result<RecordBatch> {
    let schema = topic.schema();
    let rows = facts.len();
    let columns = schema.fields().iter().map(|field| -> Result<ArrayRef> {
        Ok(match field.name().as_str() {
            "s" => Arc::new(StringViewArray::from_iter(facts.iter().map(|f| f.s))),
            "n" => Arc::new(Int64Array::from_iter(facts.iter().map(|f| f.n))),
            "f" => Arc::new(Float64Array::from_iter(facts.iter().map(|f| f.f))),
            "d" => {
                let decimals = Decimal128Array::from_iter(facts.iter().map(|f| f.d));
                Arc::new(decimals.with_precision_and_scale(38, 0)?)
            }
            "ts" | crate::INGESTED_AT => {
                let times = (first..).take(rows).map(|o| o * 1_000_000);
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
            }
            PARTITION => Arc::new(Int32Array::from(vec![0; rows])),
            OFFSET => Arc::new(Int64Array::from_iter_values((first..).take(rows))),
            _ => new_null_array(field.data_type(), rows),
        })
    });
    Ok(RecordBatch::try_new(
        schema.clone(),
        columns.collect::<Result<_>>()?,
    )?)
}

/// The states of each part of some facts, merged after they were at rest.
pub(super) fn merged(view: &Arc<View>, parts: &[RecordBatch]) -> Result<RecordBatch> {
    let mut fold = Fold::new(view)?;
    for part in parts {
        let states = fold_facts(view, std::slice::from_ref(part))?;
        let stored = view.codec().encode(&states)?;
        fold.states(&view.codec().decode(&stored)?)?;
    }
    if let Some(nothing) = identity_states(view)? {
        fold.states(&nothing)?;
    }
    fold.into_states()
}

/// The rows of a plan as text, sorted.
async fn rows(plan: LogicalPlan) -> Result<Vec<String>> {
    let state = planning_session()?.state();
    let batches = DataFrame::new(state, plan).collect().await?;
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter();
            let values = values.map(|column| array_value_to_string(column, row));
            rows.push(values.collect::<Result<Vec<_>, _>>()?.join("|"));
        }
    }
    rows.sort_unstable();
    Ok(rows)
}

/// The answer of merged states.
pub(super) async fn answer(view: &Arc<View>, states: &RecordBatch) -> Result<Vec<String>> {
    let leaf = view.leaf_schema();
    let columns = match view.aggregate() {
        None => states.columns().to_vec(),
        Some(split) => {
            let mut columns = states.columns()[..view.key_count()].to_vec();
            for column in split.columns() {
                let parts = &states.columns()[column.state_columns()];
                columns.push(finish_column(column, parts)?);
            }
            columns
        }
    };
    let leaf_rows = RecordBatch::try_new(leaf.clone(), columns)?;
    let table = MemTable::try_new(leaf.clone(), vec![vec![leaf_rows]])?;
    rows(view.answer_plan(Arc::new(table))?).await
}

/// The answers to a query: as a view whose facts come one by one, as a view whose facts come in
/// the other order, recomputed, and by plain SQL.
async fn answers(sql: &str, facts: &[Fact]) -> Result<[Result<Vec<String>>; 4]> {
    let topic = topic(&[]);
    let view = Arc::new(View::compile("v", sql, &topic)?);
    let parts = facts.iter().zip(0..);
    let parts = parts.map(|(fact, offset)| batch(&topic, offset, std::slice::from_ref(fact)));
    let mut parts = parts.collect::<Result<Vec<_>>>()?;
    let all = || -> Result<Arc<MemTable>> {
        let all = batch(&topic, 0, facts)?;
        let halves = (all.num_rows() / 2, all.num_rows().div_ceil(2));
        let halves = vec![
            vec![all.slice(0, halves.0)],
            vec![all.slice(halves.0, halves.1)],
        ];
        Ok(Arc::new(MemTable::try_new(topic.schema(), halves)?))
    };
    let forwards = match merged(&view, &parts) {
        Ok(states) => answer(&view, &states).await,
        Err(e) => Err(e),
    };
    parts.reverse();
    let backwards = match merged(&view, &parts) {
        Ok(states) => answer(&view, &states).await,
        Err(e) => Err(e),
    };
    let recomputed = rows(view.recompute_plan(all()?)?).await;
    let session = planning_session()?;
    session.register_table("facts", all()?)?;
    let plain = rows(session.sql(sql).await?.logical_plan().clone()).await;
    Ok([forwards, backwards, recomputed, plain])
}

async fn all_say(sql: &str, facts: &[Fact], expected: &[&str]) -> Result<()> {
    for (how, found) in answers(sql, facts).await?.into_iter().enumerate() {
        let found = found.map_err(|e| Error::Internal(format!("{sql}: {how}: {e}")))?;
        assert_eq!(found, expected, "{sql}: {how}");
    }
    Ok(())
}

async fn all_refuse(sql: &str, facts: &[Fact], because: &str) -> Result<()> {
    for (how, found) in answers(sql, facts).await?.into_iter().enumerate() {
        let text = found.map_or_else(|e| e.to_string(), |rows| format!("{rows:?}"));
        assert!(text.contains(because), "{sql}: {how}: {text}");
    }
    Ok(())
}

const NINES: i128 = 99_999_999_999_999_999_999_999_999_999_999_999_999;

/// Sums that leave their type on the way and come back are right; those that end beyond it are
/// errors that say the value.
#[tokio::test]
async fn sums_never_wrap() -> Result<()> {
    let there_and_back = [
        n(i64::MAX),
        n(1),
        n(i64::MAX),
        n(-1),
        n(i64::MIN),
        n(i64::MIN),
        n(7),
    ];
    all_say("SELECT sum(n) FROM facts", &there_and_back, &["5"]).await?;
    let beyond = "SELECT sum(n) FROM facts";
    all_refuse(beyond, &[n(i64::MAX), n(1)], "9223372036854775808").await?;
    all_refuse(beyond, &[n(i64::MIN), n(-1)], "-9223372036854775809").await?;
    let distinct = "SELECT sum(DISTINCT n), count(*) FROM facts";
    all_refuse(distinct, &[n(i64::MAX), n(1), n(1)], "9223372036854775808").await?;
    let back = [n(i64::MAX), n(1), n(1), n(-1)];
    all_say(distinct, &back, &["9223372036854775807|4"]).await?;
    let beyond = "SELECT sum(d) FROM facts";
    let doubled = "199999999999999999999999999999999999998";
    all_refuse(beyond, &[d(NINES), d(NINES)], doubled).await?;
    all_refuse(beyond, &[d(-NINES), d(-NINES)], &format!("-{doubled}")).await?;
    all_refuse(
        beyond,
        &[d(NINES), d(1)],
        "100000000000000000000000000000000000000",
    )
    .await?;
    let back = [
        d(NINES),
        d(NINES),
        d(-NINES),
        d(NINES),
        d(-NINES),
        d(-NINES),
        d(3),
    ];
    all_say(beyond, &back, &["3"]).await?;
    let narrow = "SELECT sum(CAST(n AS decimal(21, 2))) FROM facts";
    all_say(narrow, &there_and_back, &["5.00"]).await?;
    all_say("SELECT avg(d) FROM facts", &[d(4), d(9)], &["6.5000"]).await?;
    all_say("SELECT sum(n), sum(d), sum(f) FROM facts", &[], &["||"]).await
}

/// A sum that does not fit is an error of those who read it.
#[tokio::test]
async fn windows_do_not_wrap_either() -> Result<()> {
    let session = planning_session()?;
    let sql = "SELECT sum(n) OVER (ORDER BY i ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM (VALUES (1, 9223372036854775807), (2, 0), (3, -5), (4, 9223372036854775807)) AS t(i, n)";
    let expected = [
        "-5",
        "9223372036854775802",
        "9223372036854775807",
        "9223372036854775807",
    ];
    let found = rows(session.sql(sql).await?.logical_plan().clone()).await?;
    assert_eq!(found, expected);
    let beyond = sql.replace("(2, 0)", "(2, 1)");
    let found = rows(session.sql(&beyond).await?.logical_plan().clone()).await;
    let text = found.map_or_else(|e| e.to_string(), |rows| format!("{rows:?}"));
    assert!(text.contains("9223372036854775808"), "{text}");
    Ok(())
}

/// Zero is one value, whatever its sign.
#[tokio::test]
async fn zeroes_of_both_signs_count_once() -> Result<()> {
    let facts = [f(0.0), f(-0.0), f(f64::NAN), f(1.5), Fact::default()];
    let sql = "SELECT count(DISTINCT f), count(DISTINCT -f), count(DISTINCT f) FILTER (WHERE f = 0) FROM facts";
    all_say(sql, &facts, &["3|3|1"]).await?;
    all_say("SELECT count(DISTINCT f) FROM facts", &facts, &["3"]).await?;
    let sql = "SELECT f, count(*) FROM facts WHERE f = 0 GROUP BY f";
    all_say(sql, &facts, &["0.0|2"]).await?;
    let sql = "SELECT sum(DISTINCT f), count(DISTINCT CAST(f AS real)) FROM facts WHERE f < 1";
    all_say(sql, &facts, &["0.0|1"]).await
}

/// What a FILTER leaves out is not computed.
#[tokio::test]
async fn a_filter_guards_its_argument() -> Result<()> {
    let facts = [n(0), n(5), n(2), Fact::default()];
    let sql = "SELECT sum(10 / n) FILTER (WHERE n <> 0), count(*) FROM facts";
    all_say(sql, &facts, &["7|4"]).await?;
    let texts = [s("7"), s("seven"), s("35"), Fact::default()];
    let sql = "SELECT sum(CAST(s AS bigint)) FILTER (WHERE s ~ '^[0-9]+$') AS digits FROM facts";
    all_say(sql, &texts, &["42"]).await?;
    let sql = "SELECT array_agg(n ORDER BY 10 / n) FILTER (WHERE n <> 0) AS l FROM facts";
    all_say(sql, &facts, &["[5, 2]"]).await?;
    all_refuse("SELECT sum(10 / n) FROM facts", &facts, "ivision by zero").await?;
    let session = planning_session()?;
    let sql = "SELECT sum(10 / n) FILTER (WHERE n <> 0) OVER () FROM (VALUES (0), (5)) AS t(n)";
    let found = rows(session.sql(sql).await?.logical_plan().clone()).await?;
    assert_eq!(found, ["2", "2"]);
    Ok(())
}

/// One value has no spread, however large it is.
#[tokio::test]
async fn the_spread_of_one_large_value_is_none() -> Result<()> {
    let sql = "SELECT var_pop(f), stddev_pop(f), var_samp(f), stddev(f) FROM facts";
    all_say(sql, &[f(1e200)], &["0.0|0.0||"]).await?;
    let twice = [f(1e200), Fact::default(), f(1e200)];
    all_say(sql, &twice, &["0.0|0.0|0.0|0.0"]).await
}

/// Averages of the longest decimals are held in more digits than Delta has a type for.
#[tokio::test]
async fn averages_of_long_decimals_are_kept() -> Result<()> {
    let sql = "SELECT avg(CAST(n AS decimal(34, 2))) FROM facts";
    all_say(sql, &[n(1), n(2), Fact::default()], &["1.500000"]).await?;
    let large = [d(NINES / 100_000), d(NINES / 100_000)];
    let expected = "999999999999999999999999999999999.0000";
    all_say("SELECT avg(d) FROM facts", &large, &[expected]).await
}

/// A key that is always NULL has a type of its own.
#[tokio::test]
async fn a_key_of_nothing_but_null_is_kept() -> Result<()> {
    let sql = "SELECT NULL AS x, count(*) FROM facts GROUP BY 1";
    all_say(sql, &[n(1), n(2)], &["|2"]).await
}

/// Pairs are counted where both are there.
#[tokio::test]
async fn distinct_pairs_are_counted() -> Result<()> {
    let pair = |s, n| Fact {
        s: Some(s),
        n: Some(n),
        ..Fact::default()
    };
    let facts = [
        pair("a", 1),
        pair("a", 1),
        pair("b", 1),
        pair("a", 2),
        n(1),
        s("a"),
    ];
    let sql = "SELECT count(DISTINCT s, n) FROM facts";
    all_say(sql, &facts, &["3"]).await?;
    let sql = "SELECT count(DISTINCT s, n) FILTER (WHERE n = 1), count(*) FROM facts";
    all_say(sql, &facts, &["2|6"]).await
}

/// DISTINCT counts under a key too.
#[tokio::test]
async fn bit_xor_takes_each_value_once() -> Result<()> {
    let facts = [n(5), n(5), n(3), Fact::default(), n(5)];
    let sql = "SELECT bit_xor(DISTINCT n), bit_xor(n), count(*) FROM facts";
    all_say(sql, &facts, &["6|6|5"]).await?;
    let facts = [n(5), n(5), n(3), n(3)];
    let sql = "SELECT s, bit_xor(DISTINCT n), bit_xor(n) FROM facts GROUP BY s";
    all_say(sql, &facts, &["|6|0"]).await
}

/// A sample of a relation is no view, and no query.
#[test]
fn samples_are_refused() {
    let sql = "SELECT count(*) FROM facts TABLESAMPLE BERNOULLI (10)";
    let refused = View::compile("v", sql, &topic(&[])).map(|_| ());
    let text = refused.map_or_else(|e| e.to_string(), |()| String::new());
    assert!(text.contains("TABLESAMPLE"), "{text}");
    assert!(text.contains("line 1, column 22"), "{text}");
}

/// States of before a field was added are merged with those of after it.
#[tokio::test]
async fn states_outlive_a_field_that_is_added() -> Result<()> {
    let sql = "SELECT array_agg(s) AS a, string_agg(s, ',') AS b, array_agg(n ORDER BY ts DESC) AS c, nth_value(n, 2 ORDER BY ts) AS d, first_value(s) AS e FROM facts";
    let (before, after) = (topic(&[]), topic(&["author", "section"]));
    let mut after_moved = after.clone();
    after_moved.fields.rotate_right(2);
    let old = Arc::new(View::compile("v", sql, &before)?);
    let fact = |s, n| Fact {
        s: Some(s),
        n: Some(n),
        ..Fact::default()
    };
    let states = fold_facts(&old, &[batch(&before, 0, &[fact("x", 1), fact("y", 2)])?])?;
    let stored = old.codec().encode(&states)?;
    for topic in [after, after_moved] {
        let new = Arc::new(View::compile("v", sql, &topic)?);
        assert!(new.reads_format(&old.definition().state_format));
        assert_eq!(new.state_schema(), old.state_schema());
        let more = fold_facts(&new, &[batch(&topic, 2, &[fact("z", 3)])?])?;
        let mut fold = Fold::new(&new)?;
        fold.states(&new.codec().decode(&stored)?)?;
        fold.states(&more)?;
        let found = answer(&new, &fold.into_states()?).await?;
        assert_eq!(found, ["[x, y, z]|x,y,z|[3, 2, 1]|2|x"]);
    }
    Ok(())
}
