//! Fail points and planted bugs are in builds of tests alone: a production daemon can't be told to
//! ignore its fence. `.ci/long` runs the release binaries with them.

use std::process::Command;

/// Whether `cargo tree` names the feature that switches them on, by the edges that it is told.
fn has_failpoints(edges: &str) -> anyhow::Result<bool> {
    let out = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--workspace",
            "--invert",
            "fail",
            "--edges",
        ])
        .arg(edges)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()?;
    let said = String::from_utf8(out.stdout)?;
    let why = String::from_utf8_lossy(&out.stderr);
    anyhow::ensure!(
        out.status.success() && said.starts_with("fail v"),
        "{said}{why}"
    );
    Ok(said.contains("fail feature \"failpoints\""))
}

#[test]
fn no_build_for_use_has_fail_points() -> anyhow::Result<()> {
    anyhow::ensure!(
        !has_failpoints("features,normal,build")?,
        "a normal dependency switches fail points on"
    );
    // Tests have them; otherwise this would find nothing at all.
    anyhow::ensure!(has_failpoints("features,normal,build,dev")?);
    anyhow::ensure!(fail::has_failpoints());
    Ok(())
}
