//! What clients send, read from bytes. Nothing is believed before it has been checked: a frame that
//! states more than its bound is refused before memory is taken for it, and a body that is shorter
//! than it says is an error (the decoders of `pgwire` panic on one). Source of the formats: PostgreSQL's
//! documentation, "Message Formats".

use std::io;

use anabranch_shared::{Error, Result};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The largest message before a session has begun.
const MOST_AT_START: usize = 10_000;

/// What the first message of a connection may ask for instead of a session.
const CANCEL: u32 = 80_877_102;
const TLS: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// The first message of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// A session, with the minor version of the protocol and parameters.
    Startup {
        minor: u16,
        parameters: Vec<(String, String)>,
    },
    /// Encryption by TLS.
    Tls,
    /// Encryption by GSSAPI.
    Gss,
    /// The end of what another connection does, known by number and key.
    Cancel { process: i32, key: Bytes },
}

/// A statement or a portal, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Statement(String),
    Portal(String),
}

/// A message of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Query(String),
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    Bind {
        portal: String,
        statement: String,
        forms: Vec<i16>,
        values: Vec<Option<Bytes>>,
        result_forms: Vec<i16>,
    },
    Describe(Target),
    Close(Target),
    Execute {
        portal: String,
        most: i32,
    },
    Flush,
    Sync,
    Terminate,
    /// Data that nobody has asked for, sent after a COPY that was refused.
    Copy,
}

fn wrong(what: &str) -> Error {
    Error::Invalid(format!("a message of the client is damaged: {what}"))
}

/// A connection that ends in the middle of a message.
fn broken(e: &io::Error) -> Error {
    Error::Unavailable(format!("the connection is broken: {e}"))
}

