//! Owns the SQL shell: the prompt with editing, history and completion, the commands that start with
//! a backslash, and the running of scripts. It knows nothing of how a query is answered: that is the
//! [`Session`]'s.

mod command;
mod complete;
mod editor;
mod lex;
mod runner;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_shared::ErrorKind;
use rustyline::error::ReadlineError;
use tokio::sync::Notify;

use crate::output::{Format, Style};
use crate::reader::answers::{Answer, RelationInfo, Session};
use editor::{Heard, Prompt};
use runner::{Giver, Ran, Runner};

pub use lex::{Statement, split_statements};

/// How the shell behaves.
#[derive(Debug, Clone)]
pub struct ShellOptions {
    /// What stands before the cursor.
    pub prompt: String,
    /// What is printed before the first prompt.
    pub greeting: Option<String>,
    /// Where statements are remembered; the file and its folder are created. `None` keeps no history.
    pub history: Option<PathBuf>,
    /// How answers are written until `\format` changes it.
    pub format: Format,
    /// Whether the time taken is shown until `\timing` changes it.
    pub timing: bool,
    /// What the place of the answers can show.
    pub style: Style,
    /// What the place of errors, notes and freshness can show.
    pub error_style: Style,
}

impl Default for ShellOptions {
    /// Tables without colour or history.
    fn default() -> Self {
        Self {
            prompt: "anabranch> ".to_owned(),
            greeting: None,
            history: None,
            format: Format::Table,
            timing: false,
            style: Style::plain(),
            error_style: Style::plain(),
        }
    }
}

/// Why a shell ended that nobody left. A failing statement is none of these.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The terminal can't be read: use a script instead.
    #[error("can't read from the terminal (to run a script, pass it as standard input)")]
    Terminal {
        /// What the terminal said.
        source: ReadlineError,
    },
    /// Answers or errors can't be written.
    #[error("can't write the answer")]
    Write {
        /// What the output said.
        #[from]
        source: io::Error,
    },
    /// The thread that reads the terminal can't be started.
    #[error("can't start the prompt's thread")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptOutcome {
    /// All statements were answered, or `\q` ended the script.
    Finished {
        /// Answered statements; commands don't count.
        statements: usize,
    },
    /// A statement or command failed; it has been written to `err`, and nothing after it has run.
    Failed {
        /// Statements that were answered before.
        statements: usize,
        /// The line where the failed one starts, counted from 1, in the script or an included file.
        line: usize,
        /// What is wrong, without the place.
        message: String,
        /// What to do about it, and so the process's exit code.
        kind: ErrorKind,
    },
    /// The reader of `out` went away (`| head`): no error, and nothing more has run.
    OutputClosed,
}

/// Runs the statements of `sql_text` in order and stops at the first that fails.
///
/// Answers go to `out`; freshness, notes and the error go to `err`. Commands (`\format csv`, `\i FILE`)
/// are allowed, each on its own line.
///
/// # Errors
///
/// [`ShellError::Write`] where `out` or `err` can't be written, except that their reader went away.
pub async fn run_script(
    session: &dyn Session,
    sql_text: &str,
    out: &mut (dyn Write + Send),
    err: &mut (dyn Write + Send),
    options: ShellOptions,
) -> Result<ScriptOutcome, ShellError> {
    match Runner::new(session, out, err, options, Giver::Script)
        .run(sql_text)
        .await
    {
        Ok(ran) => Ok(ran.into()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ScriptOutcome::OutputClosed),
        Err(source) => Err(ShellError::Write { source }),
    }
}

