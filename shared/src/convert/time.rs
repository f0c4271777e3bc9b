//! Text to timestamps and dates: RFC 3339 and the few forms beside it that have one reading only.
//!
//! Accepted timestamps: `YYYY-MM-DD`, then `T`, `t` or a space and `hh:mm:ss`, then optionally `.` and one to nine
//! digits (cut, not rounded, to microseconds), then optionally `Z`, `z`, `±hh:mm`, `±hhmm` or `±hh`. Without a zone the
//! text is of the field's, UTC unless it has another; a date alone is its midnight there. Leap seconds (`:60`) have no place in epoch time and are refused.

use crate::settings::Zone;

use super::reason::Reject;

const DAY_MICROS: i64 = 86_400_000_000;
/// 1678-01-01T00:00:00Z, the first instant that nanoseconds, microseconds and Delta Lake can all hold, to the year.
pub const MIN_MICROS: i64 = days_from_civil(1678, 1, 1) * DAY_MICROS;
/// 2261-12-31T23:59:59.999999Z, the last one.
pub const MAX_MICROS: i64 = days_from_civil(2262, 1, 1) * DAY_MICROS - 1;
/// 1678-01-01: a view may turn dates into timestamps.
pub const MIN_DAYS: i32 = days_from_civil(1678, 1, 1) as i32;
/// 2261-12-31.
pub const MAX_DAYS: i32 = days_from_civil(2261, 12, 31) as i32;

/// Microseconds since the epoch. A text without a zone is of `zone`, or UTC.
pub fn timestamp(text: &[u8], zone: Option<Zone>) -> Result<i64, Reject> {
    let (micros, offset) = clock_micros(text).ok_or(Reject::TIMESTAMP)?;
    match offset {
        Some(seconds) => in_range(micros - seconds * 1_000_000),
        None => in_zone(micros, zone),
    }
}

/// The instant at which clocks in `zone`, or in UTC, show a time; both in microseconds since the epoch.
pub fn in_zone(micros: i64, zone: Option<Zone>) -> Result<i64, Reject> {
    match zone {
        Some(zone) => in_range(micros)
            .and_then(|micros| zone.instant(micros).ok_or(Reject::SKIPPED))
            .and_then(in_range),
        None => in_range(micros),
    }
}

/// Nanoseconds since the epoch as microseconds, cut towards the past as the digits of a text are.
pub fn since_epoch(nanos: i128) -> Result<i64, Reject> {
    let micros = i64::try_from(nanos.div_euclid(1_000)).map_err(|_| Reject::YEARS)?;
    in_range(micros)
}

/// `micros` unless it is outside the years that every part of the system can hold.
pub fn in_range(micros: i64) -> Result<i64, Reject> {
    if (MIN_MICROS..=MAX_MICROS).contains(&micros) {
        Ok(micros)
    } else {
        Err(Reject::YEARS)
    }
}

/// Midnight in UTC of a day, in microseconds since the epoch.
pub fn midnight(days: i32) -> i64 {
    i64::from(days) * DAY_MICROS
}

/// Days since the epoch of a `YYYY-MM-DD`.
pub fn date(text: &[u8]) -> Result<i32, Reject> {
    in_days(civil(text).ok_or(Reject::DATE)?)
}

/// `days` unless it is outside the years that a timestamp may have.
pub fn in_days(days: i64) -> Result<i32, Reject> {
    match i32::try_from(days) {
        Ok(days) if (MIN_DAYS..=MAX_DAYS).contains(&days) => Ok(days),
        _ => Err(Reject::DATE_YEARS),
    }
}

/// The day of a timestamp that lies at midnight, `None` where a time of day would be lost.
pub fn whole_days(micros: i64) -> Option<i64> {
    (micros.rem_euclid(DAY_MICROS) == 0).then(|| micros.div_euclid(DAY_MICROS))
}

/// What a clock shows, as if it were one of UTC, and by how many seconds it is ahead of that, where the text says so.
fn clock_micros(text: &[u8]) -> Option<(i64, Option<i64>)> {
    let (day, rest) = text.split_at_checked(10)?;
    let day_micros = civil(day)? * DAY_MICROS;
    if rest.is_empty() {
        return Some((day_micros, None));
    }
    let (clock, rest) = rest.split_at_checked(9)?;
    let &[b'T' | b't' | b' ', h1, h0, b':', m1, m0, b':', s1, s0] = clock else {
        return None;
    };
    let (hour, minute, second) = (two(h1, h0)?, two(m1, m0)?, two(s1, s0)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction, rest) = fraction_micros(rest)?;
    let seconds = hour * 3600 + minute * 60 + second;
    let offset = match rest {
        [] => None,
        zone => Some(offset_seconds(zone)?),
    };
    Some((day_micros + seconds * 1_000_000 + fraction, offset))
}

/// The microseconds of `.ddd…`, and what follows it.
fn fraction_micros(text: &[u8]) -> Option<(i64, &[u8])> {
    let [b'.', digits @ ..] = text else {
        return Some((0, text));
    };
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    if count == 0 || count > 9 {
        return None;
    }
    let places = digits[..count]
        .iter()
        .map(|b| i64::from(b - b'0'))
        .chain(std::iter::repeat(0))
        .take(6);
    Some((
        places.fold(0, |micros, digit| micros * 10 + digit),
        &digits[count..],
    ))
}

fn offset_seconds(text: &[u8]) -> Option<i64> {
    let (sign, hour, minute) = match *text {
        [b'Z' | b'z'] => return Some(0),
        [sign, h1, h0, b':', m1, m0] | [sign, h1, h0, m1, m0] => (sign, two(h1, h0)?, two(m1, m0)?),
        [sign, h1, h0] => (sign, two(h1, h0)?, 0),
        _ => return None,
    };
    if hour > 23 || minute > 59 {
        return None;
    }
    match sign {
        b'+' => Some(hour * 3600 + minute * 60),
        b'-' => Some(-(hour * 3600 + minute * 60)),
        _ => None,
    }
}

/// Days since the epoch of exactly `YYYY-MM-DD`.
fn civil(text: &[u8]) -> Option<i64> {
    let &[y3, y2, y1, y0, b'-', m1, m0, b'-', d1, d0] = text else {
        return None;
    };
    let year = two(y3, y2)? * 100 + two(y1, y0)?;
    let (month, day) = (two(m1, m0)?, two(d1, d0)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    (1..=last)
        .contains(&day)
        .then(|| days_from_civil(year, month, day))
}

fn two(high: u8, low: u8) -> Option<i64> {
    let (high, low) = (high.wrapping_sub(b'0'), low.wrapping_sub(b'0'));
    (high < 10 && low < 10).then(|| i64::from(high * 10 + low))
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, after Howard Hinnant's "chrono-Compatible Low-Level Date
/// Algorithms" (`days_from_civil`), for years from 0 on.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}
