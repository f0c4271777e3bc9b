//! Several hands on one storage: plans that are applied at once, and project folders that say different
//! things.

use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};

use super::support::{Project, said};

const WORDS: &str = "SELECT word, count(*) AS c, sum(n) AS s FROM facts GROUP BY word";

/// The view without the facts below a number.
fn from(number: u64) -> String {
    WORDS.replace("FROM facts", &format!("FROM facts WHERE n >= {number}"))
}

fn count(project: &Project) -> Result<String> {
    let sql = "SELECT sum(c) AS c FROM words";
    let answer = project.ok(&["--format", "csv", "sql", "-c", sql])?;
    answer.lines().nth(1).map(str::to_owned).context("no row")
}

/// A project with 1,200 facts and a built view.
fn project() -> Result<Project> {
    let project = Project::new(&[("words", WORDS, "")])?;
    project.ingest(0..1_200)?;
    project.ok(&["batch", "rebuild"])?;
    Ok(project)
}

/// Another folder over the storage of a project.
fn other_folder(of: &Project, sql: &str) -> Result<Project> {
    let other = Project::new(&[("words", sql, "")])?;
    at_storage_of(&other, of)?;
    Ok(other)
}

fn at_storage_of(folder: &Project, of: &Project) -> Result<()> {
    let path = folder.path("anabranch.toml");
    let text = std::fs::read_to_string(&path)?;
    let url = format!("file://{}", of.path("data").display());
    Ok(std::fs::write(path, text.replace("file://./data", &url))?)
}

/// Runs a command in several folders at once.
fn at_once(projects: &[&Project], arguments: &[&str]) -> Result<Vec<Output>> {
    let started = projects.iter().map(|project| {
        let mut command = project.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn()
    });
    let started: Vec<_> = started.collect::<std::io::Result<_>>()?;
    let ended = started.into_iter().map(|child| child.wait_with_output());
    Ok(ended.collect::<std::io::Result<_>>()?)
}

/// Each did what it was asked for, or says that another was as quick; one did.
fn one_did(ended: &[Output]) -> Result<()> {
    for out in ended {
        let code = out.status.code();
        let refused = code == Some(75) && said(out).contains("run the command again");
        ensure!(code == Some(0) || refused, "{code:?}: {}", said(out));
    }
    ensure!(ended.iter().any(|out| out.status.success()), "nobody did");
    Ok(())
}

#[test]
fn one_plan_that_is_applied_at_once_is_done_once() -> Result<()> {
    let project = project()?;
    for (round, number) in [100, 200, 300].into_iter().enumerate() {
        project.write_views(&[("words", &from(number), "")])?;
        let ended = at_once(&[&project, &project, &project], &["apply", "--yes"])?;
        one_did(&ended)?;
        ensure!(count(&project)? == (1_200 - number).to_string());
        ensure!(project.ok(&["plan"])?.contains("nothing to do"));
        let history = project.json(&["history", "words"])?;
        let length = history.as_array().map(Vec::len);
        ensure!(length == Some(round + 1), "{history}");
    }
    project.ok(&["verify"])?;
    // What lost is no candidate, and its files go.
    let rows = project.json(&["du"])?;
    ensure!(!rows.to_string().contains("(candidate)"), "{rows}");
    Ok(())
}

#[test]
fn an_older_folder_changes_nothing() -> Result<()> {
    let project = project()?;
    let older = other_folder(&project, WORDS)?;
    project.write_views(&[("words", &from(200), "refresh_every = \"1h\"")])?;
    project.ok(&["apply", "--yes"])?;
    for command in [
        &["status"][..],
        &["plan"],
        &["batch", "refresh"],
        &["batch", "rebuild"],
        &["maintain"],
        &["verify"],
    ] {
        let out = older.run(command)?;
        let code = out.status.code();
        ensure!(
            code == Some(0) || code == Some(2),
            "{command:?}: {}",
            said(&out)
        );
        ensure!(
            count(&project)? == "1000" && count(&older)? == "1000",
            "{command:?}"
        );
    }
    let status = older.ok(&["status"])?;
    ensure!(status.contains("`anabranch apply`"), "{status}");
    ensure!(project.ok(&["plan"])?.contains("nothing to do"));
    let (daemon, http) = older.daemon()?;
    ensure!(count(&older)? == "1000", "{http}");
    project.ok(&["rollback", "words"])?;
    ensure!(count(&older)? == "1200");
    let (code, log) = daemon.end(rustix::process::Signal::TERM)?;
    ensure!(code == Some(0), "{code:?} {log}");
    Ok(())
}

#[test]
fn edits_of_two_folders_at_once_leave_one_of_them() -> Result<()> {
    let project = project()?;
    let other = other_folder(&project, WORDS)?;
    for round in 1..=3 {
        let (own, others) = (round * 100, round * 100 + 50);
        project.write_views(&[("words", &from(own), "")])?;
        other.write_views(&[("words", &from(others), "")])?;
        at_storage_of(&other, &project)?;
        one_did(&at_once(&[&project, &other], &["apply", "--yes"])?)?;
        let found = count(&project)?;
        let either = [own, others].map(|number| (1_200 - number).to_string());
        ensure!(either.contains(&found), "{found}, not of {either:?}");
        ensure!(count(&other)? == found);
        project.ok(&["verify"])?;
        // Whoever lost sees that, and may do it after all.
        for folder in [&project, &other] {
            let said = folder.run(&["plan"])?;
            ensure!(matches!(said.status.code(), Some(0 | 2)), "{said:?}");
        }
        project.ok(&["apply", "--yes"])?;
        ensure!(count(&project)? == either[0]);
    }
    Ok(())
}
