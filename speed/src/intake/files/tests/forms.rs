//! Forms that producers give their files: quotes, separators and headers of CSV, arrays of JSON, INT96, padding.

use arrow::array::Array;
use arrow::datatypes::TimestampMicrosecondType;
use parquet::data_type::{Int96, Int96Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;
use crate::intake::admission::Admitted;

fn admission() -> Admission {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = vec![
        Field::new("ts", timestamp.clone(), true),
        Field::new("n", DataType::Int64, true),
        Field::new("s", DataType::Utf8View, true),
        Field::new("until", timestamp, true),
    ];
    Admission::new(
        &Arc::new(Schema::new(fields)),
        "ts",
        UnknownFields::Keep,
        NO_LIMIT,
    )
    .unwrap()
}

/// What is admitted of a file of this name and content.
fn admitted(name: &str, content: &[u8], separator: Option<&str>) -> Result<Admitted, String> {
    let options = Options {
        separator: separator.map(|text| text.parse().unwrap()),
        ..options(None, NO_LIMIT)
    };
    let chunks = open(stream(name, content.to_vec()), &options).map_err(|e| e.to_string())?;
    let admission = admission();
    let mut parts = Vec::new();
    for chunk in chunks {
        let chunk = chunk.map_err(|e| e.to_string())?;
        parts.push(admission.chunk(&chunk).unwrap());
    }
    Ok(admission.joined(parts).unwrap())
}

/// The values of a column of numbers or of texts.
fn column(admitted: &Admitted, name: &str) -> Vec<Option<String>> {
    let column = admitted.facts.column_by_name(name).unwrap();
    let text = |row| arrow::util::display::array_value_to_string(column, row).unwrap();
    (0..column.len())
        .map(|row| column.is_valid(row).then(|| text(row)))
        .collect()
}

#[test]
fn a_quoted_empty_text_is_no_null() {
    let csv = "n,s,x\n1,\"\",\n2,,\"\"\n\"\",\"a\"\"\n,b\",c\n4,\"\"x,\r\n5,\" \",y";
    let found = admitted("a.csv", csv.as_bytes(), None).unwrap();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        column(&found, "s"),
        [some(""), None, some("a\"\n,b"), some("x"), some(" ")]
    );
    // In a field of numbers it can't be a value.
    assert_eq!(
        column(&found, "n"),
        [some("1"), some("2"), None, some("4"), some("5")]
    );
    assert_eq!(
        column(&found, "_extra"),
        [
            None,
            some("{\"x\":\"\"}"),
            some("{\"x\":\"c\"}"),
            None,
            some("{\"x\":\"y\"}")
        ]
    );
}

#[test]
fn fields_are_separated_as_the_option_or_the_format_says() {
    let some = |text: &str| Some(text.to_owned());
    for (name, separator, content) in [
        ("a.csv", Some(";"), "n;s\n1;\"a;b,\"\n"),
        ("a.csv", Some("semicolon"), "n; s\n1;\"a;b,\"\n"),
        ("a.tsv", None, "n\ts\n1\ta;b,\n"),
        ("a.csv", Some("tab"), " n\ts \n1\ta;b,\n"),
        ("a.tsv", Some("|"), "n|s\n1|a;b,\n"),
    ] {
        let found = admitted(name, content.as_bytes(), separator).unwrap();
        assert_eq!(column(&found, "n"), [some("1")], "{content}");
        assert_eq!(column(&found, "s"), [some("a;b,")], "{content}");
    }
    for (content, hint) in [("n;s\n1;a\n", "`;`"), ("n\ts\n", "`tab`"), ("n|s\n", "`|`")] {
        let why = admitted("a.csv", content.as_bytes(), None).unwrap_err();
        assert!(why.contains("--separator") && why.contains(hint), "{why}");
    }
    for wrong in ["", "ab", "\"", "\n", "é"] {
        assert!(wrong.parse::<Separator>().is_err(), "{wrong:?}");
    }
}

#[test]
fn spaces_around_names_are_no_part_of_them() {
    let found = admitted("a.csv", b"ts , n,  S\n2014-03-10,1,a\n", None).unwrap();
    assert_eq!(column(&found, "n"), [Some("1".to_owned())]);
    assert_eq!(column(&found, "s"), [Some("a".to_owned())]);
    let why = admitted("a.csv", b"n, n\n1,2\n", None).unwrap_err();
    assert!(why.contains("names `n` twice"), "{why}");
}

#[test]
fn records_of_an_array_are_facts() {
    let text = "\u{feff}\n[\n  {\n    \"n\": 1,\n    \"s\": \"a]\\\"\"\n  },\n  {\"n\": \"two\"},\n  {\"n\": 3}\n]\n";
    let found = admitted("a.json", text.as_bytes(), None).unwrap();
    assert_eq!(found.records, [0, 2]);
    assert_eq!(column(&found, "s"), [Some("a]\"".to_owned()), None]);
    assert_eq!((found.dead[0].record, found.dead[0].line), (1, None));
    assert_eq!(&found.dead[0].raw[..], b"   {\"n\": \"two\"}");
    let cut = admitted("a.json", b"[{\"n\":1},", None).unwrap_err();
    assert!(cut.contains("does not end"), "{cut}");
    // In a line of its own an array is no record.
    let found = admitted("a.json", b"{\"n\":1}\n[{\"n\":2}]\n", None).unwrap();
    assert_eq!(found.records, [0]);
    assert!(
        found.dead[0].reason.contains("begins with it"),
        "{:?}",
        found.dead
    );
}

