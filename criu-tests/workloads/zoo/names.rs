// SPDX-License-Identifier: Apache-2.0
//! Files and directories that have lost their names, and descriptors that are no more than names.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::unistd::{Whence, lseek, mkfifo};

use super::held::{content, flags_of, new_file, open, same_bytes, same_content};
use super::sys::memory::Map;
use super::{Child, Made, made, path};
use crate::lifecycle::{Checked, During as _, expect_eq};

super::exhibits![
    unlinked,
    unlinked_and_sparse,
    unlinked_of_two_processes,
    unlinked_with_another_name,
    unlinked_and_replaced,
    file_in_a_removed_directory,
    directory_with_position,
    removed_directory,
    removed_working_directory,
    working_directories,
    changed_root,
    path_only,
    path_of_a_symlink,
    named_fifo,
    removed_fifo,
    unlinked_in_a_bind,
    unlinked_in_a_tmpfs,
    shared_memory_without_a_name,
    file_that_never_had_a_name,
    directory_of_a_tmpfs,
];

fn names_of(file: &File) -> Result<u64, String> {
    Ok(file.metadata().during("fstat")?.nlink())
}

/// A file that only a descriptor keeps alive.
fn unlinked() -> Made {
    let at = path("unlinked");
    let mut file = new_file(&at)?;
    file.write_all(&content(10_000)).during("write")?;
    fs::remove_file(&at).during("unlink")?;
    made(move || {
        expect_eq("offset", file.stream_position().during("lseek")?, 10_000)?;
        expect_eq("names", names_of(&file)?, 0)?;
        expect_eq("the old name is there", at.exists(), false)?;
        same_content(&file, 10_000)
    })
}

/// One without a name whose size is far beyond what it holds.
fn unlinked_and_sparse() -> Made {
    const FAR: u64 = 64 << 20;
    let at = path("unlinked");
    let file = new_file(&at)?;
    file.write_all_at(&content(4096), FAR).during("pwrite")?;
    fs::remove_file(&at).during("unlink")?;
    made(move || {
        expect_eq("size", file.metadata().during("fstat")?.len(), FAR + 4096)?;
        if file.metadata().during("fstat")?.blocks() > 1024 {
            return Err("the hole is filled".to_owned());
        }
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, FAR).during("pread")?;
        same_bytes(&bytes, &content(4096))
    })
}

/// Two open files of one file without a name, in two processes.
fn unlinked_of_two_processes() -> Made {
    let at = path("unlinked");
    let file = new_file(&at)?;
    let other = at.clone();
    let mut child = Child::start(move || {
        let mut file = File::open(other).during("open")?;
        Ok(move |_: &str| {
            let mut bytes = [0; 8];
            file.rewind().during("lseek")?;
            file.read_exact(&mut bytes).during("read")?;
            Ok(u64::from_ne_bytes(bytes).to_string())
        })
    })?;
    fs::remove_file(&at).during("unlink")?;
    let mut round = 0_u64;
    made(move || {
        round += 1;
        file.write_all_at(&round.to_ne_bytes(), 0).during("pwrite")?;
        child.expect("number", &round.to_string())
    })
}

/// The name that it was opened with is gone, another one is there.
fn unlinked_with_another_name() -> Made {
    let (was, is) = (path("was"), path("is"));
    let file = new_file(&was)?;
    file.write_all_at(&content(2000), 0).during("write")?;
    fs::hard_link(&was, &is).during("link")?;
    fs::remove_file(&was).during("unlink")?;
    made(move || {
        expect_eq("the old name is there", was.exists(), false)?;
        expect_eq("names", names_of(&file)?, 1)?;
        let other = fs::metadata(&is).during("stat")?;
        expect_eq("inode by the other name", other.ino(), file.metadata().during("fstat")?.ino())?;
        same_content(&file, 2000)
    })
}

/// Another file has its name now.
fn unlinked_and_replaced() -> Made {
    let at = path("replaced");
    let file = new_file(&at)?;
    file.write_all_at(&content(2000), 0).during("write")?;
    fs::remove_file(&at).during("unlink")?;
    fs::write(&at, "another").during("write")?;
    made(move || {
        expect_eq("names", names_of(&file)?, 0)?;
        same_content(&file, 2000)?;
        expect_eq("file of that name", fs::read_to_string(&at).during("read")?.as_str(), "another")
    })
}

/// Its directory is gone, too.
fn file_in_a_removed_directory() -> Made {
    let directory = path("removed");
    fs::create_dir(&directory).during("mkdir")?;
    let at = directory.join("file");
    let file = new_file(&at)?;
    file.write_all_at(&content(2000), 0).during("write")?;
    fs::remove_file(&at).during("unlink")?;
    fs::remove_dir(&directory).during("rmdir")?;
    made(move || {
        expect_eq("names", names_of(&file)?, 0)?;
        expect_eq("the directory is there", directory.exists(), false)?;
        same_content(&file, 2000)
    })
}

