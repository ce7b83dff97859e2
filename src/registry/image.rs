// SPDX-License-Identifier: Apache-2.0
//! A checkpoint's file as an image: the file itself is the one layer, byte for byte, and around it are a configuration and a
//! manifest.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::Path;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use super::facts::Facts;
use super::manifest::{
    Descriptor, IMAGE_CONFIG, IMAGE_MANIFEST, MANIFEST_MAX, Manifest, OPAQUE, Platform, architecture,
};
use crate::archive::{Progress, TarForm, manifest_at, tar_stream};
use crate::{Context, Error, ErrorKind, Result, sys};

/// The configuration of what is no image of a root filesystem.
const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";

const BUFFER: usize = 256 << 10;

/// An image that can be put somewhere.
#[derive(Debug)]
pub(super) struct Image {
    /// The layer's bytes.
    pub(super) file: File,
    pub(super) layer: Descriptor,
    pub(super) config: (Descriptor, Vec<u8>),
    /// The manifest, as an index has it.
    pub(super) manifest: (Descriptor, Vec<u8>),
}

impl Image {
    /// Reads a file once, for its digest and for that of the tar in it.
    ///
    /// # Errors
    /// `NotFound`, `InvalidInput` for what is no file, `InvalidArchive` for a tar that is damaged.
    pub(super) fn of(path: &Path, progress: &mut dyn Progress) -> Result<Self> {
        let attempt = || format!("read {}", path.display());
        let mut file = File::open(path).map_err(|error| {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let kind = if missing { ErrorKind::NotFound } else { ErrorKind::System };
            Error::new(kind, format!("open {}", path.display())).with_source(error)
        })?;
        let metadata = file.metadata().context(attempt)?;
        if !metadata.is_file() || metadata.len() == 0 {
            let what = if metadata.is_file() { "is empty" } else { "is not a file" };
            return Err(Error::new(ErrorKind::InvalidInput, format!("{} {what}", path.display()))
                .with_hint("push a file that `migrate checkpoint --export` has written"));
        }
        progress.total(metadata.len() * 2);
        let (facts, is_packed) = facts(path)?;
        file.rewind().context(attempt)?;
        let read = Content::of(&mut file, is_packed, progress).context(attempt)?;
        let layer = Descriptor::new(read.media_type, read.digest, read.size);
        let (config, artifact_type) = match &read.tar {
            Some(tar) => {
                let bytes =
                    serde_json::to_vec(&facts.config(tar)).context(|| "write the image's configuration")?;
                ((Descriptor::of(IMAGE_CONFIG, &bytes), bytes), None)
            }
            None => ((Descriptor::of(EMPTY_CONFIG, b"{}"), b"{}".to_vec()), Some(OPAQUE.to_owned())),
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: IMAGE_MANIFEST.to_owned(),
            artifact_type,
            config: Some(config.0.clone()),
            layers: vec![layer.clone()],
            manifests: Vec::new(),
            annotations: facts.annotations(),
        };
        let bytes = serde_json::to_vec(&json!(manifest)).context(|| "write the image's manifest")?;
        if bytes.len() as u64 > MANIFEST_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "the image's manifest would be too large"));
        }
        let mut descriptor = Descriptor::of(IMAGE_MANIFEST, &bytes);
        descriptor.platform = read.tar.as_ref().map(|_| Platform {
            architecture: architecture(&facts.machine).to_owned(),
            os: "linux".to_owned(),
        });
        Ok(Self { file, layer, config, manifest: (descriptor, bytes) })
    }
}

/// What the archive says of itself, and whether it is packed. One that cannot be read without a key, or is another engine's, says nothing.
fn facts(path: &Path) -> Result<(Facts, bool)> {
    let file = File::open(path).context(|| format!("open {}", path.display()))?;
    match manifest_at(file) {
        Ok(manifest) => Ok((Facts::of(&manifest), manifest.is_packed())),
        Err(error) if error.kind() == ErrorKind::InvalidArchive => {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let name = name.split('.').find(|part| !part.is_empty()).unwrap_or("checkpoint").to_owned();
            Ok((Facts { name, machine: sys::arch::NAME.to_owned(), ..Facts::default() }, false))
        }
        Err(error) => Err(error),
    }
}

/// What a file turned out to be.
struct Content {
    media_type: &'static str,
    digest: Digest,
    size: u64,
    /// The digest of the uncompressed tar, if it is one.
    tar: Option<Digest>,
}

