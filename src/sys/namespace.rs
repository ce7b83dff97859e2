// SPDX-License-Identifier: Apache-2.0
//! Threads in namespaces of their own. The kernel keeps mount and network namespaces per thread, so a program with
//! many threads can enter one without disturbing the others; the thread ends with the work.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread::{self, JoinHandle};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// Proof that the thread which holds it mounts for itself only: see [`in_private_mount_namespace`].
#[derive(Debug)]
pub struct PrivateMounts(PhantomData<*const ()>);

/// Runs `work` on a thread with a private copy of the mount namespace. What is mounted there never reaches the host,
/// and is gone when the thread and the processes it started are gone, however they end. Mounts that the host makes
/// meanwhile still arrive (the copy is a slave).
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN; the error of making the copy. The work's own result is the value.
pub fn in_private_mount_namespace<T: Send>(work: impl FnOnce(&PrivateMounts) -> T + Send) -> io::Result<T> {
    on_thread(move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
        mount(None::<&Path>, "/", None::<&Path>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&Path>)?;
        Ok(work(&PrivateMounts(PhantomData)))
    })
}

/// Runs `work` on a thread that has joined the network namespace behind the descriptor.
///
/// # Errors
/// The error of setns(2). The work's own result is the value.
pub fn in_network_namespace<T: Send>(
    namespace: &(impl AsFd + Sync),
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    on_thread(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

/// Runs `work` on a thread with a new network namespace, which ends with the thread.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN. The work's own result is the value.
pub fn in_new_network_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

/// The network namespaces between which a thread of [`beside_with_new_network_namespace`] goes.
#[derive(Debug)]
pub struct TwoNetworks {
    given: OwnedFd,
    new: OwnedFd,
}

impl TwoNetworks {
    /// The calling thread is in the given one from now on.
    ///
    /// # Errors
    /// Those of setns(2).
    pub fn enter_given(&self) -> io::Result<()> {
        Ok(setns(&self.given, CloneFlags::CLONE_NEWNET)?)
    }

    /// The calling thread is in the new one from now on.
    ///
    /// # Errors
    /// Those of setns(2).
    pub fn enter_new(&self) -> io::Result<()> {
        Ok(setns(&self.new, CloneFlags::CLONE_NEWNET)?)
    }
}

/// Runs `work` beside the caller, on a thread with a new network namespace that it leaves for the given one and comes back to. The
/// new one ends with the thread.
///
/// # Errors
/// There is no thread for it. Those of making the namespace are the thread's, as the work's own.
pub fn beside_with_new_network_namespace<T: Send + 'static>(
    given: OwnedFd,
    work: impl FnOnce(&TwoNetworks) -> io::Result<T> + Send + 'static,
) -> io::Result<JoinHandle<io::Result<T>>> {
    thread::Builder::new().spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let new = File::open("/proc/thread-self/ns/net")?.into();
        work(&TwoNetworks { given, new })
    })
}

/// Which kind of namespace the file is, as one bit of clone(2)'s flags (`NS_GET_NSTYPE`, ioctl_nsfs(2)).
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn kind(file: BorrowedFd<'_>) -> io::Result<CloneFlags> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // A terminal or device may know the number as something else: what is no namespace is not asked.
    if fstatfs(file)?.filesystem_type() != NSFS_MAGIC {
        return Err(io::Error::from_raw_os_error(libc::ENOTTY));
    }
    // SAFETY: the request takes no argument.
    let bit = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    if bit < 0 { Err(io::Error::last_os_error()) } else { Ok(CloneFlags::from_bits_retain(bit)) }
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_namespace_tells_its_kind() {
        for (name, expected) in [("uts", CloneFlags::CLONE_NEWUTS), ("user", CloneFlags::CLONE_NEWUSER)] {
            let file = fs::File::open(format!("/proc/self/ns/{name}")).expect("open");
            assert_eq!(kind(file.as_fd()).expect(name), expected);
        }
        let null = fs::File::open("/dev/null").expect("open");
        assert_eq!(kind(null.as_fd()).expect_err("no namespace").raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn mounts_of_the_private_namespace_stay_there() {
        if !nix::unistd::geteuid().is_root() {
            // The layer above says so to the user; here there is nothing to see without privilege.
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let inside = in_private_mount_namespace(|_| {
            mount(None::<&Path>, dir.path(), Some("tmpfs"), MsFlags::empty(), None::<&Path>).expect("mount");
            fs::write(dir.path().join("seen"), "x").expect("write");
            fs::read_dir(dir.path()).expect("list").count()
        });
        assert_eq!(inside.expect("unshare"), 1);
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    }
}
