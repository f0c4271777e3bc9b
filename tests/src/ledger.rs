//! What a project's facts must be after all: numbered facts that are sent to a daemon, what was
//! acknowledged of them, and the checks that all of it is there once and that the law holds.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_jobs::clock::now_ms;
use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::client::Client;
use anabranch_jobs::work::verify_view::verify_view;
use anabranch_shared::view::View;
use anabranch_shared::{Master, Offsets, ReadMode};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::util::display::array_value_to_string;

/// Facts of a request, which has a dead letter besides.
pub const REQUEST: i64 = 50;

/// What was sent, and what of it was acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Numbers of acknowledged facts.
    pub acknowledged: BTreeSet<i64>,
    /// Acknowledged dead letters, by the number of their request's first fact.
    pub dead: BTreeSet<i64>,
    /// The first number that was not sent.
    pub next: i64,
}

/// A fact as NDJSON.
pub fn line(id: i64) -> String {
    let word = id % 7;
    format!("{{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":{id},\"word\":\"w{word}\"}}\n")
}

/// A line that becomes a dead letter.
fn dead_line(id: i64) -> String {
    format!("{{\"ts\":\"no time\",\"id\":{id}}}")
}

impl Ledger {
    /// A ledger whose facts begin at a number.
    pub fn from(next: i64) -> Self {
        Self {
            next,
            ..Default::default()
        }
    }

    /// Sends requests until one fails or `most` are sent.
    pub async fn send(mut self, client: &Client, most: usize) -> Self {
        for _ in 0..most {
            let first = self.next;
            let mut body: String = (first..first + REQUEST).map(line).collect();
            body += &dead_line(first);
            self.next += REQUEST;
            if client.write_ndjson("facts", body.into()).await.is_err() {
                return self;
            }
            self.acknowledged.extend(first..first + REQUEST);
            self.dead.insert(first);
        }
        self
    }

    /// As [`Ledger::send`], beside the caller, until a request fails.
    pub fn send_beside(self, client: &Client) -> tokio::task::JoinHandle<Self> {
        let client = client.clone();
        tokio::spawn(async move { self.send(&client, usize::MAX).await })
    }

    /// What both acknowledged.
    pub fn with(mut self, other: &Self) -> Self {
        self.acknowledged.extend(&other.acknowledged);
        self.dead.extend(&other.dead);
        self.next = self.next.max(other.next);
        self
    }

    /// Checks a daemon's answers: what was acknowledged is there once, nothing is there that was
    /// not sent, and the view says of the facts what its SQL says.
    pub async fn check(&self, what: &str, client: &Client, sql: &str) -> anyhow::Result<()> {
        let found = count(client, "SELECT id FROM facts").await?;
        let sent = |id: &i64| (0..self.next).contains(id);
        check_once(&format!("{what}: facts"), &found, &self.acknowledged, sent)?;
        let dead = dead_letters(client).await?;
        let sent = |id: &i64| sent(id) && id % REQUEST == 0;
        check_once(&format!("{what}: dead letters"), &dead, &self.dead, sent)?;
        let merged = rows(client, "SELECT * FROM words ORDER BY word").await?;
        let plain = rows(client, &format!("{sql} ORDER BY word")).await?;
        anyhow::ensure!(
            merged == plain && !merged.is_empty(),
            "{what}: the view says {merged:?}, its SQL says {plain:?}"
        );
        Ok(())
    }
}

fn check_once(
    what: &str,
    found: &BTreeMap<i64, i64>,
    acknowledged: &BTreeSet<i64>,
    sent: impl Fn(&i64) -> bool,
) -> anyhow::Result<()> {
    let example = |mut wrong: Box<dyn Iterator<Item = i64> + '_>| wrong.next();
    let twice = example(Box::new(
        found.iter().filter(|(_, n)| **n != 1).map(|(id, _)| *id),
    ));
    anyhow::ensure!(twice.is_none(), "{what}: there more than once: {twice:?}");
    let lost = acknowledged.iter().copied();
    let lost = example(Box::new(lost.filter(|id| !found.contains_key(id))));
    anyhow::ensure!(lost.is_none(), "{what}: acknowledged and lost: {lost:?}");
    let strange = example(Box::new(found.keys().copied().filter(|id| !sent(id))));
    anyhow::ensure!(strange.is_none(), "{what}: never sent: {strange:?}");
    Ok(())
}

/// How often each number is in the answer to a query of one column of numbers.
pub async fn count(client: &Client, sql: &str) -> anyhow::Result<BTreeMap<i64, i64>> {
    let mut found = BTreeMap::new();
    for batch in client.query(sql, ReadMode::Merged).await?.batches {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        ids.values()
            .iter()
            .for_each(|id| *found.entry(*id).or_default() += 1);
    }
    Ok(found)
}

async fn dead_letters(client: &Client) -> anyhow::Result<BTreeMap<i64, i64>> {
    let sql = "SELECT raw_bytes AS raw FROM dead_letters";
    let mut found = BTreeMap::new();
    for batch in client.query(sql, ReadMode::Merged).await?.batches {
        let raw = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Binary)?;
        for bytes in raw.as_binary::<i32>().iter().flatten() {
            let line: serde_json::Value = serde_json::from_slice(bytes)?;
            let id = line.get("id").and_then(serde_json::Value::as_i64);
            *found.entry(id.unwrap_or(-1)).or_default() += 1;
        }
    }
    Ok(found)
}

/// The rows of an answer, as text.
pub async fn rows(client: &Client, sql: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    for batch in client.query(sql, ReadMode::Merged).await?.batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter();
            rows.push(
                values
                    .map(|c| array_value_to_string(c, row))
                    .collect::<Result<Vec<_>, _>>()?,
            );
        }
    }
    Ok(rows)
}

/// Checks the law as `anabranch verify` does.
pub async fn check_law(what: &str, context: &Context) -> anyhow::Result<()> {
    let compared = verify_view(context, "words", "command").await?;
    anyhow::ensure!(
        compared.is_equal() && compared.rows > 0,
        "{what}: {:?}",
        compared.examples
    );
    Ok(())
}

/// The boundary of the view's live generation.
pub async fn boundary(context: &Context) -> anyhow::Result<Offsets> {
    context.catalogue.refresh().await?;
    let entry = context.catalogue.current();
    let live = entry.views.get("words").and_then(|v| v.live.as_ref());
    let live = live.ok_or_else(|| anyhow::anyhow!("no generation answers"))?;
    let view = std::sync::Arc::new(View::from_definition("words", &live.definition)?);
    let master = Master::open(&context.storage, &view, live.generation, now_ms()).await?;
    Ok(master.boundary())
}
