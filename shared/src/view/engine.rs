//! The engine as everybody here runs it: what its functions mean is the same in views, in queries and
//! in what is recomputed.

use std::sync::Arc;

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
    functions::register(&mut state)?;
    Ok(state)
}
