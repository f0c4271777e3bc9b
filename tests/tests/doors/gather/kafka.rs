//! A topic from Kafka whose partitions are read by two daemons: each answers with all of them.

use anabranch_tests::fates::{Fates, Place};
use anabranch_tests::kafka::{Cluster, Mock, Producer, Shape};
use anabranch_tests::process::{Process, until};
use tokio::task::block_in_place;

use super::{Two, ask, start};

const TOPIC: &str = "from-kafka";

#[tokio::test(flavor = "multi_thread")]
async fn daemons_answer_with_each_others_partitions() -> anyhow::Result<()> {
    let mock = Mock::start(1).await?;
    mock.create_topic(TOPIC, 4).await?;
    let two = Two::new("1h", "")?;
    for (path, partitions) in two.paths().into_iter().zip(["0-1", "2-3"]) {
        let file = path.join("anabranch.toml");
        let text = std::fs::read_to_string(&file)?;
        let source = format!(
            "[topics.facts.source.kafka]\nbrokers = \"{}\"\ntopic = \"{TOPIC}\"\npartitions = \"{partitions}\"\n",
            mock.bootstrap()
        );
        std::fs::write(file, text + &source)?;
    }
    let mut fates = Fates::default();
    block_in_place(|| {
        let mut producer = Producer::new(&mock.bootstrap(), TOPIC, Shape::default(), 0)?;
        producer.send(4_000)?;
        fates.add(&producer.fates());
        anyhow::Ok(())
    })?;
    let context = two.context().await?;
    let (mut daemons, clients) = start(two.paths(), &context).await?;
    for client in &clients {
        until("all partitions", || async {
            let (rows, _) = ask(client, "SELECT count(*) FROM facts").await?;
            Ok(rows[0][0] == "4000")
        })
        .await?;
        let (rows, answer) = ask(client, "SELECT id, _partition, _offset FROM facts").await?;
        anyhow::ensure!(answer.notes.is_empty(), "{:?}", answer.notes);
        let place = |row: &Vec<String>| {
            let (partition, offset) = (row[1].parse()?, row[2].parse()?);
            anyhow::Ok((row[0].parse()?, Place { partition, offset }))
        };
        let found = rows.iter().map(place).collect::<anyhow::Result<Vec<_>>>()?;
        let tally = fates.compare(found);
        anyhow::ensure!(tally.is_exact(), "{tally:?}");
        let (rows, _) = ask(client, "SELECT sum(facts), combine(different) FROM words").await?;
        anyhow::ensure!(rows[0] == ["4000", "4000"], "{rows:?}");
    }
    let head = context.log("facts").await?.head();
    anyhow::ensure!(head.iter().next().is_none(), "facts have landed: [{head}]");

    // One dies: what it had read is missing, and each of its partitions is named.
    daemons[0].kill()?;
    let (rows, answer) = ask(
        &clients[1],
        "SELECT DISTINCT _partition FROM facts ORDER BY 1",
    )
    .await?;
    anyhow::ensure!(rows == [["2"], ["3"]], "{rows:?}");
    for partition in ["0", "1"] {
        let named = format!("from offset 0 of partition {partition} on may be missing");
        anyhow::ensure!(
            answer.notes.iter().any(|n| n.contains(&named)),
            "{:?}",
            answer.notes
        );
    }
    daemons[0] = Process::start(two.paths()[0], &["speed"])?;
    let back = daemons[0].ready(&context).await?;
    for client in [&back, &clients[1]] {
        until("all partitions again", || async {
            let (rows, answer) = ask(client, "SELECT sum(facts) FROM words").await?;
            Ok(rows[0] == ["4000"] && answer.notes.is_empty())
        })
        .await?;
    }
    for daemon in &mut daemons {
        daemon.terminate().await?;
    }
    Ok(())
}
