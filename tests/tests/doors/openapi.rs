//! The description of HTTP is true: Schemathesis asks what it describes, in thousands of ways, and the
//! daemon answers as it says and fails at none.

use std::path::PathBuf;

use anabranch_tests::daemon::Daemon;
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, write_project};
use anabranch_tests::skip::skipped;
use tokio::process::Command;

/// What may be answered: 503 is a bound that was reached, and not a failure.
const CONFIG: &str = r#"
parameters = { "path.topic" = "facts", "path.view" = "words" }
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", "503"]
[checks.negative_data_rejection]
enabled = false
[checks.positive_data_acceptance]
enabled = false
[checks.unsupported_method]
enabled = false
[checks.ignored_auth]
enabled = false
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_true() -> anyhow::Result<()> {
    let Some(python) = std::env::var_os("ANABRANCH_PYTHON").map(PathBuf::from) else {
        skipped("`ANABRANCH_PYTHON` is not set to a Python of `tests/bench/setup.sh`");
        return Ok(());
    };
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let daemon = Daemon::start(dir.path()).await?;
    let body: String = (0..100).map(line).collect();
    daemon.post("facts", &[], body.as_bytes()).await?;
    std::fs::write(dir.path().join("schemathesis.toml"), CONFIG)?;
    let http = daemon.client.address().http.clone();
    let ran = Command::new(python.with_file_name("schemathesis"))
        .current_dir(dir.path())
        .args(["--config-file", "schemathesis.toml", "run", "--seed", "7"])
        .args([
            "--max-examples",
            "100",
            "--phases",
            "examples,coverage,fuzzing",
        ])
        .args(["--request-timeout", "20", "--no-color"])
        // Who follows a view waits for ever.
        .args(["--exclude-path", "/views/{view}/changes"])
        .arg(format!("http://{http}/openapi.json"))
        .kill_on_drop(true)
        .output()
        .await?;
    let said = String::from_utf8_lossy(&ran.stdout);
    println!("{said}");
    anyhow::ensure!(
        ran.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    daemon.stop().await
}
