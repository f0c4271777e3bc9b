//! The list of cases, `tests/cases.md`: every number has a row, and every test that a row names is
//! in the code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How many cases of each kind were found.
const KINDS: [(&str, u32); 6] = [
    ("I", 8),
    ("IU", 12),
    ("V", 12),
    ("VU", 13),
    ("A", 17),
    ("S", 16),
];

/// The rows of the list: a case's number, and what holds it.
fn rows(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [case, _what, held] = cells.as_slice() else {
            anyhow::bail!("a row of three cells: {line}");
        };
        let twice = rows.insert((*case).to_owned(), (*held).to_owned());
        anyhow::ensure!(twice.is_none(), "`{case}` has two rows");
    }
    Ok(rows)
}

/// The names of tests in a row: what stands in backticks and looks like a path in the code.
fn tests_named(held: &str) -> impl Iterator<Item = &str> {
    held.split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains("::"))
}

/// All Rust sources of the project.
fn sources(below: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(below)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found)?;
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn every_case_has_a_row_and_every_test_named_is_there() -> anyhow::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows = rows(&std::fs::read_to_string(here.join("cases.md"))?)?;
    let mut code = String::new();
    let mut files = Vec::new();
    for folder in ["shared", "batch", "speed", "serving", "jobs", "tests"] {
        sources(&here.join("..").join(folder), &mut files)?;
    }
    for file in files {
        code += &std::fs::read_to_string(file)?;
    }
    for (kind, many) in KINDS {
        for number in 1..=many {
            let case = format!("{kind}{number}");
            let held = rows.get(&case);
            let held = held.ok_or_else(|| anyhow::anyhow!("`{case}` has no row"))?;
            let named: Vec<&str> = tests_named(held).collect();
            let open = held.starts_with("open") || held.starts_with("refused: ");
            anyhow::ensure!(open || !named.is_empty(), "`{case}`: {held}");
            for test in named {
                let name = test.rsplit("::").next().unwrap_or(test);
                anyhow::ensure!(
                    code.contains(&format!("fn {name}(")),
                    "`{case}`: no test `{test}`"
                );
            }
        }
    }
    Ok(())
}
