// SPDX-License-Identifier: Apache-2.0
//! process_vm_readv(2): the memory of another process, which runs on.

#![allow(unsafe_code)]

use std::io;
use std::ops::Range;

/// Ranges that one call takes: `UIO_MAXIOV` of the kernel is the most.
pub const RANGES: usize = 256;

/// Reads these ranges, one behind the other, into the buffer; no more than [`RANGES`] of them and than there is room for. Returns how many
/// bytes there are: fewer when a page is not there, or may not be read.
///
/// # Errors
/// `EFAULT` when not even the first page can be read, `ESRCH` when the thread is gone, `EPERM` for who may not trace it.
pub fn read(thread: i32, ranges: &[Range<u64>], into: &mut [u8]) -> io::Result<usize> {
    let mut room = into.len();
    let mut remote = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; RANGES];
    let mut count = 0;
    for (slot, range) in remote.iter_mut().zip(ranges) {
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(room).min(room);
        slot.iov_base = std::ptr::without_provenance_mut(range.start as usize);
        slot.iov_len = length;
        room -= length;
        count += 1;
    }
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() - room };
    // SAFETY: the kernel writes at most `iov_len` bytes to the one local range, which `into` lends for the call. The others are
    // addresses of another process, which are only looked up.
    let read = unsafe { libc::process_vm_readv(thread, &raw const local, 1, remote.as_ptr(), count, 0) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_one_behind_the_other() {
        let (one, two) = ([1_u8, 2, 3], [4_u8, 5, 6]);
        let at = |bytes: &[u8]| bytes.as_ptr() as u64..bytes.as_ptr() as u64 + bytes.len() as u64;
        let own = nix::unistd::getpid().as_raw();
        let mut into = [0; 5];
        assert_eq!(read(own, &[at(&one), at(&two)], &mut into).expect("ourselves"), 5);
        assert_eq!(into, [1, 2, 3, 4, 5]);
        let error = read(own, std::slice::from_ref(&(0..1)), &mut into).expect_err("nothing is there");
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }
}
