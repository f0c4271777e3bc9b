//! The daemon's doors of HTTP and of gRPC: how many connections they hold and for how long, and how
//! they end. Who may ask what over one is [`guard`]'s and [`gate`]'s.
//!
//! A connection beyond the bounds is not left to wait: over a few more of them the state of the
//! daemon is answered and nothing else, and those beyond are closed at once. So whoever takes all
//! connections takes neither the descriptors that the WAL and landings need nor `/health`.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anabranch_serving::{Encrypted, Protocol, ServerTls};
use anabranch_shared::settings::{FlightSettings, HttpSettings};
use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::wire::Wire;

pub(crate) mod gate;
pub(crate) mod guard;
pub(crate) mod metered;
mod wire;

/// Connections beyond the bounds over which the daemon's state is answered.
const SPARE: usize = 32;

/// How long the headers of a request may take over one of these, and the whole of it.
const SPARE_HEADERS: Duration = Duration::from_secs(1);
const SPARE_FOR: Duration = Duration::from_secs(10);

/// Bytes that the headers of a request may take, and what is read at once of a body.
const HEADER_BYTES: usize = 128 << 10;

/// Bounds of a connection of HTTP/2: calls at once, what may come of all of them and of one before it is
/// read, and what may wait to be sent of one, in bytes.
const CALLS: u32 = 100;
const CALLS_WINDOW: u32 = 4 << 20;
const CALL_WINDOW: u32 = 2 << 20;
const CALL_UNSENT: usize = 1 << 20;

/// How often it is asked whether the other end of such a connection is still there, and how long an
/// answer may take.
const PING_EVERY: Duration = Duration::from_secs(20);

/// After how long another connection is accepted where one could not be.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// The process asks for no more descriptors than this.
const MOST_DESCRIPTORS: u64 = 65_536;

/// How many connections are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    all: usize,
    from_one: usize,
}

impl Bounds {
    /// As the settings say, within what a process of so many descriptors can hold: half of them
    /// are for the WAL, landings, queries and other daemons.
    fn new(settings: &HttpSettings, descriptors: u64) -> Self {
        let all = Self::within(settings.connections, descriptors);
        let from_one = settings.connections_per_address.min(all - all / 4).max(1);
        Self { all, from_one }
    }

    fn within(connections: usize, descriptors: u64) -> usize {
        let half = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
        connections.min(half.saturating_sub(SPARE)).max(1)
    }
}

/// Lets the process have as many descriptors as it may. Returns how many.
fn descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(MOST_DESCRIPTORS);
    let has = limit.current.unwrap_or(u64::MAX);
    if has >= wanted {
        return has;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).map_or(has, |()| wanted)
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is served.
    Served,
    /// There are too many; the daemon's state alone is answered.
    OverAll,
    /// There are too many from its address; the same.
    OverOne,
    /// There are too many of those, too: it is closed.
    Closed,
}

/// The connections that are held.
#[derive(Debug, Default)]
struct Held {
    served: usize,
    spare: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Held {
    fn take(&mut self, from: IpAddr, bounds: Bounds) -> Standing {
        let of_one = self.by_address.get(&from).copied().unwrap_or(0);
        let standing = match (self.served < bounds.all, of_one < bounds.from_one) {
            (true, true) => {
                self.served += 1;
                *self.by_address.entry(from).or_default() += 1;
                return Standing::Served;
            }
            (false, _) => Standing::OverAll,
            (true, false) => Standing::OverOne,
        };
        if self.spare >= SPARE {
            return Standing::Closed;
        }
        self.spare += 1;
        standing
    }

    fn give_back(&mut self, from: IpAddr, standing: Standing) {
        match standing {
            Standing::Served => {
                self.served -= 1;
                if let Some(of_one) = self.by_address.get_mut(&from) {
                    *of_one -= 1;
                    if *of_one == 0 {
                        self.by_address.remove(&from);
                    }
                }
            }
            Standing::OverAll | Standing::OverOne => self.spare -= 1,
            Standing::Closed => {}
        }
    }
}

/// Whose an address is: of version 6 a whole network is one machine's.
fn owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// What is known of the connections, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    held: Mutex<Held>,
    refused: AtomicU64,
}

impl Connections {
    /// How many are held.
    pub(crate) fn held(&self) -> usize {
        let held = self.held.lock();
        held.served + held.spare
    }

    /// How many came beyond the bounds.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// The place of one connection among those that are held; given back when this is dropped.
#[derive(Debug)]
struct Place {
    connections: Arc<Connections>,
    from: IpAddr,
    standing: Standing,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.connections.held.lock();
        held.give_back(self.from, self.standing);
    }
}

