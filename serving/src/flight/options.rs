//! The options of a session: how its statements read. They travel with the client, in a cookie that
//! `SetSessionOptions` gives it, or in headers that it sends with each call; nothing of them is kept
//! here, so any daemon of the storage knows them. The messages are those of `Flight.proto` that
//! `arrow-flight` lacks.

use std::collections::HashMap;

use anabranch_shared::{Error, ReadMode, Result};
use prost::{Enumeration, Message, Oneof};
use tonic::metadata::MetadataMap;

use crate::reading::Reading;

/// The name of the cookie.
const COOKIE: &str = "anabranch_session";

/// The names of the options, which are those of the headers with `anabranch-` before them.
const READ: &str = "read";
const SEARCH_PATH: &str = "search_path";
const AT_LEAST: &str = "at_least";
const AS_OF: &str = "as_of";

/// What clients call the catalogue and the schema of a session.
const CATALOG: &str = "catalog";
const SCHEMA: &str = "schema";

/// How a session's statements read, as it was said; nothing where it was not.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Options {
    #[prost(string, optional, tag = "1")]
    read: Option<String>,
    #[prost(string, optional, tag = "2")]
    search_path: Option<String>,
    #[prost(string, optional, tag = "3")]
    at_least: Option<String>,
    #[prost(string, optional, tag = "4")]
    as_of: Option<String>,
}

impl Options {
    /// What a call says.
    pub(super) fn of(metadata: &MetadataMap) -> Self {
        let mut options = Self::of_cookies(metadata);
        for name in [READ, SEARCH_PATH, AT_LEAST, AS_OF] {
            let header = format!("anabranch-{}", name.replace('_', "-"));
            let value = metadata.get(header.as_str()).and_then(|v| v.to_str().ok());
            if let (Some(value), Some(place)) = (value, options.place(name)) {
                *place = Some(value.to_owned());
            }
        }
        options
    }

    fn of_cookies(metadata: &MetadataMap) -> Self {
        let all = metadata.get_all("cookie").iter();
        let all = all.filter_map(|value| value.to_str().ok());
        let mut pairs = all
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        let own = pairs.find(|(name, _)| *name == COOKIE);
        let bytes = own.and_then(|(_, value)| hex::decode(value.trim_matches('"')).ok());
        // A cookie of somebody else's says nothing.
        bytes
            .and_then(|bytes| Self::decode(bytes.as_slice()).ok())
            .unwrap_or_default()
    }

    /// What a client keeps of it.
    pub(super) fn cookie(&self) -> String {
        format!(
            "{COOKIE}={}; HttpOnly; SameSite=Strict",
            hex::encode(self.encode_to_vec())
        )
    }

    /// What ends a session at its client.
    pub(super) fn no_cookie() -> String {
        format!("{COOKIE}=; Max-Age=0")
    }

    fn place(&mut self, name: &str) -> Option<&mut Option<String>> {
        match name {
            READ => Some(&mut self.read),
            SEARCH_PATH => Some(&mut self.search_path),
            AT_LEAST => Some(&mut self.at_least),
            AS_OF => Some(&mut self.as_of),
            _ => None,
        }
    }

    /// How statements read.
    ///
    /// # Errors
    /// `Invalid` where an option has no such value.
    pub(super) fn reading(&self) -> Result<Reading> {
        let search_path = self.search_path.as_deref().map(str::parse).transpose()?;
        let at_least = self.at_least.as_deref().map(str::parse).transpose();
        let at_least = at_least.map_err(|e| Error::Invalid(format!("`{AT_LEAST}`: {e}")))?;
        let as_of = self.as_of.as_deref().filter(|moment| !moment.is_empty());
        let as_of = as_of.map(str::parse).transpose();
        let as_of = as_of.map_err(|e| Error::Invalid(format!("`{AS_OF}`: {e}")))?;
        let mode = match self.read.as_deref() {
            None | Some("merged") => ReadMode::Merged,
            Some("batch") => ReadMode::Batch,
            Some(other) => {
                return Err(Error::Invalid(format!(
                    "`{READ}` = `{other}`: write `merged` or `batch`"
                )));
            }
        };
        Ok(Reading {
            mode,
            search_path: search_path.unwrap_or_default(),
            at_least: at_least.unwrap_or_default(),
            as_of,
            receipts: false,
        })
    }

    /// Sets options; what is wrong with those that can't be set.
    pub(super) fn set(
        &mut self,
        request: SetSessionOptionsRequest,
        catalog: &str,
    ) -> SetSessionOptionsResult {
        let mut errors = HashMap::new();
        for (name, value) in request.session_options {
            let known = name.strip_prefix("anabranch.").unwrap_or(&name);
            let wrong = match known {
                CATALOG => {
                    (value.text().as_deref() != Some(catalog)).then_some(SessionError::InvalidValue)
                }
                SCHEMA => self.set_one(SEARCH_PATH, value),
                known => self.set_one(known, value),
            };
            if let Some(wrong) = wrong {
                let value = wrong as i32;
                errors.insert(name, set_session_options_result::Error { value });
            }
        }
        SetSessionOptionsResult { errors }
    }

