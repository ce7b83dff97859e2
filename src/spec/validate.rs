// SPDX-License-Identifier: Apache-2.0
//! Judges a configuration before anything is made, by what the specification demands. An error names the field. Pure.

use std::collections::HashSet;
use std::path::Path;

use super::oci::{LinuxNamespaceType, Process, Spec};
use crate::{Error, ErrorKind, Result};

/// Checks what the runtime specification demands and what every engine relies on.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`]; the message names the field and the rule.
pub fn validate(spec: &Spec) -> Result<()> {
    version(spec.version())?;
    let root = spec.root().as_ref().ok_or_else(|| invalid("root", "is required"))?;
    if root.path().as_os_str().is_empty() {
        return Err(invalid("root.path", "must not be empty"));
    }
    if let Some(process) = spec.process() {
        validate_process(process, "process")?;
    }
    super::namespaces::validate(spec)?;
    super::network::validate(spec)?;
    spec.linux().as_ref().map_or(Ok(()), super::process::validate_linux)?;
    intel_rdt(spec)?;
    super::seccomp::validate(spec)?;
    sysctls(spec)?;
    hooks(spec)?;
    for (i, mount) in spec.mounts().iter().flatten().enumerate() {
        if mount.destination().as_os_str().is_empty() {
            return Err(invalid(&format!("mounts[{i}].destination"), "must not be empty"));
        }
    }
    Ok(())
}

/// Checks a process, of `config.json` or of `exec --process`; `field` is its name in the messages.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`]; the message names the field and the rule.
pub fn validate_process(process: &Process, field: &str) -> Result<()> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(invalid(&format!("{field}.args"), "must name a program"));
    }
    if !process.cwd().is_absolute() {
        return Err(invalid(&format!("{field}.cwd"), "must be an absolute path"));
    }
    environment(process.env().iter().flatten(), &format!("{field}.env"))?;
    strings(process.args().iter().flatten(), &format!("{field}.args"))?;
    let mut seen = HashSet::new();
    for (i, limit) in process.rlimits().iter().flatten().enumerate() {
        let name = format!("{field}.rlimits[{i}]");
        if !seen.insert(limit.typ().to_string()) {
            return Err(invalid(&name, "names a limit that an earlier entry has set"));
        }
        if limit.soft() > limit.hard() {
            return Err(invalid(&name, "has a soft limit above its hard limit"));
        }
    }
    super::process::validate(process, field)
}

/// A group of resctrl is a directory in its root, or that itself.
fn intel_rdt(spec: &Spec) -> Result<()> {
    let config = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
    match config.and_then(|config| config.clos_id().as_deref()) {
        Some(name) if name != "/" && (name.contains('/') || matches!(name, "." | "..")) => Err(invalid(
            "linux.intelRdt.closID",
            &format!("is no name of a group: invalid intelRdt.ClosID {name:?}"),
        )),
        _ => Ok(()),
    }
}

fn hooks(spec: &Spec) -> Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    #[allow(deprecated)] // a configuration may still carry it
    let kinds = [
        (hooks.prestart(), "prestart"),
        (hooks.create_runtime(), "createRuntime"),
        (hooks.create_container(), "createContainer"),
        (hooks.start_container(), "startContainer"),
        (hooks.poststart(), "poststart"),
        (hooks.poststop(), "poststop"),
    ];
    for (list, kind) in kinds {
        for (i, hook) in list.iter().flatten().enumerate() {
            let field = |name: &str| format!("hooks.{kind}[{i}].{name}");
            if !hook.path().is_absolute() {
                return Err(invalid(&field("path"), "must be an absolute path"));
            }
            if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                return Err(invalid(&field("timeout"), "must be greater than 0"));
            }
            strings(hook.args().iter().flatten(), &field("args"))?;
            environment(hook.env().iter().flatten(), &field("env"))?;
        }
    }
    Ok(())
}

fn environment<'a>(entries: impl Iterator<Item = &'a String>, field: &str) -> Result<()> {
    for (i, entry) in entries.enumerate() {
        if entry.contains('\0') {
            return Err(invalid(&format!("{field}[{i}]"), "must not contain a NUL byte"));
        }
        if !entry.contains('=') || entry.starts_with('=') {
            return Err(invalid(&format!("{field}[{i}]"), "must have the form NAME=value"));
        }
    }
    Ok(())
}

fn strings<'a>(mut list: impl Iterator<Item = &'a String>, field: &str) -> Result<()> {
    match list.position(|text| text.contains('\0')) {
        Some(i) => Err(invalid(&format!("{field}[{i}]"), "must not contain a NUL byte")),
        None => Ok(()),
    }
}

pub(super) fn some_text(text: Option<&str>) -> bool {
    text.is_some_and(|t| !t.is_empty())
}

fn version(version: &str) -> Result<()> {
    let major = version.split('.').next().unwrap_or_default();
    if major != "1" || version.split('.').count() < 3 {
        return Err(invalid("ociVersion", &format!("must be a 1.x.y version, not `{version}`")));
    }
    Ok(())
}

