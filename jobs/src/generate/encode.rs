//! Facts as NDJSON lines and as Arrow arrays.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Builder, RecordBatch, StringViewBuilder, StructArray,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::{DateTime, Datelike};

use super::pace::SECOND_US;
use super::posts::Posts;
use super::referrers::{Referrer, Referrers};
use super::{Action, Fact};

const DAY_S: u64 = 24 * 60 * 60;
const UTC: &str = "UTC";

/// Writes facts as lines of JSON, with nulls written out.
#[derive(Debug)]
pub(super) struct LineWriter {
    /// The start of a line up to and with the `Z`, of which a fact's time of day is overwritten.
    head: [u8; HEAD.len()],
    /// The day since 1970 that `head` names.
    day: u64,
}

const HEAD: [u8; 34] = *b"{\"ts\":\"1970-01-01T00:00:00.000000Z";
const YEAR: usize = 7;
const TIME: usize = YEAR + 11;

impl LineWriter {
    pub(super) fn new() -> Self {
        Self { head: HEAD, day: 0 }
    }

    pub(super) fn write(
        &mut self,
        fact: &Fact,
        posts: &Posts,
        referrers: &Referrers,
        out: &mut Vec<u8>,
    ) {
        self.set_time(fact.ts_us);
        out.extend_from_slice(&self.head);
        out.extend_from_slice(posts.ndjson(fact.post).as_bytes());
        write_reader(fact, posts, referrers, out);
        out.extend_from_slice(b"}\n");
    }

    /// Writes a fact of the newsroom's `events`, with its id.
    pub(super) fn write_event(
        &mut self,
        event_id: u64,
        fact: &Fact,
        posts: &Posts,
        referrers: &Referrers,
        out: &mut Vec<u8>,
    ) {
        self.set_time(fact.ts_us);
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"\",\"event_id\":\"");
        out.extend_from_slice(&hex(event_id));
        for part in ["\",\"site\":\"", posts.site(fact.post), ".example"] {
            out.extend_from_slice(part.as_bytes());
        }
        for part in ["\",\"url\":\"", posts.url(fact.post), "\",\"referrer\":"] {
            out.extend_from_slice(part.as_bytes());
        }
        write_reader(fact, posts, referrers, out);
        out.extend_from_slice(b"}\n");
    }

    fn set_time(&mut self, ts_us: u64) {
        let (seconds, micros) = (ts_us / SECOND_US, ts_us % SECOND_US);
        let (day, second) = (seconds / DAY_S, (seconds % DAY_S) as u32);
        if day != self.day {
            self.day = day;
            // Only the day needs a calendar, and it rarely changes.
            let date = DateTime::from_timestamp((day * DAY_S) as i64, 0).unwrap_or_default();
            let year = date.year().unsigned_abs();
            put_two(&mut self.head, YEAR, year / 100);
            put_two(&mut self.head, YEAR + 2, year % 100);
            put_two(&mut self.head, YEAR + 5, date.month());
            put_two(&mut self.head, YEAR + 8, date.day());
        }
        let micros = micros as u32;
        put_two(&mut self.head, TIME, second / 3600);
        put_two(&mut self.head, TIME + 3, second / 60 % 60);
        put_two(&mut self.head, TIME + 6, second % 60);
        put_two(&mut self.head, TIME + 9, micros / 10_000);
        put_two(&mut self.head, TIME + 11, micros / 100 % 100);
        put_two(&mut self.head, TIME + 13, micros % 100);
    }
}

/// What a reader does, from the referrer's value to the time engaged.
fn write_reader(fact: &Fact, posts: &Posts, referrers: &Referrers, out: &mut Vec<u8>) {
    match fact.referrer {
        Referrer::Direct => out.extend_from_slice(b"null"),
        Referrer::Listed(index) => write_quoted(referrers.get(index), out),
        Referrer::Post(post) => write_quoted(posts.url(post), out),
    }
    out.extend_from_slice(b",\"visitor\":\"");
    out.extend_from_slice(&hex(fact.visitor));
    let action: &[u8] = match fact.action {
        Action::PageView => b"\",\"action\":\"pageview\",\"engaged_ms\":",
        Action::Share => b"\",\"action\":\"share\",\"engaged_ms\":",
        Action::Heartbeat { .. } => b"\",\"action\":\"heartbeat\",\"engaged_ms\":",
    };
    out.extend_from_slice(action);
    match fact.action {
        Action::Heartbeat { engaged_ms } => write_number(engaged_ms, out),
        Action::PageView | Action::Share => out.extend_from_slice(b"null"),
    }
}

