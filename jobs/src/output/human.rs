//! Owns sizes, counts, durations and status rows as people read them.

use std::time::Duration;

use super::grid::text_width;

/// A size in bytes, in powers of 1000: `999 B`, `1.2 GB`, `34.5 MB`, `120 kB`.
pub fn human_bytes(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (number, prefix) = scaled(bytes as f64);
    format!("{number} {prefix}B")
}

/// A count with a comma between thousands: `1,234,567`.
pub fn human_count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with a comma between thousands: `1,234,567`, `-1.250`.
pub fn human_number(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        let sign = if number < 0.0 { "-" } else { "" };
        return format!("{sign}{}", human_count(number.abs() as u64));
    }
    format!("{number:.3}")
}

/// A duration with about three digits: `820 ns`, `1.24 ms`, `350 ms`, `1.24 s`, `2 m 03 s`,
/// `1 h 02 m`, `3 d 04 h`.
pub fn human_duration(duration: Duration) -> String {
    const UNITS: [(&str, f64); 4] = [("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let seconds = duration.as_secs_f64();
    for (index, (unit, size)) in UNITS.iter().enumerate() {
        let number = seconds / size;
        let limit = if index == UNITS.len() - 1 {
            59.95
        } else {
            999.5
        };
        if number < limit {
            // Nanoseconds are whole to begin with.
            let decimals = if index == 0 { 0 } else { three_digits(number) };
            return format!("{number:.decimals$} {unit}");
        }
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} m {:02} s", whole % 60),
        (0, _) => format!("{hours} h {minutes:02} m"),
        _ => format!("{days} d {hours:02} h"),
    }
}

/// Facts a second: `950 facts/s`, `1.2 M facts/s`; a dash where no time has passed.
pub fn human_rate(facts: u64, elapsed: Duration) -> String {
    if elapsed.is_zero() {
        return "– facts/s".to_owned();
    }
    let rate = facts as f64 / elapsed.as_secs_f64();
    if rate < 999.5 {
        let decimals = usize::from(rate < 9.95 && rate.fract() != 0.0);
        return format!("{rate:.decimals$} facts/s");
    }
    let (number, prefix) = scaled(rate);
    format!("{number} {prefix} facts/s")
}

/// A number from 1000 on by its power of 1000: one decimal below 100, none above.
fn scaled(value: f64) -> (String, &'static str) {
    const PREFIXES: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    let mut number = value / 1000.0;
    let mut index = 0;
    // 999.5 would be printed as 1000 of the smaller unit.
    while number >= 999.5 && index + 1 < PREFIXES.len() {
        number /= 1000.0;
        index += 1;
    }
    let decimals = usize::from(number < 99.95);
    (format!("{number:.decimals$}"), PREFIXES[index])
}

fn three_digits(number: f64) -> usize {
    match number {
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    }
}

/// Names and values in two aligned columns, a line each; further lines of a value are indented below
/// its first one.
pub fn key_value_table(rows: &[(String, String)]) -> String {
    let widest = rows
        .iter()
        .map(|(key, _)| text_width(key))
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (key, value) in rows {
        let mut lines = value.lines();
        let mut line = padded_right(key, widest);
        line.push_str("  ");
        line.push_str(lines.next().unwrap_or_default());
        push_line(&mut text, &line);
        for further in lines {
            push_line(&mut text, &format!("{}{further}", " ".repeat(widest + 2)));
        }
    }
    text
}

/// Rows under headings, without borders; a column whose every value is a number, with or without a
/// unit, is aligned right. Cells that a row lacks are empty.
pub fn rows_table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let columns = headers.len();
    let mut widths: Vec<usize> = headers.iter().map(|header| text_width(header)).collect();
    let mut right = vec![!rows.is_empty(); columns];
    for column in 0..columns {
        let mut numbers = 0;
        for cell in rows.iter().filter_map(|row| row.get(column)) {
            widths[column] = widths[column].max(text_width(cell));
            numbers += usize::from(is_amount(cell));
            right[column] &= is_amount(cell) || matches!(cell.as_str(), "" | "-" | "–");
        }
        right[column] &= numbers > 0;
    }
    let mut text = String::new();
    let mut push_row = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for column in 0..columns {
            let cell = cells.next().unwrap_or_default();
            line.push_str(if column == 0 { "" } else { "  " });
            if right[column] {
                line.push_str(&" ".repeat(widths[column].saturating_sub(text_width(cell))));
                line.push_str(cell);
            } else {
                line.push_str(&padded_right(cell, widths[column]));
            }
        }
        push_line(&mut text, &line);
    };
    push_row(&mut headers.iter().copied());
    for row in &rows {
        push_row(&mut row.iter().map(String::as_str));
    }
    text
}

/// Whether a cell is a number or an amount such as `1.2 GB` or `2 m 03 s`, and not a date.
fn is_amount(cell: &str) -> bool {
    let is_number = |word: &str| {
        let digits = word.trim_start_matches(['-', '+']).trim_end_matches('%');
        digits.starts_with(|c: char| c.is_ascii_digit())
            && digits
                .chars()
                .all(|c| c.is_ascii_digit() || c == '.' || c == ',')
    };
    let mut words = cell.split_whitespace();
    words.next().is_some_and(is_number)
        && words.all(|word| is_number(word) || word.chars().all(|c| c.is_alphabetic() || c == '/'))
}

fn padded_right(text: &str, width: usize) -> String {
    format!(
        "{text}{}",
        " ".repeat(width.saturating_sub(text_width(text)))
    )
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}
