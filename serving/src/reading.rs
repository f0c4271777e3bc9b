//! How a statement reads: how fresh, and in which schemas it looks for a name that has none. A session
//! sets both, a request gives them.

use std::fmt;
use std::str::FromStr;

use anabranch_shared::{Error, Heads, Moment, ReadMode, Result, Role, is_schema_of_generations};

/// The setting that chooses between merged and batch answers.
const READ: &str = "anabranch.read";

/// The setting that says what answers have to have seen.
const AT_LEAST: &str = "anabranch.at_least";

/// The setting that says of which moment answers are.
const AS_OF: &str = "anabranch.as_of";

/// The setting that says whether answers have receipts.
const RECEIPTS: &str = "anabranch.receipts";

/// The setting that says in which schemas names are looked for.
const SEARCH_PATH: &str = "search_path";

/// The schema of topics, of tables, and of views as they answer.
pub(crate) const PUBLIC: &str = "public";

/// How a statement reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// How fresh.
    pub mode: ReadMode,
    /// Where it looks for names without a schema.
    pub search_path: SearchPath,
    /// What its answer has to have seen.
    pub at_least: Heads,
    /// Of which moment its answer is; now, where none is said.
    pub as_of: Option<Moment>,
    /// Whether its answer has a receipt.
    pub receipts: bool,
}

impl From<ReadMode> for Reading {
    fn from(mode: ReadMode) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }
}

/// The schemas in which a name without one is looked for, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchPath(Vec<String>);

impl Default for SearchPath {
    fn default() -> Self {
        Self(vec![PUBLIC.to_owned()])
    }
}

impl SearchPath {
    /// The relations that a name without a schema may mean, the one that it does mean first.
    pub(crate) fn relations(&self, name: &str) -> Vec<String> {
        let relation = |schema: &String| match schema == PUBLIC {
            true => name.to_owned(),
            false => format!("{schema}.{name}"),
        };
        self.0.iter().map(relation).collect()
    }
}

impl fmt::Display for SearchPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl FromStr for SearchPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut schemas = Vec::new();
        for word in text
            .split(',')
            .map(|word| word.trim().trim_matches(['\'', '"']))
        {
            if word != PUBLIC && !is_schema_of_generations(word) {
                let mut known: Vec<&str> = Role::ALL.iter().filter_map(|r| r.schema()).collect();
                known.insert(0, PUBLIC);
                return Err(Error::Invalid(format!(
                    "`{SEARCH_PATH}`: there is no schema `{word}`; write {}, or the number of a generation such as `g7`, with commas between them",
                    known
                        .iter()
                        .map(|k| format!("`{k}`"))
                        .collect::<Vec<_>>()
                        .join(", ")
                )));
            }
            schemas.push(word.to_owned());
        }
        Ok(Self(schemas))
    }
}

/// What a statement asks of a session's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// From now on answers are this fresh.
    Read(ReadMode),
    /// From now on names are looked for there.
    SearchPath(SearchPath),
    /// From now on answers have seen this.
    AtLeast(Heads),
    /// From now on answers are of this moment, or of now.
    AsOf(Option<Moment>),
    /// From now on answers have receipts, or none.
    Receipts(bool),
    /// To be told where names are looked for.
    ShowSearchPath,
}

