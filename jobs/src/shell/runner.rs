//! Owns the running of statements and commands, for the prompt and for scripts alike: what is written
//! to `out` (answers), what to `err` (freshness, notes, errors), and when to stop.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anabranch_shared::{Error, ErrorKind, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::array_value_to_string;
use tokio::pin;
use tokio::time::timeout;

use super::command::{self, Command, Switch};
use super::lex::split_statements;
use super::{Answer, RelationInfo, ScriptOutcome, Session, ShellOptions};
use crate::output::{
    Format, Style, for_people, human_count, human_duration, rows_table, write_batches,
};

/// Files that include files may go this deep, so that one that includes itself ends.
const DEEPEST_INCLUDE: usize = 16;

/// A query that takes longer shows that it runs.
const QUIET: Duration = Duration::from_millis(700);
const REDRAW: Duration = Duration::from_millis(500);

/// Who gives the statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Giver {
    Person,
    Script,
}

pub(super) struct Runner<'a> {
    session: &'a dyn Session,
    out: &'a mut (dyn Write + Send),
    err: &'a mut (dyn Write + Send),
    options: ShellOptions,
    giver: Giver,
}

/// How a text ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// `quit` is set when it asked to leave the shell.
    Through { statements: usize, quit: bool },
    Failed {
        statements: usize,
        line: usize,
        message: String,
        kind: ErrorKind,
    },
}

/// How one statement or command ended.
enum Step {
    Done,
    Answered,
    Quit,
    Failed(Error),
    Include { path: PathBuf, text: String },
}

