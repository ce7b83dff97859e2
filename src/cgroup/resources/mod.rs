// SPDX-License-Identifier: Apache-2.0
//! `linux.resources` as writes to cgroup files. Pure: values in, an ordered list of [`Write`]s out.
//!
//! Owns the conversions between the specification's v1 vocabulary and v2, the order in which the kernel accepts a
//! change, and the validation of values; every message names the field of the configuration. Must not know where a
//! hierarchy is mounted. Sources: runtime-spec config-linux.md, kernel admin-guide/cgroup-v1 and cgroup-v2.rst.
//!
//! Zero means "leave as it is" for memory, cpu, blkio weights and pids, as it does in other runtimes. For pids the
//! newest specification gives zero a meaning of its own, but the data type cannot tell it from an absent limit, and
//! a container without a single task is not what anybody writes it for.

mod block_io;
mod cpu;
mod device_program;
mod devices;
mod memory;
mod spared;
mod undo;

use crate::spec::oci::{LinuxHugepageLimit, LinuxNetwork, LinuxPids, LinuxRdma, LinuxResources};

use super::hierarchy::Version;
use crate::{Error, ErrorKind, Result};

pub use device_program::DeviceProgram;
pub use devices::{Allowed as AllowedDevices, DeviceTable, Kind as DeviceKind};
pub use spared::without_tight_limits;

/// One value for one file of one controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The controller whose hierarchy holds the file (`memory`; v2: also `cgroup` for core files).
    pub controller: String,
    /// The file in the container's cgroup.
    pub file: String,
    /// What to write, in one write(2).
    pub value: String,
    /// The field of the configuration that asks for it.
    pub field: &'static str,
    /// What to do when there is no such file.
    pub missing: Missing,
}

/// What to do when a kernel has no such file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The limit cannot be met: an error.
    Fail,
    /// Nothing is lost: go on.
    Skip,
    /// Another file has the same meaning, possibly on another scale: this file, this value.
    Use(String, String),
}

#[expect(clippy::needless_pass_by_value, reason = "callers have numbers as often as strings")]
impl Write {
    fn new(controller: &str, file: impl Into<String>, value: impl ToString, field: &'static str) -> Self {
        Self {
            controller: controller.to_owned(),
            file: file.into(),
            value: value.to_string(),
            field,
            missing: Missing::Fail,
        }
    }

    fn or_skip(mut self) -> Self {
        self.missing = Missing::Skip;
        self
    }

    fn or_use(mut self, file: impl Into<String>, value: impl ToString) -> Self {
        self.missing = Missing::Use(file.into(), value.to_string());
        self
    }
}

/// Present values of the cgroup that decide about the order of writes; `None` where unknown or unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Current {
    /// Memory limit, bytes.
    pub memory_limit: Option<u64>,
    /// v1 limit of memory and swap together, bytes.
    pub memory_swap_limit: Option<u64>,
    /// Memory in use, bytes.
    pub memory_usage: Option<u64>,
    /// CPU bandwidth period, microseconds.
    pub cpu_period: Option<u64>,
    /// CPU time per period, microseconds.
    pub cpu_quota: Option<u64>,
    /// CPU burst, microseconds.
    pub cpu_burst: Option<u64>,
    /// v1 realtime period, microseconds.
    pub rt_period: Option<u64>,
    /// v1 realtime in a period, microseconds.
    pub rt_runtime: Option<i64>,
}

