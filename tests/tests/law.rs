//! The law: `finish(master(v, [low, b)) ⊕ delta(v, [b, h))) = v(facts [low, h))`, for random facts,
//! random views, random landings, boundaries, refreshes, rebuilds and restarts.
//!
//! `ANABRANCH_LAW_CASES` sets how many cases run, `ANABRANCH_LAW_SEED` the first seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anabranch_batch::{BatchOptions, merge_small_runs, rebuild, refresh};
use anabranch_jobs::compare::{Tolerance, compare};
use anabranch_serving::{ServingOptions, SqlService};
use anabranch_shared::view::{View, planning_session};
use anabranch_shared::{
    FoldOptions, FoldProgress, Generation, Landing, Log, Master, OffsetRange, Offsets, PartitionId,
    Pin, Pinner, ReadMode, Relation, Storage, Topic, ViewPin,
};
use anabranch_speed::follow_log;
use anabranch_tests::views::RandomView;
use anabranch_tests::{facts, places, views};
use arrow::array::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::prelude::DataFrame;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const NOW: i64 = 1_700_000_000_000;

/// Cases of the normal run.
const CASES: u64 = 2_000;

/// What the cases went through.
#[derive(Default)]
struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    fn count(&mut self, what: &str) {
        *self.0.entry(what.to_owned()).or_default() += 1;
    }
}

/// Pins are made by hand here.
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

struct Case<'a> {
    rng: SmallRng,
    storage: Storage,
    topic: Topic,
    log: Arc<Log>,
    master: Arc<Master>,
    random: RandomView,
    /// All facts that landed, and the heads after each landing.
    landed: Vec<RecordBatch>,
    service: SqlService,
    coverage: &'a mut Coverage,
}

fn batch_options(memory_bytes: u64) -> BatchOptions {
    BatchOptions {
        threads: 2,
        memory_bytes,
        stop: Arc::new(AtomicBool::new(false)),
        progress: Arc::new(FoldProgress::default()),
    }
}

fn fold_options() -> FoldOptions {
    FoldOptions {
        threads: 2,
        memory_bytes: usize::MAX,
        stop: Arc::new(AtomicBool::new(false)),
        progress: Arc::new(FoldProgress::default()),
    }
}

