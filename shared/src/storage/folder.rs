//! A folder as a durable object store: an object that a put has answered for survives a loss of
//! power, and one that was removed stays away. `object_store`'s own folder never fsyncs, so writing
//! is done by [`DurableFiles`]; reading and listing are the inner store's.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    UploadPart,
};

use super::durable::DurableFiles;
use crate::{Error, Result};

/// Removals that are synced together.
const REMOVALS: usize = 256;

/// Rights of what is nobody's but the owner's.
const OWNERS_ALONE: u32 = 0o600;

/// Says of a put that the object is for its owner alone, whatever the rights of others are.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnersAlone;

#[derive(Debug)]
pub(super) struct DurableFolder {
    inner: Arc<LocalFileSystem>,
    files: Arc<DurableFiles>,
}

impl DurableFolder {
    pub(super) fn new(files: Arc<DurableFiles>) -> Result<Self> {
        let inner = LocalFileSystem::new_with_prefix(files.root()).map_err(Error::Store)?;
        Ok(Self {
            inner: Arc::new(inner),
            files,
        })
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
        io::ErrorKind::NotFound => object_store::Error::NotFound {
            path,
            source: source.into(),
        },
        _ => object_store::Error::Generic {
            store: "folder",
            source: format!("{path}: {source}").into(),
        },
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> object_store::Result<T> + Send + 'static,
) -> object_store::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| object_store::Error::JoinError { source })?
}

async fn put(
    files: Arc<DurableFiles>,
    path: PathBuf,
    parts: Vec<Bytes>,
    mode: PutMode,
    rights: u32,
) -> object_store::Result<PutResult> {
    blocking(move || {
        files
            .put(&path, &parts, &mode, rights)
            .map_err(|e| failed(&path, e))?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    })
    .await
}

/// Removes objects for good; those before one that can't be removed are in the answer.
async fn remove(
    inner: Arc<LocalFileSystem>,
    files: Arc<DurableFiles>,
    locations: Vec<object_store::Result<Path>>,
) -> Vec<object_store::Result<Path>> {
    let mut answers = Vec::new();
    let (mut wanted, mut paths) = (Vec::new(), Vec::new());
    for location in locations {
        match location.and_then(|l| Ok((inner.path_to_filesystem(&l)?, l))) {
            Ok((path, location)) => {
                paths.push(path);
                wanted.push(location);
            }
            Err(e) => answers.push(Err(e)),
        }
    }
    let removed = blocking(move || {
        let at = |path: &PathBuf| paths.iter().position(|p| p == path).unwrap_or(0);
        match files.remove(&paths) {
            Ok(()) => Ok((paths.len(), None)),
            Err((path, e)) => Ok((at(&path), Some(failed(&path, e)))),
        }
    });
    match removed.await {
        Ok((done, failure)) => {
            wanted.truncate(done);
            answers.extend(wanted.into_iter().map(Ok));
            answers.extend(failure.map(Err));
        }
        Err(e) => answers.push(Err(e)),
    }
    answers
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
        let parts = payload.into_iter().collect();
        let rights = match opts.extensions.get::<OwnersAlone>() {
            Some(OwnersAlone) => OWNERS_ALONE,
            None => self.files.mode(),
        };
        put(self.files.clone(), path, parts, opts.mode, rights).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Upload {
            path: self.inner.path_to_filesystem(location)?,
            files: self.files.clone(),
            parts: Vec::new(),
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
        let (inner, files) = (self.inner.clone(), self.files.clone());
        locations
            .ready_chunks(REMOVALS)
            .then(move |chunk| remove(inner.clone(), files.clone(), chunk))
            .flat_map(futures::stream::iter)
            .boxed()
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
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        let bytes = self.inner.get(from).await?.bytes().await?;
        self.put_opts(to, bytes.into(), mode.into()).await?;
        Ok(())
    }
}

/// An upload in parts. They are kept in memory until it is complete, because then the object is
/// written like any other; only checkpoints of tables may come in parts.
#[derive(Debug)]
struct Upload {
    path: PathBuf,
    files: Arc<DurableFiles>,
    parts: Vec<Bytes>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.extend(data);
        futures::future::ready(Ok(())).boxed()
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let parts = std::mem::take(&mut self.parts);
        let (files, path) = (self.files.clone(), self.path.clone());
        let rights = files.mode();
        put(files, path, parts, PutMode::Overwrite, rights).await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.parts.clear();
        Ok(())
    }
}
