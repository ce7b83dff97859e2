// SPDX-License-Identifier: Apache-2.0
//! kcmp(2): whether two threads have the same object of the kernel's.

#![allow(unsafe_code)]

use std::io;

/// `KCMP_VM` of linux/kcmp.h.
const MEMORY: i32 = 1;

/// Whether two threads have one memory: threads of a process have, and a process between vfork(2) and execve(2) has its
/// parent's.
///
/// # Errors
/// `ESRCH` when one of them is gone, `EPERM` for who may not trace both, `ENOSYS` for a kernel without kcmp(2).
pub fn same_memory(one: i32, other: i32) -> io::Result<bool> {
    // SAFETY: kcmp takes five integers.
    match unsafe { libc::syscall(libc::SYS_kcmp, one, other, MEMORY, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        order => Ok(order == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_one_memory_and_processes_each_their_own() {
        let (own, parent) = (nix::unistd::getpid().as_raw(), nix::unistd::getppid().as_raw());
        let thread = std::thread::spawn(|| nix::unistd::gettid().as_raw());
        assert!(same_memory(own, nix::unistd::gettid().as_raw()).expect("ourselves"));
        if let Ok(same) = same_memory(own, parent) {
            assert!(!same, "a test and who runs it");
        }
        let ended = thread.join().expect("it ends");
        assert!(ended > 0);
        assert!(same_memory(own, i32::MAX).is_err());
    }
}