/// Runs the shell on the terminal until `\q` or Ctrl-D.
///
/// From here on the process no longer ends by Ctrl-C: at the prompt it clears what is typed, during a
/// query it stops the query. Needs a tokio runtime with timers and I/O; on one with several threads
/// Ctrl-C also stops the printing of a long answer.
///
/// # Errors
///
/// [`ShellError`]; a failing statement is printed and the shell goes on.
pub async fn run(session: &dyn Session, options: ShellOptions) -> Result<(), ShellError> {
    let interrupt = Arc::new(Interrupt::default());
    let watch = tokio::spawn(watch_signals(interrupt.clone()));
    let mut out = Stoppable {
        inner: io::BufWriter::new(io::stdout()),
        interrupt: interrupt.clone(),
    };
    let mut err = io::stderr();
    let mut prompt = Prompt::start(
        options.prompt.clone(),
        options.style.color,
        options.history.clone(),
    )?;
    let greeting = options.greeting.clone();
    let mut runner = Runner::new(session, &mut out, &mut err, options, Giver::Person);
    let ended = async {
        if let Some(greeting) = greeting {
            runner.say(&format!("{greeting}\n"))?;
        }
        converse(session, &mut runner, &mut prompt, &interrupt).await
    }
    .await;
    watch.abort();
    ended
}

async fn converse(
    session: &dyn Session,
    runner: &mut Runner<'_>,
    prompt: &mut Prompt,
    interrupt: &Interrupt,
) -> Result<(), ShellError> {
    loop {
        if !prompt.ask() {
            // The thread says why it ends before it does.
            return match prompt.hear().await {
                Some(Heard::Failed(source)) => Err(ShellError::Terminal { source }),
                _ => Ok(()),
            };
        }
        let heard = hear_and_learn(session, runner, prompt).await?;
        let text = match heard {
            Some(Heard::Text(text)) => text,
            Some(Heard::Failed(source)) => return Err(ShellError::Terminal { source }),
            Some(Heard::End) | None => return Ok(()),
            Some(Heard::Interrupted | Heard::NoHistory(_)) => continue,
        };
        interrupt.clear();
        let ran = tokio::select! {
            ran = runner.run(&text) => ran,
            () = interrupt.wait() => Err(stopped()),
        };
        match ran {
            Ok(Ran::Through { quit: true, .. }) => return Ok(()),
            Ok(_) => {}
            Err(_) if interrupt.is_set() => runner.error("stopped")?,
            Err(source) => return Err(ShellError::Write { source }),
        }
    }
}

/// Waits for the prompt's answer, and meanwhile asks which relations there are. A failure to know them
/// only costs completion, so it isn't worth a line over the one being typed.
async fn hear_and_learn(
    session: &dyn Session,
    runner: &mut Runner<'_>,
    prompt: &mut Prompt,
) -> io::Result<Option<Heard>> {
    let mut relations = session.relations();
    let mut learning = true;
    loop {
        tokio::select! {
            heard = prompt.hear() => match heard {
                Some(Heard::NoHistory(message)) => runner.note(&message)?,
                other => return Ok(other),
            },
            known = &mut relations, if learning => {
                learning = false;
                if let Ok(known) = known {
                    prompt.learn(known);
                }
            }
        }
    }
}

/// Ctrl-C, from the signal to whoever must stop.
#[derive(Debug, Default)]
struct Interrupt {
    set: AtomicBool,
    notify: Notify,
}

impl Interrupt {
    fn set(&self) {
        self.set.store(true, Ordering::SeqCst);
        self.notify.notify_one();
    }

    fn clear(&self) {
        self.set.store(false, Ordering::SeqCst);
    }

    fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }

    /// Ends once Ctrl-C was pressed since the last `clear`.
    async fn wait(&self) {
        while !self.is_set() {
            self.notify.notified().await;
        }
    }
}

async fn watch_signals(interrupt: Arc<Interrupt>) {
    while tokio::signal::ctrl_c().await.is_ok() {
        interrupt.set();
    }
}

fn stopped() -> io::Error {
    io::Error::other("stopped by Ctrl-C")
}

/// An output that fails once Ctrl-C was pressed: formatting a long answer never waits, so nothing else
/// could stop it.
struct Stoppable<W> {
    inner: W,
    interrupt: Arc<Interrupt>,
}

impl<W: Write> Write for Stoppable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.interrupt.is_set() {
            Err(stopped())
        } else {
            self.inner.write(bytes)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