impl<'a> Case<'a> {
    async fn new(
        seed: u64,
        coverage: &'a mut Coverage,
    ) -> anyhow::Result<(tempfile::TempDir, Self)> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (dir, storage) = places::storage()?;
        let topic = facts::topic()?;
        let random = views::view(&mut rng);
        random.covers.iter().for_each(|c| coverage.count(c));
        let view = Arc::new(View::compile("v", &random.sql, &topic)?);
        let log = Arc::new(Log::open(&storage, &topic, NOW).await?);
        let master = Arc::new(Master::open(&storage, &view, Generation(1), NOW).await?);
        let options = ServingOptions {
            memory_bytes: 1 << 30,
            threads: rng.random_range(1..4),
            timeout: Duration::from_secs(60),
        };
        let service = SqlService::new(Arc::new(NoPins), &storage, options)?;
        let case = Self {
            rng,
            storage,
            topic,
            log,
            master,
            random,
            landed: Vec::new(),
            service,
            coverage,
        };
        Ok((dir, case))
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.rng.random_range(2..9) {
            self.step().await?;
            if self.rng.random_bool(0.4) {
                self.check().await?;
            }
        }
        self.check().await
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        match self.rng.random_range(0..10) {
            0..=4 => self.land().await,
            5..=6 => {
                self.coverage.count("event: refresh");
                let options = batch_options(1 << 30);
                refresh(&self.master, &self.log, &self.log.head(), &options, || NOW).await?;
                Ok(())
            }
            7 => {
                self.coverage.count("event: rebuild");
                // A small bound of memory makes many units; a late end makes straddled runs.
                let memory = if self.rng.random_bool(0.5) {
                    1
                } else {
                    1 << 30
                };
                let options = batch_options(memory);
                rebuild(&self.master, &self.log, &self.log.head(), &options, || NOW).await?;
                Ok(())
            }
            8 => {
                self.coverage.count("event: merge runs");
                merge_small_runs(&self.master, &batch_options(1 << 30), NOW).await?;
                Ok(())
            }
            _ => self.restart().await,
        }
    }

    async fn land(&mut self) -> anyhow::Result<()> {
        self.coverage.count("event: landing");
        let mut landing = Landing::default();
        let head = self.log.head();
        for p in 0..self.rng.random_range(1..3) {
            let partition = PartitionId(p);
            let first = head.get(partition);
            let rows = self.rng.random_range(0..30);
            let (batch, end) = facts::facts(&mut self.rng, &self.topic, partition, first, rows)?;
            if first == end {
                continue;
            }
            landing
                .ranges
                .push((partition, OffsetRange::new(first, end)));
            landing.facts.push(batch);
        }
        if landing.ranges.is_empty() {
            return Ok(());
        }
        self.log.land(&landing, NOW).await?;
        self.landed.extend(landing.facts);
        Ok(())
    }

    async fn restart(&mut self) -> anyhow::Result<()> {
        self.coverage.count("event: restart");
        if self.rng.random_bool(0.3) {
            self.coverage.count("event: checkpoint");
            self.log.table().write_checkpoint().await?;
            self.master.table().write_checkpoint().await?;
        }
        let view = Arc::new(View::from_definition("v", self.master.view().definition())?);
        self.log = Arc::new(Log::open(&self.storage, &self.topic, NOW).await?);
        self.master = Arc::new(Master::open(&self.storage, &view, Generation(1), NOW).await?);
        Ok(())
    }

    /// The view at the log's head: a delta of pieces cut at a random place.
    async fn pin(&mut self) -> anyhow::Result<ViewPin> {
        let pin = self.master.pin();
        let head = self.log.head();
        let mut middle = Offsets::default();
        for (p, end) in head.iter() {
            let start = pin.boundary.get(p).0;
            let cut = self.rng.random_range(start..=end.0.max(start));
            middle.set(p, anabranch_shared::Offset(cut));
        }
        let mut delta = Vec::new();
        for (from, to) in [(&pin.boundary, &middle), (&middle, &head)] {
            let pieces = follow_log(&self.log, &self.master, from, to, &fold_options()).await?;
            delta.extend(pieces.iter().map(|p| p.states.clone()));
        }
        Ok(ViewPin {
            view: self.master.view().clone(),
            generation: Generation(1),
            boundary: pin.boundary,
            head,
            root: self.master.table().root().clone(),
            files: pin.files,
            delta,
        })
    }

    async fn recompute(&self, view: &View) -> anyhow::Result<Vec<RecordBatch>> {
        let session = planning_session()?;
        let facts = MemTable::try_new(self.topic.schema(), vec![self.landed.clone()])?;
        let plan = view.recompute_plan(Arc::new(facts))?;
        Ok(DataFrame::new(session.state(), plan).collect().await?)
    }

    async fn ask(
        &self,
        sql: &str,
        pin: &ViewPin,
    ) -> anyhow::Result<(arrow::datatypes::SchemaRef, Vec<RecordBatch>)> {
        let mut all = Pin::default();
        all.views.insert("v".into(), pin.clone());
        let answer = self.service.query_on(sql, &all, ReadMode::Merged).await?;
        let schema = answer.schema.clone();
        Ok((
            schema,
            datafusion::physical_plan::common::collect(answer.stream).await?,
        ))
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        self.coverage.count("checks");
        let pin = self.pin().await?;
        let (schema, found) = self.ask("SELECT * FROM v", &pin).await?;
        let expected = self.recompute(self.master.view()).await?;
        same(&schema, &expected, &found)?;
        if let Some(rolled) = self.random.rolled_up.clone() {
            self.coverage.count("combine");
            let view = View::compile("rolled", &rolled, &self.topic)?;
            let columns: Vec<String> = (0..self.random.aggregates)
                .map(|i| format!("combine(a{i}) AS a{i}"))
                .collect();
            let filter = if self.rng.random_bool(0.3) {
                " WHERE a0 IS NOT NULL OR true"
            } else {
                ""
            };
            let sql = format!(
                "SELECT k0, {} FROM v{filter} GROUP BY k0",
                columns.join(", ")
            );
            let (schema, found) = self.ask(&sql, &pin).await?;
            let expected = self.recompute(&view).await?;
            same(&schema, &expected, &found)?;
        }
        Ok(())
    }
}

fn same(
    schema: &arrow::datatypes::SchemaRef,
    expected: &[RecordBatch],
    found: &[RecordBatch],
) -> anyhow::Result<()> {
    let tolerance = Tolerance {
        relative: 1e-9,
        absolute: 1e-6,
    };
    let compared = compare(schema, expected, found, tolerance)?;
    anyhow::ensure!(
        compared.is_equal(),
        "{} of {} rows differ:\n{}",
        compared.differences,
        compared.rows,
        compared.examples.join("\n")
    );
    Ok(())
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_law_holds() {
    let (cases, first) = (
        number("ANABRANCH_LAW_CASES", CASES),
        number("ANABRANCH_LAW_SEED", 1),
    );
    let mut coverage = Coverage::default();
    for seed in first..first + cases {
        let (_dir, mut case) = match Case::new(seed, &mut coverage).await {
            Ok(case) => case,
            Err(e) => panic!("seed {seed}: the view was refused: {e}"),
        };
        if let Err(e) = case.run().await {
            panic!(
                "ANABRANCH_LAW_SEED={seed} ANABRANCH_LAW_CASES=1 breaks the law\n{}\n{e}",
                case.random.sql
            );
        }
    }
    println!("the law held in {cases} cases, which covered:");
    for (what, times) in &coverage.0 {
        println!("  {times:>7} {what}");
    }
}
