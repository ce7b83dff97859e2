// SPDX-License-Identifier: Apache-2.0
//! What is known of a failed job beside CRIU's log. Whoever ran the job gathers it, after the failure.

/// A process of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id on the host; `None` when it never ran here.
    pub host: Option<i32>,
    /// Its id in the container.
    pub pid: i32,
    /// Its name.
    pub command: String,
}

/// An open descriptor of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// The process's id in the container.
    pub pid: i32,
    /// Its number.
    pub fd: i32,
    /// What the link in `/proc/PID/fd` says.
    pub target: String,
}

/// What the job was and on what. All of it may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context {
    /// The container's id.
    pub id: String,
    /// The flags that were given, of those which the rules name.
    pub flags: Vec<&'static str>,
    /// The container's processes.
    pub processes: Vec<Process>,
    /// Descriptors of theirs that no other name tells.
    pub open: Vec<OpenFile>,
    /// Whether the kernel has killed in the container's cgroup for want of memory since the job began.
    pub out_of_memory: bool,
    /// Whether the container has a user namespace.
    pub user_namespace: bool,
    /// The directory of the images.
    pub images: Option<String>,
    /// CRIU's version and the kernel's, for sentences.
    pub versions: Option<(String, String)>,
}

impl Context {
    /// The process with this id on the host.
    pub(super) fn on_the_host(&self, pid: i32) -> Option<&Process> {
        self.processes.iter().find(|process| process.host == Some(pid))
    }

    /// The process with this id in the container.
    pub(super) fn inside(&self, pid: i32) -> Option<&Process> {
        self.processes.iter().find(|process| process.pid == pid)
    }

    /// The first descriptor that leads to what begins so.
    pub(super) fn descriptor(&self, target: &str) -> Option<&OpenFile> {
        self.open.iter().find(|open| open.target.starts_with(target))
    }
}
