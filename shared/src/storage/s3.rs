//! Opens an S3 bucket as a store: which server, which region, whose keys, and how long it may take
//! to answer. Keys come from the environment alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};

use crate::settings::StorageSettings;
use crate::{Error, Result};

/// How long one request may take in all; `AWS_TIMEOUT` says otherwise.
const TIMEOUT: &str = "60 seconds";
/// How long a connection may take; `AWS_CONNECT_TIMEOUT` says otherwise.
const CONNECT_TIMEOUT: &str = "5 seconds";
/// How often a request is repeated, and for how long at most: what waits for the answer has its own
/// way to try again.
const RETRIES: usize = 6;
const RETRY_FOR: Duration = Duration::from_secs(20);
const BACKOFF: BackoffConfig = BackoffConfig {
    init_backoff: Duration::from_millis(50),
    max_backoff: Duration::from_secs(3),
    base: 2.0,
};

/// Variables any of which says where keys come from.
const KEY_SOURCES: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    // That of the machine's role, which nobody answers at elsewhere: it is never guessed.
    "AWS_METADATA_ENDPOINT",
];

/// Variables of the environment, by name.
pub(super) type Variables = BTreeMap<String, String>;

/// A client of a bucket, and what server it lies on.
pub(super) struct Opened {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) name: String,
    /// For people and as a key: scheme and host, or AWS and its region.
    pub(super) server: String,
}

/// Opens `s3://BUCKET/PREFIX`. Nothing is asked of the server yet.
///
/// # Errors
/// `Invalid` where the bucket, the prefix or the keys are missing or can't be used.
pub(super) fn open(settings: &StorageSettings, variables: &Variables) -> Result<Opened> {
    let url = &settings.url;
    let rest = url.strip_prefix("s3://").unwrap_or(url);
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let wrong = |why: String| Error::Invalid(format!("`url` in `[storage]` = `{url}`: {why}"));
    if name.is_empty() {
        return Err(wrong(
            "the bucket is missing; write `s3://BUCKET/PREFIX`".into(),
        ));
    }
    let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|e| wrong(e.to_string()))?;
    check_keys(url, variables)?;
    let set = |name: &str| variables.get(name).filter(|v| !v.is_empty());

    let endpoint = settings.endpoint.clone().or_else(|| {
        let written = set("AWS_ENDPOINT_URL_S3").or_else(|| set("AWS_ENDPOINT_URL"));
        let written = written.or_else(|| set("AWS_ENDPOINT"));
        written.map(|e| e.trim_end_matches('/').to_owned())
    });
    if let Some(endpoint) = &endpoint
        && !["http://", "https://"]
            .iter()
            .any(|s| endpoint.starts_with(s))
    {
        return Err(Error::Invalid(format!(
            "endpoint `{endpoint}`: write a URL such as `https://s3.example.org`"
        )));
    }
    let region = settings.region.clone().or_else(|| {
        let written = set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION"));
        written.cloned()
    });
    let region = region.unwrap_or_else(|| "us-east-1".into());
    let path_style = settings.path_style.unwrap_or(endpoint.is_some());

    let mut builder = AmazonS3Builder::new()
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), TIMEOUT)
        .with_config(
            AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout),
            CONNECT_TIMEOUT,
        );
    for (name, value) in variables.iter().filter(|(_, value)| !value.is_empty()) {
        // Decided above, whatever else the environment says.
        if name.starts_with("AWS_ENDPOINT_URL") && name != "AWS_ENDPOINT_URL_STS" {
            continue;
        }
        if name.starts_with("AWS_")
            && let Ok(key) = name.to_ascii_lowercase().parse()
        {
            builder = builder.with_config(key, value);
        }
    }
    builder = builder
        .with_bucket_name(name)
        .with_region(&region)
        .with_virtual_hosted_style_request(!path_style)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(RetryConfig {
            backoff: BACKOFF,
            max_retries: RETRIES,
            retry_timeout: RETRY_FOR,
        });
    if let Some(endpoint) = &endpoint {
        // Who writes `http://` means it; without a scheme it is never assumed.
        builder = builder.with_config(
            AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp),
            endpoint.starts_with("http://").to_string(),
        );
        builder = builder.with_endpoint(match path_style {
            true => endpoint.clone(),
            false => with_bucket_in_host(endpoint, name),
        });
    }
    let store = builder.build().map_err(|e| wrong(e.to_string()))?;
    let store: Arc<dyn ObjectStore> = match prefix.as_ref().is_empty() {
        true => Arc::new(store),
        false => Arc::new(PrefixStore::new(store, prefix)),
    };
    Ok(Opened {
        store,
        name: name.to_owned(),
        server: endpoint.unwrap_or_else(|| format!("AWS, region {region}")),
    })
}

