//! The law where facts meet references: each fact meets the rows that the run or piece records which holds
//! it, and every answer equals what a plain loop over facts and rows makes of that. References change all
//! the time, lose keys and get them back; runs are made, merged and rebuilt meanwhile, daemons crash, ask
//! each other, and the storage fails.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anabranch_batch::{BatchOptions, build_up, merge_small_runs, rebuild, refresh};
use anabranch_serving::{ServingOptions, SqlService};
use anabranch_shared::settings::{FieldReads, FieldType};
use anabranch_shared::view::{View, planning_session};
use anabranch_shared::{
    Catalogue, Error, Log, Master, Met, Offset, Offsets, PartitionId, Pin, Pinner, ReadMode,
    Reference, ReferencesAt, Storage, Topic, TopicField, ViewPin, as_met,
};
use anabranch_speed::{BodyFormat, Daemon, DaemonOptions, RequestBody, TopicStream, Write};
use anabranch_tests::commands::ensure_same;
use anabranch_tests::faults::{Faults, faulty};
use anabranch_tests::places;
use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;
use datafusion::prelude::{DataFrame, SessionContext};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::events::unless_faulty;
use super::peers::Living;
use super::world::{NOW, NoPins, batch_options, daemon_options, first_generation};
use super::{Coverage, number};

/// Cases of the normal run.
const CASES: u64 = 40;

/// Views, and what each is over the table of facts with the rows that they met.
const VIEWS: [(&str, &str); 6] = [
    (
        "SELECT posts.author, count(*) AS facts, sum(p.n) AS n FROM facts p LEFT JOIN posts ON posts.url = p.url GROUP BY 1",
        "SELECT author, count(*) AS facts, sum(n) AS n FROM joined GROUP BY 1",
    ),
    (
        "SELECT section, url, count(*) AS facts, count(author) AS authors FROM facts JOIN posts USING (url) WHERE n > 2 GROUP BY 1, 2",
        "SELECT section, url, count(*) AS facts, count(author) AS authors FROM joined WHERE found AND n > 2 GROUP BY 1, 2",
    ),
    (
        "SELECT s.owner, p.author, max(f.n) AS most, count(*) FILTER (WHERE p.section = 'a') AS a FROM facts f LEFT JOIN posts AS p ON f.url = p.url JOIN sites AS s ON s.site = f.site AND s.section = p.section GROUP BY 1, 2",
        "SELECT owner, author, max(n) AS most, count(*) FILTER (WHERE section = 'a') AS a FROM joined WHERE owned GROUP BY 1, 2",
    ),
    (
        "SELECT n, upper(author) AS author FROM facts LEFT JOIN posts ON lower(facts.url) = posts.url WHERE section IS NULL OR section <> 'b'",
        "SELECT n, upper(author) AS author FROM joined WHERE section IS NULL OR section <> 'b'",
    ),
    (
        "SELECT count(*) AS facts, count(posts.url) AS known, first_value(author) AS first FROM (SELECT url, n FROM facts WHERE n < 8) AS f LEFT JOIN posts ON posts.url = f.url",
        "SELECT count(*) AS facts, count(CASE WHEN found THEN url END) AS known, first_value(author ORDER BY partition, at) AS first FROM joined WHERE n < 8",
    ),
    (
        "SELECT p.author, count(*) AS facts, count(p.url) AS known FROM facts f ASOF JOIN posts p MATCH_CONDITION (f.n >= p.version) ON p.url = f.url GROUP BY 1",
        "SELECT author, count(*) AS facts, count(CASE WHEN found THEN url END) AS known FROM joined GROUP BY 1",
    ),
];

/// The view whose facts meet the version that was the latest as of their number.
const AS_OF: usize = 5;

const URLS: [&str; 6] = ["u1", "u2", "u3", "u4", "u5", "ü6"];

