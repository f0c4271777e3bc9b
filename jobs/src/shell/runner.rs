//! Owns the running of statements, for the prompt and for scripts alike: in what order, when to stop,
//! and what is said of an error. Answers go out by [`show`], commands are done in [`acts`].

mod acts;
mod show;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::{Error, ErrorKind, Result};
use tokio::pin;
use tokio::time::timeout;

use super::command;
use super::lex::split_statements;
use super::signals::Interrupt;
use super::{Answer, ScriptOutcome, Session, ShellOptions};
use crate::output::{Expanded, Style, for_people};
use show::Place;

/// A query that takes longer shows that it runs.
const QUIET: Duration = Duration::from_millis(700);
const REDRAW: Duration = Duration::from_millis(500);

/// Who gives the statements.
#[derive(Debug, Clone)]
pub(super) enum Giver {
    /// A person at a terminal, whose Ctrl-C this is.
    Person(Arc<Interrupt>),
    Script,
}

pub(super) struct Runner<'a> {
    session: &'a dyn Session,
    place: Place<'a>,
    err: &'a mut (dyn Write + Send),
    options: ShellOptions,
    giver: Giver,
    /// A statement without `;`, for the command that comes next.
    held: Option<String>,
    /// The statement that was run last.
    last: Option<String>,
}

/// How a text ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ran {
    Through {
        statements: usize,
        then: Then,
    },
    Failed {
        statements: usize,
        line: usize,
        message: String,
        kind: ErrorKind,
    },
}

/// What a text that ran through leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    /// It asked to leave the shell.
    Quit,
    /// This is to be taken as typed: it comes from an editor.
    Typed(String),
}

/// How one statement or command ended.
enum Step {
    Done,
    Answered(usize),
    Leads(Then),
    Failed(Error),
    Include { path: PathBuf, text: String },
}

