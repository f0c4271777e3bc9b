//! Exports: after any refreshes, rebuilds, merges of runs and cut-overs the export table holds the
//! view's answer at the boundary that its commit names, and never goes back.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anabranch_batch::{
    BatchOptions, ExportOutcome, ExportWhen, export, merge_small_runs, rebuild, refresh,
};
use anabranch_jobs::project::context::Context;
use anabranch_jobs::work::build::Build;
use anabranch_shared::view::{View, planning_session};
use anabranch_shared::{
    Export, ExportStanding, FoldProgress, Generation, Landing, LateReads, Log, Master, MasterLeaf,
    Offset, OffsetRange, Offsets, PartitionId, Storage, Topic, keep_ranges, read_parquet,
};
use anabranch_tests::commands::{build, ensure_same, ingest_lines};
use anabranch_tests::process::{Process, Setup, run_well, write_project};
use anabranch_tests::{facts, places, views};
use arrow::array::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{DataFrame, SessionContext};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const NOW: i64 = 1_700_000_000_000;

const CASES: u64 = 150;

fn options(memory_bytes: u64) -> BatchOptions {
    BatchOptions {
        like: Default::default(),
        threads: 2,
        memory_bytes,
        stop: Arc::new(AtomicBool::new(false)),
        progress: Arc::new(FoldProgress::default()),
    }
}

/// A topic with random facts, and views of it.
struct Case {
    rng: SmallRng,
    storage: Storage,
    topic: Topic,
    log: Arc<Log>,
    landed: Vec<RecordBatch>,
}

impl Case {
    async fn new(seed: u64) -> anyhow::Result<(tempfile::TempDir, Self)> {
        let (dir, storage) = places::storage()?;
        let topic = facts::topic()?;
        let case = Self {
            rng: SmallRng::seed_from_u64(seed),
            log: Arc::new(Log::open(&storage, &topic, NOW).await?),
            landed: Vec::new(),
            storage,
            topic,
        };
        Ok((dir, case))
    }

    async fn land(&mut self, most: usize) -> anyhow::Result<()> {
        let mut landing = Landing::default();
        self.log.refresh().await?;
        let head = self.log.head();
        for p in 0..self.rng.random_range(1..3) {
            let partition = PartitionId(p);
            let first = head.get(partition);
            let rows = self.rng.random_range(0..most);
            let (batch, end) = facts::facts(&mut self.rng, &self.topic, partition, first, rows)?;
            if first != end {
                let range = OffsetRange::new(first, end);
                landing.ranges.push((partition, range));
                landing.facts.push(batch);
            }
        }
        if !landing.ranges.is_empty() {
            self.log.land(&landing, NOW).await?;
            self.landed.extend(landing.facts);
        }
        Ok(())
    }

    async fn master(&self, sql: &str, generation: u64) -> anyhow::Result<Arc<Master>> {
        let view = Arc::new(View::compile("v", sql, &self.topic)?);
        let generation = Generation(generation);
        Ok(Arc::new(
            Master::open(&self.storage, &view, generation, NOW).await?,
        ))
    }

    /// The view over the raw facts below a boundary.
    async fn recompute(&self, view: &View, to: &Offsets) -> anyhow::Result<Vec<RecordBatch>> {
        let ranges = Offsets::default().ranges_to(to);
        let below = self.landed.iter().map(|b| keep_ranges(b, &ranges));
        let below = below.collect::<Result<Vec<_>, _>>()?;
        let facts = MemTable::try_new(self.topic.schema(), vec![below])?;
        let plan = view.recompute_plan(Arc::new(facts))?;
        Ok(DataFrame::new(planning_session()?.state(), plan)
            .collect()
            .await?)
    }

