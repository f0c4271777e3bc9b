//! How processes of one storage know each other: by a secret that lies in it, because whoever reads the
//! storage reads everything; and by the fingerprints of certificates that daemons make known there, so
//! that no name has to be vouched for by anybody else.

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_shared::{Error, Result, Storage, StorageSecret};
use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::reader::presence::Address;

/// The storage's secret, where the daemons at these addresses want to be shown it.
///
/// # Errors
/// As [`StorageSecret::find`].
pub(crate) async fn wanted_secret(
    storage: &Storage,
    known: &[Address],
) -> Result<Option<StorageSecret>> {
    match known.iter().any(|address| address.has_users) {
        true => StorageSecret::find(storage).await,
        false => Ok(None),
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
