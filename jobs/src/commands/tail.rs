//! `anabranch tail`: a topic's facts in order, then those that come.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anabranch_shared::{Error, INGESTED_AT, OFFSET, Offset, OffsetRange, PARTITION, Result};
use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use chrono::{DateTime, Utc};

use self::lines::Lines;
use crate::commands::printing::Printing;
use crate::output::for_people;
use crate::project::context::Context;
use crate::reader::answers::Session;
use crate::reader::session::QuerySession;
use crate::signal::stop_token;

mod lines;

/// How often new facts are looked for.
const POLL: Duration = Duration::from_millis(500);

/// How many facts are asked for at once.
const PAGE: u64 = 50_000;

/// Where a replay starts.
#[derive(Clone, Debug)]
pub enum From {
    /// At an offset of every partition.
    Offset(i64),
    /// At the facts that were admitted at or after a time.
    Time(DateTime<Utc>),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text.parse::<i64>(), text.parse::<DateTime<Utc>>()) {
            (Ok(offset), _) => Ok(Self::Offset(offset)),
            (_, Ok(time)) => Ok(Self::Time(time)),
            _ => Err(format!(
                "`{text}` is neither an offset nor a time such as 2026-01-01T00:00:00Z"
            )),
        }
    }
}

/// What retention has removed of the facts from a place on, for people.
///
/// # Errors
/// `BelowLow` where facts are asked for by an offset whose partition begins past it.
pub async fn removed_note(context: &Context, topic: &str, from: &From) -> Result<Option<String>> {
    let log = context.log(topic).await?;
    let low = log.low();
    let From::Offset(from) = from else {
        return Ok(None);
    };
    let removed = low.iter().find(|(_, low)| *from < low.0);
    match removed {
        None => Ok(None),
        Some(_) if *from == 0 => Ok(Some(format!(
            "note: topic `{topic}` begins at [{low}], retention has removed the facts before"
        ))),
        Some((partition, low)) => Err(Error::BelowLow {
            topic: topic.to_owned(),
            partition,
            range: OffsetRange::new(Offset(*from), log.head().get(partition)),
            low,
        }),
    }
}

/// What of a topic is printed.
struct Tail<'a> {
    session: &'a dyn Session,
    topic: &'a str,
    from: &'a From,
    filter: Option<&'a str>,
    /// How many facts may still be printed; none for all.
    left: Option<u64>,
    /// For each partition the last offset that was looked at.
    seen: BTreeMap<i32, i64>,
}

/// The last offset of each partition.
type Heads = BTreeMap<i32, i64>;

