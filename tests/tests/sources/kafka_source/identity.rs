//! Which topic of Kafka is read, and by whom: a topic that was made anew, storages side by side, and
//! partitions that nobody reads.

use super::*;

/// What `status` says that needs attention.
pub(super) async fn notes(dir: &Path) -> anyhow::Result<Vec<String>> {
    let said = run_well(dir, &["--format", "json", "status"]).await?;
    let status: serde_json::Value = serde_json::from_str(&said)?;
    let notes = status["notes"].as_array().cloned().unwrap_or_default();
    Ok(notes
        .iter()
        .filter_map(|note| note.as_str().map(str::to_owned))
        .collect())
}

async fn count(daemon: &Daemon) -> anyhow::Result<String> {
    let rows = daemon.rows("SELECT count(*) FROM facts").await?;
    Ok(rows[0][0].clone())
}

/// The topic of another cluster has the name and more messages than were read: its offsets go on
/// where the log ends, and are others all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_stops_the_source() -> anyhow::Result<()> {
    let before = Mock::start(1).await?;
    before.create_topic(TOPIC, 1).await?;
    let dir = tempfile::tempdir()?;
    project(dir.path(), "file://./data", &before.bootstrap(), "")?;
    let mut all = Fates::default();
    send(&before.bootstrap(), Shape::default(), 0..100, &mut all)?;
    let daemon = Daemon::start(dir.path()).await?;
    all_there("the topic as it was", &daemon, &all).await?;
    daemon.stop().await?;

    let anew = Mock::start(1).await?;
    anew.create_topic(TOPIC, 1).await?;
    project(dir.path(), "file://./data", &anew.bootstrap(), "")?;
    let mut others = Fates::default();
    send(
        &anew.bootstrap(),
        Shape::default(),
        1_000..1_300,
        &mut others,
    )?;
    let daemon = Daemon::start(dir.path()).await?;
    let mut note = String::new();
    until("the source to stop", || async {
        let notes = notes(dir.path()).await?;
        Ok(notes.iter().any(|n| n.contains("was made anew")))
    })
    .await?;
    for found in notes(dir.path()).await? {
        if found.contains("was made anew") {
            note = found;
        }
    }
    anyhow::ensure!(count(&daemon).await? == "100", "{note}");
    daemon.stop().await?;

    // Where it is said to be a copy, it is read on.
    let id = note
        .split_once("`topic_id = \"")
        .and_then(|(_, rest)| rest.split('"').next());
    let id = id.ok_or_else(|| anyhow::anyhow!("no id in {note}"))?;
    let accepted = format!("topic_id = \"{id}\"");
    project(dir.path(), "file://./data", &anew.bootstrap(), &accepted)?;
    let daemon = Daemon::start(dir.path()).await?;
    until("the rest of the copy", || async {
        Ok(count(&daemon).await? == "300")
    })
    .await?;
    daemon.stop().await?;
    // From then on it is the topic.
    project(dir.path(), "file://./data", &anew.bootstrap(), "")?;
    let daemon = Daemon::start(dir.path()).await?;
    send(
        &anew.bootstrap(),
        Shape::default(),
        1_300..1_301,
        &mut others,
    )?;
    until("one more", || async { Ok(count(&daemon).await? == "301") }).await?;
    daemon.stop().await
}

/// Two storages that say nothing of a group each read all of a topic.
#[tokio::test(flavor = "multi_thread")]
async fn storages_divide_no_topic_between_them() -> anyhow::Result<()> {
    let mock = Mock::start(1).await?;
    mock.create_topic(TOPIC, 2).await?;
    let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
    let mut all = Fates::default();
    send(&mock.bootstrap(), Shape::default(), 0..400, &mut all)?;
    let mut daemons = Vec::new();
    for dir in &dirs {
        project(dir.path(), "file://./data", &mock.bootstrap(), "")?;
        daemons.push(Daemon::start(dir.path()).await?);
    }
    for daemon in &daemons {
        all_there("a storage of two", daemon, &all).await?;
    }
    for daemon in daemons {
        daemon.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_nobody_reads_are_named() -> anyhow::Result<()> {
    let mock = Mock::start(1).await?;
    mock.create_topic(TOPIC, 3).await?;
    let dir = tempfile::tempdir()?;
    project(
        dir.path(),
        "file://./data",
        &mock.bootstrap(),
        "partitions = \"1\"",
    )?;
    let daemon = Daemon::start(dir.path()).await?;
    until("the note", || async {
        let notes = notes(dir.path()).await?;
        Ok(notes
            .iter()
            .any(|n| n.contains("reads 2 of Kafka's 3 partitions: 0, 2;")))
    })
    .await?;
    daemon.stop().await
}

/// A message of line ends alone is a dead letter at its own offset, and all after it are at theirs.
#[tokio::test(flavor = "multi_thread")]
async fn blank_messages_shift_nothing() -> anyhow::Result<()> {
    let mock = Mock::start(1).await?;
    mock.create_topic(TOPIC, 1).await?;
    let dir = tempfile::tempdir()?;
    project(dir.path(), "file://./data", &mock.bootstrap(), "")?;
    block_in_place(|| {
        let mut producer = Producer::new(&mock.bootstrap(), TOPIC, Shape::default(), 0)?;
        for blank in ["\n", "\r\n", "  \n\n "] {
            producer.send_raw(None, Some(blank.as_bytes()))?;
        }
        producer.send(10)?;
        producer.send_raw(None, Some(b"{\"id\":\"two\"}"))?;
        anyhow::Ok(())
    })?;
    let daemon = Daemon::start(dir.path()).await?;
    let letters = "SELECT _offset, raw FROM dead_letters ORDER BY _offset";
    until("the dead letters", || async {
        Ok(daemon.rows(letters).await?.len() == 4)
    })
    .await?;
    let rows = daemon
        .rows("SELECT id, _offset FROM facts ORDER BY id")
        .await?;
    let expected: Vec<_> = (0..10)
        .map(|id| vec![id.to_string(), (id + 3).to_string()])
        .collect();
    anyhow::ensure!(rows == expected, "{rows:?}");
    let dead = daemon.rows(letters).await?;
    anyhow::ensure!(
        dead[0] == ["0", "\n"] && dead[3] == ["13", "{\"id\":\"two\"}"],
        "{dead:?}"
    );
    daemon.stop().await
}
