//! The steps of a project: which program, or SQL, makes the facts of one topic into facts of another.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::FieldType;
use super::choice::{choose, resolve};
use super::reader::{Reader, Table};
use super::table::{
    STEP_BATCH, STEP_FROM, STEP_GROUP_BY, STEP_MEMORY, STEP_MOST, STEP_PROCESSES, STEP_PROTOCOL,
    STEP_RUN, STEP_SQL, STEP_TIMEOUT, STEP_TO,
};
use super::topics::TopicSettings;
use super::value::{Found, Mismatch, SettingValue, quoted};
use super::views::sql_text;
use crate::nearest;

/// A chain of steps gives a fact at most so many places: what is left of the offsets numbers 2^40
/// facts of its first topic.
const MOST_OF_CHAIN: u64 = 1 << 23;

/// A step as it is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepSettings {
    /// Name: a-z, 0-9 and `_`, at most 63 characters.
    pub name: String,
    /// The topic whose facts it takes.
    pub from: String,
    /// The topic whose facts it makes; no other step makes facts of it, and it has no source.
    pub to: String,
    /// The most facts that it makes of one; at least 1.
    pub most: u32,
    /// What it runs.
    pub runs: StepRuns,
}

/// What a step runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepRuns {
    /// A program.
    Program(StepProgram),
    /// A SELECT over the topic that it takes facts of, row by row.
    Sql(String),
}

/// The program of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepProgram {
    /// The program and its arguments; never empty. It runs in the project's folder.
    pub command: Vec<String>,
    /// What is spoken with it.
    pub protocol: StepProtocol,
    /// How many run at once; at least 1.
    pub processes: usize,
    /// Facts that are alike in these fields go to the same process; where there are none they are
    /// divided evenly.
    pub group_by: Vec<String>,
    /// How long it may take over a batch.
    pub timeout: Duration,
    /// Bytes of memory that each process may take; at least 1.
    pub memory_bytes: u64,
    /// The most facts of a batch; at least 1.
    pub batch: usize,
}

/// What is spoken with a step's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepProtocol {
    /// Streams of Arrow's IPC format on standard input and output.
    Arrow,
    /// Storm's multi-language protocol, as bolts speak it.
    Storm,
}

impl SettingValue for StepProtocol {
    const TYPE: &'static str = "\"arrow\" or \"storm\"";
    const EXPECTED: &'static str = "`\"arrow\"` or `\"storm\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        choose(found, [Self::Arrow, Self::Storm])
    }

    fn write(&self) -> String {
        match self {
            Self::Arrow => quoted("arrow"),
            Self::Storm => quoted("storm"),
        }
    }
}

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command(Vec<String>);

impl SettingValue for Command {
    const TYPE: &'static str = "program";
    const EXPECTED: &'static str =
        "a program with its arguments, such as `[\"python3\", \"steps/clean.py\"]`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        match found {
            Found::Texts(texts) if texts.first().is_some_and(|t| !t.trim().is_empty()) => {
                Ok(Self(texts.clone()))
            }
            _ => Err(Mismatch::Plain),
        }
    }

    fn write(&self) -> String {
        let texts: Vec<String> = self.0.iter().map(|text| quoted(text)).collect();
        format!("[{}]", texts.join(", "))
    }
}

/// Reads a step; `None` where a problem is on record.
pub(super) fn read(
    reader: &mut Reader<'_>,
    dir: &Path,
    name: &str,
    table: &Table<'_>,
    topics: &[TopicSettings],
) -> Option<StepSettings> {
    let most = reader.value(table, &STEP_MOST).0;
    let program = program(reader, table);
    let sql = reader.optional(table, &STEP_SQL);
    let (run, from, to) = (
        reader.optional(table, &STEP_RUN),
        reader.required(table, &STEP_FROM).map(|f| f.0),
        reader.required(table, &STEP_TO).map(|t| t.0),
    );
    let of = |reader: &mut Reader<'_>, key: &str, topic: &Option<String>| {
        let topic = topic.as_deref()?;
        topic_of(reader, table, key, topic, topics)
    };
    let from_topic = of(reader, STEP_FROM.key, &from);
    let to_topic = of(reader, STEP_TO.key, &to);
    let runs = match (table.get(STEP_RUN.key), table.get(STEP_SQL.key)) {
        (Some(_), Some(written)) => {
            let message = format!("`{}` has both `run` and `sql`; take one out", table.header);
            reader.report(&written.span(), message);
            return None;
        }
        (Some(_), None) => StepRuns::Program(StepProgram {
            command: run?.0,
            ..program
        }),
        (None, Some(written)) => {
            for key in only_of_programs() {
                if let Some(value) = table.get(key) {
                    let message = format!(
                        "`{key}` in `{}` is of a program, and the step is SQL; take it out",
                        table.header
                    );
                    reader.report(&value.span(), message);
                }
            }
            let path = resolve(dir, Path::new(&sql?.0));
            let what = format!("step `{name}`");
            StepRuns::Sql(sql_text(reader, &path, &what, &written.span())?)
        }
        (None, None) => {
            let message = format!(
                "`{}` lacks `run`; write for example `run = {}`, or `sql`",
                table.header, STEP_RUN.absent.example
            );
            reader.report(&table.span, message);
            return None;
        }
    };
    if let StepRuns::Program(program) = &runs {
        check_group_by(reader, table, program, from_topic?);
    }
    let to_topic = to_topic?;
    let wrong = if from == to {
        Some("takes and makes facts of one topic; give it another `to`".to_owned())
    } else if to_topic.kafka.is_some() {
        Some(format!(
            "makes facts of topic `{}`, which come from Kafka; give it another `to`",
            to_topic.name
        ))
    } else {
        None
    };
    if let Some(wrong) = wrong {
        report(reader, table, STEP_TO.key, format!("step `{name}` {wrong}"));
        return None;
    }
    Some(StepSettings {
        name: name.to_owned(),
        from: from?,
        to: to?,
        most: u32::try_from(most).unwrap_or(u32::MAX),
        runs,
    })
}

