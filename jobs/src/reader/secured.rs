//! How processes of one storage know each other: by a secret that lies in it, because whoever reads the
//! storage reads everything; and by the fingerprints of certificates that daemons make known there, so
//! that no name has to be vouched for by anybody else.

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_shared::{CreateOutcome, Error, Ids, Result, Storage, layout};
use object_store::path::Path;
use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::reader::presence::Address;

/// What the secret begins with.
const PREFIX: &str = "abs_";

/// The secret of a storage.
#[derive(Clone)]
pub struct StorageSecret(String);

impl std::fmt::Debug for StorageSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StorageSecret")
    }
}

impl StorageSecret {
    /// The secret of a storage, if it has one.
    ///
    /// # Errors
    /// Those of the storage; `Corrupt` for one that is cut off.
    pub async fn find(storage: &Storage) -> Result<Option<Self>> {
        let path = Path::from(layout::DAEMONS_SECRET);
        let Some(body) = storage.get(&path).await? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        match text.starts_with(PREFIX) && text.len() > 60 {
            true => Ok(Some(Self(text))),
            false => Err(Error::Corrupt(format!(
                "`{path}` is no secret; remove it, and start the daemons anew"
            ))),
        }
    }

    /// The secret of a storage, made where it has none.
    ///
    /// # Errors
    /// As [`StorageSecret::find`].
    pub async fn of(storage: &Storage) -> Result<Self> {
        if let Some(found) = Self::find(storage).await? {
            return Ok(found);
        }
        // 244 random bits: two numbers of 122.
        let random =
            [Ids::default().fresh(), Ids::default().fresh()].map(|u| u.simple().to_string());
        let text = format!("{PREFIX}{}", random.concat());
        let path = Path::from(layout::DAEMONS_SECRET);
        match storage.create_for_owner(&path, text.clone()).await? {
            CreateOutcome::Created => Ok(Self(text)),
            CreateOutcome::Exists => Self::find(storage).await?.ok_or_else(|| {
                Error::Conflict(format!("`{path}` was removed meanwhile; try again"))
            }),
        }
    }

    /// The one that the daemons at these addresses want to be shown, if any of them does.
    ///
    /// # Errors
    /// As [`StorageSecret::find`].
    pub(crate) async fn wanted(storage: &Storage, known: &[Address]) -> Result<Option<Self>> {
        match known.iter().any(|address| address.has_users) {
            true => Self::find(storage).await,
            false => Ok(None),
        }
    }

    /// Whether a text is the secret. The time that this takes tells nothing: digests are compared.
    pub fn is(&self, text: &str) -> bool {
        Sha256::digest(text) == Sha256::digest(&self.0)
    }

    /// The text, to be shown to a daemon of the storage.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// The certificates that daemons of a storage have made known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fingerprints(Arc<RwLock<BTreeSet<String>>>);

impl Fingerprints {
    /// Those that count from now on.
    pub(crate) fn set(&self, known: &[Address]) {
        let fingerprints = known.iter().map(|address| address.certificate.clone());
        *self.0.write() = fingerprints.filter(|f| !f.is_empty()).collect();
    }

    /// How a client of these daemons encrypts.
    ///
    /// # Errors
    /// `Internal` where no encryption can be set up.
    pub(crate) fn client(&self) -> Result<ClientConfig> {
        let provider = Arc::new(default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Internal(format!("TLS: {e}")))?;
        let verifier = OfStorage {
            known: self.clone(),
            provider,
        };
        let config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        Ok(config.with_no_client_auth())
    }
}

/// Takes the certificates that lie in the storage, and no others.
#[derive(Debug)]
struct OfStorage {
    known: Fingerprints,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OfStorage {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let fingerprint = hex::encode(Sha256::digest(end_entity));
        match self.known.0.read().contains(&fingerprint) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_storage_has_one_secret() -> Result<()> {
        let dir = tempfile::tempdir().map_err(|e| Error::io("a folder", e))?;
        let storage = Storage::folder(dir.path())?;
        assert!(StorageSecret::find(&storage).await?.is_none());
        let (one, other) =
            tokio::try_join!(StorageSecret::of(&storage), StorageSecret::of(&storage))?;
        assert!(one.is(other.text()) && !one.is("") && !one.is(&format!("{}x", one.text())));
        let path = Path::from(layout::DAEMONS_SECRET);
        storage.put(&path, b"abs_".to_vec()).await?;
        let found = StorageSecret::find(&storage).await;
        assert!(matches!(found, Err(Error::Corrupt(_))));
        Ok(())
    }
}
