//! What can go wrong, grouped by what the operator does next.

use std::fmt;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

use crate::redact::without_passwords;
mod engine;
mod grpc;
pub(crate) mod settings;
mod sql_state;
mod statement;
mod types;

use self::settings::SettingsError;
pub use self::statement::StatementError;
use crate::{Offset, OffsetRange, PartitionId};

/// Shorthand for results of this project.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the operator does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Correct the input, the settings or the SQL.
    Invalid,
    /// Name something that exists, or create it.
    NotFound,
    /// Ask whoever administers this for the right, or come as somebody who has it.
    Denied,
    /// Somebody else got there first: look, then try again.
    Conflict,
    /// Wait and try again; something outside does not answer.
    Unavailable,
    /// Stored data are damaged: restore or rebuild.
    Corrupt,
    /// A defect of this software: report it.
    Internal,
}

impl ErrorKind {
    /// The process's exit code for an error of this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Invalid => 64,
            Self::NotFound => 66,
            Self::Denied => 77,
            Self::Conflict => 75,
            Self::Unavailable => 69,
            Self::Corrupt => 65,
            Self::Internal => 70,
        }
    }

    /// The HTTP status for an error of this kind.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Denied => 403,
            Self::Conflict => 409,
            Self::Unavailable => 503,
            Self::Corrupt | Self::Internal => 500,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not found",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        })
    }
}

/// An error of any layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The project's settings can't be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A request, a setting or an argument is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A statement is wrong, or what it computes fails.
    #[error(transparent)]
    Statement(Box<StatementError>),
    /// A view's definition can't be used.
    #[error("view `{view}`: {reason}")]
    View {
        /// The view.
        view: String,
        /// Why, and what to write instead.
        reason: String,
    },
    /// A view's expression failed on an admitted fact.
    #[error(
        "view `{view}` can't be computed: partition {partition}, offsets {range}: {reason}; correct the view's SQL (for example with `nullif` or `try_cast`) and run `anabranch apply`"
    )]
    Expression {
        /// The view.
        view: String,
        /// Where the fact is.
        partition: PartitionId,
        /// Where the fact is.
        range: OffsetRange,
        /// What failed.
        reason: String,
    },
    /// A sum is more than its type holds.
    #[error(
        "`{what}` comes to {value}, which {held} does not hold; sum a wider type, for example `CAST(… AS {wider})`"
    )]
    OutOfRange {
        /// The sum.
        what: String,
        /// What it comes to.
        value: String,
        /// Its type, in SQL.
        held: String,
        /// A type that holds more.
        wider: &'static str,
    },
    /// Something named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Whoever asks may not do that.
    #[error("{0}")]
    Denied(String),
    /// Another process changed what this one relied on.
    #[error("{0}")]
    Conflict(String),
    /// A commit's start is no longer the end of what is committed.
    #[error(
        "`{table}`: a commit that starts at offset {start} of {app} was refused: offset {found} is committed"
    )]
    Fenced {
        /// The table.
        table: String,
        /// The position's name.
        app: String,
        /// Where the commit starts.
        start: i64,
        /// What is committed.
        found: i64,
    },
    /// Facts are wanted that retention has removed.
    #[error(
        "topic `{topic}`: facts {range} of partition {partition} are wanted, retention has removed those below {low}; try again, and where it fails again ask for what is from there on"
    )]
    BelowLow {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// What is wanted.
        range: OffsetRange,
        /// The first offset of the partition that was not removed.
        low: Offset,
    },
    /// Something outside does not answer, or a bound was reached.
    #[error("{0}")]
    Unavailable(String),
    /// It took longer than it may.
    #[error("{0}")]
    TimedOut(String),
    /// Somebody has cancelled it.
    #[error("{0}")]
    Cancelled(String),
    /// A bound of memory or disk leaves no room for more.
    #[error("{0}")]
    NoRoom(String),
    /// Stored data are damaged.
    #[error("{0}")]
    Corrupt(String),
    /// A defect.
    #[error("internal: {0}")]
    Internal(String),
    /// The object store failed.
    #[error("storage: {}", without_passwords(&.0.to_string()))]
    Store(#[from] object_store::Error),
    /// The query engine failed.
    #[error("{}", plain(.0))]
    Query(#[from] DataFusionError),
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
}

impl Error {
    /// What the operator does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) | Self::Settings(SettingsError::Missing { .. }) => {
                ErrorKind::NotFound
            }
            Self::Settings(SettingsError::Unreadable { source, .. })
                if says_shortage(&source.to_string()) =>
            {
                ErrorKind::Unavailable
            }
            Self::Settings(_)
            | Self::Invalid(_)
            | Self::View { .. }
            | Self::Expression { .. }
            | Self::OutOfRange { .. } => ErrorKind::Invalid,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            Self::Denied(_) => ErrorKind::Denied,
            Self::Conflict(_) | Self::Cancelled(_) | Self::Fenced { .. } => ErrorKind::Conflict,
            Self::Unavailable(_)
            | Self::TimedOut(_)
            | Self::NoRoom(_)
            | Self::BelowLow { .. }
            | Self::Io { .. } => ErrorKind::Unavailable,
            Self::Corrupt(_) => ErrorKind::Corrupt,
            Self::Internal(_) => ErrorKind::Internal,
            Self::Store(object_store::Error::NotFound { .. }) => ErrorKind::NotFound,
            Self::Store(_) => ErrorKind::Unavailable,
            Self::Query(e) => query_kind(e),
            Self::Statement(e) => e.kind,
        }
    }

    /// Where in its statement the error is, as line and column counted from 1; none where that is not
    /// known, or there is no statement.
    pub fn place(&self) -> Option<(usize, usize)> {
        match self.root() {
            Self::Statement(e) => e.place,
            _ => None,
        }
    }

    /// An error whose text is known and whose kind is not lost, as it comes over the network.
    pub fn of_kind(kind: ErrorKind, text: String) -> Self {
        match kind {
            ErrorKind::Invalid => Self::Invalid(text),
            ErrorKind::NotFound => Self::NotFound(text),
            ErrorKind::Denied => Self::Denied(text),
            ErrorKind::Conflict => Self::Conflict(text),
            ErrorKind::Unavailable => Self::Unavailable(text),
            ErrorKind::Corrupt => Self::Corrupt(text),
            ErrorKind::Internal => Self::Internal(text),
        }
    }

    /// A view's definition can't be used.
    pub fn view(view: &str, reason: impl fmt::Display) -> Self {
        Self::View {
            view: view.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// One of our own errors, where it was the engine that passed it on.
    pub fn root(&self) -> &Self {
        match self {
            Self::Query(e) => ours(e).unwrap_or(self),
            e => e,
        }
    }

    /// A file operation failed.
    pub fn io(path: impl AsRef<std::path::Path>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.as_ref().display().to_string(),
            source,
        }
    }
}

