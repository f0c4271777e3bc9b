//! What builds came to, in words and for programs.

use std::time::Duration;

use super::BuildReport;
use crate::output::{human_bytes, human_count, human_duration, human_rate, rows_table};

/// A row for each.
pub fn table(reports: &[BuildReport]) -> String {
    let rows = reports.iter().map(|r| {
        let took = Duration::from_micros(u64::try_from(r.took_us).unwrap_or(0));
        vec![
            r.view.clone(),
            human_count(r.outcome.facts),
            human_count(r.outcome.states),
            human_bytes(r.outcome.bytes),
            human_duration(took),
            human_rate(r.outcome.facts, took),
            format!("[{}]", r.outcome.boundary),
            if r.cut_over {
                "cut over".into()
            } else {
                String::new()
            },
        ]
    });
    let headers = [
        "view", "facts", "states", "written", "took", "rate", "boundary", "",
    ];
    rows_table(&headers, rows.collect())
}

/// For programs.
pub fn json(report: &BuildReport) -> serde_json::Value {
    serde_json::json!({
        "view": report.view, "facts": report.outcome.facts, "states": report.outcome.states,
        "bytes": report.outcome.bytes, "boundary": report.outcome.boundary,
        "seconds": report.took_us as f64 / 1e6, "cut_over": report.cut_over,
    })
}
