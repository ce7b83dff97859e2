// SPDX-License-Identifier: Apache-2.0
//! What a configuration alone tells of a checkpoint of the container that it describes. Pure.

use nix::sched::CloneFlags;

use super::{Finding, Severity};
use crate::engine::Namespaces;
use crate::spec::Config;
use crate::spec::asks_others;
use crate::spec::oci::Spec;

/// Filesystems that another machine serves.
const REMOTE: [&str; 7] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "glusterfs"];
/// Devices whose state CRIU does not carry, once they are open.
const DEVICES: [(&str, &str); 6] = [
    ("/dev/nvidia", "cuda"),
    ("/dev/kfd", "amdgpu"),
    ("/dev/dri", "amdgpu"),
    ("/dev/fuse", ""),
    ("/dev/kvm", ""),
    ("/dev/infiniband", ""),
];

/// What stands in the way, and what is to be known. `any_user`: whether processes of other users than root can be dumped.
pub fn judge(config: &Config, any_user: bool) -> Vec<Finding> {
    let spec = &config.spec;
    let namespaces = Namespaces::from_spec(spec);
    let mut found: Vec<Finding> =
        judge_namespaces(config).into_iter().chain(own_pids(&namespaces)).chain(terminal(spec)).collect();
    if !any_user {
        found.extend(other_user(spec, &namespaces));
    }
    found.extend(mounts(spec));
    found.extend(devices(spec));
    found.extend(listener(spec));
    found
}

/// The namespaces that CRIU would take apart and could not put together again, whatever the processes do.
pub fn judge_namespaces(config: &Config) -> Vec<Finding> {
    let namespaces = Namespaces::from_spec(&config.spec);
    own_mounts(&namespaces).into_iter().chain(shared_user(&namespaces)).collect()
}

fn own_mounts(namespaces: &Namespaces) -> Option<Finding> {
    (!namespaces.types().contains(&"mnt")).then(|| {
        Finding::new(Severity::Blocker, "mount_namespace", "linux.namespaces has no mount namespace").because(
            "the container's mounts are the host's, and criu would take all of them",
            "add {\"type\": \"mount\"} to linux.namespaces",
        )
    })
}

/// CRIU restores a user namespace as one of the container's own, which has no rights over what the shared one owns.
fn shared_user(namespaces: &Namespaces) -> Option<Finding> {
    let user = namespaces.path(CloneFlags::CLONE_NEWUSER)?;
    let external = namespaces.external();
    let Some((name, _, path)) = external.first() else {
        let evidence = format!("linux.namespaces: user namespace {}", user.display());
        let cause = "a restored container gets a user namespace of its own, with the same ids";
        return Some(Finding::new(Severity::Note, "user_namespace", evidence).because(cause, ""));
    };
    let evidence = format!(
        "linux.namespaces: user namespace {} and {name} namespace {}",
        user.display(),
        path.display()
    );
    Some(Finding::new(Severity::Blocker, "user_namespace", evidence).because(
        "criu gives the container a new user namespace, which has no rights over the other one",
        "give the container a user namespace of its own, or let it share no network and pid namespace",
    ))
}

fn own_pids(namespaces: &Namespaces) -> Option<Finding> {
    (!namespaces.types().contains(&"pid")).then(|| {
        let cause = "a restore needs the very process ids that the container has now, and they may be taken";
        Finding::new(Severity::Note, "pid_namespace", "linux.namespaces has no pid namespace")
            .because(cause, "add {\"type\": \"pid\"} to linux.namespaces")
    })
}

fn terminal(spec: &Spec) -> Option<Finding> {
    let has = spec.process().as_ref().and_then(crate::spec::oci::Process::terminal).unwrap_or(false);
    has.then(|| {
        let cause = "the terminal comes back; what was on the screen does not";
        Finding::new(Severity::Note, "terminal", "process.terminal")
            .because(cause, "restore in the foreground, or with --console-socket")
    })
}

fn other_user(spec: &Spec, namespaces: &Namespaces) -> Option<Finding> {
    let process = spec.process().as_ref()?;
    let (user, group) = (process.user().uid(), process.user().gid());
    if namespaces.types().contains(&"user") || (user, group) == (0, 0) {
        return None;
    }
    let cause = "criu may not read the limits of a process of another user without CAP_SYS_RESOURCE";
    Some(
        Finding::new(Severity::Blocker, "other_user", format!("process.user is {user}:{group}"))
            .told_in(cause, "limits-of-another-user"),
    )
}

