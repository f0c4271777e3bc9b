//! What says that two definitions compute the same, and in what they differ where they don't: of the
//! text as its syntax tree prints it, of the filters, of the keys, of each aggregate, and of what stands
//! above. In doubt two are told apart: that costs a build, the opposite would be a wrong answer.
//!
//! Filters, keys and aggregates are written over the topic's own fields, as they are once the engine has
//! resolved names and types and folded constants: without aliases and sub-queries, the terms of AND and
//! OR in one order, comparisons in one direction.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result as EngineResult, ScalarValue};
use datafusion::logical_expr::expr::{Alias, BinaryExpr};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Operator};

use super::View;
use super::order::strip_alias;
use super::plan::planning_session;
use crate::reference::{Lookup, Reference};
use crate::{Result, sql};

/// What a view computes, in parts that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The text as its syntax tree prints it: without comments and white space.
    text: String,
    topic: String,
    /// The conditions that a fact has to meet.
    pub filters: BTreeSet<String>,
    /// The keys, in their order.
    pub keys: Vec<String>,
    /// The aggregates, in their order; of a view whose rows are facts, its columns.
    pub aggregates: Vec<String>,
    /// The names under which keys and aggregates are shown, by what they are.
    shown: BTreeMap<String, String>,
    /// What stands above them.
    upper: String,
    settings: Vec<(String, String)>,
    references: Vec<Reference>,
    state_format: String,
}

/// How a definition stands to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Nothing differs, not even the text.
    None,
    /// The text differs in comments, white space and the like.
    Formatting,
    /// The text differs, what is computed doesn't.
    Wording,
    /// Only what stands above the aggregation differs: the states are the same.
    Above,
    /// The states differ.
    States(Box<StatesDiffer>),
}

/// In what states differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatesDiffer {
    /// The topics, where it is another one: before and after.
    pub topic: Option<(String, String)>,
    /// Conditions that only the former has, and only the later.
    pub filters: [Vec<String>; 2],
    /// Keys that only the former has, and only the later.
    pub keys: [Vec<String>; 2],
    /// Aggregates that only the former has, and only the later, by the names of their columns.
    pub columns: [Vec<String>; 2],
    /// References that both meet and that have other rows in the later one.
    pub references: Vec<String>,
    /// Aggregates that stand in another order, or are the same in states of another format.
    pub form: Option<(String, String)>,
}

impl Fingerprint {
    fn of(view: &View) -> Result<Self> {
        let definition = view.definition();
        let lower = &view.planned.lower;
        let (input, keys, aggregates) = match lower {
            LogicalPlan::Aggregate(a) => (a.input.as_ref(), &a.group_expr[..], &a.aggr_expr[..]),
            rows => (rows, &[][..], &[][..]),
        };
        let written = |expr: &Expr| -> EngineResult<String> {
            let data_type = expr.get_type(input.schema())?;
            Ok(format!("{}: {data_type}", resolved(expr.clone(), input)?))
        };
        let mut found = Vec::new();
        conditions(input, &mut found)?;
        let filters = found.into_iter().map(by_reference);
        let filters = filters.map(|f| Ok(in_form(f?)?.to_string()));
        let filters = filters.collect::<EngineResult<_>>()?;
        let keys = keys
            .iter()
            .map(&written)
            .collect::<EngineResult<Vec<_>>>()?;
        let of_rows = || input.schema().columns().into_iter().map(Expr::Column);
        let aggregates: Vec<Expr> = match lower {
            LogicalPlan::Aggregate(_) => aggregates.to_vec(),
            _ => of_rows().collect(),
        };
        let aggregates = aggregates
            .iter()
            .map(&written)
            .collect::<EngineResult<Vec<_>>>()?;
        let all = keys.iter().chain(&aggregates).enumerate();
        let shown = all.filter_map(|(at, what)| Some((what.clone(), view.shown_as(at)?)));
        Ok(Self {
            text: printed(&definition.sql)?,
            topic: definition.topic.name.clone(),
            shown: shown.collect(),
            upper: upper_of(view)?,
            settings: definition.settings.clone(),
            references: definition.references.clone(),
            state_format: definition.state_format.clone(),
            filters,
            keys,
            aggregates,
        })
    }

    /// The name under which a key or an aggregate is shown, or what it is where it is not shown.
    pub fn name_of<'a>(&'a self, what: &'a str) -> &'a str {
        self.shown.get(what).map_or(what, String::as_str)
    }

