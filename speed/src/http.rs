//! `POST /topics/{topic}`: records in, an acknowledgement out. `POST /delta`, for other daemons
//! alone: what this one holds that has not landed.

mod refusal;
mod request_memory;

use std::io::Read;
use std::sync::Arc;

use anabranch_shared::{Error, Result, blocking, nearest};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use datafusion::common::utils::memory::get_record_batch_memory_size;

use crate::daemon::Daemon;
use crate::http::refusal::{refuse, too_large, unread};
use crate::http::request_memory::{RequestRoom, Taken, read_body, within_room};
use crate::intake::admission::{Admission, Admitted};
use crate::intake::arrow_stream;
use crate::intake::idempotency::RequestKey;
use crate::peers::DeltaRequest;
use crate::sources::files::{self, Format, Separator};
use crate::topic::{IngestChunk, WriteOutcome};

/// Dead letters that an answer names one by one; the others are counted.
const NAMED_DEAD_LETTERS: usize = 100;

/// The content type of a payload that `anabranch ingest` has admitted itself.
pub const PAYLOAD: &str = "application/vnd.anabranch.payload";

/// The content type of an Arrow IPC stream.
const ARROW: &str = "application/vnd.apache.arrow.stream";

/// Rows of text may come to so many times the most that a request has: a byte of a row may be a field
/// whose name `_extra` repeats.
const TEXT_TIMES: u64 = 16;

/// Facts that take more than so many times the bytes of their records are asked for before they are
/// made: the room for the records is enough for others.
const RECORD_TIMES: u64 = 4;

/// So many bytes of a compressed body are taken apart at once.
const INFLATED: usize = 1 << 20;

/// The header that names the ingested file of which a request is a chunk.
pub const INGEST_ID: &str = "anabranch-ingest-id";
/// The header with the number of a chunk's first record.
pub const INGEST_FROM: &str = "anabranch-ingest-from";

/// The header with the key by which a request may be repeated.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Where a daemon is asked by others for what it holds. Its form may change with any version.
pub const DELTA: &str = "/delta";

/// Bytes that a question for it may have.
const DELTA_BYTES: usize = 4 << 20;

/// The content type of what it answers.
pub const HELD: &str = "application/vnd.anabranch.delta";

/// What a request for intake came to, beside its answer: for whoever keeps a log of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The topic.
    pub topic: String,
    /// Bytes of the body as they came.
    pub bytes: u64,
    /// Why the first record that became a dead letter did, if one did.
    pub first_dead_letter: Option<String>,
}

/// The routes of this layer.
pub fn router(daemon: Arc<Daemon>) -> Router {
    let room = RequestRoom::new(daemon.options());
    let bound = (room, daemon.options().max_request_bytes);
    let bounded = axum::middleware::from_fn_with_state(bound, within_room);
    Router::new()
        .route("/topics/{topic}", post(write).layer(bounded))
        .route("/topics/{topic}/ingested/{id}", get(ingested))
        .route(DELTA, post(delta).layer(DefaultBodyLimit::max(DELTA_BYTES)))
        .with_state(daemon)
}

/// What this daemon holds of a topic; 421 where another one is meant, whose address this is now.
async fn delta(State(daemon): State<Arc<Daemon>>, body: Bytes) -> Response {
    let request: DeltaRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(e) => return refuse(&Error::Invalid(format!("not a request for a delta: {e}"))),
    };
    if request.wal != daemon.wal() {
        return StatusCode::MISDIRECTED_REQUEST.into_response();
    }
    match daemon.delta(request).await {
        Ok(body) => ([(header::CONTENT_TYPE, HELD)], body).into_response(),
        Err(e) => refuse(&e),
    }
}

/// What a request may say in its address.
#[derive(Debug, Default, serde::Deserialize)]
struct WriteQuery {
    /// Whether it is refused whole where one of its records can't become a fact.
    #[serde(default)]
    strict: bool,
    /// What stands between the fields of CSV.
    separator: Option<String>,
}

