// SPDX-License-Identifier: Apache-2.0
//! What a test needs from the machine, and what is said when it is missing.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::huge_pages::HugePages;
use crate::machine::Machine;
use crate::programs;

/// A thing that a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A CRIU that works on the running kernel.
    Criu,
    /// The runc with which the documented differences were found.
    Runc,
    /// A crun that can checkpoint, as scripts/setup installs it.
    Crun,
    /// checkpointctl, as scripts/setup installs it.
    Checkpointctl,
    /// The `zstd` program.
    Zstd,
    /// `newuidmap` and `newgidmap`.
    Uidmap,
    /// containerd with its shim and `ctr`.
    Containerd,
    /// systemd, its tools, and a bus.
    Systemd,
    /// Podman, conmon and netavark.
    Podman,
    /// Debian's registry, skopeo and openssl.
    Registry,
    /// Debian's sshd.
    Sshd,
    /// `CAP_SYS_RESOURCE`, without which CRIU does not dump a process of another user.
    SysResource,
    /// cgroup v2 and nothing else.
    CgroupV2,
    /// Pages of two megabytes in the kernel.
    HugePages,
    /// Protection keys in processor and kernel.
    ProtectionKeys,
    /// Guard pages in the kernel (Linux 6.13).
    GuardPages,
    /// Names for mappings of nobody (`CONFIG_ANON_VMA_NAME`).
    MappingNames,
    /// A kernel that tracks changes of memory (soft-dirty bits).
    MemoryTracking,
    /// AppArmor in the kernel, and `apparmor_parser`.
    AppArmor,
    /// A machine at the other end of a cable (`scripts/vm-lab test --pair`).
    OtherMachine,
}

impl Need {
    /// Whether only a virtual machine can be relied on for it: see `docs/vm-lab.md`.
    pub(crate) fn is_of_a_virtual_machine(self) -> bool {
        matches!(
            self,
            Need::SysResource
                | Need::CgroupV2
                | Need::AppArmor
                | Need::MappingNames
                | Need::MemoryTracking
                | Need::OtherMachine
        )
    }

    /// Whether it is met, for a test that has something to show in both cases.
    pub fn is_met(self) -> bool {
        self.missing().is_none()
    }

    /// Whether the processor decides: of two machines that are otherwise alike, one may have it.
    pub(crate) fn is_of_some_processors(self) -> bool {
        self == Need::ProtectionKeys
    }

    /// Whether a virtual machine may be without it, whose kernel and processor are other ones.
    pub(crate) fn is_of_some_machines(self) -> bool {
        matches!(self, Need::GuardPages | Need::MappingNames | Need::ProtectionKeys)
    }

