// SPDX-License-Identifier: Apache-2.0
//! The mounts from outside as the images name them. Other engines name masks in ways of their own:
//!
//! | made by | a masked file | a masked directory |
//! | --- | --- | --- |
//! | migrate, runc | `/dev/null` | nothing, it is in the images |
//! | crun | its path | `STATE-ROOT/.empty-directory` |
//!
//! Every other name is the destination of a mount in the configuration, or of one that it never had, made by a hook or
//! from the host: then the caller must name its source.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::criu::{ExternalMount, mounts_from_outside};
use crate::engine::rootfs::resolve_destination;
use crate::engine::{NewContainer, host_mounts};
use crate::{Context, Error, ErrorKind, Result};

/// How crun names the directory that it binds over masked ones.
const EMPTY_DIRECTORY: &str = ".empty-directory";

/// What hides a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mask {
    /// The null device.
    File,
    /// A directory with nothing in it.
    Directory,
}

/// The names of mounts from outside.
pub(in crate::restore) struct RecordedMounts {
    /// Name → where the first of it was mounted.
    names: BTreeMap<String, String>,
    /// Name → where it was on the host of the checkpoint, of those that the configuration did not name.
    sources: BTreeMap<String, String>,
}

impl RecordedMounts {
    /// Looks into the images.
    pub(in crate::restore) fn read(images: BorrowedFd<'_>) -> Result<Self> {
        let look = || "look for mounts from outside in the images";
        let names = mounts_from_outside(images).context(look)?;
        Ok(Self { names, sources: host_mounts::read(images).context(look)? })
    }

    /// The names that stand for masks, whether or not the configuration still has them.
    pub(super) fn masks(&self, new: &NewContainer) -> Result<Vec<(&str, Mask)>> {
        let masked = |path: &Path| new.rootfs_plan().masked_paths.iter().any(|masked| masked == path);
        let mut masks = Vec::new();
        for (name, mountpoint) in &self.names {
            let path = Path::new(name);
            if path.ends_with(EMPTY_DIRECTORY) {
                masks.push((name.as_str(), Mask::Directory));
            } else if masked(path) || (name == mountpoint && is_of_the_kernel(path)) {
                masks.push((name.as_str(), kind(new, path)?));
            }
        }
        Ok(masks)
    }

    /// Whether an empty directory is needed.
    pub(super) fn wants_empty_directory(&self, new: &NewContainer) -> Result<bool> {
        Ok(self.masks(new)?.iter().any(|(_, mask)| *mask == Mask::Directory))
    }

    /// Makes sure that there is a source for each.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] names the first that has none, and its hint the flags for all.
    pub(in crate::restore) fn require(&self, given: &[ExternalMount]) -> Result<()> {
        let is_missing = |name: &str| !given.iter().any(|mount| mount.key == name);
        let Some((name, mountpoint)) = self.names.iter().find(|(name, _)| is_missing(name)) else {
            return Ok(());
        };
        let called =
            if name == mountpoint { String::new() } else { format!(", called {name:?} in the images") };
        let message = format!(
            "at the checkpoint something of the host was mounted on {}{called}, and config.json mounts nothing there",
            mountpoint.escape_debug()
        );
        let wanted = self.names.keys().filter(|name| is_missing(name));
        let flags: Vec<String> = wanted
            .filter_map(|name| {
                let object = format!("mnt[{name}]:{}", self.sources.get(name)?);
                is_quotable(&object).then(|| format!("--external '{object}'"))
            })
            .collect();
        let hint = match flags.is_empty() {
            true => {
                "restore with the config.json of the checkpoint, or add a bind mount with this destination to mounts"
                    .to_owned()
            }
            false => format!(
                "config.json did not name it then either. Where the host has the same in the same place: {}; else with the \
                 path that it has here",
                flags.join(" ")
            ),
        };
        Err(Error::new(ErrorKind::InvalidConfig, message).with_hint(hint))
    }
}

