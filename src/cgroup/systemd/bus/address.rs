// SPDX-License-Identifier: Apache-2.0
//! Where a bus listens: server addresses (D-Bus specification, "Server Addresses"), as far as they are sockets of this
//! machine. Pure, but for what the environment says.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::{fmt, io};

/// A socket of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Address {
    Path(PathBuf),
    Abstract(Vec<u8>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
        }
    }
}

impl Address {
    pub(super) fn connect(&self) -> io::Result<UnixStream> {
        match self {
            Self::Path(path) => UnixStream::connect(path),
            Self::Abstract(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?),
        }
    }
}

/// The sockets in a list of addresses, in its order; others (`tcp:`, `autolaunch:`) are left out.
pub(in super::super) fn parse(list: &str) -> Vec<Address> {
    list.split(';').filter_map(|address| socket(address.strip_prefix("unix:")?)).collect()
}

fn socket(pairs: &str) -> Option<Address> {
    let value = |key| {
        let found = pairs.split(',').filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == key);
        found.and_then(|(_, value)| unescape(value))
    };
    let path = |bytes| Address::Path(PathBuf::from(OsString::from_vec(bytes)));
    value("path").map(path).or_else(|| value("abstract").map(Address::Abstract))
}

/// `%20` is a space.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |d: &u8| char::from(*d).to_digit(16).and_then(|d| u8::try_from(d).ok());
                (digit(high)? << 4 | digit(low)?, tail)
            }
            (b'%', _) => return None,
            (byte, tail) => (*byte, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    Some(bytes).filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let path = |path: &str| Address::Path(PathBuf::from(path));
        for (list, sockets) in [
            ("unix:path=/run/user/1000/bus", vec![path("/run/user/1000/bus")]),
            ("unix:path=/a%20b%2fc,guid=00ff", vec![path("/a b/c")]),
            ("tcp:host=x;unix:guid=1,path=/a;unix:path=/b", vec![path("/a"), path("/b")]),
            ("unix:abstract=/tmp/dbus-x,guid=1", vec![Address::Abstract(b"/tmp/dbus-x".to_vec())]),
            ("unix:path=", vec![]),
            ("unix:path=%", vec![]),
            ("unix:path=%zz", vec![]),
            ("unix:runtime=yes", vec![]),
            ("autolaunch:", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(parse(list), sockets, "{list}");
        }
    }
}