    /// What stands above the aggregation, for people.
    pub fn above(&self) -> &str {
        &self.upper
    }

    /// How a later definition stands to this one.
    pub fn difference(&self, later: &Self) -> Difference {
        let mut states = StatesDiffer::default();
        if self.topic != later.topic {
            states.topic = Some((self.topic.clone(), later.topic.clone()));
        }
        let sets = |a: &Self, b: &Self| -> Vec<String> {
            a.filters.difference(&b.filters).cloned().collect()
        };
        states.filters = [sets(self, later), sets(later, self)];
        states.keys = only((self, &self.keys), (later, &later.keys));
        states.columns = only((self, &self.aggregates), (later, &later.aggregates));
        let changed = later.references.iter().filter(|own| {
            let mut former = self.references.iter();
            former.any(|r| r.name == own.name && !r.has_same_rows(own))
        });
        states.references = changed.map(|r| r.name.clone()).collect();
        let form = |of: &Self| (of.settings.clone(), of.state_format.clone());
        let same_order = self.keys == later.keys && self.aggregates == later.aggregates;
        if form(self) != form(later) || (states == StatesDiffer::default() && !same_order) {
            states.form = Some((self.state_format.clone(), later.state_format.clone()));
        }
        if states != StatesDiffer::default() {
            return Difference::States(Box::new(states));
        }
        if self.upper != later.upper {
            Difference::Above
        } else if self.text != later.text {
            Difference::Wording
        } else {
            Difference::Formatting
        }
    }
}

impl View {
    /// What the view computes, in parts that can be compared.
    ///
    /// # Errors
    /// `Query` where the engine can't say of what type something is.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        Fingerprint::of(self)
    }

    /// How a later definition stands to this view's.
    ///
    /// # Errors
    /// As [`View::fingerprint`].
    pub fn difference(&self, later: &Self) -> Result<Difference> {
        if self.definition().sql == later.definition().sql
            && self.definition().makes_same_states(later.definition())
        {
            return Ok(Difference::None);
        }
        Ok(self.fingerprint()?.difference(&later.fingerprint()?))
    }
}

/// Those keys or aggregates that only one of two definitions has, under the names that they are shown by;
/// with what they are where both show something else by one name. Each counts as often as it is there.
fn only(former: (&Fingerprint, &[String]), later: (&Fingerprint, &[String])) -> [Vec<String>; 2] {
    let lacking = |all: &[String], others: &[String]| {
        let mut left: Vec<&String> = others.iter().collect();
        let mut found = Vec::new();
        for one in all {
            match left.iter().position(|other| *other == one) {
                Some(at) => drop(left.swap_remove(at)),
                None => found.push(one.clone()),
            }
        }
        found
    };
    let (gone, new) = (lacking(former.1, later.1), lacking(later.1, former.1));
    let told = |(of, all): (&Fingerprint, &[String]),
                (other, others): (&Fingerprint, &[String])| {
        let told = all.iter().map(|one| {
            let name = of.name_of(one);
            match others.iter().any(|o| other.name_of(o) == name) {
                true => format!("{name} as {one}"),
                false => name.to_owned(),
            }
        });
        told.collect()
    };
    let (gone, new) = ((former.0, gone.as_slice()), (later.0, new.as_slice()));
    [told(gone, new), told(new, gone)]
}

/// A statement as its syntax tree prints it.
fn printed(text: &str) -> Result<String> {
    let state = planning_session()?.state();
    let statement = sql::on_large_stack(|| sql::parse(&state, text))?;
    Ok(statement.to_string())
}

/// A term of what a view does to facts, over the topic's fields.
pub(super) struct Term {
    /// As it is compared.
    pub(super) form: String,
    /// As it is computed.
    pub(super) expr: Expr,
}

/// The keys and the conditions of a view that aggregates facts, each over the topic's fields.
pub(super) fn terms(view: &View) -> Result<(Vec<Term>, Vec<Term>)> {
    let LogicalPlan::Aggregate(aggregate) = &view.planned.lower else {
        return Ok((Vec::new(), Vec::new()));
    };
    let input = aggregate.input.as_ref();
    let keys = aggregate.group_expr.iter();
    let keys = keys.map(|key| over_fields(key.clone(), input));
    let mut filters = Vec::new();
    conditions(input, &mut filters)?;
    let term = |expr: Expr| -> Result<Term> {
        let expr = expr.unalias();
        let form = form_of(&expr)?;
        Ok(Term { form, expr })
    };
    let keys = keys.map(|key| term(key?)).collect::<Result<_>>()?;
    let filters = filters.into_iter().map(term).collect::<Result<_>>()?;
    Ok((keys, filters))
}

