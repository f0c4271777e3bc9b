//! A folder as a durable object store: an object that a put has answered for survives a loss of
//! power. `object_store`'s own folder never fsyncs, so this one writes files itself: the bytes go
//! to a staged file, the file is fsynced, linked (put-if-absent) or renamed into place, and then
//! its folder is fsynced. Reading and listing are the inner store's.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, UploadPart,
};

use crate::{Error, Result};

/// The file operations that durability rests on, so that tests can watch them and lose power.
pub trait FolderFiles: fmt::Debug + Send + Sync {
    /// Creates a folder and those above it that are absent, each durable in its parent.
    fn create_dir_all(&self, path: &FsPath) -> io::Result<()>;
    /// Writes a new file.
    fn write(&self, path: &FsPath, parts: &[Bytes]) -> io::Result<()>;
    /// Makes a file's bytes durable.
    fn sync_file(&self, path: &FsPath) -> io::Result<()>;
    /// Gives a file a second name; fails if that name exists.
    fn link(&self, from: &FsPath, to: &FsPath) -> io::Result<()>;
    /// Renames a file, replacing one of that name.
    fn rename(&self, from: &FsPath, to: &FsPath) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &FsPath) -> io::Result<()>;
    /// Makes the entries of a folder durable.
    fn sync_dir(&self, path: &FsPath) -> io::Result<()>;
}

/// The operating system's file operations.
#[derive(Debug)]
pub struct RealFolderFiles;

impl FolderFiles for RealFolderFiles {
    fn create_dir_all(&self, path: &FsPath) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            _ => Ok(()),
        }
    }

    fn write(&self, path: &FsPath, parts: &[Bytes]) -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).open(path)?;
        parts.iter().try_for_each(|p| file.write_all(p))
    }

    fn sync_file(&self, path: &FsPath) -> io::Result<()> {
        File::open(path)?.sync_data()
    }

    fn link(&self, from: &FsPath, to: &FsPath) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &FsPath, to: &FsPath) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &FsPath) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &FsPath) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

#[derive(Debug)]
pub(super) struct DurableFolder {
    inner: LocalFileSystem,
    files: Arc<dyn FolderFiles>,
}

impl DurableFolder {
    pub(super) fn new(path: &FsPath, files: Arc<dyn FolderFiles>) -> Result<Self> {
        let inner = LocalFileSystem::new_with_prefix(path).map_err(Error::Store)?;
        Ok(Self { inner, files })
    }
}

impl fmt::Display for DurableFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "durable {}", self.inner)
    }
}

fn failed(path: &FsPath, source: io::Error) -> object_store::Error {
    let path = path.display().to_string();
    match source.kind() {
        io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists {
            path,
            source: source.into(),
        },
        _ => object_store::Error::Generic {
            store: "folder",
            source: format!("{path}: {source}").into(),
        },
    }
}

/// A name beside `path` that the inner store's listings leave out (they skip `#` and digits).
fn staged(path: &FsPath) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("#{}", uuid::Uuid::new_v4().as_u128()));
    name.into()
}

fn write_durably(
    files: &dyn FolderFiles,
    path: &FsPath,
    parts: &[Bytes],
    mode: &PutMode,
) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    files.create_dir_all(dir)?;
    let staged = staged(path);
    let placed = (|| {
        files.write(&staged, parts)?;
        files.sync_file(&staged)?;
        match mode {
            PutMode::Create => files.link(&staged, path),
            _ => files.rename(&staged, path),
        }
    })();
    if placed.is_err() || matches!(mode, PutMode::Create) {
        // The second name of a linked file, or what is left of a failed write: both are garbage,
        // and a file that can't be removed does no harm.
        files.remove(&staged).ok();
    }
    placed?;
    files.sync_dir(dir)
}

/// A listing in order of names, as object stores give it and readers of Delta logs expect it.
fn sorted(
    listing: BoxStream<'static, object_store::Result<ObjectMeta>>,
) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
    let ordered = async move {
        let mut found: Vec<ObjectMeta> = listing.try_collect().await?;
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok::<_, object_store::Error>(futures::stream::iter(found.into_iter().map(Ok)))
    };
    futures::stream::once(ordered).try_flatten().boxed()
}

#[async_trait]
impl ObjectStore for DurableFolder {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) {
            return Err(object_store::Error::NotImplemented {
                operation: "conditional update".into(),
                implementer: self.to_string(),
            });
        }
        let path = self.inner.path_to_filesystem(location)?;
        let files = self.files.clone();
        let parts: Vec<Bytes> = payload.into_iter().collect();
        let done = tokio::task::spawn_blocking(move || {
            write_durably(files.as_ref(), &path, &parts, &opts.mode).map_err(|e| failed(&path, e))
        });
        done.await
            .map_err(|source| object_store::Error::JoinError { source })??;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        let path = self.inner.path_to_filesystem(location)?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DurableUpload {
            inner,
            path,
            files: self.files.clone(),
        }))
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
        sorted(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        sorted(self.inner.list_with_offset(prefix, offset))
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

#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    path: PathBuf,
    files: Arc<dyn FolderFiles>,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let done = self.inner.complete().await?;
        let (path, files) = (self.path.clone(), self.files.clone());
        let synced = tokio::task::spawn_blocking(move || {
            files
                .sync_file(&path)
                .and_then(|()| files.sync_dir(path.parent().unwrap_or(&path)))
                .map_err(|e| failed(&path, e))
        });
        synced
            .await
            .map_err(|source| object_store::Error::JoinError { source })??;
        Ok(done)
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.inner.abort().await
    }
}
