//! `anabranch sql`: a shell, or statements from the command line, a file or standard input.

use std::io::{BufWriter, IsTerminal, Read, Write};
use std::path::PathBuf;

use anabranch_shared::{Error, Result};

use crate::commands::printing::Printing;
use crate::output::{Style, quiet_broken_pipe};
use crate::project::context::Context;
use crate::reader::session::QuerySession;
use crate::shell::{ScriptOutcome, ShellError, ShellOptions, run as run_shell, run_script};

/// What is asked.
#[derive(Debug, Default, clap::Args)]
pub struct SqlArgs {
    /// Runs these statements
    #[arg(short = 'c', long, conflicts_with = "file")]
    pub command: Option<String>,
    /// Runs the statements of a file
    #[arg(short = 'f', long)]
    pub file: Option<PathBuf>,
}

/// Answers one statement, as a script does.
pub(crate) async fn one(context: &Context, text: String, printing: Printing) -> Result<u8> {
    let args = SqlArgs {
        command: Some(text),
        file: None,
    };
    run(args, context, printing).await
}

/// Runs the shell or a script.
pub(crate) async fn run(args: SqlArgs, context: &Context, printing: Printing) -> Result<u8> {
    let session = QuerySession::open(context).await?;
    let text = match (args.command, args.file) {
        (Some(text), _) => Some(text),
        (None, Some(path)) => {
            Some(std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?)
        }
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
        greeting: Some(session.greeting()),
        history,
        format: printing.format,
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
