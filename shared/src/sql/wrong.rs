//! What is wrong with a statement, for whoever wrote it: what, where, the near name, and what to write.

use datafusion::common::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::elsewhere;
use crate::caret::{Place, at};
use crate::{Error, ErrorKind, StatementError, nearest};

/// Relations that are named where there is none of a name.
const RELATIONS_NAMED: usize = 40;

/// Words that a mistyped one may be meant to be, where the parser stops.
const KEYWORDS: [&str; 20] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "ORDER",
    "HAVING",
    "LIMIT",
    "OFFSET",
    "JOIN",
    "WITH",
    "DISTINCT",
    "UNION",
    "INTERVAL",
    "BETWEEN",
    "LEFT",
    "INNER",
    "EXPLAIN",
    "DESCRIBE",
    "FILTER",
    "PARTITION",
];

/// The shortest word that is taken for a mistyped keyword.
const SHORTEST_KEYWORD: usize = 4;

/// The names that a statement may use.
#[derive(Clone, Debug, Default)]
pub struct KnownNames {
    /// Functions, aggregates and window functions.
    pub functions: Vec<String>,
    /// Topics, views and tables.
    pub relations: Vec<String>,
}

impl KnownNames {
    /// The functions of a session, and some relations.
    pub fn new(state: &SessionState, relations: Vec<String>) -> Self {
        let scalar = state.scalar_functions().keys();
        let aggregates = state.aggregate_functions().keys();
        let windows = state.window_functions().keys();
        let all = scalar.chain(aggregates).chain(windows);
        // What begins with a line is of our own planning.
        let mut functions: Vec<String> =
            all.filter(|name| !name.starts_with('_')).cloned().collect();
        functions.sort_unstable();
        functions.dedup();
        Self {
            functions,
            relations,
        }
    }
}

/// What is wrong, and where.
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) place: Option<Place>,
}

/// An error about a statement as whoever wrote it is told it; what is no fault of the statement's stays
/// as it is.
pub fn explained(e: Error, sql: &str, known: &KnownNames) -> Error {
    let wrong = match &e {
        Error::Query(engine) => match e.root() {
            Error::Query(_) => Wrong::of(engine, sql, known),
            Error::Invalid(text) => Wrong::ours(text, sql),
            _ => return e,
        },
        Error::Invalid(text) => Wrong::ours(text, sql),
        _ => return e,
    };
    let is_absent = |start: &&str| wrong.message.starts_with(*start);
    let kind = match [NO_RELATION, NO_TABLE_FUNCTION].iter().any(is_absent) {
        true => ErrorKind::NotFound,
        false => e.kind(),
    };
    if !matches!(kind, ErrorKind::Invalid | ErrorKind::NotFound) {
        return e;
    }
    let state = wrong.sql_state().unwrap_or_else(|| e.sql_state());
    Error::Statement(Box::new(wrong.told(sql, kind, state)))
}

/// A refusal of a part of a statement.
pub(crate) fn refused(sql: &str, place: Option<Place>, message: &str) -> Error {
    let wrong = Wrong {
        message: message.to_owned(),
        place,
    };
    Error::Statement(Box::new(wrong.told(sql, ErrorKind::Invalid, "0A000")))
}

/// How the message begins where a relation is not there.
const NO_RELATION: &str = "no topic, view or table `";
const NO_TABLE_FUNCTION: &str = "no table function `";
const NO_FUNCTION: &str = "no function `";
const NO_COLUMN: &str = "no column `";
const NO_ALIAS: &str = "no relation `";

/// How the message ends where the statement does and should not.
const ENDS: &str = "and the statement ends";

