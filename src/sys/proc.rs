// SPDX-License-Identifier: Apache-2.0
//! Readers of `/proc`. What a process writes there itself (its name, its command line) is hostile and is parsed as
//! bytes.

use std::fs;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

/// Two lines of a table of sockets are shorter than this, in bytes; all of it may have millions.
const SOCKET_TABLE: u64 = 4096;

/// include/linux/sched.h of the kernel.
const PF_EXITING: u32 = 4;

/// What `/proc/PID/stat` says of one process (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// One letter: `R` running, `S` sleeping, `D` waiting, `T` stopped, `Z` zombie, `X` dead.
    pub state: u8,
    /// The parent's pid.
    pub parent: i32,
    /// When the process started, in clock ticks since boot: with the pid it names one process for ever.
    pub start_time: u64,
    /// The kernel's `PF_*` flags.
    flags: u32,
}

impl Stat {
    /// Reads the entry of a process.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` when there is no such process; `InvalidData` for what is no stat line.
    pub fn of(pid: Pid) -> io::Result<Self> {
        let text = read_short(format!("/proc/{pid}/stat").as_ref())?;
        Self::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a stat line"))
    }

    fn parse(line: &[u8]) -> Option<Self> {
        // The name in parentheses may hold anything, parentheses and blanks too: the last one ends it.
        let after_name = line.iter().rposition(|b| *b == b')')? + 1;
        let mut fields = std::str::from_utf8(&line[after_name..]).ok()?.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        // Fields 3 and 4 are gone; the flags are field 9, the start time is field 22.
        let flags = fields.nth(9 - 5)?.parse().ok()?;
        let start_time = fields.nth(22 - 10)?.parse().ok()?;
        Some(Self { state, parent, start_time, flags })
    }

    /// Whether the process is on its way out (`PF_EXITING`): it runs no more of its program.
    pub fn exiting(&self) -> bool {
        self.flags & PF_EXITING != 0
    }

