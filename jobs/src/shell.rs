//! Owns the SQL shell: the prompt with editing, history and completion, the commands that start with
//! a backslash, and the running of scripts. It knows nothing of how a query is answered: that is the
//! [`Session`]'s.

mod command;
mod complete;
mod describe;
mod editor;
mod external;
mod lex;
mod near;
mod paste;
mod runner;
mod signals;
mod typed;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anabranch_shared::ErrorKind;
use rustyline::error::ReadlineError;

use crate::output::{Format, Layout, Style};
use crate::reader::answers::{Answer, Session};
use editor::{Heard, Prompt};
use runner::{Giver, Ran, Runner, Then};
use signals::{Interrupt, Stoppable, stopped};
use typed::{Turn, Typed};

pub use external::pager;
pub use lex::{Statement, split_statements};

/// Rows that a terminal shows of one answer unless it is told.
pub const ROWS: u64 = 10_000;

/// How the shell behaves.
#[derive(Debug, Clone)]
pub struct ShellOptions {
    /// What stands before the cursor, without its sign.
    pub prompt: String,
    /// What is printed before the first prompt, unless the shell is to be quiet.
    pub greeting: Option<String>,
    /// Where statements are remembered; the file and its folder are created. `None` keeps no history.
    pub history: Option<PathBuf>,
    /// How answers are written until `\format` changes it.
    pub format: Format,
    /// How tables are laid out until `\pset` changes it.
    pub layout: Layout,
    /// Whether only answers, errors and notes are written.
    pub quiet: bool,
    /// Rows of one answer that a terminal shows, 0 for all, until `\pset rows` changes it.
    pub rows: u64,
    /// With which a person turns pages, until `\pset pager` changes it.
    pub pager: Option<String>,
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
            prompt: "anabranch".to_owned(),
            greeting: None,
            history: None,
            format: Format::Table,
            layout: Layout::default(),
            quiet: false,
            rows: ROWS,
            pager: None,
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
    let mut runner = Runner::new(session, out, err, options, Giver::Script);
    let ran = match runner.run(sql_text).await {
        Ok(ran) => runner.finish().map(|()| ran),
        failed => failed,
    };
    match ran {
        Ok(ran) => Ok(ran.into()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ScriptOutcome::OutputClosed),
        Err(source) => Err(ShellError::Write { source }),
    }
}

/// Runs the shell on the terminal until `\q` or Ctrl-D.
///
/// From here on the process no longer ends by Ctrl-C: at the prompt it drops what is typed, during a
/// query it stops the query. Needs a tokio runtime with timers and I/O; on one with several threads
/// Ctrl-C also stops the printing of a long answer.
///
/// # Errors
///
/// [`ShellError`]; a failing statement is printed and the shell goes on.
pub async fn run(session: &dyn Session, options: ShellOptions) -> Result<(), ShellError> {
    let interrupt = Arc::new(Interrupt::default());
    let watch = tokio::spawn(signals::watch(interrupt.clone()));
    let mut out = Stoppable {
        inner: io::BufWriter::new(io::stdout()),
        interrupt: interrupt.clone(),
    };
    let mut err = io::stderr();
    let (name, color) = (options.prompt.clone(), options.style.color);
    let prompt = Prompt::start(name, color, options.history.clone())?;
    let greeting = options.greeting.clone().filter(|_| !options.quiet);
    let giver = Giver::Person(interrupt.clone());
    let runner = Runner::new(session, &mut out, &mut err, options, giver);
    let mut conversation = Conversation {
        session,
        runner,
        prompt,
        interrupt,
        typed: Typed::default(),
    };
    let ended = async {
        if let Some(greeting) = greeting {
            conversation.runner.say(&format!("{greeting}\n")).await?;
        }
        conversation.hold().await
    }
    .await;
    let finished = conversation.runner.finish();
    watch.abort();
    ended.and(finished.map_err(ShellError::from))
}

