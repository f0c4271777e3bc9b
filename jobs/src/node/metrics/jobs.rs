//! Jobs of views, as the history tells: those of this process and those of others.

use std::collections::BTreeSet;
use std::time::Duration;

use anabranch_shared::metrics::{Histograms, histograms, register, work_times};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::project::job_history::{EndedJob, LastRows};

/// The job that something is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OfJob {
    view: String,
    job: String,
}

/// The job, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    view: String,
    job: String,
    outcome: String,
}

/// How jobs end in the history.
const OUTCOMES: [&str; 3] = ["done", "failed", "stopped"];

/// How jobs of views have ended since the node started, and when each last ended well.
#[derive(Debug)]
pub(crate) struct JobMetrics {
    times: Histograms<OfJob>,
    ended: Family<Ended, Counter>,
    facts: Family<OfJob, Counter>,
    last_success: Family<OfJob, Gauge>,
    /// Those that are told of.
    known: Mutex<BTreeSet<OfJob>>,
}

impl Default for JobMetrics {
    fn default() -> Self {
        Self {
            times: histograms(work_times),
            ended: Family::default(),
            facts: Family::default(),
            last_success: Family::default(),
            known: Mutex::default(),
        }
    }
}

impl OfJob {
    fn of((view, job): &(String, String)) -> Self {
        Self {
            view: view.clone(),
            job: job.clone(),
        }
    }

    fn ended(&self, outcome: &str) -> Ended {
        Ended {
            view: self.view.clone(),
            job: self.job.clone(),
            outcome: outcome.to_owned(),
        }
    }
}

impl JobMetrics {
    /// Lets whoever reads a registry see all of this.
    pub(super) fn register(&self, registry: &mut Registry) {
        register(
            registry,
            "anabranch_job_seconds",
            "How long jobs of views took that ended well",
            self.times.clone(),
        );
        register(
            registry,
            "anabranch_jobs_total",
            "Jobs of views that ended since the node started, whoever ran them",
            self.ended.clone(),
        );
        register(
            registry,
            "anabranch_job_facts_total",
            "Facts that jobs of views have read since the node started",
            self.facts.clone(),
        );
        register(
            registry,
            "anabranch_job_last_success_timestamp_seconds",
            "When a job of a view last ended well, in seconds since 1970",
            self.last_success.clone(),
        );
    }

    /// Takes what was read of the history. Jobs of views that are not known any more are told of no
    /// longer: nobody could make up for one that was long ago.
    pub(crate) fn note(&self, history: &mut LastRows, is_known: impl Fn(&str) -> bool) {
        for job in history.take_ended() {
            self.note_ended(&job);
        }
        for (key, at_us) in history.done() {
            let job = OfJob::of(key);
            let at = self.last_success.get_or_create(&job);
            at.set(at_us.div_euclid(1_000_000));
            self.known.lock().insert(job);
        }
        self.retain(is_known);
    }

    fn note_ended(&self, ended: &EndedJob) {
        let job = OfJob::of(&ended.key);
        // So that the first failure is seen to be one more.
        for outcome in OUTCOMES {
            drop(self.ended.get_or_create(&job.ended(outcome)));
        }
        self.ended.get_or_create(&job.ended(&ended.outcome)).inc();
        let facts = u64::try_from(ended.facts).unwrap_or(0);
        self.facts.get_or_create(&job).inc_by(facts);
        if ended.outcome == "done" {
            let took_us = u64::try_from(ended.ended_at - ended.started_at).unwrap_or(0);
            let took = Duration::from_micros(took_us).as_secs_f64();
            self.times.get_or_create(&job).observe(took);
        }
        self.known.lock().insert(job);
    }

    fn retain(&self, is_known: impl Fn(&str) -> bool) {
        self.known.lock().retain(|job| {
            let stays = is_known(&job.view);
            if !stays {
                self.times.remove(job);
                self.facts.remove(job);
                self.last_success.remove(job);
                for outcome in OUTCOMES {
                    self.ended.remove(&job.ended(outcome));
                }
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn jobs_are_counted_by_how_they_end_while_their_view_is_known() {
        let metrics = JobMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let text = || {
            let mut text = String::new();
            assert!(encode(&mut text, &registry).is_ok());
            text
        };
        let job = |view: &str, outcome: &str, ended_at| EndedJob {
            key: (view.to_owned(), "refresh".to_owned()),
            outcome: outcome.to_owned(),
            started_at: 0,
            ended_at,
            facts: 10,
        };
        metrics.note_ended(&job("a", "done", 2_000_000));
        let labels = "view=\"a\",job=\"refresh\"";
        let none = format!("anabranch_jobs_total{{{labels},outcome=\"failed\"}} 0");
        assert!(text().contains(&none), "{}", text());
        metrics.note_ended(&job("a", "failed", 9_000_000));
        metrics.note_ended(&job("b", "failed", 9_000_000));
        let told = text();
        for sample in [
            format!("anabranch_jobs_total{{{labels},outcome=\"done\"}} 1"),
            format!("anabranch_jobs_total{{{labels},outcome=\"failed\"}} 1"),
            format!("anabranch_job_facts_total{{{labels}}} 20"),
            format!("anabranch_job_seconds_count{{{labels}}} 1"),
            format!("anabranch_job_seconds_bucket{{le=\"1.0\",{labels}}} 0"),
            format!("anabranch_job_seconds_bucket{{le=\"5.0\",{labels}}} 1"),
        ] {
            assert!(
                told.lines().any(|l| l == sample),
                "no `{sample}` in\n{told}"
            );
        }
        metrics.retain(|view| view == "a");
        let told = text();
        assert!(
            told.contains("view=\"a\"") && !told.contains("view=\"b\""),
            "{told}"
        );
    }
}
