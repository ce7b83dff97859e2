// SPDX-License-Identifier: Apache-2.0
//! The words of `mounts[].options` and of `linux.rootfsPropagation`, and what each stands for.
//!
//! Pure: words in, bits out. Must not know where or how anything is mounted. The words are those of mount(8) and of
//! the runtime specification (config.md, "Linux mount options"); a word that is none of them belongs to the
//! filesystem and is passed on as data.

use serde::{Deserialize, Serialize};

use crate::sys::mount::{
    MOUNT_ATTR_ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
};
use crate::{Error, ErrorKind, Result};

/// What the option words of one mount come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions {
    /// `MS_*` bits that the words set.
    pub set: u64,
    /// `MS_*` bits that the words clear; disjoint from `set`, the last word counts.
    pub clear: u64,
    /// `MOUNT_ATTR_*` bits for the mount and all mounts below it.
    pub recursive: RecursiveAttributes,
    /// Changes of propagation, to be applied one by one after the mount is attached.
    pub propagation: Vec<Propagation>,
    /// Words for the filesystem, in the order given.
    pub data: Vec<String>,
    /// Whether the content of the directory beneath is copied into a new tmpfs (`tmpcopyup`).
    pub copy_up: bool,
    /// Whether and how far the word `idmap` or `ridmap` reaches.
    pub id_map: Option<IdMapReach>,
}

/// Which mounts of a bind mount show their files' owners through a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdMapReach {
    /// The mount itself (`idmap`).
    Mount,
    /// The mounts below it as well (`ridmap`).
    Tree,
}

/// `MOUNT_ATTR_*` bits that the recursive option words (`rro`, `rnosuid`, ...) set and clear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecursiveAttributes {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
}

impl RecursiveAttributes {
    /// Whether no recursive word was given.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// A change of propagation: mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagation {
    /// What the mount becomes.
    pub kind: PropagationKind,
    /// Whether the mounts below it change as well.
    pub recursive: bool,
}

/// The four propagation types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PropagationKind {
    /// Mounts propagate in both directions.
    Shared,
    /// Mounts propagate from the master only.
    Slave,
    /// Mounts do not propagate.
    Private,
    /// Private, and cannot be bind mounted.
    Unbindable,
}

