// SPDX-License-Identifier: Apache-2.0
//! Owns the envelope around an archive that only some may read: age's format, version 1 (<https://age-encryption.org/v1>).
//!
//! ```text
//! ArchiveWriter ──▶ Sealed ──▶ file or pipe          file or pipe ──▶ opened() ──▶ Archive
//! ```
//! Whole chunks of 64 KiB are authenticated before a byte of them is handed on, and the end of the file as such: what was cut,
//! changed or exchanged is an error, never other bytes. It hides nothing but content: the size can be seen, and that it is age's.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use age::{DecryptError, Decryptor, Encryptor, ssh, x25519};

use super::{ArchiveFile, failed, invalid, unreadable};
use crate::{Context, Error, ErrorKind, Result};

/// How a file in this format begins.
pub(super) const MAGIC: &[u8] = b"age-encryption.org/";

/// Files with keys are shorter, in bytes.
const LONGEST_LIST: u64 = 1 << 20;

const BUFFER: usize = 128 << 10;

/// Those who can read an archive: age's public keys, `age1…`, and OpenSSH's, `ssh-ed25519 …` and `ssh-rsa …`.
#[derive(Debug, Clone)]
pub struct Recipients(Vec<Recipient>);

/// Keys that open envelopes: age's secret keys, `AGE-SECRET-KEY-1…`, and OpenSSH's. None opens nothing.
#[derive(Debug, Clone, Default)]
pub struct Identities(Vec<Identity>);

#[derive(Clone)]
enum Recipient {
    Age(x25519::Recipient),
    Ssh(ssh::Recipient),
}

#[derive(Clone)]
enum Identity {
    Age(x25519::Identity),
    Ssh(ssh::Identity),
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recipient")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// A recipient; nothing for any other text.
fn recipient(text: &str) -> Option<Recipient> {
    text.parse().ok().map(Recipient::Age).or_else(|| text.parse().ok().map(Recipient::Ssh))
}

fn age_identity(text: &str) -> Option<Identity> {
    text.parse().ok().map(Identity::Age)
}

/// A secret key of OpenSSH's, which is a file of its own.
fn ssh_identity(text: &str, path: &Path) -> Result<Identity> {
    let refused = |why: &str| {
        wrong(format!("{} {why}", path.display())).with_hint(
            "an identity is a secret key of age's, or one of OpenSSH's without a passphrase: ed25519 or RSA",
        )
    };
    match ssh::Identity::from_buffer(text.as_bytes(), None) {
        Ok(key @ ssh::Identity::Unencrypted(_)) => Ok(Identity::Ssh(key)),
        Ok(ssh::Identity::Encrypted(_)) => Err(refused("has a passphrase")),
        Ok(ssh::Identity::Unsupported(_)) => Err(refused("is a secret key of another kind")),
        Err(error) => Err(refused("is no secret key of OpenSSH's").with_source(error)),
    }
}

impl Recipients {
    /// Each text is one recipient, or `@` and the path of a file with one a line.
    ///
    /// # Errors
    /// `InvalidInput` for what is no recipient, or if there is none.
    pub fn parse(texts: &[String]) -> Result<Self> {
        let mut keys = Vec::new();
        for text in texts {
            match text.strip_prefix('@') {
                Some(path) => {
                    let path = Path::new(path);
                    keys.extend(in_list(&read_text(path)?, path, "recipient", recipient)?);
                }
                None => keys.push(recipient(text).ok_or_else(|| {
                    wrong(format!("{text:?} is not a recipient")).with_hint(
                        "a recipient is an X25519 public key that begins with `age1`, a public key of OpenSSH's that begins with \
                         `ssh-ed25519` or `ssh-rsa`, or @FILE with one a line",
                    )
                })?),
            }
        }
        if keys.is_empty() { Err(wrong("nobody could read it: no recipient")) } else { Ok(Self(keys)) }
    }

    /// Begins an envelope.
    ///
    /// # Errors
    /// The header cannot be written.
    pub fn seal<W: Write>(&self, output: W) -> Result<Sealed<W>> {
        let recipients = self.0.iter().map(|key| match key {
            Recipient::Age(key) => key as &dyn age::Recipient,
            Recipient::Ssh(key) => key,
        });
        let encryptor = Encryptor::with_recipients(recipients)
            .map_err(|error| failed(error, "encrypt to these recipients"))?;
        Ok(Sealed(encryptor.wrap_output(output).context(|| "write the archive")?))
    }
}

impl Identities {
    /// Reads files with one secret key a line, as `age-keygen` writes them, or with one of OpenSSH's, as `ssh-keygen` does.
    ///
    /// # Errors
    /// `InvalidInput` for a line that is none; the file and the line are named, never what it says.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut keys = Vec::new();
        for path in paths {
            let text = read_text(path)?;
            match text.starts_with("-----BEGIN ") {
                true => keys.push(ssh_identity(&text, path)?),
                false => keys.extend(in_list(&text, path, "secret key", age_identity)?),
            }
        }
        Ok(Self(keys))
    }
}

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(LONGEST_LIST).read_to_string(&mut text))
        .context(|| format!("read {}", path.display()))?;
    Ok(text)
}

