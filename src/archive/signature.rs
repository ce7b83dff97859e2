// SPDX-License-Identifier: Apache-2.0
//! Owns signatures beside archives: in OpenSSH's format (PROTOCOL.sshsig), so that `ssh-keygen -Y sign` and `-Y verify` with the
//! namespace `migrate-archive` write and read the same, and in minisign's. What is signed is the file as it is, compressed or encrypted.

mod minisign;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use blake2::Blake2b512;
use sha2::{Digest as _, Sha256, Sha512};
use signature::{Signer as _, Verifier as _};
use ssh_key::public::KeyData;
use ssh_key::{HashAlg, LineEnding, PrivateKey, PublicKey, SshSig};

use super::{failed, unreadable};
use crate::{Context, Error, ErrorKind, Result};

/// What says that a signature is one of an archive.
pub const NAMESPACE: &str = "migrate-archive";

/// What the names of signatures end in.
const SSH: &str = ".sig";
const MINISIGN: &str = ".minisig";

/// Keys, lists of signers and signatures are shorter, in bytes.
const LONGEST: u64 = 1 << 20;

const BUFFER: usize = 128 << 10;

/// Where the signature of an archive is, unless something else is said: beside it. Of the two names the first counts that is there.
pub fn beside(archive: &Path) -> PathBuf {
    let [ssh, minisign] = [SSH, MINISIGN].map(|ending| with(archive, ending));
    if !ssh.exists() && minisign.exists() { minisign } else { ssh }
}

fn with(archive: &Path, ending: &str) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// A private key that signs.
pub struct SigningKey(Secret);

enum Secret {
    Ssh(PrivateKey),
    Minisign(minisign::SecretKey),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// Reads an ed25519 key of OpenSSH's or one of minisign's, without a passphrase.
    ///
    /// # Errors
    /// `InvalidInput` for another one.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let refused = |why: &str, hint: String| {
            Error::new(ErrorKind::InvalidInput, format!("{} {why}", path.display())).with_hint(hint)
        };
        if minisign::is_one(&text) {
            let by_itself = || "`minisign -S -s KEY -m FILE` signs with any of its keys".to_owned();
            let key = minisign::SecretKey::parse(&text).map_err(|why| refused(why, by_itself()))?;
            return Ok(Self(Secret::Minisign(key)));
        }
        let hint = || {
            format!("`ssh-keygen -Y sign -n {NAMESPACE} -f KEY FILE` signs with any key, and with an agent")
        };
        let key = PrivateKey::from_openssh(text).map_err(|error| {
            refused("is no private key of OpenSSH's or minisign's", hint()).with_source(error)
        })?;
        if key.is_encrypted() {
            return Err(refused("has a passphrase", hint()));
        }
        if !key.algorithm().is_ed25519() {
            return Err(refused("is not an ed25519 key", hint()));
        }
        Ok(Self(Secret::Ssh(key)))
    }

    /// Where its signature of an archive goes: beside it.
    pub fn beside(&self, archive: &Path) -> PathBuf {
        with(archive, if matches!(self.0, Secret::Ssh(_)) { SSH } else { MINISIGN })
    }

    /// The signature of everything that is read, as text.
    ///
    /// # Errors
    /// When reading fails.
    pub fn sign(&self, source: &mut dyn Read) -> Result<String> {
        let refused = |error| failed(error, "sign the archive");
        match &self.0 {
            Secret::Minisign(key) => {
                let mut hash = Hash::Blake2b(Box::default());
                hash.update_all(source)?;
                key.sign(&hash.finish()).map_err(refused)
            }
            Secret::Ssh(key) => {
                let mut hash = Hash::new(HashAlg::Sha512);
                hash.update_all(source)?;
                let sign = |blob: &[u8]| {
                    let signature = key.key_data().try_sign(blob)?;
                    let public = key.public_key().key_data().clone();
                    SshSig::new(public, NAMESPACE, HashAlg::Sha512, signature)?.to_pem(LineEnding::LF)
                };
                sign(&blob(HashAlg::Sha512, &hash.finish())).map_err(refused)
            }
        }
    }
}

/// A signature by somebody who may sign, of bytes that are still to be seen.
#[derive(Clone)]
pub struct Verification {
    signature: Signature,
    path: PathBuf,
}

#[derive(Clone)]
enum Signature {
    Ssh(SshSig),
    Minisign(minisign::Signature, minisign::PublicKey),
}

