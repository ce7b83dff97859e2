// SPDX-License-Identifier: Apache-2.0
//! The descriptors of running processes, in the words of a report about a checkpoint. Must not know whose they are.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use nix::sys::stat::major;
use nix::unistd::Pid;

use super::processes::{DESCRIPTORS, flags};
use super::report::{OpenDescriptor, SocketReport};
use crate::criu::image::socket_words;
use crate::sys::netlink::{UnixSocket, unix_sockets};
use crate::sys::pidfd;
use crate::sys::proc::{namespace_inode, read_short};
use crate::sys::socket::{Name, SocketFacts, listens, names};

const DELETED: &str = " (deleted)";
/// Majors of terminals: the kernel's, `/dev/tty` and its like, those of devpts.
const TERMINALS: [u64; 10] = [4, 5, 136, 137, 138, 139, 140, 141, 142, 143];

/// What was found out about all of them so far.
pub(super) struct Files {
    init: i32,
    outside: Vec<String>,
    left: usize,
    cut_short: bool,
    /// The unix sockets of each network namespace.
    unix: HashMap<u32, UnixSocket>,
    namespaces: HashSet<u64>,
}

impl Files {
    pub(super) fn new(init: i32, outside: &[String]) -> Self {
        Self {
            init,
            outside: outside.to_vec(),
            left: DESCRIPTORS,
            cut_short: false,
            unix: HashMap::new(),
            namespaces: HashSet::new(),
        }
    }

    pub(super) fn problems(&self) -> Option<String> {
        self.cut_short.then(|| format!("more than {DESCRIPTORS} descriptors are not told"))
    }

    /// Those of a process. One that is closed meanwhile is not there.
    pub(super) fn of(&mut self, pid: i32) -> io::Result<Vec<OpenDescriptor>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if self.left == 0 {
                self.cut_short = true;
                break;
            }
            self.left -= 1;
            found.extend(self.descriptor(pid, number));
        }
        found.sort_unstable_by_key(|open| open.fd);
        Ok(found)
    }

    fn descriptor(&mut self, pid: i32, number: u32) -> Option<OpenDescriptor> {
        let path = format!("/proc/{pid}/fd/{number}");
        let target = fs::read_link(&path).ok()?.to_string_lossy().into_owned();
        let info = read_short(format!("/proc/{pid}/fdinfo/{number}").as_ref()).ok()?;
        let info = String::from_utf8_lossy(&info);
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let bits = field("flags:").and_then(|octal| u32::from_str_radix(octal, 8).ok());
        let mut open = OpenDescriptor {
            fd: number,
            kind: "unknown",
            flags: flags(bits),
            position: None,
            size: None,
            external: pid == self.init && number < 3 && self.outside.contains(&target),
            path: None,
            socket: None,
        };
        if bits.is_some_and(|bits| bits & libc::O_CLOEXEC.cast_unsigned() != 0) {
            open.flags.push("cloexec");
        }
        if target.starts_with("/memfd:") {
            open.kind = "memfd";
            open.position = field("pos:").and_then(|at| at.parse().ok());
            open.path = Some(target.strip_suffix(DELETED).unwrap_or(&target).to_owned());
        } else if target.starts_with('/') {
            // Whoever looks at a file through this has not opened it.
            let metadata = fs::metadata(&path).ok()?;
            let kind = metadata.file_type();
            let device = kind.is_char_device() || kind.is_block_device();
            open.kind = match () {
                () if kind.is_dir() => "directory",
                () if kind.is_fifo() => "fifo",
                () if device && TERMINALS.contains(&major(metadata.rdev())) => "terminal",
                () if device => "device",
                () => "file",
            };
            open.size = kind.is_file().then_some(metadata.len());
            let has_position = matches!(open.kind, "file" | "directory" | "device");
            open.position = field("pos:").filter(|_| has_position).and_then(|at| at.parse().ok());
            open.path = Some(target);
        } else if target.starts_with("socket:") {
            open.kind = "socket";
            open.socket = self.socket(pid, number, &target);
            open.path = Some(target);
        } else if target.starts_with("pipe:") {
            open.kind = "pipe";
            open.path = Some(target);
        } else {
            let (kind, path) = nameless(&target);
            (open.kind, open.path) = (kind, path.map(str::to_owned));
        }
        Some(open)
    }

    fn socket(&mut self, pid: i32, number: u32, target: &str) -> Option<SocketReport> {
        let handle = pidfd::open(Pid::from_raw(pid)).ok()?;
        let copy = pidfd::copy_descriptor(handle.as_fd(), number.try_into().ok()?).ok()?;
        let facts = SocketFacts::of(copy.as_fd()).ok()?;
        let inode = inode(target).unwrap_or(0);
        let peer = match facts.family {
            libc::AF_UNIX => self.peer(pid, inode),
            _ => None,
        };
        Some(report(&copy, facts, inode, peer))
    }

    /// The other end of a unix socket.
    fn peer(&mut self, pid: i32, inode: u32) -> Option<u32> {
        let namespace = namespace_inode(Pid::from_raw(pid), "net").ok()?;
        if self.namespaces.insert(namespace) {
            // Without the kernel's help there is nothing to be said about peers.
            let listed =
                fs::File::open(format!("/proc/{pid}/ns/net")).and_then(|file| unix_sockets(&file)).ok()?;
            self.unix.extend(listed.into_iter().map(|socket| (socket.inode, socket)));
        }
        self.unix.get(&inode)?.peer.filter(|peer| *peer != 0)
    }
}