impl From<Error> for DataFusionError {
    fn from(e: Error) -> Self {
        match e {
            Error::Query(e) => e,
            e => DataFusionError::External(Box::new(e)),
        }
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(e: arrow::error::ArrowError) -> Self {
        Self::Query(e.into())
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(e: parquet::errors::ParquetError) -> Self {
        Self::Query(e.into())
    }
}

/// One of our own errors inside the engine's, if there is one.
fn ours(e: &DataFusionError) -> Option<&Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref() {
            return Some(ours);
        }
        next = error.source();
    }
    None
}

/// Whether the engine could not read a Parquet file: all that it is given are stored ones.
fn is_unreadable_file(e: &DataFusionError) -> bool {
    if is_shortage(e) {
        return false;
    }
    match e.find_root() {
        DataFusionError::ParquetError(_) => true,
        DataFusionError::ArrowError(e, _) => matches!(**e, ArrowError::ParquetError(_)),
        _ => false,
    }
}

/// The file that was gone when the engine wanted to read it, if that is why it failed.
fn missing_file(e: &DataFusionError) -> Option<String> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(error) = next {
        if let Some(object_store::Error::NotFound { path, .. }) = error.downcast_ref() {
            return Some(path.clone());
        }
        next = error.source();
    }
    // The reader of Parquet footers passes on no more than the store's text.
    let DataFusionError::ParquetError(e) = e.find_root() else {
        return None;
    };
    let text = e.to_string();
    let (_, found) = text.split_once("Object at location ")?;
    let (path, _) = found.split_once(" not found")?;
    Some(path.to_owned())
}

