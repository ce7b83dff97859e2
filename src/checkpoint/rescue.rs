// SPDX-License-Identifier: Apache-2.0
//! What a CRIU that was killed leaves behind in a container that runs on: sockets in repair mode, which nobody can read or
//! write, and a table of nftables or rules of iptables that keep packets away. All are found by looking, so that it does not matter at
//! which moment CRIU died. Must not know why it did.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use nix::sched::CloneFlags;
use nix::unistd::Pid;

use super::Dump;
use super::journal::Journal;
use crate::criu::{NetworkLock, lock_rules, lock_table, log_beginning};
use crate::engine::{Container, Namespaces, Status};
use crate::{Context, Result, sys};

/// Writes down where CRIU's lock is, for whoever has to remove it.
pub(super) fn note_lock(dump: &Dump<'_>, journal: &mut Journal, lock: NetworkLock) -> Result<()> {
    if lock == NetworkLock::Skip {
        return Ok(());
    }
    let directory = sys::fd::proc_path(dump.log_dir());
    let directory = fs::read_link(&directory).context(|| format!("read {}", directory.display()))?;
    journal.locked = true;
    journal.log = Some(directory.join("dump.log"));
    let namespaces = Namespaces::from_spec(&dump.config.spec);
    if !namespaces.creates(CloneFlags::CLONE_NEWNET) {
        let path = namespaces.path(CloneFlags::CLONE_NEWNET);
        journal.network = Some(path.unwrap_or(Path::new("/proc/thread-self/ns/net")).to_owned());
    }
    if matches!(lock, NetworkLock::Iptables | NetworkLock::Default) {
        journal.iptables = true;
        // What cannot be seen is no reason to refuse: CRIU will say why it cannot lock.
        let namespace = File::open(format!("/proc/{}/ns/net", dump.init.pid));
        journal.was_locked =
            namespace.is_ok_and(|namespace| lock_rules::has_chain(&namespace).unwrap_or(false));
    }
    journal.save(dump.container)
}

/// Mends the container, if there is anything to mend. CRIU must have ended.
///
/// # Errors
/// What could not be mended. The container is thawed in any case.
pub(super) fn rescue(container: &Container, journal: &Journal) -> Result<()> {
    if !journal.locked {
        return if journal.mending { container.cgroup()?.thaw() } else { Ok(()) };
    }
    // Who was killed while it mended has left it frozen, which is nobody's wish.
    let running = journal.mending || container.status()? == Status::Running;
    let cgroup = container.cgroup()?;
    if running && !journal.mending {
        Journal { mending: true, ..journal.clone() }.save(container)?;
    }
    // What runs meets a socket that fails; without a freezer that cannot be helped.
    let frozen = running
        && cgroup
            .freeze()
            .inspect_err(|e| tracing::debug!(error = e.chain(), "the container is mended while it runs"))
            .is_ok();
    let pids = cgroup.all_pids();
    let sockets = pids.as_ref().map_or(Ok(0), |pids| free_sockets(pids));
    let unlocked = unlock(container, journal);
    let thawed = if frozen { cgroup.thaw() } else { Ok(()) };
    let (pids, sockets, unlocked) = (pids?, sockets?, unlocked?);
    thawed?;
    if sockets > 0 || unlocked {
        tracing::warn!(
            id = %container.id(), sockets, unlocked,
            "criu was killed: connections were taken out of repair mode, and its lock from the network"
        );
    }
    for pid in pids.iter().filter(|pid| has_parasite(**pid)) {
        tracing::warn!(pid, "criu was killed and has left some memory of its own (CRIUMFD) in this process");
    }
    Ok(())
}

/// Does `work` while CRIU waits for it. If CRIU ends in the meantime, which it does not do by itself, the container is
/// mended at once, and what the work came to is worth nothing: `None`.
pub(super) fn watching<T>(container: &Container, journal: &Journal, work: impl FnOnce() -> T) -> Option<T> {
    let watch = || Some((sys::pidfd::open(journal.criu?.pid()).ok()?, std::io::pipe().ok()?));
    let Some((criu, (until, done))) = watch() else { return Some(work()) };
    std::thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            let ended = sys::fd::wait_for_first(criu.as_fd(), until.as_fd()).unwrap_or(false);
            if ended && let Err(error) = rescue(container, journal) {
                tracing::warn!(error = error.chain(), "criu was killed, and what it left is not all mended");
            }
            ended
        });
        let worked = work();
        drop(done);
        let ended = watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (!ended).then_some(worked)
    })
}

/// Takes every TCP socket of the processes out of repair mode; returns how many were in it.
fn free_sockets(pids: &[i32]) -> Result<usize> {
    let mut seen = HashSet::new();
    let mut freed = 0;
    for &pid in pids {
        // A process that ends meanwhile has closed them.
        let Ok(pidfd) = sys::pidfd::open(Pid::from_raw(pid)) else { continue };
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in descriptors.flatten() {
            let number = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let is_socket = target.as_os_str().as_encoded_bytes().starts_with(b"socket:[");
            let (true, Some(number)) = (is_socket && seen.insert(target), number) else { continue };
            let Ok(socket) = sys::pidfd::copy_descriptor(pidfd.as_fd(), number) else { continue };
            let was_in_repair = sys::tcp::leave_repair(socket.as_fd())
                .context(|| format!("take descriptor {number} of process {pid} out of TCP's repair mode"))?;
            freed += usize::from(was_in_repair);
        }
    }
    Ok(freed)
}

/// Whether CRIU's code is still mapped.
fn has_parasite(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains("/memfd:CRIUMFD"))
}

/// Removes CRIU's lock from the network namespace of the container. Tells whether there was one.
///
/// # Errors
/// When it cannot be removed.
pub(super) fn unlock(container: &Container, journal: &Journal) -> Result<bool> {
    if !journal.locked {
        return Ok(false);
    }
    let of_init = container.init().map(|init| format!("/proc/{}/ns/net", init.pid).into());
    // Without a process of the container's, only a namespace by path can still be there.
    let Some(path) = of_init.or_else(|| journal.network.clone()) else { return Ok(false) };
    let namespace = match File::open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        opened => opened.context(|| format!("open {}", path.display()))?,
    };
    let log = journal.log.as_deref().map_or(Ok(Vec::new()), log_beginning)?;
    let context = || format!("remove criu's lock from the network namespace {}", path.display());
    let init = container.state().init.map(|init| init.pid);
    let by_table =
        lock_table::remove(&namespace, |table| lock_table::is_of_run(table, &log, init)).context(context);
    let by_rules = remove_rules(journal, &namespace, &log).context(context);
    Ok(by_table? | by_rules?)
}

fn remove_rules(journal: &Journal, namespace: &File, log: &[u8]) -> Result<bool> {
    if !journal.iptables {
        return Ok(false);
    }
    let of_connections = lock_rules::remove_rules(namespace, log)?;
    Ok(of_connections | (!journal.was_locked && lock_rules::remove_chain(namespace)?))
}
