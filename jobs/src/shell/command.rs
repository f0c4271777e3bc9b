//! Owns the shell's own commands: their names, their parsing and their help.

use std::time::Duration;

use crate::output::{Expanded, Format, UnknownFormat};

mod unknown;

/// How often `\watch` asks unless it is told.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// The most that `\watch` waits between two answers.
const WATCH_AT_MOST: f64 = 86_400.0;

/// A command of the shell, as opposed to SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// `\d`, `\d NAME`, `\d+ NAME`, `\dt`, `\dv`
    Describe(Describe),
    /// `\df`, `\df PATTERN`
    Functions(Option<String>),
    /// `\timing`, `\timing on|off`
    Timing(Switch),
    /// `\format` without a name asks.
    ShowFormat,
    /// `\format NAME`, `\x`, `\t`, `\a`, `\pset NAME VALUE`
    Set(Setting),
    /// `\pset`
    ShowSettings,
    /// `\i FILE`
    Include(String),
    /// `\o FILE`, `\o`
    Output(Option<String>),
    /// `\e`, `\e FILE`
    Edit(Option<String>),
    /// `\g`, `\gx`
    Again(Option<Expanded>),
    /// `\watch`
    Watch(Watch),
    /// `\plot`
    Plot,
    /// `\explain`, `\explain analyze`
    Explain { analyze: bool },
    /// `\freshness`
    Freshness,
    /// `\p`
    Show,
    /// `\r`
    Reset,
    /// `\! COMMAND`
    System(String),
    /// `\?`, `\h`
    Help,
    /// `\q`
    Quit,
}

/// What of the relations is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Describe {
    /// Those of these kinds.
    pub(super) kinds: Kinds,
    /// Those of this name, which may have `*` and `?` in it.
    pub(super) name: Option<String>,
    /// Whether with all that is known.
    pub(super) more: bool,
}

/// Which kinds of relations are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinds {
    All,
    /// Topics and tables.
    Tables,
    Views,
}

/// A choice of how answers are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    Format(Format),
    /// Padded and framed or not; `None` changes it.
    Aligned(Option<bool>),
    Expanded(Option<Expanded>),
    Footer(Switch),
    Pager(Switch),
    Rows(u64),
    TuplesOnly(Switch),
}

/// How a statement is asked again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Watch {
    /// The time between two answers.
    pub(super) every: Duration,
    /// How often; until Ctrl-C if it is not said.
    pub(super) times: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    On,
    Off,
    Toggle,
}

impl Switch {
    pub(super) fn applied(self, is_on: bool) -> bool {
        match self {
            Self::On => true,
            Self::Off => false,
            Self::Toggle => !is_on,
        }
    }
}

/// Why a command can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CommandError {
    #[error("unknown command `{name}`{} (`\\?` lists all)", unknown::hint(name))]
    Unknown { name: String },
    #[error("`{name}` takes `on`, `off` or nothing, not `{argument}`")]
    Switch { name: String, argument: String },
    #[error("`{name}` takes `on`, `off`, `auto` or nothing, not `{argument}`")]
    Expanded { name: String, argument: String },
    #[error(transparent)]
    Format {
        #[from]
        source: UnknownFormat,
    },
    #[error("`\\pset rows` takes a number of rows, 0 for all, not `{argument}`")]
    Rows { argument: String },
    #[error("no setting `{name}`: `\\pset` lists them with what they are")]
    Setting { name: String },
    #[error(
        "`\\watch` takes a number of seconds, as in `\\watch 2` or `\\watch 2 c=10` for ten times, not `{argument}`"
    )]
    Watch { argument: String },
    #[error("`\\explain` takes `analyze` or nothing, not `{argument}`")]
    Explain { argument: String },
    #[error("`\\i` needs the path of a file with SQL: `\\i FILE`")]
    NoFile,
    #[error("`\\!` needs a command of the system: `\\! ls`")]
    NoCommand,
    #[error("`\\o` takes a file, no command")]
    Pipe,
    #[error("`{name}` takes no argument, remove `{argument}`")]
    Surplus { name: String, argument: String },
}

/// A section of the help: its heading, and what a person types and what it does.
type Section = (
    &'static str,
    &'static [(&'static str, &'static str, &'static str)],
);

