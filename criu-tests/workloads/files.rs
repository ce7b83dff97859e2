// SPDX-License-Identifier: Apache-2.0
//! `files`: every kind of open file that a process may hold: a read offset, a deleted file with content, `O_APPEND`, two
//! descriptors that share an offset, a FIFO with bytes in it, a directory, a memfd, a working directory.
//!
//! With `--lock` it also holds a lock, which CRIU refuses to dump unless told otherwise.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl, openat};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::lifecycle::{Checked, During as _, Workload, expect_eq};
use crate::options::Options;
use crate::report::Fields;

const RECORD: usize = 64;
const RECORDS: u64 = 512;

#[derive(Debug)]
pub(crate) struct Files {
    reader: Reader,
    deleted: Numbered,
    memfd: Numbered,
    log: AppendLog,
    shared: SharedOffset,
    fifo: Fifo,
    directory: Directory,
    _lock: Option<Flock<File>>,
}

impl Files {
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let dir = options.dir()?;
        let lock = options.has("lock").then(|| lock(&dir.join("locked"))).transpose()?;
        Ok(Self {
            reader: Reader::create(&dir.join("data"))?,
            deleted: Numbered::deleted(&dir.join("deleted"))?,
            memfd: Numbered::memfd()?,
            log: AppendLog::create(&dir.join("append.log"))?,
            shared: SharedOffset::create(&dir.join("shared"))?,
            fifo: Fifo::create(&dir.join("fifo"))?,
            directory: Directory::create(&dir.join("directory"))?,
            _lock: lock,
        })
    }
}

impl Workload for Files {
    fn tick(&mut self, tick: u64) -> Checked {
        self.reader.tick()?;
        self.deleted.tick(tick)?;
        self.memfd.tick(tick)?;
        self.log.tick(tick)?;
        self.shared.tick(tick)?;
        self.fifo.tick()?;
        self.directory.tick()
    }

    fn fields(&self, fields: &mut Fields) {
        fields.put("read_offset", self.reader.next * RECORD as u64);
        fields.put("append_size", self.log.size);
    }
}