/// Nothing that the generator makes needs escaping in JSON.
fn write_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn write_number(number: u32, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 10];
    let mut start = digits.len();
    let mut rest = number;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

fn put_two(text: &mut [u8], at: usize, number: u32) {
    text[at] = b'0' + (number / 10) as u8;
    text[at + 1] = b'0' + (number % 10) as u8;
}

fn hex(value: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(value.to_be_bytes()) {
        pair[0] = hex_digit(byte >> 4);
        pair[1] = hex_digit(byte & 15);
    }
    digits
}

fn hex_digit(value: u8) -> u8 {
    b"0123456789abcdef"[usize::from(value & 15)]
}

/// The Arrow schema of the facts: [`super::FIELDS`] in Arrow's types.
pub fn schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8View, true);
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
    Arc::new(Schema::new(vec![
        Field::new("ts", time, false),
        Field::new("url", DataType::Utf8View, false),
        text("author"),
        text("section"),
        text("referrer"),
        text("visitor"),
        text("action"),
        Field::new("engaged_ms", DataType::Int64, true),
    ]))
}

/// Collects facts into one record batch.
#[derive(Debug)]
pub(super) struct BatchWriter {
    ts: TimestampMicrosecondBuilder,
    url: StringViewBuilder,
    author: StringViewBuilder,
    section: StringViewBuilder,
    referrer: StringViewBuilder,
    visitor: StringViewBuilder,
    action: StringViewBuilder,
    engaged_ms: Int64Builder,
}

impl BatchWriter {
    pub(super) fn with_capacity(facts: usize) -> Self {
        let text = || StringViewBuilder::with_capacity(facts);
        Self {
            ts: TimestampMicrosecondBuilder::with_capacity(facts).with_timezone(UTC),
            url: text(),
            author: text(),
            section: text(),
            referrer: text(),
            visitor: text(),
            action: text(),
            engaged_ms: Int64Builder::with_capacity(facts),
        }
    }

    pub(super) fn write(&mut self, fact: &Fact, posts: &Posts, referrers: &Referrers) {
        self.ts.append_value(fact.ts_us as i64);
        self.url.append_value(posts.url(fact.post));
        self.author.append_value(posts.author(fact.post));
        self.section.append_value(posts.section(fact.post));
        match fact.referrer {
            Referrer::Direct => self.referrer.append_null(),
            Referrer::Listed(index) => self.referrer.append_value(referrers.get(index)),
            Referrer::Post(post) => self.referrer.append_value(posts.url(post)),
        }
        let visitor = hex(fact.visitor);
        self.visitor
            .append_option(std::str::from_utf8(&visitor).ok());
        let (action, engaged_ms) = match fact.action {
            Action::PageView => ("pageview", None),
            Action::Share => ("share", None),
            Action::Heartbeat { engaged_ms } => ("heartbeat", Some(i64::from(engaged_ms))),
        };
        self.action.append_value(action);
        self.engaged_ms.append_option(engaged_ms);
    }

    pub(super) fn finish(mut self) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.ts.finish()),
            Arc::new(self.url.finish()),
            Arc::new(self.author.finish()),
            Arc::new(self.section.finish()),
            Arc::new(self.referrer.finish()),
            Arc::new(self.visitor.finish()),
            Arc::new(self.action.finish()),
            Arc::new(self.engaged_ms.finish()),
        ];
        // The columns are the schema's by construction, whatever the facts are.
        RecordBatch::from(StructArray::new(schema().fields().clone(), columns, None))
    }
}
