// SPDX-License-Identifier: Apache-2.0
//! The user namespace of a container: which ids of the host its ids are, and how the kernel is told.
//!
//! | the configuration | where the maps come from | who writes them |
//! | --- | --- | --- |
//! | type `user`, no path | `linux.uidMappings`, `linux.gidMappings` | we, or newuidmap(1) where we may not |
//! | type `user`, path | the namespace itself; mappings beside the path must be the same | nobody |
//!
//! Must not know what is done with the ids.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Pid, getegid, geteuid};
use serde::{Deserialize, Serialize};

use super::namespaces::Namespaces;
use crate::spec::oci::{LinuxIdMapping, Process, Spec, User};
use crate::sys::id_maps::IdMaps;
use crate::{Context, Error, ErrorKind, Result};

/// A run of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdMapping {
    /// The first id in the container.
    pub container: u32,
    /// The id of the host that it is.
    pub host: u32,
    /// How many follow, the first included.
    pub size: u32,
}

/// The ids of a container that has a user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNamespace {
    uids: Vec<IdMapping>,
    gids: Vec<IdMapping>,
    setgroups_denied: bool,
    new: bool,
    /// User and group in the namespace that set the container up: 0, or the process's own where 0 is not mapped.
    setup: (u32, u32),
}

impl UserNamespace {
    /// That of a configuration; `None` when the container shares ours.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when mappings beside a path are not those of the namespace there, or when there is
    /// no root in it; else the error of looking at that namespace.
    pub fn from_spec(spec: &Spec) -> Result<Option<Self>> {
        let Some(place) = Namespaces::from_spec(spec).user() else { return Ok(None) };
        let linux = spec.linux().as_ref();
        let configured = |list: Option<&Vec<LinuxIdMapping>>| -> Vec<IdMapping> {
            list.into_iter().flatten().map(IdMapping::from).collect()
        };
        let uids = configured(linux.and_then(|l| l.uid_mappings().as_ref()));
        let gids = configured(linux.and_then(|l| l.gid_mappings().as_ref()));
        let found = match place {
            None => {
                Self { setgroups_denied: needs_no_privilege(&gids), uids, gids, new: true, setup: (0, 0) }
            }
            Some(path) => Self::at(&path, &uids, &gids)?,
        };
        let found = found.set_up_by(spec.process().as_ref().map(Process::user));
        found.root()?;
        Ok(Some(found))
    }

    /// That of a process, which another one joins as this user; `None` when it shares ours.
    ///
    /// # Errors
    /// When the process is gone, or its maps are none.
    pub(super) fn of_process(pid: Pid, user: &User) -> Result<Option<Self>> {
        let inode = |pid| crate::sys::proc::namespace_inode(pid, "user");
        let own = inode(Pid::this()).context(|| "stat /proc/self/ns/user")?;
        match inode(pid) {
            Ok(other) if other == own => return Ok(None),
            // Who may not look has no share in it either.
            Err(e) if e.kind() != io::ErrorKind::PermissionDenied => {
                return Err(e).context(|| format!("stat /proc/{pid}/ns/user"));
            }
            _ => {}
        }
        let maps = IdMaps::of_process(pid).context(|| format!("read the id maps of process {pid}"))?;
        Ok(Some(Self::joined(&maps)?.set_up_by(Some(user))))
    }

    fn set_up_by(mut self, user: Option<&User>) -> Self {
        let choose = |map: &[IdMapping], own: Option<u32>| match host_id(map, 0) {
            Some(_) => 0,
            None => own.unwrap_or(0),
        };
        self.setup = (choose(&self.uids, user.map(User::uid)), choose(&self.gids, user.map(User::gid)));
        self
    }

