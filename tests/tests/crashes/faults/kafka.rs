//! Kafka that goes away, a network that fails, transactions, and daemons that die while they land
//! from Kafka.

use std::sync::Arc;
use std::time::Duration;

use anabranch_tests::fates::Tally;
use anabranch_tests::kafka::{Broker, Cluster, End, Mock, Shape};
use anabranch_tests::process::{Process, run_well};
use anabranch_tests::proxy::Fault;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Time;
use super::rig::{Place, Rig, cluster, context, more, real};
use super::settle::settle;

/// Where the facts of a time lie.
fn place(time: Time) -> Place {
    time.choose(&[Place::Folder, Place::Bucket])
}

/// A cluster of a row's own, which it may break.
enum Own {
    Real(Box<Broker>),
    Mock(Mock),
}

impl Own {
    async fn start() -> anyhow::Result<Self> {
        Ok(match Broker::start().await? {
            Some(broker) => Self::Real(Box::new(broker)),
            None => Self::Mock(Mock::start(1).await?),
        })
    }

    fn cluster(&self) -> &dyn Cluster {
        match self {
            Self::Real(broker) => broker.as_ref(),
            Self::Mock(mock) => mock,
        }
    }

    async fn down(&mut self, killed: bool) -> anyhow::Result<()> {
        match self {
            Self::Real(broker) if killed => broker.kill(),
            Self::Real(broker) => broker.stop().await,
            Self::Mock(mock) => Ok(mock.with(|c| c.broker_down(1)).await??),
        }
    }

    async fn up(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Real(broker) => broker.start_again().await,
            Self::Mock(mock) => Ok(mock.with(|c| c.broker_up(1)).await??),
        }
    }
}

/// The broker is stopped and started.
pub(super) async fn stopped(time: Time) -> anyhow::Result<Option<Tally>> {
    away(time, Own::start().await?, false).await
}

/// The broker is killed and started; the mock can't be.
pub(super) async fn killed(time: Time) -> anyhow::Result<Option<Tally>> {
    match Own::start().await? {
        Own::Mock(_) => Ok(None),
        own => away(time, own, true).await,
    }
}

