//! `plan`, `apply`, `diff`, `rollback` and `history`: an edit is looked at, built beside what answers,
//! compared, stopped by a gate, cut over, and taken back; with the daemon and without.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::support::{Project, wait_for_true};

const WORDS: &str = "SELECT word, count(*) AS c, sum(n) AS s FROM facts GROUP BY word";
const EDITED: &str =
    "SELECT word, count(*) AS c, sum(n) AS s FROM facts WHERE n >= 100 GROUP BY word";

fn project(gate: &str) -> Result<Project> {
    let project = Project::new(&[("words", WORDS, gate)])?;
    project.ingest(0..1_000)?;
    project.ok(&["batch", "rebuild"])?;
    project.ingest(1_000..1_200)?;
    Ok(project)
}

fn planned(project: &Project) -> Result<Value> {
    let out = project.run(&["--format", "json", "plan"])?;
    ensure!(out.status.code() == Some(2), "{:?}", out.status);
    Ok(serde_json::from_slice(&out.stdout)?)
}

fn count(project: &Project, relation: &str) -> Result<String> {
    let sql = format!("SELECT sum(c) AS c FROM {relation}");
    let answer = project.ok(&["--format", "csv", "sql", "-c", &sql])?;
    answer.lines().nth(1).map(str::to_owned).context("no row")
}

/// All keys of the storage and their sizes.
fn keys(project: &Project) -> Result<Vec<(String, u64)>> {
    fn below(dir: &std::path::Path, found: &mut Vec<(String, u64)>) -> Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => below(&entry.path(), found)?,
                false => {
                    found.push((entry.path().display().to_string(), entry.metadata()?.len()));
                }
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    below(&project.path("data"), &mut found)?;
    found.sort();
    Ok(found)
}

#[test]
fn a_plan_says_why_and_writes_nothing() -> Result<()> {
    let project = project("")?;
    ensure!(project.ok(&["plan"])?.contains("nothing to do"));
    project.write_views(&[
        ("words", EDITED, ""),
        ("total", "SELECT count(*) AS c FROM facts", ""),
    ])?;
    let before = keys(&project)?;
    let plan = planned(&project)?;
    ensure!(keys(&project)? == before, "a plan has written something");
    let views = plan["views"].as_array().context("no views")?;
    ensure!(views.len() == 2, "{plan}");
    let words = &views[0];
    ensure!(
        words["action"] == "build" && words["facts"] == 1_200,
        "{words}"
    );
    let why = words["why"][0].as_str().context("no reason")?;
    ensure!(
        why.starts_with("filter added: ") && why.contains("100"),
        "{why}"
    );
    ensure!(
        words["sql"]
            .as_str()
            .is_some_and(|s| s.contains("+SELECT word")),
        "{words}"
    );
    ensure!(views[1]["action"] == "first", "{plan}");
    let markdown = project.run(&["plan", "--markdown"])?;
    let markdown = String::from_utf8(markdown.stdout)?;
    ensure!(
        markdown.contains("| view `words` | build a new generation"),
        "{markdown}"
    );
    let explained = project.ok(&["plan", "--explain", "words"])?;
    ensure!(explained.contains("c = count("), "{explained}");
    // What is written otherwise is no change, and what stands above reads no fact.
    for (sql, action) in [
        (
            "select word,\n count(*) as c, sum(n) as s from facts group by word -- hm",
            "note",
        ),
        (
            "SELECT word, count(*) AS c, sum(n) + 1 AS s FROM facts GROUP BY word",
            "copy",
        ),
    ] {
        project.write_views(&[("words", sql, "")])?;
        let plan = planned(&project)?;
        ensure!(plan["views"][0]["action"] == action, "{plan}");
    }
    project.write_views(&[])?;
    ensure!(planned(&project)?["views"][0]["action"] == "drop");
    Ok(())
}

