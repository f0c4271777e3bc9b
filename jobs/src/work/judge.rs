//! Compares two generations of a view at the same offsets, and holds the difference against the view's
//! gate.

use std::sync::Arc;

use anabranch_serving::SqlService;
use anabranch_shared::convert::sql_type;
use anabranch_shared::settings::{GateSettings, Limit, Project};
use anabranch_shared::view::{KeySample, View};
use anabranch_shared::{
    Error, Offsets, Pin, Pinner, ReadMode, Result, Role, Stop, blocking, counted, nearest,
};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool};
use futures::StreamExt;
use serde::Serialize;

use crate::output::human_number;
use crate::project::context::{Context, no_view};
use crate::reader::local_service::local_service;
use crate::reader::storage_pinner::LocalPinner;
use crate::work::diff::{ColumnDiff, Diff, Differ, RowsFile, Side, keys_of};

pub mod text;

/// The share of the memory bound of a build that rows may take which are compared.
const ROWS_SHARE: u64 = 4;

/// How two generations are compared.
#[derive(Clone, Debug, Default)]
pub struct JudgeOptions {
    /// Which rows are compared, as a condition in SQL over the view's columns; all where none.
    pub only_where: Option<String>,
    /// Compares only this share of the keys, above 0 and below 1; all where none.
    pub sample: Option<f64>,
    /// Takes all rows that differ.
    pub rows: Option<Arc<RowsFile>>,
    /// Bytes of memory that rows may take; beyond them they go to temporary files.
    pub memory_bytes: usize,
    /// Tells it to stop early.
    pub stop: Stop,
}

impl JudgeOptions {
    /// All rows, within what a project gives to builds.
    pub fn of(project: &Project, stop: Stop) -> Self {
        Self {
            memory_bytes: usize::try_from(project.build.memory_bytes / ROWS_SHARE)
                .unwrap_or(usize::MAX),
            stop,
            ..Self::default()
        }
    }
}

/// Two generations of a view, compared.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// The view.
    pub view: String,
    /// The relation that is compared with, such as `post_minutes`.
    pub a: String,
    /// The relation that is compared, such as `candidate.post_minutes`.
    pub b: String,
    /// The generations of both.
    pub generations: [u64; 2],
    /// For each partition the first offset that neither holds: both are compared at these.
    pub head: Offsets,
    /// The share of the keys that was compared, where not all were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<f64>,
    /// The keys of both, where they are not the same: then they are compared by those that both have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grain: Option<[Vec<String>; 2]>,
    /// What they differ in.
    pub diff: Diff,
}

/// What came of comparing two generations.
#[derive(Clone, Debug)]
pub enum Judgement {
    /// They were compared.
    Compared(Box<Judged>),
    /// Their rows can't be told to be one another's, for the reason that is told.
    OtherGrain(String),
}

/// A limit that a difference goes past.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Broken {
    /// The limit's name, such as `rows_changed`.
    pub limit: String,
    /// What is allowed.
    pub allowed: String,
    /// What was found.
    pub found: String,
}

impl Broken {
    /// It, for people.
    pub fn text(&self) -> String {
        let Self {
            limit,
            allowed,
            found,
        } = self;
        format!("`{limit}` allows {allowed}, found {found}")
    }
}

/// The relation of a view's generation that a word means.
fn relation(view: &str, word: &str) -> Result<String> {
    match word {
        "live" => Ok(view.to_owned()),
        "candidate" | "previous" => Ok(format!("{word}.{view}")),
        _ if anabranch_shared::is_schema_of_generations(word) => Ok(format!("{word}.{view}")),
        _ => Err(Error::Invalid(format!(
            "`{word}` is no generation; write `live`, `candidate`, `previous`, or a number such as `g6`"
        ))),
    }
}

