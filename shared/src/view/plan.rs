//! Plans a view and splits it. Owns what is accepted and what is refused.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column as ColumnRef, DFSchema};
use datafusion::datasource::provider_as_source;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::expr::{AggregateFunction, Alias, Sort};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection, ScalarUDF,
    SubqueryAlias, Unnest,
};
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::facts::ReferenceTable;
use super::fold::evaluate;
use super::joins;
use super::order::{self, Needs};
use super::{
    AggregateSplit, FactsTable, LeafTable, ast, bins, build_session, refusals, session_builder,
    ties, zones,
};
use crate::topic::OFFSET;

use crate::caret::at;
use crate::reference::{Lookup, Reference};
use crate::sql::{KnownNames, StatementBounds, Wrong};
use crate::{Error, Result, Topic, sql};

/// The name under which the leaf stands in the upper plan.
pub(super) const LEAF: &str = "_leaf";

/// The settings that a view is planned under; part of its definition.
const SETTINGS: [(&str, &str); 2] = [
    ("datafusion.execution.time_zone", "+00:00"),
    ("datafusion.sql_parser.map_string_types_to_utf8view", "true"),
];

/// The settings that a view is planned under.
pub(super) fn definition_settings() -> Vec<(String, String)> {
    SETTINGS
        .iter()
        .map(|&(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// A session that plans views, and recomputes them.
pub fn planning_session() -> Result<SessionContext> {
    let mut config = SessionConfig::new().with_information_schema(false);
    for (key, value) in SETTINGS {
        config.options_mut().set(key, value)?;
    }
    let state = build_session(session_builder().with_config(config))?;
    Ok(SessionContext::new_with_state(state))
}

/// A step below the aggregation.
#[derive(Clone, Debug)]
enum Step {
    Filter(Arc<dyn PhysicalExpr>),
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
}

/// A view, planned and split.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    /// The columns of a fact that are read, as indices into the topic's schema.
    pub projection: Vec<usize>,
    steps: Vec<Step>,
    pub aggregate: Option<Arc<AggregateSplit>>,
    pub leaf_schema: SchemaRef,
    /// What is done to finished values, over the placeholder [`LEAF`].
    pub upper: LogicalPlan,
    /// The whole query, over the placeholder of the topic.
    pub whole: LogicalPlan,
    /// The node of `whole` in whose place the leaf stands in `upper`.
    pub lower: LogicalPlan,
    /// The references that facts meet.
    pub references: Vec<Reference>,
    /// Those of them of which they meet rows of before.
    pub as_of: BTreeSet<String>,
}

/// The relations that a statement reads, without those that it declares itself.
///
/// # Errors
/// `Query` where it is no SQL.
pub fn relations_read(sql: &str) -> Result<Vec<String>> {
    let state = planning_session()?.state();
    let statement = sql::on_large_stack(|| sql::parse(&state, sql))?;
    let references = state.resolve_table_references(&statement)?;
    Ok(references.iter().map(|r| r.table().to_owned()).collect())
}

/// What a view may read: a topic, and references to join its facts with.
#[derive(Clone, Copy)]
pub(super) struct Readable<'a> {
    pub(super) topic: &'a Topic,
    pub(super) references: &'a [Reference],
}

/// What a SELECT is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A view, split where states are made and finished.
    View,
    /// Computed fact by fact, with the place of the fact that each row is made of.
    RowWise,
}

/// Plans and splits a view.
pub(super) fn plan(view: &str, text: &str, read: Readable<'_>, shape: Shape) -> Result<Planned> {
    sql::on_large_stack(|| plan_here(view, text, read, shape))
}

fn plan_here(view: &str, text: &str, read: Readable<'_>, shape: Shape) -> Result<Planned> {
    let context = planning_session()?;
    let dialect = context.state().config_options().sql_parser.dialect;
    sql::check(&dialect, text, StatementBounds::default()).map_err(|e| Error::view(view, e))?;
    let references: Vec<String> = read.references.iter().map(|r| r.name.clone()).collect();
    ast::check(
        view,
        text,
        (&read.topic.name, &references),
        &context.state(),
    )?;
    plan_over(&context, view, text, (read, shape)).map_err(|e| match e {
        Error::Query(_) => Error::view(view, said_of(e, text, read)),
        Error::Invalid(reason) => Error::view(view, reason),
        e => e,
    })
}

