//! `anabranch step test`: whether a step makes the same of a fact however it is given it.

use std::sync::Arc;
use std::time::Instant;

use anabranch_shared::settings::{StepRuns, StepSettings};
use anabranch_shared::{Error, OFFSET, PARTITION, Result, Topic, counted, nearest};
use anabranch_speed::{StepOptions, Trial, TrialOf, try_step};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Int32Type, Int64Type};
use clap::Subcommand;
use serde::Serialize;

use crate::clock::now_us;
use crate::commands::FOUND_WRONG;
use crate::commands::printing::Printing;
use crate::node::open::step_options;
use crate::project::context::Context;

/// Differences of one kind that are shown.
const EXAMPLES: usize = 3;

/// Facts of a batch, where it is tried with other batches than it has: no divisor of any.
const ODD_BATCH: usize = 97;

/// Processes, where it is tried with more than it has.
const PROCESSES: usize = 4;

/// What is done with a step.
#[derive(Debug, Subcommand)]
pub enum StepCommand {
    /// Runs a step over the newest landed facts of its topic, again, with other batches, and in one and
    /// four processes; lands nothing; exit code 1 where it does not make the same of a fact each time
    #[command(
        after_help = "Examples:\n  anabranch step test clean\n  anabranch step test clean --sample 100000"
    )]
    Test {
        /// The step
        step: String,
        /// How many facts it is tried on, at most
        #[arg(long, default_value_t = 10_000, value_name = "COUNT")]
        sample: usize,
        /// Shows what it makes of the first facts
        #[arg(long, value_name = "COUNT", default_value_t = 0)]
        show: usize,
    },
}

/// A fact of which not always the same was made.
#[derive(Debug, Serialize)]
struct Difference {
    offset: i64,
    first: Vec<String>,
    then: Vec<String>,
}

/// One way in which the step was tried.
#[derive(Debug, Serialize)]
struct Way {
    way: String,
    /// The facts of which it made something else than at first.
    differing: u64,
    examples: Vec<Difference>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    step: String,
    partition: i32,
    facts: u64,
    records: u64,
    refused: u64,
    /// How long it took over them, with its start, in seconds.
    seconds: f64,
    /// Why nothing is made of the first fact that is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shown: Vec<Difference>,
    ways: Vec<Way>,
}

/// Runs the command.
pub(crate) async fn run(command: StepCommand, context: &Context, printing: Printing) -> Result<u8> {
    let StepCommand::Test { step, sample, show } = command;
    let options = step_options(context, settings_of(context, &step)?)?;
    let (partition, facts) = newest_facts(context, &options.settings.from, sample).await?;
    let report = try_ways(context, &options, (partition, facts), show).await?;
    printing.either(|| text(&report), &report)?;
    let differs = report.ways.iter().any(|w| w.differing > 0);
    Ok(if differs { FOUND_WRONG } else { 0 })
}

fn settings_of<'a>(context: &'a Context, name: &str) -> Result<&'a StepSettings> {
    let steps = &context.project.steps;
    steps.iter().find(|s| s.name == name).ok_or_else(|| {
        let near = nearest(name, steps.iter().map(|s| s.name.as_str()));
        let advice = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        Error::NotFound(format!("no step `{name}` is in the project{advice}"))
    })
}

/// The newest landed facts of a topic's partition, in the topic's columns.
async fn newest_facts(context: &Context, topic: &str, most: usize) -> Result<(i32, RecordBatch)> {
    let log = context.log(topic).await?;
    let (declared, schema) = log.declared();
    let (_, mut files) = log.kept_files(&log.head())?;
    let none = || {
        Error::NotFound(format!(
            "topic `{topic}` has no landed facts to try the step on; send some, and wait until they have landed"
        ))
    };
    let newest = files
        .iter()
        .max_by_key(|f| f.add.modification_time)
        .ok_or_else(none)?;
    let (partition, _) = newest.wanted.first().copied().ok_or_else(none)?;
    files.retain(|f| f.wanted.iter().any(|(p, _)| *p == partition));
    let mut batches = Vec::new();
    let mut rows = 0;
    while rows < most
        && let Some(file) = files.pop()
    {
        let mut of_file = Vec::new();
        for batch in log
            .read_file(&file, &schema, &declared.late_reads())
            .await?
        {
            let batch = batch?;
            let column = batch.column_by_name(PARTITION);
            let column = column.and_then(|c| c.as_primitive_opt::<Int32Type>());
            let is_of = column.map(|c| c.values().iter().map(|p| Some(*p == partition.0)));
            let is_of: BooleanArray = is_of.into_iter().flatten().collect();
            let kept = filter_record_batch(&batch, &is_of)?;
            rows += kept.num_rows();
            of_file.push(kept);
        }
        batches.push(of_file);
    }
    let in_order: Vec<RecordBatch> = batches.into_iter().rev().flatten().collect();
    let facts = concat_batches(&schema, &in_order)?;
    let from = facts.num_rows().saturating_sub(most);
    let facts = facts.slice(from, facts.num_rows() - from);
    if facts.num_rows() == 0 {
        return Err(none());
    }
    Ok((partition.0, facts))
}

