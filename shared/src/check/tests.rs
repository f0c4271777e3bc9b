//! What the check of a storage finds.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};

use super::*;
use crate::encode_parquet;
use crate::table::Commit;

const TABLE: &str = "topics/t/log";

/// A storage with a catalogue and a table of four files and five entries.
async fn storage(dir: &std::path::Path) -> Storage {
    let storage = Storage::folder(dir).unwrap();
    let catalogue = Catalogue::open(&storage).await.unwrap();
    for _ in 0..2 {
        catalogue.claim_generation("v").await.unwrap();
    }
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
    let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    let schema = batch.schema();
    let table = Table::open_or_create(&storage, TABLE, &schema, HashMap::new(), 1).await;
    let table = table.unwrap();
    for n in 0..4 {
        let name = format!("part-{n}.parquet");
        let file = encode_parquet(name, &schema, std::slice::from_ref(&batch), 0).unwrap();
        let path = table.file_path(&file.add.path);
        storage.put(&path, file.body).await.unwrap();
        let commit = |_: &_| {
            Ok(Commit {
                adds: vec![file.add.clone()],
                data_change: true,
                ..Default::default()
            })
        };
        table.commit(1, commit).await.unwrap();
    }
    storage
}

/// What is found after a change of one file, by kind and file.
async fn found(change: impl FnOnce(&std::path::Path)) -> Vec<(FindingKind, String)> {
    let dir = tempfile::tempdir().unwrap();
    let storage = storage(dir.path()).await;
    change(dir.path());
    let report = check_storage(&storage, &CheckProgress::default())
        .await
        .unwrap();
    let kinds = report.findings.iter().map(|f| (f.kind, f.file.clone()));
    let findings = kinds.collect::<Vec<_>>();
    let harm = findings.iter().any(|f| f.0 != FindingKind::Orphaned);
    assert_eq!(report.is_damaged(), harm);
    findings
}

fn flip(path: std::path::PathBuf) {
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn everything_wrong_is_found_by_name() {
    use FindingKind::{Damaged, Missing, Orphaned};
    assert_eq!(found(|_| {}).await, []);
    let files = [
        format!("{TABLE}/part-1.parquet"),
        format!("{TABLE}/_delta_log/00000000000000000002.json"),
        "catalogue/00000000000000000001.json".to_owned(),
    ];
    for file in &files {
        let flipped = found(|dir| flip(dir.join(file))).await;
        assert_eq!(flipped, [(Damaged, file.clone())]);
        let emptied = found(|dir| std::fs::write(dir.join(file), "").unwrap()).await;
        assert_eq!(emptied, [(Damaged, file.clone())]);
    }
    for file in &files[..2] {
        let removed = found(|dir| std::fs::remove_file(dir.join(file)).unwrap()).await;
        assert_eq!(removed[0], (Missing, file.clone()), "{removed:?}");
    }
    let newest = "catalogue/00000000000000000002.json";
    let removed = found(|dir| std::fs::remove_file(dir.join(newest)).unwrap()).await;
    assert_eq!(removed, [(Damaged, "catalogue".to_owned())]);
    let orphan = format!("{TABLE}/part-9.parquet");
    let copied = |dir: &std::path::Path| {
        std::fs::copy(dir.join(&files[0]), dir.join(&orphan))
            .map(drop)
            .unwrap();
    };
    assert_eq!(found(copied).await, [(Orphaned, orphan.clone())]);
    // Several at once are all found.
    let all = found(|dir| {
        copied(dir);
        flip(dir.join(&files[0]));
        std::fs::remove_file(dir.join(format!("{TABLE}/part-2.parquet"))).unwrap();
    });
    let missing = (Missing, format!("{TABLE}/part-2.parquet"));
    assert_eq!(
        all.await,
        [(Damaged, files[0].clone()), missing, (Orphaned, orphan)]
    );
}
