// SPDX-License-Identifier: Apache-2.0
//! A change of `linux.resources`: what `update` is given, and the configuration that follows from it. Pure.
//!
//! A change names only what changes. Lists of devices and of page sizes are merged entry by entry, as the kernel keeps
//! them. Device rules are never changed: somebody else may have added to them what a container needs (a GPU's driver).

use serde_json::{Map, Value};

use super::load::typed;
use super::oci::LinuxResources;
use crate::{Context, Error, ErrorKind, Result};

/// The fields of a change, with those within them. Clients write them in other cases too, which their own JSON
/// reader takes.
const FIELDS: [(&str, &[&str]); 8] = [
    (
        "memory",
        &[
            "limit",
            "reservation",
            "swap",
            "kernel",
            "kernelTCP",
            "swappiness",
            "disableOOMKiller",
            "useHierarchy",
            "checkBeforeUpdate",
        ],
    ),
    (
        "cpu",
        &["shares", "quota", "burst", "period", "realtimeRuntime", "realtimePeriod", "cpus", "mems", "idle"],
    ),
    ("pids", &["limit"]),
    (
        "blockIO",
        &[
            "weight",
            "leafWeight",
            "weightDevice",
            "throttleReadBpsDevice",
            "throttleWriteBpsDevice",
            "throttleReadIOPSDevice",
            "throttleWriteIOPSDevice",
        ],
    ),
    ("hugepageLimits", &[]),
    ("network", &["classID", "priorities"]),
    ("rdma", &[]),
    ("unified", &[]),
];

/// What tells the entries of a list apart.
const KEYS: [(&str, &[&str]); 7] = [
    ("hugepageLimits", &["pageSize"]),
    ("weightDevice", &["major", "minor"]),
    ("throttleReadBpsDevice", &["major", "minor"]),
    ("throttleWriteBpsDevice", &["major", "minor"]),
    ("throttleReadIOPSDevice", &["major", "minor"]),
    ("throttleWriteIOPSDevice", &["major", "minor"]),
    ("priorities", &["name"]),
];

/// A change of a container's resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceChange(Map<String, Value>);

impl ResourceChange {
    /// Reads a change in the form of `linux.resources`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: it is no JSON, or a field has the wrong type; the message names the field.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(bytes)
            .context_kind(ErrorKind::InvalidConfig, || "the resources are not JSON")?;
        Self::from_value(value)
    }

    /// [`ResourceChange::parse`] of a value.
    ///
    /// # Errors
    /// As there.
    pub fn from_value(value: Value) -> Result<Self> {
        let Value::Object(given) = value else {
            return Err(Error::new(ErrorKind::InvalidConfig, "the resources are not a JSON object"));
        };
        let mut change = Map::new();
        for (name, value) in given {
            let Some((name, fields)) = FIELDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(&name))
            else {
                continue;
            };
            match spelled(value, fields) {
                Value::Null => {}
                Value::Object(fields) if fields.is_empty() => {}
                value => drop(change.insert((*name).to_owned(), value)),
            }
        }
        if let Some(Value::Object(memory)) = change.get_mut("memory")
            && memory.get("limit").and_then(Value::as_i64) == Some(-1)
        {
            // Unlimited memory beneath a limit of memory and swap together would stay limited.
            memory.entry("swap").or_insert(Value::from(-1));
        }
        let change = Self(change);
        typed::<LinuxResources>(&Value::Object(change.0.clone()), "resources")?;
        Ok(change)
    }

    /// The resources as they are after the change.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: `resources` is not what the configuration may have there.
    pub fn applied_to(&self, resources: &Value) -> Result<Value> {
        let mut changed = if resources.is_null() { Value::Object(Map::new()) } else { resources.clone() };
        let Some(all) = changed.as_object_mut() else {
            return Err(Error::new(ErrorKind::InvalidConfig, "`linux.resources` is not an object"));
        };
        merge(all, &self.0);
        // An idle group has no other weight, and the kernel takes none.
        if let Some(Value::Object(cpu)) = all.get_mut("cpu")
            && cpu.get("idle").and_then(Value::as_i64) == Some(1)
        {
            cpu.remove("shares");
        }
        Ok(changed)
    }

    /// What has to be set for the change where `changed` is meant to hold: the fields of the change, and those that
    /// the kernel knows only together with them.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]; the message names the field.
    pub fn to_set(&self, changed: &Value) -> Result<LinuxResources> {
        let mut set = self.0.clone();
        if let Some(Value::Object(memory)) = set.get_mut("memory")
            && ["limit", "swap"].iter().any(|field| memory.contains_key(*field))
        {
            for field in ["limit", "swap"] {
                if let Some(value) = changed.pointer(&format!("/memory/{field}")) {
                    memory.insert(field.to_owned(), value.clone());
                }
            }
        }
        typed(&Value::Object(set), "resources")
    }
}

