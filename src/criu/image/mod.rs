// SPDX-License-Identifier: Apache-2.0
//! Reads CRIU's images, as far as somebody beside CRIU must know what is in them. An image may come from anybody: sizes are
//! bounded, names are resolved in the directory and follow no link, and what is damaged is an error that names the image.
//!
//! ```text
//! magic u32 · magic u32 of the kind · { length u32 · message of that length }     (little endian)
//! ```
//! Source: CRIU's include/magic.h and images/*.proto; ours are in `proto/`. Must not know what a message is asked for.

mod complete;
mod files;
mod memory;
mod mounts;
mod names;
pub mod socket_words;
mod sockets;
mod stats;
mod tasks;

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::BorrowedFd;

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use protobuf::Message;

pub use complete::{Found, ImageSet, Parent, incomplete, require_complete};
pub use files::{
    Descriptor, FileKind, OpenFile, OutsideFile, descriptors, files_from_outside, memory_file_names,
    open_files,
};
pub use memory::{
    Area, Kept, Memory, PAGE, PageTable, PageTableWriter, Run, left_behind, memory, page_table,
};
pub use mounts::{Mount, mounts, mounts_from_outside};
pub use names::process_names;
pub use sockets::{Address, Socket};
pub use stats::{DumpStats, RestoreStats};
pub use tasks::{
    Core, Inventory, LeftLock, Task, TaskFiles, TaskState, core, inventory, left_lock, task_directories,
    task_ids, tasks,
};

use crate::{Context, Error, ErrorKind, Result};

#[allow(missing_docs, unreachable_pub, missing_debug_implementations, clippy::all)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));
}

/// What an image is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The dump as a whole.
    Inventory,
    /// The processes.
    Tree,
    /// A thread.
    Core,
    /// Which tables and namespaces a process has.
    Ids,
    /// The directories of a process.
    Directories,
    /// The address space of a process.
    Memory,
    /// Where pages of a process are.
    Pagemap,
    /// A table of descriptors.
    Descriptors,
    /// The open files.
    Files,
    /// The files in memory.
    MemoryFiles,
    /// The mounts of a mount namespace.
    Mounts,
    /// What a dump or a restore has cost.
    Stats,
}

impl Kind {
    /// How it begins.
    fn magic(self) -> &'static [u32] {
        const IMAGE: u32 = 0x5456_4319;
        const SERVICE: u32 = 0x5510_5940;
        match self {
            // The only one without a word that all have.
            Self::Inventory => &[0x5831_3116],
            Self::Tree => &[IMAGE, 0x5027_3030],
            Self::Core => &[IMAGE, 0x5505_3847],
            Self::Ids => &[IMAGE, 0x5443_2030],
            Self::Directories => &[IMAGE, 0x5140_3912],
            Self::Memory => &[IMAGE, 0x5749_2820],
            Self::Pagemap => &[IMAGE, 0x5608_4025],
            Self::Descriptors => &[IMAGE, 0x5621_3732],
            Self::Files => &[IMAGE, 0x5630_3138],
            Self::MemoryFiles => &[IMAGE, 0x4845_3499],
            Self::Mounts => &[IMAGE, 0x5556_3928],
            Self::Stats => &[SERVICE, 0x5709_3306],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Inventory => "a whole dump",
            Self::Tree => "the processes",
            Self::Core => "a thread",
            Self::Ids => "a process's namespaces",
            Self::Directories => "a process's directories",
            Self::Memory => "an address space",
            Self::Pagemap => "pages",
            Self::Descriptors => "descriptors",
            Self::Files => "open files",
            Self::MemoryFiles => "files in memory",
            Self::Mounts => "mounts",
            Self::Stats => "statistics",
        }
    }
}

/// A message is shorter, in bytes: the longest are those of a process with hundreds of thousands of threads.
const LONGEST: u32 = 4 << 20;
/// That of an address space lists its areas, which may be more.
const LONGEST_MEMORY: u32 = 16 << 20;
/// Messages of one image that are read for a list.
const MOST: usize = 1 << 20;

