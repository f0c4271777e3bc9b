//! Commits, checkpoints and races of Delta tables, and what is damaged of them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use arrow::datatypes::{DataType, Field, Schema};

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::{Monotonic, WallClock};

async fn open(storage: &Storage) -> Table {
    let schema = Schema::new(vec![Field::new("a", DataType::Int64, true)]);
    let created = Table::open_or_create(storage, "t", &schema, HashMap::new(), 1).await;
    created.expect("a table")
}

fn step(state: &TableState, from: i64) -> Result<Commit> {
    let found = state.txn("p");
    match found == from {
        true => Ok(Commit {
            txns: vec![Txn::new("p", from + 1)],
            ..Default::default()
        }),
        false => Err(Error::Conflict(format!("at {found}"))),
    }
}

/// Two writers that don't know of each other: each step is taken once.
#[tokio::test]
async fn a_commit_is_decided_against_every_winner() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::folder(dir.path()).unwrap();
    let (a, b) = (open(&storage).await, open(&storage).await);
    a.commit(1, |s| step(s, 0)).await.expect("the first step");
    let late = b.commit(1, |s| step(s, 0)).await;
    assert!(
        matches!(late, Err(Error::Conflict(_))),
        "a zombie took a step again: {late:?}"
    );
    b.commit(1, |s| step(s, 1)).await.expect("the second step");
    a.refresh().await.unwrap();
    assert_eq!(a.with_state(|s| s.txn("p")), 2);
}