/// A statement that waits for its turn.
struct Pending {
    sql: String,
    line: usize,
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
            out,
            err,
            options,
            giver,
        }
    }

    /// Runs all statements of `text`, and those of files that it includes, up to the first error,
    /// which is written to `err`.
    pub(super) async fn run(&mut self, text: &str) -> io::Result<Ran> {
        let mut waiting = Vec::new();
        queue(&mut waiting, text, None, 0);
        let mut statements = 0;
        while let Some(next) = waiting.pop() {
            match self.step(&next).await? {
                Step::Done => {}
                Step::Answered => statements += 1,
                Step::Quit => {
                    return Ok(Ran::Through {
                        statements,
                        quit: true,
                    });
                }
                Step::Include { path, text } => {
                    queue(&mut waiting, &text, Some(path), next.depth + 1)
                }
                Step::Failed(error) => {
                    let (message, kind) = (error.to_string(), error.kind());
                    let shown = match (&next.file, self.giver) {
                        (Some(file), _) => {
                            format!("`{}` {}", file.display(), placed(next.line, &message))
                        }
                        (None, Giver::Script) => placed(next.line, &message),
                        (None, Giver::Person) => message.clone(),
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
            quit: false,
        })
    }

    /// Writes an error line to `err`, below what has been answered so far.
    pub(super) fn error(&mut self, message: &str) -> io::Result<()> {
        self.out.flush()?;
        writeln!(
            self.err,
            "{}",
            self.options
                .error_style
                .red(&for_people(&format!("error: {message}")))
        )?;
        self.err.flush()
    }

    /// Writes a note to `err`.
    pub(super) fn note(&mut self, message: &str) -> io::Result<()> {
        writeln!(
            self.err,
            "{}",
            self.options
                .error_style
                .yellow(&for_people(&format!("note: {message}")))
        )?;
        self.err.flush()
    }

    fn remark(&mut self, message: &str) -> io::Result<()> {
        writeln!(self.err, "{}", self.options.error_style.dim(message))?;
        self.err.flush()
    }

    /// Writes text that is an answer.
    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    async fn step(&mut self, next: &Pending) -> io::Result<Step> {
        let parsed = if next.sql.starts_with('\\') {
            command::parse(&next.sql).map(Some)
        } else if self.giver == Giver::Person {
            Ok(command::parse_word(&next.sql))
        } else {
            Ok(None)
        };
        match parsed {
            Ok(Some(command)) => self.command(command, next.depth).await,
            Ok(None) => self.query(&next.sql).await,
            Err(error) => Ok(Step::Failed(Error::Invalid(error.to_string()))),
        }
    }

    async fn query(&mut self, sql: &str) -> io::Result<Step> {
        let started = Instant::now();
        match self.ask(sql).await {
            Ok(answer) => {
                self.answer(&answer, started.elapsed())?;
                Ok(Step::Answered)
            }
            Err(error) => Ok(Step::Failed(error)),
        }
    }

    async fn ask(&mut self, sql: &str) -> Result<Answer> {
        let query = self.session.query(sql);
        if self.giver == Giver::Script || !self.options.error_style.terminal {
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

    fn answer(&mut self, answer: &Answer, elapsed: Duration) -> io::Result<()> {
        let columns = answer.schema.fields().len();
        let format = self.options.format;
        let style = match self.giver {
            Giver::Person => self.options.style.resized(),
            Giver::Script => self.options.style,
        };
        if format == Format::Table && is_plan(&answer.schema) {
            for batch in &answer.batches {
                self.out.write_all(plan_text(batch)?.as_bytes())?;
            }
            self.out.flush()?;
        } else if columns > 0 {
            write_batches(self.out, &answer.schema, &answer.batches, format, style)?;
            self.out.flush()?;
        }
        let mut parts = Vec::new();
        if columns == 0 {
            parts.push("done".to_owned());
        } else if format != Format::Table {
            let rows: usize = answer.batches.iter().map(|batch| batch.num_rows()).sum();
            parts.push(format!(
                "{} {}",
                human_count(rows as u64),
                if rows == 1 { "row" } else { "rows" }
            ));
        }
        if self.options.timing {
            parts.push(human_duration(elapsed));
        }
        if !answer.freshness.is_empty() {
            parts.push(answer.freshness.clone());
        }
        if !parts.is_empty() {
            self.remark(&parts.join(" · "))?;
        }
        answer.notes.iter().try_for_each(|note| self.note(note))
    }

    async fn command(&mut self, command: Command, depth: usize) -> io::Result<Step> {
        match command {
            Command::Quit => return Ok(Step::Quit),
            Command::Help => self.say(&command::help())?,
            Command::ShowFormat => self.remark(&format!("format is {}", self.options.format))?,
            Command::SetFormat(format) => self.options.format = format,
            Command::Timing(switch) => {
                self.options.timing = match switch {
                    Switch::On => true,
                    Switch::Off => false,
                    Switch::Toggle => !self.options.timing,
                };
                let state = if self.options.timing { "on" } else { "off" };
                self.remark(&format!("timing is {state}"))?;
            }
            Command::Relations => match self.session.relations().await {
                Ok(relations) => self.say(&relations_text(&relations))?,
                Err(error) => return Ok(Step::Failed(error)),
            },
            Command::Relation(name) => {
                let found = self
                    .session
                    .relations()
                    .await
                    .and_then(|all| relation_text(&all, &name));
                match found {
                    Ok(text) => self.say(&text)?,
                    Err(error) => return Ok(Step::Failed(error)),
                }
            }
            Command::Include(path) => return Ok(include(&path, depth).await),
        }
        Ok(Step::Done)
    }
}

/// Whether an answer is that of EXPLAIN: texts of many lines, which no table shows well.
fn is_plan(schema: &SchemaRef) -> bool {
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    names == ["plan_type", "plan"]
}

fn plan_text(batch: &RecordBatch) -> io::Result<String> {
    let text = |column: usize, row| {
        array_value_to_string(batch.column(column), row).map_err(io::Error::other)
    };
    let mut all = String::new();
    for row in 0..batch.num_rows() {
        all += &format!("{}\n", text(0, row)?);
        for line in text(1, row)?.lines() {
            all += &format!("  {line}\n");
        }
    }
    Ok(all)
}

/// The last statement is at the bottom, because the top is taken first.
fn queue(waiting: &mut Vec<Pending>, text: &str, file: Option<PathBuf>, depth: usize) {
    for statement in split_statements(text).into_iter().rev() {
        let (sql, line) = (statement.sql.to_owned(), statement.line);
        waiting.push(Pending {
            sql,
            line,
            file: file.clone(),
            depth,
        });
    }
}

async fn include(path: &str, depth: usize) -> Step {
    if depth >= DEEPEST_INCLUDE {
        return Step::Failed(Error::Invalid(format!(
            "`\\i {path}` is {DEEPEST_INCLUDE} files deep: does a file include itself?"
        )));
    }
    let path = match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    };
    match tokio::fs::read_to_string(&path).await {
        Ok(text) => Step::Include { path, text },
        Err(error) => {
            let kind = match error.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Unavailable,
            };
            let text = format!("can't read `{}`: {error}", path.display());
            Step::Failed(Error::of_kind(kind, text))
        }
    }
}

fn relations_text(relations: &[RelationInfo]) -> String {
    if relations.is_empty() {
        return "no relations yet\n".to_owned();
    }
    let rows = relations
        .iter()
        .map(|relation| {
            vec![
                relation.name.clone(),
                relation.kind.clone(),
                human_count(relation.columns.len() as u64),
            ]
        })
        .collect();
    rows_table(&["name", "kind", "columns"], rows)
}

fn relation_text(relations: &[RelationInfo], name: &str) -> Result<String> {
    let exact = relations.iter().find(|relation| relation.name == name);
    let folded = || {
        relations
            .iter()
            .find(|relation| relation.name.eq_ignore_ascii_case(name))
    };
    let Some(relation) = exact.or_else(folded) else {
        return Err(Error::NotFound(format!(
            "there is no relation `{name}`: `\\d` lists them"
        )));
    };
    let rows = relation
        .columns
        .iter()
        .map(|(name, data_type, nullable)| {
            vec![
                name.clone(),
                data_type.clone(),
                if *nullable { "" } else { "not null" }.to_owned(),
            ]
        })
        .collect();
    Ok(format!(
        "{} ({})\n{}",
        relation.name,
        relation.kind,
        rows_table(&["column", "type", ""], rows)
    ))
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
