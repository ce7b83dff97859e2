// SPDX-License-Identifier: Apache-2.0
//! Owns the two members by which other engines and tools know a container: `config.dump` and `spec.dump`.
//!
//! Podman restores from them, checkpointctl shows them, CRI-O and containerd have the same names. Pure: from the
//! manifest and the configuration to bytes. Our own restore does not use them.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::manifest::{Manifest, VolumeFacts};
use crate::{Context, Error, ErrorKind, Result};

/// Stands for the image of a container that has none: Podman finds none of that name, and says so.
const NO_IMAGE: &str = "localhost/migrate/no-image:latest";

/// What Podman gives a container for `/dev/shm`, in bytes; it wants a number.
const SHM_SIZE: u64 = 65_536_000;

/// Annotations in which other engines have left the name of the image, in the order in which they are asked.
const IMAGE_ANNOTATIONS: [&str; 3] =
    ["io.kubernetes.cri-o.ImageName", "io.kubernetes.cri.image-name", "org.opencontainers.image.base.name"];

/// Where Podman has its volumes, if nobody has told it otherwise.
const PODMAN_VOLUMES: &str = "/var/lib/containers/storage/volumes";

/// Tells checkpointctl how to read the rest; it knows no other engine that has a name for a container.
const MANAGER: (&str, &str) = ("io.container.manager", "libpod");

/// CRI-O reads it as a map, and an archive without it not at all.
const CRIO: (&str, &str) = ("io.kubernetes.cri-o.Annotations", "{}");

/// Podman's `config.dump`, as far as Podman needs it, with the fields that CRI-O and containerd read.
///
/// # Errors
/// `InvalidInput` if the configuration is not a JSON object.
pub(super) fn config_dump(manifest: &Manifest, config: &[u8]) -> Result<Vec<u8>> {
    let config = object(config)?;
    let engines = &manifest.engines;
    let annotation = |key: &&str| config.get("annotations")?.get(key)?.as_str();
    let image = engines.image.as_deref().or_else(|| IMAGE_ANNOTATIONS.iter().find_map(annotation));
    let image = image.unwrap_or(NO_IMAGE);
    let started = engines.started.as_deref().unwrap_or(&manifest.created);
    bytes(&json!({
        "id": foreign_id(&manifest.id),
        "name": foreign_name(&manifest.id),
        // A name serves Podman as well as the id of the image there, which nobody here knows.
        "rootfsImageID": image,
        "rootfsImageName": image,
        "rootfsImage": image,
        "rootfsImageRef": image,
        "runtime": engines.runtime.as_deref().unwrap_or("migrate"),
        "shmSize": SHM_SIZE,
        "createdTime": started,
        "checkpointedTime": manifest.created,
        "namedVolumes": named(&manifest.container.volumes),
        // Those that somebody has asked for, and not an image: Podman shows only them.
        "userVolumes": manifest.container.volumes.iter().map(|volume| &volume.destination).collect::<Vec<_>>(),
    }))
}

/// Volumes as Podman lists them: it makes those of these names, and unpacks into them.
fn named(volumes: &[VolumeFacts]) -> Vec<Value> {
    let volume = |volume: &VolumeFacts| json!({"volumeName": volume.name, "dest": volume.destination});
    volumes.iter().map(volume).collect()
}

/// The volumes that a `config.dump` of Podman's lists.
///
/// # Errors
/// `InvalidArchive` if it is no such list.
pub(super) fn named_volumes(config_dump: &[u8]) -> Result<Vec<VolumeFacts>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        named_volumes: Option<Vec<Volume>>,
    }
    #[derive(Deserialize)]
    struct Volume {
        #[serde(rename = "volumeName")]
        name: String,
        dest: String,
    }
    let config: Config = serde_json::from_slice(config_dump)
        .context_kind(ErrorKind::InvalidArchive, || "understand `namedVolumes` of config.dump")?;
    let volumes = config.named_volumes.into_iter().flatten();
    Ok(volumes.map(|volume| VolumeFacts::new(volume.name, volume.dest)).collect())
}

/// The configuration with the annotations that other tools look for, where it has none of them itself, and with volumes where Podman
/// will have made them.
///
/// # Errors
/// `InvalidInput` if the configuration is not a JSON object.
pub(super) fn spec_dump(manifest: &Manifest, config: &[u8]) -> Result<Vec<u8>> {
    let mut config = object(config)?;
    let annotations = config.entry("annotations").or_insert(Value::Null);
    if annotations.is_null() {
        *annotations = json!({});
    }
    if let Some(annotations) = annotations.as_object_mut() {
        for (key, value) in [MANAGER, CRIO] {
            annotations.entry(key).or_insert_with(|| value.into());
        }
    }
    let directory = manifest.engines.volumes.as_deref().unwrap_or(PODMAN_VOLUMES);
    let mounts = config.get_mut("mounts").and_then(Value::as_array_mut);
    for mount in mounts.into_iter().flatten() {
        let at = mount["destination"].as_str();
        let volume = manifest.container.volumes.iter().find(|volume| at == Some(&volume.destination));
        if let Some(volume) = volume {
            mount["source"] = format!("{directory}/{}/_data", volume.name).into();
        }
    }
    bytes(&Value::Object(config))
}

