//! What queries may take, from the project's settings and what the machine has.

use anabranch_serving::{QueryLimits, QueryMetrics, ServingOptions};
use anabranch_shared::settings::Project;
use anabranch_shared::sql::StatementBounds;

use crate::project::context::Context;

/// The folder of queries' temporary files, in that of the WAL.
const QUERIES_SPILL: &str = ".queries";

/// More queries at once than any machine answers.
const MOST_AT_ONCE: usize = 1_000_000;

/// The resident memory that a process may come to, from what its parts may: queries twice what they
/// are given, because not all of it is counted. At most nine tenths of the machine's.
fn process_bytes(project: &Project) -> Option<u64> {
    let daemon = &project.daemon;
    let parts = [
        daemon.memory_bytes,
        daemon.request_memory_bytes,
        project.batch.memory_bytes,
        project.query.memory_bytes,
        project.query.memory_bytes,
        1_000_000_000,
    ];
    let sum = parts
        .iter()
        .fold(0_u64, |sum, part| sum.saturating_add(*part));
    Some(sum.min(machine_bytes()? / 10 * 9))
}

/// Bytes of memory that the system gives this process at most, where it tells.
fn machine_bytes() -> Option<u64> {
    let memory = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = memory.lines().find(|l| l.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    let all = kib * 1_024;
    // A container's own bound; a word where it has none.
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = container.and_then(|text| text.trim().parse::<u64>().ok());
    Some(container.map_or(all, |bound| bound.min(all)))
}

impl Context {
    /// The bounds of queries.
    pub fn serving_options(&self) -> ServingOptions {
        let query = &self.project.query;
        ServingOptions {
            memory_bytes: usize::try_from(query.memory_bytes).unwrap_or(usize::MAX),
            threads: threads(query.threads),
            timeout: query.timeout,
            limits: self.query_limits(),
            metrics: QueryMetrics::default(),
            auditor: None,
        }
    }

    /// What queries may take besides, from the project's settings.
    fn query_limits(&self) -> QueryLimits {
        let query = &self.project.query;
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(MOST_AT_ONCE);
        QueryLimits {
            statement: StatementBounds {
                bytes: usize::try_from(query.max_statement_bytes).unwrap_or(usize::MAX),
                terms: query.max_terms,
            },
            function_bytes: query.max_function_bytes,
            at_once: count(query.at_once),
            pin_for: self.project.storage.grace / 2,
            waiting: count(query.waiting),
            process_bytes: query.process_bytes.or_else(|| process_bytes(&self.project)),
            spill_bytes: query.spill_bytes,
            spill_dir: Some(self.project.daemon.wal.join(QUERIES_SPILL)),
            verifications: count(query.verifications),
            verify_timeout: query.verify_timeout,
            slow: None,
        }
    }
}

/// A number of threads, 0 being all cores.
pub fn threads(setting: usize) -> usize {
    match setting {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}
