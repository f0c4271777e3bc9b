//! `anabranch dead-letters`: shows the records that could not become facts, and retries them.

use std::collections::BTreeMap;
use std::str::FromStr;

use anabranch_shared::{Error, Offset, PartitionId, Result, counted};
use anabranch_speed::Payload;
use anabranch_speed::intake::admission::{Admission, Admitted};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use bytes::Bytes;

use self::fix::{Fix, Fixed};
use crate::clock::now_us;
use crate::commands::fitting::{fitted, on_one_line};
use crate::commands::ingest::Target;
use crate::commands::printing::Printing;
use crate::commands::{DEAD_LETTERS, sql};
use crate::output::{Style, for_people};
use crate::project::context::Context;
use crate::project::dead_letter_retries::{self, Retry, RetryOutcome};
use crate::reader::session::QuerySession;

mod fix;

/// Dead letters that are written and noted together.
const TOGETHER: usize = 1_000;

/// Why dead letters were left, of which so many are named.
const NAMED: usize = 10;

/// The place of a dead letter, as `PARTITION:OFFSET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The partition.
    pub partition: PartitionId,
    /// The offset.
    pub offset: Offset,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("`{text}` is no place: write PARTITION:OFFSET, such as 0:1234");
        let (partition, offset) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self {
            partition: PartitionId(partition.parse().map_err(|_| wrong())?),
            offset: Offset(offset.parse().map_err(|_| wrong())?),
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

/// What is retried, and how.
#[derive(Debug, clap::Args)]
pub struct RetryArgs {
    /// The topic
    pub topic: String,
    /// The places of the dead letters [default: all that were not retried yet]
    #[arg(value_name = "PARTITION:OFFSET", conflicts_with = "filter")]
    pub places: Vec<Place>,
    /// Retries only dead letters for which this SQL condition over the columns of `dead_letters` holds
    #[arg(long = "where", value_name = "SQL")]
    pub filter: Option<String>,
    /// A SELECT over `dead_letters` that corrects them: it gives for each one row at most, either
    /// one text column with a JSON object, or the topic's fields as columns. It sees one row: topic,
    /// _partition, _offset, received_at, source, line, reason, field, raw (text), raw_bytes. What it
    /// gives no row for is left
    #[arg(long, value_name = "SQL")]
    pub fix: Option<String>,
    /// Retries at most this many dead letters, the oldest first
    #[arg(long, default_value_t = 100_000, value_name = "COUNT")]
    pub limit: u64,
    /// Only shows what would become of them
    #[arg(long)]
    pub dry_run: bool,
}

/// What a retry came to.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct RetryReport {
    /// Dead letters that were chosen.
    pub chosen: u64,
    /// Those that are facts now, or would be.
    pub facts: u64,
    /// Those that turned out to be duplicates, by the topic's `dedup`.
    pub duplicates: u64,
    /// Those that were retried before.
    pub repeated: u64,
    /// Those that the fix gives nothing for; they are left.
    pub skipped: u64,
    /// Those that still can't become facts; they are left.
    pub failed: u64,
    /// Why, for some of the latter: place and reason.
    pub reasons: Vec<(String, String)>,
}

impl RetryReport {
    /// For people.
    pub fn text(&self, dry_run: bool) -> String {
        let fact = match dry_run {
            true => ("would be a fact", "would be facts"),
            false => ("is a fact now", "are facts now"),
        };
        let mut text = format!(
            "{}: {}",
            counted(self.chosen, "dead letter", "dead letters"),
            counted(self.facts, fact.0, fact.1)
        );
        for (count, one, many) in [
            (self.duplicates, "is a duplicate", "are duplicates"),
            (self.repeated, "was retried before", "were retried before"),
            (self.skipped, "is left by the fix", "are left by the fix"),
            (
                self.failed,
                "still can't become a fact and is left",
                "still can't become facts and are left",
            ),
        ] {
            if count > 0 {
                text += &format!(", {}", counted(count, one, many));
            }
        }
        text.push('\n');
        for (place, reason) in &self.reasons {
            text += &format!("  {place}: {}\n", for_people(reason));
        }
        let more = self.failed.saturating_sub(self.reasons.len() as u64);
        if more > 0 {
            text += &format!("  and {more} more\n");
        }
        text
    }
}

/// A text as SQL.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The query of `dead-letters list`.
pub fn list_sql(topic: Option<&str>, limit: u64) -> String {
    let filter = topic.map_or(String::new(), |t| format!("WHERE topic = {} ", literal(t)));
    format!(
        "SELECT topic, concat(_partition, ':', _offset) AS place, received_at, reason, field, retried_at FROM dead_letters {filter}ORDER BY received_at DESC, topic, _partition, _offset DESC LIMIT {limit}"
    )
}