#[test]
fn an_edit_is_compared_gated_cut_over_and_taken_back() -> Result<()> {
    let gate = "[views.words.gate]\nrows_changed = \"1%\"\nkeys_lost = 0\n";
    let project = project(gate)?;
    ensure!(count(&project, "words")? == "1200");
    project.write_views(&[("words", EDITED, gate)])?;
    let id = planned(&project)?["id"]
        .as_str()
        .context("no id")?
        .to_owned();
    // Nobody is there to answer a question, and another plan is not done.
    ensure!(project.fails(64, &["apply"])?.contains("--yes"));
    ensure!(
        project
            .fails(75, &["apply", "0123456789ab", "--yes"])?
            .contains(&id)
    );
    let out = project.run(&["--format", "json", "apply", &id, "--yes", "-m", "old ones"])?;
    ensure!(out.status.code() == Some(3), "{out:?}");
    let stopped: Value = serde_json::from_slice(&out.stdout)?;
    ensure!(stopped["cut_over"] == false, "{stopped}");
    let broken = stopped["compared"][0]["broken"]
        .as_array()
        .context("no verdict")?;
    ensure!(!broken.is_empty(), "{stopped}");
    // Whoever plans is told, unless the gate is another one by now.
    let said = project.fails(3, &["plan"])?;
    ensure!(said.contains("broken when it was compared: `"), "{said}");
    project.write_views(&[("words", EDITED, &gate.replace("1%", "90%"))])?;
    let said = project.fails(2, &["plan"])?;
    ensure!(!said.contains("broken"), "{said}");
    project.write_views(&[("words", EDITED, gate)])?;
    // What answers has not changed, and the candidate can be asked beside it.
    ensure!(count(&project, "words")? == "1200" && count(&project, "candidate.words")? == "1100");
    ensure!(count(&project, "g2.words")? == "1100" && count(&project, "g1.words")? == "1200");
    let diff = project.run(&["--format", "json", "diff", "words"])?;
    ensure!(diff.status.code() == Some(1), "{diff:?}");
    let diff: Value = serde_json::from_slice(&diff.stdout)?;
    let (rows, lost) = (&diff["diff"]["rows_a"], &diff["diff"]["only_a"]);
    ensure!(rows.as_u64() > Some(0), "{diff}");
    let column = |name: &str| {
        let columns = diff["diff"]["columns"].as_array().into_iter().flatten();
        columns.clone().find(|c| c["name"] == name).cloned()
    };
    let c = column("c").context("no column")?;
    ensure!(
        c["total_a"] == 1200.0 && c["total_b"] == 1100.0,
        "{c}, {lost}"
    );
    // The gate is mended: the candidate is there already, and is gone on with.
    let wide = "[views.words.gate]\nrows_changed = \"100%\"\n";
    project.write_views(&[("words", EDITED, wide)])?;
    let applied = project.json(&["apply", "--yes", "-m", "old ones are tests"])?;
    ensure!(
        applied["cut_over"] == true && applied["built"][0]["generation"] == 2,
        "{applied}"
    );
    ensure!(applied["built"][0]["resumed"] == true, "{applied}");
    ensure!(count(&project, "words")? == "1100" && count(&project, "previous.words")? == "1200");
    ensure!(project.ok(&["plan"])?.contains("nothing to do"));
    // Facts go on coming; the former generation has them too.
    project.ingest(1_200..1_300)?;
    project.ok(&["batch", "refresh"])?;
    ensure!(count(&project, "words")? == "1200" && count(&project, "previous.words")? == "1300");
    let rolled = project.json(&["rollback", "words", "-m", "they were none"])?;
    ensure!(rolled["from"] == 2 && rolled["to"] == 1, "{rolled}");
    ensure!(count(&project, "words")? == "1300" && count(&project, "previous.words")? == "1200");
    project.ok(&["rollback", "words"])?;
    ensure!(count(&project, "words")? == "1200");
    let history = project.json(&["history", "words"])?;
    let history = history.as_array().context("no history")?;
    let acts: Vec<&str> = history.iter().filter_map(|s| s["act"].as_str()).collect();
    ensure!(
        acts == ["roll_back", "roll_back", "cut_over"],
        "{history:?}"
    );
    ensure!(history[2]["message"] == "old ones are tests", "{history:?}");
    ensure!(
        history[2]["judged"]["summary"]
            .as_str()
            .is_some_and(|s| s.contains("before"))
    );
    project.ok(&["verify"])?;
    Ok(())
}

