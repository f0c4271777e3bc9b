//! Values of ours as PostgreSQL writes them, in text and in binary. Sources of the forms: the `*out`
//! and `*send` functions of `src/backend/utils/adt`, with DateStyle ISO, IntervalStyle postgres,
//! bytea_output hex and shortest floating-point digits. Times are in UTC, those of another zone as its
//! clocks show them.

use std::sync::Arc;

use anabranch_shared::{Error, Result};
use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DecimalType, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use chrono::{DateTime, Datelike, NaiveDate, Timelike};

use super::types::{self, ColumnType, column_type};

/// Microseconds and days from 1970 to 2000, from which PostgreSQL counts.
const EPOCH_US: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

const DAY_US: i64 = 86_400_000_000;

/// In which form values go over the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    #[default]
    Text,
    Binary,
}

impl Form {
    /// By the code of the protocol.
    pub(super) fn of(code: i16) -> Result<Self> {
        match code {
            0 => Ok(Self::Text),
            1 => Ok(Self::Binary),
            other => Err(Error::Invalid(format!(
                "there is no format {other}; 0 is text and 1 is binary"
            ))),
        }
    }

    pub(super) fn code(self) -> i16 {
        match self {
            Self::Text => 0,
            Self::Binary => 1,
        }
    }
}

/// A column of a batch, ready to be written.
pub(super) struct Cells {
    column_type: ColumnType,
    values: ArrayRef,
    /// Of structures: each row as JSON.
    json: Option<Vec<String>>,
    /// Whether its lists are vectors.
    is_vector: bool,
}

impl Cells {
    /// A column of a field.
    pub(super) fn of(field: &Field, column: &ArrayRef) -> Result<Self> {
        let is_vector = field.extension_type_name() == Some(types::VECTOR);
        Ok(Self {
            is_vector,
            ..Self::new(column)?
        })
    }

    fn new(column: &ArrayRef) -> Result<Self> {
        let column = &as_clocks_show(column)?;
        let column_type = column_type(column.data_type());
        let json = match column_type.item == types::JSON {
            true => Some(as_json(column)?),
            false => None,
        };
        let values = match (&json, column_type.is_list) {
            (Some(_), _) => column.clone(),
            (None, true) => {
                let item = plain_type(item_type(column.data_type()));
                cast(column, &crate::parameters::list_of(&item))?
            }
            (None, false) => cast(column, &plain_type(column.data_type()))?,
        };
        Ok(Self {
            column_type,
            values,
            json,
            is_vector: false,
        })
    }

    pub(super) fn is_null(&self, row: usize) -> bool {
        self.values.is_null(row) || *self.values.data_type() == DataType::Null
    }

    /// Writes a row's value, which is not NULL.
    pub(super) fn write(&self, row: usize, form: Form, out: &mut Vec<u8>) -> Result<()> {
        if let Some(json) = &self.json {
            if let Some(text) = json.get(row) {
                out.extend_from_slice(text.as_bytes());
            }
            return Ok(());
        }
        match (self.column_type.is_list, form) {
            (false, Form::Text) => text(&self.values, row, out),
            (false, Form::Binary) => binary(&self.values, row, out),
            (true, form) => {
                let items = self.values.as_list::<i32>().value(row);
                let item = self.column_type.item.oid;
                match (form, self.is_vector) {
                    (Form::Text, false) => list_text(&items, out),
                    (Form::Text, true) => vector_text(&items, out),
                    (Form::Binary, false) => list_binary(&items, (item, 1), out),
                    (Form::Binary, true) => list_binary(&items, (item, 0), out),
                }
            }
        }
    }
}

