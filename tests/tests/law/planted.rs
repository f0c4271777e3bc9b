//! Planted bugs: each is switched on alone, in a process of its own, and the law's test must fail.

use std::process::Command;
use std::time::Instant;

use super::world;

/// Cases within which each bug must be noticed.
const CASES: u64 = 1_500;

/// A bug, what it does, and a case that noticed it when it was last looked: the first that is tried.
/// A case that goes otherwise since then costs time alone; the run says which one notices now.
type Bug = (&'static str, &'static str, u64);

const BUGS: &[Bug] = &[
    (
        "planted-island-split",
        "a late fact joins one of two sessions that it bridges",
        1_000_021,
    ),
    (
        "planted-boundary-offset-lost",
        "a refresh leaves out the offset at its boundary",
        1_000_010,
    ),
    (
        "planted-boundary-offset-doubled",
        "a refresh takes the offset before its boundary too",
        1_000_034,
    ),
    (
        "planted-piece-after-its-boundary",
        "a piece is counted after the boundary has passed it",
        1_000_025,
    ),
    (
        "planted-straddled-piece-kept",
        "a piece is kept whole that the boundary cuts through",
        1_000_062,
    ),
    (
        "planted-piece-dropped-before-its-query",
        "a piece is gone before the query that pinned it",
        1_000_000,
    ),
    (
        "planted-spilled-piece-lost",
        "a piece is lost when it is spilled",
        1_000_012,
    ),
    (
        "planted-spilled-file-removed-at-once",
        "the file of a piece is gone before the query that pinned it",
        1_000_076,
    ),
    (
        "planted-piece-lost-in-merge",
        "a piece is lost when pieces are merged",
        1_000_008,
    ),
    (
        "planted-files-removed-at-once",
        "files are removed while a pin still reads them",
        1_000_024,
    ),
    (
        "planted-rebuild-over-refresh",
        "a rebuild replaces a later refresh",
        1_000_038,
    ),
    (
        "planted-generations-mixed",
        "a new definition answers from the old one's states",
        1_000_003,
    ),
    (
        "planted-null-key-lost",
        "states of a NULL key are lost",
        1_000_000,
    ),
    (
        "planted-batch-replayed",
        "a batch is replayed after a restart that was there already",
        1_000_015,
    ),
    (
        "planted-stale-snapshot",
        "a new boundary with the files of the one before",
        1_000_005,
    ),
    (
        "planted-other-format",
        "states of another format are merged",
        1_000_010,
    ),
    (
        "planted-late-fact-dropped",
        "facts a day late are dropped",
        1_000_006,
    ),
    (
        "planted-dead-letter-counted",
        "a dead letter takes no offset",
        1_000_000,
    ),
    (
        "planted-past-reaches-on",
        "of a moment that has passed states are taken that reach beyond it",
        1_000_009,
    ),
    (
        "planted-cut-before-commit",
        "the WAL is cut before the commit",
        1_000_036,
    ),
    (
        "planted-lane-kept",
        "facts of a partition that was given up go on being answered",
        1_000_000,
    ),
    (
        "planted-landed-by-count",
        "as many facts as have landed are taken for those, although some were given up meanwhile",
        1_000_016,
    ),
    (
        "planted-states-of-landed-kept",
        "what was folded of facts before they landed is counted beside what they landed as",
        1_000_021,
    ),
    (
        "planted-run-lost-in-merge",
        "states of facts that have not landed are lost when they are merged",
        1_000_012,
    ),
    (
        "planted-dead-letters-replaced",
        "who reads a partition too replaces the dead letters of who landed it",
        1_000_024,
    ),
    (
        "planted-nan-pruned",
        "files are left out by statistics that know nothing of NaN",
        1_000_000,
    ),
    (
        "planted-fence-ignored",
        "a commit is taken whose start is not the boundary",
        1_000_021,
    ),
    (
        "planted-compaction-drops-an-edge",
        "a compaction loses the last fact of a file",
        1_000_008,
    ),
    (
        "planted-maintenance-fence-ignored",
        "a compaction is committed over another one's",
        1_000_008,
    ),
    (
        "planted-low-above-a-boundary",
        "retention removes facts that a view has not absorbed",
        1_000_103,
    ),
    (
        "planted-marks-crossed",
        "retention goes up to where no run ends",
        1_000_315,
    ),
    (
        "planted-rebuild-drops-removed",
        "a rebuild drops the runs of facts that retention has removed",
        1_000_044,
    ),
    (
        "planted-removed-skipped",
        "a daemon skips what retention has removed before it followed",
        1_000_024,
    ),
    (
        "planted-removed-read-as-empty",
        "facts that retention has removed are read as if there had been none",
        1_000_000,
    ),
    (
        "planted-peer-facts-not-cut",
        "a daemon gives another facts that this one has from the log",
        1_000_000,
    ),
    (
        "planted-ties-left-open",
        "which of equal rows a limit takes is left to the order of merging",
        1_000_005,
    ),
    (
        "planted-overlap-counted-twice",
        "a partition that two daemons hold is taken from both",
        1_000_023,
    ),
    (
        "planted-hole-not-followed",
        "what another daemon has landed is neither in its answer nor read from the log",
        1_000_014,
    ),
    (
        "planted-carry-lost",
        "a sum that has left its type comes back into it wrapped",
        1_000_123,
    ),
    (
        "planted-column-by-position",
        "facts of before a field was declared are read by the columns' positions",
        1_000_039,
    ),
    (
        "planted-extra-ignored",
        "a field that was declared later is not read from what facts kept undeclared",
        1_000_006,
    ),
    (
        "planted-late-field-pruned",
        "files that lack a column are left out by a filter on it",
        1_000_006,
    ),
    (
        "planted-combine-filter-ignored",
        "a FILTER on `combine` lets all through",
        1_000_002,
    ),
    (
        "planted-combine-of-nothing",
        "`combine` over no rows gives what an accumulator starts with",
        1_000_002,
    ),
];

