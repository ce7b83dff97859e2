// SPDX-License-Identifier: Apache-2.0
//! Owns the reading of an archive whose memory stays in it: everything else is unpacked and verified as ever, and of the memory
//! any part can be had.
//!
//! ```text
//! file ─▶ Seekable ─┬─▶ Remainder: the tar without the data of pages-*.img ─▶ Archive ─▶ unpacked, compared with the index
//!                   └─▶ Memory: parts of pages-*.img, each with the checksum of its frame; all of it with its SHA-256
//! ```
//! Must not know what pages are of.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use super::index::IndexEntry;
use super::member::{IMAGES, SMALL_MAX};
use super::seekable::{Seekable, Stream};
use super::{Archive, Progress, UnpackOptions, UnpackedCheckpoint, envelope, invalid, manifest_at};
use crate::{Context, Error, ErrorKind, Result};

/// The number in the name of a file of pages.
fn pages_id(member: &str) -> Option<u32> {
    let number = member.strip_prefix(IMAGES)?.strip_prefix("pages-")?.strip_suffix(".img")?;
    number.parse().ok().filter(|id: &u32| id.to_string() == number)
}

fn name(id: u32) -> String {
    format!("{IMAGES}pages-{id}.img")
}

/// An archive of which any part can be had, verified.
///
/// # Errors
/// `Unsupported` for one that can only be read from its beginning, or whose parts have no checksums.
fn seekable(file: File) -> Result<Seekable> {
    let refuse = |why: &'static str, hint: &'static str| {
        let message = format!("memory cannot be read from the archive on demand: {why}");
        Err(Error::new(ErrorKind::Unsupported, message).with_hint(hint))
    };
    let plain = "restore without --lazy-pages";
    if !file.metadata().context(|| "stat the archive")?.is_file() {
        return refuse(
            "it is not a regular file",
            "save it to a file first, or restore without --lazy-pages",
        );
    }
    let mut beginning = [0; envelope::MAGIC.len()];
    if file.read_exact_at(&mut beginning, 0).is_ok() && beginning == envelope::MAGIC {
        return refuse("it is encrypted", "decrypt it with `age -d` first, or restore without --lazy-pages");
    }
    let copy = file.try_clone().context(|| "duplicate a descriptor")?;
    let is_packed = manifest_at(&copy).is_ok_and(|manifest| manifest.is_packed());
    (&copy).rewind().context(|| "go back to the beginning of the archive")?;
    if is_packed {
        let hint = "unpack it first with `migrate archives convert FILE OUT --layout podman`, or restore without --lazy-pages";
        return refuse("it is packed", hint);
    }
    match Seekable::open(file)? {
        None => refuse("it has no table of frames and no index, as only archives of migrate have", plain),
        Some(archive) if archive.compression() == "none" => {
            refuse("it is not compressed, so that nothing verifies a part of it", plain)
        }
        Some(archive) => Ok(archive),
    }
}

/// What is in an archive besides memory, as a tar whose files of pages have no data.
struct Remainder {
    stream: Stream<File>,
    position: u64,
    /// Beginning and end of what is left out.
    absent: BTreeMap<u64, u64>,
}

impl Read for Remainder {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while let Some(end) = self.absent.remove(&self.position) {
            self.position = end;
        }
        let next = self.absent.range(self.position..).next().map_or(u64::MAX, |(start, _)| *start);
        let here = self.stream.at_once(self.position)?;
        let length =
            here.len().min(to.len()).min(usize::try_from(next - self.position).unwrap_or(usize::MAX));
        to[..length].copy_from_slice(&here[..length]);
        self.position += length as u64;
        Ok(length)
    }
}

/// Unpacks an archive as [`Archive::unpack_into`] does, but leaves memory in it. The files of pages are there, of the right size and
/// without contents.
///
/// # Errors
/// `Unsupported` if memory cannot be left in it; else as [`Archive::unpack_into`].
pub fn unpack_without_memory(
    file: &File,
    directory: BorrowedFd<'_>,
    rootfs: Option<BorrowedFd<'_>>,
    options: &UnpackOptions,
    progress: &mut dyn Progress,
) -> Result<UnpackedCheckpoint> {
    let (archive, absent) = open(file)?;
    archive.unpack_without(&absent, directory, rootfs, options, progress)
}

/// The manifest of an archive of which memory can be had on demand.
///
/// # Errors
/// As [`unpack_without_memory`].
pub fn manifest_of(file: &File) -> Result<super::Manifest> {
    Ok(open(file)?.0.manifest().clone())
}