impl Wrong {
    /// What the engine says.
    pub(crate) fn of(e: &DataFusionError, sql: &str, known: &KnownNames) -> Self {
        let message = crate::error::engine_message(e);
        let tokens = tokens(sql);
        if let Some((place, text)) = Place::of_parser(&message) {
            return Self::of_parser(place, text, &tokens);
        }
        // Of the end of a statement the parser tells no place.
        if message.ends_with(ENDS)
            && let Some(place) = tokens.last().and_then(|t| Place::after(t.span))
        {
            return Self::of_parser(place, &message, &tokens);
        }
        let place = Place::of_diagnostic(e);
        let mut wrong = Self { message, place };
        let named = |start: &str| {
            let rest = wrong.message.strip_prefix(start)?;
            Some(rest.split('`').next().unwrap_or(rest).to_owned())
        };
        if let Some(name) = named(NO_FUNCTION) {
            wrong.message += &near_function(&name, known);
            wrong.place = wrong.place.or_else(|| call_of(&tokens, &name));
        } else if let Some(name) = named(NO_RELATION) {
            wrong.message += &near_relation(&name, known);
            wrong.place = wrong.place.or_else(|| word(&tokens, &name));
        } else if let Some(name) = named(NO_COLUMN) {
            wrong.place = wrong.place.or_else(|| word(&tokens, &name));
            let is_quoted = |t: &&TokenWithSpan| matches!(&t.token, Token::Word(w) if w.value == name && w.quote_style == Some('"'));
            if tokens.iter().any(|t| is_quoted(&t)) {
                wrong.message += &format!("; a text stands in single quotes: '{name}'");
            }
        } else if let Some(name) = named(NO_ALIAS) {
            wrong.place = wrong.place.or_else(|| word(&tokens, &name));
        } else {
            wrong.place = wrong.place.or_else(|| hinted(&tokens, &wrong.message));
        }
        wrong
    }

    /// What we say ourselves: its place is told in its text already, or is that of what it names.
    fn ours(text: &str, sql: &str) -> Self {
        let tokens = tokens(sql);
        Self {
            message: text.to_owned(),
            place: match text.starts_with("line ") {
                true => None,
                false => hinted(&tokens, text),
            },
        }
    }

    /// What the parser says, with what may have been meant.
    fn of_parser(place: Place, text: &str, tokens: &[TokenWithSpan]) -> Self {
        let mut wrong = Self {
            message: text.to_owned(),
            place: Some(place),
        };
        let stops_at = tokens.iter().position(|t| {
            let start = t.span.start;
            (start.line, start.column) == (place.line as u64, place.column as u64)
        });
        let stops_at = stops_at.unwrap_or(tokens.len());
        let before = stops_at.checked_sub(1).and_then(|at| tokens.get(at));
        let found = tokens.get(stops_at);
        let mistyped = |token: &TokenWithSpan| {
            let Token::Word(w) = &token.token else {
                return None;
            };
            let is_plain = w.keyword == Keyword::NoKeyword && w.quote_style.is_none();
            let is_long = w.value.chars().count() >= SHORTEST_KEYWORD;
            let near = nearest(&w.value, KEYWORDS).filter(|_| is_plain && is_long)?;
            Some((near, w.value.clone(), Place::of(token.span)))
        };
        if let Some((near, word, at)) = found
            .and_then(mistyped)
            .or_else(|| before.and_then(mistyped))
        {
            wrong.message = format!("{text}; did you mean `{near}` in place of `{word}`?");
            wrong.place = at.or(wrong.place);
            return wrong;
        }
        let ends = |t: &TokenWithSpan| {
            matches!(&t.token, Token::RParen | Token::SemiColon)
                || matches!(&t.token, Token::Word(w) if w.keyword == Keyword::FROM)
        };
        let after_comma = before.is_some_and(|t| t.token == Token::Comma);
        if after_comma && found.is_none_or(ends) {
            wrong.message = format!("{text}: nothing follows the comma before it; take it away");
        }
        wrong
    }

    /// The code of what is not there.
    fn sql_state(&self) -> Option<&'static str> {
        let states = [
            (NO_RELATION, "42P01"),
            (NO_ALIAS, "42P01"),
            (NO_TABLE_FUNCTION, "42883"),
            (NO_FUNCTION, "42883"),
            (NO_COLUMN, "42703"),
        ];
        let found = states
            .into_iter()
            .find(|(start, _)| self.message.starts_with(start));
        found.map(|(_, state)| state)
    }

    fn told(self, sql: &str, kind: ErrorKind, sql_state: &'static str) -> StatementError {
        StatementError {
            kind,
            text: at(sql, self.place, &self.message),
            message: self.message,
            sql_state,
            place: self.place.map(|p| (p.line, p.column)),
        }
    }
}