/// Without keys the client would look for those of a machine's role, for a minute and more.
fn check_keys(url: &str, variables: &Variables) -> Result<()> {
    let set = |name: &str| variables.get(name).is_some_and(|v| !v.is_empty());
    if set("AWS_ACCESS_KEY_ID") != set("AWS_SECRET_ACCESS_KEY") {
        return Err(Error::Invalid(format!(
            "`{url}`: of `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` only one is in the environment; set both"
        )));
    }
    let skipped = variables
        .get("AWS_SKIP_SIGNATURE")
        .is_some_and(|v| v == "true");
    if skipped || KEY_SOURCES.iter().any(|name| set(name)) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "`{url}`: no keys in the environment; set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (or, for the role of the machine that this runs on, `AWS_METADATA_ENDPOINT=http://169.254.169.254`)"
    )))
}

fn with_bucket_in_host(endpoint: &str, bucket: &str) -> String {
    endpoint.replacen("://", &format!("://{bucket}."), 1)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn settings(url: &str) -> StorageSettings {
        StorageSettings {
            url: url.into(),
            endpoint: Some("http://127.0.0.1:1".into()),
            region: None,
            path_style: None,
            grace: Duration::from_secs(1),
            orphan_grace: Duration::from_secs(1),
            history_for: None,
            compact_below_bytes: None,
            compact_to_bytes: 1,
            mode: 0o640,
        }
    }

    fn keys() -> Variables {
        [
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
    }

    fn refused(settings: &StorageSettings, variables: &Variables) -> String {
        let error = open(settings, variables).err().map(|e| e.to_string());
        error.unwrap_or_default()
    }

    #[test]
    fn what_is_missing_is_named() {
        let no_bucket = refused(&settings("s3:///prefix"), &keys());
        assert!(no_bucket.contains("the bucket is missing"), "{no_bucket}");
        let no_keys = refused(&settings("s3://b/p"), &Variables::new());
        assert!(no_keys.contains("set `AWS_ACCESS_KEY_ID` and"), "{no_keys}");
        let mut half = keys();
        half.remove("AWS_ACCESS_KEY_ID");
        let half = refused(&settings("s3://b/p"), &half);
        assert!(half.contains("only one is in the environment"), "{half}");
        assert!(!half.contains("hunter2"), "{half}");
        let odd = refused(&settings("s3://b/a//b"), &keys());
        assert!(odd.contains("`url` in `[storage]`"), "{odd}");
    }

    #[test]
    fn settings_come_before_the_environment() {
        let mut variables = keys();
        variables.insert("AWS_ENDPOINT_URL".into(), "http://127.0.0.1:2/".into());
        variables.insert("AWS_REGION".into(), "eu-west-1".into());
        let mut with = settings("s3://b/p");
        let server = |s: &StorageSettings, v: &Variables| open(s, v).map(|b| b.server).unwrap();
        assert_eq!(server(&with, &variables), "http://127.0.0.1:1");
        with.endpoint = None;
        assert_eq!(server(&with, &variables), "http://127.0.0.1:2");
        variables.remove("AWS_ENDPOINT_URL");
        assert_eq!(server(&with, &variables), "AWS, region eu-west-1");
        with.region = Some("eu-north-1".into());
        assert_eq!(server(&with, &variables), "AWS, region eu-north-1");
    }

    #[test]
    fn the_bucket_may_be_in_the_host() {
        let host = with_bucket_in_host("https://s3.example.org:9000", "b");
        assert_eq!(host, "https://b.s3.example.org:9000");
    }
}
