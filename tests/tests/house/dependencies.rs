//! What the program is made of: where crates come from, under which licences, and that those through which
//! our crates speak to each other are there once.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Licences (SPDX) that ask for no more than to be named. Each that a crate may be taken under has to be one.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// The one place that crates come from.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Crates whose types go from one crate to another.
const ONCE: &[&str] = &[
    "arrow",
    "bytes",
    "datafusion",
    "http",
    "hyper",
    "object_store",
    "parquet",
    "prost",
    "rustls",
    "sqlparser",
    "tokio",
    "tonic",
];

/// What stands for a second TLS beside rustls on ring.
const OTHER_TLS: &[&str] = &["aws-lc-rs", "aws-lc-sys", "native-tls", "openssl-sys"];

/// All crates that are built here.
fn packages() -> anyhow::Result<Vec<Value>> {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let rustc = Command::new("rustc").arg("-vV").output()?;
    let host = String::from_utf8(rustc.stdout)?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or_else(|| anyhow::anyhow!("rustc names no host"))?;
    let asked = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    let complained = String::from_utf8_lossy(&asked.stderr);
    anyhow::ensure!(asked.status.success(), "{complained}");
    let told: Value = serde_json::from_slice(&asked.stdout)?;
    Ok(told["packages"].as_array().cloned().unwrap_or_default())
}

/// The licences that an expression names.
fn named(expression: &str) -> Vec<String> {
    let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
    let apart = plain.replace(" AND ", " OR ");
    apart.split(" OR ").map(|l| l.trim().to_owned()).collect()
}

#[test]
fn crates_may_be_used_and_come_from_one_place() -> anyhow::Result<()> {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    let packages = packages()?;
    anyhow::ensure!(packages.len() > 300, "{} crates", packages.len());
    for package in &packages {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        let (name, version, source) = (text("name"), text("version"), text("source"));
        if !source.is_empty() && source != SOURCE {
            wrong.push(format!("{name} {version} comes from {source}"));
        }
        for licence in named(&text("license")) {
            if !LICENCES.contains(&licence.as_str()) {
                wrong.push(format!("{name} {version} is under `{licence}`"));
            }
        }
        versions.entry(name).or_default().insert(version);
    }
    for name in OTHER_TLS.iter().filter(|n| versions.contains_key(**n)) {
        wrong.push(format!("`{name}` is a second TLS"));
    }
    for name in ONCE {
        let found = versions.get(*name);
        if found.is_none_or(|found| found.len() != 1) {
            wrong.push(format!("`{name}` is to be there once: {found:?}"));
        }
    }
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn each_licence_of_an_expression_is_found() {
    assert_eq!(
        named("(MIT OR Apache-2.0) AND Unicode-3.0"),
        ["MIT", "Apache-2.0", "Unicode-3.0"]
    );
    assert_eq!(named("Unlicense/MIT"), ["Unlicense", "MIT"]);
    let llvm = "Apache-2.0 WITH LLVM-exception";
    assert_eq!(named(&format!("{llvm} OR GPL-3.0")), [llvm, "GPL-3.0"]);
}
