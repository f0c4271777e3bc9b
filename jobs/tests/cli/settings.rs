//! `anabranch settings`, and the document that is written from the same table.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::support::{Project, said};

#[test]
fn settings_say_what_is_in_force_and_why() -> Result<()> {
    let project = Project::new(&[])?;
    let shown = project.ok(&["settings"])?;
    let line = |key: &str| shown.lines().find(|l| l.trim_start().starts_with(key));
    let http = line("http ").context("no `http`")?;
    ensure!(
        http.contains("127.0.0.1:0") && http.contains("line 5"),
        "{http}"
    );
    ensure!(http.contains("127.0.0.1:8787"), "its default: {http}");
    let grace = line("grace ").context("no `grace`")?;
    ensure!(
        grace.contains("\"1h\"") && grace.contains("default"),
        "{grace}"
    );
    ensure!(shown.contains("[topics.facts]"), "{shown}");
    let one = project.ok(&["settings", "grace"])?;
    ensure!(
        one.contains("duration") && one.contains("Replaced files stay"),
        "{one}"
    );
    let near = project.fails(66, &["settings", "grase"])?;
    ensure!(near.contains("did you mean `grace`?"), "{near}");
    let all = project.json(&["settings"])?;
    let all = all.as_array().context("no array")?;
    let http = all
        .iter()
        .find(|s| s["table"] == "[daemon]" && s["setting"] == "http");
    let http = http.context("no `http`")?;
    ensure!(
        http["line"] == 5 && http["value"] == "\"127.0.0.1:0\"",
        "{http}"
    );
    let csv = project.ok(&["--format", "csv", "settings", "daemon.wal"])?;
    ensure!(
        csv.starts_with("table,setting,value,from,line,default,type,meaning\n"),
        "{csv}"
    );
    ensure!(csv.lines().count() == 2, "{csv}");
    // What a variable holds is not shown.
    let settings = std::fs::read_to_string(project.path("anabranch.toml"))?;
    let settings = settings.replace("\"127.0.0.1:0\"", "\"${FIRST_HOUR_HTTP}\"");
    std::fs::write(project.path("anabranch.toml"), settings)?;
    let mut command = project.command(&["settings"]);
    let shown = said(&command.env("FIRST_HOUR_HTTP", "127.0.0.1:7").output()?);
    ensure!(shown.contains("$FIRST_HOUR_HTTP, line 5"), "{shown}");
    ensure!(!shown.contains("127.0.0.1:7"), "{shown}");
    // Without a project they are the defaults.
    let nowhere = tempfile::tempdir()?;
    let mut command = project.command(&["settings"]);
    let out = command
        .args(["--project", &nowhere.path().display().to_string()])
        .output();
    let shown = said(&out?);
    ensure!(shown.contains("these are the defaults"), "{shown}");
    Ok(())
}

/// The document is what the code says. `ANABRANCH_WRITE_DOCUMENTS=1` writes it anew.
#[test]
fn the_document_of_settings_is_what_the_code_says() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let wanted = anabranch_shared::settings::document();
    if std::env::var_os("ANABRANCH_WRITE_DOCUMENTS").is_some() {
        std::fs::write(&path, &wanted)?;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    ensure!(
        found == wanted,
        "`jobs/docs/settings.md` is not what the code says; write it anew: ANABRANCH_WRITE_DOCUMENTS=1 cargo test --workspace --test cli settings"
    );
    Ok(())
}
