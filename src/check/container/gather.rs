// SPDX-License-Identifier: Apache-2.0
//! Reads a running container out of `/proc`, without stopping anything: a process that ends or closes something meanwhile
//! is as if it had not been.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::process::{Descriptor, Process, shown};
use super::{ContainerFacts, Limits};
use crate::engine::rootfs::{MountKind, resolve_destination, unnamed_mounts};
use crate::engine::{Container, InitProcess};
use crate::spec::Config;
use crate::sys::ancestry::Ancestry;
use crate::sys::beneath::open_in_root;
use crate::sys::mountinfo;
use crate::sys::netlink::unix_sockets;
use crate::sys::proc::{namespace_inode, read_short};
use crate::{Context, Error, ErrorKind, Result};

/// `MQUEUE_MAGIC` of the kernel's ipc/mqueue.c.
const MQUEUE: i64 = 0x1980_0202;
/// Names of message queues that are shown.
const MOST_QUEUES: usize = 8;

impl ContainerFacts {
    /// Looks at all of it.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when the container has no process; its cgroup or its first process cannot be read.
    pub fn gather(container: &Container, config: &Config, limits: Limits) -> Result<Self> {
        let init = container.init().filter(InitProcess::is_alive).ok_or_else(|| {
            Error::new(ErrorKind::WrongStatus, format!("container {} has no process", container.id()))
        })?;
        let mut facts = Self::default();
        facts.read_processes(init, container.processes()?, limits)?;
        facts.read_mounts(init)?;
        facts.read_queue_files();
        facts.given(&container.state().external_descriptors);
        facts.read_unix_sockets();
        facts.configured(container, config, init)?;
        facts.read_queues(init);
        Ok(facts)
    }

    fn read_processes(&mut self, init: InitProcess, pids: Vec<i32>, limits: Limits) -> Result<()> {
        let mut budget = limits.entries;
        let first = Process::of(init.pid, &mut budget).context(|| format!("read /proc/{}", init.pid))?;
        self.processes.push(first);
        self.cut_short = pids.len() > limits.processes;
        let mut ancestry = Ancestry::default();
        for pid in pids.into_iter().filter(|pid| *pid != init.pid).take(limits.processes) {
            if ancestry.descends(pid, init.pid) {
                // One that has ended meanwhile is not to be dumped.
                self.processes.extend(Process::of(pid, &mut budget).ok());
            } else if let Ok(name) = read_short(Path::new(&format!("/proc/{pid}/comm"))) {
                self.others.push((pid, shown(name.trim_ascii())));
            }
        }
        self.cut_short |= budget == 0;
        Ok(())
    }

    /// The table of each mount namespace, once.
    fn read_mounts(&mut self, init: InitProcess) -> Result<()> {
        for process in &self.processes {
            let namespace = process.namespace("mnt");
            if namespace == 0 || self.mounts.contains_key(&namespace) {
                continue;
            }
            let path = format!("/proc/{}/mountinfo", process.pid);
            let table = read_short(Path::new(&path)).and_then(|text| mountinfo::parse(&text));
            match table {
                Ok(table) if process.pid == init.pid || is_in(process.pid, namespace) => {
                    self.mounts.insert(namespace, table);
                }
                Ok(_) => {}
                Err(error) if process.pid == init.pid => {
                    return Err(error).context(|| format!("read {path}"));
                }
                Err(_) => {}
            }
        }
        // One that has ended since, or has gone to another namespace, tells nothing that holds.
        let known = &self.mounts;
        self.processes.retain(|process| {
            let namespace = process.namespace("mnt");
            namespace == 0 || known.contains_key(&namespace)
        });
        Ok(())
    }

    /// Which of the files that lie on no mount are message queues.
    fn read_queue_files(&mut self) {
        let own: HashSet<u64> = self.mounts.values().flatten().map(|mount| mount.id).collect();
        for descriptor in self.processes.iter_mut().flat_map(|process| {
            let pid = process.pid;
            process.descriptors.iter_mut().map(move |descriptor| (pid, descriptor))
        }) {
            let (pid, descriptor) = descriptor;
            let number = descriptor.number;
            if let Some(file) = descriptor.file.as_mut().filter(|file| !own.contains(&file.mount)) {
                let found = nix::sys::statfs::statfs(format!("/proc/{pid}/fd/{number}").as_str());
                file.is_queue = found.is_ok_and(|found| found.filesystem_type().0 == MQUEUE);
            }
        }
    }

    /// What the first process was started with as stdio: the dump has keys for it.
    fn given(&mut self, names: &[String; 3]) {
        let Some(init) = self.processes.first() else { return };
        for descriptor in init.descriptors.iter().filter(|descriptor| (0..3).contains(&descriptor.number)) {
            self.given_files.extend(descriptor.file.map(|file| (file.mount, file.inode)));
            if names.contains(&descriptor.target) {
                self.given_sockets.extend(inode(descriptor));
            }
        }
    }

