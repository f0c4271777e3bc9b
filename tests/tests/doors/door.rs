//! The daemon's door: what one client, one page or one reader can't hold up, and how a daemon stops.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anabranch_jobs::project::context::Context;
use anabranch_tests::daemon::{Daemon, request};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Process, Setup, run, run_well, until, write_project};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a test waits for at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// A project with more lines of `[daemon]`, `[storage]` and `[http]`.
fn project(setup: Setup<'_>, http: &str) -> anyhow::Result<tempfile::TempDir> {
    let dir = places::folder()?;
    write_project(dir.path(), setup)?;
    let path = dir.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("{text}\n[http]\n{http}\n"))?;
    Ok(dir)
}

fn lines(count: i64) -> String {
    (0..count).map(line).collect()
}

/// Sends bytes over a connection of their own, and gives all that is answered until it is closed.
async fn raw(address: &str, bytes: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes.as_bytes()).await?;
    read(&mut stream).await
}

async fn read(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The error in an answer, which must be the project's.
fn error(answer: &str) -> anyhow::Result<(u16, String)> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| anyhow::anyhow!("no answer: {answer}"))?;
    let status = head.split_whitespace().nth(1).unwrap_or_default().parse()?;
    let json: Value = serde_json::from_str(body)?;
    let is_whole = json["kind"].is_string() && head.contains("content-type: application/json");
    anyhow::ensure!(is_whole, "{answer}");
    Ok((
        status,
        json["error"].as_str().unwrap_or_default().to_owned(),
    ))
}

async fn ready(daemon: &Daemon, query: &str) -> anyhow::Result<(u16, Value)> {
    let (status, text) = daemon.get(&format!("/ready{query}")).await?;
    Ok((status, serde_json::from_str(&text)?))
}

fn signal(daemon: &Process, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(daemon.id())?);
    let pid = pid.ok_or_else(|| anyhow::anyhow!("no process"))?;
    Ok(kill_process(pid, signal)?)
}

/// Neither a stated length nor a slow sender holds anything, and who is refused early is told so.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_states_holds_nothing() -> anyhow::Result<()> {
    let setup = Setup {
        daemon: "max_request_bytes = \"8MB\"\nrequest_memory = \"16MB\"",
        ..Default::default()
    };
    let http = "header_timeout = \"1s\"\nbody_timeout = \"1s\"\nleast_rate = \"10KB\"";
    let dir = project(setup, http)?;
    let daemon = Daemon::start(dir.path()).await?;
    let address = daemon.client.address().http.clone();
    let post_to = |path: &str, length: u64, rest: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n{rest}\r\n")
    };
    let post = |length: u64, rest: &str| post_to("/topics/facts", length, rest);
    // Too large by its own word: at once, while nothing of it has come.
    for (path, expected) in [
        ("/topics/facts", "`max_request_bytes`"),
        ("/sql", "the body is larger than `/sql` takes"),
        ("/verify/words", "the body is larger"),
    ] {
        let begun = Instant::now();
        let large = post_to(path, 9_000_000_000_000, "connection: close\r\n");
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(large.as_bytes()).await?;
        let mut answer = vec![0; 4_096];
        let read = stream.read(&mut answer);
        let n = tokio::time::timeout(Duration::from_millis(900), read).await??;
        let (status, why) = error(&String::from_utf8_lossy(&answer[..n]))?;
        anyhow::ensure!(
            status == 413 && why.contains(expected),
            "{path}: {status} {why} after {:?}",
            begun.elapsed()
        );
    }
    // Who has sent it before reading gets the answer, too.
    let body = vec![b'\n'; 20_000_000];
    let (status, why) = daemon.post("facts", &[], &body).await?;
    anyhow::ensure!(status == 413, "{status} {why}");
    // Many that say much and send nothing keep nobody out.
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(post(8_000_000, "").as_bytes()).await?;
        silent.push(stream);
    }
    let (status, answer) = daemon.post("facts", &[], lines(100).as_bytes()).await?;
    anyhow::ensure!(status == 200 && answer["facts"] == 100, "{answer}");
    // They are given up, as is a body that comes too slowly and a head that does not end.
    for mut stream in silent {
        let (status, why) = error(&read(&mut stream).await?)?;
        anyhow::ensure!(
            status == 408 && why.contains("`least_rate`"),
            "{status} {why}"
        );
    }
    let mut slow = TcpStream::connect(&address).await?;
    slow.write_all(post(1_000_000, "").as_bytes()).await?;
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < PATIENCE && slow.write_all(b"\n").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        sent += 1;
        let mut one = [0; 1];
        let answered = tokio::time::timeout(Duration::from_millis(1), slow.peek(&mut one)).await;
        if answered.is_ok() {
            break;
        }
    }
    anyhow::ensure!(begun.elapsed() < PATIENCE, "{sent} bytes, one at a time");
    let half = raw(&address, "GET /health HTTP/1.1\r\nhost: localhost\r\nx: ").await?;
    anyhow::ensure!(half.is_empty(), "{half}");
    daemon.stop().await
}

