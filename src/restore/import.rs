// SPDX-License-Identifier: Apache-2.0
//! From one file to a bundle and a directory of images. Nothing of it is used before the archive's index has
//! verified.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::archive::{Archive, Manifest, Progress, UnpackOptions};
use crate::engine::NewContainer;
use crate::{Context, Error, ErrorKind, Result, sys};

/// An unpacked archive.
pub(super) struct Imported {
    bundle: Bundle,
    unpacked: PathBuf,
}

impl Imported {
    pub(super) fn bundle(&self) -> PathBuf {
        self.bundle.path.clone()
    }

    pub(super) fn images(&self) -> PathBuf {
        self.unpacked.join("checkpoint")
    }

    /// The configuration at the checkpoint.
    pub(super) fn config(&self) -> Result<Vec<u8>> {
        let path = self.unpacked.join("config.json");
        fs::read(&path).context(|| format!("read {}", path.display()))
    }

    /// Keeps the bundle, and removes the images, which a running container does not need.
    pub(super) fn finish(self, new: &mut NewContainer) -> Result<()> {
        new.set_unfinished(Vec::new())?;
        fs::remove_dir_all(&self.unpacked).context(|| format!("remove {}", self.unpacked.display()))
    }
}

/// Unpacks an archive for a new container.
pub(super) fn unpack(
    new: &mut NewContainer,
    archive: Box<dyn Read + Send>,
    bundle: Option<&Path>,
    progress: &mut (dyn Progress + Send),
) -> Result<Imported> {
    let archive = Archive::open(archive)?;
    check_machine(archive.manifest())?;
    let unpacked = new.dir().join("import");
    make_private(&unpacked)?;
    let bundle = Bundle::choose(new, bundle)?;
    let directory = open_dir(&unpacked)?;
    let rootfs = bundle.rootfs.as_deref().map(open_dir).transpose()?;
    archive.unpack_into(
        directory.as_fd(),
        rootfs.as_ref().map(AsFd::as_fd),
        &UnpackOptions::default(),
        progress,
    )?;
    if rootfs.is_some() {
        write_config(&unpacked.join("config.json"), &bundle.path.join("config.json"))?;
    }
    Ok(Imported { bundle, unpacked })
}

/// The bundle that the container gets.
struct Bundle {
    path: PathBuf,
    /// Where the archive's root file system goes; `None` when the caller has one.
    rootfs: Option<PathBuf>,
}

impl Bundle {
    fn choose(new: &mut NewContainer, given: Option<&Path>) -> Result<Self> {
        let path = match given {
            Some(path) if path.join("config.json").exists() => {
                return Ok(Self { path: path.to_owned(), rootfs: None });
            }
            Some(path) => std::path::absolute(path).context(|| format!("resolve {}", path.display()))?,
            None => new.own_bundle()?,
        };
        let existed = path.exists();
        if fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("the bundle {} has files but no config.json", path.display()),
            )
            .with_hint("give a complete bundle, an empty directory to fill, or no --bundle at all"));
        }
        let rootfs = path.join("rootfs");
        new.set_unfinished(match (given, existed) {
            // The container's own directory goes as a whole.
            (None, _) => Vec::new(),
            (Some(_), true) => vec![rootfs.clone(), path.join("config.json")],
            (Some(_), false) => vec![path.clone()],
        })?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&rootfs)
            .context(|| format!("make {}", rootfs.display()))?;
        Ok(Self { path, rootfs: Some(rootfs) })
    }
}

/// The archive's configuration becomes the bundle's, with the root file system where it has been unpacked.
fn write_config(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).context(|| format!("read {}", from.display()))?;
    let mut config: serde_json::Value = serde_json::from_slice(&bytes)
        .context_kind(ErrorKind::InvalidArchive, || "understand the archive's configuration")?;
    let root = config.get_mut("root").and_then(serde_json::Value::as_object_mut).ok_or_else(|| {
        Error::new(ErrorKind::InvalidArchive, "the archive's configuration has no field `root`")
    })?;
    root.insert("path".to_owned(), "rootfs".into());
    let bytes = serde_json::to_vec_pretty(&config).context(|| "serialise the configuration")?;
    fs::write(to, bytes).context(|| format!("write {}", to.display()))
}

/// What would only be found out by a process that dies after the restore.
fn check_machine(manifest: &Manifest) -> Result<()> {
    if manifest.arch != sys::arch::NAME {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the checkpoint is of a {} machine, this one is {}", manifest.arch, sys::arch::NAME),
        ));
    }
    let here = sys::proc::cpu_features().context(|| "read /proc/cpuinfo")?;
    let missing: Vec<&str> =
        manifest.cpu_features.iter().map(String::as_str).filter(|f| !here.iter().any(|h| h == f)).collect();
    if !missing.is_empty() {
        tracing::warn!(
            features = missing.join(" "),
            "this processor lacks features of the one that the checkpoint is from: a program that uses them will die"
        );
    }
    Ok(())
}

fn make_private(path: &Path) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path).context(|| format!("make {}", path.display()))
}

fn open_dir(path: &Path) -> Result<File> {
    File::open(path).context(|| format!("open {}", path.display()))
}