/// A person at the prompt, and what answers.
struct Conversation<'a> {
    session: &'a dyn Session,
    runner: Runner<'a>,
    prompt: Prompt,
    interrupt: Arc<Interrupt>,
    typed: Typed,
}

/// Whether the shell goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goes {
    On,
    ToItsEnd,
}

impl Conversation<'_> {
    /// Hears line after line, until the person leaves.
    async fn hold(&mut self) -> Result<(), ShellError> {
        loop {
            let waits_for = self.typed.waits_for();
            if !self.prompt.ask(waits_for, self.typed.pending()) {
                // The thread says why it ends before it does.
                return match self.prompt.hear().await {
                    Some(Heard::Failed(source)) => Err(ShellError::Terminal { source }),
                    _ => Ok(()),
                };
            }
            let line = match self.hear_and_learn().await? {
                Some(Heard::Line(line)) => line,
                Some(Heard::Failed(source)) => return Err(ShellError::Terminal { source }),
                Some(Heard::End) | None => return Ok(()),
                Some(Heard::Interrupted) => {
                    self.typed.drop_all();
                    continue;
                }
                Some(Heard::NoHistory(_)) => continue,
            };
            if self.heard(&line).await? == Goes::ToItsEnd {
                return Ok(());
            }
        }
    }

    /// Does what a line leads to.
    async fn heard(&mut self, line: &str) -> Result<Goes, ShellError> {
        let mut turn = self.typed.line(line);
        loop {
            match turn {
                Turn::More => return Ok(Goes::On),
                Turn::Warn(text) => self.runner.note(&text)?,
                Turn::Dropped(text) => self.runner.remark(&text)?,
                Turn::Show(text) => self.runner.say(&text).await?,
                Turn::Aside { command, note } => {
                    let then = self.run(&command).await?;
                    if then == Some(Then::Quit) {
                        return Ok(Goes::ToItsEnd);
                    }
                    self.runner.remark(&note)?;
                }
                Turn::Run(text) => {
                    if !text.trim().is_empty() {
                        self.prompt.remember(&text);
                    }
                    match self.run(&text).await? {
                        Some(Then::Quit) => return Ok(Goes::ToItsEnd),
                        Some(Then::Typed(text)) => {
                            turn = self.taken_from_editor(&text).await?;
                            continue;
                        }
                        Some(Then::GoOn) | None => {}
                    }
                }
            }
            return Ok(Goes::On);
        }
    }

    /// A statement as an editor leaves it, shown as if it had been typed.
    async fn taken_from_editor(&mut self, text: &str) -> Result<Turn, ShellError> {
        let text = text.trim_end();
        self.runner.say(&format!("{text}\n")).await?;
        self.typed.drop_all();
        Ok(self.typed.line(text))
    }

    /// Runs statements. `None` where they were stopped or failed.
    async fn run(&mut self, text: &str) -> Result<Option<Then>, ShellError> {
        self.interrupt.clear();
        let ran = tokio::select! {
            ran = self.runner.run(text) => ran,
            () = self.interrupt.wait() => Err(stopped()),
        };
        match ran {
            Ok(Ran::Through { then, .. }) => Ok(Some(then)),
            Ok(Ran::Failed { .. }) => Ok(None),
            Err(_) if self.interrupt.is_set() => {
                self.interrupt.clear();
                self.runner.error("stopped")?;
                Ok(None)
            }
            Err(source) => Err(ShellError::Write { source }),
        }
    }

    /// Waits for the prompt's answer, and meanwhile asks which relations there are. A failure to know
    /// them only costs completion, so it isn't worth a line over the one being typed.
    async fn hear_and_learn(&mut self) -> io::Result<Option<Heard>> {
        let mut relations = self.session.relations();
        let mut learning = true;
        loop {
            tokio::select! {
                heard = self.prompt.hear() => match heard {
                    Some(Heard::NoHistory(message)) => self.runner.note(&message)?,
                    other => return Ok(other),
                },
                known = &mut relations, if learning => {
                    learning = false;
                    if let Ok(known) = known {
                        self.prompt.learn(known);
                    }
                }
            }
        }
    }
}
