//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), with channel binding by
//! `tls-server-end-point` (RFC 5929) where there is encryption. A user may have two secrets at once:
//! both share salt and rounds, so that one exchange tries both.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::secret::{Salting, Verifier, hmac_sha256, same, sha256};

/// The mechanism, and the one with channel binding.
pub(crate) const SCRAM: &str = "SCRAM-SHA-256";
pub(crate) const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Why an exchange ends without a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// What the client says is none of this protocol.
    Malformed(&'static str),
    /// It does not know the secret.
    Wrong,
}

/// What a user's secrets are known by.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(super) salting: Salting,
    /// Each with the id of its entry; none of a user that there is not.
    pub(super) verifiers: Vec<(String, Verifier)>,
}

/// An exchange after the client's first message.
#[derive(Debug)]
pub(crate) struct Exchange {
    known: Known,
    /// What the client's last message has to begin with.
    binding: String,
    /// Both first messages, as they are signed.
    said: String,
    nonce: String,
}

impl Exchange {
    /// Takes the client's first message. Returns what is answered.
    ///
    /// `end_point` is the digest of the certificate where there is encryption and it has one; `nonce`
    /// is random, in printable ASCII without commas.
    pub(crate) fn begin(
        (mechanism, first): (&str, &str),
        known: Known,
        end_point: Option<&[u8]>,
        nonce: &str,
    ) -> Result<(Self, String), Failed> {
        let malformed = Failed::Malformed;
        let (flag, rest) = first.split_once(',').ok_or(malformed(
            "its first message says nothing of channel binding",
        ))?;
        let (authorised, bare) = rest
            .split_once(',')
            .ok_or(malformed("its first message is cut off"))?;
        if !authorised.is_empty() {
            return Err(malformed("it wants to be somebody else"));
        }
        let bound = match (mechanism, flag, end_point) {
            (SCRAM_PLUS, "p=tls-server-end-point", Some(end_point)) => end_point,
            (SCRAM_PLUS, ..) => {
                return Err(malformed(
                    "its channel binding is not `tls-server-end-point`",
                ));
            }
            // It could, and was told that the server can't: somebody is in between.
            (SCRAM, "y", Some(_)) => {
                return Err(malformed(
                    "it was not told that channel binding is possible here",
                ));
            }
            (SCRAM, "n" | "y", _) => &[],
            _ => return Err(malformed("its mechanism is not one that was offered")),
        };
        let header = format!("{flag},{authorised},");
        let data = [header.as_bytes(), bound].concat();
        let mut parts = bare.split(',');
        let name = parts.next().unwrap_or_default();
        if !name.starts_with("n=") {
            return Err(malformed("it wants what is not known here"));
        }
        let theirs = parts.next().and_then(|part| part.strip_prefix("r="));
        let theirs = theirs.filter(|nonce| !nonce.is_empty());
        let theirs = theirs.ok_or(malformed("its first message has no random number"))?;
        let nonce = format!("{theirs}{nonce}");
        let salt = BASE64_STANDARD.encode(&known.salting.salt);
        let answer = format!("r={nonce},s={salt},i={}", known.salting.iterations);
        let exchange = Self {
            said: format!("{bare},{answer}"),
            binding: format!("c={}", BASE64_STANDARD.encode(data)),
            known,
            nonce,
        };
        Ok((exchange, answer))
    }

