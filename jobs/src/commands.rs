//! The commands of `anabranch`: each has its arguments, its work, its text and its JSON in a file.
//! Here is which there are, and what all of them do first.

use std::path::PathBuf;
use std::time::Duration;

use anabranch_shared::settings::{LogFormat, Project};
use anabranch_shared::{Error, Result};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::commands::apply::ApplyArgs;
use crate::commands::batch::BatchCommand;
use crate::commands::completions::CompletionsArgs;
use crate::commands::dead_letters::DeadLettersCommand;
use crate::commands::diff::DiffArgs;
use crate::commands::generate::GenerateArgs;
use crate::commands::graph::GraphArgs;
use crate::commands::ingest::IngestArgs;
use crate::commands::init::InitArgs;
use crate::commands::jobs::JobsCommand;
use crate::commands::plan::PlanArgs;
use crate::commands::printing::Printing;
use crate::commands::queries::QueriesCommand;
use crate::commands::replay::ReplayArgs;
use crate::commands::rollback::RollbackArgs;
use crate::commands::settings::SettingsArgs;
use crate::commands::sql::SqlArgs;
use crate::commands::step::StepCommand;
use crate::commands::tail::TailArgs;
use crate::commands::users::UsersCommand;
use crate::commands::verify::VerifyArgs;
use crate::node;
use crate::output::{Format, Style};
use crate::project::context::Context;
use crate::signal::stop_token;
use crate::work::schedule;

pub mod apply;
pub mod batch;
pub mod check;
pub mod completions;
pub mod dead_letters;
pub mod demo;
pub mod diff;
pub mod du;
mod fitting;
pub mod generate;
pub mod graph;
pub mod ingest;
pub mod init;
pub mod jobs;
pub mod maintain;
pub mod plan;
pub mod printing;
pub mod queries;
pub mod replay;
pub mod rollback;
pub mod settings;
pub mod sql;
pub mod status;
pub mod step;
pub mod tail;
pub mod users;
pub mod verify;

/// The exit code when a command did its work and found something wrong with the data.
pub const FOUND_WRONG: u8 = 1;
/// The exit code when there were dead letters.
pub const DEAD_LETTERS: u8 = 2;
/// The exit code of `plan` when there is something to do.
pub const CHANGES: u8 = 2;
/// The exit code of `apply` when it stopped because of a gate, and of `plan` when that is how it stands.
pub const GATE_BROKEN: u8 = 3;

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
        env = "ANABRANCH_PROJECT",
        help_heading = EVERYWHERE
    )]
    project: PathBuf,
    /// How results are printed: table, json or ndjson; rows also as csv
    #[arg(long, global = true, default_value = "table", help_heading = EVERYWHERE)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

/// Under which the options stand that every command has.
const EVERYWHERE: &str = "Options of every command";

const EXIT_CODES: &str = "\
Examples:
  anabranch init news && cd news
  anabranch up                                    daemon and scheduler, until Ctrl-C
  anabranch generate pageviews --into-daemon      facts to try it with
  anabranch sql -c 'SELECT * FROM post_minutes LIMIT 5'
  anabranch status

Exit codes: 0 done; 1 `verify`, `diff`, `replay` or `demo` found a difference; 2 dead letters, wrong arguments, or
`plan` found something to do; 3 `apply` stopped at a gate, or `plan` found that it had;
64 wrong input, SQL or settings; 65 damaged data; 66 no such thing; 69 unavailable, or a bound was
reached; 70 a defect; 75 stopped, or another process was first: try again; 77 not allowed.
ANABRANCH_LOG sets what is logged on standard error: error, warn, info (default), debug;
ANABRANCH_LOG_FORMAT in which form: text, json.";

/// Options of every command that one does not use: they are taken, and not shown.
#[derive(Debug, clap::Args)]
struct Unused {
    #[arg(long, short, hide = true)]
    project: Option<PathBuf>,
    #[arg(long, hide = true)]
    format: Option<Format>,
}

