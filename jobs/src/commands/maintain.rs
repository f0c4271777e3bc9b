//! `anabranch batch maintain`: what upkeep came to, for people and for programs.

use anabranch_batch::{CleanAction, CleanReport, CompactReport, KeepReport, RetainReport};
use anabranch_shared::{Error, Result, counted};

use crate::commands::printing::Printing;
use crate::output::{human_bytes, human_count};
use crate::project::context::Context;
use crate::signal::{stop_flag, stopped};
use crate::work::upkeep::{self, Patience, UpkeepReport, retention_text};

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
        text += &format!(
            "{} of logs, {}, {what} into {}\n",
            counted(files, "small file", "small files"),
            human_bytes(bytes),
            human_count(merged)
        );
    }
    for (topic, retained) in &report.retained {
        text += &format!("{}\n", retention_text(topic, retained, action));
    }
    let KeepReport { merged, removed } = report.history;
    if merged > 0 {
        text += &format!(
            "history of jobs and retries: {} merged, {} removed\n",
            counted(merged, "small file", "small files"),
            counted(removed, "row", "rows")
        );
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
            "dead_letters": r.dead_letters.rows, "ingested": r.ingested, "waits": r.waits,
        });
        (topic.clone(), json)
    };
    let topics: serde_json::Map<_, _> = report.retained.iter().map(one).collect();
    topics.into()
}

/// Prints what was removed and merged.
fn print_cleaned(
    report: &CleanReport,
    kept: &UpkeepReport,
    action: CleanAction,
    printing: Printing,
) -> Result<()> {
    let total = report.total();
    if !printing.is_for_people() {
        let rows = report.reasons.iter();
        let rows = rows.map(|(r, c)| {
            (
                r.name().to_owned(),
                serde_json::json!({"files": c.files, "bytes": c.bytes}),
            )
        });
        return printing.json(&serde_json::json!({
            "removed": action == CleanAction::Remove, "files": total.files, "bytes": total.bytes,
            "reasons": rows.collect::<serde_json::Map<_, _>>(),
            "compacted": {"files": kept.compacted.files, "bytes": kept.compacted.bytes, "into": kept.compacted.merged},
            "elsewhere": kept.elsewhere,
            "retention": retention_json(kept),
        }));
    }
    let what = match action {
        CleanAction::Remove => "removed",
        CleanAction::Find => "would be removed",
    };
    let mut text = format!(
        "{} {what}, {}\n",
        counted(total.files, "file", "files"),
        human_bytes(total.bytes)
    );
    for (reason, cleaned) in &report.reasons {
        let files = counted(cleaned.files, "file", "files");
        let bytes = human_bytes(cleaned.bytes);
        text += &format!("  {}: {files}, {bytes}\n", reason.name());
    }
    text += &self::text(kept, action);
    printing.text(&text)
}

/// Does the upkeep, or only finds what there is to do.
pub(crate) async fn run(dry_run: bool, context: &Context, printing: Printing) -> Result<u8> {
    let action = if dry_run {
        CleanAction::Find
    } else {
        CleanAction::Remove
    };
    let stop = stop_flag();
    let time = upkeep::upkeep_time(context, action).await?;
    let kept = upkeep::keep_logs(context, action, Patience::UntilExpiry, &stop).await;
    let report = tokio::select! {
        report = upkeep::maintain(context, time, action) => report?,
        () = stopped(&stop) => return Err(Error::Conflict(
            "stopped; what is not needed any more and still there is removed the next time".into(),
        )),
    };
    print_cleaned(&report, &kept?, action, printing)?;
    Ok(0)
}
