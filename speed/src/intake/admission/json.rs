//! Lines of JSON, read straight into columns.
//!
//! There is one path: every line is pulled through the parser once, each value into its column's builder. A line that
//! fails leaves holes, which are filtered away after the last line, so a bad line costs no more than a good one and
//! its neighbours never see it.

use std::ops::Range;
use std::sync::Arc;

use anabranch_shared::convert::{Column, PutError, described, put_json, text_builder};
use anabranch_shared::settings::UnknownFields;
use arrow::array::{ArrayRef, StringViewBuilder};
use bytes::Bytes;
use jiter::{Jiter, JiterError, Peek};
use memchr::{memchr, memchr_iter};

use super::outcome::Rows;
use super::reason::Fault;
use super::{Admission, AdmissionError, Admitted, DeadLetter, RAW_BYTES};

/// More rows than this are not allocated for before they are read: lines may be blank.
const MAX_ROWS_GUESS: usize = 65_536;

pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The records of a chunk: its lines without their ends, except the blank ones.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let start = at;
            let newline = memchr(b'\n', &bytes[start..]).map(|len| start + len);
            at = newline.map_or(bytes.len(), |newline| newline + 1);
            let end = newline.unwrap_or(bytes.len());
            let end = if end > start && bytes[end - 1] == b'\r' {
                end - 1
            } else {
                end
            };
            if !is_blank(&bytes[start..end]) {
                return Some(start..end);
            }
        }
        None
    })
}

/// Whether a line, or a message of any number of lines, holds no record: there is but white space of JSON in it.
pub(crate) fn is_blank(text: &[u8]) -> bool {
    unmarked(text)
        .iter()
        .all(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n'))
}

/// Adds a record as one line: a line break is white space in JSON, except in a string, where it is an error that must
/// stay one.
pub(crate) fn push_line(lines: &mut Vec<u8>, value: &[u8]) {
    if memchr::memchr2(b'\n', b'\r', value).is_none() {
        lines.extend_from_slice(value);
        return;
    }
    let (mut in_string, mut escaped) = (false, false);
    for &byte in value {
        let breaks = byte == b'\n' || byte == b'\r';
        // Another control character, which no string may hold either, keeps the record one line.
        let shown = match (breaks, in_string) {
            (true, true) => b'\x0b',
            (true, false) => b' ',
            _ => byte,
        };
        lines.push(shown);
        in_string = match byte {
            b'"' if !escaped => !in_string,
            _ => in_string,
        };
        escaped = in_string && byte == b'\\' && !escaped;
    }
}

/// A line without the byte order mark that some programs put before UTF-8, and without the zeros that a log has where
/// it was truncated while its writer went on. They are passed over on every line, because files that begin with them are
/// put one after the other.
fn unmarked(line: &[u8]) -> &[u8] {
    let line = unpadded(line);
    line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line)
}

fn unpadded(line: &[u8]) -> &[u8] {
    let zeros = line.iter().take_while(|byte| **byte == 0).count();
    &line[zeros..]
}

pub(super) fn admit(admission: &Admission, bytes: &Bytes) -> Result<Admitted, AdmissionError> {
    // Cheap where it holds, which is nearly always; otherwise each line answers for itself.
    let all_utf8 = std::str::from_utf8(bytes).is_ok();
    let mut reader = Reader::new(admission, bytes);
    let mut rows = Rows::default();
    // Ends of lines are counted up to here; only dead letters need them.
    let (mut counted, mut line_ends) = (0, 0);
    for range in lines(bytes) {
        let start = range.start;
        let line = unpadded(&bytes[range]);
        let verdict = if line.len() > admission.max_record_bytes {
            Err(Fault::oversized(
                line.len() as u64,
                admission.max_record_bytes,
            ))
        } else if let Some(text) = text(line, all_utf8) {
            reader.record(unmarked(text))
        } else {
            Err(Fault::not_utf8())
        };
        match verdict {
            Ok(carried_unknown) => rows.fact(carried_unknown),
            Err(fault) => {
                reader.fill_hole();
                let shown = if line.len() > admission.max_record_bytes {
                    line.len().min(RAW_BYTES)
                } else {
                    line.len()
                };
                line_ends += memchr_iter(b'\n', &bytes[counted..start]).count() as u64;
                counted = start;
                let raw = Bytes::copy_from_slice(&line[..shown]);
                rows.dead(fault, raw, Some(line_ends + 1));
                rows.check_dead()?;
            }
        }
    }
    rows.finish(admission, reader.finish()?)
}

