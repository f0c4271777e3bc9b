//! A program with which Storm's multi-language protocol is spoken, as bolts speak it that were written
//! for Storm: JSON messages, each followed by a line `end`.
//!
//! A fact is a tuple whose values are the declared fields of its topic, in their order; what the bolt
//! emits are values of the declared fields of the topic that facts are made of. An emission belongs to
//! the tuple that it is anchored to, or else to the oldest one that is not acknowledged. A tuple that
//! fails is given again, and after some times refused.
//!
//! Protocol: <https://storm.apache.org/releases/2.8.3/Multilang-protocol.html>

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anabranch_shared::Topic;
use arrow::array::RecordBatch;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::maker::{Fault, Made, Maker, Records, offsets};
use super::process::{Process, Program};
use crate::intake::admission::raw_rows;

/// What ends a message.
const END: &[u8] = b"end\n";

/// The longest message that a bolt may write, in bytes.
const MESSAGE_BYTES: usize = 64 << 20;

/// So many tuples are given before the first of them is acknowledged: a bolt that waits for the tasks
/// of an emission reads and keeps all that come before them.
const WINDOW: usize = 256;

/// How long nothing is heard before the bolt is asked whether it lives, and given a tick, on which
/// bolts that gather tuples go on.
const QUIET: Duration = Duration::from_secs(1);

/// How often a tuple is given that the bolt fails.
const TRIES: u32 = 3;

/// The stream whose tuples become facts.
const DEFAULT_STREAM: &str = "default";

/// The numbers of the tasks: of what the tuples come from, of the bolt, of what it emits to.
const TASKS: [i64; 3] = [1, 2, 3];

/// A bolt, begun when it is needed.
pub(super) struct StormMaker {
    program: Program,
    from: String,
    /// The fields of a tuple, as it was begun with.
    fields: Vec<String>,
    to: Arc<Topic>,
    running: Option<Running>,
    begun: u64,
}

struct Running {
    process: Process,
    messages: Option<Sender<Vec<u8>>>,
    heard: Receiver<Heard>,
    /// Where the bolt says by an empty file that it has begun.
    _pids: TempDir,
}

enum Heard {
    Message(Value),
    Wrong(String),
}

/// Tuples that a bolt has and has not acknowledged, and what it has emitted of them.
#[derive(Default)]
struct Open {
    /// Their offsets in the order in which they were given.
    order: VecDeque<i64>,
    emitted: BTreeMap<i64, Vec<Vec<u8>>>,
    tries: BTreeMap<i64, u32>,
}

impl StormMaker {
    pub(super) fn new(program: Program, from: &Topic, to: Arc<Topic>) -> Self {
        Self {
            program,
            from: from.name.clone(),
            fields: from.fields.iter().map(|f| f.name.clone()).collect(),
            to,
            running: None,
            begun: 0,
        }
    }

    fn begin(&self) -> Result<Running, Fault> {
        let pids = tempfile::tempdir();
        let pids = pids.map_err(|e| Fault::Begin(format!("can't make a folder: {e}")))?;
        let (process, input, output) = Process::begin(&self.program)?;
        let (messages, to_write) = channel();
        let (said, heard) = channel();
        let name = format!("step-{}", self.program.step);
        let spawned = std::thread::Builder::new()
            .name(format!("{name}-in"))
            .spawn(move || write(input, &to_write))
            .and_then(|_| {
                std::thread::Builder::new()
                    .name(format!("{name}-out"))
                    .spawn(move || read(output, &said))
            });
        spawned.map_err(|e| Fault::Begin(format!("can't start a thread: {e}")))?;
        let mut running = Running {
            process,
            messages: Some(messages),
            heard,
            _pids: pids,
        };
        let greeting = self.greeting(&running);
        running.say(&greeting);
        let timeout = self.program.settings.timeout;
        match running.process.wait(&running.heard, timeout, false)? {
            Some(Heard::Message(answer)) if answer.get("pid").is_some() => Ok(running),
            Some(Heard::Message(other)) => {
                let shown = other.to_string().chars().take(200).collect::<String>();
                Err(running.process.failed(format!(
                    "it answered `{shown}` to the handshake, and not its `pid`"
                )))
            }
            Some(Heard::Wrong(why)) => Err(running.process.failed(why)),
            None => Err(running.process.failed("it gave no answer".into())),
        }
    }

