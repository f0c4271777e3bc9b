//! A step for tests: makes of the fact with number `id` so many as `id` modulo 3, in either protocol, and
//! misbehaves as its arguments say.
//!
//! `step arrow|storm [WHAT[=FACT]]… [FOLDER]`: WHAT is done when the fact of that number comes; with a
//! folder only where no earlier process has done it, which a file there says.

use std::io::{BufRead, Read, Write, stdin, stdout};
use std::path::PathBuf;
use std::process::exit;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use serde_json::{Value, json};

/// How it misbehaves, and over which fact.
struct Misdeed {
    what: String,
    fact: i64,
}

struct Step {
    misdeeds: Vec<Misdeed>,
    folder: Option<PathBuf>,
}

impl Step {
    /// What is to be done over facts, once where there is a folder.
    fn misdeed(&self, facts: &[i64]) -> Option<&str> {
        let due = self.misdeeds.iter().find(|m| facts.contains(&m.fact))?;
        if let Some(folder) = &self.folder {
            let mut new = std::fs::OpenOptions::new();
            let name = format!("{}-{}", due.what, due.fact);
            new.write(true)
                .create_new(true)
                .open(folder.join(name))
                .ok()?;
        }
        Some(&due.what)
    }

    /// What it does where it does not come back, or only late.
    fn act(&self, what: &str) {
        match what {
            "exit" => {
                eprintln!("the end is near");
                exit(3)
            }
            "abort" => std::process::abort(),
            "hang" => std::thread::sleep(Duration::from_secs(3_600)),
            "slow" => std::thread::sleep(Duration::from_millis(300)),
            "leak" => {
                let mut all: Vec<Vec<u8>> = Vec::new();
                loop {
                    all.push(vec![1; 16 << 20]);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            "garbage" => {
                stdout().write_all(&[0xff; 4_096]).ok();
                stdout().flush().ok();
            }
            "huge" => {
                // A message that says it is of exabytes.
                let mut message = vec![0xff; 4];
                message.extend(0x7fff_ffff_u32.to_le_bytes());
                stdout().write_all(&message).ok();
                stdout().flush().ok();
                std::thread::sleep(Duration::from_secs(3_600));
            }
            _ => {}
        }
    }

    fn arrow(&self) -> Result<()> {
        let input = StreamReader::try_new(stdin().lock(), None)?;
        let metadata = input.schema().metadata().clone();
        let told = |key: &str| metadata.get(key).map(String::as_str);
        if told("anabranch.protocol") != Some("1") || told("anabranch.to_schema").is_none() {
            bail!("the handshake says {metadata:?}");
        }
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let schema = Arc::new(Schema::new(vec![
            Field::new("_offset", DataType::Int64, true),
            Field::new("_error", DataType::Utf8, true),
            Field::new("ts", utc, true),
            Field::new("id", DataType::Int64, true),
            Field::new("part", DataType::Int32, true),
            Field::new("word", DataType::Utf8, true),
        ]));
        let mut output = StreamWriter::try_new(stdout().lock(), &schema)?;
        let nothing = schema
            .fields()
            .iter()
            .map(|f| new_null_array(f.data_type(), 1));
        let end = RecordBatch::try_new(schema.clone(), nothing.collect())?;
        output.write(&end)?;
        output.get_mut().flush()?;
        for batch in input {
            let batch = batch?;
            let column = |name: &str| batch.column_by_name(name).context(name.to_owned());
            let ids = column("id")?.as_primitive::<Int64Type>().clone();
            let offsets = column("_offset")?.as_primitive::<Int64Type>().clone();
            let times = column("ts")?
                .as_primitive::<TimestampMicrosecondType>()
                .clone();
            let words = column("word")?.as_string::<i32>().clone();
            let what = self.misdeed(ids.values()).unwrap_or("");
            self.act(what);
            let (mut of, mut error) = (Vec::new(), Vec::new());
            let (mut ts, mut id, mut part, mut word) = (vec![], vec![], vec![], vec![]);
            for row in 0..batch.num_rows() {
                let number = ids.value(row);
                let is_due = self.misdeeds.iter().any(|m| m.fact == number);
                let mut parts = number % 3;
                if what == "many" && is_due {
                    parts = 17;
                }
                let refused = what == "error" && is_due;
                if refused {
                    parts = 1;
                }
                for nth in 0..parts {
                    of.push(offsets.value(row));
                    error.push(refused.then_some("it is no good"));
                    ts.push(times.value(row));
                    // NULL can't be, and is a dead letter.
                    id.push((!(what == "null" && is_due)).then_some(number));
                    part.push(i32::try_from(nth)?);
                    word.push(words.is_valid(row).then(|| words.value(row).to_uppercase()));
                }
            }
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(of)),
                Arc::new(StringArray::from(error)),
                Arc::new(TimestampMicrosecondArray::from(ts).with_timezone("UTC")),
                Arc::new(Int64Array::from(id)),
                Arc::new(Int32Array::from(part)),
                Arc::new(StringArray::from(word)),
            ];
            let answer = RecordBatch::try_new(schema.clone(), columns)?;
            if what == "half" {
                let mut half = Vec::new();
                StreamWriter::try_new(&mut half, &schema)?.write(&answer)?;
                output
                    .get_mut()
                    .write_all(&half[half.len() / 2..half.len() - 7])?;
                output.get_mut().flush()?;
                exit(0);
            }
            output.write(&answer)?;
            output.write(&end)?;
            if what == "twice" {
                output.write(&answer)?;
                output.write(&end)?;
            }
            output.get_mut().flush()?;
            if what == "after" {
                exit(0);
            }
        }
        output.finish()?;
        output.get_mut().flush()?;
        Ok(())
    }