impl Tail<'_> {
    /// The condition of the facts that were not looked at.
    fn unseen(&self) -> String {
        let first = match self.from {
            From::Offset(o) => format!("{OFFSET} >= {o}"),
            From::Time(t) => format!("{INGESTED_AT} >= TIMESTAMP '{}'", t.to_rfc3339()),
        };
        let known: Vec<String> = self.seen.keys().map(ToString::to_string).collect();
        let mut parts: Vec<String> = self
            .seen
            .iter()
            .map(|(p, o)| format!("({PARTITION} = {p} AND {OFFSET} > {o})"))
            .collect();
        parts.push(match known.is_empty() {
            true => format!("({first})"),
            false => format!("({PARTITION} NOT IN ({}) AND {first})", known.join(", ")),
        });
        format!("({})", parts.join(" OR "))
    }

    /// The condition of the facts up to some heads.
    fn upto(heads: &Heads) -> String {
        let parts = heads.iter();
        let parts = parts.map(|(p, o)| format!("({PARTITION} = {p} AND {OFFSET} <= {o})"));
        format!("({})", parts.collect::<Vec<_>>().join(" OR "))
    }

    /// The last offsets of the facts that were not looked at: those of other facts than the ones that
    /// are wanted need not be looked at again.
    async fn heads(&self) -> Result<Heads> {
        let sql = format!(
            "SELECT {PARTITION}, max({OFFSET}) AS {OFFSET} FROM \"{}\" WHERE {} GROUP BY {PARTITION}",
            self.topic,
            self.unseen()
        );
        let answer = self.session.query(&sql).await?;
        let mut heads = Heads::new();
        note_places(&answer.batches, &mut heads);
        Ok(heads)
    }

    fn wanted(&self) -> String {
        let filter = self.filter.map(|filter| format!(" AND ({filter})"));
        filter.unwrap_or_default()
    }

    /// Prints the last facts that there are, at most so many.
    async fn print_last(&mut self, last: u64, lines: &mut Lines<'_>) -> Result<()> {
        let heads = self.heads().await?;
        if heads.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "SELECT * FROM (SELECT * FROM \"{}\" WHERE {} AND {}{} ORDER BY {INGESTED_AT} DESC, {PARTITION} DESC, {OFFSET} DESC LIMIT {last}) ORDER BY {INGESTED_AT}, {PARTITION}, {OFFSET}",
            self.topic,
            self.unseen(),
            Self::upto(&heads),
            self.wanted()
        );
        self.print(&sql, lines).await?;
        self.seen.extend(heads);
        Ok(())
    }

    /// Prints the facts that were not looked at.
    async fn print_new(&mut self, lines: &mut Lines<'_>) -> Result<()> {
        let heads = self.heads().await?;
        if heads.is_empty() {
            return Ok(());
        }
        while !self.is_done(lines) {
            let page = self.left.map_or(PAGE, |left| left.min(PAGE));
            let sql = format!(
                "SELECT * FROM \"{}\" WHERE {} AND {}{} ORDER BY {PARTITION}, {OFFSET} LIMIT {page}",
                self.topic,
                self.unseen(),
                Self::upto(&heads),
                self.wanted()
            );
            if self.print(&sql, lines).await? < page {
                break;
            }
        }
        self.seen.extend(heads);
        Ok(())
    }

    /// Prints the rows of a query, and says how many there are.
    async fn print(&mut self, sql: &str, lines: &mut Lines<'_>) -> Result<u64> {
        let answer = self.session.query(sql).await?;
        note_places(&answer.batches, &mut self.seen);
        let rows: usize = answer.batches.iter().map(|b| b.num_rows()).sum();
        lines.write(&answer.schema, &answer.batches)?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(rows as u64);
        }
        Ok(rows as u64)
    }

    fn is_done(&self, lines: &Lines<'_>) -> bool {
        self.left == Some(0) || lines.is_closed()
    }

    /// Prints the facts that there are, then those that come where it follows them.
    async fn run(&mut self, last: Option<u64>, follow: bool, lines: &mut Lines<'_>) -> Result<()> {
        if let Some(last) = last {
            let last = self.left.map_or(last, |left| left.min(last));
            self.print_last(last, lines).await?;
        }
        loop {
            if self.is_done(lines) {
                return Ok(());
            }
            self.print_new(lines).await?;
            if !follow {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Notes the largest offset of each partition among some rows.
fn note_places(batches: &[arrow::array::RecordBatch], places: &mut Heads) {
    for batch in batches {
        let (Some(p), Some(o)) = (
            batch.column_by_name(PARTITION),
            batch.column_by_name(OFFSET),
        ) else {
            continue;
        };
        let (p, o) = (p.as_primitive::<Int32Type>(), o.as_primitive::<Int64Type>());
        for row in 0..batch.num_rows() {
            let at = places.entry(p.value(row)).or_insert(-1);
            *at = (*at).max(o.value(row));
        }
    }
}

/// What is printed of a topic.
#[derive(Debug, clap::Args)]
pub struct TailArgs {
    /// The topic
    topic: String,
    /// Begins at an offset, or at a time of admission (RFC 3339)
    #[arg(long, default_value = "0", conflicts_with = "last")]
    from: From,
    /// Begins with the last facts that there are, this many
    #[arg(short = 'n', long, value_name = "COUNT")]
    last: Option<u64>,
    /// Ends once this many facts are printed
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    /// Prints only facts for which this SQL condition over the topic's columns holds
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,
    /// Prints each fact as this text, with its fields in braces: `{ts} {url}`; otherwise as
    /// `--format` says, ndjson or csv
    #[arg(long, value_name = "TEXT")]
    line: Option<String>,
    /// Ends with the last fact instead of waiting for more
    #[arg(long)]
    no_follow: bool,
}

/// Prints facts until told to stop.
pub(crate) async fn run(args: TailArgs, context: &Context, printing: Printing) -> Result<u8> {
    if args.last.is_none()
        && let Some(note) = removed_note(context, &args.topic, &args.from).await?
    {
        writeln!(std::io::stderr(), "{}", for_people(&note)).ok();
    }
    let session = QuerySession::open(context).await?;
    let mut out = std::io::stdout();
    let mut lines = Lines::new(printing.format, args.line.as_deref(), &mut out)?;
    let mut tail = Tail {
        session: &session,
        topic: &args.topic,
        from: &args.from,
        filter: args.filter.as_deref(),
        left: args.count,
        seen: BTreeMap::new(),
    };
    let stop = stop_token();
    tokio::select! {
        ended = tail.run(args.last, !args.no_follow, &mut lines) => ended?,
        () = stop.cancelled() => {}
    }
    Ok(0)
}