fn report(socket: &OwnedFd, facts: SocketFacts, inode: u32, peer: Option<u32>) -> SocketReport {
    let (local, remote) = names(socket.as_fd());
    let protocol = facts.protocol.cast_unsigned();
    let is_inet = matches!(facts.family, libc::AF_INET | libc::AF_INET6);
    let is_connected = remote.is_some() || peer.is_some();
    let state = match facts.tcp {
        Some(tcp) => socket_words::state(tcp.state.into()),
        None if listens(socket.as_fd()) => "listen",
        None if is_connected => "established",
        None => "close",
    };
    SocketReport {
        family: socket_words::family(facts.family),
        kind: socket_words::kind(facts.kind.cast_unsigned()),
        protocol: if is_inet { socket_words::protocol(protocol) } else { protocol.to_string() },
        state,
        inode,
        local: local.and_then(shown),
        remote: remote.and_then(shown).filter(|_| facts.family != libc::AF_UNIX),
        peer,
    }
}

fn shown(name: Name) -> Option<String> {
    match name {
        Name::Internet(address) => Some(address.to_string()),
        Name::Path(path) => Some(String::from_utf8_lossy(&path).into_owned()),
        Name::Abstract(name) => Some(format!("@{}", String::from_utf8_lossy(&name))),
        Name::Port(0) | Name::Other => None,
        Name::Port(port) => Some(port.to_string()),
    }
}

fn inode(target: &str) -> Option<u32> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// What has no path: its kind, and what is told of a namespace.
fn nameless(target: &str) -> (&'static str, Option<&str>) {
    const NAMELESS: [(&str, &str); 10] = [
        ("[eventfd]", "eventfd"),
        ("[eventpoll]", "epoll"),
        ("[signalfd]", "signalfd"),
        ("[timerfd]", "timerfd"),
        ("inotify", "inotify"),
        ("[fanotify]", "fanotify"),
        ("[pidfd]", "pidfd"),
        ("[userfaultfd]", "userfaultfd"),
        ("[io_uring]", "io_uring"),
        ("bpf-map", "bpfmap"),
    ];
    if let Some(name) = target.strip_prefix("anon_inode:") {
        let known = NAMELESS.iter().find(|(prefix, _)| name.starts_with(prefix));
        return (known.map_or("unknown", |(_, kind)| kind), None);
    }
    match target.split_once(":[") {
        Some((name, _)) => ("namespace", Some(name)),
        None => ("unknown", None),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn told(fd: &impl AsRawFd) -> OpenDescriptor {
        let own = std::process::id().cast_signed();
        let mut files = Files::new(0, &[]);
        files.descriptor(own, fd.as_raw_fd().cast_unsigned()).expect("it is open")
    }

    #[test]
    fn descriptors_are_told_in_the_words_of_a_checkpoint() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("file");
        fs::write(&path, "12345").expect("write");
        let file = told(&fs::File::open(&path).expect("open"));
        assert_eq!((file.kind, file.size, file.position), ("file", Some(5), Some(0)));
        assert_eq!(file.flags, ["rdonly", "cloexec"]);
        assert_eq!(file.path.as_deref(), path.to_str());
        let (pipe, _writes) = io::pipe().expect("pipe");
        assert_eq!(told(&pipe).kind, "pipe");
        assert_eq!(told(&fs::File::open("/dev/null").expect("open")).kind, "device");
        assert_eq!(told(&fs::File::open(directory.path()).expect("open")).kind, "directory");
        assert_eq!(told(&fs::File::open("/proc/self/ns/net").expect("open")).path.as_deref(), Some("net"));
        assert_eq!(nameless("anon_inode:[eventfd]"), ("eventfd", None));
        assert_eq!(nameless("anon_inode:[something new]"), ("unknown", None));
    }

    #[test]
    fn sockets_say_where_they_are() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let at = listener.local_addr().expect("bound");
        let socket = told(&listener).socket.expect("a socket");
        assert_eq!(
            (socket.family, socket.kind, &socket.protocol[..], socket.state),
            ("inet", "stream", "tcp", "listen")
        );
        assert_eq!((socket.local, socket.remote), (Some(at.to_string()), None));
        let client = std::net::TcpStream::connect(at).expect("connect");
        let socket = told(&client).socket.expect("a socket");
        assert_eq!((socket.state, socket.remote), ("established", Some(at.to_string())));
        let udp = told(&UdpSocket::bind("[::1]:0").expect("bind")).socket.expect("a socket");
        assert_eq!((udp.family, &udp.protocol[..], udp.state), ("inet6", "udp", "close"));
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("s");
        let named = told(&UnixListener::bind(&path).expect("bind")).socket.expect("a socket");
        assert_eq!((named.family, named.state, named.local.as_deref()), ("unix", "listen", path.to_str()));
        let (one, other) = UnixStream::pair().expect("a pair");
        let (one, other) = (told(&one).socket.expect("a socket"), told(&other).socket.expect("a socket"));
        assert_eq!((one.state, one.remote), ("established", None));
        if nix::unistd::geteuid().is_root() {
            assert_eq!(one.peer, Some(other.inode));
        }
    }
}
