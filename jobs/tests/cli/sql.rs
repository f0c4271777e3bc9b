//! `anabranch sql` and `POST /sql`: EXPLAIN, freshness, formats, exit codes, refusals.

use anyhow::{Context, Result, ensure};

use super::support::Project;

const WORDS: &str = "SELECT word, count(*) AS c, avg(x) AS a FROM facts GROUP BY word";

/// A project whose view has two files with different words, and a delta.
fn project() -> Result<Project> {
    let project = Project::new(&[("words", WORDS, "")])?;
    project.ingest(0..400)?;
    project.ok(&["batch", "refresh"])?;
    project.ingest(500..900)?;
    project.ok(&["batch", "refresh"])?;
    project.ingest(900..950)?;
    Ok(project)
}

fn explains(project: &Project) -> Result<()> {
    let explain = |sql: &str| project.ok(&["sql", "-c", &format!("EXPLAIN {sql}")]);
    let all = explain("SELECT word, c FROM words")?;
    ensure!(
        all.contains(
            "MasterView: view=words generation=1 offsets=below boundary [0:800] files=2 of 2"
        ),
        "{all}"
    );
    ensure!(
        all.contains("Delta: view=words offsets=from boundary [0:800] up to head [0:850"),
        "{all}"
    );
    ensure!(all.contains("states=50"), "{all}");
    ensure!(all.lines().count() > 10 && !all.contains("\\n"), "{all}");
    // `w10` is below every word of the second file, which begin with w5 to w8.
    let one = explain("SELECT word, c FROM words WHERE word = 'w10'")?;
    ensure!(
        one.contains("files=1 of 2") && one.contains("pruning_predicate="),
        "{one}"
    );
    // Of the states only those of the column that is asked for are read.
    ensure!(
        one.contains("projection=[k0, a0_s0], file_type=parquet"),
        "{one}"
    );
    let none = explain("SELECT word, c FROM words WHERE word = 'zzz'")?;
    ensure!(none.contains("files=0 of 2"), "{none}");
    // A filter on a value can't reach the files: it is known only after the merge.
    let value = explain("SELECT word, c FROM words WHERE c = 1")?;
    ensure!(value.contains("files=2 of 2"), "{value}");
    let batch = project.ok(&[
        "sql",
        "-c",
        "SET anabranch.read = 'batch'; EXPLAIN SELECT c FROM words",
    ])?;
    ensure!(batch.contains("states=0"), "{batch}");
    // A merged answer leaves nothing out, so there is nothing to say; one without the delta does.
    let said = |sql: &str, more: &[&str]| {
        let out = project.run(&[&["sql", "-c", sql], more].concat())?;
        anyhow::Ok(String::from_utf8(out.stderr)?)
    };
    let merged = said("SELECT sum(c) AS n FROM words", &[])?;
    ensure!(merged.is_empty(), "{merged}");
    let batch = "SET anabranch.read = 'batch'; SELECT sum(c) AS n FROM words";
    let stale = said(batch, &[])?;
    let left_out = "words: as of its last refresh; what came after [0:800] is left out";
    ensure!(stale.contains(left_out), "{stale}");
    for off in [
        said(batch, &["-q"])?,
        said(&format!("\\pset footer off\n{batch}"), &[])?,
    ] {
        ensure!(!off.contains("left out"), "{off}");
    }
    Ok(())
}

