//! The tests' S3 server as a program: `s3d FOLDER [PORT] [RULE…]`. Prints its URL once it listens,
//! and serves until it is killed. Sub-folders of FOLDER are buckets; `tests` is made. A rule makes it
//! fail, for example `drop-after:50:PUT:_delta_log`: of a thousand puts below `_delta_log` 50 are
//! done and not answered. `PUT URL/-/faults` replaces the rules, `GET URL/-/requests` counts.

use std::io::Write;
use std::path::PathBuf;

use anabranch_tests::s3::{ACCESS_KEY, Locking, Rule, S3Server, SECRET_KEY};
use clap::Parser;

/// The tests' S3 server.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder of the buckets
    folder: PathBuf,
    /// The port on loopback; a free one where it is 0
    #[arg(default_value_t = 0)]
    port: u16,
    /// How it fails: FAULT:PER_MILLE, then perhaps :METHOD and :KEY
    rules: Vec<Rule>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let server = S3Server::start_at(&arguments.folder, arguments.port, Locking::PerKey)?;
    server.fail(arguments.rules);
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{} AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY}",
        server.endpoint()
    )?;
    out.flush()?;
    loop {
        std::thread::park();
    }
}
