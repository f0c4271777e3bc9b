//! Bad Arrow streams through the real daemon: what can't be read is refused whole, what can be read is admitted row by
//! row.

use std::sync::Arc;

use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::places;
use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int32Array, Int64Array, NullArray, RecordBatch,
    RunArray, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::datatypes::Int32Type;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::sources::bad_input::write_project;

const ARROW: &[(&str, &str)] = &[("content-type", "application/vnd.apache.arrow.stream")];
/// How many torn streams are sent.
const ROUNDS: usize = 600;
/// 2026-01-01T00:00:00Z.
const NEW_YEAR: i64 = 1_767_225_600;

fn stream(batches: &[RecordBatch]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new(&mut out, &batches[0].schema())?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(out)
}

fn packed(batches: &[RecordBatch], compression: CompressionType) -> anyhow::Result<Vec<u8>> {
    let options = IpcWriteOptions::default().try_with_compression(Some(compression))?;
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new_with_options(&mut out, &batches[0].schema(), options)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(out)
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> anyhow::Result<RecordBatch> {
    let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
    Ok(RecordBatch::try_from_iter_with_nullable(nullable)?)
}

fn times(rows: usize) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(vec![NEW_YEAR * 1_000_000; rows]).with_timezone("UTC"))
}

fn facts(first: i64, rows: i64) -> anyhow::Result<RecordBatch> {
    let ids: Vec<i64> = (first..first + rows).collect();
    let words: DictionaryArray<Int32Type> = ids
        .iter()
        .map(|id| if id % 2 == 0 { "even" } else { "odd" })
        .collect();
    batch(vec![
        ("ts", times(ids.len())),
        ("id", Arc::new(Int64Array::from(ids))),
        ("word", Arc::new(words)),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_stream_admits_nothing() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let daemon = Daemon::start(dir.path()).await?;
    let whole = stream(&[facts(0, 100)?, facts(100, 100)?, facts(200, 100)?])?;
    let step = (whole.len() / 150).max(1);
    // Between two batches, at the edge of a message and anywhere else.
    let cuts = (0..whole.len())
        .step_by(step)
        .chain([whole.len() - 8, whole.len() - 1]);
    let file = dir.path().join("cut.arrow");
    for (nth, cut) in cuts.enumerate() {
        let (status, answer) = daemon.post("facts", ARROW, &whole[..cut]).await?;
        let said = answer["error"].as_str().unwrap_or_default();
        anyhow::ensure!(
            status == 400 && said.contains("not a whole Arrow IPC stream"),
            "cut at {cut} of {}: {status} {answer}",
            whole.len()
        );
        if nth % 40 == 0 || cut == whole.len() - 8 {
            std::fs::write(&file, &whole[..cut])?;
            let ran = run(
                dir.path(),
                &["ingest", "rejecting", &file.display().to_string()],
            )?;
            anyhow::ensure!(ran.code == Some(64), "cut at {cut}: {ran:?}");
        }
    }
    let longer = [whole.as_slice(), b"more"].concat();
    let (status, answer) = daemon.post("facts", ARROW, &longer).await?;
    anyhow::ensure!(
        status == 400
            && answer["error"]
                .as_str()
                .is_some_and(|e| e.contains("one stream a request")),
        "{answer}"
    );
    let found = daemon.rows("SELECT count(*) FROM facts").await?;
    anyhow::ensure!(found == [["0"]], "{found:?}");
    let (status, answer) = daemon.post("facts", ARROW, &whole).await?;
    anyhow::ensure!(status == 200 && answer["facts"] == 300, "{status} {answer}");
    // As a file: the whole one lands, one with something behind it says so.
    std::fs::write(&file, &whole)?;
    let ran = run(
        dir.path(),
        &["ingest", "facts", &file.display().to_string()],
    )?;
    anyhow::ensure!(ran.code == Some(0), "{ran:?}");
    std::fs::write(&file, &longer)?;
    let ran = run(
        dir.path(),
        &["ingest", "facts", &file.display().to_string()],
    )?;
    anyhow::ensure!(
        ran.code == Some(64) && ran.complained.contains("end-of-stream"),
        "{ran:?}"
    );
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_never_stop_the_daemon() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let mut daemon = Daemon::start(dir.path()).await?;
    let batches = [facts(0, 20)?, facts(20, 20)?];
    let wholes = [
        stream(&batches)?,
        packed(&batches, CompressionType::ZSTD)?,
        packed(&batches, CompressionType::LZ4_FRAME)?,
    ];
    let seed = 11;
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut next, mut accepted) = (0, 0);
    for round in 0..ROUNDS {
        let mut torn = wholes[round % wholes.len()].clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..torn.len());
            torn[at] ^= 1 << rng.random_range(0..8);
        }
        let (status, answer) = daemon.post("facts", ARROW, &torn).await?;
        anyhow::ensure!(
            (200..500).contains(&status),
            "seed {seed}, round {round}: {status} {answer}"
        );
        if status == 200 {
            let records = answer["facts"].as_i64().unwrap_or(0)
                + answer["dead_letters"].as_i64().unwrap_or(0);
            anyhow::ensure!(
                answer["offsets"] == serde_json::json!([next, next + records]),
                "seed {seed}, round {round}: {answer}"
            );
            next += records;
            accepted += 1;
        }
    }
    println!("{accepted} of {ROUNDS} torn streams could be read all the same, {next} records");
    anyhow::ensure!(daemon.runs()?, "the daemon ended");
    daemon.landed("facts", next).await?;
    daemon.stop().await?;
    let daemon = Daemon::start(dir.path()).await?;
    let sum = daemon
        .rows("SELECT (SELECT count(*) FROM facts) + (SELECT count(*) FROM dead_letters)")
        .await?;
    anyhow::ensure!(sum == [[next.to_string()]], "{sum:?}, {next} acknowledged");
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_fit_are_dead_letters() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let daemon = Daemon::start(dir.path()).await?;
    let ids = |ids: Vec<Option<i64>>| Arc::new(Int64Array::from(ids)) as ArrayRef;
    let year_3000 = 32_503_680_000;
    let cases: Vec<(&str, RecordBatch, u64, &str, &str)> = vec![
        (
            "a null in `id`",
            batch(vec![
                ("ts", times(3)),
                ("id", ids(vec![Some(1), None, Some(3)])),
            ])?,
            2,
            "id",
            "found null",
        ),
        (
            "no `id`",
            batch(vec![("ts", times(2))])?,
            0,
            "id",
            "found nothing",
        ),
        (
            "a null in `ts`",
            batch(vec![
                (
                    "ts",
                    Arc::new(TimestampMicrosecondArray::from(vec![
                        None,
                        Some(NEW_YEAR * 1_000_000),
                    ])),
                ),
                ("id", ids(vec![Some(1), Some(2)])),
            ])?,
            1,
            "ts",
            "found null",
        ),
        (
            "fractions in `id`",
            batch(vec![
                ("ts", times(3)),
                ("id", Arc::new(Float64Array::from(vec![1.0, 1.5, f64::NAN]))),
            ])?,
            1,
            "id",
            "expected bigint",
        ),
        (
            "text in `ts`",
            batch(vec![
                (
                    "ts",
                    Arc::new(StringArray::from(vec![
                        "2026-01-01T00:00:00Z",
                        "2014-03-10T08:00:000Z",
                    ])),
                ),
                ("id", ids(vec![Some(1), Some(2)])),
            ])?,
            1,
            "ts",
            "RFC 3339",
        ),
        (
            "the year 3000",
            batch(vec![
                (
                    "ts",
                    Arc::new(TimestampSecondArray::from(vec![
                        NEW_YEAR,
                        year_3000,
                        i64::MAX,
                    ])),
                ),
                ("id", ids(vec![Some(1), Some(2), Some(3)])),
            ])?,
            1,
            "ts",
            "",
        ),
        (
            "numbers in `word`",
            batch(vec![
                ("ts", times(1)),
                ("id", ids(vec![Some(1)])),
                ("word", Arc::new(Int32Array::from(vec![7]))),
            ])?,
            0,
            "word",
            "expected varchar",
        ),
    ];
    let (mut next, mut dead) = (0, 0);
    for (what, batch, good, field, reason) in cases {
        let rows = batch.num_rows() as u64;
        let (status, answer) = daemon.post("facts", ARROW, &stream(&[batch])?).await?;
        anyhow::ensure!(
            status == 200
                && answer["facts"] == good
                && answer["dead_letters"] == rows - good
                && answer["offsets"] == serde_json::json!([next, next + rows]),
            "{what}: {status} {answer}"
        );
        for said in answer["dead"].as_array().into_iter().flatten() {
            let why = said["reason"].as_str().unwrap_or_default();
            anyhow::ensure!(
                said["field"] == field && why.contains(reason) && said["line"].is_null(),
                "{what}: {said}"
            );
        }
        (next, dead) = (next + rows, dead + rows - good);
    }
    let kept = daemon
        .rows("SELECT count(*), count(raw) FROM dead_letters")
        .await?;
    anyhow::ensure!(kept == [[dead.to_string(), dead.to_string()]], "{kept:?}");
    // What a row held can be read from its dead letter, and sent again once it is mended.
    let raw = daemon
        .rows("SELECT CAST(raw AS VARCHAR) FROM dead_letters WHERE field = 'word'")
        .await?;
    anyhow::ensure!(
        raw.concat()
            .first()
            .is_some_and(|r| r.contains("\"word\":7") && r.contains("\"id\":1")),
        "{raw:?}"
    );
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn units_and_zones_are_the_same_instants() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let daemon = Daemon::start(dir.path()).await?;
    let zones = [
        None,
        Some("UTC"),
        Some("+00:00"),
        Some("+02:00"),
        Some("-09:30"),
        Some("Europe/Berlin"),
    ];
    let mut sent = 0;
    for zone in zones {
        macro_rules! column {
            ($array:ty, $unit:expr) => {{
                let array = <$array>::from(vec![NEW_YEAR * $unit]);
                match zone {
                    Some(zone) => Arc::new(array.with_timezone(zone)) as ArrayRef,
                    None => Arc::new(array) as ArrayRef,
                }
            }};
        }
        for column in [
            column!(TimestampSecondArray, 1),
            column!(TimestampMillisecondArray, 1_000),
            column!(TimestampMicrosecondArray, 1_000_000),
            column!(TimestampNanosecondArray, 1_000_000_000),
        ] {
            let kind = column.data_type().to_string();
            let batch = batch(vec![
                ("ts", column),
                ("id", Arc::new(Int64Array::from(vec![sent]))),
            ])?;
            let (status, answer) = daemon.post("facts", ARROW, &stream(&[batch])?).await?;
            anyhow::ensure!(
                status == 200 && answer["facts"] == 1,
                "{kind}: {status} {answer}"
            );
            sent += 1;
        }
    }
    // Nanoseconds that microseconds can't hold are cut, as in text.
    let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![
        NEW_YEAR * 1_000_000_000 + 999,
    ]));
    let batch = batch(vec![
        ("ts", nanos),
        ("id", Arc::new(Int64Array::from(vec![sent]))),
    ])?;
    let (status, answer) = daemon.post("facts", ARROW, &stream(&[batch])?).await?;
    anyhow::ensure!(status == 200 && answer["facts"] == 1, "{status} {answer}");
    let found = daemon.rows("SELECT DISTINCT ts FROM facts").await?;
    anyhow::ensure!(found == [["2026-01-01T00:00:00Z"]], "{found:?}");
    let count = daemon.rows("SELECT count(*) FROM facts").await?;
    anyhow::ensure!(count == [[(sent + 1).to_string()]], "{count:?}");
    daemon.stop().await
}

