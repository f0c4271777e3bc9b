//! A real Apache Kafka 4 broker (KRaft, one node) as a child process: the jars that
//! `tests/kafka/setup.sh` fetches, run by the machine's Java. Clients reach it directly, or through a
//! [`Proxy`] at an address of its own, so that faults hit some clients and not others.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anabranch_shared::Ids;
use anyhow::Context as _;
use async_trait::async_trait;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::Cluster;
use crate::places;
use crate::proxy::Proxy;
use crate::skip::skipped;

/// The variable that names the folder of the broker's jars, as `tests/kafka/setup.sh` prints it.
pub const KAFKA: &str = "ANABRANCH_KAFKA";

/// How long a start or a stop may take; a machine may be busy with much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// Any id of a cluster does.
const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qg";

/// What of a broker differs between users.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// Where its data lie; a temporary folder in memory where it is `None`.
    pub dir: Option<PathBuf>,
    /// Its heap.
    pub heap: &'static str,
    /// Optimizes its code less, which starts faster and works slower.
    pub short_lived: bool,
    /// More lines of its properties.
    pub properties: String,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            dir: None,
            heap: "384m",
            short_lived: true,
            properties: String::new(),
        }
    }
}

/// A broker. Its ports and data stay the same over stops and kills; dropping it kills its process.
#[derive(Debug)]
pub struct Broker {
    libs: PathBuf,
    options: BrokerOptions,
    dir: PathBuf,
    /// Removed with the broker.
    _temporary: Option<TempDir>,
    clients: u16,
    proxy: Proxy,
    child: Option<Child>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill().ok();
    }
}

impl Broker {
    /// Starts a broker and waits until it answers; `None`, said aloud, where [`KAFKA`] names no jars.
    pub async fn start() -> anyhow::Result<Option<Self>> {
        Self::start_with(BrokerOptions::default()).await
    }

