//! `COPY … TO STDOUT`: what is sent, and in which form.

use anabranch_shared::{Error, Result};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{Command, CopyFormat, Words, incomplete};
use crate::postgres::settings::is_utf8;

pub(super) fn copy(mut words: Words<'_>) -> Result<Command> {
    const WHOLE: &str = "COPY (SELECT …) TO STDOUT [WITH (FORMAT csv, HEADER)]";
    let query = match words.token() {
        Some(Token::LParen) => words.in_parentheses().map(str::to_owned),
        _ => {
            let from = words.rest();
            let name_from = words.next;
            words.path();
            let end = words.rest();
            let table = from[..from.len() - end.len()].trim();
            let columns = match words.token() {
                Some(Token::LParen) => words.in_parentheses(),
                _ => Some("*"),
            };
            (words.next > name_from)
                .then_some(columns)
                .flatten()
                .map(|columns| format!("SELECT {columns} FROM {table}"))
        }
    };
    let query = query.ok_or_else(|| incomplete(WHOLE))?;
    if words.take(&["from"]) {
        return Err(Error::Invalid(
            "facts do not come in by COPY; send them with `POST /topics/TOPIC` or `anabranch ingest`"
                .to_owned(),
        ));
    }
    if !words.take(&["to"]) || !words.take(&["stdout"]) {
        return Err(Error::Invalid(
            "queries write no files: `COPY (SELECT …) TO STDOUT` sends rows to the client"
                .to_owned(),
        ));
    }
    let format = copy_format(&mut words)?;
    match words.is_over() {
        true => Ok(Command::Copy { query, format }),
        false => Err(incomplete(WHOLE)),
    }
}

fn copy_format(words: &mut Words<'_>) -> Result<CopyFormat> {
    let (mut format, mut delimiter, mut null, mut has_header) =
        ("text".to_owned(), None, None, false);
    let wrong = |option: &str| {
        Err(Error::Invalid(format!(
            "COPY has no option {} here; there are FORMAT text, csv or binary, DELIMITER, NULL and HEADER",
            option.to_uppercase()
        )))
    };
    words.take(&["with"]);
    let in_list = words.take_token(&Token::LParen);
    while !words.is_over() {
        if in_list && words.take_token(&Token::RParen) {
            break;
        }
        let Some(option) = words.name() else {
            return wrong("of this form");
        };
        let text = |words: &mut Words<'_>| {
            words.take(&["as"]);
            let text = match words.token() {
                Some(Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text)) => {
                    text.clone()
                }
                Some(Token::Word(word)) => word.value.clone(),
                _ => return None,
            };
            words.next += 1;
            Some(text)
        };
        match option.as_str() {
            "format" => {
                format = text(words).unwrap_or_default().to_lowercase();
            }
            "binary" | "csv" if !in_list => format = option,
            "delimiter" => delimiter = text(words),
            "null" => null = text(words),
            "header" => {
                has_header = match words.word().as_deref() {
                    Some("true" | "on") => {
                        words.next += 1;
                        true
                    }
                    Some("false" | "off") => {
                        words.next += 1;
                        false
                    }
                    _ => true,
                };
            }
            "encoding" => {
                let encoding = text(words).unwrap_or_default();
                if !is_utf8(&encoding) {
                    return wrong(&format!("ENCODING '{encoding}'"));
                }
            }
            "quote" if text(words).as_deref() == Some("\"") => {}
            other => return wrong(other),
        }
        words.take_token(&Token::Comma);
    }
    let one = |delimiter: Option<String>, or: char| match delimiter {
        None => Ok(or),
        Some(text) => match text.chars().collect::<Vec<_>>().as_slice() {
            [one] if one.is_ascii() && *one != '\n' && *one != '"' => Ok(*one),
            _ => Err(Error::Invalid(format!(
                "COPY's delimiter is one character of ASCII, not `{text}`"
            ))),
        },
    };
    Ok(match format.as_str() {
        "text" if has_header => return wrong("HEADER with FORMAT text"),
        "text" => CopyFormat::Text {
            delimiter: one(delimiter, '\t')?,
            null: null.unwrap_or_else(|| "\\N".to_owned()),
        },
        "csv" => CopyFormat::Csv {
            delimiter: one(delimiter, ',')?,
            null: null.unwrap_or_default(),
            has_header,
        },
        "binary" => CopyFormat::Binary,
        other => return wrong(&format!("FORMAT {other}")),
    })
}
