//! What a daemon makes known of itself in the storage, so that other processes and machines find
//! it: one object for each daemon, overwritten by its next run, renewed while it lives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_serving::ServerTls;
use anabranch_shared::files::RealFiles;
use anabranch_shared::{Catalogue, Error, Offset, PartitionId, Result, Storage, layout};
use anabranch_speed::Daemon;
use anabranch_speed::wal::{WalError, found_wal_id};
use object_store::path::Path;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::clock::now_ms;
use crate::project::context::Context;

/// How often a daemon renews its address.
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(10);

/// How often it is looked whether its certificate has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where a daemon is, and what it owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// A random id of this run of the daemon.
    pub id: String,
    /// The id of its WAL, which outlives the run.
    #[serde(default)]
    pub wal: String,
    /// Host and port under which other machines reach its HTTP interface.
    pub http: String,
    /// Host and port on its own machine.
    #[serde(default)]
    pub local: String,
    /// The name of its machine.
    #[serde(default)]
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// The SHA-256 of its certificate, in hexadecimal; empty where it encrypts nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub certificate: String,
    /// Whether it asks who somebody is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_users: bool,
    /// The partitions of each topic that it alone appends to.
    #[serde(default)]
    pub partitions: BTreeMap<String, Vec<i32>>,
    /// The partitions of each topic that it reads from a source, when it last renewed this.
    #[serde(default)]
    pub reads: BTreeMap<String, Vec<i32>>,
    /// When it started, in milliseconds since 1970.
    #[serde(default)]
    pub started_at_ms: i64,
    /// When it last renewed this, in milliseconds since 1970 by its own clock.
    #[serde(default)]
    pub seen_at_ms: i64,
    /// Why what it made known can't be read, if so: then only its WAL is known, and what it owns.
    #[serde(skip)]
    pub unreadable: Option<String>,
}

