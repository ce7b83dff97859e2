// SPDX-License-Identifier: Apache-2.0
//! Regular files that have their name, devices, and what belongs to a descriptor rather than to its file.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::{Whence, lseek};

use super::held::{content, flags_of, new_file, open, same_bytes, same_content};
use super::sys::files;
use super::sys::memory::Map;
use super::{Child, Made, made, path};
use crate::lifecycle::{During as _, expect_eq};
use crate::sys;

super::exhibits![
    append_only,
    read_only,
    direct_io,
    status_flags,
    position_beyond_the_end,
    sparse_file,
    renamed,
    two_names_of_one_file,
    offset_shared_by_dup,
    offset_shared_by_fork,
    descriptor_numbers,
    owner_of_a_descriptor,
    devices,
    file_of_proc,
    file_in_a_bind,
    file_in_a_tmpfs,
    file_in_shared_memory,
];

/// Writes go to the end wherever the offset is.
fn append_only() -> Made {
    let at = path("append");
    drop(new_file(&at)?);
    let mut file = open(&at, OFlag::O_WRONLY | OFlag::O_APPEND)?;
    let mut lines = 0_u64;
    made(move || {
        let flags = flags_of(&file)? & (libc::O_ACCMODE | libc::O_APPEND);
        expect_eq("access mode and O_APPEND", flags, libc::O_WRONLY | libc::O_APPEND)?;
        file.rewind().during("lseek")?;
        file.write_all(&lines.to_ne_bytes()).during("write")?;
        lines += 1;
        let written = fs::read(&at).during("read")?;
        let expected: Vec<u8> = (0..lines).flat_map(u64::to_ne_bytes).collect();
        expect_eq("content", written, expected)
    })
}

/// A descriptor that may only read, in the middle of its file.
fn read_only() -> Made {
    let at = path("read-only");
    fs::write(&at, content(4000)).during("write")?;
    let mut file = open(&at, OFlag::O_RDONLY)?;
    file.seek(SeekFrom::Start(1234)).during("lseek")?;
    made(move || {
        expect_eq("access mode", flags_of(&file)? & libc::O_ACCMODE, libc::O_RDONLY)?;
        expect_eq("offset", file.stream_position().during("lseek")?, 1234)?;
        let refused = nix::unistd::write(&file, b"x");
        expect_eq("write", refused, Err(Errno::EBADF))?;
        same_content(&file, 4000)
    })
}

/// Reads go past the page cache: an unaligned one is an error.
fn direct_io() -> Made {
    const PAGE: usize = 4096;
    let at = path("direct");
    fs::write(&at, content(2 * PAGE)).during("write")?;
    let file = open(&at, OFlag::O_RDONLY | OFlag::O_DIRECT)?;
    made(move || {
        expect_eq("O_DIRECT", flags_of(&file)? & libc::O_DIRECT, libc::O_DIRECT)?;
        let mut bytes = vec![0; 3 * PAGE];
        let start = bytes.as_ptr().align_offset(PAGE);
        let got = file.read_at(&mut bytes[start..start + PAGE], PAGE as u64).during("pread")?;
        expect_eq("bytes", got, PAGE)?;
        same_bytes(&bytes[start..start + PAGE], &content(2 * PAGE)[PAGE..])
    })
}

/// Flags that only the descriptor knows.
fn status_flags() -> Made {
    let at = path("flags");
    drop(new_file(&at)?);
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_SYNC | OFlag::O_NOATIME;
    let file = open(&at, flags)?;
    made(move || expect_eq("flags", OFlag::from_bits_retain(flags_of(&file)?), flags))
}

/// The file was truncated below the offset: nothing to read, and a write makes a hole.
fn position_beyond_the_end() -> Made {
    let mut file = new_file(&path("beyond"))?;
    file.write_all(&content(5000)).during("write")?;
    file.set_len(100).during("ftruncate")?;
    made(move || {
        expect_eq("size", file.metadata().during("fstat")?.len(), 100)?;
        expect_eq("offset", file.stream_position().during("lseek")?, 5000)?;
        expect_eq("bytes behind the end", file.read(&mut [0; 16]).during("read")?, 0)?;
        file.write_all(b"end").during("write")?;
        expect_eq("size with a hole", file.metadata().during("fstat")?.len(), 5003)?;
        file.set_len(100).during("ftruncate")?;
        file.seek(SeekFrom::Start(5000)).during("lseek").map(drop)
    })
}

