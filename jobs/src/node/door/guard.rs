//! Who may ask what over HTTP, how long a body may take, and how a refusal reads.
//!
//! A browser sends requests of any page to any address, and lets a page read the answers of the
//! host that it came from, whose name may be made to mean this machine. So the name in `Host` is one
//! of this machine's over loopback, for whatever a page sends with an `Origin`, and for everybody once
//! a project names its hosts; and nothing is changed by a request that a page of another origin can
//! send without asking first. Who is no browser and not on this machine may otherwise use any name:
//! a server is reached by names that it does not know.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anabranch_shared::settings::{HttpSettings, Project};
use anabranch_shared::{Error, ErrorKind, Result};
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tower_http::cors::{AllowHeaders, CorsLayer, ExposeHeaders};

use super::{Connection, Standing};
use crate::reader::presence::host_name;

/// What is answered over connections beyond the bounds.
const STATE: [&str; 4] = ["/health", "/ready", "/status", "/metrics"];

/// Types of bodies that a page may send to another origin without asking it first.
const SIMPLE_TYPES: [&str; 3] = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
];

/// How long a browser knows what it was told of a page.
const PREFLIGHT_FOR: Duration = Duration::from_secs(600);

/// What a refusal of the framework says, in bytes.
const MOST_SAID: usize = 16 << 10;

/// The rest of a body whose request is answered already is read and dropped for so long and up to
/// so many bytes, because closing would take the answer from who still sends.
const DRAIN_FOR: Duration = Duration::from_secs(5);
const DRAIN_BYTES: u64 = 64 << 20;

/// How fast a body has to come.
#[derive(Clone, Copy, Debug)]
struct Pace {
    timeout: Duration,
    /// In bytes a second.
    least_rate: u64,
}

impl Pace {
    /// How long a body may have taken of which so many bytes have come.
    fn allowed(self, received: u64) -> Duration {
        let seconds = received as f64 / self.least_rate as f64;
        let more = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.timeout.saturating_add(more)
    }
}

/// What is checked of each request.
#[derive(Debug)]
pub(crate) struct Guard {
    /// The names of this machine, in small letters.
    names: BTreeSet<String>,
    /// Those of them that `[http] hosts` names: their pages are no strangers.
    named: BTreeSet<String>,
    /// Origins whose pages may ask and send.
    origins: BTreeSet<String>,
    pace: Pace,
}

impl Guard {
    /// What a project's settings let in.
    pub(crate) fn new(project: &Project) -> Self {
        let HttpSettings {
            hosts,
            origins,
            body_timeout,
            least_rate,
            ..
        } = &project.http;
        let daemon = &project.daemon;
        let addresses = [Some(&daemon.http), daemon.advertise.as_ref()];
        let own = addresses.into_iter().flatten().map(|a| name_of(a));
        let named: BTreeSet<String> = hosts.iter().cloned().collect();
        let mut names = named.clone();
        names.extend(own.chain([name_of(&host_name())]));
        Self {
            names,
            named,
            origins: origins.iter().cloned().collect(),
            pace: Pace {
                timeout: *body_timeout,
                least_rate: *least_rate,
            },
        }
    }

    /// Whether a name means this machine to everybody: an address, or one of its names.
    fn is_own(&self, name: &str) -> bool {
        name == "localhost"
            || name.ends_with(".localhost")
            || name.parse::<IpAddr>().is_ok()
            || self.names.contains(name)
    }

    /// Why a request is refused, if it is.
    fn refusal(&self, connection: &Connection, request: &Asked<'_>) -> Option<Refusal> {
        let why = match connection.standing {
            Standing::Served => None,
            Standing::OverOne => Some(
                "your address has too many connections (`connections_per_address` in `[http]`)",
            ),
            _ => Some("there are too many connections (`connections` in `[http]`)"),
        };
        if let Some(why) = why
            && !(is_safe(request.method) && STATE.contains(&request.path))
        {
            return Some(Refusal::Busy(why));
        }
        let is_bound = connection.is_loopback || !self.named.is_empty() || request.has_origin();
        let strange = request.hosts().into_iter().find(|h| !self.is_own(h));
        if let Some(host) = strange.filter(|_| is_bound) {
            return Some(Refusal::Host(host));
        }
        let origin = request.strange_origin(self)?;
        let refused = !is_safe(request.method) && request.is_simple();
        refused.then_some(Refusal::Origin(origin))
    }
}