/// Reads the first message of a connection; none where it ends before.
///
/// # Errors
/// `Invalid` for what is no message of this protocol, `Unavailable` where the connection breaks.
pub(super) async fn first(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<First>> {
    let length = match from.read_u32().await {
        Ok(length) => length as usize,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(broken(&e)),
    };
    if !(8..=MOST_AT_START).contains(&length) {
        return Err(wrong(
            "it does not begin a session; this port speaks PostgreSQL's protocol alone",
        ));
    }
    let mut body = Body(read(from, length - 4).await?);
    match body.u32()? {
        CANCEL => Ok(Some(First::Cancel {
            process: body.i32()?,
            key: body.rest(),
        })),
        TLS => Ok(Some(First::Tls)),
        GSS => Ok(Some(First::Gss)),
        version if version >> 16 == 3 => {
            let mut parameters = Vec::new();
            loop {
                let name = body.text()?;
                if name.is_empty() {
                    break;
                }
                parameters.push((name, body.text()?));
            }
            Ok(Some(First::Startup {
                minor: (version & 0xffff) as u16,
                parameters,
            }))
        }
        version => Err(Error::Invalid(format!(
            "version {}.{} of the protocol is not spoken here; 3.0 is",
            version >> 16,
            version & 0xffff
        ))),
    }
}

/// Reads what a client says in a log-in.
///
/// # Errors
/// As [`first`]; `Invalid` where it says something else.
pub(super) async fn log_in(from: &mut (impl AsyncRead + Unpin)) -> Result<Bytes> {
    let kind = from.read_u8().await.map_err(|e| broken(&e))?;
    let length = from.read_u32().await.map_err(|e| broken(&e))? as usize;
    if kind != b'p' || !(4..=MOST_AT_START).contains(&length) {
        return Err(wrong("it is no part of a log-in"));
    }
    read(from, length - 4).await
}

/// The mechanism and the first message of a log-in by SASL.
///
/// # Errors
/// `Invalid` where the message is another's.
pub(super) fn sasl_first(message: Bytes) -> Result<(String, String)> {
    let mut body = Body(message);
    let mechanism = body.text()?;
    let said = body.value()?.unwrap_or_default();
    match body.0.is_empty() {
        true => Ok((mechanism, utf8(said)?)),
        false => Err(wrong("bytes are left over at its end")),
    }
}

/// A message that is text to its end.
///
/// # Errors
/// `Invalid` where it is no UTF-8.
pub(super) fn utf8(message: Bytes) -> Result<String> {
    String::from_utf8(message.to_vec())
        .map_err(|_| Error::Invalid("a text of the client is not valid UTF-8".to_owned()))
}

/// Reads the next message of a session; none where the connection ends.
///
/// # Errors
/// As [`first`]; `NoRoom` for a message of more than `most` bytes.
pub(super) async fn next(
    from: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> Result<Option<Frame>> {
    let kind = match from.read_u8().await {
        Ok(kind) => kind,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(broken(&e)),
    };
    let length = from.read_u32().await.map_err(|e| broken(&e))? as usize;
    let Some(length) = length.checked_sub(4) else {
        return Err(wrong("it states a length below 4"));
    };
    if length > most {
        return Err(Error::NoRoom(format!(
            "a message of {length} bytes is larger than {most} bytes (`max_message` in `[doors.postgres]`)"
        )));
    }
    let body = read(from, length).await?;
    frame(kind, body).map(Some)
}

/// Reads so many bytes, and takes memory for them as they come.
async fn read(from: &mut (impl AsyncRead + Unpin), bytes: usize) -> Result<Bytes> {
    let mut body = BytesMut::new();
    let mut from = from.take(bytes as u64);
    while body.len() < bytes {
        if from.read_buf(&mut body).await.map_err(|e| broken(&e))? == 0 {
            return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Ok(body.freeze())
}

/// A message of a session from its kind and its body.
///
/// # Errors
/// `Invalid` where the body is another's.
pub(super) fn frame(kind: u8, body: Bytes) -> Result<Frame> {
    let mut body = Body(body);
    let frame = match kind {
        b'Q' => Frame::Query(body.text()?),
        b'P' => Frame::Parse {
            name: body.text()?,
            sql: body.text()?,
            types: body.list(Body::u32)?,
        },
        b'B' => Frame::Bind {
            portal: body.text()?,
            statement: body.text()?,
            forms: body.list(Body::i16)?,
            values: body.list(Body::value)?,
            result_forms: body.list(Body::i16)?,
        },
        b'D' => Frame::Describe(body.target()?),
        b'C' => Frame::Close(body.target()?),
        b'E' => Frame::Execute {
            portal: body.text()?,
            most: body.i32()?,
        },
        b'H' => Frame::Flush,
        b'S' => Frame::Sync,
        b'X' => Frame::Terminate,
        b'd' | b'c' | b'f' => return Ok(Frame::Copy),
        b'F' => {
            return Err(wrong(
                "function calls by number are not spoken here; write `SELECT`",
            ));
        }
        other => return Err(wrong(&format!("there is no kind {:?}", char::from(other)))),
    };
    match body.0.is_empty() {
        true => Ok(frame),
        false => Err(wrong("bytes are left over at its end")),
    }
}

/// A body that is read from its front.
struct Body(Bytes);

impl Body {
    fn need(&self, bytes: usize) -> Result<()> {
        match self.0.remaining() >= bytes {
            true => Ok(()),
            false => Err(wrong("it is shorter than it says")),
        }
    }

    fn u32(&mut self) -> Result<u32> {
        self.need(4)?;
        Ok(self.0.get_u32())
    }

    fn i32(&mut self) -> Result<i32> {
        self.need(4)?;
        Ok(self.0.get_i32())
    }

    fn i16(&mut self) -> Result<i16> {
        self.need(2)?;
        Ok(self.0.get_i16())
    }

    fn rest(&mut self) -> Bytes {
        self.0.split_to(self.0.len())
    }

    /// A text that ends with a zero byte.
    fn text(&mut self) -> Result<String> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| wrong("a text has no end"))?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        utf8(text)
    }

    fn value(&mut self) -> Result<Option<Bytes>> {
        let length = self.i32()?;
        match usize::try_from(length) {
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(wrong("a value has a negative length")),
            Ok(length) => {
                self.need(length)?;
                Ok(Some(self.0.split_to(length)))
            }
        }
    }

    /// A count of 16 bits, and as many items.
    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let count = self.i16()? as u16;
        (0..count).map(|_| item(self)).collect()
    }

    fn target(&mut self) -> Result<Target> {
        self.need(1)?;
        match self.0.get_u8() {
            b'S' => Ok(Target::Statement(self.text()?)),
            b'P' => Ok(Target::Portal(self.text()?)),
            _ => Err(wrong("it names neither a statement nor a portal")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn bind() -> Vec<u8> {
        let mut body = b"p\0s\0".to_vec();
        body.extend([0, 1, 0, 1, 0, 2, 0, 0, 0, 2]);
        body.extend(b"ab");
        body.extend([255, 255, 255, 255, 0, 1, 0, 1]);
        body
    }

    #[test]
    fn a_message_is_read_whole_or_not_at_all() {
        let whole = frame(b'B', bind().into()).unwrap();
        assert_eq!(
            whole,
            Frame::Bind {
                portal: "p".into(),
                statement: "s".into(),
                forms: vec![1],
                values: vec![Some(Bytes::from_static(b"ab")), None],
                result_forms: vec![1],
            }
        );
        let body = bind();
        for end in 0..body.len() {
            let short = Bytes::copy_from_slice(&body[..end]);
            assert!(frame(b'B', short).is_err(), "{end}");
        }
        let long = [bind().as_slice(), b"x"].concat();
        assert!(frame(b'B', long.into()).is_err());
        for kind in 0..=u8::MAX {
            // None of them panics.
            frame(kind, Bytes::from_static(b"\0\x01")).ok();
        }
    }

    #[tokio::test]
    async fn lengths_are_not_believed() {
        let huge = [b'Q', 0x7f, 0xff, 0xff, 0xff];
        let e = next(&mut huge.as_slice(), 1_000).await.unwrap_err();
        assert!(e.to_string().contains("max_message"), "{e}");
        // It says much and brings little: what is there is read, and no more is taken.
        let little = [b'Q', 0, 0x98, 0x96, 0x80, b'x'];
        assert!(next(&mut little.as_slice(), 10_000_000).await.is_err());
        let negative = [b'Q', 0, 0, 0, 3];
        assert!(next(&mut negative.as_slice(), 1_000).await.is_err());
        let mut http = b"GET / HTTP/1.1\r\n".as_slice();
        assert!(first(&mut http).await.is_err());
        assert!(first(&mut [].as_slice()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_session_begins_with_its_parameters() {
        let mut bytes = vec![0, 0, 0, 0, 0, 3, 0, 0];
        bytes.extend(b"user\0me\0database\0x\0\0");
        bytes[3] = bytes.len() as u8;
        let read = first(&mut bytes.as_slice()).await.unwrap();
        let parameters = vec![
            ("user".into(), "me".into()),
            ("database".into(), "x".into()),
        ];
        assert_eq!(
            read,
            Some(First::Startup {
                minor: 0,
                parameters
            })
        );
        let cancel = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 7, 1, 2, 3, 4];
        let read = first(&mut cancel.as_slice()).await.unwrap();
        let key = Bytes::from_static(&[1, 2, 3, 4]);
        assert_eq!(read, Some(First::Cancel { process: 7, key }));
    }
}
