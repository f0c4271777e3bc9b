//! What a single setting's value can be: how each kind is read, checked and written back.

use std::time::Duration;

use chrono::{TimeZone as _, Utc};
use croner::parser::{CronParser, Seconds, Year};
use toml::de::DeValue;

use crate::nearest;

const MINUTE: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_millis(1);
/// Far above any use, and far below what overflows a clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
const MOST_THREADS: usize = 1024;

/// A value as found in the file, with `${…}` already replaced.
#[derive(Debug, Clone)]
pub(super) enum Found<'a> {
    /// `text` is what the program uses. `shown` is what messages quote: the text as written where
    /// a variable was replaced in it, because a variable may hold a secret.
    Text {
        text: String,
        shown: String,
    },
    Integer {
        digits: &'a str,
        radix: u32,
    },
    Boolean(bool),
    /// An array of strings.
    Texts(Vec<String>),
    /// Anything that no single setting can be, in words.
    Other(&'static str),
}

impl<'a> Found<'a> {
    /// Sees the value `raw`; for a string, `expanded` is its text after replacement.
    pub(super) fn new(raw: &'a DeValue<'_>, expanded: Option<String>) -> Self {
        match raw {
            DeValue::String(written) => {
                let text = expanded.unwrap_or_else(|| written.to_string());
                Self::Text {
                    text,
                    shown: written.to_string(),
                }
            }
            DeValue::Integer(integer) => Self::Integer {
                digits: integer.as_str(),
                radix: integer.radix(),
            },
            DeValue::Boolean(truth) => Self::Boolean(*truth),
            DeValue::Float(_) => Self::Other("a floating-point number"),
            DeValue::Datetime(_) => Self::Other("a date or time"),
            DeValue::Array(values) => {
                let texts = values
                    .iter()
                    .map(|v| v.get_ref().as_str().map(str::to_owned));
                let texts: Option<Vec<String>> = texts.collect();
                texts.map_or(Self::Other("an array"), Self::Texts)
            }
            DeValue::Table(_) => Self::Other("a table"),
        }
    }

    /// The value in words, for "found …".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text { shown, .. } => format!("the string `{}`", shown.escape_debug()),
            Self::Integer { digits, radix } => match radix {
                16 => format!("the integer `0x{digits}`"),
                8 => format!("the integer `0o{digits}`"),
                2 => format!("the integer `0b{digits}`"),
                _ => format!("the integer `{digits}`"),
            },
            Self::Boolean(truth) => format!("the boolean `{truth}`"),
            Self::Texts(_) => "an array".to_owned(),
            Self::Other(words) => (*words).to_owned(),
        }
    }

    /// A whole number, also one that came from the environment, where everything is text.
    pub(super) fn whole(&self) -> Result<u64, Mismatch> {
        match self {
            Self::Integer { digits, radix } => {
                u64::from_str_radix(digits, *radix).map_err(|_| Mismatch::Plain)
            }
            Self::Text { text, shown } if text != shown => {
                text.trim().parse().map_err(|_| Mismatch::Plain)
            }
            _ => Err(Mismatch::Plain),
        }
    }

    fn text(&self) -> Result<&str, Mismatch> {
        match self {
            Self::Text { text, .. } => Ok(text),
            _ => Err(Mismatch::Plain),
        }
    }
}

/// Why a value is not what its setting takes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// What was expected says it all.
    Plain,
    /// There is more to say, such as what to write instead.
    Because(String),
}

/// A kind of setting.
pub(super) trait SettingValue: Sized {
    /// One word or two for the reference, such as `duration`.
    const TYPE: &'static str;
    /// What a user is to write, for "must be …".
    const EXPECTED: &'static str;
    fn read(found: &Found<'_>) -> Result<Self, Mismatch>;
    /// The value as TOML.
    fn write(&self) -> String;
}

/// `text` as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl SettingValue for Duration {
    const TYPE: &'static str = "duration";
    const EXPECTED: &'static str = "a duration from 1ms to a year, such as `\"30s\"` or `\"5m\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        // Why it failed is left out: the reason would quote the text, which may be a secret.
        let duration = humantime::parse_duration(found.text()?).map_err(|_| Mismatch::Plain)?;
        if (SHORTEST..=LONGEST).contains(&duration) {
            Ok(duration)
        } else {
            Err(Mismatch::Plain)
        }
    }

    fn write(&self) -> String {
        quoted(&humantime::format_duration(*self).to_string())
    }
}

