// SPDX-License-Identifier: Apache-2.0
//! What is told about a checkpoint beside its image: the annotations by which Podman, CRI-O and Kubernetes' tools know one, and
//! the image's configuration.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::digest::Digest;
use super::manifest::architecture;
use crate::archive;

const PODMAN: &str = "io.podman.annotations.checkpoint.";
const CRIU: &str = "org.criu.checkpoint.";
const CRI_O_NAME: &str = "io.kubernetes.cri-o.annotations.checkpoint.name";

/// What is known of a checkpoint; empty where it is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The container's name.
    pub(super) name: String,
    /// When the archive was begun: RFC 3339.
    pub(super) created: String,
    /// As `uname -m` prints it.
    pub(super) machine: String,
    pub(super) kernel: String,
    /// CRIU's version as a number, which is how Podman has it.
    pub(super) criu: u32,
    /// The runtime that is to restore it, without which Podman restores no image.
    pub(super) runtime: String,
    /// The image of the root filesystem.
    pub(super) image: String,
}

impl Facts {
    /// Those of an archive.
    pub(super) fn of(manifest: &archive::Manifest) -> Self {
        Self {
            name: manifest.id.clone(),
            created: manifest.created.clone(),
            machine: manifest.arch.clone(),
            kernel: manifest.kernel.clone(),
            criu: manifest.criu.number,
            // Of an image Podman compares the name, of an archive the path.
            runtime: manifest.engines.runtime.as_deref().map_or("migrate", file_name).to_owned(),
            image: manifest.engines.image.clone().unwrap_or_default(),
        }
    }

    /// The manifest's annotations, in the words of all who look for some.
    pub(super) fn annotations(&self) -> BTreeMap<String, String> {
        let criu = if self.criu == 0 { String::new() } else { self.criu.to_string() };
        let mut all = vec![
            (CRI_O_NAME.to_owned(), self.name.clone()),
            ("org.opencontainers.image.created".to_owned(), self.created.clone()),
            (format!("{CRIU}container.name"), self.name.clone()),
            (format!("{CRIU}engine.name"), "migrate".to_owned()),
            (format!("{CRIU}engine.version"), env!("CARGO_PKG_VERSION").to_owned()),
            (format!("{PODMAN}name"), self.name.clone()),
        ];
        for (name, value) in [
            ("criu.version", &criu),
            ("host.arch", &architecture(&self.machine).to_owned()),
            ("host.kernel", &self.kernel),
            ("runtime.name", &self.runtime),
            ("rootfsImageName", &self.image),
        ] {
            all.extend([PODMAN, CRIU].map(|family| (format!("{family}{name}"), value.clone())));
        }
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    /// The image's configuration, with one layer.
    pub(super) fn config(&self, layer: &Digest) -> Value {
        let mut config = json!({
            "architecture": architecture(&self.machine),
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [layer] },
            "history": [{ "created_by": "migrate checkpoint", "comment": "checkpoint of a container" }],
        });
        if !self.created.is_empty() {
            config["created"] = self.created.clone().into();
            config["history"][0]["created"] = self.created.clone().into();
        }
        config
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_families_name_the_container() {
        let facts = Facts {
            name: "web".into(),
            machine: "x86_64".into(),
            criu: 40201,
            runtime: "runc".into(),
            ..Facts::default()
        };
        let annotations = facts.annotations();
        for (name, value) in [
            ("io.podman.annotations.checkpoint.name", Some("web")),
            ("io.podman.annotations.checkpoint.criu.version", Some("40201")),
            ("io.podman.annotations.checkpoint.host.arch", Some("amd64")),
            ("io.podman.annotations.checkpoint.host.kernel", None),
            ("io.podman.annotations.checkpoint.runtime.name", Some("runc")),
            ("io.kubernetes.cri-o.annotations.checkpoint.name", Some("web")),
            ("org.criu.checkpoint.container.name", Some("web")),
            ("org.criu.checkpoint.engine.name", Some("migrate")),
        ] {
            assert_eq!(annotations.get(name).map(String::as_str), value, "{name}");
        }
        let config = facts.config(&Digest::of(b""));
        assert_eq!(config["rootfs"]["diff_ids"][0], Digest::of(b"").to_string());
        assert_eq!(config["architecture"], "amd64");
    }
}
