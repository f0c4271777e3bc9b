//! Every decoder of bytes that a network or a file brings, as a function of bytes: none may panic, end
//! the process, or take memory by what the bytes say. Driven by the property test (`tests/fuzz.rs`) and
//! by cargo-fuzz (`fuzz/`), over the same corpus.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_shared::files::RealFiles;
use anabranch_shared::ipc::IpcLimit;
use anabranch_shared::settings::{Project, UnknownFields};
use anabranch_shared::table::Table;
use anabranch_shared::view::View;
use anabranch_shared::{
    Catalogue, Landing, Log, Offset, OffsetRange, PartitionId, Storage, Topic, TopicField,
    encode_parquet, settings::FieldType,
};
use anabranch_speed::intake::admission::Admission;
use anabranch_speed::intake::files::{Format, Options, Source, open};
use anabranch_speed::wal::{Record, Wal, WalOptions, wal_id};
use anabranch_speed::{Payload, decoders};
use arrow::array::RecordBatch;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use bytes::Bytes;

use crate::places;

/// The most that a request may have, in bytes.
const LIMIT: u64 = 8 << 20;

/// What decodes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// Bodies of requests, by content type and encoding.
    Body(&'static str, &'static str),
    /// What `anabranch ingest` sends, and the WAL holds.
    Payload,
    /// What another daemon answers.
    Held,
    /// A segment of the WAL, with its frames.
    Segment,
    /// A commit entry of a table.
    Entry,
    /// A checkpoint of a table.
    Checkpoint,
    /// An entry of the catalogue.
    Catalogue,
    /// `anabranch.toml`.
    Settings,
    /// The SQL of a view.
    ViewSql,
    /// Files.
    File(Format),
    /// The value of a Kafka message.
    KafkaValue,
    /// Messages of a client of PostgreSQL's protocol, and the values in them.
    Postgres,
}

/// All of them, by the names of their folders in the corpus.
pub const DECODERS: [(&str, Decoder); 20] = [
    ("body_ndjson", Decoder::Body("application/x-ndjson", "")),
    ("body_json", Decoder::Body("application/json", "")),
    ("body_csv", Decoder::Body("text/csv", "")),
    (
        "body_arrow",
        Decoder::Body("application/vnd.apache.arrow.stream", ""),
    ),
    ("body_gzip", Decoder::Body("application/x-ndjson", "gzip")),
    ("body_zstd", Decoder::Body("application/x-ndjson", "zstd")),
    ("payload", Decoder::Payload),
    ("held", Decoder::Held),
    ("segment", Decoder::Segment),
    ("entry", Decoder::Entry),
    ("checkpoint", Decoder::Checkpoint),
    ("catalogue", Decoder::Catalogue),
    ("settings", Decoder::Settings),
    ("view_sql", Decoder::ViewSql),
    ("file_csv", Decoder::File(Format::Csv)),
    ("file_ndjson", Decoder::File(Format::Ndjson)),
    ("file_parquet", Decoder::File(Format::Parquet)),
    ("file_arrow", Decoder::File(Format::Arrow)),
    ("kafka_value", Decoder::KafkaValue),
    ("postgres", Decoder::Postgres),
];

/// The decoder of a name.
pub fn named(name: &str) -> Option<Decoder> {
    let found = DECODERS.iter().find(|(n, _)| *n == name);
    found.map(|(_, decoder)| *decoder)
}

/// Where the corpus of a decoder is kept.
pub fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name)
}

const SETTINGS: &str = r#"
[storage]
url = "file://./data"
[daemon]
http = "127.0.0.1:0"
land_every = "100ms"
max_record_bytes = "1MB"
[topics.facts]
event_time = "ts"
[topics.facts.fields]
ts = "timestamp not null"
id = "bigint"
word = "varchar"
price = "decimal(10, 2)"
tags = "varchar[]"
[topics.facts.source.kafka]
brokers = "127.0.0.1:1"
topic = "facts"
[views.words]
sql = "words.sql"
"#;

const VIEW: &str = "SELECT date_trunc('minute', ts) AS minute, word, count(*) AS facts, sum(id) AS ids, approx_distinct(word) FILTER (WHERE id > 3) AS words FROM facts WHERE word IS NOT NULL GROUP BY 1, 2 HAVING count(*) > 1";