/// Connections are bounded, and beyond the bounds the daemon's state is answered.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_state_is_answered_beyond() -> anyhow::Result<()> {
    let dir = project(
        Setup::default(),
        "connections = 40\nconnections_per_address = 20",
    )?;
    let daemon = Daemon::start(dir.path()).await?;
    let address = daemon.client.address().http.clone();
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(&address).await?);
    }
    // Those beyond have a second to ask for something.
    until("health is answered", async || {
        let answered = request("GET", &address, "/health", &[], b"").await;
        Ok(answered.is_ok_and(|(status, _)| status == 200))
    })
    .await?;
    let (status, answer) = daemon.post("facts", &[], lines(1).as_bytes()).await?;
    let why = answer["error"].as_str().unwrap_or_default();
    anyhow::ensure!(
        status == 503 && why.contains("`connections_per_address` in `[http]`"),
        "{status} {answer}"
    );
    let (_, metrics) = daemon.get("/metrics").await?;
    let refused = metrics
        .lines()
        .find_map(|l| l.strip_prefix("anabranch_connections_refused_total "));
    let refused: u64 = refused.unwrap_or("0").parse()?;
    anyhow::ensure!(refused >= 80, "{refused}");
    drop(idle);
    until("facts are taken again", async || {
        let sent = daemon.post("facts", &[], lines(1).as_bytes()).await;
        Ok(sent.is_ok_and(|(status, _)| status == 200))
    })
    .await?;
    daemon.stop().await
}