/// The settings that mean nothing where a step is SQL.
fn only_of_programs() -> [&'static str; 6] {
    [
        STEP_PROTOCOL.key,
        STEP_PROCESSES.key,
        STEP_GROUP_BY.key,
        STEP_TIMEOUT.key,
        STEP_MEMORY.key,
        STEP_BATCH.key,
    ]
}

/// What is said of the program besides its command.
fn program(reader: &mut Reader<'_>, table: &Table<'_>) -> StepProgram {
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let group_by = reader.optional(table, &STEP_GROUP_BY);
    StepProgram {
        command: Vec::new(),
        protocol: reader.value(table, &STEP_PROTOCOL),
        processes: count(reader.value(table, &STEP_PROCESSES).0),
        group_by: group_by.map(|fields| fields.0).unwrap_or_default(),
        timeout: reader.value(table, &STEP_TIMEOUT),
        memory_bytes: reader.value(table, &STEP_MEMORY).0,
        batch: count(reader.value(table, &STEP_BATCH).0),
    }
}

fn report(reader: &mut Reader<'_>, table: &Table<'_>, key: &str, message: String) {
    let span = table
        .get(key)
        .map_or(table.span.clone(), |value| value.span());
    reader.report(&span, message);
}

fn topic_of<'t>(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    key: &str,
    topic: &str,
    topics: &'t [TopicSettings],
) -> Option<&'t TopicSettings> {
    let known = topics.iter().find(|t| t.name == topic);
    if known.is_none() {
        let advice = match nearest(topic, topics.iter().map(|t| t.name.as_str())) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "declare it in a `[topics.NAME]` table".to_owned(),
        };
        let message = format!(
            "`{key}` in `{}` must name a topic of the project, found `{topic}`; {advice}",
            table.header
        );
        report(reader, table, key, message);
    }
    known
}

fn check_group_by(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    program: &StepProgram,
    from: &TopicSettings,
) {
    for field in &program.group_by {
        let found = from.fields.iter().find(|f| f.name == *field);
        let wrong = match found.map(|f| &f.field_type) {
            None => {
                let names = from.fields.iter().map(|f| f.name.as_str());
                let advice = match nearest(field, names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "declare it there first".to_owned(),
                };
                format!(
                    "`group_by` in `{}` must name a field of topic `{}`, found `{field}`; {advice}",
                    table.header, from.name
                )
            }
            Some(FieldType::Real | FieldType::Double | FieldType::List(_)) => format!(
                "field `{field}` can't be compared exactly, so facts can't be divided by it; name a field of another type in `group_by`"
            ),
            Some(_) => continue,
        };
        report(reader, table, STEP_GROUP_BY.key, wrong);
    }
}

/// Refuses steps that make facts of one topic, that go in a circle, or that leave too few offsets.
pub(super) fn check_chains(
    reader: &mut Reader<'_>,
    steps: &[StepSettings],
    tables: &[(&str, Table<'_>)],
) {
    let mut by_to: BTreeMap<&str, &StepSettings> = BTreeMap::new();
    for step in steps {
        let Some((_, table)) = tables.iter().find(|(name, _)| *name == step.name) else {
            continue;
        };
        if let Some(other) = by_to.insert(&step.to, step) {
            let message = format!(
                "steps `{}` and `{}` both make facts of topic `{}`, which one alone can; give one another `to`",
                other.name, step.name, step.to
            );
            report(reader, table, STEP_TO.key, message);
        }
    }
    for step in steps {
        let Some((_, table)) = tables.iter().find(|(name, _)| *name == step.name) else {
            continue;
        };
        let (mut path, mut product, mut at) = (vec![step.to.as_str()], 1_u64, step);
        loop {
            product = product.saturating_mul(u64::from(at.most));
            path.insert(0, &at.from);
            if at.from == step.to {
                let message = format!(
                    "step `{}` is part of a circle: {}; take one of its steps out",
                    step.name,
                    path.join(" → ")
                );
                report(reader, table, STEP_FROM.key, message);
                return;
            }
            match by_to.get(at.from.as_str()) {
                // A circle that this step is no part of.
                Some(_) if path.len() > steps.len() + 1 => break,
                Some(before) => at = before,
                None => break,
            }
        }
        if product > MOST_OF_CHAIN {
            let message = format!(
                "up to step `{}` a fact may become {product} facts ({}), more than {MOST_OF_CHAIN}: their offsets would run out; lower `most`",
                step.name,
                path.join(" → ")
            );
            report(reader, table, STEP_MOST.key, message);
        }
    }
}
