//! What somebody wants to be done, checked against what runs, and the command that does the same.

use anabranch_serving::Identity;
use anabranch_shared::{Error, Generation, Result};
use serde::Deserialize;

use super::may_read_all_of;
use crate::project::context::{Context, no_view};
use crate::work::apply::whole::check;
use crate::work::dead_letters::{Place, RetryRequest};
use crate::work::judge::sides;
use crate::work::plan::{Plan, plan};

/// The most dead letters that are retried at once, as many as the command takes by itself.
const MOST_RETRIED: u64 = 100_000;

/// What is to be done.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(in crate::node) enum OperationRequest {
    /// Absorbs what landed since the last build of a view.
    Refresh { view: String },
    /// Builds a view anew from the whole log, by the definition that answers.
    Rebuild { view: String },
    /// Compares a view's answer with a recompute.
    Verify { view: String },
    /// Compares two generations of a view.
    Diff {
        view: String,
        a: Option<String>,
        b: Option<String>,
        #[serde(rename = "where")]
        only_where: Option<String>,
    },
    /// Does what a plan says.
    Apply {
        /// The id of the plan that was shown.
        plan: String,
        /// The views that it was made of; all where there is none.
        #[serde(default)]
        views: Vec<String>,
        /// Whether it cuts over, unless a gate is broken.
        cut_over: bool,
        message: Option<String>,
    },
    /// Makes the previous generation answer again.
    RollBack {
        view: String,
        /// The one that answers now, as it was shown.
        generation: Generation,
        message: Option<String>,
    },
    /// Retries dead letters.
    Retry {
        topic: String,
        #[serde(default)]
        places: Vec<String>,
        #[serde(rename = "where")]
        filter: Option<String>,
        fix: Option<String>,
        dry_run: bool,
    },
}

/// A request that can be begun.
#[derive(Clone, Debug)]
pub(in crate::node) struct Prepared {
    pub(super) request: OperationRequest,
    /// What it is about, in a few words.
    pub(super) of: String,
    /// The command that does the same.
    pub(super) command: String,
    /// Relations of which rows are shown.
    pub(super) reads: Vec<String>,
}

/// A command of which each word is quoted where a shell would take it apart.
#[derive(Debug)]
struct Words(Vec<String>);

impl Words {
    fn new(words: &[&str]) -> Self {
        let mut all = Self(vec!["anabranch".to_owned()]);
        words.iter().for_each(|word| all.add(word));
        all
    }

    fn add(&mut self, word: &str) {
        // What no shell takes, such as a byte of zero, is shown escaped.
        let quoted = shlex::try_quote(word).map(std::borrow::Cow::into_owned);
        self.0
            .push(quoted.unwrap_or_else(|_| word.escape_debug().to_string()));
    }

    /// An option with its value, where there is one.
    fn option(&mut self, name: &str, value: Option<&String>) {
        if let Some(value) = value {
            self.add(name);
            self.add(value);
        }
    }

    fn text(self) -> String {
        self.0.join(" ")
    }
}

