// SPDX-License-Identifier: Apache-2.0
//! What a checkpoint writes down before it does what cannot be undone, so that whoever comes after a killed command
//! can tell what happened: `checkpoint.json` in the container's directory.
//!
//! | phase | the first process | what happened | what is done |
//! | --- | --- | --- | --- |
//! | any | alive | the attempt failed, and CRIU has let the container run on | leftovers are removed, what a killed CRIU has not mended is |
//! | dumping | dead | the container ended by itself | leftovers are removed |
//! | dumped | dead | the images are complete, the archive is not | kept: export again, restore, or `delete --force` |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::images::ImagesDir;
use super::{lazy, rescue};
use crate::engine::{Container, InitProcess};
use crate::{Context, Error, ErrorKind, Result, sys};

const FILE: &str = "checkpoint.json";

/// How long CRIU may take to end by itself after its caller has died.
const CRIU_DEADLINE: Duration = Duration::from_secs(60);

/// How long a process that CRIU has killed may take until it can be seen to end.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// How far a checkpoint got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// CRIU is at work; if it is not any more, the container runs on.
    Dumping,
    /// The images are complete and the processes are killed.
    Dumped,
}

/// The record of one checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) phase: Phase,
    /// CRIU's own process.
    pub(super) criu: Option<InitProcess>,
    pub(super) images: PathBuf,
    pub(super) owns_images: bool,
    /// The archive in the making.
    pub(super) partial: Option<PathBuf>,
    /// Whether CRIU keeps packets away while it takes sockets apart.
    #[serde(default)]
    pub(super) locked: bool,
    /// Whether it may do so with iptables.
    #[serde(default)]
    pub(super) iptables: bool,
    /// Whether another CRIU has locked the same namespace with iptables: there is but one chain for all of them.
    #[serde(default)]
    pub(super) was_locked: bool,
    /// Whether the container is frozen, if it is, by whoever mends it or waits for its file to be taken away.
    #[serde(default)]
    pub(super) mending: bool,
    /// A network namespace that outlives the container.
    #[serde(default)]
    pub(super) network: Option<PathBuf>,
    /// CRIU's log.
    #[serde(default)]
    pub(super) log: Option<PathBuf>,
    /// The port on which CRIU waits, without end, to be asked for memory.
    #[serde(default)]
    pub(super) lazy_port: Option<u16>,
    /// Memory that is in the half archive and not among the images.
    #[serde(default)]
    pub(super) memory: Option<Memory>,
}

/// Where memory is that is not among the images.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Where the members of the half archive end.
    pub(super) end: u64,
    /// The file, which has another name once the archive is complete.
    pub(super) inode: u64,
    /// That name.
    pub(super) target: PathBuf,
}

impl Journal {
    pub(super) fn new(images: &ImagesDir) -> Self {
        Self {
            phase: Phase::Dumping,
            criu: None,
            images: images.path.clone(),
            owns_images: images.owned,
            partial: None,
            locked: false,
            iptables: false,
            was_locked: false,
            mending: false,
            network: None,
            log: None,
            lazy_port: None,
            memory: None,
        }
    }

    /// Writes down where the half archive will be.
    pub(super) fn set_partial(&mut self, partial: &Path, container: &Container) -> Result<()> {
        let partial = std::path::absolute(partial).context(|| format!("resolve {}", partial.display()))?;
        self.partial = Some(partial);
        self.save(container)
    }

    pub(super) fn save(&self, container: &Container) -> Result<()> {
        let bytes = serde_json::to_vec(self).context(|| "serialise the checkpoint's journal")?;
        container.write_file(FILE, &bytes)
    }

    fn load(container: &Container) -> Result<Option<Self>> {
        let path = container.dir().join(FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).context(|| format!("understand {}", path.display()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).context(|| format!("read {}", path.display())),
        }
    }