/// The writes that bring a cgroup from `current` to `resources`, in order. `version_of` tells the version of the
/// hierarchy that holds a controller. Device rules are not among them: see [`DeviceTable`].
///
/// # Errors
/// A value that the specification or the kernel forbids, or that has no meaning in the controller's version; the
/// message begins with the field's name.
pub fn writes(
    resources: &LinuxResources,
    current: &Current,
    version_of: &dyn Fn(&str) -> Version,
) -> Result<Vec<Write>> {
    let mut out = Vec::new();
    // Before memory: swap and oom settings do not depend on the rest, but cpusets decide where memory may come from.
    if let Some(cpu) = resources.cpu() {
        cpu::cpuset_writes(cpu, &mut out)?;
        cpu::cpu_writes(cpu, current, version_of("cpu"), &mut out)?;
    }
    if let Some(memory) = resources.memory() {
        memory::writes(memory, current, version_of("memory"), &mut out)?;
    }
    if let Some(pids) = resources.pids() {
        pids_writes(pids, &mut out);
    }
    if let Some(block_io) = resources.block_io() {
        match version_of("blkio") {
            Version::V1 => block_io::v1_writes(block_io, &mut out)?,
            Version::V2 => block_io::v2_writes(block_io, &mut out)?,
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        hugepage_writes(limit, version_of("hugetlb"), &mut out)?;
    }
    if let (Some(network), Version::V1) = (resources.network(), version_of("net_cls")) {
        network_writes(network, &mut out)?;
    }
    let mut rdma: Vec<_> = resources.rdma().iter().flatten().collect();
    rdma.sort_by_key(|(device, _)| *device);
    for (device, limits) in rdma {
        rdma_write(device, limits, &mut out)?;
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        unified_write(file, value, version_of, &mut out)?;
    }
    Ok(out)
}

/// The fields of `resources` that are set but have no effect, for a warning.
pub fn unenforced(resources: &LinuxResources, version_of: &dyn Fn(&str) -> Version) -> Vec<&'static str> {
    let mut fields = Vec::new();
    let mut note = |is_set: bool, field| {
        if is_set {
            fields.push(field);
        }
    };
    let v2 = |controller: &str| version_of(controller) == Version::V2;
    if let Some(memory) = resources.memory() {
        let v2 = v2("memory");
        note(v2 && memory.swappiness().is_some(), "linux.resources.memory.swappiness");
        note(v2 && memory.disable_oom_killer() == Some(true), "linux.resources.memory.disableOOMKiller");
        note(memory::kernel(memory).is_some_and(|n| n > 0), "linux.resources.memory.kernel");
        note(v2 && memory.kernel_tcp().is_some_and(|n| n > 0), "linux.resources.memory.kernelTCP");
        note(memory.use_hierarchy() == Some(false), "linux.resources.memory.useHierarchy");
    }
    if let Some(cpu) = resources.cpu() {
        let v2 = v2("cpu");
        note(v2 && cpu.realtime_period().is_some_and(|n| n > 0), "linux.resources.cpu.realtimePeriod");
        note(v2 && cpu.realtime_runtime().is_some_and(|n| n != 0), "linux.resources.cpu.realtimeRuntime");
    }
    if let Some(block_io) = resources.block_io() {
        note(
            v2("blkio") && block_io.leaf_weight().is_some_and(|n| n > 0),
            "linux.resources.blockIO.leafWeight",
        );
    }
    note(v2("net_cls") && resources.network().is_some(), "linux.resources.network");
    fields
}

fn invalid(field: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("{field} {why}"))
}

fn unsupported(field: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{field} {why}"))
}

/// A string of the configuration that becomes part of a line of a cgroup file.
fn single_line<'a>(text: &'a str, field: &str) -> Result<&'a str> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(invalid(field, format_args!("is not one line of text: {text:?}")));
    }
    Ok(text)
}

fn pids_writes(pids: &LinuxPids, out: &mut Vec<Write>) {
    let field = "linux.resources.pids.limit";
    match pids.limit() {
        0 => {}
        limit if limit < 0 => out.push(Write::new("pids", "pids.max", "max", field)),
        limit => out.push(Write::new("pids", "pids.max", limit, field)),
    }
}

fn hugepage_writes(limit: &LinuxHugepageLimit, version: Version, out: &mut Vec<Write>) -> Result<()> {
    let field = "linux.resources.hugepageLimits";
    let size = limit.page_size();
    let digits = size.strip_suffix("KB").or(size.strip_suffix("MB")).or(size.strip_suffix("GB"));
    if !digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit())) {
        return Err(invalid(field, format_args!("has the page size {size:?}, not one like \"2MB\"")));
    }
    let (value, name) = match (version, limit.limit()) {
        (_, bytes) if bytes < -1 => return Err(invalid(field, format_args!("is {bytes} bytes for {size}"))),
        (Version::V1, bytes) => (bytes.to_string(), "limit_in_bytes"),
        (Version::V2, -1) => ("max".to_owned(), "max"),
        (Version::V2, bytes) => (bytes.to_string(), "max"),
    };
    out.push(Write::new("hugetlb", format!("hugetlb.{size}.{name}"), &value, field));
    out.push(Write::new("hugetlb", format!("hugetlb.{size}.rsvd.{name}"), &value, field).or_skip());
    Ok(())
}

