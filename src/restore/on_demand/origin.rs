// SPDX-License-Identifier: Apache-2.0
//! Owns where the memory of a restore on demand comes from: an archive, each part of which has a digest, or what has come from another
//! host, files of pages among the images and a store of what was sent while the processes still ran there.
//!
//! ```text
//! Archive: pages-*.img in frames ──┐
//!                                  ├─▶ Pages: any of them, and what is beside it
//! Images:  pages-*.img, a store ───┘
//! ```
//! The store is the file of pages with the number 0, which CRIU gives none.
//! Must not know whose pages they are, nor what is missing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use super::missing::Piece;
use super::{can_bring_memory, page_tables};
use crate::archive::Memory;
use crate::criu::image::{Kept, PAGE, page_table};
use crate::engine::NewContainer;
use crate::pages::store::{Place, StoreReader};
use crate::sys::beneath::open_beneath;
use crate::sys::{self, fd::proc_path};
use crate::{Context, Error, ErrorKind, Result};

/// Bytes that are read at once: a multiple of pages that a thread which waits for one of them can wait for.
const BLOCK: u64 = 256 << 10;

/// The number of the store.
const STORE: u32 = 0;

/// The longest image that is read into memory.
const IMAGE: u64 = 64 << 20;

/// Where it is, for who starts the provider.
#[derive(Debug)]
pub(in crate::restore) enum Origin {
    /// In an archive.
    Archive(File),
    /// Among the images, as a peer has sent them, and in the store in this directory.
    Peer(Option<File>),
}

/// The same, without descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Archive,
    Peer,
}

impl Origin {
    /// Whether the memory of this container, with these images, comes on demand. Else CRIU reads all of it, and the container waits for
    /// that: also where memory may not suffice, for that must be seen while somebody still has another copy of the container.
    ///
    /// # Errors
    /// `Unsupported` if it cannot come in any way; when images or `/proc` cannot be read.
    pub(in crate::restore) fn comes_on_demand(
        &self,
        new: &NewContainer,
        images: BorrowedFd<'_>,
    ) -> Result<bool> {
        let Self::Peer(store) = self else { return Ok(true) };
        let possible = can_bring_memory(new.user_namespace().is_some());
        let available = sys::proc::available_memory().context(|| "read how much memory is available")?;
        if possible && fits(brought(images)?, new.memory_limit(), available) {
            return Ok(true);
        }
        if store.is_none() {
            return Ok(false);
        }
        let why =
            if possible { "it is more than there is here" } else { "the kernel does not allow that here" };
        let message = format!("the other host has sent memory that can only be brought on demand: {why}");
        Err(Error::new(ErrorKind::Unsupported, message).with_hint("move it with --memory-rounds 0"))
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Archive(_) => Kind::Archive,
            Self::Peer(_) => Kind::Peer,
        }
    }

    /// What it is in, with these images: one descriptor, or two.
    pub(super) fn descriptors<'a>(&'a self, images: BorrowedFd<'a>) -> Vec<BorrowedFd<'a>> {
        match self {
            Self::Archive(file) => vec![file.as_fd()],
            Self::Peer(store) => {
                [Some(images), store.as_ref().map(AsFd::as_fd)].into_iter().flatten().collect()
            }
        }
    }
}

/// How many bytes of memory are brought to processes with these images.
fn brought(images: BorrowedFd<'_>) -> Result<u64> {
    let images = Images::new(images.try_clone_to_owned().context(|| "duplicate a descriptor")?, None);
    let mut pages: u64 = 0;
    for name in page_tables(&proc_path(images.directory.as_fd()))? {
        let table =
            page_table(&images.image(&name)?.unwrap_or_default()).context(|| format!("read {name}"))?;
        let brought =
            table.runs.iter().filter(|run| run.on_demand && matches!(run.kept, Kept::Here | Kept::Lazy));
        pages = brought.fold(pages, |sum, run| sum.saturating_add(run.pages));
    }
    Ok(pages.saturating_mul(PAGE))
}

