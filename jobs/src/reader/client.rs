//! Talking to a running daemon: finding it, asking it, writing through it.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_serving::{ColumnInfo, QueryInfo, Reading, RelationInfo, SearchPath, note_of};
use anabranch_shared::ipc::{CheckedStream, IpcLimit};
use anabranch_shared::{Error, ErrorKind, Heads, ReadMode, Receipt, Result, Storage};
use anabranch_speed::{INGEST_FROM, INGEST_ID, PAYLOAD, Payload};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::reader::daemon_status::DaemonStatus;
use crate::reader::presence::{self, Address};
use crate::reader::secured::{Fingerprints, wanted_secret};

/// A connection that is idle for so long is not used again: a daemon closes it some time later.
pub(crate) const IDLE: Duration = Duration::from_secs(10);

/// How long a daemon may take to say that it is there.
const HELLO: Duration = Duration::from_secs(2);

/// How long a connection to a daemon elsewhere may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a daemon may take for what it need not compute.
const SMALL_ANSWER: Duration = Duration::from_secs(20);

/// The most that is taken for an answer which need not be computed, in bytes.
const SMALL_ANSWER_BYTES: u64 = 64 << 20;

/// The most that is taken for the answer to a query, which is held in memory as a whole.
const ANSWER: IpcLimit = IpcLimit {
    bytes: 4 << 30,
    name: "the most of one answer",
};

/// Payloads that one caller writes at once.
const WRITES_AT_ONCE: usize = 32;

/// A silent connection is asked for a sign of life after so long: the machine may be gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A running daemon.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    /// Host and port under which it answered.
    reached: String,
    http: reqwest::Client,
    /// The URL before the paths.
    base: String,
    /// What it is shown where it asks who somebody is.
    bearer: Option<Bearer>,
}

/// A text that says who somebody is.
#[derive(Clone)]
struct Bearer(String);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer")
    }
}

/// Where a daemon is asked by somebody who has no project of its storage.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    /// Its URL, `http://…` or `https://…`.
    pub url: String,
    /// The token of a user.
    pub token: Option<String>,
    /// Certificates in PEM that vouch for it, besides those that the machine trusts.
    pub ca: Option<Vec<u8>>,
}

/// The daemons of a storage.
#[derive(Debug, Default)]
pub struct Daemons {
    /// Those that answer: on this machine first, then the latest seen.
    pub alive: Vec<Client>,
    /// Those that made themselves known, did not withdraw, and don't answer.
    pub silent: Vec<Address>,
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
    /// Its receipt, where one was wanted and there is one.
    pub receipt: Option<String>,
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

/// A relation as a daemon lists it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listed {
    Now(RelationInfo),
    /// Those of before know no other form: name, kind, and columns as name, type and nullability.
    Before(String, String, Vec<(String, String, bool)>),
}

impl From<Listed> for RelationInfo {
    fn from(listed: Listed) -> Self {
        let (name, kind, columns) = match listed {
            Listed::Now(relation) => return relation,
            Listed::Before(name, kind, columns) => (name, kind, columns),
        };
        let column = |(name, sql_type, nullable)| ColumnInfo {
            name,
            sql_type,
            nullable,
            ..ColumnInfo::default()
        };
        Self {
            name,
            kind,
            columns: columns.into_iter().map(column).collect(),
            ..Self::default()
        }
    }
}

#[derive(Deserialize)]
struct Ready {
    views_that_fail: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Queries {
    queries: Vec<QueryInfo>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    kind: String,
}

impl Client {
    /// A running daemon of a storage, if there is one.
    pub async fn find(storage: &Storage) -> Result<Option<Self>> {
        Ok(Self::look(storage).await?.alive.into_iter().next())
    }

    /// The running daemons of a storage.
    pub async fn all(storage: &Storage) -> Result<Vec<Self>> {
        Ok(Self::look(storage).await?.alive)
    }

