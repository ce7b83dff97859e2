// SPDX-License-Identifier: Apache-2.0
//! Makes a detached mount of a filesystem from its type, `MS_*` flags and data words.
//!
//! Owns the translation from mount(2)'s arguments to fsopen(2)'s, one option per call, so that the kernel's own
//! words about a refused option reach the user. Must not know where the mount goes.

use std::convert::Infallible;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::options::attributes;
use crate::sys::mount::{FSCONFIG_MAX, FilesystemContext};
use crate::{Context, Error, Result};

/// Flags that belong to the filesystem, not to the mount, and their words for fsconfig(2).
const SUPER_WORDS: [(u64, &str); 5] = [
    (libc::MS_RDONLY, "ro"),
    (libc::MS_SYNCHRONOUS, "sync"),
    (libc::MS_DIRSYNC, "dirsync"),
    (libc::MS_MANDLOCK, "mand"),
    (libc::MS_LAZYTIME, "lazytime"),
];

/// Flags that only mount(2) takes.
const MONOLITHIC: u64 = libc::MS_REMOUNT | libc::MS_SILENT | libc::MS_I_VERSION | libc::MS_POSIXACL;

/// Whether only mount(2) can do this: some flags, types with a subtype (`fuse.sshfs`), and data that the
/// filesystem splits by rules of its own or that is too long for fsconfig(2).
pub(super) fn needs_mount2(fstype: &str, flags: u64, data: &[String]) -> bool {
    flags & MONOLITHIC != 0
        || fstype.contains('.')
        || data.iter().any(|word| word.contains(['"', '\\']) || word.len() > FSCONFIG_MAX)
}

/// A detached mount of a filesystem of this type.
pub(super) fn detached<S: AsRef<str>>(
    fstype: &str,
    source: &str,
    flags: u64,
    data: impl IntoIterator<Item = S>,
) -> Result<OwnedFd> {
    let context = FilesystemContext::open(fstype).map_err(|errno| explain_open(fstype, errno))?;
    let set = |key: &str, value: Option<&str>| match value {
        Some(value) => {
            let attempt = || format!("set {key}={value} for {fstype}");
            context.set_string(key, value).map_err(|errno| explain(&context, errno, attempt))
        }
        None => {
            let attempt = || format!("set {key} for {fstype}");
            context.set_flag(key).map_err(|errno| explain(&context, errno, attempt))
        }
    };
    if !source.is_empty() {
        set("source", Some(source))?;
    }
    for (_, word) in SUPER_WORDS.iter().filter(|(flag, _)| flags & flag != 0) {
        set(word, None)?;
    }
    for words in data {
        for word in words.as_ref().split(',').filter(|word| !word.is_empty()) {
            match word.split_once('=') {
                Some((key, value)) => set(key, Some(value))?,
                None => set(word, None)?,
            }
        }
    }
    context
        .mount(attributes(flags))
        .map_err(|errno| explain(&context, errno, || format!("create a filesystem of type {fstype}")))
}

fn explain_open(fstype: &str, errno: Errno) -> Error {
    let error = explain_errno(errno, format!("fsopen {fstype}"));
    match errno {
        Errno::ENODEV => {
            error.with_hint(format!("the running kernel has no filesystem {fstype}; load its module"))
        }
        Errno::ENOSYS => error.with_hint("containers need Linux 5.12 or newer"),
        _ => error,
    }
}

fn explain(context: &FilesystemContext, errno: Errno, attempt: impl FnOnce() -> String) -> Error {
    match context.message() {
        Some(message) => {
            let inner = explain_errno(errno, message);
            Error::new(inner.kind(), attempt()).with_source(inner)
        }
        None => explain_errno(errno, attempt()),
    }
}

fn explain_errno(errno: Errno, message: String) -> Error {
    let Err(error) = Err::<Infallible, _>(errno).context(|| message);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount2_is_kept_for_what_fsconfig_cannot_express() {
        let words = |text: &str| vec![text.to_owned()];
        assert!(!needs_mount2("tmpfs", libc::MS_NOSUID | libc::MS_RDONLY, &words("size=64k")));
        assert!(needs_mount2("tmpfs", libc::MS_REMOUNT, &[]));
        assert!(needs_mount2("ext4", libc::MS_I_VERSION, &[]));
        assert!(needs_mount2("fuse.sshfs", 0, &[]));
        assert!(needs_mount2("tmpfs", 0, &words("context=\"a,b\"")));
        assert!(needs_mount2("overlay", 0, &words("lowerdir=/a\\,b")));
        assert!(needs_mount2("overlay", 0, &words(&"x".repeat(FSCONFIG_MAX + 1))));
    }

    #[test]
    fn an_unknown_filesystem_is_named() {
        let error = detached("no-such-filesystem", "", 0, [""; 0]).expect_err("the kernel has none");
        assert!(error.is_errno(libc::ENODEV), "{}", error.chain());
        assert!(error.hint().is_some_and(|hint| hint.contains("no-such-filesystem")));
    }

    #[test]
    fn a_refused_option_is_named_with_the_kernels_words() {
        let error = detached("tmpfs", "tmpfs", 0, ["mode=755,size=lots"]).expect_err("lots is no size");
        assert!(error.is_errno(libc::EINVAL), "{}", error.chain());
        assert!(error.to_string().contains("size=lots"), "{}", error.chain());
        assert!(error.chain().contains("Bad value"), "{}", error.chain());
    }
}