/// Over loopback the daemon is asked as this machine, and pages of others send nothing.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_others_write_and_read_nothing() -> anyhow::Result<()> {
    let dir = project(Setup::default(), "")?;
    let daemon = Daemon::start(dir.path()).await?;
    let address = daemon.client.address().http.clone();
    let ask = async |path: &str, headers: &[(&str, &str)], body: &str| {
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        raw(&address, &format!("{head}\r\n{body}")).await
    };
    let fact = line(1);
    for (path, body) in [("/topics/facts", fact.as_str()), ("/sql", "SELECT 1")] {
        let rebound = [
            ("host", "evil.example"),
            ("origin", "http://evil.example"),
            ("content-type", "text/plain"),
        ];
        let (status, why) = error(&ask(path, &rebound, body).await?)?;
        anyhow::ensure!(
            status == 403 && why.contains("`evil.example`") && why.contains("`hosts` in `[http]`"),
            "{status} {why}"
        );
        let other = [
            ("host", address.as_str()),
            ("origin", "http://evil.example"),
            ("content-type", "text/plain;charset=UTF-8"),
        ];
        let (status, why) = error(&ask(path, &other, body).await?)?;
        anyhow::ensure!(
            status == 403 && why.contains("`origins` in `[http]`"),
            "{status} {why}"
        );
        // A page of the daemon's own, and who is no browser.
        let own = format!("http://{address}");
        let own = [("host", address.as_str()), ("origin", own.as_str())];
        for headers in [&own[..], &own[..1]] {
            let answer = ask(path, headers, body).await?;
            anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
    anyhow::ensure!(daemon.rows("SELECT count(*) FROM facts").await? == [["2"]]);
    run_well(dir.path(), &["sql", "-c", "SELECT 1"]).await?;
    daemon.stop().await?;
    let dir = project(Setup::default(), "hosts = \"facts.example\"")?;
    let daemon = Daemon::start(dir.path()).await?;
    let address = daemon.client.address().http.clone();
    let head = "POST /topics/facts HTTP/1.1\r\nhost: facts.example\r\norigin: https://facts.example\r\nconnection: close\r\n";
    let sent = format!("{head}content-length: {}\r\n\r\n{fact}", fact.len());
    let answer = raw(&address, &sent).await?;
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    daemon.stop().await
}

/// Pages of an origin that is named may ask, also what a browser asks about first; others may not, and
/// are not told anything.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_named_origins_may_ask() -> anyhow::Result<()> {
    let dir = project(Setup::default(), "origins = \"https://app.example\"")?;
    let daemon = Daemon::start(dir.path()).await?;
    let address = daemon.client.address().http.clone();
    let ask = async |method: &str, origin: &str, more: &str, body: &str| {
        let head = format!(
            "{method} /sql HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\norigin: {origin}\r\n{more}\r\n",
            body.len()
        );
        raw(&address, &format!("{head}{body}")).await
    };
    let allowed = "access-control-allow-origin: https://app.example\r\n";
    let first = "access-control-request-method: POST\r\naccess-control-request-headers: authorization,content-type\r\n";
    let told = ask("OPTIONS", "https://app.example", first, "").await?;
    anyhow::ensure!(
        told.starts_with("HTTP/1.1 200")
            && told.contains(allowed)
            && told.contains("access-control-allow-headers: authorization,content-type\r\n"),
        "{told}"
    );
    let told = ask("POST", "https://app.example", "", "SELECT 7 AS n").await?;
    anyhow::ensure!(
        told.starts_with("HTTP/1.1 200") && told.contains(allowed) && told.contains("{\"n\":7}"),
        "{told}"
    );
    for origin in ["https://evil.example", "http://app.example", "null"] {
        for (method, more) in [("OPTIONS", first), ("POST", "")] {
            let told = ask(method, origin, more, "SELECT 7").await?;
            anyhow::ensure!(
                told.starts_with("HTTP/1.1 403") && !told.contains("access-control-allow-origin"),
                "{origin}: {told}"
            );
        }
    }
    daemon.stop().await
}

/// What the HTTP framework refuses reads as what the project refuses.
#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_framework_are_the_projects() -> anyhow::Result<()> {
    let dir = project(Setup::default(), "")?;
    let daemon = Daemon::start(dir.path()).await?;
    let address = daemon.client.address().http.clone();
    let long = "x".repeat(3_000_000);
    for (head, body, status, part) in [
        ("GET /nothing", "", 404, "there is no `/nothing`"),
        ("GET /sql", "", 405, "`/sql` does not take GET"),
        ("DELETE /topics/facts", "", 405, "does not take DELETE"),
        ("POST /sql", long.as_str(), 413, "send less"),
        ("POST /verify/words", "{}", 415, "Content-Type"),
        ("POST /sql?read=1&nothing=2", "SELECT 1", 400, "nothing"),
    ] {
        let sent = format!(
            "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (told, why) = error(&raw(&address, &sent).await?)?;
        anyhow::ensure!(told == status && why.contains(part), "{head}: {told} {why}");
    }
    for sent in ["GET / HTTP/1.1\r\nno header\r\n\r\n", "nonsense\r\n\r\n"] {
        let (told, why) = error(&raw(&address, sent).await?)?;
        anyhow::ensure!(told == 400 && why.contains("head"), "{told} {why}");
    }
    daemon.stop().await
}

fn mode(path: &Path) -> anyhow::Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
}

