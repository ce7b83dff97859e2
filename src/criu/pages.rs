// SPDX-License-Identifier: Apache-2.0
//! Whether the memory in a directory of images is whole. CRIU does not look: from a file of pages that is cut short it reads
//! nothing, for ever.
//!
//! ```text
//! pstree.img      the processes, in the form of the next
//! pagemap-PID.img magic, magic, then length (u32) and message, again and again: first the number of the file of pages,
//!                 then runs of pages, in the order in which they stand there
//! pages-N.img     the pages
//! ```
//! Source: CRIU's images/pagemap.proto, criu/include/pagemap.h. What is not understood is left to CRIU.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{SysconfVar, sysconf};

use crate::{Context, Error, ErrorKind, Result};

/// Of images with one common magic number, and of a table of pages.
const MAGIC: [u32; 2] = [0x5456_4319, 0x5608_4025];

/// A message is shorter, in bytes.
const LONGEST_MESSAGE: u32 = 256;

/// The page is in the parent's images.
const IN_PARENT: u64 = 1;

/// The page is in the file.
const PRESENT: u64 = 4;

/// Field of `pstree_entry`.
const PID: u64 = 1;

/// Fields of `pagemap_head` and `pagemap_entry`.
const PAGES_ID: u64 = 1;
const COMPAT_NR_PAGES: u64 = 2;
const COMPAT_IN_PARENT: u64 = 3;
const FLAGS: u64 = 4;
const NR_PAGES: u64 = 5;

/// Makes sure that the file of pages is at least as long as the first process's table of pages says. Only that one is sure to be
/// of this dump: a directory that was used before has tables of processes that are gone.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`], naming the file; else when a file cannot be read.
pub fn check_pages(images: BorrowedFd<'_>) -> Result<()> {
    let open = |name: &str| -> Result<Option<BufReader<File>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        match openat(images, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(BufReader::new(File::from(file)))),
            Err(nix::errno::Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno).context(|| format!("open {name} in the image directory")),
        }
    };
    let Some(mut tree) = open("pstree.img")? else { return Ok(()) };
    let Some(pid) = read_first_pid(&mut tree).context(|| "read pstree.img in the image directory")? else {
        return Ok(());
    };
    let name = format!("pagemap-{pid}.img");
    let Some(mut table) = open(&name)? else { return Ok(()) };
    match read_table(&mut table).context(|| format!("read {name} in the image directory"))? {
        Some((file, count)) => check_length(images, file, count),
        None => Ok(()),
    }
}

/// The first process of a tree.
fn read_first_pid(tree: &mut impl Read) -> io::Result<Option<u64>> {
    for _ in MAGIC {
        if read_number(tree)?.is_none() {
            return Ok(None);
        }
    }
    let first = read_message(tree)?.unwrap_or_default();
    Ok(Fields(&first).find_map(|(field, value)| (field == PID).then_some(value)))
}

fn check_length(images: BorrowedFd<'_>, file: u64, count: u64) -> Result<()> {
    let name = format!("pages-{file}.img");
    let expected = count.saturating_mul(page_size()?);
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = match openat(images.as_fd(), name.as_str(), flags, Mode::empty()) {
        Err(nix::errno::Errno::ENOENT) if expected > 0 => {
            let message = format!("{name} is missing in the image directory");
            return Err(Error::new(ErrorKind::InvalidArchive, message));
        }
        Err(nix::errno::Errno::ENOENT) => return Ok(()),
        opened => opened.context(|| format!("open {name} in the image directory"))?,
    };
    let length = File::from(opened).metadata().context(|| format!("stat {name}"))?.len();
    if length >= expected {
        return Ok(());
    }
    let message =
        format!("{name} in the image directory is cut short: {expected} bytes of memory, {length} are there");
    Err(Error::new(ErrorKind::InvalidArchive, message))
}

fn page_size() -> Result<u64> {
    let size = sysconf(SysconfVar::PAGE_SIZE).context(|| "sysconf(_SC_PAGESIZE)")?;
    Ok(size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096))
}

/// The number of the file of pages, and how many pages it must have for this table; `None` for what is no table that
/// we know.
fn read_table(table: &mut impl Read) -> io::Result<Option<(u64, u64)>> {
    for magic in MAGIC {
        if read_number(table)? != Some(magic) {
            return Ok(None);
        }
    }
    let Some(head) = read_message(table)? else { return Ok(None) };
    let Some(file) = Fields(&head).find_map(|(field, value)| (field == PAGES_ID).then_some(value)) else {
        return Ok(None);
    };
    let mut pages: u64 = 0;
    while let Some(entry) = read_message(table)? {
        pages = pages.saturating_add(pages_of(&entry));
    }
    Ok(Some((file, pages)))
}

