//! The settings of a session: those that mean something here, those that clients set and that have one
//! value here, and those that they only read. A name that is none of them is an error, and so is a value
//! that would mean something else than what is done.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_shared::{Error, Heads, Moment, ReadMode, Result, nearest};

use crate::reading::Reading;

/// What programs read of the server.
const SERVER_VERSION: &str = "17.0 (Anabranch)";

/// What `version()` says: programs look for PostgreSQL's version in it.
pub(super) const SERVER: &str = concat!(
    "PostgreSQL 17.0 (Anabranch ",
    env!("CARGO_PKG_VERSION"),
    ")"
);

/// What a setting may be set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// It only says something.
    Nothing,
    /// Its own value in one of these spellings, because nothing else is done here.
    Only(&'static [&'static str]),
    /// Anything: it means nothing here.
    Anything,
    /// It means something.
    Own,
}

/// A setting.
struct Known {
    name: &'static str,
    default: &'static str,
    takes: Takes,
    /// Whether clients are told when it changes.
    is_reported: bool,
}

const fn known(name: &'static str, default: &'static str, takes: Takes) -> Known {
    Known {
        name,
        default,
        takes,
        is_reported: false,
    }
}

const fn reported(name: &'static str, default: &'static str, takes: Takes) -> Known {
    Known {
        name,
        default,
        takes,
        is_reported: true,
    }
}

const UTC: &[&str] = &[
    "utc", "etc/utc", "gmt", "z", "zulu", "0", "+00:00", "+00", "etc/gmt",
];
const UTF8: &[&str] = &["utf8", "utf-8", "unicode"];
const ON: &[&str] = &["on", "true", "1", "yes"];
const OFF: &[&str] = &["off", "false", "0", "no"];

/// In the order of their names.
static KNOWN: &[Known] = &[
    known("anabranch.as_of", "", Takes::Own),
    known("anabranch.at_least", "", Takes::Own),
    known("anabranch.read", "merged", Takes::Own),
    known("anabranch.receipts", "off", Takes::Own),
    reported("application_name", "", Takes::Own),
    known("bytea_output", "hex", Takes::Only(&["hex"])),
    reported("client_encoding", "UTF8", Takes::Only(UTF8)),
    known("client_min_messages", "notice", Takes::Own),
    reported(
        "datestyle",
        "ISO, MDY",
        Takes::Only(&["iso", "iso, mdy", "iso, dmy", "iso, ymd"]),
    ),
    known(
        "default_transaction_isolation",
        "read committed",
        Takes::Own,
    ),
    reported("default_transaction_read_only", "on", Takes::Anything),
    known("enable_bitmapscan", "on", Takes::Anything),
    known("enable_hashjoin", "on", Takes::Anything),
    known("enable_indexscan", "on", Takes::Anything),
    known("enable_mergejoin", "on", Takes::Anything),
    known("enable_nestloop", "on", Takes::Anything),
    known("enable_seqscan", "on", Takes::Anything),
    known("extra_float_digits", "1", Takes::Only(&["1", "2", "3"])),
    known("geqo", "on", Takes::Anything),
    known("idle_in_transaction_session_timeout", "0", Takes::Anything),
    reported("in_hot_standby", "off", Takes::Nothing),
    reported("integer_datetimes", "on", Takes::Nothing),
    reported("intervalstyle", "postgres", Takes::Only(&["postgres"])),
    reported("is_superuser", "off", Takes::Nothing),
    known("jit", "off", Takes::Anything),
    known("lc_collate", "C", Takes::Nothing),
    known("lc_ctype", "C", Takes::Nothing),
    known("lc_messages", "C", Takes::Anything),
    known("lc_monetary", "C", Takes::Anything),
    known("lc_numeric", "C", Takes::Anything),
    known("lock_timeout", "0", Takes::Anything),
    known("max_identifier_length", "63", Takes::Nothing),
    known("max_index_keys", "32", Takes::Nothing),
    known("max_parallel_workers_per_gather", "2", Takes::Anything),
    known("role", "none", Takes::Only(&["none"])),
    known("row_security", "on", Takes::Anything),
    known("search_path", "public", Takes::Own),
    reported("server_encoding", "UTF8", Takes::Nothing),
    reported("server_version", SERVER_VERSION, Takes::Nothing),
    known("server_version_num", "170000", Takes::Nothing),
    reported("session_authorization", "", Takes::Only(&[])),
    reported("standard_conforming_strings", "on", Takes::Only(ON)),
    known("statement_timeout", "0", Takes::Own),
    known("synchronize_seqscans", "off", Takes::Only(OFF)),
    reported("timezone", "UTC", Takes::Only(UTC)),
    known("transaction_deferrable", "off", Takes::Anything),
    known("transaction_isolation", "read committed", Takes::Nothing),
    known("transaction_read_only", "on", Takes::Anything),
    known("work_mem", "4MB", Takes::Anything),
    known("xmloption", "content", Takes::Anything),
];

