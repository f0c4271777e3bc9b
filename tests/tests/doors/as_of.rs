//! Answers of a moment that has passed are what was answered then, whatever came since: facts,
//! refreshes, merges of runs, compaction, a rebuild, another daemon's answer.

use anabranch_tests::daemon::{Daemon, request, run};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, write_project};
use chrono::{SecondsFormat, TimeDelta};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// What is asked at each moment.
const QUESTIONS: [&str; 5] = [
    "SELECT word, facts, ids, different FROM words ORDER BY word",
    "SELECT count(*) AS n, max(id) AS newest FROM facts",
    "SELECT sum(w.facts) AS n, (SELECT count(*) FROM facts) AS m FROM words w",
    "SELECT id, days FROM per_id WHERE days > 1 ORDER BY id LIMIT 20",
    "SELECT count(*) AS n FROM empty",
];

struct Moment {
    time: String,
    place: String,
    answers: Vec<String>,
}

struct Past {
    dir: tempfile::TempDir,
    daemon: Daemon,
}

impl Past {
    async fn start() -> anyhow::Result<Self> {
        Self::start_with("").await
    }

    async fn start_with(settings: &str) -> anyhow::Result<Self> {
        let dir = places::folder()?;
        write_project(dir.path(), Setup::default())?;
        let path = dir.path().join("anabranch.toml");
        let more = "[views.per_id]\nsql = \"per_id.sql\"\n[views.empty]\nsql = \"empty.sql\"\n[doors.postgres]\nlisten = \"127.0.0.1:0\"\n";
        std::fs::write(&path, std::fs::read_to_string(&path)? + more + settings)?;
        let per_id = "SELECT id % 500 AS id, count(DISTINCT date_trunc('day', ts)) AS days FROM facts GROUP BY 1";
        std::fs::write(dir.path().join("per_id.sql"), per_id)?;
        let empty = "SELECT word, count(*) AS n FROM facts WHERE id < 0 GROUP BY word";
        std::fs::write(dir.path().join("empty.sql"), empty)?;
        let daemon = Daemon::start(dir.path()).await?;
        Ok(Self { dir, daemon })
    }

    async fn ask(&self, sql: &str, as_of: &str) -> anyhow::Result<(u16, String)> {
        let http = &self.daemon.client.address().http;
        let path = match as_of {
            "" => "/sql".to_owned(),
            moment => format!("/sql?as_of={}", moment.replace('+', "%2B")),
        };
        request("POST", http, &path, &[], sql.as_bytes()).await
    }

    async fn answers(&self, as_of: &str) -> anyhow::Result<Vec<String>> {
        let mut answers = Vec::new();
        for sql in QUESTIONS {
            let (status, text) = self.ask(sql, as_of).await?;
            anyhow::ensure!(status == 200, "as of `{as_of}`: {sql}: {text}");
            answers.push(text);
        }
        Ok(answers)
    }

    async fn refused(&self, sql: &str, as_of: &str) -> anyhow::Result<(u16, String)> {
        let (status, text) = self.ask(sql, as_of).await?;
        anyhow::ensure!(status != 200, "as of `{as_of}`: {sql}: {text}");
        Ok((status, text))
    }

    fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let ran = run(self.dir.path(), arguments)?;
        anyhow::ensure!(ran.code == Some(0), "{arguments:?}: {ran:?}");
        Ok(ran.said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_what_they_were() -> anyhow::Result<()> {
    let past = Past::start().await?;
    let mut rng = SmallRng::seed_from_u64(41);
    let mut sent = 0;
    let mut moments = vec![Moment {
        time: "1970-01-01T00:00:00Z".to_owned(),
        place: "facts:0:0".to_owned(),
        answers: past.answers("").await?,
    }];
    for round in 0..14 {
        let facts = rng.random_range(1..300);
        let body: String = (sent..sent + facts).map(line).collect();
        sent += facts;
        // One that is none takes an offset, too.
        let body = body + "{\"id\":1}\n";
        let (status, answer) = past.daemon.post("facts", &[], body.as_bytes()).await?;
        anyhow::ensure!(status == 200, "{answer}");
        let place = answer["token"].as_str().unwrap_or_default().to_owned();
        let answers = past.answers("").await?;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let time = past.daemon.context.storage.wall().now();
        let time = time.to_rfc3339_opts(SecondsFormat::Micros, true);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        moments.push(Moment {
            time,
            place,
            answers,
        });
        let end = sent + round + 1;
        past.daemon.landed("facts", end).await?;
        match rng.random_range(0..4) {
            0 => drop(past.command(&["batch", "maintain"])?),
            1 | 2 => drop(past.command(&["batch", "refresh", "words"])?),
            _ => {}
        }
        if round == 8 {
            past.command(&["batch", "rebuild", "per_id"])?;
        }
    }
    let check = async |when: &str| -> anyhow::Result<()> {
        for moment in &moments {
            for as_of in [&moment.time, &moment.place] {
                let found = past.answers(as_of).await?;
                anyhow::ensure!(
                    found == moment.answers,
                    "{when}, as of `{as_of}`: {found:?}, and it was {:?}",
                    moment.answers
                );
            }
        }
        Ok(())
    };
    check("as it stands").await?;
    past.command(&["batch", "refresh"])?;
    check("all absorbed").await?;
    past.command(&["batch", "rebuild", "words"])?;
    past.command(&["batch", "maintain"])?;
    check("rebuilt").await?;

    // At the other door, and without a daemon.
    let moment = &moments[5];
    let door = past.daemon.over_postgres().await?;
    let count = async || -> anyhow::Result<i64> {
        let row = door.query_one("SELECT count(*) FROM facts", &[]).await?;
        Ok(row.get(0))
    };
    let now = count().await?;
    let set = format!("SET anabranch.as_of = '{}'", moment.time);
    door.batch_execute(&set).await?;
    let then = count().await?;
    let expected = format!("[{{\"n\":{then},");
    anyhow::ensure!(
        then < now && moment.answers[1].starts_with(&expected),
        "{then}"
    );
    let followed = door.batch_execute("SUBSCRIBE words").await;
    let refused = followed.err().map(|e| format!("{e:?}")).unwrap_or_default();
    anyhow::ensure!(refused.contains("RESET anabranch.as_of"), "{refused}");
    door.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await?;
    anyhow::ensure!(count().await? == then);
    let jobs = door.query("SELECT * FROM jobs", &[]).await;
    let refused = jobs.err().map(|e| format!("{e:?}")).unwrap_or_default();
    anyhow::ensure!(refused.contains("as it is now alone"), "{refused}");
    door.batch_execute("ROLLBACK; RESET anabranch.as_of")
        .await?;
    anyhow::ensure!(count().await? == now);

    let of_then = format!("SET anabranch.as_of = '{}'; {}", moment.place, QUESTIONS[0]);
    let asked = ["--format", "json", "sql", "-q", "-c", &of_then];
    let by_daemon = past.command(&asked)?;
    let Past { dir, daemon } = past;
    daemon.stop().await?;
    let alone = run(dir.path(), &asked)?;
    anyhow::ensure!(
        alone.code == Some(0) && alone.said == by_daemon,
        "{alone:?}"
    );
    let rows = |text: &str| -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_str(text.trim())?)
    };
    anyhow::ensure!(
        rows(&by_daemon)? == rows(&moment.answers[0])?,
        "{by_daemon}"
    );
    Ok(())
}

