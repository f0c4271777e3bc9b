//! A user's project: the settings in `anabranch.toml` and the SQL file of each view, read, checked
//! and with every default filled in. Owns the names, types, defaults and meanings of all settings
//! and the messages about wrong ones; it doesn't open storage and doesn't plan SQL.

mod access;
mod choice;
mod dedup;
mod document;
mod environment;
mod field_reads;
mod field_type;
mod gate;
mod in_force;
mod kafka;
mod reader;
mod references;
mod retention;
mod run;
mod steps;
mod table;
mod template;
mod topics;
mod value;
mod views;

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use self::choice::resolve;
use self::reader::{Reader, Table};
use self::table::Section;
use crate::error::settings::SourceText;
use crate::layout;

pub use self::access::{AUDIT, AuditSettings, TlsFiles, TlsSettings, UsersSettings};
pub use self::choice::{Ack, DeadLetterShare, LogFormat, UnknownFields};
pub use self::dedup::DedupSettings;
pub use self::document::document;
pub use self::field_reads::{EpochUnit, FieldReads, Zone};
pub use self::field_type::{FieldType, FieldTypeError};
pub use self::gate::{ColumnGate, GateSettings, Limit};
pub use self::in_force::{SettingInForce, in_force};
pub use self::kafka::{KafkaSettings, KafkaStart, OnGap, Tombstones};
pub use self::references::ReferenceSettings;
pub use self::retention::RetentionSettings;
pub use self::run::RunSettings;
pub use self::steps::{StepProgram, StepProtocol, StepRuns, StepSettings};
pub use self::table::reference;
pub use self::template::template;
pub use self::topics::{FieldSettings, TopicSettings};
pub use self::views::ViewSettings;
pub use crate::error::settings::{Problem, SettingsError};

/// Name of the settings file in a project's folder.
pub const FILE_NAME: &str = "anabranch.toml";

const LONGEST_NAME: usize = 63;
/// Tables of Anabranch's own that queries see beside topics and views.
const RESERVED_NAMES: [&str; 3] = ["dead_letters", layout::DEAD_LETTER_RETRIES, layout::JOBS];

/// A user's project with every setting filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    /// The project's folder.
    pub dir: PathBuf,
    /// Where the log and the views are.
    pub storage: StorageSettings,
    /// The speed layer and its landing.
    pub daemon: DaemonSettings,
    /// What the daemon takes over HTTP.
    pub http: HttpSettings,
    /// Queries over PostgreSQL's protocol.
    pub postgres: PostgresSettings,
    /// Queries and bulk ingest over Arrow Flight SQL.
    pub flight: FlightSettings,
    /// Who may do what.
    pub users: UsersSettings,
    /// Encryption of the doors.
    pub tls: TlsSettings,
    /// What is written of what users ask.
    pub audit: AuditSettings,
    /// Refreshes, rebuilds and verifications.
    pub batch: BatchSettings,
    /// Building generations beside those that answer.
    pub build: BuildSettings,
    /// Answers to queries.
    pub query: QuerySettings,
    /// What daemons and schedulers write to their log.
    pub log: LogSettings,
    /// The topics, in the order of the file; no two have one name.
    pub topics: Vec<TopicSettings>,
    /// The references, in the order of the file; no two have one name, and none has a topic's.
    pub references: Vec<ReferenceSettings>,
    /// The steps, in the order of the file; no two have one name or one `to`, and they go in no circle.
    pub steps: Vec<StepSettings>,
    /// The views, in the order of the file; no two have one name, and none has a topic's.
    pub views: Vec<ViewSettings>,
}

