//! librdkafka's mock cluster. Its handle can't move between threads, so it lives in one of its own.

use std::sync::mpsc;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tokio::sync::oneshot;

use super::Cluster;

type Handle = MockCluster<'static, DefaultProducerContext>;
type Task = Box<dyn FnOnce(&Handle) + Send>;

/// A mock cluster of this process; it ends when this is dropped.
#[derive(Debug)]
pub struct Mock {
    bootstrap: String,
    tasks: mpsc::Sender<Task>,
}

impl Mock {
    /// Starts a cluster of so many brokers.
    pub async fn start(brokers: i32) -> anyhow::Result<Self> {
        let (tasks, todo) = mpsc::channel::<Task>();
        let (started, bootstrap) = oneshot::channel();
        std::thread::Builder::new()
            .name("mock-kafka".into())
            .spawn(move || {
                let cluster = match Handle::new(brokers) {
                    Ok(cluster) => cluster,
                    Err(e) => {
                        // Nobody waits any more where this fails.
                        started.send(Err(e)).ok();
                        return;
                    }
                };
                started.send(Ok(cluster.bootstrap_servers())).ok();
                for task in todo {
                    task(&cluster);
                }
            })?;
        Ok(Self {
            bootstrap: bootstrap.await??,
            tasks,
        })
    }

    /// Does something with the cluster: `mock.with(|c| c.broker_down(1)).await??`.
    pub async fn with<R: Send + 'static>(
        &self,
        task: impl FnOnce(&Handle) -> R + Send + 'static,
    ) -> anyhow::Result<R> {
        let (done, result) = oneshot::channel();
        let task: Task = Box::new(move |cluster| {
            done.send(task(cluster)).ok();
        });
        let ended = || anyhow::anyhow!("the mock cluster's thread has ended");
        self.tasks.send(task).map_err(|_| ended())?;
        Ok(result.await?)
    }

    /// Delays each answer of a broker, whose ids count from 1.
    pub async fn delay(&self, broker: i32, delay: Duration) -> anyhow::Result<()> {
        Ok(self
            .with(move |c| c.broker_round_trip_time(broker, delay))
            .await??)
    }
}

#[async_trait]
impl Cluster for Mock {
    fn bootstrap(&self) -> String {
        self.bootstrap.clone()
    }

    async fn create_topic(&self, topic: &str, partitions: i32) -> anyhow::Result<()> {
        let topic = topic.to_owned();
        Ok(self
            .with(move |c| c.create_topic(&topic, partitions, 1))
            .await??)
    }

    fn hides_aborted(&self) -> bool {
        false
    }
}
