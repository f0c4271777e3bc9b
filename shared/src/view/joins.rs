//! Joins with references below the aggregation: each becomes the look-up of one row by its whole key, so
//! that what is left of the plan reads one topic, fact by fact.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef, Result as EngineResult, TableReference};
use datafusion::datasource::source_as_provider;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Operator,
    Projection, ScalarUDF,
};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr as SqlExpr, JoinConstraint, JoinOperator, Query, SetExpr, VisitMut,
    VisitorMut,
};
use datafusion::sql::unparser::expr_to_sql;

use super::facts::ReferenceTable;
use super::order;
use super::plan::with_place;
use super::refusals::refuse_relation;
use crate::convert::sql_type;
use crate::reference::{Bound, Lookup, Reference};
use crate::{Error, Result};

/// A plan without joins of references, and the references that it looks rows up in.
///
/// # Errors
/// `View` for a join that is none of a reference's whole key, with what to write.
pub(super) fn resolve(
    view: &str,
    text: &str,
    plan: LogicalPlan,
    (known, as_of): (&[Reference], bool),
) -> Result<(LogicalPlan, Vec<Reference>)> {
    let mut met: Vec<Reference> = Vec::new();
    // What is refused is no error of the engine's, so it is kept beside.
    let mut refused = None;
    let resolved = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Join(join) = &node else {
            return Ok(Transformed::no(node));
        };
        match of_join(join, known, as_of)? {
            Found::Resolved(plan, reference) => {
                if !met.contains(&reference) {
                    met.push(Reference::clone(&reference));
                }
                Ok(Transformed::yes(*plan))
            }
            Found::Other => Ok(Transformed::no(node)),
            Found::Wrong(reference, why) => {
                let e = refuse_relation(view, text, &reference.name, &why);
                refused.get_or_insert(e);
                Ok(Transformed::new(node, false, TreeNodeRecursion::Stop))
            }
        }
    })?;
    if let Some(e) = refused {
        return Err(e);
    }
    let plan = resolved.data;
    let mut left = None;
    plan.apply_with_subqueries(|node| {
        left = reference_of(node, known)
            .map(|(reference, _)| reference)
            .or(left.take());
        Ok(TreeNodeRecursion::Continue)
    })?;
    match left {
        None => Ok((plan, met)),
        Some(reference) => Err(refuse_relation(
            view,
            text,
            &reference.name,
            &format!(
                "reference `{}` can only be joined to facts here: {}; its rows alone are asked for by a query",
                reference.name,
                example(&reference)
            ),
        )),
    }
}

/// What a join is.
enum Found {
    /// One of a reference, with the plan that takes its place.
    Resolved(Box<LogicalPlan>, Arc<Reference>),
    /// One of a reference as it can't be, and why.
    Wrong(Arc<Reference>, String),
    /// None of a reference.
    Other,
}

/// What a fact says is the time as of which a row is met, where a condition is one of that.
fn as_of(
    condition: &Expr,
    (reference, name): (&Reference, &TableReference),
    facts: &DFSchemaRef,
) -> Option<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else {
        return None;
    };
    let (time, by) = match op {
        Operator::GtEq => (left, right),
        Operator::LtEq => (right, left),
        _ => return None,
    };
    let is_by = matches!(by.as_ref(), Expr::Column(column)
        if column.relation.as_ref() == Some(name) && column.name == reference.latest_by);
    let mut refs = time.column_refs().into_iter();
    let of_facts = refs.all(|column| facts.has_column(column));
    (is_by && of_facts).then(|| Expr::clone(time))
}

/// Writes `ASOF JOIN r MATCH_CONDITION (…) ON …` as the engine can plan it: as a LEFT JOIN, whose condition
/// holds that of the match in a way of its own. Returns whether there was one.
pub(super) fn mark_as_of(statement: &mut Statement) -> bool {
    let mut marking = Marking(false);
    if let Statement::Statement(sql) = statement {
        let ControlFlow::Continue(()) = VisitMut::visit(sql.as_mut(), &mut marking);
    }
    marking.0
}

struct Marking(bool);

impl VisitorMut for Marking {
    type Break = std::convert::Infallible;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        let SetExpr::Select(select) = query.body.as_mut() else {
            return ControlFlow::Continue(());
        };
        let joins = select.from.iter_mut().flat_map(|from| &mut from.joins);
        for join in joins {
            if let JoinOperator::AsOf {
                match_condition,
                constraint: JoinConstraint::On(on),
            } = &join.join_operator
            {
                let nested = |expr: &SqlExpr| Box::new(SqlExpr::Nested(Box::new(expr.clone())));
                let both = SqlExpr::BinaryOp {
                    left: nested(on),
                    op: BinaryOperator::And,
                    right: Box::new(SqlExpr::IsTrue(nested(match_condition))),
                };
                join.join_operator = JoinOperator::LeftOuter(JoinConstraint::On(both));
                self.0 = true;
            }
        }
        ControlFlow::Continue(())
    }
}