async fn write(
    State(daemon): State<Arc<Daemon>>,
    Path(topic): Path<String>,
    query: std::result::Result<Query<WriteQuery>, QueryRejection>,
    Extension(taken): Extension<Arc<Taken>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if let Err(e) = daemon.check_intake() {
        return refuse(&e);
    }
    let limit = daemon.options().max_request_bytes;
    let body = match read_body(body, &taken, limit).await {
        Ok(body) => body,
        Err(e) => return unread(e, limit),
    };
    let query = match query {
        Ok(Query(query)) => query,
        Err(e) => return refuse(&Error::Invalid(format!("the request's address: {e}"))),
    };
    // Whoever stops waits for those that have come so far.
    let _open = match daemon.enter().await {
        Ok(open) => open,
        Err(e) => return refuse(&e),
    };
    let bytes = body.len() as u64;
    match accept(&daemon, &topic, query, &headers, body, taken).await {
        Ok(outcome) => {
            let mut answer = acknowledge(&outcome);
            let first_dead_letter = outcome.dead.first().map(|d| d.reason.clone());
            answer.extensions_mut().insert(Accepted {
                topic,
                bytes,
                first_dead_letter,
            });
            answer
        }
        Err(e) => refuse(&e),
    }
}

/// How many records of an ingested file are acknowledged.
async fn ingested(
    State(daemon): State<Arc<Daemon>>,
    Path((topic, id)): Path<(String, String)>,
) -> Response {
    match daemon.topics().get(&topic).cloned() {
        Some(stream) => stream.ingested(&id).to_string().into_response(),
        None => {
            let topics = daemon.topics();
            refuse(&no_topic(&topic, topics.keys().map(String::as_str)))
        }
    }
}

/// That there is no such topic, and how one comes to be.
fn no_topic<'t>(name: &str, known: impl Iterator<Item = &'t str> + Clone) -> Error {
    let near = nearest(name, known.clone());
    let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    let known: Vec<&str> = known.collect();
    let there_are = match known.is_empty() {
        true => "there are none".to_owned(),
        false => format!("the topics are: {}", known.join(", ")),
    };
    Error::NotFound(format!(
        "no topic `{name}`{near} ({there_are}); to add one write a table `[topics.{name}]` in `anabranch.toml` and start the daemon again, which declares it"
    ))
}

