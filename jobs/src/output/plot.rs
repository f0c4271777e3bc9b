//! Answers drawn with characters: lines over a time, or bars.
//!
//! A line is drawn with Braille patterns (U+2800 and on), of which each has two columns of four dots.

use anabranch_shared::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use console::{measure_text_width, truncate_str};

use super::human_number;

/// The most bars that are drawn.
const MOST_BARS: usize = 50;

/// The most lines, each in a chart of its own.
const MOST_LINES: usize = 4;

/// Rows of characters of a chart.
const HEIGHT: usize = 8;

/// Characters of a name beside a bar, at most.
const NAME_WIDTH: usize = 40;

/// The narrowest chart.
const LEAST_WIDTH: usize = 20;

/// Draws an answer within a width in characters: its numbers over its first time, or, where it has none, its
/// first number as bars.
///
/// # Errors
/// `Invalid` where it has no number or no row.
pub fn plot(schema: &SchemaRef, batches: &[RecordBatch], width: usize) -> Result<String> {
    let columns = columns(schema, batches)?;
    let is_number = |c: &&Column| c.data_type().is_numeric() && c.name() != "_offset";
    let numbers: Vec<&Column> = columns.iter().filter(is_number).collect();
    if numbers.is_empty() || columns.iter().all(|c| c.values.is_empty()) {
        return Err(Error::Invalid(
            "`\\plot` draws the numbers of an answer, and this one has none".into(),
        ));
    }
    let time = columns.iter().find(|c| is_time(c.data_type()));
    match time {
        Some(time) => lines(time, &numbers, width),
        None => bars(&columns, numbers[0], width),
    }
}

/// A column of all rows.
struct Column {
    field: arrow::datatypes::FieldRef,
    values: ArrayRef,
}

impl Column {
    fn name(&self) -> &str {
        self.field.name()
    }

    fn data_type(&self) -> &DataType {
        self.field.data_type()
    }

    /// Its values as numbers; none for NULL and what is not finite.
    fn numbers(&self) -> Result<Vec<Option<f64>>> {
        let numbers = cast(&self.values, &DataType::Float64)?;
        let numbers = numbers.as_primitive::<Float64Type>().iter();
        Ok(numbers.map(|n| n.filter(|n| n.is_finite())).collect())
    }

    /// Its values as texts on one line.
    fn texts(&self) -> Result<Vec<String>> {
        let options = FormatOptions::default().with_null("NULL");
        let shown = ArrayFormatter::try_new(&self.values, &options)?;
        let rows = 0..self.values.len();
        Ok(rows
            .map(|row| super::for_people(&shown.value(row).to_string()).replace('\n', " "))
            .collect())
    }
}

fn columns(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<Column>> {
    let column = |(at, field): (usize, &arrow::datatypes::FieldRef)| {
        let parts: Vec<&dyn Array> = batches.iter().map(|b| b.column(at).as_ref()).collect();
        let values = match parts.is_empty() {
            true => arrow::array::new_empty_array(field.data_type()),
            false => concat(&parts)?,
        };
        Ok(Column {
            field: field.clone(),
            values,
        })
    };
    schema.fields().iter().enumerate().map(column).collect()
}

fn is_time(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
    )
}