/// What requests know of the connection that they came over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    /// Whether it came from the machine itself.
    pub(crate) is_loopback: bool,
    pub(crate) standing: Standing,
}

/// The door.
#[derive(Debug)]
pub(crate) struct Door {
    bounds: Bounds,
    header_timeout: Duration,
    connections: Arc<Connections>,
    tls: Option<Arc<ServerTls>>,
    /// [`Protocol::Http`] or [`Protocol::Flight`].
    protocol: Protocol,
}

impl Door {
    /// A door by the settings; gives the process the descriptors that it may have.
    pub(crate) fn new(settings: &HttpSettings, tls: Option<Arc<ServerTls>>) -> Self {
        Self {
            tls,
            bounds: Bounds::new(settings, descriptors()),
            header_timeout: settings.header_timeout,
            connections: Arc::default(),
            protocol: Protocol::Http,
        }
    }

    /// A door for gRPC.
    pub(crate) fn flight(
        settings: &FlightSettings,
        http: &HttpSettings,
        tls: Option<Arc<ServerTls>>,
    ) -> Self {
        let all = Bounds::within(settings.connections, descriptors());
        Self {
            bounds: Bounds { all, from_one: all },
            protocol: Protocol::Flight,
            ..Self::new(http, tls)
        }
    }

    /// What is known of the connections.
    pub(crate) fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Serves until told to close; then no more connections are accepted, and it ends when those
    /// that have a request have answered it. Dropping it ends all of them.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        router: Router,
        closing: CancellationToken,
    ) {
        let service = TowerToHyperService::new(router);
        let mut tasks = JoinSet::new();
        let mut fails = false;
        loop {
            let accepted = tokio::select! {
                () = closing.cancelled() => break,
                Some(ended) = tasks.join_next() => {
                    tell_panic(ended);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    fails = false;
                    if let Some(place) = self.place(from) {
                        let served = self.connection(stream, place, &service, &closing);
                        tasks.spawn(served);
                    }
                }
                Err(e) if is_the_clients(&e) => {}
                Err(e) => {
                    if !fails {
                        tracing::error!(error = %e, "no connection can be accepted; it is tried again");
                    }
                    fails = true;
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        drop(listener);
        while let Some(ended) = tasks.join_next().await {
            tell_panic(ended);
        }
    }

    fn place(&self, from: SocketAddr) -> Option<Place> {
        let from = owner(from.ip());
        let standing = self.connections.held.lock().take(from, self.bounds);
        if standing != Standing::Served {
            self.connections.refused.fetch_add(1, Ordering::Relaxed);
        }
        (standing != Standing::Closed).then(|| Place {
            connections: self.connections.clone(),
            from,
            standing,
        })
    }

    /// Serves one connection to its end.
    fn connection(
        &self,
        stream: TcpStream,
        place: Place,
        service: &TowerToHyperService<Router>,
        closing: &CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (local, from) = (stream.local_addr(), stream.peer_addr().ok());
        let connection = Connection {
            is_loopback: local.is_ok_and(|a| a.ip().to_canonical().is_loopback()),
            standing: place.standing,
        };
        let is_spare = place.standing != Standing::Served;
        let has_asked = Arc::new(AtomicBool::new(false));
        let (asked, service) = (has_asked.clone(), service.clone());
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(connection);
            if let Some(from) = from {
                request.extensions_mut().insert(ConnectInfo(from));
            }
            service.call(request)
        });
        let life = Life {
            is_spare,
            has_asked,
            header_timeout: self.header_timeout,
            closing: closing.clone(),
        };
        let (tls, protocol) = (self.tls.clone(), self.protocol);
        async move {
            let _place = place;
            let Some(wire) = encrypted(stream, tls, protocol).await else {
                return;
            };
            match protocol {
                Protocol::Flight => {
                    let asks = life.asks();
                    let served = life.http2().serve_connection(wire, service);
                    tokio::select! {
                        () = life.lived(served) => {}
                        () = asks => {}
                    }
                }
                _ => {
                    let served = life.http1().serve_connection(wire, service);
                    life.lived(served).await;
                }
            }
        }
    }
}

/// How long a connection may live.
struct Life {
    is_spare: bool,
    /// Whether a request has come.
    has_asked: Arc<AtomicBool>,
    header_timeout: Duration,
    closing: CancellationToken,
}