async fn try_ways(
    context: &Context,
    options: &StepOptions,
    (partition, facts): (i32, RecordBatch),
    show: usize,
) -> Result<Report> {
    let settings = &options.settings;
    let (batch, processes) = match &settings.runs {
        StepRuns::Program(program) => (program.batch, program.processes),
        StepRuns::Sql(_) => (facts.num_rows(), 1),
    };
    let as_is = TrialOf { batch, processes };
    let mut ways = vec![
        ("again".to_owned(), as_is),
        (
            format!("in batches of {ODD_BATCH} facts"),
            TrialOf {
                batch: ODD_BATCH,
                processes,
            },
        ),
    ];
    if matches!(settings.runs, StepRuns::Program(_)) {
        let other = if processes == 1 { PROCESSES } else { 1 };
        let what = counted(other as u64, "process", "processes");
        let of = TrialOf {
            batch,
            processes: other,
        };
        ways.push((format!("in {what}"), of));
    }
    let topic = |name: &str| -> Result<Arc<Topic>> {
        Ok(Arc::new(Topic::from_settings(
            context.topic_settings(name)?,
        )))
    };
    let (from, to) = (
        context.log(&settings.from).await?.topic(),
        topic(&settings.to)?,
    );
    let storage = context.storage.clone();
    let (options, name) = (options.clone(), settings.name.clone());
    let offsets = offsets(&facts);
    let of = facts.num_rows() as u64;
    // Programs are waited for.
    let tried = tokio::task::spawn_blocking(move || -> Result<_> {
        let attempt = |how| try_step(&options, (&from, &to), &storage, now_us, &facts, how);
        let begun = Instant::now();
        let first = attempt(as_is)?;
        let took = begun.elapsed().as_secs_f64();
        let mut compared = Vec::new();
        for (way, how) in ways {
            compared.push(compare(way, &first, &attempt(how)?));
        }
        Ok((first, took, compared))
    });
    let tried = tried.await.map_err(|e| Error::Internal(e.to_string()))?;
    let (first, seconds, ways) = tried?;
    let refusals: Vec<&String> = first
        .values()
        .filter_map(|made| made.as_ref().err())
        .collect();
    let shown = offsets.into_iter().take(show).map(|offset| Difference {
        offset,
        first: said(&first, offset),
        then: Vec::new(),
    });
    Ok(Report {
        step: name,
        partition,
        facts: of,
        records: first.values().flatten().map(|made| made.len() as u64).sum(),
        refused: refusals.len() as u64,
        seconds,
        refusal: refusals.first().map(|why| (*why).clone()),
        shown: shown.collect(),
        ways,
    })
}

fn offsets(facts: &RecordBatch) -> Vec<i64> {
    let column = facts.column_by_name(OFFSET);
    let column = column.and_then(|c| c.as_primitive_opt::<Int64Type>());
    column.map(|c| c.values().to_vec()).unwrap_or_default()
}

/// What was made of a fact. A fact over which it failed is the same whatever it said.
fn said(trial: &Trial, offset: i64) -> Vec<String> {
    match trial.get(&offset) {
        None => Vec::new(),
        Some(Ok(made)) => made.clone(),
        Some(Err(_)) => vec!["refused".to_owned()],
    }
}

fn compare(way: String, first: &Trial, then: &Trial) -> Way {
    let mut all: Vec<i64> = first.keys().chain(then.keys()).copied().collect();
    all.sort_unstable();
    all.dedup();
    let differing: Vec<i64> = all
        .into_iter()
        .filter(|offset| said(first, *offset) != said(then, *offset))
        .collect();
    let example = |offset: &i64| Difference {
        offset: *offset,
        first: said(first, *offset),
        then: said(then, *offset),
    };
    Way {
        way,
        differing: differing.len() as u64,
        examples: differing.iter().take(EXAMPLES).map(example).collect(),
    }
}

fn text(report: &Report) -> String {
    let list = |records: &[String]| match records.is_empty() {
        true => "nothing".to_owned(),
        false => records.join(" "),
    };
    let mut text = format!(
        "step `{}` made {} of {} of partition {} in {:.2} s",
        report.step,
        counted(report.records, "record", "records"),
        counted(report.facts, "fact", "facts"),
        report.partition,
        report.seconds
    );
    if let Some(why) = &report.refusal {
        text += &format!(", and refused {}; the first: {why}", report.refused);
    }
    text += "\n";
    for shown in &report.shown {
        text += &format!("  {}  {}\n", shown.offset, list(&shown.first));
    }
    for way in &report.ways {
        match way.differing {
            0 => text += &format!("the same {}\n", way.way),
            differing => {
                let facts = counted(differing, "fact", "facts");
                text += &format!("NOT the same {}, of {facts}:\n", way.way);
                for example in &way.examples {
                    text += &format!(
                        "  offset {}\n    first  {}\n    then   {}\n",
                        example.offset,
                        list(&example.first),
                        list(&example.then)
                    );
                }
            }
        }
    }
    if report.ways.iter().any(|w| w.differing > 0) {
        text += "What lands first is what counts, so answers stay exact; but a rebuilt topic would differ.\n";
    }
    text
}
