//! Encryption of the doors: what is spoken over it, what is refused without it, and daemons that ask
//! each other through it.

use std::path::Path;
use std::process::Command;

use anabranch_shared::ReadMode;
use anabranch_tests::daemon::{Daemon, request, run, shown};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Process, Setup, run_well, until, write_project};
use anabranch_tests::skip::skipped;
use arrow_flight::sql::client::FlightSqlServiceClient;
use serde_json::Value;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::gather::{Two, ask};
use super::users::Guarded;

const TLS: &str = "[tls]\ncertificate = \"server.crt\"\nkey = \"server.key\"";

/// Writes a certificate for this machine, signed by itself, and its key. Returns the certificate.
fn certify(dir: &Path) -> anyhow::Result<String> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)?;
    let certificate = made.cert.pem();
    std::fs::write(dir.join("server.key"), made.signing_key.serialize_pem())?;
    std::fs::write(dir.join("server.crt"), &certificate)?;
    Ok(certificate)
}

/// A client of HTTP that trusts one certificate.
fn trusting(certificate: &str) -> anyhow::Result<reqwest::Client> {
    let root = reqwest::Certificate::from_pem(certificate.as_bytes())?;
    let client = reqwest::Client::builder()
        .tls_built_in_root_certs(false)
        .add_root_certificate(root);
    Ok(client.build()?)
}

/// A driver's encryption that trusts one certificate.
fn of_driver(certificate: &str) -> anyhow::Result<MakeRustlsConnect> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// Where the clients of a door are answered, by what `/health` says.
async fn port_of(client: &reqwest::Client, http: &str, door: &str) -> anyhow::Result<u16> {
    let url = format!("https://{http}/health");
    let text = client.get(url).send().await?.text().await?;
    let health: Value = serde_json::from_str(&text)?;
    let address = health[door].as_str().unwrap_or_default();
    Ok(address.rsplit(':').next().unwrap_or_default().parse()?)
}

/// Asks over Arrow Flight SQL, encrypted, and is refused in clear text.
async fn over_flight(port: u16, certificate: &str, token: &str) -> anyhow::Result<()> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(certificate))
        .domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}"))?;
    let channel = endpoint.tls_config(tls)?.connect().await?;
    let mut client = FlightSqlServiceClient::new(channel);
    client.set_token(token.to_owned());
    let sql = "SELECT sum(facts) AS n FROM words";
    let found = anabranch_tests::flight::rows(&mut client, sql).await?;
    anyhow::ensure!(shown(&found)? == [["100"]], "{found:?}");
    let plain = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
    let refused = match plain.connect().await {
        Err(_) => true,
        Ok(channel) => {
            let mut client = FlightSqlServiceClient::new(channel);
            client.set_token(token.to_owned());
            anabranch_tests::flight::rows(&mut client, sql)
                .await
                .is_err()
        }
    };
    anyhow::ensure!(refused, "clear text is taken");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_doors_encrypt() -> anyhow::Result<()> {
    let guarded = Guarded::new(&format!("[doors.flight]\nlisten = \"127.0.0.1:0\"\n{TLS}"))?;
    let certificate = certify(guarded.path())?;
    let root = guarded.add("root", &["admin"]).await?;
    let daemon = Daemon::start(guarded.path()).await?;
    let http = daemon.client.address().http.clone();
    let client = trusting(&certificate)?;
    let facts: String = (0..100).map(line).collect();
    let sent = client
        .post(format!("https://{http}/topics/facts"))
        .bearer_auth(&root)
        .body(facts)
        .send()
        .await?;
    anyhow::ensure!(sent.status() == 200, "{sent:?}");
    // Who does not trust it is not told anything, and who does not encrypt is told to.
    let strangers = reqwest::Client::new();
    let e = strangers.get(format!("https://{http}/health")).send().await;
    anyhow::ensure!(e.is_err());
    let (status, answer) = request("GET", &http, "/health", &[], b"").await?;
    anyhow::ensure!(
        status == 400 && answer.contains("https://"),
        "{status} {answer}"
    );
    // A driver gets in, and not in clear text.
    over_flight(
        port_of(&client, &http, "flight").await?,
        &certificate,
        &root,
    )
    .await?;
    let port = port_of(&client, &http, "postgres").await?;
    let mut config = tokio_postgres::Config::new();
    config
        .host("localhost")
        .port(port)
        .user("root")
        .password(&root)
        .ssl_mode(SslMode::Require);
    let (driver, connection) = config.connect(of_driver(&certificate)?).await?;
    let connection = tokio::spawn(connection);
    let row = driver
        .query_one("SELECT sum(facts) FROM words", &[])
        .await?;
    anyhow::ensure!(format!("{row:?}").contains("Row"), "{row:?}");
    let mut plain = config.clone();
    plain.ssl_mode(SslMode::Disable);
    let refused = plain.connect(tokio_postgres::NoTls).await.err();
    let text = format!("{refused:?}");
    anyhow::ensure!(
        text.contains("28000") && text.contains("sslmode=require"),
        "{text}"
    );
    // A large answer goes over whole.
    let sql = "SELECT repeat('x', 1000) FROM generate_series(1, 20000)";
    let rows = driver.query(sql, &[]).await?;
    anyhow::ensure!(rows.len() == 20_000, "{}", rows.len());
    // Commands of the project know the certificate from the storage.
    let said = run_well(
        guarded.path(),
        &["sql", "-c", "SELECT sum(facts) AS n FROM words"],
    )
    .await?;
    anyhow::ensure!(said.contains("100"), "{said}");
    bound(&guarded, port, &root)?;
    elsewhere(&guarded, &http, &root)?;
    // Another certificate is taken as it comes, and what is open goes on.
    let next = certify(guarded.path())?;
    let renewed = trusting(&next)?;
    until("the new certificate", async || {
        let asked = renewed.get(format!("https://{http}/health")).send().await;
        Ok(asked.is_ok())
    })
    .await?;
    anyhow::ensure!(driver.query_one("SELECT 1", &[]).await.is_ok());
    until("commands know it", async || {
        let ran = run(guarded.path(), &["--format", "json", "queries"])?;
        Ok(ran.code == Some(0))
    })
    .await?;
    // One that can't be used is not.
    std::fs::write(guarded.path().join("server.crt"), "nonsense")?;
    until("it is told", async || {
        let ready = renewed
            .get(format!("https://{http}/ready"))
            .bearer_auth(&root);
        let text = ready.send().await?.text().await?;
        Ok(text.contains("the certificate stays as it was"))
    })
    .await?;
    drop(driver);
    connection.await?.ok();
    daemon.stop().await?;
    let ran = run(guarded.path(), &["speed"])?;
    anyhow::ensure!(
        ran.code == Some(64) && ran.complained.contains("server.crt"),
        "{ran:?}"
    );
    Ok(())
}

