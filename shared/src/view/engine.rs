//! The engine as everybody here runs it: what its functions mean is the same in views, in queries and
//! in what is recomputed.

use std::sync::Arc;

use datafusion::common::config::ConfigNonZeroUsize;
use datafusion::execution::{SessionState, SessionStateBuilder};

use super::arguments::AggregateArguments;
use super::bit_xor::BitXor;
use super::spread::Spread;
use super::sum::Sum;
use super::text_sets::Count;
use super::{float_keys, redefined};
use crate::{Result, functions};

/// A session of the engine with its default features, and with this project's aggregates in the
/// place of those of its own that answer otherwise.
pub fn session_builder() -> SessionStateBuilder {
    let mut builder = SessionStateBuilder::new_with_default_features()
        .with_optimizer_rules(redefined::rules())
        .with_physical_optimizer_rules(float_keys::rules())
        .with_analyzer_rule(Arc::new(AggregateArguments));
    let ours = Spread::udafs().into_iter();
    let ours = ours.chain([Sum::udaf(), BitXor::udaf(), Count::udaf()]);
    let functions = builder.aggregate_functions().get_or_insert_default();
    functions.extend(ours.map(Arc::new));
    builder
}

/// The session that a builder of [`session_builder`] makes, with the functions that we have besides
/// the engine's.
pub fn build_session(builder: SessionStateBuilder) -> Result<SessionState> {
    let mut state = builder.build();
    // Rows that wait between threads go to disk where memory is short, and a reader of them waits for
    // ever where two files are open at once (apache/datafusion#24883). A file that holds one batch is
    // never open.
    let execution = &mut state.config_mut().options_mut().execution;
    execution.max_spill_file_size_bytes = ConfigNonZeroUsize::try_new(1)?;
    functions::register(&mut state)?;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::execution::memory_pool::FairSpillPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;
    use crate::Error;

    /// Many rows between two threads, for which memory is too short.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_query_that_is_short_of_memory_comes_to_an_end() -> Result<()> {
        let mut config = SessionConfig::new().with_target_partitions(2);
        config.options_mut().execution.batch_size = ConfigNonZeroUsize::try_new(64)?;
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(2_000_000)))
            .build_arc()?;
        let builder = session_builder()
            .with_config(config)
            .with_runtime_env(runtime);
        let session = SessionContext::new_with_state(build_session(builder)?);
        let facts = "CREATE TABLE facts AS SELECT v % 13 AS g, md5(CAST(v % 337 AS VARCHAR)) AS word FROM generate_series(1, 40000) AS s(v)";
        session.sql(facts).await?.collect().await?;
        for _ in 0..12 {
            let asked = "SELECT g, count(DISTINCT word) AS words FROM facts GROUP BY g";
            let answer = session.sql(asked).await?.collect();
            let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
            let waits = |_| Error::Internal("the query never ends".to_owned());
            let answer = answer.map_err(waits)??;
            assert_eq!(answer.iter().map(|b| b.num_rows()).sum::<usize>(), 13);
        }
        Ok(())
    }
}
