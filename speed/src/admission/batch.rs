//! Rows of Arrow batches. Columns that already are, or losslessly become, the declared type are taken whole; the
//! others go value by value through the same columns as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::convert::{Cell, Column, cell, put_list_text, text_builder, time};
use anabranch_shared::settings::UnknownFields;
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanBufferBuilder, ListArray, PrimitiveArray,
    RecordBatch, new_null_array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{cast, max, min};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, FieldRef, TimeUnit, TimestampMicrosecondType,
};
use bytes::Bytes;

use super::outcome::Rows;
use super::reason::Fault;
use super::{Admission, AdmissionError, Admitted, MAX_DEAD_LETTERS, encode};

/// How the strings of a batch are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A string is a string.
    Typed,
    /// A string is the text of any type, and empty is NULL.
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
    let mut arrays = Vec::with_capacity(admission.schema.fields().len());
    for field in admission.fields() {
        arrays.push(declared(batch, field, source, &mut faults).map_err(build)?);
    }
    let undeclared = undeclared(admission, batch, source, &mut faults).map_err(build)?;
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
    let raw = encode::rows(batch, faults.keys().map(|row| *row as u64).collect());
    let mut raw = raw.unwrap_or_default().into_iter();
    let mut rows = Rows::default();
    for row in 0..batch.num_rows() {
        match faults.remove(&row) {
            Some(fault) => rows.dead(fault, Bytes::from(raw.next().unwrap_or_default()), None),
            None => rows.fact(undeclared.carried_by(row)),
        }
    }
    rows.finish(admission, arrays)
}

type Built<T> = Result<T, arrow::error::ArrowError>;

fn declared(
    batch: &RecordBatch,
    field: &FieldRef,
    source: Source,
    faults: &mut Faults,
) -> Built<ArrayRef> {
    let rows = batch.num_rows();
    let mut named = named(batch, field.name());
    let Some(index) = named.next() else {
        if !field.is_nullable() {
            every_row(
                rows,
                faults,
                &Fault::missing(field.name(), field.data_type()),
            );
        }
        return Ok(new_null_array(field.data_type(), rows));
    };
    if named.next().is_some() {
        every_row(rows, faults, &Fault::twice(field.name()));
        return Ok(new_null_array(field.data_type(), rows));
    }
    let array = unpacked(batch.column(index))?;
    let array = match lossless(&array, field.data_type())? {
        Some(array) if source == Source::Typed => array,
        _ => by_value(&array, field, source, faults)?,
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

/// Indices of the columns of that name: one, unless the batch is malformed.
fn named(batch: &RecordBatch, name: &str) -> impl Iterator<Item = usize> {
    let fields = batch.schema_ref().fields();
    fields
        .iter()
        .enumerate()
        .filter(move |(_, field)| field.name() == name)
        .map(|(index, _)| index)
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
    source: Source,
    faults: &mut Faults,
) -> Built<ArrayRef> {
    let Some(mut column) = Column::new(field.data_type(), array.len()) else {
        return cast(array, field.data_type());
    };
    for row in 0..array.len() {
        let put = match source {
            Source::Typed => column.put_array_value(array, row),
            Source::Untyped => match cell(array, row) {
                Cell::Text("") => column.put(Cell::Null),
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
    source: Source,
    faults: &mut Faults,
) -> Built<Undeclared> {
    let fields = batch.schema_ref().fields().iter().enumerate();
    let indices: Vec<usize> = fields
        .filter(|(_, field)| admission.field_named(field.name()).is_none())
        .map(|(index, _)| index)
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
    let mut columns = batch.project(&indices)?;
    if source == Source::Untyped {
        columns = without_empty(&columns)?;
    }
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

/// Empty text as NULL.
fn without_empty(batch: &RecordBatch) -> Built<RecordBatch> {
    let text = |array: &ArrayRef| -> ArrayRef {
        let mut builder = text_builder(array.len());
        for row in 0..array.len() {
            match cell(array, row) {
                Cell::Text(text) if !text.is_empty() => builder.append_value(text),
                _ => builder.append_null(),
            }
        }
        Arc::new(builder.finish())
    };
    let columns = batch.schema_ref().fields().iter().zip(batch.columns());
    RecordBatch::try_from_iter_with_nullable(
        columns.map(|(field, array)| (field.name().as_str(), text(array), true)),
    )
}

fn extra(admission: &Admission, undeclared: &Undeclared, rows: usize) -> Built<ArrayRef> {
    let columns = match &undeclared.columns {
        Some(columns) if admission.unknown == UnknownFields::Keep => columns,
        _ => return Ok(new_null_array(&DataType::Utf8View, rows)),
    };
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
