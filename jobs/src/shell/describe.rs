//! Owns the texts of `\d` and its kin: which relations there are, and what their columns are.

use anabranch_serving::{ColumnInfo, RelationInfo};
use anabranch_shared::{Error, Result};

use super::command::{Describe, Kinds};
use super::near::nearest;
use crate::output::{human_count, rows_table};

/// The text that answers a `\d…`.
///
/// # Errors
/// `NotFound` where no relation has the name.
pub(super) fn text(relations: &[RelationInfo], wanted: &Describe) -> Result<String> {
    let mut of_kinds: Vec<&RelationInfo> = relations
        .iter()
        .filter(|relation| wanted.kinds.hold(relation))
        .collect();
    of_kinds.sort_by(|a, b| (rank(a), &a.name).cmp(&(rank(b), &b.name)));
    let Some(name) = &wanted.name else {
        return Ok(list(&of_kinds, wanted.more));
    };
    let found = named(&of_kinds, name);
    if found.is_empty() {
        return Err(missing(&of_kinds, name));
    }
    if wanted.kinds != Kinds::All {
        return Ok(list(&found, wanted.more));
    }
    let texts: Vec<String> = found.iter().map(|r| columns(r, wanted.more)).collect();
    Ok(texts.join("\n"))
}

impl Kinds {
    fn hold(self, relation: &RelationInfo) -> bool {
        match self {
            Self::All => true,
            Self::Tables => relation.kind != "view",
            Self::Views => relation.kind == "view",
        }
    }
}

/// Topics first, then what is made of them, then the project's own tables.
fn rank(relation: &RelationInfo) -> u8 {
    match relation.kind.as_str() {
        "topic" => 0,
        "view" => 1,
        _ => 2,
    }
}

fn list(relations: &[&RelationInfo], more: bool) -> String {
    if relations.is_empty() {
        return "there are none yet\n".to_owned();
    }
    let row = |relation: &&RelationInfo| {
        let mut row = vec![
            relation.name.clone(),
            relation.kind.clone(),
            human_count(relation.columns.len() as u64),
        ];
        if more {
            row.push(relation.topic.clone().unwrap_or_default());
            let keys = relation.columns.iter().filter(|c| is_key(c));
            row.push(keys.map(|c| c.name.as_str()).collect::<Vec<_>>().join(", "));
        }
        row
    };
    let heads: &[&str] = match more {
        true => &["name", "kind", "columns", "reads", "keys"],
        false => &["name", "kind", "columns"],
    };
    rows_table(heads, relations.iter().map(row).collect())
}

fn is_key(column: &ColumnInfo) -> bool {
    column.role.as_deref() == Some("key")
}

/// The relations that a name means: exactly, else in whatever case, else by `*` and `?`.
fn named<'r>(relations: &[&'r RelationInfo], name: &str) -> Vec<&'r RelationInfo> {
    let is_exact = |relation: &&&RelationInfo| relation.name == name;
    if let Some(exact) = relations.iter().find(is_exact) {
        return vec![exact];
    }
    let matches =
        |relation: &&&RelationInfo| matches(&name.to_lowercase(), &relation.name.to_lowercase());
    relations.iter().filter(matches).copied().collect()
}

/// Whether a text is that of a pattern, in which `*` is any text and `?` any character.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    // Where the last `*` stands, and up to where of the text it has been tried.
    let mut star: Option<(usize, usize)> = None;
    let (mut p, mut t) = (0, 0);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, tried)) => {
                    star = Some((at, tried + 1));
                    (p, t) = (at + 1, tried + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

fn missing(relations: &[&RelationInfo], name: &str) -> Error {
    let known = relations.iter().map(|relation| relation.name.as_str());
    let near = match nearest(name, known) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => String::new(),
    };
    Error::NotFound(format!(
        "there is no relation `{name}`{near} (`\\d` lists them)"
    ))
}

fn columns(relation: &RelationInfo, more: bool) -> String {
    let over = match &relation.topic {
        Some(topic) => format!(" over {topic}"),
        None => String::new(),
    };
    let mut text = format!("{} {}{over}\n", relation.kind, relation.name);
    let has_roles = relation.columns.iter().any(|c| c.role.is_some());
    let has_not_null = relation.columns.iter().any(|c| !c.nullable);
    let mut heads = vec!["column", "type"];
    if has_not_null {
        heads.push("null");
    }
    if has_roles {
        heads.extend(["made by", "value", "combine"]);
    }
    let row = |column: &ColumnInfo| {
        let mut row = vec![column.name.clone(), column.sql_type.clone()];
        if has_not_null {
            let null = if column.nullable { "" } else { "not null" };
            row.push(null.to_owned());
        }
        if has_roles {
            row.extend(made_by(column));
        }
        row
    };
    text += &rows_table(&heads, relation.columns.iter().map(row).collect());
    if let (true, Some(sql)) = (more, &relation.sql) {
        text += "sql\n";
        for line in sql.trim().lines() {
            text += format!("  {line}").trim_end();
            text += "\n";
        }
    }
    text
}

/// What a column of a view is, what its value can be trusted for, and whether `combine` takes it.
fn made_by(column: &ColumnInfo) -> [String; 3] {
    let function = column.function.as_ref().or(column.role.as_ref());
    let combines = match (&column.function, column.combines) {
        (None, _) => "",
        (Some(_), true) => "yes",
        (Some(_), false) => "no",
    };
    [
        function.cloned().unwrap_or_default(),
        column.exactness.clone().unwrap_or_default(),
        combines.to_owned(),
    ]
}
