//! The tests' own Kafka: what its producer books is what an independent consumer sees, on the real
//! broker and on the mock, over stops, kills and faults of the network.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_tests::fates::Fates;
use anabranch_tests::kafka::{
    Broker, Cluster, Codec, End, Mock, Producer, Record, Shape, read_all,
};
use anabranch_tests::proxy::Fault;
use tokio::task::block_in_place;

const TOPIC: &str = "facts";

/// What a consumer sees is what the producer knows, at the places that it knows.
fn check(what: &str, fates: &Fates, records: &[Record]) -> anyhow::Result<()> {
    let found = records.iter().filter_map(|r| Some((r.id()?, r.place)));
    let tally = fates.compare(found);
    anyhow::ensure!(
        tally.is_exact() && tally.unknown == 0 && tally.produced > 0,
        "{what}: {tally:?}"
    );
    Ok(())
}

/// Every codec, with and without keys, headers, frames and timestamps.
async fn all_shapes(cluster: &dyn Cluster) -> anyhow::Result<()> {
    cluster.create_topic(TOPIC, 3).await?;
    let bootstrap = cluster.bootstrap();
    let mut all = Fates::default();
    for (nth, codec) in (0..).zip(Codec::ALL) {
        let full = Shape {
            codec,
            keys: true,
            headers: true,
            framed: Some(7),
            timestamp_ms: Some(1_767_225_600_000),
            ..Default::default()
        };
        let plain = Shape {
            codec,
            partition: Some(nth % 3),
            ..Default::default()
        };
        for (half, shape) in (0..).zip([full, plain]) {
            let first = i64::from(nth) * 1_000 + half * 500;
            let mut producer = block_in_place(|| Producer::new(&bootstrap, TOPIC, shape, first))?;
            block_in_place(|| producer.send(500))?;
            all.add(&producer.fates());
        }
    }
    let records = block_in_place(|| read_all(&bootstrap, TOPIC))?;
    check("all shapes", &all, &records)?;
    anyhow::ensure!(all.totals().count == 5_000 && all.totals().sum == 4_999 * 2_500);
    let full = records.iter().find(|r| r.id() == Some(104));
    let full = full.ok_or_else(|| anyhow::anyhow!("number 104 is not there"))?;
    let headers = [
        ("source".to_owned(), Some(b"h2".to_vec())),
        ("empty".to_owned(), None),
    ];
    anyhow::ensure!(
        full.key.as_deref() == Some(b"k4")
            && full.timestamp_ms == Some(1_767_225_600_104)
            && full.headers == headers
            && full
                .value
                .as_deref()
                .is_some_and(|v| v.starts_with(&[0, 0, 0, 0, 7, b'{'])),
        "{full:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mock_keeps_what_it_acknowledges() -> anyhow::Result<()> {
    let mock = Mock::start(1).await?;
    all_shapes(&mock).await?;
    // One broker goes away and comes back; the producer waits.
    let bootstrap = mock.bootstrap();
    mock.create_topic("later", 1).await?;
    let producer = block_in_place(|| Producer::new(&bootstrap, "later", Shape::default(), 0))?;
    let stop = Arc::new(AtomicBool::new(false));
    let sending = producer.send_beside(5_000.0, Arc::clone(&stop));
    tokio::time::sleep(Duration::from_millis(100)).await;
    mock.with(|c| c.broker_down(1)).await??;
    tokio::time::sleep(Duration::from_millis(100)).await;
    mock.with(|c| c.broker_up(1)).await??;
    stop.store(true, Ordering::Relaxed);
    let producer = block_in_place(|| sending.join());
    let producer = producer.map_err(|_| anyhow::anyhow!("the producer panicked"))??;
    let records = block_in_place(|| read_all(&bootstrap, "later"))?;
    check("a broker that went away", &producer.fates(), &records)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_keeps_what_it_acknowledges() -> anyhow::Result<()> {
    let Some(mut broker) = Broker::start().await? else {
        return Ok(());
    };
    all_shapes(&broker).await?;

    // Transactions: what is aborted is not seen, and takes offsets.
    broker.create_topic("transactions", 2).await?;
    let shape = Shape {
        transactions: Some("of-this-test".into()),
        keys: true,
        ..Default::default()
    };
    let bootstrap = broker.bootstrap();
    let mut producer = block_in_place(|| Producer::new(&bootstrap, "transactions", shape, 0))?;
    for end in [
        End::Commit,
        End::Abort,
        End::Commit,
        End::Abort,
        End::Commit,
    ] {
        block_in_place(|| producer.transaction(200, end))?;
    }
    let records = block_in_place(|| read_all(&bootstrap, "transactions"))?;
    check("transactions", &producer.fates(), &records)?;
    let highest = records.iter().map(|r| r.place.offset).max();
    anyhow::ensure!(records.len() == 600 && highest > Some(400), "{highest:?}");

    // Stopped, killed and paused under load; then with a network that fails.
    broker.create_topic("load", 2).await?;
    let through = broker.proxied();
    let producer = block_in_place(|| Producer::new(&through, "load", Shape::default(), 0))?;
    let stop = Arc::new(AtomicBool::new(false));
    let sending = producer.send_beside(2_000.0, Arc::clone(&stop));
    let moment = || tokio::time::sleep(Duration::from_millis(200));
    moment().await;
    broker.stop().await?;
    broker.start_again().await?;
    moment().await;
    broker.kill()?;
    broker.start_again().await?;
    moment().await;
    broker.pause()?;
    moment().await;
    broker.go_on()?;
    for fault in [
        Fault::CutEvery(200),
        Fault::Delay(Duration::from_millis(20)),
        Fault::DropReplies,
        Fault::Refuse,
        Fault::None,
    ] {
        broker.proxy().set(fault);
        moment().await;
        // What waits for a reply that was swallowed would wait for a minute.
        broker.proxy().cut();
    }
    stop.store(true, Ordering::Relaxed);
    let producer = block_in_place(|| sending.join());
    let producer = producer.map_err(|_| anyhow::anyhow!("the producer panicked"))??;
    anyhow::ensure!(
        broker.proxy().accepted() > 3,
        "nothing went through the proxy"
    );
    let records = block_in_place(|| read_all(&bootstrap, "load"))?;
    check("load", &producer.fates(), &records)?;
    anyhow::ensure!(producer.failed() == 0);

    // A hole, as retention makes it.
    let before = records.iter().filter(|r| r.place.partition == 0).count();
    broker.delete_records("load", 0, 100).await?;
    let after = block_in_place(|| read_all(&bootstrap, "load"))?;
    let first = after
        .iter()
        .filter(|r| r.place.partition == 0)
        .map(|r| r.place.offset);
    anyhow::ensure!(before > 100 && first.min() == Some(100));
    Ok(())
}