/// What a view is made of, its types in SQL's words, and what columns without a name are called: the
/// same from the daemon and without one.
fn describes(project: &Project) -> Result<()> {
    let view = project.ok(&["sql", "\\d+ words"])?;
    let expected = "\
view words over facts
column  type     made by  value  combine
word    varchar  key
c       bigint   count    exact  yes
a       double   avg      exact  yes
sql
  SELECT word, count(*) AS c, avg(x) AS a FROM facts GROUP BY word
";
    ensure!(view == expected, "{view}");
    let topic = project.ok(&["sql", "\\d facts"])?;
    ensure!(
        topic.contains("ts ") && topic.contains("timestamp  not null\n"),
        "{topic}"
    );
    let near = project.fails(66, &["sql", "\\d word"])?;
    ensure!(near.contains("did you mean `words`?"), "{near}");
    let functions = project.ok(&["sql", "-x", "\\df combine"])?;
    ensure!(functions.contains("│ combine\n"), "{functions}");
    let names = "SELECT count(*), max(c), 1, 'a' || 'b', count(c), word FROM words WHERE c > 0 GROUP BY word LIMIT 0";
    let csv = project.ok(&["sql", "--csv", names])?;
    ensure!(csv == "count,max,?column?,?column?,count,word\n", "{csv}");
    Ok(())
}

#[test]
fn relations_are_told_with_and_without_a_daemon() -> Result<()> {
    let project = project()?;
    describes(&project)?;
    let (_daemon, address) = project.daemon()?;
    describes(&project)?;
    let get = |path: &str| -> Result<serde_json::Value> {
        let (status, body) = get(&address, path)?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(serde_json::from_str(&body)?)
    };
    let objects = get("/relations?as=objects")?;
    let words = objects
        .as_array()
        .and_then(|all| all.iter().find(|r| r["name"] == "words"));
    let words = words.context("no `words`")?;
    ensure!(
        words["columns"][1]
            == serde_json::json!({
                "name": "c", "type": "bigint", "nullable": true, "role": "aggregate",
                "function": "count", "exactness": "exact", "combines": true,
            }),
        "{words}"
    );
    // The form that older shells read.
    let before = get("/relations")?;
    ensure!(
        before
            .as_array()
            .is_some_and(|all| all.iter().any(|r| r[0] == "words")),
        "{before}"
    );
    Ok(())
}

/// The answer to a GET: its status and body.
fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let sent = client.get(format!("http://{address}{path}")).send().await?;
        Ok((sent.status().as_u16(), sent.text().await?))
    })
}

/// The options that psql has, and a statement without any.
#[test]
fn statements_and_options_are_given_as_to_psql() -> Result<()> {
    let project = Project::new(&[])?;
    let sql = "SELECT 1 AS a, 'x|y' AS b, NULL AS c UNION ALL SELECT 2, 'z', 'w' ORDER BY 1";
    let with = |options: &[&str]| project.ok(&[&["sql"], options, &[sql]].concat());
    ensure!(with(&[])?.starts_with('┌'));
    for (options, expected) in [
        (&["-A"][..], "a|b|c\n1|x|y|\n2|z|w\n(2 rows)\n"),
        (&["-tA"], "1|x|y|\n2|z|w\n"),
        (&["-qtA"], "1|x|y|\n2|z|w\n"),
        (&["-t"], " 1 | x|y | NULL\n 2 | z   | w\n"),
        (&["--csv"], "a,b,c\n1,x|y,\n2,z,w\n"),
        (&["--csv", "--tuples-only"], "1,x|y,\n2,z,w\n"),
        (
            &["-x"],
            "─[ row 1 ]\na │ 1\nb │ x|y\nc │ NULL\n─[ row 2 ]\na │ 2\nb │ z\nc │ w\n(2 rows)\n",
        ),
    ] {
        let found = with(options)?;
        ensure!(found == expected, "{options:?}: {found}");
    }
    project.ingest(0..3)?;
    // Names that repeat are told apart where a name can't be there twice.
    let twice = project.json(&["sql", "SELECT 1, count(*), 2 FROM facts"])?;
    ensure!(
        twice == serde_json::json!([{"?column?": 1, "count": 3, "?column?_2": 2}]),
        "{twice}"
    );
    let both = project.fails(2, &["sql", "SELECT 1", "-c", "SELECT 2"])?;
    ensure!(both.contains("cannot be used with"), "{both}");
    Ok(())
}

