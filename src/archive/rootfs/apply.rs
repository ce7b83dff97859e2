// SPDX-License-Identifier: Apache-2.0
//! Owns what is set on a file once it exists: owner, then mode (a change of owner clears set-id bits), then extended
//! attributes (it clears capabilities too), the times last; and the writing of file data with holes.
//!
//! Must not know where the facts come from.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};

use super::path_in;
use crate::archive::entry::{Entry, Kind, Xattr};
use crate::archive::{Progress, invalid, printable, unreadable};
use crate::sys::beneath::open_beneath;
use crate::{Context, Result};

/// Holes are made of whole blocks of this size.
const HOLE: usize = 4096;

static ZEROES: [u8; HOLE] = [0; HOLE];

/// Names of ignored attributes that are kept for the report, at most.
const NAMES_MAX: usize = 32;

/// Names of the extended attributes that were not set.
pub(super) type Ignored = BTreeSet<String>;

/// Sets everything on an open regular file or directory.
pub(super) fn finish_open(file: &File, entry: &Entry, ignored: &mut Ignored) -> Result<()> {
    let of = |what| attempt(what, entry);
    fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid))).context(of("owner"))?;
    fchmod(file, Mode::from_bits_truncate(entry.mode)).context(of("mode"))?;
    for xattr in accepted(entry, ignored) {
        let name = OsStr::from_bytes(&xattr.name);
        xattr::FileExt::set_xattr(file, name, &xattr.value).context(|| of_xattr(entry, xattr))?;
    }
    futimens(file, &TimeSpec::UTIME_OMIT, &modified(entry)).context(of("time"))
}

/// Sets everything on a file that is not opened: a symbolic link, a device, a fifo.
pub(super) fn finish_named(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    entry: &Entry,
    ignored: &mut Ignored,
) -> Result<()> {
    let of = |what| attempt(what, entry);
    let owner = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    fchownat(dir, name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW).context(of("owner"))?;
    if entry.kind != Kind::Symlink {
        let mode = Mode::from_bits_truncate(entry.mode);
        fchmodat(dir, name, mode, FchmodatFlags::NoFollowSymlink).context(of("mode"))?;
    }
    for xattr in accepted(entry, ignored) {
        let file = path_in(dir, name);
        xattr::set(&file, OsStr::from_bytes(&xattr.name), &xattr.value).context(|| of_xattr(entry, xattr))?;
    }
    let flags = UtimensatFlags::NoFollowSymlink;
    utimensat(dir, name, &TimeSpec::UTIME_OMIT, &modified(entry), flags).context(of("time"))
}

/// Writes the data of the current entry, blocks of zeros as holes.
pub(in crate::archive) fn write_sparse<R: BufRead>(
    data: &mut R,
    file: &File,
    entry: &Entry,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut position = 0;
    let mut written_to = 0;
    loop {
        let bytes = match data.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(|error| unreadable(error, &printable(&entry.path)))?,
        };
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        written_to = write_runs(file, bytes, position)
            .context(|| format!("write {}", printable(&entry.path)))?
            .unwrap_or(written_to);
        position += length as u64;
        data.consume(length);
        progress.advance(length as u64);
    }
    if written_to < position {
        file.set_len(position).context(|| format!("write {}", printable(&entry.path)))?;
    }
    Ok(())
}

/// Writes what is not a block of zeros; returns where the last write ended.
fn write_runs(file: &File, bytes: &[u8], position: u64) -> io::Result<Option<u64>> {
    let mut end = None;
    let mut at = 0;
    // The pending run of bytes that are to be written.
    let mut run = 0..0;
    while at < bytes.len() {
        let to_boundary = HOLE - ((position + at as u64) % HOLE as u64) as usize;
        let block = &bytes[at..bytes.len().min(at + to_boundary)];
        if *block == ZEROES[..block.len()] {
            if !run.is_empty() {
                file.write_all_at(&bytes[run.clone()], position + run.start as u64)?;
                end = Some(position + run.end as u64);
            }
            run = at + block.len()..at + block.len();
        } else {
            run.end = at + block.len();
        }
        at += block.len();
    }
    if !run.is_empty() {
        file.write_all_at(&bytes[run.clone()], position + run.start as u64)?;
        end = Some(position + run.end as u64);
    }
    Ok(end)
}

/// The attributes that an archive may set: those that belong to the file. Labels and hashes of the security modules
/// belong to the host.
fn accepted<'e>(entry: &'e Entry, ignored: &mut Ignored) -> Vec<&'e Xattr> {
    let (accepted, others): (Vec<_>, Vec<_>) =
        entry.xattrs.iter().partition(|xattr| belongs_to_file(&xattr.name));
    for other in others {
        if ignored.len() < NAMES_MAX {
            ignored.insert(printable(&other.name));
        }
    }
    accepted
}