/// All files and folders below a folder with their rights.
fn modes(below: &Path, found: &mut Vec<(String, bool, u32)>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(below)? {
        let path = entry?.path();
        let is_dir = path.is_dir();
        found.push((path.display().to_string(), is_dir, mode(&path)?));
        if is_dir {
            modes(&path, found)?;
        }
    }
    Ok(())
}

/// Facts that have not landed and addresses are the owner's; the storage is as its setting says.
#[tokio::test(flavor = "multi_thread")]
async fn files_are_for_those_whom_the_settings_name() -> anyhow::Result<()> {
    for (of_storage, file, folder) in [("", 0o640, 0o750), ("mode = \"0664\"", 0o664, 0o775)] {
        let setup = Setup {
            of_storage,
            ..Default::default()
        };
        let dir = project(setup, "")?;
        let daemon = Daemon::start(dir.path()).await?;
        daemon.post("facts", &[], lines(10).as_bytes()).await?;
        daemon.landed("facts", 10).await?;
        anyhow::ensure!(mode(&dir.path().join("wal"))? == 0o700);
        anyhow::ensure!(mode(&dir.path().join("data"))? == folder);
        let mut wal = Vec::new();
        modes(&dir.path().join("wal"), &mut wal)?;
        let own =
            |(_, is_dir, mode): &(String, bool, u32)| *mode == [0o600, 0o700][usize::from(*is_dir)];
        anyhow::ensure!(wal.len() > 3 && wal.iter().all(own), "{wal:?}");
        let mut data = Vec::new();
        modes(&dir.path().join("data"), &mut data)?;
        for (path, is_dir, mode) in &data {
            let is_secret = path.contains("/daemons/") || path.contains("/secrets/");
            let expected = match (is_dir, is_secret) {
                (true, _) => folder,
                (false, true) => 0o600,
                (false, false) => file,
            };
            anyhow::ensure!(*mode == expected, "{path}: {mode:o}");
        }
        for part in ["/daemons/", "/secrets/"] {
            anyhow::ensure!(data.iter().any(|(path, ..)| path.contains(part)), "{part}");
        }
        daemon.stop().await?;
    }
    Ok(())
}

/// A proxy that leaves its path before the daemon's.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_a_proxy_is_taken_off() -> anyhow::Result<()> {
    let dir = project(Setup::default(), "base = \"/of/facts\"")?;
    let daemon = Daemon::start(dir.path()).await?;
    let (status, answer) = daemon.post("facts", &[], lines(10).as_bytes()).await?;
    anyhow::ensure!(status == 200, "{answer}");
    for (path, expected) in [
        ("/health", 200),
        ("/of/facts/health", 200),
        ("/of/facts/views/words", 200),
        ("/of/facts/console/", 200),
        ("/of/facts/console/app.js", 200),
        ("/of/facts/nothing", 404),
        ("/of/factsheet", 404),
    ] {
        let (status, answer) = daemon.get(path).await?;
        anyhow::ensure!(status == expected, "{path}: {status} {answer}");
    }
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let http = &daemon.client.address().http;
    for (path, to) in [
        ("/of/facts", "/of/facts/console/"),
        ("/of/facts/", "console/"),
        ("/", "console/"),
    ] {
        let answer = client.get(format!("http://{http}{path}")).send().await?;
        let location = answer.headers().get("location");
        anyhow::ensure!(
            location.and_then(|l| l.to_str().ok()) == Some(to),
            "{path}: {answer:?}"
        );
    }
    daemon.stop().await
}

