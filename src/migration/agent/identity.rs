// SPDX-License-Identifier: Apache-2.0
//! The key that a host is known by: Ed25519, as PKCS#8 in PEM, which openssl(1) reads too. Its fingerprint is the SHA-256 of the public
//! key's SubjectPublicKeyInfo:
//!
//! ```text
//! openssl pkey -in key.pem -pubout -outform DER | sha256sum
//! ```

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};

use super::read;
use crate::{Context, Error, ErrorKind, Result};

const KEY: &str = "key.pem";

/// What stands before the 32 bytes of an Ed25519 key in PKCS#8 (RFC 8410, section 7).
const BEFORE: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

const SECRET: usize = 32;

/// The SHA-256 of a public key: `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// That of a public key, as it is shown to the other host.
    pub(super) fn of(public: &[u8]) -> Self {
        Self(Sha256::digest(public).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            let message = format!("{:?} is no fingerprint", text.chars().take(80).collect::<String>());
            Error::new(ErrorKind::InvalidInput, message).with_hint(
                "it is `sha256:` and 64 hexadecimal digits, as `migrate agent fingerprint` prints it there",
            )
        };
        let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == 64).ok_or_else(refuse)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.contains('+'));
            *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(refuse)?;
        }
        Ok(Self(bytes))
    }
}

/// The key of this host.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Identity {
    /// Makes one.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one, which stays; the directory or the file cannot be made.
    pub fn make(directory: &Path) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .context(|| format!("make {}", directory.display()))?;
        let path = directory.join(KEY);
        let mut secret = [0; SECRET];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut secret))
            .context(|| "read /dev/urandom for a key")?;
        let der = [&BEFORE[..], &secret].concat();
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = match file {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let message = format!("this host has a key already: {}", path.display());
                return Err(Error::new(ErrorKind::AlreadyExists, message).with_hint(
                    "other hosts trust that one; `migrate agent fingerprint` prints its fingerprint",
                ));
            }
            opened => opened.context(|| format!("make {}", path.display()))?,
        };
        file.write_all(pem.as_bytes())
            .and_then(|()| file.sync_all())
            .context(|| format!("write {}", path.display()))?;
        Self::load(directory)
    }

    /// The one that was made.
    ///
    /// # Errors
    /// `NotFound` if there is none; others can read it; it is no such key.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join(KEY);
        let bytes = read(&path, 0o077)?.ok_or_else(|| {
            let message = format!("this host has no key that others could know it by: no {}", path.display());
            Error::new(ErrorKind::NotFound, message).with_hint(
                match directory == Path::new(super::DIRECTORY) {
                    true => "make one with `migrate agent init`".to_owned(),
                    false => format!("make one with `migrate agent init --dir {}`", directory.display()),
                },
            )
        })?;
        let unusable = || format!("understand the key {}", path.display());
        let der =
            PrivatePkcs8KeyDer::from_pem_slice(&bytes).context_kind(ErrorKind::InvalidInput, unusable)?;
        let key = any_eddsa_type(&der).context_kind(ErrorKind::InvalidInput, unusable)?;
        let public = key.public_key().ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("{} has no public key", path.display()))
        })?;
        let fingerprint = Fingerprint::of(&public);
        let shown = vec![CertificateDer::from(public.to_vec())];
        Ok(Self { key: Arc::new(CertifiedKey::new(shown, key)), fingerprint })
    }

    /// What others know it by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(super) fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_its_owner_s() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let below = directory.path().join("a/b");
        let error = Identity::load(&below).expect_err("none yet");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(
            error.hint().is_some_and(|hint| hint.starts_with("make one with `migrate agent init --dir "))
        );
        let made = Identity::make(&below).expect("made").fingerprint();
        let path = below.join(KEY);
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o600);
        assert_eq!(Identity::make(&below).expect_err("there is one").kind(), ErrorKind::AlreadyExists);
        assert_eq!(Identity::load(&below).expect("the same").fingerprint(), made);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        assert_eq!(Identity::load(&below).expect_err("readable").kind(), ErrorKind::PermissionDenied);
    }

    /// The example of RFC 8410, section 10.3, and what openssl(1) says of it.
    #[test]
    fn a_fingerprint_is_that_of_the_public_key() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(KEY);
        let key = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
        fs::write(&path, format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n"))
            .expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        let public =
            STANDARD.decode("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=").expect("base64");
        let fingerprint = Identity::load(directory.path()).expect("it loads").fingerprint();
        assert_eq!(fingerprint, Fingerprint::of(&public));
        assert_eq!(fingerprint.to_string().parse::<Fingerprint>().expect("its own text"), fingerprint);
    }

    #[test]
    fn what_is_no_fingerprint_is_refused() {
        let digits = "0".repeat(64);
        for text in [
            String::new(),
            digits.clone(),
            format!("sha256:{}", &digits[1..]),
            format!("sha256:{digits}0"),
            format!("sha512:{digits}"),
            format!("sha256:{}", "+1".repeat(32)),
            format!("sha256:{}", "é".repeat(32)),
        ] {
            text.parse::<Fingerprint>().expect_err(&text);
        }
        assert_eq!(
            format!("sha256:{}", "AB".repeat(32)).parse::<Fingerprint>().expect("upper case"),
            Fingerprint([0xab; 32])
        );
    }
}
