//! Requests without records, and requests that can't be read.

use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::places;

use super::{good, gzip, write_project};

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_records_and_of_odd_shapes() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let daemon = Daemon::start(dir.path()).await?;
    for body in [
        &b""[..],
        b"\n",
        b"\r\n \t\n\n",
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbf\r\n",
    ] {
        let (status, answer) = daemon.post("facts", &[], body).await?;
        anyhow::ensure!(
            status == 200
                && answer["facts"] == 0
                && answer["dead_letters"] == 0
                && answer["offsets"] == serde_json::json!([0, 0]),
            "{body:?}: {status} {answer}"
        );
    }
    let mut next = 0;
    for body in [
        good(0),
        format!("{}\n", good(1)),
        format!("{}\r\n", good(2)),
        format!("\u{feff}{}\n\u{feff}{}", good(3), good(4)),
    ] {
        let (status, answer) = daemon.post("facts", &[], body.as_bytes()).await?;
        let facts = answer["facts"].as_i64().unwrap_or(-1);
        anyhow::ensure!(
            status == 200
                && facts > 0
                && answer["dead_letters"] == 0
                && answer["offsets"] == serde_json::json!([next, next + facts]),
            "{body}: {status} {answer}"
        );
        next += facts;
    }
    anyhow::ensure!(next == 5, "{next} facts");
    // A file with a mark at its start, and one with nothing but blank lines.
    let file = dir.path().join("marked.ndjson");
    std::fs::write(&file, format!("\u{feff}{}\r\n\r\nnonsense", good(5)))?;
    let ran = run(
        dir.path(),
        &[
            "--format",
            "json",
            "ingest",
            "facts",
            &file.display().to_string(),
        ],
    )?;
    anyhow::ensure!(
        ran.code == Some(2) && ran.said.contains("\"facts\":1,\"dead_letters\":1"),
        "{ran:?}"
    );
    let line = daemon
        .rows("SELECT line, encode(raw_bytes, 'hex') FROM dead_letters")
        .await?;
    anyhow::ensure!(
        line == [["3".to_owned(), hex::encode(b"nonsense")]],
        "{line:?}"
    );
    std::fs::write(&file, "\n\n")?;
    let ran = run(
        dir.path(),
        &[
            "--format",
            "json",
            "ingest",
            "facts",
            &file.display().to_string(),
        ],
    )?;
    anyhow::ensure!(
        ran.code == Some(0) && ran.said.contains("\"facts\":0,\"dead_letters\":0"),
        "{ran:?}"
    );
    daemon.stop().await
}

