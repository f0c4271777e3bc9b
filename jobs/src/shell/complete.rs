//! Owns what Tab offers: a pure function of the line, the cursor and the known relations.

mod words;

use anabranch_serving::RelationInfo;

use super::command::{SETTINGS, names};
use super::lex::{Kind, Token, pieces, tokens};
use crate::output::Format;
use words::{FUNCTIONS, KEYWORDS, RESERVED, STARTS};

/// The byte position from which on the text before the cursor is replaced, and the texts to choose
/// from, best first. `pos` is the cursor's byte position in `line`.
pub(super) fn candidates(
    relations: &[RelationInfo],
    line: &str,
    pos: usize,
) -> (usize, Vec<String>) {
    let Some(before) = line.get(..pos) else {
        return (pos, Vec::new());
    };
    if before.trim_start().starts_with('\\') {
        return command_candidates(relations, before);
    }
    let (statement, offset) = current_statement(line, pos);
    let tokens = tokens(statement);
    let cursor = pos - offset;
    if tokens.iter().any(|token| hides(*token, cursor, statement)) {
        return (pos, Vec::new());
    }
    let significant: Vec<Token> = tokens
        .iter()
        .copied()
        .filter(|token| !matches!(token.kind, Kind::Blank | Kind::Comment) && token.start < cursor)
        .collect();
    let (typed, preceding) = match significant.split_last() {
        Some((last, preceding)) if last.kind == Kind::Word && last.end >= cursor => {
            (&statement[last.start..cursor], preceding)
        }
        _ => ("", significant.as_slice()),
    };
    let start = pos - typed.len();
    let scope = Scope::of(statement, &tokens);
    let mut found = Found {
        typed,
        texts: Vec::new(),
    };
    match preceding {
        [.., name, dot] if dot.text(statement) == "." && is_name(*name) => {
            qualified(
                &mut found,
                relations,
                &scope,
                &bare(name.text(statement)),
                expects_relation(statement, &preceding[..preceding.len() - 2]),
            );
        }
        _ if expects_relation(statement, preceding) => {
            relations
                .iter()
                .for_each(|relation| found.offer(&relation.name, quoted_path(&relation.name)));
        }
        _ => general(&mut found, relations, &scope, preceding.is_empty()),
    }
    (start, found.texts)
}

fn command_candidates(relations: &[RelationInfo], before: &str) -> (usize, Vec<String>) {
    let line = before.trim_start();
    let Some((name, argument)) = line.split_once(' ') else {
        let mut found = Found {
            typed: line,
            texts: Vec::new(),
        };
        names()
            .iter()
            .for_each(|name| found.offer(name, (*name).to_owned()));
        return (before.len() - line.len(), found.texts);
    };
    let argument = argument.trim_start();
    // A value of a setting is completed as that of the command which sets it.
    let (name, typed) = match (name, argument.split_once(' ')) {
        ("\\pset", Some((setting, value))) => (setting, value.trim_start()),
        _ => (name, argument),
    };
    let mut found = Found {
        typed,
        texts: Vec::new(),
    };
    match name {
        "\\d" | "\\d+" | "\\dt" | "\\dv" => relations
            .iter()
            .filter(|relation| match name {
                "\\dt" => relation.kind != "view",
                "\\dv" => relation.kind == "view",
                _ => true,
            })
            .for_each(|relation| found.offer(&relation.name, relation.name.clone())),
        "\\pset" => SETTINGS
            .iter()
            .for_each(|setting| found.offer(setting, (*setting).to_owned())),
        "\\x" | "expanded" => ["on", "off", "auto"]
            .iter()
            .for_each(|switch| found.offer(switch, (*switch).to_owned())),
        "\\format" | "format" => Format::ALL
            .iter()
            .for_each(|format| found.offer(format.name(), format.name().to_owned())),
        "\\timing" | "\\t" | "footer" | "pager" | "tuples_only" => ["on", "off"]
            .iter()
            .for_each(|switch| found.offer(switch, (*switch).to_owned())),
        _ => {}
    }
    (before.len() - typed.len(), found.texts)
}

/// Candidates that start with what is typed, each once, in the order of the offers.
struct Found<'a> {
    typed: &'a str,
    texts: Vec<String>,
}

impl Found<'_> {
    fn offer(&mut self, name: &str, text: String) {
        let matches = name
            .get(..self.typed.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(self.typed));
        if matches && !self.texts.contains(&text) {
            self.texts.push(text);
        }
    }

    /// Keywords follow the case of what is typed, in capitals where nothing is.
    fn offer_keywords(&mut self, keywords: &[&str]) {
        let lower = self.typed.chars().next().is_some_and(char::is_lowercase);
        for keyword in keywords {
            self.offer(
                keyword,
                if lower {
                    keyword.to_lowercase()
                } else {
                    (*keyword).to_owned()
                },
            );
        }
    }
}

fn general(found: &mut Found<'_>, relations: &[RelationInfo], scope: &Scope, at_start: bool) {
    if at_start {
        found.offer_keywords(&STARTS);
        return;
    }
    let mentioned: Vec<&RelationInfo> = relations
        .iter()
        .filter(|relation| scope.mentions(&relation.name))
        .collect();
    let columns_of = if mentioned.is_empty() {
        relations.iter().collect()
    } else {
        mentioned
    };
    if found.typed.is_empty() && scope.names.is_empty() {
        return;
    }
    for column in columns_of.iter().flat_map(|relation| &relation.columns) {
        found.offer(&column.name, quoted(&column.name));
    }
    if found.typed.is_empty() {
        return;
    }
    for (_, alias) in &scope.names {
        if let Some(alias) = alias {
            found.offer(alias, quoted(alias));
        }
    }
    FUNCTIONS
        .iter()
        .for_each(|function| found.offer(function, format!("{function}(")));
    found.offer_keywords(&KEYWORDS);
    relations
        .iter()
        .for_each(|relation| found.offer(&relation.name, quoted_path(&relation.name)));
}