/// Minutes, for defaults.
pub(super) const fn minutes(count: u32) -> Duration {
    MINUTE.saturating_mul(count)
}

/// A size in bytes, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl Size {
    pub(super) const fn megabytes(count: u64) -> Self {
        Self(count * 1_000_000)
    }

    fn parse(text: &str) -> Option<u64> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let factor = if unit.is_empty() {
            1
        } else {
            SIZE_UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))?
                .1
        };
        number.parse::<u64>().ok()?.checked_mul(factor)
    }
}

impl SettingValue for Size {
    const TYPE: &'static str = "size";
    const EXPECTED: &'static str =
        "a size such as `\"256MB\"` or `\"256MiB\"`, or a whole number of bytes above 0";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let bytes = match found {
            Found::Text { text, .. } => Self::parse(text).ok_or(Mismatch::Plain)?,
            other => other.whole()?,
        };
        if bytes == 0 {
            return Err(Mismatch::Plain);
        }
        Ok(Self(bytes))
    }

    fn write(&self) -> String {
        let whole = SIZE_UNITS
            .iter()
            .find(|(_, factor)| self.0.is_multiple_of(*factor));
        let (unit, factor) = whole.unwrap_or(&("B", 1));
        quoted(&format!("{}{unit}", self.0 / factor))
    }
}

/// A size that may be off.
pub(super) struct SizeOrOff(pub(super) Option<u64>);

impl SettingValue for SizeOrOff {
    const TYPE: &'static str = "size or off";
    const EXPECTED: &'static str = "`\"off\"`, or a size such as `\"32MB\"` or `\"32MiB\"`, or a whole number of bytes above 0";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        match found {
            Found::Text { text, .. } if text.trim() == "off" => Ok(Self(None)),
            _ => Size::read(found).map(|size| Self(Some(size.0))),
        }
    }

    fn write(&self) -> String {
        self.0
            .map_or_else(|| quoted("off"), |bytes| Size(bytes).write())
    }
}

/// A span of time that may be off.
pub(super) struct PeriodOrOff(pub(super) Option<Duration>);

impl SettingValue for PeriodOrOff {
    const TYPE: &'static str = "duration or off";
    const EXPECTED: &'static str =
        "`\"off\"`, or a duration from 1ms to a year, such as `\"90d\"` or `\"12h\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        match found {
            Found::Text { text, .. } if text.trim() == "off" => Ok(Self(None)),
            _ => Duration::read(found).map(|period| Self(Some(period))),
        }
    }

    fn write(&self) -> String {
        const DAY: u64 = 24 * 60 * 60;
        match self.0 {
            None => quoted("off"),
            // As people say it; otherwise days become months of thirty days and a half.
            Some(period) if period.subsec_nanos() == 0 && period.as_secs().is_multiple_of(DAY) => {
                quoted(&format!("{}d", period.as_secs() / DAY))
            }
            Some(period) => period.write(),
        }
    }
}

/// A whole number, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count(pub(super) u64);

impl SettingValue for Count {
    const TYPE: &'static str = "whole number";
    const EXPECTED: &'static str = "a whole number of at least 1";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        match found.whole()? {
            0 => Err(Mismatch::Plain),
            count => Ok(Self(count)),
        }
    }

    fn write(&self) -> String {
        self.0.to_string()
    }
}

/// How many terms a statement may have; the stack that they are planned on is made for the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms(pub(super) usize);

const MOST_TERMS: usize = 50_000;

impl SettingValue for Terms {
    const TYPE: &'static str = "whole number";
    const EXPECTED: &'static str = "a whole number from 1 to 50000";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        usize::try_from(found.whole()?)
            .ok()
            .filter(|terms| (1..=MOST_TERMS).contains(terms))
            .map(Self)
            .ok_or(Mismatch::Plain)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }
}

