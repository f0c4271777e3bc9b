#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use arrow::datatypes::{DataType, Field, Schema};

use super::*;

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
