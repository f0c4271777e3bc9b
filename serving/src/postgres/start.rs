//! How a connection begins: encryption, which its client asks for in one of two ways, what session it
//! wants, and who that is (PostgreSQL's documentation, "Start-up", "SSL Session Encryption", "SASL
//! Authentication").

use std::net::IpAddr;

use anabranch_shared::Error;
use bytes::{Bytes, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::startup::Authentication;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fault::Fault;
use super::frames::{self, First};
use crate::identity::scram::{Exchange, Failed, SCRAM, SCRAM_PLUS};
use crate::identity::{Access, Identity, Refused, Users};
use crate::tls::{Encrypted, Protocol, ServerTls, begins_encrypted};

/// A connection, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The bytes of a connection.
pub(super) struct Wire {
    pub(super) stream: Box<dyn Stream>,
    is_encrypted: bool,
    /// The digest of the certificate, where there is encryption and it has one.
    end_point: Option<Vec<u8>>,
}

impl Wire {
    fn plain(stream: TcpStream) -> Self {
        Self {
            stream: Box::new(stream),
            is_encrypted: false,
            end_point: None,
        }
    }

    fn of(encrypted: Encrypted) -> Self {
        match encrypted {
            Encrypted::No(stream) => Self::plain(stream),
            Encrypted::Yes(stream, end_point) => Self {
                stream,
                is_encrypted: true,
                end_point,
            },
        }
    }

    async fn send(&mut self, message: &impl Message) -> Result<(), Fault> {
        let mut out = BytesMut::new();
        let written = message.encode(&mut out);
        written.map_err(|e| {
            Fault::Ours(Error::Internal(format!("a message can't be written: {e}")))
        })?;
        let sent = self.stream.write_all(&out).await;
        sent.map_err(|_| Fault::Gone)?;
        self.stream.flush().await.map_err(|_| Fault::Gone)
    }

    async fn receive(&mut self) -> Result<Bytes, Fault> {
        frames::log_in(&mut self.stream).await.map_err(damaged)
    }
}

/// What a connection begins with, and what carries it from there; nothing where it ends before.
pub(super) type Begun = (Wire, Result<Option<First>, Fault>);

/// Reads what a connection begins with, and encrypts it where its client asks for that.
pub(super) async fn begin(mut stream: TcpStream, tls: Option<&ServerTls>) -> Begun {
    let direct = match tls {
        // Nobody is told anything in clear text who begins encrypted.
        Some(tls) if begins_encrypted(&stream).await.unwrap_or(false) => Some(tls),
        _ => None,
    };
    if let Some(tls) = direct {
        return encrypted(tls, stream, true).await;
    }
    // Of either kind at most once.
    for _ in 0..3 {
        let first = frames::first(&mut stream).await;
        let answer: &[u8] = match (&first, tls) {
            (Ok(Some(First::Tls)), Some(tls)) => {
                return match stream.write_all(b"S").await {
                    Ok(()) => encrypted(tls, stream, false).await,
                    Err(_) => (Wire::plain(stream), Ok(None)),
                };
            }
            (Ok(Some(First::Tls | First::Gss)), _) => b"N",
            _ => return (Wire::plain(stream), first.map_err(damaged)),
        };
        if stream.write_all(answer).await.is_err() {
            return (Wire::plain(stream), Ok(None));
        }
    }
    let text = "there is no encryption here, and the client asks for nothing else";
    (Wire::plain(stream), Err(Fault::coded("08P01", text)))
}

async fn encrypted(tls: &ServerTls, stream: TcpStream, is_direct: bool) -> Begun {
    let encrypted = match tls.encrypt(stream, Protocol::Postgres).await {
        Ok(encrypted) => encrypted,
        Err(e) => {
            tracing::debug!(error = %e, "a connection is not encrypted");
            return (Wire::nowhere(), Ok(None));
        }
    };
    if let (true, Encrypted::Yes(stream, _)) = (is_direct, &encrypted)
        && stream.get_ref().1.alpn_protocol().is_none()
    {
        // Whoever begins so says which protocol it means, so that nobody takes it for another one.
        return (Wire::nowhere(), Ok(None));
    }
    let mut wire = Wire::of(encrypted);
    let first = match frames::first(&mut wire.stream).await {
        Ok(Some(First::Tls | First::Gss)) => Err(Fault::coded(
            "08P01",
            "the connection is encrypted already, and the client asks for that",
        )),
        first => first.map_err(damaged),
    };
    (wire, first)
}

impl Wire {
    /// One that has ended.
    fn nowhere() -> Self {
        Self {
            stream: Box::new(tokio::io::join(tokio::io::empty(), tokio::io::sink())),
            is_encrypted: false,
            end_point: None,
        }
    }
}

/// An error of reading from a client, as it is told it.
fn damaged(e: Error) -> Fault {
    match e {
        Error::Invalid(text) => Fault::coded("08P01", text),
        e => Fault::coded("08006", e.to_string()),
    }
}

/// Learns who a client is.
///
/// # Errors
/// Why it is not let in.
pub(super) async fn identify(
    wire: &mut Wire,
    access: &Access,
    (name, from): (&str, IpAddr),
) -> Result<Identity, Fault> {
    if access.tls.is_some() && !wire.is_encrypted {
        return Err(Fault::coded(
            "28000",
            "sessions are encrypted here, and this one is not; say `sslmode=require`",
        ));
    }
    let Some(users) = &access.users else {
        return Ok(Identity::everybody());
    };
    let refused = |e: Refused| match e {
        Refused::Wrong => Fault::coded("28P01", e.to_string()),
        Refused::Wait(_) => Fault::coded("28000", e.to_string()),
    };
    let known = users.known(name, from).map_err(refused)?;
    let shown = shown(wire, known).await?;
    users.shown(name, from, shown.as_deref()).map_err(refused)
}

/// The id of the secret that a client shows to know; none where it does not.
async fn shown(
    wire: &mut Wire,
    known: crate::identity::scram::Known,
) -> Result<Option<String>, Fault> {
    let mut offered = vec![SCRAM.to_owned()];
    if wire.end_point.is_some() {
        offered.insert(0, SCRAM_PLUS.to_owned());
    }
    wire.send(&Authentication::SASL(offered)).await?;
    let (mechanism, first) = frames::sasl_first(wire.receive().await?).map_err(damaged)?;
    let nonce = Users::nonce()?;
    let malformed = |e: Failed| match e {
        Failed::Malformed(why) => Fault::coded("08P01", format!("the log-in is none: {why}")),
        Failed::Wrong => Fault::coded("28P01", Refused::Wrong.to_string()),
    };
    let end_point = wire.end_point.clone();
    let begun = Exchange::begin((&mechanism, &first), known, end_point.as_deref(), &nonce);
    let (exchange, answer) = begun.map_err(malformed)?;
    wire.send(&Authentication::SASLContinue(answer.into()))
        .await?;
    let last = frames::utf8(wire.receive().await?).map_err(damaged)?;
    match exchange.finish(&last) {
        Ok((id, answer)) => {
            wire.send(&Authentication::SASLFinal(answer.into())).await?;
            Ok(Some(id))
        }
        Err(Failed::Wrong) => Ok(None),
        Err(e) => Err(malformed(e)),
    }
}
