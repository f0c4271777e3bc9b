//! Statements that are no queries: of sessions, transactions and cursors, and COPY. Owns how they are
//! read; what they do is the connection's.

use std::time::Duration;

use anabranch_shared::{Error, Result};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::settings::duration;
use super::types::ColumnType;

mod copy;
mod prepared;
mod subscribe;

pub(super) use self::subscribe::{Subscription, subscription};

/// What a statement is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Something for the engine.
    Query,
    /// Nothing at all.
    Empty,
    Begin(Option<Isolation>),
    Commit,
    Rollback,
    RollbackTo(String),
    Savepoint(String),
    Release(String),
    /// What the transaction reads.
    SetTransaction(Option<Isolation>),
    /// What the transactions that follow read.
    SetTransactions(Option<Isolation>),
    /// A setting and its value, or its default.
    Set {
        name: String,
        value: Option<String>,
        /// Whether it ends with the transaction.
        is_local: bool,
    },
    Reset(String),
    ResetAll,
    Show(String),
    ShowAll,
    DiscardAll,
    /// Of what there is nothing.
    DiscardNothing,
    Prepare {
        name: String,
        /// What is stated of its parameters' types.
        types: Vec<Option<ColumnType>>,
        query: String,
    },
    /// Answers a prepared statement for these values, as texts.
    Execute {
        name: String,
        values: Vec<Option<String>>,
    },
    /// Forgets a prepared statement, or all.
    Deallocate(Option<String>),
    Declare {
        cursor: String,
        /// Whether it outlives its transaction.
        is_held: bool,
        query: String,
    },
    Fetch(Fetch),
    /// Closes a cursor, or all.
    Close(Option<String>),
    Copy {
        query: String,
        format: CopyFormat,
    },
    /// Notifications, which nobody sends here.
    Unlisten,
}

/// Which rows of a cursor are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) cursor: String,
    /// None for all that is left.
    pub(super) rows: Option<u64>,
    /// Whether rows are passed over and not sent.
    pub(super) is_move: bool,
    /// How long it waits for what a subscription tells; for ever where that is not said.
    pub(super) wait: Option<Duration>,
}

/// What a transaction sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Each statement what was there when it was executed.
    #[default]
    ReadCommitted,
    /// All statements what was there at the first.
    RepeatableRead,
}

impl Isolation {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::ReadCommitted => "read committed",
            Self::RepeatableRead => "repeatable read",
        }
    }
}

/// How COPY writes rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopyFormat {
    Text {
        delimiter: char,
        null: String,
    },
    Csv {
        delimiter: char,
        null: String,
        has_header: bool,
    },
    Binary,
}

impl Command {
    /// The words by which PostgreSQL says that it was done, where they don't depend on rows.
    pub(super) fn tag(&self) -> &'static str {
        match self {
            Self::Query | Self::Empty | Self::Execute { .. } => "SELECT",
            Self::Begin(_) => "BEGIN",
            Self::Commit => "COMMIT",
            Self::Rollback | Self::RollbackTo(_) => "ROLLBACK",
            Self::Savepoint(_) => "SAVEPOINT",
            Self::Release(_) => "RELEASE",
            Self::SetTransaction(_) | Self::SetTransactions(_) | Self::Set { .. } => "SET",
            Self::Reset(_) | Self::ResetAll => "RESET",
            Self::Show(_) | Self::ShowAll => "SHOW",
            Self::DiscardAll => "DISCARD ALL",
            Self::DiscardNothing => "DISCARD",
            Self::Prepare { .. } => "PREPARE",
            Self::Deallocate(Some(_)) => "DEALLOCATE",
            Self::Deallocate(None) => "DEALLOCATE ALL",
            Self::Declare { .. } => "DECLARE CURSOR",
            Self::Fetch(fetch) if fetch.is_move => "MOVE",
            Self::Fetch(_) => "FETCH",
            Self::Close(_) => "CLOSE CURSOR",
            Self::Copy { .. } => "COPY",
            Self::Unlisten => "UNLISTEN",
        }
    }
}

/// A statement among several, and where its text begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) text: String,
    /// In characters of the whole.
    pub(super) at: usize,
}