    /// The daemons of a storage, each asked whether it is there; all at once, so that many dead
    /// ones take no longer than one.
    pub async fn look(storage: &Storage) -> Result<Daemons> {
        let mut known = presence::known(storage).await?;
        known.sort_by_key(|a| (!a.is_here(), -a.seen_at_ms));
        let secret = wanted_secret(storage, &known).await?;
        let bearer = secret.map(|secret| Bearer(secret.text().to_owned()));
        let fingerprints = Fingerprints::default();
        fingerprints.set(&known);
        let http = reqwest::Client::builder()
            .no_proxy()
            .use_preconfigured_tls(fingerprints.client()?)
            .user_agent(user_agent())
            .connect_timeout(HELLO)
            .tcp_keepalive(KEEP_ALIVE)
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(|e| Error::Internal(format!("HTTP client: {e}")))?;
        let asked = known
            .into_iter()
            .map(|address| Self::reach(&http, &bearer, address));
        let mut daemons = Daemons::default();
        for found in futures::future::join_all(asked).await {
            match found {
                Ok(client) => daemons.alive.push(client),
                Err(address) => {
                    tracing::debug!(http = %address.http, "a daemon's address does not answer");
                    daemons.silent.push(address);
                }
            }
        }
        Ok(daemons)
    }

    /// Asks a daemon whether it is there, under the address for all and that on its own machine.
    async fn reach(
        http: &reqwest::Client,
        bearer: &Option<Bearer>,
        address: Address,
    ) -> std::result::Result<Self, Address> {
        let mut places = vec![address.http.clone()];
        if address.is_here() && !address.local.is_empty() && address.local != address.http {
            places.insert(0, address.local.clone());
        }
        let asked = places.into_iter().map(|reached| Self {
            address: address.clone(),
            http: http.clone(),
            base: address.url(&reached, ""),
            bearer: bearer.clone().filter(|_| address.has_users),
            reached,
        });
        let asked = asked.map(|client| async { client.is_alive().await.then_some(client) });
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().flatten().next().ok_or(address)
    }

    /// The daemon's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The daemon at a URL, for somebody who has no project of its storage.
    ///
    /// # Errors
    /// `Invalid` for what is no URL of HTTP or no certificate; `Unavailable` where nothing answers.
    pub async fn at(remote: &Remote) -> Result<Self> {
        let url = remote.url.trim_end_matches('/');
        let wrong = |why: String| Error::Invalid(format!("`{}`: {why}", remote.url));
        let parsed = reqwest::Url::parse(url).map_err(|e| wrong(e.to_string()))?;
        let host = parsed.host_str().unwrap_or_default();
        if !["http", "https"].contains(&parsed.scheme()) || host.is_empty() {
            return Err(wrong(
                "a daemon is asked by `http://HOST:PORT` or `https://HOST:PORT`".to_owned(),
            ));
        }
        let mut http = reqwest::Client::builder()
            .user_agent(user_agent())
            .connect_timeout(CONNECT)
            .tcp_keepalive(KEEP_ALIVE)
            .pool_idle_timeout(IDLE);
        if let Some(pem) = &remote.ca {
            let all = reqwest::Certificate::from_pem_bundle(pem).unwrap_or_default();
            if all.is_empty() {
                return Err(Error::Invalid(
                    "`--ca`: no certificate in PEM is in the file".to_owned(),
                ));
            }
            for certificate in all {
                http = http.add_root_certificate(certificate);
            }
        }
        let http = http
            .build()
            .map_err(|e| Error::Internal(format!("HTTP client: {}", causes(&e))))?;
        let reached = match parsed.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let client = Self {
            address: Address::elsewhere(&reached),
            reached,
            http,
            base: url.to_owned(),
            bearer: remote.token.clone().map(Bearer),
        };
        // Whether somebody answers there, and lets one in.
        let asked = client.ask("/relations?as=objects").send().await;
        client
            .checked(asked.map_err(|e| client.unreachable(e))?)
            .await?;
        Ok(client)
    }

