//! How a view is run, as opposed to what it computes: its schedules, its export, its gate. The catalogue
//! keeps it, so that every machine runs a view as the project had it that was last applied.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{GateSettings, ViewSettings};

/// How long the former generation is kept where nothing is said.
const KEPT: Duration = Duration::from_secs(24 * 3_600);

/// The time zone of schedules where nothing is said.
const ZONE: &str = "UTC";

/// What a project says of how a view is run: values by the names of their settings. What is as it is by
/// default is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunSettings(BTreeMap<String, String>);

impl RunSettings {
    /// What differs in a later one, each in a few words.
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(later.0.keys()).collect();
        let value = |of: &Self, name: &String| of.0.get(name).cloned().unwrap_or("unset".into());
        let differing = names
            .into_iter()
            .filter(|name| self.0.get(*name) != later.0.get(*name));
        let told =
            differing.map(|name| format!("{name}: {} → {}", value(self, name), value(later, name)));
        told.collect()
    }
}

impl ViewSettings {
    /// How the view is run.
    pub fn run(&self) -> RunSettings {
        let time = |duration: Duration| humantime::format_duration(duration).to_string();
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        let mut add = |name: &str, value: Option<String>| {
            all.extend(value.map(|value| (name.to_owned(), value)));
        };
        add("refresh_every", self.refresh_every.map(time));
        add("rebuild_cron", self.rebuild_cron.clone());
        add("verify_cron", self.verify_cron.clone());
        add(
            "timezone",
            (self.timezone != ZONE).then(|| self.timezone.clone()),
        );
        add("export", self.export.then(|| "true".to_owned()));
        let kept = self.keep_previous.map_or("off".to_owned(), time);
        add(
            "keep_previous",
            (self.keep_previous != Some(KEPT)).then_some(kept),
        );
        self.gate
            .each(|name, limit| add(&format!("gate.{name}"), Some(limit)));
        RunSettings(all)
    }

    /// The view, run as is said there. Its gate stays the project's: it judges what that one says.
    pub fn run_as(&self, run: &RunSettings) -> Self {
        let get = |name: &str| run.0.get(name).cloned();
        let time = |text: String| humantime::parse_duration(&text).ok();
        Self {
            refresh_every: get("refresh_every").and_then(time),
            rebuild_cron: get("rebuild_cron"),
            verify_cron: get("verify_cron"),
            timezone: get("timezone").unwrap_or_else(|| ZONE.to_owned()),
            export: get("export").is_some(),
            keep_previous: get("keep_previous").map_or(Some(KEPT), time),
            ..self.clone()
        }
    }

    /// A view that the project has not, which is run as is said there.
    pub fn of_catalogue(name: &str, sql: &str, run: &RunSettings) -> Self {
        let bare = Self {
            name: name.to_owned(),
            sql_path: Default::default(),
            sql_text: sql.to_owned(),
            refresh_every: None,
            rebuild_cron: None,
            verify_cron: None,
            timezone: ZONE.to_owned(),
            export: false,
            keep_previous: None,
            moved: None,
            gate: GateSettings::default(),
        };
        bare.run_as(run)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::settings::{ColumnGate, Limit};

    #[test]
    fn what_is_noted_is_run() {
        let plain = ViewSettings::of_catalogue("v", "SELECT 1", &RunSettings::default());
        assert_eq!(plain.run(), RunSettings::default());
        let columns = ColumnGate {
            rows_changed: None,
            total_changed: Some(Limit::Percent(0.5)),
        };
        let settings = ViewSettings {
            refresh_every: Some(Duration::from_secs(90)),
            rebuild_cron: Some("0 3 * * *".into()),
            timezone: "Europe/Berlin".into(),
            export: true,
            keep_previous: None,
            gate: GateSettings {
                keys_lost: Some(Limit::Count(0)),
                columns: BTreeMap::from([("*".into(), columns)]),
                ..GateSettings::default()
            },
            ..plain.clone()
        };
        let run = settings.run();
        let stored = serde_json::to_string(&run).unwrap();
        assert_eq!(run, serde_json::from_str(&stored).unwrap());
        let again = ViewSettings {
            gate: settings.gate.clone(),
            ..plain.run_as(&run)
        };
        assert_eq!(again, settings);
        let plain = plain.run();
        assert_eq!(
            plain.differences(&run),
            [
                "export: unset → true",
                "gate.columns.*.total_changed: unset → 0.5%",
                "gate.keys_lost: unset → 0",
                "keep_previous: unset → off",
                "rebuild_cron: unset → 0 3 * * *",
                "refresh_every: unset → 1m 30s",
                "timezone: unset → Europe/Berlin",
            ]
        );
        assert!(run.differences(&run.clone()).is_empty());
    }
}
