//! The file of users (`file` in `[users]`): how it is read, and changed by one command at a time.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::num::NonZeroU32;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anabranch_shared::{Error, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::rights::Rights;
use super::secret::{self, Salting, Sha256, Verifier};

/// Secrets that a user may have at once, so that the next one is there before the last one goes.
const MOST_SECRETS: usize = 2;

/// The longest name.
const LONGEST_NAME: usize = 63;

/// The longest password that is taken, in bytes.
const LONGEST_PASSWORD: usize = 1_000;

/// The shortest, in characters.
const SHORTEST_PASSWORD: usize = 12;

const HEAD: &str =
    "# Written by `anabranch users`. What is kept of a secret does not give it away.\n";

/// The users of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersFile {
    /// From what the salts of users are made up that there are not.
    pub(super) decoy: Vec<u8>,
    pub(super) users: BTreeMap<String, User>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// What the user may do.
    pub rights: Rights,
    pub(super) salting: Salting,
    /// The secrets that open, the older first.
    pub secrets: Vec<Secret>,
}

/// What is kept of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// By what it is known.
    pub id: String,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// Until when it opens; for ever where absent.
    pub expires: Option<DateTime<Utc>>,
    pub(super) verifier: Verifier,
    /// The digest of a token; none of a password.
    pub(super) sha256: Option<Sha256>,
}

impl Secret {
    /// Whether it is a token, and not a person's password.
    pub fn is_token(&self) -> bool {
        self.sha256.is_some()
    }