/// Many writers at once: every commit has a version of its own, and none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn racing_commits_all_land() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::folder(dir.path()).unwrap();
    open(&storage).await;
    let writers = (0..4).map(|w| {
        let storage = storage.clone();
        tokio::spawn(async move {
            let table = open(&storage).await;
            for n in 1..=10 {
                let commit = |_: &TableState| {
                    Ok(Commit {
                        txns: vec![Txn::new(format!("w{w}"), n)],
                        ..Default::default()
                    })
                };
                table.commit(1, commit).await.expect("a commit");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let table = open(&storage).await;
    assert_eq!(table.with_state(|s| s.version), Some(LogVersion(40)));
    assert!((0..4).all(|w| table.with_state(|s| s.txn(&format!("w{w}"))) == 10));
}

/// A checkpoint holds what the commits before it held.
#[tokio::test]
async fn a_checkpoint_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::folder(dir.path()).unwrap();
    let table = open(&storage).await;
    let mut add = AddFile {
        path: "part-1.parquet".into(),
        size: 7,
        ..Default::default()
    };
    add.set_tag("note", "kept".into());
    add.stats = Some("{\"numRecords\":3}".into());
    let commit = |_: &TableState| {
        Ok(Commit {
            adds: vec![add.clone()],
            txns: vec![Txn::new("p", 5)],
            data_change: true,
            ..Default::default()
        })
    };
    table.commit(1, commit).await.unwrap();
    table.write_checkpoint().await.unwrap();
    for version in 0..2 {
        // Without the entries the checkpoint alone must do.
        let path = dir.path().join(format!("t/_delta_log/{version:020}.json"));
        std::fs::remove_file(path).unwrap();
    }
    let again = Table::open(&storage, "t").await.unwrap();
    again.with_state(|s| {
        assert_eq!((s.version, s.txn("p")), (Some(LogVersion(1)), 5));
        let file = s.files.get("part-1.parquet").expect("the file");
        assert_eq!((file.rows(), file.tag("note")), (Some(3), Some("kept")));
    });
    // Columns are known from the checkpoint too: they are added, and never taken away.
    let field = |name: &str| Field::new(name, DataType::Int64, true);
    let (old, new) = ([field("a")].to_vec(), [field("a"), field("b")].to_vec());
    for (fields, version) in [(old.clone(), 1), (new.clone(), 2), (new, 2), (old, 2)] {
        again
            .widen(&Arc::new(Schema::new(fields)), 2)
            .await
            .unwrap();
        assert_eq!(again.with_state(|s| s.version), Some(LogVersion(version)));
    }
    let columns = again.with_state(TableState::columns).unwrap();
    assert_eq!(columns, ["a", "b"]);
}

/// A storage whose clock the test moves, in seconds.
fn with_clock(dir: &tempfile::TempDir) -> (Storage, Arc<AtomicU64>) {
    let seconds = Arc::new(AtomicU64::new(0));
    let read = seconds.clone();
    let clock = Monotonic::of(move || Duration::from_secs(read.load(Ordering::Relaxed)));
    let storage = Storage::folder(dir.path()).unwrap().with_clock(clock);
    (storage, seconds)
}

fn entry(dir: &tempfile::TempDir, version: u64) -> std::path::PathBuf {
    dir.path().join(format!("t/_delta_log/{version:020}.json"))
}

/// Others take steps up to `upto`, write a checkpoint, and the entries below it go.
async fn go_on_without(storage: &Storage, dir: &tempfile::TempDir, upto: i64) {
    let other = Table::open(storage, "t").await.unwrap();
    for from in other.with_state(|s| s.txn("p"))..upto {
        other.commit(1, |s| step(s, from)).await.unwrap();
    }
    other.write_checkpoint().await.unwrap();
    for version in 0..other.with_state(|s| s.version).unwrap().0 {
        std::fs::remove_file(entry(dir, version)).ok();
    }
}

/// A storage whose time of day the test moves, in seconds, while its monotonic clock stands.
fn with_wall(dir: &tempfile::TempDir) -> (Storage, Arc<AtomicU64>) {
    let seconds = Arc::new(AtomicU64::new(0));
    let read = seconds.clone();
    let wall = WallClock::of(move || {
        let seconds = read.load(Ordering::Relaxed);
        chrono::DateTime::UNIX_EPOCH + Duration::from_secs(seconds)
    });
    let clock = Monotonic::of(|| Duration::ZERO);
    let storage = Storage::folder(dir.path()).unwrap().with_clock(clock);
    (storage.with_wall(wall), seconds)
}

#[tokio::test]
async fn a_follower_that_slept_begins_again_from_a_checkpoint() {
    // Busy with other things, or with its machine suspended, in which monotonic clocks stand still.
    begins_again(with_clock).await;
    begins_again(with_wall).await;
}

async fn begins_again(of_clock: fn(&tempfile::TempDir) -> (Storage, Arc<AtomicU64>)) {
    let dir = tempfile::tempdir().unwrap();
    let (storage, clock) = of_clock(&dir);
    let sleeper = open(&storage).await;
    go_on_without(&storage, &dir, 9).await;
    clock.fetch_add(3_600, Ordering::Relaxed);
    assert!(sleeper.refresh().await.unwrap());
    assert_eq!(sleeper.with_state(|s| s.txn("p")), 9);
    assert!(!sleeper.refresh().await.unwrap());
    sleeper
        .commit(1, |s| step(s, 9))
        .await
        .expect("the next step");
    let fresh = Table::open(&storage, "t").await.unwrap();
    assert_eq!(fresh.with_state(|s| s.txn("p")), 10);
}

#[tokio::test]
async fn a_writer_that_slept_does_not_commit_into_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, clock) = with_clock(&dir);
    let sleeper = open(&storage).await;
    go_on_without(&storage, &dir, 9).await;
    clock.fetch_add(3_600, Ordering::Relaxed);
    let late = sleeper.commit(1, |s| step(s, 0)).await;
    assert!(matches!(late, Err(Error::Conflict(_))), "{late:?}");
    assert!(!entry(&dir, 1).exists());
}

/// Asleep between the look at the head and the put.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_put_into_the_gap_is_taken_back() {
    for adds in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (storage, clock) = with_clock(&dir);
        let sleeper = open(&storage).await;
        let mut asked = Vec::new();
        let outcome = sleeper
            .commit(1, |s| {
                let found = s.txn("p");
                if asked.is_empty() {
                    let meanwhile = go_on_without(&storage, &dir, 9);
                    let runtime = tokio::runtime::Handle::current();
                    tokio::task::block_in_place(|| runtime.block_on(meanwhile));
                    clock.fetch_add(3_600, Ordering::Relaxed);
                }
                asked.push(found);
                let mut commit = step(s, found)?;
                if adds {
                    commit.adds.push(AddFile {
                        path: "ours".into(),
                        ..Default::default()
                    });
                }
                Ok(commit)
            })
            .await;
        let fresh = Table::open(&storage, "t").await.unwrap();
        if adds {
            outcome.expect("a commit at the head");
            assert_eq!(asked, [0, 9]);
            assert!(fresh.with_state(|s| s.files.contains_key("ours")));
            assert!(!entry(&dir, 1).exists(), "what nobody reads is left");
        } else {
            assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
            assert_eq!(
                sleeper.with_state(|s| s.txn("p")),
                9,
                "it knows what is there"
            );
        }
    }
}

