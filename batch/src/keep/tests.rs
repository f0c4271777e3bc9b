//! Rows that are kept, merged and removed, and two who do it at once.

use std::collections::HashMap;

use anabranch_shared::{Storage, timestamp_type};
use arrow::array::{Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};

use super::*;

const DAY_US: i64 = 86_400_000_000;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("at", timestamp_type(), false),
        Field::new("n", DataType::Int64, false),
    ]))
}

fn rule(before_us: Option<i64>) -> KeepRule {
    KeepRule {
        schema: schema(),
        time: "at",
        before_us,
        fewest_files: 8,
        checkpoint_every: 10,
    }
}

async fn add(table: &Table, at_us: i64, n: i64) -> Result<()> {
    let times = TimestampMicrosecondArray::from(vec![at_us]).with_data_type(timestamp_type());
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(times), Arc::new(Int64Array::from(vec![n]))];
    let rows = RecordBatch::try_new(schema(), columns)?;
    let file = encode_parquet(table.storage().new_file_name(), &schema(), &[rows], 0)?;
    let path = table.file_path(&file.add.path);
    table.storage().put(&path, file.body).await?;
    let commit = table.commit(0, |_| {
        Ok(Commit {
            adds: vec![file.add.clone()],
            operation: "WRITE",
            data_change: true,
            ..Default::default()
        })
    });
    commit.await.map(|_| ())
}

/// All numbers that a table holds, in order.
async fn numbers(table: &Table) -> Result<Vec<i64>> {
    let files: Vec<_> = table.with_state(|s| s.files.values().cloned().collect());
    let mut numbers = Vec::new();
    for file in files {
        let body = read_file(table, &file).await?;
        for batch in read_parquet(body, &schema(), &LateReads::default())? {
            let batch = batch?;
            let n = batch
                .column(1)
                .as_primitive::<arrow::datatypes::Int64Type>();
            numbers.extend(n.values().iter().copied());
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

async fn table() -> Result<(tempfile::TempDir, Storage, Table)> {
    let dir = tempfile::tempdir().map_err(|e| Error::io("a folder", e))?;
    let storage = Storage::folder(dir.path())?;
    let table = Table::open_or_create(&storage, "rows", &schema(), HashMap::new(), 0).await?;
    Ok((dir, storage, table))
}

#[tokio::test]
async fn small_files_are_merged_and_old_rows_go() -> Result<()> {
    let (_dir, storage, table) = table().await?;
    for n in 0..30 {
        add(&table, n * DAY_US, n).await?;
    }
    assert_eq!(keep_small(&table, &rule(None), 0).await?.merged, 30);
    assert_eq!(numbers(&table).await?, (0..30).collect::<Vec<_>>());
    assert_eq!(table.with_state(|s| s.files.len()), 1);
    let opened = Table::open(&storage, "rows").await?;
    assert!(
        opened.with_state(|s| s.checkpoint).is_some(),
        "no checkpoint"
    );
    // Nothing more is to be done, also where the oldest row is only just too old.
    let same = keep_small(&table, &rule(Some(DAY_US)), 0).await?;
    assert_eq!(same, KeepReport::default());
    let kept = keep_small(&table, &rule(Some(10 * DAY_US)), 0).await?;
    assert_eq!(kept.removed, 10);
    assert_eq!(numbers(&table).await?, (10..30).collect::<Vec<_>>());
    keep_small(&table, &rule(Some(100 * DAY_US)), 0).await?;
    assert_eq!(numbers(&table).await?, Vec::<i64>::new());
    assert_eq!(table.with_state(|s| s.files.len()), 0);
    Ok(())
}

#[tokio::test]
async fn two_at_once_lose_and_repeat_no_row() -> Result<()> {
    let (_dir, storage, table) = table().await?;
    for n in 0..20 {
        add(&table, n, n).await?;
    }
    let other = Table::open(&storage, "rows").await?;
    let (rule, late) = (rule(None), async {
        add(&table, 20, 20).await?;
        add(&table, 21, 21).await
    });
    let (one, two, added) = tokio::join!(
        keep_small(&table, &rule, 0),
        keep_small(&other, &rule, 0),
        late
    );
    one?;
    two?;
    added?;
    let opened = Table::open(&storage, "rows").await?;
    assert_eq!(numbers(&opened).await?, (0..22).collect::<Vec<_>>());
    Ok(())
}