/// Everything about one dead letter.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its columns that are not NULL, as text, and what came of a retry.
    pub columns: Vec<(String, String)>,
    /// Its bytes as they came.
    pub raw: Bytes,
}

impl Shown {
    /// For people: bytes that are no text are escaped, and so is what could change a terminal.
    pub fn text(&self) -> String {
        let width = self.columns.iter().map(|(name, _)| name.len()).max();
        let width = width.unwrap_or(0);
        let mut text = String::new();
        for (name, value) in &self.columns {
            text += &format!("{name:width$}  {}\n", for_people(value));
        }
        let raw = match std::str::from_utf8(&self.raw) {
            Ok(raw) => for_people(raw),
            Err(_) => self.raw.escape_ascii().to_string(),
        };
        let bytes = counted(self.raw.len() as u64, "byte", "bytes");
        format!("{text}{:width$}  {bytes}:\n{raw}\n", "raw")
    }

    /// For programs: `raw` where it is text, and `raw_hex`.
    pub fn json(&self) -> serde_json::Value {
        let text = |(name, value): &(String, String)| (name.clone(), value.as_str().into());
        let mut columns: serde_json::Map<_, _> = self.columns.iter().map(text).collect();
        columns.insert("raw".into(), std::str::from_utf8(&self.raw).ok().into());
        columns.insert("raw_hex".into(), hex::encode(&self.raw).into());
        columns.into()
    }
}

/// Looks for one dead letter.
///
/// # Errors
/// `NotFound` where there is none at this place.
pub async fn show(context: &Context, topic: &str, place: Place) -> Result<Shown> {
    context.topic_settings(topic)?;
    let sql = format!(
        "SELECT d.*, r.outcome, r._new_partition, r._new_offset FROM dead_letters d LEFT JOIN dead_letter_retries r ON r.topic = d.topic AND r._partition = d._partition AND r._offset = d._offset WHERE d.topic = {} AND d._partition = {} AND d._offset = {}",
        literal(topic),
        place.partition,
        place.offset
    );
    let session = QuerySession::open(context).await?;
    let found = session.rows(&sql).await?;
    let Some(row) = found.iter().find(|batch| batch.num_rows() > 0) else {
        return Err(Error::NotFound(format!(
            "topic `{topic}` has no dead letter at {place}; `anabranch dead-letters list --topic {topic}` shows which there are"
        )));
    };
    let (mut columns, mut raw) = (Vec::new(), Bytes::new());
    for (field, column) in row.schema().fields().iter().zip(row.columns()) {
        if field.name() == "raw" {
            continue;
        }
        if field.name() == "raw_bytes" {
            raw = bytes_of(column.as_ref())?
                .into_iter()
                .next()
                .flatten()
                .unwrap_or_default();
        } else if column.is_valid(0) {
            let text = arrow::util::display::array_value_to_string(column, 0)?;
            columns.push((field.name().clone(), text));
        }
    }
    Ok(Shown { columns, raw })
}

fn bytes_of(column: &dyn Array) -> Result<Vec<Option<Bytes>>> {
    let column = cast(column, &DataType::Binary)?;
    let bytes = column.as_binary::<i32>().iter();
    Ok(bytes.map(|b| b.map(Bytes::copy_from_slice)).collect())
}

fn choose_sql(args: &RetryArgs) -> String {
    let mut filter = match &args.filter {
        Some(filter) => format!(" AND ({filter})"),
        None => String::new(),
    };
    if !args.places.is_empty() {
        let place =
            |p: &Place| format!("(_partition = {} AND _offset = {})", p.partition, p.offset);
        let places: Vec<String> = args.places.iter().map(place).collect();
        filter = format!(" AND ({})", places.join(" OR "));
    }
    // Those that were named are looked at in any case, so that it can be said that they were retried.
    let new = match args.places.is_empty() {
        true => " AND retried_at IS NULL",
        false => "",
    };
    format!(
        "SELECT * FROM dead_letters WHERE topic = {}{new}{filter} ORDER BY _partition, _offset LIMIT {}",
        literal(&args.topic),
        args.limit
    )
}

