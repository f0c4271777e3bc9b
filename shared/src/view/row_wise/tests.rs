//! Which rows a SELECT makes of each fact, and what is refused.

#![expect(clippy::unwrap_used, reason = "tests")]

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::util::display::array_value_to_string;

use super::*;
use crate::topic::OFFSET;
use crate::view::tests::{Fact, batch, n, topic};

/// The rows of some facts, each with the offset of its fact.
async fn rows(sql: &str, facts: &[Fact]) -> Result<Vec<(i64, Vec<String>)>> {
    let topic = topic(&[]);
    let step = RowWise::compile("x", sql, &topic, &[])?;
    let rows = step.rows(&batch(&topic, 7, facts)?).await?;
    let offsets = rows.column_by_name(OFFSET).unwrap();
    let offsets = offsets.as_primitive::<Int64Type>().clone();
    let schema = rows.schema();
    let kept: Vec<usize> = (0..rows.num_columns())
        .filter(|c| !schema.field(*c).name().starts_with('_'))
        .collect();
    let text = |row, column: &usize| array_value_to_string(rows.column(*column), row).unwrap();
    let of = |row| {
        let values = kept.iter().map(|column| text(row, column)).collect();
        (offsets.value(row), values)
    };
    Ok((0..rows.num_rows()).map(of).collect())
}

fn said(of: Vec<(i64, Vec<&str>)>) -> Vec<(i64, Vec<String>)> {
    let text = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect();
    of.into_iter().map(|(o, v)| (o, text(v))).collect()
}

fn words(s: &'static str) -> Fact {
    Fact { s: Some(s), ..n(1) }
}

#[tokio::test]
async fn rows_know_the_fact_that_they_are_made_of() {
    let facts = [n(1), n(-2), n(3)];
    let found = rows("SELECT n * 2 AS twice FROM facts WHERE n > 0", &facts).await;
    assert_eq!(found.unwrap(), said(vec![(7, vec!["2"]), (9, vec!["6"])]));
    let nested =
        "SELECT t.twice + 1 AS odd FROM (SELECT n * 2 AS twice FROM facts) AS t WHERE twice < 6";
    let found = rows(nested, &facts).await.unwrap();
    assert_eq!(found, said(vec![(7, vec!["3"]), (8, vec!["-3"])]));
    let none = rows("SELECT n FROM facts WHERE n > 100", &facts).await;
    assert!(none.unwrap().is_empty());
    let none = rows("SELECT n FROM facts", &[]).await;
    assert!(none.unwrap().is_empty());
}

#[tokio::test]
async fn a_fact_may_become_several_rows_and_none() {
    let facts = [words("a b"), words(""), words("c"), Fact::default()];
    let sql = "SELECT unnest(string_to_array(s, ' ')) AS word, n FROM facts WHERE s <> ''";
    let found = rows(sql, &facts).await.unwrap();
    let wanted = vec![
        (7, vec!["a", "1"]),
        (7, vec!["b", "1"]),
        (9, vec!["c", "1"]),
    ];
    assert_eq!(found, said(wanted));
    let above = "SELECT upper(word) AS word FROM (SELECT unnest(string_to_array(s, ' ')) AS word FROM facts) WHERE word <> 'a'";
    let found = rows(above, &[words("a b"), words("a"), words("c")]).await;
    assert_eq!(found.unwrap(), said(vec![(7, vec!["B"]), (9, vec!["C"])]));
}

#[test]
fn what_takes_more_than_one_fact_is_refused() {
    let told = [
        ("SELECT count(*) FROM facts", "aggregates"),
        ("SELECT DISTINCT s FROM facts", "aggregates"),
        ("SELECT s FROM facts ORDER BY s", "ORDER BY"),
        ("SELECT s FROM facts LIMIT 3", "LIMIT"),
        ("SELECT row_number() OVER () FROM facts", "window"),
        ("SELECT now(), s FROM facts", "now"),
        ("SELECT s FROM fact", "fact"),
        ("SELECT a.s FROM facts a JOIN facts b ON a.s = b.s", "join"),
    ];
    for (sql, says) in told {
        let error = RowWise::compile("x", sql, &topic(&[]), &[]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("step `x`: ") && text.contains(says),
            "{sql}: {text}"
        );
    }
}

#[tokio::test]
async fn what_fails_on_a_fact_is_an_error() {
    let error = rows("SELECT 1 / n AS x FROM facts", &[n(1), n(0)])
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("step `x`: "), "{error}");
}
