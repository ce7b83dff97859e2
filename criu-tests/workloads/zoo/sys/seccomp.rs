// SPDX-License-Identifier: Apache-2.0
//! seccomp(2).

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::check;

/// From now on this system call fails with `errno` in the calling thread, or in all with `SECCOMP_FILTER_FLAG_TSYNC`.
pub(in crate::zoo) fn refuse(call: libc::c_long, errno: u16, flags: libc::c_ulong) -> io::Result<()> {
    let number = u32::try_from(call).map_err(io::Error::other)?;
    let statement = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let program = [
        // Load the number; return an error if it is this one; else allow.
        statement(0x20, 0, 0, 0),
        statement(0x15, 0, 1, number),
        statement(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | u32::from(errno)),
        statement(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: program.as_ptr().cast_mut() };
    const FILTER: c_int = 1;
    // SAFETY: the program has four statements and lives; the kernel only reads it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, FILTER, flags, &raw const program) }).map(drop)
}

/// Makes the system call without arguments; gives the error's number, 0 if there is none.
pub(in crate::zoo) fn tried(call: libc::c_long) -> i32 {
    // SAFETY: exhibits name calls without arguments.
    match check(unsafe { libc::syscall(call) }) {
        Ok(_) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    }
}

/// The life of a process in strict mode: answers each byte with the next one, by read(2) and write(2) alone.
pub(in crate::zoo) fn echo_strictly(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> i32 {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let mut byte = 0_u8;
    // SAFETY: integers, and a byte that lives. In strict mode only exit(2) ends a thread without a signal.
    unsafe {
        if libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT, 0, 0, 0) == 0 {
            while libc::read(from, (&raw mut byte).cast(), 1) == 1 {
                byte = byte.wrapping_add(1);
                if libc::write(to, (&raw const byte).cast(), 1) != 1 {
                    break;
                }
            }
        }
        libc::syscall(libc::SYS_exit, 3);
    }
    3
}
