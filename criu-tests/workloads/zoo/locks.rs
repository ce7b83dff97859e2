// SPDX-License-Identifier: Apache-2.0
//! Locks and leases: each is tried by another process, which must not get it, or get just what it may.

use std::fs::File;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};

use super::held::{new_file, open};
use super::sys::files;
use super::{Child, Made, made, path};
use crate::lifecycle::{Checked, During as _, expect_eq};
use crate::sys;

super::exhibits![
    flock_exclusive,
    flock_shared,
    flock_of_two_processes,
    posix_write_lock,
    posix_read_lock,
    posix_locks_of_ranges,
    open_file_write_lock,
    open_file_read_lock,
    lease_to_read,
    lease_to_write,
    lease_that_a_reader_breaks,
    lease_that_a_writer_breaks,
    lease_to_read_that_is_broken,
    waiting_for_a_lock,
    lock_that_a_child_holds,
];

/// Tries what it is asked to, on an open file of its own, and gives back what it gets.
fn other() -> Result<Child, String> {
    Child::start(|| {
        Ok(|question: &str| {
            let file = open(&path("locked"), OFlag::O_RDWR)?;
            let (kind, range) = question.split_once(' ').unwrap_or((question, "0 0"));
            let got = match kind {
                "flock-shared" => flock(file, FlockArg::LockSharedNonblock).map(drop),
                "flock-exclusive" => flock(file, FlockArg::LockExclusiveNonblock).map(drop),
                "read" => fcntl(&file, FcntlArg::F_SETLK(&range_lock(libc::F_RDLCK, range)?)).map(drop),
                "write" => fcntl(&file, FcntlArg::F_SETLK(&range_lock(libc::F_WRLCK, range)?)).map(drop),
                _ => return Err(format!("nobody knows {question}")),
            };
            Ok(format!("{got:?}"))
        })
    })
}

fn flock(file: File, kind: FlockArg) -> Result<Flock<File>, Errno> {
    Flock::lock(file, kind).map_err(|(_, errno)| errno)
}

/// A lock of `START LENGTH`.
fn range_lock(kind: i32, range: &str) -> Result<libc::flock, String> {
    let (start, length) = range.split_once(' ').ok_or("a range is two numbers")?;
    let number = |text: &str| text.parse().during("range");
    Ok(libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: number(start)?,
        l_len: number(length)?,
        l_pid: 0,
    })
}

/// Whether the other process gets what it asks for.
fn expect_all(child: &mut Child, table: &[(&str, Result<(), Errno>)]) -> Checked {
    table.iter().try_for_each(|(question, answer)| child.expect(question, &format!("{answer:?}")))
}

const REFUSED: Result<(), Errno> = Err(Errno::EWOULDBLOCK);

/// Nobody else gets the lock, whichever way he asks.
fn flock_exclusive() -> Made {
    let held = flock(new_file(&path("locked"))?, FlockArg::LockExclusiveNonblock).during("flock")?;
    let mut child = other()?;
    made(move || {
        held.metadata().during("fstat")?;
        expect_all(&mut child, &[("flock-shared", REFUSED), ("flock-exclusive", REFUSED)])
    })
}

/// Others may share it.
fn flock_shared() -> Made {
    let held = flock(new_file(&path("locked"))?, FlockArg::LockSharedNonblock).during("flock")?;
    let mut child = other()?;
    made(move || {
        held.metadata().during("fstat")?;
        expect_all(&mut child, &[("flock-shared", Ok(())), ("flock-exclusive", REFUSED)])
    })
}

/// The lock belongs to the open file, which two processes have: it stays when one gives it up.
fn flock_of_two_processes() -> Made {
    let held = flock(new_file(&path("locked"))?, FlockArg::LockExclusiveNonblock).during("flock")?;
    let mut child = other()?;
    let same = held.try_clone().during("dup")?;
    let mut heir =
        Child::start(move || Ok(move |_: &str| Ok(same.metadata().during("fstat")?.len().to_string())))?;
    made(move || {
        held.metadata().during("fstat")?;
        heir.expect("length", "0")?;
        expect_all(&mut child, &[("flock-exclusive", REFUSED)])
    })
}

