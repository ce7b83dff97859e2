// SPDX-License-Identifier: Apache-2.0
//! What the caller wants of a restore, and what follows from it and from the container for CRIU's request.

use std::fmt;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::cgroup::self_cgroups;
use crate::criu::{
    CgroupRoot, InheritFd, InheritedFd, JoinNamespace, ManageCgroups, RestoreRequest, TcpConnections,
};
use crate::engine::Namespaces;
use crate::{Context, Result};

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
        }
    }
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
}

/// Whether a descriptor of `descriptors.json` is not in the images: a pipe, or what the checkpoint left out under a key.
pub(super) fn is_given_anew(name: &str) -> bool {
    name.contains("pipe:") || ["file[", "tty[", "socket:["].iter().any(|kind| name.starts_with(kind))
}

/// Whether there is an image whose name begins so.
fn holds(images: BorrowedFd<'_>, prefix: &str) -> Result<bool> {
    let list = || "list the image directory";
    let mut directory =
        Dir::openat(images, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).context(list)?;
    for entry in directory.iter() {
        if entry.context(list)?.file_name().to_bytes().starts_with(prefix.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
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
        if is_given_anew(name) && !request.inherit_fds.iter().any(|i: &InheritFd| i.key == *name) {
            request.inherit_fds.push(InheritFd { key: name.clone(), fd });
        }
    }
    for (key, fd) in external_namespaces {
        request.inherit_fds.push(InheritFd { key: (*key).to_owned(), fd: *fd });
    }
    // CRIU is in them already, which our images need. Others' (runc's, crun's) have the namespace's content, and CRIU would
    // make a new one for that.
    for (_, name, path) in namespaces.around_criu() {
        if holds(images.as_fd(), &format!("{name}ns-"))? {
            request.join_ns.push(JoinNamespace { kind: name.to_owned(), file: path.to_owned() });
        }
    }
    let manage_cgroups = options.manage_cgroups.unwrap_or(ManageCgroups::Ignore);
    if manage_cgroups != ManageCgroups::Ignore {
        request.cgroup_roots = self_cgroups(criu)?
            .into_iter()
            .map(|c| CgroupRoot { controllers: c.controller_list(), path: c.path })
            .collect();
    }
    let common = &mut request.options;
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