/// The dead letter of a record whose first bytes alone were kept.
pub(crate) fn oversized(
    record: u64,
    line: u64,
    head: &[u8],
    size_bytes: u64,
    max_bytes: usize,
) -> DeadLetter {
    let Fault { field, reason } = Fault::oversized(size_bytes, max_bytes);
    DeadLetter {
        record,
        line: Some(line),
        field,
        reason,
        raw: Bytes::copy_from_slice(&head[..head.len().min(RAW_BYTES)]),
    }
}

fn text(line: &[u8], known_utf8: bool) -> Option<&[u8]> {
    (known_utf8 || std::str::from_utf8(line).is_ok()).then_some(line)
}

/// Invariant: between records, every column and `extra` hold exactly `rows` values.
struct Reader<'a> {
    admission: &'a Admission,
    columns: Vec<Column>,
    extra: StringViewBuilder,
    rows: usize,
    /// The field that the last record had at each position: producers keep to an order, so this is mostly right.
    order: Vec<Option<usize>>,
    /// Reused for `_extra` objects.
    object: String,
}

impl<'a> Reader<'a> {
    fn new(admission: &'a Admission, bytes: &[u8]) -> Self {
        let guess = (memchr_iter(b'\n', bytes).count() + 1).min(MAX_ROWS_GUESS);
        // Nor for more than several times the bytes that came: records may name little of what is declared.
        let row_bytes = usize::try_from(admission.row_bytes()).unwrap_or(usize::MAX);
        let guess = guess.min(bytes.len().saturating_mul(4) / row_bytes.max(1) + 1);
        Self {
            admission,
            columns: admission.columns(guess),
            extra: text_builder(guess),
            rows: 0,
            order: Vec::new(),
            object: String::new(),
        }
    }

    /// Reads one record into the columns; says whether it carried undeclared fields. After an error the columns are
    /// uneven until [`Self::fill_hole`].
    fn record(&mut self, line: &[u8]) -> Result<bool, Fault> {
        let admission = self.admission;
        let mut jiter = Jiter::new(line);
        let peek = jiter.peek().map_err(syntax)?;
        if peek != Peek::Object {
            return Err(not_an_object(&mut jiter, peek));
        }
        self.object.clear();
        let mut carried_unknown = false;
        let mut position = 0;
        let mut key = jiter.known_object().map_err(syntax)?;
        while let Some(name) = key {
            match field_at(admission, &mut self.order, position, name) {
                Some(field) => self.declared(&mut jiter, field)?,
                None => {
                    carried_unknown = true;
                    undeclared_key(admission, &mut self.object, name)?;
                    undeclared_value(admission, &mut self.object, &mut jiter)?;
                }
            }
            position += 1;
            key = jiter.next_key().map_err(syntax)?;
        }
        jiter.finish().map_err(syntax)?;
        self.close()?;
        Ok(carried_unknown)
    }

    fn declared(&mut self, jiter: &mut Jiter<'_>, field: usize) -> Result<(), Fault> {
        let admission = self.admission;
        let declared = &admission.fields()[field];
        let column = &mut self.columns[field];
        if column.len() > self.rows {
            return Err(Fault::twice(declared.name()));
        }
        let peek = jiter.peek().map_err(syntax)?;
        if peek == Peek::Null && !declared.is_nullable() {
            return Err(Fault::null(declared.name(), declared.data_type()));
        }
        put_json(jiter, peek, column).map_err(|error| match error {
            PutError::Syntax(error) => syntax(error),
            PutError::Value(what) => Fault::field(declared.name(), &what),
        })
    }

