//! Requests that may be repeated: which keys producers gave, and what they were answered. Owns the
//! verdict on a key and for how long it is remembered; the clock is an argument. What makes the
//! answers durable is the WAL's: they travel in the records of their requests, and in the files
//! beside its segments once those are removed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use anabranch_shared::{Error, Offset, OffsetRange, PartitionId, Result};
use serde::{Deserialize, Serialize};

/// The longest key.
const LONGEST_KEY: usize = 255;

/// What a producer's request is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKey {
    /// The key that its producer gave.
    pub key: String,
    /// The hash of its body, in hexadecimal.
    pub body: String,
    /// How many of its facts carried undeclared fields.
    #[serde(default)]
    pub unknown_fields: u64,
}

impl RequestKey {
    /// A request of this key and body; `kind` is all else that makes the body what it is.
    ///
    /// # Errors
    /// `Invalid` for a key that is not 1 to 255 visible ASCII characters.
    pub fn new(key: &[u8], kind: &[&str], body: &[u8]) -> Result<Self> {
        use sha2::{Digest, Sha256};
        let visible = !key.is_empty() && key.iter().all(u8::is_ascii_graphic);
        if !visible || key.len() > LONGEST_KEY {
            return Err(Error::Invalid(format!(
                "the `Idempotency-Key` is not 1 to {LONGEST_KEY} visible ASCII characters; use a UUID, for example"
            )));
        }
        let mut hash = Sha256::new();
        for part in kind {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.update(body);
        Ok(Self {
            key: String::from_utf8_lossy(key).into_owned(),
            body: hex::encode(hash.finalize()),
            unknown_fields: 0,
        })
    }
}

/// What a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// The partition.
    pub partition: PartitionId,
    /// The first of its offsets.
    pub start: Offset,
    /// The offset after its last.
    pub end: Offset,
    /// How many of its records became facts.
    pub facts: u64,
    /// How many became dead letters.
    pub dead_letters: u64,
    /// How many are duplicates.
    pub duplicates: u64,
}

impl KeptAnswer {
    /// Its offsets.
    pub fn range(&self) -> OffsetRange {
        OffsetRange::new(self.start, self.end)
    }
}

/// A request that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRequest {
    /// What it is known by.
    #[serde(flatten)]
    pub request: RequestKey,
    /// When it was admitted, in microseconds since 1970.
    pub at_us: i64,
    /// What it was answered.
    #[serde(flatten)]
    pub answer: KeptAnswer,
}

/// How a request stands to those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its key is new, or was forgotten.
    New,
    /// It was written before.
    Repeated(KeptRequest),
    /// Its key was given to another body.
    OtherBody,
}

/// How long keys are remembered, and how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestBounds {
    /// In microseconds.
    pub(crate) window_us: i64,
    pub(crate) most: usize,
}

/// The requests of a topic that may be repeated.
///
/// Invariant: what is in `by_key` is in `in_order`, whose first `kept` are durable beside the WAL.
#[derive(Debug)]
pub(crate) struct Requests {
    bounds: RequestBounds,
    by_key: HashMap<String, Arc<KeptRequest>>,
    in_order: VecDeque<Arc<KeptRequest>>,
    kept: usize,
}

impl Requests {
    pub(crate) fn new(bounds: RequestBounds) -> Self {
        Self {
            bounds,
            by_key: HashMap::new(),
            in_order: VecDeque::new(),
            kept: 0,
        }
    }

    fn is_over(&self, request: &KeptRequest, now_us: i64) -> bool {
        now_us.saturating_sub(request.at_us) >= self.bounds.window_us
    }

    /// How a request stands at a time in microseconds since 1970.
    pub(crate) fn standing(&self, request: &RequestKey, now_us: i64) -> Standing {
        match self.by_key.get(&request.key) {
            Some(known) if self.is_over(known, now_us) => Standing::New,
            Some(known) if known.request.body == request.body => {
                Standing::Repeated(known.as_ref().clone())
            }
            Some(_) => Standing::OtherBody,
            None => Standing::New,
        }
    }

    /// Whether `more` keys can be remembered, besides those that there are.
    ///
    /// # Errors
    /// `Unavailable` where they can't, which would break the promise to one that is remembered.
    pub(crate) fn check_room(&mut self, more: usize, now_us: i64) -> Result<()> {
        self.forget(now_us);
        if self.in_order.len().saturating_add(more) <= self.bounds.most {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "{} requests with an `Idempotency-Key` are remembered, which is the most (`idempotency_keys` in `[daemon]`); try again later, send more facts a request, or raise it",
            self.in_order.len()
        )))
    }

    /// Remembers a request that is durable. One of the same key that is remembered is older.
    pub(crate) fn note(&mut self, request: KeptRequest) {
        let request = Arc::new(request);
        let key = request.request.key.clone();
        if let Some(known) = self.by_key.get(&key)
            && known.answer.range() == request.answer.range()
            && known.answer.partition == request.answer.partition
        {
            // Found both in a record and beside the segments.
            return;
        }
        self.by_key.insert(key, request.clone());
        self.in_order.push_back(request);
    }

    fn forget(&mut self, now_us: i64) {
        while let Some(oldest) = self.in_order.front()
            && self.is_over(oldest, now_us)
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.kept = self.kept.saturating_sub(1);
            let key = &oldest.request.key;
            if self
                .by_key
                .get(key)
                .is_some_and(|known| Arc::ptr_eq(known, &oldest))
            {
                self.by_key.remove(key);
            }
        }
    }

    /// Those whose records are to be removed, ending at or below an offset, that are not durable
    /// beside the WAL yet; or, `anew`, those too that are.
    pub(crate) fn choose_to_keep(&mut self, below: Offset, anew: bool, now_us: i64) -> ToKeep {
        self.forget(now_us);
        let from = if anew { 0 } else { self.kept };
        let rest = self.in_order.range(from..);
        let requests: Vec<_> = rest
            .take_while(|r| r.answer.end <= below)
            .cloned()
            .collect();
        ToKeep {
            upto: from + requests.len(),
            requests,
        }
    }

    /// What was to be kept is durable beside the WAL now; nothing was forgotten since then.
    pub(crate) fn are_kept(&mut self, kept: &ToKeep) {
        self.kept = kept.upto;
    }

    /// How many are durable beside the WAL.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// Remembers requests that were found at start, in any order, some perhaps twice.
    pub(crate) fn load(&mut self, mut found: Vec<KeptRequest>, now_us: i64) {
        found.retain(|request| !self.is_over(request, now_us));
        found.sort_by_key(|request| request.answer.start);
        found.into_iter().for_each(|request| self.note(request));
    }
}

/// Requests that are to be durable beside the WAL.
#[derive(Debug)]
pub(crate) struct ToKeep {
    pub(crate) requests: Vec<Arc<KeptRequest>>,
    upto: usize,
}

impl ToKeep {
    /// As they are stored: a JSON object a line.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for request in &self.requests {
            let written = serde_json::to_writer(&mut out, request.as_ref());
            written.map_err(|e| Error::Internal(e.to_string()))?;
            out.push(b'\n');
        }
        Ok(out)
    }
}

/// Requests as they were stored beside the WAL.
pub(crate) fn decode(payload: &[u8]) -> Result<Vec<KeptRequest>> {
    let lines = payload.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    let decode = |line| {
        serde_json::from_slice(line)
            .map_err(|e| Error::Corrupt(format!("a key that is kept beside the WAL: {e}")))
    };
    lines.map(decode).collect()
}

#[cfg(test)]
mod tests;
