// SPDX-License-Identifier: Apache-2.0
//! Owns minisign's forms of keys and signatures (<https://jedisct1.github.io/minisign/>), of the kind that signs a BLAKE2b-512 of the
//! file, as minisign does by itself since 0.10. Everything is lines of text with base64:
//!
//! ```text
//! public key   "Ed" · number of the key (8) · ed25519 (32)
//! secret key   "Ed" · cipher (2) · "B2" · salt (32) · limits (16) · number (8) · ed25519 (64) · checksum (32)
//! signature    "ED" · number (8) · of the hash (64)          and of these 64 bytes and the trusted comment (64)
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2b256, Digest as _};
use signature::{Signer as _, Verifier as _};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::public::{Ed25519PublicKey, KeyData};
use ssh_key::{Algorithm, Signature as Raw};

/// How the first line of each begins.
const COMMENT: &str = "untrusted comment:";
/// How that line of a signature begins that is signed with it.
const TRUSTED: &str = "trusted comment: ";

/// Bytes of the number of a key.
const NUMBER: usize = 8;
const SIGNATURE: usize = 64;

/// What signs a file's hash, and what signs the file itself.
const OF_HASH: &[u8] = b"ED";
const OF_FILE: &[u8] = b"Ed";

/// Whether this is text of minisign's.
pub(super) fn is_one(text: &str) -> bool {
    text.starts_with(COMMENT)
}

/// Why something is not usable.
pub(super) type Refused = &'static str;

/// A public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PublicKey {
    number: [u8; NUMBER],
    key: Ed25519PublicKey,
}

impl PublicKey {
    /// Reads the line with the key; nothing for any other.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let bytes = STANDARD.decode(line.trim()).ok()?;
        let bytes = bytes.strip_prefix(b"Ed")?;
        let (number, key) = bytes.split_first_chunk::<NUMBER>()?;
        Some(Self { number: *number, key: Ed25519PublicKey(key.try_into().ok()?) })
    }

    /// As minisign prints it.
    pub(super) fn name(&self) -> String {
        name(self.number)
    }
}

fn name(number: [u8; NUMBER]) -> String {
    format!("minisign key {:016X}", u64::from_le_bytes(number))
}

/// A secret key.
#[derive(Clone)]
pub(super) struct SecretKey {
    number: [u8; NUMBER],
    pair: Ed25519Keypair,
}

impl SecretKey {
    /// Reads a key that is not encrypted.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn parse(text: &str) -> Result<Self, Refused> {
        const NO_KEY: Refused = "is not a secret key of minisign";
        let line = text.lines().nth(1).ok_or(NO_KEY)?;
        let bytes = STANDARD.decode(line.trim()).map_err(|_| NO_KEY)?;
        let rest = bytes.strip_prefix(b"Ed").ok_or(NO_KEY)?;
        let (cipher, rest) = rest.split_first_chunk::<2>().ok_or(NO_KEY)?;
        if cipher != &[0, 0] {
            return Err("has a password");
        }
        let rest = rest.strip_prefix(b"B2").and_then(|rest| rest.get(48..)).ok_or(NO_KEY)?;
        let (number, rest) = rest.split_first_chunk::<NUMBER>().ok_or(NO_KEY)?;
        let (key, sum) = rest.split_first_chunk::<64>().ok_or(NO_KEY)?;
        let hash = Blake2b256::new().chain_update(b"Ed").chain_update(number).chain_update(key).finalize();
        // minisign leaves it out where it does not encrypt.
        if sum != hash.as_slice() && sum != [0; 32] {
            return Err("is a damaged secret key of minisign");
        }
        let pair = Ed25519Keypair::from_bytes(key).map_err(|_| "is a damaged secret key of minisign")?;
        Ok(Self { number: *number, pair })
    }

    /// Signs a file with this hash; the signature as text.
    ///
    /// # Errors
    /// When the key does not sign.
    pub(super) fn sign(&self, hash: &[u8]) -> Result<String, ssh_key::Error> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let comment = format!("timestamp:{since}\thashed");
        let pair = KeypairData::Ed25519(self.pair.clone());
        let signature = pair.try_sign(hash)?;
        let whole = pair.try_sign(&[signature.as_bytes(), comment.as_bytes()].concat())?;
        let first = STANDARD.encode([OF_HASH, &self.number, signature.as_bytes()].concat());
        let second = STANDARD.encode(whole.as_bytes());
        Ok(format!("{COMMENT} signature of an archive by migrate\n{first}\n{TRUSTED}{comment}\n{second}\n"))
    }
}

/// A signature, of which nothing is verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    number: [u8; NUMBER],
    of_hash: [u8; SIGNATURE],
    comment: String,
    of_both: [u8; SIGNATURE],
}