/// A chart for each number, one below the other.
fn lines(time: &Column, numbers: &[&Column], width: usize) -> Result<String> {
    let instants = match time.data_type() {
        DataType::Date32 => cast(&cast(&time.values, &DataType::Date64)?, &DataType::Int64)?,
        _ => cast(&time.values, &DataType::Int64)?,
    };
    let instants = instants.as_primitive::<Int64Type>();
    let names = time.texts()?;
    let mut text = String::new();
    for column in numbers.iter().take(MOST_LINES) {
        let values = column.numbers()?;
        let mut points: Vec<(i64, f64, usize)> = (0..values.len())
            .filter(|row| instants.is_valid(*row))
            .filter_map(|row| Some((instants.value(row), values[row]?, row)))
            .collect();
        points.sort_by_key(|(at, ..)| *at);
        let (Some(first), Some(last)) = (points.first().copied(), points.last().copied()) else {
            text += &format!("{}: no number\n", column.name());
            continue;
        };
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for (_, value, _) in &points {
            (low, high) = (low.min(*value), high.max(*value));
        }
        let labels = [human_number(high), human_number(low)];
        let margin = labels
            .iter()
            .map(|l| measure_text_width(l))
            .max()
            .unwrap_or(0);
        let across = width.saturating_sub(margin + 3).max(LEAST_WIDTH);
        let mut dots = Dots::new(across, HEIGHT);
        let span = last.0.abs_diff(first.0).max(1) as f64;
        let place = |(at, value, _): &(i64, f64, usize)| {
            let x = at.abs_diff(first.0) as f64 / span * (dots_across(across) - 1) as f64;
            let share = match high > low {
                true => (value - low) / (high - low),
                false => 0.5,
            };
            let y = (1.0 - share) * (HEIGHT * 4 - 1) as f64;
            (x.round() as usize, y.round() as usize)
        };
        let places: Vec<(usize, usize)> = points.iter().map(place).collect();
        if let Some(one) = places.first() {
            dots.set(*one);
        }
        places
            .windows(2)
            .for_each(|pair| dots.line(pair[0], pair[1]));
        text += &format!("{:margin$} ┌ {}\n", "", column.name());
        for (row, line) in dots.rows().enumerate() {
            let label = match row {
                0 => labels[0].as_str(),
                row if row + 1 == HEIGHT => labels[1].as_str(),
                _ => "",
            };
            let blank = margin - measure_text_width(label);
            text += &format!(
                "{:blank$}{label} │{}\n",
                "",
                line.trim_end_matches('\u{2800}')
            );
        }
        let (from, to) = (&names[first.2], &names[last.2]);
        let gap = across
            .saturating_sub(measure_text_width(from) + measure_text_width(to))
            .max(1);
        text += &format!("{:margin$}  {from}{:gap$}{to}\n", "", "");
    }
    if numbers.len() > MOST_LINES {
        let left = numbers.iter().skip(MOST_LINES).map(|c| c.name());
        let left: Vec<&str> = left.collect();
        text += &format!("not drawn: {}\n", left.join(", "));
    }
    Ok(text)
}

fn dots_across(characters: usize) -> usize {
    characters * 2
}

/// Dots, two by four in a character.
struct Dots {
    across: usize,
    cells: Vec<u8>,
}

impl Dots {
    fn new(across: usize, down: usize) -> Self {
        Self {
            across,
            cells: vec![0; across * down],
        }
    }

    fn set(&mut self, (x, y): (usize, usize)) {
        // The bits of a pattern go down the left column and then the right one, but for the last row.
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        if let Some(cell) = self.cells.get_mut(y / 4 * self.across + x / 2) {
            *cell |= BITS[y % 4][x % 2];
        }
    }

    /// A line without its first dot.
    fn line(&mut self, from: (usize, usize), to: (usize, usize)) {
        let steps = from.0.abs_diff(to.0).max(from.1.abs_diff(to.1));
        for step in 1..=steps {
            let part = step as f64 / steps as f64;
            let between = |a: usize, b: usize| (a as f64 + (b as f64 - a as f64) * part).round();
            self.set((
                between(from.0, to.0) as usize,
                between(from.1, to.1) as usize,
            ));
        }
        if steps == 0 {
            self.set(to);
        }
    }

    fn rows(&self) -> impl Iterator<Item = String> {
        let character = |cell: &u8| char::from_u32(0x2800 + u32::from(*cell)).unwrap_or(' ');
        let rows = self.cells.chunks(self.across);
        rows.map(move |row| row.iter().map(character).collect())
    }
}

