//! The bound of what requests in flight take: room is taken for what has come of a body, never for
//! what it is said to have.

use std::sync::Arc;

use anabranch_shared::{Error, Result};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::intake::body::RequestMemory;

/// Room is counted in units of so many bytes.
const UNIT_BYTES: u64 = 1_024;

/// Room for the bodies of requests.
#[derive(Clone, Debug)]
pub struct RequestRoom {
    units: Arc<Semaphore>,
    bound_bytes: u64,
}

/// Room that one request has; given back when this is dropped.
#[derive(Debug)]
pub struct RequestPermit {
    room: RequestRoom,
    /// None before the first byte.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl RequestRoom {
    /// A claim on the room of a request of which nothing has come yet.
    pub fn permit(&self) -> RequestPermit {
        RequestPermit {
            room: self.clone(),
            permit: Mutex::default(),
        }
    }

    /// Room of so many bytes.
    pub(crate) fn of(bytes: u64) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body grows to counts, whatever was said of it before, until its request has ended.
    #[test]
    fn room_is_taken_as_bodies_grow() {
        let room = RequestRoom::of(10 * UNIT_BYTES);
        let (a, b) = (room.permit(), room.permit());
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
        assert!(room.permit().grow(1).is_err());
        drop(a);
        assert!(room.permit().grow(10 * UNIT_BYTES).is_ok());
    }
}