    /// The export holds the view at the master view's boundary.
    async fn check(&self, master: &Master) -> anyhow::Result<()> {
        let export = Export::open(&self.storage, master.view(), master.generation()).await?;
        let held = export.pin();
        let boundary = master.boundary();
        anyhow::ensure!(
            held.standing(master.generation(), &boundary) == ExportStanding::Same,
            "the export holds [{}] of {:?}, the master view [{boundary}] of {}",
            held.boundary,
            held.answering,
            master.generation(),
        );
        let expected = self.recompute(master.view(), &boundary).await?;
        let expected = expected.iter().map(|b| export.convert(b));
        let expected = expected.collect::<Result<Vec<_>, _>>()?;
        let mut found = Vec::new();
        for file in &held.files {
            let path = export.table().file_path(&file.path);
            let body = self.storage.get(&path).await?;
            let body = body.ok_or_else(|| anyhow::anyhow!("`{path}` is not there"))?;
            let batches: Vec<RecordBatch> =
                read_parquet(body, export.columns(), &LateReads::default())?
                    .collect::<Result<_, _>>()?;
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            anyhow::ensure!(file.rows() == Some(rows as u64), "the file's count of rows");
            found.extend(batches);
        }
        ensure_same(export.columns(), &expected, &found)
    }

    /// Counts what exports came to: written, unchanged, behind.
    async fn run(&mut self, came_to: &mut [u64; 3]) -> anyhow::Result<()> {
        let (mut generation, mut sql) = (1, views::view(&mut self.rng).sql);
        let mut master = self.master(&sql, generation).await?;
        for _ in 0..self.rng.random_range(2..9) {
            let small = self.rng.random_bool(0.5);
            let options = options(if small { 1 } else { 1 << 30 });
            let head = self.log.head();
            match self.rng.random_range(0..10) {
                0..=3 => self.land(30).await?,
                4..=5 => {
                    refresh(&master, &self.log, &head, &options, || NOW).await?;
                }
                6 => {
                    rebuild(&master, &self.log, &head, &options, || NOW).await?;
                }
                7 => {
                    merge_small_runs(&master, &self.log, &options, NOW).await?;
                }
                8 => {
                    (generation, sql) = (generation + 1, views::view(&mut self.rng).sql);
                    master = self.master(&sql, generation).await?;
                }
                _ => master = self.master(&sql, generation).await?,
            }
            let when = match self.rng.random_bool(0.3) {
                true => ExportWhen::Always,
                false => ExportWhen::Moved,
            };
            let outcome = export(&master, 0, when, &options, || NOW).await?;
            came_to[match outcome {
                ExportOutcome::Written { .. } => 0,
                ExportOutcome::Unchanged => 1,
                ExportOutcome::Behind => 2,
            }] += 1;
            if outcome == ExportOutcome::Behind {
                refresh(&master, &self.log, &self.log.head(), &options, || NOW).await?;
                let again = export(&master, 0, when, &options, || NOW).await?;
                anyhow::ensure!(matches!(again, ExportOutcome::Written { .. }), "{again:?}");
            }
            self.check(&master)
                .await
                .map_err(|e| anyhow::anyhow!("{sql}\n{e}"))?;
        }
        Ok(())
    }
}

/// The boundary after each commit of an export never decreases.
async fn check_never_back(storage: &Storage, topic: &str) -> anyhow::Result<usize> {
    let mut boundary = Offsets::default();
    for version in 0.. {
        let path = format!("views/v/export/_delta_log/{version:020}.json");
        let Some(entry) = storage.get(&path.into()).await? else {
            return Ok(version);
        };
        for line in entry.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let action: serde_json::Value = serde_json::from_slice(line)?;
            let Some(app) = action["txn"]["appId"].as_str() else {
                continue;
            };
            let prefix = format!("{topic}/partition/");
            let partition = app.strip_prefix(&prefix).unwrap_or("-1").parse()?;
            let at = Offset(action["txn"]["version"].as_i64().unwrap_or(-1));
            anyhow::ensure!(
                boundary.get(PartitionId(partition)) <= at,
                "version {version} went back to {at} of {app}"
            );
            boundary.raise(PartitionId(partition), at);
        }
    }
    anyhow::bail!("no end")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_the_view_at_its_boundary() -> anyhow::Result<()> {
    let mut came_to = [0; 3];
    for seed in 1..=CASES {
        let (_dir, mut case) = Case::new(seed).await?;
        let ran = case.run(&mut came_to).await;
        // A sum that leaves its type has no finished row: nothing is exported of it.
        if ran
            .as_ref()
            .is_err_and(|e| e.to_string().contains("sum a wider type"))
        {
            continue;
        }
        ran.map_err(|e| anyhow::anyhow!("seed {seed}: {e}"))?;
        check_never_back(&case.storage, "facts").await?;
    }
    anyhow::ensure!(came_to.iter().all(|&n| n > 10), "{came_to:?}");
    let [written, unchanged, behind] = came_to;
    println!("{CASES} cases: {written} exports written, {unchanged} unchanged, {behind} behind");
    Ok(())
}

