//! Receipts: texts that say of an answer what it was computed from and what it came to, so that it can be
//! computed again and compared. Nothing of them is kept.
//!
//! A receipt is `abr1.CLAIMS.SIGNATURE`, both parts in base64 for URLs without padding: the claims as
//! JSON, and the HMAC-SHA-256 of what stands before it. The claims can be read by anybody; that a storage
//! made them is known to who has its secret.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::heads::Heads;
use crate::{Error, Result};

/// What a receipt begins with.
const PREFIX: &str = "abr1";

/// Bytes of a receipt at most: it travels in a header.
const MOST_BYTES: usize = 24_000;

/// What a receipt says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The statement.
    pub sql: String,
    /// What stood for its parameters, as SQL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// In which schemas it looked for names.
    pub search_path: String,
    /// What time it was to the statement.
    pub asked_at: DateTime<Utc>,
    /// Who asked, where there are users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Up to where it saw the topics that it read, itself or through views.
    pub heads: Heads,
    /// The views that it read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub views: BTreeMap<String, ViewClaim>,
    /// The rows of the answer.
    pub rows: u64,
    /// Its columns: their names and types.
    pub columns: Vec<(String, String)>,
    /// The sum of the SHA-256 of all rows, in hexadecimal digits, without the values that floating point
    /// rounds.
    pub digest: String,
    /// Of each column of floating point what its values come to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floats: BTreeMap<String, FloatSum>,
}

/// What is said of a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewClaim {
    /// The generation that answered.
    pub generation: u64,
    /// Up to where its states came from the batch layer.
    pub boundary: String,
    /// The beginning of the SHA-256 of its definition, in hexadecimal digits.
    pub definition: String,
}

/// A sum of floating-point values, each times a factor from 1 to 2 that comes from its row, so that
/// values which change places change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloatSum {
    /// The sum.
    pub sum: String,
    /// That of the magnitudes, by which differences are judged.
    pub size: String,
}

/// A receipt as it is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    claims: Claims,
    text: String,
}

impl Receipt {
    /// A receipt that is signed by `sign`.
    ///
    /// # Errors
    /// `Invalid` where it would be too long.
    pub fn signed(claims: Claims, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<Self> {
        let json = serde_json::to_vec(&claims).map_err(|e| Error::Internal(e.to_string()))?;
        let said = format!("{PREFIX}.{}", BASE64_URL_SAFE_NO_PAD.encode(json));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(sign(said.as_bytes()));
        let text = format!("{said}.{signature}");
        match text.len() > MOST_BYTES {
            true => Err(Error::Invalid(format!(
                "the statement is too long: its receipt would have more than {MOST_BYTES} bytes"
            ))),
            false => Ok(Self { claims, text }),
        }
    }

    /// What it says.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What is signed, and the signature.
    pub fn parts(&self) -> (&[u8], Vec<u8>) {
        let (said, signature) = self.text.rsplit_once('.').unwrap_or_default();
        // It was read when the receipt was.
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature);
        (said.as_bytes(), signature.unwrap_or_default())
    }

    /// Whether a text is meant to be a receipt.
    pub(crate) fn is_begun_by(text: &str) -> bool {
        let rest = text.strip_prefix(PREFIX);
        rest.is_some_and(|rest| rest.starts_with('.'))
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Receipt {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::Invalid(format!(
                "this is no receipt, or not the whole of one; a receipt begins with `{PREFIX}.` and has three parts with dots between them"
            ))
        };
        let text = text.trim();
        if text.len() > MOST_BYTES {
            return Err(wrong());
        }
        let parts: Vec<&str> = text.split('.').collect();
        let [PREFIX, claims, signature] = parts.as_slice() else {
            return Err(wrong());
        };
        let read = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| wrong());
        read(signature)?;
        let claims = serde_json::from_slice(&read(claims)?).map_err(|_| wrong())?;
        let text = text.to_owned();
        Ok(Self { claims, text })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn claims(sql: &str) -> Claims {
        Claims {
            sql: sql.to_owned(),
            values: vec!["'x'".to_owned()],
            search_path: "public".to_owned(),
            asked_at: DateTime::UNIX_EPOCH,
            user: None,
            heads: "facts:0:7,facts:3:1".parse().unwrap(),
            views: BTreeMap::new(),
            rows: 3,
            columns: vec![("n".to_owned(), "Int64".to_owned())],
            digest: "00".to_owned(),
            floats: BTreeMap::new(),
        }
    }

    #[test]
    fn receipts_are_read_as_they_were_made() {
        let made = Receipt::signed(claims("SELECT 'ü', $1"), |said| said[..4].to_vec()).unwrap();
        let read: Receipt = format!(" {made}\n").parse().unwrap();
        assert_eq!(read, made);
        let (said, signature) = read.parts();
        assert_eq!(&said[..4], signature);
        let text = made.to_string();
        for wrong in [
            "",
            "abr1",
            "abr1..",
            &text[..text.len() - 7].replace('.', "_"),
            &text.replacen('a', "b", 1),
            &format!("{text}."),
            &format!("{text}="),
        ] {
            assert!(wrong.parse::<Receipt>().is_err(), "{wrong}");
        }
        let long = Receipt::signed(claims(&"x".repeat(30_000)), |_| vec![]);
        assert!(long.unwrap_err().to_string().contains("too long"));
    }
}
