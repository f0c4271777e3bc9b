//! What a verification came to, in words and for programs.

use super::Verified;
use crate::output::human_count;

/// What a verification came to, in lines.
pub fn text(view: &str, verified: &Verified) -> String {
    let comparison = &verified.comparison;
    let part = verified.sample.map_or(String::new(), |s| {
        let percent = s.share * 100.0;
        format!(" (a sample: {percent:.3}% of the keys, seed {})", s.seed)
    });
    let mut text = format!("{view}: {}\n", comparison.summary(&part));
    if let Some(note) = &verified.note {
        text += &format!("  {note}\n");
    }
    for uncompared in &verified.uncompared {
        text += &format!("  {uncompared}\n");
    }
    for example in &comparison.examples {
        text += &format!("  {example}\n");
    }
    let more = comparison.differences - comparison.examples.len();
    if more > 0 {
        text += &format!("  and {} more\n", human_count(more as u64));
    }
    text
}

/// What a verification came to, for programs.
pub fn json(view: &str, verified: &Verified) -> serde_json::Value {
    let comparison = &verified.comparison;
    let sample = verified
        .sample
        .map(|s| serde_json::json!({ "share": s.share, "seed": s.seed }));
    let named = |row: &Option<Vec<String>>| {
        let row = row.as_ref()?;
        let cells = comparison.columns.iter().cloned().zip(row);
        let cells = cells.map(|(name, value)| (name, value.as_str().into()));
        Some(serde_json::Value::Object(cells.collect()))
    };
    let rows = comparison.differing.iter();
    let rows = rows
        .map(|d| serde_json::json!({ "expected": named(&d.expected), "found": named(&d.found) }));
    let rows: Vec<_> = rows.collect();
    serde_json::json!({
        "view": view, "rows": comparison.rows, "sample": sample, "note": verified.note,
        "uncompared": verified.uncompared, "differences": comparison.differences, "examples": comparison.examples,
        "differing": rows,
    })
}
