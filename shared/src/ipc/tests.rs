//! Streams that state more than they hold, or come to more than they are.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, Int32Array, Int64Array, ListArray, NullArray,
    RunArray, StringArray, StringViewArray, StructArray, UInt32Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};

use super::*;

type Done = Result<(), Box<dyn std::error::Error>>;

fn limit(bytes: u64) -> IpcLimit {
    IpcLimit {
        bytes,
        name: "a test's",
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true)))
}

fn stream(
    batches: &[RecordBatch],
    compression: Option<CompressionType>,
) -> Result<Vec<u8>, ArrowError> {
    let options = IpcWriteOptions::default().try_with_compression(compression)?;
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new_with_options(&mut out, &batches[0].schema(), options)?;
    batches.iter().try_for_each(|b| writer.write(b))?;
    writer.finish()?;
    drop(writer);
    Ok(out)
}

fn file(batches: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let mut writer = FileWriter::try_new(Vec::new(), &batches[0].schema())?;
    batches.iter().try_for_each(|b| writer.write(b))?;
    writer.finish()?;
    writer.into_inner()
}

/// Reads it each way; all must agree whether it can be read.
fn read(body: &[u8], most: u64) -> Result<Vec<RecordBatch>, ArrowError> {
    let body = Bytes::copy_from_slice(body);
    let whole = CheckedStream::new(body.clone(), limit(most)).and_then(CheckedStream::read);
    let parts = IpcStream::open(Cursor::new(body), limit(most));
    let parts = parts.and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let whole = whole.map(|read| read.batches);
    if let (Ok(whole), Ok(parts)) = (&whole, &parts) {
        assert_eq!(whole, parts);
    }
    whole
}

fn plain() -> Result<RecordBatch, ArrowError> {
    let words = StringArray::from_iter((0..3_000).map(|n| (n % 7 > 0).then(|| "x".repeat(n % 30))));
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(
        (0..3_000).map(|n| Some(vec![Some(n); (n % 4) as usize])),
    );
    let structs = StructArray::from(vec![(
        Arc::new(Field::new("a", DataType::Utf8, true)),
        Arc::new(words.clone()) as ArrayRef,
    )]);
    let ids = Int64Array::from_iter_values(0..3_000);
    let views = StringViewArray::from_iter(words.iter());
    batch(vec![
        ("id", Arc::new(ids)),
        ("word", Arc::new(words)),
        ("view", Arc::new(views)),
        ("flag", Arc::new(BooleanArray::from(vec![true; 3_000]))),
        ("list", Arc::new(lists)),
        ("struct", Arc::new(structs)),
    ])
}

/// What is plain counts no more than it takes, so that nothing is refused for its form alone.
#[test]
fn what_is_plain_is_read_within_its_own_size() -> Done {
    let batches = [plain()?, plain()?];
    let body = stream(&batches, None)?;
    assert_eq!(read(&body, body.len() as u64)?, batches);
    let file = IpcFile::open(Cursor::new(file(&batches)?), limit(body.len() as u64))?;
    assert_eq!(file.collect::<Result<Vec<_>, _>>()?, batches);
    for compression in [CompressionType::ZSTD, CompressionType::LZ4_FRAME] {
        let body = stream(&batches, Some(compression))?;
        assert_eq!(read(&body, 1 << 24)?, batches);
        assert!(read(&body, 100_000).is_err());
    }
    Ok(())
}

/// Bodies of up to 1 kB that would come to gigabytes.
#[test]
fn what_a_few_bytes_stand_for_is_counted() -> Done {
    let ends = Int32Array::from(vec![20_000_000]);
    let words = StringArray::from(vec!["x".repeat(90)]);
    let runs = RunArray::<Int32Type>::try_new(&ends, &words)?;
    let runs = batch(vec![("word", Arc::new(runs))])?;
    let keys = Int32Array::from(vec![0; 1_000_000]);
    let values: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(1_000)]));
    let shared = DictionaryArray::<Int32Type>::try_new(keys, values.clone())?;
    let views = cast(&shared, &DataType::Utf8View)?;
    let shared = batch(vec![("word", Arc::new(shared))])?;
    let views = batch(vec![("word", views)])?;
    let nulls = batch(vec![("none", Arc::new(NullArray::new(1 << 40)))])?;
    let wide: ArrayRef = arrow::array::new_empty_array(&DataType::FixedSizeBinary(1 << 30));
    let none = UInt32Array::from(vec![None::<u32>; 1_000]);
    let wide = DictionaryArray::try_new(none, wide)?;
    let wide = batch(vec![("wide", Arc::new(wide))])?;
    let named = "n".repeat(100_000);
    let named = batch(vec![(
        named.as_str(),
        Arc::new(Int64Array::from(vec![1; 10_000])),
    )])?;
    for (what, batch, bytes) in [
        ("run ends", &runs, 20_000_000 * 94),
        ("a dictionary", &shared, 1_000_000 * 1_004),
        ("texts on each other", &views, 1_000_000 * 1_016),
        ("nulls of a wide type", &wide, 1_000 << 30),
        ("a long name", &named, 10_000 * 99_944),
    ] {
        assert!(
            plain_bytes(batch, u64::MAX).is_some_and(|found| found >= bytes),
            "{what}"
        );
        let body = stream(std::slice::from_ref(batch), None)?;
        let refused = read(&body, 256 << 20);
        assert!(
            refused
                .as_ref()
                .is_err_and(|e| e.to_string().contains("a test's")),
            "{what}: {:?}",
            refused.map(|r| r.len())
        );
    }
    let refused = read(&stream(&[nulls], None)?, 256 << 20);
    assert!(refused.is_err_and(|e| e.to_string().contains("rows")));
    Ok(())
}

