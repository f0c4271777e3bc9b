//! Counts what is asked of a store: requests by kind, and bytes. Always on, because a count costs
//! an addition; the client's own repetitions of a failed request are not seen here.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, OBJECT_STORE_COALESCE_DEFAULT,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, UploadPart, coalesce_ranges,
};

/// Objects that one request may remove: S3's own bound.
const DELETED_AT_ONCE: u64 = 1_000;

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestKind {
    /// An object's bytes, or a range of them.
    Get,
    /// An object's size and time alone.
    Head,
    /// An object is written, or a part of a large one.
    Put,
    /// An object is written unless one of that name exists.
    PutIfAbsent,
    /// One listing; of many names it takes a server several requests.
    List,
    /// Up to 1,000 objects are removed.
    Delete,
    /// An object is copied or renamed.
    Copy,
}

impl RequestKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Get,
        Self::Head,
        Self::Put,
        Self::PutIfAbsent,
        Self::List,
        Self::Delete,
        Self::Copy,
    ];

    /// The kind's name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::PutIfAbsent => "put_if_absent",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Copy => "copy",
        }
    }
}

/// How much was asked of a store since it was opened.
#[derive(Debug, Default)]
pub struct Requests {
    requests: [AtomicU64; RequestKind::ALL.len()],
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

impl Requests {
    /// Requests of a kind.
    pub fn of(&self, kind: RequestKind) -> u64 {
        self.requests
            .get(kind as usize)
            .map_or(0, |n| n.load(Ordering::Relaxed))
    }

    /// Bytes of objects that were asked for.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of objects that were sent.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    fn count(&self, kind: RequestKind) {
        if let Some(n) = self.requests.get(kind as usize) {
            n.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sent(&self, bytes: usize) {
        self.written_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// How ranges of one object are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RangeReads {
    /// All at once, by the store itself.
    Together,
    /// Each by a request of its own, near ones together.
    Coalesced,
}

/// A store whose requests are counted.
#[derive(Debug)]
pub(super) struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    requests: Arc<Requests>,
    ranges: RangeReads,
}

impl CountingStore {
    pub(super) fn new(
        inner: Arc<dyn ObjectStore>,
        requests: Arc<Requests>,
        ranges: RangeReads,
    ) -> Self {
        Self {
            inner,
            requests,
            ranges,
        }
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.requests.count(match opts.mode {
            PutMode::Create => RequestKind::PutIfAbsent,
            _ => RequestKind::Put,
        });
        self.requests.sent(payload.content_length());
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.requests.count(RequestKind::Put);
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        let requests = self.requests.clone();
        Ok(Box::new(CountingUpload { inner, requests }))
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        let head = options.head;
        self.requests.count(match head {
            true => RequestKind::Head,
            false => RequestKind::Get,
        });
        let found = self.inner.get_opts(location, options).await?;
        if !head {
            self.requests.read(found.range.end - found.range.start);
        }
        Ok(found)
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[Range<u64>],
    ) -> object_store::Result<Vec<Bytes>> {
        match self.ranges {
            RangeReads::Coalesced => {
                coalesce_ranges(
                    ranges,
                    |range| self.get_range(location, range),
                    OBJECT_STORE_COALESCE_DEFAULT,
                )
                .await
            }
            RangeReads::Together => {
                self.requests.count(RequestKind::Get);
                let bytes = ranges.iter().map(|r| r.end.saturating_sub(r.start));
                self.requests.read(bytes.sum());
                self.inner.get_ranges(location, ranges).await
            }
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let (requests, mut asked) = (self.requests.clone(), 0u64);
        let counted = locations.inspect(move |_| {
            if asked.is_multiple_of(DELETED_AT_ONCE) {
                requests.count(RequestKind::Delete);
            }
            asked += 1;
        });
        self.inner.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.requests.count(RequestKind::List);
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.requests.count(RequestKind::List);
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.requests.count(RequestKind::List);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.requests.count(RequestKind::Copy);
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(
        &self,
        from: &Path,
        to: &Path,
        options: RenameOptions,
    ) -> object_store::Result<()> {
        self.requests.count(RequestKind::Copy);
        self.inner.rename_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct CountingUpload {
    inner: Box<dyn MultipartUpload>,
    requests: Arc<Requests>,
}

#[async_trait]
impl MultipartUpload for CountingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.requests.count(RequestKind::Put);
        self.requests.sent(data.content_length());
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        self.requests.count(RequestKind::Put);
        self.inner.complete().await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.requests.count(RequestKind::Delete);
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use futures::TryStreamExt;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn every_request_is_counted_as_what_it_is() {
        let requests = Arc::new(Requests::default());
        let inner = Arc::new(InMemory::new());
        let store = CountingStore::new(inner, requests.clone(), RangeReads::Coalesced);
        let path = Path::from("a/b");
        store.put(&path, "0123456789".into()).await.unwrap();
        let create = PutOptions::from(PutMode::Create);
        let taken = store.put_opts(&path, "x".into(), create).await;
        assert!(taken.is_err());
        store.get(&path).await.unwrap().bytes().await.unwrap();
        store.head(&path).await.unwrap();
        store.get_ranges(&path, &[0..2, 4..6]).await.unwrap();
        let listed = store.list(None).try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(listed.len(), 1);
        store.delete(&path).await.unwrap();
        let counts = RequestKind::ALL.map(|kind| requests.of(kind));
        // The two ranges lie near each other: one request brings both.
        assert_eq!(counts, [2, 1, 1, 1, 1, 1, 0]);
        assert_eq!((requests.written_bytes(), requests.read_bytes()), (11, 16));
    }
}
