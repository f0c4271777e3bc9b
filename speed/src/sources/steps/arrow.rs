//! A program with which streams of Arrow's IPC format are spoken.
//!
//! On standard input it gets a stream of batches in the columns of the topic that it takes facts of,
//! with their places as `_partition` and `_offset`. On standard output it writes a stream with the
//! columns of the topic that it makes facts of, and `_offset` for the fact that a row was made of;
//! perhaps `_ordinal` for the row's number among that fact's, and `_error` for why nothing is made of
//! the fact. A row whose `_offset` is NULL ends its answer to a batch; the first such row, before any
//! batch, says that it is ready. The schemas at the beginning of both streams are the handshake; that on
//! standard input says in its metadata what is spoken, and what the topic's columns are.
//!
//! Ends of answers are rows, and not batches without rows: a program that made nothing of a batch would
//! write one of these too many, and what belongs to the next batch would be lost.
//!
//! Format: <https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format>

use std::collections::{BTreeMap, HashMap};
use std::io::{BufReader, BufWriter, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use anabranch_shared::ipc::{IpcLimit, IpcStream};
use anabranch_shared::{OFFSET, Topic};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::{cast, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::maker::{Fault, Made, Maker, Records, lacks, of_topic, offsets};
use super::process::{Process, Program};

/// What is spoken, for the handshake.
const PROTOCOL: &str = "1";

/// The number of a record among those of its fact.
const ORDINAL: &str = "_ordinal";

/// Why nothing is made of a fact.
const ERROR: &str = "_error";

/// What one batch of an answer may take.
const ANSWER: IpcLimit = IpcLimit {
    bytes: 1 << 30,
    name: "the most of one batch of a step's answer",
};

/// A program that is spoken with by Arrow, begun when it is needed.
pub(super) struct ArrowMaker {
    program: Program,
    from: String,
    to: Arc<Topic>,
    running: Option<Running>,
    begun: u64,
}

struct Running {
    process: Process,
    /// The columns that it is given.
    schema: SchemaRef,
    batches: Option<Sender<RecordBatch>>,
    heard: Receiver<Heard>,
}

/// What a program said.
enum Heard {
    Schema(SchemaRef),
    /// What it answers to a batch.
    Answer(Vec<RecordBatch>),
    Wrong(String),
}

impl ArrowMaker {
    pub(super) fn new(program: Program, from: &str, to: Arc<Topic>) -> Self {
        Self {
            program,
            from: from.to_owned(),
            to,
            running: None,
            begun: 0,
        }
    }

    /// Begins the program, where it does not run with these columns.
    fn running(&mut self, schema: &SchemaRef) -> Result<&mut Running, Fault> {
        if let Some(running) = self.running.take_if(|running| running.schema != *schema) {
            running.end();
        }
        let running = match self.running.take() {
            Some(running) => running,
            None => {
                self.begun += 1;
                self.begin(schema).map_err(|fault| match fault {
                    Fault::Facts(why) | Fault::Killed(why) => Fault::Begin(why),
                    other => other,
                })?
            }
        };
        Ok(self.running.insert(running))
    }

    fn begin(&self, schema: &SchemaRef) -> Result<Running, Fault> {
        let (mut process, input, output) = Process::begin(&self.program)?;
        let (batches, to_write) = channel();
        let (said, heard) = channel();
        let greeting = self.greeting(schema).map_err(wrong)?;
        let name = format!("step-{}", self.program.step);
        let spawned = std::thread::Builder::new()
            .name(format!("{name}-in"))
            .spawn(move || write(input, &greeting, &to_write))
            .and_then(|_| {
                std::thread::Builder::new()
                    .name(format!("{name}-out"))
                    .spawn(move || read(output, &said))
            });
        spawned.map_err(|e| Fault::Begin(format!("can't start a thread: {e}")))?;
        let timeout = self.program.settings.timeout;
        for is_ready in [false, true] {
            match (is_ready, process.wait(&heard, timeout, false)?) {
                (false, Some(Heard::Schema(answers))) => {
                    if let Some(why) = self.refusal(&answers) {
                        return Err(Fault::Begin(why));
                    }
                }
                (true, Some(Heard::Answer(rows))) if rows.is_empty() => {}
                (_, Some(Heard::Wrong(why))) => return Err(process.failed(why)),
                _ => {
                    let why = "it did not begin with a schema and a row without `_offset`, which says that it is ready";
                    return Err(process.failed(why.into()));
                }
            }
        }
        Ok(Running {
            process,
            schema: schema.clone(),
            batches: Some(batches),
            heard,
        })
    }

    /// The columns of what the program is given, and what it should know.
    fn greeting(&self, schema: &SchemaRef) -> Result<SchemaRef, ArrowError> {
        let wanted: Vec<Field> = self.to.field_schema().fields().iter().map(plain).collect();
        let mut encoded = Vec::new();
        StreamWriter::try_new(&mut encoded, &Schema::new(wanted))?.finish()?;
        let metadata = HashMap::from([
            ("anabranch.protocol".to_owned(), PROTOCOL.to_owned()),
            ("anabranch.step".to_owned(), self.program.step.clone()),
            ("anabranch.from".to_owned(), self.from.clone()),
            ("anabranch.to".to_owned(), self.to.name.clone()),
            ("anabranch.to_schema".to_owned(), STANDARD.encode(encoded)),
        ]);
        let fields: Vec<Field> = schema.fields().iter().map(plain).collect();
        Ok(Arc::new(Schema::new_with_metadata(fields, metadata)))
    }

    /// Why a program with such answers can't go on, if it can't.
    fn refusal(&self, answers: &Schema) -> Option<String> {
        let spoken = answers.metadata().get("anabranch.protocol");
        if let Some(spoken) = spoken.filter(|spoken| *spoken != PROTOCOL) {
            return Some(format!(
                "it speaks version {spoken} of what steps speak, and this daemon {PROTOCOL}; use the module of this version"
            ));
        }
        match answers.field_with_name(OFFSET).map(Field::data_type) {
            Ok(DataType::Int64) => {}
            Ok(other) => {
                return Some(format!(
                    "its answers have `{OFFSET}` as {other}; give it as int64, as it came"
                ));
            }
            Err(_) => {
                return Some(format!(
                    "its answers have no column `{OFFSET}`, which says of which fact each row was made; give it as it came"
                ));
            }
        }
        lacks(answers, &self.to)
    }
}

impl Running {
    fn end(mut self) {
        // Its input ends, and then it.
        self.batches = None;
        self.process.end();
    }
}

impl Drop for ArrowMaker {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
        }
    }
}

