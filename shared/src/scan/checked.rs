//! Ranged reads of Parquet files that are checked before they are decoded: what the engine asks for
//! is widened to the borders of the file's checksums. Files without checksums, such as those of
//! version 0.1.0, are read as they are.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::Result as EngineResult;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileMetrics;
use datafusion::datasource::physical_plan::parquet::ParquetFileReaderFactory;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::damage::{damaged, lost};
use crate::storage::Storage;
use crate::table::parquet::sums::{Piece, Tail, pieces};
use crate::table::parquet::{wrong_bytes, wrong_size};
use crate::table::{AddFile, Table};
use crate::{Error, planted};

/// Opens files that a scan reads; each must have its entry as an extension.
#[derive(Debug)]
pub(super) struct CheckedFiles {
    store: Arc<dyn ObjectStore>,
}

impl CheckedFiles {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }
}

impl ParquetFileReaderFactory for CheckedFiles {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> EngineResult<Box<dyn AsyncFileReader + Send>> {
        let path = file.object_meta.location.clone();
        let add = file.extension::<Arc<AddFile>>().cloned();
        let add = add.ok_or_else(|| Error::Internal(format!("`{path}` without its entry")))?;
        Ok(Box::new(CheckedReader {
            store: self.store.clone(),
            metrics: ParquetFileMetrics::new(partition_index, path.as_ref(), metrics),
            tail: add.tail(&path)?.filter(|_| !planted("planted-damage-read")),
            path,
            size: file.object_meta.size,
            add,
            metadata_size_hint,
            opened: None,
        }))
    }
}

/// Reads one file.
struct CheckedReader {
    store: Arc<dyn ObjectStore>,
    metrics: ParquetFileMetrics,
    path: Path,
    add: Arc<AddFile>,
    size: u64,
    /// `None` for a file without checksums.
    tail: Option<Tail>,
    metadata_size_hint: Option<usize>,
    /// Its tail, once it was read and checked.
    opened: Option<Opened>,
}

struct Opened {
    tail: Bytes,
    pieces: Vec<Piece>,
}

fn ours(e: Error) -> ParquetError {
    ParquetError::External(Box::new(e))
}

impl CheckedReader {
    /// Reads and checks the tail, where the file has checksums, and gives its metadata.
    async fn open(
        &mut self,
        tail: Tail,
        options: Option<&ArrowReaderOptions>,
    ) -> ParquetResult<ParquetMetaData> {
        let range = tail.start..self.size;
        let bytes = self.fetch(std::slice::from_ref(&range)).await?.pop();
        let bytes = bytes.filter(|b| b.len() as u64 == range.end.saturating_sub(range.start));
        let bytes = bytes
            .filter(|b| tail.holds(b))
            .ok_or_else(|| ours(wrong_bytes(&self.path)))?;
        let unreadable = |e: ParquetError| ours(damaged(&self.path, e));
        let mut reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
        reader
            .try_parse_sized(&bytes, self.size)
            .map_err(unreadable)?;
        let metadata = reader.finish().map_err(unreadable)?;
        let pieces = pieces(&metadata).ok_or_else(|| ours(wrong_bytes(&self.path)))?;
        self.opened = Some(Opened {
            tail: bytes,
            pieces,
        });
        Ok(metadata)
    }

    async fn fetch(&self, ranges: &[Range<u64>]) -> ParquetResult<Vec<Bytes>> {
        match self.store.get_ranges(&self.path, ranges).await {
            Ok(bytes) => Ok(bytes),
            Err(e) => Err(self.explain(e).await),
        }
    }

    /// Why a range could not be read: where the file is not as its table names it, that is so.
    async fn explain(&self, e: object_store::Error) -> ParquetError {
        match self.store.head(&self.path).await {
            Ok(found) if found.size != self.size => {
                ours(wrong_size(&self.path, found.size, self.add.size))
            }
            Err(object_store::Error::NotFound { .. }) => match self.is_named().await {
                Ok(true) => ours(lost(&self.path)),
                Ok(false) => ParquetError::External(Box::new(e)),
                Err(e) => ours(e),
            },
            _ => ParquetError::External(Box::new(e)),
        }
    }

