// SPDX-License-Identifier: Apache-2.0
//! An encrypted connection between two hosts that show each other their keys: TLS 1.3, and nothing else.
//!
//! ```text
//! caller                                   agent
//! ClientHello ─▶               ◀─ ServerHello, its key, its proof
//! is it the one of this name?
//! its key, its proof ─▶            is it one that is trusted?
//!                              ◀─ 1, or 2: too many connections
//! what `protocol` says ◀─────▶
//! ```
//! A key is shown as it is (RFC 7250). Both halves are written to and read from by a thread each, so that none waits for the other.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::pki_types::ServerName;
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use super::identity::{Fingerprint, Identity};
use super::peers::{Peer, Peers};
use super::pins::Pins;
use crate::{Context, Error, ErrorKind, Result};

/// What the connection is for.
const PROTOCOL: &[u8] = b"migrate/1";

/// How long the other host may take to connect and to show its key.
const PATIENCE: Duration = Duration::from_secs(10);

/// When nothing was heard for this long, the other host is asked whether it is there, and then so often and as long apart: it is
/// known to be gone sooner than one who connects anew gives up waiting for a migration that is taken.
const SILENCE: u32 = 5;
const QUESTIONS: u32 = 4;
const BETWEEN: u32 = 3;

/// How long bytes may be on the way, or the other host take none, in milliseconds: as long as a slow disk may take to keep what has come.
const STUCK: u32 = 300_000;

/// What is read of the socket at once, in bytes.
const PIECE: usize = 64 << 10;

const ADMITTED: u8 = 1;
const TOO_MANY: u8 = 2;

/// The connection.
#[derive(Debug)]
pub struct Tls {
    socket: TcpStream,
    session: Mutex<Connection>,
    /// What has come and is not decrypted yet.
    incoming: Mutex<Incoming>,
    /// Who writes to the socket, so that what was encrypted first is first there.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct Incoming {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
}

/// Connects to the agent of this name.
///
/// # Errors
/// There is no identity here; the host is not trusted, is not there, shows another key, or does not trust this one.
pub fn connect(host: &str, port: u16, directory: &Path) -> Result<Arc<Tls>> {
    let identity = Identity::load(directory)?;
    let peers = Peers::load(directory)?;
    let attempt = || format!("connect to {host}, port {port}");
    let socket = reach(host, port).context(attempt)?;
    let pins = Arc::new(Pins::new(peers.named(host).into_iter().cloned().collect()));
    let mut config = ClientConfig::builder_with_provider(pins.provider())
        .with_protocol_versions(&[&TLS13])
        .context(|| "prepare TLS")?
        .dangerous()
        .with_custom_certificate_verifier(pins.clone())
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(identity.key())));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.enable_sni = false;
    // No name is shown, and none is looked for in what the other host shows.
    let name = ServerName::try_from("migrate").context(|| "prepare TLS")?;
    let session = ClientConnection::new(Arc::new(config), name).context(|| "prepare TLS")?;
    let known = |error: io::Error| known(error, &pins, host, &identity);
    let deadline = Instant::now() + PATIENCE;
    let tls = shake_hands(socket, session.into(), deadline).map_err(known)?;
    let mut word = [0];
    let heard = (&*tls).read_exact(&mut word).map_err(known);
    tls.patient(None).context(attempt)?;
    match (heard, word) {
        (Err(error), _) => Err(error),
        (Ok(()), [ADMITTED]) => Ok(tls),
        (Ok(()), _) => {
            let message = format!("{host} serves as many connections of this host as it may");
            Err(Error::new(ErrorKind::System, message).with_hint(
                "wait for one to end, or raise `migrations` in the policy or --connections of the agent there",
            ))
        }
    }
}

/// What a caller is told of why it is not let in.
fn known(error: io::Error, pins: &Pins, host: &str, identity: &Identity) -> Error {
    let refused =
        |message: String, hint: String| Error::new(ErrorKind::PermissionDenied, message).with_hint(hint);
    let own = identity.fingerprint();
    match (alert(&error), pins.stranger()) {
        (_, Some(key)) => match pins.known.first() {
            None => refused(
                format!("{host} is not trusted here; it shows the key {key}"),
                format!(
                    "compare it with what `migrate agent fingerprint` prints there, and then run: migrate agent trust {host} {key}"
                ),
            ),
            Some(peer) => refused(
                format!(
                    "{host} shows another key than the one that is trusted: {key} instead of {}",
                    peer.fingerprint
                ),
                format!(
                    "if its key was made anew, run: migrate agent forget {host}; if not, somebody else answers there"
                ),
            ),
        },
        (Some(AlertDescription::AccessDenied), None) => refused(
            format!("this host is not trusted by {host}"),
            format!(
                "not trusted there; on that host run: migrate agent trust NAME {own}, with this host's name"
            ),
        ),
        _ => Error::new(ErrorKind::System, format!("make an encrypted connection to {host}"))
            .with_source(error)
            .with_hint("is a `migrate agent` at the other end?"),
    }
}