/// As which name clients are told of a setting.
fn reported_name(name: &str) -> &str {
    match name {
        "datestyle" => "DateStyle",
        "intervalstyle" => "IntervalStyle",
        "timezone" => "TimeZone",
        name => name,
    }
}

/// Whether a name of an encoding means UTF-8. Some clients quote it once more.
pub(super) fn is_utf8(name: &str) -> bool {
    UTF8.contains(&name.trim_matches('\'').to_lowercase().as_str())
}

/// A setting of this name.
fn find(name: &str) -> Result<&'static Known> {
    let name = name.to_lowercase();
    KNOWN.iter().find(|k| k.name == name).ok_or_else(|| {
        let near = nearest(&name, KNOWN.iter().map(|k| k.name));
        let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        Error::NotFound(format!("there is no setting `{name}`{near}"))
    })
}

/// The settings of a session.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// What was set.
    set: BTreeMap<&'static str, String>,
    /// Who is logged in.
    user: String,
}

impl Settings {
    pub(super) fn new(user: &str) -> Self {
        Self {
            set: BTreeMap::new(),
            user: user.to_owned(),
        }
    }

    /// Sets a value, or the default. Gives the name and value that clients are told, if they are.
    ///
    /// # Errors
    /// `NotFound` for a name that is none; `Invalid` for a value that it can't have here.
    pub(super) fn set(
        &mut self,
        name: &str,
        value: Option<&str>,
    ) -> Result<Option<(&'static str, String)>> {
        let known = find(name)?;
        let default = |set: &Self| match known.name {
            "session_authorization" => set.user.clone(),
            _ => known.default.to_owned(),
        };
        let value = match value.map(str::trim) {
            None => default(self),
            Some(value) => {
                let plain = value.trim_matches('\'').to_lowercase();
                match known.takes {
                    Takes::Nothing => {
                        return Err(Error::Invalid(format!(
                            "`{}` can't be set; it is {}",
                            known.name, known.default
                        )));
                    }
                    Takes::Only(these) => {
                        if !these.contains(&plain.as_str()) && plain != default(self).to_lowercase()
                        {
                            return Err(only(known, value));
                        }
                        default(self)
                    }
                    Takes::Anything => value.to_owned(),
                    Takes::Own => checked(known.name, value)?,
                }
            }
        };
        self.set.insert(known.name, value.clone());
        Ok(known
            .is_reported
            .then(|| (reported_name(known.name), value)))
    }

    pub(super) fn reset_all(&mut self) {
        self.set.clear();
    }

    /// The value of a setting.
    ///
    /// # Errors
    /// `NotFound` for a name that is none.
    pub(super) fn get(&self, name: &str) -> Result<String> {
        let known = find(name)?;
        Ok(match (self.set.get(known.name), known.name) {
            (Some(value), _) => value.clone(),
            (None, "session_authorization") => self.user.clone(),
            (None, _) => known.default.to_owned(),
        })
    }

    /// All of them with their values.
    pub(super) fn all(&self) -> Vec<(&'static str, String)> {
        let value = |known: &Known| self.get(known.name).unwrap_or_default();
        KNOWN.iter().map(|k| (k.name, value(k))).collect()
    }

    /// Those that clients are told of at the start.
    pub(super) fn reported(&self) -> Vec<(&'static str, String)> {
        let told = KNOWN.iter().filter(|k| k.is_reported);
        let value = |known: &Known| self.get(known.name).unwrap_or_default();
        told.map(|k| (reported_name(k.name), value(k))).collect()
    }

    /// How statements read.
    pub(super) fn reading(&self) -> Reading {
        let value = |name| self.get(name).unwrap_or_default();
        Reading {
            mode: match value("anabranch.read").as_str() {
                "batch" => ReadMode::Batch,
                _ => ReadMode::Merged,
            },
            search_path: search_path(&value("search_path")).unwrap_or_default(),
            at_least: value("anabranch.at_least").parse().unwrap_or_default(),
            as_of: value("anabranch.as_of").parse().ok(),
            receipts: value("anabranch.receipts") == "on",
        }
    }

    /// How long a statement may take, where the session says so.
    pub(super) fn statement_timeout(&self) -> Option<Duration> {
        let value = self.get("statement_timeout").unwrap_or_default();
        duration(&value).filter(|d| !d.is_zero())
    }
}

