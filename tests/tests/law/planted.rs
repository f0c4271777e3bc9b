//! Planted bugs: each is switched on alone, in a process of its own, and the law's test must fail.

use std::process::Command;

/// Cases within which each bug must be noticed.
const CASES: u64 = 1_500;

/// The bugs, and what each does.
const BUGS: &[(&str, &str)] = &[
    (
        "planted-boundary-offset-lost",
        "a refresh leaves out the offset at its boundary",
    ),
    (
        "planted-boundary-offset-doubled",
        "a refresh takes the offset before its boundary too",
    ),
    (
        "planted-piece-after-its-boundary",
        "a piece is counted after the boundary has passed it",
    ),
    (
        "planted-straddled-piece-kept",
        "a piece is kept whole that the boundary cuts through",
    ),
    (
        "planted-piece-dropped-before-its-query",
        "a piece is gone before the query that pinned it",
    ),
    (
        "planted-spilled-piece-lost",
        "a piece is lost when it is spilled",
    ),
    (
        "planted-spilled-file-removed-at-once",
        "the file of a piece is gone before the query that pinned it",
    ),
    (
        "planted-piece-lost-in-merge",
        "a piece is lost when pieces are merged",
    ),
    (
        "planted-files-removed-at-once",
        "files are removed while a pin still reads them",
    ),
    (
        "planted-rebuild-over-refresh",
        "a rebuild replaces a later refresh",
    ),
    (
        "planted-generations-mixed",
        "a new definition answers from the old one's states",
    ),
    ("planted-null-key-lost", "states of a NULL key are lost"),
    (
        "planted-batch-replayed",
        "a batch is replayed after a restart that was there already",
    ),
    (
        "planted-stale-snapshot",
        "a new boundary with the files of the one before",
    ),
    (
        "planted-other-format",
        "states of another format are merged",
    ),
    ("planted-late-fact-dropped", "facts a day late are dropped"),
    (
        "planted-dead-letter-counted",
        "a dead letter takes no offset",
    ),
    (
        "planted-cut-before-commit",
        "the WAL is cut before the commit",
    ),
    (
        "planted-lane-kept",
        "facts of a partition that was given up go on being answered",
    ),
    (
        "planted-landed-by-count",
        "as many facts as have landed are taken for those, although some were given up meanwhile",
    ),
    (
        "planted-states-of-landed-kept",
        "what was folded of facts before they landed is counted beside what they landed as",
    ),
    (
        "planted-run-lost-in-merge",
        "states of facts that have not landed are lost when they are merged",
    ),
    (
        "planted-dead-letters-replaced",
        "who reads a partition too replaces the dead letters of who landed it",
    ),
    (
        "planted-nan-pruned",
        "files are left out by statistics that know nothing of NaN",
    ),
    (
        "planted-fence-ignored",
        "a commit is taken whose start is not the boundary",
    ),
    (
        "planted-compaction-drops-an-edge",
        "a compaction loses the last fact of a file",
    ),
    (
        "planted-maintenance-fence-ignored",
        "a compaction is committed over another one's",
    ),
    (
        "planted-low-above-a-boundary",
        "retention removes facts that a view has not absorbed",
    ),
    (
        "planted-marks-crossed",
        "retention goes up to where no run ends",
    ),
    (
        "planted-rebuild-drops-removed",
        "a rebuild drops the runs of facts that retention has removed",
    ),
    (
        "planted-removed-skipped",
        "a daemon skips what retention has removed before it followed",
    ),
    (
        "planted-removed-read-as-empty",
        "facts that retention has removed are read as if there had been none",
    ),
    (
        "planted-peer-facts-not-cut",
        "a daemon gives another facts that this one has from the log",
    ),
    (
        "planted-ties-left-open",
        "which of equal rows a limit takes is left to the order of merging",
    ),
    (
        "planted-overlap-counted-twice",
        "a partition that two daemons hold is taken from both",
    ),
    (
        "planted-hole-not-followed",
        "what another daemon has landed is neither in its answer nor read from the log",
    ),
    (
        "planted-carry-lost",
        "a sum that has left its type comes back into it wrapped",
    ),
    (
        "planted-column-by-position",
        "facts of before a field was declared are read by the columns' positions",
    ),
    (
        "planted-extra-ignored",
        "a field that was declared later is not read from what facts kept undeclared",
    ),
    (
        "planted-late-field-pruned",
        "files that lack a column are left out by a filter on it",
    ),
    (
        "planted-combine-filter-ignored",
        "a FILTER on `combine` lets all through",
    ),
    (
        "planted-combine-of-nothing",
        "`combine` over no rows gives what an accumulator starts with",
    ),
];

/// Runs the law's test with a bug switched on. Returns what it printed where it failed.
fn broken_by(bug: &str) -> anyhow::Result<Option<String>> {
    let out = Command::new(std::env::current_exe()?)
        .args(["--exact", "law::the_law_holds", "--nocapture"])
        .env("FAILPOINTS", format!("{bug}=return"))
        .env("ANABRANCH_LAW_CASES", CASES.to_string())
        .env("ANABRANCH_LAW_SEED", "1000000")
        .env("ANABRANCH_LAW_PLANTED", "1")
        .env("RUST_BACKTRACE", "0")
        .output()?;
    let printed =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    anyhow::ensure!(
        printed.contains("running 1 test"),
        "the law's test did not run:\n{printed}"
    );
    Ok((!out.status.success()).then_some(printed))
}

#[test]
fn every_planted_bug_is_caught() -> anyhow::Result<()> {
    let mut missed: Vec<&str> = Vec::new();
    for (bug, what) in BUGS {
        match broken_by(bug)? {
            Some(printed) => {
                let why = printed
                    .lines()
                    .skip_while(|l| !l.contains("breaks the law"))
                    .find(|l| !l.contains("SELECT") && !l.contains("breaks the law"))
                    .unwrap_or_default();
                println!("caught: {what}: {why}");
            }
            None => missed.push(bug),
        }
    }
    anyhow::ensure!(missed.is_empty(), "not caught: {}", missed.join(", "));
    Ok(())
}
