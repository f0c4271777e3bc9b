//! How `anabranch tail` prints facts: one after another, in a form that needs no end.

use std::io::Write;

use anabranch_shared::{Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::output::{Format, Style, for_people, write_batches};

/// The form of a fact.
enum Form {
    Ndjson,
    Csv,
    /// Texts, and the fields that stand between them.
    Template(Vec<Piece>),
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(String),
}

/// Where facts are printed.
pub(super) struct Lines<'a> {
    form: Form,
    out: &'a mut (dyn Write + Send),
    /// Whether CSV has its header.
    begun: bool,
    /// Whether the reader has gone.
    closed: bool,
}

impl<'a> Lines<'a> {
    /// Lines of a template, or of a format.
    ///
    /// # Errors
    /// `Invalid` for a template that can't be read, and for a format that has an end.
    pub(super) fn new(
        format: Format,
        template: Option<&str>,
        out: &'a mut (dyn Write + Send),
    ) -> Result<Self> {
        let form = match (template, format) {
            (Some(template), _) => Form::Template(pieces(template)?),
            (None, Format::Csv) => Form::Csv,
            (None, Format::Table | Format::Ndjson) => Form::Ndjson,
            (None, Format::Json) => {
                return Err(Error::Invalid(
                    "`--format json` is one array, and a tail has no end; use `ndjson`".into(),
                ));
            }
        };
        Ok(Self {
            form,
            out,
            begun: false,
            closed: false,
        })
    }

    /// Whether nobody reads any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Prints facts.
    ///
    /// # Errors
    /// `Invalid` for a field of the template that the topic has not.
    pub(super) fn write(&mut self, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
        let mut text = Vec::new();
        match &self.form {
            Form::Ndjson => {
                write_batches(&mut text, schema, batches, Format::Ndjson, Style::plain())
                    .map_err(|e| Error::io("standard output", e))?
            }
            Form::Csv => {
                write_batches(&mut text, schema, batches, Format::Csv, Style::plain())
                    .map_err(|e| Error::io("standard output", e))?;
                if std::mem::replace(&mut self.begun, true) {
                    let header = text.iter().position(|b| *b == b'\n');
                    text.drain(..header.map_or(0, |at| at + 1));
                }
            }
            Form::Template(pieces) => {
                for batch in batches {
                    fill(pieces, batch, &mut text)?;
                }
            }
        }
        match self.out.write_all(&text).and_then(|()| self.out.flush()) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            written => written.map_err(|e| Error::io("standard output", e)),
        }
    }
}

/// The parts of a template: `{{` is a brace, `\t` and `\n` are what they are elsewhere.
fn pieces(template: &str) -> Result<Vec<Piece>> {
    let wrong = || {
        Error::Invalid(format!(
            "`--line {template}`: a brace is not closed; write a field as `{{url}}`, and `{{{{` for a brace"
        ))
    };
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = template.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '{' if rest.next_if_eq(&'{').is_some() => text.push('{'),
            '}' if rest.next_if_eq(&'}').is_some() => text.push('}'),
            '{' => {
                let mut name = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some(c) => name.push(c),
                        None => return Err(wrong()),
                    }
                }
                pieces.push(Piece::Text(std::mem::take(&mut text)));
                pieces.push(Piece::Field(name));
            }
            '\\' => match rest.next() {
                Some('t') => text.push('\t'),
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
            c => text.push(c),
        }
    }
    pieces.push(Piece::Text(text));
    Ok(pieces)
}

/// Writes each row of a batch as a line of a template.
fn fill(pieces: &[Piece], batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
    let options = FormatOptions::default().with_null("");
    let mut formatters = Vec::with_capacity(pieces.len());
    for piece in pieces {
        formatters.push(match piece {
            Piece::Text(_) => None,
            Piece::Field(name) => {
                let column = batch.column_by_name(name).ok_or_else(|| {
                    let schema = batch.schema();
                    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                    Error::Invalid(format!(
                        "`--line` names `{{{name}}}`, and the topic has no such field; its fields are: {}",
                        names.join(", ")
                    ))
                })?;
                Some(ArrayFormatter::try_new(column.as_ref(), &options)?)
            }
        });
    }
    for row in 0..batch.num_rows() {
        for (piece, formatter) in pieces.iter().zip(&formatters) {
            match (piece, formatter) {
                (Piece::Text(text), _) => out.extend_from_slice(text.as_bytes()),
                (Piece::Field(_), Some(formatter)) => {
                    let value = formatter.value(row).to_string();
                    // A line stays a line.
                    out.extend_from_slice(for_people(&value).replace('\n', "\\n").as_bytes());
                }
                (Piece::Field(_), None) => {}
            }
        }
        out.push(b'\n');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn batch() -> RecordBatch {
        let n: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let word: ArrayRef = Arc::new(StringArray::from(vec!["a", "b\nc"]));
        RecordBatch::try_from_iter([("n", n), ("word", word)]).unwrap()
    }

    fn printed(format: Format, template: Option<&str>, times: usize) -> Result<String> {
        let mut out = Vec::new();
        let mut lines = Lines::new(format, template, &mut out)?;
        for _ in 0..times {
            lines.write(&batch().schema(), &[batch()])?;
        }
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn facts_are_printed_in_each_form() {
        let template = printed(Format::Table, Some(r"{{{n}}}\t{word}"), 1).unwrap();
        assert_eq!(template, "{1}\ta\n{}\tb\\nc\n");
        let csv = printed(Format::Csv, None, 2).unwrap();
        assert_eq!(csv.matches("n,word").count(), 1, "{csv}");
        assert!(csv.starts_with("n,word\n1,a\n"), "{csv}");
        let ndjson = printed(Format::Table, None, 1).unwrap();
        assert!(ndjson.starts_with("{\"n\":1,\"word\":\"a\"}\n"), "{ndjson}");
    }

    #[test]
    fn what_can_not_be_printed_is_told() {
        let told = |format, template| printed(format, template, 1).unwrap_err().to_string();
        assert!(told(Format::Json, None).contains("ndjson"));
        assert!(told(Format::Table, Some("{n")).contains("not closed"));
        assert!(told(Format::Table, Some("{x}")).contains("its fields are: n, word"));
    }
}