impl OperationRequest {
    /// Its name.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Refresh { .. } => "refresh",
            Self::Rebuild { .. } => "rebuild",
            Self::Verify { .. } => "verify",
            Self::Diff { .. } => "diff",
            Self::Apply { .. } => "apply",
            Self::RollBack { .. } => "roll_back",
            Self::Retry { .. } => "retry",
        }
    }

    /// Whether it writes states, or changes what answers.
    pub(super) fn writes_views(&self) -> bool {
        !matches!(
            self,
            Self::Verify { .. } | Self::Diff { .. } | Self::Retry { .. }
        )
    }

    /// Checks it against what runs, and what somebody may do.
    ///
    /// # Errors
    /// `Conflict` where what was shown is not so any more; `Denied`, `NotFound` and `Invalid` as the commands.
    pub(in crate::node) async fn prepare(
        self,
        context: &Context,
        identity: &Identity,
    ) -> Result<Prepared> {
        let reads = match &self {
            Self::Refresh { view } | Self::Rebuild { view } => {
                let views = &context.project.views;
                if !views.iter().any(|v| v.name == *view) {
                    return Err(no_view(view, views.iter().map(|v| &v.name)));
                }
                vec![view.clone()]
            }
            Self::Verify { view } => {
                let entry = context.catalogue.current();
                let answers = entry.views.get(view).is_some_and(|v| v.live.is_some());
                match answers {
                    true => vec![view.clone()],
                    false => return Err(no_view(view, entry.views.keys())),
                }
            }
            Self::Diff { view, a, b, .. } => {
                sides(context, view, a.as_deref(), b.as_deref())?;
                vec![view.clone()]
            }
            Self::Apply { plan, views, .. } => {
                let planned = planned_as(context, plan, views).await?;
                if !planned.has_changes() {
                    return Err(Error::Conflict(
                        "there is nothing to do: what runs is what the project says".into(),
                    ));
                }
                planned.views.into_iter().map(|v| v.view).collect()
            }
            Self::RollBack {
                view, generation, ..
            } => {
                answers_by(context, view, *generation)?;
                vec![view.clone()]
            }
            Self::Retry { topic, .. } => {
                context.topic_settings(topic)?;
                if !identity.rights().may_ingest(topic) {
                    return Err(identity.denied(&format!("send facts of topic `{topic}`")));
                }
                self.retry()?;
                vec!["dead_letters".to_owned()]
            }
        };
        may_read_all_of(identity, reads.iter().map(String::as_str))?;
        Ok(Prepared {
            of: self.of(),
            command: self.command(),
            reads,
            request: self,
        })
    }

    /// What it is about.
    fn of(&self) -> String {
        match self {
            Self::Refresh { view }
            | Self::Rebuild { view }
            | Self::Verify { view }
            | Self::Diff { view, .. }
            | Self::RollBack { view, .. } => view.clone(),
            Self::Apply { views, .. } if views.is_empty() => "all views".to_owned(),
            Self::Apply { views, .. } => views.join(", "),
            Self::Retry { topic, .. } => format!("topic {topic}"),
        }
    }

    /// The command that does the same.
    fn command(&self) -> String {
        let words = match self {
            Self::Refresh { view } => Words::new(&["batch", "refresh", view]),
            Self::Rebuild { view } => Words::new(&["batch", "rebuild", view]),
            Self::Verify { view } => Words::new(&["verify", view]),
            Self::Diff {
                view,
                a,
                b,
                only_where,
            } => {
                let mut words = Words::new(&["diff", view]);
                let live = "live".to_owned();
                // The first can't be left out before the second.
                let a = a.as_ref().or_else(|| b.as_ref().map(|_| &live));
                a.into_iter().chain(b).for_each(|word| words.add(word));
                words.option("--where", only_where.as_ref());
                words
            }
            Self::Apply {
                plan,
                views,
                cut_over,
                message,
            } => {
                let mut words = Words::new(&["apply", plan, "--yes"]);
                for view in views {
                    words.option("--view", Some(view));
                }
                if !cut_over {
                    words.add("--no-cut-over");
                }
                words.option("--message", message.as_ref());
                words
            }
            Self::RollBack { view, message, .. } => {
                let mut words = Words::new(&["rollback", view]);
                words.option("--message", message.as_ref());
                words
            }
            Self::Retry {
                topic,
                places,
                filter,
                fix,
                dry_run,
            } => {
                let mut words = Words::new(&["dead-letters", "retry", topic]);
                places.iter().for_each(|place| words.add(place));
                words.option("--where", filter.as_ref());
                words.option("--fix", fix.as_ref());
                if *dry_run {
                    words.add("--dry-run");
                }
                words
            }
        };
        words.text()
    }

    /// What is retried, where that is what is to be done.
    pub(super) fn retry(&self) -> Result<Option<RetryRequest>> {
        let Self::Retry {
            topic,
            places,
            filter,
            fix,
            dry_run,
        } = self
        else {
            return Ok(None);
        };
        if !places.is_empty() && filter.is_some() {
            return Err(Error::Invalid(
                "either `places` or `where` says which dead letters are meant".into(),
            ));
        }
        let places = places.iter().map(|place| place.parse::<Place>());
        Ok(Some(RetryRequest {
            topic: topic.clone(),
            places: places
                .collect::<std::result::Result<_, _>>()
                .map_err(Error::Invalid)?,
            filter: filter.clone(),
            fix: fix.clone(),
            limit: MOST_RETRIED,
            dry_run: *dry_run,
        }))
    }
}