/// What tells browsers that pages of these origins may ask, send, and read what they are answered.
///
/// # Errors
/// `Invalid` for an origin that is no value of a header.
pub(crate) fn pages(origins: &[String]) -> Result<CorsLayer> {
    let value = |origin: &String| {
        HeaderValue::from_str(origin)
            .map_err(|e| Error::Invalid(format!("`origins` in `[http]`: `{origin}`: {e}")))
    };
    let origins = origins.iter().map(value).collect::<Result<Vec<_>>>()?;
    Ok(CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
        // Whatever a page wants to send it names.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::any())
        .max_age(PREFLIGHT_FOR))
}

/// Whether requests of a method change nothing.
fn is_safe(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// The name in `HOST:PORT`, in small letters, without the brackets of an address.
fn name_of(authority: &str) -> String {
    let name = match authority.parse::<Authority>() {
        Ok(authority) => authority.host().to_ascii_lowercase(),
        Err(_) => authority.to_ascii_lowercase(),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.trim_end_matches('.').to_owned()
}

/// What of a request says where it comes from.
struct Asked<'a> {
    method: &'a Method,
    path: &'a str,
    /// Host and port in the request's own line, which a proxy is sent.
    authority: Option<&'a str>,
    headers: &'a HeaderMap,
}

impl Asked<'_> {
    fn text(value: &HeaderValue) -> String {
        String::from_utf8_lossy(value.as_bytes()).trim().to_owned()
    }

    /// The names under which the daemon is asked.
    fn hosts(&self) -> Vec<String> {
        let headers = self.headers.get_all(header::HOST).iter().map(Self::text);
        let all = headers.chain(self.authority.map(str::to_owned));
        all.map(|host| name_of(&host)).collect()
    }

    /// Whether a page sends this, and its browser says so.
    fn has_origin(&self) -> bool {
        self.headers.contains_key(header::ORIGIN)
    }

    /// The origin of the page that sends this, where it is another one than that of the daemon.
    fn strange_origin(&self, guard: &Guard) -> Option<String> {
        let host = self.headers.get(header::HOST).map(Self::text);
        let mut origins = self.headers.get_all(header::ORIGIN).iter().peekable();
        if origins.peek().is_none() {
            // Some browsers leave it out and say this.
            let site = self.headers.get("sec-fetch-site").map(Self::text)?;
            let is_strange = ["cross-site", "same-site"].contains(&site.as_str());
            return is_strange.then_some(site);
        }
        let is_own = |origin: &String| {
            let Ok(uri) = origin.parse::<Uri>() else {
                return false;
            };
            let Some(authority) = uri.authority() else {
                return false;
            };
            let same = |host: &String| host.eq_ignore_ascii_case(authority.as_str());
            host.as_ref().is_some_and(same)
                || guard.named.contains(&name_of(authority.as_str()))
                || guard.origins.contains(&origin.to_ascii_lowercase())
        };
        origins.map(Self::text).find(|origin| !is_own(origin))
    }

    /// Whether a page may send this to another origin without asking it first.
    fn is_simple(&self) -> bool {
        let own = |name: &str| name.starts_with("anabranch-") || name == "idempotency-key";
        if self.headers.keys().any(|name| own(name.as_str())) {
            return false;
        }
        let mut types = self.headers.get_all(header::CONTENT_TYPE).iter();
        types.all(|value| {
            let text = Self::text(value).to_ascii_lowercase();
            let essence = text.split(';').next().unwrap_or_default().trim();
            essence.is_empty() || SIMPLE_TYPES.contains(&essence)
        })
    }
}

/// Why a request is refused before anything is done with it.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// There are too many connections.
    Busy(&'static str),
    /// It asks for a name that is not known to mean this machine.
    Host(String),
    /// A page of another origin sends it.
    Origin(String),
}