fn open(file: &File) -> Result<(Archive<impl Read + Send>, Vec<IndexEntry>)> {
    let (stream, members) = seekable(file.try_clone().context(|| "duplicate a descriptor")?)?.into_parts();
    let absent: Vec<_> = members.into_iter().filter(|member| pages_id(&member.name).is_some()).collect();
    let range = |member: &IndexEntry| {
        let end = member.size.checked_next_multiple_of(512)?.checked_add(member.offset)?;
        (member.size > 0).then_some((member.offset, end))
    };
    let ranges = absent.iter().filter_map(range).collect();
    Ok((Archive::open(Remainder { stream, position: 0, absent: ranges })?, absent))
}

/// The memory in an archive. The file may have lost its name meanwhile.
#[derive(Debug)]
pub struct Memory {
    archive: Seekable,
    /// The file of pages, and how far it has been compared with its digest; `None` at the end.
    at: Option<(u32, u64)>,
    hasher: Sha256,
    /// A page that lies in two frames.
    single: Vec<u8>,
}

impl Memory {
    /// Opens it.
    ///
    /// # Errors
    /// As [`unpack_without_memory`].
    pub fn open(file: File) -> Result<Self> {
        let mut memory =
            Self { archive: seekable(file)?, at: None, hasher: Sha256::new(), single: Vec::new() };
        memory.at = memory.files().first().map(|(id, _)| (*id, 0));
        Ok(memory)
    }

    /// The files of pages, and their sizes.
    pub fn files(&self) -> Vec<(u32, u64)> {
        self.archive.members().filter_map(|(name, size)| Some((pages_id(name)?, size))).collect()
    }

    /// A small image, compared with its digest; `None` if there is none of that name.
    ///
    /// # Errors
    /// `InvalidArchive` if it is damaged or not small.
    pub fn image(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        self.archive.member(&format!("{IMAGES}{name}"), SMALL_MAX)
    }

    /// Pages that can be had at once, among them the one at this place of the file: where they begin, and their bytes.
    ///
    /// # Errors
    /// `InvalidArchive` if there is no such place, or if what is there is damaged.
    pub fn pages(&mut self, file: u32, at: u64, page: u64) -> Result<(u64, &[u8])> {
        let name = name(file);
        let beyond = || invalid(format!("{} ends before {}", name.trim_start_matches(IMAGES), at + page));
        let range = match self.archive.block(&name, at)? {
            None => return Err(beyond()),
            Some((range, _)) => whole_pages(&range, page),
        };
        if range.contains(&at) {
            let (block, bytes) = self.archive.block(&name, at)?.ok_or_else(beyond)?;
            let from = (range.start - block.start) as usize;
            return Ok((range.start, &bytes[from..from + (range.end - range.start) as usize]));
        }
        // It lies in two frames, of which the second one must have a checksum, too.
        self.archive.block(&name, at + page - 1)?.ok_or_else(beyond)?;
        self.single = self.archive.piece(&name, at..at + page)?.unwrap_or_default();
        Ok((at, &self.single))
    }

