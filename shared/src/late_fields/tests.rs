//! Fields that are declared later, read from `_extra` as admission would have read them.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, StringViewArray, TimestampMicrosecondArray,
};
use arrow::compute::take;
use arrow::datatypes::Int64Type;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::ScalarValue;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column as ColumnExpr, Literal};
use datafusion::physical_plan::common::collect;
use datafusion::physical_plan::execute_stream;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::settings::FieldReads;
use crate::view::{View, fold_facts};
use crate::{
    FileSource, FoldOptions, Landing, Log, Offset, OffsetRange, Offsets, PartitionId, Storage,
    Topic, TopicField, count_files, fold_log, scan_files,
};

fn topic(fields: &[(&str, &str)]) -> Topic {
    let field = |(name, field_type): &(&str, &str)| TopicField {
        name: (*name).to_owned(),
        field_type: field_type.parse().unwrap(),
        nullable: true,
        reads: FieldReads::default(),
    };
    Topic {
        name: "facts".into(),
        event_time: "ts".into(),
        fields: fields.iter().map(field).collect(),
    }
}

fn before() -> Topic {
    topic(&[("ts", "timestamp"), ("url", "varchar")])
}

/// With fields at the end and between the others.
fn after() -> Topic {
    topic(&[
        ("ts", "timestamp"),
        ("n", "bigint"),
        ("url", "varchar"),
        ("device", "varchar"),
    ])
}

/// Facts of the first declaration, from an offset on, with this `_extra`.
fn facts(first: i64, extra: &[Option<&str>]) -> RecordBatch {
    let rows = extra.len();
    let times = || TimestampMicrosecondArray::from(vec![1; rows]).with_timezone("UTC");
    let urls = (0..rows).map(|row| format!("/{row}"));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(times()),
        Arc::new(StringViewArray::from_iter_values(urls)),
        Arc::new(StringViewArray::from_iter(extra)),
        Arc::new(Int32Array::from(vec![0; rows])),
        Arc::new(Int64Array::from_iter_values((first..).take(rows))),
        Arc::new(times()),
    ];
    RecordBatch::try_new(before().schema(), columns).unwrap()
}

/// A column's values as text, NULL as `-`.
fn shown(facts: &RecordBatch, name: &str) -> Vec<String> {
    let column = facts.column_by_name(name).unwrap();
    let options = FormatOptions::default().with_null("-");
    let shown = ArrayFormatter::try_new(column, &options).unwrap();
    (0..column.len())
        .map(|row| shown.value(row).to_string())
        .collect()
}

/// Facts as facts of a topic.
fn fit(topic: &Topic, facts: &RecordBatch) -> Result<RecordBatch> {
    fit_facts(&topic.schema(), &topic.late_reads(), facts)
}

/// What fields of some types are in facts of before, by their `_extra`.
fn read(field_type: &str, extra: &[&str]) -> Vec<String> {
    let fields = [("ts", "timestamp"), ("url", "varchar"), ("f", field_type)];
    let extra: Vec<_> = extra.iter().copied().map(Some).collect();
    let read = fit(&topic(&fields), &facts(0, &extra)).unwrap();
    shown(&read, "f")
}