/// What the operating system says where descriptors, disk, quota or memory are used up. The engine
/// and the readers of files pass it on as a text, so it is known by that.
const SHORTAGES: [&str; 5] = [
    "(os error 12)",
    "(os error 23)",
    "(os error 24)",
    "(os error 28)",
    "(os error 122)",
];

/// Whether something failed because the machine has no more of what it needs: it is tried again.
fn is_shortage(e: &DataFusionError) -> bool {
    says_shortage(&e.to_string())
}

fn says_shortage(text: &str) -> bool {
    SHORTAGES.iter().any(|shortage| text.contains(shortage))
}

fn query_kind(e: &DataFusionError) -> ErrorKind {
    if let Some(e) = ours(e) {
        return e.kind();
    }
    if is_shortage(e) {
        return ErrorKind::Unavailable;
    }
    if missing_file(e).is_some() {
        return ErrorKind::Unavailable;
    }
    if is_unreadable_file(e) {
        return ErrorKind::Corrupt;
    }
    match e.find_root() {
        DataFusionError::Internal(_) => ErrorKind::Internal,
        DataFusionError::ResourcesExhausted(_)
        | DataFusionError::IoError(_)
        | DataFusionError::ObjectStore(_) => ErrorKind::Unavailable,
        DataFusionError::ArrowError(e, _) if matches!(**e, ArrowError::IoError(..)) => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Invalid,
    }
}

/// An error of the engine as a message.
pub(crate) fn engine_message(e: &DataFusionError) -> String {
    plain(e)
}

/// What a panic of Arrow says where a batch's text or lists are longer than 32 bits count.
const TOO_WIDE: &str = "panicked with message \"offset overflow\"";

/// What the engine says where temporary files have no room: its own setting, which nobody can set.
const TEMPORARY_FULL: &str = "datafusion.runtime.max_temp_directory_size";

/// The engine's error without the wrapping that means nothing to a reader.
fn plain(e: &DataFusionError) -> String {
    if let Some(e) = ours(e) {
        return e.to_string();
    }
    match missing_file(e) {
        Some(path) => format!(
            "`{path}` was removed while it was needed (its table was compacted, and the query took longer than `grace` in `[storage]`); run the query again"
        ),
        None if is_unreadable_file(e) => format!(
            "a Parquet file of the storage is damaged: {}; `anabranch check` names it, and what makes it whole again",
            e.strip_backtrace()
        ),
        None if e.strip_backtrace().contains(TOO_WIDE) => {
            "rows would have to stand in one batch whose text or lists come to more than 2 GB; select narrower ones".to_owned()
        }
        None if e.strip_backtrace().contains(TEMPORARY_FULL) => {
            "temporary files take more disk than they may (`spill` in `[query]`); narrow the query, or raise it".to_owned()
        }
        None if matches!(e.find_root(), DataFusionError::ResourcesExhausted(_)) => {
            "what is computed takes more memory than it may (`memory` in `[query]`; of builds and verifications `memory` in `[batch]`); narrow it, or raise that".to_owned()
        }
        None => engine::message(e),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use parquet::errors::ParquetError;

    use super::*;

    /// However the engine passes it on: it is no damage, and no fault of the statement.
    #[test]
    fn what_the_machine_lacks_is_unavailable() {
        for code in [12, 23, 24, 28, 122] {
            let lacks = || io::Error::from_raw_os_error(code);
            let text = lacks().to_string();
            for e in [
                DataFusionError::Execution(format!("no temporary file: {text}")),
                DataFusionError::ParquetError(Box::new(ParquetError::General(text.clone()))),
                ArrowError::ExternalError(Box::new(lacks())).into(),
                DataFusionError::External(Box::new(lacks())),
            ] {
                assert_eq!(Error::Query(e).kind(), ErrorKind::Unavailable, "{text}");
            }
            let unreadable = SettingsError::Unreadable {
                path: "anabranch.toml".into(),
                source: lacks(),
            };
            assert_eq!(Error::from(unreadable).kind(), ErrorKind::Unavailable);
        }
        let damaged = ParquetError::General("no footer".into());
        assert_eq!(Error::from(damaged).kind(), ErrorKind::Corrupt);
    }
}