/// The statements of a text, which semicolons divide; what can't be told apart is one.
pub(super) fn parts(text: &str) -> Vec<Part> {
    let dialect = PostgreSqlDialect {};
    let Ok(tokens) = Tokenizer::new(&dialect, text).tokenize_with_location() else {
        return vec![Part {
            text: text.to_owned(),
            at: 0,
        }];
    };
    let places = Places::new(text);
    let mut parts = Vec::new();
    let mut begun = 0;
    let mut add = |from: usize, to: usize| {
        let part = text.get(from..to).unwrap_or_default();
        let before = part.len() - part.trim_start().len();
        parts.push(Part {
            text: part.trim().to_owned(),
            at: text
                .get(..from + before)
                .unwrap_or_default()
                .chars()
                .count(),
        });
    };
    for token in &tokens {
        if token.token == Token::SemiColon {
            let at = places.byte(token.span.start);
            add(begun, at);
            begun = at + 1;
        }
    }
    add(begun, text.len());
    parts.retain(|part| !is_blank(&part.text));
    parts
}

/// Whether a statement is nothing but space and remarks.
fn is_blank(text: &str) -> bool {
    let dialect = PostgreSqlDialect {};
    match Tokenizer::new(&dialect, text).tokenize() {
        Ok(tokens) => tokens.iter().all(|t| matches!(t, Token::Whitespace(_))),
        Err(_) => false,
    }
}

/// Where lines and columns are in a text.
struct Places<'a> {
    text: &'a str,
    lines: Vec<usize>,
}

impl<'a> Places<'a> {
    fn new(text: &'a str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            lines: std::iter::once(0).chain(breaks).collect(),
        }
    }

    fn byte(&self, place: Location) -> usize {
        let line = usize::try_from(place.line).unwrap_or(1).saturating_sub(1);
        let from = self.lines.get(line).copied().unwrap_or(self.text.len());
        let column = usize::try_from(place.column).unwrap_or(1).saturating_sub(1);
        let rest = self.text.get(from..).unwrap_or_default();
        let within = rest
            .char_indices()
            .nth(column)
            .map_or(rest.len(), |(at, _)| at);
        from + within
    }
}

/// The words of a statement, read from its front.
struct Words<'a> {
    text: &'a str,
    places: Places<'a>,
    tokens: Vec<TokenWithSpan>,
    next: usize,
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Option<Self> {
        let dialect = PostgreSqlDialect {};
        let tokens = Tokenizer::new(&dialect, text)
            .tokenize_with_location()
            .ok()?;
        let tokens = tokens
            .into_iter()
            .filter(|t| !matches!(t.token, Token::Whitespace(_)));
        Some(Self {
            text,
            places: Places::new(text),
            tokens: tokens.collect(),
            next: 0,
        })
    }

    fn token(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|t| &t.token)
    }

    /// The next word in small letters, where it is a bare one.
    fn word(&self) -> Option<String> {
        match self.token()? {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_lowercase()),
            _ => None,
        }
    }

    /// Passes over these words, if they come next.
    fn take(&mut self, words: &[&str]) -> bool {
        let before = self.next;
        for word in words {
            if self.word().as_deref() != Some(word) {
                self.next = before;
                return false;
            }
            self.next += 1;
        }
        true
    }

    fn take_token(&mut self, token: &Token) -> bool {
        let found = self.token() == Some(token);
        self.next += usize::from(found);
        found
    }

    /// A name: in small letters, unless it is quoted.
    fn name(&mut self) -> Option<String> {
        let name = match self.token()? {
            Token::Word(word) if word.quote_style.is_some() => word.value.clone(),
            Token::Word(word) => word.value.to_lowercase(),
            _ => return None,
        };
        self.next += 1;
        Some(name)
    }

    /// A name of several parts.
    fn path(&mut self) -> Option<String> {
        let mut path = self.name()?;
        while self.take_token(&Token::Period) {
            path = format!("{path}.{}", self.name()?);
        }
        Some(path)
    }

    /// A text in quotes.
    fn quoted(&mut self) -> Option<String> {
        let (Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text)) = self.token()?
        else {
            return None;
        };
        let text = text.clone();
        self.next += 1;
        Some(text)
    }

    fn is_over(&self) -> bool {
        self.next >= self.tokens.len()
    }

    /// The text from the next token on.
    fn rest(&self) -> &'a str {
        match self.tokens.get(self.next) {
            Some(token) => &self.text[self.places.byte(token.span.start)..],
            None => "",
        }
    }

    /// What stands in a pair of parentheses that begins here.
    fn in_parentheses(&mut self) -> Option<&'a str> {
        if !self.take_token(&Token::LParen) {
            return None;
        }
        let from = self.places.byte(self.tokens.get(self.next)?.span.start);
        let mut depth = 1;
        while let Some(token) = self.tokens.get(self.next) {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            self.next += 1;
            if depth == 0 {
                return self.text.get(from..self.places.byte(token.span.start));
            }
        }
        None
    }

    /// A value of a setting or an option: words, numbers and texts, with commas between them.
    fn value(&mut self) -> Option<String> {
        let mut value = String::new();
        while let Some(token) = self.token() {
            match token {
                Token::SingleQuotedString(text) => value.push_str(text),
                Token::EscapedStringLiteral(text) => value.push_str(text),
                Token::Word(word) => value.push_str(&word.value),
                Token::Number(number, _) => value.push_str(number),
                Token::Comma => value.push_str(", "),
                Token::Minus => value.push('-'),
                Token::Plus => value.push('+'),
                _ => return None,
            }
            self.next += 1;
        }
        (!value.is_empty()).then_some(value)
    }
}