/// Files are merged in the order of their keys: nothing is hashed or sorted, so memory is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_streams_in_the_order_of_keys() -> anyhow::Result<()> {
    let (_dir, mut case) = Case::new(7).await?;
    let sql = "SELECT s, day, count(*) AS c, approx_distinct(n) AS u FROM facts GROUP BY 1, 2";
    let master = case.master(sql, 1).await?;
    for _ in 0..4 {
        case.land(200).await?;
        refresh(
            &master,
            &case.log,
            &case.log.head(),
            &options(1 << 30),
            || NOW,
        )
        .await?;
    }
    let mut state = planning_session()?.state();
    state.config_mut().options_mut().execution.target_partitions = 1;
    let context = SessionContext::new_with_state(state);
    case.storage.register(&context.runtime_env())?;
    let display = |fan_in| {
        let leaf = MasterLeaf::new(&master, master.pin(), fan_in);
        let plan = master.view().answer_plan(Arc::new(leaf));
        let context = &context;
        async move {
            let plan = context.state().create_physical_plan(&plan?).await?;
            anyhow::Ok(displayable(plan.as_ref()).indent(true).to_string())
        }
    };
    let streamed = display(100).await?;
    anyhow::ensure!(
        streamed.contains("ordering_mode=Sorted")
            && streamed.contains("SortPreservingMergeExec")
            && !streamed.contains("SortExec"),
        "{streamed}"
    );
    let hashed = display(1).await?;
    anyhow::ensure!(!hashed.contains("ordering_mode=Sorted"), "{hashed}");
    Ok(())
}

/// Several processes refresh and export at once: nothing older replaces something newer.
#[tokio::test(flavor = "multi_thread")]
async fn exports_at_once_never_go_back() -> anyhow::Result<()> {
    let (_dir, mut case) = Case::new(11).await?;
    let sql = "SELECT s, count(*) AS c, sum(i) AS total FROM facts GROUP BY 1";
    for _ in 0..6 {
        case.land(40).await?;
        let mut tasks = tokio::task::JoinSet::new();
        for worker in 0..4 {
            let master = case.master(sql, 1).await?;
            let log = case.log.clone();
            let memory = if worker % 2 == 0 { 1 } else { 1 << 30 };
            tasks.spawn(async move {
                let options = options(memory);
                match refresh(&master, &log, &log.head(), &options, || NOW).await {
                    Ok(_) | Err(anabranch_shared::Error::Fenced { .. }) => {}
                    Err(e) => return Err(e),
                }
                export(&master, 0, ExportWhen::Always, &options, || NOW).await
            });
        }
        while let Some(done) = tasks.join_next().await {
            let outcome = done??;
            anyhow::ensure!(outcome != ExportOutcome::Behind, "{outcome:?}");
        }
        case.check(case.master(sql, 1).await?.as_ref()).await?;
    }
    let commits = check_never_back(&case.storage, "facts").await?;
    anyhow::ensure!(commits > 6, "{commits} commits");

    let master = case.master(sql, 1).await?;
    let late = Export::open(&case.storage, master.view(), Generation(1)).await?;
    let before = Offsets::from_iter([(PartitionId(0), Offset(1))]);
    let refused = late.publish(&before, &[], NOW).await;
    anyhow::ensure!(refused.is_err(), "an older export replaced a newer one");
    case.check(&master).await
}

