//! What queries may take, besides memory, threads and time.

use std::path::PathBuf;
use std::time::Duration;

use anabranch_shared::sql::StatementBounds;

/// What queries may take.
#[derive(Clone, Debug)]
pub struct QueryLimits {
    /// How large a statement may be.
    pub statement: StatementBounds,
    /// Bytes that one call of a function may make, over a batch of rows.
    pub function_bytes: u64,
    /// Queries that run at once; at least 1.
    pub at_once: usize,
    /// Queries that may wait for their turn.
    pub waiting: usize,
    /// Bytes of resident memory of the process from which on queries are refused and stopped; none
    /// for no bound.
    pub process_bytes: Option<u64>,
    /// Bytes of disk for temporary files; 0 for none.
    pub spill_bytes: u64,
    /// The folder of temporary files, made once one is needed; the system's where absent.
    pub spill_dir: Option<PathBuf>,
    /// Verifications that others ask for and that run at once; at least 1.
    pub verifications: usize,
    /// How long such a verification may take.
    pub verify_timeout: Duration,
    /// How long a transaction may read what it pinned: shorter than replaced files stay.
    pub pin_for: Duration,
    /// A query that takes this long is written to the log; none is where absent.
    pub slow: Option<Duration>,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            statement: StatementBounds::default(),
            function_bytes: 256_000_000,
            at_once: 16,
            waiting: 100,
            process_bytes: None,
            spill_bytes: 10_000_000_000,
            spill_dir: None,
            verifications: 2,
            verify_timeout: Duration::from_secs(60 * 60),
            pin_for: Duration::from_secs(30 * 60),
            slow: None,
        }
    }
}