/// What a statement is.
///
/// # Errors
/// `Invalid` for one of these that is not whole, or asks for what there is not.
pub(super) fn command(text: &str) -> Result<Command> {
    let Some(mut words) = Words::new(text) else {
        return Ok(Command::Query);
    };
    if words.is_over() {
        return Ok(Command::Empty);
    }
    let Some(first) = words.word() else {
        return Ok(Command::Query);
    };
    let read = match first.as_str() {
        "begin" | "start" => {
            words.next += 1;
            begin(&mut words)
        }
        "commit" | "end" => {
            words.next += 1;
            end(&mut words).then_some(Command::Commit)
        }
        "rollback" | "abort" => {
            words.next += 1;
            rollback(&mut words)
        }
        "savepoint" => {
            words.next += 1;
            words.name().map(Command::Savepoint)
        }
        "release" => {
            words.next += 1;
            words.take(&["savepoint"]);
            words.name().map(Command::Release)
        }
        "set" => {
            words.next += 1;
            set(&mut words)
        }
        "reset" => {
            words.next += 1;
            match words.take(&["all"]) {
                true => Some(Command::ResetAll),
                false => setting(&mut words).map(Command::Reset),
            }
        }
        "show" => match show(&mut words) {
            Some(command) => Some(command),
            // `SHOW TABLES` and the like.
            None => return Ok(Command::Query),
        },
        "discard" => {
            words.next += 1;
            let what = words.name();
            match what.as_deref() {
                Some("all") => Some(Command::DiscardAll),
                Some("plans") => Some(Command::Deallocate(None)),
                Some("sequences" | "temp" | "temporary") => Some(Command::DiscardNothing),
                _ => None,
            }
        }
        "deallocate" => {
            words.next += 1;
            words.take(&["prepare"]);
            match words.take(&["all"]) {
                true => Some(Command::Deallocate(None)),
                false => words.name().map(|name| Command::Deallocate(Some(name))),
            }
        }
        "declare" => {
            words.next += 1;
            return declare(words);
        }
        "fetch" | "move" => {
            words.next += 1;
            return fetch(words, first == "move");
        }
        "close" => {
            words.next += 1;
            match words.take(&["all"]) {
                true => Some(Command::Close(None)),
                false => words.name().map(|name| Command::Close(Some(name))),
            }
        }
        "copy" => {
            words.next += 1;
            return copy::copy(words);
        }
        "prepare" => {
            words.next += 1;
            return prepared::prepare(words);
        }
        "execute" => {
            words.next += 1;
            return prepared::execute(words);
        }
        "unlisten" => return Ok(Command::Unlisten),
        _ => return Ok(Command::Query),
    };
    match read {
        Some(command) if words.is_over() => Ok(command),
        _ => Err(Error::Invalid(format!(
            "this form of {} is not known: `{text}`",
            first.to_uppercase()
        ))),
    }
}

/// What may stand after the end of a transaction, without AND CHAIN.
fn end(words: &mut Words<'_>) -> bool {
    if !words.take(&["work"]) {
        words.take(&["transaction"]);
    }
    words.take(&["and", "no", "chain"]);
    true
}

