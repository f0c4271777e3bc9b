//! The `anabranch` program: its log, its threads and its exit code. What it does is in `commands`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anabranch_jobs::commands::{Cli, execute};
use anabranch_jobs::output::{Style, for_people};
use anabranch_shared::{Error, Result, without_passwords};
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// How long threads may take to end once a command has.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// With glibc's allocator a daemon holds on to several times the memory that its deltas take.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