/// The relations of a view's generations that are meant to be compared: `live`, `candidate`, `previous` or a
/// number such as `g6`. Where they are left open, what answers is compared with the candidate, or with the
/// previous generation where there is none.
///
/// # Errors
/// `NotFound` where there is no such view, or nothing to compare with; `Invalid` for a word that is no generation.
pub fn sides(
    context: &Context,
    view: &str,
    a: Option<&str>,
    b: Option<&str>,
) -> Result<(String, String)> {
    let entry = context.catalogue.current();
    let known = entry.views.get(view);
    let known = known.ok_or_else(|| no_view(view, entry.views.keys()))?;
    let other = match (b, known.candidate.is_some()) {
        (Some(word), _) => word,
        (None, true) => "candidate",
        (None, false) if known.of_role(Role::Previous).is_some() => "previous",
        (None, false) => {
            return Err(Error::NotFound(format!(
                "view `{view}` has neither a candidate nor a previous generation to compare with; `anabranch apply --no-cut-over` builds a candidate"
            )));
        }
    };
    Ok((relation(view, a.unwrap_or("live"))?, relation(view, other)?))
}

/// Compares two generations, pinned at one head for both.
///
/// # Errors
/// `NotFound` where one is not there; `Invalid` where the condition can't be one; `Conflict` when stopped.
pub async fn judge(
    context: &Context,
    (a, b): (&str, &str),
    options: &JudgeOptions,
) -> Result<Judgement> {
    // Beside what answers it takes no more threads than a build does.
    let mut project = Project::clone(&context.project);
    project.query.threads = project.build.threads;
    let service = local_service(&context.with_project(project))?;
    let pinner = LocalPinner::new(context.clone()).stopped_by(options.stop.flag());
    let names = [a.to_owned(), b.to_owned()];
    let pin = pinner.pin(&names, ReadMode::Merged).await?;
    let (context, names, options) = (context.clone(), names, options.clone());
    drop(context);
    anabranch_serving::compute(async move { judge_pinned(&service, &pin, &names, &options).await })
        .await
}

async fn judge_pinned(
    service: &SqlService,
    pin: &Pin,
    [a, b]: &[String; 2],
    options: &JudgeOptions,
) -> Result<Judgement> {
    let of = |name: &String| {
        let missing = || {
            Error::NotFound(format!(
                "no generation `{name}`; `anabranch status` shows which there are"
            ))
        };
        pin.views.get(name).ok_or_else(missing)
    };
    let (of_a, of_b) = (of(a)?, of(b)?);
    let (keys_a, keys_b) = (keys_of(&of_a.view), keys_of(&of_b.view));
    let common: Vec<String> = keys_a
        .iter()
        .filter(|k| keys_b.contains(k))
        .cloned()
        .collect();
    let grain = (keys_a.len() != common.len() || keys_b.len() != common.len())
        .then(|| [keys_a.clone(), keys_b.clone()]);
    if grain.is_some() && common.len() < keys_a.len().min(keys_b.len()) {
        return Ok(Judgement::OtherGrain(format!(
            "the keys of `{a}` ({}) and of `{b}` ({}) are other ones: neither grain contains the other, so rows can't be compared",
            keys_a.join(", "),
            keys_b.join(", ")
        )));
    }
    let sample = options
        .sample
        .map(|share| sampled(&of_a.view, &of_b.view, share));
    let sample = sample.transpose()?;
    let pool = FairSpillPool::new(options.memory_bytes);
    let pool: Arc<dyn MemoryPool> = Arc::new(pool);
    let mut sides = Vec::new();
    for (name, of, keys) in [(a, of_a, &keys_a), (b, of_b, &keys_b)] {
        sides.push(match &sample {
            Some(_) => {
                service
                    .view_answer(of, sample.as_ref(), &pool, &options.stop)
                    .await?
            }
            None => {
                let sql = statement(name, &of.view, keys, &common, options.only_where.as_deref());
                service.query_on(&sql, pin, ReadMode::Merged).await?.stream
            }
        });
    }
    let (Some(answer_b), Some(answer_a)) = (sides.pop(), sides.pop()) else {
        return Err(Error::Internal("two answers".into()));
    };
    let (schema_a, schema_b) = (nullable(&answer_a.schema()), nullable(&answer_b.schema()));
    let mut differ = Differ::new(
        (&of_a.view, &schema_a),
        (&of_b.view, &schema_b),
        &common,
        options.memory_bytes,
    )?
    .with_rows(options.rows.clone())?;
    for (side, mut rows) in [(Side::A, answer_a), (Side::B, answer_b)] {
        while let Some(batch) = options.stop.within(async { Ok(rows.next().await) }).await? {
            let batch = batch?;
            differ = blocking(move || {
                differ.push(side, &batch)?;
                Ok(differ)
            })
            .await?;
        }
    }
    let stop = options.stop.clone();
    let diff = blocking(move || {
        while differ.compare_next()?.is_some() {
            stop.check()?;
        }
        differ.finish()
    })
    .await?;
    Ok(Judgement::Compared(Box::new(Judged {
        view: of_a.view.name().to_owned(),
        a: a.clone(),
        b: b.clone(),
        generations: [of_a.generation.0, of_b.generation.0],
        head: of_a.head.clone(),
        sample: options.sample,
        grain,
        diff,
    })))
}