/// Lets one in that has connected, if it is trusted: by its name. It has to be told whether it is [admitted](Tls::admit).
///
/// # Errors
/// There is no identity here; it is not trusted, or does not speak this.
pub fn accept(socket: TcpStream, directory: &Path) -> Result<(Arc<Tls>, Peer)> {
    let from = socket.peer_addr().context(|| "look who has connected")?;
    let identity = Identity::load(directory)?;
    let peers = Peers::load(directory)?;
    prepare(&socket).context(|| "prepare a connection")?;
    let pins = Arc::new(Pins::new(peers.list().to_vec()));
    let mut config = ServerConfig::builder_with_provider(pins.provider())
        .with_protocol_versions(&[&TLS13])
        .context(|| "prepare TLS")?
        .with_client_cert_verifier(pins.clone())
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(identity.key())));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Nobody comes back with one.
    config.send_tls13_tickets = 0;
    let session = ServerConnection::new(Arc::new(config)).context(|| "prepare TLS")?;
    let tls = shake_hands(socket, session.into(), Instant::now() + PATIENCE).map_err(|error| {
        match pins.stranger() {
            Some(key) => {
                let message = format!("{from} is not trusted here; it shows the key {key}");
                Error::new(ErrorKind::PermissionDenied, message).with_hint(format!(
                    "if it may send containers to this host: migrate agent trust NAME {key}"
                ))
            }
            None => Error::new(ErrorKind::System, format!("make an encrypted connection with {from}"))
                .with_source(error),
        }
    })?;
    tls.patient(None).context(|| "prepare a connection")?;
    let key = tls.locked().peer_certificates().and_then(<[_]>::first).map(|key| Fingerprint::of(key));
    let peer = key.and_then(|key| peers.with_key(key)).cloned();
    let peer =
        peer.ok_or_else(|| Error::new(ErrorKind::PermissionDenied, format!("{from} has shown no key")))?;
    Ok((tls, peer))
}

/// A socket to this host, at the first of its addresses that answers.
fn reach(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(socket) => {
                prepare(&socket)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &SILENCE)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &BETWEEN)?;
    setsockopt(socket, sockopt::TcpKeepCount, &QUESTIONS)?;
    setsockopt(socket, sockopt::TcpUserTimeout, &STUCK)?;
    Ok(())
}

/// Goes through the handshake, however slowly the bytes come, until the deadline and no longer.
fn shake_hands(mut socket: TcpStream, mut session: Connection, deadline: Instant) -> io::Result<Arc<Tls>> {
    while session.is_handshaking() || session.wants_write() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        socket.set_read_timeout(Some(left))?;
        socket.set_write_timeout(Some(left))?;
        if session.wants_write() {
            session.write_tls(&mut socket).map_err(in_time)?;
            continue;
        }
        if session.read_tls(&mut socket).map_err(in_time)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Err(error) = session.process_new_packets() {
            // Why, for the other side.
            let _ = session.write_tls(&mut socket);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
    }
    if session.alpn_protocol() != Some(PROTOCOL) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it speaks something else than migrate's protocol",
        ));
    }
    let tls =
        Tls { socket, session: Mutex::new(session), incoming: Mutex::default(), turn: Mutex::default() };
    tls.patient(Some(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))))?;
    Ok(Arc::new(tls))
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("it has not shown who it is within {PATIENCE:?}"))
}

fn in_time(error: io::Error) -> io::Error {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) { late() } else { error }
}

/// The alert by which the other side has told why.
fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

impl Tls {
    fn locked(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn patient(&self, patience: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(patience)?;
        self.socket.set_write_timeout(patience)
    }

    /// Tells the caller whether it is served.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn admit(&self, is_admitted: bool) -> Result<()> {
        let word = if is_admitted { ADMITTED } else { TOO_MANY };
        let mut to = self;
        to.write_all(&[word]).context(|| "tell the other host whether it is served")
    }