/// Some megabytes that are almost all hole, with the offset in it.
fn sparse_file() -> Made {
    const FAR: u64 = 4 << 20;
    let mut file = new_file(&path("sparse"))?;
    file.write_all(&content(4096)).during("write")?;
    file.write_all_at(&content(4096), FAR).during("pwrite")?;
    file.seek(SeekFrom::Start(FAR / 2)).during("lseek")?;
    let mut middle = FAR / 2;
    made(move || {
        expect_eq("offset", file.stream_position().during("lseek")?, middle)?;
        let data = lseek(&file, 4096, Whence::SeekData).during("SEEK_DATA")?;
        expect_eq("begin of the data behind the hole", data, FAR.cast_signed())?;
        middle += 1;
        file.seek(SeekFrom::Start(middle)).during("lseek")?;
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, FAR).during("pread")?;
        same_bytes(&bytes, &content(4096))
    })
}

/// Opened under a name that it no longer has.
fn renamed() -> Made {
    let (was, is) = (path("before"), path("after"));
    let mut file = new_file(&was)?;
    fs::rename(&was, &is).during("rename")?;
    let mut size = 0;
    made(move || {
        let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).during("readlink")?;
        expect_eq("path of the descriptor", &link, &is)?;
        file.write_all(b"byte").during("write")?;
        size += 4;
        expect_eq("size of the file of that name", fs::metadata(&is).during("stat")?.len(), size)
    })
}

/// What is written through one name is read through the other.
fn two_names_of_one_file() -> Made {
    let (one, other) = (path("one"), path("other"));
    let writer = new_file(&one)?;
    fs::hard_link(&one, &other).during("link")?;
    let reader = File::open(&other).during("open")?;
    let mut round = 0_u64;
    made(move || {
        round += 1;
        writer.write_all_at(&round.to_ne_bytes(), 0).during("pwrite")?;
        let mut bytes = [0; 8];
        reader.read_exact_at(&mut bytes, 0).during("pread")?;
        expect_eq("number through the other name", u64::from_ne_bytes(bytes), round)
    })
}

/// Two descriptors of one open file, and one of another open file of the same name.
fn offset_shared_by_dup() -> Made {
    let at = path("shared");
    fs::write(&at, content(256)).during("write")?;
    let mut one = File::open(&at).during("open")?;
    let mut other = one.try_clone().during("dup")?;
    let mut apart = File::open(&at).during("open")?;
    apart.seek(SeekFrom::Start(77)).during("lseek")?;
    let mut offset = 0;
    made(move || {
        expect_eq("offset", one.stream_position().during("lseek")?, offset)?;
        offset = (offset + 3) % 256;
        one.seek(SeekFrom::Start(offset)).during("lseek")?;
        expect_eq("offset of the duplicate", other.stream_position().during("lseek")?, offset)?;
        expect_eq("offset of the other open file", apart.stream_position().during("lseek")?, 77)
    })
}

/// One open file of two processes: what one reads the other does not.
fn offset_shared_by_fork() -> Made {
    let at = path("shared");
    fs::write(&at, content(256)).during("write")?;
    let mut file = File::open(&at).during("open")?;
    let mut same = file.try_clone().during("dup")?;
    let mut child = Child::start(move || {
        Ok(move |_: &str| {
            let mut byte = [0];
            same.read_exact(&mut byte).during("read")?;
            Ok(byte[0].to_string())
        })
    })?;
    let expected = content(256);
    let mut offset = 0;
    made(move || {
        expect_eq("offset", file.stream_position().during("lseek")?, offset)?;
        let at = usize::try_from(offset).during("offset")?;
        child.expect("next byte", &expected[at].to_string())?;
        let mut byte = [0];
        file.read_exact(&mut byte).during("read")?;
        expect_eq("byte after the child's", byte[0], expected[at + 1])?;
        offset = (offset + 2) % 256;
        file.seek(SeekFrom::Start(offset)).during("lseek").map(drop)
    })
}

/// Numbers that are not the next free ones, and whether an exec would close them.
fn descriptor_numbers() -> Made {
    let at = path("numbers");
    let file = new_file(&at)?;
    let held: Vec<(OwnedFd, FdFlag)> = [(77, false), (500, true), (1001, false)]
        .into_iter()
        .map(|(number, closed)| {
            let command = if closed { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
            let flag = if closed { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
            files::numbered(&file, number, command).map(|fd| (fd, flag)).during("F_DUPFD")
        })
        .collect::<Result<_, _>>()?;
    let own = fs::read_dir("/proc/self/fd").during("/proc/self/fd")?.count();
    made(move || {
        file.metadata().during("fstat")?;
        for (fd, flag) in &held {
            let is = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).during("F_GETFD")?);
            expect_eq("close-on-exec", is, *flag)?;
            let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).during("readlink")?;
            expect_eq("path", link.as_path(), at.as_path())?;
        }
        expect_eq(
            "number of descriptors",
            fs::read_dir("/proc/self/fd").during("/proc/self/fd")?.count(),
            own,
        )
    })
}