/// What is wrong with a view's SQL, and where. The planner tells the place only when it is asked to.
fn said_of(e: Error, text: &str, read: Readable<'_>) -> String {
    let Ok(context) = planning_session() else {
        return e.to_string();
    };
    let state = context.state();
    let references = read.references.iter().map(|r| r.name.clone());
    let relations = references.chain([read.topic.name.clone()]).collect();
    let known = KnownNames::new(&state, relations);
    let mut config = state.config().clone();
    config.options_mut().sql_parser.collect_spans = true;
    let state = SessionStateBuilder::new_from_existing(state)
        .with_config(config)
        .build();
    let context = SessionContext::new_with_state(state);
    let placed = raw_plan(&context, text, read).err();
    let told = match (&placed, &e) {
        (Some(Error::Query(e)), _) | (_, Error::Query(e)) => Wrong::of(e, text, &known),
        _ => return e.to_string(),
    };
    at(text, told.place, &told.message)
}

/// The plan of a query over a topic, as it is written.
fn raw_plan(context: &SessionContext, text: &str, read: Readable<'_>) -> Result<LogicalPlan> {
    let facts: Arc<dyn TableProvider> = Arc::new(FactsTable(read.topic.schema()));
    context.register_table(read.topic.name.as_str(), facts)?;
    for reference in read.references {
        let rows = ReferenceTable(reference.schema());
        context.register_table(reference.name.as_str(), Arc::new(rows))?;
    }
    let state = context.state();
    let mut statement = sql::parse(&state, text)?;
    joins::mark_as_of(&mut statement);
    // Resolving tables in memory never waits, so this does not block.
    let planned = |statement| {
        let planned = futures::executor::block_on(state.statement_to_plan(statement));
        planned.map_err(Error::from)
    };
    planned(statement.clone()).or_else(|e| match sql::casts_apart(&state, &statement, &e) {
        Some(apart) => planned(apart),
        None => Err(e),
    })
}

/// Whether a text joins as of a time.
fn is_as_of(context: &SessionContext, text: &str) -> Result<bool> {
    Ok(joins::mark_as_of(&mut sql::parse(&context.state(), text)?))
}

fn plan_over(
    context: &SessionContext,
    view: &str,
    text: &str,
    (read, shape): (Readable<'_>, Shape),
) -> Result<Planned> {
    let raw = raw_plan(context, text, read)?;
    let (raw, references) =
        joins::resolve(view, text, raw, (read.references, is_as_of(context, text)?))?;
    let as_of = joins::met_as_of(&raw)?;
    let state = context.state();
    let analyzed = state
        .analyzer()
        .execute_and_check(raw, state.config_options(), |_, _| {})?;
    // Some functions exist only until they are simplified, `coalesce` for one.
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(ReplaceDistinctWithAggregate::new()),
    ];
    let plan = bins::bring_near(run_rules(analyzed, rules, &state)?)?;
    zones::check(view, &plan)?;
    check_one_scan(view, &plan)?;
    if shape == Shape::RowWise {
        check_row_wise(view, &chain(view, text, &plan)?)?;
        let plan = with_place(&plan)?;
        let lower = {
            let chain = chain(view, text, &plan)?;
            chain[split_point(view, text, &chain)?.min(chain.len() - 1)].clone()
        };
        return Ok(Planned {
            references,
            as_of,
            ..split_rows(&plan, &lower, &state)?
        });
    }
    let lowest = {
        let chain = chain(view, text, &plan)?;
        let split_at = split_point(view, text, &chain)?;
        chain[split_at.min(chain.len() - 1)].clone()
    };
    let ties::Decided { plan, lowest } = ties::decide(view, &plan, lowest)?;
    let planned = match &lowest {
        LogicalPlan::Aggregate(aggregate) => split_aggregate(view, &plan, aggregate, &state),
        rows => split_rows(&plan, rows, &state),
    };
    Ok(Planned {
        references,
        as_of,
        ..planned?
    })
}

fn run_rules(
    plan: LogicalPlan,
    rules: Vec<Arc<dyn OptimizerRule + Send + Sync>>,
    state: &SessionState,
) -> Result<LogicalPlan> {
    Ok(Optimizer::with_rules(rules).optimize(plan, state, |_, _| {})?)
}

