//! What can be wrong with a project's settings, and how it is shown: file, line, column, the
//! offending line with a caret under it, and what to do.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::caret;

/// Why a project could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The folder holds no `anabranch.toml`, or doesn't exist.
    #[error(
        "no `anabranch.toml` in `{dir}`; run `anabranch init {dir}` or name a project with --project",
        dir = dir.display()
    )]
    Missing {
        /// The folder that was named as the project.
        dir: PathBuf,
    },
    /// `anabranch.toml` is there but can't be read as UTF-8 text.
    #[error("can't read `{path}`: {source}; make it a readable text file in UTF-8", path = path.display())]
    Unreadable {
        /// The settings file.
        path: PathBuf,
        /// What the file system answered.
        source: std::io::Error,
    },
    /// The settings were read and are wrong in one or more places.
    #[error("{}", joined(problems))]
    Invalid {
        /// Everything that was found, in the order of the file; never empty.
        problems: Vec<Problem>,
    },
}

fn joined(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(Problem::to_string)
        .collect::<Vec<_>>()
        .join("\n\n")
}

/// One thing that is wrong at one place of a settings file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The settings file.
    pub path: PathBuf,
    /// Line of the place, counted from 1.
    pub line: usize,
    /// Column of the place in characters, counted from 1.
    pub column: usize,
    /// How many characters of that line the place covers; at least 1.
    pub width: usize,
    /// What is wrong and what to do about it, in one line.
    pub message: String,
    /// The whole line of the file, as written, without its line end.
    pub source_line: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.message)?;
        let gutter = caret::gutter(self.line);
        let (path, line, column) = (self.path.display(), self.line, self.column);
        writeln!(f, "{gutter}--> {path}:{line}:{column}")?;
        f.write_str(&caret::drawn(line, &self.source_line, column, self.width))
    }
}

/// A settings file as it was read, for turning byte ranges into lines and columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SourceText<'a> {
    pub(crate) text: &'a str,
    pub(crate) path: &'a Path,
}

impl SourceText<'_> {
    /// The problem `message` at the bytes `span` of the text.
    pub(crate) fn problem(&self, span: &Range<usize>, message: String) -> Problem {
        let start = self.text.floor_char_boundary(span.start);
        let end = self.text.floor_char_boundary(span.end).max(start);
        let (before, rest) = self.text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = rest
            .find('\n')
            .map_or(self.text.len(), |newline| start + newline);
        // A place that goes on over several lines is underlined on its first.
        let covered = &self.text[start..end.min(line_end).max(start)];
        Problem {
            path: self.path.to_path_buf(),
            line: before.matches('\n').count() + 1,
            column: self.text[line_start..start].chars().count() + 1,
            width: covered.trim_end().chars().count().max(1),
            message,
            source_line: self.text[line_start..line_end]
                .trim_end_matches('\r')
                .to_owned(),
        }
    }
}
