// SPDX-License-Identifier: Apache-2.0
//! Owns path resolution that cannot leave a directory: `openat2(2)` beneath a root, or with the root as `/`.
//!
//! For every path that comes from an archive, an image or a peer. Must not know what the path is for.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

/// How often a lookup is repeated when the kernel says that a rename elsewhere disturbed it (`EAGAIN`).
const DISTURBED_LOOKUPS: u32 = 128;

/// Opens `path` beneath `root`: absolute paths, a `..` that leaves `root` and symbolic links anywhere in the
/// path are errors. `O_CLOEXEC` is added. With `O_PATH | O_NOFOLLOW` the last component may be a symbolic link
/// (it is opened, not followed).
///
/// # Errors
/// As `openat2(2)`: `EXDEV` for a path that leaves `root`, `ELOOP` for a symbolic link.
pub fn open_beneath<P: ?Sized + NixPath>(
    root: BorrowedFd<'_>,
    path: &P,
    flags: OFlag,
    mode: Mode,
) -> nix::Result<OwnedFd> {
    let resolve =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    open_with(root, path, flags, mode, resolve)
}

/// [`open_beneath`] that also refuses to enter another mount, a bind mount of the same file system included.
///
/// # Errors
/// As [`open_beneath`]; `EXDEV` for a mount point too.
pub fn open_beneath_same_mount<P: ?Sized + NixPath>(
    root: BorrowedFd<'_>,
    path: &P,
    flags: OFlag,
    mode: Mode,
) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    open_with(root, path, flags, mode, resolve)
}

/// Opens `path` as a process would whose root directory is `root`: symbolic links are followed, absolute ones
/// and `..` stay inside. `O_CLOEXEC` is added; magic links of procfs are refused.
///
/// # Errors
/// As `openat2(2)`.
pub fn open_in_root<P: ?Sized + NixPath>(
    root: BorrowedFd<'_>,
    path: &P,
    flags: OFlag,
    mode: Mode,
) -> nix::Result<OwnedFd> {
    open_with(root, path, flags, mode, ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

fn open_with<P: ?Sized + NixPath>(
    root: BorrowedFd<'_>,
    path: &P,
    flags: OFlag,
    mode: Mode,
    resolve: ResolveFlag,
) -> nix::Result<OwnedFd> {
    // openat2 refuses a mode where no file can be made.
    let mode = if flags.intersects(OFlag::O_CREAT | OFlag::O_TMPFILE) { mode } else { Mode::empty() };
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve);
    let mut disturbed = 0;
    loop {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) if disturbed < DISTURBED_LOOKUPS => disturbed += 1,
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_does_not_leave_the_root() {
        let outer = tempfile::tempdir().expect("a temporary directory");
        let root = outer.path().join("root");
        fs::create_dir_all(root.join("a/b")).expect("mkdir");
        fs::write(outer.path().join("secret"), "x").expect("write");
        fs::write(root.join("secret"), "inside").expect("write");
        symlink("/secret", root.join("absolute")).expect("symlink");
        symlink("../secret", root.join("up")).expect("symlink");
        symlink("b", root.join("a/link")).expect("symlink");
        let fd = fs::File::open(&root).expect("open the root");
        let open = |path: &str| open_beneath(fd.as_fd(), path, OFlag::O_RDONLY, Mode::empty()).map(drop);
        for (path, expected) in [
            ("a/b", Ok(())),
            ("a/../a/b", Ok(())),
            ("../secret", Err(Errno::EXDEV)),
            ("/secret", Err(Errno::EXDEV)),
            ("up", Err(Errno::ELOOP)),
            ("absolute", Err(Errno::ELOOP)),
            ("a/link", Err(Errno::ELOOP)),
            ("missing", Err(Errno::ENOENT)),
        ] {
            assert_eq!(open(path), expected, "{path}");
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        open_beneath(fd.as_fd(), "up", flags, Mode::empty()).expect("a link is opened, not followed");
        for path in ["/secret", "absolute", "up", "../../secret"] {
            let found =
                open_in_root(fd.as_fd(), path, OFlag::O_RDONLY, Mode::empty()).expect("inside the root");
            let text = std::io::read_to_string(fs::File::from(found)).expect("read");
            assert_eq!(text, "inside", "{path}");
        }
    }

    #[test]
    fn a_mount_point_is_not_entered() {
        let root = fs::File::open("/").expect("open /");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        assert_eq!(
            open_beneath_same_mount(root.as_fd(), "proc/self", flags, Mode::empty()).map(drop),
            Err(Errno::EXDEV)
        );
    }
}
