// SPDX-License-Identifier: Apache-2.0
//! The terminal of a container's process: made by init from the container's own devpts, its master sent to whoever
//! shall hold it.
//!
//! ```text
//!   runtime: Console (a connected socket) ──── inherited ───▶ init: pty, /dev/console, stdio, controlling terminal
//!   holder (conmon, shim, our own foreground) ◀── master, by SCM_RIGHTS ──┘      (or from CRIU, in a restore)
//! ```
//!
//! Must not know what the holder does with the master.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::sys::stat::Mode;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use serde::{Deserialize, Serialize};

use super::rootfs::{self, Prepared};
use crate::spec::oci;
use crate::sys::fd::{above_stdio, proc_path};
use crate::sys::tty::{self, Size};
use crate::{Context, Error, ErrorKind, Result};

/// Who gets the master of the process's terminal.
#[derive(Debug)]
pub struct Console {
    socket: OwnedFd,
    holder: Holder,
}

#[derive(Debug)]
enum Holder {
    /// Somebody else, who asked for a terminal.
    Other,
    /// This process, should the process have a terminal; its window then has this size.
    Foreground(Option<Size>),
}

impl Console {
    /// The listener at this path: a unix stream socket. It gets one message, with the terminal's name and its master.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path) -> Result<Self> {
        let attempt = || format!("connect to the console socket {}", path.display());
        let socket = above_stdio(connect(path).context(attempt)?.as_fd()).context(|| "dup")?;
        Ok(Self { socket, holder: Holder::Other })
    }

    pub(super) fn foreground(socket: OwnedFd, size: Option<Size>) -> Self {
        Self { socket, holder: Holder::Foreground(size) }
    }

    /// The one that serves, given whether the process has a terminal.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when there is a terminal and nobody to hold it, or somebody else to hold one and
    /// none.
    pub(super) fn choose(console: Option<Self>, terminal: bool) -> Result<Option<Self>> {
        match (console, terminal) {
            (None, true) => Err(Error::new(
                ErrorKind::InvalidInput,
                "cannot allocate tty if migrate will detach without setting console socket",
            )
            .with_hint(
                "pass --console-socket, or start it without a terminal (process.terminal in config.json)",
            )),
            (Some(Self { holder: Holder::Other, .. }), false) => Err(Self::unused()),
            (console, true) => Ok(console),
            (_, false) => Ok(None),
        }
    }

    /// A console socket was given that will never get anything.
    pub fn unused() -> Error {
        Error::new(
            ErrorKind::InvalidInput,
            "cannot use console socket if migrate will not detach or allocate tty",
        )
    }

    /// What init must do.
    pub(super) fn plan(&self, process: &oci::Process) -> Result<ConsolePlan> {
        let configured = process.console_size().as_ref().map(size_of).transpose()?;
        let (size, keep_newlines) = match self.holder {
            Holder::Other => (configured, false),
            Holder::Foreground(size) => (size.or(configured), true),
        };
        Ok(ConsolePlan { socket: self.socket.as_raw_fd(), size, keep_newlines })
    }

    /// The socket that init inherits.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends the master of a restored terminal, whose processes must not run yet.
    ///
    /// # Errors
    /// When the holder has gone away.
    pub fn send(&self, master: BorrowedFd<'_>) -> Result<()> {
        if let Holder::Foreground(_) = self.holder {
            tty::keep_newlines(master).context(|| "clear ONLCR of the container's terminal")?;
        }
        send_master(self.socket.as_fd(), master)
    }
}

/// Connects to a unix stream socket, however long its path is.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    match UnixStream::connect(path) {
        // Longer than an address may be: a short path leads to its directory.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => connect_in_directory(path),
        other => other,
    }
}

fn connect_in_directory(path: &Path) -> io::Result<UnixStream> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let directory = open(directory, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    UnixStream::connect(proc_path(directory.as_fd()).join(path.file_name().unwrap_or_default()))
}

fn size_of(size: &oci::Box) -> Result<Size> {
    let number = |name: &str, value: u64| {
        u16::try_from(value).map_err(|_| {
            Error::new(
                ErrorKind::InvalidConfig,
                format!("invalid configuration: field `process.consoleSize.{name}` must be below 65536"),
            )
        })
    };
    Ok(Size { rows: number("height", size.height())?, columns: number("width", size.width())? })
}

/// The terminal that init makes, decided before the clone.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ConsolePlan {
    /// The socket that the master goes to, inherited.
    pub socket: RawFd,
    size: Option<Size>,
    /// Whether the terminal that the output is copied to puts carriage returns before newlines, so that this one must
    /// not.
    keep_newlines: bool,
}