fn acknowledge(outcome: &WriteOutcome) -> Response {
    let dead: Vec<_> = outcome
        .dead
        .iter()
        .take(NAMED_DEAD_LETTERS)
        .map(|d| {
            serde_json::json!({ "record": d.record, "line": d.line, "field": d.field, "reason": d.reason })
        })
        .collect();
    let body = serde_json::json!({
        "facts": outcome.facts,
        "duplicates": outcome.duplicates,
        "dead_letters": outcome.dead_letters,
        "dead": dead,
        "unknown_fields": outcome.unknown_fields,
        "partition": outcome.partition,
        "offsets": [outcome.range.start, outcome.range.end],
        "repeated": outcome.repeated,
    });
    (
        StatusCode::OK,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

async fn accept(
    daemon: &Arc<Daemon>,
    topic: &str,
    query: WriteQuery,
    headers: &HeaderMap,
    body: Bytes,
    taken: Arc<Taken>,
) -> Result<WriteOutcome> {
    let topics = daemon.topics();
    let stream = topics
        .get(topic)
        .ok_or_else(|| no_topic(topic, topics.keys().map(String::as_str)))?;
    let ingest = match (text(headers, INGEST_ID), text(headers, INGEST_FROM)) {
        (None, _) => None,
        (Some(id), from) => Some(IngestChunk {
            id: id.to_owned(),
            from: from.unwrap_or("0").parse().map_err(|_| {
                Error::Invalid(format!("`{INGEST_FROM}` is not a number of a record"))
            })?,
        }),
    };
    let limit = daemon.options().max_request_bytes;
    let encoding = text(headers, "content-encoding")
        .unwrap_or("identity")
        .trim()
        .to_lowercase();
    let kind = text(headers, "content-type")
        .unwrap_or("application/x-ndjson")
        .to_lowercase();
    let separator = query.separator.as_deref().map(str::parse);
    let separator: Option<Separator> = separator
        .transpose()
        .map_err(|e| Error::Invalid(format!("`separator`: {e}")))?;
    let form = match &query.separator {
        Some(separator) => format!("{kind}?{separator}"),
        None => kind.clone(),
    };
    let request = request_key(headers, [form, encoding.clone()], &body).await?;
    if request.is_some() && (ingest.is_some() || kind == PAYLOAD) {
        return Err(Error::Invalid(format!(
            "a chunk of an ingested file may be repeated as it is; send it without `{IDEMPOTENCY_KEY}`"
        )));
    }
    if kind == PAYLOAD {
        if query.strict {
            return Err(Error::Invalid(
                "`strict` is for records, and the body is what `anabranch ingest` has admitted; leave it out".into(),
            ));
        }
        let (from, known) = (ingest.map(|c| c.from), stream.topic());
        return match stream.write_payload(body.clone(), from).await {
            // It may have a field that was declared a moment ago.
            Err(Error::Unavailable(why)) => {
                daemon.follow_catalogue().await;
                match stream.topic() == known {
                    true => Err(Error::Unavailable(why)),
                    false => stream.write_payload(body, from).await,
                }
            }
            written => written,
        };
    }
    let source = text(headers, "anabranch-source").map(str::to_owned);
    let plain = matches!(encoding.as_str(), "identity" | "") && !kind.starts_with(ARROW);
    // What is compressed, as buffers of Arrow may be, is perhaps a small part of what it holds.
    let bytes = if plain { body.len() } else { usize::MAX };
    let admit = move |admission: &Admission| {
        let body = decompress(body, &encoding, limit, |bytes| taken.grow(bytes))?;
        taken.settle(body.len() as u64);
        let admitted = admit_body(admission, body, &kind, separator, limit, &|n| taken.grow(n))?;
        match query.strict {
            true => strictly(admitted),
            false => Ok(admitted),
        }
    };
    let now = (daemon.options().now_us)();
    stream
        .write_once(request, bytes, admit, source, ingest, now)
        .await
}

/// What a request is known by that may be repeated.
async fn request_key(
    headers: &HeaderMap,
    kind: [String; 2],
    body: &Bytes,
) -> Result<Option<RequestKey>> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(key), more) = (keys.next(), keys.next()) else {
        return Ok(None);
    };
    if more.is_some() {
        return Err(Error::Invalid(format!(
            "the request has more than one `{IDEMPOTENCY_KEY}`; give it one"
        )));
    }
    let (key, body) = (key.clone(), body.clone());
    let new = move || {
        let kind = [kind[0].as_str(), kind[1].as_str()];
        RequestKey::new(key.as_bytes(), &kind, &body)
    };
    blocking(new).await.map(Some)
}

/// What was admitted, where all of it became facts.
fn strictly(admitted: Admitted) -> Result<Admitted> {
    match admitted.refusal() {
        None => Ok(admitted),
        Some(why) => Err(Error::Invalid(format!(
            "{why}; nothing of the request was admitted, because it is `strict`"
        ))),
    }
}