#[tokio::test]
async fn a_table_opens_without_its_hint_or_with_an_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = with_clock(&dir);
    open(&storage).await;
    go_on_without(&storage, &dir, 9).await;
    let hint = dir.path().join("t/_delta_log/_last_checkpoint");
    for text in [None, Some("{\"version\":3,\"size\":1}"), Some("not JSON")] {
        match text {
            None => std::fs::remove_file(&hint).unwrap(),
            Some(text) => std::fs::write(&hint, text).unwrap(),
        }
        let again = open(&storage).await;
        assert_eq!(again.with_state(|s| s.txn("p")), 9, "{text:?}");
    }
    let checkpoint = entry(&dir, 9).with_extension("checkpoint.parquet");
    std::fs::remove_file(checkpoint).unwrap();
    let lost = Table::open(&storage, "t").await;
    assert!(matches!(lost, Err(Error::Corrupt(_))), "{lost:?}");
}

/// A table with every kind of action: positions, a removed file, tags, statistics, properties.
async fn table_of_all_kinds(storage: &Storage) -> Table {
    let table = open(storage).await;
    let file = |n: i64| {
        let mut add = AddFile {
            path: format!("part-{n}.parquet"),
            size: 100 + n,
            stats: Some(format!("{{\"numRecords\":{n}}}")),
            ..Default::default()
        };
        add.set_tag("note", format!("\"ünïcode\" {n}"));
        add
    };
    for n in 0..3 {
        let commit = |_: &TableState| {
            Ok(Commit {
                txns: vec![Txn::new(format!("a/{n}"), i64::MAX - n)],
                adds: vec![file(n)],
                ..Default::default()
            })
        };
        table.commit(1_000 + n, commit).await.unwrap();
    }
    let remove = |_: &TableState| {
        Ok(Commit {
            removes: vec![RemoveFile {
                path: "part-1.parquet".into(),
                ..Default::default()
            }],
            ..Default::default()
        })
    };
    table.commit(2_000, remove).await.unwrap();
    table
}

/// What a state says, without what tells where it was read.
fn contents(state: &TableState) -> String {
    let files: Vec<_> = state
        .files
        .values()
        .map(|f| AddFile {
            data_change: false,
            ..AddFile::clone(f)
        })
        .collect();
    let sorted = |map: &HashMap<String, i64>| {
        map.iter()
            .map(|(k, v)| (k.clone(), *v))
            .collect::<BTreeMap<_, _>>()
    };
    format!(
        "{:?} {files:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        state.version,
        sorted(&state.txns),
        sorted(&state.removed),
        state.configuration,
        state.schema,
        state.id,
        state.created_at_ms
    )
}

#[tokio::test]
async fn a_checkpoint_gives_back_the_state_that_it_was_written_from() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::folder(dir.path()).unwrap();
    let table = table_of_all_kinds(&storage).await;
    table.write_checkpoint().await.unwrap();
    for version in 0..5 {
        std::fs::remove_file(entry(&dir, version)).ok();
    }
    let again = Table::open(&storage, "t").await.unwrap();
    assert_eq!(again.with_state(contents), table.with_state(contents));
    assert_eq!(again.with_state(|s| s.checkpoint), Some(LogVersion(4)));
    let hint = std::fs::read(dir.path().join("t/_delta_log/_last_checkpoint")).unwrap();
    let hint: serde_json::Value = serde_json::from_slice(&hint).unwrap();
    // One protocol, one metadata, three positions, two files and the one that was removed.
    assert_eq!(
        (hint["size"].as_u64(), hint["numOfAddFiles"].as_u64()),
        (Some(8), Some(2))
    );
}

/// A table with six entries, and without a checkpoint.
async fn six_entries() -> (tempfile::TempDir, Storage) {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = with_clock(&dir);
    let table = open(&storage).await;
    for from in 0..5 {
        table.commit(1, |s| step(s, from)).await.unwrap();
    }
    (dir, storage)
}

