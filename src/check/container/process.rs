// SPDX-License-Identifier: Apache-2.0
//! One process as `/proc` shows it: its state, its namespaces, its descriptors, the files in its memory.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::sys::beneath::open_in_root;
use crate::sys::proc::{namespace_inode, read_short};
use crate::sys::socket::SocketFacts;
use crate::sys::{pidfd, process};

/// Kinds of namespaces whose differences within a container matter.
const NAMESPACES: [&str; 7] = ["mnt", "net", "pid", "user", "ipc", "uts", "time"];
/// A name is shown so far, in bytes; it is the program's own.
const LONGEST_NAME: usize = 64;

/// Whose devices CRIU carries with a plugin.
const GPUS: [&str; 4] = ["/dev/nvidia", "/dev/kfd", "/dev/dri/", "/dev/infiniband/"];
const DELETED: &str = " (deleted)";

/// One process.
#[derive(Debug, Clone, Default)]
pub(in crate::check) struct Process {
    pub(super) pid: i32,
    pub(super) command: String,
    /// Who traces it; 0 for nobody.
    pub(super) tracer: i32,
    /// Its user ids, as this namespace sees them: real, effective, saved.
    pub(super) uids: Vec<u32>,
    /// Its pid and its session in its own pid namespace.
    pub(super) inner: (i32, i32),
    /// Whether CRIU may not read its limits.
    pub(super) limits_are_hidden: bool,
    /// Whether its first thread has ended before the others.
    pub(super) is_headless: bool,
    /// Whether a POSIX timer tells one of its threads (`SIGEV_THREAD_ID`).
    pub(super) has_thread_timer: bool,
    /// The inodes of its namespaces.
    pub(super) namespaces: Vec<(&'static str, u64)>,
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) mappings: Vec<Mapping>,
}

/// One descriptor.
#[derive(Debug, Clone, Default)]
pub(in crate::check) struct Descriptor {
    pub(super) number: i32,
    /// Where `/proc/PID/fd/N` leads.
    pub(super) target: String,
    /// Of a path.
    pub(super) file: Option<FileFacts>,
    /// Of a socket.
    pub(super) socket: Option<SocketFacts>,
    /// Of a pipe: whether it keeps packets apart (`O_DIRECT`); of a timerfd: whether its clock wakes the machine.
    pub(super) is_special: bool,
}

/// What lies behind a descriptor that leads to a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::check) struct FileFacts {
    pub(super) mount: u64,
    pub(super) inode: u64,
    pub(super) mode: u32,
    /// The device that it stands for: major, minor.
    pub(super) device: (u64, u64),
    pub(super) links: u64,
    pub(super) size: u64,
    pub(super) on_disk: u64,
    pub(super) locked: bool,
    /// Whether the name that it was opened by does not lead to it, while it has another one.
    pub(super) name_is_gone: bool,
    /// Of a filesystem of POSIX message queues.
    pub(super) is_queue: bool,
}

/// A mapping of a device or of something without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::check) struct Mapping {
    pub(super) path: String,
}

impl Process {
    /// Looks at a process. `budget` is how many entries may still be read.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` when it is gone.
    pub(super) fn of(pid: i32, budget: &mut usize) -> io::Result<Self> {
        let status = read_short(Path::new(&format!("/proc/{pid}/status")))?;
        let status = String::from_utf8_lossy(&status);
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let last =
            |name| field(name).split_ascii_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or(0);
        let uids = field("Uid:").split_ascii_whitespace().take(3).filter_map(|id| id.parse().ok()).collect();
        let handle = Pid::from_raw(pid);
        let mut new = Self {
            pid,
            command: shown(field("Name:").trim().as_bytes()),
            tracer: last("TracerPid:"),
            uids,
            inner: (last("NSpid:"), last("NSsid:")),
            ..Self::default()
        };
        if field("State:").trim_start().starts_with('Z') {
            new.is_headless = last("Threads:") > 1;
            return Ok(new);
        }
        // A kernel without this file has no such timers for CRIU either.
        let timers = read_short(Path::new(&format!("/proc/{pid}/timers"))).unwrap_or_default();
        new.has_thread_timer = tells_a_thread(&String::from_utf8_lossy(&timers));
        new.limits_are_hidden = !process::may_read_limits(handle)?;
        for kind in NAMESPACES {
            if let Ok(inode) = namespace_inode(handle, kind) {
                new.namespaces.push((kind, inode));
            }
        }
        new.descriptors = descriptors(pid, budget)?;
        new.mappings = mappings(pid, budget)?;
        Ok(new)
    }

