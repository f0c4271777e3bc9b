//! What a user may do, as a users file says it: `read PATTERN`, `read PATTERN where COLUMN = 'VALUE'`,
//! `ingest PATTERN`, `board PATTERN`, `operate`, `admin`.

use std::fmt;
use std::str::FromStr;

use anabranch_shared::{Error, Result};
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Ident, Value};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use glob::Pattern;

/// One thing that a user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Right {
    /// Query relations with a name like that: of all rows, or of those that a condition chooses.
    Read(Pattern, Option<RowFilter>),
    /// Send facts of topics with a name like that.
    Ingest(Pattern),
    /// See boards with a name like that, whatever they show.
    Board(Pattern),
    /// See how the daemon is, and end what others do.
    Operate,
    /// Everything.
    Admin,
}

/// The rows of a relation whose column has one of some values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowFilter {
    pub(crate) column: String,
    /// As text, which is read as a value of the column's type.
    pub(crate) values: Vec<String>,
}

/// Which rows of a relation somebody may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rows<'a> {
    None,
    All,
    /// Those that one of these chooses.
    Chosen(Vec<&'a RowFilter>),
}

/// What a user may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights(Vec<Right>);

impl Rights {
    /// Everything.
    pub fn all() -> Self {
        Self(vec![Right::Admin])
    }

    /// Reads what a user may do, each as it is written.
    ///
    /// # Errors
    /// `Invalid` for what is no right, with what one looks like.
    pub fn parse<S: AsRef<str>>(written: &[S]) -> Result<Self> {
        let rights = written.iter().map(|text| text.as_ref().parse());
        Ok(Self(rights.collect::<Result<_>>()?))
    }

    /// Whether the user may query a relation. Generations of a view, such as `candidate.words`, go by
    /// the view's name.
    pub fn may_read(&self, relation: &str) -> bool {
        self.rows(relation) != Rows::None
    }

    /// Whether the user may query all rows of a relation.
    pub fn may_read_whole(&self, relation: &str) -> bool {
        self.rows(relation) == Rows::All
    }

    /// Which rows of a relation the user may read.
    pub(crate) fn rows(&self, relation: &str) -> Rows<'_> {
        let name = relation.rsplit_once('.').map_or(relation, |(_, name)| name);
        if name.starts_with('_') && !self.is_admin() {
            return Rows::None;
        }
        let mut chosen = Vec::new();
        for right in &self.0 {
            match right {
                Right::Admin => return Rows::All,
                Right::Read(pattern, filter) if pattern.matches(name) => match filter {
                    None => return Rows::All,
                    Some(filter) => chosen.push(filter),
                },
                _ => {}
            }
        }
        match chosen.is_empty() {
            true => Rows::None,
            false => Rows::Chosen(chosen),
        }
    }

    /// Whether the user may query all rows of whatever there is.
    pub fn may_read_all(&self) -> bool {
        self.is_admin()
    }

    /// Whether of some relation the user may read some rows and not others.
    pub(crate) fn has_filters(&self) -> bool {
        let reads_all =
            |right: &Right| matches!(right, Right::Read(pattern, None) if pattern.as_str() == "*");
        let mut rights = self.0.iter();
        !self.is_admin()
            && !self.0.iter().any(reads_all)
            && rights.any(|right| matches!(right, Right::Read(_, Some(_))))
    }

    /// Whether the user may send facts of a topic. What the daemon writes itself nobody sends.
    pub fn may_ingest(&self, topic: &str) -> bool {
        let is_own = topic.starts_with('_');
        self.0.iter().any(|right| match right {
            Right::Ingest(pattern) => pattern.matches(topic) && !is_own,
            Right::Admin => !is_own,
            Right::Read(..) | Right::Board(_) | Right::Operate => false,
        })
    }

    /// Whether the user may see all of a board, whatever else they may read.
    pub fn may_see_board(&self, board: &str) -> bool {
        self.0.iter().any(|right| match right {
            Right::Board(pattern) => pattern.matches(board),
            Right::Admin => true,
            Right::Read(..) | Right::Ingest(_) | Right::Operate => false,
        })
    }

    /// Whether the user may query something.
    pub fn may_read_something(&self) -> bool {
        let reads = |right: &Right| matches!(right, Right::Read(..) | Right::Admin);
        self.0.iter().any(reads)
    }

    /// Whether the user may see how the daemon is, and end what others do.
    pub fn may_operate(&self) -> bool {
        self.is_admin() || self.0.contains(&Right::Operate)
    }

    /// Whether the user may do everything.
    pub fn is_admin(&self) -> bool {
        self.0.contains(&Right::Admin)
    }

    /// Each right as it is written.
    pub fn written(&self) -> Vec<String> {
        self.0.iter().map(Right::to_string).collect()
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(pattern, None) => write!(f, "read {pattern}"),
            Self::Read(pattern, Some(filter)) => write!(f, "read {pattern} where {filter}"),
            Self::Ingest(pattern) => write!(f, "ingest {pattern}"),
            Self::Board(pattern) => write!(f, "board {pattern}"),
            Self::Operate => f.write_str("operate"),
            Self::Admin => f.write_str("admin"),
        }
    }
}

