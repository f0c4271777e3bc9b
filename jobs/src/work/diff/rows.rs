//! The rows in which two answers differ, all of them, in a file: what became of each, its keys, and every
//! column before and after.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_shared::{Error, Result};
use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast, is_null, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tempfile::NamedTempFile;

use super::{Differ, Matched};
use crate::output::{Format, Layout, Style, write_answer};

/// The column that says what became of a row.
const CHANGE: &str = "change";

/// A file that takes rows. It is there under its name once all are in it.
#[derive(Debug)]
pub struct RowsFile {
    path: PathBuf,
    writing: Mutex<Writing>,
}

#[derive(Debug)]
struct Writing {
    file: Option<NamedTempFile>,
    kind: Kind,
    rows: u64,
}

enum Kind {
    Text {
        out: BufWriter<File>,
        format: Format,
        has_header: bool,
    },
    Parquet {
        file: Option<File>,
        writer: Option<Box<ArrowWriter<File>>>,
    },
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text { .. } => "Text",
            Self::Parquet { .. } => "Parquet",
        })
    }
}

impl RowsFile {
    /// A file whose name's end says in which format it is.
    ///
    /// # Errors
    /// `Invalid` for another end, and where the file can't be made.
    pub fn create(path: &Path) -> Result<Self> {
        let end = path.extension().and_then(|end| end.to_str());
        let format = match end {
            Some("csv") => Some(Format::Csv),
            Some("ndjson" | "jsonl") => Some(Format::Ndjson),
            Some("parquet") => None,
            _ => {
                return Err(Error::Invalid(format!(
                    "`{}` says no format; let the name end with `.csv`, `.ndjson` or `.parquet`",
                    path.display()
                )));
            }
        };
        let failed = |e| Error::io(path.display().to_string(), e);
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let file = NamedTempFile::new_in(dir.unwrap_or(Path::new("."))).map_err(failed)?;
        let out = file.reopen().map_err(failed)?;
        let kind = match format {
            Some(format) => Kind::Text {
                out: BufWriter::new(out),
                format,
                has_header: false,
            },
            None => Kind::Parquet {
                file: Some(out),
                writer: None,
            },
        };
        Ok(Self {
            path: path.to_owned(),
            writing: Mutex::new(Writing {
                file: Some(file),
                kind,
                rows: 0,
            }),
        })
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::io(self.path.display().to_string(), e)
    }

    /// Adds rows, the first time also none, for what has a head.
    pub(super) fn write(&self, rows: &RecordBatch) -> Result<()> {
        let mut writing = self.writing.lock();
        writing.rows += rows.num_rows() as u64;
        match &mut writing.kind {
            Kind::Text {
                out,
                format,
                has_header,
            } => {
                let layout = Layout {
                    tuples_only: std::mem::replace(has_header, true),
                    ..Layout::default()
                };
                let rows = std::slice::from_ref(rows);
                let schema = rows[0].schema();
                write_answer(out, &schema, rows, *format, Style::plain(), layout)
                    .map_err(|e| self.failed(e))
            }
            Kind::Parquet { file, writer } => {
                if let Some(file) = file.take() {
                    let compression = Compression::ZSTD(ZstdLevel::default());
                    let properties = WriterProperties::builder().set_compression(compression);
                    let properties = Some(properties.build());
                    let made = ArrowWriter::try_new(file, rows.schema(), properties)?;
                    *writer = Some(Box::new(made));
                }
                match writer {
                    Some(writer) => Ok(writer.write(rows)?),
                    None => Err(Error::Internal("the file has ended".into())),
                }
            }
        }
    }

    /// Ends the file, which gets its name. Returns how many rows it has.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn finish(&self) -> Result<u64> {
        let mut writing = self.writing.lock();
        match &mut writing.kind {
            Kind::Text { out, .. } => out.flush().map_err(|e| self.failed(e))?,
            Kind::Parquet { writer, .. } => {
                writer.take().map(|writer| writer.close()).transpose()?;
            }
        }
        if let Some(file) = writing.file.take() {
            file.persist(&self.path).map_err(|e| self.failed(e.error))?;
        }
        Ok(writing.rows)
    }
}