/// The id for engines that want 64 hexadecimal digits: always the same one for the same id of ours.
fn foreign_id(id: &str) -> String {
    if id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return id.to_owned();
    }
    let digest = Sha256::new().chain_update("migrate container ").chain_update(id).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name for engines that are stricter about names.
fn foreign_name(id: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let name: String = id.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) { name } else { format!("c{name}") }
}

fn object(config: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(config).map_err(|error| {
        Error::new(ErrorKind::InvalidInput, "the configuration is no JSON").with_source(error)
    })
}

fn bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context(|| "serialise the configuration for other engines")
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn config_of(manifest: &Manifest, config: &str) -> Value {
        let bytes = config_dump(manifest, config.as_bytes()).expect("an object");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[test]
    fn what_podman_needs_is_there() {
        let mut manifest = Manifest::new("+web", UNIX_EPOCH);
        let config = config_of(&manifest, "{}");
        let id = config["id"].as_str().expect("text");
        assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        assert_eq!(id, foreign_id("+web"), "each time the same");
        assert_ne!(id, foreign_id("web"));
        assert_eq!((&config["name"], &config["runtime"]), (&json!("c-web"), &json!("migrate")));
        assert_eq!(config["rootfsImageName"], NO_IMAGE);
        assert_eq!(config["createdTime"], "1970-01-01T00:00:00.000000000Z");

        manifest.id = "ab".repeat(32);
        manifest.engines.runtime = Some("runc".into());
        let annotated = r#"{"annotations":{"io.kubernetes.cri-o.ImageName":"example.org/a:1"}}"#;
        let config = config_of(&manifest, annotated);
        assert_eq!((&config["id"], &config["runtime"]), (&json!(manifest.id), &json!("runc")));
        assert_eq!(config["rootfsImageName"], "example.org/a:1");
        manifest.engines.image = Some("localhost/b:2".into());
        assert_eq!(config_of(&manifest, annotated)["rootfsImageName"], "localhost/b:2");
    }

    #[test]
    fn volumes_are_listed_as_podman_lists_them() {
        let mut manifest = Manifest::new("web", UNIX_EPOCH);
        let volumes = vec![VolumeFacts::new("web-1-data", "/data"), VolumeFacts::new("web-2-log", "/log")];
        manifest.container.volumes.clone_from(&volumes);
        let bytes = config_dump(&manifest, b"{}").expect("an object");
        assert_eq!(named_volumes(&bytes).expect("its own"), volumes);
        manifest.engines.volumes = Some("/volumes".into());
        let mounts =
            r#"{"mounts":[{"destination":"/data","source":"/here"},{"destination":"/x","source":"/there"}]}"#;
        let spec = spec_dump(&manifest, mounts.as_bytes()).expect("an object");
        let spec: Value = serde_json::from_slice(&spec).expect("JSON");
        let source = |at: usize| spec["mounts"][at]["source"].clone();
        assert_eq!((source(0), source(1)), (json!("/volumes/web-1-data/_data"), json!("/there")));
        let none: [&[u8]; 2] = [b"{}", br#"{"namedVolumes":null}"#];
        assert!(none.iter().all(|config| named_volumes(config).is_ok_and(|volumes| volumes.is_empty())));
        let error = named_volumes(br#"{"namedVolumes":[{"dest":"/data"}]}"#).expect_err("it has no name");
        assert!(error.chain().contains("missing field `volumeName`"), "{}", error.chain());
    }

    #[test]
    fn the_configuration_only_gains_annotations() {
        let manifest = Manifest::new("web", UNIX_EPOCH);
        for (before, after) in [
            ("{}", json!({"annotations": {MANAGER.0: MANAGER.1, CRIO.0: CRIO.1}})),
            (
                r#"{"a":1,"annotations":{"io.container.manager":"cri-o"}}"#,
                json!({"a": 1, "annotations": {MANAGER.0: "cri-o", CRIO.0: CRIO.1}}),
            ),
        ] {
            let bytes = spec_dump(&manifest, before.as_bytes()).expect("an object");
            assert_eq!(serde_json::from_slice::<Value>(&bytes).expect("JSON"), after);
        }
        for bad in ["", "[]", "{"] {
            assert_eq!(spec_dump(&manifest, bad.as_bytes()).expect_err(bad).kind(), ErrorKind::InvalidInput);
        }
    }
}
