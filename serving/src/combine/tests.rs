//! `combine` over a view of which nothing is absorbed, each answer beside the same aggregate over the
//! facts; what is refused, and with which words; and a bound of memory that is too small.

use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::settings::{FieldReads, FieldType};
use anabranch_shared::view::{View, fold_facts, planning_session};
use anabranch_shared::{
    Error, Generation, Met, OFFSET, Offsets, PARTITION, Pin, Pinner, ReadMode, Relation, Result,
    Storage, Topic, TopicField, TopicPin, ViewPin,
};
use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::compute::cast;
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use object_store::path::Path;

use crate::service::{ServingOptions, SqlService};

#[derive(Debug)]
struct NoPins;

#[async_trait::async_trait]
impl Pinner for NoPins {
    async fn relations(&self) -> Result<Vec<Relation>> {
        Ok(Vec::new())
    }

    async fn pin(&self, _: &[String], _: ReadMode) -> Result<Pin> {
        Ok(Pin::default())
    }
}

fn service(memory_bytes: usize, threads: usize) -> Result<SqlService> {
    let storage = Storage::folder(&std::env::temp_dir())?;
    let options = ServingOptions {
        memory_bytes,
        threads,
        timeout: Duration::from_secs(60),
        limits: Default::default(),
        metrics: Default::default(),
        auditor: None,
    };
    SqlService::new(Arc::new(NoPins), &storage, options)
}

fn topic(name: &str) -> Topic {
    let field = |name: &str, field_type| TopicField {
        name: name.into(),
        field_type,
        nullable: name != "ts",
        reads: FieldReads::default(),
    };
    Topic {
        name: name.into(),
        event_time: "ts".into(),
        fields: vec![
            field("ts", FieldType::Timestamp),
            field("k", FieldType::Varchar),
            field("s", FieldType::Varchar),
            field("v", FieldType::BigInt),
        ],
    }
}

type Fact = (Option<&'static str>, &'static str, Option<i64>);

/// Facts from an offset on, each a second after the one before.
fn facts(topic: &Topic, first: i64, rows: &[Fact]) -> Result<RecordBatch> {
    let at = |i: usize| first + i as i64;
    let schema = topic.schema();
    let columns = schema.fields().iter().map(|f| {
        let column: ArrayRef = match f.name().as_str() {
            "ts" => Arc::new(TimestampMicrosecondArray::from_iter_values(
                (0..rows.len()).map(|i| at(i) * 1_000_000),
            )),
            "k" => Arc::new(StringArray::from_iter(rows.iter().map(|r| r.0))),
            "s" => Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1))),
            "v" => Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.2))),
            PARTITION => Arc::new(Int32Array::from(vec![0; rows.len()])),
            OFFSET => Arc::new(Int64Array::from_iter_values((0..rows.len()).map(at))),
            "_ingested_at" => Arc::new(TimestampMicrosecondArray::from(vec![0; rows.len()])),
            _ => new_null_array(f.data_type(), rows.len()),
        };
        Ok(cast(&column, f.data_type())?)
    });
    Ok(RecordBatch::try_new(
        topic.schema(),
        columns.collect::<Result<_>>()?,
    )?)
}

/// A view whose facts came in these batches, each a piece of its delta.
fn view_pin(name: &str, sql: &str, topic: &Topic, batches: &[RecordBatch]) -> Result<ViewPin> {
    let view = Arc::new(View::compile(name, sql, topic)?);
    let pieces = batches
        .iter()
        .map(|batch| Ok(fold_facts(&view, std::slice::from_ref(batch))?.into()));
    Ok(ViewPin {
        delta: pieces.collect::<Result<_>>()?,
        view,
        generation: Generation(1),
        boundary: Offsets::default(),
        head: Offsets::default(),
        root: Path::default(),
        files: Vec::new(),
        met: Met::default(),
    })
}

