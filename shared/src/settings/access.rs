//! `[users]`, `[tls]` and `[audit]`: who may come in, by which certificate they know the daemon, and what
//! is written of what they ask.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::{Reader, Table};
use super::{
    Ack, DeadLetterShare, FieldReads, FieldSettings, FieldType, RetentionSettings, TopicSettings,
    UnknownFields, resolve, table,
};

/// The topic of what users asked. No project can declare one of that name.
pub const AUDIT: &str = "_audit";

/// `[users]`: who may do what. Without `file` everybody may do everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsersSettings {
    /// The file of users, joined to the project's folder.
    pub file: Option<PathBuf>,
    /// Whether other machines reach doors that let everybody do everything.
    pub insecure_no_users: bool,
}

/// `[tls]`: encryption of all doors. Without a certificate there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The daemon's certificate and its key, joined to the project's folder.
    pub files: Option<TlsFiles>,
    /// Whether other machines reach doors that encrypt nothing.
    pub insecure_no_tls: bool,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that vouch for it.
    pub certificate: PathBuf,
    /// Its key: PKCS#8, SEC1 or RSA; in the same file unless named.
    pub key: PathBuf,
}

impl UsersSettings {
    pub(super) fn read(reader: &mut Reader<'_>, users: &Table<'_>, dir: &Path) -> Self {
        let file = reader.optional(users, &table::USERS_FILE);
        Self {
            file: file.map(|path| resolve(dir, Path::new(&path.0))),
            insecure_no_users: reader.value(users, &table::NO_USERS),
        }
    }
}

impl TlsSettings {
    pub(super) fn read(reader: &mut Reader<'_>, tls: &Table<'_>, dir: &Path) -> Self {
        let certificate = reader.optional(tls, &table::CERTIFICATE);
        let key = reader.optional(tls, &table::KEY);
        if let (None, Some(_)) = (&certificate, &key) {
            let at = tls.get("key").map(|value| value.span());
            let message = "`key` in `[tls]` has no `certificate` beside it; name its file";
            reader.report(&at.unwrap_or_default(), message.to_owned());
        }
        let files = certificate.map(|certificate| {
            let key = key.unwrap_or_else(|| certificate.clone());
            TlsFiles {
                certificate: resolve(dir, Path::new(&certificate.0)),
                key: resolve(dir, Path::new(&key.0)),
            }
        });
        Self {
            files,
            insecure_no_tls: reader.value(tls, &table::NO_TLS),
        }
    }
}

/// `[audit]`: what is written of what users ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// Whether a fact is written of each statement.
    pub statements: bool,
    /// Whether statements are refused while that can't be written.
    pub required: bool,
    /// How long these facts are kept.
    pub keep: Duration,
}

impl AuditSettings {
    pub(super) fn read(reader: &mut Reader<'_>, audit: &Table<'_>) -> Self {
        Self {
            statements: reader.value(audit, &table::AUDIT_STATEMENTS),
            required: reader.value(audit, &table::AUDIT_REQUIRED),
            keep: reader.value(audit, &table::AUDIT_KEEP),
        }
    }

    /// The topic that these facts go to.
    pub(super) fn topic(&self) -> TopicSettings {
        let field = |(name, field_type, not_null): (&str, FieldType, bool)| FieldSettings {
            name: name.to_owned(),
            field_type,
            not_null,
            reads: FieldReads::default(),
        };
        let fields = [
            ("ts", FieldType::Timestamp, true),
            ("user", FieldType::Varchar, false),
            ("door", FieldType::Varchar, true),
            ("client", FieldType::Varchar, true),
            ("fingerprint", FieldType::Varchar, true),
            ("rows", FieldType::BigInt, true),
            ("seconds", FieldType::Double, true),
            ("outcome", FieldType::Varchar, true),
        ];
        TopicSettings {
            name: AUDIT.to_owned(),
            event_time: "ts".to_owned(),
            ack: Ack::Wal,
            unknown_fields: UnknownFields::Keep,
            kafka: None,
            dedup: None,
            retention: Some(RetentionSettings {
                age: Some(self.keep),
                size_bytes: None,
            }),
            dead_letter_share: DeadLetterShare::Off,
            dead_letter_count: 1,
            dead_letters_for: Some(self.keep),
            fields: fields.map(field).to_vec(),
        }
    }
}