    /// Whether the process is past running: a zombie, or dead.
    pub fn ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads a file of a file system that does not tell sizes, most often with one read(2): [`fs::read`] begins with 32 bytes.
///
/// # Errors
/// As [`fs::read`].
pub fn read_short(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    // Through `take` it is not asked for its size first.
    fs::File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The beginning of a process's command line: its arguments, each ended by a NUL byte; empty for a zombie.
///
/// # Errors
/// `ENOENT` when the process is gone.
pub fn command_line(pid: Pid, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(format!("/proc/{pid}/cmdline"))?.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a thread of the process was stopped by a signal (`SIGSTOP` and its like), also when a freezer holds it, in which
/// state it looks like any other. False where the kernel does not tell what a process waits for.
///
/// # Errors
/// When the process is gone.
pub fn is_stopped_by_signal(pid: Pid) -> io::Result<bool> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that is gone by now is not stopped.
        if read_short(&entry?.path().join("wchan")).is_ok_and(|waits| waits == b"do_signal_stop") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a descriptor of a process points to, as `/proc/PID/fd/N` says: a path, or `pipe:[7]`, `socket:[8]`.
///
/// # Errors
/// `ENOENT` when the process or the descriptor is gone.
pub fn fd_target(pid: Pid, fd: i32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/fd/{fd}"))
}

/// The id of a process in the innermost process id namespace that it is in.
///
/// # Errors
/// `ENOENT` when the process is gone.
pub fn innermost_pid(pid: Pid) -> io::Result<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let innermost = ids.and_then(|ids| ids.split_whitespace().last()?.parse().ok());
    innermost.ok_or_else(|| io::Error::other(format!("/proc/{pid}/status has no NSpid")))
}

/// The name of a process: 15 bytes at most, of its own choice.
///
/// # Errors
/// `ENOENT` when the process is gone.
pub fn command(pid: Pid) -> io::Result<String> {
    let name = fs::read(format!("/proc/{pid}/comm"))?;
    Ok(String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
}

/// Whether a process has a file open, which is known by its device and inode.
///
/// # Errors
/// `ENOENT` when the process is gone, `EACCES` when its descriptors are not ours to see.
pub fn has_open(pid: Pid, file: &fs::Metadata) -> io::Result<bool> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor that is closed meanwhile is not that of the file.
        if fs::metadata(entry?.path()).is_ok_and(|m| (m.dev(), m.ino()) == (file.dev(), file.ino())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The inode number that identifies a namespace of a process (namespaces(7)); `kind` is its name in `/proc/PID/ns`.
///
/// # Errors
/// `ENOENT` when the process is gone or the kernel lacks the namespace.
pub fn namespace_inode(pid: Pid, kind: &str) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{pid}/ns/{kind}"))?.ino())
}

/// Whether there is any TCP or UDP socket in the network namespace of a process.
///
/// # Errors
/// When the process is gone.
pub fn has_inet_sockets(pid: Pid) -> io::Result<bool> {
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let mut beginning = Vec::new();
        let read = fs::File::open(format!("/proc/{pid}/net/{table}"))
            .and_then(|file| file.take(SOCKET_TABLE).read_to_end(&mut beginning));
        match read {
            // The first line is the heading.
            Ok(_) if beginning.iter().filter(|byte| **byte == b'\n').count() > 1 => return Ok(true),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            // A kernel without IPv6 has no such table.
            _ => {}
        }
    }
    Ok(false)
}

/// What the network namespace of a process knows a socket as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownSocket {
    /// A unix socket.
    Unix,
    /// One of the internet's protocols.
    Inet,
}

/// Looks for a socket, by inode, among those of the network namespace of a process; `None`: it is of another one, or of
/// another family.
///
/// # Errors
/// When the process is gone.
pub fn known_socket(pid: Pid, inode: u64) -> io::Result<Option<KnownSocket>> {
    // The column of the inode, see proc_net(5).
    let tables = [("unix", 6), ("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("raw", 9), ("raw6", 9)];
    let inode = inode.to_string();
    for (table, column) in tables {
        let file = match fs::File::open(format!("/proc/{pid}/net/{table}")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        // The path of a unix socket may hold any bytes; it comes last.
        for line in io::BufReader::new(file).split(b'\n') {
            let line = line?;
            let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            if words.nth(column) == Some(inode.as_bytes()) {
                return Ok(Some(if table == "unix" { KnownSocket::Unix } else { KnownSocket::Inet }));
            }
        }
    }
    Ok(None)
}

/// The process that this thread is of; nothing when it is gone.
///
/// # Errors
/// When `/proc/THREAD/status` cannot be read, or has no such line (`InvalidData`).
pub fn process_of(thread: i32) -> io::Result<Option<i32>> {
    let text = match read_short(Path::new(&format!("/proc/{thread}/status"))) {
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
            return Ok(None);
        }
        text => text?,
    };
    let text = String::from_utf8_lossy(&text);
    let pid = text.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    pid.map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The memory in bytes that is a process's own and backed by no file, with its page tables.
///
/// # Errors
/// When the process is gone.
pub fn anonymous_memory(pid: Pid) -> io::Result<u64> {
    let text = read_short(format!("/proc/{pid}/status").as_ref())?;
    let text = String::from_utf8_lossy(&text);
    let kilobytes = |line: &str| {
        let rest = line.strip_prefix("RssAnon:").or(line.strip_prefix("VmPTE:"))?;
        rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    Ok(text.lines().filter_map(kilobytes).sum::<u64>() << 10)
}

/// The number that a thread has in its own pid namespace; nothing when it is gone.
///
/// # Errors
/// When `/proc/THREAD/status` cannot be read, or has no such line (`InvalidData`).
pub fn innermost_id(thread: i32) -> io::Result<Option<i32>> {
    let text = match read_short(Path::new(&format!("/proc/{thread}/status"))) {
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
            return Ok(None);
        }
        text => text?,
    };
    let text = String::from_utf8_lossy(&text);
    let ids = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let innermost = ids.and_then(|ids| ids.split_ascii_whitespace().next_back()?.parse().ok());
    innermost.map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The threads of a process; none when it is gone.
///
/// # Errors
/// When they cannot be listed.
pub fn threads(pid: i32) -> io::Result<Vec<i32>> {
    let entries = match fs::read_dir(format!("/proc/{pid}/task")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        match entry {
            // It has ended while it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => break,
            entry => found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok())),
        }
    }
    Ok(found)
}

/// Whether a thread has filters for its system calls (seccomp(2)).
///
/// # Errors
/// When it is gone.
pub fn is_filtered(thread: i32) -> io::Result<bool> {
    let text = read_short(Path::new(&format!("/proc/{thread}/status")))?;
    let text = String::from_utf8_lossy(&text);
    let mode = text.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    Ok(mode.is_some_and(|mode| mode.trim() != "0"))
}

/// The number of the system call that a thread waits in: below zero when it waits in none, nothing while it runs.
///
/// # Errors
/// When it is gone, or is not the caller's to trace.
pub fn waits_in(thread: i32) -> io::Result<Option<i64>> {
    let text = read_short(Path::new(&format!("/proc/{thread}/syscall")))?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.split_ascii_whitespace().next().and_then(|number| number.parse().ok()))
}

/// Who traces a process (ptrace(2)); 0 when nobody does.
///
/// # Errors
/// When it is gone.
pub fn tracer(pid: i32) -> io::Result<i32> {
    let text = read_short(Path::new(&format!("/proc/{pid}/status")))?;
    let text = String::from_utf8_lossy(&text);
    let tracer = text.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer
        .and_then(|tracer| tracer.trim().parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The timer slack of a thread, in nanoseconds.
///
/// # Errors
/// `EPERM` without CAP_SYS_NICE; when the thread is gone.
pub fn timer_slack(thread: i32) -> io::Result<u64> {
    let text = read_short(format!("/proc/{thread}/timerslack_ns").as_ref())?;
    let text = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    text.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// See [`timer_slack`].
///
/// # Errors
/// As there.
pub fn set_timer_slack(thread: i32, nanoseconds: u64) -> io::Result<()> {
    fs::write(format!("/proc/{thread}/timerslack_ns"), nanoseconds.to_string())
}

/// What goes into a core dump of a process (core(5)).
///
/// # Errors
/// When the process is gone, or has no memory (`InvalidData`).
pub fn core_dump_filter(pid: i32) -> io::Result<u32> {
    let text = read_short(format!("/proc/{pid}/coredump_filter").as_ref())?;
    let text = std::str::from_utf8(&text).ok().and_then(|text| u32::from_str_radix(text.trim(), 16).ok());
    text.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// See [`core_dump_filter`].
///
/// # Errors
/// When the process is gone.
pub fn set_core_dump_filter(pid: i32, filter: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/coredump_filter"), format!("{filter:#x}"))
}

/// The processors that are online, as a list: `0-3`.
///
/// # Errors
/// When `/sys` has no such file.
pub fn online_processors() -> io::Result<String> {
    fs::read_to_string("/sys/devices/system/cpu/online").map(|text| text.trim().to_owned())
}

/// `fs.pipe-max-size`, in bytes.
///
/// # Errors
/// When it cannot be read, or is no number (`InvalidData`).
pub fn pipe_max_size() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/sys/fs/pipe-max-size")?;
    text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Memory that processes could get more of, in bytes: `MemAvailable` and `SwapFree` of `/proc/meminfo`.
///
/// # Errors
/// When it cannot be read, or has no such lines (`InvalidData`).
pub fn available_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let sum = bytes("MemAvailable").zip(bytes("SwapFree")).map(|(memory, swap)| memory.saturating_add(swap));
    sum.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The effective capabilities of the calling thread, one bit each (capabilities(7)).
///
/// # Errors
/// When `/proc/thread-self/status` cannot be read, or has no such line (`InvalidData`).
pub fn effective_capabilities() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The version of cgroups that `/sys/fs/cgroup` is of: 2, or 1, also where the other one is mounted somewhere beneath it.
pub fn cgroup_version() -> u32 {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 2 } else { 1 }
}

/// The release of the running kernel, as `uname -r`.
pub fn kernel_release() -> io::Result<String> {
    Ok(nix::sys::utsname::uname()?.release().to_string_lossy().into_owned())
}

/// What tells this boot of the machine from all others.
pub fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim_end().to_owned())
}

/// The features of the first processor, as `/proc/cpuinfo` names them.
pub fn cpu_features() -> io::Result<Vec<String>> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    Ok(parse_cpu_features(&text, super::arch::CPU_FEATURES_KEY))
}

fn parse_cpu_features(text: &str, key: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, list)| list.split_ascii_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let line = b"42 (a) Z 1 (x) R 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 0 0\n";
        assert_eq!(
            Stat::parse(line),
            Some(Stat { state: b'R', parent: 7, start_time: 987_654, flags: 4_194_560 })
        );
        assert_eq!(Stat::parse(b"42 (a"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn this_process_is_alive() {
        let stat = Stat::of(Pid::this()).expect("this process has an entry");
        assert!(!stat.ended());
        assert!(stat.start_time > 0);
    }

    #[test]
    fn threads_have_numbers_in_their_own_namespace() {
        let pid = std::process::id().cast_signed();
        assert!(threads(pid).expect("our own").contains(&pid));
        assert_eq!(threads(i32::MAX).expect("no error"), Vec::<i32>::new());
        assert!(innermost_id(pid).expect("our own").is_some());
        assert_eq!(innermost_id(i32::MAX).expect("no error"), None);
    }

    #[test]
    fn memory_of_its_own_counts() {
        let before = anonymous_memory(Pid::this()).expect("our own");
        let more = std::hint::black_box(vec![1_u8; 8 << 20]);
        let after = anonymous_memory(Pid::this()).expect("our own");
        assert!(before > 0 && after >= before + (4 << 20), "{before} {after} {}", more.len());
    }

    #[test]
    fn a_command_line_is_read_up_to_a_length() {
        let own = command_line(Pid::this(), 1 << 16).expect("our own");
        assert!(own.ends_with(&[0]));
        assert_eq!(command_line(Pid::this(), 3).expect("our own"), own[..3]);
        assert!(command_line(Pid::from_raw(i32::MAX), 3).is_err());
    }

    #[test]
    fn a_process_that_was_stopped_is_known() {
        assert!(!is_stopped_by_signal(Pid::this()).expect("our own"));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("start sleep(1)");
        let pid = Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("kill");
        nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).expect("waitpid");
        // Who may not see what processes wait for reads 0.
        let tells = read_short(Path::new("/proc/self/wchan")).is_ok() && nix::unistd::geteuid().is_root();
        assert!(is_stopped_by_signal(pid).expect("a child of ours") || !tells);
        child.kill().and_then(|()| child.wait()).expect("end it");
    }

    #[test]
    fn a_thread_is_of_its_process() {
        let own = std::thread::spawn(|| process_of(nix::unistd::gettid().as_raw()));
        let own = own.join().expect("the thread ends").expect("read");
        assert_eq!(own, Some(std::process::id() as i32));
        assert_eq!(process_of(i32::MAX).expect("no error"), None);
    }

    #[test]
    fn an_open_file_is_seen_until_it_is_closed() {
        let file = tempfile::tempfile().expect("temporary file");
        let metadata = file.metadata().expect("stat");
        assert!(has_open(Pid::this(), &metadata).expect("our own descriptors"));
        drop(file);
        assert!(!has_open(Pid::this(), &metadata).expect("our own descriptors"));
    }

    #[test]
    fn features_are_those_of_the_first_processor() {
        let text = "processor\t: 0\nflags\t\t: fpu sse2\n\nprocessor\t: 1\nflags\t\t: other\n";
        assert_eq!(parse_cpu_features(text, "flags"), ["fpu", "sse2"]);
    }
}