/// An expression over a topic's fields as it is compared.
pub(super) fn form_of(expr: &Expr) -> Result<String> {
    Ok(in_form(expr.clone())?.to_string())
}

/// The conditions of all filters down to the topic, over its fields.
fn conditions(plan: &LogicalPlan, found: &mut Vec<Expr>) -> EngineResult<()> {
    if let LogicalPlan::Filter(filter) = plan {
        let predicate = over_fields(filter.predicate.clone(), &filter.input)?;
        found.extend(split_conjunction_owned(predicate));
    }
    plan.inputs()
        .into_iter()
        .try_for_each(|input| conditions(input, found))
}

/// An expression over a plan's columns as one over the topic's fields, in the one form that it has.
fn resolved(expr: Expr, plan: &LogicalPlan) -> EngineResult<Expr> {
    in_form(by_reference(over_fields(expr, plan)?)?)
}

/// An expression in which what a fact meets of a reference is called by that and its key, without the
/// fact's place: `posts[url].author`.
fn by_reference(expr: Expr) -> EngineResult<Expr> {
    let named = |name: String| Transformed::yes(Expr::Column(Column::new_unqualified(name)));
    let row = |expr: &Expr| match strip_alias(expr) {
        Expr::ScalarFunction(f) => {
            let lookup = Lookup::of(&f.func)?;
            let reference = &lookup.reference;
            let key = f.args.iter().take(reference.key.len());
            let key: Vec<String> = key.map(ToString::to_string).collect();
            let mut row = key.join(", ");
            if lookup.is_as_of() {
                row += &format!(" as of {}", f.args.get(reference.key.len())?);
            }
            Some(format!("{}[{row}]", reference.name))
        }
        _ => None,
    };
    let called = expr.transform_down(|expr| {
        let of_row = match &expr {
            Expr::ScalarFunction(f) if f.func.name() == "get_field" => match f.args.as_slice() {
                [of, Expr::Literal(field, _)] => row(of).map(|row| format!("{row}.{field}")),
                _ => None,
            },
            _ => None,
        };
        Ok(match of_row.or_else(|| row(&expr)) {
            Some(name) => named(name),
            None => Transformed::no(expr),
        })
    });
    Ok(called?.data)
}

/// An expression, all parts of which are in the one form that they have.
fn in_form(expr: Expr) -> EngineResult<Expr> {
    let formed = expr.transform_up(|e| Ok(Transformed::yes(in_one_form(e))));
    Ok(formed?.data)
}

/// An expression over a plan's columns as one over the topic's fields.
fn over_fields(expr: Expr, plan: &LogicalPlan) -> EngineResult<Expr> {
    let over_input = |expr: Expr, of: &dyn Fn(usize) -> Expr| {
        let replaced = expr.transform_up(|e| match &e {
            Expr::Column(column) => match plan.schema().maybe_index_of_column(column) {
                Some(at) => Ok(Transformed::yes(of(at))),
                None => Ok(Transformed::no(e)),
            },
            _ => Ok(Transformed::no(e)),
        });
        replaced.map(|r| r.data)
    };
    match plan {
        LogicalPlan::Projection(p) => {
            let of = |at: usize| p.expr.get(at).cloned().unwrap_or_default();
            over_fields(over_input(expr, &of)?, &p.input)
        }
        LogicalPlan::SubqueryAlias(a) => {
            let below = a.input.schema().columns();
            let of = |at: usize| below.get(at).cloned().map(Expr::Column).unwrap_or_default();
            over_fields(over_input(expr, &of)?, &a.input)
        }
        LogicalPlan::Filter(f) => over_fields(expr, &f.input),
        _ => {
            let columns = plan.schema().columns();
            let of = |at: usize| {
                let name = columns.get(at).map(|c| c.name.clone()).unwrap_or_default();
                Expr::Column(Column::new_unqualified(name))
            };
            over_input(expr, &of)
        }
    }
}

/// What stands above the leaf, and the names and types that it gives columns.
fn upper_of(view: &View) -> EngineResult<String> {
    let shape = shape(&view.planned.upper)?;
    let columns = view.schema();
    let columns = columns.fields().iter();
    let columns: Vec<String> = columns
        .map(|f| format!("{}: {}", f.name(), f.data_type()))
        .collect();
    Ok(format!("{} = {shape}", columns.join(", ")))
}