impl fmt::Debug for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verification").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Verification {
    /// Reads a signature, and the list of those who may sign: `allowed_signers` of ssh-keygen(1), or public keys of OpenSSH's and
    /// minisign's, one a line.
    ///
    /// # Errors
    /// `NotAllowed` if there is no signature, if it is of another kind or by somebody else; `InvalidInput` for a list that
    /// is none.
    pub fn read(signature: &Path, signers: &Path) -> Result<Self> {
        let allowed = Signers::read(signers)?;
        let not = |why: &str| Error::new(ErrorKind::NotAllowed, format!("{} {why}", signature.display()));
        let stranger = |who: &str| not(&format!("is by {who}, who is not among {}", signers.display()));
        let text = read_text(signature).map_err(|error| {
            let hint = format!("`ssh-keygen -Y sign -n {NAMESPACE} -f KEY FILE` and `migrate sign` make one");
            Error::new(ErrorKind::NotAllowed, "the archive is not signed").with_source(error).with_hint(hint)
        })?;
        let path = signature.to_owned();
        if minisign::is_one(&text) {
            let found = minisign::Signature::parse(&text).map_err(not)?;
            let key = *found.key(&allowed.minisign).ok_or_else(|| stranger(&found.name()))?;
            return Ok(Self { signature: Signature::Minisign(found, key), path });
        }
        let found = SshSig::from_pem(text.trim_end())
            .map_err(|error| not("is not a signature of OpenSSH's or minisign's").with_source(error))?;
        if found.namespace() != NAMESPACE {
            return Err(not(&format!("is of the namespace {:?}, not {NAMESPACE:?}", found.namespace())));
        }
        if !allowed.ssh.contains(found.public_key()) {
            return Err(stranger(&found.public_key().fingerprint(HashAlg::Sha256).to_string()));
        }
        Ok(Self { signature: Signature::Ssh(found), path })
    }

    /// By whom it is: a fingerprint, or the number of a key.
    pub fn signer(&self) -> String {
        match &self.signature {
            Signature::Ssh(signature) => signature.public_key().fingerprint(HashAlg::Sha256).to_string(),
            Signature::Minisign(_, key) => key.name(),
        }
    }

    /// Whether this file is what was signed. Leaves it at its beginning.
    ///
    /// # Errors
    /// `NotAllowed` if it is not; else when it cannot be read.
    pub fn check_file(&self, mut file: &File) -> Result<()> {
        let mut hash = self.hash();
        hash.update_all(&mut file)?;
        file.rewind().context(|| "go back to the beginning of the archive")?;
        self.check(&hash.finish())
    }

    /// The same bytes, and what tells whether they were those that were signed once they have been read.
    pub fn watch(&self, source: Box<dyn Read + Send>) -> (Box<dyn Read + Send>, Watched) {
        let hash = Arc::new(Mutex::new(self.hash()));
        let watched = Watched { hash: hash.clone(), verification: self.clone() };
        (Box::new(Watching { source, hash }), watched)
    }

    /// What the signature is of.
    fn hash(&self) -> Hash {
        match &self.signature {
            Signature::Ssh(signature) => Hash::new(signature.hash_alg()),
            Signature::Minisign(..) => Hash::Blake2b(Box::default()),
        }
    }

    fn check(&self, digest: &[u8]) -> Result<()> {
        let verified = match &self.signature {
            Signature::Ssh(signature) => {
                let blob = blob(signature.hash_alg(), digest);
                signature.public_key().verify(&blob, signature.signature())
            }
            Signature::Minisign(signature, key) => signature.verify(key, digest),
        };
        verified.map_err(|error| {
            let message = format!("the archive is not what was signed in {}", self.path.display());
            Error::new(ErrorKind::NotAllowed, message).with_source(error)
        })
    }
}

/// Bytes that were to be those of a signature.
#[derive(Debug)]
pub struct Watched {
    hash: Arc<Mutex<Hash>>,
    verification: Verification,
}

impl Watched {
    /// Whether they were, all of them and no others.
    ///
    /// # Errors
    /// `NotAllowed`.
    pub fn check(self) -> Result<()> {
        let hash = self.hash.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.verification.check(&hash.finish())
    }
}

struct Watching {
    source: Box<dyn Read + Send>,
    hash: Arc<Mutex<Hash>>,
}

impl Read for Watching {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(to)?;
        self.hash.lock().unwrap_or_else(PoisonError::into_inner).update(&to[..length]);
        Ok(length)
    }
}

