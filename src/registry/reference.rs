// SPDX-License-Identifier: Apache-2.0
//! What images are called by those who push and pull them: `REGISTRY/NAME[:TAG]`, `oci:DIRECTORY[:TAG]`. Pure.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::digest::Digest;
use crate::{Error, ErrorKind, Result};

/// The name of Docker Hub, whose registry is elsewhere.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_REGISTRY: &str = "registry-1.docker.io";

/// Longest name of a repository, and of a tag.
const NAME: usize = 255;
const TAG: usize = 128;

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reference {
    /// In a registry.
    Registry(ImageName),
    /// In a directory in the layout of the OCI.
    Layout {
        /// The directory.
        directory: PathBuf,
        /// Which of the images in it; `None` for the only one.
        tag: Option<String>,
    },
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// Host and port, as they were given.
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) version: Version,
}

/// Which of the images in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Version {
    Tag(String),
    Digest(Digest),
}

impl ImageName {
    /// The host that is spoken to.
    pub(super) fn host(&self) -> &str {
        if self.registry == DOCKER_HUB { DOCKER_HUB_REGISTRY } else { &self.registry }
    }

    /// What files of credentials call the registry.
    pub(super) fn credential_names(&self) -> Vec<&str> {
        if self.registry == DOCKER_HUB {
            vec![DOCKER_HUB, "index.docker.io", DOCKER_HUB_REGISTRY]
        } else {
            vec![&self.registry]
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::new(ErrorKind::InvalidInput, format!("{text:?} is not the name of an image in a registry: {what}"))
                .with_hint("write REGISTRY/NAME:TAG, such as registry.example:5000/checkpoints/web:1, or oci:DIRECTORY:TAG")
        };
        let (registry, rest) = text.split_once('/').ok_or_else(|| wrong("it does not say which registry"))?;
        let is_host = registry.contains(['.', ':']) || registry == "localhost";
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        if !is_host || !registry.chars().all(good) {
            return Err(wrong("its first part is not a registry's host"));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse::<Digest>().map_err(|error| wrong(&error.to_string()))?))
            }
            None => (rest, None),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(wrong(&format!("{tag:?} is not a tag")));
        }
        if repository.len() > NAME || !repository.split('/').all(is_component) {
            return Err(wrong(
                "its name has other characters than small letters, digits and single separators",
            ));
        }
        let repository = match registry {
            DOCKER_HUB if !repository.contains('/') => format!("library/{repository}"),
            _ => repository.to_owned(),
        };
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(digest),
            (None, tag) => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository, version })
    }
}

fn is_component(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

pub(super) fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

impl Reference {
    /// Whether a text names an image and not a file: it begins with `docker://` or `oci:`.
    pub fn is_marked(text: &str) -> bool {
        text.starts_with("docker://") || text.starts_with("oci:")
    }

    /// A name for a file with this image in it, without what its kind is called by.
    pub(super) fn file_stem(&self) -> String {
        let (name, tag) = match self {
            Self::Registry(name) => {
                let last = name.repository.rsplit('/').next().unwrap_or_default();
                match &name.version {
                    Version::Tag(tag) => (last.to_owned(), Some(tag.as_str())),
                    Version::Digest(digest) => (last.to_owned(), digest.hex().get(..12)),
                }
            }
            Self::Layout { directory, tag } => {
                let last = directory.file_name().map(|name| name.to_string_lossy().into_owned());
                (last.unwrap_or_else(|| "checkpoint".to_owned()), tag.as_deref())
            }
        };
        match tag {
            Some(tag) => format!("{name}-{tag}"),
            None => name,
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(layout) = text.strip_prefix("oci:") else {
            return ImageName::parse(text.strip_prefix("docker://").unwrap_or(text)).map(Self::Registry);
        };
        let (directory, tag) = match layout.rsplit_once(':') {
            Some((directory, tag)) if !tag.contains('/') => (directory, Some(tag)),
            _ => (layout, None),
        };
        if directory.is_empty() || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{text:?} is not a directory and a tag"),
            )
            .with_hint("write oci:DIRECTORY or oci:DIRECTORY:TAG"));
        }
        Ok(Self::Layout { directory: directory.into(), tag: tag.map(str::to_owned) })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(name) => write!(f, "{name}"),
            Self::Layout { directory, tag: Some(tag) } => write!(f, "oci:{}:{tag}", directory.display()),
            Self::Layout { directory, tag: None } => write!(f, "oci:{}", directory.display()),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        let digest = Digest::of(b"");
        for (text, written, stem) in [
            ("r.example/a/web:1", "r.example/a/web:1", "web-1"),
            ("docker://127.0.0.1:5000/web", "127.0.0.1:5000/web:latest", "web-latest"),
            ("localhost/web:v1.2-x", "localhost/web:v1.2-x", "web-v1.2-x"),
            ("docker.io/web", "docker.io/library/web:latest", "web-latest"),
            ("[::1]:5000/web:1", "[::1]:5000/web:1", "web-1"),
            ("oci:/var/lib/layouts/web", "oci:/var/lib/layouts/web", "web"),
            ("oci:web:1", "oci:web:1", "web-1"),
            ("oci:a:b/web", "oci:a:b/web", "web"),
            (&format!("r.example/web:1@{digest}"), &format!("r.example/web@{digest}"), "web-e3b0c44298fc"),
        ] {
            let reference: Reference = text.parse().expect(text);
            assert_eq!(reference.to_string(), written);
            assert_eq!(reference.file_stem(), stem);
        }
    }

    #[test]
    fn other_texts_are_no_names() {
        for text in [
            "",
            "web",
            "web:1",
            "user/web",
            "r.example/",
            "r.example/Web",
            "r.example/a//b",
            "r.example/-a",
            "r.example/../a",
            "r.example/a:",
            "r.example/a:x y",
            "r.example/a@sha256:00",
            "r example.org/a",
            "r.example/a?b",
            "oci:",
            "oci::tag",
            "oci:d:",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }
}