#[test]
fn shells_of_the_system_complete_the_command() -> Result<()> {
    let project = Project::new(&[])?;
    for (shell, says) in [
        ("bash", "complete -F _anabranch"),
        ("zsh", "#compdef anabranch"),
        ("fish", "complete -c anabranch"),
    ] {
        let script = project.ok(&["completions", shell])?;
        ensure!(script.contains(says), "{shell}");
        ensure!(script.contains("dead-letters") && script.contains("tuples-only"));
    }
    project.fails(2, &["completions", "csh"])?;
    Ok(())
}

#[test]
fn explain_names_the_layers_with_and_without_a_daemon() -> Result<()> {
    let project = project()?;
    explains(&project)?;
    let (_daemon, _) = project.daemon()?;
    explains(&project)
}

#[test]
fn answers_have_four_formats_and_exit_codes() -> Result<()> {
    let project = Project::new(&[])?;
    let sql = "SELECT 1 AS i, CAST(NULL AS VARCHAR) AS none, '' AS empty, 'ä\"→,\n\u{1F600}' AS text, [1, NULL] AS list, to_timestamp('2026-01-01T10:00:00Z') AS at, 'NaN'::double AS nan";
    let show = |format: &str| project.ok(&["--format", format, "sql", "-c", sql]);
    let csv = show("csv")?;
    ensure!(
        csv == "i,none,empty,text,list,at,nan\n1,,\"\",\"ä\"\"→,\n\u{1F600}\",\"[1,null]\",2026-01-01T10:00:00,NaN\n"
            || csv
                == "i,none,empty,text,list,at,nan\n1,,\"\",\"ä\"\"→,\n\u{1F600}\",\"[1,null]\",2026-01-01T10:00:00Z,NaN\n",
        "{csv}"
    );
    let json: serde_json::Value = serde_json::from_str(&show("json")?)?;
    let row = &json[0];
    ensure!(
        row["none"].is_null() && row["empty"] == "" && row["nan"] == "NaN",
        "{row}"
    );
    ensure!(
        row["text"] == "ä\"→,\n\u{1F600}" && row["list"] == serde_json::json!([1, null]),
        "{row}"
    );
    ensure!(show("ndjson")?.lines().count() == 1);
    ensure!(show("table")?.contains("NULL"));
    let file = project.path("q.sql");
    std::fs::write(
        &file,
        "SELECT 1 AS a;\n-- a comment; with a semicolon\nSELECT 2 AS b;\nSELECT nope;\nSELECT 3 AS c;",
    )?;
    let out = project.run(&["--format", "csv", "sql", "-f", &file.display().to_string()])?;
    let (shown, said) = (
        String::from_utf8(out.stdout)?,
        String::from_utf8(out.stderr)?,
    );
    ensure!(
        out.status.code() == Some(64) && shown == "a\n1\nb\n2\n",
        "{shown}"
    );
    ensure!(said.contains("line 4") && said.contains("nope"), "{said}");
    // What went wrong decides the exit code, not that it went wrong in SQL.
    for (code, sql) in [
        (64, "SELECT 1 / (1 - 1)"),
        (66, "SELECT * FROM nothing"),
        (66, "\\d nothing"),
    ] {
        let said = project.fails(code, &["sql", "-c", sql])?;
        ensure!(said.contains("line 1"), "{said}");
    }
    // The place of an error in a statement is told as that in the script.
    let script = "SELECT 1;\n\nSELECT *\nFROM facts TABLESAMPLE (10);";
    let said = project.fails(64, &["sql", "-c", script])?;
    ensure!(
        said.contains("error: line 4, column 6: TABLESAMPLE"),
        "{said}"
    );
    let said = project.fails(64, &["sql", "-c", "SELECT view FROM jobs ORDER BY nosuch"])?;
    ensure!(said.matches("view, job, ").count() == 1, "{said}");
    let absent = project.fails(66, &["sql", "-f", "nowhere.sql"])?;
    ensure!(absent.contains("nowhere.sql"), "{absent}");
    let refused = project.fails(64, &["--format", "csv", "status"])?;
    ensure!(refused.contains("json"), "{refused}");
    Ok(())
}

