//! `anabranch sql`: a shell, or statements from the command line, a file or standard input.

use std::io::{BufWriter, IsTerminal, Read, Write};
use std::path::PathBuf;

use anabranch_shared::{Error, Result};

use crate::commands::printing::Printing;
use crate::output::{Expanded, Format, Layout, Style, quiet_broken_pipe};
use crate::project::context::Context;
use crate::reader::client::Remote;
use crate::reader::session::QuerySession;
use crate::shell::{ScriptOutcome, ShellError, ShellOptions, pager, run as run_shell, run_script};

/// The variable that holds the token of a user.
const TOKEN: &str = "ANABRANCH_TOKEN";

/// What is asked.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SqlArgs {
    /// Runs these statements
    #[arg(value_name = "SQL", conflicts_with_all = ["command", "file"])]
    pub sql: Option<String>,
    /// Runs these statements
    #[arg(short = 'c', long, conflicts_with = "file")]
    pub command: Option<String>,
    /// Runs the statements of a file
    #[arg(short = 'f', long)]
    pub file: Option<PathBuf>,
    /// Who is asked, where it is no daemon of the project
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Prints CSV, as `--format csv` does
    #[arg(long)]
    pub csv: bool,
    /// Prints each row as a list of its columns
    #[arg(short = 'x', long)]
    pub expanded: bool,
    /// Prints values alone: no header, no frame, no count of rows
    #[arg(short = 't', long)]
    pub tuples_only: bool,
    /// Prints values with a `|` between them instead of padded columns
    #[arg(short = 'A', long)]
    pub no_align: bool,
    /// Prints answers, errors and notes alone: no greeting, no times, no counts beside the answer
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  anabranch sql                                  a shell; \\? lists its commands
  anabranch sql 'SELECT count(*) FROM pageviews'
  anabranch sql --csv 'SELECT * FROM post_minutes' > post_minutes.csv
  facts=$(anabranch sql -qtA 'SELECT count(*) FROM pageviews')
  anabranch sql -f report.sql
  anabranch sql --url https://facts.example.org:8787 --token-file token";

/// A daemon that is asked without a project.
#[derive(Debug, Default, clap::Args)]
pub struct RemoteArgs {
    /// Asks the daemon at a URL, `https://HOST:PORT`, without a project
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The token of a user, in a file; without this it is that in ANABRANCH_TOKEN, if there is one
    #[arg(long, value_name = "FILE", requires = "url")]
    pub token_file: Option<PathBuf>,
    /// Certificates in PEM that vouch for that daemon, besides those that this machine trusts
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca: Option<PathBuf>,
}

impl RemoteArgs {
    /// A session with that daemon.
    pub(crate) async fn session(&self) -> Result<QuerySession> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|e| Error::io(path, e));
        let token = match &self.token_file {
            Some(path) => Some(String::from_utf8_lossy(&read(path)?).trim().to_owned()),
            None => std::env::var(TOKEN).ok().filter(|token| !token.is_empty()),
        };
        let remote = Remote {
            url: self.url.clone().unwrap_or_default(),
            token,
            ca: self.ca.as_ref().map(read).transpose()?,
        };
        QuerySession::remote(&remote).await
    }
}

impl SqlArgs {
    /// Whether statements are given with the command, so that answers are all that it prints.
    pub(crate) fn is_given_statements(&self) -> bool {
        self.sql.is_some() || self.command.is_some()
    }

    fn layout(&self, is_shell: bool) -> Layout {
        let plain = Layout::default();
        Layout {
            expanded: match self.expanded {
                true => Expanded::On,
                false => Expanded::Off,
            },
            aligned: !self.no_align,
            tuples_only: self.tuples_only,
            shows_all: match is_shell {
                true => "`\\x` or `\\format json` shows all",
                false => "`-x` or `--format json` shows all",
            },
            ..plain
        }
    }
}

/// Answers one statement, as a script does.
pub(crate) async fn one(context: &Context, text: String, printing: Printing) -> Result<u8> {
    let args = SqlArgs {
        command: Some(text),
        ..SqlArgs::default()
    };
    run(args, context, printing).await
}

/// Runs the shell or a script.
pub(crate) async fn run(args: SqlArgs, context: &Context, printing: Printing) -> Result<u8> {
    let session = QuerySession::open(context).await?;
    run_with(args, session, printing).await
}

/// As [`run`], with the daemon at a URL, which needs no project.
pub(crate) async fn run_remote(args: SqlArgs, printing: Printing) -> Result<u8> {
    let session = args.remote.session().await?;
    run_with(args, session, printing).await
}

async fn run_with(args: SqlArgs, session: QuerySession, printing: Printing) -> Result<u8> {
    let given = args.sql.as_ref().or(args.command.as_ref());
    let text = match (given, &args.file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => Some(std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?),
        (None, None) if !std::io::stdin().is_terminal() => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|e| Error::io("standard input", e))?;
            Some(text)
        }
        (None, None) => None,
    };
    let history = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".anabranch/history"));
    let options = ShellOptions {
        greeting: Some(format!(
            "anabranch {} (`\\?` for help, `\\q` to leave)\n{}",
            env!("CARGO_PKG_VERSION"),
            session.greeting()
        )),
        history,
        format: match args.csv {
            true => Format::Csv,
            false => printing.format,
        },
        layout: args.layout(text.is_none()),
        quiet: args.quiet,
        pager: pager(),
        style: printing.style,
        error_style: Style::detect_stderr(),
        ..Default::default()
    };
    let failed = |e: ShellError| Error::Unavailable(e.to_string());
    let Some(text) = text else {
        let ended = run_shell(&session, options).await;
        return ended.map(|()| 0).map_err(failed);
    };
    let (mut out, mut err) = (BufWriter::new(std::io::stdout()), std::io::stderr());
    let outcome = run_script(&session, &text, &mut out, &mut err, options)
        .await
        .map_err(failed)?;
    quiet_broken_pipe(out.flush()).map_err(|e| Error::io("standard output", e))?;
    Ok(match outcome {
        ScriptOutcome::Failed { kind, .. } => kind.exit_code(),
        ScriptOutcome::Finished { .. } | ScriptOutcome::OutputClosed => 0,
    })
}