/// A pipe that tells its owner by a signal of the owner's choice when there is something to read.
fn owner_of_a_descriptor() -> Made {
    const F_SETSIG: i32 = 10;
    const F_GETSIG: i32 = 11;
    let signal = libc::SIGRTMIN() + 5;
    sys::block(&[signal]).during("block a signal")?;
    let (mut reader, mut writer) = std::io::pipe().during("pipe")?;
    let pid = std::process::id().cast_signed();
    files::set_owner(&reader, 1, pid).during("F_SETOWN_EX")?;
    files::fcntl(&reader, F_SETSIG, signal).during("F_SETSIG")?;
    files::fcntl(&reader, libc::F_SETFL, libc::O_ASYNC).during("F_SETFL")?;
    made(move || {
        expect_eq("owner", files::owner(&reader).during("F_GETOWN_EX")?, [1, pid])?;
        expect_eq("signal", files::fcntl(&reader, F_GETSIG, 0).during("F_GETSIG")?, signal)?;
        expect_eq("O_ASYNC", flags_of(&reader)? & libc::O_ASYNC, libc::O_ASYNC)?;
        writer.write_all(b"x").during("write")?;
        let told = sys::take(&[signal], Duration::from_secs(5)).during("sigtimedwait")?;
        reader.read_exact(&mut [0]).during("read")?;
        // The kernel may tell of the reading, too.
        while sys::take(&[signal], Duration::ZERO).during("sigtimedwait")?.is_some() {}
        expect_eq("signal of the pipe", told.map(|taken| taken.number), Some(signal))
    })
}

/// Devices that every container has.
fn devices() -> Made {
    let open = |name: &str, flags| open(Path::new(name), flags);
    let mut null = open("/dev/null", OFlag::O_RDWR)?;
    let mut zero = open("/dev/zero", OFlag::O_RDONLY)?;
    let full = open("/dev/full", OFlag::O_WRONLY)?;
    let mut random = open("/dev/urandom", OFlag::O_RDONLY)?;
    made(move || {
        null.write_all(b"nothing").during("write to null")?;
        expect_eq("bytes of null", null.read(&mut [0; 8]).during("read null")?, 0)?;
        let mut bytes = [1; 64];
        zero.read_exact(&mut bytes).during("read zero")?;
        expect_eq("zeroes", bytes, [0; 64])?;
        expect_eq("write to full", nix::unistd::write(&full, b"x"), Err(Errno::ENOSPC))?;
        random.read_exact(&mut bytes).during("read urandom")?;
        if bytes == [0; 64] { Err("urandom gives zeroes".to_owned()) } else { Ok(()) }
    })
}

/// A file of proc that tells of this process.
fn file_of_proc() -> Made {
    let file = open(Path::new("/proc/self/status"), OFlag::O_RDONLY)?;
    made(move || {
        let mut bytes = [0; 4096];
        let got = file.read_at(&mut bytes, 0).during("pread")?;
        let text = String::from_utf8_lossy(&bytes[..got]).into_owned();
        let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap_or_default();
        expect_eq("pid in the file", pid.trim(), std::process::id().to_string().as_str())
    })
}

/// Open where the host's file system shows through (`/bound`).
fn file_in_a_bind() -> Made {
    written_and_read(Path::new("/bound/file"))
}

/// Open in a file system that goes along with the container (`/scratch`).
fn file_in_a_tmpfs() -> Made {
    written_and_read(Path::new("/scratch/file"))
}

/// As `shm_open` makes it, and mapped.
fn file_in_shared_memory() -> Made {
    const LENGTH: usize = 64 << 10;
    let at = Path::new("/dev/shm/object");
    let file = new_file(at)?;
    file.set_len(LENGTH as u64).during("ftruncate")?;
    let map = Map::of_file(
        std::os::fd::AsFd::as_fd(&file),
        (0, LENGTH),
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED,
    )
    .during("mmap")?;
    map.write(0, &content(LENGTH)).during("write to the mapping")?;
    made(move || {
        same_content(&file, LENGTH)?;
        same_bytes(&map.read(0, LENGTH).during("read the mapping")?, &content(LENGTH))?;
        same_bytes(&fs::read(at).during("read")?, &content(LENGTH))
    })
}

fn written_and_read(at: &Path) -> Made {
    let mut file = new_file(at)?;
    file.write_all(&content(3000)).during("write")?;
    let at = at.to_owned();
    made(move || {
        expect_eq("offset", file.stream_position().during("lseek")?, 3000)?;
        same_content(&file, 3000)?;
        same_bytes(&fs::read(&at).during("read")?, &content(3000))
    })
}