impl fmt::Display for RowFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = Ident::with_quote('"', &self.column);
        let quoted = |value: &String| format!("'{}'", value.replace('\'', "''"));
        match self.values.as_slice() {
            [one] => write!(f, "{column} = {}", quoted(one)),
            several => {
                let several: Vec<String> = several.iter().map(quoted).collect();
                write!(f, "{column} IN ({})", several.join(", "))
            }
        }
    }
}

impl FromStr for RowFilter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = Parser::new(&PostgreSqlDialect {})
            .try_with_sql(text)
            .and_then(|mut parser| {
                let expr = parser.parse_expr()?;
                parser.expect_token(&Token::EOF)?;
                Ok(expr)
            });
        let parsed = parsed.map_err(|e| Error::Invalid(format!("`{text}`: {e}")))?;
        let column = |expr: &Expr| match expr {
            Expr::Identifier(name) if name.quote_style.is_some() => Some(name.value.clone()),
            Expr::Identifier(name) => Some(name.value.to_lowercase()),
            _ => None,
        };
        let value = |expr: &Expr| match expr {
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) => Some(text.clone()),
                Value::Number(number, _) => Some(number.clone()),
                Value::Boolean(truth) => Some(truth.to_string()),
                _ => None,
            },
            _ => None,
        };
        let found = match &parsed {
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Eq,
                right,
            } => column(left).zip(value(right).map(|value| vec![value])),
            Expr::InList {
                expr,
                list,
                negated: false,
            } => column(expr).zip(list.iter().map(value).collect()),
            _ => None,
        };
        let (column, values) = found.ok_or_else(|| {
            Error::Invalid(format!(
                "`{text}` chooses no rows; write `COLUMN = 'VALUE'` or `COLUMN IN ('VALUE', …)`"
            ))
        })?;
        Ok(Self { column, values })
    }
}

