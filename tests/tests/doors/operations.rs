//! Plans and operations over HTTP: what the commands do, in their words, for those who may.

use std::path::Path;
use std::time::{Duration, Instant};

use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, run_well, until, write_project};
use serde_json::{Value, json};

use super::users::{Guarded, ask};

/// How long an operation may take on a machine that runs other tests beside this one.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody who asks a daemon; nobody in particular where the token is empty.
struct Asker<'a> {
    daemon: &'a Daemon,
    token: &'a str,
}

impl Asker<'_> {
    async fn get(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        let (status, text) = ask(self.daemon, ("GET", path), self.token, "").await?;
        Ok((status, serde_json::from_str(&text)?))
    }

    /// Asks for an operation: the status, and the operation or the error.
    async fn asks(&self, path: &str, request: &Value) -> anyhow::Result<(u16, Value)> {
        let http = &self.daemon.client.address().http;
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![("content-type", "application/json")];
        if !self.token.is_empty() {
            headers.push(("authorization", bearer.as_str()));
        }
        let body = request.to_string();
        let answer =
            anabranch_tests::daemon::request("POST", http, path, &headers, body.as_bytes());
        let (status, text) = answer.await?;
        let value = serde_json::from_str(&text).map_err(|e| anyhow::anyhow!("{text}: {e}"))?;
        Ok((status, value))
    }

    /// Has an operation done. Returns it once it has ended.
    async fn does(&self, request: Value) -> anyhow::Result<Value> {
        let (status, begun) = self.asks("/operations", &request).await?;
        anyhow::ensure!(status == 202, "{request}: {status} {begun}");
        self.ended(begun["id"].as_str().unwrap_or_default()).await
    }

    async fn ended(&self, id: &str) -> anyhow::Result<Value> {
        let begun = Instant::now();
        loop {
            let (status, now) = self.get(&format!("/operations/{id}")).await?;
            anyhow::ensure!(status == 200, "{now}");
            if !now["ended_at"].is_null() {
                return Ok(now);
            }
            anyhow::ensure!(begun.elapsed() < PATIENCE, "it goes on: {now}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn plan_id(&self) -> anyhow::Result<String> {
        let (status, plan) = self.get("/plan").await?;
        anyhow::ensure!(status == 200, "{plan}");
        Ok(plan["id"].as_str().unwrap_or_default().to_owned())
    }

    /// The command that an operation would be.
    async fn command(&self, request: &Value) -> anyhow::Result<String> {
        let (status, shown) = self.asks("/operations?show=true", request).await?;
        anyhow::ensure!(status == 200, "{shown}");
        Ok(shown["command"].as_str().unwrap_or_default().to_owned())
    }
}

/// Counts facts by their words, and some alone.
fn write_view(dir: &Path, only: &str) -> anyhow::Result<()> {
    let sql = format!("SELECT word, count(*) AS facts FROM facts{only} GROUP BY word");
    Ok(std::fs::write(dir.join("words.sql"), sql)?)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_commands_do_is_done_over_http() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let dir = dir.path();
    write_project(dir, Setup::default())?;
    write_view(dir, "")?;
    let settings = dir.join("anabranch.toml");
    let gated = std::fs::read_to_string(&settings)? + "[views.words.gate]\nkeys_lost = 0\n";
    std::fs::write(&settings, gated)?;
    let daemon = Daemon::start(dir).await?;
    let asker = Asker {
        daemon: &daemon,
        token: "",
    };
    let facts: String = (0..300).map(line).collect();
    daemon.post("facts", &[], facts.as_bytes()).await?;
    daemon.landed("facts", 300).await?;
    let (_, me) = asker.get("/whoami").await?;
    anyhow::ensure!(
        me == json!({"user": null, "rights": ["admin"], "operates": true}),
        "{me}"
    );

    // Nothing was edited.
    let (_, plan) = asker.get("/plan").await?;
    anyhow::ensure!(plan["has_changes"] == false, "{plan}");
    let nothing = json!({"do": "apply", "plan": plan["id"], "cut_over": true});
    let (status, refused) = asker.asks("/operations", &nothing).await?;
    anyhow::ensure!(
        status == 409 && text(&refused, "error").contains("nothing to do"),
        "{refused}"
    );

    // The jobs.
    for job in ["refresh", "rebuild", "verify"] {
        let done = asker.does(json!({"do": job, "view": "words"})).await?;
        anyhow::ensure!(
            done["state"] == "done" && text(&done, "said").contains("words"),
            "{done}"
        );
    }
    let of_jobs = "SELECT job FROM jobs WHERE trigger = 'console' AND outcome = 'done'";
    anyhow::ensure!(daemon.rows(of_jobs).await?.len() == 3);

    // An edit, in the words of the command.
    write_view(dir, " WHERE id % 100 <> 0 AND word <> 'w0'")?;
    let (_, plan) = asker.get("/plan").await?;
    let change = &plan["views"][0];
    let ran = run(dir, &["plan"])?;
    anyhow::ensure!(
        ran.said.contains(text(change, "doing"))
            && ran.said.contains(text(&plan, "id"))
            && change["details"].as_array().is_some_and(|all| {
                let said = |d: &Value| ran.said.contains(d[1].as_str().unwrap_or("?"));
                all.len() >= 3 && all.iter().all(said)
            }),
        "{plan}\n{}",
        ran.said
    );
    let (_, of_one) = asker.get("/plan?view=words").await?;
    anyhow::ensure!(of_one["views"] == plan["views"], "{of_one}");
    let (status, wrong) = asker.get("/plan?views=words").await?;
    anyhow::ensure!(status == 400 && text(&wrong, "error").contains("`view`"));
    let (status, _) = asker.get("/plan?view=wrods").await?;
    anyhow::ensure!(status == 404);

    // What was shown is what is done, or nothing.
    let apply = |id: &str, cut_over: bool| json!({"do": "apply", "plan": id, "cut_over": cut_over, "message": "it's less"});
    let (status, moved) = asker.asks("/operations", &apply("3f", true)).await?;
    anyhow::ensure!(
        status == 409 && text(&moved, "error").contains("not `3f`"),
        "{moved}"
    );
    let id = asker.plan_id().await?;
    let command = asker.command(&apply(&id, false)).await?;
    anyhow::ensure!(
        command == format!("anabranch apply {id} --yes --no-cut-over --message \"it's less\""),
        "{command}"
    );

    // The gate stops it, and what answers has not changed.
    let before = daemon.rows("SELECT * FROM words ORDER BY word").await?;
    let stopped = asker.does(apply(&id, true)).await?;
    anyhow::ensure!(
        stopped["state"] == "differs"
            && text(&stopped, "said").contains("the gate is broken: `keys_lost` allows 0, found 1")
            && stopped["result"]["cut_over"] == false,
        "{stopped}"
    );
    anyhow::ensure!(daemon.rows("SELECT * FROM words ORDER BY word").await? == before);
    let (_, plan) = asker.get("/plan").await?;
    anyhow::ensure!(
        plan["views"][0]["stopped_by"][0]
            .as_str()
            .is_some_and(|by| by.contains("keys_lost")),
        "{plan}"
    );
    let compared = asker.does(json!({"do": "diff", "view": "words"})).await?;
    let ran = run(dir, &["diff", "words"])?;
    anyhow::ensure!(
        compared["state"] == "differs" && text(&compared, "said") == ran.said,
        "{compared}\n{}",
        ran.said
    );

    // Mended, it takes the place of what answers; and that comes back.
    write_view(dir, " WHERE id % 100 <> 0")?;
    let id = asker.plan_id().await?;
    let done = asker.does(apply(&id, true)).await?;
    anyhow::ensure!(
        done["state"] == "done" && done["result"]["cut_over"] == true,
        "{done}"
    );
    let total = "SELECT sum(facts) FROM words";
    anyhow::ensure!(daemon.rows(total).await? == [["297"]]);
    let live = done["result"]["built"][0]["generation"].clone();
    let back = |generation: &Value| json!({"do": "roll_back", "view": "words", "generation": generation, "message": "no"});
    let (status, moved) = asker.asks("/operations", &back(&json!(1))).await?;
    anyhow::ensure!(status == 409, "{moved}");
    let done = asker.does(back(&live)).await?;
    anyhow::ensure!(
        done["state"] == "done" && text(&done, "said").contains("answers again"),
        "{done}"
    );
    anyhow::ensure!(daemon.rows(total).await? == [["300"]]);
    let history = run_well(dir, &["--format", "json", "history", "words"]).await?;
    anyhow::ensure!(
        history.contains("it's less") && history.contains("\"no\""),
        "{history}"
    );

    // Dead letters become facts, once.
    let broken = "{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":\"seven\",\"word\":\"oak\"}\n";
    daemon.post("facts", &[], broken.as_bytes()).await?;
    let retry = |fix: &str, dry_run: bool| json!({"do": "retry", "topic": "facts", "places": ["0:300"], "fix": fix, "dry_run": dry_run});
    let mends = "SELECT replace(raw, '\"seven\"', '7') FROM dead_letters";
    until("the dead letter can be read", async || {
        let tried = asker.does(retry(mends, true)).await?;
        Ok(tried["result"]["facts"] == 1)
    })
    .await?;
    let wrong = asker
        .does(retry("SELECT raw FROM dead_letters", true))
        .await?;
    anyhow::ensure!(
        wrong["state"] == "differs" && wrong["result"]["failed"] == 1,
        "{wrong}"
    );
    let wrong = asker.does(retry("SELEKT", true)).await?;
    anyhow::ensure!(
        wrong["state"] == "failed" && wrong["error"]["kind"] == "invalid",
        "{wrong}"
    );
    anyhow::ensure!(daemon.rows(total).await? == [["300"]]);
    for (facts, repeated) in [(1, 0), (0, 1)] {
        let done = asker.does(retry(mends, false)).await?;
        let result = &done["result"];
        anyhow::ensure!(
            result["facts"] == facts && result["repeated"] == repeated,
            "{done}"
        );
    }
    anyhow::ensure!(daemon.rows(total).await? == [["301"]]);

    // What is new is declared and built.
    let more = "[views.days]\nsql = \"days.sql\"\n[topics.later]\nevent_time = \"ts\"\n[topics.later.fields]\nts = \"timestamp not null\"\n";
    std::fs::write(&settings, std::fs::read_to_string(&settings)? + more)?;
    let days = "SELECT date_trunc('day', ts) AS day, count(*) AS facts FROM facts GROUP BY 1";
    std::fs::write(dir.join("days.sql"), days)?;
    let id = asker.plan_id().await?;
    let done = asker.does(apply(&id, true)).await?;
    anyhow::ensure!(
        done["state"] == "done" && text(&done, "said").contains("view days: answers now"),
        "{done}"
    );
    until("the new view answers", async || {
        let rows = daemon.rows("SELECT sum(facts) FROM days").await;
        Ok(rows.is_ok_and(|rows| rows == [["301"]]))
    })
    .await?;

    // A project that can't be read says where.
    std::fs::write(dir.join("words.sql"), "SELECT FROM")?;
    let (status, plan) = asker.get("/plan").await?;
    let refused = plan["refusals"][0].as_str().unwrap_or_default().to_owned();
    anyhow::ensure!(
        status == 200 && refused.contains("view `words`"),
        "{status} {plan}"
    );
    std::fs::write(&settings, "[storage\n")?;
    let (status, unread) = asker.get("/plan").await?;
    anyhow::ensure!(status == 400, "{status} {unread}");
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what_there_too() -> anyhow::Result<()> {
    let guarded = Guarded::new("")?;
    let root = guarded.add("root", &["admin"]).await?;
    let reader = guarded.add("reader", &["read *"]).await?;
    let blind = guarded.add("blind", &["operate"]).await?;
    let some = guarded
        .add("some", &["operate", "read words where word = 'w1'"])
        .await?;
    let anna = guarded.add("anna", &["operate", "read words"]).await?;
    let daemon = Daemon::start(guarded.path()).await?;
    let asker = |token| Asker {
        daemon: &daemon,
        token,
    };
    let facts: String = (0..100).map(line).collect();
    let (status, _) = ask(&daemon, ("POST", "/topics/facts"), &root, &facts).await?;
    anyhow::ensure!(status == 200);
    for (token, user, operates) in [(&reader, "reader", false), (&blind, "blind", true)] {
        let (_, me) = asker(token).get("/whoami").await?;
        anyhow::ensure!(me["user"] == user && me["operates"] == operates, "{me}");
    }
    let refresh = json!({"do": "refresh", "view": "words"});
    let retry = json!({"do": "retry", "topic": "facts", "dry_run": true});
    for (who, token, request, expected) in [
        ("nobody", "", &refresh, 401),
        ("reader", reader.as_str(), &refresh, 403),
        // What is said shows rows.
        ("blind", blind.as_str(), &refresh, 403),
        ("some", some.as_str(), &refresh, 403),
        ("anna", anna.as_str(), &refresh, 202),
        ("anna", anna.as_str(), &retry, 403),
        ("root", root.as_str(), &retry, 202),
    ] {
        let (status, answer) = asker(token).asks("/operations", request).await?;
        anyhow::ensure!(status == expected, "{who} {request}: {status} {answer}");
    }
    for path in ["/plan", "/operations", "/operations/3f"] {
        for (token, expected) in [("", 401), (reader.as_str(), 403)] {
            let (status, answer) = asker(token).get(path).await?;
            anyhow::ensure!(status == expected, "{path}: {status} {answer}");
        }
    }
    for (token, expected) in [(&blind, 403), (&some, 403), (&anna, 200)] {
        let (status, answer) = asker(token).get("/plan").await?;
        anyhow::ensure!(status == expected, "{status} {answer}");
    }
    // What others did is seen by those who operate; what it said by those who may read that.
    let done = asker(&anna)
        .does(json!({"do": "verify", "view": "words"}))
        .await?;
    anyhow::ensure!(done["by"] == "anna" && text(&done, "said").contains("0 differ"));
    let path = format!("/operations/{}", text(&done, "id"));
    for token in [&blind, &some] {
        let (status, seen) = asker(token).get(&path).await?;
        anyhow::ensure!(
            status == 200 && seen.get("said").is_none() && seen.get("result").is_none(),
            "{seen}"
        );
    }
    let (_, seen) = asker(&root).get(&path).await?;
    anyhow::ensure!(seen["said"] == done["said"], "{seen}");
    // Each is written down.
    until("it is in the audit log", async || {
        let sql = "SELECT DISTINCT \"user\" FROM _audit WHERE outcome = 'done' ORDER BY 1";
        let (status, rows) = ask(&daemon, ("POST", "/sql"), &root, sql).await?;
        Ok(status == 200 && rows.contains("anna") && !rows.contains("blind"))
    })
    .await?;
    daemon.stop().await
}

/// What takes long is stopped, and there is a bound of how many run.
#[tokio::test(flavor = "multi_thread")]
async fn operations_are_stopped_and_bounded() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let daemon = Daemon::start_with(dir.path(), &["up"], "verify-after-pin=sleep(1500)").await?;
    let asker = Asker {
        daemon: &daemon,
        token: "",
    };
    let verify = json!({"do": "verify", "view": "words"});
    let mut begun = Vec::new();
    let refused = loop {
        let (status, answer) = asker.asks("/operations", &verify).await?;
        if status != 202 {
            break (status, answer);
        }
        begun.push(text(&answer, "id").to_owned());
        anyhow::ensure!(begun.len() < 20, "there is no bound");
    };
    anyhow::ensure!(
        refused.0 == 503 && text(&refused.1, "error").contains("8 operations"),
        "{refused:?}"
    );
    anyhow::ensure!(begun.len() == 8, "{}", begun.len());
    let path = format!("/operations/{}", begun[0]);
    let (status, _) = ask(&daemon, ("DELETE", &path), "", "").await?;
    anyhow::ensure!(status == 200);
    let stopped = asker.ended(&begun[0]).await?;
    anyhow::ensure!(stopped["state"] == "stopped", "{stopped}");
    for id in &begun[1..] {
        let ended = asker.ended(id).await?;
        anyhow::ensure!(ended["state"] == "done", "{ended}");
    }
    // The last ones are kept, the newest first.
    for _ in 0..60 {
        let refused = json!({"do": "diff", "view": "words"});
        let (status, answer) = asker.asks("/operations", &refused).await?;
        anyhow::ensure!(status == 404, "{status} {answer}");
    }
    let (_, listed) = asker.get("/operations").await?;
    let listed = listed["operations"].as_array().cloned().unwrap_or_default();
    anyhow::ensure!(
        listed.len() == 8 && listed[0]["id"] == begun[7].as_str(),
        "{listed:?}"
    );
    let (status, none) = asker.get("/operations/3f").await?;
    anyhow::ensure!(status == 404 && text(&none, "error").contains("no operation"));
    daemon.stop().await
}

/// Views are written by one at a time; one that waits for its turn is stopped at once.
#[tokio::test(flavor = "multi_thread")]
async fn those_that_write_views_wait_for_their_turn() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let daemon =
        Daemon::start_with(dir.path(), &["speed"], "publish-before-commit=sleep(4000)").await?;
    let asker = Asker {
        daemon: &daemon,
        token: "",
    };
    let facts: String = (0..100).map(line).collect();
    daemon.post("facts", &[], facts.as_bytes()).await?;
    daemon.landed("facts", 100).await?;
    let refresh = json!({"do": "refresh", "view": "words"});
    let mut begun = Vec::new();
    for _ in 0..3 {
        let (status, answer) = asker.asks("/operations", &refresh).await?;
        anyhow::ensure!(status == 202, "{answer}");
        begun.push(text(&answer, "id").to_owned());
        until("the first runs", async || {
            let (_, first) = asker.get(&format!("/operations/{}", begun[0])).await?;
            Ok(first["state"] == "running")
        })
        .await?;
    }
    let path = format!("/operations/{}", begun[1]);
    let (_, waits) = asker.get(&path).await?;
    anyhow::ensure!(waits["state"] == "waiting", "{waits}");
    ask(&daemon, ("DELETE", &path), "", "").await?;
    let stopped = asker.ended(&begun[1]).await?;
    anyhow::ensure!(
        stopped["state"] == "stopped"
            && text(&stopped["error"], "error").contains("before it began"),
        "{stopped}"
    );
    let (_, first) = asker.get(&format!("/operations/{}", begun[0])).await?;
    anyhow::ensure!(first["state"] == "running", "{first}");
    for id in [&begun[0], &begun[2]] {
        let ended = asker.ended(id).await?;
        anyhow::ensure!(ended["state"] == "done", "{ended}");
    }
    daemon.stop().await
}
