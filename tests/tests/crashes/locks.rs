//! Nothing long is done under a lock that an acknowledgement or a query takes: with many facts that
//! have not landed, many files in the log, queries at once and a landing between them, no such lock
//! is held for long. The daemon measures its own locks, and says so in `/metrics`.
//!
//! In the small form the daemon is an unoptimized build. `ANABRANCH_LOCKS=<path of the program>` runs
//! the full form, with an optimized one: 1,000,000 unlanded keys, 20,000 files, 60 s.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anabranch_jobs::clock::now_ms;
use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::client::Client;
use anabranch_jobs::work::build::Build;
use anabranch_serving::SqlService;
use anabranch_shared::table::{Commit, Table, Txn};
use anabranch_shared::{
    Log, Offset, OffsetRange, PartitionId, ReadMode, Storage, blocking, encode_parquet,
};
use anabranch_speed::{BodyFormat, Daemon, RequestBody, TopicStream, Write};
use anabranch_tests::commands::{build, ingest_lines};
use anabranch_tests::daemon::{request, shown};
use anabranch_tests::places;
use anabranch_tests::process::{Process, Setup, binary, write_project};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

/// The locks whose holds are bounded. The one of `dedup`, which this topic has not, is held while a
/// group is written.
const LOCKS: [&str; 4] = ["delta", "pinning", "requests", "table"];

/// The partition of the facts that are in the log from the first; no daemon fills it.
const OTHERS: PartitionId = PartitionId(900);

/// So many queries run at once.
const QUERIES: usize = 30;

/// Keys of a large request.
const AT_ONCE: i64 = 10_000;

/// What is done to the daemon.
struct Load {
    program: PathBuf,
    /// Facts that have not landed, each of a key of its own.
    keys: i64,
    files: i64,
    /// How long the locks are watched.
    seconds: u64,
    /// How long holds may take, in seconds.
    most: f64,
    /// The share of each lock's holds that may take longer.
    over: f64,
    /// Nor may the longest. Processors are shared with thirty queries, so whoever holds a lock may
    /// have to wait for one.
    longest: f64,
}

impl Load {
    fn of_environment() -> anyhow::Result<Self> {
        Ok(match std::env::var_os("ANABRANCH_LOCKS") {
            Some(program) => Self {
                program: program.into(),
                keys: 1_000_000,
                files: 20_000,
                seconds: 60,
                most: 0.02,
                over: 0.001,
                longest: 0.02,
            },
            None => Self {
                program: binary()?,
                keys: 50_000,
                files: 500,
                seconds: 3,
                most: 0.02,
                over: 0.05,
                longest: 0.5,
            },
        })
    }
}

