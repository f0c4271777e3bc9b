//! Secrets of users: how they are made, and what of them is kept. A token is a random number of 256
//! bits behind the id of its entry; a password is a person's. Of both a verifier of SCRAM-SHA-256 is
//! kept (RFC 5802 and RFC 7677), and of a token its SHA-256 besides, by which a bearer is known without
//! the work of a password.

use std::num::NonZeroU32;

use anabranch_shared::{Error, Result};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};
use subtle::ConstantTimeEq;

/// What a token begins with, so that one is known where it should not be.
const PREFIX: &str = "ab_";

/// Bytes of a token's random number.
const TOKEN_BYTES: usize = 32;

/// Bytes of an entry's id.
const ID_BYTES: usize = 6;

/// Bytes of a salt.
const SALT_BYTES: usize = 16;

/// Rounds of PBKDF2, as PostgreSQL has them: its clients compute them at every log-in.
const ITERATIONS: NonZeroU32 = match NonZeroU32::new(4_096) {
    Some(rounds) => rounds,
    None => NonZeroU32::MIN,
};

/// A digest by SHA-256.
pub(super) type Sha256 = [u8; 32];

/// What the secrets of one user have in common, so that one exchange tries all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Salting {
    pub(super) salt: Vec<u8>,
    pub(super) iterations: NonZeroU32,
}

/// What is kept of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verifier {
    pub(super) stored_key: Sha256,
    pub(super) server_key: Sha256,
}

/// Random bytes of the system.
///
/// # Errors
/// `Unavailable` where the system gives none.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| Error::Unavailable("the system gives no random numbers".to_owned()))?;
    Ok(bytes)
}

pub(super) fn sha256(bytes: &[u8]) -> Sha256 {
    fixed(digest::digest(&digest::SHA256, bytes).as_ref())
}

pub(super) fn hmac_sha256(key: &[u8], message: &[u8]) -> Sha256 {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    fixed(hmac::sign(&key, message).as_ref())
}

fn fixed(digest: &[u8]) -> Sha256 {
    let mut fixed = [0; 32];
    fixed.copy_from_slice(digest);
    fixed
}

/// Whether both are equal, in a time that does not tell where they differ.
pub(super) fn same(left: &Sha256, right: &Sha256) -> bool {
    left.ct_eq(right).into()
}

impl Salting {
    /// A new one.
    ///
    /// # Errors
    /// Those of [`random`].
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            salt: random::<SALT_BYTES>()?.to_vec(),
            iterations: ITERATIONS,
        })
    }

    /// The one of a user that there is not: always the same, and made up.
    pub(super) fn of_nobody(decoy: &[u8], name: &str) -> Self {
        let made_up = hmac_sha256(decoy, name.as_bytes());
        Self {
            salt: made_up[..SALT_BYTES].to_vec(),
            iterations: ITERATIONS,
        }
    }
}

impl Verifier {
    /// What is kept of a secret.
    pub(super) fn of(secret: &str, salting: &Salting) -> Self {
        // As PostgreSQL does: what can't be prepared is taken as it is.
        let prepared = stringprep::saslprep(secret).unwrap_or(secret.into());
        let mut salted: Sha256 = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            salting.iterations,
            &salting.salt,
            prepared.as_bytes(),
            &mut salted,
        );
        Self {
            stored_key: sha256(&hmac_sha256(&salted, b"Client Key")),
            server_key: hmac_sha256(&salted, b"Server Key"),
        }
    }
}

/// A new token, with the id of its entry.
///
/// # Errors
/// Those of [`random`].
pub(super) fn token() -> Result<(String, String)> {
    let id = id()?;
    let number = BASE64_URL_SAFE_NO_PAD.encode(random::<TOKEN_BYTES>()?);
    let token = format!("{PREFIX}{id}_{number}");
    Ok((id, token))
}

/// A new id of an entry.
///
/// # Errors
/// Those of [`random`].
pub(super) fn id() -> Result<String> {
    Ok(hex::encode(random::<ID_BYTES>()?))
}

/// The id in a token; none where it is no token.
pub(super) fn id_of(token: &str) -> Option<&str> {
    let (id, number) = token.strip_prefix(PREFIX)?.split_once('_')?;
    (!number.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use base64::prelude::BASE64_STANDARD;

    use super::*;

    /// The example of RFC 7677, section 3: its proof and its signature are of these keys.
    #[test]
    fn a_verifier_is_that_of_the_standard() {
        let salting = Salting {
            salt: BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(),
            iterations: ITERATIONS,
        };
        let verifier = Verifier::of("pencil", &salting);
        let said = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = hmac_sha256(&verifier.server_key, said.as_bytes());
        assert_eq!(
            BASE64_STANDARD.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
        let proof = BASE64_STANDARD
            .decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
            .unwrap();
        let mut key = hmac_sha256(&verifier.stored_key, said.as_bytes());
        key.iter_mut().zip(proof).for_each(|(k, p)| *k ^= p);
        assert_eq!(sha256(&key), verifier.stored_key);
    }

    #[test]
    fn tokens_name_their_entry() {
        let (id, token) = token().unwrap();
        assert_eq!(id_of(&token), Some(id.as_str()));
        assert!(token.len() > 50, "{token}");
        for wrong in ["", "ab_", "ab_x", "ab_x_", "x", "AB_a_b"] {
            assert_eq!(id_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nobody_has_one_salt() {
        let (a, b) = (Salting::of_nobody(b"k", "a"), Salting::of_nobody(b"k", "b"));
        assert_eq!(a, Salting::of_nobody(b"k", "a"));
        assert_ne!(a, b);
        assert_eq!(a.salt.len(), Salting::new().unwrap().salt.len());
    }
}
