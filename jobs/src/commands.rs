//! The commands of `anabranch`: each has its arguments, its work, its text and its JSON in a file.
//! Here is which there are, and what all of them do first.

use std::path::PathBuf;
use std::time::Duration;

use anabranch_shared::{Error, Result};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::commands::batch::BatchCommand;
use crate::commands::completions::CompletionsArgs;
use crate::commands::dead_letters::DeadLettersCommand;
use crate::commands::generate::GenerateArgs;
use crate::commands::ingest::IngestArgs;
use crate::commands::jobs::JobsCommand;
use crate::commands::printing::Printing;
use crate::commands::queries::QueriesCommand;
use crate::commands::sql::SqlArgs;
use crate::commands::tail::TailArgs;
use crate::commands::verify::VerifyArgs;
use crate::node;
use crate::output::{Format, Style};
use crate::project::context::Context;
use crate::signal::stop_token;
use crate::work::schedule;

pub mod batch;
pub mod check;
pub mod completions;
pub mod dead_letters;
pub mod demo;
pub mod generate;
pub mod ingest;
pub mod init;
pub mod jobs;
pub mod maintain;
pub mod printing;
pub mod queries;
pub mod sql;
pub mod status;
pub mod tail;
pub mod verify;

/// The exit code when a command did its work and found something wrong with the data.
pub const FOUND_WRONG: u8 = 1;
/// The exit code when there were dead letters.
pub const DEAD_LETTERS: u8 = 2;

/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// Of how many looks at progress one becomes a line where there is no terminal.
const LINE_EVERY: u32 = 25;

/// A bar that is gone when the work is done; hidden unless `shown`.
fn progress_bar(template: &str, shown: bool) -> ProgressBar {
    let bar = match shown {
        true => ProgressBar::new(0).with_finish(ProgressFinish::AndClear),
        false => ProgressBar::hidden(),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Lambda architecture: views written once as SQL, rebuilt in batch, kept fresh by a stream.
#[derive(Debug, Parser)]
#[command(name = "anabranch", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    /// The project's folder, with its `anabranch.toml`
    #[arg(
        long,
        short,
        global = true,
        default_value = ".",
        env = "ANABRANCH_PROJECT"
    )]
    project: PathBuf,
    /// How results are printed: table, csv (of rows: `sql`, `jobs`, `queries`, `dead-letters list`), json or ndjson
    #[arg(long, global = true, default_value = "table")]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 `verify` or `demo` found a difference; 2 dead letters, or wrong arguments;
64 wrong input, SQL or settings; 65 damaged data; 66 no such thing; 69 unavailable, or a bound was
reached; 70 a defect; 75 stopped, or another process was first: try again.
ANABRANCH_LOG sets what is logged on standard error: error, warn, info (default), debug.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a project
    Init {
        /// The folder
        dir: PathBuf,
    },
    /// Lands facts from files and URLs; the same content again adds nothing
    Ingest(IngestArgs),
    /// Runs the streaming daemon: takes facts over HTTP, lands them, answers queries
    Speed,
    /// Runs the daemon and the scheduler in one process: the whole system on a laptop
    Up,
    /// Runs the views' jobs at their times, without the daemon
    Schedule,
    /// Rebuilds and refreshes master views now
    #[command(subcommand)]
    Batch(BatchCommand),
    /// Answers SQL over merged views, topics, `dead_letters` and `jobs`: in a shell, or from the
    /// command line, a file or standard input
    Sql(SqlArgs),
    /// Compares merged answers with a recompute from the raw facts; exit code 1 where they differ
    Verify(VerifyArgs),
    /// Reads the whole storage and this machine's WAL, changes nothing, and lists what is damaged,
    /// missing or orphaned; exit code 65 where something is damaged or missing
    Check,
    /// Shows what there is and what is not done: topics, views, jobs, edits that wait for a rebuild
    Status,
    /// Shows the records that could not become facts, and retries them
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Shows each job of the views: how it last ended, and when it is next due
    Jobs {
        #[command(subcommand)]
        command: Option<JobsCommand>,
    },
    /// Shows the queries that run on the daemons and those that wait: who asked, since when, how much
    /// memory each holds
    Queries {
        #[command(subcommand)]
        command: Option<QueriesCommand>,
    },
    /// Prints a topic's facts in order as NDJSON, then those that come
    Tail(TailArgs),
    /// Makes web-analytics facts for trying it: to standard output, a file or the daemon
    Generate(GenerateArgs),
    /// Prints every setting with its default
    Settings,
    /// Prints a script with which bash, zsh or fish completes this command
    Completions(CompletionsArgs),
    /// Tells the whole story on a temporary folder, in about a minute
    Demo {
        /// How many facts
        #[arg(long, default_value_t = 400_000)]
        facts: u64,
    },
}

