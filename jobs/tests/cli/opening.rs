//! What opening a project does to its storage: nothing where a command only reads, and nothing that
//! hurts anybody elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};

use super::support::Project;

const WORDS: &str = "SELECT word, count(*) AS c FROM facts GROUP BY word";

/// Everything below a folder, with its bytes.
fn files(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(found.insert(path.display().to_string(), std::fs::read(&path)?)),
            }
        }
    }
    Ok(found)
}

/// Every command that only reads.
const READING: [&[&str]; 16] = [
    &["status"],
    &["--format", "json", "status"],
    &["jobs"],
    &["jobs", "history"],
    &["verify"],
    &["verify", "--sample", "50%"],
    &["sql", "-c", "SELECT count(*) FROM facts"],
    &[
        "sql",
        "-c",
        "SELECT sum(c) FROM words; SELECT count(*) FROM jobs",
    ],
    &["tail", "facts", "--no-follow"],
    &[
        "tail",
        "facts",
        "-n",
        "3",
        "--where",
        "n > 5",
        "--no-follow",
    ],
    &["dead-letters", "list"],
    &["du"],
    &["graph"],
    &["--format", "csv", "du"],
    &["settings"],
    &["--format", "json", "settings"],
];

#[test]
fn commands_that_read_write_nothing() -> Result<()> {
    let project = Project::new(&[("words", WORDS, "")])?;
    // A draft that is only looked at is not declared.
    project.ok(&["status"])?;
    project.ok(&["jobs"])?;
    let said = project.fails(66, &["sql", "-c", "SELECT * FROM words"])?;
    ensure!(said.contains("`words` is not declared yet"), "{said}");
    ensure!(files(&project.path("data"))?.is_empty(), "it was declared");
    project.ingest(0..100)?;
    project.ok(&["batch", "refresh"])?;
    project.ingest(100..150)?;
    // Neither does an edit that waits, nor a field and a view that are new.
    project.write_views(&[
        ("words", &format!("{WORDS} HAVING count(*) > 0"), ""),
        ("more", WORDS, "export = true"),
    ])?;
    let settings = std::fs::read_to_string(project.path("anabranch.toml"))?;
    let settings = settings.replace("x = \"double\"", "x = \"double\"\ny = \"double\"");
    std::fs::write(project.path("anabranch.toml"), settings)?;
    let before = files(&project.path("data"))?;
    let wal = files(&project.path("wal"))?;
    for arguments in READING {
        project.ok(arguments)?;
        let after = files(&project.path("data"))?;
        let new: Vec<_> = after.keys().filter(|f| !before.contains_key(*f)).collect();
        ensure!(new.is_empty() && after == before, "{arguments:?}: {new:?}");
        ensure!(
            files(&project.path("wal"))? == wal,
            "{arguments:?}: the WAL"
        );
    }
    // Who writes declares what is new.
    project.ingest(150..160)?;
    project.ok(&["sql", "-c", "SELECT y FROM facts; SELECT * FROM more"])?;
    Ok(())
}

#[test]
fn an_older_project_elsewhere_changes_nothing() -> Result<()> {
    let project = Project::new(&[("words", WORDS, "")])?;
    let older = Project::new(&[("words", WORDS, "")])?;
    let storage = format!("url = \"{}\"", project.path("data").display());
    let settings = std::fs::read_to_string(older.path("anabranch.toml"))?;
    let settings = settings.replace("url = \"file://./data\"", &storage);
    std::fs::write(older.path("anabranch.toml"), settings)?;
    // The newer one has a field more and a view more, of that field.
    project.write_views(&[
        ("words", WORDS, ""),
        ("ys", "SELECT y, count(*) AS c FROM facts GROUP BY y", ""),
    ])?;
    let settings = std::fs::read_to_string(project.path("anabranch.toml"))?;
    let settings = settings.replace("x = \"double\"", "x = \"double\"\ny = \"double\"");
    std::fs::write(project.path("anabranch.toml"), settings)?;
    project.ingest(0..100)?;
    project.ok(&["batch", "rebuild"])?;
    let count = |sql: &str| project.ok(&["--format", "csv", "sql", "-c", sql]);
    older.ingest(100..150)?;
    for arguments in [
        &["batch", "rebuild"][..],
        &["batch", "refresh"],
        &["verify"],
        &["status"],
    ] {
        older.ok(arguments)?;
    }
    let status = older.ok(&["status"])?;
    for part in [
        "view `ys` is not in this project",
        "topic `facts` has fields",
        "`y`",
    ] {
        ensure!(status.contains(part), "no `{part}` in: {status}");
    }
    ensure!(
        count("SELECT sum(c) AS c FROM ys")? == "c\n150\n",
        "a view is gone"
    );
    ensure!(
        count("SELECT count(y) AS c FROM facts")? == "c\n0\n",
        "a field is gone"
    );
    // It is dropped by name, and by no command besides.
    let said = project.fails(64, &["batch", "drop", "ys"])?;
    ensure!(said.contains("take `[views.ys]` out"), "{said}");
    let dropped = older.ok(&["batch", "drop", "ys"])?;
    ensure!(dropped.contains("dropped view `ys`"), "{dropped}");
    older.fails(66, &["batch", "drop", "ys"])?;
    // Nobody declares it again by being there.
    project.ingest(150..160)?;
    let said = project.fails(66, &["sql", "-c", "SELECT * FROM ys"])?;
    ensure!(said.contains("was dropped"), "{said}");
    project.ok(&["batch", "rebuild", "ys"])?;
    ensure!(
        count("SELECT sum(c) AS c FROM ys")? == "c\n160\n",
        "it is not back"
    );
    Ok(())
}

/// Whoever asks after the command has ended is answered by what it built, and told nothing else.
#[test]
fn apply_returns_when_the_daemon_serves_it() -> Result<()> {
    let project = Project::new(&[("words", WORDS, "")])?;
    let (_daemon, _) = project.daemon()?;
    project.ingest(0..100)?;
    for (number, column) in ["max(n) AS m", "min(n) AS l", "sum(n) AS s"]
        .iter()
        .enumerate()
    {
        let sql = format!("SELECT word, count(*) AS c, {column} FROM facts GROUP BY word");
        project.write_views(&[("words", &sql, "")])?;
        project.ok(&["apply", "--yes"])?;
        let asked = [
            "--format",
            "csv",
            "sql",
            "-c",
            "SELECT * FROM words ORDER BY word LIMIT 1",
        ];
        let out = project.run(&asked)?;
        let (rows, said) = (
            String::from_utf8(out.stdout)?,
            String::from_utf8(out.stderr)?,
        );
        let name = column.rsplit(' ').next().unwrap_or_default();
        let first = format!("word,c,{name}\nw0,1,0\n");
        ensure!(rows == first, "{number}: {rows} {said}");
        ensure!(!said.contains("old definition"), "{number}: {said}");
        let status = project.json(&["status"])?;
        ensure!(status["views"][0]["edited"] == false, "{status}");
        // Each fact is counted once, whenever it lands.
        let count = |of: &str| status["topics"][0][of].as_u64().unwrap_or_default();
        ensure!(count("facts") + count("unlanded_facts") == 100, "{status}");
    }
    Ok(())
}
