//! `anabranch tail`: a topic's facts in order, then those that come, as NDJSON.

use std::io::Write;
use std::time::Duration;

use anabranch_shared::{Error, OFFSET, Offset, OffsetRange, PARTITION, Result};
use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

use crate::output::{Format, Style, for_people, write_batches};
use crate::project::context::Context;
use crate::reader::answers::Session;
use crate::reader::session::QuerySession;

/// How often new facts are looked for.
const POLL: Duration = Duration::from_millis(500);

/// How many facts are asked for at once.
const PAGE: usize = 50_000;

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

/// Prints facts from a place on; goes on for ever where `follow` is set.
pub async fn tail(
    session: &dyn Session,
    topic: &str,
    from: &From,
    follow: bool,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let mut seen: BTreeMap<i32, i64> = BTreeMap::new();
    loop {
        let first = match from {
            From::Offset(o) => format!("{OFFSET} >= {o}"),
            From::Time(t) => format!("_ingested_at >= TIMESTAMP '{}'", t.to_rfc3339()),
        };
        let known: Vec<String> = seen.keys().map(ToString::to_string).collect();
        let mut parts: Vec<String> = seen
            .iter()
            .map(|(p, o)| format!("({PARTITION} = {p} AND {OFFSET} > {o})"))
            .collect();
        parts.push(match known.is_empty() {
            true => format!("({first})"),
            false => format!("({PARTITION} NOT IN ({}) AND {first})", known.join(", ")),
        });
        let sql = format!(
            "SELECT * FROM \"{topic}\" WHERE {} ORDER BY {PARTITION}, {OFFSET} LIMIT {PAGE}",
            parts.join(" OR ")
        );
        let answer = session.query(&sql).await?;
        let rows: usize = answer.batches.iter().map(|b| b.num_rows()).sum();
        for batch in &answer.batches {
            let (Some(p), Some(o)) = (
                batch.column_by_name(PARTITION),
                batch.column_by_name(OFFSET),
            ) else {
                continue;
            };
            let (p, o) = (p.as_primitive::<Int32Type>(), o.as_primitive::<Int64Type>());
            for row in 0..batch.num_rows() {
                let at = seen.entry(p.value(row)).or_insert(-1);
                *at = (*at).max(o.value(row));
            }
        }
        let written = write_batches(
            out,
            &answer.schema,
            &answer.batches,
            Format::Ndjson,
            Style::plain(),
        );
        match written.and_then(|()| out.flush()) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(|e| Error::io("standard output", e))?,
        }
        if rows == PAGE {
            continue;
        }
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What is printed of a topic.
#[derive(Debug, clap::Args)]
pub struct TailArgs {
    /// The topic
    topic: String,
    /// An offset, or a time of admission (RFC 3339)
    #[arg(long, default_value = "0")]
    from: From,
    /// Ends with the last fact instead of waiting for more
    #[arg(long)]
    no_follow: bool,
}

/// Prints facts until told to stop.
pub(crate) async fn run(args: TailArgs, context: &Context) -> Result<u8> {
    if let Some(note) = removed_note(context, &args.topic, &args.from).await? {
        writeln!(std::io::stderr(), "{}", for_people(&note)).ok();
    }
    let session = QuerySession::open(context).await?;
    let mut out = std::io::stdout();
    tail(&session, &args.topic, &args.from, !args.no_follow, &mut out).await?;
    Ok(0)
}