/// Retries dead letters.
///
/// # Errors
/// `Invalid` where the fix can't be run or gives more than one row for a dead letter. What was
/// retried until then is noted.
pub async fn retry(context: &Context, args: &RetryArgs) -> Result<RetryReport> {
    let settings = context.topic_settings(&args.topic)?;
    let topic = context.log(&args.topic).await?.topic();
    let record_bytes = context.project.daemon.max_record_bytes;
    let admission = Admission::new(
        &topic.field_schema(),
        &settings.event_time,
        settings.unknown_fields,
        usize::try_from(record_bytes).unwrap_or(usize::MAX),
    )
    .map_err(|e| Error::Invalid(e.to_string()))?
    .reading(&settings.fields);
    let session = QuerySession::open(context).await?;
    let found = session.rows(&choose_sql(args)).await?;
    let mut report = RetryReport::default();
    let fix = Fix::new(args.fix.as_deref());
    let mut target = None;
    for batch in &found {
        for from in (0..batch.num_rows()).step_by(TOGETHER) {
            let part = batch.slice(from, TOGETHER.min(batch.num_rows() - from));
            let fresh = not_retried(&part, &mut report)?;
            let ready = admit(&admission, &fix, &fresh, &mut report).await?;
            if args.dry_run {
                report.facts += ready.len() as u64;
                continue;
            }
            let target = match &mut target {
                Some(target) => target,
                None => target.insert(Target::open(context, settings).await?),
            };
            write(context, &args.topic, target, ready, &mut report).await?;
        }
    }
    if report.chosen == 0 && !args.places.is_empty() {
        return Err(Error::NotFound(format!(
            "topic `{}` has no dead letter there; `anabranch dead-letters list --topic {}` shows which there are",
            args.topic, args.topic
        )));
    }
    Ok(report)
}

/// Those that were not retried; the others are counted.
fn not_retried(part: &RecordBatch, report: &mut RetryReport) -> Result<RecordBatch> {
    let at = part
        .column_by_name("retried_at")
        .ok_or_else(|| Error::Internal("dead letters without `retried_at`".into()))?;
    let fresh = arrow::compute::is_null(at)?;
    report.chosen += part.num_rows() as u64;
    report.repeated += (part.num_rows() - fresh.true_count()) as u64;
    Ok(arrow::compute::filter_record_batch(part, &fresh)?)
}

fn places(letters: &RecordBatch) -> Result<Vec<Place>> {
    let column = |name: &str| {
        let column = letters.column_by_name(name);
        column.ok_or_else(|| Error::Internal(format!("dead letters without `{name}`")))
    };
    let partitions = column("_partition")?.as_primitive::<Int32Type>();
    let offsets = column("_offset")?.as_primitive::<Int64Type>();
    let place = |(p, o): (&i32, &i64)| Place {
        partition: PartitionId(*p),
        offset: Offset(*o),
    };
    Ok(partitions
        .values()
        .iter()
        .zip(offsets.values())
        .map(place)
        .collect())
}

/// Those that become facts now, each as admitted by itself; why the others don't is reported.
async fn admit(
    admission: &Admission,
    fix: &Fix<'_>,
    letters: &RecordBatch,
    report: &mut RetryReport,
) -> Result<Vec<(Place, Admitted)>> {
    let fixed = fix.run(letters).await?;
    let mut ready = Vec::new();
    for (place, fixed) in places(letters)?.into_iter().zip(fixed) {
        let admitted = match fixed {
            Fixed::Nothing => {
                report.skipped += 1;
                continue;
            }
            Fixed::Json(line) => admission.ndjson(&line),
            Fixed::Fields(row) => admission.batch(&row),
        };
        let admitted = admitted.map_err(|e| Error::Invalid(e.to_string()))?;
        match admitted.dead.first() {
            Some(dead) => {
                report.failed += 1;
                if report.reasons.len() < NAMED {
                    report
                        .reasons
                        .push((place.to_string(), dead.reason.clone()));
                }
            }
            // A blank line is no record.
            None if admitted.record_count == 0 => report.skipped += 1,
            None => ready.push((place, admitted)),
        }
    }
    Ok(ready)
}

/// Writes what becomes facts, and notes it.
async fn write(
    context: &Context,
    topic: &str,
    target: &mut Target,
    ready: Vec<(Place, Admitted)>,
    report: &mut RetryReport,
) -> Result<()> {
    let payloads = ready.into_iter().map(|(place, admitted)| {
        // What the log knows the dead letter by: a second retry finds it there.
        let id = format!("dead-letter/{place}");
        let source = Some(format!("dead letter {place}"));
        (
            place,
            Payload::new(admitted, now_us(), Some((id, 1)), source),
        )
    });
    let payloads: BTreeMap<Place, Payload> = payloads.collect();
    let written = target.write_each(topic, payloads).await?;
    let retried_at = now_us();
    let mut noted = Vec::new();
    for (place, written) in written {
        let new_place = (PartitionId(written.partition), Offset(written.offsets[0]));
        let (outcome, new_place, count) = match (written.repeated, written.duplicates) {
            (true, _) => (RetryOutcome::Repeated, None, &mut report.repeated),
            (_, 0) => (RetryOutcome::Fact, Some(new_place), &mut report.facts),
            _ => (RetryOutcome::Duplicate, None, &mut report.duplicates),
        };
        *count += 1;
        noted.push(Retry {
            topic: topic.to_owned(),
            place: (place.partition, place.offset),
            retried_at,
            outcome,
            new_place,
        });
    }
    fail::fail_point!("retry-before-note");
    dead_letter_retries::record(&context.storage, &noted).await
}

