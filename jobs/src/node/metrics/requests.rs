//! How long requests over HTTP take, by what is asked. Owns the paths that are told apart: whatever
//! anybody may ask, there are few of them.

use std::time::Instant;

use anabranch_shared::metrics::{Histograms, histograms, register, wait_times};
use anabranch_speed::DELTA;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::registry::Registry;

use crate::node::peers::PEERS;

/// What a daemon answers, with a name in braces for what differs.
const ROUTES: [&str; 29] = [
    "/health",
    "/ready",
    "/status",
    "/metrics",
    "/verify/{view}",
    "/views/{view}",
    "/views/{view}/changes",
    PEERS,
    "/topics/{topic}",
    "/topics/{topic}/ingested/{id}",
    DELTA,
    "/",
    "/console",
    "/console/",
    "/console/{file}",
    "/console/{folder}/{file}",
    "/sql",
    "/replay",
    "/openapi.json",
    "/relations",
    "/queries",
    "/queries/{id}",
    "/whoami",
    "/plan",
    "/operations",
    "/operations/{id}",
    "/boards",
    "/boards/{board}",
    "/boards/{board}/{panel}",
];

/// Every other path, and every other method.
const OTHER: &str = "other";

/// The route that a path is of.
fn route(path: &str) -> &'static str {
    let is_of = |route: &&&str| {
        let (mut given, mut wanted) = (path.split('/'), route.split('/'));
        loop {
            match (given.next(), wanted.next()) {
                (None, None) => return true,
                (Some(given), Some(wanted)) => {
                    let is_any = wanted.starts_with('{') && !given.is_empty();
                    if !is_any && given != wanted {
                        return false;
                    }
                }
                _ => return false,
            }
        }
    };
    ROUTES.iter().find(is_of).copied().unwrap_or(OTHER)
}

fn method(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    let found = known.into_iter().find(|known| *known == method.as_str());
    found.unwrap_or(OTHER)
}

/// A hundred of statuses.
fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

/// The class of those whose client was gone before there was an answer.
const GONE: &str = "gone";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: &'static str,
    method: &'static str,
    status: &'static str,
}

/// How long requests took. Clones are one and the same.
#[derive(Clone, Debug)]
pub(crate) struct RequestMetrics {
    times: Histograms<Labels>,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        Self {
            times: histograms(wait_times),
        }
    }
}

impl RequestMetrics {
    /// Lets whoever reads a registry see all of this.
    pub(super) fn register(&self, registry: &mut Registry) {
        register(
            registry,
            "anabranch_http_request_seconds",
            "How long requests took, from when their head was read until the answer began",
            self.times.clone(),
        );
    }

    fn begin(&self, asked: &Method, path: &str) -> Measured {
        Measured {
            times: self.times.clone(),
            labels: Labels {
                route: route(path),
                method: method(asked),
                status: GONE,
            },
            begun: Instant::now(),
        }
    }
}

/// A request that is not over. Its time is counted when this is dropped.
struct Measured {
    times: Histograms<Labels>,
    labels: Labels,
    begun: Instant,
}

impl Drop for Measured {
    fn drop(&mut self) {
        let times = self.times.get_or_create(&self.labels);
        times.observe(self.begun.elapsed().as_secs_f64());
    }
}

/// Measures a request, whatever it is answered.
pub(crate) async fn measure(
    State(metrics): State<RequestMetrics>,
    request: Request,
    next: Next,
) -> Response {
    let mut measured = metrics.begin(request.method(), request.uri().path());
    let answer = next.run(request).await;
    measured.labels.status = class(answer.status());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use prometheus_client::encoding::text::encode;

    #[test]
    fn paths_are_told_apart_by_their_route() {
        for (path, expected) in [
            ("/sql", "/sql"),
            ("/topics/clicks", "/topics/{topic}"),
            ("/topics/a/ingested/b", "/topics/{topic}/ingested/{id}"),
            ("/queries", "/queries"),
            ("/queries/0a1b", "/queries/{id}"),
            ("/peers", "/peers"),
            ("/delta", "/delta"),
            ("/topics/", OTHER),
            ("/topics/a/b", OTHER),
            ("/sql/", OTHER),
            ("/", "/"),
            ("/console/", "/console/"),
            ("/console/app.js", "/console/{file}"),
            ("/console/pages/now.js", "/console/{folder}/{file}"),
            ("", OTHER),
            ("/wp-login.php", OTHER),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
    }

    /// A route that is added anywhere is told apart, too.
    #[test]
    fn every_route_is_known() {
        let sources = [
            include_str!("../routes.rs"),
            include_str!("../../../../speed/src/http.rs"),
            include_str!("../../../../serving/src/http.rs"),
        ];
        let mut found = BTreeSet::new();
        for source in sources {
            for rest in source.split(".route(").skip(1) {
                let (path, _) = rest.split_once(',').unwrap_or_default();
                found.insert(match path.trim() {
                    "PEERS" => PEERS,
                    "DELTA" => DELTA,
                    quoted => quoted.trim_matches('"'),
                });
            }
        }
        assert_eq!(found, BTreeSet::from(ROUTES));
    }

    /// What daemons ask each other is nobody's to know of, and pages are no interface.
    #[test]
    fn every_route_is_described() {
        let described = include_str!("../openapi.json");
        let described: serde_json::Value = serde_json::from_str(described).unwrap_or_default();
        let paths = described["paths"].as_object().into_iter().flatten();
        let mut found: BTreeSet<&str> = paths.map(|(path, _)| path.as_str()).collect();
        found.extend([PEERS, DELTA, "/"]);
        found.extend(ROUTES.into_iter().filter(|r| r.starts_with("/console")));
        assert_eq!(found, BTreeSet::from(ROUTES));
    }

    #[test]
    fn what_is_asked_once_is_counted_once() {
        let metrics = RequestMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let answered = |asked: &Method, path, status: Option<u16>| {
            let mut measured = metrics.begin(asked, path);
            if let Some(status) = status.and_then(|s| StatusCode::from_u16(s).ok()) {
                measured.labels.status = class(status);
            }
        };
        answered(&Method::POST, "/sql", Some(200));
        answered(&Method::POST, "/sql", Some(204));
        answered(&Method::POST, "/sql", Some(400));
        answered(&Method::POST, "/sql", None);
        answered(&Method::TRACE, "/a", Some(404));
        answered(&Method::TRACE, "/b", Some(404));
        let mut text = String::new();
        assert!(encode(&mut text, &registry).is_ok());
        let counts: BTreeSet<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix("anabranch_http_request_seconds_count"))
            .collect();
        let expected = [
            "{route=\"/sql\",method=\"POST\",status=\"2xx\"} 2",
            "{route=\"/sql\",method=\"POST\",status=\"4xx\"} 1",
            "{route=\"/sql\",method=\"POST\",status=\"gone\"} 1",
            "{route=\"other\",method=\"other\",status=\"4xx\"} 2",
        ];
        assert_eq!(counts, BTreeSet::from(expected));
    }
}
