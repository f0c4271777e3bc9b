//! What clients send for parameters, as expressions of a statement. Owns how the bytes of a type are
//! read; a value that is no value of its type is an error that names the parameter.

use anabranch_shared::{Error, Result};
use arrow::datatypes::DataType;
use bytes::{Buf, Bytes};
use chrono::NaiveTime;
use datafusion::sql::sqlparser::ast::Expr;

use super::cells::{Form, date_text, day_us, time_text};
use super::types::{self, ColumnType, PgType};
use crate::parameters::{list, literal};
use crate::spellings::arrays::items;

/// The items that a list may have.
const MOST_ITEMS: usize = 1_000_000;

/// A parameter's value as an expression of our type.
///
/// # Errors
/// `Invalid` where the bytes are no value of the type.
pub(super) fn expression(
    nth: usize,
    column_type: ColumnType,
    data_type: &DataType,
    form: Form,
    value: Option<&Bytes>,
) -> Result<Expr> {
    let wrong = |why: String| {
        Error::Invalid(format!(
            "parameter ${nth} is no {}: {why}",
            column_type.sql()
        ))
    };
    let Some(bytes) = value else {
        return Ok(crate::parameters::null_of(data_type));
    };
    match (column_type.is_list, form) {
        (false, form) => {
            let text = match form {
                Form::Text => from_text(column_type.item, utf8(bytes).map_err(wrong)?),
                Form::Binary => from_binary(column_type.item, bytes.clone()),
            };
            let text = text.map_err(wrong)?;
            let exact = (column_type.item == types::NUMERIC).then(|| number_type(&text));
            Ok(literal(exact.as_ref().unwrap_or(data_type), Some(&text)))
        }
        (true, form) => {
            let items = match form {
                Form::Text => list_from_text(column_type.item, utf8(bytes).map_err(wrong)?),
                Form::Binary => list_from_binary(column_type.item, bytes.clone()),
            };
            let item = match data_type {
                DataType::List(item) => item.data_type().clone(),
                other => other.clone(),
            };
            Ok(list(&item, &items.map_err(wrong)?))
        }
    }
}

/// Reads a value as each type in each form.
pub(super) fn each_type(value: Option<&Bytes>) {
    for item in types::ALL {
        for (is_list, form) in [
            (false, Form::Text),
            (false, Form::Binary),
            (true, Form::Text),
            (true, Form::Binary),
        ] {
            let of = ColumnType {
                item: *item,
                is_list,
            };
            let ours = types::arrow_type(*item).unwrap_or(DataType::Utf8);
            // What is no value of the type is an error, and nothing more.
            expression(1, of, &ours, form, value).ok();
        }
    }
}

/// The type that holds all digits of a number.
fn number_type(text: &str) -> DataType {
    let digits = text.trim_start_matches(['-', '+']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = whole.len() + fraction.len();
    let is_plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') && all > 0;
    match (is_plain, all, i8::try_from(fraction.len())) {
        (true, ..=38, Ok(scale)) => DataType::Decimal128(38, scale),
        (true, ..=76, Ok(scale)) => DataType::Decimal256(76, scale),
        _ => DataType::Float64,
    }
}

/// What is wrong with a value, in words.
type Read<T> = std::result::Result<T, String>;

fn utf8(bytes: &Bytes) -> Read<&str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not valid UTF-8".to_owned())?;
    match text.contains('\0') {
        true => Err("text may hold no zero byte".to_owned()),
        false => Ok(text),
    }
}

/// A value in text, as the engine reads it.
fn from_text(item: PgType, text: &str) -> Read<String> {
    let number = |read: Option<()>| match read {
        Some(()) => Ok(text.trim().to_owned()),
        None => Err(format!("`{text}`")),
    };
    match item {
        types::BOOL => match text.trim().to_ascii_lowercase().as_str() {
            "t" | "true" | "yes" | "on" | "1" | "y" => Ok("true".to_owned()),
            "f" | "false" | "no" | "off" | "0" | "n" => Ok("false".to_owned()),
            _ => Err(format!("`{text}`")),
        },
        types::INT2 => number(text.trim().parse::<i16>().ok().map(drop)),
        types::INT4 => number(text.trim().parse::<i32>().ok().map(drop)),
        types::INT8 | types::OID => number(text.trim().parse::<i64>().ok().map(drop)),
        types::FLOAT4 | types::FLOAT8 => number(text.trim().parse::<f64>().ok().map(drop)),
        types::BYTEA => match text.strip_prefix("\\x") {
            Some(hex) => Ok(hex_of(&from_hex(hex)?)),
            None => Err("bytes are written `\\x…`".to_owned()),
        },
        _ => Ok(text.to_owned()),
    }
}

