//! `anabranch sql`: asks the daemon, or answers by itself where none runs.

use std::sync::Arc;

use anabranch_serving::SqlService;
use anabranch_shared::{Error, ReadMode, Result};
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::client::Client;
use crate::context::Context;
use crate::local::LocalPinner;
use crate::shell::{Answer, RelationInfo, Session};

/// Who answers.
#[derive(Debug)]
pub enum Answerer {
    /// The running daemon.
    Daemon(Client),
    /// This process.
    Local(Box<SqlService>),
}

/// A session of the shell.
#[derive(Debug)]
pub struct QuerySession {
    answerer: Answerer,
    mode: Mutex<ReadMode>,
}

/// A service that answers in this process.
pub fn local_service(context: &Context) -> Result<SqlService> {
    let pinner = Arc::new(LocalPinner::new(context.clone()));
    SqlService::new(pinner, &context.storage, context.serving_options())
}

impl QuerySession {
    /// Opens a session: with the daemon if one runs.
    pub async fn open(context: &Context) -> Result<Self> {
        let answerer = match Client::find(&context.storage).await? {
            Some(client) => Answerer::Daemon(client),
            None => Answerer::Local(Box::new(local_service(context)?)),
        };
        Ok(Self {
            answerer,
            mode: Mutex::default(),
        })
    }

    /// Who answers, in one line.
    pub fn greeting(&self) -> String {
        match &self.answerer {
            Answerer::Daemon(client) => {
                format!("answers come from the daemon at {}", client.address().http)
            }
            Answerer::Local(_) => {
                "no daemon runs: answers come from the log and this machine's WAL".to_owned()
            }
        }
    }

    async fn ask(&self, sql: &str) -> Result<Answer> {
        if let Some(mode) = anabranch_serving::read_setting(sql) {
            *self.mode.lock() = mode?;
            let schema = Arc::new(arrow::datatypes::Schema::empty());
            return Ok(Answer {
                schema,
                batches: vec![],
                freshness: String::new(),
                notes: vec![],
            });
        }
        let mode = *self.mode.lock();
        match &self.answerer {
            Answerer::Daemon(client) => {
                let a = client.query(sql, mode).await?;
                let (schema, batches) = (a.schema, a.batches);
                Ok(Answer {
                    schema,
                    batches,
                    freshness: a.freshness,
                    notes: a.notes,
                })
            }
            Answerer::Local(service) => {
                let a = service.query(sql, mode).await?;
                let collect = datafusion::physical_plan::common::collect(a.stream);
                let batches = tokio::time::timeout(service.timeout(), collect)
                    .await
                    .map_err(|_| Error::Unavailable("the query ran too long".into()))??;
                Ok(Answer {
                    schema: a.schema,
                    batches,
                    freshness: a.freshness,
                    notes: a.notes,
                })
            }
        }
    }

    /// The rows of a query.
    pub async fn rows(&self, sql: &str) -> Result<Vec<arrow::array::RecordBatch>> {
        Ok(self.ask(sql).await?.batches)
    }

    async fn list(&self) -> Result<Vec<RelationInfo>> {
        match &self.answerer {
            Answerer::Daemon(client) => client.relations().await,
            Answerer::Local(service) => {
                let relations = service.pinner().relations().await?;
                Ok(relations.iter().map(info).collect())
            }
        }
    }
}

fn info(relation: &anabranch_shared::Relation) -> RelationInfo {
    let columns = relation.schema.fields().iter();
    RelationInfo {
        name: relation.name.clone(),
        kind: relation.kind.to_owned(),
        columns: columns
            .map(|f| (f.name().clone(), f.data_type().to_string(), f.is_nullable()))
            .collect(),
    }
}

#[async_trait]
impl Session for QuerySession {
    async fn query(&self, sql: &str) -> std::result::Result<Answer, String> {
        self.ask(sql).await.map_err(|e| e.to_string())
    }

    async fn relations(&self) -> std::result::Result<Vec<RelationInfo>, String> {
        self.list().await.map_err(|e| e.to_string())
    }
}
