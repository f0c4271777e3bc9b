//! Rows of Arrow batches. Columns that already are, or losslessly become, the declared type are taken whole; the
//! others go value by value through the same columns as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::convert::{Cell, Column, cell, put_list_text, text_builder, time};
use anabranch_shared::settings::{FieldReads, UnknownFields};
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanBufferBuilder, ListArray, PrimitiveArray,
    RecordBatch, new_null_array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{cast, max, min};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, FieldRef, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;

use super::outcome::Rows;
use super::reason::Fault;
use super::{Admission, AdmissionError, Admitted, MAX_DEAD_LETTERS, encode};

/// The most that `_extra` repeats names, in bytes: each row has those of its undeclared fields, and a
/// sender may give a long name to values of one byte.
const EXTRA_NAME_BYTES: usize = 256 << 20;

/// How the strings of a batch are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A string is a string.
    Typed,
    /// A string is the text of any type; an empty one is NULL where the type has none.
    Untyped,
}

/// The first fault of each bad row, in the order of the declared fields.
type Faults = BTreeMap<usize, Fault>;

pub(super) fn admit(
    admission: &Admission,
    batch: &RecordBatch,
    source: Source,
) -> Result<Admitted, AdmissionError> {
    let build = |error| AdmissionError::Build { source: error };
    let mut faults = Faults::new();
    let fields = admission.fields_of(batch.schema_ref());
    let mut arrays = Vec::with_capacity(admission.schema.fields().len());
    for index in 0..admission.declared {
        let columns: Vec<usize> = (0..fields.len())
            .filter(|column| fields[*column] == Some(index))
            .collect();
        let array = declared(admission, batch, index, &columns, source, &mut faults);
        arrays.push(array.map_err(build)?);
    }
    let undeclared = undeclared(admission, batch, &fields, &mut faults).map_err(build)?;
    arrays.push(extra(admission, &undeclared, batch.num_rows()).map_err(build)?);

    if faults.len() > MAX_DEAD_LETTERS
        && let Some((row, fault)) = faults.first_key_value()
    {
        return Err(AdmissionError::TooManyDead {
            record: *row as u64,
            reason: fault.reason.clone(),
        });
    }
    // A batch of types that can't be shown still has its verdicts; its dead letters are then empty.
    let dead: Vec<u64> = faults.keys().map(|row| *row as u64).collect();
    let raw = encode::dead_rows(batch, &fields, &arrays, dead);
    let mut raw = raw.unwrap_or_default().into_iter();
    let mut rows = Rows::default();
    for row in 0..batch.num_rows() {
        match faults.remove(&row) {
            Some(fault) => rows.dead(fault, raw.next().unwrap_or_default(), None),
            None => rows.fact(undeclared.carried_by(row)),
        }
    }
    rows.finish(admission, arrays)
}

type Built<T> = Result<T, arrow::error::ArrowError>;

/// The values of a declared field, which `columns` of the batch are: one, unless it is missing or there twice.
fn declared(
    admission: &Admission,
    batch: &RecordBatch,
    index: usize,
    columns: &[usize],
    source: Source,
    faults: &mut Faults,
) -> Built<ArrayRef> {
    let rows = batch.num_rows();
    let field = &admission.fields()[index];
    let reads = admission.reads[index];
    let column = match columns {
        [column] => *column,
        [] => {
            if !field.is_nullable() {
                every_row(
                    rows,
                    faults,
                    &Fault::missing(field.name(), field.data_type()),
                );
            }
            return Ok(new_null_array(field.data_type(), rows));
        }
        _ => {
            every_row(rows, faults, &Fault::twice(field.name()));
            return Ok(new_null_array(field.data_type(), rows));
        }
    };
    let array = unpacked(batch.column(column))?;
    // Were a naive time taken whole, it would be one of UTC.
    let whole = source == Source::Typed && (reads.zone.is_none() || !is_naive(array.data_type()));
    let whole = match whole {
        true => lossless(&array, field.data_type())?,
        false => None,
    };
    let array = match whole {
        Some(array) => array,
        None => by_value(&array, field, reads, source, faults)?,
    };
    if !field.is_nullable()
        && let Some(nulls) = array.nulls()
    {
        let missing = nulls.iter().enumerate().filter(|(_, valid)| !valid);
        for (row, _) in missing {
            note(faults, row, || Fault::null(field.name(), field.data_type()));
        }
    }
    Ok(array)
}