/// A run, and a slice of it, count as the rows that they stand for.
#[test]
fn slices_count_what_they_show() -> Done {
    let ends = Int32Array::from(vec![10, 30, 100]);
    let words = StringArray::from(vec!["a", "bb", "cccc"]);
    let runs = RunArray::<Int32Type>::try_new(&ends, &words)?;
    let whole = batch(vec![("word", Arc::new(runs))])?;
    let count = |from, rows| plain_bytes(&whole.slice(from, rows), u64::MAX);
    assert_eq!(count(0, 100), Some(10 * 5 + 20 * 6 + 70 * 8));
    assert_eq!(count(5, 10), Some(5 * 5 + 5 * 6));
    assert_eq!(count(99, 1), Some(8));
    Ok(())
}

/// Every number of 8 bytes in the first message's header is made huge, negative, and 0.
#[test]
fn no_length_is_believed() -> Done {
    let batches = [plain()?.slice(0, 100)];
    for compression in [
        None,
        Some(CompressionType::ZSTD),
        Some(CompressionType::LZ4_FRAME),
    ] {
        let whole = stream(&batches, compression)?;
        let whole_file = file(&batches)?;
        for claim in [i64::MAX / 2, 1 << 40, -1, i64::MIN, 0] {
            for at in (0..whole.len().min(3_000) - 8).step_by(4) {
                let mut torn = whole.clone();
                torn[at..at + 8].copy_from_slice(&claim.to_le_bytes());
                read(&torn, 1 << 24).ok();
            }
            let from = whole_file.len().saturating_sub(2_000);
            for at in (from..whole_file.len() - 8).step_by(3) {
                let mut torn = whole_file.clone();
                torn[at..at + 8].copy_from_slice(&claim.to_le_bytes());
                let read = IpcFile::open(Cursor::new(torn), limit(1 << 24));
                read.and_then(Iterator::collect::<Result<Vec<_>, _>>).ok();
            }
        }
    }
    Ok(())
}

/// LZ4 is taken apart to its end by Arrow, whatever length it states.
#[test]
fn lz4_comes_to_what_it_states() -> Done {
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 4_000_000]));
    let whole = stream(
        &[batch(vec![("zero", zeros)])?],
        Some(CompressionType::LZ4_FRAME),
    )?;
    let stated = (4_000_000_i64 * 8).to_le_bytes();
    let at = whole
        .windows(8)
        .position(|w| w == stated)
        .ok_or("not found")?;
    let mut torn = whole.clone();
    torn[at..at + 8].copy_from_slice(&8_i64.to_le_bytes());
    let refused = read(&torn, 1 << 26);
    assert!(refused.is_err_and(|e| e.to_string().contains("another length")));
    assert_eq!(read(&whole, 1 << 26)?.len(), 1);
    Ok(())
}

/// A stream ends with its marker, and nothing follows.
#[test]
fn a_stream_is_whole() -> Done {
    let empty = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let nothing = RecordBatch::new_empty(empty);
    let body = stream(&[nothing.clone(), nothing], None)?;
    assert_eq!(read(&body, 1 << 20)?.len(), 2);
    for end in 0..body.len() {
        assert!(read(&body[..end], 1 << 20).is_err(), "{end}");
        let parts = IpcStream::open(Cursor::new(&body[..end]), limit(1 << 20));
        assert!(
            parts
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .is_err()
        );
    }
    let longer = [body.as_slice(), b"x"].concat();
    assert!(read(&longer, 1 << 20).is_err());
    Ok(())
}