impl Refusal {
    fn answer(&self) -> Response {
        match self {
            Self::Busy(why) => {
                let text = format!("{why}; try again in a moment");
                let status = StatusCode::SERVICE_UNAVAILABLE;
                let mut answer = error(status, ErrorKind::Unavailable, &text);
                let headers = answer.headers_mut();
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                answer
            }
            Self::Host(host) => error(
                StatusCode::FORBIDDEN,
                ErrorKind::Invalid,
                &format!(
                    "the daemon is asked as `{host}`, which is not known to be this machine; where it is, name it in `hosts` in `[http]` (with its other names, which alone are taken then) and restart"
                ),
            ),
            Self::Origin(origin) => error(
                StatusCode::FORBIDDEN,
                ErrorKind::Invalid,
                &format!(
                    "a page of another origin (`{origin}`) sends this; where it may, name it in `origins` in `[http]` and restart, or send another content type than that of a form, such as `application/x-ndjson`"
                ),
            ),
        }
    }
}

/// An error as the project answers it.
pub(crate) fn error(status: StatusCode, kind: ErrorKind, text: &str) -> Response {
    let body = serde_json::json!({ "error": text, "kind": kind.to_string() });
    let json = [(header::CONTENT_TYPE, "application/json")];
    (status, json, body.to_string()).into_response()
}

/// Lets a request through, and makes errors of the framework those of the project.
pub(crate) async fn guard(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    let (method, path) = (head.method.clone(), head.uri.path().to_owned());
    let slow = Arc::new(AtomicBool::new(false));
    // Who waits to be told to go on has not begun to send.
    let waits = head.headers.contains_key(header::EXPECT);
    let body = TimedBody::new(body, guard.pace, slow.clone(), !waits);
    if let Some(connection) = head.extensions.get::<Connection>() {
        let asked = Asked {
            method: &method,
            path: &path,
            authority: head.uri.authority().map(Authority::as_str),
            headers: &head.headers,
        };
        if let Some(refusal) = guard.refusal(connection, &asked) {
            return refusal.answer();
        }
    }
    let request = Request::from_parts(head, Body::new(body));
    let answer = next.run(request).await;
    if slow.load(Ordering::Relaxed) {
        let rate = guard.pace.least_rate;
        let text = format!(
            "the body came more slowly than {rate} bytes a second (`least_rate` and `body_timeout` in `[http]`), and nothing of it was taken; send it again, in smaller parts"
        );
        return error(StatusCode::REQUEST_TIMEOUT, ErrorKind::Invalid, &text);
    }
    as_json(answer, &method, &path).await
}