    /// Why the need is not met, if so. Root is needed always and is not listed.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Need::Criu => working_criu().err().cloned(),
            Need::Uidmap => {
                let is_there = |name: &str| Path::new("/usr/bin").join(name).exists();
                let all = is_there("newuidmap") && is_there("newgidmap");
                (!all).then(|| "newuidmap and newgidmap are not installed (package uidmap)".to_owned())
            }
            Need::Containerd => {
                let all = succeeds("containerd", &["--version"])
                    && succeeds("ctr", &["--version"])
                    && succeeds("containerd-shim-runc-v2", &["-v"]);
                (!all).then(|| "containerd is not installed (package containerd)".to_owned())
            }
            Need::Podman => {
                let all = succeeds("podman", &["--version"])
                    && ["/usr/bin/conmon", "/usr/lib/podman/netavark"].iter().all(|p| Path::new(p).exists());
                (!all).then(|| "Podman is not installed (packages podman, netavark, catatonit)".to_owned())
            }
            Need::Registry => {
                let all = succeeds(&programs::docker_registry(), &["--version"])
                    && succeeds("skopeo", &["--version"])
                    && succeeds("openssl", &["version"]);
                (!all)
                    .then(|| "there is no registry, skopeo or openssl (run scripts/setup --tests)".to_owned())
            }
            Need::Sshd => {
                let there = Path::new(&programs::sshd().0).exists();
                (!there).then(|| "there is no sshd (run scripts/setup --tests)".to_owned())
            }
            Need::Runc => {
                let output = Command::new("runc").arg("--version").output();
                let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
                let first = said.as_deref().unwrap_or_default().lines().next().unwrap_or_default();
                let is_known = first.starts_with("runc version 1.1.");
                (!is_known).then(|| format!("there is no runc 1.1 (package runc), but `{first}`"))
            }
            Need::Checkpointctl => {
                let works = succeeds(&programs::checkpointctl(), &["--help"]);
                (!works).then(|| "there is no checkpointctl (run scripts/setup --tests)".to_owned())
            }
            Need::Crun => {
                let works = succeeds(&programs::crun(), &["--version"]);
                let library = format!(
                    "{}/usr/lib/{}-linux-gnu/libcriu.so.2",
                    programs::crun_prefix(),
                    std::env::consts::ARCH
                );
                let all = works && Path::new(&library).exists();
                (!all).then(|| "there is no crun with libcriu (run scripts/setup --tests)".to_owned())
            }
            Need::Systemd => {
                let needed = ["/lib/systemd/systemd", "/usr/bin/systemctl", "/usr/bin/dbus-daemon"];
                let all = needed.iter().all(|path| Path::new(path).exists());
                (!all).then(|| "systemd and a bus are not installed (packages systemd, dbus)".to_owned())
            }
            Need::SysResource => (!has_capability(24)).then(|| "CAP_SYS_RESOURCE is missing".to_owned()),
            Need::CgroupV2 => {
                let top = nix::sys::statfs::statfs("/sys/fs/cgroup").map(|s| s.filesystem_type());
                let is_v2 = top == Ok(nix::sys::statfs::CGROUP2_SUPER_MAGIC);
                (!is_v2).then(|| "/sys/fs/cgroup is not cgroup v2".to_owned())
            }
            Need::HugePages => HugePages::missing(),
            Need::GuardPages => {
                let can = succeeds(&programs::workload(), &["zoo", "--make", "guard_pages"]);
                (!can).then(|| "the kernel has no guard pages (Linux 6.13)".to_owned())
            }
            Need::ProtectionKeys => {
                let can = succeeds(&programs::workload(), &["zoo", "--make", "protection_keys"]);
                (!can).then(|| "the processor or the kernel has no protection keys".to_owned())
            }
            Need::MappingNames => {
                let can = succeeds(&programs::workload(), &["zoo", "--make", "name_of_a_mapping"]);
                (!can).then(|| "the kernel has no names for mappings (CONFIG_ANON_VMA_NAME)".to_owned())
            }
            Need::MemoryTracking => {
                let tracks = working_criu()
                    .is_ok_and(|criu| succeeds(criu, &["check", "--feature", "mem_dirty_track"]));
                (!tracks).then(|| "the kernel does not track changes of memory".to_owned())
            }
            Need::AppArmor => {
                let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
                let works = enabled.is_ok_and(|text| text.trim() == "Y")
                    && succeeds("apparmor_parser", &["--version"]);
                (!works).then(|| "AppArmor is not enabled".to_owned())
            }
            Need::OtherMachine => {
                let has_cable = ["/lab/payload", "/sys/class/net/eth1"].iter().all(|p| Path::new(p).exists());
                // The test before may have crashed it.
                let is_up = has_cable && !Machine::There.comes_up("").is_empty();
                (!is_up).then(|| "there is no machine at the other end of a cable".to_owned())
            }
            Need::Zstd => (!succeeds("zstd", &["--version"])).then(|| "zstd is not installed".to_owned()),
        }
    }
}

/// Whether everything is asked for (`MIGRATE_TEST_FULL=1`, as `scripts/test --full` sets it), however long it takes.
pub fn in_full() -> bool {
    std::env::var("MIGRATE_TEST_FULL").as_deref() == Ok("1")
}

/// How often a test does a thing: `full` times when everything is asked for, else `every_day` times.
pub fn rounds(every_day: usize, full: usize) -> usize {
    if in_full() { full } else { every_day }
}

/// The CRIU that the tests run with.
///
/// # Panics
/// When there is none that works; a test that needs one has said so to its stage.
pub fn criu() -> &'static str {
    working_criu().expect("the test has said that it needs CRIU")
}

/// Finds a CRIU as the tool itself does, and asks it whether it gets on with the kernel.
fn working_criu() -> Result<&'static str, &'static String> {
    static FOUND: OnceLock<Result<String, String>> = OnceLock::new();
    let prefix = std::env::var("MIGRATE_CRIU_PREFIX").unwrap_or_else(|_| "/opt/migrate-criu".into());
    let found = FOUND.get_or_init(|| {
        let candidates =
            [std::env::var("MIGRATE_CRIU").unwrap_or_default(), format!("{prefix}/criu"), "criu".into()];
        match candidates.iter().find(|c| succeeds(c, &["--version"])) {
            None => Err("there is no CRIU".to_owned()),
            Some(criu) if succeeds(criu, &["check"]) => Ok(criu.clone()),
            Some(criu) => Err(format!("`{criu} check` fails on this kernel")),
        }
    });
    found.as_ref().map(String::as_str)
}

/// Whether this process has the capability of that number.
fn has_capability(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(effective.trim(), 16).is_ok_and(|set| set >> number & 1 == 1)
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let quiet = || Stdio::null();
    let status = Command::new(program).args(args).stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
    status.is_ok_and(|s| s.success())
}

/// Why the machine itself is unfit: not root, or no namespaces to be had.
pub(crate) fn unfit_machine() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root".into());
    }
    if !Path::new("/proc/self/task").exists()
        || !succeeds("unshare", &["--mount", "--net", "--pid", "--fork", "true"])
    {
        return Some("unshare(1) cannot make mount, network and pid namespaces here".into());
    }
    None
}
