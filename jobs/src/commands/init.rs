//! `anabranch init`: makes a project.

use std::io::Write;
use std::path::Path;

use anabranch_shared::settings::{FILE_NAME, template};
use anabranch_shared::{Error, Result, counted};

/// Writes a commented project into a folder that has none.
pub fn init(dir: &Path, out: &mut dyn Write) -> Result<()> {
    let settings = dir.join(FILE_NAME);
    if settings.exists() {
        return Err(Error::Invalid(format!(
            "`{}` exists already; choose another folder",
            settings.display()
        )));
    }
    let name = dir
        .file_name()
        .map_or("project".into(), |n| n.to_string_lossy().into_owned());
    let (text, files) = template(&name);
    let write = |path: &Path, text: &str| {
        let parent = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(path, text))
            .map_err(|e| Error::io(path, e))
    };
    for (path, text) in &files {
        write(&dir.join(path), text)?;
    }
    write(&settings, &text)?;
    let shown = dir.display();
    let views = counted(files.len() as u64, "view", "views");
    writeln!(out, "made {shown}: {FILE_NAME} and {views}\n\nnext:\n  anabranch --project {shown} up                                # daemon and scheduler\n  anabranch --project {shown} generate pageviews --facts 100000 --into-daemon\n  anabranch --project {shown} sql -c 'SELECT url, sum(page_views) AS page_views, combine(visitors) AS visitors FROM post_minutes GROUP BY url ORDER BY page_views DESC LIMIT 10'")
        .map_err(|e| Error::io("standard output", e))
}