/// A request that can't be read says what to do, and nothing of it is admitted.
async fn refused(
    daemon: &Daemon,
    what: &str,
    expected: (u16, &str),
    (topic, headers, body): (&str, &[(&str, &str)], &[u8]),
) -> anyhow::Result<()> {
    let before = daemon.rows("SELECT count(*) FROM facts").await?;
    let (status, answer) = daemon.post(topic, headers, body).await?;
    let error = answer["error"].as_str().unwrap_or_default();
    anyhow::ensure!(
        status == expected.0 && error.contains(expected.1),
        "{what}: {status} {answer}"
    );
    let after = daemon.rows("SELECT count(*) FROM facts").await?;
    let dead = daemon.rows("SELECT count(*) FROM dead_letters").await?;
    anyhow::ensure!(
        before == after && dead == [["0".to_owned()]],
        "{what}: something was admitted"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_read_admit_nothing() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let mut daemon = Daemon::start(dir.path()).await?;
    let lines: Vec<u8> = (0..2_000)
        .map(|id| good(id) + "\n")
        .collect::<String>()
        .into();
    let packed = gzip(&lines)?;
    let (gz, zst) = (
        &[("content-encoding", "gzip")][..],
        &[("content-encoding", "zstd")][..],
    );
    for cut in [
        1,
        9,
        11,
        packed.len() / 2,
        packed.len() - 8,
        packed.len() - 1,
    ] {
        let what = format!("gzip cut at {cut} of {}", packed.len());
        refused(
            &daemon,
            &what,
            (400, "not valid gzip"),
            ("facts", gz, &packed[..cut]),
        )
        .await?;
    }
    let mut torn = packed.clone();
    torn[packed.len() / 2] ^= 0x40;
    refused(
        &daemon,
        "a flipped bit",
        (400, "not valid gzip"),
        ("facts", gz, &torn),
    )
    .await?;
    refused(
        &daemon,
        "no gzip",
        (400, "not valid gzip"),
        ("facts", gz, &lines),
    )
    .await?;
    refused(
        &daemon,
        "no zstd",
        (400, "not valid zstd"),
        ("facts", zst, &lines),
    )
    .await?;
    let bomb = gzip(&vec![b' '; 200_000_000])?;
    anyhow::ensure!(bomb.len() < 1_000_000, "{} bytes", bomb.len());
    refused(
        &daemon,
        "a bomb",
        (400, "send it in parts"),
        ("facts", gz, &bomb),
    )
    .await?;
    refused(
        &daemon,
        "too long",
        (413, "send it in parts"),
        ("facts", &[], &vec![b'\n'; 8_100_000]),
    )
    .await?;
    refused(
        &daemon,
        "brotli",
        (400, "send gzip, zstd or none"),
        ("facts", &[("content-encoding", "br")], &lines),
    )
    .await?;
    refused(
        &daemon,
        "xml",
        (400, "send `application/x-ndjson`"),
        ("facts", &[("content-type", "text/xml")], &lines),
    )
    .await?;
    refused(
        &daemon,
        "no topic",
        (404, "the topics are: facts"),
        ("nosuch", &[], &lines),
    )
    .await?;
    let junk = "x\n".repeat(100_001);
    refused(
        &daemon,
        "nothing but junk",
        (400, "correct them, or send them in parts"),
        ("facts", &[], junk.as_bytes()),
    )
    .await?;
    let payload = [("content-type", "application/vnd.anabranch.payload")];
    for body in [
        &b""[..],
        b"\x01",
        b"\x01\xff\xff\xff\xff",
        b"\x02abc",
        &lines,
    ] {
        refused(
            &daemon,
            "no payload",
            (400, "not a payload"),
            ("facts", &payload, body),
        )
        .await?;
    }
    for (from, why) in [
        ("many", "not a number"),
        ("-1", "not a number"),
        ("18446744073709551615", "no file has a record"),
        ("9223372036854775807", "no file has a record"),
    ] {
        let chunk = [
            ("anabranch-ingest-id", "f"),
            ("anabranch-ingest-from", from),
        ];
        let request = ("facts", &chunk[..], &lines[..]);
        refused(&daemon, from, (400, why), request).await?;
    }
    // What it is sent after all that, it takes.
    anyhow::ensure!(daemon.runs()?, "the daemon ended");
    let (status, answer) = daemon
        .post("facts", &[("content-encoding", "GZIP")], &packed)
        .await?;
    anyhow::ensure!(
        status == 200 && answer["offsets"] == serde_json::json!([0, 2_000]),
        "{status} {answer}"
    );
    daemon.stop().await
}

/// Arrays over any number of lines, CSV with any separator, and all or nothing where a producer wants it.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_other_forms() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let daemon = Daemon::start(dir.path()).await?;
    let json = [("content-type", "application/json")];
    let array = format!("[\n{},\n  {{\"id\":\n2}},\n{}\n]\n", good(1), good(3));
    let (status, answer) = daemon.post("facts", &json, array.as_bytes()).await?;
    anyhow::ensure!(
        status == 200
            && answer["facts"] == 2
            && answer["dead"][0]["record"] == 1
            && answer["dead"][0]["line"].is_null(),
        "{answer}"
    );
    let (status, answer) = daemon.post("facts", &json, b"[{\"id\":1},").await?;
    anyhow::ensure!(
        status == 400
            && answer["error"]
                .as_str()
                .is_some_and(|e| e.contains("does not end")),
        "{answer}"
    );
    // Packed it is the same.
    let packed = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    let (status, answer) = daemon
        .post("facts", &packed, &gzip(array.as_bytes())?)
        .await?;
    anyhow::ensure!(status == 200 && answer["facts"] == 2, "{answer}");

    let csv = [("content-type", "text/csv; charset=utf-8")];
    let body = b"id, ts,Word\n4,2026-01-01,\"\"\n5,2026-01-01,\nsix,2026-01-01,x\n";
    let (status, answer) = daemon.post("facts", &csv, body).await?;
    anyhow::ensure!(
        status == 200
            && answer["facts"] == 2
            && answer["dead"][0]["line"] == 4
            && answer["dead"][0]["field"] == "id",
        "{answer}"
    );
    let body = b"id;ts;word\n7;2026-01-01;a,b\n";
    let (status, answer) = daemon.post("facts?separator=;", &csv, body).await?;
    anyhow::ensure!(status == 200 && answer["facts"] == 1, "{answer}");
    let (status, answer) = daemon.post("facts", &csv, body).await?;
    anyhow::ensure!(
        status == 400
            && answer["error"]
                .as_str()
                .is_some_and(|e| e.contains("?separator=")),
        "{answer}"
    );
    let tsv = [("content-type", "text/tab-separated-values")];
    let body = b"id\tts\tword\n8\t2026-01-01\ta;b\n";
    let (status, answer) = daemon.post("facts", &tsv, body).await?;
    anyhow::ensure!(status == 200 && answer["facts"] == 1, "{answer}");
    let rows = daemon
        .rows("SELECT id, word FROM facts WHERE id > 3 AND word IS NOT NULL ORDER BY id")
        .await?;
    anyhow::ensure!(rows == [["4", ""], ["7", "a,b"], ["8", "a;b"]], "{rows:?}");

    // All or nothing.
    let counts =
        "SELECT (SELECT count(*) FROM facts) AS facts, (SELECT count(*) FROM dead_letters) AS dead";
    let before = daemon.rows(counts).await?;
    for (headers, body) in [
        (&[][..], format!("{}\n{{}}\n", good(9)).into_bytes()),
        (&json[..], array.clone().into_bytes()),
        (&csv[..], b"id,ts\n9,2026-01-01\nx,y\n".to_vec()),
    ] {
        let (status, answer) = daemon.post("facts?strict=true", headers, &body).await?;
        let error = answer["error"].as_str().unwrap_or_default();
        anyhow::ensure!(
            status == 400 && error.contains("record 1") && error.contains("nothing of the request"),
            "{answer}"
        );
    }
    anyhow::ensure!(daemon.rows(counts).await? == before);
    let (status, answer) = daemon
        .post("facts?strict=true", &[], good(9).as_bytes())
        .await?;
    anyhow::ensure!(status == 200 && answer["facts"] == 1, "{answer}");
    let (status, answer) = daemon.post("facts?strict=perhaps", &[], b"").await?;
    anyhow::ensure!(status == 400 && answer["kind"] == "invalid", "{answer}");
    daemon.stop().await
}
