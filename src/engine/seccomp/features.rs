// SPDX-License-Identifier: Apache-2.0
//! What of `linux.seccomp` this program knows, in the words of the specification.

use std::str::FromStr;

use libseccomp::{ScmpArch, ScmpVersion};
use serde::Serialize;

use crate::spec::oci::{Arch, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator};
use crate::sys::seccomp::{self, FLAG_NEW_LISTENER, FLAG_WAIT_KILLABLE_RECV};

/// The specification's "Seccomp" of the features structure; each list is sorted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompFeatures {
    /// Always.
    pub enabled: bool,
    /// What can be done about a system call.
    pub actions: Vec<String>,
    /// How arguments can be compared.
    pub operators: Vec<String>,
    /// Architectures of system calls.
    pub archs: Vec<String>,
    /// Flags that are understood.
    pub known_flags: Vec<String>,
    /// Those of them that the running kernel has.
    pub supported_flags: Vec<String>,
    /// The version of libseccomp, as `2.5.4`; it decides which names of system calls are known.
    #[serde(skip)]
    pub libseccomp: Option<String>,
}

/// What is known, and what the running kernel has of it.
pub fn seccomp_features() -> SeccompFeatures {
    use LinuxSeccompAction as Action;
    use LinuxSeccompFilterFlag as Flag;
    use LinuxSeccompOperator as Operator;
    let actions = [
        Action::ScmpActKill,
        Action::ScmpActKillThread,
        Action::ScmpActKillProcess,
        Action::ScmpActTrap,
        Action::ScmpActErrno,
        Action::ScmpActNotify,
        Action::ScmpActTrace,
        Action::ScmpActLog,
        Action::ScmpActAllow,
    ];
    let operators = [
        Operator::ScmpCmpNe,
        Operator::ScmpCmpLt,
        Operator::ScmpCmpLe,
        Operator::ScmpCmpEq,
        Operator::ScmpCmpGe,
        Operator::ScmpCmpGt,
        Operator::ScmpCmpMaskedEq,
    ];
    let flags = [
        (Flag::SeccompFilterFlagTsync, seccomp::FLAG_TSYNC),
        (Flag::SeccompFilterFlagLog, seccomp::FLAG_LOG),
        (Flag::SeccompFilterFlagSpecAllow, seccomp::FLAG_SPEC_ALLOW),
        (Flag::SeccompFilterFlagWaitKillableRecv, FLAG_WAIT_KILLABLE_RECV | FLAG_NEW_LISTENER),
    ];
    let supported = flags.iter().filter(|(_, number)| seccomp::knows_flags(*number));
    SeccompFeatures {
        enabled: true,
        actions: sorted(actions),
        operators: sorted(operators),
        archs: sorted(ARCHITECTURES.into_iter().filter(|a| ScmpArch::from_str(&a.to_string()).is_ok())),
        known_flags: sorted(flags.iter().map(|(flag, _)| flag)),
        supported_flags: sorted(supported.map(|(flag, _)| flag)),
        libseccomp: ScmpVersion::current().ok().map(|v| format!("{}.{}.{}", v.major, v.minor, v.micro)),
    }
}

const ARCHITECTURES: [Arch; 21] = [
    Arch::ScmpArchX86,
    Arch::ScmpArchX86_64,
    Arch::ScmpArchX32,
    Arch::ScmpArchArm,
    Arch::ScmpArchAarch64,
    Arch::ScmpArchLoongarch64,
    Arch::ScmpArchM68k,
    Arch::ScmpArchMips,
    Arch::ScmpArchMips64,
    Arch::ScmpArchMips64n32,
    Arch::ScmpArchMipsel,
    Arch::ScmpArchMipsel64,
    Arch::ScmpArchMipsel64n32,
    Arch::ScmpArchPpc,
    Arch::ScmpArchPpc64,
    Arch::ScmpArchPpc64le,
    Arch::ScmpArchParisc,
    Arch::ScmpArchParisc64,
    Arch::ScmpArchS390,
    Arch::ScmpArchS390x,
    Arch::ScmpArchRiscv64,
];

fn sorted<T: ToString>(list: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut names: Vec<String> = list.into_iter().map(|item| item.to_string()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_the_specifications() {
        let features = seccomp_features();
        for (list, name) in [
            (&features.actions, "SCMP_ACT_KILL_PROCESS"),
            (&features.operators, "SCMP_CMP_MASKED_EQ"),
            (&features.archs, "SCMP_ARCH_X86_64"),
            (&features.archs, "SCMP_ARCH_MIPSEL64N32"),
            (&features.known_flags, "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"),
            (&features.supported_flags, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
        ] {
            assert!(list.iter().any(|item| item == name), "{name}: {list:?}");
        }
        assert_eq!(features.archs.len(), ARCHITECTURES.len());
    }
}
