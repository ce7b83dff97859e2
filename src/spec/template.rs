// SPDX-License-Identifier: Apache-2.0
//! The configuration that `migrate spec` writes: a shell in a container with the field's usual defaults.

use serde_json::{Value, json};

/// The default configuration, as JSON: the same container that `runc spec` describes. `cgroup_namespace` adds a
/// private cgroup namespace, which is the custom where only cgroup v2 is mounted.
pub fn template(cgroup_namespace: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "network"}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
    ];
    namespaces.push(json!({"type": "mount"}));
    if cgroup_namespace {
        namespaces.push(json!({"type": "cgroup"}));
    }
    json!({
        "ociVersion": super::OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "migrate",
        "mounts": mounts(),
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

/// Changes the default configuration into one for a caller who is not root (runc's `spec --rootless`): a user namespace
/// with this user and group as root, the caller's network, no limits, and the host's `/sys` instead of new mounts.
pub fn make_rootless(config: &mut Value, uid: u32, gid: u32) {
    let linux = &mut config["linux"];
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|n| n["type"] != "network" && n["type"] != "user");
        namespaces.push(json!({"type": "user"}));
    }
    linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    let Some(mounts) = config["mounts"].as_array_mut() else { return };
    for mount in mounts.iter_mut() {
        if mount["destination"] == "/sys" {
            *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
        }
        if let Some(options) = mount["options"].as_array_mut() {
            let names_owner = |o: &str| o.starts_with("uid=") || o.starts_with("gid=");
            options.retain(|option| !option.as_str().is_some_and(names_owner));
        }
    }
}

fn mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
    ])
}

#[cfg(test)]
mod tests {
    use super::super::{Config, validate};
    use super::*;

    #[test]
    fn the_template_is_a_valid_configuration() {
        for cgroup_namespace in [false, true] {
            let mut rootless = template(cgroup_namespace);
            make_rootless(&mut rootless, 1000, 100);
            for value in [template(cgroup_namespace), rootless] {
                let bytes = serde_json::to_vec(&value).expect("a JSON value serialises");
                let config = Config::parse(bytes).expect("the template parses");
                validate(&config.spec).expect("the template is valid");
            }
        }
    }

    #[test]
    fn without_root_the_callers_ids_are_the_containers_root() {
        let mut config = template(false);
        make_rootless(&mut config, 1000, 100);
        let types: Vec<_> =
            config["linux"]["namespaces"].as_array().expect("list").iter().map(|n| &n["type"]).collect();
        assert_eq!(types, ["pid", "ipc", "uts", "mount", "user"]);
        assert_eq!(config["linux"]["gidMappings"], json!([{"containerID": 0, "hostID": 100, "size": 1}]));
        assert_eq!(config["linux"]["resources"], Value::Null);
        let mounts = config["mounts"].as_array().expect("list");
        let destinations: Vec<_> = mounts.iter().map(|m| m["destination"].as_str().expect("text")).collect();
        assert_eq!(
            destinations,
            ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"]
        );
        assert_eq!(config["mounts"][5]["source"], "/sys");
        assert!(!config["mounts"][2]["options"].to_string().contains("gid="));
    }
}
