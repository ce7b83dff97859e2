// SPDX-License-Identifier: Apache-2.0
//! What of a changed configuration a restore cannot apply. Pure: two configurations in, names of fields out.
//!
//! Restored processes and mounts are what they were at the checkpoint. Of a configuration that was edited since then the
//! cgroup and its limits, the sources of mounts, the paths of namespaces and hooks count; everything listed here does not.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{Context, ErrorKind, Result};

/// Fields whose values are in the images, as JSON pointers.
const KEPT: &[&str] = &[
    "/domainname",
    "/hostname",
    "/linux/devices",
    "/linux/gidMappings",
    "/linux/maskedPaths",
    "/linux/memoryPolicy",
    "/linux/mountLabel",
    "/linux/personality",
    "/linux/readonlyPaths",
    "/linux/rootfsPropagation",
    "/linux/seccomp",
    "/linux/sysctl",
    "/linux/timeOffsets",
    "/linux/uidMappings",
    "/process/apparmorProfile",
    "/process/args",
    "/process/capabilities",
    "/process/cwd",
    "/process/env",
    "/process/execCPUAffinity",
    "/process/ioPriority",
    "/process/noNewPrivileges",
    "/process/oomScoreAdj",
    "/process/rlimits",
    "/process/scheduler",
    "/process/selinuxLabel",
    "/process/terminal",
    "/process/user",
    "/root/readonly",
];

/// The fields in which `now` differs from `then`, the configuration at the checkpoint, and which a restore leaves as they
/// were: `process.capabilities`, `mounts[/data]` by destination, `linux.namespaces[ipc]` by type.
///
/// # Errors
/// `InvalidConfig` when one of them is not JSON.
pub fn kept_fields(then: &[u8], now: &[u8]) -> Result<Vec<String>> {
    let parse = |bytes: &[u8], which: &str| -> Result<Value> {
        serde_json::from_slice(bytes)
            .context_kind(ErrorKind::InvalidConfig, || format!("understand the configuration {which}"))
    };
    let (then, now) = (parse(then, "of the checkpoint")?, parse(now, "of the bundle")?);
    let mut fields: Vec<String> = KEPT
        .iter()
        .filter(|pointer| normal(then.pointer(pointer)) != normal(now.pointer(pointer)))
        .map(|pointer| pointer.trim_start_matches('/').replace('/', "."))
        .collect();
    let named = |config: &Value, list: &str, name: &str, what: fn(&Value) -> Value| {
        let entries = config.pointer(list).and_then(Value::as_array).into_iter().flatten();
        entries.filter_map(|e| Some((e.get(name)?.as_str()?.to_owned(), what(e)))).collect::<BTreeMap<_, _>>()
    };
    let mut compare = |list: &str, name: &str, what: fn(&Value) -> Value| {
        let (then, now) = (named(&then, list, name, what), named(&now, list, name, what));
        let keys: std::collections::BTreeSet<_> = then.keys().chain(now.keys()).collect();
        let field = list.trim_start_matches('/').replace('/', ".");
        let changed = keys.into_iter().filter(|key| then.get(*key) != now.get(*key));
        fields.extend(changed.map(|key| format!("{field}[{key}]")));
    };
    compare("/mounts", "destination", how_it_is_mounted);
    compare("/linux/namespaces", "type", |namespace| Value::Bool(is_new(namespace)));
    fields.sort();
    Ok(fields)
}

/// All of a mount but its source, which may be another one; options in any order.
fn how_it_is_mounted(mount: &Value) -> Value {
    let mut options: Vec<_> = mount.get("options").and_then(Value::as_array).cloned().unwrap_or_default();
    let bind = |option: &Value| matches!(option.as_str(), Some("bind" | "rbind"));
    let typ = match options.iter().any(bind) {
        true => Value::from("bind"),
        false => mount.get("type").cloned().unwrap_or_default(),
    };
    options.sort_by_key(ToString::to_string);
    Value::Array(vec![typ, Value::Array(options)])
}

fn is_new(namespace: &Value) -> bool {
    namespace.get("path").and_then(Value::as_str).is_none_or(str::is_empty)
}

/// A value as it counts: what is empty or false might as well be missing.
fn normal(value: Option<&Value>) -> Value {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => Value::Null,
        Some(Value::Array(list)) if list.is_empty() => Value::Null,
        Some(Value::String(text)) if text.is_empty() => Value::Null,
        Some(Value::Object(fields)) => {
            let fields: serde_json::Map<_, _> = fields
                .iter()
                .map(|(name, value)| (name.clone(), normal(Some(value))))
                .filter(|(_, value)| !value.is_null())
                .collect();
            if fields.is_empty() { Value::Null } else { Value::Object(fields) }
        }
        Some(value) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(then: &Value, now: &Value) -> Vec<String> {
        kept_fields(then.to_string().as_bytes(), now.to_string().as_bytes()).expect("both are JSON")
    }

    fn config() -> Value {
        json!({
            "ociVersion": "1.0.2",
            "hostname": "a",
            "process": {"terminal": false, "args": ["sh"], "cwd": "/", "capabilities": {"bounding": ["CAP_KILL"]},
                        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/data", "type": "bind", "source": "/a", "options": ["rbind", "rw"]},
                       {"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}],
                      "resources": {"memory": {"limit": 1 << 20}}, "cgroupsPath": "/a"}
        })
    }

    #[test]
    fn what_a_restore_applies_may_differ() {
        let (then, mut now) = (config(), config());
        assert_eq!(kept(&then, &now), Vec::<String>::new());
        now["linux"]["resources"] = json!({"pids": {"limit": 7}});
        now["linux"]["cgroupsPath"] = json!("/b");
        now["linux"]["namespaces"][1]["path"] = json!("/run/netns/b");
        now["mounts"][0]["source"] = json!("/b");
        now["mounts"][0]["options"] = json!(["rw", "rbind"]);
        now["root"] = json!({"path": "elsewhere", "readonly": false});
        now["linux"]["seccomp"] = Value::Null;
        now["linux"]["maskedPaths"] = json!([]);
        now["hooks"] = json!({"poststop": [{"path": "/bin/true"}]});
        now["annotations"] = json!({"a": "b"});
        assert_eq!(kept(&then, &now), Vec::<String>::new());
    }

    #[test]
    fn what_is_in_the_images_is_named() {
        let (then, mut now) = (config(), config());
        now["hostname"] = json!("b");
        now["process"]["capabilities"]["bounding"] = json!([]);
        now["process"]["rlimits"][0]["soft"] = json!(2);
        now["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        now["root"]["readonly"] = json!(true);
        now["linux"]["namespaces"][1]["path"] = json!("");
        now["mounts"][1]["options"] = json!(["ro"]);
        now["mounts"].as_array_mut().expect("a list").push(json!({"destination": "/new", "type": "tmpfs"}));
        let expected = [
            "hostname",
            "linux.namespaces[network]",
            "linux.seccomp",
            "mounts[/new]",
            "mounts[/proc]",
            "process.capabilities",
            "process.rlimits",
            "root.readonly",
        ];
        assert_eq!(kept(&then, &now), expected);
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        let error = kept_fields(b"{", b"{}").expect_err("not JSON");
        assert_eq!(error.to_string(), "understand the configuration of the checkpoint");
        kept_fields(b"{}", b"nothing").expect_err("not JSON");
    }
}
