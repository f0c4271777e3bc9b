//! Which servers are trusted, and what is said of those that can't be used.

use std::time::{Duration, Instant};

use anabranch_shared::{ErrorKind, RequestKind, Storage};
use anabranch_tests::places;
use anabranch_tests::s3::{Fault, Locking, Rule, S3Server, bucket_settings, environment};

fn bucket(server: &S3Server, name: &str, keys: Vec<(String, String)>) -> anyhow::Result<Storage> {
    let settings = bucket_settings(&format!("{name}/p"), server.endpoint());
    Ok(Storage::open(&settings, std::path::Path::new("."), keys)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lets_several_writers_win_is_refused() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let racy = S3Server::start(dir.path(), Locking::None)?;
    let refused = racy.storage("racy")?.probe().await.err();
    let refused = refused.ok_or_else(|| anyhow::anyhow!("a server without locks is accepted"))?;
    anyhow::ensure!(
        refused.kind() == ErrorKind::Conflict && refused.to_string().contains("does not honour"),
        "{refused}"
    );
    // Nothing was remembered, so it is refused again.
    anyhow::ensure!(racy.storage("racy")?.probe().await.is_err());
    drop(racy);

    let safe = S3Server::start(dir.path(), Locking::PerKey)?;
    let storage = safe.storage("safe")?;
    storage.probe().await?;
    anyhow::ensure!(storage.requests().of(RequestKind::PutIfAbsent) >= 40);
    // Its success is remembered: the next one asks once.
    let again = safe.storage("safe")?;
    again.probe().await?;
    let asked: u64 = RequestKind::ALL
        .iter()
        .map(|k| again.requests().of(*k))
        .sum();
    anyhow::ensure!(asked == 1, "a second probe makes {asked} requests");
    // What it put in the bucket to find out is gone.
    let left = safe.bucket_folder().join("safe/_probe");
    let left: Vec<_> = std::fs::read_dir(left)?.collect::<Result<_, _>>()?;
    anyhow::ensure!(left.len() == 1, "{left:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_answers_get_lost_is_not_refused() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let server = S3Server::start(dir.path(), Locking::PerKey)?;
    server.fail(vec![
        Rule::new(Fault::Error500, 100),
        Rule::new(Fault::SlowDown, 100),
    ]);
    server.storage("p")?.probe().await?;
    anyhow::ensure!(!server.failed().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_bucket_is_said_at_once() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let server = S3Server::start(dir.path(), Locking::PerKey)?;
    let mut wrong_keys = environment();
    wrong_keys.push(("AWS_SECRET_ACCESS_KEY".into(), "hunter2".into()));
    let absent = server.endpoint().to_owned();
    let cases = [
        (
            bucket(&server, "nowhere", environment())?,
            ErrorKind::NotFound,
            "no bucket `nowhere`",
        ),
        (
            bucket(&server, "tests", wrong_keys)?,
            ErrorKind::Invalid,
            "keys in the environment are refused",
        ),
    ];
    let gone = bucket(&server, "tests", environment())?;
    for (storage, kind, says) in cases {
        check(&storage, kind, says).await?;
    }
    drop(server);
    check(
        &gone,
        ErrorKind::Unavailable,
        &format!("{absent} does not answer"),
    )
    .await
}

async fn check(storage: &Storage, kind: ErrorKind, says: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    let error = storage.probe().await.err();
    let error = error.ok_or_else(|| anyhow::anyhow!("accepted, and not: {says}"))?;
    let text = error.to_string();
    anyhow::ensure!(
        error.kind() == kind && text.contains(says),
        "{kind}: {text}"
    );
    anyhow::ensure!(!text.contains("hunter2"), "{text}");
    anyhow::ensure!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}: {text}",
        begun.elapsed()
    );
    Ok(())
}
