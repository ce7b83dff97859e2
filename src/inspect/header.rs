// SPDX-License-Identifier: Apache-2.0
//! Of which container a checkpoint is, and who made it: from our manifest, from what Podman, CRI-O and containerd write
//! beside the images, and from the images. Nothing of that is verified.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use super::images::Images;
use super::processes;
use crate::criu::image::inventory;
use crate::sys::clock::rfc3339_utc;

/// Of which container a checkpoint is. What nobody says is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Header {
    /// The container's id.
    pub id: Option<String>,
    /// Its name, where the engine has names.
    pub name: Option<String>,
    /// The image that its root filesystem is from.
    pub image: Option<String>,
    /// The engine: `migrate`, `podman`, `cri-o`, `containerd`.
    pub engine: Option<String>,
    /// The runtime beneath it.
    pub runtime: Option<String>,
    /// When the container, or where nobody says so the archive, was made.
    pub created: Option<String>,
    /// When it was frozen.
    pub frozen_at: Option<String>,
    /// The program that wrote the archive, and its version.
    pub tool: Option<String>,
    /// The CRIU that wrote the images.
    pub criu: Option<String>,
    /// The kernel of the source.
    pub kernel: Option<String>,
    /// Its machine, as `uname -m` says it.
    pub arch: Option<String>,
    /// 1 or 2.
    pub cgroup_version: Option<u64>,
    /// Host name of the container.
    pub hostname: Option<String>,
    /// Addresses in the engine's networks.
    pub addresses: Vec<String>,
    /// Hardware addresses there.
    pub hardware_addresses: Vec<String>,
    /// Schema of the archive.
    pub archive_schema: Option<u64>,
    /// The digest of what its root filesystem differs from, if only the difference is in it.
    pub rootfs_base: Option<String>,
    /// The places in the container of the volumes that are in it.
    pub volumes: Vec<String>,
    /// Layout of the archive.
    pub layout: Option<String>,
    /// Which archive it is: what others that go on from it call it.
    pub digest: Option<String>,
    /// The digests of the archives that it needs, the one that it goes on from first.
    pub bases: Vec<String>,
    /// How the archive is compressed.
    pub compression: Option<String>,
    /// Version of CRIU's images.
    pub image_version: Option<u32>,
    /// The security module whose labels the processes have.
    pub security_module: Option<&'static str>,
}

impl Header {
    pub(super) fn of(images: &Images) -> Self {
        let json = |name: &str| {
            let parsed = images.get(name).map(serde_json::from_slice::<Value>);
            parsed.and_then(|parsed| {
                parsed.map_err(|error| images.tell(format!("{name}: it is not JSON: {error}"))).ok()
            })
        };
        let inventory = images.decode("inventory.img", inventory).unwrap_or_default();
        let mut header = Self {
            arch: processes::machine(images).map(str::to_owned),
            image_version: Some(inventory.version).filter(|version| *version != 0),
            security_module: inventory.security_module,
            ..Self::default()
        };
        if let Some(config) = json("config.dump") {
            header.read_config(&config);
        }
        if let Some(spec) = json("spec.dump") {
            header.read_spec(&spec);
        }
        if let Some(networks) = json("network.status") {
            header.read_networks(&networks);
        }
        if let Some(manifest) = json("migrate.json") {
            header.read_manifest(&manifest);
        }
        header
    }

    /// What Podman, CRI-O and containerd write; they share most names.
    fn read_config(&mut self, config: &Value) {
        let text = |names: &[&str]| names.iter().find_map(|name| string(config, &[name]));
        self.id = text(&["id"]);
        self.name = text(&["name"]);
        self.image = text(&["rootfsImageName", "rootfsImage"]);
        self.runtime = text(&["runtime"]);
        self.created = text(&["createdTime"]);
        self.frozen_at = text(&["checkpointedTime"]).filter(|time| !time.starts_with("0001-"));
        self.engine = Some("containerd".to_owned());
    }

    fn read_spec(&mut self, spec: &Value) {
        let annotation = |name: &str| string(spec, &["annotations", name]);
        self.hostname = string(spec, &["hostname"]);
        match annotation("io.container.manager").as_deref() {
            Some("libpod") => self.engine = Some("podman".to_owned()),
            Some("cri-o") => {
                self.engine = Some("cri-o".to_owned());
                self.addresses.extend(annotation("io.kubernetes.cri-o.IP.0"));
            }
            _ => self.name = annotation("io.kubernetes.cri.container-name").or(self.name.take()),
        }
    }

