//! Every format in every wrapping, whole, damaged and resumed.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::{Cursor, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, DictionaryArray, Int32Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, TimeUnit};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

mod forms;

use super::*;
use crate::intake::admission::Admission;
use anabranch_shared::ErrorKind;
use anabranch_shared::settings::UnknownFields;

const NO_LIMIT: usize = 1 << 30;

fn options(format: Option<Format>, max_record_bytes: usize) -> Options {
    Options {
        format,
        max_record_bytes,
        separator: None,
    }
}

/// A source that hands out a few bytes at a time.
struct Trickle(Cursor<Vec<u8>>, usize);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(self.1);
        self.0.read(&mut buffer[..len])
    }
}

fn stream(name: &str, bytes: Vec<u8>) -> Source {
    Source::Reader {
        name: name.to_owned(),
        reader: Box::new(Cursor::new(bytes)),
    }
}

/// Reads all chunks; checks that they are numbered without a gap and keep to their limits.
fn read(chunks: Chunks) -> (Vec<Chunk>, Option<FileError>) {
    let (mut read, mut error): (Vec<Chunk>, _) = (Vec::new(), None);
    for chunk in chunks {
        assert!(error.is_none(), "an error is the end");
        match chunk {
            Ok(chunk) => {
                if let Some(before) = read.last() {
                    assert_eq!(
                        chunk.first_record,
                        before.first_record + before.record_count
                    );
                    assert!(chunk.bytes_read >= before.bytes_read);
                }
                let rows = match &chunk.data {
                    ChunkData::Ndjson(bytes) => lines(bytes).count(),
                    ChunkData::Batch(batch) | ChunkData::Text(batch, _) => batch.num_rows(),
                };
                assert_eq!(chunk.record_count, (rows + chunk.dead.len()) as u64);
                assert!((1..=CHUNK_RECORDS as u64).contains(&chunk.record_count));
                read.push(chunk);
            }
            Err(found) => error = Some(found),
        }
    }
    (read, error)
}

/// A few bytes of a dictionary stand for many rows: chunks are of what they come to.
#[test]
fn chunks_hold_what_dictionaries_come_to() {
    let keys = Int32Array::from(vec![0; 20_000]);
    let words = StringArray::from(vec!["x".repeat(100_000)]);
    let words = DictionaryArray::<Int32Type>::try_new(keys, Arc::new(words)).unwrap();
    let batch = RecordBatch::try_from_iter([("word", Arc::new(words) as ArrayRef)]).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    let bytes = writer.into_inner().unwrap();
    let (chunks, error) = read(open(stream("a.arrow", bytes), &options(None, NO_LIMIT)).unwrap());
    assert!(error.is_none(), "{error:?}");
    assert_eq!(chunks.iter().map(|c| c.record_count).sum::<u64>(), 20_000);
    let largest = chunks.iter().map(|c| c.record_count as usize * 100_000);
    assert!(largest.max().unwrap() <= CHUNK_BYTES);
}

/// Admits everything and gives each record's number with its `n` (or `None` for a dead letter).
fn numbers(chunks: &[Chunk]) -> Vec<(u64, Option<i64>)> {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = vec![
        Field::new("ts", timestamp, true),
        Field::new("n", DataType::Int64, false),
    ];
    let schema = Arc::new(Schema::new(fields));
    let admission = Admission::new(&schema, "ts", UnknownFields::Keep, NO_LIMIT).unwrap();
    let mut numbers = Vec::new();
    for chunk in chunks {
        let admitted = admission.chunk(chunk).unwrap();
        assert_eq!(admitted.record_count, chunk.record_count);
        let values = admitted.facts.column(1).as_primitive::<Int64Type>();
        let facts = admitted
            .records
            .iter()
            .zip(values.values())
            .map(|(record, n)| (*record, Some(*n)));
        let dead = admitted.dead.iter().map(|dead| (dead.record, None));
        let mut all: Vec<_> = facts
            .chain(dead)
            .map(|(record, n)| (record + chunk.first_record, n))
            .collect();
        all.sort_unstable();
        numbers.extend(all);
    }
    numbers
}

fn read_numbers(source: Source, options: &Options) -> Vec<(u64, Option<i64>)> {
    let (chunks, error) = read(open(source, options).unwrap());
    assert!(error.is_none(), "{error:?}");
    numbers(&chunks)
}

