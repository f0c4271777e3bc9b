//! Facts that come over Arrow Flight SQL, as the daemon takes them.

use std::sync::Arc;

use anabranch_serving::{FactIntake, FactsRequest};
use anabranch_shared::{Result, blocking};
use anabranch_speed::{
    Accepted, BodyFormat, ContentEncoding, Daemon, Input, RequestBody, RequestKey, RequestMemory,
    Write,
};
use async_trait::async_trait;
use bytes::Bytes;

use crate::node::journal::Journal;

/// What distinguishes requests with a key that came by this door.
const KIND: [&str; 2] = ["flight", "identity"];

/// The intake of a daemon.
#[derive(Debug)]
pub(super) struct DaemonIntake {
    pub(super) daemon: Arc<Daemon>,
    pub(super) journal: Arc<Journal>,
}

#[async_trait]
impl FactIntake for DaemonIntake {
    async fn take(&self, request: FactsRequest) -> Result<u64> {
        let FactsRequest {
            topic,
            stream,
            strict,
            key,
        } = request;
        let bytes = stream.len() as u64;
        let memory = Arc::new(self.daemon.request_room().permit());
        memory.grow(bytes)?;
        let key = match key {
            None => None,
            Some(key) => Some(request_key(key, stream.clone()).await?),
        };
        let write = Write {
            input: Input::Records(RequestBody {
                bytes: stream,
                encoding: ContentEncoding::Identity,
                format: BodyFormat::Arrow,
                strict,
                limit: self.daemon.options().max_request_bytes,
                memory,
            }),
            key,
            chunk: None,
            source: None,
        };
        let outcome = self.daemon.take(&topic, write).await?;
        let first_dead_letter = outcome.dead.first().map(|d| d.reason.clone());
        self.journal.note(&Accepted {
            topic,
            bytes,
            first_dead_letter,
        });
        Ok(outcome.facts + outcome.duplicates)
    }
}

async fn request_key(key: String, body: Bytes) -> Result<RequestKey> {
    blocking(move || RequestKey::new(key.as_bytes(), &KIND, &body)).await
}