    /// Compares the next part of all memory with its digest: the file, where the part begins, and its bytes. `None` when all of it has
    /// been compared.
    ///
    /// # Errors
    /// `InvalidArchive` if a digest is wrong, or a part is damaged.
    pub fn verify_next(&mut self) -> Result<Option<(u32, u64, &[u8])>> {
        let files = self.files();
        let Some(mut at) = self.at else { return Ok(None) };
        while files.iter().any(|(id, size)| *id == at.0 && at.1 >= *size) {
            let hasher = std::mem::take(&mut self.hasher);
            if !self.archive.is_digest_of(&name(at.0), hasher) {
                let name = name(at.0);
                return Err(invalid(format!(
                    "member {name} is damaged: its SHA-256 is not that of the index"
                )));
            }
            self.at = files.iter().skip_while(|(id, _)| *id != at.0).nth(1).map(|(id, _)| (*id, 0));
            match self.at {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        let name = name(at.0);
        let (range, bytes) =
            self.archive.block(&name, at.1)?.ok_or_else(|| invalid(format!("{name} is cut short")))?;
        self.hasher.update(bytes);
        self.at = Some((at.0, range.end));
        Ok(Some((at.0, range.start, bytes)))
    }
}

/// The pages that lie in a range as a whole.
fn whole_pages(range: &Range<u64>, page: u64) -> Range<u64> {
    range.start.next_multiple_of(page)..range.end - range.end % page
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::super::entry::{BLOCK, Entry, Kind};
    use super::super::index::{Digest, Index};
    use super::super::sink::Sink;
    use super::super::writer::Compression;
    use super::*;

    const PAGE: u64 = 4096;

    /// Bytes that differ from page to page.
    fn content(pages: u64) -> Vec<u8> {
        (0..pages * PAGE).map(|at| (at / PAGE * 31 + at % 251) as u8).collect()
    }

    /// An archive with these members; the digest of the last one is that of `last`.
    fn archive(members: &[(&str, &[u8])], last: &[u8], compression: Compression) -> File {
        let mut tar = Vec::new();
        let mut listed = Vec::new();
        let mut add = |name: &str, data: &[u8]| {
            Entry { size: data.len() as u64, ..Entry::new(name, Kind::File) }.encode(&mut tar);
            let offset = tar.len() as u64;
            tar.extend_from_slice(data);
            tar.resize(tar.len().next_multiple_of(BLOCK as usize), 0);
            offset
        };
        for (n, (name, data)) in members.iter().enumerate() {
            let hashed = if n + 1 == members.len() { last } else { data };
            let sha256 = Digest::of(Sha256::new().chain_update(hashed));
            let (name, size, offset) = ((*name).to_owned(), data.len() as u64, add(name, data));
            listed.push(IndexEntry { name, size, offset, sha256 });
        }
        add("migrate.index", &Index::of(listed).to_bytes().expect("an index"));
        tar.resize(tar.len() + 2 * BLOCK as usize, 0);
        let mut sink = Sink::new(Vec::new(), compression).expect("memory");
        sink.put(&tar).expect("memory");
        let (bytes, _) = sink.finish().expect("memory");
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&bytes).expect("write");
        file.rewind().expect("rewind");
        file
    }

    fn compressed() -> Compression {
        Compression::Zstd { level: 1 }
    }

    #[test]
    fn any_page_can_be_had_and_all_of_them_are_compared() {
        // Two frames and more, of which the first begins with something else: pages are cut by their ends.
        let (first, second) = (content(700), content(3));
        let members: [(&str, &[u8]); 4] = [
            ("checkpoint/mm-1.img", &[7; 1000]),
            ("checkpoint/pages-1.img", &first),
            ("checkpoint/pages-12.img", &second),
            ("other", b"not memory"),
        ];
        let mut memory = Memory::open(archive(&members, b"not memory", compressed())).expect("ours");
        assert_eq!(memory.files(), [(1, 700 * PAGE), (12, 3 * PAGE)]);
        assert_eq!(memory.image("mm-1.img").expect("read"), Some(vec![7; 1000]));
        for (file, page, content) in (0..700).map(|page| (1, page, &first)).chain([(12, 2, &second)]) {
            let (start, bytes) = memory.pages(file, page * PAGE, PAGE).expect("read");
            let (end, start) = (start + bytes.len() as u64, start);
            assert!(start <= page * PAGE && (page + 1) * PAGE <= end, "{file} {page}: {start} {end}");
            assert!(*bytes == content[start as usize..end as usize], "{file} {page}");
        }
        memory.pages(12, 3 * PAGE, PAGE).expect_err("it is beyond the end");
        memory.pages(2, 0, PAGE).expect_err("there is none");
        let mut seen = [Vec::new(), Vec::new()];
        while let Some((file, start, bytes)) = memory.verify_next().expect("good") {
            let seen = &mut seen[usize::from(file == 12)];
            assert_eq!(start, seen.len() as u64);
            seen.extend_from_slice(bytes);
        }
        assert!(seen == [first, second]);
        assert_eq!(memory.verify_next().expect("at the end").map(|(file, ..)| file), None);
    }

    #[test]
    fn a_wrong_digest_is_found_at_the_end() {
        let pages = content(300);
        let members: [(&str, &[u8]); 1] = [("checkpoint/pages-1.img", &pages)];
        let mut memory = Memory::open(archive(&members, b"others", compressed())).expect("ours");
        memory.pages(1, 0, PAGE).expect("its frame is good");
        let error = loop {
            match memory.verify_next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it verified"),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("pages-1.img is damaged: its SHA-256"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_in_parts_is_refused() {
        let members: [(&str, &[u8]); 1] = [("other", b"")];
        let mut sealed = tempfile::tempfile().expect("a file");
        sealed.write_all(b"age-encryption.org/v1\n...").expect("write");
        let mut foreign = tempfile::tempfile().expect("a file");
        foreign.write_all(&zstd::encode_all(&[0; 1024][..], 1).expect("memory")).expect("write");
        for (file, why) in [
            (archive(&members, b"", Compression::None), "not compressed"),
            (sealed, "encrypted"),
            (foreign, "no table of frames"),
        ] {
            let error = Memory::open(file).expect_err(why);
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn only_files_of_pages_are_memory() {
        assert_eq!(pages_id("checkpoint/pages-7.img"), Some(7));
        for name in [
            "checkpoint/pages-07.img",
            "pages-7.img",
            "checkpoint/pages-shmem-7.img",
            "checkpoint/a/pages-7.img",
        ] {
            assert_eq!(pages_id(name), None, "{name}");
        }
    }
}