fn check_one_scan(view: &str, plan: &LogicalPlan) -> Result<()> {
    let mut scans = 0;
    plan.apply_with_subqueries(|node| {
        scans += usize::from(matches!(node, LogicalPlan::TableScan(_)));
        Ok(TreeNodeRecursion::Continue)
    })?;
    match scans {
        1 => Ok(()),
        0 => Err(Error::view(
            view,
            "reads no topic; write `SELECT … FROM <topic>`",
        )),
        _ => Err(Error::view(
            view,
            "reads its topic more than once (a join, a union, a sub-query in an expression, or a CTE used twice); declare one view for each aggregation and join the views in a query",
        )),
    }
}

/// The nodes from the root down to the scan.
fn chain<'a>(view: &str, text: &str, plan: &'a LogicalPlan) -> Result<Vec<&'a LogicalPlan>> {
    let mut nodes = vec![plan];
    let mut node = plan;
    while !matches!(node, LogicalPlan::TableScan(_)) {
        match node.inputs().as_slice() {
            [input] => node = input,
            _ => {
                let refusal = refusals::of_node(text, node);
                return Err(Error::view(view, refusal.unwrap_or_else(|| {
                    "relations are joined or united, which a view can't do; join or unite views in a query instead".to_owned()
                })));
            }
        }
        nodes.push(node);
    }
    Ok(nodes)
}

/// Refuses what is not computed fact by fact.
fn check_row_wise(step: &str, chain: &[&LogicalPlan]) -> Result<()> {
    let what = |node: &LogicalPlan| match node {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::TableScan(_) => None,
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => Some("aggregates".to_owned()),
        LogicalPlan::Window(_) => Some("has a window function".to_owned()),
        LogicalPlan::Sort(_) => Some("has ORDER BY".to_owned()),
        LogicalPlan::Limit(_) => Some("has LIMIT".to_owned()),
        other => Some(format!("has `{}`", other.display())),
    };
    match chain.iter().find_map(|node| what(node)) {
        None => Ok(()),
        Some(what) => Err(Error::view(
            step,
            format!(
                "{what}, and a step makes rows of one fact at a time: filters, expressions and `unnest`; do the rest in a view over the topic that it makes facts of"
            ),
        )),
    }
}

/// The position in the chain below which a view is computed fact by fact: the lowest aggregation,
/// or the highest of the filters and projections above the scan.
fn split_point(view: &str, text: &str, chain: &[&LogicalPlan]) -> Result<usize> {
    let row_wise = |node: &LogicalPlan| {
        matches!(
            node,
            LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_)
        )
    };
    let windowless =
        |node: &LogicalPlan| row_wise(node) || matches!(node, LogicalPlan::TableScan(_));
    let lowest = chain
        .iter()
        .rposition(|n| matches!(n, LogicalPlan::Aggregate(_)));
    match lowest {
        Some(at) => match chain[at + 1..].iter().find(|n| !windowless(n)) {
            None => Ok(at),
            Some(node) => {
                let refusal = refusals::of_node(text, node);
                Err(Error::view(view, refusal.unwrap_or_else(|| {
                    "something stands below the aggregation that reads the topic, where facts can only be filtered and projected; move it above the aggregation, or into a query over the view".to_owned()
                })))
            }
        },
        None => {
            let top = chain
                .iter()
                .rposition(|n| !windowless(n))
                .map_or(0, |at| at + 1);
            Ok(top)
        }
    }
}

fn split_aggregate(
    view: &str,
    plan: &LogicalPlan,
    aggregate: &Aggregate,
    state: &SessionState,
) -> Result<Planned> {
    if aggregate
        .group_expr
        .iter()
        .any(|e| matches!(e, Expr::GroupingSet(_)))
    {
        return Err(Error::view(
            view,
            "GROUPING SETS, ROLLUP and CUBE are not supported; declare a view for each set, or roll up in a query with `combine`",
        ));
    }
    let aggregate = deterministic(aggregate)?;
    let whole = replace_node(plan, &LogicalPlan::Aggregate(aggregate.clone()))?;
    let lower = lower_for(&aggregate)?;
    let (projection, steps, lower_df) = lower_steps(lower, state)?;
    let split = AggregateSplit::new(
        &aggregate.group_expr,
        &aggregate.aggr_expr,
        &aggregate.schema,
        &lower_df,
        state,
    )?;
    check_storable(view, &split)?;
    let (leaf_schema, leaf) = leaf_of(&aggregate.schema)?;
    Ok(Planned {
        projection,
        steps,
        aggregate: Some(Arc::new(split)),
        leaf_schema,
        upper: replace_node(plan, &leaf)?,
        whole,
        lower: LogicalPlan::Aggregate(aggregate),
        references: Vec::new(),
        as_of: BTreeSet::new(),
    })
}

