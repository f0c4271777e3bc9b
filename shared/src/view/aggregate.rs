//! The aggregation of a view, split into fold, merge and finish. Owns the aggregate expressions
//! and the layout of a row of states: `k0 k1 … a0_s0 a0_s1 … a1_s0 …`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::physical_expr::expressions::{Column as PhysicalColumn, Literal};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::projection::ProjectionExec;

use crate::Result;
use crate::fit::FitExpr;

/// The synthetic key of an aggregation without GROUP BY, so that every aggregation has one and all
/// states merge alike. (DataFusion's ungrouped `approx_distinct` merges dense states only.)
const GLOBAL_KEY: &str = "_all";

/// A key of the aggregation.
#[derive(Debug)]
pub struct Key {
    /// The key's name in the aggregation's output.
    pub name: String,
    expr: Arc<dyn PhysicalExpr>,
    field: Field,
}

/// A finished column of the aggregation.
#[derive(Debug)]
pub struct Column {
    /// The column's name in the aggregation's output.
    pub name: String,
    aggregate: Arc<AggregateFunctionExpr>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    state_fields: Vec<FieldRef>,
    /// The same as the engine has them: what it calls the fields of an ordering tells where they
    /// stand in the topic.
    engine_fields: Vec<FieldRef>,
    first_state: usize,
}

impl Column {
    /// The aggregate itself.
    pub fn aggregate(&self) -> &Arc<AggregateFunctionExpr> {
        &self.aggregate
    }

    /// Its FILTER clause.
    pub(super) fn filter(&self) -> Option<&Arc<dyn PhysicalExpr>> {
        self.filter.as_ref()
    }

    /// Which columns of a row of states are this column's.
    pub fn state_columns(&self) -> std::ops::Range<usize> {
        self.first_state..self.first_state + self.state_fields.len()
    }

    /// The fields of this column's state, in the order of [`Column::state_columns`].
    pub fn state_fields(&self) -> &[FieldRef] {
        &self.state_fields
    }

    /// The fields of this column's state with the names that the engine gives them.
    pub(super) fn engine_fields(&self) -> &[FieldRef] {
        &self.engine_fields
    }

    /// Whether sums of finished values are the finished value of the whole.
    pub fn is_additive(&self) -> bool {
        !self.aggregate.is_distinct() && matches!(self.aggregate.fun().name(), "count" | "sum")
    }
}

/// An aggregation, split.
#[derive(Debug)]
pub struct AggregateSplit {
    keys: Vec<Key>,
    columns: Vec<Column>,
    global: bool,
    input_schema: SchemaRef,
    state_schema: SchemaRef,
}

impl AggregateSplit {
    /// Splits the aggregation of these expressions over facts that have gone through the lower
    /// steps.
    pub(super) fn new(
        group_expr: &[Expr],
        aggr_expr: &[Expr],
        output: &DFSchemaRef,
        input: &DFSchema,
        state: &SessionState,
    ) -> Result<Self> {
        let input_schema = Arc::new(input.as_arrow().clone());
        let keys = split_keys(group_expr, output, input, state)?;
        let mut state_fields: Vec<Field> = keys.iter().map(|k| k.field.clone()).collect();
        let planning = PhysicalPlanningContext::default();
        let mut columns = Vec::new();
        for (index, expr) in aggr_expr.iter().enumerate() {
            let lowered = LoweredAggregateBuilder::new(
                expr,
                input,
                &input_schema,
                state.execution_props(),
                &planning,
            )
            .build()?;
            check_accumulator(&lowered.aggregate)?;
            let engine_fields = lowered.aggregate.state_fields()?;
            let fields = self::state_fields(&lowered.aggregate)?;
            let first_state = state_fields.len();
            for (part, field) in fields.iter().enumerate() {
                let name = format!("a{index}_s{part}");
                state_fields.push(Field::new(name, field.data_type().clone(), true));
            }
            columns.push(Column {
                name: output.field(group_expr.len() + index).name().clone(),
                aggregate: lowered.aggregate,
                filter: lowered.filter,
                state_fields: fields,
                engine_fields,
                first_state,
            });
        }
        let state_schema = Arc::new(Schema::new(state_fields));
        Ok(Self {
            keys,
            columns,
            global: group_expr.is_empty(),
            input_schema,
            state_schema,
        })
    }

    /// The keys; an aggregation without GROUP BY has one synthetic key.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The finished columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Whether the aggregation has no GROUP BY, so that its answer is one row also of no facts.
    pub fn is_global(&self) -> bool {
        self.global
    }

    /// The schema of a row of states.
    pub fn state_schema(&self) -> &SchemaRef {
        &self.state_schema
    }

