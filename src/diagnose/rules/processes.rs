// SPDX-License-Identifier: Apache-2.0
//! Processes that cannot be stopped or made again, and CRIU's own end.

use super::Rule;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "traced",
        seen: &["Unseizable non-zombie {host} found, state {}, err"],
        after: Some("Unable to interrupt task: {host} (Operation not permitted)"),
        cause: "{who} is traced by another program (a debugger, strace), or protected from criu",
        remedy: "end the tracer, which `grep TracerPid /proc/{host}/status` tells",
        ..Rule::DUMP
    },
    Rule {
        name: "uninterruptible",
        seen: &["Unseizable non-zombie {host} found, state D"],
        cause: "a process of the container is stuck in the kernel (state D), or frozen by somebody else",
        remedy: "thaw the container's cgroup and those above it; a process in state D waits for a disk or network file system",
        ..Rule::DUMP
    },
    Rule {
        name: "not-stopped-in-time",
        seen: &["Timeout reached. Try to interrupt"],
        cause: "criu could not stop all processes of the container in time: one waits in vfork for its child, is stuck in the kernel (state D), or is frozen by somebody else",
        remedy: "try again; on a machine that is busy with a larger --timeout",
        ..Rule::DUMP
    },
    Rule {
        name: "unseizable",
        seen: &["Unseizable non-zombie {host} found, state {state}, err"],
        cause: "criu could not stop {who} (state {state})",
        remedy: "try again; a debugger, a security module or a frozen cgroup keeps criu from it",
        ..Rule::DUMP
    },
    Rule {
        name: "processes-come-too-fast",
        seen: &["Can't catch all tasks"],
        cause: "the container starts processes faster than criu can stop them",
        remedy: "pause the container first: `migrate pause {id}`, then checkpoint it",
        ..Rule::DUMP
    },
    Rule {
        name: "process-outside-of-the-tree",
        seen: &[
            "Unexpected process {host} in the freezer cgroup",
            "Abandoned mount or control was delegated to child",
        ],
        cause: "a process in the container's cgroup is no descendant of its first process, such as one that `exec` started",
        remedy: "end it (`migrate ps {id}` shows it), then checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "first-process-ended",
        seen: &["A root task is dead", "zombie {host} (comm {}) found while seizing"],
        cause: "a process ended while criu began to stop the container",
        remedy: "try again: only running containers can be checkpointed",
        ..Rule::DUMP
    },
    Rule {
        name: "zombie-with-threads",
        seen: &[
            "Zombies with threads are not supported",
            "Zombie thread not supported",
            "Zombie with children?!",
        ],
        cause: "the main thread of a process has ended while others of its threads run on, which CRIU cannot dump",
        remedy: "have the program end its main thread last",
        ..Rule::DUMP
    },
    Rule {
        name: "thread-stopped",
        seen: &["Individually stopped threads not supported", "SEIZE {host}: unsupported stop signal"],
        cause: "a thread is stopped in a way that CRIU cannot dump",
        remedy: "let it run on (SIGCONT), or end the debugger, before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "pending-trap",
        seen: &["Can't dump the {host} thread with a pending SIGTRAP"],
        cause: "a debugger has left a breakpoint's signal in {who}",
        remedy: "end the debugger and let the process run on before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "thirty-two-bits",
        seen: &[
            "Can't dump task {host} running in 32-bit mode",
            "Compatible mode without vdso map support",
            "compat_cr is not supported",
        ],
        cause: "{who} is a 32-bit program, and this criu or kernel cannot dump those",
        remedy: "use the 64-bit build of the program",
        ..Rule::ANY
    },
    Rule {
        name: "segment-descriptors",
        seen: &["Can't dump task {host} with LDT descriptors"],
        cause: "{who} has segment descriptors of its own (Wine and old 16-bit programs have), which CRIU cannot dump",
        remedy: "no flag helps",
        ..Rule::DUMP
    },
    Rule {
        name: "restartable-sequences",
        seen: &[
            "{host} has rseq but kernel lacks get_rseq_conf feature",
            "C/R of processes which are using rseq() won't work",
        ],
        cause: "{who} uses restartable sequences (glibc 2.35 and newer does), and this kernel does not tell criu about them",
        remedy: "use Linux 5.13 or newer, or GLIBC_TUNABLES=glibc.pthread.rseq=0 in process.env",
        ..Rule::DUMP
    },
    Rule {
        name: "criu-inside",
        seen: &["The criu itself is within dumped tree"],
        cause: "criu is one of the processes that it is to dump",
        remedy: "run migrate outside of the container",
        ..Rule::DUMP
    },
    Rule {
        name: "timers",
        seen: &["Can't create posix timer", "Can't create timers, kernel don't give them consequently"],
        cause: "a timer of {who} could not get the id that it had",
        remedy: "try again; criu 4.2 with Linux 6.17 or newer needs no luck for this",
        ..Rule::RESTORE
    },
    Rule {
        name: "library-of-criu",
        seen: &["error while loading shared libraries: {path}: "],
        cause: "criu does not start: its library {path} is missing",
        remedy: "run scripts/setup, or install criu with what it depends on",
        ..Rule::ANY
    },
    Rule {
        name: "criu-killed",
        seen: &["criu was killed by SIGKILL", "criu was killed by SIGTERM", "criu was killed by SIGINT"],
        cause: "somebody killed criu, or the kernel did for want of memory",
        remedy: "`dmesg | grep -i oom` tells whether memory was used up; then try again",
        ..Rule::ANY
    },
    Rule {
        name: "criu-crashed-on-images",
        seen: &[
            "criu was killed by SIGSEGV",
            "criu was killed by SIGBUS",
            "criu was killed by SIGABRT",
            "stopped by signal 11",
            "killed by signal 11",
        ],
        cause: "criu crashed on the images: one is missing or damaged",
        remedy: "copy {images} again from where they were made; a complete `--export` archive is checked before criu sees it",
        ..Rule::RESTORE
    },
    Rule {
        name: "criu-crashed",
        seen: &["criu was killed by {signal}", "criu ended without an answer ({status})", "BUG at {place}"],
        cause: "criu broke down in the middle",
        remedy: "a newer criu may know better (run scripts/setup, or pass --criu); report it to its authors with the log",
        ..Rule::ANY
    },
    Rule {
        name: "restored-process-ended",
        seen: &["{} killed by signal {signal}", "{} exited, status={status}"],
        last_resort: true,
        cause: "a process ended in the middle of its restore and left no reason",
        remedy: "a killed one (signal 9) mostly had too little memory: see `dmesg`; else the images do not fit this machine",
        ..Rule::RESTORE
    },
];