impl Life {
    fn http1(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).max_buf_size(HEADER_BYTES);
        match self.is_spare {
            true => builder.header_read_timeout(SPARE_HEADERS).keep_alive(false),
            false => builder.header_read_timeout(self.header_timeout),
        };
        builder
    }

    fn http2(&self) -> http2::Builder<TokioExecutor> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(CALLS)
            .max_header_list_size(HEADER_BYTES as u32)
            .initial_connection_window_size(CALLS_WINDOW)
            .initial_stream_window_size(CALL_WINDOW)
            .max_send_buf_size(CALL_UNSENT)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY);
        builder
    }

    /// Ends where nothing was asked in time.
    fn asks(&self) -> impl Future<Output = ()> + Send + 'static {
        let (has_asked, within) = (self.has_asked.clone(), self.header_timeout);
        async move {
            tokio::time::sleep(within).await;
            if has_asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Serves to the end of the connection.
    async fn lived(&self, served: impl GracefulConnection) {
        let mut served = pin!(served);
        let until_closing = async {
            tokio::select! {
                // What goes wrong on a connection is its client's to see.
                ended = served.as_mut() => {
                    ended.ok();
                    false
                }
                () = self.closing.cancelled() => true,
            }
        };
        let closes = match self.is_spare {
            true => tokio::time::timeout(SPARE_FOR, until_closing)
                .await
                .unwrap_or(false),
            false => until_closing.await,
        };
        // One that has asked nothing yet is not waited for.
        if closes && self.has_asked.load(Ordering::Relaxed) {
            served.as_mut().graceful_shutdown();
            served.await.ok();
        }
    }
}

/// The bytes of a connection, encrypted where the door encrypts; none where its client does not.
async fn encrypted(
    stream: TcpStream,
    tls: Option<Arc<ServerTls>>,
    protocol: Protocol,
) -> Option<Wire> {
    let Some(tls) = tls else {
        return Some(Wire::new(stream));
    };
    match tls.accept(stream, protocol).await {
        Ok(Encrypted::Yes(stream, _)) => Some(Wire::new(stream)),
        Ok(Encrypted::No(mut stream)) => {
            if protocol == Protocol::Http {
                // Whoever says nothing is told nothing.
                let told = wire::told_to_encrypt();
                let told = stream.write_all(&told);
                tokio::time::timeout(SPARE_HEADERS, told).await.ok();
            }
            stream.shutdown().await.ok();
            None
        }
        Err(e) => {
            tracing::debug!(error = %e, "a connection is not encrypted");
            None
        }
    }
}

/// Whether an error of accepting is of that one connection, and not of this process.
fn is_the_clients(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        e.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

fn tell_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended {
        tracing::error!(error = %e, "a connection ended with its request unanswered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(connections: usize, connections_per_address: usize) -> HttpSettings {
        HttpSettings {
            hosts: vec![],
            origins: vec![],
            base: None,
            connections,
            connections_per_address,
            header_timeout: Duration::from_secs(1),
            body_timeout: Duration::from_secs(1),
            least_rate: 1,
        }
    }

    #[test]
    fn bounds_leave_descriptors_and_room_for_other_addresses() {
        let bounds = |all, from_one, descriptors| {
            let bounds = Bounds::new(&settings(all, from_one), descriptors);
            (bounds.all, bounds.from_one)
        };
        assert_eq!(bounds(2_000, 500, 65_536), (2_000, 500));
        assert_eq!(bounds(2_000, 500, 1_024), (480, 360));
        assert_eq!(bounds(100, 500, 1_024), (100, 75));
        assert_eq!(bounds(2_000, 500, 10), (1, 1));
    }

    #[test]
    fn what_is_over_the_bounds_gets_state_and_then_nothing() {
        let bounds = Bounds {
            all: 3,
            from_one: 2,
        };
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held = Held::default();
        assert_eq!(held.take(a, bounds), Standing::Served);
        assert_eq!(held.take(a, bounds), Standing::Served);
        assert_eq!(held.take(a, bounds), Standing::OverOne);
        assert_eq!(held.take(b, bounds), Standing::Served);
        assert_eq!(held.take(b, bounds), Standing::OverAll);
        for _ in 2..SPARE {
            assert_eq!(held.take(a, bounds), Standing::OverAll);
        }
        assert_eq!(held.take(b, bounds), Standing::Closed);
        held.give_back(a, Standing::OverOne);
        held.give_back(a, Standing::Served);
        assert_eq!(held.take(b, bounds), Standing::Served);
        assert_eq!(held.take(b, bounds), Standing::OverAll);
        held.give_back(a, Standing::Served);
        assert!(!held.by_address.contains_key(&a));
    }

    #[test]
    fn a_network_of_version_6_is_one_owner() {
        let owner = |text: &str| text.parse().map(owner).map(|ip| ip.to_string());
        assert_eq!(owner("2001:db8:1:2:3::4"), Ok("2001:db8:1:2::".to_owned()));
        assert_eq!(owner("::ffff:10.0.0.1"), Ok("10.0.0.1".to_owned()));
        assert_eq!(owner("::1"), Ok("::1".to_owned()));
    }
}
