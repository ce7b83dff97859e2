// SPDX-License-Identifier: Apache-2.0
//! What a test and the first process of its host say to each other: one JSON document per line over a unix stream
//! socket, one connection per command.
//!
//! ```text
//!   test ── 3 descriptors, Start ────▶ host-init      (then any number of Signal)
//!   test ◀── Started | Refused ────── host-init
//!   test ◀── Ended ────────────────── host-init      (when the command is over; the connection is closed)
//! ```

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// From the test to the host.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Start a command with the three standard descriptors that came before.
    Start {
        /// The program and its arguments.
        argv: Vec<String>,
        /// The whole environment, or nothing to inherit the host's.
        env: Option<Vec<(String, String)>>,
        /// The working directory.
        cwd: String,
    },
    /// Send the command a signal; harmless when it has ended.
    Signal {
        /// The signal's number.
        number: i32,
    },
}

/// From the host to the test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The command runs.
    Started {
        /// Its process id, in the host's pid namespace.
        pid: i32,
    },
    /// The command could not be started.
    Refused {
        /// The reason, for people.
        why: String,
    },
    /// The command is over.
    Ended {
        /// Its exit code, or 128 + the signal that killed it.
        code: i32,
    },
}

/// The most that one message may hold, in bytes.
const LONGEST: u64 = 64 << 10;

/// Sends the descriptors that a command is to have; the request follows.
///
/// # Errors
/// The other side is gone.
pub fn send_stdio(stream: &UnixStream, stdio: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    let raw = stdio.map(|fd| fd.as_raw_fd());
    let parts = [io::IoSlice::new(&[0])];
    let control = [ControlMessage::ScmRights(&raw)];
    sendmsg::<UnixAddr>(stream.as_raw_fd(), &parts, &control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Sends one message.
///
/// # Errors
/// The other side is gone.
pub fn send<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let mut text = serde_json::to_vec(message)?;
    text.push(b'\n');
    stream.write_all(&text)
}

/// Receives one message; `None` when the other side has closed the connection.
///
/// # Errors
/// The connection fails or times out, or what arrives is no message.
pub fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<Option<T>> {
    let mut text = Vec::new();
    #[expect(clippy::unbuffered_bytes, reason = "nothing of the next message may be taken")]
    for byte in stream.take(LONGEST).bytes() {
        match byte? {
            b'\n' => return Ok(Some(serde_json::from_slice(&text)?)),
            other => text.push(other),
        }
    }
    if text.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
