//! The bytes of a connection. Owns two things that the HTTP server below leaves out: a request whose
//! head can't be read is told so as every other one, and who reads nothing of an answer for too long
//! loses it.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

/// Nothing of an answer may be read for so long.
const UNREAD_FOR: Duration = Duration::from_secs(120);

/// What carries the bytes, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection.
pub(super) struct Wire {
    inner: TokioIo<Box<dyn Stream>>,
    /// What is to be written in place of what the server wrote.
    instead: Vec<u8>,
    /// When it is given up; none while nothing waits to be written.
    given_up: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub(super) fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            inner: TokioIo::new(Box::new(stream)),
            instead: Vec::new(),
            given_up: None,
        }
    }

    /// Ends a write that was tried: one that waits too long is an error.
    fn tried<T>(
        &mut self,
        cx: &mut Context<'_>,
        tried: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            self.given_up = None;
            return tried;
        }
        let until = Instant::now() + UNREAD_FOR;
        let given_up = self
            .given_up
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(given_up.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn write_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.instead.is_empty() {
            let tried = Pin::new(&mut self.inner).poll_write(cx, &self.instead);
            match ready!(self.tried(cx, tried))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.instead.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What is answered in place of an answer that the server gives by itself. Those have no body; the
/// project's refusals do.
fn instead_of(answer: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(answer.get(..answer.len().min(512))?).ok()?;
    let (status, rest) = text.strip_prefix("HTTP/1.1 ")?.split_once("\r\n")?;
    let why = match status.split(' ').next()? {
        "400" => "the request's head can't be read; see that its line and headers are HTTP's",
        "414" => "the request's address is too long; put what it says into the body",
        "431" => "the request's headers are too long; send fewer or shorter ones",
        _ => return None,
    };
    let has_no_body = rest.contains("content-length: 0\r\n") && rest.ends_with("\r\n\r\n");
    has_no_body.then(|| last_answer(status, why))
}

/// What a client is told that does not encrypt where it has to.
pub(super) fn told_to_encrypt() -> Vec<u8> {
    last_answer(
        "400 Bad Request",
        "connections are encrypted here; ask by `https://`",
    )
}

/// A refusal after which the connection ends.
fn last_answer(status: &str, why: &str) -> Vec<u8> {
    let body = serde_json::json!({ "error": why, "kind": "invalid" }).to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.write_instead(cx))?;
        if let Some(instead) = instead_of(bytes) {
            self.instead = instead;
            return Poll::Ready(Ok(bytes.len()));
        }
        let tried = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.tried(cx, tried)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.write_instead(cx))?;
        // An answer without a body is one part.
        if let [only] = parts
            && let Some(instead) = instead_of(only)
        {
            self.instead = instead;
            return Poll::Ready(Ok(only.len()));
        }
        let tried = Pin::new(&mut self.inner).poll_write_vectored(cx, parts);
        self.tried(cx, tried)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_instead(cx))?;
        let tried = Pin::new(&mut self.inner).poll_flush(cx);
        self.tried(cx, tried)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_instead(cx))?;
        let tried = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.tried(cx, tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_answers_by_itself_gets_a_body() {
        let own = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let instead = instead_of(own).unwrap_or_default();
        let instead = String::from_utf8_lossy(&instead);
        assert!(
            instead.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{instead}"
        );
        assert!(instead.ends_with("\"kind\":\"invalid\"}"), "{instead}");
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 421 Misdirected Request\r\ncontent-length: 0\r\n\r\n",
            "{}",
            "",
        ] {
            assert_eq!(instead_of(other.as_bytes()), None, "{other}");
        }
    }
}
