//! `anabranch ingest`: lands files. Through the daemon where one runs; otherwise straight into the
//! log, in a partition of this command's own.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::settings::TopicSettings;
use anabranch_shared::{
    Error, ErrorKind, Ids, Landing, Log, Offset, OffsetRange, OwnPartitions, PartitionId, Result,
    blocking, counted,
};
use anabranch_speed::intake::admission::Admission;
use anabranch_speed::intake::files::{
    self, Chunks, ContentDigest, Hashed, Options, Separator, Source,
};
use anabranch_speed::wal::WalLock;
use anabranch_speed::{Dedup, Payload, PlacedFacts, made_by_step};
use indicatif::{ProgressBar, ProgressStyle};

use self::remote::Input;
use crate::clock::{now_ms, now_us};
use crate::commands::DEAD_LETTERS;
use crate::commands::printing::Printing;
use crate::output::{for_people, human_count, human_duration, human_rate};
use crate::project::context::Context;
use crate::reader::client::{Acknowledged, Client};
use crate::work::dead_letters::{Place, Writes};

mod named;
mod remote;

/// Records of one landing.
const LANDING_RECORDS: u64 = 1_000_000;

/// Bytes of one landing, in memory.
const LANDING_BYTES: usize = 1 << 30;

/// Ingests that may run side by side on one machine.
const SLOTS: usize = 64;

/// What is ingested.
#[derive(Debug, clap::Args)]
pub struct IngestArgs {
    /// The topic
    pub topic: String,
    /// Files, globs or URLs: .ndjson .csv .parquet .arrow, plain or .gz or .zst; `-` is standard
    /// input. URLs are file://, http://, https:// and s3:// (with AWS_* from the environment), each
    /// of one file, which is downloaded to a temporary file (in TMPDIR) first
    #[arg(required = true, value_name = "FILE|URL")]
    pub files: Vec<String>,
    /// The format, where the name does not tell it: ndjson, csv, tsv, parquet, arrow
    #[arg(long)]
    pub input_format: Option<String>,
    /// What stands between the fields of CSV: one character, or `tab`
    #[arg(long, value_name = "CHARACTER")]
    pub separator: Option<Separator>,
    /// Reads all files first, and writes nothing where one of their records can't become a fact
    #[arg(long, conflicts_with = "allow_dead_letters")]
    pub strict: bool,
    /// The identity of the content, instead of the SHA-256 of the file as it is: the same records
    /// compressed, or a file that has grown since, are other content. Needed for standard input
    #[arg(long)]
    pub id: Option<String>,
    /// Ingests content that was ingested before once more
    #[arg(long)]
    pub again: bool,
    /// Exits with 0 also where there were dead letters
    #[arg(long)]
    pub allow_dead_letters: bool,
}

/// What an ingest came to.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct IngestReport {
    /// Files that were read.
    pub files: u64,
    /// Files whose content was there already.
    pub repeated: u64,
    /// Records that became facts.
    pub facts: u64,
    /// Records that did not.
    pub dead_letters: u64,
    /// Records that were left out, being duplicates by the topic's `dedup`.
    pub duplicates: u64,
    /// Records that became facts and had undeclared fields.
    pub unknown_fields: u64,
    /// The partition, and its offsets: first, and the one after the last.
    pub offsets: BTreeMap<i32, (i64, i64)>,
    /// Why the first record did not become a fact, if one did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_dead_letter: Option<String>,
    /// Files that could not be read, or not to their end, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<UnreadFile>,
}

/// A file that could not be read, or not to its end.
#[derive(Clone, Debug, serde::Serialize)]
pub struct UnreadFile {
    /// Its name.
    pub file: String,
    /// Why, and what is written of it.
    pub error: String,
    #[serde(skip)]
    kind: ErrorKind,
}

impl UnreadFile {
    fn new(file: &str, e: &Error) -> Self {
        Self {
            file: file.to_owned(),
            error: e.to_string(),
            kind: e.kind(),
        }
    }
}

impl IngestReport {
    /// The error of files that could not be read; the others are written.
    pub fn unread_files(&self) -> Option<Error> {
        let first = self.unread.first()?;
        let all: Vec<&str> = self.unread.iter().map(|one| one.error.as_str()).collect();
        let text = format!(
            "{} of {} could not be read, the others are written:\n  {}",
            self.unread.len(),
            counted(self.files + self.unread.len() as u64, "file", "files"),
            all.join("\n  ")
        );
        Some(Error::of_kind(first.kind, text))
    }

