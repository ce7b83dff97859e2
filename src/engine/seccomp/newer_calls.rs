// SPDX-License-Identifier: Apache-2.0
//! System calls that are newer than a profile: to a program whose profile denies what it does not name, they are not
//! there (`ENOSYS`), so that its C library takes an older one instead. "Denied" (`EPERM`) it would take for the answer.
//!
//! Whoever wrote the profile knew the calls up to the greatest number that it names, for each architecture. This puts a
//! few instructions before the program, one section an architecture:
//!
//! ```text
//!   load architecture; another one? ──▶ next section
//!   load number; greater? ── return ENOSYS
//!   ──▶ behind the last section: the program
//! ```
//!
//! On x86_64 the calls of x32 are of the same architecture and have a bit in their number.

use std::str::FromStr;

use libseccomp::{ScmpArch, ScmpSyscall};

use super::compile::architectures;
use crate::spec::oci::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};
use crate::sys::arch::SECCOMP;
use crate::sys::seccomp::{
    ARCHITECTURE_OFFSET, Instruction, JUMP, JUMP_ANY_BIT, JUMP_EQUAL, JUMP_GREATER, LOAD, NUMBER_OFFSET,
    RETURN,
};

/// `SECCOMP_RET_ERRNO` with `ENOSYS`.
const NOT_THERE: u32 = 0x0005_0000 | libc::ENOSYS as u32;
/// `__X32_SYSCALL_BIT`.
const X32_BIT: u32 = 1 << 30;

/// What stands before the program.
pub(super) fn stub(profile: &LinuxSeccomp) -> Vec<Instruction> {
    if !is_needed(profile) {
        return Vec::new();
    }
    let native = Arch::from_str(SECCOMP).ok().filter(|native| !architectures(profile).contains(native));
    // The processor's own first: it is most asked for.
    let mut all: Vec<Arch> = native.into_iter().chain(architectures(profile).iter().copied()).collect();
    all.sort_by_key(|arch| arch.to_string() != SECCOMP);
    let newest = |arch: Arch| newest_of(profile, arch);
    let mut sections: Vec<Vec<Instruction>> = Vec::new();
    let mut done: Vec<Arch> = vec![Arch::ScmpArchNative];
    for arch in all {
        if done.contains(&arch) {
            continue;
        }
        if matches!(arch, Arch::ScmpArchX86_64 | Arch::ScmpArchX32) {
            done.extend([Arch::ScmpArchX86_64, Arch::ScmpArchX32]);
            sections.extend(both_x86_64(newest(Arch::ScmpArchX86_64), newest(Arch::ScmpArchX32)));
        } else {
            done.push(arch);
            sections.extend(newest(arch).map(|newest| section(arch as u32, &[greater(newest, 0, 1)])));
        }
    }
    assemble(&sections)
}

/// A permissive default lets the kernel answer by itself, and a tracer is expected to know what is new.
fn is_needed(profile: &LinuxSeccomp) -> bool {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno, ScmpActLog, ScmpActTrace};
    let action = profile.default_action();
    let says_so = action == ScmpActErrno && profile.default_errno_ret() == Some(libc::ENOSYS as u32);
    !matches!(action, ScmpActAllow | ScmpActLog | ScmpActTrace) && !says_so
}

/// The greatest number that the profile names, of an architecture that it is for.
fn newest_of(profile: &LinuxSeccomp, arch: Arch) -> Option<u32> {
    let name = arch.to_string();
    if name != SECCOMP && !architectures(profile).contains(&arch) {
        return None;
    }
    let arch = ScmpArch::from_str(&name).ok()?;
    let names = profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names);
    // Calls that the architecture has in another way have numbers below zero.
    let number = |name: &String| {
        ScmpSyscall::from_name_by_arch(name, arch)
            .ok()
            .and_then(|call| u32::try_from(call.as_raw_syscall()).ok())
    };
    let newest = names.filter_map(number).max().filter(|number| *number > 0);
    match newest {
        Some(number) => tracing::debug!("seccomp: largest syscall number for arch {name} is {number}"),
        None => tracing::debug!("seccomp: no syscall of arch {name} is named"),
    }
    newest
}

const fn greater(than: u32, then: u8, otherwise: u8) -> Instruction {
    Instruction { code: JUMP_GREATER, then, otherwise, constant: than }
}

/// A section whose middle part goes on to its last instruction but one to deny, and to the last one to leave.
fn section(audit: u32, judge: &[Instruction]) -> Vec<Instruction> {
    // Number, middle part, denial, leave.
    let body = judge.len() as u8 + 3;
    let mut all = vec![
        Instruction::plain(LOAD, ARCHITECTURE_OFFSET),
        Instruction { code: JUMP_EQUAL, then: 0, otherwise: body, constant: audit },
        Instruction::plain(LOAD, NUMBER_OFFSET),
    ];
    all.extend(judge);
    all.extend([Instruction::plain(RETURN, NOT_THERE), Instruction::plain(JUMP, 0)]);
    all
}

fn both_x86_64(long: Option<u32>, x32: Option<u32>) -> Option<Vec<Instruction>> {
    let has_bit = |then, otherwise| Instruction { code: JUMP_ANY_BIT, then, otherwise, constant: X32_BIT };
    let judge = match (long, x32) {
        (None, None) => return None,
        (Some(long), None) => vec![has_bit(2, 0), greater(long, 0, 1)],
        (None, Some(x32)) => vec![has_bit(0, 2), greater(x32, 0, 1)],
        (Some(long), Some(x32)) => vec![has_bit(1, 0), greater(long, 1, 2), greater(x32, 0, 1)],
    };
    Some(section(Arch::ScmpArchX86_64 as u32, &judge))
}

/// One after the other, the last instruction of each leading behind them all.
fn assemble(sections: &[Vec<Instruction>]) -> Vec<Instruction> {
    let mut all = sections.concat();
    let (mut end, total) = (0, all.len());
    for section in sections {
        end += section.len();
        if let Some(leave) = all.get_mut(end - 1) {
            leave.constant = (total - end) as u32;
        }
    }
    all
}