/// A plan whose columns stand as their places, so that the names within it don't count.
fn shape(plan: &LogicalPlan) -> EngineResult<String> {
    let inputs = plan.inputs();
    let below: Vec<String> = inputs
        .iter()
        .map(|i| shape(i))
        .collect::<EngineResult<_>>()?;
    let below = below.join(", ");
    let place = |column: &Column| {
        let mut before = 0;
        for input in &inputs {
            if let Some(at) = input.schema().maybe_index_of_column(column) {
                return Some(before + at);
            }
            before += input.schema().fields().len();
        }
        None
    };
    let by_place = |expr: Expr| {
        let replaced = expr.transform_up(|e| {
            let placed = match &e {
                Expr::Column(column) => place(column),
                _ => None,
            };
            Ok(Transformed::yes(match placed {
                Some(at) => Expr::Column(Column::new_unqualified(format!("#{at}"))),
                None => in_one_form(e),
            }))
        });
        Ok(replaced?.data.to_string())
    };
    let exprs = plan.expressions().into_iter().map(by_place);
    let exprs: Vec<String> = exprs.collect::<EngineResult<_>>()?;
    let as_it_is = || {
        exprs
            .iter()
            .enumerate()
            .all(|(at, e)| *e == format!("#{at}"))
    };
    let what = match plan {
        LogicalPlan::TableScan(_) => return Ok("leaf".to_owned()),
        LogicalPlan::SubqueryAlias(_) => return Ok(below),
        LogicalPlan::Projection(p) => {
            let all = p.input.schema().fields().len() == exprs.len();
            if all && as_it_is() {
                return Ok(below);
            }
            "project".to_owned()
        }
        LogicalPlan::Filter(_) => "filter".to_owned(),
        LogicalPlan::Sort(sort) => {
            let ways = sort.expr.iter().map(|by| (by.asc, by.nulls_first));
            format!("sort {:?} {:?}", ways.collect::<Vec<_>>(), sort.fetch)
        }
        LogicalPlan::Limit(_) => "limit".to_owned(),
        LogicalPlan::Window(_) => "window".to_owned(),
        LogicalPlan::Aggregate(a) => format!("aggregate by {}", a.group_expr.len()),
        other => other.display().to_string(),
    };
    Ok(format!("{what} [{}] ({below})", exprs.join(", ")))
}

/// An expression, whose parts are in the one form that they have, in its own.
fn in_one_form(expr: Expr) -> Expr {
    match expr {
        Expr::Alias(Alias { expr, .. }) => *expr,
        Expr::Literal(value, _) => Expr::Column(Column::new_unqualified(as_sql(&value))),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And | Operator::Or => {
                let mut terms = Vec::new();
                flatten(*left, op, &mut terms);
                flatten(*right, op, &mut terms);
                terms.sort_by_cached_key(Expr::to_string);
                terms.dedup();
                let joined = |a: Expr, b: Expr| binary(a, op, b);
                terms.into_iter().reduce(joined).unwrap_or_default()
            }
            Operator::Gt => binary(*right, Operator::Lt, *left),
            Operator::GtEq => binary(*right, Operator::LtEq, *left),
            Operator::Eq | Operator::NotEq if place_of(&left) > place_of(&right) => {
                binary(*right, op, *left)
            }
            _ => binary(*left, op, *right),
        },
        other => other,
    }
}

/// Where an operand of an equality stands: fields come before everything else.
fn place_of(operand: &Expr) -> (bool, String) {
    let is_field =
        matches!(operand, Expr::Column(c) if c.name.starts_with(|c: char| c.is_alphabetic()));
    (!is_field, operand.to_string())
}

/// A constant as one writes it in SQL. Its type is told where the text alone would not tell it.
fn as_sql(value: &ScalarValue) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    match value {
        ScalarValue::Utf8View(Some(text)) => quoted(text),
        ScalarValue::Int64(Some(_)) | ScalarValue::Boolean(Some(_)) => value.to_string(),
        ScalarValue::Float64(Some(number)) => format!("{number:?}"),
        value if value.is_null() => format!("NULL of {}", value.data_type()),
        value => format!("{} {}", value.data_type(), quoted(&value.to_string())),
    }
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

fn flatten(expr: Expr, op: Operator, terms: &mut Vec<Expr>) {
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: own,
            right,
        }) if own == op => {
            flatten(*left, op, terms);
            flatten(*right, op, terms);
        }
        other => terms.push(other),
    }
}

#[cfg(test)]
mod tests;
