// SPDX-License-Identifier: Apache-2.0
//! From one file to a bundle and a directory of images. Nothing of it is used before the archive's index has
//! verified.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::base::Difference;
use super::{RestoreOptions, allowed, foreign, on_demand, volumes};
use crate::archive::signature::Watched;
use crate::archive::{
    Archive, Bases, DeviceNodes, Manifest, Opened, Progress, UnpackOptions, manifest_of, opened,
    packed_stream, unpack_without_memory,
};
use crate::engine::NewContainer;
use crate::spec::HostAccess;
use crate::{Context, Error, ErrorKind, Result, sys};

/// Where the root filesystem of a container is that has a bundle of its own, in its directory.
pub(crate) const RESTORED_ROOTFS: &str = "bundle/rootfs";

/// An unpacked archive.
pub(super) struct Imported {
    pub(super) bundle: Bundle,
    pub(super) unpacked: PathBuf,
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
    options: &RestoreOptions,
    progress: &mut (dyn Progress + Send),
) -> Result<Imported> {
    let unpack = unpack_options(options);
    let (archive, watched) = match &options.verification {
        Some(verification) => {
            let (archive, watched) = verification.watch(archive);
            (archive, Some(watched))
        }
        None => (archive, None),
    };
    let archive = match Opened::open(opened(archive, &options.identities)?)? {
        Opened::Ours(archive) => archive,
        Opened::Foreign(archive) => {
            let imported = foreign::unpack(new, *archive, options, &unpack, progress)?;
            watched.map_or(Ok(()), Watched::check)?;
            return Ok(imported);
        }
    };
    let manifest = archive.manifest().clone();
    place(new, &manifest, options, progress, |directory, rootfs, progress| {
        archive.unpack_into(directory, rootfs, &unpack, progress)?;
        watched.map_or(Ok(()), Watched::check)
    })
}

/// [`unpack`] of a file, of which a packed one is read where it is needed.
pub(super) fn unpack_file(
    new: &mut NewContainer,
    mut file: File,
    directory: Option<PathBuf>,
    options: &RestoreOptions,
    progress: &mut (dyn Progress + Send),
) -> Result<Imported> {
    let bases = match &options.base_archives[..] {
        [] => Bases::new(Vec::from_iter(directory), options.identities.clone()),
        places => Bases::new(places.to_vec(), options.identities.clone()),
    };
    let duplicate = |file: &File| file.try_clone().context(|| "duplicate a descriptor");
    let packed = packed_stream(duplicate(&file)?, &options.identities, bases.clone())?;
    file.rewind().context(|| "go back to the beginning of the archive")?;
    let Some(packed) = packed else { return unpack(new, Box::new(file), options, progress) };
    let mut packed = match &options.verification {
        None => packed,
        // What was signed is what is read from here on: nobody else has this copy.
        Some(verification) => {
            let (mut bytes, watched) = verification.watch(Box::new(file));
            let mut copy = nameless_file(new.dir())?;
            io::copy(&mut bytes, &mut copy).context(|| "copy the archive, of which the signature is")?;
            watched.check()?;
            let packed = packed_stream(copy, &options.identities, bases)?;
            packed
                .ok_or_else(|| Error::new(ErrorKind::InvalidArchive, "the archive has changed meanwhile"))?
        }
    };
    packed.require_bases()?;
    let archive = Archive::open(packed)?;
    let unpack = unpack_options(options);
    let manifest = archive.manifest().clone();
    place(new, &manifest, options, progress, |directory, rootfs, progress| {
        archive.unpack_into(directory, rootfs, &unpack, progress).map(drop)
    })
}

/// A file without a name in this directory.
fn nameless_file(directory: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
    options.open(directory).context(|| format!("make a temporary file in {}", directory.display()))
}