/// Times of a zone as its clocks show them, alone or in lists; whatever else as it is.
fn as_clocks_show(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Timestamp(_, Some(zone)) if !types::is_utc(zone) => {
            let zone: Tz = zone.parse()?;
            let type_there = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
            let times = cast(column, &type_there)?;
            let times = times.as_primitive::<TimestampMicrosecondType>();
            let shown = |us: i64| {
                let at = DateTime::from_timestamp_micros(us).ok_or_else(out_of_range)?;
                let local = at.with_timezone(&zone).naive_local();
                Ok::<_, ArrowError>(local.and_utc().timestamp_micros())
            };
            let shown: TimestampMicrosecondArray = times.try_unary(shown)?;
            Arc::new(shown)
        }
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            let items = as_clocks_show(list.values())?;
            let item = Field::new("item", items.data_type().clone(), true);
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Arc::new(ListArray::try_new(Arc::new(item), offsets, items, nulls)?)
        }
        _ => column.clone(),
    })
}

fn out_of_range() -> ArrowError {
    ArrowError::ComputeError("a time is out of range".to_owned())
}

fn item_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            item.data_type()
        }
        other => other,
    }
}

/// One type for each of PostgreSQL's, so that there is one way to write each.
fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::Float16 => DataType::Float32,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Interval(_) | DataType::Duration(_) => {
            DataType::Interval(IntervalUnit::MonthDayNano)
        }
        other => other.clone(),
    }
}

/// Each row of a column as JSON.
fn as_json(column: &ArrayRef) -> Result<Vec<String>> {
    const BEFORE: &str = "{\"v\":";
    let rows = RecordBatch::try_from_iter_with_nullable([("v", column.clone(), true)])?;
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, LineDelimited>(Vec::new());
    writer.write(&rows)?;
    writer.finish()?;
    let text = String::from_utf8(writer.into_inner())
        .map_err(|e| Error::Internal(format!("JSON that is no text: {e}")))?;
    let value = |line: &str| {
        let value = line.strip_prefix(BEFORE)?.strip_suffix('}')?;
        Some(value.to_owned())
    };
    // A line break within a text is escaped.
    let values: Option<Vec<String>> = text.lines().map(value).collect();
    match values {
        Some(values) if values.len() == column.len() => Ok(values),
        _ => Err(Error::Internal(
            "a column has other rows as JSON".to_owned(),
        )),
    }
}

fn no_form(data_type: &DataType) -> Error {
    Error::Internal(format!("no form for {data_type}"))
}

