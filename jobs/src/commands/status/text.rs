//! The status for people, as wide as a terminal of 80 columns: what needs somebody first, then what
//! runs, topics and views. What is not shown here is in `--format json`.

use anabranch_shared::counted;

use super::{DaemonEntry, KafkaStatus, Status, StepStatus, TopicStatus, ViewStatus};
use crate::clock::now_ms;
use crate::commands::fitting::fitted;
use crate::output::{Style, human_bytes, human_count};
use crate::reader::daemon_status::DoorStatus;
use crate::work::job_states::JobState;

/// The status.
pub fn text(status: &Status, style: Style) -> String {
    let mut text = format!("storage  {}\n", status.storage);
    if status.daemons.is_empty() {
        text += "daemon   none runs; `anabranch up` starts one\n";
    }
    for daemon in &status.daemons {
        text += &daemon_text(daemon);
    }
    text.push('\n');
    text += &topics_table(&status.topics, style);
    if !status.kafka.is_empty() {
        text.push('\n');
        text += &kafka_table(&status.kafka, style);
    }
    if !status.steps.is_empty() {
        text += "\n";
        text += &steps_table(&status.steps, style);
    }
    text.push('\n');
    text += &views_table(&status.views, style);
    let doors = status.daemons.iter().flat_map(|daemon| &daemon.doors);
    let dangers: Vec<String> = doors.filter_map(DoorStatus::danger).collect();
    let own = [dangers, retention_notes(status), stale_notes(status)].concat();
    for note in own.iter().chain(&status.notes) {
        text += &format!("\n{}", style.yellow(&format!("note: {note}")));
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn daemon_text(daemon: &DaemonEntry) -> String {
    let state = match daemon.answers {
        true => "answers",
        false => "does not answer",
    };
    let what = daemon.address.describe(now_ms());
    let mut text = format!("daemon   {what} {state}\n");
    let own = daemon.address.partitions.iter().map(|(topic, partitions)| {
        let partitions: Vec<_> = partitions.iter().map(ToString::to_string).collect();
        format!("{topic} {}", partitions.join(" "))
    });
    let own = own.collect::<Vec<_>>().join(", ");
    if !own.is_empty() {
        text += &format!("         partitions: {own}\n");
    }
    for door in &daemon.doors {
        text += &format!("         {}\n", door.text());
    }
    if let Some(bounds) = &daemon.bounds {
        text += &format!("         {}\n", bounds.text());
    }
    for reference in &daemon.references {
        let rows = counted(reference.rows as u64, "row", "rows");
        let bytes = human_bytes(reference.bytes as u64);
        let of = if reference.history {
            " of all versions"
        } else {
            ""
        };
        text += &format!(
            "         reference {}: {rows}{of}, {bytes}\n",
            reference.name
        );
    }
    text
}

fn topics_table(topics: &[TopicStatus], style: Style) -> String {
    let duplicates = topics
        .iter()
        .any(|t| t.intake.is_some_and(|i| i.duplicates > 0));
    let rows = topics.iter().map(|t| {
        let newest = t.newest_event_at;
        let mut row = vec![
            t.topic.clone(),
            human_count(t.facts),
            human_count(t.unlanded_facts),
            human_count(t.dead_letters),
            newest.map_or("-".into(), |at| at.format("%Y-%m-%d %H:%M:%S").to_string()),
            human_bytes(t.bytes),
        ];
        if duplicates {
            let counted = t.intake.map(|intake| human_count(intake.duplicates));
            row.push(counted.unwrap_or_else(|| "-".to_owned()));
        }
        row
    });
    let mut headers = vec![
        "topic",
        "landed",
        "not landed",
        "dead letters",
        "newest fact (UTC)",
        "size",
    ];
    if duplicates {
        headers.push("duplicates");
    }
    fitted(&headers, rows.collect(), &[0], style)
}

fn kafka_table(kafka: &[KafkaStatus], style: Style) -> String {
    let unknown = || "-".to_owned();
    let rows = kafka.iter().map(|k| {
        vec![
            k.topic.clone(),
            k.partition.to_string(),
            k.position.to_string(),
            k.lag_offsets.map_or_else(unknown, |lag| lag.to_string()),
            k.lag_seconds
                .map_or_else(unknown, |lag| format!("{lag:.1}")),
        ]
    });
    let headers = [
        "topic",
        "Kafka's partition",
        "next offset",
        "lag (offsets)",
        "lag (s)",
    ];
    fitted(&headers, rows.collect(), &[0], style)
}

fn steps_table(steps: &[StepStatus], style: Style) -> String {
    let rows = steps.iter().map(|s| {
        let lag = s
            .lag_seconds
            .map_or_else(|| "-".to_owned(), |lag| format!("{lag:.1}"));
        vec![
            s.step.clone(),
            format!("{} → {}", s.from, s.to),
            human_count(s.facts),
            human_count(s.made),
            human_count(s.refused),
            human_count(u64::try_from(s.lag_offsets).unwrap_or(0)),
            lag,
        ]
    });
    let headers = [
        "step",
        "topics",
        "facts",
        "made",
        "refused",
        "lag (offsets)",
        "lag (s)",
    ];
    fitted(&headers, rows.collect(), &[0, 1], style)
}

fn views_table(views: &[ViewStatus], style: Style) -> String {
    let rows = views.iter().map(|v| {
        let delta = v.delta.as_ref();
        vec![
            v.view.clone(),
            state(v).to_owned(),
            human_count(v.behind),
            delta.map_or("when asked".into(), |d| human_count(d.states)),
            human_count(v.states),
            human_bytes(v.bytes),
            last_job(&v.jobs),
        ]
    });
    let headers = [
        "view",
        "state",
        "behind",
        "delta",
        "states",
        "size",
        "last job (UTC)",
    ];
    fitted(&headers, rows.collect(), &[0, 6], style)
}

/// How a view stands, in a word.
fn state(view: &ViewStatus) -> &'static str {
    let fails = view.delta.as_ref().is_some_and(|d| d.failed.is_some());
    match (fails, view.edited) {
        (true, _) => "fails",
        (false, true) => "edited",
        (false, false) => "answers",
    }
}

/// The job that ran last, or the one that failed.
fn last_job(jobs: &[JobState]) -> String {
    let ran = jobs.iter().filter_map(|j| Some((j, j.last.as_ref()?)));
    let chosen = ran.max_by_key(|(_, last)| (last.outcome == "failed", last.started_at));
    chosen.map_or_else(
        || "never ran".to_owned(),
        |(job, last)| {
            let outcome = match last.outcome.as_str() {
                "done" => String::new(),
                other => format!(" {other}"),
            };
            format!(
                "{}{outcome} {}",
                job.job,
                last.started_at.format("%m-%d %H:%M")
            )
        },
    )
}

/// Which views have facts that met rows of references as they were before.
fn stale_notes(status: &Status) -> Vec<String> {
    let of_view = |view: &ViewStatus| {
        let name = view.view.clone();
        let note = move |(reference, facts): (&String, &u64)| {
            let facts = counted(*facts, "fact", "facts");
            format!(
                "view `{name}`: at most {facts} met rows of `{reference}` from before it last changed; `anabranch batch rebuild {name}` lets them meet the newest"
            )
        };
        view.stale.iter().map(note).collect::<Vec<_>>()
    };
    status.views.iter().flat_map(of_view).collect()
}

/// What the facts and views of the status lack that were there once.
fn retention_notes(status: &Status) -> Vec<String> {
    let topics = status.topics.iter().filter_map(|t| {
        let at = t.removed_before?.format("%Y-%m-%d %H:%M:%S UTC");
        let facts = counted(t.removed_facts, "fact", "facts");
        let (name, low) = (&t.topic, &t.low);
        let were = if t.removed_facts == 1 { "was" } else { "were" };
        Some(format!(
            "topic `{name}`: {facts} below [{low}], which had landed before {at}, {were} removed by retention"
        ))
    });
    let views = status.views.iter().filter_map(|v| {
        let (name, from) = (&v.view, v.from.as_ref()?);
        Some(format!(
            "view `{name}` starts at [{from}]: retention had removed the facts before when it was built"
        ))
    });
    topics.chain(views).collect()
}
