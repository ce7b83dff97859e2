// SPDX-License-Identifier: Apache-2.0
//! What this engine can do, in the runtime specification's "features" structure: asked of the tables that do the work, so
//! that it cannot say what is not so. Of the kernel nothing is asked but which flags of seccomp it has.

use std::collections::BTreeMap;

use serde::Serialize;

use super::hooks::HookKind;
use super::seccomp::{SeccompFeatures, seccomp_features};
use super::{capabilities, rootfs};
use crate::spec::OCI_VERSION;
use crate::spec::oci::{LinuxNamespaceType, MemoryPolicyFlagType, MemoryPolicyModeType};

/// The structure of the specification's features.md.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Features {
    /// The oldest version of the specification whose configurations are understood.
    pub oci_version_min: &'static str,
    /// The newest one.
    pub oci_version_max: &'static str,
    /// Names of the kinds of hooks.
    pub hooks: Vec<&'static str>,
    /// Words in `mounts[].options` that are not for the filesystem.
    pub mount_options: Vec<&'static str>,
    /// What is of Linux.
    pub linux: LinuxFeatures,
    /// Facts about the program.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of a configuration that a stranger must not write; with a dot at the end, those that begin so.
    pub potentially_unsafe_config_annotations: Vec<&'static str>,
}

/// Something that is there, or not.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Enabled {
    /// Whether it is.
    pub enabled: bool,
}

/// What is of Linux.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LinuxFeatures {
    /// Types of namespaces.
    pub namespaces: Vec<String>,
    /// Names of capabilities.
    pub capabilities: Vec<String>,
    /// Control groups.
    pub cgroup: CgroupFeatures,
    /// System call filters.
    pub seccomp: SeccompFeatures,
    /// AppArmor profiles.
    pub apparmor: Enabled,
    /// SELinux labels.
    pub selinux: Enabled,
    /// Shares of cache and memory bandwidth.
    pub intel_rdt: IntelRdtFeatures,
    /// `linux.memoryPolicy`.
    pub memory_policy: MemoryPolicyFeatures,
    /// What mounts can have beside options.
    pub mount_extensions: MountExtensions,
    /// `linux.netDevices`.
    pub net_devices: Enabled,
}

/// Control groups. Whether the machine has them is not asked.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CgroupFeatures {
    /// Version 1.
    pub v1: bool,
    /// Version 2.
    pub v2: bool,
    /// Made by systemd.
    pub systemd: bool,
    /// Made by a user's own systemd.
    pub systemd_user: bool,
    /// Limits of RDMA.
    pub rdma: bool,
}

/// `linux.intelRdt`.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct IntelRdtFeatures {
    /// Whether it is known.
    pub enabled: bool,
    /// `schemata`.
    pub schemata: bool,
    /// `enableMonitoring`.
    pub monitoring: bool,
}

/// `linux.memoryPolicy`.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryPolicyFeatures {
    /// Its modes.
    pub modes: Vec<String>,
    /// Its flags.
    pub flags: Vec<String>,
}

/// What mounts can have beside options.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MountExtensions {
    /// `uidMappings` and `gidMappings`.
    pub idmap: Enabled,
}

/// What this engine can do.
pub fn features() -> Features {
    let seccomp = seccomp_features();
    let annotations = seccomp.libseccomp.iter();
    let annotations =
        annotations.map(|version| ("io.github.seccomp.libseccomp.version".to_owned(), version.clone()));
    Features {
        oci_version_min: "1.0.0",
        oci_version_max: OCI_VERSION,
        hooks: HookKind::ALL.map(HookKind::name).to_vec(),
        mount_options: rootfs::mount_words().to_vec(),
        annotations: annotations.collect(),
        linux: LinuxFeatures {
            namespaces: sorted(&NAMESPACES),
            capabilities: capabilities::known(),
            cgroup: CgroupFeatures { v1: true, v2: true, systemd: true, systemd_user: true, rdma: true },
            seccomp,
            apparmor: Enabled { enabled: true },
            selinux: Enabled { enabled: true },
            intel_rdt: IntelRdtFeatures { enabled: true, schemata: true, monitoring: true },
            memory_policy: MemoryPolicyFeatures { modes: sorted(&MODES), flags: sorted(&FLAGS) },
            mount_extensions: MountExtensions { idmap: Enabled { enabled: true } },
            net_devices: Enabled { enabled: true },
        },
        potentially_unsafe_config_annotations: vec!["bundle", "org.systemd.property.", "org.criu.config"],
    }
}

const NAMESPACES: [LinuxNamespaceType; 8] = [
    LinuxNamespaceType::Cgroup,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Time,
    LinuxNamespaceType::User,
    LinuxNamespaceType::Uts,
];

const MODES: [MemoryPolicyModeType; 7] = [
    MemoryPolicyModeType::MpolBind,
    MemoryPolicyModeType::MpolDefault,
    MemoryPolicyModeType::MpolInterleave,
    MemoryPolicyModeType::MpolLocal,
    MemoryPolicyModeType::MpolPreferred,
    MemoryPolicyModeType::MpolPreferredMany,
    MemoryPolicyModeType::MpolWeightedInterleave,
];

const FLAGS: [MemoryPolicyFlagType; 3] = [
    MemoryPolicyFlagType::MpolFNumaBalancing,
    MemoryPolicyFlagType::MpolFRelativeNodes,
    MemoryPolicyFlagType::MpolFStaticNodes,
];

/// Their names in a configuration.
fn sorted(variants: &[impl Serialize]) -> Vec<String> {
    let names = variants.iter().filter_map(|variant| serde_json::to_value(variant).ok());
    let mut names: Vec<String> = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_is_the_specifications() {
        let json = serde_json::to_value(features()).expect("it is data");
        let _: crate::spec::oci::Features =
            serde_json::from_value(json.clone()).expect("the specification's own type reads it");
        assert_eq!(json["hooks"][1], "createRuntime");
        assert_eq!(json["linux"]["namespaces"][7], "uts");
        assert_eq!(json["linux"]["capabilities"].as_array().map(Vec::len), Some(41));
        assert_eq!(json["linux"]["capabilities"][0], "CAP_CHOWN");
        assert_eq!(json["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert_eq!(json["linux"]["memoryPolicy"]["modes"][0], "MPOL_BIND");
    }
}
