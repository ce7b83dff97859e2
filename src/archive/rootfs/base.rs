// SPDX-License-Identifier: Apache-2.0
//! Owns what is known of a tree that others are compared with: its digest, and each file's facts and content as digests.
//!
//! The digest is one of everything that a restore brings back of files, but for what two honest copies of an image may
//! differ in: fractions of seconds, times of what is no regular file, attributes that belong to a host. The definition is
//! in `docs/archive-format.md`. Must not know what differs from the tree.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io::Read;
use std::os::fd::BorrowedFd;

use sha2::{Digest as _, Sha256};

use super::apply::belongs_to_file;
use super::pack::open_file;
use super::walk::{not_read, walk};
use crate::archive::entry::{Entry, Kind};
use crate::archive::sink::changed;
use crate::archive::{BaseFacts, index, invalid, printable};
use crate::sys::metadata::metadata_at;
use crate::{Context, Error, ErrorKind, Result};

/// Bytes of each file's digest that an archive holds.
const MARK: usize = 4;

/// How much of a file is read at once.
const READ: usize = 256 << 10;

type Sha = [u8; 32];

/// What tells whether a file was touched since somebody looked at it: its inode number and when it was last changed,
/// which nobody can set.
pub(super) type Identity = (u64, (i64, u32));

/// A tree that others are compared with, and may be copied before they are laid over it.
pub struct BaseTree {
    digest: String,
    marks: Vec<u8>,
    /// By path, without a slash at the end; `.` is the root.
    pub(super) files: BTreeMap<Vec<u8>, Known>,
}

impl std::fmt::Debug for BaseTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseTree").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// What is known of a file.
pub(super) struct Known {
    /// How many came before it.
    pub(super) order: usize,
    pub(super) kind: Kind,
    /// Of everything but the content.
    pub(super) facts: Sha,
    /// Of a regular file.
    pub(super) content: Option<(Sha, Identity)>,
}

impl BaseTree {
    /// Reads all of the tree beneath `root`. Nobody may write to it meanwhile, nor until it has served.
    ///
    /// # Errors
    /// As archiving a root filesystem.
    pub fn read(root: BorrowedFd<'_>) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut marks = Vec::new();
        let digest = digest_of(root, &mut |entry, sha, content| {
            marks.extend_from_slice(&sha[..MARK]);
            let known = Known { order: files.len(), kind: entry.kind, facts: facts(entry), content };
            files.insert(plain(&entry.path).to_vec(), known);
            Ok(())
        })?;
        Ok(Self { digest, marks, files })
    }

    /// `sha256:` and 64 hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What a manifest says of it.
    pub fn facts(&self) -> BaseFacts {
        BaseFacts { digest: self.digest.clone(), entries: self.files.len() as u64 }
    }

    /// Some bytes of each file's digest, by which [`verify_base`] finds the one that is another.
    pub fn marks(&self) -> &[u8] {
        &self.marks
    }
}

/// Compares the tree beneath `root` with what is known of another.
///
/// # Errors
/// `InvalidInput` names the first file that is another, if the marks tell; else as reading.
pub fn verify_base(root: BorrowedFd<'_>, digest: &str, marks: &[u8]) -> Result<()> {
    let mut expected = marks.chunks(MARK);
    let mut first = None;
    let found = digest_of(root, &mut |entry, sha, _| {
        if expected.next() != Some(&sha[..MARK]) && first.is_none() {
            first = Some(printable(plain(&entry.path)));
        }
        Ok(())
    })?;
    if found == digest {
        return Ok(());
    }
    let missing = expected.next().is_some();
    let place = match first {
        Some(path) if path == "." => "the directory itself has another mode, owner or attribute".to_owned(),
        Some(path) => format!("/{path} is the first file that is another, or one before it is missing"),
        None if missing => "files at its end are missing".to_owned(),
        None => "nothing tells where".to_owned(),
    };
    let message = format!("these are not the files that the root filesystem was compared with: {place}");
    Err(Error::new(ErrorKind::InvalidInput, message).with_hint(
        "take the very image or directory that the checkpoint named as its base, unchanged; \
         a checkpoint with --rootfs full needs none",
    ))
}

/// Who looks at each file: its facts, its digest, and that of its content.
type Look<'a> = dyn FnMut(&Entry, &Sha, Option<(Sha, Identity)>) -> Result<()> + 'a;

/// Walks the tree and gives its digest.
fn digest_of(root: BorrowedFd<'_>, look: &mut Look<'_>) -> Result<String> {
    let mut all = Sha256::new();
    let mut buffer = vec![0; READ];
    let mut header = Vec::new();
    walk(root, &mut |entry, dir, name| {
        let content = match entry.kind {
            Kind::File => Some((content(&entry, dir, name, &mut buffer)?, identity(&entry, dir, name)?)),
            _ => None,
        };
        header.clear();
        let seconds = if entry.kind == Kind::File { entry.mtime.0 } else { 0 };
        Entry { mtime: (seconds, 0), ..lasting(&entry) }.encode(&mut header);
        let mut sha = Sha256::new().chain_update(&header);
        if let Some((content, _)) = &content {
            sha.update(content);
        }
        let sha = sha.finalize().into();
        all.update(sha);
        look(&entry, &sha, content)
    })?;
    Ok(format!("sha256:{}", index::Digest::of(all)))
}