/// `[storage]`: where everything durable is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageSettings {
    /// A folder, as a path or a `file://` URL and relative to the project's; or
    /// `s3://BUCKET/PREFIX`. Nothing is percent-decoded.
    pub url: String,
    /// URL of an S3 server, without a slash at its end; the environment's where absent.
    pub endpoint: Option<String>,
    /// Region of the bucket; the environment's where absent.
    pub region: Option<String>,
    /// Whether the bucket is in the path of a request and not in its host.
    pub path_style: Option<bool>,
    /// How long replaced files stay; longer than a query may take.
    pub grace: Duration,
    /// How long files stay that no commit names; at least `grace`.
    pub orphan_grace: Duration,
    /// How long rows about jobs and retries, and what was ingested, are kept; for ever where absent.
    pub history_for: Option<Duration>,
    /// Files of a log with fewer bytes than this are merged; never where absent.
    pub compact_below_bytes: Option<u64>,
    /// About how many bytes a merged file of a log has; at least `compact_below_bytes`.
    pub compact_to_bytes: u64,
    /// Rights of the files of a folder, as `chmod` takes them.
    pub mode: u32,
}

/// `[daemon]`: the speed layer and its landing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSettings {
    /// Address that HTTP is served on, `HOST:PORT`.
    pub http: String,
    /// Address under which other machines reach the daemon; that of `http` where absent.
    pub advertise: Option<String>,
    /// Folder of the WAL, joined to the project's.
    pub wal: PathBuf,
    /// Facts land at least this often.
    pub land_every: Duration,
    /// Facts land as soon as this many wait; at least 1.
    pub land_facts: u64,
    /// Facts land as soon as this many bytes of the WAL wait; at least 1.
    pub land_bytes: u64,
    /// The most bytes that the WAL may hold; at least 1.
    pub wal_bytes: u64,
    /// The most bytes of memory for facts and deltas; at least 1.
    pub memory_bytes: u64,
    /// The most bytes of disk for deltas that memory has no room for; 0 for none.
    pub spill_bytes: u64,
    /// The most bytes of request bodies that are taken in at once; at least 1.
    pub request_memory_bytes: u64,
    /// The largest request body, in bytes; at least 1.
    pub max_request_bytes: u64,
    /// The largest record, in bytes; at least 1.
    pub max_record_bytes: u64,
    /// How long a request with an idempotency key may be repeated.
    pub idempotency_window: Duration,
    /// The most such keys of a topic in that time; at least 1.
    pub idempotency_keys: u64,
    /// Commits of the log between two checkpoints; at least 1.
    pub checkpoint_every: u64,
    /// How often the storage is kept in shape.
    pub maintain_every: Duration,
    /// How long another daemon may take to begin its answer to what a query asks it.
    pub peer_timeout: Duration,
    /// How long stopping may take.
    pub shutdown_timeout: Duration,
}

/// `[http]`: what the daemon takes over HTTP, and from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// More names under which the daemon is reached, in small letters; where there are any, no others
    /// are taken.
    pub hosts: Vec<String>,
    /// Origins whose pages may ask and send, as browsers say them.
    pub origins: Vec<String>,
    /// Path before the daemon's own, as a proxy leaves it.
    pub base: Option<String>,
    /// The most connections; at least 1.
    pub connections: usize,
    /// The most connections from one address; at least 1.
    pub connections_per_address: usize,
    /// How long the headers of a request may take, and how long a connection may be idle.
    pub header_timeout: Duration,
    /// How long the body of a request may take, however small it is.
    pub body_timeout: Duration,
    /// Bytes of a body that have to come in a second after that; at least 1.
    pub least_rate: u64,
}

/// `[doors.postgres]`: queries over PostgreSQL's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSettings {
    /// Address on which the daemon answers, `HOST:PORT`; it does not where absent.
    pub listen: Option<String>,
    /// The most sessions at once; at least 1.
    pub connections: usize,
    /// The largest message of a client, in bytes; at least 1.
    pub max_message_bytes: usize,
}

/// `[doors.flight]`: queries and bulk ingest over Arrow Flight SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlightSettings {
    /// Address on which the daemon answers, `HOST:PORT`; it does not where absent.
    pub listen: Option<String>,
    /// The most connections at once; at least 1.
    pub connections: usize,
    /// The largest message of a client, in bytes; at least 1.
    pub max_message_bytes: usize,
}

