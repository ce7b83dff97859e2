// SPDX-License-Identifier: Apache-2.0
//! Programs for cgroup devices: bpf(2), as far as it takes to load one and to attach it. Sources: bpf(2), kernel
//! include/uapi/linux/bpf.h, Documentation/bpf/standardization/instruction-set.rst.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;

/// Programs can be added to the cgroup's; all of them must agree.
pub const ALLOW_MULTI: u32 = 2;
/// The new program takes the place of a given one, at once.
const REPLACE: u32 = 4;

/// As many programs as the kernel lets a cgroup have.
const MOST_PROGRAMS: usize = 64;

/// One instruction of a program.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation and its class.
    pub code: u8,
    /// The destination in the lower four bits, the source in the upper four (little endian machines).
    pub registers: u8,
    /// Distance of a jump in instructions, or of a field in bytes.
    pub offset: i16,
    /// The constant.
    pub immediate: i32,
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct Attach {
    cgroup: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
struct Query {
    cgroup: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    // Newer kernels write a revision behind it, whatever size they are told.
    more: [u32; 23],
}

#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// Calls bpf(2).
///
/// # Safety
/// `T` is what the command takes, and every address in it is of memory that lives until the return and is as large as
/// the field beside it says.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the pointer and the size are those of `attributes`; the rest is this function's own condition.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *mut T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Loads a program for the devices of a cgroup; closed on execve. It lives as long as it is attached or open.
///
/// # Errors
/// `EPERM` without CAP_BPF and CAP_NET_ADMIN or CAP_SYS_ADMIN of the first user namespace; `EINVAL` and `EACCES` for a
/// program that the kernel cannot prove to be harmless.
pub fn load_device_program(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    // The kernel gives up with EAGAIN when a signal comes in between.
    const ATTEMPTS: u32 = 5;
    let mut result = Err(io::ErrorKind::InvalidInput.into());
    for _ in 0..ATTEMPTS {
        let mut attributes = Load {
            kind: PROG_TYPE_CGROUP_DEVICE,
            count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            instructions: instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
        };
        // SAFETY: the slice and the constant string outlive the call, and `count` is the length of the slice.
        result = unsafe { bpf(PROG_LOAD, &mut attributes) };
        if !matches!(&result, Err(e) if e.raw_os_error() == Some(libc::EAGAIN)) {
            break;
        }
    }
    // SAFETY: the kernel has just made this descriptor, close-on-exec, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(result?) })
}

/// The device programs of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Their ids.
    pub ids: Vec<u32>,
    /// How they are attached: zero, or [`ALLOW_MULTI`] among others.
    pub flags: u32,
}

/// The device programs that are attached to a cgroup itself.
///
/// # Errors
/// `EINVAL` on a kernel that knows none; `EPERM`.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> io::Result<Attached> {
    let mut ids = [0_u32; MOST_PROGRAMS];
    let mut attributes = Query {
        cgroup: number(cgroup),
        kind: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: MOST_PROGRAMS as u32,
        more: [0; 23],
    };
    // SAFETY: the array outlives the call and has `count` elements.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    let count = (attributes.count as usize).min(MOST_PROGRAMS);
    Ok(Attached { ids: ids[..count].to_vec(), flags: attributes.attach_flags })
}

/// A program by its id; closed on execve.
///
/// # Errors
/// `ENOENT` when it is gone; `EPERM`.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut ById { id, next: 0, flags: 0 }) }?;
    // SAFETY: the kernel has just made this descriptor, close-on-exec, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a device program to a cgroup, with `replaced` in the place of that one (Linux 5.6), at once.
///
/// # Errors
/// `EPERM`, also when `flags` are not those of the programs that are there; `ENOENT` when `replaced` is not there.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    flags: u32,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attributes = Attach {
        cgroup: number(cgroup),
        program: number(program),
        kind: CGROUP_DEVICE,
        flags: flags | replaced.map_or(0, |_| REPLACE),
        replaced: replaced.map_or(0, number),
    };
    // SAFETY: integers only.
    unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
}

/// Detaches a device program from a cgroup.
///
/// # Errors
/// `ENOENT` when it is not attached; `EPERM`.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = Attach {
        cgroup: number(cgroup),
        program: number(program),
        kind: CGROUP_DEVICE,
        flags: 0,
        replaced: 0,
    };
    // SAFETY: integers only.
    unsafe { bpf(PROG_DETACH, &mut attributes) }.map(drop)
}