fn check_storable(view: &str, split: &AggregateSplit) -> Result<()> {
    let storable = |field: &Field| crate::table::storage_type(field.data_type());
    let schema = split.state_schema();
    for (key, field) in split.keys().iter().zip(schema.fields()) {
        storable(field).map_err(|e| Error::view(view, format!("key `{}`: {e}", key.name)))?;
    }
    for column in split.columns() {
        for field in &schema.fields()[column.state_columns()] {
            storable(field).map_err(|_| {
                Error::view(
                    view,
                    format!(
                        "`{}`: its state is of the type {}, which can't be stored in a Delta table; aggregate a narrower type, for example `CAST(… AS double)` or a decimal of fewer digits",
                        column.name,
                        field.data_type()
                    ),
                )
            })?;
        }
    }
    Ok(())
}

fn split_rows(plan: &LogicalPlan, lower: &LogicalPlan, state: &SessionState) -> Result<Planned> {
    let (projection, steps, _) = lower_steps(lower.clone(), state)?;
    let (leaf_schema, leaf) = leaf_of(lower.schema())?;
    Ok(Planned {
        projection,
        steps,
        aggregate: None,
        leaf_schema,
        upper: replace_by(plan, lower, &leaf)?,
        whole: plan.clone(),
        lower: lower.clone(),
        references: Vec::new(),
        as_of: BTreeSet::new(),
    })
}

/// The aggregation with aggregates that don't depend on the order of facts, under the names that
/// it had.
fn deterministic(aggregate: &Aggregate) -> Result<Aggregate> {
    let needs_place = aggregate
        .aggr_expr
        .iter()
        .any(|e| order::needs(e) == Needs::Place);
    let input = match needs_place {
        true => with_place(&aggregate.input)?,
        false => LogicalPlan::clone(&aggregate.input),
    };
    let place = order::place_columns(input.schema()).map(|place| place.map(order::ascending));
    // The engine takes equal keys for one, and so does the output's schema.
    let keys = distinct(&aggregate.group_expr);
    let rewritten = aggregate
        .aggr_expr
        .iter()
        .enumerate()
        .map(|(i, expr)| {
            let name = aggregate.schema.field(keys.len() + i).name().clone();
            let ties = place.as_ref().map_or(&[][..], |place| &place[..]);
            rewrite_aggregate(expr.clone(), &input, ties, &name)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Aggregate::try_new(Arc::new(input), keys, rewritten)?)
}

/// Expressions without those that were there before.
pub(super) fn distinct(exprs: &[Expr]) -> Vec<Expr> {
    let mut distinct: Vec<Expr> = Vec::with_capacity(exprs.len());
    for expr in exprs {
        if !distinct.contains(expr) {
            distinct.push(expr.clone());
        }
    }
    distinct
}

/// An aggregate that does not depend on the order of its input, where `ties` tell its rows apart,
/// under the name that it had.
pub(super) fn rewrite_aggregate(
    expr: Expr,
    input: &LogicalPlan,
    ties: &[Sort],
    name: &str,
) -> Result<Expr> {
    match expr {
        Expr::Alias(Alias { expr, .. }) => rewrite_aggregate(*expr, input, ties, name),
        Expr::AggregateFunction(f) => {
            let argument = match f.params.args.first() {
                Some(a) => Some(a.get_type(input.schema())?),
                None => None,
            };
            let f: AggregateFunction = order::make_deterministic(f, argument.as_ref(), ties);
            Ok(Expr::AggregateFunction(f).alias(name))
        }
        other => Err(Error::Internal(format!("not an aggregate: {other}"))),
    }
}

/// The plan with a fact's place passed through its projections.
pub(super) fn with_place(plan: &LogicalPlan) -> Result<LogicalPlan> {
    Ok(match plan {
        LogicalPlan::Projection(p) => {
            let input = with_place(&p.input)?;
            let mut exprs = p.expr.clone();
            if order::place_columns(&p.schema).is_none()
                && let Some(place) = order::place_columns(input.schema())
            {
                exprs.extend(place.into_iter().map(Expr::Column));
            }
            LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?)
        }
        LogicalPlan::SubqueryAlias(a) => LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(
            Arc::new(with_place(&a.input)?),
            a.alias.clone(),
        )?),
        LogicalPlan::Filter(f) => LogicalPlanBuilder::from(with_place(&f.input)?)
            .filter(f.predicate.clone())?
            .build()?,
        LogicalPlan::Unnest(u) => LogicalPlan::Unnest(Unnest::try_new(
            Arc::new(with_place(&u.input)?),
            u.exec_columns.clone(),
            u.options.clone(),
        )?),
        other => other.clone(),
    })
}