/// `[batch]`: refreshes, rebuilds and verifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSettings {
    /// The most bytes of memory for a job; at least 1.
    pub memory_bytes: u64,
    /// Threads of a job; 0 for all cores.
    pub threads: usize,
}

/// `[build]`: building generations beside those that answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSettings {
    /// Threads of a build; 0 for all cores.
    pub threads: usize,
    /// The most bytes of memory for a build; at least 1.
    pub memory_bytes: u64,
    /// How far the process that builds steps back behind others, from 0 to 19.
    pub nice: u8,
    /// How long what was built and not cut over to is kept.
    pub hold: Duration,
}

/// `[query]`: answers to queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuerySettings {
    /// The most bytes of memory for queries, all together; at least 1.
    pub memory_bytes: u64,
    /// A query that takes longer is cancelled.
    pub timeout: Duration,
    /// Threads of queries; 0 for all cores.
    pub threads: usize,
    /// Queries that run at once; at least 1.
    pub at_once: u64,
    /// Queries that may wait for their turn; at least 1.
    pub waiting: u64,
    /// Bytes of resident memory from which on queries are refused and stopped; found from the other
    /// settings where absent.
    pub process_bytes: Option<u64>,
    /// The most bytes of disk for temporary files; 0 for none.
    pub spill_bytes: u64,
    /// The longest statement, in bytes; at least 1.
    pub max_statement_bytes: u64,
    /// The most names, keywords and operators of a statement; at least 1.
    pub max_terms: usize,
    /// The most bytes that a call of a function may make; at least 1.
    pub max_function_bytes: u64,
    /// Verifications by the daemon that run at once; at least 1.
    pub verifications: u64,
    /// Such a verification that takes longer is stopped.
    pub verify_timeout: Duration,
    /// The most facts of a view that an answer of the past may fold anew; at least 1.
    pub as_of_facts: u64,
}

/// `[log]`: what daemons and schedulers write to their log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// The form of an event.
    pub format: LogFormat,
    /// A query that takes this long is written to the log; none is where absent.
    pub slow_query: Option<Duration>,
}

