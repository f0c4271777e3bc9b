//! The `anabranch` program: its log, its threads and its exit code. What it does is in `commands`.

use std::process::ExitCode;
use std::time::Duration;

use anabranch_jobs::commands::{Cli, execute};
use anabranch_jobs::logging;
use anabranch_shared::Error;
use anabranch_shared::settings::LogFormat;
use clap::Parser;

/// How long threads may take to end once a command has.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// With glibc's allocator a daemon holds on to several times the memory that its deltas take.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = match logging::begin(cli.log_format()) {
        Ok(format) => format,
        Err(e) => return fail_with(&e, LogFormat::Text),
    };
    let _failpoints = match anabranch_jobs::fail_points::setup() {
        Ok(scenario) => scenario,
        Err(e) => return fail_with(&e, format),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(most_waiting())
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            let e = Error::Unavailable(format!("can't start threads: {e}"));
            return fail_with(&e, format);
        }
    };
    let ended = runtime.block_on(execute(cli));
    // What is still in a call of the system, such as a write to a disk that hangs, is not waited for.
    runtime.shutdown_timeout(LEFT_BEHIND);
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(e) => fail_with(&e, format),
    }
}

/// How many threads may wait for the system, or compute apart from those that serve I/O. Every topic has
/// some such work at times, which then waits. It is more than builds and verifications hold at once, whose
/// threads wait for others of these: they fold with a thread a core.
fn most_waiting() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    64 + 8 * cores
}

fn fail_with(e: &Error, format: LogFormat) -> ExitCode {
    logging::fail(e, format);
    ExitCode::from(e.kind().exit_code())
}
