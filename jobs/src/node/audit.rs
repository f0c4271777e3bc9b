//! The audit log: what users ask, as facts of a topic. Records are kept in memory and written together
//! each second, off the path of answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_serving::{AuditRecord, Auditor};
use anabranch_shared::settings::{AUDIT, Project};
use anabranch_shared::{Error, Result};
use anabranch_speed::{BodyFormat, Daemon, RequestBody, Write};
use parking_lot::Mutex;

/// How often records are written.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// The most records that wait to be written.
const MOST: usize = 100_000;

/// Records of what users asked.
#[derive(Debug)]
pub(super) struct Audit {
    waiting: Mutex<Vec<AuditRecord>>,
    /// Those that were not written and never will be.
    lost: AtomicU64,
    /// Why the last ones could not be written, if so.
    trouble: Mutex<Option<String>>,
    is_required: bool,
}

impl Audit {
    /// The audit log of a project, if it has one.
    pub(super) fn of(project: &Project) -> Option<Arc<Self>> {
        let has = project.users.file.is_some() && project.audit.statements;
        has.then(|| {
            Arc::new(Self {
                waiting: Mutex::default(),
                lost: AtomicU64::new(0),
                trouble: Mutex::default(),
                is_required: project.audit.required,
            })
        })
    }

    /// How many records were not written and never will be.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Why records can't be written now, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Writes records again and again, until this is dropped.
    pub(super) async fn keep(self: Arc<Self>, daemon: Arc<Daemon>) {
        loop {
            tokio::time::sleep(WRITE_EVERY).await;
            self.write(&daemon).await;
        }
    }

    /// Writes what waits. What can't be written waits on.
    pub(super) async fn write(&self, daemon: &Daemon) {
        let records = std::mem::take(&mut *self.waiting.lock());
        if records.is_empty() && self.trouble.lock().is_none() {
            return;
        }
        let written = write(daemon, &records).await;
        if written.is_err() {
            let mut waiting = self.waiting.lock();
            let since = std::mem::replace(&mut *waiting, records);
            waiting.extend(since);
        }
        let trouble = written
            .err()
            .map(|e| format!("the audit log can't be written: {e}"));
        let mut told = self.trouble.lock();
        if let Some(text) = trouble.as_ref().filter(|_| *told != trouble) {
            tracing::error!("{text}");
        }
        *told = trouble;
    }
}

async fn write(daemon: &Daemon, records: &[AuditRecord]) -> Result<()> {
    let stream = daemon
        .topics()
        .get(AUDIT)
        .cloned()
        .ok_or_else(|| Error::Unavailable(format!("the topic `{AUDIT}` is not open yet")))?;
    if records.is_empty() {
        return Ok(());
    }
    let mut body = Vec::new();
    for record in records {
        serde_json::to_writer(&mut body, record).map_err(|e| Error::Internal(e.to_string()))?;
        body.push(b'\n');
    }
    let body = RequestBody::plain(body.into(), BodyFormat::Json);
    stream.writer().write(Write::records(body)).await?;
    Ok(())
}

impl Auditor for Audit {
    fn check(&self) -> Result<()> {
        let is_full = self.waiting.lock().len() >= MOST;
        match self.trouble() {
            Some(why) if self.is_required => Err(Error::Unavailable(format!(
                "{why}; statements are refused as long (`required` in `[audit]`)"
            ))),
            None if self.is_required && is_full => Err(Error::Unavailable(
                "the audit log does not keep up with the statements (`required` in `[audit]`); try again in a moment".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    fn note(&self, record: AuditRecord) {
        let mut waiting = self.waiting.lock();
        match waiting.len() < MOST {
            true => waiting.push(record),
            false => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> AuditRecord {
        AuditRecord {
            ts: "2026-01-01T00:00:00Z".into(),
            user: None,
            door: "http",
            client: "a test".into(),
            fingerprint: "f".into(),
            rows: 0,
            seconds: 0.0,
            outcome: "ok",
        }
    }

    #[test]
    fn what_has_to_be_written_is_answered_only_as_long_as_it_can() {
        let audit = |is_required| Audit {
            waiting: Mutex::default(),
            lost: AtomicU64::new(0),
            trouble: Mutex::default(),
            is_required,
        };
        let (required, other) = (audit(true), audit(false));
        assert!(required.check().is_ok() && other.check().is_ok());
        for audit in [&required, &other] {
            *audit.trouble.lock() = Some("the disk is full".into());
        }
        let told = required.check().err().map(|e| e.to_string());
        assert!(told.is_some_and(|text| text.contains("the disk is full")));
        assert!(other.check().is_ok());
        // What waits is bounded, and what has no room is counted.
        for audit in [&required, &other] {
            *audit.trouble.lock() = None;
            (0..=MOST).for_each(|_| audit.note(record()));
            assert_eq!(audit.lost(), 1);
        }
        assert!(required.check().is_err() && other.check().is_ok());
    }
}
