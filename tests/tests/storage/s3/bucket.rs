//! Projects on a bucket of the tests' own server, or of moto, and an independent count of what lies
//! in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anabranch_jobs::project::context::Context;
use anabranch_shared::Storage;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, write_project};
use anabranch_tests::s3::{BUCKET, Locking, S3Server, bucket_settings, environment};
use anabranch_tests::skip::skipped;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use tempfile::TempDir;

/// A server with a bucket.
pub(crate) enum Server {
    /// The tests' own, and its folder for as long as it lives.
    Own(
        S3Server,
        #[expect(dead_code, reason = "dropped last")] TempDir,
    ),
    /// moto, a process of Python.
    Moto(Moto),
}

impl Server {
    pub(crate) fn own() -> anyhow::Result<Self> {
        let dir = places::folder()?;
        Ok(Self::Own(
            S3Server::start(dir.path(), Locking::PerKey)?,
            dir,
        ))
    }

    pub(crate) fn endpoint(&self) -> &str {
        match self {
            Self::Own(server, _) => server.endpoint(),
            Self::Moto(moto) => &moto.endpoint,
        }
    }
}

/// A moto server; it is killed when this is dropped.
pub(crate) struct Moto {
    child: Child,
    endpoint: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Moto {
    /// Starts moto with the Python that `ANABRANCH_S3_MOTO` names, and makes the bucket; `None`,
    /// said aloud, where it names none.
    pub(crate) async fn start() -> anyhow::Result<Option<Self>> {
        let Some(python) = std::env::var_os("ANABRANCH_S3_MOTO") else {
            skipped("`ANABRANCH_S3_MOTO` names no Python with moto");
            return Ok(None);
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let serve =
            format!("from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])");
        let child = Command::new(python)
            .args(["-c", &serve])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut moto = Self {
            child,
            endpoint: format!("http://127.0.0.1:{port}"),
        };
        let begun = Instant::now();
        let bucket = format!("{}/{BUCKET}", moto.endpoint);
        loop {
            if let Ok(made) = reqwest::Client::new().put(&bucket).send().await {
                anyhow::ensure!(made.status().is_success(), "moto makes no bucket: {made:?}");
                return Ok(Some(moto));
            }
            if let Some(status) = moto.child.try_wait()? {
                anyhow::bail!("moto ended: {status}");
            }
            anyhow::ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "moto does not answer"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A project whose storage is below a prefix of the bucket.
pub(super) struct Project {
    pub(super) dir: TempDir,
    prefix: String,
    endpoint: String,
}

impl Project {
    pub(super) fn new(server: &Server, prefix: &str, setup: Setup<'_>) -> anyhow::Result<Self> {
        let project = Self {
            dir: places::folder()?,
            prefix: prefix.to_owned(),
            endpoint: server.endpoint().to_owned(),
        };
        project.write(setup)?;
        Ok(project)
    }

    fn write(&self, setup: Setup<'_>) -> anyhow::Result<()> {
        let setup = Setup {
            storage: &format!("s3://{BUCKET}/{}", self.prefix),
            of_storage: &format!("endpoint = \"{}\"", self.endpoint),
            ..setup
        };
        write_project(self.dir.path(), setup)
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The project as this process sees it.
    pub(super) async fn context(&self) -> anyhow::Result<Context> {
        Ok(Context::open_with(self.path(), environment()).await?)
    }

    /// How often each number is in the log: by the entries of its Delta table and the files that
    /// they name, read with nothing of this project's.
    pub(super) async fn count(&self) -> anyhow::Result<BTreeMap<i64, u64>> {
        let store = self.storage()?.store().clone();
        let log = ObjectPath::from("topics/facts/log");
        let mut entries: Vec<_> = store
            .list(Some(&ObjectPath::from(format!("{log}/_delta_log"))))
            .map_ok(|o| o.location)
            .try_collect()
            .await?;
        entries.retain(|e| e.extension() == Some("json"));
        entries.sort();
        let mut files = std::collections::BTreeSet::new();
        for entry in &entries {
            let body = store.get(entry).await?.bytes().await?;
            for line in std::str::from_utf8(&body)?.lines() {
                let action: serde_json::Value = serde_json::from_str(line)?;
                if let Some(path) = action["add"]["path"].as_str() {
                    files.insert(path.to_owned());
                }
                if let Some(path) = action["remove"]["path"].as_str() {
                    files.remove(path);
                }
            }
        }
        let mut found = BTreeMap::new();
        for file in files {
            let body = store
                .get(&ObjectPath::from(format!("{log}/{file}")))
                .await?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(body.bytes().await?)?.build()?;
            for batch in reader {
                let batch = batch?;
                let ids = batch.column_by_name("id");
                let ids = ids.ok_or_else(|| anyhow::anyhow!("`{file}` has no `id`"))?;
                for id in ids.as_primitive::<Int64Type>().values() {
                    *found.entry(*id).or_default() += 1;
                }
            }
        }
        Ok(found)
    }

    pub(super) fn storage(&self) -> anyhow::Result<Storage> {
        let settings = bucket_settings(&format!("{BUCKET}/{}", self.prefix), &self.endpoint);
        Ok(Storage::open(&settings, self.path(), environment())?)
    }
}

/// Checks an independent count: every number that was acknowledged is there, none twice, and none
/// that was not sent.
pub(super) fn check_count(
    what: &str,
    found: &BTreeMap<i64, u64>,
    acknowledged: impl Iterator<Item = i64>,
    sent: i64,
) -> anyhow::Result<()> {
    let doubled: Vec<_> = found.iter().filter(|(_, n)| **n != 1).take(5).collect();
    let lost: Vec<_> = acknowledged
        .filter(|id| !found.contains_key(id))
        .take(5)
        .collect();
    let strange: Vec<_> = found
        .keys()
        .filter(|id| !(0..sent).contains(*id))
        .take(5)
        .collect();
    anyhow::ensure!(
        doubled.is_empty() && lost.is_empty() && strange.is_empty(),
        "{what}: doubled {doubled:?}, lost {lost:?}, never sent {strange:?}"
    );
    Ok(())
}