/// The messages of one image, one after the other.
struct Image<R> {
    kind: Kind,
    bytes: R,
    /// How many bytes were read.
    offset: u64,
}

/// One in a directory.
type ImageFile = Image<BufReader<File>>;

impl ImageFile {
    /// Opens it; `None` if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] when it is an image of another kind; else when it cannot be opened or read.
    fn open(images: BorrowedFd<'_>, name: &str, kind: Kind) -> Result<Option<Self>> {
        let Some(file) = open(images, name)? else { return Ok(None) };
        Self::read(BufReader::new(file), kind).map(Some).context(|| format!("read {name}"))
    }
}

impl<R: Read> Image<R> {
    /// Reads how it begins.
    fn read(bytes: R, kind: Kind) -> Result<Self> {
        let mut image = Self { kind, bytes, offset: 0 };
        for magic in kind.magic() {
            if image.word()? != Some(*magic) {
                return Err(image.damaged("it begins as something else"));
            }
        }
        Ok(image)
    }

    /// All messages that are left.
    fn list<M: Message>(mut self) -> Result<Vec<M>> {
        let mut messages = Vec::new();
        while let Some(message) = self.next()? {
            if messages.len() == MOST {
                return Err(self.damaged("it has too many messages"));
            }
            messages.push(message);
        }
        Ok(messages)
    }

    /// The one message of an image that has no other.
    fn only<M: Message>(mut self) -> Result<M> {
        self.next()?.ok_or_else(|| self.damaged("it is cut off"))
    }

    /// The next message; `None` at the end.
    fn next<M: Message>(&mut self) -> Result<Option<M>> {
        let Some(length) = self.word()? else { return Ok(None) };
        if length > if self.kind == Kind::Memory { LONGEST_MEMORY } else { LONGEST } {
            return Err(self.damaged("a message in it is too long"));
        }
        let mut message = Vec::new();
        let read = (&mut self.bytes).take(length.into()).read_to_end(&mut message);
        let read = read.context(|| "read a message")?;
        self.offset += read as u64;
        if u32::try_from(read) != Ok(length) {
            return Err(self.damaged("it is cut off"));
        }
        let decoded = M::parse_from_bytes(&message);
        decoded
            .map(Some)
            .map_err(|error| self.damaged("a message in it cannot be decoded").with_source(error))
    }

    /// Passes over all messages that are left, which are whole.
    fn skim(mut self) -> Result<()> {
        let begin = self.offset;
        while let Some(length) = self.word()? {
            let passed = std::io::copy(&mut (&mut self.bytes).take(length.into()), &mut std::io::sink());
            let passed = passed.context(|| "read a message")?;
            self.offset += passed;
            if passed != u64::from(length) {
                return Err(self.damaged("it is cut off"));
            }
        }
        if self.offset == begin { Err(self.damaged("it is cut off")) } else { Ok(()) }
    }

    /// Four bytes; `None` at the end.
    fn word(&mut self) -> Result<Option<u32>> {
        let mut word = Vec::with_capacity(4);
        let read = (&mut self.bytes).take(4).read_to_end(&mut word).context(|| "read a length")?;
        self.offset += read as u64;
        match <[u8; 4]>::try_from(word) {
            Ok(word) => Ok(Some(u32::from_le_bytes(word))),
            Err(none) if none.is_empty() => Ok(None),
            Err(_) => Err(self.damaged("it is cut off")),
        }
    }

    fn damaged(&self, why: &str) -> Error {
        let (kind, offset) = (self.kind.name(), self.offset);
        Error::new(ErrorKind::InvalidArchive, format!("not an image of {kind}: {why}, at byte {offset}"))
    }
}

/// Opens a file of a directory of images; `None` if it is not there.
fn open(images: BorrowedFd<'_>, name: &str) -> Result<Option<File>> {
    // Not blocking: in a foreign directory the name may belong to a fifo.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    match openat(images, name, flags, Mode::empty()) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(nix::errno::Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno).context(|| format!("open {name} in the image directory")),
    }
}