    fn add(&mut self, partition: i32, start: i64, end: i64) {
        if start < end {
            let at = self.offsets.entry(partition).or_insert((start, end));
            *at = (at.0.min(start), at.1.max(end));
        }
    }
}

/// Where admitted chunks go.
pub(crate) enum Target {
    Daemon(Box<Client>),
    Log(Box<Direct>),
}

/// Lands without a daemon.
pub(crate) struct Direct {
    log: Arc<Log>,
    partition: PartitionId,
    pieces: Vec<PlacedFacts>,
    /// At which record of which content the pieces start.
    from: BTreeMap<String, u64>,
    records: u64,
    bytes: usize,
    next: Offset,
    start: Offset,
    dedup: Option<Dedup>,
    duplicates: u64,
    _slot: WalLock,
}

/// Ingests files. One that can't be read does not keep those after it from being ingested.
pub async fn ingest(context: &Context, args: &IngestArgs, progress: bool) -> Result<IngestReport> {
    let settings = context.topic_settings(&args.topic)?;
    if let Some(step) = context.project.step_to(&args.topic) {
        return Err(made_by_step(&args.topic, &step.name, &step.from));
    }
    let files = expand(&args.files)?;
    let mut checked = Vec::new();
    if args.strict {
        for file in &files {
            let input = open_input(file, progress).await?.spooled().await?;
            check_file(context, args, settings, &input).await?;
            checked.push(input);
        }
    }
    let mut checked = checked.into_iter();
    let mut target = Target::open(context, settings).await?;
    let mut report = IngestReport::default();
    for file in &files {
        let input = match checked.next() {
            Some(input) => Ok(input),
            None => open_input(file, progress).await,
        };
        let input = match input {
            Ok(input) => input,
            Err(e) if files.len() > 1 => {
                report.unread.push(UnreadFile::new(file, &e));
                continue;
            }
            Err(e) => return Err(e),
        };
        let one = ingest_file(
            context,
            args,
            settings,
            &input,
            &mut target,
            progress,
            &mut report,
        );
        match one.await? {
            None => {}
            Some(e) if files.len() == 1 => return Err(e),
            Some(e) => report.unread.push(UnreadFile::new(&input.name, &e)),
        }
    }
    Ok(report)
}

async fn open_input(file: &str, progress: bool) -> Result<Input> {
    match remote::is_url(file) {
        true => remote::open(file, progress).await,
        false => Ok(Input::local(file)),
    }
}

async fn admission(
    context: &Context,
    args: &IngestArgs,
    settings: &TopicSettings,
) -> Result<Arc<Admission>> {
    let topic = context.log(&args.topic).await?.topic().clone();
    let limit = context.project.daemon.max_record_bytes;
    let admission = Admission::new(
        &topic.field_schema(),
        &settings.event_time,
        settings.unknown_fields,
        usize::try_from(limit).unwrap_or(usize::MAX),
    );
    let admission = admission.map_err(|e| Error::Invalid(e.to_string()))?;
    Ok(Arc::new(admission.reading(&settings.fields)))
}

/// Looks at all records of a file.
///
/// # Errors
/// `Invalid` where one can't become a fact, or the file can't be read to its end.
async fn check_file(
    context: &Context,
    args: &IngestArgs,
    settings: &TopicSettings,
    input: &Input,
) -> Result<()> {
    let limit = context.project.daemon.max_record_bytes;
    let chunks = open_file(args, source_of(input), limit)?;
    let admission = admission(context, args, settings).await?;
    let name = input.name.clone();
    blocking(move || {
        for chunk in chunks {
            let chunk = chunk.map_err(file_error)?;
            let admitted = admission.chunk(&chunk);
            let admitted = admitted.map_err(|e| Error::Invalid(e.to_string()))?;
            if let Some(dead) = admitted.dead.first() {
                let place = place_of(chunk.first_record + dead.record, dead.line);
                return Err(Error::Invalid(format!(
                    "`{name}`: {place} can't become a fact: {}; nothing was written, because of `--strict`",
                    dead.reason
                )));
            }
        }
        Ok(())
    })
    .await
}

/// The place of a record in a file, for people.
fn place_of(record: u64, line: Option<u64>) -> String {
    match line {
        Some(line) => format!("record {record}, line {line}"),
        None => format!("record {record}"),
    }
}

