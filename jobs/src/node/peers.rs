//! The other daemons of the storage, as a daemon asks them for what they hold. Owns which there
//! are, how they are reached, and which are known not to answer, so that a query waits for none of
//! those again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anabranch_shared::{
    Backoff, Error, ErrorKind, Offset, PartitionId, Result, Storage, StorageSecret,
};
use anabranch_speed::{DELTA, Daemon, DeltaRequest, HELD, Peer, PeerReply, Peers};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};

use crate::reader::client::{IDLE, refused};
use crate::reader::presence::{self, Address, RENEW_EVERY};
use crate::reader::secured::{Fingerprints, wanted_secret};
use crate::tasks::Tasks;

/// Where a daemon is told that there is another one.
pub const PEERS: &str = "/peers";

/// How soon a daemon that is silent is asked for a sign of life, and how seldom after a while.
const PING_AFTER: Duration = Duration::from_millis(500);
const PING_AT_LEAST_EVERY: Duration = Duration::from_secs(8);

/// The most that is taken for an answer, in bytes: a daemon holds no more by default.
const HELD_BYTES: usize = 2 << 30;

/// How long a sign of life is waited for.
const PING_PATIENCE: Duration = Duration::from_secs(10);

/// How often daemons were asked, and what came of it.
#[derive(Debug, Default)]
pub struct PeerCounts {
    /// Questions.
    pub asked: AtomicU64,
    /// Those without an answer.
    pub failed: AtomicU64,
    /// How long all of them took, in microseconds.
    pub us: AtomicU64,
}

/// What all daemons that are asked have in common.
#[derive(Debug)]
struct Shared {
    storage: Storage,
    http: reqwest::Client,
    /// The certificates that are taken.
    fingerprints: Fingerprints,
    /// What is shown to daemons that ask who somebody is.
    secret: RwLock<Option<StorageSecret>>,
    timeout: Duration,
    counts: PeerCounts,
    /// Those of the node that asks.
    tasks: Arc<Tasks>,
}

/// The other daemons of a storage.
#[derive(Debug)]
pub struct PeerList {
    shared: Arc<Shared>,
    /// The id of this daemon's WAL.
    own: String,
    peers: RwLock<Vec<Arc<HttpPeer>>>,
    /// Held by whoever looks who is there.
    looking: tokio::sync::Mutex<()>,
}

impl PeerList {
    /// The daemons besides the one of the WAL `own`; `timeout` is how long one may take to begin
    /// its answer. Signs of life are waited for in `tasks`.
    ///
    /// # Errors
    /// `Internal` where there can be no HTTP client.
    pub fn new(storage: &Storage, own: &str, timeout: Duration, tasks: Arc<Tasks>) -> Result<Self> {
        let fingerprints = Fingerprints::default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .use_preconfigured_tls(fingerprints.client()?);
        let http = http.pool_idle_timeout(IDLE).build();
        let http = http.map_err(|e| Error::Internal(format!("HTTP client: {e}")))?;
        Ok(Self {
            shared: Arc::new(Shared {
                storage: storage.clone(),
                http,
                fingerprints,
                secret: RwLock::default(),
                timeout,
                counts: PeerCounts::default(),
                tasks,
            }),
            own: own.to_owned(),
            peers: RwLock::default(),
            looking: tokio::sync::Mutex::default(),
        })
    }

    /// How often daemons were asked, and what came of it.
    pub fn counts(&self) -> &PeerCounts {
        &self.shared.counts
    }

    /// The daemons that are known, and whether they are known not to answer.
    pub fn known(&self) -> Vec<(Address, bool)> {
        let peers = self.peers.read();
        let known = peers.iter().map(|p| {
            let silent = p.silent.load(Ordering::Relaxed);
            (p.address.clone(), silent)
        });
        known.collect()
    }

    /// Looks in the storage who is there. One that withdrew is forgotten once this daemon has
    /// followed the log past what that one has landed: till then it may be asked, and says so.
    ///
    /// # Errors
    /// `Unavailable` when the storage does not answer.
    pub async fn look(&self, daemon: &Daemon) -> Result<()> {
        let _guard = self.looking.lock().await;
        let mut known = presence::known(&self.shared.storage).await?;
        known.retain(|a| a.wal != self.own && !a.wal.is_empty());
        self.shared.fingerprints.set(&known);
        let secret = wanted_secret(&self.shared.storage, &known).await?;
        *self.shared.secret.write() = secret;
        let before = self.peers.read().clone();
        let is_gone = |p: &Arc<HttpPeer>| known.iter().all(|a| a.wal != p.address.wal);
        if before.iter().any(is_gone) {
            for stream in daemon.topics().values() {
                stream.upkeep().follow().await?;
            }
        }
        let peer = |address: Address| {
            let same = before.iter().find(|p| p.address.id == address.id);
            match same {
                Some(peer) if peer.address == address => peer.clone(),
                same => HttpPeer::new(&self.shared, address, same.map(Arc::as_ref)),
            }
        };
        let peers: Vec<_> = known.into_iter().map(peer).collect();
        for peer in &peers {
            if peer.silent.load(Ordering::Relaxed) {
                peer.wait_for_life();
            }
        }
        *self.peers.write() = peers;
        Ok(())
    }