    /// Whether it opens.
    pub fn is_valid(&self, now: DateTime<Utc>) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// A secret that is to be made.
#[derive(Clone, Debug)]
pub enum NewSecret {
    /// A random number.
    Token,
    /// What a person has thought of.
    Password(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFile {
    decoy: String,
    #[serde(default)]
    users: BTreeMap<String, WrittenUser>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenUser {
    may: Vec<String>,
    salt: String,
    iterations: NonZeroU32,
    #[serde(default)]
    secrets: Vec<WrittenSecret>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSecret {
    id: String,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    stored_key: String,
    server_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

fn bytes(what: &str, text: &str) -> Result<Vec<u8>> {
    let read = BASE64_STANDARD.decode(text);
    read.map_err(|e| Error::Invalid(format!("`{what}` is no base64: {e}")))
}

fn digest(what: &str, text: &str) -> Result<Sha256> {
    let read = bytes(what, text)?;
    read.try_into()
        .map_err(|_| Error::Invalid(format!("`{what}` is no digest of 32 bytes")))
}

fn time(what: &str, text: &str) -> Result<DateTime<Utc>> {
    let read = DateTime::parse_from_rfc3339(text);
    let read = read.map_err(|e| {
        Error::Invalid(format!(
            "`{what}` = `{text}`: {e}; write it as 2027-01-31T00:00:00Z"
        ))
    });
    Ok(read?.to_utc())
}

impl WrittenSecret {
    fn read(self) -> Result<Secret> {
        Ok(Secret {
            created: time("created", &self.created)?,
            expires: self.expires.map(|t| time("expires", &t)).transpose()?,
            verifier: Verifier {
                stored_key: digest("stored_key", &self.stored_key)?,
                server_key: digest("server_key", &self.server_key)?,
            },
            sha256: self.sha256.map(|d| digest("sha256", &d)).transpose()?,
            id: self.id,
        })
    }

    fn of(secret: &Secret) -> Self {
        let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let base64 = |digest: &Sha256| BASE64_STANDARD.encode(digest);
        Self {
            id: secret.id.clone(),
            created: text(secret.created),
            expires: secret.expires.map(text),
            stored_key: base64(&secret.verifier.stored_key),
            server_key: base64(&secret.verifier.server_key),
            sha256: secret.sha256.as_ref().map(base64),
        }
    }
}

impl WrittenUser {
    fn read(self) -> Result<User> {
        if self.secrets.len() > MOST_SECRETS {
            return Err(Error::Invalid(format!(
                "it has {} secrets, and may have {MOST_SECRETS}",
                self.secrets.len()
            )));
        }
        let secrets = self.secrets.into_iter().map(WrittenSecret::read);
        Ok(User {
            rights: Rights::parse(&self.may)?,
            salting: Salting {
                salt: bytes("salt", &self.salt)?,
                iterations: self.iterations,
            },
            secrets: secrets.collect::<Result<_>>()?,
        })
    }

    fn of(user: &User) -> Self {
        Self {
            may: user.rights.written(),
            salt: BASE64_STANDARD.encode(&user.salting.salt),
            iterations: user.salting.iterations,
            secrets: user.secrets.iter().map(WrittenSecret::of).collect(),
        }
    }
}

/// Refuses a name that programs can't write.
fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.@".contains(c);
    match !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(is_plain) {
        true => Ok(()),
        false => Err(Error::Invalid(format!(
            "`{}` can't name a user; use letters, digits, `_`, `-`, `.` and `@`, at most {LONGEST_NAME}",
            name.escape_debug()
        ))),
    }
}

impl UsersFile {
    fn empty() -> Result<Self> {
        Ok(Self {
            decoy: secret::random::<32>()?.to_vec(),
            users: BTreeMap::new(),
        })
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// `Invalid`, with the user that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let written: WrittenFile =
            toml::from_str(text).map_err(|e| Error::Invalid(e.to_string().trim().to_owned()))?;
        let mut users = BTreeMap::new();
        for (name, user) in written.users {
            let read = check_name(&name).and_then(|()| user.read());
            let user = read.map_err(|e| Error::Invalid(format!("user `{name}`: {e}")))?;
            users.insert(name, user);
        }
        let mut ids = std::collections::BTreeSet::new();
        for (name, user) in &users {
            for secret in &user.secrets {
                if !ids.insert(&secret.id) {
                    return Err(Error::Invalid(format!(
                        "user `{name}`: another secret has the id `{}`",
                        secret.id
                    )));
                }
            }
        }
        Ok(Self {
            decoy: bytes("decoy", &written.decoy)?,
            users,
        })
    }

    fn text(&self) -> Result<String> {
        let users = self.users.iter();
        let written = WrittenFile {
            decoy: BASE64_STANDARD.encode(&self.decoy),
            users: users
                .map(|(name, user)| (name.clone(), WrittenUser::of(user)))
                .collect(),
        };
        let text = toml::to_string(&written);
        let text = text.map_err(|e| Error::Internal(format!("the file of users: {e}")))?;
        Ok(format!("{HEAD}{text}"))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Invalid` where it is no file of users.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound(format!(
                    "there is no `{}` (`file` in `[users]`); `anabranch users add NAME --may admin` makes it with its first user",
                    path.display()
                )));
            }
            Err(e) => return Err(Error::io(path, e)),
        };
        Self::parse(&text).map_err(|e| Error::Invalid(format!("`{}`: {e}", path.display())))
    }

    /// Changes a file, or makes it. Nobody else changes it meanwhile, and whoever reads it reads the
    /// former text or the new one.
    ///
    /// # Errors
    /// Those of reading it, and those of the change.
    pub fn change<T>(path: &Path, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let failed = |e| Error::io(path, e);
        let folder = path.parent().unwrap_or(Path::new("."));
        let lock = File::open(folder).map_err(|e| Error::io(folder, e))?;
        lock.lock().map_err(failed)?;
        let mut file = match path.exists() {
            true => Self::read(path)?,
            false => Self::empty()?,
        };
        let changed = change(&mut file)?;
        let beside = path.with_extension(format!("{}.tmp", std::process::id()));
        let text = file.text()?;
        let written = (|| {
            let mut open = OpenOptions::new();
            let open = open.write(true).create(true).truncate(true).mode(0o600);
            let mut new = open.open(&beside)?;
            new.write_all(text.as_bytes())?;
            new.sync_all()?;
            fs::rename(&beside, path)?;
            lock.sync_all()
        })();
        if written.is_err() {
            fs::remove_file(&beside).ok();
        }
        written.map_err(failed)?;
        Ok(changed)
    }

    /// The users by their names.
    pub fn users(&self) -> impl Iterator<Item = (&String, &User)> {
        self.users.iter()
    }

    fn user(&mut self, name: &str) -> Result<&mut User> {
        let known = self.users.keys().cloned().collect::<Vec<_>>();
        self.users.get_mut(name).ok_or_else(|| {
            let near = anabranch_shared::nearest(name, known.iter().map(String::as_str));
            let advice = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`anabranch users list` lists them".to_owned(),
            };
            Error::NotFound(format!("there is no user `{name}`; {advice}"))
        })
    }

    /// Adds a user. Returns the secret, which is kept nowhere.
    ///
    /// # Errors
    /// `Conflict` where there is one of that name, `Invalid` for a name or password that is none.
    pub fn add(
        &mut self,
        name: &str,
        rights: Rights,
        (secret, now): (NewSecret, DateTime<Utc>),
        expires: Option<DateTime<Utc>>,
    ) -> Result<String> {
        check_name(name)?;
        if self.users.contains_key(name) {
            return Err(Error::Conflict(format!(
                "there is a user `{name}`; `anabranch users rotate {name}` makes a new secret, and what it may do is in the file"
            )));
        }
        let mut user = User {
            rights,
            salting: Salting::new()?,
            secrets: Vec::new(),
        };
        let text = user.give((secret, now), expires)?;
        self.users.insert(name.to_owned(), user);
        Ok(text)
    }

    /// Gives a user one more secret; of those before, the newest goes on opening. Returns the secret, and
    /// the ids of those that no longer open.
    ///
    /// # Errors
    /// `NotFound` where there is no such user, `Invalid` for a password that is none.
    pub fn rotate(
        &mut self,
        name: &str,
        new: (NewSecret, DateTime<Utc>),
        expires: Option<DateTime<Utc>>,
    ) -> Result<(String, Vec<String>)> {
        let now = new.1;
        let user = self.user(name)?;
        let mut gone = Vec::new();
        user.secrets.retain(|secret| {
            let stays = secret.is_valid(now);
            if !stays {
                gone.push(secret.id.clone());
            }
            stays
        });
        while user.secrets.len() >= MOST_SECRETS {
            gone.push(user.secrets.remove(0).id);
        }
        Ok((user.give(new, expires)?, gone))
    }

    /// Lets a user, or one secret of a user, open nothing any more.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    pub fn revoke(&mut self, name: &str, id: Option<&str>) -> Result<()> {
        let user = self.user(name)?;
        let Some(id) = id else {
            self.users.remove(name);
            return Ok(());
        };
        let before = user.secrets.len();
        user.secrets.retain(|secret| secret.id != id);
        match user.secrets.len() < before {
            true => Ok(()),
            false => Err(Error::NotFound(format!(
                "`{name}` has no secret `{id}`; `anabranch users list` lists them"
            ))),
        }
    }
}

impl User {
    fn give(
        &mut self,
        (secret, now): (NewSecret, DateTime<Utc>),
        expires: Option<DateTime<Utc>>,
    ) -> Result<String> {
        let (id, text, is_token) = match secret {
            NewSecret::Token => {
                let (id, token) = secret::token()?;
                (id, token, true)
            }
            NewSecret::Password(password) => {
                let long = password.chars().count() >= SHORTEST_PASSWORD;
                if !long || password.len() > LONGEST_PASSWORD {
                    return Err(Error::Invalid(format!(
                        "a password has at least {SHORTEST_PASSWORD} characters and at most {LONGEST_PASSWORD} bytes; without `--password` a token is made, which nobody guesses"
                    )));
                }
                (secret::id()?, password, false)
            }
        };
        self.secrets.push(Secret {
            id,
            created: now,
            expires,
            verifier: Verifier::of(&text, &self.salting),
            sha256: is_token.then(|| secret::sha256(text.as_bytes())),
        });
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::PermissionsExt;

    use anabranch_shared::ErrorKind;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let mut file = UsersFile::empty().unwrap();
        let rights = Rights::parse(&["read page_*", "operate"]).unwrap();
        let token = file
            .add("a@b.c", rights, (NewSecret::Token, at(7)), Some(at(99)))
            .unwrap();
        let password = NewSecret::Password("pässwörter sind lang".to_owned());
        file.add("b", Rights::all(), (password, at(8)), None)
            .unwrap();
        let text = file.text().unwrap();
        assert_eq!(UsersFile::parse(&text).unwrap(), file);
        assert!(!text.contains(&token) && !text.contains("lang"), "{text}");
        let user = &file.users["a@b.c"];
        assert!(user.secrets[0].is_token() && !file.users["b"].secrets[0].is_token());
        assert!(user.secrets[0].is_valid(at(98)) && !user.secrets[0].is_valid(at(99)));
    }

    #[test]
    fn a_rotation_has_no_gap() {
        let mut file = UsersFile::empty().unwrap();
        let token = || NewSecret::Token;
        file.add("a", Rights::all(), (token(), at(1)), None)
            .unwrap();
        let ids = |file: &UsersFile| {
            let secrets = file.users["a"].secrets.iter();
            secrets.map(|s| s.id.clone()).collect::<Vec<_>>()
        };
        let first = ids(&file);
        let (_, gone) = file.rotate("a", (token(), at(2)), Some(at(5))).unwrap();
        assert!(gone.is_empty() && ids(&file)[..1] == first[..]);
        let (_, gone) = file.rotate("a", (token(), at(3)), None).unwrap();
        assert_eq!(gone, first);
        // One that opens no more goes before one that does.
        let expired = ids(&file)[0].clone();
        let (_, gone) = file.rotate("a", (token(), at(6)), None).unwrap();
        assert_eq!(gone, [expired]);
        let newest = ids(&file)[1].clone();
        file.revoke("a", Some(&newest)).unwrap();
        assert_eq!(ids(&file).len(), 1);
        let e = file.revoke("a", Some(&newest)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
        file.revoke("a", None).unwrap();
        let e = file.revoke("a", None).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut file = UsersFile::empty().unwrap();
        file.add("anna", Rights::all(), (NewSecret::Token, at(1)), None)
            .unwrap();
        let e = file.rotate("ana", (NewSecret::Token, at(1)), None);
        assert!(e.unwrap_err().to_string().contains("did you mean `anna`?"));
        for (name, secret, kind) in [
            ("anna", NewSecret::Token, ErrorKind::Conflict),
            ("", NewSecret::Token, ErrorKind::Invalid),
            ("a b", NewSecret::Token, ErrorKind::Invalid),
            ("b", NewSecret::Password("short".into()), ErrorKind::Invalid),
        ] {
            let e = file.add(name, Rights::all(), (secret, at(1)), None);
            assert_eq!(e.unwrap_err().kind(), kind, "{name}");
        }
        let text = file.text().unwrap();
        for (from, to, part) in [
            (
                "may = [\"admin\"]",
                "may = [\"rule\"]",
                "user `anna`: `rule` is no right",
            ),
            ("may = ", "mai = ", "unknown field `mai`"),
            ("created = \"1970", "created = \"x", "`created`"),
            (
                "stored_key = \"",
                "stored_key = \"!",
                "`stored_key` is no base64",
            ),
        ] {
            let wrong = text.replace(from, to);
            assert_ne!(wrong, text, "{from}");
            let e = UsersFile::parse(&wrong).unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        }
    }

    #[test]
    fn changes_are_made_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        let e = UsersFile::read(&path).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    UsersFile::change(path, |file| {
                        let secret = (NewSecret::Token, at(1));
                        file.add(&format!("user{n}"), Rights::all(), secret, None)
                    })
                    .unwrap();
                });
            }
        });
        assert_eq!(UsersFile::read(&path).unwrap().users.len(), 8);
        let rights = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(rights & 0o777, 0o600);
        // A change that fails changes nothing, and leaves nothing.
        let before = fs::read(&path).unwrap();
        UsersFile::change(&path, |file| file.revoke("nobody", None)).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