fn counted(range: std::ops::Range<i64>) -> Vec<(u64, Option<i64>)> {
    range.map(|n| (n as u64, Some(n))).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn ndjson(range: std::ops::Range<i64>) -> Vec<u8> {
    range
        .map(|n| format!("{{\"n\":{n}}}\n"))
        .collect::<String>()
        .into_bytes()
}

fn batch(range: std::ops::Range<i64>) -> RecordBatch {
    let texts: ArrayRefs = Arc::new(
        range
            .clone()
            .map(|n| Some(format!("text {n}")))
            .collect::<StringArray>(),
    );
    RecordBatch::try_from_iter([
        (
            "n",
            Arc::new(Int64Array::from_iter_values(range)) as ArrayRefs,
        ),
        ("text", texts),
    ])
    .unwrap()
}

type ArrayRefs = arrow::array::ArrayRef;

/// The same hundred records in each format, in several batches or row groups.
fn hundred(format: &str) -> Vec<u8> {
    let batches = [batch(0..30), batch(30..31), batch(31..100)];
    let schema = batches[0].schema();
    let mut bytes = Vec::new();
    match format {
        "csv" => {
            bytes.extend_from_slice(b"\xef\xbb\xbfn,text\r\n");
            (0..100).for_each(|n| {
                bytes.extend_from_slice(format!("{n},\"text, \"\"{n}\"\"\r\n\"\r\n").as_bytes())
            });
        }
        "parquet" => {
            let properties = WriterProperties::builder()
                .set_max_row_group_row_count(Some(37))
                .build();
            let mut writer = ArrowWriter::try_new(&mut bytes, schema, Some(properties)).unwrap();
            batches
                .iter()
                .for_each(|batch| writer.write(batch).unwrap());
            writer.close().unwrap();
        }
        "arrow" => {
            let mut writer = FileWriter::try_new(&mut bytes, &schema).unwrap();
            batches
                .iter()
                .for_each(|batch| writer.write(batch).unwrap());
            writer.finish().unwrap();
        }
        "arrows" => {
            let mut writer = StreamWriter::try_new(&mut bytes, &schema).unwrap();
            batches
                .iter()
                .for_each(|batch| writer.write(batch).unwrap());
            writer.finish().unwrap();
        }
        _ => bytes = ndjson(0..100),
    }
    bytes
}

#[test]
fn every_format_is_read_in_every_wrapping() {
    let folder = tempfile::tempdir().unwrap();
    for format in [
        "ndjson", "jsonl", "json", "csv", "parquet", "arrow", "feather", "arrows", "ipc",
    ] {
        let kind = match format {
            "feather" | "ipc" => "arrow",
            other => other,
        };
        let plain = hundred(kind);
        for (extension, bytes) in [
            ("", plain.clone()),
            (".gz", gzip(&plain)),
            (".ZST", zstd(&plain)),
        ] {
            let path = folder.path().join(format!("facts.{format}{extension}"));
            std::fs::write(&path, &bytes).unwrap();
            let options = options(None, NO_LIMIT);
            assert_eq!(
                read_numbers(Source::Path(path), &options),
                counted(0..100),
                "{format}{extension}"
            );
            let forced = Options {
                format: Some(kind.parse().unwrap()),
                ..options
            };
            assert_eq!(
                read_numbers(stream("-", bytes.clone()), &forced),
                counted(0..100),
                "- {format}{extension}"
            );
            let trickle = Source::Reader {
                name: "-".to_owned(),
                reader: Box::new(Trickle(Cursor::new(bytes), 3)),
            };
            assert_eq!(
                read_numbers(trickle, &forced),
                counted(0..100),
                "trickle {format}{extension}"
            );
        }
    }
}

#[test]
fn any_record_can_be_resumed_at() {
    for format in ["ndjson", "csv", "parquet", "arrow", "arrows"] {
        for record in [0, 1, 29, 30, 31, 36, 37, 99, 100, 1000] {
            let name = format!("facts.{format}");
            let mut chunks =
                open(stream(&name, hundred(format)), &options(None, NO_LIMIT)).unwrap();
            chunks.skip_to(record);
            let (chunks, error) = read(chunks);
            assert!(error.is_none());
            assert_eq!(
                numbers(&chunks),
                counted((record as i64).min(100)..100),
                "{format} from {record}"
            );
        }
    }
}

#[test]
fn skipping_in_the_midst_of_reading_goes_forward_only() {
    let bytes = ndjson(0..200_000);
    let mut chunks = open(stream("a.ndjson", bytes), &options(None, NO_LIMIT)).unwrap();
    assert_eq!(
        chunks.next().unwrap().unwrap().record_count,
        CHUNK_RECORDS as u64
    );
    chunks.skip_to(10);
    assert_eq!(
        chunks.next().unwrap().unwrap().first_record,
        CHUNK_RECORDS as u64
    );
    chunks.skip_to(199_998);
    let (rest, _) = read(chunks);
    assert_eq!(numbers(&rest), counted(199_998..200_000));
}

#[test]
fn all_members_of_gzip_and_frames_of_zstd_are_read() {
    for (name, pack) in [
        ("a.ndjson.gz", gzip as fn(&[u8]) -> Vec<u8>),
        ("a.ndjson.zst", zstd),
    ] {
        let bytes = [pack(&ndjson(0..10)), pack(b""), pack(&ndjson(10..30))].concat();
        assert_eq!(
            read_numbers(stream(name, bytes), &options(None, NO_LIMIT)),
            counted(0..30),
            "{name}"
        );
    }
}

#[test]
fn what_is_whole_in_a_truncated_file_comes_before_its_error() {
    let lines = ndjson(0..300_000);
    let csv = [
        b"n\n".to_vec(),
        (0..300_000)
            .map(|n| format!("{n}\n"))
            .collect::<String>()
            .into_bytes(),
    ]
    .concat();
    for (name, packed) in [
        ("a.ndjson.gz", gzip(&lines)),
        ("a.ndjson.zst", zstd(&lines)),
        ("a.csv.gz", gzip(&csv)),
        ("a.csv.zst", zstd(&csv)),
    ] {
        for cut in [packed.len() / 2, packed.len() - 1] {
            let (chunks, error) = read(
                open(
                    stream(name, packed[..cut].to_vec()),
                    &options(None, NO_LIMIT),
                )
                .unwrap(),
            );
            let numbers = numbers(&chunks);
            assert_eq!(
                numbers,
                counted(0..numbers.len() as i64),
                "whole records only"
            );
            assert!(numbers.len() > 1000, "{name}");
            assert_eq!(error.as_ref().unwrap().kind(), ErrorKind::Invalid);
            let Some(FileError::Read {
                file, record, byte, ..
            }) = error
            else {
                panic!("{name}: {error:?}")
            };
            assert_eq!(
                (file.as_str(), record, byte),
                (name, numbers.len() as u64, cut as u64)
            );
        }
    }
    for name in ["a.ndjson.gz", "a.ndjson.zst"] {
        let error = open(stream(name, Vec::new()), &options(None, NO_LIMIT)).unwrap_err();
        assert!(
            matches!(error, FileError::Read { record: 0, .. }),
            "an empty file is not an empty archive"
        );
    }
}

#[test]
fn damaged_binary_files_are_errors_that_name_them() {
    for format in ["parquet", "arrow", "arrows"] {
        let (name, whole) = (format!("facts.{format}"), hundred(format));
        for cut in [0, 3, whole.len() / 2, whole.len() * 9 / 10] {
            let opened = open(
                stream(&name, whole[..cut].to_vec()),
                &options(None, NO_LIMIT),
            );
            let (chunks, error) = match opened {
                Ok(chunks) => read(chunks),
                Err(error) => (Vec::new(), Some(error)),
            };
            let message = error
                .unwrap_or_else(|| panic!("{format} cut at {cut}"))
                .to_string();
            assert!(message.contains(&format!("`{name}`")), "{message}");
            let numbers = numbers(&chunks);
            assert_eq!(numbers, counted(0..numbers.len() as i64));
        }
    }
    let stream_file = hundred("arrows");
    let opened = open(
        stream("a.arrows", stream_file[..stream_file.len() - 100].to_vec()),
        &options(None, NO_LIMIT),
    );
    let (chunks, error) = read(opened.unwrap());
    assert_eq!(
        numbers(&chunks),
        counted(0..31),
        "batches before the cut are read"
    );
    assert!(
        matches!(
            error,
            Some(FileError::Arrow { record: 31, .. } | FileError::Read { record: 31, .. })
        ),
        "{error:?}"
    );
}

#[test]
fn a_line_too_long_to_hold_is_a_dead_letter_in_its_place() {
    let long = CHUNK_BYTES * 2 + 12_345;
    let mut bytes = b"\n{\"n\":0}\n".to_vec();
    bytes.resize(bytes.len() + long, b'x');
    bytes.extend_from_slice(b"\r\n{\"n\":2}\n");
    bytes.resize(bytes.len() + CHUNK_BYTES * 2, b' ');
    bytes.extend_from_slice(b"\n{\"n\":3}\n");
    bytes.resize(bytes.len() + CHUNK_BYTES * 2, b'y');
    let (chunks, error) = read(open(stream("a.json", bytes), &options(None, 1000)).unwrap());
    assert!(error.is_none());
    assert_eq!(
        numbers(&chunks),
        [
            (0, Some(0)),
            (1, None),
            (2, Some(2)),
            (3, Some(3)),
            (4, None)
        ]
    );
    let dead: Vec<_> = chunks.iter().flat_map(|chunk| &chunk.dead).collect();
    assert_eq!(
        dead[0].reason,
        format!("record of {long} bytes is longer than the topic's limit of 1000 bytes")
    );
    assert_eq!(dead[0].raw, vec![b'x'; crate::intake::admission::RAW_BYTES]);
    let reason = format!(
        "record of {} bytes is longer than the topic's limit of 1000 bytes",
        CHUNK_BYTES * 2
    );
    assert_eq!(dead[1].reason, reason);
}

#[test]
fn memory_does_not_grow_with_a_line_too_long_to_hold() {
    let long = 40 * CHUNK_BYTES as u64;
    let stream = Box::new(io::repeat(b'x').take(long));
    let position = Position {
        file: "-".to_owned(),
        record: 0,
        counter: stream::Counter::default(),
    };
    let mut reader = ndjson::NdjsonReader::new(stream, position, 1000, array::Shape::Lines);
    let chunk = reader.next_chunk().unwrap().unwrap();
    assert!(
        chunk.dead[0]
            .reason
            .starts_with(&format!("record of {long} bytes"))
    );
    assert!(
        reader.capacity_bytes() <= 2 * CHUNK_BYTES,
        "{}",
        reader.capacity_bytes()
    );
}

#[test]
fn a_line_longer_than_a_chunk_is_whole_where_it_is_allowed() {
    let text = "x".repeat(CHUNK_BYTES * 2);
    let bytes = format!("{{\"n\":0}}\n{{\"n\":1,\"t\":\"{text}\"}}\n{{\"n\":2}}").into_bytes();
    assert_eq!(
        read_numbers(stream("a.json", bytes), &options(None, NO_LIMIT)),
        counted(0..3)
    );
}

#[test]
fn chunks_are_bounded_in_records_and_bytes() {
    let (chunks, _) = read(
        open(
            stream("a.json", ndjson(0..100_000)),
            &options(None, NO_LIMIT),
        )
        .unwrap(),
    );
    assert_eq!(
        chunks
            .iter()
            .map(|chunk| chunk.record_count)
            .collect::<Vec<_>>(),
        [65_536, 34_464]
    );
    let line = format!("{{\"n\":1,\"t\":\"{}\"}}\n", "x".repeat(1_000_000));
    let (chunks, _) = read(
        open(
            stream("a.json", line.repeat(30).into_bytes()),
            &options(None, NO_LIMIT),
        )
        .unwrap(),
    );
    assert_eq!(
        chunks
            .iter()
            .map(|chunk| chunk.record_count)
            .collect::<Vec<_>>(),
        [8, 8, 8, 6]
    );
    let csv = format!(
        "n,t\n{}",
        format!("1,{}\n", "x".repeat(1_000_000)).repeat(20)
    );
    let (chunks, _) =
        read(open(stream("a.csv", csv.into_bytes()), &options(None, NO_LIMIT)).unwrap());
    assert_eq!(
        chunks
            .iter()
            .map(|chunk| chunk.record_count)
            .collect::<Vec<_>>(),
        [9, 9, 2]
    );
    let mut ipc = Vec::new();
    let rows = batch(0..150_000);
    let mut writer = StreamWriter::try_new(&mut ipc, &rows.schema()).unwrap();
    writer.write(&rows).unwrap();
    writer.finish().unwrap();
    let (chunks, _) = read(open(stream("a.arrows", ipc), &options(None, NO_LIMIT)).unwrap());
    assert!(chunks.len() >= 3);
    assert_eq!(numbers(&chunks), counted(0..150_000));
}

#[test]
fn csv_rows_that_do_not_fit_are_dead_letters() {
    let long = "x".repeat(100_000);
    let bytes = [
        b"n,text\n0,a\n1\n\n2,a,b\r\n3,\"a\nb\"\n4,\xff\nx,y\n".as_slice(),
        format!("6,{long}\n7,\"{long}\n\"\n8,").as_bytes(),
    ]
    .concat();
    let (chunks, error) = read(open(stream("a.csv", bytes), &options(None, 50_000)).unwrap());
    assert!(error.is_none());
    let expected = [0, -1, -1, 3, -1, -1, -1, -1, 8]
        .into_iter()
        .zip(0..)
        .map(|(n, at)| (at, (n >= 0).then_some(n)));
    assert_eq!(numbers(&chunks), expected.collect::<Vec<_>>());
    let dead: Vec<_> = chunks[0]
        .dead
        .iter()
        .map(|dead| (dead.record, dead.reason.as_str(), &dead.raw[..]))
        .collect();
    assert_eq!(
        dead[0],
        (1, "row has 1 fields, the header has 2", b"1".as_slice())
    );
    assert_eq!(
        dead[1],
        (2, "row has 3 fields, the header has 2", b"2,a,b".as_slice())
    );
    assert_eq!(
        dead[2],
        (4, "record is not valid utf-8", b"4,\xff".as_slice())
    );
    assert_eq!(
        dead[3].1,
        "record of 100002 bytes is longer than the topic's limit of 50000 bytes"
    );
    assert_eq!(dead[3].2.len(), crate::intake::admission::RAW_BYTES);
    assert_eq!(
        dead[4].1,
        "record of 100005 bytes is longer than the topic's limit of 50000 bytes"
    );
}

/// The lines of a file's dead letters, read from `from` on.
fn dead_lines(name: &str, bytes: &[u8], from: u64) -> Vec<Option<u64>> {
    let mut chunks = open(stream(name, bytes.to_vec()), &options(None, 100)).unwrap();
    chunks.skip_to(from);
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = vec![
        Field::new("ts", timestamp, true),
        Field::new("n", DataType::Int64, false),
    ];
    let admission = Admission::new(
        &Arc::new(Schema::new(fields)),
        "ts",
        UnknownFields::Keep,
        100,
    )
    .unwrap();
    let (chunks, error) = read(chunks);
    assert!(error.is_none(), "{error:?}");
    let dead = chunks.iter().flat_map(|c| admission.chunk(c).unwrap().dead);
    dead.map(|d| d.line).collect()
}

#[test]
fn dead_letters_name_the_line_of_their_file() {
    let long = "x".repeat(CHUNK_BYTES + 100);
    let json = format!("\u{feff}{{\"n\":1}}\r\n\nbad\n{long}\n{{\"n\":2}}\nbad\n\n{long}\nbad");
    let all = [3, 4, 6, 8, 9].map(Some);
    assert_eq!(dead_lines("f.ndjson", json.as_bytes(), 0), all);
    for from in 1..7 {
        let skipped = usize::try_from(from - u64::from(from > 3) - 1).unwrap();
        assert_eq!(
            dead_lines("f.ndjson", json.as_bytes(), from),
            all[skipped..],
            "from record {from}"
        );
    }
    let many = format!("{}bad\n", "{\"n\":1}\n".repeat(2 * CHUNK_RECORDS + 10));
    let last = Some(2 * CHUNK_RECORDS as u64 + 11);
    assert_eq!(dead_lines("f.ndjson", many.as_bytes(), 0), [last]);
    let csv = "n,text\r\n1,a\r\n\r\nx,b\r\n2,\"two\r\nlines\"\r\ny,\"c\nd\"\r\n3\r\n4,e\nz,f";
    assert_eq!(
        dead_lines("f.csv", csv.as_bytes(), 0),
        [4, 7, 9, 11].map(Some)
    );
    assert_eq!(dead_lines("f.csv", csv.as_bytes(), 4), [9, 11].map(Some));
}

#[test]
fn headers_must_name_each_field_once() {
    let error = |bytes: &[u8]| {
        open(stream("a.csv", bytes.to_vec()), &options(None, 100))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error(b"a,b,a\n"),
        "the header of `a.csv` names `a` twice: rename one"
    );
    assert_eq!(
        error(b"a,\xff\n"),
        "the header of `a.csv` is not valid utf-8"
    );
    assert_eq!(
        error(&[b'x'; 200]),
        "the header of `a.csv` is longer than 100 bytes"
    );
    for empty in [b"".as_slice(), b"n,text\n", b"n,text"] {
        assert_eq!(
            read_numbers(stream("a.csv", empty.to_vec()), &options(None, 100)),
            []
        );
    }
}

#[test]
fn names_tell_formats() {
    let named = |name: &str| source::by_name(name);
    assert_eq!(
        named("a/b.c/d.CSV.gz"),
        (Some(Format::Csv), Some(Compression::Gzip))
    );
    assert_eq!(named("d.feather"), (Some(Format::Arrow), None));
    assert_eq!(named("d.gz"), (None, Some(Compression::Gzip)));
    assert!(matches!(
        open(stream("-", Vec::new()), &options(None, 1)),
        Err(FileError::UnknownFormat { .. })
    ));
    assert!("yaml".parse::<Format>().unwrap_err().contains("`yaml`"));
    let missing = Source::Path("/nowhere/a.csv".into());
    assert_eq!(
        open(missing, &options(None, 1)).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn a_byte_order_mark_is_not_part_of_the_first_line() {
    let bytes = [b"\xef\xbb\xbf".as_slice(), &ndjson(0..3)].concat();
    assert_eq!(
        read_numbers(stream("a.json", bytes), &options(None, NO_LIMIT)),
        counted(0..3)
    );
}

#[test]
fn sha256_is_of_the_whole_stream() {
    let digest = sha256_of(&mut Trickle(Cursor::new(b"abc".to_vec()), 1)).unwrap();
    assert_eq!(
        digest[..4],
        [0xba, 0x78, 0x16, 0xbf],
        "the digest of `abc` in FIPS 180-2, appendix B.1"
    );
    let large = vec![7; 1_000_000];
    assert_eq!(
        sha256_of(&mut Trickle(Cursor::new(large.clone()), 999)).unwrap(),
        sha256_of(&mut &large[..]).unwrap()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn records_have_the_same_numbers_in_every_reading(
        records in proptest::collection::vec(prop_oneof![5 => Just(Some(0_usize)), 1 => Just(None), 1 => (1_usize..300).prop_map(Some)], 0..200),
        skip in 0_u64..220,
        step in 1_usize..50,
        csv in any::<bool>(),
        crlf in any::<bool>(),
    ) {
        let mut bytes = if csv { b"n,text\n".to_vec() } else { Vec::new() };
        let mut expected = Vec::new();
        for (n, record) in records.iter().enumerate() {
            let pad = record.map_or(0, |pad| pad);
            let line = match (csv, record) {
                (true, None) => "too,many,fields".to_owned(),
                (false, None) => "{bad".to_owned(),
                (true, Some(_)) => format!("{n},\"{}\"", "\n".repeat(pad)),
                (false, Some(_)) => format!("{{\"n\":{n}}}{}", " ".repeat(pad)),
            };
            // Lines longer than 100 bytes are oversized.
            expected.push((n as u64, (record.is_some() && line.len() <= 100).then_some(n as i64)));
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(if crlf { b"\r\n" } else { b"\n" });
            if pad % 3 == 1 {
                bytes.extend_from_slice(b"\n");
            }
        }
        let options = options(Some(if csv { Format::Csv } else { Format::Ndjson }), 100);
        let reader = Box::new(Trickle(Cursor::new(bytes), step));
        let mut chunks = open(Source::Reader { name: "-".to_owned(), reader }, &options).unwrap();
        chunks.skip_to(skip);
        let (chunks, error) = read(chunks);
        prop_assert!(error.is_none());
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let schema = Arc::new(Schema::new(vec![Field::new("ts", timestamp, true), Field::new("n", DataType::Int64, false)]));
        let admission = Admission::new(&schema, "ts", UnknownFields::Keep, 100).unwrap();
        let mut found = Vec::new();
        for chunk in &chunks {
            let admitted = admission.chunk(chunk).unwrap();
            let values = admitted.facts.column(1).as_primitive::<Int64Type>();
            found.extend((0..values.len()).map(|row| (admitted.records[row] + chunk.first_record, Some(values.value(row)))));
            found.extend(admitted.dead.iter().map(|dead| (dead.record + chunk.first_record, None)));
        }
        found.sort_unstable();
        prop_assert_eq!(found, expected.into_iter().skip(skip as usize).collect::<Vec<_>>());
    }
}