impl Project {
    /// Loads the project in the folder `dir`: its `anabranch.toml`, with variables from the
    /// process's environment, and the SQL files that it names.
    ///
    /// # Errors
    /// [`SettingsError::Missing`] where there is no settings file, [`SettingsError::Unreadable`]
    /// where it can't be read, [`SettingsError::Invalid`] with all problems found in it.
    pub fn load(dir: &Path) -> Result<Self, SettingsError> {
        let path = dir.join(FILE_NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // An empty path means the current folder, which a message has to name.
                let here = dir.as_os_str().is_empty();
                let dir = if here { Path::new(".") } else { dir }.to_path_buf();
                return Err(SettingsError::Missing { dir });
            }
            Err(source) => return Err(SettingsError::Unreadable { path, source }),
        };
        Self::parse(&text, &path, &|name| std::env::var(name).ok())
    }

    /// Reads the settings `text` as the file `path`, whose folder is the project's; reads the SQL
    /// files that it names. `environment` gives the value of a variable, if it is set.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] with all problems found.
    pub fn parse(
        text: &str,
        path: &Path,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let dir = path.parent().unwrap_or(Path::new(""));
        let mut reader = Reader::new(SourceText { text, path }, environment);
        let (root, errors) = DeTable::parse_recoverable(text);
        // What a broken file was meant to hold is not guessed at.
        if !errors.is_empty() {
            reader.report_syntax(&errors);
            return Err(SettingsError::Invalid {
                problems: reader.into_problems(),
            });
        }
        let project = Self::read(&mut reader, root.get_ref(), dir);
        let problems = reader.into_problems();
        if problems.is_empty() {
            Ok(project)
        } else {
            Err(SettingsError::Invalid { problems })
        }
    }

    /// The step that makes a topic's facts, if one does.
    #[must_use]
    pub fn step_to(&self, topic: &str) -> Option<&StepSettings> {
        self.steps.iter().find(|step| step.to == topic)
    }

    /// The steps that a topic's facts come through, the last one first.
    #[must_use]
    pub fn steps_up_to(&self, topic: &str) -> Vec<&StepSettings> {
        let last = self.step_to(topic);
        std::iter::successors(last, |step| self.step_to(&step.from)).collect()
    }

    /// Reads every section; what is wrong is on record at the reader.
    fn read<'t>(reader: &mut Reader<'_>, root: &'t DeTable<'t>, dir: &Path) -> Self {
        reader.refuse_unknown_sections(root);
        let storage = reader.section(root, Section::Storage);
        let daemon = reader.section(root, Section::Daemon);
        let http = reader.section(root, Section::Http);
        let doors = [(Section::Postgres, "postgres"), (Section::Flight, "flight")];
        let [postgres, flight] = reader.below(root, doors);
        let users = reader.section(root, Section::Users);
        let tls = reader.section(root, Section::Tls);
        let audit = reader.section(root, Section::Audit);
        let batch = reader.section(root, Section::Batch);
        let build = reader.section(root, Section::Build);
        let query = reader.section(root, Section::Query);
        let log = reader.section(root, Section::Log);
        let topic_tables = reader.named(root, Section::Topic);
        let mut topics = Vec::with_capacity(topic_tables.len());
        for (name, table) in &topic_tables {
            check_name(reader, "topic", name, table);
            topics.extend(topics::read(reader, name, table));
        }
        let (mut references, reference_tables) =
            (Vec::new(), reader.named(root, Section::Reference));
        for (name, table) in &reference_tables {
            check_name(reader, "reference", name, table);
            if topic_tables.iter().any(|(topic, _)| topic == name) {
                let message =
                    format!("reference `{name}` has the name of a topic; rename one of them");
                reader.report(&table.span, message);
            }
            references.extend(references::read(reader, name, table, &topics));
        }
        let (mut steps, step_tables) = (Vec::new(), reader.named(root, Section::Step));
        for (name, table) in &step_tables {
            check_name(reader, "step", name, table);
            steps.extend(steps::read(reader, dir, name, table, &topics));
        }
        steps::check_chains(reader, &steps, &step_tables);
        let (mut views, view_tables) = (Vec::new(), reader.named(root, Section::View));
        for (name, table) in &view_tables {
            check_name(reader, "view", name, table);
            if topic_tables.iter().any(|(topic, _)| topic == name) {
                let message = format!("view `{name}` has the name of a topic; rename one of them");
                reader.report(&table.span, message);
            }
            if reference_tables.iter().any(|(other, _)| other == name) {
                let message =
                    format!("view `{name}` has the name of a reference; rename one of them");
                reader.report(&table.span, message);
            }
            views.extend(views::read(reader, dir, name, table));
        }
        views::check_moved(reader, &views, &view_tables);
        let timeout = reader.value(&query, &table::TIMEOUT);
        let users = UsersSettings::read(reader, &users, dir);
        let audit = AuditSettings::read(reader, &audit);
        if users.file.is_some() && audit.statements {
            topics.push(audit.topic());
        }
        Self {
            dir: dir.to_path_buf(),
            storage: StorageSettings::read(reader, &storage, &query, timeout),
            daemon: DaemonSettings::read(reader, &daemon, dir),
            http: HttpSettings::read(reader, &http),
            postgres: PostgresSettings::read(reader, &postgres),
            flight: FlightSettings::read(reader, &flight),
            users,
            audit,
            tls: TlsSettings::read(reader, &tls, dir),
            batch: BatchSettings {
                memory_bytes: reader.value(&batch, &table::BATCH_MEMORY).0,
                threads: reader.value(&batch, &table::BATCH_THREADS).0,
            },
            build: BuildSettings {
                threads: reader.value(&build, &table::BUILD_THREADS).0,
                memory_bytes: reader.value(&build, &table::BUILD_MEMORY).0,
                nice: reader.value(&build, &table::BUILD_NICE).0,
                hold: reader.value(&build, &table::BUILD_HOLD),
            },
            query: QuerySettings {
                memory_bytes: reader.value(&query, &table::QUERY_MEMORY).0,
                timeout,
                threads: reader.value(&query, &table::QUERY_THREADS).0,
                at_once: reader.value(&query, &table::AT_ONCE).0,
                waiting: reader.value(&query, &table::WAITING).0,
                process_bytes: reader.optional(&query, &table::PROCESS_MEMORY).map(|b| b.0),
                spill_bytes: reader.value(&query, &table::QUERY_SPILL).0.unwrap_or(0),
                max_statement_bytes: reader.value(&query, &table::MAX_STATEMENT_BYTES).0,
                max_terms: reader.value(&query, &table::MAX_TERMS).0,
                max_function_bytes: reader.value(&query, &table::MAX_FUNCTION_BYTES).0,
                verifications: reader.value(&query, &table::VERIFICATIONS).0,
                verify_timeout: reader.value(&query, &table::VERIFY_TIMEOUT),
                as_of_facts: reader.value(&query, &table::AS_OF_FACTS).0,
            },
            log: LogSettings {
                format: reader.value(&log, &table::LOG_FORMAT),
                slow_query: reader.value(&log, &table::SLOW_QUERY).0,
            },
            topics,
            references,
            steps,
            views,
        }
    }
}