/// Files that the arguments name; a pattern that matches nothing is an error.
fn expand(arguments: &[String]) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for argument in arguments {
        if argument == "-" || remote::is_url(argument) || Path::new(argument).exists() {
            files.push(argument.clone());
            continue;
        }
        let found = glob::glob(argument)
            .map_err(|e| Error::Invalid(format!("`{argument}`: {e}")))?
            .collect::<std::result::Result<Vec<PathBuf>, _>>()
            .map_err(|e| Error::Unavailable(format!("`{argument}`: {e}")))?;
        if found.is_empty() {
            return Err(Error::NotFound(format!("`{argument}`: no such file")));
        }
        files.extend(found.iter().map(|p| p.display().to_string()));
    }
    Ok(files)
}

fn identity(args: &IngestArgs, input: &Input) -> Result<String> {
    let id = match (&args.id, &input.path) {
        (Some(id), _) => id.clone(),
        (None, None) => {
            return Err(Error::Invalid(
                "standard input can't be read twice: name its content with `--id NAME`, so that the same content again adds nothing".into(),
            ));
        }
        (None, Some(path)) => {
            let mut reader = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
            hex::encode(files::sha256_of(&mut reader).map_err(|e| Error::io(path, e))?)
        }
    };
    Ok(match args.again {
        true => format!("{id}@{}", now_us()),
        false => id,
    })
}

/// The hash of what is ingested under a name.
enum Content {
    /// It has no name but its hash.
    Unnamed,
    /// It is known before anything is written.
    Known(String),
    /// It is known once all of standard input was read.
    Read(ContentDigest),
}

impl Content {
    /// What is read of an input, and its hash. Standard input whose name is known already is read
    /// before anything is written: it may be another content.
    fn open(args: &IngestArgs, input: &Input, known: bool) -> Result<(Source, Self)> {
        let named = args.id.is_some() && !args.again;
        let Some(path) = &input.path else {
            let name = "standard input".to_owned();
            let (reader, content): (Box<dyn std::io::Read + Send>, Self) = match (named, known) {
                (false, _) => return Ok((source_of(input), Self::Unnamed)),
                (true, false) => {
                    let (reader, digest) = Hashed::new(std::io::stdin());
                    (Box::new(reader), Self::Read(digest))
                }
                (true, true) => {
                    let (mut reader, digest) = Hashed::new(std::io::stdin());
                    let kept = spool(&mut reader)?;
                    (Box::new(kept), Self::Known(hash_of(&digest)?))
                }
            };
            return Ok((Source::Reader { name, reader }, content));
        };
        let content = match named {
            false => Self::Unnamed,
            true => {
                let mut reader = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
                let hash = files::sha256_of(&mut reader).map_err(|e| Error::io(path, e))?;
                Self::Known(hex::encode(hash))
            }
        };
        Ok((source_of(input), content))
    }

    /// The hash, once everything was read.
    fn finish(self) -> Result<Option<String>> {
        match self {
            Self::Unnamed => Ok(None),
            Self::Known(hash) => Ok(Some(hash)),
            Self::Read(digest) => hash_of(&digest).map(Some),
        }
    }
}

fn hash_of(digest: &ContentDigest) -> Result<String> {
    let hash = digest.finish(std::io::stdin());
    hash.map(hex::encode)
        .map_err(|e| Error::io("standard input", e))
}

/// Keeps a reader's content in a temporary file, which is read from its beginning.
fn spool(reader: &mut impl std::io::Read) -> Result<std::fs::File> {
    use std::io::Seek;
    let mut kept = || -> std::io::Result<std::fs::File> {
        let mut file = tempfile::tempfile()?;
        std::io::copy(reader, &mut file)?;
        file.rewind()?;
        Ok(file)
    };
    kept().map_err(|e| Error::io("a temporary file for standard input", e))
}

fn source_of(input: &Input) -> Source {
    match &input.path {
        None => Source::Reader {
            name: "standard input".into(),
            reader: Box::new(std::io::stdin()),
        },
        Some(path) => Source::Named {
            name: input.name.clone(),
            path: path.clone(),
        },
    }
}

fn open_file(args: &IngestArgs, source: Source, max_record_bytes: u64) -> Result<Chunks> {
    let format = match &args.input_format {
        None => None,
        Some(f) => Some(
            f.parse()
                .map_err(|e| Error::Invalid(format!("`--input-format`: {e}")))?,
        ),
    };
    let options = Options {
        format,
        max_record_bytes: usize::try_from(max_record_bytes).unwrap_or(usize::MAX),
        separator: args.separator,
    };
    files::open(source, &options).map_err(file_error)
}