    fn storm(&self) -> Result<()> {
        let mut waiting = std::collections::VecDeque::new();
        let greeting = message()?.context("no greeting")?;
        let pids = greeting["pidDir"].as_str().context("no pidDir")?;
        let pid = std::process::id();
        std::fs::write(std::path::Path::new(pids).join(pid.to_string()), "")?;
        say(&json!({ "pid": pid }))?;
        loop {
            let tuple = match waiting.pop_front() {
                Some(tuple) => tuple,
                None => match message()? {
                    Some(tuple) => tuple,
                    None => return Ok(()),
                },
            };
            if tuple["stream"] == "__heartbeat" {
                say(&json!({ "command": "sync" }))?;
                continue;
            }
            if tuple["stream"] == "__tick" {
                continue;
            }
            let values = tuple["tuple"].as_array().context("no tuple")?;
            let [ts, id, word] = values.as_slice() else {
                bail!("a tuple of {} values", values.len());
            };
            let number = id.as_i64().context("no id")?;
            let what = self.misdeed(&[number]).unwrap_or("");
            self.act(what);
            if what == "fail" {
                say(&json!({ "command": "fail", "id": tuple["id"] }))?;
                continue;
            }
            say(&json!({ "command": "log", "msg": "a tuple", "level": 0 }))?;
            for nth in 0..number % 3 {
                let word = word.as_str().map(str::to_uppercase);
                let emitted = json!([ts, number, nth, word]);
                say(&json!({ "command": "emit", "tuple": emitted, "anchors": [tuple["id"]] }))?;
                // What comes before the tasks is for later.
                loop {
                    let answer = message()?.context("no tasks")?;
                    match answer.is_array() {
                        true => break,
                        false => waiting.push_back(answer),
                    }
                }
            }
            say(&json!({ "command": "ack", "id": tuple["id"] }))?;
        }
    }
}

fn say(message: &Value) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(format!("{message}\nend\n").as_bytes())?;
    Ok(out.flush()?)
}

fn message() -> Result<Option<Value>> {
    let mut text = String::new();
    let mut line = String::new();
    loop {
        line.clear();
        if stdin().lock().read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line == "end\n" {
            return Ok(Some(serde_json::from_str(&text)?));
        }
        text += &line;
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let protocol = arguments.next().unwrap_or_default();
    let mut step = Step {
        misdeeds: Vec::new(),
        folder: None,
    };
    for argument in arguments {
        match argument.split_once('=') {
            Some((what, fact)) => step.misdeeds.push(Misdeed {
                what: what.to_owned(),
                fact: fact.parse()?,
            }),
            None => step.folder = Some(argument.into()),
        }
    }
    match protocol.as_str() {
        "arrow" => step.arrow(),
        "storm" => step.storm(),
        "cat" => {
            let mut all = Vec::new();
            stdin().lock().read_to_end(&mut all)?;
            Ok(())
        }
        other => bail!("no protocol `{other}`"),
    }
}
