// SPDX-License-Identifier: Apache-2.0
//! The conversation of the runtime with init: packets on a sequenced-packet socket.
//!
//! | direction | packet | meaning |
//! | --- | --- | --- |
//! | from init | JSON [`Report::NetworkWanted`] | in its namespaces, waiting for interfaces; only where the runtime brings some |
//! | from init | JSON [`Report::RootfsReady`] | the runtime's hooks may run now; only with such hooks |
//! | from init | JSON [`Report::Ready`] | everything is set up |
//! | from init | JSON [`Report::Listener`] | the number of init's descriptor for `SCMP_ACT_NOTIFY`; only with such |
//! | to init | one byte | the answer to any of these: go on |
//! | from init | 8 bytes, the first 0 | the cloned child failed before it was init ([`SpawnFailure`]) |
//! | from init | JSON [`Report::Waiting`] | at the fifo; the last word of a container's first process |
//! | from init | JSON [`Report::Failed`] | why nothing comes of it |
//! | from init | end of file | the program was executed (only without a fifo), or init is dead: the pidfd tells |

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::sys::spawn::SpawnFailure;
use crate::{Context, Error, ErrorKind, Result};

/// The longest report that is read, in bytes.
const LONGEST: usize = 64 * 1024;

/// What init says.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    NetworkWanted,
    RootfsReady,
    Ready,
    Listener(i32),
    Waiting,
    Failed(Failure),
}

/// An error of init's on its way to whoever waits.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::engine) struct Failure {
    kind: ErrorKind,
    chain: String,
    hint: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let mut chain = error.chain();
        chain.truncate(chain.floor_char_boundary(LONGEST / 8));
        Self { kind: error.kind(), chain, hint: error.hint().map(str::to_owned) }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let error = Self::new(failure.kind, failure.chain);
        match failure.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// What the runtime learns from init.
#[derive(Debug)]
pub(super) enum Answer {
    NetworkWanted,
    RootfsReady,
    Ready,
    /// init waits until the descriptor of this number is with who listens.
    Listener(i32),
    Waiting,
    /// The socket was closed: by execve, or by death.
    Closed,
}

/// A connected pair: the runtime's end and init's.
pub(super) fn pair() -> Result<(RuntimeSide, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .context(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)")?;
    // Number 3 or more, as everything that is handed through a clone.
    let theirs = crate::sys::fd::above_stdio(theirs.as_fd()).context(|| "dup")?;
    Ok((RuntimeSide(ours), theirs))
}

/// The runtime's end.
#[derive(Debug)]
pub(super) struct RuntimeSide(OwnedFd);

impl RuntimeSide {
    /// Lets init go on to its next step.
    pub(super) fn go_on(&self) -> io::Result<()> {
        send(self.0.as_raw_fd(), b"g", MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// Waits for init's word.
    ///
    /// # Errors
    /// What init reports as the reason of its failure.
    pub(super) fn answer(&self) -> Result<Answer> {
        let mut packet = vec![0; LONGEST];
        let length = receive(self.0.as_fd(), &mut packet).context(|| "wait for the container's init")?;
        let packet = &packet[..length];
        if packet.is_empty() {
            return Ok(Answer::Closed);
        }
        if let Some(failure) = SpawnFailure::decode(packet) {
            return failure.into_result().context(|| "start the container's init");
        }
        match serde_json::from_slice(packet).context(|| "understand the container's init")? {
            Report::NetworkWanted => Ok(Answer::NetworkWanted),
            Report::RootfsReady => Ok(Answer::RootfsReady),
            Report::Ready => Ok(Answer::Ready),
            Report::Listener(number) => Ok(Answer::Listener(number)),
            Report::Waiting => Ok(Answer::Waiting),
            Report::Failed(failure) => Err(failure.into()),
        }
    }
}

/// Init's end.
#[derive(Debug)]
pub(super) struct InitSide(OwnedFd);

impl InitSide {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Says that its namespaces are there, and waits until the runtime has put interfaces into one.
    pub(super) fn network_wanted(&self) -> Result<()> {
        self.report(&Report::NetworkWanted)?;
        self.wait_for_leave()
    }

    /// Says that the root file system is there and not entered, and waits until the runtime has run its hooks.
    pub(super) fn rootfs_ready(&self) -> Result<()> {
        self.report(&Report::RootfsReady)?;
        self.wait_for_leave()
    }

    /// Says that everything is set up, and waits for leave to run.
    pub(super) fn ready(&self) -> Result<()> {
        self.report(&Report::Ready)?;
        self.wait_for_leave()
    }

    /// Says where the questions about this process's system calls come, and waits until somebody answers them.
    pub(super) fn listener(&self, questions: BorrowedFd<'_>) -> Result<()> {
        self.report(&Report::Listener(questions.as_raw_fd()))?;
        self.wait_for_leave()
    }

    fn wait_for_leave(&self) -> Result<()> {
        let mut byte = [0];
        match self.read(&mut byte).context(|| "wait for the runtime")? {
            1 => Ok(()),
            _ => Err(Error::new(ErrorKind::System, "the runtime went away before the container could start")),
        }
    }

    /// Says why nothing comes of it. Nobody may be listening any more, and there is nobody else to tell.
    pub(super) fn failed(&self, error: &Error) {
        drop(self.report(&Report::Failed(error.into())));
    }

    /// Says that the process waits at the fifo, and ends the conversation.
    pub(super) fn waiting(&self) -> Result<()> {
        self.report(&Report::Waiting)?;
        // It fails only on a socket that is not connected, and then there is nothing to end.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
        Ok(())
    }

    fn report(&self, report: &Report) -> Result<()> {
        let bytes = serde_json::to_vec(report).context(|| "serialise a report of init")?;
        // The process is judged by a profile by now, perhaps, and these two calls are in each: no send and no receive.
        // init has all signals blocked, so nobody dies of SIGPIPE.
        nix::unistd::write(&self.0, &bytes).context(|| "report to the runtime")?;
        Ok(())
    }

    fn read(&self, packet: &mut [u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::read(&self.0, packet) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::ECONNRESET) => return Ok(0),
                other => return Ok(other?),
            }
        }
    }
}

fn receive(socket: BorrowedFd<'_>, packet: &mut [u8]) -> io::Result<usize> {
    loop {
        match recv(socket.as_raw_fd(), packet, MsgFlags::empty()) {
            Err(nix::errno::Errno::EINTR) => {}
            // A peer that died with unread data resets the connection.
            Err(nix::errno::Errno::ECONNRESET) => return Ok(0),
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_travels_with_its_kind() {
        let (runtime, init) = pair().expect("pair");
        let init = InitSide::new(init);
        init.failed(
            &Error::new(ErrorKind::Unsupported, "mount /x")
                .with_source(io::Error::from_raw_os_error(22))
                .with_hint("do not"),
        );
        let error = runtime.answer().expect_err("it failed");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.to_string(), "mount /x: invalid argument");
        assert_eq!(error.hint(), Some("do not"));
    }

    #[test]
    fn a_dead_peer_is_end_of_file() {
        let (runtime, init) = pair().expect("pair");
        drop(init);
        assert!(matches!(runtime.answer(), Ok(Answer::Closed)));
        runtime.go_on().expect_err("nobody is there");
    }

    #[test]
    fn ready_waits_for_leave() {
        let (runtime, init) = pair().expect("pair");
        runtime.go_on().expect("sent ahead");
        InitSide::new(init).ready().expect("leave was given");
        assert!(matches!(runtime.answer(), Ok(Answer::Ready)));
    }
}