fn locked(
    kind: i32,
    set: fn(&File, &libc::flock) -> nix::Result<i32>,
    ranges: &[&str],
) -> Result<File, String> {
    let file = new_file(&path("locked"))?;
    file.set_len(100).during("ftruncate")?;
    for range in ranges {
        set(&file, &range_lock(kind, range)?).during("lock")?;
    }
    Ok(file)
}

fn process_lock(file: &File, lock: &libc::flock) -> nix::Result<i32> {
    fcntl(file, FcntlArg::F_SETLK(lock))
}

fn open_file_lock(file: &File, lock: &libc::flock) -> nix::Result<i32> {
    fcntl(file, FcntlArg::F_OFD_SETLK(lock))
}

/// Of the process, on the whole file.
fn posix_write_lock() -> Made {
    excluding(locked(libc::F_WRLCK, process_lock, &["0 0"])?, &[("read 0 0", false), ("write 50 1", false)])
}

/// Others may read.
fn posix_read_lock() -> Made {
    excluding(locked(libc::F_RDLCK, process_lock, &["0 0"])?, &[("read 0 0", true), ("write 50 1", false)])
}

/// Two ranges of a file, and what is between them.
fn posix_locks_of_ranges() -> Made {
    let file = locked(libc::F_WRLCK, process_lock, &["10 10"])?;
    process_lock(&file, &range_lock(libc::F_RDLCK, "50 20")?).during("lock")?;
    let table = &[
        ("write 0 10", true),
        ("read 19 1", false),
        ("write 20 30", true),
        ("read 50 20", true),
        ("write 69 1", false),
    ];
    excluding(file, table)
}

/// Of the open file.
fn open_file_write_lock() -> Made {
    excluding(locked(libc::F_WRLCK, open_file_lock, &["5 5"])?, &[("read 9 1", false), ("write 10 1", true)])
}

/// Of the open file, and others may read.
fn open_file_read_lock() -> Made {
    excluding(locked(libc::F_RDLCK, open_file_lock, &["5 5"])?, &[("read 9 1", true), ("write 9 1", false)])
}

fn excluding(file: File, table: &'static [(&str, bool)]) -> Made {
    let mut child = other()?;
    made(move || {
        expect_eq("length", file.metadata().during("fstat")?.len(), 100)?;
        table.iter().try_for_each(|(question, granted)| {
            let answer = if *granted { Ok(()) } else { REFUSED };
            child.expect(question, &format!("{answer:?}"))
        })
    })
}

/// Whoever opens the file to write is waited for by nobody: the holder is told.
fn lease_to_read() -> Made {
    lease(libc::F_RDLCK, OFlag::O_RDONLY, OFlag::O_WRONLY)
}

/// As above, for whoever opens it at all.
fn lease_to_write() -> Made {
    lease(libc::F_WRLCK, OFlag::O_RDWR, OFlag::O_RDONLY)
}

fn lease(kind: i32, own: OFlag, theirs: OFlag) -> Made {
    let at = path("leased");
    drop(new_file(&at)?);
    sys::block(&[libc::SIGIO]).during("block SIGIO")?;
    let intruder = at.clone();
    // Before the lease: else it would be the child's, too.
    let mut child = Child::start(move || {
        Ok(move |_: &str| Ok(format!("{:?}", open_without_waiting(&intruder, theirs).err())))
    })?;
    let file = open(&at, own)?;
    files::fcntl(&file, libc::F_SETLEASE, kind).during("F_SETLEASE")?;
    made(move || {
        expect_eq("lease", files::fcntl(&file, libc::F_GETLEASE, 0).during("F_GETLEASE")?, kind)?;
        child.expect("open", &format!("{:?}", Some(Errno::EAGAIN)))?;
        let told = sys::take(&[libc::SIGIO], Duration::from_secs(5)).during("sigtimedwait")?;
        expect_eq("signal", told.map(|taken| taken.number), Some(libc::SIGIO))?;
        // The lease is being broken: given up, and taken again.
        files::fcntl(&file, libc::F_SETLEASE, libc::F_UNLCK).during("F_SETLEASE")?;
        files::fcntl(&file, libc::F_SETLEASE, kind).during("F_SETLEASE").map(drop)
    })
}

