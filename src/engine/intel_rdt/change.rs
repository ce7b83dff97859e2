// SPDX-License-Identifier: Apache-2.0
//! Other shares for a container that exists.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{CACHE, MEMORY, RdtGroups, RdtPlan, WHAT_IT_NEEDS, has, mounted, schemata, set, text};
use crate::engine::ContainerId;
use crate::spec::oci::LinuxIntelRdt;
use crate::{Context, Error, ErrorKind, Result};

/// A change of a container's shares: what is absent or empty stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RdtChange {
    /// The lines of the cache, as in `linux.intelRdt.l3CacheSchema`.
    pub l3_cache_schema: Option<String>,
    /// The lines of the memory's bandwidth, as in `linux.intelRdt.memBwSchema`.
    pub mem_bw_schema: Option<String>,
}

/// The way back from a change: a group's lines as they were.
#[derive(Debug, Default)]
#[must_use]
pub(in crate::engine) struct Undo(Option<(PathBuf, PathBuf, String)>);

impl Undo {
    /// Goes it.
    ///
    /// # Errors
    /// The group that stays changed.
    pub(in crate::engine) fn run(self) -> Result<()> {
        self.0.map_or(Ok(()), |(root, group, lines)| set(&root, &group, &lines))
    }
}

impl RdtChange {
    fn is_empty(&self) -> bool {
        text(&self.l3_cache_schema).is_none() && text(&self.mem_bw_schema).is_none()
    }

    /// Makes sure that the machine has what is to be changed, before anything is.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`].
    pub(in crate::engine) fn require_machine(&self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { self.require(mounted()?.as_deref()) }
    }

