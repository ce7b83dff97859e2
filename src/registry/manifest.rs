// SPDX-License-Identifier: Apache-2.0
//! Image manifests and indexes as data: which layer is the checkpoint. What comes from a registry or a layout is hostile: it is
//! bounded by [`MANIFEST_MAX`] before it comes here, and only what is understood is believed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use crate::{Context, Error, ErrorKind, Result};

/// Largest manifest, as registries have it.
pub(super) const MANIFEST_MAX: u64 = 4 << 20;

pub(super) const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A file that is neither a tar nor compressed in a way that others know: encrypted, for one.
pub(super) const OPAQUE: &str = "application/vnd.migrate.checkpoint.v1";

/// What a request for a manifest accepts.
pub(super) fn accepted() -> String {
    [IMAGE_MANIFEST, IMAGE_INDEX, DOCKER_MANIFEST, DOCKER_INDEX].join(", ")
}

/// A blob: what it is, how large, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
}

impl Descriptor {
    pub(super) fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    pub(super) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, annotations: BTreeMap::new(), platform: None }
    }
}

/// Which machines an image is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
}

/// A manifest or an index, as far as it is looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    #[serde(default)]
    pub(super) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// What a manifest leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Leads {
    /// To another manifest.
    To(Descriptor),
    /// To the checkpoint.
    Checkpoint(Descriptor),
}

impl Manifest {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let parsed: Self = serde_json::from_slice(bytes)
            .context_kind(ErrorKind::InvalidArchive, || "understand the manifest")?;
        if parsed.schema_version != 2 {
            return Err(not_a_checkpoint(format!(
                "its manifest has schema {}, not 2",
                parsed.schema_version
            )));
        }
        Ok(parsed)
    }

    /// The manifest that an index leads to; `None` if this is none. `architecture` is this machine's, as images call it.
    pub(super) fn further(&self, architecture: &str) -> Result<Option<Descriptor>> {
        if self.manifests.is_empty() || !self.layers.is_empty() {
            return Ok(None);
        }
        let fits = |entry: &&Descriptor| {
            entry.platform.as_ref().is_some_and(|platform| platform.architecture == architecture)
        };
        let manifests: Vec<&Descriptor> =
            self.manifests.iter().filter(|entry| is_manifest(&entry.media_type)).collect();
        let chosen = match manifests[..] {
            [only] => Some(only),
            _ => manifests.iter().copied().find(fits),
        };
        match chosen {
            Some(chosen) => Ok(Some(chosen.clone())),
            None if self.manifests.iter().any(|entry| entry.media_type.contains("containerd")) => {
                Err(not_a_checkpoint("it is containerd's own form of a checkpoint")
                    .with_hint("restore it with `ctr`"))
            }
            None => Err(not_a_checkpoint(format!("it is an index without an image for {architecture}"))),
        }
    }

    /// Where the checkpoint is.
    pub(super) fn leads(&self, architecture: &str) -> Result<Leads> {
        if let Some(further) = self.further(architecture)? {
            return Ok(Leads::To(further));
        }
        match &self.layers[..] {
            [layer] if extension(&layer.media_type).is_some() => Ok(Leads::Checkpoint(layer.clone())),
            [layer] => Err(not_a_checkpoint(format!("its layer is a {:?}", shortened(&layer.media_type)))),
            layers => Err(not_a_checkpoint(format!("it has {} layers, a checkpoint has one", layers.len()))),
        }
    }
}

fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, IMAGE_MANIFEST | IMAGE_INDEX | DOCKER_MANIFEST | DOCKER_INDEX)
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

pub(super) fn not_a_checkpoint(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArchive, format!("the image is not a checkpoint: {}", why.into()))
}

/// How a file with a layer of this type is named at its end; `None` for what is no checkpoint.
pub(super) fn extension(media_type: &str) -> Option<&'static str> {
    Some(match media_type {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => "tar",
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => "tar.gz",
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => "tar.zst",
        OPAQUE => "checkpoint",
        _ => return None,
    })
}

/// What images call an architecture that `uname -m` calls otherwise.
pub(super) fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads(json: &str) -> Result<Leads> {
        let json = json.replace("DIGEST", &Digest::of(b"").to_string());
        Manifest::parse(json.as_bytes())?.leads("amd64")
    }

    #[test]
    fn the_one_layer_is_found() {
        let layer =
            r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"DIGEST","size":7}"#;
        let found =
            leads(&format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{layer}],"new":{{}}}}"#));
        assert!(matches!(found.expect("a checkpoint"), Leads::Checkpoint(layer) if layer.size == 7));
        let entry = |architecture: &str| {
            format!(
                r#"{{"mediaType":"{IMAGE_MANIFEST}","digest":"DIGEST","size":1,"platform":{{"architecture":"{architecture}","os":"linux"}}}}"#
            )
        };
        for entries in [entry("riscv64"), format!("{},{}", entry("arm64"), entry("amd64"))] {
            let found = leads(&format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#));
            assert!(matches!(found.expect("an image"), Leads::To(_)), "{entries}");
        }
    }

    #[test]
    fn what_is_no_checkpoint_says_why() {
        let layer = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"DIGEST","size":7}"#;
        for (json, why) in [
            ("", "understand the manifest"),
            ("[]", "understand the manifest"),
            (r#"{"schemaVersion":1}"#, "schema 1, not 2"),
            (r#"{"schemaVersion":2}"#, "0 layers"),
            (&format!(r#"{{"schemaVersion":2,"layers":[{layer},{layer}]}}"#), "2 layers"),
            (
                r#"{"schemaVersion":2,"layers":[{"mediaType":"text/plain","digest":"DIGEST","size":7}]}"#,
                "text/plain",
            ),
            (
                r#"{"schemaVersion":2,"layers":[{"digest":"sha256:../x","size":7}]}"#,
                "understand the manifest",
            ),
            (r#"{"schemaVersion":2,"layers":[{"digest":"DIGEST","size":-1}]}"#, "understand the manifest"),
            (
                r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.containerd.container.criu.checkpoint.criu.tar","digest":"DIGEST","size":1}]}"#,
                "containerd",
            ),
        ] {
            let error = leads(json).expect_err(json);
            assert_eq!(error.kind(), ErrorKind::InvalidArchive);
            assert!(error.chain().contains(why), "{}", error.chain());
        }
    }
}