/// Whether so much memory can be had under a limit, of what is available, all in bytes. Some of it is the kernel's for its tables.
fn fits(bytes: u64, limit: Option<u64>, available: u64) -> bool {
    let most = limit.unwrap_or(u64::MAX).min(available);
    bytes <= most - most / 64
}

/// All pages.
#[derive(Debug)]
pub(super) enum Pages {
    Archive(Box<Memory>),
    Images(Images),
}

impl Pages {
    /// Opens it, by [`Origin::descriptors`].
    ///
    /// # Errors
    /// When it is no archive of which parts can be read, or a store that is not whole.
    pub(super) fn open(kind: Kind, origin: Vec<OwnedFd>) -> Result<Self> {
        let mut origin = origin.into_iter();
        let none = || Error::new(ErrorKind::System, "memory from nowhere");
        let (first, second) = (origin.next().ok_or_else(none)?, origin.next());
        match kind {
            Kind::Archive => Memory::open(File::from(first)).map(|memory| Self::Archive(Box::new(memory))),
            Kind::Peer => {
                let store = second.map(|directory| StoreReader::open(&proc_path(directory.as_fd())));
                Ok(Self::Images(Images::new(first, store.transpose()?)))
            }
        }
    }

    /// An image beside the pages; `None` if there is none of that name.
    ///
    /// # Errors
    /// When it is too long, damaged, or cannot be read.
    pub(super) fn image(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Archive(memory) => memory.image(name),
            Self::Images(images) => images.image(name),
        }
    }

    /// Makes sure that so much of a file of pages can be had, whatever becomes of its name.
    ///
    /// # Errors
    /// `InvalidArchive` if there is less of it.
    pub(super) fn require(&mut self, file: u32, length: u64) -> Result<()> {
        match self {
            // What is there is known when it is read: it has digests.
            Self::Archive(_) => Ok(()),
            Self::Images(images) => images.require(file, length),
        }
    }

    /// Where the pages of these addresses are that are not in a file of pages of the process: what is in none of the pieces is zero.
    ///
    /// # Errors
    /// `InvalidArchive` if not all of them are there.
    pub(super) fn stored(&self, pid: i32, addresses: &Range<u64>) -> Result<Vec<(u64, Piece)>> {
        let (Self::Images(Images { store: Some(store), .. }), Ok(number)) = (self, u32::try_from(pid)) else {
            let message = format!("memory of process {pid} at {:#x} is not here", addresses.start);
            return Err(Error::new(ErrorKind::InvalidArchive, message));
        };
        let piece = |(address, length, place)| match place {
            Place::At(offset) => Some((address, Piece { file: STORE, offset, length })),
            Place::Zeros => None,
        };
        Ok(store.places(number, addresses)?.into_iter().filter_map(piece).collect())
    }

    /// Pages that can be had at once, among them the one at this place of the file: where they begin, and their bytes.
    ///
    /// # Errors
    /// `InvalidArchive` if there is no such place, or if what is there is damaged.
    pub(super) fn around(&mut self, file: u32, at: u64) -> Result<(u64, &[u8])> {
        match self {
            Self::Archive(memory) => memory.pages(file, at, PAGE),
            Self::Images(images) => images.around(file, at),
        }
    }

    /// The next part of what is to be compared with its digest, as it is read anyway: the file, where it begins, and its bytes.
    /// `None` when all of it has been compared.
    ///
    /// # Errors
    /// `InvalidArchive` if a digest is wrong, or a part is damaged.
    pub(super) fn verify_next(&mut self) -> Result<Option<(u32, u64, &[u8])>> {
        match self {
            Self::Archive(memory) => memory.verify_next(),
            // That all of it is there was seen before anything of it was needed.
            Self::Images(_) => Ok(None),
        }
    }
}