impl Signature {
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn parse(text: &str) -> Result<Self, Refused> {
        const NO_SIGNATURE: Refused = "is not a signature of minisign's";
        let mut lines = text.lines().skip(1);
        let decoded = |lines: &mut std::iter::Skip<std::str::Lines<'_>>| {
            lines.next().and_then(|line| STANDARD.decode(line.trim()).ok()).ok_or(NO_SIGNATURE)
        };
        let first = decoded(&mut lines)?;
        if first.starts_with(OF_FILE) {
            return Err("signs the file and not its hash, as minisign before 0.10 and with -l");
        }
        let rest = first.strip_prefix(OF_HASH).ok_or(NO_SIGNATURE)?;
        let (number, of_hash) = rest.split_first_chunk::<NUMBER>().ok_or(NO_SIGNATURE)?;
        let comment =
            lines.next().and_then(|line| line.strip_prefix(TRUSTED)).ok_or(NO_SIGNATURE)?.to_owned();
        let second = decoded(&mut lines)?;
        Ok(Self {
            number: *number,
            of_hash: of_hash.try_into().map_err(|_| NO_SIGNATURE)?,
            comment,
            of_both: second.try_into().map_err(|_| NO_SIGNATURE)?,
        })
    }

    /// The one of these keys that may have made it.
    pub(super) fn key<'a>(&self, keys: &'a [PublicKey]) -> Option<&'a PublicKey> {
        keys.iter().find(|key| key.number == self.number)
    }

    /// The name of the key that it says it is of.
    pub(super) fn name(&self) -> String {
        name(self.number)
    }

    /// Whether the key has signed a file with this hash, and the comment with it.
    ///
    /// # Errors
    /// If not.
    pub(super) fn verify(&self, key: &PublicKey, hash: &[u8]) -> Result<(), signature::Error> {
        let verify = |message: &[u8], signature: &[u8]| {
            let signature = Raw::new(Algorithm::Ed25519, signature).map_err(signature::Error::from_source)?;
            KeyData::Ed25519(key.key).verify(message, &signature)
        };
        verify(hash, &self.of_hash)?;
        verify(&[&self.of_hash, self.comment.as_bytes()].concat(), &self.of_both)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use blake2::Blake2b512;

    use super::*;

    /// What minisign 0.11 has made, with `-G -W`, and of 300000 bytes 7 with `-S` and `-S -l`.
    const PUBLIC: &str = "RWSM53Q9dfFyOxKFRR7ZOSKc5E7Y8BW9MWf5Mj208mozvYiOkS5HUSQq";
    const SECRET: &str = "untrusted comment: minisign encrypted secret key
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAjOd0PXXxcjsjiyBDX0AeovDMoyPFRHZMdqjWrzUT/pIDK5aqzKmgsxKFRR7ZOSKc5E7Y8BW9MWf5Mj208mozvYiOkS5HUSQqAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUSM53Q9dfFyO1Q285nxrPZYaCMqEC30Qc4QetvDOc1Ob/e5f0wC7hFC+303+GjQadEjfqfBzmVeTuG3OHxZ5psRUrEQ5zDySw8=
trusted comment: trusted words
V4sjnTJ0rFmBbPqys9MJz9G18KfIWDl/+NQI9oyf0+39aPJaPfep++bmy4CCseJjXXPzUQ3HTUOBATDiI7ChBA==
";
    const OF_FILE: &str = "untrusted comment: signature from minisign secret key
RWSM53Q9dfFyOzxRzBA/IrM/I8PbhH5Sl/rQD4XZdZB5I+x5cJraA+ZCmhxQbih6VscMfS+0Gx7o/OhriuQN35BW6d5Rre+Vwgc=
trusted comment: timestamp:1795799698	file:archive
uf4RDCVqU8o0KEVy2qVw248DER3dNAGHYwbsxcCtkCdrMDeCCltI22r7m7SwfhMGkUtCnI8MubuQGRMXmZWhCA==
";

    /// A secret key and its public one.
    pub(in super::super) fn keys() -> (&'static str, &'static str) {
        (SECRET, PUBLIC)
    }

    fn hash() -> Vec<u8> {
        Blake2b512::digest(vec![7; 300_000]).to_vec()
    }

    #[test]
    fn what_minisign_makes_is_verified() {
        let key = PublicKey::parse(PUBLIC).expect("a key");
        assert_eq!(key.name(), "minisign key 3B72F1753D74E78C");
        let signature = Signature::parse(SIGNATURE).expect("a signature");
        assert_eq!(signature.key(&[key]), Some(&key));
        signature.verify(&key, &hash()).expect("it is what was signed");
        signature.verify(&key, &[0; 64]).expect_err("another file");
        let other = Signature { comment: "other words".to_owned(), ..signature };
        other.verify(&key, &hash()).expect_err("another comment");
        assert!(Signature::parse(OF_FILE).expect_err("not of a hash").contains("before 0.10"));
    }

    #[test]
    fn what_is_signed_with_its_keys_is_verified() {
        let secret = SecretKey::parse(SECRET).expect("a key");
        let text = secret.sign(&hash()).expect("it signs");
        assert!(is_one(&text));
        let signature = Signature::parse(&text).expect("a signature");
        signature.verify(&PublicKey::parse(PUBLIC).expect("a key"), &hash()).expect("it is what was signed");
    }

    #[test]
    fn what_is_none_is_refused() {
        for end in 0..SIGNATURE.len() - 4 {
            Signature::parse(&SIGNATURE[..end]).expect_err("it is cut off");
        }
        for end in 0..SECRET.len() - 4 {
            assert!(SecretKey::parse(&SECRET[..end]).is_err(), "{end}");
        }
        assert!(PublicKey::parse(&PUBLIC[..52]).is_none() && PublicKey::parse("ssh-ed25519 AAAA").is_none());
        let password = SECRET.replace("RWQAAEIy", "RWRTY0Iy");
        assert_eq!(SecretKey::parse(&password).err(), Some("has a password"));
        let damaged = SECRET.replace("EoVFHtk5", "EoVFHtk6");
        assert!(damaged == SECRET || SecretKey::parse(&damaged).is_err());
    }
}