impl Address {
    /// The address of a daemon that listens on `listening`.
    pub fn new(context: &Context, listening: SocketAddr) -> Result<Self> {
        let daemon = &context.project.daemon;
        let wal = wal_id(&daemon.wal)?.unwrap_or_default();
        let mut local = listening;
        if listening.ip().is_unspecified() {
            local.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        let host = host_name();
        let http = match &daemon.advertise {
            Some(advertised) => advertised.clone(),
            None if listening.ip().is_unspecified() => format!("{host}:{}", listening.port()),
            None => listening.to_string(),
        };
        Ok(Self {
            id: context.storage.ids().fresh().to_string(),
            partitions: owned_partitions(&context.catalogue, &wal),
            wal,
            reads: BTreeMap::new(),
            http,
            local: local.to_string(),
            host,
            pid: std::process::id(),
            certificate: String::new(),
            has_users: context.project.users.file.is_some(),
            started_at_ms: now_ms(),
            seen_at_ms: now_ms(),
            unreadable: None,
        })
    }

    /// A daemon of which only its host and port are known.
    pub(crate) fn elsewhere(http: &str) -> Self {
        Self {
            id: String::new(),
            wal: String::new(),
            http: http.to_owned(),
            local: String::new(),
            host: http.to_owned(),
            pid: 0,
            certificate: String::new(),
            has_users: false,
            partitions: BTreeMap::new(),
            reads: BTreeMap::new(),
            started_at_ms: 0,
            seen_at_ms: 0,
            unreadable: None,
        }
    }

    /// A daemon of which only the name of its address is known. What may be missing of its facts is
    /// said as of one that does not answer.
    fn unreadable(catalogue: &Catalogue, path: &Path, why: String) -> Self {
        let name = path.filename().unwrap_or_default();
        let wal = name.strip_suffix(".json").unwrap_or(name).to_owned();
        Self {
            id: format!("unreadable {wal}"),
            partitions: owned_partitions(catalogue, &wal),
            wal,
            http: String::new(),
            local: String::new(),
            host: String::new(),
            pid: 0,
            certificate: String::new(),
            has_users: false,
            reads: BTreeMap::new(),
            started_at_ms: 0,
            seen_at_ms: 0,
            unreadable: Some(why),
        }
    }

    /// The URL of a path, under one of its addresses.
    pub(crate) fn url(&self, reached: &str, path: &str) -> String {
        let scheme = match self.certificate.is_empty() {
            true => "http",
            false => "https",
        };
        format!("{scheme}://{reached}{path}")
    }

    fn path(&self) -> Path {
        let name = match self.wal.is_empty() {
            true => &self.id,
            false => &self.wal,
        };
        Path::from(format!("{}/{name}.json", layout::DAEMONS))
    }

    /// Makes the daemon known.
    pub async fn publish(&self, storage: &Storage) -> Result<()> {
        let body = serde_json::to_vec(self).map_err(|e| Error::Internal(e.to_string()))?;
        storage.put_for_owner(&self.path(), body).await
    }

    /// Keeps saying that the daemon lives, until it is to stop; says in `trouble` why that was not
    /// possible when it was last tried. A renewal that has begun is ended, because none may come
    /// after the withdrawal.
    pub(crate) async fn keep(
        mut self,
        context: Context,
        daemon: Arc<Daemon>,
        (trouble, tls): (Arc<Mutex<Option<String>>>, Option<Arc<ServerTls>>),
        stop: CancellationToken,
    ) {
        let certificate = || tls.as_ref().map(|t| t.fingerprint()).unwrap_or_default();
        loop {
            let begun = tokio::time::Instant::now();
            while begun.elapsed() < RENEW_EVERY && certificate() == self.certificate {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
            self.certificate = certificate();
            self.seen_at_ms = now_ms();
            self.partitions = owned_partitions(&context.catalogue, &self.wal);
            self.reads = read_partitions(&daemon);
            let renewed = self.publish(&context.storage).await;
            if let Err(e) = &renewed {
                tracing::warn!(error = %e, "the daemon's address is not renewed; it is tried again");
            }
            *trouble.lock() = renewed.err().map(|e| e.to_string());
        }
    }

    /// Whether this run of the daemon, or one before or after it, is known in the storage.
    pub(crate) async fn is_published(&self, storage: &Storage) -> Result<bool> {
        Ok(storage.get(&self.path()).await?.is_some())
    }

    /// Makes the daemon unknown, unless another run has taken its place.
    pub async fn withdraw(&self, storage: &Storage) -> Result<()> {
        let path = self.path();
        let found = storage.get(&path).await?;
        let known = found.and_then(|b| serde_json::from_slice::<Self>(&b).ok());
        match known.is_some_and(|a| a.id == self.id) {
            true => storage.delete(&path).await,
            false => Ok(()),
        }
    }

    /// Whether the daemon runs on this machine, by its name.
    pub fn is_here(&self) -> bool {
        self.host.is_empty() || self.host == host_name()
    }

    /// The partitions of a topic that it fills, as far as it has said.
    pub(crate) fn fills(&self, topic: &str) -> Vec<PartitionId> {
        let (own, reads) = (self.partitions.get(topic), self.reads.get(topic));
        let both = own.into_iter().chain(reads).flatten();
        both.map(|p| PartitionId(*p)).collect()
    }

    /// For people: that facts of one of its partitions may be missing from an answer, because it
    /// could not be asked.
    pub fn missing_note(&self, topic: &str, partition: PartitionId, landed: Offset) -> String {
        format!(
            "the daemon at {} does not answer: facts of `{topic}` from offset {landed} of partition {partition} on may be missing",
            self.describe(now_ms()),
        )
    }

    /// For people: where it is and when it was last heard of.
    pub fn describe(&self, now_ms: i64) -> String {
        if let Some(why) = &self.unreadable {
            return format!("`{}`, which can't be read ({why}),", self.path());
        }
        let seconds = u64::try_from(now_ms - self.seen_at_ms).unwrap_or(0) / 1_000;
        let seen = humantime::format_duration(Duration::from_secs(seconds));
        format!(
            "{} (host {}, pid {}, last seen {seen} ago)",
            self.http, self.host, self.pid
        )
    }
}

/// The daemons that made themselves known and did not withdraw; some may be gone.
pub async fn known(storage: &Storage) -> Result<Vec<Address>> {
    let found = storage.list_below(&Path::from(layout::DAEMONS)).await?;
    let read = found.iter().map(|object| storage.get(&object.location));
    let bodies = futures::future::try_join_all(read).await?;
    let mut known = Vec::with_capacity(found.len());
    for (object, body) in found.iter().zip(bodies) {
        // One that withdrew since is gone.
        let Some(body) = body else { continue };
        known.push(match serde_json::from_slice(&body) {
            Ok(address) => address,
            Err(e) => {
                let catalogue = Catalogue::open(storage).await?;
                Address::unreadable(&catalogue, &object.location, e.to_string())
            }
        });
    }
    Ok(known)
}

/// The id of the WAL in a folder; none where there is no WAL.
///
/// # Errors
/// `Corrupt` where the id is damaged, or missing beside records.
pub fn wal_id(folder: &std::path::Path) -> Result<Option<String>> {
    found_wal_id(folder, &RealFiles).map_err(|e| match &e {
        WalError::Corrupt { .. } => Error::Corrupt(e.to_string()),
        _ => Error::Unavailable(e.to_string()),
    })
}

fn owned_partitions(catalogue: &Catalogue, wal: &str) -> BTreeMap<String, Vec<i32>> {
    let entry = catalogue.current();
    let of = |(name, topic): (&String, &anabranch_shared::TopicEntry)| {
        let own = topic.partitions.iter().filter(|(_, owner)| *owner == wal);
        let own: Vec<i32> = own.map(|(p, _)| p.0).collect();
        (!own.is_empty()).then(|| (name.clone(), own))
    };
    entry.topics.iter().filter_map(of).collect()
}

/// The partitions that a daemon reads from sources.
fn read_partitions(daemon: &Daemon) -> BTreeMap<String, Vec<i32>> {
    let of = |(name, stream): (&String, &std::sync::Arc<anabranch_speed::TopicStream>)| {
        let own = stream.partition();
        let lanes: Vec<i32> = stream.with_delta(|d| d.lanes.keys().map(|p| p.0).collect());
        let read: Vec<i32> = lanes.into_iter().filter(|p| *p != own.0).collect();
        (!read.is_empty()).then(|| (name.clone(), read))
    };
    daemon.topics().iter().filter_map(of).collect()
}

/// This machine's name; `unknown` where the system does not tell.
pub(crate) fn host_name() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let told = told.or_else(|| std::env::var("HOSTNAME").ok());
    let told = told.map(|name| name.trim().to_owned());
    told.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use anabranch_shared::OwnPartitions;

    use super::*;

    /// What it owns is told by the catalogue, so that answers can say what they may lack.
    #[tokio::test]
    async fn an_address_that_cannot_be_read_is_not_dropped() -> Result<()> {
        let dir = tempfile::tempdir().map_err(|e| Error::io("a folder", e))?;
        let storage = Storage::folder(dir.path())?;
        let topic = anabranch_shared::Topic {
            name: "facts".into(),
            event_time: "ts".into(),
            fields: Vec::new(),
        };
        let catalogue = Catalogue::open(&storage).await?;
        catalogue.declare_topic(&topic).await?;
        let partition = catalogue
            .claim_partition("facts", "a-wal", OwnPartitions::First)
            .await?;
        let path = Path::from("daemons/a-wal.json");
        storage.put(&path, b"{\"id\":".to_vec()).await?;
        let found = known(&storage).await?;
        let [address] = found.as_slice() else {
            return Err(Error::Internal(format!("{found:?}")));
        };
        assert_eq!(address.fills("facts"), [partition]);
        let note = address.missing_note("facts", partition, Offset(7));
        for part in [
            "`daemons/a-wal.json`, which can't be read",
            "from offset 7 of partition 0",
        ] {
            assert!(note.contains(part), "no `{part}` in: {note}");
        }
        Ok(())
    }

    #[test]
    fn an_address_of_an_earlier_version_is_read() {
        let old = r#"{"id":"a","http":"127.0.0.1:1","pid":7}"#;
        let read: Result<Address, _> = serde_json::from_str(old);
        assert!(read.is_ok_and(|a| a.is_here() && a.path().as_ref() == "daemons/a.json"));
    }
}
