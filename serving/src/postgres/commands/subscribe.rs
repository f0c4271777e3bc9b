//! `SUBSCRIBE`: which view is followed, and from where.

use anabranch_shared::{Error, Result};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{Words, incomplete};

/// What somebody wants to be told of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::postgres) struct Subscription {
    pub(in crate::postgres) view: String,
    /// Where they are: what was missed follows, where that is known.
    pub(in crate::postgres) token: Option<String>,
    /// Whether the answer itself is wanted where they are nowhere.
    pub(in crate::postgres) snapshot: bool,
}

/// What a statement follows, if it does that: `SUBSCRIBE [TO] VIEW [WITH (SNAPSHOT = false, TOKEN = '…')]`.
///
/// # Errors
/// `Invalid` for one that is not whole.
pub(in crate::postgres) fn subscription(text: &str) -> Result<Option<Subscription>> {
    const WHOLE: &str = "SUBSCRIBE VIEW [WITH (SNAPSHOT = false, TOKEN = '…')]";
    let whole = || incomplete(WHOLE);
    let Some(mut words) = Words::new(text) else {
        return Ok(None);
    };
    if !words.take(&["subscribe"]) {
        return Ok(None);
    }
    words.take(&["to"]);
    let path = words.path().ok_or_else(whole)?;
    let view = match path.split_once('.') {
        None => path,
        Some(("public", name)) => name.to_owned(),
        Some(_) => {
            return Err(Error::Invalid(format!(
                "`{path}` can't be followed: of a view the generation that answers is; write its name alone"
            )));
        }
    };
    let mut wanted = Subscription {
        view,
        token: None,
        snapshot: true,
    };
    if words.take(&["with"]) {
        if !words.take_token(&Token::LParen) {
            return Err(whole());
        }
        while !words.take_token(&Token::RParen) {
            let option = words.name().ok_or_else(whole)?;
            words.take_token(&Token::Eq);
            match option.as_str() {
                "snapshot" if words.take(&["false"]) => wanted.snapshot = false,
                "snapshot" => {
                    words.take(&["true"]);
                }
                "token" => wanted.token = Some(words.quoted().ok_or_else(whole)?),
                _ => return Err(whole()),
            }
            words.take_token(&Token::Comma);
        }
    }
    words.take_token(&Token::SemiColon);
    match words.is_over() {
        true => Ok(Some(wanted)),
        false => Err(whole()),
    }
}