impl FromStr for Right {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (text, condition) = match text.split_once(" where ") {
            Some((right, condition)) => (right, Some(condition.trim())),
            None => (text, None),
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let pattern = |word: &str| {
            Pattern::new(word).map_err(|e| Error::Invalid(format!("`{text}`: `{word}`: {e}")))
        };
        match words.as_slice() {
            ["read", name] => {
                let filter = condition.map(str::parse).transpose()?;
                Ok(Self::Read(pattern(name)?, filter))
            }
            _ if condition.is_some() => Err(Error::Invalid(format!(
                "`{text}` takes no condition; `read NAME where COLUMN = 'VALUE'` does"
            ))),
            ["ingest", name] => Ok(Self::Ingest(pattern(name)?)),
            ["board", name] => Ok(Self::Board(pattern(name)?)),
            ["operate"] => Ok(Self::Operate),
            ["admin"] => Ok(Self::Admin),
            _ => Err(Error::Invalid(format!(
                "`{text}` is no right; write `read NAME`, `read NAME where COLUMN = 'VALUE'`, `ingest NAME`, `board NAME`, `operate` or `admin`, where NAME is a view's, a topic's or a board's and `*` stands for any characters"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn rights_go_by_name() {
        let rights = Rights::parse(&["read page_*", "ingest events"]).unwrap();
        for (relation, may) in [
            ("page_views", true),
            ("candidate.page_views", true),
            ("g7.page_views", true),
            ("pages", false),
            ("events", false),
            ("jobs", false),
            ("page_.secret", false),
        ] {
            assert_eq!(rights.may_read(relation), may, "{relation}");
        }
        assert!(rights.may_ingest("events") && !rights.may_ingest("page_views"));
        assert!(!rights.may_operate() && !rights.is_admin() && !rights.may_read_all());
        assert_eq!(rights.written(), ["read page_*", "ingest events"]);
        let all = Rights::all();
        assert!(all.may_read("jobs") && all.may_ingest("events") && all.may_operate());
        // What the daemon writes itself is for those who may do everything, and nobody sends it.
        let most = Rights::parse(&["read *", "ingest *"]).unwrap();
        assert!(all.may_read("_audit") && !most.may_read("_audit") && most.may_read("x"));
        assert!(!all.may_ingest("_audit") && !most.may_ingest("_audit"));
        let none = Rights::default();
        assert!(!none.may_read("x") && !none.may_ingest("x") && !none.may_operate());
    }

    #[test]
    fn rows_are_chosen_by_a_column() {
        let written = [
            "read page_* where \"site\" = 'it''s'",
            "read page_* where \"Site\" IN ('a', 'b')",
            "read words",
            "read words where \"n\" = '7'",
        ];
        let rights = Rights::parse(&written).unwrap();
        assert_eq!(rights.written(), written);
        let filter = |column: &str, values: &[&str]| RowFilter {
            column: column.to_owned(),
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        };
        let (one, two) = (filter("site", &["it's"]), filter("Site", &["a", "b"]));
        let chosen = Rows::Chosen(vec![&one, &two]);
        assert_eq!(rights.rows("candidate.page_views"), chosen);
        // Who may read all of it is not asked which rows.
        assert_eq!(rights.rows("words"), Rows::All);
        assert_eq!(rights.rows("other"), Rows::None);
        assert!(rights.has_filters() && !rights.may_read_all());
        assert!(
            !Rights::parse(&["read *", "read x where a = 1"])
                .unwrap()
                .has_filters()
        );
        let short = Rights::parse(&["read x where SITE = 7"]).unwrap();
        assert_eq!(short.rows("x"), Rows::Chosen(vec![&filter("site", &["7"])]));
        for wrong in [
            "read x where",
            "read x where site",
            "read x where site > 'a'",
            "read x where site NOT IN ('a')",
            "read x where site = 'a' OR true",
            "read x where lower(site) = 'a'",
            "read x where site = other",
            "read x where site = 'a'; SELECT 1",
            "ingest x where site = 'a'",
        ] {
            assert!(Rights::parse(&[wrong]).is_err(), "{wrong}");
        }
    }

    /// A wall sees its board, and nothing else.
    #[test]
    fn boards_go_by_name() {
        let wall = Rights::parse(&["board news*"]).unwrap();
        assert!(wall.may_see_board("newsroom") && !wall.may_see_board("sales"));
        assert!(!wall.may_read_something() && !wall.may_read("x") && !wall.may_operate());
        assert_eq!(wall.written(), ["board news*"]);
        let reader = Rights::parse(&["read *", "operate"]).unwrap();
        assert!(!reader.may_see_board("newsroom") && reader.may_read_something());
        assert!(Rights::all().may_see_board("newsroom") && Rights::all().may_read_something());
    }

    #[test]
    fn what_is_no_right_is_refused() {
        for wrong in [
            "", "read", "write x", "read a b", "READ x", "read [", "admin x",
        ] {
            assert!(Rights::parse(&[wrong]).is_err(), "{wrong}");
        }
    }
}