    /// Takes the client's last message. Returns the id of the secret that it knows, and what is answered.
    pub(crate) fn finish(&self, last: &str) -> Result<(String, String), Failed> {
        let malformed = Failed::Malformed;
        let (without_proof, proof) = last
            .rsplit_once(",p=")
            .ok_or(malformed("its last message has no proof"))?;
        let mut parts = without_proof.split(',');
        if parts.next() != Some(self.binding.as_str()) {
            return Err(malformed("it is bound to another connection"));
        }
        let nonce = parts.next().and_then(|part| part.strip_prefix("r="));
        if nonce != Some(self.nonce.as_str()) {
            return Err(malformed("its last message belongs to another log-in"));
        }
        let proof = BASE64_STANDARD
            .decode(proof)
            .ok()
            .and_then(|proof| <[u8; 32]>::try_from(proof).ok())
            .ok_or(malformed("its proof is no digest"))?;
        let said = format!("{},{without_proof}", self.said);
        let mut found = None;
        for (id, verifier) in &self.known.verifiers {
            let mut key = hmac_sha256(&verifier.stored_key, said.as_bytes());
            key.iter_mut().zip(proof).for_each(|(k, p)| *k ^= p);
            // All of them are tried, so that the time does not tell which.
            if same(&sha256(&key), &verifier.stored_key) && found.is_none() {
                let signature = hmac_sha256(&verifier.server_key, said.as_bytes());
                found = Some((id.clone(), signature));
            }
        }
        let (id, signature) = found.ok_or(Failed::Wrong)?;
        Ok((id, format!("v={}", BASE64_STANDARD.encode(signature))))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn known(secrets: &[&str]) -> Known {
        let salting = Salting::of_nobody(b"k", "user");
        let verifiers = secrets
            .iter()
            .map(|secret| ((*secret).to_owned(), Verifier::of(secret, &salting)));
        Known {
            verifiers: verifiers.collect(),
            salting,
        }
    }

    /// What a client that knows a secret answers.
    fn last(answer: &str, secret: &str, header: &[u8], bare: &str) -> String {
        let field = |key: &str| {
            let mut fields = answer.split(',');
            fields.find_map(|f| f.strip_prefix(key)).unwrap()
        };
        let salting = Salting {
            salt: BASE64_STANDARD.decode(field("s=")).unwrap(),
            iterations: field("i=").parse().unwrap(),
        };
        let mut salted = [0; 32];
        ring::pbkdf2::derive(
            ring::pbkdf2::PBKDF2_HMAC_SHA256,
            salting.iterations,
            &salting.salt,
            secret.as_bytes(),
            &mut salted,
        );
        let client_key = hmac_sha256(&salted, b"Client Key");
        let without = format!("c={},r={}", BASE64_STANDARD.encode(header), field("r="));
        let said = format!("{bare},{answer},{without}");
        let mut proof = hmac_sha256(&sha256(&client_key), said.as_bytes());
        proof.iter_mut().zip(client_key).for_each(|(p, k)| *p ^= k);
        format!("{without},p={}", BASE64_STANDARD.encode(proof))
    }

    fn log_in(secrets: &[&str], secret: &str) -> Result<(String, String), Failed> {
        let first = "n,,n=,r=abc";
        let (exchange, answer) =
            Exchange::begin((SCRAM, first), known(secrets), None, "xyz").unwrap();
        exchange.finish(&last(&answer, secret, b"n,,", "n=,r=abc"))
    }

    #[test]
    fn either_secret_opens() {
        for secret in ["old", "new"] {
            let (id, answer) = log_in(&["old", "new"], secret).unwrap();
            assert_eq!(id, secret);
            assert!(answer.starts_with("v="), "{answer}");
        }
        assert_eq!(log_in(&["old", "new"], "other"), Err(Failed::Wrong));
        assert_eq!(log_in(&[], "other"), Err(Failed::Wrong));
    }

    #[test]
    fn a_log_in_is_bound_to_its_connection() {
        let end_point: &[u8] = &[7; 32];
        let first = "p=tls-server-end-point,,n=,r=abc";
        let begin = |mechanism, first, end_point| {
            Exchange::begin((mechanism, first), known(&["s"]), end_point, "xyz")
        };
        let (exchange, answer) = begin(SCRAM_PLUS, first, Some(end_point)).unwrap();
        let header = |bound: &[u8]| [b"p=tls-server-end-point,,".as_slice(), bound].concat();
        let right = last(&answer, "s", &header(end_point), "n=,r=abc");
        assert!(exchange.finish(&right).is_ok());
        let other = last(&answer, "s", &header(&[8; 32]), "n=,r=abc");
        assert!(matches!(exchange.finish(&other), Err(Failed::Malformed(_))));
        // Somebody in between who leaves out that binding is possible is found out.
        assert!(begin(SCRAM, "y,,n=,r=abc", Some(end_point)).is_err());
        assert!(begin(SCRAM, "y,,n=,r=abc", None).is_ok());
        assert!(begin(SCRAM_PLUS, first, None).is_err());
        assert!(begin(SCRAM, first, Some(end_point)).is_err());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for first in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=",
            "n,,n=,r=",
            "n,a=x,n=,r=a",
            "n,,m=x,n=,r=a",
            "z,,n=,r=a",
        ] {
            let begun = Exchange::begin((SCRAM, first), known(&["s"]), None, "xyz");
            assert!(begun.is_err(), "{first}");
        }
        let (exchange, _) =
            Exchange::begin((SCRAM, "n,,n=,r=abc"), known(&["s"]), None, "xyz").unwrap();
        for wrong in [
            "",
            "c=biws",
            "c=biws,r=abcxyz",
            "c=biws,r=abc,p=AAAA",
            "c=biws,r=abcxyz,p=AAAA",
            "c=biws,r=abcxyz,p=!",
            "c=eSws,r=abcxyz,p=AAAA",
        ] {
            let failed = exchange.finish(wrong).unwrap_err();
            assert!(
                matches!(failed, Failed::Malformed(_)),
                "{wrong}: {failed:?}"
            );
        }
    }
}
