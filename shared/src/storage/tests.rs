//! A folder's promises on a disk that loses power: after every single operation, with and without
//! each reason to sync, and with each single sync taken out.
#![expect(clippy::unwrap_used, reason = "tests")]

mod landings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{CreateOutcome, Storage};
use crate::files::SyncPoint;
use crate::files::testing::{RecordingFiles, Survivors};

/// Which syncs do nothing and say that they succeeded.
#[derive(Clone, Copy, Debug)]
enum Skip {
    Nothing,
    /// Those for a reason.
    Reason(SyncPoint),
    /// The n-th ever, counted from 0.
    Nth(usize),
}

/// How the machine or the process ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    PowerLost(Survivors),
}

/// A disk and what runs on it.
struct Bench {
    base: TempDir,
    runtime: Runtime,
}

impl Bench {
    fn new() -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let base = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        Self {
            base: base.unwrap(),
            runtime: runtime.unwrap(),
        }
    }

    /// An empty disk.
    fn disk(&self, skip: Skip) -> RecordingFiles {
        let base = self.base.path().canonicalize().unwrap();
        let files = RecordingFiles::mirrored(&base);
        match skip {
            Skip::Nothing => {}
            Skip::Reason(point) => files.skip(point),
            Skip::Nth(nth) => files.skip_nth(nth),
        }
        files
    }

    fn storage(&self, files: &RecordingFiles) -> Result<Storage, String> {
        let base = self.base.path().canonicalize().unwrap();
        let opened = Storage::folder_with(&base.join("project/data"), Arc::new(files.clone()));
        opened.map_err(|e| e.to_string())
    }
}

/// What an object may be: as it was acknowledged, or as a put that was not answered made it.
#[derive(Clone, Debug, Default)]
struct Candidates(Vec<Option<Bytes>>);

/// What a user of the store was told.
#[derive(Debug, Default)]
struct Ledger {
    objects: BTreeMap<Path, Candidates>,
    /// Commit entries, and the objects that each names.
    named: BTreeMap<Path, Path>,
}

fn body(seed: u8, bytes: usize) -> Bytes {
    (0..bytes).map(|i| seed ^ (i % 251) as u8).collect()
}

