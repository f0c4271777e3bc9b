//! The real `anabranch` process: started as a user would, stopped at a point, and killed.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anabranch_jobs::fail_points::STOP_AT;
use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::client::Client;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::mpsc;

/// How long anything that a test waits for may take: a minute, or the seconds that `ANABRANCH_PATIENCE`
/// names, for tests that are told to take many facts.
fn patience() -> Duration {
    let told = std::env::var("ANABRANCH_PATIENCE").ok();
    Duration::from_secs(told.and_then(|t| t.parse().ok()).unwrap_or(60))
}

/// The view's SQL.
pub const VIEW: &str = "SELECT word, count(*) AS facts, sum(id) AS ids, count(DISTINCT id) AS different FROM facts GROUP BY word";

/// The view's SQL after an edit.
pub const EDITED: &str = "SELECT word, count(*) AS facts, sum(id) AS ids, max(id) AS newest FROM facts WHERE id % 2 = 0 GROUP BY word";

/// What of a project differs between tests.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// `url` in `[storage]`.
    pub storage: &'a str,
    /// More lines of `[storage]`.
    pub of_storage: &'a str,
    /// More lines of `[daemon]`.
    pub daemon: &'a str,
    /// `ack` of the topic.
    pub ack: &'a str,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            storage: "file://./data",
            of_storage: "",
            daemon: "",
            ack: "wal",
        }
    }
}

/// Writes a project with a topic of numbered facts and one view.
pub fn write_project(dir: &Path, setup: Setup<'_>) -> anyhow::Result<()> {
    let Setup {
        storage,
        of_storage,
        daemon,
        ack,
    } = setup;
    let project = format!(
        r#"
[storage]
url = "{storage}"
{of_storage}
[daemon]
http = "127.0.0.1:0"
land_every = "100ms"
{daemon}
[topics.facts]
event_time = "ts"
ack = "{ack}"
[topics.facts.fields]
ts = "timestamp not null"
id = "bigint not null"
word = "varchar"
[views.words]
sql = "words.sql"
"#
    );
    std::fs::write(dir.join("anabranch.toml"), project)?;
    std::fs::write(dir.join("words.sql"), VIEW)?;
    Ok(())
}

/// The program, which lies beside the tests' own folder.
pub fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let dir = own
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("."));
    let path = dir.join("anabranch");
    anyhow::ensure!(
        path.exists(),
        "`{}` is not built: run the whole workspace's tests",
        path.display()
    );
    Ok(path)
}

pub(crate) fn command(dir: &Path, arguments: &[&str]) -> anyhow::Result<Command> {
    Ok(command_of(&binary()?, dir, arguments))
}