/// Whether values of a type are, or are made of, times without a zone.
fn is_naive(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(_, None) | DataType::Date32 | DataType::Date64 => true,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => is_naive(item.data_type()),
        _ => false,
    }
}

fn every_row(rows: usize, faults: &mut Faults, fault: &Fault) {
    for row in 0..rows.min(MAX_DEAD_LETTERS + 1) {
        note(faults, row, || fault.clone());
    }
}

/// Notes a row's first fault. With more bad rows than are kept all are refused, so the others need no note.
fn note(faults: &mut Faults, row: usize, fault: impl FnOnce() -> Fault) {
    if faults.len() <= MAX_DEAD_LETTERS {
        faults.entry(row).or_insert_with(fault);
    }
}

/// Dictionaries and run-end encodings as plain arrays.
fn unpacked(array: &ArrayRef) -> Built<ArrayRef> {
    match array.data_type() {
        DataType::Dictionary(_, values) => unpacked(&cast(array, values)?),
        DataType::RunEndEncoded(_, values) => unpacked(&cast(array, values.data_type())?),
        _ => Ok(array.clone()),
    }
}

/// `array` as `target`, if that can be said of the whole array without looking at single values.
fn lossless(array: &ArrayRef, target: &DataType) -> Built<Option<ArrayRef>> {
    use DataType::{
        BinaryView, Date32, Float32, Float64, Int8, Int16, Int32, Int64, LargeUtf8, List,
        Timestamp, UInt8, UInt16, UInt32, Utf8, Utf8View,
    };
    let whole: Option<ArrayRef> = match (array.data_type(), target) {
        (Timestamp(TimeUnit::Microsecond, _), Timestamp(TimeUnit::Microsecond, Some(zone))) => {
            let array = array.as_primitive::<TimestampMicrosecondType>();
            let fits = within(array, time::MIN_MICROS, time::MAX_MICROS);
            fits.then(|| Arc::new(array.clone().with_timezone(zone.clone())) as _)
        }
        (Date32, Date32) => within(
            array.as_primitive::<Date32Type>(),
            time::MIN_DAYS,
            time::MAX_DAYS,
        )
        .then(|| array.clone()),
        (List(_), List(item)) => {
            let list = array.as_list::<i32>();
            let items = lossless(&unpacked(list.values())?, item.data_type())?;
            match items {
                Some(items) if item.is_nullable() || items.null_count() == 0 => {
                    Some(Arc::new(ListArray::try_new(
                        item.clone(),
                        list.offsets().clone(),
                        items,
                        list.nulls().cloned(),
                    )?))
                }
                _ => None,
            }
        }
        // Arrow doesn't hold its senders to the precision that they state; Parquet would cut the digits off.
        (DataType::Decimal128(_, _), DataType::Decimal128(precision, _))
            if array.data_type() == target =>
        {
            let decimals = array.as_primitive::<Decimal128Type>();
            decimals
                .validate_decimal_precision(*precision)
                .is_ok()
                .then(|| array.clone())
        }
        (from, to) if from == to => Some(array.clone()),
        (Utf8 | LargeUtf8, Utf8View)
        | (DataType::Binary | DataType::LargeBinary, BinaryView)
        | (Int8 | UInt8, Int16)
        | (Int8 | Int16 | UInt8 | UInt16, Int32)
        | (Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32, Int64)
        | (Float32, Float64) => Some(cast(array, target)?),
        _ => None,
    };
    Ok(whole)
}

