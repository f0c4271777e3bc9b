//! A comparison in words.

use super::Judged;
use crate::output::{human_count, human_number, rows_table};
use crate::work::diff::Diff;

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => String::new(),
        _ => format!("{:.2}%", part as f64 / whole as f64 * 100.0),
    }
}

fn amount(number: Option<f64>) -> String {
    number.map_or(String::new(), human_number)
}

/// A comparison for people.
pub fn text(judged: &Judged) -> String {
    let diff = &judged.diff;
    let [a, b] = judged.generations;
    let mut text = format!(
        "{}: g{b} compared with g{a} at [{}]: {}\n",
        judged.view,
        judged.head,
        diff.summary()
    );
    if let Some(share) = judged.sample {
        text += &format!("  of {}% of the keys\n", share * 100.0);
    }
    if let Some([a, b]) = &judged.grain {
        text += &format!(
            "  the grain changed from ({}) to ({}): compared by ({})\n",
            a.join(", "),
            b.join(", "),
            diff.keys.join(", ")
        );
    }
    for (what, columns) in [
        ("lost", &diff.columns_only_a),
        ("new", &diff.columns_only_b),
    ] {
        if !columns.is_empty() {
            text += &format!("  columns {what}: {}\n", columns.join(", "));
        }
    }
    if diff.is_equal() {
        return text;
    }
    text += &indented(&columns_table(diff));
    let rows = diff.largest.iter().map(|c| {
        let key = c.key.join(", ");
        vec![
            key,
            c.column.clone(),
            c.a.clone(),
            c.b.clone(),
            amount(c.by),
        ]
    });
    text += &titled(
        "largest changes",
        &[&diff.keys.join(", "), "column", "before", "after", "by"],
        rows.collect(),
    );
    let rows = diff.segments.iter().map(|s| {
        vec![
            format!("{} = {}", s.key, s.value),
            human_count(s.differing),
            human_count(s.rows),
            format!("{:.1}%", s.share * 100.0),
            format!("{:.1}", s.lift),
        ]
    });
    text += &titled(
        "where it differs more than elsewhere",
        &["segment", "differing", "rows", "of all", "lift"],
        rows.collect(),
    );
    for (what, rows) in [
        ("lost", &diff.samples_only_a),
        ("new", &diff.samples_only_b),
    ] {
        for row in rows {
            text += &format!("  {what}: {}\n", row.join(", "));
        }
    }
    text
}

fn columns_table(diff: &Diff) -> String {
    let both = diff.rows_of_both();
    let rows = diff.columns.iter().map(|c| {
        vec![
            c.name.clone(),
            percent(both - c.changed.min(both), both),
            human_count(c.changed),
            amount(c.total_a),
            amount(c.total_b),
            c.total_changed()
                .filter(|_| c.total_a != c.total_b)
                .map_or(String::new(), |share| format!("{:+.2}%", share * 100.0)),
            c.compared.unwrap_or_default().to_owned(),
        ]
    });
    let headers = ["column", "same", "changed", "total before", "after", "", ""];
    rows_table(&headers, rows.collect())
}

fn titled(title: &str, headers: &[&str], rows: Vec<Vec<String>>) -> String {
    match rows.is_empty() {
        true => String::new(),
        false => format!("  {title}\n{}", indented(&rows_table(headers, rows))),
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
