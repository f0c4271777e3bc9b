//! Owns the text of one value: for reading (tables) and for machines (the leaves of CSV and JSON).

use std::fmt::{Debug, Write};

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float16Type, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, SecondsFormat, Utc};

/// Appends the text of the value at an index. NULL is the caller's to handle, except inside a list,
/// struct or map.
pub type Show<'a> = Box<dyn Fn(usize, &mut String) + 'a>;

/// For whom the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A person: everything escaped that could break a line or the terminal.
    Person,
    /// A program: RFC 3339, base64, text as it is.
    Program,
}

/// The column without dictionary or run-end encoding, which only matter in memory.
pub fn plain(column: &ArrayRef) -> ArrayRef {
    let target = match column.data_type() {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        DataType::RunEndEncoded(_, values) => values.data_type().clone(),
        _ => return column.clone(),
    };
    // The encoded form has a text too, so a cast that Arrow lacks is no reason to fail.
    cast(column, &target).unwrap_or_else(|_| column.clone())
}

/// Whether a table aligns the type to the right.
pub fn is_number(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_number(values),
        DataType::RunEndEncoded(_, values) => is_number(values.data_type()),
        other => other.is_numeric(),
    }
}

/// Whether cutting the text of the type would make it a wrong value instead of a shorter one.
pub fn is_rigid(data_type: &DataType) -> bool {
    is_number(data_type) || data_type.is_temporal() || data_type == &DataType::Boolean
}

/// How to write the values of `array`.
pub fn show<'a>(array: &'a dyn Array, reader: Reader) -> Result<Show<'a>, ArrowError> {
    make(array, reader, false)
}

fn make<'a>(array: &'a dyn Array, reader: Reader, nested: bool) -> Result<Show<'a>, ArrowError> {
    Ok(match array.data_type() {
        DataType::Null => Box::new(|_, text| text.push_str("NULL")),
        DataType::Float16 => {
            let values = array.as_primitive::<Float16Type>();
            Box::new(move |row, text| push_float(text, values.value(row).to_f32()))
        }
        DataType::Float32 => {
            let values = array.as_primitive::<Float32Type>();
            Box::new(move |row, text| push_float(text, values.value(row)))
        }
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>();
            Box::new(move |row, text| push_float(text, values.value(row)))
        }
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            Box::new(move |row, text| push_text(text, values.value(row), reader, nested))
        }
        DataType::LargeUtf8 => {
            let values = array.as_string::<i64>();
            Box::new(move |row, text| push_text(text, values.value(row), reader, nested))
        }
        DataType::Utf8View => {
            let values = array.as_string_view();
            Box::new(move |row, text| push_text(text, values.value(row), reader, nested))
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>();
            Box::new(move |row, text| push_bytes(text, values.value(row), reader))
        }
        DataType::LargeBinary => {
            let values = array.as_binary::<i64>();
            Box::new(move |row, text| push_bytes(text, values.value(row), reader))
        }
        DataType::BinaryView => {
            let values = array.as_binary_view();
            Box::new(move |row, text| push_bytes(text, values.value(row), reader))
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            Box::new(move |row, text| push_bytes(text, values.value(row), reader))
        }
        DataType::Timestamp(unit, zone) => timestamp(array, *unit, zone.as_deref(), reader),
        data_type if data_type.is_nested() => make_nested(array, reader)?,
        _ => other(array, reader)?,
    })
}

