//! What decodes bytes from outside, as functions of bytes alone: for tests that give them anything.
//! Owns no decoder; each function is the one that the daemon calls.

use std::sync::Arc;

use anabranch_shared::settings::KafkaSettings;
use anabranch_shared::view::View;
use anabranch_shared::{Result, Topic};
use bytes::Bytes;
use rdkafka::message::{OwnedMessage, Timestamp};

use crate::intake::admission::{Admission, Admitted};
use crate::intake::body::{BodyFormat, RequestBody};
use crate::peers::PeerDelta;
use crate::sources::kafka::Messages;

/// Admits the body of a request of at most `limit` bytes, by its content type and encoding.
///
/// # Errors
/// `Invalid` where it is none.
pub fn body(
    admission: &Admission,
    body: Bytes,
    (kind, encoding): (&str, &str),
    limit: u64,
) -> Result<Admitted> {
    let body = RequestBody {
        encoding: encoding.parse()?,
        limit,
        ..RequestBody::plain(body, BodyFormat::of(kind, None)?)
    };
    body.admit(admission)
}

/// Reads what another daemon answers that is asked for what it holds.
///
/// # Errors
/// As the daemon's own.
pub fn held(body: &Bytes, topic: &Topic, views: Vec<Arc<View>>, limit: u64) -> Result<()> {
    let views = views
        .into_iter()
        .map(|v| (v.name().to_owned(), v))
        .collect();
    PeerDelta::decode(body, "a peer", topic, views, limit).map(|_| ())
}

/// What a daemon answers that holds nothing.
///
/// # Errors
/// `Internal`, which is a defect.
pub fn held_nothing(topic: &Topic) -> Result<Bytes> {
    crate::peers::encode(
        &PeerDelta::default(),
        &[],
        (&topic.schema(), &topic.late_reads()),
    )
}

/// Admits the value of a Kafka message.
///
/// # Errors
/// As the daemon's own.
pub fn kafka_value(
    admission: &Admission,
    settings: &KafkaSettings,
    value: &[u8],
) -> Result<Admitted> {
    let message = OwnedMessage::new(
        Some(value.to_vec()),
        None,
        "topic".to_owned(),
        Timestamp::NotAvailable,
        0,
        0,
        None,
    );
    let mut messages = Messages::default();
    messages.add(&message, settings);
    messages.admit(admission)
}