impl StorageSettings {
    /// `timeout` is that of `query`: what a query reads must not be removed under it.
    fn read(
        reader: &mut Reader<'_>,
        storage: &Table<'_>,
        query: &Table<'_>,
        timeout: Duration,
    ) -> Self {
        let settings = Self {
            url: reader.value(storage, &table::URL).0,
            endpoint: reader.optional(storage, &table::ENDPOINT).map(|e| e.0),
            region: reader.optional(storage, &table::REGION).map(|r| r.0),
            path_style: reader.optional(storage, &table::PATH_STYLE),
            grace: reader.value(storage, &table::GRACE),
            orphan_grace: reader.value(storage, &table::ORPHAN_GRACE),
            history_for: reader.value(storage, &table::HISTORY_FOR).0,
            compact_below_bytes: reader.value(storage, &table::COMPACT_BELOW).0,
            compact_to_bytes: reader.value(storage, &table::COMPACT_TO).0,
            mode: reader.value(storage, &table::MODE).0,
        };
        let text = |duration| humantime::format_duration(duration).to_string();
        let (grace, orphan_grace) = (text(settings.grace), text(settings.orphan_grace));
        let written = |table: &Table<'_>, key: &str| table.get(key).map(|value| value.span());
        if settings.grace <= timeout {
            let at = written(storage, "grace").or_else(|| written(query, "timeout"));
            let message = format!(
                "`grace` in `[storage]` is {grace}, and a query may take {} (`timeout` in `[query]`); make `grace` longer, or files are removed under it",
                text(timeout)
            );
            reader.report(&at.unwrap_or_default(), message);
        }
        if settings.orphan_grace < settings.grace {
            let at = written(storage, "orphan_grace").or_else(|| written(storage, "grace"));
            let message = format!(
                "`orphan_grace` in `[storage]` is {orphan_grace}, shorter than `grace`, {grace}; make it longer than the longest build"
            );
            reader.report(&at.unwrap_or_default(), message);
        }
        if settings.compact_below_bytes > Some(settings.compact_to_bytes) {
            let at = written(storage, "compact_to").or_else(|| written(storage, "compact_below"));
            let message = "`compact_to` in `[storage]` is smaller than `compact_below`, so merged files would be merged again and again; make it larger".to_owned();
            reader.report(&at.unwrap_or_default(), message);
        }
        settings
    }
}