fn record(kind: &str, number: u64) -> [u8; RECORD] {
    let mut bytes = [b'.'; RECORD];
    let text = format!("{kind} {number}");
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

fn create(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .during(&path.display().to_string())
}

fn lock(path: &Path) -> Result<Flock<File>, String> {
    Flock::lock(create(path)?, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| format!("flock: {e}"))
}

/// A file that is read from start to end, over and over, at the descriptor's own offset.
#[derive(Debug)]
struct Reader {
    file: File,
    next: u64,
}

impl Reader {
    fn create(path: &Path) -> Result<Self, String> {
        let content: Vec<u8> = (0..RECORDS).flat_map(|n| record("data", n)).collect();
        fs::write(path, content).during("data")?;
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(path).during("data")?;
        Ok(Self { file, next: 0 })
    }

    fn tick(&mut self) -> Checked {
        let at = self.file.stream_position().during("data: lseek")?;
        expect_eq("data offset", at, self.next * RECORD as u64)?;
        let flags = OFlag::from_bits_retain(fcntl(&self.file, FcntlArg::F_GETFL).during("data: F_GETFL")?);
        if !flags.contains(OFlag::O_NOATIME) || flags.contains(OFlag::O_RDWR) {
            return Err(format!("data: flags are {flags:?}"));
        }
        let mut bytes = [0; RECORD];
        self.file.read_exact(&mut bytes).during("data: read")?;
        expect_eq("data record", bytes, record("data", self.next))?;
        self.next += 1;
        if self.next == RECORDS {
            self.next = 0;
            self.file.rewind().during("data: lseek")?;
        }
        Ok(())
    }
}

/// A file without a name: each record tells in which tick it was written.
#[derive(Debug)]
struct Numbered {
    kind: &'static str,
    file: File,
    ticks: [u64; 16],
}

impl Numbered {
    fn deleted(path: &Path) -> Result<Self, String> {
        let file = create(path)?;
        fs::remove_file(path).during("deleted: unlink")?;
        Self::fill("deleted", file)
    }

    fn memfd() -> Result<Self, String> {
        let fd = memfd_create("workload", MFdFlags::MFD_CLOEXEC).during("memfd_create")?;
        Self::fill("memfd", File::from(fd))
    }

    fn fill(kind: &'static str, file: File) -> Result<Self, String> {
        let new = Self { kind, file, ticks: [0; 16] };
        for slot in 0..new.ticks.len() {
            new.write(slot)?;
        }
        Ok(new)
    }

    fn write(&self, slot: usize) -> Checked {
        let at = (slot * RECORD) as u64;
        self.file.write_all_at(&record(self.kind, self.ticks[slot]), at).during(self.kind)
    }

    fn tick(&mut self, tick: u64) -> Checked {
        expect_eq("number of names", self.file.metadata().during(self.kind)?.nlink(), 0)
            .or_else(|why| if self.kind == "memfd" { Ok(()) } else { Err(why) })?;
        for (slot, written) in self.ticks.iter().enumerate() {
            let mut bytes = [0; RECORD];
            self.file.read_exact_at(&mut bytes, (slot * RECORD) as u64).during(self.kind)?;
            expect_eq(self.kind, bytes, record(self.kind, *written))?;
        }
        let slot = usize::try_from(tick).unwrap_or(0) % self.ticks.len();
        self.ticks[slot] = tick;
        self.write(slot)
    }
}

/// A file open with `O_APPEND`, read back through its path.
#[derive(Debug)]
struct AppendLog {
    path: PathBuf,
    file: File,
    size: u64,
}

impl AppendLog {
    fn create(path: &Path) -> Result<Self, String> {
        drop(create(path)?);
        let file = OpenOptions::new().append(true).open(path).during("append.log")?;
        Ok(Self { path: path.to_owned(), file, size: 0 })
    }

    fn tick(&mut self, tick: u64) -> Checked {
        expect_eq("append.log size", self.file.metadata().during("append.log: fstat")?.len(), self.size)?;
        let flags =
            OFlag::from_bits_retain(fcntl(&self.file, FcntlArg::F_GETFL).during("append.log: F_GETFL")?);
        if !flags.contains(OFlag::O_APPEND) {
            return Err(format!("append.log: flags are {flags:?}"));
        }
        self.file.rewind().during("append.log: lseek")?;
        self.file.write_all(&record("append", tick)).during("append.log: write")?;
        let mut bytes = [0; RECORD];
        let other = File::open(&self.path).during("append.log: open")?;
        other.read_exact_at(&mut bytes, self.size).during("append.log: pread")?;
        self.size += RECORD as u64;
        expect_eq("append.log record", bytes, record("append", tick))
    }
}

/// Two descriptors of one open file: an offset set through one is seen through the other; a third, of another open
/// file of the same path, has its own. One of the two is inherited across an exec, the other is not.
#[derive(Debug)]
struct SharedOffset {
    one: File,
    other: File,
    apart: File,
    offset: u64,
}

impl SharedOffset {
    fn create(path: &Path) -> Result<Self, String> {
        let one = create(path)?;
        let other = one.try_clone().during("shared: dup")?;
        fcntl(&other, FcntlArg::F_SETFD(FdFlag::empty())).during("shared: F_SETFD")?;
        let mut apart = File::open(path).during("shared")?;
        apart.seek(SeekFrom::Start(7)).during("shared: lseek")?;
        Ok(Self { one, other, apart, offset: 0 })
    }

    fn tick(&mut self, tick: u64) -> Checked {
        expect_eq("shared offset", self.one.stream_position().during("lseek")?, self.offset)?;
        expect_eq(
            "shared offset of the duplicate",
            self.other.stream_position().during("lseek")?,
            self.offset,
        )?;
        expect_eq("offset of the other open file", self.apart.stream_position().during("lseek")?, 7)?;
        expect_eq("close-on-exec", descriptor_flags(&self.one)?, FdFlag::FD_CLOEXEC)?;
        expect_eq("close-on-exec of the duplicate", descriptor_flags(&self.other)?, FdFlag::empty())?;
        self.offset = 1 + tick % 4096;
        self.one.seek(SeekFrom::Start(self.offset)).during("shared: lseek").map(drop)
    }
}

fn descriptor_flags(file: &File) -> Result<FdFlag, String> {
    fcntl(file, FcntlArg::F_GETFD).map(FdFlag::from_bits_retain).during("F_GETFD")
}

/// A FIFO, open at both ends through one descriptor, that always holds some numbers.
#[derive(Debug)]
struct Fifo {
    file: File,
    written: u64,
    read: u64,
}

impl Fifo {
    const HELD: u64 = 100;

    fn create(path: &Path) -> Result<Self, String> {
        // A workload started a second time in the same directory meets the first one's FIFO.
        let _ = fs::remove_file(path);
        mkfifo(path, Mode::from_bits_retain(0o600)).during("fifo")?;
        let file = OpenOptions::new().read(true).write(true).open(path).during("fifo")?;
        let mut new = Self { file, written: 0, read: 0 };
        while new.written < Self::HELD {
            new.write()?;
        }
        Ok(new)
    }

    fn write(&mut self) -> Checked {
        self.written += 1;
        self.file.write_all(&self.written.to_ne_bytes()).during("fifo: write")
    }

    fn tick(&mut self) -> Checked {
        self.write()?;
        let mut bytes = [0; 8];
        self.file.read_exact(&mut bytes).during("fifo: read")?;
        self.read += 1;
        expect_eq("number from the fifo", u64::from_ne_bytes(bytes), self.read)
    }
}

/// An open directory, which is also the working directory.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

impl Directory {
    fn create(path: &Path) -> Result<Self, String> {
        fs::create_dir_all(path).during("directory")?;
        fs::write(path.join("marker"), "here").during("directory")?;
        std::env::set_current_dir(path).during("directory: chdir")?;
        let fd =
            OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path).during("directory")?;
        Ok(Self { path: path.to_owned(), fd: fd.into() })
    }

    fn tick(&self) -> Checked {
        let cwd = std::env::current_dir().during("getcwd")?;
        expect_eq("working directory", cwd.as_path(), self.path.as_path())?;
        for place in [Some(&self.fd), None] {
            let open = |dir| openat(dir, "marker", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
            let fd = match place {
                Some(fd) => open(std::os::fd::AsFd::as_fd(fd)),
                None => open(nix::fcntl::AT_FDCWD),
            };
            let mut text = String::new();
            File::from(fd.during("marker")?).read_to_string(&mut text).during("marker")?;
            expect_eq("marker", text.as_str(), "here")?;
        }
        Ok(())
    }
}
