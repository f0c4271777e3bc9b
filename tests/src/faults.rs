//! A store that fails as real ones do: before a request is done, or after it was done, so that its
//! sender does not know.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anabranch_shared::Storage;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
};

/// When requests fail: none while `percent` is 0.
#[derive(Debug, Default)]
pub struct Faults {
    /// How many of a hundred puts fail; half of them after they were done.
    percent: AtomicU32,
    state: AtomicU32,
}

impl Faults {
    /// Fails this share of the puts from now on.
    pub fn set_percent(&self, percent: u32) {
        self.percent.store(percent, Ordering::Relaxed);
    }

    /// Starts the sequence of faults anew, so that a test can be repeated.
    pub fn seed(&self, seed: u32) {
        self.state.store(seed | 1, Ordering::Relaxed);
    }

    /// A number of a xorshift sequence (Marsaglia 2003).
    fn next(&self) -> u32 {
        let mut x = self.state.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.state.store(x, Ordering::Relaxed);
        x
    }

    fn verdict(&self) -> Verdict {
        let percent = self.percent.load(Ordering::Relaxed);
        if percent == 0 || self.next() % 100 >= percent {
            return Verdict::Answered;
        }
        match self.next() & 16 == 0 {
            true => Verdict::NotDone,
            false => Verdict::DoneUnanswered,
        }
    }
}

enum Verdict {
    Answered,
    NotDone,
    DoneUnanswered,
}

fn failure() -> object_store::Error {
    object_store::Error::Generic {
        store: "faulty",
        source: "the connection was cut".into(),
    }
}

#[derive(Debug)]
struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Arc<Faults>,
}

/// The storage, with faults that a test switches on.
pub fn faulty(storage: Storage) -> (Storage, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    faults.seed(1);
    let of_store = faults.clone();
    let storage = storage.wrapped(|inner| {
        Arc::new(FaultyStore {
            inner,
            faults: of_store,
        })
    });
    (storage, faults)
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        match self.faults.verdict() {
            Verdict::Answered => self.inner.put_opts(location, payload, opts).await,
            Verdict::NotDone => Err(failure()),
            Verdict::DoneUnanswered => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(failure())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[Range<u64>],
    ) -> object_store::Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(
        &self,
        from: &Path,
        to: &Path,
        options: RenameOptions,
    ) -> object_store::Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