fn near_function(name: &str, known: &KnownNames) -> String {
    let lower = name.to_lowercase();
    if let Some(instead) = elsewhere::instead_of(&lower) {
        return format!("; write {instead}");
    }
    let functions = known.functions.iter().map(String::as_str);
    match nearest(name, functions) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => "; `SHOW FUNCTIONS` in a query lists those that there are".to_owned(),
    }
}

fn near_relation(name: &str, known: &KnownNames) -> String {
    let all = known.relations.iter().map(String::as_str);
    let near = nearest(name, all.clone());
    let shown: Vec<&str> = all.take(RELATIONS_NAMED).collect();
    let more = match known.relations.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let there_are = format!("here are: {}{more}", shown.join(", "));
    match near {
        Some(near) => format!("; did you mean `{near}`? T{there_are}"),
        None if shown.is_empty() => String::new(),
        None => format!("; t{there_are}"),
    }
}

/// What a statement is made of, without blanks and comments; nothing where it can't be told.
fn tokens(sql: &str) -> Vec<TokenWithSpan> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
    let mut tokens = tokens.unwrap_or_default();
    tokens.retain(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF));
    tokens
}

/// The only place of what a condition holds for.
fn only(places: impl Iterator<Item = Option<Place>>) -> Option<Place> {
    let mut places = places;
    let first = places.next()?;
    match places.next() {
        None => first,
        Some(_) => None,
    }
}

/// The place of a word that a statement has once.
fn word(tokens: &[TokenWithSpan], word: &str) -> Option<Place> {
    let is = |t: &&TokenWithSpan| matches!(&t.token, Token::Word(w) if w.value.eq_ignore_ascii_case(word));
    only(tokens.iter().filter(is).map(|t| Place::of(t.span)))
}

/// The place of the only call of a function.
fn call_of(tokens: &[TokenWithSpan], name: &str) -> Option<Place> {
    let calls = tokens.windows(2).filter(|pair| {
        matches!(&pair[0].token, Token::Word(w) if w.value.eq_ignore_ascii_case(name))
            && pair[1].token == Token::LParen
    });
    only(calls.map(|pair| Place::of(pair[0].span)))
}

/// The place of a text that a statement has once.
fn text(tokens: &[TokenWithSpan], text: &str) -> Option<Place> {
    let is = |t: &&TokenWithSpan| matches!(&t.token, Token::SingleQuotedString(s) if s == text);
    only(tokens.iter().filter(is).map(|t| Place::of(t.span)))
}

