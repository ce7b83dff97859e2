// SPDX-License-Identifier: Apache-2.0
//! A container's share of the cache and of the memory's bandwidth: `linux.intelRdt`, through the kernel's resctrl
//! filesystem (Documentation/filesystems/resctrl.rst).
//!
//! ```text
//!   resctrl/<closID, or the container's id>/schemata, tasks
//!   resctrl/<…>/mon_groups/<the container's id>/tasks          with monitoring
//! ```
//!
//! A group that the configuration names is shared and stays; one of the container's id is removed with it, if it was
//! made for it.

mod change;
mod statistics;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use change::RdtChange;
pub(super) use change::Undo;
pub use statistics::{CacheInfo, CacheOccupancy, MemoryBandwidth, MemoryBandwidthInfo, RdtStats};

use super::ContainerId;
use crate::spec::oci::{LinuxIntelRdt, Spec};
use crate::{Context, Error, ErrorKind, Result, sys};

/// The resources of the cache, together or by code and data, and of the memory's bandwidth.
const CACHE: [&str; 3] = ["L3", "L3CODE", "L3DATA"];
const MEMORY: [&str; 1] = ["MB"];

const WHAT_IT_NEEDS: &str =
    "it needs a processor with Intel RDT or AMD QoS, and resctrl mounted on /sys/fs/resctrl";

/// What is decided for a container.
#[derive(Debug)]
pub(super) struct RdtPlan {
    /// Where resctrl is mounted.
    root: PathBuf,
    group: PathBuf,
    /// The lines of `schemata`.
    schemata: String,
    /// Whether the configuration names the group.
    is_shared: bool,
    monitoring: Option<PathBuf>,
}

/// What is written down of a container's groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RdtGroups {
    /// Whose `tasks` the container's processes are in.
    pub joined: Vec<PathBuf>,
    /// What goes with the container, the innermost first.
    pub made: Vec<PathBuf>,
}

impl RdtPlan {
    /// That of a configuration, if it asks for it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for what this machine does not have, naming the field.
    pub(super) fn from_spec(spec: &Spec, id: &ContainerId) -> Result<Option<Self>> {
        let Some(config) = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) else {
            return Ok(None);
        };
        Self::beneath(mounted()?.as_deref(), config, id).map(Some)
    }

    /// The words are runc's.
    fn beneath(root: Option<&Path>, config: &LinuxIntelRdt, id: &ContainerId) -> Result<Self> {
        let refuse = |field: &str, why: &str| {
            let error = Error::new(ErrorKind::Unsupported, format!("field `linux.intelRdt{field}`: {why}"));
            Err(error.with_hint(WHAT_IT_NEEDS))
        };
        let Some(root) = root else {
            return refuse("", "intelRdt is specified in config, but Intel RDT is not supported or enabled");
        };
        let (cache, memory) = (text(config.l3_cache_schema()), text(config.mem_bw_schema()));
        if cache.is_some() && !has(root, &CACHE) {
            let why = "intelRdt.l3CacheSchema is specified in config, but Intel RDT/CAT is not enabled";
            return refuse(".l3CacheSchema", why);
        }
        if memory.is_some() && !has(root, &MEMORY) {
            let why = "intelRdt.memBwSchema is specified in config, but Intel RDT/MBA is not enabled";
            return refuse(".memBwSchema", why);
        }
        if monitors(config) && !has(root, &["L3_MON"]) {
            return refuse(".enableMonitoring", "this machine has no monitoring of Intel RDT");
        }
        let named = text(config.clos_id());
        let group = match named {
            Some("/") => root.to_owned(),
            Some(name) => root.join(name),
            None => root.join(id.as_str()),
        };
        let monitoring = monitors(config).then(|| group.join("mon_groups").join(id.as_str()));
        Ok(Self {
            root: root.to_owned(),
            schemata: schemata(config),
            is_shared: named.is_some(),
            monitoring,
            group,
        })
    }

    /// Whether there is nothing to set, so that a group that is named must be there already.
    fn must_exist(&self) -> bool {
        self.is_shared && self.schemata.is_empty()
    }

    /// Makes the groups that are missing, and sets them. `write_down` gets what would have to be removed again, before
    /// it is there.
    ///
    /// # Errors
    /// The group that cannot be made, or the values that the kernel refuses. What was made is to be removed.
    pub(super) fn create(&self, mut write_down: impl FnMut(&RdtGroups) -> Result<()>) -> Result<()> {
        let mut groups = RdtGroups { joined: vec![self.group.clone()], made: Vec::new() };
        if !self.group.is_dir() {
            if self.must_exist() {
                let message = format!(
                    "field `linux.intelRdt.closID`: clos dir not accessible (must be pre-created when \
                     l3CacheSchema, memBwSchema and schemata are empty): {}",
                    self.group.display()
                );
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            if !self.is_shared {
                groups.made.push(self.group.clone());
            }
            write_down(&groups)?;
            if !make(&self.group)? {
                groups.made.clear();
            }
        }
        if let Some(monitoring) = &self.monitoring {
            groups.joined.push(monitoring.clone());
            if !monitoring.is_dir() {
                groups.made.insert(0, monitoring.clone());
                write_down(&groups)?;
                if !make(monitoring)? {
                    groups.made.remove(0);
                }
            }
        }
        write_down(&groups)?;
        if self.schemata.is_empty() {
            return Ok(());
        }
        set(&self.root, &self.group, &self.schemata)
    }
}

