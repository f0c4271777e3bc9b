//! Rows on their way to a client: as rows of a query, or as COPY writes them.

use std::collections::VecDeque;
use std::sync::Arc;

use anabranch_shared::{Error, Result, Stop};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::{BufMut, Bytes, BytesMut};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use futures::StreamExt;
use futures::future::BoxFuture;
use pgwire::messages::data::{FieldDescription, RowDescription};
use tokio::sync::mpsc;

use super::cells::{Cells, Form, counted};
use super::commands::CopyFormat;
use super::subscription::{self, Told};
use super::types::column_type_of;
use crate::service::Answer;

/// What COPY in binary begins with, and ends with.
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COPY_END: [u8; 2] = (-1_i16).to_be_bytes();

/// Rows that are read in parts.
pub(super) struct Rows {
    schema: SchemaRef,
    source: Source,
    /// The rest of the batch that was read last.
    left: Option<RecordBatch>,
}

enum Source {
    /// They are computed as they are read.
    Answer(Box<Answer>),
    /// They are there, and take memory of queries.
    There(VecDeque<RecordBatch>, Option<MemoryReservation>),
    /// What a subscription tells, for ever.
    Told(Told),
}

impl Rows {
    /// The rows of an answer.
    pub(super) fn of(answer: Answer) -> Self {
        Self {
            schema: answer.schema.clone(),
            source: Source::Answer(Box::new(answer)),
            left: None,
        }
    }

    /// A column of texts, or several, that have this one row each.
    pub(super) fn of_texts(names: &[&str], rows: &[Vec<String>]) -> Result<Self> {
        let fields = names.iter().map(|n| Field::new(*n, DataType::Utf8, false));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let column = |nth: usize| -> ArrayRef {
            let texts = rows.iter().filter_map(|row| row.get(nth));
            Arc::new(StringArray::from_iter_values(texts))
        };
        let columns = (0..names.len()).map(column).collect();
        let rows = RecordBatch::try_new(schema.clone(), columns)?;
        Ok(Self {
            schema,
            source: Source::There([rows].into(), None),
            left: None,
        })
    }

    /// The same rows, computed now and kept in the memory for queries.
    ///
    /// # Errors
    /// Those of computing them; `NoRoom` where there is no memory for all.
    pub(super) async fn kept(mut self, memory: &Arc<dyn MemoryPool>) -> Result<Self> {
        let reserved = MemoryConsumer::new("cursor").register(memory);
        let mut rows = VecDeque::new();
        while let Some(batch) = self.next(usize::MAX).await? {
            reserved
                .try_grow(batch.get_array_memory_size())
                .map_err(|_| {
                    Error::NoRoom(format!(
                        "the cursor has no room in memory, {} MB of it are there so far (`memory` in `[query]`); leave out WITH HOLD, or narrow the query",
                        reserved.size() / 1_000_000
                    ))
                })?;
            rows.push_back(batch);
        }
        Ok(Self {
            schema: self.schema,
            source: Source::There(rows, Some(reserved)),
            left: None,
        })
    }

    /// What somebody is told who follows a view, until what they may read has changed.
    pub(super) fn told(parts: mpsc::Receiver<Bytes>, changed: BoxFuture<'static, ()>) -> Self {
        Self {
            schema: subscription::schema(),
            source: Source::Told(Told::new(parts, changed)),
            left: None,
        }
    }

    /// Whether rows come for ever, as things happen.
    pub(super) fn is_endless(&self) -> bool {
        matches!(self.source, Source::Told(_))
    }