fn from_hex(hex: &str) -> Read<Vec<u8>> {
    let wrong = || "its hexadecimal digits are wrong".to_owned();
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return Err(wrong());
    }
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| wrong());
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value in binary, as a text that the engine reads.
fn from_binary(item: PgType, mut bytes: Bytes) -> Read<String> {
    let is = bytes.len();
    let sized = |size: usize| match is == size {
        true => Ok(()),
        false => Err(format!("it has {is} bytes, not {size}")),
    };
    let too_far = |e: Error| e.to_string();
    Ok(match item {
        types::BOOL => {
            sized(1)?;
            (bytes.get_u8() != 0).to_string()
        }
        types::INT2 => {
            sized(2)?;
            bytes.get_i16().to_string()
        }
        types::INT4 => {
            sized(4)?;
            bytes.get_i32().to_string()
        }
        types::OID | types::REGCLASS | types::REGTYPE | types::REGPROC => {
            sized(4)?;
            bytes.get_u32().to_string()
        }
        types::INT8 => {
            sized(8)?;
            bytes.get_i64().to_string()
        }
        types::FLOAT4 => {
            sized(4)?;
            bytes.get_f32().to_string()
        }
        types::FLOAT8 => {
            sized(8)?;
            bytes.get_f64().to_string()
        }
        types::DATE => {
            sized(4)?;
            date_text(bytes.get_i32()).map_err(too_far)?
        }
        types::TIME => {
            sized(8)?;
            let us = bytes.get_i64();
            let seconds = u32::try_from(us / 1_000_000).ok();
            let nanos = (us.rem_euclid(1_000_000) * 1_000) as u32;
            let time =
                seconds.and_then(|s| NaiveTime::from_num_seconds_from_midnight_opt(s, nanos));
            let time = time.filter(|t| day_us(*t) == us);
            time.ok_or("it is no time of a day")?
                .format("%H:%M:%S%.6f")
                .to_string()
        }
        types::TIMESTAMP => {
            sized(8)?;
            time_text(bytes.get_i64()).map_err(too_far)?
        }
        types::TIMESTAMPTZ => {
            sized(8)?;
            format!("{}+00:00", time_text(bytes.get_i64()).map_err(too_far)?)
        }
        types::INTERVAL => {
            sized(16)?;
            let (us, days, months) = (bytes.get_i64(), bytes.get_i32(), bytes.get_i32());
            format!("{months} months {days} days {us} microseconds")
        }
        types::NUMERIC => numeric(bytes)?,
        types::BYTEA => hex_of(&bytes),
        types::UUID => {
            sized(16)?;
            let hex = hex_of(&bytes);
            let part = |from: usize, to: usize| &hex[from..to];
            [
                part(0, 8),
                part(8, 12),
                part(12, 16),
                part(16, 20),
                part(20, 32),
            ]
            .join("-")
        }
        types::JSONB => match bytes.first() {
            Some(1) => utf8(&bytes.slice(1..))?.to_owned(),
            _ => return Err("it is of an unknown version".to_owned()),
        },
        _ => utf8(&bytes)?.to_owned(),
    })
}

/// A number from its groups of four digits.
fn numeric(mut bytes: Bytes) -> Read<String> {
    if bytes.len() < 8 {
        return Err("it is too short".to_owned());
    }
    let (count, weight) = (bytes.get_u16() as usize, i32::from(bytes.get_i16()));
    let (sign, scale) = (bytes.get_u16(), bytes.get_u16() as usize);
    if bytes.len() != count * 2 {
        return Err("its digits are not as many as it says".to_owned());
    }
    let sign = match sign {
        0 => "",
        0x4000 => "-",
        _ => return Err("NaN and infinities are no decimal numbers".to_owned()),
    };
    let groups: Vec<u16> = (0..count).map(|_| bytes.get_u16()).collect();
    if groups.iter().any(|group| *group > 9_999) {
        return Err("a group of its digits is too large".to_owned());
    }
    let group = |power: i32| {
        let at = usize::try_from(weight - power).ok();
        at.and_then(|at| groups.get(at)).copied().unwrap_or(0)
    };
    let whole: String = (0..=weight.max(0))
        .rev()
        .map(|p| format!("{:04}", group(p)))
        .collect();
    let whole = whole.trim_start_matches('0');
    let whole = match whole {
        "" => "0",
        whole => whole,
    };
    let behind = scale.div_ceil(4) as i32;
    let mut fraction: String = (1..=behind).map(|p| format!("{:04}", group(-p))).collect();
    fraction.truncate(scale);
    Ok(match scale {
        0 => format!("{sign}{whole}"),
        _ => format!("{sign}{whole}.{fraction}"),
    })
}

