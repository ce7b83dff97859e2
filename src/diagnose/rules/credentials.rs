// SPDX-License-Identifier: Apache-2.0
//! Rights: what CRIU lacks here, and what the processes had that this machine does not give.

use super::Rule;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "limits-of-another-user",
        seen: &["Can't get rlimit {}: Operation not permitted"],
        cause: "{who} runs as another user than criu, and criu may not read its limits: CAP_SYS_RESOURCE is missing here",
        remedy: "run migrate with CAP_SYS_RESOURCE, or give the container a user namespace",
        ..Rule::DUMP
    },
    Rule {
        name: "oom-score",
        seen: &["to /proc/self/oom_score_adj failed: Permission denied"],
        cause: "{who} had a lower score for the memory killer than criu may set here: CAP_SYS_RESOURCE is missing",
        remedy: "run migrate with CAP_SYS_RESOURCE, or leave process.oomScoreAdj out before the checkpoint",
        ..Rule::RESTORE
    },
    Rule {
        name: "apparmor-profile-missing",
        seen: &["can't write lsm profile"],
        cause: "the AppArmor profile or SELinux label that {who} had cannot be set on this machine: mostly it is not loaded",
        remedy: "load the profile (apparmor_parser -r FILE), or name another one: --lsm-profile apparmor:NAME",
        ..Rule::RESTORE
    },
    Rule {
        name: "apparmor-missing",
        seen: &["apparmor LSM specified but apparmor not supported by kernel"],
        cause: "the container had an AppArmor profile, and this machine has no AppArmor",
        remedy: "restore on a machine with AppArmor, or checkpoint without process.apparmorProfile",
        ..Rule::RESTORE
    },
    Rule {
        name: "selinux-missing",
        seen: &["selinux LSM specified but selinux not supported by kernel"],
        cause: "the container had an SELinux label, and this machine has no SELinux",
        remedy: "restore on a machine with SELinux, or checkpoint without process.selinuxLabel",
        ..Rule::RESTORE
    },
    Rule {
        name: "lsm-differs",
        seen: &["mismatched lsm types and lsm profile specified", "can't render profile"],
        cause: "the profile that was asked for is of another security module than that of the checkpoint",
        remedy: "pass --lsm-profile with the module of this machine: apparmor:NAME or selinux:LABEL",
        ..Rule::RESTORE
    },
    Rule {
        name: "login-id",
        seen: &["Setting loginuid for {} failed", "Setting loginuid for CT init task failed"],
        cause: "the login id (audit) of a process cannot be set again here: CAP_AUDIT_CONTROL is missing",
        remedy: "run migrate with CAP_AUDIT_CONTROL",
        ..Rule::RESTORE
    },
    Rule {
        name: "capabilities-unknown",
        seen: &["Kernel reports more capabilities than this CRIU supports"],
        cause: "this kernel has capabilities that criu does not know: criu is too old for it",
        remedy: "run scripts/setup, or pass --criu",
        ..Rule::ANY
    },
    Rule {
        name: "capabilities-refused",
        seen: &[
            "Unable to restore capabilities: -1",
            "Unable to raise ambient capability",
            "capset: Operation not permitted",
        ],
        cause: "{who} had a capability that criu itself does not have here",
        remedy: "run migrate with all capabilities of the container",
        ..Rule::RESTORE
    },
    Rule {
        name: "seccomp-not-readable",
        seen: &[
            "Dumping seccomp filters not supported",
            "seccomp: Can't fetch filter on tid_real",
            "seccomp: Can't fetch seccomp metadata",
        ],
        cause: "this kernel does not let criu read seccomp filters",
        remedy: "use a kernel with CONFIG_CHECKPOINT_RESTORE, and run migrate itself without a seccomp filter",
        ..Rule::DUMP
    },
    Rule {
        name: "seccomp-listener",
        seen: &["seccomp: Unknown seccomp mode", "SECCOMP_SET_MODE_FILTER returned"],
        cause: "the seccomp filter of {who} cannot be set again",
        remedy: "start the container without seccomp's notifications (`linux.seccomp` without SCMP_ACT_NOTIFY)",
        ..Rule::ANY
    },
    Rule {
        name: "seccomp-suspension",
        seen: &[
            "Kernel doesn't support PTRACE_O_SUSPEND_SECCOMP",
            "suspending seccomp failed",
            "couldn't suspend seccomp",
            "failed to suspend seccomp",
        ],
        cause: "criu may not lift the seccomp filter of a process while it works on it",
        remedy: "run migrate itself with CAP_SYS_ADMIN and without a seccomp filter",
        ..Rule::ANY
    },
    Rule {
        name: "not-root",
        seen: &[
            "You need to be root to run this command",
            "can't dump unprivileged task whose /proc doesn't belong to it",
        ],
        cause: "criu lacks the rights for this",
        remedy: "run migrate as root",
        ..Rule::ANY
    },
    Rule {
        name: "kernel-refuses",
        seen: &["{what}: Operation not permitted", "{what}: Permission denied"],
        last_resort: true,
        cause: "criu may not do something here: {what}",
        remedy: "run migrate as root with all capabilities: CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_SYS_RESOURCE, CAP_NET_ADMIN",
        ..Rule::ANY
    },
];
