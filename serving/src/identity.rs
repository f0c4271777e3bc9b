//! Who asks, and what they may do: the users of a project, their secrets and their rights. A door
//! learns a secret in the way of its protocol and gets an [`Identity`]; whatever is asked then goes by
//! that.

mod attempts;
mod file;
mod rights;
pub(crate) mod scram;
mod secret;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::{Error, Result, WallClock};
use arc_swap::ArcSwap;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::attempts::Attempts;
pub use self::file::{NewSecret, Secret, User, UsersFile};
pub use self::rights::Rights;
pub(crate) use self::rights::{RowFilter, Rows};
use self::scram::Known;
use crate::tls::ServerTls;

/// How often it is looked whether the file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest name and secret that are looked at, in bytes.
const LONGEST: usize = 2_000;

/// Base64 with padding and without: clients differ.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The user and the secret that `Basic` shows (RFC 7617); none where it is something else.
pub fn basic_credentials(shown: &str) -> Option<(String, String)> {
    let bytes = BASE64.decode(shown.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, secret) = text.split_once(':')?;
    Some((user.to_owned(), secret.to_owned()))
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Identity {
    /// By name and the id of the secret; none where there are no users.
    user: Option<(Arc<str>, Arc<str>)>,
    rights: Arc<Rights>,
}

impl Identity {
    /// Whoever it is, where there are no users.
    pub fn everybody() -> Self {
        Self {
            user: None,
            rights: Arc::new(Rights::all()),
        }
    }

    /// The user's name; none where there are no users, and of who reads the storage.
    pub fn name(&self) -> Option<&str> {
        self.user.as_ref().map(|(name, _)| name.as_ref())
    }

    /// What they may do.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    /// That they may not do something.
    pub fn denied(&self, what: &str) -> Error {
        let name = self.name().unwrap_or_default();
        Error::Denied(format!(
            "`{name}` may not {what}; what each user may do is in the file of users"
        ))
    }

    /// Whether what the other one does is theirs, or theirs to see.
    pub(crate) fn sees(&self, other: &Self) -> bool {
        self.rights.may_operate() || self.name() == other.name()
    }
}

/// Who may come in through a door, and how: by default everybody, in clear text.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The users, where there are any.
    pub users: Option<Arc<Users>>,
    /// The encryption, where there is any.
    pub tls: Option<Arc<ServerTls>>,
}

/// Why a user is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such user, or the secret is another one.
    Wrong,
    /// Too many tries have failed; how long to wait.
    Wait(Duration),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wrong => f.write_str("the user or the secret is wrong, or it no longer opens"),
            Self::Wait(time) => write!(
                f,
                "too many log-ins have failed; wait for {} s",
                time.as_secs().max(1)
            ),
        }
    }
}

/// The users of a project, as their file says now.
#[derive(Debug)]
pub struct Users {
    path: PathBuf,
    /// By which secrets expire: people name days.
    wall: WallClock,
    state: ArcSwap<State>,
    changed: watch::Sender<()>,
    trouble: Mutex<Option<String>>,
    attempts: Attempts,
}

#[derive(Debug)]
struct State {
    text: String,
    file: UsersFile,
    /// The user of each secret.
    of_secrets: HashMap<String, String>,
}

impl State {
    fn new(text: String, path: &Path) -> Result<Self> {
        let file = UsersFile::parse(&text)
            .map_err(|e| Error::Invalid(format!("`{}`: {e}", path.display())))?;
        let users = file.users.iter();
        let of_secrets = users.flat_map(|(name, user)| {
            let secrets = user.secrets.iter();
            secrets.map(move |secret| (secret.id.clone(), name.clone()))
        });
        Ok(Self {
            of_secrets: of_secrets.collect(),
            text,
            file,
        })
    }

    fn secret(&self, id: &str) -> Option<(&String, &User, &Secret)> {
        let (name, user) = self.file.users.get_key_value(self.of_secrets.get(id)?)?;
        let secret = user.secrets.iter().find(|secret| secret.id == id)?;
        Some((name, user, secret))
    }

    fn identity(&self, id: &str, now: DateTime<Utc>) -> Option<Identity> {
        let (name, user, secret) = self.secret(id)?;
        secret.is_valid(now).then(|| Identity {
            user: Some((name.as_str().into(), id.into())),
            rights: Arc::new(user.rights.clone()),
        })
    }
}

impl Users {
    /// The users of a file.
    ///
    /// # Errors
    /// Those of [`UsersFile::read`].
    pub fn open(path: &Path, wall: WallClock) -> Result<Arc<Self>> {
        UsersFile::read(path)?;
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        Ok(Arc::new(Self {
            state: ArcSwap::from_pointee(State::new(text, path)?),
            path: path.to_owned(),
            wall,
            changed: watch::Sender::new(()),
            trouble: Mutex::default(),
            attempts: Attempts::default(),
        }))
    }

