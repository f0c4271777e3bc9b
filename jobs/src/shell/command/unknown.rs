//! Owns what is said of a command that there is not: which one is near, and what to use instead of
//! those that psql has.

use super::super::near;
use super::names;

/// How another project, or another daemon, is asked.
const ANOTHER: &str = "another project is opened with `anabranch --project DIR sql`, a daemon elsewhere with `anabranch sql --url URL`";

/// Commands of psql whose work is done in another way here.
const INSTEAD: [(&str, &str); 9] = [
    ("\\l", "a project is one database: `\\d` lists what it has"),
    ("\\c", ANOTHER),
    ("\\connect", ANOTHER),
    ("\\dn", "there is one schema: `\\d` lists what it has"),
    (
        "\\du",
        "`anabranch users list` lists the users of a project",
    ),
    ("\\di", "there are no indexes"),
    (
        "\\copy",
        "`\\format csv` and `\\o FILE` write an answer to a file, `anabranch ingest` reads one",
    ),
    (
        "\\set",
        "there are no variables; `\\pset` chooses how answers are shown",
    ),
    ("\\sv", "`\\d+ NAME` shows the SQL of a view"),
];

/// What to say after the name of an unknown command.
pub(super) fn hint(name: &str) -> String {
    if let Some((_, instead)) = INSTEAD.iter().find(|(psql, _)| *psql == name) {
        return format!(": {instead}");
    }
    match nearest(name) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => String::new(),
    }
}

/// The command whose name is nearest, where one is near.
fn nearest(name: &str) -> Option<&'static str> {
    let bare = |name: &'static str| name.trim_start_matches('\\');
    let known = names().into_iter().map(bare);
    let near = near::nearest(name.trim_start_matches('\\'), known)?;
    names().into_iter().find(|name| bare(name) == near)
}
