//! The door that speaks PostgreSQL's protocol (version 3.0; PostgreSQL's documentation,
//! "Frontend/Backend Protocol"): how connections begin, how many there are, and how they end. What a
//! session does is [`connection`]'s.

mod catalogue;
mod cells;
mod commands;
mod connection;
mod fault;
mod frames;
mod rows;
mod settings;
mod start;
mod subscription;
mod types;
mod values;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anabranch_shared::{Error, Result};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use pgwire::messages::Message;
use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::connection::{Asker, Connection, Ended, Interrupt};
use self::fault::Fault;
use self::frames::First;
use self::settings::Settings;
use crate::caller::Caller;
use crate::changes::Following;
use crate::door::Door;
use crate::identity::Access;
use crate::session::Session;

/// How long a connection may take to begin its session.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);

/// Connections beyond the bound that are told so, or end what another one does; further ones are closed
/// at once, so that they don't take the descriptors that the WAL needs.
const SPARE: usize = 32;

/// How long a client may take to read why it is refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

/// What clients are told that the database is called, where they don't say it.
const DATABASE: &str = "anabranch";

/// Messages that may wait for a session.
const WAITING: usize = 16;

/// After how long another connection is accepted where one could not be.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Bounds of the door.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// The most sessions at once; at least 1.
    pub connections: usize,
    /// The largest message of a client, in bytes.
    pub max_message_bytes: usize,
    /// Who may come in.
    pub access: Access,
}

/// The door.
#[derive(Debug)]
pub struct PostgresDoor {
    following: Arc<Following>,
    options: PostgresOptions,
    sessions: Sessions,
}

/// The key of a session, and how what it does is ended.
type Known = ([u8; 4], Arc<Interrupt>);

/// The sessions that there are, for those who want to end what one of them does.
#[derive(Debug, Default)]
struct Sessions {
    last: AtomicI32,
    keys: RandomState,
    list: Mutex<HashMap<i32, Known>>,
}

/// A session's entry, until it is dropped.
struct Entry<'a> {
    sessions: &'a Sessions,
    number: i32,
    key: [u8; 4],
    interrupt: Arc<Interrupt>,
}

impl Sessions {
    fn enter(&self) -> Entry<'_> {
        let number = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // Seeded anew for each process, by the system's random numbers.
        let random = RandomState::new().hash_one((number, &self.keys.hash_one(number)));
        let key = (random as u32).to_be_bytes();
        let interrupt = Arc::<Interrupt>::default();
        self.list.lock().insert(number, (key, interrupt.clone()));
        Entry {
            sessions: self,
            number,
            key,
            interrupt,
        }
    }

    /// Ends what a session does, for those who know its key.
    fn interrupt(&self, number: i32, key: &[u8]) {
        let list = self.list.lock();
        if let Some((own, interrupt)) = list.get(&number)
            && own == key
        {
            interrupt.interrupt();
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.sessions.list.lock().remove(&self.number);
    }
}

impl PostgresDoor {
    /// A door to a service, whose views may be followed.
    pub fn new(following: Arc<Following>, options: PostgresOptions) -> Arc<Self> {
        Arc::new(Self {
            following,
            options,
            sessions: Sessions::default(),
        })
    }