/// A sample of the keys that two generations have.
fn sampled(a: &View, b: &View, share: f64) -> Result<KeySample> {
    let (keys_a, keys_b) = (a.fingerprint()?.keys, b.fingerprint()?.keys);
    if keys_a.is_empty() || keys_b.is_empty() {
        return Err(Error::Invalid(
            "a view without keys has none to sample by; compare it without `--sample`".to_owned(),
        ));
    }
    if keys_a != keys_b {
        return Err(Error::Invalid(
            "the two group by other keys, or in another order, so that a sample of the one is none of the other; compare them without `--sample`".to_owned(),
        ));
    }
    Ok(KeySample { share, seed: 0 })
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields = fields.map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The rows of a generation: as they are, or merged to the keys that both have.
fn statement(
    relation: &str,
    view: &View,
    keys: &[String],
    common: &[String],
    only_where: Option<&str>,
) -> String {
    let relation = match relation.split_once('.') {
        Some((schema, name)) => format!("{}.{}", quoted(schema), quoted(name)),
        None => quoted(relation),
    };
    let condition = only_where.map_or(String::new(), |only| format!(" WHERE {only}"));
    if keys.len() == common.len() {
        return format!("SELECT * FROM {relation}{condition}");
    }
    let schema = view.schema();
    let columns = view.roles().into_iter().zip(schema.fields());
    let merged = columns.filter_map(|(role, field)| {
        let name = quoted(field.name());
        let combines = matches!(
            role,
            anabranch_shared::view::Role::Aggregate { combines: true, .. }
        );
        combines.then(|| format!("combine({name}) AS {name}"))
    });
    let keys: Vec<String> = common.iter().map(|k| quoted(k)).collect();
    let all: Vec<String> = keys.iter().cloned().chain(merged).collect();
    let group = match keys.is_empty() {
        true => String::new(),
        false => format!(" GROUP BY {}", keys.join(", ")),
    };
    format!(
        "SELECT {} FROM {relation}{condition}{group}",
        all.join(", ")
    )
}

/// Refuses a gate that names what it can't judge.
///
/// # Errors
/// `Invalid` for a column that the view has not, or whose values have no total.
pub fn check_gate(gate: &GateSettings, view: &View) -> Result<()> {
    let schema = view.schema();
    for (name, limits) in gate.columns.iter().filter(|(name, _)| *name != "*") {
        let of = format!("`[views.{}.gate.columns.{name}]`", view.name());
        let Ok(field) = schema.field_with_name(name) else {
            let columns = schema.fields().iter().map(|f| f.name().as_str());
            let near = nearest(name, columns)
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            return Err(Error::Invalid(format!(
                "{of}: the view has no column `{name}`{near}"
            )));
        };
        if limits.total_changed.is_some() && !field.data_type().is_numeric() {
            return Err(Error::Invalid(format!(
                "{of}: `total_changed` is of numbers, and the column is {}; take it out",
                sql_type(field.data_type())
            )));
        }
    }
    Ok(())
}

/// The limits of a gate that a difference goes past.
pub fn broken(gate: &GateSettings, diff: &Diff) -> Vec<Broken> {
    let (both, a) = (diff.rows_of_both(), diff.rows_a);
    let mut found = vec![
        rows("rows_changed", gate.rows_changed, diff.changed, both),
        rows("keys_lost", gate.keys_lost, diff.only_a, a),
        rows("keys_new", gate.keys_new, diff.only_b, a),
    ];
    for column in &diff.columns {
        if let Some(limits) = gate.of_column(&column.name) {
            let name = |what: &str| format!("columns.{}.{what}", column.name);
            found.push(rows(
                &name("rows_changed"),
                limits.rows_changed,
                column.changed,
                both,
            ));
            found.push(total(&name("total_changed"), limits.total_changed, column));
        }
    }
    found.into_iter().flatten().collect()
}

/// A limit of rows, where `part` of `whole` goes past it.
fn rows(name: &str, limit: Option<Limit>, part: u64, whole: u64) -> Option<Broken> {
    let (some, all) = (part as f64, whole as f64);
    let limit = limit.filter(|limit| limit.is_over(some, all))?;
    let share = match whole {
        0 => String::new(),
        _ => format!(" ({:.2}%)", some / all * 100.0),
    };
    Some(Broken {
        limit: name.to_owned(),
        allowed: limit.to_string(),
        found: format!("{part} of {}{share}", counted(whole, "row", "rows")),
    })
}

/// A limit of a column's total, where its change goes past it. One that is no number any more does.
fn total(name: &str, limit: Option<Limit>, column: &ColumnDiff) -> Option<Broken> {
    let (a, b) = (column.total_a?, column.total_b?);
    let is_over = |limit: &Limit| match a.is_nan() || b.is_nan() {
        true => a.is_nan() != b.is_nan(),
        false => limit.is_over((b - a).abs(), a.abs()),
    };
    let limit = limit.filter(is_over)?;
    let share = column
        .total_changed()
        .map_or_else(String::new, |share| format!(" ({:+.2}%)", share * 100.0));
    let [before, after] = [a, b].map(human_number);
    Some(Broken {
        limit: name.to_owned(),
        allowed: limit.to_string(),
        found: format!("a total of {after} after {before}{share}"),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use anabranch_shared::settings::ColumnGate;

    use super::*;
    use crate::work::diff::ColumnDiff;

    #[test]
    fn a_gate_names_what_goes_past_it() {
        let diff = Diff {
            rows_a: 100,
            rows_b: 101,
            only_a: 1,
            only_b: 2,
            changed: 10,
            columns: vec![ColumnDiff {
                name: "views".into(),
                changed: 10,
                total_a: Some(1_000.0),
                total_b: Some(980.0),
                compared: None,
            }],
            ..Diff::default()
        };
        let column = ColumnGate {
            total_changed: Some(Limit::Percent(1.0)),
            rows_changed: Some(Limit::Count(10)),
        };
        let gate = GateSettings {
            rows_changed: Some(Limit::Percent(5.0)),
            keys_lost: Some(Limit::Count(0)),
            keys_new: Some(Limit::Percent(2.0)),
            only_where: None,
            columns: BTreeMap::from([("*".to_owned(), column)]),
        };
        let found: Vec<String> = broken(&gate, &diff).into_iter().map(|b| b.limit).collect();
        assert_eq!(
            found,
            ["rows_changed", "keys_lost", "columns.views.total_changed"]
        );
        assert!(broken(&GateSettings::default(), &diff).is_empty());
        // What is no number any more has no total to be near to.
        let mut diff = diff;
        diff.columns[0].total_b = Some(f64::NAN);
        assert!(
            broken(&gate, &diff)
                .iter()
                .any(|b| b.found.starts_with("a total of NaN"))
        );
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
