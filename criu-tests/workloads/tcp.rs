// SPDX-License-Identifier: Apache-2.0
//! `tcp`: connections to a peer outside of the container, one of each kind, and what else an address is good for.
//!
//! ```text
//!   container                                    tcp-peer
//!     echo    ── one number a tick, and back ──▶
//!     queues  ── written until nothing fits; neither end reads before SIGUSR1 ──▶
//!             ◀──
//!     half    ── closed for writing at once; one number a tick comes ◀──
//!     udp     ── one number a tick, and back; a lost one is sent again ──▶
//!     listens: whoever connects is told "hi"
//! ```
//! While the file `quiet` is in its directory, nothing is sent and nothing read.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::lifecycle::{Checked, During as _, PATIENCE, Workload, expect_eq};
use crate::options::Options;
use crate::report::Fields;

/// What the peer sends into the queue.
const FROM_PEER: usize = 48 << 10;

/// The size that is asked for the queues, so that they are full soon.
const BUFFER: usize = 32 << 10;

/// How long an answer to a datagram may take before it counts as lost.
const LOST: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Tcp {
    echo: TcpStream,
    queues: TcpStream,
    half: TcpStream,
    udp: UdpSocket,
    listener: TcpListener,
    quiet: PathBuf,
    is_quiet: bool,
    queued: usize,
    half_seen: u64,
    drained: bool,
    welcomed: u64,
}

fn pattern(offset: usize) -> u8 {
    (offset % 251) as u8
}

fn connect(peer: SocketAddr, kind: u8) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(peer).during("connect")?;
    stream.set_read_timeout(Some(PATIENCE)).during("SO_RCVTIMEO")?;
    stream.set_nodelay(true).during("TCP_NODELAY")?;
    stream.write_all(&[kind]).during("write")?;
    Ok(stream)
}

impl Tcp {
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let address = |name: &str| -> Result<SocketAddr, String> {
            options.value(name).ok_or(format!("--{name} ADDRESS is missing"))?.parse().during(name)
        };
        let (peer, own) = (address("connect")?, address("listen")?);
        let echo = connect(peer, b'e')?;
        let queues = connect(peer, b'q')?;
        setsockopt(&queues, sockopt::SndBuf, &BUFFER).during("SO_SNDBUF")?;
        queues.set_nonblocking(true).during("O_NONBLOCK")?;
        let half = connect(peer, b'h')?;
        half.shutdown(Shutdown::Write).during("shutdown")?;
        let udp = UdpSocket::bind(own).during("bind")?;
        udp.connect(peer).during("connect")?;
        udp.set_read_timeout(Some(LOST)).during("SO_RCVTIMEO")?;
        let listener = TcpListener::bind(own).during("listen")?;
        listener.set_nonblocking(true).during("O_NONBLOCK")?;
        let quiet = options.dir()?.join("quiet");
        let mut new = Self {
            echo,
            queues,
            half,
            udp,
            listener,
            quiet,
            is_quiet: false,
            queued: 0,
            half_seen: 0,
            drained: false,
            welcomed: 0,
        };
        new.fill_queue()?;
        Ok(new)
    }

    fn fill_queue(&mut self) -> Checked {
        loop {
            let bytes: Vec<u8> = (self.queued..self.queued + 4096).map(pattern).collect();
            match self.queues.write(&bytes) {
                Ok(written) => self.queued += written,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(format!("write into the queue: {e}")),
            }
        }
    }

    fn welcome(&mut self) -> Checked {
        match self.listener.accept() {
            Ok((mut stream, _)) => {
                self.welcomed += 1;
                stream.write_all(b"hi\n").during("greet")
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(format!("accept: {e}")),
        }
    }

    fn exchange_datagram(&self, tick: u64) -> Checked {
        for _ in 0..100 {
            self.udp.send(&tick.to_ne_bytes()).during("send a datagram")?;
            let mut bytes = [0; 8];
            match self.udp.recv(&mut bytes) {
                Ok(8) if u64::from_ne_bytes(bytes) == tick => return Ok(()),
                // An answer to one that was taken for lost.
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(format!("receive a datagram: {e}")),
            }
        }
        Err("no datagram comes back".to_owned())
    }
}

