//! Who somebody is that asks over HTTP or gRPC, and what they may ask. A path that is not in [`need`] is
//! answered to users alone, and a handler that wants to know who asks answers nobody of whom that is
//! not known.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anabranch_serving::{
    Identity, Refused, Users, basic_credentials, flight_error, flight_refusal,
};
use anabranch_shared::{Error, ErrorKind, StorageSecret};
use anabranch_speed::DELTA;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use percent_encoding::percent_decode_str;

use super::guard::error;
use super::{Connection, Standing};
use crate::node::peers::PEERS;

/// What a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing: it tells no more than that somebody is there.
    Nothing,
    /// To be somebody; what is answered goes by who it is.
    Somebody,
    /// To send facts of a topic.
    Ingest(String),
    /// To see how the daemon is.
    Operate,
    /// To be another daemon of the storage.
    Daemon,
}

/// What a path needs.
fn need(path: &str) -> Need {
    if let Some(rest) = path.strip_prefix("/topics/") {
        let topic = rest.split('/').next().unwrap_or_default();
        return Need::Ingest(percent_decode_str(topic).decode_utf8_lossy().into_owned());
    }
    match path {
        "/" | "/health" | "/ready" => Need::Nothing,
        // Its files tell nothing; what they ask for is asked with a token.
        path if path == "/console" || path.starts_with("/console/") => Need::Nothing,
        "/status" | "/metrics" => Need::Operate,
        DELTA | PEERS => Need::Daemon,
        "/plan" | "/operations" => Need::Operate,
        path if path.starts_with("/verify/") || path.starts_with("/operations/") => Need::Operate,
        _ => Need::Somebody,
    }
}

/// What is known of those who ask.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) users: Option<Arc<Users>>,
    /// What other daemons and commands of the storage show.
    pub(crate) secret: Option<StorageSecret>,
}

/// Who somebody is by what a request says.
enum Shown {
    /// Another daemon or a command of the storage.
    Storage,
    Somebody(Identity),
}

/// Why somebody is not let in.
enum Stranger {
    /// The request shows nothing.
    Nobody,
    /// It shows something that can't be read.
    Unreadable,
    Refused(Refused),
}

impl Gate {
    fn identify(
        &self,
        users: &Users,
        headers: &HeaderMap,
        from: IpAddr,
    ) -> Result<Shown, Stranger> {
        let mut all = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = all.next() else {
            return Err(Stranger::Nobody);
        };
        if all.next().is_some() {
            return Err(Stranger::Unreadable);
        }
        let text = value.to_str().map_err(|_| Stranger::Unreadable)?;
        let (scheme, shown) = text.split_once(' ').ok_or(Stranger::Unreadable)?;
        let shown = shown.trim();
        let (name, token) = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => (None, shown.to_owned()),
            "basic" => {
                let (name, token) = basic_credentials(shown).ok_or(Stranger::Unreadable)?;
                (Some(name), token)
            }
            _ => return Err(Stranger::Unreadable),
        };
        if self.secret.as_ref().is_some_and(|secret| secret.is(&token)) {
            return Ok(Shown::Storage);
        }
        let identity = users.bearer(&token, from).map_err(Stranger::Refused)?;
        // Whoever names a user means that one.
        match name.filter(|name| !name.is_empty() && Some(name.as_str()) != identity.name()) {
            None => Ok(Shown::Somebody(identity)),
            Some(_) => Err(Stranger::Refused(Refused::Wrong)),
        }
    }
}

impl Stranger {
    fn text(&self) -> String {
        match self {
            Self::Nobody => "say who you are: send `Authorization: Bearer TOKEN` (`anabranch users add` makes a token)".to_owned(),
            Self::Unreadable => "the header `Authorization` is to be `Bearer TOKEN`, or `Basic` with a user and a token".to_owned(),
            Self::Refused(why) => why.to_string(),
        }
    }

    /// As a call of gRPC is answered.
    fn status(&self) -> Response {
        let code = match self {
            // Resource exhausted.
            Self::Refused(Refused::Wait(_)) => 8,
            // Unauthenticated.
            _ => 16,
        };
        flight_refusal(code, &self.text())
    }