/// In init: makes the terminal, sends its master away and moves in. `root` is the root file system that is not yet
/// entered; `None`: this process is in the container's, which has its `/dev/console` already.
pub(super) fn set_up(
    plan: &ConsolePlan,
    socket: BorrowedFd<'_>,
    root: Option<&Prepared<'_>>,
    own_fds: BorrowedFd<'_>,
) -> Result<()> {
    let ptmx = root.map_or_else(rootfs::open_ptmx_here, Prepared::open_ptmx)?;
    // The way through our own descriptors leads to exactly the file that was checked.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = openat(own_fds, ptmx.as_raw_fd().to_string().as_str(), flags, Mode::empty())
        .context(|| "open /dev/pts/ptmx of the container")?;
    let master = master.as_fd();
    tty::unlock(master).context(|| "ioctl(TIOCSPTLCK)")?;
    let terminal = tty::open_peer(master).context(|| "ioctl(TIOCGPTPEER)")?;
    if let Some(size) = plan.size {
        tty::set_size(master, size).context(|| "ioctl(TIOCSWINSZ)")?;
    }
    if plan.keep_newlines {
        tty::keep_newlines(master).context(|| "clear ONLCR of the terminal")?;
    }
    if let Some(root) = root {
        root.bind_console(terminal.as_fd())?;
    }
    move_in(&terminal)?;
    send_master(socket, master)
}

fn move_in(terminal: &OwnedFd) -> Result<()> {
    let replace = || {
        dup2_stdin(terminal)?;
        dup2_stdout(terminal)?;
        dup2_stderr(terminal)
    };
    replace().context(|| "make the terminal stdin, stdout and stderr")?;
    tty::make_controlling(terminal.as_fd()).context(|| "ioctl(TIOCSCTTY)")
}

fn send_master(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<()> {
    let name = format!("/dev/pts/{}", tty::number(master).context(|| "ioctl(TIOCGPTN)")?);
    send_descriptor(socket, &name, master).context(|| "send the terminal's master to the console socket")
}

/// Sends one message: a word, and a descriptor.
pub(super) fn send_descriptor(socket: BorrowedFd<'_>, word: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
    let (bytes, fds) = ([IoSlice::new(word.as_bytes())], [fd.as_raw_fd()]);
    let rights = [ControlMessage::ScmRights(&fds)];
    loop {
        match sendmsg::<UnixAddr>(socket.as_raw_fd(), &bytes, &rights, MsgFlags::MSG_NOSIGNAL, None) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn foreground(size: Option<Size>) -> Console {
        let (socket, _) = crate::sys::seqpacket::pair().expect("socket pair");
        Console::foreground(socket, size)
    }

    fn process(text: &str) -> oci::Process {
        let mut process: oci::Process =
            serde_json::from_str(r#"{"user": {"uid": 0, "gid": 0}, "cwd": "/"}"#).expect("a process");
        process.set_console_size(serde_json::from_str(text).expect("a size"));
        process
    }

    #[test]
    fn a_console_and_a_terminal_need_each_other() {
        let other = || {
            let (socket, _) = UnixStream::pair().expect("socket pair");
            Some(Console { socket: socket.into(), holder: Holder::Other })
        };
        let text = |console, terminal| Console::choose(console, terminal).expect_err("refused").to_string();
        assert!(text(None, true).starts_with("cannot allocate tty if migrate will detach"));
        assert!(text(other(), false).starts_with("cannot use console socket if migrate will not"));
        assert!(Console::choose(None, false).expect("no terminal").is_none());
        assert!(Console::choose(other(), true).expect("a terminal").is_some());
        assert!(Console::choose(Some(foreground(None)), false).expect("no terminal").is_none());
        assert!(Console::choose(Some(foreground(None)), true).expect("a terminal").is_some());
    }

    #[test]
    fn the_callers_window_counts_before_the_configured_one() {
        let (own, configured) = (Size { rows: 1, columns: 2 }, Size { rows: 24, columns: 80 });
        let process = process(r#"{"height": 24, "width": 80}"#);
        for (console, expected) in [(foreground(Some(own)), own), (foreground(None), configured)] {
            let plan = console.plan(&process).expect("a plan");
            assert_eq!((plan.size, plan.keep_newlines), (Some(expected), true));
        }
    }

    #[test]
    fn a_window_that_no_terminal_has_is_refused() {
        let error = foreground(None).plan(&process(r#"{"height": 24, "width": 65536}"#)).expect_err("wide");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("process.consoleSize.width"), "{error}");
    }

    #[test]
    fn a_path_of_any_length_can_be_connected_to() {
        let directory = tempfile::tempdir().expect("tempdir");
        let deep = directory.path().join("d".repeat(120));
        std::fs::create_dir(&deep).expect("mkdir");
        let here = std::fs::File::open(&deep).expect("open");
        let _listener = UnixListener::bind(crate::sys::fd::proc_path(here.as_fd()).join("s")).expect("bind");
        Console::connect(&deep.join("s")).expect("connect");
        let error = Console::connect(&deep.join("t")).expect_err("nobody");
        assert_eq!(error.errno(), Some(libc::ENOENT), "{}", error.chain());
    }
}
