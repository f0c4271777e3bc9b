//! One contract for every kind of storage: a folder, a bucket of the tests' own server, and a bucket of
//! moto, which somebody else wrote.

use anabranch_shared::{CreateOutcome, Storage, StorageSecret};
use anabranch_tests::faults::faulty;
use anabranch_tests::places;
use anabranch_tests::s3::{BUCKET, bucket_settings, environment};
use anyhow::ensure;
use futures::TryStreamExt;
use futures::future::join_all;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::s3::bucket::{Moto, Server};

/// Larger than what a bucket is sent as one piece.
const LARGE_BYTES: usize = 33 << 20;

/// Names as topics, views and generations may give them.
const NAMES: [&str; 6] = [
    "plain",
    "with space",
    "per%25cent",
    "émigré-日本",
    "a+b=c&d",
    "UPPER.json",
];

fn text(body: Option<bytes::Bytes>) -> Option<String> {
    body.map(|b| String::from_utf8_lossy(&b).into_owned())
}

/// Everything that the layers above rely on.
async fn keeps_the_contract(storage: &Storage) -> anyhow::Result<()> {
    storage.probe().await?;
    one_name_is_made_once(storage).await?;
    puts_replace(storage).await?;
    listings_are_whole_and_in_order(storage).await?;
    ranges_and_copies(storage).await?;
    large_objects_come_back(storage).await?;
    who_only_reads_writes_nothing(storage).await
}

async fn one_name_is_made_once(storage: &Storage) -> anyhow::Result<()> {
    let path = Path::from("once/entry");
    ensure!(storage.create(&path, "first").await? == CreateOutcome::Created);
    ensure!(storage.create(&path, "second").await? == CreateOutcome::Exists);
    ensure!(text(storage.get(&path).await?).as_deref() == Some("first"));
    for round in 0..8 {
        let path = Path::from(format!("once/race-{round}"));
        let racers = (0..8).map(|i| storage.create(&path, format!("{i}")));
        let outcomes = join_all(racers).await;
        let mut winners = Vec::new();
        for (i, outcome) in outcomes.into_iter().enumerate() {
            if outcome? == CreateOutcome::Created {
                winners.push(i.to_string());
            }
        }
        let found = text(storage.get(&path).await?);
        ensure!(
            winners == found.iter().cloned().collect::<Vec<_>>(),
            "{winners:?} won, {found:?} is there"
        );
    }
    // What was removed can be made again.
    storage.delete(&path).await?;
    ensure!(storage.create(&path, "third").await? == CreateOutcome::Created);
    Ok(())
}

async fn puts_replace(storage: &Storage) -> anyhow::Result<()> {
    for name in NAMES {
        let path = Path::from(format!("puts/{name}"));
        ensure!(storage.get(&path).await?.is_none(), "{name}");
        ensure!(!storage.is_there(&path).await?, "{name}");
        storage.put(&path, "one, and longer").await?;
        storage.put(&path, "two").await?;
        ensure!(storage.is_there(&path).await?, "{name}");
        ensure!(
            text(storage.get(&path).await?).as_deref() == Some("two"),
            "{name}"
        );
        storage.delete(&path).await?;
        storage.delete(&path).await?;
        ensure!(storage.get(&path).await?.is_none(), "{name}");
    }
    let (empty, own) = (Path::from("puts/empty"), Path::from("puts/own"));
    storage.put(&empty, "").await?;
    ensure!(text(storage.get(&empty).await?).as_deref() == Some(""));
    storage.put_for_owner(&own, "mine").await?;
    ensure!(text(storage.get(&own).await?).as_deref() == Some("mine"));
    Ok(())
}

