//! Shows a place of a view's SQL: its line and column, and the line itself with a caret under it.

use datafusion::common::{DataFusionError, Span as PlannerSpan};
use datafusion::sql::sqlparser::tokenizer::Span;

/// A place of a text, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    line: usize,
    column: usize,
    /// How many characters of the line it covers; at least 1.
    width: usize,
}

impl Place {
    /// The place of a part of a syntax tree; none where the parser does not tell.
    pub(super) fn of(span: Span) -> Option<Self> {
        let ends_there = span.start.line == span.end.line;
        let end = if ends_there { span.end.column } else { 0 };
        Self::new(span.start.line, span.start.column, end)
    }

    /// The place that the engine's planner tells of an error, if it does.
    pub(super) fn of_diagnostic(e: &DataFusionError) -> Option<Self> {
        let PlannerSpan { start, end } = e.diagnostic()?.span?;
        let ends_there = start.line == end.line;
        Self::new(
            start.line,
            start.column,
            if ends_there { end.column } else { 0 },
        )
    }

    /// The place that the parser writes at the end of its message, and the message without it.
    pub(super) fn of_parser(message: &str) -> Option<(Self, &str)> {
        let (text, place) = message.rsplit_once(" at Line: ")?;
        let (line, column) = place.split_once(", Column: ")?;
        let digits = |text: &str| {
            let end = text.find(|c: char| !c.is_ascii_digit());
            text[..end.unwrap_or(text.len())].parse::<u64>().ok()
        };
        Some((Self::new(digits(line)?, digits(column)?, 0)?, text))
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
pub(super) fn at(sql: &str, place: Option<Place>, message: &str) -> String {
    let Some(place) = place else {
        return message.to_owned();
    };
    let Place {
        line,
        column,
        width,
    } = place;
    let text = format!("line {line}, column {column}: {message}");
    let Some(source) = sql.lines().nth(line - 1) else {
        return text;
    };
    let (number, source) = (line.to_string(), source.trim_end());
    let gutter = " ".repeat(number.len());
    // Tabs are repeated under tabs, so that the caret stands right at any tab width.
    let blank = |c| if c == '\t' { c } else { ' ' };
    let before: String = source.chars().take(column - 1).map(blank).collect();
    let left = source.chars().count().saturating_sub(column - 1).max(1);
    let caret = "^".repeat(width.min(left));
    format!("{text}\n{gutter} |\n{number} | {source}\n{gutter} | {before}{caret}")
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
    fn the_parsers_place_is_read() {
        let message = "Expected: an expression, found: EOF at Line: 3, Column: 12";
        let (place, text) = Place::of_parser(message).unzip();
        assert_eq!(place, Place::new(3, 12, 0));
        assert_eq!(text, Some("Expected: an expression, found: EOF"));
        assert_eq!(Place::of_parser("Expected: more"), None);
    }
}