impl Content {
    /// A packed archive is a tar, too, but nobody else finds in it what a layer has.
    fn of(file: &mut File, is_packed: bool, progress: &mut dyn Progress) -> Result<Self> {
        let is_tar = !is_packed && tar_stream(&mut *file).is_ok();
        file.rewind().context(|| "go back to its beginning")?;
        let mut whole = Hashing { from: file, hasher: Sha256::new(), size: 0, progress };
        let mut buffer = vec![0; BUFFER];
        let (media_type, tar) = if is_tar {
            let (form, mut tar) = tar_stream(&mut whole)?;
            let mut hasher = Sha256::new();
            loop {
                let read = tar.read(&mut buffer).map_err(damaged)?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
            }
            let media_type = match form {
                TarForm::Plain => "application/vnd.oci.image.layer.v1.tar",
                TarForm::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
                TarForm::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            };
            (media_type, Some(Digest::finished(hasher)))
        } else {
            (OPAQUE, None)
        };
        while whole.read(&mut buffer).context(|| "read to the end")? > 0 {}
        Ok(Self { media_type, digest: Digest::finished(whole.hasher), size: whole.size, tar })
    }
}

fn damaged(error: io::Error) -> Error {
    if error.raw_os_error().is_some() {
        return Error::new(ErrorKind::System, "decompress it").with_source(error);
    }
    Error::new(ErrorKind::InvalidArchive, "the archive is damaged or not complete").with_source(error)
}

/// Passes bytes on, and keeps their digest.
struct Hashing<'a> {
    from: &'a mut File,
    hasher: Sha256,
    size: u64,
    progress: &'a mut dyn Progress,
}

impl Read for Hashing<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to)?;
        self.hasher.update(&to[..read]);
        self.size += read as u64;
        self.progress.advance(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A tar with one empty file.
    fn tar() -> Vec<u8> {
        let mut bytes = tar_header();
        bytes.resize(1536, 0);
        bytes
    }

    fn tar_header() -> Vec<u8> {
        let mut block = vec![0; 512];
        block[0] = b'a';
        block[124..135].copy_from_slice(b"00000000000");
        block[257..263].copy_from_slice(b"ustar\0");
        block
    }

    fn image_of(bytes: &[u8]) -> Result<Image> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("write");
        Image::of(file.path(), &mut ())
    }

    #[test]
    fn the_layer_is_the_file_and_the_configuration_names_the_tar() {
        let tar = tar();
        let compressed = zstd_of(&tar);
        for (bytes, ending) in [(&tar, "tar"), (&compressed, "tar+zstd")] {
            let image = image_of(bytes).expect("an image");
            assert_eq!(
                image.layer,
                Descriptor::of(&format!("application/vnd.oci.image.layer.v1.{ending}"), bytes)
            );
            let config: serde_json::Value = serde_json::from_slice(&image.config.1).expect("JSON");
            assert_eq!(config["rootfs"]["diff_ids"], json!([Digest::of(&tar)]));
            let manifest = Manifest::parse(&image.manifest.1).expect("a manifest");
            assert_eq!((manifest.layers, manifest.config), (vec![image.layer], Some(image.config.0)));
        }
    }

    #[test]
    fn what_is_no_tar_is_an_artifact_of_our_own() {
        let image = image_of(b"age-encryption.org/v1\n").expect("an artifact");
        let manifest = Manifest::parse(&image.manifest.1).expect("a manifest");
        assert_eq!(manifest.artifact_type.as_deref(), Some(OPAQUE));
        assert_eq!(manifest.layers[0].media_type, OPAQUE);
        assert_eq!(image.config.1, b"{}");
        for (bytes, why) in [(&b""[..], "is empty"), (&zstd_of(&tar())[..30], "damaged or not complete")] {
            let error = image_of(bytes).expect_err("unusable");
            assert!(error.chain().contains(why), "{}", error.chain());
        }
    }

    /// The bytes as they are, in one frame and one block.
    fn zstd_of(bytes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(bytes.len() - 256).expect("short").to_le_bytes();
        let block = ((bytes.len() as u32) << 3 | 1).to_le_bytes();
        [&b"\x28\xb5\x2f\xfd\x60"[..], &length, &block[..3], bytes].concat()
    }
}
