// SPDX-License-Identifier: Apache-2.0
//! Makes a detached mount of a filesystem from its type, `MS_*` flags and data words.
//!
//! Owns the translation from mount(2)'s arguments to fsopen(2)'s, one option per call, so that the kernel's own
//! words about a refused option reach the user. Must not know where the mount goes.

use std::convert::Infallible;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::options::attributes;
use crate::sys::metadata::set_attribute;
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

/// A filesystem to be mounted anew.
#[derive(Debug)]
pub(super) struct NewFilesystem<'a, S = String> {
    /// Type, such as `tmpfs`.
    pub(super) fstype: &'a str,
    /// Device, or a word for mountinfo; may be empty.
    pub(super) source: &'a str,
    /// `MS_*` bits.
    pub(super) flags: u64,
    /// Words for the filesystem; each may be several, with commas between.
    pub(super) data: &'a [S],
    /// How it is labelled.
    pub(super) label: Label<'a>,
}

impl<S: AsRef<str>> NewFilesystem<'_, S> {
    /// Whether only mount(2) can do this: some flags, types with a subtype (`fuse.sshfs`), and data that the
    /// filesystem splits by rules of its own or that is too long for fsconfig(2).
    pub(super) fn needs_mount2(&self) -> bool {
        let is_odd = |word: &S| word.as_ref().contains(['"', '\\']) || word.as_ref().len() > FSCONFIG_MAX;
        self.flags & MONOLITHIC != 0 || self.fstype.contains('.') || self.data.iter().any(is_odd)
    }

    /// mount(2), for what the newer calls cannot express.
    pub(super) fn mount_on(&self, place: &Path) -> Result<()> {
        let (fstype, flags, data) = (self.fstype, self.flags, self.mount2_data());
        mount(
            Some(self.source),
            place,
            Some(fstype),
            MsFlags::from_bits_retain(flags),
            (!data.is_empty()).then_some(data.as_str()),
        )
        .context(|| format!("mount {fstype} with flags {flags:#x} and data {data:?}"))
    }

    /// The data for mount(2).
    fn mount2_data(&self) -> String {
        let label = match self.label {
            // Labels with categories have commas.
            Label::Context(label) => Some(format!("context=\"{label}\"")),
            Label::None | Label::Attribute(_) => None,
        };
        let words: Vec<&str> = self.data.iter().map(AsRef::as_ref).chain(label.as_deref()).collect();
        words.join(",")
    }

    /// A detached mount of it.
    pub(super) fn detached(&self) -> Result<OwnedFd> {
        let fstype = self.fstype;
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
        if !self.source.is_empty() {
            set("source", Some(self.source))?;
        }
        for (_, word) in SUPER_WORDS.iter().filter(|(flag, _)| self.flags & flag != 0) {
            set(word, None)?;
        }
        for words in self.data {
            for word in words.as_ref().split(',').filter(|word| !word.is_empty()) {
                match word.split_once('=') {
                    Some((key, value)) => set(key, Some(value))?,
                    None => set(word, None)?,
                }
            }
        }
        if let Label::Context(label) = self.label {
            set("context", Some(label))?;
        }
        context
            .mount(attributes(self.flags))
            .map_err(|errno| explain(&context, errno, || format!("create a filesystem of type {fstype}")))
    }
}

/// How a new filesystem gets SELinux's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label<'a> {
    /// Not at all.
    None,
    /// For all its files, by the mount option `context`.
    Context(&'a str),
    /// On its root alone, as an extended attribute.
    Attribute(&'a str),
}

impl<'a> Label<'a> {
    /// The kernel labels the files of proc and sysfs itself, and takes no option for mqueue.
    pub(super) fn of(fstype: &str, label: Option<&'a str>) -> Self {
        match (fstype, label) {
            ("proc" | "sysfs", _) | (_, None) => Label::None,
            ("mqueue", Some(label)) => Label::Attribute(label),
            (_, Some(label)) => Label::Context(label),
        }
    }

    /// Writes it, if it is an attribute.
    pub(super) fn write(self, mounted: BorrowedFd<'_>) -> Result<()> {
        match self {
            Label::Attribute(label) => set_attribute(mounted, c"security.selinux", label.as_bytes())
                .context(|| format!("label the mount {label:?}")),
            Label::None | Label::Context(_) => Ok(()),
        }
    }
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

    fn new<'a>(fstype: &'a str, flags: u64, data: &'a [String]) -> NewFilesystem<'a> {
        NewFilesystem { fstype, source: "", flags, data, label: Label::None }
    }

    #[test]
    fn mount2_is_kept_for_what_fsconfig_cannot_express() {
        let needs = |fstype: &str, flags: u64, word: &str| {
            let data = [word.to_owned()];
            new(fstype, flags, &data).needs_mount2()
        };
        assert!(!needs("tmpfs", libc::MS_NOSUID | libc::MS_RDONLY, "size=64k"));
        assert!(needs("tmpfs", libc::MS_REMOUNT, ""));
        assert!(needs("ext4", libc::MS_I_VERSION, ""));
        assert!(needs("fuse.sshfs", 0, ""));
        assert!(needs("tmpfs", 0, "context=\"a,b\""));
        assert!(needs("overlay", 0, "lowerdir=/a\\,b"));
        assert!(needs("overlay", 0, &"x".repeat(FSCONFIG_MAX + 1)));
    }

    #[test]
    fn a_label_is_an_option_an_attribute_or_nothing() {
        let label = Some("system_u:object_r:container_file_t:s0:c1,c2");
        for (fstype, expected) in [
            ("proc", Label::None),
            ("sysfs", Label::None),
            ("mqueue", Label::Attribute("system_u:object_r:container_file_t:s0:c1,c2")),
            ("tmpfs", Label::Context("system_u:object_r:container_file_t:s0:c1,c2")),
        ] {
            assert_eq!(Label::of(fstype, label), expected, "{fstype}");
            assert_eq!(Label::of(fstype, None), Label::None);
        }
        let data = ["size=1k".to_owned()];
        let labelled = NewFilesystem { label: Label::of("tmpfs", label), ..new("tmpfs", 0, &data) };
        let expected = "size=1k,context=\"system_u:object_r:container_file_t:s0:c1,c2\"";
        assert_eq!(labelled.mount2_data(), expected);
    }

    #[test]
    fn an_unknown_filesystem_is_named() {
        let error = new("no-such-filesystem", 0, &[]).detached().expect_err("the kernel has none");
        assert!(error.is_errno(libc::ENODEV), "{}", error.chain());
        assert!(error.hint().is_some_and(|hint| hint.contains("no-such-filesystem")));
    }

    #[test]
    fn a_refused_option_is_named_with_the_kernels_words() {
        let data = ["mode=755,size=lots".to_owned()];
        let error = new("tmpfs", 0, &data).detached().expect_err("lots is no size");
        assert!(error.is_errno(libc::EINVAL), "{}", error.chain());
        assert!(error.to_string().contains("size=lots"), "{}", error.chain());
        assert!(error.chain().contains("Bad value"), "{}", error.chain());
    }
}