/// What came of a container before its archive.
pub(super) struct Came<'a> {
    /// The directory with files of memory.
    pub(super) memory: &'a Path,
    /// That of the root filesystem, if it is not in the archive.
    pub(super) rootfs: Option<&'a Path>,
}

/// [`unpack`] of what another host sends.
pub(super) fn unpack_of_peer(
    new: &mut NewContainer,
    archive: Box<dyn Read + Send>,
    came: &Came<'_>,
    options: &RestoreOptions,
    progress: &mut (dyn Progress + Send),
) -> Result<Imported> {
    let archive = Archive::open(opened(archive, &options.identities)?)?;
    let manifest = archive.manifest().clone();
    let unpack = unpack_options(options);
    if came.rootfs.is_some() && manifest.container.rootfs {
        let message = "the root filesystem came before the archive, and is in it, too";
        return Err(Error::new(ErrorKind::InvalidArchive, message));
    }
    let imported =
        place_with(new, &manifest, came.rootfs, options, progress, |directory, rootfs, progress| {
            let rootfs = rootfs.filter(|_| came.rootfs.is_none());
            archive.unpack_into(directory, rootfs, &unpack, progress).map(drop)
        })?;
    link_memory(came.memory, &imported.images())?;
    Ok(imported)
}

/// Puts files of memory among the images, none of which they may replace. They stay where they are, too.
fn link_memory(memory: &Path, images: &Path) -> Result<()> {
    let list = || format!("list {}", memory.display());
    for entry in fs::read_dir(memory).context(list)? {
        let from = entry.context(list)?.path();
        let to = images.join(from.file_name().unwrap_or_default());
        fs::hard_link(&from, &to).context(|| format!("link {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// [`unpack`] of an archive of this program's whose memory stays in it, but for what CRIU reads itself.
pub(super) fn unpack_without(
    new: &mut NewContainer,
    archive: &File,
    options: &RestoreOptions,
    progress: &mut (dyn Progress + Send),
) -> Result<Imported> {
    if options.verification.is_some() {
        // Before it is read, its bytes could be others than those that were signed.
        let message =
            "a signature is of the whole archive, and --lazy-pages does not read all of it beforehand";
        return Err(Error::new(ErrorKind::InvalidInput, message)
            .with_hint("restore without --lazy-pages, or without --verify"));
    }
    let manifest = manifest_of(archive)?;
    let unpack = unpack_options(options);
    let imported = place(new, &manifest, options, progress, |directory, rootfs, progress| {
        unpack_without_memory(archive, directory, rootfs, &unpack, progress).map(drop)
    })?;
    let archive = archive.try_clone().context(|| "duplicate a descriptor")?;
    on_demand::copy_direct(archive, &imported.images())?;
    Ok(imported)
}

/// What may come, whether in an archive or before it.
pub(crate) fn unpack_options(options: &RestoreOptions) -> UnpackOptions {
    let mut unpack = UnpackOptions::default();
    if options.allow.contains(&HostAccess::Devices) {
        unpack.devices = DeviceNodes::Any;
    }
    let most = &mut unpack.limits.total_bytes;
    *most = options.grants.disk.map_or(*most, |disk| disk.min(*most));
    unpack
}

/// Makes the places of an archive of this program's, has it unpacked there, and judges what came.
fn place(
    new: &mut NewContainer,
    manifest: &Manifest,
    options: &RestoreOptions,
    progress: &mut (dyn Progress + Send),
    unpack: impl FnOnce(BorrowedFd<'_>, Option<BorrowedFd<'_>>, &mut (dyn Progress + Send)) -> Result<()>,
) -> Result<Imported> {
    place_with(new, manifest, None, options, progress, unpack)
}

/// [`place`], with a root filesystem that is there.
fn place_with(
    new: &mut NewContainer,
    manifest: &Manifest,
    came: Option<&Path>,
    options: &RestoreOptions,
    progress: &mut (dyn Progress + Send),
    unpack: impl FnOnce(BorrowedFd<'_>, Option<BorrowedFd<'_>>, &mut (dyn Progress + Send)) -> Result<()>,
) -> Result<Imported> {
    check_machine(manifest)?;
    if !manifest.container.rootfs && came.is_none() && !options.bundle.as_deref().is_some_and(is_complete) {
        return Err(Error::new(ErrorKind::InvalidInput, "the archive holds no root filesystem")
            .with_hint("name a bundle that has one with --bundle"));
    }
    let difference = Difference::of(manifest, options)?;
    let limits = unpack_options(options);
    let facts = manifest.container.volumes.clone();
    let unpacked = new.dir().join("import");
    make_private(&unpacked)?;
    let bundle = Bundle::choose(new, options.bundle.as_deref())?;
    let directory = open_dir(&unpacked)?;
    if let (Some(from), Some(to)) = (came, bundle.rootfs.as_deref()) {
        fs::rename(from, to).context(|| format!("rename {} to {}", from.display(), to.display()))?;
    }
    let rootfs = bundle.rootfs.as_deref().map(open_dir).transpose()?;
    unpack(directory.as_fd(), rootfs.as_ref().map(AsFd::as_fd), progress)?;
    let imported = Imported { bundle, unpacked };
    if let Some(rootfs) = &rootfs {
        let then = imported.unpacked.join("config.json");
        let mut config = foreign::read_config(&then)?;
        let answered = volumes::answer(&mut config, &facts, options, &imported.bundle.path)?;
        let wishes = serde_json::to_vec(&answered.rest(&config)).context(|| "serialise the configuration")?;
        allowed::check(&wishes, open_dir(&imported.images())?.as_fd(), options)?;
        answered.fill(&imported.unpacked, options.overwrite_volumes, &limits, progress)?;
        if let Some(difference) = difference {
            difference.lay_over_base(
                &imported.unpacked,
                rootfs.as_fd(),
                &unpack_options(options),
                progress,
            )?;
        }
        write_config(config, &then, &imported.bundle.path.join("config.json"))?;
    }
    Ok(imported)
}

/// Whether a bundle is to be used as it is.
pub(super) fn is_complete(bundle: &Path) -> bool {
    bundle.join("config.json").exists()
}

/// The bundle that the container gets.
pub(super) struct Bundle {
    pub(super) path: PathBuf,
    /// Where the archive's root file system goes; `None` when the caller has one.
    pub(super) rootfs: Option<PathBuf>,
}

impl Bundle {
    pub(super) fn choose(new: &mut NewContainer, given: Option<&Path>) -> Result<Self> {
        let path = match given {
            Some(path) if is_complete(path) => {
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
            (Some(_), true) => vec![
                rootfs.clone(),
                path.join("config.json"),
                path.join(foreign::STAND_INS),
                path.join(volumes::VOLUMES),
            ],
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

/// The archive's configuration becomes the bundle's, with the root file system where it has been unpacked. What is mounted
/// from elsewhere is no difference from the configuration at the checkpoint.
fn write_config(mut config: serde_json::Value, then: &Path, to: &Path) -> Result<()> {
    let write = |config: &serde_json::Value, to: &Path| {
        let bytes = serde_json::to_vec_pretty(config).context(|| "serialise the configuration")?;
        fs::write(to, bytes).context(|| format!("write {}", to.display()))
    };
    write(&config, then)?;
    let root = config.get_mut("root").and_then(serde_json::Value::as_object_mut).ok_or_else(|| {
        Error::new(ErrorKind::InvalidArchive, "the archive's configuration has no field `root`")
    })?;
    root.insert("path".to_owned(), "rootfs".into());
    write(&config, to)
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

pub(super) fn make_private(path: &Path) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path).context(|| format!("make {}", path.display()))
}

pub(super) fn open_dir(path: &Path) -> Result<File> {
    File::open(path).context(|| format!("open {}", path.display()))
}
