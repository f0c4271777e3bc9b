//! Boards: panels of SQL for people to leave open, each a file `boards/NAME.toml` of the project.

use std::path::Path;

use anabranch_shared::{Error, Result, nearest};
use serde::{Deserialize, Serialize};

/// The folder of the project in which they are.
const FOLDER: &str = "boards";

/// The largest file that is read, in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// The most panels of a board.
const MOST_PANELS: usize = 40;

/// Panels that are looked at together.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// What it is called.
    pub title: String,
    /// Its panels, in their order.
    #[serde(default)]
    pub panels: Vec<Panel>,
}

/// A question, and how its answer is drawn.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Panel {
    /// What it is called.
    pub title: String,
    /// How its answer is drawn.
    pub form: Form,
    /// The question; in the file this or the next.
    #[serde(default, skip_serializing)]
    pub sql: String,
    /// A file of the project that holds the question.
    #[serde(default, skip_serializing)]
    file: Option<String>,
    /// Of what its numbers are, such as `views`.
    pub unit: Option<String>,
    /// The column that names rows; the first that is no number where there is none.
    pub label: Option<String>,
    /// The column that is drawn; the first number where there is none.
    pub value: Option<String>,
    /// The column with what is usual, of a benchmark.
    pub usual: Option<String>,
    /// Whether it takes the whole width.
    #[serde(default)]
    pub wide: bool,
}

/// How an answer is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// One number, large.
    Number,
    /// Lines over a time.
    Series,
    /// Bars, the rows in their order.
    Ranking,
    /// The rows as they are.
    Table,
    /// Each value beside what is usual.
    Benchmark,
}

/// The boards of a project, in order of their names.
///
/// # Errors
/// `Unavailable` where the folder can't be read.
pub fn names(project: &Path) -> Result<Vec<String>> {
    let folder = project.join(FOLDER);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(&folder, e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| Error::io(&folder, e))?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".toml"));
        names.extend(name.filter(|name| is_name(name)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Whether a board may be called so: its name is part of a path and of an address.
fn is_name(name: &str) -> bool {
    let may_be = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.is_empty() && name.chars().all(may_be)
}

/// Reads a board, as its file is now.
///
/// # Errors
/// `NotFound` where there is none; `Invalid` where its file is none, with the place.
pub fn read(project: &Path, name: &str) -> Result<Board> {
    let all = names(project)?;
    if !all.iter().any(|known| known == name) {
        let near = nearest(name, all.iter().map(String::as_str));
        return Err(Error::NotFound(format!(
            "no board `{}`{}; boards are files `{FOLDER}/NAME.toml` of the project",
            name.escape_debug(),
            near.map_or(String::new(), |near| format!("; did you mean `{near}`?")),
        )));
    }
    let shown = format!("{FOLDER}/{name}.toml");
    let text = read_text(&project.join(&shown))?;
    let mut board: Board = toml::from_str(&text)
        .map_err(|e| Error::Invalid(format!("`{shown}`: {}", e.to_string().trim_end())))?;
    if board.panels.len() > MOST_PANELS {
        return Err(Error::Invalid(format!(
            "`{shown}` has {} panels, and {MOST_PANELS} are the most; make two boards of it",
            board.panels.len()
        )));
    }
    for panel in &mut board.panels {
        let wrong =
            |what: &str| Error::Invalid(format!("`{shown}`: panel `{}` {what}", panel.title));
        panel.sql = match (panel.sql.trim(), &panel.file) {
            ("", Some(file)) => read_text(&within(project, file, &shown)?)?,
            (sql, None) if !sql.is_empty() => sql.to_owned(),
            ("", None) => return Err(wrong("asks nothing; give it `sql` or `file`")),
            _ => return Err(wrong("has both `sql` and `file`; leave one out")),
        };
    }
    Ok(board)
}

/// The path of a file that lies in the project.
fn within(project: &Path, file: &str, of: &str) -> Result<std::path::PathBuf> {
    let plain = |part| matches!(part, std::path::Component::Normal(_));
    let path = Path::new(file);
    match !file.is_empty() && path.components().all(plain) {
        true => Ok(project.join(path)),
        false => Err(Error::Invalid(format!(
            "`{of}`: `{}` is no file of the project; write a path such as `questions/x.sql`",
            file.escape_debug()
        ))),
    }
}

fn read_text(path: &Path) -> Result<String> {
    let failed = |e| Error::io(path, e);
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > MOST_BYTES {
        return Err(Error::Invalid(format!(
            "`{}` has {bytes} bytes, and a board or a question {MOST_BYTES} at most",
            path.display()
        )));
    }
    std::fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn project(board: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(FOLDER)).unwrap();
        std::fs::write(dir.path().join("boards/news.toml"), board).unwrap();
        std::fs::write(dir.path().join("q.sql"), "SELECT 2").unwrap();
        dir
    }

    #[test]
    fn boards_are_read_with_their_questions() {
        let dir = project(
            "title = \"News\"\n[[panels]]\ntitle = \"a\"\nform = \"number\"\nsql = \"SELECT 1\"\n[[panels]]\ntitle = \"b\"\nform = \"table\"\nfile = \"q.sql\"\nwide = true\n",
        );
        std::fs::write(dir.path().join("boards/a b.toml"), "").unwrap();
        assert_eq!(names(dir.path()).unwrap(), ["news"]);
        let board = read(dir.path(), "news").unwrap();
        let asked: Vec<&str> = board.panels.iter().map(|p| p.sql.as_str()).collect();
        assert_eq!(asked, ["SELECT 1", "SELECT 2"]);
        assert!(board.panels[1].wide && board.panels[0].form == Form::Number);
        for wrong in ["nwes", "../news", "a b", ""] {
            let e = read(dir.path(), wrong).unwrap_err();
            assert!(matches!(e, Error::NotFound(_)), "{wrong}: {e}");
        }
        assert!(
            read(dir.path(), "new")
                .unwrap_err()
                .to_string()
                .contains("`news`")
        );
        assert!(names(&dir.path().join("nowhere")).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_board_says_where() {
        for (board, part) in [
            ("titel = \"x\"", "titel"),
            (
                "title = \"x\"\n[[panels]]\ntitle = \"a\"\nform = \"pie\"\nsql = \"SELECT 1\"",
                "pie",
            ),
            (
                "title = \"x\"\n[[panels]]\ntitle = \"a\"\nform = \"table\"",
                "asks nothing",
            ),
            (
                "title = \"x\"\n[[panels]]\ntitle = \"a\"\nform = \"table\"\nsql = \"SELECT 1\"\nfile = \"q.sql\"",
                "both",
            ),
            (
                "title = \"x\"\n[[panels]]\ntitle = \"a\"\nform = \"table\"\nfile = \"../../etc/passwd\"",
                "no file of the project",
            ),
            (
                "title = \"x\"\n[[panels]]\ntitle = \"a\"\nform = \"table\"\nfile = \"/etc/passwd\"",
                "no file of the project",
            ),
        ] {
            let dir = project(board);
            let e = read(dir.path(), "news").unwrap_err().to_string();
            assert!(e.contains(part) && e.contains("boards/news.toml"), "{e}");
        }
    }
}
