//! Boards: panels that are computed once for all who look, when what they read has moved, for those who may.

use std::path::Path;
use std::time::Duration;

use anabranch_tests::daemon::{Daemon, request};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, run_well, until, write_project};
use serde_json::Value;

use super::users::Guarded;

const BOARD: &str = r#"
title = "Words"
[[panels]]
title = "Facts"
form = "number"
sql = "SELECT sum(facts) AS facts FROM words"
[[panels]]
title = "By word"
form = "ranking"
file = "questions/words.sql"
[[panels]]
title = "Wrong"
form = "table"
sql = "SELECT wrod FROM words"
[[panels]]
title = "Too many"
form = "table"
sql = "SELECT * FROM generate_series(1, 20000)"
"#;

fn write_board(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(dir.join("boards"))?;
    std::fs::create_dir(dir.join("questions"))?;
    std::fs::write(dir.join("boards/words.toml"), BOARD)?;
    std::fs::write(dir.join("boards/torn.toml"), "titel = 1")?;
    let question = "SELECT word, facts FROM words ORDER BY word;";
    Ok(std::fs::write(dir.join("questions/words.sql"), question)?)
}

async fn get(daemon: &Daemon, token: &str, path: &str) -> anyhow::Result<(u16, Value)> {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![];
    if !token.is_empty() {
        headers.push(("authorization", bearer.as_str()));
    }
    let http = &daemon.client.address().http;
    let (status, text) = request("GET", http, path, &headers, b"").await?;
    Ok((status, serde_json::from_str(&text)?))
}

