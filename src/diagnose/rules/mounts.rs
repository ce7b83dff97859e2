// SPDX-License-Identifier: Apache-2.0
//! Mounts: ones that were not made from `config.json`, ones that the restore cannot make, file systems that CRIU does
//! not know.

use super::Rule;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "mount-shared-with-outside",
        seen: &["mnt: Mount {} {mount} (master_id: {} has unreachable sharing"],
        cause: "the mount {mount} gets its changes from a mount outside of the container",
        remedy: "give it the option `rprivate` in `mounts` of config.json; for one that a hook made (GPU drivers): --external mnt[PATH]:KEY",
        ..Rule::DUMP
    },
    Rule {
        name: "mount-from-outside",
        seen: &["mnt: {}:{mount} doesn't have a proper root mount"],
        cause: "the bind mount {mount} leads to a file system that the container has no other mount of, and is not in config.json",
        remedy: "put it into `mounts` of config.json, or name it: --external mnt[{mount}]:KEY",
        ..Rule::DUMP
    },
    Rule {
        name: "mount-detected-as-external",
        seen: &["mnt: Mount {}:{mount} is autodetected external mount"],
        cause: "the mount {mount} comes from outside of the container and is not in config.json",
        remedy: "put it into `mounts` of config.json, or name it: --external mnt[{mount}]:KEY",
        ..Rule::DUMP
    },
    Rule {
        name: "fuse-mount",
        seen: &["{mount} is a fuse mount but not external"],
        cause: "the file system at {mount} is served by a program (FUSE), which CRIU cannot dump",
        remedy: "unmount it before the checkpoint, or mount it outside and bind it in `mounts` of config.json",
        ..Rule::DUMP
    },
    Rule {
        name: "file-system-unknown",
        seen: &["mnt: FS mnt {mount} dev {} unsupported id"],
        cause: "the file system at {mount} is of a type that CRIU cannot dump",
        remedy: "mount it outside and bind it in `mounts` of config.json, or name it: --external mnt[{mount}]:KEY",
        ..Rule::DUMP
    },
    Rule {
        name: "file-system-not-dumped",
        seen: &["mnt: Unable to dump a file system for {}:{mount}", "failed to dump fs {mount} ("],
        cause: "the contents of the file system at {mount} could not be saved",
        remedy: "mount it outside and bind it in `mounts` of config.json",
        last_resort: true,
        ..Rule::DUMP
    },
    Rule {
        name: "mount-covered",
        seen: &[
            "mnt: The mount {} is overmounted so paths are invisible",
            "mnt: Mount {} has two children with same mountpoint",
        ],
        cause: "a mount of the container is hidden beneath another one",
        remedy: "mount each place once in config.json, and unmount what covers it before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "root-of-a-process",
        seen: &["mnt: The root task has another root than mntns"],
        cause: "the root directory of the container's first process is not the root of its mount namespace",
        remedy: "start the container without --no-pivot, and the first process without chroot(2)",
        ..Rule::DUMP
    },
    Rule {
        name: "mount-table-unreadable",
        seen: &["mnt: Can't parse {}'s mountinfo", "Failed to parse mountinfo line {}"],
        cause: "CRIU does not understand a line of the container's mount table",
        remedy: "a newer criu may: run scripts/setup, or pass --criu",
        last_resort: true,
        ..Rule::DUMP
    },
    Rule {
        name: "tar-missing",
        seen: &["exec(tar, ...) failed: No such file", "execvp(\"tar\", ...) failed"],
        cause: "the program tar is missing on this machine; CRIU packs the contents of tmpfs mounts with it",
        remedy: "install tar",
        ..Rule::ANY
    },
    Rule {
        name: "tmpfs-not-saved",
        seen: &["Can't dump tmpfs content"],
        cause: "the contents of a tmpfs mount could not be packed",
        remedy: "install tar if it is missing; there must be room in {images}",
        ..Rule::DUMP
    },
    Rule {
        name: "tmpfs-not-restored",
        seen: &["Can't restore tmpfs content"],
        cause: "the contents of a tmpfs mount could not be unpacked",
        remedy: "install tar if it is missing; the tmpfs must be as large as at the checkpoint",
        ..Rule::RESTORE
    },
    Rule {
        name: "mount-shared-with-nobody",
        seen: &["mnt-v2: Sharing group ({}) has unreachable sharing"],
        cause: "a mount got its changes from a mount outside of the container at the checkpoint, which is not there now",
        remedy: "checkpoint again with the option `rprivate` on the bind mounts in `mounts` of config.json",
        ..Rule::RESTORE
    },
    Rule {
        name: "mount-without-source",
        seen: &["mnt: No mapping for {}:(null) mountpoint", "mnt: No mapping for {}:{mount} mountpoint"],
        cause: "a mount came from outside of the container at the checkpoint, and config.json has no such mount now",
        remedy: "restore with the config.json of the checkpoint: each bind mount and masked path of it must be there",
        ..Rule::RESTORE
    },
    Rule {
        name: "mount-point-missing",
        seen: &[
            "Failed to open {mount} mountpoint: No such file",
            "mnt-v2: Failed to open_tree {mount}: No such file",
            "mnt-v2: Can't stat mountpoint {mount}: No such file",
            "mnt: Can't mount at {mount}: No such file",
            "mnt-v2: Can't mount at {mount}: No such file",
            "mnt: Can't bind-mount {} to {mount}: No such file",
            "mnt-v2: Unable to create mountpoint {mount}: ",
            "mnt-v2: Unable to mkdir mountpoint {mount}: ",
        ],
        cause: "a mount point, or what is mounted there, is missing: {mount}",
        remedy: "restore with the files and the `mounts` of the checkpoint; create the directory or file in the root file system",
        ..Rule::RESTORE
    },
    Rule {
        name: "file-system-missing",
        seen: &["Unable to mount {path} {} (id={}): No such device", "Can't mount at {path}: No such device"],
        cause: "this kernel does not know a file system that the container had mounted ({path})",
        remedy: "load its module (modprobe), or restore on a kernel that has it",
        ..Rule::RESTORE
    },
    Rule {
        name: "mount-refused",
        seen: &[
            "mnt: Can't mount at {mount}: {why}",
            "mnt-v2: Can't mount at {mount}: {why}",
            "Unable to mount {mount} {} (id={}): {why}",
        ],
        cause: "the kernel refuses to mount {mount}: {why}",
        remedy: "restore with the `mounts` of the checkpoint; `dmesg` may tell more",
        ..Rule::RESTORE
    },
    Rule {
        name: "too-many-mounts",
        seen: &["mnt: A few mount points can't be mounted", "move_mount from {} to {mount}: No space left"],
        cause: "not all mounts of the container could be made",
        remedy: "restore with the `mounts` of the checkpoint; sysctl fs.mount-max must be large enough",
        last_resort: true,
        ..Rule::RESTORE
    },
];
