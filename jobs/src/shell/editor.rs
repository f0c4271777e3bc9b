//! Owns the prompt: line editing, history and Tab, on a thread of their own because reading from a
//! terminal blocks.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::{fs, io, io::Write as _, thread};

use anabranch_serving::RelationInfo;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::{FileHistory, History};
use rustyline::{CompletionType, Config, Context, Editor, Event, EventHandler, Helper, Validator};
use tokio::sync::mpsc as async_mpsc;

use super::ShellError;
use super::complete::candidates;
use super::lex::Unfinished;
use super::paste::{self, Read};
use super::typed;

/// The relations that Tab knows, replaced by the shell while a person types.
pub(super) type Known = Arc<RwLock<Vec<RelationInfo>>>;

/// What came from the prompt.
#[derive(Debug)]
pub(super) enum Heard {
    /// A line, or several that were pasted.
    Line(String),
    /// Ctrl-C: what was typed is gone.
    Interrupted,
    /// Ctrl-D on an empty line.
    End,
    /// The history can't be kept; the prompt works without it. Said once.
    NoHistory(String),
    /// The terminal can't be read.
    Failed(ReadlineError),
}

/// A statement's lines before the one being edited.
type Before = Arc<Mutex<String>>;

/// What the prompt's thread is asked for.
enum Asked {
    /// A line, of a statement that these lines come before.
    Line {
        waits_for: Option<Unfinished>,
        before: String,
    },
    /// To keep a whole statement in the history.
    Remember(String),
}

/// The prompt's thread, which reads only when asked: between, the terminal is as the shell found it,
/// so that Ctrl-C reaches a running query as a signal.
pub(super) struct Prompt {
    ask: mpsc::Sender<Asked>,
    heard: async_mpsc::Receiver<Heard>,
    known: Known,
}

impl Prompt {
    /// Starts the thread. It ends when the `Prompt` is dropped and the line being read, if any, has
    /// been ended.
    pub(super) fn start(
        name: String,
        color: bool,
        history: Option<PathBuf>,
    ) -> Result<Self, ShellError> {
        let (ask, asked) = mpsc::channel();
        // One for the answer to a question, one for trouble with the history.
        let (say, heard) = async_mpsc::channel(2);
        let known = Known::default();
        let helper = SqlHelper {
            known: known.clone(),
            before: Before::default(),
            paste: paste::Watch::default(),
            files: FilenameCompleter::new(),
            color,
        };
        thread::Builder::new()
            .name("shell-prompt".to_owned())
            .spawn(move || {
                if let Err(error) = serve(&asked, &say, &name, helper, history) {
                    // Without a listener the shell has ended already.
                    say.blocking_send(Heard::Failed(error)).ok();
                }
            })
            .map_err(|source| ShellError::Thread { source })?;
        Ok(Self { ask, heard, known })
    }

    /// Shows a prompt, for the next line of a statement; its answer comes from [`Prompt::hear`]. False
    /// once the thread has ended.
    pub(super) fn ask(&self, waits_for: Option<Unfinished>, before: &str) -> bool {
        let before = before.to_owned();
        self.ask.send(Asked::Line { waits_for, before }).is_ok()
    }

    /// Keeps a whole statement in the history.
    pub(super) fn remember(&self, text: &str) {
        // A thread that has ended says why when it is asked for a line.
        self.ask.send(Asked::Remember(text.to_owned())).ok();
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
    asked: &mpsc::Receiver<Asked>,
    say: &async_mpsc::Sender<Heard>,
    name: &str,
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
    let watch = Box::new(helper.paste.clone());
    editor.bind_sequence(Event::Any, EventHandler::Conditional(watch));
    let before = helper.before.clone();
    editor.set_helper(Some(helper));
    let mut history = history;
    if let Some(path) = &history
        && let Err(error) = open_history(&mut editor, path)
    {
        say.blocking_send(Heard::NoHistory(no_history(path, &error)))
            .ok();
        history = None;
    }
    while let Ok(asked) = asked.recv() {
        let (prompt, lines) = match asked {
            Asked::Line {
                waits_for,
                before: lines,
            } => {
                let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
                before.clone_from(&lines);
                (typed::prompt(name, waits_for), lines)
            }
            Asked::Remember(text) => {
                let added = editor.add_history_entry(text.trim_end());
                if let Some(path) = &history
                    && let Err(error) = added.and_then(|_| editor.append_history(path))
                {
                    say.blocking_send(Heard::NoHistory(no_history(path, &error)))
                        .ok();
                    history = None;
                }
                continue;
            }
        };
        let heard = match paste::read(|| editor.readline(&prompt)) {
            Read::Pasted(pasted) => {
                let mut out = io::stdout();
                out.write_all(pasted.to_show(name, &lines).as_bytes())?;
                out.flush()?;
                Heard::Line(pasted.text)
            }
            Read::Typed(Ok(text)) => Heard::Line(text),
            Read::Typed(Err(ReadlineError::Interrupted)) => Heard::Interrupted,
            Read::Typed(Err(ReadlineError::Eof)) => Heard::End,
            Read::Typed(Err(error)) => return Err(error),
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

/// Every line is handed on as it is: the shell decides what goes on.
#[derive(Helper, Validator)]
struct SqlHelper {
    known: Known,
    before: Before,
    paste: paste::Watch,
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
        let takes_files = ["\\i ", "\\o ", "\\e "];
        let typed = line.trim_start();
        if takes_files.iter().any(|command| typed.starts_with(command)) {
            return self.files.complete(line, pos, context);
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        // A command stands alone; a statement's earlier lines say what its later ones mean.
        let (start, texts) = match before.is_empty() || typed.starts_with('\\') {
            true => candidates(&known, line, pos),
            false => {
                let whole = format!("{before}\n{line}");
                let offset = whole.len() - line.len();
                let (start, texts) = candidates(&known, &whole, offset + pos);
                (start.saturating_sub(offset), texts)
            }
        };
        let pairs = texts.into_iter().map(|text| Pair {
            display: text.clone(),
            replacement: text,
        });
        Ok((start, pairs.collect()))
    }
}

impl Hinter for SqlHelper {
    type Hint = String;

    /// The editor asks for a hint whenever its line has changed.
    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<String> {
        self.paste.changed(line, pos);
        None
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