fn file_error(e: files::FileError) -> Error {
    match e.kind() {
        anabranch_shared::ErrorKind::NotFound => Error::NotFound(e.to_string()),
        anabranch_shared::ErrorKind::Unavailable => Error::Unavailable(e.to_string()),
        _ => Error::Invalid(e.to_string()),
    }
}

/// Ingests a file. Returns the error of one that can't be read, or not to its end; others are errors.
async fn ingest_file(
    context: &Context,
    args: &IngestArgs,
    settings: &TopicSettings,
    input: &Input,
    target: &mut Target,
    progress: bool,
    report: &mut IngestReport,
) -> Result<Option<Error>> {
    let id = match identity(args, input) {
        Ok(id) => id,
        Err(e) if input.path.is_some() => return Ok(Some(e)),
        Err(e) => return Err(e),
    };
    let done = target.ingested(&args.topic, &id).await?;
    let opened = Content::open(args, input, done > 0).and_then(|(source, content)| {
        let limit = context.project.daemon.max_record_bytes;
        Ok((open_file(args, source, limit)?, content))
    });
    let (mut chunks, content) = match opened {
        Ok(opened) => opened,
        // Its beginning can't be read.
        Err(e) if e.kind() == ErrorKind::Invalid => {
            let text = format!("{e}; nothing of it was written");
            return Ok(Some(Error::of_kind(e.kind(), text)));
        }
        Err(e) => return Ok(Some(e)),
    };
    if let Content::Known(sha256) = &content {
        named::check(&context.storage, &args.topic, &id, sha256).await?;
    }
    chunks.skip_to(done);
    let admission = admission(context, args, settings).await?;
    let bar = bar(input, progress);
    let mut any = false;
    loop {
        let (next, rest) = blocking(move || Ok((chunks.next(), chunks))).await?;
        chunks = rest;
        let Some(chunk) = next else { break };
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(e) => {
                bar.finish_and_clear();
                target.flush(report).await?;
                context.storage.settle().await?;
                return Ok(Some(target.unfinished(&args.topic, &id, e).await?));
            }
        };
        any = true;
        bar.set_position(chunk.bytes_read);
        let (admission, source, id) = (admission.clone(), input.name.clone(), id.clone());
        let from = chunk.first_record;
        let (payload, unknown_fields, dead) = blocking(move || {
            let admitted = admission
                .chunk(&chunk)
                .map_err(|e| Error::Invalid(e.to_string()))?;
            let upto = from + admitted.record_count;
            let unknown_fields = admitted.unknown_fields;
            let dead = admitted.dead.first().map(|dead| {
                let place = place_of(from + dead.record, dead.line);
                format!("`{source}`, {place}: {}", dead.reason)
            });
            let payload = Payload::new(admitted, now_us(), Some((id, upto)), Some(source));
            Ok((payload, unknown_fields, dead))
        })
        .await?;
        target.write(&args.topic, payload, from, report).await?;
        report.unknown_fields += unknown_fields;
        report.first_dead_letter = report.first_dead_letter.take().or(dead);
    }
    target.flush(report).await?;
    drop(chunks);
    if (any || done > 0)
        && let Some(sha256) = content.finish()?
    {
        named::keep(&context.storage, &args.topic, &id, &sha256).await?;
    }
    // What is there already may be another process's, which did not come to make it durable.
    context.storage.settle().await?;
    bar.finish_and_clear();
    report.files += 1;
    report.repeated += u64::from(!any && done > 0);
    Ok(None)
}

fn bar(input: &Input, shown: bool) -> ProgressBar {
    let size = match &input.path {
        Some(path) => std::fs::metadata(path).map_or(0, |m| m.len()),
        None => 0,
    };
    if !shown || size == 0 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(size);
    let style = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.with_message(input.name.clone())
}

impl Target {
    /// The daemon where one runs, otherwise the log.
    pub(crate) async fn open(context: &Context, topic: &TopicSettings) -> Result<Self> {
        Ok(match Client::find(&context.storage).await? {
            Some(client) => Self::Daemon(Box::new(client)),
            None => Self::Log(Box::new(Direct::open(context, topic).await?)),
        })
    }

    async fn ingested(&self, topic: &str, id: &str) -> Result<u64> {
        match self {
            Self::Daemon(client) => client.ingested(topic, id).await,
            Self::Log(direct) => Ok(direct.log.ingested(id)),
        }
    }

