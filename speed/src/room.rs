//! The bound of what requests in flight take: bodies are taken in only while there is room.

use std::sync::Arc;

use anabranch_shared::Error;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::daemon::DaemonOptions;
use crate::http::refuse;

/// Room is counted in units of so many bytes.
const UNIT_BYTES: u64 = 1_024;

/// A compressed body counts as so many times its size, because it is taken apart in memory.
const COMPRESSED: u64 = 8;

/// Room for the bodies of requests.
#[derive(Clone, Debug)]
pub(crate) struct RequestRoom {
    units: Arc<Semaphore>,
    bound_bytes: u64,
    largest_bytes: u64,
}

impl RequestRoom {
    pub(crate) fn new(options: &DaemonOptions) -> Self {
        let units = options.request_memory_bytes.div_ceil(UNIT_BYTES);
        let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
        let units = usize::try_from(units).unwrap_or(most).clamp(1, most);
        Self {
            units: Arc::new(Semaphore::new(units)),
            bound_bytes: units as u64 * UNIT_BYTES,
            largest_bytes: options.max_request_bytes,
        }
    }

    /// Takes room for a body; none where others have it. One that is larger than all the room is
    /// taken in alone.
    fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = bytes.min(self.bound_bytes).div_ceil(UNIT_BYTES).max(1);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        self.units.clone().try_acquire_many_owned(units).ok()
    }

    /// How much room a request needs: a body of unknown length may be as large as any.
    fn needed(&self, request: &Request) -> u64 {
        let text = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
        let length = text(header::CONTENT_LENGTH).and_then(|v| v.trim().parse::<u64>().ok());
        let plain = text(header::CONTENT_ENCODING).is_none_or(|v| v.trim() == "identity");
        let needed = match (length, plain) {
            (Some(length), true) => length,
            (Some(length), false) => length.saturating_mul(COMPRESSED),
            (None, _) => self.largest_bytes,
        };
        needed.min(self.largest_bytes)
    }
}

/// Answers 503 where there is no room for a request's body.
pub(crate) async fn within_room(
    State(room): State<RequestRoom>,
    request: Request,
    next: Next,
) -> Response {
    match room.take(room.needed(&request)) {
        Some(_room) => next.run(request).await,
        None => refuse(&Error::NoRoom(format!(
            "requests in flight take all of {} MB (`request_memory` in `[daemon]`); send it again in a moment",
            room.bound_bytes / 1_000_000
        ))),
    }
}
