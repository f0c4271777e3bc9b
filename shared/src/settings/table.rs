//! The one table of settings: every name with its type, default and meaning. The parser reads
//! through it, the template and the reference are written from it.

use std::marker::PhantomData;
use std::time::Duration;

use super::choice::{
    Ack, DeadLetterShare, LogFormat, RegionName, ServerUrl, StorageUrl, UnknownFields,
};
use super::field_reads::EpochUnit;
use super::gate::Limit;
use super::kafka::{KafkaStart, OnGap, PartitionList, Tombstones, Word};
use super::steps::{Command, StepProtocol};
use super::value::{
    Address, BasePath, Count, FieldName, FieldNames, FileMode, HostList, Nice, OriginList,
    PeriodOrOff, ProjectPath, Schedule, SettingValue, Size, SizeOrOff, Terms, Threads, ViewName,
    ZoneName, minutes,
};

/// A table of `anabranch.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Storage,
    Daemon,
    Http,
    Postgres,
    Flight,
    Users,
    Tls,
    Audit,
    Batch,
    Build,
    Query,
    Log,
    Topic,
    Field,
    Kafka,
    Dedup,
    Retention,
    Reference,
    Step,
    View,
    Gate,
    GateColumn,
}

impl Section {
    pub(super) const ALL: [Self; 22] = [
        Self::Storage,
        Self::Daemon,
        Self::Http,
        Self::Postgres,
        Self::Flight,
        Self::Users,
        Self::Tls,
        Self::Audit,
        Self::Batch,
        Self::Build,
        Self::Query,
        Self::Log,
        Self::Topic,
        Self::Field,
        Self::Kafka,
        Self::Dedup,
        Self::Retention,
        Self::Reference,
        Self::Step,
        Self::View,
        Self::Gate,
        Self::GateColumn,
    ];

    /// The key at the top of the file that the section is under.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Daemon => "daemon",
            Self::Http => "http",
            Self::Postgres | Self::Flight => "doors",
            Self::Users => "users",
            Self::Tls => "tls",
            Self::Audit => "audit",
            Self::Batch => "batch",
            Self::Build => "build",
            Self::Query => "query",
            Self::Log => "log",
            Self::Topic | Self::Field | Self::Kafka | Self::Dedup | Self::Retention => "topics",
            Self::Reference => "references",
            Self::Step => "steps",
            Self::View | Self::Gate | Self::GateColumn => "views",
        }
    }

    /// The section's header, with NAME where a topic or view is named.
    pub(super) fn header(self) -> String {
        match self {
            Self::Topic | Self::Reference | Self::Step | Self::View => {
                format!("[{}.NAME]", self.key())
            }
            Self::Postgres => format!("[{}.postgres]", self.key()),
            Self::Flight => format!("[{}.flight]", self.key()),
            Self::Field => "[topics.NAME.fields.FIELD]".to_owned(),
            Self::Kafka => "[topics.NAME.source.kafka]".to_owned(),
            Self::Dedup => format!("[{}.NAME.dedup]", self.key()),
            Self::Retention => format!("[{}.NAME.retention]", self.key()),
            Self::Gate => format!("[{}.NAME.gate]", self.key()),
            Self::GateColumn => format!("[{}.NAME.gate.columns.COLUMN]", self.key()),
            _ => format!("[{}]", self.key()),
        }
    }

    /// What the section is about, in one line.
    pub(super) fn doc(self) -> &'static str {
        match self {
            Self::Storage => "Where everything durable is.",
            Self::Daemon => "The speed layer: `anabranch up` and `anabranch speed`.",
            Self::Http => "What the daemon takes over HTTP, and from whom.",
            Self::Postgres => {
                "Queries over PostgreSQL's protocol: psql, BI tools, every PostgreSQL driver. Off unless `listen` is written."
            }
            Self::Flight => {
                "Queries and bulk ingest over Arrow Flight SQL: ADBC, JDBC, notebooks. Off unless `listen` is written."
            }
            Self::Users => {
                "Who may do what, at every door. Without `file` everybody may do everything."
            }
            Self::Tls => "Encryption of every door. Without `certificate` there is none.",
            Self::Audit => {
                "What users asked, as facts of the topic `_audit`, which `admin` alone reads. Where there are no users nothing is written."
            }
            Self::Batch => "The batch layer: refreshes, rebuilds, verifications.",
            Self::Build => "Building generations beside those that answer: `anabranch apply`.",
            Self::Query => "Answers to queries.",
            Self::Log => "What `anabranch up`, `speed` and `schedule` write to standard error.",
            Self::Topic => "One table for each topic.",
            Self::Field => {
                "A field with more than its type, also written as `FIELD = { type = \"timestamp\", epoch = \"seconds\" }`."
            }
            Self::Kafka => {
                "Where a topic's facts come from Kafka: values are JSON objects, Confluent-framed or not."
            }
            Self::Dedup => "Duplicates of a topic: counted, and left out.",
            Self::Retention => {
                "Which facts of a topic are removed, once its views hold them: views go on counting them."
            }
            Self::Reference => {
                "One table for each reference: of each key the latest row of a topic, which facts are joined with."
            }
            Self::Step => {
                "One table for each step: a program in any language, or SQL, that makes the facts of one topic into facts of another."
            }
            Self::View => "One table for each view.",
            Self::Gate => {
                "How far a new generation of the view may differ: `anabranch apply` stops before the cut-over where it goes past this."
            }
            Self::GateColumn => {
                "The same of one column; `\"*\"` stands for all that have none of their own."
            }
        }
    }

    /// The section's settings, in the order of the table.
    pub(super) fn rows(self) -> impl Iterator<Item = &'static dyn Row> {
        TABLE
            .iter()
            .copied()
            .filter(move |row| row.section() == self)
    }
}

