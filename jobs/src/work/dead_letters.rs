//! Retries dead letters: those that become facts now are written as new ones, once however often they
//! are retried.

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
use crate::output::for_people;
use crate::project::context::Context;
use crate::project::dead_letter_retries::{self, Retry, RetryOutcome};
use crate::reader::client::{Acknowledged, Client};
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
#[derive(Clone, Debug)]
pub struct RetryRequest {
    /// The topic.
    pub topic: String,
    /// The dead letters that are meant; all that were not retried yet where none is named.
    pub places: Vec<Place>,
    /// A condition in SQL over the columns of `dead_letters`, which must hold of them.
    pub filter: Option<String>,
    /// A SELECT over `dead_letters` that corrects them.
    pub fix: Option<String>,
    /// At most so many, the oldest first.
    pub limit: u64,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// Where what became facts is written.
pub trait Writes {
    /// Writes payloads of one record each, which have identities; says of each what came of it. One
    /// whose identity is known is repeated.
    fn write_each(
        &mut self,
        topic: &str,
        payloads: BTreeMap<Place, Payload>,
    ) -> impl Future<Output = Result<Vec<(Place, Acknowledged)>>> + Send;
}

impl Writes for Client {
    async fn write_each(
        &mut self,
        topic: &str,
        payloads: BTreeMap<Place, Payload>,
    ) -> Result<Vec<(Place, Acknowledged)>> {
        self.write_payloads(topic, payloads).await
    }
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

/// A text as a literal of SQL.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A column of bytes, however it is held.
///
/// # Errors
/// Where it holds something else.
pub fn bytes_of(column: &dyn Array) -> Result<Vec<Option<Bytes>>> {
    let column = cast(column, &DataType::Binary)?;
    let bytes = column.as_binary::<i32>().iter();
    Ok(bytes.map(|b| b.map(Bytes::copy_from_slice)).collect())
}

fn choose_sql(request: &RetryRequest) -> String {
    let mut filter = match &request.filter {
        Some(filter) => format!(" AND ({filter})"),
        None => String::new(),
    };
    if !request.places.is_empty() {
        let place =
            |p: &Place| format!("(_partition = {} AND _offset = {})", p.partition, p.offset);
        let places: Vec<String> = request.places.iter().map(place).collect();
        filter = format!(" AND ({})", places.join(" OR "));
    }
    // Those that were named are looked at in any case, so that it can be said that they were retried.
    let new = match request.places.is_empty() {
        true => " AND retried_at IS NULL",
        false => "",
    };
    format!(
        "SELECT * FROM dead_letters WHERE topic = {}{new}{filter} ORDER BY _partition, _offset LIMIT {}",
        literal(&request.topic),
        request.limit
    )
}

/// Retries dead letters.
///
/// # Errors
/// `Invalid` where the fix can't be run or gives more than one row for a dead letter. What was
/// retried until then is noted.
pub async fn retry<W: Writes>(
    context: &Context,
    request: &RetryRequest,
    open: impl AsyncFnOnce() -> Result<W>,
) -> Result<RetryReport> {
    let settings = context.topic_settings(&request.topic)?;
    let topic = context.log(&request.topic).await?.topic();
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
    let found = session.rows(&choose_sql(request)).await?;
    let mut report = RetryReport::default();
    let fix = Fix::new(request.fix.as_deref());
    let (mut open, mut target) = (Some(open), None);
    for batch in &found {
        for from in (0..batch.num_rows()).step_by(TOGETHER) {
            let part = batch.slice(from, TOGETHER.min(batch.num_rows() - from));
            let fresh = not_retried(&part, &mut report)?;
            let ready = admit(&admission, &fix, &fresh, &mut report).await?;
            if request.dry_run {
                report.facts += ready.len() as u64;
                continue;
            }
            if let Some(open) = open.take() {
                target = Some(open().await?);
            }
            if let Some(target) = &mut target {
                write(context, &request.topic, target, ready, &mut report).await?;
            }
        }
    }
    if report.chosen == 0 && !request.places.is_empty() {
        return Err(Error::NotFound(format!(
            "topic `{}` has no dead letter there; `anabranch dead-letters list --topic {}` shows which there are",
            request.topic, request.topic
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
    target: &mut impl Writes,
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
