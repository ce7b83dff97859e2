// SPDX-License-Identifier: Apache-2.0
//! What of the host may be had one by one, where a whole kind of access ([`HostAccess`](super::HostAccess)) would be too much. Pure.
//!
//! Paths are compared as they are written, name by name. Whether one leads elsewhere by a symbolic link is not known here.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::Wish;
use super::oci::{LinuxMemory, Spec};

/// One thing of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Grant {
    /// The source of a bind mount, and what is beneath it.
    Mount(PathBuf),
    /// A device: `c 10:229`, with `*` for any number.
    Device(String),
    /// A network interface.
    Interface(String),
    /// A program that the runtime runs.
    Hook(PathBuf),
    /// A namespace of this path; or the host's own of a type, `host:network`.
    Namespace(String),
    /// A capability: `CAP_NET_ADMIN`.
    Capability(String),
}

impl Grant {
    /// The field of a policy that it belongs to, and its value there.
    pub fn line(&self) -> (&'static str, String) {
        match self {
            Self::Mount(path) => ("mounts", path.display().to_string()),
            Self::Device(text) => ("devices", text.clone()),
            Self::Interface(name) => ("interfaces", name.clone()),
            Self::Hook(path) => ("hooks", path.display().to_string()),
            Self::Namespace(text) => ("namespaces", text.clone()),
            Self::Capability(name) => ("capabilities", name.clone()),
        }
    }

    /// Whether what is wanted is this, or part of it.
    fn covers(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Mount(granted), Self::Mount(wanted)) => is_beneath(wanted, granted),
            (Self::Device(granted), Self::Device(wanted)) => is_device_of(granted, wanted),
            (granted, wanted) => granted == wanted,
        }
    }
}

/// All that is granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grants {
    /// One by one.
    pub list: Vec<Grant>,
    /// So much memory may a container have, in bytes, and must say so itself.
    pub memory: Option<u64>,
    /// So many bytes may an archive have when it is unpacked.
    pub disk: Option<u64>,
    /// Where more would be granted, for people.
    pub place: Option<String>,
}

impl Grants {
    /// Whether all that belongs to a wish is granted.
    pub fn cover(&self, wish: &Wish) -> bool {
        !wish.wants.is_empty() && wish.wants.iter().all(|wanted| self.has(wanted))
    }

    /// Whether this is granted.
    pub fn has(&self, wanted: &Grant) -> bool {
        self.list.iter().any(|grant| grant.covers(wanted))
    }

    /// What keeps a configuration from fitting into the memory that is granted.
    pub fn too_large(&self, spec: &Spec) -> Option<TooLarge> {
        let granted = self.memory?;
        let linux = spec.linux().as_ref();
        let memory = linux.and_then(|l| l.resources().as_ref()).and_then(|r| r.memory().as_ref());
        let limit = memory.and_then(LinuxMemory::limit).filter(|limit| *limit > 0);
        match limit.and_then(|limit| u64::try_from(limit).ok()) {
            Some(limit) if limit <= granted => None,
            limit => Some(TooLarge { limit, granted }),
        }
    }
}

/// More memory than is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// The configuration's limit.
    pub limit: Option<u64>,
    /// What is granted.
    pub granted: u64,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            Some(limit) => write!(f, "linux.resources.memory.limit is {limit}, of {} bytes", self.granted),
            None => write!(f, "linux.resources.memory.limit is not set, of {} bytes", self.granted),
        }
    }
}

/// Whether a path is this one or leads from there downwards. One with `..` leads anywhere.
fn is_beneath(path: &Path, top: &Path) -> bool {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    path.is_absolute() && plain && path.starts_with(top)
}

/// `c 10:*` has `c 10:229`. What is wanted may have a `*`, too, which only a `*` grants.
fn is_device_of(granted: &str, wanted: &str) -> bool {
    let parts = |text: &str| -> Option<[String; 3]> {
        let (typ, numbers) = text.split_once(' ')?;
        let (major, minor) = numbers.split_once(':')?;
        Some([typ, major, minor].map(str::to_owned))
    };
    let (Some(granted), Some(wanted)) = (parts(granted), parts(wanted)) else { return false };
    let [typ, numbers @ ..] = &granted;
    let [wanted_typ, wanted_numbers @ ..] = &wanted;
    typ == wanted_typ && numbers.iter().zip(wanted_numbers).all(|(have, want)| have == "*" || have == want)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Config, HostAccess, host_access, template};
    use super::*;

    #[test]
    fn a_path_is_granted_with_what_is_beneath_it_and_nothing_else() {
        let granted = Grant::Mount("/srv/data".into());
        for (path, is) in [
            ("/srv/data", true),
            ("/srv/data/", true),
            ("/srv/data/web/x", true),
            ("/srv/database", false),
            ("/srv", false),
            ("/srv/data/../../etc", false),
            ("srv/data", false),
            ("", false),
        ] {
            assert_eq!(granted.covers(&Grant::Mount(path.into())), is, "{path:?}");
        }
    }

    #[test]
    fn a_device_is_granted_by_its_numbers() {
        for (granted, wanted, is) in [
            ("c 10:229", "c 10:229", true),
            ("c 10:*", "c 10:229", true),
            ("c 10:*", "c 10:*", true),
            ("c 10:229", "c 10:*", false),
            ("c 10:229", "b 10:229", false),
            ("c 10:229", "a *:*", false),
            ("c *:*", "c 10:229", true),
            ("fuse", "fuse", false),
        ] {
            let granted = Grant::Device(granted.to_owned());
            assert_eq!(granted.covers(&Grant::Device(wanted.to_owned())), is, "{granted:?} {wanted}");
        }
    }

    #[test]
    fn a_wish_is_granted_when_all_of_it_is() {
        let mut config = template(false);
        config["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
        let spec = Config::parse(config.to_string().into_bytes()).expect("it parses").spec;
        let [wish] = &host_access(&spec, None)[..] else { panic!("one wish") };
        let mut grants = Grants::default();
        assert!(!grants.cover(wish));
        grants.list.push(Grant::Capability("CAP_NET_ADMIN".to_owned()));
        assert!(!grants.cover(wish), "half of it");
        grants.list.push(Grant::Capability("CAP_SYS_ADMIN".to_owned()));
        assert!(grants.cover(wish));
        assert!(!grants.cover(&Wish::new(HostAccess::Privileges, "what has no name of its own")));
    }

    #[test]
    fn memory_must_be_limited_where_it_is_granted() {
        let grants = Grants { memory: Some(1 << 20), ..Grants::default() };
        for (limit, fits) in
            [(json!(null), false), (json!(-1), false), (json!(1 << 20), true), (json!(2 << 20), false)]
        {
            let mut config = template(false);
            config["linux"]["resources"]["memory"] = json!({ "limit": limit });
            let spec = Config::parse(config.to_string().into_bytes()).expect("it parses").spec;
            assert_eq!(grants.too_large(&spec).is_none(), fits, "{limit}");
            assert_eq!(Grants::default().too_large(&spec), None);
        }
    }
}
