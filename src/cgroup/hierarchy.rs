// SPDX-License-Identifier: Apache-2.0
//! The cgroup hierarchies of this host: which controllers are mounted where, and where a process is in each.
//!
//! Pure parsers over the text of `/proc/self/mountinfo` and `/proc/self/cgroup`, with a thin shell that reads them.
//! Must not know containers. Source: cgroups(7).

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::visible::cgroup_mounts;
use crate::sys::mountinfo::{self, MountInfo};
use crate::sys::proc;
use crate::{Context, Error, ErrorKind, Result};

/// The interface that a hierarchy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// One hierarchy per controller or group of controllers.
    V1,
    /// The unified hierarchy.
    V2,
}

/// How this host lays out its hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// v1 hierarchies only.
    V1,
    /// v1 hierarchies and, beside them, the unified one.
    Hybrid,
    /// The unified hierarchy only.
    Unified,
}

/// One mounted hierarchy, and where the process that looked is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    controllers: Vec<String>,
    version: Version,
    mountpoint: PathBuf,
    own: PathBuf,
}

impl Hierarchy {
    /// The v1 controllers mounted together here, `name=…` for a named hierarchy, none for v2.
    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// The interface that it speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The cgroup of the process that looked, relative to the mount point; empty for its top, and for a cgroup
    /// that this mount does not show.
    pub fn own(&self) -> &Path {
        &self.own
    }
}

/// Names the hierarchy in messages: `cpu,cpuacct`, `name=systemd`, `unified`.
impl fmt::Display for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&label(&self.controllers))
    }
}

pub(super) fn label(controllers: &[String]) -> String {
    if controllers.is_empty() { "unified".to_owned() } else { controllers.join(",") }
}

/// All mounted hierarchies of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// Reads the mount table and the cgroups of the calling process.
    ///
    /// # Errors
    /// `/proc` cannot be read, or no cgroup hierarchy is mounted.
    pub fn detect() -> Result<Self> {
        Self::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
    }

    /// [`Hierarchies::detect`] over given text: a process's `mountinfo` and `cgroup` files.
    ///
    /// # Errors
    /// A line of `cgroup` is malformed, or no cgroup hierarchy is mounted.
    pub fn parse(mounts: &str, cgroup: &str) -> Result<Self> {
        let table = mountinfo::parse(mounts.as_bytes()).context(|| "understand the mount table")?;
        let mounts = cgroup_mounts(&table);
        let found: Vec<Hierarchy> = parse_process_cgroups(cgroup)?
            .into_iter()
            .filter_map(|line| {
                let mount = best_mount(&mounts, &line.controllers)?;
                Some(Hierarchy {
                    version: if line.controllers.is_empty() { Version::V2 } else { Version::V1 },
                    controllers: line.controllers,
                    mountpoint: mount.mount_point.clone(),
                    own: below_mount(&line.path, &mount.root),
                })
            })
            .collect();
        if found.is_empty() {
            return Err(Error::new(ErrorKind::Unsupported, "no cgroup hierarchy is mounted")
                .with_hint("mount one: mount -t cgroup2 none /sys/fs/cgroup"));
        }
        Ok(Self(found))
    }

    /// Every hierarchy, in the order of `/proc/self/cgroup`.
    pub fn iter(&self) -> std::slice::Iter<'_, Hierarchy> {
        self.0.iter()
    }

    /// How this host lays them out.
    pub fn layout(&self) -> Layout {
        let v1 = self.0.iter().any(|h| h.version == Version::V1);
        let v2 = self.0.iter().any(|h| h.version == Version::V2);
        match (v1, v2) {
            (false, _) => Layout::Unified,
            (true, true) => Layout::Hybrid,
            (true, false) => Layout::V1,
        }
    }

    /// The v1 hierarchy with this controller (or `name=…`); the unified one for the empty name.
    pub fn with_controller(&self, controller: &str) -> Option<&Hierarchy> {
        self.0.iter().find(|h| match h.version {
            Version::V2 => controller.is_empty(),
            Version::V1 => h.controllers.iter().any(|c| c == controller),
        })
    }
}