const W: &str = "SELECT k, s, count(*) AS n, count(v) AS c, min(v) AS lo, sum(v) AS t, avg(v) AS a, count(DISTINCT v) AS u, count(DISTINCT s) AS us, approx_percentile_cont(v, 0.5) AS p, first_value(v ORDER BY v) AS f, array_agg(v ORDER BY v) AS l, string_agg(s, '-' ORDER BY ts) AS j, bool_and(v > 0) AS pos, max(v) AS hi, approx_distinct(v) AS x, median(v) AS m FROM ev GROUP BY k, s";

/// The aggregates of [`W`] over facts, where the order of facts is made sure of.
const AGGREGATES: [(&str, &str); 15] = [
    ("n", "count(*)"),
    ("c", "count(v)"),
    ("lo", "min(v)"),
    ("t", "sum(v)"),
    ("a", "avg(v)"),
    ("u", "count(DISTINCT v)"),
    ("us", "count(DISTINCT s)"),
    ("p", "approx_percentile_cont(v, 0.5)"),
    ("f", "first_value(v ORDER BY v)"),
    ("l", "array_agg(v ORDER BY v)"),
    ("j", "string_agg(s, '-' ORDER BY ts)"),
    ("pos", "bool_and(v > 0)"),
    ("hi", "max(v)"),
    ("x", "approx_distinct(v)"),
    ("m", "median(v)"),
];

struct World {
    pin: Pin,
    facts: Vec<RecordBatch>,
    posts: Vec<RecordBatch>,
}

fn world() -> Result<World> {
    let ev = topic("ev");
    let batches = vec![
        facts(
            &ev,
            0,
            &[
                (Some("a"), "x", Some(1)),
                (Some("a"), "x", Some(2)),
                (Some("b"), "y", Some(3)),
                (None, "x", Some(4)),
            ],
        )?,
        facts(
            &ev,
            4,
            &[
                (Some("a"), "y", Some(2)),
                (Some("b"), "y", None),
                (Some("c"), "z", None),
                (Some("a"), "x", Some(-7)),
            ],
        )?,
    ];
    let post = topic("post");
    // The author of `b` is there twice, the one of `c` is missing.
    let posts = vec![facts(
        &post,
        0,
        &[
            (Some("a"), "ann", Some(10)),
            (Some("b"), "bob", Some(20)),
            (Some("b"), "ben", Some(30)),
            (Some("d"), "dan", Some(40)),
        ],
    )?];
    let mut pin = Pin::default();
    let mut add = |name: &str, sql: &str, topic: &Topic, batches: &[RecordBatch]| {
        pin.views
            .insert(name.to_owned(), view_pin(name, sql, topic, batches)?);
        Ok::<_, Error>(())
    };
    add("w", W, &ev, &batches)?;
    let having = "SELECT k, s, sum(v) AS t, count(DISTINCT v) AS u FROM ev GROUP BY k, s HAVING count(*) > 1 ORDER BY t";
    add("having", having, &ev, &batches)?;
    let all = "SELECT count(*) AS n, count(DISTINCT v) AS u FROM ev";
    add("whole", all, &ev, &batches)?;
    let twice = "SELECT sum(d) AS total, avg(a) AS mean FROM (SELECT k, count(DISTINCT s) AS d, avg(v) AS a FROM ev GROUP BY k) AS twice";
    add("twice", twice, &ev, &batches)?;
    let latest = "SELECT k, last_value(s ORDER BY ts) AS author FROM post GROUP BY k";
    add("authors", latest, &post, &posts)?;
    pin.topics.insert(
        "post".to_owned(),
        TopicPin {
            topic: post,
            low: Offsets::default(),
            head: Offsets::default(),
            root: Path::default(),
            files: Vec::new(),
            memory: posts.clone(),
            dead_root: Path::default(),
            dead_files: Vec::new(),
            dead_memory: Vec::new(),
        },
    );
    Ok(World {
        pin,
        facts: batches,
        posts,
    })
}

