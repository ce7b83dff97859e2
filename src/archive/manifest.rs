// SPDX-License-Identifier: Apache-2.0
//! Owns `migrate.json`: the facts about a checkpoint that can be read without the rest of the archive.
//!
//! The facts are the caller's: nothing here looks at the host.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::invalid;
use super::member::{MANIFEST, MANIFEST_MAX};
use crate::sys::clock::rfc3339_utc;
use crate::{Context, Error, ErrorKind, Result};

/// The manifest schema that this version writes, and the newest that it reads.
pub const SCHEMA: u32 = 3;

/// The oldest manifest schema that this version reads.
pub const OLDEST_SCHEMA: u32 = 1;

/// The schema of packed archives, which older versions must refuse.
pub const SCHEMA_PACKED: u32 = 4;

/// The layout of archives with everything in it, each file as a member.
pub const LAYOUT_FULL: &str = "full";

/// The layout of archives with equal pages once, or in another archive.
pub const LAYOUT_PACKED: &str = "packed";

/// The first member of an archive. Unknown fields are ignored, so that a later version may add some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// Version of this structure and of the members: [`OLDEST_SCHEMA`] to [`SCHEMA`], or [`SCHEMA_PACKED`].
    pub schema: u32,
    /// The container's id on the source.
    pub id: String,
    /// The program that wrote the archive.
    pub tool: Tool,
    /// When the archive was begun: RFC 3339, UTC.
    pub created: String,
    /// When the container was frozen, in nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_at: Option<u64>,
    /// The CRIU that wrote the images.
    pub criu: CriuVersion,
    /// The source's kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// The source's machine, as `uname -m` prints it.
    pub arch: String,
    /// The source's processor features, as `/proc/cpuinfo` lists them.
    #[serde(default)]
    pub cpu_features: Vec<String>,
    /// The version of cgroups that the source has at `/sys/fs/cgroup`: 1 or 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_version: Option<u32>,
    /// How the archive is laid out: [`LAYOUT_FULL`], or with [`SCHEMA_PACKED`] [`LAYOUT_PACKED`].
    pub layout: String,
    /// `zstd` or `none`. For people: a reader goes by the magic number. The writer fills it in.
    #[serde(default)]
    pub compression: String,
    /// What the container looked like.
    #[serde(default)]
    pub container: ContainerFacts,
    /// What other engines are to know.
    #[serde(default)]
    pub engines: EngineFacts,
    /// The archives that a packed one needs besides itself: the one that it continues, the one that that continues, and so on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<ArchiveFacts>,
}

/// An archive that another one needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ArchiveFacts {
    /// Which one it is: `sha256:` and the SHA-256 of its index.
    pub digest: String,
    /// What its file was called. It may be called otherwise by now.
    pub name: String,
}

/// What other engines are to know about the container: it goes into `config.dump`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineFacts {
    /// Name of the image that the root filesystem is from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The runtime that is to restore it, as its engine spells it; `None`: this program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The directory in which the engine has its volumes; `None`: where Podman has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<String>,
    /// When the container was created: RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
}

/// What the root filesystem in an archive is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RootfsForm {
    /// All of it.
    #[default]
    Full,
    /// All of it, as files that are laid over those of an image.
    Over,
    /// Only how it differs from a tree that the restore is given.
    Diff,
}

/// The tree that a root filesystem differs from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BaseFacts {
    /// Which tree it is: `sha256:` and the digest that docs/archive-format.md defines.
    pub digest: String,
    /// Number of files of all kinds.
    pub entries: u64,
}

/// A directory of the host that was mounted in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct VolumeFacts {
    /// Its name in the archive.
    pub name: String,
    /// Where it is in the container.
    pub destination: String,
}

impl VolumeFacts {
    /// A volume of this name, mounted there.
    pub fn new(name: impl Into<String>, destination: impl Into<String>) -> Self {
        Self { name: name.into(), destination: destination.into() }
    }
}

/// A program and its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tool {
    /// Name.
    pub name: String,
    /// Version, `major.minor.patch`.
    pub version: String,
}

/// CRIU's version, as a number to compare and a text to show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CriuVersion {
    /// `major * 10000 + minor * 100 + sublevel`.
    pub number: u32,
    /// As CRIU prints it, e.g. `4.2.1`.
    pub text: String,
}

/// What the container looked like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerFacts {
    /// Host name in its UTS namespace.
    pub hostname: Option<String>,
    /// Whether the archive holds its root filesystem.
    pub rootfs: bool,
    /// What that is.
    pub rootfs_form: RootfsForm,
    /// What it differs from, if that is its form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseFacts>,
    /// The directories of the host that are in the archive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeFacts>,
    /// Whether its first process had a terminal.
    pub terminal: bool,
}

