//! The room of gRPC's messages while they come: as the bodies of HTTP's requests they take it from what
//! all requests in flight may take, for what has come and not for what is said to come.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anabranch_serving::flight_error;
use anabranch_shared::Error;
use anabranch_speed::{Daemon, RequestMemory, RequestPermit};
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

/// What a message begins with: whether it is compressed, and its length (gRPC's documentation, "gRPC
/// over HTTP2", Length-Prefixed-Message).
const PREFIX: usize = 5;

/// How much of a message has come that is not whole yet.
#[derive(Debug, Default)]
struct Unread {
    prefix: Vec<u8>,
    /// Bytes of it that are still to come, once its prefix has.
    left: u64,
    bytes: u64,
    /// Of the largest message that has begun.
    largest: u64,
}

impl Unread {
    /// What has come.
    fn add(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.prefix.len() < PREFIX {
                let (of_prefix, rest) = data.split_at(data.len().min(PREFIX - self.prefix.len()));
                self.prefix.extend_from_slice(of_prefix);
                self.bytes += of_prefix.len() as u64;
                data = rest;
                if let [_, a, b, c, d] = *self.prefix {
                    self.left = u64::from(u32::from_be_bytes([a, b, c, d]));
                    self.largest = self.largest.max(self.left);
                }
            } else {
                let most = usize::try_from(self.left).unwrap_or(usize::MAX);
                let (of_message, rest) = data.split_at(data.len().min(most));
                self.left -= of_message.len() as u64;
                self.bytes += of_message.len() as u64;
                data = rest;
            }
            if self.prefix.len() == PREFIX && self.left == 0 {
                *self = Self {
                    largest: self.largest,
                    ..Self::default()
                };
            }
        }
    }
}

/// A body whose messages take room.
struct MeteredBody {
    inner: Body,
    permit: RequestPermit,
    unread: Unread,
    /// The most bytes of a message.
    most: u64,
}

impl HttpBody for MeteredBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Whoever wants more has done with the messages that are whole.
        self.permit.settle(self.unread.bytes);
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let held = self.unread.bytes + data.len() as u64;
            self.unread.add(data);
            let room = match self.unread.largest > self.most {
                false => self.permit.grow(held),
                true => Err(Error::NoRoom(format!(
                    "a message has {} MB, and the most are {} (`max_message` in `[doors.flight]`); send it in smaller ones",
                    self.unread.largest / 1_000_000,
                    self.most / 1_000_000
                ))),
            };
            if let Err(e) = room {
                return Poll::Ready(Some(Err(axum::Error::new(flight_error(&e)))));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&self.inner)
    }
}

/// Lets the messages of a call, of so many bytes at most, take room of the daemon's.
pub(crate) async fn metered(
    State((daemon, most)): State<(Arc<Daemon>, usize)>,
    request: Request,
    next: Next,
) -> Response {
    let (head, inner) = request.into_parts();
    let body = MeteredBody {
        inner,
        permit: daemon.request_room().permit(),
        unread: Unread::default(),
        most: most as u64,
    };
    next.run(Request::from_parts(head, Body::new(body))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the bytes come, what counts is what is there of the message that is not whole.
    #[test]
    fn what_is_not_whole_counts() {
        let message = |bytes: u32| {
            let mut all = vec![0];
            all.extend(bytes.to_be_bytes());
            all.resize(PREFIX + bytes as usize, 7);
            all
        };
        let all = [message(3), message(0), message(1_000)].concat();
        for step in [1, 2, 5, 7, 2_000] {
            let mut unread = Unread::default();
            let mut came = 0;
            for data in all.chunks(step) {
                unread.add(data);
                came += data.len();
                let begun = match came {
                    ..8 => 0,
                    8..13 => 8,
                    13..1_018 => 13,
                    _ => came,
                };
                assert_eq!(unread.bytes as usize, came - begun, "{step}: {came}");
            }
        }
    }
}
