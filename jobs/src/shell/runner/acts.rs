//! Owns what each command of the shell does.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anabranch_shared::{Error, ErrorKind};
use chrono::SecondsFormat;

use super::{Giver, Runner, Step, Then};
use crate::clock::now;
use crate::output::{Expanded, Layout, human_count, human_duration, plot};
use crate::shell::command::{self, Command, Setting, Watch};
use crate::shell::{describe, external};

/// Files that include files may go this deep, so that one that includes itself ends.
const DEEPEST_INCLUDE: usize = 16;

/// The functions that there are, each once.
const FUNCTIONS: &str = "SELECT routine_name AS name, lower(min(function_type)) AS kind, coalesce(min(syntax_example), '') AS call, coalesce(min(description), '') AS does FROM information_schema.routines";

/// How fresh each relation is, what needs a look first.
const FRESHNESS: &str = "SELECT relation, kind, in_delta, newest_ingested_at, round(age_seconds, 1) AS age_seconds, head FROM anabranch_freshness() ORDER BY kind DESC, relation";

/// The width of what is drawn, where no terminal says another one.
const PLOT_WIDTH: u16 = 80;

impl Runner<'_> {
    pub(super) async fn command(&mut self, command: Command, depth: usize) -> io::Result<Step> {
        match command {
            Command::Quit => return Ok(Step::Leads(Then::Quit)),
            Command::Help => self.say(&command::help()).await?,
            Command::ShowFormat => {
                let format = self.options.format;
                self.remark(&format!("format is {format}"))?;
            }
            Command::Set(setting) => self.set(setting)?,
            Command::ShowSettings => self.say(&self.settings()).await?,
            Command::Timing(switch) => {
                self.options.timing = switch.applied(self.options.timing);
                self.remark(&format!("timing is {}", on_or_off(self.options.timing)))?;
            }
            Command::Describe(wanted) => {
                let relations = self.session.relations().await;
                match relations.and_then(|all| describe::text(&all, &wanted)) {
                    Ok(text) => self.say(&text).await?,
                    Err(error) => return Ok(Step::Failed(error)),
                }
            }
            Command::Functions(pattern) => return self.functions(pattern).await,
            Command::Include(path) => return Ok(include(&path, depth).await),
            Command::Output(path) => return self.output(path),
            Command::Again(expanded) => {
                return match self.statement() {
                    Some(sql) => self.query(&sql, expanded).await,
                    None => Ok(nothing_yet("\\g")),
                };
            }
            Command::Watch(watch) => {
                return match self.statement() {
                    Some(sql) => self.watch(&sql, watch).await,
                    None => Ok(nothing_yet("\\watch")),
                };
            }
            Command::Plot => {
                return match self.statement() {
                    Some(sql) => self.plot(&sql).await,
                    None => Ok(nothing_yet("\\plot")),
                };
            }
            Command::Explain { analyze } => {
                let Some(sql) = self.statement() else {
                    return Ok(nothing_yet("\\explain"));
                };
                let how = if analyze {
                    "EXPLAIN ANALYZE"
                } else {
                    "EXPLAIN"
                };
                let step = self.query(&format!("{how} {sql}"), None).await;
                // What is explained is what the next command is about.
                self.last = Some(sql);
                return step;
            }
            Command::Freshness => return self.aside(FRESHNESS).await,
            Command::Show => match &self.last {
                Some(last) => {
                    let text = format!("{last}\n");
                    self.say(&text).await?;
                }
                None => self.remark("nothing has been asked yet")?,
            },
            Command::Reset => self.remark("nothing is being typed")?,
            Command::Edit(file) => return self.edit(file).await,
            Command::System(command) => {
                let named = command.clone();
                match self.outside(move || external::system(&command)).await {
                    Ok(status) if status.success() => {}
                    Ok(status) => self.note(&format!("`{named}` ended with {status}"))?,
                    Err(error) => return Ok(failed(&named, &error)),
                }
            }
        }
        Ok(Step::Done)
    }

    /// The statement that a command is about: the one before it, or that which was run last.
    fn statement(&mut self) -> Option<String> {
        self.held.take().or_else(|| self.last.clone())
    }

    fn set(&mut self, setting: Setting) -> io::Result<()> {
        let options = &mut self.options;
        let layout = &mut options.layout;
        let said = match setting {
            Setting::Format(format) => {
                options.format = format;
                return Ok(());
            }
            Setting::Aligned(aligned) => {
                layout.aligned = aligned.unwrap_or(!layout.aligned);
                match layout.aligned {
                    true => "columns are padded".to_owned(),
                    false => "columns are not padded".to_owned(),
                }
            }
            Setting::Expanded(expanded) => {
                layout.expanded = expanded.unwrap_or(match layout.expanded {
                    Expanded::Off => Expanded::On,
                    Expanded::On | Expanded::Auto => Expanded::Off,
                });
                format!("expanded is {}", layout.expanded.name())
            }
            Setting::Footer(switch) => {
                layout.footer = switch.applied(layout.footer);
                format!("footer is {}", on_or_off(layout.footer))
            }
            Setting::TuplesOnly(switch) => {
                layout.tuples_only = switch.applied(layout.tuples_only);
                format!("tuples_only is {}", on_or_off(layout.tuples_only))
            }
            Setting::Pager(switch) => {
                options.pager = match switch.applied(options.pager.is_some()) {
                    true => external::pager(),
                    false => None,
                };
                match &options.pager {
                    Some(pager) => format!("pager is on: {pager}"),
                    None => "pager is off".to_owned(),
                }
            }
            Setting::Rows(rows) => {
                options.rows = rows;
                match rows {
                    0 => "a terminal shows all rows".to_owned(),
                    1 => "a terminal shows 1 row".to_owned(),
                    rows => format!("a terminal shows {} rows", human_count(rows)),
                }
            }
        };
        self.remark(&said)
    }

    fn settings(&self) -> String {
        let options = &self.options;
        let Layout {
            expanded,
            aligned,
            tuples_only,
            footer,
            ..
        } = options.layout;
        let format = match (options.format, aligned) {
            (crate::output::Format::Table, true) => "table".to_owned(),
            (crate::output::Format::Table, false) => "table, unaligned".to_owned(),
            (format, _) => format.to_string(),
        };
        let rows = [
            ("expanded", expanded.name().to_owned()),
            ("footer", on_or_off(footer).to_owned()),
            ("format", format),
            (
                "pager",
                options.pager.clone().unwrap_or_else(|| "off".to_owned()),
            ),
            ("rows", options.rows.to_string()),
            ("timing", on_or_off(options.timing).to_owned()),
            ("tuples_only", on_or_off(tuples_only).to_owned()),
        ];
        let rows = rows.map(|(name, value)| (name.to_owned(), value));
        crate::output::key_value_table(&rows)
    }

    async fn functions(&mut self, pattern: Option<String>) -> io::Result<Step> {
        let condition = match pattern {
            Some(pattern) => {
                let like = pattern.replace('\'', "''").replace('%', "\\%");
                let like = like.replace('_', "\\_").replace('*', "%").replace('?', "_");
                format!(" WHERE routine_name ILIKE '{like}'")
            }
            None => String::new(),
        };
        let sql = format!("{FUNCTIONS}{condition} GROUP BY routine_name ORDER BY routine_name");
        self.aside(&sql).await
    }

    /// Draws the answer of a statement.
    async fn plot(&mut self, sql: &str) -> io::Result<Step> {
        self.last = Some(sql.to_owned());
        let answer = match self.ask(sql).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Step::Failed(error)),
        };
        let width = usize::from(self.place_style().width.unwrap_or(PLOT_WIDTH));
        match plot(&answer.schema, &answer.batches, width) {
            Ok(text) => self.say(&text).await?,
            Err(error) => return Ok(Step::Failed(error)),
        }
        if self.options.layout.footer && !answer.freshness.is_empty() {
            self.remark(&answer.freshness)?;
        }
        answer.notes.iter().try_for_each(|note| self.note(note))?;
        Ok(Step::Answered(1))
    }

    /// Answers a question of the shell's own, which is not the last that a person asked.
    async fn aside(&mut self, sql: &str) -> io::Result<Step> {
        match self.ask(sql).await {
            Ok(answer) => {
                let took = std::time::Duration::ZERO;
                let timing = std::mem::replace(&mut self.options.timing, false);
                let shown = self.answer(&answer, took, None).await;
                self.options.timing = timing;
                shown.map(|()| Step::Done)
            }
            Err(error) => Ok(Step::Failed(error)),
        }
    }

    fn output(&mut self, path: Option<String>) -> io::Result<Step> {
        let closed = self.place.close()?;
        match (path, closed) {
            (Some(path), _) => {
                let path = from_home(&path);
                if let Err(error) = self.place.open(path.clone()) {
                    return Ok(failed(&path.display().to_string(), &error));
                }
                self.remark(&format!("answers go to `{}`", path.display()))?;
            }
            (None, Some(path)) => self.remark(&format!("`{}` is whole", path.display()))?,
            (None, None) => self.remark("answers go nowhere else")?,
        }
        Ok(Step::Done)
    }

    /// Asks again and again, each time below a line that says when.
    async fn watch(&mut self, sql: &str, watch: Watch) -> io::Result<Step> {
        let pager = self.options.pager.take();
        let step = self.watch_unpaged(sql, watch).await;
        self.options.pager = pager;
        step
    }

    async fn watch_unpaged(&mut self, sql: &str, watch: Watch) -> io::Result<Step> {
        let mut times = 0;
        loop {
            let now = now().to_rfc3339_opts(SecondsFormat::Secs, true);
            let every = human_duration(watch.every);
            self.remark(&format!("{now}, every {every}"))?;
            match self.query(sql, None).await? {
                Step::Answered(_) => times += 1,
                other => return Ok(other),
            }
            if watch.times.is_some_and(|most| times >= most) {
                return Ok(Step::Answered(usize::try_from(times).unwrap_or(usize::MAX)));
            }
            tokio::time::sleep(watch.every).await;
        }
    }

    async fn edit(&mut self, file: Option<String>) -> io::Result<Step> {
        if matches!(self.giver, Giver::Script) {
            let text = "`\\e` needs a person at a terminal";
            return Ok(Step::Failed(Error::Invalid(text.to_owned())));
        }
        let held = self.held.take();
        let before = held
            .clone()
            .or_else(|| self.last.clone().map(|sql| format!("{sql};")));
        let editor = external::editor();
        let named = editor.clone();
        let edited = self.outside(move || match file {
            Some(file) => edit_file(&editor, &from_home(&file)),
            None => edit_text(&editor, before.unwrap_or_default().as_str()),
        });
        match edited.await {
            Ok(Some(text)) => Ok(Step::Leads(Then::Typed(text))),
            Ok(None) => {
                self.remark("nothing was changed, and nothing is run")?;
                Ok(match held {
                    Some(held) => Step::Leads(Then::Typed(held)),
                    None => Step::Done,
                })
            }
            Err(error) => Ok(failed(&named, &error)),
        }
    }

    /// Lets another program have the terminal; Ctrl-C is for it meanwhile.
    async fn outside<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.place.flush()?;
        let _deaf = match &self.giver {
            Giver::Person(interrupt) => Some(interrupt.deafened()),
            Giver::Script => None,
        };
        let worked = tokio::task::spawn_blocking(work).await;
        worked.map_err(io::Error::other)?
    }
}