impl PropagationKind {
    /// The `MS_*` bit of this kind.
    pub fn flag(self) -> u64 {
        match self {
            PropagationKind::Shared => libc::MS_SHARED,
            PropagationKind::Slave => libc::MS_SLAVE,
            PropagationKind::Private => libc::MS_PRIVATE,
            PropagationKind::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

impl Propagation {
    /// The change that a word such as `rslave` names, if it is such a word.
    pub fn from_word(word: &str) -> Option<Self> {
        use PropagationKind::{Private, Shared, Slave, Unbindable};
        let (kind, recursive) = match word {
            "shared" => (Shared, false),
            "rshared" => (Shared, true),
            "slave" => (Slave, false),
            "rslave" => (Slave, true),
            "private" => (Private, false),
            "rprivate" => (Private, true),
            "unbindable" => (Unbindable, false),
            "runbindable" => (Unbindable, true),
            _ => return None,
        };
        Some(Self { kind, recursive })
    }
}

enum Word {
    Set(u64),
    Clear(u64),
    RecursiveSet(u64),
    RecursiveClear(u64),
    /// Sets a value of the access-time field, which must be cleared as a whole before.
    RecursiveAtime(u64),
    Nothing,
    Propagation(Propagation),
    IdMap(IdMapReach),
    CopyUp,
    Data,
}

fn word(text: &str) -> Word {
    use Word::{Clear, CopyUp, Data, IdMap, Nothing, RecursiveAtime, RecursiveClear, RecursiveSet, Set};
    if let Some(change) = Propagation::from_word(text) {
        return Word::Propagation(change);
    }
    match text {
        "defaults" | "" => Nothing,
        "ro" => Set(libc::MS_RDONLY),
        "rw" => Clear(libc::MS_RDONLY),
        "nosuid" => Set(libc::MS_NOSUID),
        "suid" => Clear(libc::MS_NOSUID),
        "nodev" => Set(libc::MS_NODEV),
        "dev" => Clear(libc::MS_NODEV),
        "noexec" => Set(libc::MS_NOEXEC),
        "exec" => Clear(libc::MS_NOEXEC),
        "nosymfollow" => Set(libc::MS_NOSYMFOLLOW),
        "symfollow" => Clear(libc::MS_NOSYMFOLLOW),
        "sync" => Set(libc::MS_SYNCHRONOUS),
        "async" => Clear(libc::MS_SYNCHRONOUS),
        "dirsync" => Set(libc::MS_DIRSYNC),
        "remount" => Set(libc::MS_REMOUNT),
        "mand" => Set(libc::MS_MANDLOCK),
        "nomand" => Clear(libc::MS_MANDLOCK),
        "noatime" => Set(libc::MS_NOATIME),
        "atime" => Clear(libc::MS_NOATIME),
        "nodiratime" => Set(libc::MS_NODIRATIME),
        "diratime" => Clear(libc::MS_NODIRATIME),
        "relatime" => Set(libc::MS_RELATIME),
        "norelatime" => Clear(libc::MS_RELATIME),
        "strictatime" => Set(libc::MS_STRICTATIME),
        "nostrictatime" => Clear(libc::MS_STRICTATIME),
        "lazytime" => Set(libc::MS_LAZYTIME),
        "nolazytime" => Clear(libc::MS_LAZYTIME),
        "silent" => Set(libc::MS_SILENT),
        "loud" => Clear(libc::MS_SILENT),
        "iversion" => Set(libc::MS_I_VERSION),
        "noiversion" => Clear(libc::MS_I_VERSION),
        "acl" => Set(libc::MS_POSIXACL),
        "noacl" => Clear(libc::MS_POSIXACL),
        "bind" => Set(libc::MS_BIND),
        "rbind" => Set(libc::MS_BIND | libc::MS_REC),
        "rro" => RecursiveSet(MOUNT_ATTR_RDONLY),
        "rrw" => RecursiveClear(MOUNT_ATTR_RDONLY),
        "rnosuid" => RecursiveSet(MOUNT_ATTR_NOSUID),
        "rsuid" => RecursiveClear(MOUNT_ATTR_NOSUID),
        "rnodev" => RecursiveSet(MOUNT_ATTR_NODEV),
        "rdev" => RecursiveClear(MOUNT_ATTR_NODEV),
        "rnoexec" => RecursiveSet(MOUNT_ATTR_NOEXEC),
        "rexec" => RecursiveClear(MOUNT_ATTR_NOEXEC),
        "rnosymfollow" => RecursiveSet(MOUNT_ATTR_NOSYMFOLLOW),
        "rsymfollow" => RecursiveClear(MOUNT_ATTR_NOSYMFOLLOW),
        "rnodiratime" => RecursiveSet(MOUNT_ATTR_NODIRATIME),
        "rdiratime" => RecursiveClear(MOUNT_ATTR_NODIRATIME),
        "rnoatime" => RecursiveAtime(MOUNT_ATTR_NOATIME),
        "rstrictatime" => RecursiveAtime(MOUNT_ATTR_STRICTATIME),
        // Relative access times are the field's zero, which the words that undo another mode lead back to.
        "rrelatime" | "rnorelatime" | "ratime" | "rnostrictatime" => RecursiveAtime(MOUNT_ATTR_RELATIME),
        "idmap" => IdMap(IdMapReach::Mount),
        "ridmap" => IdMap(IdMapReach::Tree),
        "tmpcopyup" => CopyUp,
        _ => Data,
    }
}

/// Every word that means something here rather than to a filesystem, in alphabetic order (the `features` command).
pub(super) const WORDS: [&str; 64] = [
    "acl",
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Parses the option words of one mount; `field` is what an error calls them, such as `mounts[3].options`.
///
/// # Errors
/// `InvalidConfig` for a word with a NUL byte.
pub(super) fn parse(words: &[String], field: &str) -> Result<MountOptions> {
    let mut parsed = MountOptions::default();
    for text in words {
        if text.contains('\0') {
            let message = format!("{field} holds a NUL byte in {text:?}");
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        match word(text) {
            Word::Nothing => {}
            Word::Set(bits) => {
                parsed.set |= bits;
                parsed.clear &= !bits;
            }
            Word::Clear(bits) => {
                parsed.set &= !bits;
                parsed.clear |= bits;
            }
            Word::RecursiveSet(bits) => {
                parsed.recursive.set |= bits;
                parsed.recursive.clear &= !bits;
            }
            Word::RecursiveClear(bits) => {
                parsed.recursive.set &= !bits;
                parsed.recursive.clear |= bits;
            }
            Word::RecursiveAtime(value) => {
                parsed.recursive.set = parsed.recursive.set & !MOUNT_ATTR_ATIME | value;
                parsed.recursive.clear |= MOUNT_ATTR_ATIME;
            }
            Word::Propagation(change) => parsed.propagation.push(change),
            Word::IdMap(reach) => parsed.id_map = Some(reach),
            Word::CopyUp => parsed.copy_up = true,
            Word::Data => parsed.data.push(text.clone()),
        }
    }
    Ok(parsed)
}

/// The access-time bits among the `MS_*` flags.
pub(super) const MS_ATIME: u64 =
    libc::MS_NOATIME | libc::MS_NODIRATIME | libc::MS_RELATIME | libc::MS_STRICTATIME;

const PER_MOUNT: [(u64, u64); 6] = [
    (libc::MS_RDONLY, MOUNT_ATTR_RDONLY),
    (libc::MS_NOSUID, MOUNT_ATTR_NOSUID),
    (libc::MS_NODEV, MOUNT_ATTR_NODEV),
    (libc::MS_NOEXEC, MOUNT_ATTR_NOEXEC),
    (libc::MS_NODIRATIME, MOUNT_ATTR_NODIRATIME),
    (libc::MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW),
];

/// The `MOUNT_ATTR_*` bits that mount(2) would give a new mount for these `MS_*` flags: relative access times
/// unless another mode is set, `MS_STRICTATIME` before `MS_NOATIME`.
pub(super) fn attributes(flags: u64) -> u64 {
    let mode = if flags & libc::MS_STRICTATIME != 0 {
        MOUNT_ATTR_STRICTATIME
    } else if flags & libc::MS_NOATIME != 0 {
        MOUNT_ATTR_NOATIME
    } else {
        MOUNT_ATTR_RELATIME
    };
    switches(flags) | mode
}

/// The on/off `MOUNT_ATTR_*` bits, without the access-time mode, for these `MS_*` flags.
pub(super) fn switches(flags: u64) -> u64 {
    PER_MOUNT.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |bits, (_, attribute)| bits | attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> MountOptions {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        parse(&words, "mounts[0].options").expect("all words are supported")
    }

    #[test]
    fn every_word_of_the_list_means_something() {
        for text in WORDS {
            assert!(!matches!(word(text), Word::Data), "{text}");
        }
        assert!(WORDS.is_sorted());
    }

    #[test]
    fn every_flag_word_has_an_effect_and_its_opposite_undoes_it() {
        let pairs = [
            ("ro", "rw", libc::MS_RDONLY),
            ("nosuid", "suid", libc::MS_NOSUID),
            ("nodev", "dev", libc::MS_NODEV),
            ("noexec", "exec", libc::MS_NOEXEC),
            ("nosymfollow", "symfollow", libc::MS_NOSYMFOLLOW),
            ("sync", "async", libc::MS_SYNCHRONOUS),
            ("mand", "nomand", libc::MS_MANDLOCK),
            ("noatime", "atime", libc::MS_NOATIME),
            ("nodiratime", "diratime", libc::MS_NODIRATIME),
            ("relatime", "norelatime", libc::MS_RELATIME),
            ("strictatime", "nostrictatime", libc::MS_STRICTATIME),
            ("lazytime", "nolazytime", libc::MS_LAZYTIME),
            ("silent", "loud", libc::MS_SILENT),
            ("iversion", "noiversion", libc::MS_I_VERSION),
            ("acl", "noacl", libc::MS_POSIXACL),
        ];
        for (set, clear, flag) in pairs {
            let on = parsed(&[clear, set]);
            assert_eq!((on.set, on.clear), (flag, 0), "{clear},{set}");
            let off = parsed(&[set, clear]);
            assert_eq!((off.set, off.clear), (0, flag), "{set},{clear}");
            assert!(on.data.is_empty() && off.data.is_empty());
        }
        for (word, flags) in [
            ("defaults", 0),
            ("dirsync", libc::MS_DIRSYNC),
            ("remount", libc::MS_REMOUNT),
            ("bind", libc::MS_BIND),
            ("rbind", libc::MS_BIND | libc::MS_REC),
        ] {
            assert_eq!(parsed(&[word]), MountOptions { set: flags, ..MountOptions::default() }, "{word}");
        }
    }

    #[test]
    fn recursive_words_set_and_clear_attributes() {
        for (set, clear, bit) in [
            ("rro", "rrw", MOUNT_ATTR_RDONLY),
            ("rnosuid", "rsuid", MOUNT_ATTR_NOSUID),
            ("rnodev", "rdev", MOUNT_ATTR_NODEV),
            ("rnoexec", "rexec", MOUNT_ATTR_NOEXEC),
            ("rnodiratime", "rdiratime", MOUNT_ATTR_NODIRATIME),
            ("rnosymfollow", "rsymfollow", MOUNT_ATTR_NOSYMFOLLOW),
        ] {
            assert_eq!(parsed(&[set]).recursive, RecursiveAttributes { set: bit, clear: 0 }, "{set}");
            assert_eq!(
                parsed(&[set, clear]).recursive,
                RecursiveAttributes { set: 0, clear: bit },
                "{clear}"
            );
        }
        for (word, value) in [
            ("rnoatime", MOUNT_ATTR_NOATIME),
            ("rstrictatime", MOUNT_ATTR_STRICTATIME),
            ("rrelatime", 0),
            ("ratime", 0),
            ("rnorelatime", 0),
            ("rnostrictatime", 0),
        ] {
            let expected = RecursiveAttributes { set: value, clear: MOUNT_ATTR_ATIME };
            assert_eq!(parsed(&["rnoatime", word]).recursive, expected, "{word}");
        }
    }

    #[test]
    fn propagation_keeps_its_order_and_unknown_words_are_data() {
        let options = parsed(&["rslave", "size=64k", "shared", "mode=755", "newinstance"]);
        let expected = [("rslave", PropagationKind::Slave, true), ("shared", PropagationKind::Shared, false)];
        for (change, (word, kind, recursive)) in options.propagation.iter().zip(expected) {
            assert_eq!(*change, Propagation { kind, recursive }, "{word}");
        }
        assert_eq!(options.propagation.len(), 2);
        assert_eq!(options.data, ["size=64k", "mode=755", "newinstance"]);
        for word in
            ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"]
        {
            assert_eq!(parsed(&[word]).propagation.len(), 1, "{word}");
        }
    }

    #[test]
    fn words_of_the_runtime_itself_are_no_data() {
        let options = parsed(&["tmpcopyup", "idmap", "ridmap"]);
        assert_eq!((options.copy_up, options.id_map), (true, Some(IdMapReach::Tree)), "the last word counts");
        assert_eq!(parsed(&["idmap"]).id_map, Some(IdMapReach::Mount));
        assert!(options.data.is_empty() && options.set | options.clear == 0);
    }

    #[test]
    fn a_nul_byte_names_the_field() {
        let error = parse(&["size=1\0".to_owned()], "mounts[7].options").expect_err("a NUL byte");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }

    #[test]
    fn flags_become_the_attributes_that_mount_would_give() {
        assert_eq!(attributes(0), MOUNT_ATTR_RELATIME);
        assert_eq!(attributes(libc::MS_NOATIME | libc::MS_NOSUID), MOUNT_ATTR_NOATIME | MOUNT_ATTR_NOSUID);
        assert_eq!(attributes(libc::MS_NOATIME | libc::MS_STRICTATIME), MOUNT_ATTR_STRICTATIME);
        assert_eq!(attributes(libc::MS_RELATIME | libc::MS_RDONLY), MOUNT_ATTR_RDONLY);
        assert_eq!(switches(libc::MS_STRICTATIME | libc::MS_NODEV), MOUNT_ATTR_NODEV);
    }
}
