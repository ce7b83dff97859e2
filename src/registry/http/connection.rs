// SPDX-License-Identifier: Apache-2.0
//! One connection to one origin: TCP, and TLS over it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::url::{Origin, Scheme};

const BUFFER: usize = 64 << 10;

/// A connection.
pub(in crate::registry) struct Connection {
    stream: BufReader<Stream>,
    pub(super) origin: Origin,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Connection {
    /// Connects, and shakes hands. Each read and write may take as long as `patience`.
    pub(super) fn open(origin: &Origin, tls: &Arc<ClientConfig>, patience: Duration) -> io::Result<Self> {
        let tcp = connect(origin, patience)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(patience))?;
        tcp.set_write_timeout(Some(patience))?;
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
        Ok(Self { stream: BufReader::with_capacity(BUFFER, stream), origin: origin.clone() })
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
