//! What a case plays with: a storage that fails now and then, two daemons with WALs of their own, a
//! batch process, somebody else who lands, and all facts that were acknowledged to anyone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anabranch_batch::BatchOptions;
use anabranch_serving::{ServingOptions, SqlService};
use anabranch_shared::settings::Ack;
use anabranch_shared::view::View;
use anabranch_shared::{
    Catalogue, CutOverOf, Doer, FoldOptions, FoldProgress, Generation, GenerationEntry, Ids, Log,
    Master, OffsetRange, Offsets, PartitionId, Pin, Pinner, ReadMode, Relation, Storage, Topic,
    WallClock,
};
use anabranch_speed::{Daemon, DaemonOptions, TopicOptions, TopicStream};
use anabranch_tests::faults::{Faults, faulty};
use anabranch_tests::s3::S3Server;
use anabranch_tests::views::RandomView;
use anabranch_tests::{facts, places, views};
use arrow::array::RecordBatch;
use chrono::DateTime;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Coverage;
use super::beside::{self, Beside};
use super::generations::Kept;
use super::peers::Living;

/// The time, in milliseconds since 1970.
pub(crate) const NOW: i64 = facts::NOW_US / 1_000;

/// Pins are made by hand, or come from a daemon.
#[derive(Debug)]
pub(crate) struct NoPins;

#[async_trait::async_trait]
impl Pinner for NoPins {
    async fn relations(&self) -> anabranch_shared::Result<Vec<Relation>> {
        Ok(Vec::new())
    }

    async fn pin(&self, _: &[String], _: ReadMode) -> anabranch_shared::Result<Pin> {
        Ok(Pin::default())
    }
}

/// Facts that were acknowledged together.
pub(crate) struct Acknowledged {
    pub(crate) partition: PartitionId,
    pub(crate) range: OffsetRange,
    pub(crate) facts: RecordBatch,
    /// The offsets of its dead letters.
    pub(crate) dead: Vec<i64>,
}

/// A chunk of a file that was ingested by a daemon.
#[derive(Clone)]
pub(crate) struct Chunk {
    pub(crate) id: String,
    pub(crate) from: u64,
    pub(crate) records: RecordBatch,
}

/// A daemon's WAL, and the daemon while it lives.
pub(crate) struct Machine {
    pub(crate) options: DaemonOptions,
    pub(crate) ack: Ack,
    pub(crate) daemon: Option<Arc<Daemon>>,
    /// The last chunk that it acknowledged.
    pub(crate) chunk: Option<Chunk>,
}

impl Machine {
    pub(crate) fn stream(&self) -> anyhow::Result<Arc<TopicStream>> {
        self.stream_of("facts")
    }

    /// A topic of the daemon.
    pub(crate) fn stream_of(&self, topic: &str) -> anyhow::Result<Arc<TopicStream>> {
        let daemon = self.daemon.as_ref();
        let stream = daemon.and_then(|d| d.topics().get(topic).cloned());
        stream.ok_or_else(|| anyhow::anyhow!("the daemon is away"))
    }

    /// Ends the daemon as a crash would: nothing is landed.
    pub(crate) fn crash(&mut self) -> anyhow::Result<()> {
        if let Some(daemon) = self.daemon.take() {
            let threads = daemon.take_threads();
            drop(daemon);
            for thread in threads {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a WAL's thread panicked"))?;
            }
        }
        Ok(())
    }
}

/// Whether a field may be declared after some of its facts.
pub(crate) fn is_late(name: &str) -> bool {
    facts::LATE.iter().any(|(late, _)| *late == name)
}

/// The planted bug is of generations beside the ones that answer.
pub(crate) const OF_GENERATIONS: &str = "generations";

/// The names that views have.
const NAMES: [&str; 2] = ["v", "w"];

/// A view of a case.
pub(crate) struct WorldView {
    pub(crate) name: &'static str,
    /// The batch process's master view of the live generation.
    pub(crate) master: Arc<Master>,
    /// All definitions that were live.
    pub(crate) definitions: Vec<RandomView>,
    /// From where on each generation holds facts.
    pub(crate) starts: BTreeMap<Generation, Offsets>,
    /// The generation that is built in the shadow of the live one.
    pub(crate) candidate: Option<Kept>,
    /// The one that a roll-back would bring back.
    pub(crate) previous: Option<Kept>,
}

