//! A field's values as they are read, and the one table of what each type takes from which source.
//!
//! | type | JSON | Arrow | CSV text |
//! |---|---|---|---|
//! | boolean | `true`, `false` | boolean | `true`, `t`, `1`, `false`, `f`, `0` in either case |
//! | tinyint … bigint | whole numbers in range, also as `1.0` or `1e3` | integers, whole floats and decimals | the same |
//! | real, double | numbers, rounded to the nearest, not to infinity; `"NaN"`, `"Infinity"`, `"-Infinity"` | integers, decimals, floats incl. NaN and infinities | numbers, `NaN`, `Infinity`, `-Infinity` |
//! | decimal | numbers or strings of them, exact | integers, decimals; floats by their shortest text; strings | numbers |
//! | varchar | strings | strings | any text |
//! | binary | base64 strings | binary; base64 strings | base64 |
//! | date | `YYYY-MM-DD` | dates, timestamps at midnight UTC, strings | `YYYY-MM-DD` |
//! | timestamp | RFC 3339 (see [`super::time`]); no bare numbers | timestamps of any unit and zone, dates, strings | RFC 3339 |
//! | list | arrays | lists | a JSON array |
//!
//! By a field's settings numbers, and texts of them, are timestamps too (`epoch`), times without a zone are of another
//! one than UTC (`timezone`), and a text of a number is the number from every source (`from_text`).

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryViewBuilder, BooleanBuilder, Date32Builder, Decimal128Builder,
    Float32Builder, Float64Builder, Int8Builder, Int16Builder, Int32Builder, Int64Builder,
    ListArray, PrimitiveBuilder, StringViewBuilder, TimestampMicrosecondBuilder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, FieldRef, TimeUnit};
use arrow::error::ArrowError;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::cell::{Cell, cell, items};
use super::reason::{Reject, mismatch};
use super::{number, time};
use crate::settings::FieldReads;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A builder of texts. Its memory is in proportion to the rows: by themselves builders begin with
/// 16 kB, which a small request would hold for each of its columns until it has landed.
pub fn text_builder(rows: usize) -> StringViewBuilder {
    StringViewBuilder::with_capacity(rows).with_fixed_block_size(block_bytes(rows))
}

/// Bytes that a builder allocates at once for values that are not inlined.
fn block_bytes(rows: usize) -> u32 {
    u32::try_from(rows * 32)
        .unwrap_or(u32::MAX)
        .clamp(1 << 10, 1 << 20)
}

/// A column under construction. Nothing is ever taken back: a record that fails midway leaves what it wrote, is evened
/// out by [`Column::settle`], and its row is filtered away at the end.
pub struct Column {
    data_type: DataType,
    values: Values,
    reads: FieldReads,
}

enum Values {
    Boolean(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder, u8, i8),
    Text(StringViewBuilder),
    Binary(BinaryViewBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    List(Box<List>),
}

/// Invariant: `ends` and `valid` have one entry for each closed list, and `ends` begins with 0.
struct List {
    item: Column,
    item_field: FieldRef,
    ends: Vec<i32>,
    valid: Vec<bool>,
}

impl Column {
    /// An empty column, or `None` for a type that no topic can declare.
    pub fn new(data_type: &DataType, rows: usize, reads: FieldReads) -> Option<Self> {
        let values = match data_type {
            DataType::Boolean => Values::Boolean(BooleanBuilder::with_capacity(rows)),
            DataType::Int8 => Values::Int8(Int8Builder::with_capacity(rows)),
            DataType::Int16 => Values::Int16(Int16Builder::with_capacity(rows)),
            DataType::Int32 => Values::Int32(Int32Builder::with_capacity(rows)),
            DataType::Int64 => Values::Int64(Int64Builder::with_capacity(rows)),
            DataType::Float32 => Values::Float32(Float32Builder::with_capacity(rows)),
            DataType::Float64 => Values::Float64(Float64Builder::with_capacity(rows)),
            DataType::Decimal128(precision, scale) if (1..=38).contains(precision) => {
                let builder =
                    Decimal128Builder::with_capacity(rows).with_data_type(data_type.clone());
                Values::Decimal(builder, *precision, *scale)
            }
            DataType::Utf8View => Values::Text(text_builder(rows)),
            DataType::BinaryView => Values::Binary(
                BinaryViewBuilder::with_capacity(rows).with_fixed_block_size(block_bytes(rows)),
            ),
            DataType::Date32 => Values::Date(Date32Builder::with_capacity(rows)),
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC" => {
                Values::Timestamp(
                    TimestampMicrosecondBuilder::with_capacity(rows)
                        .with_data_type(data_type.clone()),
                )
            }
            DataType::List(item_field) => Values::List(Box::new(List {
                item: Self::new(item_field.data_type(), rows, reads)?,
                item_field: item_field.clone(),
                ends: vec![0],
                valid: Vec::new(),
            })),
            _ => return None,
        };
        Some(Self {
            data_type: data_type.clone(),
            values,
            reads,
        })
    }