/// Keys, one a line; empty lines and those that begin with `#` are left out.
fn in_list<T>(text: &str, path: &Path, what: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    let lines = text.lines().map(str::trim).enumerate();
    let keys: Vec<_> = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            let message = || format!("line {} of {} is not a {what} of age", number + 1, path.display());
            parse(line).ok_or_else(|| wrong(message()))
        })
        .collect::<Result<_>>()?;
    if keys.is_empty() { Err(wrong(format!("{} has no {what}", path.display()))) } else { Ok(keys) }
}

/// Where the bytes of an archive go, and what is to be done when there are no more.
pub trait Completes: Write + Send {
    /// There are no more: the file gets its name, the envelope its end. Returns how many bytes that were, if they were others than
    /// those that were given.
    ///
    /// # Errors
    /// As writing.
    fn complete(self: Box<Self>) -> Result<Option<u64>>;
}

impl Completes for ArchiveFile {
    fn complete(self: Box<Self>) -> Result<Option<u64>> {
        self.commit().map(|()| None)
    }
}

impl Completes for Box<dyn Write + Send> {
    fn complete(mut self: Box<Self>) -> Result<Option<u64>> {
        self.flush().context(|| "write the archive").map(|()| None)
    }
}

impl Completes for Box<dyn Completes> {
    fn complete(self: Box<Self>) -> Result<Option<u64>> {
        (*self).complete()
    }
}

/// An envelope in the making.
pub struct Sealed<W: Write>(age::stream::StreamWriter<W>);

impl<W: Write> fmt::Debug for Sealed<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed")
    }
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Completes> Completes for Sealed<W> {
    fn complete(self: Box<Self>) -> Result<Option<u64>> {
        let output = self.0.finish().context(|| "write the archive")?;
        Box::new(output).complete()
    }
}

/// The archive itself, out of its envelope if it is in one.
///
/// # Errors
/// `NotAllowed` if none of the identities opens it, or there is none; `InvalidArchive` if it is damaged.
pub fn opened(source: Box<dyn Read + Send>, identities: &Identities) -> Result<Box<dyn Read + Send>> {
    let mut source = BufReader::with_capacity(BUFFER, source);
    if !begins_with_magic(&mut source)? {
        return Ok(Box::new(source));
    }
    Ok(Box::new(decrypted(source, identities)?))
}

/// Where any byte can be read.
pub trait Random: Read + Seek + Send {}

impl<T: Read + Seek + Send> Random for T {}

/// [`opened`], of a file of which any part is wanted.
///
/// # Errors
/// As there.
pub(super) fn opened_file(file: fs::File, identities: &Identities) -> Result<Box<dyn Random>> {
    let mut source = BufReader::with_capacity(BUFFER, file);
    source.rewind().context(|| "go back to the beginning of the archive")?;
    if !begins_with_magic(&mut source)? {
        source.rewind().context(|| "go back to the beginning of the archive")?;
        return Ok(Box::new(source.into_inner()));
    }
    Ok(Box::new(decrypted(source, identities)?))
}

fn decrypted<R: BufRead>(source: R, identities: &Identities) -> Result<age::stream::StreamReader<R>> {
    if identities.0.is_empty() {
        return Err(Error::new(ErrorKind::NotAllowed, "the archive is encrypted")
            .with_hint("give a file with the secret key of a recipient: --identity FILE"));
    }
    let decryptor = Decryptor::new_buffered(source).map_err(|error| match error {
        DecryptError::Io(error) => unreadable(error, "the envelope"),
        other => damaged(other),
    })?;
    let identities = identities.0.iter().map(|key| match key {
        Identity::Age(key) => key as &dyn age::Identity,
        Identity::Ssh(key) => key,
    });
    decryptor.decrypt(identities).map_err(|error| match error {
        DecryptError::NoMatchingKeys => {
            Error::new(ErrorKind::NotAllowed, "the archive is encrypted to others: no identity opens it")
                .with_hint("name the file with the secret key of one of its recipients: --identity FILE")
        }
        DecryptError::Io(error) => unreadable(error, "the envelope"),
        other => damaged(other),
    })
}

fn damaged(error: DecryptError) -> Error {
    invalid("archive is damaged: its envelope cannot be opened").with_source(error)
}