    fn set_one(&mut self, name: &str, value: SessionOptionValue) -> Option<SessionError> {
        let mut next = self.clone();
        let Some(place) = next.place(name) else {
            return Some(SessionError::InvalidName);
        };
        // One without a value is as it was at first.
        *place = match &value.option_value {
            None => None,
            Some(_) => match value.text() {
                Some(text) => Some(text),
                None => return Some(SessionError::InvalidValue),
            },
        };
        if next.reading().is_err() {
            return Some(SessionError::InvalidValue);
        }
        *self = next;
        None
    }

    /// All options, with their values as they are in force.
    pub(super) fn all(&self, catalog: &str) -> Result<GetSessionOptionsResult> {
        let reading = self.reading()?;
        let read = match reading.mode {
            ReadMode::Merged => "merged",
            ReadMode::Batch => "batch",
        };
        let all = [
            (CATALOG, catalog.to_owned()),
            (READ, read.to_owned()),
            (SEARCH_PATH, reading.search_path.to_string()),
            (AT_LEAST, reading.at_least.to_string()),
            (
                AS_OF,
                reading.as_of.map_or_else(String::new, |m| m.to_string()),
            ),
        ];
        let all = all.map(|(name, value)| (name.to_owned(), SessionOptionValue::of(value)));
        Ok(GetSessionOptionsResult {
            session_options: all.into_iter().collect(),
        })
    }
}

/// `SetSessionOptionsRequest` of `Flight.proto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SetSessionOptionsRequest {
    #[prost(map = "string, message", tag = "1")]
    pub(super) session_options: HashMap<String, SessionOptionValue>,
}

/// `SessionOptionValue` of `Flight.proto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionOptionValue {
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    option_value: Option<OptionValue>,
}

#[derive(Clone, PartialEq, Oneof)]
enum OptionValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Truth(bool),
    #[prost(sfixed64, tag = "3")]
    Whole(i64),
    #[prost(double, tag = "4")]
    Number(f64),
    #[prost(message, tag = "5")]
    List(StringListValue),
}

/// `SessionOptionValue.StringListValue` of `Flight.proto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StringListValue {
    #[prost(string, repeated, tag = "1")]
    values: Vec<String>,
}

impl SessionOptionValue {
    pub(super) fn of(text: String) -> Self {
        Self {
            option_value: Some(OptionValue::Text(text)),
        }
    }

    /// The text of a value that is text.
    fn text(&self) -> Option<String> {
        match &self.option_value {
            Some(OptionValue::Text(text)) => Some(text.clone()),
            Some(OptionValue::List(list)) => Some(list.values.join(", ")),
            _ => None,
        }
    }
}

/// `SetSessionOptionsResult` of `Flight.proto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(super) errors: HashMap<String, set_session_options_result::Error>,
}

/// What is in a result of setting options.
pub(super) mod set_session_options_result {
    use super::{Message, SessionError};

    /// `SetSessionOptionsResult.Error` of `Flight.proto`.
    #[derive(Clone, PartialEq, Message)]
    pub(in super::super) struct Error {
        #[prost(enumeration = "SessionError", tag = "1")]
        pub(in super::super) value: i32,
    }
}

/// `SetSessionOptionsResult.ErrorValue` of `Flight.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum SessionError {
    Unspecified = 0,
    InvalidName = 1,
    InvalidValue = 2,
    Error = 3,
}

/// `GetSessionOptionsResult` of `Flight.proto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct GetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(super) session_options: HashMap<String, SessionOptionValue>,
}

/// `CloseSessionResult` of `Flight.proto`: 1 is `CLOSED`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CloseSessionResult {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn request(all: &[(&str, &str)]) -> SetSessionOptionsRequest {
        let all = all.iter().map(|(name, value)| {
            let value = SessionOptionValue::of((*value).to_owned());
            ((*name).to_owned(), value)
        });
        SetSessionOptionsRequest {
            session_options: all.collect(),
        }
    }

    #[test]
    fn options_travel_in_a_cookie_and_in_headers() {
        let mut options = Options::default();
        let set = request(&[
            ("read", "batch"),
            ("schema", "candidate, public"),
            ("catalog", "here"),
        ]);
        assert!(options.set(set, "here").errors.is_empty());
        let cookie = options.cookie();
        let cookie = format!("other=1; {}", cookie.split(';').next().unwrap());
        let mut metadata = MetadataMap::new();
        metadata.insert("cookie", cookie.parse().unwrap());
        assert_eq!(Options::of(&metadata), options);
        let reading = options.reading().unwrap();
        assert_eq!(reading.mode, ReadMode::Batch);
        assert_eq!(reading.search_path.to_string(), "candidate, public");
        metadata.insert("anabranch-read", "merged".parse().unwrap());
        let reading = Options::of(&metadata).reading().unwrap();
        assert_eq!(reading.mode, ReadMode::Merged);
        metadata.insert("anabranch-at-least", "nonsense".parse().unwrap());
        assert!(Options::of(&metadata).reading().is_err());
    }

    #[test]
    fn what_is_no_option_is_named() {
        let mut options = Options::default();
        let set = request(&[
            ("reed", "batch"),
            ("read", "often"),
            ("catalog", "elsewhere"),
        ]);
        let errors = options.set(set, "here").errors;
        let of = |name: &str| errors[name].value;
        assert_eq!(of("reed"), SessionError::InvalidName as i32);
        assert_eq!(of("read"), SessionError::InvalidValue as i32);
        assert_eq!(of("catalog"), SessionError::InvalidValue as i32);
        assert_eq!(options, Options::default());
    }
}
