//! What goes wrong in a session, as clients are told it.

use anabranch_shared::Error;
use pgwire::messages::response::{ErrorResponse, NoticeResponse};

/// What a client is told, in PostgreSQL's words, whose prepared statement has other columns by now.
pub(super) const CACHED_PLAN: &str = "cached plan must not change result type";

/// What goes wrong: an error of ours, or one that only this protocol knows.
#[derive(Debug)]
pub(super) enum Fault {
    Ours(Error),
    Coded(&'static str, String),
    /// The client is gone; nobody is told anything.
    Gone,
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        Self::Ours(e)
    }
}

impl Fault {
    pub(super) fn coded(state: &'static str, text: impl Into<String>) -> Self {
        Self::Coded(state, text.into())
    }

    fn state(&self) -> &'static str {
        match self {
            Self::Ours(e) => e.sql_state(),
            Self::Coded(state, _) => state,
            Self::Gone => "08006",
        }
    }

    /// The message and the place in `statement` that it is about, in characters from 1.
    fn message(&self, statement: &str) -> (String, Option<usize>) {
        match self {
            Self::Ours(e) => match e.root() {
                Error::Statement(e) => {
                    let place = e.place.map(|place| position(statement, place));
                    (e.message.clone(), place)
                }
                root => (root.to_string(), None),
            },
            Self::Coded(_, text) => (text.clone(), None),
            Self::Gone => (String::new(), None),
        }
    }

    /// As the client is told it; the statement begins at this character of what was sent.
    pub(super) fn response(&self, severity: &str, statement: &str, at: usize) -> ErrorResponse {
        let (message, place) = self.message(statement);
        let mut fields = fields(severity, self.state(), message);
        fields.extend(place.map(|place| (b'P', (at + place).to_string())));
        if matches!(self, Self::Coded(_, text) if text == CACHED_PLAN) {
            // By which pgjdbc knows that it is to prepare again.
            fields.push((b'R', "RevalidateCachedQuery".to_owned()));
        }
        ErrorResponse::new(fields)
    }
}

fn fields(severity: &str, state: &str, message: String) -> Vec<(u8, String)> {
    vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', state.to_owned()),
        // A zero byte would end the text.
        (b'M', message.replace('\0', "")),
    ]
}

/// Something that a client is told beside its answer.
pub(super) fn notice(severity: &str, state: &str, text: &str) -> NoticeResponse {
    NoticeResponse::new(fields(severity, state, text.to_owned()))
}

/// The character at a line and a column, all counted from 1.
fn position(statement: &str, (line, column): (usize, usize)) -> usize {
    let before = statement.split_inclusive('\n').take(line.saturating_sub(1));
    before.map(|line| line.chars().count()).sum::<usize>() + column
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters() {
        assert_eq!(position("SELECT ä,\n  x", (2, 3)), 13);
        assert_eq!(position("SELECT x", (1, 8)), 8);
    }
}
