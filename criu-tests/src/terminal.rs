// SPDX-License-Identifier: Apache-2.0
//! Terminals of which the test is the person in front: it types and reads.
//!
//! The only file of the harness with unsafe code: a descriptor from a message and a window's size.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};

use crate::host::Host;
use crate::wait::{PATIENCE, wait_until};

/// The master of a terminal.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    /// What was shown and not asked for yet.
    shown: String,
}

impl Terminal {
    /// A new one, and its other end for a command.
    ///
    /// # Panics
    /// When the machine has no terminals.
    pub fn open() -> (Self, OwnedFd) {
        let pair = nix::pty::openpty(None, None).expect("openpty");
        (Self { master: pair.master.into(), shown: String::new() }, pair.slave)
    }

    /// The one whose master arrives on a console socket.
    ///
    /// # Panics
    /// When nothing arrives in time, or no master.
    #[track_caller]
    pub fn receive(listener: &UnixListener) -> Self {
        let (_, master) = receive_descriptor(listener);
        Self { master: master.into(), shown: String::new() }
    }

    /// Types a text.
    ///
    /// # Panics
    /// When the terminal is gone.
    #[track_caller]
    pub fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("type");
    }

    /// Waits until the terminal shows a text; gives everything up to it.
    ///
    /// # Panics
    /// When it is not shown in time.
    #[track_caller]
    pub fn shows(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown.find(text) {
                let rest = self.shown.split_off(at + text.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            assert!(self.read_more(deadline), "{text:?} is not shown before the end, but {:?}", self.shown);
        }
    }

    /// Gives a shell a command; tells what it prints.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn asks(&mut self, command: &str) -> String {
        // The quotes keep the echo of what is typed from being taken for the answer.
        self.types(&format!("echo be''gin; {command}; echo en''d\n"));
        self.shows("begin");
        self.shows("end").trim_end_matches("end").trim().to_owned()
    }

    /// Has a shell run a program in the foreground and types Ctrl-C, which ends that program and not the shell.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn interrupts_a_program(&mut self, host: &Host) {
        self.types("sleep 1000\n");
        wait_until(PATIENCE, "the program runs", || {
            let processes = host.processes();
            if processes.iter().any(|(_, line)| line == "sleep 1000") { Ok(()) } else { Err(processes) }
        });
        self.types("\x03");
        self.types("echo code=$?.\n");
        self.shows("code=130.");
    }

    /// Waits until nobody has the other end open any more; gives what was shown until then.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[track_caller]
    pub fn ends(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        while self.read_more(deadline) {}
        std::mem::take(&mut self.shown)
    }

    /// Changes the size of the window.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the request reads one winsize, which lives on this stack.
        let done = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0, "set the window's size");
    }

    /// Whether there was more to read; not when the other end is closed.
    #[track_caller]
    fn read_more(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).expect("a short time");
        let ready = poll(&mut [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)], timeout).expect("poll");
        assert!(ready > 0, "the terminal is silent; it has shown {:?}", self.shown);
        let mut chunk = [0; 4096];
        // With the other end closed, the read fails with EIO.
        let length = self.master.read(&mut chunk).unwrap_or(0);
        self.shown.push_str(&String::from_utf8_lossy(&chunk[..length]));
        length > 0
    }
}

/// What the next one who connects sends: a word and one descriptor.
///
/// # Panics
/// When nothing arrives in time, or something else.
#[track_caller]
pub fn receive_descriptor(listener: &UnixListener) -> (String, OwnedFd) {
    let (stream, _) = listener.accept().expect("somebody connects to the socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    let (word, mut fds) = receive(&stream);
    assert_eq!(fds.len(), 1, "the socket gets one descriptor");
    (word, fds.remove(0))
}

fn receive(stream: &UnixStream) -> (String, Vec<OwnedFd>) {
    let mut name = [0; 256];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(&mut name)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let got = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags).expect("recvmsg");
    let mut fds = Vec::new();
    for control in got.cmsgs().expect("control messages") {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for this process; nothing else knows them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = got.bytes;
    (String::from_utf8_lossy(&name[..length]).into_owned(), fds)
}