/// Files of pages in a directory of images, and a store. They may lose their names once they are open.
#[derive(Debug)]
pub(super) struct Images {
    directory: OwnedFd,
    open: BTreeMap<u32, File>,
    store: Option<StoreReader>,
    /// The block that was read last: its file, where it begins, and its bytes.
    block: (u32, u64, Vec<u8>),
}

impl Images {
    fn new(directory: OwnedFd, store: Option<StoreReader>) -> Self {
        Self { directory, open: BTreeMap::new(), store, block: (STORE, 0, Vec::new()) }
    }

    fn file(&self, name: &str) -> Result<Option<File>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        match open_beneath(self.directory.as_fd(), name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(File::from(file))),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e).context(|| format!("open {name}")),
        }
    }

    fn image(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(IMAGE + 1).read_to_end(&mut bytes).context(|| format!("read {name}"))?;
        if bytes.len() as u64 > IMAGE {
            return Err(Error::new(
                ErrorKind::InvalidArchive,
                format!("{name} is longer than {IMAGE} bytes"),
            ));
        }
        Ok(Some(bytes))
    }

    fn require(&mut self, id: u32, length: u64) -> Result<()> {
        let name = name(id);
        if id == STORE {
            return Err(Error::new(ErrorKind::InvalidArchive, format!("criu makes no {name}")));
        }
        if !self.open.contains_key(&id) {
            let missing = || Error::new(ErrorKind::InvalidArchive, format!("there is no {name}"));
            let file = self.file(&name)?.ok_or_else(missing)?;
            self.open.insert(id, file);
        }
        let size = self.open.get(&id).map(File::metadata).transpose();
        let size = size.context(|| format!("stat {name}"))?.map_or(0, |metadata| metadata.len());
        if size >= length { Ok(()) } else { Err(beyond(id, length)) }
    }

    fn around(&mut self, id: u32, at: u64) -> Result<(u64, &[u8])> {
        let begin = at - at % BLOCK;
        if let (STORE, Some(store)) = (id, &mut self.store) {
            // Where its pages are, it has said itself.
            let length = BLOCK.min(store.size()?.saturating_sub(begin));
            return store.read(begin, length).map(|bytes| (begin, bytes));
        }
        let end_of_page = (at - begin) + PAGE;
        let (file, start, bytes) = &mut self.block;
        if (*file, *start) != (id, begin) || (bytes.len() as u64) < end_of_page {
            let from = self.open.get(&id).ok_or_else(|| beyond(id, at + PAGE))?;
            (*file, *start) = (id, begin);
            bytes.resize(BLOCK as usize, 0);
            let read = read_at(from, bytes, begin).context(|| format!("read {}", name(id)));
            bytes.truncate(*read.as_ref().unwrap_or(&0));
            bytes.truncate(bytes.len() - bytes.len() % PAGE as usize);
            read?;
        }
        if (bytes.len() as u64) < end_of_page {
            return Err(beyond(id, at + PAGE));
        }
        Ok((begin, bytes))
    }
}

