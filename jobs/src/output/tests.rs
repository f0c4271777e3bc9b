//! Golden outputs of odd values in every format, and the helpers' rounding.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
    DurationMillisecondArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array,
    Int32Builder, Int64Array, IntervalMonthDayNanoArray, LargeListArray, ListArray, MapBuilder,
    NullArray, RunArray, StringArray, StringBuilder, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, TimestampSecondArray,
};
use arrow::datatypes::{
    DataType, Field, Fields, Int32Type, Int64Type, IntervalMonthDayNano, Schema, SchemaRef,
};
use arrow::record_batch::RecordBatch;

use super::grid::{Wanted, cut, fit, text_width};
use super::*;

fn print(batches: &[RecordBatch], format: Format, style: Style) -> String {
    let mut out = Vec::new();
    write_batches(&mut out, &batches[0].schema(), batches, format, style).unwrap();
    String::from_utf8(out).unwrap()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

/// Four rows: plain values, odd ones, extreme ones, and NULL everywhere.
fn odd() -> RecordBatch {
    let scores = vec![Some(1.0), Some(f64::NAN), Some(f64::NEG_INFINITY), None];
    let tags = ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(1), None, Some(3)]),
        Some(vec![]),
        Some(vec![Some(i64::MIN)]),
        None,
    ]);
    let point = StructArray::new(
        Fields::from(vec![
            Field::new("x", DataType::Float32, true),
            Field::new("who", DataType::Utf8, true),
        ]),
        vec![
            Arc::new(Float32Array::from(vec![
                Some(0.1),
                Some(f32::INFINITY),
                None,
                None,
            ])),
            Arc::new(StringArray::from(vec![
                Some("a\"b"),
                Some("c\nd"),
                None,
                None,
            ])),
        ],
        Some(vec![true, true, true, false].into()),
    );
    batch(vec![
        (
            "n",
            Arc::new(Int64Array::from(vec![
                Some(1),
                Some(9_007_199_254_740_993),
                Some(i64::MIN),
                None,
            ])),
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![
                Some("日本語 🎉"),
                Some(""),
                Some("a,\"b\"\nc\t\u{1b}[31m"),
                None,
            ])),
        ),
        ("score", Arc::new(Float64Array::from(scores))),
        (
            "price",
            Arc::new(
                Decimal128Array::from(vec![
                    Some(12_345),
                    Some(-5),
                    Some(12_345_678_901_234_567_890_123),
                    None,
                ])
                .with_precision_and_scale(30, 2)
                .unwrap(),
            ),
        ),
        (
            "at",
            Arc::new(
                TimestampMicrosecondArray::from(vec![
                    Some(1_795_428_000_000_000),
                    Some(-1_500_000),
                    Some(i64::MAX),
                    None,
                ])
                .with_timezone("UTC"),
            ),
        ),
        (
            "ok",
            Arc::new(BooleanArray::from(vec![
                Some(true),
                Some(false),
                Some(true),
                None,
            ])),
        ),
        (
            "raw",
            Arc::new(BinaryArray::from(vec![
                Some(b"\x00\xff".as_slice()),
                Some(b""),
                Some(b"abc"),
                None,
            ])),
        ),
        ("tags", Arc::new(tags)),
        ("point", Arc::new(point)),
    ])
}