    /// Whether it has a device open that CRIU carries with a plugin only.
    pub(super) fn has_gpu(&self) -> bool {
        let open = self.descriptors.iter().map(|descriptor| descriptor.target.as_str());
        open.chain(self.mappings.iter().map(|mapping| mapping.path.as_str())).any(is_gpu)
    }

    /// The inode of a namespace; 0 if it is not known.
    pub(super) fn namespace(&self, kind: &str) -> u64 {
        self.namespaces.iter().find(|(name, _)| *name == kind).map_or(0, |(_, inode)| *inode)
    }
}

/// Whether this is the path of a device that CRIU carries with a plugin.
pub(super) fn is_gpu(path: &str) -> bool {
    GPUS.iter().any(|prefix| path.starts_with(prefix))
}

/// Whether one of the timers of `/proc/PID/timers` tells a thread of its choice.
fn tells_a_thread(timers: &str) -> bool {
    let how = timers.lines().filter_map(|line| line.strip_prefix("notify:"));
    how.into_iter().any(|how| how.contains("/tid."))
}

fn descriptors(pid: i32, budget: &mut usize) -> io::Result<Vec<Descriptor>> {
    let directory = format!("/proc/{pid}/fd");
    let mut list = Vec::new();
    let mut handle = None;
    for entry in fs::read_dir(&directory)? {
        if *budget == 0 {
            break;
        }
        *budget -= 1;
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that is closed meanwhile is not to be dumped.
        let Ok(target) = fs::read_link(format!("{directory}/{number}")) else { continue };
        let target = target.to_string_lossy().into_owned();
        let mut new = Descriptor { number, target, ..Descriptor::default() };
        if new.target.starts_with('/') {
            new.file = file(pid, number, &new.target);
        } else if new.target.starts_with("socket:") {
            new.socket = socket(pid, number, &mut handle);
        } else if new.target.starts_with("pipe:") || new.target == "anon_inode:[timerfd]" {
            new.is_special = is_special(pid, number);
        }
        list.push(new);
    }
    list.sort_by_key(|descriptor| descriptor.number);
    Ok(list)
}

fn file(pid: i32, number: i32, target: &str) -> Option<FileFacts> {
    let path = format!("/proc/{pid}/fd/{number}");
    let metadata = fs::metadata(&path).ok()?;
    let info = read_short(Path::new(&format!("/proc/{pid}/fdinfo/{number}"))).ok()?;
    let info = String::from_utf8_lossy(&info);
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())?;
    Some(FileFacts {
        mount,
        locked: info.lines().any(|line| line.starts_with("lock:")),
        name_is_gone: metadata.nlink() > 0 && name_is_gone(pid, target, &metadata),
        ..FileFacts::of(&metadata)
    })
}

/// Whether a file is elsewhere than its name says. The kernel's word for it may be a part of the name.
fn name_is_gone(pid: i32, target: &str, file: &Metadata) -> bool {
    let Some(name) = target.strip_suffix(DELETED) else { return false };
    let leads_to_it = |name: &str| {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let root = open(format!("/proc/{pid}/root").as_str(), flags, Mode::empty()).ok()?;
        let found = open_in_root(root.as_fd(), name, flags | OFlag::O_NOFOLLOW, Mode::empty()).ok()?;
        let found = File::from(found).metadata().ok()?;
        Some((found.dev(), found.ino()) == (file.dev(), file.ino()))
    };
    ![name, target].into_iter().any(|name| leads_to_it(name).unwrap_or(false))
}

