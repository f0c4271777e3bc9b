//! A project in a temporary folder, and processes of the command on it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// The topic and the views of most tests.
pub(crate) const PROJECT: &str = r#"
[storage]
url = "file://./data"
[daemon]
http = "127.0.0.1:0"
[topics.facts]
event_time = "ts"
[topics.facts.fields]
ts = "timestamp not null"
word = "varchar"
n = "bigint"
x = "double"
"#;

pub(crate) struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    /// A project with these views: name, SQL, and further settings.
    pub(crate) fn new(views: &[(&str, &str, &str)]) -> Result<Self> {
        let project = Self {
            dir: tempfile::tempdir()?,
        };
        project.write_views(views)?;
        Ok(project)
    }

    pub(crate) fn write_views(&self, views: &[(&str, &str, &str)]) -> Result<()> {
        let mut settings = PROJECT.to_owned();
        for (name, sql, more) in views {
            settings += &format!("[views.{name}]\nsql = \"{name}.sql\"\n{more}\n");
            std::fs::write(self.path(&format!("{name}.sql")), sql)?;
        }
        Ok(std::fs::write(self.path("anabranch.toml"), settings)?)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
        command.arg("--project").arg(self.dir.path());
        command.args(arguments);
        // Servers of tests are on this machine, whatever proxy its owner has.
        command
            .env("NO_PROXY", "127.0.0.1")
            .env("HOME", self.dir.path());
        command.env("ANABRANCH_LOG", "error").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments).output()?)
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Result<String> {
        let out = self.run(arguments)?;
        ensure!(out.status.success(), "{arguments:?}: {}", said(&out));
        Ok(String::from_utf8(out.stdout)?)
    }

    /// The JSON that a command prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut all = vec!["--format", "json"];
        all.extend(arguments);
        Ok(serde_json::from_str(&self.ok(&all)?)?)
    }

    /// What a command says on standard error that must fail with this exit code.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> Result<String> {
        let out = self.run(arguments)?;
        let said = said(&out);
        ensure!(
            out.status.code() == Some(code),
            "{arguments:?}: {:?} {said}",
            out.status
        );
        Ok(said)
    }

    /// Ingests facts with these numbers: `n`, and from it a word, a time and a half.
    pub(crate) fn ingest(&self, numbers: std::ops::Range<u64>) -> Result<()> {
        let path = self.path(&format!("facts-{}.ndjson", numbers.start));
        std::fs::write(&path, lines(numbers))?;
        self.ok(&["ingest", "facts", &path.display().to_string()])?;
        Ok(())
    }

    /// Starts a command that runs until it is ended.
    pub(crate) fn start(&self, arguments: &[&str]) -> Result<Process> {
        start(self.command(arguments))
    }

    /// Starts the daemon; gives it and its address.
    pub(crate) fn daemon(&self) -> Result<(Process, String)> {
        let mut process = self.start(&["speed"])?;
        let line = process.wait_for(" http=")?;
        let http = line
            .split(" http=")
            .nth(1)
            .and_then(|r| r.split(' ').next());
        let address = http.context("no address")?.trim().to_owned();
        Ok((process, address))
    }
}

/// Starts a command with its log to be read.
pub(crate) fn start(mut command: Command) -> Result<Process> {
    command.env("ANABRANCH_LOG", "info");
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    Process::new(command.spawn()?)
}

/// Facts as NDJSON.
pub(crate) fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers
        .map(|n| {
            let (minute, word) = (n / 60 % 60, n % 1_000);
            let second = n % 60;
            let x = n as f64 / 2.0;
            format!("{{\"ts\":\"2026-01-01T10:{minute:02}:{second:02}Z\",\"word\":\"w{word}\",\"n\":{n},\"x\":{x}}}\n")
        })
        .collect()
}

pub(crate) fn said(out: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&out.stdout), text(&out.stderr))
}

/// A running process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: Receiver<String>,
}

/// A line of a log that does not come for so long never comes.
const PATIENCE: Duration = Duration::from_secs(60);

impl Process {
    fn new(mut child: Child) -> Result<Self> {
        let log = BufReader::new(child.stderr.take().context("no log")?);
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut lines = log.lines().map_while(std::io::Result::ok);
            lines.all(|line| sender.send(line).is_ok())
        });
        Ok(Self {
            child,
            log: receiver,
        })
    }

    /// The next line of the log that holds `text`.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<String> {
        let mut seen = String::new();
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.with_context(|| format!("no `{text}` in the log: {seen}"))?;
            if line.contains(text) {
                return Ok(line);
            }
            seen += &line;
        }
    }

    /// Ends the process with a signal; gives its exit code and the rest of its log.
    pub(crate) fn end(mut self, signal: rustix::process::Signal) -> Result<(Option<i32>, String)> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id())?);
        rustix::process::kill_process(pid.context("no pid")?, signal)?;
        let code = self.child.wait()?.code();
        Ok((code, self.log.iter().collect::<Vec<_>>().join("\n")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits until something is so.
pub(crate) fn wait_for_true(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = std::time::Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < PATIENCE, "not so in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