fn within<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, low: T::Native, high: T::Native) -> bool
where
    T::Native: PartialOrd,
{
    min(array).is_none_or(|value| value >= low) && max(array).is_none_or(|value| value <= high)
}

fn by_value(
    array: &ArrayRef,
    field: &FieldRef,
    reads: FieldReads,
    source: Source,
    faults: &mut Faults,
) -> Built<ArrayRef> {
    let Some(mut column) = Column::new(field.data_type(), array.len(), reads) else {
        return cast(array, field.data_type());
    };
    for row in 0..array.len() {
        let put = match source {
            Source::Typed => column.put_array_value(array, row),
            Source::Untyped => match cell(array, row) {
                Cell::Text("") if !column.takes_empty_text() => column.put(Cell::Null),
                Cell::Text(text) if column.is_list() => put_list_text(text, &mut column),
                Cell::Text(text) => column.put(Cell::Untyped(text)),
                other => column.put(other),
            },
        };
        if let Err(what) = put {
            note(faults, row, || Fault::field(field.name(), &what));
            column.settle(row + 1);
        }
    }
    column.finish()
}

/// The columns that the topic doesn't declare, and which rows have a value in any of them.
struct Undeclared {
    columns: Option<RecordBatch>,
    carried: Option<BooleanBuffer>,
}

impl Undeclared {
    fn carried_by(&self, row: usize) -> bool {
        self.carried
            .as_ref()
            .is_some_and(|carried| carried.value(row))
    }
}

fn undeclared(
    admission: &Admission,
    batch: &RecordBatch,
    fields: &[Option<usize>],
    faults: &mut Faults,
) -> Built<Undeclared> {
    let indices: Vec<usize> = (0..fields.len())
        .filter(|column| fields[*column].is_none())
        .collect();
    let Some(first) = indices.first() else {
        return Ok(Undeclared {
            columns: None,
            carried: None,
        });
    };
    if admission.unknown == UnknownFields::Reject {
        every_row(
            batch.num_rows(),
            faults,
            &Fault::undeclared(batch.schema_ref().field(*first).name()),
        );
        return Ok(Undeclared {
            columns: None,
            carried: None,
        });
    }
    let columns = batch.project(&indices)?;
    let rows = batch.num_rows();
    let none = || {
        let mut builder = BooleanBufferBuilder::new(rows);
        builder.append_n(rows, false);
        builder.finish()
    };
    let all = |array: &ArrayRef| {
        array
            .logical_nulls()
            .unwrap_or_else(|| NullBuffer::new_valid(rows))
    };
    let carried = columns
        .columns()
        .iter()
        .fold(none(), |carried, array| &carried | all(array).inner());
    Ok(Undeclared {
        columns: Some(columns),
        carried: Some(carried),
    })
}

fn extra(admission: &Admission, undeclared: &Undeclared, rows: usize) -> Built<ArrayRef> {
    let columns = match &undeclared.columns {
        Some(columns) if admission.unknown == UnknownFields::Keep => columns,
        _ => return Ok(new_null_array(&DataType::Utf8View, rows)),
    };
    let names = columns.schema_ref().fields().iter().zip(columns.columns());
    let names = names.map(|(f, a)| f.name().len() * (a.len() - a.logical_null_count()));
    let bytes = names.fold(0, usize::saturating_add);
    if bytes > EXTRA_NAME_BYTES {
        return Err(ArrowError::InvalidArgumentError(format!(
            "`_extra` would repeat the names of undeclared fields up to {bytes} bytes; declare them, give them shorter names, or send fewer records at once"
        )));
    }
    let mut builder = text_builder(rows);
    for (row, object) in encode::lines(columns)?.into_iter().enumerate() {
        if undeclared.carried_by(row) {
            builder.append_value(object);
        } else {
            builder.append_null();
        }
    }
    Ok(Arc::new(builder.finish()))
}
