//! A session of queries: asks a daemon, or answers by itself where none can be reached.

use std::sync::Arc;
use std::time::Duration;

use anabranch_serving::{Caller, Reading, RelationInfo, Setting, SqlService};
use anabranch_shared::{Error, ErrorKind, ReadMode, Receipt, Result};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::Schema;
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::project::context::Context;
use crate::reader::answers::{Answer, Session};
use crate::reader::client::{Client, Remote};
use crate::reader::local_service::local_service_without;

/// A daemon ends a query by its own bound; it may take so long to say that.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who answers.
#[derive(Debug)]
pub enum Answerer {
    /// A running daemon; it asks the others.
    Daemon(Box<Client>),
    /// This process.
    Local(Box<SqlService>),
}

/// A session of the shell.
#[derive(Debug)]
pub struct QuerySession {
    /// The project; none where one daemon is asked by its URL.
    context: Option<Context>,
    answerer: Mutex<Arc<Answerer>>,
    reading: Mutex<Reading>,
}

/// Whoever can answer now.
async fn answerer(context: &Context) -> Result<Arc<Answerer>> {
    let daemons = Client::look(&context.storage).await?;
    Ok(Arc::new(match daemons.alive.into_iter().next() {
        Some(client) => Answerer::Daemon(Box::new(client)),
        None => Answerer::Local(Box::new(local_service_without(context, daemons.silent)?)),
    }))
}

impl QuerySession {
    /// Opens a session: with a daemon if one can be reached.
    pub async fn open(context: &Context) -> Result<Self> {
        Ok(Self {
            context: Some(context.clone()),
            answerer: Mutex::new(answerer(context).await?),
            reading: Mutex::default(),
        })
    }

    /// Opens a session with one daemon, without a project.
    ///
    /// # Errors
    /// Those of [`Client::at`].
    pub async fn remote(remote: &Remote) -> Result<Self> {
        let client = Client::at(remote).await?;
        let answerer = Arc::new(Answerer::Daemon(Box::new(client)));
        Ok(Self {
            context: None,
            answerer: Mutex::new(answerer),
            reading: Mutex::default(),
        })
    }

    /// Who answers, in one line.
    pub fn greeting(&self) -> String {
        match self.answerer.lock().as_ref() {
            Answerer::Daemon(client) => {
                format!("answers come from the daemon at {}", client.reached())
            }
            Answerer::Local(_) => {
                "no daemon answers: answers come from the log and this machine's WAL".to_owned()
            }
        }
    }

    /// Looks for another answerer where the daemon that answered so far is gone. Returns whether
    /// there is one.
    async fn replace(&self, gone: &Client) -> Result<bool> {
        let Some(context) = &self.context else {
            return Ok(false);
        };
        if gone.is_alive().await {
            return Ok(false);
        }
        let found = answerer(context).await?;
        tracing::warn!(http = gone.reached(), "the daemon does not answer any more");
        *self.answerer.lock() = found;
        Ok(true)
    }

    async fn ask(&self, sql: &str) -> Result<Answer> {
        if let Some(setting) = anabranch_serving::setting(sql) {
            return self.set(setting?);
        }
        let reading = self.reading.lock().clone();
        let mode = reading.mode;
        let answerer = self.answerer.lock().clone();
        let context = self.context.as_ref();
        // What bounds queries elsewhere is known there.
        let patience = context.map_or(Duration::MAX, |c| c.project.query.timeout + PATIENCE);
        if let Answerer::Daemon(client) = answerer.as_ref() {
            match answer(&answerer, sql, &reading, patience).await {
                Err(e) if e.kind() == ErrorKind::Unavailable && self.replace(client).await? => {}
                answered => return Ok(told(answered?, mode)),
            }
        }
        let answerer = self.answerer.lock().clone();
        let answered = answer(&answerer, sql, &reading, patience).await?;
        Ok(told(answered, mode))
    }