    fn answer(&self) -> Response {
        let status = match self {
            Self::Refused(Refused::Wait(_)) => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::UNAUTHORIZED,
        };
        let mut answer = error(status, ErrorKind::Denied, &self.text());
        let headers = answer.headers_mut();
        match self {
            Self::Refused(Refused::Wait(time)) => {
                let seconds = HeaderValue::from(time.as_secs().max(1));
                headers.insert(header::RETRY_AFTER, seconds);
            }
            _ => {
                let challenge = HeaderValue::from_static("Bearer realm=\"anabranch\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
        }
        answer
    }
}

fn denied(identity: &Identity, what: &str) -> Response {
    let text = identity.denied(what).to_string();
    error(StatusCode::FORBIDDEN, ErrorKind::Denied, &text)
}

/// From where a request comes.
fn from(request: &Request) -> IpAddr {
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>();
    from.map_or(IpAddr::from(Ipv4Addr::UNSPECIFIED), |ConnectInfo(at)| {
        at.ip()
    })
}

/// Lets those through who may ask what they ask, as long as they may.
pub(crate) async fn gate(
    State(gate): State<Arc<Gate>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(users) = &gate.users else {
        request.extensions_mut().insert(Identity::everybody());
        return next.run(request).await;
    };
    let need = need(request.uri().path());
    let identity = match gate.identify(users, request.headers(), from(&request)) {
        Ok(Shown::Storage) => {
            request.extensions_mut().insert(Identity::everybody());
            return next.run(request).await;
        }
        Ok(Shown::Somebody(identity)) => identity,
        Err(Stranger::Nobody) if need == Need::Nothing => return next.run(request).await,
        Err(stranger) => return stranger.answer(),
    };
    let rights = identity.rights();
    match &need {
        Need::Ingest(topic) if !rights.may_ingest(topic) => {
            return denied(&identity, "send facts of this topic");
        }
        Need::Operate if !rights.may_operate() => {
            return denied(&identity, "see how the daemon is, or have it do something");
        }
        Need::Daemon => return denied(&identity, "ask what daemons ask each other"),
        _ => {}
    }
    let ended = Stranger::Refused(Refused::Wrong);
    as_long_as_they_may(users, identity, request, next)
        .await
        .unwrap_or_else(|| ended.answer())
}

/// Lets those through to Arrow Flight SQL who may come in; what they may do there goes by who they are.
pub(crate) async fn flight_gate(
    State(gate): State<Arc<Gate>>,
    mut request: Request,
    next: Next,
) -> Response {
    let connection = request.extensions().get::<Connection>();
    if connection.is_some_and(|c| c.standing != Standing::Served) {
        // Resource exhausted.
        return flight_refusal(
            8,
            "there are too many connections (`connections` in `[doors.flight]`); try again in a moment",
        );
    }
    let Some(users) = &gate.users else {
        request.extensions_mut().insert(Identity::everybody());
        return next.run(request).await;
    };
    let identity = match gate.identify(users, request.headers(), from(&request)) {
        Ok(Shown::Storage) => Identity::everybody(),
        Ok(Shown::Somebody(identity)) => identity,
        Err(stranger) => return stranger.status(),
    };
    let ended = Stranger::Refused(Refused::Wrong);
    as_long_as_they_may(users, identity, request, next)
        .await
        .unwrap_or_else(|| ended.status())
}

/// The answer to a user's request; none where their secret opens no more before it begins. An answer
/// that is being sent then is cut off, and so is one whose reader has other rights from now on.
async fn as_long_as_they_may(
    users: &Arc<Users>,
    identity: Identity,
    mut request: Request,
    next: Next,
) -> Option<Response> {
    request.extensions_mut().insert(identity.clone());
    let answer = tokio::select! {
        answer = next.run(request) => answer,
        () = users.ended(&identity) => return None,
    };
    let (head, body) = answer.into_parts();
    if HttpBody::size_hint(&body).exact().is_some() {
        return Some(Response::from_parts(head, body));
    }
    let users = users.clone();
    let body = CutBody {
        inner: body,
        ended: Box::pin(async move { users.changed(&identity).await }),
    };
    Some(Response::from_parts(head, Body::new(body)))
}

/// A body that fails once its reader may not read it any more.
struct CutBody {
    inner: Body,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl HttpBody for CutBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            self.ended = Box::pin(std::future::ready(()));
            let error = Error::Denied(Refused::Wrong.to_string());
            return Poll::Ready(Some(Err(axum::Error::new(flight_error(&error)))));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_its_need() {
        let ingest = |topic: &str| Need::Ingest(topic.to_owned());
        for (path, expected) in [
            ("/health", Need::Nothing),
            ("/ready", Need::Nothing),
            ("/", Need::Nothing),
            ("/console/pages/now.js", Need::Nothing),
            ("/status", Need::Operate),
            ("/metrics", Need::Operate),
            ("/verify/words", Need::Operate),
            ("/plan", Need::Operate),
            ("/operations", Need::Operate),
            ("/operations/3f", Need::Operate),
            ("/whoami", Need::Somebody),
            (DELTA, Need::Daemon),
            (PEERS, Need::Daemon),
            ("/sql", Need::Somebody),
            ("/queries/1", Need::Somebody),
            ("/nothing", Need::Somebody),
            ("/topics/facts", ingest("facts")),
            ("/topics/facts/ingested/x", ingest("facts")),
            ("/topics/%66acts", ingest("facts")),
            ("/topics/", ingest("")),
        ] {
            assert_eq!(need(path), expected, "{path}");
        }
    }
}
