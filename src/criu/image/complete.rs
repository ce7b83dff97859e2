// SPDX-License-Identifier: Apache-2.0
//! Whether a set of images is complete: each process in the tree has what CRIU writes of every process, whole and of its kind, and the
//! files of pages are as long as the tables say. CRIU takes an image that is missing for an empty one, and from a file of pages that is
//! cut short it reads nothing, for ever.
//!
//! ```text
//! inventory.img · pstree.img ──▶ core-ID.img of each thread, and of each process that has not ended
//!                                ids-PID.img (or in its core) · fs-PID.img · mm-PID.img
//!                                pagemap-PID.img ──▶ pages-N.img, or the same table in `parent`
//!                                pagemap-shmem-ID.img, of memory in mm-PID.img that is shared ──▶ the same
//! ```
//! What is beside these in a directory that was used before may be of processes that are gone. Images that CRIU only writes when there
//! is something to write can be missed by nobody; those that are there must be whole. Pages themselves are not read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{SysconfVar, sysconf};

use super::memory::{Kept, kept};
use super::proto::criu_images::{
    CoreEntry, InventoryEntry, KobjIdsEntry, MmEntry, PagemapEntry, PagemapHead, PstreeEntry, VmaEntry,
};
use super::{Image, Kind, open};
use crate::{Context, Error, ErrorKind, Result};

/// Of so many images is told what is wrong with them.
const TOLD: usize = 100;

/// A dump may rest on a dump that rests on a dump; CRIU has no limit.
const PARENTS: usize = 64;

/// The flags of a run of pages that are known here.
const KNOWN_FLAGS: u32 = 7;

/// An image of a set.
#[allow(missing_debug_implementations)] // a reader need not have it
pub enum Found<'a> {
    /// It is not there.
    Missing,
    /// It is there, and is not looked into.
    Unread,
    /// What is in it.
    Bytes(Box<dyn Read + 'a>),
}

/// The set that another one rests on.
#[allow(missing_debug_implementations)] // as above
pub enum Parent {
    /// There is none.
    Missing,
    /// It is not looked for here.
    Elsewhere,
    /// This one.
    Set(Box<dyn ImageSet>),
}

/// Images, wherever they are.
pub trait ImageSet {
    /// The image of this name.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn image(&self, name: &str) -> Result<Found<'_>>;

    /// Bytes of the file of this name; `None` if it is not there.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn length(&self, name: &str) -> Result<Option<u64>>;

    /// The set in which the pages are that have not changed.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn parent(&self) -> Result<Parent>;
}

/// A directory of images.
struct Directory<D>(D);

impl<D: std::os::fd::AsFd> ImageSet for Directory<D> {
    fn image(&self, name: &str) -> Result<Found<'_>> {
        let file = open(self.0.as_fd(), name)?;
        Ok(file.map_or(Found::Missing, |file| Found::Bytes(Box::new(BufReader::new(file)))))
    }

    fn length(&self, name: &str) -> Result<Option<u64>> {
        let file = open(self.0.as_fd(), name)?;
        let length = |file: File| file.metadata().map(|metadata| metadata.len());
        file.map(length).transpose().context(|| format!("stat {name}"))
    }

    fn parent(&self) -> Result<Parent> {
        // A link that leads out of the directory, as CRIU has made it and will follow it.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match openat(&self.0, "parent", flags, Mode::empty()) {
            Ok(parent) => Ok(Parent::Set(Box::new(Directory::<OwnedFd>(parent)))),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(Parent::Missing),
            Err(errno) => Err(errno).context(|| "open parent in the image directory"),
        }
    }
}

/// Makes sure that the images in a directory are complete.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`], naming what is missing or damaged; else when it cannot be read.
pub fn require_complete(images: BorrowedFd<'_>) -> Result<()> {
    let problems = incomplete(&Directory(images))?;
    let Some(first) = problems.first() else { return Ok(()) };
    let more = if problems.len() > 1 { format!(" (and {} more)", problems.len() - 1) } else { String::new() };
    let message = format!("the images in the image directory are not complete: {first}{more}");
    Err(Error::new(ErrorKind::InvalidArchive, message).with_hint(
        "copy the whole directory, with the ones that it rests on (`parent`), from where the checkpoint was made, or make \
         another checkpoint",
    ))
}

