//! The object store that holds the log, the views and the catalogue: a folder, which is made
//! durable here, or a bucket of an S3 server. Knows nothing of what is kept in it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::path::Path as FsPath;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use parking_lot::Mutex;

use crate::files::{Files, RealFiles};
use crate::layout;
use crate::settings::StorageSettings;
use crate::{Error, Ids, Monotonic, Result, WallClock};

mod bucket;
mod counting;
mod durable;
mod folder;
mod probe;
mod s3;
#[cfg(test)]
mod tests;
mod upkeep;

use bucket::Bucket;
use counting::{CountingStore, RangeReads};
pub use counting::{RequestKind, Requests};
use durable::DurableFiles;
use folder::{DurableFolder, OwnersAlone};
pub use upkeep::StagedFile;

/// The URL under which the engine finds the store.
const ENGINE_URL: &str = "anabranch://storage";

/// The project's object store.
#[derive(Clone, Debug)]
pub struct Storage {
    url: String,
    store: Arc<dyn ObjectStore>,
    kind: Kind,
    requests: Arc<Requests>,
    /// By which it is judged whether what was read is too old to build on.
    clock: Monotonic,
    wall: WallClock,
    ids: Ids,
    /// Whether nothing may be written.
    read_only: bool,
    /// How long a file surely stays that no commit names, in milliseconds.
    orphan_grace_ms: i64,
    kept: Arc<Kept>,
}

/// What a process keeps of a storage that is open, by its type.
#[derive(Debug, Default)]
struct Kept(Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

/// What the store is, and what that kind of storage can do beside storing objects.
#[derive(Clone, Debug)]
enum Kind {
    /// A folder, with what makes it durable.
    Folder(Arc<DurableFiles>),
    /// A bucket of an S3 server.
    Bucket(Arc<Bucket>),
    /// A store to read from, of which no more is known.
    Unknown,
}

/// How long a file stays that no commit names where no settings say it: a day, in milliseconds.
const ORPHAN_GRACE_MS: i64 = 24 * 60 * 60 * 1_000;

fn orphan_grace_ms(settings: &StorageSettings) -> i64 {
    i64::try_from(settings.orphan_grace.as_millis()).unwrap_or(i64::MAX)
}

/// Rights of the files of a folder, where its settings are not known.
const DEFAULT_MODE: u32 = 0o640;

/// What a put-if-absent came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// The object is ours.
    Created,
    /// An object of that name was there already; it may be our own, if an earlier answer was lost.
    Exists,
}

impl Storage {
    /// A folder, created if it is absent. Every put is durable when it returns.
    pub fn folder(path: &FsPath) -> Result<Self> {
        Self::folder_with(path, Arc::new(RealFiles))
    }

    /// A folder on a given layer of file operations.
    pub fn folder_with(path: &FsPath, files: Arc<dyn Files>) -> Result<Self> {
        Self::folder_of(path, files, DEFAULT_MODE)
    }

    fn folder_of(path: &FsPath, files: Arc<dyn Files>, mode: u32) -> Result<Self> {
        let opened = DurableFiles::open(path, files, mode);
        let files = Arc::new(opened.map_err(|e| Error::io(path, e))?);
        let requests = Arc::new(Requests::default());
        let store = Arc::new(DurableFolder::new(files.clone())?);
        Ok(Self {
            url: format!("file://{}", files.root().display()),
            store: Arc::new(CountingStore::new(
                store,
                requests.clone(),
                RangeReads::Together,
            )),
            kind: Kind::Folder(files),
            requests,
            clock: Monotonic::default(),
            wall: WallClock::default(),
            ids: Ids::default(),
            read_only: false,
            orphan_grace_ms: ORPHAN_GRACE_MS,
            kept: Arc::default(),
        })
    }