/// How many pages of a run are in the file.
fn pages_of(entry: &[u8]) -> u64 {
    let value = |wanted| Fields(entry).filter(|(field, _)| *field == wanted).map(|(_, value)| value).last();
    let in_parent = value(COMPAT_IN_PARENT).map_or(0, |yes| yes * IN_PARENT);
    let is_present = match value(FLAGS) {
        Some(flags) => flags & PRESENT != 0,
        None => in_parent == 0,
    };
    let count = value(NR_PAGES).or_else(|| value(COMPAT_NR_PAGES)).unwrap_or(0);
    if is_present { count } else { 0 }
}

fn read_number(table: &mut impl Read) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    match table.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(u32::from_le_bytes(bytes))),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

/// The next message; `None` at the end, and where there is none of a length that could be.
fn read_message(table: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let Some(length) = read_number(table)?.filter(|length| *length <= LONGEST_MESSAGE) else {
        return Ok(None);
    };
    let mut message = Vec::new();
    table.take(u64::from(length)).read_to_end(&mut message)?;
    Ok(Some(message))
}

/// The fields of a message that are numbers, up to the first that is none.
struct Fields<'a>(&'a [u8]);

impl Iterator for Fields<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let key = varint(&mut self.0)?;
        if key & 7 != 0 {
            return None;
        }
        Some((key >> 3, varint(&mut self.0)?))
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// One table: file 1, and these messages.
    fn table(entries: &[&[u8]]) -> Vec<u8> {
        let mut bytes: Vec<u8> = MAGIC.into_iter().flat_map(u32::to_le_bytes).collect();
        for message in [&[&[8, 1][..]], entries].concat() {
            bytes.extend(u32::try_from(message.len()).expect("short").to_le_bytes());
            bytes.extend(message);
        }
        bytes
    }

    fn counted(entries: &[&[u8]]) -> Option<(u64, u64)> {
        read_table(&mut &table(entries)[..]).expect("no error of reading")
    }

    #[test]
    fn pages_that_are_in_the_file_count() {
        // vaddr 0x1000, 3 pages, present; in the parent; lazy; the newer field of 300 pages; the oldest form.
        assert_eq!(counted(&[&[8, 0x80, 0x20, 16, 3, 32, 4]]), Some((1, 3)));
        assert_eq!(counted(&[&[8, 1, 16, 3, 32, 1], &[8, 1, 16, 2, 32, 2]]), Some((1, 0)));
        assert_eq!(counted(&[&[8, 1, 32, 4, 40, 0xac, 2]]), Some((1, 300)));
        assert_eq!(counted(&[&[8, 1, 16, 5], &[8, 1, 16, 5, 24, 1]]), Some((1, 5)));
    }

    #[test]
    fn what_is_no_table_is_left_to_criu() {
        for bytes in [&b""[..], b"short", &[0; 64], &table(&[])[..8], &table(&[])[..11]] {
            assert_eq!(read_table(&mut &*bytes).expect("no error"), None, "{bytes:?}");
        }
        let mut huge = table(&[]);
        huge.extend(u32::MAX.to_le_bytes());
        assert_eq!(read_table(&mut &huge[..]).expect("no error"), Some((1, 0)));
        assert_eq!(counted(&[&[0xff; 20]]), Some((1, 0)));
    }

    #[test]
    fn a_file_that_is_cut_short_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let images = File::open(dir.path()).expect("open");
        let size = page_size().expect("a size") as usize;
        check_pages(images.as_fd()).expect("there is no tree");
        fs::write(dir.path().join("pstree.img"), table(&[])).expect("write");
        fs::write(dir.path().join("pagemap-1.img"), table(&[&[8, 1, 16, 2, 32, 4]])).expect("write");
        // Of another dump.
        fs::write(dir.path().join("pagemap-7.img"), table(&[&[8, 1, 16, 9, 32, 4]])).expect("write");
        let error = check_pages(images.as_fd()).expect_err("there are no pages");
        assert_eq!(error.to_string(), "pages-1.img is missing in the image directory");
        fs::write(dir.path().join("pages-1.img"), vec![0; 2 * size - 1]).expect("write");
        let error = check_pages(images.as_fd()).expect_err("a byte is missing");
        assert_eq!(error.kind(), ErrorKind::InvalidArchive);
        assert!(error.to_string().contains("is cut short"), "{error}");
        fs::write(dir.path().join("pages-1.img"), vec![0; 2 * size]).expect("write");
        check_pages(images.as_fd()).expect("it is whole");
    }
}
