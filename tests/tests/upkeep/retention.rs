//! Retention through the program: facts go, views go on counting them, and whoever would need what
//! is gone is refused with its place. Each command is a process of its own, so the millisecond that
//! facts are kept has passed by the next one.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anabranch_batch::{
    BatchOptions, CleanAction, RetentionRule, UpkeepTime, rebuild, refresh, retain,
};
use anabranch_jobs::clock::now_ms;
use anabranch_jobs::project::context::Context;
use anabranch_jobs::work::upkeep::maintain;
use anabranch_shared::table::{Commit, RemoveFile};
use anabranch_shared::view::View;
use anabranch_shared::{
    CutOverOf, Doer, Error, ErrorKind, Generation, GenerationEntry, Landing, Log, Master, Offset,
    OffsetRange, Offsets, PartitionId,
};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{EDITED, Process, Setup, run, run_well, until, write_project};
use anabranch_tests::stored;

const HOUR: i64 = 3_600_000;

/// A project whose facts stay for a millisecond, with an exported view.
fn project() -> anyhow::Result<tempfile::TempDir> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let settings = dir.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&settings)? + "export = true\n";
    let topic = "[topics.facts]\nretention = { age = \"1ms\" }";
    std::fs::write(settings, text.replace("[topics.facts]", topic))?;
    Ok(dir)
}

/// Ingests numbered facts, and a record that becomes a dead letter.
async fn ingest(dir: &Path, ids: std::ops::Range<i64>) -> anyhow::Result<()> {
    let path = dir.join(format!("{}.ndjson", ids.start));
    let text: String = ids.map(line).collect();
    std::fs::write(&path, text + "{\"id\":1}\n")?;
    let path = path.display().to_string();
    run_well(dir, &["ingest", "facts", &path, "--allow-dead-letters"]).await?;
    Ok(())
}

async fn sql(dir: &Path, sql: &str) -> anyhow::Result<String> {
    let text = run_well(dir, &["--format", "csv", "sql", "-c", sql]).await?;
    Ok(text.lines().skip(1).collect::<Vec<_>>().join(" "))
}

async fn json(dir: &Path, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
    let all = [&["--format", "json"], arguments].concat();
    Ok(serde_json::from_str(&run_well(dir, &all).await?)?)
}

/// What the view says of the facts below a number: how many, and the sum of their numbers.
fn counts(facts: i64) -> String {
    format!("{facts},{}", facts * (facts - 1) / 2)
}

/// The view counts so many facts, the log holds so many with so many dead letters, and the law
/// holds.
async fn check(dir: &Path, counted: i64, held: i64, dead: i64) -> anyhow::Result<()> {
    let view = "SELECT sum(facts), sum(ids) FROM words";
    let found = sql(dir, view).await?;
    anyhow::ensure!(found == counts(counted), "the view: {found}");
    let log = "SELECT (SELECT count(*) FROM facts) AS a, (SELECT count(*) FROM dead_letters) AS b";
    let found = sql(dir, log).await?;
    anyhow::ensure!(found == format!("{held},{dead}"), "the log: {found}");
    run_well(dir, &["verify"]).await?;
    Ok(())
}

/// A project whose first 101 offsets were removed; the view has absorbed them.
async fn retained() -> anyhow::Result<tempfile::TempDir> {
    let dir = project()?;
    ingest(dir.path(), 0..100).await?;
    run_well(dir.path(), &["batch", "refresh"]).await?;
    for _ in 0..2 {
        run_well(dir.path(), &["batch", "maintain"]).await?;
    }
    check(dir.path(), 100, 0, 0).await?;
    Ok(dir)
}