    /// Looks who is there again and again, until this is aborted.
    pub async fn keep(self: Arc<Self>, daemon: Arc<Daemon>) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            if let Err(e) = self.look(&daemon).await {
                tracing::warn!(error = %e, "can't look which other daemons there are; it is tried again");
            }
        }
    }

    /// Tells the others to look who is there, because this daemon has come or goes. One that does
    /// not answer in time sees it when it looks the next time.
    pub async fn announce(&self) {
        let mut peers = self.peers.read().clone();
        peers.retain(|p| !p.silent.load(Ordering::Relaxed));
        let told = peers.iter().map(|peer| async move {
            let places = peer.places();
            let told = places.iter().map(|place| {
                let sent = self.shared.post(&peer.address, place, PEERS);
                sent.timeout(self.shared.timeout).send()
            });
            for told in futures::future::join_all(told).await {
                if let Err(e) = told {
                    tracing::debug!(http = %peer.address.http, error = %e, "a daemon is not told");
                }
            }
        });
        futures::future::join_all(told).await;
    }
}

impl Peers for PeerList {
    fn of(&self, topic: &str) -> Vec<Arc<dyn Peer>> {
        let peers = self.peers.read();
        let having = peers.iter().filter(|p| !p.partitions(topic).is_empty());
        having.map(|p| p.clone() as Arc<dyn Peer>).collect()
    }
}

impl Shared {
    /// A request to a daemon, with what says who sends it.
    fn post(&self, address: &Address, place: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.post(address.url(place, path));
        match self.secret.read().as_ref().filter(|_| address.has_users) {
            Some(secret) => request.bearer_auth(secret.text()),
            None => request,
        }
    }
}

/// Why there is no answer.
enum Failed {
    /// Nobody answers, or somebody else.
    Silent,
    /// It has not that topic any more, though perhaps facts of it in its WAL.
    Without,
    /// It says why.
    Refused(Error),
}

/// Another daemon, under its address.
#[derive(Debug)]
struct HttpPeer {
    shared: Arc<Shared>,
    address: Address,
    /// Host and port under which it answered.
    reached: Mutex<Option<String>>,
    /// Set while it is known not to answer.
    silent: AtomicBool,
    /// Set once it has withdrawn.
    left: AtomicBool,
    /// Set while a sign of life is waited for.
    waited_for: AtomicBool,
    /// For each topic the partitions that it has last said to fill.
    fills: Mutex<BTreeMap<String, Vec<PartitionId>>>,
    own: Weak<Self>,
}

impl HttpPeer {
    /// A daemon, with what was known of the same one before.
    fn new(shared: &Arc<Shared>, address: Address, before: Option<&Self>) -> Arc<Self> {
        let silent = before.is_some_and(|b| b.silent.load(Ordering::Relaxed));
        Arc::new_cyclic(|own| Self {
            shared: shared.clone(),
            address,
            reached: Mutex::new(before.and_then(|b| b.reached.lock().clone())),
            silent: AtomicBool::new(silent),
            left: AtomicBool::new(false),
            waited_for: AtomicBool::new(false),
            fills: Mutex::new(before.map(|b| b.fills.lock().clone()).unwrap_or_default()),
            own: own.clone(),
        })
    }

    /// Where it may be reached: on its own machine, and from others.
    fn places(&self) -> Vec<String> {
        let mut places = vec![self.address.http.clone()];
        let local = &self.address.local;
        if self.address.is_here() && !local.is_empty() && *local != self.address.http {
            places.insert(0, local.clone());
        }
        if let Some(reached) = self.reached.lock().clone() {
            places.retain(|p| *p != reached);
            places.insert(0, reached);
        }
        places
    }

    /// Asks it, under each address, for no longer than it may take to begin an answer.
    async fn send(&self, body: &Bytes) -> Result<Bytes, Failed> {
        let until = tokio::time::Instant::now() + self.shared.timeout;
        for place in self.places() {
            let sent = self.shared.post(&self.address, &place, DELTA);
            let sent = sent.body(body.clone()).send();
            let response = match tokio::time::timeout_at(until, sent).await {
                Ok(Ok(response)) => response,
                Ok(Err(_)) => continue,
                Err(_) => break,
            };
            let status = response.status();
            let kind = response.headers().get(reqwest::header::CONTENT_TYPE);
            let kind = kind.and_then(|k| k.to_str().ok()).unwrap_or_default();
            // Another daemon has this address now, or another program.
            let is_answer = status.is_success() && kind == HELD;
            if !is_answer && (status.is_success() || kind != "application/json") {
                continue;
            }
            let body = self.read(response).await.ok_or(Failed::Silent)?;
            if is_answer {
                *self.reached.lock() = Some(place);
                return Ok(body);
            }
            let text = String::from_utf8_lossy(&body);
            let told = refused(status, &text);
            // One that stops gives no more than one that is away.
            return match told.kind() {
                ErrorKind::Unavailable => Err(Failed::Silent),
                ErrorKind::NotFound => Err(Failed::Without),
                kind => Err(Failed::Refused(Error::of_kind(
                    kind,
                    format!("the daemon at {}: {told}", self.address.http),
                ))),
            };
        }
        Err(Failed::Silent)
    }