    /// The words are runc's.
    fn require(&self, root: Option<&Path>) -> Result<()> {
        let missing = |names: &[&str]| root.is_none_or(|root| !has(root, names));
        let message = if text(&self.l3_cache_schema).is_some() && missing(&CACHE) {
            "Intel RDT/CAT: l3 cache schema is not enabled"
        } else if text(&self.mem_bw_schema).is_some() && missing(&MEMORY) {
            "Intel RDT/MBA: memory bandwidth schema is not enabled"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Unsupported, message).with_hint(WHAT_IT_NEEDS))
    }

    /// Puts it into the object `linux` of a configuration. Lines of `schemata` about the same resource go: they would
    /// have the last word when the container is restored.
    pub(in crate::engine) fn write_into(&self, linux: &mut Value) {
        let Some(linux) = linux.as_object_mut().filter(|_| !self.is_empty()) else { return };
        let config = linux.entry("intelRdt").or_insert(Value::Null);
        if config.is_null() {
            *config = Value::Object(Default::default());
        }
        let fields = [("l3CacheSchema", &self.l3_cache_schema), ("memBwSchema", &self.mem_bw_schema)];
        for (field, lines) in fields.into_iter().filter_map(|(f, lines)| Some((f, text(lines)?))) {
            config[field] = Value::from(lines);
        }
        let resource = |line: &str| line.split(':').next().unwrap_or_default().trim().to_owned();
        let changed: Vec<String> = self.lines().lines().map(resource).collect();
        if let Some(earlier) = config.get_mut("schemata").and_then(Value::as_array_mut) {
            earlier.retain(|line| line.as_str().is_none_or(|line| !changed.contains(&resource(line))));
        }
    }

    fn as_config(&self) -> LinuxIntelRdt {
        let mut config = LinuxIntelRdt::default();
        config
            .set_l3_cache_schema(self.l3_cache_schema.clone())
            .set_mem_bw_schema(self.mem_bw_schema.clone());
        config
    }

    fn lines(&self) -> String {
        schemata(&self.as_config())
    }

    /// Does it, in the container's group. A container without one gets one, with the processes of `pids`;
    /// `write_down` is told before it is there.
    ///
    /// # Errors
    /// The group that cannot be made, set or joined. The shares are then as they were.
    pub(in crate::engine) fn apply(
        &self,
        groups: &RdtGroups,
        id: &ContainerId,
        pids: impl FnOnce() -> Result<Vec<i32>>,
        write_down: impl FnMut(&RdtGroups) -> Result<()>,
    ) -> Result<Undo> {
        if self.is_empty() {
            return Ok(Undo::default());
        }
        self.apply_beneath(mounted()?.as_deref(), groups, id, pids, write_down)
    }

    fn apply_beneath(
        &self,
        root: Option<&Path>,
        groups: &RdtGroups,
        id: &ContainerId,
        pids: impl FnOnce() -> Result<Vec<i32>>,
        mut write_down: impl FnMut(&RdtGroups) -> Result<()>,
    ) -> Result<Undo> {
        if let (Some(root), Some(group)) = (root, groups.joined.first()) {
            let file = group.join("schemata");
            let before = fs::read_to_string(&file).context(|| format!("read {}", file.display()))?;
            set(root, group, &self.lines())?;
            return Ok(Undo(Some((root.to_owned(), group.clone(), before))));
        }
        let plan = RdtPlan::beneath(root, &self.as_config(), id)?;
        let mut made = RdtGroups::default();
        let created = plan.create(|groups| {
            made.clone_from(groups);
            write_down(groups)
        });
        match created.and_then(|()| made.join(&pids()?)) {
            Ok(()) => Ok(Undo::default()),
            Err(error) => {
                let removed = made.remove().and_then(|()| write_down(&RdtGroups::default()));
                Err(error.with_cleanup(removed.err()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::machine;
    use super::*;

    fn change(cache: &str, memory: &str) -> RdtChange {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        RdtChange { l3_cache_schema: text(cache), mem_bw_schema: text(memory) }
    }

    fn apply(root: &Path, groups: &RdtGroups, change: &RdtChange) -> Result<(Undo, RdtGroups)> {
        let mut written = groups.clone();
        let id = "web".parse().expect("an id");
        let pids = || Ok(vec![std::process::id() as i32]);
        let undo = change.apply_beneath(Some(root), groups, &id, pids, |groups| {
            written.clone_from(groups);
            // The kernel makes it with the group.
            if root.join("web").is_dir() {
                fs::write(root.join("web/tasks"), "").context(|| "write")
            } else {
                Ok(())
            }
        })?;
        Ok((undo, written))
    }

    #[test]
    fn a_group_is_set_anew_and_back() {
        let root = machine();
        let group = root.path().join("shared");
        fs::create_dir(&group).expect("mkdir");
        let schemata = group.join("schemata");
        fs::write(&schemata, "L3:0=ff\nMB:0=100\n").expect("write");
        let groups = RdtGroups { joined: vec![group], made: Vec::new() };
        let read = || fs::read_to_string(&schemata).expect("read");
        let (undo, written) =
            apply(root.path(), &groups, &change("L3:0=f\nMB:0=5", "MB:0=20")).expect("changed");
        assert_eq!((read().as_str(), &written), ("L3:0=f\nMB:0=20\n", &groups));
        undo.run().expect("back");
        assert_eq!(read(), "L3:0=ff\nMB:0=100\n");
        drop(apply(root.path(), &groups, &change("", "MB:0=30")).expect("changed"));
        assert_eq!(read(), "MB:0=30\n", "the kernel leaves the other lines as they are");
    }

    #[test]
    fn a_container_without_a_group_gets_one() {
        let root = machine();
        let (_, written) = apply(root.path(), &RdtGroups::default(), &change("L3:0=f", "")).expect("changed");
        let group = root.path().join("web");
        assert_eq!(written, RdtGroups { joined: vec![group.clone()], made: vec![group.clone()] });
        assert_eq!(fs::read_to_string(group.join("schemata")).expect("read"), "L3:0=f\n");
        let tasks = fs::read_to_string(group.join("tasks")).expect("read");
        assert!(tasks.contains(&std::process::id().to_string()), "{tasks}");
    }

    #[test]
    fn a_machine_without_it_is_told_in_runcs_words() {
        let root = tempfile::tempdir().expect("tempdir");
        for root in [None, Some(root.path())] {
            for (change, words) in [
                (change("L3:0=f", ""), "Intel RDT/CAT: l3 cache schema is not enabled"),
                (change("", "MB:0=20"), "Intel RDT/MBA: memory bandwidth schema is not enabled"),
            ] {
                let error = change.require(root).expect_err(words);
                assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Unsupported, words));
            }
        }
        change("", "").require(None).expect("nothing is asked for");
        change("L3:0=f", "MB:0=20").require(Some(machine().path())).expect("it has both");
    }

    #[test]
    fn the_configuration_has_the_last_word_on_record() {
        let mut linux = json!({"intelRdt": {"closID": "x", "schemata": ["L3:0=1", "MB:0=10", "L2:0=3"]}});
        change("L3:0=f", "").write_into(&mut linux);
        let expected = json!({"closID": "x", "l3CacheSchema": "L3:0=f", "schemata": ["MB:0=10", "L2:0=3"]});
        assert_eq!(linux["intelRdt"], expected);
        let mut linux = json!({});
        change("", "").write_into(&mut linux);
        assert_eq!(linux, json!({}));
        change("", "MB:0=20").write_into(&mut linux);
        assert_eq!(linux, json!({"intelRdt": {"memBwSchema": "MB:0=20"}}));
    }
}
