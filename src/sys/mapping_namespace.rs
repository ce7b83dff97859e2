// SPDX-License-Identifier: Apache-2.0
//! A user namespace that nobody is in: all that is wanted of it is its mapping, for mount_setattr(2).
//!
//! A namespace lives as long as something refers to it, and only a process can make one. So a child is cloned into a
//! new one, its maps are written, the namespace is opened, and the child ends.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use nix::sched::CloneFlags;

use super::holder::Holder;

/// A range of ids: `size` of them, from `inside` in the namespace and from `outside` in the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub size: u32,
}

/// A user namespace with these maps.
///
/// # Errors
/// That of clone3(2): `ENOSPC` or `EUSERS` over a limit; that of writing the maps: `EINVAL` for ranges that overlap or
/// are too many, `EPERM` without the privilege to map them.
pub fn user_namespace(uids: &[IdRange], gids: &[IdRange]) -> io::Result<OwnedFd> {
    let holder = Holder::start(CloneFlags::CLONE_NEWUSER)?;
    let directory = format!("/proc/{}", holder.pid());
    fs::write(format!("{directory}/uid_map"), text(uids))?;
    fs::write(format!("{directory}/gid_map"), text(gids))?;
    File::open(format!("{directory}/ns/user")).map(OwnedFd::from)
}

/// The lines of `/proc/PID/uid_map` (user_namespaces(7)).
fn text(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut text, IdRange { inside, outside, size }| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{inside} {outside} {size}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT_ONLY: &[IdRange] = &[IdRange { inside: 0, outside: 100_000, size: 10 }];

    #[test]
    fn maps_are_lines() {
        let ranges =
            [IdRange { inside: 0, outside: 1000, size: 1 }, IdRange { inside: 5, outside: 7, size: 9 }];
        assert_eq!(text(&ranges), "0 1000 1\n5 7 9\n");
    }

    #[test]
    fn a_namespace_outlives_the_child_that_made_it() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let namespace = user_namespace(ROOT_ONLY, ROOT_ONLY).expect("a namespace");
        let name = fs::read_link(super::super::fd::proc_path(std::os::fd::AsFd::as_fd(&namespace)))
            .expect("its name");
        assert!(name.to_string_lossy().starts_with("user:["), "{name:?}");
        assert_ne!(name, fs::read_link("/proc/self/ns/user").expect("ours"));
    }

    #[test]
    fn a_bad_map_is_an_error_and_leaves_no_child() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let twice = [ROOT_ONLY[0], ROOT_ONLY[0]];
        let error = user_namespace(&twice, ROOT_ONLY).expect_err("the ranges overlap");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