#[test]
fn table_golden() {
    let expected = "\
┌──────────────────────┬──────────────────────┬───────────┬──────────────────────────┬─────────────────────────────────────────────┬───────┬──────────┬────────────────────────┬────────────────────────────┐
│                    n │ text                 │     score │                    price │ at                                          │ ok    │ raw      │ tags                   │ point                      │
├──────────────────────┼──────────────────────┼───────────┼──────────────────────────┼─────────────────────────────────────────────┼───────┼──────────┼────────────────────────┼────────────────────────────┤
│                    1 │ 日本語 🎉            │       1.0 │                   123.45 │ 2026-11-23 10:00:00 UTC                     │ true  │ \\x00ff   │ [1, NULL, 3]           │ {x: 0.1, who: \"a\\\"b\"}      │
│     9007199254740993 │                      │       NaN │                    -0.05 │ 1969-12-31 23:59:58.500 UTC                 │ false │ \\x       │ []                     │ {x: Infinity, who: \"c\\nd\"} │
│ -9223372036854775808 │ a,\"b\"\\nc\\t\\u{1b}[31m │ -Infinity │ 123456789012345678901.23 │ 9223372036854775807 Microseconds since 1970 │ true  │ \\x616263 │ [-9223372036854775808] │ {x: NULL, who: NULL}       │
│                 NULL │ NULL                 │      NULL │                     NULL │ NULL                                        │ NULL  │ NULL     │ NULL                   │ NULL                       │
└──────────────────────┴──────────────────────┴───────────┴──────────────────────────┴─────────────────────────────────────────────┴───────┴──────────┴────────────────────────┴────────────────────────────┘
(4 rows)
";
    assert_eq!(print(&[odd()], Format::Table, Style::plain()), expected);
}

#[test]
fn csv_golden() {
    let expected = "n,text,score,price,at,ok,raw,tags,point
1,日本語 🎉,1.0,123.45,2026-11-23T10:00:00Z,true,AP8=,\"[1,null,3]\",\"{\"\"x\"\":0.1,\"\"who\"\":\"\"a\\\"\"b\"\"}\"
9007199254740993,\"\",NaN,-0.05,1969-12-31T23:59:58.500Z,false,\"\",[],\"{\"\"x\"\":\"\"Infinity\"\",\"\"who\"\":\"\"c\\nd\"\"}\"
-9223372036854775808,\"a,\"\"b\"\"\nc\t\u{1b}[31m\",-Infinity,123456789012345678901.23,9223372036854775807 Microseconds since 1970,true,YWJj,[-9223372036854775808],\"{\"\"x\"\":null,\"\"who\"\":null}\"
,,,,,,,,
";
    assert_eq!(print(&[odd()], Format::Csv, Style::plain()), expected);
}

const ROWS: [&str; 4] = [
    r#"{"n":1,"text":"日本語 🎉","score":1.0,"price":123.45,"at":"2026-11-23T10:00:00Z","ok":true,"raw":"AP8=","tags":[1,null,3],"point":{"x":0.1,"who":"a\"b"}}"#,
    r#"{"n":9007199254740993,"text":"","score":"NaN","price":-0.05,"at":"1969-12-31T23:59:58.500Z","ok":false,"raw":"","tags":[],"point":{"x":"Infinity","who":"c\nd"}}"#,
    r#"{"n":-9223372036854775808,"text":"a,\"b\"\nc\t\u001b[31m","score":"-Infinity","price":123456789012345678901.23,"at":"9223372036854775807 Microseconds since 1970","ok":true,"raw":"YWJj","tags":[-9223372036854775808],"point":{"x":null,"who":null}}"#,
    r#"{"n":null,"text":null,"score":null,"price":null,"at":null,"ok":null,"raw":null,"tags":null,"point":null}"#,
];

#[test]
fn json_goldens() {
    assert_eq!(
        print(&[odd()], Format::Ndjson, Style::plain()),
        format!("{}\n", ROWS.join("\n"))
    );
    assert_eq!(
        print(&[odd()], Format::Json, Style::plain()),
        format!("[\n{}\n]\n", ROWS.join(",\n"))
    );
    // Rows of several batches are one array.
    let halves = [odd().slice(0, 2), odd().slice(2, 2)];
    assert_eq!(
        print(&halves, Format::Json, Style::plain()),
        format!("[\n{}\n]\n", ROWS.join(",\n"))
    );
}

#[test]
fn slices_and_several_batches_print_the_same() {
    let halves = [odd().slice(0, 1), odd().slice(1, 3)];
    for format in Format::ALL {
        assert_eq!(
            print(&halves, format, Style::plain()),
            print(&[odd()], format, Style::plain()),
            "{format}"
        );
    }
}

#[test]
fn no_rows_still_make_a_whole_answer() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let print = |format| {
        let mut out = Vec::new();
        write_batches(&mut out, &schema, &[], format, Style::plain()).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        print(Format::Table),
        "┌───┐\n│ a │\n├───┤\n└───┘\n(0 rows)\n"
    );
    assert_eq!(print(Format::Csv), "a\n");
    assert_eq!(print(Format::Json), "[\n]\n");
    assert_eq!(print(Format::Ndjson), "");
}

#[test]
fn floats_read_back_and_have_no_needless_exponent() {
    let values = [
        0.1,
        1e15,
        1e16,
        1e-4,
        1e-7,
        123_456.789,
        f64::MAX,
        f64::MIN_POSITIVE,
        -0.0,
    ];
    let text = print(
        &[batch(vec![(
            "f",
            Arc::new(Float64Array::from(values.to_vec())),
        )])],
        Format::Csv,
        Style::plain(),
    );
    let lines: Vec<&str> = text.lines().skip(1).collect();
    for (line, value) in lines.iter().zip(values) {
        assert_eq!(
            line.parse::<f64>().unwrap().to_bits(),
            value.to_bits(),
            "{line}"
        );
    }
    assert_eq!(
        lines[..5],
        ["0.1", "1000000000000000.0", "1e16", "0.0001", "1e-7"]
    );
    // JSON readers take these too.
    let json = print(
        &[batch(vec![(
            "f",
            Arc::new(Float64Array::from(vec![1e300])),
        )])],
        Format::Ndjson,
        Style::plain(),
    );
    assert_eq!(json, "{\"f\":1e300}\n");
}

#[test]
fn dictionaries_print_as_their_values() {
    let words: DictionaryArray<Int32Type> = vec![Some("a"), None, Some(""), Some("x\ny")]
        .into_iter()
        .collect();
    let batch = batch(vec![("w", Arc::new(words))]);
    assert_eq!(
        print(std::slice::from_ref(&batch), Format::Csv, Style::plain()),
        "w\na\n\n\"\"\n\"x\ny\"\n"
    );
    assert_eq!(
        print(std::slice::from_ref(&batch), Format::Ndjson, Style::plain()),
        "{\"w\":\"a\"}\n{\"w\":null}\n{\"w\":\"\"}\n{\"w\":\"x\\ny\"}\n"
    );
    assert!(print(&[batch], Format::Table, Style::plain()).contains("│ x\\ny │"));
}

#[test]
fn other_zones_keep_their_offset_and_unknown_ones_the_instant() {
    let of = |zone: Option<&str>| {
        let array = TimestampSecondArray::from(vec![0]).with_timezone_opt(zone);
        let batch = batch(vec![("t", Arc::new(array))]);
        let table = print(std::slice::from_ref(&batch), Format::Table, Style::plain());
        let row = table
            .lines()
            .nth(3)
            .unwrap()
            .trim_matches(['│', ' '])
            .to_owned();
        (
            row,
            print(&[batch], Format::Csv, Style::plain())
                .lines()
                .nth(1)
                .unwrap()
                .to_owned(),
        )
    };
    assert_eq!(
        of(None),
        ("1970-01-01 00:00:00".into(), "1970-01-01T00:00:00".into())
    );
    assert_eq!(
        of(Some("+02:00")),
        (
            "1970-01-01 02:00:00 +02:00".into(),
            "1970-01-01T02:00:00+02:00".into()
        )
    );
    assert_eq!(
        of(Some("Mars/Base")),
        (
            "1970-01-01 00:00:00 UTC".into(),
            "1970-01-01T00:00:00Z".into()
        )
    );
}

#[test]
fn maps_print_in_every_format() {
    let mut words = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    words.keys().append_value("k\"");
    words.values().append_null();
    words.append(true).unwrap();
    let mut numbers = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
    numbers.keys().append_value(7);
    numbers.values().append_value("v");
    numbers.append(true).unwrap();
    let batch = batch(vec![
        ("w", Arc::new(words.finish())),
        ("n", Arc::new(numbers.finish())),
    ]);
    assert!(
        print(std::slice::from_ref(&batch), Format::Table, Style::plain())
            .contains("│ {\"k\\\"\": NULL} │ {7: \"v\"} │")
    );
    // A map whose keys aren't text has no JSON form, so it is text.
    assert_eq!(
        print(std::slice::from_ref(&batch), Format::Ndjson, Style::plain()),
        "{\"w\":{\"k\\\"\":null},\"n\":\"{7: v}\"}\n"
    );
    assert_eq!(
        print(&[batch], Format::Csv, Style::plain()),
        "w,n\n\"{\"\"k\\\"\"\"\":null}\",\"\"\"{7: v}\"\"\"\n"
    );
}

/// The first row of a one-column answer in every format, without the frame.
fn one(array: ArrayRef) -> [String; 3] {
    let batch = batch(vec![("v", array)]);
    let line = |format, index| {
        let text = print(std::slice::from_ref(&batch), format, Style::plain());
        text.lines().nth(index).unwrap().to_owned()
    };
    let table = line(Format::Table, 3).trim_matches(['│', ' ']).to_owned();
    [table, line(Format::Csv, 1), line(Format::Ndjson, 0)]
}

#[test]
fn rarer_types_print_in_every_format() {
    let runs = RunArray::try_new(
        &Int32Array::from(vec![2]),
        &Float64Array::from(vec![f64::NAN]),
    )
    .unwrap();
    let fixed =
        FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1), None])], 2);
    let large = LargeListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(7)])]);
    let day = IntervalMonthDayNano::new(1, 2, 3_000_000_000);
    let cases: [(ArrayRef, [&str; 3]); 8] = [
        (Arc::new(runs), ["NaN", "NaN", r#"{"v":"NaN"}"#]),
        (
            Arc::new(fixed),
            ["[1, NULL]", "\"[1,null]\"", r#"{"v":[1,null]}"#],
        ),
        (Arc::new(large), ["[7]", "[7]", r#"{"v":[7]}"#]),
        (
            Arc::new(Date32Array::from(vec![-1])),
            ["1969-12-31", "1969-12-31", r#"{"v":"1969-12-31"}"#],
        ),
        (
            Arc::new(Time64MicrosecondArray::from(vec![36_000_500_000])),
            ["10:00:00.500", "10:00:00.500", r#"{"v":"10:00:00.500"}"#],
        ),
        (
            Arc::new(DurationMillisecondArray::from(vec![1500])),
            ["PT1.5S", "PT1.5S", r#"{"v":"PT1.5S"}"#],
        ),
        (
            Arc::new(IntervalMonthDayNanoArray::from(vec![day])),
            [
                "1 mons 2 days 3.000000000 secs",
                "1 mons 2 days 3.000000000 secs",
                r#"{"v":"1 mons 2 days 3.000000000 secs"}"#,
            ],
        ),
        (Arc::new(NullArray::new(1)), ["NULL", "", r#"{"v":null}"#]),
    ];
    for (array, expected) in cases {
        let name = array.data_type().to_string();
        assert_eq!(one(array), expected, "{name}");
    }
}

#[test]
fn equal_names_are_told_apart_in_json_only() {
    let one = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let batch = batch(vec![
        ("id", one()),
        ("id_2", one()),
        ("id", one()),
        ("id", one()),
    ]);
    assert_eq!(
        print(std::slice::from_ref(&batch), Format::Ndjson, Style::plain()),
        "{\"id\":1,\"id_2\":1,\"id_3\":1,\"id_4\":1}\n"
    );
    assert!(print(&[batch], Format::Csv, Style::plain()).starts_with("id,id_2,id,id\n"));
}

#[test]
fn only_a_terminal_cuts_text_and_dims_null() {
    let long = "x".repeat(200);
    let batch = batch(vec![
        (
            "n",
            Arc::new(Int64Array::from(vec![Some(123_456_789_012), None])),
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![
                long.as_str(),
                "日本語日本語日本語日本語日本語日本語",
            ])),
        ),
    ]);
    let piped = Style {
        terminal: false,
        width: Some(40),
        color: false,
    };
    assert!(print(std::slice::from_ref(&batch), Format::Table, piped).contains(&long));
    let terminal = Style {
        terminal: true,
        width: Some(40),
        color: true,
    };
    let expected = "\
┌──────────────┬───────────────────────┐
│            n │ text                  │
├──────────────┼───────────────────────┤
│ 123456789012 │ xxxxxxxxxxxxxxxxxxxx… │
│         \u{1b}[2mNULL\u{1b}[0m │ 日本語日本語日本語日… │
└──────────────┴───────────────────────┘
(2 rows)
";
    assert_eq!(
        print(std::slice::from_ref(&batch), Format::Table, terminal),
        expected
    );
    assert!(
        expected
            .lines()
            .take(6)
            .all(|line| console::measure_text_width(line) == 40)
    );
    // Too narrow for both: the number stays whole, and the reader is told.
    let narrow = print(
        &[batch],
        Format::Table,
        Style {
            terminal: true,
            width: Some(20),
            color: false,
        },
    );
    assert!(narrow.contains("│ 123456789012 │\n"), "{narrow}");
    assert!(narrow.ends_with("(2 rows; 1 of 2 columns fit: `--format json` shows all)\n"));
}

#[test]
fn columns_fit_for_every_width() {
    let wanted = [
        Wanted {
            title: 3,
            values: 12,
            rigid: true,
            same: false,
        },
        Wanted {
            title: 30,
            values: 4,
            rigid: true,
            same: false,
        },
        Wanted {
            title: 5,
            values: 80,
            rigid: false,
            same: false,
        },
        Wanted {
            title: 1,
            values: 1,
            rigid: false,
            same: false,
        },
        Wanted {
            title: 4,
            values: 25,
            rigid: false,
            same: false,
        },
    ];
    let total = |widths: &[usize]| widths.iter().map(|width| width + 3).sum::<usize>() + 1;
    let mut shown_before = 0;
    for available in 6..200 {
        let widths = fit(&wanted, Some(available));
        assert!(total(&widths) <= available, "{available}: {widths:?}");
        assert!(widths.len() >= shown_before, "{available}");
        shown_before = widths.len();
        if available >= 16 {
            assert_eq!(widths[0], 12, "a number was cut at {available}");
        }
    }
    // A title gives way before a text does, and the widest text before others.
    assert_eq!(fit(&wanted, Some(160)), [12, 26, 80, 1, 25]);
    assert_eq!(fit(&wanted, Some(100)), [12, 12, 34, 1, 25]);
    assert_eq!(fit(&wanted, Some(81)), [12, 12, 20, 1, 20]);
    assert_eq!(fit(&wanted, Some(80)), [12, 12, 42, 1]);
    assert_eq!(fit(&wanted, None), [12, 30, 80, 1, 25]);
}

#[test]
fn columns_that_are_all_the_same_never_squeeze_the_wide_one() {
    let text = |values, same| Wanted {
        title: 6,
        values,
        rigid: false,
        same,
    };
    // As of an access log: an address, and four columns of which every row has the same.
    let log = [
        text(110, false),
        text(30, true),
        text(30, true),
        text(30, true),
        text(30, true),
    ];
    assert_eq!(fit(&log, Some(160)), [110, 8, 8, 8, 8]);
    assert_eq!(fit(&log, Some(120)), [72, 8, 8, 8, 8]);
    // What differs stays readable: others are left out.
    let three = [text(40, false), text(40, false), text(40, false)];
    assert_eq!(fit(&three, Some(60)), [26, 26]);
    assert_eq!(fit(&three, Some(70)), [20, 20, 20]);
}

fn laid_out(batch: &RecordBatch, width: Option<u16>, layout: Layout) -> String {
    let mut out = Vec::new();
    let style = Style {
        terminal: width.is_some(),
        width,
        color: false,
    };
    let batches = std::slice::from_ref(batch);
    write_answer(
        &mut out,
        &batch.schema(),
        batches,
        Format::Table,
        style,
        layout,
    )
    .unwrap();
    String::from_utf8(out).unwrap()
}

/// Two rows: a number, a text that is long in the second, and a list.
fn two_rows() -> RecordBatch {
    let long = "x".repeat(50);
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1)]), None]);
    batch(vec![
        ("n", Arc::new(Int64Array::from(vec![Some(7), None]))),
        (
            "address",
            Arc::new(StringArray::from(vec!["/a|b", long.as_str()])),
        ),
        ("tags", Arc::new(lists)),
    ])
}

#[test]
fn rows_become_lists_where_asked_or_where_they_do_not_fit() {
    let expanded = |expanded| Layout {
        expanded,
        ..Layout::default()
    };
    let long = "x".repeat(50);
    let rule = "─".repeat(60 - 10);
    let lists = format!(
        "─[ row 1 ]{rule}\nn       │ 7\naddress │ /a|b\ntags    │ [1]\n─[ row 2 ]{rule}\nn       │ NULL\naddress │ {long}\ntags    │ NULL\n(2 rows)\n"
    );
    let rows = two_rows();
    assert_eq!(laid_out(&rows, Some(120), expanded(Expanded::On)), lists);
    assert_eq!(laid_out(&rows, Some(60), expanded(Expanded::Auto)), lists);
    let narrow = laid_out(&rows, Some(40), expanded(Expanded::Auto));
    assert!(
        narrow.starts_with(&format!("─[ row 1 ]{}\nn ", "─".repeat(30))),
        "{narrow}"
    );
    assert!(narrow.contains(&long), "{narrow}");
    let table = laid_out(&rows, Some(120), Layout::default());
    assert_eq!(laid_out(&rows, Some(120), expanded(Expanded::Auto)), table);
    assert!(table.starts_with('┌'), "{table}");
    // Without a terminal everything fits.
    assert!(laid_out(&rows, None, expanded(Expanded::Auto)).starts_with('┌'));
}

#[test]
fn scripts_take_values_alone() {
    let layout = |aligned, tuples_only, footer| Layout {
        aligned,
        tuples_only,
        footer,
        ..Layout::default()
    };
    let long = "x".repeat(50);
    let rows = two_rows();
    assert_eq!(
        laid_out(&rows, None, layout(false, false, true)),
        format!("n|address|tags\n7|/a|b|[1]\n|{long}|\n(2 rows)\n")
    );
    assert_eq!(
        laid_out(&rows, None, layout(false, true, true)),
        format!("7|/a|b|[1]\n|{long}|\n")
    );
    // Nothing is cut, however narrow the terminal is.
    assert_eq!(
        laid_out(&rows, Some(20), layout(true, true, true)),
        format!(
            "    7 | /a|b{} | [1]\n NULL | {long} | NULL\n",
            " ".repeat(46)
        )
    );
    let no_footer = laid_out(&rows, None, layout(true, false, false));
    assert!(no_footer.ends_with("┘\n"), "{no_footer}");
    // That something is left out is told all the same.
    let cut = laid_out(&rows, Some(12), layout(true, false, false));
    assert!(
        cut.ends_with("(1 of 3 columns fit: `--format json` shows all)\n"),
        "{cut}"
    );
    let lists = Layout {
        expanded: Expanded::On,
        ..layout(false, true, true)
    };
    assert_eq!(
        laid_out(&rows, None, lists),
        format!("n|7\naddress|/a|b\ntags|[1]\n\nn|\naddress|{long}\ntags|\n")
    );
    let mut out = Vec::new();
    let (schema, batches) = (rows.schema(), [rows]);
    let style = Style::plain();
    let tuples = layout(true, true, true);
    write_answer(&mut out, &schema, &batches, Format::Csv, style, tuples).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        format!("7,/a|b,[1]\n,{long},\n")
    );
}

#[test]
fn cutting_keeps_marks_and_joined_emoji_whole() {
    assert_eq!(cut("abcdef", 4), ("abc…".to_owned(), 4));
    assert_eq!(cut("日本語", 4), ("日…".to_owned(), 3));
    assert_eq!(
        cut("e\u{301}e\u{301}e\u{301}", 2),
        ("e\u{301}…".to_owned(), 2)
    );
    let family = "👨\u{200d}👩\u{200d}👧";
    assert_eq!(text_width(family), 2);
    assert_eq!(cut(&format!("{family}abc"), 3), (format!("{family}…"), 3));
}

#[test]
fn formats_are_named() {
    for format in Format::ALL {
        assert_eq!(format.to_string().to_uppercase().parse(), Ok(format));
    }
    assert_eq!(
        "xml".parse::<Format>().unwrap_err().to_string(),
        "unknown format `xml`: use `table`, `csv`, `json` or `ndjson`"
    );
}

/// A reader that went away.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_pipe_is_quiet_in_every_format() {
    for format in Format::ALL {
        let result = write_batches(
            &mut Closed,
            &odd().schema(),
            &[odd()],
            format,
            Style::plain(),
        );
        assert_eq!(
            result.as_ref().unwrap_err().kind(),
            io::ErrorKind::BrokenPipe,
            "{format}"
        );
        quiet_broken_pipe(result).unwrap();
    }
    assert!(quiet_broken_pipe(Err(io::ErrorKind::StorageFull.into())).is_err());
}

#[test]
fn amounts_for_people() {
    let bytes = [
        0,
        999,
        1000,
        1_234,
        99_949,
        99_960,
        999_499,
        999_500,
        1_234_567_890,
        u64::MAX,
    ];
    let texts = [
        "0 B", "999 B", "1.0 kB", "1.2 kB", "99.9 kB", "100 kB", "999 kB", "1.0 MB", "1.2 GB",
        "18.4 EB",
    ];
    assert_eq!(bytes.map(human_bytes), texts);
    assert_eq!(
        [0, 999, 1000, 1_234_567].map(human_count),
        ["0", "999", "1,000", "1,234,567"]
    );
    let durations = [
        0,
        820,
        1_240,
        1_240_000,
        350_000_000,
        999_600_000,
        1_240_000_000,
        59_940_000_000,
    ]
    .map(|nanos| human_duration(Duration::from_nanos(nanos)));
    assert_eq!(
        durations,
        [
            "0 ns", "820 ns", "1.24 µs", "1.24 ms", "350 ms", "1.00 s", "1.24 s", "59.9 s"
        ]
    );
    let long = [59.96, 123.0, 3_599.6, 3_720.0, 273_600.0]
        .map(|s| human_duration(Duration::from_secs_f64(s)));
    assert_eq!(
        long,
        ["1 m 00 s", "2 m 03 s", "1 h 00 m", "1 h 02 m", "3 d 04 h"]
    );
    let second = Duration::from_secs(1);
    assert_eq!(human_rate(950, second), "950 facts/s");
    assert_eq!(human_rate(1_234_567, second), "1.2 M facts/s");
    assert_eq!(human_rate(1, Duration::from_secs(4)), "0.2 facts/s");
    assert_eq!(human_rate(5, Duration::ZERO), "– facts/s");
}

#[test]
fn status_rows_are_aligned() {
    let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
    let text = rows_table(
        &["view", "facts", "size", "at"],
        vec![
            row(["post_minutes", "1,234,567", "1.2 GB", "2026-11-23 10:00"]),
            row(["日本", "9", "–", "2026-11-22 09:00"]),
        ],
    );
    let expected = "\
view              facts    size  at
post_minutes  1,234,567  1.2 GB  2026-11-23 10:00
日本                  9       –  2026-11-22 09:00
";
    assert_eq!(text, expected);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        key_value_table(&[pair("head", "12"), pair("boundary", "a\nb")]),
        "head      12\nboundary  a\n          b\n"
    );
}