/// The references of a plan of which rows of before are met.
pub(super) fn met_as_of(plan: &LogicalPlan) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarFunction(f) = expr
                    && let Some(lookup) = Lookup::of(&f.func).filter(|lookup| lookup.is_as_of())
                {
                    found.insert(lookup.reference.name.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

/// How a join is written that can be.
fn example(reference: &Reference) -> String {
    let name = &reference.name;
    let on = reference.key.iter().map(|k| format!("{name}.{k} = …"));
    format!(
        "write `LEFT JOIN {name} ON {}`",
        on.collect::<Vec<_>>().join(" AND ")
    )
}

/// An expression as SQL, as well as it can be said.
fn written(expr: &Expr) -> String {
    expr_to_sql(expr).map_or_else(|_| expr.to_string(), |sql| sql.to_string())
}

/// The reference that a plan is, and the name under which it stands there.
fn reference_of(
    plan: &LogicalPlan,
    known: &[Reference],
) -> Option<(Arc<Reference>, TableReference)> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let provider = source_as_provider(&scan.source).ok()?;
            let is_one = (provider.as_ref() as &dyn std::any::Any).is::<ReferenceTable>();
            let name = scan.table_name.clone();
            let mut named = known.iter().filter(|r| is_one && r.name == name.table());
            Some((Arc::new(named.next()?.clone()), name))
        }
        LogicalPlan::SubqueryAlias(a) => {
            let (reference, _) = reference_of(&a.input, known)?;
            Some((reference, a.alias.clone()))
        }
        _ => None,
    }
}

