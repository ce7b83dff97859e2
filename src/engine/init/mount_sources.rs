// SPDX-License-Identifier: Apache-2.0
//! Sources of bind mounts that init cannot open by itself: the runtime opens them for it.
//!
//! ```text
//!   init (Requests)                         runtime, a thread in the container's mount namespace (Server)
//!   index of the entry, 4 bytes ─────────▶  open it there, map its ids
//!                              ◀─────────── JSON [`Answer`], with the descriptor
//!   end of file ─────────────────────────▶  the thread ends
//! ```
//!
//! A source may lie behind a directory that the container's user namespace may not search, and ids are mapped by who
//! owns the filesystem. The container's mount namespace, because a source may lie in what was mounted before it.
//! The socket is apart from the conversation of [`super::sync`], which must not wait for this.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use crate::engine::rootfs::{MountKind, MountPlan, OwnSources, RootfsPlan, Source, Sources};
use crate::sys::seqpacket;
use crate::{Context, Error, ErrorKind, Result, sys};

/// The longest answer, in bytes.
const LONGEST: usize = 64 * 1024;

/// What the runtime says; a source comes with one descriptor.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Path,
    Tree,
    Failed { kind: ErrorKind, chain: String, hint: Option<String> },
}

/// The runtime's side, before init is there.
#[derive(Debug)]
pub(in crate::engine) struct Server {
    socket: OwnedFd,
    for_init: OwnedFd,
    mounts: Vec<MountPlan>,
}

/// The runtime's side at work. Dropped, it waits for init to have got everything, or to be dead.
#[derive(Debug)]
pub(in crate::engine) struct Serving(Option<JoinHandle<()>>);

impl Server {
    /// One for this root filesystem, if it takes one. `user_namespace` tells whether init is in one of its own.
    pub(in crate::engine) fn for_plan(plan: &RootfsPlan, user_namespace: bool) -> Result<Option<Self>> {
        let is_bind = |mount: &MountPlan| matches!(mount.kind, MountKind::Bind { .. });
        // A runtime that is not root reaches no more than init.
        let helps = user_namespace && nix::unistd::geteuid().is_root();
        let is_needed = |mount: &MountPlan| mount.is_id_mapped() || (helps && is_bind(mount));
        if !plan.mounts.iter().any(is_needed) {
            return Ok(None);
        }
        let (socket, for_init) = seqpacket::pair().context(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)")?;
        let for_init = sys::fd::above_stdio(for_init.as_fd()).context(|| "dup")?;
        Ok(Some(Self { socket, for_init, mounts: plan.mounts.clone() }))
    }

    /// The end that init inherits.
    pub(in crate::engine) fn for_init(&self) -> BorrowedFd<'_> {
        self.for_init.as_fd()
    }

    /// Serves the process behind the pidfd.
    pub(in crate::engine) fn serve(self, init: BorrowedFd<'_>) -> Result<Serving> {
        let Self { socket, for_init, mounts } = self;
        // With init's copy alone left, its end is the end of the conversation.
        drop(for_init);
        let init = init.try_clone_to_owned().context(|| "dup")?;
        let work = move || serve(&socket, &init, &mounts);
        let thread = std::thread::Builder::new().name("mount-sources".to_owned()).spawn(work);
        Ok(Serving(Some(thread.context(|| "start a thread for the sources of mounts")?)))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // A panic of it is init's error: the connection is closed.
            drop(thread.join());
        }
    }
}

/// Answers until init is done or gone. What goes wrong is init's to report.
fn serve(socket: &OwnedFd, init: &OwnedFd, mounts: &[MountPlan]) {
    let mut entered = None;
    while let Ok(Some(request)) = seqpacket::receive(socket.as_fd(), size_of::<u32>()) {
        let entry = <[u8; 4]>::try_from(request.bytes.as_slice()).ok().map(u32::from_le_bytes);
        let entry = entry.and_then(|index| mounts.get(usize::try_from(index).ok()?));
        let source = match entered.get_or_insert_with(|| enter(init)) {
            Ok(()) => entry
                .ok_or_else(|| Error::new(ErrorKind::System, "init asked for an entry that there is not"))
                .and_then(|entry| OwnSources.open(entry)),
            Err(error) => Err(Error::new(error.kind(), error.chain())),
        };
        if answer(socket.as_fd(), &source).is_err() {
            return;
        }
    }
}

/// A thread's filesystem context must be its own before it changes the mount namespace (setns(2)).
fn enter(init: &OwnedFd) -> Result<()> {
    unshare(CloneFlags::CLONE_FS).context(|| "unshare(CLONE_FS)")?;
    setns(init, CloneFlags::CLONE_NEWNS).context(|| "join the container's mount namespace by setns")
}

fn answer(socket: BorrowedFd<'_>, source: &Result<Source>) -> Result<()> {
    let (answer, fd) = match source {
        Ok(Source::Path(fd)) => (Answer::Path, Some(fd.as_fd())),
        Ok(Source::Tree(fd)) => (Answer::Tree, Some(fd.as_fd())),
        Err(error) => {
            let mut chain = error.chain();
            chain.truncate(chain.floor_char_boundary(LONGEST / 8));
            let hint = error.hint().map(str::to_owned);
            (Answer::Failed { kind: error.kind(), chain, hint }, None)
        }
    };
    let bytes = serde_json::to_vec(&answer).context(|| "serialise an answer")?;
    seqpacket::send_with(socket, &bytes, fd.as_slice()).context(|| "answer init")
}

/// Init's side.
#[derive(Debug)]
pub(super) struct Requests(pub(super) OwnedFd);

impl Sources for Requests {
    fn open(&self, mount: &MountPlan) -> Result<Source> {
        if !mount.is_id_mapped()
            && let Ok(source) = OwnSources.open(mount)
        {
            return Ok(source);
        }
        let index = u32::try_from(mount.index).context(|| "number the entry")?;
        seqpacket::send(self.0.as_fd(), &index.to_le_bytes()).context(|| "ask the runtime for the source")?;
        let packet = seqpacket::receive(self.0.as_fd(), LONGEST)
            .context(|| "wait for the source from the runtime")?
            .ok_or_else(|| {
                Error::new(ErrorKind::System, "the runtime went away before it opened the source")
            })?;
        let answer = serde_json::from_slice(&packet.bytes).context(|| "understand the runtime")?;
        let mut fds = packet.fds.into_iter();
        match (answer, fds.next()) {
            (Answer::Path, Some(fd)) => Ok(Source::Path(fd)),
            (Answer::Tree, Some(fd)) => Ok(Source::Tree(fd)),
            (Answer::Failed { kind, chain, hint }, _) => {
                let error = Error::new(kind, chain);
                Err(match hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                })
            }
            (Answer::Path | Answer::Tree, None) => {
                Err(Error::new(ErrorKind::System, "the runtime sent no descriptor of the source"))
            }
        }
    }
}