    /// A request, with what says who sends it.
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, self.url(path));
        match &self.bearer {
            Some(Bearer(text)) => request.bearer_auth(text),
            None => request,
        }
    }

    /// A question whose answer is small.
    fn ask(&self, path: &str) -> reqwest::RequestBuilder {
        self.request(Method::GET, path).timeout(SMALL_ANSWER)
    }

    /// Host and port under which it answered.
    pub fn reached(&self) -> &str {
        &self.reached
    }

    /// Whether it answers, and is the one that its address speaks of.
    pub async fn is_alive(&self) -> bool {
        let sent = self
            .http
            .get(self.url("/health"))
            .timeout(HELLO)
            .send()
            .await;
        match sent {
            Ok(response) => {
                let body = self.small_body(response).await.unwrap_or_default();
                String::from_utf8_lossy(&body).contains(&self.address.id)
            }
            Err(_) => false,
        }
    }

    fn unreachable(&self, e: reqwest::Error) -> Error {
        let why = causes(&e.without_url());
        Error::Unavailable(format!(
            "the daemon at {} does not answer: {why}",
            self.reached
        ))
    }

    /// Sends what changes nothing. A connection from the pool may have ended while the request went
    /// out on it; the next one is new.
    async fn read(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let again = request.try_clone();
        let mut sent = request.send().await;
        let is_broken = |e: &reqwest::Error| e.is_request() && !e.is_timeout() && !e.is_connect();
        if let (true, Some(again)) = (sent.as_ref().is_err_and(is_broken), again) {
            sent = again.send().await;
        }
        self.checked(sent.map_err(|e| self.unreachable(e))?).await
    }

    async fn checked(&self, sent: reqwest::Response) -> Result<reqwest::Response> {
        if sent.status().is_success() {
            return Ok(sent);
        }
        let status = sent.status();
        let body = self.body(sent, SMALL_ANSWER_BYTES).await?;
        Err(refused(status, &String::from_utf8_lossy(&body)))
    }

    /// An answer's body, which takes memory as it comes, up to `most` bytes.
    async fn body(&self, mut sent: reqwest::Response, most: u64) -> Result<Bytes> {
        let mut body = BytesMut::new();
        while let Some(part) = sent.chunk().await.map_err(|e| self.unreachable(e))? {
            if (body.len() + part.len()) as u64 > most {
                return Err(Error::Invalid(format!(
                    "the answer of the daemon at {} has more than {most} bytes; ask for less, for example with LIMIT",
                    self.reached
                )));
            }
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    }

    /// An answer's body, where it is small.
    async fn small_body(&self, sent: reqwest::Response) -> Result<Bytes> {
        self.body(sent, SMALL_ANSWER_BYTES).await
    }

    /// Asks the daemon.
    pub async fn query(&self, sql: &str, reading: impl Into<Reading>) -> Result<RemoteAnswer> {
        let reading = reading.into();
        let read = match reading.mode {
            ReadMode::Merged => "merged",
            ReadMode::Batch => "batch",
        };
        let mut path = format!("/sql?read={read}");
        // What a daemon of before does not know is asked of it only where somebody wants it.
        if reading.search_path != SearchPath::default() {
            let searched = in_path(&reading.search_path.to_string()).to_string();
            path += &format!("&search_path={searched}");
        }
        if reading.at_least != Heads::default() {
            let tokens = in_path(&reading.at_least.to_string()).to_string();
            path += &format!("&at_least={tokens}");
        }
        if let Some(moment) = &reading.as_of {
            path += &format!("&as_of={}", in_path(&moment.to_string()));
        }
        if reading.receipts {
            path += "&receipt=true";
        }
        let request = self
            .request(Method::POST, &path)
            .header("accept", "application/vnd.apache.arrow.stream; views=true")
            .body(sql.to_owned());
        let response = self.read(request).await?;
        let text = |v: &reqwest::header::HeaderValue| note_of(v.as_bytes());
        let headers = response.headers();
        let freshness = headers
            .get("anabranch-freshness")
            .map(text)
            .unwrap_or_default();
        let notes = headers.get_all("anabranch-note").iter().map(text).collect();
        let receipt = headers.get("anabranch-receipt").map(text);
        let body = self.body(response, ANSWER.bytes).await?;
        let read = CheckedStream::new(body, ANSWER).and_then(CheckedStream::read);
        let read = read.map_err(|e| {
            Error::Unavailable(format!(
                "the answer of the daemon at {} can't be read: {e}",
                self.reached
            ))
        })?;
        Ok(RemoteAnswer {
            schema: read.schema,
            batches: read.batches,
            freshness,
            notes,
            receipt,
        })
    }

    /// Lets the daemon compute the answer of a receipt again and compare, as it tells programs.
    ///
    /// # Errors
    /// As the daemon refuses it.
    pub async fn replay(&self, receipt: &Receipt) -> Result<serde_json::Value> {
        let request = self.request(Method::POST, "/replay");
        let sent = request.body(receipt.to_string()).send().await;
        let answer = self.checked(sent.map_err(|e| self.unreachable(e))?).await?;
        let body = self.small_body(answer).await?;
        serde_json::from_slice(&body).map_err(|e| Error::Internal(format!("daemon's answer: {e}")))
    }

    /// The queries that run on the daemon and wait there.
    pub async fn queries(&self) -> Result<Vec<QueryInfo>> {
        let answer = self.read(self.ask("/queries")).await?;
        let body = answer.bytes().await.map_err(|e| self.unreachable(e))?;
        let read = serde_json::from_slice::<Queries>(&body);
        let read = read.map_err(|e| Error::Internal(format!("daemon's answer: {e}")))?;
        Ok(read.queries)
    }

    /// Stops a query of the daemon.
    ///
    /// # Errors
    /// `NotFound` where it has none of that id.
    pub async fn cancel(&self, id: &str) -> Result<()> {
        let request = self.request(Method::DELETE, &format!("/queries/{}", in_path(id)));
        let request = request.timeout(SMALL_ANSWER);
        let sent = request.send().await.map_err(|e| self.unreachable(e))?;
        self.checked(sent).await.map(|_| ())
    }

    /// Lets the daemon compare its own answer of a view, or a part of it, with a recompute.
    pub async fn verify<P: Serialize, V: DeserializeOwned>(
        &self,
        view: &str,
        part: P,
    ) -> Result<V> {
        let body = serde_json::to_vec(&part).map_err(|e| Error::Internal(e.to_string()))?;
        let request = self
            .request(Method::POST, &format!("/verify/{}", in_path(view)))
            .header("content-type", "application/json");
        let sent = request.body(body).send().await;
        let answer = self.checked(sent.map_err(|e| self.unreachable(e))?).await?;
        let body = self.small_body(answer).await?;
        serde_json::from_slice(&body).map_err(|e| Error::Internal(format!("daemon's answer: {e}")))
    }

    /// The views that don't answer, and why.
    pub async fn views_that_fail(&self) -> Result<BTreeMap<String, String>> {
        let sent = self.ask("/ready").send().await;
        // A daemon that is red answers 503, with the same in it.
        let response = sent.map_err(|e| self.unreachable(e))?;
        let body = self.small_body(response).await?;
        let ready: Ready = serde_json::from_slice(&body)
            .map_err(|e| Error::Internal(format!("daemon's answer: {e}")))?;
        Ok(ready.views_that_fail)
    }

    /// What the daemon can be asked for.
    pub async fn relations(&self) -> Result<Vec<RelationInfo>> {
        let response = self.read(self.ask("/relations?as=objects")).await?;
        let body = self.small_body(response).await?;
        let list: Vec<Listed> = serde_json::from_slice(&body)
            .map_err(|e| Error::Internal(format!("daemon's answer: {e}")))?;
        Ok(list.into_iter().map(RelationInfo::from).collect())
    }

    /// What the daemon knows and the storage does not.
    pub async fn status(&self) -> Result<DaemonStatus> {
        let response = self.read(self.ask("/status")).await?;
        let body = self.small_body(response).await?;
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
            .request(Method::POST, &format!("/topics/{topic}"))
            .header("content-type", PAYLOAD)
            .header(INGEST_ID, id)
            .header(INGEST_FROM, from.to_string());
        self.acknowledged(request.body(payload)).await
    }

    /// Writes payloads of one record each, which have identities, several at once; says of each what came
    /// of it.
    pub async fn write_payloads<K>(
        &self,
        topic: &str,
        payloads: impl IntoIterator<Item = (K, Payload)>,
    ) -> Result<Vec<(K, Acknowledged)>> {
        let write = async |(of, payload): (K, Payload)| {
            let Some((id, _)) = payload.ingest.clone() else {
                return Err(Error::Internal("a payload without an identity".into()));
            };
            let body = payload.encode()?;
            Ok((of, self.write_payload(topic, body, &id, 0).await?))
        };
        let writes = futures::stream::iter(payloads.into_iter().map(write));
        writes.buffered(WRITES_AT_ONCE).try_collect().await
    }

    /// Writes NDJSON.
    pub async fn write_ndjson(&self, topic: &str, body: Bytes) -> Result<Acknowledged> {
        let request = self.request(Method::POST, &format!("/topics/{topic}"));
        self.acknowledged(request.body(body)).await
    }

    async fn acknowledged(&self, request: reqwest::RequestBuilder) -> Result<Acknowledged> {
        let sent = request.send().await.map_err(|e| self.unreachable(e))?;
        let body = self.small_body(self.checked(sent).await?).await?;
        serde_json::from_slice(&body).map_err(|e| Error::Internal(format!("daemon's answer: {e}")))
    }

    /// How many records of an ingested file are written.
    pub async fn ingested(&self, topic: &str, id: &str) -> Result<u64> {
        let asked = self.ask(&format!("/topics/{topic}/ingested/{}", in_path(id)));
        let body = self.small_body(self.read(asked).await?).await?;
        String::from_utf8_lossy(&body)
            .trim()
            .parse()
            .map_err(|e| Error::Internal(format!("daemon's answer: {e}")))
    }
}

