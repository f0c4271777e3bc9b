//! What rows with Kafka and S3 run on: a broker that rows share, one of a row's own, a bucket,
//! projects, and a stream of facts that goes on while things break.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anabranch_jobs::project::context::Context;
use anabranch_shared::Offsets;
use anabranch_tests::fates::Fates;
use anabranch_tests::kafka::{Broker, Cluster, Mock, Producer, Sending, Shape};
use anabranch_tests::places;
use anabranch_tests::process::{Setup, write_project};
use anabranch_tests::s3::{BUCKET, Locking, S3Server, environment};
use tempfile::TempDir;
use tokio::sync::Mutex;

/// Partitions of a topic.
pub(super) const PARTITIONS: i32 = 3;

/// A group soon gives the partitions of a daemon away that says nothing, a lost answer is soon asked
/// for again, and an answer is smaller than what a bad network lets through at a time.
const PROPERTIES: &str = "\"heartbeat.interval.ms\" = 300\n\"max.poll.interval.ms\" = 8000\n\"socket.timeout.ms\" = 3000\n\"reconnect.backoff.max.ms\" = 500\n\"fetch.message.max.bytes\" = 65536\n";

/// How long facts may take to land once nothing is in their way, on a machine of few cores that starts
/// brokers and daemons beside.
const PATIENCE: Duration = Duration::from_secs(180);

/// The broker that rows share which do it no harm. It lives until [`end`].
static SHARED: Mutex<Option<Arc<Broker>>> = Mutex::const_new(None);

/// Makes topics differ.
static TOPICS: AtomicU32 = AtomicU32::new(0);

/// The real broker that rows share; `None`, said aloud, where there is none.
pub(super) async fn real() -> anyhow::Result<Option<Arc<Broker>>> {
    let mut shared = SHARED.lock().await;
    if shared.is_none() {
        *shared = Broker::start().await?.map(Arc::new);
    }
    Ok(shared.clone())
}

/// Ends the shared broker.
pub(super) async fn end() {
    SHARED.lock().await.take();
}

/// The real broker that rows share, or a mock.
pub(super) async fn cluster() -> anyhow::Result<Arc<dyn Cluster>> {
    Ok(match real().await? {
        Some(broker) => broker,
        None => Arc::new(Mock::start(1).await?),
    })
}

/// Where the log and the views lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Folder,
    Bucket,
}

/// A storage, and a Kafka topic where facts come from one.
pub(super) struct Rig {
    /// The topic, and the brokers that daemons are told.
    source: Option<(String, String)>,
    /// After how many milliseconds of silence a daemon is out of the group.
    session_ms: u32,
    pub(super) server: Option<S3Server>,
    root: TempDir,
}

impl Rig {
    /// A storage of its own, and facts over HTTP.
    pub(super) fn new(place: Place) -> anyhow::Result<Self> {
        let root = places::folder()?;
        let server = match place {
            Place::Folder => None,
            Place::Bucket => Some(S3Server::start(root.path(), Locking::PerKey)?),
        };
        Ok(Self {
            source: None,
            session_ms: 2_000,
            server,
            root,
        })
    }

    /// A storage and a topic of its own.
    pub(super) async fn with_kafka(place: Place, cluster: &dyn Cluster) -> anyhow::Result<Self> {
        let topic = format!("facts-{}", TOPICS.fetch_add(1, Ordering::Relaxed));
        cluster.create_topic(&topic, PARTITIONS).await?;
        Ok(Self {
            source: Some((topic, cluster.bootstrap())),
            // The mock first waits 3 s for members, who must not expire meanwhile.
            session_ms: if cluster.hides_aborted() {
                2_000
            } else {
                6_000
            },
            ..Self::new(place)?
        })
    }

    /// Daemons reach the brokers at another address.
    #[must_use]
    pub(super) fn through(mut self, bootstrap: String) -> Self {
        self.source = self.source.map(|(topic, _)| (topic, bootstrap));
        self
    }