/// What a declaration says of its values holds for those of before it too, as it said it first.
#[tokio::test]
async fn a_late_field_is_read_as_its_declaration_says() {
    let declared = |reads: FieldReads| {
        let mut after = after();
        for (name, field_type) in [("at", "timestamp"), ("count", "int")] {
            after.fields.push(TopicField {
                name: name.into(),
                field_type: field_type.parse().unwrap(),
                nullable: true,
                reads,
            });
        }
        after
    };
    let reads: FieldReads =
        serde_json::from_str(r#"{"epoch":"seconds","timezone":"Europe/Berlin","from_text":true}"#)
            .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::folder(dir.path()).unwrap();
    let catalogue = crate::Catalogue::open(&storage).await.unwrap();
    catalogue.declare_topic(&before()).await.unwrap();
    catalogue.declare_topic(&declared(reads)).await.unwrap();
    // A later change is of what is admitted from then on.
    let changed = declared(FieldReads::default());
    catalogue.declare_topic(&changed).await.unwrap();
    let catalogue = crate::Catalogue::open(&storage).await.unwrap();
    let topic = catalogue.current().topics["facts"].topic.clone();
    assert_eq!(topic, declared(reads));
    let extra = [
        Some(r#"{"at":1700000000,"count":"7"}"#),
        Some(r#"{"at":"2026-07-01 12:00:00","count":8}"#),
    ];
    let read = fit(&topic, &facts(0, &extra)).unwrap();
    let times = ["2023-11-14T22:13:20Z", "2026-07-01T10:00:00Z"];
    assert_eq!(shown(&read, "at"), times);
    assert_eq!(shown(&read, "count"), ["7", "8"]);
}

#[test]
fn a_late_field_is_converted_as_at_admission() {
    let cases = [
        ("varchar", r#"{"a":[1,{"f":"no"}],"f":"é\"\u00e9"}"#, "é\"é"),
        (
            "bigint",
            r#"{"f":9223372036854775807}"#,
            "9223372036854775807",
        ),
        ("bigint", r#"{"f":1e3}"#, "1000"),
        ("bigint", r#"{"f":" 12"}"#, "12"),
        ("double", r#"{"f":0.1}"#, "0.1"),
        ("decimal(6,2)", r#"{"f":"12.50"}"#, "12.50"),
        ("boolean", r#"{"f":true}"#, "true"),
        ("date", r#"{"f":"2014-03-10"}"#, "2014-03-10"),
        (
            "timestamp",
            r#"{"f":"2014-03-10T08:00:00+01:00"}"#,
            "2014-03-10T07:00:00Z",
        ),
        ("varchar[]", r#"{"f":["a",null]}"#, "[a, -]"),
        ("varchar[]", r#"{"f":"[\"a\"]"}"#, "[a]"),
        ("binary", r#"{"f":"AQI="}"#, "0102"),
        // What is not there, or is NULL.
        ("varchar", r#"{"F":"other","g":{"f":"inner"}}"#, "-"),
        ("varchar", r#"{"f":null}"#, "-"),
        ("bigint", r#"{"f":""}"#, "-"),
    ];
    for (field_type, extra, expected) in cases {
        assert_eq!(
            read(field_type, &[extra]),
            [expected],
            "{field_type}, {extra}"
        );
    }
}

#[test]
fn what_does_not_fit_is_null_and_counted() {
    let name = "of this test alone";
    let fields = [("ts", "timestamp"), ("url", "varchar"), (name, "bigint")];
    let extra = [
        Some(r#"{"of this test alone":"many"}"#),
        Some(r#"{"of this test alone":1.5}"#),
        Some(r#"{"of this test alone":1,"of this test alone":2}"#),
        Some(r#"{"of this test alone":7}"#),
        Some(r#"{"of this test alone":"#),
        Some(r#"{"other":1}"#),
        None,
    ];
    let read = fit(&topic(&fields), &facts(0, &extra)).unwrap();
    assert_eq!(shown(&read, name), ["-", "-", "-", "7", "-", "-", "-"]);
    assert_eq!(misfits().get(name), Some(&4));
    // A list that fails midway takes one row all the same.
    assert_eq!(
        self::read("bigint[]", &[r#"{"f":[1,"x"]}"#, r#"{"f":[2]}"#]),
        ["-", "[2]"]
    );
}

/// Admission writes no spaces and as a rule escapes nothing, and what it wrote is read in its own way.
#[test]
fn an_object_says_the_same_however_it_is_spelled() {
    let values = [
        r#""a""#,
        r#""""#,
        r#""5""#,
        r#""a\\\"b""#,
        r#""\u00e9""#,
        r#""é, {\"f\":1}""#,
        r#""[1,2]""#,
        "5",
        "-1.5e3",
        "true",
        "null",
        "[1,2]",
        r#"[1,"x"]"#,
        r#"{"f":1,"k":["}"]}"#,
        "[]",
        "{}",
    ];
    let names = [r#""f""#, r#""f""#, r#""\u0066""#, r#""o""#, r#""o\"f\"""#];
    let mut rng = SmallRng::seed_from_u64(7);
    let (mut written, mut spaced) = (vec!["{}".to_owned()], vec!["{ }".to_owned()]);
    for _ in 0..3000 {
        let pairs: Vec<_> = (0..rng.random_range(1..4))
            .map(|_| {
                (
                    names[rng.random_range(0..names.len())],
                    values[rng.random_range(0..values.len())],
                )
            })
            .collect();
        let spelled = |colon: &str, comma: &str| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| format!("{name}{colon}{value}"));
            pairs.collect::<Vec<_>>().join(comma)
        };
        written.push(format!("{{{}}}", spelled(":", ",")));
        spaced.push(format!(" {{ {} }}", spelled(" : ", " ,\n")));
    }
    let as_read = |field_type: &str, objects: &[String]| {
        read(
            field_type,
            &objects.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    };
    for field_type in ["varchar", "bigint", "boolean", "bigint[]", "varchar[]"] {
        let (written_as, spaced_as) = (as_read(field_type, &written), as_read(field_type, &spaced));
        for (object, (written, spaced)) in written.iter().zip(written_as.iter().zip(&spaced_as)) {
            assert_eq!(written, spaced, "{field_type} of {object}");
        }
        let read = written_as.iter().filter(|value| *value != "-").count();
        assert!(read > 50, "{field_type}: {read}");
    }
}

/// Of facts of few objects each object is read once; every fact counts all the same.
#[test]
fn objects_that_come_again_are_each_fact_s() {
    let name = "of the other test";
    let fields = [("ts", "timestamp"), ("url", "varchar"), (name, "bigint")];
    let objects = [
        Some(r#"{"of the other test":1}"#),
        None,
        Some(r#"{"of the other test":"x"}"#),
    ];
    // As a file gives them that keeps each text once: all with the same views.
    let keys =
        Int32Array::from_iter((0..300).map(|row| objects[row % 3].map(|_| (row % 3) as i32)));
    let texts = StringViewArray::from_iter(objects);
    let extra = take(&texts, &keys, None).unwrap();
    let old = facts(0, &vec![None; 300]);
    let mut columns = old.columns().to_vec();
    columns[2] = extra;
    let old = RecordBatch::try_new(old.schema(), columns).unwrap();
    let read = fit(&topic(&fields), &old).unwrap();
    let expected: Vec<_> = (0..300).map(|row| ["1", "-", "-"][row % 3]).collect();
    assert_eq!(shown(&read, name), expected);
    assert_eq!(misfits().get(name), Some(&100));
}

#[test]
fn columns_are_bound_by_name() {
    let old = facts(5, &[Some(r#"{"device":"phone","n":3}"#), None]);
    let read = fit(&after(), &old).unwrap();
    assert_eq!(*read.schema_ref(), after().schema());
    assert_eq!(shown(&read, "device"), ["phone", "-"]);
    assert_eq!(shown(&read, "n"), ["3", "-"]);
    assert_eq!(shown(&read, "url"), ["/0", "/1"]);
    assert_eq!(shown(&read, "_offset"), ["5", "6"]);
    assert_eq!(shown(&read, EXTRA), [r#"{"device":"phone","n":3}"#, "-"]);
    // What is stored in the column counts, whatever `_extra` holds.
    let again = fit(&before(), &read).unwrap();
    assert_eq!(again, old);
}

#[test]
fn fields_may_come_between_others_and_none_may_go() {
    after().check_evolves_from(&before()).unwrap();
    let refused = |new: &[(&str, &str)]| {
        let refused = topic(new).check_evolves_from(&before());
        refused.unwrap_err().to_string()
    };
    let says = refused(&[("ts", "timestamp"), ("device", "varchar")]);
    assert!(says.contains("field `url` was removed"), "{says}");
    let says = refused(&[("url", "varchar"), ("ts", "timestamp")]);
    assert!(says.contains("field `url` was removed or moved"), "{says}");
    let says = refused(&[("ts", "timestamp"), ("url", "bigint")]);
    assert!(
        says.contains("`url` changed from `varchar` to `bigint`"),
        "{says}"
    );
}

/// A log whose facts landed before fields were declared, and one more that landed since.
async fn log(storage: &Storage) -> Arc<Log> {
    let log = Log::open(storage, &before(), 1).await.unwrap();
    let extra = [
        Some(r#"{"device":"phone","n":3}"#),
        None,
        Some(r#"{"device":"desk"}"#),
    ];
    let land = async |first: i64, facts: RecordBatch| {
        let end = first + facts.num_rows() as i64;
        let landing = Landing {
            ranges: vec![(PartitionId(0), OffsetRange::new(Offset(first), Offset(end)))],
            facts: vec![facts],
            ..Default::default()
        };
        log.land(&landing, 1).await.unwrap();
    };
    land(0, facts(0, &extra)).await;
    log.redeclare(&after(), 1).await.unwrap();
    // It was admitted before, and waited to land: its file has the column.
    land(3, facts(3, &[Some(r#"{"device":"phone"}"#)])).await;
    Arc::new(log)
}

#[tokio::test]
async fn a_log_of_both_declarations_is_read_by_the_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::folder(dir.path()).unwrap();
    let log = log(&storage).await;
    let all = log
        .read_between(&Offsets::default(), &log.head())
        .await
        .unwrap();
    let all = arrow::compute::concat_batches(&after().schema(), &all).unwrap();
    assert_eq!(shown(&all, "device"), ["phone", "-", "desk", "phone"]);
    assert_eq!(shown(&all, "n"), ["3", "-", "-", "-"]);

    // A range that cuts through the file is found by the place, which is not asked for.
    let from: Offsets = [(PartitionId(0), Offset(2))].into_iter().collect();
    let device = Arc::new(after().schema().project(&[3]).unwrap());
    let mut found = Vec::new();
    for file in log.files_between(&from, &log.head()).unwrap() {
        for batch in log
            .read_file(&file, &device, &LateReads::default())
            .await
            .unwrap()
        {
            found.extend(shown(&batch.unwrap(), "device"));
        }
    }
    assert_eq!(found, ["desk", "phone"]);
}

/// The offsets of the facts that a scan finds by a filter on `device`, and of how many files.
async fn scanned(storage: &Storage, log: &Log, device: &str) -> (Vec<i64>, usize) {
    let schema = log.schema();
    let at = |name: &str| schema.index_of(name).unwrap();
    let wanted = ScalarValue::Utf8View(Some(device.to_owned()));
    let is_it: Arc<dyn PhysicalExpr> = Arc::new(BinaryExpr::new(
        Arc::new(ColumnExpr::new("device", at("device"))),
        Operator::Eq,
        Arc::new(Literal::new(wanted)),
    ));
    let files = log
        .table()
        .with_state(|s| s.files.values().cloned().collect::<Vec<_>>());
    let columns = [at("_offset"), at("device"), at("n")];
    let scan = scan_files(
        &FileSource::new(log.table().storage().store().clone()),
        log.table().root(),
        &files,
        (&schema, &LateReads::default()),
        &columns,
        Some(is_it),
        1,
    )
    .unwrap();
    let runtime = Arc::new(RuntimeEnv::default());
    storage.register(&runtime).unwrap();
    let context = Arc::new(TaskContext::default().with_runtime(runtime));
    let files = count_files(&scan);
    let rows = collect(execute_stream(scan, context).unwrap())
        .await
        .unwrap();
    let mut found = Vec::new();
    for batch in &rows {
        let devices = batch.column(1).as_string_view();
        let offsets = batch.column(0).as_primitive::<Int64Type>();
        let is_it = |row: &usize| devices.is_valid(*row) && devices.value(*row) == device;
        // Read out of the same objects: the first fact alone has one.
        for (offset, n) in offsets.iter().zip(shown(batch, "n")) {
            assert_eq!(n, if offset == Some(0) { "3" } else { "-" });
        }
        found.extend(
            (0..batch.num_rows())
                .filter(is_it)
                .map(|row| offsets.value(row)),
        );
    }
    found.sort_unstable();
    (found, files)
}

#[tokio::test]
async fn files_without_the_column_are_never_left_out_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::folder(dir.path()).unwrap();
    let log = log(&storage).await;
    assert_eq!(scanned(&storage, &log, "phone").await, (vec![0, 3], 2));
    // The one that has the column is left out by its statistics.
    assert_eq!(scanned(&storage, &log, "desk").await, (vec![2], 1));
}

#[tokio::test]
async fn a_view_folds_facts_of_both_declarations_alike() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::folder(dir.path()).unwrap();
    let log = log(&storage).await;
    let sql = "SELECT device, count(*) AS facts, max(url) AS url FROM facts GROUP BY device";
    let view = Arc::new(View::compile("v", sql, &after()).unwrap());
    let old = [
        facts(0, &[Some(r#"{"device":"phone","n":3}"#), None]),
        facts(2, &[Some(r#"{"device":"desk"}"#)]),
        facts(3, &[Some(r#"{"device":"phone"}"#)]),
    ];
    // Whoever holds them may know fewer fields, or more, than the view.
    let new = old.clone().map(|batch| fit(&after(), &batch).unwrap());
    let sorted = |states: RecordBatch| {
        let mut rows: Vec<_> = (shown(&states, states.schema().field(0).name()).into_iter())
            .zip(shown(&states, states.schema().field(1).name()))
            .collect();
        rows.sort();
        rows
    };
    let expected = sorted(fold_facts(&view, &new).unwrap());
    let counted = |device: &str, facts: &str| (device.to_owned(), facts.to_owned());
    assert_eq!(
        expected,
        [
            counted("-", "1"),
            counted("desk", "1"),
            counted("phone", "2")
        ]
    );
    assert_eq!(sorted(fold_facts(&view, &old).unwrap()), expected);

    let options = FoldOptions {
        threads: 1,
        memory_bytes: usize::MAX,
        stop: Arc::default(),
        progress: Arc::default(),
    };
    let states = Arc::new(Mutex::new(Vec::new()));
    let sink = states.clone();
    let emit = move |made, _| {
        sink.lock().push(made);
        Ok(())
    };
    let head = log.head();
    fold_log(&log, &view, &Offsets::default(), &head, &options, emit)
        .await
        .unwrap();
    let states = states.lock().pop().unwrap();
    assert_eq!(sorted(states), expected);
}

/// A view over a topic to which fields were added since reads the columns that it was planned over.
#[tokio::test]
async fn a_view_of_before_goes_on() {
    let sql = "SELECT url, count(*) AS facts, first_value(url ORDER BY ts) AS first FROM facts GROUP BY url";
    let view = Arc::new(View::compile("v", sql, &before()).unwrap());
    let old = facts(0, &[Some(r#"{"device":"phone"}"#), None]);
    let new = fit(&after(), &old).unwrap();
    let states = |facts: RecordBatch| fold_facts(&view, &[facts]).unwrap();
    assert_eq!(states(new.clone()), states(old));

    let table = datafusion::datasource::MemTable::try_new(after().schema(), vec![vec![new]]);
    let plan = view.recompute_plan(Arc::new(table.unwrap())).unwrap();
    let session = crate::view::planning_session().unwrap();
    let frame = datafusion::prelude::DataFrame::new(session.state(), plan);
    let rows = frame.collect().await.unwrap();
    let urls: Vec<_> = rows.iter().flat_map(|b| shown(b, "url")).collect();
    assert_eq!(urls.len(), 2, "{urls:?}");
}
