//! Kafka for tests: a real broker ([`Broker`]), librdkafka's mock ([`Mock`]), a producer that keeps
//! book of what was acknowledged ([`Producer`]), and a consumer to check it by ([`read_all`]).
//!
//! The mock lacks what matters most (COMPONENTS.md, 1c): it shows aborted transactions to a
//! `read_committed` consumer, keeps 5 MiB a partition, and answers no request of an administrator.

mod broker;
mod mock;
mod produce;
mod read;

use async_trait::async_trait;

pub use broker::{Broker, BrokerOptions, KAFKA};
pub use mock::Mock;
pub use produce::{Codec, End, Producer, Sending, Shape};
pub use read::{Record, read_all};

/// What tests need of either.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// `bootstrap.servers` of a client.
    fn bootstrap(&self) -> String;

    /// Makes a topic, and waits until each of its partitions has a leader.
    async fn create_topic(&self, topic: &str, partitions: i32) -> anyhow::Result<()>;

    /// Whether a `read_committed` consumer sees committed transactions alone.
    fn hides_aborted(&self) -> bool;
}
