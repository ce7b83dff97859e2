// SPDX-License-Identifier: Apache-2.0
//! From the images to processes with what they hold, and to mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::images::{Images, Space};
use super::report::{
    Environment, MappedArea, MemoryReport, MountReport, OpenDescriptor, Pages, ProcessReport, SocketReport,
};
use crate::criu::image::{
    Address, Descriptor, FileKind, Kept, OpenFile, PAGE, Socket, Task, TaskFiles, TaskState, core,
    descriptors, memory_file_names, mounts as mounts_of, open_files, task_directories, task_ids, tasks,
};

/// Processes, and descriptors of all of them, that are told.
pub(super) const PROCESSES: usize = 1 << 16;
pub(super) const DESCRIPTORS: usize = 1 << 20;
/// Kinds and files of a process's memory.
pub(super) const AREAS: usize = 1 << 12;

/// What all processes share.
struct Shared<'a> {
    images: &'a Images,
    environment: Environment,
    files: BTreeMap<u32, OpenFile>,
    memory_files: BTreeMap<u64, Vec<u8>>,
    /// Tables of descriptors that were read.
    tables: BTreeMap<u32, Vec<Descriptor>>,
    descriptors_left: usize,
}

/// The processes, in the order of the images.
pub(super) fn read(images: &Images, environment: Environment) -> Vec<ProcessReport> {
    let Some(tasks) = images.decode("pstree.img", tasks) else {
        if images.get("pstree.img").is_none() {
            images.tell("pstree.img: it is missing".to_owned());
        }
        return Vec::new();
    };
    let mut shared = Shared {
        images,
        environment,
        files: images.decode("files.img", open_files).unwrap_or_default(),
        memory_files: images.decode("memfd.img", memory_file_names).unwrap_or_default(),
        tables: BTreeMap::new(),
        descriptors_left: DESCRIPTORS,
    };
    let mut seen = BTreeSet::new();
    let mut processes = Vec::new();
    for task in tasks {
        if !seen.insert(task.pid) {
            images.tell(format!("pstree.img: process {} is there twice", task.pid));
        } else if processes.len() == PROCESSES {
            images.tell(format!("pstree.img: more than {PROCESSES} processes are not told"));
            break;
        } else {
            processes.push(shared.process(task));
        }
    }
    processes
}

/// The machine that the first process is of.
pub(super) fn machine(images: &Images) -> Option<&'static str> {
    let first = images.decode("pstree.img", tasks)?.first()?.pid;
    images.decode(&format!("core-{first}.img"), core)?.0.machine
}