fn of_join(join: &Join, known: &[Reference], is_marked: bool) -> EngineResult<Found> {
    let (facts, reference, name, join_type) = match (
        reference_of(&join.left, known),
        reference_of(&join.right, known),
    ) {
        (None, None) => return Ok(Found::Other),
        (_, Some((reference, name))) => (&join.left, reference, name, join.join_type),
        (Some((reference, name)), None) => (&join.right, reference, name, join.join_type.swap()),
    };
    let wrong = |why: String| Ok(Found::Wrong(reference.clone(), why));
    if !matches!(join_type, JoinType::Left | JoinType::Inner) {
        return wrong(format!(
            "a view joins a reference by LEFT JOIN or by JOIN; {}",
            example(&reference)
        ));
    }
    let input = with_place(facts).map_err(engine_error)?;
    let Some(place) = order::place_columns(input.schema()) else {
        return wrong(format!(
            "reference `{}` is joined above the aggregation, where there are no facts any more; join it below, or in a query over the view",
            reference.name
        ));
    };
    let mut keys: Vec<Option<Expr>> = vec![None; reference.key.len()];
    let pairs = join.on.iter().map(|(l, r)| (l.clone(), r.clone()));
    let mut pairs: Vec<(Expr, Expr)> = pairs.collect();
    let mut time = None;
    for condition in join.filter.iter().flat_map(split_conjunction) {
        match condition {
            Expr::IsTrue(of) if is_marked => match as_of(of, (&reference, &name), facts.schema()) {
                Some(by) => time = Some(by),
                None => {
                    return wrong(format!(
                        "`{}` is no MATCH_CONDITION of reference `{}`; write `MATCH_CONDITION (… >= {}.{})`",
                        written(of),
                        reference.name,
                        reference.name,
                        reference.latest_by
                    ));
                }
            },
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::Eq,
                right,
            }) => {
                pairs.push((Expr::clone(left), Expr::clone(right)));
            }
            other => {
                return wrong(format!(
                    "`{}` is no equality with a key of reference `{}`; put other conditions into WHERE ({})",
                    written(other),
                    reference.name,
                    example(&reference)
                ));
            }
        }
    }
    for (a, b) in pairs {
        let key_of = |expr: &Expr| match expr {
            Expr::Column(column) if column.relation.as_ref() == Some(&name) => {
                reference.key.iter().position(|k| *k == column.name)
            }
            _ => None,
        };
        let of_facts = |expr: &Expr| {
            let refs = expr.column_refs();
            refs.iter().all(|c| facts.schema().has_column(c))
        };
        let (at, by) = match (key_of(&a), key_of(&b)) {
            (Some(at), None) if of_facts(&b) => (at, b),
            (None, Some(at)) if of_facts(&a) => (at, a),
            _ => {
                return wrong(format!(
                    "`{} = {}` is no equality of a key of reference `{}` with what a fact says; {}",
                    written(&a),
                    written(&b),
                    reference.name,
                    example(&reference)
                ));
            }
        };
        if keys[at].is_some() {
            return wrong(format!(
                "`{}` is compared twice; {}",
                reference.key[at],
                example(&reference)
            ));
        }
        let wanted = reference.columns()[at].data_type().clone();
        let found = by.get_type(input.schema())?;
        let widens = found.is_integer()
            && wanted.is_integer()
            && found.primitive_width() <= wanted.primitive_width()
            && found.is_signed_integer() == wanted.is_signed_integer();
        let is_text = |t: &arrow::datatypes::DataType| t.is_string();
        keys[at] = match found == wanted {
            true => Some(by),
            false if widens || (is_text(&found) && is_text(&wanted)) => {
                Some(by.cast_to(&wanted, input.schema())?)
            }
            false => {
                return wrong(format!(
                    "`{}` is of the type {}, and `{}` of reference `{}` of the type {}; write a CAST of what the fact says",
                    written(&by),
                    sql_type(&found),
                    reference.key[at],
                    reference.name,
                    sql_type(&wanted)
                ));
            }
        };
    }
    let missing = reference
        .key
        .iter()
        .zip(&keys)
        .find(|(_, key)| key.is_none());
    if let Some((missing, _)) = missing {
        return wrong(format!(
            "`{missing}` is a part of the key of reference `{}` and is not compared, so a fact could meet several rows; {}",
            reference.name,
            example(&reference)
        ));
    }
    let mut arguments: Vec<Expr> = keys.into_iter().flatten().collect();
    if let Some(time) = &time {
        let wanted = reference
            .read()
            .field_with_name(&reference.latest_by)?
            .data_type()
            .clone();
        let found = time.get_type(input.schema())?;
        if found != wanted {
            return wrong(format!(
                "`{}` is of the type {}, and `{}` of reference `{}` of the type {}; write a CAST of what the fact says",
                written(time),
                sql_type(&found),
                reference.latest_by,
                reference.name,
                sql_type(&wanted)
            ));
        }
    }
    let is_as_of = time.is_some();
    arguments.extend(time);
    arguments.extend(place.into_iter().map(Expr::Column));
    let plan = looked_up(
        facts.schema(),
        input,
        (&reference, &name),
        (arguments, is_as_of),
        join_type,
    )?;
    Ok(Found::Resolved(Box::new(plan), reference))
}

fn engine_error(e: Error) -> datafusion::common::DataFusionError {
    datafusion::common::DataFusionError::External(Box::new(e))
}

/// The facts with the columns of the rows that they meet.
fn looked_up(
    facts: &DFSchemaRef,
    input: LogicalPlan,
    (reference, name): (&Arc<Reference>, &TableReference),
    (arguments, as_of): (Vec<Expr>, bool),
    join_type: JoinType,
) -> EngineResult<LogicalPlan> {
    let lookup = Arc::new(ScalarUDF::from(Lookup::new(reference, as_of, Bound::No)));
    let row = format!("_row_of_{name}");
    let found = Expr::ScalarFunction(ScalarFunction::new_udf(lookup, arguments)).alias(&row);
    // The place stays for joins and aggregates above that need it.
    let mut columns: Vec<Expr> = input
        .schema()
        .columns()
        .into_iter()
        .map(Expr::Column)
        .collect();
    columns.push(found);
    let looked = LogicalPlan::Projection(Projection::try_new(columns, Arc::new(input))?);
    let row = Expr::Column(Column::from_name(row));
    let looked = match join_type {
        JoinType::Inner => LogicalPlanBuilder::from(looked)
            .filter(row.clone().is_not_null())?
            .build()?,
        _ => looked,
    };
    let own = facts.columns().into_iter().map(Expr::Column);
    let fields = reference.columns();
    let of_row = fields.iter().map(|field| {
        get_field(row.clone(), field.name().as_str())
            .alias_qualified(Some(name.clone()), field.name())
    });
    let all: Vec<Expr> = own.chain(of_row).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(
        all,
        Arc::new(looked),
    )?))
}

