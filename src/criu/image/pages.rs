// SPDX-License-Identifier: Apache-2.0
//! Whether the memory in a directory of images is whole. CRIU does not look: from a file of pages that is cut short it reads
//! nothing, for ever.
//!
//! ```text
//! pstree.img      the processes
//! pagemap-PID.img first the number of the file of pages, then runs of pages, in the order in which they stand there
//! pages-N.img     the pages
//! ```

use std::os::fd::BorrowedFd;

use nix::unistd::{SysconfVar, sysconf};

use super::proto::criu_images::{PagemapEntry, PagemapHead, PstreeEntry};
use super::{Image, ImageFile, Kind, open};
use crate::{Context, Error, ErrorKind, Result};

/// The page is in the file.
const PRESENT: u32 = 4;

/// Makes sure that the file of pages is at least as long as the first process's table of pages says. Only that one is sure to be
/// of this dump: a directory that was used before has tables of processes that are gone.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`], naming the file; else when a file cannot be read.
pub fn check_pages(images: BorrowedFd<'_>) -> Result<()> {
    let Some(mut tree) = ImageFile::open(images, "pstree.img", Kind::Tree)? else { return Ok(()) };
    let first = tree.next::<PstreeEntry>().context(|| "read pstree.img")?;
    let Some(pid) = first.and_then(|first| first.pid) else { return Ok(()) };
    let name = format!("pagemap-{pid}.img");
    let Some(mut table) = ImageFile::open(images, &name, Kind::Pagemap)? else { return Ok(()) };
    match read_table(&mut table).context(|| format!("read {name}"))? {
        Some((file, count)) => check_length(images, file, count),
        None => Ok(()),
    }
}

fn check_length(images: BorrowedFd<'_>, file: u32, count: u64) -> Result<()> {
    let name = format!("pages-{file}.img");
    let expected = count.saturating_mul(page_size()?);
    let length = match open(images, &name)? {
        Some(file) => file.metadata().context(|| format!("stat {name}"))?.len(),
        None if expected == 0 => return Ok(()),
        None => {
            let message = format!("{name} is missing in the image directory");
            return Err(Error::new(ErrorKind::InvalidArchive, message));
        }
    };
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

/// The number of the file of pages, and how many pages it must have for this table; `None` of an empty one.
fn read_table<R: std::io::Read>(table: &mut Image<R>) -> Result<Option<(u32, u64)>> {
    let Some(file) = table.next::<PagemapHead>()?.and_then(|head| head.pages_id) else { return Ok(None) };
    let mut pages: u64 = 0;
    while let Some(entry) = table.next::<PagemapEntry>()? {
        pages = pages.saturating_add(pages_of(&entry));
    }
    Ok(Some((file, pages)))
}

/// How many pages of a run are in the file.
fn pages_of(entry: &PagemapEntry) -> u64 {
    let is_present = match entry.flags {
        Some(flags) => flags & PRESENT != 0,
        None => entry.in_parent != Some(true),
    };
    let count = entry.nr_pages.or(entry.compat_nr_pages.map(u64::from)).unwrap_or(0);
    if is_present { count } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use super::super::written;
    use super::*;

    /// One table: file 1, and these messages.
    fn table(entries: &[&[u8]]) -> Vec<u8> {
        written(Kind::Pagemap, &[&[&[8, 1][..]], entries].concat())
    }

    fn counted(entries: &[&[u8]]) -> Option<(u32, u64)> {
        let bytes = table(entries);
        read_table(&mut Image::read(&bytes[..], Kind::Pagemap).expect("a table")).expect("a good one")
    }

    #[test]
    fn pages_that_are_in_the_file_count() {
        // vaddr 0x1000, 3 pages, present; in the parent; lazy; the newer field of 300 pages; the oldest form.
        assert_eq!(counted(&[&[8, 0x80, 0x20, 16, 3, 32, 4]]), Some((1, 3)));
        assert_eq!(counted(&[&[8, 1, 16, 3, 32, 1], &[8, 1, 16, 2, 32, 2]]), Some((1, 0)));
        assert_eq!(counted(&[&[8, 1, 32, 4, 40, 0xac, 2]]), Some((1, 300)));
        assert_eq!(counted(&[&[8, 1, 16, 5], &[8, 1, 16, 5, 24, 1]]), Some((1, 5)));
        let empty = written(Kind::Pagemap, &[]);
        let mut empty = Image::read(&empty[..], Kind::Pagemap).expect("a table");
        assert_eq!(read_table(&mut empty).expect("of nothing"), None);
    }

    #[test]
    fn a_file_that_is_cut_short_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let images = File::open(dir.path()).expect("open");
        let size = page_size().expect("a size") as usize;
        check_pages(images.as_fd()).expect("there is no tree");
        fs::write(dir.path().join("pstree.img"), written(Kind::Tree, &[&[8, 1]])).expect("write");
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
