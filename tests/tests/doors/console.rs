//! The console in a real browser: what people do with it, with users and without.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anabranch_tests::daemon::{Daemon, request};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, binary, write_project};
use anabranch_tests::skip::skipped;

use super::users::Guarded;

/// How long a browser may take for all journeys.
const PATIENCE: Duration = Duration::from_secs(400);

/// The views that are looked at: one has a time.
const DAYS: (&str, &str) = (
    "days",
    "SELECT date_trunc('day', ts) AS day, word, count(*) AS facts, approx_distinct(id) AS different FROM facts GROUP BY 1, 2",
);

/// A board with each form.
const BOARD: &str = include_str!("../../console/desk.toml");

/// The folder of the modules, and the browser.
fn browser() -> Option<(PathBuf, PathBuf)> {
    let Some(modules) = std::env::var_os("ANABRANCH_NODE").map(PathBuf::from) else {
        skipped(
            "`ANABRANCH_NODE` names no folder with a browser; `tests/node/setup.sh` fetches it",
        );
        return None;
    };
    let chromium = std::env::var_os("ANABRANCH_CHROMIUM").map(PathBuf::from);
    let chromium = chromium.unwrap_or_else(|| modules.join("browser"));
    Some((modules, chromium))
}

/// Goes through all journeys; `given` are variables that tell them more.
async fn walked(
    (modules, chromium): &(PathBuf, PathBuf),
    daemon: &Daemon,
    given: &[(&str, &str)],
) -> anyhow::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("console/journeys.mjs");
    let modules = modules.join("node_modules");
    let http = &daemon.client.address().http;
    let mut node = tokio::process::Command::new("node");
    node.arg(script)
        .env("CONSOLE_URL", format!("http://{http}/console/"))
        .env("PLAYWRIGHT", modules.join("playwright-core"))
        .env("AXE", modules.join("axe-core"))
        .env("CHROMIUM", chromium)
        .envs(given.iter().copied())
        .kill_on_drop(true);
    let Output { status, stdout, .. } = tokio::time::timeout(PATIENCE, node.output()).await??;
    let said = String::from_utf8_lossy(&stdout);
    println!("{said}");
    anyhow::ensure!(status.success(), "{said}");
    Ok(())
}

fn declare(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join("anabranch.toml");
    let (name, sql) = DAYS;
    let more = format!("[views.{name}]\nsql = \"{name}.sql\"\n");
    std::fs::write(&path, std::fs::read_to_string(&path)? + &more)?;
    std::fs::write(dir.join(format!("{name}.sql")), sql)?;
    std::fs::create_dir(dir.join("boards"))?;
    Ok(std::fs::write(dir.join("boards/desk.toml"), BOARD)?)
}

/// What needs no browser: numbers, statements, what needs somebody.
#[tokio::test(flavor = "multi_thread")]
async fn its_modules_compute_right() -> anyhow::Result<()> {
    if std::env::var_os("ANABRANCH_NODE").is_none() {
        skipped("`ANABRANCH_NODE` is not set, so there may be no Node");
        return Ok(());
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut node = tokio::process::Command::new("node");
    node.arg(here.join("console/units.mjs"))
        .arg(here.join("../serving/console"));
    let Output { status, stdout, .. } = node.output().await?;
    anyhow::ensure!(status.success(), "{}", String::from_utf8_lossy(&stdout));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_find_their_way() -> anyhow::Result<()> {
    let Some(browser) = browser() else {
        return Ok(());
    };
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    declare(dir.path())?;
    let path = dir.path().join("anabranch.toml");
    let gated = std::fs::read_to_string(&path)? + "[views.words.gate]\nkeys_lost = 0\n";
    std::fs::write(&path, gated)?;
    let daemon = Daemon::start(dir.path()).await?;
    let body: String = (0..1_000).map(line).collect();
    // Those that are none are shown, too: one that is hostile, and one that a fix makes a fact of.
    let body = body + "{\"id\":\"<img src=x onerror=alert(1)>\"}\n";
    let body = body + "{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":\"17x\",\"word\":\"w1\"}\n";
    daemon.post("facts", &[], body.as_bytes()).await?;
    daemon.landed("facts", 1_002).await?;
    let project = dir.path().to_string_lossy().into_owned();
    walked(&browser, &daemon, &[("CONSOLE_PROJECT", project.as_str())]).await?;
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_sign_in() -> anyhow::Result<()> {
    let Some(browser) = browser() else {
        return Ok(());
    };
    let guarded = Guarded::new("")?;
    declare(guarded.path())?;
    let token = guarded.add("it", &["admin"]).await?;
    let reader = guarded.add("reader", &["read *"]).await?;
    let wall = guarded.add("wall", &["board desk"]).await?;
    let daemon = Daemon::start(guarded.path()).await?;
    let http = &daemon.client.address().http;
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let body: String = (0..1_000).map(line).collect();
    let (status, text) = request("POST", http, "/topics/facts", &headers, body.as_bytes()).await?;
    anyhow::ensure!(status == 200, "{text}");
    let project = guarded.path().to_string_lossy().into_owned();
    let program = binary()?.to_string_lossy().into_owned();
    let revoke = serde_json::json!([program, "--project", project, "users", "revoke", "wall"]);
    let revoke = revoke.to_string();
    let tokens = [
        ("CONSOLE_TOKEN", token.as_str()),
        ("CONSOLE_READER", reader.as_str()),
        ("CONSOLE_WALL", wall.as_str()),
        ("CONSOLE_REVOKE", revoke.as_str()),
    ];
    walked(&browser, &daemon, &tokens).await?;
    daemon.stop().await
}

/// Its files tell nothing, and nobody else's page may hold them or add to them.
#[tokio::test(flavor = "multi_thread")]
async fn its_files_are_for_everybody() -> anyhow::Result<()> {
    let guarded = Guarded::new("")?;
    guarded.add("it", &["admin"]).await?;
    let daemon = Daemon::start(guarded.path()).await?;
    let http = &daemon.client.address().http;
    let client = reqwest::Client::builder().no_proxy().build()?;
    for path in [
        "/",
        "/console",
        "/console/",
        "/console/app.js",
        "/console/pages/now.js",
    ] {
        let answer = client.get(format!("http://{http}{path}")).send().await?;
        anyhow::ensure!(answer.status() == 200, "{path}: {}", answer.status());
        let policy = answer.headers().get("content-security-policy");
        let policy = policy.and_then(|p| p.to_str().ok()).unwrap_or_default();
        anyhow::ensure!(
            policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
    }
    for (path, expected) in [
        ("/console/nothing.js", 404),
        ("/relations", 401),
        ("/sql", 401),
    ] {
        let (status, text) = request("GET", http, path, &[], b"").await?;
        anyhow::ensure!(status == expected, "{path}: {status} {text}");
    }
    daemon.stop().await
}
