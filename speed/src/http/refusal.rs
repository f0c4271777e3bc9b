//! Refusals of requests, as JSON.

use anabranch_shared::{Error, ErrorKind};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::intake::body::too_large;

/// Why a body could not be read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// It has more bytes than a request may have.
    TooLarge,
    /// The connection or its coding broke.
    Broken(String),
    /// There is no room for it.
    NoRoom(Error),
}

/// The answer to a request whose body could not be read to its end: nothing of it was admitted.
pub(crate) fn unread(e: Unread, limit: u64) -> Response {
    let (status, text) = match e {
        Unread::NoRoom(e) => return refuse(&e),
        Unread::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, too_large(limit)),
        Unread::Broken(why) => (
            StatusCode::BAD_REQUEST,
            format!("the body could not be read; send it again: {why}"),
        ),
    };
    let body = serde_json::json!({ "error": text, "kind": ErrorKind::Invalid.to_string() });
    let json = [(header::CONTENT_TYPE, "application/json")];
    (status, json, body.to_string()).into_response()
}

/// The answer to a request that can't be done.
pub(crate) fn refuse(e: &Error) -> Response {
    let kind = e.kind();
    let status = StatusCode::from_u16(kind.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let body = serde_json::json!({ "error": e.to_string(), "kind": kind.to_string() });
    let json = (header::CONTENT_TYPE, "application/json");
    match status {
        StatusCode::SERVICE_UNAVAILABLE => {
            (status, [json, (header::RETRY_AFTER, "1")], body.to_string()).into_response()
        }
        _ => (status, [json], body.to_string()).into_response(),
    }
}