fn command_of(program: &Path, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg("--project").arg(dir).args(arguments);
    command
        .env("ANABRANCH_LOG", "warn")
        // What a panic costs most with.
        .env("RUST_BACKTRACE", "1")
        .env_remove("FAILPOINTS")
        .env_remove(STOP_AT)
        .envs(crate::s3::environment())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command of the program to its end.
pub async fn run(dir: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = command(dir, arguments)?;
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// Runs a command of the program to its end, which must be a success. Returns what it printed.
pub async fn run_well(dir: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = run(dir, arguments).await?;
    anyhow::ensure!(
        output.status.success(),
        "`anabranch {}` ends with {}: {}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A running command of the program. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    said: mpsc::UnboundedReceiver<String>,
    errors: mpsc::UnboundedReceiver<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Most have ended by now, and then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn lines(from: impl std::io::Read + Send + 'static) -> mpsc::UnboundedReceiver<String> {
    let (send, receive) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(from).lines().map_while(Result::ok);
        lines.map(|line| send.send(line)).all(|sent| sent.is_ok())
    });
    receive
}

impl Process {
    /// Starts a command of the program on a project.
    pub fn start(dir: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(command(dir, arguments)?)
    }

    /// As [`Process::start`], of another build of the program.
    pub fn start_program(program: &Path, dir: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(command_of(program, dir, arguments))
    }

    /// As [`Process::start`]; the process stops when it passes a fail point for the `nth` time.
    pub fn start_to_stop(
        dir: &Path,
        arguments: &[&str],
        point: &str,
        nth: u64,
    ) -> anyhow::Result<Self> {
        let mut command = command(dir, arguments)?;
        Self::spawn({
            command.env(STOP_AT, format!("{point}:{nth}"));
            command
        })
    }

    /// As [`Process::start`], with what fail points do.
    pub fn start_with(dir: &Path, arguments: &[&str], points: &str) -> anyhow::Result<Self> {
        let mut command = command(dir, arguments)?;
        command.env("FAILPOINTS", points);
        Self::spawn(command)
    }

    /// As [`Process::start`], with no more than so many descriptors.
    pub fn start_with_descriptors(
        dir: &Path,
        arguments: &[&str],
        descriptors: u64,
    ) -> anyhow::Result<Self> {
        let own = command(dir, arguments)?;
        let mut limited = Command::new("sh");
        let script = format!("ulimit -n {descriptors} && exec \"$@\"");
        limited.args(["-c", &script, "sh"]);
        limited.arg(own.get_program()).args(own.get_args());
        for (name, value) in own.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        limited
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self::spawn(limited)
    }

    /// Runs a command of the program up to a fail point, and kills it there with SIGKILL.
    pub async fn killed_at(dir: &Path, arguments: &[&str], point: &str) -> anyhow::Result<()> {
        let mut process = Self::start_to_stop(dir, arguments, point, 1)?;
        process.stopped().await?;
        process.kill()
    }

    fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.spawn()?;
        let missing = || anyhow::anyhow!("no pipe to the process");
        let said = lines(child.stdout.take().ok_or_else(missing)?);
        let errors = lines(child.stderr.take().ok_or_else(missing)?);
        Ok(Self {
            child,
            said,
            errors,
        })
    }

    /// Whether the process runs.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process stops at its point.
    pub async fn stopped(&mut self) -> anyhow::Result<()> {
        let pid = self.pid()?;
        let events = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let waited = tokio::task::spawn_blocking(move || waitid(WaitId::Pid(pid), events));
        let Ok(status) = tokio::time::timeout(patience(), waited).await else {
            // Ends the thread that waits, too.
            self.kill()?;
            anyhow::bail!("the point is not reached within {:?}", patience());
        };
        match status?? {
            Some(status) if status.stopped() => Ok(()),
            status => {
                let errors = self.errors().await;
                let mut said = String::new();
                while let Ok(line) = self.said.try_recv() {
                    said += &line;
                }
                anyhow::bail!("the process ended first, {status:?}: {errors}, and said: {said}")
            }
        }
    }

    /// Pauses it, as a machine does that hangs.
    pub fn pause(&self) -> anyhow::Result<()> {
        pause_process(self.pid()?)
    }

    /// Lets a process that has stopped go on.
    pub fn go_on(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.pid()?, Signal::CONT)?)
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        pid.ok_or_else(|| anyhow::anyhow!("the process has no id"))
    }

    /// Kills the process with SIGKILL and waits for its end.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for the process's own end.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        // Standard output is closed by the end of the process.
        let closed = async { while self.said.recv().await.is_some() {} };
        if tokio::time::timeout(patience(), closed).await.is_err() {
            anyhow::bail!("the process does not end within {:?}", patience());
        }
        Ok(self.child.wait()?)
    }

    /// What the process wrote to standard error, until it closed it.
    pub async fn errors(&mut self) -> String {
        let mut text = String::new();
        while let Some(line) = self.errors.recv().await {
            text += &line;
            text.push('\n');
        }
        text
    }

    /// Ends the process with SIGTERM, once it catches that, and waits for it to end well.
    pub async fn terminate(&mut self) -> anyhow::Result<()> {
        let pid = self.pid()?;
        until("it catches SIGTERM", async || catches(pid, Signal::TERM)).await?;
        kill_process(pid, Signal::TERM)?;
        let status = self.ended().await?;
        anyhow::ensure!(
            status.success(),
            "ends with {status}: {}",
            self.errors().await
        );
        Ok(())
    }

    /// Waits until this daemon answers.
    pub async fn ready(&mut self, context: &Context) -> anyhow::Result<Client> {
        let begun = Instant::now();
        while begun.elapsed() < patience() {
            let all = Client::all(&context.storage).await?;
            if let Some(own) = all.into_iter().find(|c| c.address().pid == self.id()) {
                return Ok(own);
            }
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("the daemon ends with {status}: {}", self.errors().await);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("the daemon does not answer within {:?}", patience())
    }
}

/// Whether a process has a handler for a signal, or has ended already.
fn catches(pid: Pid, signal: Signal) -> anyhow::Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
    let caught = caught.ok_or_else(|| anyhow::anyhow!("no `SigCgt` in {status}"))?;
    let caught = u64::from_str_radix(caught.trim(), 16)?;
    Ok(status.contains("State:\tZ") || caught >> (signal.as_raw() - 1) & 1 == 1)
}

/// Pauses a process, and waits until all its threads stand still: until then it may go on answering.
pub fn pause_process(pid: Pid) -> anyhow::Result<()> {
    kill_process(pid, Signal::STOP)?;
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    let begun = Instant::now();
    loop {
        let mut moving = false;
        for task in std::fs::read_dir(&tasks)? {
            // The state comes after the name, which is in parentheses. A thread may have ended.
            let stat = std::fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").map_or("T", |(_, rest)| rest);
            moving |= !state.starts_with('T');
        }
        if !moving {
            return Ok(());
        }
        anyhow::ensure!(begun.elapsed() < patience(), "it does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Looks again and again until something holds.
pub async fn until<F, R>(what: &str, mut look: F) -> anyhow::Result<()>
where
    F: FnMut() -> R,
    R: Future<Output = anyhow::Result<bool>>,
{
    let begun = Instant::now();
    while !look().await? {
        anyhow::ensure!(
            begun.elapsed() < patience(),
            "{what}: not so in {:?}",
            patience()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
