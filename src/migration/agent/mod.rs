// SPDX-License-Identifier: Apache-2.0
//! Hosts that know each other by their keys: who may send a container to this one, what it may bring, and the encrypted way there.
//!
//! ```text
//! DIR/key.pem       this host's key, made by `migrate agent init`               0600, PKCS#8
//! DIR/peers         NAME sha256:FINGERPRINT, one a line
//! DIR/policy.json   what a peer may bring
//!
//! migrate to ── TCP · TLS 1.3, a key each, no certificates (RFC 7250) ─▶ agent ─▶ a process a connection: `receive`
//! ```
//! There is no authority, no name and no date in what the hosts show each other: a key is trusted or it is not. Must not know what is
//! said over the connection.

mod desk;
mod identity;
mod peers;
mod pins;
mod policy;
mod tls;

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

pub use desk::{Bounds, Desk, Door, admitted, serve};
pub use identity::{Fingerprint, Identity};
pub use peers::{Peer, Peers};
pub(super) use policy::matches;
pub use policy::{Policy, Rules};
pub use tls::{Tls, accept, connect};

use crate::{Context, Error, ErrorKind, Result};

/// Where an agent's files are when nothing else is said.
pub const DIRECTORY: &str = "/etc/migrate/agent";

/// The port of agents.
pub const PORT: u16 = 7643;

/// The largest file of those that people write, in bytes.
const LARGEST: u64 = 1 << 20;

/// `HOST[:PORT]`, with an address of IPv6 in brackets.
pub fn address(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').filter(|(host, _)| host.contains(':'))?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(PORT), str::parse).ok().filter(|port| *port != 0)?;
    peers::check(host).ok().map(|()| (host.to_owned(), port))
}

/// The policy in an agent's directory.
pub fn policy_of(directory: &Path) -> PathBuf {
    directory.join("policy.json")
}

/// Reads a file of a few lines that nobody but its owner may have written. `None` if there is none.
fn read(path: &Path, forbidden: u32) -> Result<Option<Vec<u8>>> {
    let attempt = || format!("read {}", path.display());
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.context(attempt)?,
    };
    let found = file.metadata().context(attempt)?;
    if !found.is_file() || found.len() > LARGEST {
        let message = format!("{} is no file of at most {LARGEST} bytes", path.display());
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    let ours = [0, nix::unistd::geteuid().as_raw()].contains(&found.uid());
    if !ours || found.mode() & forbidden != 0 {
        let message = format!("{} can be changed or read by others", path.display());
        return Err(Error::new(ErrorKind::PermissionDenied, message)
            .with_hint(format!("make it this user's own, with `chmod go= {}`", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).context(attempt)?;
    Ok(Some(bytes))
}

/// Replaces a file in one step.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let new = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().context(|| format!("write {}", path.display()))
}