/// An error and what it came from, each said once.
fn causes(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// By what daemons know this command, in their list of queries.
fn user_agent() -> String {
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    format!("anabranch/{version} (process {pid})")
}

/// A text as one part of a URL's path.
fn in_path(text: &str) -> percent_encoding::PercentEncode<'_> {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

/// What a daemon says why it did not do what it was asked.
pub(crate) fn refused(status: reqwest::StatusCode, body: &str) -> Error {
    let refusal = serde_json::from_str::<Refusal>(body).unwrap_or_else(|_| Refusal {
        error: format!("{status}: {body}"),
        kind: String::new(),
    });
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::Denied,
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
    Error::of_kind(kind.unwrap_or(ErrorKind::Invalid), text)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn relations_of_daemons_old_and_new_are_read() {
        let before = r#"[["words","view",[["word","Utf8View",true],["c","Int64",false]]]]"#;
        let now = r#"[{"name":"words","kind":"view","topic":"facts","sql":"SELECT 1","columns":[
            {"name":"word","type":"varchar","nullable":true,"role":"key","of_tomorrow":1},
            {"name":"c","type":"bigint","nullable":false,"role":"aggregate","combines":true}]}]"#;
        for (text, topic, combines) in [(before, None, false), (now, Some("facts"), true)] {
            let read: Vec<Listed> = serde_json::from_str(text).unwrap();
            let read: Vec<RelationInfo> = read.into_iter().map(RelationInfo::from).collect();
            assert_eq!(read[0].topic.as_deref(), topic);
            let names: Vec<&str> = read[0].columns.iter().map(|c| c.name.as_str()).collect();
            assert_eq!(names, ["word", "c"]);
            assert_eq!(read[0].columns[1].combines, combines);
            assert!(!read[0].columns[1].nullable);
        }
    }
}