impl<'a> IntoIterator for &'a Hierarchies {
    type Item = &'a Hierarchy;
    type IntoIter = std::slice::Iter<'a, Hierarchy>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Where a process is in one hierarchy: a line of `/proc/PID/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessCgroup {
    /// The v1 controllers mounted together, or `name=…`; none for v2.
    pub controllers: Vec<String>,
    /// The cgroup, from the root of the reader's cgroup namespace; begins with a slash.
    pub path: PathBuf,
}

impl ProcessCgroup {
    /// The controllers as CRIU's `cg_root.ctrl` wants them: joined by commas, empty for v2.
    pub fn controller_list(&self) -> String {
        self.controllers.join(",")
    }
}

/// The cgroups of a process in every hierarchy, mounted or not.
///
/// # Errors
/// There is no such process, or its file cannot be read.
pub fn self_cgroups(pid: i32) -> Result<Vec<ProcessCgroup>> {
    parse_process_cgroups(&read(&format!("/proc/{pid}/cgroup"))?)
}

fn parse_process_cgroups(text: &str) -> Result<Vec<ProcessCgroup>> {
    text.lines()
        .map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            match (fields.next(), fields.next()) {
                (Some(controllers), Some(path)) => Ok(ProcessCgroup {
                    controllers: controllers
                        .split(',')
                        .filter(|c| !c.is_empty())
                        .map(str::to_owned)
                        .collect(),
                    path: PathBuf::from(path),
                }),
                _ => {
                    Err(Error::new(ErrorKind::System, format!("parse the cgroup line {line:?} of a process")))
                }
            }
        })
        .collect()
}

/// Of several mounts of a hierarchy, the one under `/sys/fs/cgroup`, then the one that shows most of it, then the
/// first: bind mounts in containers' root filesystems stand in the same table.
fn best_mount<'a>(mounts: &[&'a MountInfo], controllers: &[String]) -> Option<&'a MountInfo> {
    let shows = |mount: &MountInfo| match controllers.first() {
        None => mount.fstype == "cgroup2",
        Some(controller) => {
            mount.fstype == "cgroup" && mount.super_options.split(',').any(|o| o == controller)
        }
    };
    mounts.iter().copied().filter(|mount| shows(mount)).min_by_key(|mount| {
        (!mount.mount_point.starts_with("/sys/fs/cgroup"), mount.root.components().count())
    })
}

/// A cgroup as a path relative to a mount of its hierarchy that shows `root`; the top if the mount does not show it.
fn below_mount(cgroup: &Path, root: &Path) -> PathBuf {
    let below = cgroup.strip_prefix(root).unwrap_or(Path::new(""));
    if below.components().all(|c| matches!(c, std::path::Component::Normal(_))) {
        below.to_path_buf()
    } else {
        PathBuf::new()
    }
}