async fn listings_are_whole_and_in_order(storage: &Storage) -> anyhow::Result<()> {
    let below = Path::from("lists");
    // More than one page of a server, and names that sort otherwise by bytes than by people.
    let mut wanted: Vec<Path> = (0..1_100)
        .map(|i| Path::from(format!("lists/{i:05}")))
        .chain(NAMES.map(|name| Path::from(format!("lists/{name}"))))
        .chain([Path::from("lists/deep/er/one")])
        .collect();
    wanted.sort();
    for chunk in wanted.chunks(64) {
        let puts = chunk.iter().map(|path| storage.put(path, "x"));
        join_all(puts)
            .await
            .into_iter()
            .collect::<Result<(), _>>()?;
    }
    // A name that begins alike is not below.
    storage.put(&Path::from("lists-beside/one"), "x").await?;
    let found = storage.list_below(&below).await?;
    let found: Vec<Path> = found.into_iter().map(|o| o.location).collect();
    ensure!(found == wanted, "{} of {}", found.len(), wanted.len());
    let after = Path::from("lists/01000");
    let found = storage.list_after(&below, &after).await?;
    let found: Vec<Path> = found.into_iter().map(|o| o.location).collect();
    let later: Vec<Path> = wanted.iter().filter(|p| **p > after).cloned().collect();
    ensure!(found == later, "{} of {}", found.len(), later.len());
    let (objects, deeper) = storage.list_level(&below).await?;
    ensure!(objects.len() == wanted.len() - 1 && deeper == [Path::from("lists/deep")]);
    ensure!(storage.list_below(&Path::from("nothing")).await?.is_empty());
    // Many at once, one of which is not there.
    let gone = wanted.iter().cloned().chain([Path::from("lists/absent")]);
    let gone = futures::stream::iter(gone.map(Ok).collect::<Vec<_>>());
    let removed = storage.store().delete_stream(Box::pin(gone));
    let removed = removed
        .try_for_each(|_| futures::future::ready(Ok(())))
        .await;
    ensure!(!matches!(
        removed,
        Err(e) if !matches!(e, object_store::Error::NotFound { .. })
    ));
    ensure!(storage.list_below(&below).await?.is_empty());
    Ok(())
}

async fn ranges_and_copies(storage: &Storage) -> anyhow::Result<()> {
    let (from, to) = (Path::from("bytes/from"), Path::from("bytes/to"));
    storage.put(&from, "0123456789").await?;
    let found = storage.store().get_ranges(&from, &[8..10, 0..2]).await?;
    ensure!(found == ["89", "01"]);
    ensure!(storage.store().get_range(&from, 3..5).await? == "34");
    storage.store().copy(&from, &to).await?;
    storage.delete(&from).await?;
    ensure!(text(storage.get(&to).await?).as_deref() == Some("0123456789"));
    ensure!(storage.store().head(&to).await?.size == 10);
    ensure!(matches!(
        storage.store().head(&from).await,
        Err(object_store::Error::NotFound { .. })
    ));
    Ok(())
}

async fn large_objects_come_back(storage: &Storage) -> anyhow::Result<()> {
    let path = Path::from("bytes/large");
    let body: bytes::Bytes = (0..LARGE_BYTES).map(|i| (i % 251) as u8).collect();
    storage.put(&path, body.clone()).await?;
    ensure!(storage.get(&path).await? == Some(body), "not the same");
    Ok(())
}

async fn who_only_reads_writes_nothing(storage: &Storage) -> anyhow::Result<()> {
    let path = Path::from("puts/read-only");
    let reader = storage.clone().read_only();
    ensure!(reader.put(&path, "x").await.is_err());
    ensure!(reader.put_for_owner(&path, "x").await.is_err());
    ensure!(reader.create(&path, "x").await.is_err());
    ensure!(reader.delete(&path).await.is_err());
    ensure!(storage.get(&path).await?.is_none());
    Ok(())
}

fn bucket(server: &Server) -> anyhow::Result<Storage> {
    let settings = bucket_settings(&format!("{BUCKET}/contract"), server.endpoint());
    let nowhere = std::path::Path::new(".");
    Ok(Storage::open(&settings, nowhere, environment())?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_keeps_the_contract() -> anyhow::Result<()> {
    let dir = places::folder()?;
    keeps_the_contract(&Storage::folder(dir.path())?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_keeps_the_contract() -> anyhow::Result<()> {
    let server = Server::own()?;
    keeps_the_contract(&bucket(&server)?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_on_moto_keeps_the_contract() -> anyhow::Result<()> {
    let Some(moto) = Moto::start().await? else {
        return Ok(());
    };
    let server = Server::Moto(moto);
    keeps_the_contract(&bucket(&server)?).await
}

/// Half of the puts fail, half of these after they were done: a daemon that starts has the secret that
/// the others have all the same.
#[tokio::test]
async fn a_secret_is_made_though_answers_are_lost() -> anyhow::Result<()> {
    let mut failed = 0;
    for seed in 0..60 {
        let dir = places::folder()?;
        let (storage, faults) = faulty(Storage::folder(dir.path())?);
        faults.seed(seed);
        faults.set_percent(50);
        let Ok(made) = StorageSecret::of(&storage).await else {
            failed += 1;
            continue;
        };
        let found = StorageSecret::find(&storage).await?;
        ensure!(found.is_some_and(|f| f.is(made.text())), "seed {seed}");
    }
    ensure!(failed < 6, "{failed} of 60 were not made");
    Ok(())
}