/// The same of generations beside the ones that answer.
const OF_GENERATIONS: &[Bug] = &[
    (
        "planted-boundary-of-the-former",
        "a generation that is served under another name answers by the boundary of the one that had it",
        1_000_000,
    ),
    (
        "planted-copied-to-a-lower-boundary",
        "copied states are said to reach less far than they do",
        1_000_039,
    ),
    (
        "planted-pieces-lost-on-cut-over",
        "the pieces of a generation are lost where it is served under another name",
        1_000_006,
    ),
    (
        "planted-copied-file-lost",
        "a file is left out where states are copied to a new generation",
        1_000_021,
    ),
    (
        "planted-candidate-run-lost",
        "a candidate that is gone on with leaves out a run",
        1_000_012,
    ),
    (
        "planted-taken-past-a-filter",
        "the states of a definition are taken for one with another filter",
        1_000_155,
    ),
    (
        "planted-copy-of-another-definition",
        "states are copied although the definition was narrowed",
        1_000_236,
    ),
    (
        "planted-low-above-a-kept-generation",
        "retention forgets generations that don't answer",
        1_000_143,
    ),
    (
        "planted-kept-by-its-first-boundary",
        "a generation that is kept answers by the boundary that it was served with",
        1_000_019,
    ),
];

/// Those of references, which the law's test of those notices.
const OF_REFERENCES: &[Bug] = &[
    (
        "planted-met-noted-lower",
        "facts are said to have met rows of a reference up to less than they did",
        1,
    ),
    (
        "planted-met-not-noted",
        "what facts met that made no state is not noted",
        1,
    ),
    (
        "planted-first-row-met",
        "a row of a reference that comes later does not count",
        1,
    ),
    ("planted-gone-row-met", "a row that was deleted is met", 1),
    (
        "planted-layer-lost",
        "rows of a reference are lost where they are merged with later ones",
        1,
    ),
    (
        "planted-rows-of-before-kept",
        "states of facts that met rows of before are taken for those of now",
        1,
    ),
    (
        "planted-met-lost-in-merge",
        "what facts met is lost where pieces are merged",
        1,
    ),
    (
        "planted-met-lost-in-merged-runs",
        "what facts met is lost where runs are merged",
        1,
    ),
    (
        "planted-candidate-meets-newest",
        "a candidate meets other rows than what it is compared with",
        1,
    ),
    (
        "planted-rows-never-newer",
        "a rebuild meets the rows that were read first",
        1,
    ),
];

/// Those of steps, which the law's test of those notices.
const OF_STEPS: &[Bug] = &[
    (
        "planted-step-lands-first",
        "what a step made lands before what it was made of",
        1,
    ),
    (
        "planted-step-of-facts-taken-back",
        "what was made of facts that were taken back lands with those in their place",
        1,
    ),
    (
        "planted-step-keeps-what-was-made",
        "what was made of facts that were taken back is kept",
        1,
    ),
    (
        "planted-step-skips-files",
        "a step reads the first of several files of the log and goes on behind the last",
        1,
    ),
];

/// The tests of references and of steps.
const STEPS: &str = "law::steps::facts_are_made_of_facts_once";
const REFERENCES: &str = "law::references::facts_meet_references_as_recorded";

/// Runs the law's test with a bug switched on. Returns what it printed where it failed.
fn broken_by(bug: &str, seed: u64, of: &str) -> anyhow::Result<Option<String>> {
    let test = match of {
        REFERENCES => REFERENCES,
        STEPS => STEPS,
        _ => "law::the_law_holds",
    };
    let out = Command::new(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env("FAILPOINTS", format!("{bug}=return"))
        .env("ANABRANCH_LAW_CASES", CASES.to_string())
        .env("ANABRANCH_LAW_SEED", seed.to_string())
        .env("ANABRANCH_LAW_PLANTED", of)
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
    let plain = BUGS.iter().map(|bug| (bug, "1"));
    let of_generations = OF_GENERATIONS
        .iter()
        .map(|bug| (bug, world::OF_GENERATIONS));
    let of_references = OF_REFERENCES.iter().map(|bug| (bug, REFERENCES));
    let of_steps = OF_STEPS.iter().map(|bug| (bug, STEPS));
    let later = of_references.chain(of_steps);
    for ((bug, what, seed), of) in plain.chain(of_generations).chain(later) {
        let begun = Instant::now();
        match broken_by(bug, *seed, of)? {
            Some(printed) => {
                let mut broken = printed.lines().filter(|l| l.contains("breaks the law"));
                let at = broken.next().unwrap_or_default();
                let why = printed
                    .lines()
                    .skip_while(|l| !l.contains("breaks the law"))
                    .find(|l| !l.contains("SELECT") && !l.contains("breaks the law"))
                    .unwrap_or_default();
                let took = begun.elapsed().as_secs_f64();
                println!("caught: {bug}: {what}: {why}\n  in {took:.1} s: {at}");
            }
            None => missed.push(bug),
        }
    }
    anyhow::ensure!(missed.is_empty(), "not caught: {}", missed.join(", "));
    Ok(())
}
