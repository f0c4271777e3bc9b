//! What `/ready` says. Red is a node that can't take facts or can't answer at all, so that a load
//! balancer leaves it alone. What only needs somebody's attention is named, and turns red where
//! that is asked for: another node would have the same trouble.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_serving::Access;
use anabranch_shared::Result;
use anabranch_speed::{Daemon, Doing, KafkaSource};
use parking_lot::Mutex;

use crate::clock::now_us;
use crate::node::audit::Audit;
use crate::node::door::Connections;
use crate::node::metrics::{JobMetrics, NodeMetrics};
use crate::node::peers::PeerList;
use crate::project::context::Context;
use crate::project::job_history::LastRows;
use crate::reader::presence::Address;
use crate::tasks::Tasks;
use crate::work::job_states::{FailedJob, last_failures};

/// How often it is looked whether jobs have ended.
const LOOK_AT_JOBS: Duration = Duration::from_secs(5);

/// With fewer descriptors left than this a node is red: a landing or a query needs some.
const LEAST_DESCRIPTORS: usize = 8;

/// What is known of a node besides its daemon.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) daemon: Arc<Daemon>,
    /// Its tasks, in groups that stop one after another.
    pub(super) tasks: [Arc<Tasks>; 3],
    /// Why its address could not be renewed in the storage, where the last try failed.
    pub(super) renewal: Arc<Mutex<Option<String>>>,
    pub(super) connections: Arc<Connections>,
    pub(super) peers: Arc<PeerList>,
    /// Who may come in.
    pub(super) access: Access,
    /// What is written of what users ask, if anything.
    pub(super) audit: Option<Arc<Audit>>,
    /// The jobs that failed when they last ran.
    pub(super) failed_jobs: Mutex<Vec<FailedJob>>,
    pub(super) is_stopping: AtomicBool,
}

