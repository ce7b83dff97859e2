// SPDX-License-Identifier: Apache-2.0
//! `pipes`: two processes and everything they talk through, with numbered traffic.
//!
//! ```text
//!            pipe: always HELD numbers in flight
//!   pid 1  ───────────────────────────────────────▶  peer
//!          ◀── socketpair (stdin of the peer): one order, one answer per tick ──▶
//!          ◀── named stream socket, connected once; the peer keeps listening ──▶
//!          ◀── named datagram sockets: one each way per tick, HELD datagrams always queued ──▶
//! ```
//! The peer checks what it reads and answers with its verdict, so a mismatch on either side ends in the report.

use std::fs;
use std::io::{PipeWriter, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::lifecycle::{Checked, During as _, PATIENCE, Workload, expect_alive, expect_eq};
use crate::options::Options;
use crate::report::Fields;

/// Numbers that stay in the pipe, and datagrams that stay queued, between two ticks.
const HELD: u64 = 8;
/// Numbers written to the pipe per tick.
const BURST: u64 = 4;
/// An order or an answer: the tick, and a verdict (0 is good).
const MESSAGE: usize = 16;

#[derive(Debug)]
pub(crate) struct Pipes {
    peer: Pid,
    pipe: PipeWriter,
    pair: UnixStream,
    stream: UnixStream,
    dgram: UnixDatagram,
    sent: u64,
    answered: u64,
}

impl Pipes {
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let dir = options.dir()?;
        let (pipe_reader, pipe) = std::io::pipe().during("pipe")?;
        let (pair, pair_of_peer) = UnixStream::pair().during("socketpair")?;
        let dgram = bind_dgram(&dir.join("init.sock"))?;
        let peer = Command::new("/proc/self/exe")
            .args(["pipes-peer", "--dir"])
            .arg(&dir)
            .stdin(Stdio::from(OwnedFd::from(pair_of_peer)))
            .stdout(Stdio::from(pipe_reader))
            .spawn()
            .during("start the peer")?;

        // The peer's first word says that its sockets have their names.
        expect_eq("peer's greeting", receive(&pair)?, (0, 0))?;
        let stream = UnixStream::connect(dir.join("stream.sock")).during("connect")?;
        dgram.connect(dir.join("peer.sock")).during("connect")?;
        for socket in [&pair, &stream] {
            socket.set_read_timeout(Some(PATIENCE)).during("SO_RCVTIMEO")?;
        }
        dgram.set_read_timeout(Some(PATIENCE)).during("SO_RCVTIMEO")?;

        let peer = Pid::from_raw(peer.id().cast_signed());
        let mut new = Self { peer, pipe, pair, stream, dgram, sent: 0, answered: 0 };
        for number in 1..=HELD {
            new.dgram.send(&number.to_ne_bytes()).during("send")?;
        }
        new.write_pipe(HELD)?;
        Ok(new)
    }

    fn write_pipe(&mut self, count: u64) -> Checked {
        for _ in 0..count {
            self.sent += 1;
            self.pipe.write_all(&self.sent.to_ne_bytes()).during("write to the pipe")?;
        }
        Ok(())
    }
}

impl Workload for Pipes {
    fn tick(&mut self, tick: u64) -> Checked {
        expect_alive(self.peer)?;
        expect_eq("SO_RCVTIMEO", self.pair.read_timeout().during("SO_RCVTIMEO")?, Some(PATIENCE))?;
        self.write_pipe(BURST)?;
        self.stream.write_all(&tick.to_ne_bytes()).during("write to the stream")?;
        self.dgram.send(&(tick + HELD).to_ne_bytes()).during("send")?;
        send(&self.pair, tick, 0)?;

        let mut bytes = [0; 8];
        self.stream.read_exact(&mut bytes).during("read from the stream")?;
        expect_eq("echo from the stream", u64::from_ne_bytes(bytes), tick)?;
        let size = self.dgram.recv(&mut bytes).during("recv")?;
        expect_eq("echoed datagram", (size, u64::from_ne_bytes(bytes)), (8, tick))?;
        let (answer, verdict) = receive(&self.pair)?;
        expect_eq("peer's verdict", verdict, 0)?;
        expect_eq("tick that the peer answered", answer, tick)?;
        self.answered = answer;
        Ok(())
    }

    fn fields(&self, fields: &mut Fields) {
        fields.put("peer", self.peer);
        fields.put("sent", self.sent);
        fields.put("answered", self.answered);
    }

    fn children(&self) -> Vec<Pid> {
        vec![self.peer]
    }

    fn finish(&mut self) -> Checked {
        // An order numbered 0 ends the peer.
        send(&self.pair, 0, 0)?;
        waitpid(self.peer, None).during("wait for the peer").map(drop)
    }
}

/// The peer: reads orders from stdin, numbers from stdout (a pipe's reading end).
pub(crate) fn peer(options: &Options) -> Checked {
    let dir = options.dir()?;
    let listener = bind(&dir.join("stream.sock"), |path| UnixListener::bind(path))?;
    let dgram = bind_dgram(&dir.join("peer.sock"))?;
    let pair = UnixStream::from(crate::sys::inherited(0).during("stdin")?);
    let mut pipe = fs::File::from(crate::sys::inherited(1).during("stdout")?);
    send(&pair, 0, 0)?;
    let (mut stream, _) = listener.accept().during("accept")?;
    dgram.connect(dir.join("init.sock")).during("connect")?;

    let (mut expected, mut verdict) = (0_u64, 0_u64);
    loop {
        let (tick, _) = receive(&pair)?;
        if tick == 0 {
            return Ok(());
        }
        let mut bytes = [0; 8];
        for _ in 0..BURST {
            pipe.read_exact(&mut bytes).during("read from the pipe")?;
            expected += 1;
            if u64::from_ne_bytes(bytes) != expected {
                verdict = 1;
            }
        }
        stream.read_exact(&mut bytes).during("read from the stream")?;
        if u64::from_ne_bytes(bytes) != tick {
            verdict = 2;
        }
        stream.write_all(&bytes).during("write to the stream")?;
        let size = dgram.recv(&mut bytes).during("recv")?;
        if (size, u64::from_ne_bytes(bytes)) != (8, tick) {
            verdict = 3;
        }
        dgram.send(&bytes).during("send")?;
        if !matches!(listener.local_addr(), Ok(a) if a.as_pathname() == Some(&dir.join("stream.sock"))) {
            verdict = 4;
        }
        send(&pair, tick, verdict)?;
    }
}

fn bind<T>(path: &Path, bind: impl FnOnce(&Path) -> std::io::Result<T>) -> Result<T, String> {
    // A workload started a second time in the same directory meets the first one's sockets.
    let _ = fs::remove_file(path);
    bind(path).during(&path.display().to_string())
}

fn bind_dgram(path: &Path) -> Result<UnixDatagram, String> {
    bind(path, |path| UnixDatagram::bind(path))
}

fn send(mut to: &UnixStream, tick: u64, verdict: u64) -> Checked {
    let mut message = [0; MESSAGE];
    message[..8].copy_from_slice(&tick.to_ne_bytes());
    message[8..].copy_from_slice(&verdict.to_ne_bytes());
    to.write_all(&message).during("write to the socket pair")
}

fn receive(mut from: &UnixStream) -> Result<(u64, u64), String> {
    let (mut tick, mut verdict) = ([0; 8], [0; 8]);
    from.read_exact(&mut tick)
        .and_then(|()| from.read_exact(&mut verdict))
        .during("read from the socket pair")?;
    Ok((u64::from_ne_bytes(tick), u64::from_ne_bytes(verdict)))
}