/// Red is a node that can't take facts; it is green again by itself.
#[tokio::test(flavor = "multi_thread")]
async fn ready_is_red_while_facts_cannot_land_or_come() -> anyhow::Result<()> {
    let setup = Setup {
        daemon: "wal_bytes = \"100KB\"",
        ..Default::default()
    };
    let dir = project(setup, "")?;
    let daemon = Daemon::start(dir.path()).await?;
    daemon.post("facts", &[], lines(10).as_bytes()).await?;
    daemon.landed("facts", 10).await?;
    let (status, said) = ready(&daemon, "").await?;
    anyhow::ensure!(
        status == 200 && said["ready"] == true && said["attention"] == serde_json::json!([]),
        "{said}"
    );
    // Something else lies where the log was.
    let log = dir.path().join("data/topics/facts/log");
    let aside = dir.path().join("aside");
    std::fs::rename(&log, &aside)?;
    std::fs::write(&log, "")?;
    daemon.post("facts", &[], lines(10).as_bytes()).await?;
    let is_red = async |part: &str| {
        let (status, said) = ready(&daemon, "").await?;
        let why = said["red"]["topic facts"].as_str().unwrap_or_default();
        Ok(status == 503 && why.contains(part))
    };
    until("landing fails", async || is_red("landing: ").await).await?;
    let (_, metrics) = daemon.get("/metrics").await?;
    anyhow::ensure!(
        metrics.lines().any(|l| l == "anabranch_ready 0"),
        "{metrics}"
    );
    let mut refused = 200;
    while refused == 200 {
        let sent = daemon.post("facts", &[], lines(100).as_bytes()).await?;
        refused = sent.0;
    }
    anyhow::ensure!(refused == 503, "{refused}");
    anyhow::ensure!(is_red("facts are refused until some have landed").await?);
    std::fs::remove_file(&log)?;
    std::fs::rename(&aside, &log)?;
    until("it is green again", async || {
        let (_, said) = ready(&daemon, "").await?;
        Ok(said["red"] == serde_json::json!({}))
    })
    .await?;
    daemon.stop().await
}

/// A storage that can't be written to is red though nothing waits to land; so are descriptors that
/// are used up.
#[tokio::test(flavor = "multi_thread")]
async fn ready_is_red_without_storage_or_descriptors() -> anyhow::Result<()> {
    let dir = project(Setup::default(), "")?;
    let context = Context::open(dir.path()).await?;
    let mut process = Process::start(dir.path(), &["speed"])?;
    let client = process.ready(&context).await?;
    let address = client.address().http.clone();
    let red = async |what: &str| {
        let (status, text) = request("GET", &address, "/ready", &[], b"").await?;
        let said: Value = serde_json::from_str(&text)?;
        Ok(status == 503 && said["red"][what].is_string())
    };
    let daemons = dir.path().join("data/daemons");
    let aside = dir.path().join("aside");
    std::fs::rename(&daemons, &aside)?;
    std::fs::write(&daemons, "")?;
    until("the address is not renewed", async || red("storage").await).await?;
    std::fs::remove_file(&daemons)?;
    std::fs::rename(&aside, &daemons)?;
    until("it is renewed", async || Ok(!red("storage").await?)).await?;
    let pid = Pid::from_raw(i32::try_from(process.id())?);
    let mut open = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", process.id()))? {
        open.extend(
            entry?
                .file_name()
                .to_str()
                .map(str::parse::<u64>)
                .transpose()?,
        );
    }
    // One for the connection, and some more.
    let fifth = (0..).filter(|n| !open.contains(n)).nth(4);
    let limit = Rlimit {
        current: fifth.map(|n| n + 1),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let before = prlimit(pid, Resource::Nofile, limit)?;
    anyhow::ensure!(red("descriptors").await?, "descriptors are used up");
    prlimit(pid, Resource::Nofile, before)?;
    anyhow::ensure!(!red("descriptors").await?);
    process.terminate().await
}