impl DaemonSettings {
    fn read(reader: &mut Reader<'_>, daemon: &Table<'_>, dir: &Path) -> Self {
        let wal = reader.value(daemon, &table::WAL).0;
        Self {
            http: reader.value(daemon, &table::HTTP).0,
            advertise: reader.optional(daemon, &table::ADVERTISE).map(|a| a.0),
            wal: resolve(dir, Path::new(&wal)),
            land_every: reader.value(daemon, &table::LAND_EVERY),
            land_facts: reader.value(daemon, &table::LAND_FACTS).0,
            land_bytes: reader.value(daemon, &table::LAND_BYTES).0,
            wal_bytes: reader.value(daemon, &table::WAL_BYTES).0,
            memory_bytes: reader.value(daemon, &table::DAEMON_MEMORY).0,
            spill_bytes: reader.value(daemon, &table::SPILL).0.unwrap_or(0),
            request_memory_bytes: reader.value(daemon, &table::REQUEST_MEMORY).0,
            max_request_bytes: reader.value(daemon, &table::MAX_REQUEST_BYTES).0,
            max_record_bytes: reader.value(daemon, &table::MAX_RECORD_BYTES).0,
            idempotency_window: reader.value(daemon, &table::IDEMPOTENCY_WINDOW),
            idempotency_keys: reader.value(daemon, &table::IDEMPOTENCY_KEYS).0,
            checkpoint_every: reader.value(daemon, &table::CHECKPOINT_EVERY).0,
            maintain_every: reader.value(daemon, &table::MAINTAIN_EVERY),
            peer_timeout: reader.value(daemon, &table::PEER_TIMEOUT),
            shutdown_timeout: reader.value(daemon, &table::SHUTDOWN_TIMEOUT),
        }
    }
}

impl HttpSettings {
    fn read(reader: &mut Reader<'_>, http: &Table<'_>) -> Self {
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let hosts = reader.optional(http, &table::HOSTS);
        let origins = reader.optional(http, &table::ORIGINS);
        Self {
            hosts: hosts.map(|h| h.0).unwrap_or_default(),
            origins: origins.map(|o| o.0).unwrap_or_default(),
            base: reader.optional(http, &table::BASE).map(|base| base.0),
            connections: count(reader.value(http, &table::CONNECTIONS).0),
            connections_per_address: count(reader.value(http, &table::CONNECTIONS_PER_ADDRESS).0),
            header_timeout: reader.value(http, &table::HEADER_TIMEOUT),
            body_timeout: reader.value(http, &table::BODY_TIMEOUT),
            least_rate: reader.value(http, &table::LEAST_RATE).0,
        }
    }
}

impl PostgresSettings {
    fn read(reader: &mut Reader<'_>, postgres: &Table<'_>) -> Self {
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let listen = reader.optional(postgres, &table::POSTGRES_LISTEN);
        Self {
            listen: listen.map(|address| address.0),
            connections: count(reader.value(postgres, &table::POSTGRES_CONNECTIONS).0),
            max_message_bytes: count(reader.value(postgres, &table::POSTGRES_MESSAGE).0),
        }
    }
}

impl FlightSettings {
    fn read(reader: &mut Reader<'_>, flight: &Table<'_>) -> Self {
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let listen = reader.optional(flight, &table::FLIGHT_LISTEN);
        Self {
            listen: listen.map(|address| address.0),
            connections: count(reader.value(flight, &table::FLIGHT_CONNECTIONS).0),
            max_message_bytes: count(reader.value(flight, &table::FLIGHT_MESSAGE).0),
        }
    }
}

/// Refuses a name that is no plain SQL identifier, too long for tools, or Anabranch's own.
fn check_name(reader: &mut Reader<'_>, what: &str, name: &str, table: &Table<'_>) {
    let shown = name.escape_debug();
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let wrong = if !plain {
        format!("`{shown}` can't name a {what}; use a-z, 0-9 and `_`, beginning with a letter")
    } else if name.len() > LONGEST_NAME {
        format!(
            "`{shown}` has {} characters; a {what}'s name has at most {LONGEST_NAME}, so shorten it",
            name.len()
        )
    } else if RESERVED_NAMES.contains(&name) {
        format!("`{shown}` is a table of Anabranch's own; give the {what} another name")
    } else {
        return;
    };
    reader.report(&table.span, wrong);
}

#[cfg(test)]
mod tests;
