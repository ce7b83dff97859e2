// SPDX-License-Identifier: Apache-2.0
//! Namespaces: nested ones, ones by path, process ids, ids of users.

use super::{If, Rule};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "nested-namespace",
        seen: &["Can't dump nested {kind} namespace for {host}"],
        cause: "{who} has made itself a namespace ({kind}) inside of the container, which CRIU cannot dump",
        remedy: "end what makes such namespaces (a sandbox, a container in the container) before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "nested-network",
        seen: &["net: Unable to dump more than one netns if the --emptyns is set"],
        cause: "a process has made itself a network namespace inside of the container",
        remedy: "end what makes such namespaces (a sandbox, a container in the container) before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "foreign-user-namespace",
        seen: &["One or more namespaces doesn't belong to the target user namespace"],
        cause: "a namespace of the container belongs to another user namespace than the container's own",
        remedy: "give the container namespaces of its own (`linux.namespaces` without `path`) along with its user namespace",
        ..Rule::DUMP
    },
    Rule {
        name: "socket-of-an-outside-network",
        seen: &[
            "net: Unable to dump a socket from an external network namespace",
            "sockets: Unable to find a network namespace",
        ],
        cause: "{who} has a socket from a network namespace outside of the container{fd}",
        remedy: "have the program close it before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "shared-memory-of-the-host",
        seen: &["Task {host} with SysVIPC shmem map {} doesn't live in IPC ns"],
        cause: "{who} has System V shared memory of the host's: the container has no ipc namespace of its own",
        remedy: "give the container an ipc namespace in `linux.namespaces` of config.json (Podman: not --ipc host)",
        ..Rule::DUMP
    },
    Rule {
        name: "pid-namespace-without-init",
        seen: &[
            "Can't dump a pid namespace without the process init",
            "Can't restore pid namespace without the process init",
        ],
        cause: "the container joined the process id namespace of another container, whose first process is not its own",
        remedy: "give the container a pid namespace of its own, or checkpoint the one that owns it",
        ..Rule::ANY
    },
    Rule {
        name: "time-namespace",
        seen: &[
            "Can't dump nested time namespace",
            "Time namespaces are not supported",
            "Unable to create a new time namespace",
        ],
        cause: "this kernel cannot give the container its clocks: it has no time namespaces",
        remedy: "restore on Linux 5.6 or newer with CONFIG_TIME_NS",
        ..Rule::ANY
    },
    Rule {
        name: "process-id-in-use",
        seen: &["Can't fork for {pid}: File exists"],
        cause: "the process id {pid} is in use: the container has no pid namespace of its own",
        remedy: "end that process, or give the container a pid namespace in `linux.namespaces` before it is checkpointed",
        ..Rule::RESTORE
    },
    Rule {
        name: "process-id-not-free",
        seen: &["Pid {is} do not match expected {pid}", "Setting PID failed", "Can't set last_pid"],
        cause: "a process could not get the id that it had",
        remedy: "restore into a pid namespace of its own; `sysctl kernel.pid_max` must be as large as on the source",
        ..Rule::RESTORE
    },
    Rule {
        name: "process-ids-need-a-namespace",
        seen: &["This process tree can only be restored in a new pid namespace"],
        cause: "the processes were in a pid namespace of their own, and config.json has none now",
        remedy: "restore with the `linux.namespaces` of the checkpoint",
        ..Rule::RESTORE
    },
    Rule {
        name: "image-not-readable-inside",
        only: If::UserNamespace,
        seen: &["Unable to open {image}: Permission denied", "Can't open {image}: Permission denied"],
        cause: "the container's root user cannot read the image {image}: the container has a user namespace",
        remedy: "the directory of the images and those above it must be searchable for everybody: chmod o+x",
        ..Rule::RESTORE
    },
    Rule {
        name: "user-namespaces-forbidden",
        seen: &["Can't fork for {pid}: No space left on device"],
        cause: "the kernel allows no further user or pid namespace",
        remedy: "raise user.max_user_namespaces and user.max_pid_namespaces (sysctl)",
        ..Rule::RESTORE
    },
    Rule {
        name: "namespace-cannot-be-made",
        seen: &[
            "Can't fork for {pid}: Operation not permitted",
            "Unable create a network namespace: Operation not permitted",
        ],
        cause: "the namespaces of the container may not be made here",
        remedy: "restore as root of the host, with CAP_SYS_ADMIN; sysctl kernel.unprivileged_userns_clone must not forbid them",
        ..Rule::RESTORE
    },
    Rule {
        name: "id-map-differs",
        seen: &[
            "Unable to set user ID: Invalid argument",
            "Unable to set group ID: Invalid argument",
            "Unable to set real, effective and saved user ID: -22",
            "Unable to set real, effective and saved group ID: -22",
        ],
        cause: "{who} had a user or group that the container's user namespace does not map now",
        remedy: "restore with the `linux.uidMappings` and `linux.gidMappings` of the checkpoint",
        ..Rule::RESTORE
    },
    Rule {
        name: "namespace-cannot-be-joined",
        seen: &[
            "Failed to setns when join-ns {path}:",
            "Can't access join-ns file {path}:",
            "Can't setns {}/{path}:",
        ],
        cause: "a namespace that config.json names by path cannot be joined",
        remedy: "the path in `linux.namespaces` must lead to a namespace of that kind that is alive",
        ..Rule::ANY
    },
    Rule {
        name: "outside-namespace-not-given",
        seen: &["net: Unable to find an external netns", "Unable to find an external pidns"],
        cause: "at the checkpoint a namespace came from outside, by path, and config.json names none now",
        remedy: "give `linux.namespaces` the path of a network or pid namespace again",
        ..Rule::RESTORE
    },
];
