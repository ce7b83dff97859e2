// SPDX-License-Identifier: Apache-2.0
//! Rules about descriptors that are no sockets: files, devices, and what the kernel calls `anon_inode`.

use nix::libc::{S_IFBLK, S_IFCHR, S_IFMT, S_IFREG};

use super::ContainerFacts;
use super::process::{Descriptor, FileFacts, Process, is_gpu, shown};
use crate::check::{Finding, Flag, Severity};

/// Unlinked files of more than this stay behind unless CRIU is told otherwise (its `DEFAULT_GHOST_LIMIT`), in bytes.
const GHOST_LIMIT: u64 = 1 << 20;
/// CRIU has 32 bits for that limit.
const GREATEST_LIMIT: u64 = u32::MAX as u64;
/// `anon_inode`s that CRIU knows.
const CARRIED: [&str; 7] =
    ["[eventfd]", "[eventpoll]", "inotify", "[fanotify]", "[signalfd]", "[timerfd]", "[pidfd]"];
/// Majors of memory devices, terminals, and miscellaneous ones; minors of the latter that CRIU knows.
const MEMORY: u64 = 1;
const MISCELLANEOUS: u64 = 10;
const TUN_AND_AUTOFS: [u64; 2] = [200, 235];
const TERMINALS: [u64; 13] = [4, 5, 136, 137, 138, 139, 140, 141, 142, 143, 188, 204, 229];

pub(super) fn judge(facts: &ContainerFacts, carries_bpf: Option<bool>) -> Vec<Finding> {
    let own: std::collections::HashSet<u64> = facts.mounts.values().flatten().map(|mount| mount.id).collect();
    let mut found = Vec::new();
    for process in &facts.processes {
        let with_gpu = process.has_gpu();
        for descriptor in &process.descriptors {
            let mut add = |finding: Finding| {
                // A plugin of the maker's may take along, or close, what belongs to its device.
                let finding = if with_gpu { finding.softened() } else { finding };
                found.push(finding.of(process.pid, &process.command));
            };
            anonymous(descriptor, carries_bpf).or_else(|| special(descriptor)).map(&mut add);
            let Some(file) = &descriptor.file else { continue };
            if file.locked {
                let cause = "it holds a lock on this file";
                let finding = Finding::new(Severity::NeedsFlag, "file_lock", seen(descriptor));
                add(finding.needs(Flag::FileLocks).told_in(cause, "file-lock"));
            }
            let is_given = facts.given_files.contains(&(file.mount, file.inode));
            let is_memory =
                descriptor.target.starts_with("/memfd:") || descriptor.target.starts_with("/dev/zero");
            if !is_given && !is_memory && !own.is_empty() && !own.contains(&file.mount) {
                add(outside(descriptor, file));
                continue;
            }
            device(descriptor, file).filter(|_| !is_given).map(&mut add);
            unlinked(descriptor, file).filter(|_| !is_memory).map(&mut add);
        }
    }
    found.extend(watches(facts));
    found.extend(queues(facts));
    found
}

fn seen(descriptor: &Descriptor) -> String {
    format!("descriptor {} on {}", descriptor.number, shown(descriptor.target.as_bytes()))
}

fn anonymous(descriptor: &Descriptor, carries_bpf: Option<bool>) -> Option<Finding> {
    let kind = descriptor.target.strip_prefix("anon_inode:")?;
    if CARRIED.contains(&kind) {
        return None;
    }
    let finding = |severity, rule, cause: &str, remedy_of: &str| {
        Some(Finding::new(severity, rule, seen(descriptor)).told_in(cause, remedy_of))
    };
    let blocker = |rule, cause: &str, remedy_of: &str| finding(Severity::Blocker, rule, cause, remedy_of);
    match kind {
        "[io_uring]" => blocker("io_uring", "criu does not carry io_uring", "io-uring"),
        "[userfaultfd]" => blocker("userfaultfd", "criu does not carry userfaultfd", "userfaultfd"),
        "bpf-map" => match carries_bpf {
            Some(true) => None,
            Some(false) => blocker(
                "bpf_map",
                "this criu was built without libbpf and does not carry bpf maps",
                "anonymous-descriptor",
            ),
            None => finding(
                Severity::Note,
                "bpf_map",
                "only a criu that was built with libbpf carries bpf maps, and hash and array maps only",
                "anonymous-descriptor",
            ),
        },
        _ if kind.starts_with("bpf") => blocker("bpf_program", "criu does not carry bpf programs", "bpf"),
        _ if kind.starts_with("[perf_event]") => {
            blocker("perf_event", "criu does not carry performance counters", "perf-event")
        }
        _ if kind.starts_with("kvm") => blocker("kvm", "criu does not carry virtual machines", "kvm"),
        _ if kind.starts_with("seccomp notify") => blocker(
            "seccomp_notify",
            "criu does not carry the listening end of a seccomp filter",
            "anonymous-descriptor",
        ),
        _ => blocker(
            "unknown_descriptor",
            "criu does not know this kind of descriptor",
            "anonymous-descriptor",
        ),
    }
}