impl Unused {
    fn note(&self) {
        if self.project.is_some() || self.format.is_some() {
            tracing::debug!("`--project` and `--format` mean nothing to this command");
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a project: a folder with a commented `anabranch.toml` and one view, or a whole example
    #[command(after_help = "Examples:\n  anabranch init news\n  anabranch init --example newsroom")]
    Init {
        #[command(flatten)]
        args: InitArgs,
        #[command(flatten)]
        unused: Unused,
    },
    /// Lands facts from files and URLs; the same content again adds nothing
    #[command(after_help = INGEST_EXAMPLES)]
    Ingest(IngestArgs),
    /// Runs the streaming daemon: takes facts over HTTP, lands them, answers queries
    #[command(
        after_help = "Examples:\n  anabranch speed\n  ANABRANCH_LOG_FORMAT=json anabranch speed 2>> daemon.log"
    )]
    Speed,
    /// Runs the daemon and the scheduler in one process: the whole system on a laptop
    #[command(after_help = "Examples:\n  anabranch up\n  anabranch --project news up")]
    Up,
    /// Runs the views' jobs at their times, without the daemon
    Schedule,
    /// Shows what would change between the project and what runs, why and at what cost; exit code 2 where
    /// something would, 3 where a gate has stopped that
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(PlanArgs),
    /// Draws which sources, topics, views, generations and exports are made from which
    #[command(
        after_help = "Examples:\n  anabranch graph\n  anabranch graph --as mermaid > graph.mmd\n  anabranch graph --as dot | dot -Tsvg > graph.svg"
    )]
    Graph(GraphArgs),
    /// Does what `plan` shows, after a question: builds, compares, lets gates decide, cuts over; exit code
    /// 3 where a gate is broken
    #[command(after_help = APPLY_EXAMPLES)]
    Apply(ApplyArgs),
    /// Compares two generations of a view row by row at the same offsets; exit code 1 where they differ
    #[command(after_help = DIFF_EXAMPLES)]
    Diff(DiffArgs),
    /// Lets the generation that answered before answer again, with all facts that came since
    #[command(
        after_help = "Examples:\n  anabranch rollback post_minutes -m 'visitors are counted twice'"
    )]
    Rollback(RollbackArgs),
    /// Shows which generation of a view took whose place: when, by whom, why, and in what they differed
    #[command(after_help = "Examples:\n  anabranch history post_minutes")]
    History {
        /// The view
        view: String,
    },
    /// Rebuilds, refreshes and drops master views, and keeps the storage in shape
    #[command(subcommand)]
    Batch(BatchCommand),
    /// Answers SQL over merged views, topics, `dead_letters` and `jobs`: in a shell, or from the
    /// command line, a file or standard input
    Sql(SqlArgs),
    /// Computes the answer of a receipt again from what there was then, and compares; exit code 1 where
    /// they differ
    Replay(ReplayArgs),
    /// Compares merged answers with a recompute from the raw facts; exit code 1 where they differ
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Reads the whole storage and this machine's WAL, changes nothing, and lists what is damaged,
    /// missing or orphaned; exit code 65 where something is damaged or missing
    Check,
    /// Shows topics, views, daemons and their jobs, and what needs attention
    #[command(after_help = "Examples:\n  anabranch status\n  anabranch --format json status")]
    Status,
    /// Tries a step, which makes the facts of one topic into facts of another
    #[command(subcommand)]
    Step(StepCommand),
    /// Shows how many files and bytes each topic, view and WAL takes; writes nothing
    #[command(after_help = "Examples:\n  anabranch du\n  anabranch --format csv du > du.csv")]
    Du,
    /// Shows the records that could not become facts, and retries them
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Shows each job of the views: how it last ended, and when it is next due
    #[command(
        after_help = "Examples:\n  anabranch jobs\n  anabranch jobs history --view post_minutes --limit 10"
    )]
    Jobs {
        #[command(subcommand)]
        command: Option<JobsCommand>,
    },
    /// Shows the queries that run on the daemons and those that wait: who asked, since when, how much
    /// memory each holds
    #[command(after_help = "Examples:\n  anabranch queries\n  anabranch queries cancel 1f3a90c2")]
    Queries {
        #[command(subcommand)]
        command: Option<QueriesCommand>,
    },
    /// Says who may do what at the doors: adds users, lists them, renews and revokes their secrets
    #[command(subcommand)]
    Users(UsersCommand),
    /// Prints a topic's facts in order, then those that come
    #[command(after_help = TAIL_EXAMPLES)]
    Tail(TailArgs),
    /// Generates web-analytics facts, to standard output, files or the daemon
    #[command(after_help = GENERATE_EXAMPLES)]
    Generate(GenerateArgs),
    /// Shows every setting with its value in this project, and where that comes from
    #[command(after_help = SETTINGS_EXAMPLES)]
    Settings(SettingsArgs),
    /// Prints a script with which bash, zsh or fish completes this command
    Completions(CompletionsArgs),
    /// Tells the whole story on a temporary folder, in less than a minute
    Demo {
        /// How many facts are made
        #[arg(long, default_value_t = 400_000, value_name = "COUNT")]
        facts: u64,
        #[command(flatten)]
        unused: Unused,
    },
}

