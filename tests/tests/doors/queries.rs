//! One query can't take a daemon: statements that are too large, functions that grow, and queries that
//! nobody waits for any more. What runs can be seen and stopped, and work that is stopped ends.

use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anabranch_jobs::project::context::Context;
use anabranch_tests::daemon::{Daemon, request, run};
use anabranch_tests::places;
use anabranch_tests::process::{Process, Setup, until, write_project};
use serde_json::Value;

/// A project with settings of `[query]`.
fn project(query: &str) -> anyhow::Result<tempfile::TempDir> {
    let dir = places::folder()?;
    let daemon = format!("[query]\nmemory = \"256MB\"\nthreads = 2\n{query}");
    let setup = Setup {
        daemon: &daemon,
        ..Default::default()
    };
    write_project(dir.path(), setup)?;
    Ok(dir)
}

/// A daemon, and what asks it.
struct Asked {
    process: Process,
    http: String,
    client: reqwest::Client,
}

impl Asked {
    async fn start(dir: &Path) -> anyhow::Result<Self> {
        let context = Context::open(dir).await?;
        let mut process = Process::start(dir, &["speed"])?;
        let http = process.ready(&context).await?.address().http.clone();
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self {
            process,
            http,
            client,
        })
    }

    /// The status and the answer to a statement.
    async fn ask(&self, sql: &str) -> anyhow::Result<(u16, String)> {
        let url = format!("http://{}/sql", self.http);
        let sent = self.client.post(url).body(sql.to_owned()).send().await?;
        Ok((sent.status().as_u16(), sent.text().await?))
    }

    /// What runs and waits.
    async fn queries(&self) -> anyhow::Result<Vec<Value>> {
        let url = format!("http://{}/queries", self.http);
        let text = self.client.get(url).send().await?.text().await?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["queries"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until so many queries are in a state.
    async fn until(&self, state: &str, count: usize) -> anyhow::Result<()> {
        until(&format!("{count} {state}"), async || {
            let queries = self.queries().await?;
            Ok(queries.iter().filter(|q| q["state"] == state).count() == count)
        })
        .await
    }

    /// Waits until no query runs, and looks that none goes on without being listed.
    async fn is_idle(&self, what: &str) -> anyhow::Result<()> {
        until(what, async || Ok(self.queries().await?.is_empty())).await?;
        let before = self.cpu_seconds()?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let used = self.cpu_seconds()? - before;
        anyhow::ensure!(used < 0.5, "{what}: {used} s of processor time in 2 s");
        Ok(())
    }

    /// Processor time of the daemon so far.
    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        cpu_seconds(self.process.id())
    }

    fn peak_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find(|l| l.starts_with("VmHWM:"));
        let kib = line.and_then(|l| l.split_whitespace().nth(1));
        let kib = kib.ok_or_else(|| anyhow::anyhow!("the system does not tell"))?;
        Ok(kib.parse::<u64>()? * 1_024)
    }
}

/// Joins of which no row comes out.
const NESTED_LOOP: &str = "select count(*) from generate_series(1, 200000) a join generate_series(1, 200000) b on a.value < b.value and a.value * 7 + b.value < 0";

