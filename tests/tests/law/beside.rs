//! Another topic of the same daemons: numbered facts and a view that counts them. What the two topics
//! share (threads, turns, bounds of memory and disk, one folder of WALs) may mix nothing up.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_batch::refresh;
use anabranch_shared::settings::{FieldReads, FieldType};
use anabranch_shared::view::View;
use anabranch_shared::{
    Catalogue, Log, Master, Offsets, PartitionId, Pinner, ReadMode, Storage, Topic, TopicField,
};
use anabranch_speed::{BodyFormat, RequestBody, Write};
use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use rand::Rng;

use super::events::unless_faulty;
use super::world::{NOW, World, batch_options, first_generation};

/// The topic's name.
pub(crate) const TOPIC: &str = "beside";

const VIEW: &str = "beside_counts";

/// The topic, as the batch process has it, and what of it was acknowledged.
pub(crate) struct Beside {
    log: Arc<Log>,
    master: Arc<Master>,
    /// The end of each partition. A fact's `id` is its offset.
    acknowledged: BTreeMap<PartitionId, i64>,
}

fn topic() -> Topic {
    let field = |name: &str, field_type| TopicField {
        name: name.to_owned(),
        field_type,
        nullable: false,
        reads: FieldReads::default(),
    };
    Topic {
        name: TOPIC.to_owned(),
        event_time: "ts".to_owned(),
        fields: vec![
            field("ts", FieldType::Timestamp),
            field("id", FieldType::BigInt),
        ],
    }
}

impl Beside {
    pub(crate) async fn new(storage: &Storage, catalogue: &Catalogue) -> anyhow::Result<Self> {
        let topic = topic();
        catalogue.declare_topic(&topic).await?;
        let sql = format!("SELECT count(*) AS facts, sum(id) AS ids FROM {TOPIC}");
        let view = Arc::new(View::compile(VIEW, &sql, &topic)?);
        Ok(Self {
            log: Arc::new(Log::open(storage, &topic, NOW).await?),
            master: first_generation(storage, catalogue, &view).await?,
            acknowledged: BTreeMap::new(),
        })
    }

    /// The batch process starts anew.
    pub(crate) async fn reopen(&mut self, storage: &Storage) -> anyhow::Result<()> {
        self.log = Arc::new(Log::open(storage, &topic(), NOW).await?);
        let view = self.master.view();
        let view = Arc::new(View::from_definition(VIEW, view.definition())?);
        let generation = self.master.generation();
        self.master = Arc::new(Master::open(storage, &view, generation, NOW).await?);
        Ok(())
    }
}

impl World<'_> {
    /// A daemon takes facts of the other topic, and perhaps lands them.
    pub(crate) async fn write_beside(&mut self, i: usize) -> anyhow::Result<()> {
        let Some(beside) = &mut self.beside else {
            return Ok(());
        };
        self.coverage.count("event: write beside");
        let stream = self.machines[i].stream_of(TOPIC)?;
        let partition = stream.partition();
        let end = beside.acknowledged.entry(partition).or_default();
        let rows = self.rng.random_range(1..30);
        let line = |id| format!("{{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":{id}}}\n");
        let body: String = (*end..*end + rows).map(line).collect();
        let body = RequestBody::plain(body.into(), BodyFormat::Json);
        let write = stream.writer().write(Write::records(body));
        tokio::pin!(write);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut write => break outcome?,
                // One that acknowledges what has landed lands meanwhile.
                landed = async { tokio::task::yield_now().await; stream.upkeep().land().await } => {
                    unless_faulty(landed)?;
                }
            }
        };
        anyhow::ensure!(
            outcome.range.start.0 == *end && outcome.range.end.0 == *end + rows,
            "partition {partition}: a write got {}, the one before it ends at {end}",
            outcome.range
        );
        *end += rows;
        if self.rng.random_bool(0.4) {
            unless_faulty(stream.upkeep().land().await)?;
        }
        if self.rng.random_bool(0.3) {
            unless_faulty(stream.upkeep().follow().await)?;
        }
        Ok(())
    }

    /// The view of the other topic absorbs what has landed of it.
    pub(crate) async fn refresh_beside(&mut self) -> anyhow::Result<()> {
        let Some(Beside { log, master, .. }) = &self.beside else {
            return Ok(());
        };
        log.refresh().await?;
        master.refresh().await?;
        let (head, options) = (log.head(), batch_options(1 << 30));
        unless_faulty(refresh(master, log, &head, &options, || NOW).await)?;
        Ok(())
    }

    /// A daemon lands all that it has of the other topic.
    pub(crate) async fn settle_beside(&self, i: usize) -> anyhow::Result<()> {
        if self.beside.is_none() {
            return Ok(());
        }
        let stream = self.machines[i].stream_of(TOPIC)?;
        while stream.upkeep().land().await? > 0 {}
        Ok(())
    }

    /// All of the other topic that was acknowledged is in its log.
    pub(crate) async fn check_beside_landed(&self) -> anyhow::Result<()> {
        let Some(beside) = &self.beside else {
            return Ok(());
        };
        beside.log.refresh().await?;
        let head = beside.log.head();
        for (partition, end) in &beside.acknowledged {
            let landed = head.get(*partition).0;
            anyhow::ensure!(
                landed == *end,
                "{TOPIC}, partition {partition}: acknowledged up to {end}, landed up to {landed}"
            );
        }
        Ok(())
    }

    /// A daemon counts all facts of the other topic below its head, each once, and all of its own.
    pub(crate) async fn check_beside(&mut self, i: usize) -> anyhow::Result<()> {
        let (Some(beside), Some(daemon)) = (&self.beside, self.machines[i].daemon.clone()) else {
            return Ok(());
        };
        let pin = daemon.pin(&[VIEW.to_owned()], ReadMode::Merged).await?;
        let head = pin.views.get(VIEW).map(|v| v.head.clone());
        let head: Offsets = head.ok_or_else(|| anyhow::anyhow!("no `{VIEW}` is served"))?;
        let own = self.machines[i].stream_of(TOPIC)?.partition();
        let (mut facts, mut ids) = (0, 0);
        for (partition, acknowledged) in &beside.acknowledged {
            let end = head.get(*partition).0;
            anyhow::ensure!(
                end <= *acknowledged && (*partition != own || end == *acknowledged),
                "{TOPIC}, partition {partition}: acknowledged up to {acknowledged}, answered up to {end}"
            );
            facts += end;
            ids += end * (end - 1) / 2;
        }
        self.coverage.count("checks: of the topic beside");
        let sql = format!("SELECT facts, coalesce(ids, 0) AS ids FROM {VIEW}");
        let (_, rows) = self.ask(&sql, &pin).await?;
        let value = |nth: usize| {
            let row = rows.iter().find(|b| b.num_rows() > 0)?;
            let column = row.column(nth).as_primitive_opt::<Int64Type>()?;
            column.is_valid(0).then(|| column.value(0))
        };
        anyhow::ensure!(
            (value(0), value(1)) == (Some(facts), Some(ids)),
            "{TOPIC}: {:?} facts with a sum of {:?}, and not {facts} with {ids}",
            value(0),
            value(1)
        );
        Ok(())
    }
}