    /// Ends a record: what it didn't mention is NULL.
    fn close(&mut self) -> Result<(), Fault> {
        let rows = self.rows + 1;
        for (column, field) in self.columns.iter_mut().zip(self.admission.fields()) {
            if column.len() < rows {
                if !field.is_nullable() {
                    return Err(Fault::missing(field.name(), field.data_type()));
                }
                column.put_null();
            }
        }
        if self.object.is_empty() {
            self.extra.append_null();
        } else {
            self.object.push('}');
            self.extra.append_value(&self.object);
        }
        self.rows = rows;
        Ok(())
    }

    /// The declared columns, then `_extra`.
    fn finish(mut self) -> Result<Vec<ArrayRef>, AdmissionError> {
        let arrays: Result<Vec<_>, _> = self.columns.into_iter().map(Column::finish).collect();
        let mut arrays = arrays.map_err(|source| AdmissionError::Build { source })?;
        arrays.push(Arc::new(self.extra.finish()));
        Ok(arrays)
    }

    fn fill_hole(&mut self) {
        self.rows += 1;
        for column in &mut self.columns {
            column.settle(self.rows);
        }
        self.extra.append_null();
    }
}

fn field_at(
    admission: &Admission,
    order: &mut Vec<Option<usize>>,
    position: usize,
    name: &str,
) -> Option<usize> {
    if let Some(Some(field)) = order.get(position)
        && admission.fields()[*field].name() == name
    {
        return Some(*field);
    }
    let field = admission.field_named(name);
    if position >= order.len() {
        // Records with thousands of keys shouldn't leave a table of them behind.
        if position < 4 * admission.fields().len() {
            order.resize(position + 1, None);
            order[position] = field;
        }
    } else if field.is_some() {
        order[position] = field;
    }
    field
}

fn undeclared_key(admission: &Admission, object: &mut String, name: &str) -> Result<(), Fault> {
    match admission.unknown {
        UnknownFields::Reject => return Err(Fault::undeclared(name)),
        UnknownFields::Ignore => {}
        UnknownFields::Keep => {
            object.push(if object.is_empty() { '{' } else { ',' });
            object.push_str(&serde_json::Value::from(name).to_string());
            object.push(':');
        }
    }
    Ok(())
}

/// Checks the value's form in either case: whether a record is valid doesn't hang on what becomes of it.
fn undeclared_value(
    admission: &Admission,
    object: &mut String,
    jiter: &mut Jiter<'_>,
) -> Result<(), Fault> {
    let peek = jiter.peek().map_err(syntax)?;
    let start = jiter.current_index();
    jiter.known_skip(peek).map_err(syntax)?;
    if admission.unknown == UnknownFields::Keep {
        let raw =
            std::str::from_utf8(jiter.slice_to_current(start)).map_err(|_| Fault::not_utf8())?;
        object.push_str(raw);
    }
    Ok(())
}

fn syntax(error: JiterError) -> Fault {
    let reason = match &error.error_type {
        jiter::JiterErrorType::JsonError(kind) => kind.to_string(),
        kind @ jiter::JiterErrorType::WrongType { .. } => kind.to_string(),
    };
    Fault::record(format!(
        "record is not valid json: {reason} (byte {})",
        error.index
    ))
}

fn not_an_object(jiter: &mut Jiter<'_>, peek: Peek) -> Fault {
    match described(jiter, peek).and_then(|found| jiter.finish().map(|()| found)) {
        Ok(found) if peek == Peek::Array => Fault::record(format!(
            "expected a json object, found {found}; an array of records is taken where a file or a request begins with it"
        )),
        Ok(found) => Fault::record(format!("expected a json object, found {found}")),
        Err(error) => syntax(error),
    }
}