    /// A project, as on a machine of its own; `partitions` are its own for good, or the group's.
    pub(super) fn project(&self, partitions: Option<&str>) -> anyhow::Result<TempDir> {
        let dir = places::folder()?;
        let (url, of_storage) = match &self.server {
            Some(server) => (format!("s3://{BUCKET}/data"), server.settings_lines()),
            None => (
                format!("file://{}", self.root.path().display()),
                String::new(),
            ),
        };
        let setup = Setup {
            storage: &url,
            of_storage: &of_storage,
            ..Default::default()
        };
        write_project(dir.path(), setup)?;
        if let Some((topic, bootstrap)) = &self.source {
            let file = dir.path().join("anabranch.toml");
            let text = std::fs::read_to_string(&file)?;
            let own = partitions.map(|p| format!("partitions = \"{p}\"\n"));
            let source = format!(
                "[topics.facts.source.kafka]\nbrokers = \"{bootstrap}\"\ntopic = \"{topic}\"\n{}[topics.facts.source.kafka.properties]\n\"session.timeout.ms\" = {}\n{PROPERTIES}",
                own.unwrap_or_default(),
                self.session_ms
            );
            std::fs::write(file, text + &source)?;
        }
        Ok(dir)
    }

    /// A producer to the topic, past all proxies.
    pub(super) fn producer(&self, cluster: &dyn Cluster, shape: Shape) -> anyhow::Result<Producer> {
        let Some((topic, _)) = &self.source else {
            anyhow::bail!("these facts don't come from Kafka");
        };
        Producer::new(&cluster.bootstrap(), topic, shape, 0)
    }

    /// Begins a stream of about so many facts in three seconds.
    pub(super) fn stream(&self, cluster: &dyn Cluster, facts: i64) -> anyhow::Result<Stream> {
        let stop = Arc::new(AtomicBool::new(false));
        let producer = self.producer(cluster, Shape::default())?;
        let sending = producer.send_beside(facts as f64 / 3.0, Arc::clone(&stop));
        Ok(Stream {
            stop,
            sending: Some(sending),
        })
    }
}

/// A producer that goes on until it is told to end.
pub(super) struct Stream {
    stop: Arc<AtomicBool>,
    sending: Option<Sending>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Stream {
    /// Ends it once it has sent at least so many facts, and waits for their fates.
    pub(super) async fn end(mut self, facts: i64) -> anyhow::Result<Fates> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(sending) = self.sending.take() else {
            anyhow::bail!("the stream has ended");
        };
        let ended = tokio::task::spawn_blocking(move || {
            let joined = sending.join();
            let mut producer = joined.map_err(|_| anyhow::anyhow!("the producer panicked"))??;
            producer.send((facts - producer.next()).max(facts / 10))?;
            anyhow::ensure!(
                producer.failed() == 0,
                "{} records failed",
                producer.failed()
            );
            Ok(producer.fates())
        });
        ended.await?
    }
}

/// A project as this process sees it.
pub(super) async fn context(dir: &Path) -> anyhow::Result<Context> {
    Ok(Context::open_with(dir, environment()).await?)
}

/// How many offsets have landed.
pub(super) async fn landed(context: &Context) -> anyhow::Result<u64> {
    let head = context.log("facts").await?.head();
    Ok(Offsets::default().distance_to(&head))
}

/// Waits until so many offsets more have landed.
pub(super) async fn more(what: &str, context: &Context, offsets: i64) -> anyhow::Result<()> {
    let (begun, first) = (Instant::now(), landed(context).await?);
    let enough = first + u64::try_from(offsets)?;
    loop {
        let found = landed(context).await?;
        if found >= enough {
            return Ok(());
        }
        anyhow::ensure!(
            begun.elapsed() < PATIENCE,
            "{what}: {found} offsets have landed, and not {enough}, in {PATIENCE:?}; there were {first}"
        );
        // Each look reads the log's table, beside a daemon and brokers on few cores.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