    fn greeting(&self, running: &Running) -> Value {
        let [source, bolt, sink] = TASKS.map(|task| task.to_string());
        let step = &self.program.step;
        let timeout = self.program.settings.timeout.as_secs();
        let outputs: Vec<&str> = self.to.fields.iter().map(|f| f.name.as_str()).collect();
        json!({
            "conf": {
                "topology.name": step,
                "topology.message.timeout.secs": timeout.max(1),
                "topology.subprocess.timeout.secs": timeout.max(1),
                "topology.tick.tuple.freq.secs": QUIET.as_secs(),
                "topology.debug": false,
            },
            "pidDir": running._pids.path(),
            "context": {
                "taskid": TASKS[1],
                "componentid": step,
                "task->component": { source: self.from, bolt: step, sink: self.to.name },
                "stream->outputfields": { DEFAULT_STREAM: outputs },
                "stream->target->grouping": { DEFAULT_STREAM: { self.to.name.as_str(): { "type": "SHUFFLE" } } },
                "source->stream->fields": { self.from.as_str(): { DEFAULT_STREAM: self.fields } },
                "source->stream->grouping": { self.from.as_str(): { DEFAULT_STREAM: { "type": "SHUFFLE" } } },
            },
        })
    }

    /// The values of facts, as a tuple has them.
    fn tuples(&self, facts: &RecordBatch) -> Result<VecDeque<(i64, Value)>, Fault> {
        let wrong = |e: String| Fault::Facts(format!("its facts can't be written as JSON: {e}"));
        let rows = raw_rows(facts).map_err(|e| wrong(e.to_string()))?;
        let of = offsets(facts).into_iter().zip(rows);
        let tuples = of.map(|(offset, row)| {
            let mut row: Map<String, Value> =
                serde_json::from_slice(&row).map_err(|e| wrong(e.to_string()))?;
            let values = self
                .fields
                .iter()
                .map(|f| row.remove(f).unwrap_or_default());
            Ok((offset, Value::Array(values.collect())))
        });
        tuples.collect()
    }

    fn exchange(&self, running: &mut Running, facts: &RecordBatch) -> Result<Made, Fault> {
        let mut tuples = self.tuples(facts)?;
        let by_offset: BTreeMap<i64, Value> = tuples.iter().cloned().collect();
        let (mut open, mut made) = (Open::default(), Made::default());
        let limit = self.program.settings.timeout;
        let mut progress = Instant::now();
        let mut done: BTreeMap<i64, Vec<Vec<u8>>> = BTreeMap::new();
        loop {
            while open.order.len() < WINDOW
                && let Some((offset, values)) = tuples.pop_front()
            {
                open.order.push_back(offset);
                running.say(&self.tuple(offset, &values));
            }
            if open.order.is_empty() {
                break;
            }
            let heard = match running.process.wait(&running.heard, QUIET, true)? {
                Some(Heard::Message(message)) => message,
                Some(Heard::Wrong(why)) => return Err(running.process.failed(why)),
                None if progress.elapsed() >= limit => return Err(running.process.late(limit)),
                None => {
                    running.say(&system("__heartbeat", -1));
                    running.say(&system("__tick", -1));
                    continue;
                }
            };
            match self.hear(running, &mut open, &heard)? {
                Said::Nothing => {}
                Said::Acknowledged(offset) => {
                    progress = Instant::now();
                    done.insert(offset, open.emitted.remove(&offset).unwrap_or_default());
                }
                Said::Failed(offset) => {
                    progress = Instant::now();
                    open.emitted.remove(&offset);
                    let tries = open.tries.entry(offset).or_default();
                    *tries += 1;
                    match by_offset.get(&offset) {
                        Some(values) if *tries < TRIES => {
                            open.order.push_back(offset);
                            running.say(&self.tuple(offset, values));
                        }
                        _ => made
                            .refused
                            .push((offset, format!("it failed the tuple {TRIES} times"))),
                    }
                }
            }
        }
        for (offset, records) in done {
            for (ordinal, line) in (0..).zip(records) {
                made.of.push((offset, ordinal));
                made.records.push(Records::Lines(line));
            }
        }
        Ok(made)
    }

