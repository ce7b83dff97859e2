// SPDX-License-Identifier: Apache-2.0
//! What the caller wants of a restore, and what follows from it and from the container for CRIU's request.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use super::on_demand;
use crate::archive::Identities;
use crate::archive::signature::Verification;
use crate::cgroup::self_cgroups;
use crate::criu::{
    CgroupRoot, ExternalMount, InheritFd, InheritedFd, JoinNamespace, ManageCgroups, RestoreRequest,
    TcpConnections, has_image,
};
use crate::engine::{MovingAddresses, Namespaces};
use crate::spec::{Grants, HostAccess};
use crate::{Error, ErrorKind, Result};

/// Where the checkpoint is.
pub enum Source {
    /// In a directory of images; `None`: `checkpoint` in the working directory.
    Images(Option<PathBuf>),
    /// In one file, or in a stream of its bytes.
    Archive {
        /// What errors call it.
        name: String,
        /// Its bytes.
        bytes: Box<dyn Read + Send>,
    },
    /// In one file that may be read in any order.
    File {
        /// What errors call it.
        name: String,
        /// A regular file. It must not change.
        file: File,
        /// The directory where archives are that it needs, unless others are named.
        directory: Option<PathBuf>,
    },
    /// In one file that memory is read from when it is needed: the container runs before all of it is there.
    OnDemand {
        /// What errors call it.
        name: String,
        /// A regular file. It may lose its name, but must not change.
        file: File,
    },
    /// In a stream of an archive's bytes from another host, which has sent the memory before. Where this machine can do it
    /// ([`can_bring_memory`](super::can_bring_memory)), that comes on demand, as with [`Source::OnDemand`].
    Peer {
        /// What errors call it.
        name: String,
        /// Its bytes.
        bytes: Box<dyn Read + Send>,
        /// The directory with the files of memory, on the state root's file system. They may lose their names when the container is
        /// restored.
        memory: PathBuf,
        /// The directory of the store with what the images leave to who provides memory, if they do. It may lose its name, too.
        store: Option<PathBuf>,
        /// The directory with its root filesystem, on the state root's file system, if that has come before the archive. The container gets
        /// it.
        rootfs: Option<PathBuf>,
    },
}

impl Default for Source {
    fn default() -> Self {
        Self::Images(None)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images(path) => f.debug_tuple("Images").field(path).finish(),
            Self::Archive { name, .. } => {
                f.debug_struct("Archive").field("name", name).finish_non_exhaustive()
            }
            Self::File { name, .. } => f.debug_struct("File").field("name", name).finish_non_exhaustive(),
            Self::OnDemand { name, .. } => {
                f.debug_struct("OnDemand").field("name", name).finish_non_exhaustive()
            }
            Self::Peer { name, .. } => f.debug_struct("Peer").field("name", name).finish_non_exhaustive(),
        }
    }
}

/// What is mounted in the container from this host, instead of what was mounted there from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedMount {
    /// Where it is in the container.
    pub destination: String,
    /// What that is on this host.
    pub source: PathBuf,
}

/// What the caller wants of a restore.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// CRIU's executable; `None`: found.
    pub criu: Option<PathBuf>,
    /// Directory for CRIU's log and statistics; `None`: that of the images.
    pub work_path: Option<PathBuf>,
    /// The bundle. For images, `None` is the working directory. For an archive, a directory with a `config.json` is
    /// used as it is, and an empty or missing one is filled from the archive; `None`: the container gets its own.
    pub bundle: Option<PathBuf>,
    /// The files that the root filesystem in an archive differs from: they are copied.
    pub base_rootfs: Option<PathBuf>,
    /// Files and directories of archives that the archive needs; none: the directory that it is in.
    pub base_archives: Vec<PathBuf>,
    /// What the bind mounts of an archive are here.
    pub map_mounts: Vec<MappedMount>,
    /// Whether volumes in an archive may be laid over files that are there.
    pub overwrite_volumes: bool,
    /// What becomes of established TCP connections.
    pub tcp: TcpConnections,
    /// The other end of a unix socket is outside of the container.
    pub ext_unix_sk: bool,
    /// The container belongs to a session outside.
    pub shell_job: bool,
    /// There are file locks in the images.
    pub file_locks: bool,
    /// What CRIU does with cgroups; `None`: nothing, the processes are put into the container's own.
    pub manage_cgroups: Option<ManageCgroups>,
    /// Start before all memory of a directory of images is there: `criu lazy-pages` works in the work directory and provides
    /// it. From an archive that is [`Source::OnDemand`].
    pub lazy_pages: bool,
    /// Remove from the images what has been restored.
    pub auto_dedup: bool,
    /// The profile of a security module, `apparmor:NAME` or `selinux:LABEL`, instead of the dumped one.
    pub lsm_profile: Option<String>,
    /// The mount context of a security module for restored tmpfs mounts.
    pub lsm_mount_context: Option<String>,
    /// How long CRIU may take; `None`: CRIU's default of 10 s.
    pub timeout: Option<Duration>,
    /// End with the processes frozen, and the container held under this name and attempt (see
    /// [`Ownership`](crate::engine::Ownership)): none has run, and none does until the container's cgroup is thawed.
    pub held: Option<(String, u64)>,
    /// With `held`: what the network namespace by path gets for the container.
    pub addresses: MovingAddresses,
    /// Secret keys that open an encrypted archive.
    pub identities: Identities,
    /// Who must have signed the archive; `None`: anybody or nobody. No process is restored of one that they have not.
    pub verification: Option<Verification>,
    /// What the configuration in an archive may have of this host. One of the caller's, in `bundle`, may have everything.
    pub allow: Vec<HostAccess>,
    /// What of it may be had one by one.
    pub grants: Grants,
    /// Objects that were outside at the checkpoint, in CRIU's spelling: `mnt[KEY]:PATH`, `veth[IN]:OUT`, ….
    pub external: Vec<String>,
    /// Descriptors for objects that were outside, by their key.
    pub inherit: Vec<(String, OwnedFd)>,
}