/// What is below the aggregation, with just the columns that it uses.
fn lower_for(aggregate: &Aggregate) -> Result<LogicalPlan> {
    let schema = aggregate.input.schema();
    let mut used = std::collections::HashSet::new();
    for expr in aggregate.group_expr.iter().chain(&aggregate.aggr_expr) {
        used.extend(expr.column_refs().into_iter().cloned());
    }
    let all = schema.columns();
    let mut columns: Vec<Expr> = all
        .iter()
        .filter(|c| used.contains(c))
        .cloned()
        .map(Expr::Column)
        .collect();
    if columns.is_empty() {
        // Facts of which no column is used are still counted, so one is read: the cheapest.
        let cheapest = all.iter().find(|c| c.name == OFFSET).or(all.first());
        columns.extend(cheapest.cloned().map(Expr::Column));
    }
    Ok(LogicalPlan::Projection(Projection::try_new(
        columns,
        aggregate.input.clone(),
    )?))
}

type Lowered = (Vec<usize>, Vec<Step>, DFSchema);

/// The steps on facts, and the columns of a fact that they read.
fn lower_steps(lower: LogicalPlan, state: &SessionState) -> Result<Lowered> {
    let optimized = run_rules(
        lower.clone(),
        vec![
            Arc::new(SimplifyExpressions::new()),
            Arc::new(OptimizeProjections::new()),
        ],
        state,
    )?;
    // A rule may drop qualifiers or reorder; expressions above refer to the plan as it was.
    let plan = match optimized.schema() == lower.schema() {
        true => optimized,
        false => lower,
    };
    let mut steps = Vec::new();
    let projection = collect_steps(&plan, state, &mut steps)?;
    Ok((projection, steps, DFSchema::clone(plan.schema())))
}

fn collect_steps(
    plan: &LogicalPlan,
    state: &SessionState,
    steps: &mut Vec<Step>,
) -> Result<Vec<usize>> {
    let physical = |expr: &Expr, input: &LogicalPlan| {
        datafusion::physical_expr::create_physical_expr(
            expr,
            input.schema(),
            state.execution_props(),
            &PhysicalPlanningContext::default(),
        )
    };
    match plan {
        LogicalPlan::TableScan(scan) => Ok(match &scan.projection {
            Some(projection) => projection.clone(),
            None => (0..scan.source.schema().fields().len()).collect(),
        }),
        LogicalPlan::SubqueryAlias(a) => collect_steps(&a.input, state, steps),
        LogicalPlan::Filter(f) => {
            let projection = collect_steps(&f.input, state, steps)?;
            steps.push(Step::Filter(physical(&f.predicate, &f.input)?));
            Ok(projection)
        }
        LogicalPlan::Projection(p) => {
            let projection = collect_steps(&p.input, state, steps)?;
            let exprs = p
                .expr
                .iter()
                .map(|e| physical(e, &p.input))
                .collect::<Result<Vec<_>, _>>()?;
            steps.push(Step::Project(exprs, Arc::new(p.schema.as_arrow().clone())));
            Ok(projection)
        }
        other => Err(Error::Internal(format!(
            "not a step on facts: {}",
            other.display()
        ))),
    }
}

/// The leaf's schema, with unambiguous names, and its plan, with the names of what it replaces.
/// Every column is nullable, because files don't promise otherwise.
fn leaf_of(output: &DFSchema) -> Result<(SchemaRef, LogicalPlan)> {
    let name = |i: usize| format!("c{i}");
    let fields = output
        .fields()
        .iter()
        .enumerate()
        .map(|(i, f)| Field::new(name(i), f.data_type().clone(), true))
        .collect::<Vec<_>>();
    let schema = Arc::new(Schema::new(fields));
    let source = provider_as_source(Arc::new(LeafTable(schema.clone())));
    let restored = output.iter().enumerate().map(|(i, (qualifier, field))| {
        Expr::Column(ColumnRef::new(Some(LEAF), name(i)))
            .alias_qualified(qualifier.cloned(), field.name())
    });
    let scan = LogicalPlanBuilder::scan(LEAF, source, None)?;
    let plan = match output.fields().is_empty() {
        true => scan.build()?,
        false => scan.project(restored)?.build()?,
    };
    Ok((schema, plan))
}

