//! `GET /console/…`: the console's files, as they lie in `serving/console` but for their comments,
//! compressed once. What they show they ask for as anybody would; they themselves tell nothing, so whoever
//! reaches the daemon gets them.

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
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// A file of the console as it is sent.
struct File {
    content_type: &'static str,
    plain: Vec<u8>,
    gzip: Vec<u8>,
    /// Changes with its content.
    tag: String,
}

impl File {
    fn new(name: &str, bytes: &'static [u8]) -> std::io::Result<Self> {
        let ending = name.rsplit('.').next();
        let is_own = !name.starts_with("vendor/");
        let plain = match (std::str::from_utf8(bytes), ending) {
            (Ok(text), Some("js" | "css")) if is_own => without_comments(text).into_bytes(),
            _ => bytes.to_vec(),
        };
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&plain)?;
        let mut tag = hex::encode(Sha256::digest(&plain));
        tag.truncate(16);
        Ok(Self {
            content_type: match ending {
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
            false => (fixed, content_type, self.plain.clone()).into_response(),
        }
    }
}

/// Code whose lines of comments are empty, so that a browser gets no more than it runs and its errors name the
/// lines of the files here.
fn without_comments(code: &str) -> String {
    let mut is_comment = false;
    let mut kept = String::with_capacity(code.len());
    for line in code.lines() {
        let text = line.trim();
        let begins = text.starts_with("/*");
        if !is_comment && !begins && !text.starts_with("//") {
            kept.push_str(line);
        }
        is_comment = (is_comment || begins) && !text.ends_with("*/");
        kept.push('\n');
    }
    kept
}

macro_rules! files {
    ($($name:literal)*) => {
        &[$(($name, include_bytes!(concat!("../../console/", $name)).as_slice())),*]
    };
}

/// All files, by their paths.
const FILE_BYTES: &[(&str, &[u8])] = files![
    "api.js"
    "app.js"
    "attention.js"
    "boards.js"
    "components/act.js"
    "components/chart.js"
    "components/difference.js"
    "components/editor.js"
    "components/grid.js"
    "components/operation.js"
    "components/panel.js"
    "components/parts.js"
    "components/shell.js"
    "components/table.js"
    "components/tabs.js"
    "console.css"
    "format.js"
    "freshness.js"
    "icon.svg"
    "index.html"
    "json.js"
    "load.js"
    "operations.js"
    "pages/boards.js"
    "pages/changes.js"
    "pages/explore.js"
    "pages/jobs.js"
    "pages/letters.js"
    "pages/now.js"
    "pages/sql.js"
    "pages/system.js"
    "pages/topics.js"
    "pages/views.js"
    "router.js"
    "statement.js"
    "store.js"
    "vendor/preact-htm.module.js"
    "vendor/uPlot.esm.js"
    "vendor/uPlot.min.css"
    "who.js"
];

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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeSet;

    use axum::http::HeaderValue;

    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/console");

    fn walked(folder: &std::path::Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walked(&path, found);
            } else {
                let name = path.strip_prefix(FOLDER).unwrap();
                found.insert(name.to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn each_file_of_the_folder_is_served() {
        let mut found = BTreeSet::new();
        walked(std::path::Path::new(FOLDER), &mut found);
        for kept in ["vendor/LICENSES.md", "vendor/SHA256SUMS"] {
            assert!(found.remove(kept), "{kept}");
        }
        let served = FILE_BYTES.iter().map(|(name, _)| (*name).to_owned());
        assert_eq!(served.collect::<BTreeSet<_>>(), found);
        let own = FILE_BYTES.iter().filter(|(n, _)| !n.starts_with("vendor/"));
        let own = own.map(|(name, _)| files().unwrap()[name].gzip.len());
        let own = own.sum::<usize>();
        assert!(own < 80_000, "{own} bytes, compressed");
    }

    #[test]
    fn comments_stay_here() {
        let code = "// One.\nlet a = 1; // b\n/** Two. */\n  /*\n   * three\n   */\nlet b = 2;\n";
        let kept = "\nlet a = 1; // b\n\n\n\n\nlet b = 2;\n";
        assert_eq!(without_comments(code), kept);
        // None is left open, and none begins within a text of several lines.
        for (name, bytes) in FILE_BYTES.iter().filter(|(n, _)| !n.starts_with("vendor/")) {
            let code = std::str::from_utf8(bytes).unwrap();
            let kept = without_comments(code);
            assert_eq!(kept.lines().count(), code.lines().count(), "{name}");
            let odd = |text: &str| text.matches('`').count() % 2;
            assert_eq!(odd(&kept), odd(code), "{name}");
            assert_eq!(kept.lines().last(), code.lines().last(), "{name}");
            assert!(!kept.trim().is_empty(), "{name}");
        }
    }

    /// What others have published is kept as they did.
    #[test]
    fn files_of_others_are_as_they_were_published() {
        let sums = std::fs::read_to_string(format!("{FOLDER}/vendor/SHA256SUMS")).unwrap();
        let mut listed = BTreeSet::new();
        for line in sums.lines().filter(|line| !line.starts_with('#')) {
            let (sum, name) = line.split_once("  ").unwrap();
            let bytes = std::fs::read(format!("{FOLDER}/vendor/{name}")).unwrap();
            assert_eq!(hex::encode(Sha256::digest(bytes)), sum, "{name}");
            listed.insert(format!("vendor/{name}"));
        }
        let served = FILE_BYTES.iter().map(|(name, _)| (*name).to_owned());
        let of_others = served.filter(|name| name.starts_with("vendor/"));
        assert_eq!(of_others.collect::<BTreeSet<_>>(), listed);
    }

    #[test]
    fn a_file_is_sent_once() {
        let mut headers = HeaderMap::new();
        let first = answer("app.js", &headers);
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()["content-security-policy"], POLICY);
        let tag: HeaderValue = first.headers()[header::ETAG].clone();
        headers.insert(header::IF_NONE_MATCH, tag);
        assert_eq!(
            answer("app.js", &headers).status(),
            StatusCode::NOT_MODIFIED
        );
        assert_eq!(
            answer("../Cargo.toml", &headers).status(),
            StatusCode::NOT_FOUND
        );
    }
}
