// SPDX-License-Identifier: Apache-2.0
//! What a configuration wants of the host beyond a container of its own: for one that comes from somebody else. Pure.
//!
//! What `migrate spec` and `runc spec` write wants nothing. Whether the wish is granted is the caller's business.

use std::fmt;

use super::grants::Grant;
use super::oci::{
    Hook, Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespaceType, Mount, Spec,
};

/// A kind of access to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HostAccess {
    /// Directories, files and file systems of the host, and mounts that show up there.
    Mounts,
    /// Devices and network interfaces of the host.
    Devices,
    /// Programs that the runtime runs.
    Hooks,
    /// Namespaces of the host or of somebody else.
    Namespaces,
    /// Capabilities beyond the usual ones, and what else a container does not get by default.
    Privileges,
}

impl HostAccess {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Mounts, Self::Devices, Self::Hooks, Self::Namespaces, Self::Privileges];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mounts => "mounts",
            Self::Devices => "devices",
            Self::Hooks => "hooks",
            Self::Namespaces => "namespaces",
            Self::Privileges => "privileges",
        }
    }
}

/// One wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Of which kind it is.
    pub access: HostAccess,
    /// The field and what it says.
    pub what: String,
    /// What of the host it is about, where that can be granted by itself.
    pub wants: Vec<Grant>,
}

impl Wish {
    /// A wish of this kind.
    pub fn new(access: HostAccess, what: impl Into<String>) -> Self {
        Self { access, what: what.into(), wants: Vec::new() }
    }

    /// The same, about this.
    #[must_use]
    pub fn of(mut self, wants: impl IntoIterator<Item = Grant>) -> Self {
        self.wants.extend(wants);
        self
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// File systems that the kernel makes up and that show a container only what its namespaces hold.
const OWN_FILESYSTEMS: [&str; 7] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"];

/// The namespaces without which a container sees and changes the host's.
const OWN_NAMESPACES: [LinuxNamespaceType; 5] = [
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Uts,
    LinuxNamespaceType::Mount,
];

/// The character devices that every container has: null, zero, full, random, urandom, tty, console, ptmx.
const USUAL_DEVICES: [(i64, i64); 8] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];

/// The terminals of a devpts.
const TERMINALS: i64 = 136;

/// What Docker and Podman give to a container that asks for nothing.
const USUAL_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Annotations that become properties of a systemd unit on the host.
const UNIT_PROPERTY: &str = "org.systemd.property.";

/// Everything that this configuration wants of the host, in the order of its fields. The mount at the position
/// `given_anew` gets a source from the runtime, whatever it has.
pub fn host_access(spec: &Spec, given_anew: Option<usize>) -> Vec<Wish> {
    let mounts = spec.mounts().iter().flatten().enumerate().filter(|(i, _)| Some(*i) != given_anew);
    let mut wishes: Vec<Wish> = mounts.filter_map(|(i, mount)| of_mount(i, mount)).collect();
    if let Some(hooks) = spec.hooks() {
        #[allow(deprecated)] // they are run all the same
        let lists = [
            ("prestart", hooks.prestart()),
            ("createRuntime", hooks.create_runtime()),
            ("createContainer", hooks.create_container()),
            ("startContainer", hooks.start_container()),
            ("poststart", hooks.poststart()),
            ("poststop", hooks.poststop()),
        ];
        for (name, list) in lists {
            let of = |(i, hook): (usize, &Hook)| {
                let what = format!("hooks.{name}[{i}] runs {:?}", hook.path());
                Wish::new(HostAccess::Hooks, what).of([Grant::Hook(hook.path().clone())])
            };
            wishes.extend(list.iter().flatten().enumerate().map(of));
        }
    }
    let none = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&none);
    if let Some(way) = linux.rootfs_propagation().as_deref().filter(|way| way.ends_with("shared")) {
        wishes.push(Wish::new(HostAccess::Mounts, format!("linux.rootfsPropagation is {way:?}")));
    }
    of_namespaces(linux, &mut wishes);
    of_devices(linux, &mut wishes);
    of_privileges(spec, linux, &mut wishes);
    wishes
}

/// Whether a mount shows files of the host's.
pub fn is_bind(mount: &Mount) -> bool {
    let option = |option: &String| matches!(option.as_str(), "bind" | "rbind");
    mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(option)
}

fn of_mount(i: usize, mount: &Mount) -> Option<Wish> {
    let typ = mount.typ().as_deref().unwrap_or_default();
    let binds = is_bind(mount);
    if !binds && OWN_FILESYSTEMS.contains(&typ) {
        return None;
    }
    let what = if binds { "binds" } else { "mounts" };
    let source = mount.source().clone().unwrap_or_default();
    let kind = if binds { String::new() } else { format!(" of type {typ:?}") };
    let destination = mount.destination();
    let what = format!("mounts[{i}] {what} {source:?}{kind} on {destination:?}");
    Some(Wish::new(HostAccess::Mounts, what).of(binds.then_some(Grant::Mount(source))))
}

