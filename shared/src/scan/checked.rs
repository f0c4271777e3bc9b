//! Ranged reads of Parquet files that are checked before they are decoded: what the engine asks for
//! is widened to the borders of the file's checksums. Files without checksums, such as those of
//! version 0.1.0, are read as they are. The ends of files that were asked for some of their rows are
//! kept, decoded, as long as the engine has room for them: queries for few rows would else decode
//! them again each time.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use chrono::DateTime;
use datafusion::common::{HashMap, Result as EngineResult};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileMetrics;
use datafusion::datasource::physical_plan::parquet::ParquetFileReaderFactory;
use datafusion::execution::cache::cache_manager::{
    CachedFileMetadataEntry, FileMetadata, FileMetadataCache,
};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use crate::damage::{damaged, lost};
use crate::storage::Storage;
use crate::table::parquet::sums::{Piece, Tail, pieces};
use crate::table::parquet::{wrong_bytes, wrong_size};
use crate::table::{AddFile, Table};
use crate::{Error, planted};

/// Where a scan's files lie, and who keeps what was read of their ends.
#[derive(Clone, Debug)]
pub struct FileSource {
    store: Arc<dyn ObjectStore>,
    kept: Option<Arc<FileMetadataCache>>,
}

impl FileSource {
    /// Files of which nothing is kept.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, kept: None }
    }

    /// The files of an engine's store, of which the engine keeps what it has read of their ends.
    pub fn of_engine(env: &RuntimeEnv) -> crate::Result<Self> {
        Ok(Self {
            store: Storage::engine_store(env)?,
            kept: Some(env.cache_manager.get_file_metadata_cache()),
        })
    }
}

/// Opens files that a scan reads; each must have its entry as an extension.
#[derive(Debug)]
pub(super) struct CheckedFiles {
    source: FileSource,
    page_index: PageIndexPolicy,
}

impl CheckedFiles {
    pub(super) fn new(source: FileSource) -> Self {
        Self {
            source,
            page_index: PageIndexPolicy::Skip,
        }
    }

    /// With what tells which pages hold rows that are asked for, where files have it.
    pub(super) fn with_page_index(self) -> Self {
        Self {
            page_index: PageIndexPolicy::Optional,
            ..self
        }
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
            source: self.source.clone(),
            page_index: self.page_index,
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
    source: FileSource,
    page_index: PageIndexPolicy,
    metrics: ParquetFileMetrics,
    path: Path,
    add: Arc<AddFile>,
    size: u64,
    /// `None` for a file without checksums.
    tail: Option<Tail>,
    metadata_size_hint: Option<usize>,
    /// Its tail, once it was read and checked.
    opened: Option<Arc<Opened>>,
}

/// The end of a file, checked and decoded.
struct Opened {
    /// What it was checked by.
    checked: Tail,
    tail: Bytes,
    pieces: Vec<Piece>,
    metadata: Arc<ParquetMetaData>,
}

impl FileMetadata for Opened {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn memory_size(&self) -> usize {
        let pieces = self.pieces.len() * size_of::<Piece>();
        size_of::<Self>() + self.tail.len() + pieces + self.metadata.memory_size()
    }

    fn extra_info(&self) -> HashMap<String, String> {
        HashMap::new()
    }
}

fn ours(e: Error) -> ParquetError {
    ParquetError::External(Box::new(e))
}

impl CheckedReader {
    /// Reads, checks and decodes the tail, or finds it kept.
    async fn open(
        &mut self,
        tail: Tail,
        options: Option<&ArrowReaderOptions>,
    ) -> ParquetResult<Arc<Opened>> {
        if let Some(opened) = &self.opened {
            return Ok(opened.clone());
        }
        let opened = match self.kept(tail) {
            Some(opened) => opened,
            None => self.decoded(tail, options).await?,
        };
        self.opened = Some(opened.clone());
        Ok(opened)
    }

    async fn decoded(
        &self,
        tail: Tail,
        options: Option<&ArrowReaderOptions>,
    ) -> ParquetResult<Arc<Opened>> {
        let range = tail.start..self.size;
        let bytes = self.fetch(std::slice::from_ref(&range)).await?.pop();
        let bytes = bytes.filter(|b| b.len() as u64 == range.end.saturating_sub(range.start));
        let bytes = bytes
            .filter(|b| tail.holds(b))
            .ok_or_else(|| ours(wrong_bytes(&self.path)))?;
        let unreadable = |e: ParquetError| ours(damaged(&self.path, e));
        let mut reader = ParquetMetaDataReader::new()
            .with_arrow_reader_options(options)
            .with_page_index_policy(self.page_index);
        reader
            .try_parse_sized(&bytes, self.size)
            .map_err(unreadable)?;
        let metadata = reader.finish().map_err(unreadable)?;
        let pieces = pieces(&metadata).ok_or_else(|| ours(wrong_bytes(&self.path)))?;
        let opened = Arc::new(Opened {
            checked: tail,
            tail: bytes,
            pieces,
            metadata: Arc::new(metadata),
        });
        // Who reads all of a file has no use for its end again.
        if let Some(kept) = &self.source.kept
            && self.page_index != PageIndexPolicy::Skip
        {
            let entry = CachedFileMetadataEntry::new(self.object(), opened.clone());
            kept.put(&self.path, entry);
        }
        Ok(opened)
    }

    /// The end that is kept of a file that has this one.
    fn kept(&self, tail: Tail) -> Option<Arc<Opened>> {
        let entry = self.source.kept.as_ref()?.get(&self.path)?;
        let is_ours = entry.is_valid_for(&self.object());
        let opened: Arc<dyn Any + Send + Sync> = entry.file_metadata;
        let opened = opened.downcast::<Opened>().ok()?;
        (is_ours && opened.checked == tail).then_some(opened)
    }

    /// The file, as what is kept of it is known by.
    fn object(&self) -> ObjectMeta {
        ObjectMeta {
            location: self.path.clone(),
            last_modified: DateTime::UNIX_EPOCH,
            size: self.size,
            e_tag: None,
            version: None,
        }
    }

    async fn fetch(&self, ranges: &[Range<u64>]) -> ParquetResult<Vec<Bytes>> {
        match self.source.store.get_ranges(&self.path, ranges).await {
            Ok(bytes) => Ok(bytes),
            Err(e) => Err(self.explain(e).await),
        }
    }

    /// Why a range could not be read: where the file is not as its table names it, that is so.
    async fn explain(&self, e: object_store::Error) -> ParquetError {
        match self.source.store.head(&self.path).await {
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
        let storage = Storage::of_store(self.source.store.clone());
        let table = Table::open(&storage, root).await?;
        Ok(table.with_state(|s| s.files.contains_key(name)))
    }

    async fn read(&mut self, ranges: &[Range<u64>]) -> ParquetResult<Vec<Bytes>> {
        let Some(tail) = self.tail else {
            return self.fetch(ranges).await;
        };
        let opened = self.open(tail, None).await?;
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
                let opened = self.open(tail, options).await?;
                return Ok(opened.metadata.clone());
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