/// What is done with dead letters.
#[derive(Debug, clap::Subcommand)]
pub enum DeadLettersCommand {
    /// Lists dead letters, the newest first
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Lists the dead letters of this topic alone
        #[arg(long)]
        topic: Option<String>,
        /// Lists at most this many dead letters
        #[arg(long, default_value_t = 50, value_name = "COUNT")]
        limit: u64,
    },
    /// Shows all of one dead letter: its fields, what came of a retry, and its bytes as they came
    Show {
        /// The topic
        topic: String,
        /// The place of the dead letter, as the list shows it
        #[arg(value_name = "PARTITION:OFFSET")]
        place: Place,
    },
    /// Retries dead letters: those that become facts now are written as new ones, once however often
    /// they are retried. Exit code 2 where some still can't become facts
    #[command(after_help = RETRY_EXAMPLES)]
    Retry(RetryArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  anabranch dead-letters list --topic pageviews --limit 10
  anabranch --format csv dead-letters list > dead-letters.csv";

const RETRY_EXAMPLES: &str = "\
Examples:
  anabranch dead-letters retry pageviews --dry-run
  anabranch dead-letters retry pageviews 0:1234 0:1240
  anabranch dead-letters retry pageviews --where \"field = 'engaged_ms'\" \\
    --fix \"SELECT replace(raw, 'engaged_time', 'engaged_ms') FROM dead_letters\"";

/// The list for people; `show` has all of one.
fn list_text(rows: &[RecordBatch], style: Style) -> Result<String> {
    let headers = ["topic", "place", "received (UTC)", "retried", "reason"];
    let mut cells: Vec<Vec<String>> = Vec::new();
    for batch in rows {
        let column = |name: &str| -> Result<Vec<String>> {
            let none = || Error::Internal(format!("dead letters without `{name}`"));
            let column = batch.column_by_name(name).ok_or_else(none)?;
            let text = cast(column, &DataType::Utf8View)?;
            let text = text.as_string_view();
            Ok(text.iter().map(|t| on_one_line(t.unwrap_or("-"))).collect())
        };
        let columns = ["topic", "place", "received", "retried", "reason"];
        let columns: Vec<Vec<String>> = columns.into_iter().map(column).collect::<Result<_>>()?;
        let row = |row: usize| columns.iter().map(|c| c[row].clone()).collect();
        cells.extend((0..batch.num_rows()).map(row));
    }
    let Some(first) = cells.first() else {
        return Ok("no dead letters\n".to_owned());
    };
    let first = format!("{} {}", first[0], first[1]);
    let rows = fitted(&headers, cells, &[4, 0], style);
    Ok(format!(
        "{rows}\n`anabranch dead-letters show {first}` shows all of the first\n"
    ))
}

/// Shows them, or retries some.
pub(crate) async fn run(
    command: DeadLettersCommand,
    context: &Context,
    printing: Printing,
) -> Result<u8> {
    match command {
        DeadLettersCommand::List { topic, limit } => {
            if let Some(topic) = &topic {
                context.topic_settings(topic)?;
            }
            let query = list_sql(topic.as_deref(), limit);
            if !printing.is_for_people() {
                return sql::one(context, query, printing).await;
            }
            let query = format!(
                "SELECT *, to_char(received_at, '%m-%d %H:%M:%S') AS received, to_char(retried_at, '%m-%d %H:%M:%S') AS retried FROM ({query}) ORDER BY received_at DESC, topic, place DESC"
            );
            let rows = QuerySession::open(context).await?.rows(&query).await?;
            printing.text(&list_text(&rows, printing.style)?)?;
            Ok(0)
        }
        DeadLettersCommand::Show { topic, place } => {
            let shown = show(context, &topic, place).await?;
            printing.either(|| shown.text(), &shown.json())?;
            Ok(0)
        }
        DeadLettersCommand::Retry(args) => {
            let report = retry(context, &args).await?;
            printing.either(|| report.text(args.dry_run), &report)?;
            Ok(if report.failed > 0 { DEAD_LETTERS } else { 0 })
        }
    }
}