fn on_or_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

fn nothing_yet(command: &str) -> Step {
    Step::Failed(Error::Invalid(format!(
        "`{command}` runs the last statement again, and there is none yet"
    )))
}

fn failed(what: &str, error: &io::Error) -> Step {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Unavailable,
    };
    Step::Failed(Error::of_kind(kind, format!("`{what}`: {error}")))
}

fn ended(status: ExitStatus) -> io::Result<()> {
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("the editor ended with {status}"))),
    }
}

/// The statement as an editor leaves it; `None` where it is as before.
fn edit_text(editor: &str, before: &str) -> io::Result<Option<String>> {
    let file = tempfile::Builder::new()
        .prefix("anabranch-")
        .suffix(".sql")
        .tempfile()?;
    std::fs::write(file.path(), format!("{before}\n"))?;
    ended(external::edit(editor, file.path())?)?;
    let after = std::fs::read_to_string(file.path())?;
    Ok((after.trim() != before.trim()).then_some(after))
}

/// The statements of a file that an editor has changed.
fn edit_file(editor: &str, path: &Path) -> io::Result<Option<String>> {
    let before = std::fs::read_to_string(path).unwrap_or_default();
    ended(external::edit(editor, path)?)?;
    let after = std::fs::read_to_string(path)?;
    Ok((after != before).then_some(after))
}

fn from_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

async fn include(path: &str, depth: usize) -> Step {
    if depth >= DEEPEST_INCLUDE {
        return Step::Failed(Error::Invalid(format!(
            "`\\i {path}` is {DEEPEST_INCLUDE} files deep: does a file include itself?"
        )));
    }
    let path = from_home(path);
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