    /// The schema of the keys alone.
    pub fn key_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(
            self.keys
                .iter()
                .map(|k| k.field.clone())
                .collect::<Vec<_>>(),
        ))
    }

    pub(super) fn key_exprs(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        self.keys.iter().map(|k| &k.expr)
    }

    /// Which columns of a row of states are sets of numbers of floating point.
    pub(super) fn float_sets(&self) -> Vec<usize> {
        let sets = self.columns.iter().filter(|c| c.aggregate.is_distinct());
        let is_float = |place: &usize| {
            matches!(self.state_schema.field(*place).data_type(),
                DataType::List(item) if item.data_type().is_floating())
        };
        sets.flat_map(Column::state_columns)
            .filter(is_float)
            .collect()
    }

    /// Which columns of a row of states the keys and some finished columns need, in order.
    pub fn state_projection(&self, columns: &[usize]) -> Vec<usize> {
        let states = columns
            .iter()
            .filter_map(|&c| self.columns.get(c))
            .map(Column::state_columns);
        (0..self.keys.len()).chain(states.flatten()).collect()
    }

    /// The engine's plan that merges states, and finishes them where the mode says so. `input` has
    /// the columns of [`AggregateSplit::state_projection`] of the same `columns`.
    pub fn merge_exec(
        &self,
        mode: AggregateMode,
        columns: &[usize],
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let chosen = columns.iter().filter_map(|&c| self.columns.get(c));
        let aggregates = chosen.map(|c| c.aggregate.clone()).collect();
        let merged = self.merge_exec_of(mode, aggregates, input)?;
        match mode {
            AggregateMode::PartialReduce => self.placeless_states(columns, merged),
            _ => Ok(merged),
        }
    }

    /// The same with aggregates that take the states of columns; `input` has the keys, and then the
    /// states of each in turn.
    pub fn merge_exec_of(
        &self,
        mode: AggregateMode,
        aggregates: Vec<Arc<AggregateFunctionExpr>>,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = self.keys.iter().enumerate().map(|(i, k)| {
            let name = k.field.name().clone();
            (
                Arc::new(PhysicalColumn::new(&name, i)) as Arc<dyn PhysicalExpr>,
                name,
            )
        });
        let filters = vec![None; aggregates.len()];
        Ok(Arc::new(AggregateExec::try_new(
            mode,
            PhysicalGroupBy::new_single(keys.collect()),
            aggregates,
            filters,
            input,
            self.input_schema.clone(),
        )?))
    }

    /// Merged states as the engine gives them, in the types of the state schema.
    fn placeless_states(
        &self,
        columns: &[usize],
        merged: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = merged.schema();
        let wanted = self.state_projection(columns);
        let wanted: Vec<&Field> = wanted.iter().map(|&i| self.state_schema.field(i)).collect();
        let mut alike = schema.fields().iter().zip(&wanted);
        if alike.all(|(found, wanted)| found.data_type() == wanted.data_type()) {
            return Ok(merged);
        }
        let exprs = wanted.iter().enumerate().map(|(i, field)| {
            let name = schema.field(i).name();
            let column: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(name, i));
            let fitted = FitExpr::new(column, field.data_type().clone());
            (Arc::new(fitted) as Arc<dyn PhysicalExpr>, name.clone())
        });
        let exprs: Vec<_> = exprs.collect();
        Ok(Arc::new(ProjectionExec::try_new(exprs, merged)?))
    }

    /// The schema of facts after the lower steps.
    pub(super) fn input_schema(&self) -> &SchemaRef {
        &self.input_schema
    }
}

/// The fields of an aggregate's state, of the types that states have everywhere.
pub fn state_fields(
    aggregate: &AggregateFunctionExpr,
) -> datafusion::common::Result<Vec<FieldRef>> {
    let fields = aggregate.state_fields()?;
    Ok(fields.iter().map(|f| placeless(aggregate, f)).collect())
}

/// A field of a state under names that don't change where a topic gets another field: those that
/// the values of an ORDER BY have in it are their places there.
fn placeless(aggregate: &AggregateFunctionExpr, field: &FieldRef) -> FieldRef {
    let orders = aggregate.order_bys();
    let is_ordering = |fields: &Fields| {
        let names = fields.iter().map(|f| f.name().clone());
        !orders.is_empty() && names.eq(orders.iter().map(|o| o.expr.to_string()))
    };
    let DataType::List(item) = field.data_type() else {
        return field.clone();
    };
    match item.data_type() {
        DataType::Struct(fields) if is_ordering(fields) => {
            let named = fields.iter().enumerate();
            let named = named.map(|(i, f)| f.as_ref().clone().with_name(format!("o{i}")));
            let item = item.as_ref().clone();
            let item = item.with_data_type(DataType::Struct(named.collect()));
            let list = DataType::List(Arc::new(item));
            Arc::new(field.as_ref().clone().with_data_type(list))
        }
        _ => field.clone(),
    }
}

/// Refuses an aggregate of a type that its function lacks, which some find only when they begin.
fn check_accumulator(aggregate: &AggregateFunctionExpr) -> Result<()> {
    match aggregate.groups_accumulator_supported() {
        true => aggregate.create_groups_accumulator().map(drop)?,
        false => aggregate.create_accumulator().map(drop)?,
    }
    Ok(())
}

fn split_keys(
    group_expr: &[Expr],
    output: &DFSchemaRef,
    input: &DFSchema,
    state: &SessionState,
) -> Result<Vec<Key>> {
    if group_expr.is_empty() {
        return Ok(vec![Key {
            name: GLOBAL_KEY.to_owned(),
            expr: Arc::new(Literal::new(ScalarValue::Int8(Some(0)))),
            field: Field::new("k0", DataType::Int8, true),
        }]);
    }
    let planning = PhysicalPlanningContext::default();
    group_expr
        .iter()
        .enumerate()
        .map(|(i, expr)| {
            let physical = datafusion::physical_expr::create_physical_expr(
                expr,
                input,
                state.execution_props(),
                &planning,
            )?;
            let field = output.field(i);
            Ok(Key {
                name: field.name().clone(),
                expr: physical,
                field: Field::new(format!("k{i}"), field.data_type().clone(), true),
            })
        })
        .collect()
}
