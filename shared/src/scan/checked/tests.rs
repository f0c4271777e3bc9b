//! Ranges of files, checked against their sums before they are decoded.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;

use super::*;
use crate::scan::scan_files;
use crate::table::Commit;
use crate::table::parquet::{encode_parquet, read_file};
use crate::topic::LateReads;
use crate::{ErrorKind, RequestKind};

const ROWS: i64 = 300_000;

/// A table with one file of several row groups, with column chunks larger than a piece.
struct World {
    dir: tempfile::TempDir,
    storage: Storage,
    table: Table,
    add: Arc<AddFile>,
    schema: SchemaRef,
    body: Vec<u8>,
}

async fn world(seed: i64) -> World {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values((0..ROWS).map(|n| n + seed)));
    let mixed = |n: i64, by: i64| (n + seed).wrapping_mul(by);
    let names = (0..ROWS).map(|n| {
        format!(
            "{:x}{:x}",
            mixed(n, 0x09e3_779b_97f4_a7c1),
            mixed(n, 0x1656_67b1_9e37_79f9)
        )
    });
    let names: ArrayRef = Arc::new(StringViewArray::from_iter_values(names));
    let batch = RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::folder(dir.path()).unwrap();
    let schema = batch.schema();
    let table = Table::open_or_create(&storage, "views/v/g1", &schema, HashMap::new(), 1);
    let table = table.await.unwrap();
    let file = encode_parquet("part-1.parquet".into(), &schema, &[batch], 1).unwrap();
    let path = table.file_path("part-1.parquet");
    storage.put(&path, file.body.clone()).await.unwrap();
    let add = file.add;
    let commit = |_: &_| {
        Ok(Commit {
            adds: vec![add.clone()],
            data_change: true,
            ..Default::default()
        })
    };
    table.commit(1, commit).await.unwrap();
    let add = table.with_state(|s| s.files["part-1.parquet"].clone());
    let body = file.body.to_vec();
    World {
        dir,
        storage,
        table,
        add,
        schema,
        body,
    }
}

impl World {
    fn write(&self, body: &[u8]) {
        std::fs::write(self.dir.path().join("views/v/g1/part-1.parquet"), body).unwrap();
    }

    /// The sum of the ids of the rows that a scan gives, and how many they are.
    async fn scan(&self, columns: &[usize], from: Option<i64>) -> crate::Result<(i64, usize)> {
        self.scan_with(Arc::default(), columns, from).await
    }

    /// The same by an engine that may have read the file before.
    async fn scan_with(
        &self,
        runtime: Arc<RuntimeEnv>,
        columns: &[usize],
        from: Option<i64>,
    ) -> crate::Result<(i64, usize)> {
        let predicate = from.map(|from| {
            let id: Arc<dyn PhysicalExpr> = Arc::new(Column::new("id", 0));
            Arc::new(BinaryExpr::new(id, Operator::GtEq, lit(from))) as Arc<dyn PhysicalExpr>
        });
        let root = self.table.root();
        let files = [self.add.clone()];
        self.storage.register(&runtime)?;
        let scan = scan_files(
            &FileSource::of_engine(&runtime)?,
            root,
            &files,
            (&self.schema, &LateReads::default()),
            columns,
            predicate,
            1,
        )?;
        let task = Arc::new(TaskContext::default().with_runtime(runtime));
        let (mut sum, mut rows) = (0, 0);
        let mut batches = execute_stream(scan, task)?;
        while let Some(batch) = batches.try_next().await? {
            let ids = batch.column(0).as_primitive::<Int64Type>();
            sum += ids.values().iter().sum::<i64>();
            rows += batch.num_rows();
        }
        Ok((sum, rows))
    }

    /// Asserts that every way to read the file gives what it gave before, or an error that names
    /// it. Returns how many of the three gave errors.
    async fn check(&self, what: &str, right: [(i64, usize); 2]) -> usize {
        let all = self.scan(&[0, 1], None).await;
        let some = self.scan(&[0], Some(200_000)).await;
        let body = read_file(&self.table, &self.add).await;
        let body = body.map(|_| right[0]);
        let mut failed = 0;
        for (read, right) in [(all, right[0]), (some, right[1]), (body, right[0])] {
            match read {
                Ok(found) => {
                    assert_eq!(found, right, "{what}");
                }
                Err(e) => {
                    let text = e.to_string();
                    assert_eq!(e.kind(), ErrorKind::Corrupt, "{what}: {text}");
                    for says in ["views/v/g1/part-1.parquet", "batch rebuild v"] {
                        assert!(text.contains(says), "{what}: {text}");
                    }
                    failed += 1;
                }
            }
        }
        failed
    }
}