impl RdtGroups {
    /// Puts processes into them, with all their threads. Their children follow.
    ///
    /// # Errors
    /// The file that cannot be written. A thread that has ended is none.
    pub(super) fn join(&self, pids: &[i32]) -> Result<()> {
        for group in &self.joined {
            let path = group.join("tasks");
            let context = || format!("put a process into the group of linux.intelRdt {}", group.display());
            let mut file = OpenOptions::new().append(true).open(&path).context(context)?;
            for thread in pids.iter().flat_map(|pid| threads(*pid)) {
                match file.write_all(thread.to_string().as_bytes()) {
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                    written => written.context(context)?,
                }
            }
        }
        Ok(())
    }

    /// Removes what was made for the container.
    ///
    /// # Errors
    /// What stays.
    pub(super) fn remove(&self) -> Result<()> {
        for group in &self.made {
            match fs::remove_dir(group) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                removed => {
                    removed.context(|| format!("remove the group of linux.intelRdt {}", group.display()))?;
                }
            }
        }
        Ok(())
    }
}

/// Where resctrl is mounted, if it is.
fn mounted() -> Result<Option<PathBuf>> {
    let mounts = sys::mountinfo::read().context(|| "read /proc/thread-self/mountinfo")?;
    Ok(mounts.into_iter().find(|mount| mount.fstype == "resctrl").map(|mount| mount.mount_point))
}

/// Whether the machine has one of these resources.
fn has(root: &Path, names: &[&str]) -> bool {
    names.iter().any(|name| root.join("info").join(name).is_dir())
}

/// Sets the lines of a group; those of other resources stay.
fn set(root: &Path, group: &Path, lines: &str) -> Result<()> {
    let file = group.join("schemata");
    let Err(error) = fs::write(&file, lines) else { return Ok(()) };
    let mut message = format!(
        "write the schemata of linux.intelRdt ({}) to {}",
        lines.trim_end().replace('\n', "; "),
        file.display()
    );
    // The kernel's reason in words, if it gives one.
    if let Ok(reason) = fs::read_to_string(root.join("info/last_cmd_status")) {
        message = format!("{message}: last_cmd_status: {}", reason.trim());
    }
    Err(Error::new(ErrorKind::System, message).with_source(error))
}

/// Whether it was made now, and not by somebody else meanwhile.
fn make(group: &Path) -> Result<bool> {
    match fs::create_dir(group) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
            let message = format!("make the group of linux.intelRdt {}", group.display());
            Err(Error::new(ErrorKind::Unsupported, message).with_source(e).with_hint(
                "the processor has no class of service (CLOSID) or monitoring id left: remove a group of resctrl",
            ))
        }
        made => {
            made.map(|()| true).context(|| format!("make the group of linux.intelRdt {}", group.display()))
        }
    }
}

fn threads(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let names = tasks.into_iter().flatten().filter_map(io::Result::ok).map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).collect()
}

fn text(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}

fn monitors(config: &LinuxIntelRdt) -> bool {
    #[allow(deprecated)] // a configuration may still carry them
    let earlier = [config.enable_cmt(), config.enable_mbm()];
    earlier.into_iter().chain([config.enable_monitoring()]).any(|wanted| *wanted == Some(true))
}

