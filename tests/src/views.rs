//! Random views of the supported family.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

mod duckdb;
mod rolled;

pub use rolled::{Combined, RolledUp};

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
const AGGREGATES: [(&str, &str); 49] = [
    ("count(*)", "count(*)"),
    ("count", "count(n)"),
    ("count list", "count(list)"),
    ("sum int", "sum(i)"),
    ("sum bigint", "sum(n)"),
    // Its parts leave their type again and again.
    (
        "sum of large",
        "sum(CASE WHEN i % 2 = 0 THEN 3000000000000000000 ELSE -3000000000000000000 END)",
    ),
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
    ("count distinct double", "count(DISTINCT f)"),
    ("sum distinct", "sum(DISTINCT i)"),
    ("sum distinct bigint", "sum(DISTINCT n)"),
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
    ("max_by", "max_by(s, n)"),
    ("count_if", "count_if(b)"),
    ("mode", "mode(s)"),
    ("session_count", "session_count(ts, INTERVAL '20 minutes')"),
    (
        "session_seconds",
        "session_seconds(ts, INTERVAL '40 minutes')",
    ),
    (
        "percentile_disc",
        "percentile_disc(0.5) WITHIN GROUP (ORDER BY n)",
    ),
];

/// Keys and aggregates over fields of [`crate::facts::LATE`], each with the field.
const LATE_KEYS: [(&str, &str); 4] = [
    ("late_s", "late_s"),
    ("late_n", "coalesce(late_n, 0) % 5"),
    ("late_b", "late_b"),
    ("late_at", "date_trunc('year', late_at)"),
];
const LATE_AGGREGATES: [(&str, &str, &str); 7] = [
    ("late_s", "late count", "count(late_s)"),
    ("late_s", "late max varchar", "max(late_s)"),
    ("late_s", "late count distinct", "count(DISTINCT late_s)"),
    ("late_n", "late min bigint", "min(late_n)"),
    ("late_n", "late bit_xor", "bit_xor(late_n)"),
    ("late_b", "late bool_or", "bool_or(late_b)"),
    ("late_at", "late max timestamp", "max(late_at)"),
];

/// A random view.
#[derive(Clone, Debug)]
pub struct RandomView {
    /// Its SQL.
    pub sql: String,
    /// The same in DuckDB's dialect. A column `NAME_bound` says how far `NAME` may be from ours.
    pub duckdb: String,
    /// What it covers.
    pub covers: Vec<String>,
    /// Where it is a plain aggregation with keys: how its columns are combined.
    pub rolled_up: Option<RolledUp>,
}

impl RandomView {
    /// A view that reads the same in both dialects.
    fn plain(sql: String, covers: &str) -> Self {
        Self {
            duckdb: sql.clone(),
            sql,
            covers: vec![covers.into()],
            rolled_up: None,
        }
    }
}

/// An aggregate of a random view.
struct Picked {
    name: &'static str,
    sql: &'static str,
    filtered: bool,
}

impl Picked {
    fn covers(&self) -> String {
        format!(
            "{}{}",
            self.name,
            if self.filtered { " filter" } else { "" }
        )
    }

    fn sql(&self) -> String {
        let filter = if self.filtered {
            " FILTER (WHERE b)"
        } else {
            ""
        };
        format!("{}{filter}", self.sql)
    }
}

/// An aggregation by some keys.
fn select(keys: &[&str], aggregates: &[String], filter: &str) -> String {
    let keys = keys.iter().enumerate().map(|(i, k)| format!("{k} AS k{i}"));
    let columns: Vec<String> = keys.chain(aggregates.iter().cloned()).collect();
    format!("SELECT {} FROM facts{filter}", columns.join(", "))
}

fn group_by(keys: &[&str]) -> String {
    let numbers: Vec<String> = (1..=keys.len()).map(|i| i.to_string()).collect();
    match numbers.is_empty() {
        true => String::new(),
        false => format!(" GROUP BY {}", numbers.join(", ")),
    }
}

/// An aggregation by some keys, and the same in DuckDB's dialect.
fn in_both(keys: &[&str], picked: &[Picked], filter: &str) -> (String, String) {
    let ours = picked.iter().enumerate();
    let ours: Vec<String> = ours.map(|(i, p)| format!("{} AS a{i}", p.sql())).collect();
    let theirs = picked.iter().enumerate().flat_map(|(i, p)| {
        let (value, bound) = duckdb::aggregate(p);
        let bound = bound.map(|b| format!("{b} AS a{i}_bound"));
        [format!("{value} AS a{i}")].into_iter().chain(bound)
    });
    let theirs: Vec<String> = theirs.collect();
    let their_keys: Vec<&str> = keys.iter().map(|k| duckdb::key(k)).collect();
    (
        select(keys, &ours, filter) + &group_by(keys),
        select(&their_keys, &theirs, filter) + &group_by(keys),
    )
}

/// Makes a random view.
pub fn view(rng: &mut SmallRng) -> RandomView {
    view_over(rng, &|_| false)
}

