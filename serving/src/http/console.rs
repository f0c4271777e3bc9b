//! `GET /console/…`: the console's files, as they lie in `serving/console`, compressed once. What they show
//! they ask for as anybody would; they themselves tell nothing, so whoever reaches the daemon gets them.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::OnceLock;

use anabranch_shared::{Error, Result};
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::error_response;

/// What a page of the console may load and do: nothing of another origin, and nothing written into it.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// A file of the console as it is sent.
struct File {
    content_type: &'static str,
    plain: &'static [u8],
    gzip: Vec<u8>,
    /// Changes with its content.
    tag: String,
}

impl File {
    fn new(name: &str, plain: &'static [u8]) -> std::io::Result<Self> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(plain)?;
        let mut tag = hex::encode(Sha256::digest(plain));
        tag.truncate(16);
        Ok(Self {
            content_type: match name.rsplit('.').next() {
                Some("html") => "text/html; charset=utf-8",
                Some("css") => "text/css; charset=utf-8",
                Some("svg") => "image/svg+xml",
                _ => "text/javascript; charset=utf-8",
            },
            plain,
            gzip: gzip.finish()?,
            tag: format!("\"{tag}\""),
        })
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
        let fixed = [
            (header::ETAG, self.tag.as_str()),
            // It is asked each time whether it is still the same.
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::VARY, "accept-encoding"),
        ];
        if text(header::IF_NONE_MATCH).is_some_and(|known| known.contains(&self.tag)) {
            return (StatusCode::NOT_MODIFIED, fixed).into_response();
        }
        let content_type = [(header::CONTENT_TYPE, self.content_type)];
        match text(header::ACCEPT_ENCODING).is_some_and(|all| all.contains("gzip")) {
            true => {
                let encoding = [(header::CONTENT_ENCODING, "gzip")];
                (fixed, content_type, encoding, self.gzip.clone()).into_response()
            }
            false => (fixed, content_type, self.plain).into_response(),
        }
    }
}

macro_rules! files {
    ($($name:literal)*) => {
        [$(($name, include_bytes!(concat!("../../console/", $name)).as_slice())),*]
    };
}

/// All files, by their paths.
fn files() -> Result<&'static BTreeMap<&'static str, File>> {
    static FILES: OnceLock<Option<BTreeMap<&str, File>>> = OnceLock::new();
    let made = FILES.get_or_init(|| {
        let all = FILE_BYTES.iter();
        let all = all.map(|(name, bytes)| Ok((*name, File::new(name, bytes)?)));
        all.collect::<std::io::Result<_>>().ok()
    });
    let failed = || Error::Internal("the console's files could not be compressed".to_owned());
    made.as_ref().ok_or_else(failed)
}

fn answer(path: &str, headers: &HeaderMap) -> Response {
    let found = files().map(|files| files.get(path));
    match found {
        Ok(Some(file)) => file.answer(headers),
        Ok(None) => error_response(&Error::NotFound(format!(
            "the console has no file `{}`; it begins at `/console/`",
            path.escape_debug()
        ))),
        Err(e) => error_response(&e),
    }
}

/// Where the console is.
pub(super) async fn start() -> Redirect {
    Redirect::temporary("console/")
}

pub(super) async fn index(headers: HeaderMap) -> Response {
    answer("index.html", &headers)
}

pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    answer(&name, &headers)
}

pub(super) async fn file_in_folder(
    Path((folder, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    answer(&format!("{folder}/{name}"), &headers)
}