fn begin(words: &mut Words<'_>) -> Option<Command> {
    end(words);
    Some(Command::Begin(modes(words)))
}

/// The modes of a transaction; of these its isolation means something here.
fn modes(words: &mut Words<'_>) -> Option<Isolation> {
    let mut isolation = None;
    loop {
        if words.take(&["isolation", "level"]) {
            if words.take(&["repeatable", "read"]) || words.take(&["serializable"]) {
                isolation = Some(Isolation::RepeatableRead);
            } else if words.take(&["read", "committed"]) || words.take(&["read", "uncommitted"]) {
                isolation = Some(Isolation::ReadCommitted);
            } else {
                return isolation;
            }
        } else if !words.take(&["read", "only"])
            && !words.take(&["read", "write"])
            && !words.take(&["not", "deferrable"])
            && !words.take(&["deferrable"])
        {
            return isolation;
        }
        words.take_token(&Token::Comma);
    }
}

fn rollback(words: &mut Words<'_>) -> Option<Command> {
    end(words);
    if !words.take(&["to"]) {
        return Some(Command::Rollback);
    }
    words.take(&["savepoint"]);
    words.name().map(Command::RollbackTo)
}

/// The name of a setting, in one of its spellings.
fn setting(words: &mut Words<'_>) -> Option<String> {
    if words.take(&["time", "zone"]) {
        return Some("timezone".to_owned());
    }
    if words.take(&["transaction", "isolation", "level"]) {
        return Some("transaction_isolation".to_owned());
    }
    if words.take(&["session", "authorization"]) {
        return Some("session_authorization".to_owned());
    }
    words.path()
}

fn set(words: &mut Words<'_>) -> Option<Command> {
    if words.take(&["session", "characteristics", "as", "transaction"]) {
        return Some(Command::SetTransactions(modes(words)));
    }
    if words.take(&["transaction"]) {
        return Some(Command::SetTransaction(modes(words)));
    }
    let is_local = words.take(&["local"]);
    if !is_local {
        words.take(&["session"]);
    }
    let set = |name: String, value| Command::Set {
        name,
        value,
        is_local,
    };
    if words.take(&["names"]) {
        return Some(set("client_encoding".to_owned(), words.value()));
    }
    let name = setting(words)?;
    if !words.take(&["to"]) && !words.take_token(&Token::Eq) && name != "timezone" {
        return None;
    }
    if words.take(&["default"]) {
        return Some(set(name, None));
    }
    let value = words.value()?;
    Some(set(name, Some(value)))
}

fn show(words: &mut Words<'_>) -> Option<Command> {
    words.next += 1;
    let before = words.next;
    if words.take(&["all"]) && words.is_over() {
        return Some(Command::ShowAll);
    }
    words.next = before;
    let is_engines = ["tables", "columns", "functions"].map(|word| words.take(&[word]));
    if is_engines.contains(&true) {
        return None;
    }
    setting(words).map(Command::Show)
}

fn incomplete(what: &str) -> Error {
    Error::Invalid(format!("the statement is not whole: write `{what}`"))
}

fn declare(mut words: Words<'_>) -> Result<Command> {
    const WHOLE: &str = "DECLARE NAME CURSOR [WITH HOLD] FOR SELECT …";
    let cursor = words.name().ok_or_else(|| incomplete(WHOLE))?;
    let mut is_scrolling = false;
    loop {
        if words.take(&["cursor"]) {
            break;
        }
        if words.take(&["binary"]) {
            return Err(Error::Invalid(
                "cursors give text here; ask for binary values when the portal is bound".to_owned(),
            ));
        }
        let known = words.take(&["no", "scroll"])
            || words.take(&["insensitive"])
            || words.take(&["asensitive"]);
        if words.take(&["scroll"]) {
            is_scrolling = true;
        } else if !known {
            return Err(incomplete(WHOLE));
        }
    }
    let is_held = words.take(&["with", "hold"]);
    words.take(&["without", "hold"]);
    if !words.take(&["for"]) {
        return Err(incomplete(WHOLE));
    }
    if is_scrolling {
        return Err(Error::Invalid(
            "cursors go forward only; leave out `SCROLL`".to_owned(),
        ));
    }
    Ok(Command::Declare {
        cursor,
        is_held,
        query: words.rest().to_owned(),
    })
}