impl World {
    async fn ask(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let service = service(1 << 30, 2)?;
        let answer = service.query_on(sql, &self.pin, ReadMode::Merged).await?;
        Ok(datafusion::physical_plan::common::collect(answer.stream).await?)
    }

    /// The words with which a query is refused.
    async fn refused(&self, sql: &str) -> Result<String> {
        match self.ask(sql).await {
            Err(e) => Ok(e.to_string()),
            Ok(_) => Err(Error::Internal(format!("{sql} is answered"))),
        }
    }

    /// Over the facts, by the engine alone.
    async fn plain(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let context = planning_session()?;
        for (name, batches) in [("ev", &self.facts), ("post", &self.posts)] {
            let table = MemTable::try_new(topic(name).schema(), vec![batches.clone()])?;
            context.register_table(name, Arc::new(table))?;
        }
        Ok(context.sql(sql).await?.collect().await?)
    }

    async fn same(&self, of_view: &str, of_facts: &str) -> Result<()> {
        let failed = |e: Error| Error::Internal(format!("{of_view}: {e}"));
        let found = shown(&self.ask(of_view).await.map_err(failed)?)?;
        let expected = shown(&self.plain(of_facts).await?)?;
        assert_eq!(found, expected, "{of_view}\n{of_facts}");
        Ok(())
    }
}

/// The rows of an answer as text, in order.
fn shown(batches: &[RecordBatch]) -> Result<Vec<String>> {
    let table = pretty_format_batches(batches)?.to_string();
    let rows = table.lines().filter(|l| l.starts_with('|')).skip(1);
    let mut rows: Vec<String> = rows.map(|l| l.split_whitespace().collect()).collect();
    rows.sort_unstable();
    Ok(rows)
}

/// The facts with how many facts their row of the view counts, and which is its first.
const GROUPED: &str = "(SELECT *, count(*) OVER (PARTITION BY k, s) AS n, row_number() OVER (PARTITION BY k, s ORDER BY ts) AS nth FROM ev)";