/// Admits a body without its compression; what more is taken for it is asked for with `grow`.
pub(crate) fn admit_body(
    admission: &Admission,
    body: Bytes,
    kind: &str,
    separator: Option<Separator>,
    limit: u64,
    grow: &dyn Fn(u64) -> Result<()>,
) -> Result<Admitted> {
    let failed = |e: crate::intake::admission::AdmissionError| Error::Invalid(e.to_string());
    if kind.starts_with(ARROW) {
        let limit = arrow_stream::of_request(limit);
        let batch = arrow_stream::read(body, limit, grow)?;
        return admission.batch(&batch).map_err(failed);
    }
    let format = [("tab-separated-values", Format::Tsv), ("csv", Format::Csv)];
    if let Some((_, format)) = format.iter().find(|(name, _)| kind.contains(name)) {
        let refused = |e: files::FileError| Error::Invalid(e.to_string());
        let (mut parts, mut bytes) = (Vec::new(), 0_u64);
        for chunk in files::csv_of_body(body, *format, separator, admission).map_err(refused)? {
            let chunk = chunk.map_err(refused)?;
            let part = admission.chunk(&chunk).map_err(failed)?;
            bytes = bytes.saturating_add(get_record_batch_memory_size(&part.facts) as u64);
            check_rows(bytes, limit)?;
            parts.push(part);
        }
        return admission.joined(parts).map_err(failed);
    }
    if [
        "ndjson",
        "json",
        "text/plain",
        "octet-stream",
        "x-www-form-urlencoded",
    ]
    .iter()
    .any(|k| kind.contains(k))
    {
        if !files::begins_array(&body) {
            room_for_rows(admission, &body, limit, grow)?;
            return admission.ndjson(&body).map_err(failed);
        }
        // Its lines are a copy of it.
        grow(2 * body.len() as u64)?;
        let lines = files::lines_of_array(&body)
            .map_err(|e| Error::Invalid(format!("{e}; nothing of it was admitted")))?;
        room_for_rows(admission, &lines, limit, grow)?;
        let mut admitted = admission.ndjson(&lines).map_err(failed)?;
        // The lines that they are counted by are not the sender's.
        admitted.dead.iter_mut().for_each(|dead| dead.line = None);
        return Ok(admitted);
    }
    Err(Error::Invalid(format!(
        "content type `{kind}`: send `application/x-ndjson`, `application/json`, `text/csv` or `application/vnd.apache.arrow.stream`"
    )))
}

/// Refuses rows that come to many times what a request may have.
fn check_rows(bytes: u64, limit: u64) -> Result<()> {
    match bytes > limit.saturating_mul(TEXT_TIMES) {
        true => Err(Error::Invalid(format!(
            "its rows come to more than {TEXT_TIMES} times {limit} bytes (`max_request_bytes` in `[daemon]`), and nothing of it was admitted; send it in parts"
        ))),
        false => Ok(()),
    }
}

/// Makes room for the facts of lines of JSON, before they are made: a short record takes as much
/// memory as all declared fields do.
fn room_for_rows(
    admission: &Admission,
    lines: &[u8],
    limit: u64,
    grow: &dyn Fn(u64) -> Result<()>,
) -> Result<()> {
    let size = |rows: usize| (rows as u64).saturating_mul(admission.row_bytes());
    let plain = RECORD_TIMES.saturating_mul(lines.len() as u64);
    // Ends of lines are counted fast, and mostly that is all there is to do.
    if size(memchr::memchr_iter(b'\n', lines).count() + 1) <= plain {
        return Ok(());
    }
    let bytes = size(crate::intake::admission::lines(lines).count());
    check_rows(bytes, limit)?;
    match bytes <= plain {
        true => Ok(()),
        false => grow(bytes.saturating_add(lines.len() as u64)),
    }
}