/// One of the two that OpenSSH's format knows, or minisign's.
#[derive(Debug, Clone)]
enum Hash {
    Blake2b(Box<Blake2b512>),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hash {
    fn new(kind: HashAlg) -> Self {
        match kind {
            HashAlg::Sha256 => Self::Sha256(Sha256::new()),
            _ => Self::Sha512(Sha512::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake2b(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    fn update_all(&mut self, source: &mut dyn Read) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => self.update(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error, "the archive")),
            }
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Blake2b(hash) => hash.finalize().to_vec(),
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::Sha512(hash) => hash.finalize().to_vec(),
        }
    }
}

/// What the key signs: a hash, and what it is the hash of.
fn blob(kind: HashAlg, digest: &[u8]) -> Vec<u8> {
    let mut blob = b"SSHSIG".to_vec();
    for part in [NAMESPACE.as_bytes(), b"", kind.as_str().as_bytes(), digest] {
        let length = u32::try_from(part.len()).expect("a name or a digest is short");
        blob.extend(length.to_be_bytes());
        blob.extend(part);
    }
    blob
}

/// The keys of those who may sign.
struct Signers {
    ssh: Vec<KeyData>,
    minisign: Vec<minisign::PublicKey>,
}

impl Signers {
    /// A line with an option that narrows it in a way that is not known here does not count.
    fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let found = Self {
            ssh: lines().filter_map(key_of).collect(),
            minisign: lines().filter_map(minisign::PublicKey::parse).collect(),
        };
        if found.ssh.is_empty() && found.minisign.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{} has no key that may sign", path.display()),
            )
            .with_hint(
                "one a line: `NAME ssh-ed25519 AAAA…`, as in the allowed_signers of ssh-keygen(1), or a public key of \
                 minisign's, `RW…`",
            ));
        }
        Ok(found)
    }
}

/// `[principals [namespaces="…"]] type key [comment]`.
fn key_of(line: &str) -> Option<KeyData> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = (0..words.len().min(3)).find(|at| {
        words.get(at + 1).is_some_and(|key| PublicKey::from_openssh(&format!("{} {key}", words[*at])).is_ok())
    })?;
    let known = |option: &&str| {
        let names = option.strip_prefix("namespaces=\"").and_then(|rest| rest.strip_suffix('"'));
        names.is_some_and(|names| names.split(',').any(|name| name == NAMESPACE))
    };
    if at == 2 && !known(&words[1]) {
        tracing::warn!(option = words[1], "a signer with this option does not count");
        return None;
    }
    let key = PublicKey::from_openssh(&format!("{} {}", words[at], words[at + 1])).ok()?;
    Some(key.key_data().clone())
}

fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST).read_to_string(&mut text))
        .context(|| format!("read {}", path.display()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Stdio};

    use super::*;

    /// A directory with a key pair `key`, `key.pub` of OpenSSH's.
    fn keys() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let key = directory.path().join("key");
        let status = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f"])
            .arg(&key)
            .status()
            .expect("ssh-keygen is installed");
        assert!(status.success());
        directory
    }

    fn ssh_keygen(arguments: &[&str], directory: &Path, input: Option<&Path>) -> bool {
        let stdin = input.map_or(Stdio::null(), |path| File::open(path).expect("open").into());
        let output = Command::new("ssh-keygen").args(arguments).current_dir(directory).stdin(stdin).output();
        output.expect("ssh-keygen runs").status.success()
    }

    #[test]
    fn ssh_keygen_verifies_ours_and_we_its() {
        let directory = keys();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("archive"), vec![7; 300_000]).expect("write");
        let public = fs::read_to_string(at("key.pub")).expect("read");
        fs::write(at("signers"), format!("# team\nme namespaces=\"git,{NAMESPACE}\" {public}"))
            .expect("write");
        let key = SigningKey::read(&at("key")).expect("a key");
        let text = key.sign(&mut File::open(at("archive")).expect("open")).expect("sign");
        fs::write(at("archive.sig"), text).expect("write");
        let verify = ["-Y", "verify", "-f", "signers", "-I", "me", "-n", NAMESPACE, "-s", "archive.sig"];
        assert!(ssh_keygen(&verify, directory.path(), Some(&at("archive"))));
        fs::remove_file(at("archive.sig")).expect("unlink");
        assert!(ssh_keygen(
            &["-Y", "sign", "-q", "-n", NAMESPACE, "-f", "key", "archive"],
            directory.path(),
            None
        ));

        let verification = Verification::read(&beside(&at("archive")), &at("signers")).expect("it is ours");
        let mut file = File::open(at("archive")).expect("open");
        verification.check_file(&file).expect("it is what was signed");
        let (mut reader, watched) = verification.watch(Box::new(file.try_clone().expect("dup")));
        io::copy(&mut reader, &mut io::sink()).expect("read");
        watched.check().expect("it is what was signed");
        file.rewind().expect("rewind");
        let (reader, watched) = verification.watch(Box::new(file));
        io::copy(&mut reader.take(299_999), &mut io::sink()).expect("read");
        assert_eq!(watched.check().expect_err("one byte is missing").kind(), ErrorKind::NotAllowed);

        fs::write(at("archive"), vec![8; 300_000]).expect("write");
        let file = File::open(at("archive")).expect("open");
        let error = verification.check_file(&file).expect_err("another archive");
        assert_eq!(error.kind(), ErrorKind::NotAllowed);
    }

    #[test]
    fn signatures_that_do_not_count() {
        let (directory, others) = (keys(), keys());
        let at = |name: &str| directory.path().join(name);
        fs::write(at("archive"), "bytes").expect("write");
        let read = || Verification::read(&at("archive.sig"), &at("key.pub")).map(|_| ());
        let refused = |says: &str| {
            let error = read().expect_err(says);
            assert_eq!(error.kind(), ErrorKind::NotAllowed, "{says}");
            assert!(error.chain().contains(says), "{}", error.chain());
        };
        refused("the archive is not signed");
        fs::write(at("archive.sig"), "hello").expect("write");
        refused("is not a signature of OpenSSH's or minisign's");
        let sign = |namespace: &str, key: &Path| {
            fs::remove_file(at("archive.sig")).expect("unlink");
            let key = key.to_str().expect("UTF-8");
            assert!(ssh_keygen(
                &["-Y", "sign", "-q", "-n", namespace, "-f", key, "archive"],
                directory.path(),
                None
            ));
        };
        sign("file", &at("key"));
        refused("is of the namespace \"file\"");
        sign(NAMESPACE, &others.path().join("key"));
        refused("who is not among");
        sign(NAMESPACE, &at("key"));
        read().expect("a public key alone is a list of signers");
    }

    #[test]
    fn a_key_of_minisigns_signs_and_is_told() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| directory.path().join(name);
        let (secret, public) = minisign::tests::keys();
        fs::write(at("key"), secret).expect("write");
        fs::write(at("archive"), vec![7; 300_000]).expect("write");
        let key = SigningKey::read(&at("key")).expect("a key");
        assert_eq!(key.beside(&at("archive")), at("archive.minisig"));
        let text = key.sign(&mut File::open(at("archive")).expect("open")).expect("sign");
        fs::write(at("archive.minisig"), text).expect("write");
        assert_eq!(beside(&at("archive")), at("archive.minisig"));
        // One that is not among them, and both kinds in one list.
        let ssh = keys();
        let others = fs::read_to_string(ssh.path().join("key.pub")).expect("read");
        fs::write(at("signers"), &others).expect("write");
        let read = || Verification::read(&beside(&at("archive")), &at("signers"));
        let error = read().expect_err("a stranger");
        assert!(error.to_string().contains("minisign key 3B72F1753D74E78C"), "{error}");
        fs::write(at("signers"), format!("untrusted comment: team\n{public}\n{others}")).expect("write");
        let verification = read().expect("a signer");
        assert_eq!(verification.signer(), "minisign key 3B72F1753D74E78C");
        let file = || File::open(at("archive")).expect("open");
        verification.check_file(&file()).expect("it is what was signed");
        let (mut reader, watched) = verification.watch(Box::new(file()));
        io::copy(&mut reader, &mut io::sink()).expect("read");
        watched.check().expect("it is what was signed");
        fs::write(at("archive"), vec![8; 300_000]).expect("write");
        assert_eq!(verification.check_file(&file()).expect_err("another").kind(), ErrorKind::NotAllowed);
    }

    #[test]
    fn options_of_signers_narrow() {
        let directory = keys();
        let public = fs::read_to_string(directory.path().join("key.pub")).expect("read");
        let counts = |before: &str| key_of(&format!("{before}{}", public.trim())).is_some();
        assert!(counts("") && counts("me ") && counts("me namespaces=\"migrate-archive\" "));
        for option in ["namespaces=\"git\"", "cert-authority", "valid-before=\"20200101\""] {
            assert!(!counts(&format!("me {option} ")), "{option}");
        }
        assert!(!counts("one two three ") && key_of("hello").is_none() && key_of("").is_none());
    }
}