    /// How many values it has.
    pub fn len(&self) -> usize {
        use arrow::array::ArrayBuilder;
        match &self.values {
            Values::Boolean(builder) => builder.len(),
            Values::Int8(builder) => builder.len(),
            Values::Int16(builder) => builder.len(),
            Values::Int32(builder) => builder.len(),
            Values::Int64(builder) => builder.len(),
            Values::Float32(builder) => builder.len(),
            Values::Float64(builder) => builder.len(),
            Values::Decimal(builder, _, _) => builder.len(),
            Values::Text(builder) => builder.len(),
            Values::Binary(builder) => builder.len(),
            Values::Date(builder) => builder.len(),
            Values::Timestamp(builder) => builder.len(),
            Values::List(list) => list.valid.len(),
        }
    }

    /// Whether it has no value yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the column a NULL where a record of `rows` so far has given it nothing.
    pub fn settle(&mut self, rows: usize) {
        if self.len() < rows {
            self.put_null();
        }
    }

    /// Appends a NULL.
    pub fn put_null(&mut self) {
        match &mut self.values {
            Values::Boolean(builder) => builder.append_null(),
            Values::Int8(builder) => builder.append_null(),
            Values::Int16(builder) => builder.append_null(),
            Values::Int32(builder) => builder.append_null(),
            Values::Int64(builder) => builder.append_null(),
            Values::Float32(builder) => builder.append_null(),
            Values::Float64(builder) => builder.append_null(),
            Values::Decimal(builder, _, _) => builder.append_null(),
            Values::Text(builder) => builder.append_null(),
            Values::Binary(builder) => builder.append_null(),
            Values::Date(builder) => builder.append_null(),
            Values::Timestamp(builder) => builder.append_null(),
            Values::List(list) => list.close(false),
        }
    }

    /// Appends one value, or says what is wrong with it and appends nothing.
    #[inline]
    pub fn put(&mut self, cell: Cell<'_>) -> Result<(), String> {
        self.try_put(cell)
            .map_err(|reject| mismatch(&self.data_type, &cell.describe(), reject))
    }