#[test]
fn what_stands_above_reads_no_fact() -> Result<()> {
    let project = project("")?;
    let above = "SELECT word, count(*) AS c, sum(n) * 2 AS s FROM facts GROUP BY word";
    project.write_views(&[("words", above, "")])?;
    let applied = project.json(&["apply", "--yes"])?;
    ensure!(applied["built"][0]["facts"] == 0, "{applied}");
    let s = project.ok(&[
        "--format",
        "csv",
        "sql",
        "-c",
        "SELECT sum(s) AS s FROM words",
    ])?;
    ensure!(s.lines().nth(1) == Some("1438800"), "{s}");
    project.ok(&["verify"])?;
    // Only words: the generation stays.
    let words = "SELECT word,\n  count(*) AS c, sum(n) * 2 AS s FROM facts GROUP BY word -- twice";
    project.write_views(&[("words", words, "")])?;
    let applied = project.json(&["apply", "--yes"])?;
    ensure!(
        applied["noted"][0] == "words" && applied["cut_over"] == false,
        "{applied}"
    );
    ensure!(project.ok(&["plan"])?.contains("nothing to do"));
    Ok(())
}

/// One setting points every query at the candidates, and the rest where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_path_points_queries_at_candidates() -> Result<()> {
    let project = project("")?;
    project.write_views(&[
        ("words", EDITED, ""),
        ("sums", "SELECT sum(n) AS s FROM facts", ""),
    ])?;
    project.ok(&["apply", "--view", "sums", "--yes"])?;
    project.ok(&["apply", "--view", "words", "--yes", "--no-cut-over"])?;
    let ask = |sql: &str| project.ok(&["--format", "csv", "sql", "-c", sql]);
    let lines = |text: String| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    let all = "SET search_path = candidate, public;
        SELECT sum(w.c) AS c, max(s.s) AS s FROM words AS w, sums AS s;
        SELECT sum(words.c) AS c FROM words WHERE words.c > 0;
        WITH words AS (SELECT 7 AS c) SELECT c FROM words;
        SELECT sum(a.c) - sum(b.c) AS c FROM words a JOIN g1.words b USING (word);
        SELECT count(*) AS c FROM facts;
        SHOW search_path;
        RESET search_path;
        SELECT sum(c) AS c FROM words";
    let with_daemon = |of: &str| -> Result<()> {
        let found = lines(ask(all)?);
        let found: Vec<&str> = found
            .iter()
            .map(String::as_str)
            .filter(|l| !l.is_empty())
            .collect();
        let expected = [
            "c,s",
            "1100,719400",
            "c",
            "1100",
            "c",
            "7",
            "c",
            "-100",
            "c",
            "1200",
            "search_path",
            "\"candidate, public\"",
            "c",
            "1200",
        ];
        ensure!(found == expected, "{of}: {found:?}");
        Ok(())
    };
    with_daemon("without a daemon")?;
    let said = project.fails(64, &["sql", "-c", "SET search_path = staging"])?;
    ensure!(
        said.contains("no schema `staging`") && said.contains("`candidate`"),
        "{said}"
    );
    let both =
        "SET search_path = candidate, public; SELECT * FROM words JOIN public.words USING (word)";
    let said = project.fails(64, &["sql", "-c", both])?;
    ensure!(
        said.contains("names both `words` and `public.words`"),
        "{said}"
    );
    let only = "SET search_path = candidate; SELECT * FROM sums";
    let said = project.fails(66, &["sql", "-c", only])?;
    ensure!(said.contains("sums"), "{said}");
    let (daemon, http) = project.daemon()?;
    with_daemon("with a daemon")?;
    let url = format!("http://{http}/sql?search_path=candidate,public");
    let told = reqwest::Client::builder().no_proxy().build()?.post(url);
    let told = told.body("SELECT sum(c) AS c FROM words").send().await?;
    let told = told.text().await?;
    ensure!(told.contains("1100"), "{told}");
    let (code, log) = daemon.end(rustix::process::Signal::TERM)?;
    ensure!(code == Some(0), "{code:?} {log}");
    Ok(())
}

