//! `combine` as a matrix: every class of aggregate × how it is grouped × how it is filtered × what
//! stands beside it × where the states lie, each answer beside the same aggregate over the facts, by
//! the engine alone.
//!
//! A run takes so many combinations that every pair of choices is there; `ANABRANCH_COMBINE_ALL=1`
//! takes all of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anabranch_batch::{BatchOptions, rebuild, refresh};
use anabranch_jobs::work::compare::{Tolerance, compare};
use anabranch_serving::{ServingOptions, SqlService};
use anabranch_shared::view::View;
use anabranch_shared::{
    FoldOptions, FoldProgress, Generation, Landing, Log, Master, Met, Offset, OffsetRange, Offsets,
    PartitionId, Pin, Pinner, ReadMode, Relation, Topic, ViewPin,
};
use anabranch_speed::{Following, follow_log};
use anabranch_tests::skip::skipped;
use anabranch_tests::{facts, places};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

const NOW: i64 = facts::NOW_US / 1_000;

/// The aggregates that views are known to split, as the list of what was tried says them.
const LIST: &str = "count, sum, min, max, avg (also decimal), stddev, var, corr, covar, regr_slope, bool_and, bit_xor, count/sum/avg(DISTINCT), approx_distinct, approx_percentile_cont, approx_median, median, percentile_cont, first/last/nth_value, array_agg and string_agg with ORDER BY, FILTER, any_value";

/// An aggregate.
struct Class {
    /// Its entry in [`LIST`].
    listed: &'static str,
    /// As a view has it.
    view: &'static str,
    /// The same where a plain query says in which order facts come.
    plain: &'static str,
    /// A FILTER of its own, in the view and in the plain query.
    only: (Option<&'static str>, Option<&'static str>),
}

const fn same(listed: &'static str, sql: &'static str) -> Class {
    ordered(listed, sql, sql)
}

const fn ordered(listed: &'static str, view: &'static str, plain: &'static str) -> Class {
    Class {
        listed,
        view,
        plain,
        only: (None, None),
    }
}

const CLASSES: [Class; 38] = [
    same("count", "count(*)"),
    same("count", "count(i)"),
    same("sum", "sum(i)"),
    same("sum", "sum(d)"),
    same("sum", "sum(i / 8.0)"),
    same("min", "min(i)"),
    same("min", "min(ts)"),
    same("max", "max(s)"),
    same("max", "max(i / 8.0)"),
    same("avg (also decimal)", "avg(i)"),
    same("avg (also decimal)", "avg(d)"),
    same("stddev", "stddev(i)"),
    same("var", "var_pop(i)"),
    same("corr", "corr(i, i16)"),
    same("covar", "covar_samp(i, i16)"),
    same("regr_slope", "regr_slope(i, i16)"),
    same("bool_and", "bool_and(b)"),
    same("bit_xor", "bit_xor(i)"),
    same("count/sum/avg(DISTINCT)", "count(DISTINCT s)"),
    same("count/sum/avg(DISTINCT)", "count(DISTINCT list)"),
    same("count/sum/avg(DISTINCT)", "sum(DISTINCT i)"),
    same("count/sum/avg(DISTINCT)", "avg(DISTINCT i / 8.0)"),
    same("approx_distinct", "approx_distinct(s)"),
    same("approx_distinct", "approx_distinct(i)"),
    same(
        "approx_percentile_cont",
        "approx_percentile_cont(i / 8.0, 0.75)",
    ),
    same("approx_median", "approx_median(i / 8.0)"),
    same("median", "median(i)"),
    same("percentile_cont", "percentile_cont(i / 8.0, 0.25)"),
    ordered(
        "first/last/nth_value",
        "first_value(i ORDER BY ts)",
        "first_value(i ORDER BY ts, _partition, _offset)",
    ),
    ordered(
        "first/last/nth_value",
        "last_value(s)",
        "last_value(s ORDER BY _partition, _offset)",
    ),
    ordered(
        "first/last/nth_value",
        "nth_value(i, 2 ORDER BY ts)",
        "nth_value(i, 2 ORDER BY ts, _partition, _offset)",
    ),
    ordered(
        "array_agg",
        "array_agg(i ORDER BY ts)",
        "array_agg(i ORDER BY ts, _partition, _offset)",
    ),
    ordered(
        "string_agg with ORDER BY",
        "string_agg(s, ',' ORDER BY ts DESC)",
        "string_agg(s, ',' ORDER BY ts DESC, _partition, _offset)",
    ),
    Class {
        only: (Some("b"), Some("b")),
        ..same("FILTER", "count(*)")
    },
    Class {
        only: (Some("b"), Some("b")),
        ..same("FILTER", "avg(i)")
    },
    Class {
        only: (Some("i > 1000"), Some("i > 1000")),
        ..same("FILTER", "min(i)")
    },
    Class {
        only: (Some("b"), Some("b")),
        ..same("FILTER", "count(DISTINCT i)")
    },
    Class {
        only: (None, Some("s IS NOT NULL")),
        ..ordered(
            "any_value",
            "any_value(s)",
            "first_value(s ORDER BY _partition, _offset)",
        )
    },
];

