//! The tables of a query's session: views over their leaves, topics, references, dead letters with their
//! retries, and the project's own. Owns that each is of the rows which whoever asks may read.

use std::sync::Arc;

use anabranch_shared::view::planning_session;
use anabranch_shared::{
    OFFSET, PARTITION, Pin, ReferencePin, Result, ViewPin, dead_letter_schema, layout,
    timestamp_type,
};
use datafusion::catalog::{MemorySchemaProvider, TableProvider};
use datafusion::common::{Column, JoinType, ScalarValue, TableReference};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};
use datafusion::prelude::SessionContext;

use crate::identity::{Rights, Rows};
use crate::leaf::MergedLeaf;
use crate::row_rights::{absent, topic_filter, view_filter};
use crate::text_lossy::text_lossy;
use crate::topic_table::FilesTable;

/// The name of the table of all topics' dead letters.
pub(crate) const DEAD_LETTERS: &str = "dead_letters";

/// Makes known to a query's session what it reads, as far as whoever asks may.
pub(crate) fn register(context: &SessionContext, pin: &Pin, rights: &Rights) -> Result<()> {
    let catalog = context
        .state()
        .config_options()
        .catalog
        .default_catalog
        .clone();
    for (name, view) in &pin.views {
        let Some((schema, table)) = name.split_once('.') else {
            context.register_table(name.as_str(), view_table(view, rights.rows(name))?)?;
            continue;
        };
        if let Some(catalog) = context.catalog(&catalog)
            && catalog.schema(schema).is_none()
        {
            catalog.register_schema(schema, Arc::new(MemorySchemaProvider::new()))?;
        }
        let provider = view_table(view, rights.rows(name))?;
        context.register_table(TableReference::partial(schema, table), provider)?;
    }
    let mut dead: Option<LogicalPlan> = None;
    for (name, topic) in &pin.topics {
        // Of a pin of dead letters its topics are there, and may not be read.
        if let Some(rows) = topic_filter(topic, rights.rows(name)) {
            let facts = FilesTable::topic(topic)?.of_rows(rows);
            context.register_table(name.as_str(), Arc::new(facts))?;
        }
        let table: Arc<dyn TableProvider> = Arc::new(FilesTable::dead_letters(topic)?);
        let source = provider_as_source(table);
        let scan = LogicalPlanBuilder::scan(DEAD_LETTERS, source, None)?;
        dead = Some(match dead {
            None => scan.build()?,
            Some(others) => scan.union(others)?.build()?,
        });
    }
    for (name, reference) in &pin.references {
        context.register_table(name.as_str(), reference_table(reference)?)?;
    }
    for (name, table) in &pin.plain {
        context.register_table(name.as_str(), Arc::new(FilesTable::plain(table)))?;
    }
    if let Some(plan) = dead {
        let plan = with_retries(plan, pin)?;
        context.register_table(DEAD_LETTERS, Arc::new(ViewTable::new(plan, None)))?;
    }
    Ok(())
}

/// The rows of a reference, up to the head of its topic.
fn reference_table(pin: &ReferencePin) -> Result<Arc<dyn TableProvider>> {
    let context = planning_session()?;
    let topic = FilesTable::topic(&pin.topic)?;
    context.register_table(pin.topic.topic.name.as_str(), Arc::new(topic))?;
    // Tables in memory are never waited for.
    let rows = futures::executor::block_on(context.sql(&pin.reference.sql()))?;
    let plan = rows.into_unoptimized_plan();
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// Dead letters, with when each was last retried.
fn with_retries(dead: LogicalPlan, pin: &Pin) -> Result<LogicalPlan> {
    let dead = LogicalPlanBuilder::from(dead).alias(DEAD_LETTERS)?;
    let names = dead_letter_schema();
    let mut columns = Vec::new();
    for name in names.fields().iter().map(|f| f.name().as_str()) {
        let column = Expr::Column(Column::new(Some(DEAD_LETTERS), name));
        match name {
            // As text, which it mostly is, and as it came.
            "raw" => {
                columns.push(text_lossy().call(vec![column.clone()]).alias("raw"));
                columns.push(column.alias("raw_bytes"));
            }
            _ => columns.push(column.alias(name)),
        }
    }
    let Some(retries) = pin.plain.get(layout::DEAD_LETTER_RETRIES) else {
        let never = ScalarValue::Null.cast_to(&timestamp_type())?;
        columns.push(lit(never).alias("retried_at"));
        return Ok(dead.project(columns)?.build()?);
    };
    let place = ["topic", PARTITION, OFFSET];
    let table: Arc<dyn TableProvider> = Arc::new(FilesTable::plain(retries));
    let source = provider_as_source(table);
    let retries = LogicalPlanBuilder::scan(layout::DEAD_LETTER_RETRIES, source, None)?
        .aggregate(
            place.map(ident),
            [max(ident("retried_at")).alias("retried_at")],
        )?
        .alias("retries")?
        .build()?;
    let keys = |of: &str| place.map(|name| Column::new(Some(of), name)).to_vec();
    let on = (keys(DEAD_LETTERS), keys("retries"));
    columns.push(Expr::Column(Column::new(Some("retries"), "retried_at")).alias("retried_at"));
    Ok(dead
        .join(retries, JoinType::Left, on, None)?
        .project(columns)?
        .build()?)
}

/// What the views' own SQL does, over their leaves.
pub(crate) fn answer_plans(pin: &Pin, rights: &Rights) -> Result<Vec<LogicalPlan>> {
    let views = pin.views.iter();
    views
        .map(|(name, view)| answer_plan(view, rights.rows(name)))
        .collect()
}

fn answer_plan(pin: &ViewPin, rows: Rows<'_>) -> Result<LogicalPlan> {
    // What is not there for whoever asks was left out of the pin.
    let barrier = view_filter(&pin.view, rows)?.ok_or_else(|| absent(pin.view.name()))?;
    let leaf = MergedLeaf::new(Arc::new(pin.clone())).of_keys(barrier);
    pin.view.answer_plan(Arc::new(leaf))
}

fn view_table(pin: &ViewPin, rows: Rows<'_>) -> Result<Arc<dyn TableProvider>> {
    let plan = answer_plan(pin, rows)?;
    Ok(Arc::new(ViewTable::new(
        plan,
        Some(pin.view.definition().sql.clone()),
    )))
}
