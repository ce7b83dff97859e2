// SPDX-License-Identifier: Apache-2.0
//! A profile to a program, with libseccomp.

use std::io::{Read, Seek};
use std::str::FromStr;

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

use super::newer_calls;
use crate::spec::asks_others;
use crate::spec::oci::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use crate::sys::seccomp::{self, Instruction};
use crate::{Context, Error, ErrorKind, Result, sys};

/// As many names of system calls are looked up one after the other; of more libseccomp makes a tree.
const SEARCHED_IN_TURN: usize = 32;

/// The flags of seccomp(2).
pub(super) fn flags(profile: &LinuxSeccomp) -> u32 {
    let of = |flag: &LinuxSeccompFilterFlag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => seccomp::FLAG_LOG,
        // It is about other threads, and init has none.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => seccomp::FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => seccomp::FLAG_WAIT_KILLABLE_RECV,
    };
    // Not the same as none: runc's choice, for the sake of speed.
    let flags = profile
        .flags()
        .as_ref()
        .map_or(seccomp::FLAG_SPEC_ALLOW, |flags| flags.iter().map(of).fold(0, |all, one| all | one));
    // Without questions there is no wait for answers, and the kernel takes that flag for an error.
    if asks_others(profile) {
        flags | seccomp::FLAG_NEW_LISTENER
    } else {
        flags & !seccomp::FLAG_WAIT_KILLABLE_RECV
    }
}

/// The program of a profile.
///
/// # Errors
/// What libseccomp cannot do.
pub(super) fn program(profile: &LinuxSeccomp) -> Result<Vec<Instruction>> {
    let default = action(profile.default_action(), profile.default_errno_ret());
    let mut filter = ScmpFilterContext::new(default).context(|| "seccomp_init()")?;
    for name in architectures(profile) {
        let architecture = ScmpArch::from_str(&name.to_string()).context(|| name.to_string())?;
        if !filter.is_arch_present(architecture).context(|| format!("seccomp_arch_exist({name})"))? {
            filter.add_arch(architecture).context(|| format!("seccomp_arch_add({name})"))?;
        }
    }
    // init has its own way with it.
    filter.set_ctl_nnp(false).context(|| "seccomp_attr_set(SCMP_FLTATR_CTL_NNP)")?;
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    if rules.iter().map(|rule| rule.names().len()).sum::<usize>() > SEARCHED_IN_TURN
        && let Err(error) = filter.set_ctl_optimize(2)
    {
        tracing::debug!(%error, "libseccomp makes no tree of system calls");
    }
    for rule in rules {
        add(&mut filter, rule, default)?;
    }
    let mut program = newer_calls::stub(profile);
    program.extend(export(&filter)?);
    Ok(program)
}

/// Those of the profile. libseccomp has the processor's own among them always.
pub(super) fn architectures(profile: &LinuxSeccomp) -> &[Arch] {
    profile.architectures().as_deref().unwrap_or_default()
}

fn add(filter: &mut ScmpFilterContext, rule: &LinuxSyscall, default: ScmpAction) -> Result<()> {
    let action = action(rule.action(), rule.errno_ret());
    // libseccomp calls it an error.
    if action == default {
        return Ok(());
    }
    let conditions: Vec<_> = rule.args().iter().flatten().map(condition).collect();
    let attempt = |name: &str| format!("add the rule for the system call {name}");
    for name in rule.names() {
        let Ok(call) = ScmpSyscall::from_name(name) else {
            tracing::debug!("unknown seccomp syscall {name:?} ignored");
            continue;
        };
        if conditions.is_empty() {
            filter.add_rule(action, call).context(|| attempt(name))?;
        } else if has_index_twice(rule) {
            // A rule may ask for an argument once; so each condition does for itself (as in runc).
            for one in &conditions {
                filter.add_rule_conditional(action, call, &[*one]).context(|| attempt(name))?;
            }
        } else {
            filter.add_rule_conditional(action, call, &conditions).context(|| attempt(name))?;
        }
    }
    Ok(())
}

fn has_index_twice(rule: &LinuxSyscall) -> bool {
    let mut indices: Vec<_> = rule.args().iter().flatten().map(LinuxSeccompArg::index).collect();
    indices.sort_unstable();
    indices.windows(2).any(|pair| pair[0] == pair[1])
}

fn condition(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let (value, second) = (argument.value(), argument.value_two().unwrap_or(0));
    let (operator, datum) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        // The first is the mask.
        LinuxSeccompOperator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(value), second),
    };
    // It has been judged to be less than six.
    ScmpArgCompare::new(u32::try_from(argument.index()).unwrap_or(u32::MAX), operator, datum)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> ScmpAction {
    let number = errno.unwrap_or(libc::EPERM as u32);
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(number.cast_signed()),
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(number as u16),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
    }
}

/// The older libseccomps give it to a descriptor only.
fn export(filter: &ScmpFilterContext) -> Result<Vec<Instruction>> {
    let mut file = sys::fd::memory_file(c"seccomp").context(|| "memfd_create")?;
    filter.export_bpf(&file).context(|| "seccomp_export_bpf()")?;
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).context(|| "read the program of libseccomp")?;
    let chunks = bytes.chunks_exact(Instruction::SIZE);
    if !chunks.remainder().is_empty() {
        return Err(Error::new(ErrorKind::System, "the program of libseccomp breaks off"));
    }
    Ok(chunks.filter_map(|chunk| Some(Instruction::from_bytes(chunk.try_into().ok()?))).collect())
}