/// What a person types, and what it does; the order is that of the help.
pub(super) const COMMANDS: [Section; 4] = [
    (
        "What there is",
        &[
            ("\\d", "", "topics, views and tables"),
            ("\\dt", "[NAME]", "topics and tables"),
            ("\\dv", "[NAME]", "views"),
            ("\\d", "NAME", "its columns; `*` and `?` in a name mean any"),
            ("\\d+", "NAME", "the same, and the SQL of a view"),
            ("\\df", "[NAME]", "functions"),
            ("\\freshness", "", "how fresh each of them is"),
        ],
    ),
    (
        "Answers",
        &[
            (
                "\\x",
                "[on|off|auto]",
                "each row as a list; auto: where a table is too wide",
            ),
            (
                "\\format",
                "[NAME]",
                "how they are written: table, csv, json or ndjson",
            ),
            ("\\t", "[on|off]", "values alone"),
            ("\\a", "", "padded columns, or values with `|` between them"),
            ("\\timing", "[on|off]", "the time taken, below each"),
            (
                "\\pset",
                "[NAME VALUE]",
                "footer, pager, rows (0 is all), and those above",
            ),
            ("\\o", "[FILE]", "they go to a file, or here again"),
        ],
    ),
    (
        "Statements",
        &[
            (
                "\\e",
                "[FILE]",
                "edits the statement, or the last one, in $EDITOR",
            ),
            (
                "\\g",
                "or \\gx",
                "runs it, or the last one again; x: as lists",
            ),
            (
                "\\watch",
                "[SECONDS]",
                "the same again and again, until Ctrl-C",
            ),
            (
                "\\plot",
                "",
                "the same, drawn: lines over its time, or bars",
            ),
            ("\\explain", "[analyze]", "how it is computed"),
            ("\\p", "", "shows the statement, or the last one"),
            ("\\r", "", "drops the statement (also Ctrl-C)"),
            ("\\i", "FILE", "runs the statements of a file"),
        ],
    ),
    (
        "Otherwise",
        &[
            ("\\!", "COMMAND", "runs a command of the system"),
            ("\\?", "or \\h", "this help"),
            ("\\q", "", "leaves (also Ctrl-D)"),
        ],
    ),
];

/// What `\pset` sets.
pub(super) const SETTINGS: [&str; 6] = [
    "expanded",
    "footer",
    "format",
    "pager",
    "rows",
    "tuples_only",
];

/// Every name of a command, once.
pub(super) fn names() -> Vec<&'static str> {
    let all = COMMANDS.iter().flat_map(|(_, commands)| *commands);
    let mut names: Vec<&str> = Vec::new();
    for name in all.map(|(name, _, _)| *name).chain(["\\gx"]) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The text of `\?`.
pub(super) fn help() -> String {
    let mut text =
        String::from("SQL statements end with `;`. Tab completes; Ctrl-C stops a query.\n");
    for (heading, commands) in COMMANDS {
        text.push_str(&format!("{heading}\n"));
        for (name, argument, meaning) in commands {
            let usage = format!("{name} {argument}");
            text.push_str(&format!("  {usage:<18}  {meaning}\n"));
        }
    }
    text
}

/// The name of a command and what follows it. A `;` at the end is taken for a habit, except in what
/// goes to the system.
fn parted(line: &str) -> (&str, &str) {
    let line = line.trim();
    if let Some(command) = line.strip_prefix("\\!") {
        return ("\\!", command.trim());
    }
    let line = line.trim_end_matches(';').trim_end();
    let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    (name, argument.trim())
}

/// Whether a command is about the statement that stands before it.
pub(super) fn takes_statement(line: &str) -> bool {
    matches!(
        parted(line).0,
        "\\g" | "\\gx" | "\\watch" | "\\plot" | "\\explain" | "\\e" | "\\edit"
    )
}

/// Reads a line that starts with a backslash.
pub(super) fn parse(line: &str) -> Result<Command, CommandError> {
    let (name, argument) = parted(line);
    let alone = |command: Command| match argument.is_empty() {
        true => Ok(command),
        false => Err(CommandError::Surplus {
            name: name.to_owned(),
            argument: argument.to_owned(),
        }),
    };
    let optional = |quote| match unquoted(argument, quote) {
        "" => None,
        argument => Some(argument.to_owned()),
    };
    let describe = |kinds, more| {
        Ok(Command::Describe(Describe {
            kinds,
            name: optional('"'),
            more,
        }))
    };
    match name {
        "\\d" => describe(Kinds::All, false),
        "\\d+" => describe(Kinds::All, true),
        "\\dt" => describe(Kinds::Tables, false),
        "\\dt+" => describe(Kinds::Tables, true),
        "\\dv" => describe(Kinds::Views, false),
        "\\dv+" => describe(Kinds::Views, true),
        "\\df" | "\\df+" => Ok(Command::Functions(optional('"'))),
        "\\timing" => Ok(Command::Timing(switch(name, argument)?)),
        "\\format" if argument.is_empty() => Ok(Command::ShowFormat),
        "\\format" => Ok(Command::Set(Setting::Format(argument.parse()?))),
        "\\x" => Ok(Command::Set(Setting::Expanded(expanded(name, argument)?))),
        "\\t" => Ok(Command::Set(Setting::TuplesOnly(switch(name, argument)?))),
        "\\a" => alone(Command::Set(Setting::Aligned(None))),
        "\\pset" => setting(argument),
        "\\i" | "\\include" if argument.is_empty() => Err(CommandError::NoFile),
        "\\i" | "\\include" => Ok(Command::Include(unquoted(argument, '\'').to_owned())),
        "\\o" | "\\out" if argument.starts_with('|') => Err(CommandError::Pipe),
        "\\o" | "\\out" => Ok(Command::Output(optional('\''))),
        "\\e" | "\\edit" => Ok(Command::Edit(optional('\''))),
        "\\g" => alone(Command::Again(None)),
        "\\gx" => alone(Command::Again(Some(Expanded::On))),
        "\\watch" => Ok(Command::Watch(watch(argument)?)),
        "\\plot" => alone(Command::Plot),
        "\\explain" => match argument {
            "" => Ok(Command::Explain { analyze: false }),
            word if word.eq_ignore_ascii_case("analyze") => Ok(Command::Explain { analyze: true }),
            argument => Err(CommandError::Explain {
                argument: argument.to_owned(),
            }),
        },
        "\\freshness" => alone(Command::Freshness),
        "\\p" | "\\print" => alone(Command::Show),
        "\\r" | "\\reset" => alone(Command::Reset),
        "\\!" if argument.is_empty() => Err(CommandError::NoCommand),
        "\\!" => Ok(Command::System(argument.to_owned())),
        "\\?" | "\\h" | "\\help" => alone(Command::Help),
        "\\q" | "\\quit" => alone(Command::Quit),
        _ => Err(CommandError::Unknown {
            name: name.to_owned(),
        }),
    }
}

