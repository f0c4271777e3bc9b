//! Views: a SQL query over one topic, split by its plan into what is done to facts (*lower*), the
//! aggregation that makes mergeable states, and what is done to finished values (*upper*).
//!
//! ```text
//!   upper    HAVING, ORDER BY, LIMIT, window functions, further aggregation …
//!   finish   states → values            ┐
//!   merge    states → states            ├ one aggregation, or none (then rows are the states)
//!   fold     facts  → states            ┘
//!   lower    WHERE, projection
//!   facts    one topic
//! ```

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{LogicalPlan, TableScanBuilder};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Topic};

mod aggregate;
mod ast;
mod compact;
mod facts;
mod fold;
mod order;
mod plan;
mod sample;
mod states;

pub use aggregate::{AggregateSplit, Column, Key};
pub use facts::{FactsTable, LeafTable};
pub use fold::{Fold, finish_column, fold_facts, groups_accumulator, identity_states};
pub use plan::{planning_session, relations_read};
pub use sample::KeySample;
pub use states::{SortedStates, StateCodec};

use plan::Planned;

/// A view's definition: what it computes. Two definitions that are equal compute the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The view's SQL, as its author wrote it.
    pub sql: String,
    /// The topic that it reads, as declared when the view was planned.
    pub topic: Topic,
    /// The session settings that it was planned under.
    pub settings: Vec<(String, String)>,
    /// The format of its states: functions, engine version and argument types.
    pub state_format: String,
}

/// A view, planned: how facts become states, states merge, and merged states become values.
#[derive(Debug)]
pub struct View {
    name: String,
    definition: Definition,
    planned: Planned,
    codec: StateCodec,
}

impl View {
    /// Plans a view.
    ///
    /// # Errors
    /// `View`, with the reason, the place in the SQL and what to write instead, where the SQL can't
    /// be a view.
    pub fn compile(name: &str, sql: &str, topic: &Topic) -> Result<Self> {
        let planned = plan::plan(name, sql, topic)?;
        let keys = planned.aggregate.as_ref().map_or(0, |a| a.keys().len());
        let codec =
            StateCodec::new(planned.state_schema(), keys).map_err(|e| Error::view(name, e))?;
        let definition = Definition {
            sql: sql.to_owned(),
            topic: topic.clone(),
            settings: plan::definition_settings(),
            state_format: planned.state_format(),
        };
        Ok(Self {
            name: name.to_owned(),
            definition,
            planned,
            codec,
        })
    }

    /// Plans a stored definition again.
    ///
    /// # Errors
    /// As [`View::compile`]; `Conflict` where this version of the software makes other states of
    /// it than the version that stored it.
    pub fn from_definition(name: &str, definition: &Definition) -> Result<Self> {
        let view = Self::compile(name, &definition.sql, &definition.topic)?;
        if view.definition.state_format == definition.state_format
            || crate::planted("planted-other-format")
        {
            return Ok(view);
        }
        Err(Error::Conflict(format!(
            "view `{name}`: its stored states are of the format `{}`, this version makes `{}`; run `anabranch batch rebuild {name}`",
            definition.state_format, view.definition.state_format
        )))
    }

    /// The view's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the view computes.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The topic that the view reads.
    pub fn topic(&self) -> &Topic {
        &self.definition.topic
    }

    /// The columns of a fact that the view reads, as indices into the topic's schema.
    pub fn fact_projection(&self) -> &[usize] {
        &self.planned.projection
    }

    /// The aggregation, unless the view's states are rows.
    pub fn aggregate(&self) -> Option<&Arc<AggregateSplit>> {
        self.planned.aggregate.as_ref()
    }

    /// The schema of states in memory.
    pub fn state_schema(&self) -> &SchemaRef {
        self.codec.state_schema()
    }

    /// How states are stored.
    pub fn codec(&self) -> &StateCodec {
        &self.codec
    }

    /// The schema of what the leaf gives: keys and finished columns.
    pub fn leaf_schema(&self) -> &SchemaRef {
        &self.planned.leaf_schema
    }

    /// The schema of the view's answer.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::clone(self.planned.upper.schema().as_arrow()))
    }

    /// The first steps of a view on facts: filters and projections.
    ///
    /// `facts` has the columns of [`View::fact_projection`].
    pub fn apply_lower(
        &self,
        facts: &arrow::array::RecordBatch,
    ) -> Result<arrow::array::RecordBatch> {
        self.planned.apply_lower(facts)
    }

    /// The plan of an answer, over a leaf that gives keys and finished columns.
    pub fn answer_plan(&self, leaf: Arc<dyn TableProvider>) -> Result<LogicalPlan> {
        replace_table(&self.planned.upper, plan::LEAF, leaf)
    }

    /// The plan of the whole view over raw facts: the right side of the law.
    pub fn recompute_plan(&self, facts: Arc<dyn TableProvider>) -> Result<LogicalPlan> {
        replace_table(&self.planned.whole, &self.definition.topic.name, facts)
    }
}

/// Puts a provider in the place of the scan of a placeholder table.
fn replace_table(
    plan: &LogicalPlan,
    name: &str,
    provider: Arc<dyn TableProvider>,
) -> Result<LogicalPlan> {
    let source = provider_as_source(provider);
    let replaced = plan.clone().transform_down(|node| match node {
        LogicalPlan::TableScan(scan) if scan.table_name.table() == name => {
            let scan = TableScanBuilder::new(scan.table_name, source.clone())
                .with_projection(scan.projection)
                .with_filters(scan.filters)
                .with_fetch(scan.fetch)
                .build()?;
            Ok(Transformed::new(
                LogicalPlan::TableScan(scan),
                true,
                TreeNodeRecursion::Jump,
            ))
        }
        node => Ok(Transformed::no(node)),
    })?;
    Ok(replaced.data)
}

/// Finds the leaf tables of a type in a plan.
pub fn tables_of<T: TableProvider + 'static>(plan: &LogicalPlan) -> Result<usize> {
    let mut found = 0;
    plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && (provider.as_ref() as &dyn std::any::Any).is::<T>()
        {
            found += 1;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}