/// Something that needs attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attention {
    pub(super) kind: AttentionKind,
    /// What it is about: labels of its metric.
    pub(super) labels: Vec<(&'static str, String)>,
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttentionKind {
    ViewFails,
    JobFails,
    ViewDiffers,
    PartitionUnread,
    TopicUntaken,
    NotFollowing,
    AccessFails,
}

impl AttentionKind {
    pub(super) const ALL: [Self; 7] = [
        Self::ViewFails,
        Self::JobFails,
        Self::ViewDiffers,
        Self::PartitionUnread,
        Self::TopicUntaken,
        Self::NotFollowing,
        Self::AccessFails,
    ];

    /// The name and the meaning of its metric.
    pub(super) fn metric(self) -> (&'static str, &'static str) {
        match self {
            Self::ViewFails => ("anabranch_view_fails", "1 for a view that does not answer"),
            Self::JobFails => (
                "anabranch_job_fails",
                "1 for a job of a view that failed when it last ran",
            ),
            Self::ViewDiffers => (
                "anabranch_view_differs",
                "1 for a view that its last verification found different from its definition",
            ),
            Self::PartitionUnread => (
                "anabranch_partition_unread",
                "1 for a partition of Kafka that this daemon does not read and that has nobody known to",
            ),
            Self::TopicUntaken => (
                "anabranch_topic_untaken",
                "1 for a topic of which this daemon could not take what was declared",
            ),
            Self::NotFollowing => (
                "anabranch_following_fails",
                "1 for a topic whose log could not be followed when it was last tried",
            ),
            Self::AccessFails => (
                "anabranch_access_fails",
                "1 for the file of users, or the certificate, that can't be read as it is now, and for the audit log that can't be written",
            ),
        }
    }
}

/// Whether a node is ready.
#[derive(Clone, Debug)]
pub(super) struct Readiness {
    /// Why it can't take facts or can't answer, by what is at fault.
    pub(super) red: BTreeMap<String, String>,
    pub(super) attention: Vec<Attention>,
}

impl Node {
    /// Looks how it stands with the node.
    pub(super) fn readiness(&self) -> Readiness {
        Readiness {
            red: self.red(),
            attention: self.attention(),
        }
    }

    /// For each topic the partitions of Kafka's that no daemon of the storage is known to read.
    fn unread(&self) -> BTreeMap<String, Vec<i32>> {
        let others = self.peers.known();
        let unread = |(topic, source): (&String, &Arc<KafkaSource>)| {
            let state = source.state();
            let mut unread = match state.stopped {
                None => state.unread(),
                Some(_) => Vec::new(),
            };
            let reads = |p: &i32| {
                let of =
                    |(a, _): &(Address, bool)| a.reads.get(topic).is_some_and(|r| r.contains(p));
                others.iter().any(of)
            };
            unread.retain(|p| !reads(p));
            (!unread.is_empty()).then(|| (topic.clone(), unread))
        };
        self.daemon.sources().iter().filter_map(unread).collect()
    }

    /// The tasks that have ended, and why.
    pub(super) fn ended_tasks(&self) -> BTreeMap<String, String> {
        let ended = self.tasks.iter().flat_map(|tasks| tasks.ended());
        ended.map(|(name, why)| (name.to_owned(), why)).collect()
    }

    fn red(&self) -> BTreeMap<String, String> {
        let mut red = BTreeMap::new();
        if self.is_stopping.load(Ordering::Relaxed) {
            red.insert("daemon".to_owned(), "it is stopping".to_owned());
        }
        if let Some(e) = self.daemon.failure() {
            red.insert("daemon".to_owned(), e.to_string());
        }
        for (name, why) in self.ended_tasks() {
            red.insert(format!("task {name}"), why);
        }
        for (name, stream) in self.daemon.topics().iter() {
            let landing = stream.upkeep().trouble_of(Doing::Landing);
            let trouble = stream.writer().trouble().or(landing);
            red.extend(trouble.map(|why| (format!("topic {name}"), why)));
        }
        if let Some(why) = self.renewal.lock().clone() {
            let why = format!("the daemon's address can't be renewed: {why}");
            red.insert("storage".to_owned(), why);
        }
        if let Some(why) = no_descriptors() {
            red.insert("descriptors".to_owned(), why);
        }
        red
    }

    fn attention(&self) -> Vec<Attention> {
        let mut all = Vec::new();
        let mut add = |kind, labels, text| all.push(Attention { kind, labels, text });
        for (view, why) in self.daemon.views_that_fail() {
            add(
                AttentionKind::ViewFails,
                vec![("view", view.clone())],
                format!("view `{view}` does not answer: {why}"),
            );
        }
        for job in self.failed_jobs.lock().iter() {
            let labels = vec![("view", job.view.clone()), ("job", job.job.to_owned())];
            match job.differs {
                true => {
                    let labels = vec![("view", job.view.clone())];
                    add(AttentionKind::ViewDiffers, labels, job.text.clone());
                }
                false => add(AttentionKind::JobFails, labels, job.text.clone()),
            }
        }
        for (topic, partitions) in self.unread() {
            for partition in partitions {
                let labels = vec![
                    ("topic", topic.clone()),
                    ("partition", partition.to_string()),
                ];
                add(
                    AttentionKind::PartitionUnread,
                    labels,
                    format!(
                        "topic `{topic}`: nobody is known to read partition {partition} of Kafka's topic"
                    ),
                );
            }
        }
        for (topic, why) in self.daemon.untaken() {
            let text = format!("{why}; it is tried again");
            add(AttentionKind::TopicUntaken, vec![("topic", topic)], text);
        }
        for (topic, stream) in self.daemon.topics().iter() {
            if let Some(why) = stream.upkeep().trouble_of(Doing::Following) {
                let text = format!("topic `{topic}`: {why}; it is tried again");
                add(
                    AttentionKind::NotFollowing,
                    vec![("topic", topic.clone())],
                    text,
                );
            }
        }
        let Access { users, tls } = &self.access;
        let troubles = [
            ("users", users.as_ref().and_then(|u| u.trouble())),
            ("certificate", tls.as_ref().and_then(|t| t.trouble())),
            ("audit", self.audit.as_ref().and_then(|a| a.trouble())),
        ];
        for (what, why) in troubles {
            let labels = vec![("what", what.to_owned())];
            all.extend(why.map(|text| Attention {
                kind: AttentionKind::AccessFails,
                labels,
                text,
            }));
        }
        all
    }

    /// Keeps up with how jobs end, whoever runs them, and counts those that end from now on.
    pub(super) async fn watch_jobs(self: Arc<Self>, context: Context, metrics: Arc<NodeMetrics>) {
        let mut watched = WatchedJobs {
            history: LastRows::telling_after(now_us()),
            has_looked: false,
        };
        loop {
            match watched.look(&context, &metrics.jobs).await {
                Ok(Some(failed)) => *self.failed_jobs.lock() = failed,
                Ok(None) => {}
                Err(e) => tracing::debug!(error = %e, "can't read how jobs ended"),
            }
            tokio::time::sleep(LOOK_AT_JOBS).await;
        }
    }
}

/// The history of jobs, as far as it was read.
struct WatchedJobs {
    history: LastRows,
    has_looked: bool,
}

impl WatchedJobs {
    /// The jobs that failed when they last ran; nothing where none has ended since the last look.
    async fn look(
        &mut self,
        context: &Context,
        metrics: &JobMetrics,
    ) -> Result<Option<Vec<FailedJob>>> {
        let moved = self.history.follow(&context.storage).await?;
        let (entry, project) = (context.catalogue.current(), &context.project);
        metrics.note(&mut self.history, |view| {
            let is_declared = entry.views.contains_key(view);
            is_declared || project.views.iter().any(|v| v.name == view)
        });
        if !moved && self.has_looked {
            return Ok(None);
        }
        self.has_looked = true;
        Ok(Some(last_failures(context, &self.history)))
    }
}

/// Why the process can open no more files, if it can't.
fn no_descriptors() -> Option<String> {
    let opened: std::io::Result<Vec<File>> = (0..LEAST_DESCRIPTORS)
        .map(|_| File::open("/dev/null"))
        .collect();
    let e = opened.err()?;
    Some(format!("fewer than {LEAST_DESCRIPTORS} are left: {e}"))
}

/// The topics with too many dead letters, and those whose source has stopped, and why.
pub(crate) fn topics_red(daemon: &Daemon) -> BTreeMap<String, String> {
    let (topics, sources) = (daemon.topics(), daemon.sources());
    let dead = topics
        .iter()
        .filter_map(|(name, stream)| Some((name.clone(), stream.writer().too_many_dead()?)));
    let stopped = sources
        .iter()
        .filter_map(|(name, source)| Some((name.clone(), source.state().stopped?)));
    dead.chain(stopped).collect()
}