const LINES: &str = "{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":7,\"word\":\"a \\u00e9\",\"price\":12.34,\"tags\":[\"x\",null]}\n{\"ts\":1767225600000,\"id\":null,\"other\":{\"a\":[1,2.5e3,true]}}\n";

/// What decoders need besides bytes.
pub struct Bench {
    topic: Topic,
    admission: Admission,
    settings: Project,
    dir: tempfile::TempDir,
    storage: Storage,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    /// A topic with a view, a table and a WAL.
    pub fn new() -> anyhow::Result<Self> {
        let field = |name: &str, field_type, nullable| TopicField {
            name: name.into(),
            field_type,
            nullable,
            reads: anabranch_shared::settings::FieldReads::default(),
        };
        let topic = Topic {
            name: "facts".into(),
            event_time: "ts".into(),
            fields: vec![
                field("ts", FieldType::Timestamp, false),
                field("id", FieldType::BigInt, true),
                field("word", FieldType::Varchar, true),
            ],
        };
        let admission = Admission::new(&topic.field_schema(), "ts", UnknownFields::Keep, 1 << 20)?;
        let dir = places::folder()?;
        std::fs::write(dir.path().join("words.sql"), VIEW)?;
        let path = dir.path().join("anabranch.toml");
        let settings = Project::parse(SETTINGS, &path, &|_| None)?;
        let storage = Storage::folder(&dir.path().join("data"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let bench = Self {
            topic,
            admission,
            settings,
            dir,
            storage,
            runtime,
        };
        bench.fill()?;
        Ok(bench)
    }

    fn log_file(&self, name: &str) -> PathBuf {
        let log = "data/topics/facts/log/_delta_log";
        self.dir.path().join(log).join(name)
    }

    fn checkpoint_file(&self) -> PathBuf {
        self.log_file(&format!("{:020}.checkpoint.parquet", 2))
    }

    fn entry_file(&self) -> PathBuf {
        self.log_file(&format!("{:020}.json", 3))
    }

    fn catalogue_file(&self) -> PathBuf {
        self.dir
            .path()
            .join(format!("data/catalogue/{:020}.json", 1))
    }

    fn segment_file(&self) -> PathBuf {
        self.dir.path().join(format!("wal/facts/{:020}.wal", 0))
    }

    fn payload(&self) -> anyhow::Result<Bytes> {
        let admitted = self
            .admission
            .ndjson(&Bytes::from_static(LINES.as_bytes()))?;
        Ok(Payload::new(admitted, 5, None, Some("a source".into())).encode()?)
    }

    fn facts(&self) -> anyhow::Result<RecordBatch> {
        let admitted = self
            .admission
            .ndjson(&Bytes::from_static(LINES.as_bytes()))?;
        Ok(admitted.facts)
    }

    /// Lands some facts, with a checkpoint and an entry after it; writes a WAL and a catalogue.
    fn fill(&self) -> anyhow::Result<()> {
        let payload = self.payload()?;
        self.runtime.block_on(async {
            let log = Log::open(&self.storage, &self.topic, 1).await?;
            for n in 0..3 {
                let range = OffsetRange::new(Offset(2 * n), Offset(2 * n + 2));
                let limit = IpcLimit {
                    bytes: LIMIT,
                    name: "a test's",
                };
                let read = Payload::decode(&payload, limit)?;
                let piece = read.at(
                    &self.topic,
                    &self.topic.schema(),
                    PartitionId(0),
                    range.start,
                )?;
                let landing = Landing {
                    ranges: vec![(PartitionId(0), range)],
                    facts: vec![piece.facts],
                    ..Default::default()
                };
                log.land(&landing, 1).await?;
                if n == 1 {
                    log.table().write_checkpoint().await?;
                }
            }
            let catalogue = Catalogue::open(&self.storage).await?;
            catalogue.declare_topic(&self.topic).await?;
            anyhow::Ok(())
        })?;
        let root = self.dir.path().join("wal");
        std::fs::create_dir_all(&root)?;
        wal_id(&root, &RealFiles, || uuid_of_tests().to_owned())?;
        let options = WalOptions::default();
        let (mut wal, _) = Wal::open(&root, "facts", options, Arc::new(RealFiles))?;
        for first in [0, 2, 4] {
            let end = first + 2;
            let payload = payload.clone();
            wal.append(&[Record {
                first,
                end,
                payload,
            }])?;
        }
        Ok(())
    }

    /// Decodes bytes. What they are no one asks: only that this returns.
    pub fn decode(&self, decoder: Decoder, bytes: &[u8]) {
        let body = Bytes::copy_from_slice(bytes);
        match decoder {
            Decoder::Body(kind, encoding) => {
                decoders::body(&self.admission, body, (kind, encoding), LIMIT).ok();
            }
            Decoder::Payload => {
                let limit = IpcLimit {
                    bytes: LIMIT,
                    name: "a test's",
                };
                if let Ok(payload) = Payload::decode(&body, limit) {
                    payload.check(&self.topic, Some(0)).ok();
                }
            }
            Decoder::Held => {
                let view = View::compile("words", "SELECT count(*) AS c FROM facts", &self.topic);
                let views = view.into_iter().map(Arc::new).collect();
                decoders::held(&body, &self.topic, views, LIMIT).ok();
            }
            Decoder::Segment => {
                if std::fs::write(self.segment_file(), bytes).is_ok() {
                    let root = self.dir.path().join("wal");
                    Wal::look(&root, "facts", &RealFiles).ok();
                }
            }
            Decoder::Entry => self.table(&self.entry_file(), bytes),
            Decoder::Checkpoint => self.table(&self.checkpoint_file(), bytes),
            Decoder::Catalogue => {
                if std::fs::write(self.catalogue_file(), bytes).is_ok() {
                    self.runtime.block_on(Catalogue::open(&self.storage)).ok();
                }
            }
            Decoder::Settings => {
                let path = self.dir.path().join("anabranch.toml");
                let text = String::from_utf8_lossy(bytes);
                Project::parse(&text, &path, &|_| None).ok();
            }
            Decoder::ViewSql => {
                let text = String::from_utf8_lossy(bytes);
                View::compile("words", &text, &self.topic).ok();
            }
            Decoder::File(format) => {
                let reader = Box::new(std::io::Cursor::new(body));
                let name = "a file".to_owned();
                let options = Options {
                    format: Some(format),
                    max_record_bytes: 1 << 20,
                    separator: None,
                };
                let Ok(chunks) = open(Source::Reader { name, reader }, &options) else {
                    return;
                };
                for chunk in chunks.take(8).map_while(Result::ok) {
                    self.admission.chunk(&chunk).ok();
                }
            }
            Decoder::KafkaValue => {
                let topic = self.settings.topics.iter().find(|t| t.name == "facts");
                if let Some(kafka) = topic.and_then(|t| t.kafka.as_ref()) {
                    decoders::kafka_value(&self.admission, kafka, bytes).ok();
                }
            }
            Decoder::Postgres => {
                self.runtime
                    .block_on(anabranch_serving::read_postgres(bytes))
                    .ok();
            }
        }
    }

    fn table(&self, file: &Path, bytes: &[u8]) {
        if std::fs::write(file, bytes).is_ok() {
            let root = "topics/facts/log";
            self.runtime.block_on(Table::open(&self.storage, root)).ok();
        }
    }

    /// Bytes that decode well, of each form that there is.
    pub fn seeds(&self, decoder: Decoder) -> anyhow::Result<Vec<Vec<u8>>> {
        let lines = LINES.as_bytes();
        let csv = b"ts,id,word,other\n2026-01-01T00:00:00Z,7,\"a \"\"b\"\"\n\",x\n2026-01-02,,,\n";
        let streams = || -> anyhow::Result<Vec<Vec<u8>>> {
            let facts = self.facts()?;
            let packed = [
                None,
                Some(CompressionType::ZSTD),
                Some(CompressionType::LZ4_FRAME),
            ];
            packed.into_iter().map(|c| stream(&facts, c)).collect()
        };
        Ok(match decoder {
            Decoder::Body(_, "gzip") => vec![gzip(lines)?],
            Decoder::Body(_, "zstd") => vec![zstd::encode_all(lines, 1)?],
            Decoder::Body("text/csv", _) => vec![csv.to_vec()],
            Decoder::Body("application/json", _) => {
                vec![format!("[{}]", LINES.trim_end().replace('\n', ",\n")).into_bytes()]
            }
            Decoder::Body(kind, _) if kind.contains("arrow") => streams()?,
            Decoder::Body(_, _) | Decoder::KafkaValue => vec![lines.to_vec()],
            Decoder::Postgres => vec![postgres_session()],
            Decoder::Payload => vec![self.payload()?.to_vec()],
            Decoder::Held => vec![decoders::held_nothing(&self.topic)?.to_vec()],
            Decoder::Segment => vec![std::fs::read(self.segment_file())?],
            Decoder::Entry => vec![std::fs::read(self.entry_file())?],
            Decoder::Checkpoint => vec![std::fs::read(self.checkpoint_file())?],
            Decoder::Catalogue => vec![std::fs::read(self.catalogue_file())?],
            Decoder::Settings => vec![SETTINGS.into()],
            Decoder::ViewSql => vec![VIEW.into()],
            Decoder::File(Format::Csv | Format::Tsv) => {
                vec![
                    csv.to_vec(),
                    gzip(csv)?,
                    zstd::encode_all(csv.as_slice(), 1)?,
                ]
            }
            Decoder::File(Format::Ndjson) => {
                vec![lines.to_vec(), gzip(lines)?, zstd::encode_all(lines, 1)?]
            }
            Decoder::File(Format::Parquet) => {
                let facts = self.facts()?;
                let file =
                    encode_parquet("f".into(), &facts.schema(), std::slice::from_ref(&facts), 0)?;
                let mut other = parquet::arrow::ArrowWriter::try_new(
                    Vec::new(),
                    facts.schema(),
                    Some(
                        parquet::file::properties::WriterProperties::builder()
                            .set_compression(parquet::basic::Compression::GZIP(Default::default()))
                            .build(),
                    ),
                )?;
                other.write(&facts)?;
                vec![file.body.to_vec(), other.into_inner()?]
            }
            Decoder::File(Format::Arrow) => {
                let facts = self.facts()?;
                let mut writer = FileWriter::try_new(Vec::new(), &facts.schema())?;
                writer.write(&facts)?;
                writer.finish()?;
                let mut all = streams()?;
                all.push(writer.into_inner()?);
                all
            }
        })
    }
}

fn uuid_of_tests() -> &'static str {
    "6f0e2f4e-5d8c-4f6e-9a37-0d0f6e1b7a11"
}

fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes)?;
    Ok(out.finish()?)
}