fn topic(name: &str, fields: &[(&str, FieldType)]) -> Topic {
    let field = |(name, field_type): &(&str, FieldType)| TopicField {
        name: (*name).to_owned(),
        field_type: field_type.clone(),
        nullable: *name != "ts",
        reads: FieldReads::default(),
    };
    Topic {
        name: name.to_owned(),
        event_time: "ts".to_owned(),
        fields: fields.iter().map(field).collect(),
    }
}

/// A fact of any topic, where it lies, and its fields by their names.
#[derive(Clone, Debug)]
struct Row {
    partition: PartitionId,
    offset: Offset,
    text: HashMap<&'static str, String>,
    number: HashMap<&'static str, i64>,
    gone: bool,
}

struct World<'a> {
    rng: SmallRng,
    storage: Storage,
    faults: Arc<Faults>,
    catalogue: Arc<Catalogue>,
    logs: BTreeMap<&'static str, Arc<Log>>,
    references: [Reference; 2],
    master: Arc<Master>,
    view: usize,
    rows: BTreeMap<&'static str, Vec<Row>>,
    options: Vec<DaemonOptions>,
    daemons: Vec<Option<Arc<Daemon>>>,
    living: Option<Arc<Living>>,
    service: SqlService,
    coverage: &'a mut Coverage,
    _dir: tempfile::TempDir,
}

const TOPICS: [&str; 3] = ["facts", "content", "owners"];

impl<'a> World<'a> {
    async fn new(seed: u64, coverage: &'a mut Coverage) -> anyhow::Result<Self> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (dir, storage) = places::storage()?;
        let (storage, faults) = faulty(storage);
        faults.seed(rng.random());
        use FieldType::{BigInt, Boolean, Timestamp, Varchar};
        let facts = [
            ("ts", Timestamp),
            ("url", Varchar),
            ("site", BigInt),
            ("n", BigInt),
        ];
        let content = [
            ("ts", Timestamp),
            ("url", Varchar),
            ("version", BigInt),
            ("author", Varchar),
            ("section", Varchar),
            ("gone", Boolean),
        ];
        let owners = [
            ("ts", Timestamp),
            ("site", BigInt),
            ("section", Varchar),
            ("version", BigInt),
            ("owner", Varchar),
        ];
        let topics = [
            topic("facts", &facts),
            topic("content", &content),
            topic("owners", &owners),
        ];
        let catalogue = Arc::new(Catalogue::open(&storage).await?);
        catalogue.declare_topics(&topics).await?;
        let mut logs = BTreeMap::new();
        for (name, topic) in TOPICS.iter().zip(&topics) {
            logs.insert(*name, Arc::new(Log::open(&storage, topic, NOW).await?));
        }
        let named = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let references = [
            Reference {
                name: "posts".to_owned(),
                topic: topics[1].clone(),
                key: named(&["url"]),
                latest_by: "version".to_owned(),
                fields: named(&["author", "section", "version"]),
                deleted_when: Some("gone".to_owned()),
            },
            Reference {
                name: "sites".to_owned(),
                topic: topics[2].clone(),
                key: named(&["site", "section"]),
                latest_by: "version".to_owned(),
                fields: named(&["owner"]),
                deleted_when: None,
            },
        ];
        let view = rng.random_range(0..VIEWS.len());
        let compiled = View::compile_with("v", VIEWS[view].0, &topics[0], &references)?;
        let master = first_generation(&storage, &catalogue, &Arc::new(compiled)).await?;
        let options = ServingOptions {
            memory_bytes: 1 << 30,
            threads: 2,
            timeout: std::time::Duration::from_secs(60),
            limits: Default::default(),
            metrics: Default::default(),
            auditor: None,
        };
        let service = SqlService::new(Arc::new(NoPins), &storage, options)?;
        let machines = rng.random_range(1..3);
        let wals = dir.path().join("wals");
        let of_machine = |i| DaemonOptions {
            meet_every: std::time::Duration::ZERO,
            spill_at_bytes: [1 << 29, 0][usize::from(seed.is_multiple_of(5))],
            ..daemon_options(wals.join(format!("{i}")))
        };
        let mut world = Self {
            rng,
            faults,
            catalogue,
            logs,
            references,
            master,
            view,
            rows: BTreeMap::new(),
            options: (0..machines).map(of_machine).collect(),
            daemons: vec![None; machines],
            living: (machines > 1).then(Arc::default),
            service,
            storage,
            coverage,
            _dir: dir,
        };
        for i in 0..machines {
            world.start(i).await?;
        }
        Ok(world)
    }