    /// Of Podman: the container's place in each network.
    fn read_networks(&mut self, networks: &Value) {
        let interfaces = networks.as_object().into_iter().flat_map(|networks| networks.values());
        let interfaces = interfaces.filter_map(|network| network.get("interfaces")?.as_object());
        for interface in interfaces.flat_map(|interfaces| interfaces.values()).take(100) {
            let subnets = interface.get("subnets").and_then(Value::as_array);
            let addresses = subnets.into_iter().flatten().filter_map(|subnet| string(subnet, &["ipnet"]));
            self.addresses.extend(addresses.take(100));
            self.hardware_addresses.extend(string(interface, &["mac_address"]));
        }
    }

    fn read_manifest(&mut self, manifest: &Value) {
        let text = |path: &[&str]| string(manifest, path);
        self.id = text(&["id"]).or(self.id.take());
        self.engine = text(&["tool", "name"]);
        self.tool = text(&["tool", "name"])
            .zip(text(&["tool", "version"]))
            .map(|(name, version)| format!("{name} {version}"));
        self.created = text(&["created"]).or(self.created.take());
        let frozen = manifest.get("frozen_at").and_then(Value::as_u64).map(Duration::from_nanos);
        self.frozen_at =
            frozen.and_then(|since| UNIX_EPOCH.checked_add(since)).map(rfc3339_utc).or(self.frozen_at.take());
        self.criu = text(&["criu", "text"]);
        self.kernel = text(&["kernel"]);
        self.arch = text(&["arch"]).or(self.arch.take());
        self.cgroup_version = manifest.get("cgroup_version").and_then(Value::as_u64);
        self.hostname = text(&["container", "hostname"]).or(self.hostname.take());
        self.archive_schema = manifest.get("schema").and_then(Value::as_u64);
        self.layout = text(&["layout"]);
        let bases = manifest.get("bases").and_then(Value::as_array);
        let digests = bases.into_iter().flatten().filter_map(|base| string(base, &["digest"]));
        self.bases = digests.take(100).collect();
        let volumes = manifest.pointer("/container/volumes").and_then(Value::as_array);
        let places = volumes.into_iter().flatten().filter_map(|volume| string(volume, &["destination"]));
        self.volumes = places.take(100).collect();
        self.rootfs_base = text(&["container", "base", "digest"]);
    }
}

/// The text at the end of a path of names, if it is there and not empty.
fn string(value: &Value, path: &[&str]) -> Option<String> {
    let found = path.iter().try_fold(value, |value, name| value.get(name))?;
    found.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::report::Environment;
    use super::*;

    fn header(files: &[(&str, Value)]) -> Header {
        let mut images = Images::new(Environment::Hidden);
        for (name, value) in files {
            images.insert(name, serde_json::to_vec(value).expect("JSON"));
        }
        Header::of(&images)
    }

    #[test]
    fn podman_says_who_it_is() {
        let config = json!({"id": "4f", "name": "web", "rootfsImageName": "bb:latest", "runtime": "crun",
            "createdTime": "2026-01-02T03:04:05Z", "checkpointedTime": "0001-01-01T00:00:00Z"});
        let spec = json!({"hostname": "h", "annotations": {"io.container.manager": "libpod"}});
        let networks = json!({"podman": {"interfaces": {"eth0": {"mac_address": "aa:bb",
            "subnets": [{"ipnet": "10.88.0.2/16", "gateway": "10.88.0.1"}]}}}});
        let found = header(&[("config.dump", config), ("spec.dump", spec), ("network.status", networks)]);
        let text = |text: &str| Some(text.to_owned());
        assert_eq!((found.engine, found.name, found.image), (text("podman"), text("web"), text("bb:latest")));
        assert_eq!((found.runtime, found.frozen_at, found.hostname), (text("crun"), None, text("h")));
        assert_eq!(
            (found.addresses, found.hardware_addresses),
            (vec!["10.88.0.2/16".into()], vec!["aa:bb".into()])
        );
    }

    #[test]
    fn what_is_no_json_or_of_another_shape_is_nothing() {
        let odd = json!({"id": 7, "tool": [], "criu": null, "frozen_at": u64::MAX, "networks": {"a": 1}});
        let found =
            header(&[("migrate.json", odd.clone()), ("config.dump", odd.clone()), ("network.status", odd)]);
        assert_eq!((found.id, found.tool, found.criu), (None, None, None));
        let mut images = Images::new(Environment::Hidden);
        images.insert("spec.dump", b"{".to_vec());
        assert_eq!(Header::of(&images), Header::default());
        assert!(images.problems()[0].starts_with("spec.dump: it is not JSON"), "{:?}", images.problems());
    }
}