fn stream(facts: &RecordBatch, compression: Option<CompressionType>) -> anyhow::Result<Vec<u8>> {
    let options = IpcWriteOptions::default().try_with_compression(compression)?;
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new_with_options(&mut out, &facts.schema(), options)?;
    writer.write(facts)?;
    writer.finish()?;
    drop(writer);
    Ok(out)
}

/// A session of a client: its beginning, a query, and a statement with values in both forms.
fn postgres_session() -> Vec<u8> {
    let mut bytes = b"\0\0\0\x14\0\x03\0\0user\0me\0\0\0".to_vec();
    let mut message = |kind: u8, body: &[u8]| {
        bytes.push(kind);
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
    };
    message(b'Q', b"SELECT 1; SET a = 'b'; COPY (SELECT 1) TO STDOUT\0");
    message(b'P', b"s\0SELECT $1, $2\0\0\x02\0\0\0\x14\0\0\0\0");
    let list = [1, 0, 20, 1, 1, 0, 8, 0, 7].map(i32::to_be_bytes).concat();
    let mut bind = b"p\0s\0\0\x01\0\x01\0\x03".to_vec();
    for value in [&7_i64.to_be_bytes()[..], b"{1,\"a\"}", &list] {
        bind.extend((value.len() as u32).to_be_bytes());
        bind.extend(value);
    }
    bind.extend(b"\0\x01\0\x01");
    message(b'B', &bind);
    message(b'D', b"Pp\0");
    message(b'E', b"p\0\0\0\0\x05");
    message(b'S', b"");
    bytes
}
