//! What an ingest reads: a local file, standard input, or what a URL names, which is downloaded to a
//! temporary file first. So its SHA-256 is known before the first fact lands, and a connection that
//! breaks lands nothing.

use std::io::Write;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::{Error, Result, blocking, without_passwords};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{
    ClientConfigKey, ClientOptions, GetResult, ObjectStore, ObjectStoreExt, RetryConfig,
};
use reqwest::Url;
use tempfile::TempDir;

/// How often and how long a request is tried again that fails in a way that may pass.
const RETRIES: usize = 3;
const RETRY_FOR: Duration = Duration::from_secs(30);

/// A download in which nothing comes for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// The bound of a whole download: none that matters, because [`SILENCE`] is the one that counts.
const LONGEST: &str = "30 days";

/// A file to be read.
#[derive(Debug)]
pub(super) struct Input {
    /// What to call it: the path, or the URL without a password.
    pub(super) name: String,
    /// Where its content is; none for standard input.
    pub(super) path: Option<PathBuf>,
    _downloaded: Option<TempDir>,
}

impl Input {
    /// A local file, or `-`.
    pub(super) fn local(file: &str) -> Self {
        Self {
            name: file.to_owned(),
            path: (file != "-").then(|| file.into()),
            _downloaded: None,
        }
    }

    /// The same as a file that can be read twice: standard input is copied to a temporary one.
    pub(super) async fn spooled(self) -> Result<Self> {
        if self.path.is_some() {
            return Ok(self);
        }
        let copied = blocking(|| {
            let dir = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
            let path = dir.path().join("input");
            let mut file = std::fs::File::create(&path).map_err(|e| Error::io(&path, e))?;
            let mut input = std::io::stdin().lock();
            std::io::copy(&mut input, &mut file).map_err(|e| Error::io(&path, e))?;
            Ok((dir, path))
        });
        let (dir, path) = copied.await?;
        Ok(Self {
            name: "standard input".to_owned(),
            path: Some(path),
            _downloaded: Some(dir),
        })
    }
}

/// Whether an argument is a URL.
pub(super) fn is_url(argument: &str) -> bool {
    let scheme = argument.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|s| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// Opens what a URL names.
///
/// # Errors
/// `Invalid` for a URL of another kind, `NotFound` where nothing is there, `Unavailable` where the
/// server does not answer or the connection breaks.
pub(super) async fn open(text: &str, progress: bool) -> Result<Input> {
    let url = Url::parse(text)
        .map_err(|e| Error::Invalid(format!("`{}` is no URL: {e}", shown_unread(text))))?;
    let name = shown(&url);
    check(&url, &name)?;
    if url.scheme() == "file" {
        let path = url.to_file_path().map_err(|()| {
            Error::Invalid(format!(
                "`{name}` names no local file; write `file:///path/to/file`"
            ))
        })?;
        let _downloaded = None;
        let path = Some(path);
        return Ok(Input {
            name,
            path,
            _downloaded,
        });
    }
    let (store, path) = store(&url, &name)?;
    let found = store.get(&path).await.map_err(|e| failed(&name, e))?;
    let dir = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    let file = dir.path().join(path.filename().unwrap_or("download"));
    download(&name, found, &file, progress).await?;
    Ok(Input {
        name,
        path: Some(file),
        _downloaded: Some(dir),
    })
}

/// The URL for messages and for dead letters: without user and password.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs that can't have either.
    url.set_username("").ok();
    url.set_password(None).ok();
    url.to_string()
}

/// The same for what can't be read as a URL, where a password may hold any character.
fn shown_unread(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, behind))) => format!("{scheme}://…@{behind}"),
        _ => text.to_owned(),
    }
}

fn check(url: &Url, name: &str) -> Result<()> {
    let wrong = if !matches!(url.scheme(), "file" | "http" | "https" | "s3") {
        format!(
            "`{}://` is not supported; use `file://`, `http://`, `https://` or `s3://`",
            url.scheme()
        )
    } else if url.path().contains('*') {
        "globs are for local files only; name each file".to_owned()
    } else if url.query().is_some() || url.fragment().is_some() {
        "what follows `?` or `#` would not be sent; download it yourself, for example `curl URL | anabranch ingest TOPIC - --id NAME`".to_owned()
    } else if url.path().ends_with('/') || url.path().is_empty() {
        "it names no file".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Invalid(format!("`{name}`: {wrong}")))
}

fn store(url: &Url, name: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let retry = RetryConfig {
        max_retries: RETRIES,
        retry_timeout: RETRY_FOR,
        ..Default::default()
    };
    let invalid = |e: object_store::Error| {
        Error::Invalid(format!("`{name}`: {}", without_passwords(&e.to_string())))
    };
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        "s3" => Arc::new(
            AmazonS3Builder::from_env()
                .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), LONGEST)
                .with_url(url.as_str())
                .with_retry(retry)
                .build()
                .map_err(invalid)?,
        ),
        _ => {
            let options = ClientOptions::new().with_allow_http(url.scheme() == "http");
            let mut server = url.clone();
            server.set_path("");
            Arc::new(
                HttpBuilder::new()
                    .with_url(server)
                    .with_client_options(options.with_timeout_disabled())
                    .with_retry(retry)
                    .build()
                    .map_err(invalid)?,
            )
        }
    };
    let path =
        Path::from_url_path(url.path()).map_err(|e| Error::Invalid(format!("`{name}`: {e}")))?;
    Ok((store, path))
}

fn failed(name: &str, e: object_store::Error) -> Error {
    match e {
        object_store::Error::NotFound { .. } => {
            Error::NotFound(format!("`{name}`: the server has no such file"))
        }
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => Error::Invalid(format!(
            "`{name}`: access was refused; check the credentials in the environment: {}",
            without_passwords(&e.to_string())
        )),
        e => Error::Unavailable(format!(
            "`{name}` can't be downloaded: {}",
            without_passwords(&e.to_string())
        )),
    }
}

async fn download(name: &str, found: GetResult, file: &FsPath, progress: bool) -> Result<()> {
    let size = found.meta.size;
    let bar = match progress {
        true => ProgressBar::new(size).with_finish(ProgressFinish::AndClear),
        false => ProgressBar::hidden(),
    };
    let style = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(format!("downloading {name}"));
    let mut written = 0;
    let mut out = std::fs::File::create(file).map_err(|e| Error::io(file, e))?;
    let mut stream = found.into_stream();
    loop {
        let next = tokio::time::timeout(SILENCE, stream.next()).await;
        let next = next.map_err(|_| {
            Error::Unavailable(format!(
                "`{name}` can't be downloaded: nothing came for {} s",
                SILENCE.as_secs()
            ))
        })?;
        let Some(bytes) = next else { break };
        let bytes = bytes.map_err(|e| failed(name, e))?;
        out.write_all(&bytes).map_err(|e| Error::io(file, e))?;
        written += bytes.len() as u64;
        bar.set_position(written);
    }
    if written != size {
        return Err(Error::Unavailable(format!(
            "`{name}` can't be downloaded: the connection ended after {written} of {size} bytes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