/// Whoever opens connections without end takes no descriptor that facts need to be kept and to land, and
/// the state of the daemon is answered.
#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_descriptors_for_facts_and_state() -> anyhow::Result<()> {
    const DESCRIPTORS: u64 = 160;
    let dir = project(Setup::default(), "")?;
    let context = Context::open(dir.path()).await?;
    let mut process = Process::start_with_descriptors(dir.path(), &["speed"], DESCRIPTORS)?;
    let client = process.ready(&context).await?;
    let address = client.address().http.clone();
    // A producer that was there before.
    let mut producer = TcpStream::connect(&address).await?;
    let body = lines(100);
    let sent = format!(
        "POST /topics/facts HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut post = async || {
        producer.write_all(sent.as_bytes()).await?;
        let mut answer = vec![0; 4_096];
        let n = tokio::time::timeout(PATIENCE, producer.read(&mut answer)).await??;
        let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
        anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        anyhow::Ok(())
    };
    post().await?;
    let mut flood = Vec::new();
    for round in 0..5 {
        for _ in 0..2 * DESCRIPTORS / 5 {
            flood.push(TcpStream::connect(&address).await?);
        }
        post().await?;
        let open = std::fs::read_dir(format!("/proc/{}/fd", process.id()))?.count() as u64;
        anyhow::ensure!(open < DESCRIPTORS, "round {round}: {open} are open");
    }
    until("health is answered", async || {
        let answered = request("GET", &address, "/health", &[], b"").await;
        Ok(answered.is_ok_and(|(status, _)| status == 200))
    })
    .await?;
    until("the facts land", async || {
        context.catalogue.refresh().await?;
        let head = context.log("facts").await?.head();
        Ok(anabranch_shared::Offsets::default().distance_to(&head) == 600)
    })
    .await?;
    drop(flood);
    process.terminate().await
}

/// A query for which there is no descriptor is refused for a while, and not as if it were wrong or
/// the data damaged; with as many as before it is answered.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_open_files_is_unavailable() -> anyhow::Result<()> {
    let dir = project(Setup::default(), "")?;
    let context = Context::open(dir.path()).await?;
    let mut process = Process::start(dir.path(), &["speed"])?;
    let client = process.ready(&context).await?;
    client.write_ndjson("facts", lines(10).into()).await?;
    until("they land", async || {
        context.catalogue.refresh().await?;
        let head = context.log("facts").await?.head();
        Ok(anabranch_shared::Offsets::default().distance_to(&head) == 10)
    })
    .await?;
    let address = client.address().http.clone();
    // Opened before, as a pool of connections has them.
    let mut asking = TcpStream::connect(&address).await?;
    let sql = "SELECT sum(id) AS n FROM facts";
    let sent = format!(
        "POST /sql HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{sql}",
        sql.len()
    );
    let mut ask = async || {
        asking.write_all(sent.as_bytes()).await?;
        let mut answer = vec![0; 4_096];
        let n = tokio::time::timeout(PATIENCE, asking.read(&mut answer)).await??;
        anyhow::Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
    };
    let right = "[{\"n\":45}]";
    let answer = ask().await?;
    anyhow::ensure!(answer.ends_with(right), "{answer}");
    let pid = Pid::from_raw(i32::try_from(process.id())?);
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.id()))?.count() as u64;
    let limited = |more: u64| Rlimit {
        current: Some(open + more),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    // Enough to see that there are too few.
    let before = prlimit(pid, Resource::Nofile, limited(3))?;
    let (status, why) = error(&ask().await?)?;
    anyhow::ensure!(
        status == 503 && why.contains("descriptors are open"),
        "{status} {why}"
    );
    // None at all: what can't be opened is not there for now.
    prlimit(pid, Resource::Nofile, limited(0))?;
    let answer = ask().await?;
    if !answer.ends_with(right) {
        let (status, why) = error(&answer)?;
        anyhow::ensure!(status == 503, "{status} {why}");
    }
    prlimit(pid, Resource::Nofile, before)?;
    let answer = ask().await?;
    anyhow::ensure!(answer.ends_with(right), "{answer}");
    process.terminate().await
}