    /// The error of a file that can't be read further, with what of it is written and how to go on.
    async fn unfinished(&self, topic: &str, id: &str, e: files::FileError) -> Result<Error> {
        let advice = match self.ingested(topic, id).await? {
            0 => "nothing of it was written; mend it and ingest it again".to_owned(),
            n => format!(
                "its first {n} records are written; mend it and ingest it with `--id {id}`, which goes on after them"
            ),
        };
        Ok(match file_error(e) {
            Error::Unavailable(text) => Error::Unavailable(format!("{text}; {advice}")),
            e => Error::Invalid(format!("{e}; {advice}")),
        })
    }

    async fn write(
        &mut self,
        topic: &str,
        payload: Payload,
        from: u64,
        report: &mut IngestReport,
    ) -> Result<()> {
        match self {
            Self::Daemon(client) => {
                let Some((id, _)) = payload.ingest.clone() else {
                    return Ok(());
                };
                let body = payload.encode()?;
                let written = client.write_payload(topic, body, &id, from).await?;
                if !written.repeated {
                    report.facts += written.facts;
                    report.dead_letters += written.dead_letters;
                    report.duplicates += written.duplicates;
                    report.add(written.partition, written.offsets[0], written.offsets[1]);
                }
                Ok(())
            }
            Self::Log(direct) => {
                direct.push(payload, from)?;
                match direct.records >= LANDING_RECORDS || direct.bytes >= LANDING_BYTES {
                    true => direct.land(report).await,
                    false => Ok(()),
                }
            }
        }
    }

    async fn flush(&mut self, report: &mut IngestReport) -> Result<()> {
        match self {
            Self::Daemon(_) => Ok(()),
            Self::Log(direct) => direct.land(report).await,
        }
    }
}

impl Writes for Target {
    async fn write_each(
        &mut self,
        topic: &str,
        payloads: BTreeMap<Place, Payload>,
    ) -> Result<Vec<(Place, Acknowledged)>> {
        match self {
            Self::Daemon(client) => client.write_payloads(topic, payloads).await,
            Self::Log(direct) => {
                let mut written = Vec::new();
                for (of, payload) in payloads {
                    written.push((of, direct.push_one(payload)?));
                }
                direct.land(&mut IngestReport::default()).await?;
                Ok(written)
            }
        }
    }
}

impl Direct {
    async fn open(context: &Context, settings: &TopicSettings) -> Result<Self> {
        let topic = &settings.name;
        let slot = free_slot(&context.project.daemon.wal)?;
        let owner = slot_id(slot.root())?;
        let own = match settings.kafka {
            Some(_) => OwnPartitions::PastSource,
            None => OwnPartitions::First,
        };
        let catalogue = &context.catalogue;
        let partition = catalogue.claim_partition(topic, &owner, own).await?;
        let log = context.log(topic).await?;
        let start = log.head().get(partition);
        let (pieces, next) = (Vec::new(), start);
        let dedup = match &settings.dedup {
            Some(dedup) => Some(Dedup::from_log(&log, dedup, now_us()).await?),
            None => None,
        };
        Ok(Self {
            log,
            partition,
            pieces,
            from: BTreeMap::new(),
            records: 0,
            bytes: 0,
            next,
            start,
            dedup,
            duplicates: 0,
            _slot: slot,
        })
    }

    fn push(&mut self, mut payload: Payload, from: u64) -> Result<()> {
        if let Some(dedup) = &mut self.dedup
            && let Some(keep) = dedup.check_facts(&payload.facts, payload.received_at_us)?
        {
            payload.keep(&keep)?;
            self.duplicates += payload.duplicates.len() as u64;
        }
        if let Some((id, _)) = &payload.ingest {
            self.from.entry(id.clone()).or_insert(from);
        }
        let (topic, schema) = self.log.declared();
        let piece = payload.at(&topic, &schema, self.partition, self.next)?;
        self.next = piece.range.end;
        self.records += payload.records;
        self.bytes += piece.bytes;
        self.pieces.push(piece);
        Ok(())
    }

    /// As [`Direct::push`], of a record with an identity of its own.
    fn push_one(&mut self, payload: Payload) -> Result<Acknowledged> {
        let start = self.next;
        let (id, _) = payload.ingest.clone().unwrap_or_default();
        let repeated = self.log.ingested(&id) > 0;
        let (facts, duplicates) = (payload.facts.num_rows() as u64, self.duplicates);
        if !repeated {
            self.push(payload, 0)?;
        }
        let duplicates = self.duplicates - duplicates;
        Ok(Acknowledged {
            facts: facts - duplicates,
            dead_letters: 0,
            duplicates,
            repeated,
            partition: self.partition.0,
            offsets: [start.0, self.next.0],
        })
    }