fn network_writes(network: &LinuxNetwork, out: &mut Vec<Write>) -> Result<()> {
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        out.push(Write::new("net_cls", "net_cls.classid", class, "linux.resources.network.classID"));
    }
    let field = "linux.resources.network.priorities";
    for priority in network.priorities().iter().flatten() {
        let name = single_line(priority.name(), field)?;
        if name.contains(' ') {
            return Err(invalid(field, format_args!("names the interface {name:?}")));
        }
        out.push(Write::new(
            "net_prio",
            "net_prio.ifpriomap",
            format!("{name} {}", priority.priority()),
            field,
        ));
    }
    Ok(())
}

fn rdma_write(device: &str, limits: &LinuxRdma, out: &mut Vec<Write>) -> Result<()> {
    let field = "linux.resources.rdma";
    let device = single_line(device, field)?;
    let parts: Vec<String> = [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())]
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", value?)))
        .collect();
    if parts.is_empty() {
        return Err(invalid(field, format_args!("limits nothing of {device}")));
    }
    out.push(Write::new("rdma", "rdma.max", format!("{device} {}", parts.join(" ")), field));
    Ok(())
}

/// Files by which processes are moved, stopped or the tree is shaped: the runtime's own business.
const RUNTIME_FILES: [&str; 6] = [
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.type",
    "cgroup.freeze",
    "cgroup.kill",
    "cgroup.subtree_control",
];

