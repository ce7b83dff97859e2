// SPDX-License-Identifier: Apache-2.0
//! Checkpoints in registries and in layouts of the OCI: a file becomes an image with one layer, and an image a file again.
//!
//! ```text
//! file ──▶ image (manifest, configuration, the file as the layer) ──push──▶ registry, or oci:DIRECTORY
//! file ◀── partial file beside it ◀── layer, verified ◀──────────── pull ──┘
//! ```
//! It knows blobs and manifests, not what is in a checkpoint. What a registry answers is hostile: heads, manifests and waiting times
//! are bounded, blobs are compared with their digests while they are read, and a registry's secrets go to no other host.

mod challenge;
mod credentials;
mod digest;
mod download;
mod facts;
mod http;
mod image;
mod layout;
mod manifest;
mod partial;
mod reference;
mod retries;
mod session;
#[cfg(test)]
mod tests;
mod upload;

use std::fs::File;
use std::io::{Cursor, Seek as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use credentials::Credentials;
pub use digest::Digest;
pub use http::Proxies;
pub use reference::{ImageName, Reference};

use crate::archive::{DeviceNodes, Progress, UnpackOptions, lay_over};
use crate::{Context, Error, ErrorKind, Result, sys};
use download::Download;
use image::Image;
use layout::Layout;
use manifest::Descriptor;
use partial::Partial;
use reference::Version;
use session::{Access, Session};

/// How a registry is spoken to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegistryOptions {
    /// Whether the registry must prove who it is. If not, it may be one without encryption, too.
    pub tls_verify: bool,
    /// Certificates of authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// A directory of certificates, as Podman has one: `*.crt`, `*.cert` with `*.key`.
    pub cert_dir: Option<PathBuf>,
    /// The file of credentials, instead of Podman's and Docker's.
    pub auth_file: Option<PathBuf>,
    /// Credentials, instead of any file.
    pub credentials: Option<Credentials>,
    /// Proxies on the way to it.
    pub proxies: Proxies,
    /// How long each read and write may take.
    pub timeout: Duration,
    /// The most bytes that are sent in one request; all of a blob if there is no such number.
    pub chunk: Option<u64>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            tls_verify: true,
            ca_file: None,
            cert_dir: None,
            auth_file: None,
            credentials: None,
            proxies: Proxies::default(),
            timeout: Duration::from_secs(60),
            chunk: None,
        }
    }
}

/// What was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// The manifest's digest.
    pub digest: Digest,
    /// Bytes of the layer.
    pub bytes: u64,
}

/// What was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pulled {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
}

/// Finds out whether something can be pushed there, before it is made: the registry answers and accepts who this is, the
/// directory can be written.
///
/// # Errors
/// Those of [`push`].
pub fn check_push(reference: &Reference, options: &RegistryOptions) -> Result<()> {
    match reference {
        Reference::Layout { directory, .. } => Layout::to_write(directory).map(drop),
        Reference::Registry(name) => {
            tag_of(name)?;
            let mut session = Session::begin(name, Access::Push, options)?;
            // A blob that nobody has, and of which a registry tells only those who may read.
            session.has_blob(&Descriptor::of("", b"migrate")).map(drop)
        }
    }
}

/// Puts a checkpoint's file into a registry or a layout.
///
/// # Errors
/// `NotFound` or `InvalidArchive` for the file; `Registry` if the registry cannot be reached or refuses; `Storage`, `System` for a
/// layout.
pub fn push(
    file: &Path,
    to: &Reference,
    options: &RegistryOptions,
    progress: &mut dyn Progress,
) -> Result<Pushed> {
    // Whoever cannot be pushed to is found out first: to read the file takes long.
    match to {
        Reference::Layout { directory, tag } => {
            let layout = Layout::to_write(directory)?;
            let image = Image::of(file, progress)?;
            let pushed = Pushed { digest: image.manifest.0.digest.clone(), bytes: image.layer.size };
            layout.add(image, tag.as_deref(), progress).context(|| format!("push to {to}"))?;
            Ok(pushed)
        }
        Reference::Registry(name) => {
            let tag = tag_of(name)?;
            let mut session = Session::begin(name, Access::Push, options)?;
            let mut image = Image::of(file, progress)?;
            let mut send = || {
                image.file.rewind().context(|| format!("read {}", file.display()))?;
                session.upload(&image.layer, &mut image.file, options.chunk, progress)?;
                let (config, bytes) = &image.config;
                session.upload(config, &mut Cursor::new(bytes), options.chunk, &mut ())?;
                let (manifest, bytes) = &image.manifest;
                session.put_manifest(tag, &manifest.media_type, bytes)
            };
            send().context(|| format!("push to {to}"))?;
            Ok(Pushed { digest: image.manifest.0.digest, bytes: image.layer.size })
        }
    }
}

fn tag_of(name: &ImageName) -> Result<&str> {
    match &name.version {
        Version::Tag(tag) => Ok(tag),
        Version::Digest(_) => {
            let message = format!("{name} is named by a digest: what is pushed has its own");
            Err(Error::new(ErrorKind::InvalidInput, message).with_hint("name it by a tag"))
        }
    }
}