/// What holds where a setting is not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fallback {
    /// This value, as TOML.
    Default(String),
    /// The setting is off; the example shows one that is on.
    Unset { example: &'static str },
    /// An error.
    Required { example: &'static str },
}

/// A setting, whatever its type.
pub(super) trait Row: Sync {
    fn section(&self) -> Section;
    fn key(&self) -> &'static str;
    fn type_name(&self) -> &'static str;
    fn doc(&self) -> &'static str;
    fn fallback(&self) -> Fallback;
}

/// A setting whose kind of value and fallback are known to the compiler.
pub(super) struct Setting<F> {
    pub(super) section: Section,
    pub(super) key: &'static str,
    pub(super) doc: &'static str,
    pub(super) absent: F,
}

/// How a kind of setting behaves where it is absent.
pub(super) trait Absent: Sync {
    const TYPE: &'static str;
    fn fallback(&self) -> Fallback;
}

/// A default makes the value always there.
pub(super) struct Defaulted<T>(pub(super) fn() -> T);

impl<T: SettingValue> Absent for Defaulted<T> {
    const TYPE: &'static str = T::TYPE;
    fn fallback(&self) -> Fallback {
        Fallback::Default(self.0().write())
    }
}

/// Off unless written.
pub(super) struct Optional<T> {
    pub(super) example: &'static str,
    kind: PhantomData<fn() -> T>,
}

impl<T: SettingValue> Absent for Optional<T> {
    const TYPE: &'static str = T::TYPE;
    fn fallback(&self) -> Fallback {
        Fallback::Unset {
            example: self.example,
        }
    }
}

/// Wrong unless written.
pub(super) struct Required<T> {
    pub(super) example: &'static str,
    kind: PhantomData<fn() -> T>,
}

impl<T: SettingValue> Absent for Required<T> {
    const TYPE: &'static str = T::TYPE;
    fn fallback(&self) -> Fallback {
        Fallback::Required {
            example: self.example,
        }
    }
}

impl<F: Absent> Row for Setting<F> {
    fn section(&self) -> Section {
        self.section
    }
    fn key(&self) -> &'static str {
        self.key
    }
    fn type_name(&self) -> &'static str {
        F::TYPE
    }
    fn doc(&self) -> &'static str {
        self.doc
    }
    fn fallback(&self) -> Fallback {
        self.absent.fallback()
    }
}

const fn optional<T>(example: &'static str) -> Optional<T> {
    Optional {
        example,
        kind: PhantomData,
    }
}

const fn required<T>(example: &'static str) -> Required<T> {
    Required {
        example,
        kind: PhantomData,
    }
}

/// A table of the user's own keys, read by hand; wrong unless written.
pub(super) struct OwnKeys {
    pub(super) example: &'static str,
}

impl Absent for OwnKeys {
    const TYPE: &'static str = "table of fields";
    fn fallback(&self) -> Fallback {
        Fallback::Required {
            example: self.example,
        }
    }
}

/// A table of the user's own keys or of further tables, read by hand; may be absent.
pub(super) struct OptionalTable {
    pub(super) example: &'static str,
}

impl Absent for OptionalTable {
    const TYPE: &'static str = "table";
    fn fallback(&self) -> Fallback {
        Fallback::Unset {
            example: self.example,
        }
    }
}

/// Declares the settings and lists them, so that none can be declared and not listed.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $absent:ty = $section:ident . $key:literal, $value:expr;)+) => {
        $(pub(super) static $name: Setting<$absent> = Setting {
            section: Section::$section,
            key: $key,
            doc: concat!($($doc),+).trim_ascii(),
            absent: $value,
        };)+

        /// Every setting, in the order of the reference.
        pub(super) static TABLE: &[&dyn Row] = &[$(&$name),+];
    };
}

