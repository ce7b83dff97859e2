// SPDX-License-Identifier: Apache-2.0
//! A restore whose memory stays where it is, in an archive or as it has come from a peer, until it is asked for: the container runs at once, and a
//! process of ours that outlives the command brings its pages.
//!
//! ```text
//!  command:  unpack without memory ─▶ pages that CRIU reads itself ─▶ provider started ─▶ CRIU ─▶ provider still alive? ─▶ go
//!            (archive only)
//! ```

mod keeper;
mod missing;
mod origin;
mod process;
mod provider;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

pub(super) use origin::Origin;

use crate::archive::Memory;
use crate::criu::image::{Kept, PAGE, page_table};
use crate::engine::NewContainer;
use crate::sys::beneath::open_beneath;
use crate::sys::{detached, memory_tracking, process as own, self_exe, seqpacket};
use crate::{Context, Error, ErrorKind, Result};

/// The variable that tells a program that it is the provider of memory.
const REQUEST: &str = "_MIGRATE_MEMORY";

/// The socket at which CRIU looks for who provides memory, in its work directory.
pub(super) const SOCKET: &str = "lazy-pages.socket";

/// Bytes that are copied at once.
const COPIED: u64 = 1 << 20;

/// How long the provider may take to answer, in milliseconds.
const PATIENCE: u16 = 20_000;

/// Becomes the process that brings memory to a restored container when this process was started as one, and returns otherwise.
///
/// A program that restores with [`Source::OnDemand`](super::Source::OnDemand) calls it first in `main`, beside
/// [`init_if_requested`](crate::engine::init_if_requested).
pub fn provide_memory_if_requested() {
    if std::env::var_os(REQUEST).is_none() {
        return;
    }
    // The command waits for the parent, so that the child is nobody's to wait for.
    let code = match detached::fork() {
        Ok(None) => i32::from(provide().is_err()),
        Ok(Some(_)) => 0,
        Err(_) => 1,
    };
    own::exit_now(code);
}

fn provide() -> Result<()> {
    let control = detached::take_stdin().context(|| "take the command's socket")?;
    // Whoever is short of memory finds larger processes to kill, and a container may have more processes than descriptors are
    // usual. It works without.
    let _ = fs::write("/proc/self/oom_score_adj", "-900");
    if let Ok((_, most)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most);
    }
    provider::run(&control)
}

/// Whether this machine can restore a container before its memory is there, one with a user namespace of its own or another one: CRIU's
/// tasks ask the kernel for a userfaultfd when they are inside of that, where not everybody may have one.
pub fn can_bring_memory(user_namespace: bool) -> bool {
    let anybody_may =
        || fs::read("/proc/sys/vm/unprivileged_userfaultfd").is_ok_and(|text| text.starts_with(b"1"));
    require_kernel().is_ok() && (!user_namespace || anybody_may())
}

/// Whether this machine can do it at all.
///
/// # Errors
/// [`ErrorKind::Unsupported`].
pub(super) fn require_kernel() -> Result<()> {
    let refuse = |why: String| {
        Err(Error::new(ErrorKind::Unsupported, format!("memory cannot be provided on demand here: {why}"))
            .with_hint("restore without --lazy-pages"))
    };
    match nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) {
        Ok(Some(size)) if u64::try_from(size) != Ok(PAGE) => refuse(format!("its pages have {size} bytes")),
        _ => match memory_tracking::userfaultfd() {
            Ok(_) => Ok(()),
            Err(error) => refuse(format!("userfaultfd: {error}")),
        },
    }
}