impl Class {
    fn view(&self) -> String {
        filtered(self.view, &[self.only.0])
    }

    fn plain(&self, filter: Option<&str>) -> String {
        filtered(self.plain, &[self.only.1, filter])
    }

    /// How far answers may be apart: a digest that is merged is another one than one of all facts.
    fn tolerance(&self) -> f64 {
        match self.listed {
            "approx_percentile_cont" | "approx_median" => 2.0,
            _ => 1e-6,
        }
    }
}

fn filtered(aggregate: &str, filters: &[Option<&str>]) -> String {
    let filters: Vec<&str> = filters.iter().copied().flatten().collect();
    match filters.is_empty() {
        true => aggregate.to_owned(),
        false => format!("{aggregate} FILTER (WHERE {})", filters.join(" AND ")),
    }
}

/// How an aggregate is grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grouping {
    Key,
    Expression,
    Global,
    GlobalOverNothing,
}

/// What of the view's rows counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    None,
    Key,
    Value,
    InsideOnKey,
    InsideOnValue,
    Having,
}

/// What else the query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Count,
    AnotherCombine,
}

/// Where the view's states lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum States {
    Delta,
    Absorbed,
    Both,
    Rebuilt,
}

const GROUPINGS: [Grouping; 4] = [
    Grouping::Key,
    Grouping::Expression,
    Grouping::Global,
    Grouping::GlobalOverNothing,
];

const FILTERS: [Filter; 6] = [
    Filter::None,
    Filter::Key,
    Filter::Value,
    Filter::InsideOnKey,
    Filter::InsideOnValue,
    Filter::Having,
];

const BESIDES: [Beside; 3] = [Beside::Nothing, Beside::Count, Beside::AnotherCombine];

const STATES: [States; 4] = [
    States::Delta,
    States::Absorbed,
    States::Both,
    States::Rebuilt,
];

/// A combination: a place in each of the lists above.
type Combination = [usize; 5];

const SIZES: Combination = [
    CLASSES.len(),
    GROUPINGS.len(),
    FILTERS.len(),
    BESIDES.len(),
    STATES.len(),
];

fn all() -> Vec<Combination> {
    let mut all = vec![[0; 5]];
    for (at, size) in SIZES.into_iter().enumerate() {
        let longer = all.iter().flat_map(|c| {
            (0..size).map(move |choice| {
                let mut longer = *c;
                longer[at] = choice;
                longer
            })
        });
        all = longer.collect();
    }
    all
}

/// So many combinations that each pair of choices is in one of them.
fn pairwise() -> Vec<Combination> {
    let mut shuffled = all();
    shuffled.shuffle(&mut SmallRng::seed_from_u64(1));
    let mut seen = BTreeSet::new();
    shuffled.retain(|combination| {
        let pairs = (0..5).flat_map(|a| (0..a).map(move |b| (a, b)));
        let new: Vec<_> = pairs
            .map(|(a, b)| (a, combination[a], b, combination[b]))
            .filter(|pair| !seen.contains(pair))
            .collect();
        let is_new = !new.is_empty();
        seen.extend(new);
        is_new
    });
    shuffled
}