/// Makes a checkpoint's file of an image: at `target`, or in the working directory under a name made of the image's.
///
/// # Errors
/// `NotFound` if there is no such image; `InvalidArchive` if it is no checkpoint or is damaged; `AlreadyExists` if the file is
/// there and was not named; `Registry` if the registry cannot be reached or refuses. What came until then stays for the next call.
pub fn pull(
    from: &Reference,
    target: Option<&Path>,
    options: &RegistryOptions,
    progress: &mut dyn Progress,
) -> Result<Pulled> {
    let attempt = || format!("pull {from}");
    match from {
        Reference::Layout { directory, tag } => {
            let layout = Layout::to_read(directory)?;
            let (blob, mut file) = layout.open(tag.as_deref(), architecture(), progress).context(attempt)?;
            let path = target_path(from, target, &blob)?;
            let mut to = crate::archive::ArchiveFile::create(&path)?;
            let found = layout::copy(&mut file, blob.size, |bytes| std::io::Write::write_all(&mut to, bytes));
            if found.context(|| format!("write {}", path.display()))? != blob.digest {
                return Err(Error::new(ErrorKind::System, format!("{from} changes while it is read")));
            }
            to.commit()?;
            Ok(Pulled { path, bytes: blob.size })
        }
        Reference::Registry(name) => {
            let mut session = Session::begin(name, Access::Pull, options)?;
            let blob = session.find_checkpoint(architecture())?;
            let path = target_path(from, target, &blob)?;
            progress.total(blob.size);
            let partial = Partial::open(&path, &blob.digest)?;
            let mut download = Download::going_on(partial.file()?, progress)?;
            match session.download(&blob, &mut download, progress).context(attempt) {
                Ok(()) => {
                    partial.commit()?;
                    Ok(Pulled { path, bytes: blob.size })
                }
                Err(error) if error.kind() == ErrorKind::InvalidArchive => {
                    Err(error.with_cleanup(partial.discard().err()))
                }
                Err(error) => Err(error),
            }
        }
    }
}

/// The bytes of a checkpoint, verified, for who wants no file: of a registry's image in one that has no name.
///
/// # Errors
/// Those of [`pull`].
pub fn fetch(from: &Reference, options: &RegistryOptions, progress: &mut dyn Progress) -> Result<File> {
    let attempt = || format!("pull {from}");
    match from {
        Reference::Layout { directory, tag } => {
            let layout = Layout::to_read(directory)?;
            layout.open(tag.as_deref(), architecture(), progress).map(|(_, file)| file).context(attempt)
        }
        Reference::Registry(name) => {
            let mut session = Session::begin(name, Access::Pull, options)?;
            let blob = session.find_checkpoint(architecture())?;
            progress.total(blob.size);
            let mut download = Download::new(nameless_file()?);
            session.download(&blob, &mut download, progress).context(attempt)?;
            let mut file = download.file;
            file.rewind().context(attempt)?;
            Ok(file)
        }
    }
}

/// Unpacks the layers of an image, one over the other, into the empty directory `to`.
///
/// # Errors
/// `NotFound` if there is no such image; `InvalidInput` for one in a registry; `InvalidArchive` if it is damaged; else as
/// unpacking.
pub fn unpack_image(from: &Reference, to: &Path, progress: &mut dyn Progress) -> Result<()> {
    let attempt = || format!("unpack {from}");
    let Reference::Layout { directory, tag } = from else {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{from} is in a registry"))
            .with_hint("copy it into a layout first: skopeo copy docker://IMAGE oci:DIRECTORY:TAG"));
    };
    let layout = Layout::to_read(directory)?;
    let root = File::open(to).context(|| format!("open {}", to.display()))?;
    // The caller's own image: what a container of it could have made anyway.
    let options = UnpackOptions { devices: DeviceNodes::Any, ..UnpackOptions::default() };
    for layer in layout.layers(tag.as_deref(), architecture()).context(attempt)? {
        let file = layout.verified(&layer, progress).context(attempt)?;
        lay_over(file, root.as_fd(), &options, progress).context(attempt)?;
    }
    Ok(())
}

/// A file that only this process has, on a disk: `/tmp` is memory on some machines.
fn nameless_file() -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let named = std::env::var_os("TMPDIR").filter(|name| !name.is_empty());
    let directory = named.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let mut options = File::options();
    options.read(true).write(true).mode(0o600).custom_flags(nix::fcntl::OFlag::O_TMPFILE.bits());
    options.open(&directory).context(|| format!("make a temporary file in {}", directory.display())).map_err(
        |error| error.with_hint("$TMPDIR names a directory for it; or pull to a file, and restore from that"),
    )
}

fn architecture() -> &'static str {
    manifest::architecture(sys::arch::NAME)
}

fn target_path(from: &Reference, target: Option<&Path>, blob: &Descriptor) -> Result<PathBuf> {
    if let Some(target) = target {
        return Ok(target.to_owned());
    }
    let extension = manifest::extension(&blob.media_type).unwrap_or("checkpoint");
    let path = PathBuf::from(format!("{}.{extension}", from.file_stem()));
    if path.symlink_metadata().is_ok() {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("{} is there already", path.display()))
            .with_hint("name the file with --output to replace it, or another one"));
    }
    Ok(path)
}
