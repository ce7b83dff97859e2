// SPDX-License-Identifier: Apache-2.0
//! The five capability sets of a process (capabilities(7)): dropped in the order that the kernel allows.

use std::collections::HashSet;
use std::str::FromStr;

use caps::{CapSet, Capability};
use serde::{Deserialize, Serialize};

use crate::spec::oci::{Capabilities, LinuxCapabilities};
use crate::{Context, Result};

/// The sets of one process, by name. A set that the configuration leaves out is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CapabilitySets {
    bounding: Vec<String>,
    effective: Vec<String>,
    permitted: Vec<String>,
    inheritable: Vec<String>,
    ambient: Vec<String>,
}

impl CapabilitySets {
    /// What is to be ambient and is not both permitted and inheritable is left out with a warning: the kernel raises no such
    /// capability, and init has nobody to warn.
    pub(super) fn from_spec(sets: Option<&LinuxCapabilities>) -> Self {
        let Some(sets) = sets else { return Self::default() };
        let mut sets = Self {
            bounding: names(sets.bounding().as_ref()),
            effective: names(sets.effective().as_ref()),
            permitted: names(sets.permitted().as_ref()),
            inheritable: names(sets.inheritable().as_ref()),
            ambient: names(sets.ambient().as_ref()),
        };
        let (permitted, inheritable) = (&sets.permitted, &sets.inheritable);
        let (ambient, refused) = std::mem::take(&mut sets.ambient)
            .into_iter()
            .partition(|name| permitted.contains(name) && inheritable.contains(name));
        sets.ambient = ambient;
        for name in refused {
            tracing::warn!("can't raise ambient capability {name}: operation not permitted");
        }
        sets
    }

    /// Adds capabilities as `exec --cap` does: to bounding, effective and permitted, and to ambient where the
    /// capability is inheritable.
    /// A name that is none is left out, as in a configuration.
    pub(super) fn add(&mut self, wanted: &[String]) {
        for name in wanted {
            let name = if name.starts_with("CAP_") { name.clone() } else { format!("CAP_{name}") };
            if Capability::from_str(&name).is_err() {
                tracing::warn!(name, "unknown capability ignored");
                continue;
            }
            let inheritable = self.inheritable.contains(&name);
            for set in [&mut self.bounding, &mut self.effective, &mut self.permitted] {
                push_once(set, &name);
            }
            if inheritable {
                push_once(&mut self.ambient, &name);
            }
        }
    }

    /// First half, still as root: what is not in the bounding set can never come back.
    pub(super) fn drop_bounding(&self) -> Result<()> {
        let keep = parse(&self.bounding);
        for capability in caps::runtime::thread_all_supported() {
            if !keep.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)
                    .context(|| format!("prctl(PR_CAPBSET_DROP, {capability})"))?;
            }
        }
        nix::sys::prctl::set_keepcaps(true).context(|| "prctl(PR_SET_KEEPCAPS, 1)")
    }

    /// Second half, after the user is set: the sets themselves. An ambient capability that the kernel refuses only
    /// warns, as in runc.
    pub(super) fn apply(&self) -> Result<()> {
        nix::sys::prctl::set_keepcaps(false).context(|| "prctl(PR_SET_KEEPCAPS, 0)")?;
        caps::clear(None, CapSet::Ambient).context(|| "prctl(PR_CAP_AMBIENT_CLEAR_ALL)")?;
        let permitted = parse(&self.permitted);
        let effective = parse(&self.effective);
        // Lowering permitted first would take away what the other calls need; inheritable may not exceed it.
        for (set, wanted) in [
            (CapSet::Inheritable, parse(&self.inheritable)),
            (CapSet::Effective, effective),
            (CapSet::Permitted, permitted),
        ] {
            caps::set(None, set, &wanted)
                .context(|| format!("unable to apply caps: capset({set:?})"))
                .map_err(|error| match missing(&wanted) {
                    names if names.is_empty() => error,
                    names => error.with_hint(format!("this runtime itself does not have {names}")),
                })?;
        }
        for capability in parse(&self.ambient) {
            if let Err(error) = caps::raise(None, CapSet::Ambient, capability) {
                tracing::warn!("can't raise ambient capability {capability}: {error}");
            }
        }
        Ok(())
    }
}

/// Every capability that this program knows by name, in the kernel's order.
pub(super) fn known() -> Vec<String> {
    let mut all: Vec<Capability> = caps::all().into_iter().collect();
    all.sort_by_key(Capability::index);
    all.iter().map(ToString::to_string).collect()
}

fn names(set: Option<&Capabilities>) -> Vec<String> {
    let mut names: Vec<String> =
        set.into_iter().flatten().map(|capability| format!("CAP_{capability}")).collect();
    names.sort();
    names
}

fn push_once(set: &mut Vec<String>, name: &str) {
    if !set.iter().any(|n| n == name) {
        set.push(name.to_owned());
    }
}

/// What of these the runtime has not to give, by name.
fn missing(wanted: &HashSet<Capability>) -> String {
    let own = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let mut names: Vec<String> = wanted.difference(&own).map(ToString::to_string).collect();
    names.sort();
    names.join(", ")
}

/// Names that this program's table lacks are left out: the configuration's reader has warned of them.
fn parse(names: &[String]) -> HashSet<Capability> {
    names.iter().filter_map(|name| Capability::from_str(name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_specification_is_known_to_the_kernel_table() {
        let all = [
            "CAP_AUDIT_WRITE",
            "CAP_KILL",
            "CAP_NET_BIND_SERVICE",
            "CAP_CHECKPOINT_RESTORE",
            "CAP_SYS_ADMIN",
        ];
        let json = serde_json::json!({"bounding": all});
        let sets: LinuxCapabilities = serde_json::from_value(json).expect("valid sets");
        let sets = CapabilitySets::from_spec(Some(&sets));
        assert_eq!(parse(&sets.bounding).len(), all.len());
        assert!(sets.permitted.is_empty());
    }

    #[test]
    fn what_the_kernel_would_not_raise_is_not_to_be_ambient() {
        let (kill, chown, setuid) = ("CAP_KILL", "CAP_CHOWN", "CAP_SETUID");
        let json = serde_json::json!({
            "permitted": [kill, chown], "inheritable": [kill, setuid], "ambient": [setuid, kill, chown],
        });
        let sets: LinuxCapabilities = serde_json::from_value(json).expect("valid sets");
        assert_eq!(CapabilitySets::from_spec(Some(&sets)).ambient, [kill]);
    }

    #[test]
    fn an_added_capability_is_ambient_only_when_inheritable() {
        let mut sets = CapabilitySets { inheritable: vec!["CAP_KILL".into()], ..CapabilitySets::default() };
        sets.add(&["CAP_KILL".into(), "CHOWN".into(), "CAP_NOPE".into()]);
        assert_eq!(sets.ambient, ["CAP_KILL"]);
        assert_eq!(sets.permitted, ["CAP_KILL", "CAP_CHOWN"]);
    }
}