    /// Whether there are rows that need not be waited for.
    pub(super) fn is_ready(&self) -> bool {
        match &self.source {
            Source::Told(told) => self.left.is_some() || told.is_ready(),
            Source::Answer(_) | Source::There(..) => true,
        }
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What its reader should know.
    pub(super) fn notes(&self) -> &[String] {
        match &self.source {
            Source::Answer(answer) => &answer.notes,
            Source::There(..) | Source::Told(_) => &[],
        }
    }

    /// Their receipt, where one is wanted and all of them have been read; or why there is none.
    pub(super) fn receipt(&self) -> Option<String> {
        let Source::Answer(answer) = &self.source else {
            return None;
        };
        let awaited = answer.awaited()?;
        let receipt = awaited
            .receipt()
            .map(|receipt| format!("receipt: {receipt}"));
        // What was known before its rows is among the notes.
        let none = || {
            awaited
                .refused()
                .filter(|none| !answer.notes.contains(none))
        };
        receipt.or_else(none)
    }

    /// How fresh they are, in one line; empty where that is not known.
    pub(super) fn freshness(&self) -> &str {
        match &self.source {
            Source::Answer(answer) => &answer.freshness,
            Source::There(..) | Source::Told(_) => "",
        }
    }

    /// What tells the work for them to stop, while there is any.
    pub(super) fn stop(&self) -> Option<&Stop> {
        match &self.source {
            Source::Answer(answer) => Some(answer.stop()),
            Source::There(..) | Source::Told(_) => None,
        }
    }

    async fn batch(&mut self) -> Result<Option<RecordBatch>> {
        match &mut self.source {
            Source::Answer(answer) => Ok(answer.stream.next().await.transpose()?),
            Source::There(rows, reserved) => {
                let batch = rows.pop_front();
                if let (Some(batch), Some(reserved)) = (&batch, reserved) {
                    let bytes = batch.get_array_memory_size().min(reserved.size());
                    reserved.shrink(bytes);
                }
                Ok(batch)
            }
            Source::Told(told) => told.next().await,
        }
    }

    /// The next rows, at most so many; none where there are no more.
    pub(super) async fn next(&mut self, most: usize) -> Result<Option<RecordBatch>> {
        let batch = match self.left.take() {
            Some(batch) => batch,
            None => loop {
                match self.batch().await? {
                    None => return Ok(None),
                    Some(batch) if batch.num_rows() == 0 => {}
                    Some(batch) => break batch,
                }
            },
        };
        if batch.num_rows() <= most {
            return Ok(Some(batch));
        }
        self.left = Some(batch.slice(most, batch.num_rows() - most));
        Ok(Some(batch.slice(0, most)))
    }
}

/// The columns of an answer as clients are told of them.
pub(super) fn description(schema: &Schema, forms: &[Form]) -> RowDescription {
    let fields = schema.fields().iter().zip(forms).map(|(field, form)| {
        let column_type = column_type_of(field);
        FieldDescription::new(
            field.name().replace('\0', ""),
            0,
            0,
            column_type.oid(),
            column_type.size(),
            -1,
            form.code(),
        )
    });
    RowDescription::new(fields.collect())
}

/// The forms of an answer's columns by the codes that a client gives: none for text, one for all, or
/// one for each.
pub(super) fn forms(codes: &[i16], columns: usize) -> Result<Vec<Form>> {
    match codes {
        [] => Ok(vec![Form::Text; columns]),
        [one] => Ok(vec![Form::of(*one)?; columns]),
        each if each.len() == columns => each.iter().map(|code| Form::of(*code)).collect(),
        each => Err(Error::Invalid(format!(
            "{} formats came for {columns} columns",
            each.len()
        ))),
    }
}

/// How rows are written.
#[derive(Debug)]
pub(super) enum Writing {
    Rows(Vec<Form>),
    /// With what stands before the next row: readers want the beginning of binary rows together with
    /// the first of them.
    Copy(CopyFormat, Vec<u8>),
}

impl Writing {
    /// Writes what stands before all rows.
    pub(super) fn begin(&mut self, schema: &Schema, out: &mut BytesMut) {
        match self {
            Self::Copy(CopyFormat::Binary, before) => before.extend_from_slice(COPY_HEADER),
            Self::Copy(
                CopyFormat::Csv {
                    delimiter,
                    has_header: true,
                    ..
                },
                _,
            ) => {
                let mut line = Vec::new();
                for (nth, field) in schema.fields().iter().enumerate() {
                    if nth > 0 {
                        line.push(*delimiter as u8);
                    }
                    write_csv(field.name().as_bytes(), *delimiter, "", &mut line);
                }
                line.push(b'\n');
                copy_data(&line, out);
            }
            _ => {}
        }
    }

    /// Writes rows, one message each.
    pub(super) fn write(
        &mut self,
        columns: &[Cells],
        row: usize,
        out: &mut BytesMut,
    ) -> Result<()> {
        let mut line = match self {
            Self::Rows(_) => Vec::new(),
            Self::Copy(_, before) => std::mem::take(before),
        };
        match self {
            Self::Rows(forms) => {
                for (cells, form) in columns.iter().zip(forms) {
                    write_counted(cells, row, *form, &mut line)?;
                }
                out.put_u8(b'D');
                put_length(line.len() + 6, out)?;
                out.put_i16(columns.len() as i16);
                out.put_slice(&line);
                return Ok(());
            }
            Self::Copy(CopyFormat::Binary, _) => {
                line.extend((columns.len() as i16).to_be_bytes());
                for cells in columns {
                    write_counted(cells, row, Form::Binary, &mut line)?;
                }
            }
            Self::Copy(CopyFormat::Text { delimiter, null }, _) => {
                let mut value = Vec::new();
                for (nth, cells) in columns.iter().enumerate() {
                    if nth > 0 {
                        line.push(*delimiter as u8);
                    }
                    if cells.is_null(row) {
                        line.extend_from_slice(null.as_bytes());
                        continue;
                    }
                    value.clear();
                    cells.write(row, Form::Text, &mut value)?;
                    write_escaped(&value, *delimiter, &mut line);
                }
                line.push(b'\n');
            }
            Self::Copy(
                CopyFormat::Csv {
                    delimiter, null, ..
                },
                _,
            ) => {
                let mut value = Vec::new();
                for (nth, cells) in columns.iter().enumerate() {
                    if nth > 0 {
                        line.push(*delimiter as u8);
                    }
                    if cells.is_null(row) {
                        line.extend_from_slice(null.as_bytes());
                        continue;
                    }
                    value.clear();
                    cells.write(row, Form::Text, &mut value)?;
                    write_csv(&value, *delimiter, null, &mut line);
                }
                line.push(b'\n');
            }
        }
        put_copy(&line, out)
    }

