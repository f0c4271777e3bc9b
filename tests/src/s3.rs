//! An S3 server for tests: `s3s-fs` on a folder, behind HTTP on a free loopback port. It keeps a
//! lock for each key, because `s3s-fs` alone checks `If-None-Match` and writes later; it counts what
//! it is asked; and it fails as it is told to.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_shared::settings::StorageSettings;
use anabranch_shared::{RequestKind, Storage};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

mod control;
mod faults;

pub use control::{Asked, Control};
use faults::Faults;
pub use faults::{Fault, Rule};

/// The access key that the server knows.
pub const ACCESS_KEY: &str = "anabranch";
/// Its secret.
pub const SECRET_KEY: &str = "anabranch-secret";
/// The bucket that is there from the start.
pub const BUCKET: &str = "tests";

/// Locks that keys share; a key always has the same.
const LOCKS: usize = 1_024;

/// Whether two writers of one key wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// Each key has a lock: `If-None-Match: *` holds under a race.
    PerKey,
    /// None, as `s3s-fs` is: several writers win.
    None,
}

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct S3Server {
    endpoint: String,
    root: PathBuf,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What all connections share.
struct Shared {
    root: PathBuf,
    service: S3Service,
    locks: Option<Vec<tokio::sync::Mutex<()>>>,
    faults: Faults,
    asked: Asked,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

/// The environment of those who use the server: its keys, and short patience.
pub fn environment() -> Vec<(String, String)> {
    let variables = [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_TIMEOUT", "3 seconds"),
    ];
    variables.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

impl S3Server {
    /// Starts a server on a folder, whose sub-folders are buckets.
    pub fn start(root: &Path, locking: Locking) -> anyhow::Result<Self> {
        Self::start_at(root, 0, locking)
    }

    /// As [`S3Server::start`], on a port of its own choice where `port` is 0.
    pub fn start_at(root: &Path, port: u16, locking: Locking) -> anyhow::Result<Self> {
        std::fs::create_dir_all(root.join(BUCKET))?;
        let files = FileSystem::new(root).map_err(|e| anyhow::anyhow!("{e:?}"))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let locks = || (0..LOCKS).map(|_| tokio::sync::Mutex::default()).collect();
        let shared = Arc::new(Shared {
            root: root.to_path_buf(),
            service: builder.build(),
            locks: (locking == Locking::PerKey).then(locks),
            faults: Faults::default(),
            asked: Asked::default(),
        });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (stop, stopped) = oneshot::channel();
        // Threads of its own: it answers also while a test's threads are busy.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let of_thread = shared.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, of_thread) => {
                        if let Err(e) = served {
                            eprintln!("the S3 server ended: {e}");
                        }
                    }
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Ok(Self {
            endpoint,
            root: root.to_path_buf(),
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The server's URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The folder of the server's bucket.
    pub fn bucket_folder(&self) -> PathBuf {
        self.root.join(BUCKET)
    }

    /// What it was asked.
    pub fn asked(&self) -> &Asked {
        &self.shared.asked
    }

    /// Fails by these rules from now on; none means not at all.
    pub fn fail(&self, rules: Vec<Rule>) {
        self.shared.faults.set(rules);
    }

    /// How often each kind of fault was injected so far.
    pub fn failed(&self) -> Vec<(Fault, u64)> {
        self.shared.faults.injected()
    }

    /// Lines of `[storage]` for a project below a prefix of the bucket, without `url`.
    pub fn settings_lines(&self) -> String {
        format!("endpoint = \"{}\"", self.endpoint)
    }

    /// A storage below a prefix of the bucket.
    pub fn storage(&self, prefix: &str) -> anyhow::Result<Storage> {
        let settings = bucket_settings(&format!("{BUCKET}/{prefix}"), &self.endpoint);
        Ok(Storage::open(&settings, Path::new("."), environment())?)
    }
}

/// Settings of a storage in a bucket: `place` is the bucket with a prefix.
pub fn bucket_settings(place: &str, endpoint: &str) -> StorageSettings {
    StorageSettings {
        url: format!("s3://{place}"),
        endpoint: Some(endpoint.to_owned()),
        region: None,
        path_style: None,
        grace: std::time::Duration::from_secs(3_600),
        orphan_grace: std::time::Duration::from_secs(86_400),
        history_for: None,
        compact_below_bytes: None,
        compact_to_bytes: 1,
        mode: 0o640,
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Fails where the server has ended by itself.
            stop.send(()).ok();
        }
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let shared = shared.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(shared.clone(), request));
            let builder = Builder::new(TokioExecutor::new());
            // A connection that breaks is what clients must live with.
            builder
                .serve_connection(TokioIo::new(socket), answer)
                .await
                .ok();
        });
    }
}

/// Answers one request, or ends its connection by an error.
async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
    if let Some(answer) = control::control(&request) {
        return control::applied(&shared, answer, request).await;
    }
    let kind = kind(&request);
    let bucket = request.uri().path().split('/').nth(1).unwrap_or_default();
    if !shared.root.join(bucket).is_dir() {
        // `s3s-fs` makes a bucket that is absent.
        return Ok(faults::refusal(404, "NoSuchBucket"));
    }
    shared.asked.count(kind);
    let key = request.uri().path().to_owned();
    let Some(fault) = shared.faults.choose(request.method(), &key) else {
        return shared.apply(request.map(Body::from)).await;
    };
    match fault {
        Fault::Error500 => Ok(faults::refusal(500, "InternalError")),
        Fault::SlowDown => Ok(faults::refusal(503, "SlowDown")),
        Fault::DropBefore => anyhow::bail!("dropped before it was done"),
        Fault::Silent => std::future::pending().await,
        Fault::DropAfter => {
            let done = shared.apply(request.map(Body::from)).await?.status();
            anyhow::bail!("dropped after it was done: {done}")
        }
        Fault::SilentAfter => {
            shared.apply(request.map(Body::from)).await?;
            std::future::pending().await
        }
        Fault::Late(delay) => {
            let request = faults::whole(request).await?;
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                shared.apply(request).await.map(|answer| answer.status())
            });
            anyhow::bail!("dropped, and done later")
        }
    }
}

impl Shared {
    async fn apply(&self, request: Request<Body>) -> anyhow::Result<Response<Body>> {
        let writes = *request.method() != Method::GET && *request.method() != Method::HEAD;
        let _guard = match &self.locks {
            Some(locks) if writes => {
                let mut hasher = DefaultHasher::new();
                request.uri().path().hash(&mut hasher);
                let index = hasher.finish() % locks.len() as u64;
                match locks.get(usize::try_from(index)?) {
                    Some(lock) => Some(lock.lock().await),
                    None => None,
                }
            }
            _ => None,
        };
        let answered = self.service.call(request).await;
        answered.map_err(|e| anyhow::anyhow!("{e:?}"))
    }
}

fn kind(request: &Request<Incoming>) -> RequestKind {
    let query = request.uri().query().unwrap_or_default();
    let asks = |name: &str| query.split('&').any(|p| p.split('=').next() == Some(name));
    match *request.method() {
        Method::HEAD => RequestKind::Head,
        Method::GET if asks("list-type") => RequestKind::List,
        Method::GET => RequestKind::Get,
        Method::DELETE => RequestKind::Delete,
        Method::POST if asks("delete") => RequestKind::Delete,
        Method::PUT if request.headers().contains_key("x-amz-copy-source") => RequestKind::Copy,
        Method::PUT if request.headers().contains_key("if-none-match") => RequestKind::PutIfAbsent,
        _ => RequestKind::Put,
    }
}
