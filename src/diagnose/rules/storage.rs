// SPDX-License-Identifier: Apache-2.0
//! The disk of the images and of the log.

use super::Rule;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "log-not-writable",
        seen: &["Can't create log file {path}: {why}"],
        cause: "criu cannot write its log {path}: {why}",
        remedy: "pass --work-path with a directory that can be written to",
        ..Rule::ANY
    },
    Rule {
        name: "disk-full",
        seen: &["{what}: No space left on device"],
        cause: "the disk is full",
        remedy: "free space where {images} and the root file system are, or choose another place with --image-path",
        ..Rule::ANY
    },
    Rule {
        name: "quota",
        seen: &["{what}: Disk quota exceeded"],
        cause: "the disk quota is used up",
        remedy: "free space, or choose another place with --image-path",
        ..Rule::ANY
    },
    Rule {
        name: "read-only",
        seen: &["{what}: Read-only file system"],
        cause: "a file system that criu has to write to is read-only",
        remedy: "choose another place with --image-path and --work-path",
        ..Rule::ANY
    },
    Rule {
        name: "disk-broken",
        seen: &["{what}: Input/output error"],
        cause: "a disk or network file system does not answer as it must",
        remedy: "`dmesg` tells which; choose another place with --image-path",
        ..Rule::ANY
    },
    Rule {
        name: "too-many-files",
        seen: &["{what}: Too many open files"],
        cause: "criu may not open as many files as the container's processes have",
        remedy: "raise the limit of the caller: ulimit -n 1048576, or run migrate with CAP_SYS_RESOURCE",
        ..Rule::ANY
    },
];