impl Manifest {
    /// A manifest of this program for a container, created at `created`. The other facts are for the caller to
    /// fill in.
    pub fn new(id: impl Into<String>, created: SystemTime) -> Self {
        let tool = Tool { name: "migrate".into(), version: env!("CARGO_PKG_VERSION").into() };
        Self {
            schema: SCHEMA,
            id: id.into(),
            tool,
            created: rfc3339_utc(created),
            frozen_at: None,
            criu: CriuVersion::default(),
            kernel: String::new(),
            arch: String::new(),
            cpu_features: Vec::new(),
            cgroup_version: None,
            layout: LAYOUT_FULL.into(),
            compression: String::new(),
            container: ContainerFacts::default(),
            engines: EngineFacts::default(),
            bases: Vec::new(),
        }
    }

    /// Whether the archive is packed.
    pub fn is_packed(&self) -> bool {
        self.layout == LAYOUT_PACKED
    }

    /// Sets the moment when the container was frozen.
    pub fn set_frozen_at(&mut self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).ok();
        self.frozen_at = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
    }

    /// The member's bytes: JSON for people too, with a line feed at the end.
    ///
    /// # Errors
    /// `InvalidInput` if the facts make it larger than a reader accepts.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).context(|| format!("write {MANIFEST}"))?;
        bytes.push(b'\n');
        if bytes.len() as u64 > MANIFEST_MAX {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{MANIFEST} would be {} bytes, at most {MANIFEST_MAX} are allowed", bytes.len()),
            ));
        }
        Ok(bytes)
    }

    /// Reads the member's bytes.
    ///
    /// # Errors
    /// `InvalidArchive` if they are not a manifest, or one of a schema or layout that this version does not read.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: u32,
        }
        let parsed =
            |error: serde_json::Error| invalid(format!("{MANIFEST} is not a manifest")).with_source(error);
        let Versioned { schema } = serde_json::from_slice(bytes).map_err(parsed)?;
        if !(OLDEST_SCHEMA..=SCHEMA_PACKED).contains(&schema) {
            let message = format!(
                "{MANIFEST} has schema {schema}, this version reads schemas {OLDEST_SCHEMA} to {SCHEMA_PACKED}"
            );
            let hint = "use the version of migrate that wrote the archive, or a newer one";
            return Err(invalid(message).with_hint(hint));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(parsed)?;
        let expected = if schema == SCHEMA_PACKED { LAYOUT_PACKED } else { LAYOUT_FULL };
        if manifest.layout != expected {
            let layout = &manifest.layout;
            let message = format!(
                "{MANIFEST} names the layout {layout:?}, this version reads {expected:?} of schema {schema}"
            );
            return Err(invalid(message));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_as_written_and_ignores_what_it_does_not_know() {
        let mut manifest = Manifest::new("web", UNIX_EPOCH);
        manifest.criu = CriuVersion { number: 40201, text: "4.2.1".into() };
        manifest.set_frozen_at(UNIX_EPOCH + std::time::Duration::from_nanos(7));
        let bytes = manifest.to_bytes().expect("small");
        assert_eq!(Manifest::from_bytes(&bytes).expect("ours"), manifest);
        let mut value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        value["later"] = "addition".into();
        let bytes = serde_json::to_vec(&value).expect("JSON");
        assert_eq!(Manifest::from_bytes(&bytes).expect("compatible").frozen_at, Some(7));
    }

    #[test]
    fn foreign_manifests_are_refused_with_the_reason() {
        let ours =
            String::from_utf8(Manifest::new("web", UNIX_EPOCH).to_bytes().expect("small")).expect("text");
        for (text, reason) in [
            ("", "not a manifest"),
            ("{}", "not a manifest"),
            ("[1]", "not a manifest"),
            (r#"{"schema":"1"}"#, "not a manifest"),
            (r#"{"schema":3}"#, "not a manifest"),
            (
                &ours.replace("\"schema\": 3", "\"schema\": 5"),
                "has schema 5, this version reads schemas 1 to 4",
            ),
            (&ours.replace("\"schema\": 3", "\"schema\": 0"), "has schema 0"),
            (&ours.replace("\"layout\": \"full\"", "\"layout\": \"packed\""), "layout \"packed\""),
        ] {
            let error = Manifest::from_bytes(text.as_bytes()).expect_err("it is not ours");
            assert_eq!(error.kind(), ErrorKind::InvalidArchive);
            assert!(error.chain().contains(reason), "{}", error.chain());
        }
    }
}
