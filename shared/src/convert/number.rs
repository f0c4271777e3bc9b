//! Text to numbers, exactly: what a column can't hold without change is refused, never rounded (floats excepted).

use super::reason::Reject;

/// Exponents beyond this are out of every type's range, so they needn't be counted on.
const EXPONENT_CAP: i64 = 100_000;

/// A whole number. `1.0` and `1e3` are whole; `1.5` isn't.
pub fn integer(text: &[u8]) -> Result<i128, Reject> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    // Eighteen digits can't overflow; everything longer or stranger takes the exact way.
    if digits.is_empty() || digits.len() > 18 {
        return exact(text, 0);
    }
    let mut value: i64 = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return exact(text, 0);
        }
        value = value * 10 + i64::from(digit);
    }
    Ok(i128::from(if negative { -value } else { value }))
}

/// A double, rounded to the nearest; not the names of infinities or NaN, and not what only an infinity could hold.
pub fn double(text: &str) -> Result<f64, Reject> {
    let value: f64 = plain(text)?.parse().map_err(|_| Reject::TYPE)?;
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Reject::RANGE)
    }
}

/// The same in single precision, rounded once.
pub fn single(text: &str) -> Result<f32, Reject> {
    let value: f32 = plain(text)?.parse().map_err(|_| Reject::TYPE)?;
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Reject::RANGE)
    }
}

/// The standard parser also takes words such as `inf`; a number here has digits and number signs only.
fn plain(text: &str) -> Result<&str, Reject> {
    let number = text
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    if number { Ok(text) } else { Err(Reject::TYPE) }
}

/// `text × 10^scale` as a whole number, or why it isn't one that fits.
pub fn exact(text: &[u8], scale: i8) -> Result<i128, Reject> {
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let split = rest.iter().position(|b| matches!(b, b'e' | b'E'));
    let (significand, exponent) = match split {
        Some(at) => (&rest[..at], exponent(&rest[at + 1..])?),
        None => (rest, 0),
    };
    let mut sum = Significand::default();
    let mut digits = 0;
    let mut point: Option<i64> = None;
    for &byte in significand {
        match byte {
            b'0'..=b'9' => {
                sum.push(byte - b'0');
                digits += 1;
                point = point.map(|places| places + 1);
            }
            b'.' if point.is_none() => point = Some(0),
            _ => return Err(Reject::TYPE),
        }
    }
    if digits == 0 {
        return Err(Reject::TYPE);
    }
    let value = sum.shifted(exponent - point.unwrap_or(0) + i64::from(scale))?;
    Ok(if negative { -value } else { value })
}

/// `value / 10^from_scale × 10^scale`, where that is whole.
pub fn rescale(value: i128, from_scale: i8, scale: i8) -> Result<i128, Reject> {
    let shift = i32::from(scale) - i32::from(from_scale);
    let power = 10_i128.checked_pow(shift.unsigned_abs());
    match power {
        _ if value == 0 => Ok(0),
        Some(power) if shift >= 0 => value.checked_mul(power).ok_or(Reject::RANGE),
        Some(power) if value % power == 0 => Ok(value / power),
        None if shift >= 0 => Err(Reject::RANGE),
        _ => Err(Reject::FRACTION),
    }
}

fn exponent(text: &[u8]) -> Result<i64, Reject> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Reject::TYPE);
    }
    let value = digits.iter().fold(0_i64, |sum, b| {
        (sum * 10 + i64::from(b - b'0')).min(EXPONENT_CAP)
    });
    Ok(if negative { -value } else { value })
}

/// Digits read so far. Trailing zeros are counted, not multiplied in, so that `1.000…` of any length stays exact and a
/// remainder below the scale is always a real digit.
#[derive(Default)]
struct Significand {
    value: i128,
    zeros: u32,
    overflow: bool,
}

impl Significand {
    fn push(&mut self, digit: u8) {
        if digit == 0 {
            self.zeros = self.zeros.saturating_add(u32::from(self.value != 0));
            return;
        }
        let next = 10_i128
            .checked_pow(self.zeros + 1)
            .and_then(|power| self.value.checked_mul(power))
            .and_then(|value| value.checked_add(i128::from(digit)));
        match next {
            Some(value) => self.value = value,
            None => self.overflow = true,
        }
        self.zeros = 0;
    }

    /// The digits times `10^shift`.
    fn shifted(&self, shift: i64) -> Result<i128, Reject> {
        if self.overflow {
            return Err(Reject::RANGE);
        }
        if self.value == 0 {
            return Ok(0);
        }
        let Ok(places) = u32::try_from(shift + i64::from(self.zeros)) else {
            return Err(Reject::FRACTION);
        };
        10_i128
            .checked_pow(places)
            .and_then(|power| self.value.checked_mul(power))
            .ok_or(Reject::RANGE)
    }
}