    async fn start(&mut self, i: usize) -> anyhow::Result<()> {
        let topics = TOPICS.map(|name| (name.to_owned(), Default::default()));
        let catalogue = Arc::new(Catalogue::open(&self.storage).await?);
        let options = self.options[i].clone();
        let daemon = Daemon::open(&self.storage, catalogue, &topics.into(), options).await?;
        if let Some(living) = &self.living {
            living.join(&daemon);
        }
        self.daemons[i] = Some(daemon);
        Ok(())
    }

    fn crash(&mut self, i: usize) -> anyhow::Result<()> {
        if let Some(daemon) = self.daemons[i].take() {
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

    fn stream(&self, i: usize, topic: &str) -> anyhow::Result<Arc<TopicStream>> {
        let stream = self.daemons[i]
            .as_ref()
            .and_then(|d| d.topics().get(topic).cloned());
        stream.ok_or_else(|| anyhow::anyhow!("the daemon is away"))
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        let i = self.rng.random_range(0..self.daemons.len());
        if self.daemons[i].is_none() {
            self.coverage.count("references: restart");
            return self.start(i).await;
        }
        let faulty = self.rng.random_bool(0.1);
        self.faults.set_percent(if faulty { 30 } else { 0 });
        let done = match self.rng.random_range(0..20) {
            0..=4 => self.write(i, "facts").await,
            5..=8 => self.write(i, "content").await,
            9 => self.write(i, "owners").await,
            10..=12 => self.land(i).await,
            13..=14 => self.follow(i).await,
            15..=16 => self.refresh().await,
            17 => self.rebuild().await,
            18 if self.rng.random_bool(0.5) => self.candidate().await,
            18 => self.merge().await,
            _ => self.crash(i),
        };
        self.faults.set_percent(0);
        done
    }

    fn random_row(&mut self, topic: &str) -> Row {
        let rng = &mut self.rng;
        let mut row = Row {
            partition: PartitionId(0),
            offset: Offset(0),
            text: HashMap::new(),
            number: HashMap::new(),
            gone: false,
        };
        let url = URLS.choose(rng).copied().unwrap_or_default();
        if rng.random_bool(0.9) {
            row.text.insert("url", url.to_owned());
        }
        if rng.random_bool(0.9) {
            row.number.insert("site", rng.random_range(0..3));
        }
        if topic == "facts" {
            row.number.insert("n", rng.random_range(0..12));
            return row;
        }
        // Versions repeat, come late, and lack now and then.
        if rng.random_bool(0.9) {
            row.number.insert("version", rng.random_range(0..6));
        }
        for name in ["author", "section", "owner"] {
            if rng.random_bool(0.85) {
                let value = ["a", "b", "c"].choose(rng).copied().unwrap_or_default();
                row.text.insert(name, value.to_owned());
            }
        }
        row.gone = rng.random_bool(0.15);
        row
    }

    async fn write(&mut self, i: usize, topic: &'static str) -> anyhow::Result<()> {
        self.coverage.count(&format!("references: write {topic}"));
        let rows = self.rng.random_range(1..12);
        let mut rows: Vec<Row> = (0..rows).map(|_| self.random_row(topic)).collect();
        let stream = self.stream(i, topic)?;
        let line = |row: &Row| {
            let mut record = serde_json::Map::new();
            record.insert("ts".to_owned(), "2026-01-01T00:00:00Z".into());
            let declared = &stream.topic().fields;
            let is_field = |name: &str| declared.iter().any(|f| f.name == name);
            let texts = row.text.iter().filter(|(name, _)| is_field(name));
            record.extend(texts.map(|(name, v)| ((*name).to_owned(), v.as_str().into())));
            let numbers = row.number.iter().filter(|(name, _)| is_field(name));
            record.extend(numbers.map(|(name, v)| ((*name).to_owned(), (*v).into())));
            if topic == "content" && row.gone {
                record.insert("gone".to_owned(), true.into());
            }
            format!("{}\n", serde_json::Value::Object(record))
        };
        let body: String = rows.iter().map(line).collect();
        let body = RequestBody::plain(body.into(), BodyFormat::Json);
        let outcome = stream.writer().write(Write::records(body)).await?;
        for (row, offset) in rows.iter_mut().zip(outcome.range.start.0..) {
            (row.partition, row.offset) = (outcome.partition, Offset(offset));
        }
        self.rows.entry(topic).or_default().extend(rows);
        Ok(())
    }

    async fn land(&mut self, i: usize) -> anyhow::Result<()> {
        for topic in TOPICS {
            if self.rng.random_bool(0.6) {
                self.coverage.count("references: landing");
                unless_faulty(self.stream(i, topic)?.upkeep().land().await)?;
            }
        }
        Ok(())
    }

    async fn follow(&mut self, i: usize) -> anyhow::Result<()> {
        self.coverage.count("references: daemon follows");
        unless_faulty(self.stream(i, "facts")?.upkeep().follow().await)?;
        Ok(())
    }

    async fn refresh(&mut self) -> anyhow::Result<()> {
        self.coverage.count("references: refresh");
        let log = &self.logs["facts"];
        if unless_faulty(log.refresh().await)?.is_none() {
            return Ok(());
        }
        self.master.refresh().await.ok();
        let options = batch_options(1 << 30);
        unless_faulty(refresh(&self.master, log, &log.head(), &options, || NOW).await)?;
        Ok(())
    }

    async fn rebuild(&mut self) -> anyhow::Result<()> {
        self.coverage.count("references: rebuild");
        let log = &self.logs["facts"];
        let memory = [1, 1 << 30][self.rng.random_range(0..2)];
        let options = batch_options(memory);
        let done = rebuild(&self.master, log, &log.head(), &options, || NOW).await;
        if unless_faulty(done)?.is_none() {
            return Ok(());
        }
        // All ranges below are at the newest rows.
        let met = met_of(&self.master)?;
        anyhow::ensure!(met.versions() <= 1, "a rebuild leaves {met:?}");
        Ok(())
    }

    async fn merge(&mut self) -> anyhow::Result<()> {
        for _ in 0..9 {
            let i = self.rng.random_range(0..self.daemons.len());
            if self.daemons[i].is_some() {
                Box::pin(self.write(i, "facts")).await?;
                Box::pin(self.land(i)).await?;
            }
            Box::pin(self.refresh()).await?;
        }
        let options = batch_options(1 << 30);
        let merged = merge_small_runs(&self.master, &self.logs["facts"], &options, NOW).await;
        if unless_faulty(merged)?.is_some_and(|files| files > 1) {
            self.coverage.count("references: runs are merged");
        }
        Ok(())
    }

    /// A generation beside: its facts meet what those of the live one met, and it answers the same.
    async fn candidate(&mut self) -> anyhow::Result<()> {
        self.coverage.count("references: a generation beside");
        self.faults.set_percent(0);
        let like = met_of(&self.master)?;
        let definition = self.master.view().definition();
        let view = Arc::new(View::from_definition("v", definition)?);
        let generation = self.catalogue.claim_generation("v").await?;
        let master = Arc::new(Master::open(&self.storage, &view, generation, NOW).await?);
        self.master.refresh().await?;
        let boundary = self.master.boundary();
        let options = BatchOptions {
            like: Arc::new(like.clone()),
            ..batch_options(1 << 30)
        };
        let log = self.logs["facts"].clone();
        log.refresh().await?;
        build_up(&master, &log, &boundary, &options, || NOW).await?;
        let made = met_of(&master)?;
        for (at, from, to) in like.divide(&Offsets::default(), &boundary) {
            for (found, ..) in made.divide(&from, &to) {
                let there = self.rows.get("facts").into_iter().flatten();
                let mut there = there.filter(|f| f.offset >= from.get(f.partition));
                let holds = there.any(|f| f.offset < to.get(f.partition));
                anyhow::ensure!(!holds || found == at, "{found:?}, and not {at:?}");
            }
        }
        let pin = master.pin();
        let own = ViewPin {
            view: master.view().clone(),
            generation,
            boundary: pin.boundary.clone(),
            head: pin.boundary,
            root: master.table().root().clone(),
            files: pin.files,
            delta: Vec::new(),
            met: Met::default(),
        };
        let mut pin = Pin::default();
        pin.views.insert("v".to_owned(), own.clone());
        self.check_loop(&pin, &own).await
    }

    /// The rows of a reference as a plain loop finds them.
    fn latest(&self, reference: &Reference, at: &Offsets) -> HashMap<Vec<String>, Row> {
        let mut latest: HashMap<Vec<String>, Row> = HashMap::new();
        let rows = self
            .rows
            .get(reference.topic.name.as_str())
            .into_iter()
            .flatten();
        for row in rows.filter(|r| r.offset < at.get(r.partition)) {
            let Some(key) = key_of(row, &reference.key) else {
                continue;
            };
            // Each daemon's clock stands still, so the place decides among those of one version.
            let order = |r: &Row| (r.number.get("version").copied(), r.partition, r.offset);
            match latest.get(&key) {
                Some(known) if order(known) > order(row) => {}
                _ => drop(latest.insert(key, row.clone())),
            }
        }
        if reference.deleted_when.is_some() {
            latest.retain(|_, row| !row.gone);
        }
        latest
    }

    /// The row of a fact's post that was the latest as of the fact's number.
    fn as_of(&self, fact: &Row, at: Option<&Offsets>) -> Option<Row> {
        let (number, at) = (fact.number.get("n")?, at?);
        let rows = self.rows.get("content").into_iter().flatten();
        let rows = rows.filter(|r| r.offset < at.get(r.partition));
        let rows = rows
            .filter(|r| r.text.contains_key("url") && r.text.get("url") == fact.text.get("url"));
        let version = |r: &Row| r.number.get("version").copied();
        let rows = rows.filter(|r| version(r).is_some_and(|v| v <= *number));
        let latest = rows.max_by_key(|r| (version(r), r.partition, r.offset))?;
        (!latest.gone).then(|| latest.clone())
    }

    /// The facts below a head with the rows that they met.
    fn joined(&mut self, head: &Offsets, met: &Met) -> anyhow::Result<RecordBatch> {
        let mut known: BTreeMap<String, [HashMap<Vec<String>, Row>; 2]> = BTreeMap::new();
        let none = ReferencesAt::new();
        let mut columns: [Vec<Option<String>>; 4] = Default::default();
        let (mut numbers, mut found, mut owned) = (Vec::new(), Vec::new(), Vec::new());
        let (mut partitions, mut at) = (Vec::new(), Vec::new());
        let facts = self.rows.get("facts").cloned().unwrap_or_default();
        for fact in facts.iter().filter(|f| f.offset < head.get(f.partition)) {
            let holds = |by: &&anabranch_shared::MetBy| {
                let mut ranges = by.ranges.iter();
                ranges.any(|(p, r)| {
                    *p == fact.partition && r.start <= fact.offset && fact.offset < r.end
                })
            };
            let by = met.iter().filter(holds).last();
            let by = by.map(|by| &by.at);
            let by =
                by.ok_or_else(|| anyhow::anyhow!("what {fact:?} met is not known: {met:?}"))?;
            anyhow::ensure!(*by != none, "{fact:?} met nothing");
            let rows = known.entry(format!("{by:?}")).or_insert_with(|| {
                let at = |r: &Reference| by.get(&r.name).cloned().unwrap_or_default();
                let of = |r: &Reference| self.latest(r, &at(r));
                [of(&self.references[0]), of(&self.references[1])]
            });
            let key = key_of(fact, &self.references[0].key);
            let before = self.as_of(fact, by.get("posts"));
            let post = match self.view {
                AS_OF => before.as_ref(),
                _ => key.and_then(|key| rows[0].get(&key)),
            };
            let mut joined = fact.clone();
            if let Some(post) = post {
                for name in ["author", "section"] {
                    if let Some(value) = post.text.get(name) {
                        joined.text.insert(name, value.clone());
                    }
                }
            }
            joined
                .text
                .retain(|name, _| post.is_some() || *name == "url");
            let site = key_of(&joined, &self.references[1].key).and_then(|key| rows[1].get(&key));
            let text = |row: Option<&Row>, name: &str| row.and_then(|r| r.text.get(name).cloned());
            columns[0].push(text(Some(fact), "url"));
            columns[1].push(text(post, "author"));
            columns[2].push(text(post, "section"));
            columns[3].push(text(site, "owner"));
            numbers.push(fact.number.get("n").copied());
            found.push(post.is_some());
            owned.push(site.is_some());
            partitions.push(i64::from(fact.partition.0));
            at.push(fact.offset.0);
        }
        if known.len() > 1 {
            self.coverage
                .count("references: facts that met different rows");
        }
        let [url, author, section, owner] =
            columns.map(|c| Arc::new(StringArray::from(c)) as ArrayRef);
        Ok(RecordBatch::try_from_iter([
            ("url", url),
            ("author", author),
            ("section", section),
            ("owner", owner),
            ("n", Arc::new(Int64Array::from(numbers)) as _),
            ("found", Arc::new(BooleanArray::from(found)) as _),
            ("owned", Arc::new(BooleanArray::from(owned)) as _),
            ("partition", Arc::new(Int64Array::from(partitions)) as _),
            ("at", Arc::new(Int64Array::from(at)) as _),
        ])?)
    }

    async fn check(&mut self) -> anyhow::Result<()> {
        for i in 0..self.daemons.len() {
            let Some(daemon) = self.daemons[i].clone() else {
                continue;
            };
            let names = ["v", "facts"].map(str::to_owned);
            let pin = match daemon.pin(&names, ReadMode::Merged).await {
                // It looks again in a moment.
                Err(Error::Unavailable(_)) => {
                    daemon.follow_catalogue().await;
                    daemon.pin(&names, ReadMode::Merged).await?
                }
                pin => pin?,
            };
            self.coverage.count("references: checks");
            let view = pin.views.get("v").cloned();
            let view = view.ok_or_else(|| anyhow::anyhow!("the view is not served"))?;
            self.check_pin(&pin, &view).await?;
        }
        Ok(())
    }

    async fn check_pin(&mut self, pin: &Pin, view: &ViewPin) -> anyhow::Result<()> {
        let met = view.all_met()?;
        let (schema, found) = self.answer(pin).await?;
        // What `verify` would compare it with.
        let bound = as_met(&self.storage, &view.view, &met, NOW).await?;
        let facts = self.service.topic_provider(&pin.topics["facts"], &bound)?;
        let plan = bound.recompute_plan(facts)?;
        let session = planning_session()?;
        self.storage.register(&session.runtime_env())?;
        let recomputed = DataFrame::new(session.state(), plan).collect().await;
        ensure_same(&schema, &recomputed.map_err(Error::from)?, &found)
            .map_err(|e| anyhow::anyhow!("{}\nas it is verified: {e}", VIEWS[self.view].0))?;
        self.check_loop(pin, view).await
    }

    async fn answer(&self, pin: &Pin) -> anyhow::Result<(SchemaRef, Vec<RecordBatch>)> {
        let answer = self
            .service
            .query_on("SELECT * FROM v", pin, ReadMode::Merged);
        let answer = answer.await?;
        let schema = answer.schema.clone();
        let rows = datafusion::physical_plan::common::collect(answer.stream).await;
        Ok((schema, rows.map_err(Error::from)?))
    }

    /// The answer equals what a plain loop makes of facts and rows.
    async fn check_loop(&mut self, pin: &Pin, view: &ViewPin) -> anyhow::Result<()> {
        let (schema, found) = self.answer(pin).await?;
        let joined = self.joined(&view.head, &view.all_met()?)?;
        let plain = SessionContext::new();
        let table = MemTable::try_new(joined.schema(), vec![vec![joined]])?;
        plain.register_table("joined", Arc::new(table))?;
        let expected = plain.sql(VIEWS[self.view].1).await?.collect().await?;
        ensure_same(&schema, &expected, &found)
            .map_err(|e| anyhow::anyhow!("{}\nby a plain loop: {e}", VIEWS[self.view].0))
    }

    /// Everything lands and is followed: then what was written last is met by what is rebuilt.
    async fn settle(&mut self) -> anyhow::Result<()> {
        for i in 0..self.daemons.len() {
            if self.daemons[i].is_none() {
                self.start(i).await?;
            }
            for topic in TOPICS {
                while self.stream(i, topic)?.upkeep().land().await? > 0 {}
            }
        }
        for i in 0..self.daemons.len() {
            self.stream(i, "facts")?.upkeep().follow().await?;
        }
        self.check().await?;
        for log in self.logs.values() {
            log.refresh().await?;
        }
        self.rebuild().await?;
        let newest: BTreeMap<String, Offsets> = (self.references.iter())
            .map(|r| (r.name.clone(), self.logs[r.topic.name.as_str()].head()))
            .collect();
        let own = self.master.view().references();
        for file in &self.master.pin().files {
            for by in file.met()?.iter() {
                let met = own
                    .iter()
                    .all(|r| by.at.get(&r.name) == newest.get(&r.name));
                anyhow::ensure!(met, "rebuilt at {by:?}, the newest is {newest:?}");
            }
        }
        for i in 0..self.daemons.len() {
            self.stream(i, "facts")?.upkeep().follow().await?;
        }
        self.check().await
    }
}

/// What the facts of a master view met.
fn met_of(master: &Master) -> anyhow::Result<Met> {
    let mut met = Met::default();
    for file in &master.pin().files {
        met.extend(&file.met()?);
    }
    Ok(met)
}

fn key_of(row: &Row, key: &[String]) -> Option<Vec<String>> {
    let part = |name: &String| {
        let number = row.number.get(name.as_str()).map(i64::to_string);
        row.text.get(name.as_str()).cloned().or(number)
    };
    key.iter().map(part).collect()
}

async fn case(seed: u64, coverage: &mut Coverage) -> anyhow::Result<()> {
    let mut world = World::new(seed, coverage).await?;
    for _ in 0..world.rng.random_range(5..25) {
        world.step().await?;
        if world.rng.random_bool(0.35) {
            world.check().await?;
        }
    }
    world.settle().await?;
    drop(world.catalogue.clone());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_meet_references_as_recorded() {
    // Bugs are planted by the environment, in a process that this test has to itself.
    let _planted = std::env::var("ANABRANCH_LAW_PLANTED")
        .is_ok()
        .then(fail::FailScenario::setup);
    let cases = number("ANABRANCH_LAW_CASES", CASES);
    let first = number("ANABRANCH_LAW_SEED", 1);
    let mut coverage = Coverage::default();
    for seed in first..first + cases {
        if let Err(e) = case(seed, &mut coverage).await {
            panic!("ANABRANCH_LAW_SEED={seed} ANABRANCH_LAW_CASES=1 breaks the law\n{e}");
        }
    }
    for (what, times) in &coverage.0 {
        println!("{times:>8}  {what}");
    }
    assert!(coverage.0.contains_key("references: runs are merged"));
    assert!(
        coverage
            .0
            .contains_key("references: facts that met different rows")
    );
}
