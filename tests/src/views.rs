//! Random views of the supported family.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

/// Keys by which random views group.
const KEYS: [&str; 9] = [
    "date_trunc('hour', ts)",
    "s",
    "b",
    "i16",
    "day",
    "f",
    "upper(s)",
    "coalesce(i, 0) % 5",
    "d",
];

/// Aggregates, with the name under which coverage is counted. Sketches with an error of their own
/// are not here: their answers may differ between one pass and a merge.
const AGGREGATES: [(&str, &str); 40] = [
    ("count(*)", "count(*)"),
    ("count", "count(n)"),
    ("count list", "count(list)"),
    ("sum int", "sum(i)"),
    ("sum bigint", "sum(n)"),
    ("sum decimal", "sum(d)"),
    ("sum double", "sum(f)"),
    ("avg int", "avg(i)"),
    ("avg decimal", "avg(d)"),
    ("avg double", "avg(f)"),
    ("min bigint", "min(n)"),
    ("max bigint", "max(n)"),
    ("min double", "min(f)"),
    ("max double", "max(f)"),
    ("min real", "min(f32)"),
    ("max real", "max(f32)"),
    ("min varchar", "min(s)"),
    ("max varchar", "max(s)"),
    ("min date", "min(day)"),
    ("max timestamp", "max(ts)"),
    ("min decimal", "min(d)"),
    ("min boolean", "min(b)"),
    ("bool_and", "bool_and(b)"),
    ("bool_or", "bool_or(b)"),
    ("bit_and", "bit_and(i)"),
    ("bit_or", "bit_or(i)"),
    ("bit_xor", "bit_xor(i)"),
    ("count distinct", "count(DISTINCT s)"),
    ("count distinct bigint", "count(DISTINCT n)"),
    ("sum distinct", "sum(DISTINCT i)"),
    ("approx_distinct", "approx_distinct(s)"),
    ("approx_distinct bigint", "approx_distinct(n)"),
    ("median", "median(i)"),
    ("stddev", "stddev(i)"),
    ("var_pop", "var_pop(i)"),
    ("first_value", "first_value(s ORDER BY ts)"),
    ("last_value", "last_value(i)"),
    ("array_agg", "array_agg(i ORDER BY n DESC)"),
    ("string_agg", "string_agg(s, ',' ORDER BY ts)"),
    ("nth_value", "nth_value(i, 2 ORDER BY ts)"),
];

/// A random view.
#[derive(Clone, Debug)]
pub struct RandomView {
    /// Its SQL.
    pub sql: String,
    /// What it covers.
    pub covers: Vec<String>,
    /// Where it is a plain aggregation: its first key, and the same aggregates by that key alone.
    pub rolled_up: Option<String>,
    /// How many aggregates it has.
    pub aggregates: usize,
}

/// Makes a random view.
pub fn view(rng: &mut SmallRng) -> RandomView {
    let filter = match rng.random_range(0..4) {
        0 => " WHERE i IS NULL OR i > -50",
        1 => " WHERE s <> 'a'",
        _ => "",
    };
    if rng.random_bool(0.08) {
        return RandomView {
            sql: format!("SELECT s, i + 1 AS j, ts, f, list FROM facts{filter}"),
            covers: vec!["rows".into()],
            rolled_up: None,
            aggregates: 0,
        };
    }
    if rng.random_bool(0.05) {
        return RandomView {
            sql: format!("SELECT DISTINCT s, b FROM facts{filter}"),
            covers: vec!["select distinct".into()],
            rolled_up: None,
            aggregates: 0,
        };
    }
    let wanted = rng.random_range(0..3);
    let keys: Vec<&str> = KEYS.choose_multiple(rng, wanted).copied().collect();
    let mut covers = Vec::new();
    let count = rng.random_range(1..5);
    let picked: Vec<_> = AGGREGATES.choose_multiple(rng, count).copied().collect();
    let chosen: Vec<String> = picked
        .iter()
        .map(|(name, sql)| {
            let filtered = rng.random_bool(0.2);
            covers.push(format!("{name}{}", if filtered { " filter" } else { "" }));
            match filtered {
                true => format!("{sql} FILTER (WHERE b)"),
                false => (*sql).to_owned(),
            }
        })
        .collect();
    let select = |keys: &[&str]| {
        let keys = keys.iter().enumerate().map(|(i, k)| format!("{k} AS k{i}"));
        let aggregates = chosen
            .iter()
            .enumerate()
            .map(|(i, a)| format!("{a} AS a{i}"));
        keys.chain(aggregates).collect::<Vec<_>>().join(", ")
    };
    let group = |keys: &[&str]| match keys.len() {
        0 => String::new(),
        n => format!(
            " GROUP BY {}",
            (1..=n)
                .map(|i| i.to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    let plain = format!(
        "SELECT {} FROM facts{filter}{}",
        select(&keys),
        group(&keys)
    );
    let (sql, rolled_up) = match rng.random_range(0..6) {
        0 => (format!("{plain} HAVING count(*) > 1"), None),
        1 => {
            covers.push("above".into());
            (format!("SELECT count(*) AS groups FROM ({plain})"), None)
        }
        _ if !keys.is_empty() => {
            let one = &keys[..1];
            let rolled = format!("SELECT {} FROM facts{filter}{}", select(one), group(one));
            (plain, Some(rolled))
        }
        _ => (plain, None),
    };
    RandomView {
        sql,
        covers,
        rolled_up,
        aggregates: count,
    }
}

/// The same view over fewer facts, so that its states look alike; `None` where it has a filter.
pub fn narrowed(view: &RandomView) -> Option<RandomView> {
    let narrow = |sql: &String| {
        let with = sql.replacen("FROM facts", "FROM facts WHERE i IS NULL OR i > 0", 1);
        (!sql.contains("FROM facts WHERE")).then_some(with)
    };
    Some(RandomView {
        sql: narrow(&view.sql)?,
        rolled_up: view.rolled_up.as_ref().and_then(narrow),
        ..view.clone()
    })
}
