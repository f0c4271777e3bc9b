//! A store that fails as real ones do: before a request is done, or after it was done, so that its
//! sender does not know.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anabranch_shared::Storage;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
};
use parking_lot::Mutex;

/// When requests fail: none while `percent` is 0.
///
/// Which do is told by the seed, by where they put something, and by how many were put there before: the
/// same ones again, in whatever order several at once come.
#[derive(Default)]
pub struct Faults {
    /// How many of a hundred puts fail; half of them after they were done.
    percent: AtomicU32,
    seed: AtomicU32,
    /// How many puts each place has had.
    puts: Mutex<HashMap<String, u64>>,
    before: Mutex<Option<Arc<Before>>>,
}

/// What is done before something is put at a place.
type Before = dyn Fn(Path) -> BoxFuture<'static, ()> + Send + Sync;

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

impl Faults {
    /// Fails this share of the puts from now on.
    pub fn set_percent(&self, percent: u32) {
        self.percent.store(percent, Ordering::Relaxed);
    }

    /// Other faults for other seeds.
    pub fn seed(&self, seed: u32) {
        self.seed.store(seed, Ordering::Relaxed);
    }

    /// Does something before each put from now on, as somebody else does who is faster.
    pub fn before_puts(
        &self,
        done: impl Fn(Path) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) {
        *self.before.lock() = Some(Arc::new(done));
    }

    fn verdict(&self, location: &Path) -> Verdict {
        let percent = self.percent.load(Ordering::Relaxed);
        if percent == 0 {
            return Verdict::Answered;
        }
        let place = place(location);
        let mut puts = self.puts.lock();
        let nth = puts.entry(place.clone()).or_default();
        *nth += 1;
        let mut hash = DefaultHasher::new();
        (self.seed.load(Ordering::Relaxed), place, *nth).hash(&mut hash);
        let chance = hash.finish();
        match (chance % 100 < u64::from(percent), chance >> 32 & 1 == 0) {
            (false, _) => Verdict::Answered,
            (true, true) => Verdict::NotDone,
            (true, false) => Verdict::DoneUnanswered,
        }
    }
}

/// Where something is put: data files, whose names are random, in their folder, all else by its name.
fn place(location: &Path) -> String {
    match location.as_ref().rsplit_once("/part-") {
        Some((folder, _)) => folder.to_owned(),
        None => location.to_string(),
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
        let before = self.faults.before.lock().clone();
        if let Some(before) = before {
            before(location.clone()).await;
        }
        match self.faults.verdict(location) {
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