impl Maker for ArrowMaker {
    fn make(&mut self, facts: &RecordBatch) -> Result<Made, Fault> {
        let timeout = self.program.settings.timeout;
        let step = self.program.step.clone();
        let running = self.running(facts.schema_ref())?;
        // What it says unasked would be taken for what it says of these facts.
        let unasked = running.heard.try_recv().is_ok();
        let sent = running.batches.as_ref().filter(|_| !unasked);
        let sent = sent.map(|b| b.send(facts.clone()));
        let answer = match sent {
            Some(Ok(())) => running.process.wait(&running.heard, timeout, false),
            None if unasked => Err(running
                .process
                .failed("it answered without being asked".into())),
            _ => Err(running.process.failed("it ended".into())),
        };
        let made = match answer {
            Ok(Some(Heard::Answer(batches))) => {
                made(facts, batches).map_err(|why| running.process.failed(why))
            }
            Ok(Some(Heard::Wrong(why))) => Err(running.process.failed(why)),
            Ok(Some(Heard::Schema(_)) | None) => {
                Err(running.process.failed("it gave no answer".into()))
            }
            Err(fault) => Err(fault),
        };
        if let Err(Fault::Facts(why) | Fault::Killed(why)) = &made {
            // What it would say next is of these facts; another one begins.
            tracing::warn!(step, error = %why, facts = facts.num_rows(), "the step failed; it is begun again");
            self.running = None;
        }
        made
    }

    fn restarts(&self) -> u64 {
        self.begun.saturating_sub(1)
    }
}

fn wrong(error: ArrowError) -> Fault {
    Fault::Begin(error.to_string())
}

/// A column in a type that every implementation of Arrow has.
fn plain(field: &Arc<Field>) -> Field {
    let data_type = match field.data_type() {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => DataType::List(Arc::new(plain(item))),
        other => other.clone(),
    };
    Field::new(field.name(), data_type, field.is_nullable())
}

/// Writes batches until there are no more, or nobody reads.
fn write(input: ChildStdin, schema: &SchemaRef, batches: &Receiver<RecordBatch>) {
    let written = (|| -> Result<(), ArrowError> {
        let mut writer = StreamWriter::try_new(BufWriter::with_capacity(1 << 16, input), schema)?;
        writer.get_mut().flush()?;
        while let Ok(batch) = batches.recv() {
            let columns = batch.columns().iter().zip(schema.fields());
            let columns = columns.map(|(column, field)| cast(column, field.data_type()));
            let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
            writer.write(&RecordBatch::try_new(schema.clone(), columns)?)?;
            writer.get_mut().flush()?;
        }
        writer.finish()?;
        writer.get_mut().flush()?;
        Ok(())
    })();
    // Who ended without reading is known by its output.
    if let Err(error) = written {
        tracing::debug!(%error, "what a step was given could not be written");
    }
}

