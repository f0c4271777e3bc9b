//! Shows a place of a text, SQL or settings: the line itself with a caret under the place.
//!
//! ```text
//!   |
//! 2 |   cuont(*) AS c FROM facts
//!   |   ^^^^^
//! ```

use datafusion::common::{DataFusionError, Span as PlannerSpan};
use datafusion::sql::sqlparser::tokenizer::Span;

/// A longer line is shown around the place alone, in characters.
const WIDEST: usize = 100;

/// How many characters stand before the place where a line is too long.
const BEFORE: usize = 40;

/// A place of a text, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
    /// How many characters of the line it covers; at least 1.
    width: usize,
}

impl Place {
    /// The place of a part of a syntax tree; none where the parser does not tell.
    pub(crate) fn of(span: Span) -> Option<Self> {
        let ends_there = span.start.line == span.end.line;
        let end = if ends_there { span.end.column } else { 0 };
        Self::new(span.start.line, span.start.column, end)
    }

    /// The place that the engine's planner tells of an error, if it does.
    pub(crate) fn of_diagnostic(e: &DataFusionError) -> Option<Self> {
        let PlannerSpan { start, end } = e.diagnostic()?.span?;
        let ends_there = start.line == end.line;
        Self::new(
            start.line,
            start.column,
            if ends_there { end.column } else { 0 },
        )
    }

    /// The place that the parser writes at the end of its message, and the message without it.
    pub(crate) fn of_parser(message: &str) -> Option<(Self, &str)> {
        let (text, place) = message.rsplit_once(" at Line: ")?;
        let (line, column) = place.split_once(", Column: ")?;
        let digits = |text: &str| {
            let end = text.find(|c: char| !c.is_ascii_digit());
            text[..end.unwrap_or(text.len())].parse::<u64>().ok()
        };
        Some((Self::new(digits(line)?, digits(column)?, 0)?, text))
    }

    /// The place right after a part of a text.
    pub(crate) fn after(span: Span) -> Option<Self> {
        Self::new(span.end.line, span.end.column, 0)
    }

    fn new(line: u64, column: u64, end: u64) -> Option<Self> {
        let at = |number: u64| usize::try_from(number).ok().filter(|n| *n > 0);
        Some(Self {
            line: at(line)?,
            column: at(column)?,
            width: usize::try_from(end.saturating_sub(column)).ok()?.max(1),
        })
    }
}

/// A message about a place of the SQL.
pub(crate) fn at(sql: &str, place: Option<Place>, message: &str) -> String {
    let Some(place) = place else {
        return message.to_owned();
    };
    let Place {
        line,
        column,
        width,
    } = place;
    let text = format!("line {line}, column {column}: {message}");
    match sql.lines().nth(line - 1) {
        Some(source) => format!("{text}\n{}", drawn(line, source, column, width)),
        None => text,
    }
}

/// The blanks under a line's number.
pub(crate) fn gutter(line: usize) -> String {
    " ".repeat(line.to_string().len())
}

/// A line with a caret under some of its characters, and an empty line above.
pub(crate) fn drawn(line: usize, source: &str, column: usize, width: usize) -> String {
    let shown: Vec<char> = source.trim_end().chars().map(visible).collect();
    let before = column.saturating_sub(1);
    let skipped = match shown.len() > WIDEST {
        true => before.saturating_sub(BEFORE).min(shown.len() - WIDEST),
        false => 0,
    };
    let window: String = shown.iter().skip(skipped).take(WIDEST).collect();
    let left = if skipped > 0 { "…" } else { "" };
    let right = if shown.len() > skipped + WIDEST {
        "…"
    } else {
        ""
    };
    // Tabs are repeated under tabs, so that the caret stands right at any tab width.
    let blank = |c: &char| if *c == '\t' { '\t' } else { ' ' };
    let mut blanks: String = left.chars().map(|_| ' ').collect();
    blanks.extend(shown.iter().take(before).skip(skipped).map(blank));
    // A place past the end is under the first blank after it.
    blanks.extend(std::iter::repeat_n(' ', before.saturating_sub(shown.len())));
    let rest = (window.chars().count() + skipped).saturating_sub(before);
    let caret = "^".repeat(width.clamp(1, rest.max(1)));
    let gutter = gutter(line);
    format!("{gutter} |\n{line} | {left}{window}{right}\n{gutter} | {blanks}{caret}")
}