/// A number of threads; 0 stands for one a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Threads(pub(super) usize);

impl SettingValue for Threads {
    const TYPE: &'static str = "whole number";
    const EXPECTED: &'static str = "a whole number from 0, for all cores, to 1024";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        usize::try_from(found.whole()?)
            .ok()
            .filter(|threads| *threads <= MOST_THREADS)
            .map(Self)
            .ok_or(Mismatch::Plain)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }
}

/// How far a process steps back behind others, as `nice` of POSIX has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nice(pub(super) u8);

impl SettingValue for Nice {
    const TYPE: &'static str = "whole number";
    const EXPECTED: &'static str = "a whole number from 0 to 19";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        u8::try_from(found.whole()?)
            .ok()
            .filter(|nice| *nice <= 19)
            .map(Self)
            .ok_or(Mismatch::Plain)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }
}

impl SettingValue for bool {
    const TYPE: &'static str = "true or false";
    const EXPECTED: &'static str = "`true` or `false`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        match found {
            Found::Boolean(truth) => Ok(*truth),
            Found::Text { text, shown } if text != shown => {
                text.trim().parse().map_err(|_| Mismatch::Plain)
            }
            _ => Err(Mismatch::Plain),
        }
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

/// Rights of files, as `chmod` takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileMode(pub(super) u32);

impl SettingValue for FileMode {
    const TYPE: &'static str = "file mode";
    const EXPECTED: &'static str = "the rights of a file as `chmod` takes them, such as `\"0640\"`, that let its owner read and write, and nobody run it";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let mode = u32::from_str_radix(found.text()?.trim(), 8).map_err(|_| Mismatch::Plain)?;
        match mode & 0o600 == 0o600 && mode & !0o666 == 0 {
            true => Ok(Self(mode)),
            false => Err(Mismatch::Plain),
        }
    }

    fn write(&self) -> String {
        quoted(&format!("{:04o}", self.0))
    }
}

/// Names of hosts, in small letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostList(pub(super) Vec<String>);

impl SettingValue for HostList {
    const TYPE: &'static str = "names";
    const EXPECTED: &'static str =
        "names of hosts without ports, with commas between them, such as `\"facts.example.org\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let names = found.text()?.split(',').map(str::trim);
        let names: Vec<String> = names.map(str::to_ascii_lowercase).collect();
        let is_name = |name: &String| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        match names.iter().all(is_name) {
            true => Ok(Self(names)),
            false => Err(Mismatch::Plain),
        }
    }

    fn write(&self) -> String {
        quoted(&self.0.join(", "))
    }
}

/// Origins of pages, as browsers say them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OriginList(pub(super) Vec<String>);

impl SettingValue for OriginList {
    const TYPE: &'static str = "origins";
    const EXPECTED: &'static str = "origins of pages, a scheme, a host and a port that is not the scheme's own, with commas between them, such as `\"https://app.example.org\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let origins = found.text()?.split(',').map(str::trim);
        let origins: Vec<String> = origins.map(str::to_ascii_lowercase).collect();
        let is_origin = |origin: &String| {
            // A browser says an origin in one way.
            let url = origin.parse::<url::Url>().ok();
            url.is_some_and(|url| url.origin().ascii_serialization() == *origin)
                && origin.starts_with("http")
        };
        match origins.iter().all(is_origin) {
            true => Ok(Self(origins)),
            false => Err(Mismatch::Plain),
        }
    }

    fn write(&self) -> String {
        quoted(&self.0.join(", "))
    }
}

/// A path before others, such as `/facts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BasePath(pub(super) String);

impl SettingValue for BasePath {
    const TYPE: &'static str = "path";
    const EXPECTED: &'static str =
        "a path of an address that begins with `/` and ends with none, such as `\"/facts\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let text = found.text()?;
        let is_part = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
        };
        match text
            .strip_prefix('/')
            .is_some_and(|t| t.split('/').all(is_part))
        {
            true => Ok(Self(text.to_owned())),
            false => Err(Mismatch::Plain),
        }
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }
}

