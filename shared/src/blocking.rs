//! Work that would hold up the threads that serve I/O.

use crate::{Error, Result};

/// Runs something that computes for long outside the threads that serve I/O.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::Internal(format!("a worker thread ended: {e}"))),
    }
}
