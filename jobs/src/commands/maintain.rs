//! `anabranch batch maintain`: what upkeep came to, for people and for programs.

use anabranch_batch::{CleanAction, CompactReport, RetainReport};

use crate::output::{human_bytes, human_count};
use crate::work::upkeep::{UpkeepReport, retention_text};

/// What keeping the logs in shape came to, for people; empty where there was nothing to do.
pub fn text(report: &UpkeepReport, action: CleanAction) -> String {
    let CompactReport {
        files,
        bytes,
        merged,
    } = report.compacted;
    let mut text = String::new();
    if files > 0 {
        let what = match action {
            CleanAction::Remove => "merged",
            CleanAction::Find => "would be merged",
        };
        let (files, merged) = (human_count(files), human_count(merged));
        text += &format!(
            "{files} small files of logs, {}, {what} into {merged}\n",
            human_bytes(bytes)
        );
    }
    for (topic, retained) in &report.retained {
        text += &format!("{}\n", retention_text(topic, retained, action));
    }
    for topic in &report.elsewhere {
        text += &format!("topic `{topic}`: another process keeps its log in shape at the moment\n");
    }
    text
}

/// What retention came to, for programs.
pub fn retention_json(report: &UpkeepReport) -> serde_json::Value {
    let one = |(topic, r): (&String, &RetainReport)| {
        let json = serde_json::json!({
            "low": r.low, "facts": r.facts.rows, "files": r.facts.files, "bytes": r.facts.bytes,
            "dead_letters": r.dead_letters.rows, "waits": r.waits,
        });
        (topic.clone(), json)
    };
    let topics: serde_json::Map<_, _> = report.retained.iter().map(one).collect();
    topics.into()
}
