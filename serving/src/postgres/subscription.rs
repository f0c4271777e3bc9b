//! What a subscription tells as rows: the same as `GET /views/{view}/changes`, with a column for each part of
//! its objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::{Error, Result};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::types::JSON_TEXT;

/// What says that nothing has happened: over a connection that is told nothing.
const ALIVE: &str = "alive";

/// The columns: what happened, where one is then, the row before and after, and what else there is to say.
pub(super) fn schema() -> SchemaRef {
    let json = |name| {
        let extension = ("ARROW:extension:name".to_owned(), JSON_TEXT.to_owned());
        Field::new(name, DataType::Utf8, true).with_metadata([extension].into())
    };
    Arc::new(Schema::new(vec![
        Field::new("op", DataType::Utf8, false),
        Field::new("token", DataType::Utf8, true),
        json("old"),
        json("new"),
        json("detail"),
    ]))
}

/// What somebody is told who follows a view.
pub(super) struct Told {
    parts: mpsc::Receiver<Bytes>,
    /// Once they may not read any more what they could.
    changed: BoxFuture<'static, ()>,
    is_over: bool,
}

impl Told {
    pub(super) fn new(parts: mpsc::Receiver<Bytes>, changed: BoxFuture<'static, ()>) -> Self {
        Self {
            parts,
            changed,
            is_over: false,
        }
    }

    /// Whether something was told that was not read.
    pub(super) fn is_ready(&self) -> bool {
        !self.parts.is_empty()
    }

    /// What is told next; none once there is nothing more to follow.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if !self.is_over {
            tokio::select! {
                biased;
                () = &mut self.changed => {
                    self.is_over = true;
                    self.parts.close();
                }
                part = self.parts.recv() => return part.map(|part| rows(&part)).transpose(),
            }
        }
        Err(Error::Denied(
            "what the session's user may read has changed; follow the view again".to_owned(),
        ))
    }
}

/// Objects, one a line, as rows.
fn rows(part: &[u8]) -> Result<RecordBatch> {
    let mut columns: [Vec<Option<String>>; 5] = Default::default();
    for line in part.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()) {
        let unread = |e| Error::Internal(format!("what a subscription tells: {e}"));
        let mut object: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(line).map_err(unread)?;
        let mut text = |name: &str| -> Result<Option<String>> {
            let value = object.remove(name);
            let text = value.map(|value| serde_json::from_str(value.get()).map_err(unread));
            text.transpose()
        };
        let (op, token) = (text("op")?, text("token")?);
        if op.as_deref() == Some(ALIVE) {
            continue;
        }
        let mut json = |name: &str| object.remove(name).map(|value| value.get().to_owned());
        let (old, new) = (json("old"), json("new"));
        let detail = match object.is_empty() {
            true => None,
            false => Some(serde_json::to_string(&object).map_err(unread)?),
        };
        let all = [Some(op.unwrap_or_default()), token, old, new, detail];
        for (column, value) in columns.iter_mut().zip(all) {
            column.push(value);
        }
    }
    let columns = columns.map(|values| Arc::new(StringArray::from(values)) as ArrayRef);
    Ok(RecordBatch::try_new(schema(), columns.to_vec())?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use arrow::array::{Array, AsArray};

    use super::*;

    #[test]
    fn objects_become_rows() {
        let part = concat!(
            r#"{"op":"reset","view":"words","generation":1,"key":["word"]}"#,
            "\n",
            r#"{"op":"alive"}"#,
            "\n",
            r#"{"op":"changed","old":{"n": 1},"new":{"n":2}}"#,
            "\n",
            r#"{"op":"at","token":"g1 [0:5]"}"#,
            "\n",
        );
        let rows = rows(part.as_bytes()).unwrap();
        let shown = |row: usize| -> Vec<&str> {
            let columns = rows.columns().iter().map(|c| c.as_string::<i32>());
            columns
                .map(|c| match c.is_null(row) {
                    true => "-",
                    false => c.value(row),
                })
                .collect()
        };
        assert_eq!(rows.num_rows(), 3);
        let detail = r#"{"generation":1,"key":["word"],"view":"words"}"#;
        assert_eq!(shown(0), ["reset", "-", "-", "-", detail]);
        assert_eq!(shown(1), ["changed", "-", r#"{"n": 1}"#, r#"{"n":2}"#, "-"]);
        assert_eq!(shown(2), ["at", "g1 [0:5]", "-", "-", "-"]);
    }
}
