// SPDX-License-Identifier: Apache-2.0
//! Judges the namespaces of a configuration, and what makes sense only with some of them: id mappings and clock
//! offsets. Pure.

use std::collections::HashSet;

use super::oci::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec};
use super::validate::{invalid, some_text};
use crate::Result;

/// The kernel takes no longer map (`UID_GID_MAP_MAX_EXTENTS`).
const MOST_MAPPINGS: usize = 340;

/// The clocks that a time namespace has of its own (time_namespaces(7)).
const CLOCKS: [&str; 2] = ["monotonic", "boottime"];

/// Checks the list of namespaces and the fields that depend on it.
pub(super) fn validate(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else { return named(spec, &HashSet::new()) };
    let seen = list(linux)?;
    named(spec, &seen)?;
    let masks = linux.masked_paths().iter().flatten().next().is_some()
        || linux.readonly_paths().iter().flatten().next().is_some();
    if masks && !seen.contains(&LinuxNamespaceType::Mount) {
        let rule = "and linux.readonlyPaths need a mount namespace of the container";
        return Err(invalid("linux.maskedPaths", rule));
    }
    mappings(linux, &seen)?;
    offsets(linux, &seen)
}

fn list(linux: &Linux) -> Result<HashSet<LinuxNamespaceType>> {
    let mut seen = HashSet::new();
    for (i, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let field = format!("linux.namespaces[{i}]");
        if !seen.insert(namespace.typ()) {
            return Err(invalid(&field, &format!("repeats the type `{}`", namespace.typ())));
        }
        let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) else {
            continue;
        };
        let field = format!("{field}.path");
        if !path.is_absolute() {
            return Err(invalid(&field, "must be an absolute path"));
        }
        if path.as_os_str().as_encoded_bytes().contains(&b',') {
            return Err(invalid(&field, "must not contain a comma"));
        }
    }
    Ok(seen)
}

fn named(spec: &Spec, seen: &HashSet<LinuxNamespaceType>) -> Result<()> {
    for (name, field) in [(spec.hostname(), "hostname"), (spec.domainname(), "domainname")] {
        if some_text(name.as_deref()) && !seen.contains(&LinuxNamespaceType::Uts) {
            return Err(invalid(field, "needs a uts namespace, or it would rename the host"));
        }
    }
    Ok(())
}

/// The path of the namespace of this kind; `Some(None)` for a new one.
fn place(linux: &Linux, kind: LinuxNamespaceType) -> Option<Option<&std::path::Path>> {
    let found = linux.namespaces().iter().flatten().find(|namespace| namespace.typ() == kind)?;
    Some(found.path().as_deref().filter(|path| !path.as_os_str().is_empty()))
}

fn mappings(linux: &Linux, seen: &HashSet<LinuxNamespaceType>) -> Result<()> {
    let new = place(linux, LinuxNamespaceType::User) == Some(None);
    if new && matches!(place(linux, LinuxNamespaceType::Mount), Some(Some(_))) {
        let rule = "of type `user` without a path cannot own the mount namespace that is given by path";
        return Err(invalid("linux.namespaces", rule));
    }
    for (list, field) in
        [(linux.uid_mappings(), "linux.uidMappings"), (linux.gid_mappings(), "linux.gidMappings")]
    {
        let list = list.as_deref().unwrap_or_default();
        if !list.is_empty() && !seen.contains(&LinuxNamespaceType::User) {
            let rule = "is of no use: user namespace mappings specified, but user namespace isn't enabled in the config";
            return Err(invalid(field, rule));
        }
        if new && list.is_empty() {
            return Err(invalid(field, "must not be empty: the new user namespace would have no ids"));
        }
        one_map(list, field)?;
    }
    Ok(())
}

fn one_map(list: &[LinuxIdMapping], field: &str) -> Result<()> {
    if list.len() > MOST_MAPPINGS {
        return Err(invalid(field, &format!("has more than the kernel's {MOST_MAPPINGS} entries")));
    }
    for (i, mapping) in list.iter().enumerate() {
        let field = format!("{field}[{i}]");
        if mapping.size() == 0 {
            return Err(invalid(&format!("{field}.size"), "must not be 0"));
        }
        for (first, name) in [(mapping.container_id(), "containerID"), (mapping.host_id(), "hostID")] {
            // The last number is no id: it stands for "unchanged" in chown(2) and others.
            if first.checked_add(mapping.size()).is_none() {
                return Err(invalid(&format!("{field}.{name}"), "and its size go beyond the last id"));
            }
        }
        let meets =
            |a: u32, b: u32, size: u32| a < b.saturating_add(size) && b < a.saturating_add(mapping.size());
        for other in &list[..i] {
            if meets(mapping.container_id(), other.container_id(), other.size()) {
                return Err(invalid(&field, "maps ids of the container that an earlier entry maps"));
            }
            if meets(mapping.host_id(), other.host_id(), other.size()) {
                return Err(invalid(&field, "maps to ids of the host that an earlier entry maps to"));
            }
        }
    }
    Ok(())
}

