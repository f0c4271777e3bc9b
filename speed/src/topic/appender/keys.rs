//! Requests that may be repeated: answered as before where their key is known, remembered when they
//! are durable, and kept beside the WAL before their records are removed.

use anabranch_shared::{Error, Offset, Result};
use tokio::sync::oneshot;

use super::{Appender, Group, Written, wal_error};
use crate::intake::idempotency::{KeptAnswer, KeptRequest, RequestKey, Standing};
use crate::intake::payload::Payload;

/// The file of keys is written anew once so many bytes of it, and more than half, are of no use.
const USELESS_BYTES: u64 = 4 << 20;

/// The refusal of a request whose key was given to another one.
pub(crate) fn other_body(request: &RequestKey) -> Error {
    Error::Conflict(format!(
        "the `Idempotency-Key` `{}` was given to a request with another body, which was written; give each request a key of its own, and repeat a request with the very same body",
        request.key
    ))
}

impl Appender {
    /// Answers a request whose key is known, at once or with the group that it is in, and refuses
    /// one that can't be remembered; gives `reply` back where it is new.
    pub(super) fn answer_known(
        &mut self,
        payload: &Payload,
        group: &mut Group,
        reply: oneshot::Sender<Result<Written>>,
    ) -> Option<oneshot::Sender<Result<Written>>> {
        let Some(request) = &payload.request else {
            return Some(reply);
        };
        if let Some(of) = group.keys.get(&request.key).copied() {
            let first = group
                .waiting
                .get(of)
                .and_then(|w| w.payload.request.as_ref());
            match first.is_some_and(|first| first.body == request.body) {
                true => group.same_key.push((reply, of)),
                false => drop(reply.send(Err(other_body(request)))),
            }
            return None;
        }
        let now_us = (self.now_us)();
        let mut known = self.known.lock();
        let answer = match known.standing(request, now_us) {
            Standing::New => match known.check_room(group.keys.len() + 1, now_us) {
                Ok(()) => return Some(reply),
                Err(e) => Err(e),
            },
            Standing::Repeated(known) => Ok(Written::again(&known)),
            Standing::OtherBody => Err(other_body(request)),
        };
        reply.send(answer).ok();
        None
    }

    /// Remembers a request that is durable.
    pub(super) fn remember(&self, payload: &Payload, written: &Written) {
        let Some(request) = &payload.request else {
            return;
        };
        self.known.lock().note(KeptRequest {
            request: request.clone(),
            at_us: payload.received_at_us,
            answer: KeptAnswer {
                partition: self.partition,
                start: written.range.start,
                end: written.range.end,
                facts: written.facts,
                dead_letters: written.dead_letters,
                duplicates: written.duplicates,
            },
        });
    }

    /// Removes from the WAL what lies below an offset, once the keys of it are durable elsewhere.
    pub(super) fn cut(&mut self, below: Offset) -> Result<()> {
        let upto = u64::try_from(below.0).unwrap_or(0);
        if !self.wal.would_cut(upto) {
            return Ok(());
        }
        self.keep_keys(below)?;
        fail::fail_point!("wal-keys-before-cut");
        self.wal.cut(upto).map_err(wal_error)
    }

    fn keep_keys(&mut self, below: Offset) -> Result<()> {
        let now_us = (self.now_us)();
        let more = self.known.lock().choose_to_keep(below, false, now_us);
        if more.requests.is_empty() {
            return Ok(());
        }
        let payload = more.encode()?;
        let live = self.key_bytes(&payload, more.requests.len());
        let appends = self
            .key_log
            .bytes()
            .is_some_and(|bytes| bytes <= USELESS_BYTES.max(live.saturating_mul(2)));
        let (kept, written) = match appends {
            true => (more, self.key_log.append(&payload)),
            false => {
                let all = self.known.lock().choose_to_keep(below, true, now_us);
                let payload = all.encode()?;
                (all, self.key_log.replace(&payload))
            }
        };
        written.map_err(wal_error)?;
        self.known.lock().are_kept(&kept);
        Ok(())
    }

    /// About how many bytes all keys take that are to be kept, by those of some of them.
    fn key_bytes(&self, some: &[u8], count: usize) -> u64 {
        let each = some.len() / count.max(1);
        let all = self.known.lock().kept() + count;
        (each * all) as u64
    }
}