#[tokio::test]
async fn filters_are_those_that_are_written() -> Result<()> {
    let world = world()?;
    for (column, aggregate) in AGGREGATES {
        for filter in [
            "s = 'x'",
            "n >= 2",
            "n > 100",
            "k IS NULL",
            "n >= 2 AND s = 'x'",
        ] {
            for (keys, group) in [
                ("", ""),
                ("k, ", " GROUP BY k"),
                ("upper(k), ", " GROUP BY 1"),
            ] {
                world
                    .same(
                        &format!(
                            "SELECT {keys}combine({column}) FILTER (WHERE {filter}) FROM w{group}"
                        ),
                        &format!(
                            "SELECT {keys}{aggregate} FILTER (WHERE {filter}) FROM {GROUPED}{group}"
                        ),
                    )
                    .await?;
                world
                    .same(
                        &format!("SELECT {keys}combine({column}) FROM w WHERE {filter}{group}"),
                        &format!("SELECT {keys}{aggregate} FROM {GROUPED} WHERE {filter}{group}"),
                    )
                    .await?;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn other_aggregates_stand_beside() -> Result<()> {
    let world = world()?;
    let groups = "count(*) FILTER (WHERE nth = 1)";
    for (column, aggregate) in AGGREGATES {
        for (keys, group) in [
            ("", ""),
            ("k, ", " GROUP BY k"),
            ("k, s, ", " GROUP BY ROLLUP (k, s)"),
        ] {
            world
                .same(
                    &format!("SELECT {keys}combine({column}), count(*), sum(n), combine(u) AS again, max(n) FROM w{group}"),
                    &format!("SELECT {keys}{aggregate}, {groups}, sum(1), count(DISTINCT v) AS again, max(n) FROM {GROUPED}{group}"),
                )
                .await?;
            // Nothing minds here that a key is in several pieces.
            world
                .same(
                    &format!("SELECT {keys}combine({column}), sum(n), max(s), count(DISTINCT s) AS of_s FROM w{group}"),
                    &format!("SELECT {keys}{aggregate}, sum(1), max(s), count(DISTINCT s) AS of_s FROM {GROUPED}{group}"),
                )
                .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn it_stands_wherever_an_aggregate_does() -> Result<()> {
    let world = world()?;
    let pairs = [
        (
            "SELECT k, combine(u) AS u FROM w GROUP BY k HAVING combine(n) > 1 ORDER BY u",
            "SELECT k, count(DISTINCT v) AS u FROM ev GROUP BY k HAVING count(*) > 1",
        ),
        (
            "SELECT k, s, grouping(s), combine(u), combine(t) FROM w GROUP BY GROUPING SETS ((k), (s), ())",
            "SELECT k, s, grouping(s), count(DISTINCT v), sum(v) FROM ev GROUP BY GROUPING SETS ((k), (s), ())",
        ),
        (
            "SELECT k, s, combine(a), count(*) FROM w GROUP BY CUBE (k, s)",
            "SELECT k, s, avg(v), count(DISTINCT concat(coalesce(k, '-'), s)) FROM ev GROUP BY CUBE (k, s)",
        ),
        (
            "SELECT combine(t), combine(u) FROM having",
            "SELECT sum(v), count(DISTINCT v) FROM (SELECT *, count(*) OVER (PARTITION BY k, s) AS n FROM ev) WHERE n > 1",
        ),
        (
            "SELECT combine(n), combine(u) FROM whole",
            "SELECT count(*), count(DISTINCT v) FROM ev",
        ),
        (
            "SELECT combine(n), combine(u), count(*) FROM whole WHERE n > 100",
            "SELECT count(*), count(DISTINCT v), 0 FROM ev WHERE false",
        ),
        (
            "WITH d AS (SELECT k AS kk, u AS uu, n + 1 AS more FROM w WHERE s <> 'z') SELECT kk, combine(uu), max(more) FROM d GROUP BY kk",
            "SELECT k, count(DISTINCT v), max(n + 1) FROM (SELECT *, count(*) OVER (PARTITION BY k, s) AS n FROM ev) WHERE s <> 'z' GROUP BY k",
        ),
        (
            "SELECT combine(u) FROM w WHERE k IN (SELECT k FROM post)",
            "SELECT count(DISTINCT v) FROM ev WHERE k IN (SELECT k FROM post)",
        ),
        (
            "SELECT sum(u) FROM (SELECT k, combine(u) AS u FROM w GROUP BY k)",
            "SELECT sum(u) FROM (SELECT k, count(DISTINCT v) AS u FROM ev GROUP BY k)",
        ),
        (
            "SELECT total, mean FROM twice",
            "SELECT sum(d), avg(a) FROM (SELECT k, count(DISTINCT s) AS d, avg(v) AS a FROM ev GROUP BY k)",
        ),
    ];
    for (of_view, of_facts) in pairs {
        world.same(of_view, of_facts).await?;
    }
    Ok(())
}

#[tokio::test]
async fn it_goes_through_joins_that_meet_one_row() -> Result<()> {
    let world = world()?;
    let one = "(SELECT DISTINCT ON (k) k, s AS author, v AS age FROM post ORDER BY k, ts DESC)";
    let numbered = "(SELECT k, s AS author, v AS age FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY ts DESC) AS nth FROM post) WHERE nth = 1)";
    let grouped =
        "(SELECT k, last_value(s ORDER BY ts) AS author, max(v) AS age FROM post GROUP BY k)";
    let whole = "(SELECT 'b' AS k, max(s) AS author, 20 AS age FROM post)";
    for (column, aggregate) in AGGREGATES {
        for other in [
            one,
            numbered,
            grouped,
            "(SELECT k, author, 30 AS age FROM authors)",
        ] {
            for join in ["JOIN", "LEFT JOIN"] {
                let filter = "FILTER (WHERE age > 5)";
                world
                    .same(
                        &format!("SELECT author, combine({column}), sum(n) FROM w {join} {other} p USING (k) GROUP BY author"),
                        &format!("SELECT author, {aggregate}, sum(1) FROM (SELECT ev.*, author FROM ev {join} {grouped} p USING (k)) GROUP BY author"),
                    )
                    .await?;
                world
                    .same(
                        &format!("SELECT author, combine({column}) {filter}, count(*) FROM w {join} {other} p ON p.k = w.k AND p.k = 'a' GROUP BY author"),
                        &format!("SELECT author, {aggregate} {filter}, count(*) FILTER (WHERE nth = 1) FROM (SELECT g.*, author, age FROM {GROUPED} g {join} {grouped} p ON p.k = g.k AND p.k = 'a') GROUP BY author"),
                    )
                    .await?;
            }
        }
    }
    let pairs = [
        // The view on the side that may be missing.
        (
            format!("SELECT author, combine(u), combine(c) FROM {grouped} p LEFT JOIN w USING (k) GROUP BY author"),
            format!("SELECT author, count(DISTINCT v), count(v) FROM {grouped} p LEFT JOIN ev USING (k) GROUP BY author"),
        ),
        (
            format!("SELECT combine(u) FROM w, {grouped} p WHERE p.k = w.k AND author <> 'ann'"),
            format!("SELECT count(DISTINCT ev.v) FROM ev, {grouped} p WHERE p.k = ev.k AND author <> 'ann'"),
        ),
        (
            format!("SELECT combine(u), count(*) FROM w CROSS JOIN {whole} p WHERE w.k = p.k"),
            "SELECT count(DISTINCT v), count(DISTINCT s) FROM ev WHERE k = 'b'".to_owned(),
        ),
        // A row of each view meets one of the other.
        (
            "SELECT a.k, combine(a.u), combine(b.n) FROM w a JOIN w b ON a.k = b.k AND a.s = b.s GROUP BY a.k".to_owned(),
            "SELECT k, count(DISTINCT v), count(*) FROM ev WHERE k IS NOT NULL GROUP BY k".to_owned(),
        ),
        (
            "SELECT combine(u) FROM w LEFT SEMI JOIN post ON w.k = post.k".to_owned(),
            "SELECT count(DISTINCT v) FROM ev WHERE k IN (SELECT k FROM post)".to_owned(),
        ),
    ];
    for (of_view, of_facts) in pairs {
        world.same(&of_view, &of_facts).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_it_cannot_answer_is_refused_with_the_reason() -> Result<()> {
    let world = world()?;
    let several = "may meet several rows of `p`";
    let cases = [
        (
            "SELECT combine(u) FROM (SELECT * FROM w LIMIT 2)",
            "a LIMIT lies between",
        ),
        (
            "SELECT combine(u) FROM (SELECT * FROM w ORDER BY k LIMIT 2)",
            "a LIMIT lies between",
        ),
        (
            "SELECT combine(u) FROM (SELECT u, rank() OVER (ORDER BY n) FROM w)",
            "a window function lies between",
        ),
        (
            "SELECT combine(u) OVER (PARTITION BY k) FROM w",
            "stands where it can't be answered",
        ),
        (
            "SELECT combine(u) FROM (SELECT k, sum(n) AS u FROM w GROUP BY k)",
            "another aggregation lies between",
        ),
        (
            "SELECT combine(total) FROM twice",
            "another aggregation lies between",
        ),
        (
            "SELECT combine(u) FROM (SELECT DISTINCT k, u FROM w)",
            "DISTINCT lies between",
        ),
        (
            "SELECT combine(u) FROM (SELECT u FROM w UNION ALL SELECT u FROM w)",
            "a UNION lies between",
        ),
        ("SELECT combine(u + 1) FROM w", "not one aggregate"),
        (
            "SELECT combine(n2) FROM (SELECT n * 2 AS n2 FROM w)",
            "not one aggregate",
        ),
        ("SELECT combine(k) FROM w", "a key of the view"),
        ("SELECT combine(v) FROM post", "not a column of a view"),
        ("SELECT combine(DISTINCT u) FROM w", "mean nothing in it"),
        ("SELECT combine(u) FROM w JOIN post p USING (k)", several),
        (
            "SELECT combine(u) FROM w JOIN (SELECT DISTINCT k, s FROM post) p USING (k)",
            several,
        ),
        (
            "SELECT combine(u) FROM w LEFT JOIN (SELECT k, s FROM post GROUP BY k, s) p ON p.k = w.k",
            several,
        ),
        (
            "SELECT combine(w.u) FROM w JOIN (SELECT max(v) AS k, s FROM post GROUP BY s) p ON p.k = w.n",
            several,
        ),
        ("SELECT combine(w.u) FROM w, post p", several),
        // What fixes a column of `p` may not come from a relation that `p` itself fixes.
        (
            "SELECT combine(w.u) FROM w, (SELECT s, max(v) AS v FROM post GROUP BY s) p, (SELECT s, max(v) AS v FROM post GROUP BY s) q WHERE p.s = q.s",
            several,
        ),
        (
            "SELECT combine(a.u), combine(b.n) FROM w a JOIN w b ON a.k = b.k",
            "may meet several rows of `b`",
        ),
        ("SELECT sum(u) FROM w", "write `combine(u)`"),
        (
            "SELECT k, sum(u) FROM (SELECT k, u FROM w) GROUP BY k",
            "write `combine(u)`",
        ),
    ];
    for (sql, words) in cases {
        let refused = world.refused(sql).await?;
        assert!(refused.contains(words), "{sql}: {refused}");
        assert!(!refused.contains("github.com"), "{sql}: {refused}");
    }
    Ok(())
}

/// Where memory is short a key's row goes to disk in parts and comes back as one.
#[tokio::test]
async fn a_key_has_one_row_under_a_tiny_bound_of_memory() -> Result<()> {
    let ev = topic("ev");
    let names: Vec<&'static str> = (0..60_000)
        .map(|i| &*Box::leak(format!("a key that is not inlined {i}").into_boxed_str()))
        .collect();
    let rows = |v: i64| names.iter().map(move |k| (Some(*k), "x", Some(v)));
    let batches = [
        facts(&ev, 0, &rows(1).collect::<Vec<_>>())?,
        facts(&ev, 60_000, &rows(2).collect::<Vec<_>>())?,
    ];
    let sql =
        "SELECT k, s, count(*) AS n, avg(v) AS a, count(DISTINCT v) AS u FROM ev GROUP BY k, s";
    let mut pin = Pin::default();
    pin.views
        .insert("w".into(), view_pin("w", sql, &ev, &batches)?);
    let sql = "SELECT count(*) AS groups, combine(n) AS n, combine(a) AS a, combine(u) AS u, sum(n) AS of_n FROM w WHERE n > 1";
    let plenty = service(1 << 30, 2)?;
    let mut spilled = false;
    for (service, threads) in [
        (plenty, 2),
        (service(14 << 20, 1)?, 1),
        (service(20 << 20, 2)?, 2),
    ] {
        let answer = service.query_on(sql, &pin, ReadMode::Merged).await;
        let rows = match answer {
            Ok(answer) => datafusion::physical_plan::common::collect(answer.stream)
                .await
                .map_err(Error::from),
            Err(e) => Err(e),
        };
        match rows {
            Ok(rows) => {
                spilled |= threads == 1;
                assert_eq!(shown(&rows)?, ["|60000|120000|1.5|2|120000|"]);
            }
            // Less than what a spill needs is an error, never another answer.
            Err(e) => assert!(e.to_string().contains("memory"), "{e}"),
        }
    }
    assert!(spilled, "no bound was both too small and large enough");
    Ok(())
}