/// The peak of the daemon's resident memory, in bytes.
fn peak_bytes(daemon: &Daemon) -> anyhow::Result<u64> {
    let pid = daemon.client.address().pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1));
    let kib = kib.ok_or_else(|| anyhow::anyhow!("the system does not tell"))?;
    Ok(kib.parse::<u64>()? * 1_024)
}

/// Bodies of up to a kilobyte that come to gigabytes, or state lengths of which nothing is there: each is refused, as
/// facts and as what `anabranch ingest` sends, and takes no memory; that of the symbols of a backtrace neither, where
/// the reader panics.
#[tokio::test(flavor = "multi_thread")]
async fn small_bodies_stay_small() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    // The bounds that a project starts with.
    let settings = std::fs::read_to_string(dir.path().join("anabranch.toml"))?;
    let settings = settings.replace("max_request_bytes = \"8MB\"\n", "");
    std::fs::write(dir.path().join("anabranch.toml"), settings)?;
    let mut daemon = Daemon::start(dir.path()).await?;
    daemon
        .post("facts", ARROW, &stream(&[facts(0, 100)?])?)
        .await?;
    let before = peak_bytes(&daemon)?;

    let run = |rows: usize, array: ArrayRef| -> anyhow::Result<ArrayRef> {
        let ends = Int32Array::from(vec![i32::try_from(rows)?]);
        Ok(Arc::new(RunArray::<Int32Type>::try_new(&ends, &array)?))
    };
    let text = |bytes: usize| Arc::new(StringArray::from(vec!["x".repeat(bytes)])) as ArrayRef;
    let of_rows = |rows: usize, word: ArrayRef| {
        let one = Arc::new(Int64Array::from(vec![1])) as ArrayRef;
        batch(vec![
            ("ts", run(rows, times(1))?),
            ("id", run(rows, one)?),
            ("word", word),
        ])
    };
    let keys = Int32Array::from(vec![0; 1_000_000]);
    let shared = DictionaryArray::<Int32Type>::try_new(keys, text(1_000))?;
    let bombs = [
        of_rows(20_000_000, run(20_000_000, text(90))?)?,
        of_rows(5_000_000, run(5_000_000, text(100))?)?,
        of_rows(1_000_000, Arc::new(shared))?,
    ];
    let mut bodies = Vec::new();
    for bomb in &bombs {
        bodies.push((stream(std::slice::from_ref(bomb))?, ARROW));
    }
    anyhow::ensure!(bodies[0].0.len() < 2_000, "{} bytes", bodies[0].0.len());
    // What the dictionary's keys are is most of its body: packed it is small.
    bodies.push((packed(&bombs[2..], CompressionType::ZSTD)?, ARROW));
    let payload: &[(&str, &str)] = &[("content-type", "application/vnd.anabranch.payload")];
    let header = br#"{"received_at_us":0,"records":20000000}"#;
    let of_payload = |facts: &[u8]| {
        let length = u32::try_from(header.len())
            .unwrap_or_default()
            .to_le_bytes();
        [&[3], length.as_slice(), header, facts].concat()
    };
    for bomb in &bombs {
        bodies.push((of_payload(&stream(std::slice::from_ref(bomb))?), payload));
    }
    // The length of a message's body, wherever it stands, is made 2^62.
    let whole = stream(&[facts(0, 1)?])?;
    let mut long = Vec::new();
    for at in (0..whole.len() - 8).step_by(8) {
        let mut claim = whole.clone();
        claim[at..at + 8].copy_from_slice(&(1_i64 << 62).to_le_bytes());
        long.push((of_payload(&claim), payload));
        long.push((claim, ARROW));
    }
    for (nth, (body, kind)) in bodies.iter().enumerate() {
        let (status, answer) = daemon.post("facts", kind, body).await?;
        anyhow::ensure!((400..500).contains(&status), "{nth}: {status} {answer}");
        let said = answer["error"].as_str().unwrap_or_default();
        anyhow::ensure!(said.contains("max_request_bytes"), "{nth}: {answer}");
    }
    let mut refused = 0;
    for (body, kind) in &long {
        let (status, answer) = daemon.post("facts", kind, body).await?;
        // A torn value is still a value, and a torn name may be that of a field to come.
        let answered = [200, 503].contains(&status) || (400..500).contains(&status);
        anyhow::ensure!(answered, "{status} {answer}");
        refused += usize::from(status != 200);
    }
    anyhow::ensure!(
        refused * 3 > long.len(),
        "{refused} of {} refused",
        long.len()
    );
    let more = peak_bytes(&daemon)?.saturating_sub(before);
    anyhow::ensure!(more < 200 << 20, "{} MB more", more >> 20);
    anyhow::ensure!(daemon.runs()?, "the daemon ended");
    // Nor does whoever sends them fill the log.
    let complaints = daemon.stopped_with().await?;
    anyhow::ensure!(complaints.len() < 10_000, "{complaints}");
    anyhow::ensure!(!complaints.contains("panicked"), "{complaints}");
    Ok(())
}