/// The shell asks by URL and token, and trusts whom it is told to.
fn elsewhere(guarded: &Guarded, http: &str, token: &str) -> anyhow::Result<()> {
    let folder = places::folder()?;
    let file = |name: &str, text: &str| -> anyhow::Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let (right, wrong) = (file("token", token)?, file("wrong", "ab_x_y")?);
    let ca = guarded.path().join("server.crt").display().to_string();
    let url = format!("https://{http}");
    let ask = |url: &str, more: &[&str]| {
        let sql = "SELECT sum(facts) AS n FROM words";
        let arguments = ["--format", "csv", "sql", "-c", sql, "--url", url];
        // No project is there.
        run(folder.path(), &[&arguments, more].concat())
    };
    let ran = ask(&url, &["--token-file", &right, "--ca", &ca])?;
    anyhow::ensure!(ran.said == "n\n100\n", "{ran:?}");
    for (url, more, code, part) in [
        (
            url.as_str(),
            vec!["--token-file", wrong.as_str(), "--ca", &ca],
            77,
            "no longer opens",
        ),
        (&url, vec!["--ca", &ca], 77, "Bearer TOKEN"),
        (&url, vec!["--token-file", &right], 69, "certificate"),
        (
            &url,
            vec!["--token-file", &right, "--ca", &right],
            64,
            "no certificate",
        ),
        (
            &format!("http://{http}"),
            vec!["--token-file", &right],
            64,
            "https://",
        ),
        (
            "https://127.0.0.1:1",
            vec!["--token-file", &right],
            69,
            "does not answer",
        ),
        ("ftp://127.0.0.1", vec![], 64, "http://HOST:PORT"),
        ("nonsense", vec![], 64, "nonsense"),
    ] {
        let ran = ask(url, &more)?;
        anyhow::ensure!(
            ran.code == Some(code) && ran.complained.contains(part),
            "{url} {more:?}: {ran:?}"
        );
        anyhow::ensure!(!ran.complained.contains(token), "{ran:?}");
    }
    Ok(())
}

/// PostgreSQL's own library verifies the certificate and binds its log-in to the connection: in psycopg
/// and in psql, which begins in two ways.
fn bound(guarded: &Guarded, port: u16, token: &str) -> anyhow::Result<()> {
    const SQL: &str = "SELECT sum(facts) FROM words";
    let root = guarded.path().join("server.crt");
    let settings = format!(
        "host=localhost port={port} user=root dbname=it sslmode=verify-full channel_binding=require sslrootcert={}",
        root.display()
    );
    let mut ran = 0;
    let mut ask = |command: &mut Command| {
        let out = command.env("PGPASSWORD", token).output()?;
        let said = String::from_utf8_lossy(&out.stdout);
        anyhow::ensure!(said.trim() == "100", "{command:?}: {out:?}");
        ran += 1;
        anyhow::Ok(())
    };
    if let Some(python) = std::env::var_os("ANABRANCH_PYTHON") {
        let script = "import psycopg, sys\nprint(psycopg.connect(sys.argv[1]).execute(sys.argv[2]).fetchone()[0])";
        ask(Command::new(python).args(["-c", script, &settings, SQL]))?;
    }
    if let Ok(version) = Command::new("psql").arg("--version").output() {
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let major = version.split_whitespace().nth(2).unwrap_or_default();
        let major: u32 = major.split('.').next().unwrap_or_default().parse()?;
        ask(Command::new("psql").args([&settings, "-XAtc", SQL]))?;
        if major >= 17 {
            let direct = format!("{settings} sslnegotiation=direct");
            ask(Command::new("psql").args([&direct, "-XAtc", SQL]))?;
        }
    }
    if ran == 0 {
        skipped("neither psql nor `ANABRANCH_PYTHON` is there");
    }
    Ok(())
}