/// Statements that take very long: a kind of work each.
fn endless() -> Vec<(&'static str, String)> {
    let folded: Vec<String> = (0..300)
        .map(|n| format!("levenshtein(repeat('a', {}), repeat('b', 1500))", 1_500 + n))
        .collect();
    vec![
        ("a nested-loop join", NESTED_LOOP.to_owned()),
        (
            "a filtered hash join",
            "select count(*) from generate_series(1, 300000) a join generate_series(1, 300000) b on a.value % 3 = b.value % 3 and a.value + b.value < 0".to_owned(),
        ),
        (
            "a cross join",
            "select sum(a.value * b.value % 7) from generate_series(1, 1000000) a cross join generate_series(1, 1000000) b".to_owned(),
        ),
        (
            "generate_series",
            "select sum(value % 7) from generate_series(1, 1000000000000)".to_owned(),
        ),
        (
            "a sort",
            "select value from generate_series(1, 1000000000) order by value * 7919 % 1000003 desc offset 999999990".to_owned(),
        ),
        (
            "levenshtein",
            "select sum(levenshtein(repeat('a', 1000 + value % 7), repeat('b', 1000))) from generate_series(1, 1000000)".to_owned(),
        ),
        (
            "the folding of constants",
            format!("select {}", folded.join(" + ")),
        ),
        (
            "a recursion",
            "with recursive t as (select 1 as n union all select n + 1 from t) select count(*) from t".to_owned(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn work_ends_when_nobody_waits_for_it() -> anyhow::Result<()> {
    let dir = project("")?;
    let asked = Asked::start(dir.path()).await?;
    for (what, sql) in endless() {
        let gone = tokio::time::timeout(Duration::from_secs(1), asked.ask(&sql)).await;
        anyhow::ensure!(gone.is_err(), "{what}: {gone:?}");
        asked.is_idle(what).await?;
    }
    let (status, answer) = asked.ask("select 1 as one").await?;
    anyhow::ensure!(status == 200 && answer == r#"[{"one":1}]"#, "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn work_ends_at_the_limit() -> anyhow::Result<()> {
    let dir = project("timeout = \"1s\"")?;
    let asked = Asked::start(dir.path()).await?;
    for (what, sql) in endless() {
        let begun = Instant::now();
        let (status, answer) = asked.ask(&sql).await?;
        anyhow::ensure!(status == 503, "{what}: {status} {answer}");
        anyhow::ensure!(answer.contains("`timeout`"), "{what}: {answer}");
        let took = begun.elapsed();
        anyhow::ensure!(took < Duration::from_secs(6), "{what}: {took:?}");
        asked.is_idle(what).await?;
    }
    Ok(())
}

/// Ctrl-C in the shell, with a daemon and without.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_interrupted_leaves_nothing_running() -> anyhow::Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let dir = project("")?;
    let asked = Asked::start(dir.path()).await?;
    let mut shell = Process::start(dir.path(), &["sql", "-c", NESTED_LOOP])?;
    asked.until("running", 1).await?;
    let pid = Pid::from_raw(i32::try_from(shell.id())?);
    let pid = pid.ok_or_else(|| anyhow::anyhow!("no process"))?;
    kill_process(pid, Signal::INT)?;
    shell.ended().await?;
    asked.is_idle("an interrupted command").await
}

/// Processor time of a process so far.
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat
        .rsplit_once(") ")
        .ok_or_else(|| anyhow::anyhow!("{stat}"))?;
    let ticks = rest.split(' ').skip(11).take(2);
    let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// The process that runs on a project, if there is one.
fn process_on(dir: &Path) -> anyhow::Result<Option<u32>> {
    let wanted = dir.display().to_string();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str());
        let Some(pid) = name.and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        // Others end meanwhile.
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<&str> = line.split('\0').collect();
        if words.first().is_some_and(|w| w.ends_with("/anabranch")) && words.contains(&&*wanted) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// What is typed into a shell, and what it shows.
struct Terminal {
    typed: std::process::ChildStdin,
    heard: tokio::sync::mpsc::UnboundedReceiver<u8>,
    /// What was heard since it was last what was waited for.
    text: Vec<u8>,
}

impl Terminal {
    fn of(shell: &mut std::process::Child) -> anyhow::Result<Self> {
        let missing = || anyhow::anyhow!("no pipe to the shell");
        let typed = shell.stdin.take().ok_or_else(missing)?;
        let said = shell.stdout.take().ok_or_else(missing)?;
        let (send, heard) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let bytes = BufReader::new(said).bytes().map_while(Result::ok);
            bytes.map(|byte| send.send(byte)).all(|sent| sent.is_ok())
        });
        Ok(Self {
            typed,
            heard,
            text: Vec::new(),
        })
    }

    fn presses(&mut self, key: u8) -> anyhow::Result<()> {
        Ok(self.typed.write_all(&[key])?)
    }

    async fn hears(&mut self, part: &str) -> anyhow::Result<()> {
        let listening = async {
            while !String::from_utf8_lossy(&self.text).contains(part) {
                let byte = self.heard.recv().await;
                let ended = || anyhow::anyhow!("the shell ended");
                self.text.push(byte.ok_or_else(ended)?);
            }
            anyhow::Ok(())
        };
        let heard = tokio::time::timeout(Duration::from_secs(60), listening).await;
        match heard {
            Ok(heard) => heard?,
            Err(_) => {
                let text = String::from_utf8_lossy(&self.text);
                anyhow::bail!("`{part}` is not heard, but: {}", text.escape_debug())
            }
        }
        self.text.clear();
        Ok(())
    }

    /// Enter, until what comes of it is heard: one that comes together with a key before it is looked at
    /// only with the next.
    async fn enters(&mut self, then: &str) -> anyhow::Result<()> {
        for _ in 0..10 {
            self.presses(b'\r')?;
            let soon = Duration::from_secs(3);
            if let Ok(heard) = tokio::time::timeout(soon, self.hears(then)).await {
                return heard;
            }
        }
        anyhow::bail!("`{then}` is not heard")
    }

    /// Types a line, until it stands there. What comes at once may be looked at only with the next key.
    async fn types(&mut self, line: &str) -> anyhow::Result<()> {
        self.typed.write_all(line.as_bytes())?;
        let end = &line[line.len() - 4..];
        let soon = Duration::from_millis(500);
        for _ in 0..20 {
            match tokio::time::timeout(soon, self.hears(end)).await {
                Ok(heard) => return heard,
                Err(_) => self.presses(b' ')?,
            }
        }
        anyhow::bail!("`{line}` is not shown")
    }
}

/// Without a daemon the work is the command's own. A command ends with Ctrl-C; the shell stops the
/// query and asks for the next.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_the_work_without_a_daemon() -> anyhow::Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let dir = project("")?;
    let works = async |pid: u32| {
        let begun = cpu_seconds(pid)?;
        until("it works", async || Ok(cpu_seconds(pid)? > begun + 0.5)).await
    };
    let mut command = Process::start(dir.path(), &["sql", "-c", NESTED_LOOP])?;
    works(command.id()).await?;
    let pid = Pid::from_raw(i32::try_from(command.id())?);
    let begun = Instant::now();
    kill_process(
        pid.ok_or_else(|| anyhow::anyhow!("no process"))?,
        Signal::INT,
    )?;
    command.ended().await?;
    anyhow::ensure!(begun.elapsed() < Duration::from_secs(5));
    // A terminal is what `script` gives it.
    let line = format!(
        "'{}' --project '{}' sql",
        anabranch_tests::process::binary()?.display(),
        dir.path().display()
    );
    let shell = std::process::Command::new("script")
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let Ok(mut shell) = shell else {
        anabranch_tests::skip::skipped("`script` is not here, which gives a terminal");
        return Ok(());
    };
    let outcome = async {
        let mut terminal = Terminal::of(&mut shell)?;
        terminal.hears("> ").await?;
        terminal
            .types("select sum(value % 7) from generate_series(1, 1000000000000);")
            .await?;
        let pid = process_on(dir.path())?.ok_or_else(|| anyhow::anyhow!("no shell runs"))?;
        let idle = cpu_seconds(pid)?;
        let runs = async || {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(150)).await;
                if cpu_seconds(pid)? > idle + 0.5 {
                    return Ok::<_, anyhow::Error>(true);
                }
            }
            Ok(false)
        };
        // Enter that came together with a key before it is looked at with the next one.
        for _ in 0..10 {
            terminal.presses(b'\r')?;
            if runs().await? {
                break;
            }
        }
        works(pid).await?;
        // Ctrl-C; again, where the first came before the line had been taken, and was a key of it.
        let mut is_heard = false;
        for _ in 0..10 {
            terminal.presses(3)?;
            let again = Duration::from_secs(6);
            let heard = tokio::time::timeout(again, terminal.hears("> ")).await;
            is_heard = heard.is_ok();
            if is_heard {
                break;
            }
        }
        anyhow::ensure!(is_heard, "the shell does not ask for the next");
        // It is flat once what was begun has looked whether to go on.
        let mut used = f64::MAX;
        let begun = Instant::now();
        while used > 0.2 && begun.elapsed() < Duration::from_secs(10) {
            let before = cpu_seconds(pid)?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            used = cpu_seconds(pid)? - before;
        }
        anyhow::ensure!(used <= 0.2, "{used} s of processor time in a second");
        terminal.types("select 40 + 2 as answer;").await?;
        terminal.enters("42").await?;
        terminal.hears("> ").await?;
        // What is pasted with its Enter is run, without a key after it.
        let pasted = "\x1b[200~select 40\r+ 3 as pasted;\r\x1b[201~";
        terminal.typed.write_all(pasted.as_bytes())?;
        terminal.hears("-> + 3 as pasted;").await?;
        terminal.hears("43").await?;
        terminal.hears("=> ").await?;
        // A command amid a statement is told, and the way out.
        terminal.types("select 1").await?;
        terminal.enters("-> ").await?;
        terminal.types("\\timing on").await?;
        terminal.enters("drop it with `\\r`").await?;
        terminal.hears("-> ").await?;
        terminal.types("\\reset").await?;
        terminal.enters("=> ").await?;
        // Ctrl-D.
        terminal.presses(4)
    }
    .await;
    if outcome.is_err() {
        shell.kill()?;
    }
    shell.wait()?;
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_listed_and_cancelled() -> anyhow::Result<()> {
    let dir = project("")?;
    let asked = Asked::start(dir.path()).await?;
    let asking = asked.ask(NESTED_LOOP);
    let cancelling = async {
        asked.until("running", 1).await?;
        let listed = run(dir.path(), &["--format", "json", "queries"])?;
        anyhow::ensure!(listed.code == Some(0), "{listed:?}");
        let listed: Value = serde_json::from_str(&listed.said)?;
        let query = &listed[0];
        anyhow::ensure!(query["statement"] == NESTED_LOOP, "{listed}");
        anyhow::ensure!(query["state"] == "running", "{listed}");
        let who = query["who"].as_str().unwrap_or_default();
        anyhow::ensure!(who.contains("127.0.0.1"), "{listed}");
        anyhow::ensure!(
            query["since"].is_string() && query["memory_bytes"].is_number(),
            "{listed}"
        );
        let id = query["id"].as_str().unwrap_or_default().to_owned();
        let table = run(dir.path(), &["queries"])?;
        anyhow::ensure!(table.said.contains(&id), "{table:?}");
        let cancelled = run(dir.path(), &["--format", "json", "queries", "cancel", &id])?;
        anyhow::ensure!(cancelled.code == Some(0), "{cancelled:?}");
        anyhow::ensure!(cancelled.said.contains(&id), "{cancelled:?}");
        Ok(())
    };
    let (answer, cancelled) = tokio::join!(asking, cancelling);
    cancelled?;
    let (status, text) = answer?;
    anyhow::ensure!(
        status == 409 && text.contains("cancelled"),
        "{status} {text}"
    );
    asked.is_idle("a cancelled query").await?;
    let unknown = run(dir.path(), &["queries", "cancel", "nothing"])?;
    anyhow::ensure!(unknown.code == Some(66), "{unknown:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_queries_run_as_may_and_the_others_wait() -> anyhow::Result<()> {
    let dir = project("at_once = 1\nwaiting = 1")?;
    let asked = Asked::start(dir.path()).await?;
    let first = tokio::time::timeout(Duration::from_secs(5), asked.ask(NESTED_LOOP));
    let others = async {
        asked.until("running", 1).await?;
        let waiting = asked.ask("select 1 as one");
        let refused = async {
            asked.until("waiting", 1).await?;
            let (status, text) = asked.ask("select 2").await?;
            anyhow::ensure!(
                status == 503 && text.contains("`waiting`"),
                "{status} {text}"
            );
            Ok(())
        };
        let (waited, refused) = tokio::join!(waiting, refused);
        refused?;
        // Its turn comes when nobody waits for the first one any more.
        let (status, text) = waited?;
        anyhow::ensure!(status == 200 && text == r#"[{"one":1}]"#, "{status} {text}");
        Ok::<_, anyhow::Error>(())
    };
    let (first, others) = tokio::join!(first, others);
    others?;
    anyhow::ensure!(first.is_err(), "the first one ends");
    Ok(())
}

fn chain(first: &str, more: &str, times: usize) -> String {
    format!("{first}{}", more.repeat(times))
}

fn chained(count: usize, next: impl Fn(usize) -> String) -> String {
    let more: String = (1..count)
        .map(|i| format!(", c{i} as ({})", next(i - 1)))
        .collect();
    format!(
        "with c0 as (select 1 as n){more} select count(*) from c{}",
        count - 1
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_are_too_large_are_refused_and_large_ones_answered() -> anyhow::Result<()> {
    let dir = project("")?;
    let mut asked = Asked::start(dir.path()).await?;
    let one = |n: usize| format!("select * from c{n}");
    let two = |n: usize| format!("select a.n from c{n} a join c{n} b on a.n = b.n");
    let from = "select count(*) from facts where id = -1";
    let refused = [
        chain(from, " or id = 0", 1_984),
        chain(from, " and id = 0", 1_937),
        chain("select 1", " union all select 1", 2_250),
        chained(1_000, one),
        chained(20, two),
        format!(
            "select arrow_cast(NULL, '{}Int64{}')",
            "List(".repeat(938),
            ")".repeat(938)
        ),
        format!("select cast(null as int{})", "[]".repeat(5_000)),
        chain("select 'x'", " || 'x'", 20_000),
        chain("select 1", ", id", 10_000) + " from facts",
        format!("select 1{}", ", 1".repeat(10_000)),
        format!("select '{}'", "x".repeat(1_100_000)),
    ];
    for sql in refused {
        let begun = Instant::now();
        let (status, text) = asked.ask(&sql).await?;
        let shown = sql.get(..60).unwrap_or(&sql);
        anyhow::ensure!(status == 400, "{shown}: {status} {text}");
        let took = begun.elapsed();
        anyhow::ensure!(took < Duration::from_secs(5), "{shown}: {took:?}");
    }
    let answered = [
        chain(from, " or id = 0", 800),
        chain(from, " and id = 0", 800),
        chain("select 1", " union all select 1", 400),
        chained(200, one),
        chained(6, two),
        chain("select 'x'", " || 'x'", 300),
        format!("select 1 where 1 in (0{})", ", 1".repeat(50_000)),
    ];
    for sql in answered {
        let (status, text) = asked.ask(&sql).await?;
        let shown = sql.get(..60).unwrap_or(&sql);
        anyhow::ensure!(status == 200, "{shown}: {status} {text}");
    }
    anyhow::ensure!(asked.process.runs()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_grow_take_no_memory() -> anyhow::Result<()> {
    let dir = project("")?;
    let mut asked = Asked::start(dir.path()).await?;
    let calls = [
        "length(repeat('x', 10000000000))",
        "array_length(range(1, 1000000000))",
        "length(lpad('x', 1000000000))",
        "array_length(array_repeat(1, 1000000000))",
        "length(repeat('x', 2147483647))",
        "array_length(array_resize([1], 1000000000, 2))",
        "length(replace(repeat('x', 100000), 'x', repeat('y', 100000)))",
        "length(concat(repeat('x', 200000000), repeat('y', 200000000)))",
        "length(repeat('x', 200000000) || repeat('y', 200000000))",
        "levenshtein(repeat('a', 130000), repeat('b', 130000))",
    ];
    let from = "(select 1 as n union all select 2) as t";
    let doubling = (0..15).fold(
        "select repeat('x', n * 100000) as s from (select 1 as n union all select 2) as t"
            .to_owned(),
        |inner, _| format!("select s || s as s from ({inner})"),
    );
    let mut statements = vec![
        format!("select sum(array_length(range(0, 1000000000 + n))) from {from}"),
        format!("select sum(length(s)) from ({doubling})"),
    ];
    for call in calls {
        statements.push(format!("select {call}"));
        statements.push(format!("select sum({call} + n) from {from}"));
    }
    for sql in statements {
        let (status, text) = asked.ask(&sql).await?;
        anyhow::ensure!(status == 400, "{sql}: {status} {text}");
        anyhow::ensure!(text.contains("the bound is"), "{sql}: {text}");
    }
    // A constant is written out for each row, of fewer rows at once.
    let (status, text) = asked
        .ask("select sum(length(s)) as n from (select repeat('x', 1000000) as s, value from generate_series(1, 8192) where value > 0 order by value limit 8000)")
        .await?;
    let too_wide = status == 400 && text.contains("more than 2 GB");
    anyhow::ensure!(
        too_wide || status == 200 || status == 503,
        "{status} {text}"
    );
    anyhow::ensure!(asked.process.runs()?);
    let peak = asked.peak_bytes()?;
    // A few times `max_function_bytes`: what goes in, what comes out, on each thread.
    anyhow::ensure!(peak < 4_000_000_000, "{peak}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_refused_while_the_process_takes_too_much_memory() -> anyhow::Result<()> {
    let dir = project("process_memory = \"1MB\"")?;
    let asked = Asked::start(dir.path()).await?;
    let (status, text) = asked.ask("select 1").await?;
    anyhow::ensure!(
        status == 503 && text.contains("`process_memory`"),
        "{status} {text}"
    );
    Ok(())
}

/// The pool sees what these take: one of them is stopped, and the process goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_query_is_stopped_where_the_process_takes_too_much_memory() -> anyhow::Result<()>
{
    let dir = project("process_memory = \"600MB\"")?;
    let text = std::fs::read_to_string(dir.path().join("anabranch.toml"))?;
    let text = text.replace("memory = \"256MB\"", "memory = \"4GB\"");
    std::fs::write(dir.path().join("anabranch.toml"), text)?;
    let mut asked = Asked::start(dir.path()).await?;
    let large = "select sum(array_length(a)) from (select array_agg(repeat('x', 1000 + value % 10)) as a from generate_series(1, 3000000) group by value % 2)";
    let (status, text) = asked.ask(large).await?;
    anyhow::ensure!(
        status == 503 && text.contains("`process_memory`"),
        "{status} {text}"
    );
    anyhow::ensure!(asked.process.runs()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_files_are_in_the_projects_folder_and_bounded() -> anyhow::Result<()> {
    let sort = "select count(*) from (select value from generate_series(1, 20000000) order by value * 7919 % 1000003 desc offset 1)";
    let small = |spill: &str| -> anyhow::Result<tempfile::TempDir> {
        let dir = project(&format!("spill = \"{spill}\""))?;
        let text = std::fs::read_to_string(dir.path().join("anabranch.toml"))?;
        let text = text.replace("memory = \"256MB\"", "memory = \"60MB\"");
        std::fs::write(dir.path().join("anabranch.toml"), text)?;
        Ok(dir)
    };
    let dir = small("2GB")?;
    let mut asked = Asked::start(dir.path()).await?;
    let folder = dir
        .path()
        .join(format!("wal/.queries/{}", asked.process.id()));
    let (answer, seen) = tokio::join!(
        asked.ask(sort),
        until("temporary files", async || Ok(folder.exists()))
    );
    seen?;
    let (status, text) = answer?;
    anyhow::ensure!(status == 200, "{status} {text}");
    asked.process.terminate().await?;
    anyhow::ensure!(!folder.exists(), "files are left");
    let dir = small("5MB")?;
    let asked = Asked::start(dir.path()).await?;
    let (status, text) = asked.ask(sort).await?;
    anyhow::ensure!(status == 503 && text.contains("`spill`"), "{status} {text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_for_others_has_a_limit() -> anyhow::Result<()> {
    let dir = project("verify_timeout = \"1ms\"")?;
    let _asked = Asked::start(dir.path()).await?;
    let verified = run(dir.path(), &["verify", "words", "--daemon"])?;
    anyhow::ensure!(verified.code == Some(69), "{verified:?}");
    anyhow::ensure!(
        verified.complained.contains("`verify_timeout`"),
        "{verified:?}"
    );
    Ok(())
}

/// Many ask for a verification at once: as many run as may, and the others are told so at once.
#[tokio::test(flavor = "multi_thread")]
async fn verifications_for_others_are_bounded_in_number() -> anyhow::Result<()> {
    let dir = project("verifications = 1")?;
    let points = "verify-after-pin=sleep(1500)";
    let daemon = Daemon::start_with(dir.path(), &["speed"], points).await?;
    let http = daemon.client.address().http.clone();
    let body = serde_json::to_vec(&anabranch_jobs::work::verify::Part::Whole)?;
    let verify = async || {
        let headers = [("content-type", "application/json")];
        request("POST", &http, "/verify/words", &headers, &body).await
    };
    let asked = futures::future::join_all((0..20).map(|_| verify())).await;
    let (mut done, mut refused) = (0, 0);
    for answer in asked {
        let (status, text) = answer?;
        match status {
            200 => done += 1,
            503 => {
                let error: Value = serde_json::from_str(&text)?;
                let why = error["error"].as_str().unwrap_or_default();
                anyhow::ensure!(why.contains("`verifications` in `[query]`"), "{text}");
                anyhow::ensure!(error["kind"] == "unavailable", "{text}");
                refused += 1;
            }
            _ => anyhow::bail!("{status} {text}"),
        }
    }
    anyhow::ensure!(done >= 1 && refused >= 10, "{done} done, {refused} refused");
    // It goes on when there is room again.
    let (status, text) = verify().await?;
    anyhow::ensure!(status == 200, "{status} {text}");
    daemon.stop().await
}

/// Programs ask what there is before they query it: all of it, whatever else the statement reads.
#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_can_be_asked_in_sql() -> anyhow::Result<()> {
    let dir = project("")?;
    let csv = |sql: &str| {
        let ran = run(dir.path(), &["--format", "csv", "sql", "-c", sql])?;
        anyhow::ensure!(ran.code == Some(0), "{sql}: {ran:?}");
        anyhow::Ok(ran.said)
    };
    let check = || {
        let tables = "table_name,table_type\ndead_letter_retries,BASE TABLE\ndead_letters,BASE TABLE\nfacts,BASE TABLE\njobs,BASE TABLE\nwords,VIEW\n";
        for sql in [
            "SHOW TABLES",
            "select table_name, table_type from information_schema.tables where table_schema = 'public' order by 1",
        ] {
            anyhow::ensure!(csv(sql)? == tables, "{sql}: {}", csv(sql)?);
        }
        let some = csv("show tables like 'f%'")?;
        anyhow::ensure!(
            some == "table_name,table_type\nfacts,BASE TABLE\n",
            "{some}"
        );
        let columns = csv(
            "select column_name, ordinal_position, is_nullable, data_type from information_schema.columns where table_name = 'facts' and column_name not like '\\_%' order by 2",
        )?;
        let declared = "column_name,ordinal_position,is_nullable,data_type\nts,1,NO,timestamp\nid,2,NO,bigint\nword,3,YES,varchar\n";
        anyhow::ensure!(columns == declared, "{columns}");
        // Beside a relation that the statement reads itself.
        let both = csv(
            "select (select count(*) from words) as n, count(distinct table_name) as tables from information_schema.columns",
        )?;
        anyhow::ensure!(both == "n,tables\n0,5\n", "{both}");
        let views = csv("select table_name, view_definition from information_schema.views")?;
        let sql = anabranch_tests::process::VIEW;
        anyhow::ensure!(
            views == format!("table_name,view_definition\nwords,\"{sql}\"\n"),
            "{views}"
        );
        // What programs ask for before anything else.
        let schemata = csv("select catalog_name, schema_name from information_schema.schemata")?;
        let one = "catalog_name,schema_name\nanabranch,public\n";
        anyhow::ensure!(schemata == one, "{schemata}");
        for (of, named) in [
            ("tables", "is_insertable_into"),
            ("views", "is_updatable, check_option"),
            ("columns", "udt_name, is_identity, is_generated"),
        ] {
            let sql = format!("select distinct {named} from information_schema.{of}");
            anyhow::ensure!(csv(&sql)?.lines().count() > 1, "{sql}");
        }
        for (of, named, rows) in [
            (
                "table_constraints",
                "constraint_name, constraint_type",
                "words_pkey,PRIMARY KEY\n",
            ),
            (
                "key_column_usage",
                "column_name, ordinal_position",
                "word,1\n",
            ),
            (
                "constraint_column_usage",
                "constraint_name, column_name",
                "words_pkey,word\n",
            ),
            ("referential_constraints", "update_rule, delete_rule", ""),
        ] {
            let found = csv(&format!("select {named} from information_schema.{of}"))?;
            let expected = format!("{}\n{rows}", named.replace(' ', ""));
            anyhow::ensure!(found == expected, "{found}");
            let listed = csv(&format!(
                "select table_type from information_schema.tables where table_name = '{of}'"
            ))?;
            anyhow::ensure!(listed == "table_type\nVIEW\n", "{of}: {listed}");
        }
        let functions = csv(
            "select distinct routine_name from information_schema.routines where routine_name in ('sum', 'combine', 'listagg', 'every', 'max_by', 'count_if', 'time_bucket', 'json_get_str', 'generate_series', 'mode') order by 1",
        )?;
        anyhow::ensure!(functions.lines().count() == 11, "{functions}");
        let shown = csv("show columns from words")?;
        let names = ["word,", "facts,", "ids,", "different,"];
        let has_all = names
            .iter()
            .all(|name| shown.contains(&format!("words,{name}")));
        anyhow::ensure!(has_all && shown.lines().count() == 5, "{shown}");
        for sql in [
            "describe words",
            "describe jobs",
            "show all",
            "show functions",
        ] {
            anyhow::ensure!(csv(sql)?.lines().count() > 4, "{sql}");
        }
        anyhow::Ok(())
    };
    // What is declared is there.
    let mut asked = Asked::start(dir.path()).await?;
    check()?;
    let (status, text) = asked.ask("SHOW TABLES").await?;
    anyhow::ensure!(
        status == 200 && text.contains(r#"{"table_name":"words","table_type":"VIEW"}"#),
        "{status} {text}"
    );
    for sql in [
        "show full tables",
        "show tables from public",
        "select * from information_schema.nothing",
    ] {
        let (status, text) = asked.ask(sql).await?;
        anyhow::ensure!(status == 400, "{sql}: {status} {text}");
    }
    // Without a daemon the command says the same.
    asked.process.terminate().await?;
    let shown = csv("SHOW TABLES")?;
    anyhow::ensure!(shown.ends_with("words,VIEW\n"), "{shown}");
    Ok(())
}

/// An Arrow answer takes what its rows take, and as every reader knows it.
#[tokio::test(flavor = "multi_thread")]
async fn arrow_answers_are_as_large_as_their_rows() -> anyhow::Result<()> {
    let dir = project("")?;
    let daemon = Daemon::start(dir.path()).await?;
    let word = "w".repeat(100);
    let body: String = (0..20_000)
        .map(|id| {
            format!("{{\"ts\":\"2026-03-01T00:00:00Z\",\"id\":{id},\"word\":\"{word}{id}\"}}\n")
        })
        .collect();
    daemon.post("facts", &[], body.as_bytes()).await?;
    let http = daemon.client.address().http.clone();
    let asked = reqwest::Client::builder().no_proxy().build()?;
    for (sql, rows) in [
        ("select id, word from facts limit 2", 2),
        (
            "select word, facts from words order by word desc limit 10",
            10,
        ),
    ] {
        for accept in ["", "; views=true"] {
            let accept = format!("application/vnd.apache.arrow.stream{accept}");
            let sent = asked.post(format!("http://{http}/sql")).body(sql);
            let answer = sent.header("accept", &accept).send().await?;
            let bytes = answer.bytes().await?;
            anyhow::ensure!(bytes.len() < 8_000, "{sql}, {accept}: {}", bytes.len());
            let read = arrow::ipc::reader::StreamReader::try_new(&bytes[..], None)?;
            let text = read.schema().field_with_name("word")?.data_type().clone();
            let expected = match accept.contains("views") {
                true => arrow::datatypes::DataType::Utf8View,
                false => arrow::datatypes::DataType::Utf8,
            };
            anyhow::ensure!(text == expected, "{text}");
            let read: Vec<_> = read.collect::<Result<_, _>>()?;
            let count: usize = read.iter().map(|batch| batch.num_rows()).sum();
            anyhow::ensure!(count == rows, "{count}");
        }
    }
    daemon.stop().await
}

/// A view that takes some seconds to fold, and as long to verify.
const LONG_TO_VERIFY: &str = "SELECT word, sum(levenshtein(repeat('a', 2000 + id), repeat('b', 2000))) AS far FROM facts GROUP BY word";

/// A verification is listed as a query is, and ends when it is cancelled, when nobody waits for it any
/// more, and with the command that asked for it.
#[tokio::test(flavor = "multi_thread")]
async fn verifications_end_when_nobody_waits_and_when_they_are_cancelled() -> anyhow::Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let dir = project("")?;
    std::fs::write(dir.path().join("words.sql"), LONG_TO_VERIFY)?;
    let facts: String = (0..150).map(anabranch_tests::ledger::line).collect();
    std::fs::write(dir.path().join("facts.ndjson"), facts)?;
    let path = dir.path().join("facts.ndjson");
    let path = path.to_str().unwrap_or_default();
    let ingested = run(dir.path(), &["ingest", "facts", path])?;
    anyhow::ensure!(ingested.code == Some(0), "{ingested:?}");
    let built = run(dir.path(), &["batch", "refresh"])?;
    anyhow::ensure!(built.code == Some(0), "{built:?}");
    let asked = Asked::start(dir.path()).await?;
    let ended = async || until("an end", async || Ok(asked.queries().await?.is_empty())).await;
    let url = format!("http://{}/verify/words", asked.http);
    let verify = || {
        let request = asked.client.post(&url);
        let request = request.header("content-type", "application/json");
        tokio::spawn(request.body("\"Whole\"").send())
    };

    let asking = verify();
    asked.until("running", 1).await?;
    let listed = asked.queries().await?;
    anyhow::ensure!(listed[0]["statement"] == "verify words", "{listed:?}");
    asking.abort();
    ended().await?;

    let asking = verify();
    asked.until("running", 1).await?;
    let listed = asked.queries().await?;
    let id = listed[0]["id"].as_str().unwrap_or_default();
    let cancelled = run(dir.path(), &["queries", "cancel", id])?;
    anyhow::ensure!(cancelled.code == Some(0), "{cancelled:?}");
    let answer = asking.await??;
    let (status, text) = (answer.status().as_u16(), answer.text().await?);
    anyhow::ensure!(
        status == 409 && text.contains("cancelled"),
        "{status} {text}"
    );
    ended().await?;

    let mut command = Process::start(dir.path(), &["verify", "words", "--daemon"])?;
    asked.until("running", 1).await?;
    let pid = Pid::from_raw(i32::try_from(command.id())?);
    let pid = pid.ok_or_else(|| anyhow::anyhow!("no process"))?;
    kill_process(pid, Signal::INT)?;
    command.ended().await?;
    asked.is_idle("a verification that was interrupted").await
}

/// The planning of a plan's operators can't be stopped: whoever waits is answered at the limit, and the
/// query has its turn until it ends.
#[tokio::test(flavor = "multi_thread")]
async fn planning_that_goes_on_keeps_its_turn_and_no_answer() -> anyhow::Result<()> {
    let dir = project("timeout = \"1s\"\nat_once = 1")?;
    let context = Context::open(dir.path()).await?;
    let points = "plan-scan=1*sleep(4000)->off";
    let mut process = Process::start_with(dir.path(), &["speed"], points)?;
    let http = process.ready(&context).await?.address().http.clone();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let asked = Asked {
        process,
        http,
        client,
    };
    let begun = Instant::now();
    let (status, text) = asked.ask("select * from words").await?;
    anyhow::ensure!(
        status == 503 && text.contains("`timeout`"),
        "{status} {text}"
    );
    let took = begun.elapsed();
    anyhow::ensure!(took < Duration::from_secs(3), "{took:?}");
    asked.until("stopping", 1).await?;
    let (status, text) = asked.ask("select 1 as one").await?;
    anyhow::ensure!(
        status == 503 && text.contains("`timeout`"),
        "{status} {text}"
    );
    until("the end of planning", async || {
        Ok(asked.queries().await?.is_empty())
    })
    .await?;
    let (status, text) = asked.ask("select 1 as one").await?;
    anyhow::ensure!(status == 200, "{status} {text}");
    Ok(())
}
