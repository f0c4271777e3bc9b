//! What scripts and other processes ask of the S3 server itself, below the path `/-/`: how often it
//! was asked for what, and by which rules it shall fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_shared::RequestKind;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use s3s::Body;

use super::Shared;
use super::faults::{self, Rule};

/// Requests by kind.
#[derive(Debug, Default)]
pub struct Asked([AtomicU64; RequestKind::ALL.len()]);

impl Asked {
    pub(super) fn count(&self, kind: RequestKind) {
        if let Some(n) = self.0.get(kind as usize) {
            n.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests of a kind, those that failed among them.
    pub fn of(&self, kind: RequestKind) -> u64 {
        self.0
            .get(kind as usize)
            .map_or(0, |n| n.load(Ordering::Relaxed))
    }

    /// All kinds with their names.
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        RequestKind::ALL.map(|k| (k.name(), self.of(k))).into()
    }
}

/// A request to the server itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// `GET /-/requests`: JSON, by kind.
    Requests,
    /// `PUT /-/faults`: one rule a line replaces those in force.
    Faults,
}

pub(super) fn control(request: &Request<Incoming>) -> Option<Control> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/-/requests") => Some(Control::Requests),
        (&Method::PUT, "/-/faults") => Some(Control::Faults),
        _ => None,
    }
}

pub(super) async fn applied(
    shared: &Arc<Shared>,
    control: Control,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Body>> {
    match control {
        Control::Requests => {
            let all = shared.asked.all().into_iter();
            let all = all.map(|(name, n)| (name.to_owned(), serde_json::Value::from(n)));
            let json = serde_json::Value::Object(all.collect());
            Ok(Response::new(Body::from(json.to_string())))
        }
        Control::Faults => {
            let whole = faults::whole(request).await?.into_body();
            let bytes = whole.bytes().unwrap_or_default();
            let lines = std::str::from_utf8(&bytes)?.lines().map(str::trim);
            let rules = lines
                .filter(|line| !line.is_empty())
                .map(str::parse::<Rule>);
            match rules.collect::<anyhow::Result<Vec<_>>>() {
                Ok(rules) => {
                    shared.faults.set(rules);
                    Ok(Response::new(Body::from(String::from("ok\n"))))
                }
                Err(e) => Ok(faults::refusal(400, &e.to_string())),
            }
        }
    }
}