const INGEST_EXAMPLES: &str = "\
Examples:
  anabranch ingest pageviews day.ndjson.gz 'logs/*.parquet'
  anabranch ingest pageviews https://example.org/day.csv --separator ';'
  zcat day.gz | anabranch ingest pageviews - --id day-2026-01-01";

const PLAN_EXAMPLES: &str = "\
Examples:
  anabranch plan
  anabranch plan --markdown > plan.md
  anabranch plan --explain post_minutes";

const APPLY_EXAMPLES: &str = "\
Examples:
  anabranch apply -m 'count visitors too'
  anabranch apply 1f3a90c2d4e5 --yes
  anabranch apply --no-cut-over";

const DIFF_EXAMPLES: &str = "\
Examples:
  anabranch diff post_minutes
  anabranch diff post_minutes previous live --where \"minute < now() - INTERVAL '1 day'\"
  anabranch --format json diff post_minutes live candidate";

const VERIFY_EXAMPLES: &str = "\
Examples:
  anabranch verify
  anabranch verify post_minutes --sample 1%
  anabranch verify post_minutes --daemon";

const TAIL_EXAMPLES: &str = "\
Examples:
  anabranch tail pageviews -n 10
  anabranch tail pageviews --from 2026-01-01T00:00:00Z --where \"url = '/a'\" --count 100
  anabranch tail pageviews -n 0 --line '{ts} {url} {visitor}'
  anabranch --format csv tail pageviews --no-follow > pageviews.csv";

const GENERATE_EXAMPLES: &str = "\
Examples:
  anabranch generate pageviews --facts 100000 --into-daemon
  anabranch generate pageviews --rate 500 --into-daemon
  anabranch generate pageviews --facts 1000 --output facts.ndjson
  anabranch generate newsroom --into-daemon";

const SETTINGS_EXAMPLES: &str = "\
Examples:
  anabranch settings
  anabranch settings grace
  anabranch --format json settings query";

impl Command {
    /// Whether it writes nothing to the storage.
    fn only_reads(&self) -> bool {
        match self {
            Self::Sql(_)
            | Self::Replay(_)
            | Self::Verify(_)
            | Self::Status
            | Self::Step(_)
            | Self::Plan(_)
            | Self::Graph(_)
            | Self::Diff(_)
            | Self::History { .. }
            | Self::Du
            | Self::Check
            | Self::Jobs { .. }
            | Self::Queries { .. }
            | Self::Tail(_)
            | Self::Generate(_)
            | Self::Init { .. }
            | Self::Settings(_)
            | Self::Users(_)
            | Self::Completions(_) => true,
            Self::DeadLetters(command) => !matches!(command, DeadLettersCommand::Retry(_)),
            Self::Ingest(_)
            | Self::Speed
            | Self::Up
            | Self::Schedule
            | Self::Batch(_)
            | Self::Apply(_)
            | Self::Rollback(_)
            | Self::Demo { .. } => false,
        }
    }