/// The plan with its lowest aggregation replaced, wherever it stands.
fn replace_node(plan: &LogicalPlan, replacement: &LogicalPlan) -> Result<LogicalPlan> {
    let is_lowest = |node: &LogicalPlan| {
        matches!(node, LogicalPlan::Aggregate(a)
            if !a.input.exists(|n| Ok(matches!(n, LogicalPlan::Aggregate(_)))).unwrap_or(true))
    };
    rebuild(plan, &is_lowest, replacement)
}

pub(super) fn replace_by(
    plan: &LogicalPlan,
    target: &LogicalPlan,
    replacement: &LogicalPlan,
) -> Result<LogicalPlan> {
    rebuild(plan, &|node| node == target, replacement)
}

fn rebuild(
    plan: &LogicalPlan,
    is_target: &dyn Fn(&LogicalPlan) -> bool,
    replacement: &LogicalPlan,
) -> Result<LogicalPlan> {
    if is_target(plan) {
        return Ok(replacement.clone());
    }
    let inputs = plan
        .inputs()
        .into_iter()
        .map(|input| rebuild(input, is_target, replacement))
        .collect::<Result<Vec<_>>>()?;
    match inputs.is_empty() {
        true => Ok(plan.clone()),
        false => Ok(plan.with_new_exprs(plan.expressions(), inputs)?),
    }
}

impl Planned {
    /// The same, looking rows up where `bound` says: fact by fact, and in what is computed anew.
    pub(super) fn bound(&self, bound: &dyn Fn(&Lookup) -> Option<Arc<ScalarUDF>>) -> Result<Self> {
        let of_expr = |expr: &Arc<dyn PhysicalExpr>| {
            let bound = expr.clone().transform_up(|expr| {
                let call = (expr.as_ref() as &dyn Any).downcast_ref::<ScalarFunctionExpr>();
                let Some(call) = call else {
                    return Ok(Transformed::no(expr));
                };
                let Some(function) = Lookup::of(call.fun()).and_then(bound) else {
                    return Ok(Transformed::no(expr));
                };
                let field = call.return_field(&Schema::empty())?;
                let options = Arc::new(call.config_options().clone());
                let call = ScalarFunctionExpr::new(
                    call.name(),
                    function,
                    call.args().to_vec(),
                    field,
                    options,
                );
                Ok(Transformed::yes(Arc::new(call) as Arc<dyn PhysicalExpr>))
            });
            Ok(bound?.data)
        };
        let of_step = |step: &Step| {
            Ok(match step {
                Step::Filter(predicate) => Step::Filter(of_expr(predicate)?),
                Step::Project(exprs, schema) => {
                    let exprs = exprs.iter().map(of_expr).collect::<Result<_>>()?;
                    Step::Project(exprs, schema.clone())
                }
            })
        };
        Ok(Self {
            steps: self.steps.iter().map(of_step).collect::<Result<_>>()?,
            whole: joins::rebound(self.whole.clone(), bound)?,
            ..self.clone()
        })
    }

    /// The schema of a row of states.
    pub(super) fn state_schema(&self) -> SchemaRef {
        match &self.aggregate {
            Some(split) => split.state_schema().clone(),
            None => self.leaf_schema.clone(),
        }
    }

    /// The steps below the aggregation, on a batch of facts.
    pub(super) fn apply_lower(&self, facts: &RecordBatch) -> Result<RecordBatch> {
        let mut batch = facts.clone();
        for step in &self.steps {
            batch = match step {
                Step::Filter(predicate) => {
                    let keep = evaluate(predicate, &batch)?;
                    let keep = keep
                        .as_any()
                        .downcast_ref::<BooleanArray>()
                        .ok_or_else(|| Error::Internal("a filter gave no booleans".into()))?;
                    filter_record_batch(&batch, keep)?
                }
                Step::Project(exprs, schema) => {
                    let columns = exprs
                        .iter()
                        .map(|e| evaluate(e, &batch))
                        .collect::<Result<Vec<_>>>()?;
                    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                    RecordBatch::try_new_with_options(schema.clone(), columns, &rows)?
                }
            };
        }
        match self.aggregate {
            Some(_) => Ok(batch),
            // Rows are their own states, under the leaf's names.
            None => Ok(RecordBatch::try_new_with_options(
                self.leaf_schema.clone(),
                batch.columns().to_vec(),
                &RecordBatchOptions::new().with_row_count(Some(batch.num_rows())),
            )?),
        }
    }
}