    async fn land(&mut self, report: &mut IngestReport) -> Result<()> {
        if self.start == self.next {
            return Ok(());
        }
        let mut landing = Landing {
            ranges: vec![(self.partition, OffsetRange::new(self.start, self.next))],
            ingested_before: std::mem::take(&mut self.from),
            ..Default::default()
        };
        for piece in self.pieces.drain(..) {
            report.facts += piece.facts.num_rows() as u64;
            report.dead_letters += piece.dead.as_ref().map_or(0, |d| d.num_rows() as u64);
            landing.facts.push(piece.facts);
            landing.dead_letters.extend(piece.dead);
            landing.ingested.extend(piece.ingest);
        }
        self.log.land(&landing, now_ms()).await?;
        report.duplicates += std::mem::take(&mut self.duplicates);
        report.add(self.partition.0, self.start.0, self.next.0);
        (self.start, self.records, self.bytes) = (self.next, 0, 0);
        Ok(())
    }
}

/// The first slot that no other ingest of this machine holds.
fn free_slot(wal: &Path) -> Result<WalLock> {
    for slot in 0..SLOTS {
        let dir = wal.join(format!("ingest-{slot}"));
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        if let Ok(lock) = WalLock::acquire(&dir) {
            return Ok(lock);
        }
    }
    Err(Error::Unavailable(format!(
        "{SLOTS} ingests run already; wait for one to end"
    )))
}

/// The id of a slot, made when the slot is first used. It is not made durable: nothing waits in a
/// slot, so an id that is lost costs a partition and no fact.
fn slot_id(dir: &Path) -> Result<String> {
    let path = dir.join("ID");
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.is_empty() => Ok(id),
        _ => {
            let id = format!("ingest-{}", Ids::default().fresh());
            std::fs::write(&path, &id).map_err(|e| Error::io(&path, e))?;
            Ok(id)
        }
    }
}

/// What came of it, in a line.
fn text(report: &IngestReport, topic: &str, took: Duration) -> String {
    let offsets: Vec<String> = report
        .offsets
        .iter()
        .map(|(p, (a, b))| format!("partition {p} [{a}, {b})"))
        .collect();
    let mut line = format!(
        "{}, {}, {}",
        counted(report.facts, "fact", "facts"),
        counted(report.dead_letters, "dead letter", "dead letters"),
        if offsets.is_empty() {
            "no offsets".to_owned()
        } else {
            offsets.join(", ")
        },
    );
    if report.duplicates > 0 {
        let duplicates = counted(report.duplicates, "duplicate", "duplicates");
        line += &format!(", {duplicates} left out");
    }
    if report.unknown_fields > 0 {
        let count = human_count(report.unknown_fields);
        line += &format!(", {count} with undeclared fields");
    }
    if report.repeated > 0 {
        let what = match (report.repeated, report.files) {
            (1, 1) => {
                "the file was ingested before and added nothing (`--again` ingests it once more)"
                    .to_owned()
            }
            (repeated, files) => format!(
                "{} of {} {} ingested before and added nothing (`--again` ingests them once more)",
                human_count(repeated),
                counted(files, "file", "files"),
                if repeated == 1 { "was" } else { "were" }
            ),
        };
        line += &format!("; {what}");
    }
    let mut text = format!(
        "{line}; {} ({})\n",
        human_duration(took),
        human_rate(report.facts, took)
    );
    if report.dead_letters > 0
        && let Some(first) = &report.first_dead_letter
    {
        text += &format!(
            "first dead letter: {}; see `anabranch dead-letters list --topic {topic}`\n",
            for_people(first)
        );
    }
    text
}

/// Ingests, and says what came of it.
pub(crate) async fn run(args: &IngestArgs, context: &Context, printing: Printing) -> Result<u8> {
    let terminal = std::io::stderr().is_terminal();
    let begun = Instant::now();
    let report = ingest(context, args, terminal).await?;
    printing.either(|| text(&report, &args.topic, begun.elapsed()), &report)?;
    if let Some(e) = report.unread_files() {
        return Err(e);
    }
    let fails = report.dead_letters > 0 && !args.allow_dead_letters;
    Ok(if fails { DEAD_LETTERS } else { 0 })
}
