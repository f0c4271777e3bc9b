//! Owns what a person has typed of a statement: lines come in, and what is to be done comes out. It
//! reads no terminal and runs nothing.

use super::command;
use super::lex::{Unfinished, pieces, unfinished};

/// Words that mean a command to a person, at the beginning of a statement.
const WORDS: [&str; 3] = ["exit", "quit", "help"];

/// What is to be done after a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing: the statement goes on.
    More,
    /// The statement goes on, and the person may not have meant that.
    Warn(String),
    /// These statements and commands are run. What a person typed after them goes on.
    Run(String),
    /// A command is run, and the statement around it goes on.
    Aside { command: String, note: String },
    /// What was typed is shown.
    Show(String),
    /// What was typed is gone.
    Dropped(String),
}

/// The lines of a statement that has not ended.
#[derive(Debug, Default)]
pub(super) struct Typed {
    pending: String,
}

impl Typed {
    /// What has been typed and not run.
    pub(super) fn pending(&self) -> &str {
        &self.pending
    }

    /// What the statement waits for; `None` where nothing has been typed.
    pub(super) fn waits_for(&self) -> Option<Unfinished> {
        match self.pending.is_empty() {
            true => None,
            false => Some(unfinished(&self.pending).unwrap_or(Unfinished::Statement)),
        }
    }

    /// Forgets what was typed.
    pub(super) fn drop_all(&mut self) {
        self.pending.clear();
    }

    /// A line, or several that were pasted at once.
    pub(super) fn line(&mut self, line: &str) -> Turn {
        let waits_for = self.waits_for();
        let word = line.trim();
        if let Some(waits_for) = waits_for {
            if is_reset(word) {
                let began = self.began();
                self.drop_all();
                return Turn::Dropped(format!("dropped {began}"));
            }
            if word.starts_with('\\') && !waits_for.takes_everything() {
                return self.command_amid(word);
            }
        } else if is_reset(word) {
            return Turn::Dropped("nothing is being typed".to_owned());
        }
        let warning = waits_for.and_then(|waits_for| self.warning(waits_for, word));
        if !self.pending.is_empty() {
            self.pending.push('\n');
        }
        self.pending.push_str(line);
        match (self.take_whole(), warning) {
            (Some(whole), _) => Turn::Run(whole),
            (None, Some(warning)) => Turn::Warn(warning),
            (None, None) => Turn::More,
        }
    }

    /// Everything up to the last statement that has ended, if there is one. What follows stays.
    fn take_whole(&mut self) -> Option<String> {
        if command::parse_word(&self.pending).is_some() || unfinished(&self.pending).is_none() {
            return Some(std::mem::take(&mut self.pending));
        }
        let ended = pieces(&self.pending);
        let end = ended.iter().rev().find(|piece| piece.ended)?.end;
        let rest = self.pending.split_off(end);
        let whole = std::mem::replace(&mut self.pending, rest.trim_start().to_owned());
        Some(whole)
    }

    /// A command on a line of its own, amid a statement.
    fn command_amid(&mut self, command: &str) -> Turn {
        if command == "\\p" {
            return Turn::Show(format!("{}\n", self.pending));
        }
        if command::takes_statement(command) {
            let statement = std::mem::take(&mut self.pending);
            return Turn::Run(format!("{statement}\n{command}"));
        }
        let note = format!(
            "{} goes on: end it with `;`, or drop it with `\\r`",
            self.began()
        );
        Turn::Aside {
            command: command.to_owned(),
            note,
        }
    }

    /// What a person should know who types a command where it is none.
    fn warning(&self, waits_for: Unfinished, word: &str) -> Option<String> {
        let plain = word.trim_end_matches(';').trim_end().to_ascii_lowercase();
        if !word.starts_with('\\') && !WORDS.contains(&plain.as_str()) {
            return None;
        }
        let (what, closes) = match waits_for {
            Unfinished::Text => ("the text that began with `'`", "`'` closes it"),
            Unfinished::DollarText => ("the text that began with `$`", "the same `$…$` closes it"),
            Unfinished::Name => ("the name that began with `\"`", "`\"` closes it"),
            Unfinished::Comment => ("the comment that began with `/*`", "`*/` closes it"),
            Unfinished::Statement | Unfinished::Parenthesis => {
                ("the statement", "`;` ends it, `\\q` leaves")
            }
        };
        Some(format!(
            "`{word}` was taken as part of {what}: {closes}, `\\r` or Ctrl-C drops everything from `{}` on",
            self.beginning()
        ))
    }

    fn began(&self) -> String {
        format!("the statement `{}`", self.beginning())
    }

    /// The first words of what was typed.
    fn beginning(&self) -> String {
        const SHOWN: usize = 30;
        let words: Vec<&str> = self.pending.split_whitespace().collect();
        let words = words.join(" ");
        match words.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", &words[..end]),
            None => words,
        }
    }
}

/// What stands before the cursor: the shell's name, and what the statement waits for.
pub(super) fn prompt(name: &str, waits_for: Option<Unfinished>) -> String {
    let sign = match waits_for {
        None => '=',
        Some(Unfinished::Statement) => '-',
        Some(Unfinished::Parenthesis) => '(',
        Some(Unfinished::Text) => '\'',
        Some(Unfinished::DollarText) => '$',
        Some(Unfinished::Name) => '"',
        Some(Unfinished::Comment) => '*',
    };
    format!("{name}{sign}> ")
}

fn is_reset(line: &str) -> bool {
    matches!(line, "\\r" | "\\reset")
}