/// Each answers with what the other holds, and asks it by the storage's secret, encrypted.
#[tokio::test(flavor = "multi_thread")]
async fn daemons_ask_each_other_by_the_storages_secret() -> anyhow::Result<()> {
    let two = Two::new("1h", "")?;
    for path in two.paths() {
        let file = path.join("anabranch.toml");
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(
            file,
            format!("{text}\n{TLS}\n[users]\nfile = \"users.toml\"\n"),
        )?;
        certify(path)?;
        run_well(path, &["users", "add", "root", "--may", "admin"]).await?;
    }
    let context = two.context().await?;
    let (mut daemons, clients) = super::gather::start(two.paths(), &context).await?;
    for (n, client) in clients.iter().enumerate() {
        let first = n as i64 * 1_000;
        let body: String = (first..first + 50).map(line).collect();
        client.write_ndjson("facts", body.into()).await?;
    }
    for client in &clients {
        let (rows, answer) = ask(client, "SELECT count(*), count(DISTINCT id) FROM facts").await?;
        anyhow::ensure!(rows == [["100", "100"]], "{rows:?}, {:?}", answer.notes);
        anyhow::ensure!(answer.notes.is_empty(), "{:?}", answer.notes);
    }
    // One that begins anew with another certificate is asked again.
    daemons[1].terminate().await?;
    certify(two.paths()[1])?;
    daemons[1] = Process::start(two.paths()[1], &["speed"])?;
    let back = daemons[1].ready(&context).await?;
    let body: String = (5_000..5_010).map(line).collect();
    back.write_ndjson("facts", body.into()).await?;
    until("all of them", async || {
        let answer = clients[0]
            .query("SELECT count(*) FROM facts", ReadMode::Merged)
            .await?;
        Ok(shown(&answer.batches)? == [["110"]] && answer.notes.is_empty())
    })
    .await?;
    for daemon in &mut daemons {
        daemon.terminate().await?;
    }
    Ok(())
}

/// Other machines would reach it.
#[tokio::test(flavor = "multi_thread")]
async fn beyond_this_machine_there_are_users_and_encryption() -> anyhow::Result<()> {
    let users = "[users]\nfile = \"users.toml\"";
    let no_users = "[users]\ninsecure_no_users = true";
    let no_tls = "[tls]\ninsecure_no_tls = true";
    let everybody = "anybody there could do everything";
    let clear = "nothing would be encrypted";
    for (door, more, missing) in [
        ("http", vec![], vec![everybody, clear]),
        ("http", vec![users], vec![clear]),
        ("http", vec![TLS], vec![everybody]),
        ("postgres", vec![], vec![everybody, clear]),
        ("postgres", vec![no_users], vec![clear]),
        ("postgres", vec![no_tls], vec![everybody]),
        ("http", vec![users, TLS], vec![]),
        ("http", vec![no_users, no_tls], vec![]),
        ("postgres", vec![users, no_tls], vec![]),
    ] {
        let dir = places::folder()?;
        write_project(dir.path(), Setup::default())?;
        certify(dir.path())?;
        let path = dir.path().join("anabranch.toml");
        let mut text = std::fs::read_to_string(&path)?;
        match door {
            "http" => text = text.replace("http = \"127.0.0.1:0\"", "http = \"0.0.0.0:0\""),
            _ => text += "\n[doors.postgres]\nlisten = \"0.0.0.0:0\"\n",
        }
        std::fs::write(&path, format!("{text}\n{}\n", more.join("\n")))?;
        if more.contains(&users) {
            run_well(dir.path(), &["users", "add", "root", "--may", "admin"]).await?;
        }
        if missing.is_empty() {
            let daemon = Daemon::start(dir.path()).await?;
            let status = daemon.client.status().await?;
            let dangers = status.doors.iter().filter_map(|d| d.danger()).count();
            let is_open = more.contains(&no_users) || more.contains(&no_tls);
            anyhow::ensure!(dangers == usize::from(is_open), "{:?}", status.doors);
            let said = run_well(dir.path(), &["status"]).await?;
            anyhow::ensure!(
                said.contains("reached by other machines") == is_open,
                "{said}"
            );
            daemon.stop().await?;
            continue;
        }
        let ran = run(dir.path(), &["speed"])?;
        anyhow::ensure!(ran.code == Some(64), "{door} {more:?}: {ran:?}");
        for part in [everybody, clear] {
            let told = ran.complained.contains(part);
            anyhow::ensure!(told == missing.contains(&part), "{door} {more:?}: {ran:?}");
        }
    }
    Ok(())
}
