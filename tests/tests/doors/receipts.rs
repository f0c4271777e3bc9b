//! Receipts: an answer that was given can be computed again, by whoever may read what it is of, and is
//! the same, whatever came since; what was changed in a receipt, or in a view, is told.

use std::future::poll_fn;

use anabranch_tests::daemon::{Daemon, Ran, request, run};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, VIEW, write_project};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio_postgres::{AsyncMessage, NoTls};

use super::users::Guarded;

/// Statements, and what stands for their parameters.
const QUESTIONS: [(&str, &str); 8] = [
    ("SELECT word, facts, ids, different FROM words", "[]"),
    (
        "SELECT count(*) AS n FROM facts WHERE id > $1 AND word <> $2",
        r#"[-3, "w'1"]"#,
    ),
    (
        "SELECT id, mean, minutes FROM means WHERE id IN ($1)",
        "[7]",
    ),
    ("SELECT * FROM means", "[]"),
    // What time it is counts too.
    (
        "SELECT id, now() AS at FROM facts WHERE _ingested_at > now() - INTERVAL '1 hour'",
        "[]",
    ),
    ("SELECT 1 AS one WHERE 1 = $1", "[2]"),
    (
        "SELECT count(*) AS n, current_date AS day FROM nothing",
        "[]",
    ),
    (
        "SELECT w.word, m.id FROM words w JOIN means m ON w.facts = m.id ORDER BY 2",
        "[]",
    ),
];

struct Receipted {
    dir: tempfile::TempDir,
    daemon: Daemon,
}

impl Receipted {
    async fn start(more: &str) -> anyhow::Result<Self> {
        let dir = places::folder()?;
        write_project(dir.path(), Setup::default())?;
        let path = dir.path().join("anabranch.toml");
        let views = "[views.means]\nsql = \"means.sql\"\n[views.nothing]\nsql = \"nothing.sql\"\n";
        let text = std::fs::read_to_string(&path)? + views + more;
        std::fs::write(&path, text)?;
        let means = "SELECT id % 100 AS id, avg(id / 3.0) AS mean, array_agg(DISTINCT date_trunc('minute', ts)) AS minutes FROM facts GROUP BY 1";
        std::fs::write(dir.path().join("means.sql"), means)?;
        let nothing = "SELECT word, count(*) AS n FROM facts WHERE id < 0 GROUP BY word";
        std::fs::write(dir.path().join("nothing.sql"), nothing)?;
        let daemon = Daemon::start(dir.path()).await?;
        Ok(Self { dir, daemon })
    }

    /// Asks a statement; its status, its receipt, and what is noted or said.
    async fn ask(&self, path: &str, body: String) -> anyhow::Result<(u16, String, String)> {
        let http = &self.daemon.client.address().http;
        let asked = reqwest::Client::new().post(format!("http://{http}{path}"));
        let asked = asked.header("content-type", "application/json").body(body);
        let answer = asked.send().await?;
        let text = |name: &str| -> String {
            let all = answer.headers().get_all(name).iter();
            let all: Vec<&str> = all.filter_map(|v| v.to_str().ok()).collect();
            all.join("; ")
        };
        let (receipt, notes) = (text("anabranch-receipt"), text("anabranch-note"));
        let status = answer.status().as_u16();
        Ok((status, receipt, notes + &answer.text().await?))
    }

    async fn receipt(&self, (sql, parameters): (&str, &str)) -> anyhow::Result<String> {
        let sql = serde_json::to_string(sql)?;
        let body = format!("{{\"sql\":{sql},\"parameters\":{parameters}}}");
        let (status, receipt, text) = self.ask("/sql?receipt=true", body).await?;
        anyhow::ensure!(
            status == 200 && receipt.starts_with("abr1."),
            "{sql}: {text}"
        );
        Ok(receipt)
    }

    async fn replayed(&self, receipt: &str) -> anyhow::Result<(u16, Value)> {
        let http = &self.daemon.client.address().http;
        let asked = request("POST", http, "/replay", &[], receipt.as_bytes());
        let (status, text) = asked.await?;
        Ok((status, serde_json::from_str(&text)?))
    }