/// Looks at the first bytes, however they arrive.
fn begins_with_magic(source: &mut impl BufRead) -> Result<bool> {
    let head = loop {
        match source.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other.map_err(|error| unreadable(error, "the beginning of the archive"))?,
        }
    };
    // No other archive begins with any of it.
    let length = head.len().min(MAGIC.len());
    Ok(length > 0 && head[..length] == MAGIC[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Recipients, Identities) {
        let secret = x25519::Identity::generate();
        (Recipients(vec![Recipient::Age(secret.to_public())]), Identities(vec![Identity::Age(secret)]))
    }

    /// Everything that goes into the envelope, which lands in the file.
    fn sealed(recipients: &Recipients, bytes: &[u8]) -> Vec<u8> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("archive");
        let file = ArchiveFile::create(&path).expect("create");
        let mut sealed = recipients.seal(file).expect("seal");
        sealed.write_all(bytes).expect("write");
        Box::new(sealed).complete().expect("complete");
        fs::read(path).expect("it has its name")
    }

    fn read(bytes: &[u8], identities: &Identities) -> Result<Vec<u8>> {
        let mut reader = opened(Box::new(io::Cursor::new(bytes.to_vec())), identities)?;
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map_err(|error| unreadable(error, "it"))?;
        Ok(all)
    }

    #[test]
    fn what_is_sealed_opens_for_each_recipient_and_nobody_else() {
        let (one, its) = pair();
        let (two, others) = pair();
        let (_, strangers) = pair();
        let both = Recipients([one.0, two.0].concat());
        let bytes = vec![7; 200_000];
        let envelope = sealed(&both, &bytes);
        for identities in [&its, &others] {
            assert_eq!(read(&envelope, identities).expect("it opens"), bytes);
        }
        for identities in [&strangers, &Identities::default()] {
            let error = read(&envelope, identities).expect_err("it is for others");
            assert_eq!(error.kind(), ErrorKind::NotAllowed);
            assert!(error.hint().is_some_and(|hint| hint.contains("--identity")));
        }
        assert_eq!(read(b"no envelope", &its).expect("as it is"), b"no envelope");
        assert_eq!(read(b"", &its).expect("as it is"), b"");
    }

    #[test]
    fn keys_of_openssh_seal_and_open() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| directory.path().join(name);
        let make = |kind: &[&str], passphrase: &str, name: &str| {
            let status = std::process::Command::new("ssh-keygen")
                .args(["-q", "-N", passphrase, "-C", "me@here", "-t"])
                .args(kind)
                .arg("-f")
                .arg(at(name))
                .status()
                .expect("ssh-keygen is installed");
            assert!(status.success());
            fs::read_to_string(at(&format!("{name}.pub"))).expect("read").trim().to_owned()
        };
        let ed25519 = make(&["ed25519"], "", "ed25519");
        let rsa = make(&["rsa", "-b", "2048"], "", "rsa");
        fs::write(at("team"), format!("# team\n{rsa}\n")).expect("write");
        let both = Recipients::parse(&[ed25519.clone(), format!("@{}", at("team").display())]).expect("two");
        let envelope = sealed(&both, b"bytes");
        for name in ["ed25519", "rsa"] {
            let identity = Identities::read(&[at(name)]).expect("a key");
            assert_eq!(read(&envelope, &identity).expect("it opens"), b"bytes", "{name}");
        }
        make(&["ed25519"], "", "stranger");
        let stranger = Identities::read(&[at("stranger")]).expect("a key");
        assert_eq!(read(&envelope, &stranger).expect_err("not for it").kind(), ErrorKind::NotAllowed);
        make(&["ed25519"], "secret words", "locked");
        let error = Identities::read(&[at("locked")]).expect_err("it has a passphrase");
        assert!(error.to_string().contains("has a passphrase"), "{error}");
        let ecdsa = make(&["ecdsa"], "", "ecdsa");
        Recipients::parse(&[ecdsa]).expect_err("nothing is encrypted to it");
        Identities::read(&[at("ecdsa")]).expect_err("it opens nothing");
    }

    #[test]
    fn a_changed_envelope_gives_no_byte_of_what_was_changed() {
        let (recipients, identities) = pair();
        let envelope = sealed(&recipients, &[7; 200_000]);
        let header = envelope.len() - 200_000 - 4 * 16 - 16;
        for at in [30, header, header + 20, header + 70_000, envelope.len() - 1] {
            let mut changed = envelope.clone();
            changed[at] ^= 1;
            read(&changed, &identities).expect_err("it is not what was sealed");
        }
        // Cut at the end of a chunk, in one, in the header, and with more behind its end.
        for length in [header + 16 + 65_552, envelope.len() - 1, header - 5, 10] {
            read(&envelope[..length], &identities).expect_err("it is cut");
        }
        read(&[&envelope[..], b"more"].concat(), &identities).expect_err("there is more");
    }

    #[test]
    fn what_is_no_key_is_refused_without_showing_it() {
        let refused = |text: &str| Recipients::parse(&[text.to_owned()]).expect_err("it is none");
        assert!(refused("age1nonsense").to_string().contains("age1nonsense"));
        refused("ssh-ed25519 AAAA");
        refused("@/nonexistent/list");
        Recipients::parse(&[]).expect_err("nobody");
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), "# comment\n\nAGE-SECRET-KEY-1NONSENSE\n").expect("write");
        let error = Identities::read(&[file.path().to_owned()]).expect_err("it is none");
        assert!(error.to_string().starts_with("line 3 of ") && !error.chain().contains("NONSENSE"));
        let public = x25519::Identity::generate().to_public();
        fs::write(file.path(), format!("# team\n{public}\n")).expect("write");
        Recipients::parse(&[format!("@{}", file.path().display())]).expect("a list");
    }
}