/// What a view computes over its aggregation fails by the view's name, in whatever query; what the
/// query computes itself does not, though it reads the view.
#[test]
fn errors_over_the_aggregation_name_the_view() -> Result<()> {
    let broken = "SELECT word, 12 / (c - 1) AS share FROM (SELECT word, count(*) AS c FROM facts GROUP BY word)";
    let views = [("words", WORDS, ""), ("broken", broken, "")];
    let project = Project::new(&views)?;
    project.ingest(0..20)?;
    let check = |daemon: &str| {
        for sql in [
            "SELECT * FROM broken",
            "SELECT w.c FROM words w JOIN broken b ON w.word = b.word WHERE b.share > 1",
        ] {
            let said = project.fails(64, &["sql", "-c", sql])?;
            for part in ["view `broken`", "ivision by zero", "anabranch apply"] {
                ensure!(
                    said.contains(part),
                    "{daemon}: {sql}: no `{part}` in {said}"
                );
            }
        }
        let own = project.fails(64, &["sql", "-c", "SELECT 1 / (c - c) FROM words"])?;
        ensure!(
            own.contains("ivision by zero") && !own.contains("view `"),
            "{daemon}: {own}"
        );
        Ok(())
    };
    check("without a daemon")?;
    let (_daemon, _) = project.daemon()?;
    check("with a daemon")
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_write_or_read_files_are_refused() -> Result<()> {
    let project = project()?;
    let (_daemon, address) = project.daemon()?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let target = project.path("stolen.csv").display().to_string();
    let cases = [
        (
            format!("COPY facts TO '{target}'"),
            400,
            "queries write no files",
        ),
        (
            format!("COPY (SELECT 1) TO '{target}'"),
            400,
            "queries write no files",
        ),
        (
            format!("EXPLAIN ANALYZE COPY facts TO '{target}'"),
            400,
            "queries write no files",
        ),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'".into(),
            400,
            "never files",
        ),
        ("CREATE TABLE t AS SELECT 1".into(), 400, "`anabranch.toml`"),
        ("CREATE VIEW t AS SELECT 1".into(), 400, "`anabranch.toml`"),
        (
            "INSERT INTO facts VALUES (1)".into(),
            400,
            "anabranch ingest",
        ),
        ("UPDATE facts SET n = 1".into(), 400, "anabranch ingest"),
        ("DELETE FROM facts".into(), 400, "anabranch ingest"),
        ("DROP TABLE facts".into(), 400, "queries only read"),
        (
            "SET datafusion.execution.batch_size = 1".into(),
            400,
            "`anabranch.read`",
        ),
        ("SET anabranch.read = 'batch'".into(), 400, "?read=batch"),
        ("SHOW FULL TABLES".into(), 400, "information_schema.tables"),
        (
            "SELECT * FROM '/etc/passwd'".into(),
            404,
            "no topic, view or table `/etc/passwd`; there are: dead_letter_retries, dead_letters, facts, jobs, words",
        ),
        (
            "SELECT * FROM read_csv('/etc/passwd')".into(),
            404,
            "never files",
        ),
        (
            "SELECT * FROM nope".into(),
            404,
            "there are: dead_letter_retries, dead_letters, facts, jobs, words",
        ),
        ("SELECT 1; SELECT 2".into(), 400, ""),
    ];
    for (sql, status, says) in cases {
        let sent = http
            .post(format!("http://{address}/sql"))
            .body(sql.clone())
            .send()
            .await?;
        let found = sent.status().as_u16();
        let body = sent.text().await?;
        ensure!(
            found == status && body.contains(says),
            "{sql}: {found} {body}"
        );
        ensure!(
            serde_json::from_str::<serde_json::Value>(&body)?["error"].is_string(),
            "{body}"
        );
    }
    ensure!(!project.path("stolen.csv").exists());
    // A name of the user's own for a query is no table that is missing.
    let cte = project.ok(&[
        "--format",
        "csv",
        "sql",
        "-c",
        "WITH t AS (SELECT 1 AS a) SELECT * FROM t",
    ])?;
    ensure!(cte == "a\n1\n", "{cte}");
    Ok(())
}