/// What may follow `qualifier.`: the columns of the relation or alias, or the rest of a longer name.
fn qualified(
    found: &mut Found<'_>,
    relations: &[RelationInfo],
    scope: &Scope,
    qualifier: &str,
    wants_relation: bool,
) {
    if wants_relation {
        for relation in relations {
            if let Some(rest) = relation
                .name
                .strip_prefix(qualifier)
                .and_then(|rest| rest.strip_prefix('.'))
            {
                found.offer(rest, quoted_path(rest));
            }
        }
        return;
    }
    let target = scope.resolve(qualifier).unwrap_or(qualifier);
    for relation in relations.iter().filter(|relation| relation.name == target) {
        for column in &relation.columns {
            found.offer(&column.name, quoted(&column.name));
        }
    }
}

/// The relations that a statement names, with their aliases.
#[derive(Debug, Default)]
struct Scope {
    names: Vec<(String, Option<String>)>,
}

impl Scope {
    fn of(statement: &str, tokens: &[Token]) -> Self {
        let tokens: Vec<Token> = tokens
            .iter()
            .copied()
            .filter(|token| !matches!(token.kind, Kind::Blank | Kind::Comment))
            .collect();
        let mut scope = Self::default();
        let mut index = 0;
        while index < tokens.len() {
            if !is_name(tokens[index]) || !expects_relation(statement, &tokens[..index]) {
                index += 1;
                continue;
            }
            let mut name = bare(tokens[index].text(statement));
            index += 1;
            while let Some([dot, part]) = tokens.get(index..index + 2)
                && dot.text(statement) == "."
                && is_name(*part)
            {
                name = format!("{name}.{}", bare(part.text(statement)));
                index += 2;
            }
            if tokens
                .get(index)
                .is_some_and(|token| token.text(statement).eq_ignore_ascii_case("as"))
            {
                index += 1;
            }
            let alias = tokens
                .get(index)
                .filter(|token| is_name(**token) && !is_keyword(&KEYWORDS, token.text(statement)))
                .map(|token| bare(token.text(statement)));
            scope.names.push((name, alias));
        }
        scope
    }

    fn mentions(&self, name: &str) -> bool {
        self.names.iter().any(|(mentioned, _)| mentioned == name)
    }

    fn resolve(&self, alias: &str) -> Option<&str> {
        self.names
            .iter()
            .find(|(_, known)| known.as_deref() == Some(alias))
            .map(|(name, _)| name.as_str())
    }
}

/// Whether a relation's name comes next: after FROM and JOIN, and after a comma in a FROM list.
fn expects_relation(statement: &str, preceding: &[Token]) -> bool {
    let is = |token: &Token, words: &[&str]| is_keyword(words, token.text(statement));
    match preceding.last() {
        Some(last) if is(last, &["FROM", "JOIN", "DESCRIBE", "INTO", "TABLE"]) => true,
        Some(last) if last.text(statement) == "," => {
            let clause = preceding.iter().rev().find(|token| {
                is(
                    token,
                    &[
                        "SELECT", "FROM", "WHERE", "ON", "USING", "BY", "HAVING", "WITH", "VALUES",
                    ],
                ) || matches!(token.text(statement), "(" | ")")
            });
            clause.is_some_and(|clause| is(clause, &["FROM"]))
        }
        _ => false,
    }
}

/// Whether the cursor stands where nothing can be completed: in a text, quoted name or comment.
fn hides(token: Token, cursor: usize, statement: &str) -> bool {
    let inside =
        token.start < cursor && (cursor < token.end || (token.open && cursor == token.end));
    match token.kind {
        Kind::Text | Kind::QuotedName => inside,
        Kind::Comment => {
            inside
                || (cursor == token.end
                    && token.start < cursor
                    && token.text(statement).starts_with("--"))
        }
        _ => false,
    }
}

/// The statement around the cursor and where it starts.
fn current_statement(line: &str, pos: usize) -> (&str, usize) {
    pieces(line)
        .into_iter()
        .find(|piece| piece.start <= pos && (pos < piece.end || (pos == piece.end && !piece.ended)))
        .map_or((&line[pos..], pos), |piece| {
            (&line[piece.start..piece.end], piece.start)
        })
}

fn is_name(token: Token) -> bool {
    matches!(token.kind, Kind::Word | Kind::QuotedName)
}

fn is_keyword(words: &[&str], text: &str) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// The name that SQL means: bare words are folded to lower case.
fn bare(text: &str) -> String {
    match text
        .strip_prefix('"')
        .and_then(|inner| inner.strip_suffix('"'))
    {
        Some(inner) => inner.replace("\"\"", "\""),
        None => text.to_lowercase(),
    }
}

/// A name as SQL needs it: in quotes unless it is a bare lower-case word.
fn quoted(name: &str) -> String {
    let plain = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && !is_keyword(&RESERVED, name);
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// A relation's name, part by part.
fn quoted_path(name: &str) -> String {
    name.split('.').map(quoted).collect::<Vec<_>>().join(".")
}
