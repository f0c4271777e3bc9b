//! The encryption of doors: the daemon's certificate and key, read again as their files change.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::settings::TlsFiles;
use anabranch_shared::{Error, Result, blocking};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use ring::digest::{self, Algorithm, SHA256, SHA384, SHA512};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;

/// How often it is looked whether the files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long a connection may take to agree on its keys.
const WITHIN: Duration = Duration::from_secs(10);

/// What the first byte of an encrypted connection is (RFC 8446, section 5.1: a handshake).
const HANDSHAKE: u8 = 22;

/// Which protocol is spoken over an encrypted connection, as its client may ask (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// PostgreSQL's.
    Postgres,
    /// Arrow Flight SQL: HTTP/2.
    Flight,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Http, Self::Postgres, Self::Flight];

    fn name(self) -> &'static [u8] {
        match self {
            Self::Http => b"http/1.1",
            Self::Postgres => b"postgresql",
            Self::Flight => b"h2",
        }
    }
}

/// The daemon's certificate, as its files say now.
#[derive(Debug)]
pub struct ServerTls {
    files: TlsFiles,
    now: ArcSwap<Loaded>,
    trouble: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Loaded {
    bytes: [Vec<u8>; 2],
    configs: [Arc<ServerConfig>; 3],
    fingerprint: String,
    end_point: Option<Vec<u8>>,
}

impl Loaded {
    fn read(files: &TlsFiles) -> Result<Self> {
        let read = |path: &Path, setting: &str| {
            std::fs::read(path).map_err(|e| {
                Error::Invalid(format!(
                    "`{}` (`{setting}` in `[tls]`): {e}",
                    path.display()
                ))
            })
        };
        let certificate = read(&files.certificate, "certificate")?;
        let key = read(&files.key, "key")?;
        let wrong = |path: &Path, why: &dyn std::fmt::Display| {
            Error::Invalid(format!("`{}` in `[tls]`: {why}", path.display()))
        };
        let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|e| wrong(&files.certificate, &e))?;
        let Some(first) = chain.first() else {
            return Err(wrong(&files.certificate, &"no certificate in PEM is in it"));
        };
        let (fingerprint, end_point) = (
            hex::encode(digest::digest(&SHA256, first)),
            end_point(first),
        );
        let secret = PrivateKeyDer::from_pem_slice(&key);
        let secret = secret.map_err(|e| wrong(&files.key, &format!("no key is read: {e}")))?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                let builder = builder.with_no_client_auth();
                builder.with_single_cert(chain.clone(), secret)
            })
            .map_err(|e| wrong(&files.key, &format!("it is no key of the certificate: {e}")))?;
        let configs = Protocol::ALL.map(|protocol| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.name().to_vec()];
            Arc::new(config)
        });
        Ok(Self {
            bytes: [certificate, key],
            configs,
            fingerprint,
            end_point,
        })
    }
}

/// The digest by which a certificate is an end point of a connection (RFC 5929, section 4.1): by the
/// algorithm of its signature, where that has one.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    const OIDS: [(&str, &Algorithm); 8] = [
        // RSA with MD5 and SHA-1: SHA-256 is taken for both.
        ("1.2.840.113549.1.1.4", &SHA256),
        ("1.2.840.113549.1.1.5", &SHA256),
        ("1.2.840.113549.1.1.11", &SHA256),
        ("1.2.840.113549.1.1.12", &SHA384),
        ("1.2.840.113549.1.1.13", &SHA512),
        ("1.2.840.10045.4.3.2", &SHA256),
        ("1.2.840.10045.4.3.3", &SHA384),
        ("1.2.840.10045.4.3.4", &SHA512),
    ];
    let read = Certificate::from_der(certificate).ok()?;
    let oid: ObjectIdentifier = read.signature_algorithm.oid;
    let (_, algorithm) = OIDS.iter().find(|(known, _)| oid.to_string() == *known)?;
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// A connection as it may be: encrypted or not.
pub enum Encrypted {
    /// It is, and this is what its certificate is known by to both ends.
    Yes(Box<TlsStream<TcpStream>>, Option<Vec<u8>>),
    /// Its client speaks without.
    No(TcpStream),
}

