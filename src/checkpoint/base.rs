// SPDX-License-Identifier: Apache-2.0
//! What a root filesystem is compared with, so that only the difference travels: a directory of the caller's, or the lower
//! layers of an overlay, as they are without the upper one. Redirected directories and files without data of their own are
//! the kernel's business in this way: nothing of an upper directory is interpreted here.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};

use super::{ArchiveOptions, ArchivedRootfs};
use crate::archive::BaseTree;
use crate::sys::mount::FilesystemContext;
use crate::sys::mountinfo;
use crate::{Context, Error, ErrorKind, Result};

/// Longest value that a filesystem's option has, with its end.
const OPTION_MAX: usize = 256;

/// Reads the base of a container's root filesystem, if an archive is to hold only the difference.
///
/// # Errors
/// `InvalidInput` for options that do not go together; `Unsupported` if there is no base and it is no overlay.
pub(super) fn read(rootfs: &Path, options: &ArchiveOptions) -> Result<Option<BaseTree>> {
    let base = match (&options.rootfs, &options.rootfs_base) {
        (ArchivedRootfs::Diff | ArchivedRootfs::Auto, Some(named)) => {
            let opened = File::open(named).context(|| format!("open the base {}", named.display()))?;
            OwnedFd::from(opened)
        }
        (ArchivedRootfs::Full | ArchivedRootfs::None, Some(_)) => {
            let message = "a base is only for a difference: --rootfs-base goes with --rootfs diff or auto";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        (ArchivedRootfs::Diff, None) => lower(rootfs)?,
        (_, None) => return Ok(None),
    };
    BaseTree::read(base.as_fd()).context(|| "read the base of the root filesystem").map(Some)
}

/// What the container's root filesystem was before anybody wrote to it.
fn lower(rootfs: &Path) -> Result<OwnedFd> {
    let mounts = mountinfo::read().context(|| "read the table of mounts")?;
    let place = std::fs::canonicalize(rootfs).context(|| format!("resolve {}", rootfs.display()))?;
    let mount = mounts.iter().rev().find(|mount| mount.mount_point == place);
    let overlay = mount.filter(|mount| mount.fstype == "overlay" && mount.root == Path::new("/"));
    let overlay = overlay.ok_or_else(|| {
        let message = format!("{} is no mounted overlay: what it was before is not known", rootfs.display());
        Error::new(ErrorKind::Unsupported, message)
            .with_hint("name what it differs from with --rootfs-base, or take all of it along: --rootfs full")
    })?;
    let layers =
        Layers::parse(&overlay.super_options).ok_or_else(|| not_understood(&overlay.super_options))?;
    layers.open().context(|| format!("open the lower layers of the overlay {}", rootfs.display()))
}

fn not_understood(options: &str) -> Error {
    let message = format!("the overlay's lower layers cannot be told from its options {options}");
    Error::new(ErrorKind::Unsupported, message)
        .with_hint("mount them read-only and name that with --rootfs-base, or take all along: --rootfs full")
}

/// The directory on whose file system writes to a root filesystem end up: that of an overlay is its upper one. `None` if it cannot be
/// told.
///
/// # Errors
/// When the root filesystem or the table of mounts cannot be read.
pub fn written_to(rootfs: &Path) -> Result<Option<File>> {
    let place = std::fs::canonicalize(rootfs).context(|| format!("resolve {}", rootfs.display()))?;
    let root = File::open(&place).context(|| format!("open {}", place.display()))?;
    let look =
        |file: &File| fstatfs(file).context(|| format!("look at the file system of {}", place.display()));
    let found = look(&root)?;
    if found.filesystem_type() != OVERLAYFS_SUPER_MAGIC {
        return Ok(Some(root));
    }
    let mounts = mountinfo::read().context(|| "read the table of mounts")?;
    let above = mounts.iter().filter(|mount| place.starts_with(&mount.mount_point));
    let mount = above.max_by_key(|mount| mount.mount_point.as_os_str().len());
    let upper = mount.and_then(|mount| {
        let upper = mount.super_options.split(',').find_map(|option| option.strip_prefix("upperdir="))?;
        File::open(mountinfo::unescaped(upper)).ok()
    });
    // What has that name may be something else by now, or have had it in another mount namespace: an overlay has the sizes of its upper one.
    let sizes = |found: &nix::sys::statfs::Statfs| (found.blocks(), found.files());
    Ok(upper.filter(|upper| look(upper).is_ok_and(|upper| sizes(&upper) == sizes(&found))))
}

/// The lower layers of an overlay, the uppermost first.
#[derive(Debug, PartialEq, Eq)]
struct Layers {
    paths: Vec<PathBuf>,
    /// Options by which the kernel reads them.
    options: Vec<(&'static str, Option<&'static str>)>,
}

impl Layers {
    /// Reads the options of an overlay. `None` for layers without names of their own, or by names that depend on where
    /// somebody was.
    fn parse(options: &str) -> Option<Self> {
        let mut layers = Self { paths: Vec::new(), options: Vec::new() };
        for option in options.split(',') {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let value = mountinfo::unescaped(value);
            let value = value.to_str()?;
            match key {
                "lowerdir" => layers.paths.extend(split_layers(value)),
                "lowerdir+" => layers.paths.push(PathBuf::from(value)),
                "datadir+" => return None,
                "userxattr" => layers.options.push(("userxattr", None)),
                "metacopy" if value == "on" => layers.options.push(("metacopy", Some("on"))),
                "redirect_dir" if value != "nofollow" && value != "off" => {
                    layers.options.push(("redirect_dir", Some("follow")));
                }
                _ => {}
            }
        }
        let known = !layers.paths.is_empty() && layers.paths.iter().all(|path| path.is_absolute());
        known.then_some(layers)
    }

    /// Opens them as one tree.
    fn open(&self) -> Result<OwnedFd> {
        if let [only] = &self.paths[..] {
            return File::open(only).map(OwnedFd::from).context(|| format!("open {}", only.display()));
        }
        let overlay = FilesystemContext::open("overlay").context(|| "configure an overlay")?;
        let told = |overlay: &FilesystemContext| overlay.message().unwrap_or_default();
        for (key, value) in &self.options {
            let set = value.map_or_else(|| overlay.set_flag(key), |value| overlay.set_string(key, value));
            set.context(|| format!("set the overlay's option {key}"))?;
        }
        self.name(&overlay).context(|| format!("name the overlay's layers: {}", told(&overlay)))?;
        overlay.mount(0).context(|| format!("mount an overlay: {}", told(&overlay)))
    }

    /// Names them, one after the other where the kernel takes that (Linux 6.5), else in a single value, which is short.
    fn name(&self, overlay: &FilesystemContext) -> nix::Result<()> {
        let mut paths = self.paths.iter().filter_map(|path| path.to_str());
        if let Some(first) = paths.next()
            && overlay.set_string("lowerdir+", first).is_ok()
        {
            return paths.try_for_each(|path| overlay.set_string("lowerdir+", path));
        }
        let escaped = |path: &PathBuf| path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
        let all = self.paths.iter().map(escaped).collect::<Vec<_>>().join(":");
        if all.len() >= OPTION_MAX {
            return Err(nix::errno::Errno::ENAMETOOLONG);
        }
        overlay.set_string("lowerdir", &all)
    }
}

/// Takes a list of layers apart: colons lie between them, but for those after a backslash.
fn split_layers(list: &str) -> Vec<PathBuf> {
    let mut layers = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match (character, layers.last_mut()) {
            (':', _) => layers.push(String::new()),
            ('\\', Some(last)) => last.extend(characters.next()),
            (_, Some(last)) => last.push(character),
            (_, None) => {}
        }
    }
    layers.into_iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_from_options() {
        let parse = |options: &str| Layers::parse(options).map(|layers| layers.paths);
        let paths = |list: &[&str]| Some(list.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(parse("rw,lowerdir=/a:/b,upperdir=/u,workdir=/w"), paths(&["/a", "/b"]));
        assert_eq!(parse("ro,lowerdir+=/a:b,lowerdir+=/c"), paths(&["/a:b", "/c"]));
        assert_eq!(parse(r"ro,lowerdir=/a\134:b:/c\040d\054e"), paths(&["/a:b", "/c d,e"]));
        // Podman's short names, relative to where it was; layers of data only; no overlay at all.
        for unknown in ["rw,lowerdir=l/A:l/B", "lowerdir=/a::/data", "lowerdir+=/a,datadir+=/d", "rw", ""] {
            assert_eq!(parse(unknown), None, "{unknown}");
        }
        let layers = Layers::parse("lowerdir=/a,redirect_dir=on,metacopy=on,userxattr").expect("known");
        let expected = [("redirect_dir", Some("follow")), ("metacopy", Some("on")), ("userxattr", None)];
        assert_eq!(layers.options, expected);
    }
}
