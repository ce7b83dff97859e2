// SPDX-License-Identifier: Apache-2.0
//! `migrate restore`.

use std::fs::File;
use std::io::Seek as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;

use super::create::{detached_io, refuse_console_socket, require_pid_file, write_pid_file};
use super::run::stay;
use crate::archive::Identities;
use crate::archive::signature::Verification;
use crate::cli::base::BaseArg;
use crate::cli::dump::{CriuArgs, CriuTimeout};
use crate::cli::progress::Bar;
use crate::cli::registry::{self, RegistryArgs};
use crate::cli::signed::SignedArgs;
use crate::cli::{Global, criu_values, exit, parse_id};
use crate::engine::{Container, ContainerId, Foreground, ProcessIo};
use crate::registry::{Reference, fetch};
use crate::restore::{MappedMount, RestoreOptions, Source, restore};
use crate::spec::HostAccess;
use crate::{Context, Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The id of the restored container
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
    /// Restore from one file that `checkpoint --export` wrote; `-` is stdin, `docker://IMAGE` is in a registry,
    /// `oci:DIRECTORY:TAG` in a layout of the OCI
    #[arg(short, long, value_name = "FILE", conflicts_with = "image_path")]
    import: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Directory of the images [default: ./checkpoint]
    #[arg(long, value_name = "DIR")]
    image_path: Option<PathBuf>,
    /// Directory for CRIU's log and statistics [default: that of the images]
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Directory with config.json [default: the working directory, or one of the container's own with --import]
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Files that the root filesystem in the archive differs from: those of the image, or of the checkpoint's base
    #[arg(long, value_name = "DIR|oci:DIR:TAG", requires = "import")]
    base_rootfs: Option<BaseArg>,
    /// Archive that a packed one needs, or the directory that it is in [default: the archive's directory]
    #[arg(long, value_name = "FILE|DIR", requires = "import")]
    base_archive: Vec<PathBuf>,
    /// What is mounted at DESTINATION, instead of what the archive says
    #[arg(long, value_name = "DESTINATION=SOURCE", requires = "import", value_parser = mapped_mount)]
    map_mount: Vec<MappedMount>,
    /// Lay volumes in the archive over files that are there
    #[arg(long, requires = "import")]
    overwrite_volumes: bool,
    /// Return as soon as the container runs
    #[arg(short, long)]
    detach: bool,
    /// Write the pid of the container's first process to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Socket that receives the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Do not reap the container's orphans
    #[arg(long)]
    no_subreaper: bool,
    /// Accepted for runc's clients: CRIU pivots by itself
    #[arg(long)]
    no_pivot: bool,
    #[command(flatten)]
    criu: CriuArgs,
    #[command(flatten)]
    timeout: CriuTimeout,
    /// Start before all memory is there: a process that stays reads it from the archive; without --import, `criu lazy-pages`
    /// must be running in the work directory
    #[arg(long, conflicts_with = "verify")]
    lazy_pages: bool,
    /// Profile of a security module instead of the one at the checkpoint: apparmor:NAME or selinux:LABEL
    #[arg(long, value_name = "PROFILE")]
    lsm_profile: Option<String>,
    /// SELinux's context for tmpfs mounts instead of the one at the checkpoint
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    /// File with a secret key of age's or OpenSSH's that opens an encrypted archive
    #[arg(long, value_name = "FILE", requires = "import")]
    identity: Vec<PathBuf>,
    #[command(flatten)]
    signed: SignedArgs,
    /// What the configuration in the archive may have of this host
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',', requires = "import")]
    allow: Vec<AllowArg>,
    /// Descriptor for an object that was outside, as CRIU spells it: `fd[N]:KEY`
    #[arg(long, value_name = "fd[N]:KEY", value_parser = criu_values::inherited_object)]
    inherit_fd: Vec<(String, Arc<OwnedFd>)>,
}

/// [`HostAccess`] by its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum AllowArg {
    /// Bind mounts, and file systems of the host
    Mounts,
    /// Device nodes and rules for others than every container's, and network interfaces
    Devices,
    /// Programs that run on the host
    Hooks,
    /// The host's namespaces, or others by their path
    Namespaces,
    /// Capabilities beyond the usual ones
    Privileges,
    /// Everything: the archive is trusted like a program that is run as root
    All,
}

impl AllowArg {
    pub(super) fn accesses(self) -> Vec<HostAccess> {
        vec![match self {
            Self::Mounts => HostAccess::Mounts,
            Self::Devices => HostAccess::Devices,
            Self::Hooks => HostAccess::Hooks,
            Self::Namespaces => HostAccess::Namespaces,
            Self::Privileges => HostAccess::Privileges,
            Self::All => return HostAccess::ALL.to_vec(),
        }]
    }
}