/// Whether an attribute of this name belongs to the file.
pub(super) fn belongs_to_file(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.overlay.")
        || matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// Removes the attributes of a directory that was there which its entry has not.
pub(super) fn remove_stale(directory: &File, entry: &Entry) -> Result<()> {
    let attempt = || format!("remove extended attributes of {}", printable(&entry.path));
    let names = match xattr::FileExt::list_xattr(directory) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
        names => names.context(attempt)?,
    };
    for name in names {
        let bytes = name.as_bytes();
        if belongs_to_file(bytes) && !entry.xattrs.iter().any(|xattr| xattr.name == bytes) {
            xattr::FileExt::remove_xattr(directory, &name).context(attempt)?;
        }
    }
    Ok(())
}

fn modified(entry: &Entry) -> TimeSpec {
    TimeSpec::new(entry.mtime.0, i64::from(entry.mtime.1))
}

fn attempt(what: &'static str, entry: &Entry) -> impl FnOnce() -> String {
    move || format!("set {what} of {}", printable(&entry.path))
}

fn of_xattr(entry: &Entry, xattr: &Xattr) -> String {
    format!("set extended attribute {} of {}", printable(&xattr.name), printable(&entry.path))
}

/// The path of an entry, taken apart: its directory and its name, both empty for the root.
pub(super) fn split(path: &[u8], longest: usize) -> Result<(&[u8], &[u8])> {
    let refused = |why: &str| Err(invalid(format!("{}: {why}", printable(path))));
    if path.len() > longest {
        return refused("the path is too long");
    }
    if path.first() == Some(&b'/') {
        return refused("an absolute path");
    }
    let path_of = path.strip_prefix(b"./").unwrap_or(path);
    let path_of = path_of.strip_suffix(b"/").unwrap_or(path_of);
    if path_of.is_empty() || path_of == b"." {
        return Ok((b"", b""));
    }
    for component in path_of.split(|byte| *byte == b'/') {
        match component {
            b".." => return refused("a path with \"..\" in it"),
            b"" | b"." => return refused("a path that is not in its simplest form"),
            _ if component.len() > 255 => return refused("a name that is too long"),
            _ if component.contains(&0) => return refused("a name with a NUL byte"),
            _ => {}
        }
    }
    Ok(match path_of.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path_of[..slash], &path_of[slash + 1..]),
        None => (b"", path_of),
    })
}

/// Opens a directory that was made before (an empty path: the root itself) for what is to be set on it.
pub(super) fn reopened(dir: BorrowedFd<'_>, path: &[u8]) -> nix::Result<File> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    open_beneath(dir, path, flags, Mode::empty()).map(File::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn paths_are_taken_apart_or_refused() {
        for (path, expected) in [
            (&b"./"[..], (&b""[..], &b""[..])),
            (b".", (b"", b"")),
            (b"a", (b"", b"a")),
            (b"a/", (b"", b"a")),
            (b"./a/b", (b"a", b"b")),
            (b"a/b\xff/..c", (b"a/b\xff", b"..c")),
        ] {
            assert_eq!(split(path, 100).expect("a good path"), expected);
        }
        let long = [b'x'; 256];
        for path in [
            &b"/a"[..],
            b"/",
            b"..",
            b"a/..",
            b"a/../b",
            b"../a",
            b"a//b",
            b"a/./b",
            b"././a",
            b"a\0b",
            &long,
        ] {
            let error = split(path, 1000).expect_err("a bad path");
            assert_eq!(error.kind(), crate::ErrorKind::InvalidArchive);
            assert!(error.to_string().contains(&printable(path)), "{error}");
        }
        assert!(split(b"abc", 2).is_err());
    }

    #[test]
    fn zeros_become_holes_and_the_content_stays() {
        for (size, filled) in [
            (0, vec![]),
            (10, vec![]),
            (1 << 20, vec![]),
            (1 << 20, vec![0, 70_000, (1 << 20) - 1]),
            (9000, vec![4095, 8999]),
        ] {
            let mut data = vec![0; size];
            for at in &filled {
                data[*at] = 1;
            }
            let file = tempfile::tempfile().expect("a temporary file");
            let entry = Entry { size: size as u64, ..Entry::new("f", Kind::File) };
            let mut reader = io::BufReader::with_capacity(5000, &data[..]);
            write_sparse(&mut reader, &file, &entry, &mut ()).expect("write");
            let metadata = file.metadata().expect("stat");
            assert_eq!(metadata.len(), size as u64);
            assert!(
                metadata.blocks() * 512 <= filled.len() as u64 * 4096,
                "{size}: {} blocks",
                metadata.blocks()
            );
            let mut found = vec![9; size];
            file.read_exact_at(&mut found, 0).expect("read");
            assert!(found == data, "{size}");
        }
    }
}