    fn tuple(&self, offset: i64, values: &Value) -> Value {
        json!({
            "id": offset.to_string(),
            "comp": self.from,
            "stream": DEFAULT_STREAM,
            "task": TASKS[0],
            "tuple": values,
        })
    }

    /// What a message of the bolt says of its tuples.
    fn hear(&self, running: &mut Running, open: &mut Open, heard: &Value) -> Result<Said, Fault> {
        let text = |key: &str| heard.get(key).and_then(Value::as_str);
        let step = self.program.step.as_str();
        let of = || {
            let id = heard.get("id")?;
            id.as_str()
                .and_then(|id| id.parse().ok())
                .or_else(|| id.as_i64())
        };
        match text("command") {
            Some("emit") => {
                let record = self
                    .record(heard)
                    .map_err(|why| running.process.failed(why))?;
                let anchors = heard.get("anchors").and_then(Value::as_array);
                let anchors = anchors.into_iter().flatten();
                let anchor = anchors.filter_map(|a| a.as_str()?.parse().ok()).max();
                let Some(offset) = anchor.or(open.order.front().copied()) else {
                    return Err(running.process.failed("it emitted without a tuple".into()));
                };
                if !open.order.contains(&offset) {
                    return Err(running.process.failed(format!(
                        "it emitted about tuple {offset}, which it was not given or has acknowledged"
                    )));
                }
                open.emitted.entry(offset).or_default().push(record);
                let wants = heard.get("need_task_ids").and_then(Value::as_bool);
                // Whoever emits to a task of its choice is told nothing.
                if wants != Some(false) && heard.get("task").is_none_or(Value::is_null) {
                    running.say(&json!([TASKS[2]]));
                }
                Ok(Said::Nothing)
            }
            Some(command @ ("ack" | "fail")) => {
                let place = of().and_then(|offset: i64| {
                    let place = open.order.iter().position(|o| *o == offset)?;
                    Some((offset, place))
                });
                let Some((offset, place)) = place else {
                    return Ok(Said::Nothing);
                };
                open.order.remove(place);
                Ok(match command {
                    "ack" => Said::Acknowledged(offset),
                    _ => Said::Failed(offset),
                })
            }
            Some("log") => {
                let said = text("msg").unwrap_or_default();
                match heard.get("level").and_then(Value::as_i64) {
                    Some(0) => tracing::trace!(step, "{said}"),
                    Some(1) => tracing::debug!(step, "{said}"),
                    Some(3) => tracing::warn!(step, "{said}"),
                    Some(4) => tracing::error!(step, "{said}"),
                    _ => tracing::info!(step, "{said}"),
                }
                Ok(Said::Nothing)
            }
            Some("error") => {
                let said = text("msg").unwrap_or_default();
                tracing::error!(step, "{said}");
                running.process.note(said);
                Ok(Said::Nothing)
            }
            Some("sync" | "metrics") => Ok(Said::Nothing),
            other => Err(running
                .process
                .failed(format!("it wrote the command {other:?}, which no bolt has"))),
        }
    }

