// SPDX-License-Identifier: Apache-2.0
//! The conversation of the runtime with init: packets on a sequenced-packet socket.
//!
//! | direction | packet | meaning |
//! | --- | --- | --- |
//! | to init | one byte | go on: run the program |
//! | from init | 8 bytes, the first 0 | the cloned child failed before it was init ([`SpawnFailure`]) |
//! | from init | JSON [`Report`] | ready, or failed and why |
//! | from init | end of file | the program was executed, or init is dead: the pidfd tells |

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
    Ready,
    Failed { kind: ErrorKind, chain: String, hint: Option<String> },
}

/// What the runtime learns from init.
#[derive(Debug)]
pub(super) enum Answer {
    Ready,
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
            Report::Ready => Ok(Answer::Ready),
            Report::Failed { kind, chain, hint } => {
                let error = Error::new(kind, chain);
                Err(match hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                })
            }
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

    /// Says that everything is set up, and waits for leave to run.
    pub(super) fn ready(&self) -> Result<()> {
        self.report(&Report::Ready)?;
        let mut byte = [0];
        match receive(self.0.as_fd(), &mut byte).context(|| "wait for the runtime")? {
            1 => Ok(()),
            _ => Err(Error::new(ErrorKind::System, "the runtime went away before the container could start")),
        }
    }

    /// Says why nothing comes of it. Nobody may be listening any more, and there is nobody else to tell.
    pub(super) fn failed(&self, error: &Error) {
        let mut chain = error.chain();
        chain.truncate(chain.floor_char_boundary(LONGEST / 8));
        let hint = error.hint().map(str::to_owned);
        drop(self.report(&Report::Failed { kind: error.kind(), chain, hint }));
    }

    /// Ends the conversation: the runtime need not wait any longer.
    pub(super) fn finished(&self) {
        // It fails only on a socket that is not connected, and then there is nothing to end.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }

    fn report(&self, report: &Report) -> Result<()> {
        let bytes = serde_json::to_vec(report).context(|| "serialise a report of init")?;
        send(self.0.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).context(|| "report to the runtime")?;
        Ok(())
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
        assert_eq!(error.to_string(), "mount /x: Invalid argument (os error 22)");
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
