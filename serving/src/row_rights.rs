//! Rows that a user may read of relations of which not all are theirs. Owns that a relation is there for
//! them only where their rows can be told apart: a topic by one of its fields, a view by one of its
//! keys, as long as nothing above its aggregation looks at rows of several keys at once.

use std::sync::Arc;

use anabranch_shared::view::View;
use anabranch_shared::{CATALOG, Error, Pin, Relation, Result, TopicPin};
use arrow::datatypes::Schema;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, lit};

use crate::additive::scanned;
use crate::identity::{Rights, RowFilter, Rows};
use crate::reading::PUBLIC;

/// What is said of a relation that there is not, or not for whoever asks: nobody is told which.
pub(crate) fn absent(name: &str) -> Error {
    let text = format!("table '{CATALOG}.{PUBLIC}.{name}' not found");
    DataFusionError::Plan(text).into()
}

/// A pin with what somebody may read, and no more. Dead letters are those of all topics, for those who
/// may read all of them: then the pin's topics stay.
pub(crate) fn narrowed(mut pin: Pin, rights: &Rights, of_dead_letters: bool) -> Result<Pin> {
    if rights.may_read_all() {
        return Ok(pin);
    }
    for (name, view) in std::mem::take(&mut pin.views) {
        if view_filter(&view.view, rights.rows(&name))?.is_some() {
            pin.views.insert(name, view);
        }
    }
    let all = |name: &String| rights.rows(name) == Rows::All;
    pin.references.retain(|name, _| all(name));
    pin.plain.retain(|name, _| all(name) || of_dead_letters);
    pin.topics
        .retain(|name, topic| of_dead_letters || topic_filter(topic, rights.rows(name)).is_some());
    if rights.has_filters() && !pin.notes.is_empty() {
        // They name offsets, and other relations.
        pin.notes = vec![
            "whoever operates this is told something about this answer, for example that facts may be missing".to_owned(),
        ];
    }
    Ok(pin)
}

/// Whether a relation is there for somebody.
pub(crate) fn is_there(relation: &Relation, rights: &Rights) -> bool {
    match (rights.rows(&relation.name), &relation.view) {
        (Rows::None, _) => false,
        (Rows::All, _) => true,
        (rows, Some(view)) => view_filter(view, rows).is_ok_and(|filter| filter.is_some()),
        (Rows::Chosen(filters), None) => {
            relation.kind == "topic" && condition(&relation.schema, &filters).is_some()
        }
    }
}

/// The rows of a topic that somebody may read: a condition on its fields, or none for all. Nothing where
/// it is not there for them.
pub(crate) fn topic_filter(pin: &TopicPin, rows: Rows<'_>) -> Option<Option<Expr>> {
    match rows {
        Rows::None => None,
        Rows::All => Some(None),
        Rows::Chosen(filters) => condition(&pin.topic.schema(), &filters).map(Some),
    }
}

/// As [`topic_filter`], of a view and the keys of its leaf.
pub(crate) fn view_filter(view: &View, rows: Rows<'_>) -> Result<Option<Option<Expr>>> {
    let filters = match rows {
        Rows::None => return Ok(None),
        Rows::All => return Ok(Some(None)),
        Rows::Chosen(filters) => filters,
    };
    let leaf = view.leaf_schema();
    let keys: Arc<dyn TableProvider> = Arc::new(EmptyTable::new(leaf.clone()));
    let plan = view.answer_plan(keys)?;
    if !is_row_by_row(&plan)? {
        return Ok(None);
    }
    let on_key = |filter: &RowFilter| {
        let at = plan
            .schema()
            .index_of_column_by_name(None, &filter.column)?;
        let column = Column::from(plan.schema().qualified_field(at));
        let (_, name) = scanned(&plan, &column)?;
        let is_key = leaf.index_of(&name).is_ok_and(|at| at < view.key_count());
        is_key.then(|| RowFilter {
            column: name,
            values: filter.values.clone(),
        })
    };
    let on_keys: Option<Vec<RowFilter>> = filters.into_iter().map(on_key).collect();
    let on_keys = on_keys.unwrap_or_default();
    let on_keys: Vec<&RowFilter> = on_keys.iter().collect();
    Ok(condition(leaf, &on_keys).map(Some))
}

/// Whether what a view computes above its leaf is of one row at a time: whatever reads a second table, or
/// the leaf once more, is a sub-query.
pub(crate) fn is_row_by_row(plan: &LogicalPlan) -> Result<bool> {
    let (mut is, mut scans) = (true, 0);
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::TableScan(_) => scans += 1,
            LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {
            }
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => {}
            _ => is = false,
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(is && scans == 1)
}

/// What the filters choose, of columns of a schema; none where they choose nothing of it.
fn condition(schema: &Schema, filters: &[&RowFilter]) -> Option<Expr> {
    let mut chosen: Option<Expr> = None;
    for filter in filters {
        let field = schema.field_with_name(&filter.column).ok()?;
        let values = filter.values.iter().map(|text| {
            let value = ScalarValue::try_from_string(text.clone(), field.data_type());
            value.ok().map(lit)
        });
        let column = Expr::Column(Column::new_unqualified(&filter.column));
        let one_of = column.in_list(values.collect::<Option<Vec<_>>>()?, false);
        chosen = Some(match chosen {
            None => one_of,
            Some(others) => others.or(one_of),
        });
    }
    chosen
}
