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
use std::str::FromStr;

use age::x25519;
use age::{DecryptError, Decryptor, Encryptor};

use super::{ArchiveFile, failed, invalid, unreadable};
use crate::{Context, Error, ErrorKind, Result};

/// How a file in this format begins.
pub(super) const MAGIC: &[u8] = b"age-encryption.org/";

/// Files with keys are shorter, in bytes.
const LONGEST_LIST: u64 = 1 << 20;

const BUFFER: usize = 128 << 10;

/// Those who can read an archive: age's public keys, `age1…`.
#[derive(Debug, Clone)]
pub struct Recipients(Vec<Key<x25519::Recipient>>);

/// Keys that open envelopes: age's secret keys, `AGE-SECRET-KEY-1…`. None opens nothing.
#[derive(Debug, Clone, Default)]
pub struct Identities(Vec<Key<x25519::Identity>>);

/// A key that does not show.
#[derive(Clone)]
struct Key<T>(T);

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
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
                Some(path) => keys.extend(read_list(Path::new(path), "recipient")?),
                None => keys.push(parse(text).ok_or_else(|| {
                    wrong(format!("{text:?} is not a recipient of age"))
                        .with_hint("a recipient is an X25519 public key that begins with `age1`, or @FILE with one a line")
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
        let recipients = self.0.iter().map(|key| &key.0 as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(recipients)
            .map_err(|error| failed(error, "encrypt to these recipients"))?;
        Ok(Sealed(encryptor.wrap_output(output).context(|| "write the archive")?))
    }
}

impl Identities {
    /// Reads files with one secret key a line, as `age-keygen` writes them.
    ///
    /// # Errors
    /// `InvalidInput` for a line that is none; the file and the line are named, never what it says.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut keys = Vec::new();
        for path in paths {
            keys.extend(read_list(path, "secret key")?);
        }
        Ok(Self(keys))
    }
}

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

fn parse<T: FromStr>(text: &str) -> Option<Key<T>> {
    text.parse().ok().map(Key)
}

/// Keys, one a line; empty lines and those that begin with `#` are left out.
fn read_list<T: FromStr>(path: &Path, what: &str) -> Result<Vec<Key<T>>> {
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(LONGEST_LIST).read_to_string(&mut text))
        .context(|| format!("read {}", path.display()))?;
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
    let identities = identities.0.iter().map(|key| &key.0 as &dyn age::Identity);
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
        (Recipients(vec![Key(secret.to_public())]), Identities(vec![Key(secret)]))
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
        let (recipients, _) = pair();
        fs::write(file.path(), format!("# team\n{}\n", recipients.0[0].0)).expect("write");
        Recipients::parse(&[format!("@{}", file.path().display())]).expect("a list");
    }
}