async fn away(time: Time, mut own: Own, killed: bool) -> anyhow::Result<Option<Tally>> {
    let rig = Rig::with_kafka(place(time), own.cluster()).await?;
    let dir = rig.project(None)?;
    let context = context(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let stream = rig.stream(own.cluster(), time.facts)?;
    for round in 0..2 {
        more("facts before the broker goes", &context, time.facts / 10).await?;
        own.down(killed).await?;
        if round == 1 {
            // The daemon goes too, and is back before the broker.
            daemon.kill()?;
            daemon = Process::start(dir.path(), &["speed"])?;
        }
        // What lies in the log answers meanwhile.
        run_well(dir.path(), &["batch", "refresh"]).await?;
        own.up().await?;
    }
    more("facts after the broker is back", &context, time.facts / 10).await?;
    let fates = stream.end(time.facts).await?;
    daemon.kill()?;
    Ok(Some(
        settle("the broker away", &[dir.path()], &fates).await?,
    ))
}

/// The network between daemon and broker.
pub(super) async fn network(time: Time) -> anyhow::Result<Option<Tally>> {
    let Some(broker) = real().await? else {
        return slow(time).await.map(Some);
    };
    let rig = Rig::with_kafka(place(time), broker.as_ref()).await?;
    let rig = rig.through(broker.proxied());
    let dir = rig.project(None)?;
    let context = context(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let stream = rig.stream(broker.as_ref(), time.facts)?;
    let faults = [
        Fault::Delay(Duration::from_millis(80)),
        Fault::CutEvery(500_000),
        Fault::DropReplies,
        Fault::Refuse,
        Fault::Freeze,
    ];
    let mut broken = Ok(());
    for nth in 0..3 {
        let fault = faults[(time.nth * 2 + nth) % faults.len()];
        broker.proxy().set(fault);
        broken = match fault {
            // Slowly it goes on.
            Fault::Delay(_) | Fault::CutEvery(_) => {
                more("facts over a bad network", &context, time.facts / 20).await
            }
            _ => {
                tokio::time::sleep(Duration::from_millis(1_500)).await;
                Ok(())
            }
        };
        broker.proxy().set(Fault::None);
        if broken.is_ok() {
            broken = more("facts after the network", &context, time.facts / 20).await;
        }
        if broken.is_err() {
            break;
        }
    }
    broken?;
    let fates = stream.end(time.facts).await?;
    daemon.kill()?;
    Ok(Some(settle("the network", &[dir.path()], &fates).await?))
}

/// The mock has no network of its own, but it may be slow.
async fn slow(time: Time) -> anyhow::Result<Tally> {
    let mock = Mock::start(1).await?;
    let rig = Rig::with_kafka(place(time), &mock).await?;
    let dir = rig.project(None)?;
    let context = context(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let stream = rig.stream(&mock, time.facts)?;
    mock.delay(1, Duration::from_millis(200)).await?;
    more("facts of a slow broker", &context, time.facts / 20).await?;
    mock.delay(1, Duration::ZERO).await?;
    let fates = stream.end(time.facts).await?;
    daemon.kill()?;
    settle("a slow broker", &[dir.path()], &fates).await
}

/// Transactions of which a third is aborted, while the daemon dies and a view is built; the mock
/// shows what was aborted.
pub(super) async fn transactions(time: Time) -> anyhow::Result<Option<Tally>> {
    let Some(broker) = real().await? else {
        return Ok(None);
    };
    let rig = Rig::with_kafka(place(time), broker.as_ref()).await?;
    let dir = rig.project(None)?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let shape = Shape {
        transactions: Some(format!("t{}", time.nth)),
        ..Default::default()
    };
    let rig = Arc::new(rig);
    let of_thread = (Arc::clone(&rig), Arc::clone(&broker));
    let mut producer = tokio::task::spawn_blocking(move || {
        let (rig, broker) = of_thread;
        rig.producer(broker.as_ref(), shape)
    })
    .await??;
    let mut aborted = 0;
    for n in 0..12 {
        let end = match (n + time.nth) % 3 {
            0 => End::Abort,
            _ => End::Commit,
        };
        aborted += usize::from(end == End::Abort);
        // Small ones and large ones.
        let facts = time.facts * [1, 3, 5][n % 3] / 30;
        let ended = tokio::task::spawn_blocking(move || {
            producer.transaction(facts, end)?;
            anyhow::Ok(producer)
        });
        producer = ended.await??;
        match n {
            5 => {
                daemon.kill()?;
                daemon = Process::start(dir.path(), &["speed"])?;
            }
            8 => drop(run_well(dir.path(), &["batch", "rebuild"]).await?),
            _ => {}
        }
    }
    anyhow::ensure!(aborted == 4, "{aborted} were aborted");
    daemon.terminate().await?;
    let fates = producer.fates();
    Ok(Some(settle("transactions", &[dir.path()], &fates).await?))
}

/// Where a daemon is killed, and which pass it does not survive.
const STEPS: [(&str, u64); 4] = [
    ("land-before-commit", 2),
    ("land-after-commit", 2),
    ("land-before-cut", 2),
    ("delta-before-adopt", 1),
];

/// A daemon is killed at a step of a landing from Kafka to S3, and another one, on the same machine
/// or elsewhere, gets all messages again that had not landed.
pub(super) async fn at_each_step(time: Time) -> anyhow::Result<Option<Tally>> {
    let (point, pass) = time.choose(&STEPS);
    let partitions = [None, Some("0-2")][time.nth / STEPS.len() % 2];
    let cluster = cluster().await?;
    let rig = Rig::with_kafka(Place::Bucket, cluster.as_ref()).await?;
    let mut dir = rig.project(partitions)?;
    let context = context(dir.path()).await?;
    let stream = rig.stream(cluster.as_ref(), time.facts)?;
    for round in 0..2 {
        let mut daemon = Process::start_to_stop(dir.path(), &["speed"], point, pass)?;
        if point.starts_with("delta") {
            more("facts before a refresh", &context, time.facts / 50).await?;
            run_well(dir.path(), &["batch", "refresh"]).await?;
        }
        daemon.stopped().await?;
        daemon.kill()?;
        if round == 1 {
            dir = rig.project(partitions)?;
        }
    }
    let fates = stream.end(time.facts).await?;
    Ok(Some(settle(point, &[dir.path()], &fates).await?))
}

/// A daemon that reads from Kafka, and builds beside it, are killed at random times.
pub(super) async fn at_random(time: Time) -> anyhow::Result<Option<Tally>> {
    let cluster = cluster().await?;
    let rig = Rig::with_kafka(Place::Bucket, cluster.as_ref()).await?;
    let dir = rig.project(Some("0-2"))?;
    let stream = rig.stream(cluster.as_ref(), time.facts)?;
    let mut rng = SmallRng::seed_from_u64(time.nth as u64);
    for round in 0..5 {
        let mut daemon = Process::start(dir.path(), &["speed"])?;
        let command = ["refresh", "rebuild", "maintain"][(time.nth + round) % 3];
        let mut build = Process::start(dir.path(), &["batch", command])?;
        let [first, second] =
            [1_000, 300].map(|most| Duration::from_millis(rng.random_range(0..most)));
        tokio::time::sleep(first).await;
        match round % 2 {
            0 => build.kill()?,
            _ => daemon.kill()?,
        }
        tokio::time::sleep(second).await;
        daemon.kill()?;
        build.kill()?;
    }
    let fates = stream.end(time.facts).await?;
    Ok(Some(settle("random times", &[dir.path()], &fates).await?))
}