/// What only needs attention leaves a node green, unless that is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_needs_attention_is_red_where_that_is_asked_for() -> anyhow::Result<()> {
    let dir = project(Setup::default(), "")?;
    let sql = dir.path().join("words.sql");
    std::fs::write(
        &sql,
        "SELECT word, sum(10 / (id - 5)) AS s FROM facts GROUP BY word",
    )?;
    let daemon = Daemon::start(dir.path()).await?;
    daemon.post("facts", &[], lines(10).as_bytes()).await?;
    daemon.landed("facts", 10).await?;
    let refreshed = run(dir.path(), &["batch", "refresh"]).await?;
    anyhow::ensure!(!refreshed.status.success());
    until("it is known", async || {
        let (_, said) = ready(&daemon, "").await?;
        let all = said["attention"].to_string();
        Ok(all.contains("view `words` does not answer")
            && all.contains("refresh of view `words` failed"))
    })
    .await?;
    anyhow::ensure!(ready(&daemon, "").await?.0 == 200);
    anyhow::ensure!(ready(&daemon, "?strict").await?.0 == 503);
    anyhow::ensure!(ready(&daemon, "?strict=true").await?.0 == 503);
    let (_, metrics) = daemon.get("/metrics").await?;
    for row in [
        "anabranch_ready 1",
        "anabranch_view_fails{view=\"words\"} 1",
        "anabranch_job_fails{view=\"words\",job=\"refresh\"} 1",
    ] {
        anyhow::ensure!(metrics.lines().any(|l| l == row), "no `{row}`: {metrics}");
    }
    daemon.stop().await
}

/// A reader that does not read and a head that does not end can't keep a daemon, and its facts land.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_cannot_keep_a_daemon() -> anyhow::Result<()> {
    let setup = Setup {
        daemon: "shutdown_timeout = \"4s\"",
        ..Default::default()
    };
    let dir = project(setup, "")?;
    let context = Context::open(dir.path()).await?;
    let mut process = Process::start(dir.path(), &["speed"])?;
    let client = process.ready(&context).await?;
    let address = client.address().http.clone();
    client.write_ndjson("facts", lines(1_000).into()).await?;
    let sql = "SELECT a.id, b.id AS other, a.word FROM facts a CROSS JOIN facts b";
    let head = format!(
        "POST /sql HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{sql}",
        sql.len()
    );
    let mut stuck = TcpStream::connect(&address).await?;
    stuck.write_all(head.as_bytes()).await?;
    // The answer has begun.
    tokio::time::timeout(PATIENCE, stuck.peek(&mut [0; 1])).await??;
    let mut half = TcpStream::connect(&address).await?;
    half.write_all(b"GET /health HTTP/1.1\r\nhost: ").await?;
    let begun = Instant::now();
    process.terminate().await?;
    let took = begun.elapsed();
    anyhow::ensure!(took < Duration::from_secs(8), "{took:?}");
    context.catalogue.refresh().await?;
    let head = context.log("facts").await?.head();
    let landed = anabranch_shared::Offsets::default().distance_to(&head);
    anyhow::ensure!(landed == 1_000, "{landed}");
    drop((stuck, half));
    Ok(())
}

/// A daemon that stops refuses facts and answers questions; a second signal ends it at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_daemon_that_stops() -> anyhow::Result<()> {
    let dir = project(Setup::default(), "")?;
    let context = Context::open(dir.path()).await?;
    let points = "land-before-cut=sleep(60000)";
    let mut process = Process::start_with(dir.path(), &["speed"], points)?;
    let client = process.ready(&context).await?;
    let address = client.address().http.clone();
    client.write_ndjson("facts", lines(10).into()).await?;
    signal(&process, Signal::TERM)?;
    until("facts are refused", async || {
        let body = lines(1);
        let sent = request("POST", &address, "/topics/facts", &[], body.as_bytes()).await?;
        Ok(sent.0 == 503 && sent.1.contains("stopping"))
    })
    .await?;
    let asked = request(
        "POST",
        &address,
        "/sql",
        &[],
        b"SELECT count(*) AS n FROM facts",
    )
    .await?;
    anyhow::ensure!(asked.0 == 200, "{asked:?}");
    let (status, said) = request("GET", &address, "/ready", &[], b"").await?;
    anyhow::ensure!(status == 503 && said.contains("stopping"), "{said}");
    let begun = Instant::now();
    signal(&process, Signal::TERM)?;
    let ended = process.ended().await?;
    anyhow::ensure!(
        ended.code() == Some(75) && begun.elapsed() < Duration::from_secs(5),
        "{ended} after {:?}",
        begun.elapsed()
    );
    Ok(())
}