/// `NAME VALUE` of `\pset`, under psql's names.
fn setting(argument: &str) -> Result<Command, CommandError> {
    let (name, value) = argument
        .split_once(char::is_whitespace)
        .unwrap_or((argument, ""));
    let (value, shown) = (value.trim(), format!("\\pset {name}"));
    Ok(Command::Set(match name {
        "" => return Ok(Command::ShowSettings),
        "expanded" | "x" => Setting::Expanded(expanded(&shown, value)?),
        "footer" => Setting::Footer(switch(&shown, value)?),
        "pager" => Setting::Pager(switch(&shown, value)?),
        "tuples_only" | "t" => Setting::TuplesOnly(switch(&shown, value)?),
        "rows" => match value.replace(['_', ','], "").parse() {
            Ok(rows) => Setting::Rows(rows),
            Err(_) => {
                return Err(CommandError::Rows {
                    argument: value.to_owned(),
                });
            }
        },
        "format" => match value {
            "" => return Ok(Command::ShowFormat),
            "aligned" => Setting::Aligned(Some(true)),
            "unaligned" => Setting::Aligned(Some(false)),
            other => Setting::Format(other.parse()?),
        },
        other => {
            return Err(CommandError::Setting {
                name: other.to_owned(),
            });
        }
    }))
}

fn switch(name: &str, argument: &str) -> Result<Switch, CommandError> {
    match argument {
        "" => Ok(Switch::Toggle),
        "on" => Ok(Switch::On),
        "off" => Ok(Switch::Off),
        other => Err(CommandError::Switch {
            name: name.to_owned(),
            argument: other.to_owned(),
        }),
    }
}

fn expanded(name: &str, argument: &str) -> Result<Option<Expanded>, CommandError> {
    match argument {
        "" => Ok(None),
        "on" => Ok(Some(Expanded::On)),
        "off" => Ok(Some(Expanded::Off)),
        "auto" => Ok(Some(Expanded::Auto)),
        other => Err(CommandError::Expanded {
            name: name.to_owned(),
            argument: other.to_owned(),
        }),
    }
}

/// `[i=]SECONDS` and `c=TIMES`, as psql has them.
fn watch(argument: &str) -> Result<Watch, CommandError> {
    let wrong = || CommandError::Watch {
        argument: argument.to_owned(),
    };
    let mut watch = Watch {
        every: WATCH_EVERY,
        times: None,
    };
    for word in argument.split_whitespace() {
        match word.strip_prefix("c=") {
            Some(times) => watch.times = Some(times.parse().map_err(|_| wrong())?),
            None => {
                let seconds = word.strip_prefix("i=").unwrap_or(word);
                let seconds: f64 = seconds.parse().map_err(|_| wrong())?;
                if !(0.0..=WATCH_AT_MOST).contains(&seconds) {
                    return Err(wrong());
                }
                watch.every = Duration::from_secs_f64(seconds);
            }
        }
    }
    Ok(watch)
}

/// The command that a person means who types a word where a statement could stand.
pub(super) fn parse_word(text: &str) -> Option<Command> {
    match text
        .trim()
        .trim_end_matches(';')
        .trim_end()
        .to_ascii_lowercase()
        .as_str()
    {
        "exit" | "quit" => Some(Command::Quit),
        "help" => Some(Command::Help),
        _ => None,
    }
}

fn unquoted(text: &str, quote: char) -> &str {
    text.strip_prefix(quote)
        .and_then(|inner| inner.strip_suffix(quote))
        .unwrap_or(text)
}