#[test]
fn all_rows_that_differ_go_to_a_file() -> Result<()> {
    let project = project("")?;
    let edited =
        "SELECT word, count(*) AS c, max(n) AS top FROM facts WHERE n >= 300 GROUP BY word";
    project.write_views(&[("words", edited, "")])?;
    project.ok(&["apply", "--yes", "--no-cut-over"])?;
    let diff = |arguments: &[&str]| -> Result<Value> {
        let out = project.run(&[&["--format", "json", "diff", "words"], arguments].concat())?;
        ensure!(out.status.code() == Some(1), "{out:?}");
        Ok(serde_json::from_slice(&out.stdout)?)
    };
    let of = |diff: &Value| -> Vec<u64> {
        let numbers = ["only_a", "only_b", "changed", "rows_a"];
        numbers
            .iter()
            .filter_map(|n| diff["diff"][n].as_u64())
            .collect()
    };
    let whole = of(&diff(&[])?);
    let csv = project.path("rows.csv").display().to_string();
    ensure!(of(&diff(&["--rows", &csv])?) == whole);
    let text = std::fs::read_to_string(&csv)?;
    let mut lines = text.lines();
    ensure!(
        lines.next() == Some("change,word,c_before,c_after,s_before,top_after"),
        "{text}"
    );
    let count = |word: &str| text.lines().filter(|l| l.starts_with(word)).count() as u64;
    ensure!(
        [count("lost"), count("new"), count("changed")] == whole[..3],
        "{whole:?}"
    );
    ensure!(
        whole[0] > 0 && whole[2] > 0 && lines.all(|l| l.split(',').count() == 6),
        "{text}"
    );
    let parquet = project.path("rows.parquet").display().to_string();
    diff(&["--rows", &parquet, "--where", "false"])
        .err()
        .context("rows of nothing differ")?;
    ensure!(std::fs::read(&parquet)?.starts_with(b"PAR1"));
    let said = project.fails(64, &["diff", "words", "--rows", "rows.txt"])?;
    ensure!(said.contains("`.parquet`"), "{said}");
    // The same keys on both sides.
    let part = of(&diff(&["--sample", "30%"])?);
    ensure!(
        part[3] > 0 && part[3] < whole[3] && part[0] < whole[0],
        "{part:?} of {whole:?}"
    );
    let most = of(&diff(&["--sample", "100%"])?);
    ensure!(most == whole, "{most:?} {whole:?}");
    Ok(())
}

/// Fewer columns in another order, and fewer keys, are made of the states that answer.
#[test]
fn what_is_left_out_reads_no_fact() -> Result<()> {
    let project = project("")?;
    let sums = |sql: &str| project.ok(&["--format", "csv", "sql", "-c", sql]);
    for (sql, why, query, expected) in [
        (
            "SELECT sum(n) AS total, word FROM facts GROUP BY word",
            "columns dropped: c",
            "SELECT sum(total) AS s, count(*) AS words FROM words",
            "719400,1000",
        ),
        (
            "SELECT sum(n) AS total FROM facts",
            "keys dropped: word",
            "SELECT total, 1 FROM words",
            "719400,1",
        ),
    ] {
        project.write_views(&[("words", sql, "")])?;
        let plan = planned(&project)?;
        let change = &plan["views"][0];
        ensure!(
            change["action"] == "copy" && change["why"][0] == why,
            "{plan}"
        );
        let applied = project.json(&["apply", "--yes"])?;
        ensure!(applied["built"][0]["facts"] == 0, "{applied}");
        let found = sums(query)?;
        ensure!(found.lines().nth(1) == Some(expected), "{found}");
        project.ok(&["verify"])?;
    }
    // Which word a fact had is not in those states.
    project.write_views(&[("words", WORDS, "")])?;
    let plan = planned(&project)?;
    ensure!(plan["views"][0]["action"] == "build", "{plan}");
    project.ok(&["apply", "--yes"])?;
    ensure!(count(&project, "words")? == "1200");
    Ok(())
}

