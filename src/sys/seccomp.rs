// SPDX-License-Identifier: Apache-2.0
//! seccomp(2): programs of classic BPF that judge system calls, as far as it takes to load one. Source: kernel
//! include/uapi/linux/{seccomp,filter,bpf_common}.h.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

const SET_MODE_FILTER: libc::c_uint = 1;

/// `SECCOMP_FILTER_FLAG_TSYNC`.
pub const FLAG_TSYNC: u32 = 1;
/// `SECCOMP_FILTER_FLAG_LOG` (Linux 4.14).
pub const FLAG_LOG: u32 = 1 << 1;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW` (Linux 4.17).
pub const FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` (Linux 5.0).
pub const FLAG_NEW_LISTENER: u32 = 1 << 3;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19); only beside [`FLAG_NEW_LISTENER`].
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// Load the word of `struct seccomp_data` at the offset that the constant says.
pub const LOAD: u16 = 0x20;
/// Skip as many instructions as the constant says.
pub const JUMP: u16 = 0x05;
/// Skip, by whether what was loaded equals the constant.
pub const JUMP_EQUAL: u16 = 0x15;
/// Skip, by whether what was loaded is greater than the constant.
pub const JUMP_GREATER: u16 = 0x25;
/// Skip, by whether what was loaded and the constant have a bit in common.
pub const JUMP_ANY_BIT: u16 = 0x45;
/// The program's answer is the constant.
pub const RETURN: u16 = 0x06;

/// Where `struct seccomp_data` has the number of the system call.
pub const NUMBER_OFFSET: u32 = 0;
/// Where `struct seccomp_data` has the architecture.
pub const ARCHITECTURE_OFFSET: u32 = 4;

/// One instruction (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u16, u8, u8, u32)", into = "(u16, u8, u8, u32)")]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// How many instructions to skip if the condition holds.
    pub then: u8,
    /// How many to skip if it does not.
    pub otherwise: u8,
    /// The constant.
    pub constant: u32,
}

impl Instruction {
    /// How many bytes one takes.
    pub const SIZE: usize = 8;

    /// One without a condition.
    pub const fn plain(code: u16, constant: u32) -> Self {
        Self { code, then: 0, otherwise: 0, constant }
    }

    /// From the kernel's form.
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let [c0, c1, then, otherwise, k0, k1, k2, k3] = bytes;
        Self {
            code: u16::from_ne_bytes([c0, c1]),
            then,
            otherwise,
            constant: u32::from_ne_bytes([k0, k1, k2, k3]),
        }
    }
}

impl From<(u16, u8, u8, u32)> for Instruction {
    fn from((code, then, otherwise, constant): (u16, u8, u8, u32)) -> Self {
        Self { code, then, otherwise, constant }
    }
}

impl From<Instruction> for (u16, u8, u8, u32) {
    fn from(one: Instruction) -> Self {
        (one.code, one.then, one.otherwise, one.constant)
    }
}

#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

/// Has the calling thread and what it starts judged by a program, for good. With [`FLAG_NEW_LISTENER`] the descriptor
/// is where others are asked; closed on execve. Allocates nothing.
///
/// # Errors
/// `EACCES` without CAP_SYS_ADMIN or no_new_privs, `EINVAL` for a program or a flag that the kernel does not take,
/// `EBUSY` for a second listener.
pub fn load(instructions: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let length = u16::try_from(instructions.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = Program { length, instructions: instructions.as_ptr() };
    // SAFETY: the kernel reads `length` instructions, which are those of the slice; both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let has_listener = flags & FLAG_NEW_LISTENER != 0;
    // SAFETY: the kernel has just made this descriptor, close-on-exec, for us alone.
    Ok(has_listener.then(|| unsafe { OwnedFd::from_raw_fd(result as i32) }))
}

/// Whether the kernel knows flags: it looks at them before it reads a program.
pub fn knows_flags(flags: u32) -> bool {
    let none = std::ptr::null::<Program>();
    // SAFETY: at the null pointer the kernel reads nothing and answers EFAULT.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, none) };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_kernels() {
        assert_eq!(size_of::<Instruction>(), size_of::<libc::sock_filter>());
        assert_eq!(size_of::<Program>(), size_of::<libc::sock_fprog>());
        let one = Instruction { code: JUMP_GREATER, then: 1, otherwise: 2, constant: 0x4000_0001 };
        let json = serde_json::to_string(&one).expect("JSON");
        assert_eq!(json, "[37,1,2,1073741825]");
        assert_eq!(serde_json::from_str::<Instruction>(&json).expect("the same"), one);
        let mut bytes = Vec::from(one.code.to_ne_bytes());
        bytes.extend([1, 2]);
        bytes.extend(one.constant.to_ne_bytes());
        assert_eq!(Instruction::from_bytes(bytes.try_into().expect("8 bytes")), one);
    }

    #[test]
    fn the_kernel_is_asked_what_it_knows() {
        assert!(knows_flags(FLAG_LOG) && knows_flags(FLAG_SPEC_ALLOW));
        assert!(!knows_flags(1 << 30));
    }

    #[test]
    fn a_thread_is_judged_from_then_on() {
        let work = || {
            nix::sys::prctl::set_no_new_privs().expect("prctl");
            let number = libc::SYS_getppid as u32;
            let program = [
                Instruction::plain(LOAD, NUMBER_OFFSET),
                Instruction { code: JUMP_EQUAL, then: 0, otherwise: 1, constant: number },
                Instruction::plain(RETURN, 0x0005_0000 | libc::EXDEV as u32),
                Instruction::plain(RETURN, 0x7fff_0000),
            ];
            assert!(load(&program, 0).expect("loaded").is_none());
            // SAFETY: it takes nothing.
            let result = unsafe { libc::syscall(libc::SYS_getppid) };
            assert_eq!((result, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EXDEV)));
        };
        std::thread::spawn(work).join().expect("no panic");
    }
}