/// Copies into the files of pages what CRIU reads itself: shared memory, stacks, what is mapped from files.
pub(super) fn copy_direct(archive: File, images: &Path) -> Result<()> {
    let mut memory = Memory::open(archive)?;
    let directory = Dir::open(images, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let directory = directory.context(|| format!("open {}", images.display()))?;
    for name in page_tables(images)? {
        let table =
            page_table(&memory.image(&name)?.unwrap_or_default()).context(|| format!("read {name}"))?;
        let here = table.runs.iter().filter(|run| run.kept == Kept::Here && !run.on_demand && run.pages > 0);
        let mut to = None;
        for run in here {
            let file = match &to {
                Some(file) => file,
                None => to.insert(pages_file(&directory, table.file)?),
            };
            let mut at = run.offset;
            let end = run.offset.saturating_add(run.pages.saturating_mul(PAGE));
            while at < end {
                let (start, bytes) = memory.pages(table.file, at, PAGE)?;
                let from = (at - start) as usize;
                let length = (end - at).min(COPIED).min((bytes.len() - from) as u64);
                file.write_all_at(&bytes[from..from + length as usize], at).context(|| "copy memory")?;
                at += length;
            }
        }
    }
    Ok(())
}

/// The names of the tables of pages in a directory of images.
fn page_tables(images: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(images).context(|| format!("list {}", images.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with("pagemap-") && name.ends_with(".img")).collect())
}

fn pages_file(images: &Dir, id: u32) -> Result<File> {
    let name = format!("pages-{id}.img");
    let opened = open_beneath(images.as_fd(), &name[..], OFlag::O_WRONLY | OFlag::O_NOFOLLOW, Mode::empty());
    opened.map(File::from).context(|| format!("open {name}"))
}

/// The process that brings memory, from the command's side. Dropped before CRIU has finished, it ends.
#[derive(Debug)]
pub(super) struct Provider {
    control: OwnedFd,
    socket: PathBuf,
    /// What errors call the origin.
    source: String,
}

impl Provider {
    /// Starts it for this container, with CRIU's work directory.
    pub(super) fn start(
        new: &NewContainer,
        origin: &Origin,
        images: BorrowedFd<'_>,
        source: &str,
        work_dir: &Path,
    ) -> Result<Self> {
        let starting = || format!("start the process that brings memory from {source}");
        fs::create_dir_all(work_dir).context(|| format!("make the work directory {}", work_dir.display()))?;
        let socket = work_dir.join(SOCKET);
        let listener = listen(work_dir, &socket).context(|| format!("listen at {}", socket.display()))?;
        let (control, its) = seqpacket::pair().context(starting)?;
        let provider = Self { control, socket, source: source.to_owned() };
        let program = new.own_program().unwrap_or(self_exe::path());
        let mut child = detached::start(program, its, (REQUEST, "1")).context(starting)?;
        let message = provider::Message {
            root: new.root_path().to_owned(),
            id: new.id().to_string(),
            source: source.to_owned(),
            kind: origin.kind(),
        };
        let message = serde_json::to_vec(&message).context(starting)?;
        let directory = File::open(new.dir()).context(|| format!("open {}", new.dir().display()))?;
        let given = [&[listener.as_fd(), directory.as_fd()][..], &origin.descriptors(images)].concat();
        let sent = seqpacket::send_with(provider.control.as_fd(), &message, &given);
        // Only the one that it has forked stays.
        child.wait().context(starting)?;
        sent.context(starting)?;
        match seqpacket::receive(provider.control.as_fd(), provider::MESSAGE).context(starting)? {
            Some(packet) if packet.bytes == provider::READY => Ok(provider),
            Some(packet) => Err(provider.failed(&packet.bytes)),
            None => {
                let message =
                    "the process that brings memory was killed, or is a program that does not do so";
                Err(Error::new(ErrorKind::System, message).with_source(provider.failed(b"it has ended"))
                    .with_hint("a program of your own calls migrate::restore::provide_memory_if_requested() first in main()"))
            }
        }
    }

    /// Makes sure that it is alive, and has all descriptors of memory, twice. To be asked when CRIU has sent them.
    ///
    /// # Errors
    /// What it has said, or that it says nothing.
    pub(super) fn check(&self) -> Result<()> {
        // One that has died is seen by the end of its socket.
        let _ = seqpacket::send(self.control.as_fd(), b"held?");
        let mut fds = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(PATIENCE)) == Ok(0) {
            return Err(self.failed(b"it does not answer"));
        }
        match seqpacket::receive(self.control.as_fd(), provider::MESSAGE) {
            Ok(Some(packet)) if packet.bytes == provider::HELD => Ok(()),
            Ok(Some(packet)) => Err(self.failed(&packet.bytes)),
            _ => Err(self.failed(b"its process was killed")),
        }
    }

    fn failed(&self, reason: &[u8]) -> Error {
        let reason = String::from_utf8_lossy(reason);
        Error::new(ErrorKind::InvalidArchive, format!("bring memory from {}: {reason}", self.source))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // CRIU has come to it, or never will.
        let _ = fs::remove_file(&self.socket);
    }
}

/// A path in `work_dir` may be too long for a socket's address.
fn listen(work_dir: &Path, socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let directory = File::open(work_dir)?;
    UnixListener::bind(crate::sys::fd::proc_path(directory.as_fd()).join(SOCKET))
}