#[test]
fn a_view_is_renamed_with_its_states() -> Result<()> {
    let project = project("")?;
    project.write_views(&[("words", WORDS, ""), ("terms", WORDS, "moved = \"words\"")])?;
    let said = project.fails(64, &["plan"])?;
    ensure!(
        said.contains("view `words` is still in the project"),
        "{said}"
    );
    project.write_views(&[
        ("terms", WORDS, "moved = \"words\""),
        ("other", WORDS, "moved = \"words\""),
    ])?;
    let said = project.fails(64, &["plan"])?;
    ensure!(
        said.contains("can't both take the place of `words`"),
        "{said}"
    );

    project.write_views(&[("terms", WORDS, "moved = \"words\"")])?;
    // Nobody but `apply` makes the view anew, and what answers goes on.
    project.ingest(1_200..1_300)?;
    for command in [
        &["batch", "rebuild", "terms"][..],
        &["sql", "-c", "SELECT * FROM terms"],
    ] {
        let out = project.run(command)?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(
            said.contains("answers as `words`") && !out.status.success(),
            "{said}"
        );
    }
    ensure!(count(&project, "words")? == "1300");
    let status = project.ok(&["status"])?;
    ensure!(
        status.contains("view `terms` answers as `words`") && !status.contains("batch drop"),
        "{status}"
    );
    let plan = planned(&project)?;
    let views = plan["views"].as_array().context("no views")?;
    ensure!(views.len() == 1, "{plan}");
    ensure!(
        views[0]["action"] == "copy" && views[0]["moved_from"] == "words",
        "{plan}"
    );
    ensure!(views[0]["why"][0] == "renamed from words", "{plan}");

    project.ok(&["apply", "--yes", "--no-cut-over"])?;
    ensure!(count(&project, "words")? == "1300" && count(&project, "candidate.terms")? == "1300");
    let applied = project.json(&["apply", "--yes", "-m", "they are terms"])?;
    ensure!(
        applied["cut_over"] == true && applied["built"][0]["facts"] == 0,
        "{applied}"
    );
    ensure!(
        applied["compared"][0]["compared"]["diff"]["changed"] == 0,
        "{applied}"
    );
    ensure!(count(&project, "terms")? == "1300");
    let gone = project.fails(66, &["sql", "-c", "SELECT * FROM words"])?;
    ensure!(gone.contains("words"), "{gone}");
    ensure!(project.ok(&["plan"])?.contains("nothing to do"));
    project.ingest(1_300..1_400)?;
    project.ok(&["batch", "refresh"])?;
    ensure!(count(&project, "terms")? == "1400");
    project.ok(&["verify"])?;
    let history = project.json(&["history", "terms"])?;
    ensure!(
        history[0]["moved_from"] == "words" && history[0]["message"] == "they are terms",
        "{history}"
    );

    // Renamed back and edited at once, in one go.
    project.write_views(&[("words", EDITED, "moved = \"terms\"")])?;
    let plan = planned(&project)?;
    ensure!(plan["views"][0]["action"] == "build", "{plan}");
    project.ok(&["apply", "--yes"])?;
    ensure!(count(&project, "words")? == "1300");
    let history = project.json(&["history", "words"])?;
    ensure!(
        history.as_array().is_some_and(|all| all.len() == 2),
        "{history}"
    );
    project.ok(&["verify"])?;
    Ok(())
}

#[test]
fn a_daemon_follows_a_rename() -> Result<()> {
    let project = Project::new(&[("words", WORDS, "")])?;
    project.ingest(0..1_000)?;
    let (daemon, http) = project.daemon()?;
    project.write_views(&[("terms", WORDS, "moved = \"words\"")])?;
    project.ok(&["apply", "--yes"])?;
    ensure!(count(&project, "terms")? == "1000", "{http}");
    let path = project.path("more.ndjson");
    std::fs::write(&path, super::support::lines(1_000..1_100))?;
    project.ok(&["ingest", "facts", &path.display().to_string()])?;
    wait_for_true(|| Ok(count(&project, "terms").is_ok_and(|found| found == "1100")))?;
    let (code, log) = daemon.end(rustix::process::Signal::TERM)?;
    ensure!(code == Some(0), "{code:?} {log}");
    Ok(())
}

#[test]
fn a_daemon_serves_candidate_previous_and_the_one_that_answers() -> Result<()> {
    let project = Project::new(&[("words", WORDS, "")])?;
    project.ingest(0..1_000)?;
    let (daemon, http) = project.daemon()?;
    let post = |numbers: std::ops::Range<u64>| -> Result<()> {
        let path = project.path(&format!("more-{}.ndjson", numbers.start));
        std::fs::write(&path, super::support::lines(numbers))?;
        let path = path.display().to_string();
        project.ok(&["ingest", "facts", &path])?;
        Ok(())
    };
    post(1_000..1_100)?;
    project.write_views(&[("words", EDITED, "")])?;
    project.ok(&["apply", "--yes", "--no-cut-over"])?;
    let counts = |relation: &str, wanted: &str| {
        wait_for_true(|| Ok(count(&project, relation).is_ok_and(|found| found == wanted)))
            .with_context(|| format!("{relation} at {http}: {wanted}"))
    };
    counts("words", "1100")?;
    counts("candidate.words", "1000")?;
    project.ok(&["apply", "--yes"])?;
    ensure!(count(&project, "words")? == "1000");
    counts("previous.words", "1100")?;
    post(1_100..1_150)?;
    counts("words", "1050")?;
    counts("previous.words", "1150")?;
    project.ok(&["rollback", "words"])?;
    ensure!(count(&project, "words")? == "1150");
    let (code, log) = daemon.end(rustix::process::Signal::TERM)?;
    ensure!(code == Some(0), "{code:?} {log}");
    Ok(())
}

