//! `anabranch ingest` of URLs, from a small server in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_LENGTH;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::support::{Project, lines};

/// A server; `broken` makes it cut `/second.ndjson` half-way.
async fn serve(broken: Arc<AtomicBool>) -> Result<String> {
    let second = |State(broken): State<Arc<AtomicBool>>| async move {
        let whole = lines(100..300);
        match broken.load(Ordering::SeqCst) {
            true => cut(whole),
            false => whole.into_response(),
        }
    };
    let app = Router::new()
        .route("/a%20folder/first.ndjson", get(|| async { lines(0..100) }))
        .route("/first.ndjson", get(|| async { lines(0..100) }))
        .route("/second.ndjson", get(second))
        .route("/third.csv.gz", get(|| async { csv_gz() }))
        .with_state(broken);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(format!("http://{address}"))
}

/// An answer that promises all of `whole`, gives half of it, and ends the connection.
fn cut(whole: String) -> Response {
    let half = Bytes::from(whole.as_bytes()[..whole.len() / 2].to_vec());
    let broken = futures::stream::iter([Ok(half), Err(std::io::Error::other("gone"))]);
    let length = [(CONTENT_LENGTH, whole.len().to_string())];
    (length, Body::from_stream(broken)).into_response()
}

/// `ts,word` with one row, gzipped with stored blocks (RFC 1951, 3.2.4).
fn csv_gz() -> Vec<u8> {
    let text = b"ts,word\n2026-01-01T00:00:00Z,zipped\n";
    let mut crc = !0_u32;
    for byte in text {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let length = text.len() as u16;
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(text);
    out.extend_from_slice(&(!crc).to_le_bytes());
    out.extend_from_slice(&u32::from(length).to_le_bytes());
    out
}

fn count(project: &Project) -> Result<String> {
    let sql = "SELECT count(*) AS n, count(DISTINCT n) AS d FROM facts";
    project.ok(&["--format", "csv", "sql", "-c", sql])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_doubles_nothing() -> Result<()> {
    let project = Project::new(&[])?;
    let broken = Arc::new(AtomicBool::new(true));
    let server = serve(broken.clone()).await?;
    let (first, second) = (
        format!("{server}/first.ndjson"),
        format!("{server}/second.ndjson"),
    );
    let arguments = ["--format", "json", "ingest", "facts", &first, &second];
    let said = project.fails(69, &arguments)?;
    ensure!(
        said.contains("second.ndjson` can't be downloaded"),
        "{said}"
    );
    ensure!(count(&project)? == "n,d\n100,100\n");
    broken.store(false, Ordering::SeqCst);
    let mended = project.json(&arguments[2..])?;
    ensure!(
        mended["facts"] == 200 && mended["repeated"] == 1,
        "{mended}"
    );
    let again = project.json(&arguments[2..])?;
    ensure!(again["facts"] == 0 && again["repeated"] == 2, "{again}");
    ensure!(count(&project)? == "n,d\n300,300\n");
    // The same content under another name, here a path with a space, is the same content.
    let other = project.json(&[
        "ingest",
        "facts",
        &format!("{server}/a%20folder/first.ndjson"),
    ])?;
    ensure!(other["facts"] == 0 && other["repeated"] == 1, "{other}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_go_by_their_names_also_through_the_daemon() -> Result<()> {
    let project = Project::new(&[])?;
    let server = serve(Arc::default()).await?;
    let zipped = project.json(&["ingest", "facts", &format!("{server}/third.csv.gz")])?;
    ensure!(zipped["facts"] == 1, "{zipped}");
    let (_daemon, _) = project.daemon()?;
    let bad = project.path("bad.ndjson");
    std::fs::write(&bad, format!("{}nothing\n", lines(0..3)))?;
    let url = format!("file://{}", bad.display());
    let local = project.run(&["--format", "json", "ingest", "facts", &url])?;
    ensure!(local.status.code() == Some(2), "{local:?}");
    ensure!(String::from_utf8(local.stdout)?.contains("\"facts\":3,\"dead_letters\":1"));
    let source = project.ok(&[
        "--format",
        "csv",
        "sql",
        "-c",
        "SELECT source FROM dead_letters",
    ])?;
    ensure!(source == format!("source\n{url}\n"), "{source}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said() -> Result<()> {
    let project = Project::new(&[])?;
    let server = serve(Arc::default()).await?;
    let ingest = |code: i32, url: &str| project.fails(code, &["ingest", "facts", url]);
    let absent = ingest(66, &format!("{server}/nowhere.ndjson"))?;
    ensure!(
        absent.contains("/nowhere.ndjson`: the server has no such file"),
        "{absent}"
    );
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await?
        .local_addr()?;
    let refused = ingest(69, &format!("http://{free}/f.ndjson"))?;
    ensure!(refused.contains("can't be downloaded"), "{refused}");
    let glob = ingest(64, &format!("{server}/*.ndjson"))?;
    ensure!(glob.contains("globs are for local files"), "{glob}");
    let query = ingest(64, &format!("{server}/f.ndjson?token=1"))?;
    ensure!(query.contains("curl"), "{query}");
    let scheme = ingest(64, "ftp://127.0.0.1/f.ndjson")?;
    ensure!(scheme.contains("`s3://`"), "{scheme}");
    let gone = ingest(66, "file:///nowhere/f.ndjson")?;
    ensure!(gone.contains("/nowhere/f.ndjson"), "{gone}");
    ensure!(count(&project)? == "n,d\n0,0\n");
    Ok(())
}
