//! A member that its group refuses for good (`FENCED_INSTANCE_ID`): once, as a coordinator does that
//! was away while the member waited, and again and again, as two daemons of one name do.

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::identity::notes;
use super::*;

/// The mock refuses the next requests of a kind.
async fn refuse(mock: &Mock, what: RDKafkaApiKey, times: usize) -> anyhow::Result<()> {
    let errors = vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID; times];
    mock.with(move |c| c.request_errors(what, &errors)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_refused_once_goes_on() -> anyhow::Result<()> {
    let mock = Mock::start(1).await?;
    mock.create_topic(TOPIC, 2).await?;
    let dir = tempfile::tempdir()?;
    project(dir.path(), "file://./data", &mock.bootstrap(), "")?;
    let mut all = Fates::default();
    for (nth, what) in [RDKafkaApiKey::OffsetCommit, RDKafkaApiKey::Heartbeat]
        .into_iter()
        .enumerate()
    {
        refuse(&mock, what, 1).await?;
        let first = nth as i64 * 1_000;
        send(
            &mock.bootstrap(),
            Shape::default(),
            first..first + 400,
            &mut all,
        )?;
        let daemon = Daemon::start(dir.path()).await?;
        all_there("facts until the group refuses", &daemon, &all).await?;
        until("the group to refuse", || async {
            let status = daemon.client.status().await?;
            Ok(status.kafka.get("facts").is_some_and(|k| k.refusals == 1))
        })
        .await?;
        let next = first + 400..first + 800;
        send(&mock.bootstrap(), Shape::default(), next, &mut all)?;
        all_there("facts after the group refused", &daemon, &all).await?;
        let said = daemon.stopped_with().await?;
        anyhow::ensure!(said.contains("the group refuses this daemon"), "{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_refused_again_and_again_says_what_to_look_for() -> anyhow::Result<()> {
    let mock = Mock::start(1).await?;
    mock.create_topic(TOPIC, 1).await?;
    let dir = tempfile::tempdir()?;
    project(dir.path(), "file://./data", &mock.bootstrap(), "")?;
    let mut all = Fates::default();
    send(&mock.bootstrap(), Shape::default(), 0..100, &mut all)?;
    refuse(&mock, RDKafkaApiKey::Heartbeat, 1_000).await?;
    let daemon = Daemon::start(dir.path()).await?;
    until("a word of the copied folder", || async {
        let notes = notes(dir.path()).await?;
        Ok(notes
            .iter()
            .any(|n| n.contains("copies of one `wal` folder")))
    })
    .await?;
    mock.with(|c| c.clear_request_errors(RDKafkaApiKey::Heartbeat))
        .await?;
    send(&mock.bootstrap(), Shape::default(), 100..200, &mut all)?;
    all_there("facts of a group that refuses no more", &daemon, &all).await?;
    daemon.stop().await
}