    /// Whether the newest state of its table names the file.
    async fn is_named(&self) -> Result<bool, Error> {
        let Some((root, name)) = self.path.as_ref().rsplit_once('/') else {
            return Ok(false);
        };
        let storage = Storage::of_store(self.store.clone());
        let table = Table::open(&storage, root).await?;
        Ok(table.with_state(|s| s.files.contains_key(name)))
    }

    async fn read(&mut self, ranges: &[Range<u64>]) -> ParquetResult<Vec<Bytes>> {
        if let Some(tail) = self.tail
            && self.opened.is_none()
        {
            self.open(tail, None).await?;
        }
        let (Some(tail), Some(opened)) = (self.tail, &self.opened) else {
            return self.fetch(ranges).await;
        };
        let elsewhere = || ours(wrong_bytes(&self.path));
        let mut runs = Vec::with_capacity(ranges.len());
        for range in ranges.iter().filter(|r| r.start < tail.start) {
            runs.push(opened.widen(range).ok_or_else(elsewhere)?);
        }
        let runs = joined(runs);
        let read = match runs.is_empty() {
            true => Vec::new(),
            false => self.fetch(&runs).await?,
        };
        for (run, bytes) in runs.iter().zip(&read) {
            let checked = opened.overlapping(run).iter().all(|piece| {
                part(bytes, run.start, &piece.bytes).is_some_and(|bytes| piece.holds(&bytes))
            });
            if !checked {
                return Err(elsewhere());
            }
        }
        let slice = |range: &Range<u64>| {
            if range.start >= tail.start {
                return part(&opened.tail, tail.start, range);
            }
            let index = runs.partition_point(|run| run.end <= range.start);
            part(read.get(index)?, runs.get(index)?.start, range)
        };
        let slices = ranges
            .iter()
            .map(|range| slice(range).ok_or_else(elsewhere));
        slices.collect()
    }
}

/// The bytes of a range, of those that begin at a place of the file.
fn part(bytes: &Bytes, from: u64, range: &Range<u64>) -> Option<Bytes> {
    let start = usize::try_from(range.start.checked_sub(from)?).ok()?;
    let end = usize::try_from(range.end.checked_sub(from)?).ok()?;
    (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
}

impl Opened {
    /// The pieces that have bytes of a range.
    fn overlapping(&self, range: &Range<u64>) -> &[Piece] {
        let from = self.pieces.partition_point(|p| p.bytes.end <= range.start);
        let to = self.pieces.partition_point(|p| p.bytes.start < range.end);
        self.pieces.get(from..to).unwrap_or_default()
    }

    /// A range up to the borders of its pieces; `None` where they don't cover it.
    fn widen(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let pieces = self.overlapping(range);
        let touch = pieces
            .windows(2)
            .all(|p| p[0].bytes.end == p[1].bytes.start);
        let (first, last) = (pieces.first()?, pieces.last()?);
        let widened = first.bytes.start..last.bytes.end;
        let covers = widened.start <= range.start && range.end <= widened.end;
        (touch && covers).then_some(widened)
    }
}

/// Ranges in order, those that overlap as one.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|r| (r.start, r.end));
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

impl AsyncFileReader for CheckedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move {
            let read = self.get_byte_ranges(vec![range]).await?.pop();
            read.ok_or_else(|| ours(wrong_bytes(&self.path)))
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        let bytes: u64 = ranges.iter().map(|r| r.end - r.start).sum();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.metrics.bytes_scanned.add(bytes);
        async move { self.read(&ranges).await }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            if let Some(tail) = self.tail {
                return self.open(tail, options).await.map(Arc::new);
            }
            let (path, size) = (self.path.clone(), self.size);
            let reader = ParquetMetaDataReader::new()
                .with_arrow_reader_options(options)
                .with_prefetch_hint(self.metadata_size_hint);
            let metadata = reader.load_and_finish(&mut *self, size).await;
            metadata.map(Arc::new).map_err(|e| match e {
                e @ ParquetError::External(_) => e,
                e => ours(damaged(path, e)),
            })
        }
        .boxed()
    }
}

impl Drop for CheckedReader {
    fn drop(&mut self) {
        // A file may have several readers: its size counts once.
        let ratio = &self.metrics.scan_efficiency_ratio;
        ratio.add_part(self.metrics.bytes_scanned.value());
        ratio.set_total(usize::try_from(self.size).unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
mod tests;