    /// Appends the list that `fill` writes item by item; it is closed as NULL if `fill` fails, because its row is lost.
    /// `None` if this isn't a column of lists.
    pub fn put_list<E>(
        &mut self,
        fill: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Option<Result<(), E>> {
        let Values::List(list) = &mut self.values else {
            return None;
        };
        let filled = fill(&mut list.item);
        list.close(filled.is_ok());
        Some(filled)
    }

    /// Whether its values are lists.
    pub fn is_list(&self) -> bool {
        matches!(self.values, Values::List(_))
    }

    /// Whether an empty text is a value, also where it stands for one of any type.
    pub fn takes_empty_text(&self) -> bool {
        matches!(self.values, Values::Text(_) | Values::Binary(_))
    }

    /// Appends row `row` of an unpacked array, lists and their items included.
    pub fn put_array_value(&mut self, array: &dyn Array, row: usize) -> Result<(), String> {
        if self.is_list()
            && !array.is_null(row)
            && let Some(items) = items(array, row)
        {
            let fill = |item: &mut Self| {
                (0..items.len()).try_for_each(|at| item.put_array_value(&items, at))
            };
            return self.put_list(fill).unwrap_or(Ok(()));
        }
        self.put(cell(array, row))
    }

    fn try_put(&mut self, cell: Cell<'_>) -> Result<(), Reject> {
        let reads = self.reads;
        match &mut self.values {
            _ if matches!(cell, Cell::Null) => self.put_null(),
            Values::Text(builder) => match cell {
                Cell::Text(text) | Cell::Untyped(text) => builder.append_value(text),
                _ => return Err(Reject::TYPE),
            },
            Values::Int64(builder) => put_integer(builder, number(cell, reads))?,
            Values::Timestamp(builder) => builder.append_value(micros(cell, reads)?),
            Values::Boolean(builder) => builder.append_value(boolean(cell)?),
            Values::Int8(builder) => put_integer(builder, number(cell, reads))?,
            Values::Int16(builder) => put_integer(builder, number(cell, reads))?,
            Values::Int32(builder) => put_integer(builder, number(cell, reads))?,
            Values::Float32(builder) => builder.append_value(single(number(cell, reads))?),
            Values::Float64(builder) => builder.append_value(double(number(cell, reads))?),
            Values::Decimal(builder, precision, scale) => {
                builder.append_value(decimal(cell, *precision, *scale)?)
            }
            Values::Binary(builder) => match cell {
                Cell::Bytes(bytes) => builder.append_value(bytes),
                Cell::Text(text) | Cell::Untyped(text) => {
                    builder.append_value(BASE64.decode(text).map_err(|_| Reject::BASE64)?);
                }
                _ => return Err(Reject::TYPE),
            },
            Values::Date(builder) => builder.append_value(days(cell)?),
            Values::List(_) => return Err(Reject::TYPE),
        }
        Ok(())
    }

    /// The finished array, of the declared type. An error here is a defect of this module.
    pub fn finish(self) -> Result<ArrayRef, ArrowError> {
        Ok(match self.values {
            Values::Boolean(mut builder) => Arc::new(builder.finish()),
            Values::Int8(mut builder) => Arc::new(builder.finish()),
            Values::Int16(mut builder) => Arc::new(builder.finish()),
            Values::Int32(mut builder) => Arc::new(builder.finish()),
            Values::Int64(mut builder) => Arc::new(builder.finish()),
            Values::Float32(mut builder) => Arc::new(builder.finish()),
            Values::Float64(mut builder) => Arc::new(builder.finish()),
            Values::Decimal(mut builder, _, _) => Arc::new(builder.finish()),
            Values::Text(mut builder) => Arc::new(builder.finish()),
            Values::Binary(mut builder) => Arc::new(builder.finish()),
            Values::Date(mut builder) => Arc::new(builder.finish()),
            Values::Timestamp(mut builder) => Arc::new(builder.finish()),
            Values::List(list) => {
                if i32::try_from(list.item.len()).is_err() {
                    return Err(ArrowError::OffsetOverflowError(list.item.len()));
                }
                let offsets = OffsetBuffer::new(ScalarBuffer::from(list.ends));
                let nulls = NullBuffer::from(list.valid);
                let nulls = (nulls.null_count() > 0).then_some(nulls);
                Arc::new(ListArray::try_new(
                    list.item_field,
                    offsets,
                    list.item.finish()?,
                    nulls,
                )?)
            }
        })
    }
}

impl List {
    fn close(&mut self, valid: bool) {
        // Where this saturates, `finish` refuses the column.
        self.ends
            .push(i32::try_from(self.item.len()).unwrap_or(i32::MAX));
        self.valid.push(valid);
    }
}

/// A text of a number as the number, where the field is read so.
fn number(cell: Cell<'_>, reads: FieldReads) -> Cell<'_> {
    match cell {
        Cell::Text(text) if reads.from_text => Cell::Untyped(text),
        cell => cell,
    }
}

fn put_integer<T: ArrowPrimitiveType>(
    builder: &mut PrimitiveBuilder<T>,
    cell: Cell<'_>,
) -> Result<(), Reject>
where
    T::Native: TryFrom<i128>,
{
    let value = match cell {
        Cell::Number(text) => number::integer(text.as_bytes())?,
        Cell::Untyped(text) => number::integer(text.trim().as_bytes())?,
        Cell::Int(value) => value,
        Cell::Single(value) => whole(f64::from(value))?,
        Cell::Double(value) => whole(value)?,
        Cell::Decimal(value, scale) => number::rescale(value, scale, 0)?,
        _ => return Err(Reject::TYPE),
    };
    builder.append_value(T::Native::try_from(value).map_err(|_| Reject::RANGE)?);
    Ok(())
}

fn whole(value: f64) -> Result<i128, Reject> {
    if !value.is_finite() {
        Err(Reject::RANGE)
    } else if value.fract() != 0.0 {
        Err(Reject::FRACTION)
    } else {
        // Saturates far outside every integer type.
        Ok(value as i128)
    }
}

fn boolean(cell: Cell<'_>) -> Result<bool, Reject> {
    match cell {
        Cell::Bool(value) => Ok(value),
        Cell::Untyped(text) => match text.trim() {
            "1" => Ok(true),
            "0" => Ok(false),
            text if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("t") => Ok(true),
            text if text.eq_ignore_ascii_case("false") || text.eq_ignore_ascii_case("f") => {
                Ok(false)
            }
            _ => Err(Reject::TYPE),
        },
        _ => Err(Reject::TYPE),
    }
}

fn single(cell: Cell<'_>) -> Result<f32, Reject> {
    match cell {
        Cell::Number(text) => number::single(text),
        Cell::Text(text) => unending(text).map(|value| value as f32),
        Cell::Untyped(text) => match unending(text.trim()) {
            Ok(value) => Ok(value as f32),
            Err(_) => number::single(text.trim()),
        },
        Cell::Int(value) => Ok(value as f32),
        Cell::Single(value) => Ok(value),
        Cell::Double(value) if value.is_finite() && !(value as f32).is_finite() => {
            Err(Reject::RANGE)
        }
        Cell::Double(value) => Ok(value as f32),
        Cell::Decimal(value, scale) => number::single(&decimal_text(value, scale)),
        _ => Err(Reject::TYPE),
    }
}

fn double(cell: Cell<'_>) -> Result<f64, Reject> {
    match cell {
        Cell::Number(text) => number::double(text),
        Cell::Text(text) => unending(text),
        Cell::Untyped(text) => unending(text.trim()).or_else(|_| number::double(text.trim())),
        Cell::Int(value) => Ok(value as f64),
        Cell::Single(value) => Ok(f64::from(value)),
        Cell::Double(value) => Ok(value),
        Cell::Decimal(value, scale) => number::double(&decimal_text(value, scale)),
        _ => Err(Reject::TYPE),
    }
}

/// What JSON has no number for, as this program writes it.
fn unending(text: &str) -> Result<f64, Reject> {
    match text {
        "NaN" => Ok(f64::NAN),
        "Infinity" => Ok(f64::INFINITY),
        "-Infinity" => Ok(f64::NEG_INFINITY),
        _ => Err(Reject::TYPE),
    }
}

fn decimal_text(value: i128, scale: i8) -> String {
    format!("{value}e{}", -i32::from(scale))
}

fn decimal(cell: Cell<'_>, precision: u8, scale: i8) -> Result<i128, Reject> {
    let value = match cell {
        Cell::Number(text) | Cell::Text(text) => number::exact(text.as_bytes(), scale)?,
        Cell::Untyped(text) => number::exact(text.trim().as_bytes(), scale)?,
        Cell::Int(value) => number::rescale(value, 0, scale)?,
        // The shortest text that reads back as the same float is what its sender meant by it.
        Cell::Single(value) if value.is_finite() => {
            number::exact(format!("{value}").as_bytes(), scale)?
        }
        Cell::Double(value) if value.is_finite() => {
            number::exact(format!("{value}").as_bytes(), scale)?
        }
        Cell::Decimal(value, from_scale) => number::rescale(value, from_scale, scale)?,
        Cell::Single(_) | Cell::Double(_) => return Err(Reject::RANGE),
        _ => return Err(Reject::TYPE),
    };
    let limit = 10_u128.pow(u32::from(precision));
    if value.unsigned_abs() < limit {
        Ok(value)
    } else {
        Err(Reject::PRECISION)
    }
}

fn days(cell: Cell<'_>) -> Result<i32, Reject> {
    match cell {
        Cell::Text(text) => time::date(text.as_bytes()),
        Cell::Untyped(text) => time::date(text.trim().as_bytes()),
        Cell::Days(days) => time::in_days(days),
        Cell::Micros(micros) | Cell::Naive(micros) => {
            time::in_days(time::whole_days(micros).ok_or(Reject::FRACTION)?)
        }
        Cell::Number(_) => Err(Reject::DATE),
        _ => Err(Reject::TYPE),
    }
}

fn micros(cell: Cell<'_>, reads: FieldReads) -> Result<i64, Reject> {
    match cell {
        Cell::Text(text) => micros_of_text(text, reads),
        Cell::Untyped(text) => micros_of_text(text.trim(), reads),
        Cell::Micros(micros) => time::in_range(micros),
        Cell::Naive(micros) => time::in_zone(micros, reads.zone),
        Cell::Days(days) => {
            let midnight = time::midnight(time::in_days(days).map_err(|_| Reject::YEARS)?);
            time::in_zone(midnight, reads.zone)
        }
        // Seconds, milliseconds or microseconds? A guess would be wrong by a factor of a thousand, silently.
        Cell::Number(_)
        | Cell::Int(_)
        | Cell::Single(_)
        | Cell::Double(_)
        | Cell::Decimal(_, _) => {
            let unit = reads.epoch.ok_or(match cell {
                Cell::Number(_) | Cell::Int(_) => Reject::EPOCH,
                _ => Reject::TYPE,
            })?;
            time::since_epoch(decimal(cell, 38, unit.nano_digits())?)
        }
        _ => Err(Reject::TYPE),
    }
}

/// A text of a number is one where the field counts from 1970; no time is written as a number.
fn micros_of_text(text: &str, reads: FieldReads) -> Result<i64, Reject> {
    let time = time::timestamp(text.as_bytes(), reads.zone);
    match reads.epoch {
        Some(unit) if time == Err(Reject::TIMESTAMP) => {
            match number::exact(text.as_bytes(), unit.nano_digits()) {
                Ok(nanos) => time::since_epoch(nanos),
                Err(reject) if reject == Reject::TYPE => time,
                Err(reject) => Err(reject),
            }
        }
        _ => time,
    }
}
