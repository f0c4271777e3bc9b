//! The views of a project: their names, SQL files and schedules.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::choice::resolve;
use super::gate::{self, GateSettings};
use super::reader::{Reader, Table};
use super::table::{
    EXPORT, KEEP_PREVIOUS, MOVED, REBUILD_CRON, REFRESH_EVERY, SQL, TIMEZONE, VERIFY_CRON,
};

/// A view as it is declared.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewSettings {
    /// Name: a-z, 0-9 and `_`, at most 63 characters; no topic of the project has it.
    pub name: String,
    /// The file with the view's SQL, joined to the project's folder.
    pub sql_path: PathBuf,
    /// The text of that file; holds more than white space.
    pub sql_text: String,
    /// How often the view is refreshed; only by command where absent.
    pub refresh_every: Option<Duration>,
    /// When the view is rebuilt: a valid cron expression of five fields, or `@daily` and the like.
    pub rebuild_cron: Option<String>,
    /// When the view is verified, likewise.
    pub verify_cron: Option<String>,
    /// IANA time zone of the two schedules; known to `chrono-tz`.
    pub timezone: String,
    /// Whether one finished row a key is also written for other engines.
    pub export: bool,
    /// How long the former generation is kept fresh after a cut-over; not at all where absent.
    pub keep_previous: Option<Duration>,
    /// The name that the view had before; none where it always had this one.
    pub moved: Option<String>,
    /// How far a new generation may differ before it is cut over to.
    pub gate: GateSettings,
}

/// Reads a view and its SQL file; `None` where a problem is on record.
pub(super) fn read(
    reader: &mut Reader<'_>,
    dir: &Path,
    name: &str,
    table: &Table<'_>,
) -> Option<ViewSettings> {
    let refresh_every = reader.optional(table, &REFRESH_EVERY);
    let rebuild_cron = reader.optional(table, &REBUILD_CRON);
    let verify_cron = reader.optional(table, &VERIFY_CRON);
    let timezone = reader.value(table, &TIMEZONE);
    let export = reader.value(table, &EXPORT);
    let keep_previous = reader.value(table, &KEEP_PREVIOUS).0;
    let moved = reader.optional(table, &MOVED);
    let gate = gate::read(reader, table).unwrap_or_default();
    let written = reader.required(table, &SQL)?;
    let sql_path = resolve(dir, Path::new(&written.0));
    let span = table.get(SQL.key).map(|value| value.span());
    let what = format!("view `{name}`");
    let sql_text = sql_text(reader, &sql_path, &what, &span.unwrap_or_default())?;
    Some(ViewSettings {
        name: name.to_owned(),
        sql_path,
        sql_text,
        refresh_every,
        rebuild_cron: rebuild_cron.map(|schedule| schedule.0),
        verify_cron: verify_cron.map(|schedule| schedule.0),
        timezone: timezone.0,
        export,
        keep_previous,
        moved: moved.map(|former| former.0),
        gate,
    })
}

/// Refuses that a view takes the place of one that is still in the project, or of one of which another
/// view does.
pub(super) fn check_moved(
    reader: &mut Reader<'_>,
    views: &[ViewSettings],
    tables: &[(&str, Table<'_>)],
) {
    for (nth, view) in views.iter().enumerate() {
        let (name, Some(former)) = (&view.name, &view.moved) else {
            continue;
        };
        let wrong = if views.iter().any(|v| v.name == *former) {
            format!(
                "view `{former}` is still in the project, so `{name}` can't take its place; take `[views.{former}]` or this `moved` out"
            )
        } else if let Some(other) = views[..nth].iter().find(|v| v.moved == view.moved) {
            format!(
                "views `{}` and `{name}` can't both take the place of `{former}`; take one `moved` out",
                other.name
            )
        } else {
            continue;
        };
        let table = tables.iter().find(|(table, _)| table == name);
        let value = table.and_then(|(_, table)| table.get(MOVED.key));
        reader.report(&value.map(|v| v.span()).unwrap_or_default(), wrong);
    }
}

/// The text of a file with the SELECT of `what`; `None` where a problem is on record, at `span`.
pub(super) fn sql_text(
    reader: &mut Reader<'_>,
    path: &Path,
    what: &str,
    span: &std::ops::Range<usize>,
) -> Option<String> {
    let shown = path.display();
    let wrong = match std::fs::read_to_string(path) {
        // Editors of Windows begin a file with a mark, which is none of the SQL.
        Ok(text) if !unmarked(&text).trim().is_empty() => return Some(unmarked(&text).to_owned()),
        Ok(_) => format!("file `{shown}` is empty; write the SELECT of {what} there"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            format!("no file `{shown}`; write the SELECT of {what} there, or correct `sql`")
        }
        Err(error) => format!(
            "can't read `{shown}`, the SQL of {what}: {error}; make it a readable text file in UTF-8"
        ),
    };
    reader.report(span, wrong);
    None
}

/// A text without a byte order mark.
fn unmarked(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}