/// As much as there is, up to the length of the buffer.
fn read_at(file: &File, to: &mut [u8], from: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < to.len() {
        match file.read_at(&mut to[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn name(id: u32) -> String {
    format!("pages-{id}.img")
}

fn beyond(id: u32, length: u64) -> Error {
    Error::new(ErrorKind::InvalidArchive, format!("{} ends before {length}", name(id)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::pages::store::{Batch, StoreWriter};
    use crate::pages::track::Contents;

    const P: usize = PAGE as usize;

    #[test]
    fn any_page_can_be_had_when_the_names_are_gone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let content: Vec<u8> = (0..150 * P).map(|at| (at / P * 31 + at % 251) as u8).collect();
        fs::write(dir.path().join("pages-7.img"), &content).expect("write");
        fs::write(dir.path().join("mm-1.img"), b"image").expect("write");
        let directory = OwnedFd::from(File::open(dir.path()).expect("open"));
        let mut pages = Pages::open(Kind::Peer, vec![directory]).expect("a directory");
        assert_eq!(pages.image("mm-1.img").expect("read").as_deref(), Some(&b"image"[..]));
        assert_eq!(pages.image("mm-2.img").expect("none"), None);
        pages.require(7, content.len() as u64).expect("all of it");
        pages.require(7, content.len() as u64 + 1).expect_err("more than that");
        pages.require(8, 0).expect_err("there is none");
        fs::remove_file(dir.path().join("pages-7.img")).expect("remove");
        for page in (0..150).chain([3, 149, 70]) {
            let at = page * PAGE;
            let (start, bytes) = pages.around(7, at).expect("read");
            assert!(start <= at && at + PAGE <= start + bytes.len() as u64);
            assert_eq!(*bytes, content[start as usize..start as usize + bytes.len()]);
        }
        for (file, page) in [(7, 150), (7, 1 << 30), (8, 0)] {
            let error = pages.around(file, page * PAGE).expect_err("it is not there");
            assert_eq!(error.kind(), ErrorKind::InvalidArchive);
        }
        assert!(pages.verify_next().expect("nothing to compare").is_none());
    }

    #[test]
    fn memory_that_may_not_suffice_is_not_left_for_later() {
        let gib = 1 << 30;
        assert!(fits(gib, None, 2 * gib) && fits(gib, Some(2 * gib), 2 * gib) && fits(0, Some(0), 0));
        assert!(!fits(gib, None, gib) && !fits(gib, Some(gib), 8 * gib) && !fits(u64::MAX, None, u64::MAX));
        assert!(sys::proc::available_memory().expect("this machine has memory") > 1 << 20);
    }

    #[test]
    fn a_link_is_no_file_of_pages() {
        let dir = tempfile::tempdir().expect("tempdir");
        symlink("/dev/zero", dir.path().join("pages-1.img")).expect("link");
        let directory = OwnedFd::from(File::open(dir.path()).expect("open"));
        let mut pages = Pages::open(Kind::Peer, vec![directory]).expect("a directory");
        pages.require(1, PAGE).expect_err("a link");
    }

    #[test]
    fn what_is_in_a_store_is_found_by_process_and_address() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (at, open) = (dir.path().join("store"), |path| OwnedFd::from(File::open(path).expect("open")));
        let mut writer = StoreWriter::create(&at).expect("a store");
        let content: Vec<u8> = (0..100 * P).map(|at| (at / P * 7 + at % 253) as u8).collect();
        let mut batch = Batch::new(3, 1 << 20);
        batch.add(20 * PAGE, Contents::Zeros(PAGE));
        batch.add(21 * PAGE, Contents::Bytes(&content));
        writer.take(batch.bytes(), &mut u64::MAX.clone()).expect("taken");
        writer.seal(&[(9, 3)]).expect("whole");
        let mut pages = Pages::open(Kind::Peer, vec![open(dir.path().to_owned()), open(at)]).expect("whole");
        let found = pages.stored(9, &(20 * PAGE..121 * PAGE)).expect("all of it");
        let piece = Piece { file: STORE, offset: 0, length: 100 * PAGE };
        assert_eq!(found, [(21 * PAGE, piece)]);
        for page in [0, 99, 64, 63] {
            let (start, bytes) = pages.around(STORE, page * PAGE).expect("read");
            let from = (page * PAGE - start) as usize;
            assert_eq!(bytes[from..from + P], content[page as usize * P..][..P]);
        }
        // What was never sent is not zero.
        for (pid, addresses) in
            [(9, 19 * PAGE..21 * PAGE), (9, 120 * PAGE..122 * PAGE), (8, 0..PAGE), (-9, 0..PAGE)]
        {
            let error = pages.stored(pid, &addresses).expect_err("it has not come");
            assert_eq!(error.kind(), ErrorKind::InvalidArchive);
        }
        let without = Pages::open(Kind::Peer, vec![open(dir.path().to_owned())]).expect("a directory");
        without.stored(9, &(21 * PAGE..22 * PAGE)).expect_err("there is no store");
        pages.require(STORE, 0).expect_err("a file of pages with its number");
    }
}