/// Names of schemas without those that PostgreSQL has of itself.
fn search_path(text: &str) -> Result<crate::reading::SearchPath> {
    let own = |word: &&str| {
        let word = word.trim().trim_matches(['\'', '"']);
        !matches!(word, "$user" | "pg_catalog" | "")
    };
    let words: Vec<&str> = text.split(',').filter(own).collect();
    match words.is_empty() {
        true => Ok(crate::reading::SearchPath::default()),
        false => words.join(",").parse(),
    }
}

/// A value of a setting that means something here.
fn checked(name: &str, value: &str) -> Result<String> {
    match name {
        "search_path" => search_path(value).map(|_| value.to_owned()),
        "anabranch.as_of" => match value.trim_matches('\'') {
            "" => Ok(String::new()),
            moment => Ok(moment.parse::<Moment>()?.to_string()),
        },
        "anabranch.at_least" => {
            let read: Heads = value.trim_matches('\'').parse()?;
            Ok(read.to_string())
        }
        "anabranch.receipts" => match value.trim_matches('\'').to_lowercase().as_str() {
            value if ON.contains(&value) => Ok("on".to_owned()),
            value if OFF.contains(&value) => Ok("off".to_owned()),
            other => Err(Error::Invalid(format!(
                "`anabranch.receipts` = `{other}`: write `on` or `off`"
            ))),
        },
        "anabranch.read" => match value {
            "merged" | "batch" => Ok(value.to_owned()),
            other => Err(Error::Invalid(format!(
                "`anabranch.read` = `{other}`: write 'merged' or 'batch'"
            ))),
        },
        "statement_timeout" => match duration(value) {
            Some(_) => Ok(value.to_owned()),
            None => Err(Error::Invalid(format!(
                "`statement_timeout` = `{value}`: write milliseconds, or a number with `ms`, `s`, `min` or `h`"
            ))),
        },
        "default_transaction_isolation" => {
            match value.to_lowercase().as_str() {
                level @ ("read committed" | "read uncommitted" | "repeatable read"
                | "serializable") => Ok(level.to_owned()),
                other => Err(Error::Invalid(format!(
                    "there is no isolation level `{other}`"
                ))),
            }
        }
        _ => Ok(value.chars().take(200).collect()),
    }
}

/// A time as `statement_timeout` has it: milliseconds, or a number with a unit.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let ms = match unit.trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(ms)?))
}

fn only(known: &Known, value: &str) -> Error {
    let why = match known.name {
        "timezone" => {
            ": times are in UTC here; write `ts AT TIME ZONE '…'` where you want another one"
        }
        "client_encoding" => ": text is UTF-8 here",
        _ => "",
    };
    Error::Invalid(format!(
        "`{}` can't be `{value}`; it is {}{why}",
        known.name, known.default
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn names_are_in_order_and_values_are_checked() {
        assert!(KNOWN.is_sorted_by(|a, b| a.name < b.name));
        let mut settings = Settings::new("me");
        let told = settings.set("TimeZone", Some("Etc/UTC")).unwrap();
        assert_eq!(told, Some(("TimeZone", "UTC".to_owned())));
        let e = settings.set("timezone", Some("Europe/Berlin")).unwrap_err();
        assert!(e.to_string().contains("AT TIME ZONE"), "{e}");
        let e = settings.set("anabranch.at_last", Some("x")).unwrap_err();
        assert!(matches!(e, Error::NotFound(_)), "{e}");
        settings.set("client_encoding", Some("'utf-8'")).unwrap();
        assert!(settings.set("client_encoding", Some("latin1")).is_err());
        settings.set("extra_float_digits", Some("3")).unwrap();
        assert!(settings.set("extra_float_digits", Some("0")).is_err());
        assert!(settings.set("server_version", Some("9")).is_err());
        settings.set("statement_timeout", Some("2s")).unwrap();
        assert_eq!(settings.statement_timeout(), Some(Duration::from_secs(2)));
        settings.set("statement_timeout", None).unwrap();
        assert_eq!(settings.statement_timeout(), None);
        settings
            .set("search_path", Some("\"$user\", candidate, public"))
            .unwrap();
        assert_eq!(
            settings.reading().search_path.to_string(),
            "candidate, public"
        );
        assert!(settings.set("search_path", Some("nowhere")).is_err());
        settings.set("anabranch.read", Some("batch")).unwrap();
        assert_eq!(settings.reading().mode, ReadMode::Batch);
        settings.reset_all();
        assert_eq!(settings.reading(), Reading::default());
        assert_eq!(settings.get("session_authorization").unwrap(), "me");
    }
}
