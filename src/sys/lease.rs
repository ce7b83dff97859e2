// SPDX-License-Identifier: Apache-2.0
//! Owns the question whether anybody can write to an open file: a read lease (fcntl(2), "Leases"), which the kernel gives only for
//! a file that nobody has open for writing, or has mapped so.
//!
//! Thin: no policy. Must not know why the caller asks.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;

/// Not in the C library's headers for all targets (`linux/fcntl.h`).
const F_SETSIG: libc::c_int = 10;

/// Whether some process on this machine has the file open for writing, or a mapping of it that it could write through. `file` is open
/// for reading only. The lease is given back at once: who opens the file for writing in that moment waits until then.
///
/// # Errors
/// As fcntl(2), where the file system knows no leases: `EINVAL`.
pub fn has_writer(file: BorrowedFd<'_>) -> nix::Result<bool> {
    let call = |command, argument: libc::c_int| {
        // SAFETY: these commands take a number, and the descriptor is open as long as it is borrowed.
        Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), command, argument) })
    };
    // Who waits has the holder of the lease told by a signal: by one that is ignored unless somebody has asked for it.
    call(F_SETSIG, libc::SIGURG)?;
    match call(libc::F_SETLEASE, libc::F_RDLCK as libc::c_int) {
        Ok(_) => call(libc::F_SETLEASE, libc::F_UNLCK as libc::c_int).map(|_| false),
        Err(Errno::EAGAIN) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// A page of a file, mapped as a container may have it.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Mapping(*mut libc::c_void);

#[cfg(test)]
impl Mapping {
    /// Maps the first page of a file that is open for reading and writing, and has one.
    pub(crate) fn of(file: &std::fs::File) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, which nobody refers to.
        let mapped = unsafe {
            libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(mapped, libc::MAP_FAILED);
        Self(mapped)
    }

    pub(crate) fn first(&self) -> u8 {
        // SAFETY: it is mapped as long as this lives, and the file has a page.
        unsafe { self.0.cast::<u8>().read_volatile() }
    }

    pub(crate) fn set_first(&mut self, byte: u8) {
        // SAFETY: it is mapped as long as this lives, and the file has a page.
        unsafe { self.0.cast::<u8>().write_volatile(byte) };
    }
}

#[cfg(test)]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody uses it any more.
        unsafe { libc::munmap(self.0, 4096) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_writer_is_known_by_its_descriptor_and_by_its_mapping() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let path = file.path().to_owned();
        let reader = File::open(&path).expect("open");
        assert_eq!(has_writer(reader.as_fd()), Ok(true), "the one that has made it");
        let path = file.into_temp_path();
        assert_eq!(has_writer(reader.as_fd()), Ok(false));
        let writer = File::options().read(true).write(true).open(&path).expect("open");
        writer.set_len(4096).expect("grow");
        assert_eq!(has_writer(reader.as_fd()), Ok(true));
        let mapping = Mapping::of(&writer);
        drop(writer);
        assert_eq!(has_writer(reader.as_fd()), Ok(true), "a mapping that may become writable");
        drop(mapping);
        assert_eq!(has_writer(reader.as_fd()), Ok(false));
    }
}