/// `DESTINATION=SOURCE`, both absolute.
pub(super) fn mapped_mount(text: &str) -> std::result::Result<MappedMount, &'static str> {
    let (destination, source) = text.split_once('=').ok_or("not of the form DESTINATION=SOURCE")?;
    if !destination.starts_with('/') || !source.starts_with('/') {
        return Err("both paths must be absolute");
    }
    Ok(MappedMount { destination: destination.to_owned(), source: PathBuf::from(source) })
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<ExitCode> {
        if self.detach {
            self.restore(global, detached_io(self.console_socket.as_deref())?)?;
            return Ok(exit::SUCCESS.into());
        }
        refuse_console_socket(self.console_socket.as_deref())?;
        let (foreground, io) = Foreground::new(!self.no_subreaper)?;
        let container = self.restore(global, io)?;
        stay(container, foreground, false)
    }

    fn options(&self, global: &Global) -> Result<RestoreOptions> {
        let mut options = RestoreOptions::default();
        options.criu.clone_from(&global.criu);
        options.work_path.clone_from(&self.work_path);
        options.bundle.clone_from(&self.bundle);
        options.base_archives.clone_from(&self.base_archive);
        options.map_mounts.clone_from(&self.map_mount);
        options.overwrite_volumes = self.overwrite_volumes;
        options.tcp = self.criu.tcp();
        options.ext_unix_sk = self.criu.ext_unix_sk();
        options.shell_job = self.criu.shell_job();
        options.file_locks = self.criu.file_locks();
        options.manage_cgroups = self.criu.manage_cgroups();
        options.timeout = self.timeout.duration();
        options.external = self.criu.external().to_vec();
        options.auto_dedup = self.criu.auto_dedup();
        options.lazy_pages = self.lazy_pages;
        options.lsm_profile.clone_from(&self.lsm_profile);
        options.lsm_mount_context.clone_from(&self.lsm_mount_context);
        options.identities = Identities::read(&self.identity)?;
        options.verification = self.verification()?;
        options.allow = self.allow.iter().flat_map(|what| what.accesses()).collect();
        for (key, fd) in &self.inherit_fd {
            let fd = fd.try_clone().context(|| "duplicate a descriptor of --inherit-fd")?;
            options.inherit.push((key.clone(), fd));
        }
        Ok(options)
    }

    fn verification(&self) -> Result<Option<Verification>> {
        match &self.import {
            Some(archive) => self.signed.verification(archive),
            None if self.signed.are_given() => {
                Err(Error::new(ErrorKind::InvalidInput, "--verify goes with an archive: --import names none"))
            }
            None => Ok(None),
        }
    }

    fn source(&self, verification: Option<&Verification>) -> Result<Source> {
        Ok(match &self.import {
            None => Source::Images(self.image_path.clone()),
            Some(path) if path.as_os_str() == "-" => {
                let name = "the archive on standard input".to_owned();
                match whole_file(std::io::stdin().as_fd())? {
                    Some(file) => {
                        verified(verification, &file, &name)?;
                        self.source_of(name, file, None)
                    }
                    None => Source::Archive { name, bytes: Box::new(std::io::stdin()) },
                }
            }
            Some(path) if path.to_str().is_some_and(Reference::is_marked) => {
                let reference = registry::reference(&path.to_string_lossy())?;
                let file = fetch(&reference, &self.registry.options()?, &mut Bar::new("pulling"))?;
                self.source_of(format!("image {reference}"), file, None)
            }
            Some(path) => {
                let file = File::open(path).map_err(|e| {
                    let missing = e.kind() == std::io::ErrorKind::NotFound;
                    let kind = if missing { ErrorKind::NotFound } else { ErrorKind::System };
                    Error::new(kind, format!("open the archive {}", path.display())).with_source(e)
                })?;
                let metadata = file.metadata().context(|| format!("stat {}", path.display()))?;
                if !metadata.is_dir() {
                    let name = format!("archive {}", path.display());
                    verified(verification.filter(|_| metadata.is_file()), &file, &name)?;
                    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                    let directory = directory.unwrap_or(Path::new("."));
                    return Ok(match metadata.is_file() || self.lazy_pages {
                        true => self.source_of(name, file, Some(directory)),
                        false => Source::Archive { name, bytes: Box::new(file) },
                    });
                }
                return Err(Error::new(
                    ErrorKind::InvalidArchive,
                    format!("{} is a directory, not an archive", path.display()),
                )
                .with_hint("restore from a directory of images with --image-path"));
            }
        })
    }

    fn source_of(&self, name: String, file: File, directory: Option<&Path>) -> Source {
        if self.lazy_pages {
            return Source::OnDemand { name, file };
        }
        Source::File { name, file, directory: directory.map(Path::to_owned) }
    }

    /// Restores and writes the pid file. When that cannot be written, the container is removed again.
    fn restore(&self, global: &Global, io: ProcessIo) -> Result<Container> {
        let mut options = self.options(global)?;
        let base = self.base_rootfs.as_ref().map(BaseArg::directory).transpose()?;
        options.base_rootfs = base.as_ref().map(|base| base.path().to_owned());
        let source = self.source(options.verification.as_ref())?;
        // Once the processes have run, their files are not those of the checkpoint any more: it could not be tried again.
        self.pid_file.as_deref().map_or(Ok(()), require_pid_file)?;
        let mut bar = Bar::new("importing");
        let container = restore(&global.state_root()?, self.id.clone(), source, &options, io, &mut bar)?;
        let pid = container.init().map(|init| init.pid);
        if let (Some(path), Some(pid)) = (&self.pid_file, pid)
            && let Err(error) = write_pid_file(path, pid)
        {
            return Err(error.with_cleanup(container.delete(true).err()));
        }
        Ok(container)
    }
}

/// What can be read twice is not unpacked before it is known to be good. It is looked at again on the way.
fn verified(verification: Option<&Verification>, file: &File, name: &str) -> Result<()> {
    let Some(verification) = verification else { return Ok(()) };
    verification.check_file(file).context(|| format!("verify {name}"))
}

/// A regular file that somebody has redirected, if it is at its beginning: any part of it can be read.
fn whole_file(fd: BorrowedFd<'_>) -> Result<Option<File>> {
    let attempt = || "look at standard input";
    let mut file = File::from(fd.try_clone_to_owned().context(attempt)?);
    let is_whole =
        file.metadata().context(attempt)?.is_file() && file.stream_position().context(attempt)? == 0;
    Ok(is_whole.then_some(file))
}