/// Whose rows the export of `words` holds, by its table's newest metadata.
fn exported(project: &Project) -> Result<String> {
    let log = project.path("data/views/words/export/_delta_log");
    let mut entries: Vec<_> = std::fs::read_dir(log)?.collect::<std::io::Result<_>>()?;
    entries.retain(|e| e.path().extension().is_some_and(|x| x == "json"));
    entries.sort_by_key(std::fs::DirEntry::path);
    let mut newest = String::new();
    for entry in entries {
        for line in std::fs::read_to_string(entry.path())?.lines() {
            let action: Value = serde_json::from_str(line)?;
            let of = &action["metaData"]["configuration"]["anabranch.generation"];
            newest = of.as_str().map_or(newest, str::to_owned);
        }
    }
    Ok(newest)
}

#[test]
fn the_export_follows_what_answers() -> Result<()> {
    let project = project("export = true")?;
    ensure!(exported(&project)? == "1");
    project.write_views(&[("words", EDITED, "export = true")])?;
    project.ok(&["apply", "--yes"])?;
    ensure!(exported(&project)? == "2");
    project.ok(&["rollback", "words"])?;
    ensure!(
        exported(&project)? == "1",
        "the export stayed with the generation of before"
    );
    project.ok(&["rollback", "words"])?;
    ensure!(exported(&project)? == "2");
    Ok(())
}

#[test]
fn a_gate_that_can_judge_nothing_is_refused() -> Result<()> {
    let project = project("")?;
    for (gate, says) in [
        (
            "[views.words.gate.columns.d]\nrows_changed = 1\n",
            "no column `d`",
        ),
        (
            "[views.words.gate.columns.word]\ntotal_changed = 1\n",
            "`total_changed` is of numbers",
        ),
        (
            "[views.words.gate]\nrows_changed = \"101%\"\n",
            "a percentage such as",
        ),
    ] {
        project.write_views(&[("words", EDITED, gate)])?;
        let said = project.fails(64, &["plan"])?;
        ensure!(said.contains(says), "{said}");
    }
    let gate = "[views.words.gate]\nkeys_lost = 0\nwhere = \"nothing > 1\"\n";
    project.write_views(&[("words", EDITED, gate)])?;
    let said = project.fails(64, &["apply", "--yes"])?;
    ensure!(said.contains("nothing"), "{said}");
    ensure!(count(&project, "words")? == "1200");
    Ok(())
}