/// Somebody who is to read waits for its end, and its holder has not said anything yet: it may become one to read.
fn lease_that_a_reader_breaks() -> Made {
    lease_that_is_broken(libc::F_WRLCK, OFlag::O_RDWR, OFlag::O_RDONLY, libc::F_RDLCK)
}

/// As above, by somebody who is to write: it has to be given up.
fn lease_that_a_writer_breaks() -> Made {
    lease_that_is_broken(libc::F_WRLCK, OFlag::O_RDWR, OFlag::O_WRONLY, libc::F_UNLCK)
}

/// As above, of one to read.
fn lease_to_read_that_is_broken() -> Made {
    lease_that_is_broken(libc::F_RDLCK, OFlag::O_RDONLY, OFlag::O_WRONLY, libc::F_UNLCK)
}

fn lease_that_is_broken(kind: i32, own: OFlag, theirs: OFlag, wanted: i32) -> Made {
    let at = path("leased");
    drop(new_file(&at)?);
    sys::block(&[libc::SIGIO]).during("block SIGIO")?;
    let intruder = at.clone();
    let mut child = Child::start(move || {
        Ok(move |_: &str| Ok(format!("{:?}", open_without_waiting(&intruder, theirs).err())))
    })?;
    let file = open(&at, own)?;
    files::fcntl(&file, libc::F_SETLEASE, kind).during("F_SETLEASE")?;
    let refused = format!("{:?}", Some(Errno::EAGAIN));
    child.expect("open", &refused)?;
    // The kernel ends it by itself after `fs.lease-break-time`, 45 s.
    made(move || {
        expect_eq("lease", files::fcntl(&file, libc::F_GETLEASE, 0).during("F_GETLEASE")?, wanted)?;
        child.expect("open", &refused)
    })
}

fn open_without_waiting(at: &std::path::Path, flags: OFlag) -> nix::Result<File> {
    let flags = flags | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    nix::fcntl::open(at, flags, nix::sys::stat::Mode::empty()).map(File::from)
}

/// A process waits for a lock that another one holds, and gets it when that gives it up.
fn waiting_for_a_lock() -> Made {
    let file = locked(libc::F_WRLCK, process_lock, &["0 0"])?;
    let mut child = Child::start(|| {
        let file = open(&path("locked"), OFlag::O_RDWR)?;
        Ok(move |_: &str| {
            fcntl(&file, FcntlArg::F_SETLKW(&range_lock(libc::F_WRLCK, "0 0")?)).during("F_SETLKW")?;
            fcntl(&file, FcntlArg::F_SETLK(&range_lock(libc::F_UNLCK, "0 0")?)).during("F_SETLK")?;
            Ok("got it".to_owned())
        })
    })?;
    child.put("lock")?;
    let mut looks = 0;
    made(move || {
        expect_eq("the child has the lock", child.has_answered()?, false)?;
        looks += 1;
        if looks % 8 == 0 {
            process_lock(&file, &range_lock(libc::F_UNLCK, "0 0")?).during("F_SETLK")?;
            expect_eq("answer", child.hear()?.as_str(), "got it")?;
            process_lock(&file, &range_lock(libc::F_WRLCK, "0 0")?).during("F_SETLK")?;
            child.put("lock")?;
        }
        Ok(())
    })
}

/// Its parent is the one that is refused.
fn lock_that_a_child_holds() -> Made {
    let file = new_file(&path("locked"))?;
    let mut child = Child::start(|| {
        let file = open(&path("locked"), OFlag::O_RDWR)?;
        process_lock(&file, &range_lock(libc::F_WRLCK, "3 4")?).during("F_SETLK")?;
        Ok(move |_: &str| Ok(file.metadata().during("fstat")?.len().to_string()))
    })?;
    made(move || {
        child.expect("length", "0")?;
        let got = process_lock(&file, &range_lock(libc::F_RDLCK, "6 1")?);
        expect_eq("a lock of what is locked", got, Err(Errno::EAGAIN))?;
        let got = process_lock(&file, &range_lock(libc::F_RDLCK, "7 1")?).map(drop);
        expect_eq("a lock of what is not", got, Ok(()))
    })
}