/// An answer of the framework as one of the project.
async fn as_json(answer: Response, method: &Method, path: &str) -> Response {
    let status = answer.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let content_type = answer.headers().get(header::CONTENT_TYPE);
    let is_json = content_type.is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
    // What other daemons are told where another one is meant is no error to be read.
    if !is_error || is_json || status == StatusCode::MISDIRECTED_REQUEST {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let said = to_bytes(body, MOST_SAID).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let said = said.trim();
    let (kind, text) = match status {
        StatusCode::NOT_FOUND => (
            ErrorKind::NotFound,
            format!("there is no `{path}`; `jobs/docs/commands.md` lists what can be asked"),
        ),
        // What it takes is in the header `Allow`, which is added later.
        StatusCode::METHOD_NOT_ALLOWED => (
            ErrorKind::Invalid,
            format!("`{path}` does not take {method}; `Allow` says what it takes"),
        ),
        StatusCode::PAYLOAD_TOO_LARGE => (
            ErrorKind::Invalid,
            format!("the body is larger than `{path}` takes; send less"),
        ),
        _ => {
            let why = match said {
                "" => status.canonical_reason().unwrap_or("it can't be answered"),
                said => said,
            };
            let kind = match status.is_client_error() {
                true => ErrorKind::Invalid,
                false => ErrorKind::Internal,
            };
            (kind, format!("{method} `{path}`: {why}"))
        }
    };
    head.headers.remove(header::CONTENT_TYPE);
    head.headers.remove(header::CONTENT_LENGTH);
    let mut answer = error(status, kind, &text);
    answer.headers_mut().extend(head.headers);
    answer
}

/// A body that fails where it comes too slowly, and that is read to its end where it is dropped
/// before.
struct TimedBody {
    /// None once it has ended or failed.
    inner: Option<Body>,
    pace: Pace,
    began: Instant,
    received: u64,
    deadline: Pin<Box<Sleep>>,
    /// Set where it came too slowly.
    slow: Arc<AtomicBool>,
    /// Whether it is read to its end where nobody wants it.
    drains: bool,
}

impl TimedBody {
    fn new(inner: Body, pace: Pace, slow: Arc<AtomicBool>, drains: bool) -> Self {
        let began = Instant::now();
        Self {
            inner: Some(inner),
            pace,
            began,
            received: 0,
            deadline: Box::pin(tokio::time::sleep(pace.allowed(0))),
            slow,
            drains,
        }
    }
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(inner) = self.inner.as_mut() else {
            return Poll::Ready(None);
        };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.received += bytes as u64;
                let deadline = self.began.checked_add(self.pace.allowed(self.received));
                if let Some(deadline) = deadline {
                    self.deadline.as_mut().reset(deadline);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(ended) => {
                self.inner = None;
                Poll::Ready(ended)
            }
            Poll::Pending if self.deadline.as_mut().poll(cx).is_ready() => {
                self.slow.store(true, Ordering::Relaxed);
                self.inner = None;
                let late = io::Error::from(io::ErrorKind::TimedOut);
                Poll::Ready(Some(Err(axum::Error::new(late))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.as_ref();
        inner.map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        let unread = self.inner.take().filter(|b| !b.is_end_stream());
        if let (Some(body), true) = (unread, self.drains)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Ends soon by itself, and nothing depends on it.
            runtime.spawn(async move { tokio::time::timeout(DRAIN_FOR, drain(body)).await.ok() });
        }
    }
}

async fn drain(mut body: Body) {
    let mut bytes = 0;
    while bytes < DRAIN_BYTES {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Some(Ok(frame)) = next.await else { return };
        bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(
        is_loopback: bool,
        standing: Standing,
        method: Method,
        headers: &[(&'static str, &str)],
    ) -> Option<Refusal> {
        refused_by(
            &["facts.example.org"],
            is_loopback,
            standing,
            method,
            headers,
        )
    }

    /// As [`refused`], where `[http] hosts` names these.
    fn refused_by(
        hosts: &[&str],
        is_loopback: bool,
        standing: Standing,
        method: Method,
        headers: &[(&'static str, &str)],
    ) -> Option<Refusal> {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let guard = Guard {
            names: names(&[&["box"], hosts].concat()),
            named: names(hosts),
            origins: names(&["https://app.example"]),
            pace: Pace {
                timeout: Duration::from_secs(1),
                least_rate: 1,
            },
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).ok()?);
        }
        let asked = Asked {
            method: &method,
            path: "/topics/t",
            authority: None,
            headers: &map,
        };
        let connection = Connection {
            is_loopback,
            standing,
        };
        guard.refusal(&connection, &asked)
    }

    fn post(is_loopback: bool, headers: &[(&'static str, &str)]) -> Option<Refusal> {
        refused(is_loopback, Standing::Served, Method::POST, headers)
    }

    #[test]
    fn over_loopback_the_host_is_this_machine() {
        for host in [
            "localhost:1",
            "LOCALHOST",
            "a.localhost:1",
            "127.0.0.1:1",
            "[::1]:1",
            "10.0.0.7:1",
            "Box:1",
            "box.",
            "facts.example.org",
        ] {
            assert_eq!(post(true, &[("host", host)]), None, "{host}");
        }
        for host in ["evil.example", "evil.example:1", "box.evil.example", ""] {
            let refusal = post(true, &[("host", host)]);
            assert!(matches!(refusal, Some(Refusal::Host(_))), "{host}");
        }
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert!(matches!(post(true, &two), Some(Refusal::Host(_))));
        // Who sends none is no browser.
        assert_eq!(post(true, &[]), None);
    }

    #[test]
    fn off_loopback_the_host_is_this_machine_for_pages_and_where_hosts_are_named() {
        let away = |hosts: &[&str], method: Method, headers: &[(&'static str, &str)]| {
            refused_by(hosts, false, Standing::Served, method, headers)
        };
        let is_host = |refusal| matches!(refusal, Some(Refusal::Host(_)));
        let named = ["facts.example.org"];
        for host in ["10.0.0.7:1", "box:1", "facts.example.org:1"] {
            assert_eq!(
                away(&named, Method::POST, &[("host", host)]),
                None,
                "{host}"
            );
        }
        let other = [("host", "facts.internal:1")];
        // A server whose names nobody has written down is asked by any.
        assert_eq!(away(&[], Method::POST, &other), None);
        assert_eq!(away(&[], Method::GET, &other), None);
        // Where they are written down, by those alone.
        for method in [Method::GET, Method::POST] {
            assert!(is_host(away(&named, method, &other)));
        }
        // A page whose name was made to mean this machine is of the same origin as its host.
        let rebound = [
            ("host", "evil.example:1"),
            ("origin", "http://evil.example:1"),
            ("content-type", "application/json"),
        ];
        assert!(is_host(away(&[], Method::POST, &rebound)));
        assert!(is_host(away(&[], Method::GET, &rebound)));
        let own = [("host", "10.0.0.7:1"), ("origin", "http://10.0.0.7:1")];
        assert_eq!(away(&[], Method::POST, &own), None);
        let foreign = [("host", "10.0.0.7:1"), ("origin", "http://evil.example")];
        let refusal = away(&[], Method::POST, &foreign);
        assert!(matches!(refusal, Some(Refusal::Origin(_))));
    }

    #[test]
    fn pages_of_other_origins_send_nothing_without_asking() {
        let host = ("host", "127.0.0.1:8787");
        for origin in [
            "http://evil.example",
            "null",
            "http://localhost:8787",
            "http://127.0.0.1:1",
            "http://app.example",
            "https://app.example:8443",
            "x",
        ] {
            for kind in [
                "text/plain;charset=UTF-8",
                "application/x-www-form-urlencoded",
                "Multipart/Form-Data; boundary=x",
                "",
            ] {
                let headers = [host, ("origin", origin), ("content-type", kind)];
                let expected = Some(Refusal::Origin(origin.to_owned()));
                assert_eq!(post(true, &headers), expected);
                assert_eq!(post(false, &headers), expected);
            }
            let without = [host, ("origin", origin)];
            assert!(post(true, &without).is_some());
            let asked = [host, ("origin", origin), ("content-type", "text/csv")];
            assert_eq!(post(true, &asked), None);
            let own = [host, ("origin", origin), ("idempotency-key", "k")];
            assert_eq!(post(true, &own), None);
            let read = refused(true, Standing::Served, Method::GET, &without);
            assert_eq!(read, None);
        }
        for origin in [
            "http://127.0.0.1:8787",
            "https://facts.example.org",
            "http://facts.example.org:81",
            "https://app.example",
        ] {
            assert_eq!(post(true, &[host, ("origin", origin)]), None, "{origin}");
        }
        let site = |site| post(true, &[host, ("sec-fetch-site", site)]);
        assert!(site("cross-site").is_some() && site("same-site").is_some());
        assert_eq!((site("same-origin"), site("none")), (None, None));
    }

    #[test]
    fn beyond_the_bounds_state_alone_is_answered() {
        let refusal = refused(true, Standing::OverAll, Method::GET, &[]);
        assert!(matches!(refusal, Some(Refusal::Busy(_))));
    }

    #[test]
    fn a_body_may_take_longer_the_more_of_it_has_come() {
        let pace = Pace {
            timeout: Duration::from_secs(30),
            least_rate: 1_000,
        };
        let seconds = [0, 1_000, 10_500].map(|bytes| pace.allowed(bytes).as_secs_f64());
        assert_eq!(seconds, [30.0, 31.0, 40.5]);
        assert!(pace.allowed(u64::MAX) > Duration::from_secs(1 << 40));
    }
}