fn of_namespaces(linux: &Linux, wishes: &mut Vec<Wish>) {
    let mut wish = |what: String, which: String| {
        wishes.push(Wish::new(HostAccess::Namespaces, what).of([Grant::Namespace(which)]));
    };
    let list = linux.namespaces().as_deref().unwrap_or_default();
    for (i, namespace) in list.iter().enumerate() {
        if let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            let which = path.to_string_lossy().into_owned();
            wish(format!("linux.namespaces[{i}] joins {path:?}"), which);
        }
    }
    for kind in OWN_NAMESPACES {
        if !list.iter().any(|namespace| namespace.typ() == kind) {
            let what = format!("linux.namespaces has none of type `{kind}`: it uses the host's");
            wish(what, format!("host:{kind}"));
        }
    }
}

fn of_devices(linux: &Linux, wishes: &mut Vec<Wish>) {
    let mut wish = |what: String, which: Grant| {
        wishes.push(Wish::new(HostAccess::Devices, what).of([which]));
    };
    for (i, device) in linux.devices().iter().flatten().enumerate() {
        if !is_usual(device) {
            let (typ, major, minor) = (device.typ(), device.major(), device.minor());
            let which = format!("{} {major}:{minor}", typ.as_str());
            let what = format!("linux.devices[{i}] is {:?}, {which}", device.path());
            wish(what, Grant::Device(which));
        }
    }
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_deref());
    for (i, rule) in rules.unwrap_or_default().iter().enumerate() {
        if rule.allow() && !is_usual_rule(rule) {
            let number = |number: Option<i64>| number.map_or("*".to_owned(), |number| number.to_string());
            let (major, minor) = (number(rule.major()), number(rule.minor()));
            let typ = rule.typ().unwrap_or_default();
            let which = format!("{} {major}:{minor}", typ.as_str());
            wish(format!("linux.resources.devices[{i}] allows {which}"), Grant::Device(which));
        }
    }
    let mut interfaces: Vec<_> = linux.net_devices().iter().flatten().map(|(name, _)| name).collect();
    interfaces.sort();
    for name in interfaces {
        let which = Grant::Interface(name.clone());
        wish(format!("linux.netDevices takes the interface {name:?}"), which);
    }
}

fn is_usual(device: &LinuxDevice) -> bool {
    matches!(device.typ(), LinuxDeviceType::C | LinuxDeviceType::U)
        && USUAL_DEVICES.contains(&(device.major(), device.minor()))
}

/// Whether it allows no more than to make a node that cannot be opened, or what every container may open.
fn is_usual_rule(rule: &LinuxDeviceCgroup) -> bool {
    let only_makes = rule.access().as_deref().is_some_and(|access| access == "m");
    let is_character = rule.typ() == Some(LinuxDeviceType::C);
    let usual = match (rule.major(), rule.minor()) {
        (Some(TERMINALS), _) => true,
        (Some(major), Some(minor)) => USUAL_DEVICES.contains(&(major, minor)),
        _ => false,
    };
    only_makes || (is_character && usual)
}

