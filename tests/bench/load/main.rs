//! `load`: drives a running daemon over HTTP and measures it. Owns the command line; each mode has
//! a file of its own. Threads with blocking sockets and requests made beforehand, because the
//! processors belong to the daemon that is measured.

mod broker;
mod http;
mod ingest;
mod land;
mod open;
mod process;
mod query;
mod report;
mod requests;
mod steady;

use std::io::Write;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

/// Measures a running Anabranch daemon
#[derive(Debug, Parser)]
#[command(name = "load")]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Sends facts as fast as they are acknowledged, one request in flight a connection, and
    /// waits until all have landed
    Ingest(ingest::IngestArgs),
    /// Sends facts at a fixed rate; latencies count from the time a request is due
    Open(open::OpenArgs),
    /// Asks one statement again and again
    Query(query::QueryArgs),
    /// Makes a log of many small landings, without a daemon
    Land(land::LandArgs),
    /// Produces numbered facts at a fixed rate, to a daemon or to Kafka, until it is told to stop
    Steady(steady::SteadyArgs),
    /// Runs a Kafka broker while standard input is open
    Broker(broker::BrokerArgs),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A line for people
    Text,
    /// One JSON object
    Json,
}

/// What each mode needs to know.
#[derive(Debug, clap::Args)]
struct Common {
    /// The daemon
    #[arg(long, default_value = "http://127.0.0.1:8787")]
    url: String,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Output {
    fn print(self, line: &str, json: &serde_json::Value) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match self {
            Self::Text => writeln!(out, "{line}")?,
            Self::Json => writeln!(out, "{json}")?,
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    match Arguments::parse().mode {
        Mode::Ingest(arguments) => ingest::run(&arguments),
        Mode::Open(arguments) => open::run(&arguments),
        Mode::Query(arguments) => query::run(&arguments),
        Mode::Land(arguments) => land::run(&arguments),
        Mode::Steady(arguments) => steady::run(&arguments),
        Mode::Broker(arguments) => broker::run(&arguments),
    }
}