/// Whether a plan looks rows up, with what in their place: of each call what `bound` gives.
pub(super) fn rebound(
    plan: LogicalPlan,
    bound: &dyn Fn(&Lookup) -> Option<Arc<ScalarUDF>>,
) -> Result<LogicalPlan> {
    let rebound = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expr| {
            expr.transform_up(|expr| match expr {
                Expr::ScalarFunction(f) => match Lookup::of(&f.func).and_then(bound) {
                    Some(func) => {
                        let call = ScalarFunction::new_udf(func, f.args);
                        Ok(Transformed::yes(Expr::ScalarFunction(call)))
                    }
                    None => Ok(Transformed::no(Expr::ScalarFunction(f))),
                },
                expr => Ok(Transformed::no(expr)),
            })
        })
    })?;
    Ok(rebound.data)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray, new_null_array};
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Schema};
    use arrow::record_batch::RecordBatch;

    use super::*;
    use crate::reference::{ReferenceRows, ReferencesMet};
    use crate::settings::{FieldReads, FieldType};
    use crate::topic::{OFFSET, PARTITION};
    use crate::view::{View, fold_facts};
    use crate::{Offset, Offsets, PartitionId, Topic, TopicField};

    fn topic(name: &str, fields: &[(&str, FieldType)]) -> Topic {
        let field = |(name, field_type): &(&str, FieldType)| TopicField {
            name: (*name).to_owned(),
            field_type: field_type.clone(),
            nullable: true,
            reads: FieldReads::default(),
        };
        Topic {
            name: name.to_owned(),
            event_time: "ts".to_owned(),
            fields: fields.iter().map(field).collect(),
        }
    }

    fn facts() -> Topic {
        let (time, text) = (FieldType::Timestamp, FieldType::Varchar);
        topic(
            "facts",
            &[("ts", time), ("url", text), ("n", FieldType::BigInt)],
        )
    }

    fn posts() -> Reference {
        let (time, text) = (FieldType::Timestamp, FieldType::Varchar);
        let fields = [
            ("ts", time),
            ("url", text.clone()),
            ("site", FieldType::Int),
            ("author", text),
        ];
        Reference {
            name: "posts".to_owned(),
            topic: topic("content", &fields),
            key: vec!["url".to_owned()],
            latest_by: "ts".to_owned(),
            fields: vec!["author".to_owned()],
            deleted_when: None,
        }
    }

    /// A batch in the columns of a schema, of which some are told.
    fn batch(schema: &Schema, rows: usize, told: &[(&str, ArrayRef)]) -> Result<RecordBatch> {
        let columns = schema.fields().iter().map(|field| {
            let told = told.iter().find(|(name, _)| name == field.name());
            match told {
                Some((_, column)) => cast(column, field.data_type()).map_err(Error::from),
                None => Ok(new_null_array(field.data_type(), rows)),
            }
        });
        let nullable = schema
            .fields()
            .iter()
            .map(|f| f.as_ref().clone().with_nullable(true));
        let schema = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
        Ok(RecordBatch::try_new(
            schema,
            columns.collect::<Result<_>>()?,
        )?)
    }

    fn texts(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn place(rows: usize) -> [(&'static str, ArrayRef); 2] {
        let offsets = Int64Array::from_iter_values((0..).take(rows));
        [
            (
                PARTITION,
                Arc::new(Int32Array::from(vec![0; rows])) as ArrayRef,
            ),
            (OFFSET, Arc::new(offsets)),
        ]
    }

    /// The rows that some posts make, up to as many offsets as there are.
    fn rows(posts_of: &[(Option<&str>, &str)]) -> Result<ReferencesMet> {
        let reference = posts();
        let count = posts_of.len();
        let url: Vec<_> = posts_of.iter().map(|(url, _)| *url).collect();
        let author: Vec<_> = posts_of.iter().map(|(_, author)| Some(*author)).collect();
        let told = [("url", texts(&url)), ("author", texts(&author))];
        let told = [&told[..], &place(count)[..]].concat();
        let read = batch(&reference.read(), count, &told)?;
        let at: Offsets = [(PartitionId(0), Offset(count as i64))]
            .into_iter()
            .collect();
        let none = ReferenceRows::none(&reference, false)?.up_to(at);
        // One by one: each is a layer, or merged with those before.
        let rows = (0..count).try_fold(none, |rows, nth| {
            rows.with(&read.slice(nth, 1), vec![false].into())
        })?;
        Ok([("posts".to_owned(), Arc::new(rows))].into_iter().collect())
    }

    fn fold(view: &Arc<View>, urls: &[Option<&str>]) -> Result<Vec<String>> {
        let told = [&[("url", texts(urls))][..], &place(urls.len())[..]].concat();
        let facts = batch(&facts().schema(), urls.len(), &told)?;
        let states = fold_facts(view, &[facts])?;
        let shown = arrow::util::pretty::pretty_format_batches(&[states])?.to_string();
        let lines = shown.lines().skip(3).filter(|line| line.starts_with('|'));
        let mut lines: Vec<String> = lines
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        lines.sort();
        Ok(lines)
    }

    #[test]
    fn a_fact_meets_the_latest_row_of_its_key_or_none() -> Result<()> {
        let sql = "SELECT posts.author, count(*) AS facts FROM facts LEFT JOIN posts ON posts.url = facts.url GROUP BY 1";
        let view = View::compile_with("v", sql, &facts(), &[posts()])?;
        assert_eq!(view.references(), [posts()]);
        let met = rows(&[
            (Some("a"), "Ann"),
            (Some("b"), "Bob"),
            (None, "Nil"),
            (Some("a"), "Ada"),
        ])?;
        let view = Arc::new(view.bound(&met)?);
        let found = fold(&view, &[Some("a"), Some("a"), Some("b"), Some("c"), None])?;
        assert_eq!(found, ["| Ada | 2 |", "| Bob | 1 |", "| | 2 |"]);
        // By JOIN those that meet none are left out.
        let inner = sql.replace("LEFT JOIN", "JOIN");
        let view = View::compile_with("v", &inner, &facts(), &[posts()])?;
        let view = Arc::new(view.bound(&met)?);
        let found = fold(&view, &[Some("a"), Some("b"), Some("c"), None])?;
        assert_eq!(found, ["| Ada | 1 |", "| Bob | 1 |"]);
        Ok(())
    }

    #[test]
    fn what_is_not_bound_is_an_error_and_no_answer() -> Result<()> {
        let sql = "SELECT author, count(*) AS facts FROM facts JOIN posts USING (url) GROUP BY 1";
        let view = Arc::new(View::compile_with("v", sql, &facts(), &[posts()])?);
        let failed = fold(&view, &[Some("a")]).err().map(|e| e.to_string());
        assert!(failed.is_some_and(|e| e.contains("reference `posts` is not there yet")));
        assert!(view.now().is_err());
        let met = rows(&[(Some("a"), "Ann")])?;
        view.bring_up(&met)?;
        assert_eq!(view.now()?.at().len(), 1);
        assert_eq!(fold(&view.now()?, &[Some("a")])?, ["| Ann | 1 |"]);
        Ok(())
    }

    #[test]
    fn joins_that_could_meet_several_rows_are_refused() {
        let refused = [
            ("JOIN posts ON posts.author = p.url", "no equality of a key"),
            ("JOIN posts ON posts.url = p.n", "is of the type bigint"),
            (
                "RIGHT JOIN posts ON posts.url = p.url",
                "by LEFT JOIN or by JOIN",
            ),
            (
                "JOIN posts ON posts.url = p.url AND p.n > 3",
                "put other conditions into WHERE",
            ),
            (
                "JOIN posts ON posts.url = p.url AND posts.url = p.url || 'x'",
                "compared twice",
            ),
            ("CROSS JOIN posts", "is a part of the key"),
            (
                "WHERE p.url IN (SELECT url FROM posts)",
                "can only be joined to facts",
            ),
        ];
        for (join, why) in refused {
            let sql = format!("SELECT count(*) AS facts FROM facts p {join}");
            let e = View::compile_with("v", &sql, &facts(), &[posts()]).err();
            let said = e.map(|e| e.to_string()).unwrap_or_default();
            assert!(said.contains(why), "{join}: {said}");
        }
    }

    #[test]
    fn another_reference_is_another_query() -> Result<()> {
        let sql = "SELECT author, count(*) AS facts FROM facts JOIN posts USING (url) GROUP BY 1";
        let view = View::compile_with("v", sql, &facts(), &[posts()])?;
        let other = Reference {
            deleted_when: Some("author IS NULL".to_owned()),
            ..posts()
        };
        let other = View::compile_with("v", sql, &facts(), &[other])?;
        assert!(!view.definition().is_same_query(other.definition()));
        assert!(matches!(
            view.difference(&other)?,
            crate::view::Difference::States(_)
        ));
        // A field that was added to its topic is none of the reference's.
        let mut wider = posts();
        wider.topic.fields.push(TopicField {
            name: "more".to_owned(),
            field_type: FieldType::Int,
            nullable: true,
            reads: FieldReads::default(),
        });
        let wider = View::compile_with("v", sql, &facts(), &[wider])?;
        assert!(view.definition().is_same_query(wider.definition()));
        assert_eq!(DataType::Utf8View, *view.schema().field(0).data_type());
        Ok(())
    }
}