    async fn holds(&self, receipts: &[String], when: &str) -> anyhow::Result<()> {
        for receipt in receipts {
            let (status, replayed) = self.replayed(receipt).await?;
            anyhow::ensure!(
                status == 200 && replayed["same"] == true,
                "{when}: {replayed}"
            );
        }
        Ok(())
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<Ran> {
        run(self.dir.path(), arguments)
    }

    fn runs_well(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let ran = self.run(arguments)?;
        anyhow::ensure!(ran.code == Some(0), "{arguments:?}: {ran:?}");
        Ok(ran.said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_computed_again() -> anyhow::Result<()> {
    let there = Receipted::start("").await?;
    let mut rng = SmallRng::seed_from_u64(43);
    let (mut receipts, mut sent) = (Vec::new(), 0);
    for question in QUESTIONS {
        receipts.push(there.receipt(question).await?);
    }
    for round in 0..5 {
        let facts = rng.random_range(1..300);
        let body: String = (sent..sent + facts).map(line).collect();
        sent += facts;
        let (status, answer) = there.daemon.post("facts", &[], body.as_bytes()).await?;
        anyhow::ensure!(status == 200, "{answer}");
        for question in QUESTIONS {
            receipts.push(there.receipt(question).await?);
        }
        there.daemon.landed("facts", sent).await?;
        if round % 2 == 0 {
            there.runs_well(&["batch", "refresh", "means"])?;
        }
    }
    there.holds(&receipts, "as it stands").await?;
    there.runs_well(&["batch", "refresh"])?;
    there.runs_well(&["batch", "rebuild", "words"])?;
    there.runs_well(&["batch", "maintain"])?;
    there.holds(&receipts, "rebuilt").await?;

    // Another statement as of then.
    let then = format!("/sql?as_of={}", receipts[9]);
    let count = "{\"sql\":\"SELECT count(*) AS n FROM facts WHERE word <> 'w''1'\"}";
    let (status, _, text) = there.ask(&then, count.to_owned()).await?;
    let expected = there.replayed(&receipts[9]).await?.1["then"]["heads"].clone();
    anyhow::ensure!(
        status == 200 && text.contains(expected.as_str().unwrap_or("?")),
        "{text}, {expected}"
    );

    // With the command, beside a daemon and without one.
    let told = there.runs_well(&["replay", &receipts[16]])?;
    anyhow::ensure!(told.contains("the same answer comes of it now"), "{told}");
    let set = "SET anabranch.receipts = on; SELECT count(*) FROM facts";
    let ran = there.run(&["sql", "-c", set])?;
    let noted = ran.complained.split("receipt: ").nth(1);
    let noted = noted.and_then(|rest| rest.split_whitespace().next());
    let noted = noted.unwrap_or_default().to_owned();
    let Receipted { dir, daemon } = there;
    daemon.stop().await?;
    for receipt in [&receipts[3], &receipts[31], &noted] {
        let ran = run(dir.path(), &["--format", "json", "replay", receipt])?;
        anyhow::ensure!(
            ran.code == Some(0) && ran.said.contains("\"same\":true"),
            "{ran:?}"
        );
    }
    Ok(())
}

/// PostgreSQL's clients get them as notices, of what they ask in their own spelling too.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_postgres_get_them_as_notices() -> anyhow::Result<()> {
    let there = Receipted::start("[doors.postgres]\nlisten = \"127.0.0.1:0\"\n").await?;
    let body: String = (0..100).map(line).collect();
    there.daemon.post("facts", &[], body.as_bytes()).await?;
    there.daemon.landed("facts", 100).await?;
    let (_, health) = there.daemon.get("/health").await?;
    let health: Value = serde_json::from_str(&health)?;
    let port = health["postgres"].as_str().unwrap_or_default();
    let port = port.rsplit(':').next().unwrap_or_default().to_owned();
    let settings = format!("host=127.0.0.1 port={port} user=me dbname=it");
    let (client, mut connection) = tokio_postgres::connect(&settings, NoTls).await?;
    let (told, mut notices) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let Ok(AsyncMessage::Notice(notice)) = message {
                told.send(notice.message().to_owned()).ok();
            }
        }
    });
    client.batch_execute("SET anabranch.receipts = on").await?;
    let spelled = "SELECT word, sum(id)::bigint AS ids FROM public.facts WHERE id = ANY($1) AND word ~ $2 GROUP BY 1";
    let rows = client
        .query(spelled, &[&vec![3_i64, 4, 50], &"w[1-4]"])
        .await?;
    anyhow::ensure!(rows.len() == 3, "{rows:?}");
    client.batch_execute("SELECT count(*) FROM words").await?;
    for rows in [3, 1] {
        let notice = notices.recv().await.unwrap_or_default();
        let receipt = notice.strip_prefix("receipt: ").unwrap_or_default();
        let (status, replayed) = there.replayed(receipt).await?;
        anyhow::ensure!(
            status == 200 && replayed["same"] == true && replayed["then"]["rows"] == rows,
            "{notice}: {replayed}"
        );
    }
    client.query("SELECT random()", &[]).await?;
    let notice = notices.recv().await.unwrap_or_default();
    anyhow::ensure!(
        notice.starts_with("there is no receipt: `random`"),
        "{notice}"
    );
    client
        .batch_execute("RESET anabranch.receipts; SELECT 1")
        .await?;
    anyhow::ensure!(notices.try_recv().is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_is_told() -> anyhow::Result<()> {
    let there = Receipted::start("").await?;
    let body: String = (0..200).map(line).collect();
    there.daemon.post("facts", &[], body.as_bytes()).await?;
    there.daemon.landed("facts", 200).await?;
    let receipt = there.receipt(QUESTIONS[0]).await?;
    there
        .holds(std::slice::from_ref(&receipt), "at once")
        .await?;

    // In the receipt: what it says, who signed it, and what was left out.
    let parts: Vec<&str> = receipt.split('.').collect();
    let other = there.receipt(QUESTIONS[1]).await?;
    let others: Vec<&str> = other.split('.').collect();
    for forged in [
        format!("abr1.{}.{}", others[1], parts[2]),
        format!("abr1.{}.{}", parts[1], others[2]),
        format!("abr1.{}.", parts[1]),
    ] {
        let (status, said) = there.replayed(&forged).await?;
        anyhow::ensure!(
            status == 403
                && said["error"]
                    .to_string()
                    .contains("did not make this receipt"),
            "{said}"
        );
    }
    for torn in ["", "abr1", &receipt[..receipt.len() / 2], "abr1.e30.AAAA"] {
        let (status, said) = there.replayed(torn).await?;
        anyhow::ensure!(status == 400, "{torn}: {said}");
    }

    // In the view.
    let sql = "SELECT word, count(*) AS facts, sum(id) AS ids, count(DISTINCT id) AS different FROM facts WHERE id <> 3 GROUP BY word";
    std::fs::write(there.dir.path().join("words.sql"), sql)?;
    there.runs_well(&["apply", "--yes"])?;
    let ran = there.run(&["replay", &receipt])?;
    anyhow::ensure!(
        ran.code == Some(1)
            && ran.said.contains("some rows have other values")
            && ran.said.contains("was edited since"),
        "{ran:?}"
    );
    // And as it was again, in another generation.
    std::fs::write(there.dir.path().join("words.sql"), VIEW)?;
    there.runs_well(&["apply", "--yes"])?;
    let said = there.runs_well(&["replay", &receipt])?;
    anyhow::ensure!(said.contains("of the same definition"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_receipt_says_so() -> anyhow::Result<()> {
    let there = Receipted::start("[query]\nmemory = \"4MB\"\n").await?;
    let body: String = (0..60_000).map(line).collect();
    there.daemon.post("facts", &[], body.as_bytes()).await?;
    there.daemon.landed("facts", 60_000).await?;
    for (sql, path, part) in [
        (
            "SELECT * FROM jobs",
            "",
            "`jobs` is there as it is now alone",
        ),
        (
            "SELECT * FROM information_schema.tables",
            "",
            "as of now alone",
        ),
        (
            "SELECT random() AS r FROM words",
            "",
            "`random` gives another value",
        ),
        (
            "SELECT word FROM words",
            "&read=batch",
            "batch answers have none",
        ),
    ] {
        let body = serde_json::json!({ "sql": sql }).to_string();
        let path = format!("/sql?receipt=true{path}");
        let (status, receipt, text) = there.ask(&path, body).await?;
        anyhow::ensure!(
            status == 200 && receipt.is_empty() && text.contains("there is no receipt"),
            "{sql}: {text}"
        );
        anyhow::ensure!(text.contains(part), "{sql}: {text}");
    }
    let long = format!("SELECT '{}' AS long", "x".repeat(30_000));
    let body = serde_json::json!({ "sql": long }).to_string();
    let (status, receipt, text) = there.ask("/sql?receipt=true", body).await?;
    anyhow::ensure!(
        status == 200 && receipt.is_empty() && text.contains("is too long"),
        "{text}"
    );
    // One that is larger than memory is refused, and goes over without a receipt.
    for (path, expected) in [("/sql?receipt=true", 503), ("/sql", 200)] {
        let body = serde_json::json!({ "sql": "SELECT * FROM facts" }).to_string();
        let (status, _, text) = there.ask(path, body).await?;
        let said = &text[..text.len().min(300)];
        anyhow::ensure!(status == expected, "{path}: {status} {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_computed_with_the_rights_of_who_asks() -> anyhow::Result<()> {
    let guarded = Guarded::new("")?;
    let all = guarded.add("all", &["read *"]).await?;
    let facts = guarded
        .add("facts", &["read facts", "ingest facts"])
        .await?;
    let some = guarded
        .add("some", &["read words where word = 'w1'"])
        .await?;
    let daemon = Daemon::start(guarded.path()).await?;
    let http = daemon.client.address().http.clone();
    let asked = async |token: &str, path: &str, body: &str| -> anyhow::Result<_> {
        let asked = reqwest::Client::new().post(format!("http://{http}{path}"));
        let answer = asked
            .bearer_auth(token)
            .body(body.to_owned())
            .send()
            .await?;
        let receipt = answer.headers().get("anabranch-receipt").cloned();
        let note = answer.headers().get("anabranch-note").cloned();
        let text = |header: Option<reqwest::header::HeaderValue>| {
            header.and_then(|header| Some(header.to_str().ok()?.to_owned()))
        };
        let status = answer.status().as_u16();
        Ok((status, text(receipt), text(note), answer.text().await?))
    };
    let body: String = (0..100).map(line).collect();
    let (status, _, _, text) = asked(&facts, "/topics/facts", &body).await?;
    anyhow::ensure!(status == 200, "{text}");
    daemon.landed("facts", 100).await?;
    let words = "SELECT word, facts FROM words";
    let (_, receipt, _, text) = asked(&all, "/sql?receipt=true", words).await?;
    let receipt = receipt.ok_or_else(|| anyhow::anyhow!("no receipt: {text}"))?;
    let (status, _, _, text) = asked(&all, "/replay", &receipt).await?;
    anyhow::ensure!(
        status == 200 && text.contains("\"same\":true") && text.contains("\"user\":\"all\""),
        "{text}"
    );
    let (status, _, _, text) = asked(&facts, "/replay", &receipt).await?;
    anyhow::ensure!(status == 404 && !text.contains("heads"), "{text}");
    let (status, _, _, text) = asked(&some, "/replay", &receipt).await?;
    anyhow::ensure!(status == 403 && !text.contains("heads"), "{text}");
    let (status, _, _, text) = asked("", "/replay", &receipt).await?;
    anyhow::ensure!(status == 401, "{text}");
    let (status, receipt, note, text) = asked(&some, "/sql?receipt=true", words).await?;
    anyhow::ensure!(status == 200 && receipt.is_none(), "{text}");
    let note = note.unwrap_or_default();
    anyhow::ensure!(note.contains("rows that this user may not read"), "{note}");
    daemon.stop().await
}
