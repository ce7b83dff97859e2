// SPDX-License-Identifier: Apache-2.0
//! Owns the laying of a round over what the rounds before have made. The stream is hostile: everything is resolved beneath the root, and
//! what a round uses is taken off the limits for those that follow. Must not know where the stream comes from.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;

use super::super::STREAM;
use super::super::apply::{Ignored, finish_open, remove_stale, split};
use super::super::over::{make_room, remove_path};
use super::super::unpack::{Ground, open_directory, unpack_entries};
use super::{END, MOVED, PATCH, PIECE, REMOVED, TAR};
use crate::archive::entry::{Entry, Kind};
use crate::archive::open::decoded;
use crate::archive::tar_reader::TarReader;
use crate::archive::{UnpackOptions, invalid, printable, unreadable};
use crate::{Context, Error, Result};

/// Lays one round over the tree beneath `root`, which is as the rounds before have left it. What it uses is taken off the limits.
///
/// # Errors
/// As unpacking a root filesystem. The tree is of no use then.
pub fn lay_round<R: Read>(root: BorrowedFd<'_>, from: R, options: &mut UnpackOptions) -> Result<()> {
    let mut from = Metered { inner: decoded(from)?, left: options.limits.total_bytes };
    loop {
        match from.array::<1>()? {
            [TAR] => {
                let mut tar = TarReader::new(&mut from, STREAM);
                let limits = &options.limits;
                let unpacked =
                    unpack_entries(&mut tar, root, Ground::Base, options.devices, limits, &mut ())?;
                options.limits.rootfs_entries = limits.rootfs_entries.saturating_sub(unpacked.entries);
            }
            [PATCH] => {
                options.limits.rootfs_entries = options
                    .limits
                    .rootfs_entries
                    .checked_sub(1)
                    .ok_or_else(|| invalid("files are changed again and again"))?;
                patch(root, &mut from, options)?;
            }
            [MOVED] => moved(root, &mut from, options.limits.path_length)?,
            [REMOVED] => removed(root, &mut from, options.limits.path_length)?,
            [END] => break,
            [other] => return Err(invalid(format!("a part of kind {other} of a root filesystem"))),
        }
    }
    if !from.fill_buf().map_err(|error| unreadable(error, STREAM))?.is_empty() {
        return Err(invalid("data after the end of a root filesystem"));
    }
    options.limits.total_bytes = from.left;
    Ok(())
}

/// Removes what is named.
fn removed<R: BufRead>(root: BorrowedFd<'_>, from: &mut Metered<R>, longest: usize) -> Result<()> {
    loop {
        let path = from.path(longest)?;
        if path.is_empty() {
            return Ok(());
        }
        remove_path(root, &path, longest)?;
    }
}

/// Gives a file another path.
fn moved<R: BufRead>(root: BorrowedFd<'_>, from: &mut Metered<R>, longest: usize) -> Result<()> {
    let (old, new) = (from.path(longest)?, from.path(longest)?);
    let attempt = || format!("rename {} to {}", printable(&old), printable(&new));
    let (old_parent, old_name) = split(&old, longest).context(attempt)?;
    let (new_parent, new_name) = split(&new, longest).context(attempt)?;
    if old_name.is_empty() || new_name.is_empty() {
        return Err(invalid("the root is moved"));
    }
    let (old_name, new_name) = (OsStr::from_bytes(old_name), OsStr::from_bytes(new_name));
    let old_dir = open_directory(root, old_parent, &old).context(attempt)?;
    let new_dir = open_directory(root, new_parent, &new).context(attempt)?;
    make_room(new_dir.as_fd(), new_name, &Entry::new(new.clone(), Kind::File), false)?;
    renameat(&old_dir, old_name, &new_dir, new_name).context(attempt)
}

/// Changes a file that is there.
fn patch<R: BufRead>(root: BorrowedFd<'_>, from: &mut Metered<R>, options: &UnpackOptions) -> Result<()> {
    let mut tar = TarReader::new(&mut *from, STREAM);
    let entry = tar.next()?.filter(|entry| entry.kind == Kind::File && entry.size == 0);
    let entry = entry.ok_or_else(|| invalid("a change of what is no file"))?;
    if tar.next()?.is_some() {
        return Err(invalid(format!("{}: a change of several files", printable(&entry.path))));
    }
    let attempt = || format!("change {}", printable(&entry.path));
    let file = opened(root, &entry, options.limits.path_length).context(attempt)?;
    let size = u64::from_le_bytes(from.array()?);
    loop {
        let (offset, length) =
            (u64::from_le_bytes(from.array()?), u32::from_le_bytes(from.array()?) as usize);
        if length == 0 {
            break;
        }
        if length > PIECE || offset.checked_add(length as u64).is_none_or(|end| end > size) {
            return Err(invalid(format!("{}: a piece that is not in it", printable(&entry.path))));
        }
        let mut piece = vec![0; length];
        from.fill(&mut piece)?;
        file.write_all_at(&piece, offset).context(attempt)?;
    }
    file.set_len(size).context(attempt)?;
    remove_stale(&file, &entry)?;
    // A host's attributes were told when it was made.
    finish_open(&file, &entry, &mut Ignored::new())
}

/// Opens the regular file that an entry names.
fn opened(root: BorrowedFd<'_>, entry: &Entry, longest: usize) -> Result<File> {
    let (parent, name) = split(&entry.path, longest)?;
    if name.is_empty() {
        return Err(invalid("the root is no file"));
    }
    let dir = open_directory(root, parent, &entry.path)?;
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let path = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let name = OsStr::from_bytes(name);
    // What is no regular file is not opened: that of a device could do anything.
    let looked_at = File::from(openat(dir.as_fd(), name, path, Mode::empty()).context(|| "look at it")?);
    if !looked_at.metadata().context(|| "look at it")?.is_file() {
        return Err(invalid("it is no regular file"));
    }
    openat(dir.as_fd(), name, flags, Mode::empty()).map(File::from).context(|| "open it")
}

/// A stream with an end.
struct Metered<R> {
    inner: R,
    left: u64,
}

impl<R: BufRead> Metered<R> {
    fn fill(&mut self, to: &mut [u8]) -> Result<()> {
        self.read_exact(to).map_err(|error| unreadable(error, STREAM))
    }

    fn path(&mut self, longest: usize) -> Result<Vec<u8>> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        if length > longest {
            return Err(invalid(format!("a path of {length} bytes")));
        }
        let mut path = vec![0; length];
        self.fill(&mut path).map(|()| path)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes).map(|()| bytes)
    }
}

impl<R: BufRead> BufRead for Metered<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let bytes = self.inner.fill_buf()?;
        if bytes.is_empty() || self.left > 0 {
            let most = usize::try_from(self.left).unwrap_or(usize::MAX);
            return Ok(bytes.get(..most).unwrap_or(bytes));
        }
        let full: Error = invalid("a root filesystem is larger than it may be");
        Err(io::Error::other(full))
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        self.left = self.left.saturating_sub(amount as u64);
    }
}

impl<R: BufRead> Read for Metered<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let length = available.read(to)?;
        self.consume(length);
        Ok(length)
    }
}
