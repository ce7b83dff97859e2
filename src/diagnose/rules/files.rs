// SPDX-License-Identifier: Apache-2.0
//! Open files and descriptors: deleted ones, ones from outside, kinds that CRIU does not know, files that changed.

use super::{If, Rule};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "big-deleted-file",
        seen: &["Can't dump ghost file {path} of {size} size, increase limit"],
        cause: "{who} holds {path} open{fd}, which is deleted and has {size} bytes, more than CRIU takes into its images",
        remedy: "pass --ghost-limit {size} or more",
        ..Rule::DUMP
    },
    Rule {
        name: "deleted-name",
        seen: &["Can't create link remap for {path}. Use link-remap option"],
        cause: "{who} holds {path} open{fd}, whose name is deleted while the file has another one",
        remedy: "pass --link-remap: a temporary name is made beside it, which the restore removes",
        ..Rule::DUMP
    },
    Rule {
        name: "deleted-name-cannot-be-made",
        seen: &["Can't link remap to {path}: {why}"],
        cause: "{who} holds a deleted file open, and no temporary name can be made for it in {path}: {why}",
        remedy: "put the file on a writable file system that has hard links; on NFS close it before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "io-uring",
        seen: &["send_fds failed (-22)"],
        only: If::Open("anon_inode:[io_uring]"),
        cause: "{who} uses io_uring{fd}: the kernel lets nobody take such a descriptor along",
        remedy: "have the program use epoll: many have a setting for it, e.g. UV_USE_IO_URING=0 for Node.js",
        ..Rule::DUMP
    },
    Rule {
        name: "descriptor-that-cannot-be-sent",
        seen: &["send_fds failed (-22)"],
        cause: "{who} has a descriptor that the kernel lets nobody take along, such as io_uring's",
        remedy: "have the program use epoll instead of io_uring: many have a setting for it",
        ..Rule::DUMP
    },
    Rule {
        name: "userfaultfd",
        seen: &["Can't dump file {number} of that type [{}] (anon anon_inode:[userfaultfd])"],
        cause: "{who} handles page faults itself with userfaultfd{fd}, which CRIU cannot dump",
        remedy: "have the program close it before the checkpoint (garbage collectors and virtual machines use it)",
        ..Rule::DUMP
    },
    Rule {
        name: "perf-event",
        seen: &["Can't dump file {number} of that type [{}] (anon anon_inode:[perf_event])"],
        cause: "{who} has a performance counter open{fd}, which CRIU cannot dump",
        remedy: "end the profiler in the container, or have the program close its counters, before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "bpf",
        seen: &[
            "Can't dump file {number} of that type [{}] (anon anon_inode:bpf",
            "Can't dump file {number} of that type [{}] (anon anon_inode:btf",
        ],
        cause: "{who} has a BPF program or link open{fd}; CRIU dumps nothing of BPF but maps",
        remedy: "have the program close it before the checkpoint and load it again after it",
        ..Rule::DUMP
    },
    Rule {
        name: "kvm",
        seen: &["Can't dump file {number} of that type [{}] (anon anon_inode:kvm"],
        cause: "{who} runs a virtual machine{fd}, which CRIU cannot dump",
        remedy: "use the virtual machine's own snapshots",
        ..Rule::DUMP
    },
    Rule {
        name: "anonymous-descriptor",
        seen: &["Can't dump file {number} of that type [{}] (anon anon_inode:{kind})"],
        cause: "{who} has a descriptor of the kind {kind}{fd}, which CRIU cannot dump",
        remedy: "have the program close it before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "device",
        seen: &[
            "Can't dump file {number} of that type [{}] (chr {device})",
            "Can't dump file {number} of that type [{}] (blk {device})",
        ],
        cause: "{who} has the device {device} open{fd}, which CRIU cannot dump",
        remedy: "have the program close it before the checkpoint; for GPUs CRIU needs the vendor's plugin",
        ..Rule::DUMP
    },
    Rule {
        name: "file-type",
        seen: &["Can't dump file {number} of that type"],
        cause: "{who} has a descriptor of a kind that CRIU cannot dump{fd}",
        remedy: "have the program close it before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "file-of-another-mount-namespace",
        seen: &["Can't lookup mount={} for fd={number} path={path}"],
        cause: "{who} has {path} open{fd}, which is on no mount of the container",
        remedy: "give the container the file as a bind mount, or a pipe instead of it; the memory of memfd_secret(2) stays where it is",
        ..Rule::DUMP
    },
    Rule {
        name: "file-beneath-a-mount",
        seen: &["Open files on overmounted mounts are not supported yet; mount={} fd={number} path={path}"],
        cause: "{who} has {path} open{fd}, over which something else is mounted by now",
        remedy: "unmount what covers it, or have the program close it, before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "packet-pipe",
        seen: &["The packetized mode for pipes is not supported yet"],
        cause: "{who} has a pipe with O_DIRECT, which keeps packets apart{fd}: CRIU cannot dump it",
        remedy: "have the program close it, or make it without O_DIRECT",
        ..Rule::DUMP
    },
    Rule {
        name: "file-lock",
        seen: &["Some file locks are hold by dumping tasks"],
        cause: "a process holds a file lock",
        remedy: "pass --file-locks to take file locks along",
        ..Rule::DUMP
    },
    Rule {
        name: "file-lock-in-images",
        seen: &["Some file locks are hold by dumping tasks", "Can not set {} lock!"],
        cause: "{who} held a file lock at the checkpoint, and it cannot be taken again",
        remedy: "pass --file-locks; nobody else may hold a lock on that file",
        ..Rule::RESTORE
    },
    Rule {
        name: "file-lease",
        seen: &[
            "Can't break lease",
            "Lease doesn't conflicts but breaks",
            "Conflicting lease wasn't found",
            "Incorrect lease type",
        ],
        cause: "{who} holds a lease on a file{fd} that CRIU cannot read",
        remedy: "try again when the lease is not being broken, or have the program give it back",
        ..Rule::DUMP
    },
    Rule {
        name: "unreachable-watch",
        seen: &["Can't dump that handle", "fsnotify: Can't find suitable path for handle"],
        cause: "{who} watches a file or directory with inotify or fanotify{fd} that CRIU cannot find again (on overlayfs, or \
                deleted)",
        remedy: "put what is watched on a bind mount or a tmpfs, or have the program remove the watch before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "watch-cannot-be-made",
        seen: &[
            "fsnotify: Can't add watch for",
            "fsnotify: Can't find mount mnt_id",
            "fsnotify: Unable to open {path}: ",
        ],
        cause: "a watch of inotify's or fanotify's that {who} had cannot be made again",
        remedy: "restore with the files of the checkpoint",
        ..Rule::RESTORE
    },
    Rule {
        name: "watches-used-up",
        seen: &["fsnotify: Can't create inotify for {}: Too many open files"],
        cause: "the user has no inotify instances left on this machine",
        remedy: "sysctl fs.inotify.max_user_instances=1024",
        ..Rule::RESTORE
    },
    Rule {
        name: "pidfd-of-outside",
        seen: &["pidfd: pidfd pid {} is not a part of process tree"],
        cause: "{who} has a pidfd of a process outside of the container{fd}",
        remedy: "have the program close it before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "epoll-of-closed",
        seen: &["epoll: Escaped/closed fd descriptor {number} on pid {host}"],
        cause: "{who} watches a closed descriptor with epoll, which somebody else still has open{fd}",
        remedy: "have the program remove a descriptor from epoll before it closes it",
        ..Rule::DUMP
    },
    Rule {
        name: "asynchronous-io",
        seen: &["Failed to check aio rings", "wrong aio: "],
        cause: "{who} has asynchronous I/O (io_submit) under way",
        remedy: "try again: CRIU waits for no I/O to end by itself",
        ..Rule::DUMP
    },
    Rule {
        name: "file-size",
        seen: &["File {path} has bad size {is} (expect {was})"],
        cause: "the file {path} of {who} has {is} bytes, at the checkpoint it had {was}",
        remedy: "restore with the same files (`--export` takes the root file system along); a log on stdout or stderr that is \
                 opened for appending (>>) may be another one",
        ..Rule::RESTORE
    },
    Rule {
        name: "file-mode",
        seen: &["File {path} has bad mode 0{is} (expect 0{was})"],
        cause: "the file {path} of {who} has the type and mode {is}, at the checkpoint it had {was}",
        remedy: "change it back: the last four digits are what chmod takes",
        ..Rule::RESTORE
    },
    Rule {
        name: "file-build",
        seen: &["File {path} has bad build-ID"],
        cause: "the program or library {path} of {who} is another build than at the checkpoint",
        remedy: "restore with the same files (`--export` takes the root file system along)",
        ..Rule::RESTORE
    },
    Rule {
        name: "file-missing",
        seen: &[
            "Can't open file {path} on restore: No such file or directory",
            "Can't open file {path}: No such file or directory",
            "Can't open mapped [{path}]: No such file or directory",
        ],
        cause: "the file {path} is missing, which {who} had open at the checkpoint",
        remedy: "restore with the same files (`--export` takes the root file system along)",
        ..Rule::RESTORE
    },
    Rule {
        name: "file-not-readable",
        seen: &[
            "Can't open file {path} on restore: {why}",
            "Can't open file {path}: {why}",
            "Can't open mapped [{path}]: {why}",
        ],
        cause: "{who} cannot open the file {path} again: {why}",
        remedy: "give the file to the ids of the container that has it, with the mode that it had at the checkpoint",
        ..Rule::RESTORE
    },
    Rule {
        name: "fifo-missing",
        seen: &["Can't open fifo {} [{path}]: {why}", "Can't open fake fifo {} [{path}]: {why}"],
        cause: "{who} cannot open the fifo {path} again: {why}",
        remedy: "restore with the same files (`--export` takes the root file system along)",
        ..Rule::RESTORE
    },
    Rule {
        name: "temporary-name-in-the-way",
        seen: &["Can't link {path} -> {}: File exists"],
        cause: "a file is in the place where {who} had a deleted one",
        remedy: "remove {path}, which an earlier restore may have left, and restore again",
        ..Rule::RESTORE
    },
    Rule {
        name: "directory-missing",
        seen: &["Can't link {path} -> {}: No such file", "Can't create dir: {path} AT"],
        cause: "the directory of a deleted file of {who} is missing",
        remedy: "restore with the same files (`--export` takes the root file system along)",
        ..Rule::RESTORE
    },
    Rule {
        name: "descriptor-not-given",
        seen: &["Unable to open fd={number} id="],
        last_resort: true,
        cause: "{who} cannot open its descriptor {number} again, which led out of the container",
        remedy: "a pipe or a file of the host must be given again: restore with --console-socket or with stdio of the same kind",
        ..Rule::RESTORE
    },
];
