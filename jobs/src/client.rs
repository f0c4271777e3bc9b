//! Talking to a running daemon: finding it, asking it, writing through it.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_shared::{Error, ErrorKind, ReadMode, Result, Storage};
use anabranch_speed::{INGEST_FROM, INGEST_ID, PAYLOAD};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::commands::status::DaemonStatus;
use crate::shell::RelationInfo;

/// The folder of the daemons' addresses in the storage.
const DAEMONS: &str = "daemons";

/// How long a daemon may take to say that it is there.
const HELLO: Duration = Duration::from_secs(2);

/// Where a daemon is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Address {
    /// A random id of this run of the daemon.
    pub id: String,
    /// Host and port of its HTTP interface.
    pub http: String,
    /// Its process.
    pub pid: u32,
}

impl Address {
    fn path(&self) -> Path {
        Path::from(format!("{DAEMONS}/{}.json", self.id))
    }

    /// Makes the daemon known.
    pub async fn publish(&self, storage: &Storage) -> Result<()> {
        let body = serde_json::to_vec(self).map_err(|e| Error::Internal(e.to_string()))?;
        storage.put(&self.path(), body).await
    }

    /// Makes the daemon unknown.
    pub async fn withdraw(&self, storage: &Storage) -> Result<()> {
        storage.delete(&self.path()).await
    }
}

/// A running daemon.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    http: reqwest::Client,
}

/// A daemon's answer to a query.
#[derive(Debug)]
pub struct RemoteAnswer {
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows.
    pub batches: Vec<RecordBatch>,
    /// How fresh it is.
    pub freshness: String,
    /// What its reader should know.
    pub notes: Vec<String>,
}

/// What a daemon says of a write.
#[derive(Clone, Debug, Deserialize)]
pub struct Acknowledged {
    /// How many records became facts.
    pub facts: u64,
    /// How many did not.
    pub dead_letters: u64,
    /// How many are duplicates of others, and were left out.
    pub duplicates: u64,
    /// Whether the chunk was written before.
    pub repeated: bool,
    /// The partition.
    pub partition: i32,
    /// The offsets: first, and the one after the last.
    pub offsets: [i64; 2],
}

/// A relation as the daemon lists it: name, kind, and columns as name, type and nullability.
type Listed = (String, String, Vec<(String, String, bool)>);

#[derive(Deserialize)]
struct Ready {
    views_that_fail: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    kind: String,
}

impl Client {
    /// A running daemon of a storage, if there is one.
    pub async fn find(storage: &Storage) -> Result<Option<Self>> {
        for client in Self::known(storage).await? {
            if client.is_alive().await {
                return Ok(Some(client));
            }
            tracing::debug!(http = %client.address.http, "a daemon's address does not answer");
        }
        Ok(None)
    }

    /// The running daemons of a storage.
    pub async fn all(storage: &Storage) -> Result<Vec<Self>> {
        let mut alive = Vec::new();
        for client in Self::known(storage).await? {
            if client.is_alive().await {
                alive.push(client);
            }
        }
        Ok(alive)
    }

    /// The daemons that made themselves known and didn't withdraw; some may be gone.
    async fn known(storage: &Storage) -> Result<Vec<Self>> {
        let prefix = Path::from(DAEMONS);
        let found: Vec<_> = storage.store().list(Some(&prefix)).try_collect().await?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .build()
            .map_err(|e| Error::Internal(format!("HTTP client: {e}")))?;
        let mut known = Vec::new();
        for object in found {
            let Some(bytes) = storage.get(&object.location).await? else {
                continue;
            };
            let Ok(address) = serde_json::from_slice::<Address>(&bytes) else {
                continue;
            };
            known.push(Self {
                address,
                http: http.clone(),
            });
        }
        Ok(known)
    }

