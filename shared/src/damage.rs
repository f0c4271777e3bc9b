//! Damage to what is stored: an error that names the file and says what makes it whole again.

use std::fmt::Display;

use crate::Error;

/// A file of the storage, by its path below it, is damaged.
pub fn damaged(path: impl Display, what: impl Display) -> Error {
    let path = path.to_string();
    Error::Corrupt(format!("`{path}` is damaged: {what}; {}", way_back(&path)))
}

/// A file of the storage that others name is not there.
pub fn lost(path: impl Display) -> Error {
    let path = path.to_string();
    Error::Corrupt(format!(
        "`{path}` is missing; if a query took longer than `grace`, run it again, else {}",
        way_back(&path)
    ))
}

/// What makes a file of the storage whole again.
fn way_back(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    let is_checkpoint = path.ends_with(".checkpoint.parquet");
    match parts.as_slice() {
        ["views", view, "export", ..] => format!(
            "move `views/{view}/export` away and run `anabranch batch rebuild {view}`, which writes the export anew"
        ),
        ["views", view, ..] => {
            format!("`anabranch batch rebuild {view}` makes the view anew from the log")
        }
        _ if is_checkpoint => "restore it from a backup, or remove it where the entries of the table before it are still there".into(),
        ["topics", topic, "dead_letters", ..] => {
            format!("restore it from a backup: it is of the dead letters of topic `{topic}`")
        }
        ["topics", topic, ..] => {
            format!("restore it from a backup: it is of the log of topic `{topic}`")
        }
        ["jobs", ..] => {
            "restore it from a backup, or move `jobs` away, which gives up the history of jobs".into()
        }
        _ => "restore it from a backup".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_and_the_way_back() {
        let cases = [
            ("views/v/g1/part-1.parquet", "anabranch batch rebuild v"),
            ("views/v/export/part-1.parquet", "views/v/export` away"),
            ("topics/t/log/part-1.parquet", "the log of topic `t`"),
            ("topics/t/dead_letters/x", "the dead letters of topic `t`"),
            ("topics/t/log/_delta_log/1.checkpoint.parquet", "remove it"),
            ("catalogue/1.json", "from a backup"),
            ("jobs/_delta_log/1.json", "move `jobs` away"),
        ];
        for (path, says) in cases {
            for error in [damaged(path, "what"), lost(path)] {
                assert_eq!(error.kind().exit_code(), 65);
                let text = error.to_string();
                assert!(text.contains(path) && text.contains(says), "{text}");
            }
        }
    }
}
