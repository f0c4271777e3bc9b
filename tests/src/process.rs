//! The real `anabranch` process: started as a user would, and killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anabranch_jobs::client::Client;
use anabranch_jobs::context::Context;

/// A project with a topic of numbered facts and one view.
pub const PROJECT: &str = r#"
[storage]
url = "file://./data"
[daemon]
http = "127.0.0.1:0"
land_every = "100ms"
[topics.facts]
event_time = "ts"
[topics.facts.fields]
ts = "timestamp not null"
id = "bigint not null"
word = "varchar"
[views.words]
sql = "words.sql"
"#;

/// The view's SQL.
pub const VIEW: &str = "SELECT word, count(*) AS facts, sum(id) AS ids, count(DISTINCT id) AS different FROM facts GROUP BY word";

/// Writes the project.
pub fn write_project(dir: &Path) -> anyhow::Result<()> {
    std::fs::write(dir.join("anabranch.toml"), PROJECT)?;
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

/// Starts a command of the program on a project.
pub fn start(dir: &Path, arguments: &[&str], failpoints: Option<&str>) -> anyhow::Result<Child> {
    let mut command = Command::new(binary()?);
    command.arg("--project").arg(dir).args(arguments);
    command
        .env("ANABRANCH_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match failpoints {
        Some(points) => command.env("FAILPOINTS", points),
        None => command.env_remove("FAILPOINTS"),
    };
    Ok(command.spawn()?)
}

/// Waits until the daemon answers; `None` when its process ended first.
pub async fn ready(context: &Context, child: &mut Child) -> anyhow::Result<Option<Client>> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if let Some(client) = Client::find(&context.storage).await? {
            return Ok(Some(client));
        }
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("the daemon does not answer after 60 s")
}

/// Ends a process with SIGTERM and waits for it.
pub fn terminate(child: &mut Child) -> anyhow::Result<()> {
    let pid = i32::try_from(child.id())?;
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    }
    child.wait()?;
    Ok(())
}