/// The middle parts of the names `PREFIX…SUFFIX` that are there, in no order.
///
/// # Errors
/// When the directory cannot be listed.
fn list(images: BorrowedFd<'_>, prefix: &str, suffix: &str) -> Result<Vec<String>> {
    let context = || "list the image directory";
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut directory = Dir::openat(images, ".", flags, Mode::empty()).context(context)?;
    let mut found = Vec::new();
    for entry in directory.iter() {
        let entry = entry.context(context)?;
        // CRIU's names are ASCII.
        let Ok(name) = entry.file_name().to_str() else { continue };
        let middle = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
        found.extend(middle.map(str::to_owned));
    }
    Ok(found)
}

/// Whether there is an image of which the name begins so, as `netdev-`.
///
/// # Errors
/// When the directory cannot be listed.
pub fn has_image(images: BorrowedFd<'_>, prefix: &str) -> Result<bool> {
    list(images, prefix, ".img").map(|found| !found.is_empty())
}

/// An image of this kind with these messages.
#[cfg(test)]
fn written(kind: Kind, messages: &[&[u8]]) -> Vec<u8> {
    let mut bytes: Vec<u8> = kind.magic().iter().copied().flat_map(u32::to_le_bytes).collect();
    for message in messages {
        bytes.extend(u32::try_from(message.len()).expect("short").to_le_bytes());
        bytes.extend_from_slice(message);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::proto::criu_images::PstreeEntry;
    use super::*;

    fn pids(bytes: &[u8]) -> Result<Vec<u32>> {
        let mut image = Image::read(bytes, Kind::Tree)?;
        let mut pids = Vec::new();
        while let Some(entry) = image.next::<PstreeEntry>()? {
            pids.extend(entry.pid);
        }
        Ok(pids)
    }

    #[test]
    fn messages_come_one_after_the_other() {
        // Field 2, the parent, is one that nobody asks for.
        let image = written(Kind::Tree, &[&[8, 1], &[8, 7, 16, 1], &[]]);
        assert_eq!(pids(&image).expect("good"), [1, 7]);
        // Cut off between two messages it is an image of fewer.
        let whole = [8, 14, 22];
        for end in 0..image.len() {
            match pids(&image[..end]) {
                Ok(pids) => assert!(whole.contains(&end) && pids.len() < 3, "{end}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidArchive, "{end}"),
            }
        }
    }

    #[test]
    fn what_is_damaged_is_told() {
        let mut long = written(Kind::Tree, &[&[8, 1]]);
        long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        let table = [
            (&written(Kind::Core, &[])[..], "it begins as something else, at byte 8"),
            (b"", "it begins as something else, at byte 0"),
            (b"abc", "it is cut off, at byte 3"),
            (&long, "a message in it is too long, at byte 12"),
            (&written(Kind::Tree, &[&[0xff; 20]]), "a message in it cannot be decoded, at byte 32"),
        ];
        for (bytes, expected) in table {
            let expected = format!("not an image of the processes: {expected}");
            assert_eq!(pids(bytes).expect_err(&expected).to_string(), expected);
        }
    }

    #[test]
    fn only_files_of_the_directory_are_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        let images = File::open(dir.path()).expect("open");
        let open = |name: &str| ImageFile::open(images.as_fd(), name, Kind::Tree);
        assert!(open("pstree.img").expect("it is only missing").is_none());
        fs::write(dir.path().join("pstree.img"), "no image").expect("write");
        let error = open("pstree.img").err().expect("damaged");
        assert!(
            error.chain().starts_with("read pstree.img: not an image of the processes"),
            "{}",
            error.chain()
        );
        std::os::unix::fs::symlink("pstree.img", dir.path().join("netdev-9.img")).expect("symlink");
        open("netdev-9.img").err().expect("links lead anywhere");
        assert!(has_image(images.as_fd(), "netdev-").expect("list"));
        assert!(!has_image(images.as_fd(), "netns-").expect("list"));
    }
}
