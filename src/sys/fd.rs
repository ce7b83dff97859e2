// SPDX-License-Identifier: Apache-2.0
//! File descriptors: CLOEXEC, numbers above stdio, memory files, exclusive locks.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Marks every descriptor from `first` on close-on-exec (close_range(2), Linux 5.11).
///
/// # Errors
/// The call's error.
pub fn cloexec_from(first: RawFd) -> io::Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: RawFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: close_range takes numbers only; with CLOEXEC it frees nothing that a Rust value owns.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes over a descriptor that this process inherited under a known number, and marks it close-on-exec.
///
/// # Errors
/// `EBADF` when there is none of that number.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the caller was told this number by the process that left the descriptor open for it, and asks once.
    // fcntl proves that it is open.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    if let Err(e) = set_cloexec(&fd) {
        std::mem::forget(fd);
        return Err(e);
    }
    Ok(fd)
}

fn set_cloexec(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// A close-on-exec copy whose number is 4 or more, so that it is out of the way of stdio and of what a program
/// expects to find as number 3.
///
/// # Errors
/// `EMFILE`, `EBADF`.
pub fn above_stdio(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(4))?;
    // SAFETY: F_DUPFD_CLOEXEC has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Waits until one of two has something to read or is at its end, as a pidfd is when its process has ended; tells whether the first has.
///
/// # Errors
/// The error of poll(2).
pub fn wait_for_first(first: BorrowedFd<'_>, other: BorrowedFd<'_>) -> io::Result<bool> {
    loop {
        let mut fds = [PollFd::new(first, PollFlags::POLLIN), PollFd::new(other, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
            Ok(_) => return Ok(fds[0].revents().is_some_and(|events| !events.is_empty())),
        }
    }
}

/// This process's stdin, stdout or stderr, borrowed.
pub fn stdio(number: usize) -> BorrowedFd<'static> {
    assert!(number < 3, "stdio has the numbers 0 to 2");
    // SAFETY: 0 to 2 stay open for the life of the process: nothing in this crate closes them.
    unsafe { BorrowedFd::borrow_raw(number as RawFd) }
}

/// A descriptor of 3 or more that this process was started with, borrowed.
///
/// # Errors
/// `EBADF` when there is none of that number.
pub fn inherited(number: RawFd) -> io::Result<BorrowedFd<'static>> {
    if number < 3 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_GETFD takes integers.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and what the process was started with is nobody's to close.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Whether it is open for writing (`F_GETFL`).
///
/// # Errors
/// That of fcntl(2).
pub fn is_writable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mode = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?) & OFlag::O_ACCMODE;
    Ok(mode == OFlag::O_WRONLY || mode == OFlag::O_RDWR)
}

/// An empty memory file (memfd_create(2)), closed on execve.
///
/// # Errors
/// That of the system call.
pub fn memory_file(name: &CStr) -> io::Result<File> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?))
}

/// A sealed [`memory_file`] with these contents, positioned at its start.
///
/// # Errors
/// The first call that failed.
pub fn sealed_memfd(name: &CStr, contents: &[u8]) -> io::Result<File> {
    let mut file = memory_file(name)?;
    file.write_all(contents)?;
    file.rewind()?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    let seals = nix::fcntl::SealFlag::from_bits_truncate(seals);
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

/// The path through which this process, or one that can see it, reaches the file behind a descriptor.
pub fn proc_path(fd: BorrowedFd<'_>) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_sealed_memfd_reads_back_and_refuses_writes() {
        let mut file = sealed_memfd(c"test", b"plan").expect("memfd");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "plan");
        let error = file.write_all(b"x").expect_err("it is sealed");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn copies_stay_clear_of_stdio() {
        let copy = above_stdio(stdio(0)).expect("dup");
        assert!(copy.as_fd().as_raw_fd() > 3);
        take_inherited(2).expect_err("stdio is not for the taking");
    }
}