/// The query over the view, and the same over the facts.
fn queries(combination: Combination) -> (String, String) {
    let [class, grouping, filter, beside, _] = combination;
    let (grouping, filter, beside) = (GROUPINGS[grouping], FILTERS[filter], BESIDES[beside]);
    let condition = match filter {
        Filter::Key | Filter::InsideOnKey => Some("g >= 0"),
        Filter::Value | Filter::InsideOnValue => Some("members >= 6"),
        Filter::None | Filter::Having => None,
    };
    let is_where = matches!(filter, Filter::Key | Filter::Value);
    let (where_, inside) = match is_where {
        true => (condition, None),
        false => (None, condition),
    };
    let nothing = (grouping == Grouping::GlobalOverNothing).then_some("g > 100");
    let wheres: Vec<&str> = where_.into_iter().chain(nothing).collect();
    let wheres = match wheres.is_empty() {
        true => String::new(),
        false => format!(" WHERE {}", wheres.join(" AND ")),
    };
    let (key, group) = match grouping {
        Grouping::Key => ("k, ", " GROUP BY k"),
        Grouping::Expression => ("coalesce(g, 0) % 2 AS e, ", " GROUP BY 1"),
        Grouping::Global | Grouping::GlobalOverNothing => ("", ""),
    };
    let having = |sql: &str| match filter {
        Filter::Having => format!(" HAVING {sql} > 40"),
        _ => String::new(),
    };
    let other = other(class);
    let (of_view, of_facts) = match beside {
        Beside::Nothing => (String::new(), String::new()),
        Beside::Count => (
            ", count(*) AS of_view".to_owned(),
            ", count(*) FILTER (WHERE nth = 1) AS of_view".to_owned(),
        ),
        Beside::AnotherCombine => (
            format!(", combine(a{other}) AS y"),
            format!(", {} AS y", CLASSES[other].plain(None)),
        ),
    };
    let combine = filtered(&format!("combine(a{class})"), &[inside]);
    let view = format!(
        "SELECT {key}{combine} AS x{of_view} FROM v{wheres}{group}{}",
        having("combine(members)")
    );
    let plain = format!(
        "SELECT {key}{} AS x{of_facts} FROM ({GROUPED}){wheres}{group}{}",
        CLASSES[class].plain(inside),
        having("count(*)")
    );
    (view, plain)
}

/// The class whose `combine` stands beside a class's.
fn other(class: usize) -> usize {
    (class + 7) % CLASSES.len()
}

fn tolerance([class, _, _, beside, _]: Combination) -> f64 {
    let asked = match BESIDES[beside] {
        Beside::AnotherCombine => vec![class, other(class)],
        Beside::Nothing | Beside::Count => vec![class],
    };
    let bounds = asked.iter().map(|&class| CLASSES[class].tolerance());
    bounds.fold(0.0, f64::max)
}

/// Facts with what is known of their row of the view: its keys, how many facts it counts, and which
/// of them is the first.
const GROUPED: &str = "SELECT *, s AS k, i16 AS g, count(*) OVER (PARTITION BY s, i16) AS members, row_number() OVER (PARTITION BY s, i16 ORDER BY _partition, _offset) AS nth FROM facts";

fn view_sql() -> String {
    let classes = CLASSES.iter().enumerate();
    let classes: Vec<String> = classes
        .map(|(i, c)| format!("{} AS a{i}", c.view()))
        .collect();
    format!(
        "SELECT s AS k, i16 AS g, count(*) AS members, {} FROM facts GROUP BY 1, 2",
        classes.join(", ")
    )
}

#[derive(Debug)]
struct NoPins;

