// SPDX-License-Identifier: Apache-2.0
//! Terminals and sessions that lead out of the container.

use super::Rule;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "terminal-outside",
        seen: &[
            "tty: Found slave peer index {number} without correspond master peer",
            "tty: Found dangling tty with sid",
            "tty: Only one slave external peer is allowed",
        ],
        cause: "a process uses a terminal whose other side is outside of the container",
        remedy: "start the container with process.terminal and --console-socket, or pass --shell-job",
        ..Rule::DUMP
    },
    Rule {
        name: "session-outside",
        seen: &["The root process {} is not a session leader. Consider using --shell-job option"],
        cause: "the container's first process belongs to a session of the host",
        remedy: "pass --shell-job, or start the container without a terminal of the caller's",
        ..Rule::DUMP
    },
    Rule {
        name: "session-leader-outside",
        seen: &["A session leader of {host}({}) is outside of its pid namespace"],
        cause: "{who} belongs to a session whose leader is outside of the container",
        remedy: "start it with setsid(1)",
        ..Rule::DUMP
    },
    Rule {
        name: "session-cannot-be-inherited",
        seen: &[
            "Can't find a session leader for",
            "Requested sid {} doesn't match inherited",
            "tty: Don't have tty to inherit session from",
        ],
        cause: "the session of {who} cannot be made again: its terminal or its leader is not in the images",
        remedy: "pass --shell-job to the restore as well, and restore from a terminal",
        ..Rule::RESTORE
    },
    Rule {
        name: "session-id-in-use",
        seen: &["Current gid {} intersects with", "Current sid {} intersects with"],
        cause: "the session or process group of this shell has the id of one in the images",
        remedy: "restore from another shell, or with `setsid -w migrate restore`",
        ..Rule::RESTORE
    },
    Rule {
        name: "terminal-in-use",
        seen: &["tty: Unable to open {path} with specified index"],
        cause: "the terminal {path} of the container exists already",
        remedy: "give the container a devpts of its own (options newinstance, ptmxmode=0666)",
        ..Rule::RESTORE
    },
    Rule {
        name: "terminal-of-another-driver",
        seen: &["tty: Unable to find a tty driver", "tty: Unexpected TTY type"],
        cause: "{who} has a terminal open{fd} that is no pseudo terminal and no console",
        remedy: "have the program close it before the checkpoint (serial lines and the like)",
        ..Rule::ANY
    },
    Rule {
        name: "terminal-missing",
        seen: &[
            "tty: Can't open slave pty",
            "tty: Can't open slave tty",
            "tty: Can't open tty {path}",
            "tty: Can't open master pty",
        ],
        cause: "a terminal of {who} cannot be opened again",
        remedy: "restore with a terminal: --console-socket, or in the foreground",
        ..Rule::RESTORE
    },
];
