//! A real Kafka broker for as long as standard input is open, told there what to do.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use anabranch_tests::kafka::{Broker, BrokerOptions, Cluster, KAFKA};
use anyhow::{Context, Result, bail};
use serde_json::json;

/// Which broker.
#[derive(Debug, clap::Args)]
pub struct BrokerArgs {
    /// Where its data lie
    #[arg(long)]
    dir: PathBuf,
    /// A topic to make
    #[arg(long, default_value = "facts")]
    topic: String,
    /// Its partitions
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Its records go after so many bytes a partition; -1 keeps them
    #[arg(long, default_value_t = -1)]
    retention_bytes: i64,
}

/// Runs it; lines of standard input are `stop`, `kill` and `start`, each answered by a line.
pub fn run(args: &BrokerArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let options = BrokerOptions {
        dir: Some(args.dir.clone()),
        heap: "512m",
        short_lived: false,
        ..Default::default()
    };
    let broker = runtime.block_on(Broker::start_with(options))?;
    let mut broker =
        broker.with_context(|| format!("set `{KAFKA}` to what `tests/kafka/setup.sh` prints"))?;
    let retention = args.retention_bytes.to_string();
    let settings = [("retention.bytes", retention.as_str())];
    runtime.block_on(broker.create_topic_with(&args.topic, args.partitions, &settings))?;
    let say = |text: serde_json::Value| -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    };
    say(json!({ "bootstrap": broker.bootstrap(), "proxied": broker.proxied() }))?;
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "stop" => runtime.block_on(broker.stop())?,
            "kill" => broker.kill()?,
            "start" => runtime.block_on(broker.start_again())?,
            other => bail!("`{other}`: write `stop`, `kill` or `start`"),
        }
        say(json!({ "done": true }))?;
    }
    Ok(())
}
