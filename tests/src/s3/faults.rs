//! How the S3 server fails: by rules that a test sets, in a sequence that can be repeated.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use futures::TryStreamExt;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use s3s::Body;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 500, and nothing was done.
    Error500,
    /// 503 SlowDown, and nothing was done.
    SlowDown,
    /// No answer ever, and nothing was done.
    Silent,
    /// No answer ever, though it was done.
    SilentAfter,
    /// The connection ends before anything was done.
    DropBefore,
    /// The connection ends after it was done.
    DropAfter,
    /// The connection ends, and it is done so much later.
    Late(Duration),
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Error500 => "500",
            Self::SlowDown => "503",
            Self::Silent => "silent",
            Self::SilentAfter => "silent-after",
            Self::DropBefore => "drop-before",
            Self::DropAfter => "drop-after",
            Self::Late(_) => "late",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Which requests fail, how, and how many of a thousand.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What goes wrong.
    pub fault: Fault,
    /// Of a thousand requests so many.
    pub per_mille: u32,
    /// Only requests of this method.
    pub method: Option<Method>,
    /// Only requests whose path (bucket and key) has this in it.
    pub key: String,
    /// At most so often.
    pub most: u64,
}

impl Rule {
    /// A rule for every request.
    pub fn new(fault: Fault, per_mille: u32) -> Self {
        Self {
            fault,
            per_mille,
            method: None,
            key: String::new(),
            most: u64::MAX,
        }
    }

    /// The same for one method alone.
    #[must_use]
    pub fn method(self, method: Method) -> Self {
        let method = Some(method);
        Self { method, ..self }
    }

    /// The same for keys that have this in them.
    #[must_use]
    pub fn key(self, part: &str) -> Self {
        let key = part.to_owned();
        Self { key, ..self }
    }

    /// The same, at most so often.
    #[must_use]
    pub fn most(self, most: u64) -> Self {
        Self { most, ..self }
    }
}

/// `FAULT:PER_MILLE[:METHOD[:KEY]]`, for example `drop-after:50:PUT:_delta_log`; a late put is
/// `late=300ms`.
impl FromStr for Rule {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.splitn(4, ':');
        let fault = match words.next().unwrap_or_default() {
            "500" => Fault::Error500,
            "503" => Fault::SlowDown,
            "silent" => Fault::Silent,
            "silent-after" => Fault::SilentAfter,
            "drop-before" => Fault::DropBefore,
            "drop-after" => Fault::DropAfter,
            other => {
                let delay = other
                    .strip_prefix("late=")
                    .and_then(|d| d.strip_suffix("ms"));
                let delay = delay.with_context(|| format!("`{other}` is no fault"))?;
                Fault::Late(Duration::from_millis(delay.parse()?))
            }
        };
        let per_mille = words
            .next()
            .with_context(|| format!("`{text}` has no rate"))?;
        let mut rule = Self::new(fault, per_mille.parse()?);
        if let Some(method) = words.next().filter(|m| !m.is_empty()) {
            rule.method = Some(method.parse()?);
        }
        Ok(rule.key(words.next().unwrap_or_default()))
    }
}

/// The rules in force.
#[derive(Debug)]
pub(super) struct Faults {
    state: std::sync::Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    rng: SmallRng,
    injected: BTreeMap<Fault, u64>,
}

impl Default for Faults {
    fn default() -> Self {
        let state = State {
            rules: Vec::new(),
            rng: SmallRng::seed_from_u64(1),
            injected: BTreeMap::new(),
        };
        Self {
            state: std::sync::Mutex::new(state),
        }
    }
}

impl Faults {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        work(&mut state)
    }

    pub(super) fn set(&self, rules: Vec<Rule>) {
        self.with(|state| state.rules = rules);
    }

    pub(super) fn injected(&self) -> Vec<(Fault, u64)> {
        self.with(|state| state.injected.iter().map(|(f, n)| (*f, *n)).collect())
    }

    pub(super) fn choose(&self, method: &Method, path: &str) -> Option<Fault> {
        self.with(|state| {
            let State {
                rules,
                rng,
                injected,
            } = state;
            let of = |rule: &&mut Rule| {
                rule.method.as_ref().is_none_or(|m| m == method)
                    && path.contains(&rule.key)
                    && rule.most > 0
                    && rng.random_range(0..1_000) < rule.per_mille
            };
            let rule = rules.iter_mut().find(of)?;
            rule.most -= 1;
            *injected.entry(rule.fault).or_default() += 1;
            Some(rule.fault)
        })
    }
}

/// An answer of S3 that says no.
pub(super) fn refusal(status: u16, code: &str) -> Response<Body> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>injected</Message></Error>"
    );
    let mut response = Response::new(Body::from(body));
    if let Ok(status) = hyper::StatusCode::from_u16(status) {
        *response.status_mut() = status;
    }
    response
}

/// A request with its whole body, so that its sender may go away.
pub(super) async fn whole(request: Request<Incoming>) -> anyhow::Result<Request<Body>> {
    let (head, body) = request.into_parts();
    let parts: Vec<_> = Body::from(body)
        .try_collect()
        .await
        .map_err(|e| anyhow::anyhow!("{e}"))?;
    Ok(Request::from_parts(head, Body::from(parts.concat())))
}
