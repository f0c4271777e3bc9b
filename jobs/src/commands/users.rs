//! `anabranch users`: who may do what at the doors, and their secrets.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::time::Duration;

use anabranch_serving::{NewSecret, Rights, UsersFile};
use anabranch_shared::settings::Project;
use anabranch_shared::{Error, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::clock::now_us;
use crate::commands::fitting::fitted;
use crate::commands::printing::Printing;
use crate::output::Style;

/// What is done to users.
#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// Adds a user and prints the secret, which is kept nowhere
    #[command(after_help = ADD_EXAMPLES)]
    Add {
        /// The user's name, as psql and drivers write it
        name: String,
        /// What the user may do: `read NAME`, `ingest NAME`, `operate` or `admin`, with `*` for any
        /// characters in a NAME; may be given several times
        #[arg(long = "may", value_name = "RIGHT", required = true)]
        may: Vec<String>,
        /// The secret
        #[command(flatten)]
        secret: SecretArgs,
    },
    /// Lists the users, what each may do, and how long their secrets open
    List,
    /// Gives a user one more secret and prints it; the one before goes on opening until the next rotation
    Rotate {
        /// The user's name
        name: String,
        /// The secret
        #[command(flatten)]
        secret: SecretArgs,
    },
    /// Lets a user, or one secret, open nothing any more; running daemons end what goes on with it within
    /// seconds
    Revoke {
        /// The user's name
        name: String,
        /// One secret alone, by its id as `list` shows it
        #[arg(long, value_name = "ID")]
        secret: Option<String>,
    },
}

const ADD_EXAMPLES: &str = "\
Examples:
  anabranch users add root --may admin
  anabranch users add grafana --may 'read page_*' --expires 365d
  anabranch users add collector --may 'ingest pageviews'
  anabranch users add anna --may 'read *' --may operate --password < password.txt";

/// A secret that is to be made.
#[derive(Debug, Args)]
pub struct SecretArgs {
    /// How long it opens, such as 90d; for ever where absent
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    /// Reads a person's password from standard input instead of making a token; it opens PostgreSQL's
    /// door alone
    #[arg(long)]
    password: bool,
}

impl SecretArgs {
    fn secret(&self) -> Result<NewSecret> {
        if !self.password {
            return Ok(NewSecret::Token);
        }
        let mut text = String::new();
        let mut input = std::io::stdin();
        if input.is_terminal() {
            eprintln!("The password, and then Enter (it is shown):");
            input
                .read_line(&mut text)
                .map_err(|e| Error::io("standard input", e))?;
        } else {
            let read = input.by_ref().take(10_000).read_to_string(&mut text);
            read.map_err(|e| Error::io("standard input", e))?;
        }
        Ok(NewSecret::Password(
            text.trim_end_matches(['\r', '\n']).to_owned(),
        ))
    }

    fn expires(&self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
        let at = self.expires.map(|time| {
            let time = chrono::Duration::from_std(time).ok();
            time.and_then(|time| now.checked_add_signed(time))
                .ok_or_else(|| Error::Invalid("`--expires` is too far away".to_owned()))
        });
        at.transpose()
    }
}

/// A secret that was made.
#[derive(Serialize)]
struct Made {
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    /// Secrets that no longer open.
    ended: Vec<String>,
}

impl Made {
    fn text(&self) -> String {
        let mut text = match &self.token {
            Some(token) => format!("{token}\n"),
            None => format!("the password of `{}` is set\n", self.user),
        };
        for id in &self.ended {
            text += &format!("secret {id} opens nothing any more\n");
        }
        text
    }
}

/// A user, for people and programs.
#[derive(Serialize)]
struct Listed {
    user: String,
    may: Vec<String>,
    secrets: Vec<ListedSecret>,
}

#[derive(Serialize)]
struct ListedSecret {
    id: String,
    kind: &'static str,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    opens: bool,
}

