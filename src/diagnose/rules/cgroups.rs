// SPDX-License-Identifier: Apache-2.0
//! Control groups: limits that are too low for a restore, groups that are not there, the freezer.

use super::{If, Rule};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "freezer-stuck",
        seen: &["Unable to freeze cgroup {path} ("],
        cause: "the processes of the container could not be frozen in time: one is stuck in the kernel",
        remedy: "try again; a process in state D (`ps -eo pid,state,wchan`) waits for a disk or a network file system",
        ..Rule::DUMP
    },
    Rule {
        name: "freezer-missing",
        seen: &["Neither a cgroupv1 (freezer.state) or cgroupv2 (cgroup.freeze) control file found"],
        cause: "the container's cgroup has no freezer",
        remedy: "mount the freezer hierarchy, or cgroup v2",
        ..Rule::DUMP
    },
    Rule {
        name: "processes-limit",
        seen: &[
            "fork for {pid}: Resource temporarily unavailable",
            "fork: Resource temporarily unavailable",
            "fork() failed: Resource temporarily unavailable",
            "fork a child: Resource temporarily unavailable",
            "fork a process: Resource temporarily unavailable",
            "failed to clone(): Resource temporarily unavailable",
            "Unable to create a thread: -11",
        ],
        cause: "the container may not have as many processes as are to be restored, with criu's own",
        remedy: "raise linux.resources.pids.limit by a dozen over what the container had, and lower it after the restore: \
                 `migrate update --pids-limit`",
        ..Rule::RESTORE
    },
    Rule {
        name: "cgroup-missing",
        seen: &["cg: Cgroup dir {path} doesn't exist", "cg: Failed accessing cgroup dir {path}: "],
        cause: "the cgroup {path} of the checkpoint does not exist here",
        remedy: "pass --manage-cgroups-mode ignore, which puts the container into its own cgroup",
        ..Rule::RESTORE
    },
    Rule {
        name: "cgroup-exists",
        seen: &["cg: Abort restore of existing cgroups"],
        cause: "the cgroup of the checkpoint exists already",
        remedy: "pass --manage-cgroups-mode ignore, which puts the container into its own cgroup",
        ..Rule::RESTORE
    },
    Rule {
        name: "cgroup-controller-missing",
        seen: &[
            "cg: controller {path} not found",
            "cg: No cg_controller_entry found for",
            "cg: Unable to mount {path} ",
        ],
        cause: "this machine has other cgroup hierarchies than the one of the checkpoint (v1, v2, or other controllers)",
        remedy: "pass --manage-cgroups-mode ignore, which puts the container into its own cgroup",
        ..Rule::RESTORE
    },
    Rule {
        name: "cgroup-not-joined",
        seen: &[
            "cg: Can't move {} into {path} (",
            "cg: Can't move into {path} (",
            "cg: cgroupd: Can't move thread",
        ],
        cause: "a process cannot be put into the cgroup that it was in at the checkpoint",
        remedy: "pass --manage-cgroups-mode ignore; on v2 a cgroup with controllers for others holds no processes itself",
        ..Rule::RESTORE
    },
    Rule {
        name: "cgroup-property",
        seen: &[
            "cg: Failed writing {value} to {path}: {why}",
            "cg: Restoring {path} special property failed",
        ],
        cause: "a limit of the checkpoint cannot be set on the cgroup {path}",
        remedy: "pass --manage-cgroups-mode ignore; the limits are then those of config.json",
        ..Rule::RESTORE
    },
    Rule {
        name: "cgroup-property-not-read",
        seen: &[
            "cg: dumping known properties failed",
            "cg: dumping global properties",
            "cg: Failed scanning {path}",
            "cg: Failed opening {path}",
        ],
        cause: "a cgroup of the container could not be read",
        remedy: "pass --manage-cgroups-mode ignore",
        ..Rule::DUMP
    },
    Rule {
        name: "cgroup-namespace",
        seen: &[
            "cg: couldn't set cgns prefix",
            "cg: failed preparing cgns",
            "cg: couldn't unshare cgns",
            "invalid cgroup configuration, ",
        ],
        cause: "the cgroup namespace of the container does not fit its cgroup",
        remedy: "pass --manage-cgroups-mode ignore",
        ..Rule::ANY
    },
    Rule {
        name: "memory-limit",
        only: If::OutOfMemory,
        seen: &[
            "criu was killed by SIGKILL",
            "killed by signal 9",
            "exited, status=",
            "Cannot allocate memory",
        ],
        cause: "the memory limit of the container is too low: the kernel killed during the restore",
        remedy: "raise linux.resources.memory.limit: a restore needs some MiB more than the container had",
        ..Rule::RESTORE
    },
];
