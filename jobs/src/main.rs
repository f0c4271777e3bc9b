//! The `anabranch` command line.

use std::io::{BufWriter, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anabranch_batch::{CleanAction, CleanReport};
use anabranch_jobs::commands::generate::GenerateArgs;
use anabranch_jobs::commands::ingest::IngestArgs;
use anabranch_jobs::commands::verify::VerifyArgs;
use anabranch_jobs::commands::{
    DEAD_LETTERS, FOUND_WRONG, batch, check, dead_letters, demo, generate, ingest, init, jobs,
    maintain, queries, status, tail, verify,
};
use anabranch_jobs::node::run as daemon;
use anabranch_jobs::output::{
    Format, Style, for_people, human_bytes, human_count, human_duration, human_rate,
    quiet_broken_pipe, rows_table, write_batches,
};
use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::client::Client;
use anabranch_jobs::reader::session::QuerySession;
use anabranch_jobs::shell::{ScriptOutcome, ShellOptions, run, run_script};
use anabranch_jobs::signal::{stop_flag, stop_token, stopped};
use anabranch_jobs::work::build::{Build, BuildReport, drop_view};
use anabranch_jobs::work::upkeep::{self, Patience, UpkeepReport};
use anabranch_jobs::work::verify::VerifyOptions;
use anabranch_jobs::work::{job_states, schedule, verify_view};
use anabranch_shared::{Error, ErrorKind, Result, without_passwords};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// How long threads may take to end once a command has.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// With glibc's allocator a daemon holds on to several times the memory that its deltas take.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Lambda architecture: views written once as SQL, rebuilt in batch, kept fresh by a stream.
#[derive(Debug, Parser)]
#[command(name = "anabranch", version, about, after_help = EXIT_CODES)]
struct Cli {
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
    /// Answers SQL over merged views, topics, `dead_letters` and `jobs`: in a shell, or from -c, -f
    /// or standard input
    Sql {
        /// Runs these statements
        #[arg(short = 'c', long, conflicts_with = "file")]
        command: Option<String>,
        /// Runs the statements of a file
        #[arg(short = 'f', long)]
        file: Option<PathBuf>,
    },
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
    Tail {
        /// The topic
        topic: String,
        /// An offset, or a time of admission (RFC 3339)
        #[arg(long, default_value = "0")]
        from: tail::From,
        /// Ends with the last fact instead of waiting for more
        #[arg(long)]
        no_follow: bool,
    },
    /// Makes web-analytics facts for trying it: to standard output, a file or the daemon
    Generate(GenerateArgs),
    /// Prints every setting with its default
    Settings,
    /// Tells the whole story on a temporary folder, in about a minute
    Demo {
        /// How many facts
        #[arg(long, default_value_t = 400_000)]
        facts: u64,
    },
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// Lists dead letters, the newest first
    List {
        /// Only of this topic
        #[arg(long)]
        topic: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u64,
    },
    /// Shows all of one dead letter: its fields, what came of a retry, and its bytes as they came
    Show {
        /// The topic
        topic: String,
        /// Its place
        #[arg(value_name = "PARTITION:OFFSET")]
        place: dead_letters::Place,
    },
    /// Retries dead letters: those that become facts now are written as new ones, once however often
    /// they are retried. Exit code 2 where some still can't become facts
    Retry(dead_letters::RetryArgs),
}

#[derive(Debug, Subcommand)]
enum JobsCommand {
    /// Shows the jobs that ran, the newest first: when, why, what they read and wrote, how they ended
    History {
        /// Only of this view
        #[arg(long)]
        view: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u64,
    },
}

#[derive(Debug, Subcommand)]
enum QueriesCommand {
    /// Stops a query: whoever asked gets an error
    Cancel {
        /// Its id, as `anabranch queries` shows it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum BatchCommand {
    /// From the whole log; an edited view is built beside the live one and cut over
    Rebuild {
        /// The views; all unless named
        views: Vec<String>,
        /// Builds a new or edited view also where retention has removed facts that it would need:
        /// then it starts where they end
        #[arg(long, requires = "views")]
        from_low: bool,
    },
    /// Forgets a view that the project does not hold any more: it stops answering, and its files go
    Drop {
        /// The view
        view: String,
    },
    /// Absorbs the facts since the boundary
    Refresh {
        /// The views; all unless named
        views: Vec<String>,
    },
    /// Removes the facts that a topic's `retention` lets go, merges small files of the logs, and removes files that
    /// nothing needs any more once their grace is over
    Maintain {
        /// Only counts them
        #[arg(long)]
        dry_run: bool,
    },
}

impl Command {
    /// Whether it writes nothing to the storage.
    fn only_reads(&self) -> bool {
        match self {
            Self::Sql { .. }
            | Self::Verify(_)
            | Self::Status
            | Self::Check
            | Self::Jobs { .. }
            | Self::Queries { .. }
            | Self::Tail { .. }
            | Self::Generate(_)
            | Self::Init { .. }
            | Self::Settings => true,
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
        let one_query = matches!(
            self,
            Self::Sql {
                command: Some(_),
                ..
            }
        );
        !one_query && !matches!(self, Self::Status)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = match log_filter(std::env::var("ANABRANCH_LOG").ok().as_deref()) {
        Ok(filter) => filter,
        Err(e) => return fail_with(&e),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Redacted(std::io::stderr()))
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let _failpoints = match anabranch_jobs::fail_points::setup() {
        Ok(scenario) => scenario,
        Err(e) => return fail_with(&e),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return fail_with(&Error::Unavailable(format!("can't start threads: {e}"))),
    };
    let ended = runtime.block_on(execute(cli));
    // What is still in a call of the system, such as a write to a disk that hangs, is not waited for.
    runtime.shutdown_timeout(LEFT_BEHIND);
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(e) => fail_with(&e),
    }
}

/// What is logged: of this software from the level that `ANABRANCH_LOG` names on, of others warnings.
fn log_filter(wanted: Option<&str>) -> Result<EnvFilter> {
    let wanted = wanted.filter(|w| !w.is_empty()).unwrap_or("info");
    let wrong = || {
        Error::Invalid(format!(
            "`ANABRANCH_LOG` = `{wanted}`: write error, warn, info or debug"
        ))
    };
    let others = match wanted {
        "off" | "error" => wanted,
        "warn" | "info" | "debug" | "trace" => "warn",
        // Targets with levels of their own, as `tracing` writes them.
        _ if wanted.contains('=') => return EnvFilter::try_new(wanted).map_err(|_| wrong()),
        _ => return Err(wrong()),
    };
    EnvFilter::try_new(format!("{others},anabranch={wanted}")).map_err(|_| wrong())
}

/// Standard error for logs: URLs in them lose their passwords. Each event comes in one piece.
struct Redacted(std::io::Stderr);

impl Write for Redacted {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.0.write_all(without_passwords(&text).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

fn fail_with(e: &Error) -> ExitCode {
    let style = Style::detect_stderr();
    let text = format!("error: {e}");
    let text = for_people(&without_passwords(&text));
    // With standard error gone too there is nobody left to tell.
    writeln!(std::io::stderr(), "{}", style.red(&text)).ok();
    ExitCode::from(e.kind().exit_code())
}

/// Everything that the command prints, written at once; a closed pipe is no error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    quiet_broken_pipe(written).map_err(|e| Error::Unavailable(format!("standard output: {e}")))
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| Error::Internal(e.to_string()))?;
    print(&format!("{text}\n"))
}

async fn execute(cli: Cli) -> Result<u8> {
    let style = Style::detect();
    if cli.format == Format::Csv
        && !matches!(
            cli.command,
            Command::Sql { .. }
                | Command::Jobs { .. }
                | Command::Queries { command: None }
                | Command::DeadLetters(DeadLettersCommand::List { .. })
        )
    {
        return Err(Error::Invalid(
            "`--format csv` is for rows, of `sql`, `jobs`, `queries` and `dead-letters list`; use `json` here"
                .into(),
        ));
    }
    match cli.command {
        Command::Init { dir } => {
            init::init(&dir, &mut std::io::stdout())?;
            return Ok(0);
        }
        Command::Demo { facts } => {
            let held = demo::demo(facts, &mut std::io::stdout(), style).await?;
            return Ok(if held { 0 } else { FOUND_WRONG });
        }
        Command::Settings => {
            print(&anabranch_shared::settings::reference())?;
            return Ok(0);
        }
        Command::Check => {
            let report = check::check(&cli.project, std::io::stderr().is_terminal()).await?;
            match cli.format {
                Format::Table => print(&check::text(&report))?,
                _ => print_json(&check::json(&report))?,
            }
            return Ok(match report.is_damaged() {
                true => ErrorKind::Corrupt.exit_code(),
                false => 0,
            });
        }
        Command::Generate(args) if !args.into_daemon => {
            let mut out = BufWriter::new(std::io::stdout());
            generate::generate(&args, None, &mut out).await?;
            return Ok(0);
        }
        _ => {}
    }
    let context = match cli.command.only_reads() {
        true => Context::open_to_read(&cli.project).await?,
        false => Context::open(&cli.project).await?,
    };
    if cli.command.says_notes() {
        for note in context.notes().into_values() {
            tracing::warn!("{note}");
        }
    }
    let json = cli.format != Format::Table;
    match cli.command {
        Command::Ingest(args) => {
            let terminal = std::io::stderr().is_terminal();
            let begun = std::time::Instant::now();
            let report = ingest::ingest(&context, &args, terminal).await?;
            match json {
                true => print_json(&report)?,
                false => print(&ingest_line(&report, begun.elapsed()))?,
            }
            if let Some(e) = report.unread_files() {
                return Err(e);
            }
            let fails = report.dead_letters > 0 && !args.allow_dead_letters;
            Ok(if fails { DEAD_LETTERS } else { 0 })
        }
        Command::Speed => daemon::run(&context, false).await.map(|()| 0),
        Command::Up => daemon::run(&context, true).await.map(|()| 0),
        Command::Schedule => {
            let stop = stop_token();
            schedule::run(context, None, stop).await.map(|()| 0)
        }
        Command::Batch(command) => {
            let (build, views) = match command {
                BatchCommand::Rebuild { views, from_low } => {
                    let build = match from_low {
                        true => Build::RebuildFromLow,
                        false => Build::Rebuild,
                    };
                    (build, views)
                }
                BatchCommand::Refresh { views } => (Build::Refresh, views),
                BatchCommand::Drop { view } => {
                    drop_view(&context, &view).await?;
                    match json {
                        true => print_json(&serde_json::json!({ "dropped": view }))?,
                        false => print(&format!("dropped view `{view}`\n"))?,
                    }
                    return Ok(0);
                }
                BatchCommand::Maintain { dry_run } => {
                    let action = match dry_run {
                        true => CleanAction::Find,
                        false => CleanAction::Remove,
                    };
                    let stop = stop_flag();
                    let time = upkeep::upkeep_time(&context, action).await?;
                    let kept =
                        upkeep::keep_logs(&context, action, Patience::UntilExpiry, &stop).await;
                    let report = tokio::select! {
                        report = upkeep::maintain(&context, time, action) => report?,
                        () = stopped(&stop) => return Err(Error::Conflict(
                            "stopped; what is not needed any more and still there is removed the next time".into(),
                        )),
                    };
                    print_cleaned(&report, &kept?, action, json)?;
                    return Ok(0);
                }
            };
            let terminal = std::io::stderr().is_terminal();
            let built = batch::build(&context, build, &views, terminal).await?;
            if built.failed.is_none() || !built.reports.is_empty() {
                print_builds(&built.reports, cli.format)?;
            }
            built.failed.map_or(Ok(0), Err)
        }
        Command::Sql { command, file } => sql(&context, command, file, cli.format, style).await,
        Command::Verify(args) => verify_all(&context, &args, cli.format).await,
        Command::Status => {
            let status = status::status(&context).await?;
            match json {
                true => print_json(&status)?,
                false => print(&status::text(&status, style))?,
            }
            Ok(0)
        }
        Command::Jobs { command: None } => {
            let states = job_states::states(&context, chrono::Utc::now()).await?;
            if let Some(note) = job_states::scheduler_note(&context).await? {
                tracing::warn!("{note}");
            }
            let (rows, mut out) = (jobs::rows(&states)?, std::io::stdout());
            quiet_broken_pipe(write_batches(
                &mut out,
                &rows.schema(),
                std::slice::from_ref(&rows),
                cli.format,
                style,
            ))
            .map_err(|e| Error::io("standard output", e))?;
            Ok(0)
        }
        Command::Jobs {
            command: Some(JobsCommand::History { view, limit }),
        } => {
            let text = jobs::history_sql(&context, view.as_deref(), limit)?;
            sql(&context, Some(text), None, cli.format, style).await
        }
        Command::Queries { command: None } => {
            let rows = queries::rows(&queries::list(&context).await?)?;
            let (schema, mut out) = (rows.schema(), std::io::stdout());
            let written = write_batches(&mut out, &schema, &[rows], cli.format, style);
            quiet_broken_pipe(written).map_err(|e| Error::io("standard output", e))?;
            Ok(0)
        }
        Command::Queries {
            command: Some(QueriesCommand::Cancel { id }),
        } => {
            queries::cancel(&context, &id).await?;
            match json {
                true => print_json(&serde_json::json!({ "cancelled": id }))?,
                false => print(&format!("cancelled query `{id}`\n"))?,
            }
            Ok(0)
        }
        Command::DeadLetters(DeadLettersCommand::List { topic, limit }) => {
            if let Some(topic) = &topic {
                context.topic_settings(topic)?;
            }
            let text = dead_letters::list_sql(topic.as_deref(), limit);
            sql(&context, Some(text), None, cli.format, style).await
        }
        Command::DeadLetters(DeadLettersCommand::Show { topic, place }) => {
            let shown = dead_letters::show(&context, &topic, place).await?;
            match json {
                true => print_json(&shown.json())?,
                false => print(&shown.text())?,
            }
            Ok(0)
        }
        Command::DeadLetters(DeadLettersCommand::Retry(args)) => {
            let report = dead_letters::retry(&context, &args).await?;
            match json {
                true => print_json(&report)?,
                false => print(&report.text(args.dry_run))?,
            }
            Ok(if report.failed > 0 { DEAD_LETTERS } else { 0 })
        }
        Command::Tail {
            topic,
            from,
            no_follow,
        } => {
            if let Some(note) = tail::removed_note(&context, &topic, &from).await? {
                writeln!(std::io::stderr(), "{}", for_people(&note)).ok();
            }
            let session = QuerySession::open(&context).await?;
            let mut out = std::io::stdout();
            tail::tail(&session, &topic, &from, !no_follow, &mut out).await?;
            Ok(0)
        }
        Command::Generate(args) => {
            let client = Client::find(&context.storage).await?.ok_or_else(|| {
                Error::Unavailable("no daemon runs; start one with `anabranch up`".into())
            })?;
            let begun = std::time::Instant::now();
            let report = generate::generate(&args, Some(&client), &mut std::io::stdout()).await?;
            match json {
                true => print_json(&report)?,
                false => print(&format!(
                    "{} facts acknowledged by the daemon, {} dead letters, {} duplicates: {}\n",
                    human_count(report.facts),
                    human_count(report.dead_letters),
                    human_count(report.duplicates),
                    human_rate(report.records, begun.elapsed())
                ))?,
            }
            Ok(if report.dead_letters > 0 {
                DEAD_LETTERS
            } else {
                0
            })
        }
        Command::Init { .. } | Command::Demo { .. } | Command::Settings | Command::Check => Ok(0),
    }
}

fn ingest_line(report: &ingest::IngestReport, took: Duration) -> String {
    let offsets: Vec<String> = report
        .offsets
        .iter()
        .map(|(p, (a, b))| format!("partition {p} [{a}, {b})"))
        .collect();
    let mut line = format!(
        "{} facts, {} dead letters, {}",
        human_count(report.facts),
        human_count(report.dead_letters),
        if offsets.is_empty() {
            "no offsets".to_owned()
        } else {
            offsets.join(", ")
        },
    );
    if report.duplicates > 0 {
        line += &format!(", {} duplicates left out", human_count(report.duplicates));
    }
    if report.unknown_fields > 0 {
        let count = human_count(report.unknown_fields);
        line += &format!(", {count} with undeclared fields");
    }
    if report.repeated > 0 {
        line += &format!(
            "; {} of {} files were ingested before and added nothing (`--again` ingests them once more)",
            report.repeated, report.files
        );
    }
    format!(
        "{line}; {} ({})\n",
        human_duration(took),
        human_rate(report.facts, took)
    )
}

fn print_cleaned(
    report: &CleanReport,
    kept: &UpkeepReport,
    action: CleanAction,
    json: bool,
) -> Result<()> {
    let total = report.total();
    if json {
        let rows = report.reasons.iter();
        let rows = rows.map(|(r, c)| {
            (
                r.name().to_owned(),
                serde_json::json!({"files": c.files, "bytes": c.bytes}),
            )
        });
        return print_json(&serde_json::json!({
            "removed": action == CleanAction::Remove, "files": total.files, "bytes": total.bytes,
            "reasons": rows.collect::<serde_json::Map<_, _>>(),
            "compacted": {"files": kept.compacted.files, "bytes": kept.compacted.bytes, "into": kept.compacted.merged},
            "elsewhere": kept.elsewhere,
            "retention": maintain::retention_json(kept),
        }));
    }
    let what = match action {
        CleanAction::Remove => "removed",
        CleanAction::Find => "would be removed",
    };
    let mut text = format!(
        "{} files {what}, {}\n",
        human_count(total.files),
        human_bytes(total.bytes)
    );
    for (reason, cleaned) in &report.reasons {
        let (files, bytes) = (human_count(cleaned.files), human_bytes(cleaned.bytes));
        text += &format!("  {}: {files} files, {bytes}\n", reason.name());
    }
    text += &maintain::text(kept, action);
    print(&text)
}

fn print_builds(reports: &[BuildReport], format: Format) -> Result<()> {
    if format != Format::Table {
        let rows: Vec<_> = reports
            .iter()
            .map(|r| {
                serde_json::json!({
                    "view": r.view, "facts": r.outcome.facts, "states": r.outcome.states,
                    "bytes": r.outcome.bytes, "boundary": r.outcome.boundary,
                    "seconds": r.took_us as f64 / 1e6, "cut_over": r.cut_over,
                })
            })
            .collect();
        return match format {
            Format::Ndjson => rows.iter().try_for_each(print_json),
            _ => print_json(&rows),
        };
    }
    let rows = reports.iter().map(|r| {
        let took = Duration::from_micros(u64::try_from(r.took_us).unwrap_or(0));
        vec![
            r.view.clone(),
            human_count(r.outcome.facts),
            human_count(r.outcome.states),
            human_bytes(r.outcome.bytes),
            human_duration(took),
            human_rate(r.outcome.facts, took),
            format!("[{}]", r.outcome.boundary),
            if r.cut_over {
                "cut over".into()
            } else {
                String::new()
            },
        ]
    });
    let headers = [
        "view", "facts", "states", "written", "took", "rate", "boundary", "",
    ];
    print(&rows_table(&headers, rows.collect()))
}

async fn verify_all(context: &Context, args: &VerifyArgs, format: Format) -> Result<u8> {
    let (views, part) = args.chosen(context)?;
    let stop = stop_flag();
    let terminal = std::io::stderr().is_terminal();
    let mut all = Vec::new();
    let mut code = 0;
    let mut failed = Vec::new();
    for view in &views {
        let options = VerifyOptions {
            whose: args.whose(),
            ..verify_view::options(context, part, &stop)
        };
        let verified = match verify::verify_shown(context, view, &options, terminal).await {
            Ok(verified) => verified,
            // It is told beside the others, never instead of them.
            Err(e) => {
                match format {
                    Format::Table => print(&format!("{view}: not compared: {e}\n"))?,
                    Format::Ndjson => print_json(&verify::failed_json(view, &e))?,
                    _ => all.push(verify::failed_json(view, &e)),
                }
                failed.push(verify_view::named(view, e));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                continue;
            }
        };
        if !verified.comparison.is_equal() {
            code = FOUND_WRONG;
        }
        match format {
            Format::Table => print(&verify::text(view, &verified))?,
            Format::Ndjson => print_json(&verify::json(view, &verified))?,
            _ => all.push(verify::json(view, &verified)),
        }
    }
    if format == Format::Json {
        print_json(&all)?;
    }
    match batch::all_of(failed) {
        // A difference is worse than what was not looked at.
        Some(e) if code == 0 => Err(e),
        Some(e) => {
            tracing::error!("{e}");
            Ok(code)
        }
        None => Ok(code),
    }
}

async fn sql(
    context: &Context,
    command: Option<String>,
    file: Option<PathBuf>,
    format: Format,
    style: Style,
) -> Result<u8> {
    let session = QuerySession::open(context).await?;
    let text = match (command, file) {
        (Some(text), _) => Some(text),
        (None, Some(path)) => {
            Some(std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?)
        }
        (None, None) if !std::io::stdin().is_terminal() => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|e| Error::io("standard input", e))?;
            Some(text)
        }
        (None, None) => None,
    };
    let history = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".anabranch/history"));
    let options = ShellOptions {
        greeting: Some(session.greeting()),
        history,
        format,
        style,
        error_style: Style::detect_stderr(),
        ..Default::default()
    };
    let failed = |e: anabranch_jobs::shell::ShellError| Error::Unavailable(e.to_string());
    let Some(text) = text else {
        return run(&session, options).await.map(|()| 0).map_err(failed);
    };
    let (mut out, mut err) = (BufWriter::new(std::io::stdout()), std::io::stderr());
    let outcome = run_script(&session, &text, &mut out, &mut err, options)
        .await
        .map_err(failed)?;
    quiet_broken_pipe(out.flush())
        .map_err(|e| Error::Unavailable(format!("standard output: {e}")))?;
    Ok(match outcome {
        ScriptOutcome::Failed { kind, .. } => kind.exit_code(),
        ScriptOutcome::Finished { .. } | ScriptOutcome::OutputClosed => 0,
    })
}