fn read(path: &str) -> Result<String> {
    let bytes = proc::read_short(Path::new(path)).context(|| format!("read {path}"))?;
    String::from_utf8(bytes).context_kind(ErrorKind::System, || format!("read {path}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const HYBRID_MOUNTS: &str = "\
23 1 0:21 / /sys rw - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    pub(crate) const HYBRID_CGROUPS: &str = "\
9:name=systemd:/
6:freezer:/
4:memory:/jobs/d302
2:cpuacct:/
1:cpu:/
0::/
";
    pub(crate) const UNIFIED_MOUNTS: &str = "\
25 1 0:22 / /sys rw - sysfs sysfs rw
30 25 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";
    const COMOUNTED_MOUNTS: &str = "\
25 1 0:22 / /sys rw - sysfs sysfs rw
30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/systemd/systemd-cgroups-agent,name=systemd
36 30 0:32 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct
37 30 0:33 / /sys/fs/cgroup/net_cls,net_prio rw shared:16 - cgroup cgroup rw,net_cls,net_prio
";
    const COMOUNTED_CGROUPS: &str = "\
7:net_cls,net_prio:/
3:cpu,cpuacct:/user.slice
1:name=systemd:/user.slice/user-0.slice/session-1.scope
";

    fn shape(h: &Hierarchies) -> Vec<(String, String, String)> {
        h.iter()
            .map(|h| (h.to_string(), h.mountpoint().display().to_string(), h.own().display().to_string()))
            .collect()
    }

    fn row(a: &str, b: &str, c: &str) -> (String, String, String) {
        (a.to_owned(), b.to_owned(), c.to_owned())
    }

    #[test]
    fn hybrid_with_an_own_path_that_differs_per_controller() {
        let h = Hierarchies::parse(HYBRID_MOUNTS, HYBRID_CGROUPS).expect("recorded");
        assert_eq!(h.layout(), Layout::Hybrid);
        // cpuacct has a line but no mount: left out.
        assert_eq!(
            shape(&h),
            [
                row("name=systemd", "/sys/fs/cgroup/systemd", ""),
                row("freezer", "/sys/fs/cgroup/freezer", ""),
                row("memory", "/sys/fs/cgroup/memory", "jobs/d302"),
                row("cpu", "/sys/fs/cgroup/cpu", ""),
                row("unified", "/sys/fs/cgroup/unified", ""),
            ]
        );
        assert_eq!(h.with_controller("").map(Hierarchy::version), Some(Version::V2));
        assert!(h.with_controller("blkio").is_none());
    }

    #[test]
    fn pure_v2_and_v1_with_controllers_mounted_together() {
        let h = Hierarchies::parse(UNIFIED_MOUNTS, "0::/user.slice/session-1.scope\n").expect("recorded");
        assert_eq!(h.layout(), Layout::Unified);
        assert_eq!(shape(&h), [row("unified", "/sys/fs/cgroup", "user.slice/session-1.scope")]);

        let h = Hierarchies::parse(COMOUNTED_MOUNTS, COMOUNTED_CGROUPS).expect("recorded");
        assert_eq!(h.layout(), Layout::V1);
        assert_eq!(
            shape(&h),
            [
                row("net_cls,net_prio", "/sys/fs/cgroup/net_cls,net_prio", ""),
                row("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "user.slice"),
                row("name=systemd", "/sys/fs/cgroup/systemd", "user.slice/user-0.slice/session-1.scope"),
            ]
        );
        assert!(h.with_controller("cpuacct").is_some());
    }

    #[test]
    fn inside_a_container_the_mount_shows_only_a_part() {
        let mounts = "30 1 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      31 30 0:27 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n\
                      32 30 0:28 /docker/abc /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n\
                      33 30 0:29 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw\n";
        let h = Hierarchies::parse(mounts, "2:pids:/elsewhere\n1:cpu:/docker/abc/sub\n0::/../../x\n")
            .expect("recorded");
        assert_eq!(
            shape(&h),
            [
                row("pids", "/sys/fs/cgroup/pids", ""),
                row("cpu", "/sys/fs/cgroup/cpu", "sub"),
                row("unified", "/sys/fs/cgroup/unified", ""),
            ]
        );
    }

    #[test]
    fn mounts_of_other_containers_do_not_count() {
        let foreign = "50 1 0:29 /c1 /srv/c1/rootfs/sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                       51 1 0:38 / /mnt/v2 rw - cgroup2 none rw\n";
        let h = Hierarchies::parse(&format!("{foreign}{HYBRID_MOUNTS}{foreign}"), HYBRID_CGROUPS)
            .expect("recorded");
        assert_eq!(h, Hierarchies::parse(HYBRID_MOUNTS, HYBRID_CGROUPS).expect("recorded"));
    }

    #[test]
    fn no_hierarchy_or_a_damaged_line_is_an_error() {
        let error = Hierarchies::parse("", HYBRID_CGROUPS).expect_err("nothing is mounted");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(Hierarchies::parse(UNIFIED_MOUNTS, "0:\n").is_err());
    }

    #[test]
    fn the_cgroups_of_a_process_in_criu_s_spelling() {
        let lines =
            parse_process_cgroups("3:cpu,cpuacct:/a:b\n1:name=systemd:/x\n0::/y\n").expect("well formed");
        let lists: Vec<String> = lines.iter().map(ProcessCgroup::controller_list).collect();
        assert_eq!(lists, ["cpu,cpuacct", "name=systemd", ""]);
        assert_eq!(lines[0].path, Path::new("/a:b"));
    }
}
