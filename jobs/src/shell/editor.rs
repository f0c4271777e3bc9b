//! Owns the prompt: line editing, history and Tab, on a thread of their own because reading from a
//! terminal blocks.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::{fs, io, thread};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::history::{FileHistory, History};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper, Hinter};
use tokio::sync::mpsc as async_mpsc;

use super::complete::candidates;
use super::lex::is_complete;
use super::{RelationInfo, ShellError};

/// The relations that Tab knows, replaced by the shell while a person types.
pub(super) type Known = Arc<RwLock<Vec<RelationInfo>>>;

/// What came from the prompt.
#[derive(Debug)]
pub(super) enum Heard {
    /// One or more whole statements, or a command.
    Text(String),
    /// Ctrl-C: what was typed is gone.
    Interrupted,
    /// Ctrl-D on an empty line.
    End,
    /// The history can't be kept; the prompt works without it. Said once.
    NoHistory(String),
    /// The terminal can't be read.
    Failed(ReadlineError),
}

/// The prompt's thread, which reads only when asked: between, the terminal is as the shell found it,
/// so that Ctrl-C reaches a running query as a signal.
pub(super) struct Prompt {
    ask: mpsc::Sender<()>,
    heard: async_mpsc::Receiver<Heard>,
    known: Known,
}

impl Prompt {
    /// Starts the thread. It ends when the `Prompt` is dropped and the line being read, if any, has
    /// been ended.
    pub(super) fn start(
        text: String,
        color: bool,
        history: Option<PathBuf>,
    ) -> Result<Self, ShellError> {
        let (ask, asked) = mpsc::channel();
        // One for the answer to a question, one for trouble with the history.
        let (say, heard) = async_mpsc::channel(2);
        let known = Known::default();
        let helper = SqlHelper {
            known: known.clone(),
            files: FilenameCompleter::new(),
            color,
        };
        thread::Builder::new()
            .name("shell-prompt".to_owned())
            .spawn(move || {
                if let Err(error) = serve(&asked, &say, &text, helper, history) {
                    // Without a listener the shell has ended already.
                    say.blocking_send(Heard::Failed(error)).ok();
                }
            })
            .map_err(|source| ShellError::Thread { source })?;
        Ok(Self { ask, heard, known })
    }

    /// Shows the prompt; its answer comes from [`Prompt::hear`]. False once the thread has ended.
    pub(super) fn ask(&self) -> bool {
        self.ask.send(()).is_ok()
    }

    /// The next word from the prompt; `None` once the thread has ended.
    pub(super) async fn hear(&mut self) -> Option<Heard> {
        self.heard.recv().await
    }

    /// Replaces what Tab knows.
    pub(super) fn learn(&self, relations: Vec<RelationInfo>) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = relations;
    }
}

fn serve(
    asked: &mpsc::Receiver<()>,
    say: &async_mpsc::Sender<Heard>,
    prompt: &str,
    helper: SqlHelper,
    history: Option<PathBuf>,
) -> Result<(), ReadlineError> {
    let config = Config::builder()
        .max_history_size(10_000)?
        .history_ignore_dups(true)?
        // A leading space keeps a statement with a secret out of the file.
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .tab_stop(4)
        .build();
    let mut editor: Editor<SqlHelper, FileHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(helper));
    let mut history = history;
    if let Some(path) = &history
        && let Err(error) = open_history(&mut editor, path)
    {
        say.blocking_send(Heard::NoHistory(no_history(path, &error)))
            .ok();
        history = None;
    }
    while asked.recv().is_ok() {
        let heard = match editor.readline(prompt) {
            Ok(text) => {
                if !text.trim().is_empty() {
                    let added = editor.add_history_entry(text.as_str());
                    if let Some(path) = &history
                        && let Err(error) = added.and_then(|_| editor.append_history(path))
                    {
                        say.blocking_send(Heard::NoHistory(no_history(path, &error)))
                            .ok();
                        history = None;
                    }
                }
                Heard::Text(text)
            }
            Err(ReadlineError::Interrupted) => Heard::Interrupted,
            Err(ReadlineError::Eof) => Heard::End,
            Err(error) => return Err(error),
        };
        if say.blocking_send(heard).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads the history; creates the file and its folder where they are absent.
fn open_history(
    editor: &mut Editor<SqlHelper, FileHistory>,
    path: &Path,
) -> Result<(), ReadlineError> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        fs::create_dir_all(folder)?;
    }
    match editor.load_history(path) {
        Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            // Saved rather than created, so that the file is readable by its owner only.
            editor.history_mut().save(path)
        }
        other => other,
    }
}

fn no_history(path: &Path, error: &ReadlineError) -> String {
    format!("history is not kept: `{}`: {error}", path.display())
}

#[derive(Helper, Hinter)]
struct SqlHelper {
    known: Known,
    files: FilenameCompleter,
    color: bool,
}

impl Completer for SqlHelper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        if line.trim_start().starts_with("\\i ") {
            return self.files.complete(line, pos, context);
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (start, texts) = candidates(&known, line, pos);
        let pairs = texts.into_iter().map(|text| Pair {
            display: text.clone(),
            replacement: text,
        });
        Ok((start, pairs.collect()))
    }
}

impl Validator for SqlHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let whole =
            is_complete(context.input()) || super::command::parse_word(context.input()).is_some();
        Ok(if whole {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Highlighter for SqlHelper {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        _default: bool,
    ) -> Cow<'b, str> {
        if self.color {
            Cow::Owned(format!("\x1b[1m{prompt}\x1b[0m"))
        } else {
            Cow::Borrowed(prompt)
        }
    }
}
