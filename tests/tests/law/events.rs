//! What happens to a case: facts come in, land, are absorbed, daemons and definitions come and go,
//! and the storage fails.

use std::sync::Arc;

use anabranch_batch::{
    CompactOptions, RetentionRule, UpkeepTime, compact, merge_small_runs, rebuild, refresh, retain,
};
use anabranch_shared::settings::Ack;
use anabranch_shared::view::{Definition, View};
use anabranch_shared::{
    Catalogue, CutOverOf, Doer, Error, ErrorKind, GenerationEntry, Landing, Log, Master, Offset,
    OffsetRange, Offsets, PartitionId, Result,
};
use anabranch_speed::{BodyFormat, IngestChunk, RequestBody, TopicStream, Write, WriteOutcome};
use anabranch_tests::{facts, views};
use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{Field, Schema};
use arrow::ipc::writer::StreamWriter;
use rand::Rng;
use rand::seq::IndexedRandom;

use super::world::{Acknowledged, Chunk, NOW, World, batch_options};

/// The first partition of those who land without a daemon.
const OTHERS: i32 = 100;

const HOUR_MS: i64 = 3_600_000;

/// An outcome that a failing storage explains.
pub(crate) fn unless_faulty<T>(outcome: Result<T>) -> anyhow::Result<Option<T>> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        // A commit that was tried again and found itself done is refused at its start.
        Err(e) if e.kind() == ErrorKind::Unavailable || matches!(e, Error::Fenced { .. }) => {
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

impl World<'_> {
    pub(crate) async fn step(&mut self) -> anyhow::Result<()> {
        let i = self.rng.random_range(0..self.machines.len());
        if self.machines[i].daemon.is_none() {
            self.faults.set_percent(0);
            self.coverage.count("event: restart with the WAL");
            return self.start(i).await;
        }
        let faulty = self.rng.random_bool(0.15);
        if faulty {
            self.coverage.count("event: storage fails");
        }
        self.faults.set_percent(if faulty { 40 } else { 0 });
        // Not drawn where there are none, so that cases of before are what they were.
        if self.generations > 0.0 && self.rng.random_bool(self.generations) {
            let done = self.change_generations().await;
            self.faults.set_percent(0);
            return done;
        }
        let done = match self.rng.random_range(0..35) {
            0..=4 => self.write(i).await,
            5 if self.beside.is_some() => self.write_beside(i).await,
            5 => self.write(i).await,
            6..=8 => self.land_own(i).await,
            9..=10 => self.land_other().await,
            11..=12 => self.follow(i).await,
            13..=14 => self.refresh().await,
            15 => self.rebuild().await,
            16 => self.merge().await,
            17 => self.redefine().await,
            18 => self.reopen_batch().await,
            19 => self.repeat_chunk(i).await,
            20 => self.other_format().await,
            21..=24 => self.fetch(i).await,
            25 => self.leave(i).await,
            26..=27 => self.compact().await,
            28..=31 => self.retain().await,
            32..=33 => self.declare().await,

            _ => {
                self.coverage.count("event: daemon crashes");
                self.machines[i].crash()
            }
        };
        self.faults.set_percent(0);
        done
    }

    /// A daemon takes a request, some of whose records are dead letters.
    pub(crate) async fn write(&mut self, i: usize) -> anyhow::Result<()> {
        self.coverage.count("event: write");
        let rows = self.rng.random_range(0..30);
        let fields = facts::fields(&mut self.rng, &self.whole, rows)?;
        let alive: BooleanArray = (0..rows).map(|_| Some(self.rng.random_bool(0.9))).collect();
        let records = with_faults(&fields, &alive)?;
        let chunk = self.rng.random_bool(0.3).then(|| Chunk {
            id: format!("file-{i}"),
            from: self.machines[i]
                .chunk
                .as_ref()
                .map_or(0, |c| c.from + c.records.num_rows() as u64),
            records: records.clone(),
        });
        let stream = self.machines[i].stream()?;
        let outcome = self.send(&stream, &records, chunk.as_ref()).await?;
        let Some(outcome) = outcome else {
            return Ok(());
        };
        anyhow::ensure!(
            !outcome.repeated || rows == 0,
            "a first write counts as repeated"
        );
        let dead: Vec<i64> = (0..rows)
            .filter(|&r| !alive.value(r))
            .map(|r| outcome.range.start.0 + r as i64)
            .collect();
        anyhow::ensure!(
            outcome.dead.len() == dead.len() && outcome.facts as usize == rows - dead.len(),
            "the answer counts {} facts and {} dead letters",
            outcome.facts,
            outcome.dead.len()
        );
        if rows > 0 && chunk.is_some() {
            self.machines[i].chunk = chunk;
        }
        let offsets = (0..rows)
            .filter(|&r| alive.value(r))
            .map(|r| outcome.range.start.0 + r as i64);
        let offsets = offsets.collect();
        let kept = arrow::compute::filter_record_batch(&fields, &alive)?;
        let start = self.acknowledged_end(outcome.partition);
        anyhow::ensure!(
            rows == 0 || outcome.range.start.0 == start,
            "partition {}: a write got {}, the one before it ends at {start}",
            outcome.partition,
            outcome.range
        );
        self.acknowledged.push(Acknowledged {
            partition: outcome.partition,
            range: OffsetRange::new(Offset(start), Offset(start + rows as i64)),
            facts: facts::placed(&kept, &self.whole, outcome.partition, offsets)?,
            dead,
        });
        Ok(())
    }

    /// Sends records to a daemon; one that acknowledges what has landed lands meanwhile.
    async fn send(
        &self,
        stream: &Arc<TopicStream>,
        records: &RecordBatch,
        chunk: Option<&Chunk>,
    ) -> anyhow::Result<Option<WriteOutcome>> {
        let ingest = chunk.map(|c| IngestChunk {
            id: c.id.clone(),
            from: c.from,
        });
        let mut body = Vec::new();
        let mut encoder = StreamWriter::try_new(&mut body, &records.schema())?;
        encoder.write(records)?;
        encoder.finish()?;
        let write = Write {
            chunk: ingest,
            ..Write::records(RequestBody::plain(body.into(), BodyFormat::Arrow))
        };
        let write = stream.writer().write(write);
        tokio::pin!(write);
        loop {
            tokio::select! {
                biased;
                outcome = &mut write => return Ok(Some(outcome?)),
                landed = async { tokio::task::yield_now().await; stream.upkeep().land().await } => {
                    unless_faulty(landed)?;
                }
            }
        }
    }

    /// A chunk of a file is sent again: nothing may be added.
    async fn repeat_chunk(&mut self, i: usize) -> anyhow::Result<()> {
        let Some(chunk) = self.machines[i].chunk.clone() else {
            return Ok(());
        };
        self.coverage.count("event: chunk sent again");
        let stream = self.machines[i].stream()?;
        let outcome = self.send(&stream, &chunk.records, Some(&chunk)).await?;
        anyhow::ensure!(
            outcome.is_some_and(|o| o.repeated),
            "a chunk that was sent again was written again"
        );
        Ok(())
    }

    async fn land_own(&mut self, i: usize) -> anyhow::Result<()> {
        self.coverage.count("event: landing");
        if self.machines[i].ack == Ack::Landed {
            self.coverage
                .count("event: landing before the acknowledgement");
        }
        unless_faulty(self.machines[i].stream()?.upkeep().land().await)?;
        Ok(())
    }

    /// Somebody lands in partitions of their own, with unused offsets.
    async fn land_other(&mut self) -> anyhow::Result<()> {
        self.coverage.count("event: landing of somebody else");
        let mut landing = Landing::default();
        let mut acknowledged = Vec::new();
        self.log.refresh().await?;
        let head = self.log.head();
        for p in 0..self.rng.random_range(1..3) {
            let partition = PartitionId(OTHERS + p);
            let first = head.get(partition);
            let rows = self.rng.random_range(0..30);
            let (batch, end) = facts::facts(&mut self.rng, &self.whole, partition, first, rows)?;
            if first == end {
                continue;
            }
            let range = OffsetRange::new(first, end);
            landing.ranges.push((partition, range));
            landing
                .facts
                .push(facts::stored(&batch, &self.log.topic())?);
            acknowledged.push(Acknowledged {
                partition,
                range,
                facts: batch,
                dead: Vec::new(),
            });
        }
        if landing.ranges.is_empty() {
            return Ok(());
        }
        let landed = unless_faulty(self.log.land(&landing, NOW).await)?;
        self.faults.set_percent(0);
        self.log.refresh().await?;
        let head = self.log.head();
        let there = landing.ranges.iter().filter(|(p, r)| head.get(*p) >= r.end);
        let there = there.count();
        anyhow::ensure!(
            there == 0 || there == landing.ranges.len(),
            "half of a commit is there"
        );
        anyhow::ensure!(
            landed.is_none() || there > 0,
            "a commit that succeeded is not there"
        );
        if there > 0 {
            self.acknowledged.extend(acknowledged);
        }
        Ok(())
    }

    async fn follow(&mut self, i: usize) -> anyhow::Result<()> {
        self.coverage.count("event: daemon follows");
        unless_faulty(self.machines[i].stream()?.upkeep().follow().await)?;
        if let Some(daemon) = self.machines[i].daemon.clone()
            && self.rng.random_bool(0.7)
        {
            daemon.follow_catalogue().await;
        }
        Ok(())
    }

    async fn refresh(&mut self) -> anyhow::Result<()> {
        self.coverage.count("event: refresh");
        self.log.refresh().await?;
        let head = self.log.head();
        let left_out = match self.rng.random_bool(0.5) {
            true => self.views.len(),
            false => self.any_view(),
        };
        let options = batch_options(1 << 30);
        for (nth, view) in self.views.iter().enumerate() {
            // A view alone is always refreshed; of several one may stay behind.
            if nth == left_out && self.views.len() > 1 {
                continue;
            }
            view.master.refresh().await?;
            unless_faulty(refresh(&view.master, &self.log, &head, &options, || NOW).await)?;
            // As a job does, for who has a roll-back in mind.
            if let Some(kept) = &view.previous
                && self.rng.random_bool(0.7)
            {
                kept.master.refresh().await?;
                unless_faulty(refresh(&kept.master, &self.log, &head, &options, || NOW).await)?;
            }
        }
        if self.rng.random_bool(0.5) {
            self.refresh_beside().await?;
        }
        Ok(())
    }

    async fn rebuild(&mut self) -> anyhow::Result<()> {
        self.coverage.count("event: rebuild");
        // A small bound of memory makes many files; a head read early makes later runs.
        let memory = if self.rng.random_bool(0.5) {
            1
        } else {
            1 << 30
        };
        let head = self.log.head();
        if self.rng.random_bool(0.4) {
            self.coverage.count("event: refresh during a rebuild");
            Box::pin(self.land_other()).await?;
            Box::pin(self.refresh()).await?;
        }
        let options = batch_options(memory);
        let nth = self.any_view();
        let master = &self.views[nth].master;
        unless_faulty(rebuild(master, &self.log, &head, &options, || NOW).await)?;
        Ok(())
    }

    async fn merge(&mut self) -> anyhow::Result<()> {
        self.coverage.count("event: merge runs");
        for _ in 0..self.rng.random_range(0..9) {
            Box::pin(self.land_other()).await?;
            Box::pin(self.refresh()).await?;
        }
        let nth = self.any_view();
        let (master, options) = (&self.views[nth].master, batch_options(1 << 30));
        unless_faulty(merge_small_runs(master, &self.log, &options, NOW).await)?;
        Ok(())
    }

    /// The log's small files are merged, sometimes by two processes at once.
    async fn compact(&mut self) -> anyhow::Result<()> {
        self.coverage.count("event: compaction");
        for _ in 0..self.rng.random_range(0..5) {
            Box::pin(self.land_other()).await?;
        }
        if !self.batch_knows_all_fields().await? {
            return Ok(());
        }
        // About twice what a landing's file has: a few neighbours are worth merging.
        let below_bytes = self.rng.random_range(6_500..13_000);
        let options = CompactOptions {
            below_bytes,
            to_bytes: self.rng.random_range(below_bytes..1 << 20),
            stop: Arc::default(),
        };
        if self.rng.random_bool(0.7) {
            return self.compact_once(&options).await;
        }
        self.coverage.count("event: two compactions at once");
        let other = Log::open(&self.storage, &self.topic, NOW).await;
        let Some(other) = unless_faulty(other)? else {
            return Ok(());
        };
        let (a, b) = tokio::join!(
            compact(&self.log, &options, || NOW),
            compact(&other, &options, || NOW)
        );
        for done in [unless_faulty(a)?, unless_faulty(b)?] {
            if done.is_some_and(|d| d.files > 0) {
                self.coverage.count("event: compaction that merges files");
            }
        }
        Ok(())
    }

    async fn compact_once(&mut self, options: &CompactOptions) -> anyhow::Result<()> {
        let done = unless_faulty(compact(&self.log, options, || NOW).await)?;
        if done.is_some_and(|d| d.files > 0) {
            self.coverage.count("event: compaction that merges files");
        }
        Ok(())
    }

    /// Facts are removed that are old, or too many; sometimes by two processes at once.
    async fn retain(&mut self) -> anyhow::Result<()> {
        self.coverage.count("event: retention");
        if !self.batch_knows_all_fields().await? {
            return Ok(());
        }
        if self.rng.random_bool(0.3) {
            Box::pin(self.land_other()).await?;
        }
        if self.rng.random_bool(0.7) {
            Box::pin(self.refresh()).await?;
        }
        self.passed_ms += self.rng.random_range(0..3 * HOUR_MS);
        let now = UpkeepTime::driven(NOW + self.passed_ms);
        let by_age = self.rng.random_bool(0.7);
        let hours = [0, 0, 1, 1, 2][self.rng.random_range(0..5)];
        let rule = RetentionRule {
            age_ms: by_age.then_some(hours * HOUR_MS),
            size_bytes: (!by_age).then(|| self.rng.random_range(1..20_000)),
            ..Default::default()
        };
        let before = self.log.low();
        if self.rng.random_bool(0.2) {
            self.coverage.count("event: two retentions at once");
            let others = async {
                let log = Log::open(&self.storage, &self.topic, NOW).await?;
                let catalogue = Catalogue::open(&self.storage).await?;
                retain(&self.storage, &catalogue, &log, &rule, &now).await
            };
            let own = retain(&self.storage, &self.catalogue, &self.log, &rule, &now);
            let (own, others) = tokio::join!(own, others);
            unless_faulty(own)?;
            unless_faulty(others)?;
        } else {
            let own = retain(&self.storage, &self.catalogue, &self.log, &rule, &now);
            unless_faulty(own.await)?;
        }
        if self.log.low() != before {
            self.coverage.count("event: retention that removes facts");
        }
        Ok(())
    }

    /// The definition changes: a generation is built beside the live one and cut over.
    async fn redefine(&mut self) -> anyhow::Result<()> {
        self.coverage.count("event: cut-over");
        let nth = self.any_view();
        let name = self.views[nth].name;
        let random = match self.rng.random_bool(0.5) {
            // The same shape over fewer facts: nothing but the answers would tell.
            true => self.views[nth].definitions.last().and_then(views::narrowed),
            false => None,
        };
        let random = match random {
            Some(random) => random,
            None => self.random_view(),
        };
        let view = Arc::new(View::compile(name, &random.sql, &self.topic)?);
        let built = async {
            self.log.refresh().await?;
            let generation = self.catalogue.claim_generation(name).await?;
            let master = Arc::new(Master::open(&self.storage, &view, generation, NOW).await?);
            let head = self.log.head();
            let options = batch_options(1 << 30);
            let outcome = rebuild(&master, &self.log, &head, &options, || NOW).await?;
            Ok((master, outcome))
        };
        let Some((master, outcome)) = unless_faulty(built.await)? else {
            return Ok(());
        };
        let entry = GenerationEntry {
            generation: master.generation(),
            definition: view.definition().clone(),
            from: outcome.from.clone(),
        };
        if outcome.from != Offsets::default() {
            self.coverage.count("event: cut-over from a low");
        }
        let starts = &mut self.views[nth].starts;
        starts.insert(master.generation(), outcome.from);
        let from = Some(self.views[nth].generation());
        let cut = self
            .catalogue
            .cut_over_all(
                &[CutOverOf::new(name, from, entry, outcome.boundary.clone())],
                &Doer::default(),
            )
            .await;
        self.faults.set_percent(0);
        if cut.is_err() {
            self.catalogue.refresh().await?;
        }
        let live = self.catalogue.current();
        let live = live
            .views
            .get(name)
            .and_then(|v| v.live.as_ref())
            .map(|l| l.generation);
        anyhow::ensure!(
            cut.is_err() || live == Some(master.generation()),
            "a cut-over that succeeded is not there"
        );
        if live == Some(master.generation()) {
            random.covers.iter().for_each(|c| self.coverage.count(c));
            let view = &mut self.views[nth];
            (view.master, view.candidate, view.previous) = (master, None, None);
            view.definitions.push(random);
        }
        Ok(())
    }

    /// A field is declared that facts have had all along. Who runs goes on by the fields that it
    /// knows, until it takes this one.
    async fn declare(&mut self) -> anyhow::Result<()> {
        let declared = |name: &str| self.topic.fields.iter().any(|f| f.name == name);
        let absent = self.whole.fields.iter().map(|f| f.name.clone());
        let absent: Vec<String> = absent.filter(|name| !declared(name)).collect();
        let Some(name) = absent.choose(&mut self.rng) else {
            return Ok(());
        };
        self.coverage.count("event: a field is declared");
        self.faults.set_percent(0);
        let known = |n: &str| declared(n) || n == name;
        let mut topic = self.whole.clone();
        topic.fields.retain(|f| known(&f.name));
        self.catalogue.declare_topic(&topic).await?;
        self.topic = topic;
        if self.rng.random_bool(0.6) {
            self.log.redeclare(&self.topic, NOW).await?;
        }
        if self.rng.random_bool(0.7) {
            Box::pin(self.redefine()).await?;
        }
        Ok(())
    }

    /// Lets the batch process take all fields: where it knows fewer than some file has, it would
    /// refuse to write the table anew. Returns whether it could.
    async fn batch_knows_all_fields(&mut self) -> anyhow::Result<bool> {
        let known = self.log.redeclare(&self.topic, NOW).await;
        Ok(unless_faulty(known)?.is_some())
    }

    /// The batch process starts anew.
    async fn reopen_batch(&mut self) -> anyhow::Result<()> {
        self.coverage.count("event: batch restarts");
        self.faults.set_percent(0);
        if self.rng.random_bool(0.3) {
            self.coverage.count("event: checkpoint");
            self.log.table().write_checkpoint().await?;
            for view in &self.views {
                view.master.table().write_checkpoint().await?;
            }
        }
        self.catalogue = Arc::new(Catalogue::open(&self.storage).await?);
        self.log = Arc::new(Log::open(&self.storage, &self.topic, NOW).await?);
        for view in &mut self.views {
            let definition = view.master.view().definition();
            let planned = Arc::new(View::from_definition(view.name, definition)?);
            let master = Master::open(&self.storage, &planned, view.generation(), NOW);
            view.master = Arc::new(master.await?);
            for kept in [&mut view.candidate, &mut view.previous]
                .into_iter()
                .flatten()
            {
                let definition = kept.master.view().definition();
                let planned = Arc::new(View::from_definition(view.name, definition)?);
                let generation = kept.master.generation();
                let master = Master::open(&self.storage, &planned, generation, NOW);
                kept.master = Arc::new(master.await?);
            }
        }
        match &mut self.beside {
            Some(beside) => beside.reopen(&self.storage).await,
            None => Ok(()),
        }
    }

    /// Another version of the software, whose states are of another format, looks at the view.
    async fn other_format(&mut self) -> anyhow::Result<()> {
        self.coverage.count("event: states of another format");
        self.faults.set_percent(0);
        let nth = self.any_view();
        let (name, generation) = (self.views[nth].name, self.views[nth].generation());
        let view = self.views[nth].master.view();
        let definition = Definition {
            state_format: format!("{}, later", view.definition().state_format),
            ..view.definition().clone()
        };
        let opened = match View::from_definition(name, &definition) {
            Ok(other) => {
                let other = Arc::new(other);
                Master::open(&self.storage, &other, generation, NOW)
                    .await
                    .map(|_| ())
            }
            Err(e) => Err(e),
        };
        match opened {
            Err(e) if e.kind() == ErrorKind::Conflict => Ok(()),
            Err(e) => Err(e.into()),
            Ok(()) => anyhow::bail!("states of another format were taken for this one's"),
        }
    }
}

/// Records of which some lack their event time, and so become dead letters.
fn with_faults(fields: &RecordBatch, alive: &BooleanArray) -> anyhow::Result<RecordBatch> {
    let dead = arrow::compute::not(alive)?;
    let mut columns: Vec<ArrayRef> = fields.columns().to_vec();
    columns[0] = arrow::compute::nullif(&columns[0], &dead)?;
    let schema = fields.schema();
    let nullable = schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(true));
    let schema = Arc::new(Schema::new(nullable.collect::<Vec<Field>>()));
    // `_extra` is admission's to fill.
    let last = columns.len() - 1;
    let batch = RecordBatch::try_new(schema, columns)?;
    Ok(batch.project(&(0..last).collect::<Vec<_>>())?)
}
