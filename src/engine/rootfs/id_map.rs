// SPDX-License-Identifier: Apache-2.0
//! Bind mounts that show their files' owners through a mapping (`mounts[].uidMappings`, the options `idmap` and
//! `ridmap`): what is decided, and how a detached tree gets it.
//!
//! The mapping comes in the form of a user namespace: one made for this alone, or the container's own, joined one. Must
//! not know where the tree is mounted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use super::options::IdMapReach;
use crate::spec::oci::{Linux, LinuxIdMapping, LinuxNamespaceType, Mount};
use crate::sys::mapping_namespace::{self, IdRange};
use crate::sys::mount::{Attributes, Extent, set_attributes};
use crate::{Context, Error, ErrorKind, Result};

/// The mapping of one bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdMap {
    /// Which mounts of the tree have it.
    pub reach: IdMapReach,
    /// What it is.
    pub mapping: Mapping,
}

/// Where a mapping comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mapping {
    /// Ranges: an owner `containerID` on disk is seen as `hostID`.
    Ranges {
        /// Of users.
        uids: Vec<LinuxIdMapping>,
        /// Of groups.
        gids: Vec<LinuxIdMapping>,
    },
    /// That of the user namespace at this path.
    Namespace(PathBuf),
}

impl IdMap {
    /// The mapping that the entry asks for. The words `idmap` and `ridmap` without mappings mean those of the
    /// container's user namespace.
    pub(super) fn of(mount: &Mount, word: Option<IdMapReach>, linux: Option<&Linux>) -> Option<Self> {
        let listed = |list: &Option<Vec<LinuxIdMapping>>| list.clone().unwrap_or_default();
        let (uids, gids) = (listed(mount.uid_mappings()), listed(mount.gid_mappings()));
        let is_given = !uids.is_empty() || !gids.is_empty();
        let reach = word.or_else(|| is_given.then_some(IdMapReach::Mount))?;
        let mapping = match (is_given, joined_namespace(linux)) {
            (true, _) => Mapping::Ranges { uids, gids },
            (false, Some(path)) => Mapping::Namespace(path.to_owned()),
            (false, None) => Mapping::Ranges {
                uids: linux.map_or_else(Vec::new, |linux| listed(linux.uid_mappings())),
                gids: linux.map_or_else(Vec::new, |linux| listed(linux.gid_mappings())),
            },
        };
        Some(Self { reach, mapping })
    }

    /// Refuses half a mapping.
    pub(super) fn check(&self, field: &str) -> Result<()> {
        match &self.mapping {
            Mapping::Ranges { uids, gids } if uids.is_empty() || gids.is_empty() => {
                let message =
                    format!("{field}: id-mapped mounts must have both uid and gid mappings specified");
                Err(Error::new(ErrorKind::InvalidConfig, message))
            }
            Mapping::Ranges { .. } | Mapping::Namespace(_) => Ok(()),
        }
    }

    /// Gives the mapping to a detached tree. Runs outside of the container's user namespace, with its rights over the
    /// filesystem.
    pub(super) fn apply(&self, tree: BorrowedFd<'_>) -> Result<()> {
        let namespace = self.mapping.user_namespace()?;
        let extent = match self.reach {
            IdMapReach::Mount => Extent::Mount,
            IdMapReach::Tree => Extent::Tree,
        };
        let attempt = || "set MOUNT_ATTR_IDMAP by mount_setattr";
        set_attributes(tree, &Attributes::id_map(namespace.as_fd()), extent).map_err(|errno| {
            let error = Err::<(), _>(errno).context(attempt).err();
            let error = error.unwrap_or_else(|| Error::new(ErrorKind::System, attempt()));
            match errno {
                Errno::EINVAL => error.with_hint(
                    "maybe the filesystem does not support id-mapped mounts on this kernel, or is id-mapped already",
                ),
                _ => error,
            }
        })
    }
}

impl Mapping {
    fn user_namespace(&self) -> Result<OwnedFd> {
        match self {
            Mapping::Ranges { uids, gids } => mapping_namespace::user_namespace(&ranges(uids), &ranges(gids))
                .context(|| "make a user namespace for the mapping"),
            Mapping::Namespace(path) => open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .context(|| format!("open the user namespace {}", path.display())),
        }
    }
}

fn ranges(mappings: &[LinuxIdMapping]) -> Vec<IdRange> {
    mappings
        .iter()
        .map(|m| IdRange { inside: m.container_id(), outside: m.host_id(), size: m.size() })
        .collect()
}

/// The user namespace that the container joins by path.
fn joined_namespace(linux: Option<&Linux>) -> Option<&Path> {
    let namespaces = linux?.namespaces().as_ref()?;
    let user = namespaces.iter().find(|n| n.typ() == LinuxNamespaceType::User)?;
    user.path().as_deref().filter(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn planned(mount: &Value, word: Option<IdMapReach>, linux: &Value) -> Option<IdMap> {
        let mount: Mount = serde_json::from_value(mount.clone()).expect("a mount");
        let linux: Linux = serde_json::from_value(linux.clone()).expect("a linux section");
        IdMap::of(&mount, word, Some(&linux))
    }

    #[test]
    fn a_mapping_is_the_mounts_own_or_the_containers() {
        let range = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 10}]);
        let plain = json!({"destination": "/a"});
        let mapped = json!({"destination": "/a", "uidMappings": range(1), "gidMappings": range(2)});
        let made =
            json!({"uidMappings": range(3), "gidMappings": range(4), "namespaces": [{"type": "user"}]});
        let joined = json!({"namespaces": [{"type": "user", "path": "/proc/1/ns/user"}]});
        let first_host = |map: Option<IdMap>| match map.map(|map| map.mapping) {
            Some(Mapping::Ranges { uids, gids }) => (uids[0].host_id(), gids[0].host_id()),
            other => panic!("{other:?}"),
        };
        assert_eq!(planned(&plain, None, &made), None);
        assert_eq!(first_host(planned(&mapped, None, &made)), (1, 2));
        assert_eq!(first_host(planned(&mapped, Some(IdMapReach::Tree), &joined)), (1, 2));
        assert_eq!(first_host(planned(&plain, Some(IdMapReach::Mount), &made)), (3, 4));
        assert_eq!(planned(&mapped, None, &made).map(|map| map.reach), Some(IdMapReach::Mount));
        let of_joined = planned(&plain, Some(IdMapReach::Tree), &joined).expect("a mapping");
        assert_eq!(of_joined.mapping, Mapping::Namespace("/proc/1/ns/user".into()));
        let empty = json!({"destination": "/a", "uidMappings": [], "gidMappings": []});
        assert_eq!(planned(&empty, None, &made), None);
    }

    #[test]
    fn half_a_mapping_is_refused() {
        let half = json!({"destination": "/a", "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]});
        let map = planned(&half, None, &json!({})).expect("a mapping");
        let error = map.check("mounts[0].gidMappings").expect_err("half a mapping");
        assert!(error.to_string().contains("must have both uid and gid mappings specified"), "{error}");
    }
}