fn unified_write(
    file: &str,
    value: &str,
    version_of: &dyn Fn(&str) -> Version,
    out: &mut Vec<Write>,
) -> Result<()> {
    let field = "linux.resources.unified";
    let controller = match file.split_once('.') {
        Some((controller, rest)) if !controller.is_empty() && !rest.is_empty() => controller,
        _ => return Err(invalid(field, format_args!("holds {file:?}, which is not a file of a controller"))),
    };
    if file.contains('/') || file.chars().any(char::is_control) || RUNTIME_FILES.contains(&file) {
        return Err(invalid(field, format_args!("holds {file:?}, which it may not set")));
    }
    if version_of(controller) == Version::V1 {
        let message = format!(
            "invalid configuration: {field} holds {file:?}, but this host has no {controller} controller in cgroup v2"
        );
        return Err(Error::new(ErrorKind::Unsupported, message)
            .with_hint("use the fields of linux.resources for cgroup v1"));
    }
    // A file such as io.max takes one line per write(2).
    for line in value.lines().filter(|line| !line.is_empty()) {
        out.push(Write::new(controller, file, line, field));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).expect("valid resources")
    }

    pub(super) fn lines(json: &str, version: Version) -> Vec<String> {
        lines_from(json, version, &Current::default())
    }

    pub(super) fn lines_from(json: &str, version: Version, current: &Current) -> Vec<String> {
        writes(&resources(json), current, &|_| version)
            .expect("acceptable")
            .iter()
            .map(|w| {
                let missing = match &w.missing {
                    Missing::Fail => String::new(),
                    Missing::Skip => "?".to_owned(),
                    Missing::Use(file, value) => format!(" | {file}={value}"),
                };
                format!("{}={}{missing}", w.file, w.value)
            })
            .collect()
    }

    pub(super) fn refusal(json: &str, version: Version) -> Error {
        writes(&resources(json), &Current::default(), &|_| version).expect_err(json)
    }

    #[test]
    fn pids() {
        for version in [Version::V1, Version::V2] {
            assert_eq!(lines(r#"{"pids":{"limit":100}}"#, version), ["pids.max=100"]);
            assert_eq!(lines(r#"{"pids":{"limit":-1}}"#, version), ["pids.max=max"]);
            assert!(lines(r#"{"pids":{"limit":0}}"#, version).is_empty());
            assert!(lines("{}", version).is_empty());
        }
    }

    #[test]
    fn huge_pages() {
        let json = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#;
        assert_eq!(
            lines(json, Version::V1),
            ["hugetlb.2MB.limit_in_bytes=4194304", "hugetlb.2MB.rsvd.limit_in_bytes=4194304?"]
        );
        assert_eq!(lines(json, Version::V2), ["hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304?"]);
        for size in ["", "MB", "2", "2mb", "../2MB", "2 MB"] {
            let json = format!(r#"{{"hugepageLimits":[{{"pageSize":"{size}","limit":1}}]}}"#);
            let error = refusal(&json, Version::V2);
            assert!(error.to_string().starts_with("linux.resources.hugepageLimits "), "{error}");
        }
    }

    #[test]
    fn network_and_rdma() {
        let json = r#"{"network":{"classID":7,"priorities":[{"name":"eth0","priority":3}]},
                       "rdma":{"m1":{"hcaObjects":5},"m0":{"hcaHandles":3,"hcaObjects":10}}}"#;
        let rdma = ["rdma.max=m0 hca_handle=3 hca_object=10", "rdma.max=m1 hca_object=5"];
        assert_eq!(lines(json, Version::V2), rdma);
        let v1 = lines(json, Version::V1);
        assert_eq!(v1[..2], ["net_cls.classid=7", "net_prio.ifpriomap=eth0 3"]);
        assert_eq!(v1[2..], rdma);
        assert_eq!(refusal(r#"{"rdma":{"m0":{}}}"#, Version::V2).kind(), ErrorKind::InvalidConfig);
        assert_eq!(
            refusal(r#"{"rdma":{"m0\nx":{"hcaHandles":3}}}"#, Version::V2).kind(),
            ErrorKind::InvalidConfig
        );
    }

    #[test]
    fn unified_files_are_written_line_by_line_in_order_of_name() {
        let json = r#"{"unified":{"memory.high":"100","io.max":"8:0 rbps=1\n8:16 wiops=2"}}"#;
        assert_eq!(lines(json, Version::V2), ["io.max=8:0 rbps=1", "io.max=8:16 wiops=2", "memory.high=100"]);
        assert_eq!(refusal(json, Version::V1).kind(), ErrorKind::Unsupported);
        for file in ["memory", ".x", "memory.", "../memory.high", "a.b/c", "cgroup.procs", "cgroup.kill"] {
            let error = refusal(&format!(r#"{{"unified":{{"{file}":"1"}}}}"#), Version::V2);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{file}");
        }
    }

    #[test]
    fn a_hybrid_takes_each_controller_from_where_it_is() {
        let json = r#"{"memory":{"limit":100},"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#;
        let version_of = |c: &str| if c == "hugetlb" { Version::V2 } else { Version::V1 };
        let all = writes(&resources(json), &Current::default(), &version_of).expect("acceptable");
        let files: Vec<&str> = all.iter().map(|w| w.file.as_str()).collect();
        assert_eq!(files, ["memory.limit_in_bytes", "hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"]);
    }

    #[test]
    fn fields_without_effect_are_named() {
        let r = resources(
            r#"{"devices":[{"allow":false,"access":"rwm"}],"network":{"classID":1},
                "memory":{"swappiness":10,"disableOOMKiller":true,"kernel":1,"kernelTCP":1},
                "cpu":{"realtimePeriod":1,"realtimeRuntime":1},"blockIO":{"leafWeight":10}}"#,
        );
        assert_eq!(unenforced(&r, &|_| Version::V1), ["linux.resources.memory.kernel"]);
        assert_eq!(
            unenforced(&r, &|_| Version::V2),
            [
                "linux.resources.memory.swappiness",
                "linux.resources.memory.disableOOMKiller",
                "linux.resources.memory.kernel",
                "linux.resources.memory.kernelTCP",
                "linux.resources.cpu.realtimePeriod",
                "linux.resources.cpu.realtimeRuntime",
                "linux.resources.blockIO.leafWeight",
                "linux.resources.network",
            ]
        );
        assert!(
            unenforced(&resources(r#"{"memory":{"disableOOMKiller":false}}"#), &|_| Version::V2).is_empty()
        );
    }
}
