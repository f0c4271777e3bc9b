//! Stored formats. A small project as version 0.1.0 stored it is checked in and must stay readable, and is gone on with
//! as it is; the same with states of another format is refused, with the command that mends it, and never merged.
//!
//! `fixtures/0.1.0/project` was made by `ingest` of 40 facts, `batch rebuild`, `ingest` of 20 more, `batch refresh`,
//! `ingest` of 5 more and a dead letter, and a daemon that was killed when it had acknowledged 2 facts and a dead letter
//! and not yet landed them. A fixture stays as it is; a new format gets another one beside it.

use std::path::{Path, PathBuf};

use anabranch_tests::daemon::{Daemon, Ran, run};
use anabranch_tests::places;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/0.1.0/project")
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => {
                std::fs::copy(entry.path(), &target)?;
            }
        }
    }
    Ok(())
}

/// The files below a folder whose text holds `wanted`.
fn holding(dir: &Path, wanted: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(holding(&path, wanted)?);
        } else if let Ok(text) = std::fs::read_to_string(&path)
            && text.contains(wanted)
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// The queries, and the answers that the fixture must give.
const ANSWERS: [(&str, &str); 3] = [
    (
        "SELECT word, facts, ids, different, about, mean, latest FROM words ORDER BY word NULLS LAST",
        "word,facts,ids,different,about,mean,latest
w0,17,543,7,17,4.0673076923076925,2026-01-28T03:27:00Z
w1,19,656,7,19,4.048076923076923,2026-02-01T00:01:00Z
w2,18,627,7,18,3.875,2026-02-01T00:00:00Z
,13,390,7,13,3.75,2026-01-28T07:55:00Z
",
    ),
    (
        "SELECT id, word FROM latest ORDER BY id",
        "id,word\n1,w1\n11,w2\n21,w0\n31,w1\n41,w2\n51,w0\n61,w1\n71,w1\n",
    ),
    (
        "SELECT _partition, _offset, line, field, CAST(raw AS VARCHAR) AS raw FROM dead_letters ORDER BY 1, 2",
        "_partition,_offset,line,field,raw
0,65,6,,no fact
1,1,2,ts,\"{\"\"ts\"\":\"\"soon\"\"}\"
",
    ),
];

fn ask(dir: &Path, sql: &str) -> anyhow::Result<Ran> {
    run(dir, &["--format", "csv", "sql", "-c", sql])
}

/// Asks for everything, of the daemon where one runs.
fn check_answers(dir: &Path, when: &str) -> anyhow::Result<()> {
    for (sql, expected) in ANSWERS {
        let ran = ask(dir, sql)?;
        anyhow::ensure!(ran.said == expected, "{when}: {sql}: {ran:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_0_1_0_stored_stays_readable() -> anyhow::Result<()> {
    let dir = places::folder()?;
    copy(&fixture(), dir.path())?;
    check_answers(dir.path(), "as it was left")?;
    let daemon = Daemon::start(dir.path()).await?;
    check_answers(dir.path(), "by a daemon that has replayed the WAL")?;
    daemon.stop().await?;
    check_answers(dir.path(), "after the rest has landed")?;
    let refreshed = run(dir.path(), &["batch", "refresh"])?;
    anyhow::ensure!(refreshed.code == Some(0), "{refreshed:?}");
    check_answers(dir.path(), "after a refresh")?;
    let verified = run(dir.path(), &["verify"])?;
    anyhow::ensure!(verified.code == Some(0), "{verified:?}");
    Ok(())
}

/// How the format of the view `words` begins in the fixture, in the same made another's, and as this version makes it.
const STORED: &str = "1 datafusion 55.2.0 Utf8View";
const OLD: &str = "1 datafusion 53.1.0 Utf8View";
const PRESENT: &str = "2 Utf8View";

/// A copy of the fixture whose view `words` has states of another format, as its table alone says, or its definition
/// too.
fn old_project(dir: &Path, definition_too: bool) -> anyhow::Result<()> {
    copy(&fixture(), dir)?;
    let store = dir.join("store");
    let mut files = holding(&store.join("views/words"), STORED)?;
    anyhow::ensure!(
        files.len() == 1,
        "the table names its format once: {files:?}"
    );
    if definition_too {
        let entries = holding(&store.join("catalogue"), STORED)?;
        anyhow::ensure!(
            !entries.is_empty(),
            "the catalogue does not name the format"
        );
        files.extend(entries);
    }
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, text.replace(STORED, OLD))?;
    }
    Ok(())
}

/// A refusal names both formats and the command that mends it.
fn check_refused(what: &str, message: &str) -> anyhow::Result<()> {
    for part in [
        "`words`",
        OLD,
        PRESENT,
        "run `anabranch batch rebuild words`",
    ] {
        anyhow::ensure!(message.contains(part), "{what}: no `{part}` in: {message}");
    }
    Ok(())
}

fn check_all_refused(dir: &Path) -> anyhow::Result<()> {
    let [words, others @ ..] = ANSWERS;
    for arguments in [
        &["sql", "-c", words.0][..],
        &["batch", "refresh", "words"],
        &["verify", "words"],
    ] {
        let ran = run(dir, arguments)?;
        anyhow::ensure!(
            ran.code.is_some_and(|code| code >= 64)
                && (ran.said.is_empty() || ran.said.starts_with("words: not compared: ")),
            "{arguments:?}: {ran:?}"
        );
        check_refused(&arguments.join(" "), &ran.complained)?;
    }
    let status = run(dir, &["--format", "json", "status"])?;
    anyhow::ensure!(status.code == Some(0), "{status:?}");
    check_refused(
        "status",
        &serde_json::from_str::<serde_json::Value>(&status.said)?["notes"]
            .to_string()
            .replace('\\', ""),
    )?;
    for (sql, expected) in others {
        let ran = ask(dir, sql)?;
        anyhow::ensure!(ran.said == expected, "{sql}: {ran:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn states_of_another_format_are_refused_until_a_rebuild() -> anyhow::Result<()> {
    for definition_too in [false, true] {
        for by_daemon in [false, true] {
            let dir = places::folder()?;
            old_project(dir.path(), definition_too)?;
            let daemon = match by_daemon {
                true => Some(Daemon::start(dir.path()).await?),
                false => None,
            };
            check_all_refused(dir.path())?;
            let rebuilt = run(dir.path(), &["batch", "rebuild", "words"])?;
            anyhow::ensure!(rebuilt.code == Some(0), "{rebuilt:?}");
            if let Some(daemon) = &daemon {
                daemon.serves_all().await?;
            }
            check_answers(dir.path(), "after the rebuild")?;
            let verified = run(dir.path(), &["verify"])?;
            anyhow::ensure!(verified.code == Some(0), "{verified:?}");
            let status = run(dir.path(), &["--format", "json", "status"])?;
            anyhow::ensure!(status.said.contains("\"notes\":[]"), "{status:?}");
        }
    }
    Ok(())
}
