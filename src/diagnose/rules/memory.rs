// SPDX-License-Identifier: Apache-2.0
//! Memory: tracking of changes, pages that are brought later, mappings that cannot be made again.

use super::Rule;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "no-tracking",
        seen: &["Tracking memory is not available", "clear_refs on procfs: "],
        cause: "this kernel does not track changes of memory, which pre-dumps need",
        remedy: "checkpoint without --pre-dump and --parent-path, or on a kernel with CONFIG_MEM_SOFT_DIRTY",
        ..Rule::DUMP
    },
    Rule {
        name: "parent-images-missing",
        seen: &[
            "No parent image found, though parent directory is set",
            "Can't link parent snapshot",
            "Can't enter previous snapshot folder",
            "Invalid parent image directory provided",
            "Can't open parent path",
        ],
        cause: "the images of the pre-dump before this one are missing",
        remedy: "--parent-path is relative to --image-path and must lead to the directory of the last pre-dump",
        ..Rule::ANY
    },
    Rule {
        name: "parent-images-stale",
        seen: &["Missing {} in parent pagemap", "No parent for snapshot pagemap", "not found in parent"],
        cause: "the images of the pre-dump before this one are not those of this container's last pre-dump",
        remedy: "begin the chain of pre-dumps anew, with all of its directories kept",
        ..Rule::ANY
    },
    Rule {
        name: "no-lazy-pages",
        seen: &[
            "Lazy pages are not available",
            "UFFD is not supported",
            "Non-cooperative UFFD is not supported",
            "uffd: Unable to open an userfaultfd descriptor",
        ],
        cause: "this kernel, or its settings, cannot bring pages later (userfaultfd)",
        remedy: "restore without --lazy-pages, or sysctl vm.unprivileged_userfaultfd=1 on Linux 4.11 or newer",
        ..Rule::ANY
    },
    Rule {
        name: "lazy-pages-server-missing",
        seen: &["uffd: connect to {path} failed"],
        cause: "nobody serves the pages that are to be brought later ({path})",
        remedy: "start `criu lazy-pages` with the same work directory before `restore --lazy-pages`",
        ..Rule::RESTORE
    },
    Rule {
        name: "pipe-size",
        seen: &[
            "Unable to set a pipe size: Operation not permitted",
            "Can't restore pipe size: Operation not permitted",
            "Can't make pipe for page-pipe: Too many open files",
        ],
        cause: "criu may not make a pipe that is as large as it needs",
        remedy: "sysctl fs.pipe-max-size=16777216, or run migrate with CAP_SYS_RESOURCE",
        ..Rule::ANY
    },
    Rule {
        name: "huge-pages",
        seen: &[
            "Can't create memfd:{}: Cannot allocate memory",
            "an't map shmem {}: Cannot allocate memory",
            "Unable to map ANON_VMA: Cannot allocate memory",
        ],
        cause: "memory of {who} cannot be mapped: huge pages or memory are used up on this machine",
        remedy: "sysctl vm.nr_hugepages must be as large as on the source; free memory",
        ..Rule::RESTORE
    },
    Rule {
        name: "uprobes",
        seen: &["PID {host} has uprobes vma"],
        cause: "somebody traces {who} with uprobes",
        remedy: "end the tracer (perf, bpftrace) before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "mapping-of-a-device",
        seen: &["Can't handle non-regular mapping on {host}'s map"],
        cause: "{who} has a device or something else that is no file mapped into its memory",
        remedy: "have the program unmap it before the checkpoint; for GPUs CRIU needs the vendor's plugin",
        ..Rule::DUMP
    },
    Rule {
        name: "mapping-unsupported",
        seen: &["Unsupported mapping found", "Unknown shit {} ({path})"],
        cause: "{who} has memory of a kind that CRIU cannot dump",
        remedy: "have the program unmap it before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "page-server-refuses",
        seen: &["Unable to connect a socket: Connection refused", "Can't connect: Connection refused"],
        cause: "nobody listens where the pages are to go",
        remedy: "start the page server before the checkpoint, and check the address of --page-server",
        ..Rule::DUMP
    },
    Rule {
        name: "page-server-gone",
        seen: &[
            "page-xfer: Remote side closed connection",
            "page-xfer: The page server doesn't answer",
            "page-xfer: Can't write pages to socket",
            "page-xfer: Can't send the final package",
        ],
        cause: "the page server at the other end went away",
        remedy: "its own log tells why (a full disk, mostly); then checkpoint again",
        ..Rule::DUMP
    },
    Rule {
        name: "no-memory",
        seen: &["{what}: Cannot allocate memory", "{what}: Can't allocate {} bytes"],
        last_resort: true,
        cause: "memory is used up on this machine, or in the cgroup of the caller",
        remedy: "free memory, or raise the limit of the cgroup, and try again",
        ..Rule::ANY
    },
];