    /// Says that nothing more is said.
    pub fn end(&self) {
        self.locked().send_close_notify();
        // Who has gone away hears nothing.
        let _ = self.flush_session();
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Breaks the connection.
    pub fn cut(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn flush_session(&self) -> io::Result<()> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut encrypted = Vec::new();
        let mut session = self.locked();
        while session.wants_write() {
            session.write_tls(&mut encrypted)?;
        }
        drop(session);
        (&self.socket).write_all(&encrypted)?;
        drop(turn);
        Ok(())
    }

    /// The end that is read from.
    pub fn reader(self: &Arc<Self>) -> impl Read + Send + use<> {
        Half(Arc::clone(self))
    }

    /// The end that is written to.
    pub fn writer(self: &Arc<Self>) -> impl Write + Send + use<> {
        Half(Arc::clone(self))
    }
}

/// One thread's share of a connection.
struct Half(Arc<Tls>);

impl Read for Half {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for &Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.locked().reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if incoming.begin == incoming.end {
                // Nobody waits for the session while this waits for the other host.
                let Incoming { bytes, .. } = &mut *incoming;
                bytes.resize(PIECE, 0);
                let end = (&self.socket).read(bytes)?;
                (incoming.begin, incoming.end) = (0, end);
            }
            let mut session = self.locked();
            let mut encrypted = incoming.bytes.get(incoming.begin..incoming.end).unwrap_or_default();
            let taken = session.read_tls(&mut encrypted)?;
            incoming.begin += taken;
            session.process_new_packets().map_err(invalid)?;
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Write for &Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut encrypted = Vec::new();
        let mut session = self.locked();
        let written = session.writer().write(bytes)?;
        while session.wants_write() {
            session.write_tls(&mut encrypted)?;
        }
        drop(session);
        (&self.socket).write_all(&encrypted)?;
        drop(turn);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.cut();
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use tempfile::TempDir;

    use super::*;

    fn host() -> (TempDir, Fingerprint) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let made = Identity::make(directory.path()).expect("a key").fingerprint();
        (directory, made)
    }

    /// Both ends of a connection between hosts that trust each other.
    fn connected() -> [Arc<Tls>; 2] {
        let [(here, own), (there, others)] = [host(), host()];
        Peers::trust(here.path(), "127.0.0.1", others).expect("trust");
        Peers::trust(there.path(), "here", own).expect("trust");
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let accepted = thread::spawn(move || {
            let (socket, _) = listener.accept().expect("somebody comes");
            let (tls, peer) = accept(socket, there.path()).expect("one who is trusted");
            assert_eq!(peer, Peer { name: "here".to_owned(), fingerprint: own });
            tls.admit(true).expect("admitted");
            tls
        });
        let tls = connect("127.0.0.1", port, here.path()).expect("one who is trusted");
        [tls, accepted.join().expect("accepted")]
    }

    #[test]
    fn both_sides_say_a_lot_at_once_and_hear_all_of_it() {
        const BYTES: usize = 8 << 20;
        let ends = connected();
        let writers = ends.clone().map(|tls| {
            thread::spawn(move || {
                let mut to = tls.writer();
                to.write_all(&vec![7; BYTES]).expect("written");
                tls.end();
            })
        });
        for tls in &ends {
            let mut heard = Vec::new();
            tls.reader().read_to_end(&mut heard).expect("all of it, and an end");
            assert!(heard.len() == BYTES && heard.iter().all(|byte| *byte == 7), "{}", heard.len());
        }
        writers.into_iter().for_each(|writer| writer.join().expect("it has written"));
    }

    #[test]
    fn a_connection_that_breaks_has_no_end_in_order() {
        let [here, there] = connected();
        here.cut();
        let error = there.reader().read(&mut [0]).expect_err("no end in order");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nothing_but_tls_1_3_with_a_key_is_spoken() {
        let (there, _) = host();
        for hello in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
            b"\x16\x03\x01\xff\xff",
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
            let mut stranger =
                TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
            stranger.write_all(hello).expect("written");
            stranger.shutdown(Shutdown::Write).expect("shutdown");
            let (socket, _) = listener.accept().expect("it is there");
            accept(socket, there.path()).expect_err("no key was shown");
        }
    }
}