/// The runtime specification: lines about memory in `l3CacheSchema` do not count beside `memBwSchema`, and `schemata`
/// have the last word.
fn schemata(config: &LinuxIntelRdt) -> String {
    let (cache, memory) = (text(config.l3_cache_schema()), text(config.mem_bw_schema()));
    let mut lines: Vec<&str> = cache
        .into_iter()
        .flat_map(str::lines)
        .filter(|line| memory.is_none() || !line.trim_start().starts_with("MB:"))
        .collect();
    lines.extend(memory.into_iter().flat_map(str::lines));
    lines.extend(config.schemata().iter().flatten().map(String::as_str));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A machine with everything, as files.
    pub(in crate::engine::intel_rdt) fn machine() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("tempdir");
        for dir in ["info/L3", "info/MB", "info/L3_MON", "mon_groups"] {
            fs::create_dir_all(root.path().join(dir)).expect("mkdir");
        }
        root
    }

    fn plan(root: Option<&Path>, config: Value) -> Result<RdtPlan> {
        let config: LinuxIntelRdt = serde_json::from_value(config).expect("of the right types");
        RdtPlan::beneath(root, &config, &"web".parse().expect("an id"))
    }

    fn create(plan: &RdtPlan) -> Result<RdtGroups> {
        let mut written = RdtGroups::default();
        let created = plan.create(|groups| {
            written = groups.clone();
            // The kernel makes it with the group.
            fs::create_dir_all(plan.group.join("mon_groups")).context(|| "mkdir").or(Ok(()))
        });
        created.map(|()| written)
    }

    #[test]
    fn a_machine_without_it_is_told_by_the_field() {
        let root = tempfile::tempdir().expect("tempdir");
        for (config, field) in [
            (json!({"l3CacheSchema": "L3:0=f"}), "linux.intelRdt.l3CacheSchema"),
            (json!({"memBwSchema": "MB:0=10"}), "linux.intelRdt.memBwSchema"),
            (json!({"enableMonitoring": true}), "linux.intelRdt.enableMonitoring"),
        ] {
            let error = plan(Some(root.path()), config.clone()).expect_err(field);
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(field), "{error}");
            let error = plan(None, config).expect_err("no resctrl");
            assert!(error.to_string().contains("`linux.intelRdt`: intelRdt is specified"), "{error}");
        }
    }

    #[test]
    fn a_group_of_its_own_goes_with_the_container() {
        let root = machine();
        let plan =
            plan(Some(root.path()), json!({"l3CacheSchema": "L3:0=f\nMB:0=5", "memBwSchema": "MB:0=10"}));
        let plan = plan.expect("supported");
        fs::create_dir(root.path().join("other")).expect("mkdir");
        let mut written = Vec::new();
        plan.create(|groups| {
            written.push(groups.clone());
            Ok(())
        })
        .expect("created");
        let group = root.path().join("web");
        assert_eq!(written[0].made, std::slice::from_ref(&group), "written down before it is made");
        assert_eq!(fs::read_to_string(group.join("schemata")).expect("read"), "L3:0=f\nMB:0=10\n");
        fs::write(group.join("tasks"), "").expect("write");
        written[0].join(&[std::process::id() as i32]).expect("joined");
        assert!(
            fs::read_to_string(group.join("tasks")).expect("read").contains(&std::process::id().to_string())
        );
        // They go with the directory, in the kernel's filesystem.
        fs::remove_file(group.join("tasks"))
            .and_then(|()| fs::remove_file(group.join("schemata")))
            .expect("remove");
        written[0].remove().expect("removed");
        assert!(!group.exists() && root.path().join("other").exists());
        written[0].remove().expect("twice does no harm");
    }

    #[test]
    fn a_group_that_was_there_stays() {
        let root = machine();
        for (config, name) in [
            (json!({"closID": "shared", "schemata": ["L3:0=3", "MB:0=20"]}), "shared"),
            (json!({"schemata": ["L3:0=3"]}), "web"),
        ] {
            fs::create_dir(root.path().join(name)).expect("mkdir");
            let groups = create(&plan(Some(root.path()), config).expect("supported")).expect("created");
            assert_eq!(groups, RdtGroups { joined: vec![root.path().join(name)], made: Vec::new() });
        }
        let schemata = fs::read_to_string(root.path().join("shared/schemata")).expect("read");
        assert_eq!(schemata, "L3:0=3\nMB:0=20\n");
        let groups = create(&plan(Some(root.path()), json!({"closID": "/"})).expect("supported"));
        assert_eq!(groups.expect("the root").joined, [root.path().to_owned()]);
    }

    #[test]
    fn a_named_group_with_nothing_to_set_must_be_there() {
        let root = machine();
        let wanted = plan(Some(root.path()), json!({"closID": "absent"})).expect("supported");
        let error = create(&wanted).expect_err("it is not there");
        assert!(error.to_string().contains("clos dir not accessible"), "{error}");
        let made =
            plan(Some(root.path()), json!({"closID": "named", "schemata": ["L3:0=1"]})).expect("supported");
        assert!(create(&made).expect("created").made.is_empty(), "others may use it by now");
        assert!(root.path().join("named").is_dir());
    }

    #[test]
    fn monitoring_has_a_group_of_the_container() {
        let root = machine();
        fs::create_dir_all(root.path().join("shared/mon_groups")).expect("mkdir");
        for field in ["enableMonitoring", "enableCMT", "enableMBM"] {
            let config = json!({"closID": "shared", field: true});
            let config: LinuxIntelRdt = serde_json::from_value(config).expect("of the right types");
            if !monitors(&config) {
                continue;
            }
            let groups = create(
                &RdtPlan::beneath(Some(root.path()), &config, &"web".parse().expect("an id"))
                    .expect("supported"),
            )
            .expect("created");
            let monitoring = root.path().join("shared/mon_groups/web");
            assert_eq!(groups.made, std::slice::from_ref(&monitoring), "{field}");
            assert_eq!(groups.joined, [root.path().join("shared"), monitoring.clone()]);
            groups.remove().expect("removed");
            assert!(!monitoring.exists() && root.path().join("shared").exists());
        }
    }
}