async fn refused(dir: &Path, arguments: &[&str], says: &[&str]) -> anyhow::Result<()> {
    let out = run(dir, arguments).await?;
    let errors = String::from_utf8_lossy(&out.stderr);
    anyhow::ensure!(!out.status.success(), "{arguments:?} was not refused");
    for part in says {
        anyhow::ensure!(errors.contains(part), "{arguments:?}: {errors}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_go_and_views_go_on_counting_them() -> anyhow::Result<()> {
    let dir = project()?;
    let dir = dir.path();
    ingest(dir, 0..100).await?;
    // Nothing goes that a view has not absorbed.
    for _ in 0..2 {
        run_well(dir, &["batch", "maintain"]).await?;
    }
    let report = json(dir, &["batch", "maintain"]).await?;
    let waits = report["retention"]["facts"]["waits"]
        .as_str()
        .unwrap_or_default();
    anyhow::ensure!(
        waits.contains("`anabranch batch refresh words`"),
        "{report}"
    );
    check(dir, 100, 100, 1).await?;

    run_well(dir, &["batch", "refresh"]).await?;
    let dry = json(dir, &["batch", "maintain", "--dry-run"]).await?;
    let of_dry = &dry["retention"]["facts"];
    assert_eq!(of_dry["facts"], 100, "{dry}");
    assert_eq!(of_dry["dead_letters"], 1, "{dry}");
    check(dir, 100, 100, 1).await?;
    let done = json(dir, &["batch", "maintain"]).await?;
    assert_eq!(&done["retention"]["facts"], of_dry, "{done}");
    assert_eq!(of_dry["low"]["0"], 101, "{dry}");
    check(dir, 100, 0, 0).await?;

    // It goes on above: rebuilt from there, with what was there before.
    ingest(dir, 100..150).await?;
    check(dir, 150, 50, 1).await?;
    run_well(dir, &["batch", "rebuild"]).await?;
    check(dir, 150, 50, 1).await?;
    let verified = run_well(dir, &["verify"]).await?;
    let named =
        "not compared: facts [0, 101) of partition 0, which retention of topic `facts` has removed";
    anyhow::ensure!(verified.contains(named), "{verified}");
    let status = json(dir, &["status"]).await?;
    let topic = &status["topics"][0];
    assert_eq!(
        (&topic["low"], &topic["removed_facts"]),
        (&"0:101".into(), &100.into())
    );
    anyhow::ensure!(topic["removed_before"].is_string(), "{status}");
    let status = run_well(dir, &["status"]).await?;
    anyhow::ensure!(
        status.contains("100 facts below [0:101], which had landed before"),
        "{status}"
    );

    // The bytes go after the grace, and nothing needs them.
    let context = Context::open(dir).await?;
    let parquet = || -> anyhow::Result<usize> {
        let files = std::fs::read_dir(dir.join("data/topics/facts/log"))?;
        let names = files.map(|f| Ok(f?.file_name().to_string_lossy().ends_with(".parquet")));
        Ok(names
            .collect::<anyhow::Result<Vec<bool>>>()?
            .into_iter()
            .filter(|p| *p)
            .count())
    };
    assert_eq!(parquet()?, 2);
    for hours in [0, 2] {
        let time = UpkeepTime::driven(now_ms() + hours * HOUR);
        maintain(&context, time, CleanAction::Remove).await?;
    }
    assert_eq!(parquet()?, 1);
    run_well(dir, &["batch", "rebuild"]).await?;
    check(dir, 150, 50, 1).await?;
    let export = anabranch_shared::Export::root("words");
    let export = anabranch_shared::table::Table::open(&context.storage, export).await?;
    let rows: u64 = export.with_state(|s| s.files.values().filter_map(|f| f.rows()).sum());
    assert_eq!(rows, 7);

    refused(
        dir,
        &["tail", "facts", "--from", "5", "--no-follow"],
        &["[5, 152)", "below 101"],
    )
    .await?;
    let told = run(dir, &["tail", "facts", "--no-follow"]).await?;
    let errors = String::from_utf8_lossy(&told.stderr);
    anyhow::ensure!(errors.contains("begins at [0:101]"), "{errors}");
    assert_eq!(String::from_utf8_lossy(&told.stdout).lines().count(), 50);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_definition_is_refused_unless_it_may_start_at_low() -> anyhow::Result<()> {
    let dir = retained().await?;
    let dir = dir.path();
    ingest(dir, 100..150).await?;
    std::fs::write(dir.join("words.sql"), EDITED)?;
    let says = ["view `words`", "[0:101]", "100 facts", "apply --from-low"];
    refused(dir, &["plan"], &says).await?;
    refused(dir, &["apply", "--yes"], &says).await?;
    // What answers is made whole by its own definition, as far as the log goes.
    run_well(dir, &["batch", "rebuild", "words"]).await?;
    // The former definition answers on, also of what is gone.
    let found = sql(dir, "SELECT sum(facts), sum(ids) FROM words").await?;
    assert_eq!(found, counts(150));
    run_well(dir, &["apply", "--yes", "--from-low"]).await?;
    let found = sql(dir, "SELECT sum(facts), max(newest) FROM words").await?;
    assert_eq!(found, "25,148");
    run_well(dir, &["verify"]).await?;
    let status = json(dir, &["status"]).await?;
    assert_eq!(status["views"][0]["from"], "0:101", "{status}");
    // What starts there needs no less: another edit loses nothing.
    let again = EDITED.replace("id % 2 = 0", "id % 5 = 0");
    std::fs::write(dir.join("words.sql"), again)?;
    run_well(dir, &["apply", "--yes"]).await?;
    assert_eq!(sql(dir, "SELECT sum(facts) FROM words").await?, "10");

    let settings = dir.join("anabranch.toml");
    let text = std::fs::read_to_string(&settings)? + "[views.late]\nsql = \"late.sql\"\n";
    std::fs::write(settings, text)?;
    std::fs::write(dir.join("late.sql"), "SELECT count(*) AS n FROM facts")?;
    let status = run_well(dir, &["status"]).await?;
    anyhow::ensure!(
        status.contains("view `late` is new and does not answer"),
        "{status}"
    );
    let says = ["view `late`", "[0, 101) of partition 0", "late --from-low"];
    refused(dir, &["batch", "rebuild", "late"], &says).await?;
    run_well(dir, &["batch", "rebuild", "late", "--from-low"]).await?;
    assert_eq!(sql(dir, "SELECT n FROM late").await?, "50");
    run_well(dir, &["verify"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_keeps_what_removed_facts_came_to() -> anyhow::Result<()> {
    let dir = retained().await?;
    let dir = dir.path();
    ingest(dir, 100..150).await?;
    let edit = |sql: &str| std::fs::write(dir.join("words.sql"), sql);
    edit(
        "SELECT word, min(id) AS oldest, count(*) AS facts, sum(id) AS ids FROM facts GROUP BY word",
    )?;
    let plan = run(dir, &["plan"]).await?;
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    let says = [
        "columns changed: different → oldest",
        "100 facts, up to [0:101]",
        "`oldest` counts from there on",
    ];
    anyhow::ensure!(says.iter().all(|s| plan.contains(s)), "{plan}");
    run_well(dir, &["apply", "--yes"]).await?;
    let found = sql(dir, "SELECT sum(facts), sum(ids) FROM words").await?;
    assert_eq!(found, counts(150));
    assert_eq!(sql(dir, "SELECT min(oldest) FROM words").await?, "100");
    run_well(dir, &["verify"]).await?;
    // What was taken stays the view's past, however often it is edited.
    edit("SELECT word, count(*) + 0 AS facts, sum(id) AS ids FROM facts GROUP BY word")?;
    run_well(dir, &["apply", "--yes"]).await?;
    run_well(dir, &["batch", "rebuild", "words"]).await?;
    let found = sql(dir, "SELECT sum(facts), sum(ids) FROM words").await?;
    assert_eq!(found, counts(150));
    let status = json(dir, &["status"]).await?;
    anyhow::ensure!(status["views"][0]["from"].is_null(), "{status}");
    // Which of those facts a filter leaves is not in the states.
    edit(EDITED)?;
    refused(dir, &["apply", "--yes"], &["100 facts", "apply --from-low"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_up_has_what_its_parent_has_of_removed_facts() -> anyhow::Result<()> {
    let dir = retained().await?;
    let dir = dir.path();
    ingest(dir, 100..150).await?;
    let settings = dir.join("anabranch.toml");
    let more = "[views.whole]\nsql = \"whole.sql\"\n[views.odd]\nsql = \"odd.sql\"\n";
    let text = std::fs::read_to_string(&settings)? + more;
    std::fs::write(settings, text)?;
    std::fs::write(
        dir.join("whole.sql"),
        "SELECT sum(facts) AS facts, sum(ids) AS ids FROM words",
    )?;
    std::fs::write(
        dir.join("odd.sql"),
        "SELECT count(*) AS facts FROM facts WHERE id % 2 = 1",
    )?;
    let status = run_well(dir, &["status"]).await?;
    let says = "makes it of the states of `words`";
    anyhow::ensure!(status.contains(says), "{status}");
    run_well(dir, &["apply", "--yes", "--view", "whole"]).await?;
    assert_eq!(sql(dir, "SELECT facts, ids FROM whole").await?, counts(150));
    ingest(dir, 150..160).await?;
    run_well(dir, &["batch", "refresh", "words", "whole"]).await?;
    assert_eq!(sql(dir, "SELECT facts, ids FROM whole").await?, counts(160));
    run_well(dir, &["verify"]).await?;
    let status = json(dir, &["status"]).await?;
    anyhow::ensure!(status["views"][0]["from"].is_null(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_dies_is_made_up_for() -> anyhow::Result<()> {
    let mut kills = tokio::task::JoinSet::new();
    for (point, held, dead) in [
        ("retain-before-announcement", 100, 1),
        ("retain-after-announcement", 100, 1),
        ("retain-before-commit", 100, 1),
        ("retain-after-commit", 0, 0),
    ] {
        kills.spawn(async move {
            let dir = project()?;
            let dir = dir.path();
            ingest(dir, 0..100).await?;
            // Marked, and nothing goes before the view has absorbed it.
            run_well(dir, &["batch", "maintain"]).await?;
            run_well(dir, &["batch", "refresh"]).await?;
            Process::killed_at(dir, &["batch", "maintain"], point).await?;
            check(dir, 100, held, dead).await?;
            // The dead holder's lease is waited out.
            run_well(dir, &["batch", "maintain"]).await?;
            check(dir, 100, 0, 0).await?;
            let log = Context::open(dir).await?.log("facts").await?;
            let left = log.dead_letters().with_state(|s| s.files.len());
            anyhow::ensure!(left == 0, "{point}: {left} files of dead letters");
            ingest(dir, 100..150).await?;
            run_well(dir, &["batch", "rebuild"]).await?;
            check(dir, 150, 50, 1).await
        });
    }
    while let Some(killed) = kills.join_next().await {
        killed??;
    }
    Ok(())
}

/// The same, also while facts land and the view is refreshed.
#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_lose_nothing() -> anyhow::Result<()> {
    let dir = retained().await?;
    let dir = dir.path();
    let mut next = 100;
    for _ in 0..3 {
        let upkeep = || run_well(dir, &["batch", "maintain"]);
        let (a, b, landed, refreshed) = tokio::join!(
            upkeep(),
            upkeep(),
            ingest(dir, next..next + 50),
            run_well(dir, &["batch", "refresh"])
        );
        a?;
        b?;
        landed?;
        refreshed?;
        next += 50;
        let found = sql(dir, "SELECT sum(facts), sum(ids) FROM words").await?;
        anyhow::ensure!(found == counts(next), "{found}, wanted {next}");
        run_well(dir, &["verify"]).await?;
    }
    run_well(dir, &["batch", "refresh"]).await?;
    for _ in 0..2 {
        run_well(dir, &["batch", "maintain"]).await?;
    }
    check(dir, next, 0, 0).await
}

/// A topic with its log, and a view's master view that has absorbed all of it.
struct World {
    _dir: tempfile::TempDir,
    context: Context,
    log: Arc<Log>,
    live: Arc<Master>,
}

fn batch_options() -> BatchOptions {
    BatchOptions {
        like: Default::default(),
        threads: 1,
        memory_bytes: 1 << 30,
        stop: Arc::default(),
        progress: Arc::default(),
    }
}

impl World {
    async fn new() -> anyhow::Result<Self> {
        let dir = project()?;
        ingest(dir.path(), 0..100).await?;
        run_well(dir.path(), &["batch", "refresh"]).await?;
        let context = Context::open(dir.path()).await?;
        let view = context.compile(&context.project.views[0])?;
        let live = Master::open(&context.storage, &view, Generation(1), now_ms()).await?;
        Ok(Self {
            log: context.log("facts").await?,
            live: Arc::new(live),
            context,
            _dir: dir,
        })
    }

    /// Removes everything, as another process.
    async fn remove(&self) -> anyhow::Result<Offsets> {
        let log = self.context.log("facts").await?;
        let rule = RetentionRule {
            age_ms: Some(0),
            ..Default::default()
        };
        let (storage, catalogue) = (&self.context.storage, &self.context.catalogue);
        retain(
            storage,
            catalogue,
            &log,
            &rule,
            &UpkeepTime::driven(now_ms()),
        )
        .await?;
        Ok(log.low())
    }

    async fn beside(&self) -> anyhow::Result<Arc<Master>> {
        let view = Arc::new(View::compile("words", EDITED, &self.log.topic())?);
        let generation = self.context.catalogue.claim_generation("words").await?;
        let master = Master::open(&self.context.storage, &view, generation, now_ms()).await?;
        Ok(Arc::new(master))
    }

    fn entry(&self, master: &Master) -> GenerationEntry {
        GenerationEntry {
            generation: master.generation(),
            definition: master.view().definition().clone(),
            from: Offsets::default(),
        }
    }
}

/// A build of another definition that has begun to read when the facts go.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_facts_go_fails_and_publishes_nothing() -> anyhow::Result<()> {
    let world = World::new().await?;
    let beside = world.beside().await?;
    let head = world.log.head();
    anyhow::ensure!(world.remove().await? == head);
    let folder = world.context.project.dir.join("data/topics/facts/log");
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|e| e == "parquet") {
            std::fs::remove_file(path)?;
        }
    }
    // The log's state is from before.
    let built = rebuild(&beside, &world.log, &head, &batch_options(), now_ms).await;
    match built {
        Err(e @ Error::BelowLow { .. }) if e.kind() == ErrorKind::Unavailable => {
            let text = e.to_string();
            anyhow::ensure!(
                text.contains("[0, 101)") && text.contains("below 101"),
                "{text}"
            );
        }
        other => anyhow::bail!("{other:?}"),
    }
    beside.refresh().await?;
    anyhow::ensure!(beside.pin().files.is_empty() && beside.boundary() == Offsets::default());
    // Reads from before it are refused, whoever asks.
    let read = world.log.read_between(&Offsets::default(), &head).await;
    anyhow::ensure!(matches!(read, Err(Error::BelowLow { .. })), "{read:?}");
    Ok(())
}

/// A generation that was built before facts came, and is cut over to after they went.
#[tokio::test(flavor = "multi_thread")]
async fn no_generation_is_cut_over_to_that_lacks_what_was_removed() -> anyhow::Result<()> {
    let world = World::new().await?;
    let beside = world.beside().await?;
    let head = world.log.head();
    let outcome = rebuild(&beside, &world.log, &head, &batch_options(), now_ms).await?;
    ingest(&world.context.project.dir, 100..150).await?;
    world.log.refresh().await?;
    refresh(
        &world.live,
        &world.log,
        &world.log.head(),
        &batch_options(),
        now_ms,
    )
    .await?;
    let low = world.remove().await?;
    anyhow::ensure!(low == world.log.head() && low != head, "{low}");
    let entry = world.entry(&beside);
    let catalogue = &world.context.catalogue;
    let from = Some(Generation(1));
    let cut = catalogue
        .cut_over_all(
            &[CutOverOf::new(
                "words",
                from,
                entry,
                outcome.boundary.clone(),
            )],
            &Doer::default(),
        )
        .await;
    match cut {
        Err(e) if e.kind() == ErrorKind::Conflict => {
            anyhow::ensure!(e.to_string().contains("[0:101]"), "{e}");
        }
        other => anyhow::bail!("{other:?}"),
    }
    // And facts don't go where another generation was cut over to that was not looked at.
    let world = World::new().await?;
    let beside = world.beside().await?;
    rebuild(
        &beside,
        &world.log,
        &Offsets::default(),
        &batch_options(),
        now_ms,
    )
    .await?;
    let catalogue = &world.context.catalogue;
    let seen = BTreeSet::from([("words".to_owned(), Generation(1))]);
    let entry = world.entry(&beside);
    catalogue
        .cut_over_all(
            &[CutOverOf::new("words", from, entry, Offsets::default())],
            &Doer::default(),
        )
        .await?;
    let raised = catalogue.raise_low("facts", &world.log.head(), &seen).await;
    anyhow::ensure!(
        matches!(&raised, Err(e) if e.kind() == ErrorKind::Conflict),
        "{raised:?}"
    );
    anyhow::ensure!(world.remove().await? == Offsets::default());
    Ok(())
}

/// Commits to the log as who lands does, while another commit, made meanwhile, wins its version.
async fn commit_after<F>(log: &Log, other: impl Fn() -> F + Sync) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let mut lost = None;
    let commit = log.table().commit(now_ms(), |_| {
        if lost.is_none() {
            lost = std::thread::scope(|scope| {
                let run = || {
                    let runtime = tokio::runtime::Runtime::new()?;
                    runtime.block_on(other())
                };
                scope.spawn(run).join().ok()
            });
        }
        Ok(Commit::default())
    });
    let committed = commit.await;
    lost.ok_or_else(|| anyhow::anyhow!("the other panicked"))??;
    Ok(committed.map(|_| ())?)
}

/// Who lands goes on after a removal below `low`, and stops at any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_landing_goes_on_after_retention_and_stops_at_another_removal() -> anyhow::Result<()> {
    let world = World::new().await?;
    commit_after(&world.log, || async {
        world.remove().await?;
        Ok(())
    })
    .await?;
    anyhow::ensure!(
        world.log.low() == world.log.head(),
        "it was not removed before"
    );
    ingest(&world.context.project.dir, 100..150).await?;
    let other = world.context.log("facts").await?;
    let stopped = commit_after(&world.log, || async {
        let removed = other.table().commit(now_ms(), |state| {
            let removes = state.files.keys().map(|path| RemoveFile {
                path: path.clone(),
                ..Default::default()
            });
            Ok(Commit {
                removes: removes.collect(),
                operation: "DELETE",
                data_change: true,
                ..Default::default()
            })
        });
        removed.await?;
        Ok(())
    })
    .await;
    let text = stopped.err().map(|e| e.to_string()).unwrap_or_default();
    anyhow::ensure!(text.contains("of another writer removed facts"), "{text}");
    Ok(())
}

/// States of another format can't be folded again where the facts are gone: they are not given up.
#[tokio::test(flavor = "multi_thread")]
async fn states_of_another_format_are_not_lost_with_their_facts() -> anyhow::Result<()> {
    let dir = retained().await?;
    let dir = dir.path();
    let entry = dir.join("data/views/words/g1/_delta_log/00000000000000000000.json");
    let text = std::fs::read_to_string(&entry)?;
    anyhow::ensure!(text.contains("2 Utf8View"), "{text}");
    stored::edit(&entry, |text| text.replace("2 Utf8View", "0 Utf8View"))?;
    let says = ["[0, 101) of partition 0", "another version", "--from-low"];
    refused(dir, &["batch", "rebuild"], &says).await?;
    let before = std::fs::read_dir(dir.join("data/views/words/g1"))?.count();
    ingest(dir, 100..150).await?;
    run_well(dir, &["batch", "rebuild", "words", "--from-low"]).await?;
    assert_eq!(sql(dir, "SELECT sum(facts) FROM words").await?, "50");
    assert_eq!(
        std::fs::read_dir(dir.join("data/views/words/g1"))?.count(),
        before
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_what_a_source_had_removed() -> anyhow::Result<()> {
    let world = World::new().await?;
    let lost = (PartitionId(7), OffsetRange::new(Offset(3), Offset(9)));
    let landing = Landing {
        ranges: vec![(PartitionId(7), OffsetRange::new(Offset(0), Offset(9)))],
        gaps: vec![lost],
        ..Default::default()
    };
    world.log.land(&landing, now_ms()).await?;
    let said = run_well(&world.context.project.dir, &["verify"]).await?;
    let named =
        "not compared: facts [3, 9) of partition 7, which the source of topic `facts` had removed";
    anyhow::ensure!(said.contains(named), "{said}");
    Ok(())
}

/// The daemon's own upkeep removes what has been absorbed, while it takes facts and answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_removes_facts_and_goes_on() -> anyhow::Result<()> {
    let dir = project()?;
    let dir = dir.path();
    let settings = dir.join("anabranch.toml");
    let text = std::fs::read_to_string(&settings)?;
    let often = "[daemon]\nmaintain_every = \"50ms\"";
    std::fs::write(settings, text.replace("[daemon]", often))?;
    let context = Context::open(dir).await?;
    let mut daemon = Process::start(dir, &["up"])?;
    daemon.ready(&context).await?;
    let mut end = 0;
    for part in 0..3 {
        ingest(dir, part * 50..part * 50 + 50).await?;
        let found = sql(dir, "SELECT sum(facts), sum(ids) FROM words").await?;
        anyhow::ensure!(found == counts(part * 50 + 50), "{part}: {found}");
        end += 51;
        until("the facts are removed", || async {
            run_well(dir, &["batch", "refresh"]).await?;
            let low = context.log("facts").await?.low();
            Ok(low.iter().map(|(_, o)| o.0).sum::<i64>() == end)
        })
        .await?;
        let found = sql(dir, "SELECT sum(facts), sum(ids) FROM words").await?;
        anyhow::ensure!(found == counts(part * 50 + 50), "{part}, removed: {found}");
    }
    run_well(dir, &["verify"]).await?;
    daemon.terminate().await?;
    check(dir, 150, 0, 0).await
}

/// What was ingested is remembered for its time, by the clocks that are given; then the same content
/// adds its facts again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_ingested_is_forgotten_after_its_time() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let dir = dir.path();
    ingest(dir, 0..20).await?;
    ingest(dir, 0..20).await?;
    anyhow::ensure!(sql(dir, "SELECT count(*) FROM facts").await? == "20");
    let context = Context::open(dir).await?;
    let log = context.log("facts").await?;
    let rule = RetentionRule {
        ingested_ms: Some(24 * HOUR),
        seen_ms: HOUR,
        ..Default::default()
    };
    let begun = now_ms();
    // Too young; old by a clock that may be ahead; old for long enough.
    for (hours, forgotten) in [(23, 0), (40, 0), (41, 1), (50, 0)] {
        let time = UpkeepTime::driven(begun + hours * HOUR);
        let report = retain(&context.storage, &context.catalogue, &log, &rule, &time).await?;
        anyhow::ensure!(report.ingested == forgotten, "{hours}: {report:?}");
    }
    // Also by who begins at a checkpoint.
    log.table().write_checkpoint().await?;
    let opened = context.log("facts").await?;
    anyhow::ensure!(opened.ingested_before(i64::MAX) == (0, 0));
    ingest(dir, 0..20).await?;
    anyhow::ensure!(sql(dir, "SELECT count(*) FROM facts").await? == "40");
    // A checkpoint keeps when each was added to.
    opened.refresh().await?;
    opened.table().write_checkpoint().await?;
    let opened = context.log("facts").await?;
    anyhow::ensure!(opened.ingested_before(begun) == (0, 0));
    anyhow::ensure!(opened.ingested_before(now_ms() + HOUR) == (1, 0));
    Ok(())
}