/// The plan of some views, or of all, as it was shown; reads only.
///
/// # Errors
/// `Conflict` where it is another one by now, `Invalid` where it can't be done.
pub(super) async fn planned_as(context: &Context, shown: &str, views: &[String]) -> Result<Plan> {
    let planned = plan(context, views).await?;
    check(&planned, Some(shown), false)?;
    Ok(planned)
}

/// Refuses where another generation of a view answers than was shown.
pub(super) fn answers_by(context: &Context, view: &str, shown: Generation) -> Result<()> {
    let entry = context.catalogue.current();
    let known = entry.views.get(view).and_then(|v| v.live.as_ref());
    let known = known.ok_or_else(|| no_view(view, entry.views.keys()))?;
    match known.generation == shown {
        true => Ok(()),
        false => Err(Error::Conflict(format!(
            "view `{view}` answers by g{} by now, not by g{shown}; look again",
            known.generation
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn command(request: &str) -> String {
        let request: OperationRequest = serde_json::from_str(request).unwrap();
        request.command()
    }

    #[test]
    fn commands_can_be_typed_as_they_are_shown() {
        for (request, wanted) in [
            (
                r#"{"do": "refresh", "view": "words"}"#,
                "anabranch batch refresh words",
            ),
            (
                r#"{"do": "diff", "view": "words", "b": "g6", "where": "n > 1"}"#,
                "anabranch diff words live g6 --where 'n > 1'",
            ),
            (
                r#"{"do": "apply", "plan": "3f", "cut_over": false, "views": ["a", "b"]}"#,
                "anabranch apply 3f --yes --view a --view b --no-cut-over",
            ),
            (
                r#"{"do": "roll_back", "view": "w", "generation": 4, "message": "it's $(rm)"}"#,
                "anabranch rollback w --message \"it's \"'$(rm)'",
            ),
            (
                r#"{"do": "retry", "topic": "t", "places": ["0:1"], "dry_run": true}"#,
                "anabranch dead-letters retry t 0:1 --dry-run",
            ),
        ] {
            let shown = command(request);
            assert_eq!(shown, wanted);
            let typed = shlex::split(&shown).unwrap();
            assert!(typed.len() > 2 && typed[0] == "anabranch", "{typed:?}");
        }
        let message = r#"{"do": "roll_back", "view": "w", "generation": 4, "message": "a 'b' \"c\" `d`\n$e"}"#;
        let typed = shlex::split(&command(message)).unwrap();
        assert_eq!(typed.last().unwrap(), "a 'b' \"c\" `d`\n$e");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for wrong in [
            r#"{"do": "refresh"}"#,
            r#"{"do": "refresh", "view": "w", "more": 1}"#,
            r#"{"do": "drop", "view": "w"}"#,
            r#"{"do": "apply", "plan": "3f"}"#,
            r#"{"view": "w"}"#,
        ] {
            assert!(
                serde_json::from_str::<OperationRequest>(wrong).is_err(),
                "{wrong}"
            );
        }
        let both =
            r#"{"do": "retry", "topic": "t", "places": ["0:1"], "where": "true", "dry_run": true}"#;
        let both: OperationRequest = serde_json::from_str(both).unwrap();
        assert!(both.retry().is_err());
        let place = r#"{"do": "retry", "topic": "t", "places": ["0"], "dry_run": true}"#;
        let place: OperationRequest = serde_json::from_str(place).unwrap();
        assert!(
            place
                .retry()
                .unwrap_err()
                .to_string()
                .contains("PARTITION:OFFSET")
        );
    }
}