/// What is missing in a set or not whole, in sentences that begin with a name; nothing, if it is complete.
///
/// # Errors
/// When it cannot be read.
pub fn incomplete(set: &dyn ImageSet) -> Result<Vec<String>> {
    let mut look = Look { set, problems: Vec::new(), shared: BTreeSet::new() };
    look.one::<InventoryEntry>("inventory.img", Kind::Inventory, "every dump has it")?;
    let tree = look.list::<PstreeEntry>("pstree.img", Kind::Tree, "every dump has it")?;
    for process in &tree {
        if look.problems.len() < TOLD {
            look.process(process)?;
        }
    }
    // Before CRIU 3.3 there was one image for each kind of files.
    if !tree.is_empty() && set.length("reg-files.img")?.is_none() {
        look.framed("files.img", Kind::Files, "every process has its program open")?;
    }
    Ok(look.problems)
}

struct Look<'a> {
    set: &'a dyn ImageSet,
    problems: Vec<String>,
    /// The numbers of shared memory that have been looked at.
    shared: BTreeSet<u64>,
}

/// The number of memory that processes share without a file. CRIU marks what is mapped with bits (criu/include/image.h): 8 is such
/// memory, 10 that of System V, 14 that of a memfd, which have images of their own.
fn shared_memory(area: &VmaEntry) -> Option<u64> {
    let has = |bit: u32| area.status.is_some_and(|status| status & (1 << bit) != 0);
    area.shmid.filter(|_| has(8) && !has(10) && !has(14))
}

impl Look<'_> {
    fn process(&mut self, process: &PstreeEntry) -> Result<()> {
        // Who is the tree's of no number has no images.
        let Some(pid) = process.pid.filter(|pid| *pid != 0) else { return Ok(()) };
        let of_process = format!("pstree.img has the process {pid}");
        let core = self.one::<CoreEntry>(&format!("core-{pid}.img"), Kind::Core, &of_process)?;
        let Some(core) = core else { return Ok(()) };
        let state = core.tc.into_option().and_then(|task| task.task_state);
        // Of one that has ended nothing else is written; 6 is how CRIU calls it while it works.
        if matches!(state, Some(2 | 6)) {
            return Ok(());
        }
        for thread in process.threads.iter().filter(|thread| **thread != pid) {
            let of_thread = format!("pstree.img has the thread {thread} of process {pid}");
            self.one::<CoreEntry>(&format!("core-{thread}.img"), Kind::Core, &of_thread)?;
        }
        let ids = match core.ids.into_option() {
            None => self.one::<KobjIdsEntry>(&format!("ids-{pid}.img"), Kind::Ids, &of_process)?,
            ids => ids,
        };
        if let Some(table) = ids.and_then(|ids| ids.files_id) {
            let name = format!("fdinfo-{table}.img");
            // Without a descriptor there is none.
            if self.set.length(&name)?.is_some() {
                self.framed(&name, Kind::Descriptors, &of_process)?;
            }
        }
        self.framed(&format!("fs-{pid}.img"), Kind::Directories, &of_process)?;
        let memory = self.one::<MmEntry>(&format!("mm-{pid}.img"), Kind::Memory, &of_process)?;
        for shared in memory.iter().flat_map(|memory| &memory.vmas).filter_map(shared_memory) {
            if self.shared.insert(shared) {
                let name = format!("pagemap-shmem-{shared}.img");
                // That it is missing, CRIU notices.
                if self.set.length(&name)?.is_some() {
                    self.pages(&name, &format!("process {pid} shares that memory"))?;
                }
            }
        }
        self.pages(&format!("pagemap-{pid}.img"), &of_process)
    }

    /// The file of pages of a table, and what it rests on.
    fn pages(&mut self, name: &str, because: &str) -> Result<()> {
        let mut parent: Option<Box<dyn ImageSet>> = None;
        for depth in 0..=PARENTS {
            let place = "parent/".repeat(depth);
            let set = parent.as_deref().unwrap_or(self.set);
            let table = match set.image(name)? {
                Found::Missing => {
                    self.problems.push(format!("{place}{name}: it is missing, {because}"));
                    return Ok(());
                }
                Found::Unread => return Ok(()),
                Found::Bytes(bytes) => Table::read(bytes),
            };
            let table = match table {
                Ok(Some(table)) => table,
                Ok(None) => return Ok(()),
                Err(error) => return self.tell(&format!("{place}{name}"), error),
            };
            if let Some(problem) = table.compare(set, name, &place)? {
                self.problems.push(problem);
            }
            if !table.rests_on_parent {
                return Ok(());
            }
            let next = match set.parent()? {
                Parent::Set(next) => next,
                Parent::Elsewhere => return Ok(()),
                Parent::Missing => {
                    let sentence = "pages that had not changed since an earlier dump are there";
                    self.problems.push(format!("{place}parent: it is missing, {sentence} for {place}{name}"));
                    return Ok(());
                }
            };
            parent = Some(next);
        }
        Ok(())
    }

    /// The first message of an image.
    fn one<M: protobuf::Message>(&mut self, name: &str, kind: Kind, because: &str) -> Result<Option<M>> {
        self.with(name, because, |bytes| Image::read(bytes, kind)?.only())
    }

    fn list<M: protobuf::Message>(&mut self, name: &str, kind: Kind, because: &str) -> Result<Vec<M>> {
        self.with(name, because, |bytes| Image::read(bytes, kind)?.list()).map(Option::unwrap_or_default)
    }

    /// An image of which only the form is looked at.
    fn framed(&mut self, name: &str, kind: Kind, because: &str) -> Result<()> {
        self.with(name, because, |bytes| Image::read(bytes, kind)?.skim()).map(drop)
    }

    fn with<T>(
        &mut self,
        name: &str,
        because: &str,
        read: impl FnOnce(Box<dyn Read + '_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let read = match self.set.image(name)? {
            Found::Missing => {
                self.problems.push(format!("{name}: it is missing, {because}"));
                return Ok(None);
            }
            Found::Unread => return Ok(None),
            Found::Bytes(bytes) => read(bytes),
        };
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) => self.tell(name, error).map(|()| None),
        }
    }

    /// What is damaged is told, what cannot be read is an error.
    fn tell(&mut self, name: &str, error: Error) -> Result<()> {
        if error.kind() != ErrorKind::InvalidArchive {
            return Err(error).context(|| format!("read {name}"));
        }
        self.problems.push(format!("{name}: {}", error.chain()));
        Ok(())
    }
}