fn is_special(pid: i32, number: i32) -> bool {
    let info = read_short(Path::new(&format!("/proc/{pid}/fdinfo/{number}"))).unwrap_or_default();
    let info = String::from_utf8_lossy(&info);
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if let Some(clock) = field("clockid:") {
        let alarms = [nix::libc::CLOCK_REALTIME_ALARM, nix::libc::CLOCK_BOOTTIME_ALARM];
        return clock.parse().is_ok_and(|clock: i32| alarms.contains(&clock));
    }
    let flags = field("flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok());
    flags.is_some_and(|flags| flags & nix::libc::O_DIRECT != 0)
}

impl FileFacts {
    fn of(metadata: &Metadata) -> Self {
        let device = metadata.rdev();
        Self {
            inode: metadata.ino(),
            mode: metadata.mode(),
            device: (nix::sys::stat::major(device), nix::sys::stat::minor(device)),
            links: metadata.nlink(),
            size: metadata.len(),
            on_disk: metadata.blocks().saturating_mul(512),
            ..Self::default()
        }
    }
}

fn socket(pid: i32, number: i32, handle: &mut Option<OwnedFd>) -> Option<SocketFacts> {
    if handle.is_none() {
        *handle = pidfd::open(Pid::from_raw(pid)).ok();
    }
    let copy = pidfd::copy_descriptor(handle.as_ref()?.as_fd(), number).ok()?;
    SocketFacts::of(copy.as_fd()).ok()
}

/// The mappings that may be of devices, or of what has no path.
fn mappings(pid: i32, budget: &mut usize) -> io::Result<Vec<Mapping>> {
    let maps = read_short(Path::new(&format!("/proc/{pid}/maps")))?;
    let mut list = Vec::new();
    for line in maps.split(|byte| *byte == b'\n') {
        if *budget == 0 {
            break;
        }
        *budget -= 1;
        let Some(path) = suspicious(line) else { continue };
        let range =
            String::from_utf8_lossy(line.split(|byte| *byte == b' ').next().unwrap_or_default()).into_owned();
        // The kernel has a link to what is mapped, whatever the path says now.
        let is_device = || {
            let found = fs::metadata(format!("/proc/{pid}/map_files/{range}"));
            found.is_ok_and(|found| found.mode() & nix::libc::S_IFMT == nix::libc::S_IFCHR)
        };
        let new = Mapping { path: shown(path) };
        if (!path.starts_with(b"/dev/") || is_device()) && !list.contains(&new) {
            list.push(new);
        }
    }
    Ok(list)
}

/// The path of a line of `maps` if it is one to be looked at.
fn suspicious(line: &[u8]) -> Option<&[u8]> {
    // Five fields, then blanks, then the path, which may hold anything.
    let mut rest = line;
    for _ in 0..5 {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        rest = rest[end..].trim_ascii_start();
    }
    let ordinary = rest.starts_with(b"/dev/zero") || rest.starts_with(b"/dev/shm/");
    let suspects: [&[u8]; 3] = [b"/dev/", b"anon_inode:", b"/secretmem (deleted)"];
    (!ordinary && suspects.iter().any(|beginning| rest.starts_with(beginning))).then_some(rest)
}

/// Text of a process's own, harmless and short.
pub(super) fn shown(bytes: &[u8]) -> String {
    let end = bytes.len().min(LONGEST_NAME);
    let more = if bytes.len() > LONGEST_NAME { "…" } else { "" };
    format!("{}{more}", String::from_utf8_lossy(&bytes[..end]).escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_and_what_has_no_path_are_looked_at() {
        let line = |path: &str| format!("7f00-7f01 rw-s 00000000 00:06 12      {path}").into_bytes();
        for path in ["/dev/nvidia0", "anon_inode:[io_uring]", "/dev/dri/card 0", "/secretmem (deleted)"] {
            assert_eq!(suspicious(&line(path)), Some(path.as_bytes()));
        }
        for path in ["/usr/lib/x.so", "/dev/zero (deleted)", "/dev/shm/x", "[heap]", ""] {
            assert_eq!(suspicious(&line(path)), None, "{path}");
        }
        assert_eq!(suspicious(b"junk"), None);
    }

    #[test]
    fn a_timer_that_tells_a_thread_is_told_apart() {
        let timers = |notify: &str| format!("ID: 0\nsignal: 14/00000000\nnotify: {notify}\nClockID: 1\n");
        assert!(tells_a_thread(&[timers("signal/pid.7"), timers("signal/tid.8")].concat()));
        for other in ["signal/pid.7", "none/pid.7", "thread/pid.7"] {
            assert!(!tells_a_thread(&timers(other)), "{other}");
        }
        assert!(!tells_a_thread(""));
    }

    #[test]
    fn a_name_that_only_looks_as_if_it_were_gone() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("x (deleted)");
        let file = File::create(&path).expect("create");
        let seen = |at: &Path| {
            let metadata = file.metadata().expect("stat");
            name_is_gone(std::process::id() as i32, at.to_str().expect("UTF-8"), &metadata)
        };
        assert!(!seen(&path));
        fs::hard_link(&path, directory.path().join("other")).expect("link");
        fs::remove_file(&path).expect("unlink");
        assert!(seen(&path));
        assert!(!seen(&directory.path().join("other (deleted)")), "the name is there again");
    }

    #[test]
    fn this_process_is_seen() {
        let file = tempfile::tempfile().expect("a file");
        let mut budget = 4096;
        let own = Process::of(std::process::id() as i32, &mut budget).expect("it is there");
        assert!(budget < 4096);
        assert!(!own.limits_are_hidden);
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        let seen = own.descriptors.iter().find(|d| d.number == number).expect("it is open");
        assert_eq!(seen.file.map(|file| file.links), Some(0));
        assert_eq!(own.inner.0, std::process::id() as i32);
        let mut none = 0;
        assert!(
            Process::of(std::process::id() as i32, &mut none).expect("it is there").descriptors.is_empty()
        );
    }
}