impl Ledger {
    /// Does something to an object; afterwards it is `value`, or, if that failed, perhaps.
    async fn does<T>(
        &mut self,
        path: &str,
        value: Option<Bytes>,
        action: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T, String> {
        let known = self.objects.entry(path.into()).or_default();
        if known.0.is_empty() {
            known.0.push(None);
        }
        known.0.push(value.clone());
        let done = action.await.map_err(|e| e.to_string())?;
        known.0 = vec![value];
        Ok(done)
    }

    async fn put(&mut self, storage: &Storage, path: &str, value: Bytes) -> Result<(), String> {
        let at = Path::from(path);
        let put = storage.store().put(&at, value.clone().into());
        self.does(path, Some(value), put).await.map(drop)
    }

    /// Puts a commit entry that names an object.
    async fn commit(&mut self, storage: &Storage, entry: &str, names: &str) -> Result<(), String> {
        self.named.insert(entry.into(), names.into());
        let value = Bytes::from(names.to_owned());
        let at = Path::from(entry);
        let create = async {
            let created = storage.create(&at, value.clone()).await;
            let failed = |e: crate::Error| object_store::Error::Generic {
                store: "test",
                source: e.to_string().into(),
            };
            match created.map_err(failed)? {
                CreateOutcome::Created => Ok(()),
                CreateOutcome::Exists => Err(failed(crate::Error::Conflict(entry.to_owned()))),
            }
        };
        self.does(entry, Some(value.clone()), create).await
    }

    /// Checks the store against what was told.
    async fn check(&self, storage: &Storage) -> Result<(), String> {
        for (path, known) in &self.objects {
            let found = storage.get(path).await.map_err(|e| e.to_string())?;
            if !known.0.contains(&found) {
                let lengths = |v: &Option<Bytes>| v.as_ref().map(Bytes::len);
                return Err(format!(
                    "`{path}` is {:?} bytes, it may be {:?}",
                    lengths(&found),
                    known.0.iter().map(lengths).collect::<Vec<_>>()
                ));
            }
            if let (Some(_), Some(names)) = (&found, self.named.get(path)) {
                let named = storage.get(names).await.map_err(|e| e.to_string())?;
                if named.is_none() {
                    return Err(format!("`{path}` is there without `{names}`"));
                }
            }
        }
        Ok(())
    }
}

const ENTRIES: [&str; 3] = ["t/_delta_log/0", "t/_delta_log/1", "t/_delta_log/2"];

/// A life that does to the store what landings, publishes and upkeep do.
async fn live(storage: &Storage, ledger: &mut Ledger) -> Result<(), String> {
    ledger.put(storage, "t/part-0", body(1, 300)).await?;
    ledger.commit(storage, ENTRIES[0], "t/part-0").await?;
    ledger.put(storage, "daemons/a", body(2, 70)).await?;
    ledger.put(storage, "t/part-1", body(3, 500)).await?;
    ledger.commit(storage, ENTRIES[1], "t/part-1").await?;
    ledger.put(storage, "daemons/a", body(4, 90)).await?;
    let rival = storage.create(&ENTRIES[1].into(), body(5, 10)).await;
    if !matches!(rival, Ok(CreateOutcome::Exists)) {
        return Err("an entry was put twice".into());
    }
    let (from, to) = (Path::from("t/part-1"), Path::from("export/part-1"));
    let copy = storage.store().copy(&from, &to);
    ledger
        .does("export/part-1", Some(body(3, 500)), copy)
        .await?;
    let parts = async {
        let mut upload = storage.store().put_multipart(&"export/big".into()).await?;
        upload.put_part(body(6, 200).into()).await?;
        upload.put_part(body(7, 100).into()).await?;
        upload.complete().await
    };
    let whole = [body(6, 200), body(7, 100)].concat();
    ledger.does("export/big", Some(whole.into()), parts).await?;
    let gone = Path::from("daemons/a");
    let delete = storage.store().delete(&gone);
    ledger.does("daemons/a", None, delete).await
}

/// A life after that: builds on what it finds, as a publish builds on landed facts.
async fn build_on(storage: &Storage, ledger: &mut Ledger) -> Result<usize, String> {
    ledger.check(storage).await?;
    let mut head = 0;
    for entry in ENTRIES {
        let found = storage.get(&entry.into()).await;
        head += usize::from(found.map_err(|e| e.to_string())?.is_some());
    }
    storage.note_found(&"t/_delta_log".into());
    let boundary = Bytes::from(format!("boundary {head}"));
    ledger.put(storage, "v/boundary", boundary).await?;
    ledger.put(storage, "t/part-9", body(9, 100)).await?;
    Ok(head)
}

/// Ends a life at operation `at`, lets another build on what it left, and loses power.
fn die(bench: &Bench, at: usize, end: End, skip: Skip) -> Result<(), String> {
    let files = bench.disk(skip);
    files.fail_power_at(at);
    let mut ledger = Ledger::default();
    let runs = &bench.runtime;
    if let Ok(storage) = bench.storage(&files) {
        // Losing the power is why this fails; what that broke shows later.
        runs.block_on(live(&storage, &mut ledger)).ok();
    }
    match end {
        End::Killed => files.restart(),
        End::PowerLost(survivors) => files.lose_power(survivors),
    }
    let storage = bench.storage(&files)?;
    let head = runs.block_on(build_on(&storage, &mut ledger))?;
    files.lose_power(Survivors::Synced);
    let storage = bench.storage(&files)?;
    for entry in &ENTRIES[..head] {
        let found = runs.block_on(storage.get(&(*entry).into()));
        if !matches!(found, Ok(Some(_))) {
            return Err(format!("`{entry}` is gone, and a boundary is past it"));
        }
    }
    runs.block_on(ledger.check(&storage))
}

/// The whole life's operations and syncs.
fn whole(bench: &Bench) -> (usize, Vec<SyncPoint>) {
    let files = bench.disk(Skip::Nothing);
    let storage = bench.storage(&files).unwrap();
    let lived = bench
        .runtime
        .block_on(live(&storage, &mut Ledger::default()));
    lived.unwrap();
    (files.operations().len(), files.syncs())
}

/// The ends by which the absence of a sync shows.
const PLAIN: [End; 2] = [End::Killed, End::PowerLost(Survivors::Synced)];

#[test]
fn no_promise_is_broken_wherever_the_power_fails() {
    let bench = Bench::new();
    let (operations, _) = whole(&bench);
    assert!(operations > 50, "the life has {operations} operations");
    let some = (0..6).map(|seed| End::PowerLost(Survivors::Some(seed)));
    for end in PLAIN.into_iter().chain(some) {
        for at in 0..=operations {
            let died = die(&bench, at, end, Skip::Nothing);
            assert_eq!(died, Ok(()), "{end:?} at operation {at}");
        }
    }
}

#[test]
fn without_any_one_reason_to_sync_a_promise_is_broken() {
    let bench = Bench::new();
    let (operations, _) = whole(&bench);
    for reason in SyncPoint::OF_STORAGE {
        let mut deaths = (0..=operations).flat_map(|at| PLAIN.map(|end| (at, end)));
        let broken = deaths.any(|(at, end)| die(&bench, at, end, Skip::Reason(reason)).is_err());
        assert!(broken, "nothing shows that {reason:?} is needed");
    }
}

#[test]
fn without_any_one_sync_a_promise_is_broken() {
    let bench = Bench::new();
    let (operations, syncs) = whole(&bench);
    let reasons: BTreeSet<_> = syncs.iter().collect();
    assert!(reasons.len() >= 4, "{syncs:?}");
    for nth in 0..syncs.len() {
        let end = End::PowerLost(Survivors::Synced);
        let broken = (0..=operations).any(|at| die(&bench, at, end, Skip::Nth(nth)).is_err());
        assert!(
            broken,
            "nothing shows that sync {nth} of {syncs:?} is needed"
        );
    }
}