/// What the project says of how a view is run waits for `apply`, as what it computes does.
#[test]
fn schedules_run_as_they_were_applied() -> Result<()> {
    let project = project("refresh_every = \"5m\"")?;
    let schedules = || -> Result<Vec<String>> {
        let jobs = project.json(&["jobs"])?;
        let jobs = jobs.as_array().context("no jobs")?.clone();
        let text = |j: &Value| {
            j["schedule"]
                .as_str()
                .map(|s| format!("{} {s}", j["job"].as_str().unwrap_or_default()))
        };
        Ok(jobs.iter().filter_map(text).collect())
    };
    ensure!(schedules()? == ["refresh every 5m"], "{:?}", schedules()?);
    let later =
        "refresh_every = \"1m\"\nrebuild_cron = \"0 3 * * *\"\n[views.words.gate]\nkeys_lost = 0\n";
    project.write_views(&[("words", WORDS, later)])?;
    project.ingest(1_200..1_300)?;
    ensure!(schedules()? == ["refresh every 5m"], "{:?}", schedules()?);
    let status = project.ok(&["status"])?;
    ensure!(
        status.contains("runs as it did before its settings were edited"),
        "{status}"
    );
    let plan = planned(&project)?;
    let change = &plan["views"][0];
    ensure!(
        change["action"] == "note" && change["sql"].is_null(),
        "{plan}"
    );
    let sets = [
        "gate.keys_lost: unset → 0",
        "rebuild_cron: unset → 0 3 * * *",
        "refresh_every: 5m → 1m",
    ];
    ensure!(
        change["settings"]
            .as_array()
            .is_some_and(|s| s.iter().eq(sets)),
        "{plan}"
    );
    let applied = project.json(&["apply", "--yes"])?;
    ensure!(
        applied["noted"][0] == "words" && applied["cut_over"] == false,
        "{applied}"
    );
    ensure!(
        schedules()? == ["rebuild 0 3 * * * UTC", "refresh every 1m"],
        "{:?}",
        schedules()?
    );
    ensure!(project.ok(&["plan"])?.contains("nothing to do"));
    // With an edit of what it computes they come in force when that does.
    project.write_views(&[("words", EDITED, "")])?;
    project.ok(&["apply", "--yes", "--no-cut-over"])?;
    ensure!(schedules()?.len() == 2);
    project.ok(&["apply", "--yes"])?;
    ensure!(schedules()?.is_empty(), "{:?}", schedules()?);
    // A view that a project lacks runs as it did.
    project.write_views(&[("words", EDITED, "refresh_every = \"2m\"")])?;
    project.ok(&["apply", "--yes"])?;
    project.write_views(&[])?;
    ensure!(schedules()? == ["refresh every 2m"], "{:?}", schedules()?);
    Ok(())
}

#[test]
fn the_graph_shows_what_is_made_from_what() -> Result<()> {
    let project = project("refresh_every = \"5m\"\nexport = true")?;
    project.write_views(&[
        ("words", EDITED, "refresh_every = \"5m\"\nexport = true"),
        ("broken", "SELECT wrod FROM facts", ""),
    ])?;
    let said = project.fails(64, &["apply", "words", "--yes"])?;
    ensure!(said.contains("`anabranch apply --view words`"), "{said}");
    project.ok(&["apply", "--view", "words", "--yes", "--no-cut-over"])?;
    let of_candidate = |what: &str| -> Result<bool> {
        let rows = project.json(&["du"])?;
        let rows = rows.as_array().context("no array")?;
        Ok(rows.iter().any(|r| r["of"] == "words" && r["what"] == what))
    };
    ensure!(of_candidate("generation 2 (candidate)")?);
    let tree = project.ok(&["graph"])?;
    for line in [
        "topic facts  (by ts)",
        "├─ view broken  (never built, can't be used: ",
        "└─ view words  (g1, refresh every 5 m 00 s)",
        "   ├─ candidate.words  (g2)",
        "   └─ export of words",
    ] {
        ensure!(tree.lines().any(|l| l.starts_with(line)), "{line}: {tree}");
    }
    let graph = project.json(&["graph"])?;
    let nodes = graph["nodes"].as_array().context("no nodes")?;
    let candidate = nodes.iter().find(|n| n["kind"] == "generation");
    let from = candidate
        .and_then(|n| n["from"].as_u64())
        .context("no place")?;
    ensure!(nodes[usize::try_from(from)?]["name"] == "words", "{graph}");
    // What the project lacks and the storage has is drawn too, where it belongs.
    project.ok(&["apply", "--view", "words", "--yes"])?;
    project.write_views(&[])?;
    let tree = project.ok(&["graph"])?;
    ensure!(
        tree.contains("└─ view words  (g2, not in the project, refresh every 5 m 00 s)"),
        "{tree}"
    );
    ensure!(tree.contains("   ├─ previous.words  (g1)"), "{tree}");
    ensure!(of_candidate("generation 1 (previous)")?);
    let mermaid = project.ok(&["graph", "--as", "mermaid"])?;
    ensure!(
        mermaid.starts_with("flowchart LR\n  n0[(\"facts<br>by ts\")]\n"),
        "{mermaid}"
    );
    let dot = project.ok(&["graph", "--as", "dot"])?;
    ensure!(
        dot.contains("n0 -> n1;\n  n1 -> n2 [style=dashed, dir=none];"),
        "{dot}"
    );
    Ok(())
}
