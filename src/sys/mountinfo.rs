// SPDX-License-Identifier: Apache-2.0
//! Reads mountinfo, the table of a mount namespace's mounts: proc_pid_mountinfo(5).
//!
//! Owns the format. Must not know what a container does with its mounts. Reading the table costs time in the
//! number of the host's mounts, so the path from `create` to the container's first instruction does without.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Identity of the mount, unique among those that exist.
    pub id: u64,
    /// Identity of the mount that this one lies on.
    pub parent: u64,
    /// The filesystem's device, as `major:minor`.
    pub device: String,
    /// Which directory or file of the filesystem is mounted; `/` for all of it.
    pub root: PathBuf,
    /// Where it is mounted, as seen from the reader's root.
    pub mount_point: PathBuf,
    /// Per-mount options, comma separated, such as `rw,nosuid,relatime`.
    pub options: String,
    /// Propagation, such as `shared:1` and `master:2`; empty for a private mount.
    pub propagation: Vec<String>,
    /// Type of the filesystem, such as `tmpfs`.
    pub fstype: String,
    /// What is mounted: a device or a word.
    pub source: PathBuf,
    /// Options of the filesystem, comma separated, such as `rw,size=64k`.
    pub super_options: String,
}

impl MountInfo {
    /// Whether the per-mount options hold this word.
    pub fn has_option(&self, word: &str) -> bool {
        self.options.split(',').any(|option| option == word)
    }
}

/// Reads the table of the calling thread's mount namespace, in the kernel's order (parents before children).
///
/// # Errors
/// When `/proc/thread-self/mountinfo` cannot be read, or holds a line that is not in the format
/// (`InvalidData`).
pub fn read() -> io::Result<Vec<MountInfo>> {
    parse(&super::proc::read_short(Path::new("/proc/thread-self/mountinfo"))?)
}

/// Parses the table's text.
///
/// # Errors
/// `InvalidData`, quoting the first line that is not in the format.
pub fn parse(text: &[u8]) -> io::Result<Vec<MountInfo>> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("malformed mountinfo line {:?}", String::from_utf8_lossy(line)),
                )
            })
        })
        .collect()
}

fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?).parse().ok()?;
    let parent = text(fields.next()?).parse().ok()?;
    let device = text(fields.next()?);
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let options = text(fields.next()?);
    let propagation = fields.by_ref().take_while(|field| *field != b"-").map(text).collect();
    let fstype = text(fields.next()?);
    let source = path(fields.next()?);
    let super_options = text(fields.next()?);
    Some(MountInfo {
        id,
        parent,
        device,
        root,
        mount_point,
        options,
        propagation,
        fstype,
        source,
        super_options,
    })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// A part of a filesystem's options as it is, without the kernel's escapes.
pub fn unescaped(part: &str) -> PathBuf {
    path(part.as_bytes())
}

/// The kernel writes space, tab, newline and backslash in paths as three octal digits after a backslash.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = if first == b'\\' { tail.get(..3).and_then(octal) } else { None };
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_and_without_optional_fields() {
        let table =
            b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
                      22 27 0:21 / /proc rw,relatime - proc proc rw\n";
        let mounts = parse(table).expect("both lines are in the format");
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].mount_point, Path::new("/mnt 2"));
        assert_eq!(mounts[0].root, Path::new("/mnt1"));
        assert_eq!(mounts[0].propagation, ["master:1", "shared:7"]);
        assert!(mounts[0].has_option("noatime") && !mounts[0].has_option("atime"));
        assert_eq!((mounts[1].id, mounts[1].parent), (22, 27));
        assert!(mounts[1].propagation.is_empty());
        assert_eq!(mounts[1].fstype, "proc");
    }

    #[test]
    fn a_damaged_line_is_quoted() {
        for line in ["36 35 98:0 /\n", "x 35 98:0 / / rw - a b c\n", "36 35 98:0 / / rw shared:1\n"] {
            let error = parse(line.as_bytes()).expect_err("the line is damaged");
            assert!(error.to_string().contains(line.trim_end()), "{error}");
        }
    }

    #[test]
    fn a_backslash_without_digits_stays() {
        assert_eq!(path(b"/a\\x/\\134b\\"), Path::new("/a\\x/\\b\\"));
    }
}