/// What a table of pages says.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    /// The number in the name of the file of pages.
    file: u32,
    /// How many pages are in it; `None` if they are kept in a way that is not known here.
    pages: Option<u64>,
    rests_on_parent: bool,
}

impl Table {
    /// `None` of an empty one.
    fn read(bytes: impl Read) -> Result<Option<Self>> {
        let mut image = Image::read(bytes, Kind::Pagemap)?;
        let Some(file) = image.next::<PagemapHead>()?.and_then(|head| head.pages_id) else { return Ok(None) };
        let mut table = Self { file, pages: Some(0), rests_on_parent: false };
        while let Some(entry) = image.next::<PagemapEntry>()? {
            let (kept, count) = kept(&entry);
            table.rests_on_parent |= kept == Kept::InParent;
            if entry.flags.is_some_and(|flags| flags & !KNOWN_FLAGS != 0) {
                table.pages = None;
            } else if kept == Kept::Here {
                table.pages = table.pages.map(|pages| pages.saturating_add(count));
            }
        }
        Ok(Some(table))
    }

    /// What is wrong with the file of pages.
    fn compare(&self, set: &dyn ImageSet, name: &str, place: &str) -> Result<Option<String>> {
        let Some(pages) = self.pages.filter(|pages| *pages > 0) else { return Ok(None) };
        let expected = pages.saturating_mul(page_size()?);
        let file = format!("pages-{}.img", self.file);
        Ok(match set.length(&file)? {
            Some(length) if length >= expected => None,
            Some(length) => Some(format!(
                "{place}{file}: it is cut short: {place}{name} has {expected} bytes in it, {length} are there"
            )),
            None => Some(format!("{place}{file}: it is missing, {place}{name} has {expected} bytes in it")),
        })
    }
}

