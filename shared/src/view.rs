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

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{Expr, LogicalPlan, TableScanBuilder};

use crate::late_fields::fit_facts;
use crate::reference::{
    Bound, Lookup, MetRows, Reference, ReferenceRows, ReferencesAt, ReferencesMet,
};
use crate::topic::LateReads;
use crate::{Error, Offset, OffsetRange, PartitionId, Result, Topic, planted};

mod aggregate;
mod arguments;
mod ast;
mod bins;
mod bit_xor;
mod compact;
mod conflicts;
mod definition;
mod engine;
mod facts;
mod fingerprint;
mod float_keys;
mod fold;
mod formats;
mod inexact;
mod joins;
mod order;
mod plan;
mod redefined;
mod refusals;
mod roles;
mod rollup;
mod row_wise;
mod sample;
mod spread;
mod states;
mod sum;
mod taken;
mod terms;
mod text_sets;
mod ties;
mod zones;

pub use aggregate::{AggregateSplit, Column, Key, state_fields};
pub use ast::refuse_samples;
pub use compact::compact;
pub use definition::Definition;
pub use engine::{build_session, session_builder};
pub use facts::{FactsTable, LeafTable};
pub use fingerprint::{Difference, Fingerprint, StatesDiffer};
pub use fold::{Fold, finish_column, fold_facts, groups_accumulator, identity_states};
pub use inexact::Inexact;
pub use plan::{planning_session, relations_read};
pub use refusals::{refuse_relation, unnamed_columns};
pub use roles::{Exactness, Role};
pub use rollup::rolled_up;
pub use row_wise::RowWise;
pub use sample::KeySample;
pub(crate) use states::convert;
pub use states::{SortedStates, StateCodec};
pub use taken::StatesTaken;
pub use terms::Recompute;

use formats::Formats;
use parking_lot::RwLock;
use plan::{Planned, Readable, Shape};

/// A view, planned: how facts become states, states merge, and merged states become values.
#[derive(Clone, Debug)]
pub struct View {
    name: String,
    definition: Definition,
    planned: Planned,
    formats: Formats,
    /// The columns of a fact that the view reads.
    fact_schema: SchemaRef,
    late_reads: LateReads,
    codec: StateCodec,
    /// Up to where the references are that its facts meet, once it is bound to them.
    at: ReferencesAt,
    /// The view as facts meet references now.
    newest: Arc<RwLock<Option<Arc<Self>>>>,
}

impl View {
    /// Plans a view.
    ///
    /// # Errors
    /// `View`, with the reason, the place in the SQL and what to write instead, where the SQL can't
    /// be a view.
    pub fn compile(name: &str, sql: &str, topic: &Topic) -> Result<Self> {
        Self::compile_with(name, sql, topic, &[])
    }

    /// Plans a view that may join facts with references.
    ///
    /// # Errors
    /// As [`View::compile`].
    pub fn compile_with(
        name: &str,
        sql: &str,
        topic: &Topic,
        references: &[Reference],
    ) -> Result<Self> {
        Self::compile_as(name, sql, Readable { topic, references }, Shape::View)
    }

    fn compile_as(name: &str, sql: &str, read: Readable<'_>, shape: Shape) -> Result<Self> {
        // A defect of the planner, ours or the engine's, is the trouble of one view.
        let planned = std::panic::catch_unwind(|| Self::plan(name, sql, read, shape));
        planned.unwrap_or_else(|panic| {
            Err(Error::view(
                name,
                format!(
                    "planning it ended in a defect of this software (`{}`); write it in another way, and report this",
                    crate::panic_text(panic.as_ref())
                ),
            ))
        })
    }

    fn plan(name: &str, sql: &str, read: Readable<'_>, shape: Shape) -> Result<Self> {
        let topic = read.topic;
        let planned = plan::plan(name, sql, read, shape)?;
        let keys = planned.aggregate.as_ref().map_or(0, |a| a.keys().len());
        let sets = planned.aggregate.as_ref().map(|a| a.float_sets());
        let codec = StateCodec::new(planned.state_schema(), keys, sets.unwrap_or_default())
            .map_err(|e| Error::view(name, e))?;
        let formats = Formats::of(&planned);
        let definition = Definition {
            sql: sql.to_owned(),
            topic: topic.clone(),
            settings: plan::definition_settings(),
            state_format: formats.current().to_owned(),
            references: planned.references.clone(),
        };
        let fact_schema = Arc::new(topic.schema().project(&planned.projection)?);
        Ok(Self {
            fact_schema,
            late_reads: topic.late_reads(),
            name: name.to_owned(),
            definition,
            planned,
            formats,
            codec,
            at: ReferencesAt::new(),
            newest: Arc::default(),
        })
    }

