//! The sessions of queries. What all of them have alike is made once: to make it for each took a fifth
//! of the time of the smallest one.

use std::sync::Arc;

use anabranch_shared::functions::{self, FunctionBounds};
use anabranch_shared::view::{build_session, session_builder};
use anabranch_shared::{CATALOG, Result};
use datafusion::catalog::MemoryCatalogProviderList;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::prelude::SessionConfig;

use crate::arithmetic;
use crate::combine::Combine;
use crate::planning;
use crate::reading::PUBLIC;
use crate::spellings::operators::Operators;

/// Makes sessions.
#[derive(Clone, Debug)]
pub(super) struct Sessions(Arc<SessionState>);

impl Sessions {
    /// Sessions whose queries have so many threads.
    pub(super) fn new(runtime: Arc<RuntimeEnv>, threads: usize) -> Result<Self> {
        let mut config = SessionConfig::new()
            .with_target_partitions(threads.max(1))
            .with_default_catalog_and_schema(CATALOG, PUBLIC);
        config.options_mut().execution.time_zone = Some("+00:00".to_owned());
        config.options_mut().execution.parquet.pushdown_filters = false;
        // So that an error says where it is.
        config.options_mut().sql_parser.collect_spans = true;
        let builder = session_builder()
            .with_config(config)
            .with_runtime_env(runtime);
        let mut alike = build_session(builder)?;
        alike.register_udaf(Arc::new(Combine::udaf()))?;
        Ok(Self(Arc::new(alike)))
    }

    /// A session for plans that are there already.
    pub(super) fn of_plans(&self, runtime: Arc<RuntimeEnv>) -> SessionState {
        let builder = SessionStateBuilder::new_from_existing(self.0.as_ref().clone());
        of_its_own(builder, runtime).build()
    }

    /// A session for a statement of whoever asks, which keeps to bounds.
    pub(super) fn of_statement(
        &self,
        runtime: Arc<RuntimeEnv>,
        bounds: FunctionBounds,
    ) -> Result<SessionState> {
        let builder = planning::bounded(self.0.as_ref().clone(), bounds.clone());
        let builder = arithmetic::checked(of_its_own(builder, runtime));
        let mut state = builder.build();
        functions::bound(&mut state, &bounds)?;
        state.register_expr_planner(Arc::new(Operators))?;
        Ok(state)
    }
}

/// Tables, names and memory of its own; sessions that are made of one another would share theirs.
fn of_its_own(mut builder: SessionStateBuilder, runtime: Arc<RuntimeEnv>) -> SessionStateBuilder {
    let config = builder.config().take().unwrap_or_default();
    builder
        .with_config(config.with_create_default_catalog_and_schema(true))
        .with_catalog_list(Arc::new(MemoryCatalogProviderList::new()))
        .with_execution_props(ExecutionProps::new())
        .with_runtime_env(runtime)
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    /// A session knows nothing of another one's tables.
    #[tokio::test]
    async fn sessions_share_no_tables() -> Result<()> {
        let sessions = Sessions::new(Arc::default(), 2)?;
        let bounded = || sessions.of_statement(Arc::default(), FunctionBounds::default());
        let [one, other] = [bounded()?, bounded()?].map(SessionContext::new_with_state);
        one.sql("CREATE TABLE secrets AS SELECT 1 AS n").await?;
        assert_eq!(one.table("secrets").await?.count().await?, 1);
        assert!(other.table("secrets").await.is_err());
        let later = SessionContext::new_with_state(sessions.of_plans(Arc::default()));
        assert!(later.table("secrets").await.is_err());
        Ok(())
    }
}