fn page_size() -> Result<u64> {
    let size = sysconf(SysconfVar::PAGE_SIZE).context(|| "sysconf(_SC_PAGESIZE)")?;
    Ok(size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::super::written;
    use super::*;

    /// A process 1 with a thread 2 and a child 7 that has ended. Its tables are number 5.
    fn whole() -> Vec<(&'static str, Vec<u8>)> {
        let size = page_size().expect("a size");
        vec![
            ("inventory.img", written(Kind::Inventory, &[&[8, 2]])),
            ("pstree.img", written(Kind::Tree, &[&[8, 1, 40, 1, 40, 2], &[8, 7, 16, 1]])),
            ("files.img", written(Kind::Files, &[&[8, 1, 16, 9]])),
            ("core-1.img", written(Kind::Core, &[&[8, 1, 0x1a, 2, 8, 1]])),
            ("core-2.img", written(Kind::Core, &[&[8, 1]])),
            ("core-7.img", written(Kind::Core, &[&[8, 1, 0x1a, 2, 8, 2]])),
            ("ids-1.img", written(Kind::Ids, &[&[16, 5]])),
            ("fs-1.img", written(Kind::Directories, &[&[8, 9]])),
            ("mm-1.img", written(Kind::Memory, &[&[64, 9]])),
            ("pagemap-1.img", table(&[&[8, 1, 16, 2, 32, 4]])),
            ("pages-1.img", vec![0; 2 * usize::try_from(size).expect("a size")]),
            ("fdinfo-5.img", written(Kind::Descriptors, &[&[8, 9]])),
        ]
    }

    /// File 1, and these messages.
    fn table(entries: &[&[u8]]) -> Vec<u8> {
        written(Kind::Pagemap, &[&[&[8, 1][..]], entries].concat())
    }

    fn write(directory: &Path, images: &[(&str, Vec<u8>)]) {
        for (name, bytes) in images {
            fs::write(directory.join(name), bytes).expect("write");
        }
    }

    fn told(directory: &Path) -> Vec<String> {
        let images = File::open(directory).expect("open");
        incomplete(&Directory(images)).expect("it can be read")
    }

    #[test]
    fn what_is_missing_empty_or_cut_off_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        write(dir.path(), &whole());
        // Of another dump.
        write(dir.path(), &[("pagemap-7.img", b"stale".to_vec()), ("core-9.img", Vec::new())]);
        assert_eq!(told(dir.path()), [""; 0]);
        for (name, bytes) in whole() {
            let path = dir.path().join(name);
            fs::remove_file(&path).expect("remove");
            let missing = told(dir.path());
            match name {
                "fdinfo-5.img" => assert_eq!(missing, [""; 0], "a process may have no descriptors"),
                _ => assert!(
                    missing.len() == 1 && missing[0].starts_with(&format!("{name}: it is missing, ")),
                    "{missing:?}"
                ),
            }
            for end in [0, bytes.len() - 1] {
                fs::write(&path, &bytes[..end]).expect("write");
                let damaged = told(dir.path());
                assert!(
                    damaged.len() == 1 && damaged[0].starts_with(&format!("{name}: ")),
                    "{end}: {damaged:?}"
                );
            }
            fs::write(&path, bytes).expect("write");
        }
        let images = File::open(dir.path()).expect("open");
        require_complete(images.as_fd()).expect("all is as it was");
        fs::remove_file(dir.path().join("core-2.img")).expect("remove");
        fs::remove_file(dir.path().join("mm-1.img")).expect("remove");
        let error = require_complete(images.as_fd()).expect_err("two are missing");
        assert_eq!(error.kind(), ErrorKind::InvalidArchive);
        assert_eq!(
            error.to_string(),
            "the images in the image directory are not complete: core-2.img: it is missing, pstree.img has the thread 2 of \
             process 1 (and 1 more)"
        );
    }

    #[test]
    fn shared_memory_has_tables_of_its_own() {
        let dir = tempfile::tempdir().expect("tempdir");
        write(dir.path(), &whole());
        // Number 3 shared without a file, 4 of System V, 5 of a memfd, 6 private.
        let areas: [&[u8]; 4] = [
            &[32, 3, 56, 0x81, 2],
            &[32, 4, 56, 0x81, 10],
            &[32, 5, 56, 0x81, 0x82, 1],
            &[32, 6, 56, 0x81, 4],
        ];
        let memory: Vec<u8> =
            areas.iter().flat_map(|area| [&[0x72, area.len() as u8][..], area].concat()).collect();
        write(dir.path(), &[("mm-1.img", written(Kind::Memory, &[&memory]))]);
        assert_eq!(told(dir.path()), [""; 0], "an image that is missing is CRIU's to tell");
        for number in 3..7 {
            let table = written(Kind::Pagemap, &[&[8, number], &[8, 1, 16, 1, 32, 4]]);
            write(dir.path(), &[(&format!("pagemap-shmem-{number}.img"), table)]);
        }
        let missing = format!(
            "pages-3.img: it is missing, pagemap-shmem-3.img has {} bytes in it",
            page_size().expect("a size")
        );
        assert_eq!(told(dir.path()), [missing]);
    }

    #[test]
    fn images_of_an_older_criu_are_complete() {
        let dir = tempfile::tempdir().expect("tempdir");
        write(dir.path(), &whole());
        // The tables in the core, an image for each kind of files.
        write(dir.path(), &[("core-1.img", written(Kind::Core, &[&[8, 1, 0x1a, 2, 8, 1, 0x22, 2, 16, 5]]))]);
        fs::remove_file(dir.path().join("ids-1.img")).expect("remove");
        fs::rename(dir.path().join("files.img"), dir.path().join("reg-files.img")).expect("rename");
        assert_eq!(told(dir.path()), [""; 0]);
    }

    #[test]
    fn pages_that_are_elsewhere_are_looked_for_there() {
        let top = tempfile::tempdir().expect("tempdir");
        let (first, second) = (top.path().join("first"), top.path().join("second"));
        for dir in [&first, &second] {
            fs::create_dir(dir).expect("mkdir");
            write(dir, &whole());
        }
        // Two pages here, one in the parent, one with the source, and a kind that is not known.
        let runs = table(&[&[8, 1, 16, 2, 32, 4], &[8, 1, 16, 1, 32, 1], &[8, 1, 16, 1, 32, 2]]);
        write(&second, &[("pagemap-1.img", runs)]);
        let missing = "parent: it is missing, pages that had not changed since an earlier dump are there for pagemap-1.img";
        assert_eq!(told(&second), [missing]);
        std::os::unix::fs::symlink("../first", second.join("parent")).expect("symlink");
        assert_eq!(told(&second), [""; 0]);
        fs::write(first.join("pages-1.img"), [0]).expect("write");
        assert!(
            told(&second)[0].starts_with("parent/pages-1.img: it is cut short: parent/pagemap-1.img has ")
        );
        fs::remove_file(first.join("pagemap-1.img")).expect("remove");
        assert_eq!(told(&second), ["parent/pagemap-1.img: it is missing, pstree.img has the process 1"]);
        // A chain that is a ring ends as well.
        write(&first, &[("pagemap-1.img", table(&[&[8, 1, 16, 1, 32, 1]]))]);
        std::os::unix::fs::symlink("../first", first.join("parent")).expect("symlink");
        assert_eq!(told(&second), [""; 0]);
    }

    #[test]
    fn pages_that_are_in_the_file_count() {
        let read = |entries: &[&[u8]]| {
            let table = Table::read(&table(entries)[..]).expect("a good one").expect("a table");
            (table.pages, table.rests_on_parent)
        };
        // vaddr 0x1000, 3 pages, present; in the parent; lazy; the newer field of 300 pages; the oldest form; an unknown flag.
        assert_eq!(read(&[&[8, 0x80, 0x20, 16, 3, 32, 4]]), (Some(3), false));
        assert_eq!(read(&[&[8, 1, 16, 3, 32, 1], &[8, 1, 16, 2, 32, 2]]), (Some(0), true));
        assert_eq!(read(&[&[8, 1, 32, 4, 40, 0xac, 2]]), (Some(300), false));
        assert_eq!(read(&[&[8, 1, 16, 5], &[8, 1, 16, 5, 24, 1]]), (Some(5), true));
        assert_eq!(read(&[&[8, 1, 16, 5, 32, 12]]), (None, false));
        assert_eq!(Table::read(&written(Kind::Pagemap, &[])[..]).expect("a table of nothing"), None);
    }
}
