// SPDX-License-Identifier: Apache-2.0
//! Images of a container with a user namespace: CRIU reads most of them as the root of that namespace, who is some user
//! of the host. What he may not read is opened to his group, and to nobody else: memory is in there.

use std::os::fd::{AsFd, BorrowedFd};

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fchmod, fstat};
use nix::unistd::{Gid, fchown};

use crate::engine::NewContainer;
use crate::sys::beneath::open_beneath;
use crate::{Context, Error, Result};

/// Makes the images readable for the container's root, if it has one of its own.
pub(in crate::restore) fn share_images(new: &NewContainer, images: BorrowedFd<'_>) -> Result<()> {
    let Some(user) = new.user_namespace() else { return Ok(()) };
    share_directory(images, user.root()?).map_err(|e: Error| {
        Error::new(e.kind(), "open the images to the root of the container's user namespace")
            .with_source(e)
            .with_hint("CRIU reads them as that user: copy them to where they can be given to him")
    })
}

fn share_directory(images: BorrowedFd<'_>, root: (u32, u32)) -> Result<()> {
    share(images, root, [Mode::S_IXUSR, Mode::S_IXGRP, Mode::S_IXOTH]).context(|| "the directory")?;
    let mut directory = Dir::openat(images, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| "list the directory")?;
    for entry in directory.iter() {
        let entry = entry.context(|| "list the directory")?;
        let name = entry.file_name();
        if !name.to_bytes().ends_with(b".img") {
            continue;
        }
        let attempt = || name.to_string_lossy().into_owned();
        // Who put a fifo here shall not make us wait.
        let file = open_beneath(images, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())
            .context(attempt)?;
        share(file.as_fd(), root, [Mode::S_IRUSR, Mode::S_IRGRP, Mode::S_IROTH]).context(attempt)?;
    }
    Ok(())
}

/// Gives the group one right, unless the user has it: as owner, as member of the group, or as anybody.
fn share(file: BorrowedFd<'_>, (uid, gid): (u32, u32), rights: [Mode; 3]) -> Result<()> {
    let status = fstat(file).context(|| "fstat")?;
    let mode = Mode::from_bits_truncate(status.st_mode & !SFlag::S_IFMT.bits());
    let [owner, group, others] = rights;
    let needed = if status.st_uid == uid {
        owner
    } else if status.st_gid == gid {
        group
    } else {
        others
    };
    if mode.contains(needed) {
        return Ok(());
    }
    // In this order: the new group gets what it shall have, not what the old one had.
    fchmod(file, mode - Mode::S_IRWXG).context(|| "fchmod")?;
    fchown(file, None, Some(Gid::from_raw(gid))).context(|| format!("fchown to the group {gid}"))?;
    fchmod(file, (mode - Mode::S_IRWXG) | group).context(|| "fchmod")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    use super::*;

    #[test]
    fn only_what_is_closed_is_opened_and_only_to_the_group() {
        assert!(nix::unistd::geteuid().is_root(), "giving files away needs root");
        let directory = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| directory.path().join(name);
        for (name, mode) in
            [("a.img", 0o600), ("b.img", 0o644), ("c.img", 0o400), ("d.img", 0o660), ("log", 0o600)]
        {
            fs::write(path(name), "x").expect("write");
            fs::set_permissions(path(name), Permissions::from_mode(mode)).expect("chmod");
        }
        fs::set_permissions(path(""), Permissions::from_mode(0o700)).expect("chmod");
        chown(path("c.img"), Some(1000), None).expect("chown");
        let images = File::open(directory.path()).expect("open");
        share_directory(images.as_fd(), (1000, 2000)).expect("share");
        let seen = |name: &str| {
            let found = fs::metadata(path(name)).expect("stat");
            (found.mode() & 0o777, found.uid(), found.gid())
        };
        assert_eq!(seen(""), (0o710, 0, 2000));
        assert_eq!(seen("a.img"), (0o640, 0, 2000));
        assert_eq!(seen("b.img"), (0o644, 0, 0), "everybody reads it as it is");
        assert_eq!(seen("c.img"), (0o400, 1000, 0), "it is the user's own");
        assert_eq!(seen("d.img"), (0o640, 0, 2000), "the new group does not write");
        assert_eq!(seen("log"), (0o600, 0, 0));
    }
}
