// SPDX-License-Identifier: Apache-2.0
//! Files that never had a name: memfd.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::held::{content, flags_of, open, same_bytes, same_content};
use super::sys::memory::Map;
use super::{Child, Made, made};
use crate::lifecycle::{During as _, expect_eq};

super::exhibits![
    memfd,
    memfd_sealed,
    memfd_opened_twice,
    memfd_mapped_by_two_processes,
    memfd_that_is_closed,
    memfd_of_huge_pages,
    memfd_mapped_privately,
    memfd_not_executable,
];

const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn new(name: &str, flags: MFdFlags) -> Result<File, String> {
    memfd_create(name, flags | MFdFlags::MFD_CLOEXEC).map(File::from).during("memfd_create")
}

/// With a name for people, content and an offset.
fn memfd() -> Made {
    let mut file = new("exhibit", MFdFlags::empty())?;
    file.write_all(&content(20_000)).during("write")?;
    made(move || {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).during("readlink")?;
        expect_eq("name", link.to_string_lossy().as_ref(), "/memfd:exhibit (deleted)")?;
        expect_eq("offset", file.stream_position().during("lseek")?, 20_000)?;
        same_content(&file, 20_000)
    })
}

/// It cannot grow, shrink or be written to any more.
fn memfd_sealed() -> Made {
    let file = new("sealed", MFdFlags::MFD_ALLOW_SEALING)?;
    file.write_all_at(&content(5000), 0).during("write")?;
    let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).during("F_ADD_SEALS")?;
    made(move || {
        let is = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
        expect_eq("seals", is, Ok(seals))?;
        expect_eq("write", nix::unistd::write(&file, b"x"), Err(Errno::EPERM))?;
        expect_eq("ftruncate", nix::unistd::ftruncate(&file, 1), Err(Errno::EPERM))?;
        same_content(&file, 5000)
    })
}

/// Two open files of it: one that only reads, with its own offset.
fn memfd_opened_twice() -> Made {
    let mut file = new("twice", MFdFlags::empty())?;
    let mut reader = open(format!("/proc/self/fd/{}", file.as_raw_fd()).as_ref(), OFlag::O_RDONLY)?;
    file.write_all(&content(3000)).during("write")?;
    reader.seek(std::io::SeekFrom::Start(17)).during("lseek")?;
    made(move || {
        expect_eq("access mode", flags_of(&reader)? & libc::O_ACCMODE, libc::O_RDONLY)?;
        expect_eq("offset", file.stream_position().during("lseek")?, 3000)?;
        expect_eq("offset of the reader", reader.stream_position().during("lseek")?, 17)?;
        same_content(&reader, 3000)
    })
}

/// Shared memory, as programs pass it around.
fn memfd_mapped_by_two_processes() -> Made {
    const LENGTH: usize = 32 << 10;
    let file = new("mapped", MFdFlags::empty())?;
    file.set_len(LENGTH as u64).during("ftruncate")?;
    let map = Map::of_file(file.as_fd(), (0, LENGTH), BOTH, libc::MAP_SHARED).during("mmap")?;
    let theirs = file.try_clone().during("dup")?;
    let mut child = Child::start(move || {
        let map = Map::of_file(theirs.as_fd(), (4096, 4096), BOTH, libc::MAP_SHARED).during("mmap")?;
        Ok(move |text: &str| map.write(8, text.as_bytes()).during("write").map(|()| String::new()))
    })?;
    let mut round = 0;
    made(move || {
        round += 1;
        let text = format!("{round:08}");
        child.check(&text)?;
        same_bytes(&map.read(4104, 8).during("read")?, text.as_bytes())?;
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 4104).during("pread")?;
        same_bytes(&bytes, text.as_bytes())
    })
}

/// Only a mapping is left of it.
fn memfd_that_is_closed() -> Made {
    const LENGTH: usize = 32 << 10;
    let file = new("closed", MFdFlags::empty())?;
    file.write_all_at(&content(LENGTH), 0).during("write")?;
    let map = Map::of_file(file.as_fd(), (0, LENGTH), BOTH, libc::MAP_SHARED).during("mmap")?;
    drop(file);
    made(move || {
        let maps = super::proc::text("/proc/self/maps")?;
        expect_eq("its name is in maps", maps.contains("/memfd:closed (deleted)"), true)?;
        same_bytes(&map.read(0, LENGTH).during("read")?, &content(LENGTH))
    })
}

/// Of pages of two megabytes.
fn memfd_of_huge_pages() -> Made {
    const LENGTH: usize = 2 << 20;
    let file = new("huge", MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB)?;
    file.set_len(LENGTH as u64).during("ftruncate")?;
    let map = Map::of_file(file.as_fd(), (0, LENGTH), BOTH, libc::MAP_SHARED).during("mmap")?;
    map.write(LENGTH / 2, &content(4096)).during("write")?;
    made(move || {
        let block = nix::sys::stat::fstat(&file).during("fstat")?.st_blksize;
        expect_eq("size of a page", block, LENGTH as i64)?;
        same_bytes(&map.read(LENGTH / 2, 4096).during("read")?, &content(4096))
    })
}

/// Its pages are shared, but for the one that was written to.
fn memfd_mapped_privately() -> Made {
    const LENGTH: usize = 16 << 10;
    let file = new("private", MFdFlags::empty())?;
    file.write_all_at(&content(LENGTH), 0).during("write")?;
    let map = Map::of_file(file.as_fd(), (0, LENGTH), BOTH, libc::MAP_PRIVATE).during("mmap")?;
    map.write(4096, b"mine").during("write")?;
    made(move || {
        let mut expected = content(LENGTH);
        expected[4096..4100].copy_from_slice(b"mine");
        same_bytes(&map.read(0, LENGTH).during("read")?, &expected)?;
        same_content(&file, LENGTH)
    })
}

/// `MFD_NOEXEC_SEAL`.
fn memfd_not_executable() -> Made {
    const F_SEAL_EXEC: i32 = 0x20;
    let file = new("data", MFdFlags::from_bits_retain(8))?;
    file.write_all_at(&content(100), 0).during("write")?;
    made(move || {
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS).during("F_GET_SEALS")?;
        expect_eq("seal", seals & F_SEAL_EXEC, F_SEAL_EXEC)?;
        let mode = nix::sys::stat::fstat(&file).during("fstat")?.st_mode & 0o777;
        expect_eq("mode", mode, 0o666)?;
        same_content(&file, 100)
    })
}
