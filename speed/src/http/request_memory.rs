//! Bodies of requests within the room that there is for them. How fast they have to come is the
//! server's.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;

use crate::http::refusal::{Unread, unread};
use crate::intake::body::RequestMemory;
use crate::intake::room::{RequestPermit, RequestRoom};

/// Memory that is taken first for a body, in bytes.
const FIRST_BYTES: usize = 16 << 10;

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
    request.extensions_mut().insert(Arc::new(room.permit()));
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