#[test]
fn zeros_before_a_line_are_padding() {
    let mut padded = vec![0; 3 * CHUNK_BYTES + 7];
    padded.extend_from_slice(b"{\"n\":1}\n\0\0{\"n\":2}\n\0\0\n");
    let options = options(None, CHUNK_BYTES);
    let (chunks, error) = read(open(stream("a.ndjson", padded), &options).unwrap());
    assert!(error.is_none());
    let admission = admission();
    let parts = chunks.iter().map(|chunk| admission.chunk(chunk).unwrap());
    let found = admission.joined(parts.collect()).unwrap();
    assert_eq!(found.dead, []);
    assert_eq!(column(&found, "n"), ["1", "2"].map(|n| Some(n.to_owned())));
}

#[test]
fn zeros_after_gzip_are_padding() {
    let packed = |text: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let zeros = vec![0; 1_000_000];
    let parts = [
        packed(b"{\"n\":1}\n"),
        zeros.clone(),
        packed(b"{\"n\":2}\n"),
        zeros,
    ];
    let found = admitted("a.ndjson.gz", &parts.concat(), None).unwrap();
    assert_eq!(found.records, [0, 1]);
    let why = admitted(
        "a.ndjson.gz",
        &[&parts[0][..], b"\0\0nonsense"].concat(),
        None,
    )
    .unwrap_err();
    assert!(why.contains("not gzip"), "{why}");
    let cut = &parts[0][..parts[0].len() - 3];
    assert!(admitted("a.ndjson.gz", cut, None).is_err());
}

/// As `zstd --long=31` packs.
#[test]
fn long_windows_of_zstd_are_read() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.long_distance_matching(true).unwrap();
    encoder.write_all(b"{\"n\":1}\n").unwrap();
    let packed = encoder.finish().unwrap();
    assert_eq!(
        admitted("a.ndjson.zst", &packed, None).unwrap().records,
        [0]
    );
}

/// A Parquet file of a column `ts` and one `until` of INT96: days and nanoseconds.
fn int96_file(until: &[(i32, i64)]) -> Vec<u8> {
    let message = "message m { required int96 ts; optional group until (LIST) { repeated group list { optional int96 element; } } required int96 at; }";
    let schema = Arc::new(parse_message_type(message).unwrap());
    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
    let mut group = file.next_row_group().unwrap();
    let int96 = |(day, nanos): &(i32, i64)| {
        let mut value = Int96::new();
        value.set_data(*nanos as u32, (*nanos >> 32) as u32, *day as u32);
        value
    };
    let all: Vec<Int96> = until.iter().map(int96).collect();
    let epoch = vec![int96(&(2_440_588, 0)); until.len()];
    for at in 0..3 {
        let mut column = group.next_column().unwrap().unwrap();
        let writer = column.typed::<Int96Type>();
        let (values, levels) = match at {
            0 => (&epoch, None),
            1 => (&all, Some((vec![3; all.len()], vec![0; all.len()]))),
            _ => (&all, None),
        };
        let (definition, repetition) = match &levels {
            Some((definition, repetition)) => (Some(&definition[..]), Some(&repetition[..])),
            None => (None, None),
        };
        writer.write_batch(values, definition, repetition).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    file.close().unwrap();
    bytes
}

/// As nanoseconds the year 9999 would wrap around to 1816.
#[test]
fn int96_outside_of_nanoseconds_is_no_other_time() {
    let file = int96_file(&[(2_440_589, 1_999), (5_373_484, 0), (1_721_426, 0)]);
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let list = DataType::new_list(timestamp.clone(), true);
    let fields = vec![
        Field::new("ts", timestamp.clone(), false),
        Field::new("until", list, true),
        Field::new("at", timestamp, true),
    ];
    let admission = Admission::new(
        &Arc::new(Schema::new(fields)),
        "ts",
        UnknownFields::Keep,
        NO_LIMIT,
    )
    .unwrap();
    let (chunks, error) = read(open(stream("a.parquet", file), &options(None, NO_LIMIT)).unwrap());
    assert!(error.is_none());
    let found = admission.chunk(&chunks[0]).unwrap();
    assert_eq!(found.records, [0]);
    let at = found.facts.column_by_name("at").unwrap();
    let day = 86_400_000_000;
    assert_eq!(
        at.as_primitive::<TimestampMicrosecondType>().value(0),
        day + 1
    );
    let until = found
        .facts
        .column_by_name("until")
        .unwrap()
        .as_list::<i32>()
        .value(0);
    assert_eq!(
        until.as_primitive::<TimestampMicrosecondType>().value(0),
        day + 1
    );
    let why: Vec<_> = found.dead.iter().map(|dead| dead.reason.as_str()).collect();
    assert!(
        why.iter().all(|why| why.contains("outside the years")),
        "{why:?}"
    );
    assert_eq!(why.len(), 2);
}

/// INT96 is an instant, whatever zone times without one are of.
#[test]
fn int96_is_of_no_zone() {
    let (chunks, _) = read(
        open(
            stream("a.parquet", int96_file(&[(2_440_588, 0)])),
            &options(None, NO_LIMIT),
        )
        .unwrap(),
    );
    let ChunkData::Batch(batch) = &chunks[0].data else {
        panic!("{chunks:?}")
    };
    let expected = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert_eq!(batch.column_by_name("ts").unwrap().data_type(), &expected);
}