    /// Looks again and again whether the file has changed, until this is dropped. A file that can't be
    /// read changes nothing.
    pub async fn keep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let users = self.clone();
            anabranch_shared::blocking(move || {
                users.look();
                Ok(())
            })
            .await
            .ok();
        }
    }

    fn look(&self) {
        let read = std::fs::read_to_string(&self.path);
        let read = read.map_err(|e| Error::io(&self.path, e));
        if read
            .as_ref()
            .is_ok_and(|text| *text == self.state.load().text)
        {
            *self.trouble.lock() = None;
            return;
        }
        let state = read.and_then(|text| State::new(text, &self.path));
        let trouble = match state {
            Ok(state) => {
                self.state.store(Arc::new(state));
                self.changed.send_replace(());
                tracing::info!(file = %self.path.display(), "the users have changed");
                None
            }
            Err(e) => Some(format!("the users stay as they were: {e}")),
        };
        let mut told = self.trouble.lock();
        if let Some(text) = trouble.as_ref().filter(|_| *told != trouble) {
            tracing::error!("{text}");
        }
        *told = trouble;
    }

    /// Why the file can't be read as it is now, if so.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Who has a token.
    ///
    /// # Errors
    /// `Wrong` where nobody has; whoever guesses too often from one address waits.
    pub fn bearer(&self, token: &str, from: IpAddr) -> Result<Identity, Refused> {
        let id = secret::id_of(token).filter(|_| token.len() <= LONGEST);
        let state = self.state.load();
        // Of an id that there is not yet nothing is guessed: its user may be added any moment.
        let Some((_, _, known)) = id.and_then(|id| state.secret(id)) else {
            return Err(Refused::Wrong);
        };
        let at = Instant::now();
        if let Some(time) = self.attempts.wait(&known.id, from, at) {
            return Err(Refused::Wait(time));
        }
        let digest = secret::sha256(token.as_bytes());
        let kept = known.sha256.as_ref();
        if !kept.is_some_and(|kept| secret::same(kept, &digest)) {
            self.attempts.failed(&known.id, from, at);
            return Err(Refused::Wrong);
        }
        state
            .identity(&known.id, self.wall.now())
            .ok_or(Refused::Wrong)
    }

    /// Random characters for one log-in.
    ///
    /// # Errors
    /// `Unavailable` where the system gives no random numbers.
    pub(crate) fn nonce() -> Result<String> {
        Ok(BASE64_STANDARD.encode(secret::random::<18>()?))
    }

    /// What a user's secrets are known by, made up where there is no such user.
    ///
    /// # Errors
    /// As [`Users::bearer`].
    pub(crate) fn known(&self, name: &str, from: IpAddr) -> Result<Known, Refused> {
        let name = name.get(..LONGEST).unwrap_or(name);
        if let Some(time) = self.attempts.wait(name, from, Instant::now()) {
            return Err(Refused::Wait(time));
        }
        let (state, now) = (self.state.load(), self.wall.now());
        let Some(user) = state.file.users.get(name) else {
            return Ok(Known {
                salting: secret::Salting::of_nobody(&state.file.decoy, name),
                verifiers: Vec::new(),
            });
        };
        let valid = user.secrets.iter().filter(|secret| secret.is_valid(now));
        Ok(Known {
            salting: user.salting.clone(),
            verifiers: valid
                .map(|secret| (secret.id.clone(), secret.verifier.clone()))
                .collect(),
        })
    }

    /// Who has shown that they know a secret; `None` where they have not.
    ///
    /// # Errors
    /// `Wrong` where it does not open, or no longer.
    pub(crate) fn shown(
        &self,
        name: &str,
        from: IpAddr,
        id: Option<&str>,
    ) -> Result<Identity, Refused> {
        let identity = id.and_then(|id| self.state.load().identity(id, self.wall.now()));
        match &identity {
            Some(_) => self.attempts.succeeded(name, from),
            None => self.attempts.failed(name, from, Instant::now()),
        }
        identity.ok_or(Refused::Wrong)
    }

    /// Who somebody is now: rights may have changed. None where the secret opens nothing any more.
    pub fn now(&self, identity: &Identity) -> Option<Identity> {
        match &identity.user {
            None => Some(identity.clone()),
            Some((_, id)) => self.state.load().identity(id, self.wall.now()),
        }
    }

    /// Waits until somebody's secret opens nothing any more.
    pub async fn ended(&self, identity: &Identity) {
        self.until(identity, |now| now.is_none()).await;
    }

    /// Waits until somebody's secret opens nothing any more, or something else than it did.
    pub async fn changed(&self, identity: &Identity) {
        let rights = identity.rights().written();
        let is_other =
            |now: Option<Identity>| now.is_none_or(|now| now.rights().written() != rights);
        self.until(identity, is_other).await;
    }

    /// Waits until who somebody is now is what is waited for.
    async fn until(&self, identity: &Identity, is_it: impl Fn(Option<Identity>) -> bool) {
        let mut changed = self.changed.subscribe();
        while !is_it(self.now(identity)) {
            let expires = identity.user.as_ref().and_then(|(_, id)| {
                let state = self.state.load();
                state.secret(id).and_then(|(_, _, secret)| secret.expires)
            });
            let left = expires.and_then(|at| (at - self.wall.now()).to_std().ok());
            // The clock may be set meanwhile.
            let left = left.unwrap_or(Duration::MAX).min(Duration::from_secs(3));
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn basic_has_padding_or_none() {
        let app = Some(("app".to_owned(), "secret".to_owned()));
        assert_eq!(basic_credentials("YXBwOnNlY3JldA"), app);
        assert_eq!(basic_credentials("YXBwOnNlY3JldA=="), app);
        for wrong in ["YXBw", "no base64!", "/w=="] {
            assert_eq!(basic_credentials(wrong), None, "{wrong}");
        }
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn users(dir: &Path, may: &[&str]) -> (Arc<Users>, String) {
        let path = dir.join("users.toml");
        let token = UsersFile::change(&path, |file| {
            let secret = (NewSecret::Token, WallClock::default().now());
            file.add("a", Rights::parse(may).unwrap(), secret, None)
        });
        (
            Users::open(&path, WallClock::default()).unwrap(),
            token.unwrap(),
        )
    }

    #[test]
    fn a_token_opens_until_it_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let (users, token) = users(dir.path(), &["read *"]);
        let identity = users.bearer(&token, HERE).unwrap();
        assert_eq!(identity.name(), Some("a"));
        assert!(identity.rights().may_read("x") && !identity.rights().may_operate());
        for wrong in [
            "",
            "ab_x_y",
            &token[..token.len() - 1],
            &format!("{token}x"),
        ] {
            assert_eq!(users.bearer(wrong, HERE).unwrap_err(), Refused::Wrong);
        }
        UsersFile::change(&users.path, |file| file.revoke("a", None)).unwrap();
        users.look();
        assert!(users.now(&identity).is_none());
        assert_eq!(users.bearer(&token, HERE).unwrap_err(), Refused::Wrong);
        assert!(users.now(&Identity::everybody()).is_some());
    }

    #[test]
    fn a_file_that_cannot_be_read_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (users, token) = users(dir.path(), &["read *"]);
        let text = std::fs::read_to_string(&users.path).unwrap();
        std::fs::write(&users.path, "nonsense").unwrap();
        users.look();
        assert!(users.trouble().unwrap().contains("users.toml"));
        users.bearer(&token, HERE).unwrap();
        std::fs::remove_file(&users.path).unwrap();
        users.look();
        users.bearer(&token, HERE).unwrap();
        std::fs::write(&users.path, text.replace("read *", "operate")).unwrap();
        users.look();
        assert_eq!(users.trouble(), None);
        let identity = users.bearer(&token, HERE).unwrap();
        assert!(identity.rights().may_operate() && !identity.rights().may_read("x"));
    }

    #[test]
    fn who_guesses_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (users, token) = users(dir.path(), &["read *"]);
        let wrong = format!("{token}x");
        while matches!(users.bearer(&wrong, HERE), Err(Refused::Wrong)) {}
        assert!(matches!(users.bearer(&token, HERE), Err(Refused::Wait(_))));
        users.bearer(&token, IpAddr::from([10, 0, 0, 1])).unwrap();
        // A user that there is not is treated as one that there is.
        let nobody = users.known("nobody", HERE).unwrap();
        assert!(nobody.verifiers.is_empty());
        assert_eq!(nobody.salting, users.known("nobody", HERE).unwrap().salting);
        while users.shown("nobody", HERE, None).is_err() && users.known("nobody", HERE).is_ok() {}
        assert!(matches!(users.known("nobody", HERE), Err(Refused::Wait(_))));
    }

    #[tokio::test]
    async fn an_end_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (users, token) = users(dir.path(), &["read *"]);
        let identity = users.bearer(&token, HERE).unwrap();
        let waiting = tokio::spawn({
            let users = users.clone();
            async move { users.ended(&identity).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        UsersFile::change(&users.path, |file| file.revoke("a", None)).unwrap();
        users.look();
        waiting.await.unwrap();
    }
}