fn list_from_binary(item: PgType, mut bytes: Bytes) -> Read<Vec<Option<String>>> {
    let short = || "it is too short".to_owned();
    if bytes.len() < 12 {
        return Err(short());
    }
    let (dimensions, _, stated) = (bytes.get_i32(), bytes.get_i32(), bytes.get_u32());
    let item = types::by_oid(stated).map_or(item, |t| t.item);
    match dimensions {
        0 => return Ok(vec![]),
        1 => {}
        _ => return Err("lists of lists can't be sent".to_owned()),
    }
    if bytes.len() < 8 {
        return Err(short());
    }
    let (count, _) = (bytes.get_i32(), bytes.get_i32());
    let count = usize::try_from(count).map_err(|_| short())?;
    // Each has its length before it.
    if count > MOST_ITEMS || count > bytes.len() / 4 {
        return Err(format!("it states {count} items"));
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        if bytes.len() < 4 {
            return Err(short());
        }
        let length = bytes.get_i32();
        let value = match usize::try_from(length) {
            Err(_) => None,
            Ok(length) if length > bytes.len() => return Err(short()),
            Ok(length) => Some(from_binary(item, bytes.split_to(length))?),
        };
        items.push(value);
    }
    Ok(items)
}

/// `{1,NULL,"a b"}`.
fn list_from_text(item: PgType, text: &str) -> Read<Vec<Option<String>>> {
    let items = items(text).ok_or("a list is written `{…}`, and has no lists in it")?;
    if items.len() > MOST_ITEMS {
        return Err(format!("it has more than {MOST_ITEMS} items"));
    }
    let read = items.into_iter().map(|text| match text {
        Some(text) => from_text(item, &text).map(Some),
        None => Ok(None),
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn read(item: PgType, bytes: &[u8]) -> Read<String> {
        from_binary(item, Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn binary_values_are_read_and_checked() {
        assert_eq!(read(types::INT8, &(-5_i64).to_be_bytes()).unwrap(), "-5");
        assert_eq!(read(types::BOOL, &[1]).unwrap(), "true");
        assert!(read(types::INT8, &[1]).is_err());
        let numeric = [0, 3, 0, 1, 0, 0, 0, 2, 0, 1, 9, 41, 26, 44];
        assert_eq!(read(types::NUMERIC, &numeric).unwrap(), "12345.67");
        let small = [0, 1, 255, 255, 64, 0, 0, 2, 1, 244];
        assert_eq!(read(types::NUMERIC, &small).unwrap(), "-0.05");
        assert_eq!(
            read(types::NUMERIC, &[0, 0, 0, 0, 0, 0, 0, 2]).unwrap(),
            "0.00"
        );
        assert!(read(types::NUMERIC, &[0, 9, 0, 0, 0, 0, 0, 2]).is_err());
        assert_eq!(
            read(types::TIMESTAMPTZ, &0_i64.to_be_bytes()).unwrap(),
            "2000-01-01T00:00:00.000000+00:00"
        );
        assert!(read(types::TIMESTAMPTZ, &i64::MAX.to_be_bytes()).is_err());
        assert_eq!(
            read(types::DATE, &(-1_i32).to_be_bytes()).unwrap(),
            "1999-12-31"
        );
        assert_eq!(
            read(types::TIME, &1_500_000_i64.to_be_bytes()).unwrap(),
            "00:00:01.500000"
        );
        assert!(read(types::TIME, &(-1_i64).to_be_bytes()).is_err());
    }

    #[test]
    fn lists_are_read_in_both_forms() {
        let read = |text| list_from_text(types::TEXT, text);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("{}").unwrap(), []);
        assert_eq!(
            read(r#"{a, NULL ,"b,\"c\"","NULL",""}"#).unwrap(),
            [some("a"), None, some("b,\"c\""), some("NULL"), some("")]
        );
        assert_eq!(read(r#"{"a",b}"#).unwrap(), [some("a"), some("b")]);
        for wrong in ["a", "{{1}}", "{\"a}", "{\"a\"b}"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(list_from_text(types::INT4, "{1,x}").is_err());
        let mut list = [1, 0, 20, 2, 1].map(i32::to_be_bytes).concat();
        list.extend(8_i32.to_be_bytes());
        list.extend(7_i64.to_be_bytes());
        list.extend((-1_i32).to_be_bytes());
        let bytes = Bytes::from(list.clone());
        assert_eq!(
            list_from_binary(types::INT8, bytes).unwrap(),
            [some("7"), None]
        );
        for end in 0..list.len() {
            let short = Bytes::copy_from_slice(&list[..end]);
            assert!(list_from_binary(types::INT8, short).is_err(), "{end}");
        }
    }
}