/// Values that hold other values.
fn make_nested<'a>(array: &'a dyn Array, reader: Reader) -> Result<Show<'a>, ArrowError> {
    Ok(match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            many(list.values().as_ref(), offsets(list.offsets()), reader)?
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let offsets = list.offsets();
            let bounds = move |row: usize| (offsets[row] as usize, offsets[row + 1] as usize);
            many(list.values().as_ref(), bounds, reader)?
        }
        DataType::FixedSizeList(_, _) => {
            let list: &FixedSizeListArray = array.as_fixed_size_list();
            let length = usize::try_from(list.value_length()).unwrap_or(0);
            many(
                list.values().as_ref(),
                move |row| (row * length, (row + 1) * length),
                reader,
            )?
        }
        DataType::Struct(fields) => {
            let parts = array.as_struct();
            let mut shows = Vec::with_capacity(fields.len());
            for (field, column) in fields.iter().zip(parts.columns()) {
                shows.push((field.name(), element(column.as_ref(), reader)?));
            }
            Box::new(move |row, text| {
                text.push('{');
                for (index, (name, show)) in shows.iter().enumerate() {
                    text.push_str(if index == 0 { "" } else { ", " });
                    push_escaped(text, name);
                    text.push_str(": ");
                    show(row, text);
                }
                text.push('}');
            })
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            let bounds = offsets(map.offsets());
            let keys = element(map.keys().as_ref(), reader)?;
            let values = element(map.values().as_ref(), reader)?;
            Box::new(move |row, text| {
                let (start, end) = bounds(row);
                text.push('{');
                for entry in start..end {
                    text.push_str(if entry == start { "" } else { ", " });
                    keys(entry, text);
                    text.push_str(": ");
                    values(entry, text);
                }
                text.push('}');
            })
        }
        _ => other(array, reader)?,
    })
}

/// Whatever Arrow's own text suits: integers, decimals, booleans, dates, times, intervals, unions.
fn other<'a>(array: &'a dyn Array, reader: Reader) -> Result<Show<'a>, ArrowError> {
    let options = FormatOptions::new()
        .with_null("NULL")
        .with_display_error(true);
    let formatter = ArrayFormatter::try_new(array, &options)?;
    Ok(Box::new(move |row, text| {
        let value = formatter.value(row).to_string();
        match reader {
            Reader::Person => push_escaped(text, &value),
            Reader::Program => text.push_str(&value),
        }
    }))
}

fn offsets(offsets: &OffsetBuffer<i32>) -> impl Fn(usize) -> (usize, usize) + '_ {
    // Arrow guarantees that offsets are not negative.
    move |row| (offsets[row] as usize, offsets[row + 1] as usize)
}

/// A value inside another one: NULL has a text here, and text has quotes.
fn element<'a>(array: &'a dyn Array, reader: Reader) -> Result<Show<'a>, ArrowError> {
    let show = make(array, reader, true)?;
    Ok(Box::new(move |row, text| {
        if array.is_null(row) {
            text.push_str("NULL");
        } else {
            show(row, text);
        }
    }))
}

fn many<'a>(
    values: &'a dyn Array,
    bounds: impl Fn(usize) -> (usize, usize) + 'a,
    reader: Reader,
) -> Result<Show<'a>, ArrowError> {
    let show = element(values, reader)?;
    Ok(Box::new(move |row, text| {
        let (start, end) = bounds(row);
        text.push('[');
        for index in start..end {
            text.push_str(if index == start { "" } else { ", " });
            show(index, text);
        }
        text.push(']');
    }))
}

/// Rust's `Debug` of a float is the shortest text that reads back the same, with an exponent only for
/// magnitudes from 1e16 and below 1e-4.
fn push_float<F: Debug + Into<f64> + Copy>(text: &mut String, value: F) {
    let wide: f64 = value.into();
    if wide.is_nan() {
        text.push_str("NaN");
    } else if wide.is_infinite() {
        text.push_str(if wide > 0.0 { "Infinity" } else { "-Infinity" });
    } else {
        push_fmt(text, format_args!("{value:?}"));
    }
}

fn push_text(text: &mut String, value: &str, reader: Reader, nested: bool) {
    match (reader, nested) {
        (Reader::Program, _) => text.push_str(value),
        (Reader::Person, false) => push_escaped(text, value),
        (Reader::Person, true) => {
            text.push('"');
            push_escaped(text, &value.replace('"', "\\\""));
            text.push('"');
        }
    }
}