fn special(descriptor: &Descriptor) -> Option<Finding> {
    if !descriptor.is_special {
        return None;
    }
    let new = |rule| Finding::new(Severity::Blocker, rule, seen(descriptor));
    Some(if descriptor.target.starts_with("pipe:") {
        let cause = "criu does not carry pipes that keep packets apart (O_DIRECT)";
        new("pipe_of_packets").told_in(cause, "packet-pipe")
    } else {
        let cause = "criu does not carry timers that wake the machine";
        new("alarm_clock").because(cause, "have the program use CLOCK_BOOTTIME")
    })
}

/// A file that lies on no mount of the container's.
fn outside(descriptor: &Descriptor, file: &FileFacts) -> Finding {
    if file.is_queue {
        return Finding::new(Severity::Blocker, "message_queue", seen(descriptor)).because(
            "criu does not carry POSIX message queues",
            "have the program close the queue, and open it again after the restore",
        );
    }
    if is_terminal(file) {
        let finding = Finding::new(Severity::NeedsFlag, "terminal", seen(descriptor)).needs(Flag::ShellJob);
        return finding.told_in("it is a terminal of the host's", "terminal-outside");
    }
    Finding::new(Severity::Blocker, "file_outside", seen(descriptor)).told_in(
        "it lies on no mount of the container's, so a restore could not open it",
        "file-of-another-mount-namespace",
    )
}

fn is_terminal(file: &FileFacts) -> bool {
    file.mode & S_IFMT == S_IFCHR && TERMINALS.contains(&file.device.0)
}

fn device(descriptor: &Descriptor, file: &FileFacts) -> Option<Finding> {
    let (major, minor) = file.device;
    let is_carried = match file.mode & S_IFMT {
        S_IFCHR if major == MISCELLANEOUS => TUN_AND_AUTOFS.contains(&minor),
        S_IFCHR => major == MEMORY || is_terminal(file),
        S_IFBLK => false,
        _ => true,
    };
    if is_carried {
        return None;
    }
    let evidence = format!("{} ({major}:{minor})", seen(descriptor));
    if is_gpu(&descriptor.target) {
        let cause = "criu carries such a device with a plugin of its maker's only";
        return Some(Finding::new(Severity::Note, "gpu", evidence).told_in(cause, "device"));
    }
    let cause = "criu does not carry the state of this device";
    Some(Finding::new(Severity::Blocker, "device", evidence).told_in(cause, "device"))
}

/// A file whose name is gone travels in the images, within a limit; one that has another name needs to be linked.
fn unlinked(descriptor: &Descriptor, file: &FileFacts) -> Option<Finding> {
    if file.mode & S_IFMT != S_IFREG {
        return None;
    }
    if file.links > 0 {
        let finding = || {
            let cause = "the name that it was opened by is gone, the file has another one";
            let finding = Finding::new(Severity::NeedsFlag, "removed_name", seen(descriptor));
            finding.needs(Flag::LinkRemap).told_in(cause, "deleted-name")
        };
        return file.name_is_gone.then(finding);
    }
    if file.size.min(file.on_disk) <= GHOST_LIMIT {
        return None;
    }
    let needed = file.size.max(file.on_disk);
    let evidence = format!("{}, {needed} bytes", seen(descriptor));
    if file.size.min(file.on_disk) > GREATEST_LIMIT {
        let cause = format!("criu takes no unlinked file of more than {GREATEST_LIMIT} bytes along");
        let finding = Finding::new(Severity::Blocker, "ghost_file", evidence);
        return Some(finding.because(cause, "have the program give the file a name, or close it"));
    }
    let needed = needed.min(GREATEST_LIMIT);
    let cause =
        format!("criu takes unlinked files of at most {GHOST_LIMIT} bytes along unless told otherwise");
    let finding = Finding::new(Severity::NeedsFlag, "ghost_file", evidence).needs(Flag::GhostLimit(needed));
    Some(finding.because(cause, format!("pass --ghost-limit {needed}")))
}

/// CRIU asks the filesystem for what is watched, which overlayfs does not always tell.
fn watches(facts: &ContainerFacts) -> Option<Finding> {
    let init = facts.init()?;
    let table = facts.mounts.get(&init.namespace("mnt"))?;
    if !table.iter().any(|mount| mount.mount_point.as_os_str() == "/" && mount.fstype == "overlay") {
        return None;
    }
    let has = |process: &&Process| process.descriptors.iter().any(|d| d.target == "anon_inode:inotify");
    let process = facts.processes.iter().find(has)?;
    let finding = Finding::new(Severity::Note, "inotify", "inotify, and the root filesystem is an overlay");
    let cause = "criu may not find what is watched again: then the dump fails, and the container runs on";
    Some(finding.because(cause, "").of(process.pid, &process.command))
}

fn queues(facts: &ContainerFacts) -> Option<Finding> {
    (!facts.queues.is_empty()).then(|| {
        let evidence = format!("POSIX message queues {}", facts.queues.join(", "));
        let cause = "criu does not carry POSIX message queues, open or not";
        let remedy = "take the messages, and remove the queues (mq_unlink)";
        Finding::new(Severity::Blocker, "message_queue", evidence).because(cause, remedy)
    })
}
