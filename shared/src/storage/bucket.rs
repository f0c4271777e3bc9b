//! A bucket of an S3 server as a store whose puts end in time: large objects are sent in parts, and a
//! put-if-absent is given up when nobody answers. Everything else is the client's.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
};

/// Larger objects are sent in parts of this size, so that a part and not the whole is what may time
/// out and is repeated.
const PART_BYTES: usize = 16 << 20;

/// Parts that are sent side by side.
const PARTS_AT_ONCE: usize = 4;

/// A put-if-absent is given up after so long: its objects are small, and its sender can find out what
/// became of it.
const CREATE_WITHIN: Duration = Duration::from_secs(15);

/// The bucket, and the server that it lies on.
#[derive(Debug)]
pub(super) struct Bucket {
    inner: Arc<dyn ObjectStore>,
    pub(super) name: String,
    /// For people and as a key: scheme and host, or AWS and its region.
    pub(super) server: String,
}

impl Bucket {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, name: String, server: String) -> Self {
        Self {
            inner,
            name,
            server,
        }
    }

    async fn create(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        let put = self.inner.put_opts(location, payload, opts);
        match tokio::time::timeout(CREATE_WITHIN, put).await {
            Ok(put) => put,
            Err(_) => Err(object_store::Error::Generic {
                store: "S3",
                source: format!(
                    "`{location}`: the storage has not answered for {} s; whether the object is there is not known",
                    CREATE_WITHIN.as_secs()
                )
                .into(),
            }),
        }
    }

    async fn put_in_parts(
        &self,
        location: &Path,
        payload: PutPayload,
    ) -> object_store::Result<PutResult> {
        let mut upload = self.inner.put_multipart(location).await?;
        let parts: Vec<_> = parts(payload, PART_BYTES)
            .into_iter()
            .map(|part| upload.put_part(part))
            .collect();
        let sent: Result<Vec<()>, _> = futures::stream::iter(parts)
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect()
            .await;
        let done = match sent {
            Ok(_) => upload.complete().await,
            Err(e) => Err(e),
        };
        if done.is_err()
            && let Err(e) = upload.abort().await
        {
            tracing::warn!(%location, error = %e, "parts of an object that was not written may stay in the bucket");
        }
        done
    }
}

/// Cuts a body into parts of one size; the last may be smaller.
pub(super) fn parts(body: PutPayload, size: usize) -> Vec<PutPayload> {
    let (mut parts, mut part, mut room) = (Vec::new(), Vec::<Bytes>::new(), size);
    for mut bytes in body {
        while !bytes.is_empty() {
            let taken = bytes.split_to(room.min(bytes.len()));
            room -= taken.len();
            part.push(taken);
            if room == 0 {
                parts.push(std::mem::take(&mut part).into_iter().collect());
                room = size;
            }
        }
    }
    if !part.is_empty() {
        parts.push(part.into_iter().collect());
    }
    parts
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        let is_large = payload.content_length() > 2 * PART_BYTES;
        match opts.mode {
            PutMode::Create => self.create(location, payload, opts).await,
            PutMode::Overwrite if is_large => self.put_in_parts(location, payload).await,
            _ => self.inner.put_opts(location, payload, opts).await,
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