    /// Does what a statement asks of the session's settings.
    fn set(&self, setting: Setting) -> Result<Answer> {
        let mut reading = self.reading.lock();
        let batches = match setting {
            Setting::Read(mode) => {
                reading.mode = mode;
                Vec::new()
            }
            Setting::AtLeast(tokens) => {
                reading.at_least = tokens;
                Vec::new()
            }
            Setting::AsOf(moment) => {
                reading.as_of = moment;
                Vec::new()
            }
            Setting::Receipts(wanted) => {
                reading.receipts = wanted;
                Vec::new()
            }
            Setting::SearchPath(path) => {
                reading.search_path = path;
                Vec::new()
            }
            Setting::ShowSearchPath => {
                let path = [reading.search_path.to_string()];
                let path: ArrayRef = Arc::new(StringArray::from_iter_values(path));
                vec![RecordBatch::try_from_iter([("search_path", path)])?]
            }
        };
        let schema = batches.first().map(RecordBatch::schema);
        Ok(Answer {
            schema: schema.unwrap_or_else(|| Arc::new(Schema::empty())),
            batches,
            freshness: String::new(),
            notes: vec![],
        })
    }

    /// Lets whoever answers compute the answer of a receipt again and compare, as programs are told.
    ///
    /// # Errors
    /// Those of [`SqlService::replay`].
    pub async fn replay(&self, receipt: &Receipt) -> Result<serde_json::Value> {
        let answerer = self.answerer.lock().clone();
        match answerer.as_ref() {
            Answerer::Daemon(client) => client.replay(receipt).await,
            Answerer::Local(service) => {
                let replayed = service.replay(&Caller::this_process(), receipt).await?;
                Ok(replayed.json())
            }
        }
    }

    /// The rows of a query.
    pub async fn rows(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        Ok(self.ask(sql).await?.batches)
    }

    async fn list(&self) -> Result<Vec<RelationInfo>> {
        let answerer = self.answerer.lock().clone();
        match answerer.as_ref() {
            Answerer::Daemon(client) => client.relations().await,
            Answerer::Local(service) => {
                let relations = service.pinner().relations().await?;
                Ok(relations.iter().map(RelationInfo::of).collect())
            }
        }
    }
}

/// The answer with what a person needs to be told of it: a merged one leaves nothing out.
fn told(answer: Answer, mode: ReadMode) -> Answer {
    match mode {
        ReadMode::Batch => answer,
        ReadMode::Merged => Answer {
            freshness: String::new(),
            ..answer
        },
    }
}

async fn answer(
    answerer: &Answerer,
    sql: &str,
    reading: &Reading,
    patience: Duration,
) -> Result<Answer> {
    match answerer {
        Answerer::Daemon(client) => {
            let asked = tokio::time::timeout(patience, client.query(sql, reading.clone())).await;
            let a = asked.map_err(|_| {
                let at = client.reached();
                Error::Unavailable(format!("the daemon at {at} has not answered in time"))
            })??;
            Ok(Answer {
                schema: a.schema,
                batches: a.batches,
                freshness: a.freshness,
                notes: with_receipt(a.notes, a.receipt),
            })
        }
        Answerer::Local(service) => {
            let a = service.query(sql, reading.clone()).await?;
            let receipt = a.receipt();
            let batches = datafusion::physical_plan::common::collect(a.stream).await?;
            Ok(Answer {
                schema: a.schema,
                batches,
                freshness: a.freshness,
                notes: with_receipt(a.notes, receipt()),
            })
        }
    }
}

fn with_receipt(mut notes: Vec<String>, receipt: Option<String>) -> Vec<String> {
    notes.extend(receipt.map(|receipt| format!("receipt: {receipt}")));
    notes
}

#[async_trait]
impl Session for QuerySession {
    async fn query(&self, sql: &str) -> Result<Answer> {
        self.ask(sql).await
    }

    async fn relations(&self) -> Result<Vec<RelationInfo>> {
        self.list().await
    }
}