/// Writes `value` on one line. A backslash stays one: a path or a pattern is more common in data than
/// a text in which `\n` has to be told apart from a newline.
pub fn push_escaped(text: &mut String, value: &str) {
    if !value.chars().any(needs_escape) {
        text.push_str(value);
        return;
    }
    for c in value.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if needs_escape(c) => push_fmt(text, format_args!("\\u{{{:x}}}", u32::from(c))),
            c => text.push(c),
        }
    }
}

/// A text of several lines, for a person: what comes from records, files or servers can neither move
/// the cursor nor change the terminal.
pub fn for_people(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (nth, line) in text.split('\n').enumerate() {
        if nth > 0 {
            shown.push('\n');
        }
        push_escaped(&mut shown, line);
    }
    shown
}

/// Characters that move the cursor, end the line or reorder what stands beside them.
fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_bytes(text: &mut String, bytes: &[u8], reader: Reader) {
    match reader {
        Reader::Person => {
            text.push_str("\\x");
            text.push_str(&hex::encode(bytes));
        }
        Reader::Program => push_base64(text, bytes),
    }
}

/// Base64 with padding, RFC 4648 section 4.
fn push_base64(text: &mut String, bytes: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            if digit <= chunk.len() {
                let six = (group >> (18 - 6 * digit)) & 0x3f;
                text.push(char::from(ALPHABET[six as usize]));
            } else {
                text.push('=');
            }
        }
    }
}

fn timestamp<'a>(
    array: &'a dyn Array,
    unit: TimeUnit,
    zone: Option<&'a str>,
    reader: Reader,
) -> Show<'a> {
    let values: &[i64] = match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
    };
    let zone = zone.map(Zone::parse);
    Box::new(move |row, text| {
        let value = values[row];
        let instant = match unit {
            TimeUnit::Second => DateTime::from_timestamp(value, 0),
            TimeUnit::Millisecond => DateTime::from_timestamp_millis(value),
            TimeUnit::Microsecond => DateTime::from_timestamp_micros(value),
            TimeUnit::Nanosecond => Some(DateTime::from_timestamp_nanos(value)),
        };
        match instant {
            Some(instant) => push_instant(text, instant, zone.as_ref(), reader),
            // No calendar reaches this far; the number at least is the value.
            None => push_fmt(text, format_args!("{value} {unit:?}s since 1970")),
        }
    })
}

enum Zone {
    Utc,
    Other(Tz),
}

impl Zone {
    /// A zone that this build doesn't know is shown in UTC: the instant is the same.
    fn parse(name: &str) -> Self {
        match name {
            "UTC" | "Etc/UTC" | "Z" | "+00:00" | "+00" => Self::Utc,
            other => other.parse().map_or(Self::Utc, Self::Other),
        }
    }
}

fn push_instant(text: &mut String, instant: DateTime<Utc>, zone: Option<&Zone>, reader: Reader) {
    const READABLE: &str = "%Y-%m-%d %H:%M:%S%.f";
    match (reader, zone) {
        (Reader::Person, None) => push_fmt(text, format_args!("{}", instant.format(READABLE))),
        (Reader::Person, Some(Zone::Utc)) => {
            push_fmt(text, format_args!("{} UTC", instant.format(READABLE)));
        }
        (Reader::Person, Some(Zone::Other(tz))) => {
            let local = instant.with_timezone(tz);
            push_fmt(
                text,
                format_args!("{} {}", local.format(READABLE), local.format("%:z")),
            );
        }
        (Reader::Program, None) => {
            push_fmt(
                text,
                format_args!("{}", instant.format("%Y-%m-%dT%H:%M:%S%.f")),
            );
        }
        (Reader::Program, Some(Zone::Utc)) => {
            text.push_str(&instant.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        }
        (Reader::Program, Some(Zone::Other(tz))) => {
            text.push_str(
                &instant
                    .with_timezone(tz)
                    .to_rfc3339_opts(SecondsFormat::AutoSi, true),
            );
        }
    }
}

/// Writing to a `String` can't fail, so there is no error to hand on.
fn push_fmt(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).ok();
}
