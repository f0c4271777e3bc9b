//! What is written of each statement that somebody asks: who, how, what became of it, and a fingerprint
//! by which the same statement is known again. The statement itself is not kept: it may hold anything.

use std::fmt::Debug;

use anabranch_shared::Result;
use chrono::{DateTime, SecondsFormat, Utc};
use ring::digest::{SHA256, digest};
use serde::Serialize;

use crate::caller::Caller;

/// Digits of a fingerprint.
const DIGITS: usize = 32;

/// One statement, once it is over.
#[derive(Clone, Debug, Serialize)]
pub struct AuditRecord {
    /// When it came.
    pub ts: String,
    /// The user; none where this storage's own commands ask.
    pub user: Option<String>,
    /// `http`, `postgres` or `flight`.
    pub door: &'static str,
    /// The program and where it runs.
    pub client: String,
    /// A part of the SHA-256 of the statement, with its white space as one blank each.
    pub fingerprint: String,
    /// How many rows were read.
    pub rows: u64,
    /// How long it took.
    pub seconds: f64,
    /// What became of it, as `anabranch_query_seconds` says it.
    pub outcome: &'static str,
}

/// Whoever keeps such records.
pub trait Auditor: Debug + Send + Sync {
    /// Whether statements may be answered.
    ///
    /// # Errors
    /// `Unavailable` where they have to be written and can't.
    fn check(&self) -> Result<()>;

    /// Takes a record; it is written soon.
    fn note(&self, record: AuditRecord);
}

impl AuditRecord {
    /// A statement that has come.
    pub fn begun(caller: &Caller, statement: &str, now: DateTime<Utc>) -> Self {
        let words: Vec<&str> = statement.split_whitespace().collect();
        let hash = digest(&SHA256, words.join(" ").as_bytes());
        let mut fingerprint = hex::encode(hash);
        fingerprint.truncate(DIGITS);
        Self {
            ts: now.to_rfc3339_opts(SecondsFormat::Micros, true),
            user: caller.identity.name().map(str::to_owned),
            door: caller.door.name(),
            client: caller.program.clone(),
            fingerprint,
            rows: 0,
            seconds: 0.0,
            outcome: "",
        }
    }

    /// What is over, of which no row was read by whoever asked.
    #[must_use]
    pub fn ended(self, outcome: &'static str, seconds: f64) -> Self {
        Self {
            seconds,
            outcome,
            ..self
        }
    }
}
