//! `PREPARE` and `EXECUTE` as statements: what stands in them.

use anabranch_shared::{Error, Result};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{Command, Words, incomplete};
use crate::postgres::types::by_name;

pub(super) fn prepare(mut words: Words<'_>) -> Result<Command> {
    const WHOLE: &str = "PREPARE NAME [(TYPE, …)] AS SELECT …";
    let name = words.name().ok_or_else(|| incomplete(WHOLE))?;
    let types = match words.token() {
        Some(Token::LParen) => words.in_parentheses().ok_or_else(|| incomplete(WHOLE))?,
        _ => "",
    };
    if !words.take(&["as"]) || words.is_over() {
        return Err(incomplete(WHOLE));
    }
    let types = match types.is_empty() {
        true => Vec::new(),
        false => apart(types).into_iter().map(by_name).collect(),
    };
    Ok(Command::Prepare {
        name,
        types,
        query: words.rest().to_owned(),
    })
}

/// A text at the commas that stand in no parentheses.
fn apart(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let divides = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    };
    text.split(divides).map(str::trim).collect()
}

pub(super) fn execute(mut words: Words<'_>) -> Result<Command> {
    const WHOLE: &str = "EXECUTE NAME [(VALUE, …)]";
    let name = words.name().ok_or_else(|| incomplete(WHOLE))?;
    let mut values = Vec::new();
    if words.take_token(&Token::LParen) && !words.take_token(&Token::RParen) {
        loop {
            values.push(constant(&mut words)?);
            if words.take_token(&Token::RParen) {
                break;
            }
            if !words.take_token(&Token::Comma) {
                return Err(no_constant());
            }
        }
    }
    match words.is_over() {
        true => Ok(Command::Execute { name, values }),
        false => Err(incomplete(WHOLE)),
    }
}

/// A constant as a text, which its parameter's type reads; what is stated of its own type besides is
/// passed over.
fn constant(words: &mut Words<'_>) -> Result<Option<String>> {
    if words.take(&["null"]) {
        stated_type(words);
        return Ok(None);
    }
    for truth in ["true", "false"] {
        if words.take(&[truth]) {
            return Ok(Some(truth.to_owned()));
        }
    }
    // `timestamp '…'`
    while words.word().is_some() {
        words.next += 1;
    }
    let sign = match words.token() {
        Some(Token::Minus) => "-",
        _ => "",
    };
    if !words.take_token(&Token::Minus) {
        words.take_token(&Token::Plus);
    }
    let text = match words.token() {
        Some(Token::Number(number, _)) => format!("{sign}{number}"),
        Some(Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text))
            if sign.is_empty() =>
        {
            text.clone()
        }
        _ => return Err(no_constant()),
    };
    words.next += 1;
    stated_type(words);
    Ok(Some(text))
}

/// `::type`, where that comes next.
fn stated_type(words: &mut Words<'_>) {
    while words.take_token(&Token::DoubleColon) {
        while words.word().is_some() {
            words.next += 1;
        }
        if words.token() == Some(&Token::LParen) {
            words.in_parentheses();
        }
        if words.take_token(&Token::LBracket) {
            words.take_token(&Token::RBracket);
        }
    }
}

fn no_constant() -> Error {
    Error::Invalid(
        "EXECUTE takes constants: numbers, texts in quotes, TRUE, FALSE and NULL; an array is a text like `'{1,2}'`".to_owned(),
    )
}
