//! Version 0.1.0 and this one side by side: what that daemon sends is read here, and what this one
//! sends is read there. States are those that 0.1.0 stored, with the definitions that it stored; how
//! it wrote and read an answer stands here as it stood there.

use std::fs;
use std::path::{Path, PathBuf};

use anabranch_shared::ErrorKind;
use anabranch_shared::view::{Definition, fold_facts};
use arrow::compute::cast;
use arrow::datatypes::Schema;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::super::{DeltaRequest, WantedView};
use super::*;

type Outcome<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const VIEWS: [&str; 4] = ["plain", "distinct", "ordered", "whole"];

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/0.1.0/states")
}

fn definition(name: &str) -> Outcome<Definition> {
    let text = fs::read(fixture().join(format!("{name}.json")))?;
    Ok(serde_json::from_slice(&text)?)
}

/// The states that 0.1.0 stored, of some groups.
fn stored(name: &str) -> Outcome<RecordBatch> {
    let folder = fixture().join(format!("views/{name}/g1"));
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "parquet") {
            let file = fs::File::open(path)?;
            let mut reader = ParquetRecordBatchReaderBuilder::try_new(file)?.build()?;
            let first = reader.next();
            return Ok(first.ok_or("no states")??);
        }
    }
    Err(format!("no states of `{name}`").into())
}

/// The types of the columns of states, as the line of their format names them.
fn types(line: &str) -> Vec<String> {
    let words = line.split(' ').skip(3);
    let keys = words.take_while(|word| !word.contains('('));
    let mut found: Vec<String> = keys.map(str::to_owned).collect();
    for states in line.split("→[").skip(1) {
        let mut depth = 1_usize;
        let mut text = String::new();
        for c in states.chars() {
            match c {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                _ => {}
            }
            match (depth, c) {
                (0, _) => break,
                (1, ',') => found.push(std::mem::take(&mut text)),
                _ => text.push(c),
            }
        }
        found.push(text);
    }
    found
}

fn types_of(schema: &Schema) -> Vec<String> {
    let fields = schema.fields().iter();
    fields.map(|f| f.data_type().to_string()).collect()
}

/// The types of columns in memory under a format, where those at rest are as in a file.
fn in_memory(at_rest: &RecordBatch, schema: &SchemaRef) -> Outcome<RecordBatch> {
    let columns = at_rest.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type()));
    let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// An answer as 0.1.0 wrote it.
fn written(definition: &Definition, states: &RecordBatch) -> Outcome<Bytes> {
    let states = section(states.schema_ref(), std::slice::from_ref(states))?;
    let facts = section(&definition.topic.schema(), &[])?;
    let dead = section(&dead_letter_schema(), &[])?;
    let header = serde_json::json!({
        "lanes": [[1, {"start": 0, "end": 60}]],
        "views": [{
            "name": "v", "state_format": definition.state_format, "bytes": states.len(),
        }],
        "facts_bytes": facts.len(),
        "dead_bytes": dead.len(),
        "notes": [],
    });
    let header = header.to_string();
    let length = u32::try_from(header.len())?.to_le_bytes();
    let parts = [
        b"ABDELTA\x01",
        &length[..],
        header.as_bytes(),
        &states,
        &facts,
        &dead,
    ];
    Ok(parts.concat().into())
}

/// The states of an answer as 0.1.0 read them: only under the very format and types that it makes.
fn read(body: &Bytes, definition: &Definition) -> Outcome<RecordBatch> {
    let (header, mut rest) = split(body)?;
    let [sent] = header.views.as_slice() else {
        return Err("several views".into());
    };
    let limit = IpcLimit {
        bytes: 1 << 30,
        name: "a test",
    };
    let batch = arrow_stream::read(rest.split_to(sent.bytes), limit, |_| Ok(()))?;
    if sent.state_format != definition.state_format {
        return Err(format!("the format `{}`", sent.state_format).into());
    }
    match types_of(batch.schema_ref()) == types(&sent.state_format) {
        true => Ok(batch),
        false => Err(format!("{:?}", types_of(batch.schema_ref())).into()),
    }
}

#[test]
fn what_0_1_0_sends_is_read() -> Outcome {
    for name in VIEWS {
        let definition = definition(name)?;
        let former = View::from_definition("v", &definition)?;
        let (schema, _) = former.to_send(&[])?;
        assert_eq!(types_of(&schema), types(&definition.state_format), "{name}");
        let states = in_memory(&stored(name)?, &schema)?;
        assert!(states.num_rows() > 0, "{name}");
        let body = written(&definition, &states)?;
        // By who goes on with that generation, and by who has built the view anew.
        let Definition { sql, topic, .. } = &definition;
        for view in [former, View::compile("v", sql, topic)?] {
            let view = Arc::new(view);
            let views = vec![("v".to_owned(), view.clone())];
            let held = PeerDelta::decode(&body, "10.0.0.7:1", topic, views, 1 << 30)?;
            let found = held.states.get("v").ok_or("no states")?;
            assert_eq!(found.num_rows(), states.num_rows());
            // They say what they said.
            let former = View::from_definition("v", &definition)?;
            let (_, again) = former.to_send(std::slice::from_ref(found))?;
            assert_eq!(again, std::slice::from_ref(&states), "{name}");
        }
    }
    Ok(())
}

#[test]
fn what_0_1_0_asks_is_answered_as_it_reads_it() -> Outcome {
    for name in VIEWS {
        let definition = definition(name)?;
        let asked = serde_json::json!({
            "wal": "a", "topic": "facts", "from": {"1": 0},
            "views": [{"name": "v", "definition": definition}],
            "facts": false, "dead_letters": false,
        });
        let asked: DeltaRequest = serde_json::from_value(asked)?;
        let [
            WantedView {
                definition: wanted, ..
            },
        ] = asked.views.as_slice()
        else {
            return Err("another request".into());
        };
        assert_eq!(wanted, &definition);
        let view = View::compile("v", &wanted.sql, &wanted.topic)?;
        let view = Arc::new(view.in_format_of(wanted));
        let facts = RecordBatch::new_empty(view.topic().schema());
        let states = fold_facts(&view, &[facts])?;
        let sent = SentStates {
            name: "v".to_owned(),
            view,
            states: vec![states],
        };
        let topic = (&wanted.topic.schema(), &LateReads::default());
        let body = encode(&PeerDelta::default(), &[sent], topic)?;
        read(&body, &definition).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

#[test]
fn an_answer_of_another_form_is_refused() -> Outcome {
    let definition = definition("whole")?;
    let view = Arc::new(View::from_definition("v", &definition)?);
    let (schema, _) = view.to_send(&[])?;
    let body = written(&definition, &in_memory(&stored("whole")?, &schema)?)?;
    let other = [b"ABDELTA\x02", &body[8..]].concat().into();
    let views = vec![("v".to_owned(), view)];
    let refused = PeerDelta::decode(&other, "10.0.0.7:1", &definition.topic, views, 1 << 30);
    let refused = refused.err().ok_or("it was read")?;
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains("10.0.0.7:1"), "{refused}");
    Ok(())
}
