//! Tables of commands that fit the terminal: what is long and told elsewhere in full is cut.

use crate::output::{Style, for_people, rows_table};

/// What stands between two columns, in characters.
const BETWEEN: usize = 2;

/// A column is not cut below this, in characters.
const NARROWEST: usize = 8;

/// Rows under headings. Where the terminal is narrower, the columns of `cut` lose their ends, the
/// first of them first; elsewhere nothing is cut.
pub(crate) fn fitted(
    headers: &[&str],
    mut rows: Vec<Vec<String>>,
    cut: &[usize],
    style: Style,
) -> String {
    if let Some(width) = style.width {
        let mut over = width_of(headers, &rows).saturating_sub(usize::from(width));
        for &column in cut {
            let own = column_width(headers, &rows, column);
            let least = headers[column].chars().count().max(NARROWEST);
            let wanted = own.saturating_sub(over).max(least.min(own));
            over -= own - wanted;
            for cell in rows.iter_mut().filter_map(|row| row.get_mut(column)) {
                shorten(cell, wanted);
            }
        }
    }
    rows_table(headers, rows)
}

/// A text on one line, without what could change a terminal.
pub(crate) fn on_one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    for_people(&words.join(" "))
}

fn column_width(headers: &[&str], rows: &[Vec<String>], column: usize) -> usize {
    let cells = rows.iter().filter_map(|row| row.get(column));
    let widths = cells.map(|cell| cell.chars().count());
    widths
        .chain([headers[column].chars().count()])
        .max()
        .unwrap_or(0)
}

fn width_of(headers: &[&str], rows: &[Vec<String>]) -> usize {
    let columns = (0..headers.len()).map(|column| column_width(headers, rows, column));
    columns.sum::<usize>() + BETWEEN * headers.len().saturating_sub(1)
}

/// Cuts a cell to a width, with a mark where something is gone.
fn shorten(cell: &mut String, width: usize) {
    if cell.chars().count() > width {
        *cell = cell.chars().take(width.saturating_sub(1)).collect();
        cell.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_cut_is_cut_to_the_width() {
        let rows = || {
            vec![
                vec!["done".to_owned(), "x".repeat(40), "y".repeat(60)],
                vec!["failed".to_owned(), "short".to_owned(), "z".to_owned()],
            ]
        };
        let headers = ["state", "view", "why"];
        let at = |width| {
            let style = Style {
                terminal: true,
                width,
                color: false,
            };
            fitted(&headers, rows(), &[2, 1], style)
        };
        let widest = |text: &str| text.lines().map(|l| l.chars().count()).max();
        assert_eq!(widest(&at(None)), Some(6 + 2 + 40 + 2 + 60));
        assert_eq!(widest(&at(Some(80))), Some(80));
        assert!(at(Some(80)).contains(&"x".repeat(40)), "{}", at(Some(80)));
        assert_eq!(widest(&at(Some(40))), Some(40));
        assert!(at(Some(40)).contains('…'));
    }
}