/// Address to listen on, `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address(pub(super) String);

impl SettingValue for Address {
    const TYPE: &'static str = "address";
    const EXPECTED: &'static str = "an address `\"HOST:PORT\"` such as `\"127.0.0.1:8787\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let text = found.text()?;
        let named = |(host, port): (&str, &str)| {
            let host_is_name = !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            host_is_name && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
        };
        if text.parse::<std::net::SocketAddr>().is_ok() || text.rsplit_once(':').is_some_and(named)
        {
            return Ok(Self(text.to_owned()));
        }
        if text.starts_with(':') {
            return Err(Mismatch::Because(
                "write `0.0.0.0` before the port to listen on every interface".to_owned(),
            ));
        }
        Err(Mismatch::Plain)
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }
}

/// Path of a file or folder as written, relative to the project's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProjectPath(pub(super) String);

impl ProjectPath {
    /// Takes a path that can be opened as it stands.
    pub(super) fn checked(text: &str) -> Result<Self, Mismatch> {
        if text.trim().is_empty() || text.contains('\0') {
            return Err(Mismatch::Plain);
        }
        if text == "~" || text.starts_with("~/") {
            return Err(Mismatch::Because(
                "`~` is not replaced in paths; write `${HOME}` for it".to_owned(),
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl SettingValue for ProjectPath {
    const TYPE: &'static str = "path";
    const EXPECTED: &'static str = "a path, relative to the project's folder or absolute";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        Self::checked(found.text()?)
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }
}

/// Name of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldName(pub(super) String);

impl SettingValue for FieldName {
    const TYPE: &'static str = "field";
    const EXPECTED: &'static str = "the name of a declared field";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        Ok(Self(found.text()?.to_owned()))
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }
}

/// Names of declared fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldNames(pub(super) Vec<String>);

impl SettingValue for FieldNames {
    const TYPE: &'static str = "fields";
    const EXPECTED: &'static str =
        "names of declared fields, with commas between them, such as `\"site, url\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let names = found.text()?.split(',').map(str::trim);
        let mut distinct: Vec<String> = Vec::new();
        for name in names {
            if name.is_empty() || distinct.iter().any(|known| known == name) {
                return Err(Mismatch::Plain);
            }
            distinct.push(name.to_owned());
        }
        Ok(Self(distinct))
    }

    fn write(&self) -> String {
        quoted(&self.0.join(", "))
    }
}

/// Name of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ViewName(pub(super) String);

impl SettingValue for ViewName {
    const TYPE: &'static str = "view";
    const EXPECTED: &'static str = "the name of a view";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        Ok(Self(found.text()?.to_owned()))
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }
}

/// A schedule of five cron fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Schedule(pub(super) String);

impl SettingValue for Schedule {
    const TYPE: &'static str = "cron expression";
    const EXPECTED: &'static str =
        "a cron expression of five fields (minute hour day month weekday) such as `\"0 3 * * *\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let text = found.text()?;
        // Seconds are refused: a sixth field written by mistake would run a rebuild every second.
        let cron = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build()
            .parse(text)
            .map_err(|_| Mismatch::Plain)?;
        // The search starts at a fixed instant, so that a file is judged alike at any time.
        let start = Utc.timestamp_nanos(0);
        if cron.find_next_occurrence(&start, true).is_err() {
            return Err(Mismatch::Because(
                "no date matches it, so it would never run".to_owned(),
            ));
        }
        Ok(Self(text.trim().to_owned()))
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }
}

/// A time zone of the IANA database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ZoneName(pub(super) String);

impl SettingValue for ZoneName {
    const TYPE: &'static str = "time zone";
    const EXPECTED: &'static str = "an IANA time zone such as `\"UTC\"` or `\"Europe/Berlin\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let text = found.text()?;
        if text.parse::<chrono_tz::Tz>().is_ok() {
            return Ok(Self(text.to_owned()));
        }
        let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        Err(nearest(text, known).map_or(Mismatch::Plain, |near| {
            Mismatch::Because(format!("did you mean `{near}`?"))
        }))
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }
}
