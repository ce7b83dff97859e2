// SPDX-License-Identifier: Apache-2.0
//! A directory in the layout of the OCI: `oci-layout`, `index.json`, `blobs/sha256`. Images are added, none is lost: the index is
//! read, changed and replaced by rename under a lock, and what it holds of others stays.

use std::fs::{self, File};
use std::io::{Read, Seek as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use super::image::Image;
use super::manifest::{Descriptor, IMAGE_INDEX, Leads, MANIFEST_MAX, Manifest};
use crate::archive::{ArchiveFile, Progress};
use crate::{Context, Error, ErrorKind, Result};

const NAME: &str = "org.opencontainers.image.ref.name";
const BUFFER: usize = 256 << 10;

/// How deep an index may be.
const DEPTH: usize = 4;

/// A layout.
pub(super) struct Layout {
    directory: PathBuf,
}

impl Layout {
    /// One that an image can be added to: it is there, or can be made.
    pub(super) fn to_write(directory: &Path) -> Result<Self> {
        let new = Self { directory: directory.to_owned() };
        let attempt = || format!("make the layout {}", directory.display());
        if directory.join("oci-layout").exists() {
            new.check_version()?;
            new.index()?;
            return Ok(new);
        }
        if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
            let message = format!(
                "{} has files, and is not in the layout of the OCI: it has no oci-layout",
                directory.display()
            );
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("name another directory, or an empty one"));
        }
        fs::create_dir_all(directory).context(attempt)?;
        Ok(new)
    }

    /// One that is there.
    pub(super) fn to_read(directory: &Path) -> Result<Self> {
        let new = Self { directory: directory.to_owned() };
        new.check_version()?;
        Ok(new)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path("blobs/sha256").join(digest.hex())
    }

    fn check_version(&self) -> Result<()> {
        let path = self.path("oci-layout");
        let bytes = self.small(&path)?;
        let version: Option<Value> = serde_json::from_slice(&bytes).ok();
        let version = version.as_ref().and_then(|value| value.get("imageLayoutVersion")?.as_str());
        match version {
            Some(version) if version.starts_with("1.") => Ok(()),
            _ => Err(Error::new(
                ErrorKind::InvalidArchive,
                format!("{} names no version that is known here", path.display()),
            )),
        }
    }

    /// A file that fits into memory.
    fn small(&self, path: &Path) -> Result<Vec<u8>> {
        let attempt = || format!("read {}", path.display());
        let file = File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                let message = format!("{} is not a complete layout of the OCI", self.directory.display());
                Error::new(ErrorKind::NotFound, message)
                    .with_source(Error::new(ErrorKind::NotFound, attempt()).with_source(error))
            }
            _ => Error::new(ErrorKind::System, attempt()).with_source(error),
        })?;
        let mut bytes = Vec::new();
        file.take(MANIFEST_MAX + 1).read_to_end(&mut bytes).context(attempt)?;
        if bytes.len() as u64 > MANIFEST_MAX {
            return Err(Error::new(
                ErrorKind::InvalidArchive,
                format!("{} is larger than {MANIFEST_MAX} bytes", path.display()),
            ));
        }
        Ok(bytes)
    }

    /// The index as it is, with what is not known here.
    fn index(&self) -> Result<Value> {
        let path = self.path("index.json");
        if !path.exists() {
            return Ok(json!({ "schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [] }));
        }
        let value: Value = serde_json::from_slice(&self.small(&path)?)
            .context_kind(ErrorKind::InvalidArchive, || format!("understand {}", path.display()))?;
        if value.get("manifests").is_some_and(Value::is_array) {
            Ok(value)
        } else {
            Err(Error::new(
                ErrorKind::InvalidArchive,
                format!("{} is not an index of images", path.display()),
            ))
        }
    }

    /// Adds an image. One that had the tag loses it.
    pub(super) fn add(&self, mut image: Image, tag: Option<&str>, progress: &mut dyn Progress) -> Result<()> {
        let attempt = || format!("add to the layout {}", self.directory.display());
        fs::create_dir_all(self.path("blobs/sha256")).context(attempt)?;
        let lock = File::open(&self.directory).context(attempt)?;
        let _lock =
            Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context(attempt)?;
        self.put_file(&image.layer, &mut image.file, progress)?;
        self.put_bytes(&image.config.0, &image.config.1)?;
        self.put_bytes(&image.manifest.0, &image.manifest.1)?;
        let mut entry = image.manifest.0;
        if let Some(tag) = tag {
            entry.annotations.insert(NAME.to_owned(), tag.to_owned());
        }
        let mut index = self.index()?;
        let entries = index["manifests"]
            .as_array_mut()
            .ok_or_else(|| Error::new(ErrorKind::InvalidArchive, "no index"))?;
        for other in entries.iter_mut().filter(|other| tag.is_some() && name_of(other) == tag) {
            if let Some(annotations) = other.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.shift_remove(NAME);
            }
        }
        // What has no name and is nothing but this image again, is not needed twice.
        let digest = Value::from(entry.digest.to_string());
        entries.retain(|other| name_of(other).is_some() || other.get("digest") != Some(&digest));
        entries.push(json!(entry));
        if !self.path("oci-layout").exists() {
            self.replace("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
        }
        self.replace("index.json", &index)
    }

    fn replace(&self, name: &str, value: &Value) -> Result<()> {
        let bytes = serde_json::to_vec(value).context(|| format!("write {name}"))?;
        write_file(&self.path(name), &bytes)
    }

    fn put_bytes(&self, blob: &Descriptor, bytes: &[u8]) -> Result<()> {
        let path = self.blob(&blob.digest);
        if fs::metadata(&path).is_ok_and(|found| found.len() == blob.size) {
            return Ok(());
        }
        write_file(&path, bytes)
    }

    fn put_file(&self, blob: &Descriptor, from: &mut File, progress: &mut dyn Progress) -> Result<()> {
        let path = self.blob(&blob.digest);
        if fs::metadata(&path).is_ok_and(|found| found.len() == blob.size) {
            progress.advance(blob.size);
            return Ok(());
        }
        let attempt = || format!("write {}", path.display());
        from.rewind().context(attempt)?;
        let mut to = ArchiveFile::create(&path)?;
        let copied = copy(from, blob.size, |bytes| {
            progress.advance(bytes.len() as u64);
            to.write_all(bytes)
        });
        if copied.context(attempt)? != blob.digest {
            return Err(Error::new(
                ErrorKind::System,
                format!("{}: the file changes while it is read", attempt()),
            ));
        }
        to.commit()
    }

    /// The checkpoint in it: its bytes, which were compared with their digest.
    pub(super) fn open(
        &self,
        tag: Option<&str>,
        architecture: &str,
        progress: &mut dyn Progress,
    ) -> Result<(Descriptor, File)> {
        let leads = |manifest: Manifest| {
            Ok(match manifest.leads(architecture)? {
                Leads::To(further) => ControlFlow::Continue(further),
                Leads::Checkpoint(layer) => ControlFlow::Break(layer),
            })
        };
        let layer = self.follow(tag, leads)?;
        let file = self.verified(&layer, progress)?;
        Ok((layer, file))
    }

    /// The layers of an image in it, the lowest first.
    pub(super) fn layers(&self, tag: Option<&str>, architecture: &str) -> Result<Vec<Descriptor>> {
        self.follow(tag, |manifest| {
            Ok(match manifest.further(architecture)? {
                Some(further) => ControlFlow::Continue(further),
                None => ControlFlow::Break(manifest.layers),
            })
        })
    }

    /// Goes from manifest to manifest until there is one that leads to what is looked for.
    fn follow<T>(
        &self,
        tag: Option<&str>,
        leads: impl Fn(Manifest) -> Result<ControlFlow<T, Descriptor>>,
    ) -> Result<T> {
        let mut next = self.choose(&self.index()?, tag)?;
        for _ in 0..DEPTH {
            let path = self.blob(&next.digest);
            let bytes = self.small(&path)?;
            if Digest::of(&bytes) != next.digest {
                return Err(damaged(&path));
            }
            let found = Manifest::parse(&bytes).and_then(&leads);
            match found.context(|| format!("read {}", path.display()))? {
                ControlFlow::Continue(further) => next = further,
                ControlFlow::Break(found) => return Ok(found),
            }
        }
        Err(Error::new(ErrorKind::InvalidArchive, "an index of indexes of indexes"))
    }

    fn choose(&self, index: &Value, tag: Option<&str>) -> Result<Descriptor> {
        let entries = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
        let chosen = match (tag, entries) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(tag), _) => entries.iter().find(|entry| name_of(entry) == Some(tag)),
        };
        let chosen = chosen.ok_or_else(|| {
            let names: Vec<String> = entries
                .iter()
                .filter_map(name_of)
                .map(|name| name.escape_debug().take(100).collect())
                .collect();
            let what = match tag {
                Some(tag) => format!("no image with the tag {tag}"),
                None => format!("{} images", entries.len()),
            };
            let error = Error::new(
                ErrorKind::NotFound,
                format!("the layout {} has {what}", self.directory.display()),
            );
            if names.is_empty() {
                error
            } else {
                error.with_hint(format!("its tags are: {}", names.join(", ")))
            }
        })?;
        serde_json::from_value(chosen.clone()).context_kind(ErrorKind::InvalidArchive, || {
            format!("understand the index of {}", self.directory.display())
        })
    }

    /// A blob that was compared with its digest.
    pub(super) fn verified(&self, blob: &Descriptor, progress: &mut dyn Progress) -> Result<File> {
        let path = self.blob(&blob.digest);
        let attempt = || format!("read {}", path.display());
        let mut file = File::open(&path).context(attempt)?;
        let metadata = file.metadata().context(attempt)?;
        if !metadata.is_file() || metadata.len() != blob.size {
            return Err(damaged(&path));
        }
        progress.total(blob.size);
        let found = copy(&mut file, blob.size, |bytes| {
            progress.advance(bytes.len() as u64);
            Ok(())
        });
        if found.context(attempt)? != blob.digest {
            return Err(damaged(&path));
        }
        file.rewind().context(attempt)?;
        Ok(file)
    }
}

fn damaged(path: &Path) -> Error {
    let message = format!("blob {} is not what its name says", path.display());
    Error::new(ErrorKind::InvalidArchive, message)
        .with_hint("the layout is damaged or not complete: copy it again")
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(NAME)?.as_str()
}

/// Hands all bytes to `to`, but not more than `most`; gives their digest.
pub(super) fn copy(
    from: &mut File,
    most: u64,
    mut to: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut from = from.take(most);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(Digest::finished(hasher));
        }
        hasher.update(&buffer[..read]);
        to(&buffer[..read])?;
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = ArchiveFile::create(path)?;
    file.write_all(bytes).context(|| format!("write {}", path.display()))?;
    file.commit()
}