    /// Serves until told to close; then no more connections are accepted, sessions that do nothing
    /// end, and the others end with what they do. Dropping it ends all of them.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, closing: CancellationToken) {
        let places = Arc::new(Semaphore::new(self.options.connections.max(1)));
        let spare = Arc::new(Semaphore::new(SPARE));
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = closing.cancelled() => break,
                Some(ended) = tasks.join_next() => {
                    tell_panic(ended);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!(error = %e, "no connection can be accepted; it is tried again");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let place = places.clone().try_acquire_owned();
            let has_place = place.is_ok();
            let Ok(place) = place.or_else(|_| spare.clone().try_acquire_owned()) else {
                continue;
            };
            let (door, closing) = (self.clone(), closing.clone());
            tasks.spawn(async move {
                stream.set_nodelay(true).ok();
                // A connection too many is told so, and may still end what another one does.
                door.connection(stream, from, has_place, closing).await;
                drop(place);
            });
        }
        drop(listener);
        while let Some(ended) = tasks.join_next().await {
            tell_panic(ended);
        }
    }

    /// Serves one connection to its end.
    async fn connection(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        has_place: bool,
        closing: CancellationToken,
    ) {
        let access = &self.options.access;
        let beginning = start::begin(stream, access.tls.as_deref());
        // Whoever does not begin has nothing to be told.
        let Ok((mut wire, first)) = tokio::time::timeout(BEGIN_WITHIN, beginning).await else {
            return;
        };
        let (minor, parameters) = match first {
            Ok(Some(First::Startup { minor, parameters })) => (minor, parameters),
            Ok(Some(First::Cancel { process, key })) => {
                self.sessions.interrupt(process, &key);
                return;
            }
            Ok(_) => return,
            Err(fault) => {
                tracing::debug!(?fault, %from, "no session began");
                refuse(&mut wire.stream, &fault).await;
                return;
            }
        };
        if !has_place {
            let text = format!(
                "{} sessions are open, which are the most (`connections` in `[doors.postgres]`); try again soon",
                self.options.connections
            );
            refuse(&mut wire.stream, &Fault::coded("53300", text)).await;
            return;
        }
        let named = parameters.iter().find(|(name, _)| name == "user");
        let user = named.map(|(_, value)| value.clone()).unwrap_or_default();
        let identified = match user.is_empty() {
            true => Ok(Err(Fault::coded("28000", "the client names no user"))),
            false => {
                let identifying = start::identify(&mut wire, access, (&user, from.ip()));
                tokio::time::timeout(BEGIN_WITHIN, identifying).await
            }
        };
        let identity = match identified {
            Ok(Ok(identity)) => identity,
            Ok(Err(fault)) => {
                tracing::info!(%from, user = %user.escape_debug(), ?fault, "not let in");
                refuse(&mut wire.stream, &fault).await;
                return;
            }
            Err(_) => return,
        };
        let entry = self.sessions.enter();
        let (settings, out) = match greeting(minor, &parameters, &entry) {
            Ok(greeting) => greeting,
            Err(fault) => {
                refuse(&mut wire.stream, &fault).await;
                return;
            }
        };
        let (reader, mut writer) = tokio::io::split(wire.stream);
        if writer.write_all(&out).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        let program = settings.get("application_name").unwrap_or_default();
        let label = match program.as_str() {
            "" => format!("PostgreSQL at {from}"),
            program => format!("{program} at {from}"),
        };
        let caller = Caller::new(Door::Postgres, label, identity.clone());
        let session = Session::new(self.following.service().clone(), caller);
        let session = (session, self.following.clone());
        let gone = CancellationToken::new();
        let (send, frames) = mpsc::channel(WAITING);
        let reading = read(reader, send, gone.clone(), self.options.max_message_bytes);
        let database = parameters.iter().find(|(name, _)| name == "database");
        let asker = Asker {
            user,
            database: database.map_or(DATABASE, |(_, name)| name).to_owned(),
            process: entry.number,
        };
        let interrupt = entry.interrupt.clone();
        let ended = Ended {
            closing,
            users: access.users.clone(),
        };
        let connection = Connection::new(writer, session, (settings, asker), interrupt, gone);
        // The reader ends with the session.
        tokio::select! {
            () = connection.run(frames, ended) => {}
            () = async {
                reading.await;
                std::future::pending::<()>().await;
            } => {}
        }
    }
}

/// Reads the messages of a session, a few before they are needed, so that it is seen when the client
/// leaves in the middle of an answer.
async fn read(
    mut reader: impl AsyncRead + Unpin,
    send: mpsc::Sender<Result<frames::Frame>>,
    gone: CancellationToken,
    most: usize,
) {
    loop {
        let frame = match frames::next(&mut reader, most).await {
            Ok(Some(frame)) => Ok(frame),
            // What was asked before is not answered: nobody is there.
            Ok(None) => break,
            Err(e @ Error::Unavailable(_)) => {
                tracing::debug!(error = %e, "a client has left");
                break;
            }
            Err(e) => Err(e),
        };
        let is_last = frame.is_err() || matches!(frame, Ok(frames::Frame::Terminate));
        if send.send(frame).await.is_err() || is_last {
            return;
        }
    }
    gone.cancel();
}