impl Workload for Tcp {
    fn tick(&mut self, tick: u64) -> Checked {
        self.is_quiet = self.quiet.exists();
        if self.is_quiet {
            return Ok(());
        }
        self.echo.write_all(&tick.to_ne_bytes()).during("write to the peer")?;
        let mut bytes = [0; 8];
        self.echo.read_exact(&mut bytes).during("read from the peer")?;
        expect_eq("echo", u64::from_ne_bytes(bytes), tick)?;
        self.half.read_exact(&mut bytes).during("read from the half-closed connection")?;
        self.half_seen += 1;
        expect_eq("number on the half-closed connection", u64::from_ne_bytes(bytes), self.half_seen)?;
        self.exchange_datagram(tick)?;
        self.welcome()
    }

    fn fields(&self, fields: &mut Fields) {
        fields.put("quiet", if self.is_quiet { "yes" } else { "no" });
        fields.put("queued", self.queued);
        fields.put("drained", if self.drained { "yes" } else { "no" });
        fields.put("welcomed", self.welcomed);
    }

    /// Reads what has waited, lets the peer read, and asks whether it was all there.
    fn poke(&mut self) -> Checked {
        self.queues.set_nonblocking(false).during("O_NONBLOCK")?;
        let mut bytes = vec![0; FROM_PEER];
        self.queues.read_exact(&mut bytes).during("read from the queue")?;
        let wrong = bytes.iter().enumerate().find(|(i, byte)| **byte != pattern(*i));
        expect_eq("wrong byte in the queue", wrong, None)?;
        self.queues.shutdown(Shutdown::Write).during("shutdown")?;
        // The peer reads once it is told so by the echo connection.
        self.echo.write_all(&u64::MAX.to_ne_bytes()).during("write to the peer")?;
        let mut verdict = [0; 8];
        self.queues.read_exact(&mut verdict).during("read the peer's verdict")?;
        expect_eq("bytes that the peer found in the queue", u64::from_ne_bytes(verdict), self.queued as u64)?;
        self.drained = true;
        Ok(())
    }
}

/// The other end of all of it.
pub(crate) fn peer(options: &Options) -> Checked {
    let own: SocketAddr =
        options.value("listen").ok_or("--listen ADDRESS is missing")?.parse().during("listen")?;
    let udp = UdpSocket::bind(own).during("bind")?;
    std::thread::spawn(move || {
        let mut bytes = [0; 8];
        while let Ok((size, from)) = udp.recv_from(&mut bytes) {
            // The container may be standing still.
            let _ = udp.send_to(&bytes[..size], from);
        }
    });
    let listener = TcpListener::bind(own).during("listen")?;
    let (drain, drained) = std::sync::mpsc::channel();
    let mut drained = Some(drained);
    for stream in listener.incoming() {
        let mut stream = stream.during("accept")?;
        let mut kind = [0];
        stream.read_exact(&mut kind).during("read the kind")?;
        match kind[0] {
            b'e' => {
                let drain = drain.clone();
                std::thread::spawn(move || echo(stream, &drain));
            }
            b'q' => {
                let drained = drained.take().ok_or("a second queue")?;
                std::thread::spawn(move || queues(stream, &drained));
            }
            _ => {
                std::thread::spawn(move || numbers(stream));
            }
        }
    }
    Ok(())
}

fn echo(mut stream: TcpStream, drain: &std::sync::mpsc::Sender<()>) -> Checked {
    let mut bytes = [0; 8];
    loop {
        stream.read_exact(&mut bytes).during("read")?;
        if u64::from_ne_bytes(bytes) == u64::MAX {
            drain.send(()).during("tell")?;
        } else {
            stream.write_all(&bytes).during("write")?;
        }
    }
}

fn queues(mut stream: TcpStream, drained: &std::sync::mpsc::Receiver<()>) -> Checked {
    setsockopt(&stream, sockopt::RcvBuf, &BUFFER).during("SO_RCVBUF")?;
    let bytes: Vec<u8> = (0..FROM_PEER).map(pattern).collect();
    stream.write_all(&bytes).during("write")?;
    drained.recv().during("wait")?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).during("read")?;
    let right = all.iter().enumerate().take_while(|(i, byte)| **byte == pattern(*i)).count();
    stream.write_all(&(right as u64).to_ne_bytes()).during("write")
}

fn numbers(mut stream: TcpStream) -> Checked {
    let mut number = 0_u64;
    loop {
        number += 1;
        stream.write_all(&number.to_ne_bytes()).during("write")?;
    }
}