/// The value with the fields spelled as the specification has them, without those that say nothing.
fn spelled(value: Value, fields: &[&str]) -> Value {
    match value {
        Value::Object(object) => {
            let known = |name: String| {
                fields.iter().find(|f| f.eq_ignore_ascii_case(&name)).map_or(name, |f| (*f).to_owned())
            };
            let kept = object.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (known(name), value)).collect())
        }
        other => other,
    }
}

fn merge(into: &mut Map<String, Value>, change: &Map<String, Value>) {
    for (name, value) in change {
        let keys = KEYS.iter().find(|(list, _)| list == name).map(|(_, keys)| *keys);
        match (into.get_mut(name), value, keys) {
            (Some(Value::Object(present)), Value::Object(fields), _) => merge(present, fields),
            (Some(Value::Array(present)), Value::Array(entries), Some(keys)) => {
                merge_lists(present, entries, keys);
            }
            _ => drop(into.insert(name.clone(), value.clone())),
        }
    }
}

fn merge_lists(present: &mut Vec<Value>, entries: &[Value], keys: &[&str]) {
    for entry in entries {
        let same = |other: &&mut Value| keys.iter().all(|key| other.get(key) == entry.get(key));
        match present.iter_mut().find(same) {
            Some(Value::Object(old)) => {
                if let Value::Object(new) = entry {
                    merge(old, new);
                }
            }
            _ => present.push(entry.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(value: Value) -> ResourceChange {
        ResourceChange::from_value(value).expect("a valid change")
    }

    #[test]
    fn what_is_not_named_stays() {
        let before = json!({"devices": [{"allow": false}], "memory": {"limit": 1, "swap": 2},
                            "cpu": {"shares": 5, "quota": 3}});
        let after = change(json!({"cpu": {"quota": 9, "period": null}, "pids": {"limit": 7}}))
            .applied_to(&before)
            .expect("mergeable");
        assert_eq!(
            after,
            json!({"devices": [{"allow": false}], "memory": {"limit": 1, "swap": 2},
                   "cpu": {"shares": 5, "quota": 9}, "pids": {"limit": 7}})
        );
        let first = change(json!({"pids": {"limit": 7}})).applied_to(&Value::Null).expect("mergeable");
        assert_eq!(first, json!({"pids": {"limit": 7}}));
    }

    #[test]
    fn entries_are_replaced_by_device_and_page_size() {
        let before = json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]},
                            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}]});
        let after = change(json!({
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 2}, {"major": 8, "minor": 1, "rate": 3}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 5}, {"pageSize": "1GB", "limit": 6}]}))
        .applied_to(&before)
        .expect("mergeable");
        assert_eq!(
            after,
            json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 2}, {"major": 8, "minor": 1, "rate": 3}]},
                   "hugepageLimits": [{"pageSize": "2MB", "limit": 5}, {"pageSize": "1GB", "limit": 6}]})
        );
    }

    #[test]
    fn devices_and_what_is_unknown_are_left_alone_and_case_does_not_matter() {
        let rules = json!([{"allow": true, "access": "rwm"}]);
        let change = change(json!({"devices": rules, "CPU": {"Cpus": "1"}, "x": 1}));
        assert_eq!(change, super::ResourceChange::parse(br#"{"cpu":{"cpus":"1"}}"#).expect("valid"));
    }

    #[test]
    fn idle_takes_the_shares_and_unlimited_memory_the_limit_of_swap() {
        let before = json!({"cpu": {"shares": 100}, "memory": {"limit": 1, "swap": 2}});
        let after = change(json!({"cpu": {"idle": 1}, "memory": {"limit": -1}}))
            .applied_to(&before)
            .expect("mergeable");
        assert_eq!(after, json!({"cpu": {"idle": 1}, "memory": {"limit": -1, "swap": -1}}));
    }

    #[test]
    fn memory_and_swap_are_set_together() {
        let before = json!({"memory": {"limit": 10, "swap": 20, "reservation": 5}});
        let swap = change(json!({"memory": {"swap": 30}}));
        let set = swap.to_set(&swap.applied_to(&before).expect("mergeable")).expect("valid");
        let memory = set.memory().as_ref().expect("it is set");
        assert_eq!((memory.limit(), memory.swap(), memory.reservation()), (Some(10), Some(30), None));
    }

    #[test]
    fn nonsense_is_refused_with_the_name_of_the_field() {
        let error = ResourceChange::parse(br#"{"memory":{"limit":"much"}}"#).expect_err("no number");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("memory.limit"), "{error}");
        for bytes in [&b"{"[..], b"[]", b"1", b""] {
            assert_eq!(ResourceChange::parse(bytes).expect_err("nonsense").kind(), ErrorKind::InvalidConfig);
        }
    }
}
