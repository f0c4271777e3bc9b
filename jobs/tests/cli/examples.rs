//! Examples: whole projects that `init` writes, and the facts that `generate` makes for them.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, ensure};

fn anabranch(place: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
    command.current_dir(place).args(arguments);
    Ok(command.env_remove("ANABRANCH_PROJECT").output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ok(place: &Path, arguments: &[&str]) -> Result<String> {
    let out = anabranch(place, arguments)?;
    ensure!(out.status.success(), "{arguments:?}: {}", text(&out.stderr));
    Ok(text(&out.stdout))
}

/// The exit code and what is complained.
fn refused(place: &Path, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let out = anabranch(place, arguments)?;
    ensure!(!out.status.success(), "{arguments:?} did it");
    Ok((out.status.code(), text(&out.stderr)))
}

#[test]
fn an_example_is_made_whole_and_plans_nothing() -> Result<()> {
    let place = tempfile::tempdir()?;
    let said = ok(place.path(), &["init", "--example", "newsroom"])?;
    ensure!(
        said.contains("13 views, 13 questions, a step and a README.md")
            && said.contains("anabranch --project newsroom up")
            && said.contains("generate newsroom --into-daemon")
            && said.contains("batch rebuild author_hours section_hours")
            && said.contains("sql -f newsroom/questions/popular_stories.sql"),
        "{said}"
    );
    let dir = place.path().join("newsroom");
    for (folder, count) in [("views", 13), ("questions", 13), ("steps", 2)] {
        ensure!(std::fs::read_dir(dir.join(folder))?.count() == count);
    }
    ensure!(dir.join("README.md").exists());
    // Every view can be used, and is declared.
    ok(&dir, &["batch", "refresh"])?;
    let shown = ok(&dir, &["--format", "json", "status"])?;
    let status: serde_json::Value = serde_json::from_str(&shown)?;
    ensure!(
        status["views"].as_array().map(Vec::len) == Some(13),
        "{shown}"
    );
    let plan = ok(&dir, &["plan"])?;
    ensure!(plan.contains("othing"), "{plan}");
    Ok(())
}

#[test]
fn an_example_goes_where_it_is_told_and_overwrites_nothing() -> Result<()> {
    let place = tempfile::tempdir()?;
    ok(place.path(), &["init", "news", "--example", "newsroom"])?;
    ensure!(place.path().join("news/views/top_posts.sql").exists());
    let (code, said) = refused(place.path(), &["init", "news", "--example", "newsroom"])?;
    ensure!(
        code == Some(64) && said.contains("`news/anabranch.toml` exists already"),
        "{said}"
    );
    std::fs::create_dir_all(place.path().join("own/views"))?;
    std::fs::write(place.path().join("own/views/top_posts.sql"), "SELECT 1")?;
    let (_, said) = refused(place.path(), &["init", "own", "--example", "newsroom"])?;
    ensure!(
        said.contains("`own/views/top_posts.sql` exists already"),
        "{said}"
    );
    ensure!(!place.path().join("own/anabranch.toml").exists());
    Ok(())
}

#[test]
fn an_unknown_example_is_named_with_the_near_one() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (code, said) = refused(place.path(), &["init", "--example", "newsrom"])?;
    ensure!(
        code == Some(64)
            && said.contains("no example `newsrom`; did you mean `newsroom`? There are: newsroom"),
        "{said}"
    );
    let (_, said) = refused(place.path(), &["init", "x", "--example", "shop"])?;
    ensure!(
        said.contains("no example `shop`. There are: newsroom"),
        "{said}"
    );
    ensure!(!place.path().join("x").exists());
    // Without an example the folder has to be named, as ever.
    let (code, said) = refused(place.path(), &["init"])?;
    ensure!(code == Some(2) && said.contains("<DIR>"), "{said}");
    Ok(())
}

#[test]
fn the_newsroom_s_facts_are_files_of_two_topics() -> Result<()> {
    let place = tempfile::tempdir()?;
    let of = [
        "generate",
        "newsroom",
        "--facts",
        "500",
        "--end",
        "2026-06-30T12:00:00Z",
    ];
    for folder in ["one", "other"] {
        ok(place.path(), &[&of[..], &["--output", folder]].concat())?;
    }
    let read = |path: &str| std::fs::read_to_string(place.path().join(path));
    for (file, least) in [("events.ndjson", 500), ("crawls.ndjson", 32)] {
        let lines = read(&format!("one/{file}"))?;
        ensure!(lines == read(&format!("other/{file}"))?);
        ensure!(lines.lines().count() >= least, "{file}");
    }
    let (code, said) = refused(place.path(), &of)?;
    ensure!(
        code == Some(64) && said.contains("`--output DIR`"),
        "{said}"
    );
    Ok(())
}
