//! What must hold after each event: every answer equals a recompute over the facts below its head,
//! and no acknowledged fact is missing.

use std::sync::Arc;

use anabranch_jobs::reader::past::Cut;
use anabranch_shared::view::{View, planning_session};
use anabranch_shared::{
    Error, ErrorKind, Generation, Master, MasterPin, Met, OFFSET, Offset, Offsets, PARTITION, Pin,
    Pinner, ReadMode, TopicPin, ViewPin,
};
use anabranch_speed::{Following, follow_log};
use anabranch_tests::commands::ensure_same;
use arrow::array::{Array, ArrayRef, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::prelude::{DataFrame, SessionContext};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::SPILLED;
use super::world::{Machine, World, WorldView, fold_options, is_late};

impl World<'_> {
    /// Checks the answers of everyone who answers.
    pub(crate) async fn check(&mut self) -> anyhow::Result<()> {
        self.coverage.count("checks");
        if let Some(held) = self.held.take() {
            self.coverage.count("checks: of a pin that was held");
            self.check_pin(&held, ReadMode::Merged).await?;
        }
        let pin = self.pin_by_hand().await?;
        self.check_pin(&pin, ReadMode::Merged).await?;
        self.check_past().await?;
        for i in 0..self.machines.len() {
            let Some(daemon) = self.machines[i].daemon.clone() else {
                continue;
            };
            let mode = match self.rng.random_bool(0.15) {
                true => ReadMode::Batch,
                false => ReadMode::Merged,
            };
            let mut names = ["facts", "dead_letters"].map(str::to_owned).to_vec();
            let stream = self.machines[i].stream()?;
            let all = self.views.iter().flat_map(WorldView::relations);
            // What is built beside is served once the daemon has looked at the catalogue.
            let served =
                all.filter(|(name, _)| !name.contains('.') || stream.served(name).is_some());
            names.extend(served.map(|(name, _)| name));
            let relations = names.len() - 2;
            let pin = match daemon.pin(&names, mode).await {
                // Nothing is answered by a field that could not be taken.
                Err(e)
                    if e.kind() == ErrorKind::Unavailable
                        && e.to_string().contains("is not taken yet") =>
                {
                    self.coverage
                        .count("checks: of a daemon that has not taken a field");
                    daemon.follow_catalogue().await;
                    daemon.pin(&names, mode).await?
                }
                // Its loop would have looked at the catalogue by now.
                Err(e) if e.kind() == ErrorKind::Unavailable && self.is_superseded(i)? => {
                    self.coverage
                        .count("checks: of a daemon whose generation lost its facts");
                    daemon.follow_catalogue().await;
                    daemon.pin(&names, mode).await?
                }
                pin => pin?,
            };
            self.coverage.count("checks: of a daemon");
            self.check_complete(i, &pin, mode, relations)?;
            if self.living.is_some() && mode == ReadMode::Merged {
                self.coverage
                    .count("checks: of a daemon that asks the others");
                self.check_gathered(&pin)?;
            }
            self.check_pin(&pin, mode).await?;
            if mode == ReadMode::Merged && self.rng.random_bool(0.5) {
                self.held = Some(pin);
            }
            self.check_beside(i).await?;
        }
        Ok(())
    }

    /// Whether a daemon goes on with a generation that is none any more, and whose facts are gone.
    fn is_superseded(&self, i: usize) -> anyhow::Result<bool> {
        let stream = self.machines[i].stream()?;
        let superseded = stream.with_delta(|d| d.views.values().any(|v| v.superseded));
        let is_old = |v: &WorldView| stream.served(v.name) != Some(v.generation());
        Ok(superseded && self.views.iter().any(is_old))
    }

    /// Whatever a daemon acknowledged is in its answers.
    fn check_complete(
        &self,
        i: usize,
        pin: &Pin,
        mode: ReadMode,
        relations: usize,
    ) -> anyhow::Result<()> {
        let partition = self.machines[i].stream()?.partition();
        let end = Offset(self.acknowledged_end(partition));
        let heads = pin.topics.get("facts").map(|t| &t.head).into_iter();
        let views = pin.views.values().map(|v| &v.head);
        let merged = views.filter(|_| mode == ReadMode::Merged);
        for head in heads.chain(merged) {
            let found = head.get(partition);
            anyhow::ensure!(
                found == end,
                "partition {partition}: acknowledged up to {end}, answered up to {found}"
            );
        }
        anyhow::ensure!(
            pin.views.len() == relations && pin.topics.contains_key("facts"),
            "the daemon does not serve the views and the topic"
        );
        let mut heads = pin.views.values().map(|v| &v.head);
        let first = heads.next();
        anyhow::ensure!(
            mode == ReadMode::Batch || heads.all(|head| Some(head) == first),
            "the views of one pin end at different heads"
        );
        Ok(())
    }

    /// Whatever any daemon holds is in the answers of each.
    fn check_gathered(&self, pin: &Pin) -> anyhow::Result<()> {
        for machine in self.machines.iter().filter(|m| m.daemon.is_some()) {
            let stream = machine.stream()?;
            let lanes = stream.with_delta(|d| d.lanes.clone());
            for (partition, end) in lanes {
                let heads = pin.topics.get("facts").map(|t| &t.head).into_iter();
                for head in heads.chain(pin.views.values().map(|v| &v.head)) {
                    let found = head.get(partition);
                    anyhow::ensure!(
                        found >= end,
                        "partition {partition}: a daemon holds facts up to {end}, answered up to {found}"
                    );
                }
            }
        }
        anyhow::ensure!(pin.notes.is_empty(), "{:?}", pin.notes);
        Ok(())
    }

    /// The views at the log's head, without a daemon: each with a delta of pieces cut at a random
    /// place.
    pub(crate) async fn pin_by_hand(&mut self) -> anyhow::Result<Pin> {
        self.log.refresh().await?;
        let head = self.log.head();
        let mut all = Pin::default();
        let relations: Vec<_> = self.views.iter().flat_map(WorldView::relations).collect();
        for (name, master) in relations {
            let view = self.pin_view_by_hand(&master, &head).await?;
            all.views.insert(name, view);
        }
        Ok(all)
    }

    async fn pin_view_by_hand(
        &mut self,
        master: &Arc<Master>,
        head: &Offsets,
    ) -> anyhow::Result<ViewPin> {
        master.refresh().await?;
        let pin = master.pin();
        let mut middle = Offsets::default();
        for (p, end) in head.iter() {
            let start = pin.boundary.get(p).0;
            middle.set(p, Offset(self.rng.random_range(start..=end.0.max(start))));
        }
        let following = Following::unbounded(fold_options());
        let mut delta = Vec::new();
        for (from, to) in [(&pin.boundary, &middle), (&middle, head)] {
            let pieces = follow_log(&self.log, master, from, to, &following).await?;
            delta.extend(pieces.iter().flat_map(|p| p.parts.clone()));
        }
        Ok(ViewPin {
            view: master.view().clone(),
            generation: master.generation(),
            boundary: pin.boundary,
            head: head.clone(),
            root: master.table().root().clone(),
            files: pin.files,
            delta,
            met: Met::default(),
        })
    }

    /// Now and then the views as they were at a random place of the log.
    async fn check_past(&mut self) -> anyhow::Result<()> {
        let (low, head, mut at) = (self.log.low(), self.log.head(), Offsets::default());
        // Random numbers of its own: those of the case choose what happens.
        let sum = head.iter().map(|(_, end)| end.0.unsigned_abs()).sum();
        let mut rng = SmallRng::seed_from_u64(sum);
        if rng.random_bool(0.7) {
            return Ok(());
        }
        for (p, end) in head.iter() {
            let all = self.acknowledged.iter().chain(&self.sourced);
            let of_it = all.filter(|a| a.partition == p);
            let ends = of_it.map(|a| a.range.end);
            let ends = ends.filter(|e| (low.get(p)..=end).contains(e));
            let ends: Vec<Offset> = ends.chain([low.get(p)]).collect();
            at.set(p, ends.choose(&mut rng).copied().unwrap_or_default());
        }
        let relations: Vec<_> = self.views.iter().flat_map(WorldView::relations).collect();
        for (name, master) in relations {
            let from = self.view(&name)?.start_of(master.generation());
            if !at.covers(&from) {
                continue;
            }
            let cut = Cut::of(&master, &at)?;
            let is_folded = cut.left() > 0;
            let following = Following::unbounded(fold_options());
            let view = match cut.folded(&master, &self.log, &following).await {
                // States across the place hold facts that retention has removed.
                Err(Error::BelowLow { .. }) => {
                    self.coverage.count("checks: of a past that is gone");
                    continue;
                }
                view => view?,
            };
            self.coverage.count(match is_folded {
                true => "checks: of a past, folded anew",
                false => "checks: of a past that states end at",
            });
            let expected = self.recompute(&view.view, &from, &at).await;
            let mut pin = Pin::default();
            pin.views.insert(name.clone(), view);
            let found = self.ask(&format!("SELECT * FROM {name}"), &pin).await;
            self.ensure_alike(expected, found)
                .map_err(|e| anyhow::anyhow!("{name} as of [{at}]: {e}"))?;
        }
        Ok(())
    }

    async fn recompute(
        &self,
        view: &View,
        from: &Offsets,
        head: &Offsets,
    ) -> anyhow::Result<Vec<RecordBatch>> {
        let session = planning_session()?;
        let facts = MemTable::try_new(self.whole.schema(), vec![self.facts_between(from, head)?])?;
        let plan = view.recompute_plan(Arc::new(facts))?;
        let rows = DataFrame::new(session.state(), plan).collect().await;
        Ok(rows.map_err(Error::from)?)
    }

    pub(crate) async fn ask(
        &self,
        sql: &str,
        pin: &Pin,
    ) -> anyhow::Result<(SchemaRef, Vec<RecordBatch>)> {
        let answer = self.service.query_on(sql, pin, ReadMode::Merged).await?;
        let schema = answer.schema.clone();
        let rows = datafusion::physical_plan::common::collect(answer.stream).await;
        Ok((schema, rows.map_err(Error::from)?))
    }

    async fn check_pin(&mut self, pin: &Pin, mode: ReadMode) -> anyhow::Result<()> {
        if mode == ReadMode::Batch {
            self.coverage.count("checks: batch alone");
        }
        for (name, view) in &pin.views {
            if view.delta.iter().any(|part| part.spilled_bytes() > 0) {
                self.coverage.count(SPILLED);
            }
            let found = self.ask(&format!("SELECT * FROM {name}"), pin).await;
            let from = self.view(name)?.start_of(view.generation);
            let expected = self.recompute(&view.view, &from, &view.head).await;
            if name.contains('.') {
                self.coverage
                    .count("checks: of a generation that does not answer");
                self.ensure_alike(expected, found)
                    .map_err(|e| anyhow::anyhow!("{name}: {e}"))?;
                continue;
            }
            match self.ensure_alike(expected, found)? {
                Some((schema, expected)) => {
                    let of_view = (name.as_str(), &schema, expected.as_slice());
                    self.check_filtered(pin, of_view).await?;
                    self.check_combine(pin, view).await?;
                }
                // A filter on a value reads the sum that is out of range.
                None => self.check_combine(pin, view).await?,
            }
            let low = pin.topics.get("facts").map(|t| t.low.clone());
            self.check_kept(view, &low.unwrap_or_else(|| self.log.low()))
                .await?;
        }
        // The dead letters are of all topics, and the one beside has none.
        if let Some(topic) = pin.topics.get("facts") {
            self.check_topic(pin, topic, &topic.low, &topic.head)
                .await?;
        }
        Ok(())
    }

    /// Both sides give the same rows, which are returned, or both find a sum out of range.
    fn ensure_alike(
        &mut self,
        expected: anyhow::Result<Vec<RecordBatch>>,
        found: anyhow::Result<(SchemaRef, Vec<RecordBatch>)>,
    ) -> anyhow::Result<Option<(SchemaRef, Vec<RecordBatch>)>> {
        if let (Err(a), Err(b)) = (&expected, &found)
            && is_out_of_range(a)
            && is_out_of_range(b)
        {
            self.coverage.count("checks: of a sum that is out of range");
            return Ok(None);
        }
        let (expected, (schema, found)) = (expected?, found?);
        ensure_same(&schema, &expected, &found)?;
        Ok(Some((schema, expected)))
    }

    /// With a filter on a key, which goes down to files and pieces.
    async fn check_filtered(
        &mut self,
        pin: &Pin,
        (name, schema, expected): (&str, &SchemaRef, &[RecordBatch]),
    ) -> anyhow::Result<()> {
        let Some(key) = schema.fields().iter().find(|f| f.name() == "k0") else {
            return Ok(());
        };
        let values = expected.iter().filter_map(|b| b.column_by_name("k0"));
        let values: Vec<String> = values.flat_map(literals).collect();
        let value = values.choose(&mut self.rng);
        let filter = match (value, self.rng.random_range(0..8)) {
            (None, _) | (_, 0) => "k0 IS NULL".to_owned(),
            (_, 1) => "k0 IS NOT NULL".to_owned(),
            (Some(v), 2) => format!("k0 <> {v}"),
            (Some(v), 3) => format!("k0 < {v}"),
            (Some(v), 4) => format!("k0 >= {v}"),
            (Some(v), 5) => format!("NOT k0 < {v}"),
            (Some(v), 6) => format!("k0 IN ({v}, {})", values[0]),
            (Some(v), _) => format!("k0 = {v}"),
        };
        self.coverage
            .count(&format!("checks: filter on a key of {}", key.data_type()));
        let sql = format!("SELECT * FROM {name} WHERE {filter}");
        let (found_schema, found) = self.ask(&sql, pin).await?;
        let plain = SessionContext::new();
        let schema = expected.first().map_or(schema.clone(), RecordBatch::schema);
        let table = MemTable::try_new(schema, vec![expected.to_vec()])?;
        plain.register_table(name, Arc::new(table))?;
        let expected = plain.sql(&sql).await?.collect().await?;
        ensure_same(&found_schema, &expected, &found).map_err(|e| anyhow::anyhow!("{filter}: {e}"))
    }

    /// As `verify` does: without the runs of what retention has removed, against what it has not.
    async fn check_kept(&mut self, view: &ViewPin, low: &Offsets) -> anyhow::Result<()> {
        // A daemon goes on by its pieces where it has not seen that the boundary was moved.
        if *low == Offsets::default() || !view.boundary.covers(low) {
            return Ok(());
        }
        self.coverage.count("checks: from the low on");
        let removed = self.log.low();
        let gone = self.log.files_between(&Offsets::default(), &removed);
        anyhow::ensure!(
            removed == Offsets::default() || matches!(gone, Err(Error::BelowLow { .. })),
            "facts below [{removed}] are gone, and whoever reads them finds {gone:?}"
        );
        let kept = ViewPin {
            files: MasterPin::files_from(&view.files, low)?,
            ..view.clone()
        };
        let mut pin = Pin::default();
        let name = view.view.name();
        pin.views.insert(name.to_owned(), kept);
        let found = self.ask(&format!("SELECT * FROM {name}"), &pin).await;
        let expected = self.recompute(&view.view, low, &view.head).await;
        self.ensure_alike(expected, found).map(|_| ())
    }

    /// `combine` at another grain, filtered before it, in it, or not at all.
    async fn check_combine(&mut self, pin: &Pin, view: &ViewPin) -> anyhow::Result<()> {
        let (name, sql) = (view.view.name(), &view.view.definition().sql);
        let definitions = &self.view(name)?.definitions;
        let random = definitions.iter().find(|d| d.sql == *sql);
        let Some(rolled) = random.and_then(|r| r.rolled_up.clone()) else {
            return Ok(());
        };
        self.coverage.count("checks: combine");
        let combined = rolled.combined(&mut self.rng, name);
        self.coverage
            .count(&format!("checks: combine {}", combined.covers));
        let compiled = View::compile("rolled", &combined.over_facts, &self.topic)?;
        let found = self.ask(&combined.over_view, pin).await;
        let from = self.view(name)?.start_of(view.generation);
        let expected = self.recompute(&compiled, &from, &view.head).await;
        self.ensure_alike(expected, found)
            .map(|_| ())
            .map_err(|e| anyhow::anyhow!("{}: {e}", combined.over_view))
    }

    /// The facts and the dead letters themselves.
    async fn check_topic(
        &mut self,
        pin: &Pin,
        topic: &TopicPin,
        low: &Offsets,
        head: &Offsets,
    ) -> anyhow::Result<()> {
        let mut columns = format!("{PARTITION}, {OFFSET}, ts, n, s, list");
        let late = topic.topic.fields.iter().filter(|f| is_late(&f.name));
        let late: Vec<&str> = late.map(|f| f.name.as_str()).collect();
        late.iter().for_each(|name| columns += &format!(", {name}"));
        let (schema, found) = self
            .ask(&format!("SELECT {columns} FROM facts"), pin)
            .await?;
        let expected = self.facts_between(low, head)?;
        let expected = expected.iter().map(|b| {
            let columns = schema
                .fields()
                .iter()
                .map(|f| b.schema().index_of(f.name()));
            b.project(&columns.collect::<Result<Vec<_>, _>>()?)
        });
        let expected = expected.collect::<Result<Vec<_>, _>>()?;
        ensure_same(&schema, &expected, &found)?;
        self.check_topic_filtered(pin, &late, low, head).await?;
        let sql = format!("SELECT {PARTITION}, {OFFSET} FROM dead_letters");
        let (schema, found) = self.ask(&sql, pin).await?;
        let dead: Vec<(i32, i64)> = self
            .acknowledged_between(low, head)?
            .into_iter()
            .flat_map(|a| a.dead.iter().map(|d| (a.partition.0, *d)))
            .collect();
        let (partitions, offsets): (Vec<i32>, Vec<i64>) = dead.into_iter().unzip();
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(Int32Array::from(partitions)),
            Arc::new(Int64Array::from(offsets)),
        ];
        ensure_same(
            &schema,
            &[RecordBatch::try_new(schema.clone(), columns)?],
            &found,
        )
    }

    /// With filters, also those that the engine finds while it runs: of NaN statistics say nothing.
    async fn check_topic_filtered(
        &mut self,
        pin: &Pin,
        late: &[&str],
        low: &Offsets,
        head: &Offsets,
    ) -> anyhow::Result<()> {
        let plain = SessionContext::new();
        let table = MemTable::try_new(self.whole.schema(), vec![self.facts_between(low, head)?])?;
        plain.register_table("facts", Arc::new(table))?;
        let least = self.rng.random_range(-1_000..1_000);
        let queries = [
            format!("SELECT f, n FROM facts WHERE f > {least} / 8.0 AND n < 10"),
            "SELECT f FROM facts ORDER BY f DESC NULLS LAST LIMIT 3".to_owned(),
            "SELECT max(ts) AS newest, count(*) AS facts FROM facts WHERE f32 <> 1.5".to_owned(),
        ];
        let of_late = late.choose(&mut self.rng).map(|name| match *name {
            "late_s" => "SELECT late_s, n FROM facts WHERE late_s = 'a'",
            "late_n" => "SELECT late_n, s FROM facts WHERE late_n > 10",
            "late_b" => "SELECT n FROM facts WHERE late_b",
            _ => "SELECT count(*) AS facts FROM facts WHERE late_at < TIMESTAMP '1980-01-01T00:00:00Z'",
        });
        let sql = match of_late {
            Some(sql) if self.rng.random_bool(0.5) => sql,
            _ => queries[self.rng.random_range(0..queries.len())].as_str(),
        };
        self.coverage.count("checks: filter on a topic");
        let (schema, found) = self.ask(sql, pin).await?;
        let expected = plain.sql(sql).await?.collect().await?;
        ensure_same(&schema, &expected, &found).map_err(|e| anyhow::anyhow!("{sql}: {e}"))
    }

    /// Everybody lands and follows: then all that was acknowledged is in the log, once.
    pub(crate) async fn settle(&mut self) -> anyhow::Result<()> {
        for i in 0..self.machines.len() {
            if self.machines[i].daemon.is_none() {
                self.start(i).await?;
            }
            let stream = self.machines[i].stream()?;
            while stream.upkeep().land().await? > 0 {}
            self.settle_beside(i).await?;
        }
        for machine in &self.machines {
            machine.stream()?.upkeep().follow().await?;
            if let Some(daemon) = &machine.daemon {
                daemon.follow_catalogue().await;
            }
        }
        self.check().await?;
        self.check_beside_landed().await?;
        let head = self.log.head();
        for a in &self.acknowledged {
            anyhow::ensure!(
                head.get(a.partition) >= a.range.end,
                "partition {}: {} was acknowledged and is not in the log",
                a.partition,
                a.range
            );
        }
        for (name, master) in self.views.iter().flat_map(WorldView::relations) {
            let served = |m: &Machine| m.stream().ok()?.served(&name);
            let served: Vec<Generation> = self.machines.iter().filter_map(served).collect();
            anyhow::ensure!(
                served.iter().all(|g| *g == master.generation()),
                "a daemon answers by generation {served:?} of `{name}`, it is {}",
                master.generation()
            );
        }
        Ok(())
    }
}

/// Whether it is because of a sum that its type does not hold.
pub(crate) fn is_out_of_range(e: &anyhow::Error) -> bool {
    e.to_string().contains("which bigint does not hold")
}

/// The values of a key as SQL, but for NULL.
fn literals(values: &ArrayRef) -> Vec<String> {
    let of_type = |v: String| match values.data_type() {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => v,
        DataType::Boolean => v,
        DataType::Float64 => format!("CAST('{v}' AS DOUBLE)"),
        DataType::Date32 => format!("DATE '{v}'"),
        DataType::Timestamp(_, _) => format!("CAST('{v}' AS TIMESTAMPTZ)"),
        DataType::Decimal128(p, s) => format!("CAST('{v}' AS DECIMAL({p}, {s}))"),
        _ => format!("'{}'", v.replace('\'', "''")),
    };
    let options = FormatOptions::default();
    let Ok(shown) = ArrayFormatter::try_new(values, &options) else {
        return Vec::new();
    };
    let valid = (0..values.len()).filter(|i| values.is_valid(*i));
    valid.map(|i| of_type(shown.value(i).to_string())).collect()
}