/// A fact of somebody else, as it lies in the log at an offset of a partition.
pub(super) fn fact_of_others(
    schema: &SchemaRef,
    partition: PartitionId,
    offset: Offset,
) -> anyhow::Result<RecordBatch> {
    let column = |field: &Arc<Field>| {
        let value: ArrayRef = match field.name().as_str() {
            "id" => Arc::new(Int64Array::from(vec![-1 - offset.0])),
            "_partition" => Arc::new(Int64Array::from(vec![i64::from(partition.0)])),
            "_offset" => Arc::new(Int64Array::from(vec![offset.0])),
            "ts" | "_ingested_at" => Arc::new(StringArray::from(vec!["2026-01-01T00:00:00Z"])),
            _ => new_null_array(field.data_type(), 1),
        };
        arrow::compute::cast(&value, field.data_type())
    };
    let columns = schema.fields().iter().map(column);
    let columns = columns.collect::<Result<_, _>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// Puts facts into the log, each in a file of its own, in one commit.
async fn fill_log(log: &Arc<Log>, files: i64) -> anyhow::Result<()> {
    let (schema, table) = (log.schema(), log.table());
    let mut adds = Vec::new();
    for at in 0..files {
        let facts = fact_of_others(&schema, OTHERS, Offset(at))?;
        let (name, of) = (table.storage().new_file_name(), schema.clone());
        let encoded = blocking(move || encode_parquet(name, &of, &[facts], 0)).await?;
        let mut add = encoded.add;
        let range = OffsetRange::new(Offset(at), Offset(at + 1));
        add.set_ranges(&[(OTHERS, range)])?;
        let path = table.file_path(&add.path);
        table.storage().put(&path, encoded.body).await?;
        adds.push(add);
    }
    let commit = table.commit(now_ms(), |_| {
        Ok(Commit {
            adds: adds.clone(),
            txns: vec![Txn::new(format!("partition/{OTHERS}"), files)],
            operation: "WRITE",
            data_change: true,
            ..Default::default()
        })
    });
    commit.await?;
    anyhow::ensure!(log.head().get(OTHERS) == Offset(files));
    Ok(())
}

fn facts(ids: std::ops::Range<i64>) -> bytes::Bytes {
    let lines = ids.map(|id| format!("{{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":{id}}}\n"));
    lines.collect::<String>().into()
}

/// What the daemon says of its locks: for each the share of holds that took longer than a bound,
/// and the longest.
async fn holds(client: &Client, bound: f64) -> anyhow::Result<BTreeMap<String, (f64, f64)>> {
    let (status, text) = request("GET", &client.address().http, "/metrics", &[], b"").await?;
    anyhow::ensure!(status == 200, "{status}: {text}");
    let value = |name: &str, labels: &str| -> anyhow::Result<f64> {
        let row = format!("{name}{{{labels}}} ");
        let found = text.lines().find_map(|line| line.strip_prefix(&row));
        let found = found.ok_or_else(|| anyhow::anyhow!("no `{row}` in {text}"))?;
        Ok(found.parse()?)
    };
    let mut holds = BTreeMap::new();
    for lock in LOCKS {
        let labels = format!("lock=\"{lock}\",topic=\"facts\"");
        let all = value("anabranch_lock_hold_seconds_count", &labels)?;
        let within = format!("le=\"{bound}\",{labels}");
        let within = value("anabranch_lock_hold_seconds_bucket", &within)?;
        let longest = value("anabranch_lock_hold_longest_seconds", &labels)?;
        anyhow::ensure!(all > 0.0 || lock == "requests", "`{lock}` was not taken");
        holds.insert(lock.to_owned(), ((all - within) / all.max(1.0), longest));
    }
    Ok(holds)
}

/// A project whose facts wait until the watch: then those that come beside make them land.
fn project(dir: &Path, keys: i64) -> anyhow::Result<()> {
    let land_facts = keys + AT_ONCE;
    let daemon = format!(
        "land_facts = {land_facts}\nland_bytes = \"2GB\"\nmemory = \"4GB\"\n[query]\nat_once = {QUERIES}\n"
    );
    let setup = Setup {
        daemon: &daemon,
        ..Default::default()
    };
    write_project(dir, setup)?;
    let path = dir.join("anabranch.toml");
    let text = std::fs::read_to_string(&path)?;
    let text = text.replace("land_every = \"100ms\"", "land_every = \"1h\"");
    std::fs::write(path, text)?;
    let view = "SELECT id, count(*) AS facts FROM facts GROUP BY id";
    Ok(std::fs::write(dir.join("words.sql"), view)?)
}

/// Asks until the watch ends. Returns how many answers there were.
async fn ask(client: Client, number: usize, ends: Arc<AtomicBool>) -> anyhow::Result<u64> {
    let mut answers = 0;
    while !ends.load(Ordering::Relaxed) {
        let sql = match number % 3 {
            0 => "SELECT count(*) FROM words".to_owned(),
            1 => format!("SELECT facts FROM words WHERE id = {answers}"),
            _ => format!(
                "SELECT count(*) FROM facts WHERE id = {}",
                -1 - number.cast_signed() as i64
            ),
        };
        client.query(&sql, ReadMode::Merged).await?;
        answers += 1;
    }
    Ok(answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lock_is_held_for_long() -> anyhow::Result<()> {
    let load = Load::of_environment()?;
    let dir = places::folder()?;
    project(dir.path(), load.keys)?;
    let context = Context::open(dir.path()).await?;
    ingest_lines(&context, 0..1).await?;
    context.catalogue.refresh().await?;
    fill_log(&context.log("facts").await?, load.files).await?;
    let mut process = Process::start_program(&load.program, dir.path(), &["speed"])?;
    let client = process.ready(&context).await?;

    let mut next = 0;
    while next < load.keys {
        client
            .write_ndjson("facts", facts(next..next + AT_ONCE))
            .await?;
        next += AT_ONCE;
    }
    let ends = Arc::new(AtomicBool::new(false));
    let mut asking = Vec::new();
    for number in 0..QUERIES {
        let client = process.ready(&context).await?;
        asking.push(tokio::spawn(ask(client, number, ends.clone())));
    }
    // Small requests beside them, which make all land in the middle of the watch.
    let written = Arc::new(AtomicU64::new(0));
    let pause = Duration::from_secs(load.seconds) / 2 / u32::try_from(AT_ONCE / 50)?;
    let (count, until, writer) = (
        written.clone(),
        ends.clone(),
        process.ready(&context).await?,
    );
    let writing = tokio::spawn(async move {
        while !until.load(Ordering::Relaxed) {
            writer.write_ndjson("facts", facts(next..next + 50)).await?;
            count.fetch_add(1, Ordering::Relaxed);
            next += 50;
            tokio::time::sleep(pause).await;
        }
        anyhow::Ok(next)
    });
    tokio::time::sleep(Duration::from_secs(load.seconds)).await;
    let holds = holds(&client, load.most).await?;
    ends.store(true, Ordering::Relaxed);
    let mut answers = 0;
    for asked in asking {
        answers += asked.await??;
    }
    let next = writing.await??;
    let log = context.log("facts").await?;
    let head = log.head();
    let landed = head.iter().filter(|(p, _)| *p != OTHERS);
    let landed: i64 = landed.map(|(_, end)| end.0).sum();
    println!(
        "{answers} answers, {} small requests, {landed} of {next} facts landed; holds over {} s, and the longest: {holds:?}",
        written.load(Ordering::Relaxed),
        load.most
    );
    for (lock, (over, longest)) in &holds {
        anyhow::ensure!(
            *over <= load.over,
            "`{lock}`: {over} of the holds took more than {} s",
            load.most
        );
        anyhow::ensure!(
            *longest <= load.longest,
            "`{lock}` was held for {longest} s"
        );
    }
    let rows = client
        .query("SELECT count(*) FROM words", ReadMode::Merged)
        .await?;
    let rows = shown(&rows.batches)?;
    let expected = (next + load.files).to_string();
    anyhow::ensure!(rows == [[expected]], "{rows:?}");
    process.kill()
}

/// How long something may take that has nothing to wait for.
const SOON: Duration = Duration::from_secs(20);

/// Something that stands still at a fail point until it is let go on; only the first who comes there
/// does.
struct Held {
    point: String,
    came: mpsc::Receiver<()>,
    go_on: mpsc::Sender<()>,
}

impl Held {
    fn at(point: &str) -> anyhow::Result<Self> {
        let (say, came) = mpsc::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        let first = std::sync::Mutex::new(Some((say, wait)));
        let hold = move || {
            let first = first.lock().map(|mut first| first.take());
            if let Ok(Some((say, wait))) = first {
                say.send(()).ok();
                // Also where the test has failed, and nobody lets it go on.
                wait.recv().ok();
            }
        };
        fail::cfg_callback(point, hold).map_err(anyhow::Error::msg)?;
        Ok(Self {
            point: point.to_owned(),
            came,
            go_on,
        })
    }

    /// Waits until something stands there.
    async fn came(self) -> anyhow::Result<Self> {
        let waited =
            tokio::task::spawn_blocking(move || self.came.recv_timeout(SOON).map(|()| self));
        Ok(waited.await??)
    }

    fn go_on(self) {
        self.go_on.send(()).ok();
        fail::remove(&self.point);
    }
}

async fn soon<T, E: Into<anyhow::Error>>(
    what: &str,
    work: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    let done = tokio::time::timeout(SOON, work).await;
    let done = done.map_err(|_| anyhow::anyhow!("{what}: waits for something"))?;
    done.map_err(Into::into)
}

/// A daemon in this process, whose view has a name of its own.
struct Here {
    context: Context,
    daemon: Arc<Daemon>,
    stream: Arc<TopicStream>,
    service: SqlService,
    sum: String,
}

impl Here {
    /// A project with a view, which is live.
    async fn project(dir: &Path, view: &str) -> anyhow::Result<Context> {
        write_project(dir, Setup::default())?;
        let path = dir.join("anabranch.toml");
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(
            path,
            text.replace("[views.words]", &format!("[views.{view}]")),
        )?;
        let context = Context::open(dir).await?;
        build(&context, Build::Refresh).await?;
        Ok(context)
    }

    /// A daemon of the project, with its WAL in a folder.
    async fn open(dir: &Path, wal: &Path, view: &str) -> anyhow::Result<Self> {
        let context = Context::open(dir).await?;
        let daemon = crate::crashes::clock::open(&context, wal, || 0).await?;
        let stream = daemon.topics().get("facts").cloned();
        let stream = stream.ok_or_else(|| anyhow::anyhow!("no such topic"))?;
        anyhow::ensure!(
            stream.served(view).is_some(),
            "{:?}",
            daemon.views_that_fail()
        );
        let service = SqlService::new(daemon.clone(), &context.storage, context.serving_options())?;
        Ok(Self {
            context,
            daemon,
            stream,
            service,
            sum: format!("SELECT sum(facts), sum(ids) FROM {view}"),
        })
    }

    async fn write(&self, ids: std::ops::Range<i64>) -> anyhow::Result<()> {
        let body = RequestBody::plain(facts(ids), BodyFormat::Json);
        self.stream.writer().write(Write::records(body)).await?;
        Ok(())
    }

    /// The facts from 0 on are there once, so many.
    async fn has(&self, count: i64) -> anyhow::Result<()> {
        let (_, rows) = self.service.collect(&self.sum, ReadMode::Merged).await?;
        let (rows, sum) = (shown(&rows)?, count * (count - 1) / 2);
        anyhow::ensure!(
            rows == [[count.to_string(), sum.to_string()]],
            "{count}: {rows:?}"
        );
        Ok(())
    }

    fn runs(&self) -> (usize, u64) {
        let count = |d: &anabranch_speed::TopicDelta| {
            d.views.values().map(|v| v.unlanded.count()).sum::<usize>()
        };
        (
            self.stream.with_delta(count),
            self.stream.with_delta(|d| d.numbering),
        )
    }

    fn end(self) -> anyhow::Result<()> {
        let threads = self.daemon.take_threads();
        drop((self.service, self.stream, self.daemon));
        for thread in threads {
            anyhow::ensure!(thread.join().is_ok(), "a thread of the daemon panicked");
        }
        Ok(())
    }
}

/// While states are merged and a boundary is adopted, facts are acknowledged and land, and queries
/// are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn heavy_work_holds_nobody_up() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let view = "held";
    Here::project(dir.path(), view).await?;
    let here = Arc::new(Here::open(dir.path(), dir.path(), view).await?);
    let merging = Held::at("merge-of-held")?;
    let mut next = 0;
    for _ in 0..8 {
        here.write(next..next + 1).await?;
        next += 1;
        here.has(next).await?;
    }
    here.write(next..next + 1).await?;
    next += 1;
    let (of, count) = (here.clone(), next);
    let merges = tokio::spawn(async move { of.has(count).await });
    let merging = merging.came().await?;
    anyhow::ensure!(here.runs().0 == 9, "{:?}", here.runs());
    soon("a write beside a merge", here.write(next..next + 1)).await?;
    next += 1;
    soon("a query beside a merge", here.has(next)).await?;
    anyhow::ensure!(here.runs().0 == 10, "{:?}", here.runs());
    merging.go_on();
    soon("the merge", merges).await??;
    anyhow::ensure!(here.runs().0 < 9, "{:?}", here.runs());
    here.has(next).await?;

    soon("a landing", here.stream.upkeep().land()).await?;
    anyhow::ensure!(here.runs().0 == 0, "{:?}", here.runs());
    build(&here.context, Build::Refresh).await?;
    let adopting = Held::at("adopt-of-held")?;
    let of = here.clone();
    let follows = tokio::spawn(async move { of.stream.upkeep().follow().await });
    let adopting = adopting.came().await?;
    soon("a write beside an adoption", here.write(next..next + 5)).await?;
    next += 5;
    soon("a landing beside an adoption", here.stream.upkeep().land()).await?;
    soon("a query beside an adoption", here.has(next)).await?;
    adopting.go_on();
    soon("the adoption", follows).await??;
    // What landed beside it is still there.
    here.has(next).await?;
    let here = Arc::into_inner(here).ok_or_else(|| anyhow::anyhow!("somebody has it still"))?;
    here.end()
}

/// What is folded of facts that have not landed stays while others land, and the rest of it while
/// some of it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_folded_stays_while_others_land() -> anyhow::Result<()> {
    let (dir, other) = (places::folder()?, places::folder()?);
    let view = "kept";
    Here::project(dir.path(), view).await?;
    let here = Arc::new(Here::open(dir.path(), dir.path(), view).await?);
    let beside = Here::open(dir.path(), other.path(), view).await?;
    here.write(0..3).await?;
    here.has(3).await?;
    beside.write(3..5).await?;
    beside.stream.upkeep().land().await?;
    here.stream.upkeep().follow().await?;
    anyhow::ensure!(here.runs() == (1, 0), "{:?}", here.runs());
    here.has(5).await?;
    anyhow::ensure!(here.runs() == (1, 0), "{:?}", here.runs());

    let landing = Held::at("fold-of-kept")?;
    let of = here.clone();
    let lands = tokio::spawn(async move { of.stream.upkeep().land().await });
    let landing = landing.came().await?;
    here.write(5..6).await?;
    soon("a query beside a landing", here.has(6)).await?;
    anyhow::ensure!(here.runs() == (2, 0), "{:?}", here.runs());
    landing.go_on();
    soon("the landing", lands).await??;
    anyhow::ensure!(here.runs() == (1, 0), "{:?}", here.runs());
    here.has(6).await?;
    anyhow::ensure!(here.runs() == (1, 0), "{:?}", here.runs());
    beside.end()?;
    let here = Arc::into_inner(here).ok_or_else(|| anyhow::anyhow!("somebody has it still"))?;
    here.end()
}

/// Who reads or refreshes a table does not wait for the put of a commit of the same process.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_do_not_wait_for_a_commit() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let storage = Storage::folder(dir.path())?;
    let schema = Schema::new(vec![Field::new("a", DataType::Int64, true)]);
    let open = || Table::open_or_create(&storage, "held", &schema, Default::default(), 1);
    let (table, other) = (Arc::new(open().await?), open().await?);
    let step = |app: &'static str| {
        move |_: &anabranch_shared::table::TableState| {
            Ok(Commit {
                txns: vec![Txn::new(app, 1)],
                ..Default::default()
            })
        }
    };
    let putting = Held::at("put-entry-of-held")?;
    let committing = table.clone();
    let commits = tokio::spawn(async move { committing.commit(1, step("own")).await });
    let putting = putting.came().await?;
    anyhow::ensure!(table.with_state(|s| s.txns.is_empty()));
    // Another one is as quick, and is seen.
    other.commit(1, step("other")).await?;
    anyhow::ensure!(soon("a refresh beside a commit", table.refresh()).await?);
    anyhow::ensure!(table.with_state(|s| (s.txn("own"), s.txn("other"))) == (0, 1));
    putting.go_on();
    soon("the commit", commits).await??;
    other.refresh().await?;
    for table in [&*table, &other] {
        anyhow::ensure!(table.with_state(|s| (s.txn("own"), s.txn("other"))) == (1, 1));
    }
    Ok(())
}
