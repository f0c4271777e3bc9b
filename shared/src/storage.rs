//! The object store that holds the log, the views and the catalogue. Owns how a folder is made
//! durable; knows nothing of what is kept in it.

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::{Error, Monotonic, Result};

mod durable;
mod folder;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod upkeep;

use durable::DurableFiles;
pub use durable::{FolderFiles, FolderSync, RealFolderFiles};
use folder::DurableFolder;
pub use upkeep::StagedFile;

/// The URL under which the engine finds the store.
const ENGINE_URL: &str = "anabranch://storage";

/// The project's object store.
#[derive(Clone, Debug)]
pub struct Storage {
    url: String,
    store: Arc<dyn ObjectStore>,
    folder: Option<PathBuf>,
    /// Where the storage is a folder, what makes it durable.
    files: Option<Arc<DurableFiles>>,
    /// By which it is judged whether what was read is too old to build on.
    clock: Monotonic,
}

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
        Self::folder_with(path, Arc::new(RealFolderFiles))
    }

    /// A folder on a given layer of file operations.
    pub fn folder_with(path: &FsPath, files: Arc<dyn FolderFiles>) -> Result<Self> {
        let files = Arc::new(DurableFiles::open(path, files).map_err(|e| Error::io(path, e))?);
        let path = files.root().to_path_buf();
        Ok(Self {
            url: format!("file://{}", path.display()),
            store: Arc::new(DurableFolder::new(files.clone())?),
            folder: Some(path),
            files: Some(files),
            clock: Monotonic::default(),
        })
    }

    /// Opens the storage that a project's settings name.
    ///
    /// # Errors
    /// `Invalid` for a URL whose scheme this version does not support.
    pub fn open(url: &str, project: &FsPath) -> Result<Self> {
        let path = match url.split_once("://") {
            None => url,
            Some(("file", path)) => path,
            Some((scheme, _)) => {
                return Err(Error::Invalid(format!(
                    "`storage.url` = `{url}`: `{scheme}://` is not supported yet; use a folder, for example `file://./data`"
                )));
            }
        };
        Self::folder(&project.join(path))
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

    /// The storage's URL, for messages.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder, where the storage is one.
    pub fn as_folder(&self) -> Option<&FsPath> {
        self.folder.as_deref()
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The URL under which [`Storage::register`] makes the store known.
    pub fn engine_url() -> Result<ObjectStoreUrl> {
        Ok(ObjectStoreUrl::parse(ENGINE_URL)?)
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
        if let (Some(root), Some(files)) = (&self.folder, &self.files) {
            files.note_found(root.join(dir.as_ref()));
        }
    }

    /// Makes durable what was found. Needed only before something is answered for that rests on it
    /// without anything being written.
    pub async fn settle(&self) -> Result<()> {
        let Some(files) = self.files.clone() else {
            return Ok(());
        };
        crate::blocking(move || files.settle().map_err(|e| Error::io(files.root(), e))).await
    }

    /// Writes an object unless one of that name exists.
    pub async fn create(&self, path: &Path, body: impl Into<PutPayload>) -> Result<CreateOutcome> {
        let options = PutOptions {
            mode: PutMode::Create,
            ..Default::default()
        };
        match self.store.put_opts(path, body.into(), options).await {
            Ok(_) => Ok(CreateOutcome::Created),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(CreateOutcome::Exists),
            Err(e) => Err(e.into()),
        }
    }

    /// Writes an object, replacing one of that name.
    pub async fn put(&self, path: &Path, body: impl Into<PutPayload>) -> Result<()> {
        self.store.put(path, body.into()).await?;
        Ok(())
    }

    /// Reads an object; `None` if there is none.
    pub async fn get(&self, path: &Path) -> Result<Option<bytes::Bytes>> {
        match self.store.get(path).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes an object; none is no error.
    pub async fn delete(&self, path: &Path) -> Result<()> {
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
