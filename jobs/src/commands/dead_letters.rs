//! `anabranch dead-letters`: shows the records that could not become facts, and retries them.

use anabranch_shared::{Error, Result, counted};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use bytes::Bytes;

use crate::commands::fitting::{fitted, on_one_line};
use crate::commands::ingest::Target;
use crate::commands::printing::Printing;
use crate::commands::{DEAD_LETTERS, sql};
use crate::output::{Style, for_people};
use crate::project::context::Context;
use crate::reader::session::QuerySession;
use crate::work::dead_letters::{Place, RetryRequest, bytes_of, literal, retry};

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

impl From<RetryArgs> for RetryRequest {
    fn from(args: RetryArgs) -> Self {
        Self {
            topic: args.topic,
            places: args.places,
            filter: args.filter,
            fix: args.fix,
            limit: args.limit,
            dry_run: args.dry_run,
        }
    }
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
            let settings = context.topic_settings(&args.topic)?;
            let request = RetryRequest::from(args);
            let open = async || Target::open(context, settings).await;
            let report = retry(context, &request, open).await?;
            printing.either(|| report.text(request.dry_run), &report)?;
            Ok(if report.failed > 0 { DEAD_LETTERS } else { 0 })
        }
    }
}
