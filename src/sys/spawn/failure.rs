// SPDX-License-Identifier: Apache-2.0
//! What a cloned child says when it cannot go on: one packet of eight bytes, which it can send without memory of its
//! own.

use std::io;

use nix::sched::CloneFlags;

use crate::{Context, Result};

/// The kinds of namespaces, with their names in clone(2).
const KINDS: [(i32, &str); 8] = [
    (0x80, "CLONE_NEWTIME"),
    (libc::CLONE_NEWNS, "CLONE_NEWNS"),
    (libc::CLONE_NEWCGROUP, "CLONE_NEWCGROUP"),
    (libc::CLONE_NEWUTS, "CLONE_NEWUTS"),
    (libc::CLONE_NEWIPC, "CLONE_NEWIPC"),
    (libc::CLONE_NEWUSER, "CLONE_NEWUSER"),
    (libc::CLONE_NEWPID, "CLONE_NEWPID"),
    (libc::CLONE_NEWNET, "CLONE_NEWNET"),
];

/// Why a cloned child could not go on, as it reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", self.call(), io::Error::from_raw_os_error(*errno))]
pub struct SpawnFailure {
    /// The step that failed.
    pub stage: Stage,
    /// The error number of its system call.
    pub errno: i32,
    /// The kind of namespace that the step was about, if it was: one bit of clone(2)'s flags.
    pub namespace: CloneFlags,
}

/// The steps of a cloned child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Joining a namespace.
    Join = 1,
    /// Making the child in the joined namespaces.
    Clone = 2,
    /// Putting stdio in place.
    Stdio = 3,
    /// Setting which descriptors survive.
    Inherit = 4,
    /// Executing the program.
    Execute = 5,
    /// Entering a cgroup.
    Cgroup = 6,
    /// Making namespaces.
    Unshare = 7,
    /// Making a session.
    Session = 8,
    /// Setting the signals.
    Signals = 9,
    /// Keeping other processes from looking into it.
    Hide = 10,
    /// Becoming another group in its user namespace.
    BecomeGroup = 11,
    /// Becoming another user in its user namespace.
    BecomeUser = 12,
    /// Leaving the caller's supplementary groups.
    LeaveGroups = 13,
    /// Keeping its capabilities there although it is not root.
    KeepCapabilities = 14,
}

impl Stage {
    fn call(self) -> &'static str {
        match self {
            Self::Join => "setns",
            Self::Clone => "clone3",
            Self::Stdio => "dup3",
            Self::Inherit => "close_range",
            Self::Execute => "execve",
            Self::Cgroup => "write(cgroup tasks, \"0\")",
            Self::Unshare => "unshare",
            Self::Session => "setsid",
            Self::Signals => "rt_sigprocmask",
            Self::Hide => "prctl(PR_SET_DUMPABLE, 0)",
            Self::BecomeGroup => "setresgid in the user namespace",
            Self::BecomeUser => "setresuid in the user namespace",
            Self::LeaveGroups => "setgroups([]) in the user namespace",
            Self::KeepCapabilities => "capset in the user namespace",
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [
            Self::Join,
            Self::Clone,
            Self::Stdio,
            Self::Inherit,
            Self::Execute,
            Self::Cgroup,
            Self::Unshare,
            Self::Session,
            Self::Signals,
            Self::Hide,
            Self::BecomeGroup,
            Self::BecomeUser,
            Self::LeaveGroups,
            Self::KeepCapabilities,
        ]
        .into_iter()
        .find(|stage| *stage as u8 == number)
    }
}

impl SpawnFailure {
    pub(super) const SIZE: usize = 8;

    pub(super) fn encode(self) -> [u8; Self::SIZE] {
        let errno = self.errno.to_le_bytes();
        // One bit's number, 0 for none: no kind of namespace has the lowest bit.
        let namespace =
            if self.namespace.is_empty() { 0 } else { self.namespace.bits().trailing_zeros() as u8 };
        [0, self.stage as u8, errno[0], errno[1], errno[2], errno[3], namespace, 0]
    }

    /// As an error of this library, whose kind follows from the error number.
    ///
    /// # Errors
    /// Always.
    pub fn into_result<T>(self) -> Result<T> {
        Err(io::Error::from_raw_os_error(self.errno)).context(|| self.call())
    }

    /// Reads a packet of the report socket; `None` when it is none of ours (ours begin with a zero byte).
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let packet: &[u8; Self::SIZE] = packet.try_into().ok()?;
        if packet[0] != 0 {
            return None;
        }
        let errno = i32::from_le_bytes([packet[2], packet[3], packet[4], packet[5]]);
        let bit = if packet[6] == 0 { 0 } else { 1_i32.checked_shl(packet[6].into())? };
        let namespace = CloneFlags::from_bits_retain(bit);
        Some(Self { stage: Stage::from_number(packet[1])?, errno, namespace })
    }

    fn call(&self) -> String {
        let kind = KINDS.iter().find(|(bit, _)| *bit == self.namespace.bits());
        match kind {
            Some((_, name)) => format!("{}({name})", self.stage.call()),
            None => self.stage.call().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_back_and_names_its_namespace() {
        for (bit, name) in KINDS {
            let namespace = CloneFlags::from_bits_retain(bit);
            let failure = SpawnFailure { stage: Stage::Join, errno: libc::EPERM, namespace };
            assert_eq!(SpawnFailure::decode(&failure.encode()), Some(failure));
            assert!(failure.to_string().starts_with(&format!("setns({name}): ")), "{failure}");
        }
        let failure =
            SpawnFailure { stage: Stage::LeaveGroups, errno: libc::EPERM, namespace: CloneFlags::empty() };
        assert_eq!(SpawnFailure::decode(&failure.encode()), Some(failure));
    }

    #[test]
    fn foreign_packets_are_not_failures() {
        assert_eq!(SpawnFailure::decode(b"{\"ready\""), None);
        assert_eq!(SpawnFailure::decode(&[0; 8]), None);
        assert_eq!(SpawnFailure::decode(&[0]), None);
        assert_eq!(SpawnFailure::decode(&[0, 1, 0, 0, 0, 0, 200, 0]), None);
    }
}