/// A statement that waits for its turn.
struct Pending {
    sql: String,
    line: usize,
    ended: bool,
    /// The file that it stands in, unless it is the text itself.
    file: Option<PathBuf>,
    depth: usize,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        session: &'a dyn Session,
        out: &'a mut (dyn Write + Send),
        err: &'a mut (dyn Write + Send),
        options: ShellOptions,
        giver: Giver,
    ) -> Self {
        Self {
            session,
            place: Place::new(out),
            err,
            options,
            giver,
            held: None,
            last: None,
        }
    }

    /// Ends the file that answers go to, if they go to one.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.place.close()?;
        self.place.flush()
    }

    fn is_person(&self) -> bool {
        matches!(self.giver, Giver::Person(_))
    }

    /// Runs all statements of `text`, and those of files that it includes, up to the first error,
    /// which is written to `err`.
    pub(super) async fn run(&mut self, text: &str) -> io::Result<Ran> {
        let mut waiting = Vec::new();
        queue(&mut waiting, text, None, 0);
        let mut statements = 0;
        self.held = None;
        while let Some(next) = waiting.pop() {
            match self.step(&next, waiting.last()).await? {
                Step::Done => {}
                Step::Answered(times) => statements += times,
                Step::Leads(then) => return Ok(Ran::Through { statements, then }),
                Step::Include { path, text } => {
                    queue(&mut waiting, &text, Some(path), next.depth + 1)
                }
                Step::Failed(error) => {
                    let (message, kind) = (error.to_string(), error.kind());
                    let shown = match (&next.file, self.is_person()) {
                        (Some(file), _) => {
                            format!("`{}` {}", file.display(), placed(next.line, &message))
                        }
                        (None, false) => placed(next.line, &message),
                        (None, true) => message.clone(),
                    };
                    self.error(&shown)?;
                    return Ok(Ran::Failed {
                        statements,
                        line: next.line,
                        message,
                        kind,
                    });
                }
            }
        }
        Ok(Ran::Through {
            statements,
            then: Then::GoOn,
        })
    }

    /// Writes an error line to `err`, below what has been answered so far.
    pub(super) fn error(&mut self, message: &str) -> io::Result<()> {
        self.place.flush()?;
        let text = for_people(&format!("error: {message}"));
        writeln!(self.err, "{}", self.options.error_style.red(&text))?;
        self.err.flush()
    }

    /// Writes a note to `err`.
    pub(super) fn note(&mut self, message: &str) -> io::Result<()> {
        let text = for_people(&format!("note: {message}"));
        writeln!(self.err, "{}", self.options.error_style.yellow(&text))?;
        self.err.flush()
    }

    /// Writes to `err` what a person may like to know, unless the shell is to be quiet.
    pub(super) fn remark(&mut self, message: &str) -> io::Result<()> {
        if self.options.quiet {
            return Ok(());
        }
        writeln!(self.err, "{}", self.options.error_style.dim(message))?;
        self.err.flush()
    }

    async fn step(&mut self, next: &Pending, after: Option<&Pending>) -> io::Result<Step> {
        let parsed = match (next.sql.starts_with('\\'), self.is_person()) {
            (true, _) => command::parse(&next.sql).map(Some),
            (false, true) => Ok(command::parse_word(&next.sql)),
            (false, false) => Ok(None),
        };
        match parsed {
            Ok(Some(command)) => self.command(command, next.depth).await,
            // What stands behind it in the same text is a command.
            Ok(None) if !next.ended && after.is_some_and(|a| a.depth == next.depth) => {
                Ok(self.hold(next, after))
            }
            Ok(None) => self.query(&next.sql, None).await,
            Err(error) => Ok(Step::Failed(Error::Invalid(error.to_string()))),
        }
    }

    /// Keeps a statement without `;` for the command that stands behind it.
    fn hold(&mut self, next: &Pending, after: Option<&Pending>) -> Step {
        let command = after.map_or("", |after| after.sql.as_str());
        if command::takes_statement(command) {
            self.held = Some(next.sql.clone());
            return Step::Done;
        }
        Step::Failed(Error::Invalid(format!(
            "the statement before `{command}` has no `;`"
        )))
    }

    async fn query(&mut self, sql: &str, expanded: Option<Expanded>) -> io::Result<Step> {
        self.last = Some(sql.to_owned());
        let started = Instant::now();
        match self.ask(sql).await {
            Ok(answer) => {
                self.answer(&answer, started.elapsed(), expanded).await?;
                Ok(Step::Answered(1))
            }
            Err(error) => Ok(Step::Failed(error)),
        }
    }

    async fn ask(&mut self, sql: &str) -> Result<Answer> {
        let query = self.session.query(sql);
        if matches!(self.giver, Giver::Script) || !self.options.error_style.terminal {
            return query.await;
        }
        pin!(query);
        let started = Instant::now();
        if let Ok(answer) = timeout(QUIET, &mut query).await {
            return answer;
        }
        let mut waiting = Waiting {
            err: &mut *self.err,
            style: self.options.error_style,
        };
        loop {
            waiting.draw(started.elapsed());
            if let Ok(answer) = timeout(REDRAW, &mut query).await {
                return answer;
            }
        }
    }
}

/// The last statement is at the bottom, because the top is taken first.
fn queue(waiting: &mut Vec<Pending>, text: &str, file: Option<PathBuf>, depth: usize) {
    for statement in split_statements(text).into_iter().rev() {
        waiting.push(Pending {
            sql: statement.sql.to_owned(),
            line: statement.line,
            ended: statement.ended,
            file: file.clone(),
            depth,
        });
    }
}

/// An error of the statement that begins on a line of a script, with its place in the script: what it
/// says of its own place counts from the statement on.
fn placed(first: usize, message: &str) -> String {
    anabranch_shared::moved_down(message, first)
}

/// A line that says that a query runs, on `err` of a terminal. It goes when dropped, so also where
/// Ctrl-C drops the query; it leaves the rest of its line free, because the terminal echoes `^C` there.
struct Waiting<'a> {
    err: &'a mut (dyn Write + Send),
    style: Style,
}

impl Waiting<'_> {
    /// Not being able to say it is no reason to stop the query.
    fn draw(&mut self, elapsed: Duration) {
        let text = format!("running {} s, Ctrl-C stops it", elapsed.as_secs());
        write!(self.err, "\r{}", self.style.dim(&text)).ok();
        self.err.flush().ok();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.err.write_all(b"\r\x1b[K").ok();
        self.err.flush().ok();
    }
}

impl From<Ran> for ScriptOutcome {
    fn from(ran: Ran) -> Self {
        match ran {
            Ran::Through { statements, .. } => Self::Finished { statements },
            Ran::Failed {
                statements,
                line,
                message,
                kind,
            } => Self::Failed {
                statements,
                line,
                message,
                kind,
            },
        }
    }
}
