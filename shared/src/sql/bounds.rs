//! How large a statement may be, looked at before it is parsed and before it is planned: parser and
//! planner go down as deep as a statement goes, and take longer than in proportion to its size.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, ObjectName, Query, Select, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::{Error, Result};

/// Brackets within brackets, and types within types. The parser itself stops expressions at 50.
const DEEPEST: usize = 64;

/// How large a statement may be.
#[derive(Clone, Copy, Debug)]
pub struct StatementBounds {
    /// Bytes of its text.
    pub bytes: usize,
    /// Names, keywords and operators in it. Literals, commas and parentheses don't count. What is
    /// in a `WITH` counts as often as it is used.
    pub terms: usize,
}

impl Default for StatementBounds {
    fn default() -> Self {
        Self {
            bytes: 1_000_000,
            terms: 5_000,
        }
    }
}

impl StatementBounds {
    /// Looks at a statement's text, token by token.
    ///
    /// # Errors
    /// `Invalid` where it is too long, has too many terms or goes too deep.
    pub fn check_text(&self, dialect: &dyn Dialect, text: &str) -> Result<()> {
        if text.len() > self.bytes {
            return Err(Error::Invalid(format!(
                "the statement has {} bytes; at most {} are taken (`max_statement_bytes` in `[query]`)",
                text.len(),
                self.bytes
            )));
        }
        // What is no SQL is the parser's to say.
        let Ok(tokens) = Tokenizer::new(dialect, text).tokenize() else {
            return Ok(());
        };
        let mut terms = 0;
        let mut depth = 0_usize;
        // `[]` after `[]`, and `ARRAY<` within `ARRAY<`, make types deeper without any nesting of
        // brackets that closes late.
        let (mut dimensions, mut generics) = (0, 0);
        let mut before: [Option<&Token>; 2] = [None, None];
        for token in tokens.iter().filter(|t| !matches!(t, Token::Whitespace(_))) {
            match token {
                Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
                Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
                _ => {}
            }
            match token {
                Token::LBracket if !matches!(before[1], Some(Token::RBracket)) => dimensions = 1,
                Token::LBracket => dimensions += 1,
                Token::Lt if before[1].is_some_and(names_a_type) => generics += 1,
                _ => {}
            }
            if depth.max(dimensions).max(generics) > DEEPEST {
                return Err(Error::Invalid(format!(
                    "the statement goes deeper than {DEEPEST} brackets or types within each other; write parts of it in a WITH"
                )));
            }
            terms += usize::from(is_term(token));
            before = [before[1], Some(token)];
        }
        self.check_terms(terms)
    }

    /// Looks at how large a statement becomes once each use of a `WITH` is written out, as the
    /// planner does.
    ///
    /// # Errors
    /// `Invalid` where that has too many terms.
    pub fn check_uses(&self, statement: &Statement) -> Result<()> {
        let mut uses = Uses {
            most: self.terms,
            ..Default::default()
        };
        let visited = match statement {
            Statement::Statement(sql) => sql.visit(&mut uses),
            Statement::Explain(explain) => return self.check_uses(&explain.statement),
            _ => ControlFlow::Continue(()),
        };
        match visited {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(terms) => self.check_terms(terms),
        }
    }

    fn check_terms(&self, terms: usize) -> Result<()> {
        match terms > self.terms {
            true => Err(Error::Invalid(format!(
                "the statement has more than {} names, keywords and operators, counting what is in a WITH as often as it is used (`max_terms` in `[query]`); take it apart, or write lists of literals as IN (…) or VALUES",
                self.terms
            ))),
            false => Ok(()),
        }
    }
}

fn is_term(token: &Token) -> bool {
    match token {
        Token::Comma | Token::LParen | Token::RParen | Token::RBracket | Token::RBrace => false,
        Token::SemiColon | Token::EOF | Token::Number(..) | Token::Period => false,
        // Texts of all kinds: a bound on them is that of bytes.
        Token::SingleQuotedString(_) | Token::EscapedStringLiteral(_) => false,
        _ => true,
    }
}

/// Whether a `<` after this word begins the arguments of a type.
fn names_a_type(token: &Token) -> bool {
    let Token::Word(word) = token else {
        return false;
    };
    let types = [
        "array", "struct", "map", "nullable", "list", "tuple", "nested",
    ];
    types.iter().any(|t| word.value.eq_ignore_ascii_case(t))
}

/// Counts expressions, relations and queries, those of a `WITH` where they are used.
#[derive(Default)]
struct Uses {
    most: usize,
    /// What each query that is being visited comes to so far, the innermost last.
    open: Vec<usize>,
    /// For each of them what the names of its `WITH` come to.
    names: Vec<HashMap<String, usize>>,
    /// Queries that stand in a `WITH`, by their address, and their names.
    with: HashMap<usize, String>,
}

impl Uses {
    fn add(&mut self, terms: usize) -> ControlFlow<usize> {
        let Some(open) = self.open.last_mut() else {
            return ControlFlow::Continue(());
        };
        *open = open.saturating_add(terms);
        match *open > self.most {
            true => ControlFlow::Break(*open),
            false => ControlFlow::Continue(()),
        }
    }
}

fn address(query: &Query) -> usize {
    std::ptr::from_ref(query).addr()
}

impl Visitor for Uses {
    type Break = usize;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<usize> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            let name = cte.alias.name.value.to_lowercase();
            self.with.insert(address(&cte.query), name);
        }
        self.open.push(1);
        self.names.push(HashMap::new());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<usize> {
        let terms = self.open.pop().unwrap_or_default();
        self.names.pop();
        match (self.with.remove(&address(query)), self.names.last_mut()) {
            (Some(name), Some(names)) => {
                names.insert(name, terms);
                ControlFlow::Continue(())
            }
            _ => self.add(terms),
        }
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<usize> {
        let name = relation.to_string().replace('"', "").to_lowercase();
        let of = self.names.iter().rev().find_map(|names| names.get(&name));
        let terms = of.map_or(1, |terms| terms + 1);
        self.add(terms)
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<usize> {
        self.add(select.projection.len() + select.from.len())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<usize> {
        self.add(usize::from(!matches!(expr, Expr::Value(_))))
    }
}