/// Facts that can't land in time stay in the WAL, and stopping ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_in_time_whatever_does_not_land() -> anyhow::Result<()> {
    let setup = Setup {
        daemon: "shutdown_timeout = \"2s\"",
        ..Default::default()
    };
    let dir = project(setup, "")?;
    let context = Context::open(dir.path()).await?;
    let points = "land-before-commit=sleep(60000)";
    let mut process = Process::start_with(dir.path(), &["speed"], points)?;
    let client = process.ready(&context).await?;
    client.write_ndjson("facts", lines(10).into()).await?;
    let begun = Instant::now();
    signal(&process, Signal::TERM)?;
    let ended = process.ended().await?;
    let said = process.errors().await;
    anyhow::ensure!(
        ended.code() == Some(69)
            && said.contains("`shutdown_timeout`")
            && begun.elapsed() < Duration::from_secs(6),
        "{ended} after {:?}: {said}",
        begun.elapsed()
    );
    let daemon = Daemon::start(dir.path()).await?;
    daemon.landed("facts", 10).await?;
    daemon.stop().await
}

/// A task that panics is told by everything that could tell it.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ends_is_missed() -> anyhow::Result<()> {
    let dir = project(Setup::default(), "")?;
    let context = Context::open(dir.path()).await?;
    let mut process = Process::start_with(dir.path(), &["speed"], "task-of-notes=panic")?;
    let client = process.ready(&context).await?;
    let address = client.address().http.clone();
    until("it is red", async || {
        let (status, said) = request("GET", &address, "/ready", &[], b"").await?;
        Ok(status == 503 && said.contains("task notes"))
    })
    .await?;
    let shown = run_well(dir.path(), &["status"]).await?;
    anyhow::ensure!(
        shown.contains("the task `notes` of a daemon has ended"),
        "{shown}"
    );
    let (_, metrics) = request("GET", &address, "/metrics", &[], b"").await?;
    let row = "anabranch_task_ended{task=\"notes\"} 1";
    anyhow::ensure!(metrics.lines().any(|l| l == row), "{metrics}");
    client.write_ndjson("facts", lines(10).into()).await?;
    signal(&process, Signal::TERM)?;
    let ended = process.ended().await?;
    let said = process.errors().await;
    anyhow::ensure!(
        ended.code() == Some(70) && said.contains("`notes`: it panicked"),
        "{ended}: {said}"
    );
    Ok(())
}

/// A daemon that can't listen leaves no thread, no lock and no address behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_cannot_start_leaves_nothing() -> anyhow::Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let dir = project(Setup::default(), "")?;
    let path = dir.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&path)?;
    let text = text.replace("127.0.0.1:0", &taken.local_addr()?.to_string());
    let text = text.replace("facts", "leftover");
    std::fs::write(&path, &text)?;
    std::fs::write(
        dir.path().join("words.sql"),
        "SELECT word, count(*) AS n FROM leftover GROUP BY word",
    )?;
    let context = Context::open(dir.path()).await?;
    let started = anabranch_jobs::node::run::run(&context, true).await;
    anyhow::ensure!(started.is_err_and(|e| e.to_string().contains("can't listen on")));
    until("its threads have ended", async || {
        for task in std::fs::read_dir("/proc/self/task")? {
            let name = std::fs::read_to_string(task?.path().join("comm"));
            if name.is_ok_and(|name| name.trim() == "wal-leftover") {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await?;
    let daemon = anabranch_jobs::node::open::open(&context).await?;
    daemon.close().await;
    let known = anabranch_jobs::reader::client::Client::look(&context.storage).await?;
    anyhow::ensure!(known.alive.is_empty() && known.silent.is_empty());
    Ok(())
}