impl Shared<'_> {
    fn process(&mut self, task: Task) -> ProcessReport {
        let images = self.images;
        let pid = task.pid;
        let found = images.decode(&format!("core-{pid}.img"), core);
        if found.is_none() && images.get(&format!("core-{pid}.img")).is_none() {
            images.tell(format!("core-{pid}.img: it is missing"));
        }
        let (core, old_ids) = found.unzip();
        let state = core.as_ref().map_or(TaskState::Unknown, |core| core.state);
        let ids =
            images.decode(&format!("ids-{pid}.img"), task_ids).or(old_ids.flatten()).unwrap_or_default();
        let space = images.space(pid);
        let owner = core.as_ref().and_then(|core| core.owner);
        let directories = images.decode(&format!("fs-{pid}.img"), task_directories);
        ProcessReport {
            pid,
            parent: task.parent,
            group: task.group,
            session: task.session,
            threads: if task.threads.is_empty() { vec![pid] } else { task.threads },
            exit_status: core.as_ref().filter(|_| state == TaskState::Zombie).map(|core| core.exit_code),
            name: core.map(|core| lossy(&core.name)).unwrap_or_default(),
            command_line: space.as_ref().and_then(|space| images.arguments(space)),
            state: match state {
                TaskState::Alive => "alive",
                TaskState::Stopped => "stopped",
                TaskState::Zombie => "zombie",
                TaskState::Unknown => "unknown",
            },
            uid: owner.map(|(uid, _)| uid),
            gid: owner.map(|(_, gid)| gid),
            program: space.as_ref().and_then(|space| self.path(space.memory.program?)),
            directory: directories.and_then(|(directory, _)| self.path(directory?)),
            environment: space
                .as_ref()
                .filter(|_| self.environment == Environment::Shown)
                .and_then(|space| images.environment(space)),
            descriptors: self.descriptors(ids),
            memory: space.map(|space| self.memory(&space)),
        }
    }

    /// The path of a file that has one.
    fn path(&self, file: u32) -> Option<String> {
        match &self.files.get(&file)?.kind {
            FileKind::Path { path, .. } => Some(lossy(path)),
            FileKind::MemoryFile(inode) => Some(self.memory_file(*inode)),
            _ => None,
        }
    }

    fn memory_file(&self, inode: u64) -> String {
        format!("/memfd:{}", self.memory_files.get(&inode).map(|name| lossy(name)).unwrap_or_default())
    }

    fn descriptors(&mut self, ids: TaskFiles) -> Vec<OpenDescriptor> {
        let Some(table) = ids.descriptors else { return Vec::new() };
        if !self.tables.contains_key(&table) {
            let name = format!("fdinfo-{table}.img");
            if self.images.get(&name).is_none() {
                self.images.tell(format!("{name}: it is missing"));
            }
            let read = self.images.decode(&name, descriptors);
            self.tables.insert(table, read.unwrap_or_default());
        }
        let found = self.tables.get(&table).map(Vec::as_slice).unwrap_or_default();
        if found.len() > self.descriptors_left {
            self.images.tell(format!("fdinfo-{table}.img: more than {DESCRIPTORS} descriptors are not told"));
            return Vec::new();
        }
        let left = self.descriptors_left - found.len();
        let found = found.iter().map(|descriptor| self.descriptor(*descriptor)).collect();
        self.descriptors_left = left;
        found
    }

    fn descriptor(&self, descriptor: Descriptor) -> OpenDescriptor {
        let mut open = OpenDescriptor {
            fd: descriptor.number,
            kind: "unknown",
            path: None,
            flags: Vec::new(),
            position: None,
            size: None,
            external: false,
            socket: None,
        };
        if let Some(file) = self.files.get(&descriptor.file) {
            open.flags = flags(file.flags);
            open.position = file.position;
            self.describe(&file.kind, &mut open);
        }
        if descriptor.close_on_exec {
            open.flags.push("cloexec");
        }
        open
    }

    fn describe(&self, kind: &FileKind, open: &mut OpenDescriptor) {
        match kind {
            FileKind::Path { path, mode, size, external } => {
                open.kind = match mode.unwrap_or(0) & 0o170_000 {
                    0o040_000 => "directory",
                    0o020_000 | 0o060_000 => "device",
                    _ => "file",
                };
                open.path = Some(lossy(path));
                open.size = size.filter(|_| open.kind == "file");
                open.external = *external;
            }
            FileKind::Pipe(number) => {
                open.kind = "pipe";
                open.path = Some(format!("pipe:[{number}]"));
            }
            FileKind::Fifo(number, file) => {
                open.kind = "fifo";
                // Its flags are with its path.
                open.flags = flags(file.and_then(|file| self.files.get(&file)?.flags));
                let path = file.and_then(|file| self.path(file));
                open.path = Some(path.unwrap_or_else(|| format!("fifo:[{number}]")));
            }
            FileKind::Socket(socket) => {
                open.kind = "socket";
                open.path = Some(format!("socket:[{}]", socket.inode));
                open.socket = Some(socket_report(socket));
            }
            FileKind::Terminal(number) => {
                open.kind = "terminal";
                open.path = Some(format!("tty:[{number}]"));
            }
            FileKind::MemoryFile(inode) => {
                open.kind = "memfd";
                open.path = Some(self.memory_file(*inode));
            }
            FileKind::Namespace(name) => {
                open.kind = "namespace";
                open.path = Some((*name).to_owned());
            }
            FileKind::Nameless(name) => open.kind = name,
        }
    }

    fn memory(&self, space: &Space) -> MemoryReport {
        let mut areas: BTreeMap<(&'static str, Option<u32>), MappedArea> = BTreeMap::new();
        for area in &space.memory.areas {
            let file = area.file.map(|(file, _)| file);
            // Hostile tables end in one sum.
            let key = if areas.len() < AREAS { (area.kind, file) } else { ("other", None) };
            let entry = areas.entry(key).or_insert_with(|| MappedArea {
                kind: key.0,
                path: key.1.and_then(|file| self.path(file)),
                count: 0,
                bytes: 0,
            });
            entry.count += 1;
            entry.bytes = entry.bytes.saturating_add(area.length());
        }
        let mut areas: Vec<_> = areas.into_values().collect();
        areas.sort_by_key(|area| std::cmp::Reverse(area.bytes));
        let pages = space.table.as_ref().map(|table| {
            let mut pages = Pages::default();
            for run in &table.runs {
                let count = match run.kept {
                    Kept::Here => &mut pages.present,
                    Kept::InParent => &mut pages.in_parent,
                    Kept::Zero => &mut pages.zero,
                    Kept::Lazy => &mut pages.lazy,
                };
                *count = count.saturating_add(run.pages);
            }
            pages.bytes = pages.present.saturating_mul(PAGE);
            pages
        });
        let mapped = areas.iter().fold(0_u64, |sum, area| sum.saturating_add(area.bytes));
        MemoryReport { mapped, areas, pages }
    }
}