#[async_trait::async_trait]
impl Pinner for NoPins {
    async fn relations(&self) -> anabranch_shared::Result<Vec<Relation>> {
        Ok(Vec::new())
    }

    async fn pin(&self, _: &[String], _: ReadMode) -> anabranch_shared::Result<Pin> {
        Ok(Pin::default())
    }
}

/// The same facts behind pins of each kind.
struct Bench {
    service: SqlService,
    plain: SessionContext,
    pins: [Pin; STATES.len()],
    _dir: tempfile::TempDir,
}

fn batch_options() -> BatchOptions {
    BatchOptions {
        like: Default::default(),
        threads: 2,
        memory_bytes: 1 << 30,
        stop: Arc::new(AtomicBool::new(false)),
        progress: Arc::new(FoldProgress::default()),
    }
}

/// Lands facts of two partitions.
async fn land(log: &Log, topic: &Topic, seed: u64) -> anyhow::Result<Vec<RecordBatch>> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut landing = Landing::default();
    for partition in [PartitionId(0), PartitionId(1)] {
        let first = log.head().get(partition);
        let (batch, end) = facts::facts(&mut rng, topic, partition, first, 100)?;
        landing
            .ranges
            .push((partition, OffsetRange::new(first, end)));
        landing.facts.push(batch);
    }
    log.land(&landing, NOW).await?;
    log.refresh().await?;
    Ok(landing.facts)
}

/// A pin of what the master view holds, with the rest in the delta.
async fn pin(log: &Arc<Log>, master: &Arc<Master>, absorbed: bool) -> anyhow::Result<Pin> {
    let (boundary, files) = match absorbed {
        true => {
            master.refresh().await?;
            let pin = master.pin();
            (pin.boundary, pin.files)
        }
        false => (Offsets::default(), Vec::new()),
    };
    let head = log.head();
    let following = Following::unbounded(FoldOptions {
        threads: 2,
        memory_bytes: usize::MAX,
        stop: Arc::new(AtomicBool::new(false)),
        progress: Arc::new(FoldProgress::default()),
    });
    // Two pieces of each partition, unless there is nothing between.
    let mut middle = Offsets::default();
    for (p, end) in head.iter() {
        let start = boundary.get(p).0;
        middle.set(p, Offset(start + (end.0 - start) / 2));
    }
    let mut delta = Vec::new();
    for (from, to) in [(&boundary, &middle), (&middle, &head)] {
        let pieces = follow_log(log, master, from, to, &following).await?;
        delta.extend(pieces.iter().flat_map(|p| p.parts.clone()));
    }
    let view = ViewPin {
        view: master.view().clone(),
        generation: master.generation(),
        boundary,
        head,
        root: master.table().root().clone(),
        files,
        delta,
        met: Met::default(),
    };
    let mut pin = Pin::default();
    pin.views.insert("v".into(), view);
    Ok(pin)
}

async fn bench() -> anyhow::Result<Bench> {
    let (dir, storage) = places::storage()?;
    let topic = facts::topic()?;
    let view = Arc::new(View::compile("v", &view_sql(), &topic)?);
    let log = Arc::new(Log::open(&storage, &topic, NOW).await?);
    let master = Arc::new(Master::open(&storage, &view, Generation(1), NOW).await?);
    let mut all = land(&log, &topic, 1).await?;
    refresh(&master, &log, &log.head(), &batch_options(), || NOW).await?;
    all.extend(land(&log, &topic, 2).await?);
    let delta = pin(&log, &master, false).await?;
    let both = pin(&log, &master, true).await?;
    refresh(&master, &log, &log.head(), &batch_options(), || NOW).await?;
    let absorbed = pin(&log, &master, true).await?;
    rebuild(&master, &log, &log.head(), &batch_options(), || NOW).await?;
    let rebuilt = pin(&log, &master, true).await?;
    let counts = |pin: &Pin| {
        let view = &pin.views["v"];
        (view.files.is_empty(), view.delta.is_empty())
    };
    let shapes = [&delta, &absorbed, &both, &rebuilt].map(counts);
    let expected = [(true, false), (false, true), (false, false), (false, true)];
    anyhow::ensure!(shapes == expected, "the states lie elsewhere: {shapes:?}");
    let plain = SessionContext::new();
    let table = MemTable::try_new(topic.schema(), vec![all])?;
    plain.register_table("facts", Arc::new(table))?;
    let options = ServingOptions {
        memory_bytes: 1 << 30,
        threads: 2,
        timeout: Duration::from_secs(60),
        limits: Default::default(),
        metrics: Default::default(),
        auditor: None,
    };
    Ok(Bench {
        service: SqlService::new(Arc::new(NoPins), &storage, options)?,
        plain,
        pins: [delta, absorbed, both, rebuilt],
        _dir: dir,
    })
}