/// What opening a table gives: the position, or damage of the file of an entry.
async fn opened(storage: &Storage) -> Result<i64, String> {
    match Table::open(storage, "t").await {
        Ok(table) => Ok(table.with_state(|s| s.txn("p"))),
        Err(e @ Error::Corrupt(_)) => Err(e.to_string()),
        Err(e) => panic!("{e}"),
    }
}

#[tokio::test]
async fn a_damaged_entry_is_never_read() {
    for version in 0..6 {
        let name = format!("{version:020}.json");
        let (dir, storage) = six_entries().await;
        let path = entry(&dir, version);
        let whole = std::fs::read(&path).unwrap();
        // Without its newest entry a table is as it was before.
        std::fs::remove_file(&path).unwrap();
        match opened(&storage).await {
            Ok(found) => assert_eq!((version, found), (5, 4)),
            Err(text) => assert!(text.contains(&name), "{text}"),
        }
        let lines = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for length in (0..whole.len()).step_by(7).chain([lines]) {
            std::fs::write(&path, &whole[..length]).unwrap();
            let text = opened(&storage).await.expect_err("cut short");
            assert!(text.contains(&name), "{text}");
        }
        for text in ["{}", "\n\n", "{}\n{}\n", "[]", "{\"commitInfo\":{}}"] {
            std::fs::write(&path, text).unwrap();
            // An entry of another writer that says nothing is found by the one after it.
            if text.len() < 10 || version < 5 {
                opened(&storage).await.expect_err(text);
            }
        }
        for at in (0..whole.len()).step_by(3) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 7);
            std::fs::write(&path, &flipped).unwrap();
            match opened(&storage).await {
                Ok(found) => assert_eq!(found, 5, "byte {at} of {name}"),
                Err(text) => assert!(text.contains(&name), "{text}"),
            }
        }
    }
    // Two entries in each other's place.
    let (dir, storage) = six_entries().await;
    let [a, b] = [2, 3].map(|version| std::fs::read(entry(&dir, version)).unwrap());
    std::fs::write(entry(&dir, 2), b).unwrap();
    std::fs::write(entry(&dir, 3), a).unwrap();
    opened(&storage).await.expect_err("exchanged");
}

/// Entries of version 0.1.0 and of other engines say neither what was before nor a checksum.
#[tokio::test]
async fn an_entry_without_checksum_is_read() {
    let (dir, storage) = six_entries().await;
    for version in 0..6 {
        let text = std::fs::read_to_string(entry(&dir, version)).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        let mut first: serde_json::Value = serde_json::from_str(first).unwrap();
        let info = first["commitInfo"].as_object_mut().unwrap();
        info.remove("anabranchCrc32c").expect("a checksum");
        info.remove("anabranchBefore");
        std::fs::write(entry(&dir, version), format!("{first}\n{rest}")).unwrap();
    }
    assert_eq!(opened(&storage).await, Ok(5));
    std::fs::remove_file(entry(&dir, 3)).unwrap();
    opened(&storage).await.expect_err("a gap");
}

/// A follower that knows the entries before a gap finds it too, and does not commit into it.
#[tokio::test]
async fn a_gap_after_the_known_head_is_no_head() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, clock) = with_clock(&dir);
    let follower = open(&storage).await;
    let other = Table::open(&storage, "t").await.unwrap();
    for from in 0..3 {
        other.commit(1, |s| step(s, from)).await.unwrap();
    }
    std::fs::remove_file(entry(&dir, 1)).unwrap();
    clock.fetch_add(600, Ordering::Relaxed);
    for found in [
        follower.refresh().await.map(|_| ()),
        follower.commit(1, |s| step(s, 0)).await.map(|_| ()),
    ] {
        assert!(matches!(found, Err(Error::Corrupt(_))), "{found:?}");
    }
    assert!(!entry(&dir, 1).exists());
}