impl WorldView {
    /// A view that is live, and has absorbed nothing.
    async fn new(
        (name, random): (&'static str, RandomView),
        topic: &Topic,
        (storage, catalogue): (&Storage, &Catalogue),
    ) -> anyhow::Result<Self> {
        let view = Arc::new(View::compile(name, &random.sql, topic)?);
        Ok(Self {
            name,
            master: first_generation(storage, catalogue, &view).await?,
            definitions: vec![random],
            starts: BTreeMap::new(),
            candidate: None,
            previous: None,
        })
    }

    /// From where on a generation holds facts.
    pub(crate) fn start_of(&self, generation: Generation) -> Offsets {
        self.starts.get(&generation).cloned().unwrap_or_default()
    }

    pub(crate) fn generation(&self) -> Generation {
        self.master.generation()
    }
}

/// Makes the first generation of a view, which is live at once.
pub(crate) async fn first_generation(
    storage: &Storage,
    catalogue: &Catalogue,
    view: &Arc<View>,
) -> anyhow::Result<Arc<Master>> {
    let generation = catalogue.claim_generation(view.name()).await?;
    let master = Arc::new(Master::open(storage, view, generation, NOW).await?);
    let entry = GenerationEntry {
        generation,
        definition: view.definition().clone(),
        from: Offsets::default(),
    };
    let boundary = Offsets::default();
    let first = CutOverOf::new(view.name(), None, entry, boundary);
    catalogue.cut_over_all(&[first], &Doer::default()).await?;
    Ok(master)
}

/// One case of the law.
pub(crate) struct World<'a> {
    pub(crate) rng: SmallRng,
    pub(crate) storage: Storage,
    pub(crate) faults: Arc<Faults>,
    /// The topic as it is declared.
    pub(crate) topic: Topic,
    /// The topic with all fields that are ever declared: what facts hold, whoever knows of it.
    pub(crate) whole: Topic,
    pub(crate) catalogue: Arc<Catalogue>,
    /// The batch process's.
    pub(crate) log: Arc<Log>,
    /// The views over it.
    pub(crate) views: Vec<WorldView>,
    /// Another topic of the same daemons, where there is one, and what of it was acknowledged.
    pub(crate) beside: Option<Beside>,
    pub(crate) machines: Vec<Machine>,
    /// The daemons that ask each other, where they do.
    pub(crate) living: Option<Arc<Living>>,
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// The messages of a source that keeps them; what of them is below a head counts.
    pub(crate) sourced: Vec<Acknowledged>,
    /// How much of the time of upkeep has passed since `NOW`, in milliseconds.
    pub(crate) passed_ms: i64,
    /// A pin whose query runs later.
    pub(crate) held: Option<Pin>,
    /// How often something becomes of generations beside the ones that answer, from 0 to 1.
    pub(crate) generations: f64,
    pub(crate) service: SqlService,
    pub(crate) coverage: &'a mut Coverage,
    _dir: tempfile::TempDir,
}

pub(crate) fn batch_options(memory_bytes: u64) -> BatchOptions {
    BatchOptions {
        like: Default::default(),
        threads: 2,
        memory_bytes,
        stop: Arc::new(AtomicBool::new(false)),
        progress: Arc::new(FoldProgress::default()),
    }
}

pub(crate) fn fold_options() -> FoldOptions {
    FoldOptions {
        threads: 2,
        memory_bytes: usize::MAX,
        stop: Arc::new(AtomicBool::new(false)),
        progress: Arc::new(FoldProgress::default()),
    }
}

