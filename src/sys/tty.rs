// SPDX-License-Identifier: Apache-2.0
//! Terminals: pseudo-terminal pairs by descriptor, window sizes, the controlling terminal, raw mode.
//!
//! Thin: the requests of ioctl_tty(2) that no library wraps safely, and the modes of termios(3). Must not know whose
//! terminal it is.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};

/// The size of a terminal's window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}

/// Lets the other end of a pseudo-terminal be opened (`TIOCSPTLCK`), given its master.
///
/// # Errors
/// `ENOTTY` for what is no master.
pub fn unlock(master: BorrowedFd<'_>) -> nix::Result<()> {
    let locked: libc::c_int = 0;
    // SAFETY: the request reads one int, which lives on this stack.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) };
    Errno::result(done).map(drop)
}

/// Opens the other end of a pseudo-terminal (`TIOCGPTPEER`, Linux 4.13), close-on-exec and without making it anybody's
/// controlling terminal. No path is looked up.
///
/// # Errors
/// `EIO` while it is locked, `ENOTTY` for what is no master.
pub fn open_peer(master: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the request takes an integer.
    let fd = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel has just returned this descriptor as new and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The number of a pseudo-terminal in its devpts (`TIOCGPTN`), given its master: 7 for `/dev/pts/7`.
///
/// # Errors
/// `ENOTTY` for what is no master.
pub fn number(master: BorrowedFd<'_>) -> nix::Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: the request writes one unsigned int, which lives on this stack.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) };
    Errno::result(done).map(|_| number)
}

/// The size of a terminal's window (`TIOCGWINSZ`).
///
/// # Errors
/// `ENOTTY` for what is no terminal.
pub fn size(tty: BorrowedFd<'_>) -> nix::Result<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request writes one winsize, which lives on this stack.
    let done = unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    Errno::result(done).map(|_| Size { rows: size.ws_row, columns: size.ws_col })
}

/// Sets the size of a terminal's window (`TIOCSWINSZ`); its foreground process group gets `SIGWINCH` if it changes.
///
/// # Errors
/// `ENOTTY` for what is no terminal.
pub fn set_size(tty: BorrowedFd<'_>, size: Size) -> nix::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads one winsize, which lives on this stack.
    let done = unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(done).map(drop)
}

/// Makes a terminal the controlling one of this process's session (`TIOCSCTTY`), which this process must lead.
///
/// # Errors
/// `EPERM` for a process that leads no session or has a controlling terminal, or a terminal that controls another.
pub fn make_controlling(tty: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: the request takes an integer: 0, not to steal the terminal from another session.
    let done = unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSCTTY, 0) };
    Errno::result(done).map(drop)
}

/// Stops a terminal from writing a carriage return before each newline (`ONLCR`).
///
/// # Errors
/// Those of tcgetattr(3) and tcsetattr(3).
pub fn keep_newlines(tty: BorrowedFd<'_>) -> nix::Result<()> {
    let mut modes = tcgetattr(tty)?;
    modes.output_flags.remove(OutputFlags::ONLCR);
    tcsetattr(tty, SetArg::TCSANOW, &modes)
}

/// A terminal in raw mode until this is dropped: every byte of the keyboard arrives as it is. What is written is
/// processed as before, so that lines go on to begin at the left.
#[derive(Debug)]
pub struct RawMode {
    tty: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Switches the terminal to raw mode.
    ///
    /// # Errors
    /// `ENOTTY` for what is no terminal, else those of tcsetattr(3).
    pub fn enter(tty: OwnedFd) -> nix::Result<Self> {
        let before = tcgetattr(&tty)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        raw.output_flags = before.output_flags;
        tcsetattr(&tty, SetArg::TCSANOW, &raw)?;
        Ok(Self { tty, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // It fails only when the terminal is gone, and then there is nothing to restore.
        let _ = tcsetattr(self.tty.as_fd(), SetArg::TCSANOW, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use nix::sys::termios::LocalFlags;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let options = nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_NOCTTY | nix::fcntl::OFlag::O_CLOEXEC;
        let master = nix::fcntl::open("/dev/ptmx", options, nix::sys::stat::Mode::empty())
            .expect("the tests need a devpts with /dev/ptmx");
        assert_eq!(open_peer(master.as_fd()).expect_err("it is locked"), Errno::EIO);
        unlock(master.as_fd()).expect("unlock");
        let peer = open_peer(master.as_fd()).expect("open the peer");
        (master, peer)
    }

    #[test]
    fn the_peer_is_the_terminal_of_the_masters_number() {
        let (master, peer) = pair();
        let name = nix::unistd::ttyname(&peer).expect("a name");
        assert_eq!(name.to_string_lossy(), format!("/dev/pts/{}", number(master.as_fd()).expect("a number")));
        number(peer.as_fd()).expect_err("it is no master");
    }

    #[test]
    fn both_ends_have_one_size() {
        let (master, peer) = pair();
        let new = Size { rows: 17, columns: 61 };
        set_size(master.as_fd(), new).expect("set");
        assert_eq!(size(peer.as_fd()), Ok(new));
        assert_eq!(size(File::open("/dev/null").expect("null").as_fd()), Err(Errno::ENOTTY));
    }

    #[test]
    fn raw_mode_ends_with_its_guard_and_leaves_output_alone() {
        let (_master, peer) = pair();
        let before = tcgetattr(&peer).expect("modes");
        let raw = RawMode::enter(peer.try_clone().expect("dup")).expect("raw mode");
        let modes = tcgetattr(&peer).expect("modes");
        assert!(!modes.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ISIG | LocalFlags::ECHO));
        assert_eq!(modes.output_flags, before.output_flags);
        drop(raw);
        assert_eq!(tcgetattr(&peer).expect("modes"), before);
    }

    #[test]
    fn newlines_are_kept_on_demand() {
        let (master, peer) = pair();
        let (mut reader, mut writer) = (File::from(master.try_clone().expect("dup")), File::from(peer));
        let mut seen = [0; 3];
        writer.write_all(b"a\n").expect("write");
        reader.read_exact(&mut seen).expect("read");
        assert_eq!(&seen, b"a\r\n");
        keep_newlines(master.as_fd()).expect("set");
        writer.write_all(b"a\nb").expect("write");
        reader.read_exact(&mut seen).expect("read");
        assert_eq!(&seen, b"a\nb");
    }
}