    pub(super) fn remove(container: &Container) -> Result<()> {
        let path = container.dir().join(FILE);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// What can be done with images that are all there is of a container's processes.
    pub(super) fn remedy(&self, container: &Container) -> String {
        let (images, id) = (self.images.display(), container.id());
        let partial = match (&self.memory, &self.partial) {
            (Some(_), Some(partial)) => format!(" and {}", partial.display()),
            _ => String::new(),
        };
        format!(
            "its images are complete in {images}{partial}: export again with `migrate checkpoint --export FILE {id}`, or throw \
             them away with `migrate delete --force {id}`"
        )
    }

    pub(super) fn remove_partial(&self) -> Result<()> {
        self.partial
            .as_deref()
            .map_or(Ok(()), |partial| remove_if_there(partial, |path| fs::remove_file(path)))
    }

    /// Removes what the attempt left: the half archive, and images that were only for the way.
    fn remove_leftovers(&self) -> Result<()> {
        self.remove_partial()?;
        if self.owns_images {
            remove_if_there(&self.images, |path| fs::remove_dir_all(path))?;
        }
        Ok(())
    }
}

/// A read-only file system refuses to remove what is not there, too: one has to look first.
fn remove_if_there(path: &Path, remove: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    match path.symlink_metadata().and_then(|_| remove(path)) {
        // A path through a file leads nowhere either.
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(e).context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Clears up after a checkpoint whose command was killed, for a caller who holds the container's lock. Returns the
/// record of one whose images are all there is of the processes.
pub(super) fn recover(container: &Container) -> Result<Option<Journal>> {
    let Some(journal) = Journal::load(container)? else { return Ok(None) };
    wait_for_criu(&journal)?;
    let kept = clear_up(container)?;
    if kept.is_none() {
        tracing::warn!(id = %container.id(), "cleared up after a checkpoint that was killed");
    }
    Ok(kept)
}

/// Clears up after a checkpoint that failed, when its CRIU has ended. Returns the record of one whose images are all
/// there is of the processes.
pub(super) fn clear_up(container: &Container) -> Result<Option<Journal>> {
    let Some(journal) = Journal::load(container)? else { return Ok(None) };
    if journal.phase == Phase::Dumped && has_ended(container)? {
        // The next archive will be another file. The network stays locked: connections are in the images.
        if journal.memory.is_none() {
            journal.remove_partial()?;
        }
        return Ok(Some(journal));
    }
    if container.init().is_some() {
        rescue::rescue(container, &journal)?;
    } else {
        rescue::unlock(container, &journal)?;
    }
    journal.remove_leftovers()?;
    Journal::remove(container)?;
    Ok(None)
}

/// Whether the first process has ended, or is at it: CRIU does not wait for those that it has killed, and one with much
/// memory takes its time.
fn has_ended(container: &Container) -> Result<bool> {
    let Some(init) = container.init() else { return Ok(true) };
    let context = || format!("look at process {}", init.pid);
    match sys::pidfd::open(init.pid()) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(true),
        Err(e) => Err(e).context(context),
        Ok(pidfd) => Ok(sys::pidfd::wait_ended(&pidfd, KILL_GRACE).context(context)?
            || sys::proc::Stat::of(init.pid()).map_or(true, |stat| stat.exiting() || stat.ended())),
    }
}

/// CRIU lives in a session of its own: when its caller dies it finishes or gives up by itself, and must be let. One that waits for a
/// client is told that none will come, unless it has one.
fn wait_for_criu(journal: &Journal) -> Result<()> {
    let Some(criu) = journal.criu.filter(InitProcess::is_alive) else { return Ok(()) };
    let waits = journal.lazy_port.filter(|_| journal.phase == Phase::Dumped);
    if let Some(Err(error)) = waits.map(lazy::end) {
        tracing::debug!(%error, "criu's port does not answer");
    }
    if criu.wait_ended(CRIU_DEADLINE).context(|| "wait for criu")? {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::WrongStatus,
        format!("criu (process {}) is still at work on a checkpoint of this container", criu.pid),
    )
    .with_hint("wait for it to end; killing it while it is inside the processes can kill them too"))
}

/// What must be settled before a container is deleted: leftovers of a killed checkpoint go, but images that are all
/// there is of its processes go only with `force`.
///
/// # Errors
/// [`ErrorKind::WrongStatus`] when such images exist and `force` is not given; what could not be removed.
pub fn settle(container: &mut Container, force: bool) -> Result<()> {
    if !container.dir().join(FILE).exists() {
        return Ok(());
    }
    let _lock = container.lock()?;
    container.require_owned()?;
    let Some(journal) = recover(container)? else { return Ok(()) };
    if journal.owns_images && !force {
        return Err(Error::new(
            ErrorKind::WrongStatus,
            format!(
                "the last checkpoint of container {} was killed before its archive was complete",
                container.id()
            ),
        )
        .with_hint(journal.remedy(container)));
    }
    // Nobody will need the connections in these images.
    rescue::unlock(container, &journal)?;
    journal.remove_leftovers()?;
    Journal::remove(container)
}