pub(crate) fn daemon_options(wal: PathBuf) -> DaemonOptions {
    DaemonOptions {
        wal,
        land_every: Duration::from_secs(1),
        land_facts: 40,
        land_bytes: 1 << 20,
        wal_bytes: 1 << 30,
        // Every group gets a file of its own, so that a cut removes what it may.
        wal_segment_bytes: 1,
        memory_bytes: 1 << 30,
        spill_at_bytes: 1 << 29,
        spill_bytes: 1 << 30,
        request_memory_bytes: 1 << 30,
        max_record_bytes: 1 << 20,
        max_request_bytes: 1 << 20,
        idempotency_window: Duration::from_secs(3_600),
        idempotency_keys: 1_000,
        recently_landed_bytes: 0,
        meet_every: Duration::ZERO,
        most_pieces: 2,
        checkpoint_every: 3,
        threads: 2,
        now_us: || facts::NOW_US,
        metrics: Default::default(),
        stop: Arc::new(AtomicBool::new(false)),
    }
}

impl<'a> World<'a> {
    /// The world of a seed, with its storage in a bucket where there is one.
    pub(crate) async fn new(
        seed: u64,
        bucket: Option<&S3Server>,
        coverage: &'a mut Coverage,
    ) -> anyhow::Result<Self> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (dir, mut storage) = places::storage()?;
        if let Some(server) = bucket {
            coverage.count("storage: S3");
            storage = server.storage(&format!("case-{seed}"))?;
        }
        let wals = dir.path().join("wals");
        // What is drawn and what time it is come from the seed, so that a case that fails does so again.
        let today =
            WallClock::of(|| DateTime::UNIX_EPOCH + Duration::from_millis(NOW.unsigned_abs()));
        let storage = storage.with_ids(Ids::seeded(seed)).with_wall(today);
        let (storage, faults) = faulty(storage);
        faults.seed(rng.random());
        let topic = facts::random_topic(&mut rng)?;
        let whole = facts::with_late_fields(&mut rng, topic)?;
        let mut topic = whole.clone();
        topic
            .fields
            .retain(|f| !is_late(&f.name) || rng.random_bool(0.25));
        let catalogue = Arc::new(Catalogue::open(&storage).await?);
        catalogue.declare_topic(&topic).await?;
        let log = Arc::new(Log::open(&storage, &topic, NOW).await?);
        let declared = |name: &str| topic.fields.iter().any(|f| f.name == name);
        let mut of_topic = Vec::new();
        // A planted bug is of one view and topic: with more it would only be noticed later.
        let planted = std::env::var("ANABRANCH_LAW_PLANTED").ok();
        let is_small = planted.is_some();
        let generations = match planted {
            None => [0.1, 0.1, 0.5][rng.random_range(0..3)],
            Some(of) if of == OF_GENERATIONS => 0.5,
            Some(_) => 0.0,
        };
        let several = !is_small && rng.random_bool(0.4);
        for name in &NAMES[..1 + usize::from(several)] {
            let random = views::view_over(&mut rng, &declared);
            random.covers.iter().for_each(|c| coverage.count(c));
            let place = (&storage, &*catalogue);
            of_topic.push(WorldView::new((name, random), &topic, place).await?);
        }
        coverage.count(&format!("views of a topic: {}", of_topic.len()));
        let beside = match !is_small && rng.random_bool(0.3) {
            true => Some(Beside::new(&storage, &catalogue).await?),
            false => None,
        };
        let options = ServingOptions {
            memory_bytes: 1 << 30,
            threads: rng.random_range(1..4),
            timeout: Duration::from_secs(60),
            limits: Default::default(),
            metrics: Default::default(),
            auditor: None,
        };
        let service = SqlService::new(Arc::new(NoPins), &storage, options)?;
        // Some daemons spill what they have at once, or what little a disk has room for.
        let (mut spill_at_bytes, mut spill_bytes) = (1 << 29, 1 << 30);
        if rng.random_bool(0.3) {
            coverage.count("daemons that spill");
            spill_at_bytes = [0, 2_000, 20_000][rng.random_range(0..3)];
            spill_bytes = [1 << 30, 10_000][usize::from(rng.random_bool(0.2))];
        }
        let machines = (0..rng.random_range(1..4)).map(|i| Machine {
            options: DaemonOptions {
                spill_at_bytes,
                spill_bytes,
                recently_landed_bytes: if rng.random_bool(0.3) { 1 << 20 } else { 0 },
                ..daemon_options(wals.join(format!("{i}")))
            },
            ack: match rng.random_bool(0.2) {
                true => Ack::Landed,
                false => Ack::Wal,
            },
            daemon: None,
            chunk: None,
        });
        let machines: Vec<Machine> = machines.collect();
        let gathers = machines.len() > 1 && rng.random_bool(0.7);
        let mut world = Self {
            rng,
            storage,
            faults,
            topic,
            whole,
            catalogue,
            log,
            views: of_topic,
            beside,
            machines,
            living: gathers.then(Arc::default),
            acknowledged: Vec::new(),
            sourced: Vec::new(),
            passed_ms: 0,
            held: None,
            generations,
            service,
            coverage,
            _dir: dir,
        };
        for i in 0..world.machines.len() {
            world.start(i).await?;
        }
        Ok(world)
    }

    /// Starts a daemon: replays its WAL. What it had spilled is gone, with the queries of the
    /// process that it was.
    pub(crate) async fn start(&mut self, i: usize) -> anyhow::Result<()> {
        let spilled = |pin: &Pin| {
            let mut parts = pin.views.values().flat_map(|v| &v.delta);
            parts.any(|part| part.spilled_bytes() > 0)
        };
        self.held = self.held.take().filter(|pin| !spilled(pin));
        let settings = TopicOptions {
            ack: self.machines[i].ack,
            ..Default::default()
        };
        let beside = self.beside.is_some().then_some(beside::TOPIC);
        let topics = ["facts"].into_iter().chain(beside);
        let topics = topics.map(|name| (name.to_owned(), settings.clone()));
        let topics = topics.collect();
        let catalogue = Arc::new(Catalogue::open(&self.storage).await?);
        let options = self.machines[i].options.clone();
        let daemon = Daemon::open(&self.storage, catalogue, &topics, options).await?;
        if let Some(living) = &self.living {
            living.join(&daemon);
        }
        self.machines[i].daemon = Some(daemon);
        Ok(())
    }

    /// The offset at which a partition's acknowledged facts end.
    pub(crate) fn acknowledged_end(&self, partition: PartitionId) -> i64 {
        let of = self
            .acknowledged
            .iter()
            .filter(|a| a.partition == partition);
        of.map(|a| a.range.end.0).max().unwrap_or(0)
    }

    /// What was acknowledged between two vectors of offsets, neither of which may cut through it.
    pub(crate) fn acknowledged_between(
        &self,
        from: &Offsets,
        head: &Offsets,
    ) -> anyhow::Result<Vec<&Acknowledged>> {
        let mut found = Vec::new();
        for a in self.acknowledged.iter().chain(&self.sourced) {
            let (start, end) = (from.get(a.partition), head.get(a.partition));
            for at in [start, end] {
                anyhow::ensure!(
                    at <= a.range.start || at >= a.range.end,
                    "offset {at} of partition {} cuts through {}",
                    a.partition,
                    a.range
                );
            }
            if start <= a.range.start && end >= a.range.end {
                found.push(a);
            }
        }
        Ok(found)
    }

    /// The facts between two vectors of offsets, whether the log still has them or not.
    pub(crate) fn facts_between(
        &self,
        from: &Offsets,
        head: &Offsets,
    ) -> anyhow::Result<Vec<RecordBatch>> {
        let found = self.acknowledged_between(from, head)?.into_iter();
        Ok(found.map(|a| a.facts.clone()).collect())
    }

    /// A random view over the fields that are declared.
    pub(crate) fn random_view(&mut self) -> RandomView {
        let declared = |name: &str| self.topic.fields.iter().any(|f| f.name == name);
        views::view_over(&mut self.rng, &declared)
    }

    /// The number of one of the views.
    pub(crate) fn any_view(&mut self) -> usize {
        self.rng.random_range(0..self.views.len())
    }

    /// The view that a name in queries is of.
    pub(crate) fn view(&self, name: &str) -> anyhow::Result<&WorldView> {
        let name = name.rsplit('.').next().unwrap_or(name);
        let view = self.views.iter().find(|v| v.name == name);
        view.ok_or_else(|| anyhow::anyhow!("the case has no view `{name}`"))
    }
}