impl ServerTls {
    /// The certificate and the key of these files.
    ///
    /// # Errors
    /// `Invalid` where they can't be read or don't belong together.
    pub fn open(files: &TlsFiles) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            now: ArcSwap::from_pointee(Loaded::read(files)?),
            files: files.clone(),
            trouble: Mutex::default(),
        }))
    }

    /// Looks again and again whether the files have changed, until this is dropped. Files that can't be
    /// used change nothing.
    pub async fn keep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let tls = self.clone();
            blocking(move || {
                tls.look();
                Ok(())
            })
            .await
            .ok();
        }
    }

    fn look(&self) {
        let trouble = match Loaded::read(&self.files) {
            Ok(loaded) if loaded.bytes == self.now.load().bytes => None,
            Ok(loaded) => {
                tracing::info!(fingerprint = %loaded.fingerprint, "the certificate has changed");
                self.now.store(Arc::new(loaded));
                None
            }
            Err(e) => Some(format!("the certificate stays as it was: {e}")),
        };
        let mut told = self.trouble.lock();
        if let Some(text) = trouble.as_ref().filter(|_| *told != trouble) {
            tracing::error!("{text}");
        }
        *told = trouble;
    }

    /// Why the files can't be used as they are now, if so.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// The SHA-256 of the certificate, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        self.now.load().fingerprint.clone()
    }

    /// Agrees with a client on the keys of a connection.
    ///
    /// # Errors
    /// Those of the connection and of its client.
    pub async fn encrypt(&self, stream: TcpStream, protocol: Protocol) -> io::Result<Encrypted> {
        let now = self.now.load_full();
        let config = now.configs[protocol as usize].clone();
        let accepting = TlsAcceptor::from(config).accept(stream);
        let stream = tokio::time::timeout(WITHIN, accepting).await??;
        Ok(Encrypted::Yes(Box::new(stream), now.end_point.clone()))
    }

    /// As [`ServerTls::encrypt`], of a client that begins with what it likes.
    ///
    /// # Errors
    /// As [`ServerTls::encrypt`].
    pub async fn accept(&self, stream: TcpStream, protocol: Protocol) -> io::Result<Encrypted> {
        match tokio::time::timeout(WITHIN, begins_encrypted(&stream)).await?? {
            true => self.encrypt(stream, protocol).await,
            false => Ok(Encrypted::No(stream)),
        }
    }
}

/// Whether the client begins with agreeing on keys.
///
/// # Errors
/// Those of the connection.
pub(crate) async fn begins_encrypted(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok(read == 1 && first[0] == HANDSHAKE)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::path::PathBuf;

    use super::*;

    /// Certificate and key, signed by themselves.
    fn pem() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn files(dir: &Path, (certificate, key): &(String, String)) -> TlsFiles {
        let write = |name: &str, text: &str| -> PathBuf {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsFiles {
            certificate: write("server.crt", certificate),
            key: write("server.key", key),
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (pem(), pem());
        let refused = |pair: (&str, &str), part: &str| {
            let pair = (pair.0.to_owned(), pair.1.to_owned());
            let e = ServerTls::open(&files(dir.path(), &pair)).unwrap_err();
            assert!(e.to_string().contains(part), "{e}");
        };
        refused(("", &one.1), "no certificate in PEM");
        refused((&one.0, ""), "no key is read");
        refused((&one.0, &other.1), "no key of the certificate");
        let tls = ServerTls::open(&files(dir.path(), &one)).unwrap();
        let before = tls.fingerprint();
        assert!(
            tls.now
                .load()
                .end_point
                .as_ref()
                .is_some_and(|e| e.len() == 32)
        );
        // A half-written pair is not taken.
        std::fs::write(dir.path().join("server.crt"), &other.0).unwrap();
        tls.look();
        assert!(tls.trouble().unwrap().contains("stays as it was"));
        assert_eq!(tls.fingerprint(), before);
        std::fs::write(dir.path().join("server.key"), &other.1).unwrap();
        tls.look();
        assert_eq!(tls.trouble(), None);
        assert_ne!(tls.fingerprint(), before);
    }

    #[test]
    fn both_may_be_in_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = pem();
        let path = dir.path().join("both.pem");
        std::fs::write(&path, certificate + &key).unwrap();
        let files = TlsFiles {
            certificate: path.clone(),
            key: path,
        };
        ServerTls::open(&files).unwrap();
    }
}