/// What of a session's settings a statement is about; none where it is another statement.
pub fn setting(sql: &str) -> Option<Result<Setting>> {
    let text = sql.trim().trim_end_matches(';').trim();
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["show", SEARCH_PATH] => return Some(Ok(Setting::ShowSearchPath)),
        ["reset", name] => return initial(name).map(Ok),
        _ => {}
    }
    let rest = without_word(text, "set ")?;
    let rest = without_word(rest, "session ").unwrap_or(rest);
    let (name, rest) = [READ, SEARCH_PATH, AT_LEAST, AS_OF, RECEIPTS]
        .into_iter()
        .find_map(|name| Some((name, without_word(rest, name)?)))?;
    let value = rest
        .strip_prefix('=')
        .or_else(|| without_word(rest, "to "))?;
    let value = value.trim();
    if value.eq_ignore_ascii_case("default") {
        return initial(name).map(Ok);
    }
    let bare = value.trim_matches('\'');
    Some(match name {
        SEARCH_PATH => value.to_lowercase().parse().map(Setting::SearchPath),
        AT_LEAST => bare.parse().map(Setting::AtLeast),
        AS_OF => bare.parse().map(|moment| Setting::AsOf(Some(moment))),
        RECEIPTS => match bare.to_lowercase().as_str() {
            "on" | "true" => Ok(Setting::Receipts(true)),
            "off" | "false" => Ok(Setting::Receipts(false)),
            other => Err(Error::Invalid(format!(
                "`{RECEIPTS}` = `{other}`: write `on` or `off`"
            ))),
        },
        _ => match bare.to_lowercase().as_str() {
            "merged" => Ok(Setting::Read(ReadMode::Merged)),
            "batch" => Ok(Setting::Read(ReadMode::Batch)),
            other => Err(Error::Invalid(format!(
                "`{READ}` = `{other}`: write 'merged' or 'batch'"
            ))),
        },
    })
}

/// What a setting is where nothing was set.
fn initial(name: &str) -> Option<Setting> {
    Some(match name {
        SEARCH_PATH => Setting::SearchPath(SearchPath::default()),
        READ => Setting::Read(ReadMode::default()),
        AT_LEAST => Setting::AtLeast(Heads::default()),
        AS_OF => Setting::AsOf(None),
        RECEIPTS => Setting::Receipts(false),
        _ => return None,
    })
}

/// What follows a word that a text begins with, in whatever letters.
fn without_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (found, rest) = text.split_at_checked(word.len())?;
    found.eq_ignore_ascii_case(word).then(|| rest.trim_start())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    fn path(text: &str) -> SearchPath {
        match setting(text) {
            Some(Ok(Setting::SearchPath(path))) => path,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn settings_are_told_from_statements() {
        assert_eq!(
            path("SET search_path = candidate, public;").to_string(),
            "candidate, public"
        );
        assert_eq!(
            path("set session search_path to 'g7' , \"public\"").to_string(),
            "g7, public"
        );
        for text in [
            "RESET search_path",
            "set search_path TO DEFAULT",
            "set search_path='public'",
        ] {
            assert_eq!(path(text), SearchPath::default());
        }
        assert_eq!(
            path("set search_path = candidate").relations("v"),
            ["candidate.v"]
        );
        let shown = setting("show  Search_Path ;").unwrap();
        assert_eq!(shown.unwrap(), Setting::ShowSearchPath);
        let token = setting("SET anabranch.at_least = 'Facts:0:7'").unwrap();
        assert_eq!(
            token.unwrap(),
            Setting::AtLeast("Facts:0:7".parse().unwrap())
        );
        let moment = setting("Set Session Anabranch.As_Of To '2026-11-28T10:00:00Z';").unwrap();
        let at = "2026-11-28T10:00:00Z".parse().unwrap();
        assert_eq!(moment.unwrap(), Setting::AsOf(Some(at)));
        for now in ["reset anabranch.as_of", "SET anabranch.as_of = DEFAULT"] {
            assert_eq!(setting(now).unwrap().unwrap(), Setting::AsOf(None));
        }
        let batch = setting("SET anabranch.read = 'batch'").unwrap();
        assert_eq!(batch.unwrap(), Setting::Read(ReadMode::Batch));
        for wrong in [
            "SET anabranch.read = 'x'",
            "SET anabranch.at_least = 'x'",
            "SET anabranch.as_of = 'yesterday'",
            "SET search_path = other",
            "SET search_path =",
        ] {
            assert!(setting(wrong).unwrap().is_err(), "{wrong}");
        }
        for other in [
            "SET x = 1",
            "SELECT 1",
            "SHOW TABLES",
            "SET search_pathology = 1",
        ] {
            assert!(setting(other).is_none(), "{other}");
        }
    }
}