/// Whose rows the export holds, how many, and the columns that its Delta log declares.
async fn held(context: &Context) -> anyhow::Result<(Option<Generation>, u64, Vec<String>)> {
    let view = context.compile(&context.project.views[0])?;
    let pin = Export::open(&context.storage, &view, Generation(0))
        .await?
        .pin();
    let rows = pin.files.iter().filter_map(|f| f.rows()).sum();
    let mut columns = Vec::new();
    for version in 0.. {
        let path = format!("views/words/export/_delta_log/{version:020}.json");
        let Some(entry) = context.storage.get(&path.into()).await? else {
            break;
        };
        for line in entry.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let action: serde_json::Value = serde_json::from_slice(line)?;
            let Some(schema) = action["metaData"]["schemaString"].as_str() else {
                continue;
            };
            let schema: serde_json::Value = serde_json::from_str(schema)?;
            let fields = schema["fields"].as_array().cloned().unwrap_or_default();
            let name = |f: &serde_json::Value| f["name"].as_str().unwrap_or("").to_owned();
            columns = fields.iter().map(name).collect();
        }
    }
    Ok((pin.answering.map(|a| a.generation), rows, columns))
}

/// A job that dies while it exports is made up by the next one, which has nothing else to do; and a
/// cut-over to other columns replaces the table's schema.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_export_is_made_up() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let settings = dir.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&settings)?;
    std::fs::write(
        &settings,
        text.replace("sql = \"words.sql\"", "sql = \"words.sql\"\nexport = true"),
    )?;
    let context = Context::open(dir.path()).await?;
    ingest_lines(&context, 0..700).await?;
    build(&context, Build::Refresh).await?;
    let first = held(&context).await?;
    assert_eq!(first.0, Some(Generation(1)));
    assert_eq!(first.1, 7);
    assert_eq!(first.2, ["word", "facts", "ids", "different"]);

    ingest_lines(&context, 700..703).await?;
    Process::killed_at(dir.path(), &["batch", "refresh"], "export-before-commit").await?;
    let table =
        anabranch_shared::table::Table::open(&context.storage, Export::root("words")).await?;
    assert_eq!(table.with_state(|s| s.txn("facts/partition/0")), 700);
    build(&context, Build::Refresh).await?;
    table.refresh().await?;
    assert_eq!(table.with_state(|s| s.txn("facts/partition/0")), 703);
    let version = table.with_state(|s| s.version);
    build(&context, Build::Refresh).await?;
    table.refresh().await?;
    assert_eq!(
        table.with_state(|s| s.version),
        version,
        "nothing had changed"
    );

    std::fs::write(
        dir.path().join("words.sql"),
        "SELECT id % 2 = 0 AS even, avg(id) AS mean, count(*) AS facts FROM facts GROUP BY 1",
    )?;
    let context = Context::open(dir.path()).await?;
    run_well(dir.path(), &["apply", "--yes"]).await?;
    let (generation, rows, columns) = held(&context).await?;
    assert_eq!((generation, rows), (Some(Generation(2)), 2));
    assert_eq!(columns, ["even", "mean", "facts"]);
    // Checkpoints keep what the commits said, and the table goes on from them.
    table.refresh().await?;
    table.write_checkpoint().await?;
    let again =
        anabranch_shared::table::Table::open(&context.storage, Export::root("words")).await?;
    let state = |t: &anabranch_shared::table::Table| {
        t.with_state(|s| {
            (
                s.id.clone(),
                s.configuration.clone(),
                s.removed.clone(),
                s.version,
            )
        })
    };
    assert_eq!(state(&again), state(&table));
    assert_eq!(state(&again).2.len(), 2, "two files were replaced");
    ingest_lines(&context, 703..705).await?;
    build(&context, Build::Refresh).await?;
    again.refresh().await?;
    assert_eq!(again.with_state(|s| s.txn("facts/partition/0")), 705);
    Ok(())
}