    /// As [`Broker::start`], with options.
    pub async fn start_with(options: BrokerOptions) -> anyhow::Result<Option<Self>> {
        let Some(libs) = std::env::var_os(KAFKA) else {
            skipped(format!(
                "`{KAFKA}` names no Apache Kafka; `tests/kafka/setup.sh` fetches it"
            ));
            return Ok(None);
        };
        let temporary = match &options.dir {
            Some(dir) => {
                std::fs::create_dir_all(dir)?;
                None
            }
            None => Some(places::folder()?),
        };
        let dir = match (&options.dir, &temporary) {
            (Some(dir), _) => dir.clone(),
            (None, Some(dir)) => dir.path().to_owned(),
            (None, None) => anyhow::bail!("the broker has no folder"),
        };
        let [clients, proxied, controller] = free_ports()?;
        let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, proxied))).await?;
        let properties = properties(&dir, [clients, proxied, controller], &proxy, &options);
        std::fs::write(dir.join("server.properties"), properties)?;
        let mut broker = Self {
            libs: libs.into(),
            options,
            dir,
            _temporary: temporary,
            clients,
            proxy,
            child: None,
        };
        broker.format().await?;
        broker.start_again().await?;
        Ok(Some(broker))
    }

    fn java(&self) -> anyhow::Result<Command> {
        let mut command = Command::new("java");
        command
            .arg("-cp")
            .arg(self.libs.join("*"))
            .arg("-Dorg.apache.logging.log4j.level=WARN");
        let log = self.log();
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out);
        Ok(command)
    }

    async fn format(&self) -> anyhow::Result<()> {
        let mut command = self.java()?;
        command.args(["-XX:TieredStopAtLevel=1", "-Xmx128m"]);
        command.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]);
        command.arg(self.dir.join("server.properties"));
        let status = tokio::task::spawn_blocking(move || command.status()).await?;
        let status = status.context("`java` can't be run; Kafka needs Java 17 or later")?;
        anyhow::ensure!(
            status.success(),
            "formatting ends with {status}: {}",
            self.said()
        );
        Ok(())
    }

    /// Starts it on what it left, after a stop or a kill, and waits until it answers.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.child.is_none(), "the broker runs already");
        let mut command = self.java()?;
        command.arg(format!("-Xmx{}", self.options.heap));
        if self.options.short_lived {
            command.args(["-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        }
        command
            .arg("kafka.Kafka")
            .arg(self.dir.join("server.properties"));
        self.child = Some(command.spawn()?);
        let begun = Instant::now();
        loop {
            if let Some(status) = self
                .child
                .as_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten()
            {
                self.child = None;
                anyhow::bail!("the broker ends with {status}: {}", self.said());
            }
            if self.leaderless(None).await?.is_some_and(|none| none == 0) {
                return Ok(());
            }
            anyhow::ensure!(begun.elapsed() < PATIENCE, "no answer: {}", self.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Partitions without a leader, of one topic or of all; `None` where no broker answers, or there
    /// is no such topic.
    async fn leaderless(&self, topic: Option<&str>) -> anyhow::Result<Option<usize>> {
        let mut config = self.client();
        // A connection that is refused is tried again at once.
        config.set("reconnect.backoff.max.ms", "100");
        let topic = topic.map(str::to_owned);
        tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create()?;
            let Ok(found) = consumer.fetch_metadata(topic.as_deref(), Duration::from_secs(2))
            else {
                return Ok(None);
            };
            let mut partitions = found
                .topics()
                .iter()
                .flat_map(|t| t.partitions())
                .peekable();
            if found.brokers().is_empty() || (topic.is_some() && partitions.peek().is_none()) {
                return Ok(None);
            }
            Ok(Some(partitions.filter(|p| p.leader() < 0).count()))
        })
        .await?
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        // Its own complaints about refused connections are expected here.
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        let child = self.child.as_ref().context("the broker does not run")?;
        Pid::from_raw(i32::try_from(child.id())?).context("the broker has no id")
    }

    /// Ends it as an operator would, with SIGTERM.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        kill_process(self.pid()?, Signal::TERM)?;
        let begun = Instant::now();
        while let Some(child) = &mut self.child {
            if child.try_wait()?.is_some() {
                self.child = None;
            } else if begun.elapsed() > PATIENCE {
                self.kill()?;
                anyhow::bail!("the broker does not stop: {}", self.said());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Kills it with SIGKILL; nothing where it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops its process with SIGSTOP: connections stay open, and nothing answers.
    pub fn pause(&self) -> anyhow::Result<()> {
        crate::process::pause_process(self.pid()?)
    }

    /// Lets a paused one go on.
    pub fn go_on(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.pid()?, Signal::CONT)?)
    }

    /// `bootstrap.servers` of clients that reach it through the proxy; all that they are told leads
    /// through it too.
    pub fn proxied(&self) -> String {
        self.proxy.address().to_string()
    }

    /// The proxy.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// The file of what it logs.
    pub fn log(&self) -> PathBuf {
        self.dir.join("kafka.log")
    }

    fn said(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn admin(&self) -> anyhow::Result<AdminClient<DefaultClientContext>> {
        Ok(self.client().create()?)
    }

    /// Makes a topic with settings, for example `[("retention.ms", "1000")]`.
    pub async fn create_topic_with(
        &self,
        topic: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let wanted = settings
            .iter()
            .fold(wanted, |t, (name, value)| t.set(name, value));
        let made = self.admin()?.create_topics([&wanted], &patient()).await?;
        for result in made {
            result.map_err(|(topic, code)| anyhow::anyhow!("topic `{topic}`: {code}"))?;
        }
        let begun = Instant::now();
        while self.leaderless(Some(topic)).await? != Some(0) {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "topic `{topic}` has no leader");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Removes the records of a partition below an offset, as retention would.
    pub async fn delete_records(
        &self,
        topic: &str,
        partition: i32,
        below: i64,
    ) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(below))?;
        let done = self.admin()?.delete_records(&list, &patient()).await?;
        for element in done.elements() {
            element.error()?;
        }
        Ok(())
    }
}

fn patient() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(PATIENCE))
        .operation_timeout(Some(PATIENCE))
}

#[async_trait]
impl Cluster for Broker {
    fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.clients)
    }

    async fn create_topic(&self, topic: &str, partitions: i32) -> anyhow::Result<()> {
        self.create_topic_with(topic, partitions, &[]).await
    }

    fn hides_aborted(&self) -> bool {
        true
    }
}

/// Ports that are free now and below the range from which the system takes those of outgoing
/// connections: one of these must not take the broker's while it is down.
fn free_ports() -> anyhow::Result<[u16; 3]> {
    let mut held = Vec::new();
    for _ in 0..1_000 {
        let drawn = u16::try_from(Ids::default().fresh().as_u128() % 22_000)?;
        let port = 10_000 + drawn;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
        if let [(a, _), (b, _), (c, _)] = held[..] {
            return Ok([a, b, c]);
        }
    }
    anyhow::bail!("no free ports between 10000 and 32000")
}

fn properties(dir: &Path, ports: [u16; 3], proxy: &Proxy, options: &BrokerOptions) -> String {
    let [clients, proxied, controller] = ports;
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=CLIENTS://127.0.0.1:{clients},PROXIED://127.0.0.1:{proxied},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=CLIENTS://127.0.0.1:{clients},PROXIED://{through}
listener.security.protocol.map=CLIENTS:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENTS
log.dirs={dir}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
auto.create.topics.enable=false
# After a kill the former life's registration has to expire first.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
{more}
",
        through = proxy.address(),
        dir = dir.join("data").display(),
        more = options.properties,
    )
}