    /// The daemon's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address.http)
    }

    async fn is_alive(&self) -> bool {
        let sent = self
            .http
            .get(self.url("/health"))
            .timeout(HELLO)
            .send()
            .await;
        match sent {
            Ok(response) => {
                let body = response.text().await.unwrap_or_default();
                body.contains(&self.address.id)
            }
            Err(_) => false,
        }
    }

    fn unreachable(&self, e: reqwest::Error) -> Error {
        Error::Unavailable(format!(
            "the daemon at {} does not answer: {e}",
            self.address.http
        ))
    }

    async fn checked(&self, sent: reqwest::Response) -> Result<reqwest::Response> {
        if sent.status().is_success() {
            return Ok(sent);
        }
        let status = sent.status();
        let body = sent.text().await.map_err(|e| self.unreachable(e))?;
        let refusal = serde_json::from_str::<Refusal>(&body).unwrap_or_else(|_| Refusal {
            error: format!("{status}: {body}"),
            kind: String::new(),
        });
        let kinds = [
            ErrorKind::NotFound,
            ErrorKind::Conflict,
            ErrorKind::Unavailable,
            ErrorKind::Corrupt,
            ErrorKind::Internal,
        ];
        let kind = kinds.into_iter().find(|k| k.to_string() == refusal.kind);
        let text = match kind {
            // The text says so already.
            Some(ErrorKind::Internal) => refusal.error.trim_start_matches("internal: ").to_owned(),
            _ => refusal.error,
        };
        Err(Error::of_kind(kind.unwrap_or(ErrorKind::Invalid), text))
    }

    /// Asks the daemon.
    pub async fn query(&self, sql: &str, mode: ReadMode) -> Result<RemoteAnswer> {
        let read = match mode {
            ReadMode::Merged => "merged",
            ReadMode::Batch => "batch",
        };
        let sent = self
            .http
            .post(self.url(&format!("/sql?read={read}")))
            .header("accept", "application/vnd.apache.arrow.stream")
            .body(sql.to_owned())
            .send()
            .await
            .map_err(|e| self.unreachable(e))?;
        let response = self.checked(sent).await?;
        let text = |v: &reqwest::header::HeaderValue| v.to_str().unwrap_or_default().to_owned();
        let headers = response.headers();
        let freshness = headers
            .get("anabranch-freshness")
            .map(text)
            .unwrap_or_default();
        let notes = headers.get_all("anabranch-note").iter().map(text).collect();
        let body = response.bytes().await.map_err(|e| self.unreachable(e))?;
        let reader = StreamReader::try_new(std::io::Cursor::new(body), None)?;
        let schema = reader.schema();
        let batches = reader.collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(RemoteAnswer {
            schema,
            batches,
            freshness,
            notes,
        })
    }

    /// The views that don't answer, and why.
    pub async fn views_that_fail(&self) -> Result<BTreeMap<String, String>> {
        let sent = self.http.get(self.url("/ready")).send().await;
        // A daemon that is red answers 503, with the same in it.
        let response = sent.map_err(|e| self.unreachable(e))?;
        let body = response.bytes().await.map_err(|e| self.unreachable(e))?;
        let ready: Ready = serde_json::from_slice(&body)
            .map_err(|e| Error::Internal(format!("daemon's answer: {e}")))?;
        Ok(ready.views_that_fail)
    }

    /// What the daemon can be asked for.
    pub async fn relations(&self) -> Result<Vec<RelationInfo>> {
        let sent = self.http.get(self.url("/relations")).send().await;
        let response = self.checked(sent.map_err(|e| self.unreachable(e))?).await?;
        let body = response.bytes().await.map_err(|e| self.unreachable(e))?;
        let list: Vec<Listed> = serde_json::from_slice(&body)
            .map_err(|e| Error::Internal(format!("daemon's answer: {e}")))?;
        let info = |(name, kind, columns)| RelationInfo {
            name,
            kind,
            columns,
        };
        Ok(list.into_iter().map(info).collect())
    }

    /// What the daemon knows and the storage does not.
    pub async fn status(&self) -> Result<DaemonStatus> {
        let sent = self.http.get(self.url("/status")).send().await;
        let response = self.checked(sent.map_err(|e| self.unreachable(e))?).await?;
        let body = response.bytes().await.map_err(|e| self.unreachable(e))?;
        serde_json::from_slice(&body).map_err(|e| Error::Internal(format!("daemon's answer: {e}")))
    }

    /// Writes an admitted chunk of a file.
    pub async fn write_payload(
        &self,
        topic: &str,
        payload: Bytes,
        id: &str,
        from: u64,
    ) -> Result<Acknowledged> {
        let request = self
            .http
            .post(self.url(&format!("/topics/{topic}")))
            .header("content-type", PAYLOAD)
            .header(INGEST_ID, id)
            .header(INGEST_FROM, from.to_string());
        self.acknowledged(request.body(payload)).await
    }

    /// Writes NDJSON.
    pub async fn write_ndjson(&self, topic: &str, body: Bytes) -> Result<Acknowledged> {
        let request = self.http.post(self.url(&format!("/topics/{topic}")));
        self.acknowledged(request.body(body)).await
    }

    async fn acknowledged(&self, request: reqwest::RequestBuilder) -> Result<Acknowledged> {
        let sent = request.send().await.map_err(|e| self.unreachable(e))?;
        let answer = self.checked(sent).await?.bytes().await;
        let body = answer.map_err(|e| self.unreachable(e))?;
        serde_json::from_slice(&body).map_err(|e| Error::Internal(format!("daemon's answer: {e}")))
    }

    /// How many records of an ingested file are written.
    pub async fn ingested(&self, topic: &str, id: &str) -> Result<u64> {
        let sent = self
            .http
            .get(self.url(&format!("/topics/{topic}/ingested/{id}")))
            .send()
            .await
            .map_err(|e| self.unreachable(e))?;
        let body = self
            .checked(sent)
            .await?
            .text()
            .await
            .map_err(|e| self.unreachable(e))?;
        body.trim()
            .parse()
            .map_err(|e| Error::Internal(format!("daemon's answer: {e}")))
    }
}
