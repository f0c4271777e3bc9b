//! Settings whose value is one of a few words, and locations.

use std::path::{Path, PathBuf};

use super::value::{Found, Mismatch, ProjectPath, SettingValue, quoted};

/// When a producer is told that its facts are safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// After fsync in the WAL, with the facts visible to queries.
    Wal,
    /// After the commit in object storage; survives the loss of the machine.
    Landed,
}

impl SettingValue for Ack {
    const TYPE: &'static str = "\"wal\" or \"landed\"";
    const EXPECTED: &'static str = "`\"wal\"` or `\"landed\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        choose(found, [Self::Wal, Self::Landed])
    }

    fn write(&self) -> String {
        match self {
            Self::Wal => "\"wal\"",
            Self::Landed => "\"landed\"",
        }
        .to_owned()
    }
}

/// What becomes of a record's fields that its topic doesn't declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownFields {
    /// They are kept as JSON in the fact's `_extra`.
    Keep,
    /// They are left out of the fact.
    Ignore,
    /// The record becomes a dead letter.
    Reject,
}

impl SettingValue for UnknownFields {
    const TYPE: &'static str = "\"keep\", \"ignore\" or \"reject\"";
    const EXPECTED: &'static str = "`\"keep\"`, `\"ignore\"` or `\"reject\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        choose(found, [Self::Keep, Self::Ignore, Self::Reject])
    }

    fn write(&self) -> String {
        match self {
            Self::Keep => "\"keep\"",
            Self::Ignore => "\"ignore\"",
            Self::Reject => "\"reject\"",
        }
        .to_owned()
    }
}

/// How a daemon writes its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text for each event.
    Text,
    /// A line of JSON for each event.
    Json,
}

impl SettingValue for LogFormat {
    const TYPE: &'static str = "\"text\" or \"json\"";
    const EXPECTED: &'static str = "`\"text\"` or `\"json\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        choose(found, [Self::Text, Self::Json])
    }

    fn write(&self) -> String {
        match self {
            Self::Text => "\"text\"",
            Self::Json => "\"json\"",
        }
        .to_owned()
    }
}

/// Which share of a topic's records may be dead letters before `/ready` turns red.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterShare {
    /// Any.
    Off,
    /// So many of a hundred, below 100.
    Percent(u8),
}

impl SettingValue for DeadLetterShare {
    const TYPE: &'static str = "percentage or \"off\"";
    const EXPECTED: &'static str = "a whole percentage from `\"0%\"` to `\"99%\"`, or `\"off\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let Found::Text { text, .. } = found else {
            return Err(Mismatch::Plain);
        };
        if text == "off" {
            return Ok(Self::Off);
        }
        let percent = text.strip_suffix('%').and_then(|n| n.trim().parse().ok());
        match percent {
            Some(percent @ 0..100) => Ok(Self::Percent(percent)),
            _ => Err(Mismatch::Plain),
        }
    }

    fn write(&self) -> String {
        match self {
            Self::Off => quoted("off"),
            Self::Percent(percent) => quoted(&format!("{percent}%")),
        }
    }
}

/// The choice that is written as the found text.
pub(super) fn choose<T: SettingValue>(
    found: &Found<'_>,
    choices: impl IntoIterator<Item = T>,
) -> Result<T, Mismatch> {
    let Found::Text { text, .. } = found else {
        return Err(Mismatch::Plain);
    };
    choices
        .into_iter()
        .find(|choice| choice.write().trim_matches('"') == text)
        .ok_or(Mismatch::Plain)
}

/// Where the log and the views are stored: a folder, as a path or a `file://` URL and relative to
/// the project's, or `s3://BUCKET/PREFIX`. The scheme is in lower case, the rest as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StorageUrl(pub(super) String);

/// `path` seen from `dir`, without `.` steps.
pub(super) fn resolve(dir: &Path, path: &Path) -> PathBuf {
    let steps = path
        .components()
        .filter(|step| !matches!(step, std::path::Component::CurDir));
    let mut resolved = dir.to_path_buf();
    resolved.extend(steps);
    resolved
}

impl SettingValue for StorageUrl {
    const TYPE: &'static str = "URL or path";
    const EXPECTED: &'static str =
        "a folder such as `\"file://./data\"` or `\"./data\"`, or `\"s3://BUCKET/PREFIX\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let Found::Text { text, .. } = found else {
            return Err(Mismatch::Plain);
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            if text.starts_with("file:") || text.starts_with("s3:") {
                return Err(Mismatch::Because(
                    "`//` is missing after the colon".to_owned(),
                ));
            }
            return ProjectPath::checked(text).map(|path| Self(path.0));
        };
        let scheme = scheme.to_ascii_lowercase();
        match scheme.as_str() {
            "file" => {
                ProjectPath::checked(rest)?;
            }
            "s3" if !rest.is_empty() && !rest.starts_with('/') => {}
            _ => return Err(Mismatch::Plain),
        }
        Ok(Self(format!("{scheme}://{rest}")))
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }
}

/// URL of a server: scheme, host and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerUrl(pub(super) String);

impl SettingValue for ServerUrl {
    const TYPE: &'static str = "URL";
    const EXPECTED: &'static str =
        "the URL of a server such as `\"https://s3.example.org\"` or `\"http://127.0.0.1:9000\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let Found::Text { text, .. } = found else {
            return Err(Mismatch::Plain);
        };
        let url = url::Url::parse(text).map_err(|_| Mismatch::Plain)?;
        if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
            return Err(Mismatch::Plain);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Mismatch::Because(
                "keys come from the environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`"
                    .to_owned(),
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Mismatch::Plain);
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }
}

/// Name of a region: letters, digits and `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegionName(pub(super) String);

impl SettingValue for RegionName {
    const TYPE: &'static str = "region";
    const EXPECTED: &'static str = "the name of a region such as `\"eu-central-1\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        match found {
            Found::Text { text, .. }
                if !text.is_empty()
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') =>
            {
                Ok(Self(text.clone()))
            }
            _ => Err(Mismatch::Plain),
        }
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }
}