fn of_privileges(spec: &Spec, linux: &Linux, wishes: &mut Vec<Wish>) {
    let mut wish = |what: String| wishes.push(Wish::new(HostAccess::Privileges, what));
    let mut annotations: Vec<_> = spec.annotations().iter().flatten().map(|(name, _)| name).collect();
    annotations.sort();
    for name in annotations.into_iter().filter(|name| name.starts_with(UNIT_PROPERTY)) {
        wish(format!("annotations[{name:?}] sets up a unit of the host's systemd"));
    }
    if let Some(path) = linux.seccomp().as_ref().and_then(|seccomp| seccomp.listener_path().as_ref()) {
        wish(format!("linux.seccomp.listenerPath sends system calls to {path:?}"));
    }
    // In a user namespace of its own a capability is one over the container's own things.
    let users = linux.namespaces().iter().flatten().find(|n| n.typ() == LinuxNamespaceType::User);
    if users.is_some_and(|users| users.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())) {
        return;
    }
    let Some(sets) = spec.process().as_ref().and_then(|process| process.capabilities().as_ref()) else {
        return;
    };
    let all = [sets.bounding(), sets.effective(), sets.inheritable(), sets.permitted(), sets.ambient()];
    let mut names: Vec<String> = all.into_iter().flatten().flatten().map(ToString::to_string).collect();
    names.retain(|name| !USUAL_CAPABILITIES.contains(&name.as_str()));
    names.sort();
    names.dedup();
    if !names.is_empty() {
        let what = format!("process.capabilities has CAP_{}", names.join(" CAP_"));
        let each = names.iter().map(|name| Grant::Capability(format!("CAP_{name}")));
        wishes.push(Wish::new(HostAccess::Privileges, what).of(each));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Config, template};
    use super::*;

    fn wishes(change: impl FnOnce(&mut Value)) -> Vec<(HostAccess, String)> {
        let mut config = template(false);
        change(&mut config);
        let config = Config::parse(config.to_string().into_bytes()).expect("it parses");
        host_access(&config.spec, None).into_iter().map(|wish| (wish.access, wish.what)).collect()
    }

    fn push(list: &mut Value, value: Value) {
        list.as_array_mut().expect("a list").push(value);
    }

    #[test]
    fn a_usual_container_wants_nothing() {
        assert_eq!(wishes(|_| ()), []);
        let like_podman = |config: &mut Value| {
            config["process"]["capabilities"]["bounding"] =
                json!(USUAL_CAPABILITIES.map(|name| format!("CAP_{name}")));
            config["linux"]["devices"] = json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]);
            config["linux"]["resources"]["devices"] = json!([
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                {"allow": true, "type": "c", "major": 136, "access": "rwm"},
                {"allow": true, "type": "b", "access": "m"},
            ]);
            config["linux"]["resources"]["memory"] = json!({"limit": 1 << 20});
            config["annotations"] = json!({"io.container.manager": "libpod"});
            config["hooks"] = json!({"poststop": []});
        };
        assert_eq!(wishes(like_podman), []);
    }

    #[test]
    fn each_wish_names_its_field() {
        type Change = fn(&mut Value);
        let cases: [(HostAccess, &str, Change); 17] = [
            (HostAccess::Mounts, "mounts[7] binds \"/\" on \"/host\"", |c| {
                push(&mut c["mounts"], json!({"destination": "/host", "source": "/", "options": ["rbind"]}));
            }),
            (HostAccess::Mounts, "mounts[7] binds \"etc\" on \"/e\"", |c| {
                push(&mut c["mounts"], json!({"destination": "/e", "source": "etc", "type": "bind"}));
            }),
            (HostAccess::Mounts, "mounts[0] binds \"proc\" on \"/proc\"", |c| {
                c["mounts"][0]["options"] = json!(["bind"]);
            }),
            (HostAccess::Mounts, "mounts[7] mounts \"/dev/sda\" of type \"ext4\" on \"/d\"", |c| {
                push(&mut c["mounts"], json!({"destination": "/d", "source": "/dev/sda", "type": "ext4"}));
            }),
            (HostAccess::Hooks, "hooks.prestart[0] runs \"/bin/sh\"", |c| {
                c["hooks"] = json!({"prestart": [{"path": "/bin/sh"}]});
            }),
            (HostAccess::Hooks, "hooks.startContainer[0] runs \"/x\"", |c| {
                c["hooks"] = json!({"startContainer": [{"path": "/x"}]});
            }),
            (HostAccess::Hooks, "hooks.poststop[0] runs \"/x\"", |c| {
                c["hooks"] = json!({"poststop": [{"path": "/x"}]});
            }),
            (HostAccess::Namespaces, "linux.namespaces[1] joins \"/proc/1/ns/net\"", |c| {
                c["linux"]["namespaces"][1]["path"] = json!("/proc/1/ns/net");
            }),
            (HostAccess::Namespaces, "linux.namespaces has none of type `pid`: it uses the host's", |c| {
                drop(c["linux"]["namespaces"].as_array_mut().expect("a list").remove(0));
            }),
            (HostAccess::Mounts, "linux.rootfsPropagation is \"rshared\"", |c| {
                c["linux"]["rootfsPropagation"] = json!("rshared");
            }),
            (HostAccess::Devices, "linux.devices[0] is \"/dev/sda\", b 8:0", |c| {
                c["linux"]["devices"] = json!([{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]);
            }),
            (HostAccess::Devices, "linux.resources.devices[1] allows a *:*", |c| {
                push(&mut c["linux"]["resources"]["devices"], json!({"allow": true, "access": "rwm"}));
            }),
            (HostAccess::Devices, "linux.resources.devices[1] allows b 1:3", |c| {
                let rule = json!({"allow": true, "type": "b", "major": 1, "minor": 3, "access": "r"});
                push(&mut c["linux"]["resources"]["devices"], rule);
            }),
            (HostAccess::Devices, "linux.netDevices takes the interface \"eth0\"", |c| {
                c["linux"]["netDevices"] = json!({"eth0": {}});
            }),
            (HostAccess::Privileges, "process.capabilities has CAP_SYS_ADMIN CAP_SYS_MODULE", |c| {
                c["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_MODULE", "CAP_KILL"]);
                c["process"]["capabilities"]["ambient"] = json!(["CAP_SYS_ADMIN"]);
            }),
            (HostAccess::Privileges, "linux.seccomp.listenerPath sends system calls to \"/run/s\"", |c| {
                c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/s"});
            }),
            (
                HostAccess::Privileges,
                "annotations[\"org.systemd.property.OnFailure\"] sets up a unit of the host's systemd",
                |c| c["annotations"] = json!({"org.systemd.property.OnFailure": "'x.service'"}),
            ),
        ];
        for (access, what, change) in cases {
            assert_eq!(wishes(change), [(access, what.to_owned())]);
        }
    }

    #[test]
    fn in_a_user_namespace_capabilities_are_the_containers_own() {
        let found = wishes(|config| {
            config["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
            push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
        });
        assert_eq!(found, []);
        // Whose the one is that is joined is not known.
        let found = wishes(|config| {
            config["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
            push(&mut config["linux"]["namespaces"], json!({"type": "user", "path": "/proc/1/ns/user"}));
        });
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