fn socket_report(socket: &Socket) -> SocketReport {
    SocketReport {
        family: socket.family,
        kind: socket.kind,
        protocol: socket.protocol.clone(),
        state: socket.state,
        inode: socket.inode,
        local: socket.local.as_ref().map(address),
        remote: socket.remote.as_ref().map(address),
        peer: socket.peer,
    }
}

fn address(address: &Address) -> String {
    match address {
        Address::Internet(address) => SocketAddr::to_string(address),
        Address::Path(path) => lossy(path),
        Address::Abstract(name) => format!("@{}", lossy(name)),
        Address::Port(port) => port.to_string(),
    }
}

/// Flags of open(2), in the words of fcntl's names.
pub(super) fn flags(flags: Option<u32>) -> Vec<&'static str> {
    let Some(flags) = flags else { return Vec::new() };
    let mut words = vec![["rdonly", "wronly", "rdwr", "path"][(flags & 3) as usize]];
    let named = [
        (libc::O_APPEND, "append"),
        (libc::O_NONBLOCK, "nonblock"),
        (libc::O_SYNC, "sync"),
        (libc::O_DIRECT, "direct"),
        (libc::O_NOATIME, "noatime"),
        (libc::O_PATH, "path"),
    ];
    for (bits, word) in named {
        let bits = bits.cast_unsigned();
        if flags & bits == bits {
            words.push(word);
        }
    }
    words
}

/// The mounts of all namespaces.
pub(super) fn mounts(images: &Images) -> Vec<MountReport> {
    let mut found = Vec::new();
    for namespace in images.numbers("mountpoints-") {
        let name = format!("mountpoints-{namespace}.img");
        for mount in images.decode(&name, mounts_of).unwrap_or_default() {
            if found.len() == PROCESSES {
                images.tell(format!("{name}: more than {PROCESSES} mounts are not told"));
                return found;
            }
            let options = lossy(&mount.options);
            let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned);
            found.push(MountReport {
                mountpoint: mount.mountpoint,
                kind: mount.kind,
                source: lossy(&mount.source),
                root: lossy(&mount.root),
                options: mount_flags(mount.flags).into_iter().map(str::to_owned).chain(options).collect(),
                external: mount.external,
                namespace,
            });
        }
    }
    found
}

fn mount_flags(flags: u32) -> Vec<&'static str> {
    let named = [
        (libc::MS_RDONLY, "ro"),
        (libc::MS_NOSUID, "nosuid"),
        (libc::MS_NODEV, "nodev"),
        (libc::MS_NOEXEC, "noexec"),
        (libc::MS_NOATIME, "noatime"),
        (libc::MS_NODIRATIME, "nodiratime"),
        (libc::MS_RELATIME, "relatime"),
    ];
    named.iter().filter(|(bit, _)| u64::from(flags) & *bit != 0).map(|(_, word)| *word).collect()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