    /// An emitted tuple as a record of the topic.
    fn record(&self, emission: &Value) -> Result<Vec<u8>, String> {
        let stream = emission.get("stream").and_then(Value::as_str);
        if let Some(other) = stream.filter(|s| *s != DEFAULT_STREAM) {
            return Err(format!(
                "it emitted to stream `{other}`, which leads nowhere; facts of topic `{}` are made of stream `{DEFAULT_STREAM}`",
                self.to.name
            ));
        }
        let values = emission.get("tuple").and_then(Value::as_array);
        let values = values.ok_or("it emitted no `tuple`")?;
        if values.len() > self.to.fields.len() {
            return Err(format!(
                "it emitted {} values, and topic `{}` has {} fields",
                values.len(),
                self.to.name,
                self.to.fields.len()
            ));
        }
        let named = self.to.fields.iter().zip(values);
        let record: Map<String, Value> = named.map(|(f, v)| (f.name.clone(), v.clone())).collect();
        let mut line = serde_json::to_vec(&record).map_err(|e| e.to_string())?;
        line.push(b'\n');
        Ok(line)
    }
}

/// What a bolt says of a tuple.
enum Said {
    Nothing,
    Acknowledged(i64),
    Failed(i64),
}

/// A tuple of Storm's own.
fn system(stream: &str, task: i64) -> Value {
    json!({ "id": "", "comp": "__system", "stream": stream, "task": task, "tuple": [QUIET.as_secs()] })
}

impl Running {
    /// Says something. Who does not read any more is known by what it says.
    fn say(&self, message: &Value) {
        let mut bytes = message.to_string().into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(END);
        if let Some(messages) = &self.messages {
            messages.send(bytes).ok();
        }
    }

    fn end(mut self) {
        self.messages = None;
        self.process.end();
    }
}

impl Drop for StormMaker {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
        }
    }
}

impl Maker for StormMaker {
    fn make(&mut self, facts: &RecordBatch) -> Result<Made, Fault> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => {
                self.begun += 1;
                self.begin().map_err(|fault| match fault {
                    Fault::Facts(why) | Fault::Killed(why) => Fault::Begin(why),
                    other => other,
                })?
            }
        };
        let made = self.exchange(&mut running, facts);
        match &made {
            Ok(_) => self.running = Some(running),
            Err(Fault::Facts(why) | Fault::Killed(why)) => {
                let step = self.program.step.as_str();
                tracing::warn!(step, error = %why, facts = facts.num_rows(), "the step failed; it is begun again");
            }
            Err(_) => {}
        }
        made
    }

    fn restarts(&self) -> u64 {
        self.begun.saturating_sub(1)
    }
}

/// Writes messages until there are no more, or nobody reads.
fn write(mut input: ChildStdin, messages: &Receiver<Vec<u8>>) {
    while let Ok(message) = messages.recv() {
        if let Err(error) = input.write_all(&message).and_then(|()| input.flush()) {
            tracing::debug!(%error, "what a step was given could not be written");
            return;
        }
    }
}

/// Reads messages until there are no more.
fn read(output: ChildStdout, said: &Sender<Heard>) {
    let mut output = BufReader::with_capacity(1 << 16, output);
    loop {
        let heard = match message(&mut output) {
            Ok(Some(message)) => Heard::Message(message),
            Ok(None) => Heard::Wrong("it ended".into()),
            Err(why) => Heard::Wrong(why),
        };
        let goes_on = matches!(heard, Heard::Message(_));
        if said.send(heard).is_err() || !goes_on {
            return;
        }
    }
}

/// The next message; `None` where nothing comes any more.
fn message(output: &mut impl BufRead) -> Result<Option<Value>, String> {
    let mut text = Vec::new();
    loop {
        let before = text.len();
        let left = (MESSAGE_BYTES - before) as u64;
        let read = output.by_ref().take(left).read_until(b'\n', &mut text);
        if !matches!(read, Ok(1..)) {
            return Ok(None);
        }
        if &text[before..] == END {
            break;
        }
        if text.len() >= MESSAGE_BYTES {
            return Err(format!(
                "it wrote a message of more than {MESSAGE_BYTES} bytes"
            ));
        }
    }
    text.truncate(text.len() - END.len());
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let shown = String::from_utf8_lossy(&text[..text.len().min(200)]).into_owned();
        format!(
            "it wrote `{}`, which is no message of JSON: {error}",
            shown.trim_end()
        )
    })
}