settings! {
    /// Where the log and the views are: a folder (relative to the project) or s3://BUCKET/PREFIX.
    URL: Defaulted<StorageUrl> = Storage."url", Defaulted(|| StorageUrl("file://./data".to_owned()));

    /// URL of an S3 server other than AWS, `AWS_ENDPOINT_URL` otherwise; keys come from the environment.
    ENDPOINT: Optional<ServerUrl> = Storage."endpoint", optional("\"http://127.0.0.1:9000\"");
    /// Region of the bucket; otherwise `AWS_REGION`, or us-east-1.
    REGION: Optional<RegionName> = Storage."region", optional("\"eu-central-1\"");
    /// Whether the bucket is in the path of a request, not in its host; true where `endpoint` is set.
    PATH_STYLE: Optional<bool> = Storage."path_style", optional("true");
    /// Replaced files stay this long: longer than the longest query, of other engines too.
    GRACE: Defaulted<Duration> = Storage."grace", Defaulted(|| minutes(60));
    /// Files that no commit names stay this long: longer than the longest build or export.
    ORPHAN_GRACE: Defaulted<Duration> = Storage."orphan_grace", Defaulted(|| minutes(24 * 60));
    /// How long the history of jobs, the retries of dead letters and what was ingested are remembered, or "off" for ever: a file that is ingested again after that adds its facts again.
    HISTORY_FOR: Defaulted<PeriodOrOff> = Storage."history_for", Defaulted(|| PeriodOrOff(Some(minutes(90 * 24 * 60))));
    /// Files of a topic's log below this size are merged with their neighbours; "off" for never.
    COMPACT_BELOW: Defaulted<SizeOrOff> = Storage."compact_below", Defaulted(|| SizeOrOff(Some(32_000_000)));
    /// Merged files of a log have about this size, and take that much memory while they are made.
    COMPACT_TO: Defaulted<Size> = Storage."compact_to", Defaulted(|| Size::megabytes(128));
    /// Rights of the files of a storage that is a folder; its folders may also be entered by who may read.
    MODE: Defaulted<FileMode> = Storage."mode", Defaulted(|| FileMode(0o640));

    /// Address that HTTP is served on: ingestion, queries, state.
    HTTP: Defaulted<Address> = Daemon."http", Defaulted(|| Address("127.0.0.1:8787".to_owned()));
    /// Address under which other machines reach the daemon, where `http` is not it.
    ADVERTISE: Optional<Address> = Daemon."advertise", optional("\"10.0.0.7:8787\"");
    /// Folder of the WAL (relative to the project), on a disk that keeps what it fsyncs.
    WAL: Defaulted<ProjectPath> = Daemon."wal", Defaulted(|| ProjectPath("wal".to_owned()));
    /// Facts land in the log at least this often.
    LAND_EVERY: Defaulted<Duration> = Daemon."land_every", Defaulted(|| Duration::from_secs(5));
    /// Facts land as soon as this many wait.
    LAND_FACTS: Defaulted<Count> = Daemon."land_facts", Defaulted(|| Count(500_000));
    /// Facts land as soon as this much of the WAL waits.
    LAND_BYTES: Defaulted<Size> = Daemon."land_bytes", Defaulted(|| Size::megabytes(256));
    /// The most that the WAL may hold; beyond it intake is refused until facts have landed.
    WAL_BYTES: Defaulted<Size> = Daemon."wal_bytes", Defaulted(|| Size::megabytes(4_000));
    /// The most memory for the speed layer's facts and deltas.
    DAEMON_MEMORY: Defaulted<Size> = Daemon."memory", Defaulted(|| Size::megabytes(2_000));
    /// The most of `wal`'s disk for deltas that `memory` has no room for, or "off"; of temporary files, for those of a command.
    SPILL: Defaulted<SizeOrOff> = Daemon."spill", Defaulted(|| SizeOrOff(Some(4_000_000_000)));
    /// The most bytes of request bodies that are taken in at once; beyond it requests get 503.
    REQUEST_MEMORY: Defaulted<Size> = Daemon."request_memory", Defaulted(|| Size::megabytes(512));
    /// The largest request body that is taken.
    MAX_REQUEST_BYTES: Defaulted<Size> = Daemon."max_request_bytes", Defaulted(|| Size::megabytes(256));
    /// The largest single record that is taken.
    MAX_RECORD_BYTES: Defaulted<Size> = Daemon."max_record_bytes", Defaulted(|| Size::megabytes(16));
    /// A request with an `Idempotency-Key` may be repeated for so long.
    IDEMPOTENCY_WINDOW: Defaulted<Duration> = Daemon."idempotency_window", Defaulted(|| minutes(60));
    /// The most such keys of a topic in that time; beyond it requests with a key are refused.
    IDEMPOTENCY_KEYS: Defaulted<Count> = Daemon."idempotency_keys", Defaulted(|| Count(1_000_000));
    /// Commits of the log between two checkpoints of its Delta table.
    CHECKPOINT_EVERY: Defaulted<Count> = Daemon."checkpoint_every", Defaulted(|| Count(100));
    /// How often files are merged, and those removed that nothing needs any more.
    MAINTAIN_EVERY: Defaulted<Duration> = Daemon."maintain_every", Defaulted(|| minutes(10));
    /// A query waits so long for another daemon of the storage; then it answers without, and says so.
    PEER_TIMEOUT: Defaulted<Duration> = Daemon."peer_timeout", Defaulted(|| Duration::from_secs(2));
    /// Stopping takes at most so long: facts land, answers end. What has not landed by then stays in the WAL.
    SHUTDOWN_TIMEOUT: Defaulted<Duration> = Daemon."shutdown_timeout", Defaulted(|| Duration::from_secs(25));

    /// Names, with commas between them, under which the daemon is reached, besides localhost, addresses and the machine's own name; pages of these may write. Unset, other machines may use any name, and pages only the latter; set, any other name is refused.
    HOSTS: Optional<HostList> = Http."hosts", optional("\"facts.example.org, console.example.org\"");
    /// Origins, with commas between them, whose pages may ask and send: a browser lets them. Unset, none but the daemon's own and those of `hosts`.
    ORIGINS: Optional<OriginList> = Http."origins", optional("\"https://app.example.org\"");
    /// Path under which a proxy passes requests on without taking it off, besides the daemon's own paths.
    BASE: Optional<BasePath> = Http."base", optional("\"/facts\"");
    /// The most connections, and never more than half of the process's descriptors; beyond it only state is answered.
    CONNECTIONS: Defaulted<Count> = Http."connections", Defaulted(|| Count(2_000));
    /// The most connections from one address, and never more than three quarters of all.
    CONNECTIONS_PER_ADDRESS: Defaulted<Count> = Http."connections_per_address", Defaulted(|| Count(500));
    /// The headers of a request come within this time; a connection that is idle for so long is closed.
    HEADER_TIMEOUT: Defaulted<Duration> = Http."header_timeout", Defaulted(|| Duration::from_secs(30));
    /// A request's body may take this long, and more for what comes at `least_rate`; then it gets 408.
    BODY_TIMEOUT: Defaulted<Duration> = Http."body_timeout", Defaulted(|| Duration::from_secs(30));
    /// What of a body has to come in a second once `body_timeout` is over.
    LEAST_RATE: Defaulted<Size> = Http."least_rate", Defaulted(|| Size(16_000));

    /// Address on which the daemon answers. One that other machines reach needs `[users]` and `[tls]`.
    POSTGRES_LISTEN: Optional<Address> = Postgres."listen", optional("\"127.0.0.1:5433\"");
    /// The most sessions at once; more are refused, and told so.
    POSTGRES_CONNECTIONS: Defaulted<Count> = Postgres."connections", Defaulted(|| Count(200));
    /// The largest message of a client: a statement with its values.
    POSTGRES_MESSAGE: Defaulted<Size> = Postgres."max_message", Defaulted(|| Size::megabytes(16));

    /// Address on which the daemon answers. One that other machines reach needs `[users]` and `[tls]`.
    FLIGHT_LISTEN: Optional<Address> = Flight."listen", optional("\"127.0.0.1:5434\"");
    /// The most connections at once; over a few more every call is refused, and further ones are closed.
    FLIGHT_CONNECTIONS: Defaulted<Count> = Flight."connections", Defaulted(|| Count(200));
    /// The largest message of a client: a batch of facts, or a statement with its values.
    FLIGHT_MESSAGE: Defaulted<Size> = Flight."max_message", Defaulted(|| Size::megabytes(64));

    /// The file of users and what each may do; `anabranch users` writes it, and it is read again as it changes.
    USERS_FILE: Optional<ProjectPath> = Users."file", optional("\"users.toml\"");
    /// Whether doors that other machines reach let everybody do everything.
    NO_USERS: Defaulted<bool> = Users."insecure_no_users", Defaulted(|| false);

    /// The daemon's certificate in PEM, followed by those that vouch for it; it is read again as it changes.
    CERTIFICATE: Optional<ProjectPath> = Tls."certificate", optional("\"server.crt\"");
    /// The certificate's key in PEM: PKCS#8, SEC1 or RSA. Unset, it is in the certificate's file.
    KEY: Optional<ProjectPath> = Tls."key", optional("\"server.key\"");
    /// Whether doors that other machines reach encrypt nothing.
    NO_TLS: Defaulted<bool> = Tls."insecure_no_tls", Defaulted(|| false);

    /// Whether a fact is written of each statement: who asked, through which door, its fingerprint, its rows, its time, what became of it.
    AUDIT_STATEMENTS: Defaulted<bool> = Audit."statements", Defaulted(|| true);
    /// Whether statements are refused while that can't be written; else those are counted of which it was not.
    AUDIT_REQUIRED: Defaulted<bool> = Audit."required", Defaulted(|| false);
    /// How long these facts are kept.
    AUDIT_KEEP: Defaulted<Duration> = Audit."keep", Defaulted(|| minutes(90 * 24 * 60));

    /// The most memory for a refresh, rebuild or verification.
    BATCH_MEMORY: Defaulted<Size> = Batch."memory", Defaulted(|| Size::megabytes(1_000));
    /// Threads of a job; 0 for all cores.
    BATCH_THREADS: Defaulted<Threads> = Batch."threads", Defaulted(|| Threads(0));

    /// Threads of such a build; 0 for all cores. What answers meanwhile goes before.
    BUILD_THREADS: Defaulted<Threads> = Build."threads", Defaulted(|| Threads(1));
    /// The most memory for such a build, and for comparing what it made.
    BUILD_MEMORY: Defaulted<Size> = Build."memory", Defaulted(|| Size::megabytes(1_000));
    /// How far the process that builds steps back behind others that want the same processors, from 0, not at all, to 19.
    BUILD_NICE: Defaulted<Nice> = Build."nice", Defaulted(|| Nice(10));
    /// What was built and not cut over to is given up after so long; until then retention waits for it.
    BUILD_HOLD: Defaulted<Duration> = Build."hold", Defaulted(|| minutes(7 * 24 * 60));

    /// The most memory for queries, all together.
    QUERY_MEMORY: Defaulted<Size> = Query."memory", Defaulted(|| Size::megabytes(2_000));
    /// A query that takes longer is cancelled; the time counts from when it comes.
    TIMEOUT: Defaulted<Duration> = Query."timeout", Defaulted(|| minutes(5));
    /// Threads of queries; 0 for all cores.
    QUERY_THREADS: Defaulted<Threads> = Query."threads", Defaulted(|| Threads(0));
    /// Queries that run at once.
    AT_ONCE: Defaulted<Count> = Query."at_once", Defaulted(|| Count(16));
    /// Queries that wait for their turn; further ones get 503.
    WAITING: Defaulted<Count> = Query."waiting", Defaulted(|| Count(100));
    /// Resident memory of the process from which on queries get 503 and the largest that runs is stopped; unset, twice `memory` and what `[daemon]` and `[batch]` may take, and 1 GB, but at most nine tenths of the machine's memory.
    PROCESS_MEMORY: Optional<Size> = Query."process_memory", optional("\"12GB\"");
    /// The most disk for temporary files of queries, beside the WAL, or "off".
    QUERY_SPILL: Defaulted<SizeOrOff> = Query."spill", Defaulted(|| SizeOrOff(Some(10_000_000_000)));
    /// The longest statement that is taken.
    MAX_STATEMENT_BYTES: Defaulted<Size> = Query."max_statement_bytes", Defaulted(|| Size::megabytes(1));
    /// The most names, keywords and operators of a statement; literals don't count, what is in a WITH counts as often as it is used.
    MAX_TERMS: Defaulted<Terms> = Query."max_terms", Defaulted(|| Terms(5_000));
    /// The most that one call of a function may make for a batch of rows, such as `repeat`, `range` or `||`.
    MAX_FUNCTION_BYTES: Defaulted<Size> = Query."max_function_bytes", Defaulted(|| Size::megabytes(256));
    /// Verifications by the daemon (`verify --daemon`) that run at once; further ones get 503.
    VERIFICATIONS: Defaulted<Count> = Query."verifications", Defaulted(|| Count(2));
    /// Such a verification that takes longer is stopped.
    VERIFY_TIMEOUT: Defaulted<Duration> = Query."verify_timeout", Defaulted(|| minutes(60));
    /// The most facts of a view that an answer as of a moment that has passed may fold anew.
    AS_OF_FACTS: Defaulted<Count> = Query."as_of_facts", Defaulted(|| Count(50_000_000));

    /// The form of an event: text, or a JSON object on a line; `ANABRANCH_LOG_FORMAT` goes before it.
    LOG_FORMAT: Defaulted<LogFormat> = Log."format", Defaulted(|| LogFormat::Text);
    /// A query that takes this long is written to the log with its time and rows, or "off".
    SLOW_QUERY: Defaulted<PeriodOrOff> = Log."slow_query", Defaulted(|| PeriodOrOff(Some(Duration::from_secs(10))));

    /// The field that says when a fact happened: declared as `timestamp not null`.
    EVENT_TIME: Required<FieldName> = Topic."event_time", required("\"ts\"");
    /// When a producer is answered: "wal" after fsync in the WAL, "landed" after the commit in storage.
    ACK: Defaulted<Ack> = Topic."ack", Defaulted(|| Ack::Wal);
    /// Undeclared fields: "keep" them as JSON in `_extra`, "ignore" them, or "reject" the record.
    UNKNOWN_FIELDS: Defaulted<UnknownFields> = Topic."unknown_fields", Defaulted(|| UnknownFields::Keep);
    /// The fields and their SQL types, as `[topics.NAME.fields]`; nullable unless `not null`.
    FIELDS: OwnKeys = Topic."fields", OwnKeys { example: "{ ts = \"timestamp not null\" }" };

    /// The field's SQL type, as it is written where the type is all there is to say.
    FIELD_TYPE: Required<Word> = Field."type", required("\"timestamp not null\"");
    /// What numbers, and texts of numbers, count from 1970 on, in a timestamp; unset, they are refused.
    EPOCH: Optional<EpochUnit> = Field."epoch", optional("\"milliseconds\"");
    /// The zone of times that name none, such as 2026-11-01 12:00:00, in a timestamp; of an hour that comes twice, its first.
    FIELD_TIMEZONE: Defaulted<ZoneName> = Field."timezone", Defaulted(|| ZoneName("UTC".to_owned()));
    /// Whether a text of a number is the number, in a field of numbers; decimals read it in any case, and real and double "NaN", "Infinity" and "-Infinity".
    FROM_TEXT: Defaulted<bool> = Field."from_text", Defaulted(|| false);

    /// Where facts come from besides HTTP and `ingest`: Kafka, whose settings are below.
    SOURCE: OptionalTable = Topic."source", OptionalTable { example: "{ kafka = { brokers = \"HOST:9092\" } }" };

    /// Addresses of some brokers, HOST:PORT, with commas between them.
    BROKERS: Required<Word> = Kafka."brokers", required("\"127.0.0.1:9092\"");
    /// Kafka's topic; unset, it has the topic's own name.
    KAFKA_TOPIC: Optional<Word> = Kafka."topic", optional("\"pageviews\"");
    /// The id that Kafka's topic has now, as the error shows it, where it may be read on
    /// although it is another one than before: a copy of the same offsets.
    TOPIC_ID: Optional<Word> = Kafka."topic_id", optional("\"4xTQr0FqTcOOKNCWpoQWxw\"");
    /// Consumer group of the daemons that share the topic; unset, one of this storage's own:
    /// "anabranch-NAME-" and the beginning of the id of the topic's log. Positions are the log's,
    /// so another group reads nothing twice.
    GROUP: Optional<Word> = Kafka."group", optional("\"anabranch-pageviews\"");
    /// Partitions that this daemon reads; unset, the group assigns them.
    PARTITIONS: Optional<PartitionList> = Kafka."partitions", optional("\"0-3,7\"");
    /// Where a partition of which nothing has landed is read from.
    START: Defaulted<KafkaStart> = Kafka."start", Defaulted(|| KafkaStart::Earliest);
    /// Where Kafka has removed unread messages: "stop" the topic, or "record" the gap in the log and go on.
    ON_GAP: Defaulted<OnGap> = Kafka."on_gap", Defaulted(|| OnGap::Stop);
    /// Messages without a value, as compacted topics have them: "dead_letter", or "skip"; facts with
    /// `tombstone_field`.
    TOMBSTONES: Defaulted<Tombstones> = Kafka."tombstones", Defaulted(|| Tombstones::DeadLetter);
    /// Boolean field that is true in the fact which a message without a value becomes, with its key, time
    /// stamp and headers: what `deleted_when` of a reference asks for.
    TOMBSTONE_FIELD: Optional<FieldName> = Kafka."tombstone_field", optional("\"deleted\"");
    /// Field that takes a message's key: its text, without a schema registry's frame, or its bytes
    /// where the field is `binary`.
    KEY_FIELD: Optional<FieldName> = Kafka."key_field", optional("\"visitor\"");
    /// Field that takes a message's time stamp.
    TIMESTAMP_FIELD: Optional<FieldName> = Kafka."timestamp_field", optional("\"ts\"");
    /// Headers and the fields that take them, as `[topics.NAME.source.kafka.headers]`.
    HEADERS: OptionalTable = Kafka."headers", OptionalTable { example: "{ trace = \"trace_id\" }" };
    /// Passed through to librdkafka (SASL, TLS, …), as `[topics.NAME.source.kafka.properties]`. Its
    /// own defaults hold, but for `session.timeout.ms = 10000`, `group.instance.id` (the WAL's id,
    /// so that a daemon gets its partitions back after a restart; `""` for a member without a
    /// name), `fetch.queue.backoff.ms = 10` and `queued.min.messages = 1000000`.
    PROPERTIES: OptionalTable = Kafka."properties", OptionalTable { example: "{ \"security.protocol\" = \"SASL_SSL\" }" };
    /// The most bytes of messages that wait in memory before they are admitted.
    PREFETCH: Defaulted<Size> = Kafka."prefetch", Defaulted(|| Size::megabytes(64));

    /// Facts whose key was seen within a window are left out; its settings are below.
    DEDUP: OptionalTable = Topic."dedup", OptionalTable { example: "{ key = \"event_id\", window = \"1h\", memory = \"256MB\" }" };
    /// The oldest facts are removed from the log; its settings are below. Unset, they stay for ever.
    RETENTION: OptionalTable = Topic."retention", OptionalTable { example: "{ age = \"30d\", size = \"100GB\" }" };
    /// `/ready` is red while more than this share of five minutes' records are dead letters, or "off".
    DEAD_LETTER_SHARE: Defaulted<DeadLetterShare> = Topic."dead_letter_share", Defaulted(|| DeadLetterShare::Percent(50));
    /// With fewer dead letters than this in five minutes `/ready` does not turn red.
    DEAD_LETTER_COUNT: Defaulted<Count> = Topic."dead_letter_count", Defaulted(|| Count(100));

    /// Dead letters are kept at least so long, or "off" for ever; upkeep removes them by the file.
    DEAD_LETTERS_FOR: Defaulted<PeriodOrOff> = Topic."dead_letters_for", Defaulted(|| PeriodOrOff(Some(minutes(90 * 24 * 60))));

    /// The field that tells facts apart, of any type but real, double and lists; NULL is no duplicate.
    DEDUP_KEY: Required<FieldName> = Dedup."key", required("\"event_id\"");
    /// A key is remembered at least so long after its fact was admitted.
    DEDUP_WINDOW: Defaulted<Duration> = Dedup."window", Defaulted(|| minutes(60));
    /// The most memory for keys, about 40 bytes each; over it the window is shortened.
    DEDUP_MEMORY: Defaulted<Size> = Dedup."memory", Defaulted(|| Size::megabytes(256));

    /// Facts that landed longer ago than this go, up to an eighth of it later.
    RETENTION_AGE: Optional<Duration> = Retention."age", optional("\"30d\"");
    /// The oldest facts go while the files of the log hold more than this, an eighth of it at a time.
    RETENTION_SIZE: Optional<Size> = Retention."size", optional("\"100GB\"");

    /// The topic whose latest rows it has; one without retention.
    REFERENCE_TOPIC: Required<Word> = Reference."topic", required("\"content\"");
    /// The fields that tell its rows apart, with commas between them; of any type but real, double and lists.
    REFERENCE_KEY: Required<FieldNames> = Reference."key", required("\"url\"");
    /// The field by which the latest is known; among equals the one that was admitted last.
    LATEST_BY: Required<FieldName> = Reference."latest_by", required("\"version_ts\"");
    /// The fields that it has besides its key and `latest_by`, with commas between them; unset, all.
    REFERENCE_FIELDS: Optional<FieldNames> = Reference."fields", optional("\"author, section\"");
    /// A condition over the topic's fields: a key whose latest row meets it is not there.
    DELETED_WHEN: Optional<Word> = Reference."deleted_when", optional("\"deleted\"");
    /// The most memory that its rows may take in a process.
    REFERENCE_MEMORY: Defaulted<Size> = Reference."memory", Defaulted(|| Size::megabytes(1_000));

    /// The topic whose facts it takes.
    STEP_FROM: Required<Word> = Step."from", required("\"raw_pageviews\"");
    /// The topic whose facts it makes. It has one step, no source, and takes no facts of anybody else.
    STEP_TO: Required<Word> = Step."to", required("\"pageviews\"");
    /// The program and its arguments; it runs in the project's folder.
    STEP_RUN: Optional<Command> = Step."run", optional("[\"python3\", \"steps/NAME.py\"]");
    /// File with a SELECT over `from`, relative to the project, in the place of a program: filters, expressions, `unnest`.
    STEP_SQL: Optional<ProjectPath> = Step."sql", optional("\"steps/NAME.sql\"");
    /// The most facts that it makes of one, which the offsets in `to` follow from: fixed once facts have landed there.
    STEP_MOST: Defaulted<Count> = Step."most", Defaulted(|| Count(16));
    /// What is spoken with the program: "arrow" for streams of Arrow's IPC format, "storm" for Storm's multi-language protocol.
    STEP_PROTOCOL: Defaulted<StepProtocol> = Step."protocol", Defaulted(|| StepProtocol::Arrow);
    /// How many of the program run at once.
    STEP_PROCESSES: Defaulted<Count> = Step."processes", Defaulted(|| Count(1));
    /// Facts that are alike in these fields go to the same process, in order; unset, they are divided evenly.
    STEP_GROUP_BY: Optional<FieldNames> = Step."group_by", optional("\"url\"");
    /// How long the program may take over a batch, and to begin; then it is ended and begun again.
    STEP_TIMEOUT: Defaulted<Duration> = Step."timeout", Defaulted(|| Duration::from_secs(60));
    /// The most resident memory that a process may take; then it is ended and begun again.
    STEP_MEMORY: Defaulted<Size> = Step."memory", Defaulted(|| Size::megabytes(1_000));
    /// The most facts of a batch.
    STEP_BATCH: Defaulted<Count> = Step."batch", Defaulted(|| Count(16_384));

    /// File with the view's SELECT, relative to the project.
    SQL: Required<ProjectPath> = View."sql", required("\"views/NAME.sql\"");
    /// How often the view absorbs the facts that landed since.
    REFRESH_EVERY: Optional<Duration> = View."refresh_every", optional("\"5m\"");
    /// When the view is rebuilt from the whole log: minute hour day month weekday.
    REBUILD_CRON: Optional<Schedule> = View."rebuild_cron", optional("\"0 3 * * *\"");
    /// When the view is compared with its definition over the log: minute hour day month weekday.
    VERIFY_CRON: Optional<Schedule> = View."verify_cron", optional("\"0 4 * * 0\"");
    /// Time zone of the two schedules.
    TIMEZONE: Defaulted<ZoneName> = View."timezone", Defaulted(|| ZoneName("UTC".to_owned()));
    /// Also write one finished row a key for other engines, anew after each job: `views/NAME/export`.
    EXPORT: Defaulted<bool> = View."export", Defaulted(|| false);
    /// How long the former generation is kept fresh after a cut-over, so that a roll-back is exact at once; "off" for not at all.
    KEEP_PREVIOUS: Defaulted<PeriodOrOff> = View."keep_previous", Defaulted(|| PeriodOrOff(Some(minutes(24 * 60))));
    /// The name that the view had before: `apply` makes it of the states of that one, which it takes the place of.
    MOVED: Optional<ViewName> = View."moved", optional("\"post_minutes\"");
    /// How far a new generation may differ; its settings are below.
    GATE: OptionalTable = View."gate", OptionalTable { example: "{ rows_changed = \"5%\", keys_lost = 0 }" };

    /// Rows of both generations whose values differ, at most.
    ROWS_CHANGED: Optional<Limit> = Gate."rows_changed", optional("\"5%\"");
    /// Rows that the new generation lacks, at most.
    KEYS_LOST: Optional<Limit> = Gate."keys_lost", optional("0");
    /// Rows that only the new generation has, at most.
    KEYS_NEW: Optional<Limit> = Gate."keys_new", optional("\"1%\"");
    /// Which rows are judged, as a condition over the view's columns: history must not move.
    GATE_WHERE: Optional<Word> = Gate."where", optional("\"minute < now() - INTERVAL '1 day'\"");
    /// Limits of single columns; their settings are below.
    COLUMNS_OF_GATE: OptionalTable = Gate."columns", OptionalTable { example: "{ page_views = { total_changed = \"1%\" } }" };

    /// Rows of both generations in which the column differs, at most.
    COLUMN_ROWS_CHANGED: Optional<Limit> = GateColumn."rows_changed", optional("\"5%\"");
    /// By how much the column's total over all rows changes, at most.
    TOTAL_CHANGED: Optional<Limit> = GateColumn."total_changed", optional("\"1%\"");
}