/// The body without its compression; bounded, so that a small body can't become a huge one. What is
/// taken for it is asked for with `grow` before it is taken: all of it, in bytes.
pub(crate) fn decompress(
    body: Bytes,
    encoding: &str,
    limit: u64,
    mut grow: impl FnMut(u64) -> Result<()>,
) -> Result<Bytes> {
    let bad = |e: std::io::Error| {
        Error::Invalid(format!(
            "the body is not valid {encoding}, and nothing of it was admitted; send it again, whole: {e}"
        ))
    };
    let mut reader: Box<dyn Read + '_> = match encoding {
        "identity" | "" => return Ok(body),
        "gzip" => Box::new(flate2::read::MultiGzDecoder::new(body.as_ref())),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(body.as_ref()).map_err(bad)?),
        other => {
            return Err(Error::Invalid(format!(
                "content encoding `{other}`: send gzip, zstd or none"
            )));
        }
    };
    let mut out = Vec::new();
    loop {
        let held = out.capacity();
        if out.len() == held {
            let more = (held / 4).max(INFLATED);
            // While it grows, what it was and what it will be are both there.
            grow((body.len() + 2 * held + more) as u64)?;
            out.reserve_exact(more);
        }
        // Never more than there is room for: the vector does not grow by itself.
        let room = (out.capacity() - out.len()) as u64;
        let part = reader.by_ref().take(room).read_to_end(&mut out);
        if out.len() as u64 > limit {
            return Err(Error::Invalid(too_large(limit)));
        }
        if part.map_err(bad)? == 0 {
            return Ok(out.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A long name in the header of CSV, which each of many short rows would repeat.
    #[test]
    fn names_of_text_are_not_repeated_without_end() -> std::result::Result<(), String> {
        let field = anabranch_shared::TopicField {
            name: "ts".into(),
            field_type: anabranch_shared::settings::FieldType::Timestamp,
            nullable: false,
            reads: anabranch_shared::settings::FieldReads::default(),
        };
        let topic = anabranch_shared::Topic {
            name: "facts".into(),
            event_time: "ts".into(),
            fields: vec![field],
        };
        let keep = anabranch_shared::settings::UnknownFields::Keep;
        let admission = Admission::new(&topic.field_schema(), "ts", keep, 1 << 20);
        let admission = admission.map_err(|e| e.to_string())?;
        let body = |name: usize, rows: usize| {
            let row = "2026-01-01,x\n".repeat(rows);
            Bytes::from(format!("ts,{}\n{row}", "n".repeat(name)))
        };
        let admitted = |body: Bytes| {
            let none = |_| Ok(());
            admit_body(&admission, body, "text/csv", None, 1 << 20, &none)
        };
        let plain = admitted(body(10, 1_000)).map_err(|e| e.to_string())?;
        assert_eq!(plain.record_count, 1_000);
        for (name, rows) in [(10_000, 10_000), (100_000, 50_000)] {
            let refused = admitted(body(name, rows));
            assert!(matches!(refused, Err(Error::Invalid(_))), "{name}");
        }
        Ok(())
    }

    /// Records that name next to nothing of what is declared, and one that names a great deal of what is
    /// not.
    #[test]
    fn rows_of_json_are_counted_by_what_is_declared() -> std::result::Result<(), String> {
        use anabranch_shared::settings::{FieldReads, FieldType, UnknownFields};
        let field = |name: String, field_type, nullable| anabranch_shared::TopicField {
            name,
            field_type,
            nullable,
            reads: FieldReads::default(),
        };
        let texts = (0..500).map(|n| field(format!("f{n}"), FieldType::Varchar, true));
        let time = field("ts".to_owned(), FieldType::Timestamp, false);
        let topic = anabranch_shared::Topic {
            name: "facts".into(),
            event_time: "ts".into(),
            fields: std::iter::once(time).chain(texts).collect(),
        };
        let most = 2 << 20;
        let admission = |unknown| {
            let admission = Admission::new(&topic.field_schema(), "ts", unknown, most);
            admission.map_err(|e| e.to_string())
        };
        let keep = admission(UnknownFields::Keep)?;
        assert_eq!(keep.row_bytes(), 8 + 501 * 16);
        let record = "{\"ts\":\"2026-01-01\"}\n";
        let admit = |body: String, grow: &dyn Fn(u64) -> Result<()>| {
            admit_body(&keep, body.into(), "application/json", None, 1 << 20, grow)
        };
        let asked = std::sync::Mutex::new(Vec::new());
        let note = |bytes| {
            asked.lock().map(|mut asked| asked.push(bytes)).ok();
            Ok(())
        };
        let few = admit(record.repeat(100), &note).map_err(|e| e.to_string())?;
        assert_eq!(few.facts.num_rows(), 100);
        let bytes = 100 * (keep.row_bytes() + record.len() as u64);
        assert_eq!(asked.lock().ok().as_deref(), Some(&vec![bytes]));
        // Where there is no room, nothing is made.
        let full = |_| Err(Error::NoRoom("full".into()));
        assert!(matches!(
            admit(record.repeat(100), &full),
            Err(Error::NoRoom(_))
        ));
        let array = format!("[{}]", vec![record.trim(); 40_000].join(","));
        for body in [record.repeat(40_000), array] {
            let refused = admit(body, &|_| Ok(())).err().map(|e| e.to_string());
            let refused = refused.unwrap_or_default();
            assert!(refused.contains("`max_request_bytes`"), "{refused}");
        }
        // Blank lines are no records.
        let blank = format!("{}{record}", "\n".repeat(900_000));
        let blank = admit(blank, &|_| Ok(())).map_err(|e| e.to_string())?;
        assert_eq!(blank.facts.num_rows(), 1);
        // A row of 100,000 keys is a fact, if it is not too long; it is refused by its first unknown one.
        let keys: String = (0..100_000).map(|n| format!(",\"k{n}\":1")).collect();
        let wide = Bytes::from(format!("{{\"ts\":\"2026-01-01\"{keys},\"f1\":\"last\"}}\n"));
        let kept = keep.ndjson(&wide).map_err(|e| e.to_string())?;
        let extra = kept.facts.column_by_name(anabranch_shared::EXTRA);
        let extra = extra.map_or(0, |extra| extra.get_array_memory_size());
        assert!(kept.dead.is_empty() && extra > 1_000_000 && extra < 4 * wide.len());
        let strict = admission(UnknownFields::Reject)?;
        let short = Admission::new(&topic.field_schema(), "ts", UnknownFields::Keep, 1 << 20);
        let short = short.map_err(|e| e.to_string())?;
        for (admission, why) in [(strict, "\"k0\""), (short, "1048576 bytes")] {
            let refused = admission.ndjson(&wide).map_err(|e| e.to_string())?;
            let reason = refused.dead.first();
            let reason = reason.map_or(String::new(), |d| format!("{:?} {}", d.field, d.reason));
            assert!(reason.contains(why) && reason.len() < 300, "{reason}");
        }
        Ok(())
    }

    /// What is taken for a body is asked for before: the vector as it was, the one that it grows to,
    /// and the body that it comes from.
    #[test]
    fn what_a_body_unpacks_to_is_asked_for_as_it_grows() -> std::result::Result<(), String> {
        let whole = vec![b' '; 20_000_003];
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&whole).map_err(|e| e.to_string())?;
        let packed = Bytes::from(packed.finish().map_err(|e| e.to_string())?);
        let mut asked = Vec::new();
        let grow = |bytes: u64| {
            asked.push(bytes);
            Ok(())
        };
        let out = decompress(packed.clone(), "gzip", 1 << 30, grow).map_err(|e| e.to_string())?;
        assert_eq!(out, whole);
        let largest = *asked.last().ok_or("nothing was asked for")?;
        let (least, most) = (whole.len() as u64, 3 * whole.len() as u64);
        // A quarter at a time, so that it holds little more than what came.
        assert!((2 * least * 4 / 5..most).contains(&largest), "{largest}");
        assert!(asked.is_sorted() && asked.len() > 4, "{asked:?}");
        // Where there is no room it is taken apart no further.
        let mut asked = 0;
        let full = |bytes: u64| {
            asked += 1;
            match bytes > 6 << 20 {
                true => Err(Error::NoRoom("full".into())),
                false => Ok(()),
            }
        };
        let refused = decompress(packed.clone(), "gzip", 1 << 30, full);
        assert!(matches!(refused, Err(Error::NoRoom(_))));
        assert!(asked < 6, "{asked}");
        let large = decompress(packed, "gzip", 1 << 20, |_| Ok(()));
        assert!(large.is_err_and(|e| e.to_string().contains("max_request_bytes")));
        Ok(())
    }
}