/// A filter in WHERE goes down to the files, which may be skipped; one in FILTER does not.
#[test]
fn files_that_are_skipped_hold_nothing_that_is_wanted() -> Result<()> {
    let keys = "SELECT word, n, CAST(ts AS DATE) AS day, date_trunc('minute', ts) AS minute, repeat(word, 40) AS long, count(*) AS c FROM facts GROUP BY 1, 2, 3, 4, 5";
    let project = Project::new(&[("keyed", keys, "")])?;
    for start in [0, 300, 700, 1_500] {
        project.ingest(start..start + 200)?;
        project.ok(&["batch", "refresh"])?;
    }
    let odd = project.path("odd.ndjson");
    std::fs::write(
        &odd,
        "{\"ts\":\"1969-12-31T23:59:59.999999Z\",\"n\":-7}\n{\"ts\":\"2026-06-01T00:00:00Z\",\"word\":\"\u{1F600}\u{10FFFF}\"}\n",
    )?;
    project.ok(&["ingest", "facts", &odd.display().to_string()])?;
    project.ok(&["batch", "refresh"])?;
    project.ingest(5_000..5_050)?;
    let of_both = [
        "n = 350",
        "n < 100",
        "n >= 1500 AND n < 1503",
        "n BETWEEN 190 AND 305",
        "n IS NULL",
        "word IS NULL",
        "word > 'w9'",
        "word = 'w310'",
        "word >= '\u{1F600}'",
        "word LIKE 'w75%'",
        "word IN ('w1', 'w899', 'nope')",
        "TIME < '1970-01-01T00:00:00Z'",
        "TIME > '2026-01-01T10:30:00Z'",
        "n <> 7",
        "NOT (n > 500)",
        "n + 1 = 351 OR word = 'w5'",
    ];
    let of_view = [
        "long = repeat('w310', 40)",
        "long > repeat('w85', 30)",
        "day < '1970-01-01'",
        "day = '2026-01-01'",
    ];
    let tables = [("keyed", "minute"), ("facts", "ts")];
    let both = of_both
        .iter()
        .flat_map(|p| tables.map(|(table, time)| (table, p.replace("TIME", time))));
    let all = both.chain(of_view.map(|p| ("keyed", p.to_owned())));
    let script: Vec<String> = all
        .map(|(table, p)| format!("SELECT (SELECT count(*) FROM {table} WHERE {p}) AS a, (SELECT count(*) FILTER (WHERE {p}) FROM {table}) AS b;"))
        .collect();
    let answers = project.ok(&["--format", "csv", "sql", "-c", &script.join("\n")])?;
    let mut found = 0;
    let answers: Vec<&str> = answers.lines().filter(|l| *l != "a,b").collect();
    ensure!(answers.len() == script.len(), "{answers:?}");
    for (answer, sql) in answers.iter().zip(script) {
        let (a, b) = answer.split_once(',').unwrap_or_default();
        ensure!(a == b, "{answer}: {sql}");
        found += a.parse::<u64>()?;
    }
    ensure!(found > 1_000, "{found}");
    let skipped = project.ok(&["sql", "-c", "EXPLAIN SELECT c FROM keyed WHERE n < 100"])?;
    ensure!(skipped.contains("files=2 of 5"), "{skipped}");
    Ok(())
}
