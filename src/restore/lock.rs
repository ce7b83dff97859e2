// SPDX-License-Identifier: Apache-2.0
//! CRIU's lock on a network namespace that is not the container's. The checkpoint has left it there on purpose: a packet
//! of a peer would otherwise be answered by a kernel that does not know the connection any more. A restore takes it over, and
//! CRIU removes it when it has put the connections back. Until then nobody else in the namespace has a network, so a restore that
//! has failed removes it as well; after one that was killed with its CRIU, `delete` does, by the record in `restore.json`.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use crate::criu::{left_lock, lock_rules, lock_table, log_beginning};
use crate::engine::{Container, InitProcess, Namespaces, NewContainer};
use crate::{Context, Error, ErrorKind, Result, sys};

const FILE: &str = "restore.json";

/// How long CRIU may take to end by itself after its caller has died.
const CRIU_DEADLINE: Duration = Duration::from_secs(60);

/// The lock that a restore has taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TakenLock {
    /// The namespace.
    network: PathBuf,
    /// The run of the CRIU that has locked it.
    run: Option<String>,
    iptables: bool,
    /// The log of that run, which names the rules for single connections.
    log: Option<PathBuf>,
    /// The CRIU that restores.
    criu: InitProcess,
}

impl TakenLock {
    /// Writes down what lock the restore takes over, before it does; `None` if no network but the container's own can have one.
    pub(super) fn take(
        new: &NewContainer,
        namespaces: &Namespaces,
        images: BorrowedFd<'_>,
        criu: i32,
    ) -> Result<Option<Self>> {
        if namespaces.creates(CloneFlags::CLONE_NEWNET) {
            return Ok(None);
        }
        let Some(left) = left_lock(images)? else { return Ok(None) };
        let network = namespaces.path(CloneFlags::CLONE_NEWNET);
        let directory = fs::read_link(sys::fd::proc_path(images)).ok();
        let lock = Self {
            network: network.unwrap_or(Path::new("/proc/thread-self/ns/net")).to_owned(),
            run: left.run,
            iptables: left.iptables,
            log: directory.map(|directory| directory.join("dump.log")),
            criu: InitProcess::of(nix::unistd::Pid::from_raw(criu))?,
        };
        let bytes = serde_json::to_vec(&lock).context(|| "serialise the restore's record")?;
        new.write_file(FILE, &bytes)?;
        Ok(Some(lock))
    }

    /// After a restore that succeeded: CRIU has removed it.
    pub(super) fn is_gone(new: &NewContainer) -> Result<()> {
        remove_record(new.dir())
    }

    /// After a failure: removes it.
    pub(super) fn give_up(&self) {
        match self.remove() {
            Ok(true) => tracing::warn!(
                namespace = %self.network.display(),
                "criu's lock was removed from the network: a peer that sends something before the next restore loses its \
                 connection"
            ),
            Ok(false) => {}
            Err(error) => tracing::warn!(
                error = error.chain(),
                "criu's lock stays on the network; to remove it: nsenter --net={0} nft list tables, and there `nft delete table \
                 inet` of the one that begins with {1}; for iptables and ip6tables: nsenter --net={0} iptables -D INPUT -j {2}; … \
                 -D OUTPUT -j {2}; … -F {2}; … -X {2}",
                self.network.display(),
                lock_table::PREFIX,
                lock_rules::CHAIN
            ),
        }
    }

    /// Tells whether there was one.
    fn remove(&self) -> Result<bool> {
        let namespace = match File::open(&self.network) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.context(|| format!("open {}", self.network.display()))?,
        };
        let context = || format!("remove criu's lock from the network namespace {}", self.network.display());
        let run = self.run.as_deref();
        let by_table =
            lock_table::remove(&namespace, |table| run.is_some_and(|run| lock_table::is_of(table, run)));
        let by_rules = self.remove_rules(&namespace);
        Ok(by_table.context(context)? | by_rules.context(context)?)
    }

    fn remove_rules(&self, namespace: &File) -> Result<bool> {
        if !self.iptables {
            return Ok(false);
        }
        let log = self.log.as_deref().map(log_beginning).transpose()?.unwrap_or_default();
        Ok(lock_rules::remove_rules(namespace, &log)? | lock_rules::remove_chain(namespace)?)
    }
}

fn remove_record(directory: &Path) -> Result<()> {
    let path = directory.join(FILE);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What must be settled before a container is deleted: the lock that a restore had taken over which was killed.
///
/// # Errors
/// [`ErrorKind::WrongStatus`] while CRIU is still at work; when the lock cannot be removed.
pub fn settle(container: &mut Container) -> Result<()> {
    let path = container.dir().join(FILE);
    if !path.exists() {
        return Ok(());
    }
    let _lock = container.lock()?;
    container.require_owned()?;
    let bytes = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.context(|| format!("read {}", path.display()))?,
    };
    let taken: TakenLock =
        serde_json::from_slice(&bytes).context(|| format!("understand {}", path.display()))?;
    if !taken.criu.wait_ended(CRIU_DEADLINE).context(|| "wait for criu")? {
        let message =
            format!("criu (process {}) is still at work on a restore of this container", taken.criu.pid);
        return Err(Error::new(ErrorKind::WrongStatus, message).with_hint("wait for it to end, or kill it"));
    }
    if taken.remove()? {
        tracing::warn!(id = %container.id(), "a restore was killed: criu's lock was removed from the network");
    }
    remove_record(container.dir())
}
