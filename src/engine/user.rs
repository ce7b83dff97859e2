// SPDX-License-Identifier: Apache-2.0
//! Users and groups by name, from the `/etc/passwd` and `/etc/group` of a container. What an image may have put there
//! is read as hostile: beneath the container's root, a regular file, up to a limit.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::sys::beneath::open_in_root;
use crate::{Context, Error, ErrorKind, Result};

/// A file larger than this, in bytes, is no passwd(5) that anybody needs.
const LIMIT: u64 = 4 << 20;

/// A user as somebody named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserId {
    /// Its number.
    pub uid: u32,
    /// The number of its group, if one was named or is known.
    pub gid: Option<u32>,
    /// For a user by name without a group: the groups that list it.
    pub additional_gids: Vec<u32>,
}

/// Opens the root directory of a process.
pub(super) fn root_of(pid: i32) -> Result<File> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty()).map(File::from).context(|| format!("open {path}"))
}

/// Reads `USER[:GROUP]`, each a name or a number, in the root file system that `root` is open at.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a name that is not there.
pub(super) fn resolve(text: &str, root: BorrowedFd<'_>) -> Result<UserId> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let gid = group.map(|group| find_group(group, root)).transpose()?;
    if let Ok(uid) = user.parse() {
        return Ok(UserId { uid, gid, additional_gids: Vec::new() });
    }
    let passwd = read(root, "etc/passwd")?;
    let (uid, own_gid) = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[0] == user && !user.is_empty())
        .and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
        .ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("unable to find user {user}: no matching entries in passwd file"),
            )
        })?;
    match gid {
        Some(gid) => Ok(UserId { uid, gid: Some(gid), additional_gids: Vec::new() }),
        None => {
            let groups = read(root, "etc/group").unwrap_or_default();
            Ok(UserId { uid, gid: Some(own_gid), additional_gids: groups_with(&groups, user) })
        }
    }
}

fn find_group(group: &str, root: BorrowedFd<'_>) -> Result<u32> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    read(root, "etc/group")?
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[0] == group)
        .and_then(|fields| fields.get(2)?.parse().ok())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("unable to find group {group}: no matching entries in group file"),
            )
        })
}

/// The fourth field of group(5) lists the members.
fn groups_with(groups: &str, user: &str) -> Vec<u32> {
    groups
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|fields| fields.get(3).is_some_and(|members| members.split(',').any(|member| member == user)))
        .filter_map(|fields| fields.get(2)?.parse().ok())
        .collect()
}

fn read(root: BorrowedFd<'_>, name: &str) -> Result<String> {
    let attempt = || format!("read /{name} of the container");
    // A fifo would make us wait for ever.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::from(open_in_root(root, Path::new(name), flags, Mode::empty()).context(attempt)?);
    let status = file.metadata().context(attempt)?;
    if !status.is_file() || status.size() > LIMIT {
        return Err(Error::new(ErrorKind::InvalidInput, attempt())
            .with_source(std::io::Error::other("it is no regular file of a reasonable size")));
    }
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).context(attempt)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root(passwd: &str, group: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("tempdir");
        fs::create_dir(directory.path().join("etc")).expect("mkdir");
        fs::write(directory.path().join("etc/passwd"), passwd).expect("write");
        fs::write(directory.path().join("etc/group"), group).expect("write");
        directory
    }

    fn find(text: &str, directory: &tempfile::TempDir) -> Result<UserId> {
        resolve(text, File::open(directory.path()).expect("open").as_fd())
    }

    fn user(uid: u32, gid: Option<u32>, additional_gids: &[u32]) -> UserId {
        UserId { uid, gid, additional_gids: additional_gids.to_vec() }
    }

    #[test]
    fn names_and_numbers() {
        let root = root(
            "root:x:0:0:root:/root:/bin/sh\nbroken\nbad:x:y:1::/:\ndaemon:x:1:2::/usr/sbin:\n",
            "root:x:0:\nadm:x:4:syslog,daemon\ntty:x:5:daemon2\nmail:x:8:daemon\n",
        );
        for (text, expected) in [
            ("7", user(7, None, &[])),
            ("7:8", user(7, Some(8), &[])),
            ("daemon", user(1, Some(2), &[4, 8])),
            ("daemon:adm", user(1, Some(4), &[])),
            ("3:adm", user(3, Some(4), &[])),
            ("daemon:", user(1, Some(2), &[4, 8])),
        ] {
            assert_eq!(find(text, &root).expect(text), expected, "{text}");
        }
        for text in ["nobody", "", "bad", "0:nogroup"] {
            assert_eq!(find(text, &root).expect_err(text).kind(), ErrorKind::NotFound, "{text}");
        }
    }

    #[test]
    fn a_link_stays_inside_and_a_fifo_is_refused() {
        let root = root("", "");
        let passwd = root.path().join("etc/passwd");
        fs::remove_file(&passwd).expect("remove");
        symlink("/../../../../../../etc/passwd", &passwd).expect("symlink");
        find("root", &root).expect_err("it leads to itself");
        fs::remove_file(&passwd).expect("remove");
        nix::unistd::mkfifo(&passwd, Mode::S_IRWXU).expect("mkfifo");
        find("root", &root).expect_err("a fifo");
        find("0", &root).expect("no file is needed");
    }
}