    /// Opens the storage that a project's settings name. Keys for a bucket, and its server and
    /// region where the settings don't name them, come from `variables`: those of the environment.
    /// Nothing is asked of a bucket's server yet.
    ///
    /// # Errors
    /// `Invalid` for settings that don't fit together, or a bucket without keys.
    pub fn open(
        settings: &StorageSettings,
        project: &FsPath,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let url = &settings.url;
        let path = match url.split_once("://") {
            Some(("s3", _)) => return Self::bucket(settings, variables),
            Some(("file", path)) => path,
            None => url,
            Some((scheme, _)) => {
                return Err(Error::Invalid(format!(
                    "`storage.url` = `{url}`: `{scheme}://` is not supported; use a folder, for example `file://./data`, or `s3://BUCKET/PREFIX`"
                )));
            }
        };
        if settings.endpoint.is_some() || settings.region.is_some() || settings.path_style.is_some()
        {
            return Err(Error::Invalid(format!(
                "`endpoint`, `region` and `path_style` in `[storage]` are for `s3://BUCKET/PREFIX`, and `url` is `{url}`; take them out"
            )));
        }
        let files = Arc::new(RealFiles);
        Ok(Self {
            orphan_grace_ms: orphan_grace_ms(settings),
            ..Self::folder_of(&project.join(path), files, settings.mode)?
        })
    }

    fn bucket(
        settings: &StorageSettings,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let requests = Arc::new(Requests::default());
        let opened = s3::open(settings, &variables.into_iter().collect())?;
        let counting = CountingStore::new(opened.store, requests.clone(), RangeReads::Coalesced);
        let bucket = Arc::new(Bucket::new(Arc::new(counting), opened.name, opened.server));
        Ok(Self {
            url: settings.url.clone(),
            store: bucket.clone(),
            kind: Kind::Bucket(bucket),
            requests,
            clock: Monotonic::default(),
            wall: WallClock::default(),
            ids: Ids::default(),
            read_only: false,
            orphan_grace_ms: orphan_grace_ms(settings),
            kept: Arc::default(),
        })
    }

