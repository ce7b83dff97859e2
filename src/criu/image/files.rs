// SPDX-License-Identifier: Apache-2.0
//! Open files and the descriptors that lead to them.
//!
//! ```text
//! fdinfo-ID.img  a table: descriptor ─▶ number of a file        (processes may share a table, descriptors a file)
//! files.img      number ─▶ what it is
//! memfd.img      names of files in memory
//! ```

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use super::proto::criu_images::{FdinfoEntry, FileEntry, MemfdInodeEntry};
use super::sockets::Socket;
use super::{Image, ImageFile, Kind};
use crate::Result;

/// A descriptor in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub number: u32,
    /// The file's number.
    pub file: u32,
    /// Whether it is closed when a program is executed.
    pub close_on_exec: bool,
}

/// An open file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// What it is.
    pub kind: FileKind,
    /// Its flags, as of open(2), if they are known here.
    pub flags: Option<u32>,
    /// Where it is read or written next.
    pub position: Option<u64>,
}

/// What an open file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A file with a path: regular, directory or device.
    Path {
        /// The path in the container.
        path: Vec<u8>,
        /// Type and permissions, as of stat(2).
        mode: Option<u32>,
        /// Its size.
        size: Option<u64>,
        /// Whether a restore must be given it.
        external: bool,
    },
    /// An end of a pipe, by the pipe's number.
    Pipe(u32),
    /// A fifo: the pipe's number, and the file with its path.
    Fifo(u32, Option<u32>),
    /// A socket.
    Socket(Socket),
    /// A terminal, by its number.
    Terminal(u32),
    /// A file in memory, by its number.
    MemoryFile(u64),
    /// A namespace: `mnt`, `net` …
    Namespace(&'static str),
    /// Something without a name: `eventfd`, `epoll`, `inotify`, `signalfd`, `timerfd`, `fanotify`, `tun`, `external` …
    Nameless(&'static str),
}

/// Reads `fdinfo-ID.img`.
///
/// # Errors
/// `InvalidArchive` if it is damaged.
pub fn descriptors(bytes: &[u8]) -> Result<Vec<Descriptor>> {
    let entries = Image::read(bytes, Kind::Descriptors)?.list::<FdinfoEntry>()?;
    let descriptor = |entry: FdinfoEntry| Descriptor {
        number: entry.fd.unwrap_or(0),
        file: entry.id.unwrap_or(0),
        close_on_exec: entry.flags.unwrap_or(0) & 1 != 0,
    };
    Ok(entries.into_iter().map(descriptor).collect())
}

/// Reads `files.img`. Of several files with one number the first counts.
///
/// # Errors
/// `InvalidArchive` if it is damaged.
pub fn open_files(bytes: &[u8]) -> Result<BTreeMap<u32, OpenFile>> {
    let mut files = BTreeMap::new();
    for entry in Image::read(bytes, Kind::Files)?.list::<FileEntry>()? {
        files.entry(entry.id.unwrap_or(0)).or_insert_with(|| open_file(entry));
    }
    Ok(files)
}

/// A file from outside that a restore must be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideFile {
    /// What CRIU calls it: `file[MOUNT:INODE]`, in hexadecimal.
    pub name: Vec<u8>,
    /// Type and permissions, as of stat(2).
    pub mode: u32,
    /// Bytes that were in it.
    pub size: u64,
}

/// The files from outside of which the images in a directory tell.
///
/// # Errors
/// `InvalidArchive` if `files.img` is damaged; that it cannot be read.
pub fn files_from_outside(images: BorrowedFd<'_>) -> Result<Vec<OutsideFile>> {
    let Some(mut image) = ImageFile::open(images, "files.img", Kind::Files)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    while let Some(entry) = image.next::<FileEntry>()? {
        if let OpenFile {
            kind: FileKind::Path { path: name, mode: Some(mode), size: Some(size), external: true },
            ..
        } = open_file(entry)
        {
            found.push(OutsideFile { name, mode, size });
        }
    }
    Ok(found)
}

/// Reads `memfd.img`: number → name.
///
/// # Errors
/// `InvalidArchive` if it is damaged.
pub fn memory_file_names(bytes: &[u8]) -> Result<BTreeMap<u64, Vec<u8>>> {
    let entries = Image::read(bytes, Kind::MemoryFiles)?.list::<MemfdInodeEntry>()?;
    let names =
        entries.into_iter().map(|entry| (entry.inode_id.unwrap_or(0), entry.name.unwrap_or_default()));
    Ok(names.collect())
}