/// What was received by a time may be written after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_just_passed_is_waited_for() -> anyhow::Result<()> {
    let past = Past::start().await?;
    let body: String = (0..100).map(line).collect();
    past.daemon.post("facts", &[], body.as_bytes()).await?;
    past.daemon.landed("facts", 100).await?;
    let time = past.daemon.context.storage.wall().now();
    let as_of = time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let count = "SELECT count(*) AS n FROM facts";
    let (status, text) = past.ask(count, &as_of).await?;
    let passed = past.daemon.context.storage.wall().now() - time;
    anyhow::ensure!(status == 200 && text.contains("\"n\":100"), "{text}");
    anyhow::ensure!(passed >= TimeDelta::seconds(5), "{passed}");
    past.daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn more_facts_than_may_be_folded_are_refused() -> anyhow::Result<()> {
    let past = Past::start_with("[query]\nas_of_facts = 50\n").await?;
    let body: String = (0..100).map(line).collect();
    past.daemon.post("facts", &[], body.as_bytes()).await?;
    past.daemon.landed("facts", 100).await?;
    let sum = "SELECT sum(facts) AS n FROM words";
    let (_, text) = past.ask(sum, "facts:0:50").await?;
    anyhow::ensure!(text.starts_with("[{\"n\":50"), "{text}");
    let (status, text) = past.refused(sum, "facts:0:51").await?;
    let part = "51 facts would be folded anew, more than `as_of_facts`";
    anyhow::ensure!(status == 503 && text.contains(part), "{text}");
    // Facts themselves are read, and not folded.
    let count = "SELECT count(*) AS n FROM facts";
    let (_, text) = past.ask(count, "facts:0:100").await?;
    anyhow::ensure!(text.contains("\"n\":100"), "{text}");
    past.daemon.stop().await
}

/// What time it is, is the time that was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn now_is_then() -> anyhow::Result<()> {
    let past = Past::start().await?;
    let sql = "SELECT now() AS at, current_date AS day";
    let (_, text) = past.ask(sql, "2026-01-31T23:30:00Z").await?;
    anyhow::ensure!(
        text.contains("2026-01-31T23:30:00") && text.contains("\"2026-01-31\""),
        "{text}"
    );
    past.daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_past_is_refused() -> anyhow::Result<()> {
    let past = Past::start().await?;
    let body: String = (0..100).map(line).collect();
    past.daemon.post("facts", &[], body.as_bytes()).await?;
    past.daemon.landed("facts", 100).await?;
    let count = "SELECT count(*) AS n FROM facts";
    for (sql, as_of, expected, part) in [
        (count, "2999-01-01T00:00:00Z", 400, "is yet to come"),
        (count, "yesterday", 400, "is no moment"),
        (count, "2026-01-01", 400, "is no moment"),
        (count, "other:0:7", 400, "reads topic `facts` too"),
        (count, "facts:0:101", 503, "up to [0:100] they have landed"),
        (count, "facts:7:1", 503, "they have landed"),
        (
            "SELECT * FROM jobs",
            "facts:0:7",
            400,
            "`jobs` is there as it is now",
        ),
        (
            "SELECT * FROM dead_letters",
            "facts:0:7",
            400,
            "as it is now",
        ),
        ("SELECT * FROM nothing", "facts:0:7", 404, "nothing"),
        ("SET anabranch.as_of = 'facts:0:7'", "", 400, "?as_of=TIME"),
    ] {
        let (status, text) = past.refused(sql, as_of).await?;
        anyhow::ensure!(
            status == expected && text.contains(part),
            "{sql}, `{as_of}`: {status} {text}"
        );
    }
    let http = &past.daemon.client.address().http;
    for (path, part) in [
        (
            "/sql?as_of=facts:0:7&read=batch",
            "leave `read` = `batch` out",
        ),
        (
            "/sql?as_of=facts:0:7&at_least=facts:0:8",
            "those up to 7 are there",
        ),
    ] {
        let (status, text) = request("POST", http, path, &[], count.as_bytes()).await?;
        anyhow::ensure!(
            status == 400 && text.contains(part),
            "{path}: {status} {text}"
        );
    }
    let path = "/views/words?word=w1&as_of=facts:0:7";
    let (status, text) = request("GET", http, path, &[], b"").await?;
    anyhow::ensure!(
        status == 200 && text.contains("\"facts\":1"),
        "{status} {text}"
    );
    past.daemon.stop().await
}