    /// Whether it says how the project differs from what runs before anything else. `status` shows
    /// it in its own place, and the answer to a query has what concerns the query.
    fn says_notes(&self) -> bool {
        let one_query = matches!(self, Self::Sql(args) if args.is_given_statements());
        let has_its_own = matches!(
            self,
            Self::Status | Self::Plan(_) | Self::Apply(_) | Self::Replay(_)
        );
        !one_query && !has_its_own
    }

    /// Whether it gives rows, which may be printed as CSV.
    fn gives_rows(&self) -> bool {
        matches!(
            self,
            Self::Sql(_)
                | Self::Jobs { .. }
                | Self::Queries { command: None }
                | Self::Du
                | Self::Settings(_)
                | Self::Tail(_)
                | Self::DeadLetters(DeadLettersCommand::List { .. })
        )
    }
}

impl Cli {
    /// The form of the log as the project says, for commands that run until they are told to stop. Of
    /// a project that can't be read they tell themselves.
    pub fn log_format(&self) -> Option<LogFormat> {
        match self.command {
            Command::Up | Command::Speed | Command::Schedule => {
                Some(Project::load(&self.project).ok()?.log.format)
            }
            _ => None,
        }
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
            "`--format csv` is for rows, of `sql`, `jobs`, `queries`, `tail`, `du`, `settings` and `dead-letters list`; use `json` here"
                .into(),
        ));
    }
    // What needs no project.
    match &cli.command {
        Command::Init { args, unused } => {
            unused.note();
            init::init(args, &mut std::io::stdout())?;
            return Ok(0);
        }
        Command::Demo { facts, unused } => {
            unused.note();
            let held = demo::demo(*facts, &mut std::io::stdout(), printing.style).await?;
            return Ok(if held { 0 } else { FOUND_WRONG });
        }
        Command::Settings(args) => return settings::run(args, &cli.project, printing),
        Command::Completions(args) => return completions::run(args, printing).map(|()| 0),
        Command::Check => return check::run(&cli.project, printing).await,
        Command::Apply(args) => return apply::run(args, &cli.project, printing).await,
        Command::Generate(args) if !args.into_daemon => return generate::run(args).await,
        _ => {}
    }
    match cli.command {
        Command::Users(command) => return users::run(command, &cli.project, printing),
        Command::Sql(args) if args.remote.url.is_some() => {
            return sql::run_remote(args, printing).await;
        }
        Command::Replay(args) if args.remote.url.is_some() => {
            return replay::run_remote(&args, printing).await;
        }
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
        Command::Plan(args) => plan::run(&args, &context, printing).await,
        Command::Graph(args) => graph::run(&args, &context, printing),
        Command::Diff(args) => diff::run(&args, &context, printing).await,
        Command::Rollback(args) => rollback::run(&args, &context, printing).await,
        Command::History { view } => rollback::history(&view, &context, printing).await,
        Command::Batch(command) => batch::run(command, &context, printing).await,
        Command::Sql(args) => sql::run(args, &context, printing).await,
        Command::Replay(args) => replay::run(&args, &context, printing).await,
        Command::Verify(args) => verify::run(&args, &context, printing).await,
        Command::Status => status::run(&context, printing).await,
        Command::Step(command) => step::run(command, &context, printing).await,
        Command::Du => du::run(&context, printing).await,
        Command::Jobs { command } => jobs::run(command, &context, printing).await,
        Command::Queries { command } => queries::run(command, &context, printing).await,
        Command::DeadLetters(command) => dead_letters::run(command, &context, printing).await,
        Command::Tail(args) => tail::run(args, &context, printing).await,
        Command::Generate(args) => generate::run_into_daemon(&args, &context, printing).await,
        Command::Init { .. }
        | Command::Demo { .. }
        | Command::Settings(_)
        | Command::Completions(_)
        | Command::Apply(_)
        | Command::Users(_)
        | Command::Check => Ok(0),
    }
}