    fn at(path: &Path, uids: &[IdMapping], gids: &[IdMapping]) -> Result<Self> {
        let maps = File::open(path)
            .and_then(|file| IdMaps::of_namespace(file.as_fd()))
            .context(|| format!("read the id maps of the user namespace {}", path.display()))?;
        let found = Self::joined(&maps)?;
        for (configured, there, field) in
            [(uids, &found.uids, "linux.uidMappings"), (gids, &found.gids, "linux.gidMappings")]
        {
            if !configured.is_empty() && sorted(configured) != sorted(there) {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!(
                        "invalid configuration: field `{field}` is not what {} has: user namespaces enabled, but both \
                         namespace path and non-matching mapping specified -- you may only provide one",
                        path.display()
                    ),
                )
                .with_hint("leave the mappings out: those of the namespace count"));
            }
        }
        Ok(found)
    }

    fn joined(maps: &IdMaps) -> Result<Self> {
        Ok(Self {
            uids: parse(&maps.uid_map)?,
            gids: parse(&maps.gid_map)?,
            setgroups_denied: maps.setgroups_denied,
            new: false,
            setup: (0, 0),
        })
    }

    /// User and group on the host of those in the container; `None` of what is not mapped.
    pub fn to_host(&self, (uid, gid): (u32, u32)) -> Option<(u32, u32)> {
        Some((host_id(&self.uids, uid)?, host_id(&self.gids, gid)?))
    }

    /// User and group in the container of those on the host; `None` of what is not mapped.
    pub fn to_container(&self, (uid, gid): (u32, u32)) -> Option<(u32, u32)> {
        Some((container_id(&self.uids, uid)?, container_id(&self.gids, gid)?))
    }

    /// The ids on the host of the container's root and its group or, where there is no root, of its process.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when neither is mapped.
    pub fn root(&self) -> Result<(u32, u32)> {
        let find = |list: &[IdMapping], id: u32, field: &str| {
            host_id(list, id).ok_or_else(|| {
                let who = if id == 0 { String::new() } else { format!(" nor the process's own {id}") };
                let message = format!(
                    "invalid configuration: field `{field}` does not map the id 0, the container's root,{who}"
                );
                Error::new(ErrorKind::InvalidConfig, message.trim_end_matches(',').to_owned())
            })
        };
        let (uid, gid) = self.setup;
        Ok((find(&self.uids, uid, "linux.uidMappings")?, find(&self.gids, gid, "linux.gidMappings")?))
    }

    /// User and group in the namespace of those who set the container up.
    pub(super) fn setup_ids(&self) -> (u32, u32) {
        self.setup
    }

    /// Whether the process's ids exist in the namespace, and whether it may have further groups.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], naming the field of `process.user`.
    pub(super) fn check_user(&self, user: &User) -> Result<()> {
        let unmapped = |field: &str, id: u32| {
            let message = format!(
                "invalid configuration: field `process.user.{field}`: {id} is not mapped in the user namespace"
            );
            Err(Error::new(ErrorKind::InvalidConfig, message))
        };
        if host_id(&self.uids, user.uid()).is_none() {
            return unmapped("uid", user.uid());
        }
        if host_id(&self.gids, user.gid()).is_none() {
            return unmapped("gid", user.gid());
        }
        for gid in user.additional_gids().iter().flatten() {
            if self.setgroups_denied {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    "invalid configuration: field `process.user.additionalGids`: cannot set any additional groups \
                     in a rootless container",
                )
                .with_hint("setgroups(2) is denied in its user namespace: it needs mappings made by newgidmap"));
            }
            if host_id(&self.gids, *gid).is_none() {
                return unmapped("additionalGids", *gid);
            }
        }
        Ok(())
    }

    /// What init must know.
    pub(super) fn plan(&self) -> UserNamespacePlan {
        let (uid, gid) = self.setup;
        UserNamespacePlan { uid, gid }
    }

    /// Tells the kernel the ids of a new namespace, in which the process is the only one.
    ///
    /// # Errors
    /// What could not be written, or the failure of newuidmap(1) or newgidmap(1). Nothing for a namespace by path.
    pub(super) fn write_maps(&self, pid: Pid) -> Result<()> {
        if !self.new {
            return Ok(());
        }
        if self.setgroups_denied {
            write(pid, "setgroups", "deny").context(|| format!("write deny to /proc/{pid}/setgroups"))?;
        }
        write_map(pid, "gid_map", "newgidmap", &self.gids)?;
        write_map(pid, "uid_map", "newuidmap", &self.uids)
    }
}

/// What init must know of the user namespace that it is in.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct UserNamespacePlan {
    /// Whom init is in it until it becomes the process's user.
    pub uid: u32,
    /// The same for groups.
    pub gid: u32,
}

impl From<&LinuxIdMapping> for IdMapping {
    fn from(mapping: &LinuxIdMapping) -> Self {
        Self { container: mapping.container_id(), host: mapping.host_id(), size: mapping.size() }
    }
}

/// Whether anybody may write this map of groups: himself alone, and only where setgroups(2) is denied
/// (user_namespaces(7)).
fn needs_no_privilege(gids: &[IdMapping]) -> bool {
    let own = IdMapping { container: 0, host: getegid().as_raw(), size: 1 };
    !geteuid().is_root() && gids == [own]
}

fn write_map(pid: Pid, file: &str, tool: &str, map: &[IdMapping]) -> Result<()> {
    let attempt = || format!("write /proc/{pid}/{file}");
    match write(pid, file, &text(map)) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            run_tool(tool, pid, map).context(|| format!("{} is refused to this caller", attempt()))
        }
        written => written.context(attempt),
    }
}

/// The kernel takes a map in one write only.
fn write(pid: Pid, file: &str, text: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/{file}"))?.write_all(text.as_bytes())
}

fn text(map: &[IdMapping]) -> String {
    map.iter().map(|m| format!("{} {} {}\n", m.container, m.host, m.size)).collect()
}