/// Makes a random view, which may be of those late fields that are `declared`.
pub fn view_over(rng: &mut SmallRng, declared: &dyn Fn(&str) -> bool) -> RandomView {
    let filter = match rng.random_range(0..8) {
        0..2 => " WHERE i IS NULL OR i > -50",
        2..4 => " WHERE s <> 'a'",
        4 if declared("late_s") => " WHERE late_s <> 'a'",
        5 if declared("late_n") => " WHERE late_n < 10",
        _ => "",
    };
    if rng.random_bool(0.08) {
        let sql = format!("SELECT s, i + 1 AS j, ts, f, list FROM facts{filter}");
        return RandomView::plain(sql, "rows");
    }
    if rng.random_bool(0.05) {
        let sql = format!("SELECT DISTINCT s, b FROM facts{filter}");
        return RandomView::plain(sql, "select distinct");
    }
    let wanted = rng.random_range(0..3);
    let mut keys: Vec<&str> = KEYS.choose_multiple(rng, wanted).copied().collect();
    let count = rng.random_range(1..5);
    let mut picked: Vec<_> = AGGREGATES.choose_multiple(rng, count).copied().collect();
    let late_keys = LATE_KEYS.iter().filter(|(field, _)| declared(field));
    let late_keys: Vec<&str> = late_keys.map(|(_, key)| *key).collect();
    if let (Some(key), Some(first)) = (late_keys.choose(rng), keys.first_mut())
        && rng.random_bool(0.5)
    {
        *first = *key;
    }
    let late = LATE_AGGREGATES.iter().filter(|(field, ..)| declared(field));
    let late: Vec<_> = late.map(|(_, name, sql)| (*name, *sql)).collect();
    if let Some(aggregate) = late.choose(rng)
        && rng.random_bool(0.7)
    {
        picked[0] = *aggregate;
    }
    let picked = picked.into_iter().map(|(name, sql)| Picked {
        name,
        sql,
        filtered: rng.random_bool(0.2),
    });
    let picked: Vec<Picked> = picked.collect();
    let mut covers: Vec<String> = picked.iter().map(Picked::covers).collect();
    let (plain, other) = in_both(&keys, &picked, filter);
    let around = |how: &dyn Fn(&str) -> String| (how(&plain), how(&other), None);
    // DuckDB has no order of its own for rows that are equal, and another one of floating point.
    let by_keys = || {
        let keys = (0..keys.len()).map(|i| format!("k{i} ASC NULLS LAST"));
        keys.collect::<Vec<_>>().join(", ")
    };
    let has_ties = !keys.is_empty() && !keys.contains(&"f");
    let (sql, duckdb, rolled_up) = match rng.random_range(0..7) {
        0 => around(&|sql| format!("{sql} HAVING count(*) > 1")),
        1 => {
            covers.push("above".into());
            around(&|sql| format!("SELECT count(*) AS groups FROM ({sql})"))
        }
        2 if has_ties && rng.random_bool(0.5) => {
            covers.push("ties at a limit".into());
            let ours = format!("SELECT * FROM ({plain}) LIMIT 3");
            let theirs = format!("SELECT * FROM ({other}) ORDER BY {} LIMIT 3", by_keys());
            (ours, theirs, None)
        }
        2 if has_ties => {
            covers.push("ties in a window".into());
            let numbered = |of: &str, ties: &str| {
                format!(
                    "SELECT *, row_number() OVER (ORDER BY k0 IS NULL{ties}) AS place FROM ({of})"
                )
            };
            let theirs = numbered(&other, &format!(", {}", by_keys()));
            (numbered(&plain, ""), theirs, None)
        }
        _ => {
            let rolled = keys.first().map(|key| RolledUp {
                key: (*key).to_owned(),
                aggregates: picked.iter().map(|p| (p.sql, p.filtered)).collect(),
                filter: filter.to_owned(),
            });
            (plain, other, rolled)
        }
    };
    RandomView {
        sql,
        duckdb,
        covers,
        rolled_up,
    }
}

/// The same view over fewer facts, so that its states look alike; `None` where it has a filter.
pub fn narrowed(view: &RandomView) -> Option<RandomView> {
    const FEWER: &str = " WHERE i IS NULL OR i > 0";
    let narrow = |sql: &String| {
        let with = sql.replacen("FROM facts", &format!("FROM facts{FEWER}"), 1);
        (!sql.contains("FROM facts WHERE")).then_some(with)
    };
    let rolled_up = view.rolled_up.clone().map(|rolled| RolledUp {
        filter: FEWER.to_owned(),
        ..rolled
    });
    Some(RandomView {
        sql: narrow(&view.sql)?,
        duckdb: narrow(&view.duckdb)?,
        rolled_up,
        ..view.clone()
    })
}

/// A view of the same facts by one of the keys alone, with some of the columns in another order: its
/// states are made of those of the other one. `None` where that one is no plain aggregation by keys.
pub fn coarser(view: &RandomView) -> Option<RandomView> {
    let of = view.rolled_up.as_ref()?;
    let plain = AGGREGATES.iter().copied();
    let late = LATE_AGGREGATES.iter().map(|(_, name, sql)| (*name, *sql));
    let named: BTreeMap<&str, &'static str> =
        plain.chain(late).map(|(name, sql)| (sql, name)).collect();
    let picked = of.aggregates.iter().skip(1).chain(of.aggregates.first());
    let picked = picked.take(of.aggregates.len().max(2) - 1);
    let picked = picked.map(|&(sql, filtered)| {
        let name = named.get(sql).copied()?;
        Some(Picked {
            name,
            sql,
            filtered,
        })
    });
    let picked: Vec<Picked> = picked.collect::<Option<_>>()?;
    let filter = match (picked.len() % 2, of.filter.as_str()) {
        (0, filter) => filter.to_owned(),
        (_, "") => format!(" WHERE {} IS NOT NULL", of.key),
        (_, filter) => format!("{filter} AND {} IS NOT NULL", of.key),
    };
    let (sql, duckdb) = in_both(&[&of.key], &picked, &filter);
    Some(RandomView {
        sql,
        duckdb,
        covers: vec!["coarser".into()],
        rolled_up: Some(RolledUp {
            aggregates: picked.iter().map(|p| (p.sql, p.filtered)).collect(),
            filter,
            ..of.clone()
        }),
    })
}