/// Control characters would move the cursor of whoever reads the message.
fn visible(c: char) -> char {
    if c.is_control() && c != '\t' {
        char::REPLACEMENT_CHARACTER
    } else {
        c
    }
}

/// A message about the statement that begins on a line of a larger text, with its place in that text:
/// what it says of its own place counts from the statement on.
#[must_use]
pub fn moved_down(message: &str, first_line: usize) -> String {
    let own = message
        .strip_prefix("line ")
        .and_then(|rest| rest.split_once(", column "))
        .and_then(|(line, rest)| Some((line.parse::<usize>().ok()?, rest)));
    let Some((own, rest)) = own else {
        return format!("line {first_line}: {message}");
    };
    let line = first_line + own.max(1) - 1;
    let text = format!("line {line}, column {rest}");
    // The drawing names the line again, beside a gutter of that width.
    let (old, new) = (gutter(own), gutter(line));
    let drawing = |l: &str| match l.strip_prefix(&format!("{own} | ")) {
        Some(source) => format!("{line} | {source}"),
        None => match l.strip_prefix(&format!("{old} |")) {
            Some(rest) => format!("{new} |{rest}"),
            None => l.to_owned(),
        },
    };
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default().to_owned();
    let rest = lines.map(drawing);
    std::iter::once(head)
        .chain(rest)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caret_stands_under_the_place() {
        let sql = "SELECT\tk,\n\tcuont(*) FROM ev";
        let shown = at(sql, Place::new(2, 2, 7), "no such function");
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines,
            [
                "line 2, column 2: no such function",
                "  |",
                "2 | \tcuont(*) FROM ev",
                "  | \t^^^^^"
            ]
        );
        let past_the_end = at(sql, Place::new(2, 18, 0), "more");
        assert!(
            past_the_end.ends_with("                ^"),
            "{past_the_end}"
        );
        assert_eq!(at(sql, None, "somewhere"), "somewhere");
    }

    #[test]
    fn a_long_line_is_shown_around_the_place() {
        let sql = format!(
            "SELECT {} cuont(*), {}",
            "a, ".repeat(100),
            "b, ".repeat(100)
        );
        let column = sql.find("cuont").map_or(0, |at| at as u64 + 1);
        let shown = at(&sql, Place::new(1, column, column + 5), "no such function");
        let lines: Vec<&str> = shown.lines().collect();
        let under = lines[3].find('^').and_then(|at| {
            // What stands above, by characters: the ellipsis is one.
            let above: String = lines[2].chars().skip(at).take(5).collect();
            (above == "cuont").then_some(at)
        });
        assert!(under.is_some(), "{shown}");
        assert!(lines[2].chars().count() < 110, "{shown}");
        assert!(lines[2].starts_with("1 | …") && lines[2].ends_with('…'));
    }

    #[test]
    fn a_drawing_is_moved_with_its_statement() {
        let shown = at(
            "SELECT k,\n nosuch FROM ev",
            Place::new(2, 2, 8),
            "no column",
        );
        assert_eq!(
            moved_down(&shown, 9),
            "line 10, column 2: no column\n   |\n10 |  nosuch FROM ev\n   |  ^^^^^^"
        );
        assert_eq!(moved_down("stopped", 3), "line 3: stopped");
    }

    #[test]
    fn the_parsers_place_is_read() {
        let message = "Expected: an expression, found: EOF at Line: 3, Column: 12";
        let (place, text) = Place::of_parser(message).unzip();
        assert_eq!(place, Place::new(3, 12, 0));
        assert_eq!(text, Some("Expected: an expression, found: EOF"));
        assert_eq!(Place::of_parser("Expected: more"), None);
    }
}