#[tokio::test]
async fn damage_is_an_error_that_names_the_file_or_changes_nothing() {
    let world = world(0).await;
    let right = [
        world.scan(&[0, 1], None).await.unwrap(),
        world.scan(&[0], Some(200_000)).await.unwrap(),
    ];
    assert_eq!(right[0], (ROWS * (ROWS - 1) / 2, 300_000));
    let body = &world.body;
    let pieces = body.len() >> 20;
    assert!(
        pieces > 2,
        "no column chunk has several pieces: {pieces} MiB"
    );
    let (mut failed, mut tried) = (0, 0);
    let mut places: Vec<usize> = (0..body.len()).step_by(body.len() / 60).collect();
    places.extend((body.len() - 400..body.len()).step_by(23));
    for at in places {
        let mut flipped = body.clone();
        flipped[at] ^= 1 << (at % 8);
        world.write(&flipped);
        tried += 1;
        let what = format!("bit flipped in byte {at}");
        failed += usize::from(world.check(&what, right).await > 0);
    }
    assert!(failed > tried * 9 / 10, "{failed} of {tried}");
    for length in [0, 3, 100, body.len() / 2, body.len() - 1] {
        world.write(&body[..length]);
        assert_eq!(world.check(&format!("cut to {length}"), right).await, 3);
    }
    // A whole file of the same length in its place.
    let other = self::world(1).await.body;
    world.write(&other);
    assert_eq!(world.check("exchanged", right).await, 3);
    std::fs::remove_file(world.dir.path().join("views/v/g1/part-1.parquet")).unwrap();
    assert_eq!(world.check("removed", right).await, 3);
}

#[tokio::test]
async fn a_file_without_checksums_is_read_as_it_is() {
    let mut world = world(0).await;
    let right = world.scan(&[0, 1], None).await.unwrap();
    let mut old = AddFile::clone(&world.add);
    old.tags = None;
    world.add = Arc::new(old);
    assert_eq!(world.scan(&[0, 1], None).await.unwrap(), right);
    assert!(read_file(&world.table, &world.add).await.is_ok());
    world.write(&world.body[..world.body.len() - 1]);
    for error in [
        world.scan(&[0, 1], None).await.unwrap_err(),
        read_file(&world.table, &world.add).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

/// A file that its table does not name any more was compacted away: that is no damage.
#[tokio::test]
async fn a_replaced_file_is_asked_for_again() {
    let world = world(0).await;
    let commit = |_: &_| {
        Ok(Commit {
            removes: vec![crate::table::RemoveFile {
                path: "part-1.parquet".into(),
                ..Default::default()
            }],
            ..Default::default()
        })
    };
    world.table.commit(2, commit).await.unwrap();
    std::fs::remove_file(world.dir.path().join("views/v/g1/part-1.parquet")).unwrap();
    for error in [
        world.scan(&[0, 1], None).await.unwrap_err(),
        read_file(&world.table, &world.add).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}

/// An engine that is asked for some rows reads a file's end once, whatever it has read of others.
#[tokio::test]
async fn a_files_end_is_kept_for_those_who_ask_for_some_rows() {
    let world = world(0).await;
    let (id, all) = (&[0][..], &[0, 1][..]);
    let runtime: Arc<RuntimeEnv> = Arc::default();
    let kept = || runtime.cache_manager.get_file_metadata_cache().len();
    let before = || world.storage.requests().of(RequestKind::Get);
    let right = world.scan(id, Some(200_000)).await.unwrap();
    world.scan_with(runtime.clone(), all, None).await.unwrap();
    assert_eq!(kept(), 0, "of a file that is read as a whole");

    let mut asked = Vec::new();
    for _ in 0..3 {
        let begun = before();
        let found = world.scan_with(runtime.clone(), id, Some(200_000)).await;
        assert_eq!(found.unwrap(), right);
        asked.push(before() - begun);
    }
    assert_eq!(kept(), 1);
    assert!(asked[1] < asked[0] && asked[1] == asked[2], "{asked:?}");

    // Another file of the same name has an end of its own.
    let other = self::world(1).await;
    assert_eq!(other.add.path, world.add.path);
    let found = other.scan_with(runtime.clone(), id, Some(200_000)).await;
    assert_eq!(found.unwrap(), other.scan(id, Some(200_000)).await.unwrap());
    // What is damaged of what was not read before is found as ever.
    let mut torn = world.body.clone();
    torn[10] ^= 1;
    world.write(&torn);
    assert!(world.scan_with(runtime, all, Some(0)).await.is_err());
}