fn offsets(linux: &Linux, seen: &HashSet<LinuxNamespaceType>) -> Result<()> {
    const FIELD: &str = "linux.timeOffsets";
    let Some(offsets) = linux.time_offsets().as_ref().filter(|offsets| !offsets.is_empty()) else {
        return Ok(());
    };
    if !seen.contains(&LinuxNamespaceType::Time) {
        let rule =
            "is of no use: time namespace offsets specified, but time namespace isn't enabled in the config";
        return Err(invalid(FIELD, rule));
    }
    if place(linux, LinuxNamespaceType::Time) != Some(None) {
        let rule = "comes too late: time namespace enabled, but both namespace path and time offsets specified -- you may only \
             provide one";
        return Err(invalid(FIELD, rule));
    }
    for (clock, offset) in offsets {
        if !CLOCKS.contains(&clock.as_str()) {
            let rule = format!("names the clock {clock:?}: there are {}", CLOCKS.join(" and "));
            return Err(invalid(FIELD, &rule));
        }
        if offset.nanosecs().is_some_and(|n| n >= 1_000_000_000) {
            return Err(invalid(&format!("{FIELD}[{clock}].nanosecs"), "must be less than a second"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Config, template};
    use super::*;
    use crate::ErrorKind;

    fn judge(edit: impl FnOnce(&mut Value)) -> Result<()> {
        let mut value = template(false);
        edit(&mut value);
        let spec = Config::parse(serde_json::to_vec(&value).expect("JSON")).expect("it parses").spec;
        validate(&spec)
    }

    fn with_user(uids: &Value, gids: &Value) -> Result<()> {
        judge(|v| {
            v["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
            v["linux"]["uidMappings"] = uids.clone();
            v["linux"]["gidMappings"] = gids.clone();
        })
    }

    #[test]
    fn each_rule_names_its_field() {
        type Edit = fn(&mut Value);
        let table: [(Edit, &str); 10] = [
            (|v| v["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "pid"}]), "linux.namespaces[1]"),
            (|v| v["linux"]["namespaces"] = json!([{"type": "pid"}]), "hostname"),
            (
                |v| v["linux"]["namespaces"] = json!([{"type": "uts"}, {"type": "ipc", "path": "rel"}]),
                "linux.namespaces[1].path",
            ),
            (|v| v["linux"]["namespaces"][0]["path"] = json!("/proc/1/ns/pid,x"), "linux.namespaces[0].path"),
            (
                |v| v["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 1}]),
                "linux.uidMappings",
            ),
            (|v| v["linux"]["namespaces"][0] = json!({"type": "user"}), "linux.uidMappings"),
            (|v| v["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1}}), "linux.timeOffsets"),
            (
                |v| {
                    v["linux"]["namespaces"][0] = json!({"type": "time", "path": "/proc/1/ns/time"});
                    v["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1}});
                },
                "linux.timeOffsets",
            ),
            (
                |v| {
                    v["linux"]["namespaces"][0] = json!({"type": "time"});
                    v["linux"]["timeOffsets"] = json!({"realtime": {"secs": 1}});
                },
                "linux.timeOffsets",
            ),
            (
                |v| {
                    v["linux"]["namespaces"][0] = json!({"type": "time"});
                    v["linux"]["timeOffsets"] = json!({"boottime": {"nanosecs": 1_000_000_000}});
                },
                "linux.timeOffsets[boottime].nanosecs",
            ),
        ];
        for (edit, field) in table {
            let error = judge(edit).expect_err(field);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(&format!("`{field}`")), "{error} should name {field}");
        }
    }

    #[test]
    fn maps_that_the_kernel_would_refuse_are_named() {
        let good = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        with_user(&good, &good).expect("valid");
        for (map, field) in [
            (json!([]), "linux.gidMappings"),
            (json!([{"containerID": 0, "hostID": 1000, "size": 0}]), "linux.gidMappings[0].size"),
            (json!([{"containerID": 0, "hostID": u32::MAX, "size": 1}]), "linux.gidMappings[0].hostID"),
            (
                json!([{"containerID": 0, "hostID": 0, "size": 5}, {"containerID": 4, "hostID": 9, "size": 1}]),
                "linux.gidMappings[1]",
            ),
            (
                json!([{"containerID": 0, "hostID": 9, "size": 1}, {"containerID": 4, "hostID": 0, "size": 10}]),
                "linux.gidMappings[1]",
            ),
        ] {
            let error = with_user(&good, &map).expect_err(field);
            assert!(error.to_string().contains(&format!("`{field}`")), "{error} should name {field}");
        }
    }
}