impl RestoreOptions {
    /// The mounts among `external`.
    pub(super) fn given_mounts(&self) -> Vec<ExternalMount> {
        self.external.iter().filter_map(|object| ExternalMount::parse(object)).collect()
    }

    /// What CRIU does with cgroups.
    pub(super) fn cgroup_mode(&self) -> ManageCgroups {
        self.manage_cgroups.unwrap_or(ManageCgroups::Ignore)
    }

    /// The other objects among `external`, which are CRIU's to understand.
    fn other_external(&self) -> impl Iterator<Item = &String> {
        self.external.iter().filter(|object| ExternalMount::parse(object).is_none())
    }
}

/// Whether a descriptor of `descriptors.json` is not in the images: a pipe, or what the checkpoint left out under a key.
pub(super) fn is_given_anew(name: &str) -> bool {
    name.contains("pipe:") || ["file[", "tty[", "socket:["].iter().any(|kind| name.starts_with(kind))
}

/// Makes sure that somebody provides the memory: CRIU's daemon has made its socket in this directory. A daemon that was
/// started together with the restore has some time for that.
///
/// # Errors
/// [`ErrorKind::NotFound`].
pub(super) fn require_lazy_pages(work_dir: BorrowedFd<'_>) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fstatat(work_dir, on_demand::SOCKET, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => return Ok(()),
            Err(Errno::ENOENT) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("nobody provides memory: no {} in the work directory", on_demand::SOCKET),
                )
                .with_source(error)
                .with_hint(
                    "before the restore start `criu lazy-pages --images-dir IMAGES --work-dir WORK`, with --page-server --address \
                     and --port for memory that is still on another host, and name that work directory with --work-path",
                ));
            }
        }
    }
}

/// The request for CRIU, whose process has this id.
#[allow(clippy::too_many_arguments)] // each is a different fact; a struct would only rename the call
pub(super) fn restore_request<'a>(
    options: &RestoreOptions,
    namespaces: &Namespaces,
    images: &'a OwnedFd,
    work_dir: Option<&'a OwnedFd>,
    criu_root: &Path,
    descriptors: &[String; 3],
    external_namespaces: &[(&'static str, InheritedFd)],
    criu: i32,
) -> Result<RestoreRequest<'a>> {
    let mut request = RestoreRequest::new(images.as_fd());
    let stdio = [InheritedFd::STDIN, InheritedFd::STDOUT, InheritedFd::STDERR];
    for (name, fd) in descriptors.iter().zip(stdio) {
        let is_given = options.inherit.iter().any(|(key, _)| key == name);
        if is_given_anew(name) && !is_given && !request.inherit_fds.iter().any(|i: &InheritFd| i.key == *name)
        {
            request.inherit_fds.push(InheritFd { key: name.clone(), fd });
        }
    }
    for (key, fd) in external_namespaces {
        request.inherit_fds.push(InheritFd { key: (*key).to_owned(), fd: *fd });
    }
    // CRIU is in them already, which our images need. Others' (runc's, crun's) have the namespace's content, and CRIU would
    // make a new one for that.
    for (_, name, path) in namespaces.around_criu() {
        if has_image(images.as_fd(), &format!("{name}ns-"))? {
            request.join_ns.push(JoinNamespace { kind: name.to_owned(), file: path.to_owned() });
        }
    }
    let manage_cgroups = options.cgroup_mode();
    if manage_cgroups != ManageCgroups::Ignore {
        request.cgroup_roots = self_cgroups(criu)?
            .into_iter()
            .map(|c| CgroupRoot { controllers: c.controller_list(), path: c.path })
            .collect();
    }
    request.lazy_pages = options.lazy_pages;
    request.lsm_profile.clone_from(&options.lsm_profile);
    let common = &mut request.options;
    common.auto_dedup = options.auto_dedup;
    common.lsm_mount_context.clone_from(&options.lsm_mount_context);
    common.timeout = options.timeout;
    common.external = options.other_external().cloned().collect();
    common.work_dir = work_dir.map(AsFd::as_fd);
    common.root = Some(criu_root.to_owned());
    common.manage_cgroups = manage_cgroups;
    common.tcp = options.tcp;
    common.ext_unix_sk = options.ext_unix_sk;
    common.shell_job = options.shell_job;
    common.file_locks = options.file_locks;
    common.evasive_devices = true;
    common.orphan_pts_master = true;
    Ok(request)
}
