// SPDX-License-Identifier: Apache-2.0
//! The cgroup mounts of a mount table. Pure: text of `/proc/PID/mountinfo` in, visible cgroup mounts out.
//!
//! Must not know which of them will be used.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One visible mount of type `cgroup` or `cgroup2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CgroupFsMount {
    /// `cgroup2`, not `cgroup`.
    pub(super) unified: bool,
    /// The directory of the hierarchy that the mount shows (fourth field).
    pub(super) root: PathBuf,
    /// Where it is mounted.
    pub(super) mountpoint: PathBuf,
    /// The options of the superblock: for v1 among them the controllers or `name=…`.
    pub(super) options: Vec<String>,
}

struct Line {
    id: u64,
    parent: u64,
    mountpoint: PathBuf,
    cgroup: Option<CgroupFsMount>,
}

/// The cgroup mounts that a path lookup reaches, in the order of the table; overmounted ones are left out, as are
/// lines that cannot be read (the kernel writes none).
pub(super) fn cgroup_mounts(mountinfo: &str) -> Vec<CgroupFsMount> {
    let lines: Vec<Line> = mountinfo.lines().filter_map(parse_line).collect();
    let by_id: HashMap<u64, &Line> = lines.iter().map(|line| (line.id, line)).collect();
    let mut children: HashMap<u64, Vec<&Line>> = HashMap::new();
    for line in &lines {
        children.entry(line.parent).or_default().push(line);
    }
    lines
        .iter()
        .filter(|line| line.cgroup.is_some() && is_visible(line, &by_id, &children))
        .filter_map(|line| line.cgroup.clone())
        .collect()
}

/// A mount is reached by its path unless, somewhere on the way, another mount lies on top of the mount that the
/// lookup passes through at that point.
fn is_visible(line: &Line, by_id: &HashMap<u64, &Line>, children: &HashMap<u64, Vec<&Line>>) -> bool {
    let mut walked_to = line.mountpoint.as_path();
    let mut next = None;
    let mut current = line;
    for _ in 0..=by_id.len() {
        let hidden = children.get(&current.id).is_some_and(|mounted| {
            mounted
                .iter()
                .any(|m| Some(m.id) != next && m.id != current.id && walked_to.starts_with(&m.mountpoint))
        });
        if hidden {
            return false;
        }
        let Some(parent) = by_id.get(&current.parent).filter(|parent| parent.id != current.id) else {
            return true;
        };
        walked_to = current.mountpoint.as_path();
        next = Some(current.id);
        current = parent;
    }
    false
}

fn parse_line(line: &str) -> Option<Line> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let id = left.next()?.parse().ok()?;
    let parent = left.next()?.parse().ok()?;
    let root = unescape(left.nth(1)?);
    let mountpoint = unescape(left.next()?);
    let mut right = right.split(' ');
    let unified = match right.next()? {
        "cgroup" => Some(false),
        "cgroup2" => Some(true),
        _ => None,
    };
    let options = right.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect();
    let cgroup =
        unified.map(|unified| CgroupFsMount { unified, root, mountpoint: mountpoint.clone(), options });
    Some(Line { id, parent, mountpoint, cgroup })
}

/// Undoes the kernel's octal escapes (`\040` for a space), proc_pid_mountinfo(5).
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = code {
            plain.push(byte);
            rest = &tail[3..];
        } else {
            plain.push(first);
            rest = tail;
        }
    }
    Path::new(&OsString::from_vec(plain)).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(table: &str) -> Vec<String> {
        cgroup_mounts(table).iter().map(|m| m.mountpoint.display().to_string()).collect()
    }

    #[test]
    fn a_mount_is_listed_only_if_its_path_leads_to_it() {
        let base = "1 0 8:1 / / rw - ext4 /dev/vda rw\n\
                    2 1 0:20 / /sys rw - sysfs sysfs rw\n\
                    3 2 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    4 3 0:29 / /sys/fs/cgroup/cpu rw,nosuid shared:9 - cgroup cgroup rw,cpu\n";
        let with = |line: &str| points(&format!("{base}{line}"));
        assert_eq!(with(""), ["/sys/fs/cgroup/cpu"]);
        // Stacked on the same mount point: the upper one.
        assert_eq!(with("5 4 0:40 / /sys/fs/cgroup/cpu rw - cgroup2 none rw\n"), ["/sys/fs/cgroup/cpu"]);
        assert!(
            cgroup_mounts(&format!("{base}5 4 0:40 / /sys/fs/cgroup/cpu rw - cgroup2 none rw\n"))[0].unified
        );
        // A tmpfs over the tmpfs, over sysfs, over a directory in between, over the root.
        assert!(with("5 3 0:40 / /sys/fs/cgroup rw - tmpfs none rw\n").is_empty());
        assert!(with("5 2 0:40 / /sys rw - tmpfs none rw\n").is_empty());
        assert!(with("5 2 0:40 / /sys/fs rw - tmpfs none rw\n").is_empty());
        assert!(with("5 1 0:40 / / rw - tmpfs none rw\n").is_empty());
        // Beneath sysfs since before it was mounted: hidden itself, hides nothing. A sibling hides nothing.
        assert_eq!(with("5 1 0:40 / /sys/fs rw - tmpfs none rw\n"), ["/sys/fs/cgroup/cpu"]);
        assert_eq!(with("5 3 0:40 / /sys/fs/cgroup/cpuset rw - tmpfs none rw\n"), ["/sys/fs/cgroup/cpu"]);
    }

    #[test]
    fn escaped_characters_are_restored() {
        let mounts = cgroup_mounts("4 3 0:29 /a\\134b /m/with\\040space rw - cgroup cgroup rw,name=x\n");
        assert_eq!(mounts[0].mountpoint, Path::new("/m/with space"));
        assert_eq!(mounts[0].root, Path::new("/a\\b"));
    }

    #[test]
    fn damaged_lines_are_passed_over() {
        assert!(
            cgroup_mounts("\n1\n1 2 3\nx y 0:1 / / rw - cgroup c rw\n1 2 0:1 / /x rw cgroup c rw").is_empty()
        );
    }
}
