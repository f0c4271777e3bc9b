//! States of every listed function, as version 0.1.0 has stored them, stay readable and merge with
//! those of today. One column was taken out of the file of `distinct` afterwards: the states of a
//! `bit_xor(DISTINCT …)`, which that version made wrongly.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::{Path as FilePath, PathBuf};

use arrow::array::Array;
use arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionContext};

use super::*;
use crate::reference::Met;
use crate::view::every_function::{VIEWS, facts, topic};
use crate::view::{Definition, fold_facts, planning_session, session_builder};
use crate::{Offset, Topic};

fn fixture() -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/0.1.0/states")
}

fn copy(from: &FilePath, to: &FilePath) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Absorbs facts of partition 0 as one run.
async fn absorb(master: &Master, topic: &Topic, offsets: std::ops::Range<i64>) -> Result<()> {
    let range = OffsetRange::new(Offset(offsets.start), Offset(offsets.end));
    let ranges: Ranges = vec![(PartitionId(0), range)];
    let states = fold_facts(master.view(), &[facts(topic, offsets)])?;
    let (unit, body) = master.encode(states, &ranges, &Met::default())?;
    master.put(&unit, body).await?;
    master.publish_refresh(&ranges, &[unit], 1).await?;
    Ok(())
}

/// Columns of the fixture whose answers depend on the order of merging, within their error.
const APPROXIMATE: [&str; 3] = ["a44", "a45", "a47"];

/// The rows of a plan as text, sorted; floating point to so many digits that the order of merging
/// does not show, and without approximate values where several states were merged.
async fn rows(storage: &Storage, plan: LogicalPlan, is_merged: bool) -> Vec<String> {
    let runtime = Arc::new(RuntimeEnv::default());
    storage.register(&runtime).unwrap();
    let config = planning_session().unwrap().copied_config();
    let state = session_builder()
        .with_config(config.with_target_partitions(1))
        .with_runtime_env(runtime)
        .build();
    let session = SessionContext::new_with_state(state);
    let answer = DataFrame::new(session.state(), plan).collect().await;
    let batches = answer.expect("an answer");
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let schema = batch.schema();
            let values = batch.columns().iter().zip(schema.fields());
            let values = values.map(|(column, field)| {
                if is_merged && APPROXIMATE.contains(&field.name().as_str()) {
                    return if column.is_null(row) { "none" } else { "some" }.to_owned();
                }
                let text = array_value_to_string(column, row).unwrap();
                match (column.data_type().is_floating(), text.parse::<f64>()) {
                    (true, Ok(number)) => format!("{number:.4}"),
                    _ => text,
                }
            });
            rows.push(values.collect::<Vec<_>>().join("|"));
        }
    }
    rows.sort_unstable();
    rows
}

/// A master view of the fixture, opened again; states are sketches and sets besides.
async fn opened(storage: &Storage, name: &str) -> Master {
    let definition = std::fs::read(fixture().join(format!("{name}.json"))).unwrap();
    let definition: Definition = serde_json::from_slice(&definition).unwrap();
    assert!(definition.state_format.starts_with("1 datafusion 55.2.0 "));
    let view = Arc::new(View::from_definition(name, &definition).expect(name));
    assert_eq!(view.definition(), &definition);
    Master::open(storage, &view, Generation(1), 1)
        .await
        .expect(name)
}

#[tokio::test]
async fn states_of_0_1_0_merge_with_those_of_today() {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(), dir.path());
    let storage = Storage::folder(dir.path()).unwrap();
    for (name, sql) in VIEWS {
        for upto in [60, 120] {
            let master = opened(&storage, name).await;
            if upto > 60 {
                absorb(&master, &topic(), 60..upto).await.expect(name);
            }
            let leaf = MasterLeaf::new(&master, master.pin(), 8);
            let plan = master.view().answer_plan(Arc::new(leaf)).unwrap();
            let found = rows(&storage, plan, upto > 60).await;
            let all = vec![vec![facts(&topic(), 0..upto)]];
            let all = Arc::new(MemTable::try_new(topic().schema(), all).unwrap());
            let plan = master.view().recompute_plan(all).unwrap();
            let expected = rows(&storage, plan, upto > 60).await;
            assert!(!expected.is_empty());
            assert_eq!(found, expected, "{name}, {upto} facts: {sql}");
            // Read whole, as merges of runs and checks do.
            for file in master.pin().files {
                let states = master.read(&file).await.expect(name);
                assert!(
                    states
                        .iter()
                        .all(|b| b.schema_ref() == master.view().state_schema())
                );
            }
        }
    }
}

/// What other versions read there stays as it was: the line, and the columns that they know.
#[tokio::test]
async fn a_table_of_0_1_0_keeps_its_format() {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(), dir.path());
    let storage = Storage::folder(dir.path()).unwrap();
    let master = opened(&storage, "ordered").await;
    let before = master.table().with_state(|s| s.schema.clone()).unwrap();
    absorb(&master, &topic(), 60..90).await.unwrap();
    let after = master.table().with_state(|s| s.schema.clone()).unwrap();
    assert_eq!(after, before);
    let line = master
        .table()
        .with_state(|s| s.configuration.get(STATE_FORMAT).cloned());
    assert!(line.is_some_and(|line| line.starts_with("1 datafusion 55.2.0 ")));
    // A sum has a column more, in files and in the table.
    let master = opened(&storage, "plain").await;
    absorb(&master, &topic(), 60..90).await.unwrap();
    let schema = master.table().with_state(|s| s.schema.clone()).unwrap();
    assert!(schema.contains("a2_s1"), "{schema}");
}
