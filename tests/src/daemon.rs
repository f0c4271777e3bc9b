//! A running daemon and what tests ask of it over HTTP.

use std::path::Path;
use std::time::{Duration, Instant};

use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::client::Client;
use anabranch_shared::{Offsets, ReadMode};
use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::{Process, command};

/// Runs a command of the program on a project to its end.
pub fn run(dir: &Path, arguments: &[&str]) -> anyhow::Result<Ran> {
    let out = command(dir, arguments)?
        .env("ANABRANCH_LOG", "error")
        .output()?;
    Ok(Ran {
        code: out.status.code(),
        said: String::from_utf8_lossy(&out.stdout).into_owned(),
        complained: String::from_utf8_lossy(&out.stderr).into_owned(),
    })
}

/// A command that ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub said: String,
    /// Its standard error.
    pub complained: String,
}

/// A running daemon; dropping it kills it.
pub struct Daemon {
    process: Process,
    /// What speaks with it.
    pub client: Client,
    /// Its project.
    pub context: Context,
}

impl Daemon {
    /// Starts a daemon on a project, and waits until it answers.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(dir, &["speed"], "").await
    }

    /// Starts a daemon by a command, with what fail points do, and waits until it answers.
    pub async fn start_with(dir: &Path, command: &[&str], points: &str) -> anyhow::Result<Self> {
        let context = Context::open(dir).await?;
        let mut process = Process::start_with(dir, command, points)?;
        let client = process.ready(&context).await?;
        Ok(Self {
            process,
            client,
            context,
        })
    }

    /// Whether its process runs.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        self.process.runs()
    }

    /// Ends it as a user would.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.process.terminate().await
    }

    /// Ends it as a user would; what it had to complain of.
    pub async fn stopped_with(mut self) -> anyhow::Result<String> {
        self.process.terminate().await?;
        Ok(self.process.errors().await)
    }

    /// Kills it.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// A client of its PostgreSQL door.
    pub async fn over_postgres(&self) -> anyhow::Result<tokio_postgres::Client> {
        let (_, health) = self.get("/health").await?;
        let health: Value = serde_json::from_str(&health)?;
        let address = health["postgres"].as_str().unwrap_or_default();
        let port = address.rsplit(':').next().unwrap_or_default();
        let settings = format!("host=127.0.0.1 port={port} user=me dbname=it");
        let (client, connection) =
            tokio_postgres::connect(&settings, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Asks for a page. Gives the status and the text.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        request("GET", &self.client.address().http, path, &[], b"").await
    }

    /// Sends a request to write. Gives the status and the answer.
    pub async fn post(
        &self,
        topic: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<(u16, Value)> {
        let path = format!("/topics/{topic}");
        let http = &self.client.address().http;
        let (status, text) = request("POST", http, &path, headers, body).await?;
        let answer = serde_json::from_str(&text)
            .map_err(|e| anyhow::anyhow!("the answer {status} is no JSON ({e}): {text}"))?;
        Ok((status, answer))
    }

    /// Asks, and gives the rows as text.
    pub async fn rows(&self, sql: &str) -> anyhow::Result<Vec<Vec<String>>> {
        let answer = self.client.query(sql, ReadMode::Merged).await?;
        shown(&answer.batches)
    }

    /// Waits until no view fails.
    pub async fn serves_all(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let failing = self.client.views_that_fail().await?;
            if failing.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "still failing after 60 s: {failing:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until this many offsets of a topic have landed.
    pub async fn landed(&self, topic: &str, offsets: i64) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            self.context.catalogue.refresh().await?;
            let head = self.context.log(topic).await?.head();
            let landed = Offsets::default().distance_to(&head);
            if landed >= u64::try_from(offsets)? {
                return Ok(());
            }
            anyhow::ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "{landed} of {offsets} offsets landed after 60 s"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The rows of an answer over PostgreSQL as texts, NULL as nothing.
pub async fn texts(client: &tokio_postgres::Client, sql: &str) -> anyhow::Result<Vec<Vec<String>>> {
    use tokio_postgres::SimpleQueryMessage;
    let messages = client.simple_query(sql).await?.into_iter();
    let rows = messages.filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let values = rows.map(|row| {
        let value = |n| row.get(n).unwrap_or_default().to_owned();
        (0..row.len()).map(value).collect()
    });
    Ok(values.collect())
}

/// The cells of an answer as text, `NULL` for NULL.
pub fn shown(batches: &[RecordBatch]) -> anyhow::Result<Vec<Vec<String>>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|c| ArrayFormatter::try_new(c.as_ref(), &options))
            .collect::<Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|c| c.value(row).to_string()).collect());
        }
    }
    Ok(rows)
}

/// One HTTP request on a connection of its own, as plain as it can be. Gives the status and the body.
pub async fn request(
    method: &str,
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> anyhow::Result<(u16, String)> {
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(head.as_bytes()).await?;
    // A daemon that refuses a body may do so before it has read it.
    let sent = stream.write_all(body).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        anyhow::bail!("no answer: sent {sent:?}, read {read:?}");
    };
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    Ok((status.parse()?, body.to_owned()))
}