fn mounts(spec: &Spec) -> Vec<Finding> {
    let mounts = spec.mounts().iter().flatten().enumerate();
    mounts
        .filter_map(|(index, mount)| {
            let fstype = mount.typ().as_deref().unwrap_or_default();
            let evidence = format!("mounts[{index}]: {fstype} on {}", mount.destination().display());
            let cause = if fstype.starts_with("fuse") {
                "what serves it must serve it at the destination too"
            } else if REMOTE.contains(&fstype) {
                "it is mounted anew at the destination, which must reach the same server; files there must not change"
            } else {
                return None;
            };
            Some(Finding::new(Severity::Note, "remote_filesystem", evidence).because(cause, ""))
        })
        .collect()
}

fn devices(spec: &Spec) -> Vec<Finding> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    let listed =
        devices.into_iter().flatten().map(|device| ("linux.devices", device.path().display().to_string()));
    let bound = spec.mounts().iter().flatten().map(|m| ("mounts", m.destination().display().to_string()));
    let note = |(field, path): (&str, String)| {
        let (_, plugin) = DEVICES.iter().find(|(prefix, _)| path.starts_with(prefix))?;
        let (cause, remedy) = match *plugin {
            "" => {
                ("once it is open criu cannot carry it".to_owned(), "close it before a checkpoint".to_owned())
            }
            plugin => (
                "once it is open criu carries it with a plugin only".to_owned(),
                format!("install criu's {plugin} plugin"),
            ),
        };
        Some(Finding::new(Severity::Note, "device", format!("{field}: {path}")).because(cause, remedy))
    };
    listed.chain(bound).filter_map(note).collect()
}

fn listener(spec: &Spec) -> Option<Finding> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref())?;
    asks_others(profile).then(|| {
        let cause = "who answers for the filter is not connected again by a restore";
        Finding::new(Severity::Note, "seccomp_notify", "linux.seccomp has SCMP_ACT_NOTIFY").because(cause, "")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(config: &Value, any_user: bool) -> Vec<(Severity, &'static str)> {
        let mut whole = json!({"ociVersion": "1.0.2"});
        for (name, value) in config.as_object().expect("an object") {
            whole[name] = value.clone();
        }
        let config = Config::parse(whole.to_string().into_bytes()).expect("it parses");
        judge(&config, any_user).iter().map(|finding| (finding.severity, finding.rule)).collect()
    }

    const OWN: [&str; 3] = ["mount", "pid", "network"];

    fn namespaces(kinds: &[&str], more: &[Value]) -> Value {
        let mut list: Vec<Value> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
        list.extend_from_slice(more);
        Value::Array(list)
    }

    #[test]
    fn each_rule_has_its_configuration() {
        let with = |linux: Value| json!({ "linux": linux });
        let own = || namespaces(&OWN, &[]);
        assert_eq!(found(&with(json!({ "namespaces": own() })), false), []);
        let (user, net) = (json!({"type": "user", "path": "/u"}), json!({"type": "network", "path": "/n"}));
        let table = [
            (with(json!({ "namespaces": namespaces(&["pid"], &[]) })), Severity::Blocker, "mount_namespace"),
            (with(json!({ "namespaces": namespaces(&["mount"], &[]) })), Severity::Note, "pid_namespace"),
            (
                with(json!({ "namespaces": namespaces(&["mount", "pid"], std::slice::from_ref(&user)) })),
                Severity::Note,
                "user_namespace",
            ),
            (
                with(json!({ "namespaces": namespaces(&["mount", "pid"], &[user, net]) })),
                Severity::Blocker,
                "user_namespace",
            ),
            (
                with(json!({ "namespaces": own(),
                    "devices": [{"path": "/dev/nvidia0", "type": "c", "major": 195, "minor": 0}] })),
                Severity::Note,
                "device",
            ),
            (
                json!({ "linux": { "namespaces": own() },
                    "mounts": [{"destination": "/data", "type": "nfs", "source": "h:/x"}] }),
                Severity::Note,
                "remote_filesystem",
            ),
        ];
        for (config, severity, rule) in table {
            assert_eq!(found(&config, false), [(severity, rule)], "{config}");
        }
    }

    #[test]
    fn another_user_needs_a_capability_or_a_user_namespace() {
        let config = |kinds: &[&str]| {
            json!({ "linux": { "namespaces": namespaces(kinds, &[]) },
                "process": { "user": {"uid": 1000, "gid": 1000}, "args": ["x"], "cwd": "/" } })
        };
        assert_eq!(found(&config(&OWN), false), [(Severity::Blocker, "other_user")]);
        assert_eq!(found(&config(&OWN), true), []);
        assert_eq!(found(&config(&["mount", "pid", "user"]), false), []);
    }
}
