//! A bucket of rows, in memory and before that in a temporary file.

use std::fs::File;
use std::hash::Hasher;
use std::io::{BufReader, Seek};

use anabranch_shared::{Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

/// Which of `buckets` buckets rows with these keys are in.
pub(super) fn number(keys: &[u8], buckets: usize) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(keys);
    usize::try_from(hasher.finish() % buckets as u64).unwrap_or(0)
}

/// Rows, in the order in which they were pushed.
#[derive(Default)]
pub(super) struct Bucket {
    held: Vec<RecordBatch>,
    held_bytes: usize,
    file: Option<StreamWriter<File>>,
    file_bytes: usize,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("held_bytes", &self.held_bytes)
            .field("file_bytes", &self.file_bytes)
            .finish_non_exhaustive()
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::io("a temporary file of the comparison", source)
}

impl Bucket {
    /// Adds rows; returns by how many bytes of memory the bucket grew for them.
    pub(super) fn push(&mut self, rows: RecordBatch) -> usize {
        let bytes = rows.get_array_memory_size();
        self.held.push(rows);
        self.held_bytes += bytes;
        bytes
    }

    /// Moves what is in memory to a temporary file, which goes with the bucket.
    pub(super) fn spill(&mut self) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        let Some(first) = held.first() else {
            return Ok(());
        };
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = tempfile::tempfile().map_err(failed)?;
                StreamWriter::try_new(file, &first.schema())?
            }
        };
        for rows in &held {
            file.write(rows)?;
        }
        self.file = Some(file);
        self.file_bytes += std::mem::take(&mut self.held_bytes);
        Ok(())
    }

    /// Bytes of memory that all rows take.
    pub(super) fn size_bytes(&self) -> usize {
        self.held_bytes + self.file_bytes
    }

    /// All rows.
    pub(super) fn read(self, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let mut rows = Vec::new();
        if let Some(mut writer) = self.file {
            writer.finish()?;
            let mut file = writer.into_inner()?;
            file.rewind().map_err(failed)?;
            for batch in StreamReader::try_new(BufReader::new(file), None)? {
                rows.push(batch?);
            }
        }
        rows.extend(self.held);
        // Of the two some say more of what may be NULL than others.
        let columns = rows.into_iter().map(|b| {
            let options =
                arrow::array::RecordBatchOptions::new().with_row_count(Some(b.num_rows()));
            RecordBatch::try_new_with_options(schema.clone(), b.columns().to_vec(), &options)
        });
        Ok(columns.collect::<std::result::Result<_, _>>()?)
    }
}