/// Whether a text from the images may stand between single quotes in a line that somebody copies into a shell.
fn is_quotable(text: &str) -> bool {
    !text.contains(|c: char| c == '\'' || c.is_control())
}

/// Whether the kernel makes the file, so that it is of the same kind on this host.
fn is_of_the_kernel(path: &Path) -> bool {
    (path.starts_with("/proc") || path.starts_with("/sys")) && !path.starts_with("/sys/fs/cgroup")
}

/// What hides such a path. Nothing there: a file, as most are.
fn kind(new: &NewContainer, path: &Path) -> Result<Mask> {
    let seen = match is_of_the_kernel(path) {
        true => path.to_owned(),
        false => {
            let inside = resolve_destination(new.rootfs(), path)?;
            new.rootfs().join(inside.strip_prefix("/").unwrap_or(&inside))
        }
    };
    let directory = fs::symlink_metadata(seen).is_ok_and(|found| found.is_dir());
    Ok(if directory { Mask::Directory } else { Mask::File })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_source_is_told() {
        let recorded = |name: &str, mountpoint: &str| RecordedMounts {
            names: BTreeMap::from([(name.to_owned(), mountpoint.to_owned())]),
            sources: BTreeMap::new(),
        };
        let given = [ExternalMount { key: "/etc/hosts".to_owned(), value: "/tmp/hosts".to_owned() }];
        recorded("/etc/hosts", "/etc/hosts").require(&given).expect("it is given");
        let error = recorded("/data", "/data").require(&given).expect_err("it is not given");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert_eq!(
            error.to_string(),
            "at the checkpoint something of the host was mounted on /data, and config.json mounts nothing there"
        );
        let error = recorded("other", "/data").require(&given).expect_err("it is not given");
        assert_eq!(
            error.to_string(),
            "at the checkpoint something of the host was mounted on /data, called \"other\" in the images, \
             and config.json mounts nothing there"
        );
    }

    #[test]
    fn what_the_configuration_never_named_is_told_with_its_flags() {
        let pairs = |list: &[(&str, &str)]| {
            list.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect()
        };
        let recorded = RecordedMounts {
            names: pairs(&[("/a", "/a"), ("/b", "/b"), ("c", "/c")]),
            sources: pairs(&[("/a", "/srv/a"), ("/b", "/srv/b"), ("c", "/srv/c")]),
        };
        let given = [ExternalMount { key: "/a".to_owned(), value: "/tmp/a".to_owned() }];
        let error = recorded.require(&given).expect_err("two are not given");
        assert!(error.to_string().contains("mounted on /b, and"), "{error}");
        let hint = error.hint().expect("a hint");
        assert!(hint.contains(": --external 'mnt[/b]:/srv/b' --external 'mnt[c]:/srv/c'; else"), "{hint}");
    }

    #[test]
    fn nothing_hostile_is_proposed_to_a_shell_or_shown_to_a_terminal() {
        for (name, source) in [("/a", "/x'; reboot; '"), ("/a'b", "/x"), ("/a", "/x\n/y"), ("/\x1b[2J", "/x")]
        {
            let one = |path: &str| BTreeMap::from([(name.to_owned(), path.to_owned())]);
            let error = RecordedMounts { names: one(name), sources: one(source) }.require(&[]);
            let error = error.expect_err("it is not given");
            assert!(!error.hint().expect("a hint").contains("--external"), "{name:?} {source:?}");
            assert!(!error.to_string().contains('\x1b'), "{error}");
        }
    }

    #[test]
    fn masks_of_the_kernel_are_known_by_their_path() {
        assert!(is_of_the_kernel(Path::new("/proc/keys")) && is_of_the_kernel(Path::new("/sys/firmware")));
        assert!(!is_of_the_kernel(Path::new("/sys/fs/cgroup/memory")));
        assert!(!is_of_the_kernel(Path::new("/process")));
    }
}