    /// Plans a stored definition again, in the format of its states.
    ///
    /// # Errors
    /// As [`View::compile`]; `Conflict` where this version of the software makes other states of
    /// it than the version that stored it.
    pub fn from_definition(name: &str, definition: &Definition) -> Result<Self> {
        let Definition {
            sql,
            topic,
            references,
            ..
        } = definition;
        let view = Self::compile_with(name, sql, topic, references)?;
        let view = view.in_format_of(definition);
        if view.reads_format(&definition.state_format) || crate::planted("planted-other-format") {
            return Ok(view);
        }
        Err(Error::Conflict(format!(
            "view `{name}`: its stored states are of the format `{}`, this version makes `{}`; run `anabranch batch rebuild {name}`",
            definition.state_format,
            view.makes_format()
        )))
    }

    /// Whether this view may answer for a definition: it is the same query, and its stored states can be
    /// merged with those that this version makes.
    pub fn is_of(&self, definition: &Definition) -> bool {
        self.definition.is_same_query(definition) && self.reads_format(&definition.state_format)
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

    /// The references that it joins facts with.
    pub fn references(&self) -> &[Reference] {
        &self.definition.references
    }

    /// Whether facts meet rows of a reference that were the latest before.
    pub fn meets_as_of(&self, reference: &str) -> bool {
        self.planned.as_of.contains(reference)
    }

    /// Up to where the references are that its facts meet: nothing of a view that meets none, or is not
    /// bound to them.
    pub fn at(&self) -> &ReferencesAt {
        &self.at
    }

    /// The view whose facts all meet these rows of its references.
    pub fn bound(&self, met: &ReferencesMet) -> Result<Self> {
        let bound = |lookup: &Lookup| {
            let rows = met.get(&lookup.reference.name)?;
            Some(lookup.bound_to(Bound::One(rows.clone())))
        };
        let own = |(name, rows): (&String, &Arc<ReferenceRows>)| {
            let is_own = self.references().iter().any(|r| r.name == *name);
            let mut at = rows.at().clone();
            if planted("planted-met-noted-lower") {
                at = at
                    .iter()
                    .map(|(p, o)| (p, Offset(o.0.max(1) - 1)))
                    .collect();
            }
            is_own.then_some((name.clone(), at))
        };
        Ok(Self {
            planned: self.planned.bound(&bound)?,
            at: met.iter().filter_map(own).collect(),
            ..self.clone()
        })
    }

    /// The view whose facts meet, each by its place, what those of ranges met.
    pub fn bound_by_place(
        &self,
        met: &[(Vec<(PartitionId, OffsetRange)>, ReferencesMet)],
    ) -> Result<Self> {
        let of = |name: &str| {
            let rows = met
                .iter()
                .filter_map(|(ranges, met)| Some((ranges.clone(), met.get(name)?.clone())));
            Arc::new(rows.collect::<Vec<MetRows>>())
        };
        let names = self
            .references()
            .iter()
            .map(|r| (r.name.clone(), of(&r.name)));
        let names: BTreeMap<String, Arc<Vec<MetRows>>> = names.collect();
        let bound = |lookup: &Lookup| {
            let rows = names.get(&lookup.reference.name)?;
            Some(lookup.bound_to(Bound::ByPlace(rows.clone())))
        };
        Ok(Self {
            planned: self.planned.bound(&bound)?,
            ..self.clone()
        })
    }

    /// The view as its facts meet references now: itself where they meet none.
    ///
    /// # Errors
    /// `Unavailable` where references were not brought up yet.
    pub fn now(self: &Arc<Self>) -> Result<Arc<Self>> {
        if self.references().is_empty() || !self.at.is_empty() {
            return Ok(self.clone());
        }
        self.newest.read().clone().ok_or_else(|| {
            let names: Vec<&str> = self.references().iter().map(|r| r.name.as_str()).collect();
            Error::Unavailable(format!(
                "view `{}`: reference {} is not read yet; try again",
                self.name,
                names.join(" and ")
            ))
        })
    }

    /// Lets facts meet other rows of references from now on, unless they do already.
    pub fn bring_up(&self, met: &ReferencesMet) -> Result<Arc<Self>> {
        let mut newest = self.newest.write();
        if let Some(known) = newest.as_ref().filter(|known| known.meets(met)) {
            return Ok(known.clone());
        }
        Ok(newest.insert(Arc::new(self.bound(met)?)).clone())
    }

    fn meets(&self, met: &ReferencesMet) -> bool {
        let at = |name: &String| met.get(name).map(|rows| rows.at());
        self.at.iter().all(|(name, known)| at(name) == Some(known))
    }

    /// The columns of a fact that the view reads. They are bound by name: a fact may have been stored
    /// before some of them were declared, or after others were.
    pub fn fact_schema(&self) -> &SchemaRef {
        &self.fact_schema
    }

    /// How fields are read out of the `_extra` of facts that are older than they are.
    pub fn late_reads(&self) -> &LateReads {
        &self.late_reads
    }

    /// A batch of facts in the columns of [`View::fact_schema`].
    pub(crate) fn facts_read(&self, facts: &RecordBatch) -> Result<RecordBatch> {
        if planted("planted-column-by-position") {
            return by_position(facts, &self.fact_schema, &self.planned.projection);
        }
        fit_facts(&self.fact_schema, &self.late_reads, facts)
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
    /// `facts` has the columns of [`View::fact_schema`].
    pub fn apply_lower(&self, facts: &RecordBatch) -> Result<RecordBatch> {
        self.planned.apply_lower(facts)
    }

    /// The column of the answer that shows a column of the leaf as it is, if one does.
    pub fn shown_as(&self, leaf_column: usize) -> Option<String> {
        let upper = &self.planned.upper;
        let wanted = self.planned.leaf_schema.field(leaf_column).name();
        let shows = |at: &usize| traced(upper, *at).is_some_and(|name| name == wanted);
        let at = (0..upper.schema().fields().len()).find(shows)?;
        Some(upper.schema().field(at).name().clone())
    }

    /// The plan of an answer, over a leaf that gives keys and finished columns.
    pub fn answer_plan(&self, leaf: Arc<dyn TableProvider>) -> Result<LogicalPlan> {
        let plan = replace_table(&self.planned.upper, plan::LEAF, leaf)?;
        Ok(conflicts::resolve(plan)?)
    }

    /// The plan of the whole view over raw facts: the right side of the law. `facts` has at least the
    /// columns of the view's topic.
    pub fn recompute_plan(&self, facts: Arc<dyn TableProvider>) -> Result<LogicalPlan> {
        let plan = replace_table(&self.planned.whole, &self.definition.topic.name, facts)?;
        Ok(conflicts::resolve(plan)?)
    }
}

/// The column of the leaf that a plan's column is, unchanged.
fn traced(plan: &LogicalPlan, at: usize) -> Option<&str> {
    match plan {
        LogicalPlan::Projection(p) => {
            let mut expr = p.expr.get(at)?;
            while let Expr::Alias(alias) = expr {
                expr = &alias.expr;
            }
            let Expr::Column(column) = expr else {
                return None;
            };
            traced(&p.input, p.input.schema().maybe_index_of_column(column)?)
        }
        LogicalPlan::TableScan(scan) => Some(scan.projected_schema.field(at).name()),
        LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_) => traced(plan.inputs().first()?, at),
        _ => None,
    }
}

/// The columns at some positions, whatever they are: a planted bug.
fn by_position(facts: &RecordBatch, schema: &SchemaRef, places: &[usize]) -> Result<RecordBatch> {
    let rows = facts.num_rows();
    let columns = schema.fields().iter().zip(places).map(|(field, &at)| {
        let column = facts.columns().get(at).cloned();
        let column = column.filter(|c| c.data_type() == field.data_type());
        column.unwrap_or_else(|| new_null_array(field.data_type(), rows))
    });
    let nullable = schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(true));
    Ok(RecordBatch::try_new_with_options(
        Arc::new(Schema::new(nullable.collect::<Vec<_>>())),
        columns.collect(),
        &RecordBatchOptions::new().with_row_count(Some(rows)),
    )?)
}

/// Puts a provider in the place of the scan of a placeholder table. Its columns are bound by name: it
/// may have more than the placeholder, and in another order.
fn replace_table(
    plan: &LogicalPlan,
    name: &str,
    provider: Arc<dyn TableProvider>,
) -> Result<LogicalPlan> {
    let columns = provider.schema();
    let source = provider_as_source(provider);
    let replaced = plan.clone().transform_down(|node| match node {
        LogicalPlan::TableScan(scan) if scan.table_name.table() == name => {
            let read = scan.projected_schema.fields().iter();
            let places = read.map(|f| columns.index_of(f.name()));
            let places = places.collect::<std::result::Result<Vec<_>, _>>()?;
            let all = places.iter().copied().eq(0..columns.fields().len());
            let scan = TableScanBuilder::new(scan.table_name, source.clone())
                .with_projection((!all).then_some(places))
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

#[cfg(test)]
pub(crate) mod every_function;
#[cfg(test)]
mod planned_views;
#[cfg(test)]
mod tests;