/// The place of what a message is about, where it names a text or begins with a name or a call that
/// the statement has once.
fn hinted(tokens: &[TokenWithSpan], message: &str) -> Option<Place> {
    if message.starts_with("combine: ") {
        return call_of(tokens, "combine");
    }
    if let Some(rest) = message.strip_prefix('`') {
        let (quoted, _) = rest.split_once('`')?;
        let end = quoted.find(|c: char| !c.is_alphanumeric() && c != '_');
        let (name, after) = quoted.split_at(end.unwrap_or(quoted.len()));
        let says_call = message.contains("does not take") || after.starts_with('(');
        return match (says_call, after) {
            (true, _) => call_of(tokens, name),
            (false, "") => word(tokens, name),
            (false, _) => None,
        };
    }
    let (_, rest) = message.split_once('\'')?;
    let (quoted, _) = rest.split_once('\'')?;
    text(tokens, quoted)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;
    use crate::view::planning_session;

    /// What is said of a statement over a table `pageviews`.
    async fn said(sql: &str) -> String {
        let context = planning_session().unwrap();
        let state = context.state();
        let mut config = state.config().clone();
        config.options_mut().sql_parser.collect_spans = true;
        let state = datafusion::execution::SessionStateBuilder::new_from_existing(state)
            .with_config(config)
            .build();
        let context = datafusion::prelude::SessionContext::new_with_state(state);
        let run = async {
            let table = context
                .sql("SELECT 'u' AS url, 1 AS load_ms, now() AS ts, 'v' AS visitor")
                .await?;
            context.register_table("pageviews", table.into_view())?;
            let state = context.state();
            let statement = super::super::parse(&state, sql)?;
            let plan = state.statement_to_plan(statement).await?;
            datafusion::prelude::DataFrame::new(state, plan)
                .collect()
                .await?;
            Ok::<_, Error>(())
        };
        let e = match run.await {
            Ok(()) => panic!("accepted: {sql}"),
            Err(e) => e,
        };
        let relations = vec!["pageviews".to_owned(), "post_minutes".to_owned()];
        explained(e, sql, &KnownNames::new(&context.state(), relations)).to_string()
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_with_its_place_and_the_near_name() {
        let cases = [
            (
                "selct 1",
                "line 1, column 1: ",
                "did you mean `SELECT` in place of `selct`?",
                "^^^^^",
            ),
            (
                "SELECT url FORM pageviews",
                "line 1, column 12: ",
                "did you mean `FROM` in place of `FORM`?",
                "^^^^",
            ),
            (
                "SELECT url FROM pageviews WHERE",
                "line 1, column ",
                "and the statement ends",
                "^",
            ),
            (
                "SELECT 'a",
                "line 1, column 8: ",
                "unterminated string",
                "^",
            ),
            (
                "SELECT *\nFROM post_minute",
                "line 2, column 6: ",
                "no topic, view or table `post_minute`; did you mean `post_minutes`? There are: pageviews, post_minutes",
                "^^^^^^^^^^^",
            ),
            (
                "SELECT cuont(*) FROM pageviews",
                "line 1, column 8: ",
                "no function `cuont`; did you mean `count`?",
                "^^^^^",
            ),
            (
                "SELECT hll(url) FROM pageviews",
                "line 1, column 8: ",
                "no function `hll`; write `approx_distinct(x)`",
                "^^^",
            ),
            (
                "SELECT strftime(ts) FROM pageviews",
                "line 1, column 8: ",
                "write `to_char(ts, '%Y-%m-%d')`",
                "^^^",
            ),
            (
                "SELECT qwertz(url) FROM pageviews",
                "line 1, column 8: ",
                "no function `qwertz`; `SHOW FUNCTIONS`",
                "^^^",
            ),
            (
                "SELECT vistor FROM pageviews",
                "line 1, column 8: ",
                "no column `vistor`; did you mean `visitor`?",
                "^^^^^^",
            ),
            (
                "SELECT o.url FROM pageviews p",
                "line 1, column 8: ",
                "no relation `o` stands in FROM; there is: p",
                "^",
            ),
            (
                "SELECT url FROM pageviews WHERE url = \"abc\"",
                "line 1, column 39: ",
                "a text stands in single quotes: 'abc'",
                "^^^^^",
            ),
            (
                "SELECT url, count(*) FROM pageviews GROUP BY load_ms",
                "line 1, column 8: ",
                "`pageviews.url` stands neither in GROUP BY nor in an aggregate",
                "^^^",
            ),
            (
                "SELECT a.url FROM pageviews a, pageviews b WHERE url = 'x'",
                "line 1, column 50: ",
                "column `url` is in several of the relations",
                "^^^",
            ),
            (
                "SELECT url FROM pageviews WHERE load_ms > 'abc'",
                "line 1, column 43: ",
                "cannot cast string 'abc' to value of bigint type; `try_cast` gives NULL instead",
                "^^^^^",
            ),
            (
                "SELECT sum(url) FROM pageviews",
                "line 1, column 8: ",
                "`sum` does not take (varchar)",
                "^^^",
            ),
            (
                "SELECT ts + true FROM pageviews",
                "",
                "`timestamp + boolean` has no meaning",
                "",
            ),
            (
                "SELECT 1/0",
                "",
                "division by zero; write `nullif(…, 0)`",
                "",
            ),
            ("SELECT 1; SELECT 2", "", "several statements", ""),
        ];
        let mut wrong = String::new();
        for (sql, place, part, caret) in cases {
            let said = said(sql).await;
            let ours = [
                "Optimizer rule",
                "ParserError",
                "Int64",
                "Utf8",
                "Error during",
                "datafusion",
            ];
            let clean = !ours.iter().any(|o| said.contains(o));
            if !(said.starts_with(place) && said.contains(part) && said.ends_with(caret) && clean) {
                wrong += &format!("{sql}\n{said}\n\n");
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    }
}
