//! A plan in words.

use std::time::Duration;

use super::{Action, Plan, ViewChange};
use crate::output::{human_bytes, human_count, human_duration};

/// What is done, in a few words.
pub fn doing(change: &ViewChange) -> String {
    let live = match (change.live, &change.moved_from) {
        (None, _) => String::new(),
        (Some(live), None) => format!("g{live}"),
        (Some(live), Some(former)) => format!("g{live} of {former}"),
    };
    match (change.action, change.candidate) {
        (Action::Nothing, _) => "as it runs".to_owned(),
        (Action::Note, _) if change.sql.is_none() => "only its settings are noted".to_owned(),
        (Action::Note, _) => "only the text is noted".to_owned(),
        (Action::Copy, _) => format!("a new generation of the states of {live}"),
        (Action::Build, Some(candidate)) => {
            format!("go on with generation g{candidate}, beside {live}")
        }
        (Action::Build, None) => format!("build a new generation beside {live}"),
        (Action::First, _) => "build it for the first time".to_owned(),
        (Action::Drop, _) => format!("drop it, with {live}"),
        (Action::Refused, _) => "can't be done".to_owned(),
    }
}

/// What is said of a change, as names and texts.
pub fn details(change: &ViewChange) -> Vec<(&'static str, String)> {
    let mut all: Vec<(&str, String)> = change.why.iter().map(|why| ("why", why.clone())).collect();
    let stopped = change.stopped_by.iter();
    all.extend(stopped.map(|by| ("gate", format!("broken when it was compared: {by}"))));
    all.extend(change.settings.iter().map(|what| ("sets", what.clone())));
    match change.action {
        Action::Build | Action::First if change.facts == 0 => {
            all.push(("reads", "no fact".to_owned()));
        }
        Action::Build | Action::First => {
            let facts = human_count(change.facts);
            let took = change.seconds.map_or(String::new(), |seconds| {
                let took = Duration::from_secs_f64(seconds.max(0.0));
                format!(", about {}", human_duration(took))
            });
            all.push((
                "reads",
                format!("{facts} facts, {}{took}", human_bytes(change.bytes)),
            ));
        }
        Action::Copy => all.push(("reads", "no fact".to_owned())),
        _ => {}
    }
    if let (true, Some(live), Some(keeps)) = (change.is_candidate(), change.live, change.keeps_for)
    {
        let keeps = human_duration(Duration::from_secs_f64(keeps));
        all.push((
            "keeps",
            format!(
                "g{live} fresh for {keeps} after the cut-over, {}",
                human_bytes(change.keeps_bytes)
            ),
        ));
    }
    all
}

/// The plan for people.
pub fn text(plan: &Plan) -> String {
    let mut text = String::new();
    for topic in &plan.topics {
        text += &format!("topic {}: {}\n", topic.topic, topic.why);
    }
    for change in plan.views.iter().filter(|v| v.is_change()) {
        text += &format!("view {}: {}\n", change.view, doing(change));
        for (name, what) in details(change) {
            text += &format!("  {name:5}  {what}\n");
        }
        for line in change.sql.iter().flat_map(|sql| sql.lines()) {
            text += &format!("    {line}\n");
        }
    }
    let same = plan.views.iter().filter(|v| !v.is_change()).count();
    match (plan.has_changes(), same) {
        (false, _) => text += "nothing to do: what runs is what the project says\n",
        (true, 0) => {}
        (true, same) => text += &format!("{same} of {} views are as they run\n", plan.views.len()),
    }
    text
}