/// An entry's path as a key.
pub(super) fn plain(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}

/// The digest of everything that is known of a file but its content.
pub(super) fn facts(entry: &Entry) -> Sha {
    let mut header = Vec::new();
    lasting(entry).encode(&mut header);
    Sha256::digest(&header).into()
}

/// The entry with those attributes that are the file's own wherever it is.
fn lasting(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    entry.xattrs.retain(|xattr| belongs_to_file(&xattr.name) && !xattr.name.starts_with(b"trusted.overlay."));
    entry
}

/// See [`Identity`].
pub(super) fn identity(entry: &Entry, dir: BorrowedFd<'_>, name: &CStr) -> Result<Identity> {
    let found = metadata_at(dir, name).map_err(|errno| not_read(errno, &entry.path, "look at"))?;
    Ok((found.inode, found.changed))
}

/// The digest of a regular file's content.
pub(super) fn content(entry: &Entry, dir: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> Result<Sha> {
    let mut sha = Sha256::new();
    if entry.size > 0 {
        let mut file = open_file(dir, name).map_err(|errno| not_read(errno, &entry.path, "open"))?;
        let mut left = entry.size;
        loop {
            let read = match file.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read.context(|| format!("read {}", printable(&entry.path)))?,
            };
            if read == 0 {
                break;
            }
            left = left.checked_sub(read as u64).ok_or_else(|| changed(&printable(&entry.path), "grew"))?;
            sha.update(&buffer[..read]);
        }
        if left > 0 {
            return Err(changed(&printable(&entry.path), "shrank"));
        }
    }
    Ok(sha.finalize().into())
}

/// Checks what an archive says of its base before it is believed.
///
/// # Errors
/// `InvalidArchive`.
pub(in crate::archive) fn check_facts(facts: &BaseFacts, marks: u64) -> Result<()> {
    let hex = facts.digest.strip_prefix("sha256:").unwrap_or_default();
    let is_digest = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_digest && Some(marks) == facts.entries.checked_mul(MARK as u64) {
        return Ok(());
    }
    Err(invalid("migrate.json says of the base what cannot be"))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| tree.path().join(name);
        fs::create_dir(path("d")).expect("mkdir");
        for (name, text) in [("a", "one"), ("d/b", "two"), ("z", "")] {
            fs::write(path(name), text).expect("write");
            modified(&path(name), Duration::new(5, 7));
        }
        symlink("a", path("link")).expect("symlink");
        fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        tree
    }

    fn modified(path: &Path, time: Duration) {
        let file = File::options().append(true).open(path).expect("open");
        file.set_modified(UNIX_EPOCH + time).expect("utimens");
    }

    fn read(tree: &tempfile::TempDir) -> BaseTree {
        BaseTree::read(File::open(tree.path()).expect("open").as_fd()).expect("read")
    }

    #[test]
    fn copies_have_one_digest_and_each_change_is_named() {
        let one = read(&tree());
        check_facts(&one.facts(), one.marks().len() as u64).expect("as it is written");
        assert_eq!(one.facts().entries, 6);
        type Change = fn(&Path);
        let changes: [(&str, Change); 9] = [
            ("", |_| {}),
            ("", |root| modified(&root.join("a"), Duration::new(5, 0))),
            ("/a is the first", |root| modified(&root.join("a"), Duration::new(6, 7))),
            ("/a is the first", |root| {
                fs::write(root.join("a"), "eno").expect("write");
                modified(&root.join("a"), Duration::new(5, 7));
            }),
            ("/d/b is the first", |root| {
                fs::set_permissions(root.join("d/b"), fs::Permissions::from_mode(0o600)).expect("chmod");
            }),
            ("/b is the first", |root| fs::write(root.join("b"), "more").expect("write")),
            ("/z is the first", |root| fs::remove_file(root.join("link")).expect("unlink")),
            ("/link is the first", |root| {
                fs::remove_file(root.join("link")).expect("unlink");
                symlink("z", root.join("link")).expect("symlink");
            }),
            ("files at its end", |root| fs::remove_dir_all(root.join("d")).expect("rmdir")),
        ];
        for (place, change) in changes {
            let other = tree();
            change(other.path());
            let root = File::open(other.path()).expect("open");
            let verified = verify_base(root.as_fd(), one.digest(), one.marks());
            if place.is_empty() {
                verified.expect("the same");
                continue;
            }
            let error = verified.expect_err(place);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(place), "{place}: {error}");
            assert_ne!(read(&other).digest(), one.digest(), "{place}");
        }
    }

    #[test]
    fn what_cannot_be_a_base_is_refused() {
        let check = |digest: &str, entries: u64, marks: u64| {
            check_facts(&BaseFacts { digest: digest.to_owned(), entries }, marks)
        };
        let digest = format!("sha256:{}", "0".repeat(64));
        check(&digest, 2, 8).expect("can be");
        for (digest, entries, marks) in
            [(&digest[7..], 2, 8), ("sha256:0", 2, 8), (&digest, 2, 9), ("", 0, 0), (&digest, u64::MAX, 4)]
        {
            check(digest, entries, marks).expect_err("cannot be");
        }
    }
}
