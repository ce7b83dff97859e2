// SPDX-License-Identifier: Apache-2.0
//! Cgroups that a container made beneath its own, as places for further processes.

use std::path::{Component, Path, PathBuf};

use super::cgroup::{Cgroup, Node};
use super::hierarchy::{Layout, Version, self_cgroups};
use crate::{Context, Error, ErrorKind, Result};

/// Where beneath its cgroup a process shall be: one place in all hierarchies, or one for each controller named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubCgroups(Vec<(Option<String>, PathBuf)>);

impl SubCgroups {
    /// Reads what runc's `exec --cgroup` takes: `SUB`, or any number of `CONTROLLER[,CONTROLLER…]:SUB`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a path that leads upwards, a controller named twice, and a mix of both forms.
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let bad = |argument: &str, why: &str| {
            Error::new(ErrorKind::InvalidInput, format!("invalid --cgroup argument: {argument} ({why})"))
        };
        let mut places: Vec<(Option<String>, PathBuf)> = Vec::new();
        for argument in arguments {
            let Some((controllers, path)) = argument.split_once(':') else {
                if arguments.len() != 1 {
                    return Err(bad(argument, "missing <controller>: prefix"));
                }
                places.push((None, relative(argument)?));
                continue;
            };
            for controller in controllers.split(',') {
                if controller.is_empty() {
                    return Err(bad(argument, "empty <controller> prefix"));
                }
                if places.iter().any(|(named, _)| named.as_deref() == Some(controller)) {
                    return Err(bad(argument, &format!("controller {controller} specified multiple times")));
                }
                places.push((Some(controller.to_owned()), relative(path)?));
            }
        }
        Ok(Self(places))
    }

    /// Whether the container's own cgroup is meant.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn of(&self, node: &Node) -> Option<&Path> {
        let meant = |(controller, _): &&(Option<String>, PathBuf)| {
            controller.as_ref().is_none_or(|name| node.has(name))
        };
        self.0.iter().find(meant).map(|(_, path)| path.as_path())
    }
}

fn relative(path: &str) -> Result<PathBuf> {
    let mut relative = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => relative.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                let message = format!("bad sub cgroup path: {path} is not a sub cgroup path");
                return Err(Error::new(ErrorKind::InvalidInput, message)
                    .with_hint("the cgroup must lie beneath the container's"));
            }
        }
    }
    Ok(relative)
}

impl Cgroup {
    /// These places beneath it, which must exist.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a controller that it does not have; [`ErrorKind::NotFound`].
    pub fn beneath(&self, places: &SubCgroups) -> Result<Self> {
        for controller in places.0.iter().filter_map(|(controller, _)| controller.as_deref()) {
            if self.v1_node(controller).is_none() {
                let message = format!("unknown controller {controller} in --cgroup");
                return Err(Error::new(ErrorKind::InvalidInput, message)
                    .with_hint("on cgroup v2 there is one place for all: --cgroup SUB"));
            }
        }
        let hybrid = self.layout() == Layout::Hybrid;
        let mut nodes = Vec::new();
        for node in &self.nodes {
            let Some(place) = places.of(node) else {
                nodes.push(node.clone());
                continue;
            };
            let beneath = Node { relative: node.relative.join(place), ..node.clone() };
            if beneath.open()?.is_some() {
                nodes.push(beneath);
            } else if hybrid && node.version == Version::V2 {
                // Nothing is controlled there, and nobody thinks of making anything there.
                nodes.push(node.clone());
            } else {
                let path = beneath.path().join("cgroup.procs");
                let message = format!(
                    "error adding pid of the new process to cgroups {}: no such file or directory",
                    path.display()
                );
                return Err(Error::new(ErrorKind::NotFound, message));
            }
        }
        Ok(Self { nodes, unit: self.unit.clone() })
    }

    /// The place beneath it in which a process of the container is now, in the unified hierarchy: it may have moved
    /// itself there, as it must before it divides its resources among cgroups beneath. `None` where that is no other.
    ///
    /// # Errors
    /// The process is gone.
    pub fn where_process_is(&self, pid: i32) -> Result<Option<Self>> {
        let Some(unified) = self.v2_node() else { return Ok(None) };
        let cgroups =
            self_cgroups(pid).context(|| format!("find the cgroups of process {pid} of the container"))?;
        let now = cgroups.into_iter().find(|cgroup| cgroup.controllers.is_empty()).map(|cgroup| cgroup.path);
        let Some(now) = now else { return Ok(None) };
        let relative = now.strip_prefix("/").unwrap_or(&now);
        if relative == unified.relative || !relative.starts_with(&unified.relative) {
            return Ok(None);
        }
        let moved = |node: &Node| match node.version {
            Version::V2 => Node { relative: relative.to_path_buf(), ..node.clone() },
            Version::V1 => node.clone(),
        };
        Ok(Some(Self { nodes: self.nodes.iter().map(moved).collect(), unit: self.unit.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<SubCgroups> {
        SubCgroups::parse(&arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_forms_are_runcs() {
        let place = |controller: Option<&str>, path: &str| (controller.map(str::to_owned), path.into());
        assert_eq!(parse(&["/a/b"]).expect("a place").0, [place(None, "a/b")]);
        assert_eq!(
            parse(&["cpu,memory:/a", "pids:b"]).expect("places").0,
            [place(Some("cpu"), "a"), place(Some("memory"), "a"), place(Some("pids"), "b")]
        );
        for (bad, why) in [
            (&["a", "b"][..], "missing <controller>: prefix"),
            (&[":a"], "empty <controller> prefix"),
            (&["cpu:a", "cpu:b"], "controller cpu specified multiple times"),
            (&[".."], "bad sub cgroup path: .. is not a sub cgroup path"),
            (&["cpu:a/../../b"], "bad sub cgroup path"),
        ] {
            let error = parse(bad).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