impl Bench {
    async fn ask(&self, sql: &str, pin: &Pin) -> anyhow::Result<(SchemaRef, Vec<RecordBatch>)> {
        let answer = self.service.query_on(sql, pin, ReadMode::Merged).await?;
        let schema = answer.schema.clone();
        let rows = datafusion::physical_plan::common::collect(answer.stream).await?;
        Ok((schema, rows))
    }

    /// What is wrong with the answer of a combination.
    async fn check(&self, combination: Combination) -> anyhow::Result<()> {
        let (view, plain) = queries(combination);
        let (schema, found) = self.ask(&view, &self.pins[combination[4]]).await?;
        let expected = self.plain.sql(&plain).await?.collect().await?;
        let tolerance = Tolerance {
            relative: 1e-9,
            absolute: tolerance(combination),
        };
        let compared = compare(&schema, &expected, &found, tolerance)?;
        anyhow::ensure!(
            compared.is_equal(),
            "{} of {} rows differ:\n{}\n{plain}",
            compared.differences,
            compared.rows,
            compared.examples.join("\n")
        );
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn combine_answers_as_the_aggregate_over_the_facts() -> anyhow::Result<()> {
    let bench = bench().await?;
    let combinations = match std::env::var_os("ANABRANCH_COMBINE_ALL") {
        Some(_) => all(),
        None => pairwise(),
    };
    let mut wrong = Vec::new();
    for combination in &combinations {
        if let Err(e) = bench.check(*combination).await {
            let states = STATES[combination[4]];
            wrong.push(format!("{}\n  {states:?}: {e}", queries(*combination).0));
        }
    }
    println!("{} combinations", combinations.len());
    let shown: Vec<&str> = wrong.iter().take(10).map(String::as_str).collect();
    anyhow::ensure!(
        wrong.is_empty(),
        "{} of {} combinations are wrong:\n{}",
        wrong.len(),
        combinations.len(),
        shown.join("\n")
    );
    Ok(())
}

/// The entries of a list of aggregates.
fn entries(list: &str) -> BTreeSet<&str> {
    list.split(", ").flat_map(|e| e.split(" and ")).collect()
}

#[test]
fn every_listed_aggregate_is_in_the_matrix() -> anyhow::Result<()> {
    let covered: BTreeSet<&str> = CLASSES.iter().map(|c| c.listed).collect();
    assert_eq!(covered, entries(LIST), "the list and the matrix differ");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/COMPONENTS.md");
    let Ok(text) = std::fs::read_to_string(&path) else {
        skipped("the list of aggregates is not beside the repository");
        return Ok(());
    };
    let tried = text.split_once("Covered: ").map(|(_, rest)| rest);
    let tried = tried.and_then(|rest| Some(rest.split_once(".\n")?.0));
    assert_eq!(
        tried.map(entries),
        Some(entries(LIST)),
        "the list of what was tried has changed; so must the matrix"
    );
    Ok(())
}

#[test]
fn every_pair_of_choices_is_taken() {
    let taken = pairwise();
    for a in 0..5 {
        for b in 0..a {
            let pairs: BTreeSet<_> = taken.iter().map(|c| (c[a], c[b])).collect();
            assert_eq!(pairs.len(), SIZES[a] * SIZES[b]);
        }
    }
}
