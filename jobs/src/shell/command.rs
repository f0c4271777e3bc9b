//! Owns the shell's own commands: their names, their parsing and their help.

use crate::output::{Format, UnknownFormat};

/// A command of the shell, as opposed to SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// `\d`
    Relations,
    /// `\d NAME`
    Relation(String),
    /// `\timing`, `\timing on|off`
    Timing(Switch),
    /// `\format` without a name asks.
    ShowFormat,
    /// `\format NAME`
    SetFormat(Format),
    /// `\i FILE`
    Include(String),
    /// `\?`, `\h`
    Help,
    /// `\q`
    Quit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    On,
    Off,
    Toggle,
}

/// Why a command can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CommandError {
    #[error("unknown command `{name}`: use {}", names())]
    Unknown { name: String },
    #[error("`\\timing` takes `on`, `off` or nothing, not `{argument}`")]
    Timing { argument: String },
    #[error(transparent)]
    Format {
        #[from]
        source: UnknownFormat,
    },
    #[error("`\\i` needs the path of a file with SQL: `\\i FILE`")]
    NoFile,
    #[error("`{name}` takes no argument, remove `{argument}`")]
    Surplus { name: String, argument: String },
}

/// What a person types, and what it does; the order is that of the help.
pub(super) const COMMANDS: [(&str, &str, &str); 7] = [
    ("\\d", "", "list the relations"),
    ("\\d", "NAME", "columns and types of a relation"),
    (
        "\\format",
        "table|csv|json|ndjson",
        "how answers are written",
    ),
    ("\\timing", "[on|off]", "time taken, after each answer"),
    ("\\i", "FILE", "run the statements of a file"),
    ("\\?", "or \\h", "this help"),
    ("\\q", "", "leave (also Ctrl-D)"),
];

/// The text of `\?`.
pub(super) fn help() -> String {
    let mut text = String::from("SQL statements end with `;`. Commands of the shell:\n");
    for (name, argument, meaning) in COMMANDS {
        let usage = format!("{name} {argument}");
        text.push_str(&format!("  {usage:<29}  {meaning}\n"));
    }
    text.push_str("Tab completes; Ctrl-C clears the statement or stops the running query.\n");
    text
}

fn names() -> String {
    "`\\d`, `\\format`, `\\timing`, `\\i`, `\\?` or `\\q`".to_owned()
}

/// Reads a line that starts with a backslash. A `;` at its end is taken for a habit.
pub(super) fn parse(line: &str) -> Result<Command, CommandError> {
    let line = line.trim().trim_end_matches(';').trim_end();
    let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim();
    let alone = |command: Command| {
        if argument.is_empty() {
            Ok(command)
        } else {
            Err(CommandError::Surplus {
                name: name.to_owned(),
                argument: argument.to_owned(),
            })
        }
    };
    match name {
        "\\d" if argument.is_empty() => Ok(Command::Relations),
        "\\d" => Ok(Command::Relation(unquoted(argument, '"').to_owned())),
        "\\timing" => match argument {
            "" => Ok(Command::Timing(Switch::Toggle)),
            "on" => Ok(Command::Timing(Switch::On)),
            "off" => Ok(Command::Timing(Switch::Off)),
            other => Err(CommandError::Timing {
                argument: other.to_owned(),
            }),
        },
        "\\format" if argument.is_empty() => Ok(Command::ShowFormat),
        "\\format" => Ok(Command::SetFormat(argument.parse()?)),
        "\\i" if argument.is_empty() => Err(CommandError::NoFile),
        "\\i" => Ok(Command::Include(unquoted(argument, '\'').to_owned())),
        "\\?" | "\\h" | "\\help" => alone(Command::Help),
        "\\q" | "\\quit" => alone(Command::Quit),
        _ => Err(CommandError::Unknown {
            name: name.to_owned(),
        }),
    }
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