/// What a session is told at its start, and its settings by what its client asks for.
fn greeting(
    minor: u16,
    parameters: &[(String, String)],
    entry: &Entry<'_>,
) -> std::result::Result<(Settings, BytesMut), Fault> {
    let given = |name: &str| {
        let found = parameters.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    };
    let mut settings = Settings::new(given("user").unwrap_or_default());
    let mut unknown = Vec::new();
    let mut notices = Vec::new();
    for (name, value) in parameters {
        match name.as_str() {
            "user" | "database" | "replication" => {}
            "options" => {
                for (name, value) in options(value) {
                    settings.set(&name, Some(&value))?;
                }
            }
            option if option.starts_with("_pq_.") => unknown.push(option.to_owned()),
            // Drivers name the zone of their machine. It is not taken, and they are told which is.
            name if name.eq_ignore_ascii_case("timezone") => {
                if let Err(e) = settings.set(name, Some(value)) {
                    notices.push(e.to_string());
                }
            }
            name => {
                settings.set(name, Some(value))?;
            }
        }
    }
    let mut out = BytesMut::new();
    let mut put = |message: &dyn Fn(&mut BytesMut) -> pgwire::error::PgWireResult<()>| {
        message(&mut out)
            .map_err(|e| Fault::Ours(Error::Internal(format!("a message can't be written: {e}"))))
    };
    if minor > 0 || !unknown.is_empty() {
        let told = NegotiateProtocolVersion::new(0, unknown);
        put(&|out| told.encode(out))?;
    }
    put(&|out| Authentication::Ok.encode(out))?;
    for (name, value) in settings.reported() {
        let told = ParameterStatus::new(name.to_owned(), value);
        put(&|out| told.encode(out))?;
    }
    let key = SecretKey::Bytes(Bytes::copy_from_slice(&entry.key));
    let key = BackendKeyData::new(entry.number, key);
    put(&|out| key.encode(out))?;
    for text in notices {
        let told = fault::notice("NOTICE", "00000", &text);
        put(&|out| told.encode(out))?;
    }
    let ready = ReadyForQuery::new(TransactionStatus::Idle);
    put(&|out| ready.encode(out))?;
    Ok((settings, out))
}

/// Settings in the form `-c name=value --name=value`.
fn options(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let pair = match word {
            "-c" => words.next().unwrap_or_default(),
            word => word
                .strip_prefix("--")
                .or_else(|| word.strip_prefix("-c"))
                .unwrap_or(word),
        };
        if let Some((name, value)) = pair.split_once('=') {
            found.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    found
}

/// Tells a client why there is no session for it.
async fn refuse(writer: &mut (impl AsyncWrite + Unpin), fault: &Fault) {
    let mut out = BytesMut::new();
    let is_gone = matches!(fault, Fault::Gone);
    if !is_gone && fault.response("FATAL", "", 0).encode(&mut out).is_ok() {
        let sent = async {
            writer.write_all(&out).await?;
            writer.shutdown().await
        };
        tokio::time::timeout(REFUSED_WITHIN, sent).await.ok();
    }
}

/// Reads what a client sends to its end, and the values in it as each type: for those who look for
/// bytes that a decoder takes amiss.
///
/// # Errors
/// Those of the first message that is none.
pub async fn read_postgres(mut bytes: &[u8]) -> Result<()> {
    const MOST: usize = 1 << 20;
    frames::first(&mut bytes).await?;
    while let Some(frame) = frames::next(&mut bytes, MOST).await? {
        match frame {
            frames::Frame::Query(sql) | frames::Frame::Parse { sql, .. } => {
                for part in commands::parts(&sql) {
                    commands::command(&part.text).ok();
                }
            }
            frames::Frame::Bind { values, .. } => {
                for value in values {
                    values::each_type(value.as_ref());
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn tell_panic(ended: std::result::Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended
        && e.is_panic()
    {
        tracing::error!(error = %e, "a session ended by a defect");
    }
}