async fn send(daemon: &Daemon, token: &str, from: i64, to: i64) -> anyhow::Result<()> {
    let bearer = format!("Bearer {token}");
    let headers = match token {
        "" => vec![],
        _ => vec![("authorization", bearer.as_str())],
    };
    let facts: String = (from..to).map(line).collect();
    let (status, text) = daemon.post("facts", &headers, facts.as_bytes()).await?;
    anyhow::ensure!(status == 200, "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn panels_are_computed_once_and_when_something_moved() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    write_board(dir.path())?;
    let daemon = Daemon::start(dir.path()).await?;
    send(&daemon, "", 0, 70).await?;

    let (_, listed) = get(&daemon, "", "/boards").await?;
    let [torn, words] = [&listed["boards"][0], &listed["boards"][1]];
    anyhow::ensure!(
        words["title"] == "Words" && words["error"].is_null(),
        "{listed}"
    );
    anyhow::ensure!(
        torn["error"]
            .as_str()
            .is_some_and(|e| e.contains("titel") && e.contains("line 1")),
        "{listed}"
    );
    let (status, near) = get(&daemon, "", "/boards/wrods").await?;
    anyhow::ensure!(
        status == 404 && near["error"].to_string().contains("`words`"),
        "{near}"
    );
    let (_, board) = get(&daemon, "", "/boards/words").await?;
    anyhow::ensure!(
        board["panels"].as_array().map(Vec::len) == Some(4)
            && board["panels"][0]["form"] == "number",
        "{board}"
    );

    // All who look at once see one answer.
    let looks = (0..20).map(|_| get(&daemon, "", "/boards/words/0"));
    let seen = futures::future::try_join_all(looks).await?;
    let first = &seen[0].1;
    anyhow::ensure!(first["rows"][0]["facts"] == 70, "{first}");
    anyhow::ensure!(
        seen.iter()
            .all(|(status, one)| *status == 200 && one == first)
    );
    let (_, ranking) = get(&daemon, "", "/boards/words/1").await?;
    anyhow::ensure!(
        ranking["rows"].as_array().map(Vec::len) == Some(7)
            && ranking["columns"][0]["name"] == "word"
            && ranking["sql"].to_string().contains("ORDER BY"),
        "{ranking}"
    );

    // Nothing moves: it is not computed anew, however late somebody looks.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let (_, again) = get(&daemon, "", "/boards/words/0").await?;
    anyhow::ensure!(again["computed_at"] == first["computed_at"], "{again}");
    // A fact does.
    send(&daemon, "", 70, 77).await?;
    until("the panel has the newest facts", async || {
        let (_, now) = get(&daemon, "", "/boards/words/0").await?;
        Ok(now["rows"][0]["facts"] == 77)
    })
    .await?;

    // What is wrong is told at its panel alone, also to those who look again at once.
    for _ in 0..2 {
        let (status, wrong) = get(&daemon, "", "/boards/words/2").await?;
        anyhow::ensure!(
            status == 400 && wrong["error"].to_string().contains("`word`"),
            "{wrong}"
        );
        let (status, many) = get(&daemon, "", "/boards/words/3").await?;
        anyhow::ensure!(
            status == 400 && many["error"].to_string().contains("10000 rows"),
            "{many}"
        );
    }
    let (status, none) = get(&daemon, "", "/boards/words/4").await?;
    anyhow::ensure!(status == 404, "{none}");
    // An edit is seen at once.
    std::fs::write(dir.path().join("questions/words.sql"), "SELECT 1 AS one")?;
    let (_, edited) = get(&daemon, "", "/boards/words/1").await?;
    anyhow::ensure!(edited["rows"][0]["one"] == 1, "{edited}");
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_sees_its_board_alone() -> anyhow::Result<()> {
    let guarded = Guarded::new("")?;
    write_board(guarded.path())?;
    std::fs::write(
        guarded.path().join("boards/other.toml"),
        "title = \"Other\"",
    )?;
    let root = guarded.add("root", &["admin"]).await?;
    let wall = guarded.add("wall", &["board wor*"]).await?;
    let some = guarded
        .add("some", &["read words where word = 'w1'"])
        .await?;
    let sender = guarded.add("sender", &["ingest facts"]).await?;
    let daemon = Daemon::start(guarded.path()).await?;
    send(&daemon, &sender, 0, 70).await?;
    let count = |answer: &Value| answer["boards"].as_array().map(Vec::len);
    for (token, boards) in [(&root, 3), (&wall, 1), (&some, 3), (&sender, 0)] {
        let (status, listed) = get(&daemon, token, "/boards").await?;
        anyhow::ensure!(status == 200 && count(&listed) == Some(boards), "{listed}");
    }
    let (_, of_root) = get(&daemon, &root, "/boards/words/0").await?;
    let (_, of_wall) = get(&daemon, &wall, "/boards/words/0").await?;
    let (_, of_some) = get(&daemon, &some, "/boards/words/0").await?;
    anyhow::ensure!(
        of_root["rows"][0]["facts"] == 70 && of_wall["rows"] == of_root["rows"],
        "{of_root} {of_wall}"
    );
    // What somebody may read is what they see, and of what it is made only they know.
    anyhow::ensure!(of_some["rows"][0]["facts"] == 10, "{of_some}");
    anyhow::ensure!(
        of_wall["sql"].is_null() && !of_some["sql"].is_null(),
        "{of_wall}"
    );
    for (token, path, expected) in [
        ("", "/boards", 401),
        ("", "/boards/words/0", 401),
        (wall.as_str(), "/boards/other", 404),
        (wall.as_str(), "/boards/other/0", 404),
        (wall.as_str(), "/status", 403),
        (wall.as_str(), "/plan", 403),
        (sender.as_str(), "/boards/words", 404),
        (sender.as_str(), "/boards/words/0", 404),
    ] {
        let (status, answer) = get(&daemon, token, path).await?;
        anyhow::ensure!(status == expected, "{path}: {status} {answer}");
    }
    let bearer = format!("Bearer {wall}");
    let http = daemon.client.address().http.clone();
    let headers = [("authorization", bearer.as_str())];
    let asked = request("POST", &http, "/sql", &headers, b"SELECT * FROM words").await?;
    anyhow::ensure!(asked.0 == 404, "{asked:?}");
    // Its link is taken back.
    run_well(guarded.path(), &["users", "revoke", "wall"]).await?;
    until("the wall is let in no more", async || {
        let (status, _) = get(&daemon, &wall, "/boards/words/0").await?;
        Ok(status == 401)
    })
    .await?;
    daemon.stop().await
}
