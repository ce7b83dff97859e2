// SPDX-License-Identifier: Apache-2.0
//! One connection to one origin: TCP, through a proxy or not, and TLS over it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::HEAD;
use super::proxy::Proxy;
use super::url::{Origin, Scheme};

const BUFFER: usize = 64 << 10;

/// A connection.
pub(in crate::registry) struct Connection {
    stream: BufReader<Stream>,
    pub(super) origin: Origin,
    /// Who must be told where a request goes: a proxy that passes it on.
    pub(super) passed_on_by: Option<Proxy>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Connection {
    /// Connects, and shakes hands. Each read and write may take as long as `patience`.
    pub(super) fn open(
        origin: &Origin,
        proxy: Option<&Proxy>,
        tls: &Arc<ClientConfig>,
        patience: Duration,
    ) -> io::Result<Self> {
        let mut tcp = connect(proxy.map_or(origin, |proxy| &proxy.origin), patience)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(patience))?;
        tcp.set_write_timeout(Some(patience))?;
        let is_tunnel = origin.scheme == Scheme::Https;
        if let Some(proxy) = proxy.filter(|_| is_tunnel) {
            tunnel(&mut tcp, proxy, origin, patience)?;
        }
        let stream = match origin.scheme {
            Scheme::Http => Stream::Plain(tcp),
            Scheme::Https => {
                let name = ServerName::try_from(origin.host.clone()).map_err(io::Error::other)?;
                let session = ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
                let mut stream = StreamOwned::new(session, tcp);
                // Before anything is said: what fails here, fails because of the certificate or of the protocol.
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Stream::Tls(Box::new(stream))
            }
        };
        let passed_on_by = proxy.filter(|_| !is_tunnel).cloned();
        Ok(Self { stream: BufReader::with_capacity(BUFFER, stream), origin: origin.clone(), passed_on_by })
    }

    /// For how long an answer may be waited for from now on.
    pub(super) fn wait_at_most(&self, patience: Duration) -> io::Result<()> {
        match self.stream.get_ref() {
            Stream::Plain(tcp) => tcp.set_read_timeout(Some(patience)),
            Stream::Tls(tls) => tls.sock.set_read_timeout(Some(patience)),
        }
    }
}

/// Tries each address that the name has.
fn connect(origin: &Origin, patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (origin.host.as_str(), origin.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks the proxy for a way through (RFC 9110, section 9.3.6). Of what comes through it nothing is read.
fn tunnel(tcp: &mut TcpStream, proxy: &Proxy, to: &Origin, patience: Duration) -> io::Result<()> {
    tcp.write_all(proxy.connect(to).as_bytes())?;
    let deadline = Instant::now() + patience;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD || Instant::now() > deadline {
            return Err(io::Error::other("the proxy does not come to the end of its answer"));
        }
        match tcp.read(&mut byte) {
            Ok(0) => return Err(io::Error::other("the proxy has closed the connection")),
            Ok(_) => head.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let line = String::from_utf8_lossy(&head);
    let line = line.lines().next().unwrap_or_default();
    match line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)) {
        Some(status) if status.starts_with('2') => Ok(()),
        Some("407") => Err(io::Error::other("the proxy wants to know who this is (407)")),
        Some(status) => Err(io::Error::other(format!("the proxy refuses ({})", status.escape_debug()))),
        None => Err(io::Error::other("the proxy's answer is not one of HTTP")),
    }
}

impl Read for Connection {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.stream.read(to)
    }
}

impl BufRead for Connection {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.stream.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.stream.consume(amount);
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.get_mut() {
            Stream::Plain(tcp) => tcp.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.stream.get_mut() {
            Stream::Plain(tcp) => tcp.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(to),
            Self::Tls(tls) => tls.read(to),
        }
    }
}
