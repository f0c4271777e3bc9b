//! What a view is defined by, and when two definitions are one and the same.

use serde::{Deserialize, Serialize};

use crate::Topic;
use crate::reference::Reference;

/// A view's definition: what it computes. Two definitions that are equal compute the same; of two that
/// are not, [`Definition::is_same_query`] and [`Definition::makes_same_states`] tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The view's SQL, as its author wrote it.
    pub sql: String,
    /// The topic that it reads, as declared when the view was planned.
    pub topic: Topic,
    /// The session settings that it was planned under.
    pub settings: Vec<(String, String)>,
    /// The format of its states: functions, the numbers of their forms, and argument types.
    pub state_format: String,
    /// The references that it joins facts with, as declared when the view was planned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
}

impl Definition {
    /// Whether both are one query: the same text but for white space at its ends, planned under the same
    /// settings over the same topic.
    ///
    /// The text is not read: white space within it, small and capital letters and comments make another
    /// query. To take the same for another costs a rebuild, to take another for the same would be a
    /// wrong answer. Fields of the topic may differ: they are only ever added, at the end, and facts from
    /// before have NULL there. Where a new field means that the same text computes something else, as
    /// that of `SELECT *` does, the formats of the states differ, which are not looked at here.
    pub fn is_same_query(&self, other: &Self) -> bool {
        self.sql.trim() == other.sql.trim()
            && self.settings == other.settings
            && self.topic.name == other.topic.name
            && self.meets_as(other)
    }

    /// Whether both meet the same rows of references.
    fn meets_as(&self, other: &Self) -> bool {
        self.references.len() == other.references.len() && self.meets_those_of(other)
    }

    /// Whether each reference that this one meets has the same rows as the other's of its name.
    pub(super) fn meets_those_of(&self, other: &Self) -> bool {
        let same = |own: &Reference| other.references.iter().any(|r| r.has_same_rows(own));
        self.references.iter().all(same)
    }

    /// Whether states of the one are states of the other: the same query, in the same format.
    pub fn makes_same_states(&self, other: &Self) -> bool {
        self.is_same_query(other) && self.state_format == other.state_format
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{FieldReads, FieldType};
    use crate::view::View;
    use crate::{Result, TopicField};

    const SQL: &str = "SELECT word, count(*) AS facts FROM facts GROUP BY word";

    fn topic(name: &str, fields: &[&str]) -> Topic {
        let field = |name: &str, field_type, nullable| TopicField {
            name: name.to_owned(),
            field_type,
            nullable,
            reads: FieldReads::default(),
        };
        let time = field("ts", FieldType::Timestamp, false);
        let texts = fields.iter().map(|f| field(f, FieldType::Varchar, true));
        Topic {
            name: name.to_owned(),
            event_time: "ts".to_owned(),
            fields: std::iter::once(time).chain(texts).collect(),
        }
    }

    fn defined(sql: &str, topic: &Topic) -> Result<Definition> {
        Ok(View::compile("v", sql, topic)?.definition().clone())
    }

    #[test]
    fn text_is_the_same_but_for_its_ends() -> Result<()> {
        let facts = topic("facts", &["word"]);
        let own = defined(SQL, &facts)?;
        let same = |sql: &str| -> Result<bool> {
            let other = defined(sql, &facts)?;
            let same = own.is_same_query(&other);
            assert_eq!(same, other.is_same_query(&own));
            assert_eq!(same, own.makes_same_states(&other));
            Ok(same)
        };
        assert!(same(SQL)?);
        assert!(same(&format!("\n  {SQL}\t\n\n"))?);
        assert!(!same(&SQL.replace(" FROM", "\nFROM"))?);
        assert!(!same(&SQL.replace("SELECT", "select"))?);
        assert!(!same(&format!("{SQL} -- by word"))?);
        assert!(!same(&SQL.replace("AS facts", "AS n"))?);
        assert!(!same(&SQL.replace("count(*)", "count(word)"))?);
        Ok(())
    }

    #[test]
    fn a_field_that_is_added_and_not_read_changes_nothing() -> Result<()> {
        let (before, after) = (topic("facts", &["word"]), topic("facts", &["word", "new"]));
        let (old, new) = (defined(SQL, &before)?, defined(SQL, &after)?);
        assert!(old != new && old.makes_same_states(&new));
        // What reads all fields reads that one, too.
        let all = "SELECT * FROM facts";
        let (old, new) = (defined(all, &before)?, defined(all, &after)?);
        assert!(old.is_same_query(&new) && !old.makes_same_states(&new));
        Ok(())
    }

    #[test]
    fn topic_settings_and_format_count() -> Result<()> {
        let facts = topic("facts", &["word"]);
        let view = View::compile("v", SQL, &facts)?;
        let own = view.definition();
        assert!(view.is_of(own));
        let mut other = own.clone();
        other.topic.name = "others".to_owned();
        assert!(!own.is_same_query(&other) && !view.is_of(&other));
        let mut other = own.clone();
        other.settings.push(("time_zone".into(), "+01:00".into()));
        assert!(!own.is_same_query(&other) && !view.is_of(&other));
        let mut other = own.clone();
        other.state_format.push('x');
        assert!(own.is_same_query(&other) && !own.makes_same_states(&other));
        assert!(!view.is_of(&other));
        Ok(())
    }
}