fn shown(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn listed(file: &UsersFile, now: DateTime<Utc>) -> Vec<Listed> {
    let users = file.users().map(|(name, user)| Listed {
        user: name.clone(),
        may: user.rights.written(),
        secrets: user
            .secrets
            .iter()
            .map(|secret| ListedSecret {
                id: secret.id.clone(),
                kind: match secret.is_token() {
                    true => "token",
                    false => "password",
                },
                created: shown(secret.created),
                expires: secret.expires.map(shown),
                opens: secret.is_valid(now),
            })
            .collect(),
    });
    users.collect()
}

/// The users for people, each secret on a line.
fn text(users: &[Listed], style: Style) -> String {
    if users.is_empty() {
        return "there are no users; `anabranch users add NAME --may admin` makes the first\n"
            .to_owned();
    }
    let headers = ["user", "secret", "kind", "created", "opens", "may"];
    let mut rows = Vec::new();
    for user in users {
        let may = user.may.join(", ");
        if user.secrets.is_empty() {
            let row = [user.user.as_str(), "none", "", "", "never", may.as_str()];
            rows.push(row.map(str::to_owned).to_vec());
            continue;
        }
        for (n, secret) in user.secrets.iter().enumerate() {
            let opens = match (&secret.expires, secret.opens) {
                (_, false) => "no more".to_owned(),
                (Some(expires), true) => format!("until {expires}"),
                (None, true) => "for ever".to_owned(),
            };
            let first = |text: &str| match n {
                0 => text.to_owned(),
                _ => String::new(),
            };
            rows.push(vec![
                first(&user.user),
                secret.id.clone(),
                secret.kind.to_owned(),
                secret.created.clone(),
                opens,
                first(&may),
            ]);
        }
    }
    fitted(&headers, rows, &[5], style)
}

/// Lists or changes the users of a project.
pub(crate) fn run(command: UsersCommand, project: &Path, printing: Printing) -> Result<u8> {
    let project = Project::load(project)?;
    let Some(path) = project.users.file else {
        return Err(Error::Invalid(
            "the project has no file of users, so everybody may do everything; write `file = \"users.toml\"` below `[users]` in `anabranch.toml` first".to_owned(),
        ));
    };
    let now = DateTime::from_timestamp_micros(now_us()).unwrap_or_default();
    match command {
        UsersCommand::Add { name, may, secret } => {
            let rights = Rights::parse(&may)?;
            let (expires, new) = (secret.expires(now)?, secret.secret()?);
            let is_token = matches!(new, NewSecret::Token);
            let text =
                UsersFile::change(&path, |file| file.add(&name, rights, (new, now), expires))?;
            let made = Made {
                user: name,
                token: is_token.then_some(text),
                expires: expires.map(shown),
                ended: Vec::new(),
            };
            printing.either(|| made.text(), &made)?;
        }
        UsersCommand::List => {
            let file = UsersFile::read(&path)?;
            let users = listed(&file, now);
            printing.either(|| text(&users, printing.style), &users)?;
        }
        UsersCommand::Rotate { name, secret } => {
            let (expires, new) = (secret.expires(now)?, secret.secret()?);
            let is_token = matches!(new, NewSecret::Token);
            let (text, ended) =
                UsersFile::change(&path, |file| file.rotate(&name, (new, now), expires))?;
            let made = Made {
                user: name,
                token: is_token.then_some(text),
                expires: expires.map(shown),
                ended,
            };
            printing.either(|| made.text(), &made)?;
        }
        UsersCommand::Revoke { name, secret } => {
            UsersFile::change(&path, |file| file.revoke(&name, secret.as_deref()))?;
            let told = match &secret {
                Some(id) => format!("secret {id} of `{name}` opens nothing any more\n"),
                None => format!("there is no user `{name}` any more\n"),
            };
            printing.either(
                || told,
                &serde_json::json!({ "user": name, "secret": secret, "revoked": true }),
            )?;
        }
    }
    Ok(0)
}