    /// Writes what stands behind all rows.
    pub(super) fn end(&mut self, out: &mut BytesMut) {
        if let Self::Copy(CopyFormat::Binary, before) = self {
            before.extend(COPY_END);
            copy_data(before, out);
        }
    }
}

fn write_counted(cells: &Cells, row: usize, form: Form, out: &mut Vec<u8>) -> Result<()> {
    if cells.is_null(row) {
        out.extend((-1_i32).to_be_bytes());
        return Ok(());
    }
    counted(out, |out| cells.write(row, form, out))
}

fn put_length(bytes: usize, out: &mut BytesMut) -> Result<()> {
    let length = i32::try_from(bytes).map_err(|_| {
        Error::NoRoom("a row has more than 2 GB, which the protocol has no room for".to_owned())
    })?;
    out.put_i32(length);
    Ok(())
}

fn put_copy(data: &[u8], out: &mut BytesMut) -> Result<()> {
    out.put_u8(b'd');
    put_length(data.len() + 4, out)?;
    out.put_slice(data);
    Ok(())
}

/// What is short for sure.
fn copy_data(data: &[u8], out: &mut BytesMut) {
    out.put_u8(b'd');
    out.put_i32(data.len() as i32 + 4);
    out.put_slice(data);
}

fn write_escaped(value: &[u8], delimiter: char, line: &mut Vec<u8>) {
    for byte in value {
        let short = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            0x0b => b'v',
            byte if *byte == delimiter as u8 => *byte,
            _ => {
                line.push(*byte);
                continue;
            }
        };
        line.extend([b'\\', short]);
    }
}

fn write_csv(value: &[u8], delimiter: char, null: &str, line: &mut Vec<u8>) {
    let is_special = |b: &u8| *b == delimiter as u8 || b"\"\n\r".contains(b);
    // What would be taken for NULL, or for the end of the data, is quoted.
    let is_quoted = value == null.as_bytes() || value == b"\\." || value.iter().any(is_special);
    if !is_quoted {
        line.extend_from_slice(value);
        return;
    }
    line.push(b'"');
    for byte in value {
        if *byte == b'"' {
            line.push(b'"');
        }
        line.push(*byte);
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn written(writing: &mut Writing, texts: &[Option<&str>]) -> String {
        let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let field = Field::new("x", column.data_type().clone(), true);
        let cells = [(); 2].map(|()| Cells::of(&field, &column).unwrap());
        let mut all = String::new();
        for row in 0..texts.len() {
            let mut out = BytesMut::new();
            writing.write(&cells, row, &mut out).unwrap();
            all.push_str(std::str::from_utf8(&out[5..]).unwrap());
        }
        all
    }

    #[test]
    fn copy_escapes_what_it_must() {
        let text = CopyFormat::Text {
            delimiter: '\t',
            null: "\\N".into(),
        };
        let mut text = Writing::Copy(text, vec![]);
        assert_eq!(
            written(&mut text, &[Some("a\tb\\\n"), None]),
            "a\\tb\\\\\\n\ta\\tb\\\\\\n\n\\N\t\\N\n"
        );
        let csv = CopyFormat::Csv {
            delimiter: ',',
            null: String::new(),
            has_header: false,
        };
        let mut csv = Writing::Copy(csv, vec![]);
        assert_eq!(
            written(&mut csv, &[Some("a,\"b\""), Some(""), None, Some("plain")]),
            "\"a,\"\"b\"\"\",\"a,\"\"b\"\"\"\n\"\",\"\"\n,\nplain,plain\n"
        );
    }

    #[test]
    fn forms_are_one_or_each() {
        assert_eq!(forms(&[], 2).unwrap(), [Form::Text; 2]);
        assert_eq!(forms(&[1], 2).unwrap(), [Form::Binary; 2]);
        assert_eq!(forms(&[0, 1], 2).unwrap(), [Form::Text, Form::Binary]);
        assert!(forms(&[0, 1], 3).is_err());
        assert!(forms(&[2], 1).is_err());
    }
}