fn fetch(mut words: Words<'_>, is_move: bool) -> Result<Command> {
    const WHOLE: &str = "FETCH [FORWARD] [COUNT | ALL] FROM CURSOR";
    let number = |words: &mut Words<'_>| {
        let Some(Token::Number(number, _)) = words.token() else {
            return None;
        };
        let number = number.parse().ok();
        words.next += 1;
        number
    };
    if words.take(&["next"]) {
        words.take(&["from"]);
        words.take(&["in"]);
        let cursor = words.name().ok_or_else(|| incomplete(WHOLE))?;
        return fetched(words, (cursor, Some(1), is_move));
    }
    for back in ["backward", "prior", "last", "absolute", "relative", "first"] {
        if words.take(&[back]) {
            return Err(Error::Invalid(format!(
                "cursors go forward only; `{}` is not known here",
                back.to_uppercase()
            )));
        }
    }
    words.take(&["forward"]);
    let rows = match words.take(&["all"]) {
        true => None,
        false => match number(&mut words) {
            Some(rows) => Some(rows),
            None if words.token() == Some(&Token::Minus) => {
                return Err(Error::Invalid("cursors go forward only".to_owned()));
            }
            None => Some(1),
        },
    };
    if !words.take(&["from"]) {
        words.take(&["in"]);
    }
    let cursor = words.name().ok_or_else(|| incomplete(WHOLE))?;
    fetched(words, (cursor, rows, is_move))
}