/// Reads answers until there are no more.
fn read(output: ChildStdout, said: &Sender<Heard>) {
    let say = |heard| said.send(heard).is_ok();
    let ended = || Heard::Wrong("it ended".to_owned());
    let garbage = |error: ArrowError| match error {
        ArrowError::IoError(_, _) => ended(),
        ArrowError::IpcError(text) if text.contains("cut off") => ended(),
        error => Heard::Wrong(format!(
            "what it wrote to standard output is no stream of Arrow: {error}"
        )),
    };
    let mut stream = match IpcStream::open(BufReader::with_capacity(1 << 16, output), ANSWER) {
        Ok(stream) => stream,
        Err(error) => {
            say(garbage(error));
            return;
        }
    };
    let Some(schema) = stream.schema() else {
        say(ended());
        return;
    };
    if !say(Heard::Schema(schema)) {
        return;
    }
    let mut answer = Vec::new();
    loop {
        let heard = match stream.next() {
            Some(Ok(batch)) => {
                let rows = batch.num_rows();
                let ends = rows > 0 && is_end(&batch);
                if rows > usize::from(ends) {
                    answer.push(batch.slice(0, rows - usize::from(ends)));
                }
                if !ends {
                    continue;
                }
                Heard::Answer(std::mem::take(&mut answer))
            }
            Some(Err(error)) => garbage(error),
            None => ended(),
        };
        let goes_on = matches!(heard, Heard::Answer(_));
        if !say(heard) || !goes_on {
            return;
        }
    }
}

/// Whether the last row of some ends an answer.
fn is_end(rows: &RecordBatch) -> bool {
    let offsets = rows.column_by_name(OFFSET);
    offsets.is_some_and(|o| o.is_null(o.len() - 1))
}

/// What a program's answer says was made of facts.
fn made(facts: &RecordBatch, answer: Vec<RecordBatch>) -> Result<Made, String> {
    let known = offsets(facts);
    let mut made = Made::default();
    let mut counted: BTreeMap<i64, i64> = BTreeMap::new();
    for batch in answer {
        let batch = without_refused(batch, &known, &mut made.refused)?;
        let of = int64(&batch, OFFSET)?.ok_or("its answer has no `_offset`")?;
        let ordinals = int64(&batch, ORDINAL)?;
        for row in 0..batch.num_rows() {
            if of.is_null(row) || known.binary_search(&of.value(row)).is_err() {
                let shown = (!of.is_null(row)).then(|| of.value(row).to_string());
                return Err(format!(
                    "it answered about offset {}, which it was not given",
                    shown.unwrap_or("NULL".into())
                ));
            }
            let next = counted.entry(of.value(row)).or_default();
            let ordinal = match &ordinals {
                Some(ordinals) if ordinals.is_valid(row) => ordinals.value(row),
                _ => *next,
            };
            *next += 1;
            made.of.push((of.value(row), ordinal));
        }
        let rows = of_topic(&batch).map_err(|e| e.to_string())?;
        made.records.push(Records::Rows(rows));
    }
    Ok(made)
}

fn int64(batch: &RecordBatch, name: &str) -> Result<Option<Int64Array>, String> {
    let Some(column) = batch.column_by_name(name) else {
        return Ok(None);
    };
    let column = cast(column, &DataType::Int64).map_err(|e| format!("`{name}`: {e}"))?;
    Ok(Some(column.as_primitive::<Int64Type>().clone()))
}

/// The rows of an answer, without those of facts of which nothing is made, which are noted.
fn without_refused(
    batch: RecordBatch,
    known: &[i64],
    refused: &mut Vec<(i64, String)>,
) -> Result<RecordBatch, String> {
    let Some(errors) = batch.column_by_name(ERROR) else {
        return Ok(batch);
    };
    let errors = cast(errors, &DataType::Utf8).map_err(|e| format!("`{ERROR}`: {e}"))?;
    let errors = errors.as_string::<i32>();
    if errors.null_count() == errors.len() {
        return Ok(batch);
    }
    let of = int64(&batch, OFFSET)?.ok_or("its answer has no `_offset`")?;
    for row in (0..batch.num_rows()).filter(|row| errors.is_valid(*row)) {
        if of.is_valid(row) && known.binary_search(&of.value(row)).is_ok() {
            refused.push((of.value(row), errors.value(row).to_owned()));
        }
    }
    let kept = (0..batch.num_rows()).map(|row| Some(errors.is_null(row)));
    let kept: BooleanArray = kept.collect();
    filter_record_batch(&batch, &kept).map_err(|e| e.to_string())
}

/// The rows of a batch in another order.
pub(super) fn in_order(rows: &RecordBatch, order: &[u64]) -> Result<RecordBatch, ArrowError> {
    take_record_batch(rows, &UInt64Array::from(order.to_vec()))
}