#[tokio::test]
async fn a_damaged_checkpoint_is_never_read() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = with_clock(&dir);
    open(&storage).await;
    go_on_without(&storage, &dir, 4).await;
    let old = std::fs::read(entry(&dir, 4).with_extension("checkpoint.parquet")).unwrap();
    go_on_without(&storage, &dir, 9).await;
    let path = entry(&dir, 9).with_extension("checkpoint.parquet");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&path, &flipped).unwrap();
        match opened(&storage).await {
            Ok(found) => assert_eq!(found, 9, "byte {at}"),
            Err(text) => assert!(text.contains("checkpoint.parquet"), "{text}"),
        }
    }
    for wrong in [&whole[..0], &whole[..whole.len() / 2], &old] {
        std::fs::write(&path, wrong).unwrap();
        opened(&storage).await.expect_err("another file");
    }
}

/// A checkpoint whose columns are of other types than the protocol gives them is damage, and no
/// empty table.
#[tokio::test]
async fn a_checkpoint_of_other_types_is_damage() {
    use arrow::array::{ArrayRef, Int64Array, StructArray};
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = with_clock(&dir);
    open(&storage).await;
    go_on_without(&storage, &dir, 9).await;
    let path = entry(&dir, 9).with_extension("checkpoint.parquet");
    let whole = bytes::Bytes::from(std::fs::read(&path).unwrap());
    let reader = ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(whole);
    let rows: Vec<_> = reader
        .unwrap()
        .build()
        .unwrap()
        .map(|b| b.unwrap())
        .collect();
    for damaged in ["txn", "add", "metaData", "remove"] {
        let mut body = Vec::new();
        let columns = rows[0].schema().fields().clone();
        let columns = columns
            .iter()
            .zip(rows[0].columns())
            .map(|(field, column)| {
                let number: ArrayRef = Arc::new(Int64Array::from(vec![0; column.len()]));
                let field_of = Arc::new(Field::new("x", DataType::Int64, true));
                match field.name() == damaged {
                    true => (
                        field.name().clone(),
                        Arc::new(StructArray::from(vec![(field_of, number)])) as ArrayRef,
                    ),
                    false => (field.name().clone(), column.clone()),
                }
            });
        let batch = arrow::array::RecordBatch::try_from_iter_with_nullable(
            columns.map(|(name, column)| (name, column, true)),
        );
        let batch = batch.unwrap();
        let mut writer =
            ::parquet::arrow::ArrowWriter::try_new(&mut body, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        std::fs::write(&path, &body).unwrap();
        opened(&storage).await.expect_err(damaged);
    }
}

/// A checkpoint as version 0.1.0 left it to delta-rs gives the state of the commits before it.
#[tokio::test]
async fn a_checkpoint_of_0_1_0_is_read() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/0.1.0");
    let commits = fixtures.join("project/store/topics/facts/log/_delta_log");
    let dir = tempfile::tempdir().unwrap();
    for (name, from) in [
        ("commits", commits),
        ("checkpoint", fixtures.join("checkpoint/_delta_log")),
    ] {
        let to = dir.path().join(name).join("_delta_log");
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    let storage = Storage::folder(dir.path()).unwrap();
    let whole = Table::open(&storage, "commits").await.unwrap();
    let read = Table::open(&storage, "checkpoint").await.unwrap();
    assert_eq!(read.with_state(|s| s.checkpoint), Some(LogVersion(3)));
    assert_eq!(read.with_state(contents), whole.with_state(contents));
}

/// A file that was made long before its commit may have been taken for an orphan: it is looked for.
#[tokio::test]
async fn a_file_of_long_ago_is_committed_only_if_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::folder(dir.path()).unwrap();
    let table = open(&storage).await;
    let long_ago = uptime_ms() - storage.old_ms();
    let with = |name: &str, made: i64| Commit {
        adds: vec![AddFile {
            path: name.into(),
            made: Some(made),
            ..Default::default()
        }],
        ..Default::default()
    };
    storage.put(&table.file_path("a"), "facts").await.unwrap();
    for (name, made) in [("a", long_ago), ("b", uptime_ms())] {
        let commit = table.commit(1, |_| Ok(with(name, made))).await;
        commit.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let gone = table.commit(1, |_| Ok(with("c", long_ago))).await;
    let text = gone.expect_err("a file that is not there").to_string();
    assert!(text.contains("t/c") && text.contains("try again"), "{text}");
    table.refresh().await.unwrap();
    assert_eq!(table.with_state(|s| s.files.len()), 2);
}
