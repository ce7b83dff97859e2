// SPDX-License-Identifier: Apache-2.0
//! Device rules as properties of a unit. Pure, but for what old versions of systemd must find on this host.
//!
//! systemd's list has what is allowed, and nothing but. Rules that are no such list are left to the engine, which
//! writes them to the cgroup in any case, and systemd then has none of its own that would get into their way.

use std::fs;
use std::path::Path;

use super::bus::Value;
use super::properties::Property;
use crate::cgroup::resources::{AllowedDevices, DeviceKind, DeviceTable};
use crate::spec::oci::LinuxDeviceCgroup;

/// The first version that knows `char-MAJOR`, and that does not look at what is called `/dev/char/MAJOR:MINOR`.
const HAS_NUMBERS: u32 = 240;

/// The properties for rules, for this version of systemd.
pub(super) fn properties(rules: &[LinuxDeviceCgroup], systemd: u32) -> Vec<Property> {
    let table = DeviceTable::from_rules(rules).ok();
    let Some(allowed) = table.as_ref().and_then(DeviceTable::allowed) else {
        return list("auto", Vec::new());
    };
    let mut entries = Vec::new();
    for AllowedDevices { kind, major, minor, access } in allowed {
        let (prefix, directory) = match kind {
            DeviceKind::Block => ("block", "/dev/block"),
            DeviceKind::Character => ("char", "/dev/char"),
        };
        let name = match (major, minor) {
            (None, None) => Some(format!("{prefix}-*")),
            (Some(major), None) if systemd >= HAS_NUMBERS => Some(format!("{prefix}-{major}")),
            (Some(major), None) => driver(kind, major).map(|name| format!("{prefix}-{name}")),
            (Some(major), Some(minor)) => {
                let path = format!("{directory}/{major}:{minor}");
                (systemd >= HAS_NUMBERS || Path::new(&path).exists()).then_some(path)
            }
            // systemd has no name for these.
            (None, Some(_)) => None,
        };
        match name {
            Some(name) => entries.push((name, access)),
            None => tracing::debug!(?major, ?minor, "device rule is only in the cgroup, not in the unit"),
        }
    }
    list("strict", entries)
}

/// The list is emptied first: another assignment adds to it.
fn list(policy: &str, entries: Vec<(String, String)>) -> Vec<Property> {
    let array = |entries: Vec<(String, String)>| {
        let pairs = entries
            .into_iter()
            .map(|(name, access)| Value::Struct(vec![Value::text(name), Value::text(access)]));
        Value::Array("(ss)".to_owned(), pairs.collect())
    };
    let mut properties = vec![
        Property::new("DevicePolicy", Value::text(policy)),
        Property::new("DeviceAllow", array(Vec::new())),
    ];
    if !entries.is_empty() {
        properties.push(Property::new("DeviceAllow", array(entries)));
    }
    properties
}

/// The name of the driver with that number.
fn driver(kind: DeviceKind, major: u32) -> Option<String> {
    driver_in(&fs::read_to_string("/proc/devices").unwrap_or_default(), kind, major)
}

fn driver_in(devices: &str, kind: DeviceKind, major: u32) -> Option<String> {
    let heading = match kind {
        DeviceKind::Character => "Character devices:",
        DeviceKind::Block => "Block devices:",
    };
    devices
        .lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !line.ends_with(':'))
        .filter_map(|line| line.trim().split_once(' '))
        .find_map(|(number, name)| (number.parse() == Ok(major)).then(|| name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rules: &str, systemd: u32) -> (String, Vec<(String, String)>) {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(rules).expect("valid rules");
        let properties = properties(&rules, systemd);
        let text = |value: &Value| value.as_text().expect("text").to_owned();
        let policy = text(&properties[0].value);
        assert_eq!(properties[1].value, Value::Array("(ss)".to_owned(), Vec::new()));
        let entries = properties[2..].iter().flat_map(|p| match &p.value {
            Value::Array(_, entries) => entries.clone(),
            _ => panic!("no array"),
        });
        let pairs = entries.map(|entry| match &entry {
            Value::Struct(pair) => (text(&pair[0]), text(&pair[1])),
            _ => panic!("no pair"),
        });
        (policy, pairs.collect())
    }

    #[test]
    fn an_allow_list_is_one_of_systemd_s() {
        let (policy, list) = of(
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":200,"access":"rw"},
                {"allow":true,"type":"b","major":8,"access":"r"}]"#,
            252,
        );
        assert_eq!(policy, "strict");
        for entry in [
            ("/dev/char/10:200", "rw"),
            ("block-8", "r"),
            ("char-*", "m"),
            ("block-*", "m"),
            ("char-136", "rwm"),
            ("/dev/char/1:3", "rwm"),
        ] {
            assert!(list.contains(&(entry.0.to_owned(), entry.1.to_owned())), "{entry:?} in {list:?}");
        }
    }

    #[test]
    fn what_is_no_allow_list_is_left_to_the_cgroup() {
        for rules in [
            r#"[{"allow":true,"access":"rwm"}]"#,
            r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":10,"minor":200,"access":"rw"}]"#,
            r#"[{"allow":true,"type":"c","major":10,"access":"rw"},{"allow":false,"type":"c","major":10,"minor":200,"access":"rw"}]"#,
        ] {
            assert_eq!(of(rules, 252), ("auto".to_owned(), Vec::new()), "{rules}");
        }
    }

    #[test]
    fn before_240_drivers_have_names() {
        let table = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
        for (kind, major, name) in [
            (DeviceKind::Character, 136, Some("pts")),
            (DeviceKind::Block, 8, Some("sd")),
            (DeviceKind::Character, 8, None),
            (DeviceKind::Block, 136, None),
        ] {
            assert_eq!(driver_in(table, kind, major).as_deref(), name, "{major}");
        }
        let (_, list) = of(r#"[{"allow":true,"type":"c","major":1,"access":"r"}]"#, 239);
        assert!(list.contains(&("char-mem".to_owned(), "r".to_owned())), "{list:?}");
        assert!(!list.iter().any(|(name, _)| name == "char-136"), "{list:?}");
    }
}