/// Streams that take little room and claim much: refused before memory is taken for them.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_claim_too_much_are_refused() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let mut daemon = Daemon::start(dir.path()).await?;
    let nothing = batch(vec![("odd", Arc::new(NullArray::new(1 << 40)) as ArrayRef)])?;
    let many_rows = stream(&[nothing])?;
    // 40 MB of zeros where the project's bound of a request is 8 MB.
    let zeros = batch(vec![
        ("ts", times(5_000_000)),
        ("id", Arc::new(Int64Array::from(vec![0; 5_000_000]))),
    ])?;
    let packed = packed(&[zeros], CompressionType::ZSTD)?;
    anyhow::ensure!(packed.len() < 100_000, "{} bytes", packed.len());
    // The length of the first message's body, as its header states it, is the stream's last word on it: any number
    // that looks like it is made huge.
    let whole = stream(&[facts(0, 1_000)?])?;
    let mut long_bodies = Vec::new();
    for at in (0..whole.len().min(2_000)).step_by(8) {
        let mut claim = whole.clone();
        claim[at..at + 8].copy_from_slice(&(i64::MAX / 2).to_le_bytes());
        long_bodies.push(claim);
    }
    let mut sent = vec![
        ("more than 1000000 rows", many_rows),
        ("send it in parts", packed),
    ];
    sent.extend(long_bodies.into_iter().map(|body| ("", body)));
    for (reason, body) in sent {
        let (status, answer) = daemon.post("facts", ARROW, &body).await?;
        let said = answer["error"].as_str().unwrap_or_default();
        let refused = status == 400 && said.contains(reason);
        // A torn value is still a value: such a stream may be whole.
        anyhow::ensure!(
            refused || (reason.is_empty() && status == 200),
            "{reason}: {status} {answer}"
        );
    }
    anyhow::ensure!(daemon.runs()?, "the daemon ended");
    daemon.stop().await
}