/// The set-user-ID programs that write what `/etc/subuid` and `/etc/subgid` give to the caller.
fn run_tool(tool: &str, pid: Pid, map: &[IdMapping]) -> Result<()> {
    let numbers = map.iter().flat_map(|m| [m.container, m.host, m.size]).map(|n| n.to_string());
    let failed = |why: String| {
        Error::new(ErrorKind::PermissionDenied, format!("{tool} {pid}: {why}")).with_hint(format!(
            "a caller who is not root maps its own ids only; for more, install {tool} (package uidmap) and give the \
             caller ids in /etc/subuid and /etc/subgid"
        ))
    };
    match Command::new(tool).arg(pid.to_string()).args(numbers).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(failed(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())),
        Err(e) => Err(failed(e.to_string())),
    }
}

fn host_id(map: &[IdMapping], id: u32) -> Option<u32> {
    map.iter().find_map(|m| {
        let offset = id.checked_sub(m.container).filter(|offset| *offset < m.size)?;
        m.host.checked_add(offset)
    })
}

fn container_id(map: &[IdMapping], id: u32) -> Option<u32> {
    map.iter().find_map(|m| {
        let offset = id.checked_sub(m.host).filter(|offset| *offset < m.size)?;
        m.container.checked_add(offset)
    })
}

fn parse(text: &str) -> Result<Vec<IdMapping>> {
    let line = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        Some(IdMapping { container: next()?, host: next()?, size: next()? })
    };
    text.lines().map(line).collect::<Option<_>>().ok_or_else(|| {
        Error::new(ErrorKind::System, format!("the kernel's id map is not three numbers a line: {text:?}"))
    })
}

fn sorted(map: &[IdMapping]) -> Vec<IdMapping> {
    let mut map = map.to_vec();
    map.sort_unstable();
    map
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn new(uids: &serde_json::Value) -> Result<Option<UserNamespace>> {
        let json = json!({"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": "user"}],
            "uidMappings": uids, "gidMappings": [{"containerID": 0, "hostID": 200, "size": 10}]}});
        UserNamespace::from_spec(&serde_json::from_value(json).expect("a valid configuration"))
    }

    #[test]
    fn ids_are_found_in_the_runs() {
        let uids = json!([{"containerID": 1, "hostID": 5000, "size": 10}, {"containerID": 0, "hostID": 7, "size": 1}]);
        let ids = new(&uids).expect("valid").expect("a user namespace");
        assert_eq!(ids.root().expect("mapped"), (7, 200));
        assert_eq!(host_id(&ids.uids, 10), Some(5009));
        assert_eq!(host_id(&ids.uids, 11), None);
        assert_eq!(text(&ids.uids), "1 5000 10\n0 7 1\n");
        assert!(!ids.setgroups_denied);
    }

    #[test]
    fn a_namespace_without_a_root_is_refused() {
        let error = new(&json!([{"containerID": 1, "hostID": 5000, "size": 10}])).expect_err("no root");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("`linux.uidMappings` does not map the id 0"), "{error}");
    }

    #[test]
    fn without_a_root_the_process_sets_itself_up() {
        let map = json!([{"containerID": 1000, "hostID": 5000, "size": 1}]);
        let json = |uid: u32| {
            let json = json!({"ociVersion": "1.0.2", "process": {"cwd": "/", "user": {"uid": uid, "gid": 1000}},
                "linux": {"namespaces": [{"type": "user"}], "uidMappings": map, "gidMappings": map}});
            UserNamespace::from_spec(&serde_json::from_value(json).expect("a valid configuration"))
        };
        let found = json(1000).expect("valid").expect("a user namespace");
        assert_eq!(found.setup_ids(), (1000, 1000));
        assert_eq!(found.root().expect("mapped"), (5000, 5000));
        let error = json(7).expect_err("not mapped").to_string();
        assert!(
            error.ends_with("does not map the id 0, the container's root, nor the process's own 7"),
            "{error}"
        );
    }

    #[test]
    fn a_user_who_is_not_mapped_is_named() {
        let ids =
            new(&json!([{"containerID": 0, "hostID": 5000, "size": 10}])).expect("valid").expect("user");
        let check = |user| ids.check_user(&serde_json::from_value(user).expect("a user"));
        check(json!({"uid": 9, "gid": 9, "additionalGids": [1]})).expect("all of them are mapped");
        for (user, field) in [
            (json!({"uid": 10, "gid": 0}), "process.user.uid"),
            (json!({"uid": 0, "gid": 10}), "process.user.gid"),
            (json!({"uid": 0, "gid": 0, "additionalGids": [3, 11]}), "process.user.additionalGids"),
        ] {
            let error = check(user).expect_err(field);
            assert!(error.to_string().contains(field), "{error}");
        }
    }

    #[test]
    fn the_kernels_maps_read_back() {
        let map =
            parse("         0     100000      65536\n     65536          7          1\n").expect("a map");
        assert_eq!(map[1], IdMapping { container: 65536, host: 7, size: 1 });
        parse("0 1\n").expect_err("two numbers");
    }
}
