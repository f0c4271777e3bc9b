//! The bound of what requests in flight take: room is taken for what has come of a body, never for
//! what it is said to have. How fast they have to come is the server's.

use std::sync::Arc;

use anabranch_shared::{Error, Result};
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::refusal::{Unread, unread};
use crate::intake::body::RequestMemory;
use crate::options::DaemonOptions;

/// Memory that is taken first for a body, in bytes.
const FIRST_BYTES: usize = 16 << 10;

/// Room is counted in units of so many bytes.
const UNIT_BYTES: u64 = 1_024;

/// Room for the bodies of requests.
#[derive(Clone, Debug)]
pub(crate) struct RequestRoom {
    units: Arc<Semaphore>,
    bound_bytes: u64,
}

/// Room that one request has; given back when this is dropped.
#[derive(Debug)]
pub(crate) struct RequestPermit {
    room: RequestRoom,
    /// None before the first byte.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl RequestRoom {
    pub(crate) fn new(options: &DaemonOptions) -> Self {
        Self::of(options.request_memory_bytes)
    }

    fn of(bytes: u64) -> Self {
        let units = bytes.div_ceil(UNIT_BYTES);
        let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
        let units = usize::try_from(units).unwrap_or(most).clamp(1, most);
        Self {
            units: Arc::new(Semaphore::new(units)),
            bound_bytes: units as u64 * UNIT_BYTES,
        }
    }

    /// How many units a request of so many bytes needs. One that is larger than all the room is
    /// taken in alone.
    fn needed(&self, bytes: u64) -> usize {
        let units = bytes.min(self.bound_bytes).div_ceil(UNIT_BYTES);
        usize::try_from(units).unwrap_or(usize::MAX)
    }
}

impl RequestMemory for RequestPermit {
    fn grow(&self, bytes: u64) -> Result<()> {
        let mut permit = self.permit.lock();
        let held = permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = self.room.needed(bytes).saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let more = self.room.units.clone().try_acquire_many_owned(more);
        let more = more.map_err(|_| {
            Error::NoRoom(format!(
                "requests in flight take all of {} MB (`request_memory` in `[daemon]`); send it again in a moment",
                self.room.bound_bytes / 1_000_000
            ))
        })?;
        match permit.as_mut() {
            Some(held) => held.merge(more),
            None => *permit = Some(more),
        }
        Ok(())
    }

    fn settle(&self, bytes: u64) {
        let mut permit = self.permit.lock();
        if let Some(held) = permit.as_mut() {
            let spare = held.num_permits().saturating_sub(self.room.needed(bytes));
            drop(held.split(spare));
        }
    }
}

/// Answers 413 to a request that says itself that its body is too large; gives others a claim on
/// the room, which is taken as their bodies come.
pub(crate) async fn within_room(
    State((room, limit)): State<(RequestRoom, u64)>,
    mut request: Request,
    next: Next,
) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|v| v.to_str().ok()?.trim().parse().ok());
    if length.is_some_and(|length| length > limit) {
        return unread(Unread::TooLarge, limit);
    }
    let taken = RequestPermit {
        room,
        permit: Mutex::default(),
    };
    request.extensions_mut().insert(Arc::new(taken));
    next.run(request).await
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read_body(
    body: Body,
    taken: &RequestPermit,
    limit: u64,
) -> std::result::Result<Bytes, Unread> {
    // What it is said to have bounds what is taken ahead, and takes nothing itself.
    let stated = body.size_hint().exact().unwrap_or(limit).min(limit);
    let stated = usize::try_from(stated).unwrap_or(usize::MAX);
    let mut chunks = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| Unread::Broken(e.to_string()))?;
        let bytes = whole.len() + chunk.len();
        if bytes as u64 > limit {
            return Err(Unread::TooLarge);
        }
        if bytes > whole.capacity() {
            // A half more at a time, so that it holds little more than what came. While it grows,
            // what it was and what it will be are both there.
            let held = whole.capacity();
            let ahead = (held + held / 2).max(FIRST_BYTES).min(stated);
            let grown = bytes.max(ahead);
            taken.grow((grown + held) as u64).map_err(Unread::NoRoom)?;
            whole.reserve_exact(grown - whole.len());
            taken.settle(grown as u64);
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(room: &RequestRoom) -> RequestPermit {
        RequestPermit {
            room: room.clone(),
            permit: Mutex::default(),
        }
    }

    /// What a body grows to counts, whatever was said of it before, until its request has ended.
    #[test]
    fn room_is_taken_as_bodies_grow() {
        let room = RequestRoom::of(10 * UNIT_BYTES);
        let (a, b) = (taken(&room), taken(&room));
        assert!(a.grow(1).is_ok() && b.grow(0).is_ok());
        assert!(a.grow(4 * UNIT_BYTES).is_ok() && b.grow(6 * UNIT_BYTES).is_ok());
        // What is held already is not taken again.
        assert!(a.grow(3 * UNIT_BYTES).is_ok());
        let refused = a.grow(4 * UNIT_BYTES + 1);
        assert!(matches!(refused, Err(Error::NoRoom(_))), "{refused:?}");
        // What is not needed any more is given back.
        a.settle(2 * UNIT_BYTES);
        assert!(a.grow(4 * UNIT_BYTES).is_ok());
        drop(b);
        // One that is larger than all the room is taken in alone.
        assert!(a.grow(1 << 40).is_ok());
        assert!(taken(&room).grow(1).is_err());
        drop(a);
        assert!(taken(&room).grow(10 * UNIT_BYTES).is_ok());
    }
}