    /// The tables of unix sockets, where there are such sockets.
    fn read_unix_sockets(&mut self) {
        let mut seen = HashSet::new();
        for process in &self.processes {
            let is_unix = |descriptor: &Descriptor| {
                descriptor.socket.is_some_and(|socket| socket.family == nix::libc::AF_UNIX)
            };
            let namespace = process.namespace("net");
            if !process.descriptors.iter().any(is_unix) || namespace == 0 || !seen.insert(namespace) {
                continue;
            }
            let listed =
                File::open(format!("/proc/{}/ns/net", process.pid)).and_then(|file| unix_sockets(&file));
            // Without the kernel's help there is nothing to be said about them.
            if let Ok(listed) = listed {
                self.unix.extend(listed.into_iter().map(|socket| (socket.inode, socket)));
            }
        }
        self.in_flight = self.processes.iter().any(|process| {
            process.descriptors.iter().any(|descriptor| {
                descriptor.socket.is_some_and(|socket| socket.family == nix::libc::AF_UNIX)
                    && passes_descriptors(process.pid, descriptor.number)
            })
        });
    }

    /// Where the configuration has put mounts, as links lead there now.
    fn configured(&mut self, container: &Container, config: &Config, init: InitProcess) -> Result<()> {
        let plan = container.rootfs_plan(config)?;
        let root = PathBuf::from(format!("/proc/{}/root", init.pid));
        for mount in &plan.mounts {
            let resolved = resolve_destination(&root, &mount.destination);
            let place = resolved.unwrap_or_else(|_| mount.destination.clone());
            if let MountKind::Bind { .. } = mount.kind {
                self.binds.insert(place.clone());
            }
            self.configured.push(place);
        }
        for path in plan.masked_paths.iter().chain(&plan.readonly_paths) {
            self.configured.push(resolve_destination(&root, path).unwrap_or_else(|_| path.clone()));
        }
        self.configured.extend(plan.devices.iter().flatten().map(|device| device.path.clone()));
        // The host's table may be long, and most containers have nothing of it.
        if !super::mounts::judge(self).is_empty() {
            let host = mountinfo::read().context(|| "read /proc/thread-self/mountinfo")?;
            let inherited = plan.inherited_mounts(&root, &host)?;
            self.configured.extend(inherited.into_iter().map(|mount| mount.inside));
            // So are mounts of the host's that nothing names: the dump names them.
            let table = self.init().and_then(|first| self.mounts.get(&first.namespace("mnt")));
            let known = |path: &Path| self.configured.iter().any(|place| place == path);
            let exists = |path: &Path| path.symlink_metadata().is_ok();
            let unnamed = unnamed_mounts(table.map_or(&[], Vec::as_slice), &host, known, exists);
            self.configured.extend(unnamed.into_iter().map(|mount| mount.inside));
        }
        Ok(())
    }

    fn read_queues(&mut self, init: InitProcess) {
        let Some(table) = self.processes.first().and_then(|first| self.mounts.get(&first.namespace("mnt")))
        else {
            return;
        };
        let Some(mount) = table.iter().find(|mount| mount.fstype == "mqueue") else { return };
        if self.binds.contains(&mount.mount_point) {
            return;
        }
        self.queues = names_in(init.pid, &mount.mount_point).unwrap_or_default();
    }
}

/// The names in a directory of a process's, which is opened as the process would.
fn names_in(pid: i32, path: &Path) -> io::Result<Vec<String>> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(format!("/proc/{pid}/root").as_str(), flags, Mode::empty())?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = Dir::from_fd(open_in_root(root.as_fd(), path, flags, Mode::empty())?)?;
    let names = directory.into_iter().filter_map(|entry| Some(entry.ok()?.file_name().to_bytes().to_vec()));
    let names = names.filter(|name| name != b"." && name != b"..");
    Ok(names.take(MOST_QUEUES).map(|name| shown(&name)).collect())
}

/// The inode of a socket.
pub(super) fn inode(descriptor: &Descriptor) -> Option<u32> {
    descriptor.target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether descriptors wait in a unix socket to be received.
fn passes_descriptors(pid: i32, number: i32) -> bool {
    let text = read_short(Path::new(&format!("/proc/{pid}/fdinfo/{number}"))).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().any(|line| line.strip_prefix("scm_fds:").is_some_and(|count| count.trim() != "0"))
}

/// Whether a process is in this mount namespace.
fn is_in(pid: i32, namespace: u64) -> bool {
    namespace_inode(Pid::from_raw(pid), "mnt").is_ok_and(|now| now == namespace)
}