/// A column, and where A and B have it.
struct Column {
    name: String,
    of: [Option<usize>; 2],
}

impl Differ {
    /// The columns of rows that differ: the keys, or where there are none all that rows are told apart
    /// by, and then the others of A and of B.
    fn row_columns(&self) -> (Vec<Column>, Vec<Column>) {
        let name = |at: &[usize; 2]| self.schemas[0].field(at[0]).name().clone();
        let keys = self.keys.iter().map(|at| Column {
            name: name(at),
            of: at.map(Some),
        });
        let keys: Vec<Column> = keys.collect();
        let is_key = |name: &String| keys.iter().any(|key| key.name == *name);
        let mut others = Vec::new();
        for field in self.schemas[0].fields() {
            let name = field.name();
            if !is_key(name) {
                others.push(Column {
                    name: name.clone(),
                    of: [0, 1].map(|side: usize| self.schemas[side].index_of(name).ok()),
                });
            }
        }
        for (at, field) in self.schemas[1].fields().iter().enumerate() {
            if self.schemas[0].index_of(field.name()).is_err() {
                others.push(Column {
                    name: field.name().clone(),
                    of: [None, Some(at)],
                });
            }
        }
        (keys, others)
    }

    /// The rows of a bucket that differ: of A and B by their places, and those of both that changed.
    pub(super) fn differing_rows(
        &self,
        a: &RecordBatch,
        b: &RecordBatch,
        matched: &Matched,
        changed: &[bool],
    ) -> Result<RecordBatch> {
        let both = matched.both.iter().zip(changed);
        let both = both.filter(|(_, changed)| **changed).map(|(pair, _)| *pair);
        let both: Vec<[u32; 2]> = both.collect();
        let parts = [
            ("lost", matched.only_a.len()),
            ("new", matched.only_b.len()),
            ("changed", both.len()),
        ];
        let words = parts.iter();
        let words = words.flat_map(|(word, rows)| std::iter::repeat_n(*word, *rows));
        let words: Vec<&str> = words.collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(words))];
        let mut fields = vec![Field::new(CHANGE, DataType::Utf8, false)];
        // The places of each part's rows on a side; none where it has none there.
        let of_pairs = |side: usize| both.iter().map(move |pair| Some(pair[side]));
        let (lost, new) = (matched.only_a.iter(), matched.only_b.iter());
        let (some_lost, some_new) = (lost.map(|at| Some(*at)), new.map(|at| Some(*at)));
        let no_lost = std::iter::repeat_n(None, matched.only_a.len());
        let no_new = std::iter::repeat_n(None, matched.only_b.len());
        let places: [Vec<Option<u32>>; 2] = [
            some_lost.chain(no_new).chain(of_pairs(0)).collect(),
            no_lost.chain(some_new).chain(of_pairs(1)).collect(),
        ];
        let places = places.map(UInt32Array::from);
        let column = |side: usize, at: usize| -> Result<ArrayRef> {
            Ok(take([a, b][side].column(at), &places[side], None)?)
        };
        let (keys, others) = self.row_columns();
        for key in &keys {
            let [Some(of_a), Some(of_b)] = key.of else {
                continue;
            };
            let data_type = self.schemas[0].field(of_a).data_type();
            let of_a = column(0, of_a)?;
            let of_b = cast(&column(1, of_b)?, data_type)?;
            // A row of B alone has its key there.
            let is_new = is_null(&places[0])?;
            columns.push(zip(&is_new, &of_b, &of_a)?);
            fields.push(Field::new(&key.name, data_type.clone(), true));
        }
        for other in others {
            for (side, word) in ["before", "after"].into_iter().enumerate() {
                if let Some(at) = other.of[side] {
                    let data_type = self.schemas[side].field(at).data_type();
                    columns.push(column(side, at)?);
                    fields.push(Field::new(
                        format!("{}_{word}", other.name),
                        data_type.clone(),
                        true,
                    ));
                }
            }
        }
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}