impl Command {
    /// Whether it writes nothing to the storage.
    fn only_reads(&self) -> bool {
        match self {
            Self::Sql(_)
            | Self::Verify(_)
            | Self::Status
            | Self::Check
            | Self::Jobs { .. }
            | Self::Queries { .. }
            | Self::Tail(_)
            | Self::Generate(_)
            | Self::Init { .. }
            | Self::Settings
            | Self::Completions(_) => true,
            Self::DeadLetters(command) => !matches!(command, DeadLettersCommand::Retry(_)),
            Self::Ingest(_)
            | Self::Speed
            | Self::Up
            | Self::Schedule
            | Self::Batch(_)
            | Self::Demo { .. } => false,
        }
    }

    /// Whether it says how the project differs from what runs before anything else. `status` shows
    /// it in its own place, and the answer to a query has what concerns the query.
    fn says_notes(&self) -> bool {
        let one_query = matches!(self, Self::Sql(args) if args.is_given_statements());
        !one_query && !matches!(self, Self::Status)
    }

    /// Whether it gives rows, which may be printed as CSV.
    fn gives_rows(&self) -> bool {
        matches!(
            self,
            Self::Sql(_)
                | Self::Jobs { .. }
                | Self::Queries { command: None }
                | Self::DeadLetters(DeadLettersCommand::List { .. })
        )
    }
}

/// Runs a command. Returns its exit code.
///
/// # Errors
/// What it fails with, whose kind is the exit code.
pub async fn execute(cli: Cli) -> Result<u8> {
    let printing = Printing {
        format: cli.format,
        style: Style::detect(),
    };
    if cli.format == Format::Csv && !cli.command.gives_rows() {
        return Err(Error::Invalid(
            "`--format csv` is for rows, of `sql`, `jobs`, `queries` and `dead-letters list`; use `json` here"
                .into(),
        ));
    }
    // What needs no project.
    match &cli.command {
        Command::Init { dir } => {
            init::init(dir, &mut std::io::stdout())?;
            return Ok(0);
        }
        Command::Demo { facts } => {
            let held = demo::demo(*facts, &mut std::io::stdout(), printing.style).await?;
            return Ok(if held { 0 } else { FOUND_WRONG });
        }
        Command::Settings => {
            printing.text(&anabranch_shared::settings::reference())?;
            return Ok(0);
        }
        Command::Completions(args) => return completions::run(args, printing).map(|()| 0),
        Command::Check => return check::run(&cli.project, printing).await,
        Command::Generate(args) if !args.into_daemon => return generate::run(args).await,
        _ => {}
    }
    let context = if cli.command.only_reads() {
        Context::open_to_read(&cli.project).await?
    } else {
        Context::open(&cli.project).await?
    };
    if cli.command.says_notes() {
        for note in context.notes().into_values() {
            tracing::warn!("{note}");
        }
    }
    match cli.command {
        Command::Ingest(args) => ingest::run(&args, &context, printing).await,
        Command::Speed => node::run::run(&context, false).await.map(|()| 0),
        Command::Up => node::run::run(&context, true).await.map(|()| 0),
        Command::Schedule => schedule::run(context, None, stop_token()).await.map(|()| 0),
        Command::Batch(command) => batch::run(command, &context, printing).await,
        Command::Sql(args) => sql::run(args, &context, printing).await,
        Command::Verify(args) => verify::run(&args, &context, printing).await,
        Command::Status => status::run(&context, printing).await,
        Command::Jobs { command } => jobs::run(command, &context, printing).await,
        Command::Queries { command } => queries::run(command, &context, printing).await,
        Command::DeadLetters(command) => dead_letters::run(command, &context, printing).await,
        Command::Tail(args) => tail::run(args, &context).await,
        Command::Generate(args) => generate::run_into_daemon(&args, &context, printing).await,
        Command::Init { .. }
        | Command::Demo { .. }
        | Command::Settings
        | Command::Completions(_)
        | Command::Check => Ok(0),
    }
}