/// The reference of all settings, for people: each table with the name, type, default and meaning
/// of its keys. Ends with a newline.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from("Settings of a project, in its `anabranch.toml`.\n");
    for section in Section::ALL {
        let cells: Vec<[String; 4]> = section.rows().map(cells).collect();
        let width = |column: usize| {
            let lengths = cells.iter().map(|row| row[column].chars().count());
            lengths.max().unwrap_or(0)
        };
        let widths = [width(0), width(1), width(2)];
        text.push_str(&format!("\n{}  {}\n", section.header(), section.doc()));
        for [key, kind, fallback, doc] in &cells {
            let [a, b, c] = widths;
            text.push_str(&format!("  {key:a$}  {kind:b$}  {fallback:c$}  {doc}\n"));
        }
    }
    text.push_str(NOTES);
    text
}

fn cells(row: &dyn Row) -> [String; 4] {
    let fallback = match row.fallback() {
        Fallback::Default(toml) => toml,
        Fallback::Unset { .. } => "unset".to_owned(),
        Fallback::Required { .. } => "required".to_owned(),
    };
    [
        row.key().to_owned(),
        row.type_name().to_owned(),
        fallback,
        row.doc().to_owned(),
    ]
}

const NOTES: &str = "
Types of fields: boolean, tinyint, smallint, int, bigint, real, double, decimal(p,s), varchar, binary,
date, timestamp (UTC, microseconds), and TYPE[] for a list; nullable unless followed by `not null`.
Durations: \"500ms\", \"30s\", \"5m\", \"1h 30m\". Sizes: \"256MB\" (powers of 1000), \"256MiB\" (powers of
1024) or bytes. `${VAR}` in a string is replaced from the environment; `$${VAR}` stands for `${VAR}`.
Names of topics, references and views: a-z, 0-9 and _, beginning with a letter, at most 63 characters.
";