/// A bar for each row.
fn bars(columns: &[Column], number: &Column, width: usize) -> Result<String> {
    let values = number.numbers()?;
    let name = columns.iter().find(|c| !c.data_type().is_numeric());
    let names = match name {
        Some(column) => column.texts()?,
        None => (1..=values.len()).map(|row| row.to_string()).collect(),
    };
    let shown = values.len().min(MOST_BARS);
    let names: Vec<String> = names
        .iter()
        .take(shown)
        .map(|n| truncate_str(n, NAME_WIDTH, "…").into_owned())
        .collect();
    let labels: Vec<String> = values
        .iter()
        .take(shown)
        .map(|v| v.map_or("NULL".to_owned(), human_number))
        .collect();
    let widest = |all: &[String]| all.iter().map(|t| measure_text_width(t)).max().unwrap_or(0);
    let (of_names, of_labels) = (widest(&names), widest(&labels));
    let across = width
        .saturating_sub(of_names + of_labels + 3)
        .max(LEAST_WIDTH);
    let most = values.iter().flatten().fold(0.0_f64, |m, v| m.max(v.abs()));
    let mut text = format!("{}\n", number.name());
    for row in 0..shown {
        let eighths = match values[row] {
            Some(value) if most > 0.0 => {
                (value.abs() / most * (across * 8) as f64).round() as usize
            }
            _ => 0,
        };
        let (name, label) = (&names[row], &labels[row]);
        let (after_name, before_label) = (
            of_names - measure_text_width(name),
            of_labels - measure_text_width(label),
        );
        text += &format!(
            "{name}{:after_name$} {:before_label$}{label} {}\n",
            "",
            "",
            bar(eighths)
        );
    }
    if values.len() > shown {
        let more = super::human_count((values.len() - shown) as u64);
        text += &format!("and {more} more rows\n");
    }
    Ok(text)
}

/// A bar of so many eighths of a character.
fn bar(eighths: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    "█".repeat(eighths / 8) + PARTS[eighths % 8]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray, TimestampSecondArray};

    use super::*;

    fn drawn(columns: Vec<(&str, ArrayRef)>, width: usize) -> String {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        plot(&batch.schema(), &[batch], width).unwrap()
    }

    #[test]
    fn bars_are_as_long_as_their_numbers() {
        let names = StringArray::from(vec![Some("a"), Some("größer"), None]);
        let numbers = Int64Array::from(vec![Some(5), Some(10), None]);
        let text = drawn(vec![("k", Arc::new(names)), ("n", Arc::new(numbers))], 40);
        let expected = format!(
            "n\na         5 {}\ngrößer   10 {}\nNULL   NULL \n",
            "█".repeat(13) + "▌",
            "█".repeat(27)
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn lines_go_from_the_first_to_the_last() {
        let times = TimestampSecondArray::from(vec![3_600, 0, 7_200]).with_timezone("UTC");
        let numbers = Float64Array::from(vec![1.0, 0.0, 2.0]);
        let text = drawn(vec![("at", Arc::new(times)), ("x", Arc::new(numbers))], 30);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), HEIGHT + 2);
        assert!(lines[0].ends_with("┌ x") && lines[1].starts_with("2 │"));
        assert!(lines[HEIGHT].starts_with("0 │⡠"), "{text}");
        assert!(lines[HEIGHT + 1].contains("1970-01-01T00:00:00Z"));
        // It rises: each row of characters begins further to the right than the one below.
        let begins = |line: &str| {
            line.chars()
                .skip(3)
                .take_while(|c| *c == '\u{2800}')
                .count()
        };
        assert!(
            (2..=HEIGHT).all(|row| begins(lines[row - 1]) > begins(lines[row])),
            "{text}"
        );
    }

    #[test]
    fn what_can_not_be_drawn_is_said() {
        let names =
            RecordBatch::try_from_iter([("k", Arc::new(StringArray::from(vec!["a"])) as ArrayRef)])
                .unwrap();
        let e = plot(&names.schema(), &[names], 40).unwrap_err();
        assert!(e.to_string().contains("has none"), "{e}");
        let times: ArrayRef = Arc::new(TimestampSecondArray::from(vec![None, Some(1), Some(1)]));
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None, Some(f64::NAN)]));
        assert_eq!(
            drawn(vec![("t", times), ("x", numbers)], 40),
            "x: no number\n"
        );
        let same: ArrayRef = Arc::new(Int64Array::from(vec![0, 0]));
        assert!(drawn(vec![("n", same)], 5).starts_with("n\n1 0 \n2 0 \n"));
    }
}