/// What stands behind the name of the cursor: `WITH (TIMEOUT = '1s')`.
fn fetched(
    mut words: Words<'_>,
    (cursor, rows, is_move): (String, Option<u64>, bool),
) -> Result<Command> {
    let mut wait = None;
    if words.take(&["with"]) {
        let opened = words.take_token(&Token::LParen) && words.take(&["timeout"]);
        words.take_token(&Token::Eq);
        wait = words.quoted().and_then(|text| duration(&text));
        if !opened || wait.is_none() || !words.take_token(&Token::RParen) {
            return Err(incomplete("FETCH … WITH (TIMEOUT = '1s')"));
        }
    }
    match words.is_over() {
        true => Ok(Command::Fetch(Fetch {
            cursor,
            rows,
            is_move,
            wait,
        })),
        false => Err(incomplete("FETCH [FORWARD] [COUNT | ALL] FROM CURSOR")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::postgres::types::by_name;

    #[test]
    fn statements_are_told_apart() {
        let texts = |text| -> Vec<String> { parts(text).into_iter().map(|p| p.text).collect() };
        assert_eq!(
            texts("BEGIN;declare \"c;\" cursor for select ';' ; fetch 1 in \"c;\""),
            [
                "BEGIN",
                "declare \"c;\" cursor for select ';'",
                "fetch 1 in \"c;\""
            ]
        );
        assert!(texts(" ;; -- nothing;\n").is_empty());
        assert_eq!(texts("select $$;$$; select 2").len(), 2);
        let second = &parts("select 'ä';\n  select 2")[1];
        assert_eq!((second.at, second.text.as_str()), (14, "select 2"));
    }

    #[test]
    fn commands_of_real_clients_are_read() {
        let read = |text| command(text).unwrap();
        let set = |name: &str, value: &str| Command::Set {
            name: name.into(),
            value: Some(value.into()),
            is_local: false,
        };
        for (text, expected) in [
            ("SELECT 1", Command::Query),
            ("", Command::Empty),
            (
                "PREPARE p (int, timestamptz, text[], whatever) AS SELECT $1; -- so",
                Command::Prepare {
                    name: "p".into(),
                    types: vec![
                        by_name("int4"),
                        by_name("timestamp with time zone"),
                        by_name("text[]"),
                        None,
                    ],
                    query: "SELECT $1; -- so".into(),
                },
            ),
            (
                "prepare \"P\" as select 1",
                Command::Prepare {
                    name: "P".into(),
                    types: vec![],
                    query: "select 1".into(),
                },
            ),
            (
                "EXECUTE p (-1.5e3, 'it''s', NULL, TRUE, '2026-01-01'::date, timestamp '2026-01-01', E'\\n')",
                Command::Execute {
                    name: "p".into(),
                    values: [
                        Some("-1.5e3"),
                        Some("it's"),
                        None,
                        Some("true"),
                        Some("2026-01-01"),
                        Some("2026-01-01"),
                        Some("\n"),
                    ]
                    .map(|value| value.map(str::to_owned))
                    .to_vec(),
                },
            ),
            (
                "FETCH 5 FROM c WITH (TIMEOUT = '2s')",
                Command::Fetch(Fetch {
                    cursor: "c".into(),
                    rows: Some(5),
                    is_move: false,
                    wait: Some(Duration::from_secs(2)),
                }),
            ),
            (
                "execute p",
                Command::Execute {
                    name: "p".into(),
                    values: vec![],
                },
            ),
            ("BEGIN READ ONLY", Command::Begin(None)),
            (
                "START TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                Command::Begin(Some(Isolation::RepeatableRead)),
            ),
            ("SET DateStyle = 'ISO'", set("datestyle", "ISO")),
            ("SET datestyle = ISO, MDY", set("datestyle", "ISO, MDY")),
            (
                "SET extra_float_digits TO 3",
                set("extra_float_digits", "3"),
            ),
            ("SET SESSION TIME ZONE 'UTC'", set("timezone", "UTC")),
            (
                "set client_encoding to 'utf-8'",
                set("client_encoding", "utf-8"),
            ),
            (
                "SET anabranch.read = 'batch'",
                set("anabranch.read", "batch"),
            ),
            (
                "SET search_path = candidate, public",
                set("search_path", "candidate, public"),
            ),
            (
                "SET LOCAL x TO DEFAULT",
                Command::Set {
                    name: "x".into(),
                    value: None,
                    is_local: true,
                },
            ),
            (
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                Command::SetTransactions(None),
            ),
            (
                "SHOW TRANSACTION ISOLATION LEVEL",
                Command::Show("transaction_isolation".into()),
            ),
            ("SHOW search_path", Command::Show("search_path".into())),
            ("SHOW TABLES", Command::Query),
            ("ROLLBACK TO SAVEPOINT a", Command::RollbackTo("a".into())),
            ("RELEASE a", Command::Release("a".into())),
            ("DISCARD ALL", Command::DiscardAll),
            ("DEALLOCATE ALL", Command::Deallocate(None)),
            ("CLOSE ALL", Command::Close(None)),
            (
                "declare \"SQL_CUR1\" cursor with hold for select 1",
                Command::Declare {
                    cursor: "SQL_CUR1".into(),
                    is_held: true,
                    query: "select 1".into(),
                },
            ),
            (
                "FETCH FORWARD 100 FROM \"srv\"",
                Command::Fetch(Fetch {
                    cursor: "srv".into(),
                    rows: Some(100),
                    is_move: false,
                    wait: None,
                }),
            ),
            (
                "fetch 100 in c",
                Command::Fetch(Fetch {
                    cursor: "c".into(),
                    rows: Some(100),
                    is_move: false,
                    wait: None,
                }),
            ),
            (
                "COPY (SELECT (1), 'x)') TO STDOUT (FORMAT binary)",
                Command::Copy {
                    query: "SELECT (1), 'x)'".into(),
                    format: CopyFormat::Binary,
                },
            ),
            (
                "COPY  ( SELECT 1 ) TO STDOUT WITH CSV HEADER",
                Command::Copy {
                    query: "SELECT 1 ".into(),
                    format: CopyFormat::Csv {
                        delimiter: ',',
                        null: String::new(),
                        has_header: true,
                    },
                },
            ),
            (
                "copy public.\"T\" (a, b) to stdout",
                Command::Copy {
                    query: "SELECT a, b FROM public.\"T\"".into(),
                    format: CopyFormat::Text {
                        delimiter: '\t',
                        null: "\\N".into(),
                    },
                },
            ),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for wrong in [
            "FETCH BACKWARD 1 FROM c",
            "FETCH -1 FROM c",
            "COPY t FROM STDIN",
            "COPY t TO '/tmp/x'",
            "DECLARE c SCROLL CURSOR FOR SELECT 1",
            "COPY t TO STDOUT (FORMAT parquet)",
            "BEGIN nonsense",
            "SET",
        ] {
            assert!(command(wrong).is_err(), "{wrong}");
        }
    }
}