    /// The same storage for who only reads: what is absent stays absent, and every write is an error.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self {
            read_only: true,
            ..self
        }
    }

    /// Whether nothing may be written.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn check_writable(&self, path: &Path) -> Result<()> {
        match self.read_only {
            false => Ok(()),
            true => Err(Error::Internal(format!(
                "`{path}` would be written by a command that only reads"
            ))),
        }
    }

    /// What the process keeps of this storage, made where it is not there: one of a type, which whoever
    /// has a clone of the storage gets.
    pub(crate) fn kept<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        let mut kept = self.kept.0.lock();
        let made = kept
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Arc::new(T::default()));
        made.clone().downcast().unwrap_or_default()
    }

    /// The same storage for what is kept of it, which would otherwise hold itself.
    pub(crate) fn apart(&self) -> Self {
        Self {
            kept: Arc::default(),
            ..self.clone()
        }
    }

    /// What was asked of the storage since it was opened.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// The same storage behind another store, such as one that counts requests or makes them fail.
    #[must_use]
    pub fn wrapped(self, wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        Self {
            store: wrap(self.store.clone()),
            ..self
        }
    }

    /// The same storage with another clock, such as one that a test moves.
    #[must_use]
    pub fn with_clock(self, clock: Monotonic) -> Self {
        Self { clock, ..self }
    }

    /// The clock by which it is judged whether what was read is too old to build on.
    pub fn clock(&self) -> &Monotonic {
        &self.clock
    }

    /// The same storage with another time of day.
    #[must_use]
    pub fn with_wall(self, wall: WallClock) -> Self {
        Self { wall, ..self }
    }

    /// The time of day, for what is written into the storage.
    pub fn wall(&self) -> &WallClock {
        &self.wall
    }

    /// The same storage with ids from elsewhere, such as those of a seed.
    #[must_use]
    pub fn with_ids(self, ids: Ids) -> Self {
        Self { ids, ..self }
    }

    /// Where ids of what lies in the storage come from.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// The name of a new data file.
    pub fn new_file_name(&self) -> String {
        format!("part-{}.parquet", self.ids.fresh())
    }

    /// The storage's URL, for messages.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder, where the storage is one.
    pub fn as_folder(&self) -> Option<&FsPath> {
        match &self.kind {
            Kind::Folder(files) => Some(files.root()),
            Kind::Bucket(_) | Kind::Unknown => None,
        }
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The URL under which [`Storage::register`] makes the store known.
    pub fn engine_url() -> Result<ObjectStoreUrl> {
        Ok(ObjectStoreUrl::parse(ENGINE_URL)?)
    }

    /// The store that was made known to an engine's environment.
    pub fn engine_store(env: &RuntimeEnv) -> Result<Arc<dyn ObjectStore>> {
        Ok(env.object_store(Self::engine_url()?)?)
    }

    /// A storage to read from, of whose store no more is known.
    pub(crate) fn of_store(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            url: store.to_string(),
            store,
            kind: Kind::Unknown,
            requests: Arc::default(),
            clock: Monotonic::default(),
            wall: WallClock::default(),
            ids: Ids::default(),
            read_only: true,
            orphan_grace_ms: ORPHAN_GRACE_MS,
            kept: Arc::default(),
        }
    }

    /// Makes the store known to an engine's environment.
    pub fn register(&self, env: &RuntimeEnv) -> Result<()> {
        env.register_object_store(Self::engine_url()?.as_ref(), self.store.clone());
        Ok(())
    }

    /// Notes that objects which others have written were found below a path, so that they are made
    /// durable before this process writes anything that may build on them: an object can be seen
    /// before its writer has made its name durable, and that writer may have died.
    pub fn note_found(&self, dir: &Path) {
        if let Kind::Folder(files) = &self.kind {
            files.note_found(files.root().join(dir.as_ref()));
        }
    }

    /// Makes durable what was found. Needed only before something is answered for that rests on it
    /// without anything being written.
    pub async fn settle(&self) -> Result<()> {
        let Kind::Folder(files) = &self.kind else {
            return Ok(());
        };
        let files = files.clone();
        crate::blocking(move || files.settle().map_err(|e| Error::io(files.root(), e))).await
    }

    /// Writes an object unless one of that name exists.
    pub async fn create(&self, path: &Path, body: impl Into<PutPayload>) -> Result<CreateOutcome> {
        self.create_with(path, body.into(), PutOptions::default())
            .await
    }

    /// Writes an object, replacing one of that name.
    pub async fn put(&self, path: &Path, body: impl Into<PutPayload>) -> Result<()> {
        self.check_writable(path)?;
        self.store.put(path, body.into()).await?;
        Ok(())
    }

    /// As [`Storage::create`], of an object that in a folder its owner alone may read.
    pub async fn create_for_owner(
        &self,
        path: &Path,
        body: impl Into<PutPayload>,
    ) -> Result<CreateOutcome> {
        let mut options = PutOptions::default();
        options.extensions.insert(OwnersAlone);
        self.create_with(path, body.into(), options).await
    }

    async fn create_with(
        &self,
        path: &Path,
        body: PutPayload,
        options: PutOptions,
    ) -> Result<CreateOutcome> {
        self.check_writable(path)?;
        let options = PutOptions {
            mode: PutMode::Create,
            ..options
        };
        match self.store.put_opts(path, body, options).await {
            Ok(_) => Ok(CreateOutcome::Created),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(CreateOutcome::Exists),
            Err(e) => Err(e.into()),
        }
    }

    /// As [`Storage::put`], of an object that in a folder its owner alone may read.
    pub async fn put_for_owner(&self, path: &Path, body: impl Into<PutPayload>) -> Result<()> {
        self.check_writable(path)?;
        let mut options = PutOptions::default();
        options.extensions.insert(OwnersAlone);
        self.store.put_opts(path, body.into(), options).await?;
        Ok(())
    }

    /// The time by the storage's own clock, in milliseconds since 1970, read from an object just
    /// written; `None` for a folder, whose clock is the machine's.
    pub async fn own_time_ms(&self) -> Result<Option<i64>> {
        let Kind::Bucket(_) = &self.kind else {
            return Ok(None);
        };
        let path = layout::clock(&self.ids.fresh().to_string());
        self.put(&path, Bytes::new()).await?;
        let found = self.store.head(&path).await;
        self.delete(&path).await?;
        Ok(Some(found?.last_modified.timestamp_millis()))
    }

    /// The age from which on files may be taken for orphans soon, so that whoever commits them must
    /// look whether they are there: half the time that orphans stay, in milliseconds.
    pub(crate) fn old_ms(&self) -> i64 {
        self.orphan_grace_ms / 2
    }

    /// Reads an object; `None` if there is none.
    pub async fn get(&self, path: &Path) -> Result<Option<bytes::Bytes>> {
        match self.store.get(path).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Copies an object, replacing one of that name.
    pub async fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        self.check_writable(to)?;
        Ok(self.store.copy(from, to).await?)
    }

    /// Whether there is an object.
    pub async fn is_there(&self, path: &Path) -> Result<bool> {
        match self.store.head(path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes an object; none is no error.
    pub async fn delete(&self, path: &Path) -> Result<()> {
        self.check_writable(path)?;
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// The path of a name below another path.
pub(crate) fn join(root: &Path, name: &str) -> Path {
    Path::from(format!("{root}/{name}"))
}
