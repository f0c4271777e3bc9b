//! What a node measures, as OpenMetrics text. What happens is counted and timed where it happens, in
//! instruments that are registered here; what is so at a moment is looked up at each scrape, by
//! [`scraped`]. `jobs/docs/metrics.md` lists every metric.

mod boundaries;
mod jobs;
mod requests;
mod scraped;

use std::sync::Arc;

use anabranch_serving::SqlService;
use anabranch_shared::{Error, Result, Storage};
use anabranch_speed::Daemon;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub(super) use self::boundaries::Boundaries;
pub(super) use self::jobs::JobMetrics;
pub(super) use self::requests::{RequestMetrics, measure};
use self::scraped::Scraped;
use crate::node::peers::PeerList;
use crate::node::ready::Node;

/// The content type of the text.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a node measures.
#[derive(Debug)]
pub(super) struct NodeMetrics {
    registry: Registry,
    /// Requests over HTTP.
    pub(super) requests: RequestMetrics,
    /// Jobs of views, whoever runs them.
    pub(super) jobs: JobMetrics,
    /// Since when the views' boundaries are where they are.
    pub(super) boundaries: Arc<Boundaries>,
}

/// What is looked at when a node is asked what it measures.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) daemon: Arc<Daemon>,
    pub(super) node: Arc<Node>,
    pub(super) peers: Arc<PeerList>,
    pub(super) storage: Storage,
    pub(super) sql: Arc<SqlService>,
}

impl NodeMetrics {
    /// What a node of these measures.
    pub(super) fn new(sources: Sources) -> Self {
        let (requests, jobs) = (RequestMetrics::default(), JobMetrics::default());
        let boundaries = Arc::new(Boundaries::default());
        let mut registry = Registry::default();
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("anabranch_build", "What runs", Info::new(version));
        requests.register(&mut registry);
        sources.sql.metrics().register(&mut registry);
        sources.daemon.options().metrics.register(&mut registry);
        jobs.register(&mut registry);
        let scraped = Scraped::new(sources, boundaries.clone());
        registry.register_collector(Box::new(scraped));
        Self {
            registry,
            requests,
            jobs,
            boundaries,
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// `Internal` where it can't be written out.
    pub(super) fn text(&self) -> Result<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry)
            .map_err(|e| Error::Internal(format!("the metrics can't be written out: {e}")))?;
        Ok(text)
    }
}
