// SPDX-License-Identifier: Apache-2.0
//! Owns the writing of a root filesystem in two walks: the first measures, the second writes what was measured.
//!
//! The plan holds four bytes per file, never a name or content: its memory is small whatever the tree. Must not know
//! the archive around the nested tar.

use std::ffi::CStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::walk::{LeftOut, not_read, walk};
use crate::archive::entry::{BLOCK, Entry, Kind};
use crate::archive::sink::{Sink, changed};
use crate::archive::{Progress, printable};
use crate::{Error, ErrorKind, Result};

/// Bytes of the end mark.
const END: u64 = 2 * BLOCK;

/// What the first walk found.
#[derive(Debug)]
pub(in crate::archive) struct Plan {
    /// Size of the nested tar, in bytes.
    pub(in crate::archive) size: u64,
    /// Bytes of the files in it.
    pub(in crate::archive) file_bytes: u64,
    /// Of each entry in order, a digest of its header, and whether it is in the tar.
    entries: Vec<(u32, bool)>,
    left_out: LeftOut,
}

impl Plan {
    /// Number of entries in the tar.
    pub(in crate::archive) fn entries(&self) -> u64 {
        self.entries.iter().filter(|(_, chosen)| *chosen).count() as u64
    }

    /// Takes an entry without data along after all; does nothing if it is.
    pub(super) fn add(&mut self, index: usize, header: u64) {
        if let Some((_, chosen @ false)) = self.entries.get_mut(index) {
            *chosen = true;
            self.size += header;
        }
    }

    /// Sockets that are not in the tar.
    pub(in crate::archive) fn sockets(&self) -> u64 {
        self.left_out.sockets
    }

    /// Mount points, which are in the tar as empty directories or files.
    pub(in crate::archive) fn mount_points(&self) -> u64 {
        self.left_out.mount_points
    }
}

/// Measures the tree beneath `root`.
///
/// # Errors
/// `Unsupported` for a path or attributes that do not fit; `System` or `PermissionDenied` for what cannot be read.
pub(in crate::archive) fn plan(root: BorrowedFd<'_>) -> Result<Plan> {
    measure(root, &mut |_, _, _, _| Ok(true))
}

/// Who decides what is in the tar: looks at each entry, where its file is, and its index with the length of its header.
pub(super) type Choose<'a> = dyn FnMut(&Entry, BorrowedFd<'_>, &CStr, (usize, u64)) -> Result<bool> + 'a;

/// Measures what is chosen of the tree beneath `root`.
///
/// # Errors
/// As [`plan`], and those of the choice.
pub(super) fn measure(root: BorrowedFd<'_>, choose: &mut Choose<'_>) -> Result<Plan> {
    let mut plan = Plan { size: END, file_bytes: 0, entries: Vec::new(), left_out: LeftOut::default() };
    let mut header = Vec::new();
    plan.left_out = walk(root, &mut |entry, dir, name| {
        header.clear();
        entry.encode(&mut header);
        let chosen = choose(&entry, dir, name, (plan.entries.len(), header.len() as u64))?;
        plan.entries.push((fingerprint(&header), chosen));
        if chosen {
            let size = entry.padded_size().and_then(|data| data.checked_add(header.len() as u64));
            plan.size = size.and_then(|size| plan.size.checked_add(size)).ok_or_else(|| too_large(&entry))?;
            plan.file_bytes += entry.size;
        }
        Ok(())
    })?;
    Ok(plan)
}

/// Writes the tree beneath `root` exactly as planned.
///
/// # Errors
/// `System`, naming the path, if the tree is not as it was planned; else as reading and writing.
pub(in crate::archive) fn emit<W: std::io::Write>(
    plan: &Plan,
    root: BorrowedFd<'_>,
    sink: &mut Sink<W>,
    progress: &mut dyn Progress,
) -> Result<()> {
    let end = sink.offset().saturating_add(plan.size);
    let mut header = Vec::new();
    let mut planned = plan.entries.iter();
    walk(root, &mut |entry, dir, name| {
        header.clear();
        entry.encode(&mut header);
        match planned.next() {
            Some((planned, chosen)) if *planned == fingerprint(&header) => {
                if *chosen {
                    put(sink, &header, &entry, (dir, name), progress)
                } else {
                    Ok(())
                }
            }
            _ => Err(changed(&printable(&entry.path), "changed or appeared, or a file before it vanished,")),
        }
    })?;
    sink.put(&[0; END as usize])?;
    if planned.next().is_some() || sink.offset() != end {
        return Err(changed("the root filesystem", "lost files"));
    }
    Ok(())
}

/// Writes the tree beneath `root` in one walk, as long as that takes no more than `most` bytes, holes counted.
///
/// # Errors
/// `Unsupported` for a larger one; else as reading and writing.
pub(in crate::archive) fn emit_small<W: std::io::Write>(
    root: BorrowedFd<'_>,
    sink: &mut Sink<W>,
    most: u64,
) -> Result<()> {
    let mut room = most;
    let mut header = Vec::new();
    walk(root, &mut |entry, dir, name| {
        header.clear();
        entry.encode(&mut header);
        let size = entry.size.saturating_add(header.len() as u64);
        room = room.checked_sub(size).ok_or_else(|| too_large(&entry))?;
        put(sink, &header, &entry, (dir, name), &mut ())
    })?;
    sink.put(&[0; END as usize])
}

/// Writes an entry: its encoded header, and what is in the file.
fn put<W: std::io::Write>(
    sink: &mut Sink<W>,
    header: &[u8],
    entry: &Entry,
    (dir, name): (BorrowedFd<'_>, &CStr),
    progress: &mut dyn Progress,
) -> Result<()> {
    sink.put(header)?;
    if entry.kind == Kind::File && entry.size > 0 {
        let file = open_file(dir, name).map_err(|errno| not_read(errno, &entry.path, "open"))?;
        sink.put_file(&file, entry.size, &|| printable(&entry.path), progress)?;
        sink.pad()?;
    }
    Ok(())
}

/// Opens a file for reading, if possible without leaving a trace in its access time.
pub(super) fn open_file(dir: BorrowedFd<'_>, name: &CStr) -> nix::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let opened = match openat(dir, name, flags | OFlag::O_NOATIME, Mode::empty()) {
        Err(Errno::EPERM) => openat(dir, name, flags, Mode::empty()),
        other => other,
    };
    opened.map(File::from)
}

fn fingerprint(header: &[u8]) -> u32 {
    let mut hasher = DefaultHasher::new();
    hasher.write(header);
    hasher.finish() as u32
}

fn too_large(entry: &Entry) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{} is too large to be archived", printable(&entry.path)))
}
