//! The list of cases, `tests/cases.md`: every number has a row, and every test that a row names is
//! in the code. So it is with the table of bounds, `jobs/docs/bounds.md`: every setting that bounds
//! something has a row with its default.

use std::collections::{BTreeMap, BTreeSet};
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

/// The text of all of them.
fn code() -> anyhow::Result<String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    let mut files = Vec::new();
    for folder in ["shared", "batch", "speed", "serving", "jobs", "tests"] {
        sources(&here.join("..").join(folder), &mut files)?;
    }
    for file in files {
        code += &std::fs::read_to_string(file)?;
    }
    Ok(code)
}

/// Whether a test is in the code.
fn is_there(code: &str, test: &str) -> bool {
    let name = test.rsplit("::").next().unwrap_or(test);
    code.contains(&format!("fn {name}("))
}

/// Settings of these sections that bound nothing.
const NO_BOUNDS: [&str; 11] = [
    "[http] base",
    "[daemon] http",
    "[daemon] advertise",
    "[daemon] wal",
    "[daemon] land_every",
    "[daemon] land_facts",
    "[daemon] land_bytes",
    "[daemon] checkpoint_every",
    "[daemon] maintain_every",
    "[batch] threads",
    "[query] threads",
];

/// Every setting, as `[section] key`, with its default.
fn settings() -> anyhow::Result<BTreeMap<String, String>> {
    let (mut all, mut section) = (BTreeMap::new(), String::new());
    for line in anabranch_shared::settings::reference().lines() {
        if line.starts_with('[') {
            section = line.split("  ").next().unwrap_or_default().to_owned();
        } else if line.starts_with("  ") && !section.is_empty() {
            let cells: Vec<&str> = line.split("  ").map(str::trim).collect();
            let cells: Vec<&str> = cells.into_iter().filter(|cell| !cell.is_empty()).collect();
            let [key, _kind, default, ..] = cells.as_slice() else {
                anyhow::bail!("a setting of three cells and more: {line}");
            };
            all.insert(format!("{section} {key}"), (*default).to_owned());
        } else if !line.is_empty() {
            section.clear();
        }
    }
    Ok(all)
}

#[test]
fn every_bound_has_its_setting_and_its_test() -> anyhow::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(here.join("../jobs/docs/bounds.md"))?;
    let (code, settings) = (code()?, settings()?);
    let mut told = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [bound, setting, default, _then, held] = cells.as_slice() else {
            anyhow::bail!("a row of five cells: {line}");
        };
        if *bound == "bound" {
            continue;
        }
        let tests: Vec<&str> = tests_named(held).collect();
        anyhow::ensure!(!tests.is_empty(), "no test holds `{bound}`");
        for test in tests {
            anyhow::ensure!(is_there(&code, test), "`{bound}`: no test `{test}`");
        }
        let setting = setting.trim_matches('`');
        if setting.starts_with('[') {
            let known = settings.get(setting);
            let known = known.ok_or_else(|| anyhow::anyhow!("no setting `{setting}`"))?;
            anyhow::ensure!(
                known == default.trim_matches('`'),
                "`{setting}` is {known} by default, not {default}"
            );
            told.insert(setting);
        }
    }
    let sections = ["[daemon] ", "[http] ", "[batch] ", "[query] "];
    for setting in settings.keys() {
        let is_bound = sections.iter().any(|section| setting.starts_with(section))
            && !NO_BOUNDS.contains(&setting.as_str());
        anyhow::ensure!(
            !is_bound || told.contains(setting.as_str()),
            "`{setting}` has no row"
        );
    }
    Ok(())
}

#[test]
fn every_case_has_a_row_and_every_test_named_is_there() -> anyhow::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows = rows(&std::fs::read_to_string(here.join("cases.md"))?)?;
    let code = code()?;
    for (kind, many) in KINDS {
        for number in 1..=many {
            let case = format!("{kind}{number}");
            let held = rows.get(&case);
            let held = held.ok_or_else(|| anyhow::anyhow!("`{case}` has no row"))?;
            let named: Vec<&str> = tests_named(held).collect();
            let open = held.starts_with("open") || held.starts_with("refused: ");
            anyhow::ensure!(open || !named.is_empty(), "`{case}`: {held}");
            for test in named {
                anyhow::ensure!(is_there(&code, test), "`{case}`: no test `{test}`");
            }
        }
    }
    Ok(())
}

/// The links of a document that lead to files, without what follows `#`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split(')').next());
    let files = targets.filter(|target| !target.contains("://"));
    files.filter_map(|target| target.split('#').next().filter(|file| !file.is_empty()))
}

#[test]
fn every_link_of_the_documents_leads_somewhere() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents = vec![
        root.join("README.md"),
        root.join("shared/ARCHITECTURE.md"),
        root.join(".github/CONTRIBUTING.md"),
    ];
    for entry in std::fs::read_dir(root.join("jobs/docs"))? {
        let path = entry?.path();
        documents.extend(path.extension().is_some_and(|e| e == "md").then_some(path));
    }
    let mut found = 0;
    for document in documents {
        let text = std::fs::read_to_string(&document)?;
        let folder = document.parent().unwrap_or(&root);
        for link in links(&text) {
            let there = folder.join(link).exists();
            anyhow::ensure!(there, "`{}`: no `{link}`", document.display());
            found += 1;
        }
    }
    anyhow::ensure!(found > 20, "{found} links");
    Ok(())
}

/// The dashboard asks for metrics that there are.
#[test]
fn the_dashboard_asks_for_documented_metrics() -> anyhow::Result<()> {
    let jobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jobs");
    let documented = std::fs::read_to_string(jobs.join("docs/metrics.md"))?;
    let text = std::fs::read_to_string(jobs.join("grafana/anabranch.json"))?;
    let board: serde_json::Value = serde_json::from_str(&text)?;
    let panels = board["panels"].as_array().cloned().unwrap_or_default();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let asked = targets
        .flatten()
        .filter_map(|target| target["expr"].as_str());
    let mut metrics = BTreeSet::new();
    for expression in asked {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = expression.split(|c| !is_of_name(c));
        let known = ["anabranch_", "process_"];
        metrics.extend(words.filter(|word| known.iter().any(|start| word.starts_with(start))));
    }
    anyhow::ensure!(metrics.len() > 25, "{metrics:?}");
    for metric in metrics {
        // Of a histogram its parts are asked for.
        let parts = ["_bucket", "_count", "_sum"];
        let whole = parts.iter().find_map(|part| metric.strip_suffix(part));
        let row = format!("| `{}` |", whole.unwrap_or(metric));
        anyhow::ensure!(documented.contains(&row), "`{metric}` is not documented");
    }
    Ok(())
}
