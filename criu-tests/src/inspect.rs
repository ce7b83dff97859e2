// SPDX-License-Identifier: Apache-2.0
//! What the workload `inspect` reports from inside a container.

use std::ops::Index;

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::host::Host;
use crate::stage::Stage;

/// One report, indexed by its keys.
#[derive(Debug)]
pub struct Inspection(Value);

impl Inspection {
    /// Runs `inspect` with these probes and these further arguments of `run`, in the foreground, in a bundle changed by
    /// `edit`, and asserts that nothing is left of it.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn with(
        stage: &Stage,
        host: &Host,
        run: &[&str],
        probes: &[&str],
        edit: impl FnOnce(&mut Value),
    ) -> Self {
        let bundle = Bundle::new(host, "inspect", &[&["inspect"], probes].concat()).edit(edit);
        Self::from(stage, host, run, bundle)
    }

    /// [`Inspection::with`] of a bundle that runs `inspect`, which is removed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn from(stage: &Stage, host: &Host, run: &[&str], bundle: Bundle) -> Self {
        let before = host.mountinfo();
        let (path, id) = (bundle.path(), stage.id("inspect"));
        let args = [&["run", "-b", &path], run, &[id.as_str()]].concat();
        let text = host.migrate(&args).succeeded();
        assert_eq!(host.mountinfo(), before, "no mount of it reached the host");
        assert!(host.container_ids().is_empty(), "{:?} are left", host.container_ids());
        bundle.remove();
        Self(serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}")))
    }

    /// [`Inspection::with`] without arguments of `run`.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn of(stage: &Stage, host: &Host, probes: &[&str], edit: impl FnOnce(&mut Value)) -> Self {
        Self::with(stage, host, &[], probes, edit)
    }

    /// The mount that is seen at this place: the last one on it.
    ///
    /// # Panics
    /// When nothing is mounted there.
    #[track_caller]
    pub fn mount(&self, destination: &str) -> &Value {
        let mounts = self.0["mounts"].as_array().expect("a list");
        mounts
            .iter()
            .rfind(|m| m["destination"] == json!(destination))
            .unwrap_or_else(|| panic!("nothing is mounted on {destination}: {mounts:#?}"))
    }

    /// Whether the mount there has this flag.
    ///
    /// # Panics
    /// When nothing is mounted there.
    #[track_caller]
    pub fn has(&self, destination: &str, flag: &str) -> bool {
        self.mount(destination)["options"].as_array().is_some_and(|list| list.contains(&json!(flag)))
    }

    /// Owner and group of a file that was probed with `--stat`.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn owner(&self, path: &str) -> (u64, u64) {
        let number = |name: &str| {
            let found = &self.0["stat"][path];
            found["ok"][name].as_u64().unwrap_or_else(|| panic!("{path}: {found}"))
        };
        (number("uid"), number("gid"))
    }
}

impl Index<&str> for Inspection {
    type Output = Value;

    fn index(&self, key: &str) -> &Value {
        &self.0[key]
    }
}