/// Reading of the directory has come to some place in it.
fn directory_with_position() -> Made {
    let at = path("directory");
    fs::create_dir(&at).during("mkdir")?;
    let mut names: Vec<OsString> = (0..20).map(|n| format!("entry-{n}").into()).collect();
    names.iter().try_for_each(|name| fs::write(at.join(name), "")).during("write")?;
    names.sort();
    let directory = open(&at, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let position = lseek(&directory, 3, Whence::SeekSet).during("lseek")?;
    made(move || {
        expect_eq("position", lseek(&directory, 0, Whence::SeekCur).during("lseek")?, position)?;
        let entries = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd())).during("read")?;
        let mut found: Vec<OsString> = entries.filter_map(|e| Some(e.ok()?.file_name())).collect();
        found.sort();
        expect_eq("entries", &found, &names)
    })
}

/// Open, and nowhere.
fn removed_directory() -> Made {
    let at = path("removed");
    fs::create_dir(&at).during("mkdir")?;
    let directory = open(&at, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    fs::remove_dir(&at).during("rmdir")?;
    made(move || {
        expect_eq("names", names_of(&directory)?, 0)?;
        expect_eq("the old name is there", at.exists(), false)?;
        let made = nix::sys::stat::mkdirat(&directory, "new", nix::sys::stat::Mode::S_IRWXU);
        expect_eq("making something in it", made, Err(Errno::ENOENT))
    })
}

/// A process stands in a directory that is gone.
fn removed_working_directory() -> Made {
    let at = path("removed");
    fs::create_dir(&at).during("mkdir")?;
    let place = at.clone();
    let mut child = Child::start(move || {
        std::env::set_current_dir(place).during("chdir")?;
        Ok(|_: &str| Ok(format!("{:?}", nix::unistd::getcwd().err())))
    })?;
    fs::remove_dir(&at).during("rmdir")?;
    made(move || {
        child.expect("getcwd", &format!("{:?}", Some(Errno::ENOENT)))?;
        let link = fs::read_link(format!("/proc/{}/cwd", child.pid())).during("readlink")?;
        let deleted = link.to_string_lossy().ends_with(" (deleted)");
        if deleted { Ok(()) } else { Err(format!("the working directory is {}", link.display())) }
    })
}

/// Two processes with different working directories and masks for new files.
fn working_directories() -> Made {
    let (own, other) = (path("own"), path("other"));
    fs::create_dir(&own).and_then(|()| fs::create_dir(&other)).during("mkdir")?;
    std::env::set_current_dir(&own).during("chdir")?;
    let mode = |bits| nix::sys::stat::Mode::from_bits_truncate(bits);
    nix::sys::stat::umask(mode(0o027));
    let there = other.clone();
    let mut child = Child::start(move || {
        std::env::set_current_dir(there).during("chdir")?;
        nix::sys::stat::umask(mode(0o077));
        Ok(|_: &str| new_here())
    })?;
    made(move || {
        expect_eq("own new file", new_here()?, format!("{} 640", own.display()))?;
        child.expect("new file of the child", &format!("{} 600", other.display()))
    })
}

/// Where a file comes to lie that is made without a path, and with which mode.
fn new_here() -> Result<String, String> {
    drop(File::create_new("new").during("create")?);
    let mode = fs::metadata("new").during("stat")?.mode() & 0o777;
    fs::remove_file("new").during("unlink")?;
    Ok(format!("{} {mode:o}", std::env::current_dir().during("getcwd")?.display()))
}

/// A process whose root is a directory of the others'.
fn changed_root() -> Made {
    let at = path("root");
    fs::create_dir(&at).during("mkdir")?;
    fs::write(at.join("inside"), "root").during("write")?;
    let root = at.clone();
    let mut child = Child::start(move || {
        std::env::set_current_dir(&root).during("chdir")?;
        std::os::unix::fs::chroot(".").during("chroot")?;
        Ok(|_: &str| fs::read_to_string("/inside").during("read"))
    })?;
    made(move || {
        child.expect("/inside", "root")?;
        let link = fs::read_link(format!("/proc/{}/root", child.pid())).during("readlink")?;
        expect_eq("root of the child", link.as_path(), at.as_path())
    })
}

/// `O_PATH`: says where something is and reads nothing.
fn path_only() -> Made {
    let at = path("place");
    fs::write(&at, content(100)).during("write")?;
    let place = open(&at, OFlag::O_PATH)?;
    made(move || {
        expect_eq("O_PATH", flags_of(&place)? & libc::O_PATH, libc::O_PATH)?;
        expect_eq("read", nix::unistd::read(&place, &mut [0; 8]), Err(Errno::EBADF))?;
        let through = format!("/proc/self/fd/{}", place.as_raw_fd());
        same_content(&File::open(through).during("open")?, 100)
    })
}

/// `O_PATH` of a symbolic link itself.
fn path_of_a_symlink() -> Made {
    let at = path("link");
    symlink("nowhere/else", &at).during("symlink")?;
    let link = open(&at, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
    made(move || {
        let target = readlinkat(&link, "").during("readlinkat")?;
        expect_eq("target", target.as_os_str(), Path::new("nowhere/else").as_os_str())
    })
}

/// A FIFO with bytes in it, each end in another process.
fn named_fifo() -> Made {
    fifo(&path("fifo"), |_| Ok(()))
}

/// The same, but its name is gone.
fn removed_fifo() -> Made {
    fifo(&path("fifo"), |at| fs::remove_file(at).during("unlink"))
}

fn fifo(at: &Path, then: fn(&Path) -> Checked) -> Made {
    mkfifo(at, nix::sys::stat::Mode::S_IRWXU).during("mkfifo")?;
    // Opened for both, neither end waits for the other.
    let mut both = open(at, OFlag::O_RDWR)?;
    let reader = at.to_owned();
    let mut child = Child::start(move || {
        let mut reader = File::open(reader).during("open")?;
        Ok(move |_: &str| {
            let mut bytes = [0; 8];
            reader.read_exact(&mut bytes).during("read")?;
            Ok(u64::from_ne_bytes(bytes).to_string())
        })
    })?;
    then(at)?;
    let (mut written, mut read) = (0_u64, 0_u64);
    while written < 50 {
        both.write_all(&written.to_ne_bytes()).during("write")?;
        written += 1;
    }
    made(move || {
        child.expect("number", &read.to_string())?;
        read += 1;
        both.write_all(&written.to_ne_bytes()).during("write")?;
        written += 1;
        both.stream_position().err().map(drop).ok_or_else(|| "a FIFO has an offset".to_owned())
    })
}

fn unlinked_at(at: &Path) -> Made {
    let file = new_file(at)?;
    file.write_all_at(&content(5000), 0).during("write")?;
    fs::remove_file(at).during("unlink")?;
    let at = at.to_owned();
    made(move || {
        expect_eq("names", names_of(&file)?, 0)?;
        expect_eq("the old name is there", at.exists(), false)?;
        same_content(&file, 5000)
    })
}

/// Removed where the host's file system shows through (`/bound`), as logs are that somebody rotates.
fn unlinked_in_a_bind() -> Made {
    unlinked_at(Path::new("/bound/log"))
}

/// Removed in a file system that goes along (`/scratch`).
fn unlinked_in_a_tmpfs() -> Made {
    unlinked_at(Path::new("/scratch/file"))
}

/// As `shm_unlink` leaves it: open, and mapped by two processes.
fn shared_memory_without_a_name() -> Made {
    const LENGTH: usize = 16 << 10;
    let at = Path::new("/dev/shm/object");
    let file = new_file(at)?;
    file.set_len(LENGTH as u64).during("ftruncate")?;
    let flags = libc::PROT_READ | libc::PROT_WRITE;
    let map = Map::of_file(file.as_fd(), (0, LENGTH), flags, libc::MAP_SHARED).during("mmap")?;
    fs::remove_file(at).during("unlink")?;
    let (begin, length) = (map.at(), map.length());
    let mut child = Child::start(move || {
        let theirs = Map::of_address(begin, length);
        Ok(move |text: &str| theirs.write(64, text.as_bytes()).during("write").map(|()| String::new()))
    })?;
    let mut round = 0;
    made(move || {
        round += 1;
        child.check(&format!("{round:08}"))?;
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 64).during("pread")?;
        same_bytes(&bytes, format!("{round:08}").as_bytes())?;
        same_bytes(&map.read(64, 8).during("read")?, &bytes)
    })
}

/// `O_TMPFILE`.
fn file_that_never_had_a_name() -> Made {
    let mode = nix::sys::stat::Mode::S_IRWXU;
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let file = File::from(nix::fcntl::open(&path("."), flags, mode).during("O_TMPFILE")?);
    file.write_all_at(&content(5000), 0).during("write")?;
    made(move || {
        expect_eq("names", names_of(&file)?, 0)?;
        same_content(&file, 5000)
    })
}

/// Open in a file system that goes along (`/scratch`), with all that is in it.
fn directory_of_a_tmpfs() -> Made {
    let at = Path::new("/scratch/directory");
    fs::create_dir(at).during("mkdir")?;
    fs::write(at.join("file"), content(100)).during("write")?;
    symlink("file", at.join("link")).during("symlink")?;
    mkfifo(&at.join("fifo"), nix::sys::stat::Mode::S_IRWXU).during("mkfifo")?;
    let directory = open(at, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    made(move || {
        let through = format!("/proc/self/fd/{}", directory.as_raw_fd());
        same_bytes(&fs::read(format!("{through}/link")).during("read")?, &content(100))?;
        let kind = fs::metadata(format!("{through}/fifo")).during("stat")?.file_type();
        expect_eq("the FIFO is one", std::os::unix::fs::FileTypeExt::is_fifo(&kind), true)?;
        expect_eq("entries", fs::read_dir(through).during("read")?.count(), 3)
    })
}
