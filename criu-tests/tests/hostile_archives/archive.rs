// SPDX-License-Identifier: Apache-2.0
//! Archives that are made wrong on purpose: a real one taken apart into its members, changed, and put together again with
//! an index that is right for what it has become.

use std::fs;

use criu_tests::{Host, Stage};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const BLOCK: usize = 512;
const INDEX: &str = "migrate.index";

/// Types of tar entries.
pub(crate) const FILE: u8 = b'0';
pub(crate) const HARD_LINK: u8 = b'1';
pub(crate) const SYMLINK: u8 = b'2';
pub(crate) const CHARACTER: u8 = b'3';
pub(crate) const BLOCK_DEVICE: u8 = b'4';
pub(crate) const DIRECTORY: u8 = b'5';
pub(crate) const FIFO: u8 = b'6';
pub(crate) const GLOBAL: u8 = b'g';
pub(crate) const RECORDS: u8 = b'x';
pub(crate) const GNU_LONG_NAME: u8 = b'L';
pub(crate) const GNU_SPARSE: u8 = b'S';

/// One entry of a tar, right or wrong.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) data: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) device: (u32, u32),
    /// The size field, if it is not that of the data.
    pub(crate) size: Option<[u8; 12]>,
    /// A checksum that is not right.
    pub(crate) bad_checksum: bool,
}

impl Entry {
    pub(crate) fn new(name: &str, kind: u8, data: &[u8]) -> Self {
        let mode = if kind == DIRECTORY { 0o755 } else { 0o644 };
        Self {
            name: name.into(),
            kind,
            data: data.into(),
            link: Vec::new(),
            mode,
            device: (0, 0),
            size: None,
            bad_checksum: false,
        }
    }

    pub(crate) fn file(name: &str, data: &[u8]) -> Self {
        Self::new(name, FILE, data)
    }

    pub(crate) fn directory(name: &str) -> Self {
        Self::new(name, DIRECTORY, b"")
    }

    pub(crate) fn link(name: &str, kind: u8, target: &str) -> Self {
        Self { link: target.into(), ..Self::new(name, kind, b"") }
    }

    pub(crate) fn device(name: &str, kind: u8, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..Self::new(name, kind, b"") }
    }

    /// A pax record of the entry that follows.
    pub(crate) fn record(key: &str, value: &[u8]) -> Self {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let length = (rest.len()..).find(|n| n.to_string().len() + rest.len() == *n).expect("there is one");
        Self::new("records", RECORDS, &[length.to_string().as_bytes(), &rest].concat())
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{:011o}", self.data.len()).as_bytes());
        if let Some(size) = self.size {
            put(124, &size);
        }
        put(136, b"00000000000");
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, &self.link);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", self.device.0).as_bytes());
        put(337, format!("{:07o}", self.device.1).as_bytes());
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        let sum = sum + u32::from(self.bad_checksum);
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.data);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }

    /// Whether the index has it: what only describes the next entry is none.
    fn is_member(&self) -> bool {
        ![RECORDS, GLOBAL, GNU_LONG_NAME].contains(&self.kind)
    }
}

/// A tar of these entries with its end.
pub(crate) fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    entries.iter().for_each(|entry| entry.write(&mut out));
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

/// An archive without its index.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    pub(crate) members: Vec<Entry>,
}

impl Archive {
    /// Takes an archive apart.
    pub(crate) fn read(host: &Host, path: &str) -> Self {
        let plain = host.path("taken-apart.tar");
        host.command(&["zstd", "-q", "-d", "-f", path, "-o", &plain]).run().succeeded();
        let bytes = fs::read(&plain).expect("read the archive");
        fs::remove_file(&plain).expect("unlink");
        let (mut members, mut at) = (Vec::new(), 0);
        while bytes[at] != 0 {
            let header = &bytes[at..at + BLOCK];
            let text = |from: usize, length: usize| {
                let field = &header[from..from + length];
                let end = field.iter().position(|byte| *byte == 0).unwrap_or(length);
                String::from_utf8(field[..end].to_vec()).expect("our own archives are text here")
            };
            let size = usize::from_str_radix(text(124, 12).trim(), 8).expect("a size");
            let data = &bytes[at + BLOCK..at + BLOCK + size];
            members.push(Entry::new(&text(0, 100), header[156], data));
            at += BLOCK + size.next_multiple_of(BLOCK);
        }
        members.retain(|member| member.name != INDEX.as_bytes());
        Self { members }
    }

    /// The member of this name.
    pub(crate) fn member(&mut self, name: &str) -> &mut Entry {
        let found = self.members.iter_mut().find(|member| member.name == name.as_bytes());
        found.unwrap_or_else(|| panic!("the archive has no member {name}"))
    }

    /// Where it is.
    pub(crate) fn position(&self, name: &str) -> usize {
        let found = self.members.iter().position(|member| member.name == name.as_bytes());
        found.unwrap_or_else(|| panic!("the archive has no member {name}"))
    }

    /// The same with these entries as its root filesystem.
    pub(crate) fn with_root(&self, entries: &[Entry]) -> Self {
        let mut new = self.clone();
        new.root().data = tar(&[&[Entry::directory("./")], entries].concat());
        new
    }

    /// The member that is the root filesystem.
    pub(crate) fn root(&mut self) -> &mut Entry {
        let is_root = |name: &[u8]| name.starts_with(b"rootfs") && name.ends_with(b".tar");
        let found = self.members.iter_mut().find(|member| is_root(&member.name));
        found.expect("the archive has a root filesystem")
    }

    /// Puts an entry behind the directory of images.
    pub(crate) fn image(&mut self, entry: Entry) {
        let at = self.position("checkpoint/") + 1;
        self.members.insert(at, entry);
    }

    /// Changes a member that is JSON.
    pub(crate) fn json(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let member = self.member(name);
        let mut value = serde_json::from_slice(&member.data).expect("it is JSON");
        change(&mut value);
        member.data = value.to_string().into_bytes();
    }

    /// The right index.
    pub(crate) fn index(&self) -> Value {
        let (mut offset, mut bytes, mut members) = (0, 0, Vec::new());
        for member in &self.members {
            offset += BLOCK;
            if member.is_member() {
                let digest: String =
                    Sha256::digest(&member.data).iter().map(|byte| format!("{byte:02x}")).collect();
                let name = String::from_utf8_lossy(&member.name);
                members.push(
                    json!({"name": name, "size": member.data.len(), "offset": offset, "sha256": digest}),
                );
                bytes += member.data.len();
            }
            offset += member.data.len().next_multiple_of(BLOCK);
        }
        json!({"schema": 1, "total": {"members": members.len(), "bytes": bytes}, "members": members})
    }

    /// The whole archive, uncompressed, with its right index.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.with_index(self.index().to_string().as_bytes())
    }

    /// With something else as its index.
    pub(crate) fn with_index(&self, index: &[u8]) -> Vec<u8> {
        tar(&[&self.members[..], &[Entry::file(INDEX, index)]].concat())
    }
}

/// A real archive of a small container, without its root filesystem's content, which nobody comes to look at.
pub(crate) fn taken_apart(stage: &Stage, host: &Host) -> Archive {
    let (_bundle, container) = host.run_small(&stage.id("small"));
    let path = stage.path("whole.tar");
    container.checkpoint(&["--export", &path]);
    Archive::read(host, &path)
}