    /// Reads an answer as long as it goes on, up to [`HELD_BYTES`].
    async fn read(&self, mut response: reqwest::Response) -> Option<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let chunk = tokio::time::timeout(self.shared.timeout, response.chunk()).await;
            match chunk.ok()?.ok()? {
                Some(chunk) if body.len() + chunk.len() > HELD_BYTES => return None,
                Some(chunk) => body.extend_from_slice(&chunk),
                None => return Some(body.freeze()),
            }
        }
    }

    /// Whether it has withdrawn, which it does after it has landed everything.
    async fn has_left(&self) -> bool {
        let looked = self.address.is_published(&self.shared.storage);
        let looked = tokio::time::timeout(self.shared.timeout, looked).await;
        let left = matches!(looked, Ok(Ok(false)));
        self.left.fetch_or(left, Ordering::Relaxed) || left
    }

    /// Looks for a sign of life, beside the caller, until there is one or nobody wants it any more.
    fn wait_for_life(&self) {
        if self.waited_for.swap(true, Ordering::Relaxed) {
            return;
        }
        let own = self.own.clone();
        self.shared.tasks.spawn_passing("sign of life", async move {
            let mut backoff = Backoff::new(PING_AFTER, PING_AT_LEAST_EVERY);
            loop {
                tokio::time::sleep(backoff.failed(Instant::now())).await;
                let Some(peer) = own.upgrade() else { return };
                let (places, address) = (peer.places(), peer.address.clone());
                let id = address.id.clone();
                let http = peer.shared.http.clone();
                drop(peer);
                let ask = |place: &String| {
                    let url = address.url(place, "/health");
                    let sent = http.get(url).timeout(PING_PATIENCE).send();
                    let id = id.clone();
                    async move { Some(sent.await.ok()?.text().await.ok()?.contains(&id)) }
                };
                let asked = futures::future::join_all(places.iter().map(ask)).await;
                let Some(peer) = own.upgrade() else { return };
                if asked.into_iter().flatten().any(|alive| alive) {
                    tracing::info!(http = %peer.address.http, "the daemon answers again");
                    peer.waited_for.store(false, Ordering::Relaxed);
                    peer.silent.store(false, Ordering::Relaxed);
                    return;
                }
                if peer.has_left().await {
                    return;
                }
            }
        });
    }
}

#[async_trait]
impl Peer for HttpPeer {
    fn name(&self) -> String {
        self.address.http.clone()
    }

    fn wal(&self) -> String {
        self.address.wal.clone()
    }

    fn partitions(&self, topic: &str) -> Vec<PartitionId> {
        if let Some(filled) = self.fills.lock().get(topic) {
            return filled.clone();
        }
        self.address.fills(topic)
    }

    fn fills(&self, topic: &str, partitions: Vec<PartitionId>) {
        self.fills.lock().insert(topic.to_owned(), partitions);
    }

    async fn ask(&self, request: &DeltaRequest) -> Result<PeerReply> {
        if self.left.load(Ordering::Relaxed) {
            return Ok(PeerReply::Left);
        }
        if self.silent.load(Ordering::Relaxed) {
            return Ok(PeerReply::Silent);
        }
        let body = serde_json::to_vec(request).map_err(|e| Error::Internal(e.to_string()))?;
        let body = Bytes::from(body);
        let (counts, begun) = (&self.shared.counts, Instant::now());
        let sent = self.send(&body).await;
        let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        counts.asked.fetch_add(1, Ordering::Relaxed);
        counts.us.fetch_add(us, Ordering::Relaxed);
        match sent {
            Ok(body) => return Ok(PeerReply::Answer(body)),
            Err(Failed::Refused(e)) => return Err(e),
            Err(Failed::Without) => return Ok(PeerReply::Silent),
            Err(Failed::Silent) => {}
        }
        if self.has_left().await {
            return Ok(PeerReply::Left);
        }
        counts.failed.fetch_add(1, Ordering::Relaxed);
        if !self.silent.swap(true, Ordering::Relaxed) {
            let at = &self.address.http;
            tracing::warn!(http = %at, "the daemon does not answer: answers lack what it has not landed");
        }
        self.wait_for_life();
        Ok(PeerReply::Silent)
    }

    fn missing_note(&self, topic: &str, partition: PartitionId, landed: Offset) -> String {
        self.address.missing_note(topic, partition, landed)
    }
}