fn open_file(entry: FileEntry) -> OpenFile {
    let file = |kind, flags| OpenFile { kind, flags, position: None };
    if let Some(reg) = entry.reg.into_option() {
        let (mode, size, external) = (reg.mode, reg.size, reg.ext.unwrap_or(false));
        let kind = FileKind::Path { path: reg.name.unwrap_or_default(), mode, size, external };
        return OpenFile { kind, flags: reg.flags, position: reg.pos };
    }
    if let Some(memory) = entry.memfd.into_option() {
        let kind = FileKind::MemoryFile(memory.inode_id.unwrap_or(0));
        return OpenFile { kind, flags: memory.flags, position: memory.pos };
    }
    if let Some(socket) = entry.isk.as_ref() {
        return file(FileKind::Socket(Socket::inet(socket)), socket.flags);
    }
    if let Some(socket) = entry.usk.as_ref() {
        return file(FileKind::Socket(Socket::unix(socket)), socket.flags);
    }
    if let Some(socket) = entry.nlsk.as_ref() {
        return file(FileKind::Socket(Socket::netlink(socket)), socket.flags);
    }
    if let Some(socket) = entry.psk.as_ref() {
        return file(FileKind::Socket(Socket::packet(socket)), socket.flags);
    }
    if let Some(pipe) = entry.pipe.as_ref() {
        return file(FileKind::Pipe(pipe.pipe_id.unwrap_or(0)), pipe.flags);
    }
    if let Some(fifo) = entry.fifo.as_ref() {
        return file(FileKind::Fifo(fifo.pipe_id.unwrap_or(0), fifo.regf_id), None);
    }
    if let Some(terminal) = entry.tty.as_ref() {
        return file(FileKind::Terminal(terminal.tty_info_id.unwrap_or(0)), terminal.flags);
    }
    if let Some(namespace) = entry.nsf.as_ref() {
        return file(FileKind::Namespace(namespace_kind(namespace.ns_cflag)), namespace.flags);
    }
    let nameless = [
        ("eventfd", entry.efd.as_ref()),
        ("epoll", entry.epfd.as_ref()),
        ("signalfd", entry.sgfd.as_ref()),
        ("tun", entry.tunf.as_ref()),
        ("timerfd", entry.tfd.as_ref()),
        ("inotify", entry.ify.as_ref()),
        ("fanotify", entry.ffy.as_ref()),
    ];
    if let Some((name, flags)) = nameless.iter().find_map(|(name, flags)| Some((name, (*flags)?))) {
        return file(FileKind::Nameless(name), flags.flags);
    }
    let name = match entry.type_ {
        Some(16) => "external",
        Some(19) => "bpfmap",
        Some(20) => "pidfd",
        _ => "unknown",
    };
    file(FileKind::Nameless(name), None)
}

fn namespace_kind(flag: Option<u32>) -> &'static str {
    match flag {
        Some(0x0002_0000) => "mnt",
        Some(0x0200_0000) => "cgroup",
        Some(0x0400_0000) => "uts",
        Some(0x0800_0000) => "ipc",
        Some(0x1000_0000) => "user",
        Some(0x2000_0000) => "pid",
        Some(0x4000_0000) => "net",
        Some(0x0000_0080) => "time",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::super::sockets::Address;
    use super::super::written;
    use super::*;

    /// A message in field `number` (below 16).
    fn field(number: u8, message: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(message.len()).expect("short")], message].concat()
    }

    fn first(bytes: &[u8]) -> OpenFile {
        open_files(&written(Kind::Files, &[bytes])).expect("good").remove(&7).expect("number 7")
    }

    #[test]
    fn descriptors_lead_to_files() {
        let image = written(Kind::Descriptors, &[&[8, 7, 16, 1, 24, 1, 32, 3], &[8, 7, 32, 4]]);
        let [one, two] = descriptors(&image).expect("good")[..] else { panic!("two") };
        assert_eq!(one, Descriptor { number: 3, file: 7, close_on_exec: true });
        assert_eq!(two, Descriptor { number: 4, file: 7, close_on_exec: false });
        let reg = field(3, &[&[8, 7, 16, 2, 24, 9][..], &field(6, b"/a")].concat());
        let file = first(&[&[8, 1, 16, 7][..], &reg].concat());
        assert_eq!((file.flags, file.position), (Some(2), Some(9)));
        let kind = FileKind::Path { path: b"/a".to_vec(), mode: None, size: None, external: false };
        assert_eq!(file.kind, kind);
        assert_eq!(first(&[8, 99, 16, 7]).kind, FileKind::Nameless("unknown"));
        assert_eq!(first(&[8, 6, 16, 7, 0x42, 2, 16, 2]).kind, FileKind::Nameless("eventfd"));
    }

    #[test]
    fn sockets_say_where_they_are() {
        // 127.0.0.1:80 listening, stream, tcp.
        let inet = [8, 7, 16, 5, 24, 2, 32, 1, 40, 6, 48, 10, 56, 80, 64, 0, 88, 0xff, 0x80, 0x80, 8, 96, 0];
        let FileKind::Socket(socket) = first(&[&[16, 7][..], &field(4, &inet)].concat()).kind else {
            panic!("a socket")
        };
        assert_eq!(
            (socket.family, socket.kind, &socket.protocol[..], socket.state),
            ("inet", "stream", "tcp", "listen")
        );
        let local = Address::Internet("127.0.0.1:80".parse().expect("an address"));
        assert_eq!((socket.local, socket.remote), (Some(local), None));
        for (name, expected) in [
            (&b"\0abc"[..], Some(Address::Abstract(b"abc".to_vec()))),
            (b"/run/s\0", Some(Address::Path(b"/run/s".to_vec()))),
            (b"", None),
        ] {
            let unix = [&[16, 5, 24, 1, 32, 1, 64, 6][..], &field(11, name)].concat();
            let message = [&[16, 7, 0x82, 1, u8::try_from(unix.len()).expect("short")][..], &unix].concat();
            let FileKind::Socket(socket) = first(&message).kind else { panic!("a socket") };
            assert_eq!((socket.family, socket.peer, socket.local), ("unix", Some(6), expected));
        }
    }

    #[test]
    fn more_messages_than_anything_has_are_refused() {
        let mut image = written(Kind::Descriptors, &[]);
        image.resize(image.len() + 4 * (super::super::MOST + 1), 0);
        assert!(descriptors(&image).expect_err("too many").to_string().contains("too many messages"));
    }
}
