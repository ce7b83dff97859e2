// SPDX-License-Identifier: Apache-2.0
//! Rules about the processes themselves: who traces them, whose they are, which namespaces and session they are in.

use super::ContainerFacts;
use super::process::{Process, is_gpu};
use crate::check::{Finding, Flag, Severity};

/// Names of processes that are told in one finding.
const MOST_NAMED: usize = 8;
/// Kinds of which CRIU carries one a container only.
const SINGLE: [&str; 5] = ["pid", "user", "ipc", "uts", "time"];

pub(super) fn judge(facts: &ContainerFacts) -> Vec<Finding> {
    let Some(init) = facts.init() else { return Vec::new() };
    let mut found: Vec<Finding> = session(init).into_iter().collect();
    for process in &facts.processes {
        let rules = [traced(process), headless(process), thread_timer(process), foreign(process)];
        found.extend(rules.into_iter().flatten().chain(nested(process, init)));
        let with_gpu = process.has_gpu();
        found.extend(process.mappings.iter().map(|mapping| {
            let (severity, cause) = match with_gpu || is_gpu(&mapping.path) {
                true => (
                    Severity::Note,
                    "criu carries the memory of such a device with a plugin of its maker's only",
                ),
                false => (Severity::Blocker, "criu carries memory of files and of the process's own only"),
            };
            Finding::new(severity, "device_memory", format!("memory of {}", mapping.path))
                .because(cause, "end what uses it, and start it again after the restore")
                .of(process.pid, &process.command)
        }));
    }
    found.extend(others(&facts.others));
    found
}

/// The first process leads its session, unless it is a job of somebody outside.
fn session(init: &Process) -> Option<Finding> {
    let (pid, session) = init.inner;
    if pid == session || pid == 0 {
        return None;
    }
    let evidence =
        format!("session {}", if session == 0 { "outside".to_owned() } else { session.to_string() });
    let finding = Finding::new(Severity::NeedsFlag, "session", evidence).needs(Flag::ShellJob);
    let cause = "it belongs to a session that it does not lead";
    Some(finding.told_in(cause, "session-outside").of(init.pid, &init.command))
}

fn traced(process: &Process) -> Option<Finding> {
    (process.tracer != 0).then(|| {
        Finding::new(Severity::Blocker, "traced", format!("traced by {}", process.tracer))
            .because("criu must trace it itself, and a process has one tracer", "detach the debugger")
            .of(process.pid, &process.command)
    })
}

fn headless(process: &Process) -> Option<Finding> {
    process.is_headless.then(|| {
        Finding::new(Severity::Blocker, "dead_first_thread", "its first thread has ended, others run on")
            .told_in("criu does not carry a process without its first thread", "zombie-with-threads")
            .of(process.pid, &process.command)
    })
}

/// CRIU writes down the thread's id on the host, and asks for it in the namespace.
fn thread_timer(process: &Process) -> Option<Finding> {
    let is_told_apart = process.inner.0 != process.pid;
    (process.has_thread_timer && is_told_apart).then(|| {
        let cause = "criu dumps such a timer of a process in a pid namespace, and cannot restore it";
        Finding::new(Severity::Blocker, "thread_timer", "a POSIX timer that tells a thread (SIGEV_THREAD_ID)")
            .because(cause, "have the program use timerfd or setitimer, or SIGEV_SIGNAL")
            .of(process.pid, &process.command)
    })
}

fn foreign(process: &Process) -> Option<Finding> {
    let ids: Vec<String> = process.uids.iter().map(u32::to_string).collect();
    process.limits_are_hidden.then(|| {
        let cause = "criu may not read the limits of a process of another user without CAP_SYS_RESOURCE";
        Finding::new(Severity::Blocker, "other_user", format!("user ids {}", ids.join(" ")))
            .told_in(cause, "limits-of-another-user")
            .of(process.pid, &process.command)
    })
}

fn nested(process: &Process, init: &Process) -> Vec<Finding> {
    let differs = |kind: &&&str| {
        let (own, first) = (process.namespace(kind), init.namespace(kind));
        own != first && own != 0 && first != 0
    };
    let finding = |kind: &&str| {
        Finding::new(Severity::Blocker, "nested_namespace", format!("a {kind} namespace of its own"))
            .told_in(format!("criu carries one {kind} namespace a container"), "nested-namespace")
            .of(process.pid, &process.command)
    };
    SINGLE.iter().filter(differs).map(finding).collect()
}

/// What is in the container's cgroup, and in nobody's tree that is dumped.
fn others(others: &[(i32, String)]) -> Option<Finding> {
    let mut names: Vec<String> =
        others.iter().take(MOST_NAMED).map(|(pid, name)| format!("{pid} ({name})")).collect();
    if others.len() > MOST_NAMED {
        names.push(format!("{} more", others.len() - MOST_NAMED));
    }
    (!names.is_empty()).then(|| {
        let cause = "exec started them: criu dumps the tree of the first process only, and they end with the container";
        Finding::new(Severity::Note, "exec_session", format!("processes {}", names.join(", ")))
            .because(cause, "end them first, or do without them")
    })
}