/// The kind of namespace that a kernel parameter belongs to, if it belongs to one and may be set (sysctl(2),
/// namespaces(7)).
pub fn parameter_namespace(name: &str) -> Option<LinuxNamespaceType> {
    const IPC: [&str; 10] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg_next_id",
        "kernel.sem_next_id",
    ];
    match dotted(name).as_str() {
        name if IPC.contains(&name) || name.starts_with("fs.mqueue.") => Some(LinuxNamespaceType::Ipc),
        name if name.starts_with("net.") => Some(LinuxNamespaceType::Network),
        name if name.starts_with("user.") => Some(LinuxNamespaceType::User),
        "kernel.domainname" => Some(LinuxNamespaceType::Uts),
        _ => None,
    }
}

/// Refuses kernel parameters of the host's. That a namespace by path is another than the host's is for
/// [`Namespaces`](crate::engine::Namespaces) to say.
fn sysctls(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name) {
        let field = format!("linux.sysctl[{name}]");
        if Path::new(name).components().any(|c| !matches!(c, std::path::Component::Normal(_))) {
            return Err(invalid(&field, "is not the name of a kernel parameter"));
        }
        let needs = match parameter_namespace(name) {
            Some(kind) if linux.namespaces().iter().flatten().any(|n| n.typ() == kind) => continue,
            Some(LinuxNamespaceType::Ipc) => "an ipc namespace",
            Some(LinuxNamespaceType::Network) => "a network namespace",
            Some(LinuxNamespaceType::User) => "a user namespace",
            Some(_) => "a uts namespace",
            None if dotted(name) == "kernel.hostname" => {
                return Err(invalid(&field, "is set by the field `hostname`"));
            }
            None => {
                return Err(invalid(&field, "does not belong to a namespace, so it would change the host"));
            }
        };
        return Err(invalid(&field, &format!("needs {needs} of the container, or it would change the host")));
    }
    Ok(())
}

/// `net/ipv4/conf/eth0.1/x` and `net.ipv4.conf.eth0/1.x` are the two spellings of sysctl(8); this is the second.
fn dotted(name: &str) -> String {
    let first = name.find(['.', '/']).map(|at| name.as_bytes()[at]);
    if first != Some(b'/') {
        return name.to_owned();
    }
    name.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

pub(super) fn invalid(field: &str, rule: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("invalid configuration: field `{field}` {rule}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Config, template};
    use super::*;

    fn parse(edit: impl FnOnce(&mut Value)) -> Spec {
        let mut value = template(false);
        edit(&mut value);
        Config::parse(serde_json::to_vec(&value).expect("JSON")).expect("it parses").spec
    }

    #[test]
    fn each_rule_names_its_field() {
        type Edit = fn(&mut Value);
        let table: [(Edit, &str); 17] = [
            (|v| v["linux"]["intelRdt"] = json!({"closID": "a/b"}), "linux.intelRdt.closID"),
            (|v| v["linux"]["intelRdt"] = json!({"closID": ".."}), "linux.intelRdt.closID"),
            (|v| v["ociVersion"] = json!("0.9"), "ociVersion"),
            (|v| v["root"] = Value::Null, "root"),
            (|v| v["process"]["args"] = json!([]), "process.args"),
            (|v| v["process"]["cwd"] = json!("tmp"), "process.cwd"),
            (|v| v["process"]["env"] = json!(["A=1", "novalue"]), "process.env[1]"),
            (|v| v["process"]["rlimits"][0]["soft"] = json!(9999), "process.rlimits[0]"),
            (
                |v| v["linux"]["sysctl"] = json!({"user.max_user_namespaces": "1"}),
                "linux.sysctl[user.max_user_namespaces]",
            ),
            (|v| v["linux"]["sysctl"] = json!({"vm.swappiness": "1"}), "linux.sysctl[vm.swappiness]"),
            (|v| v["linux"]["sysctl"] = json!({"kernel.hostname": "x"}), "linux.sysctl[kernel.hostname]"),
            (|v| v["linux"]["sysctl"] = json!({"net/../vm": "x"}), "linux.sysctl[net/../vm]"),
            (
                |v| {
                    v["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}]);
                    v["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
                },
                "linux.sysctl[net.ipv4.ip_forward]",
            ),
            (
                |v| v["hooks"] = json!({"poststop": [{"path": "/bin/true"}, {"path": "true"}]}),
                "hooks.poststop[1].path",
            ),
            (
                |v| v["hooks"] = json!({"poststart": [{"path": "/x", "timeout": 0}]}),
                "hooks.poststart[0].timeout",
            ),
            (
                |v| v["hooks"] = json!({"prestart": [{"path": "/x", "env": ["A"]}]}),
                "hooks.prestart[0].env[0]",
            ),
            (|v| v["mounts"][0]["destination"] = json!(""), "mounts[0].destination"),
        ];
        for (edit, field) in table {
            let error = validate(&parse(edit)).expect_err(field);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(&format!("`{field}`")), "{error} should name {field}");
        }
    }

    #[test]
    fn both_spellings_of_a_parameter_are_known() {
        for name in ["net.ipv4.ip_forward", "net/ipv4/ip_forward", "net/ipv4/conf/eth0.1/forwarding"] {
            validate(&parse(|v| v["linux"]["sysctl"] = json!({name: "1"}))).expect(name);
        }
    }
}