fn text(values: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<()> {
    use std::io::Write;
    let written = match values.data_type() {
        DataType::Boolean => {
            out.push(match values.as_boolean().value(row) {
                true => b't',
                false => b'f',
            });
            return Ok(());
        }
        DataType::Utf8 => {
            out.extend_from_slice(values.as_string::<i32>().value(row).as_bytes());
            return Ok(());
        }
        DataType::Binary => {
            out.extend_from_slice(b"\\x");
            let bytes = values.as_binary::<i32>().value(row);
            bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
        }
        DataType::Int16 => write!(out, "{}", values.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => write!(out, "{}", values.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => write!(out, "{}", values.as_primitive::<Int64Type>().value(row)),
        DataType::UInt32 => write!(out, "{}", values.as_primitive::<UInt32Type>().value(row)),
        DataType::Float32 => {
            let value = values.as_primitive::<Float32Type>().value(row);
            let text = float_text(format!("{value:e}"), 6);
            write!(out, "{text}")
        }
        DataType::Float64 => {
            let value = values.as_primitive::<Float64Type>().value(row);
            let text = float_text(format!("{value:e}"), 15);
            write!(out, "{text}")
        }
        DataType::Date32 => {
            write_date(
                i64::from(values.as_primitive::<Date32Type>().value(row)),
                out,
            )?;
            Ok(())
        }
        DataType::Time64(_) => {
            write_time(
                values.as_primitive::<Time64MicrosecondType>().value(row),
                out,
            );
            Ok(())
        }
        DataType::Timestamp(_, zone) => {
            let us = values.as_primitive::<TimestampMicrosecondType>().value(row);
            let time = DateTime::from_timestamp_micros(us).ok_or_else(|| far_off(us))?;
            let year = write_day(time.date_naive(), out);
            out.push(b' ');
            write_time(us.rem_euclid(DAY_US), out);
            if zone.is_some() {
                out.extend_from_slice(b"+00");
            }
            write_era(year, out);
            Ok(())
        }
        DataType::Interval(_) => {
            let value = values.as_primitive::<IntervalMonthDayNanoType>().value(row);
            write_interval(value.months, value.days, value.nanoseconds / 1_000, out);
            Ok(())
        }
        _ => match number_text(values, row) {
            Some(text) => write!(out, "{text}"),
            None => return Err(no_form(values.data_type())),
        },
    };
    written.map_err(|e| Error::Internal(e.to_string()))
}

/// A number of many digits.
fn number_text(values: &ArrayRef, row: usize) -> Option<String> {
    fn decimal<T: DecimalType>(values: &ArrayRef, row: usize, scale: i8) -> String {
        let precision = T::MAX_PRECISION;
        T::format_decimal(values.as_primitive::<T>().value(row), precision, scale)
    }
    Some(match values.data_type() {
        DataType::UInt64 => values.as_primitive::<UInt64Type>().value(row).to_string(),
        DataType::Decimal32(_, scale) => decimal::<Decimal32Type>(values, row, *scale),
        DataType::Decimal64(_, scale) => decimal::<Decimal64Type>(values, row, *scale),
        DataType::Decimal128(_, scale) => decimal::<Decimal128Type>(values, row, *scale),
        DataType::Decimal256(_, scale) => decimal::<Decimal256Type>(values, row, *scale),
        _ => return None,
    })
}

/// Shortest digits as PostgreSQL lays them out: with an exponent below -4 and from `digits` on.
fn float_text(shortest: String, digits: i32) -> String {
    let Some((mantissa, exponent)) = shortest.split_once('e') else {
        return match shortest.as_str() {
            "inf" => "Infinity".to_owned(),
            "-inf" => "-Infinity".to_owned(),
            other => other.to_owned(),
        };
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    let all = mantissa.replace('.', "");
    if exponent < -4 || exponent >= digits {
        let e = match exponent < 0 {
            true => '-',
            false => '+',
        };
        return format!("{sign}{mantissa}e{e}{:02}", exponent.abs());
    }
    if exponent < 0 {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return format!("{sign}0.{zeros}{all}");
    }
    let whole = exponent as usize + 1;
    match all.len() <= whole {
        true => format!("{sign}{all}{}", "0".repeat(whole - all.len())),
        false => format!("{sign}{}.{}", &all[..whole], &all[whole..]),
    }
}

fn far_off(value: i64) -> Error {
    Error::Invalid(format!(
        "the time {value} (microseconds since 1970) is too far off to be written"
    ))
}

/// Writes a day without its era, and gives its year.
fn write_day(day: NaiveDate, out: &mut Vec<u8>) -> i32 {
    let year = day.year();
    // There is no year 0: 1 BC is followed by 1 AD.
    let shown = match year > 0 {
        true => year,
        false => 1 - year,
    };
    out.extend_from_slice(format!("{shown:04}-{:02}-{:02}", day.month(), day.day()).as_bytes());
    year
}

fn write_era(year: i32, out: &mut Vec<u8>) {
    if year <= 0 {
        out.extend_from_slice(b" BC");
    }
}

fn write_date(days: i64, out: &mut Vec<u8>) -> Result<()> {
    let off = || far_off(days.saturating_mul(DAY_US));
    let time = DateTime::from_timestamp(days * 86_400, 0).ok_or_else(off)?;
    let year = write_day(time.date_naive(), out);
    write_era(year, out);
    Ok(())
}

/// A time of day, with as many digits of a second as there are.
fn write_time(us: i64, out: &mut Vec<u8>) {
    let (seconds, rest) = (us / 1_000_000, us % 1_000_000);
    let (h, m, s) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    out.extend_from_slice(format!("{h:02}:{m:02}:{s:02}").as_bytes());
    if rest != 0 {
        let digits = format!(".{rest:06}");
        out.extend_from_slice(digits.trim_end_matches('0').as_bytes());
    }
}

fn write_interval(months: i32, days: i32, us: i64, out: &mut Vec<u8>) {
    let mut parts = Vec::new();
    let mut part = |count: i32, one: &str, many: &str| {
        if count != 0 {
            let word = match count {
                1 => one,
                _ => many,
            };
            parts.push(format!("{count} {word}"));
        }
    };
    part(months / 12, "year", "years");
    part(months % 12, "mon", "mons");
    part(days, "day", "days");
    out.extend_from_slice(parts.join(" ").as_bytes());
    if us == 0 && !parts.is_empty() {
        return;
    }
    if !parts.is_empty() {
        out.push(b' ');
    }
    if us < 0 {
        out.push(b'-');
    }
    write_time(i64::try_from(us.unsigned_abs()).unwrap_or(i64::MAX), out);
}

fn binary(values: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<()> {
    match values.data_type() {
        DataType::Boolean => out.push(u8::from(values.as_boolean().value(row))),
        DataType::Utf8 => out.extend_from_slice(values.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => out.extend_from_slice(values.as_binary::<i32>().value(row)),
        DataType::Int16 => {
            out.extend(values.as_primitive::<Int16Type>().value(row).to_be_bytes());
        }
        DataType::Int32 => {
            out.extend(values.as_primitive::<Int32Type>().value(row).to_be_bytes());
        }
        DataType::Int64 => {
            out.extend(values.as_primitive::<Int64Type>().value(row).to_be_bytes());
        }
        DataType::UInt32 => {
            out.extend(values.as_primitive::<UInt32Type>().value(row).to_be_bytes());
        }
        DataType::Float32 => {
            out.extend(
                values
                    .as_primitive::<Float32Type>()
                    .value(row)
                    .to_be_bytes(),
            );
        }
        DataType::Float64 => {
            out.extend(
                values
                    .as_primitive::<Float64Type>()
                    .value(row)
                    .to_be_bytes(),
            );
        }
        DataType::Date32 => {
            let days = values.as_primitive::<Date32Type>().value(row);
            let off = || far_off(i64::from(days).saturating_mul(DAY_US));
            let days = days.checked_sub(EPOCH_DAYS).ok_or_else(off)?;
            out.extend(days.to_be_bytes());
        }
        DataType::Time64(_) => {
            let us = values.as_primitive::<Time64MicrosecondType>().value(row);
            out.extend(us.to_be_bytes());
        }
        DataType::Timestamp(..) => {
            let us = values.as_primitive::<TimestampMicrosecondType>().value(row);
            let us = us.checked_sub(EPOCH_US).ok_or_else(|| far_off(us))?;
            out.extend(us.to_be_bytes());
        }
        DataType::Interval(_) => {
            let value = values.as_primitive::<IntervalMonthDayNanoType>().value(row);
            out.extend((value.nanoseconds / 1_000).to_be_bytes());
            out.extend(value.days.to_be_bytes());
            out.extend(value.months.to_be_bytes());
        }
        other => match number_text(values, row) {
            Some(text) => number_binary(&text, out),
            None => return Err(no_form(other)),
        },
    }
    Ok(())
}

/// A number as groups of four decimal digits.
fn number_binary(text: &str, out: &mut Vec<u8>) {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = fraction.len();
    let whole = whole.trim_start_matches('0');
    let front = (4 - whole.len() % 4) % 4;
    let back = (4 - scale % 4) % 4;
    let padded = format!("{}{whole}{fraction}{}", "0".repeat(front), "0".repeat(back));
    let mut groups: Vec<i16> = padded
        .as_bytes()
        .chunks(4)
        .map(|four| four.iter().fold(0, |n, d| n * 10 + i16::from(d - b'0')))
        .collect();
    // Of which power of 10,000 the first group is.
    let mut weight = ((whole.len() + front) / 4) as i16 - 1;
    while groups.first() == Some(&0) {
        groups.remove(0);
        weight -= 1;
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    if groups.is_empty() {
        weight = 0;
    }
    let is_negative = is_negative && !groups.is_empty();
    out.extend((groups.len() as i16).to_be_bytes());
    out.extend(weight.to_be_bytes());
    out.extend(match is_negative {
        true => 0x4000_u16.to_be_bytes(),
        false => [0, 0],
    });
    out.extend((scale as u16).to_be_bytes());
    groups
        .iter()
        .for_each(|group| out.extend(group.to_be_bytes()));
}

fn list_text(items: &ArrayRef, out: &mut Vec<u8>) -> Result<()> {
    out.push(b'{');
    let mut item = Vec::new();
    for row in 0..items.len() {
        if row > 0 {
            out.push(b',');
        }
        if items.is_null(row) {
            out.extend_from_slice(b"NULL");
            continue;
        }
        item.clear();
        text(items, row, &mut item)?;
        let is_plain = !item.is_empty()
            && !item.eq_ignore_ascii_case(b"null")
            && !item
                .iter()
                .any(|b| b"{}\",\\".contains(b) || b.is_ascii_whitespace());
        if is_plain {
            out.extend_from_slice(&item);
            continue;
        }
        out.push(b'"');
        for byte in &item {
            if b"\"\\".contains(byte) {
                out.push(b'\\');
            }
            out.push(*byte);
        }
        out.push(b'"');
    }
    out.push(b'}');
    Ok(())
}

fn vector_text(items: &ArrayRef, out: &mut Vec<u8>) -> Result<()> {
    for row in 0..items.len() {
        if row > 0 {
            out.push(b' ');
        }
        text(items, row, out)?;
    }
    Ok(())
}

/// A list whose items are of a type and counted from a number.
fn list_binary(items: &ArrayRef, (oid, first): (u32, i32), out: &mut Vec<u8>) -> Result<()> {
    let dimensions = i32::from(!items.is_empty());
    out.extend(dimensions.to_be_bytes());
    out.extend(i32::from(items.null_count() > 0).to_be_bytes());
    out.extend(oid.to_be_bytes());
    if items.is_empty() {
        return Ok(());
    }
    out.extend(length(items.len())?);
    out.extend(first.to_be_bytes());
    for row in 0..items.len() {
        if items.is_null(row) {
            out.extend((-1_i32).to_be_bytes());
            continue;
        }
        counted(out, |out| binary(items, row, out))?;
    }
    Ok(())
}

/// Writes a value with its length before it.
pub(super) fn counted(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    let at = out.len();
    out.extend([0; 4]);
    write(out)?;
    let written = length(out.len() - at - 4)?;
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&written);
    }
    Ok(())
}

fn length(bytes: usize) -> Result<[u8; 4]> {
    let length = i32::try_from(bytes).map_err(|_| {
        Error::NoRoom("a value has more than 2 GB, which the protocol has no room for".to_owned())
    })?;
    Ok(length.to_be_bytes())
}

/// The time of a day as microseconds, for parameters.
pub(super) fn day_us(time: chrono::NaiveTime) -> i64 {
    i64::from(time.num_seconds_from_midnight()) * 1_000_000 + i64::from(time.nanosecond() / 1_000)
}

/// Microseconds since 1970 as a text that every reader of times knows.
pub(super) fn time_text(us_since_2000: i64) -> Result<String> {
    let off = || far_off(us_since_2000);
    let us = us_since_2000.checked_add(EPOCH_US).ok_or_else(off)?;
    let time = DateTime::from_timestamp_micros(us).ok_or_else(off)?;
    Ok(time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string())
}

/// A day as text, for parameters.
pub(super) fn date_text(days_since_2000: i32) -> Result<String> {
    let seconds = (i64::from(days_since_2000) + i64::from(EPOCH_DAYS)) * 86_400;
    let time = DateTime::from_timestamp(seconds, 0).ok_or_else(|| far_off(seconds))?;
    Ok(time.format("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, Decimal128Array, Float32Array, Float64Array, Int64Array,
        IntervalMonthDayNanoArray, StringArray, StructArray, UInt64Array,
    };
    use arrow::datatypes::IntervalMonthDayNano;

    use super::*;

    fn texts(column: ArrayRef) -> Vec<String> {
        let cells = Cells::new(&column).unwrap();
        let text = |row| {
            let mut out = Vec::new();
            cells.write(row, Form::Text, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        (0..column.len()).map(text).collect()
    }

    fn bytes(column: ArrayRef) -> Vec<Vec<u8>> {
        let cells = Cells::new(&column).unwrap();
        let bytes = |row| {
            let mut out = Vec::new();
            cells.write(row, Form::Binary, &mut out).unwrap();
            out
        };
        (0..column.len()).map(bytes).collect()
    }

    /// As PostgreSQL 15 writes the same values.
    #[test]
    fn text_is_as_postgresql_writes_it() {
        let floats = [
            0.0,
            -0.0,
            1.0,
            0.1,
            1e15,
            123456789012345.0,
            1e14,
            1e-4,
            1e-5,
            -2.5e-7,
            1.5e300,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ];
        assert_eq!(
            texts(Arc::new(Float64Array::from(floats.to_vec()))),
            [
                "0",
                "-0",
                "1",
                "0.1",
                "1e+15",
                "123456789012345",
                "100000000000000",
                "0.0001",
                "1e-05",
                "-2.5e-07",
                "1.5e+300",
                "NaN",
                "Infinity",
                "-Infinity",
            ]
        );
        let floats = Float32Array::from(vec![1e5, 1e6, 0.1, 16777216.0]);
        assert_eq!(
            texts(Arc::new(floats)),
            ["100000", "1e+06", "0.1", "1.6777216e+07"]
        );
        let times = TimestampMicrosecondArray::from(vec![
            0,
            1_500_000,
            -1,
            -62_135_596_800_000_000,
            -62_135_596_800_000_001,
        ]);
        assert_eq!(
            texts(Arc::new(times.clone().with_timezone("UTC"))),
            [
                "1970-01-01 00:00:00+00",
                "1970-01-01 00:00:01.5+00",
                "1969-12-31 23:59:59.999999+00",
                "0001-01-01 00:00:00+00",
                "0001-12-31 23:59:59.999999+00 BC",
            ]
        );
        assert_eq!(texts(Arc::new(times))[1], "1970-01-01 00:00:01.5");
        let interval = |months, days, nanos| IntervalMonthDayNano::new(months, days, nanos);
        let intervals = IntervalMonthDayNanoArray::from(vec![
            interval(14, 3, 4_500_000_000),
            interval(0, 0, 0),
            interval(0, 1, -1_000_000_000),
            interval(-1, 0, 0),
        ]);
        assert_eq!(
            texts(Arc::new(intervals)),
            [
                "1 year 2 mons 3 days 00:00:04.5",
                "00:00:00",
                "1 day -00:00:01",
                "-1 mons"
            ]
        );
        let raw = BinaryArray::from_vec(vec![b"\x00\xff", b""]);
        assert_eq!(texts(Arc::new(raw)), ["\\x00ff", "\\x"]);
        let wide = UInt64Array::from(vec![u64::MAX]);
        assert_eq!(texts(Arc::new(wide)), ["18446744073709551615"]);
    }

    #[test]
    fn lists_and_structures_have_a_form() {
        let words = StringArray::from(vec![
            Some("a"),
            None,
            Some("b \"c\""),
            Some(""),
            Some("null"),
        ]);
        let list = ListArray::try_new(
            Arc::new(Field::new("item", DataType::Utf8, true)),
            arrow::buffer::OffsetBuffer::from_lengths([5]),
            Arc::new(words),
            None,
        )
        .unwrap();
        assert_eq!(texts(Arc::new(list)), [r#"{a,NULL,"b \"c\"","","null"}"#]);
        let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let field = Arc::new(Field::new("n", DataType::Int64, true));
        let pair: ArrayRef = Arc::new(StructArray::from(vec![(field, number)]));
        assert_eq!(texts(pair), [r#"{"n":1}"#, r#"{"n":null}"#]);
    }

    #[test]
    fn numbers_are_groups_of_four_digits() {
        let decimals = |values: Vec<i128>, scale| -> ArrayRef {
            let all = Decimal128Array::from(values);
            Arc::new(all.with_precision_and_scale(38, scale).unwrap())
        };
        assert_eq!(
            texts(decimals(vec![1_234_567, -5, 0], 2)),
            ["12345.67", "-0.05", "0.00"]
        );
        let written = bytes(decimals(vec![1_234_567, -5, 0, 100_000_000], 2));
        // Groups, weight, sign, scale, and the groups.
        assert_eq!(written[0], [0, 3, 0, 1, 0, 0, 0, 2, 0, 1, 9, 41, 26, 44]);
        assert_eq!(written[1], [0, 1, 255, 255, 64, 0, 0, 2, 1, 244]);
        assert_eq!(written[2], [0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(written[3], [0, 1, 0, 1, 0, 0, 0, 2, 0, 100]);
    }

    #[test]
    fn times_of_a_zone_are_shown_as_there() {
        let at = 1_767_323_045_678_901;
        let times = TimestampMicrosecondArray::from(vec![Some(at), None]);
        let berlin: ArrayRef = Arc::new(times.clone().with_timezone("Europe/Berlin"));
        assert_eq!(column_type(berlin.data_type()).oid(), types::TIMESTAMP.oid);
        assert_eq!(texts(berlin)[0], "2026-01-02 04:04:05.678901");
        let utc: ArrayRef = Arc::new(times.with_timezone("UTC"));
        assert_eq!(column_type(utc.data_type()).oid(), types::TIMESTAMPTZ.oid);
        assert_eq!(texts(utc)[0], "2026-01-02 03:04:05.678901+00");
    }

    #[test]
    fn vectors_are_written_without_braces() {
        let lists = ListArray::from_iter_primitive::<Int16Type, _, _>([Some([Some(1), Some(3)])]);
        let column: ArrayRef = Arc::new(lists);
        let named = [("ARROW:extension:name".to_owned(), types::VECTOR.to_owned())];
        let field = Field::new("indkey", column.data_type().clone(), true);
        let field = field.with_metadata(named.into());
        assert_eq!(types::column_type_of(&field), types::by_oid(22).unwrap());
        let cells = Cells::of(&field, &column).unwrap();
        let mut out = Vec::new();
        cells.write(0, Form::Text, &mut out).unwrap();
        assert_eq!(out, b"1 3");
    }

    #[test]
    fn times_are_counted_from_2000() {
        let times = TimestampMicrosecondArray::from(vec![EPOCH_US, EPOCH_US - 1]);
        let written = bytes(Arc::new(times));
        assert_eq!(written, [0_i64.to_be_bytes(), (-1_i64).to_be_bytes()]);
        let far = TimestampMicrosecondArray::from(vec![i64::MIN]);
        let column: ArrayRef = Arc::new(far);
        let cells = Cells::new(&column).unwrap();
        assert!(cells.write(0, Form::Binary, &mut Vec::new()).is_err());
        assert!(cells.write(0, Form::Text, &mut Vec::new()).is_err());
    }
}
